"""Sizes and audits of a dataset, and whether neighbours in its sequences are neighbours by more than chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from seqrec_tf.records import DatasetFolder, read_split
from seqrec_tf.schema import SECONDS, TARGET_START, TIMESTAMPS


def describe(folder: DatasetFolder, rows: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    """Sizes, lengths and popularity of the training sequences, and the audits.

    Args:
        folder: The dataset.
        rows: int64 [E], the sequence of each training event.
        items: int64 [E], item ids of the training events.

    Returns:
        sizes: Sequences, items, events; `density`, the share of (sequence, item) pairs that have an event.
        lengths: Quantiles and mean, events a training sequence.
        popularity: `gini` of the items' events (0 all alike, 1 one item alone), and the share of the events that
            the most frequent 1 % and 10 % of the items have.
        audits: From `stats.json`: ties and repeats, the events that they are among, the warnings of `seqrec prepare`;
            `items_without_training_events`; `targets_before_training_ends`, the share of the events to predict, by
            split, that happened before the newest training event, which a model knows and a service could not (None
            where events have no time).
    """
    stats = folder.stats
    counts = np.sort(np.bincount(items, minlength=folder.num_items + 1)[1:])[::-1]
    num_sequences = folder.num_training_sequences
    num_pairs = len(_runs(np.sort(rows * (folder.num_items + 1) + items))[0])
    share = np.cumsum(counts) / counts.sum()
    ranks = np.arange(1, len(counts) + 1)
    return {
        "sizes": {
            "sequences": num_sequences,
            "items": folder.num_items,
            "events": len(items),
            "density": num_pairs / (num_sequences * folder.num_items),
        },
        "lengths": folder.training_lengths,
        "popularity": {
            "gini": float(1 - 2 * np.mean(np.cumsum(counts[::-1]) / counts.sum()) + 1 / len(counts)),
            **{f"share_of_top_{part}%": float(share[ranks <= -(-len(counts) * part // 100)][-1]) for part in (1, 10)},
        },
        "audits": {
            "ties": stats.get("ties"),
            "repeats": stats.get("repeats"),
            "events_of_all_splits": stats["steps"][-1]["events"],
            "warnings": stats.get("warnings", []),
            # Also events of sequences of one event count, which are no training sequences.
            "items_without_training_events": folder.item_counts.count(0),
            "targets_before_training_ends": _targets_in_the_past(folder),
        },
    }


def _targets_in_the_past(folder: DatasetFolder) -> dict[str, float] | None:
    if TIMESTAMPS not in folder.schema or folder.schema.time_unit != SECONDS:
        return None
    batches = read_split(folder, "train", [TIMESTAMPS])
    end = max(int(batch[TIMESTAMPS].flat_values.numpy().max()) for batch in batches)
    shares = {}
    for split in ("valid", "test"):
        before = total = 0
        for batch in read_split(folder, split, [TIMESTAMPS, TARGET_START]):
            times, ends = batch[TIMESTAMPS].flat_values.numpy(), batch[TIMESTAMPS].row_limits().numpy()
            num_targets = batch[TIMESTAMPS].row_lengths().numpy() - batch[TARGET_START].numpy()
            in_the_past = np.append(0, np.cumsum(times < end))
            before += int((in_the_past[ends] - in_the_past[ends - num_targets]).sum())
            total += int(num_targets.sum())
        if total:
            shares[split] = before / total
    return shares


def neighbours(rows: np.ndarray, items: np.ndarray, *, shuffles: int, min_support: int, seed: int) -> dict[str, Any]:
    """Frequent runs of 2 and 3 items, before and after their sequences are shuffled.

    Args:
        rows: int64 [E], the sequence of each event, ascending.
        items: int64 [E], item ids, oldest first in each sequence.
        shuffles: Times that the order is shuffled.
        min_support: Sequences that make a run frequent.
        seed: The seed of the shuffles.

    Returns:
        For `pairs` and `triples`: `frequent`, how many; `frequent_shuffled`, how many are after shuffling, on average;
        `surviving`, the share of the frequent ones that still are.
    """
    random = np.random.default_rng(seed)
    # A random number below the sequence in one integer, which NumPy sorts in a tenth of the time of two keys.
    bits = 63 - int(rows[-1]).bit_length()
    orders = ((rows << bits) | (random.random(len(items)) * (1 << bits)).astype(np.int64) for _ in range(shuffles))
    shuffled = [items[np.argsort(order)] for order in orders]
    figures = {}
    for name, length in (("pairs", 2), ("triples", 3)):
        before = _frequent(rows, items, length, min_support)
        after = [_frequent(rows, others, length, min_support) for others in shuffled]
        kept = [len(np.intersect1d(before, one, assume_unique=True)) for one in after]
        figures[name] = {
            "frequent": len(before),
            "frequent_shuffled": float(np.mean([len(one) for one in after])),
            "surviving": float(np.mean(kept) / len(before)) if len(before) else None,
        }
    return {"shuffles": shuffles, "min_support": min_support, **figures}


def _frequent(rows, items, length, min_support):
    """Codes of the runs of items that occur in so many sequences: sorted int64."""
    num_items = int(items.max()) + 1
    if num_items**length >= 2**63:  # codes of frequent items alone fit
        kept = np.flatnonzero(np.bincount(items) >= min_support)
        items = np.where(np.isin(items, kept), np.searchsorted(kept, items) + 1, 0)
        num_items = len(kept) + 1
    num_runs = max(len(items) - length + 1, 0)
    code, is_run = np.zeros(num_runs, np.int64), np.ones(num_runs, bool)
    for place in range(length):
        code = code * num_items + items[place : place + num_runs]
        is_run &= (rows[place : place + num_runs] == rows[:num_runs]) & (items[place : place + num_runs] > 0)
    code, row = code[is_run], rows[:num_runs][is_run]
    # What occurs in so many sequences occurs so many times, and few runs do.
    codes, number = _runs(np.sort(code))
    often = codes[number >= min_support]
    if not len(often):
        return often
    which = np.minimum(np.searchsorted(often, code), len(often) - 1)
    is_often = often[which] == code
    # A run counts once in each sequence.
    num_rows = int(rows[-1]) + 1
    pairs, _ = _runs(np.sort(which[is_often] * num_rows + row[is_often]))
    return often[np.bincount(pairs // num_rows, minlength=len(often)) >= min_support]


def _runs(ordered):
    """The values of a sorted array, and how often each is there."""
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else np.zeros(0, np.int64)
    return ordered[starts], np.diff(np.append(starts, len(ordered)))
