"""Caser: convolutional sequence embedding (Tang and Wang, WSDM 2018), a baseline of the SASRec and BERT4Rec papers.

The newest events are an image, one row an event: horizontal filters, as wide as the embedding, look for patterns of one
to all of its rows, vertical filters weigh the rows (Section 3.2). What they find, through a layer, beside the vector of
the user, is compared with a table of output vectors that is not that of the inputs (Section 3.3). Each window predicts
the next items, not the next one alone (Section 3.4, "skip behaviors").

Differs from the paper: weight decay (`train.weight_decay`) stands for the L2 terms, and the loss is an option.

Tensor letters: B batch, L length, W events of a window, D model dim, V items (padding row included).
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from seqrec_tf.config import Sizes, check_at_least, check_rate
from seqrec_tf.layers import Dropout, Embedding, UserEmbedding
from seqrec_tf.learning.objective import ObjectiveConfig
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.models.base_batches import align_left, events_or_zero
from seqrec_tf.schema import ITEM_IDS, PADDING_ID, USER_ID


@dataclasses.dataclass(frozen=True)
class CaserConfig(ObjectiveConfig):
    """Hyper-parameters of Caser, with the paper's values as defaults; those of the loss are in `ObjectiveConfig`.

    Attributes:
        max_len: Events of a sequence that an epoch learns from.
        num_negatives: Drawn for each target.
        dim: Width of the embeddings of items and users.
        window: Newest events that a prediction looks at (L of the paper).
        num_targets: Next items that each window predicts (T of the paper).
        num_horizontal: Horizontal filters of each height.
        num_vertical: Vertical filters.
        use_users: Whether users have vectors; without, every user is known by their history alone.
        dropout_rate: Share that is dropped of what the filters find.
    """

    max_len: int = 200
    num_negatives: int = 3
    dim: int = 50
    window: int = 5
    num_targets: int = 3
    num_horizontal: int = 16
    num_vertical: int = 4
    use_users: bool = True
    dropout_rate: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        for name in ("dim", "window", "num_targets", "num_horizontal", "num_vertical"):
            check_at_least(f"model.{name}", getattr(self, name), 1)
        check_rate("model.dropout_rate", self.dropout_rate)

    def sizes(self):
        """Vectors of users where it uses them."""
        return Sizes(dim=self.dim, user_dim=self.dim if self.use_users else 0)


@keras.saving.register_keras_serializable("seqrec_tf")
class Caser(SequenceModel):
    """Convolutions over the newest events, beside the user."""

    config_class = CaserConfig

    def features_to_read(self):
        """The user, where they have a vector."""
        return (USER_ID,) if self.config.use_users else ()

    def create_layers(self):
        """Tables, filters, and the layer on what they find."""
        config, num_rows = self.config, self.num_items + 1
        self.users = None
        if config.use_users:
            self.users = UserEmbedding(self.schema.num_users, config.dim, initializer=0.05, name="users")
        self.inputs = Embedding(num_rows, config.dim, initializer=0.05, name="inputs")
        width = config.dim * (2 if config.use_users else 1)
        self.outputs = Embedding(num_rows, width, initializer=0.05, name="outputs")
        self.make_item_bias()
        self.horizontal = [
            keras.layers.Conv1D(config.num_horizontal, height, activation="relu", name=f"horizontal_{height}")
            for height in range(1, config.window + 1)
        ]
        self.vertical = keras.layers.Dense(config.num_vertical, use_bias=False, name="vertical")
        self.dropout = Dropout(config.dropout_rate)
        self.hidden = keras.layers.Dense(config.dim, activation="relu", name="hidden")

    def item_table(self):
        """Output vectors, for what the filters find and for users: float [V, D], or [V, 2 D] with users."""
        return self.outputs.table

    def call(self, inputs, training=False):
        """Compute what the filters find up to each event, with the user: float [B, L, D], or [B, L, 2 D] with users."""
        config = self.config
        item_ids, place = align_left(inputs[ITEM_IDS])
        batch, length = tf.shape(item_ids)[0], tf.shape(item_ids)[1]
        events = events_or_zero(self.inputs, item_ids, training)
        events = tf.pad(events, [[0, 0], [config.window - 1, 0], [0, 0]])  # before the first event there is nothing
        windows = tf.stack([events[:, row : row + length] for row in range(config.window)], axis=2)  # [B, L, W, D]
        windows = tf.reshape(windows, [batch * length, config.window, config.dim])
        # A part of a batch, or a replica, may be without rows; of none TensorFlow's convolution on CPUs fails.
        windows = tf.pad(windows, [[0, tf.cast(batch * length == 0, tf.int32)], [0, 0], [0, 0]])
        found = [tf.reduce_max(convolve(windows), axis=1) for convolve in self.horizontal]
        of_columns = self.vertical(tf.transpose(windows, [0, 2, 1]))  # [B L, D, vertical filters]
        found.append(tf.reshape(of_columns, [-1, config.dim * config.num_vertical]))
        found = self.dropout(tf.concat(found, axis=-1)[: batch * length], training=training)
        hidden = tf.reshape(self.hidden(found), [batch, length, config.dim])
        hidden = tf.gather(hidden, place, batch_dims=1)
        if self.users is None:
            return hidden
        user = tf.repeat(self.users(inputs[USER_ID], training=training)[:, None], tf.shape(hidden)[1], axis=1)
        return tf.concat([hidden, user], axis=-1)

    def query(self, inputs):
        """Compute the state of the newest event, from its window alone: float [B, D], or [B, 2 D] with users."""
        item_ids, _ = align_left(inputs[ITEM_IDS])
        number = tf.reduce_sum(tf.cast(item_ids != PADDING_ID, tf.int32), axis=1, keepdims=True)
        places = number - self.config.window + tf.range(self.config.window)
        newest = tf.gather(item_ids, tf.maximum(places, 0), batch_dims=1)
        return super().query({**inputs, ITEM_IDS: tf.where(places >= 0, newest, PADDING_ID)})

    def num_targets(self, lengths):
        """Those of all windows: float32 [B]."""
        return tf.add_n([tf.maximum(lengths - 1.0 - ahead, 0.0) for ahead in range(self.config.num_targets)])

    def target_losses(self, x, y, y_pred):
        """Compute the loss of each target of each window: float32 [N]; a window has none after the sequence's last."""
        later = [tf.pad(y, [[0, 0], [0, ahead]])[:, ahead:] for ahead in range(self.config.num_targets)]
        return tf.concat([super(Caser, self).target_losses(x, targets, y_pred) for targets in later], axis=0)
