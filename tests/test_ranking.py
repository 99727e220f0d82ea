"""Ranks and recommendations of scores that are written in the test, against slow code."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import models
from seqrec_tf.learning import metrics, ranking
from seqrec_tf.learning.ranking import blocks, exclude, rank_among, rank_and_recommend, recommend, top_k
from seqrec_tf.schema import Schema

NAN = float("nan")

# In a graph, TensorFlow rewrites expressions in ways that are wrong for NaN.
in_both_modes = pytest.mark.parametrize("wrap", [lambda function: function, tf.function], ids=["eager", "graph"])


@dataclasses.dataclass
class Given:
    """No more of a model than ranking needs; the query is the row of scores: float32 [B, V], column 0 is padding."""

    num_items: int

    def score_block(self, query, start, stop):
        return query[:, start:stop]

    def score_candidates(self, query, candidates):
        return tf.gather(query, candidates, batch_dims=1)


def scores(*rows):
    """Scores of items 1, 2, ... as a query."""
    return tf.constant([[99.0, *row] for row in rows])


def excluded(*rows):
    return tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1).to_tensor()


def slow_rank(row, target, out):
    """Rank of a target among the items of a query's row, ties and NaN against it."""
    if target in out:
        return metrics.IMPOSSIBLE
    rivals = [item for item in range(1, len(row)) if item != target and item not in out]
    return 1 + sum(not row[item] < row[target] for item in rivals)


def slow_recommendation(row, out, k):
    """Items by score, equal ones by id, without the excluded and those without a score."""
    items = [item for item in range(1, len(row)) if item not in out and not math.isnan(row[item])]
    return sorted(items, key=lambda item: (-row[item], item))[:k]


def rank_of(model, query, target, out):
    """Ranks among all items, int32 [B]."""
    return rank_and_recommend(model, query, target, out, k=model.num_items)[0]


def random_case(num_items):
    """Scores with many ties and a few NaN, targets and excluded items of 20 rows."""
    random = np.random.default_rng(num_items)
    query = random.integers(-2, 3, size=(20, num_items + 1)).astype(np.float32)
    query[random.random(query.shape) < 0.1] = np.nan
    target = random.integers(1, num_items + 1, size=20).astype(np.int32)
    out = random.integers(0, num_items + 1, size=(20, 4)).astype(np.int32)
    return query, target, out


@pytest.fixture(params=[2, 3, 7, 65_536])
def block(request, monkeypatch):
    """Sizes of a ranking block: several, with and without a rest, and one for all."""
    monkeypatch.setattr(ranking, "BLOCK", request.param)


@in_both_modes
def test_ranks_among_candidates_equal_a_slow_loop(wrap):
    query, target, _ = random_case(11)
    candidates = np.random.default_rng(1).integers(0, 12, size=(20, 6)).astype(np.int32)
    expected = []
    for row, own in enumerate(target):
        rivals = [item for item in candidates[row] if item not in (0, own)]
        expected.append(1 + sum(not query[row, item] < query[row, own] for item in rivals))
    model = Given(11)
    rank = wrap(lambda *inputs: rank_among(model, *inputs))(*map(tf.constant, (query, target, candidates)))
    np.testing.assert_array_equal(rank, expected)


@pytest.mark.usefixtures("block")
@in_both_modes
def test_recommendations_equal_a_slow_sort(wrap):
    query, _, out = random_case(11)
    model = Given(11)
    ids, values = wrap(lambda query, out: recommend(model, query, out, k=5))(tf.constant(query), tf.constant(out))
    for row in range(20):
        expected = slow_recommendation(query[row], out[row], 5)
        there = np.isfinite(values[row])
        assert ids.numpy()[row][there].tolist() == expected
        assert values.numpy()[row][there].tolist() == [query[row, item] for item in expected]


def test_the_rank_counts_higher_scores_of_items_that_are_not_excluded():
    twice = scores([5, 4, 3, 2, 1], [5, 4, 3, 2, 1])
    rank = rank_of(Given(5), twice, tf.constant([3, 3]), excluded([], [1]))
    assert rank.numpy().tolist() == [3, 2]


def test_a_target_that_is_excluded_ranks_behind_all_items():
    rank = rank_of(Given(5), scores([5, 4, 3, 2, 1]), tf.constant([1]), excluded([2, 1]))
    assert rank.numpy().tolist() == [metrics.IMPOSSIBLE]


def test_a_constant_score_ranks_the_target_last():
    rank = rank_of(Given(5), scores([0, 0, 0, 0, 0]), tf.constant([1]), excluded([]))
    assert rank.numpy().tolist() == [5]


def test_a_target_that_the_list_lacks_is_none_of_the_best():
    """Though all items are alike, and its own score, of another product than theirs, rounds up."""
    model = models.SASRec(models.SASRec.config_class(dim=48), Schema(200))
    model.items.embeddings.assign(np.repeat(np.random.default_rng(0).normal(size=[1, 48]), 201, axis=0))
    query = tf.constant(np.random.default_rng(1).normal(size=[500, 48]), tf.float32)
    target, nothing = tf.fill([500], 200), tf.zeros([500, 0], tf.int32)
    rank, ids, _ = rank_and_recommend(model, query, target, nothing, k=20)
    assert not (ids == 200).numpy().any()
    assert rank.numpy().min() == 21


def test_the_rank_among_candidates_leaves_out_padding_and_the_target():
    query = scores([5, 4, 3, 2, 1], [5, 4, 3, 2, 1], [1, 1, 1, 1, 1])
    candidates = tf.constant([[1, 4, 0, 5], [3, 3, 0, 0], [3, 4, 5, 0]])
    rank = rank_among(Given(5), query, tf.constant([3, 3, 1]), candidates)
    assert rank.numpy().tolist() == [2, 1, 4]


def test_equal_scores_are_recommended_by_id_across_blocks(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", 2)
    ids, _ = recommend(Given(7), scores([1, 2, 2, 1, 2, 1, 2]), excluded([]), k=6)
    assert ids.numpy().tolist() == [[2, 3, 5, 7, 1, 4]]


def test_items_without_a_score_are_not_recommended():
    ids, values = recommend(Given(4), scores([NAN, 1, NAN, 2]), excluded([]), k=2)
    assert ids.numpy().tolist() == [[4, 2]]
    assert values.numpy().tolist() == [[2, 1]]


@pytest.mark.usefixtures("block")
def test_where_too_few_items_are_left_the_score_is_minus_infinity():
    ids, values = recommend(Given(5), scores([1, 2, 3, 4, 5]), excluded([5, 3, 2, 3]), k=4)
    assert ids.shape == [1, 4]
    assert ids.numpy()[0, :2].tolist() == [4, 1]
    assert values.numpy().tolist() == [[4, 1, -math.inf, -math.inf]]


def test_recommending_works_in_a_graph_with_unknown_shapes():
    model = Given(5)

    @tf.function(input_signature=[tf.TensorSpec([None, 6]), tf.TensorSpec([None, None], tf.int32)])
    def best_two(query, out):
        return recommend(model, query, out, k=2)

    ids, values = best_two(scores([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]), excluded([5], [2]))
    assert ids.numpy().tolist() == [[4, 3], [1, 3]]
    assert values.numpy().tolist() == [[4, 3], [5, 3]]


@pytest.mark.usefixtures("block")
@in_both_modes
@pytest.mark.parametrize("k", [1, 3, 5, 10, 11])
def test_one_pass_ranks_and_recommends_as_two(wrap, k):
    case = random_case(11)
    expected = np.array([slow_rank(*of_row) for of_row in zip(*case, strict=True)])
    query, target, out = map(tf.constant, case)
    model = Given(11)
    rank, ids, values = wrap(lambda *inputs: rank_and_recommend(model, *inputs, k=k))(query, target, out)
    is_known = (expected <= k) | (expected > 11)
    np.testing.assert_array_equal(rank.numpy()[is_known], expected[is_known])
    assert np.all(rank.numpy()[~is_known] > k)
    expected_ids, expected_values = recommend(model, query, out, k=k)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(ids.numpy()[np.isfinite(values)], expected_ids.numpy()[np.isfinite(values)])


@in_both_modes
def test_excluded_items_lose_their_score_in_their_block(wrap):
    block = tf.constant([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    result = wrap(lambda block, out: exclude(block, out, 3))(block, tf.constant([[3, 5, 3, 9, 1, 0], [0] * 6]))
    np.testing.assert_array_equal(result, np.array([[-math.inf, 0.2, -math.inf], [0.4, 0.5, 0.6]], np.float32))


def test_where_nothing_is_excluded_scores_stay():
    result = exclude(tf.ones([2, 3]), tf.zeros([2, 0], tf.int32), 1)
    assert result.numpy().tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("num_values", [3, 1000])
@pytest.mark.parametrize("width", [640, 1280, 1281])
def test_top_k_by_groups_is_that_of_a_sort(width, num_values):
    scores = np.random.default_rng(0).integers(num_values, size=[4, width]).astype(np.float32)
    scores[1] = -np.inf
    scores[2, 7:] = -np.inf
    for is_nan in (np.zeros(scores.shape, bool), np.tile(np.arange(width) % 9 == 4, [4, 1])):
        given = np.where(is_nan, np.nan, scores)
        given[3] = scores[3]
        without = np.where(np.isnan(given), -np.inf, given)
        expected = np.argsort(-without, axis=1, kind="stable")[:, :2]
        found, columns, num_nan = top_k(tf.constant(given), 2)
        np.testing.assert_array_equal(columns, expected)
        np.testing.assert_array_equal(found, np.take_along_axis(without, expected, axis=1))
        np.testing.assert_array_equal(num_nan, np.isnan(given).sum(axis=1))


@pytest.mark.parametrize("num_items", [1, 127, 128, 129, 1000, 65_536, 65_537, 200_000])
def test_blocks_cover_every_item_once(num_items):
    found = list(blocks(num_items))
    assert [item for start, stop in found for item in range(start, stop)] == list(range(1, num_items + 1))
    assert all((stop - start) % 128 == 0 for start, stop in found[:-1])
