"""Losses of whole catalogues and of single logits: known values, slow loops, extreme logits, gradients."""

import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning import losses


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


def cross_entropy_of(logits, targets):
    """Of given logits, which are what states have for the identity as a table."""
    num_items = logits.shape[1]
    return losses.cross_entropy(tf.convert_to_tensor(logits), tf.eye(num_items), tf.zeros([num_items]), targets)


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
    value = cross_entropy_of(tf.fill([2, 5], 7.0), tf.constant([0, 4]))
    np.testing.assert_allclose(value, [math.log(5)] * 2, rtol=1e-6)


def test_cross_entropy_follows_the_formula():
    # softmax of log 1, log 2, log 5 is 1/8, 2/8, 5/8
    logits = tf.math.log([[1.0, 2.0, 5.0]] * 3)
    value = cross_entropy_of(logits, tf.constant([0, 1, 2]))
    np.testing.assert_allclose(value, [math.log(8), math.log(4), math.log(8 / 5)], rtol=1e-6)


def test_cross_entropy_equals_a_slow_loop():
    random = np.random.default_rng(2)
    logits = random.normal(size=(7, 5), scale=3).astype(np.float32)
    targets = random.integers(0, 5, size=7).astype(np.int32)
    np.testing.assert_allclose(cross_entropy_of(logits, targets), slow_cross_entropy(logits, targets), rtol=1e-5)


def test_cross_entropy_of_extreme_logits_is_the_distance_from_the_largest():
    logits = tf.constant([[1e4, -1e4, 0.0]] * 3)
    np.testing.assert_allclose(cross_entropy_of(logits, tf.constant([0, 1, 2])), [0.0, 2e4, 1e4])


def test_cross_entropy_of_extreme_logits_has_finite_gradients():
    logits = tf.constant([[1e4, -1e4]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = cross_entropy_of(logits, tf.constant([1]))
    np.testing.assert_allclose(tape.gradient(value, logits), [[1.0, -1.0]])  # softmax minus the target


@pytest.mark.parametrize("num_targets", [1, 4, 5, 11])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_biased", [False, True])
def test_cross_entropy_in_blocks_is_that_of_all_logits_with_its_gradients(
    monkeypatch, num_targets, is_weighted, is_biased
):
    monkeypatch.setattr(losses, "BLOCK_LOGITS", 28)
    monkeypatch.setattr(losses, "LEAST_ROWS", 2)
    random = np.random.default_rng(0)
    shapes = ([num_targets, 3], [7, 3], *([[7]] if is_biased else []))
    states = [tf.Variable(random.normal(size=shape), dtype=tf.float32) for shape in shapes]
    targets = tf.constant(random.integers(0, 7, num_targets), tf.int32)
    weights = tf.constant(random.uniform(size=num_targets), tf.float32) if is_weighted else 0.25

    def results(function):
        with tf.GradientTape() as tape:
            values = function(*states)
            total = tf.reduce_sum(values * weights)
        return [values, *tape.gradient(total, states)]

    def plain(hidden, table, bias=0.0):
        logits = tf.matmul(hidden, table, transpose_b=True) + bias
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)

    in_blocks = tf.function(lambda hidden, table, bias=None: losses.cross_entropy(hidden, table, bias, targets))
    for ours, expected in zip(results(in_blocks), results(plain), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_cross_entropy_looks_at_candidates_alone():
    random = np.random.default_rng(0)
    hidden, table = (tf.Variable(random.normal(size=shape), dtype=tf.float32) for shape in ([5, 3], [9, 3]))
    targets = tf.constant(random.integers(2, 7, 5), tf.int32)
    with tf.GradientTape(persistent=True) as tape:
        value = tf.reduce_sum(losses.cross_entropy(hidden, table.read_value(), None, targets, first=2, end=7))
        expected = tf.reduce_sum(losses.cross_entropy(hidden, table[2:7], None, targets - 2))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for variable in (hidden, table):
        np.testing.assert_allclose(
            *(tf.convert_to_tensor(tape.gradient(total, variable)) for total in (value, expected)), rtol=1e-5, atol=1e-6
        )


def test_cross_entropy_of_no_target_is_empty():
    assert cross_entropy_of(tf.zeros([0, 5]), tf.zeros([0], tf.int32)).shape == [0]
