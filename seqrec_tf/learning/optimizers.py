"""The optimizer of a run, with its learning-rate schedule.

A batch touches few rows of a large embedding table, and the gradient of a lookup says which (`tf.IndexedSlices`). These
optimizers compute and write those rows alone, so that a step costs the same whatever the size of the catalogue. Keras'
own work on the whole table, and their second moments of it are wrong: they add the squares of a row's gradients, one
for each time that it occurs in the batch, instead of squaring their sum (Keras 3.15).

The rows of a batch, each once however often it occurs, change exactly as under the dense optimizer. A row that no event
of the batch touches keeps its values and its moments: they wait, where the dense optimizer would let its moments decay
and drift on. Weight decay is that of Keras, of all rows.
"""

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


class _RowSparse(keras.optimizers.Optimizer):
    """Base: a subclass names its slots and says what a gradient does, to a whole variable or to rows of it."""

    slot_names: tuple[str, ...] = ()

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self._slots = [self.add_optimizer_variables(variables, name) for name in self.slot_names]

    def step(self, gradient, slots, learning_rate):
        """What a gradient does.

        Args:
            gradient: float [...].
            slots: One float [...] for each of `slot_names`.
            learning_rate: Scalar.

        Returns:
            The new slots, and what to subtract from the values; each float [...].
        """
        raise NotImplementedError

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        slots = [variables[index].value for variables in self._slots]
        learning_rate = tf.cast(learning_rate, variable.dtype)
        if not isinstance(gradient, tf.IndexedSlices):
            self.update_whole(variable, tf.cast(gradient, variable.dtype), slots, learning_rate)
            return
        rows = gradient.indices  # each once, from `_all_reduce_sum_gradients`
        gradient = tf.cast(gradient.values, variable.dtype)
        new_slots, change = self.step(gradient, [tf.gather(slot, rows) for slot in slots], learning_rate)
        for slot, value in zip(slots, new_slots, strict=True):
            slot.scatter_update(tf.IndexedSlices(value, rows))
        variable.scatter_sub(tf.IndexedSlices(change, rows))

    def _clip_gradients(self, grads):
        # By their common norm below, where those of all replicas have been added; Keras would clip each replica's own,
        # take the norm of a row's parts instead of their sum's, and make whole tables of the gradients of rows.
        return grads if self.global_clipnorm else super()._clip_gradients(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        summed = [
            (_each_row_once(gradient, variable.dtype) if isinstance(gradient, tf.IndexedSlices) else gradient, variable)
            for gradient, variable in super()._all_reduce_sum_gradients(grads_and_vars)
        ]
        if not self.global_clipnorm:
            return summed
        clipped, _ = tf.clip_by_global_norm([gradient for gradient, _ in summed], self.global_clipnorm)
        return [(gradient, variable) for gradient, (_, variable) in zip(clipped, summed, strict=True)]

    def update_whole(self, variable, gradient, slots, learning_rate):
        """Change a variable, and its slots, by a dense gradient."""
        new_slots, change = self.step(gradient, slots, learning_rate)
        for slot, value in zip(slots, new_slots, strict=True):
            slot.assign(value)
        variable.assign_sub(change)


def _each_row_once(gradient: tf.IndexedSlices, dtype) -> tf.IndexedSlices:
    """The same gradient with the sum of the parts of each row."""
    rows, place = tf.unique(gradient.indices)
    sums = tf.math.unsorted_segment_sum(tf.cast(gradient.values, dtype), place, tf.size(rows))
    return tf.IndexedSlices(sums, rows, gradient.dense_shape)


@keras.saving.register_keras_serializable("seqrec_tf")
class Adam(_RowSparse):
    """Adam (Kingma and Ba, 2015, Section 2, its efficient order), or AdamW where there is a weight decay.

    Args:
        learning_rate: A rate or a schedule.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Beside the root of the second moment.
        **kwargs: Those of `keras.optimizers.Optimizer`.
    """

    slot_names = ("momentum", "velocity")

    def __init__(self, learning_rate=1e-3, *, beta_1=0.9, beta_2=0.999, epsilon=1e-7, name="adam", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def step(self, gradient, slots, learning_rate):
        momentum = self.beta_1 * slots[0] + (1 - self.beta_1) * gradient
        velocity = self.beta_2 * slots[1] + (1 - self.beta_2) * tf.square(gradient)
        power_1, power_2 = self._powers(gradient.dtype)
        rate = learning_rate * tf.sqrt(1 - power_2) / (1 - power_1)
        return (momentum, velocity), rate * momentum / (tf.sqrt(velocity) + self.epsilon)

    def update_whole(self, variable, gradient, slots, learning_rate):
        # One pass over the memory instead of a dozen.
        power_1, power_2 = self._powers(gradient.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=slots[0].handle,
            v=slots[1].handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=learning_rate,
            beta1=tf.constant(self.beta_1, gradient.dtype),
            beta2=tf.constant(self.beta_2, gradient.dtype),
            epsilon=tf.constant(self.epsilon, gradient.dtype),
            grad=gradient,
        )

    def _powers(self, dtype):
        step = tf.cast(self.iterations.value + 1, dtype)
        return tf.pow(tf.cast(self.beta_1, dtype), step), tf.pow(tf.cast(self.beta_2, dtype), step)

    def get_config(self):
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("seqrec_tf")
class Adagrad(_RowSparse):
    """Adagrad (Duchi et al., 2011) with heavy-ball momentum, as the authors of GRU4Rec use it.

    Args:
        learning_rate: A rate or a schedule.
        momentum: How much of the last scaled gradient the next step keeps; none where 0.
        epsilon: Under the root, beside the sum of squares.
        **kwargs: Those of `keras.optimizers.Optimizer`.
    """

    def __init__(self, learning_rate=0.05, *, momentum=0.0, epsilon=1e-6, name="adagrad", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum, self.epsilon = momentum, epsilon
        self.slot_names = ("accumulator", "momentum") if momentum else ("accumulator",)

    def step(self, gradient, slots, learning_rate):
        accumulator = slots[0] + tf.square(gradient)
        change = learning_rate * gradient * tf.math.rsqrt(accumulator + self.epsilon)
        if not self.momentum:
            return (accumulator,), change
        change += self.momentum * slots[1]
        return (accumulator, change), change

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("seqrec_tf")
class SGD(_RowSparse):
    """Stochastic gradient descent with heavy-ball momentum.

    Args:
        learning_rate: A rate or a schedule.
        momentum: None where 0.
        **kwargs: Those of `keras.optimizers.Optimizer`.
    """

    def __init__(self, learning_rate=0.01, *, momentum=0.0, name="sgd", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.slot_names = ("momentum",) if momentum else ()

    def step(self, gradient, slots, learning_rate):
        change = learning_rate * gradient
        if not self.momentum:
            return (), change
        change += self.momentum * slots[0]
        return (change,), change

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable("seqrec_tf")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras' own, but that sees every gradient of a row: Keras looks at one of those that a batch has of it."""

    def check_finite(self, grads):
        """Whether all gradients are finite: bool scalar."""
        values = [grad.values if isinstance(grad, tf.IndexedSlices) else grad for grad in grads if grad is not None]
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def make_optimizer(config: TrainConfig, *, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer that a configuration says.

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
    options = {
        "learning_rate": rate,
        "weight_decay": config.weight_decay or None,
        "global_clipnorm": config.clip_norm or None,
    }
    if config.optimizer == "adam":
        return Adam(beta_2=config.beta_2, **options)
    return {"adagrad": Adagrad, "sgd": SGD}[config.optimizer](momentum=config.momentum, **options)
