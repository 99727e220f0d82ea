"""Items and users files whose ids do not meet those of the events, and rows of them that disagree."""

import pytest
from small_logs import THREE_USERS, log

from beam_jobs import joins


def spelled(spell):
    """Three users and eight items, as one file spells the items."""
    return log(*(f"u{user} {spell(item)} {item}" for user in range(3) for item in range(8)))


@pytest.mark.parametrize(
    ("in_events", "in_files", "differ_by"),
    [
        ("sku-{}", "{}", "the prefix 'sku-'"),
        ("{}", "item/{}", "the prefix 'item/'"),
        ("a{}", "A{}", "upper and lower case"),
        ("{}", "00{}", "leading zeros"),
        ("x{}.0", "x{}.0y", ""),
        ("v.{}", "v-{}", "how they are written"),
    ],
)
def test_files_that_describe_no_item_are_an_error_that_shows_one_id_of_each(
    prepare, tmp_path, in_events, in_files, differ_by
):
    items = "".join(f"{in_files.format(item)},{item}\n" for item in range(8))
    (tmp_path / "items.csv").write_text("item_id,price\n" + items)
    outcome = prepare(spelled(in_events.format), f"--items {tmp_path / 'items.csv'}")
    assert outcome.status == 2
    assert not outcome.output.exists()
    assert "None of the 8 items of the events have a row in the items files: the events have" in outcome.err
    if differ_by:
        assert any(
            f"the events have {in_events.format(k)!r}, the files {in_files.format(k)!r}; they differ by {differ_by}. "
            in outcome.err
            for k in range(8)
        ), outcome.err
    else:
        assert "These have nothing in common: look whether --item-column and --item-id-column are the right ones." in (
            outcome.err
        )


def test_raw_ids_that_differ_by_blanks_or_fractions_say_so(prepare, tmp_path):
    for file, texts in {"blanks": [f"{item} " for item in range(8)], "fractions": [f"{k}.0" for k in range(8)]}.items():
        (tmp_path / f"{file}.csv").write_text("item_id,price\n" + "".join(f"{text},1\n" for text in texts))
    for file, words in {"blanks": "differ by blanks around them. Leave", "fractions": "differ by a fraction"}.items():
        outcome = prepare(spelled(str), f"--items {tmp_path / file}.csv --raw-ids", output=file)
        assert outcome.status == 2
        assert words in outcome.err


def test_the_column_that_has_the_ids_is_named(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,sku\n" + "".join(f"row{k}x,s{k}s\n" for k in range(8)))
    outcome = prepare(spelled("s{}s".format), f"--items {tmp_path / 'items.csv'} --item-feature sku:text")
    assert outcome.status == 2
    assert "Their column 'sku' has ids of the events: give --item-id-column sku." in outcome.err


def test_files_that_describe_fewer_than_half_of_the_users_are_a_warning(prepare, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,country\nu,no\nW,se\nV,dk\n")
    outcome = prepare(
        THREE_USERS, f"--users {tmp_path / 'users.csv'}", "--split time --test-from 9 --time-format order"
    )
    assert outcome.status == 0, outcome.err
    assert "Warning: Only 1 of 3 users of the events have a row in the users files: the events have" in outcome.err
    assert "they differ by upper and lower case. Write them alike." in outcome.err
    assert outcome.stats["users"]["with_side_information"] == 1


def test_the_sample_of_a_large_catalogue_finds_the_two_spellings_of_an_id():
    sample = joins.Sample()
    for start in range(0, 20_000, 5_000):  # as several buckets hand them on, in any order
        numbers = range(start, start + 5_000)
        sample.add("items", joins.EVENTS, [f"SKU-{number}" for number in numbers])
        sample.add("items", joins.FILES, [f"sku-{19_999 - number}" for number in numbers])
    assert {len(pairs) for pairs in sample.values()} == {200}
    found = joins.unjoined(sample, "items")
    assert found["in_events"].casefold() == found["in_files"]
    assert found["differ_by"] == "upper and lower case"


def test_rows_that_disagree_are_shown_and_blanks_give_way(prepare, tmp_path):
    rows = ["a,,1", "a,Tent,", "a,Mat,2", "b,Lamp,", "b,Lamp, ", "c,,"]
    (tmp_path / "items.csv").write_text("item_id,title,price\n" + "\n".join(rows) + "\n")
    outcome = prepare(THREE_USERS, f"--items {tmp_path / 'items.csv'} --item-feature title:text price:text")
    assert outcome.status == 0, outcome.err
    assert outcome.item_rows() == [("a", "Tent", "1"), ("b", "Lamp", ""), ("c", "", "")]
    assert outcome.stats["items"]["conflicting_in_items_file"] == 1
    assert (
        "items files: rows of 1 items disagree, such as a (title 'Tent', later 'Mat'): the first row wins, and a blank "
        "gives way to a value" in outcome.out
    )


def test_an_events_file_can_describe_the_items_by_the_columns_that_are_named(prepare, tmp_path):
    header = "user_id,item_id,timestamp,invoice,title,price,country\n"
    lines = [f"u{user},i{item},{item},{user}{item},title of {item},{item},no\n" for user in "ab" for item in range(4)]
    (tmp_path / "events.csv").write_text(header + "".join(lines))
    options = f"--input {tmp_path / 'events.csv'} --items {tmp_path / 'events.csv'}"
    outcome = prepare([], f"{options} --item-columns title --item-feature price:number")
    assert outcome.status == 0, outcome.err
    assert [feature.name for feature in outcome.folder.schema.item_features] == ["item_id", "title", "price"]
    refused = prepare([], f"{options} --item-columns titel", output="refused")
    assert refused.status == 2
    assert "has no column 'titel' (--item-columns); did you mean 'title'?" in refused.err
    mistaken = prepare([], f"{options} --items-columns item_id,title", output="mistaken")
    assert mistaken.status == 2
    assert "names its columns in its first line, so leave out --items-columns" in mistaken.err
    assert "--item-columns says which of them to take." in mistaken.err
