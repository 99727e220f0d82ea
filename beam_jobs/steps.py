"""The steps on sequences as Beam sees them: what `sequences` does to the table of a bucket, counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs import normal_ids, oddities
from beam_jobs import sequences as sequences_lib
from beam_jobs.counting import ITEM_COUNTS, STEPS, Counting, timed
from beam_jobs.splits import Moment, Splitter
from beam_jobs.store import Store, Stored
from beam_jobs.tables import FRACTION, POSITION, Sequences, group
from seqrec_tf.schema import SPLITS


class Order(Counting):
    """(bucket, stored `EventRows`s) to (bucket, `Sequences`): the events of each sequence, oldest first.

    Args:
        store: Where the rows are.
        step: Name of the step.
        max_events: Newest events of a sequence that are looked at.
        keep_positions: Whether a later step asks where in the input events stood.
    """

    def __init__(self, store: Store, step: str, *, max_events: int, keep_positions: bool):
        self._store = store
        self._step = step
        self._max_events = max_events
        self._keep_positions = keep_positions

    @timed(STEPS)
    def process(self, element: tuple[int, Iterable[Stored]], numeric: frozenset[str]) -> Iterator[Any]:
        """Order the sequences of one bucket; `numeric` is what `normal_ids.fractions_to_drop` has said."""
        bucket, parts = element
        sequences = group([normal_ids.drop_fractions(self._store.take(part), numeric) for part in parts])
        oddities.note_ids(self.tally, sequences, self._max_events)
        newest = sequences_lib.newest(sequences, self._max_events)
        oddities.note_times(self.tally, newest)
        self.tally.too_old += len(sequences.items) - len(newest.items)
        if not self._keep_positions:
            newest = newest.without(POSITION)
        yield from self.counted(self._step, newest)
        yield bucket, newest


class Apply(Counting):
    """(bucket, `Sequences`, stored or not) to (bucket, what a function leaves of them).

    Args:
        store: Where the sequences may be.
        step: Name of the step.
        function: Takes the sequences and the side inputs, and gives what is left.
    """

    def __init__(self, store: Store, step: str, function: Callable[..., Sequences]):
        self._store = store
        self._step = step
        self._function = function

    @timed(STEPS)
    def process(self, element: tuple[int, Sequences | Stored], *side_inputs) -> Iterator[Any]:
        """Apply the function to one bucket."""
        bucket, sequences = element
        left = self._function(self._store.take(sequences), *side_inputs)
        if len(left):
            yield from self.counted(self._step, left)
            yield bucket, left


class Split(Counting):
    """(bucket, `Sequences`, stored or not) to (bucket, those that have records, with where to cut these).

    Counts items by split, and what is odd about the order.

    Args:
        store: Where the sequences may be.
        splitter: The rule.
        has_time: Whether times mean anything.
    """

    def __init__(self, store: Store, splitter: Splitter, *, has_time: bool):
        self._store = store
        self._splitter = splitter
        self._has_time = has_time

    @timed(STEPS)
    def process(self, element: tuple[int, Sequences | Stored], boundary: Moment | int | None = None) -> Iterator[Any]:
        """Split the sequences of one bucket."""
        bucket, stored = element
        sequences: Sequences = self._store.take(stored)
        starts, ends = self._splitter.cut(sequences, boundary)
        # Every item that any split holds is in the vocabulary; only its training events decide its place there.
        for step, upto in (("all", ends.max(axis=0)), ("train", ends[0])):
            rows = sequences.places < np.repeat(upto, sequences.lengths)
            yield beam.pvalue.TaggedOutput(ITEM_COUNTS, (step, sequences.count_items(rows)))
        # One training event has nothing to predict it from: it counts as popularity, but makes no record.
        has_record = (ends > starts) & (ends > 0)
        self.tally.train_without_target += int(((ends > 0) & ~has_record).sum())
        ends = np.where(has_record, ends, 0)
        self._audit(sequences, starts, ends)
        if sequences.users is not None and has_record[0].any():
            self.tally.training_users += len(sequences.users.filter(pa.array(has_record[0])).unique())
        if POSITION not in sequences.columns:  # nothing asks for the order of events any more
            sequences = sequences.without(FRACTION)
        left = dataclasses.replace(sequences, starts=starts, ends=ends).keep(ends.max(axis=0) > 0)
        if len(left):
            yield bucket, left

    def _audit(self, sequences: Sequences, starts: np.ndarray, ends: np.ndarray) -> None:
        tally = self.tally
        again = sequences_lib.repeated(sequences)
        tally.repeated_events += int(again.sum())
        tally.consecutive_repeats += int(sequences.is_same_as_before(sequences.items).sum())
        odd = [(tally.targets_repeating_history, again)]
        if self._has_time:
            tied = sequences_lib.tied(sequences)
            tally.events_with_ties += int(tied.sum())
            tally.sequences_with_ties += int(np.logical_or.reduceat(tied, sequences.offsets[:-1]).sum())
            odd.append((tally.targets_with_ties, tied))
        first = sequences.offsets[:-1]
        for counter, rows in odd:
            before = np.append(0, np.cumsum(rows))
            for split, start, end in zip(SPLITS[1:], starts[1:], ends[1:], strict=True):
                there = end > 0
                counter[split] += int((before[first + end] - before[first + start])[there].sum())
