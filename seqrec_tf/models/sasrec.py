"""SASRec: Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018, arXiv:1808.09781).

Learned positions counted from the newest event, causal self-attention, residuals, layer norm and dropout, one item
table for input and output (Section III). Negatives avoid the whole sequence, as in the authors' code.

Differs from the paper: dropout of the feed-forward's hidden layer, and a choice of loss, norm and activation.

Tensor letters: B batch, L length, D model dim, V items (padding row included).
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from seqrec_tf.config import ModelConfig, check_at_least, check_choice, check_rate
from seqrec_tf.layers import TransformerBlock, attention_bias
from seqrec_tf.models.base import SequenceModel, newest_position
from seqrec_tf.schema import ITEM_IDS, PADDING_ID


@dataclasses.dataclass(frozen=True)
class SASRecConfig(ModelConfig):
    """Hyper-parameters of SASRec.

    Attributes:
        dim: Width of embeddings and hidden states.
        num_blocks: Transformer blocks.
        num_heads: Attention heads.
        feed_forward_ratio: Width of the feed-forward's hidden layer over `dim`.
        dropout_rate: Of embeddings, attention weights and what each half block adds.
        norm: "pre" (the paper) or "post".
        activation: Of the feed-forward network.
        loss: "bce" (the paper) or "softmax" over all items.
        num_negatives: Sampled for each target by "bce".
    """

    dim: int = 50
    num_blocks: int = 2
    num_heads: int = 1
    feed_forward_ratio: float = 1.0
    dropout_rate: float = 0.2
    norm: str = "pre"
    activation: str = "relu"
    loss: str = "bce"
    num_negatives: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name in ("dim", "num_blocks", "num_heads", "num_negatives"):
            check_at_least(f"model.{name}", getattr(self, name), 1)
        check_rate("model.dropout_rate", self.dropout_rate)
        check_choice("model.norm", self.norm, ("pre", "post"))
        check_choice("model.loss", self.loss, ("bce", "softmax"))
        if self.dim % self.num_heads:
            raise ValueError(f"model.num_heads must divide model.dim, got {self.num_heads} heads for dim {self.dim}.")


@keras.saving.register_keras_serializable("seqrec_tf")
class SASRec(SequenceModel):
    """Self-attentive sequential recommender."""

    config_class = SASRecConfig

    def create_layers(self):
        """Item and position tables, transformer blocks, last norm."""
        config = self.config
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        self.items = keras.layers.Embedding(
            self.num_items + 1, config.dim, embeddings_initializer=initializer, name="items"
        )
        # Row p is the p-th newest event; row 0 is padding.
        self.positions = keras.layers.Embedding(
            config.max_len + 1, config.dim, embeddings_initializer=initializer, name="positions"
        )
        self.dropout = keras.layers.Dropout(config.dropout_rate)
        self.blocks = [
            TransformerBlock(
                num_heads=config.num_heads,
                feed_forward_dim=round(config.feed_forward_ratio * config.dim),
                dropout_rate=config.dropout_rate,
                norm=config.norm,
                activation=config.activation,
                name=f"block_{i}",
            )
            for i in range(config.num_blocks)
        ]
        self.last_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="last_norm")

    def item_table(self):
        """The table that also embeds the inputs: float [V, D]."""
        return self.items.embeddings

    def call(self, inputs, training=False):
        """Hidden states, float [B, L, D], of `item_ids`, int32 [B, L]."""
        hidden, bias = self._embed(inputs[ITEM_IDS], training)
        for block in self.blocks:
            hidden = block(hidden, bias, training=training)
        return self.last_norm(hidden)

    def query(self, inputs):
        """State of the newest event, float [B, D]; the last block computes only that."""
        hidden, bias = self._embed(inputs[ITEM_IDS], training=False)
        for block in self.blocks[:-1]:
            hidden = block(hidden, bias)
        newest = newest_position(inputs[ITEM_IDS])
        queries = tf.gather(hidden, newest[:, None], axis=1, batch_dims=1)  # [B, 1, D]
        bias = tf.gather(bias, newest[:, None, None], axis=2, batch_dims=1)  # [B, 1, 1, L]
        bias = tf.reshape(bias, [tf.shape(hidden)[0], 1, 1, tf.shape(hidden)[1]])
        return self.last_norm(self.blocks[-1](hidden, bias, queries=queries))[:, 0]

    def _embed(self, item_ids, training):
        is_real = item_ids != PADDING_ID
        age = tf.cumsum(tf.cast(is_real, tf.int32), axis=1, reverse=True)  # 1 at the newest event
        age = tf.minimum(age, self.config.max_len) * tf.cast(is_real, tf.int32)
        hidden = self.items(item_ids) * self.config.dim**0.5 + self.positions(age)
        hidden = self.dropout(hidden, training=training)
        return hidden, attention_bias(is_real, causal=True, dtype=hidden.dtype)
