"""Times that are written by a pattern of `strptime`: read, in ISO 8601, and recognised. Plain Python: no files."""

from __future__ import annotations

import datetime
import functools
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

# Fields of fixed width, which a pattern may have in any order, and how many digits each has.
_DIGITS = {"%Y": 4, "%m": 2, "%d": 2, "%H": 2, "%M": 2, "%S": 2}
ONE_DIGIT_ALONE = r"\b([0-9])\b"
_YEARS = ("%Y", "%y", "%G", "%c", "%x")

# What `recognised` tries: a date alone, or with a clock after it.
_DATES = [
    *(f"%m{mark}%d{mark}{year}" for mark, year in itertools.product("/.-", ("%Y", "%y"))),
    *(f"%d{mark}%m{mark}{year}" for mark, year in itertools.product("/.-", ("%Y", "%y"))),
    *(f"%Y{mark}%m{mark}%d" for mark in "/.-"),
    *(f"%d{mark}{month}{mark}{year}" for mark, month, year in itertools.product(" -/", ("%b", "%B"), ("%Y", "%y"))),
    *("%b %d, %Y", "%B %d, %Y", "%m %d, %Y", "%a, %d %b %Y", "%Y%m%d"),
]
_CLOCKS = ["%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p", "%I:%M%p", "%I:%M:%S%p", "%H:%M:%S %z"]
_PATTERNS = [
    *_DATES,
    *(f"{date}{mark}{clock}" for date, mark, clock in itertools.product(_DATES, (" ", "T", ", "), _CLOCKS)),
    *("%Y%m%d%H%M%S", "%Y%m%d%H%M"),
    *("%d/%b/%Y:%H:%M:%S %z", "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %z %Y"),
]


def is_pattern(time_format: str) -> bool:
    """Whether a time format is a pattern of `strptime`, and none of the names that others have."""
    return "%" in time_format


def check_pattern(pattern: str) -> None:
    """Raise a ValueError that says what is wrong with a pattern, if anything is."""
    try:
        datetime.datetime.strptime("", pattern)
    except (ValueError, re.error) as error:
        if "does not match format" not in str(error):
            raise ValueError(f"--time-format {pattern!r} is no pattern of strptime: {error}.") from None
    if not any(year in pattern for year in _YEARS):
        raise ValueError(f"--time-format {pattern!r} must have a year, such as %Y.")


def pattern_parser(pattern: str) -> Callable[[Any], datetime.datetime]:
    """A function from a value to its moment; ValueError where it is of another pattern."""

    def parse(value: Any) -> datetime.datetime:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value):
            value = str(int(value))
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no text")
        text = value.strip()
        moment = datetime.datetime.strptime(text, pattern)
        written = moment.strftime(pattern)
        if text.isdigit() and text != written and not ("%f" in pattern and written.startswith(text)):
            raise ValueError(f"{value!r} has fewer digits than {pattern!r}")  # 12 of 14 could be cut in several ways
        return moment

    return parse


@functools.cache
def iso_of(pattern: str) -> tuple[str, str] | None:
    """How to write in ISO 8601 what a pattern of digits alone matches; None where the pattern has other fields.

    Returns:
        An expression of RE2 that the texts match once each digit that stands alone has a zero before it, and what to
        put in its place.
    """
    expression, numbers = "", dict[str, int]()
    for part in re.split("(%.)", pattern):
        if part in _DIGITS and part not in numbers:
            numbers[part] = len(numbers) + 1
            expression += f"([0-9]{{{_DIGITS[part]}}})"
        elif part.startswith("%"):
            return None
        else:
            expression += re.escape(part)
    if not {"%Y", "%m", "%d"} <= numbers.keys():
        return None
    hour, minute, second = (rf"\{numbers[field]}" if field in numbers else "00" for field in ("%H", "%M", "%S"))
    year, month, day = (rf"\{numbers[field]}" for field in ("%Y", "%m", "%d"))
    return f"^{expression}$", f"{year}-{month}-{day}T{hour}:{minute}:{second}"


def recognised(values: Iterable[Any]) -> list[str]:
    """The patterns that fit these values, but for the fewer that no pattern does; where month and day could be either,
    the month is first."""
    patterns, texts = _PATTERNS, sorted({str(value) for value in values})
    num_fitting = 0
    for text in texts:
        if fitting := [pattern for pattern in patterns if _fits(text, pattern)]:
            patterns, num_fitting = fitting, num_fitting + 1
    return patterns if num_fitting > len(texts) / 2 else []


def _fits(text: str, pattern: str) -> bool:
    try:
        return 1970 <= pattern_parser(pattern)(text).year < 2100
    except ValueError:
        return False


def proposal(patterns: Iterable[str]) -> str:
    """What to give, in words."""
    first, *others = patterns
    if not others:
        return f"give --time-format '{first}'"
    return f"give --time-format '{first}' or '{others[0]}', whichever it is: the times that were looked at fit both"
