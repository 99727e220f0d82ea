"""What `seqrec prepare` reads: formats, encodings, several files, ranges of files."""

import io
import json

import pytest
from small_logs import HEADER, THREE_USERS, log

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


def test_a_byte_order_mark_may_be_named(prepare):
    outcome = prepare(THREE_USERS.encode("utf-8-sig"), "--encoding utf-8-sig")
    assert outcome.histories("test") == prepare(THREE_USERS, output="plain").histories("test")


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
    assert outcome.item_rows() == [("a", "A b c"), ("b", ""), ("c", "")]


def test_files_are_read_in_the_order_in_which_they_are_given(prepare, tmp_path):
    (tmp_path / "day2.csv").write_text("u,a\nu,b\n")
    (tmp_path / "day10.csv").write_text("u,c\nu,d\n")
    days = [str(tmp_path / "day2.csv"), str(tmp_path / "day10.csv")]
    columns = "--user-column 0 --item-column 1 --time-column none"
    assert prepare([], "--input", *days, columns).records("test")[0]["items"] == list("abcd")


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


def test_a_line_of_a_user_and_items_is_read_as_these(prepare, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,country\nu1,FR\n")
    text = "u1 10 11 12 13\nu2 10 11 12\nu3 11 12 13\nu4\nu1 14\n"
    options = f"--format sequences --user-column 0 --max-rejected 0.5 --users {tmp_path / 'users.csv'}"
    outcome = prepare(text, options, suffix=".txt")
    assert outcome.status == 0, outcome.err
    assert outcome.histories("test") == {
        "u1": (["10", "11", "12", "13"], ["14"]),
        "u2": (["10", "11"], ["12"]),
        "u3": (["11", "12"], ["13"]),
    }
    assert set(outcome.folder.item_ids) == {"10", "11", "12", "13", "14"}
    assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(4, "no item id")]
    assert [row["country"] for row in outcome.records("test")] == ["FR", "", ""]


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
