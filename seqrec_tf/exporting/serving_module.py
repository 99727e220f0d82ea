"""The signatures of an exported model: string ids in, string ids and scores out; `export` says what they take.

`schema.SIGNATURES` declares them; a method of `Recommender` computes each. A new one is an entry there and a method
here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from seqrec_tf import features as features_lib
from seqrec_tf import schema as schema_lib
from seqrec_tf.features import MISSING, UNKNOWN
from seqrec_tf.ids import BLANKS_AROUND, FRACTION, WITHOUT_FRACTION, decomposed
from seqrec_tf.learning.ranking import recommend
from seqrec_tf.padding import NO_ITEM, one_column_at_least
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
    Signature,
)

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder


def inputs_of(model: SequenceModel) -> list[Feature]:
    """What requests hold for a model, whatever they ask, in the order of the signatures."""
    inputs = [schema_lib.HISTORY_INPUT]
    if USER_ID in model.reads:
        inputs.append(schema_lib.USER_ID_FEATURE)
    if TIMESTAMPS in model.reads:
        inputs += [schema_lib.HISTORY_TIMESTAMPS_INPUT, schema_lib.TIMESTAMP_INPUT]
    return inputs + [feature.in_requests for feature in user_features(model)]


def input_specs(
    model: SequenceModel, history_length: int | None, signature: Signature = schema_lib.RECOMMEND
) -> dict[str, Any]:
    """The `tf.TensorSpec` of each input of a signature by its name, in their order."""
    specs = {}
    for feature in (*inputs_of(model), *signature.inputs):
        is_of_history = feature.name in (HISTORY, HISTORY_TIMESTAMPS)
        shape = [None, history_length] if is_of_history else [None, *feature.shape]
        specs[feature.name] = tf.TensorSpec(shape, tf.as_dtype(feature.dtype), name=feature.name)
    return specs


def signatures(module: Recommender, model: SequenceModel, history_length: int | None) -> dict[str, Any]:
    """What `tf.saved_model.save` takes: the concrete function of each signature by its name."""
    functions = {schema_lib.RECOMMEND: module.recommend, schema_lib.RANK: module.rank}
    return {
        signature.name: functions[signature].get_concrete_function(**input_specs(model, history_length, signature))
        for signature in schema_lib.SIGNATURES
    }


def user_features(model: SequenceModel) -> list[Feature]:
    """Features of users that the model reads."""
    return [feature for feature in model.schema.user_features if feature.name in model.reads]


def make_serving_module(
    model: SequenceModel, folder: DatasetFolder, vocabulary: str, *, k: int, exclude_history: bool
) -> Recommender:
    """A module whose methods are the signatures; TensorFlow core operations only.

    Args:
        model: A trained model, whose item table is frozen already.
        folder: The dataset that it was trained on.
        vocabulary: File with an item id a line, in the order of the model's ids.
        k: Items in an answer.
        exclude_history: Whether items of the history are not recommended.
    """
    repeats = folder.schema.repeats
    if model.history_is_liked and LABELS in folder.schema:
        # They were dropped among all events, and what a client sends was liked.
        repeats = schema_lib.KEEP_REPEATS
    settings = _Settings(model, k, exclude_history, repeats, folder.learned_of_users)
    return Recommender(settings, folder.item_counts, vocabulary)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What a `Recommender` knows and a saved model does not hold as such; a plain object, which is not saved.

    Attributes:
        model: The model.
        k: Items in an answer.
        exclude_history: Whether items of the history are not recommended.
        repeats: One of `schema.REPEATS`: what becomes of repeats in histories.
        learned: What was learned of the features of users.
    """

    model: SequenceModel
    k: int
    exclude_history: bool
    repeats: str
    learned: Mapping[str, Mapping[str, Any]]


class Recommender(tf.Module):
    """The weights and tables of a saved model, and its signatures.

    Args:
        settings: The model, and how it answers.
        item_counts: Training events of each item; new items, at the end of the vocabulary, have none.
        vocabulary: File with an item id a line.
    """

    def __init__(self, settings: _Settings, item_counts, vocabulary: str):
        super().__init__()
        model = settings.model
        line, whole = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
        self._settings = settings
        self.model_variables = [variable.value for variable in model.variables]
        self.item_table = model.frozen_table
        self.log_share = tf.Variable(_log_share(item_counts, model.num_items), trainable=False, dtype=tf.float32)
        self.line_of_item = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(vocabulary, tf.string, whole, tf.int64, line), default_value=-1
        )
        self.item_of_line = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(vocabulary, tf.int64, line, tf.string, whole), default_value=NO_ITEM
        )
        self.line_of_spelling = _table(_other_spellings(vocabulary, model.schema), default=-1)
        self.categories = {
            feature.name: _table(_category_ids(settings.learned[feature.name]["values"]), default=UNKNOWN)
            for feature in user_features(model)
            if "values" in settings.learned[feature.name]
        }

    @tf.function
    def recommend(self, **request):
        """The signature `schema.RECOMMEND`."""
        model, k = self._settings.model, self._settings.k
        ids, inputs, num_unknown = self._read(request)
        excluded = ids if self._settings.exclude_history else ids[:, :0]
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
        """The signature `schema.RANK`."""
        model = self._settings.model
        candidates = self._ids(self._normal(request.pop(CANDIDATES), "item"))
        _, inputs, num_unknown = self._read(request)
        item = tf.maximum(candidates, 1)
        is_cold = model.is_cold(inputs)[:, None]
        scores = tf.where(
            is_cold, tf.gather(self.log_share, item - 1), model.score_candidates(model.query(inputs), item)
        )
        is_there = (candidates != PADDING_ID) & tf.math.is_finite(scores)
        return {SCORES: tf.where(is_there, scores, tf.float32.min), NUM_UNKNOWN: num_unknown}

    def _normal(self, names, of: str):
        """Ids of items or users in the form that those of the dataset have, as far as core operations can make it."""
        schema = self._settings.model.schema
        if schema.id_form == schema_lib.RAW_IDS:
            return names
        names = tf.strings.regex_replace(names, BLANKS_AROUND, "")
        return tf.strings.regex_replace(names, FRACTION, WITHOUT_FRACTION) if of in schema.numeric_ids else names

    def _ids(self, items):
        lines = self.line_of_item.lookup(items)
        if self.line_of_spelling is not None:
            lines = tf.maximum(lines, self.line_of_spelling.lookup(items))
        return tf.cast(lines + 1, tf.int32)  # 0 where unknown or padding

    def _read(self, request):
        """Ids of the history, what the model takes, and how many ids it does not know."""
        history = self._normal(request[HISTORY], "item")
        ids = self._ids(history)  # [B, L]
        is_known = ids != PADDING_ID
        num_unknown = tf.reduce_sum(tf.cast(~is_known & (history != NO_ITEM), tf.int32), axis=1)
        if self._settings.repeats != schema_lib.KEEP_REPEATS:
            is_known = _without_repeats(ids, is_known, self._settings.repeats)
            ids = tf.where(is_known, ids, PADDING_ID)
        # Known ids to the right, in their order; the model has learned from the newest max_len.
        order = tf.argsort(tf.cast(is_known, tf.int32), axis=1, stable=True)

        def newest(events):
            ordered = tf.gather(events, order, batch_dims=1)
            return one_column_at_least(ordered[:, -self._settings.model.config.max_len :])

        inputs = {ITEM_IDS: newest(ids)}
        if USER_ID in request:
            inputs[USER_ID] = user_fingerprint(self._normal(request[USER_ID], "user"))
        if TIMESTAMP in request:
            inputs[TIMESTAMPS] = newest(request[HISTORY_TIMESTAMPS])
            inputs[TARGET_TIME] = request[TIMESTAMP]
        for feature in user_features(self._settings.model):
            inputs[feature.name] = self._user_value(feature, request[feature.name])
        return ids, inputs, num_unknown

    def _user_value(self, feature: Feature, value):
        """What a request has of a user's feature, as the model takes it: `features.Encoder`, in a graph."""
        learned = self._settings.learned[feature.name]
        if feature.name not in self.categories:
            return (value - learned["mean"]) / learned["deviation"]
        value = self.categories[feature.name].lookup(tf.strings.strip(value))
        return value[:, : feature.max_length] if feature.is_list else value


def _table(values: Mapping[str, int], *, default: int):
    """A lookup table, None where it would be empty."""
    if not values:
        return None
    initializer = tf.lookup.KeyValueTensorInitializer(list(values), list(values.values()), tf.string, tf.int64)
    return tf.lookup.StaticHashTable(initializer, default_value=default)


def _other_spellings(vocabulary: str, schema: schema_lib.Schema) -> dict[str, int]:
    """The lines of a vocabulary by the other spelling of the item, of those that have one: no operation composes."""
    if schema.id_form == schema_lib.RAW_IDS:
        return {}
    with open(vocabulary, encoding="utf-8", newline="\n") as stream:
        items = stream.read().split("\n")
    spellings = {decomposed(item): line for line, item in enumerate(items) if not item.isascii()}
    return {spelling: line for spelling, line in spellings.items() if spelling != items[line]}


def _category_ids(values: Sequence[str]) -> dict[str, int]:
    """The ids of categories by all that requests may hold for them; a category's own name comes first."""
    spellings = {
        spelling: number
        for number, value in enumerate(values, start=UNKNOWN + 1)
        for spelling in features_lib.spellings_of(value)
    }
    return {NO_ITEM: MISSING, **spellings, **{value: k for k, value in enumerate(values, start=UNKNOWN + 1)}}


def _log_share(item_counts, num_items: int):
    """The logarithm of an item's share of the training events, [V - 1], from id 1 on; the lowest float32 for none."""
    counts = np.zeros(num_items)
    counts[: len(item_counts)] = item_counts
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(counts / counts.sum()), np.finfo(np.float32).min)


def _without_repeats(ids, is_known, repeats: str):
    """Which events of a history are left when repeats are dropped as they were before training: bool [B, L].

    The first of repeats stays: of `a b b b a` consecutive ones leave `a b a`, all leave `a b`. Neighbours are those of
    the request: `a new a` has no consecutive repeat, though nobody knows the new item.

    Args:
        ids: int32 [B, L], 0 where nobody knows the item.
        is_known: bool [B, L], whether each is an item that the model knows.
        repeats: DROP_CONSECUTIVE_REPEATS or DROP_ALL_REPEATS.
    """
    if repeats == schema_lib.DROP_CONSECUTIVE_REPEATS:
        is_repeat = ids[:, 1:] == ids[:, :-1]
        return is_known & ~tf.pad(is_repeat, [[0, 0], [1, 0]])[:, : tf.shape(ids)[1]]
    is_same = tf.linalg.band_part(ids[:, :, None] == ids[:, None, :], -1, 0)  # [B, L, L]
    return is_known & (tf.reduce_sum(tf.cast(is_same, tf.int32), axis=2) == 1)
