"""Records of several lines: quoted fields with line breaks, on both ways of reading."""

import csv
import dataclasses
import io
import random

import pytest
from both_ways import assert_both_ways_agree
from small_logs import log

from beam_jobs import lines as lines_lib
from beam_jobs import quotes
from beam_jobs.lines import Range
from beam_jobs.parsing import Columns, TextFormat

MULTILINE = TextFormat("csv", has_header=True, multiline=True)
COLUMNS = Columns("user", "item", "time", None, None)
NAMES = ["user", "item", "time", "note"]


@pytest.fixture(params=[16 << 20, 37], ids=["one block", "small blocks"])
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(lines_lib, "_BLOCK_BYTES", request.param)


def write_csv(rows, **how):
    stream = io.StringIO(newline="")
    csv.writer(stream, **how).writerows(rows)
    return stream.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_csv_writes_is_read(tmp_path, block_bytes, quoting, end):
    generator = random.Random(0)
    pieces = ['"', ",", "\n", "\r\n", "x", "é", "u9,i9,978300000,fake\n", '""', " "]
    rows = [
        [f"u{k % 7}", f"i{k}", str(978300000 + k), "".join(generator.choices(pieces, k=generator.randrange(9)))]
        for k in range(300)
    ]
    path = tmp_path / "events.csv"
    path.write_bytes(write_csv([NAMES, *rows], quoting=quoting, lineterminator=end).encode("utf-8-sig"))
    events, rejected, num_lines, tally = assert_both_ways_agree(
        MULTILINE, [Range(str(path), "", 0, 0, 0)], COLUMNS, time_format="s"
    )
    assert not rejected
    assert sorted((user, item, time) for _, user, _, item, time, *_ in events) == sorted(
        (user, item, int(time)) for user, item, time, _ in rows
    )
    assert num_lines == {0: path.read_bytes().count(b"\n")}
    assert tally.lines["events"] == 301


def test_rejected_records_have_the_numbers_of_their_first_lines(tmp_path, block_bytes):
    path = tmp_path / "events.csv"
    records = ['u,a,1,"one\ntwo"', 'u,b,soon,"three\n\nfour"', "u,c,3,", 'u,d,4,"open', 'u,e,5,5" wide', 'u,f,"six\n",']
    path.write_text("\n".join([",".join(NAMES), *records]) + "\n")
    events, rejected, _, _ = assert_both_ways_agree(
        MULTILINE, [Range(str(path), "", 0, 0, 0)], COLUMNS, time_format="s"
    )
    assert [event[3] for event in events] == ["a", "c", "e"]
    assert [(line + 1, reason, text) for _, line, reason, _, text in rejected] == [
        (4, "unparsable time", records[1]),
        (8, "quotes do not match", records[3]),
        (10, "unparsable time", records[5]),
    ]


def test_a_quote_that_nothing_closes_costs_one_line(tmp_path, block_bytes):
    path = tmp_path / "events.csv"
    path.write_text(",".join(NAMES) + "\n" + 'u,a,1,"\n' + "".join(f"u,i{k},{k},x\n" for k in range(100)))
    events, rejected, _, _ = assert_both_ways_agree(
        MULTILINE, [Range(str(path), "", 0, 0, 0)], COLUMNS, time_format="s"
    )
    assert len(events) == 100
    assert [(line + 1, reason) for _, line, reason, *_ in rejected] == [(2, "quotes do not match")]


@pytest.mark.parametrize("multiline", [True, False])
def test_a_file_without_line_breaks_in_fields_is_read_alike_either_way(tmp_path, multiline):
    """The dirty fields of each kind, but a lone quote: two of those are what encloses a field."""
    generator = random.Random(1)
    odd = ["", " ", '"a""b"', '"x,y"', 'x"y', '"a"b', "\r", '""', "é", '"a" ']
    rows = [[f"u{k % 9}", generator.choice(odd), str(978300000 + k), generator.choice(odd)] for k in range(500)]
    path = tmp_path / "events.csv"
    path.write_bytes("".join(",".join(row) + "\n" for row in [NAMES, *rows]).encode())
    part = Range(str(path), "", 0, 0, 0)
    text_format = dataclasses.replace(MULTILINE, multiline=multiline)
    events, rejected, _, _ = assert_both_ways_agree(text_format, [part], COLUMNS, time_format="s")
    plain = dataclasses.replace(MULTILINE, multiline=False)
    reference, lines, _, _ = assert_both_ways_agree(plain, [part], COLUMNS, time_format="s")
    assert events == reference
    assert [row[:3] for row in rejected] == [row[:3] for row in lines]


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ('a,b\n1,"two\nlines"\n', 2),
        ('a,b\n1,"x"\n2,"two\n\n\nlines",\n', 0),  # three fields, the first line has two
        ('a,b\n1,"x"\n2,"two\n\n\nlines"\n', 3),
        ('a,b,c\n1,",3\n4,5,6\n7,",9\n', 0),  # two stray quotes, with a record between them
        ('a,b\n1,5" pipe\n2,7" pipe\n', 0),
        ('a,b\n1,"open\n2,3\n', 0),
        ('a,b\n1,"a""\n""b"\n', 2),
    ],
)
def test_the_beginning_tells_whether_fields_hold_line_breaks(head, line):
    assert quotes.line_with_breaks(head.encode(), MULTILINE) == line


def test_line_breaks_are_read_without_an_option_and_said(prepare):
    header = "user_id,item_id,timestamp,note\n"
    rows = [f'u,{item},{978300000 + k},"two\nlines"\n' for k, item in enumerate("abcd")]
    outcome = prepare(header + "".join(rows), "--range-bytes 7")
    assert outcome.status == 0, outcome.err
    assert outcome.histories("test") == {"u": (["a", "b", "c"], ["d"])}
    assert "each file is read whole, by one worker" in outcome.err


def test_a_line_break_that_the_beginning_does_not_show_is_rejected_with_the_option_that_reads_it(prepare, monkeypatch):
    from beam_jobs import inputs

    monkeypatch.setattr(inputs, "_HEAD_BYTES", 60)
    text = log(
        "u a 1 x", "u b 2 x", "u c 3 x", "u d 4 x", 'u e 5 "two\nlines"', header="user_id,item_id,timestamp,note\n"
    )
    outcome = prepare(text, "--max-rejected 0.9")
    assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [
        (6, "quotes do not match"),
        (7, "wrong number of columns"),
    ]
    assert "give --multiline yes" in outcome.rejected()[0]["detail"]
    assert prepare(text, "--multiline yes", output="read").records("test")[0]["items"] == list("abcde")


def test_titles_of_items_may_have_several_lines(prepare, tmp_path):
    (tmp_path / "items.csv").write_text('item_id,title\na,"A\nB"\nb,"say ""b"",\nor B"\nc,C\n')
    outcome = prepare(
        log("u a 1", "u b 2", "u c 3", "u a 4"), f"--items {tmp_path / 'items.csv'} --item-feature title:text"
    )
    assert outcome.status == 0, outcome.err
    assert outcome.item_rows() == [("a", "A\nB"), ("b", 'say "b",\nor B'), ("c", "C")]


def test_utf_16_is_read_where_it_is_named(prepare):
    text = log("u ä 1", "u b 2", "u c 3", "u d 4")
    expected = prepare(text, output="plain").records("test")
    for encoding in ("utf-16", "utf-16-le"):
        outcome = prepare(text.encode(encoding), f"--encoding {encoding} --range-bytes 5", output=encoding)
        assert outcome.status == 0, outcome.err
        assert outcome.records("test") == expected
    broken = prepare(text.encode("utf-16-le")[:-1], "--encoding utf-16-le", output="broken")
    assert broken.status == 1
    assert "events-0.csv is damaged, or not utf-16-le" in broken.err
