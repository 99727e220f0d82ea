"""Losses of a target among sampled negatives: known values, slow loops, extreme logits, gradients."""

import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning import losses


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def slow_generalized_binary_cross_entropy(positive, negatives):
    # gSASRec: sigma(positive) ** beta in place of sigma(positive), for 11 items and t = 0.75
    rate = len(negatives) / (11 - 1)
    beta = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
    total = math.log(sigmoid(positive) ** beta) + sum(math.log(1 - sigmoid(other)) for other in negatives)
    return -total / (len(negatives) + 1)


def slow_sampled_softmax(positive, negatives):
    partition = math.exp(positive) + sum(math.exp(other) for other in negatives)
    return -math.log(math.exp(positive) / partition)


def slow_bayesian_personalized_ranking(positive, negatives):
    return -sum(math.log(sigmoid(positive - other)) for other in negatives) / len(negatives)


def slow_top1(positive, negatives):
    return sum(sigmoid(other - positive) + sigmoid(other**2) for other in negatives) / len(negatives)


def slow_weights(negatives):
    partition = sum(math.exp(other) for other in negatives)
    return [math.exp(other) / partition for other in negatives]


def slow_bpr_max(positive, negatives):
    weighted = list(zip(slow_weights(negatives), negatives, strict=True))
    likelihood = sum(weight * sigmoid(positive - other) for weight, other in weighted)
    return -math.log(likelihood) + 1.95 * sum(weight * other**2 for weight, other in weighted)


def slow_top1_max(positive, negatives):
    return sum(
        weight * (sigmoid(other - positive) + sigmoid(other**2))
        for weight, other in zip(slow_weights(negatives), negatives, strict=True)
    )


def generalized_binary_cross_entropy(positive, negatives):
    return losses.generalized_binary_cross_entropy(positive, negatives, num_items=11, calibration=0.75)


def bpr_max(positive, negatives):
    return losses.bpr_max(positive, negatives, regularization=1.95)


# Each sampled loss beside what it is for one target, in plain Python.
SAMPLED = {
    "generalized_binary_cross_entropy": (generalized_binary_cross_entropy, slow_generalized_binary_cross_entropy),
    "sampled_softmax": (losses.sampled_softmax, slow_sampled_softmax),
    "bayesian_personalized_ranking": (losses.bayesian_personalized_ranking, slow_bayesian_personalized_ranking),
    "top1": (losses.top1, slow_top1),
    "bpr_max": (bpr_max, slow_bpr_max),
    "top1_max": (losses.top1_max, slow_top1_max),
}
every_sampled_loss = pytest.mark.parametrize(("loss", "slow"), SAMPLED.values(), ids=SAMPLED)


def value_and_gradients(loss, positive, negatives):
    positive, negatives = tf.constant(positive, tf.float32), tf.constant(negatives, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([positive, negatives])
        value = loss(positive, negatives)
    return value.numpy(), [gradient.numpy() for gradient in tape.gradient(value, [positive, negatives])]


def numeric_gradient(slow, positive, negatives, step=1e-5):
    """Central differences, in float64, by the positive and then by each negative."""
    point = [positive, *negatives]
    gradient = []
    for i in range(len(point)):
        above, below = list(point), list(point)
        above[i] += step
        below[i] -= step
        gradient.append((slow(above[0], above[1:]) - slow(below[0], below[1:])) / (2 * step))
    return gradient


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # One of two items; sigma(log 3) = 3/4, sigma(0) = 1/2.
        (losses.sampled_softmax, -math.log(3 / (3 + 1 + 1))),
        (losses.bayesian_personalized_ranking, -math.log(3 / 4)),
        (losses.top1, 1 / 4 + 1 / 2),
        (bpr_max, -math.log(3 / 4)),
        (losses.top1_max, 1 / 4 + 1 / 2),
        # 2 of 10 negatives: the rate is 0.2, and beta = 0.2 * (0.75 * (1 - 5) + 5) = 0.4
        (generalized_binary_cross_entropy, -(0.4 * math.log(3 / 4) + 2 * math.log(1 / 2)) / 3),
    ],
)
def test_a_positive_of_log_3_against_two_negatives_of_0_follows_the_formula(loss, expected):
    np.testing.assert_allclose(loss(tf.constant([math.log(3)]), tf.zeros([1, 2])), [expected], rtol=1e-6)


def test_the_negatives_of_bpr_max_and_top1_max_count_by_their_softmax():
    # softmax of log 1 and log 3 is 1/4 and 3/4; sigma(log 3 - log 1) = 3/4, sigma(log 3 - log 3) = 1/2
    positive, negatives = tf.constant([math.log(3)]), tf.constant([[0.0, math.log(3)]])
    squares = 3 / 4 * math.log(3) ** 2
    np.testing.assert_allclose(
        bpr_max(positive, negatives), [-math.log(1 / 4 * 3 / 4 + 3 / 4 * 1 / 2) + 1.95 * squares], rtol=1e-6
    )
    expected = 1 / 4 * (1 / 4 + 1 / 2) + 3 / 4 * (1 / 2 + sigmoid(math.log(3) ** 2))
    np.testing.assert_allclose(losses.top1_max(positive, negatives), [expected], rtol=1e-6)


@every_sampled_loss
@pytest.mark.parametrize("num_negatives", [1, 5])
def test_a_sampled_loss_equals_a_slow_loop(loss, slow, num_negatives):
    random = np.random.default_rng(3)
    positive, negatives = random.normal(size=7, scale=2), random.normal(size=(7, num_negatives), scale=2)
    value, _ = value_and_gradients(loss, positive, negatives)
    assert value.shape == (7,)
    expected = [slow(own, others) for own, others in zip(positive.tolist(), negatives.tolist(), strict=True)]
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@every_sampled_loss
def test_the_gradient_of_a_sampled_loss_equals_differences_of_a_slow_loop(loss, slow):
    random = np.random.default_rng(4)
    positive, negatives = random.normal(size=3), random.normal(size=(3, 4))
    _, (to_positive, to_negatives) = value_and_gradients(loss, positive, negatives)
    for n in range(3):
        expected = numeric_gradient(slow, positive[n], negatives[n].tolist())
        np.testing.assert_allclose([to_positive[n], *to_negatives[n]], expected, rtol=1e-3, atol=1e-5)


@every_sampled_loss
def test_extreme_logits_of_a_sampled_loss_give_finite_values_and_gradients(loss, slow):
    del slow
    positive = [1e4, -1e4, 1e4, -1e4, 0.0]
    negatives = [[-1e4, -1e4], [1e4, 1e4], [1e4, 1e4], [-1e4, 1e4], [-1e4, 1e4]]
    value, gradients = value_and_gradients(loss, positive, negatives)
    assert np.all(np.isfinite(value))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # The wrong way round by 2e4: the loss is that distance, where it has no bound; TOP1's terms are at most 1.
        (losses.sampled_softmax, 2e4),
        (losses.bayesian_personalized_ranking, 2e4),
        (lambda positive, negatives: losses.bpr_max(positive, negatives, regularization=0.0), 2e4),
        (losses.top1, 2.0),
        (losses.top1_max, 2.0),
    ],
)
def test_extreme_logits_the_wrong_way_round_cost_their_distance(loss, expected):
    np.testing.assert_allclose(loss(tf.constant([-1e4]), tf.constant([[1e4]])), [expected])


@every_sampled_loss
def test_an_infinitely_low_negative_has_no_gradient_and_changes_no_other(loss, slow):
    del slow
    full, (full_to_positive, full_to_negatives) = value_and_gradients(loss, [0.5, -1.0], [[0.3, -2.0], [1.5, 0.1]])
    value, (to_positive, to_negatives) = value_and_gradients(
        loss, [0.5, -1.0], [[0.3, -np.inf, -2.0], [-np.inf, 1.5, 0.1]]
    )
    assert np.all(np.isfinite(value))
    assert to_negatives[0, 1] == to_negatives[1, 0] == 0
    kept = [[to_negatives[0, 0], to_negatives[0, 2]], [to_negatives[1, 1], to_negatives[1, 2]]]
    # A mean over the negatives counts those that take no part: everything shrinks by the same factor.
    if loss is generalized_binary_cross_entropy:
        np.testing.assert_allclose(kept, np.multiply(full_to_negatives, 3 / 4), rtol=1e-5)
        return
    factor = 2 / 3 if loss in (losses.bayesian_personalized_ranking, losses.top1) else 1.0
    np.testing.assert_allclose(value, factor * full, rtol=1e-5)
    np.testing.assert_allclose(to_positive, factor * full_to_positive, rtol=1e-4)
    np.testing.assert_allclose(kept, factor * full_to_negatives, rtol=1e-4)


@every_sampled_loss
def test_a_target_whose_negatives_are_all_infinitely_low_leaves_the_others_finite(loss, slow):
    del slow
    value, gradients = value_and_gradients(loss, [0.5, 0.5], [[-np.inf, -np.inf], [0.3, -2.0]])
    alone, _ = value_and_gradients(loss, [0.5], [[0.3, -2.0]])
    assert np.all(np.isfinite(value))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    np.testing.assert_allclose(value[1:], alone, rtol=1e-6)


@every_sampled_loss
def test_a_target_without_any_negative_costs_nothing_where_it_is_compared_with_them(loss, slow):
    del slow
    if loss is generalized_binary_cross_entropy:
        pytest.skip("its positive has a term of its own")
    value, (to_positive, _) = value_and_gradients(loss, [0.5], [[-np.inf, -np.inf]])
    np.testing.assert_allclose(value, [0.0], atol=1e-7)
    np.testing.assert_allclose(to_positive, [0.0], atol=1e-7)


@every_sampled_loss
@pytest.mark.parametrize("num_negatives", [0, 2])
def test_a_sampled_loss_of_no_target_is_empty(loss, slow, num_negatives):
    del slow
    value, gradients = value_and_gradients(loss, np.zeros([0]), np.zeros([0, num_negatives]))
    assert value.shape == (0,)
    assert [gradient.shape for gradient in gradients] == [(0,), (0, num_negatives)]


def test_generalized_binary_cross_entropy_that_is_not_calibrated_is_binary_cross_entropy():
    positive, negatives = tf.constant([0.5, -1.0]), tf.constant([[0.3, -2.0], [1.5, 0.1]])
    value = losses.generalized_binary_cross_entropy(positive, negatives, num_items=11, calibration=0.0)
    np.testing.assert_allclose(value, losses.binary_cross_entropy(positive, negatives), rtol=1e-6)


def test_the_positive_of_a_fully_calibrated_loss_counts_by_the_sampling_rate():
    # t = 1: beta is the rate, 2 / 10
    positive, negatives = tf.constant([math.log(3)]), tf.fill([1, 2], -np.inf)
    value = losses.generalized_binary_cross_entropy(positive, negatives, num_items=11, calibration=1.0)
    np.testing.assert_allclose(value, [-0.2 * math.log(3 / 4) / 3], rtol=1e-5)


def test_the_regularization_of_bpr_max_is_the_weighted_mean_square_of_the_negatives():
    positive, negatives = tf.constant([0.7]), tf.constant([[0.0, math.log(3)]])
    with_it, without = (losses.bpr_max(positive, negatives, regularization=weight) for weight in (2.0, 0.0))
    np.testing.assert_allclose(with_it - without, [2 * 3 / 4 * math.log(3) ** 2], rtol=1e-5)


def test_the_gradient_of_bpr_max_equals_differences_of_the_slow_loop():
    random = np.random.default_rng(5)
    positive, negatives = random.normal(size=4), random.normal(size=(4, 5))
    weight = np.array([1.0, 0.5, -2.0, 3.0])
    inputs = [tf.constant(value, tf.float32) for value in (positive, negatives)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(weight.astype(np.float32) * bpr_max(*inputs))
    of_positive, of_negatives = tape.gradient(loss, inputs)
    for row in range(4):

        def difference(of_positive, of_negatives, row=row):
            above = slow_bpr_max(positive[row] + of_positive, negatives[row] + of_negatives)
            below = slow_bpr_max(positive[row] - of_positive, negatives[row] - of_negatives)
            return weight[row] * (above - below) / 2e-4

        assert of_positive[row].numpy() == pytest.approx(difference(1e-4, np.zeros(5)), rel=1e-3, abs=1e-5)
        expected = [difference(0.0, step) for step in 1e-4 * np.eye(5)]
        np.testing.assert_allclose(of_negatives[row], expected, rtol=1e-3, atol=1e-5)


def test_negatives_that_are_not_there_have_no_gradient_in_bpr_max():
    negatives = tf.constant([[0.5, -np.inf, -0.25], [-np.inf] * 3])
    positive = tf.constant([0.1, 0.2])
    with tf.GradientTape() as tape:
        tape.watch([positive, negatives])
        loss = tf.reduce_sum(bpr_max(positive, negatives))
    of_positive, of_negatives = tape.gradient(loss, [positive, negatives])
    assert (of_negatives.numpy() != 0).tolist() == [[True, False, True], [False] * 3]
    assert (of_positive.numpy() != 0).tolist() == [True, False]
