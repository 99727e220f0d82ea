"""Reading many records of JSON lines or Parquet at once gives what reading one by one gives."""

import datetime
import decimal
import json
import random

import pyarrow as pa
import pytest
from both_ways import assert_both_ways_agree, ranges_of
from pyarrow import parquet

from beam_jobs.lines import Range
from beam_jobs.parsing import TextFormat

VALUES = [
    *(
        "u1",
        "",
        " ",
        "ü",
        "7",
        "978300760",
        "978300760.5",
        "a\nb",
        "2024-01-01T10:00:00",
        7,
        7.0,
        7.5,
        -0.0,
        True,
        False,
    ),
    *(
        None,
        978300760,
        978300760.25,
        2**53,
        2**53 + 1,
        float(2**53),
        2**63,
        2**64,
        10**30,
        -(2**63),
        1e300,
        [],
        [1],
        {},
    ),
    *({"a": 1}, "\ud800", "nan", 0, 1, 2, 0.5, 4, "\u00a0", "True", "a\x00b", "-0"),
]


def spoiled_json(line):
    return [
        *(
            line[:-1],
            line + "x",
            line + "\r",
            " " + line,
            line + "{}",
            "[1]",
            "7",
            "null",
            "",
            "  ",
            '"text"',
            "[" * 2000,
        ),
        line.replace("time", "when"),
        line.replace("{", '{"user": "u9",', 1),
        line.replace('"label": ', '"label": NaN, "user": "u2", "label": '),
        line.replace('"i', '"i\\ud83d\\ude00'),
        line.replace('"i', '"\t'),
        line.replace("978300760", "978300760" * 5),
        *(line.replace("1.5", other) for other in ("1.50e0", "01", "Infinity")),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_json_with_every_oddity_is_read_as_line_by_line(tmp_path, seed):
    generator = random.Random(seed)
    odd_share = [0.02, 0.4, 0, 1][seed % 4]
    plain = [
        (f"u{k}" if seed % 3 else k, f"i{k}", [978300760, 978300760 + k / 4][seed % 2], k % 2, 1.5) for k in range(5)
    ]
    lines = []
    for _ in range(200):
        values = list(generator.choice(plain))
        if generator.random() < odd_share:
            values[generator.randrange(5)] = generator.choice(VALUES)
        line = json.dumps(dict(zip(["user", "item", "time", "label", "other"], values, strict=True)))
        if generator.random() < odd_share:
            line = generator.choice(spoiled_json(line))
        lines.append(line.encode("utf-8", "surrogatepass"))
    path = tmp_path / "events.jsonl"
    text = b"\n".join(lines)
    path.write_bytes(text)
    text_format = TextFormat("jsonl", encoding=generator.choice(["utf-8", "utf-8", "latin-1"]))
    options = {"time_format": generator.choice(["s", "order", "iso"]), "label_threshold": generator.choice([None, 0.5])}
    events, *_ = assert_both_ways_agree(text_format, ranges_of(path, generator, len(text)), **options)
    assert options["time_format"] != "s" or odd_share or len(events) == 200


ARRAYS = [
    pa.array(["u1", "u2", None, "", " ", "7", "978300760.5", "a\rb", "2024-01-01", "1"]),
    pa.array(["u1", "u2", None, "", " ", "7", "978300760.5", "a\rb", "2024-01-01", "1"], pa.large_string()),
    pa.array(["u1", "u2", None, "u1", " ", "7", "5", "0", "2024-01-01", "1"]).dictionary_encode(),
    pa.array([1, 2, None, 0, -1, 978300760, 978300760123, 2**62, 1, 0]),
    pa.array([1, 2, None, 0, 1, 978300760, 978300760123, 2**64 - 1, 2**63, 0], pa.uint64()),
    pa.array([1, 2, None, 0, 1, 9, 7, 1, 1, 0], pa.int8()),
    pa.array([1.0, 2.5, None, float("nan"), -0.0, 978300760.0, 978300760.25, 1e300, float("inf"), 2.0**53]),
    pa.array([1.0, 2.5, None, float("nan"), -0.0, 0.1, 16777217.0, 1e30, float("-inf"), 4.0], pa.float32()),
    pa.array([True, False, None, True, True, False, True, False, True, True]),
    pa.array([10**18 + k if k != 3 else None for k in range(10)], pa.timestamp("ns")),
    pa.array([-(10**15) - k if k != 3 else None for k in range(10)], pa.timestamp("us", tz="Europe/Oslo")),
    pa.array([-(10**18) - k if k != 3 else None for k in range(10)], pa.timestamp("ns", tz="Europe/Oslo")),
    pa.array([k if k != 3 else None for k in range(10)], pa.timestamp("s")),
    pa.array([datetime.date(2024, 1, 1 + k) if k != 3 else None for k in range(10)]),
    pa.array([decimal.Decimal(k) / 4 if k != 3 else None for k in range(10)], pa.decimal128(9, 2)),
    pa.array([[1], [2], None, [], [1], [2], [3], [4], [5], [6]]),
    pa.nulls(10),
    pa.array([b"u1", b"u2", None, b"", b"1", b"2", b"3", b"4", b"5", b"6"]),
]


@pytest.mark.parametrize("time_format", ["s", "ms", "iso", "order"])
def test_parquet_of_every_type_is_read_as_record_by_record(tmp_path, time_format):
    for number, array in enumerate(ARRAYS):
        for place, name in enumerate(["user", "item", "time", "label", "other"]):
            plain = {
                "user": pa.array(["u"] * 10),
                "item": pa.array(list(range(10))),
                "time": pa.array(["2024-01-01"] * 10) if time_format == "iso" else pa.array([5] * 10),
                "label": pa.array([1.0, 0.0] * 5),
                "other": pa.array([1] * 10, pa.int32()),
            }
            path = tmp_path / f"{number}-{place}.parquet"
            parquet.write_table(pa.table(plain | {name: array}), path, row_group_size=6)
            parts = [
                Range(str(path), "", 0, 0, 0, 0, 1, 0, 6),
                Range(str(path), "", 0, 1, 0, 1, 2, 6, 4),
            ]
            assert_both_ways_agree(None, parts, time_format=time_format, label_threshold=2 if number % 2 else None)
