"""Every event that an evaluation predicted: how well, whose it was, and of which kind.

Two models that were evaluated on one split have the same targets in the same order, so they can be compared target by
target, and over segments of them: those with a short history, of rare items, after a long pause, of new users.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np

from seqrec_tf.schema import ITEM_IDS, SECONDS, TIMESTAMPS, USER_ID

if TYPE_CHECKING:
    from seqrec_tf.records import DatasetFolder

# Where one group of histories ends and the next begins, in events; and of pauses, in seconds.
_LENGTHS = (1, 5, 10, 20, 50, 100, 200)
_PAUSES = {"a minute": 60, "an hour": 3600, "a day": 86_400, "a week": 7 * 86_400, "30 days": 30 * 86_400}


@dataclasses.dataclass(frozen=True)
class Targets:
    """Predicted events, one row each, in the order of the split.

    Attributes:
        place: int64 [N, 2], the number of the sequence in the split, and the event's position there.
        owner: int64 [N], which user, or which sequence where users are not known, each is of; from 0.
        item: int32 [N], the item that came.
        rank: int32 [N], its rank, from 1; right up to the last cut-off, and beyond that some rank beyond.
        lists: int32 [N, k], what was recommended, best first, 0 is none; k is 0 where nothing was.
    """

    place: np.ndarray
    owner: np.ndarray
    item: np.ndarray
    rank: np.ndarray
    lists: np.ndarray

    def __post_init__(self):
        order = np.lexsort(self.place.T[::-1])
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, getattr(self, field.name)[order])

    def __len__(self) -> int:
        return len(self.rank)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Targets of one kind.

    Attributes:
        by: What targets are told apart by, such as "events before".
        name: Which these are, such as "5 to 9".
        has: bool [N], True where a target is one of them.
    """

    by: str
    name: str
    has: np.ndarray


def segments(folder: DatasetFolder, split: str, targets: Targets) -> list[Segment]:
    """The segments of some targets, those that tell nothing apart left out.

    Args:
        folder: The dataset.
        split: "valid" or "test", of which the targets are.
        targets: What was predicted.

    Returns:
        By "events before" (the whole history, also what a model does not read), "popularity of the item" (`head` are
        the most popular items that make a third of the training events, `tail` the least popular ones that do),
        "time since the event before" where times are seconds, and "user" where users are known. No segment is empty,
        and those of one kind hold each target once.
    """
    kinds = {
        "events before": _by_length(targets.place[:, 1]),
        "popularity of the item": _by_popularity(targets.item, np.array([0, *folder.item_counts])),
    }
    if folder.schema.time_unit == SECONDS:
        kinds["time since the event before"] = _by_pause(_pauses(folder, split, targets.place))
    if USER_ID in folder.schema:
        kinds["user"] = _by_user(folder, split, targets.place[:, 0])
    found = []
    for by, groups in kinds.items():
        groups = {name: has for name, has in groups.items() if has.any()}
        if len(groups) > 1:
            found += [Segment(by, name, has) for name, has in groups.items()]
    return found


def _by_length(events_before: np.ndarray) -> dict[str, np.ndarray]:
    edges = [0, *_LENGTHS, np.inf]
    groups = {}
    for low, high in itertools.pairwise(edges):
        name = f"{low} or more" if high == np.inf else f"{low} to {high - 1}" if high - low > 1 else f"{low}"
        groups[name] = (low <= events_before) & (events_before < high)
    return groups


def _by_popularity(item: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Thirds of the training events; ids are ordered by these, the most popular item first."""
    before = np.cumsum(counts) - counts  # training events of all items that are more popular
    third = np.minimum(3 * before // max(1, counts.sum()), 2)[item]
    is_new = counts[item] == 0
    names = ("head", "middle", "tail")
    groups = {name: (third == number) & ~is_new for number, name in enumerate(names)}
    return {**groups, "not in training": is_new}


def _by_pause(seconds: np.ndarray) -> dict[str, np.ndarray]:
    groups, low = {}, -np.inf
    for name, high in _PAUSES.items():
        groups[f"less than {name}"] = (low <= seconds) & (seconds < high)
        low = high
    return {**groups, f"{name} or more": seconds >= low}


def _pauses(folder: DatasetFolder, split: str, place: np.ndarray) -> np.ndarray:
    """Seconds between each target and the event before it, NaN where there is none: float64 [N]."""
    from seqrec_tf.records import read_split

    parts = [batch[TIMESTAMPS] for batch in read_split(folder, split, [TIMESTAMPS])]
    start = np.cumsum([0, *np.concatenate([part.row_lengths().numpy() for part in parts])])
    time = np.concatenate([part.flat_values.numpy() for part in parts]).astype(np.float64)
    event = start[place[:, 0]] + place[:, 1]
    return np.where(place[:, 1] > 0, time[event] - time[event - 1], np.nan)


def _by_user(folder: DatasetFolder, split: str, sequence: np.ndarray) -> dict[str, np.ndarray]:
    from seqrec_tf.records import read_split, user_fingerprint

    users = [user_fingerprint(batch[USER_ID]).numpy() for batch in read_split(folder, split, [USER_ID])]
    is_known = np.isin(np.concatenate(users)[sequence], folder.training_users())
    return {"in training": is_known, "new": ~is_known}


def histories(folder: DatasetFolder, split: str, place: np.ndarray) -> list[np.ndarray]:
    """All events before some targets, oldest first: int64 [events] of item ids for each row of `place`."""
    from seqrec_tf.records import read_split

    parts = [batch[ITEM_IDS] for batch in read_split(folder, split, [ITEM_IDS])]
    start = np.cumsum([0, *np.concatenate([part.row_lengths().numpy() for part in parts])])
    items = np.concatenate([part.flat_values.numpy() for part in parts])
    return [items[start[sequence] : start[sequence] + position] for sequence, position in place]
