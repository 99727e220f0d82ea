"""SASRec: Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018, arXiv:1808.09781).

Learned positions counted from the newest event, causal self-attention, residuals, layer norm and dropout, one item
table for input and output (Section III). Negatives avoid the whole sequence, as in the authors' code.

Differs from the paper: dropout of the feed-forward's hidden layer; vectors of items times the root of their width, as
in the authors' code; a choice of loss, norm, activation and gates; side features of items, added to their vectors.

Tensor letters: B batch, L length, D model dim, V items (padding row included).
"""

from __future__ import annotations

import dataclasses

import keras

from seqrec_tf.config import ItemFeaturesConfig
from seqrec_tf.layers import Embedding, EncoderConfig, SequenceEncoder
from seqrec_tf.learning.objective import ObjectiveConfig
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.models.base_batches import newest_position
from seqrec_tf.schema import ITEM_IDS, PADDING_ID


@dataclasses.dataclass(frozen=True)
class SASRecConfig(EncoderConfig, ObjectiveConfig, ItemFeaturesConfig):
    """Hyper-parameters of SASRec: those of the encoder and of the loss.

    The defaults are the paper's but for `norm` and `max_len`: there, a dropout rate of 0.2 goes with 200 events, and of
    0.5 with 50. norm="pre" is the paper's text, with a norm at the end; "post" is near to the authors' code, which
    normalises states before each half block and keeps no others.

    Attributes:
        score_with_features: Whether an item is recommended by its side features too, not by its id alone. Then items
            without training events, whose id says nothing, are recommended by their features.
    """

    dim: int = 50
    num_heads: int = 1
    feed_forward_ratio: float = 1.0
    dropout_rate: float = 0.2
    activation: str = "relu"
    score_with_features: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.score_with_features != type(self).score_with_features and not self.item_features:
            raise ValueError("model.score_with_features needs model.item_features, to score by.")

    @property
    def scores_by_features(self):
        """Where it is asked for."""
        return self.score_with_features and super().scores_by_features


@keras.saving.register_keras_serializable("seqrec_tf")
class SASRec(SequenceModel):
    """Self-attentive sequential recommender."""

    config_class = SASRecConfig

    def create_layers(self):
        """Item table, side features and encoder."""
        config = self.config
        self.items = Embedding(self.num_items + 1, config.dim, name="items")
        self.make_item_features(config.item_features, config.dim)
        self.encoder = self.make_encoder()

    def make_encoder(self):
        """The layer from vectors of events to hidden states."""
        return SequenceEncoder(self.config, is_causal=True, name="encoder")

    def item_table(self):
        """The table that also embeds the inputs: float [V, D]; a `tf.Variable` where it is not made of features."""
        return self.represented_table() if self.scores_by_features else self.items.table

    def encode(self, item_ids, position=None, training=False):
        """Compute the states of int32 [B, L]: float [B, L, D], or [B, D] where a position is given, int32 [B]."""
        embedded = self.represent(item_ids, training=training) * self.config.dim**0.5
        return self.encoder(embedded, item_ids != PADDING_ID, position=position, training=training)

    def call(self, inputs, training=False):
        """Compute hidden states, float [B, L, D], of `item_ids`, int32 [B, L]."""
        return self.encode(inputs[ITEM_IDS], training=training)

    def query(self, inputs):
        """Compute the state of the newest event, float [B, D]; the last block computes only that."""
        return self.encode(inputs[ITEM_IDS], position=newest_position(inputs[ITEM_IDS]))
