"""Ask a server for recommendations: TF Serving, or `seqrec serve`, which has the same contract.

Give the items that a user has met, oldest first: `--history a,b,c`, or `--item` once for each where ids hold commas.
With `--candidates x,y,z` these are ranked, by the signature `rank`, with `--similar x` items like this one are listed,
by `similar`; else the model recommends from all that it knows, or from what `--exclude` and `--allow` leave.
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

from seqrec_tf import ids, padding
from seqrec_tf.messages import next_command
from seqrec_tf.schema import (
    ALLOW,
    CANDIDATES,
    EMBED,
    EXCLUDE,
    HISTORY,
    HISTORY_LABELS,
    HISTORY_TIMESTAMPS,
    ITEM,
    ITEMS,
    NUM_UNKNOWN,
    OF_HISTORY,
    RANK,
    RECOMMEND,
    RECOMMEND_AMONG,
    SCORES,
    SIMILAR,
    TIMESTAMP,
    USER_ID,
    VECTOR,
    K,
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
    HISTORY_LABELS: "which events of the histories were liked (--history-labels)",
    TIMESTAMP: "the time of the recommendation (--time)",
    CANDIDATES: "the items to rank (--candidates)",
    EXCLUDE: "the items not to show (--exclude)",
    ALLOW: "the only items to show (--allow)",
    K: "how many items (--k)",
    ITEM: "the item (--similar)",
}

_EACH = {"--history-times": "times", "--history-labels": "labels"}


class Client:
    """A client of TF Serving's REST interface for the models that `seqrec export` writes.

    Args:
        url: Address of the server, such as http://localhost:8501.
        timeout_s: How long to wait for an answer.
        raw_ids: Whether the dataset of the models was prepared with --raw-ids, so that ids are sent as they are, not
            trimmed and composed.

    Every `version` is a number, or a label such as "stable"; where None, the newest that is served.

    Raises:
        ValueError: `url` is not an http address.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0, raw_ids: bool = False):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"The address of a server must start with http:// or https://, got {url!r}.")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._normal = (lambda text: text) if raw_ids else ids.tidy

    def status(self, model: str) -> list[dict[str, Any]]:
        """The versions of a model and their states, newest first."""
        return self._call(_path(model))["model_version_status"]

    def metadata(self, model: str, *, version: int | str | None = None) -> dict[str, Any]:
        """The version being served and its signatures."""
        return self._call(f"{_path(model, version)}/metadata")

    def predict(
        self, model: str, instances: list[Any], *, version: int | str | None = None, signature: str = RECOMMEND.name
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
        history_labels: Sequence[Sequence[int]] | None = None,
        times: Sequence[int] | None = None,
        exclude: Sequence[Sequence[str]] | None = None,
        allow: Sequence[Sequence[str]] | None = None,
        k: int | None = None,
        version: int | str | None = None,
        batch_size: int = 64,
    ) -> list[Recommendation]:
        """Recommend items after each of some histories.

        Args:
            model: Name of the model.
            histories: Item ids of each user, oldest first; an empty history is allowed.
            users: Who they are, for a model that knows users.
            user_features: What is known of them, for a model that reads it: name of a feature to one value of each.
            history_times: When each event was, seconds, for a model that knows times.
            history_labels: Which events were liked, 1 or 0, for a model of two stages that asks for it.
            times: When the recommendation is shown, seconds, for a model that knows times.
            exclude: Items not to show to each; none where None.
            allow: The only items to show to each; where None or, for one of them, empty, all may be shown.
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
        given = _given(users, user_features, history_times, times, history_labels)
        signature = RECOMMEND
        if exclude is not None or allow is not None:
            signature = RECOMMEND_AMONG
            nothing: list[list[str]] = [[]] * len(histories)
            given |= {EXCLUDE: exclude or nothing, ALLOW: allow or nothing, K: [0] * len(histories)}
        answers = self.ask(signature, model, histories, given, version=version, batch_size=batch_size)
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
        history_labels: Sequence[Sequence[int]] | None = None,
        times: Sequence[int] | None = None,
        version: int | str | None = None,
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
            history_labels: See `recommend`.
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
        given = {CANDIDATES: candidates, **_given(users, user_features, history_times, times, history_labels)}
        answers = self.ask(RANK, model, histories, given, version=version, batch_size=batch_size)
        ranked = []
        for answer, wanted in zip(answers, candidates, strict=True):
            scored = zip(wanted, answer[SCORES], strict=False)  # without padding
            pairs = sorted(scored, key=lambda pair: -pair[1])
            items, scores = [item for item, _ in pairs], [score for _, score in pairs]
            ranked.append(Recommendation(items, scores, int(answer.get(NUM_UNKNOWN, 0))))
        return ranked

    def similar(
        self,
        model: str,
        items: Sequence[str],
        *,
        k: int | None = None,
        version: int | str | None = None,
        batch_size: int = 64,
    ) -> list[Recommendation]:
        """Items that are like each of some items, for pages where nobody is known.

        Args:
            model: Name of the model.
            items: Item ids.
            k: How many items; all that the model returns where None.
            version: Version of the model; the newest where None.
            batch_size: Items in one request.

        Returns:
            One recommendation for each item; an empty one for an item that the model does not know.

        Raises:
            ServerError: See `recommend`.
            ValueError: The model has no such signature, or `k` is more than it returns.
        """
        answers = self.ask(SIMILAR, model, None, {ITEM: items}, version=version, batch_size=batch_size)
        return [_read_prediction(answer, model, k) for answer in answers]

    def embed(
        self,
        model: str,
        histories: Sequence[Sequence[str]],
        *,
        users: Sequence[str] | None = None,
        user_features: Mapping[str, Sequence[Any]] | None = None,
        history_times: Sequence[Sequence[int]] | None = None,
        times: Sequence[int] | None = None,
        version: int | str | None = None,
        batch_size: int = 64,
    ) -> list[list[float]]:
        """Vectors of histories, whose products with the item vectors of `seqrec export --item-vectors` are scores.

        Arguments and errors are those of `recommend`. Of a history of which nothing is known, the vector is 0.
        """
        given = _given(users, user_features, history_times, times)
        answers = self.ask(EMBED, model, histories, given, version=version, batch_size=batch_size)
        return [answer[VECTOR] for answer in answers]

    def ask(
        self,
        signature: Signature,
        model: str,
        histories: Sequence[Sequence[str]] | None,
        given: Mapping[str, Sequence[Any] | None],
        *,
        version: int | str | None = None,
        batch_size: int = 64,
    ) -> Iterator[dict[str, Any]]:
        """Ask one of `schema.SIGNATURES`, and give the outputs of each history by their names.

        Args:
            signature: What to ask.
            model: Name of the model.
            histories: Item ids of each user, oldest first; None for a signature that takes none.
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
        given = dict(given)
        for name in (USER_ID, CANDIDATES, EXCLUDE, ALLOW, ITEM):
            if (values := given.get(name)) is not None:
                given[name] = [self._normal_ids(value) for value in values]
        if histories is not None:
            histories = [self._normal_ids(history) for history in histories]
        requests = _requests(model, found["inputs"], histories, given)
        for start in range(0, len(requests), batch_size):
            part = requests[start : start + batch_size]
            for answer in self.predict(model, part, version=version, signature=signature.name):
                # TF Serving gives the bare row of a signature that has a single output.
                yield answer if isinstance(answer, dict) else {signature.outputs[0]: answer}

    def _normal_ids(self, value: Any) -> Any:
        """An id, or some, in the form that those of the model have."""
        return self._normal(value) if isinstance(value, str) else [self._normal(one) for one in value]

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
        hint = ""
        if error.code == 404:
            hint = ". A model is served by the name of its folder, NAME of MODELS/NAME: look there which there are"
        return ServerError(f"{self.url} answered {error.code}: {message}{hint}", status=error.code)

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
    taken = HISTORY if signature.takes_history else signature.inputs[0].name
    if taken not in inputs or not set(signature.outputs) <= set(outputs):
        wanted = " and ".join(f"`{name}`" for name in sorted(signature.outputs))
        raise ValueError(
            f"The signature `{signature.name}` of model `{model}` must take `{taken}` and give {wanted}, as `seqrec "
            f"export` writes it; it takes {', '.join(sorted(inputs)) or 'nothing'} and gives "
            f"{', '.join(sorted(outputs)) or 'nothing'}."
        )


def _requests(
    model: str,
    inputs: Mapping[str, Any],
    histories: Sequence[Sequence[str]] | None,
    given: Mapping[str, Sequence[Any] | None],
) -> list[dict[str, Any]]:
    """What a signature takes of each history.

    Args:
        model: Name of the model.
        inputs: Name to what the metadata says of each input of the signature.
        histories: Item ids, oldest first; None where the signature takes none.
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
    known = {**given, HISTORY: histories}
    number = len(next(values for values in (histories, *given.values()) if values is not None))
    columns = {}
    of_users = sorted(inputs.keys() - {HISTORY, *_OPTIONS})
    for name in (*(name for name in (HISTORY, *_OPTIONS) if name in inputs), *of_users):
        values = known.get(name)
        if values is None:
            option = _OPTIONS.get(name, f"the feature of the users (--user-feature {name}=VALUE)")
            raise ValueError(f"Model `{model}` takes `{name}`: give {option}.")
        if len(values) != number:
            raise ValueError(f"`{name}` must have a value for each of {number} histories, got {len(values)}.")
        columns[name] = _padded(name, values, inputs[name]["tensor_shape"]["dim"])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _padded(name: str, values: Sequence[Any], dimensions: Sequence[Mapping[str, str]]) -> list[Any]:
    """The values of an input, lists among them in one length: that of its dimensions, as the metadata gives them."""
    if len(dimensions) < 2:
        return list(values)
    size = int(dimensions[1]["size"])
    nothing: Any = padding.NO_TIME if name in OF_HISTORY and name != HISTORY else padding.NO_ITEM
    return padding.rows(values, nothing, length=size if size >= 0 else None)  # -1 where any fits


def _given(users, user_features, history_times, times, history_labels=None) -> dict[str, Any]:
    """What a model may take beside histories, by the name of the input."""
    of_events = {HISTORY_TIMESTAMPS: history_times, HISTORY_LABELS: history_labels}
    return {**(user_features or {}), USER_ID: users, TIMESTAMP: times, **of_events}


def _path(model: str, version: int | str | None = None) -> str:
    of_version = "" if version is None else f"/versions/{version}"
    if isinstance(version, str):
        of_version = f"/labels/{quote(version, safe='')}"
    return f"/v1/models/{quote(model, safe='')}{of_version}"


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


def named_features(dataset: str, feature: str) -> dict[str, Any]:
    """The side features of a dataset's items by name, of which one holds the items' names.

    Raises:
        FileNotFoundError: `dataset` is no finished dataset folder.
        ValueError: The dataset has no such feature.
    """
    from seqrec_tf import records

    known = {item_feature.name: item_feature for item_feature in records.DatasetFolder(dataset).schema.item_features}
    if known and (feature not in known or known[feature].dtype != "string" or known[feature].shape != ()):
        names = [name for name, other in known.items() if other.dtype == "string" and other.shape == ()]
        raise ValueError(
            f"--name-feature must be a string feature of the items of {dataset}, got {feature!r}; there are: "
            f"{', '.join(names) or 'none'}."
        )
    return known


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

    known = named_features(dataset, feature)
    if not known:
        return {}  # it was prepared without an items file
    quiet.import_tensorflow()
    folder = records.DatasetFolder(dataset)
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
    parser.add_argument("--similar", metavar="ID", help="list items like this one, without a history")
    parser.add_argument("--exclude", default="", metavar="X,Y,Z", help="do not show these items")
    parser.add_argument("--allow", default="", metavar="X,Y,Z", help="show these items alone, the best of them first")
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
    parser.add_argument("--history-labels", default="", metavar="1,0,1", help="which events were liked, 1 or 0")
    parser.add_argument("--time", type=int, help="when the recommendation is shown, seconds (default: now)")
    parser.add_argument("--k", type=int, help="how many items (default: all that the model returns)")
    parser.add_argument("--dataset", help="dataset folder to take the items' names from")
    parser.add_argument(
        "--name-feature", metavar="NAME", help="item feature that holds the name, of --dataset (default: title)"
    )
    parser.add_argument(
        "--raw-ids", action="store_true", help="send ids as they are, to a model of a dataset prepared with --raw-ids"
    )
    parser.add_argument("--json", action="store_true", help="print the recommendation as JSON")
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="seconds to wait for an answer (default %(default)s)"
    )


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, before anything is asked."""
    history, candidates = _split(args.history) + args.item, _split(args.candidates)
    if not history and args.user is None and not args.user_feature and args.similar is None:
        raise ValueError("There is no history: give item ids with --history A,B,C or --item ID (or --user).")
    if args.k is not None and args.k < 1:
        raise ValueError(f"--k must be at least 1, got {args.k}.")
    if args.timeout <= 0:
        raise ValueError(f"--timeout must be more than 0 seconds, got {args.timeout:g}.")
    if args.dataset and args.json:
        raise ValueError("--dataset gives names to the table, and --json prints ids alone: leave one out.")
    if candidates and (args.exclude or args.allow):
        raise ValueError("--candidates are ranked as they are: leave out --exclude and --allow.")
    if args.similar is not None and (history or candidates or args.exclude or args.allow):
        raise ValueError("--similar takes an item alone: leave out the history, --candidates, --exclude and --allow.")
    if args.name_feature and not args.dataset:
        raise ValueError("--name-feature needs --dataset, which has the items' names.")
    if args.version is not None and args.version < 0:
        raise ValueError(f"--version must not be negative, got {args.version}.")
    for option in _EACH:
        _of_events(args, option, len(history))
    Client(args.url)
    if args.dataset:
        named_features(args.dataset, args.name_feature or "title")


def _of_events(args: argparse.Namespace, option: str, number: int) -> list[int]:
    """The numbers of an option that has one for each event of the history; empty where it is not given."""
    text = getattr(args, option.removeprefix("--").replace("-", "_"))
    numbers = [_number(int, part, option) for part in _split(text)]
    if numbers and len(numbers) != number:
        raise ValueError(f"{option} must have {number} {_EACH[option]}, one of each event, got {len(numbers)}.")
    return numbers


def run(args: argparse.Namespace) -> None:
    """Ask for one recommendation and print it."""
    history, candidates = _split(args.history) + args.item, _split(args.candidates)
    recommendation = _asked(args, history, candidates)
    if args.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(recommendation), ensure_ascii=False) + "\n")
        return
    names = item_names(args.dataset, recommendation.items, feature=args.name_feature or "title") if args.dataset else {}
    sys.stdout.write(_table(recommendation, names))
    if recommendation.num_unknown and args.similar is not None:
        sys.stderr.write(f"{args.similar} is unknown to the model\n")
    elif recommendation.num_unknown:
        verb = "is" if recommendation.num_unknown == 1 else "are"
        was = "was" if recommendation.num_unknown == 1 else "were"
        sys.stderr.write(
            f"{recommendation.num_unknown} of {len(history)} history items {verb} unknown to the model and {was} "
            "ignored\n"
        )
    more = ["--dataset", "DATASET"] if not args.dataset else ["--json"]
    words = ["--url", args.url, "--model", args.model, *(["--history", args.history] if args.history else [])]
    items = [word for item in args.item for word in ("--item", item)]
    sys.stdout.write(next_command("recommend", *words, *items, *more))


def _asked(args: argparse.Namespace, history: list[str], candidates: list[str]) -> Recommendation:
    """What the server answers to the command's options."""
    client = Client(args.url, timeout_s=args.timeout, raw_ids=args.raw_ids)
    if args.similar is not None:
        return client.similar(args.model, [args.similar], k=args.k, version=args.version)[0]
    of_events = {option: _of_events(args, option, len(history)) for option in _EACH}
    given: dict[str, Any] = {
        "user_features": _user_features(args.user_feature, client, args.model, args.version),
        "users": None if args.user is None else [args.user],
        "history_times": [of_events["--history-times"]] if of_events["--history-times"] or not history else None,
        "history_labels": [of_events["--history-labels"]] if of_events["--history-labels"] else None,
        "times": [int(time.time()) if args.time is None else args.time],
        "version": args.version,
    }
    if candidates:
        (ranked,) = client.rank(args.model, [history], [candidates], **given)
        return dataclasses.replace(ranked, items=ranked.items[: args.k], scores=ranked.scores[: args.k])
    if args.exclude:
        given["exclude"] = [_split(args.exclude)]
    if args.allow:
        given["allow"] = [_split(args.allow)]
    return client.recommend(args.model, [history], k=args.k, **given)[0]


def _user_features(
    assignments: Sequence[str], client: Client, model: str, version: int | str | None
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
