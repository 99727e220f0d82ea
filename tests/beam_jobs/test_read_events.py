"""Reading many lines at once gives what reading line by line gives: each event, each reason, each line number."""

import datetime
import random

import numpy as np
import pyarrow as pa
import pytest
from both_ways import EVENT_COLUMNS, TableLineByLine, assert_both_ways_agree, ranges_of, read, rows_of

from beam_jobs import lines as lines_lib
from beam_jobs import tables
from beam_jobs.lines import Range
from beam_jobs.parsing import Columns, TextFormat
from beam_jobs.read_events import ReadEvents
from beam_jobs.read_tables import ReadTable
from beam_jobs.store import Store
from beam_jobs.where import Condition, Where

IDS = [
    *("u1", "u2", "u3", "7", "07", "7.0", "nan", "NULL", "a b", "ü", "日本", "a\u00a0b", "0x1F", "-1", "'x'", "\ufeff"),
    *("", " ", "\t", "\u00a0", "\u2003", " u1", "u1 ", '"u1"', '"a,b"', '""', '"a""b"', '"a', 'a"', 'a"b"', '"a"b'),
    *("\x00", "a\x00b", "a\rb", "a\x1fb", "\x1c", "a:b", "::", "a|b", "a;b", "\\", "a\x0bb", "a\u2028b", "\u0301"),
]
NUMBERS = [
    *("978300760", "978300761", "0978300762", "978300760.25", "978300760.0", "978300760.", ".5", "5", "-5", "-5.75"),
    *("+978300760", " 978300760", "978300760 ", "1_000", "0x10", "1e9", "1E3", "nan", "inf", "-inf", "", "soon", "٣"),
    *("978300760123", "978300760123456", "978300760123456789", "9783007601234567890", "99999999999", "100000000000"),
    *(
        "978300760.123456789012345678901",
        "0",
        "1",
        "2",
        "-0",
        "-0.0",
        "1.0",
        "0.5",
        "4.5",
        "True",
        "true",
        "null",
        '"1"',
    ),
    *(
        "978300760123.25",
        "978300760123456.789",
        "978300760123456789.5",
        "978300760.999999999999999",
        "0.1",
        "-978300760.1",
    ),
    *("99999999", "100000000", "2.50", "1,5", "--5", "5-", "1.2.3", "\x0012", "12\r", "000000000000000000000000001"),
]
MOMENTS = [
    *("2024-01-01", "2024-02-29", "2023-02-29", "2024-02-30", "2024-13-01", "2024-00-10", "0001-01-01", "2024-1-1"),
    *("2024-01-01T10:00:00", "2024-01-01 10:00:00", "2024-01-01T10:00:00Z", "2024-01-01T10:00:00.5", "20240101"),
    *("2024-01-01T10:00:00.123456", "2024-01-01T10:00:00.123456789", "2024-01-01T10:00:00+01:00", "2024-01-01T10:00"),
    *(
        "2024-01-01T10:00:00.25-05:30",
        "2024-01-01T24:00:00",
        "2024-01-01T23:59:60",
        "2024-01-01_10:00:00",
        "1969-12-31",
    ),
    *(
        "1969-12-31T23:59:59.999999",
        "2024-01-01T10:00:00 +01:00",
        "2024-01-01T10:00:00z",
        "2024-W01-1",
        "",
        "soon",
        "5",
    ),
    *(
        "2024-04-31T10:00:00Z",
        "9999-12-31T23:59:59",
        "2024-01-01T10:00:00+0100",
        "2024-01-01T10:00:00+23:59",
        "1900-02-29",
    ),
    *("2024-01-01T10:00:00.1234567", "2024-01-01 10:00:00.000000001Z", "2024-01-01T10:00:00.999999999-02:00"),
    *("2024-02-30T10:00:00.123456789", "1066-01-01T10:00:00.123456789", "1969-12-31T23:59:59.999999999"),
    *("2024-01-01T10:00:00.123456789123", "2024-01-01T10:00:00,123456789", "2300-01-01T10:00:00.123456789Z"),
]
PATTERNS = {
    "%m/%d/%Y %H:%M": [
        *("12/01/2010 08:26", "12/1/2010 8:26", "2/29/2010 8:26", "2/29/2012 8:26", "13/1/2010 8:26", "1/5/2010 24:00"),
        *("12/1/2010  8:26", " 12/1/2010 8:26 ", "12/1/10 8:26", "012/1/2010 8:26", "1/5/0999 8:26", "", "soon", "0"),
    ],
    "%Y%m%d%H%M%S": [
        "20101201082600",
        "20101201082659",
        "201012010826",
        "2010120108260",
        "20101201082661",
        "20100230000000",
    ],
    "%d %b %Y, %I:%M %p": [
        "1 Dec 2010; 8:26 AM",
        "01 dec 2010, 8:26 pm",
        "31 Feb 2010, 8:26 PM",
        "1 Dez 2010, 8:26 PM",
    ],
    "%Y-%m-%d %H:%M:%S.%f": ["2010-12-01 08:26:00.5", "2010-12-01 08:26:00.123456", "2010-12-01 08:26:00.1234567"],
}
WHERES = [
    "other >= 1",
    "other != 1 and not (user like 'u1%' or item in ('i1', 'NULL', 7))",
    "label is not null and user <> 'nan'",
    "(user < item or item is not null) and (time > 978300760 or label = true)",
    "user = item or other <= label",
]


def some_lines(generator, delimiter, times, *, odd_share, number=300):
    """Lines of user, item, time, label and one more: most of them plain."""

    def pick(pool, plain):
        return generator.choice(pool) if generator.random() < odd_share else plain

    rows = []
    for _ in range(number):
        fields = [
            pick(IDS, f"u{generator.randrange(9)}"),
            pick(IDS, f"i{generator.randrange(99)}"),
            pick(times, generator.choice(times[:2])),
            pick(NUMBERS, generator.choice("01")),
            pick(NUMBERS, generator.choice(["1", "0.5", "2.25"])),
        ]
        if generator.random() < odd_share:
            fields = generator.choice([fields[:4], [*fields, "x"], [""], ["  "], ["\t\t"], [], [""] * 5])
        end = generator.choice(["\n", "\r\n", "\n\n", "\r\r\n", " \n"]) if generator.random() < odd_share else "\n"
        line = (delimiter.join(fields) + end).encode()
        if generator.random() < odd_share / 3:
            place = generator.randrange(len(line))
            line = line[:place] + generator.choice([b"\xff", b"\xe9", b"\xc3", b"\xed\xa0\x80"]) + line[place:]
        rows.append(line)
    return b"".join(rows)[: -1 if generator.random() < 0.3 else None]


FORMATS = [
    ("csv", ",", True),
    ("csv", ",", False),
    ("csv", "\t", True),
    ("csv", "::", False),
    ("csv", " ", False),
    ("csv", "|", True),
    ("csv", "¦", False),
    ("csv", "¦", True),
    ("csv", "\x1f", True),
    ("csv", ";", True),
]


@pytest.mark.parametrize(("name", "delimiter", "quoted"), FORMATS)
@pytest.mark.parametrize("seed", range(6))
def test_text_with_every_oddity_is_read_as_line_by_line(tmp_path, name, delimiter, quoted, seed):
    generator = random.Random(f"{delimiter} {quoted} {seed}")
    is_iso = seed % 2 == 1
    odd_share = [0.02, 0.4, 0][seed % 3]
    text = some_lines(generator, delimiter, MOMENTS if is_iso else NUMBERS, odd_share=odd_share)
    has_header = seed % 4 < 2
    if has_header:
        text = delimiter.join(["user", "item", "time", "label", "other"]).encode() + b"\r\n" + text
    if generator.random() < 0.5:
        text = b"\xef\xbb\xbf" + text
    path = tmp_path / "events.csv"
    path.write_bytes(text)
    text_format = TextFormat(
        name,
        delimiter,
        generator.choice(["utf-8", "latin-1", "utf-8-sig"]),
        has_header,
        0 if has_header else 5,
        quoted=quoted,
    )
    columns = EVENT_COLUMNS if has_header else Columns(0, 1, 2, None, 3)
    options = {"time_format": "iso" if is_iso else generator.choice(["s", "ms", "ns", "order"])}
    options["label_threshold"] = generator.choice([None, 0.5, 4])
    events, _, lines, _ = assert_both_ways_agree(text_format, ranges_of(path, generator, len(text)), columns, **options)
    assert sum(lines.values()) == text.count(b"\n") + (not text.endswith(b"\n"))
    if odd_share == 0 and options["time_format"] in ("s", "iso", "order") and delimiter not in " ¦":
        assert len(events) == 300


@pytest.mark.parametrize("pattern", PATTERNS)
def test_times_by_a_pattern_are_read_as_line_by_line(tmp_path, pattern):
    generator = random.Random(pattern)
    text = b"user;item;time;label;other\n" + some_lines(generator, ";", PATTERNS[pattern], odd_share=0.3)
    (tmp_path / "events.csv").write_bytes(text)
    ranges = ranges_of(tmp_path / "events.csv", generator, len(text))
    events, *_ = assert_both_ways_agree(
        TextFormat("csv", ";", "utf-8", True), ranges, time_format=pattern, label_threshold=1
    )
    years = [datetime.datetime.fromtimestamp(event[4] / 1e6, datetime.UTC).year for event in events]
    assert years.count(2010) > len(years) * 0.9 > 50


@pytest.mark.parametrize("where", WHERES)
def test_a_condition_wants_the_same_of_many_lines_as_of_one(tmp_path, where):
    generator = random.Random(where)
    text = b"user,item,time,label,other\n" + some_lines(generator, ",", NUMBERS, odd_share=0.3)
    (tmp_path / "events.csv").write_bytes(text)
    ranges = ranges_of(tmp_path / "events.csv", generator, len(text))
    condition = Condition.of(where)
    events, *_, tally = assert_both_ways_agree(
        TextFormat("csv", ",", "utf-8", True), ranges, time_format="s", label_threshold=1,
        where=Where(condition.names, condition),
    )  # fmt: skip
    assert tally.dropped_by_where > tally.dropped_as_null > 0
    assert events


@pytest.mark.parametrize("quoted", [True, False])
def test_plain_lines_are_not_read_one_by_one(tmp_path, monkeypatch, quoted):
    """Nor is a file whose every field is in quotes."""
    text = "".join(f'u{k % 7},"i{k}, x",{978300760 + k}.5,1,{k}\n' for k in range(100))
    text = text if quoted else text.replace('"', "").replace(", x", " x")
    (tmp_path / "events.csv").write_text(text)
    monkeypatch.setattr(ReadEvents, "handle", lambda *_: pytest.fail("a plain line was parsed alone"))
    reader = ReadEvents(
        TextFormat("csv", num_columns=5, quoted=quoted), Columns(0, 1, 2, None, 3), Store(), 1,
        time_format="s", max_events=10,
    )  # fmt: skip
    events, rejected, *_ = read(reader, [Range(str(tmp_path / "events.csv"), "", 0, 0, 0, 0, 1 << 20)])
    assert len(events) == 70  # the newest ten of each
    assert rejected == []
    assert {event[3] for event in events} >= {"i99, x" if quoted else "i99 x"}


@pytest.mark.parametrize("delimiter", [" ", ",", "::", "\t"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("user", [None, 0])
def test_sequences_with_every_oddity_are_read_as_line_by_line(tmp_path, delimiter, seed, user):
    generator = random.Random(f"{delimiter} {seed}")
    odd_share = [0, 0.05, 0.5][seed]
    text = b""
    for _ in range(150):
        items = [
            generator.choice(IDS) if generator.random() < odd_share else f"i{generator.randrange(30)}"
            for _ in range(generator.randrange(1, 6))
        ]
        end = generator.choice(["\n", "\r\n", " \n", "\n\n", "\r\r\n"]) if generator.random() < odd_share else "\n"
        text += (delimiter.join(items) + end).encode()
        if generator.random() < odd_share / 3:
            text += b"\xff\n"
    text += b"i1" + generator.choice([b"", b"\r"])
    path = tmp_path / "sequences.txt"
    path.write_bytes(text)
    ranges = ranges_of(path, generator, len(text))
    text_format = TextFormat("sequences", delimiter, quoted=len(delimiter) == 1)
    events, rejected, *_ = assert_both_ways_agree(text_format, ranges, Columns(user=user, item=0))
    assert ("no item id" in {row[2] for row in rejected}) == (user == 0)  # there is a line of one id
    assert {event[4] for event in events} == {0}  # no time
    assert len({event[6] for event in events}) == len(events)


@pytest.mark.parametrize("seed", range(4))
def test_items_files_with_every_oddity_are_read_as_line_by_line(tmp_path, seed):
    generator = random.Random(seed)
    text = b"item,price,tags,title\n" + some_lines(generator, ",", NUMBERS, odd_share=[0.05, 0.5][seed % 2]).replace(
        b",1\n", b"\n"
    )
    path = tmp_path / "items.csv"
    path.write_bytes(text)
    parts = [
        Range(part.path, "items", part.rank, part.number, 0, part.start, part.end)
        for part in ranges_of(path, generator, len(text))
    ]
    given = (
        TextFormat("csv", ",", "utf-8", True), "item", ["price", "tags", "title"], Store(), 1,
        ["number", "categories", "text"],
    )  # fmt: skip
    assert read(ReadTable(*given), parts) == read(TableLineByLine(*given), parts)


def test_blocks_of_a_compressed_file_give_the_lines_of_the_whole(tmp_path, monkeypatch):
    import gzip

    lines = [b"u%d,i%d,%d\n" % (k, k * k, k) for k in range(1000)]
    (tmp_path / "events.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + b"".join(lines)))
    monkeypatch.setattr(lines_lib, "_BLOCK_BYTES", 100)
    blocks = list(lines_lib.read_blocks(Range(str(tmp_path / "events.csv.gz"), "", 0, 0, 0)))
    assert len(blocks) > 100
    assert [block.line(number) for block in blocks for number in range(len(block))] == lines
    offsets = [offset for block in blocks for offset in block.offsets.tolist()]
    assert offsets == [0, *(3 + np.cumsum([len(line) for line in lines])[:-1]).tolist()]


@pytest.mark.parametrize("num_buckets", [1, 2, 7])
def test_a_bucket_has_all_events_of_its_users_whatever_range_they_are_in(tmp_path, num_buckets):
    (tmp_path / "events.csv").write_text("".join(f"u{k * k % 31},i{k},{k}\n" for k in range(400)))
    reader = ReadEvents(
        TextFormat("csv", num_columns=3), Columns(0, 1, 2), store := Store(str(tmp_path)), num_buckets,
        time_format="order", max_events=100,
    )  # fmt: skip
    reader.start_bundle()
    users, events = {}, []
    for number, start in enumerate(range(0, 6000, 500)):
        for element in reader.process(Range(str(tmp_path / "events.csv"), "", 0, number, 0, start, start + 500)):
            if not hasattr(element, "tag"):
                rows = rows_of(store.take(element[1]))
                events += [row[3] for row in rows]
                for row in rows:
                    assert users.setdefault(row[1], element[0]) == element[0]
    assert sorted(events) == sorted(f"i{k}" for k in range(400))
    assert len(set(users.values())) == num_buckets


def test_buckets_are_even_and_do_not_depend_on_how_strings_lie_in_memory():
    names = pa.array([f"user-{k:07d}-of-the-shop" for k in range(10_000)])
    buckets = tables.bucket_of(names, 10)
    assert np.bincount(buckets).min() > 800
    assert tables.bucket_of(names.slice(17, 100), 10).tolist() == buckets[17:117].tolist()
    long = pa.array(["x" * 1000 + "a", "", "é", "x" * 1000 + "b"])
    alone = [tables.bucket_of(pa.array([name]), 97)[0] for name in long.to_pylist()]
    assert tables.bucket_of(long, 97).tolist() == alone
