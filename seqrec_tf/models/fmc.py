"""FMC: a factorized first-order Markov chain, the sequential half of FPMC (Rendle et al., WWW 2010, Section 4) without
its users; a baseline of the SASRec paper (Table III).

The score of an item after a history is the dot product of two embeddings, one of the newest event as what was left and
one of the item as what is gone to: s(i, j) = <v_i, w_j>. Older events do not count.

Differs from the paper: the loss and its negatives are options; BPR, the paper's, is the default.

Tensor letters: B batch, L length, D model dim, V items (padding row included).
"""

from __future__ import annotations

import dataclasses

import keras

from seqrec_tf.config import check_at_least
from seqrec_tf.layers import Embedding
from seqrec_tf.learning.objective import ObjectiveConfig
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.schema import ITEM_IDS


@dataclasses.dataclass(frozen=True)
class FMCConfig(ObjectiveConfig):
    """Hyper-parameters of FMC, FPMC and TransRec; those of the loss are in `ObjectiveConfig`.

    Attributes:
        dim: Width of all embeddings.
    """

    loss: str = "bpr"
    dim: int = 50

    def __post_init__(self):
        super().__post_init__()
        check_at_least("model.dim", self.dim, 1)


@keras.saving.register_keras_serializable("seqrec_tf")
class FMC(SequenceModel):
    """Factorized Markov chain of items."""

    config_class = FMCConfig

    def create_layers(self):
        """A table of items as what was left, and one of items as what is gone to."""
        self.inputs, self.outputs = (
            Embedding(self.num_items + 1, self.config.dim, name=name) for name in ("inputs", "outputs")
        )

    def item_table(self):
        """Embeddings of what is gone to: float [V, D]."""
        return self.outputs.table

    def call(self, inputs, training=False):
        """Embedding of each event as what was left, float [B, L, D], of `item_ids`, int32 [B, L]."""
        return self.inputs(inputs[ITEM_IDS], training=training)
