"""Scores of a whole catalogue, block by block: which items, without the excluded, the best of them.

Tensor letters: B batch, V' items of a block, S excluded items of a row, G groups of W items.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import tensorflow as tf

# Items scored at once.
BLOCK = 65_536
# Items whose highest score is looked at before any other of theirs.
_GROUP = 128


def multiply_exactly() -> None:
    """Let GPUs multiply float32 in float32, from now on.

    By default recent ones round to TF32's 10 bits, and so the scores of a whole catalogue, which are a product of
    matrices, but not those of a few candidates: equal items would have different scores.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)


def blocks(num_items: int):
    """First id, and the one after the last, of blocks of items to score at once; all but the last are whole groups."""
    first = 1
    while first <= num_items:
        left = num_items + 1 - first
        width = min(left, BLOCK)
        width = width // _GROUP * _GROUP or width
        yield first, first + width
        first += width


def top_k(scores, k):
    """As `tf.math.top_k`, the earlier of equals first; faster where there is much more than k to look at.

    Scores are looked at in groups: the best k are in the k groups with the highest maxima, and of equal maxima in the
    earlier groups.

    Args:
        scores: float32 [B, V'], V' being known; NaN counts as -inf.
        k: How many.

    Returns:
        scores: float32 [B, k].
        columns: int32 [B, k].
        num_nan: int32 [B].
    """
    width = scores.shape[1]
    is_grouped = width % _GROUP == 0 and width // _GROUP >= 4 * k
    groups = tf.reshape(scores, [-1, width // _GROUP, _GROUP] if is_grouped else [-1, 1, width])
    maxima = tf.reduce_max(groups, axis=2)
    # A maximum is NaN where one of the scores is: two more looks at all scores are hardly ever needed.
    groups, maxima, num_nan = tf.cond(
        tf.reduce_any(tf.math.is_nan(maxima)),
        partial(_without_nan, groups),
        lambda: (groups, maxima, tf.zeros(tf.shape(scores)[:1], tf.int32)),
    )
    if not is_grouped:
        return *tf.math.top_k(groups[:, 0], k), num_nan
    _, chosen = tf.math.top_k(maxima, k, sorted=False)
    chosen = tf.sort(chosen, axis=1)  # so that equal scores stay in the order of their columns
    found, places = tf.math.top_k(tf.reshape(tf.gather(groups, chosen, batch_dims=1), [-1, k * _GROUP]), k)
    return found, tf.gather(chosen, places // _GROUP, batch_dims=1) * _GROUP + places % _GROUP, num_nan


def _without_nan(groups):
    """Scores [B, G, W] with -inf for NaN, their maxima [B, G], and how many NaN there were in each row, [B]."""
    is_nan = tf.math.is_nan(groups)
    groups = tf.where(is_nan, -np.inf, groups)
    return groups, tf.reduce_max(groups, axis=2), tf.reduce_sum(tf.cast(is_nan, tf.int32), axis=[1, 2])


def exclude(scores, excluded, start):
    """Scores of a block of items, -inf where they are excluded.

    Args:
        scores: float32 [B, V'], of the items with ids from `start` on.
        excluded: int32 [B, S]; ids outside the block are ignored.
        start: First id of the block.

    Returns:
        float32 [B, V'].
    """
    rows = tf.broadcast_to(tf.range(tf.shape(excluded)[0])[:, None], tf.shape(excluded))
    # Only there: a mask of all items would cost more than the copy of their scores that this makes.
    return tf.raw_ops.TensorScatterUpdate(
        tensor=scores,
        indices=tf.stack([rows, excluded - start], axis=-1),
        updates=tf.fill(tf.shape(excluded), tf.constant(-np.inf, scores.dtype)),
        bad_indices_policy="IGNORE",
    )


def best_items(score_block, excluded, *, num_items: int, k: int):
    """The items with the highest scores, equal scores by the smaller id.

    Items are scored in blocks, so that memory does not grow with the catalogue.

    Args:
        score_block: A function of the first id of a block and the one after its last, to float32 [B, V'].
        excluded: int32 [B, S], items that take no part; 0 is ignored.
        num_items: Items 1 to this are scored.
        k: How many, at most `num_items`.

    Returns:
        ids: int32 [B, k].
        scores: float32 [B, k], descending; -inf where fewer are left, or NaN was.
        num_nan: int32 [B], items that are not excluded and whose score is NaN.
    """
    best_ids = tf.zeros([tf.shape(excluded)[0], 0], tf.int32)
    best_scores, num_nan = tf.cast(best_ids, tf.float32), tf.zeros(tf.shape(excluded)[:1], tf.int32)
    for start, stop in blocks(num_items):
        scores = tf.ensure_shape(score_block(start, stop), [None, stop - start])
        scores, columns, number = top_k(exclude(scores, excluded, start), min(k, stop - start))
        num_nan += number
        # Blocks come in order of ids, and top_k prefers the earlier of equals.
        scores = tf.concat([best_scores, scores], axis=1)
        ids = tf.concat([best_ids, columns + start], axis=1)
        best_scores, columns = tf.math.top_k(scores, min(k, scores.shape[1]))
        best_ids = tf.gather(ids, columns, batch_dims=1)
    return best_ids, best_scores, num_nan
