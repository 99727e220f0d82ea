import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.config import TrainConfig
from seqrec_tf.optimizers import WarmupDecay, make_optimizer


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
    assert type(optimizer) is keras.optimizers.Adam
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
    assert type(optimizer) is keras.optimizers.AdamW
    assert optimizer.weight_decay == 0.1


def test_gradients_are_clipped_by_their_global_norm():
    optimizer = make_optimizer(TrainConfig(clip_norm=5.0), total_steps=1)
    assert optimizer.global_clipnorm == 5.0


def test_a_step_of_adam_moves_by_the_learning_rate():
    # At the first step the two moments cancel: the step is rate * sign(gradient).
    optimizer = make_optimizer(TrainConfig(learning_rate=0.1), total_steps=1)
    variable = tf.Variable([1.0, 1.0])
    optimizer.apply([tf.constant([3.0, -0.2])], [variable])
    np.testing.assert_allclose(variable, [0.9, 1.1], rtol=1e-5)
