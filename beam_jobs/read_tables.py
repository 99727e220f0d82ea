"""Items and users files to stored tables of text, by the id of the row; what cannot be read goes to REJECTED."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import columns as columns_lib
from beam_jobs import lines as lines_lib
from beam_jobs import normal_ids, parsing
from beam_jobs.lines import Range
from beam_jobs.parsing import LineError, TextFormat
from beam_jobs.read_events import RANK_SHIFT, Batch, ReadRange, read_parquet
from beam_jobs.store import Store
from beam_jobs.tables import (
    FieldRows,
    bucket_of,
)
from seqrec_tf import features


class ReadTable(ReadRange):
    """Ranges of items or users files to (bucket, stored `FieldRows`); a bucket has all rows of its ids.

    Args:
        text_format: How lines are written, None for Parquet.
        id_column: Which column is the id.
        columns: The others.
        store: Where tables go.
        num_buckets: How many buckets there are.
        kinds: The kinds of the features that the others hold, so that fields that cannot be of them are rejected.
        raw_ids: Whether ids stay as they are.
    """

    def __init__(
        self,
        text_format: TextFormat | None,
        id_column: str | int,
        columns: Sequence[str | int],
        store: Store,
        num_buckets: int,
        kinds: Sequence[str] = (),
        *,
        raw_ids: bool = False,
    ):
        super().__init__(text_format, (id_column, *columns), store, num_buckets, raw_ids=raw_ids)
        self.num_required = 0
        self._kinds = tuple(kinds)

    def start_bundle(self):
        """Start from nothing."""
        super().start_bundle()
        self._plain: list[FieldRows] = []
        self._single: list[tuple[str, int, list[str]]] = []

    def take(self, part: Range, batch: Batch) -> np.ndarray:
        """Hold the plain rows of CSV; of other formats each value is looked at alone, whatever its type."""
        plain = batch.plain
        is_csv = self._text_format is not None and self._text_format.format == "csv"
        if not is_csv or not len(plain.lines):
            return batch.others(np.zeros(len(plain.lines), bool))
        ids, taken = columns_lib.ids(plain.arrays[0])
        for kind, array in zip(self._kinds, plain.arrays[1:], strict=False):
            if kind in features.CHECKED_KINDS:
                values = array.unique()
                bad = [value for value in values.to_pylist() if not _is_of_kind(kind, value)]
                if bad:
                    taken &= ~pc.is_in(array, pa.array(bad, pa.string())).to_numpy(zero_copy_only=False)
        chosen = pa.array(taken)
        self._plain.append(
            FieldRows(
                ids.filter(chosen),
                batch.positions[plain.lines][taken] + (part.rank << RANK_SHIFT),
                tuple(array.filter(chosen) for array in plain.arrays[1:]),
            )
        )
        return batch.others(taken)

    def handle(self, part: Range, position: int, values: Sequence[Any]) -> None:
        """Hold one row."""
        key = parsing.parse_id(values[0], f"{part.role.removesuffix('s')} id")
        fields = [column_text(value) for value in values[1:]]
        for kind, field in zip(self._kinds, fields, strict=False):
            try:
                features.parse(kind, field)
            except ValueError as error:
                raise LineError(f"bad {kind}", str(error)) from None
        self._single.append((key, position, fields))

    def flush(self, part: Range) -> Iterator[tuple[int, FieldRows]]:
        """The rows held, by bucket."""
        tables, self._plain = self._plain, []
        if self._single:
            ids, positions, fields = zip(*self._single, strict=True)
            arrays = tuple(pa.array(field, pa.string()) for field in zip(*fields, strict=True))
            tables.append(FieldRows(pa.array(ids, pa.string()), np.array(positions, np.int64), arrays))
            self._single = []
        for as_read in tables:
            one = part.role.removesuffix("s")
            rows = as_read if self._raw_ids else normal_ids.mend_table(as_read, one, self.tally)
            buckets = bucket_of(rows.ids, self._num_buckets)
            for bucket in np.unique(buckets).tolist():
                chosen = buckets == bucket
                kept = pa.array(chosen)
                fields = tuple(field.filter(kept) for field in rows.fields)
                yield bucket, FieldRows(rows.ids.filter(kept), rows.positions[chosen], fields)


def _is_of_kind(kind: str, text: str) -> bool:
    try:
        features.parse(kind, text)
    except ValueError:
        return False
    return True


def peek_table(
    part: Range, text_format: TextFormat | None, columns: Sequence[str | int], number: int
) -> Iterator[list[str]]:
    """The columns of the first records of a range, as text; what cannot be read is left out.

    Args:
        part: One that its file begins with.
        text_format: How lines are written, None for Parquet.
        columns: What to take.
        number: Lines to look at.
    """
    if text_format is None:
        for row in itertools.islice(read_parquet(part, columns), number):
            yield [column_text(value) for value in row]
        return
    parse = parsing.row_parser(text_format, columns, lines_lib.read_header(part.path, text_format), num_required=0)
    has_header = text_format.has_header and text_format.format == "csv"
    offset = 0
    with lines_lib.open_records(part.path, text_format) as records:
        for place, line in enumerate(itertools.islice(records, number)):
            if part.end is not None and offset >= part.end:
                return
            offset += len(line)
            if text_format.is_blank(line) or (has_header and not place):
                continue
            try:
                yield [column_text(value) for value in parse(text_format.decode(line))]
            except LineError:
                continue


def column_text(value: Any) -> str:
    """A value of an items or users file as text; LineError where it could not be written again."""
    if isinstance(value, bytes):
        return parsing.text_of_bytes(value)
    text = features.text_of(float(value) if isinstance(value, np.floating) else value)
    if not text.isprintable():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise LineError("broken encoding", "a column holds half a surrogate pair") from None
    return text
