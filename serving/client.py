"""Ask a server for recommendations: TF Serving, or `seqrec serve`, which has the same contract.

Give the items that a user has met, oldest first: `--history a,b,c`, or `--item` once for each where ids hold commas.
With `--candidates x,y,z` these are ranked, by the signature `rank`; else the model recommends from all that it knows.
Some models also need `--user`, `--user-feature` or `--history-times`. With `--dataset DATASET` the answer shows
the items' names.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from seqrec_tf import padding
from seqrec_tf.schema import (
    CANDIDATES,
    HISTORY,
    HISTORY_TIMESTAMPS,
    ITEMS,
    NUM_UNKNOWN,
    RANK,
    RECOMMEND,
    SCORES,
    TIMESTAMP,
    USER_ID,
    Signature,
)

_BUSY = (429, 503)
_PAUSES_S = (0.2, 0.4, 0.8)  # between the tries while a server is busy


class ServerError(RuntimeError):
    """The server could not be reached, or refused.

    Args:
        message: One sentence for the user.
        status: HTTP status; None where no answer came.
    """

    def __init__(self, message: str, *, status: int | None = None):
        super().__init__(message)
        self.status = status


# The lowest float32, as JSON has no infinity.
UNKNOWN_SCORE = -3.4028234663852886e38


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """What a model recommends after one history.

    Attributes:
        items: Item ids, best first.
        scores: The score of each.
        num_unknown: Ids of the history that the model ignored because it does not know them.
    """

    items: list[str]
    scores: list[float]
    num_unknown: int


# How to give what a model takes.
_OPTIONS = {
    USER_ID: "users (--user)",
    HISTORY_TIMESTAMPS: "the times of the histories (--history-times)",
    TIMESTAMP: "the time of the recommendation (--time)",
    CANDIDATES: "the items to rank (--candidates)",
}


class Client:
    """A client of TF Serving's REST interface for the models that `seqrec export` writes.

    Args:
        url: Address of the server, such as http://localhost:8501.
        timeout_s: How long to wait for an answer.

    Raises:
        ValueError: `url` is not an http address.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"The address of a server must start with http:// or https://, got {url!r}.")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s

    def status(self, model: str) -> list[dict[str, Any]]:
        """The versions of a model and their states, newest first."""
        return self._call(_path(model))["model_version_status"]

    def metadata(self, model: str, *, version: int | None = None) -> dict[str, Any]:
        """The version being served and its signatures."""
        return self._call(f"{_path(model, version)}/metadata")

    def predict(
        self, model: str, instances: list[Any], *, version: int | None = None, signature: str = RECOMMEND.name
    ) -> list[Any]:
        """The raw predictions for raw instances."""
        body = {"signature_name": signature, "instances": instances}
        return self._call(f"{_path(model, version)}:predict", body)["predictions"]

    def recommend(
        self,
        model: str,
        histories: Sequence[Sequence[str]],
        *,
        users: Sequence[str] | None = None,
        user_features: Mapping[str, Sequence[Any]] | None = None,
        history_times: Sequence[Sequence[int]] | None = None,
        times: Sequence[int] | None = None,
        k: int | None = None,
        version: int | None = None,
        batch_size: int = 64,
    ) -> list[Recommendation]:
        """Recommend items after each of some histories.

        Args:
            model: Name of the model.
            histories: Item ids of each user, oldest first; an empty history is allowed.
            users: Who they are, for a model that knows users.
            user_features: What is known of them, for a model that reads it: name of a feature to one value of each.
            history_times: When each event was, seconds, for a model that knows times.
            times: When the recommendation is shown, seconds, for such a model.
            k: How many items; all that the model returns where None.
            version: Version of the model; the newest where None.
            batch_size: Histories in one request; TF Serving refuses more than its own `max_batch_size`.

        Returns:
            One recommendation for each history.

        Raises:
            ServerError: The server could not be reached, or refused.
            ValueError: `k` is more than the model returns, the model is no recommender, it needs what is not given or
                does not take what is, or there are not as many values as histories.
        """
        if k is not None and k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        given = _given(users, user_features, history_times, times)
        answers = self.ask(RECOMMEND, model, histories, given, version=version, batch_size=batch_size)
        return [_read_prediction(answer, model, k) for answer in answers]

    def rank(
        self,
        model: str,
        histories: Sequence[Sequence[str]],
        candidates: Sequence[Sequence[str]],
        *,
        users: Sequence[str] | None = None,
        user_features: Mapping[str, Sequence[Any]] | None = None,
        history_times: Sequence[Sequence[int]] | None = None,
        times: Sequence[int] | None = None,
        version: int | None = None,
        batch_size: int = 64,
    ) -> list[Recommendation]:
        """Rank candidates after each of some histories, such as those that another model recommends.

        Args:
            model: Name of the model.
            histories: As for `recommend`, like all that is not described here.
            candidates: Item ids to rank, of each history.
            users: See `recommend`.
            user_features: See `recommend`.
            history_times: See `recommend`.
            times: See `recommend`.
            version: See `recommend`.
            batch_size: See `recommend`.

        Returns:
            One recommendation for each history: all of its candidates. The score of one that the model does not know is
            `UNKNOWN_SCORE`.

        Raises:
            ServerError: See `recommend`.
            ValueError: See `recommend`.
        """
        if len(candidates) != len(histories):
            raise ValueError(f"There must be candidates for each of {len(histories)} histories, got {len(candidates)}.")
        given = {CANDIDATES: candidates, **_given(users, user_features, history_times, times)}
        answers = self.ask(RANK, model, histories, given, version=version, batch_size=batch_size)
        ranked = []
        for answer, wanted in zip(answers, candidates, strict=True):
            scored = zip(wanted, answer[SCORES], strict=False)  # without padding
            pairs = sorted(scored, key=lambda pair: -pair[1])
            items, scores = [item for item, _ in pairs], [score for _, score in pairs]
            ranked.append(Recommendation(items, scores, int(answer.get(NUM_UNKNOWN, 0))))
        return ranked

    def ask(
        self,
        signature: Signature,
        model: str,
        histories: Sequence[Sequence[str]],
        given: Mapping[str, Sequence[Any] | None],
        *,
        version: int | None = None,
        batch_size: int = 64,
    ) -> Iterator[dict[str, Any]]:
        """Ask one of `schema.SIGNATURES`, and give the outputs of each history by their names.

        Args:
            signature: What to ask.
            model: Name of the model.
            histories: Item ids of each user, oldest first.
            given: What else the model may take, by the name of the input: one value for each history.
            version: Version of the model; the newest where None.
            batch_size: Histories in one request.

        Raises:
            ServerError: The server could not be reached, or refused.
            ValueError: The model needs what is not given or does not take what is, or has no such signature.
        """
        signatures = self.metadata(model, version=version)["metadata"]["signature_def"]["signature_def"]
        found = signatures.get(signature.name, {"inputs": {}, "outputs": {}})
        _check_signature(signature, model, found["inputs"], found["outputs"])
        requests = _requests(model, found["inputs"], histories, given)
        for start in range(0, len(requests), batch_size):
            part = requests[start : start + batch_size]
            for answer in self.predict(model, part, version=version, signature=signature.name):
                # TF Serving gives the bare row of a signature that has a single output.
                yield answer if isinstance(answer, dict) else {signature.outputs[0]: answer}

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        pauses = iter(_PAUSES_S)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                    content = response.read()
                break
            except urllib.error.HTTPError as error:
                pause = next(pauses, None)
                if error.code not in _BUSY or pause is None:
                    raise self._refusal(error) from error
                time.sleep(pause)
            except (OSError, http.client.HTTPException) as error:
                raise self._no_answer(error) from error
        try:
            return json.loads(content)
        except ValueError as error:
            raise ServerError(f"{self.url} did not answer in JSON; is it a TF Serving REST port?") from error

    def _refusal(self, error: urllib.error.HTTPError) -> ServerError:
        try:
            message = json.loads(error.read())["error"]
        except (ValueError, KeyError, TypeError):
            message = f"{error.reason}, without TF Serving's JSON; is it a TF Serving REST port?"
        return ServerError(f"{self.url} answered {error.code}: {message}", status=error.code)

    def _no_answer(self, error: Exception) -> ServerError:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return ServerError(f"{self.url} did not answer within {self.timeout_s:g} s; allow more with --timeout.")
        return ServerError(
            f"No server answers at {self.url} ({reason}). Start one with `seqrec serve --models MODELS`, or give "
            "another address with --url."
        )


def _check_signature(signature: Signature, model: str, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Raise a ValueError where a model's signature is not the one that `seqrec export` writes."""
    if HISTORY not in inputs or not set(signature.outputs) <= set(outputs):
        wanted = " and ".join(f"`{name}`" for name in sorted(signature.outputs))
        raise ValueError(
            f"The signature `{signature.name}` of model `{model}` must take `{HISTORY}` and give {wanted}, as `seqrec "
            f"export` writes it; it takes {', '.join(sorted(inputs)) or 'nothing'} and gives "
            f"{', '.join(sorted(outputs)) or 'nothing'}."
        )


def _requests(
    model: str,
    inputs: Mapping[str, Any],
    histories: Sequence[Sequence[str]],
    given: Mapping[str, Sequence[Any] | None],
) -> list[dict[str, Any]]:
    """What a signature takes of each history.

    Args:
        model: Name of the model.
        inputs: Name to what the metadata says of each input of the signature.
        histories: Item ids, oldest first.
        given: Name of an input to a value for each history.

    Raises:
        ValueError: The signature needs what is not given, or does not take what is.
    """
    # The moment of the request is that of every request; whatever else is not taken was meant to count.
    for name in sorted(given.keys() - inputs.keys() - {TIMESTAMP}):
        times_of_none = name == HISTORY_TIMESTAMPS and not any(len(row) for row in given[name] or [])
        if given[name] is not None and not times_of_none:
            option = _OPTIONS.get(name, f"--user-feature {name}=VALUE")
            raise ValueError(f"Model `{model}` does not take `{name}`: leave out {option}.")
    size = int(inputs[HISTORY]["tensor_shape"]["dim"][1]["size"])
    length = size if size >= 0 else None  # -1 where any fits
    columns = {HISTORY: padding.rows(histories, padding.NO_ITEM, length=length)}
    of_users = sorted(inputs.keys() - {HISTORY, *_OPTIONS})
    for name in (*(name for name in _OPTIONS if name in inputs), *of_users):
        values = given.get(name)
        if values is None:
            option = _OPTIONS.get(name, f"the feature of the users (--user-feature {name}=VALUE)")
            raise ValueError(f"Model `{model}` takes `{name}`: give {option}.")
        if len(values) != len(histories):
            raise ValueError(f"`{name}` must have a value for each of {len(histories)} histories, got {len(values)}.")
        if name == HISTORY_TIMESTAMPS:
            values = padding.rows(values, padding.NO_TIME, length=length)
        elif len(inputs[name]["tensor_shape"]["dim"]) > 1:
            values = padding.rows(values, padding.NO_ITEM)
        columns[name] = list(values)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _given(users, user_features, history_times, times) -> dict[str, Any]:
    """What a model may take beside histories, by the name of the input."""
    return {**(user_features or {}), USER_ID: users, HISTORY_TIMESTAMPS: history_times, TIMESTAMP: times}


def _path(model: str, version: int | None = None) -> str:
    return f"/v1/models/{quote(model, safe='')}" + ("" if version is None else f"/versions/{version}")


def _read_prediction(prediction: dict[str, Any], model: str, k: int | None) -> Recommendation:
    items, scores = prediction[ITEMS], prediction[SCORES]
    if k is not None and k > len(items):
        raise ValueError(
            f"Model `{model}` returns {len(items)} items, {k} were asked for. Ask for at most {len(items)}, or "
            "export the model with a larger k."
        )
    # A model that has fewer items to offer than its k fills up with "".
    pairs = [(item, score) for item, score in zip(items, scores, strict=True) if item != padding.NO_ITEM][:k]
    return Recommendation(
        items=[item for item, _ in pairs],
        scores=[score for _, score in pairs],
        num_unknown=int(prediction.get(NUM_UNKNOWN, 0)),
    )


def item_names(dataset: str, ids: Collection[str], *, feature: str) -> dict[str, str]:
    """The names of some items, from the item records of a dataset folder.

    Args:
        dataset: The dataset folder.
        ids: The items wanted.
        feature: The string feature that holds the name.

    Returns:
        Item id to name, for the ids that have a record; none where the dataset was prepared without an items file.

    Raises:
        FileNotFoundError: `dataset` is no finished dataset folder.
        ValueError: The dataset has no such feature.
    """
    from seqrec_tf import quiet, records, schema

    quiet.import_tensorflow()
    folder = records.DatasetFolder(dataset)
    if not folder.schema.item_features:
        return {}  # it was prepared without an items file
    known = {item_feature.name: item_feature for item_feature in folder.schema.item_features}
    if feature not in known or known[feature].dtype != "string" or known[feature].shape != ():
        names = [name for name, other in known.items() if other.dtype == "string" and other.shape == ()]
        raise ValueError(
            f"--name-feature must be a string feature of the items of {dataset}, got {feature!r}; there are: "
            f"{', '.join(names) or 'none'}."
        )
    wanted = {item.encode() for item in ids}
    found: dict[str, str] = {}
    wanted_features = [known[schema.ITEM_ID], known[feature]]
    for batch in records.read_files(folder.item_files(), wanted_features, folder.num_records(schema.ITEMS_FOLDER)):
        for item, name in zip(batch[schema.ITEM_ID].numpy(), batch[feature].numpy(), strict=True):
            if item in wanted:
                found[item.decode()] = name.decode("utf-8", "replace")
        if len(found) == len(wanted):
            break
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `seqrec recommend`."""
    parser.add_argument("--url", default="http://localhost:8501", help="address of the server (default %(default)s)")
    parser.add_argument("--model", required=True, help="name of the model on the server")
    parser.add_argument("--version", type=int, help="version of the model (default: the newest)")
    parser.add_argument("--history", default="", metavar="A,B,C", help="item ids, oldest first, separated by commas")
    parser.add_argument("--item", action="append", default=[], metavar="ID", help="one more item id, after --history")
    parser.add_argument("--candidates", default="", metavar="X,Y,Z", help="rank these items, separated by commas")
    parser.add_argument("--user", metavar="ID", help="who it is, for a model that knows users")
    parser.add_argument(
        "--user-feature",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="what is known of the user, for a model that reads it; several categories as A|B",
    )
    parser.add_argument("--history-times", default="", metavar="T,U,V", help="when each event was, seconds since 1970")
    parser.add_argument("--time", type=int, help="when the recommendation is shown, seconds (default: now)")
    parser.add_argument("--k", type=int, help="how many items (default: all that the model returns)")
    parser.add_argument("--dataset", help="dataset folder to take the items' names from")
    parser.add_argument(
        "--name-feature", default="title", help="item feature that holds the name (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the recommendation as JSON")
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="seconds to wait for an answer (default %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Ask for one recommendation and print it."""
    history, candidates = _split(args.history) + args.item, _split(args.candidates)
    if not history and args.user is None and not args.user_feature:
        raise ValueError("There is no history: give item ids with --history A,B,C or --item ID (or --user).")
    if args.k is not None and args.k < 1:
        raise ValueError(f"--k must be at least 1, got {args.k}.")
    if args.timeout <= 0:
        raise ValueError(f"--timeout must be more than 0 seconds, got {args.timeout:g}.")
    if args.dataset and args.json:
        raise ValueError("--dataset gives names to the table, and --json prints ids alone: leave one out.")
    history_times = [_number(int, time_, "--history-times") for time_ in _split(args.history_times)]
    if history_times and len(history_times) != len(history):
        raise ValueError(
            f"--history-times must have {len(history)} times, one of each event, got {len(history_times)}."
        )
    client = Client(args.url, timeout_s=args.timeout)
    given: dict[str, Any] = {
        "user_features": _user_features(args.user_feature, client, args.model, args.version),
        "users": None if args.user is None else [args.user],
        "history_times": [history_times] if history_times or not history else None,
        "times": [int(time.time()) if args.time is None else args.time],
        "version": args.version,
    }
    if candidates:
        (ranked,) = client.rank(args.model, [history], [candidates], **given)
        recommendation = dataclasses.replace(ranked, items=ranked.items[: args.k], scores=ranked.scores[: args.k])
    else:
        (recommendation,) = client.recommend(args.model, [history], k=args.k, **given)
    if args.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(recommendation), ensure_ascii=False) + "\n")
        return
    names = item_names(args.dataset, recommendation.items, feature=args.name_feature) if args.dataset else {}
    sys.stdout.write(_table(recommendation, names))
    if recommendation.num_unknown:
        verb = "is" if recommendation.num_unknown == 1 else "are"
        was = "was" if recommendation.num_unknown == 1 else "were"
        sys.stderr.write(
            f"{recommendation.num_unknown} of {len(history)} history items {verb} unknown to the model and {was} "
            "ignored\n"
        )


def _user_features(
    assignments: Sequence[str], client: Client, model: str, version: int | None
) -> dict[str, list[Any]] | None:
    """The values of NAME=VALUE, one user's, as the signature takes them."""
    if not assignments:
        return None
    signatures = client.metadata(model, version=version)["metadata"]["signature_def"]["signature_def"]
    inputs = signatures.get(RECOMMEND.name, {"inputs": {}})["inputs"]
    values: dict[str, list[Any]] = {}
    for assignment in assignments:
        name, is_given, text = assignment.partition("=")
        if not is_given or name not in inputs:
            raise ValueError(
                f"--user-feature expects NAME=VALUE, NAME being an input of model `{model}` "
                f"({', '.join(sorted(inputs))}), got {assignment!r}."
            )
        if inputs[name]["dtype"] != "DT_STRING":
            values[name] = [_number(float, text, f"--user-feature {name}")]
        else:
            is_list = len(inputs[name]["tensor_shape"].get("dim", ())) == 2
            values[name] = [text.split("|") if is_list else text]
    return values


def _number(kind, text: str, option: str):
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option} must be {'a whole number' if kind is int else 'a number'}, got {text!r}.") from None


def _split(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(",")) if part]


def _table(recommendation: Recommendation, names: dict[str, str]) -> str:
    rows = [("rank", "item", "score", "name" if names else "")]
    for rank, (item, score) in enumerate(zip(recommendation.items, recommendation.scores, strict=True), start=1):
        shown = "unknown" if score <= UNKNOWN_SCORE else f"{score:.4f}"
        rows.append((str(rank), item, shown, names.get(item, "")))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "".join(
        f"{rank:>{widths[0]}}  {item:<{widths[1]}}  {score:>{widths[2]}}  {name}".rstrip() + "\n"
        for rank, item, score, name in rows
    )
