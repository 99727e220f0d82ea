import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.config import TrainConfig
from seqrec_tf.learning.optimizers import SGD, Adagrad, Adam, LossScaleOptimizer, WarmupDecay, make_optimizer


def rates(**options):
    schedule = WarmupDecay(**{"peak": 0.8, "warmup_steps": 4, "total_steps": 8, **options})
    return [float(schedule(step)) for step in range(10)]


def test_the_rate_grows_linearly_and_stays():
    np.testing.assert_allclose(rates(decay="constant"), [0.2, 0.4, 0.6] + 7 * [0.8], rtol=1e-6)


def test_the_rate_falls_linearly_to_0_at_the_last_step():
    np.testing.assert_allclose(rates(decay="linear"), [0.2, 0.4, 0.6, 0.8, 0.8, 0.6, 0.4, 0.2, 0, 0], atol=1e-6)


def test_the_rate_falls_as_a_half_cosine_to_0_at_the_last_step():
    decay = [0.4 * (1 + math.cos(math.pi * done)) for done in (0, 1 / 4, 2 / 4, 3 / 4, 1, 1)]
    np.testing.assert_allclose(rates(decay="cosine"), [0.2, 0.4, 0.6, 0.8, *decay], atol=1e-6)


def test_without_warm_up_the_first_rate_is_the_peak():
    assert rates(decay="linear", warmup_steps=0)[0] == pytest.approx(0.8)


def test_a_warm_up_longer_than_the_training_only_grows():
    assert rates(decay="linear", warmup_steps=10)[:8] == pytest.approx([0.08 * (step + 1) for step in range(8)])


def test_an_unknown_decay_names_the_nearest():
    with pytest.raises(ValueError, match=r"train\.schedule .* got 'cosin'. Did you mean 'cosine'\?"):
        WarmupDecay(peak=1.0, warmup_steps=0, total_steps=1, decay="cosin")


def test_the_schedule_survives_serialisation():
    schedule = WarmupDecay(peak=0.5, warmup_steps=2, total_steps=9, decay="cosine")
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert copy.get_config() == schedule.get_config()


def test_the_default_is_adam_at_a_constant_rate():
    optimizer = make_optimizer(TrainConfig(learning_rate=0.01, beta_2=0.9), total_steps=10)
    assert type(optimizer) is Adam
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    assert optimizer.beta_2 == 0.9
    assert optimizer.global_clipnorm is None


def test_a_schedule_runs_over_the_whole_training():
    optimizer = make_optimizer(TrainConfig(learning_rate=0.8, schedule="linear"), total_steps=4)
    variable = tf.Variable([1.0])
    seen = []
    for _ in range(4):
        seen.append(float(optimizer.learning_rate))
        optimizer.apply([tf.constant([1.0])], [variable])
    assert seen == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_warm_up_alone_makes_a_schedule():
    optimizer = make_optimizer(TrainConfig(learning_rate=0.8, warmup_steps=4), total_steps=8)
    assert float(optimizer.learning_rate) == pytest.approx(0.2)


def test_weight_decay_is_decoupled():
    optimizer = make_optimizer(TrainConfig(weight_decay=0.1), total_steps=1)
    variable = tf.Variable([1.0, 2.0])
    optimizer.apply([tf.zeros(2)], [variable])
    np.testing.assert_allclose(variable, [1 - 1e-3 * 0.1, 2 * (1 - 1e-3 * 0.1)], rtol=1e-6)


def test_gradients_are_clipped_by_the_norm_of_what_each_row_gets_in_all():
    rows, other = table(), tf.Variable([1.0])
    before = rows.numpy()
    # Row 4 gets [3, 0] twice, so all gradients together have the length of (6, 8).
    SGD(1.0, global_clipnorm=5.0).apply([slices([4, 4], [[3.0, 0.0], [3.0, 0.0]]), tf.constant([8.0])], [rows, other])
    before[4] -= [3.0, 0.0]
    np.testing.assert_allclose(rows, before, rtol=1e-6)
    np.testing.assert_allclose(other, [1.0 - 4.0], rtol=1e-6)


def test_clipping_leaves_rows_alone_that_a_batch_does_not_touch():
    variable, optimizer = table(), make_optimizer(TrainConfig(clip_norm=0.1), total_steps=1)
    optimizer.apply([slices([2], [[1.0, 2.0]])], [variable])
    before = variable.numpy()
    optimizer.apply([slices([3], [[1.0, 2.0]])], [variable])
    np.testing.assert_array_equal(np.delete(variable.numpy(), 3, axis=0), np.delete(before, 3, axis=0))


def test_a_step_of_adam_moves_by_the_learning_rate():
    # At the first step the two moments cancel: the step is rate * sign(gradient).
    optimizer = make_optimizer(TrainConfig(learning_rate=0.1), total_steps=1)
    variable = tf.Variable([1.0, 1.0])
    optimizer.apply([tf.constant([3.0, -0.2])], [variable])
    np.testing.assert_allclose(variable, [0.9, 1.1], rtol=1e-5)


# An optimizer of ours, and Keras' own dense one with the same arithmetic.
PAIRS = {
    "adam": (lambda: Adam(0.1, beta_2=0.98), lambda: keras.optimizers.Adam(0.1, beta_2=0.98)),
    "adagrad": (
        lambda: Adagrad(0.1),
        lambda: keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.0, epsilon=1e-6),
    ),
    "sgd": (lambda: SGD(0.1), lambda: keras.optimizers.SGD(0.1)),
    "sgd with momentum": (lambda: SGD(0.1, momentum=0.4), lambda: keras.optimizers.SGD(0.1, momentum=0.4)),
}
every_optimizer = pytest.mark.parametrize(("make", "make_dense"), PAIRS.values(), ids=PAIRS)


def slices(rows, values):
    """A gradient of a table of 6 rows and 2 columns, as that of a lookup."""
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), tf.constant([6, 2]))


def table():
    return tf.Variable(np.arange(12, dtype=np.float32).reshape(6, 2))


@every_optimizer
def test_dense_gradients_do_as_in_keras(make, make_dense):
    random, ours, theirs = np.random.default_rng(0), table(), table()
    optimizer, dense = make(), make_dense()
    for _ in range(5):
        gradient = tf.constant(random.normal(size=[6, 2]), tf.float32)
        optimizer.apply([gradient], [ours])
        dense.apply([gradient], [theirs])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@every_optimizer
def test_rows_of_every_batch_change_as_under_the_dense_optimizer(make, make_dense):
    """Repeated rows add up, and rows without a gradient stay as they are."""
    random, ours, theirs = np.random.default_rng(0), table(), table()
    optimizer, dense = make(), make_dense()
    for _ in range(5):
        gradient = slices([4, 1, 4, 1, 4], random.normal(size=[5, 2]))
        optimizer.apply([gradient], [ours])
        dense.apply([tf.convert_to_tensor(gradient)], [theirs])
    np.testing.assert_allclose(tf.gather(ours, [1, 4]), tf.gather(theirs, [1, 4]), rtol=1e-5)
    np.testing.assert_array_equal(tf.gather(ours, [0, 2, 3, 5]), tf.gather(table(), [0, 2, 3, 5]))


@pytest.mark.parametrize(("cls", "options"), [(Adam, {}), (Adagrad, {"momentum": 0.5}), (SGD, {"momentum": 0.5})])
def test_a_row_that_a_batch_does_not_touch_waits_with_its_moments(cls, options):
    variable, optimizer = table(), cls(0.1, **options)
    optimizer.apply([slices([2], [[1.0, 2.0]])], [variable])
    before = [variable.numpy(), *(slot.numpy() for slot in optimizer.variables[2:])]
    optimizer.apply([slices([3], [[1.0, 2.0]])], [variable])
    after = [variable.numpy(), *(slot.numpy() for slot in optimizer.variables[2:])]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[2], new[2])
        assert np.all(old[3] != new[3])


def test_adagrad_with_momentum_does_as_written_down():
    variable, optimizer = tf.Variable([1.0]), Adagrad(0.1, momentum=0.4)
    value, squares, velocity = 1.0, 0.0, 0.0
    for gradient in (0.5, -2.0, 1.0):
        optimizer.apply([tf.constant([gradient])], [variable])
        squares += gradient**2
        velocity = 0.4 * velocity - 0.1 * gradient / math.sqrt(squares + 1e-6)
        value += velocity
    assert variable.numpy()[0] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_is_scaled_down_where_one_gradient_of_a_row_is_not_finite(bad):
    """Whatever the others are that a batch has of the row, and whichever comes last."""
    optimizer = LossScaleOptimizer(SGD(0.1), initial_scale=8.0)
    table = keras.Variable(np.ones([3, 2]), name="table")
    optimizer.build([table])
    for values in ([[bad, 0.0], [1.0, 1.0]], [[1.0, 1.0], [bad, 0.0]]):
        optimizer.apply([tf.IndexedSlices(tf.constant(values), tf.constant([1, 1]), tf.constant([3, 2]))], [table])
        np.testing.assert_array_equal(table, np.ones([3, 2]))
    assert float(optimizer.dynamic_scale) == 2.0
    optimizer.apply([tf.IndexedSlices(tf.fill([2, 2], 2.0), tf.constant([1, 1]), tf.constant([3, 2]))], [table])
    np.testing.assert_allclose(table[1], 1.0 - 0.1 * 4.0 / 2.0)


@pytest.mark.parametrize("name", ["adam", "adagrad", "sgd"])
def test_the_optimizer_of_a_configuration_survives_serialisation(name):
    momentum = 0.0 if name == "adam" else 0.3
    optimizer = make_optimizer(TrainConfig(optimizer=name, momentum=momentum, learning_rate=0.02), total_steps=3)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy).__name__.lower() == name
    assert copy.get_config() == optimizer.get_config()
