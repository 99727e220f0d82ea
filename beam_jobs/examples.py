"""Columns to `tf.train.Example` bytes, many records at once, and TFRecord files of them. No TensorFlow is needed.

The bytes are those of `records.encode_example`, record by record: an Example is the message `Features`, which maps
names, in their order, to lists of varints, floats or strings; all of a list but its length is there before any record
is cut out of a column. https://protobuf.dev/programming-guides/encoding tells the wire format, TensorFlow's
record_writer.h the frame of a record.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from crc32c import crc32c
from isal import isal_zlib

from seqrec_tf.schema import Feature

# Tags of the wire format: the field's number, then 2 for "so many bytes follow".
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"
# The field of `Feature` that holds a list of each dtype.
_LIST_TAGS = {"string": _FIRST, "float32": _SECOND, "int64": _THIRD}
# ISA-L packs as well as zlib's level 6 does, in a tenth of its time.
_COMPRESSION_LEVEL = 1
_GZIP_WINDOW = 31
# Examples that are framed and packed at once.
_AT_ONCE = 10_000


def varint(number: int) -> bytes:
    """One number as 7 bits a byte, the lowest first, all bytes but the last marked; negative ones as 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def varints(numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """A whole column as varints, and where each begins: int64 [n + 1]."""
    rest = numbers.astype(np.uint64)
    sizes = np.ones(len(rest), np.int64)
    most = int(rest.max(initial=0))
    for bits in range(7, max(most.bit_length(), 1), 7):
        sizes += rest >= np.uint64(1 << bits)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    out = np.empty(offsets[-1], np.uint8)
    at = offsets[:-1].copy()
    while len(rest):
        is_last = rest < 128
        out[at] = (rest & np.uint64(127)).astype(np.uint8) | np.where(is_last, 0, 128).astype(np.uint8)
        if is_last.all():
            break
        rest, at = rest[~is_last] >> np.uint64(7), at[~is_last] + 1
    return out.tobytes(), offsets


def _entry_head(feature: Feature) -> Callable[[int], bytes]:
    """From the size of a feature's values to all that comes before them in its entry of the map."""
    name = feature.name.encode()
    key = _FIRST + varint(len(name)) + name
    is_packed = feature.dtype != "string"  # numbers stand under one length, strings have each their own

    @functools.cache
    def head(size: int) -> bytes:
        known = _FIRST + varint(size) if is_packed and size else b""
        known = _LIST_TAGS[feature.dtype] + varint(len(known) + size) + known
        known = key + _SECOND + varint(len(known) + size) + known
        return _FIRST + varint(len(known) + size) + known

    return head


# Pieces of the entries of one feature, in their order: lists of as many byte strings as there are records.
Pieces = list[list[bytes]]


def of_events(feature: Feature, values: np.ndarray) -> Callable[[np.ndarray, np.ndarray], Pieces]:
    """Writes a feature of one value an event.

    Args:
        feature: A feature of int64 or float32.
        values: [E], of all events of all records.

    Returns:
        A function from the first events of records, and one past their last, to the records' entries.
    """
    head = _entry_head(feature)
    if feature.dtype == "float32":
        data, offsets = values.astype("<f4").tobytes(), np.arange(len(values) + 1) * 4
    else:
        data, offsets = varints(values)

    def write(firsts: np.ndarray, ends: np.ndarray) -> Pieces:
        starts, stops = offsets[firsts], offsets[ends]
        spans = zip(starts.tolist(), stops.tolist(), strict=True)
        return [list(map(head, (stops - starts).tolist())), [data[start:stop] for start, stop in spans]]

    return write


def of_records(feature: Feature, values: Iterable[Any]) -> Pieces:
    """Writes a feature of one value (or one list) a record; equal values are encoded once.

    Args:
        feature: A feature of any dtype and shape.
        values: The value of each record: a string, a number, or a list of them.
    """
    head = _entry_head(feature)
    if feature.dtype == "string":

        @functools.cache
        def tag(size: int) -> bytes:
            return _FIRST + varint(size)

        @functools.cache
        def heads(size: int) -> bytes:
            return head(len(tag(size)) + size) + tag(size)

        if feature.shape == ():
            return [[heads(len(text)) + text for text in map(str.encode, values)]]

    def entry(value: Any) -> bytes:
        several = value if isinstance(value, tuple) else (value,)
        if feature.dtype == "string":
            payload = b"".join([tag(len(text)) + text for text in map(str.encode, several)])
        elif feature.dtype == "float32":
            payload = np.array(several, "<f4").tobytes()
        else:
            payload = b"".join(map(varint, several))
        return head(len(payload)) + payload

    # Of floats each is encoded: 0.0 and -0.0 are equal, but their bytes are not.
    make = entry if feature.dtype == "float32" else functools.lru_cache(100_000)(entry)
    return [[make(tuple(value) if isinstance(value, list) else value) for value in values]]


def write_examples(features: Iterable[tuple[Feature, Pieces]]) -> list[bytes]:
    """Serialised Examples: each feature of theirs with its pieces."""
    # In the order that protobuf has for maps: of two names that begin alike, the longer comes first.
    ordered = sorted(features, key=lambda pair: pair[0].name.encode() + b"\xff")
    bodies = map(b"".join, zip(*(column for _, pieces in ordered for column in pieces), strict=True))

    @functools.cache
    def head(size: int) -> bytes:
        return _FIRST + varint(size)

    return [head(len(body)) + body for body in bodies]


def digest(examples: Sequence[bytes]) -> str:
    """Tells one list of Examples from another."""
    whole = hashlib.sha256()
    for some in _batches(examples):
        lengths = np.array(list(map(len, some)), ">u8")
        whole.update(_joined(_cut(lengths), some))
    return whole.hexdigest()


def tfrecord_file(examples: Sequence[bytes]) -> Iterator[bytes]:
    """Pieces of a gzipped TFRecord file; the same Examples give the same bytes."""
    packer = isal_zlib.compressobj(_COMPRESSION_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    head = functools.cache(_frame_head)
    for some in _batches(examples):
        yield packer.compress(_joined(map(head, map(len, some)), some, _cut(_masked(list(map(crc32c, some))))))
    yield packer.flush()


def _frame_head(size: int) -> bytes:
    """What stands before a record of so many bytes: their number, and its checksum."""
    length = size.to_bytes(8, "little")
    return length + _masked([crc32c(length)]).tobytes()


def _masked(checksums: list[int]) -> np.ndarray:
    """Checksums as TFRecords hold them: rotated, and a constant added, all in 32 bits."""
    crc = np.array(checksums, np.uint32)
    return ((crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)).astype("<u4")


def _batches(examples: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (examples[start : start + _AT_ONCE] for start in range(0, len(examples), _AT_ONCE))


def _cut(numbers: np.ndarray) -> list[bytes]:
    """The bytes of each number."""
    data, size = numbers.tobytes(), numbers.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def _joined(*columns: Iterable[bytes]) -> bytes:
    """The first of each column, then the second of each, and so on."""
    return b"".join(itertools.chain.from_iterable(zip(*columns, strict=True)))
