"""One line or row of input to values and events. Plain Python: no Beam, no files.

Whatever is wrong with a line raises `LineError`; the reader turns that into a rejected line and goes on.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import decimal
import json
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from beam_jobs import times
from seqrec_tf import features, ids

TIME_FORMATS = ("s", "ms", "us", "ns", "iso", "order")
UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000, "iso": 1_000_000, "order": 1}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
# Digits of a second that come after those of its microseconds.
_FINER = re.compile(r"[.,][0-9]{6}([0-9]+)")
_INT64 = 2**63
# The year 1973 in each unit; a thousand times as much is the year 5138, and 1973 in the next finer one.
_LEAST_OF_UNIT = {"ns": 10**17, "us": 10**14, "ms": 10**11, "s": 10**8}

csv.field_size_limit(features.LONGEST_FIELD)


class Key(NamedTuple):
    """The name of a sequence; "" stands for what the data does not have.

    Attributes:
        role: The split that the sequence's file was given for, "" where the job splits.
        user: Whose events these are.
        session: Which session of the user.
    """

    role: str
    user: str
    session: str


class Event(NamedTuple):
    """One event, as a line tells it.

    Attributes:
        time: In the unit of the input, with what it has beyond whole units.
        position: Unique in the input, and ascending in it: equal times keep the order of the input.
        item: What was chosen.
        label: 1 where it was liked, 0 where not, None where the data does not say.
    """

    time: int | float | decimal.Decimal
    position: int
    item: str
    label: int | None


class LineError(Exception):
    """A line that cannot be used.

    Args:
        reason: Why, one of a few fixed texts, so that reasons can be counted.
        detail: What exactly, for who looks at the line.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names or 0-based numbers of the columns of an events file; None where the data has no such column."""

    user: str | int | None = None
    item: str | int | None = None
    time: str | int | None = None
    session: str | int | None = None
    label: str | int | None = None

    def __iter__(self):
        return iter(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """How the lines of a text file are written.

    Attributes:
        format: "csv" (any delimiter), "jsonl" or "sequences" (item ids of one sequence per line).
        delimiter: Between fields; " " means any run of blanks.
        encoding: How the bytes of a line are text, such as utf-8.
        has_header: Whether the first line of every file names its columns.
        num_columns: Fields of every line where there is no header to tell, 0 otherwise.
        quoted: Whether a field may stand in double quotes.
        multiline: Whether a quoted field may hold line breaks, so that a record may be several lines.
        stored_as: The encoding of the files where they are read as if they were in `encoding`; "" where they are.
    """

    format: str
    delimiter: str = ","
    encoding: str = "utf-8"
    has_header: bool = False
    num_columns: int = 0
    quoted: bool = True
    multiline: bool = False
    stored_as: str = ""

    def is_blank(self, line: bytes) -> bool:
        """Whether a line holds nothing, not even empty fields between tabs."""
        return not line.strip(b"\r\n ") if self.delimiter == "\t" else line.isspace()

    def split(self, text: str) -> list[str]:
        """The fields of a line."""
        if self.delimiter == " ":
            return text.split()
        if '"' not in text or not self.quoted:
            return text.split(self.delimiter)
        try:
            return next(csv.reader([text], delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            advice = "" if self.multiline else "; if the field goes on in the next line, give --multiline yes"
            raise LineError("quotes do not match", f"{error}{advice}") from None

    def decode(self, line: bytes) -> str:
        """The text of a line without its end."""
        try:
            return line.decode(self.encoding).rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise LineError("broken encoding", f"not {self.encoding}: {error.reason} at byte {error.start}") from None


def row_parser(
    text_format: TextFormat,
    columns: Sequence[str | int | None],
    header: Sequence[str] | None,
    *,
    num_required: int | None = None,
) -> Callable[[str], Sequence]:
    """A function from the text of a line to the values of `columns`, None for each column that is None.

    Args:
        text_format: How the line is written.
        columns: What to take.
        header: The names in the file's first line, None where it has none.
        num_required: How many of the columns, the first ones, a JSON object must have, None for all; what it lacks of
            the others is null, also where one of the first is among these again.
    """
    if text_format.format == "jsonl":
        return _json_parser(columns, len(columns) if num_required is None else num_required)
    if text_format.format == "sequences":
        return text_format.split
    try:
        numbers, num_columns = column_numbers(text_format, columns, header)
    except LineError as error:
        return _refuse(error.reason, error.detail)
    pick = operator.itemgetter(*numbers, -1)  # the last, -1, keeps the result a tuple; it is cut off below

    def parse(text: str) -> tuple:
        fields: list[str | None] = text_format.split(text)  # type: ignore[assignment]
        if len(fields) != num_columns:
            raise LineError("wrong number of columns", f"{len(fields)} instead of {num_columns}")
        fields.append(None)  # what column -1 gives
        return pick(fields)[:-1]

    return parse


def column_numbers(
    text_format: TextFormat, columns: Sequence[str | int | None], header: Sequence[str] | None
) -> tuple[list[int], int]:
    """The numbers of `columns` in a file of CSV, -1 for each that is None, and how many columns the file has.

    Raises:
        LineError: The file lacks one of them.
    """
    missing = [name for name in columns if isinstance(name, str) and name not in (header or ())]
    if missing:
        raise LineError("the file's header lacks a column", ", ".join(missing))
    num_columns = text_format.num_columns if header is None else len(header)
    numbers = [header.index(c) if isinstance(c, str) else -1 if c is None else c for c in columns]  # type: ignore[union-attr]
    if max(numbers) >= num_columns:
        raise LineError("the file's header lacks a column", f"number {max(numbers)}")
    return numbers, num_columns


def _refuse(reason: str, detail: str) -> Callable[[str], tuple]:
    def parse(text: str) -> tuple:
        raise LineError(reason, detail)

    return parse


def _json_parser(columns: Sequence[str | int | None], num_required: int) -> Callable[[str], tuple]:
    optional = frozenset(columns[num_required:])

    def parse(text: str) -> tuple:
        try:
            row = json.loads(text, parse_float=ids.FloatAsWritten.of)
        except (ValueError, RecursionError) as error:
            raise LineError("bad JSON", str(error)) from None
        if not isinstance(row, dict):
            raise LineError("bad JSON", "not an object")
        row[None] = None
        try:
            return tuple([row.get(column) if column in optional else row[column] for column in columns])
        except KeyError as error:
            raise LineError("missing key", str(error)) from None

    return parse


def parse_id(value: Any, what: str) -> str:
    """An id as text: strings as they are, integers (and other numbers that are integers) in decimal."""
    if value.__class__ is not str:
        if value is None or value != value:  # NaN, as pandas has it where there is nothing
            raise LineError(f"empty {what}")
        if isinstance(value, bytes):
            return parse_id(text_of_bytes(value), what)
        try:
            return ids.of_value(value)
        except TypeError:
            raise LineError(f"{what} is neither text nor an integer", repr(value)[:200]) from None
        except OverflowError as error:
            raise LineError(f"{what} is a float too large to be exact", f"{value!r}: {error}") from None
    if not value.isprintable():
        if "\n" in value or "\r" in value:
            raise LineError(f"{what} contains a line break")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise LineError("broken encoding", f"{what} holds half a surrogate pair") from None
    if not value or value.isspace():
        raise LineError(f"empty {what}")
    return value


def text_of_bytes(value: bytes) -> str:
    """A value of a Parquet column that does not say that it is text."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise LineError("broken encoding", f"not utf-8: {error.reason} at byte {error.start}") from None


def parse_number(value: Any) -> int | float:
    """A finite number; ValueError otherwise. Integers stay exact."""
    if isinstance(value, str):
        if value.isascii() and value.isdigit():
            return int(value)
        if "_" in value:  # Python's digit separator
            raise ValueError(f"{value!r} is not a number")
        try:
            return int(value)
        except ValueError:
            number = float(value)
    elif value is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    elif isinstance(value, int):
        return value
    else:
        number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number


def parse_exactly(value: Any) -> int | float | decimal.Decimal:
    """A finite number, as `parse_number`, but of a text every digit counts."""
    number = parse_number(value)
    return decimal.Decimal(value) if isinstance(number, float) and isinstance(value, str) else number


def parse_iso(value: Any) -> int | decimal.Decimal:
    """Microseconds since 1970 of an ISO 8601 text, a date or a datetime; UTC where it names no zone."""
    finer = decimal.Decimal(0)
    if isinstance(value, str):
        if digits := _FINER.search(value):
            finer = decimal.Decimal(f"0.{digits[1]}")
        value = datetime.datetime.fromisoformat(value)
    elif isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    elif not isinstance(value, datetime.datetime):
        raise ValueError(f"{value!r} is not a date")
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    microseconds = (value - _EPOCH) // _MICROSECOND
    return microseconds + finer if finer else microseconds


def units_per_second(time_format: str) -> int:
    """Units that a second has; 1 where times are just an order, or there are none."""
    return UNITS_PER_SECOND["iso" if times.is_pattern(time_format) else time_format] if time_format else 1


def infer_time_format(value: Any) -> str:
    """The time format that a value shows; ValueError where it shows none, LookupError where it may mislead."""
    try:
        number = parse_number(value)
    except (ValueError, TypeError):
        parse_iso(value)
        return "iso"
    for length, pattern in ((14, "%Y%m%d%H%M%S"), (12, "%Y%m%d%H%M")):
        with contextlib.suppress(ValueError):
            if len(str(number)) == length and 1970 <= datetime.datetime.strptime(str(number), pattern).year < 2100:
                raise LookupError(f"{value!r} looks like a date and time without separators")
    for name, least in _LEAST_OF_UNIT.items():
        if number >= least:
            return name
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(f"{value!r} is neither an integer nor a time after 1973")
    return "order"


def bounds(time_format: str) -> tuple[int, int]:
    """From which number to below which a time is after 1973 in a unit. Times before that look alike in any unit."""
    if time_format == "order":
        return -_INT64, _INT64
    first = _LEAST_OF_UNIT[time_format]
    return first, _INT64 if time_format == "ns" else 1_000 * first


def time_parser(time_format: str) -> Callable[[Any], int | float | decimal.Decimal]:
    """A function from a value to the time in the unit of the input; ValueError where it is none.

    Times of ISO 8601, and those of a pattern, are in microseconds.
    """
    if time_format == "iso":
        return parse_iso
    if times.is_pattern(time_format):
        moment_of = times.pattern_parser(time_format)
        return lambda value: parse_iso(moment_of(value))

    first, limit = bounds(time_format)

    def parse(value: Any) -> int | float | decimal.Decimal:
        number = parse_exactly(value)
        if not first <= number < limit and number >= _LEAST_OF_UNIT["s"]:  # what is less is near 1970 in any unit
            other = next(name for name, least in _LEAST_OF_UNIT.items() if number >= least)
            raise ValueError(f"{value!r} looks like a time in {other}, not in {time_format}")
        whole = math.floor(number)
        if whole == number:
            number = whole
        elif time_format == "order":
            raise ValueError(f"{value!r} is no integer, as times that are a mere order must be")
        if not -_INT64 <= number < _INT64:
            raise ValueError(f"{value!r} does not fit in 64 bits")
        return number

    return parse


class EventParser:
    """The values of an events file's `Columns` to the sequence's key and its event.

    Args:
        columns: Which columns there are.
        time_format: One of `TIME_FORMATS`; "" where events have no time.
        label_threshold: The smallest value that counts as positive; None where values are 0 or 1.
    """

    def __init__(self, columns: Columns, *, time_format: str, label_threshold: float | None = None):
        self.columns = columns
        self._parse_time = time_parser(time_format) if time_format else None
        self._label_threshold = label_threshold

    def __call__(self, values: tuple, *, role: str, position: int) -> tuple[Key, Event]:
        """The key and the event; LineError where a value is of no use."""
        user, item, time, session, label = values
        columns = self.columns
        user = "" if columns.user is None else parse_id(user, "user id")
        session = "" if columns.session is None else parse_id(session, "session id")
        item = parse_id(item, "item id")
        try:
            what = "time"
            time = 0 if self._parse_time is None else self._parse_time(time)
            if columns.label is not None:
                what = "label"
                label = self._parse_label(label)
        except (ValueError, TypeError, OverflowError) as error:
            raise LineError(f"unparsable {what}", str(error)) from None
        return Key(role, user, session), Event(time, position, item, label)

    def _parse_label(self, value: Any) -> int:
        truth = features.truth_of(value)
        number = parse_number(value) if truth is None else int(truth)
        if self._label_threshold is not None:
            return int(number >= self._label_threshold)
        if number not in (0, 1):
            raise ValueError(f"{value!r} is neither 0 nor 1, and there is no --label-threshold")
        return int(number)
