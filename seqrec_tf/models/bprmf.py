"""BPRMF: matrix factorization by Bayesian personalized ranking (Rendle et al., UAI 2009, arXiv:1205.2618, Section 4.3);
a baseline of the SASRec, BERT4Rec and GRU4Rec papers.

The score of an item for a user is the dot product of their vectors, plus a bias of the item. The order of events does
not count: every event of a sequence is a target. A user that training did not see has a zero vector, and so gets the
items' biases alone.

Differs from the paper: items have biases; gradients come from batches of users with all their events, no bootstrap of
triples; weight decay (`train.weight_decay`) stands for the L2 terms; the loss and its negatives are options, BPR being
the default.

Tensor letters: B batch, L length, D model dim, V items (padding row included).
"""

from __future__ import annotations

import dataclasses

import keras

from seqrec_tf.config import check_at_least
from seqrec_tf.layers import Embedding, UserEmbedding
from seqrec_tf.learning.objective import ObjectiveConfig
from seqrec_tf.models.base_users import UserItemModel


@dataclasses.dataclass(frozen=True)
class BPRMFConfig(ObjectiveConfig):
    """Hyper-parameters of BPRMF; those of the loss are in `ObjectiveConfig`.

    Attributes:
        max_len: Events of a user that an epoch learns from.
        dim: Width of the vectors of users and items.
    """

    max_len: int = 200
    loss: str = "bpr"
    dim: int = 50

    def __post_init__(self):
        super().__post_init__()
        check_at_least("model.dim", self.dim, 1)


@keras.saving.register_keras_serializable("seqrec_tf")
class BPRMF(UserItemModel):
    """Matrix factorization of users and items."""

    config_class = BPRMFConfig

    def create_layers(self):
        """Tables of users and of items, item biases."""
        self.users = UserEmbedding(self.schema.num_users, self.config.dim, initializer=0.05, name="users")
        self.items = Embedding(self.num_items + 1, self.config.dim, initializer=0.05, name="items")
        self.make_item_bias()

    def item_table(self):
        """Vectors of the items: float [V, D]."""
        return self.items.table
