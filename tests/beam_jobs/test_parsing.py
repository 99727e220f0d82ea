import datetime

import pytest

from beam_jobs import parsing
from beam_jobs.parsing import Columns, EventParser, LineError, TextFormat, row_parser


def fields(line, columns=(0, 1), num_columns=2, **options):
    return row_parser(TextFormat("csv", num_columns=num_columns, **options), columns, None)(line)


def test_fields_are_split_at_any_delimiter():
    assert fields("a,b") == ("a", "b")
    assert fields("a::b", delimiter="::") == ("a", "b")
    assert fields("a \t b", delimiter=" ") == ("a", "b")
    assert fields("a\tb,c", delimiter="\t") == ("a", "b,c")


def test_a_quoted_field_may_hold_the_delimiter_and_doubled_quotes():
    assert fields('"a,""b""",c') == ('a,"b"', "c")
    assert fields('5" disc,c', quoted=False) == ('5" disc', "c")
    long = "word " * 50_000
    assert fields(f'"{long}",c') == (long, "c")


@pytest.mark.parametrize("line", ['"a,b', '"a"x,b'])
def test_quotes_that_do_not_match_are_rejected(line):
    with pytest.raises(LineError, match="quotes do not match"):
        fields(line)


def test_a_column_may_be_taken_by_name_from_wherever_the_header_has_it():
    parse = row_parser(TextFormat("csv", has_header=True), ("item", None, "user"), ["user", "x", "item"])
    assert parse("u,1,i") == ("i", None, "u")


def test_lines_of_a_file_whose_header_lacks_a_column_are_rejected():
    parse = row_parser(TextFormat("csv", has_header=True), ("item", "user"), ["item", "name"])
    with pytest.raises(LineError, match=r"header lacks a column.*user"):
        parse("i,n")


@pytest.mark.parametrize("text", ["[1]", "{", '{"user": 1}', "[" * 100_000])
def test_json_that_is_no_whole_object_is_rejected(text):
    with pytest.raises(LineError, match=r"bad JSON|missing key"):
        row_parser(TextFormat("jsonl"), ("user", "item"), None)(text)


@pytest.mark.parametrize(
    ("value", "expected"), [("7", "7"), (" 7", " 7"), (7, "7"), (7.0, "7"), ("ab\u00a0c", "ab\u00a0c"), ("07", "07")]
)
def test_ids_stay_as_they_are(value, expected):
    assert parsing.parse_id(value, "item id") == expected


@pytest.mark.parametrize("value", ["", "  ", None, True, 1.5, [1], "a\nb", "a\rb", "\ud800"])
def test_an_id_that_could_not_be_kept_is_rejected(value):
    with pytest.raises(LineError):
        parsing.parse_id(value, "item id")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("978300760", "s"),
        ("978300760.25", "s"),
        ("978300760123", "ms"),
        (978300760123456, "us"),
        (978300760123456789, "ns"),
        ("2001-01-01", "iso"),
        (datetime.datetime(2001, 1, 1), "iso"),
        ("17", "order"),
        ("20010101", "order"),
    ],
)
def test_the_unit_of_time_shows_in_its_size(value, expected):
    assert parsing.infer_time_format(value) == expected


@pytest.mark.parametrize("value", ["20010101120000", 200101011200])
def test_a_date_without_separators_is_not_taken_for_a_number_of_milliseconds(value):
    with pytest.raises(LookupError, match="looks like a date and time"):
        parsing.infer_time_format(value)


@pytest.mark.parametrize(
    ("time_format", "value", "other"),
    [
        ("s", "978300760123", "ms"),
        ("s", 20010101120000, "ms"),
        ("s", 978300760123456789, "ns"),
        ("ms", "978300760.25", "s"),
        ("ms", 978300760123456, "us"),
        ("us", "978300760123", "ms"),
        ("ns", 978300760, "s"),
    ],
)
def test_a_time_in_another_unit_is_refused(time_format, value, other):
    with pytest.raises(ValueError, match=f"looks like a time in {other}, not in {time_format}"):
        parsing.time_parser(time_format)(value)


@pytest.mark.parametrize(("time_format", "value"), [("s", 978300760), ("ms", 978300760123), ("ms", -5), ("us", 12)])
def test_a_time_in_its_unit_or_near_1970_is_taken(time_format, value):
    assert parsing.time_parser(time_format)(str(value)) == value


def test_an_order_has_no_fractions():
    parse = parsing.time_parser("order")
    assert [parse("2"), parse("2.0")] == [2, 2]
    with pytest.raises(ValueError, match=r"'0\.13' is no integer"):
        parse("0.13")


@pytest.mark.parametrize("value", ["", "soon", "nan", "1_000", None, "0.5"])
def test_what_is_no_time_has_no_unit(value):
    with pytest.raises((ValueError, TypeError)):
        parsing.infer_time_format(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01 00:00:00.000002", 2),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59", -1_000_000),
        (datetime.date(1970, 1, 2), 86_400_000_000),
    ],
)
def test_iso_times_are_exact_microseconds_in_utc(text, expected):
    assert parsing.parse_iso(text) == expected


@pytest.mark.parametrize(
    ("time", "label", "reason"),
    [
        ("x", "1", "unparsable time"),
        ("", "1", "unparsable time"),
        ("inf", "1", "unparsable time"),
        (str(2**63), "1", "unparsable time"),
        ("9" * 5000, "1", "unparsable time"),
        ("1", "2", "unparsable label"),
        ("1", None, "unparsable label"),
        ("1", "nan", "unparsable label"),
        ("1", "1e999", "unparsable label"),
    ],
)
def test_a_value_that_is_none_is_rejected_with_its_name(time, label, reason):
    parse = EventParser(Columns(0, 1, 2, label=3), time_format="s")
    with pytest.raises(LineError, match=reason):
        parse(("u", "i", time, None, label), role="", position=0)


def test_a_threshold_makes_labels():
    parse = EventParser(Columns(0, 1, 2, label=3), time_format="s", label_threshold=4)
    labels = [parse(("u", "i", "1", None, value), role="", position=0)[1][3] for value in ("3.5", "4", "5")]
    assert labels == [0, 1, 1]
