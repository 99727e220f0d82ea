"""SPOP: popularity within the session, S-POP of the GRU4Rec paper (Hidasi et al., ICLR 2016, Section 4).

Items are ranked by how often they occur in the history; equal counts by their training events. It recommends what was
seen before, so give data.exclude_history=false.

Tensor letters: B batch, L length, V items (padding row included).
"""

from __future__ import annotations

import keras
import tensorflow as tf

from seqrec_tf.models.poprec import PopRec
from seqrec_tf.schema import ITEM_IDS, PADDING_ID


@keras.saving.register_keras_serializable("seqrec_tf")
class SPOP(PopRec):
    """Session popularity: the score of an item is its count in the history, plus a share below 1 for its popularity."""

    def call(self, inputs, training=False):
        """How often each item has occurred up to each event: float32 [B, L, V]; column 0, padding, is 0."""
        occurs = tf.one_hot(inputs[ITEM_IDS] - 1, self.num_items, dtype=tf.float32)  # nothing at padding
        return tf.pad(tf.cumsum(occurs, axis=1), [[0, 0], [0, 0], [1, 0]])

    def query(self, inputs):
        """How often each item occurs in the history: float32 [B, V]; column 0, padding, is 0."""
        item_ids = inputs[ITEM_IDS]
        shape = [tf.shape(item_ids)[0], self.num_items + 1]
        rows = tf.broadcast_to(tf.range(shape[0])[:, None], tf.shape(item_ids))
        is_real = tf.cast(item_ids != PADDING_ID, tf.float32)
        return tf.scatter_nd(tf.stack([rows, item_ids], axis=-1), is_real, shape)

    def score_block(self, query, start, stop):
        """Score the items with ids in [start, stop): float32 [B, stop - start]."""
        return query[:, start:stop] + self._popularity()[start:stop]

    def score_candidates(self, query, candidates):
        """Score each row's own candidates, int [B, K]: float32 [B, K]."""
        return tf.gather(query, candidates, batch_dims=1) + tf.gather(self._popularity(), candidates)

    def _popularity(self):
        counts = tf.convert_to_tensor(self.counts)
        return 0.999 * counts / tf.maximum(1.0, tf.reduce_max(counts))  # below 1, so that it only parts equal counts
