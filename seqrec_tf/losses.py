"""Losses of next-item prediction, as pure functions of logits.

Every function takes logits of N targets (padding already gone), returns one value a target, and leaves the mean to the
model, which knows how many targets the whole batch has over all replicas.
"""

from __future__ import annotations

import tensorflow as tf


def binary_cross_entropy(positive, negatives):
    """Binary cross-entropy of one positive and K sampled negatives (SASRec, Section III-D, eq. 7, for K = 1).

    loss = -1 / (K + 1) * (log sigmoid(positive) + sum_k log(1 - sigmoid(negatives_k)))

    Args:
        positive: float32 [N], logits of the true items.
        negatives: float32 [N, K], logits of items that were not chosen.

    Returns:
        float32 [N], nats.
    """
    num_terms = tf.cast(tf.shape(negatives)[1] + 1, positive.dtype)
    return (tf.nn.softplus(-positive) + tf.reduce_sum(tf.nn.softplus(negatives), axis=1)) / num_terms


def cross_entropy(logits, targets):
    """Cross-entropy of the true item among all items.

    loss = -log softmax(logits)[target]

    Args:
        logits: float32 [N, V], unnormalised scores of every candidate.
        targets: int32 [N], column of the true item, in [0, V).

    Returns:
        float32 [N], nats.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
