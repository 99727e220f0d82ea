"""Two ways of reading the same ranges of files: many lines at once, and line by line."""

import numpy as np

from beam_jobs import tables
from beam_jobs.lines import Range
from beam_jobs.parsing import Columns
from beam_jobs.read_events import LINES, REJECTED, ReadEvents
from beam_jobs.read_tables import ReadTable
from beam_jobs.store import Store

EVENT_COLUMNS = Columns("user", "item", "time", None, "label")


class LineByLine(ReadEvents):
    """The same, but every record goes through the parser of single lines."""

    def select(self, batch):
        return batch

    def take(self, part, batch):
        return batch.others(np.zeros(len(batch.plain.lines), bool))


class TableLineByLine(ReadTable):
    """The same, but every record goes through the parser of single lines."""

    take = LineByLine.take


def read(reader, ranges):
    """All events, in order, as tuples; all rejected lines with their range and number; lines of each range."""
    store = reader._store
    events, rejected, num_lines = [], [], {}
    reader.start_bundle()
    for part in ranges:
        for element in reader.process(part):
            if getattr(element, "tag", None) == REJECTED:
                number, rows = element.value
                rejected += [(number, *row) for row in rows]
            elif getattr(element, "tag", None) == LINES:
                number, (lines, _) = element.value
                num_lines[number] = lines
            else:
                events += rows_of(store.take(element[1]))
    return sorted(events, key=repr), sorted(rejected), num_lines, reader.tally


def rows_of(table):
    if isinstance(table, tables.FieldRows):
        return list(
            zip(table.ids.to_pylist(), table.positions.tolist(), *(f.to_pylist() for f in table.fields), strict=True)
        )
    number = np.arange(len(table))
    texts = [[""] * len(table) if c is None else c.take(number).to_pylist() for c in (table.users, table.sessions)]
    numbers = [
        table.columns.get(name, np.zeros(len(table))).tolist()
        for name in (tables.TIME, tables.FRACTION, tables.POSITION, tables.LABEL)
    ]
    return [(table.role, *row) for row in zip(*texts, table.items.to_pylist(), *numbers, strict=True)]


def assert_both_ways_agree(text_format, ranges, columns=EVENT_COLUMNS, **options):
    store = Store()
    fast = read(ReadEvents(text_format, columns, store, 1, max_events=10**9, **options), ranges)
    slow = read(LineByLine(text_format, columns, store, 1, max_events=10**9, **options), ranges)
    assert fast == slow
    return fast


def ranges_of(path, generator, size):
    """The file, cut somewhere."""
    cuts = sorted({0, 1, *(generator.randrange(1, max(size, 2)) for _ in range(3))})
    ends = [*cuts[1:], size]
    return [
        Range(str(path), "", 3, number, 0, start, end)
        for number, (start, end) in enumerate(zip(cuts, ends, strict=True))
    ]
