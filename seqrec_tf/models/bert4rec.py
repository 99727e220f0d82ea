"""BERT4Rec: sequential recommendation with bidirectional encoder representations (Sun et al., CIKM 2019,
arXiv:1904.06690).

A bidirectional encoder learns by the cloze task: random events are replaced by a mask, and predicted from both sides
(Section 3.6). To recommend, a mask is appended to the history. The output layer is a GELU projection, tied to the item
table, with item biases (Section 3.5, eq. 7).

Differs from the paper: the loss is the mean over all masks of a batch, not (eq. 8) over those of each sequence; a layer
norm follows the embeddings, and one the projection; positions count from the newest event, so that padding changes
nothing; the feed-forward's hidden layer has dropout; `last_only_rate` says how many training sequences have just their
newest event masked, which the paper adds without a figure.

Tensor letters: B batch, L length, D model dim, V items (padding included).
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from seqrec_tf import padding
from seqrec_tf.config import ItemFeaturesConfig, check_rate
from seqrec_tf.layers import Embedding, EncoderConfig, LayerNorm, SequenceEncoder
from seqrec_tf.learning.objective import ObjectiveConfig
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.schema import ITEM_IDS, PADDING_ID


@dataclasses.dataclass(frozen=True)
class BERT4RecConfig(EncoderConfig, ObjectiveConfig, ItemFeaturesConfig):
    """Hyper-parameters of BERT4Rec: those of the encoder, of the loss, and of the cloze task.

    Attributes:
        mask_rate: Share of events that are masked; the paper takes 0.2 for MovieLens 1M and 0.6 for Beauty.
        last_only_rate: Share of sequences in which only the newest event is masked, as when recommending.
    """

    mixes_heads: bool = True
    loss: str = "softmax"
    mask_rate: float = 0.2
    last_only_rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_rate("model.mask_rate", self.mask_rate)
        check_rate("model.last_only_rate", self.last_only_rate)


@keras.saving.register_keras_serializable("seqrec_tf")
class BERT4Rec(SequenceModel):
    """Bidirectional encoder trained by the cloze task."""

    config_class = BERT4RecConfig

    def create_layers(self):
        """Item table, encoder, projection."""
        config = self.config
        # The row after the last item is the mask.
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        self.items = Embedding(self.num_items + 2, config.dim, initializer=initializer, name="items")
        self.make_item_features(config.item_features, config.dim)
        self.encoder = SequenceEncoder(config, is_causal=False, name="encoder")
        self.projection = keras.layers.Dense(config.dim, activation="gelu", name="projection")
        self.projection.build([None, config.dim])
        self.projection_norm = LayerNorm(epsilon=1e-6, name="projection_norm")
        self.projection_norm.build([None, config.dim])
        self.make_item_bias()

    def item_table(self):
        """The table that also embeds the inputs: float [V, D]; without side features with a last row, the mask's."""
        return self.represented_table()

    def represent(self, item_ids, training=False):
        """Vectors of items and, by its row alone, of the mask: float [..., D]."""
        if self.item_features is None:
            return super().represent(item_ids, training=training)
        is_item = item_ids <= self.num_items
        of_items = super().represent(tf.where(is_item, item_ids, PADDING_ID), training=training)
        return tf.where(is_item[..., None], of_items, self.items(item_ids, training=training))

    def make_batch(self, sequences, seed):
        """Sequences with some events masked, and what they were.

        Every sequence has a mask: where none falls on it by chance, its newest event is masked.
        """
        config, seed = self.config, tf.convert_to_tensor(seed, tf.int32)
        items = padding.ids(sequences[ITEM_IDS])
        is_real = items != PADDING_ID
        is_newest = is_real & (tf.cumsum(tf.cast(is_real, tf.int32), axis=1, reverse=True) == 1)
        draw = tf.random.stateless_uniform(tf.shape(items), seed)
        is_masked = is_real & (draw < config.mask_rate)
        last_only = tf.random.stateless_uniform([tf.shape(items)[0], 1], seed + 1) < config.last_only_rate
        last_only |= ~tf.reduce_any(is_masked, axis=1, keepdims=True)
        is_masked = tf.where(last_only, is_newest, is_masked)
        inputs = {ITEM_IDS: tf.where(is_masked, self.num_items + 1, items), **self.beside_items(sequences)}
        return inputs, tf.where(is_masked, items, PADDING_ID)

    @property
    def training_events(self):
        """As many as the model takes."""
        return self.config.max_len

    def num_targets(self, lengths):
        """How many events are masked, on average: float32 [B]."""
        rate, last_only = self.config.mask_rate, self.config.last_only_rate
        return last_only + (1.0 - last_only) * (rate * lengths + (1.0 - rate) ** lengths)

    def call(self, inputs, training=False, position=None):
        """Compute hidden states, float [B, L, D], of `item_ids`, int32 [B, L], some of them the mask (num_items + 1).

        Where a position is given, int32 [B], only its state, float [B, D].
        """
        item_ids = inputs[ITEM_IDS]
        embedded = self.represent(item_ids, training=training)
        return self.encoder(embedded, item_ids != PADDING_ID, position=position, training=training)

    def project(self, hidden):
        """Turn states into what is compared with the item table: float [..., D]."""
        return self.projection_norm(self.projection(hidden))

    def query(self, inputs):
        """Compute the state of a mask after the newest `max_len - 1` events: float [B, D]."""
        item_ids = inputs[ITEM_IDS]
        order = tf.argsort(tf.cast(item_ids != PADDING_ID, tf.int32), axis=1, stable=True)  # padding to the left
        history = tf.gather(item_ids, order, batch_dims=1)
        history = history[:, tf.maximum(0, tf.shape(history)[1] - self.config.max_len + 1) :]
        masked = tf.pad(history, [[0, 0], [0, 1]], constant_values=self.num_items + 1)
        newest = tf.fill([tf.shape(masked)[0]], tf.shape(masked)[1] - 1)
        return self.project(self.call({ITEM_IDS: masked}, position=newest))
