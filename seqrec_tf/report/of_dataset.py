"""What a report shows of a dataset: sizes, lengths, popularity, time, order, and what was rejected."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from seqrec_tf.evaluation.audits import describe, neighbours
from seqrec_tf.records import DatasetFolder, read_split
from seqrec_tf.schema import SECONDS, TIMESTAMPS

_BINS = 40
_POINTS = 120


def dataset_panel(folder: DatasetFolder, *, analysis: dict[str, Any] | None = None) -> dict[str, Any]:
    """The figures of a dataset as JSON-serialisable values.

    Args:
        folder: The dataset.
        analysis: What `seqrec analyze` found of it; found here where None.
    """
    rows, items = folder.training_events()
    if analysis is None:
        analysis = describe(folder, rows, items)
        analysis["order"] = neighbours(rows, items, shuffles=2, min_support=5, seed=0)
    return {
        "path": folder.path,
        "fingerprint": folder.fingerprint,
        "analysis": analysis,
        "splits": folder.stats["splits"],
        "steps": folder.stats.get("steps", []),
        "rejected": _rejected(folder.stats.get("input", {})),
        "lengths": length_histogram(np.bincount(rows)),
        "popularity": popularity_curve(np.array(folder.item_counts)),
        "time": _events_over_time(folder),
    }


def _rejected(read: dict[str, Any]) -> list[tuple[str, str, int]]:
    """File kind, reason, lines; the most first."""
    kinds = {"events": read, "items": read.get("items_file", {}), "users": read.get("users_file", {})}
    rows = [
        (kind, reason, number)
        for kind, counts in kinds.items()
        for reason, number in counts.get("rejected_by_reason", {}).items()
    ]
    return sorted(rows, key=lambda row: -row[2])


def length_histogram(lengths: np.ndarray) -> list[tuple[str, int]]:
    """Sequences by their number of events: up to 40 bins that grow with the length, each with its name.

    Args:
        lengths: int [N], events of each sequence.
    """
    longest = int(lengths.max(initial=1))
    edges = np.unique(np.round(np.geomspace(1, longest + 1, _BINS)).astype(int))
    if edges[-1] <= longest:
        edges = np.append(edges, longest + 1)
    counts, _ = np.histogram(lengths, edges)
    names = [str(low) if high - low == 1 else f"{low}-{high - 1}" for low, high in itertools.pairwise(edges)]
    return [(name, int(count)) for name, count in zip(names, counts, strict=True)]


def popularity_curve(counts: np.ndarray) -> list[tuple[int, int]]:
    """Points of the curve of training events over the items' ranks: (rank from 1, events), closer at the head.

    Args:
        counts: int [V], training events of each item, the most first.
    """
    seen = int((counts > 0).sum())
    ranks = np.unique(np.round(np.geomspace(1, max(seen, 1), _POINTS)).astype(int))
    return [(int(rank), int(counts[rank - 1])) for rank in ranks if len(counts)]


def _events_over_time(folder: DatasetFolder) -> list[tuple[int, int]] | None:
    """Training events by time: (start of the bin in seconds since 1970, events); None where there are no times."""
    if TIMESTAMPS not in folder.schema or folder.schema.time_unit != SECONDS:
        return None
    parts = [batch[TIMESTAMPS].flat_values.numpy() for batch in read_split(folder, "train", [TIMESTAMPS])]
    times = np.concatenate(parts)
    counts, edges = np.histogram(times, bins=_BINS)
    return [(int(start), int(count)) for start, count in zip(edges, counts, strict=False)]
