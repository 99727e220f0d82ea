"""What happens to sequences: ordering, cleaning, filtering, splitting.

Pure functions of whole tables: each takes `Sequences`, of one bucket of users, and gives what is left of them. `steps`
says which of them a job needs; Beam is not imported here.

Example: `without_repeats` with "consecutive" makes `a b a c` of `a b b b a c c`, in every sequence at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.tables import FRACTION, LABEL, POSITION, ROLES, TIME, Sequences
from seqrec_tf.schema import DROP_CONSECUTIVE_REPEATS, SPLITS

_TRAIN, _VALID, _TEST = range(3)


def newest(sequences: Sequences, limit: int) -> Sequences:
    """The newest `limit` events of each sequence."""
    return sequences.keep_events(sequences.places >= np.repeat(sequences.lengths - limit, sequences.lengths))


def positive_only(sequences: Sequences) -> Sequences:
    """The events with label 1."""
    return sequences.keep_events(sequences.columns[LABEL] > 0)


def without_repeats(sequences: Sequences, which: str) -> Sequences:
    """The events whose item is not the one before ("consecutive") or not among those before ("all")."""
    is_consecutive = which == DROP_CONSECUTIVE_REPEATS
    again = sequences.is_same_as_before(sequences.items) if is_consecutive else repeated(sequences)
    return sequences.keep_events(~again)


def repeated(sequences: Sequences) -> np.ndarray:
    """bool [E], True where the item of an event occurs before it in its sequence."""
    num_names, lengths = max(len(sequences.names), 1), sequences.lengths
    pairs = sequences.sequence_of * num_names + sequences.items
    place_bits = int(lengths.max(initial=0)).bit_length()
    again = np.zeros(len(pairs), bool)
    if (len(sequences) * num_names).bit_length() + place_bits <= 63:
        # Pair and place in one number: sorted, the first of equal pairs is the earliest.
        keys = np.sort((pairs << place_bits) | sequences.places)
        later = keys[1:][(keys[1:] >> place_bits) == (keys[:-1] >> place_bits)]
        again[sequences.offsets[(later >> place_bits) // num_names] + (later & ((1 << place_bits) - 1))] = True
    else:
        rows = np.argsort(pairs, kind="stable")
        again[rows[1:][pairs[rows[1:]] == pairs[rows[:-1]]]] = True
    return again


def tied(sequences: Sequences) -> np.ndarray:
    """bool [E], True where an event shares its time with a neighbour: only the input's order tells them apart."""
    times = [sequences.columns[name] for name in (TIME, FRACTION) if name in sequences.columns]
    later = sequences.is_same_as_before(*times)
    earlier = np.zeros_like(later)
    earlier[:-1] = later[1:]
    return later | earlier


def of_items(sequences: Sequences, items: pa.StringArray, *, unless: bool = False) -> Sequences:
    """The events of these items (`unless` them: of all others)."""
    if not len(items):
        return sequences if unless else sequences.keep_events(np.zeros(len(sequences.items), bool))
    is_one = pc.is_in(sequences.names, items).to_numpy(zero_copy_only=False)
    return sequences.keep_events((is_one != unless)[sequences.items])


def filter_round(sequences: Sequences, rare_items: pa.StringArray, min_events: int) -> Sequences:
    """The sequences of at least `min_events` events and, of these, the events of items that are not rare.

    Both conditions look at the input of the round, as the SASRec paper's preprocessing does: a user with enough events
    stays even where some of them are of rare items.
    """
    return of_items(sequences.keep(sequences.lengths >= min_events), rare_items, unless=True)


def hold_out_items(sequences: Sequences, share: float) -> Sequences:
    """The events of all but a share of the items; of these, the newest event of a sequence that can be for testing."""
    held_out = np.array([is_chosen(name, share, b"hold-out") for name in sequences.names.to_pylist()], bool)
    kept = ~held_out[sequences.items]
    numbers = np.add.reduceat(kept, sequences.offsets[:-1], dtype=np.int64)
    kept[sequences.last[numbers > 1]] = True
    return sequences.keep_events(kept)


def is_chosen(name: str, share: float, purpose: bytes) -> bool:
    """Whether a name is among a share of all names, the same on every worker and in every run."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "big") < share * 2**64


@dataclasses.dataclass(frozen=True, order=True)
class Moment:
    """A time in the unit of the input: an integer, and what is beyond it, in [0, 1)."""

    time: int
    fraction: float = 0.0

    @classmethod
    def of(cls, number: float) -> Moment:
        """The moment of a number, exactly."""
        time = math.floor(number)
        return cls(time, float(number - time))


class Splitter:
    """Where to cut sequences; one subclass a rule.

    Example: `LeaveOneOut` makes three records of the sequence `a b c d`. Training is `a b`, in which `b` is to be
    predicted (start 1, end 2); validation predicts `c` from `a b` (start 2, end 3), and the test `d` from `a b c`
    (start 3, end 4).
    """

    def cut(self, sequences: Sequences, boundary: Moment | int | None) -> tuple[np.ndarray, np.ndarray]:
        """The records of each sequence: those with a history and a target, and that of training where it has events.

        Args:
            sequences: Whole ones.
            boundary: What the rule needs to know of all sequences, if anything.

        Returns:
            starts, ends: int64 [3, S], by split: the record is the events before `ends`, 0 where there is none, and
            those from `starts` on are to be predicted.
        """
        starts, ends = self._cut(sequences, boundary)
        there = ends > starts
        there[_TRAIN] = ends[_TRAIN] > 0
        return starts, np.where(there & (ends > 0), ends, 0)

    def _cut(self, sequences: Sequences, boundary: Moment | int | None) -> tuple[np.ndarray, np.ndarray]:
        """The rule itself, which need not look whether anything is left to predict, or to predict it from."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(Splitter):
    """The last event is for testing, the one before for validation; sequences with fewer than 3 are for training.

    Attributes:
        valid_share: Share of the sequences that validate; the others train on all events but the last.
    """

    valid_share: float = 1.0

    def _cut(self, sequences, boundary):
        lengths = sequences.lengths
        is_long = lengths >= 3
        if self.valid_share < 1:
            is_validated = np.array(
                [is_chosen("\0".join(key), self.valid_share, b"valid") for key in sequences.identities()], bool
            )
        else:
            is_validated = np.ones(len(sequences), bool)
        ones = np.ones_like(lengths)
        starts = np.stack([ones, lengths - 2, lengths - 1])
        ends = np.stack(
            [
                np.where(is_long, lengths - 1 - is_validated, lengths),
                np.where(is_long & is_validated, lengths - 1, 0),
                np.where(is_long, lengths, 0),
            ]
        )
        return starts, ends


@dataclasses.dataclass(frozen=True)
class ByTime(Splitter):
    """Events before `valid_from` are for training; no training event is later than any event to predict.

    A sequence that begins in a later period gives its first event as history, since nothing can predict it.

    Attributes:
        valid_from: When validation begins; `test_from` where there is none.
        test_from: When testing begins.
    """

    valid_from: Moment
    test_from: Moment

    def _cut(self, sequences, boundary):
        num_train, num_before_test = (_number_before(sequences, at) for at in (self.valid_from, self.test_from))
        ones = np.ones_like(num_train)
        starts = np.stack([ones, np.maximum(num_train, 1), np.maximum(num_before_test, 1)])
        return starts, np.stack([num_train, num_before_test, sequences.lengths])


def _number_before(sequences: Sequences, moment: Moment) -> np.ndarray:
    """int64 [S], events of each sequence before a moment."""
    times = sequences.columns[TIME]
    before = times < moment.time
    if moment.fraction:
        before |= (times == moment.time) & (sequences.columns.get(FRACTION, 0.0) < moment.fraction)
    return np.add.reduceat(before, sequences.offsets[:-1], dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class LastDays(Splitter):
    """Whole sequences by the time of their last event, counted back from the newest event of all (the boundary).

    Attributes:
        valid: Length of the validation period, in the unit of the events.
        test: Length of the test period, in the unit of the events.
    """

    valid: float
    test: float

    def _cut(self, sequences, boundary):
        last = sequences.last
        ages = boundary.time - sequences.columns[TIME][last]
        if FRACTION in sequences.columns or boundary.fraction:
            fractions = sequences.columns.get(FRACTION, np.zeros(len(sequences.items)))[last]
            ages = (boundary.time + boundary.fraction) - (sequences.columns[TIME][last] + fractions)
            limits = self.test, self.test + self.valid
        else:  # whole numbers, compared as such: nanoseconds have more digits than floats
            limits = math.ceil(self.test), math.ceil(self.test + self.valid)
        split = np.where(ages < limits[0], _TEST, np.where(ages < limits[1], _VALID, _TRAIN))
        return _whole(sequences, split)


class ByFile(Splitter):
    """Whole sequences by the file they come from; training sequences from position `boundary` on are for validation."""

    def _cut(self, sequences, boundary):
        split = sequences.roles.astype(np.int64) - 1
        if boundary is not None:
            first = sequences.columns[POSITION][sequences.offsets[:-1]]
            split = np.where((split == _TRAIN) & (first >= boundary), _VALID, split)
        return _whole(sequences, split)


def _whole(sequences: Sequences, split: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ends = np.where(split == np.arange(len(SPLITS))[:, None], sequences.lengths, 0)
    return np.ones_like(ends), ends


def newest_moment(sequences: Sequences) -> Moment:
    """The time of the newest event of all."""
    times = sequences.columns[TIME][sequences.last]
    time = int(times.max())
    fractions = sequences.columns.get(FRACTION)
    return Moment(time, 0.0 if fractions is None else float(fractions[sequences.last][times == time].max()))


def last_positions(sequences: Sequences, number: int) -> Sequence[int]:
    """Where the last training sequences begin in the input, those of the `number` that begin last."""
    first = sequences.columns[POSITION][sequences.offsets[:-1]][sequences.roles == ROLES.index("train")]
    return np.sort(first)[max(len(first) - number, 0) :].tolist()
