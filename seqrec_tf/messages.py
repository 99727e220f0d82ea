"""What several commands say alike: which kind of folder a path is where another was expected, and what to run next."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
from collections.abc import Iterable
from typing import Any

from seqrec_tf.schema import COMPLETED_FILE, SCHEMA_FILE

DATASET, RUN, MODEL, VERSION, MODELS = (
    "a dataset folder",
    "a run folder",
    "an exported model, MODELS/NAME",
    "a version of an exported model, MODELS/NAME/VERSION",
    "a folder of exported models",
)
_SAVED_MODEL_FILE, _CONFIG_FILE = "saved_model.pb", "config.toml"


def next_command(*words: object) -> str:
    """The line that names the command to run next, `next: seqrec ...`, quoted for the shell."""
    return f"next: seqrec {shlex.join(str(word) for word in words)}\n"


def kind_of(path: str | os.PathLike) -> str:
    """What a local path is: one of the folders that the commands make, by the files that it holds, or what else."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return "a file" if path.exists() else ""
    if (path / SCHEMA_FILE).exists():
        return DATASET
    if (path / _CONFIG_FILE).exists():
        return RUN
    if (path / _SAVED_MODEL_FILE).exists():
        return VERSION
    inside = [folder for folder in path.iterdir() if folder.is_dir()]
    if any(_is_version(folder) for folder in inside):
        return MODEL
    if any(_is_version(version) for folder in inside for version in folder.iterdir()):
        return MODELS
    return "a folder"


def _is_version(folder: pathlib.Path) -> bool:
    return folder.name.isdigit() and (folder / _SAVED_MODEL_FILE).exists()


def not_expected(path: str | os.PathLike, expected: str, *, make: str) -> FileNotFoundError:
    """The error of a path that is no finished folder of the kind that is expected.

    Args:
        path: What was given.
        expected: What should have been, such as `RUN`.
        make: The command that makes one, or another advice.
    """
    kind = "" if "://" in str(path) else kind_of(path)
    if kind in (DATASET, RUN, MODEL, VERSION, MODELS):
        found = f"it is {kind}"
    elif kind == "a file":
        found = "it is a file"
    elif not kind and "://" not in str(path):
        found = "there is no such folder"
    else:
        found = f"it has no {COMPLETED_FILE} file"
    return FileNotFoundError(f"{path} is not {expected}: {found}. {make}")


def check_encoder(handle: str) -> None:
    """Raise a ValueError where a local encoder is no SavedModel."""
    if "://" not in handle and not os.path.isfile(f"{handle}/{_SAVED_MODEL_FILE}"):
        raise ValueError(f"The encoder {handle} is no SavedModel: there is no {handle}/{_SAVED_MODEL_FILE}.")


def parse_json(text: str, file: object) -> Any:
    """The content of a JSON file that the commands wrote.

    Raises:
        ValueError: It is damaged.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}). The file is damaged; "
            "copy the folder again, or make it anew."
        ) from error


def one_of(names: Iterable[str]) -> str:
    """Names for a sentence, or that there are none."""
    return ", ".join(names) or "none"
