"""Where a record of CSV ends: at the end of its line, unless that is inside a quoted field.

A quote opens a field at its beginning alone, and closes it before a delimiter or the end of a line; a quote in the
middle of an unquoted field is a letter. That is what Python's `csv` reads. A quote that nothing closes is a mistake of
its line: that one is rejected, and the lines after it are records of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from beam_jobs.parsing import LineError, TextFormat

# What `record_end` gives where a field is not closed in the data, and where something else than a delimiter follows
# the quote that closes it.
UNFINISHED, MALFORMED = -1, -2
# A quote that nothing closes for so long is a mistake.
LONGEST_RECORD = 16 << 20


def may_hold_breaks(text_format: TextFormat) -> bool:
    """Whether fields of this format may be quoted."""
    is_csv = text_format.format == "csv" and text_format.quoted
    return is_csv and text_format.delimiter not in (" ", '"')


def record_end(data: bytes, start: int, delimiter: bytes) -> int:
    """One past the line break that ends the record which begins at `start`; UNFINISHED or MALFORMED."""
    place = start
    while True:
        line_break = data.find(b"\n", place)
        end = len(data) if line_break < 0 else line_break + 1
        opening = data.find(b'"', place, end)
        if opening < 0:
            return end
        place = opening + 1
        if opening > start and not data.endswith(delimiter, start, opening):
            continue  # a letter
        closing = data.find(b'"', place)
        while closing >= 0 and data.startswith(b'"', closing + 1):  # two stand for one
            closing = data.find(b'"', closing + 2)
        if closing < 0:
            return UNFINISHED
        place = closing + 1
        if place < len(data) and data[place] not in b"\r\n" and not data.startswith(delimiter, place):
            return MALFORMED


def joined(
    data: bytes, starts: np.ndarray, odd: np.ndarray, text_format: TextFormat, *, is_last: bool
) -> tuple[np.ndarray, int]:
    """Where the records begin, from where the lines do.

    Args:
        data: Lines.
        starts: int64 [n], where each begins.
        odd: Lines, ascending, with other quotes than those around whole fields; no other line opens a field that it
            does not close.
        text_format: How they are written.
        is_last: Whether nothing follows.

    Returns:
        int64, where each record begins; where the last whole record ends.
    """
    delimiter = _delimiter(text_format)
    begins = np.ones(len(starts), bool)
    next_line = 0
    for line in odd.tolist():
        if line < next_line:
            continue
        start = int(starts[line])
        end = record_end(data, start, delimiter)
        if end == UNFINISHED and not is_last and len(data) - start < LONGEST_RECORD:
            return starts[:line][begins[:line]], start
        if end - start > LONGEST_RECORD:
            continue
        if end > 0:
            next_line = int(np.searchsorted(starts, end))
            begins[line + 1 : next_line] = False
    return starts[begins], len(data)


def records(lines: Iterable[bytes], text_format: TextFormat) -> Iterator[bytes]:
    """The records of a file, one by one, from its lines."""
    lines = iter(lines)
    if not text_format.multiline:
        yield from lines
        return
    delimiter = _delimiter(text_format)
    for line in lines:
        held, end, size = [line], record_end(line, 0, delimiter), len(line)
        while end == UNFINISHED and size < LONGEST_RECORD and (following := next(lines, None)) is not None:
            held.append(following)
            size += len(following)
            if b'"' in following:
                end = record_end(b"".join(held), 0, delimiter)
        if end > 0:
            yield b"".join(held)
        else:
            yield line
            lines = itertools.chain(held[1:], lines)


def line_with_breaks(head: bytes, text_format: TextFormat) -> int:
    """The number, from 1, of the first line whose record goes on in the next; 0 where none does.

    A stray quote is not taken for one that opens a field: the record must have as many fields as the first, and no line
    within it may have so many.
    """
    if b'"' not in head:
        return 0
    delimiter = _delimiter(text_format)
    start, number, num_fields = 0, 1, 0
    while start < len(head):
        line_end = head.find(b"\n", start) + 1 or len(head)
        if b'"' in head[start:line_end]:
            end = record_end(head, start, delimiter)
            if end > line_end and _is_one_record(head[start:end], text_format, num_fields):
                return number
        num_fields = num_fields or _num_fields(head[start:line_end], text_format)
        start, number = line_end, number + 1
    return 0


def _is_one_record(data: bytes, text_format: TextFormat, num_fields: int) -> bool:
    """Whether some lines are one record rather than several with a stray quote each."""
    of_record = _num_fields(data, text_format)
    if not of_record or of_record != (num_fields or of_record):
        return False
    within = data.split(b"\n")[1:-2]
    return of_record == 1 or of_record not in [_num_fields(line, text_format) for line in within]


def _num_fields(data: bytes, text_format: TextFormat) -> int:
    """How many fields a record has; 0 where it is none."""
    try:
        return len(text_format.split(text_format.decode(data)))
    except LineError:
        return 0


def _delimiter(text_format: TextFormat) -> bytes:
    return text_format.delimiter.encode(text_format.encoding).removeprefix(b"\xef\xbb\xbf")
