"""How to hold events out: the rules of `--split`, each a class with what it asks of the options and of all sequences.

A new rule is a subclass of `Splitter` and its name in `RULES`; options of its own stand in `beam_jobs.options`, their
help in `beam_jobs.arguments`.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from beam_jobs import parsing
from beam_jobs.sequences import is_chosen
from beam_jobs.tables import FRACTION, POSITION, ROLES, TIME, Sequences
from seqrec_tf.schema import SPLITS

_TRAIN, _VALID, _TEST = range(3)
_SECONDS_A_DAY = 86_400


@dataclasses.dataclass(frozen=True, order=True)
class Moment:
    """A time in the unit of the input: an integer, and what is beyond it, in [0, 1)."""

    time: int
    fraction: float = 0.0

    @classmethod
    def of(cls, number: float | decimal.Decimal) -> Moment:
        """The moment of a number, exactly."""
        time = math.floor(number)
        return cls(time, float(number - time))


@dataclasses.dataclass(frozen=True)
class Boundary:
    """What a rule needs to know of all sequences, and how it comes together.

    Attributes:
        of_bucket: From the sequences of one bucket to what they say of it.
        of_all: From what several say to the same of all of them; associative.
        result: From what all say to the boundary.
    """

    of_bucket: Callable[[Sequences], Any]
    of_all: Callable[[Iterable[Any]], Any]
    result: Callable[[Any], Any] = lambda said: said


class Splitter:
    """Where to cut sequences; one subclass a rule.

    Example: `LeaveOneOut` makes three records of the sequence `a b c d`. Training is `a b`, in which `b` is to be
    predicted (start 1, end 2); validation predicts `c` from `a b` (start 2, end 3), and the test `d` from `a b c`
    (start 3, end 4).

    Attributes:
        boundary: What the rule needs to know of all sequences; None where that is nothing.
    """

    @classmethod
    def of(cls, options: Any, time_format: str) -> Splitter:
        """The rule by the options of a job.

        Args:
            options: What the user wants, `beam_jobs.options.Options`, which know the rules and so come after them.
            time_format: One of `parsing.TIME_FORMATS`, "" where events have no time.

        Raises:
            ValueError: An option is wrong.
        """
        raise NotImplementedError

    @property
    def boundary(self) -> Boundary | None:
        """See the class."""
        return None

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

    @classmethod
    def of(cls, options, time_format):
        """See `Splitter`."""
        return cls(options.valid_share)

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

    @classmethod
    def of(cls, options, time_format):
        """See `Splitter`."""
        _check_time(options, time_format)
        test_from = _moment(options.test_from, "--test-from", time_format)
        valid_from = _moment(options.valid_from, "--valid-from", time_format) if options.valid_from else test_from
        if valid_from > test_from:
            raise ValueError(
                f"--valid-from {options.valid_from} must not be later than --test-from {options.test_from}."
            )
        return cls(Moment.of(valid_from), Moment.of(test_from))

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

    @classmethod
    def of(cls, options, time_format):
        """See `Splitter`."""
        _check_time(options, time_format)
        if time_format == "order":
            raise ValueError("--split last-days needs times, and the time column only holds an order.")
        day = _SECONDS_A_DAY * parsing.units_per_second(time_format)
        return cls(valid=options.valid_days * day, test=options.test_days * day)

    @property
    def boundary(self):
        """The newest moment of all."""
        return Boundary(newest_moment, _latest)

    def _cut(self, sequences, boundary):
        last = sequences.last
        ages = boundary.time - sequences.columns[TIME][last]
        if FRACTION in sequences.columns or boundary.fraction:
            fractions = sequences.columns.get(FRACTION, np.zeros(len(sequences.items)))[last]
            ages = ages + (boundary.fraction - fractions)  # not of the moments themselves, which have too many digits
            limits = self.test, self.test + self.valid
        else:  # whole numbers, compared as such: nanoseconds have more digits than floats
            limits = math.ceil(self.test), math.ceil(self.test + self.valid)
        split = np.where(ages < limits[0], _TEST, np.where(ages < limits[1], _VALID, _TRAIN))
        return _whole(sequences, split)


@dataclasses.dataclass(frozen=True)
class ByFile(Splitter):
    """Whole sequences by the file they come from; training sequences from position `boundary` on are for validation.

    Attributes:
        valid_sequences: How many of the last training sequences are for validation.
    """

    valid_sequences: int = 0

    @classmethod
    def of(cls, options, time_format):
        """See `Splitter`."""
        return cls(options.valid_sequences)

    @property
    def boundary(self):
        """Where the first of the last training sequences begins, None where there are none."""
        if not self.valid_sequences:
            return None
        return Boundary(
            functools.partial(last_positions, number=self.valid_sequences),
            functools.partial(_largest, number=self.valid_sequences),
            functools.partial(min, default=None),
        )

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


def _latest(moments: Iterable[Moment | None]) -> Moment | None:
    return max((moment for moment in moments if moment is not None), default=None)


def _largest(several: Iterable[Sequence[int]], number: int) -> list[int]:
    return heapq.nlargest(number, itertools.chain.from_iterable(several))


def _check_time(options: Any, time_format: str) -> None:
    if not time_format:
        raise ValueError(f"--split {options.split} needs a --time-column.")


def _moment(text: str, option: str, time_format: str) -> float | decimal.Decimal:
    """A moment in the unit of the events: a number is in that unit already, ISO 8601 is UTC."""
    try:
        is_number = time_format in ("s", "ms", "us", "ns", "order")
        moment = parsing.parse_exactly(text) if is_number else parsing.time_parser(time_format)(text)
    except ValueError:
        pass
    else:
        if time_format in ("s", "ms", "us", "ns") and moment < 10**8 * parsing.units_per_second(time_format):
            raise ValueError(
                f"{option} {text} would be in 1973 or before, as the times are in {time_format}; write a day as "
                "ISO 8601, such as 2024-05-01."
            )
        return moment
    try:
        microseconds = decimal.Decimal(parsing.parse_iso(text))
    except ValueError:
        raise ValueError(
            f"{option} must be a number or ISO 8601 (2024-05-01 or 2024-05-01T12:00), got {text!r}."
        ) from None
    if time_format == "order":
        raise ValueError(f"{option} must be a number as in the time column, which only holds an order, got {text!r}.")
    return microseconds * parsing.units_per_second(time_format) / 1_000_000


# Each rule by its name on the command line.
RULES: dict[str, type[Splitter]] = {
    "leave-one-out": LeaveOneOut,
    "time": ByTime,
    "last-days": LastDays,
    "files": ByFile,
}
