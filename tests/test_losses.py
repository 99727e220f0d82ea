import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import losses


def slow_binary_cross_entropy(positive, negatives):
    values = []
    for own, others in zip(positive.tolist(), negatives.tolist(), strict=True):
        total = -math.log(1 / (1 + math.exp(-own)))
        for other in others:
            total += -math.log(1 - 1 / (1 + math.exp(-other)))
        values.append(total / (1 + len(others)))
    return values


def slow_cross_entropy(logits, targets):
    values = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        partition = sum(math.exp(logit) for logit in row)
        values.append(-math.log(math.exp(row[target]) / partition))
    return values


def test_binary_cross_entropy_of_zero_logits_is_log_2():
    value = losses.binary_cross_entropy(tf.zeros([1]), tf.zeros([1, 3]))
    np.testing.assert_allclose(value, [math.log(2)], rtol=1e-6)


def test_binary_cross_entropy_of_one_positive_and_two_negatives_follows_the_formula():
    # sigmoid(log 3) = 3/4, 1 - sigmoid(-log 3) = 3/4, 1 - sigmoid(log 3) = 1/4
    value = losses.binary_cross_entropy(tf.constant([math.log(3)]), tf.constant([[-math.log(3), math.log(3)]]))
    np.testing.assert_allclose(value, [-(2 * math.log(3 / 4) + math.log(1 / 4)) / 3], rtol=1e-6)


@pytest.mark.parametrize("num_negatives", [1, 4])
def test_binary_cross_entropy_equals_a_slow_loop(num_negatives):
    random = np.random.default_rng(1)
    positive = random.normal(size=7, scale=3).astype(np.float32)
    negatives = random.normal(size=(7, num_negatives), scale=3).astype(np.float32)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(positive, negatives), slow_binary_cross_entropy(positive, negatives), rtol=1e-5
    )


def test_binary_cross_entropy_of_extreme_logits_is_the_distance_from_the_right_side():
    positive, negatives = tf.constant([1e4, -1e4]), tf.constant([[-1e4], [1e4]])
    np.testing.assert_allclose(losses.binary_cross_entropy(positive, negatives), [0.0, 1e4])


def test_binary_cross_entropy_of_extreme_logits_has_finite_gradients():
    positive, negatives = tf.constant([1e4, -1e4]), tf.constant([[-1e4], [1e4]])
    with tf.GradientTape() as tape:
        tape.watch([positive, negatives])
        value = tf.reduce_sum(losses.binary_cross_entropy(positive, negatives))
    to_positive, to_negatives = tape.gradient(value, [positive, negatives])
    # d/dx softplus(x) = sigmoid(x), half of it as there are two terms
    np.testing.assert_allclose(to_positive, [0.0, -0.5])
    np.testing.assert_allclose(to_negatives, [[0.0], [0.5]])


def test_binary_cross_entropy_of_no_target_is_empty():
    assert losses.binary_cross_entropy(tf.zeros([0]), tf.zeros([0, 2])).shape == [0]


def test_cross_entropy_of_equal_logits_is_the_log_of_their_number():
    value = losses.cross_entropy(tf.fill([2, 5], 7.0), tf.constant([0, 4]))
    np.testing.assert_allclose(value, [math.log(5)] * 2, rtol=1e-6)


def test_cross_entropy_follows_the_formula():
    # softmax of log 1, log 2, log 5 is 1/8, 2/8, 5/8
    logits = tf.math.log([[1.0, 2.0, 5.0]] * 3)
    value = losses.cross_entropy(logits, tf.constant([0, 1, 2]))
    np.testing.assert_allclose(value, [math.log(8), math.log(4), math.log(8 / 5)], rtol=1e-6)


def test_cross_entropy_equals_a_slow_loop():
    random = np.random.default_rng(2)
    logits = random.normal(size=(7, 5), scale=3).astype(np.float32)
    targets = random.integers(0, 5, size=7).astype(np.int32)
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), slow_cross_entropy(logits, targets), rtol=1e-5)


def test_cross_entropy_of_extreme_logits_is_the_distance_from_the_largest():
    logits = tf.constant([[1e4, -1e4, 0.0]] * 3)
    np.testing.assert_allclose(losses.cross_entropy(logits, tf.constant([0, 1, 2])), [0.0, 2e4, 1e4])


def test_cross_entropy_of_extreme_logits_has_finite_gradients():
    logits = tf.constant([[1e4, -1e4]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = losses.cross_entropy(logits, tf.constant([1]))
    np.testing.assert_allclose(tape.gradient(value, logits), [[1.0, -1.0]])  # softmax minus the target


def test_cross_entropy_of_no_target_is_empty():
    assert losses.cross_entropy(tf.zeros([0, 5]), tf.zeros([0], tf.int32)).shape == [0]
