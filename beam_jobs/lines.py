"""Pieces of text files as lines, and the fast way from lines to columns.

Most lines are plain: so many fields, no quote in the middle of one. Those become Arrow columns all at once. The others
are left, by their numbers, to the parser of single lines (`parsing`), which knows what each of them is, and why it may
be of no use.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import functools
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs import columns, parsing, quotes
from beam_jobs.parsing import LineError, TextFormat

_BUFFER = 1 << 20
# How much of a compressed file is looked at at once.
_BLOCK_BYTES = 16 << 20
_JSON_LINES_AT_ONCE = 20_000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_QUOTE, _LINE_FEED, _CARRIAGE_RETURN, _BLANK = b'"\n\r '
# Stands for a delimiter of several characters, in lines that do not hold it.
_UNIT_SEPARATOR = b"\x1f"
# What `str.split` takes for blanks, but for the space itself and the ends of lines.
_OTHER_BLANKS = np.frombuffer(b"\t\x0b\x0c\x1c\x1d\x1e\x1f", np.uint8)


@dataclasses.dataclass(frozen=True)
class Range:
    """A piece of a file that one worker reads at once.

    Attributes:
        path: The file.
        role: The split that the file was given for ("" where the job splits), "items" or "users".
        rank: Place of the file in the order of the input.
        number: Place of the range among all ranges.
        first_number: `number` of the first range of the same file.
        start: First byte of a text file; first row group of a Parquet file.
        end: One past the last byte, None for the whole file.
        first_record: Records of a Parquet file before this range.
        num_records: Records of a Parquet file in this range; 0 where the file is text.
    """

    path: str
    role: str
    rank: int
    number: int
    first_number: int
    start: int = 0
    end: int | None = None
    first_record: int = 0
    num_records: int = 0

    @property
    def is_parquet(self) -> bool:
        """Whether the file is no text: Parquet ranges hold records, others are not counted before they are read."""
        return self.num_records > 0


def is_gzip(path: str) -> bool:
    """Whether a file is compressed, by its name."""
    return path.endswith(".gz")


@contextlib.contextmanager
def open_binary(path: str, text_format: TextFormat | None = None) -> Iterator[BinaryIO]:
    """A file of any of Beam's file systems, decompressed where its name ends in .gz, and recoded as its format says."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        stored_as = text_format.stored_as if text_format is not None else ""
        try:
            if is_gzip(path):
                with gzip.GzipFile(fileobj=stream) as plain:
                    yield _recoded(io.BufferedReader(plain, _BUFFER), stored_as)
                return
            # The readers of object stores have no buffer: they would be read byte by byte to find the end of a line.
            buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, _BUFFER)
            yield _recoded(buffered, stored_as)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise RuntimeError(f"{path} is damaged: {error}.") from error
        except UnicodeError as error:
            if not stored_as:
                raise
            raise RuntimeError(f"{path} is damaged, or not {stored_as}: {error}.") from error


def _recoded(stream: io.BufferedReader, stored_as: str) -> BinaryIO:
    """The stream in UTF-8 where it is stored as something else."""
    return io.BufferedReader(_Recoded(stream, stored_as), _BUFFER) if stored_as else stream


class _Recoded(io.RawIOBase):
    """A stream of text in any encoding as one in UTF-8."""

    def __init__(self, stream: io.BufferedReader, encoding: str):
        self._text = io.TextIOWrapper(stream, encoding, newline="")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or self._text.read(_BUFFER).encode()
        number = min(len(buffer), len(self._left))
        buffer[:number], self._left = self._left[:number], self._left[number:]
        return number


def without_mark(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file, the first without a byte order mark."""
    lines = iter(stream)
    for line in lines:
        yield line.removeprefix(_BYTE_ORDER_MARK)
        yield from lines


@contextlib.contextmanager
def open_records(path: str, text_format: TextFormat) -> Iterator[Iterator[bytes]]:
    """The records of a text file, one by one, its header among them."""
    with open_binary(path, text_format) as stream:
        yield quotes.records(without_mark(stream), text_format)


def read_header(path: str, text_format: TextFormat) -> list[str] | None:
    """The column names in the first line of a file, None where the format has none."""
    if not text_format.has_header or text_format.format != "csv":
        return None
    with open_records(path, text_format) as records:
        line = next(records, b"")
    try:
        return text_format.split(text_format.decode(line))
    except LineError:
        return []


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole lines that follow each other in a file.

    Attributes:
        data: The lines, without a byte order mark.
        offset: Where the first line begins in the (decompressed) file.
        mark: Bytes of the byte order mark that stood before the first line.
        records: int64 [n], where each record begins in `data`, where some are several lines; "line" is a record then.
    """

    data: bytes
    offset: int
    mark: int = 0
    records: np.ndarray | None = None

    @functools.cached_property
    def values(self) -> np.ndarray:
        """The lines as uint8."""
        return np.frombuffer(self.data, np.uint8)

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """int64 [n], where each line begins in `data`."""
        if self.records is not None:
            return self.records
        ends = np.flatnonzero(self.values == _LINE_FEED) + 1
        if not len(ends) or ends[-1] < len(self.data):
            ends = np.append(ends, len(self.data))
        return np.append(0, ends[:-1])

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """int64 [n], where each line ends, its line break included."""
        return np.append(self.starts[1:], len(self.data))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def offsets(self) -> np.ndarray:
        """int64 [n], where each line begins in the file."""
        offsets = self.starts + (self.offset + self.mark)
        offsets[0] -= self.mark
        return offsets

    @functools.cached_property
    def _places(self) -> np.ndarray:
        return np.searchsorted(dataclasses.replace(self, records=None).starts, self.starts)

    def lines_before(self, number: int) -> int:
        """How many lines of text are before one of these, which may be several."""
        return number if self.records is None else int(self._places[number])

    @property
    def num_lines(self) -> int:
        """How many lines of text these are."""
        return len(self) if self.records is None else len(dataclasses.replace(self, records=None))

    def line(self, number: int) -> bytes:
        """One line."""
        return self.data[self.starts[number] : self.ends[number]]

    def without(self, lines: np.ndarray) -> bytes:
        """All but these lines, which ascend."""
        if not len(lines):
            return self.data
        starts = [0, *self.ends[lines].tolist()]
        ends = [*self.starts[lines].tolist(), len(self.data)]
        return b"".join([self.data[start:end] for start, end in zip(starts, ends, strict=True)])

    def lines_with(self, places: np.ndarray) -> np.ndarray:
        """The lines that hold these bytes."""
        return np.searchsorted(self.starts, places, side="right") - 1


def read_blocks(part: Range, text_format: TextFormat | None = None) -> Iterator[Block]:
    """The lines that begin in a range, many at a time; records, where these may be several lines."""
    if text_format is not None and text_format.multiline:
        yield from _blocks_of_records(part, text_format)
        return
    with open_binary(part.path, text_format) as stream:
        offset, mark = part.start, 0
        if offset:
            # The line that contains the byte before the range belongs to the range before.
            stream.seek(offset - 1)
            offset += len(stream.readline()) - 1
        else:
            mark = len(_BYTE_ORDER_MARK) if stream.peek(3).startswith(_BYTE_ORDER_MARK) else 0  # type: ignore[attr-defined]
            stream.read(mark)
        while part.end is None or offset < part.end:
            data = stream.read(_BLOCK_BYTES if part.end is None else max(part.end - offset - mark, 0))
            if not data.endswith(b"\n"):
                data += stream.readline()
            if not data:
                return
            yield Block(data, offset, mark)
            offset, mark = offset + mark + len(data), 0


def _blocks_of_records(part: Range, text_format: TextFormat) -> Iterator[Block]:
    """The records of a whole file, many at a time."""
    lines = read_blocks(part, dataclasses.replace(text_format, multiline=False))
    data, offset, mark, is_last = b"", 0, 0, False
    while not is_last:
        block = next(lines, None)
        is_last = block is None
        if block is not None:
            offset, mark = (offset, mark) if data else (block.offset, block.mark)
            data += block.data
        if data:
            whole = Block(data, offset, mark)
            odd = np.unique(_uneven_quotes(whole, text_format.delimiter)) if b'"' in data else np.zeros(0, np.int64)
            starts, end = quotes.joined(data, whole.starts, odd, text_format, is_last=is_last)
            if end:
                yield Block(data[:end], offset, mark, starts)
                data, offset, mark = data[end:], offset + mark + end, 0


@dataclasses.dataclass(frozen=True)
class Plain:
    """What the plain lines of a block hold.

    Attributes:
        arrays: An Arrow array [n] a column; None for a column that is not wanted, or where no line is plain.
        lines: int64 [n], the numbers of the plain lines, ascending.
        taken: bool [n], False where a value is of another type than most of its column, and so of none in its array.
    """

    arrays: Sequence[Any]
    lines: np.ndarray
    taken: np.ndarray

    @classmethod
    def nothing(cls, wanted: Sequence[Any]) -> Plain:
        """No line is plain."""
        return cls([None] * len(wanted), np.zeros(0, np.int64), np.zeros(0, bool))


def plain_csv(
    block: Block,
    text_format: TextFormat,
    wanted: Sequence[str | int | None],
    header: Sequence[str] | None,
    *,
    first: int,
) -> Plain:
    """The columns `wanted` of the plain lines, as text.

    Args:
        block: The lines.
        text_format: How they are written.
        wanted: Names or numbers of columns, None for one that is not there.
        header: The names in the file's first line, None where it has none.
        first: Lines of the block that are no records.
    """
    import pyarrow.csv

    try:
        numbers, num_columns = parsing.column_numbers(text_format, wanted, header)
    except LineError:
        return Plain.nothing(wanted)
    if num_columns == 1 or text_format.delimiter == '"':
        return Plain.nothing(wanted)
    left = np.union1d(np.arange(first), _odd_lines(block, text_format))
    data = block.without(left)
    lines = np.setdiff1d(np.arange(len(block)), left, assume_unique=True)
    delimiter = text_format.delimiter
    if not _is_one_byte(text_format):
        encoded = delimiter.encode(text_format.encoding).removeprefix(_BYTE_ORDER_MARK)
        data, delimiter = data.replace(encoded, _UNIT_SEPARATOR), _UNIT_SEPARATOR.decode()
    if not data:
        return Plain.nothing(wanted)
    names = [str(number) for number in range(num_columns)]
    uneven: list[int] = []

    def leave(row: Any) -> str:
        uneven.append(row.number - 1)
        return "skip"

    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        pyarrow.csv.ReadOptions(use_threads=False, column_names=names, block_size=len(data) + 1),
        pyarrow.csv.ParseOptions(
            newlines_in_values=text_format.multiline,
            delimiter=delimiter,
            quote_char='"' if _has_quotes(text_format) else False,
            ignore_empty_lines=False,
            invalid_row_handler=leave,
        ),
        pyarrow.csv.ConvertOptions(
            include_columns=sorted({names[number] for number in numbers if number >= 0}),
            column_types=dict.fromkeys(names, pa.string()),
            check_utf8=False,
            strings_can_be_null=False,
        ),
    )
    lines = np.delete(lines, uneven)
    if table.num_rows != len(lines):
        return Plain.nothing(wanted)
    table = table.combine_chunks()
    arrays = [table[names[number]].chunk(0) if number >= 0 and len(lines) else None for number in numbers]
    return Plain(arrays, lines, np.ones(len(lines), bool))


def _is_one_byte(text_format: TextFormat) -> bool:
    """Whether the delimiter is a character of ASCII."""
    return len(text_format.delimiter) == 1 and text_format.delimiter.isascii()


def _has_quotes(text_format: TextFormat) -> bool:
    return text_format.quoted and text_format.delimiter != " "


def _odd_lines(block: Block, text_format: TextFormat) -> np.ndarray:
    """The lines, ascending, that might be read in two ways."""
    data, values = block.data, block.values
    odd = [_not_text(block, text_format)]
    if b"\r" in data:
        returns = np.flatnonzero(values == _CARRIAGE_RETURN)
        odd.append(block.lines_with(returns[_bytes_at(values, returns + 1) != _LINE_FEED]))
    if not _is_one_byte(text_format) and _UNIT_SEPARATOR in data:
        odd.append(block.lines_with(np.flatnonzero(values == _UNIT_SEPARATOR[0])))
    if text_format.delimiter == " ":
        odd.append(_uneven_blanks(block))
    elif text_format.quoted and b'"' in data:
        odd.append(_uneven_quotes(block, text_format.delimiter))
    return np.unique(np.concatenate(odd))


def _not_text(block: Block, text_format: TextFormat) -> np.ndarray:
    """The lines with other characters than ASCII, unless they are surely UTF-8."""
    if block.data.isascii():
        return np.zeros(0, np.int64)
    if codecs.lookup(text_format.encoding).name == "utf-8" and text_format.delimiter != " ":
        with contextlib.suppress(UnicodeDecodeError):
            block.data.decode()
            return np.zeros(0, np.int64)
    return block.lines_with(np.flatnonzero(block.values >= 128))


def _uneven_blanks(block: Block) -> np.ndarray:
    """The lines with other than single spaces between fields."""
    values = block.values
    blanks = np.flatnonzero(values == _BLANK)
    beside = np.frombuffer(b" \r\n", np.uint8)
    uneven = np.isin(_bytes_at(values, blanks + 1), beside) | np.isin(_bytes_at(values, blanks - 1), beside)
    return np.concatenate([block.lines_with(blanks[uneven]), _lines_with_any(block, _OTHER_BLANKS)])


def _lines_with_any(block: Block, characters: np.ndarray) -> np.ndarray:
    if not any(bytes([character]) in block.data for character in characters.tolist()):
        return np.zeros(0, np.int64)
    return block.lines_with(np.flatnonzero(np.isin(block.values, characters)))


def _uneven_quotes(block: Block, delimiter: str) -> np.ndarray:
    """The lines with other quotes than those around whole fields."""
    values = block.values
    quotes = np.flatnonzero(values == _QUOTE)
    lines = block.lines_with(quotes)
    if not delimiter.isascii():
        return lines
    numbers = np.arange(len(quotes)) - np.searchsorted(lines, lines)  # of each quote in its line
    opens = numbers % 2 == 0
    outside = _bytes_at(values, np.where(opens, quotes - 1, quotes + 1))
    is_even = (np.bincount(lines, minlength=len(block)) % 2 == 0)[lines]
    fits = np.isin(outside, np.array([ord(delimiter), _LINE_FEED, _CARRIAGE_RETURN], np.uint8)) & is_even
    return lines[~fits]


def _bytes_at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The bytes at these places; line breaks before the first and after the last."""
    inside = (places >= 0) & (places < len(values))
    return np.where(inside, values[np.where(inside, places, 0)], _LINE_FEED).astype(np.uint8)


def plain_json(
    block: Block, text_format: TextFormat, wanted: Sequence[str | int | None], *, num_required: int
) -> Plain:
    """The columns `wanted` of the lines that are an object with the first `num_required` of them."""
    import orjson

    if codecs.lookup(text_format.encoding).name != "utf-8":
        return Plain.nothing(wanted)
    texts = block.data.split(b"\n")
    names, optional = [name for name in wanted[:num_required] if name is not None], wanted[num_required:]
    required = set(names).difference(optional)
    values: list[list[Any]] = [[] for _ in (*names, *optional)]
    lines: list[np.ndarray] = []
    for start in range(0, len(block), _JSON_LINES_AT_ONCE):
        some = texts[start : min(start + _JSON_LINES_AT_ONCE, len(block))]
        try:
            rows = list(map(orjson.loads, some))
            columns_of_rows = [
                [row[name] for row in rows] if name in required else [row.get(name) for row in rows]
                for name in (*names, *optional)
            ]
            of_rows = np.arange(start, start + len(rows))
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError, AttributeError):
            kept = [(number, row) for number, row in enumerate(map(_object, some), start) if _has_all(row, required)]
            columns_of_rows = [[row.get(name) for _, row in kept] for name in (*names, *optional)]
            of_rows = np.array([number for number, _ in kept], np.int64)
        lines.append(of_rows)
        for into, column in zip(values, columns_of_rows, strict=True):
            into += column
    numbers = np.concatenate(lines)
    taken = np.ones(len(numbers), bool)
    arrays = []
    for place, column in enumerate(values):
        array, is_usual = columns.of_values(column)
        if place >= len(names):
            is_usual |= np.array([value is None for value in column], bool)
        arrays.append(array)
        taken &= is_usual
    of_names = iter(arrays)
    return Plain([None if name is None else next(of_names) for name in wanted], numbers, taken)


def _object(text: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _has_all(row: Any, names: Iterable[Any]) -> bool:
    return isinstance(row, dict) and all(name in row for name in names)


def plain_sequences(block: Block, text_format: TextFormat) -> tuple[pa.StringArray, np.ndarray, np.ndarray]:
    """The fields of the plain lines, of lines that are one sequence of item ids each.

    Returns:
        string [E], the fields of one line after the other; int64 [n], the plain lines; int64 [n], fields of each.
    """
    left = _odd_lines(block, dataclasses.replace(text_format, quoted=False))
    if not _is_one_byte(text_format):
        left = np.arange(len(block))
    elif b'"' in block.data and _has_quotes(text_format):
        left = np.union1d(left, block.lines_with(np.flatnonzero(block.values == _QUOTE)))
    left = np.union1d(left, np.flatnonzero(block.ends - block.starts <= 1))  # empty lines
    data = block.without(left).replace(b"\r\n", b"\n")
    lines = np.setdiff1d(np.arange(len(block)), left, assume_unique=True)
    if not data:
        return pa.array([], pa.string()), lines, np.zeros(0, np.int64)
    if not data.endswith(b"\n"):
        data += b"\n"
    values = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero((values == _LINE_FEED) | (values == ord(text_format.delimiter)))
    number = np.diff(np.flatnonzero(values[breaks] == _LINE_FEED), prepend=-1)
    # The text between two breaks is a field: the bytes without the breaks, cut where those were.
    offsets = np.append(0, breaks - np.arange(len(breaks))).astype(np.int32)
    text = np.delete(values, breaks)
    fields = pa.StringArray.from_buffers(len(breaks), pa.py_buffer(offsets), pa.py_buffer(text))
    return fields, lines, number
