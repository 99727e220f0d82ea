"""The two signatures of an exported model: string ids in, string ids and scores out; `export` says what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from seqrec_tf.features import MISSING, UNKNOWN
from seqrec_tf.models.base_batches import one_column_at_least
from seqrec_tf.ranking import recommend
from seqrec_tf.records import user_fingerprint
from seqrec_tf.schema import (
    CANDIDATES,
    HISTORY,
    HISTORY_TIMESTAMPS,
    ITEM_IDS,
    ITEMS,
    LABELS,
    NUM_UNKNOWN,
    PADDING_ID,
    SCORES,
    TARGET_TIME,
    TIMESTAMP,
    TIMESTAMPS,
    USER_ID,
    Feature,
)

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder


def input_specs(model: SequenceModel, history_length: int | None) -> dict[str, Any]:
    """The `tf.TensorSpec` of each input of `serving_default`, in their order."""
    specs = {HISTORY: tf.TensorSpec([None, history_length], tf.string, name=HISTORY)}
    if USER_ID in model.reads:
        specs[USER_ID] = tf.TensorSpec([None], tf.string, name=USER_ID)
    if TIMESTAMPS in model.reads:
        specs[HISTORY_TIMESTAMPS] = tf.TensorSpec([None, history_length], tf.int64, name=HISTORY_TIMESTAMPS)
        specs[TIMESTAMP] = tf.TensorSpec([None], tf.int64, name=TIMESTAMP)
    for feature in user_features(model):
        shape = [None, None] if feature.kind == "categories" else [None]
        dtype = tf.float32 if feature.kind == "number" else tf.string
        specs[feature.name] = tf.TensorSpec(shape, dtype, name=feature.name)
    return specs


def user_features(model: SequenceModel) -> list[Feature]:
    """Features of users that the model reads."""
    return [feature for feature in model.schema.user_features if feature.name in model.reads]


def make_serving_module(model: SequenceModel, folder: DatasetFolder, vocabulary: str, *, k: int, exclude_history: bool):
    """A `tf.Module` whose `recommend` and `rank` are the signatures; TensorFlow core operations only.

    The model's item table is frozen already.
    """
    learned = folder.learned_of_users
    counts = np.zeros(model.num_items)
    counts[: len(folder.item_counts)] = folder.item_counts
    with np.errstate(divide="ignore"):
        log_share = np.maximum(np.log(counts / counts.sum()), np.finfo(np.float32).min)  # of the item with id i + 1
    line, whole = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
    duplicates = folder.options.get("duplicates", "keep")
    if model.history_is_liked and LABELS in folder.schema:
        duplicates = "keep"  # they were dropped among all events, and what a client sends was liked

    class Recommender(tf.Module):
        def __init__(self):
            super().__init__()
            self.model_variables = [variable.value for variable in model.variables]
            self.item_table = model.frozen_table
            self.log_share = tf.Variable(log_share, trainable=False, dtype=tf.float32)
            self.line_of_item = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(vocabulary, tf.string, whole, tf.int64, line), default_value=-1
            )
            self.item_of_line = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(vocabulary, tf.int64, line, tf.string, whole), default_value=""
            )
            self.categories = {
                feature.name: tf.lookup.StaticHashTable(
                    tf.lookup.KeyValueTensorInitializer(
                        ["", *learned[feature.name]["values"]],
                        [MISSING, *range(UNKNOWN + 1, feature.num_values)],
                        tf.string,
                        tf.int64,
                    ),
                    default_value=UNKNOWN,
                )
                for feature in user_features(model)
                if "values" in learned[feature.name]
            }

        @tf.function
        def recommend(self, **request):
            ids, inputs, num_unknown = self._read(request)
            excluded = ids if exclude_history else ids[:, :0]
            items, scores = recommend(model, model.query(inputs), excluded, k=k)
            is_cold = model.is_cold(inputs)[:, None]
            items = tf.where(is_cold, tf.range(1, k + 1), items)  # ids are in order of frequency
            scores = tf.where(is_cold, self.log_share[:k], scores)
            is_there = tf.math.is_finite(scores)
            lines = tf.where(is_there, tf.cast(items, tf.int64) - 1, -1)
            return {
                ITEMS: self.item_of_line.lookup(lines),
                SCORES: tf.where(is_there, scores, tf.float32.min),  # JSON has no infinity
                NUM_UNKNOWN: num_unknown,
            }

        @tf.function
        def rank(self, **request):
            candidates = self._ids(request.pop(CANDIDATES))
            _, inputs, num_unknown = self._read(request)
            item = tf.maximum(candidates, 1)
            is_cold = model.is_cold(inputs)[:, None]
            scores = tf.where(
                is_cold, tf.gather(self.log_share, item - 1), model.score_candidates(model.query(inputs), item)
            )
            is_there = (candidates != PADDING_ID) & tf.math.is_finite(scores)
            return {SCORES: tf.where(is_there, scores, tf.float32.min), NUM_UNKNOWN: num_unknown}

        def _ids(self, items):
            return tf.cast(self.line_of_item.lookup(items) + 1, tf.int32)  # 0 where unknown or padding

        def _read(self, request):
            """Ids of the history, what the model takes, and how many ids it does not know."""
            ids = self._ids(request[HISTORY])  # [B, L]
            is_known = ids != PADDING_ID
            num_unknown = tf.reduce_sum(tf.cast(~is_known & (request[HISTORY] != ""), tf.int32), axis=1)
            # The first of repeats stays, as in training.
            if duplicates == "consecutive":
                is_repeat = request[HISTORY][:, 1:] == request[HISTORY][:, :-1]
                is_known &= ~tf.pad(is_repeat, [[0, 0], [1, 0]])[:, : tf.shape(ids)[1]]
            elif duplicates == "all":
                is_same = tf.linalg.band_part(ids[:, :, None] == ids[:, None, :], -1, 0)  # [B, L, L]
                is_known &= tf.reduce_sum(tf.cast(is_same, tf.int32), axis=2) == 1
            if duplicates != "keep":
                ids = tf.where(is_known, ids, PADDING_ID)
            # Known ids to the right, in their order; the model has learned from the newest max_len.
            order = tf.argsort(tf.cast(is_known, tf.int32), axis=1, stable=True)

            def newest(events):
                return one_column_at_least(tf.gather(events, order, batch_dims=1)[:, -model.config.max_len :])

            inputs = {ITEM_IDS: newest(ids)}
            if USER_ID in request:
                inputs[USER_ID] = user_fingerprint(request[USER_ID])
            if TIMESTAMP in request:
                inputs[TIMESTAMPS] = newest(request[HISTORY_TIMESTAMPS])
                inputs[TARGET_TIME] = request[TIMESTAMP]
            for feature in user_features(model):
                value = request[feature.name]
                if feature.kind == "number":
                    value = (value - learned[feature.name]["mean"]) / learned[feature.name]["deviation"]
                else:
                    value = self.categories[feature.name].lookup(tf.strings.strip(value))
                    value = value[:, : feature.max_length] if feature.kind == "categories" else value
                inputs[feature.name] = value
            return ids, inputs, num_unknown

    return Recommender()
