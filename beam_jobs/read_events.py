"""Reading: ranges of files to tables of events or of items and users, by bucket, every line accounted for.

The job cuts its text files into ranges itself, instead of using Beam's text source, because it needs what that source
does not tell: where each line stood. The byte offset orders events with equal times, across files and ranges, and the
number of lines in the ranges before gives a rejected line its exact number.

Plain lines become columns at once (`lines`, `columns`); the others go one by one through `parsing`, with the same
result.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from beam_jobs import columns as columns_lib
from beam_jobs import lines as lines_lib
from beam_jobs import normal_ids, parsing
from beam_jobs.counting import NAMESPACE, READING, Counting, timed
from beam_jobs.lines import Block, Plain, Range
from beam_jobs.parsing import Columns, LineError, TextFormat
from beam_jobs.progress import READ_ALL, READ_SOME
from beam_jobs.store import Store
from beam_jobs.tables import (
    FRACTION,
    LABEL,
    POSITION,
    TIME,
    Coded,
    EventRows,
    bucket_of,
    time_order,
)
from beam_jobs.where import Where

REJECTED_HELD = 1_000
# Records that are not plain are looked at in pieces of so many.
_RECORDS_AT_ONCE = 10_000
# A position is the file's rank and the byte offset (in Parquet: the record) in one integer.
RANK_SHIFT = 44
_PARQUET_ROWS_AT_ONCE = 1 << 18

REJECTED, LINES = "rejected", "lines"

_LOGGER = logging.getLogger(__name__)


def read_parquet(part: Range, columns: Sequence[str | int | None]) -> Iterator[tuple]:
    """The values of `columns` in each record of a range, None for a column that is None."""
    for arrays in _parquet_arrays(part, columns):
        yield from _python_rows(arrays)


def _parquet_arrays(part: Range, columns: Sequence[str | int | None]) -> Iterator[list[pa.Array]]:
    """`columns` of a range, many records at a time; nulls for a column that is None."""
    import pyarrow.parquet

    with FileSystems.open(part.path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        file = pyarrow.parquet.ParquetFile(stream)
        names = [file.schema_arrow.names[c] if isinstance(c, int) else c for c in columns]
        wanted = sorted({name for name in names if name is not None})
        groups = range(part.start, file.num_row_groups if part.end is None else part.end)
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS_AT_ONCE, row_groups=list(groups), columns=wanted):
            usual = {name: columns_lib.of_parquet(batch.column(name)) for name in wanted}
            yield [pa.nulls(len(batch)) if name is None else usual[name] for name in names]


def _python_rows(arrays: Iterable[pa.Array]) -> Iterator[tuple]:
    return zip(*map(_python_values, arrays), strict=True)


def _rows_at(arrays: Sequence[pa.Array], rows: np.ndarray) -> Iterator[tuple]:
    return _python_rows([array.take(pa.array(rows)) for array in arrays])


def _lines_at(block: Block, rows: np.ndarray) -> Iterator[bytes]:
    return map(block.line, rows.tolist())


def _python_values(array: pa.Array) -> list:
    if pa.types.is_timestamp(array.type) and array.type.unit == "ns":  # these have no Python equal, but as text
        nanoseconds, array = array.cast(pa.int64()), array.cast(pa.timestamp("us", tz=array.type.tz), safe=False)
        if pc.any(pc.not_equal(pc.multiply(array.cast(pa.int64()), 1_000), nanoseconds)).as_py():
            return nanoseconds.cast(pa.timestamp("ns")).cast(pa.string()).to_pylist()
    values = array.to_pylist()
    if pa.types.is_float32(array.type) or pa.types.is_float16(array.type):  # which integers are exact depends on it
        kind = np.float32 if pa.types.is_float32(array.type) else np.float16
        values = [None if value is None else kind(value) for value in values]
    return values


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some records of a range.

    Attributes:
        positions: int64 [n], of all records, in the file.
        parse: From a record as it came to the values of its columns; None where it is no record.
        records: From the numbers of some records to these as they came.
        plain: The columns of those that can be taken at once, m of them.
        first: How many of the records are none, but a header.
        unwanted: int64, the numbers of those that `--where` drops; they are not among the plain ones any more.
        block: The lines that the records are, None where they are not of a text file.
    """

    positions: np.ndarray
    parse: Callable[[Any], Sequence[Any] | None]
    records: Callable[[np.ndarray], Iterator[Any]]
    plain: Plain
    first: int = 0
    unwanted: np.ndarray = dataclasses.field(default_factory=functools.partial(np.zeros, 0, np.int64))
    block: Block | None = None

    def others(self, taken: np.ndarray) -> np.ndarray:
        """The numbers of the records that are not among the plain ones that `taken`, bool [m], says."""
        is_other = np.ones(len(self.positions), bool)
        is_other[: self.first] = False
        is_other[self.unwanted] = False
        is_other[self.plain.lines[taken]] = False
        return np.flatnonzero(is_other)

    def lines_before(self, number: int) -> int:
        """How many lines (in Parquet: records) are before one of the records."""
        return number if self.block is None else self.block.lines_before(number)

    @property
    def num_lines(self) -> int:
        """How many lines (in Parquet: records) the records are."""
        return len(self.positions) if self.block is None else self.block.num_lines


class ReadRange(Counting):
    """Ranges to (bucket, stored table); what cannot be read goes to the output REJECTED.

    Attributes:
        num_required: How many of the columns, the first ones, each object of JSON must have.

    Outputs beside the main one: REJECTED, (range number, [(index, reason, detail, text), ...]); LINES, (range number,
    (lines, bytes of those that were rejected)); TALLY.

    Args:
        text_format: How lines are written, None for Parquet.
        columns: What to take from each line or record.
        store: Where tables go.
        num_buckets: How many buckets there are.
        raw_ids: Whether ids stay as they are, instead of in the form of `normal_ids`.
    """

    def __init__(
        self,
        text_format: TextFormat | None,
        columns: Sequence[str | int | None],
        store: Store,
        num_buckets: int,
        *,
        raw_ids: bool,
    ):
        self._text_format = text_format
        self._columns = tuple(columns)
        self._store = store
        self._num_buckets = num_buckets
        self._raw_ids = raw_ids
        self.num_required = len(self._columns)

    def select(self, batch: Batch) -> Batch:
        """The batch without the plain records that are not wanted."""
        return batch

    def wanted(self, parsed: Sequence[Sequence[Any] | LineError | None]) -> Iterable[bool]:
        """Which records are wanted, of those that are not plain: their values, or why there are none."""
        return itertools.repeat(True, len(parsed))

    def take(self, part: Range, batch: Batch) -> np.ndarray:
        """Hold the plain records of a batch; gives the numbers of those that `handle` must take."""
        raise NotImplementedError

    def handle(self, part: Range, position: int, values: Sequence[Any]) -> None:
        """Hold the values of one record; LineError where they are of no use."""
        raise NotImplementedError

    def flush(self, part: Range) -> Iterator[tuple[int, Any]]:
        """What is held, by bucket."""
        raise NotImplementedError

    @timed(READING)
    def process(self, part: Range) -> Iterator[Any]:
        """Read one range."""
        kind = part.role if part.role in ("items", "users") else "events"
        rejected: list[tuple[int, str, str, str]] = []
        num_lines = num_records = num_bytes = 0
        where = f"{part.path} from byte {part.start}" if part.start and not part.is_parquet else part.path
        for batch in map(self.select, self._batches(part)):
            others = self.take(part, batch)
            positions = (batch.positions[others] + (part.rank << RANK_SHIFT)).tolist()
            records = zip(others.tolist(), positions, batch.records(others), strict=True)
            for (number, position, record), values in self._wanted_of(batch, records):
                try:
                    if isinstance(values, LineError):
                        raise values
                    self.handle(part, position, values)
                except LineError as bad:
                    row = (num_lines + batch.lines_before(number), bad.reason, bad.detail, _raw_text(record))
                    rejected.append(row)
                    num_bytes += sum(map(len, row[1:]))
                    self.tally.rejected[kind, bad.reason] += 1
                    Metrics.counter(NAMESPACE, f"rejected {kind}: {bad.reason}").inc()
                    if len(rejected) >= REJECTED_HELD:
                        yield beam.pvalue.TaggedOutput(REJECTED, (part.number, rejected))
                        rejected = []
            num_lines += batch.num_lines
            num_records += len(batch.positions)
            _LOGGER.info(READ_SOME, where, batch.num_lines, len(batch.block.data) if batch.block else 0)
            for bucket, table in self.flush(part):
                yield bucket, self._store.put(table)
        if rejected:
            yield beam.pvalue.TaggedOutput(REJECTED, (part.number, rejected))
        self.tally.lines[kind] += num_records
        yield beam.pvalue.TaggedOutput(LINES, (part.number, (num_lines, num_bytes)))
        _LOGGER.info(READ_ALL, where, 0, 0)

    def _wanted_of(
        self, batch: Batch, records: Iterator[tuple[int, int, Any]]
    ) -> Iterator[tuple[tuple[int, int, Any], Sequence[Any] | LineError]]:
        """Those of some records of a batch that hold something, and are wanted, with their values."""
        while some := list(itertools.islice(records, _RECORDS_AT_ONCE)):
            parsed = [_parsed(batch, record) for *_, record in some]
            for record, values, is_wanted in zip(some, parsed, self.wanted(parsed), strict=True):
                if values is not None and is_wanted:
                    yield record, values

    def _batches(self, part: Range) -> Iterator[Batch]:
        try:
            if self._text_format is None:
                yield from self._parquet_batches(part)
            else:
                yield from self._text_batches(part, self._text_format)
        except (pa.ArrowException, OSError) as error:
            raise RuntimeError(f"{part.path} cannot be read: {' '.join(str(error).split())}") from error

    def _parquet_batches(self, part: Range) -> Iterator[Batch]:
        place = part.first_record
        for arrays in _parquet_arrays(part, self._columns):
            number = len(arrays[0])
            plain = [None if column is None else array for column, array in zip(self._columns, arrays, strict=True)]
            yield Batch(
                positions=np.arange(place, place + number),
                parse=lambda record: record,
                records=functools.partial(_rows_at, arrays),
                plain=Plain(plain, np.arange(number), np.ones(number, bool)),
            )
            place += number

    def _text_batches(self, part: Range, text_format: TextFormat) -> Iterator[Batch]:
        has_header = text_format.has_header and text_format.format == "csv"
        header = lines_lib.read_header(part.path, text_format)
        parse_row = parsing.row_parser(text_format, self._columns, header, num_required=self.num_required)

        def parse(line: bytes) -> Sequence[Any] | None:
            return None if text_format.is_blank(line) else parse_row(text_format.decode(line))

        for block in lines_lib.read_blocks(part, text_format):
            first = int(has_header and block.offset == 0)
            plain = Plain.nothing(self._columns)
            if text_format.format == "csv":
                plain = lines_lib.plain_csv(block, text_format, self._columns, header, first=first)
            elif text_format.format == "jsonl" and self.num_required:
                plain = lines_lib.plain_json(block, text_format, self._columns, num_required=self.num_required)
            yield Batch(
                positions=block.offsets,
                parse=parse,
                records=functools.partial(_lines_at, block),
                plain=plain,
                first=first,
                block=block,
            )


class ReadEvents(ReadRange):
    """Ranges to (bucket, stored `EventRows`); a bucket has all events of its users.

    Args:
        text_format: How lines are written, None for Parquet.
        columns: What to take from each line; not used where a line is a whole sequence.
        store: Where tables go.
        num_buckets: How many buckets there are.
        time_format: One of `parsing.TIME_FORMATS`, "" where events have no time.
        label_threshold: The smallest positive value; None where labels are 0 or 1.
        max_events: The newest events of a sequence that matter.
        raw_ids: Whether ids stay as they are.
        where: Which events are wanted; None: all.
    """

    def __init__(
        self,
        text_format: TextFormat | None,
        columns: Columns,
        store: Store,
        num_buckets: int,
        *,
        time_format: str = "",
        label_threshold: float | None = None,
        max_events: int,
        raw_ids: bool = False,
        where: Where | None = None,
    ):
        taken = (*columns, *(where.columns if where else ()))
        super().__init__(text_format, taken, store, num_buckets, raw_ids=raw_ids)
        self.num_required = len(tuple(columns))
        self._where = where
        self._names = columns
        self._time_format = time_format
        self._label_threshold = label_threshold
        self._max_events = max_events
        self._parse_event = parsing.EventParser(columns, time_format=time_format, label_threshold=label_threshold)
        self._lines_are_sequences = text_format is not None and text_format.format == "sequences"

    def start_bundle(self):
        """Start from nothing."""
        super().start_bundle()
        self._plain: list[EventRows] = []
        self._single: list[tuple[parsing.Key, parsing.Event]] = []

    def select(self, batch: Batch) -> Batch:
        """The batch without the plain events that `--where` drops; those that are none after all are left to later."""
        plain = batch.plain
        if self._where is None or not len(plain.lines):
            return batch
        is_row, items = plain.taken, plain.arrays[1]
        if pa.types.is_string(items.type):  # of an empty line, which is no row, Arrow makes one of empty fields
            is_row = is_row & pc.not_equal(items, "").fill_null(True).to_numpy(zero_copy_only=False)
        is_dropped = self._dropped(self._where.condition(plain.arrays[self.num_required :]), is_row)
        if not is_dropped.any():
            return batch
        kept = ~is_dropped
        chosen = pa.array(kept)
        arrays = [None if array is None else array.filter(chosen) for array in plain.arrays]
        return dataclasses.replace(
            batch, plain=Plain(arrays, plain.lines[kept], plain.taken[kept]), unwanted=plain.lines[is_dropped]
        )

    def wanted(self, parsed: Sequence[Sequence[Any] | LineError | None]) -> Iterable[bool]:
        """Which records `--where` wants, of those that are not plain; what has no values is left to later."""
        if self._where is None:
            return super().wanted(parsed)
        rows = [None if isinstance(values, LineError) else values for values in parsed]
        nothing = (None,) * len(self._where.columns)
        of_rows = [nothing if row is None else row[self.num_required :] for row in rows]
        is_row = np.array([row is not None for row in rows], bool)
        return (~self._dropped(self._where.condition.of_rows(of_rows), is_row)).tolist()

    def _dropped(self, is_wanted: pa.BooleanArray, is_row: np.ndarray) -> np.ndarray:
        """bool [n], which rows go; they are counted."""
        is_null = is_wanted.is_null().to_numpy(zero_copy_only=False) & is_row
        is_dropped = ~is_wanted.fill_null(False).to_numpy(zero_copy_only=False) & is_row
        self.tally.dropped_by_where += int(is_dropped.sum())
        self.tally.dropped_as_null += int(is_null.sum())
        return is_dropped

    def take(self, part: Range, batch: Batch) -> np.ndarray:
        """Hold the plain events."""
        if self._lines_are_sequences:
            return self._take_sequences(part, batch)
        plain, names = batch.plain, self._names
        if not len(plain.lines):
            return batch.others(np.zeros(0, bool))
        user, item, time, session, label = plain.arrays[: self.num_required]
        taken = plain.taken
        columns: dict[str, np.ndarray] = {}
        texts: dict[str, pa.StringArray] = {}
        for name, array, is_there in (
            ("users", user, names.user is not None),
            ("sessions", session, names.session is not None),
            ("items", item, True),
        ):
            if is_there:
                texts[name], fits = columns_lib.ids(array)
                taken = taken & fits
        if self._time_format:
            columns[TIME], fractions, fits = columns_lib.times(array=time, time_format=self._time_format)
            taken = taken & fits
            if fractions is not None:
                columns[FRACTION] = fractions
        else:
            columns[TIME] = np.zeros(len(plain.lines), np.int64)
        if names.label is not None:
            columns[LABEL], fits = columns_lib.labels(label, self._label_threshold)
            taken = taken & fits
        columns[POSITION] = batch.positions[plain.lines] + (part.rank << RANK_SHIFT)
        if not taken.all():
            chosen = pa.array(taken)
            texts = {name: column.filter(chosen) for name, column in texts.items()}
            columns = {name: column[taken] for name, column in columns.items()}
        if taken.any():
            users, sessions = (Coded.of(texts[name]) if name in texts else None for name in ("users", "sessions"))
            self._plain.append(EventRows(part.role, users, sessions, texts["items"], columns))
        return batch.others(taken)

    def _take_sequences(self, part: Range, batch: Batch) -> np.ndarray:
        assert batch.block is not None
        assert self._text_format is not None
        items, lines, lengths = lines_lib.plain_sequences(batch.block, self._text_format)
        items, fits = columns_lib.ids(items)
        line_of = np.repeat(np.arange(len(lines)), lengths)
        starts = np.cumsum(lengths) - lengths
        has_users = self._names.user is not None
        taken = lengths > int(has_users)
        taken[line_of[~fits]] = False
        is_other = np.ones(len(batch.positions), bool)
        is_other[lines[taken]] = False
        if taken.any():
            positions = batch.positions[lines] + (part.rank << RANK_SHIFT)
            names = (
                items.take(pa.array(starts))
                if has_users
                else pa.array([_sequence_name(position) for position in positions.tolist()])
            )
            # Every id takes a byte at least, so these positions are unique.
            places = np.arange(len(line_of)) - np.repeat(starts, lengths)
            chosen = taken[line_of] & (places >= int(has_users))
            line_of, places = line_of[chosen], places[chosen]
            sequences = Coded.of(names.take(pa.array(line_of)))
            rows = EventRows(
                part.role,
                sequences if has_users else None,
                None if has_users else sequences,
                items.filter(pa.array(chosen)),
                {TIME: np.zeros(len(line_of), np.int64), POSITION: positions[line_of] + places},
            )
            self._plain.append(rows)
        return np.flatnonzero(is_other)

    def handle(self, part: Range, position: int, values: Sequence[Any]) -> None:
        """Hold the events of one record."""
        if self._lines_are_sequences:
            if not values:  # a line of blanks
                return
            key, first = parsing.Key(part.role, "", _sequence_name(position)), 0
            if self._names.user is not None:
                key, first = parsing.Key(part.role, parsing.parse_id(values[0], "user id"), ""), 1
            items = [parsing.parse_id(value, "item id") for value in values[first:]]
            if not items:
                raise LineError("no item id", "a user's id, and nothing after it")
            events = enumerate(items, start=position + first)
            self._single += [(key, parsing.Event(0, place, item, None)) for place, item in events]
        else:
            values = tuple(values[: self.num_required])
            self._single.append(self._parse_event(values, role=part.role, position=position))

    def flush(self, part: Range) -> Iterator[tuple[int, EventRows]]:
        """The events held, by bucket."""
        tables, self._plain = self._plain, []
        if self._single:
            tables.append(_rows_of(self._single, self._names, self._lines_are_sequences))
            self._single = []
        for as_read in tables:
            rows = as_read if self._raw_ids else normal_ids.mend_events(as_read, self.tally)
            self.tally.events += len(rows)
            kept = _newest(rows, self._max_events)
            if len(kept) < len(rows):
                self.tally.too_old += len(rows) - len(kept)
                self.tally.noted_users.update(_without(rows, kept))
            yield from _by_bucket(kept, self._num_buckets)


def _parsed(batch: Batch, record: Any) -> Sequence[Any] | LineError | None:
    try:
        return batch.parse(record)
    except LineError as bad:
        return bad


def _sequence_name(position: int) -> str:
    return f"{position:020d}"


def _rows_of(
    events: Sequence[tuple[parsing.Key, parsing.Event]], names: Columns, lines_are_sequences: bool
) -> EventRows:
    """Events that were parsed one by one, all of one role, as a table."""
    keys, values = zip(*events, strict=True)
    roles, users, sessions = zip(*keys, strict=True)
    times, positions, items, labels = zip(*values, strict=True)
    floors = [math.floor(time) for time in times]
    fractions = np.array([float(time - floor) for time, floor in zip(times, floors, strict=True)], np.float64)
    columns: dict[str, np.ndarray] = {TIME: np.array(floors, np.int64), POSITION: np.array(positions, np.int64)}
    if fractions.any():
        columns[FRACTION] = fractions
    if names.label is not None:
        columns[LABEL] = np.array(labels, np.int8)
    has_sessions = names.session is not None or (lines_are_sequences and names.user is None)
    return EventRows(
        roles[0],
        Coded.of(pa.array(users, pa.string())) if names.user is not None else None,
        Coded.of(pa.array(sessions, pa.string())) if has_sessions else None,
        pa.array(items, pa.string()),
        columns,
    )


def _newest(rows: EventRows, limit: int) -> EventRows:
    """The rows that are among the newest `limit` of their sequence here: others are not among the newest of all."""
    coded = [column for column in (rows.users, rows.sessions) if column is not None]
    if any(np.bincount(column.codes).max() <= limit for column in coded):
        return rows
    codes = coded[0].codes.astype(np.int64)
    if len(coded) > 1:
        codes = np.unique(codes * len(coded[1].values) + coded[1].codes, return_inverse=True)[1]
    counts = np.bincount(codes)
    columns = rows.columns
    order = time_order(codes, columns[TIME], columns.get(FRACTION), columns[POSITION])
    newer = np.repeat(np.cumsum(counts), counts) - np.arange(len(rows))  # of a sequence, itself counted
    return _take(rows, np.sort(order[newer <= limit]))


def _without(rows: EventRows, kept: EventRows) -> dict[str, int]:
    """Events of each user (or session, where there are no users) that are not kept."""
    names, of_kept = (part.sessions if part.users is None else part.users for part in (rows, kept))
    assert names is not None
    assert of_kept is not None
    number = len(names.values)
    gone = np.bincount(names.codes, minlength=number) - np.bincount(of_kept.codes, minlength=number)
    places = np.flatnonzero(gone)
    return dict(zip(names.values.take(pa.array(places)).to_pylist(), gone[places].tolist(), strict=True))


def _take(rows: EventRows, places: np.ndarray) -> EventRows:
    return EventRows(
        rows.role,
        None if rows.users is None else Coded(rows.users.codes[places], rows.users.values),
        None if rows.sessions is None else Coded(rows.sessions.codes[places], rows.sessions.values),
        rows.items.take(pa.array(places)),
        {name: column[places] for name, column in rows.columns.items()},
    )


def _by_bucket(rows: EventRows, num_buckets: int) -> Iterator[tuple[int, EventRows]]:
    """The rows by the bucket of their user or, where the data has no users, of their session."""
    names = rows.sessions if rows.users is None else rows.users
    assert names is not None
    if num_buckets == 1:
        yield 0, rows
        return
    buckets = bucket_of(names.values, num_buckets)
    # The names of a bucket side by side, so that each bucket has its own by cutting.
    order = np.argsort(buckets, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    name_cuts = np.searchsorted(buckets[order], np.arange(num_buckets + 1))
    values = names.values.take(pa.array(order))
    row_buckets = buckets.astype(np.min_scalar_type(num_buckets))[names.codes]
    row_order = np.argsort(row_buckets, kind="stable")  # of small integers a radix sort
    cuts = np.searchsorted(row_buckets[row_order], np.arange(num_buckets + 1))
    rows = _take(rows, row_order)
    codes = places[names.codes[row_order]].astype(np.int32)
    for bucket in range(num_buckets):
        start, end = cuts[bucket], cuts[bucket + 1]
        if start == end:
            continue
        first, last = name_cuts[bucket], name_cuts[bucket + 1]
        own = Coded(codes[start:end] - np.int32(first), values.slice(first, last - first))
        sessions = rows.sessions
        if rows.users is not None and sessions is not None:
            sessions = Coded.of(sessions.take(np.arange(start, end)))
        yield (
            bucket,
            EventRows(
                rows.role,
                None if rows.users is None else own,
                own if rows.users is None else sessions,
                rows.items.slice(start, end - start),
                {name: column[start:end] for name, column in rows.columns.items()},
            ),
        )


def _raw_text(record: bytes | tuple) -> str:
    """A record as it came, bytes that are not UTF-8 as \\xNN."""
    if isinstance(record, bytes):
        return record.rstrip(b"\r\n").decode("utf-8", errors="backslashreplace")
    return json.dumps(record, default=str)
