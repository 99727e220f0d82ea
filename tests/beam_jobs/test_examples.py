"""Examples of whole columns, against the slow encoder and TensorFlow's reader."""

import hashlib
import itertools
import random

import numpy as np
import pytest

from beam_jobs import examples, storage
from seqrec_tf import records
from seqrec_tf.schema import Feature

NAMES = ["item_ids", "item", "item_id", "a", "a_b", "a1", "B", "timestamps", "x" * 130, "weights"]


def number(generator, dtype):
    if dtype == "float32":
        return generator.choice([0.0, -0.0, 1.5, -3e38, float("nan"), generator.random()])
    size = generator.choice([1, 7, 8, 14, 21, 31, 62])
    return generator.choice([1, 1, 1, -1]) * generator.randrange(1 << size)


@pytest.mark.parametrize("seed", range(20))
def test_columns_become_the_bytes_of_the_slow_encoder(seed):
    generator = random.Random(seed)
    lengths = [generator.choice([1, 2, 3, 40, 200]) for _ in range(20)]
    offsets = np.append(0, np.cumsum(lengths))
    spans = [(row, start := generator.randrange(n), generator.randrange(start, n + 1)) for row, n in enumerate(lengths)]
    firsts = np.array([offsets[row] + start for row, start, _ in spans])
    ends = np.array([offsets[row] + end for row, _, end in spans])
    expected, pieces = [{} for _ in lengths], []
    for name in generator.sample(NAMES, 6):
        dtype = generator.choice(["int64", "float32", "string"])
        if dtype != "string" and generator.random() < 0.5:
            feature = Feature(name, dtype, (None,))
            values = np.array([number(generator, dtype) for _ in range(offsets[-1])], {"int64": np.int64}.get(dtype))
            pieces.append((feature, examples.of_events(feature, values)(firsts, ends)))
            of_rows = [values[first:end].tolist() for first, end in zip(firsts, ends, strict=True)]
        else:
            is_list = generator.random() < 0.4
            feature = Feature(name, dtype, (None,) if is_list else ())

            def value(dtype=dtype):
                if dtype == "string":
                    return generator.choice(["", "a", "é" * 100, "\x00", "longer " * 50])
                return number(generator, dtype)

            of_rows = [[value() for _ in range(generator.randrange(4))] if is_list else value() for _ in lengths]
            pieces.append((feature, examples.of_records(feature, of_rows)))
        for record, of_row in zip(expected, of_rows, strict=True):
            record[name] = of_row
    features = [feature for feature, _ in pieces]
    assert examples.write_examples(pieces) == [records.encode_example(record, features) for record in expected]


def test_numbers_become_varints_of_seven_bits_a_byte():
    assert [examples.varint(number) for number in (0, 1, 127, 128, 300)] == [
        b"\0",
        b"\1",
        b"\x7f",
        b"\x80\1",
        b"\xac\2",
    ]
    assert examples.varint(-1) == b"\xff" * 9 + b"\1"
    numbers = np.array([0, 127, 128, 1 << 62, -1, 5])
    data, offsets = examples.varints(numbers)
    found = [data[start:end] for start, end in itertools.pairwise(offsets)]
    assert found == [examples.varint(number) for number in numbers.tolist()]
    assert examples.varints(np.zeros(0, np.int64))[0] == b""


@pytest.mark.parametrize("number_of_records", [1, 0, 3000])
def test_tensorflow_reads_the_files_that_are_written(tmp_path, monkeypatch, number_of_records):
    import tensorflow as tf

    monkeypatch.setattr(examples, "_AT_ONCE", 1_000)  # in several pieces
    generator = random.Random(0)
    written = [generator.randbytes(generator.randrange(0, 100)) for _ in range(number_of_records)]
    path = str(tmp_path / "part.tfrecord.gz")
    storage.write_records(path, written)
    found = [record.numpy() for record in tf.data.TFRecordDataset(path, compression_type=records.COMPRESSION)]
    assert found == written
    first = (tmp_path / "part.tfrecord.gz").read_bytes()
    storage.write_records(path, written)
    assert (tmp_path / "part.tfrecord.gz").read_bytes() == first


def test_a_digest_is_of_the_records_and_where_each_ends():
    whole = hashlib.sha256()
    written = [b"a" * (k % 7) for k in range(12_345)]
    for example in written:
        whole.update(len(example).to_bytes(8, "big") + example)
    assert examples.digest(written) == whole.hexdigest()
    assert examples.digest([b"ab", b"c"]) != examples.digest([b"a", b"bc"])
