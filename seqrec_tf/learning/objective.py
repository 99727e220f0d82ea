"""What a next-item model minimises: one of several losses, on one of several kinds of negatives, by options.

The model gives the states that predict, the table of item vectors and (if it has them) item biases; this module scores
the true items and the negatives and applies the loss. So every loss works with every sequence model.

Tensor letters: B batch, L length, N targets of a batch, D model dim, K negatives of a target, V items (padding
included).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from seqrec_tf.config import ModelConfig, check_at_least, check_choice
from seqrec_tf.learning import losses, sampling

LOSSES = tuple(losses.BY_NAME)
NEGATIVES = ("uniform", "popular", "in-batch")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(ModelConfig):
    """Options of the loss, which every next-item model has.

    Attributes:
        max_len: Newest events of a sequence that the model sees.
        loss: "bce", "gbce" (gSASRec), "softmax" over all items, "sampled-softmax", "bpr", "top1", "bpr-max" or
            "top1-max" (GRU4Rec+).
        num_negatives: Drawn for each target, or for the whole batch where they are shared.
        negatives: "uniform" (never an item of the sequence; where shared, or for "gbce", whose calibration is for draws
            of all items, never the target), "popular" (by training events to the power of `popularity_exponent`; never
            the target) or "in-batch" (the targets of the batch's other sequences, and `num_negatives` popular ones
            beside them). What is drawn though it never should be, takes no part.
        share_negatives: Whether all targets of a batch (of a replica's share of it) have the same negatives: one matrix
            product instead of a gather for each target. "in-batch" always shares.
        popularity_exponent: 1 draws by popularity, 0 uniformly.
        gbce_calibration: t of "gbce".
        regularization: How much "bpr-max" penalises the squared scores of the negatives.
        temperature: Logits are divided by it in "softmax" and "sampled-softmax".
        elu: Where not 0, sampled scores pass through an ELU that goes down to minus this (GRU4Rec's final activation);
            it keeps their order.
    """

    loss: str = "bce"
    num_negatives: int = 1
    negatives: str = "uniform"
    share_negatives: bool = False
    popularity_exponent: float = 1.0
    gbce_calibration: float = 0.75
    regularization: float = 1.0
    temperature: float = 1.0
    elu: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_choice("model.loss", self.loss, LOSSES)
        check_choice("model.negatives", self.negatives, NEGATIVES)
        check_at_least("model.num_negatives", self.num_negatives, 0 if self.negatives == "in-batch" else 1)
        check_at_least("model.temperature", self.temperature, 1e-6)
        for name in ("popularity_exponent", "gbce_calibration", "regularization", "elu"):
            check_at_least(f"model.{name}", getattr(self, name), 0)
        if self.gbce_calibration > 1:
            raise ValueError(f"model.gbce_calibration must be in [0, 1], got {self.gbce_calibration}.")
        for name, is_used in (
            *((name, self.loss != "softmax") for name in ("num_negatives", "negatives")),
            ("share_negatives", self.loss != "softmax" and self.negatives != "in-batch"),  # which always shares
            ("gbce_calibration", self.loss == "gbce"),
            ("regularization", self.loss == "bpr-max"),
            ("temperature", self.loss in ("softmax", "sampled-softmax")),
            ("elu", self.loss != "softmax"),
            ("popularity_exponent", self.loss != "softmax" and self.negatives != "uniform"),
        ):
            if getattr(self, name) != getattr(type(self), name) and not is_used:
                raise ValueError(
                    f"model.{name} does nothing with model.loss={self.loss} and model.negatives={self.negatives}: "
                    "leave it out, or choose others."
                )
        if self.loss == "gbce" and (self.negatives != "uniform" or self.share_negatives):
            raise ValueError('model.loss="gbce" is calibrated for model.negatives="uniform" that are not shared.')

    @property
    def negatives_are_shared(self) -> bool:
        """Whether all targets of a batch have the same negatives."""
        return self.loss != "softmax" and (self.share_negatives or self.negatives == "in-batch")


@keras.saving.register_keras_serializable("seqrec_tf")
class NextItemObjective(keras.layers.Layer):
    """Loss of each target of a batch.

    Args:
        config: The options.
        num_items: Items that there are, padding not counted.

    Call arguments:
        hidden: float [N, D], states that predict.
        targets: int32 [N], true items.
        sequence: int32 [B, S], the items of each sequence; "uniform" negatives are none of them (but those of "gbce").
        is_target: bool [B, L], where the N targets are.
        table: float32 [V, D], item vectors, a `tf.Variable` or a tensor; for sampled losses also a function that gives
            the rows of ids, int32 [...] to float [..., D].
        bias: float32 [V], item biases, or None.

    Returns:
        float32 [N].
    """

    def __init__(self, config: ObjectiveConfig, num_items: int, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.config = config
        self.num_items = num_items
        self.num_candidates = num_items  # that may be negatives: items 1 to this
        self.seed_generator = keras.random.SeedGenerator()
        self.cumulative = None
        if config.negatives != "uniform":
            # Running sum of the items' weights; until `adapt`, all have the same.
            self.cumulative = self.add_weight(
                name="cumulative", shape=[num_items], initializer="ones", trainable=False, dtype="float64"
            )
            self.cumulative.assign(np.arange(1, num_items + 1))
        self.event_share = None
        if config.negatives == "in-batch":
            # How often an item is a target, whatever the exponent of the items drawn beside them.
            self.event_share = self.add_weight(
                name="event_share", shape=[num_items], initializer="ones", trainable=False, dtype="float64"
            )
        self.built = True  # a model's `call`, by which Keras builds it, does not use this layer

    def adapt(self, item_counts, *, only_seen: bool = False) -> None:
        """Take the training events of each item, a sequence of `num_items` numbers that do not grow.

        An item without any counts as one thousandth of an event, so that its share has a logarithm.

        Args:
            item_counts: The events.
            only_seen: Whether items without events are no negatives of losses that draw uniformly or look at all items.
                For items that are made of features, as a model would else learn that what is new is never chosen.
        """
        self.num_candidates = int(np.count_nonzero(item_counts)) if only_seen else self.num_items
        counts = np.maximum(np.asarray(item_counts, np.float64), 1e-3)
        if self.cumulative is not None:
            weights = counts**self.config.popularity_exponent
            weights[self.num_candidates :] = 0  # ids are in order of frequency
            self.cumulative.assign(np.cumsum(weights))
        if self.event_share is not None:
            self.event_share.assign(counts / counts.sum())

    @property
    def needs_seen(self) -> bool:
        """Whether negatives depend on all items of the sequence, older ones than the model sees included."""
        config = self.config
        draws_each = config.negatives == "uniform" and not config.negatives_are_shared
        return draws_each and config.loss not in ("softmax", "gbce")

    def call(self, hidden, targets, sequence, is_target, table, bias=None):
        config = self.config
        hidden = tf.cast(hidden, tf.float32)
        if config.loss == "softmax":
            rows = self.num_items + 1
            if table.shape[0] != rows:  # that of BERT4Rec's mask comes after the items
                table = tf.ensure_shape(table[:rows], [rows, table.shape[1]])
            bias = None if bias is None else bias / config.temperature
            return losses.cross_entropy(
                hidden / config.temperature, table, bias, targets, first=1, end=self.num_candidates + 1
            )

        def vectors(ids):
            return tf.cast(table(ids, training=True), tf.float32) if callable(table) else tf.gather(table, ids)

        positive = tf.reduce_sum(hidden * vectors(targets), axis=-1)
        positive = positive if bias is None else positive + tf.gather(bias, targets)
        if config.negatives_are_shared:
            ids = self._draw_shared(targets)  # [K]
            negatives = tf.matmul(hidden, vectors(ids), transpose_b=True)
            ids = ids[None, :]
        else:
            ids = self.draw(sequence, is_target)  # [N, K]
            negatives = tf.einsum("nd,nkd->nk", hidden, vectors(ids))
        negatives = negatives if bias is None else negatives + tf.gather(bias, ids)
        return self.loss_of_samples(positive, negatives, targets, ids, is_target)

    def loss_of_samples(self, positive, negatives, targets, ids, is_target):
        """The loss of samples that are scored, but for what the options do to scores: float32 [N].

        Args:
            positive: float32 [N], scores of the true items.
            negatives: float32 [N, K], scores of the negatives.
            targets: int32 [N], the true items.
            ids: int32 [N, K], or [1, K] where all targets share them, the negatives.
            is_target: bool [B, L], where the N targets are.
        """
        config = self.config
        if config.elu:
            positive, negatives = (keras.ops.elu(scores, config.elu) for scores in (positive, negatives))
        if config.loss == "sampled-softmax":
            positive, negatives = positive / config.temperature, negatives / config.temperature
            if config.negatives != "uniform":  # logQ correction: frequent items are drawn as negatives more often
                num_targets = tf.size(targets)
                positive -= self._log_expected(targets, num_targets)
                negatives -= self._log_expected(ids, num_targets)
        is_no_negative = ids == targets[:, None]
        if config.negatives == "in-batch":  # what else the sequence holds was chosen too
            row = tf.where(is_target)[:, 0]
            own = tf.pad(row[:, None] == row[None, :], [[0, 0], [0, config.num_negatives]])
            is_no_negative |= own
        return self.loss_of_scores(positive, tf.where(is_no_negative, -np.inf, negatives))

    def draw(self, sequence, is_target):
        """Negatives of each target: int32 [N, K]."""
        shape = tf.concat([tf.shape(is_target), [self.config.num_negatives]], axis=0)
        if self.config.loss == "gbce":
            drawn = tf.random.stateless_uniform(shape, self._seed(), 1, self.num_candidates + 1, tf.int32)
        elif self.config.negatives == "uniform":
            drawn = sampling.uniform_negatives(sequence, num_items=self.num_candidates, shape=shape, seed=self._seed())
        else:
            drawn = sampling.popularity_negatives(self._weights(), shape=shape, seed=self._seed())
        return tf.boolean_mask(drawn, is_target)

    def _draw_shared(self, targets):
        """Negatives of the whole batch: int32 [K]."""
        shape = [self.config.num_negatives]
        if self.config.negatives == "uniform":
            return tf.random.stateless_uniform(shape, self._seed(), 1, self.num_candidates + 1, tf.int32)
        drawn = sampling.popularity_negatives(self._weights(), shape=shape, seed=self._seed())
        return tf.concat([targets, drawn], axis=0) if self.config.negatives == "in-batch" else drawn

    def _weights(self):
        return tf.convert_to_tensor(self.cumulative)

    def _log_expected(self, ids, num_targets):
        """Logarithm of how often these items are among the negatives of a batch: float32, of the shape of `ids`."""
        cumulative = self._weights()
        below = tf.where(ids > 1, tf.gather(cumulative, tf.maximum(ids - 2, 0)), 0.0)
        expected = (tf.gather(cumulative, ids - 1) - below) / cumulative[-1]
        if self.event_share is not None:
            in_batch = tf.gather(tf.convert_to_tensor(self.event_share), ids - 1)
            expected = tf.cast(num_targets, expected.dtype) * in_batch + self.config.num_negatives * expected
        return tf.cast(tf.math.log(expected), tf.float32)

    def _seed(self):
        return sampling.next_seed(self.seed_generator)

    def loss_of_scores(self, positive, negatives):
        """The loss of scored samples: float32 [N].

        Args:
            positive: float32 [N], logits of the true items.
            negatives: float32 [N, K], logits of the negatives; -inf takes no part.
        """
        config = self.config
        options: dict[str, dict[str, Any]] = {
            "gbce": {"num_items": self.num_candidates, "calibration": config.gbce_calibration},
            "bpr-max": {"regularization": config.regularization},
        }
        return losses.BY_NAME[config.loss](positive, negatives, **options.get(config.loss, {}))
