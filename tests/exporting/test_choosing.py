"""The items that an answer lists, against slow loops over whole rankings."""

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.exporting import choosing
from seqrec_tf.exporting.choosing import Allowed, Limit
from seqrec_tf.exporting.golden import greedy
from seqrec_tf.learning import ranking

NUM_ITEMS, ROWS = 300, 4


class Table:
    """Scores by id and row; few values, so that many are equal."""

    num_items = NUM_ITEMS

    def __init__(self, scores, *, scores_one_by_one=False):
        self.scores = scores  # [B, V], column 0 is padding
        self.scores_one_by_one = scores_one_by_one

    def score_block(self, query, start, stop):
        return tf.gather(self.scores, query)[:, start:stop]

    def score_candidates(self, query, candidates):
        return tf.gather(tf.gather(self.scores, query), candidates, batch_dims=1)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def scores(rng):
    scores = rng.integers(0, 40, size=[ROWS, NUM_ITEMS + 1]).astype(np.float32)
    scores[1, 17] = np.nan
    return scores


def choose(scores, *, k, excluded=None, allowed=None, limits=(), one_by_one=False, **options):
    """The lists, as a graph makes them."""
    scorer = Table(tf.constant(scores), scores_one_by_one=one_by_one)
    excluded = np.zeros([ROWS, 0], np.int32) if excluded is None else excluded

    @tf.function
    def ask(excluded):
        return choosing.choose(
            scorer, tf.range(ROWS), excluded=excluded, k=k, allowed=allowed, limits=limits, **options
        )

    ids, found = ask(tf.constant(excluded, tf.int32))
    return ids.numpy(), found.numpy()


def slow(scores, *, k, excluded=(), allowed=None, is_banned=None, limits=()):
    """The list of one row: all items in order, and then one after the other."""
    may_be = [
        item
        for item in range(1, len(scores))
        if item not in set(excluded)
        and (allowed is None or item in set(allowed))
        and not (is_banned is not None and is_banned[item])
        and np.isfinite(scores[item])
    ]
    ranked = np.array(sorted(may_be, key=lambda item: (-scores[item], item)), np.int64)
    ids = ranked[greedy(ranked, [(limit.categories, limit.most) for limit in limits])[:k]].tolist()
    return ids + [0] * (k - len(ids))


def check(ids, found, scores, expected):
    assert ids.tolist() == expected
    there = ids > 0
    np.testing.assert_array_equal(found[there], np.take_along_axis(scores, ids, axis=1)[there])
    assert np.all(found[~there] == -np.inf)


def test_excluded_items_are_not_listed(scores, rng):
    k = 12
    excluded = rng.integers(0, NUM_ITEMS + 1, size=[ROWS, 200])
    ids, found = choose(scores, k=k, excluded=excluded)
    check(ids, found, scores, [slow(scores[row], k=k, excluded=excluded[row]) for row in range(ROWS)])


@pytest.mark.parametrize("block", [ranking.BLOCK, 0], ids=["few", "many"])
@pytest.mark.parametrize("restricted", [(True,) * 4, (True, False, True, False)], ids=str)
def test_allowed_items_are_listed_alone_in_the_rows_that_have_them(scores, rng, monkeypatch, restricted, block):
    """By gathering few of them, and by marking many among all."""
    monkeypatch.setattr(choosing, "_FEW", block)
    items = rng.integers(0, NUM_ITEMS + 1, size=[ROWS, 25]).astype(np.int32)
    items[:, 3] = items[:, 4]  # twice
    items[0, 5:] = 0  # fewer than are wanted
    items[1, 6] = 17  # whose score is NaN
    excluded = np.concatenate([items[:, :2], rng.integers(0, NUM_ITEMS, size=[ROWS, 30])], axis=1)
    allowed = Allowed(tf.constant(items), tf.constant(restricted))
    ids, found = choose(scores, k=10, excluded=excluded, allowed=allowed)
    expected = [
        slow(scores[row], k=10, excluded=excluded[row], allowed=items[row] if restricted[row] else None)
        for row in range(ROWS)
    ]
    check(ids, found, scores, expected)
    assert 0 in ids[0] or not restricted[0]


def test_a_row_that_allows_only_what_nobody_knows_lists_nothing(scores):
    allowed = Allowed(tf.zeros([ROWS, 2], tf.int32), tf.constant([True, False, True, True]))
    ids, _ = choose(scores, k=3, allowed=allowed)
    assert ids[[0, 2, 3]].tolist() == [[0, 0, 0]] * 3
    assert ids[1].tolist() == slow(scores[1], k=3)


def test_no_columns_at_all_allow_everything(scores):
    allowed = Allowed(tf.zeros([ROWS, 0], tf.int32), tf.zeros([ROWS], tf.bool))
    ids, found = choose(scores, k=3, allowed=allowed)
    check(ids, found, scores, [slow(row, k=3) for row in scores])


def limits_of(rng, kind):
    one = rng.integers(0, 9, size=[NUM_ITEMS + 1, 1]).astype(np.int32)
    several = np.stack([rng.permutation(6)[:3] for _ in range(NUM_ITEMS + 1)]).astype(np.int32)
    same = np.ones([NUM_ITEMS + 1, 1], np.int32)
    same[-4:] = 2
    for categories in (one, several, same):
        categories[0] = 0
    return {
        "one column": (Limit(one, 9, 2),),
        "two columns": (Limit(several, 6, 3), Limit(one, 9, 1)),
        "nearly all alike": (Limit(same, 3, 3),),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "with_request"), [("one column", True), ("two columns", True), ("nearly all alike", False)]
)
def test_a_category_fills_up_as_in_the_greedy_pass(scores, rng, kind, with_request):
    limits, k = limits_of(rng, kind), 12
    is_banned = rng.random(NUM_ITEMS + 1) < 0.2
    excluded = rng.integers(0, NUM_ITEMS + 1, size=[ROWS, 20])
    items = rng.integers(0, NUM_ITEMS + 1, size=[ROWS, 60]).astype(np.int32)
    restricted = [True, False, True, False]
    ids, found = choose(
        scores,
        k=k,
        excluded=excluded,
        allowed=Allowed(tf.constant(items), tf.constant(restricted)) if with_request else None,
        is_banned=tf.constant(is_banned),
        limits=tuple(Limit(tf.constant(limit.categories), limit.num_categories, limit.most) for limit in limits),
    )
    expected = [
        slow(
            scores[row],
            k=k,
            excluded=excluded[row],
            allowed=items[row] if with_request and restricted[row] else None,
            is_banned=is_banned,
            limits=limits,
        )
        for row in range(ROWS)
    ]
    check(ids, found, scores, expected)


def test_the_slow_pass_is_right_by_eye():
    """Of a a b a b with two of a kind, a a b b are taken."""
    categories = np.array([[0], [1], [1], [2], [1], [2]])
    assert greedy(np.array([1, 2, 3, 4, 5]), [(categories, 2)]) == [0, 1, 2, 4]
    assert greedy(np.array([1, 2, 3, 4, 5]), [(categories, 1)]) == [0, 2]
