"""DIN: Deep Interest Network for click-through rate prediction (Zhou et al., KDD 2018, arXiv:1706.06978), a comparator
of the BST paper.

Each event of the history is weighted by how much it has to do with the candidate, by a small network on both
(Section 4.3, eq. 3); the weights are not normalised, so that their sum tells how strong the interest is. The weighted
sum, the candidate and the user go through a multi-layer perceptron.

Differs from the paper: the activation is PReLU, Dice not being offered, and the mini-batch aware regularization is left
out. The order of events does not count.

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


@dataclasses.dataclass(frozen=True)
class DINConfig(RankingConfig):
    """Hyper-parameters of DIN; most are in `RankingConfig`.

    Attributes:
        attention_dim: Width of the hidden layer of the network that weights events.
    """

    hidden_dims: tuple[int, ...] = (200, 80)
    attention_dim: int = 36

    def __post_init__(self):
        super().__post_init__()
        check_at_least("model.attention_dim", self.attention_dim, 1)


@keras.saving.register_keras_serializable("seqrec_tf")
class DIN(RankingModel):
    """Weighted sum of the history for each candidate, and a perceptron."""

    config_class = DINConfig

    def create_layers(self):
        """Table of items, the network that weights events, perceptron."""
        config = self.config
        self.make_sides()
        self.items = Embedding(self.num_items + 1, config.dim, initializer=0.05, name="items")
        self.dropout = Dropout(config.dropout_rate)
        self.attention_hidden = keras.layers.Dense(config.attention_dim, name="attention_hidden")
        self.attention_activation = keras.layers.PReLU(shared_axes=[1, 2], name="attention_activation")
        self.attention_weight = keras.layers.Dense(1, name="attention_weight")
        self.perceptron = perceptron(config, activation=keras.layers.PReLU)

    def score(self, query, candidates, training=False):
        """Compute the logits, float [B, K], of candidates, int32 [B, K]."""
        events = self.dropout(self.represent(query[HISTORY], training), training=training)[:, None]  # [B, 1, L, D]
        item = self.dropout(self.represent(candidates, training), training=training)  # [B, K, D]
        target = item[:, :, None]  # [B, K, 1, D]
        pair = tf.broadcast_to(events, tf.shape(events * target))
        both = [pair, tf.broadcast_to(target, tf.shape(pair)), events - target, events * target]
        hidden = self.attention_activation(self.attention_hidden(tf.concat(both, axis=-1)))
        is_real = tf.cast(query[HISTORY] != PADDING_ID, hidden.dtype)[:, None, :, None]
        interest = tf.reduce_sum(self.attention_weight(hidden) * is_real * events, axis=2)  # [B, K, D]
        return self.logits([interest, item], query, training)
