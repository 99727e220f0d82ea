"""What looks wrong with events that can be read: ids that say "nothing", robots, one time for most events.

The thresholds are such that clean data sets are far below them, and that what is above changes figures.
"""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import parsing, where
from beam_jobs.counting import Tally
from beam_jobs.tables import TIME, Coded, ItemCounts, Sequences

# How programs write that there is no id: words, -1, a UUID of zeros, a long number that a spreadsheet has shortened.
_NO_ID = (
    r"(?i)^(nan|nat|nil|#?n/?a|undefined|missing|anonymous|guest|[(<\[]?(null|none|not set|unknown)[)>\]]?|\\n|-|\?|"
    r"-1(\.0+)?|[0-]{36}|-?[0-9](\.[0-9]+)?e\+[0-9]+)$"
)
# So it is written too, but 0 also is the first id of data that is numbered from 0.
_ZERO = r"^0+(\.0+)?$"

# Of all events, at least so much is a large share: a real id rarely has it, and less would not change figures.
_LARGE_SHARE, _LARGE_SHARE_OF_ZERO = 0.01, 0.05
# An id that says "nothing" stands for many users, so it has many times the events of one; 0, which may be one, more.
_TIMES_MEDIAN, _TIMES_MEDIAN_OF_ZERO = 10, 100
# Among items, which have no usual number of events, 0 is compared with the most frequent other.
_TIMES_NEXT = 5
# No person has so many times the events of others; a share that figures do not show is left alone.
_TIMES_MEDIAN_OF_ROBOT, _SHARE_OF_ROBOT = 1_000, 0.001
# Where more than half of the events, and of the test targets, have a place that is the file's, figures show the file.
_MOST = 0.5


def note_ids(tally: Tally, sequences: Sequences, max_events: int) -> None:
    """Count in all sequences of some users what `warnings` asks of their ids.

    Readers have counted what they cut off of those with more than `max_events`.
    """
    names = sequences.sessions if sequences.users is None else sequences.users
    assert names is not None
    coded = Coded.of(names)
    counts = np.bincount(coded.codes, sequences.lengths, minlength=len(coded.values)).astype(np.int64)
    lengths, numbers = np.unique(np.minimum(counts, max_events), return_counts=True)
    tally.events_a_user.update(dict(zip(lengths.tolist(), numbers.tolist(), strict=True)))
    noted = (counts >= max_events) | _is_odd(coded.values)
    noted[np.argmax(counts)] = True
    tally.noted_users.update(_chosen(coded.values, counts, noted))
    if sequences.users is not None and sequences.sessions is not None:
        coded = Coded.of(sequences.sessions)
        counts = np.bincount(coded.codes, sequences.lengths, minlength=len(coded.values)).astype(np.int64)
        tally.noted_sessions.update(_chosen(coded.values, counts, _is_odd(coded.values)))


def note_times(tally: Tally, sequences: Sequences) -> None:
    """Count in some sequences what `warnings` and `span` ask of their times."""
    times = sequences.columns[TIME]
    tally.last_time = max(tally.last_time, (int(times.max()),))
    tally.minus_first_time = max(tally.minus_first_time, (-int(times.min()),))
    median = int(np.partition(times, len(times) // 2)[len(times) // 2])  # what most events have is the median
    tally.events_at_median[median] += int(np.count_nonzero(times == median))


def odd_items(counts: ItemCounts) -> dict[str, int]:
    """Events of the two most frequent items, and of those whose id may say "nothing"."""
    noted = _is_odd(counts.items)
    noted[np.argsort(-counts.counts, kind="stable")[:2]] = True
    return _chosen(counts.items, counts.counts, noted)


def _is_odd(names: pa.StringArray) -> np.ndarray:
    """bool [n], which names may say "nothing"."""
    return pc.match_substring_regex(names, f"({_NO_ID})|({_ZERO})").to_numpy(zero_copy_only=False)


def _chosen(names: pa.StringArray, counts: np.ndarray, chosen: np.ndarray) -> dict[str, int]:
    return dict(zip(names.filter(pa.array(chosen)).to_pylist(), counts[chosen].tolist(), strict=True))


def span(tally: Tally, time_format: str) -> dict[str, int | str]:
    """The first and the last time of all events that are looked at, ISO 8601 where they are more than an order."""
    if not time_format or not tally.last_time:
        return {}
    return {
        "first_time": _moment(-tally.minus_first_time[0], time_format),
        "last_time": _moment(tally.last_time[0], time_format),
    }


def _moment(time: int, time_format: str) -> int | str:
    if time_format == "order":
        return time
    seconds = time // parsing.units_per_second(time_format)
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)).isoformat()


def warnings(
    tally: Tally, items: Mapping[str, int], num_events: int, options: Mapping[str, Any], time_format: str
) -> list[str]:
    """A sentence for each thing that looks wrong, with the option that mends it.

    Args:
        tally: What the job has counted.
        items: Events of some items, as `odd_items` gives them.
        num_events: Events that are left after all filters.
        options: Of the job, by name.
        time_format: Of the events, "" where they have no time.
    """
    sentences = []
    total = max(tally.events, 1)
    median = _median(tally.events_a_user)
    user = "session" if options["user_column"] == "none" else "user"
    has_ids = options["format"] != "sequences"
    next_item = max((number for item, number in items.items() if not re.match(_ZERO, item)), default=0)

    def odd(one: str, ids: Mapping[str, int], of_zero: float, of_word: float) -> None:
        for name, number in sorted(ids.items()):
            is_zero = re.match(_ZERO, name) is not None
            large, least = (_LARGE_SHARE_OF_ZERO, of_zero) if is_zero else (_LARGE_SHARE, of_word)
            if (is_zero or re.match(_NO_ID, name)) and number >= max(large * total, least):
                sentences.append(
                    f"{one} id {name!r}, which reads as none, has {_of(number, total)}. {_drop(options, one, name)}"
                )

    odd("item", items, _TIMES_NEXT * next_item, 0)
    if has_ids:
        odd(user, tally.noted_users, _TIMES_MEDIAN_OF_ZERO * median, _TIMES_MEDIAN * median)
        odd("session", {name: n for name, n in tally.noted_sessions.items() if not re.match(_ZERO, name)}, 0, 0)
        name, number = max(tally.noted_users.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))
        if number >= max(_TIMES_MEDIAN_OF_ROBOT * median, _SHARE_OF_ROBOT * total) and not re.match(_NO_ID, name):
            sentences.append(
                f"{user} {name!r} has {_of(number, total)}, {number // median:,} times the median of {median:,}: a "
                f"robot, or many under one id? {_drop(options, user, name)}"
            )
    return sentences + _about_times(tally, total, num_events, options, time_format)


def _about_times(tally: Tally, total: int, num_events: int, options: Mapping[str, Any], time_format: str) -> list[str]:
    if not time_format:
        return []
    at, number = max(tally.events_at_median.items(), key=lambda pair: (pair[1], pair[0]), default=(0, 0))
    if number > _MOST * total:
        cure = "Give another --time-column, or --time-column none if the file is in order."
        return [
            f"At least {_of(number, total)} have one time, {_moment(at, time_format)}: their order is the file's. "
            f"{cure}{_drop_time(options, at, time_format)}"
        ]
    targets, tied = tally.targets["test"], tally.targets_with_ties["test"]
    if tally.events_with_ties <= _MOST * num_events or (targets and tied <= _MOST * targets):
        return []
    of_targets = f", {tied / targets:.0%} of the test targets among them" if targets else ""
    cure = (
        "Where a basket has one time, make it a session: --user-column none --session-column BASKET --split last-days; "
        "or give a finer --time-column."
        if options["session_column"] == "none"
        else "Give a finer --time-column, or compare models that do not read the order."
    )
    return [
        f"{_of(tally.events_with_ties, num_events)} share their time with a neighbour{of_targets}: their order is the "
        f"file's, and figures of models that read it are not to be trusted. {cure}"
    ]


def _of(number: int, total: int) -> str:
    return f"{number:,} of {total:,} events ({number / total:.0%})"


def _drop(options: Mapping[str, Any], one: str, name: str) -> str:
    if options["format"] == "sequences":
        return "Take it out of the files."
    text = name.replace("'", "''")
    test = f"!= '{text}'"
    return f"{_where(options, one, test)} drops them."


def _drop_time(options: Mapping[str, Any], time: int, time_format: str) -> str:
    """Where times are numbers; what a text has for a moment is not known any more."""
    if time_format not in ("s", "ms", "us", "order"):
        return ""
    return f" {_where(options, 'time', f'!= {time}')} drops them."


def _where(options: Mapping[str, Any], one: str, test: str) -> str:
    """The option that keeps what it kept before, of events whose column meets a test."""
    condition = f"{where.quoted(options[f'{one}_column'])} {test}"
    if options["where"]:
        condition = f"({options['where']}) and {condition}"
    return f"--where {shlex.quote(condition)}"


def _median(numbers: Mapping[int, int]) -> int:
    """The median of values, by value how often it is there."""
    left = sum(numbers.values()) / 2
    for value, number in sorted(numbers.items()):
        left -= number
        if left <= 0:
            return value
    return 1
