"""Every user's recommendations at once, by an exported model and Apache Beam: for mails, pages made ahead, analyses.

Reads the records of a dataset folder, of each user the newest sequence (all of its events, held-out ones too), asks the
model's signature `serving_default`, as a server would, and writes one row a user: user_id, items, scores, num_unknown.
The suffix of --output says how: .parquet, .jsonl or .tfrecord.gz (Examples).

Example:
  seqrec batch-recommend --model models/shop --dataset shop --output lists/shop.parquet
"""

from __future__ import annotations

import argparse
import os
import pathlib

from beam_jobs.beam_arguments import check_beam_arguments
from beam_jobs.options import JSON_LINES, PARQUET
from seqrec_tf.messages import MODEL, VERSION, kind_of, not_expected
from seqrec_tf.records import RECORD_SUFFIX, DatasetFolder
from seqrec_tf.schema import SPLITS, USER_ID

NEEDS_TENSORFLOW = True
TAKES_BEAM_OPTIONS = True

SUFFIXES = (PARQUET, JSON_LINES, RECORD_SUFFIX)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--model", required=True, metavar="MODELS/NAME", help="exported model, or a version of one")
    parser.add_argument("--dataset", required=True, metavar="DATASET", help="folder made by `seqrec prepare`")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help=f"file to write, ending in one of {', '.join(SUFFIXES)}"
    )
    parser.add_argument("--split", choices=SPLITS, help="only the sequences of this split (default: of all three)")
    parser.add_argument("--time", type=int, help="when the lists are shown, seconds since 1970 (default: now)")
    parser.add_argument("--batch-size", type=int, default=64, help="users a call of the model (default %(default)s)")
    parser.add_argument(
        "--num-shards", type=int, default=1, help="files, such as FILE-00000-of-00003.jsonl (default 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files that are there")
    parser.epilog = "Other options go to Beam, as for `seqrec prepare`."


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments by themselves, without Beam and TensorFlow."""
    check_beam_arguments(args.beam_options, "batch-recommend", vars(args))
    suffix_of(args.output)
    for name in ("batch_size", "num_shards"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}.")
    if "://" not in args.model:
        version_of(args.model)
    if "://" not in args.dataset:
        check_dataset(DatasetFolder(args.dataset), args.split)


def check_dataset(folder: DatasetFolder, split: str | None) -> None:
    """Raise a ValueError where no users can be told apart, or there are none."""
    if USER_ID not in folder.schema:
        raise ValueError(f"The records of {folder.path} do not say whose they are: prepare it with a user column.")
    if split:
        folder.check_split(split)


def suffix_of(path: str) -> str:
    """How a file is written, by its name.

    Raises:
        ValueError: Its suffix says nothing.
    """
    for suffix in SUFFIXES:
        if path.endswith(suffix):
            return suffix
    raise ValueError(f"--output must end in one of {', '.join(SUFFIXES)}, got {path}.")


def version_of(path: str) -> str:
    """The folder of a local model's version: the newest, or the one that is named.

    Raises:
        FileNotFoundError: It is no exported model.
    """
    kind = kind_of(path)
    if kind == VERSION:
        return os.path.abspath(path)
    if kind != MODEL:
        raise not_expected(path, MODEL, make="Make one with `seqrec export --run RUN --output MODELS/NAME`.")
    numbers = [int(folder.name) for folder in pathlib.Path(path).iterdir() if folder.name.isdigit()]
    newest = max(number for number in numbers if kind_of(f"{path}/{number}") == VERSION)
    return os.path.abspath(f"{path}/{newest}")


def run(args: argparse.Namespace) -> None:
    """Write everyone's list."""
    from beam_jobs import import_beam

    import_beam()
    from beam_jobs import recommend_users

    check_dataset(DatasetFolder(args.dataset), args.split)  # a remote one has not been looked at yet
    args.model = args.model if "://" in args.model else version_of(args.model)
    recommend_users.run(args, suffix_of(args.output))
