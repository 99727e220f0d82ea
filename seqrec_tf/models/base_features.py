"""How a model knows items and users by their side features, and so items that came after training.

A model asks for features in `create_layers`, by `make_item_features` and `make_user_features`; where the dataset or the
configuration names none, all of this does nothing, and a model's items are the rows of its layer `items`.

Tensor letters: D model dim, V items (padding row included).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from seqrec_tf.layers.feature_vectors import FeatureVectors, ItemFeatures, chosen_features
from seqrec_tf.schema import Schema


class SideFeatures:
    """Private base of `SequenceModel`.

    Attributes:
        item_features: An `ItemFeatures` where `make_item_features` made one.
        user_features: A `FeatureVectors` where `make_user_features` made one.
        frozen_table: The item table where `freeze_item_table` computed it, a tensor or a `tf.Variable`.
    """

    item_features: Any = None
    user_features: Any = None
    frozen_table: Any = None
    config: Any
    schema: Schema
    num_items: int
    items: Any  # an Embedding, of models that use `represent`
    item_table: Any
    weights: Any
    dtype_policy: Any

    # ---- Features that a model reads ----

    def make_item_features(self, names, dim) -> None:
        """Make the layer `item_features`; it stays None where no names are given.

        Args:
            names: Features of the schema; "*" stands for all that a model can read.
            dim: Width of the vector of each feature.

        Raises:
            ValueError: The dataset has no such feature.
        """
        chosen = chosen_features(names, self.schema.item_features, "item", type(self).__name__)
        if chosen:
            self.item_features = ItemFeatures(
                chosen,
                self.num_items,
                dim,
                vectors=self.config.item_vectors,
                id_dropout_rate=self.config.item_id_dropout_rate,
                name="item_features",
            )

    def make_user_features(self, names, dim) -> None:
        """Make the layer `user_features`, as `make_item_features` does for items."""
        chosen = chosen_features(names, self.schema.user_features, "user", type(self).__name__)
        self.user_features = FeatureVectors(chosen, dim, name="user_features") if chosen else None

    def represent(self, item_ids, training=False):
        """Add up the vectors of items: that of the id, from the layer `items`, and those of the features, if any.

        Args:
            item_ids: int32 [...].
            training: Whether rows are read in place, and some items known by their features alone.

        Returns:
            float [..., D].
        """
        vectors = self.items(item_ids, training=training)
        if self.item_features is None:
            return vectors
        vectors = self.item_features.known_by_id(vectors, item_ids, training=training)
        return tf.add_n([vectors, *self.item_features(item_ids, training=training)])

    # ---- An item table that is made of features ----

    def represented_table(self, training=False):
        """What `represent` gives for every item, as an `item_table`: the layer's own where there are no features."""
        if self.item_features is None:
            return self.items.table
        return tf.cast(self.represent(tf.range(self.num_items + 1), training=training), tf.float32)

    @property
    def scores_by_features(self) -> bool:
        """Whether the item table is made of side features, so that items that nobody has touched yet have a score."""
        return self.item_features is not None and self.config.scores_by_features

    def freeze_item_table(self) -> None:
        """Compute the item table once, where it is made of side features, for a model that learns no more."""
        if self.scores_by_features:
            self.frozen_table = tf.Variable(self.item_table(), trainable=False, name="item_table")

    @contextlib.contextmanager
    def item_table_made_once(self) -> Iterator[None]:
        """Compute the item table once for all that is scored inside, where it is made of features and not frozen."""
        if not self.scores_by_features or self.frozen_table is not None:
            yield
            return
        self.frozen_table = self.item_table()
        try:
            yield
        finally:
            self.frozen_table = None

    def table_to_score(self):
        """The item table, frozen or not, as a tensor: float [V, D], perhaps with more rows."""
        return tf.convert_to_tensor(self.item_table() if self.frozen_table is None else self.frozen_table)

    # ---- Items that came after training ----

    @property
    def takes_new_items(self) -> bool:
        """Whether items that came after training can be added, known by their side features alone."""
        return self.scores_by_features

    def with_new_items(self, number: int, values: Mapping[str, np.ndarray]):
        """Make a copy of this model for a catalogue with more items at its end, known by their features alone.

        Args:
            number: New items.
            values: Name of each of the model's `item_features` to the new items' values, [number, ...].

        Raises:
            ValueError: The model does not recommend items by their features.
        """
        if not self.takes_new_items:
            needed = {"item_features": '["*"]', "score_with_features": "true", "is_tied": "true"}
            options = [f"model.{name}={value}" for name, value in needed.items() if hasattr(self.config, name)]
            reads_features = hasattr(self.config, "item_features")
            what = f"it with {' '.join(options)}" if reads_features else "a model that reads them"
            raise ValueError(
                f"This {type(self).__name__} scores items by what it learned of each, and not by their features, so it "
                f"cannot recommend new ones. Train {what}."
            )
        schema = dataclasses.replace(self.schema, num_items=self.num_items + number)
        grown: Any = type(self)(self.config, schema, dtype=self.dtype_policy)  # type: ignore[call-arg]
        for old, new in zip(self.weights, grown.weights, strict=True):
            value = old.numpy()
            if value.shape != new.shape:  # a row of each item, and perhaps of padding before and others after them
                kept = min(self.num_items + 1, len(value))
                rows = np.zeros([number, *value.shape[1:]], value.dtype)
                value = np.concatenate([value[:kept], rows, value[kept:]])
            new.assign(value)
        grown.item_features.set_rows(values, self.num_items + 1)
        return grown
