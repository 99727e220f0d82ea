import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.layers import GRU


def pair(dtype="float32"):
    """Ours, and Keras' with the same weights."""
    ours, theirs = GRU(4, dtype=dtype), keras.layers.GRU(4, return_sequences=True, dtype=dtype)
    for layer in (ours, theirs):
        layer.build([None, None, 3])
    random = np.random.default_rng(0)
    weights = [random.normal(size=weight.shape) for weight in ours.weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs


def test_options_that_would_hold_on_gpus_alone_are_refused():
    with pytest.raises(TypeError, match="activation"):
        GRU(4, activation="relu")


def test_what_is_saved_needs_no_gpu(monkeypatch):
    """cuDNN is for training alone: a model that was exported beside a GPU is served on CPUs."""
    ours, _ = pair()
    called = []
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(keras.layers.GRU, "call", lambda self, sequences, **options: called.append(1) or sequences)
    assert ours(tf.zeros([1, 2, 3])).shape == [1, 2, 4]
    assert not called
    ours(tf.zeros([1, 2, 3]), training=True)
    assert called


def test_a_replica_without_rows_gives_none_to_cudnn(monkeypatch):
    ours, theirs = pair()
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a GPU"])
    given, call = [], keras.layers.GRU.call
    monkeypatch.setattr(
        keras.layers.GRU, "call", lambda self, x, **options: given.append(x.shape[0]) or call(self, x, **options)
    )
    assert ours(tf.zeros([0, 2, 3]), training=True).shape == [0, 2, 4]
    assert given == [1]
    sequences = tf.random.stateless_normal([2, 5, 3], [0, 1])
    np.testing.assert_allclose(ours(sequences, training=True), theirs(sequences), atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_states_and_gradients_are_those_of_keras(length):
    random = np.random.default_rng(length)
    sequences = tf.constant(random.normal(size=[5, length, 3]), tf.float32)
    upstream = tf.constant(random.normal(size=[5, length, 4]), tf.float32)
    results = []
    for layer in pair():

        @tf.function
        def run(sequences, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(sequences)
                states = layer(sequences)
                loss = tf.reduce_sum(states * upstream)
            return states, tape.gradient(loss, [sequences, *(weight.value for weight in layer.weights)])

        results.append(run(sequences))
    (our_states, our_gradients), (their_states, their_gradients) = results
    np.testing.assert_allclose(our_states, their_states, rtol=1e-5, atol=1e-6)
    assert len(our_gradients) == 4
    for ours, theirs in zip(our_gradients, their_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_states_equal_a_slow_loop():
    ours, _ = pair()
    kernel, recurrent_kernel, (of_input, of_state) = (weight.numpy() for weight in ours.weights)
    sequences = np.random.default_rng(1).normal(size=[2, 3, 3]).astype(np.float32)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for row, states in zip(sequences, ours(tf.constant(sequences)).numpy(), strict=True):
        state = np.zeros(4)
        for event, found in zip(row, states, strict=True):
            inputs = np.split(event @ kernel + of_input, 3)
            products = np.split(state @ recurrent_kernel + of_state, 3)
            update, reset = (sigmoid(inputs[gate] + products[gate]) for gate in (0, 1))
            state = update * state + (1 - update) * np.tanh(inputs[2] + reset * products[2])
            np.testing.assert_allclose(found, state, rtol=1e-4, atol=1e-6)


def test_half_precision_stays_half():
    ours, theirs = pair("mixed_bfloat16")
    sequences = tf.ones([2, 3, 3])
    assert ours(sequences).dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(ours(sequences), tf.float32), tf.cast(theirs(sequences), tf.float32), atol=0.05)


def test_it_comes_back_from_its_config():
    ours, _ = pair()
    copy = GRU.from_config(ours.get_config())
    copy.build([None, None, 3])
    copy.set_weights(ours.get_weights())
    sequences = tf.ones([1, 2, 3])
    np.testing.assert_array_equal(ours(sequences), copy(sequences))
