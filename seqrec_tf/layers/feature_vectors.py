"""Side features of items and users to vectors.

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
class FeatureVectors(keras.layers.Layer):
    """A vector of each feature of an item, or of a user, from the feature's value.

    - category: a row of an embedding; of several, their mean.
    - number: a learned direction, times the number.
    - vector: a learned projection of it.

    Where a feature is missing (NaN, no category, a vector of zeros), the vector is a learned one of its own.

    Args:
        features: Of the kinds number, category, categories and vector.
        dim: D.

    Call arguments:
        values: A list of tensors, one for each feature: float [U], int [U], int [U, M] and float [U, n].
        training: Whether rows of embeddings are read in place.

    Returns:
        A list of float [U, D], one for each feature.
    """

    def __init__(self, features: Sequence[Feature], dim, **kwargs):
        super().__init__(**kwargs)
        self.features = tuple(features)
        self.dim = dim
        self.encoders = [self._encoder(feature) for feature in self.features]
        # Row 0 of a category's embedding is that of what has none.
        self.missing = [
            None
            if feature.kind in ("category", "categories")
            else self.add_weight(name=f"{feature.name}_missing", shape=[dim], initializer="zeros")
            for feature in self.features
        ]
        self.built = True

    def _encoder(self, feature: Feature):
        if feature.kind in ("category", "categories"):
            return Embedding(feature.num_values, self.dim, name=feature.name, dtype=self.dtype_policy)
        # As small as vectors of ids, which many features would else drown.
        small = keras.initializers.RandomNormal(stddev=0.02)
        layer = keras.layers.Dense(self.dim, kernel_initializer=small, name=feature.name, dtype=self.dtype_policy)
        layer.build([None, *(feature.shape or [1])])
        return layer

    def call(self, values, training=False):
        return [self._encode(number, value, training) for number, value in enumerate(values)]

    def _encode(self, number, values, training):
        """Vectors of one feature: float [U, D]."""
        kind, encoder = self.features[number].kind, self.encoders[number]
        if kind == "category":
            return encoder(values, training=training)
        if kind == "categories":
            is_there = tf.cast(values != MISSING, self.compute_dtype)  # [U, M]
            count = tf.reduce_sum(is_there, axis=1, keepdims=True)
            share = tf.math.divide_no_nan(is_there, count)
            mean = tf.einsum("um,umd->ud", share, encoder(values, training=training))
            none = encoder(tf.fill(tf.shape(values)[:1], MISSING), training=training)
            return tf.where(count > 0, mean, none)
        values = values[:, None] if kind == "number" else values
        is_there = ~tf.reduce_any(tf.math.is_nan(values), axis=1, keepdims=True)
        if kind == "vector":
            is_there &= tf.reduce_any(values != 0, axis=1, keepdims=True)
        values = tf.cast(tf.where(is_there, values, tf.zeros_like(values)), self.compute_dtype)
        return tf.where(is_there, encoder(values), tf.cast(self.missing[number], self.compute_dtype))

    def get_config(self):
        features = [dataclasses.asdict(feature) for feature in self.features]
        return {**super().get_config(), "features": features, "dim": self.dim}

    @classmethod
    def from_config(cls, config):
        return cls(_features_of(config.pop("features")), **config)


@keras.saving.register_keras_serializable("seqrec_tf")
class ItemFeatures(keras.layers.Layer):
    """A vector of each feature of an item, by the item's id.

    The features of all items lie in tables of this layer, so that a batch, and a request, hold ids alone; vectors in
    float16, not trained. Each item of a batch is encoded once, however often it occurs.

    Args:
        features: What there is of each item, as in `FeatureVectors`.
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
        self.tables = []
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
        self.vectors = FeatureVectors(self.features, dim, name="vectors", dtype=self.dtype_policy)
        self.is_trained = self.add_weight(
            name="is_trained", shape=[num_items + 1], initializer="ones", trainable=False, autocast=False
        )
        self.built = True

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
        values = [tf.gather(table.value, items) for table in self.tables]
        return [tf.reshape(tf.gather(vectors, place), shape) for vectors in self.vectors(values, training=training)]

    def get_config(self):
        return {
            **super().get_config(),
            "features": [dataclasses.asdict(feature) for feature in self.features],
            "num_items": self.num_items,
            "dim": self.dim,
        }

    @classmethod
    def from_config(cls, config):
        return cls(_features_of(config.pop("features")), **config)


def _features_of(dicts) -> list[Feature]:
    return [Feature(**{**feature, "shape": tuple(feature["shape"])}) for feature in dicts]
