"""SASRec: Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018, arXiv:1808.09781).

Learned positions counted from the newest event, causal self-attention, residuals, layer norm and dropout, one item
table for input and output (Section III). Negatives avoid the whole sequence, as in the
authors' code.

Differs from the paper: dropout of the feed-forward's hidden layer, and a choice of loss, norm and activation.

Tensor letters: B batch, L length, D model dim, V items (padding row included).
"""

from __future__ import annotations

import dataclasses

import keras

from seqrec_tf.layers import Embedding, EncoderConfig, SequenceEncoder
from seqrec_tf.models.base import SequenceModel, newest_position
from seqrec_tf.objective import ObjectiveConfig
from seqrec_tf.schema import ITEM_IDS, PADDING_ID


@dataclasses.dataclass(frozen=True)
class SASRecConfig(EncoderConfig, ObjectiveConfig):
    """Hyper-parameters of SASRec: those of the encoder and of the loss, whose defaults are the paper's.

    norm="pre" is the paper's text; "post" is near to the authors' code, which normalises states before each half block
    and keeps no others.
    """

    dim: int = 50
    num_heads: int = 1
    feed_forward_ratio: float = 1.0
    dropout_rate: float = 0.2
    activation: str = "relu"


@keras.saving.register_keras_serializable("seqrec_tf")
class SASRec(SequenceModel):
    """Self-attentive sequential recommender."""

    config_class = SASRecConfig

    def create_layers(self):
        """Item table and encoder."""
        config = self.config
        self.items = Embedding(self.num_items + 1, config.dim, name="items")
        self.encoder = SequenceEncoder(config, is_causal=True, name="encoder")

    def item_table(self):
        """The table that also embeds the inputs: float [V, D]."""
        return self.items.table

    def call(self, inputs, training=False):
        """Hidden states, float [B, L, D], of `item_ids`, int32 [B, L]."""
        return self.encoder(self._embed(inputs), inputs[ITEM_IDS] != PADDING_ID, training=training)

    def query(self, inputs):
        """State of the newest event, float [B, D]; the last block computes only that."""
        newest = newest_position(inputs[ITEM_IDS])
        return self.encoder(self._embed(inputs), inputs[ITEM_IDS] != PADDING_ID, position=newest)

    def _embed(self, inputs):
        return self.items(inputs[ITEM_IDS]) * self.config.dim**0.5
