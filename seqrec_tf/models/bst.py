"""BST: Behavior Sequence Transformer for e-commerce recommendation (Chen et al., DLP-KDD 2019, arXiv:1905.06874).

The events of the history and the candidate pass one transformer block together; all its outputs, side by side, with the
candidate and the user, go through a multi-layer perceptron that ends in the logit of a click (Section 2; all, as in
Figure 1: Section 2.3 can be read as the candidate's output alone). The position of an event is how long it lies before
the moment of the candidate (Section 2.1), beside the item's embedding.

Differs from the paper: time gaps are bucketed by their logarithm, and are counts of events where the data has no times.

Tensor letters: B batch, L length, D width of an event, K candidates.
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from seqrec_tf.config import check_at_least
from seqrec_tf.layers import Dropout, Embedding, EncoderConfig, TransformerBlock, attention_bias
from seqrec_tf.models.base_ranking import AGES, HISTORY, RankingConfig, RankingModel, perceptron
from seqrec_tf.schema import PADDING_ID, TIMESTAMPS


@dataclasses.dataclass(frozen=True)
class BSTConfig(RankingConfig):
    """Hyper-parameters of BST; most are in `RankingConfig`, with the paper's values as defaults (Section 3.1).

    Attributes:
        age_dim: Width of the embedding of how long ago an event was.
        num_blocks: Transformer blocks.
        num_heads: Attention heads; they divide dim + age_dim.
        feed_forward_ratio: Width of the blocks' hidden layer over dim + age_dim.
    """

    age_dim: int = 32
    num_blocks: int = 1
    num_heads: int = 8
    feed_forward_ratio: float = 4.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("age_dim", "num_blocks", "num_heads"):
            check_at_least(f"model.{name}", getattr(self, name), 1)
        check_at_least("model.feed_forward_ratio", self.feed_forward_ratio, 1 / (self.dim + self.age_dim))
        if (self.dim + self.age_dim) % self.num_heads:
            raise ValueError(
                f"model.num_heads must divide model.dim + model.age_dim, got {self.num_heads} heads for "
                f"{self.dim} + {self.age_dim}."
            )

    def sizes(self):
        """Those of every ranking model, and the blocks."""
        return dataclasses.replace(super().sizes(), num_blocks=self.num_blocks, num_heads=self.num_heads)


@keras.saving.register_keras_serializable("seqrec_tf")
class BST(RankingModel):
    """Transformer over history and candidate, and a perceptron."""

    config_class = BSTConfig
    reads = (TIMESTAMPS,)

    def create_layers(self):
        """Tables of items and ages, blocks, perceptron."""
        config = self.config
        width = config.dim + config.age_dim
        self.make_sides()
        self.items = Embedding(self.num_items + 1, config.dim, initializer=0.05, name="items")
        self.ages = Embedding(self.num_ages, config.age_dim, initializer=0.05, name="ages")
        self.dropout = Dropout(config.dropout_rate)
        of_blocks = EncoderConfig(
            dim=width,
            num_heads=config.num_heads,
            feed_forward_ratio=config.feed_forward_ratio,
            dropout_rate=config.dropout_rate,
            mixes_heads=True,
            norm="post",
            activation="leaky_relu",
        )
        self.blocks = [TransformerBlock(of_blocks, name=f"block_{i}") for i in range(config.num_blocks)]
        self.perceptron = perceptron(config, activation=keras.layers.LeakyReLU)

    def score(self, query, candidates, training=False):
        """Compute the logits, float [B, K], of candidates, int32 [B, K]."""
        config, history = self.config, query[HISTORY]
        rows, number = tf.shape(candidates)[0], tf.shape(candidates)[1]
        length, width = config.max_len, config.dim + config.age_dim
        events = tf.concat([self.represent(history, training), self.ages(query[AGES])], axis=-1)  # [B, L, D]
        item = self.represent(candidates, training)
        target = tf.concat([item, self.ages(tf.ones_like(candidates))], axis=-1)  # [B, K, D], at the shortest gap
        tokens = tf.concat([tf.repeat(events[:, None], number, axis=1), target[:, :, None]], axis=2)
        tokens = tf.reshape(tokens, [rows * number, length + 1, width])
        is_real = tf.repeat(history != PADDING_ID, number, axis=0)
        is_real = tf.pad(is_real, [[0, 0], [0, 1]], constant_values=True)  # [B K, L + 1]
        hidden = self.dropout(tokens, training=training)
        bias = attention_bias(is_real, hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden, bias, training=training)
        hidden *= tf.cast(is_real, hidden.dtype)[..., None]
        outputs = tf.reshape(hidden, [rows, number, (length + 1) * width])
        return self.logits([outputs, item], query, training)
