"""Embeddings of users by who they are.

Tensor letters: B batch, D model dim, U users.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from seqrec_tf.layers.embedding import Embedding

# Whom no dataset has: padding of the table.
_NOBODY = -1


@keras.saving.register_keras_serializable("seqrec_tf")
class UserEmbedding(keras.layers.Layer):
    """A learned vector for each training user, and the zero vector for anybody else.

    Zero is the mean of the vectors that training starts from. The layer knows a user by the fingerprint of the user's
    id, and keeps the sorted fingerprints as a weight, so that a saved model needs no vocabulary of users.

    Example: `adapt([7, 3])` makes users 3 and 7 known. Where they have the vectors [1, 2] and [3, 4], users [3, 5, 7]
    give [[1, 2], [0, 0], [3, 4]].

    Args:
        num_users: Number of users that have training sequences.
        dim: D, the width of the vectors.
        initializer: How the vectors start, as in `Embedding`.

    Call arguments:
        user: int64 [B], fingerprints from `records.user_fingerprint`.
        training: Whether vectors are read in place.

    Returns:
        float [B, D].

    Raises:
        ValueError: There are no users.
    """

    def __init__(self, num_users, dim, *, initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if num_users < 1:
            raise ValueError(
                "This model learns a vector of each user, and the schema of its dataset counts none. Prepare the "
                "dataset with a --user-column, set model.use_users=false or model.user_dim=0 where the model has that "
                "option, or choose a model that knows users by their history alone."
            )
        self.num_users = num_users
        self.dim = dim
        self.vectors = Embedding(num_users, dim, initializer=initializer, name="vectors", dtype=self.dtype_policy)

    def build(self, user_shape=None):
        self.fingerprints = self.add_weight(
            name="fingerprints",
            shape=[self.num_users],
            dtype="int64",
            initializer=keras.initializers.Constant(_NOBODY),
            trainable=False,
        )

    def adapt(self, fingerprints) -> None:
        """Take who the training users are.

        Args:
            fingerprints: int64 [U], in any order, repeats allowed; at most `num_users` different ones.
        """
        known = np.unique(fingerprints)
        padding = np.full(self.num_users - len(known), _NOBODY, np.int64)
        self.fingerprints.assign(np.concatenate([padding, known]))

    def is_known(self, user):
        """Whether each user has a vector: bool [B]."""
        return self._find(user)[1]

    def call(self, user, training=False):
        row, is_known = self._find(user)
        vectors = self.vectors(row, training=training)
        return tf.where(is_known[:, None], vectors, tf.zeros_like(vectors))

    def _find(self, user):
        fingerprints = tf.convert_to_tensor(self.fingerprints)
        row = tf.minimum(tf.searchsorted(fingerprints, user), self.num_users - 1)
        return row, (user >= 0) & (tf.gather(fingerprints, row) == user)

    def get_config(self):
        return {
            **super().get_config(),
            "num_users": self.num_users,
            "dim": self.dim,
            "initializer": self.vectors.get_config()["initializer"],
        }
