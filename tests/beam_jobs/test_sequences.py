"""The steps on tables, against plain loops over single events."""

import collections
import dataclasses
import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import sequences as steps
from beam_jobs import splits, tables
from beam_jobs.splits import ByFile, ByTime, LastDays, LeaveOneOut, Moment
from beam_jobs.tables import Coded, EventRows, Sequences

# An event of the loops: (time, position, item).


def table(*sequences, role="", labels=None) -> Sequences:
    """`table([(1, 0, "a"), (2, 1, "b")], ...)`: the sequences of users u0, u1, ..."""
    rows = [(user, *event) for user, events in enumerate(sequences) for event in events]
    users, times, positions, items = zip(*rows, strict=True)
    columns = {
        tables.TIME: np.array([int(time // 1) for time in times]),
        tables.FRACTION: np.array([time % 1 for time in times], np.float64),
        tables.POSITION: np.array(positions),
    }
    if labels is not None:
        columns[tables.LABEL] = np.array(labels, np.int8)
    coded = Coded.of(pa.array([f"u{user}" for user in users]))
    return tables.group([EventRows(role, coded, None, pa.array(items, pa.string()), columns)])


def at(*times):
    """Events at these times, each of an item of its own."""
    return [(time, position, f"i{position}") for position, time in enumerate(times)]


def lists(sequences) -> dict[str, list[tuple]]:
    """User to (time, item) pairs, as the table has them."""
    found = {}
    names = sequences.names.to_pylist()
    times = sequences.columns[tables.TIME] + sequences.columns.get(tables.FRACTION, 0)
    for (_, user, _), first, end in zip(sequences.identities(), sequences.offsets, sequences.offsets[1:], strict=False):
        found[user] = [(times[row], names[sequences.items[row]]) for row in range(first, end)]
    return found


def cuts(rule, sequences, boundary=None):
    """The records of each sequence, as (split, end, first target)."""
    starts, ends = rule.cut(sequences, boundary)
    return [
        [
            (split, int(ends[number, row]), int(starts[number, row]))
            for number, split in enumerate(("train", "valid", "test"))
            if ends[number, row]
        ]
        for row in range(len(sequences))
    ]


def some_sequences(seed, *, most=12, items=6, times=9):
    """Random sequences, each in order, of events with ties and repeats."""
    generator = random.Random(seed)
    positions = itertools.count()
    return [
        sorted(
            (generator.randrange(times) / generator.choice([1, 1, 4]), next(positions), f"i{item}")
            for item in generator.choices(range(items), k=generator.randrange(1, most))
        )
        for _ in range(40)
    ]


def test_events_come_in_the_order_of_time_then_of_the_input_from_whatever_parts():
    expected = some_sequences(0)
    rows = [(user, *event) for user, events in enumerate(expected) for event in events]
    random.Random(1).shuffle(rows)
    parts = []
    for start in range(0, len(rows), 7):
        users, times, positions, items = zip(*rows[start : start + 7], strict=True)
        columns = {
            tables.TIME: np.array([int(time) for time in times]),
            tables.POSITION: np.array(positions),
        }
        if any(time % 1 for time in times):
            columns[tables.FRACTION] = np.array([time % 1 for time in times])
        users = Coded.of(pa.array([f"u{user}" for user in users]))
        parts.append(EventRows("", users, None, pa.array(items), columns))
    found = lists(tables.group(parts))
    assert found == {f"u{user}": [(time, item) for time, _, item in events] for user, events in enumerate(expected)}


@pytest.mark.parametrize("spread", [10, 2**40, 2**62])
def test_the_fast_order_is_that_of_a_plain_sort(spread):
    generator = np.random.default_rng(0)
    codes, times = generator.integers(0, 50, 2000), generator.integers(-spread, spread, 2000)
    times[::3] = times[0]
    fractions, positions = generator.integers(0, 2, 2000) / 2, generator.permutation(2000)
    found = tables.time_order(codes, times, fractions, positions)
    columns = (codes, times, fractions, positions)
    assert found.tolist() == sorted(range(2000), key=lambda row: [column[row] for column in columns])


def test_only_the_newest_events_are_kept():
    expected = some_sequences(2)
    found = lists(steps.newest(table(*expected), 3))
    assert found == {f"u{user}": [(t, item) for t, _, item in events[-3:]] for user, events in enumerate(expected)}


@pytest.mark.parametrize(("which", "expected"), [("consecutive", "aba"), ("all", "ab")])
def test_the_first_of_duplicates_stays(which, expected):
    sequences = table([(time, time, item) for time, item in enumerate("aabbaa")])
    (kept,) = lists(steps.without_repeats(sequences, which)).values()
    assert "".join(item for _, item in kept) == expected
    assert [time for time, _ in kept[:2]] == [0, 2]


def test_repeats_are_of_their_own_sequence():
    expected = some_sequences(3)
    again = []
    for events in expected:
        seen = set()
        for _, _, item in events:
            again.append(item in seen)
            seen.add(item)
    sequences = table(*expected)
    assert steps.repeated(sequences).tolist() == again
    # As of so many items that a pair and a place need more than 64 bits.
    many = dataclasses.replace(sequences, names=range(2**52))
    assert steps.repeated(many).tolist() == again


def test_only_liked_events_stay():
    sequences = table(at(1, 2, 3), at(4), at(5, 6), labels=[1, 0, 1, 0, 0, 1])
    assert lists(steps.positive_only(sequences)) == {"u0": [(1, "i0"), (3, "i2")], "u2": [(6, "i1")]}


def test_a_round_of_filters_looks_at_its_input_alone():
    expected = some_sequences(4)
    rare = {"i1", "i4"}
    kept = {
        f"u{user}": [(time, item) for time, _, item in events if item not in rare]
        for user, events in enumerate(expected)
        if len(events) >= 4
    }
    found = steps.filter_round(table(*expected), pa.array(sorted(rare)), min_events=4)
    assert lists(found) == {user: events for user, events in kept.items() if events}


@pytest.mark.parametrize("known", [["i1", "i4", "other"], []])
def test_events_of_other_items_go(known):
    expected = some_sequences(5)
    kept = {
        f"u{user}": [(time, item) for time, _, item in events if item in known] for user, events in enumerate(expected)
    }
    found = steps.of_items(table(*expected), pa.array(known, pa.string()))
    assert lists(found) == {user: events for user, events in kept.items() if events}


def test_items_held_out_stay_as_the_newest_of_long_sequences():
    expected, kept = some_sequences(6, items=30), {}
    for user, events in enumerate(expected):
        left = [event for event in events if not steps.is_chosen(event[2], 0.4, b"hold-out")]
        if len(left) > 1 and left[-1] is not events[-1]:
            left.append(events[-1])
        if left:
            kept[f"u{user}"] = [(time, item) for time, _, item in left]
    assert lists(steps.hold_out_items(table(*expected), 0.4)) == kept


def test_leave_one_out_keeps_short_sequences_for_training():
    assert cuts(LeaveOneOut(), table(at(1, 2), at(1, 2, 3))) == [
        [("train", 2, 1)],
        [("train", 1, 1), ("valid", 2, 1), ("test", 3, 2)],
    ]


def test_who_is_not_for_validation_trains_on_all_events_but_the_newest():
    rule, kinds = LeaveOneOut(valid_share=0.3), collections.Counter()
    users = [at(1, 2, 3, 4)] * 1000
    found = cuts(rule, table(*users))
    assert found == cuts(rule, table(*[at(5, 6, 7, 8)] * 1000))
    kinds.update(map(tuple, found))
    validated = (("train", 2, 1), ("valid", 3, 2), ("test", 4, 3))
    assert kinds.keys() == {validated, (("train", 3, 1), ("test", 4, 3))}
    assert 250 < kinds[validated] < 350
    assert cuts(LeaveOneOut(valid_share=0), table(at(1, 2, 3))) == [[("train", 2, 1), ("test", 3, 2)]]


def by_time(valid_from, test_from):
    return ByTime(Moment.of(valid_from), Moment.of(test_from))


def test_a_split_by_time_predicts_each_period_from_what_came_before():
    assert cuts(by_time(10, 20), table(at(1, 9, 10, 20, 21))) == [[("train", 2, 1), ("valid", 3, 2), ("test", 5, 3)]]


def test_a_split_by_time_leaves_out_records_without_history_or_target():
    found = cuts(by_time(10, 20), table(at(20), at(20, 21), at(1, 2), at(10)))
    assert found == [[], [("test", 2, 1)], [("train", 2, 1)], []]


def test_a_split_by_time_counts_parts_of_a_second():
    assert cuts(by_time(10.25, 10.75), table(at(9, 10, 10.25, 10.5, 10.75, 11))) == [
        [("train", 2, 1), ("valid", 4, 2), ("test", 6, 4)]
    ]
    assert cuts(by_time(-0.5, 1), table(at(-1, -0.75, -0.5, 0, 1))) == [
        [("train", 2, 1), ("valid", 4, 2), ("test", 5, 4)]
    ]


def test_no_training_event_is_later_than_any_target():
    expected = some_sequences(7, times=100)
    trained, valid, test = [], [], []
    for events, of_one in zip(expected, cuts(by_time(40, 70), table(*expected)), strict=True):
        times = [time for time, *_ in events]
        for split, end, start in of_one:
            {"train": trained, "valid": valid, "test": test}[split].extend(
                times[:end] if split == "train" else times[start:end]
            )
    assert max(trained) < min(valid)
    assert max(valid) < 70 <= min(test)


def test_last_days_go_by_the_last_event_of_a_session():
    sequences = table(*(at(0, last) for last in (80, 81, 90, 91, 100)))
    found = cuts(LastDays(valid=10, test=10), sequences, splits.newest_moment(sequences))
    assert [split for ((split, _, _),) in found] == ["train", "valid", "valid", "test", "test"]


def test_last_days_tell_nanoseconds_apart_that_no_float_can():
    newest, day = 1_700_000_000_000_000_003, 86_400 * 10**9
    sequences = table(*([(newest - age, 0, "a"), (newest - age, 1, "b")] for age in (0, day, day - 1)))
    sequences = sequences.without(tables.FRACTION)
    found = cuts(LastDays(valid=0, test=float(day)), sequences, splits.newest_moment(sequences))
    assert [split for ((split, _, _),) in found] == ["test", "train", "test"]


def test_files_tell_their_split_and_the_last_training_sequences_validate():
    sequences = table(*([(0, 10 * user, "a"), (0, 10 * user + 1, "b")] for user in range(4)), role="train")
    boundary = min(splits.last_positions(sequences, 2))
    found = cuts(ByFile(), sequences, boundary)
    assert [split for ((split, _, _),) in found] == ["train", "train", "valid", "valid"]
    assert cuts(ByFile(), table(at(1, 2), role="test")) == [[("test", 2, 1)]]


def test_ties_are_events_that_share_their_time_with_a_neighbour():
    tied = steps.tied(table(at(1, 1, 2, 3, 3, 3), at(3, 3.5), at(4)))
    assert np.flatnonzero(tied).tolist() == [0, 1, 3, 4, 5]
