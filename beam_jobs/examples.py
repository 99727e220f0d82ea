"""Columns to `tf.train.Example` bytes, many records at once, and TFRecord files of them. No TensorFlow is needed.

The bytes are those of `records.encode_example`, record by record: an Example is the message `Features`, which maps
names, in their order, to lists of varints, floats or strings; all of a list but its length is there before any record
is cut out of a column. https://protobuf.dev/programming-guides/encoding tells the wire format, TensorFlow's
record_writer.h the frame of a record.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
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
_WRITE_BYTES = 4 << 20


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
    heads: dict[int, bytes] = {}

    def head(size: int) -> bytes:
        known = heads.get(size)
        if known is None:
            known = _FIRST + varint(size) if is_packed and size else b""
            known = _LIST_TAGS[feature.dtype] + varint(len(known) + size) + known
            known = key + _SECOND + varint(len(known) + size) + known
            known = heads[size] = _FIRST + varint(len(known) + size) + known
        return known

    return head


# Pieces of the entries of one feature, in their order: lists of as many byte strings as there are records.
Pieces = list[list[bytes]]


def of_events(feature: Feature, values: np.ndarray) -> Callable[[np.ndarray, np.ndarray], Pieces]:
    """Writes a feature of one value an event.

    Args:
        feature: Of int64 or float32.
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
        feature: Of any dtype and shape.
        values: Of each record: strings, numbers, or lists of them.
    """
    head = _entry_head(feature)

    def entry(value: Any) -> bytes:
        several = value if isinstance(value, tuple) else (value,)
        if feature.dtype == "string":
            texts = [one.encode() for one in several]
            payload = b"".join([_FIRST + varint(len(text)) + text for text in texts])
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
    return [_FIRST + varint(len(body)) + body for body in bodies]


def digest(examples: Sequence[bytes]) -> str:
    """Tells one list of Examples from another."""
    whole = hashlib.sha256()
    parts: list[bytes] = []
    for example in examples:
        parts += (len(example).to_bytes(8, "big"), example)
        if len(parts) >= 10_000:
            whole.update(b"".join(parts))
            parts = []
    whole.update(b"".join(parts))
    return whole.hexdigest()


def tfrecord_file(examples: Sequence[bytes]) -> Iterable[bytes]:
    """Pieces of a gzipped TFRecord file; the same Examples give the same bytes."""
    packer = isal_zlib.compressobj(_COMPRESSION_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    heads: dict[int, bytes] = {}
    parts: list[bytes] = []
    held = 0
    for example in examples:
        size = len(example)
        head = heads.get(size)
        if head is None:
            length = size.to_bytes(8, "little")
            head = heads[size] = length + _masked_crc(length)
        parts += (head, example, _masked_crc(example))
        held += size
        if held >= _WRITE_BYTES:
            yield packer.compress(b"".join(parts))
            parts, held = [], 0
    yield packer.compress(b"".join(parts)) + packer.flush()


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
