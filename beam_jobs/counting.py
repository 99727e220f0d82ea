"""What the job counts, and how the counts of its steps come together."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs.joins import Sample
from beam_jobs.tables import ItemCounts, Sequences

# Of Beam's metrics.
NAMESPACE = "seqrec"
# Names of the outputs of a step that counts, beside its main one.
TALLY, ITEM_COUNTS = "tally", "item counts"


# What a job does, whose seconds Beam's metrics tell: SHUFFLE is a part of the other three.
READING, STEPS, WRITING, SHUFFLE = PARTS = ("reading", "steps", "writing", "moving tables")


def timed(part: str) -> Callable[[Callable[..., Iterator[Any]]], Callable[..., Iterator[Any]]]:
    """Makes a `process` count its own time, without that of the steps which take what it gives."""

    def decorate(process: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @functools.wraps(process)
        def timed_process(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            elements, spent = process(self, *args, **kwargs), 0
            while True:
                started = time.perf_counter_ns()
                try:
                    element = next(elements)
                except StopIteration:
                    spent += time.perf_counter_ns() - started
                    break
                spent += time.perf_counter_ns() - started
                yield element
            Metrics.counter(NAMESPACE, part).inc(spent)

        return timed_process

    return decorate


class Examples(dict[Any, Any]):
    """The least that was seen of each key, so the same whatever the order."""

    def update(self, other: Mapping[Any, Any]) -> None:  # type: ignore[override]
        """Take what is less."""
        for key, value in other.items():
            self[key] = min(value, self.get(key, value))


@dataclasses.dataclass
class Tally:
    """Every number that the job counts, declared once: a misspelt one is an error, not a zero.

    Attributes:
        lines: Lines (in Parquet: records) by what they are of: "events", "items" or "users".
        rejected: Those that were rejected, by (what they are of, reason).
        events: Events that were read.
        dropped_by_where: Lines of events that `--where` does not want.
        dropped_as_null: Those of them where a null was what decided.
        too_old: Events beyond the newest --max-events of a sequence.
        events_a_user: How many users (sessions, where the data has no users) have so many events, up to --max-events.
        noted_users: Events of those that stand out by their number, or by an id that may say "nothing".
        noted_sessions: Events of sessions of users whose id may say "nothing".
        events_at_median: Events at the time that is the median of their bucket: where most events have one time, nearly
            all of these.
        last_time: One number, of the newest event.
        minus_first_time: One number, of the oldest event, negative: the largest of several tallies counts.
        sequences: By step, sequences that are there after it.
        training_users: Users with a training record.
        events_with_ties: Events that share their time with a neighbour.
        sequences_with_ties: Sequences that have such events.
        repeated_events: Events whose item occurs before in their sequence.
        consecutive_repeats: Events whose item is that of the event before.
        targets_with_ties: By split, targets among the events with ties.
        targets_repeating_history: By split, targets among the repeated events.
        train_without_target: Training sequences of one event.
        lengths: Records by (split, events).
        targets: By split, events to predict.
        dropped_targets: By split, targets dropped as unseen items.
        dropped_sequences: By split, records dropped as all their targets were.
        duplicates: By table ("items" or "users"), rows of an id after its first.
        conflicts: By table, ids with events whose rows differ.
        without_events: By table, ids that have rows alone.
        without_side_information: By table, ids that have events alone.
        with_side_information: By table, ids that have events and rows.
        unjoined: Some ids that have one of these alone, where few have both.
        text_ids: Which of "item", "user" and "session" have an id that is no number.
        mended_ids: Ids of rows that were not in normal form, by (one of these, what was mended).
        examples: Of each of these the least; and of the conflicts of each table, (id, column, first value, other).
    """

    lines: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    rejected: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    events: int = 0
    dropped_by_where: int = 0
    dropped_as_null: int = 0
    too_old: int = 0
    events_a_user: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    noted_users: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    noted_sessions: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    events_at_median: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    last_time: tuple[int, ...] = ()
    minus_first_time: tuple[int, ...] = ()
    sequences: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    training_users: int = 0
    events_with_ties: int = 0
    sequences_with_ties: int = 0
    repeated_events: int = 0
    consecutive_repeats: int = 0
    targets_with_ties: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    targets_repeating_history: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    train_without_target: int = 0
    lengths: collections.Counter[tuple[str, int]] = dataclasses.field(default_factory=collections.Counter)
    targets: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped_targets: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped_sequences: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    duplicates: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    conflicts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    without_events: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    without_side_information: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    with_side_information: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    unjoined: Sample = dataclasses.field(default_factory=Sample)
    text_ids: set[str] = dataclasses.field(default_factory=set)
    mended_ids: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    examples: Examples = dataclasses.field(default_factory=Examples)

    @classmethod
    def sum(cls, parts: Iterable[Tally]) -> Tally:
        """All that several have counted."""
        total = cls()
        for part in parts:
            for field in dataclasses.fields(cls):
                value = getattr(part, field.name)
                if isinstance(value, int):
                    setattr(total, field.name, getattr(total, field.name) + value)
                elif isinstance(value, tuple):
                    setattr(total, field.name, max(getattr(total, field.name), value))
                else:
                    getattr(total, field.name).update(value)
        return total


class Counting(beam.DoFn):
    """A step that counts: `self.tally` goes to the output TALLY at the end of each bundle.

    The output ITEM_COUNTS holds (step, `ItemCounts`).
    """

    def start_bundle(self):
        """Start from nothing."""
        self.tally = Tally()

    def counted(self, step: str, sequences: Sequences) -> Iterator[Any]:
        """Count what is there after a step, for the outputs of `process`."""
        self.tally.sequences[step] += len(sequences)
        yield beam.pvalue.TaggedOutput(ITEM_COUNTS, (step, sequences.count_items()))

    def finish_bundle(self):
        """Send the tally."""
        yield beam.pvalue.TaggedOutput(TALLY, WindowedValue(self.tally, MIN_TIMESTAMP, (GlobalWindow(),)))


class SumItems(beam.CombineFn):
    """`ItemCounts` of parts of the data to that of all of it; never holds many times as many items as there are."""

    def create_accumulator(self) -> list[ItemCounts]:
        """Nothing counted."""
        return []

    def add_input(self, held: list[ItemCounts], counts: ItemCounts) -> list[ItemCounts]:
        """Add one part."""
        held.append(counts)
        if sum(len(part.items) for part in held) > 4 * len(held[0].items) + 1_000_000:
            return [ItemCounts.sum(held)]
        return held

    def merge_accumulators(self, accumulators: Iterable[list[ItemCounts]]) -> list[ItemCounts]:
        """Add several."""
        held: list[ItemCounts] = []
        for parts in accumulators:
            for part in parts:
                held = self.add_input(held, part)
        return held

    def compact(self, held: list[ItemCounts]) -> list[ItemCounts]:
        """As few rows as there are items, before they go to another worker."""
        return [ItemCounts.sum(held)]

    def extract_output(self, held: list[ItemCounts]) -> ItemCounts:
        """The sum."""
        return ItemCounts.sum(held)
