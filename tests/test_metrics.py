import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning import metrics

NAN = float("nan")


def rank(target_score, scores):
    """Rank of one target among rivals."""
    num_rivals = tf.constant([len(scores)])
    return 1 + int(
        metrics.count_not_below(tf.constant([target_score]), tf.constant([scores]), num_rivals=num_rivals)[0]
    )


def test_the_rank_is_one_more_than_the_number_of_higher_scores():
    assert rank(0.5, [0.9, 0.1, 0.6, 0.2]) == 3


def test_the_best_score_has_rank_1():
    assert rank(1.0, [0.9, 0.1]) == 1


def test_ties_stand_before_the_target():
    assert rank(0.5, [0.5, 0.1, 0.5]) == 3


def test_a_constant_score_ranks_last():
    assert rank(0.0, [0.0] * 4) == 5


def test_scores_that_differ_in_the_last_bit_are_ties():
    just_below = float(np.nextafter(np.float32(0.3), np.float32(0)))
    assert rank(0.3, [just_below]) == 2
    assert rank(-0.3, [-float(np.nextafter(np.float32(0.3), np.float32(1)))]) == 2


def test_scores_that_differ_by_a_thousandth_are_no_ties():
    assert rank(0.3, [0.2997]) == 1
    assert rank(-0.3, [-0.3003]) == 1


def test_a_nan_target_ranks_last():
    assert rank(NAN, [0.5, -1e9, NAN]) == 4


def test_a_rival_that_is_nan_stands_before_the_target():
    assert rank(0.5, [NAN, 0.1, NAN]) == 3


def test_rivals_of_minus_infinity_stand_behind_the_target():
    assert rank(0.5, [-math.inf, -math.inf]) == 1


def test_candidates_that_are_no_rivals_do_not_count():
    scores = tf.constant([[0.9, -math.inf, -math.inf]] * 3)
    targets, num_rivals = tf.constant([0.5, NAN, -math.inf]), tf.constant([1, 1, 1])
    assert metrics.count_not_below(targets, scores, num_rivals=num_rivals).numpy().tolist() == [1, 1, 1]


# In a graph, TensorFlow rewrites expressions in ways that are wrong for NaN.
@pytest.mark.parametrize("wrap", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_counting_equals_a_slow_loop(wrap):
    random = np.random.default_rng(1)
    target_scores = random.integers(-3, 4, size=20).astype(np.float32)
    target_scores[7] = np.nan
    scores = random.integers(-3, 4, size=(20, 9)).astype(np.float32)
    scores[random.random(scores.shape) < 0.1] = np.nan
    is_rival = random.random(scores.shape) < 0.7
    expected = []
    for row in range(20):
        count = 0
        for column in range(9):
            if is_rival[row, column] and not scores[row, column] < target_scores[row]:
                count += 1
        expected.append(count)
    count_not_below = wrap(lambda *inputs: metrics.count_not_below(*inputs[:2], num_rivals=inputs[2]))
    rivals = np.where(is_rival, scores, -np.inf)
    result = count_not_below(*map(tf.constant, (target_scores, rivals, is_rival.sum(axis=1).astype(np.int32))))
    np.testing.assert_array_equal(result, expected)


def test_hit_rate_is_1_up_to_the_cut_off():
    assert metrics.hit_rate(tf.constant([1, 2, 3, 4]), 3).numpy().tolist() == [1, 1, 1, 0]


def test_ndcg_is_the_discount_of_the_rank_up_to_the_cut_off():
    expected = [1, 1 / math.log2(3), 1 / math.log2(4), 0]
    np.testing.assert_allclose(metrics.ndcg(tf.constant([1, 2, 3, 4]), 3), expected, rtol=1e-6)


def test_reciprocal_rank_is_one_over_the_rank_up_to_the_cut_off():
    np.testing.assert_allclose(metrics.reciprocal_rank(tf.constant([1, 2, 3, 4]), 3), [1, 1 / 2, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("metric", [metrics.hit_rate, metrics.ndcg, metrics.reciprocal_rank])
@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_every_metric_is_float32_between_0_and_1(metric, dtype):
    values = metric(tf.range(1, 101, dtype=dtype), 10)
    assert values.dtype == tf.float32
    assert float(values[0]) == 1.0
    assert np.all(values[10:] == 0)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 40), rng.integers(0, 8, 40).astype(float)  # with ties
    weight = rng.integers(0, 3, 40)
    for of in (np.ones(40, int), weight):
        pairs = won = 0.0
        for i, j in itertools.product(range(40), repeat=2):
            if labels[i] == 1 and labels[j] == 0:
                pairs += of[i] * of[j]
                won += of[i] * of[j] * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
        assert metrics.auc(labels, scores, weight=of) == pytest.approx(won / pairs)


@pytest.mark.parametrize(("labels", "scores"), [([1, 1], [0.1, 0.2]), ([1, 0], [np.nan, 0.2])])
def test_auc_is_no_number_without_both_labels_or_with_a_score_that_is_none(labels, scores):
    assert np.isnan(metrics.auc(labels, scores))
