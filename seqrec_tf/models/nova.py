"""NOVA: non-invasive self-attention with side features (Liu et al., AAAI 2021, arXiv:2103.03578), on SASRec.

Side features of the events (categories, numbers, vectors, and the positions) enter queries and keys, where they decide
which event attends to which, and not values: states stay in the space of item vectors, with which they are compared.

Differs from the paper: the encoder is SASRec's, which sees earlier events alone, not BERT4Rec's, so every position is a
target; the loss is an option.

Tensor letters: B batch, L length, D model dim, V items (padding row included).
"""

from __future__ import annotations

import dataclasses

import keras

from seqrec_tf.config import check_choice
from seqrec_tf.layers import FUSIONS, SequenceEncoder
from seqrec_tf.models.sasrec import SASRec, SASRecConfig
from seqrec_tf.schema import PADDING_ID


@dataclasses.dataclass(frozen=True)
class NOVAConfig(SASRecConfig):
    """Hyper-parameters of NOVA: those of SASRec, and the fusion.

    Attributes:
        item_features: Side features of items to read, by name; ["*"] is all that the dataset has.
        score_with_features: Whether an item is recommended by its side features too, not by its id alone.
        fusion: "sum", "concat" or "gating".
    """

    item_features: tuple[str, ...] = ("*",)
    score_with_features: bool = False
    fusion: str = "gating"

    def __post_init__(self):
        super().__post_init__()
        check_choice("model.fusion", self.fusion, FUSIONS)
        if not self.item_features:
            raise ValueError('NOVA needs model.item_features; without any, it is model "sasrec".')


@keras.saving.register_keras_serializable("seqrec_tf")
class NOVA(SASRec):
    """SASRec whose attention looks at side features."""

    config_class = NOVAConfig

    def make_encoder(self):
        """The layer from vectors and side features of events to hidden states."""
        return SequenceEncoder(self.config, is_causal=True, fusion=self.config.fusion, name="encoder")

    def encode(self, item_ids, position=None, training=False):
        """Compute states by the events' ids and, in queries and keys, their features: float [B, L, D], or [B, D]."""
        vectors = self.item_features.known_by_id(self.items(item_ids, training=training), item_ids, training=training)
        return self.encoder(
            vectors * self.config.dim**0.5,
            item_ids != PADDING_ID,
            side=self.item_features(item_ids, training=training),
            position=position,
            training=training,
        )
