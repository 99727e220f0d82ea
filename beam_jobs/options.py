"""The options of `seqrec prepare`: defaults, arguments, and which of them go together."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import os
from typing import Any

from apache_beam.io.filesystems import FileSystems

from beam_jobs import parsing
from beam_jobs.presets import PRESETS
from seqrec_tf import features
from seqrec_tf import schema as schema_lib
from seqrec_tf.config import check_choice

NONE = "none"
FORMATS = ("csv", "tsv", "jsonl", "parquet", "sequences")
_OF_TABLES = ("format", "delimiter", "no_quotes", "encoding", "columns")  # as in items_format
SPLITS = ("leave-one-out", "time", "last-days", "files")


@dataclasses.dataclass(frozen=True)
class Options:
    """What `seqrec prepare` is asked to do; the command's `--help` says what each option means."""

    input: tuple[str, ...] = ()
    output: str = ""
    test_input: tuple[str, ...] = ()
    valid_input: tuple[str, ...] = ()
    format: str = "auto"
    delimiter: str = ""
    no_quotes: bool = False
    encoding: str = "utf-8"
    header: bool = False
    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str = "timestamp"
    session_column: str = NONE
    label_column: str = NONE
    weight_column: str = NONE
    time_format: str = "auto"
    label_threshold: float | None = None
    positive_only: bool = False
    items: tuple[str, ...] = ()
    items_format: str = "auto"
    items_delimiter: str = ""
    items_no_quotes: bool = False
    items_encoding: str = "utf-8"
    items_columns: str = ""
    item_id_column: str = "item_id"
    item_feature: tuple[str, ...] = ()
    require_items: bool = False
    require_item_features: str = ""
    users: tuple[str, ...] = ()
    users_format: str = "auto"
    users_delimiter: str = ""
    users_no_quotes: bool = False
    users_encoding: str = "utf-8"
    users_columns: str = ""
    user_id_column: str = "user_id"
    user_feature: tuple[str, ...] = ()
    duplicates: str = schema_lib.KEEP_REPEATS
    min_item_events: int = 1
    min_user_events: int = 1
    filter_rounds: int = 1
    max_length: int | None = None
    max_events: int = 10_000
    split: str = "leave-one-out"
    valid_from: str = ""
    test_from: str = ""
    valid_days: float = 0
    test_days: float = 1
    valid_sequences: int = 0
    valid_share: float = 1
    hold_out_items: float = 0
    unseen_items: str = "keep"
    num_shards: int = 0
    record_order: str = schema_lib.RANDOM_ORDER
    range_bytes: int = 16 << 20
    max_rejected: float = 0.01
    overwrite: bool = False

    @property
    def required_item_features(self) -> list[str]:
        """Features that every item must have."""
        return [features.name_of(name) for name in self.require_item_features.split(",") if name.strip()]

    def recorded(self) -> dict[str, Any]:
        """What belongs in `stats.json`: everything but the name of the folder."""
        values = dataclasses.asdict(self)
        for name in ("output", "overwrite"):
            del values[name]
        return values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what is not given stays None, so that presets can fill it."""
    parser.set_defaults(**{field.name: None for field in dataclasses.fields(Options)})
    parser.add_argument("--preset", help=f"options of a public data set: {', '.join(PRESETS)}")

    def option(group, name, help_text, **more):
        default = getattr(Options, name.replace("-", "_"))
        shown = f" (default: {default})" if default not in (None, "", (), False) else ""
        if default is False:
            more |= {"action": "store_true", "default": None}
        if more.get("nargs") == "+":
            more["action"] = "extend"
        group.add_argument(f"--{name}", help=help_text + shown, **more)

    files = parser.add_argument_group("files")
    option(files, "input", "events files or patterns; a folder, with --preset", nargs="+", metavar="FILE")
    option(files, "output", "dataset folder to write")
    option(files, "overwrite", "replace the folder: a local one when the new one is complete, a remote one at once")
    option(files, "format", "auto: by extension; sequences: a line is one, of item ids", choices=("auto", *FORMATS))
    option(files, "delimiter", "between fields: any text, or tab, space, comma, pipe, semicolon (default: by format)")
    option(files, "no-quotes", "double quotes are ordinary characters")
    option(files, "encoding", "of text files")
    option(files, "header", "the first line of each file names the columns, though they are given by number")
    option(files, "max-rejected", "largest share of lines that may be rejected", type=float)
    option(files, "num-shards", "files of each split (default: by size)", type=int)
    option(
        files,
        "record-order",
        "in which training sees the sequences of an epoch: random, or by the time of their newest events, so that "
        "what is new is fresh in the model's memory",
        choices=schema_lib.RECORD_ORDERS,
    )
    option(files, "range-bytes", "size of the pieces in which workers read plain text files", type=int)

    columns = parser.add_argument_group("columns", "by name, or by number from 0; none where there is no such column")
    option(columns, "user-column", "whose event it is")
    option(columns, "item-column", "what it is about")
    option(columns, "time-column", "when it was; none: events are in order already")
    option(columns, "session-column", "sequences are sessions, not users")
    option(columns, "label-column", "whether the event is positive")
    option(columns, "weight-column", "its weight, kept in the records; the models here do not read it")
    option(
        columns,
        "time-format",
        "auto: by the first lines; s, ms, us, ns: since 1970; order: any integer that grows with time",
        choices=("auto", *parsing.TIME_FORMATS),
    )
    option(columns, "label-threshold", "smallest value that is positive (default: labels are 0 or 1)", type=float)

    for one, example in (("item", "price:number"), ("user", "country:category")):
        side = parser.add_argument_group(f"{one}s")
        option(side, f"{one}s", f"{one}s files or patterns", nargs="+", metavar="FILE")
        option(side, f"{one}s-format", f"of the {one}s files", choices=("auto", *FORMATS[:-1]))
        option(side, f"{one}s-delimiter", "between fields (default: by format)")
        option(side, f"{one}s-no-quotes", "double quotes are ordinary characters")
        option(side, f"{one}s-encoding", f"of the {one}s files")
        option(side, f"{one}s-columns", "names of the columns, comma-separated, where the files have no header")
        option(side, f"{one}-id-column", f"name of the column with the {one}'s id")
        option(
            side,
            f"{one}-feature",
            f"what a column holds, NAME:KIND, such as {example}; KIND is one of {', '.join(features.KINDS)}; "
            "categories are several, as in a|b; columns that are not named here are looked at, and what they seem to "
            "hold is shown",
            nargs="+",
            metavar="NAME:KIND",
        )
        if one == "item":
            option(side, "require-items", "drop events of items that the items files lack")
            option(
                side,
                "require-item-features",
                "drop events of items without one of these features, such as title,photo",
                metavar="NAME,NAME",
            )

    filters = parser.add_argument_group("filters, in this order (the two minima together)")
    option(filters, "max-events", "newest events of a sequence that are looked at", type=int)
    option(filters, "positive-only", "drop events with label 0")
    option(
        filters,
        "duplicates",
        "repeats of an item in a sequence: keep them, or drop all (consecutive) but the first",
        choices=schema_lib.REPEATS,
    )
    option(filters, "min-item-events", "drop items with fewer events, held-out ones counted", type=int)
    option(filters, "min-user-events", "drop sequences with fewer events, those of rare items counted", type=int)
    option(filters, "filter-rounds", "times that both are applied", type=int)
    option(
        filters, "max-length", "keep the newest events of a sequence (default: all); not with --split time", type=int
    )

    splits = parser.add_argument_group("splits")
    option(splits, "split", "how to hold events out", choices=SPLITS)
    option(splits, "test-from", "time: when the test period begins, ISO 8601 or as in the data")
    option(splits, "valid-from", "time: when the validation period begins")
    option(splits, "test-days", "last-days: length of the test period", type=float)
    option(splits, "valid-days", "last-days: length of the validation period (default: none)", type=float)
    option(splits, "test-input", "files: events for testing", nargs="+", metavar="FILE")
    option(splits, "valid-input", "files: events for validation", nargs="+", metavar="FILE")
    option(splits, "valid-sequences", "files: so many of the last training sequences are for validation", type=int)
    option(
        splits,
        "valid-share",
        "leave-one-out: share of the users (or sessions), by a hash of their ids, that are for validation too; the "
        "others train on all events but the newest",
        type=float,
    )
    option(
        splits,
        "hold-out-items",
        "leave-one-out: share of the items, by a hash of their ids, that occur as test targets alone; so evaluation "
        "tells how new items fare (`cold`)",
        type=float,
    )
    option(
        splits,
        "unseen-items",
        "items without training events: keep them as candidates, or drop their events",
        choices=("keep", "drop"),
    )
    parser.epilog = (
        "Other options go to Beam, for example --direct_num_workers=2, or\n"
        "--runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp --setup_file=./setup.py."
    )


def resolve(args: argparse.Namespace) -> Options:
    """What the user gave, then what the preset knows, then the defaults."""
    given = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(Options)
        if getattr(args, field.name) is not None
    }
    known: dict[str, Any] = {}
    if args.preset:
        check_choice("--preset", args.preset, PRESETS)
        inputs = given.get("input", ())
        folder = inputs[0].rstrip("/") if len(inputs) == 1 and _is_folder(inputs[0]) else None

        def is_there(name: str) -> bool:
            if folder is not None:
                return bool(FileSystems.match([f"{folder}/{name}"])[0].metadata_list)
            return any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], name) for path in inputs)

        layouts = PRESETS[args.preset]
        preset = next((layout for layout in layouts if is_there(layout.files["input"])), layouts[0])
        known = dict(preset.options)
        if folder is not None:
            del given["input"]
            for option, name in preset.files.items():
                if option == "input" or is_there(name):
                    known[option] = (f"{folder}/{name}",)
    for option, is_other, dependent in (  # what is given otherwise leaves no place for what the preset says of it
        ("split", lambda split: split != "files", "test_input"),
        ("time_column", lambda column: column == NONE, "time_format"),
        ("format", lambda format_: format_ in ("jsonl", "parquet"), "delimiter"),
    ):
        if option in given and is_other(given[option]):
            known.pop(dependent, None)
    values = known | given
    for one in ("item", "user"):
        if values.get(f"{one}s"):
            continue
        for name in (f"{one}_feature", f"{one}_id_column", *(f"{one}s_{what}" for what in _OF_TABLES)):
            if name in given:
                raise ValueError(f"{flag(name)} needs --{one}s.")
            values.pop(name, None)  # the preset's
    for name in ("input", "test_input", "valid_input", "items", "item_feature", "users", "user_feature"):
        values[name] = tuple(values.get(name, ()))
    return Options(**values)


def flag(name: str) -> str:
    """An option as it is given: --min-item-events of min_item_events."""
    return f"--{name.replace('_', '-')}"


def _is_folder(path: str) -> bool:
    if "://" not in path:
        return os.path.isdir(path)
    return not FileSystems.exists(path) and bool(FileSystems.match([path.rstrip("/") + "/*"])[0].metadata_list)


def check_options(options: Options) -> None:
    """Check the options against each other; ValueError where something is missing or does not fit."""
    if not options.input:
        raise ValueError("--input is missing: the events files.")
    if not options.output:
        raise ValueError("--output is missing: the dataset folder to write.")
    for name in ("min_item_events", "min_user_events", "filter_rounds", "max_events", "range_bytes"):
        if getattr(options, name) < 1:
            raise ValueError(f"{flag(name)} must be at least 1, got {getattr(options, name)}.")
    for name in ("valid_days", "test_days", "valid_sequences", "num_shards"):
        if getattr(options, name) < 0:
            raise ValueError(f"{flag(name)} must not be negative, got {getattr(options, name)}.")
    if options.max_length is not None and options.max_length < 2:
        raise ValueError(f"--max-length must be at least 2 (a history and a target), got {options.max_length}.")
    if not 0 <= options.max_rejected <= 1:
        raise ValueError(f"--max-rejected must be a share between 0 and 1, got {options.max_rejected}.")
    if options.format != "sequences" and options.user_column == NONE and options.session_column == NONE:
        raise ValueError("Give --user-column or --session-column: something must say which events belong together.")
    if options.format != "sequences" and options.item_column == NONE:
        raise ValueError("Give --item-column: what the events are about.")
    if options.format == "sequences":  # an item after the other, and nothing beside them
        for name in ("users", "session_column", "label_column", "weight_column", "header", "no_quotes"):
            if getattr(options, name) not in ((), NONE, False):
                raise ValueError(f"--format sequences has items alone, a sequence a line: {flag(name)} does not apply.")
    for name, is_met, needed in (
        ("time_format", options.time_column != NONE, "--time-column"),
        ("positive_only", options.label_column != NONE, "--label-column"),
        ("label_threshold", options.label_column != NONE, "--label-column"),
        ("require_items", options.items, "--items"),
        ("require_item_features", options.items, "--items"),
        ("users", options.user_column != NONE, "--user-column"),
        ("valid_share", options.split == "leave-one-out", "--split leave-one-out"),
        *(
            (name, options.split == "files", "--split files")
            for name in ("test_input", "valid_input", "valid_sequences")
        ),
        *((name, options.split == "time", "--split time") for name in ("valid_from", "test_from")),
        *((name, options.split == "last-days", "--split last-days") for name in ("valid_days", "test_days")),
    ):
        if getattr(options, name) != getattr(Options, name) and not is_met:
            raise ValueError(f"{flag(name)} needs {needed}.")
    if options.max_length is not None and options.split == "time":
        raise ValueError(
            "--max-length would leave --split time less to train on of those who go on: it keeps what happened last. "
            "Leave it out; models see the newest model.max_len events."
        )
    if not 0 <= options.hold_out_items < 1:
        raise ValueError(f"--hold-out-items must be a share from 0 to below 1, got {options.hold_out_items:g}.")
    if options.hold_out_items and (options.split != "leave-one-out" or options.unseen_items == "drop"):
        raise ValueError("--hold-out-items needs --split leave-one-out and --unseen-items keep.")
    if not 0 <= options.valid_share <= 1:
        raise ValueError(f"--valid-share must be from 0 to 1, got {options.valid_share:g}.")
    if options.split == "files" and not options.test_input:
        raise ValueError("--split files needs --test-input.")
    if options.split == "time" and not options.test_from:
        raise ValueError("--split time needs --test-from: when the test period begins.")
