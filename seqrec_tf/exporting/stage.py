"""A model inside a saved model: its weights, what it takes of a request, and the scores that it gives there.

Tensor letters: B batch, L length of a history, K candidates, V' items of a block.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from seqrec_tf import features
from seqrec_tf import ids as ids_lib
from seqrec_tf import schema as schema_lib
from seqrec_tf.features import MISSING, UNKNOWN
from seqrec_tf.padding import NO_ITEM, one_column_at_least
from seqrec_tf.records import user_fingerprint
from seqrec_tf.schema import (
    HISTORY_LABELS,
    HISTORY_TIMESTAMPS,
    ITEM_IDS,
    LABELS,
    PADDING_ID,
    TARGET_TIME,
    TIMESTAMP,
    TIMESTAMPS,
    USER_ID,
    Feature,
    Schema,
)

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

# Pairs of a history and a candidate that a model which looks at both together scores at once.
_PAIRS = 16_384


def reads_liked_alone(model: SequenceModel, folder: DatasetFolder) -> bool:
    """Whether histories of this model hold liked events alone, of events that may also be others."""
    return model.history_is_liked and LABELS in folder.schema


def user_features(model: SequenceModel) -> list[Feature]:
    """Features of users that the model reads."""
    return [feature for feature in model.schema.user_features if feature.name in model.reads]


def inputs_of(model: SequenceModel) -> list[Feature]:
    """What requests hold for a model, whatever they ask, in the order of the signatures."""
    inputs = [schema_lib.HISTORY_INPUT]
    if USER_ID in model.reads:
        inputs.append(schema_lib.USER_ID_FEATURE)
    if TIMESTAMPS in model.reads:
        inputs += [schema_lib.HISTORY_TIMESTAMPS_INPUT, schema_lib.TIMESTAMP_INPUT]
    return inputs + [feature.in_requests for feature in user_features(model)]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What a `Stage` knows and a saved model does not hold as such; a plain object, which is not saved.

    Attributes:
        model: The model.
        repeats: One of `schema.REPEATS`: what becomes of repeats in histories.
        learned: What was learned of the features of users.
    """

    model: SequenceModel
    repeats: str
    learned: Mapping[str, Mapping[str, Any]]


class Stage(tf.Module):
    """A trained model, whose item table is frozen already, in a saved model.

    It is a `ranking.Scorer`: its scores are the model's but for those of whom the model knows nothing, which are the
    logarithms of the items' shares of the training events.

    Args:
        model: The model.
        folder: The dataset that it was trained on.

    Attributes:
        num_items: Items have the ids from 1 to this.
    """

    def __init__(self, model: SequenceModel, folder: DatasetFolder):
        super().__init__()
        repeats = folder.schema.repeats
        if reads_liked_alone(model, folder):
            # They were dropped among all events, and what a client sends was liked.
            repeats = schema_lib.KEEP_REPEATS
        self._settings = _Settings(model, repeats, folder.learned_of_users)
        # Traced once for all signatures; a plain object, as functions that were attributes would be saved once more.
        self._traced = types.SimpleNamespace(query=tf.function(self._query))
        self.num_items = model.num_items
        self.model_variables = [variable.value for variable in model.variables]
        self.item_table = model.frozen_table
        log_share = _log_share(folder.item_counts, model.num_items)
        self.log_share = tf.Variable(log_share, trainable=False, dtype=tf.float32)
        self.categories = {
            feature.name: table(_category_ids(folder.learned_of_users[feature.name]["values"]), default=UNKNOWN)
            for feature in user_features(model)
            if "values" in folder.learned_of_users[feature.name]
        }

    @property
    def model(self) -> SequenceModel:
        """The model, which is not saved as an object."""
        return self._settings.model

    @property
    def scores_one_by_one(self) -> bool:
        """Whether the model looks at the history and one item together."""
        return self.model.scores_one_by_one

    def query(self, request: Mapping[str, Any], ids) -> tuple[Any, Any]:
        """What the model knows of each row of a request, and whether it knows nothing: bool [B].

        Args:
            request: The inputs of a signature.
            ids: int32 [B, L], the ids of the history; 0 where there is none.
        """
        wanted = {feature.name for feature in inputs_of(self.model)} | {HISTORY_LABELS}
        return self._traced.query({name: value for name, value in request.items() if name in wanted}, ids)

    def _query(self, request, ids):
        inputs = self._inputs(request, ids)
        return self.model.query(inputs), self.model.is_cold(inputs)

    def score_block(self, query, start, stop):
        """Score the items with ids in [start, stop): float32 [B, stop - start]."""
        known, is_cold = query
        scores = tf.ensure_shape(self.model.score_block(known, start, stop), [None, stop - start])
        return self._or_popularity(scores, is_cold, lambda: self.log_share[start - 1 : stop - 1])

    def score_candidates(self, query, candidates):
        """Score each row's own candidates, int32 [B, K], from 1: float32 [B, K]."""
        known, is_cold = query
        scores = (
            self._in_parts(known, candidates)
            if self.model.scores_one_by_one
            else (self.model.score_candidates(known, candidates))
        )
        return self._or_popularity(scores, is_cold, lambda: tf.gather(self.log_share, candidates - 1))

    def _or_popularity(self, scores, is_cold, popularity):
        """Put popularity, a function, for the scores of those of whom nothing is known: there hardly ever are any."""
        return tf.cond(tf.reduce_any(is_cold), lambda: tf.where(is_cold[:, None], popularity(), scores), lambda: scores)

    def _in_parts(self, known, candidates):
        """Score candidates some at a time, for memory, where the model looks at each together with the history."""
        rows, number = tf.unstack(tf.shape(candidates))
        width = tf.clip_by_value(_PAIRS // tf.maximum(rows, 1), 1, tf.maximum(number, 1))
        num_parts = (number + width - 1) // width
        padded = tf.pad(candidates, [[0, 0], [0, num_parts * width - number]], constant_values=1)
        parts = tf.transpose(tf.reshape(padded, [rows, num_parts, width]), [1, 0, 2])
        # One at a time: map_fn would start ten.
        scores = tf.map_fn(
            lambda part: self.model.score_candidates(known, part),
            parts,
            fn_output_signature=tf.TensorSpec([None, None], tf.float32),
            parallel_iterations=1,
        )  # [parts, B, width]
        return tf.reshape(tf.transpose(scores, [1, 0, 2]), [rows, num_parts * width])[:, :number]

    def _inputs(self, request, ids) -> dict[str, Any]:
        """What the model takes."""
        is_known = ids != PADDING_ID
        if self._settings.repeats != schema_lib.KEEP_REPEATS:
            is_known = _without_repeats(ids, is_known, self._settings.repeats)
        if HISTORY_LABELS in request and self.model.history_is_liked:
            is_known &= request[HISTORY_LABELS] == 1
        ids = tf.where(is_known, ids, PADDING_ID)
        newest = self._newest(is_known)

        inputs = {ITEM_IDS: newest(ids)}
        if USER_ID in self.model.reads:
            inputs[USER_ID] = user_fingerprint(normal(request[USER_ID], self.model.schema, "user"))
        if TIMESTAMPS in self.model.reads:
            inputs[TIMESTAMPS] = newest(request[HISTORY_TIMESTAMPS])
            inputs[TARGET_TIME] = request[TIMESTAMP]
        for feature in user_features(self.model):
            inputs[feature.name] = self._user_value(feature, request[feature.name])
        return inputs

    def _newest(self, is_known):
        """A function that gives of events, [B, L], the newest known ones, as many as the model has learned from."""
        length, max_len = is_known.shape[1], self.model.config.max_len
        if length is not None and 1 <= length <= max_len:
            return lambda events: events  # models take padding anywhere, and so what is not known
        # Known ones to the right, in their order.
        order = tf.argsort(tf.cast(is_known, tf.int32), axis=1, stable=True)
        return lambda events: one_column_at_least(tf.gather(events, order, batch_dims=1)[:, -max_len:])

    def _user_value(self, feature: Feature, value):
        """What a request has of a user's feature, as the model takes it: `features.Encoder`, in a graph."""
        learned = self._settings.learned[feature.name]
        if feature.name not in self.categories:
            return (value - learned["mean"]) / learned["deviation"]
        value = self.categories[feature.name].lookup(tf.strings.strip(value))
        return value[:, : feature.max_length] if feature.is_list else value


def normal(names, schema: Schema, of: str):
    """Ids of requests in the form that those of the dataset have, as far as core operations can make it: string [...].

    Args:
        names: string [...].
        schema: What the records of the dataset hold.
        of: "item" or "user".
    """
    if schema.id_form == schema_lib.RAW_IDS:
        return names
    names = tf.strings.regex_replace(names, ids_lib.BLANKS_AROUND, "")
    if of not in schema.numeric_ids:
        return names
    return tf.strings.regex_replace(names, ids_lib.FRACTION, ids_lib.WITHOUT_FRACTION)


def table(values: Mapping[str, int], *, default: int):
    """A lookup table."""
    initializer = tf.lookup.KeyValueTensorInitializer(list(values), list(values.values()), tf.string, tf.int64)
    return tf.lookup.StaticHashTable(initializer, default_value=default)


def _category_ids(values: Sequence[str]) -> dict[str, int]:
    """The ids of categories by all that requests may hold for them; a category's own name comes first."""
    numbers = {value: number for number, value in enumerate(values, start=UNKNOWN + 1)}
    spellings = {spelling: numbers[value] for value in values for spelling in features.spellings_of(value)}
    return {NO_ITEM: MISSING, **spellings, **numbers}


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
