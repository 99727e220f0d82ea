"""Ranking metrics, all functions of the rank of the one true item among its candidates.

The rank is pessimistic: a candidate whose score is not *clearly below* the target's stands before it. So ties, scores
that are NaN, and models that give every item the same score count against the model.

Tensor letters: B batch, C candidates.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# Scores of equal vectors may differ in the last bits when different kernels compute them; within this relative
# distance two scores are a tie.
TIE_TOLERANCE = 1e-6

# The rank of a target that may not be recommended: beyond every cut-off, however few items there are.
IMPOSSIBLE = 2**31 - 1


def count_not_below(target_scores, scores, *, num_rivals):
    """How many rivals the target does not clearly beat; its rank is this plus one.

    Args:
        target_scores: float32 [B], of the true items.
        scores: float32 [B, C], of the candidates; -inf where one does not compete.
        num_rivals: int32 [B], how many compete.

    Returns:
        int32 [B].
    """
    threshold = target_scores - TIE_TOLERANCE * tf.abs(target_scores)
    # Counted by a difference: TensorFlow's graph optimizer rewrites not(a < b) to a >= b, which is False for NaN.
    num_below = tf.reduce_sum(tf.cast(scores < threshold[:, None], tf.int32), axis=1)
    # What does not compete is below every finite threshold.
    return tf.where(tf.math.is_finite(threshold), tf.shape(scores)[1] - num_below, num_rivals)


def hit_rate(rank, k):
    """HR@k of one target: 1 where its rank is at most k. Equal to Recall@k, as there is one target.

    Args:
        rank: int [B], 1 is best.
        k: Cut-off.

    Returns:
        float32 [B].
    """
    return tf.cast(rank <= k, tf.float32)


def ndcg(rank, k):
    """NDCG@k of one target: 1 / log2(rank + 1) where its rank is at most k, else 0.

    Args and returns are those of `hit_rate`.
    """
    gain = tf.math.log(2.0) / tf.math.log(tf.cast(rank, tf.float32) + 1.0)
    return tf.where(rank <= k, gain, 0.0)


def reciprocal_rank(rank, k):
    """MRR@k of one target: 1 / rank where its rank is at most k, else 0.

    Args and returns are those of `hit_rate`.
    """
    return tf.where(rank <= k, 1.0 / tf.cast(rank, tf.float32), 0.0)


# What is told of ranks, by the name that figures have: "ndcg@10". A new metric is a function here and its name.
OF_RANKS = {"hr": hit_rate, "ndcg": ndcg, "mrr": reciprocal_rank}


def auc(labels, scores, *, weight=None) -> float:
    """Area under the ROC curve, exactly: the probability that a positive scores above a negative, ties counting half.

    Args:
        labels: int [N], 1 or 0.
        scores: float [N].
        weight: float [N], how often each event counts; once where None.

    Returns:
        The area; NaN where the events that count have one label alone, or a score is NaN.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    weight = np.ones(len(labels)) if weight is None else np.asarray(weight, np.float64)
    if np.isnan(scores).any():
        return float("nan")
    _, level = np.unique(scores, return_inverse=True)
    positive, negative = (np.bincount(level, weight * (labels == label)) for label in (1, 0))
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / pairs) if pairs else float("nan")
