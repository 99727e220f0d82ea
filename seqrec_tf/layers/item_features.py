"""Side features of items to vectors.

Tensor letters: V items (padding row included), D model dim, U different items of a batch, M categories of an item.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from seqrec_tf.features import MISSING
from seqrec_tf.layers.embedding import Embedding
from seqrec_tf.schema import Feature

# Of features.KINDS, and vectors, those that models read; text and images are for encoders that make vectors of them.
READABLE_KINDS = ("number", "category", "categories", "vector")


@keras.saving.register_keras_serializable("seqrec_tf")
class ItemFeatures(keras.layers.Layer):
    """A vector of each feature of an item.

    The features of all items lie in tables of this layer, so that a batch, and a request, hold ids alone. Each item of
    a batch is encoded once, however often it occurs.

    - category: a row of an embedding; of several, their mean.
    - number: a learned direction, times the number.
    - vector: a learned projection of it; the vectors themselves, in float16, are not trained.

    Where an item lacks a feature, the vector is a learned one, the same for all that lack it.

    Args:
        features: What there is of each item, of the kinds number, category, categories and vector.
        num_items: V - 1.
        dim: D.

    Call arguments:
        ids: int [...], in [0, V).

    Returns:
        A list of float [..., D], one for each feature.
    """

    def __init__(self, features: Sequence[Feature], num_items, dim, **kwargs):
        super().__init__(**kwargs)
        self.features = tuple(features)
        self.num_items = num_items
        self.dim = dim
        self.tables, self.encoders, self.missing = [], [], []
        for feature in self.features:
            dtype, width = {
                "number": ("float32", ()),
                "category": ("int32", ()),
                "categories": ("int32", (feature.max_length,)),
                "vector": ("float16", feature.shape),
            }[feature.kind]
            table = self.add_weight(
                name=f"{feature.name}_of_item",
                shape=[num_items + 1, *width],
                dtype=dtype,
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            self.tables.append(table)
            self.encoders.append(self._encoder(feature))
            # Row 0 of a category's embedding is that of items without one.
            is_category = feature.kind in ("category", "categories")
            self.missing.append(
                None
                if is_category
                else self.add_weight(name=f"{feature.name}_missing", shape=[dim], initializer="zeros")
            )
        self.is_trained = self.add_weight(
            name="is_trained", shape=[num_items + 1], initializer="ones", trainable=False, autocast=False
        )
        self.built = True

    def _encoder(self, feature: Feature):
        if feature.kind in ("category", "categories"):
            return Embedding(feature.num_values, self.dim, name=feature.name, dtype=self.dtype_policy)
        layer = keras.layers.Dense(self.dim, name=feature.name, dtype=self.dtype_policy)
        layer.build([None, *(feature.shape or [1])])
        return layer

    def adapt(self, values: Mapping[str, np.ndarray], item_counts: Sequence[int]) -> None:
        """Take the features of all items.

        Args:
            values: Name of a feature to [V, ...]; what an item lacks is 0, of numbers NaN, as all of row 0.
            item_counts: Training events of items 1, 2, ...
        """
        for feature, table in zip(self.features, self.tables, strict=True):
            table.assign(values[feature.name])
        self.is_trained.assign([0.0, *(float(count > 0) for count in item_counts)])

    def known_by_id(self, vectors, ids):
        """Vectors of items by their ids, float [..., D]; zero where training had no event to learn it from."""
        return vectors * tf.cast(tf.gather(self.is_trained.value, ids), vectors.dtype)[..., None]

    def call(self, ids, training=False):
        items, place = tf.unique(tf.reshape(ids, [-1]))  # [U]
        shape = tf.concat([tf.shape(ids), [self.dim]], axis=0)
        return [
            tf.reshape(tf.gather(self._encode(number, items, training), place), shape)
            for number in range(len(self.features))
        ]

    def _encode(self, number, items, training):
        """Vectors of a feature of some items: float [U, D]."""
        kind, encoder = self.features[number].kind, self.encoders[number]
        values = tf.gather(self.tables[number].value, items)
        if kind == "category":
            return encoder(values, training=training)
        if kind == "categories":
            is_there = tf.cast(values != MISSING, self.compute_dtype)  # [U, M]
            count = tf.reduce_sum(is_there, axis=1, keepdims=True)
            share = tf.math.divide_no_nan(is_there, count)
            mean = tf.einsum("um,umd->ud", share, encoder(values, training=training))
            return tf.where(count > 0, mean, encoder(tf.zeros_like(values[:, 0]) + MISSING, training=training))
        values = values[:, None] if kind == "number" else values
        is_there = ~tf.reduce_any(tf.math.is_nan(values), axis=1, keepdims=True)
        if kind == "vector":
            is_there &= tf.reduce_any(values != 0, axis=1, keepdims=True)
        values = tf.cast(tf.where(is_there, values, tf.zeros_like(values)), self.compute_dtype)
        return tf.where(is_there, encoder(values), tf.cast(self.missing[number], self.compute_dtype))

    def get_config(self):
        return {
            **super().get_config(),
            "features": [dataclasses.asdict(feature) for feature in self.features],
            "num_items": self.num_items,
            "dim": self.dim,
        }

    @classmethod
    def from_config(cls, config):
        features = [Feature(**{**feature, "shape": tuple(feature["shape"])}) for feature in config.pop("features")]
        return cls(features, **config)
