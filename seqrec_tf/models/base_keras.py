"""What Keras asks of a model: the steps of `fit` and `evaluate`, on one device or on replicas, and saving.

Tensor letters: B batch, N targets of a batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from seqrec_tf.config import ModelConfig, from_values
from seqrec_tf.learning.parallel import in_parts
from seqrec_tf.schema import ITEM_IDS, TARGET_TIME, TIMESTAMPS, Schema

# What TensorFlow's error says where it is not, with what it is instead.
LOSS_IS_FINITE = "The loss of a step must be finite"


class KerasModel(keras.Model):
    """Private base of `SequenceModel`: it calls what a model defines, and a model overrides nothing here."""

    config_class: ClassVar[type[ModelConfig]]
    config: Any
    schema: Schema
    reads: tuple[str, ...]
    validation_metrics: list[keras.metrics.Metric]

    # ---- Steps ----

    def train_step(self, data):
        """Take one step of the optimizer, on a batch that `data.load` made from `train`.

        As Keras' own, but the loss that is shown is the mean over batches, whose weights are in their losses already.
        """
        inputs, labels, weight = keras.utils.unpack_x_y_sample_weight(data)

        def losses_of(inputs, labels):
            return self.target_losses(inputs, labels, self(inputs, training=True))

        parts = self.num_parts(self.config, self.schema)
        with tf.GradientTape() as tape:
            loss = self.mean_loss(in_parts(losses_of, parts, inputs, labels), weight)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, variables)
        with self._where_finite(loss):
            self._loss_tracker.update_state(loss * self.distribute_strategy.num_replicas_in_sync)
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self._replica_logs({"loss": self._loss_tracker.result()})

    def _where_finite(self, loss):
        """What is done here changes nothing where the loss is not finite: the step ends with an error before.

        Of several replicas one could wait for another that has ended; `RunKeeper` looks at their common loss.
        """
        if self.distribute_strategy.num_replicas_in_sync > 1:
            return contextlib.nullcontext()
        return tf.control_dependencies([tf.debugging.check_numerics(loss, LOSS_IS_FINITE)])

    def loss_tracker_state(self) -> list[float]:
        """The sum of the losses of the steps so far, and their number; on this process' first replica."""
        local = self.distribute_strategy.experimental_local_results
        return [float(local(variable.value)[0]) for variable in self._loss_tracker.variables]

    def set_loss_tracker(self, state: Sequence[float]) -> None:
        """Go on from a `loss_tracker_state`, on every replica."""
        for variable, value in zip(self._loss_tracker.variables, state, strict=True):
            for local in self.distribute_strategy.experimental_local_results(variable.value):
                local.assign(value)

    def test_step(self, data):
        """Update the validation metrics by a batch that `data.load` made from `valid` or `test`."""
        inputs, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        self.update_validation(inputs, labels)
        return self._replica_logs({metric.name: metric.result() for metric in self.validation_metrics})

    def mean_loss(self, values, weight=None):
        """Average the losses over the targets of the whole batch, on all replicas.

        loss = weight * (sum of values) / (number of targets); 0 where there is no target. Replicas' gradients are
        summed, so each divides its own sum by the targets of all.

        Args:
            values: float32 [N], what `target_losses` gives on this replica.
            weight: float32 [B], all equal: the weight of this batch among those of an epoch; 1 where None.

        Returns:
            Scalar float32.
        """
        total, count = tf.reduce_sum(values), tf.cast(tf.size(values), tf.float32)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            count = replica.all_reduce("SUM", count)
        for extra in self.losses:  # regularizers of layers, the same on every replica
            total += extra * count / (1 if replica is None else replica.num_replicas_in_sync)
        # A replica may have no rows.
        weight = 1.0 if weight is None else tf.reduce_max(tf.concat([[0.0], weight], axis=0))
        return weight * tf.math.divide_no_nan(total, count)

    def _replica_logs(self, logs):
        """Give logs the dimension that Keras averages over where there are several workers; scalars have none."""
        strategy = self.distribute_strategy
        is_of_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if is_of_workers and strategy.extended._in_multi_worker_mode():  # as Keras asks; not in a cluster of one
            return {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs

    # ---- Cures of Keras 3 under tf.distribute (Keras issue 20585) ----

    def _get_metrics_result_or_logs(self, logs):
        """Take the metrics' own results: Keras would average the replicas', whatever share of the events each had."""
        return logs if "loss" in logs else {metric.name: metric.result() for metric in self.validation_metrics}

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Build the optimizer alone: Keras reduces a batch of PerReplica values to build the model, and fails."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    # ---- Building and saving ----

    def example_inputs(self):
        """Make the inputs of the smallest batch, to build the model with."""
        inputs = {ITEM_IDS: tf.zeros([1, 2], tf.int32)}
        inputs |= {name: tf.zeros([1, 2], tf.int64) for name in self.reads if name not in self.reads_of_user}
        features = {feature.name: feature for feature in self.schema.user_features}
        for name in self.reads_of_user:
            feature = features.get(name)
            shape = [1, *feature.dense_shape] if feature else [1]
            inputs[name] = tf.zeros(shape, feature.dtype if feature else tf.int64)
        return inputs | ({TARGET_TIME: tf.zeros([1], tf.int64)} if TIMESTAMPS in self.reads else {})

    def get_config(self) -> dict[str, Any]:
        """The configuration and the schema: all that decides the shape of the weights."""
        return {**super().get_config(), "config": dataclasses.asdict(self.config), "schema": self.schema.to_dict()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The inverse of `get_config`."""
        config = dict(config)
        model_config = from_values(cls.config_class, config.pop("config"), section="model")
        return cls(model_config, Schema.from_dict(config.pop("schema")), **config)

    def build_from_config(self, config):
        """Nothing: the constructor has built the model."""
