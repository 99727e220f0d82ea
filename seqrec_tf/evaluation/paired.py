"""Two models on the same targets: how much better one is, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqrec_tf.evaluation.intervals import NUM_RESAMPLES, Interval

_RESAMPLES_AT_ONCE = 50


def paired_differences(
    differences: np.ndarray, owner: np.ndarray, groups: Sequence[np.ndarray], *, rng: np.random.Generator
) -> list[list[Interval]]:
    """Mean differences over groups of targets, with percentile intervals of a paired bootstrap of their owners.

    Both models see the same resampled users, with all their targets, so what makes a user easy or hard for both
    cancels. All groups share the resamples.

    Args:
        differences: float [N, M], of M figures of each target, one model's less the other's.
        owner: int [N], whose each target is, from 0.
        groups: bool [N] each, True where a target is of the group; none is empty.
        rng: Draws the resamples.

    Returns:
        For each group, an `Interval` for each figure.
    """
    num_owners, num_figures = int(owner.max()) + 1, differences.shape[1]
    sums = np.zeros((num_owners, len(groups), num_figures + 1))  # of each owner; the last column counts its targets
    for number, group in enumerate(groups):
        np.add.at(sums[:, number, :num_figures], owner[group], differences[group])
        sums[:, number, num_figures] = np.bincount(owner[group], minlength=num_owners)
    flat = sums.reshape(num_owners, -1)
    resampled = []
    for _ in range(0, NUM_RESAMPLES, _RESAMPLES_AT_ONCE):
        drawn = rng.integers(0, num_owners, (_RESAMPLES_AT_ONCE, num_owners))
        times = np.stack([np.bincount(row, minlength=num_owners) for row in drawn])  # [R, owners]
        resampled.append(_means((times @ flat).reshape(-1, len(groups), num_figures + 1)))
    low, high = np.nanpercentile(np.concatenate(resampled), [2.5, 97.5], axis=0)
    value = _means(flat.sum(axis=0).reshape(1, len(groups), num_figures + 1))[0]
    return [
        [Interval(*map(float, figures)) for figures in zip(*of_group, strict=True)]
        for of_group in zip(value, low, high, strict=True)
    ]


def _means(sums: np.ndarray) -> np.ndarray:
    """Sums over counts, NaN where a resample has nobody of a group: float [R, groups, figures]."""
    with np.errstate(invalid="ignore"):
        return sums[..., :-1] / sums[..., -1:]
