"""Bring a new version of a model into service beside the old one, and take it back, without a restart.

The labels `stable` and `canary` of the model are moved in the file that the server reads (TF Serving's
--model_config_file, `seqrec serve --model-config`); clients ask by label, most of them `stable`, some `canary`.

  pin       once: both labels name the version that is served now, and new versions no longer replace it by themselves
  start     version N is loaded beside the stable one, asked its golden requests, and named `canary`
  promote   the canary is asked again and becomes `stable`; the version before stays loaded, as `previous`
  rollback  `canary` goes back to the stable version, or after `promote` both labels to the previous one

A label moves once its version is loaded, and a version is unloaded after no label names it, so no request fails. After
each change of FILE the command waits until every server shows it. Where a step forward fails, or an answer differs from
the trained model's (exit status 3), FILE is put back. The comments at the head of FILE stay, others are lost.

Example:
  seqrec canary start --config serving/deploy/models.config --model shop --version 43 --models models
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from seqrec_tf.cli import ANSWER_IS_NO, DONE
from seqrec_tf.messages import next_command
from serving.check_server import differ
from serving.client import Client, ServerError
from serving.model_store import check_models, read_model_config

PIN, START, PROMOTE, ROLLBACK = ACTIONS = ("pin", "start", "promote", "rollback")
STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"
_POLL_PERIOD_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `seqrec canary`."""
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("--config", required=True, metavar="FILE", help="the ModelServerConfig that the server reads")
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--version", type=int, help="of start: the new version")
    parser.add_argument("--models", help="of start and promote: the folder with NAME/VERSION/, for the golden requests")
    parser.add_argument(
        "--url",
        nargs="+",
        default=["http://localhost:8501"],
        help="address of the server, or of each of several that read FILE (default http://localhost:8501)",
    )
    parser.add_argument(
        "--apply",
        metavar="COMMAND",
        help="run after each change of FILE, such as 'kubectl apply -k serving/deploy'",
    )
    parser.add_argument(
        "--timeout-s", type=float, default=300.0, help="seconds for the servers to follow (default %(default)s)"
    )


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments."""
    if args.action == START and args.version is None:
        raise ValueError("`start` needs --version, the new version.")
    if args.action != START and args.version is not None:
        raise ValueError(f"--version is for `start`: leave it out of `{args.action}`.")
    if args.action in (START, PROMOTE):
        if not args.models:
            raise ValueError(f"`{args.action}` asks golden requests: give --models, the folder with NAME/VERSION/.")
        check_models(args.models)
    if not pathlib.Path(args.config).is_file():
        raise FileNotFoundError(f"--config must name a file, {args.config} is none.")
    if args.timeout_s <= 0:
        raise ValueError(f"--timeout-s must be more than 0, got {args.timeout_s:g}.")
    for url in args.url:
        Client(url)


def run(args: argparse.Namespace) -> int:
    """Move the labels, step by step, and give the exit status."""
    file = ConfigFile(args.config, args.model, apply=args.apply)
    clients = [Client(url, raw_ids=True) for url in args.url]
    before = file.read()
    version = args.version
    if args.action == PIN:
        version = int(clients[0].metadata(args.model)["model_spec"]["version"])
    labels = target(args.action, before.labels, version)
    is_asked = args.action not in (START, PROMOTE)
    try:
        for state in states(before, labels):
            if state.labels == labels and not is_asked:
                is_asked = True
                if differ(clients, args.model, args.models, labels[CANARY]):
                    file.put_back()
                    return ANSWER_IS_NO
            file.write(state)
            _wait(clients, args.model, state, args.timeout_s)
    except BaseException:
        if args.action != ROLLBACK:
            file.put_back()
        raise
    sys.stdout.write(", ".join(f"{label}: version {version}" for label, version in labels.items()) + "\n")
    given = ["--config", args.config, "--model", args.model, "--url", *args.url]
    if args.action == START:
        sys.stdout.write(next_command("canary", PROMOTE, *given, "--models", args.models))
    elif args.action == PROMOTE:
        sys.stdout.write(next_command("canary", ROLLBACK, *given))
    return DONE


class State(NamedTuple):
    """What the file asks of a model: which versions are loaded, and which of them each label names."""

    versions: frozenset[int]
    labels: Mapping[str, int]


def target(action: str, labels: Mapping[str, int], version: int) -> dict[str, int]:
    """The labels after an action.

    Args:
        action: One of `ACTIONS`.
        labels: Those before.
        version: Of `pin`, the version that is served; of `start`, the new one; else of no meaning.

    Raises:
        ValueError: The action does not go with the labels before.
    """
    if action == PIN:
        if STABLE in labels:
            raise ValueError(f"There is nothing to pin: `{STABLE}` is version {labels[STABLE]} already.")
        return {STABLE: version, CANARY: version}
    if STABLE not in labels:
        raise ValueError(f"The model has no label `{STABLE}`: `seqrec canary {PIN}` gives it one.")
    stable = labels[STABLE]
    canary = labels.get(CANARY, stable)
    if action == START:
        if canary != stable:
            raise ValueError(f"Version {canary} is a canary already: promote it, or roll it back, before another.")
        if version == stable:
            raise ValueError(f"Version {version} is `{STABLE}` already: start another.")
        return {STABLE: stable, CANARY: version}
    if action == PROMOTE:
        if canary == stable:
            raise ValueError(f"There is no canary: `{CANARY}` is version {stable}, as `{STABLE}` is. Start one.")
        return {STABLE: canary, CANARY: canary, PREVIOUS: stable}
    back = stable if canary != stable else labels.get(PREVIOUS)
    if back is None:
        raise ValueError(f"There is nothing to roll back to: version {stable} is all that the labels name.")
    return {STABLE: back, CANARY: back}


def states(before: State, labels: Mapping[str, int]) -> Iterator[State]:
    """The states from one to another: load what is new, then move the labels, then unload what has none.

    The version of a label that goes away, and that is not wanted again, is unloaded first, so that two versions are in
    memory, not three.
    """
    wanted = frozenset(labels.values())
    staying = {label: version for label, version in before.labels.items() if label in labels}
    kept = before.versions & (wanted | frozenset(staying.values()))
    if kept != before.versions:
        yield State(kept, staying)
    if wanted - kept:
        yield State(kept | wanted, staying)
    yield State(kept | wanted, labels)
    if kept - wanted:
        yield State(wanted, labels)


class ConfigFile:
    """A file of TF Serving's `ModelServerConfig`, of which one model's versions and labels change.

    Args:
        path: The file.
        model: Name of the model.
        apply: A command that is run after each change.

    Raises:
        ValueError: The file is no such configuration, or has no such model.
    """

    def __init__(self, path: str | pathlib.Path, model: str, *, apply: str | None = None):
        self._path = pathlib.Path(path)
        self._text = self._path.read_text(encoding="utf-8")
        self._apply = apply
        self._config = read_model_config(self._path, self._text)
        models = {config.name: config for config in self._config.model_config_list.config}
        if model not in models:
            names = ", ".join(models) or "none"
            raise ValueError(f"{path} has no model {model!r}; it has: {names}. Add it, or correct --model.")
        self._model = models[model]

    def read(self) -> State:
        """What the file asks now; no versions where it does not name them."""
        versions = frozenset(self._model.model_version_policy.specific.versions)
        return State(versions, dict(self._model.version_labels))

    def write(self, state: State) -> None:
        """Make the file ask something else, as a whole, and apply it."""
        from google.protobuf import text_format

        self._model.model_version_policy.specific.versions[:] = sorted(state.versions)
        self._model.version_labels.clear()
        self._model.version_labels.update(state.labels)
        lines = self._text.splitlines(keepends=True)
        length = next((number for number, line in enumerate(lines) if line.strip() and line[0] != "#"), len(lines))
        self._replace("".join(lines[:length]) + text_format.MessageToString(self._config))

    def put_back(self) -> None:
        """Make the file what it was."""
        if self._path.read_text(encoding="utf-8") != self._text:
            self._replace(self._text)
            sys.stdout.write(f"{self._path} is as before\n")

    def _replace(self, text: str) -> None:
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self._path)
        if self._apply:
            subprocess.run(shlex.split(self._apply), check=True, stdout=sys.stderr)


def _wait(clients: list[Client], model: str, state: State, timeout_s: float) -> None:
    """Return once every server has loaded the versions, and finds them by the labels.

    Raises:
        RuntimeError: A version fails to load, or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    for client in clients:
        while lack := _lacks(client, model, state):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{client.url} has not followed within {timeout_s:g} s: {lack}.")
            time.sleep(_POLL_PERIOD_S)


def _lacks(client: Client, model: str, state: State) -> str:
    """What a server does not yet show of a state; "" where it shows all."""
    try:
        known: dict[int, dict[str, Any]] = {int(one["version"]): one for one in client.status(model)}
        for version in sorted(state.versions):
            found = known.get(version, {"state": "not there", "status": {}})
            if message := found["status"].get("error_message"):
                raise RuntimeError(f"Version {version} cannot be loaded by {client.url}: {message}")
            if found["state"] != "AVAILABLE":
                return f"version {version} is {found['state']}"
        for label, version in state.labels.items():
            named = client.metadata(model, version=label)["model_spec"]["version"]
            if int(named) != version:
                return f"`{label}` is version {named}, not {version}"
    except ServerError as error:  # a label that is new, a server that starts
        return str(error).rstrip(".")
    return ""


if __name__ == "__main__":
    from seqrec_tf import cli

    sys.exit(cli.main(["canary", *sys.argv[1:]]))
