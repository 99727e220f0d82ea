"""WideDeep: Wide & Deep learning for recommender systems (Cheng et al., DLRS 2016, arXiv:1606.07792), a comparator of
the BST paper, with and without the averaged history.

The wide part is linear in the candidate and in crosses of each event of the history with the candidate (Section 3.1);
the deep part is a multi-layer perceptron on the candidate, the user and the mean of the history's embeddings.

Differs from the paper: one optimizer trains both parts, and without `num_crosses` the wide part has no crosses.

Tensor letters: B batch, L length, D model dim, K candidates.
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from seqrec_tf.config import check_at_least
from seqrec_tf.layers import Dropout, Embedding
from seqrec_tf.models.base_ranking import HISTORY, RankingConfig, RankingModel, perceptron
from seqrec_tf.schema import PADDING_ID

# The prime nearest to 2^31 / golden ratio; it spreads neighbouring ids over the buckets.
_SPREAD = 1_327_217_867


@dataclasses.dataclass(frozen=True)
class WideDeepConfig(RankingConfig):
    """Hyper-parameters of WideDeep; most are in `RankingConfig`.

    Attributes:
        use_history: Whether the history takes part: its mean in the deep part, its crosses in the wide part.
        num_crosses: Buckets that the crosses of event and candidate are hashed to; no crosses where 0.
    """

    hidden_dims: tuple[int, ...] = (256, 128, 64)
    use_history: bool = True
    num_crosses: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_at_least("model.num_crosses", self.num_crosses, 0)
        if self.num_crosses and not self.use_history:
            raise ValueError(
                "model.num_crosses does nothing with model.use_history=false: there are no events to cross."
            )


@keras.saving.register_keras_serializable("seqrec_tf")
class WideDeep(RankingModel):
    """Linear crosses beside a perceptron."""

    config_class = WideDeepConfig

    def create_layers(self):
        """Table of items, weights of the wide part, perceptron."""
        config = self.config
        self.make_sides()
        self.items = Embedding(self.num_items + 1, config.dim, initializer=0.05, name="items")
        self.wide_items = Embedding(self.num_items + 1, 1, initializer="zeros", name="wide_items")
        self.wide_crosses = None
        if config.use_history and config.num_crosses:
            self.wide_crosses = Embedding(config.num_crosses, 1, initializer="zeros", name="wide_crosses")
        self.dropout = Dropout(config.dropout_rate)
        self.perceptron = perceptron(config, activation=keras.layers.ReLU)

    def _wide_and_deep(self, item_ids, training):
        """Look up vectors, float [..., D], and wide weights, float [...], of items; an id is known to both or none."""
        wide = self.wide_items(item_ids, training=training)
        if self.item_features is None:
            return self.items(item_ids, training=training), wide[..., 0]
        by_id = tf.concat([self.items(item_ids, training=training), wide], axis=-1)
        by_id = self.item_features.known_by_id(by_id, item_ids, training=training)
        return tf.add_n([by_id[..., :-1], *self.item_features(item_ids, training=training)]), by_id[..., -1]

    def score(self, query, candidates, training=False):
        """Compute the logits, float [B, K], of candidates, int32 [B, K]."""
        history = query[HISTORY]
        vectors, wide = self._wide_and_deep(candidates, training)
        parts = [self.dropout(vectors, training=training)]
        if self.config.use_history:
            events = self.dropout(self.represent(history, training), training=training)
            is_real = tf.cast(history != PADDING_ID, events.dtype)  # [B, L]
            mean = tf.reduce_sum(events * is_real[..., None], axis=1)
            mean /= tf.maximum(tf.reduce_sum(is_real, axis=1, keepdims=True), 1)
            parts.append(tf.repeat(mean[:, None], tf.shape(candidates)[1], axis=1))
            if self.wide_crosses is not None:
                buckets = cross_bucket(history[:, None], candidates[..., None], self.config.num_crosses)
                crosses = self.wide_crosses(buckets, training=training)
                wide += tf.reduce_sum(crosses[..., 0] * is_real[:, None], axis=2)
        return tf.cast(wide, tf.float32) + self.logits(parts, query, training)


def cross_bucket(event, candidate, num_crosses):
    """The bucket of each pair of items, int32 in [0, num_crosses), of int32 tensors that broadcast."""
    event, candidate = tf.cast(event, tf.int64), tf.cast(candidate, tf.int64)
    return tf.cast((event * _SPREAD + candidate) % num_crosses, tf.int32)
