import datetime
import decimal

import pyarrow as pa
import pytest

from beam_jobs import columns, parsing, times
from beam_jobs.splits import Moment


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_every_digit_of_a_text_counts_in_every_unit(unit):
    whole = 978_300_000 * parsing.UNITS_PER_SECOND[unit] + 7
    texts = [f"{whole}.{digits}" for digits in ("000000001", "123456788", "123456789", "5", "999999999")]
    parse = parsing.time_parser(unit)
    assert [parse(text) for text in texts] == [decimal.Decimal(text) for text in texts]
    wholes, fractions, taken = columns.times(pa.array([*texts, str(whole)]), unit)
    assert taken.all()
    assert set(wholes.tolist()) == {whole}
    assert fractions.tolist() == [1e-9, 0.123456788, 0.123456789, 0.5, 0.999999999, 0.0]
    assert Moment.of(parse(texts[1])) < Moment.of(parse(texts[2]))


@pytest.mark.parametrize(
    "values",
    [
        ["2024-01-01T10:00:00.123456788Z", "2024-01-01T10:00:00.123456789Z", "2024-01-01T10:00:00.12346Z"],
        pa.array([1_704_103_200_123_456_788, 1_704_103_200_123_456_789, 1_704_103_200_123_460_000], pa.timestamp("ns")),
        pa.array([-1_001, -1_000, -1], pa.timestamp("ns")),
    ],
)
def test_iso_times_are_ordered_to_the_nanosecond(values):
    wholes, fractions, taken = columns.times(pa.array(values), "iso")
    assert taken.all()
    moments = list(zip(wholes.tolist(), fractions.tolist(), strict=True))
    assert moments == sorted(set(moments))
    if isinstance(values, list):
        assert moments[1] == (1_704_103_200_123_456, 0.789)


@pytest.mark.parametrize(
    ("texts", "patterns"),
    [
        (["12/1/2010 8:26", "12/13/2010 18:26"], ["%m/%d/%Y %H:%M"]),
        (["12/1/2010 8:26", "13/1/2010 18:26"], ["%d/%m/%Y %H:%M"]),
        (["12/1/2010 8:26", "1/12/2010 8:26"], ["%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M"]),
        (["20101201082600"], ["%Y%m%d%H%M%S"]),
        (["201012010826"], ["%Y%m%d%H%M"]),
        (["31.12.10", "garbage", "1.12.10"], ["%d.%m.%y"]),
        (["2010/12/01 08:26:00.5"], ["%Y/%m/%d %H:%M:%S.%f"]),
        (["Dec 1, 2010 8:26 PM"], ["%b %d, %Y %I:%M %p"]),
        (["01/Dec/2010:08:26:00 +0000"], ["%d/%b/%Y:%H:%M:%S %z"]),
        (["Wed Dec 01 08:26:00 +0000 2010"], ["%a %b %d %H:%M:%S %z %Y"]),
        (["soon", "later", "12/13/2010"], []),
        ([], []),
    ],
)
def test_a_pattern_is_recognised(texts, patterns):
    assert times.recognised(texts) == patterns


def test_fewer_digits_than_the_pattern_has_are_no_time():
    parse = parsing.time_parser("%Y%m%d%H%M%S")
    moment = datetime.datetime(2010, 12, 1, 8, 26, tzinfo=datetime.UTC)
    assert parse(20101201082600) == parse(" 20101201082600 ") == moment.timestamp() * 1e6
    for text in ("201012010826", "2010120108260"):
        with pytest.raises(ValueError, match="fewer digits"):
            parse(text)


@pytest.mark.parametrize("pattern", ["%m/%d", "%Y %Q", "%Y %", "%Y %Y"])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="--time-format"):
        times.check_pattern(pattern)


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_order_follows_fractions_in_every_unit_and_format(prepare, unit, tmp_path):
    """Newest first in the file, six events within one unit; and the sequences in the order of their newest events."""
    whole = 978_300_000_123 * parsing.UNITS_PER_SECOND[unit] // 1_000
    rows = [(f"u{user}", f"i{k}", f"{whole}.{k}{4 - user}") for user in range(3) for k in range(6, 0, -1)]
    csv = "user_id,item_id,timestamp\n" + "".join(",".join(row) + "\n" for row in rows)
    json = "".join(f'{{"user_id": "{u}", "item_id": "{i}", "timestamp": {at}}}\n' for u, i, at in rows)
    for text, suffix in ((csv, ".csv"), (json, ".jsonl")) if unit == "ms" else ((csv, ".csv"),):
        outcome = prepare(text, "--record-order time", suffix=suffix, output=suffix[1:])
        histories = outcome.histories("test")
        assert histories == {f"u{user}": (["i1", "i2", "i3", "i4", "i5"], ["i6"]) for user in range(3)}
        (file,) = outcome.folder.split_files("train")
        import tensorflow as tf

        users = [
            tf.train.Example.FromString(record.numpy()).features.feature["user_id"].bytes_list.value[0]
            for record in tf.data.TFRecordDataset(file, compression_type="GZIP")
        ]
        assert users == [b"u2", b"u1", b"u0"]


def test_the_error_proposes_the_pattern_that_later_lines_tell(prepare):
    lines = ["u,a,12/1/2010 8:26"] * 150
    header = "user_id,item_id,timestamp\n"
    outcome = prepare(header + "\n".join(lines))
    assert "give --time-format '%m/%d/%Y %H:%M' or '%d/%m/%Y %H:%M'" in outcome.err
    outcome = prepare(header + "\n".join([*lines, "u,a,12/13/2010 8:26"]))
    assert outcome.status == 2
    assert outcome.err.endswith("(the first is '12/1/2010 8:26'); give --time-format '%m/%d/%Y %H:%M'.\n")
    outcome = prepare(header + "u,a,20101201082600\n")
    assert "give --time-format '%Y%m%d%H%M%S'; if it is a number" in outcome.err
    assert prepare(header + "u,a,1\n", "--time-format mss").status == 2
