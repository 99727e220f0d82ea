"""NeuMF: neural collaborative filtering (He et al., WWW 2017, arXiv:1708.05031, Section 3.4), a baseline of the
BERT4Rec paper, there called NCF.

A generalised matrix factorization, the element-wise product of the vectors of user and item, beside a tower of ReLU
layers on both vectors (of other tables); the score is linear in both outputs (eq. 12). The order of events does not
count: every event of a sequence is a target of its user. A user that training did not see has zero vectors.

Differs from the paper: the two halves are not trained before; weight decay (`train.weight_decay`) stands for the L2
terms. The tower's first layer is the sum of one of users and one of items, which is the same product.

Tensor letters: B batch, L length, D model dim, V items (padding row included), K candidates, N targets.
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from seqrec_tf.config import Sizes, check_at_least
from seqrec_tf.layers import Embedding, UserEmbedding
from seqrec_tf.learning.objective import ObjectiveConfig
from seqrec_tf.models.base_batches import negatives_avoid
from seqrec_tf.models.base_users import UserItemModel
from seqrec_tf.schema import PADDING_ID


@dataclasses.dataclass(frozen=True)
class NeuMFConfig(ObjectiveConfig):
    """Hyper-parameters of NeuMF; those of the loss are in `ObjectiveConfig`.

    Attributes:
        max_len: Events of a user that an epoch learns from.
        num_negatives: Drawn for each target.
        dim: Width of the vectors of the matrix factorization.
        hidden_dims: Widths of the tower's layers; its vectors of users and items are half the first one wide.
    """

    max_len: int = 200
    num_negatives: int = 4
    dim: int = 8
    hidden_dims: tuple[int, ...] = (32, 16, 8)

    def __post_init__(self):
        super().__post_init__()
        check_at_least("model.dim", self.dim, 1)
        if not self.hidden_dims or min(self.hidden_dims) < 1 or self.hidden_dims[0] % 2:
            raise ValueError(
                f"model.hidden_dims must be positive widths, the first one even, got {list(self.hidden_dims)}."
            )
        if self.loss == "softmax" or self.share_negatives or self.negatives == "in-batch":
            raise ValueError(
                "NeuMF scores each user with their own items: choose a sampled model.loss, with model.negatives "
                '"uniform" or "popular" that are not shared.'
            )

    def sizes(self):
        """As wide as the vectors of both halves, side by side."""
        return Sizes(dim=self.dim + self.hidden_dims[0] // 2)


@keras.saving.register_keras_serializable("seqrec_tf")
class NeuMF(UserItemModel):
    """Matrix factorization and a multi-layer perceptron on users and items; users are vectors for both, [dim + W]."""

    config_class = NeuMFConfig

    def create_layers(self):
        """A table of users and one of items, each for both halves; the tower; the last, linear layer."""
        config, width = self.config, self.config.sizes().dim
        self.users = UserEmbedding(self.schema.num_users, width, initializer=0.05, name="users")
        self.items = Embedding(self.num_items + 1, width, initializer=0.05, name="items")
        first, *others = config.hidden_dims
        self.of_user = keras.layers.Dense(first, name="of_user")
        self.of_item = keras.layers.Dense(first, use_bias=False, name="of_item")
        self.tower = [keras.layers.Dense(dim, activation="relu", name=f"hidden_{dim}") for dim in others]
        self.score = keras.layers.Dense(1, dtype="float32", name="score")  # in 16 bits, many items would be alike
        self._score(tf.zeros([1, width], self.compute_dtype), tf.zeros([1, 1], tf.int32))

    def score_block(self, query, start, stop):
        """Score the items with ids in [start, stop): float32 [B, stop - start]; few users at a time, for memory."""
        items = tf.range(start, stop)[None]
        return tf.map_fn(lambda user: self._score(user[None], items)[0], query, fn_output_signature=tf.float32)

    def score_candidates(self, query, candidates):
        """Score each row's own candidates, int [B, K]: float32 [B, K]."""
        return self._score(query, candidates)

    def target_losses(self, x, y, y_pred):
        """Compute the loss of each real target: float32 [N]."""
        is_target = y != PADDING_ID
        targets = tf.boolean_mask(y, is_target)
        ids = self.objective.draw(negatives_avoid(x, y), is_target)  # [N, K]
        scores = self._score(tf.boolean_mask(y_pred, is_target), tf.concat([targets[:, None], ids], axis=1), True)
        return self.objective.loss_of_samples(scores[:, 0], scores[:, 1:], targets, ids, is_target)

    def _score(self, user, items, training=False):
        """Compute scores, float32 [B, K], of users, float [B, W], with items, int [B, K]."""
        dim = self.config.dim
        item = self.items(items, training=training)  # [B, K, W]
        product = user[:, None, :dim] * item[..., :dim]
        hidden = tf.nn.relu(self.of_user(user[:, dim:])[:, None] + self.of_item(item[..., dim:]))
        for layer in self.tower:
            hidden = layer(hidden)
        return self.score(tf.concat([product, hidden], axis=-1))[..., 0]
