"""`seqrec prepare` from files to a dataset folder."""

import collections
import filecmp
import io
import json
import os
import random
import re
import sys
from typing import ClassVar

import pytest
from apache_beam.io.filesystem import FileMetadata, MatchResult
from apache_beam.io.localfilesystem import LocalFileSystem

from beam_jobs import prepare_sequences
from seqrec_tf import records, schema
from seqrec_tf.records import DatasetFolder

HEADER = "user_id,item_id,timestamp\n"


def log(*events, header=HEADER):
    """`log("u a 1", ...)`: an events file."""
    return header + "".join(event.replace(" ", ",") + "\n" for event in events)


THREE_USERS = log("u a 1", "u b 2", "u c 3", "u a 4", "v a 1", "v c 2", "v b 3", "w a 5")


def test_a_small_log_becomes_the_dataset_that_the_schema_describes(prepare):
    outcome = prepare(THREE_USERS)
    assert outcome.status == 0
    folder = outcome.folder
    # a occurs 3 times in training (u, v, w), b once (u), c never.
    assert folder.item_ids == ["a", "b", "c"]
    assert folder.item_counts == [3, 1, 0]
    # v and w have one training event each, which has nothing to predict it from.
    assert outcome.histories("train") == {"u": (["a"], ["b"])}
    assert outcome.stats["training_sequences_of_one_event"] == 2
    assert outcome.histories("valid") == {"u": (["a", "b"], ["c"]), "v": (["a"], ["c"])}
    assert outcome.histories("test") == {"u": (["a", "b", "c"], ["a"]), "v": (["a", "c"], ["b"])}
    assert [row["timestamps"] for row in outcome.records("test")] == [[1, 2, 3, 4], [1, 2, 3]]
    assert folder.schema.time_unit == "order"
    assert folder.schema.max_len == 4
    assert folder.schema.num_users == 1  # only u has a training record
    assert [feature.name for feature in folder.schema.features] == ["item_ids", "target_start", "timestamps", "user_id"]
    stats = outcome.stats
    assert stats["steps"] == [{"step": "parsed", "users": 3, "items": 3, "events": 8}]
    assert stats["repeats"] == {
        "repeated_events": 1,
        "consecutive_repeats": 0,
        "targets_repeating_history": {"valid": 0, "test": 1},
    }
    assert stats["splits"]["train"] | {"length": None} == {
        "sequences": 1,
        "events": 2,
        "targets": 1,
        "dropped_sequences": 0,
        "dropped_targets": 0,
        "length": None,
    }
    assert stats["items"]["without_training_events"] == 1
    assert "Inferred time format order (as in '1')" in outcome.err
    assert f"seqrec train --dataset {outcome.output}" in outcome.out


def test_equal_times_keep_the_order_of_the_input_across_files_and_ranges(prepare):
    texts = [
        log("u a 7", "v x 7", "u b 7", "u z 9"),
        log("u c 7", "v y 7", "u d 7", "v w 7"),
    ]
    outcome = prepare(texts, "--range-bytes", "9")
    assert {row["user_id"]: row["items"] for row in outcome.records("test")} == {"u": list("abcdz"), "v": list("xyw")}
    # All of v's three events, and all of u's but the last.
    assert outcome.stats["ties"] == {
        "events_sharing_a_time_with_a_neighbour": 7,
        "sequences_with_ties": 2,
        "targets_with_ties": {"valid": 2, "test": 1},
    }


SAME = ["u a 978300760", "u b 978300761", "u c 978300762", "u d 978300763", "v a 978300760"]


def as_json(names):
    rows = [dict(zip(names, event.split(), strict=True)) for event in SAME]
    return "".join(json.dumps(row | {names[2]: int(row[names[2]])}) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "suffix", "options"),
    [
        (log(*SAME), ".csv.gz", []),
        ("\ufeff" + log(*SAME).replace("\n", "\r\n"), ".csv", []),
        (log(*SAME).replace(",", "\t"), ".tsv", []),
        (
            log(*SAME, header="").replace(",", "::"),
            ".dat",
            ["--format", "csv", "--delimiter", "::", "--user-column 0 --item-column 1 --time-column 2"],
        ),
        (
            log(*SAME).replace("u,", '"u",').replace("978", '"978').replace("\n", '"\n').replace('stamp"', "stamp"),
            ".csv",
            ["--time-format", "s"],
        ),
        (as_json(["user_id", "item_id", "timestamp"]), ".jsonl", []),
        (
            as_json(["who", "what", "when"]),
            ".json.gz",
            ["--user-column who --item-column what --time-column when"],
        ),
        (
            log(*SAME).replace("978300760", "2000-12-31T22:12:40Z").replace("978300761", "2000-12-31T22:12:41"),
            ".csv",
            [],
        ),
    ],
    ids=["gzip", "windows", "tsv", "double colon", "quoted", "json lines", "json keys", "iso"],
)
def test_every_format_gives_the_same_records(prepare, text, suffix, options):
    if "2000-" in text:
        text = text.replace("978300762", "2000-12-31T23:12:42+01:00").replace("978300763", "2000-12-31T22:12:43.9")
    outcome = prepare(text, *options, suffix=suffix)
    assert outcome.status == 0, outcome.err
    rows = outcome.records("test")
    assert [(row["user_id"], row["items"], row["timestamps"]) for row in rows] == [
        ("u", ["a", "b", "c", "d"], [978300760, 978300761, 978300762, 978300763])
    ]
    assert outcome.folder.schema.time_unit == "seconds"
    assert [row["user_id"] for row in outcome.records("train")] == ["u"]
    assert outcome.stats["input"]["rejected"] == 0


def test_parquet_is_read_by_row_group_with_its_own_types(prepare, tmp_path):
    import pyarrow
    from pyarrow import parquet

    nanoseconds = [978300760_000_000_001 + k * 10**9 for k in range(5)]
    table = pyarrow.table(
        {
            "user_id": pyarrow.array([7, 7, 7, 7, None], pyarrow.int64()),
            "item_id": ["a", "b", "c", "d", "e"],
            "timestamp": pyarrow.array(nanoseconds, pyarrow.timestamp("ns")),
            "label": [0.0, 1.0, 1.0, 0.0, 1.0],
        }
    )
    parquet.write_table(table, tmp_path / "events.parquet", row_group_size=2)
    outcome = prepare([], "--input", str(tmp_path / "*.parquet"), "--label-column", "label", "--max-rejected", "0.5")
    assert outcome.status == 0, outcome.err
    assert outcome.records("test") == [
        {
            "user_id": "7",
            "items": ["a", "b", "c", "d"],
            "timestamps": [978300760, 978300761, 978300762, 978300763],
            "labels": [0, 1, 1, 0],
            "target_start": 3,
        }
    ]
    (rejected,) = outcome.rejected()
    assert (rejected["line"], rejected["record"], rejected["reason"]) == (None, 4, "empty user id")


@pytest.mark.parametrize("options", ["", "--items items-*.parquet"])
def test_parquet_files_without_rows_tell_nothing(prepare, tmp_path, monkeypatch, options):
    import pyarrow
    from pyarrow import parquet

    monkeypatch.chdir(tmp_path)
    times = [978300760 + k for k in range(4)]
    events = pyarrow.table({"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": times})
    items = pyarrow.table({"item_id": list("abcd"), "price": [1.5, 2.0, 0.5, 1.0]})
    for name, table in (("events", events), ("items", items)):
        parquet.write_table(table.slice(0, 0), f"{name}-0.parquet")
        parquet.write_table(table, f"{name}-1.parquet", row_group_size=3)
    outcome = prepare([], f"--input events-*.parquet {options}")
    assert outcome.status == 0, outcome.err
    assert [row["items"] for row in outcome.records("test")] == [list("abcd")]
    if options:
        assert [feature.kind for feature in outcome.folder.schema.item_features[1:]] == ["number"]


def test_parquet_files_of_one_input_have_the_same_columns(prepare, tmp_path):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [1], "title": ["A"]})
    parquet.write_table(table, tmp_path / "1.parquet")
    parquet.write_table(table.drop(["timestamp", "title"]), tmp_path / "2.parquet")
    outcome = prepare([], "--input", str(tmp_path / "*.parquet"))
    assert f"{tmp_path / '2.parquet'} has no column 'timestamp'" in outcome.err
    outcome = prepare(THREE_USERS, "--items", str(tmp_path / "*.parquet"))
    assert f"{tmp_path / '2.parquet'} has no column 'timestamp', which {tmp_path / '1.parquet'} has" in outcome.err


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_what_files_hold_is_seen_in_the_first_that_holds_something(prepare, tmp_path, suffix):
    expected = prepare(THREE_USERS, output="alone")
    (tmp_path / "items-0.csv").write_text("")
    (tmp_path / "items-1.csv").write_text("item_id,title\n")
    (tmp_path / "items-2.csv").write_text("item_id,title\na,A b c\n")
    outcome = prepare(
        ["", HEADER, THREE_USERS], f"--items {tmp_path / 'items-*.csv'} --item-feature title:text", suffix=suffix
    )
    assert outcome.status == 0, outcome.err
    assert outcome.histories("test") == expected.histories("test")
    assert item_rows(outcome) == [("a", "A b c"), ("b", ""), ("c", "")]


def test_an_option_given_twice_adds_and_a_file_given_twice_counts_once(prepare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, events in (("a.csv", ("u a 1", "u b 2")), ("b.csv", ("u c 3", "u d 4"))):
        (tmp_path / name).write_text(log(*events))
    outcome = prepare([], f"--input a.csv --input [ab].csv {tmp_path}/b.csv")
    assert outcome.status == 0, outcome.err
    assert outcome.stats["input"]["events"] == 4
    assert outcome.histories("test") == {"u": (["a", "b", "c"], ["d"])}
    (tmp_path / "part-1").mkdir()
    (tmp_path / "a.csv").rename(tmp_path / "part-1" / "a.csv")
    in_folders = prepare([], "--input part-*/a.csv --input b.csv", output="third")
    assert in_folders.folder.fingerprint == outcome.folder.fingerprint
    assert "read part-1/a.csv" in in_folders.err
    (tmp_path / "part-1" / "a.csv").rename(tmp_path / "a.csv")
    twice = prepare([], f"--input a.csv b.csv --test-input {tmp_path}/b.csv --split files", output="other")
    assert f"{tmp_path}/b.csv is given twice, the second time by --test-input" in twice.err


def test_a_line_of_empty_fields_is_rejected_whatever_is_between_them(prepare):
    text = log("u a 1", "u b 2", "u c 3", "u d 4", "  ")
    for suffix, fields in ((".csv", text), (".tsv", text.replace(",", "\t"))):
        outcome = prepare(fields, "--max-rejected 0.5", suffix=suffix, output=suffix)
        assert outcome.status == 0, outcome.err
        assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(6, "empty user id")]


def test_many_items_are_in_several_files_in_the_order_of_their_ids(prepare, tmp_path):
    items = [f"i{number:02d}" for number in range(30)]
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{item},t {item} x\n" for item in items))
    events = log(*(f"u{user} {item} {user + n}" for user in range(3) for n, item in enumerate(items[user:])))
    options = f"--items {tmp_path / 'items.csv'} --item-feature title:text"
    whole, cut = prepare(events, options, output="whole"), prepare(events, options, "--range-bytes 40")
    assert len(whole.folder.item_files()) == 1
    assert len(cut.folder.item_files()) > 2
    assert item_rows(cut) == item_rows(whole)
    assert [row[0] for row in item_rows(cut)] == cut.folder.item_ids


def test_names_of_columns_become_names_of_features(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,Product Title,1st/shelf\na,A b c,2\n")
    options = '--item-feature "Product Title:text" 1st/shelf:number --require-item-features "Product Title"'
    outcome = prepare(THREE_USERS, f"--items {tmp_path / 'items.csv'} {options}", "--min-user-events 2")
    assert outcome.status == 0, outcome.err
    names = [feature.name for feature in outcome.folder.schema.item_features]
    assert names == ["item_id", "Product_Title", "column_1st_shelf"]
    for header, message in (("a b,a/b", "more than one column for a feature named 'a_b'"), ("名,b", "Rename it")):
        (tmp_path / "items.csv").write_text(f"item_id,{header}\na,1,2\n")
        assert message in prepare(THREE_USERS, f"--items {tmp_path / 'items.csv'}", output="other").err


def test_quotes_in_items_files_may_be_letters(prepare, tmp_path):
    (tmp_path / "items.tsv").write_text('item_id\ttitle\na\t"Great" expectations\n')
    options = f"--items {tmp_path / 'items.tsv'} --item-feature title:text --items-no-quotes"
    assert item_rows(prepare(THREE_USERS, options))[0] == ("a", '"Great" expectations')


def test_a_byte_order_mark_may_be_named(prepare):
    outcome = prepare(THREE_USERS.encode("utf-8-sig"), "--encoding utf-8-sig")
    assert outcome.histories("test") == prepare(THREE_USERS, output="plain").histories("test")


BAD_LINES = {
    3: (b"u,a", "wrong number of columns", "u,a"),
    4: (b"u,a,1,2", "wrong number of columns", "u,a,1,2"),
    6: (b"u,a,soon", "unparsable time", "u,a,soon"),
    7: (b",a,1", "empty user id", ",a,1"),
    8: (b"u, ,1", "empty item id", "u, ,1"),
    10: (b"u,\xff\xe9,1", "broken encoding", "u,\\xff\\xe9,1"),
    11: (b'u,"a,1', "quotes do not match", 'u,"a,1'),
    14: (b"u,\ra,1", "item id contains a line break", "u,\ra,1"),
}


@pytest.mark.parametrize(("suffix", "range_bytes"), [(".csv", "1"), (".csv", "13"), (".csv.gz", "1000000")])
def test_each_bad_line_is_kept_with_its_number_and_reason(prepare, suffix, range_bytes):
    lines = [b"user_id,item_id,timestamp", *(b"u,i%d,%d" % (k, k) for k in range(2, 16))]
    for number, (line, _, _) in BAD_LINES.items():
        lines[number - 1] = line
    lines[12 - 1] = b""  # a blank line is no error
    text = b"\n".join(lines)  # and the last line needs no end
    outcome = prepare([text, text], "--max-rejected", "0.9", "--range-bytes", range_bytes, suffix=suffix)
    assert outcome.status == 0, outcome.err
    expected = [(number, reason, raw) for number, (_, reason, raw) in BAD_LINES.items()]
    for part in (outcome.rejected()[: len(expected)], outcome.rejected()[len(expected) :]):
        assert len({row["file"] for row in part}) == 1
        assert [(row["line"], row["reason"], row["text"]) for row in part] == expected
    counted = outcome.stats["input"]
    assert (counted["lines"], counted["rejected"], counted["events"]) == (30, 16, 10)
    assert counted["rejected_by_reason"] == collections.Counter(2 * [reason for _, reason, _ in expected])
    (row,) = outcome.records("test")
    assert row["items"] == [f"i{k}" for k in (2, 5, 9, 13, 15) for _ in range(2)]


def test_too_many_bad_lines_fail_the_job_and_are_kept(prepare):
    outcome = prepare(log("u a 1", "u b 2", "u c 3", "u d soon"))
    assert outcome.status == 1
    assert "1 of 5 lines of the input files (20.0%) were rejected" in outcome.err
    assert "1 unparsable time" in outcome.err
    kept = outcome.output.with_name("dataset.rejected")
    assert str(kept) in outcome.err
    assert [row["line"] for row in outcome.rejected(kept)] == [5]
    assert sorted(path.name for path in outcome.output.parent.iterdir()) == ["dataset.rejected", "events-0.csv"]


def test_rejected_lines_are_kept_where_nothing_is_left_to_train_on(prepare):
    outcome = prepare(log("u a 1", "u b 2", "u c soon"), "--min-user-events 9 --max-rejected 0.5")
    assert outcome.status == 2
    kept = outcome.output.with_name("dataset.rejected")
    assert "No training sequence with a target is left" in outcome.err
    assert f"The rejected lines are in {kept}/." in outcome.err
    assert [row["line"] for row in outcome.rejected(kept)] == [4]


@pytest.mark.parametrize("options", ["", "--overwrite"])
def test_what_has_come_meanwhile_is_not_replaced(prepare, tmp_path, monkeypatch, options):
    run_pipeline = prepare_sequences.run_pipeline

    def run_beside_another(*args):
        run_pipeline(*args)
        (tmp_path / "dataset").mkdir()
        (tmp_path / "dataset" / "photo.jpg").write_bytes(b"dear")

    monkeypatch.setattr(prepare_sequences, "run_pipeline", run_beside_another)
    outcome = prepare(THREE_USERS, options)
    assert outcome.status == 2
    assert (tmp_path / "dataset" / "photo.jpg").read_bytes() == b"dear"
    (beside,) = tmp_path.glob("dataset-*")
    assert f"The new dataset is {beside}." in outcome.err
    assert DatasetFolder(beside).item_ids == ["a", "b", "c"]


def test_an_existing_folder_is_replaced_only_when_asked_and_only_by_a_whole_one(prepare):
    first = prepare(THREE_USERS)
    fingerprint = first.folder.fingerprint
    refused = prepare(THREE_USERS)
    assert refused.status == 2
    assert "--overwrite" in refused.err
    assert prepare(log("u a 1", "u a soon"), "--time-format", "s", "--overwrite").status == 1
    assert first.folder.fingerprint == fingerprint
    assert prepare(log("u a 1", "u b 2", "u b 3", "u b 4"), "--overwrite").status == 0
    assert first.folder.item_ids == ["a", "b"]
    assert [path.name for path in first.output.parent.iterdir() if "dataset." in path.name] == ["dataset.rejected"]


def test_nothing_but_a_dataset_folder_is_replaced(prepare, tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "photo.jpg").write_bytes(b"dear")
    outcome = prepare(THREE_USERS, "--overwrite")
    assert outcome.status == 2
    assert "holds photo.jpg, which is not of a dataset folder" in outcome.err
    assert (tmp_path / "dataset" / "photo.jpg").read_bytes() == b"dear"
    assert prepare(THREE_USERS, output="old").status == 0
    (tmp_path / "old" / "train" / "mended.csv").write_text(THREE_USERS)
    outcome = prepare([], f"--input {tmp_path}/old/train/mended.csv --overwrite", output="old")
    assert outcome.status == 2
    assert "mended.csv is input, and in the --output that would be replaced" in outcome.err


def test_the_same_input_gives_the_same_bytes(prepare):
    generator = random.Random(0)
    text = log(
        *(f"u{generator.randrange(40)} i{generator.randrange(30)} {generator.randrange(50)}" for _ in range(600))
    )
    first = prepare(text, "--num-shards", "3", output="first")
    second = prepare(text, "--num-shards", "3", output="second")
    names = sorted(str(path.relative_to(first.output)) for path in first.output.rglob("*") if path.is_file())
    assert f"train/{records.shard_name(2, 3)}" in names
    assert filecmp.cmpfiles(first.output, second.output, names, shallow=False) == (names, [], [])
    assert first.folder.fingerprint == second.folder.fingerprint


def test_leave_one_out_agrees_with_a_plain_loop(prepare):
    generator = random.Random(2)
    events = [
        (f"u{generator.randrange(30)}", f"i{generator.randrange(12)}", generator.randrange(20)) for _ in range(300)
    ]
    outcome = prepare(log(*(f"{user} {item} {time}" for user, item, time in events)), "--range-bytes", "100")

    by_user = collections.defaultdict(list)
    for user, item, _ in sorted(events, key=lambda event: event[2]):  # sorted() is stable
        by_user[user].append(item)
    expected: dict = {"train": {}, "valid": {}, "test": {}}
    for user, items in by_user.items():
        if len(items) < 3:
            expected["train"][user] = (items[:1], items[1:])
            continue
        expected["train"][user] = (items[:1], items[1:-2])
        expected["valid"][user] = (items[:-2], items[-2:-1])
        expected["test"][user] = (items[:-1], items[-1:])
    assert {split: outcome.histories(split) for split in schema.SPLITS} == expected
    counts = collections.Counter(item for history, targets in expected["train"].values() for item in history + targets)
    assert outcome.folder.item_ids == sorted({event[1] for event in events}, key=lambda item: (-counts[item], item))
    assert outcome.folder.item_counts == sorted(counts.values(), reverse=True)


def test_a_share_of_the_users_is_for_validation(prepare):
    text = log(*(f"u{user} i{(user * 7 + time * 3) % 40} {time}" for user in range(200) for time in range(5)))
    plain = prepare(text, output="plain")
    outcome = prepare(text, "--valid-share 0.25")
    assert outcome.status == 0, outcome.err
    assert outcome.histories("test") == plain.histories("test")
    valid = outcome.histories("valid")
    assert 25 < len(valid) < 75
    assert valid.items() <= plain.histories("valid").items()
    for user, (history, targets) in plain.histories("train").items():
        held_out = plain.histories("valid")[user][1]
        assert outcome.histories("train")[user] == (history, targets if user in valid else targets + held_out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--valid-share 1.5", "--valid-share must be from 0 to 1, got 1.5"),
        ("--valid-share 0.5 --split time --test-from 3", "--valid-share needs --split leave-one-out"),
    ],
)
def test_a_share_for_validation_is_of_leave_one_out(prepare, options, message):
    outcome = prepare(THREE_USERS, options)
    assert outcome.status == 2
    assert message in outcome.err


# x and y are rare.
CHAIN = log("u a 1", "u x 2", "u b 3", "u y 4", "v a 1", "v b 2", "v c 3", "w a 1", "w c 2", "w a 3")


def test_filters_run_once_on_the_counts_of_their_input(prepare):
    outcome = prepare(CHAIN, "--min-item-events", "2", "--min-user-events", "4")
    # Only u has 4 events, and keeps b although b is rarer now.
    assert outcome.steps() == [("parsed", 3, 5, 10), ("filter", 1, 2, 2)]


def test_filters_repeat_until_nothing_changes(prepare):
    text = log(
        "u a 1", "u x 2", "u b 3", "v a 1", "v b 2", "v a 3", "w a 4", "w b 5", "w b 6", "z b 1", "z x 2",
        "s a 1", "s b 2", "s a 3", "s b 4",
    )  # fmt: skip
    outcome = prepare(text, "--min-item-events", "2", "--min-user-events", "3", "--filter-rounds", "4")
    # Round 1 drops z for its length, so x is rare in round 2; then u has 2 events and goes in round 3.
    assert outcome.steps() == [
        ("parsed", 5, 3, 15),
        ("filter round 1", 4, 3, 13),
        ("filter round 2", 4, 2, 12),
        ("filter round 3", 3, 2, 10),
        ("filter round 4", 3, 2, 10),
    ]


def test_cleaning_steps_are_counted_in_their_order(prepare, tmp_path):
    (tmp_path / "items.tsv").write_text("item_id\tname\na\tApple\nb\tBanana\nz\tZucchini\na\tAgain\n")
    text = log(
        "u a 1 5", "u a 2 5", "u b 3 1", "u b 4 4", "u c 5 5", "u a 6 4", "u b 7 4", "u b 8 4",
        header="user_id,item_id,timestamp,rating\n",
    )  # fmt: skip
    outcome = prepare(
        text,
        "--label-column rating --label-threshold 4 --positive-only --duplicates consecutive --max-length 4",
        *("--items", str(tmp_path / "items.tsv"), "--require-items"),
    )
    assert outcome.status == 0, outcome.err
    assert outcome.steps() == [
        ("parsed", 1, 3, 8),
        ("positive only", 1, 3, 7),
        ("duplicates consecutive", 1, 3, 5),
        ("items with side information", 1, 2, 4),
        ("newest 4", 1, 2, 4),
    ]
    (row,) = outcome.records("test")
    assert (row["items"], row["timestamps"], row["labels"]) == (["a", "b", "a", "b"], [1, 4, 6, 7], [1, 1, 1, 1])
    items = outcome.stats["items"]
    assert items["without_side_information"] == 0
    assert items["in_items_file_without_events"] == 1
    assert items["duplicates_in_items_file"] == 1
    assert item_rows(outcome) == [("a", "Apple"), ("b", "Banana")]


def plain(value):
    return value.decode() if isinstance(value, bytes) else value.tolist()


def item_rows(outcome):
    import tensorflow as tf

    features = outcome.folder.schema.item_features
    spec = records.parsing_spec(features)
    return [
        tuple(plain(parsed[feature.name].numpy()) for feature in features)
        for file in outcome.folder.item_files()
        for parsed in (
            tf.io.parse_single_example(example, spec)
            for example in tf.data.TFRecordDataset(file, compression_type="GZIP")
        )
    ]


def test_items_files_without_a_header_and_with_gaps_describe_every_item(prepare, tmp_path):
    (tmp_path / "items.dat").write_bytes("b::Pâté::Food|Meat\nq\n".encode("latin-1"))
    outcome = prepare(
        THREE_USERS,
        *("--items", str(tmp_path / "items.dat"), "--items-format", "csv", "--items-delimiter", "::"),
        "--items-encoding latin-1 --items-columns item_id,title,genres --max-rejected 0.5",
        *("--item-feature", "title:text"),
    )
    assert outcome.status == 0, outcome.err
    assert "Inferred item features genres:categories.\n" in outcome.err
    assert item_rows(outcome) == [("a", "", []), ("b", "Pâté", [2, 3]), ("c", "", [])]
    assert outcome.stats["items"]["without_side_information"] == 2
    assert outcome.stats["input"]["items_file"]["rejected_by_reason"] == {"wrong number of columns": 1}
    assert [(row["line"], row["text"]) for row in outcome.rejected()] == [(2, "q")]


def test_json_items_may_lack_keys(prepare, tmp_path):
    rows = [{"item_id": "a", "price": 1.5, "tags": ["x", None, "é"]}, {"item_id": "b", "new": True}, {"price": 2}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = prepare(
        THREE_USERS,
        f"--items {tmp_path / 'items.jsonl'} --max-rejected 0.4",
        "--item-feature price:text tags:categories new:text",
    )
    assert outcome.status == 0, outcome.err
    assert item_rows(outcome) == [("a", "1.5", [2, 3], ""), ("b", "", [], "true"), ("c", "", [], "")]
    assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(3, "empty item id")]


def test_item_features_are_learned_from_training_items_alone(prepare, tmp_path):
    (tmp_path / "items.csv").write_text(
        "item_id,price,brand,tags,photo\n"
        "a,1,acme,x|y,a.jpg\nb,3,acme,y,b.jpg\nc,5,zeta,,c.jpg\nnew,100,fresh,fresh|y,d.jpg\nb,4,acme,y,b.jpg\n"
        "broken,NaN,acme,x,e.jpg\nbroken2,much,acme,x,e.jpg\n"
    )
    text = log("t a 1", "t b 2", "t c 3", "u c 1", "u a 2", "v b 11", "v new 12", "w new 21", "w a 22")
    declared = ("--items", str(tmp_path / "items.csv"), "--item-feature", "price:number", "brand:category")
    outcome = prepare(text, "--split time --valid-from 10 --test-from 20 --max-rejected 0.5", *declared)
    assert outcome.status == 0, outcome.err
    assert "Inferred item features tags:categories photo:image-path.\n" in outcome.err
    learned = json.loads((outcome.output / schema.FEATURES_FILE).read_text())
    assert learned["price"] == {"mean": 3.0, "deviation": pytest.approx((8 / 3) ** 0.5)}
    assert learned["brand"] == {"values": ["acme", "zeta"]}
    assert learned["tags"] == {"values": ["y", "x"], "most": 2}
    rows = {row[0]: row[1:] for row in item_rows(outcome)}
    deviation = (8 / 3) ** 0.5
    assert rows["a"] == (pytest.approx(-2 / deviation), 2, [3, 2], "a.jpg")
    assert rows["new"] == (pytest.approx(97 / deviation), 1, [1, 2], "d.jpg")
    assert rows["c"][1:3] == (3, [])
    sizes = {feature.name: feature.num_values for feature in outcome.folder.schema.item_features}
    assert sizes == {"item_id": 0, "price": 0, "brand": 4, "tags": 4, "photo": 0}
    assert outcome.stats["items"]["conflicting_in_items_file"] == 1
    assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(7, "bad number"), (8, "bad number")]


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("price", "NAME:KIND, such as price:number, got 'price'"),
        ("prize:number", "no column 'prize' .*did you mean 'price'"),
        ("price:nummer", "must be one of number, .* got 'nummer'. Did you mean 'number'"),
    ],
)
def test_a_wrong_declaration_of_an_item_feature_says_what_is_expected(prepare, tmp_path, declaration, message):
    (tmp_path / "items.csv").write_text("item_id,price\na,1\n")
    outcome = prepare(THREE_USERS, "--items", str(tmp_path / "items.csv"), "--item-feature", declaration)
    assert outcome.status == 2
    assert re.search(message, outcome.err)


def test_features_of_users_are_in_their_records_and_learned_from_training_users_alone(prepare, tmp_path):
    (tmp_path / "users.csv").write_text(
        "who,country,age,hobbies\nt,no,20,x|y\nu,se,40,y\nlate,fi,100,z\nnobody,dk,3,q\nu,se,41,y\n,se,1,x\n"
    )
    text = log("t a 1", "t b 2", "u b 1", "u a 2", "w a 3", "w b 4", "late a 21", "late b 22", "u a 23")
    outcome = prepare(
        text,
        "--split time --test-from 20 --max-rejected 0.5 --users",
        str(tmp_path / "users.csv"),
        "--user-id-column who --user-feature country:category age:number",
    )
    assert outcome.status == 0, outcome.err
    assert "Inferred user features hobbies:categories.\n" in outcome.err
    learned = json.loads((outcome.output / schema.USER_FEATURES_FILE).read_text())
    assert learned == {
        "country": {"values": ["no", "se"]},
        "age": {"mean": 30.0, "deviation": 10.0},
        "hobbies": {"values": ["y", "x"], "most": 2},
    }
    train = {row["user_id"]: (row["country"], row["age"], row["hobbies"]) for row in outcome.records("train")}
    assert train["t"] == (2, -1.0, [3, 2])
    assert train["u"] == (3, 1.0, [2])
    assert train["w"] == (0, pytest.approx(float("nan"), nan_ok=True), [])
    test = {row["user_id"]: (row["country"], row["age"], row["hobbies"]) for row in outcome.records("test")}
    assert test == {"late": (1, 7.0, [1]), "u": (3, 1.0, [2])}
    sizes = {feature.name: feature.num_values for feature in outcome.folder.schema.user_features}
    assert sizes == {"country": 4, "age": 0, "hobbies": 4}
    assert outcome.stats["users"] == {
        "without_side_information": 1,
        "in_users_file_without_events": 1,
        "duplicates_in_users_file": 1,
        "conflicting_in_users_file": 1,
    }
    assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(7, "empty user id")]
    assert "users files: 1 users have no row, 1 rows have no events" in outcome.out


def test_users_without_records_have_no_events(prepare, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,country\none,no\ntwo,no\nthree,no\nnobody,no\n")
    text = log(
        "one a 1", "two a 1", "two b 2", "three a 1", "three b 2", "three c 3", "four a 1", "five a 1", "five b 2"
    )
    outcome = prepare(text, "--users", str(tmp_path / "users.csv"), "--user-feature country:category")
    assert outcome.stats["users"]["in_users_file_without_events"] == 2  # one and nobody
    assert outcome.stats["users"]["without_side_information"] == 1  # five
    assert outcome.folder.schema.num_users == 2  # the training sequence of three is of one event


def test_users_files_do_not_change_the_sequences(prepare, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,country\nann,no\n")
    plain = prepare(THREE_USERS, output="plain")
    described = prepare(THREE_USERS, "--users", str(tmp_path / "users.csv"), "--user-feature country:category")
    for split in schema.SPLITS:
        assert described.histories(split) == plain.histories(split)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--user-feature labels:number", "has a column 'labels' that is not the --user-id-column"),
        ("--user-column none --session-column user_id", "--users needs --user-column"),
    ],
)
def test_users_files_that_cannot_be_joined_are_refused(prepare, tmp_path, options, message):
    (tmp_path / "users.csv").write_text("user_id,labels\nann,1\n")
    outcome = prepare(THREE_USERS, "--users", str(tmp_path / "users.csv"), options)
    assert outcome.status == 2
    assert message in outcome.err


def test_events_of_items_without_a_required_feature_are_dropped(prepare, tmp_path):
    # Of several rows the first counts.
    (tmp_path / "items.csv").write_text("item_id,title,photo\na,A,a.jpg\nb,B,\nb,B,b.jpg\nc,,c.jpg\nd,D,d.jpg\n")
    text = log(*(f"{user} {item} {time}" for user in "tu" for time, item in enumerate("abcdad")))
    items = ("--items", str(tmp_path / "items.csv"), "--item-feature title:text photo:image-path")
    outcome = prepare(text, *items, "--require-item-features title,photo")
    assert outcome.status == 0, outcome.err
    assert [row["items"] for row in outcome.records("test")] == [list("adad")] * 2
    rows = [{"item_id": item, "tags": tags} for item, tags in (("a", ["x"]), ("b", []), ("c", [""]), ("d", "|"))]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = prepare(
        log("t a 0", "t b 1", "t c 2", "t d 3", "t a 4", "t a 5", "t a 6"),
        *("--items", str(tmp_path / "items.jsonl"), "--item-feature tags:categories --require-item-features tags"),
        output="tagged",
    )
    assert [row["items"] for row in outcome.records("test")] == [list("aaaa")]
    outcome = prepare(text, *items, "--require-item-features titel", output="other")
    assert outcome.status == 2
    assert "no column 'titel' (--require-item-features); did you mean 'title'" in outcome.err


def test_items_held_out_occur_as_test_targets_alone(prepare):
    text = log(*(f"u{user} i{(user * 7 + time * 3) % 40:02d} {time}" for user in range(60) for time in range(8)))
    plain = prepare(text, output="plain").histories("test")
    outcome = prepare(text, "--hold-out-items 0.2")
    assert outcome.status == 0, outcome.err
    counts = dict(zip(outcome.folder.item_ids, outcome.folder.item_counts, strict=True))
    held_out = {item for item, count in counts.items() if not count}
    assert 3 <= len(held_out) <= 14
    for user, (history, targets) in outcome.histories("test").items():
        assert history == [item for item in plain[user][0] if item not in held_out]
        assert targets == plain[user][1]
    assert not held_out & {item for history, target in outcome.histories("valid").values() for item in history + target}
    assert outcome.stats["items"]["without_training_events"] == len(held_out)


def test_items_held_out_do_not_train_as_the_newest_of_short_sequences(prepare):
    events = [f"u{user} i{item} {time}" for user in range(30) for time, item in enumerate([user, user + 1])]
    outcome = prepare(log(*events, "v i1 1", "v i2 2", "v i3 3", "v i4 4"), "--hold-out-items 0.3")
    assert outcome.status == 0, outcome.err
    from beam_jobs.sequences import is_chosen

    held_out = {f"i{item}" for item in range(31) if is_chosen(f"i{item}", 0.3, b"hold-out")}
    assert 3 <= len(held_out) <= 20
    trained = {item for row in outcome.records("train") for item in row["items"]}
    assert not held_out & trained


def test_items_are_held_out_of_leave_one_out_alone(prepare):
    outcome = prepare(THREE_USERS, "--hold-out-items 0.1 --split time --test-from 3")
    assert outcome.status == 2
    assert "--hold-out-items needs --split leave-one-out" in outcome.err


UNSEEN = ["t a 1", "t b 2", "u a 1", "u new 11", "u b 12", "v b 11", "v new 12", "v2 new 21", "v2 new 22", "u a 22"]


def test_a_split_by_time_keeps_unseen_items_as_candidates(prepare):
    outcome = prepare(log(*UNSEEN), "--split time --valid-from 10 --test-from 20")
    assert outcome.histories("train") == {"t": (["a"], ["b"])}
    assert outcome.histories("valid") == {"u": (["a"], ["new", "b"]), "v": (["b"], ["new"])}
    assert outcome.histories("test") == {"u": (["a", "new", "b"], ["a"]), "v2": (["new"], ["new"])}
    assert outcome.folder.item_ids == ["a", "b", "new"]
    assert outcome.stats["items"]["without_training_events"] == 1


def test_unseen_items_can_be_dropped_with_what_only_they_would_test(prepare):
    outcome = prepare(log(*UNSEEN), "--split time --valid-from 10 --test-from 20 --unseen-items drop")
    assert outcome.histories("valid") == {"u": (["a"], ["b"])}
    assert outcome.histories("test") == {"u": (["a", "b"], ["a"])}
    assert outcome.folder.item_ids == ["a", "b"]
    assert outcome.stats["items"]["dropped_as_unseen"] == 1
    splits = outcome.stats["splits"]
    assert [splits[name]["dropped_sequences"] for name in schema.SPLITS] == [0, 1, 1]
    assert [splits[name]["dropped_targets"] for name in schema.SPLITS] == [0, 2, 1]


def test_sessions_of_the_last_days_are_held_out_whole(prepare):
    text = log(
        "u a 2024-01-01 1", "u b 2024-01-01 1", "u a 2024-01-08 2", "u b 2024-01-08 2", "v a 2024-01-09 1",
        "v b 2024-01-10 1",
        header="user_id,item_id,timestamp,visit\n",
    )  # fmt: skip
    outcome = prepare(text, "--session-column visit --split last-days --test-days 1 --valid-days 2")
    found = {
        split: [(row["user_id"], row["session_id"], row["target_start"]) for row in outcome.records(split)]
        for split in schema.SPLITS
    }
    assert found == {"train": [("u", "1", 1)], "valid": [("u", "2", 1)], "test": [("v", "1", 1)]}


def test_lines_may_be_whole_sequences_split_by_file(prepare, tmp_path):
    (tmp_path / "test.txt").write_text("3 1\n4 4 2\n5\n")  # of 5 alone there is nothing to predict
    outcome = prepare(
        ["1 2 3\n", "2 1\n3 3\n"],
        *("--format", "sequences", "--split", "files", "--valid-sequences", "1", "--range-bytes", "4"),
        *("--test-input", str(tmp_path / "test.txt")),
        suffix=".txt",
    )
    assert outcome.status == 0, outcome.err
    rows = {split: [row["items"] for row in outcome.records(split)] for split in schema.SPLITS}
    assert rows == {
        "train": [["1", "2", "3"], ["2", "1"]],
        "valid": [["3", "3"]],
        "test": [["3", "1"], ["4", "4", "2"]],
    }
    assert outcome.folder.item_ids == ["1", "2", "3", "4"]
    assert "left out" not in outcome.out
    assert [feature.name for feature in outcome.folder.schema.features] == ["item_ids", "target_start"]


@pytest.mark.parametrize("kind", ["events", "sequences"])
def test_training_may_see_sequences_in_the_order_of_time(prepare, tmp_path, kind):
    """In whole windows: those of the first window end before those of the second."""
    from seqrec_tf import data
    from seqrec_tf.models import SASRec

    number, shuffle = 40, random.Random(0).sample
    users = [f"u{place:02d}" for place in shuffle(range(number), number)]
    if kind == "events":
        lines = [
            f"{user} i{item % 2 + 2 * place:02d} {100 * place + item}"
            for place, user in enumerate(users)
            for item in range(4)
        ]
        outcome = prepare(log(*shuffle(lines, len(lines))), "--record-order", "time", "--num-shards", "3")
    else:
        text = "".join(f"i{2 * place:02d} i{2 * place + 1:02d}\n" for place in range(number))
        (tmp_path / "later.txt").write_text("i00 i01\n")
        options = ["--format", "sequences", "--split", "files", "--test-input", str(tmp_path / "later.txt")]
        outcome = prepare(text, "--user-column", "none", "--time-column", "none", *options, "--record-order", "time")
    assert outcome.status == 0
    assert outcome.folder.schema.record_order == schema.TIME_ORDER
    model = SASRec.from_dataset(outcome.folder, dim=4, max_len=2)
    for window, is_sorted in ((8, True), (1000, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "_WINDOW_OF_TIME", window)
            batches = data.load(outcome.folder, model, batch_size=1 if is_sorted else 4, epochs=range(1))
            names = [outcome.folder.item_ids[item - 1] for x, _, _ in batches for item in x["item_ids"].numpy()[:, 0]]
        places = [int(name[1:]) // 2 for name in names]
        assert sorted(places) == list(range(number))
        windows = [max(places[:10]) < 24 and min(places[-10:]) > 16]
        assert windows == [is_sorted]


def test_one_user_may_not_fill_the_memory(prepare):
    events = [f"u i{k} {k}" for k in range(50)]
    outcome = prepare(log(*events), "--max-events", "10", "--range-bytes", "64")
    assert outcome.records("test")[0]["items"] == [f"i{k}" for k in range(40, 50)]
    assert outcome.stats["input"]["events_beyond_the_newest"] == 40
    assert "40 events beyond the newest 10" in outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--user-column", "user"], "no column 'user' (--user-column); did you mean 'user_id'?"),
        (["--time-column", "when"], "--time-column none"),
        (["--user-column", "9"], "no column number 9"),
        (["--split", "time"], "--test-from"),
        (["--split", "time", "--test-from", "soon"], "must be a number or ISO 8601"),
        (["--split", "last-days"], "only holds an order"),
        (["--split", "last-days", "--time-column", "none"], "needs a --time-column"),
        (["--test-days", "-1"], "must not be negative"),
        (["--min-item-events", "0"], "at least 1"),
        (["--positive-only"], "--label-column"),
        (["--format", "sequences", "--label-column", "1"], "--label-column does not apply"),
        (["--format", "sequences", "--header"], "--header does not apply"),
        (["--format", "jsonl", "--user-column", "0"], "no column '0' (--user-column)"),
        (["--require-items"], "--items"),
        (["--items", "nowhere/*.csv"], "matches no file"),
        (["--input", "nowhere.csv"], "matches no file"),
        (["--input", "."], "is a folder"),
        (["--format", "jsonl"], "has no column"),
        (["--encoding", "utf-17"], "no encoding"),
        (["--encoding", "utf-16"], "UTF-8"),
        (["--preset", "retail-rocket"], "Did you mean 'retailrocket'?"),
        (["--split", "time", "--test-from", "3", "--max-length", "4"], "--max-length would leave --split time less"),
        (["--min_item_events", "5"], "did you mean --min-item-events?"),
        (["--test-input", "x.csv"], "--split files"),
        (["--min-user-events", "9"], "No training sequence with a target is left"),
        (["--item-column", "none"], "Give --item-column"),
        (["--test-days", "3"], "--test-days needs --split last-days"),
        (["--item-id-column", "sku"], "--item-id-column needs --items."),
        (["--users-delimiter", "tab"], "--users-delimiter needs --users."),
        (["--time-column", "none", "--time-format", "ms"], "--time-format needs --time-column."),
        (["--format", "jsonl", "--delimiter", "tab"], "--delimiter does not apply to --format jsonl."),
        (["--runner", "DataflowRunner"], "is on this machine, where Dataflow's workers are not"),
        (["--runner", "dataflow"], "is on this machine, where Dataflow's workers are not"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(prepare, options, message):
    outcome = prepare(THREE_USERS, *options)
    assert outcome.status == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("seqrec prepare: ")]
    assert message in line
    assert "Traceback" not in outcome.err
    assert not any("dataset" in path.name for path in outcome.output.parent.iterdir())


def test_a_column_of_the_wrong_kind_is_refused_before_the_work(prepare):
    """But not where the first records only lack something, as those of anonymous users do in a sorted file."""
    header, options = "user_id,item_id,timestamp,label\n", ["--label-column", "label"]
    outcome = prepare(header + "u,a,1,yes\nu,b,2,no\n" * 200, *options)
    assert outcome.status == 2
    assert "No record in the first lines of" in outcome.err
    assert "is an event; unparsable label: " in outcome.err
    assert "'yes'" in outcome.err
    assert "With --max-rejected 1 they are rejected" in outcome.err
    known = "u,a,1,1\nu,b,2,1\nu,a,3,1\nu,b,4,1\n"
    for lacking in (",a,1,1\n", "u,a,1,NULL\n"):
        assert prepare(header + lacking * 120 + known, *options, "--max-rejected", "0.99", "--overwrite").status == 0
    assert prepare(header + "u,a,1,no\n" * 120 + known, *options, "--max-rejected", "1", "--overwrite").status == 0


def test_what_reads_without_a_buffer_is_not_read_byte_by_byte(monkeypatch):
    """As Beam's readers of object stores do."""
    from apache_beam.io.filesystems import FileSystems

    from beam_jobs import lines as lines_lib

    class Remote(io.BufferedIOBase):
        def __init__(self):
            self.content, self.reads = io.BytesIO(b"u,a,1\n" * 10_000), 0

        def readable(self):
            return True

        def seekable(self):
            return True

        def seek(self, *place):
            return self.content.seek(*place)

        def read(self, size=-1):
            self.reads += 1
            return self.content.read(size)

    remote = Remote()
    monkeypatch.setattr(FileSystems, "open", lambda path, **_: remote)
    part = lines_lib.Range("gs://bucket/events.csv", "", 0, 0, 0, start=6_001, end=59_990)
    (block,) = lines_lib.read_blocks(part)
    assert block.offsets.tolist() == list(range(6_006, 59_990, 6))
    assert {block.line(number) for number in range(len(block))} == {b"u,a,1\n"}
    assert remote.reads < 5


def test_dataflow_needs_the_package_on_its_workers():
    from beam_jobs.prepare_sequences import beam_options, check_reachable

    options = ["--runner", "DataflowRunner"]
    with pytest.raises(ValueError, match=r"Dataflow's workers need this package: give --setup_file"):
        check_reachable(beam_options(options, "prepare"), {"output": ["gs://bucket/shop"]})
    for given in ("--setup_file=./setup.py", "--sdk_container_image=image", "--extra_package=seqrec_tf.whl"):
        check_reachable(beam_options([*options, given], "prepare"), {"output": ["gs://bucket/shop"]})


def test_preparation_needs_no_tensorflow(tmp_path):
    """Which takes seconds to import, on every worker."""
    import subprocess

    (tmp_path / "events.csv").write_text(THREE_USERS)
    (tmp_path / "items.csv").write_text("item_id,name\na,Apple\n")
    (tmp_path / "users.csv").write_text("user_id,age\nu,5\n")
    code = (
        "import sys\n"
        "from seqrec_tf import cli\n"
        "status = cli.main(['prepare', *sys.argv[1:]])\n"
        "loaded = {'tensorflow', 'keras'} & sys.modules.keys()\n"
        "sys.exit(' '.join(sorted(loaded)) or status)\n"
    )
    options = f"--input {tmp_path}/events.csv --items {tmp_path}/items.csv --users {tmp_path}/users.csv"
    command = [sys.executable, "-c", code, *options.split(), "--output", str(tmp_path / "dataset")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_input_without_a_line_is_refused(prepare):
    assert "empty" in prepare("").err
    assert prepare(HEADER).status == 2


def test_a_damaged_gzip_file_fails_the_job(prepare, tmp_path):
    import gzip

    whole = gzip.compress(log(*(f"u{k} i{k * k % 997} {k}" for k in range(5000))).encode())
    (tmp_path / "broken.csv.gz").write_bytes(whole[: len(whole) // 2])
    outcome = prepare([], "--input", str(tmp_path / "broken.csv.gz"))
    assert outcome.status == 1
    assert "broken.csv.gz is damaged: Compressed file ended" in outcome.err
    assert not any("dataset" in path.name for path in tmp_path.iterdir())


class BucketFileSystem(LocalFileSystem):
    """Local files under another scheme: what the job does with them it does through Beam's file systems."""

    named: ClassVar[list[str]] = []

    @classmethod
    def scheme(cls):
        return "bucket"

    def match(self, patterns, limits=None):
        results = super().match([pattern.removeprefix("bucket://") for pattern in patterns], limits)
        return [
            MatchResult(
                f"bucket://{result.pattern}",
                [
                    FileMetadata(f"bucket://{file.path}", file.size_in_bytes)
                    for file in result.metadata_list
                    if os.path.isfile(file.path)
                ],
            )
            for result in results
        ]

    def create(self, path, *args, **kwargs):
        return super().create(path.removeprefix("bucket://"), *args, **kwargs)

    def open(self, path, *args, **kwargs):
        return super().open(path.removeprefix("bucket://"), *args, **kwargs)

    def rename(self, sources, destinations):
        self.named.extend(destinations)
        super().rename(*([path.removeprefix("bucket://") for path in paths] for paths in (sources, destinations)))

    def delete(self, paths):
        for path in paths:
            os.remove(path.removeprefix("bucket://"))


def test_a_remote_folder_is_complete_when_its_last_file_says_so(prepare, tmp_path):
    (tmp_path / "some.csv").write_text(THREE_USERS)
    (tmp_path / "more.csv").write_text(log("z a 1"))
    options = [f"--input bucket://{tmp_path}/*.csv --output bucket://{tmp_path}/remote"]
    outcome = prepare([], *options)
    assert outcome.status == 0, outcome.err
    assert BucketFileSystem.named[-1].endswith("/remote/COMPLETED")
    assert DatasetFolder(tmp_path / "remote").stats["steps"] == [
        {"step": "parsed", "users": 4, "items": 3, "events": 9}
    ]
    assert prepare([], *options).status == 2
    (tmp_path / "remote" / "train" / "stale").touch()
    assert prepare([], *options, "--overwrite").status == 0
    assert not (tmp_path / "remote" / "train" / "stale").exists()


@pytest.mark.slow
def test_a_worker_that_fails_says_why_in_one_sentence(prepare, tmp_path):
    import gzip

    whole = gzip.compress(log(*(f"u{k} i{k * k % 997} {k}" for k in range(5000))).encode())
    (tmp_path / "broken.csv.gz").write_bytes(whole[: len(whole) // 2])
    outcome = prepare([], "--input", str(tmp_path / "broken.csv.gz"), "--direct_num_workers=2")
    assert outcome.status == 1
    last = outcome.err.splitlines()[-1]
    assert last == (
        f"seqrec prepare: {tmp_path}/broken.csv.gz is damaged: "
        "Compressed file ended before the end-of-stream marker was reached."
    )


def test_the_last_exception_of_a_worker_is_its_sentence():
    text = (
        "bundle failed: Traceback (most recent call last):\n  File x\nOSError: [Errno 28] No space\n\n"
        "During handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n"
        "  File y\nRuntimeError: shop/train/part-0 cannot be written: No space. [while running 'Prepare/Write']\n"
    )
    assert prepare_sequences.sentence_of(text) == "shop/train/part-0 cannot be written: No space."
    assert prepare_sequences.sentence_of("no luck [while running 'Prepare/Read']") == "no luck"


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(prepare):
    text = log(*(f"u{k % 37} i{k * k % 101} {k}" for k in range(3000)))
    options = ["--range-bytes", "2000", "--num-shards", "2"]
    one = prepare(text, *options, output="one")
    two = prepare(text, *options, "--direct_num_workers=2", "--direct_running_mode=multi_processing", output="two")
    assert two.status == 0, two.err
    assert two.folder.fingerprint == one.folder.fingerprint
    assert (two.output / "stats.json").read_bytes() == (one.output / "stats.json").read_bytes()


def plan_for(tmp_path, output):
    from beam_jobs.options import Options, TableOptions
    from beam_jobs.pipeline import make_plan

    (tmp_path / "events.csv").write_text(THREE_USERS)
    (tmp_path / "items.csv").write_text("item_id,name\na,Apple\n")
    return make_plan(
        Options(
            input=(str(tmp_path / "*events.csv"),),
            items=TableOptions("item", files=(str(tmp_path / "items.csv"),), id_column="item_id"),
            output=output,
            require_items=True,
            min_item_events=2,
            filter_rounds=2,
            max_length=10,
        ),
        output,
    )


def test_the_graph_serialises_for_a_portable_runner(tmp_path):
    import apache_beam as beam

    from beam_jobs.pipeline import PrepareSequences

    pipeline = beam.Pipeline()
    pipeline | "Prepare" >> PrepareSequences(plan_for(tmp_path, "gs://bucket/dataset"))
    proto = pipeline.to_runner_api()
    names = {transform.unique_name for transform in proto.components.transforms.values()}
    assert {"Prepare/Events/Read", "Prepare/Filter 2", "Prepare/Write items", "Prepare/Finish"} <= names
    assert beam.Pipeline.from_runner_api(proto, pipeline.runner, pipeline.options)
    # Whatever the workers unpickle comes from the package that --setup_file installs there, not from __main__.
    assert b"__main__" not in proto.SerializeToString()


def test_the_dataflow_job_builds(tmp_path):
    pytest.importorskip("google.cloud.storage", reason="needs apache-beam[gcp]")
    apiclient = pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient", reason="needs apache-beam[gcp]")
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_jobs.pipeline import PrepareSequences

    # The job as DataflowRunner makes it, stopping before it asks Google for anything.
    options = PipelineOptions(
        ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t", "--job_name=prepare"]
    )
    pipeline = beam.Pipeline("FnApiRunner", options=options)
    pipeline | "Prepare" >> PrepareSequences(plan_for(tmp_path, "gs://bucket/dataset"))
    job = apiclient.Job(options, pipeline.to_runner_api())
    assert job.proto.type.name == "JOB_TYPE_BATCH"
    steps = {transform.unique_name for transform in job.proto_pipeline.components.transforms.values()}
    assert "Prepare/Finish" in steps


def test_seqrec_and_the_module_are_the_same_command():
    import subprocess

    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "beam_jobs.prepare_sequences", "--input", "nowhere.csv", "--output", "x"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert "seqrec prepare: --input nowhere.csv matches no file." in done.stderr


def test_files_are_read_in_the_order_in_which_they_are_given(prepare, tmp_path):
    (tmp_path / "day2.csv").write_text("u,a\nu,b\n")
    (tmp_path / "day10.csv").write_text("u,c\nu,d\n")
    days = [str(tmp_path / "day2.csv"), str(tmp_path / "day10.csv")]
    columns = "--user-column 0 --item-column 1 --time-column none"
    assert prepare([], "--input", *days, columns).records("test")[0]["items"] == list("abcd")


def test_a_day_written_as_a_number_is_not_taken_for_seconds(prepare):
    text = log("u a 1700000000", "u b 1700000001", "u c 1700000002", "u d 1700000003")
    outcome = prepare(text, "--split time --test-from 20231114")
    assert outcome.status == 2
    assert "write a day as ISO 8601" in outcome.err


def test_several_local_workers_are_processes():
    from apache_beam.options.pipeline_options import DirectOptions

    options = prepare_sequences.beam_options(["--direct_num_workers=2"], "prepare")
    prepare_sequences.local_runner(options)
    assert options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    options = prepare_sequences.beam_options(
        ["--direct_num_workers=2", "--direct_running_mode=multi_threading"], "prepare"
    )
    prepare_sequences.local_runner(options)
    assert options.view_as(DirectOptions).direct_running_mode == "multi_threading"


def test_movielens_1m_is_known_as_it_is_published(prepare, tmp_path):
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").write_text(
        "1::7::5::978300760\n1::9::3::978300761\n1::5::4::978300762\n1::8::4::978300763\n"
    )
    (tmp_path / "ml-1m" / "movies.dat").write_bytes("7::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    outcome = prepare([], "--preset", "movielens-1m", "--input", str(tmp_path / "ml-1m"))
    assert outcome.status == 0, outcome.err
    assert [row["timestamps"] for row in outcome.records("test")] == [[978300760, 978300761, 978300762, 978300763]]
    assert item_rows(outcome)[0] == ("7", "Misérables, Les (1995)", [2, 3])


def test_what_is_given_beside_a_preset_leaves_no_place_for_what_depends_on_it(prepare, tmp_path):
    (tmp_path / "ratings.dat").write_text("".join(f"1::{item}::5::{item}\n" for item in range(4)))
    outcome = prepare([], f"--preset movielens-1m --input {tmp_path}/ratings.dat --time-column none")
    assert outcome.status == 0, outcome.err
    assert [row["items"] for row in outcome.records("test")] == [list("0123")]


def test_a_preset_of_given_splits_may_be_split_otherwise(prepare, tmp_path):
    folder = tmp_path / "retailrocket"
    folder.mkdir()
    (folder / "train_sessions.txt").write_text("a b c d\nb c d\n")
    (folder / "test_sessions.txt").write_text("a b\n")
    outcome = prepare([], f"--preset retailrocket --input {folder} --split leave-one-out")
    assert outcome.status == 0, outcome.err
    assert [row["items"] for row in outcome.records("test")] == [list("abcd"), list("bcd")]


def test_movielens_100k_needs_no_options_but_its_preset(prepare, data_dir):
    outcome = prepare([], "--preset", "movielens-100k", "--input", str(data_dir / "ml-100k"))
    assert outcome.status == 0, outcome.err
    assert outcome.steps() == [("parsed", 943, 1682, 100_000)]
    assert outcome.folder.schema.time_unit == "seconds"
    assert item_rows(outcome)[outcome.folder.item_ids.index("50")][1] == "Star Wars (1977)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "folder", "options", "steps", "targets"),
    [
        (
            "movielens-1m",
            "ml-1m",
            ["--min-item-events", "5"],
            [("parsed", 6040, 3706, 1_000_209), ("filter", 6040, 3416, 999_611)],
            6040,
        ),
        ("amazon-beauty", "amazon-beauty", [], [("parsed", 40_226, 54_542, 353_962)], 40_226),
        ("retailrocket", "retailrocket", [], [("parsed", 126_168 + 4_735, 36_968, 685_984 + 24_602)], 19_867),
    ],
)
def test_public_data_sets_have_the_sizes_that_papers_report(prepare, data_dir, preset, folder, options, steps, targets):
    outcome = prepare([], "--preset", preset, "--input", str(data_dir / folder), *options)
    assert outcome.status == 0, outcome.err
    assert outcome.steps() == steps
    assert outcome.stats["splits"]["test"]["targets"] == targets
