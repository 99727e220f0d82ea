"""Figures of an evaluation with their 95 % confidence intervals, of a bootstrap of users with all that is theirs.

Users are the owners of targets, of lists and of events; where they are not known, sequences are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

CUTOFFS = (1, 5, 10, 20)
NUM_RESAMPLES = 1000

# Resamples for figures that cost a pass over all recommendations or scores each.
_NUM_LIST_RESAMPLES = 200


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def rank_metrics(ranks: np.ndarray, owners: np.ndarray, *, rng: np.random.Generator) -> dict[str, Interval]:
    """HR, NDCG and MRR at each cut-off, with percentile intervals of a bootstrap of users with their targets.

    All of them depend on the rank alone, and ranks beyond the last cut-off are alike. So where each user has one
    target, to resample users is to draw the histogram of ranks anew, from a multinomial: exactly, at a cost that does
    not grow with their number.

    Args:
        ranks: int [N], 1 is best.
        owners: [N], whose each target is.
        rng: Draws the resamples.
    """
    from seqrec_tf.learning import metrics

    beyond = max(CUTOFFS) + 1
    bins = np.minimum(ranks, beyond) - 1
    histogram = np.bincount(bins, minlength=beyond)
    owner = np.unique(owners, return_inverse=True)[1]
    if owner.max() + 1 == len(ranks):
        drawn = rng.multinomial(len(ranks), histogram / len(ranks), size=NUM_RESAMPLES)
    else:
        weights = _resampled(owner, [rng] * NUM_RESAMPLES)
        drawn = np.stack([np.bincount(bins, weights=weight, minlength=beyond) for weight in weights])
    rank = np.arange(1, beyond + 1)
    gains: dict[str, Any] = {}
    for k in CUTOFFS:
        gains |= {f"{name}@{k}": metric(rank, k) for name, metric in metrics.OF_RANKS.items()}
    table_of_gains = np.stack([gain.numpy() for gain in gains.values()], axis=1).astype(np.float64)  # [ranks, metrics]
    values = histogram @ table_of_gains / len(ranks)
    resamples = drawn @ table_of_gains / drawn.sum(axis=1, keepdims=True)
    low, high = np.percentile(resamples, [2.5, 97.5], axis=0)
    return {name: Interval(*map(float, figures)) for name, *figures in zip(gains, values, low, high, strict=True)}


def _resampled(owner: np.ndarray, generators: Iterable[np.random.Generator]) -> Iterator[np.ndarray]:
    """How often each row is in a sample of as many owners, drawn with replacement: int [N], one for each generator."""
    number = owner.max() + 1
    return (np.bincount(rng.integers(0, number, number), minlength=number)[owner] for rng in generators)


def list_metrics(
    lists: np.ndarray, counts: np.ndarray, owners: np.ndarray, *, rng: np.random.Generator
) -> dict[str, Interval]:
    """Coverage and mean popularity of the recommended lists.

    Their intervals are normal, from the bootstrap's standard error: a resample of users covers fewer items than all
    users do, so that percentiles of the coverage would lie below its value.

    Args:
        lists: int [N, k], recommended ids, best first; 0 is none.
        counts: int [V], training events of each id.
        owners: [N], whom each list is for.
        rng: Draws the resamples.
    """
    metrics = {}
    owner = np.unique(owners, return_inverse=True)[1]
    seeds = rng.integers(0, 2**63, _NUM_LIST_RESAMPLES)

    def samples():  # drawn when needed: together they would be many times the lists
        return _resampled(owner, map(np.random.default_rng, seeds))

    for k in (10, 20):
        top = lists[:, :k]
        popularity = counts[top].sum(axis=1) / np.maximum(1, (top > 0).sum(axis=1))

        # The lists that an item is in, item by item: an item is covered where one of them is drawn.
        order = np.argsort(top, axis=None, kind="stable")
        order = order[np.searchsorted(top.ravel(), 1, sorter=order) :]
        item, row = top.ravel()[order], order // top.shape[1]
        first = np.flatnonzero(np.r_[len(item) > 0, item[1:] != item[:-1]])

        def coverage(weight, row=row, first=first):
            return np.logical_or.reduceat((weight > 0)[row], first).sum() / (len(counts) - 1) if len(row) else 0.0

        for name, value, resampled in (
            ("coverage", coverage(np.ones(len(lists))), [coverage(weight) for weight in samples()]),
            ("popularity", popularity.mean(), [weight @ popularity / weight.sum() for weight in samples()]),
        ):
            margin = 1.96 * float(np.std(resampled))
            metrics[f"{name}@{k}"] = Interval(float(value), float(value) - margin, float(value) + margin)
    return metrics


def label_metrics(
    labels: np.ndarray,
    scores: np.ndarray,
    owners: np.ndarray,
    *,
    are_users: bool,
    are_logits: bool,
    rng: np.random.Generator,
) -> dict[str, Interval]:
    """AUC, GAUC and, of logits, log-loss and calibration; intervals from a bootstrap of users with their events.

    Args:
        labels: int [N], 1 or 0.
        scores: float64 [N].
        owners: [N], whose event each is.
        are_users: Whether these are users; else there is no GAUC, as where no user has events of both labels.
        are_logits: Whether a score is the logit of a probability.
        rng: Draws the resamples.

    Returns:
        auc: Probability that an event with label 1 scores above one with label 0, equal scores counting half.
        gauc: Mean of the users' own AUC, weighted by their events; users with one kind of label take no part
            (DIN, Section 6.3, eq. 10).
        logloss: Mean of -log of the probability given to the label, nats.
        calibration: Mean predicted probability over the mean label; 1 is best.
    """
    from seqrec_tf.learning import metrics

    user = np.unique(owners, return_inverse=True)[1]
    order = np.argsort(user, kind="stable")
    labels, scores, user = labels[order], scores[order], user[order]
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    sizes = np.diff(np.r_[starts, len(user)])
    num_liked = np.add.reduceat(labels, starts)
    has_both = are_users & (num_liked > 0) & (num_liked < sizes)
    parts = zip(starts[has_both], sizes[has_both], strict=True)
    own = np.array([metrics.auc(labels[a : a + n], scores[a : a + n]) for a, n in parts])
    probabilities = 1.0 / (1.0 + np.exp(-scores))
    with np.errstate(invalid="ignore"):  # of a score that is NaN
        log_losses = np.logaddexp(0.0, np.where(labels == 1, -scores, scores))

    def figures(count):
        """Of a sample that holds user u `count[u]` times."""
        weight = np.repeat(count, sizes).astype(np.float64)
        values = {"auc": metrics.auc(labels, scores, weight=weight)}
        if has_both.any():
            both = count[has_both] * sizes[has_both]
            values["gauc"] = float(both @ own / both.sum()) if both.sum() else float("nan")
        if are_logits:
            values["logloss"] = float(weight @ log_losses / weight.sum())
            values["calibration"] = (
                float(weight @ probabilities / (weight @ labels)) if weight @ labels else float("nan")
            )
        return values

    return _bootstrap(figures, len(sizes), rng)


def _bootstrap(
    figures: Callable[[np.ndarray], dict[str, float]], num_owners: int, rng: np.random.Generator
) -> dict[str, Interval]:
    """Percentile intervals of figures, of which a sample may have none that is a number.

    Args:
        figures: To the figures by name from int [num_owners], how often a sample holds each owner.
        num_owners: Users or sequences.
        rng: Draws the resamples.
    """
    values = figures(np.ones(num_owners, np.int64))
    shares = np.full(num_owners, 1 / num_owners)
    resampled = [figures(rng.multinomial(num_owners, shares)) for _ in range(_NUM_LIST_RESAMPLES)]
    intervals = {}
    for name, value in values.items():
        finite = [sample[name] for sample in resampled if np.isfinite(sample[name])] or [np.nan]
        intervals[name] = Interval(value, *map(float, np.percentile(finite, [2.5, 97.5])))
    return intervals
