"""Whether a server, TF Serving or `seqrec serve`, answers as the trained model.

The golden requests that `seqrec export` stored beside the model, histories with the trained model's answers, are asked
over REST: what it recommends, what among allowed items, and how it scores candidates.

Exit status: 0 where all answers are the same; 3 where some differ, with a line for each of the first ten.

Example:
  seqrec check --url http://localhost:8501 --model shop --models models
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from seqrec_tf.cli import ANSWER_IS_NO, DONE
from serving.client import Client
from serving.golden import differences
from serving.model_store import check_models

_SHOWN_DIFFERENCES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `seqrec check --url`."""
    parser.add_argument("--url", required=True, help="address of the server")
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--models", required=True, help="the folder with NAME/VERSION/ that is served, or a copy")
    parser.add_argument("--version", help="a version of the model, or a label of one (default: the newest)")


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments."""
    check_models(args.models)
    Client(args.url)


def run(args: argparse.Namespace) -> int:
    """Ask, show what was found, and give the exit status."""
    version = int(args.version) if args.version and args.version.isdigit() else args.version
    client = Client(args.url, raw_ids=True)  # the ids of golden requests are in the model's form
    return ANSWER_IS_NO if differ([client], args.model, args.models, version) else DONE


def differ(clients: Sequence[Client], model: str, models: str, version: int | str | None) -> bool:
    """Whether an answer of a version differs from the trained model's, on any server; what was found is shown."""
    lines = []
    for client in clients:
        number, found = differences(client, model, models, version=version)
        lines += found
        how = f"{len(found):,} differ" if found else "all as the trained model's"
        named = "" if version is None else f" {version}" if isinstance(version, str) else f" version {version}"
        sys.stdout.write(f"{client.url}: {number:,} answers of {model}{named}: {how}\n")
    for line in lines[:_SHOWN_DIFFERENCES]:
        sys.stdout.write(f"  {line}\n")
    return bool(lines)
