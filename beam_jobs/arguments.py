"""The command line of `seqrec prepare`: its options in groups, each with what it means."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from beam_jobs.options import FORMATS, MULTILINE, SPLIT_OPTIONS, Options
from beam_jobs.presets import PRESETS
from seqrec_tf import features
from seqrec_tf import schema as schema_lib


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what is not given stays None, so that presets can fill it."""
    parser.set_defaults(**dict.fromkeys(Options().by_name))
    first = parser.add_argument_group("the ten options that matter; columns by name, or by number from 0, or none")
    first.add_argument("--preset", help=f"options of a public data set: {', '.join(PRESETS)}")

    def group(title: str) -> _Group:
        return _Group(first, parser.add_argument_group(title))

    _add_files(group("files"))
    _add_columns(group("columns"))
    _add_table(group("items"), "item", "price:number")
    _add_table(group("users"), "user", "country:category")
    _add_filters(group("filters, in this order (the two minima together)"))
    _add_splits(group("splits"))
    parser.epilog = (
        "Other options go to Beam, for example --direct_num_workers=2, or\n"
        "--runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp --setup_file=./setup.py."
    )


# The options that matter most, --preset beside them.
_FIRST = {
    "input",
    "output",
    "overwrite",
    "user-column",
    "item-column",
    "time-column",
    "items",
    "min-item-events",
    "split",
}


class _Group(NamedTuple):
    """A group of options, of which those of `_FIRST` stand in a group before all others."""

    first: Any
    others: Any


def _option(group: _Group, name: str, help_text: str, **more: Any) -> None:
    """Add an option to a group, with its default in the help."""
    default = Options().by_name[name.replace("-", "_")]
    shown = f" (default: {default})" if default not in (None, "", (), False) else ""
    if default is False:
        more |= {"action": "store_true", "default": None}
    if more.get("nargs") == "+":
        more["action"] = "extend"
    place = group.first if name in _FIRST else group.others
    place.add_argument(f"--{name}", help=help_text + shown, **more)


def _add_files(group: _Group) -> None:
    _option(group, "input", "events files or patterns; a folder, with --preset", nargs="+", metavar="FILE")
    _option(group, "output", "dataset folder to write")
    _option(group, "overwrite", "replace the folder: a local one when the new one is complete, a remote one at once")
    _option(
        group,
        "format",
        "auto: by extension; sequences: a line is one, of item ids; with --user-column 0, after the user's",
        choices=("auto", *FORMATS),
    )
    _option(group, "delimiter", "between fields: any text, or tab, space, comma, pipe, semicolon (default: by format)")
    _option(group, "no-quotes", "double quotes are ordinary characters")
    _option(group, "encoding", "of text files")
    _option(
        group,
        "multiline",
        "quoted fields may hold line breaks; a file is then read by one worker (auto: where its beginning has such)",
        choices=MULTILINE,
    )
    _option(group, "header", "the first line of each file names the columns, though they are given by number")
    _option(group, "max-rejected", "largest share of lines that may be rejected", type=float)
    _option(group, "num-shards", "files of each split (default: by size)", type=int)
    _option(
        group,
        "record-order",
        "in which training sees the sequences of an epoch: random, or by the time of their newest events, so that "
        "what is new is fresh in the model's memory",
        choices=schema_lib.RECORD_ORDERS,
    )
    # For tests, which want small ones.
    group.others.add_argument("--range-bytes", type=int, help=argparse.SUPPRESS)


def _add_columns(group: _Group) -> None:
    _option(group, "user-column", "whose event it is")
    _option(group, "item-column", "what it is about")
    _option(group, "time-column", "when it was; none: events are in order already")
    _option(group, "session-column", "sequences are sessions, not users")
    _option(group, "label-column", "whether the event is positive")
    _option(
        group,
        "time-format",
        "auto: by the first lines; s, ms, us, ns: since 1970; iso: ISO 8601; order: any integer that grows with time; "
        "or a pattern of strptime, such as '%%m/%%d/%%Y %%H:%%M'",
    )
    _option(
        group,
        "raw-ids",
        "ids stay as they are; by default blanks around them go, accents are composed and, where all ids of a column "
        "are numbers, 7.0 is 7",
    )
    _option(group, "label-threshold", "smallest value that is positive (default: labels are 0 or 1)", type=float)


def _add_table(group: _Group, one: str, example: str) -> None:
    """The options of the files that describe items or users; `one` is "item" or "user"."""
    _option(group, f"{one}s", f"{one}s files or patterns", nargs="+", metavar="FILE")
    _option(group, f"{one}s-format", f"of the {one}s files", choices=("auto", *FORMATS[:-1]))
    _option(group, f"{one}s-delimiter", "between fields (default: by format)")
    _option(group, f"{one}s-no-quotes", "double quotes are ordinary characters")
    _option(group, f"{one}s-encoding", f"of the {one}s files")
    _option(group, f"{one}s-multiline", "quoted fields may hold line breaks", choices=MULTILINE)
    _option(group, f"{one}s-columns", "names of the columns, comma-separated, where the files have no header")
    _option(
        group,
        f"{one}-columns",
        f"make features of these columns alone, comma-separated, and of those of --{one}-feature (default: of all)",
        metavar="NAME,NAME",
    )
    _option(group, f"{one}-id-column", f"name of the column with the {one}'s id")
    _option(
        group,
        f"{one}-feature",
        f"what a column holds, NAME:KIND, such as {example}; KIND is one of {', '.join(features.KINDS)}; "
        "categories are several, as in a|b; columns that are not named here are looked at, and what they seem to "
        "hold is shown",
        nargs="+",
        metavar="NAME:KIND",
    )
    if one == "item":
        _option(group, "require-items", "drop events of items that the items files lack")
        _option(
            group,
            "require-item-features",
            "drop events of items without one of these features, such as title,photo",
            metavar="NAME,NAME",
        )


def _add_filters(group: _Group) -> None:
    _option(
        group,
        "where",
        'keep only the events that this says, such as "Quantity > 0 and CustomerID is not null and InvoiceNo not like '
        "'C%%'\": any columns of the events files, compared with numbers, 'texts', true or false; names that are no "
        "words in double quotes",
        metavar="CONDITION",
    )
    _option(group, "max-events", "newest events of a sequence that are looked at", type=int)
    _option(group, "positive-only", "drop events with label 0")
    _option(
        group,
        "duplicates",
        "repeats of an item in a sequence: keep them, or drop all (consecutive) but the first",
        choices=schema_lib.REPEATS,
    )
    _option(group, "min-item-events", "drop items with fewer events, held-out ones counted", type=int)
    _option(group, "min-user-events", "drop sequences with fewer events, those of rare items counted", type=int)
    _option(group, "filter-rounds", "times that both are applied", type=int)
    _option(group, "max-length", "keep the newest events of a sequence (default: all); not with --split time", type=int)


def _add_splits(group: _Group) -> None:
    _option(group, "split", "how to hold events out", choices=tuple(SPLIT_OPTIONS))
    _option(group, "test-from", "time: when the test period begins, ISO 8601 or as in the data")
    _option(group, "valid-from", "time: when the validation period begins")
    _option(group, "test-days", "last-days: length of the test period", type=float)
    _option(group, "valid-days", "last-days: length of the validation period (default: none)", type=float)
    _option(group, "test-input", "files: events for testing", nargs="+", metavar="FILE")
    _option(group, "valid-input", "files: events for validation", nargs="+", metavar="FILE")
    _option(group, "valid-sequences", "files: so many of the last training sequences are for validation", type=int)
    _option(
        group,
        "valid-share",
        "leave-one-out: share of the users (or sessions), by a hash of their ids, that are for validation too; the "
        "others train on all events but the newest",
        type=float,
    )
    _option(
        group,
        "hold-out-items",
        "leave-one-out: share of the items, by a hash of their ids, that occur as test targets alone; so evaluation "
        "tells how new items fare (`cold`)",
        type=float,
    )
    _option(
        group,
        "unseen-items",
        "items without training events: keep them as candidates, or drop their events",
        choices=("keep", "drop"),
    )
