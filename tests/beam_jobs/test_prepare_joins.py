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
        ("{}", "{} ", "blanks around them"),
        ("v{}", "v{}.0", "a fraction, as of 7.0"),
        ("{}.0", "{}", "a fraction, as of 7.0"),
        ("v.{}", "v-{}", "punctuation"),
        ("{}\u00e9", "{}e\u0301", "letters and accents apart, or in one"),
        ("{}", "{}_no", "the suffix '_no'"),
        ("a{}x", "b{}y", ""),
    ],
)
def test_what_tells_the_spellings_of_an_id_apart_is_found(in_events, in_files, differ_by):
    sample = joins.Sample()
    sample.add("items", joins.EVENTS, [in_events.format(number) for number in range(3, 9)])
    sample.add("items", joins.FILES, [in_files.format(number) for number in range(2, 7)])
    found = joins.unjoined(sample, "items")
    assert found["differ_by"] == differ_by
    if differ_by:
        assert (found["in_events"], found["in_files"]) in [(in_events.format(k), in_files.format(k)) for k in range(9)]


def test_files_that_describe_no_item_are_an_error_that_shows_one_id_of_each(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,price\n" + "".join(f"{item},1\n" for item in range(8)))
    outcome = prepare(spelled("sku-{}".format), f"--items {tmp_path / 'items.csv'}")
    assert outcome.status == 2
    assert not outcome.output.exists()
    assert any(
        f"None of the 8 items of the events have a row in the items files: the events have 'sku-{k}', the files '{k}'; "
        "they differ by the prefix 'sku-'. Write them alike." in outcome.err
        for k in range(8)
    )


def test_raw_ids_that_differ_by_a_fraction_say_so(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,price\n" + "".join(f"{item}.0,1\n" for item in range(8)))
    outcome = prepare(spelled(str), f"--items {tmp_path / 'items.csv'} --raw-ids")
    assert outcome.status == 2
    assert "they differ by a fraction, as of 7.0. Write them alike" in outcome.err


def test_the_column_that_has_the_ids_is_named(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,sku\n" + "".join(f"row{k}x,s{k}s\n" for k in range(8)))
    outcome = prepare(spelled("s{}s".format), f"--items {tmp_path / 'items.csv'} --item-feature sku:text")
    assert outcome.status == 2
    assert "Their column 'sku' has ids of the events: give --item-id-column sku." in outcome.err


def test_files_that_describe_fewer_than_half_of_the_users_are_a_warning(prepare, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,country\nu0,no\nU1,se\nU2,dk\n")
    outcome = prepare(spelled(str), f"--users {tmp_path / 'users.csv'} --user-feature country:category")
    assert outcome.status == 0, outcome.err
    assert "Warning: Only 1 of 3 users of the events have a row in the users files: the events have" in outcome.err
    assert "they differ by upper and lower case. Write them alike." in outcome.err
    assert outcome.stats["users"]["with_side_information"] == 1


def test_files_that_hold_too_few_rows_are_a_warning_too(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\na,Tent\n")
    outcome = prepare(THREE_USERS, f"--items {tmp_path / 'items.csv'}")
    assert outcome.status == 0, outcome.err
    warning = "Warning: Only 1 of 3 items of the events have a row in the items files; one that has none is "
    assert any(f"{warning}{item!r}." in outcome.err for item in "bc")


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
        "rows of 1 items disagree, such as a (title 'Tent', later 'Mat'): the first row wins, and a blank "
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
