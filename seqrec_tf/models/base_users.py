"""What the models share that know users and items, and no order of events.

Tensor letters: B batch, L length, D width of what is known of a user.
"""

from __future__ import annotations

import tensorflow as tf

from seqrec_tf import padding
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.schema import ITEM_IDS, USER_ID


class UserItemModel(SequenceModel):
    """Base of models of users and items; a subclass creates the layer `users`, a `UserEmbedding`."""

    reads = (USER_ID,)

    def make_batch(self, sequences, seed):
        """Every event is a target of its user."""
        targets = padding.ids(sequences[ITEM_IDS])
        return {ITEM_IDS: targets, **self.beside_items(sequences)}, targets

    @property
    def training_events(self):
        """As many as there are targets."""
        return self.config.max_len

    def num_targets(self, lengths):
        """All events: float32 [B]."""
        return lengths

    def call(self, inputs, training=False):
        """Look up the vector of the user, float [B, L, D], the same for each event."""
        length = tf.shape(inputs[ITEM_IDS])[1]
        return tf.repeat(self.users(inputs[USER_ID], training=training)[:, None], length, axis=1)

    def query(self, inputs):
        """Look up the vector of the user, float [B, D]."""
        return self.users(inputs[USER_ID])
