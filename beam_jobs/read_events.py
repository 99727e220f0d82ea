"""Reading: files to byte ranges to events, every line accounted for.

The job cuts its text files into ranges itself, instead of using Beam's text source, because it needs what that source
does not tell: where each line stood. The byte offset orders events with equal times, across files and ranges, and the
number of lines in the ranges before gives a rejected line its exact number.

A range leaves the reader as one list of events per sequence, not as single events: combiner lifting by hand, so that
little crosses the shuffle.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gzip
import io
import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs import parsing, storage
from beam_jobs.parsing import Columns, LineError, TextFormat
from seqrec_tf import features

# Events that a reader holds before it hands them on: some 50 MB.
EVENTS_HELD = 250_000
REJECTED_HELD = 1_000
_BUFFER = 1 << 20
# A position is the file's rank and the byte offset (in Parquet: the record) in one integer.
_RANK_SHIFT = 44

COUNTS, ITEMS, REJECTED, LINES = "counts", "items", "rejected", "lines"

_LOGGER = logging.getLogger(__name__)


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
        is_parquet: Whether the file is no text.
    """

    path: str
    role: str
    rank: int
    number: int
    first_number: int
    start: int = 0
    end: int | None = None
    first_record: int = 0
    is_parquet: bool = False


def is_gzip(path: str) -> bool:
    """Whether a file is compressed, by its name."""
    return path.endswith(".gz")


@contextlib.contextmanager
def open_binary(path: str) -> Iterator[BinaryIO]:
    """A file of any of Beam's file systems, decompressed where its name ends in .gz."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        if not is_gzip(path):
            # The readers of object stores have no buffer: they would be read byte by byte to find the end of a line.
            yield stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, _BUFFER)
            return
        try:
            with gzip.GzipFile(fileobj=stream) as plain:
                yield io.BufferedReader(plain, _BUFFER)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise RuntimeError(f"{path} is damaged: {error}.") from error


def read_header(path: str, text_format: TextFormat) -> list[str] | None:
    """The column names in the first line of a file, None where the format has none."""
    if not text_format.has_header or text_format.format != "csv":
        return None
    with open_binary(path) as stream:
        line = _without_byte_order_mark(stream.readline())
    try:
        return text_format.split(text_format.decode(line))
    except LineError:
        return []


def _without_byte_order_mark(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf")


def read_lines(part: Range) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in a range, each with its byte offset in the (decompressed) file."""
    with open_binary(part.path) as stream:
        offset = part.start
        if offset:
            # The line that contains the byte before the range belongs to the range before.
            stream.seek(offset - 1)
            offset += len(stream.readline()) - 1
        for line in stream:
            if part.end is not None and offset >= part.end:
                return
            yield offset, line if offset else _without_byte_order_mark(line)
            offset += len(line)


def read_parquet(part: Range, columns: Sequence[str | int | None]) -> Iterator[tuple]:
    """The values of `columns` in each record of a range, None for a column that is None."""
    import pyarrow.parquet

    with FileSystems.open(part.path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        file = pyarrow.parquet.ParquetFile(stream)
        names = [file.schema_arrow.names[c] if isinstance(c, int) else c for c in columns]
        wanted = sorted({name for name in names if name is not None})
        groups = range(part.start, file.num_row_groups if part.end is None else part.end)
        for batch in file.iter_batches(batch_size=65_536, row_groups=list(groups), columns=wanted):
            values = {name: _python_values(batch.column(name)) for name in wanted}
            values[None] = [None] * len(batch)
            yield from zip(*(values[name] for name in names), strict=True)


def _python_values(array: Any) -> list:
    import pyarrow

    if pyarrow.types.is_timestamp(array.type):  # nanoseconds have no Python equal
        array = array.cast(pyarrow.timestamp("us", tz=array.type.tz), safe=False)
    return array.to_pylist()


def _at_the_end(value: Any) -> WindowedValue:
    return WindowedValue(value, MIN_TIMESTAMP, (GlobalWindow(),))


class Counting(beam.DoFn):
    """A DoFn that adds numbers up within its bundle and sends the sums to the outputs COUNTS and ITEMS.

    COUNTS holds (name, number), a name being a tuple of strings and integers; ITEMS holds ((step, item), events).
    """

    def start_bundle(self):
        """Start from nothing."""
        self.counts: collections.Counter[tuple] = collections.Counter()
        self.items: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

    def count_sequence(self, step: str, events: Sequence[parsing.Event]) -> None:
        """Count one sequence as being there after a step."""
        self.counts["users", step] += 1
        self.items[step].update([event[parsing.ITEM] for event in events])

    def fields_of(self, table: str, rows: Iterable[tuple[int, list[str]]], number: int, has_events: bool) -> list[str]:
        """The fields of one item or user, those of its first row; empty ones where it has none. Counts what is odd.

        Args:
            table: "items" or "users".
            rows: (position, fields) of each row.
            number: Fields of a row.
            has_events: Whether there is anything that they describe.
        """
        rows = sorted(rows)
        self.counts[table, "duplicates"] += max(len(rows) - 1, 0)
        if not has_events:
            self.counts[table, "without_events"] += 1
        elif not rows:
            self.counts[table, "without_side_information"] += 1
        elif any(fields != rows[0][1] for _, fields in rows):
            self.counts[table, "conflicts"] += 1
        return rows[0][1] if rows else [""] * number

    def finish_bundle(self):
        """Send the sums."""
        windowed = _at_the_end
        for name, number in self.counts.items():
            yield beam.pvalue.TaggedOutput(COUNTS, windowed((name, number)))
        for step, counter in self.items.items():
            for item, number in counter.items():
                yield beam.pvalue.TaggedOutput(ITEMS, windowed(((step, item), number)))


class ReadRange(Counting):
    """Ranges to rows; what cannot be read goes to the output REJECTED.

    Outputs: main, whatever `handle` and `flush` make; REJECTED, (range number, [(index, reason, detail, text), ...]);
    LINES, (range number, lines); COUNTS.

    Args:
        text_format: How lines are written, None for Parquet.
        columns: What to take from each line or record.
    """

    _optional_keys = False

    def __init__(self, text_format: TextFormat | None, columns: Sequence[str | int | None]):
        self._text_format = text_format
        self._columns = tuple(columns)

    def handle(self, part: Range, position: int, values: Sequence[Any]) -> None:
        """Take the values of one record; LineError where they are of no use."""
        raise NotImplementedError

    def flush(self, *, at_least: int = 0) -> Iterable[Any]:
        """What `handle` holds back, if that is at least so many events."""
        raise NotImplementedError

    def process(self, part: Range) -> Iterator[Any]:
        """Read one range."""
        kind = part.role if part.role in ("items", "users") else "events"
        rejected: list[tuple[int, str, str, str]] = []
        num_lines = 0
        parse, records = self._open(part)
        for offset, record in records:
            num_lines += 1
            try:
                values = parse(record)
                if values is not None:
                    self.handle(part, (part.rank << _RANK_SHIFT) + offset, values)
            except LineError as bad:
                rejected.append((num_lines - 1, bad.reason, bad.detail, _raw_text(record)))
                self.counts["rejected", kind, bad.reason] += 1
                Metrics.counter("seqrec", f"rejected {kind}: {bad.reason}").inc()
                if len(rejected) >= REJECTED_HELD:
                    yield beam.pvalue.TaggedOutput(REJECTED, (part.number, rejected))
                    rejected = []
            yield from self.flush(at_least=EVENTS_HELD)
        yield from self.flush()
        if rejected:
            yield beam.pvalue.TaggedOutput(REJECTED, (part.number, rejected))
        self.counts["lines", kind] += num_lines
        yield beam.pvalue.TaggedOutput(LINES, (part.number, num_lines))
        _LOGGER.info("read %s%s: %d lines", part.path, f" from byte {part.start}" if part.start else "", num_lines)

    def _open(self, part: Range) -> tuple[Callable[[Any], Sequence[Any] | None], Iterator[tuple[int, Any]]]:
        """A parser, giving None for what is no record, and the records with their offsets."""
        text_format = self._text_format
        if text_format is None:
            return lambda record: record, enumerate(read_parquet(part, self._columns), start=part.first_record)
        has_header = text_format.has_header and text_format.format == "csv"
        parse_row = parsing.row_parser(
            text_format, self._columns, read_header(part.path, text_format), optional_keys=self._optional_keys
        )
        num_seen = 0

        def parse(line: bytes) -> Sequence[Any] | None:
            nonlocal num_seen
            num_seen += 1
            if (num_seen == 1 and has_header and part.start == 0) or text_format.is_blank(line):
                return None
            return parse_row(text_format.decode(line))

        return parse, read_lines(part)


class ReadEvents(ReadRange):
    """Ranges to (key, [event, ...]).

    Args:
        text_format: How lines are written, None for Parquet.
        columns: What to take from each line; not used where a line is a whole sequence.
        time_format: One of `parsing.TIME_FORMATS`, "" where events have no time.
        label_threshold: The smallest positive value; None where labels are 0 or 1.
    """

    def __init__(
        self,
        text_format: TextFormat | None,
        columns: Columns,
        *,
        time_format: str = "",
        label_threshold: float | None = None,
    ):
        super().__init__(text_format, tuple(columns))
        self._parse_event = parsing.EventParser(columns, time_format=time_format, label_threshold=label_threshold)
        self._lines_are_sequences = text_format is not None and text_format.format == "sequences"

    def start_bundle(self):
        """Start from nothing."""
        super().start_bundle()
        self._events: dict[parsing.Key, list[parsing.Event]] = collections.defaultdict(list)
        self._num_events = 0

    def handle(self, part: Range, position: int, values: Sequence[Any]) -> None:
        """Hold the events of one record."""
        if self._lines_are_sequences:
            ids = [parsing.parse_id(value, "item id") for value in values]
            # Every id takes a byte at least, so these positions are unique.
            events: list[parsing.Event] = [(0, position + i, item, None, None) for i, item in enumerate(ids)]
            self._events[part.role, "", f"{position:020d}"] = events
            self._num_events += len(events)
        else:
            key, event = self._parse_event(values, role=part.role, position=position)  # type: ignore[arg-type]
            self._events[key].append(event)
            self._num_events += 1

    def flush(self, *, at_least: int = 0) -> Iterable[Any]:
        """The events held, by sequence."""
        if self._num_events < max(at_least, 1):
            return ()
        held = self._events.items()
        self.counts["events",] += self._num_events
        self._events, self._num_events = collections.defaultdict(list), 0
        return held


class ReadTable(ReadRange):
    """Ranges of items or users files to (id, (position, [the other columns as text])).

    Args:
        text_format: How lines are written, None for Parquet.
        id_column: Which column is the id.
        columns: The others.
        kinds: Of the features that the others hold, so that fields that cannot be of them are rejected.
    """

    _optional_keys = True

    def __init__(
        self,
        text_format: TextFormat | None,
        id_column: str | int,
        columns: Sequence[str | int],
        kinds: Sequence[str] = (),
    ):
        super().__init__(text_format, (id_column, *columns))
        self._kinds = tuple(kinds)

    def peek(self, part: Range, number: int) -> Iterator[list[str]]:
        """The columns of the first records of a range, as text; what cannot be read is left out."""
        parse, records = self._open(part)
        for _, record in itertools.islice(records, number):
            with contextlib.suppress(LineError):
                values = parse(record)
                if values is not None:
                    yield [_column_text(value) for value in values[1:]]

    def start_bundle(self):
        """Start from nothing."""
        super().start_bundle()
        self._rows: list[tuple[str, tuple[int, list[str]]]] = []

    def handle(self, part: Range, position: int, values: Sequence[Any]) -> None:
        """Hold one row."""
        key = parsing.parse_id(values[0], f"{part.role.removesuffix('s')} id")
        fields = [_column_text(value) for value in values[1:]]
        for kind, field in zip(self._kinds, fields, strict=False):
            try:
                features.parse(kind, field)
            except ValueError as error:
                raise LineError(f"bad {kind}", str(error)) from None
        self._rows.append((key, (position, fields)))

    def flush(self, *, at_least: int = 0) -> Iterable[Any]:
        """The rows held."""
        if len(self._rows) < max(at_least, 1):
            return ()
        rows, self._rows = self._rows, []
        return rows


def _column_text(value: Any) -> str:
    text = features.text_of(value)
    if not text.isprintable():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise LineError("broken encoding", "a column holds half a surrogate pair") from None
    return text


def _raw_text(record: bytes | tuple) -> str:
    """A record as it came, bytes that are not UTF-8 as \\xNN."""
    if isinstance(record, bytes):
        return record.rstrip(b"\r\n").decode("utf-8", errors="backslashreplace")
    return json.dumps(record, default=str)


class WriteRejected(beam.DoFn):
    """(range number, lists of rejected lines) to one JSON lines file a range, with line numbers of the whole file.

    Args:
        folder: Where the files go.
        parts: All ranges by number.
    """

    def __init__(self, folder: str, parts: Sequence[Range]):
        self._folder = folder
        self._parts = {part.number: part for part in parts}

    def process(self, element: tuple[int, Iterable[list]], lines: dict[int, int]) -> Iterator[str]:
        """Write one file."""
        number, lists = element
        part = self._parts[number]
        lines_before = sum(lines[k] for k in range(part.first_number, number))
        with storage.create(f"{self._folder}/part-{number:05d}.jsonl") as stream:
            for index, reason, detail, text in itertools.chain.from_iterable(sorted(lists)):
                place = lines_before + index
                row = {
                    "file": part.path,
                    "line": None if part.is_parquet else place + 1,
                    **({"record": part.first_record + index} if part.is_parquet else {}),
                    "reason": reason,
                    "detail": detail,
                    "text": text,
                }
                stream.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        yield part.path
