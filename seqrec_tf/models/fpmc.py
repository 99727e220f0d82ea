"""FPMC: factorized personalized Markov chains (Rendle et al., WWW 2010, Section 4, eq. 5 without the part of user and
last item, which ranks nothing); a baseline of the SASRec and BERT4Rec papers.

The score of an item is how well it suits the user, plus how well it follows the newest event:
s(u, i, j) = <p_u, q_j> + <v_i, w_j>. Baskets of the paper are single events. A user that training did not see has the
second part alone, which is FMC.

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
class FPMC(SequenceModel):
    """Matrix factorization and factorized Markov chain, added."""

    config_class = FMCConfig
    reads = (USER_ID,)

    def create_layers(self):
        """Tables of users, of items as what was left, and of items for both as what is gone to."""
        dim, num_rows = self.config.dim, self.num_items + 1
        self.users = UserEmbedding(self.schema.num_users, dim, initializer=0.05, name="users")
        self.inputs = Embedding(num_rows, dim, initializer=0.05, name="inputs")
        # [q_j, w_j] of an item in one row, so that both products are one.
        self.outputs = Embedding(num_rows, 2 * dim, initializer=0.05, name="outputs")

    def item_table(self):
        """Vectors of an item for users, and for what came before it: float [V, 2 D]."""
        return self.outputs.table

    def call(self, inputs, training=False):
        """Look up vectors of the user and of each event, float [B, L, 2 D]."""
        events = events_or_zero(self.inputs, inputs[ITEM_IDS], training)
        user = tf.repeat(self.users(inputs[USER_ID], training=training)[:, None], tf.shape(events)[1], axis=1)
        return tf.concat([user, events], axis=-1)
