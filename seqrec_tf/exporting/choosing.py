"""The items that an answer lists: the best of those that may be shown, by the rules of the export and of the request.

What may be shown:
  - nothing that is excluded: what the history holds, the request's `exclude`, categories that the export excluded;
  - of a row that has an `allow`, its items alone;
  - of each category at most so many, by the greedy pass over the ranked list: an item is listed unless its category is
    full of better ones.

All of it is exact. The ranking is read in parts, each of all items that are left, until every row has its items.

Tensor letters: B batch, K candidates, A allowed items of a row, S excluded items of a row, N items of a part of the
ranking, M items of a list, V' items of a block, C categories of a column, W categories of an item.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from seqrec_tf.learning import ranking
from seqrec_tf.schema import PADDING_ID

if TYPE_CHECKING:
    from seqrec_tf.exporting.stage import Stage

# Allowed items of a batch that are gathered, and not looked for among all.
_FEW = ranking.BLOCK


@dataclasses.dataclass(frozen=True)
class Limit:
    """At most so many items of one category.

    Attributes:
        categories: int32 [V, W], of each item by its id; 0 is none. Row 0 is empty.
        num_categories: C, of which 0 is none.
        most: Items of one category in a list.
    """

    categories: Any
    num_categories: int
    most: int


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What a request allows.

    Attributes:
        items: int32 [B, A]; 0 is ignored.
        is_restricted: bool [B], whether these alone may be shown; else all items.
    """

    items: Any
    is_restricted: Any


class Shown:
    """A scorer whose scores are -inf where a rule forbids an item.

    Its query is the inner scorer's and, for each limit, which categories are full: bool [B, C].

    Args:
        scorer: The inner scorer.
        is_banned: bool [V], of each item by its id; None where none is.
        limits: The limits.
        allowed: What the request allows; None where that is everything.
        is_marked: bool scalar, whether `score_block` minds it.
    """

    def __init__(
        self,
        scorer: Stage,
        *,
        is_banned=None,
        limits: tuple[Limit, ...] = (),
        allowed: Allowed | None = None,
        is_marked=None,
    ):
        self.num_items = scorer.num_items
        self._scorer = scorer
        self._is_banned = is_banned
        self._limits = limits
        self._allowed = allowed
        self._is_marked = is_marked

    def score_block(self, query, start, stop):
        """Score the items with ids in [start, stop): float32 [B, stop - start]."""
        known, full = query
        scores = tf.ensure_shape(self._scorer.score_block(known, start, stop), [None, stop - start])
        if self._is_banned is not None:
            scores = tf.where(self._is_banned[start:stop], -np.inf, scores)
        if (allowed := self._allowed) is not None:
            scores = tf.cond(self._is_marked, lambda: _allowed_alone(scores, start, allowed), lambda: scores)
        for limit, is_full in zip(self._limits, full, strict=True):
            scores = tf.cond(
                tf.reduce_any(is_full),
                lambda scores=scores, limit=limit, is_full=is_full: tf.where(
                    tf.reduce_any(tf.gather(is_full, limit.categories[start:stop], axis=1), axis=2), -np.inf, scores
                ),
                lambda scores=scores: scores,
            )
        return scores

    def score_candidates(self, query, candidates):
        """Score each row's own candidates, int32 [B, K]: float32 [B, K]; -inf for 0, which is none."""
        known, full = query
        scores = self._scorer.score_candidates(known, tf.maximum(candidates, 1))
        is_hidden = candidates == PADDING_ID
        if self._is_banned is not None:
            is_hidden |= tf.gather(self._is_banned, candidates)
        for limit, is_full in zip(self._limits, full, strict=True):
            categories = tf.gather(limit.categories, candidates)  # [B, K, W]
            is_hidden |= tf.reduce_any(tf.gather(is_full, categories, batch_dims=1), axis=2)
        return tf.where(is_hidden, -np.inf, scores)


def choose(scorer: Stage, query, *, excluded, k: int, allowed=None, is_banned=None, limits: tuple[Limit, ...] = ()):
    """List the best k items of each row that may be shown.

    Args:
        scorer: Gives the scores.
        query: What it knows of the rows.
        excluded: int32 [B, S], items that are not shown; 0 is ignored.
        k: Items a row.
        allowed: What the request allows, an `Allowed`; None where that is everything.
        is_banned: bool [V], of each item by its id, whether it is never shown; None where all are.
        limits: How many items of a category a list may hold.

    Returns:
        ids: int32 [B, k], of equal scores the smaller id first; 0 where fewer may be shown.
        scores: float32 [B, k], descending; -inf there.
    """

    def best(full, excluded, number):
        return _best(scorer, (query, full), excluded, allowed, is_banned, limits, number)

    if not limits:
        return best((), excluded, k)
    return _within_limits(best, excluded, k, limits, scorer.num_items)


def first_within(ids, scores, limits: tuple[Limit, ...], k: int):
    """The first k items of ranked lists, int32 and float32 [B, M], that limits let through, as `choose` gives them."""
    if not limits:
        return ids[:, :k], scores[:, :k]
    takes = take_within(ids, limits)
    order = tf.argsort(tf.cast(~takes, tf.int32), axis=1, stable=True)[:, :k]
    is_taken = tf.gather(takes, order, batch_dims=1)
    ids = tf.where(is_taken, tf.gather(ids, order, batch_dims=1), PADDING_ID)
    return ids, tf.where(is_taken, tf.gather(scores, order, batch_dims=1), -np.inf)


def arrange(scores, candidates, number: int):
    """List candidates by their scores, those of equal scores in the order that they have.

    Args:
        scores: float32 [B, K]; -inf and NaN where a candidate does not count.
        candidates: int32 [B, K].
        number: Candidates to list.

    Returns:
        ids: int32 [B, number], 0 where fewer count.
        scores: float32 [B, number], descending; -inf there.
    """
    missing = [[0, 0], [0, tf.maximum(number - tf.shape(candidates)[1], 0)]]
    scores = tf.pad(tf.where(tf.math.is_nan(scores), -np.inf, scores), missing, constant_values=-np.inf)
    scores, columns = tf.math.top_k(scores, number)
    ids = tf.gather(tf.pad(candidates, missing), columns, batch_dims=1)
    return tf.where(tf.math.is_finite(scores), ids, PADDING_ID), scores


def take_within(ids, limits: tuple[Limit, ...]):
    """Which items of ranked lists the greedy pass takes: bool [B, M].

    An item is taken if fewer than `most` taken ones before it are of one of its categories. What is decided of the
    first items decides of those after them, so to decide of all by the last decision, until nothing changes, is the
    same as to go through them one by one; hardly ever are there more than a few turns.

    Args:
        ids: int32 [B, M], best first; 0 is never taken.
        limits: The limits.
    """
    is_item = ids != PADDING_ID
    length = tf.shape(ids)[1]
    is_before = tf.range(length)[None, :] < tf.range(length)[:, None]  # [M, M], of the second and the first
    shared = []
    for limit in limits:
        categories = tf.gather(limit.categories, ids)  # [B, M, W]
        is_same = categories[:, :, None, :, None] == categories[:, None, :, None, :]  # [B, M, M, W, W]
        is_shared = tf.reduce_any(is_same, axis=4) & (categories != PADDING_ID)[:, :, None]  # [B, M, M, W]
        shared.append(tf.cast(is_shared & is_before[..., None], tf.int32))

    def decide(takes, _):
        counted = tf.cast(takes, tf.int32)[:, None, :, None]
        decided = is_item
        for limit, of_pairs in zip(limits, shared, strict=True):
            before = tf.reduce_sum(of_pairs * counted, axis=2)  # [B, M, W], taken ones of each category
            decided &= tf.reduce_all(before < limit.most, axis=2)
        return decided, tf.reduce_any(decided != takes)

    return tf.while_loop(lambda _, changes: changes, decide, [is_item, tf.constant(True)])[0]


def _best(scorer, query, excluded, allowed: Allowed | None, is_banned, limits, number):
    """The best items of those that may be shown, limits set aside but for categories that are full."""
    if allowed is None:
        return _ranked(Shown(scorer, is_banned=is_banned, limits=limits), query, excluded, number)
    rows, width = tf.unstack(tf.shape(allowed.items))
    # A few are gathered; many are looked for among all, unless that is what takes long.
    are_few = tf.constant(True) if scorer.scores_one_by_one else rows * width <= _FEW
    shown = Shown(scorer, is_banned=is_banned, limits=limits, allowed=allowed, is_marked=~are_few)

    def nothing():
        return tf.zeros([rows, number], tf.int32), tf.fill([rows, number], -np.inf)

    # Each once in the graph, as a request pays for what it does not use too.
    few = tf.cond(
        are_few & tf.reduce_any(allowed.is_restricted),
        lambda: _best_of_few(shown, query, excluded, allowed.items, number),
        nothing,
    )
    others = tf.cond(
        are_few & tf.reduce_all(allowed.is_restricted), nothing, lambda: _ranked(shown, query, excluded, number)
    )
    is_of_few = (allowed.is_restricted & are_few)[:, None]
    return tuple(tf.where(is_of_few, ours, theirs) for ours, theirs in zip(few, others, strict=True))


def _ranked(scorer, query, excluded, number):
    """As `ranking.recommend`, with the id 0 where nothing is left."""
    ids, scores = ranking.recommend(scorer, query, excluded, k=number)
    return tf.where(tf.math.is_finite(scores), ids, PADDING_ID), scores


def _allowed_alone(scores, start, allowed: Allowed):
    """Give others than the allowed items of a block, float32 [B, V'], the score -inf in rows that are restricted."""
    items = allowed.items - start
    rows = tf.broadcast_to(tf.range(tf.shape(items)[0])[:, None], tf.shape(items))
    is_inside = (items >= 0) & (items < scores.shape[1])
    columns = tf.clip_by_value(items, 0, scores.shape[1] - 1)
    kept = tf.raw_ops.TensorScatterUpdate(
        tensor=tf.fill(tf.shape(scores), tf.constant(-np.inf, scores.dtype)),
        indices=tf.stack([rows, tf.where(is_inside, columns, -1)], axis=-1),
        updates=tf.gather(scores, columns, batch_dims=1),
        bad_indices_policy="IGNORE",
    )
    return tf.where(allowed.is_restricted[:, None], kept, scores)


def _best_of_few(scorer, query, excluded, items, number):
    """The best of each row's own items, int32 [B, A], in any order, perhaps repeated."""
    items = tf.sort(items, axis=1)
    is_again = tf.pad(items[:, 1:] == items[:, :-1], [[0, 0], [1, 0]])[:, : tf.shape(items)[1]]
    ordered = tf.pad(tf.sort(excluded, axis=1), [[0, 0], [0, 1]], constant_values=np.iinfo(np.int32).max)  # [B, S + 1]
    is_excluded = tf.gather(ordered, tf.searchsorted(ordered, items), batch_dims=1) == items
    scores = scorer.score_candidates(query, items)
    return arrange(tf.where(is_again | is_excluded, -np.inf, scores), items, number)


def _within_limits(best, excluded, k: int, limits: tuple[Limit, ...], num_items: int):
    """Go through the ranking part by part, until each row has k items or there are no more."""
    rows, number = tf.shape(excluded)[0], min(2 * k + 16, num_items)

    def is_unfinished(_ids, _scores, _excluded, is_whole, _full):
        return ~tf.reduce_all(is_whole)

    def turn(ids, scores, excluded, _, full):
        new_ids, new_scores = best(full, excluded, number)
        ids, scores = tf.concat([ids, new_ids], axis=1), tf.concat([scores, new_scores], axis=1)
        ids, scores = first_within(ids, scores, limits, k)
        is_whole = (ids[:, -1] != PADDING_ID) | (new_ids[:, -1] == PADDING_ID)
        full = tuple(_full(ids, limit) for limit in limits)
        return ids, scores, tf.concat([excluded, new_ids], axis=1), is_whole, full

    of_lists, of_rows = tf.TensorShape([None, k]), tf.TensorShape([None])
    ids, scores, *_ = tf.while_loop(
        is_unfinished,
        turn,
        (
            tf.zeros([rows, k], tf.int32),
            tf.fill([rows, k], -np.inf),
            excluded,
            tf.zeros([rows], tf.bool),
            tuple(tf.zeros([rows, limit.num_categories], tf.bool) for limit in limits),
        ),
        shape_invariants=(
            of_lists,
            of_lists,
            tf.TensorShape([None, None]),
            of_rows,
            tuple(tf.TensorShape([None, limit.num_categories]) for limit in limits),
        ),
    )
    return ids, scores


def _full(ids, limit: Limit):
    """Which categories hold as many of the items as they may: bool [B, C]."""
    categories = tf.gather(limit.categories, ids)  # [B, k, W]
    shape = [tf.shape(ids)[0], limit.num_categories]
    rows = tf.broadcast_to(tf.range(shape[0])[:, None, None], tf.shape(categories))
    counts = tf.scatter_nd(tf.stack([rows, categories], axis=-1), tf.ones_like(categories), shape)
    return (counts >= limit.most) & (tf.range(limit.num_categories) != PADDING_ID)
