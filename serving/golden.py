"""Ask a running server the golden requests of a model, which `seqrec export` stored beside it, and say what differs."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from seqrec_tf import answers
from seqrec_tf.schema import (
    ALLOW,
    CANDIDATES,
    EXCLUDE,
    EXTRA_FOLDER,
    GOLDEN_FILE,
    HISTORY,
    ITEMS,
    RANK,
    RECOMMEND,
    RECOMMEND_AMONG,
    SCORES,
    K,
)
from serving.client import Client

_SIGNATURES = (RECOMMEND, RECOMMEND_AMONG, RANK)


def differences(
    client: Client, model: str, models: str | pathlib.Path, *, version: int | str | None = None
) -> tuple[int, list[str]]:
    """Compare the answers of a version that a server has now with those of the trained model.

    Args:
        client: A client of the server.
        model: Name of the model.
        models: The folder that holds NAME/VERSION/, such as the one that is served, or a copy.
        version: Which version, or its label; the newest where None.

    Returns:
        How many requests were asked, and a line for each answer that differs.

    Raises:
        FileNotFoundError: The folder has no golden requests of the version.
        ServerError: The server could not be reached, or refused.
        ValueError: The model takes other inputs than its golden requests have.
    """
    version = int(client.metadata(model, version=version)["model_spec"]["version"])
    file = pathlib.Path(models) / model / str(version) / EXTRA_FOLDER / GOLDEN_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"The server has version {version} of model {model}, and {file} is not there. Give --models, the folder "
            "that holds this version as `seqrec export` wrote it."
        )
    golden = [request for request in json.loads(file.read_text(encoding="utf-8")) if request[ITEMS]]
    lines, number = [], 0
    for signature in _SIGNATURES:
        given = {
            name: [request[name] for request in golden] for name in golden[0] if name not in (HISTORY, ITEMS, SCORES)
        }
        if signature is RECOMMEND_AMONG:  # all but the best, of those that are expected
            given |= {EXCLUDE: [request[ITEMS][:1] for request in golden], K: [0] * len(golden)}
            given[ALLOW] = [request[ITEMS] for request in golden]
        elif signature is RANK:
            given[CANDIDATES] = [request[ITEMS] for request in golden]
        histories = [request[HISTORY] for request in golden]
        found = client.ask(signature, model, histories, given, version=version)
        for request, answer in zip(golden, found, strict=True):
            number += 1
            if what := _difference(signature.name, request, answer):
                newest = ", ".join(request[HISTORY][-5:])
                lines.append(f"{signature.name}, history ending {newest}: {what}")
    return number, lines


def _difference(name: str, request: dict[str, Any], answer: dict[str, Any]) -> str:
    """In what an answer of a signature differs; "" in nothing."""
    items, scores = request[ITEMS], request[SCORES]
    if name == RANK.name:
        ours = answer[SCORES][: len(items)]
        return "" if answers.are_close(ours, scores) else f"the scores differ: {ours[:3]}, expected {scores[:3]}"
    if name == RECOMMEND_AMONG.name:
        items, scores = items[1:], scores[1:]
    what = answers.difference(answer[ITEMS], answer[SCORES], items, scores)
    return what and f"{what}: {answer[ITEMS][:3]}, expected {items[:3]}"
