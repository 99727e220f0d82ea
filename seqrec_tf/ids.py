"""The normal form of ids of items, users and sessions, which preparation, export, saved models and the client share.

Exports of one shop spell one id in several ways. All of these are the item `7`, if the column holds numbers alone:
`7`, ` 7`, `7 `, `7.0`. The normal form is

- trimmed of blanks, as `str.strip` does;
- composed (Unicode NFC), so that `é` is one character, however it was typed;
- of a column that holds numbers alone, in every file: a whole number without a fraction. pandas writes `7.0` where a
  column lacks a value somewhere, Spark `1.2345678E7` where a number is large.

Leading zeros stay, and a column with such ids is text: `007` is not `7`. What an export has rounded stays as it is
(`8.80012E+14`). Numbers of JSON and Parquet have types and need no guess: `of_value`.

Standard library only.
"""

from __future__ import annotations

import decimal
import re
import unicodedata
from typing import Any

# Integers from here on are not all floats: 2^53 and 2^53 + 1 are one. Of float32 and float16, from 2^24 and 2^11 on.
EXACT_AS_FLOAT = 1 << 53
_EXACT_AS = {"float32": 1 << 24, "float16": 1 << 11}

# A number as files write it, without a leading zero. This and the patterns below mean the same in Python and in RE2.
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
# A whole number with a fraction, and what to write instead.
FRACTION, WITHOUT_FRACTION = r"^(-?[1-9][0-9]*|0)\.0+$", r"\1"
# A float of seven and more digits as Java writes it: all digits that it has.
JAVA_FLOAT = r"^-?[1-9]\.[0-9]+E[0-9]+$"
# The blanks of `str.strip` at either end, as RE2 writes them.
BLANKS_AROUND = r"^[\t-\r\x1c-\x1f\x{85}\pZ]+|[\t-\r\x1c-\x1f\x{85}\pZ]+$"
# How files say, in the text of a value, that there is none.
NULLS = frozenset(["", "None", "NULL", "null", "NA", "N/A", "<NA>", "nan", "NaN", "\\N"])

_NUMBER, _FRACTION, _JAVA_FLOAT = re.compile(NUMBER), re.compile(FRACTION), re.compile(JAVA_FLOAT)


class FloatAsWritten(float):
    """A float of JSON that keeps its digits, of which 64 bits do not hold all."""

    __slots__ = ("text",)
    text: str

    @classmethod
    def of(cls, text: str) -> float:
        """For `json.loads(…, parse_float=…)`: a plain float wherever that is exact enough."""
        value = float(text)
        if abs(value) < EXACT_AS_FLOAT:
            return value
        kept = cls(value)
        kept.text = text
        return kept


def of_value(value: Any) -> str:
    """An integer, or a number that is one, as the text of an id.

    Raises:
        TypeError: The value is no integer.
        OverflowError: It is a float so large that several integers are the same float.
    """
    if isinstance(value, bool):
        raise TypeError("a truth value is no id")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, decimal.Decimal):
        if value.is_finite() and value == value.to_integral_value():
            return str(int(value))
        raise TypeError("a number with a fraction is no id")
    if not hasattr(value, "is_integer") or not value.is_integer():
        raise TypeError("neither text nor an integer")
    if isinstance(value, FloatAsWritten) and _FRACTION.match(value.text):
        return _FRACTION.sub(WITHOUT_FRACTION, value.text)
    if abs(value) >= _EXACT_AS.get(type(value).__name__, EXACT_AS_FLOAT):
        raise OverflowError("of integers so large several are one float; write ids as integers or text")
    return str(int(value))


def tidy(text: str) -> str:
    """An id without blanks around it, composed."""
    return unicodedata.normalize("NFC", text.strip())


def is_number(text: str) -> bool:
    """Whether an id may be of a column of numbers: a number, or a word for none."""
    return bool(_NUMBER.match(text)) or text in NULLS


def without_fraction(text: str) -> str:
    """An id of a column of numbers: a whole number without a fraction; others as they are."""
    if _JAVA_FLOAT.match(text):
        number = decimal.Decimal(text)
        if number == number.to_integral_value() and abs(number) < EXACT_AS_FLOAT:
            return str(int(number))
    return _FRACTION.sub(WITHOUT_FRACTION, text)


def normal(text: str, *, is_numeric: bool) -> str:
    """The normal form of an id; `is_numeric` says whether its column holds numbers alone."""
    text = tidy(text)
    return without_fraction(text) if is_numeric else text


def decomposed(text: str) -> str:
    """The other spelling of a normal id that clients may send, equal where there is none."""
    return unicodedata.normalize("NFD", text)
