import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.layers import Dropout


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.999])
def test_outside_training_nothing_changes(rate):
    x = tf.constant([[1.0, -2.0]])
    assert Dropout(rate)(x) is x or np.array_equal(Dropout(rate)(x), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_so_many_entries_are_dropped_and_the_mean_is_kept(rate):
    keras.utils.set_random_seed(1)
    dropped = Dropout(rate)(tf.ones([101, 999]), training=True).numpy()
    number = dropped.size
    assert np.mean(dropped == 0) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / number) ** 0.5 + 2**-16)
    assert dropped[dropped != 0] == pytest.approx(1 / (1 - rate), rel=1e-3)
    assert np.mean(dropped) == pytest.approx(1.0, abs=0.03)


def test_entries_are_dropped_independently_and_anew_each_time():
    keras.utils.set_random_seed(1)
    layer = Dropout(0.5)
    first, second = (layer(tf.ones([400, 403]), training=True).numpy() > 0 for _ in range(2))
    neighbours = ((first[:, 1:], first[:, :-1]), (first[1:], first[:-1]), (first[:, 4:], first[:, :-4]))
    for one, other in ((first, second), *neighbours):
        assert np.mean(one == other) == pytest.approx(0.5, abs=0.006)


def test_the_gradient_is_that_of_what_is_kept():
    keras.utils.set_random_seed(1)
    x = tf.Variable(tf.ones([50]))
    with tf.GradientTape() as tape:
        y = Dropout(0.4)(x, training=True)
        total = tf.reduce_sum(y)
    np.testing.assert_allclose(tape.gradient(total, x), y)


def test_the_seed_decides():
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        results.append(Dropout(0.3)(tf.ones([64]), training=True).numpy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [[0, 3], [1], [5], [2, 3, 7]])
def test_any_shape_and_precision(shape, dtype):
    result = tf.function(Dropout(0.3, dtype=dtype))(tf.ones(shape, dtype), training=True)
    assert (result.shape, result.dtype) == (shape, dtype)


def test_it_comes_back_from_its_config():
    assert Dropout.from_config(Dropout(0.25).get_config()).rate == 0.25
