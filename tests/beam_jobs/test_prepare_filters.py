"""Which events `seqrec prepare` leaves out, step by step."""

import json
import random

import pyarrow as pa
import pytest
from pyarrow import parquet
from small_logs import THREE_USERS, log

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
    assert outcome.item_rows() == [("a", "Apple"), ("b", "Banana")]


def test_events_of_items_without_a_required_feature_are_dropped(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title,photo\na,A,a.jpg\nb,B,\nb,B,\nc,,c.jpg\nd,D,d.jpg\n")
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


def test_one_user_may_not_fill_the_memory(prepare):
    events = [f"u i{k} {k}" for k in range(50)]
    outcome = prepare(log(*events), "--max-events", "10", "--range-bytes", "64")
    assert outcome.records("test")[0]["items"] == [f"i{k}" for k in range(40, 50)]
    assert outcome.stats["input"]["events_beyond_the_newest"] == 40
    assert "40 events beyond the newest 10" in outcome.out


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_condition_wants_the_same_of_every_format(prepare, suffix, tmp_path):
    """Also rows that would be rejected are dropped, as nobody wants them."""
    generator = random.Random(1)
    rows = [
        {
            "user id": f"u{k % 3}" if generator.random() < 0.9 else None,
            "item": f"i{generator.randrange(9)}",
            "Quantity": generator.choice([1, 2, -1, None]),
            "test": generator.choice([True, False]),
            "invoice": generator.choice(["536365", "C536365"]),
        }
        for k in range(300)
    ]
    text = "".join(json.dumps({name: value for name, value in row.items() if value is not None}) + "\n" for row in rows)
    if suffix == ".csv":
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        text = "\n".join([",".join(rows[0]), *lines, ""])
    elif suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        text = (tmp_path / "rows.parquet").read_bytes()
    where = "Quantity > 0 and \"user id\" is not null and not test = true and invoice not like 'C%'"
    outcome = prepare(
        text, "--user-column 'user id' --item-column item --time-column none --max-rejected 0",
        f"--where '{where}'".replace("'C%'", "'\"'\"'C%'\"'\"'"), suffix=suffix,
    )  # fmt: skip
    kept = [
        (row["user id"], row["item"])
        for row in rows
        if (row["Quantity"] or 0) > 0 and row["user id"] and not row["test"] and row["invoice"][0] != "C"
    ]
    got = [(user, item) for user, (before, targets) in outcome.histories("test").items() for item in before + targets]
    assert sorted(got) == sorted(kept)
    of_input = outcome.stats["input"]
    assert of_input["dropped_by_where"] == len(rows) - len(kept)
    nulls = [
        row
        for row in rows
        if row["Quantity"] is None and row["user id"] and not row["test"] and row["invoice"][0] != "C"
    ]
    assert of_input["dropped_as_null"] == len(nulls)
    assert f"--where: {len(rows) - len(kept)} of {len(rows) + (suffix == '.csv')} lines dropped" in outcome.out


def test_a_condition_on_a_column_that_is_not_there_names_those_that_are(prepare):
    for suffix, text in ((".csv", THREE_USERS), (".jsonl", '{"user_id": "u", "item_id": "i", "timestamp": 1}\n')):
        outcome = prepare(text, '--where "Country = 1"', suffix=suffix)
        assert outcome.status == 2
        assert "has no column 'Country' (--where; a text stands in 'single quotes'); it has 'user_id'" in outcome.err
    assert prepare("a b c\n", '--format sequences --where "a = 1"', suffix=".txt").status == 2
