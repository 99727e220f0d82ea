import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.layers import LayerNorm


def made(cls, **options):
    layer = cls(epsilon=1e-6, **options)
    layer.build([None, 6])
    layer.set_weights([np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6)])
    return layer


@pytest.mark.parametrize("shape", [[2, 3, 6], [4, 6], [0, 6]])
def test_values_and_gradients_are_those_of_keras(shape):
    random = np.random.default_rng(0)
    inputs, goal = (tf.constant(random.normal(size=shape, loc=2), tf.float32) for _ in range(2))
    results = []
    for layer in (made(LayerNorm), made(keras.layers.LayerNormalization)):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = layer(inputs)
            total = tf.reduce_sum(output * goal)
        results.append([output, *tape.gradient(total, [inputs, *(weight.value for weight in layer.weights)])])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_constant_row_becomes_the_offset():
    np.testing.assert_allclose(made(LayerNorm)(tf.fill([1, 6], 3.0)), [np.linspace(-1, 1, 6)], atol=1e-6)


def test_half_precision_computes_in_full_and_gives_its_dtype():
    layer = made(LayerNorm, dtype="mixed_float16")
    inputs = tf.constant([[300.0, -300.0, 200.0, 0.0, 10.0, 5.0]], tf.float16)  # whose squares float16 cannot hold
    assert layer(inputs).dtype == tf.float16
    np.testing.assert_allclose(tf.cast(layer(inputs), tf.float32), made(LayerNorm)(inputs), rtol=1e-2, atol=1e-2)
