"""Lines that `seqrec prepare` cannot use: each is kept with its reason, and too many fail the job."""

import collections
import json

import pytest
from small_logs import log

from beam_jobs import rejected
from beam_jobs.lines import Range

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


def test_a_line_of_empty_fields_is_rejected_whatever_is_between_them(prepare):
    text = log("u a 1", "u b 2", "u c 3", "u d 4", "  ")
    for suffix, fields in ((".csv", text), (".tsv", text.replace(",", "\t"))):
        outcome = prepare(fields, "--max-rejected 0.5", suffix=suffix, output=suffix)
        assert outcome.status == 0, outcome.err
        assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(6, "empty user id")]


def test_rejected_lines_are_in_one_file_in_the_order_of_the_input(prepare):
    lines = [f"u,i{k},{'soon' if k % 3 == 0 else k}" for k in range(30)]
    text = "\n".join(["user_id,item_id,timestamp", *lines])
    outcome = prepare([text, text], "--max-rejected 0.9 --range-bytes 13")
    (path,) = (outcome.output / "rejected").iterdir()
    assert path.name == "part-00000.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    numbers = [k + 2 for k in range(0, 30, 3)]
    assert [(row["file"][-5], row["line"]) for row in rows] == [(file, line) for file in "01" for line in numbers]


def test_rejected_lines_are_in_as_many_files_as_their_bytes_ask_for(monkeypatch):
    monkeypatch.setattr(rejected, "_REJECTED_FILE_BYTES", 100)
    parts = [Range("a", "", 0, number, 0) for number in range(4)] + [Range("b", "", 1, 4, 4)]
    lines = {0: (10, 60), 1: (20, 60), 2: (30, 0), 3: (40, 500), 4: (50, 1)}
    assert rejected.places_of(lines, parts) == {0: (0, 0), 1: (0, 10), 2: (1, 30), 3: (1, 60), 4: (6, 0)}


def test_the_lines_that_a_failed_job_rejected_go_when_it_succeeds(prepare):
    failed = prepare(log("u a 1", "u b 2", "u c soon", "u d 4"))
    assert failed.status == 1
    kept = failed.output.with_name("dataset.rejected")
    assert kept.is_dir()
    assert prepare(log("u a 1", "u b 2", "u c 3", "u d 4")).status == 0
    assert not kept.exists()
    kept.mkdir()
    (kept / "notes.txt").write_text("mine")
    assert prepare(log("u a 1", "u b 2", "u c 3", "u d 4"), "--overwrite").status == 0
    assert (kept / "notes.txt").read_text() == "mine"


def test_an_option_that_would_read_what_was_rejected_is_named(prepare):
    good = [f"u i{k} {k} x" for k in range(5)]
    text = log(*good, header="user_id,item_id,timestamp,note\n") + 'u,z,9,"open\n'
    outcome = prepare(text)
    assert outcome.status == 1
    assert "Give --multiline yes if fields hold line breaks" in outcome.err
    assert "Give --multiline yes" in prepare(text, "--max-rejected 0.5").out


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


def test_a_column_of_the_wrong_kind_is_refused_before_the_work(prepare):
    """But not where the first records only lack something, as those of anonymous users do in a sorted file."""
    header, options = "user_id,item_id,timestamp,label\n", ["--label-column", "label"]
    outcome = prepare(header + "u,a,1,good\nu,b,2,bad\n" * 200, *options)
    assert outcome.status == 2
    assert "No record in the first lines of" in outcome.err
    assert "is an event; unparsable label: " in outcome.err
    assert "'good'" in outcome.err
    assert "With --max-rejected 1 they are rejected" in outcome.err
    known = "u,a,1,1\nu,b,2,1\nu,a,3,1\nu,b,4,1\n"
    for lacking in (",a,1,1\n", "u,a,1,NULL\n"):
        assert prepare(header + lacking * 120 + known, *options, "--max-rejected", "0.99", "--overwrite").status == 0
    assert prepare(header + "u,a,1,bad\n" * 120 + known, *options, "--max-rejected", "1", "--overwrite").status == 0
