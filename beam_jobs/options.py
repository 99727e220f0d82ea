"""The options of `seqrec prepare`: defaults, arguments, and which of them go together."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import glob
import os
from typing import Any

from beam_jobs import parsing, times
from beam_jobs.presets import PRESETS
from seqrec_tf import features
from seqrec_tf import schema as schema_lib
from seqrec_tf.config import check_choice

# Suffixes of files of rows.
PARQUET, JSON_LINES = ".parquet", ".jsonl"

NONE = "none"
FORMATS = ("csv", "tsv", "jsonl", "parquet", "sequences")
# The rules of `splits.RULES`, each with the options that it alone reads.
SPLIT_OPTIONS = {
    "leave-one-out": ("valid_share",),
    "time": ("valid_from", "test_from"),
    "last-days": ("valid_days", "test_days"),
    "files": ("test_input", "valid_input", "valid_sequences"),
}
MULTILINE = ("auto", "yes", "no")
# Options that say nothing of files with a sequence a line.
_NOT_OF_SEQUENCES = (
    *("session_column", "label_column", "item_column", "time_column", "time_format"),
    *("header", "no_quotes", "multiline", "where"),
)


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """What says how to read the files that describe items, or those that describe users.

    Attributes:
        one: "item" or "user"; the names of the options begin with it.
        files: `--items` or `--users`; none where there are no such files.
        format: `--items-format` or `--users-format`, and so on.
        delimiter: Between fields.
        no_quotes: Whether double quotes are ordinary characters.
        encoding: How the bytes of text files are text, such as utf-8.
        multiline: Whether quoted fields may hold line breaks, one of `MULTILINE`.
        columns: Names of the columns, where the files have no header.
        take: `--item-columns` or `--user-columns`, the columns to make features of; all where empty.
        id_column: `--item-id-column` or `--user-id-column`.
        feature: `--item-feature` or `--user-feature`, each NAME:KIND.
    """

    one: str
    files: tuple[str, ...] = ()
    format: str = "auto"
    delimiter: str = ""
    no_quotes: bool = False
    encoding: str = "utf-8"
    multiline: str = "auto"
    columns: str = ""
    take: str = ""
    id_column: str = ""
    feature: tuple[str, ...] = ()

    def option(self, field: str) -> str:
        """The name of a field's option: items_format of format, item_id_column of id_column."""
        if field == "files":
            return f"{self.one}s"
        if field == "take":
            return f"{self.one}_columns"
        return f"{self.one}_{field}" if field in ("id_column", "feature") else f"{self.one}s_{field}"

    @property
    def options(self) -> dict[str, Any]:
        """The values by the names of their options."""
        fields = [field.name for field in dataclasses.fields(self) if field.name != "one"]
        return {self.option(name): getattr(self, name) for name in fields}

    def of(self, values: dict[str, Any]) -> TableOptions:
        """These options, but for those of `values`, which are taken out of it."""
        given = {
            field.name: values.pop(self.option(field.name))
            for field in dataclasses.fields(self)
            if field.name != "one" and self.option(field.name) in values
        }
        return dataclasses.replace(self, **given)


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
    multiline: str = "auto"
    header: bool = False
    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str = "timestamp"
    session_column: str = NONE
    label_column: str = NONE
    time_format: str = "auto"
    label_threshold: float | None = None
    raw_ids: bool = False
    positive_only: bool = False
    where: str = ""
    items: TableOptions = TableOptions("item", id_column="item_id")
    require_items: bool = False
    require_item_features: str = ""
    users: TableOptions = TableOptions("user", id_column="user_id")
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
        values = self.by_name
        for name in ("output", "overwrite"):
            del values[name]
        return values

    @property
    def by_name(self) -> dict[str, Any]:
        """Each value by the name of its option."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values |= value.options if isinstance(value, TableOptions) else {field.name: value}
        return values


def resolve(args: argparse.Namespace) -> Options:
    """What the user gave, then what the preset knows, then the defaults."""
    defaults = Options().by_name
    given = {name: getattr(args, name) for name in defaults if getattr(args, name) is not None}
    known: dict[str, Any] = {}
    if args.preset:
        check_choice("--preset", args.preset, PRESETS)
        inputs = given.get("input", ())
        folder = inputs[0].rstrip("/") if len(inputs) == 1 and _is_folder(inputs[0]) else None

        def is_there(name: str) -> bool:
            if folder is not None:
                return has_match(os.path.join(folder, name))
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
    if values.get("format") == "sequences":  # so has no columns, unless one is given
        values = dict.fromkeys(("user_column", "item_column", "time_column"), NONE) | values
    for name, default in defaults.items():
        if isinstance(default, tuple) and name in values:
            values[name] = tuple(values[name])
    tables = {f"{table.one}s": table.of(values) for table in (Options.items, Options.users)}
    for name, table in tables.items():
        if not table.files:
            for option in table.options:
                if option in given:
                    raise ValueError(f"{flag(option)} needs {flag(name)}.")
            tables[name] = getattr(Options, name)  # without what the preset says of it
    return Options(**values, items=tables["items"], users=tables["users"])


def flag(name: str) -> str:
    """An option as it is given: --min-item-events of min_item_events."""
    return f"--{name.replace('_', '-')}"


def _is_folder(path: str) -> bool:
    if "://" not in path:
        return os.path.isdir(path)
    from apache_beam.io.filesystems import FileSystems

    return not FileSystems.exists(path) and has_match(path.rstrip("/") + "/*")


def has_match(pattern: str) -> bool:
    """Whether a file has this path or matches this pattern."""
    if "://" not in pattern:
        return bool(glob.glob(pattern, recursive=True, include_hidden=True)) or os.path.exists(pattern)
    from apache_beam.io.filesystems import FileSystems

    return bool(FileSystems.match([pattern])[0].metadata_list)


def no_match(option: str, pattern: str) -> FileNotFoundError:
    """The error of files that are not there."""
    return FileNotFoundError(f"{option} {pattern} matches no file.")


def check_local_files(options: Options) -> None:
    """Raise an error for a local input that is not there, or an output that is; what is remote only Beam can tell."""
    for name in ("input", "valid_input", "test_input", "items", "users"):
        for pattern in options.by_name[name]:
            # A ** is not the same to Beam.
            if "://" not in pattern and "**" not in pattern and not has_match(pattern):
                raise no_match(flag(name), pattern)
    output = options.output.rstrip("/")
    if "://" not in output and os.path.exists(output) and not options.overwrite:
        raise output_exists(output)


def output_exists(output: str) -> FileExistsError:
    """The error of a folder that is there already."""
    return FileExistsError(f"{output} exists already; choose another --output or replace it with --overwrite.")


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
    if options.format == "sequences":
        _check_sequences(options)
    if times.is_pattern(options.time_format):
        times.check_pattern(options.time_format)
    else:
        check_choice("--time-format", options.time_format, ("auto", *parsing.TIME_FORMATS))
    for name, is_met, needed in (
        ("time_format", options.time_column != NONE, "--time-column"),
        ("positive_only", options.label_column != NONE, "--label-column"),
        ("label_threshold", options.label_column != NONE, "--label-column"),
        (
            "filter_rounds",
            options.min_item_events > 1 or options.min_user_events > 1,
            "--min-item-events or --min-user-events",
        ),
        ("require_items", options.items.files, "--items"),
        ("require_item_features", options.items.files, "--items"),
        ("users", options.user_column != NONE, "--user-column"),
        *(
            (name, options.split == split, f"--split {split}")
            for split, names in SPLIT_OPTIONS.items()
            for name in names
        ),
    ):
        if getattr(options, name) != getattr(Options, name) and not is_met:
            raise ValueError(f"{flag(name)} needs {needed}.")
    _check_header(options)
    _check_splits(options)


def _check_header(options: Options) -> None:
    columns = (options.user_column, options.item_column, options.time_column, options.session_column)
    named = [column for column in (*columns, options.label_column) if column != NONE and not column.isdigit()]
    if options.header and named:
        raise ValueError(
            f"--header is for columns that are given by number; {named[0]} is a name, so the first line names the "
            "columns anyway. Leave it out."
        )


def _check_sequences(options: Options) -> None:
    """Refuse what says nothing of lines of one sequence each: item ids, perhaps after the user's."""
    given = options.by_name
    if options.user_column not in (NONE, "0"):
        raise ValueError(
            f"--format sequences has the user's id first in each line (--user-column 0) or nowhere (none), got "
            f"--user-column {options.user_column}."
        )
    for name in _NOT_OF_SEQUENCES:
        if given[name] not in (NONE, False, "auto", ""):
            raise ValueError(
                f"--format sequences has a sequence a line: item ids in their order, perhaps after the user's "
                f"(--user-column 0). {flag(name)} does not apply."
            )
    if options.users.files and options.user_column != "0":
        raise ValueError("--users needs --user-column 0: lines of --format sequences that begin with the user's id.")


def _check_splits(options: Options) -> None:
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
