"""Negative samplers: which items stand for "not chosen" in a sampled loss.

They run inside the training step, on the device, from a seed that the model keeps: drawn anew at every step, the same
for the same seed, and restored with a checkpoint.

Tensor letters: B batch, L length, K negatives a position.
"""

from __future__ import annotations

import tensorflow as tf

# Between the seeds of neighbouring replicas, which count up by 1 a draw.
_BETWEEN_REPLICAS = 1_000_003


def uniform_negatives(excluded, *, num_items, shape, seed):
    """Items drawn uniformly from those not in the row's `excluded`, with replacement.

    Exact and without rejection: with the m distinct excluded ids of a row sorted as e_0 < e_1 < ..., a draw r from
    [1, num_items - m] stands for the r-th item that is not excluded, which is r + #{j : e_j - j <= r}.

    Args:
        excluded: int [B, S], ids a row must not draw; those that are no item, such as padding and masks, are ignored,
            repeats are fine.
        num_items: Size of the vocabulary; ids are in [1, num_items].
        shape: int vector, the shape of the draw, of any rank; its first dimension is B.
        seed: int32 [2], of the stateless generator.

    Returns:
        int32 of shape `shape`. A row that excludes every item draws from all of them.
    """
    excluded = tf.sort(tf.cast(excluded, tf.int32), axis=1)
    is_repeat = tf.concat([tf.zeros_like(excluded[:, :1], tf.bool), excluded[:, 1:] == excluded[:, :-1]], axis=1)
    is_ignored = is_repeat | (excluded <= 0) | (excluded > num_items)
    # What is ignored moves behind every real id, where no draw reaches it.
    beyond = tf.int32.max
    excluded = tf.sort(tf.where(is_ignored, beyond, excluded), axis=1)
    num_excluded = tf.reduce_sum(tf.cast(~is_ignored, tf.int32), axis=1)  # [B]
    num_free = num_items - num_excluded
    all_excluded = num_free <= 0
    num_free = tf.where(all_excluded, num_items, num_free)
    excluded = tf.where(all_excluded[:, None], beyond, excluded)
    ranks = tf.range(tf.shape(excluded)[1])
    free_before = tf.where(excluded == beyond, beyond, excluded - ranks)  # ascending: free items up to e_j, plus one

    batch = shape[0]
    # 62 random bits modulo at most 2^31: the bias is below 2^-31.
    bits = tf.random.stateless_uniform(shape, seed, minval=0, maxval=1 << 62, dtype=tf.int64)
    bits = tf.reshape(bits, [batch, -1])
    draw = tf.cast(bits % tf.cast(num_free, tf.int64)[:, None], tf.int32) + 1
    skipped = tf.searchsorted(free_before, draw, side="right")
    return tf.reshape(draw + skipped, shape)


def next_seed(generator):
    """The next seed of a `keras.random.SeedGenerator`, int32 [2]: another one on each replica of a strategy.

    The generators of replicas are equal copies, which would give them all the same negatives and the same dropout.
    """
    seed = tf.cast(generator.next(), tf.int32)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    return seed + tf.stack([tf.cast(context.replica_id_in_sync_group, tf.int32) * _BETWEEN_REPLICAS, 0])


def popularity_negatives(cumulative, *, shape, seed):
    """Items drawn by their weights, with replacement.

    Args:
        cumulative: float64 [num_items], running sum of the weights of ids 1..num_items; its last value is their sum.
        shape: int vector, the shape of the draw.
        seed: int32 [2], of the stateless generator.

    Returns:
        int32 of shape `shape`, ids in [1, num_items].
    """
    draw = tf.random.stateless_uniform(shape, seed, dtype=tf.float64) * cumulative[-1]
    ids = tf.searchsorted(cumulative, tf.reshape(draw, [-1]), side="right") + 1
    return tf.reshape(tf.minimum(ids, tf.size(cumulative)), shape)
