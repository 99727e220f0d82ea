"""TransRec: translation-based recommendation (He et al., RecSys 2017, arXiv:1707.02410), a baseline of the SASRec
paper.

Items are points, users translations: the next item lies near to where the user's translation takes the newest event
(eq. 3-4). With the squared Euclidean distance d,

s(u, i, j) = beta_j - d(gamma_i + t + t_u, gamma_j) = beta_j - |gamma_j|^2 + 2 <gamma_i + t + t_u, gamma_j> - (what does
not depend on j),

a dot product and an item bias. Points stay in the unit ball (Section 3.3). A user that training did not see has
t_u = 0, as the paper has it for new users.

Differs from the paper: weight decay (`train.weight_decay`) stands for the L2 terms, and the loss and its negatives are
options; BPR (S-BPR of the paper) is the default.

Tensor letters: B batch, L length, D model dim, V items (padding row included).
"""

from __future__ import annotations

import keras
import tensorflow as tf

from seqrec_tf.layers import Embedding, UserEmbedding
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.models.base_batches import events_or_zero
from seqrec_tf.models.fmc import FMCConfig
from seqrec_tf.schema import ITEM_IDS, USER_ID


@keras.saving.register_keras_serializable("seqrec_tf")
class TransRec(SequenceModel):
    """Items as points, users as translations."""

    config_class = FMCConfig
    reads = (USER_ID,)

    def create_layers(self):
        """Points of the items, their biases, the translation of all users and that of each."""
        dim, num_rows = self.config.dim, self.num_items + 1
        self.items = Embedding(
            num_rows, dim, initializer=dim**-0.5, constraint=keras.constraints.MaxNorm(1.0, axis=1), name="items"
        )
        self.users = UserEmbedding(self.schema.num_users, dim, initializer="zeros", name="users")
        self.translation = self.add_weight(name="translation", shape=[dim], initializer="zeros")
        self.make_item_bias()

    def item_table(self):
        """Points of the items: float [V, D]."""
        return self.items.table

    def item_bias(self):
        """Bias of each item less its squared length: float32 [V]."""
        squares = tf.reduce_sum(tf.square(tf.cast(self.items.table, tf.float32)), axis=1)
        return super().item_bias() - squares

    def call(self, inputs, training=False):
        """Where each event is taken, float [B, L, D]."""
        events = events_or_zero(self.items, inputs[ITEM_IDS], training)
        user = self.users(inputs[USER_ID], training=training) + tf.cast(self.translation, events.dtype)
        return events + user[:, None]

    def project(self, hidden):
        """Twice the states: the factor of the dot product in a squared distance."""
        return 2.0 * hidden
