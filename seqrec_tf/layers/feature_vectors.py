"""Side features of items and users to vectors.

Tensor letters: V items (padding row included), D model dim, U different items of a batch, M categories of an item.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from seqrec_tf import quiet
from seqrec_tf.config import VECTOR_USES, check_choice
from seqrec_tf.features import MISSING
from seqrec_tf.layers.embedding import Embedding
from seqrec_tf.learning.sampling import next_seed
from seqrec_tf.schema import Feature

# The kinds of features that models read. Text and images are not among them: encoders make vectors of those.
READABLE_KINDS = ("number", "category", "categories", "vector")
# The kinds that `seqrec embed` makes vectors of.
EMBEDDABLE_KINDS = ("text", "image-path")


def chosen_features(names, features: Sequence[Feature], one, model) -> list[Feature]:
    """Find features by their names; none where no names are given.

    Args:
        names: Names of features; "*" stands for all that a model can read.
        features: The features that the schema has of items, or of users.
        one: "item" or "user".
        model: Name of the model that asks, for messages.

    Raises:
        ValueError: The dataset has no such feature.
    """
    readable = {feature.name: feature for feature in features if feature.kind in READABLE_KINDS}
    embeddable = [feature.name for feature in features if feature.kind in EMBEDDABLE_KINDS and one == "item"]
    if asked := [name for name in names if name in embeddable]:
        raise ValueError(
            f"{model} reads vectors of texts and images, not {asked[0]!r} itself: make them with `seqrec embed`, and "
            f"name {asked[0]}_vector in model.item_features."
        )
    if names and not readable:
        vectors = f"`seqrec embed` makes vectors of its {', '.join(embeddable)}. " if embeddable else ""
        raise ValueError(
            f"{model} reads side features of {one}s, and this dataset has none. {vectors}Prepare it with --{one}s, and "
            f"--{one}-feature NAME:KIND for what its columns hold."
        )
    for name in names:
        if name != "*":
            check_choice(f"model.{one}_features", name, readable)
    return list(readable.values()) if "*" in names else [readable[name] for name in dict.fromkeys(names)]


@keras.saving.register_keras_serializable("seqrec_tf")
class FeatureVectors(keras.layers.Layer):
    """A vector of each feature of an item, or of a user, from the feature's value.

    - category: a row of an embedding.
    - categories: the mean of the categories' rows.
    - number: a learned direction times the number, plus a learned offset.
    - vector: a learned projection, plus a learned offset.

    Where a feature is missing (NaN, no category, a vector of zeros), it has a learned vector that stands for "missing".

    Example: a price with the direction [2, 0], no offset and [0, 0] for "missing" turns [3, NaN, 5] to
    [[6, 0], [0, 0], [10, 0]]. Categories with the rows [9, 9] (for "missing"), [1, 2] and [3, 4] turn
    [[1, 2], [1, 0], [0, 0]] to [[2, 3], [1, 2], [9, 9]].

    Args:
        features: Features of the kinds number, category, categories and vector.
        dim: D.

    Call arguments:
        values: A list of tensors, one for each feature: float [U] for a number, int [U] for a category, int [U, M] for
            categories (0 where there are fewer than M), float [U, n] for a vector.
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
        values = tf.cast(values[:, None] if kind == "number" else values, self.compute_dtype)
        is_there = ~tf.reduce_any(tf.math.is_nan(values), axis=1, keepdims=True)
        if kind == "vector":
            is_there &= tf.reduce_any(values != 0, axis=1, keepdims=True)
        values = tf.where(is_there, values, tf.zeros_like(values))
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

    The layer keeps the features of all items in tables, so that batches and requests hold ids alone. Vectors that are
    not trained are kept in float16. The layer encodes each item of a batch once, however often it occurs.

    Example: where items 1 and 2 have the prices 3 and 5, and the price has the direction [2, 0] and no offset, ids
    [[2, 1, 2]] give a list of one tensor, [[[10, 0], [6, 0], [10, 0]]].

    Args:
        features: The features of an item, as in `FeatureVectors`.
        num_items: V - 1.
        dim: D.
        vectors: What the table holds for a feature of n floats: the vector itself ("projected"), its first min(n, D)
            principal components ("frozen"), or these as a start that training changes ("trained").
        id_dropout_rate: Share of the items that `known_by_id` treats as unknown in training.

    Call arguments:
        ids: int [...], in [0, V).

    Returns:
        A list of float [..., D], one for each feature.
    """

    def __init__(
        self, features: Sequence[Feature], num_items, dim, *, vectors="projected", id_dropout_rate=0.0, **kwargs
    ):
        super().__init__(**kwargs)
        check_choice("model.item_vectors", vectors, VECTOR_USES)
        self.features = tuple(features)
        self.num_items = num_items
        self.dim = dim
        self.use_of_vectors = vectors
        self.id_dropout_rate = id_dropout_rate
        self.seed_generator = keras.random.SeedGenerator()
        with quiet.stderr_to_nowhere():  # the first float16 of a process is an error to oneDNN, which then does without
            tf.zeros([1], tf.float16)
        self.tables, self.components = [], {}
        in_tables = []  # the features, as the tables hold them
        for feature in self.features:
            dtype, width = {
                "number": ("float32", ()),
                "category": ("int32", ()),
                "categories": ("int32", (feature.max_length,)),
                "vector": ("float32" if vectors == "trained" else "float16", feature.shape),
            }[feature.kind]
            if feature.kind == "vector" and vectors != "projected":
                width = (min(dim, *feature.shape),)
                self.components[feature.name] = [
                    self._weight(f"{feature.name}_{name}", shape)
                    for name, shape in (("mean", feature.shape), ("basis", [*feature.shape, *width]))
                ]
                feature = dataclasses.replace(feature, shape=width)
            is_trained = feature.kind == "vector" and vectors == "trained"
            self.tables.append(
                self._weight(f"{feature.name}_of_item", [num_items + 1, *width], dtype, trainable=is_trained)
            )
            in_tables.append(feature)
        self.vectors = FeatureVectors(in_tables, dim, name="vectors", dtype=self.dtype_policy)
        self.is_trained = self._weight("is_trained", [num_items + 1], initializer="ones")
        self.built = True

    def _weight(self, name, shape, dtype="float32", *, initializer="zeros", trainable=False):
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer=initializer, trainable=trainable, autocast=False
        )

    def adapt(self, values: Mapping[str, np.ndarray], item_counts: Sequence[int]) -> None:
        """Take the features of all items.

        Args:
            values: Name of a feature to its values, [V, ...]. A missing value is NaN for a number and 0 for the other
                kinds; row 0, padding, has missing values alone.
            item_counts: Number of training events of items 1, 2, ...
        """
        self.is_trained.assign([0.0, *(float(count > 0) for count in item_counts)])
        for name, (mean, basis) in self.components.items():
            is_sample = np.any(values[name] != 0, axis=1) & (self.is_trained.numpy() > 0)
            found_mean, found_basis = principal_components(values[name], is_sample, basis.shape[1])
            mean.assign(found_mean)
            basis.assign(found_basis)
        self.set_rows(values)

    def set_rows(self, values: Mapping[str, np.ndarray], first: int = 0) -> None:
        """Set the features of the items from `first` to the last one.

        Args:
            values: Name of a feature to its values, [V - first, ...], as in `adapt`.
            first: Id of the first item that is set; the items before it keep their features.
        """
        for feature, table in zip(self.features, self.tables, strict=True):
            of_feature = values[feature.name]
            if feature.name in self.components:
                mean, basis = (weight.numpy() for weight in self.components[feature.name])
                reduced = of_feature @ basis - mean @ basis
                of_feature = np.where(np.any(of_feature != 0, axis=1, keepdims=True), reduced, 0)
            table.assign(np.concatenate([table.numpy()[:first], of_feature]) if first else of_feature)

    def known_by_id(self, vectors, ids, training=False):
        """Make zero the vectors of items without training events, because training could not learn them.

        In training, the vectors of some other items become zero too, drawn anew at each call.

        Example: item 1 has training events, item 2 has none. Vectors [[1, 2], [3, 4], [5, 6]] of ids [1, 2, 0] become
        [[1, 2], [0, 0], [0, 0]].

        Args:
            vectors: float [..., D], a vector learned for each id.
            ids: int [...], in [0, V).
            training: Whether vectors of other items become zero too.

        Returns:
            float [..., D].
        """
        is_known = tf.convert_to_tensor(self.is_trained.value)
        if training and self.id_dropout_rate:
            draw = tf.random.stateless_uniform(tf.shape(is_known), next_seed(self.seed_generator))
            is_known *= tf.cast(draw >= self.id_dropout_rate, is_known.dtype)
        return vectors * tf.cast(tf.gather(is_known, ids), vectors.dtype)[..., None]

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
            "vectors": self.use_of_vectors,
            "id_dropout_rate": self.id_dropout_rate,
        }

    @classmethod
    def from_config(cls, config):
        return cls(_features_of(config.pop("features")), **config)


def principal_components(vectors, is_sample, rank, *, rounds=6):
    """The directions in which vectors vary most, by subspace iteration (Halko et al. 2011, algorithm 4.4).

    Nothing of the size of the vectors is made, as they may fill much of the memory.

    Args:
        vectors: float32 [V, n].
        is_sample: bool [V], those to learn from.
        rank: Directions to find, at most n.
        rounds: Iterations; with more, directions of like variance are told apart better.

    Returns:
        mean: float32 [n], of the sample.
        basis: float32 [n, rank]: (vector - mean) basis are a vector's components, that of the largest variance first,
        scaled so that their squares, summed, have a mean of 1 over the sample.
    """
    num_samples, width = max(1, np.count_nonzero(is_sample)), vectors.shape[1]
    weight = is_sample.astype(np.float32)
    mean = weight @ vectors / num_samples
    basis = np.random.default_rng(0).normal(size=[width, min(width, rank + 8)]).astype(np.float32)

    def components(basis):
        return (vectors @ basis - mean @ basis) * weight[:, None]

    for _ in range(rounds):
        found = components(basis)
        basis, _ = np.linalg.qr(vectors.T @ found - np.outer(mean, found.sum(axis=0)))
    found = components(basis)
    variances, rotation = np.linalg.eigh(found.T @ found / num_samples)
    rotation, variances = rotation[:, ::-1][:, :rank], variances[::-1][:rank]
    total = variances.sum()
    return mean, basis @ rotation * (total**-0.5 if total > 0 else 1.0)


def _features_of(dicts) -> list[Feature]:
    return [Feature(**{**feature, "shape": tuple(feature["shape"])}) for feature in dicts]
