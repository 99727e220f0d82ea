"""Columns of values, as files have them, to columns of events: many rows at once, without a Python call a value.

Each function takes an Arrow array and gives values with `taken`, bool [n], False where it leaves a row to `parsing`.
That takes rows one by one, is slow, and decides: what is taken here gives what `parsing` gives, and whatever could be
taken in two ways (blanks, signs, exponents, more digits than a float has) is left.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import parsing
from beam_jobs import times as times_lib
from beam_jobs.tables import string_buffers
from seqrec_tf import features

# Digits of an integer that fits in 64 bits, and of one that is exact as a float.
_INTEGER_DIGITS, _FLOAT_DIGITS = 18, 15
_EXACT = 1 << 53
_NEGATIVE = f"^-[0-9]{{1,{_INTEGER_DIGITS}}}$"
_DECIMAL = f"^-?[0-9]{{1,{_FLOAT_DIGITS}}}\\.[0-9]{{1,{_FLOAT_DIGITS}}}$"
_EXACT_DECIMAL = f"^[0-9]{{1,{_INTEGER_DIGITS}}}\\.[0-9]{{1,{_FLOAT_DIGITS}}}$"
_MONTH_AND_DAY = "-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_DAY, _DAY_IN_NANOSECONDS = f"[12][0-9]{{3}}{_MONTH_AND_DAY}", f"(1[7-9]|2[01])[0-9]{{2}}{_MONTH_AND_DAY}"
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_ZONE = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
# How times are written in ISO 8601, the unit that holds them, their zone.
_ISO = (
    (f"^{_DAY}([T ]{_CLOCK}(\\.[0-9]{{1,6}})?)?$", "us", None),
    (f"^{_DAY}[T ]{_CLOCK}(\\.[0-9]{{1,6}})?{_ZONE}$", "us", "UTC"),
    (f"^{_DAY_IN_NANOSECONDS}[T ]{_CLOCK}\\.[0-9]{{7,9}}$", "ns", None),
    (f"^{_DAY_IN_NANOSECONDS}[T ]{_CLOCK}\\.[0-9]{{7,9}}{_ZONE}$", "ns", "UTC"),
)
# Days that not every month has.
_LATE_DAY = "^.{8}(29|30|31)"
_MICROSECONDS_A_DAY = 86_400_000_000

_WHITESPACE = np.array([chr(byte).isspace() for byte in range(128)] + [True] * 128)


def of_parquet(array: pa.Array) -> pa.Array:
    """A column of Parquet in the usual type for what it holds, as warehouses have several for each."""
    type_ = array.type
    if pa.types.is_dictionary(type_):
        return of_parquet(array.dictionary_decode())
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return array.cast(pa.string())
    with contextlib.suppress(pa.ArrowInvalid):  # what does not fit stays for `parsing`
        if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
            return array.cast(pa.string())
        if pa.types.is_decimal(type_):
            return array.cast(pa.decimal128(38, 0)).cast(pa.int64())
    return array


def ids(array: pa.Array) -> tuple[pa.StringArray, np.ndarray]:
    """Ids as text, as `parsing.parse_id` gives them, and which rows are taken."""
    taken = _present(array)
    if pa.types.is_floating(array.type):
        numbers = _numpy(array, np.float64)
        with np.errstate(invalid="ignore"):
            taken = taken & (np.floor(numbers) == numbers) & (np.abs(numbers) < _exact_below(array.type))
        array = pa.array(np.where(taken, numbers, 0).astype(np.int64))
    if pa.types.is_integer(array.type):
        return array.cast(pa.string()).fill_null(""), taken
    if not pa.types.is_string(array.type):
        return _no_strings(len(array)), np.zeros(len(array), bool)
    strings = array.fill_null("")
    offsets, data = string_buffers(strings)
    lengths = np.diff(offsets)
    doubtful = lengths == 0
    if len(data):
        doubtful |= _WHITESPACE[
            data[np.minimum(offsets[:-1], len(data) - 1)]
        ]  # its first character, or of several bytes
        breaks = np.flatnonzero((data == 10) | (data == 13))
        taken[_rows_of(breaks, offsets)] = False
    if doubtful.any():
        values = strings.filter(pa.array(doubtful)).unique()
        empty = [value for value in values.to_pylist() if not value or value.isspace()]
        if empty:
            taken &= ~_numpy(pc.is_in(strings, pa.array(empty, pa.string())), bool)
    return strings, taken


def _exact_below(type_: pa.DataType) -> int:
    """Below which integer all are floats of a type."""
    return {pa.float32(): 1 << 24, pa.float16(): 1 << 11}.get(type_, _EXACT)


def times(array: pa.Array, time_format: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Times in the unit of the input, as `parsing.time_parser` gives them.

    Returns:
        int64 [n], rounded down; float64 [n], what that left of each, None where it left nothing of any; which rows are
        taken.
    """
    if time_format == "iso":
        return _iso_times(array)
    if times_lib.is_pattern(time_format):
        return _pattern_times(array, time_format)
    integers, fractions, taken = _parts(array)
    first, limit = parsing.bounds(time_format)
    taken &= ((integers >= first) & (integers < limit)) | (integers < parsing.bounds("s")[0])
    if fractions is not None and time_format == "order":
        taken &= fractions == 0
    if fractions is not None and not fractions[taken].any():
        fractions = None
    return integers, fractions, taken


def _parts(array: pa.Array) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Numbers as integers, rounded down, and what that left of them, None where all are integers; which are taken."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return _parts_of_text(array.cast(pa.string()))
    integers, floats, taken = _numbers(array)
    if floats is None:
        return integers, None, taken
    with np.errstate(invalid="ignore"):
        taken = taken & (np.abs(floats) < _EXACT)
    floats = np.where(taken, floats, 0.0)
    whole = np.floor(floats)
    return whole.astype(np.int64), floats - whole, taken


def _parts_of_text(strings: pa.StringArray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The same of text, of which every digit counts: 0.123456789 of a second, too."""
    integers, _, taken = _numbers_of_text(strings, has_decimals=False)
    rest = np.flatnonzero(~taken)
    of_rest = strings.take(pa.array(rest))
    fits = _numpy(pc.match_substring_regex(of_rest, _EXACT_DECIMAL).fill_null(False), bool)
    if not fits.any():
        return integers, None, taken
    digits = pc.split_pattern(of_rest.filter(pa.array(fits)), ".").flatten()
    places, rows = np.arange(0, len(digits), 2), rest[fits]
    fractions = np.zeros(len(strings))
    integers[rows] = _numpy(digits.take(pa.array(places)).cast(pa.int64()), np.int64)
    of_fractions = pc.binary_join_element_wise("0", digits.take(pa.array(places + 1)), ".")
    fractions[rows] = _numpy(of_fractions.cast(pa.float64()), np.float64)
    taken[rows] = True
    return integers, fractions, taken


def labels(array: pa.Array, threshold: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int8, 1 where positive, and which rows are taken."""
    if pa.types.is_boolean(array.type):
        taken = _present(array)
        integers, floats = _numpy(array, bool).astype(np.int64), None
    else:
        integers, floats, taken = _numbers(array)
        if pa.types.is_string(array.type) and not taken.all():
            words = pc.utf8_lower(array)
            for truth, of_truth in ((1, features.TRUE_WORDS), (0, features.FALSE_WORDS)):
                is_one = _numpy(pc.is_in(words, pa.array(sorted(of_truth))), bool)
                integers = np.where(is_one, truth, integers)
                floats = floats if floats is None else np.where(is_one, math.nan, floats)
                taken = taken | is_one
    numbers = integers if floats is None else np.where(np.isnan(floats), integers, floats)
    if threshold is not None:
        return (numbers >= threshold).astype(np.int8), taken
    positive = numbers == 1
    return positive.astype(np.int8), taken & (positive | (numbers == 0))


def of_values(values: Sequence[Any]) -> tuple[pa.Array, np.ndarray]:
    """An array of the values of JSON, and which are of the type that most of them have."""
    kinds = set(map(type, values))
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1:
        most = max(kinds, key=lambda kind: sum(type(value) is kind for value in values))
        taken = np.array([type(value) is most for value in values], bool)
        values = [value if type(value) is most else None for value in values]
        kinds = {most}
    else:
        taken = np.ones(len(values), bool)
    kind = next(iter(kinds), type(None))
    if kind not in (str, int, float, bool):
        return pa.nulls(len(values)), np.zeros(len(values), bool)
    if kind in (int, float):
        fits = np.array([value is not None and -_EXACT < value < _EXACT for value in values], bool)
        if not fits.all():
            values = [value if is_one else None for value, is_one in zip(values, fits.tolist(), strict=True)]
            taken &= fits
    of_kind = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[kind]
    return pa.array(values, of_kind), taken


def _numbers(array: pa.Array) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Finite numbers, as `parsing.parse_number` gives them.

    Returns:
        int64 [n]; float64 [n], NaN where the number is an integer, None where all are; which are taken.
    """
    if pa.types.is_string(array.type):
        return _numbers_of_text(array)
    taken = _present(array)
    if pa.types.is_integer(array.type):
        if pa.types.is_uint64(array.type):
            taken &= _numpy(array, np.uint64) < 1 << 63
            array = pa.array(np.where(taken, _numpy(array, np.uint64), 0))
        return _numpy(array.cast(pa.int64()), np.int64), None, taken
    zeros = np.zeros(len(array), np.int64)
    if pa.types.is_floating(array.type):
        floats = _numpy(array.cast(pa.float64()), np.float64)
        finite = np.isfinite(floats)
        return zeros, np.where(finite, floats, 0.0), taken & finite
    return zeros, None, np.zeros(len(array), bool)


def _numbers_of_text(
    strings: pa.StringArray, *, has_decimals: bool = True
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    offsets, data = string_buffers(strings)
    lengths = np.diff(offsets)
    taken = (lengths > 0) & (lengths <= _INTEGER_DIGITS) & _present(strings)
    others = np.flatnonzero((data - np.uint8(48)) > 9)  # unsigned, so that what is below "0" is large
    taken[_rows_of(others, offsets)] = False
    if taken.all():
        return _numpy(strings.cast(pa.int64()), np.int64), None, taken
    integers = np.zeros(len(strings), np.int64)
    integers[taken] = _numpy(strings.filter(pa.array(taken)).cast(pa.int64()), np.int64)
    rest = np.flatnonzero(~taken)
    of_rest = strings.take(pa.array(rest))
    floats = None
    kinds = [(_NEGATIVE, pa.int64(), integers), *([(_DECIMAL, pa.float64(), None)] if has_decimals else [])]
    for pattern, type_, into in kinds:
        fits = _numpy(pc.match_substring_regex(of_rest, pattern).fill_null(False), bool)
        if fits.any():
            if into is None:
                into = floats = np.full(len(strings), math.nan)
            into[rest[fits]] = _numpy(of_rest.filter(pa.array(fits)).cast(type_), into.dtype)
            taken[rest[fits]] = True
    return integers, floats, taken


def _iso_times(array: pa.Array) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Microseconds since 1970, as `parsing.parse_iso` gives them, in two parts; which rows are taken."""
    taken = _present(array)
    if pa.types.is_timestamp(array.type):
        return *_microseconds(array if array.type.unit == "ns" else _in_unit(array, "us")), taken
    if pa.types.is_date(array.type):
        days = array.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        return _numpy(days, np.int64) * _MICROSECONDS_A_DAY, None, taken
    values, fractions, taken = np.zeros(len(array), np.int64), None, np.zeros(len(array), bool)
    if not pa.types.is_string(array.type):
        return values, None, taken
    for pattern, unit, zone in _ISO:
        if taken.all():
            break
        fits = _numpy(pc.match_substring_regex(array, pattern).fill_null(False), bool)
        try:
            moments = array.filter(pa.array(fits)).cast(pa.timestamp(unit, tz=zone))
        except pa.ArrowInvalid:  # a day that its month does not have
            fits &= ~_numpy(pc.match_substring_regex(array, _LATE_DAY).fill_null(False), bool)
            moments = array.filter(pa.array(fits)).cast(pa.timestamp(unit, tz=zone))
        values[fits], finer = _microseconds(moments)
        if finer is not None:
            fractions = np.zeros(len(array)) if fractions is None else fractions
            fractions[fits] = finer
        taken |= fits
    return values, fractions, taken


def _in_unit(array: pa.Array, unit: str) -> pa.Array:
    return array.cast(pa.timestamp(unit, tz=array.type.tz), safe=False)


def _microseconds(moments: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """Micro- or nanoseconds as whole microseconds and what is beyond them, None where nothing is."""
    numbers = _numpy(moments.cast(pa.int64()), np.int64)
    if moments.type.unit == "us":
        return numbers, None
    whole, finer = np.divmod(numbers, 1_000)
    return whole, finer / 1_000 if finer.any() else None


def _pattern_times(array: pa.Array, pattern: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The same of times that a pattern of `strptime` says; each text is looked at once."""
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    if not pa.types.is_string(array.type):
        return np.zeros(len(array), np.int64), None, np.zeros(len(array), bool)
    coded = array.dictionary_encode()
    texts = coded.dictionary
    values, taken = np.zeros(len(texts), np.int64), np.zeros(len(texts), bool)
    if iso := times_lib.iso_of(pattern):
        padded = pc.replace_substring_regex(texts, times_lib.ONE_DIGIT_ALONE, r"0\1")
        fits = pc.match_substring_regex(padded, iso[0])
        values, _, taken = _iso_times(pc.if_else(fits, pc.replace_substring_regex(padded, *iso), ""))
    parse = parsing.time_parser(pattern)
    for place in np.flatnonzero(~taken).tolist():
        with contextlib.suppress(ValueError):
            values[place] = parse(texts[place].as_py())
            taken[place] = True
    codes = _numpy(coded.indices, np.int64)
    present = _present(array)
    if not len(texts):
        return np.zeros(len(array), np.int64), None, present
    return values[codes], None, taken[codes] & present


def _present(array: pa.Array) -> np.ndarray:
    """bool [n], True where there is a value."""
    return np.ones(len(array), bool) if not array.null_count else _numpy(array.is_valid(), bool)


def _numpy(array: pa.Array, dtype: Any) -> np.ndarray:
    """The values of an array, 0 where there is none."""
    if array.null_count:
        array = array.fill_null(False if dtype is bool else 0)
    return array.to_numpy(zero_copy_only=False).astype(dtype, copy=False)


def _no_strings(number: int) -> pa.StringArray:
    return pa.array([""] * number, pa.string())


def _rows_of(places: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The rows that hold these bytes."""
    return np.searchsorted(offsets, places, side="right") - 1
