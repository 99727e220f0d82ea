"""Raw events to a dataset folder of TFRecords, with Apache Beam.

Reads CSV, TSV, JSON lines, Parquet or sequences (plain or gzip, local or remote, files or patterns), orders the events
of every user (or session) by time, filters, splits and writes what `seqrec train` reads. Equal times keep the order of
the input. Lines that cannot be used go to `rejected/`, each with its reason.

Example:
  seqrec prepare --input events.csv --user-column customer --item-column sku --time-column at --output shop
"""

from __future__ import annotations

import argparse

from beam_jobs.arguments import add_arguments
from beam_jobs.beam_arguments import check_beam_arguments
from beam_jobs.options import check_local_files, check_options, resolve

__all__ = ["TAKES_BEAM_OPTIONS", "USAGE", "add_arguments", "check", "run"]

TAKES_BEAM_OPTIONS = True
USAGE = "seqrec prepare --input FILE ... --output DATASET [options]"


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments by themselves, without Beam and before a file is read."""
    check_beam_arguments(args.beam_options, "prepare", vars(args))
    options = resolve(args)
    check_options(options)
    check_local_files(options)


def run(args: argparse.Namespace) -> None:
    """Prepare a dataset folder."""
    from beam_jobs import import_beam

    import_beam()
    from beam_jobs import prepare_sequences

    prepare_sequences.run(args)
