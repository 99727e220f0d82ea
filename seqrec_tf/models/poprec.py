"""PopRec: every user gets the items with the most training events. The floor that a model has to beat."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from seqrec_tf.config import ModelConfig, Sizes
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.schema import ITEM_IDS


@dataclasses.dataclass(frozen=True)
class PopRecConfig(ModelConfig):
    """Options of PopRec and SPOP: those that every model has."""

    def sizes(self):
        """One number of each item."""
        return Sizes(dim=1)


@keras.saving.register_keras_serializable("seqrec_tf")
class PopRec(SequenceModel):
    """Popularity: the score of an item is its number of training events."""

    config_class = PopRecConfig

    def create_layers(self):
        """The counts, filled by `adapt`."""
        self.counts = self.add_weight(
            name="counts", shape=[self.num_items + 1], initializer="zeros", trainable=False, dtype="float32"
        )

    def adapt(self, dataset):
        """Take the item counts of a dataset folder."""
        self.counts.assign(np.array([0, *dataset.item_counts], np.float32))

    def call(self, inputs, training=False):
        """A constant state, float32 [B, L, 1]."""
        return tf.ones_like(inputs[ITEM_IDS], tf.float32)[..., None]

    def item_table(self):
        """The counts as a table: float32 [V, 1]."""
        return self.counts[:, None]
