"""GRU4Rec: session-based recommendations with recurrent neural networks (Hidasi et al., ICLR 2016, arXiv:1511.06939),
with the losses and samples of GRU4Rec+ (Hidasi and Karatzoglou, CIKM 2018, arXiv:1706.03847).

One or several GRU layers over the session, an activation on the scores, item biases, input and output embeddings tied
or separate.

Differs from the authors' code in its batching: it runs whole sessions in parallel, padded to batches of like length,
and so backpropagates through the whole session. The authors' session-parallel mini-batches take one event of each
session a step and cut the gradient there. All targets of a batch share one draw of negatives, where the authors draw
anew for each event of the sessions, and a sample that is the target takes no part. The GRU is Keras' (cuDNN's variant,
reset after the product), and dropout of hidden states does not reach the recurrence.

Tensor letters: B batch, L length, D embedding width, V items (padding included).
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from seqrec_tf.config import ItemFeaturesConfig, Sizes, check_at_least, check_rate
from seqrec_tf.layers import GRU, Dropout, Embedding
from seqrec_tf.learning.objective import ObjectiveConfig
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.models.base_batches import align_left
from seqrec_tf.schema import ITEM_IDS


@dataclasses.dataclass(frozen=True)
class GRU4RecConfig(ObjectiveConfig, ItemFeaturesConfig):
    """Hyper-parameters of GRU4Rec; those of the loss are in `ObjectiveConfig`.

    Attributes:
        units: Width of each GRU layer.
        num_layers: GRU layers.
        is_tied: Whether one table embeds inputs and scores outputs; embeddings then are `units` wide.
        dim: Width of input embeddings that are not tied.
        embedding_dropout_rate: Share that is dropped of input embeddings.
        hidden_dropout_rate: Share that is dropped of what each GRU layer gives.
    """

    loss: str = "bpr-max"
    negatives: str = "popular"
    share_negatives: bool = True
    num_negatives: int = 2048
    units: int = 100
    num_layers: int = 1
    is_tied: bool = True
    dim: int = 100
    embedding_dropout_rate: float = 0.0
    hidden_dropout_rate: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("units", "num_layers", "dim"):
            check_at_least(f"model.{name}", getattr(self, name), 1)
        if self.is_tied and self.dim != type(self).dim:
            raise ValueError(
                "model.dim is the width of embeddings that are not tied: set model.units, or model.is_tied=false too."
            )
        check_rate("model.embedding_dropout_rate", self.embedding_dropout_rate)
        check_rate("model.hidden_dropout_rate", self.hidden_dropout_rate)

    def sizes(self):
        """As wide as its units."""
        return Sizes(dim=self.units)

    @property
    def scores_by_features(self):
        """Where inputs and outputs are one table."""
        return self.is_tied and super().scores_by_features


@keras.saving.register_keras_serializable("seqrec_tf")
class GRU4Rec(SequenceModel):
    """Recurrent session-based recommender."""

    config_class = GRU4RecConfig

    def create_layers(self):
        """Item tables, item biases, GRU layers."""
        config = self.config
        num_rows = self.num_items + 1
        self.outputs = Embedding(num_rows, config.units, initializer="glorot_uniform", name="outputs")
        self.items = self.outputs
        if not config.is_tied:
            self.items = Embedding(num_rows, config.dim, initializer="glorot_uniform", name="inputs")
        self.make_item_features(config.item_features, self.items.dim)
        self.make_item_bias()
        self.embedding_dropout = Dropout(config.embedding_dropout_rate)
        self.hidden_dropout = Dropout(config.hidden_dropout_rate)
        self.layers_of_gru = [GRU(config.units, name=f"gru_{i}") for i in range(config.num_layers)]

    def item_table(self):
        """Output embeddings: float [V, D]; made of side features too where they are those of the inputs."""
        return self.represented_table() if self.config.is_tied else self.outputs.table

    def call(self, inputs, training=False):
        """Compute hidden states, float [B, L, units], of `item_ids`, int32 [B, L]."""
        aligned, place = align_left(inputs[ITEM_IDS])  # so that the recurrence needs no mask
        hidden = self.embedding_dropout(self.represent(aligned, training), training=training)
        for gru in self.layers_of_gru:
            hidden = self.hidden_dropout(gru(hidden, training=training), training=training)
        return tf.gather(hidden, place, batch_dims=1)  # [B, L, units]
