"""Rankings of a whole catalogue: the rank of a target, and the best items, by the scores of any model.

A model is whatever has the three members of `Scorer`; all items are scored in blocks, so that memory does not grow with
the catalogue. How a rank treats ties is said in `metrics`.

Tensor letters: B batch, K candidates, V' items of a block, S excluded items of a row, G groups of W items.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from seqrec_tf.learning import metrics
from seqrec_tf.schema import PADDING_ID

# Items scored at once.
BLOCK = 65_536
# Items whose highest score is looked at before any other of theirs.
_GROUP = 128


class Scorer(Protocol):
    """What ranking needs of a model.

    A query is what the model knows of B histories: a tensor or several, whose first dimension is B.

    Attributes:
        num_items: Items have the ids from 1 to this.
    """

    num_items: int

    def score_block(self, query: Any, start: int, stop: int) -> Any:
        """Score the items with ids in [start, stop): float32 [B, stop - start]."""

    def score_candidates(self, query: Any, candidates: Any) -> Any:
        """Score each row's own candidates, int32 [B, K]: float32 [B, K]."""


def multiply_exactly() -> None:
    """Let GPUs multiply float32 in float32, from now on.

    By default recent ones round to TF32's 10 bits, and so the scores of a whole catalogue, which are a product of
    matrices, but not those of a few candidates: equal items would have different scores.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)


def rank_among(model: Scorer, query, target, candidates):
    """Rank each target among its own candidates. Ties count against the target.

    A target with the score 2 among candidates with the scores 3, 2 and 1 has rank 3.

    Args:
        model: Gives the scores.
        query: What the model knows of the histories.
        target: int32 [B].
        candidates: int32 [B, K]; 0 and the target itself do not compete.

    Returns:
        int32 [B], from 1.
    """
    scores = model.score_candidates(query, tf.concat([target[:, None], candidates], axis=1))
    is_rival = (candidates != PADDING_ID) & (candidates != target[:, None])
    num_rivals = tf.reduce_sum(tf.cast(is_rival, tf.int32), axis=1)
    rivals = tf.where(is_rival, scores[:, 1:], -np.inf)
    return 1 + metrics.count_not_below(scores[:, 0], rivals, num_rivals=num_rivals)


def recommend(model: Scorer, query, excluded, *, k: int):
    """List the k items with the highest scores; of equal scores, the smaller id (the more frequent item) comes first.

    Args:
        model: Gives the scores.
        query: What the model knows of the histories.
        excluded: int32 [B, S], items that may not be recommended; 0 is ignored.
        k: Items a row, at most `num_items`.

    Returns:
        ids: int32 [B, k].
        scores: float32 [B, k], descending. Where fewer than k items are left, the last scores are -inf and their ids
            mean nothing.
    """
    return best_items(model, query, excluded, k=k)[:2]


def rank_and_recommend(model: Scorer, query, target, excluded, *, k: int):
    """Rank each target and list the best k items, in one pass over the catalogue. Ties count against the target.

    `rank` is exact from 1 to k. A larger value means only "not in the top k"; it is `metrics.IMPOSSIBLE` where the
    target is excluded.

    Args:
        model: Gives the scores.
        query: What the model knows of the histories.
        target: int32 [B].
        excluded: int32 [B, S], items that may not be recommended; 0 is ignored.
        k: Items a row.

    Returns:
        rank: int32 [B].
        ids: int32 [B, k], as `recommend` gives them.
        scores: float32 [B, k], likewise.
    """
    ids, scores, num_nan = best_items(model, query, excluded, k=min(k + 1, model.num_items))
    # The best k + 1 hold every rival that stands before a target of rank k, and perhaps the target. Items whose score
    # is NaN are not among them, and stand before every target.
    is_target = ids == target[:, None]
    rivals, own = tf.where(is_target, -np.inf, scores), tf.where(is_target, scores, -np.inf)
    # A listed target keeps its score of the list, which is of the same product as its rivals', so that equal items have
    # equal scores.
    listed = tf.reduce_max(own, axis=1)
    target_scores = model.score_candidates(query, target[:, None])[:, 0]
    target_scores = tf.where(listed > -np.inf, listed, target_scores)
    num_rivals = tf.reduce_sum(tf.cast(rivals > -np.inf, tf.int32), axis=1)
    num_nan -= tf.cast(tf.math.is_nan(target_scores), tf.int32)
    before = num_nan + metrics.count_not_below(target_scores, rivals, num_rivals=num_rivals)
    # A target that is not listed is behind all that are, even where its score, of another product, rounds up.
    is_behind = (listed == -np.inf) & ~tf.math.is_nan(target_scores)
    before = tf.where(is_behind, tf.maximum(before, min(k, model.num_items - 1)), before)
    is_excluded = tf.reduce_any(excluded == target[:, None], axis=1)
    return tf.where(is_excluded, metrics.IMPOSSIBLE, before + 1), ids[:, :k], scores[:, :k]


def best_items(model: Scorer, query, excluded, *, k: int):
    """List the k items with the highest scores, and count those that have none.

    Args:
        model: Gives the scores.
        query: What the model knows of the histories.
        excluded: int32 [B, S], items that take no part; 0 is ignored.
        k: Items a row, at most `num_items`.

    Returns:
        ids: int32 [B, k], of equal scores the smaller id first.
        scores: float32 [B, k], descending; -inf where fewer items are left, or the score is NaN.
        num_nan: int32 [B], items that are not excluded and whose score is NaN.
    """
    best_ids = best_scores = num_nan = None
    for start, stop in blocks(model.num_items):
        scores = tf.ensure_shape(model.score_block(query, start, stop), [None, stop - start])
        scores, columns, number = top_k(exclude(scores, excluded, start), min(k, stop - start))
        ids = columns + start
        if best_ids is None:
            best_ids, best_scores, num_nan = ids, scores, number
            continue
        num_nan += number
        # Blocks come in order of ids, and top_k prefers the earlier of equals.
        scores, ids = tf.concat([best_scores, scores], axis=1), tf.concat([best_ids, ids], axis=1)
        best_scores, columns = tf.math.top_k(scores, min(k, scores.shape[1]))
        best_ids = tf.gather(ids, columns, batch_dims=1)
    return best_ids, best_scores, num_nan


def blocks(num_items: int):
    """Cut the ids 1 to `num_items` into blocks to score at once; all but the last are whole groups.

    Args:
        num_items: Items of the catalogue; 200,000 gives (1, 65_537), (65_537, 131_073), (131_073, 196_609), ...

    Yields:
        start, stop: The first id of a block, and the one after its last.
    """
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
        k: Scores a row.

    Returns:
        scores: float32 [B, k].
        columns: int32 [B, k].
        num_nan: int32 [B], scores that are NaN.
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
    """Give the excluded items of a block the score -inf.

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
