"""Every option of `seqrec prepare`, given alone in each mode, changes what is planned, or is refused: none is ignored.

What is planned is the plan that the options make with the first lines of the files, and what the steps of the job read.
"""

import argparse
import dataclasses
import json
from typing import ClassVar

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet
import pytest

from beam_jobs import pipeline
from beam_jobs.arguments import add_arguments
from beam_jobs.options import FORMATS, SPLIT_OPTIONS, Options, check_local_files, flag, resolve
from beam_jobs.presets import PRESETS
from beam_jobs.store import Store

EVENTS = [("u1", "a", 100000001, 1), ("u1", "b", 100000002, 0), ("u2", "a", 100000003, 1), ("u2", "c", 100000004, 1)]
HEADER = ("user_id", "item_id", "timestamp", "label")

# What to give of each option: words that say something else than its default, and than the modes below.
OTHER = {
    "test_input": ["more.csv"],
    "valid_input": ["more.csv"],
    "format": ["tsv"],
    "delimiter": ["pipe"],
    "encoding": ["latin-1"],
    "user_column": ["visitor"],
    "item_column": ["sku"],
    "time_column": ["none"],
    "session_column": ["visit"],
    "label_column": ["click"],
    "time_format": ["us"],
    "label_threshold": ["0.5"],
    "where": ["item_id = 'a'"],
    "items": ["items2.csv"],
    "items_format": ["tsv"],
    "items_delimiter": ["pipe"],
    "items_encoding": ["latin-1"],
    "items_columns": ["item_id,other"],
    "item_id_column": ["title"],
    "item_columns": ["title"],
    "item_feature": ["title:category"],
    "require_item_features": ["title"],
    "users": ["users2.csv"],
    "users_format": ["tsv"],
    "users_delimiter": ["pipe"],
    "users_encoding": ["latin-1"],
    "users_columns": ["user_id,other"],
    "user_id_column": ["country"],
    "user_columns": ["country"],
    "user_feature": ["country:text"],
    "multiline": ["yes"],
    "items_multiline": ["yes"],
    "users_multiline": ["yes"],
    "duplicates": ["all"],
    "min_item_events": ["2"],
    "min_user_events": ["2"],
    "filter_rounds": ["2"],
    "max_length": ["7"],
    "max_events": ["9"],
    "split": ["last-days"],
    "valid_from": ["100000002"],
    "test_from": ["100000004"],
    "valid_days": ["2"],
    "test_days": ["3"],
    "valid_sequences": ["1"],
    "valid_share": ["0.5"],
    "hold_out_items": ["0.2"],
    "unseen_items": ["drop"],
    "num_shards": ["3"],
    "record_order": ["time"],
    "range_bytes": ["7"],
    "max_rejected": ["0.5"],
}
# Of the folder, not of what is planned: `test_prepare_folder.py` tests them.
OF_THE_FOLDER = {"input", "output", "overwrite"}
# For tests alone, and not in the help: Parquet files are cut by their row groups.
OF_TESTS = {"range_bytes"}
TIMES = ["--time-format", "s"]
MODES = {
    **{format_: ["--input", f"events.{format_}", "--format", format_] for format_ in FORMATS},
    "auto": ["--input", "events.csv"],
    "no times": ["--input", "events.csv", "--time-column", "none"],
    "sessions": ["--input", "events.csv", "--session-column", "user_id", "--user-column", "none", *TIMES],
    "labels": ["--input", "events.csv", "--label-column", "label", *TIMES],
    "items": ["--input", "events.csv", "--items", "items.csv", *TIMES],
    "users": ["--input", "events.csv", "--users", "users.csv", *TIMES],
    "minima": ["--input", "events.csv", "--min-item-events", "3", *TIMES],
    "time": ["--input", "events.csv", "--split", "time", "--test-from", "100000003", *TIMES],
    "last-days": ["--input", "events.csv", "--split", "last-days", "--valid-days", "1", *TIMES],
    "files": ["--input", "events.csv", "--split", "files", "--test-input", "events2.csv", *TIMES],
    **{preset: ["--preset", preset, "--input", f"{preset}.txt"] for preset in PRESETS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with small files of all formats."""
    folder = tmp_path_factory.mktemp("used")

    def write(name, rows, delimiter=","):
        (folder / name).write_text("".join(delimiter.join(map(str, row)) + "\n" for row in rows))

    for name in ("events.csv", "events2.csv", "more.csv"):
        write(name, [HEADER, *EVENTS])
    write("events.tsv", [HEADER, *EVENTS], "\t")
    write("events.sequences", [("a", "b"), ("a", "c")], " ")
    lines = [json.dumps(dict(zip(HEADER, event, strict=True))) + "\n" for event in EVENTS]
    (folder / "events.jsonl").write_text("".join(lines))
    columns = dict(zip(HEADER, map(list, zip(*EVENTS, strict=True)), strict=True))
    pa.parquet.write_table(pa.table(columns), folder / "events.parquet")
    for name in ("items.csv", "items2.csv"):
        write(name, [("item_id", "title", "brand"), ("a", "Apple", "x"), ("b", "Bread", "y"), ("c", "Corn", "x")])
    for name in ("users.csv", "users2.csv"):
        write(name, [("user_id", "country", "city"), ("u1", "no", "x"), ("u2", "de", "y")])
    write("movielens-100k.txt", [(user, item, 5, time) for user, item, time, _ in EVENTS], "\t")
    write("movielens-1m.txt", [(user, item, 5, time) for user, item, time, _ in EVENTS], "::")
    write("amazon-beauty.txt", [event[:2] for event in EVENTS], " ")
    write("retailrocket.txt", [("a", "b"), ("a", "c")], " ")
    write("test_sessions.txt", [("a", "b"), ("a", "c")], " ")
    return folder


class Watched(Options):
    """Options that know which of them are read."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name):
        Watched.read.add(name)
        return super().__getattribute__(name)


def planned(words):
    """The plan of a job, and the same without the options that it was made of."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    options = resolve(parser.parse_args([*words, "--output", "out"]))
    check_local_files(options)
    plan = pipeline.make_plan(options, "out")
    return plan, dataclasses.replace(plan, options=Options(), events=dataclasses.replace(plan.events, notes=()))


def read_by_the_steps(plan):
    """Names of the options that the steps of the job are made with."""
    watched = Watched(**{field.name: getattr(plan.options, field.name) for field in dataclasses.fields(Options)})
    Watched.read = set()
    _ = beam.Pipeline() | "Prepare" >> pipeline.PrepareSequences(dataclasses.replace(plan, options=watched), Store())
    return Watched.read


def says_what_is(options, name, given):
    """Whether an option says what a preset says already.

    A table with a delimiter of its own is any kind of table, and where that has several letters quotes are letters.
    """
    value = options.by_name[name]
    if name == "format" and options.delimiter and value in ("csv", "tsv"):
        return given[-1] in ("csv", "tsv")
    if name == "no_quotes" and options.delimiter == "::":
        return True
    return value is True or value == given[-1]


@pytest.mark.parametrize("mode", MODES)
def test_no_option_is_ignored(mode, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Options, "recorded", lambda self: {})  # all that is given is written down; that is no use
    words = MODES[mode] + (["--test-input", "test_sessions.txt"] if mode == "retailrocket" else [])
    plan, before = planned(words)
    used = read_by_the_steps(plan)
    ignored = []
    for name in Options().by_name.keys() - OF_THE_FOLDER - OF_TESTS - used:
        given = [flag(name), *OTHER.get(name, [])]
        if " ".join(given) in " ".join(words):
            continue  # it is what the mode is
        try:
            _, after = planned([*words, *given])
        except (ValueError, FileNotFoundError):
            continue  # refused, with a sentence
        if after == before and not says_what_is(plan.options, name, given):
            ignored.append(flag(name))
    assert sorted(ignored) == []


def test_every_option_and_every_mode_is_looked_at():
    flags = {name for name, default in Options().by_name.items() if default is False}
    assert {*OTHER, *flags, *OF_THE_FOLDER} == Options().by_name.keys()
    assert {*FORMATS, *SPLIT_OPTIONS, *PRESETS} <= MODES.keys() | {"leave-one-out"}
