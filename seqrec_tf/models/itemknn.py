"""ItemKNN: items like those of the history (Deshpande and Karypis, TOIS 2004), a baseline of the GRU4Rec paper
(Section 4).

Two items are alike as the vectors of the training sequences that hold them: with n_i sequences that hold i and n_ij
that hold both, the cosine is n_ij / sqrt((n_i + r) (n_j + r)), where r keeps rare items from being too sure. The score
of an item is the sum of its similarity with each event of the history; max_len = 1 is the GRU4Rec paper's, which looks
at the newest alone. Nothing is learned by gradients.

Tensor letters: B batch, L length, V items (padding row included), K neighbours of an item.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from seqrec_tf.config import ModelConfig, Sizes, check_at_least
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.schema import ITEM_IDS, PADDING_ID

# Numbers that the co-occurrences of a block of items with all others may take: 256 MB.
_BLOCK_NUMBERS = 64_000_000


@dataclasses.dataclass(frozen=True)
class ItemKNNConfig(ModelConfig):
    """Options of ItemKNN.

    Attributes:
        num_neighbors: Items that are kept as being like an item, the likest.
        regularization: r, sequences.
    """

    num_neighbors: int = 100
    regularization: float = 20.0

    def __post_init__(self):
        super().__post_init__()
        check_at_least("model.num_neighbors", self.num_neighbors, 1)
        check_at_least("model.regularization", self.regularization, 0)

    def sizes(self):
        """Of each neighbour an id and a similarity; neither has a gradient or moments, so both count as half a unit."""
        return Sizes(dim=-(-self.num_neighbors // 2))


@keras.saving.register_keras_serializable("seqrec_tf")
class ItemKNN(SequenceModel):
    """Item-to-item cosine similarity."""

    config_class = ItemKNNConfig
    scores_by_similarity = True

    def create_layers(self):
        """The neighbours of each item, without order, and how like it they are; filled by `adapt`."""
        shape = [self.num_items + 1, min(self.config.num_neighbors, self.num_items)]
        self.neighbors = self.add_weight(name="neighbors", shape=shape, dtype="int32", trainable=False)
        self.neighbors.assign(tf.broadcast_to(tf.range(1, shape[1] + 1), shape))
        self.similarities = self.add_weight(
            name="similarities", shape=shape, initializer="zeros", dtype="float32", trainable=False, autocast=False
        )

    def adapt(self, dataset):
        """Count which items occur in the same training sequences of a dataset folder."""
        self.count(*dataset.training_events())

    def count(self, rows, items):
        """Take the training events: numpy int64 [E], the sequence of each; numpy int64 [E], its item."""
        pairs = np.unique(np.stack([rows, items], axis=1).astype(np.int64), axis=0)  # sorted by sequence
        num_rows, num_columns = int(pairs[-1, 0]) + 1, self.num_items + 1
        frequency = np.bincount(pairs[:, 1], minlength=num_columns)
        norm = np.sqrt(frequency + self.config.regularization)
        norm[norm == 0] = 1.0
        incidence = tf.SparseTensor(pairs, tf.ones([len(pairs)]), [num_rows, num_columns])
        width = max(1, min(num_columns, _BLOCK_NUMBERS // max(num_rows, num_columns)))
        kept = self.similarities.shape[1]
        neighbors = np.zeros([num_columns, kept], np.int32)
        similarities = np.zeros([num_columns, kept], np.float32)
        for start in range(1, num_columns, width):
            block = np.arange(start, min(start + width, num_columns))
            mine = pairs[(pairs[:, 1] >= block[0]) & (pairs[:, 1] <= block[-1])]
            held = np.zeros([num_rows, len(block)], np.float32)
            held[mine[:, 0], mine[:, 1] - start] = 1.0
            together = tf.sparse.sparse_dense_matmul(incidence, held, adjoint_a=True).numpy().T  # [block, V]
            together[np.arange(len(block)), block] = 0.0  # an item is not its own neighbour
            cosine = together / (norm[block][:, None] * norm)
            cosine[:, PADDING_ID] = -1.0
            best, ids = tf.math.top_k(cosine, kept)  # of equals, the more frequent
            neighbors[block], similarities[block] = ids, np.maximum(best, 0.0)
        self.neighbors.assign(neighbors)
        self.similarities.assign(similarities)

    def call(self, inputs, training=False):
        """The history at each event: int32 [B, L, L], the ids up to it, and 0."""
        item_ids = inputs[ITEM_IDS]
        place = tf.range(tf.shape(item_ids)[1])
        return tf.where(place[:, None] >= place, item_ids[:, None], PADDING_ID)

    def query(self, inputs):
        """The history itself: int32 [B, L]."""
        return inputs[ITEM_IDS]

    def score_block(self, query, start, stop):
        """Score the items with ids in [start, stop): float32 [B, stop - start]."""
        rows, width = tf.shape(query)[0], stop - start
        neighbors = tf.gather(tf.convert_to_tensor(self.neighbors), query)  # [B, L, K]
        similarities = tf.gather(tf.convert_to_tensor(self.similarities), query)
        in_block = (query[..., None] != PADDING_ID) & (neighbors >= start) & (neighbors < stop)
        column = tf.where(in_block, neighbors - start, width)  # others fall into a column that is cut off
        row = tf.broadcast_to(tf.range(rows)[:, None, None], tf.shape(column))
        return tf.scatter_nd(tf.stack([row, column], axis=-1), similarities, [rows, width + 1])[:, :width]

    def score_candidates(self, query, candidates):
        """Score each row's own candidates, int [B, K]: float32 [B, K]; of 0, which is none, any."""
        return tf.gather(self.score_block(query, 1, self.num_items + 1), tf.maximum(candidates - 1, 0), batch_dims=1)
