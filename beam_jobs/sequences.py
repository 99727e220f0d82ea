"""What happens to one sequence: ordering, cleaning, filtering, splitting.

An element is (key, events), events oldest first, until `Split` adds where to cut it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Sequence

import apache_beam as beam

from beam_jobs.parsing import ITEM, LABEL, POSITION, TIME, Event, Key
from beam_jobs.read_events import Counting

UserSequence = tuple[Key, list[Event]]
# (split, end, target_start): the split's record is events[:end], the events to predict begin at target_start.
Cut = tuple[str, int, int]

DUPLICATES = ("keep", "consecutive", "all")


class NewestEvents(beam.CombineFn):
    """All lists of events of a sequence to (its newest events oldest first, how many older ones were dropped).

    Never more than twice `limit` events are held, however many a robot or a shared account has.
    """

    def __init__(self, limit: int):
        self._limit = limit

    def create_accumulator(self):
        """No events."""
        return [], 0

    def add_input(self, accumulator, events):
        """Add one list."""
        held, dropped = accumulator
        held.extend(events)
        return self._shrink(held, dropped) if len(held) > 2 * self._limit else (held, dropped)

    def merge_accumulators(self, accumulators):
        """Add the lists up."""
        held, dropped = self.create_accumulator()
        for events, number in accumulators:
            held.extend(events)
            dropped += number
            if len(held) > 2 * self._limit:
                held, dropped = self._shrink(held, dropped)
        return held, dropped

    def extract_output(self, accumulator):
        """Sort and cut."""
        return self._shrink(*accumulator)

    def _shrink(self, held, dropped):
        held.sort()
        excess = max(len(held) - self._limit, 0)
        return held[excess:], dropped + excess


class Clean(Counting):
    """Drop negative events, duplicates and items without side information.

    Main output: (key, events). Counts users and items after each step.

    Args:
        positive_only: Drop events with label 0.
        duplicates: One of `DUPLICATES`; the first occurrence stays.
        require_items: Drop events of items that are not in the side input.
    """

    def __init__(self, *, positive_only: bool, duplicates: str, require_items: bool):
        self._positive_only = positive_only
        self._duplicates = duplicates
        self._require_items = require_items
        # Names of the steps in their order.
        self.steps = [
            "parsed",
            *(["positive only"] if positive_only else []),
            *([f"duplicates {duplicates}"] if duplicates != "keep" else []),
            *(["items with side information"] if require_items else []),
        ]

    def process(self, element, known_items: Collection[str] = ()) -> Iterator[UserSequence]:
        """Clean one sequence."""
        key, (events, too_old) = element
        if too_old:
            self.counts["too_old",] += too_old
        steps = iter(self.steps)
        self.count_sequence(next(steps), events)
        if self._positive_only:
            events = [event for event in events if event[LABEL]]
            self._count(next(steps), events)
        if self._duplicates != "keep":
            events = drop_duplicates(events, self._duplicates)
            self._count(next(steps), events)
        if self._require_items:
            events = [event for event in events if event[ITEM] in known_items]
            self._count(next(steps), events)
        if events:
            yield key, events

    def _count(self, step: str, events: Sequence[Event]) -> None:
        if events:
            self.count_sequence(step, events)


def drop_duplicates(events: list[Event], which: str) -> list[Event]:
    """The events whose item is not the one before ("consecutive") or not among those before ("all")."""
    if which == "consecutive":
        return [next(group) for _, group in itertools.groupby(events, key=lambda event: event[ITEM])]
    first: dict[str, Event] = {}
    for event in events:
        first.setdefault(event[ITEM], event)
    return list(first.values())


class FilterRound(Counting):
    """Drop sequences that are too short and, of the others, events of rare items.

    Both conditions look at the input of the round, as the SASRec paper's preprocessing does: a user with enough events
    stays even where some of them are of rare items.

    Args:
        step: Name of the round.
        min_user_events: Events that a sequence must have.
    """

    def __init__(self, step: str, min_user_events: int):
        self._step = step
        self._min_user_events = min_user_events

    def process(self, element: UserSequence, rare_items: Collection[str]) -> Iterator[UserSequence]:
        """Filter one sequence."""
        key, events = element
        if len(events) < self._min_user_events:
            return
        if rare_items:
            events = [event for event in events if event[ITEM] not in rare_items]
        if events:
            self.count_sequence(self._step, events)
            yield key, events


class KeepNewest(Counting):
    """Cut every sequence to its newest events.

    Args:
        step: Name of the step.
        max_length: Events to keep.
    """

    def __init__(self, step: str, max_length: int):
        self._step = step
        self._max_length = max_length

    def process(self, element: UserSequence) -> Iterator[UserSequence]:
        """Cut one sequence."""
        key, events = element
        events = events[-self._max_length :]
        self.count_sequence(self._step, events)
        yield key, events


class HoldOutItems(Counting):
    """Drop events of some items, but not the newest event of a sequence that is long enough to be for testing.

    Args:
        step: Name of the step.
        share: Of the items.
    """

    def __init__(self, step: str, share: float):
        self._step = step
        self._share = share

    def process(self, element: UserSequence) -> Iterator[UserSequence]:
        """Look at one sequence."""
        key, events = element
        kept = [event for event in events if not self._is_held_out(event[ITEM])]
        if len(kept) > 1 and kept[-1] is not events[-1]:
            kept.append(events[-1])
        if kept:
            self.count_sequence(self._step, kept)
            yield key, kept

    def _is_held_out(self, item: str) -> bool:
        return _is_chosen(item, self._share, b"hold-out")


def _is_chosen(name: str, share: float, purpose: bytes) -> bool:
    """Whether a name is among a share of all names, the same on every worker and in every run."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "big") < share * 2**64


class Splitter:
    """Where to cut a sequence; one subclass a rule."""

    def cuts(self, key: Key, events: Sequence[Event], boundary: float | None) -> list[Cut]:
        """The records of one sequence: those with a history and a target and, of any training events, that of training.

        Args:
            key: The sequence's key.
            events: Its events, oldest first.
            boundary: What the rule needs to know of all sequences, if anything.
        """
        cuts = self._cuts(key, events, boundary)
        return [(split, end, start) for split, end, start in cuts if end > start or (split == "train" and end)]

    def _cuts(self, key: Key, events: Sequence[Event], boundary: float | None) -> list[Cut]:
        """The rule itself, which need not look whether anything is left to predict, or to predict it from."""
        raise NotImplementedError


class LeaveOneOut(Splitter):
    """The last event is for testing, the one before for validation; sequences with fewer than 3 are for training.

    Args:
        valid_share: Of the sequences; of the others all events but the last are for training.
    """

    def __init__(self, valid_share: float = 1.0):
        self._valid_share = valid_share

    def _cuts(self, key, events, boundary):
        length = len(events)
        if length < 3:
            return [("train", length, 1)]
        test = ("test", length, length - 1)
        if not _is_chosen("\0".join(key), self._valid_share, b"valid"):
            return [("train", length - 1, 1), test]
        return [("train", length - 2, 1), ("valid", length - 1, length - 2), test]


class ByTime(Splitter):
    """Events before `valid_from` are for training; no training event is later than any event to predict.

    A sequence that begins in a later period gives its first event as history, since nothing can predict it.

    Args:
        valid_from: Time in the unit of the events; `test_from` where there is no validation.
        test_from: Time in the unit of the events.
    """

    def __init__(self, valid_from: float, test_from: float):
        self._valid_from = valid_from
        self._test_from = test_from

    def _cuts(self, key, events, boundary):
        num_train = sum(event[TIME] < self._valid_from for event in events)
        num_before_test = sum(event[TIME] < self._test_from for event in events)
        return [
            ("train", num_train, 1),
            ("valid", num_before_test, max(num_train, 1)),
            ("test", len(events), max(num_before_test, 1)),
        ]


class LastDays(Splitter):
    """Whole sequences by the time of their last event, counted back from the newest event of all (the boundary).

    Args:
        valid: Length of the validation period, in the unit of the events.
        test: Length of the test period, in the unit of the events.
    """

    def __init__(self, valid: float, test: float):
        self._valid = valid
        self._test = test

    def _cuts(self, key, events, boundary):
        age = boundary - events[-1][TIME]
        split = "test" if age < self._test else "valid" if age < self._test + self._valid else "train"
        return [(split, len(events), 1)]


class ByFile(Splitter):
    """Whole sequences by the file they come from; training sequences from position `boundary` on are for validation."""

    def _cuts(self, key, events, boundary):
        role = key[0]
        if role == "train" and boundary is not None and events[0][POSITION] >= boundary:
            role = "valid"
        return [(role, len(events), 1)]


class Split(Counting):
    """(key, events) to (key, events, cuts); counts events by split and what is odd about the order.

    Args:
        splitter: The rule.
        has_time: Whether times mean anything.
    """

    def __init__(self, splitter: Splitter, *, has_time: bool):
        self._splitter = splitter
        self._has_time = has_time

    def process(
        self, element: UserSequence, boundary: float | None = None
    ) -> Iterator[tuple[Key, list[Event], list[Cut]]]:
        """Split one sequence."""
        key, events = element
        cuts = self._splitter.cuts(key, events, boundary)
        items = [event[ITEM] for event in events]
        # Every item that any split holds is in the vocabulary; only its training events decide its place there.
        self.items["all"].update(items[: max((end for _, end, _ in cuts), default=0)])
        self.items["train"].update(items[: max((end for split, end, _ in cuts if split == "train"), default=0)])
        counts = self.counts
        # One training event has nothing to predict it from: it counts as popularity, but makes no record.
        num_cuts = len(cuts)
        cuts = [(split, end, start) for split, end, start in cuts if end > start]
        counts["train_without_target",] += num_cuts - len(cuts)
        counts["repeated_events",] += len(items) - len(set(items))
        counts["consecutive_repeats",] += sum(a == b for a, b in itertools.pairwise(items))
        tied = tied_events(events) if self._has_time else ()
        if tied:
            counts["events_with_ties",] += len(tied)
            counts["sequences_with_ties",] += 1
        for split, end, start in cuts:
            if split == "train":
                continue
            history = set(items[:start])
            for target in range(start, end):
                counts["targets_repeating_history", split] += items[target] in history
                history.add(items[target])
                counts["targets_with_ties", split] += target in tied
        if cuts:
            yield key, events, cuts


def tied_events(events: Sequence[Event]) -> Collection[int]:
    """Positions of events that share their time with a neighbour, so that only the input's order tells them apart."""
    tied: set[int] = set()
    for later, (a, b) in enumerate(itertools.pairwise(events), start=1):
        if a[TIME] == b[TIME]:
            tied.update((later - 1, later))
    return tied
