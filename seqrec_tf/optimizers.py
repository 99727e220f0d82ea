"""The optimizer of a run, with its learning-rate schedule."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from seqrec_tf.config import TrainConfig, check_choice


@keras.saving.register_keras_serializable("seqrec_tf")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear growth from 0, then a constant rate or a decay to 0 at the last step.

    Args:
        peak: Learning rate after the warm-up.
        warmup_steps: Steps of growth.
        total_steps: Steps of the whole training.
        decay: "constant", "linear" or "cosine".
    """

    def __init__(self, *, peak, warmup_steps, total_steps, decay):
        super().__init__()
        check_choice("train.schedule", decay, ("constant", "cosine", "linear"))
        self.peak, self.warmup_steps, self.total_steps, self.decay = peak, warmup_steps, total_steps, decay

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        growth = (step + 1.0) / max(1, self.warmup_steps)
        done = tf.clip_by_value((step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps), 0.0, 1.0)
        factor = {
            "constant": tf.ones_like(done),
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + tf.cos(math.pi * done)),
        }[self.decay]
        return self.peak * tf.minimum(growth, factor)

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "decay": self.decay,
        }


def make_optimizer(config: TrainConfig, *, total_steps: int) -> keras.optimizers.Optimizer:
    """Adam, or AdamW where there is a weight decay, as the configuration says.

    Args:
        config: The section `train`.
        total_steps: Steps of the whole training, for the schedule.
    """
    rate = (
        config.learning_rate
        if config.schedule == "constant" and not config.warmup_steps
        else WarmupDecay(
            peak=config.learning_rate,
            warmup_steps=config.warmup_steps,
            total_steps=total_steps,
            decay=config.schedule,
        )
    )
    options = {"learning_rate": rate, "beta_2": config.beta_2, "global_clipnorm": config.clip_norm or None}
    if config.weight_decay:
        return keras.optimizers.AdamW(weight_decay=config.weight_decay, **options)
    return keras.optimizers.Adam(**options)
