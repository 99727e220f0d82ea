import collections
import random

import pytest

from beam_jobs import sequences
from beam_jobs.sequences import ByTime, LastDays, LeaveOneOut, NewestEvents

KEY = ("", "u", "")


def events_at(*times):
    return [(time, position, f"i{position}", None, None) for position, time in enumerate(times)]


def test_only_the_newest_events_are_held_in_whatever_order_they_come():
    events = events_at(*range(100))
    shuffled = random.Random(0).sample(events, 100)
    combine = NewestEvents(limit=10)
    accumulators = []
    for start in range(0, 100, 7):
        accumulator = combine.add_input(combine.create_accumulator(), shuffled[start : start + 7])
        accumulators.append(accumulator)
    merged = combine.merge_accumulators(accumulators)
    assert len(merged[0]) <= 20
    assert combine.extract_output(merged) == (events[-10:], 90)


@pytest.mark.parametrize(("which", "expected"), [("consecutive", "aba"), ("all", "ab")])
def test_the_first_of_duplicates_stays(which, expected):
    events = [(time, time, item, None, None) for time, item in enumerate("aabbaa")]
    kept = sequences.drop_duplicates(events, which)
    assert "".join(event[2] for event in kept) == expected
    assert kept[:2] == [events[0], events[2]]


def test_leave_one_out_keeps_short_sequences_for_training():
    assert LeaveOneOut().cuts(KEY, events_at(1, 2), None) == [("train", 2, 1)]
    assert LeaveOneOut().cuts(KEY, events_at(1, 2, 3), None) == [("train", 1, 1), ("valid", 2, 1), ("test", 3, 2)]


def test_who_is_not_for_validation_trains_on_all_events_but_the_newest():
    rule, kinds = LeaveOneOut(valid_share=0.3), collections.Counter()
    for user in range(1000):
        cuts = rule.cuts(("", f"u{user}", ""), events_at(1, 2, 3, 4), None)
        kinds[tuple(cuts)] += 1
        assert cuts == rule.cuts(("", f"u{user}", ""), events_at(5, 6, 7, 8), None)
    validated = (("train", 2, 1), ("valid", 3, 2), ("test", 4, 3))
    assert kinds.keys() == {validated, (("train", 3, 1), ("test", 4, 3))}
    assert 250 < kinds[validated] < 350
    assert LeaveOneOut(valid_share=0).cuts(KEY, events_at(1, 2, 3), None) == [("train", 2, 1), ("test", 3, 2)]


def test_a_split_by_time_predicts_each_period_from_what_came_before():
    cuts = ByTime(valid_from=10, test_from=20).cuts(KEY, events_at(1, 9, 10, 20, 21), None)
    assert cuts == [("train", 2, 1), ("valid", 3, 2), ("test", 5, 3)]


def test_a_split_by_time_leaves_out_records_without_history_or_target():
    rule = ByTime(valid_from=10, test_from=20)
    assert rule.cuts(KEY, events_at(20), None) == []
    assert rule.cuts(KEY, events_at(20, 21), None) == [("test", 2, 1)]
    assert rule.cuts(KEY, events_at(1, 2), None) == [("train", 2, 1)]
    assert rule.cuts(KEY, events_at(10), None) == []


def test_no_training_event_is_later_than_any_target():
    generator = random.Random(1)
    rule = ByTime(valid_from=40, test_from=70)
    trained, valid, test = [], [], []
    for _ in range(200):
        times = sorted(generator.randrange(100) for _ in range(generator.randrange(1, 12)))
        for split, end, start in rule.cuts(KEY, events_at(*times), None):
            {"train": trained, "valid": valid, "test": test}[split].extend(
                times[:end] if split == "train" else times[start:end]
            )
    assert max(trained) < min(valid)
    assert max(valid) < 70 <= min(test)


def test_last_days_go_by_the_last_event_of_a_session():
    rule = LastDays(valid=10, test=10)
    splits = [rule.cuts(KEY, events_at(0, last), 100)[0][0] for last in (80, 81, 90, 91, 100)]
    assert splits == ["train", "valid", "valid", "test", "test"]


def test_ties_are_events_that_share_their_time_with_a_neighbour():
    assert sequences.tied_events(events_at(1, 1, 2, 3, 3, 3)) == {0, 1, 3, 4, 5}
    assert not sequences.tied_events(events_at(1, 2, 3))
