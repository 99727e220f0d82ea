"""The signatures of an exported model: string ids in, string ids and scores out; `export` says what they take.

`schema.SIGNATURES` declares them; a method of `Recommender` computes each. A new one is an entry there and a method
here, and its place in `signatures_of`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from seqrec_tf import padding
from seqrec_tf import schema as schema_lib
from seqrec_tf.exporting import choosing
from seqrec_tf.exporting.item_vectors import Alike, with_one
from seqrec_tf.exporting.stage import Stage, inputs_of, normal, reads_liked_alone, table
from seqrec_tf.ids import decomposed
from seqrec_tf.padding import NO_ITEM
from seqrec_tf.schema import (
    ALLOW,
    CANDIDATES,
    CLASSES,
    EXCLUDE,
    HISTORY,
    HISTORY_LABELS,
    ITEM,
    ITEMS,
    NUM_UNKNOWN,
    OF_HISTORY,
    OUTPUTS,
    PADDING_ID,
    SCORES,
    SERIALIZED,
    VECTOR,
    Feature,
    K,
    Schema,
    Signature,
)

if TYPE_CHECKING:
    from seqrec_tf.exporting.rules import Rules
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder


@dataclasses.dataclass(frozen=True)
class Answers:
    """How an exported model answers.

    Attributes:
        k: Items in an answer, at most.
        exclude_history: Whether items of the history are not recommended.
        history_length: The length of every history; any where None.
        rules: What of the catalogue may be shown; all of it where None.
        num_candidates: Items that the first of two stages proposes to the second.
    """

    k: int
    exclude_history: bool = True
    history_length: int | None = None
    rules: Rules | None = None
    num_candidates: int = 0


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and what it was trained on.

    Attributes:
        model: The model, whose item table is frozen already.
        folder: The dataset.
    """

    model: SequenceModel
    folder: DatasetFolder


class Recommender(tf.Module):
    """The weights and tables of a saved model, and its signatures; TensorFlow core operations only.

    Args:
        stages: The model; or one that proposes items, and one that ranks these.
        vocabulary: File with an item id a line, in the order of the models' ids.
        answers: How it answers.
    """

    def __init__(self, stages: Sequence[Trained], vocabulary: str, answers: Answers):
        super().__init__()
        line, whole = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
        self._answers = answers
        self._inputs = tuple(_inputs_of_stages(stages))
        self.stages = [Stage(stage.model, stage.folder) for stage in stages]
        self.line_of_item = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(vocabulary, tf.string, whole, tf.int64, line), default_value=-1
        )
        self.item_of_line = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(vocabulary, tf.int64, line, tf.string, whole), default_value=NO_ITEM
        )
        self._schema = stages[0].folder.schema
        spellings = _other_spellings(vocabulary, self._schema)
        self.line_of_spelling = table(spellings, default=-1) if spellings else None
        self.alike = Alike.of(stages[0].model)
        rules = answers.rules
        self.is_banned = None if rules is None or rules.is_banned is None else tf.Variable(rules.is_banned, False)
        limits = () if rules is None else rules.limits
        self.categories = [tf.Variable(limit.categories, trainable=False) for limit in limits]
        self._limits = tuple(
            dataclasses.replace(limit, categories=variable)
            for limit, variable in zip(limits, self.categories, strict=True)
        )

    def concrete_functions(self) -> dict[str, Any]:
        """What `tf.saved_model.save` takes: the concrete function of each signature by its name."""
        methods = {
            schema_lib.RECOMMEND: self.recommend,
            schema_lib.RECOMMEND_AMONG: self.recommend,
            schema_lib.RANK: self.rank,
            schema_lib.EMBED: self.embed,
            schema_lib.SIMILAR: self.similar,
            schema_lib.EXAMPLES: self.examples,
            schema_lib.REGRESS: self.regress,
        }
        # Functions that were attributes would be traced and saved once more, beside the signatures.
        return {
            signature.name: tf.function(methods[signature]).get_concrete_function(**self._specs(signature))
            for signature in signatures_of(self.stages[0].model)
        }

    def _specs(self, signature: Signature) -> dict[str, Any]:
        """The `tf.TensorSpec` of each input of a signature by its name, in their order."""
        features = (*(self._inputs if signature.takes_history else ()), *signature.inputs)
        length = self._answers.history_length
        return {
            feature.name: tf.TensorSpec(
                [None, length] if feature.name in OF_HISTORY else [None, *feature.shape],
                tf.as_dtype(feature.dtype),
                name=feature.name,
            )
            for feature in features
        }

    def recommend(self, **request):
        """The signatures `schema.RECOMMEND` and `schema.RECOMMEND_AMONG`."""
        history = self._ids(request[HISTORY])
        return {**self._recommend(request, history), NUM_UNKNOWN: _num_unknown(request[HISTORY], history)}

    def rank(self, **request):
        """The signature `schema.RANK`."""
        history = self._ids(request[HISTORY])
        return {SCORES: self._rank(request, history), NUM_UNKNOWN: _num_unknown(request[HISTORY], history)}

    def embed(self, **request):
        """The signature `schema.EMBED`: a vector whose products with those of the items are their scores."""
        stage, history = self.stages[0], self._ids(request[HISTORY])
        known, is_cold = stage.query(request, history)
        vector = with_one(tf.cast(known, tf.float32), stage.model)
        # Of whom nothing is known, no vector gives popularity.
        vector = tf.where(is_cold[:, None], tf.zeros_like(vector), vector)
        return {VECTOR: vector, NUM_UNKNOWN: _num_unknown(request[HISTORY], history)}

    def similar(self, **request):
        """The signature `schema.SIMILAR`."""
        item = self._ids(request[ITEM])
        model: Any = self.stages[0].model
        alike: Any = self.alike
        ids, scores = choosing.choose(
            alike.scorer(model),
            alike.query(model, tf.maximum(item, 1)),
            excluded=item[:, None],
            k=self._answers.k,
            is_banned=self.is_banned,
            limits=self._limits,
        )
        is_there = (item != PADDING_ID)[:, None]
        ids, scores = tf.where(is_there, ids, PADDING_ID), tf.where(is_there, scores, -np.inf)
        return {**self._listed(ids, scores), NUM_UNKNOWN: _num_unknown(request[ITEM][:, None], item[:, None])}

    def examples(self, **request):
        """The signature `schema.EXAMPLES`."""
        parsed = self._parse(request[SERIALIZED], schema_lib.RECOMMEND_AMONG)
        answer = self._recommend(parsed, self._ids(parsed[HISTORY]))
        return {CLASSES: answer[ITEMS], SCORES: answer[SCORES]}

    def regress(self, **request):
        """The signature `schema.REGRESS`: the score of the first candidate."""
        parsed = self._parse(request[SERIALIZED], schema_lib.RANK)
        parsed[CANDIDATES] = padding.one_column_at_least(parsed[CANDIDATES])[:, :1]
        return {OUTPUTS: self._rank(parsed, self._ids(parsed[HISTORY]))[:, 0]}

    def _recommend(self, request, history):
        """Items and scores; by what only `schema.RECOMMEND_AMONG` takes too, where it is there.

        Args:
            request: The inputs by their names.
            history: int32 [B, L], the ids of the history.
        """
        k = self._answers.k
        excluded = history if self._answers.exclude_history else history[:, :0]
        allowed = None
        if EXCLUDE in request:
            excluded = tf.concat([excluded, self._ids(request[EXCLUDE])], axis=1)
            is_restricted = tf.reduce_any(request[ALLOW] != NO_ITEM, axis=1)
            allowed = choosing.Allowed(self._ids(request[ALLOW]), is_restricted)
        # Limits hold for what the last stage ranks.
        ids, scores = choosing.choose(
            self.stages[0],
            self.stages[0].query(request, history),
            excluded=excluded,
            k=self._answers.num_candidates or k,
            allowed=allowed,
            is_banned=self.is_banned,
            limits=() if self._answers.num_candidates else self._limits,
        )
        if self._answers.num_candidates:
            ids, scores = self._ordered(request, history, ids)
        if K in request:
            wanted = tf.where(request[K] > 0, request[K], k)
            is_wanted = tf.range(k, dtype=tf.int64) < wanted[:, None]
            ids, scores = tf.where(is_wanted, ids, PADDING_ID), tf.where(is_wanted, scores, -np.inf)
        return self._listed(ids, scores)

    def _ordered(self, request, history, candidates):
        """What the second stage makes of candidates, int32 [B, N]: the best k by its scores."""
        ranker = self.stages[1]
        scores = ranker.score_candidates(ranker.query(request, history), tf.maximum(candidates, 1))
        scores = tf.where(candidates == PADDING_ID, -np.inf, scores)
        ids, scores = choosing.arrange(scores, candidates, self._answers.num_candidates)
        return choosing.first_within(ids, scores, self._limits, self._answers.k)

    def _rank(self, request, history):
        """The scores of candidates, by the last stage: float32 [B, K]."""
        candidates, stage = self._ids(request[CANDIDATES]), self.stages[-1]
        query = stage.query(request, history)
        scores = stage.score_candidates(query, tf.maximum(candidates, 1))
        is_there = (candidates != PADDING_ID) & tf.math.is_finite(scores)
        return tf.where(is_there, scores, tf.float32.min)

    def _parse(self, serialized, signature: Signature):
        """What a signature takes, of serialized Examples, string [B]; what they lack is empty, 0 or missing."""
        features = (*self._inputs, *signature.inputs)
        parsed = tf.io.parse_example(
            serialized,
            {
                feature.name: tf.io.RaggedFeature(tf.as_dtype(feature.dtype))
                if feature.is_list
                else tf.io.FixedLenFeature((), tf.as_dtype(feature.dtype), _default_of(feature))
                for feature in features
            },
        )
        length = self._answers.history_length
        for feature in features:
            if feature.is_list:
                rows = parsed[feature.name]
                if length is not None and feature.name in OF_HISTORY:
                    parsed[feature.name] = rows[:, -length:].to_tensor(shape=[None, length])
                else:
                    parsed[feature.name] = rows.to_tensor()
        # Rows that give no times or labels are as long as those that do.
        longest = tf.shape(parsed[HISTORY])[1]
        for name in OF_HISTORY[1:]:
            if name in parsed:
                missing = tf.maximum(longest - tf.shape(parsed[name])[1], 0)
                parsed[name] = tf.pad(parsed[name], [[0, 0], [0, missing]])[:, :longest]
        return parsed

    def _listed(self, ids, scores):
        """Ids and scores as answers hold them."""
        lines = tf.cast(ids, tf.int64) - 1  # -1, which is none, for 0
        is_there = ids != PADDING_ID
        # JSON has no infinity.
        return {ITEMS: self.item_of_line.lookup(lines), SCORES: tf.where(is_there, scores, tf.float32.min)}

    def _ids(self, items):
        items = normal(items, self._schema, "item")
        lines = self.line_of_item.lookup(items)
        if self.line_of_spelling is not None:
            lines = tf.maximum(lines, self.line_of_spelling.lookup(items))
        return tf.cast(lines + 1, tf.int32)  # 0 where unknown or padding


def signatures_of(model: SequenceModel) -> list[Signature]:
    """The signatures of a saved model whose first stage is this model."""
    lacking = set() if model.scores_by_vectors else {schema_lib.EMBED}
    if not Alike.knows(model):
        lacking.add(schema_lib.SIMILAR)
    return [signature for signature in schema_lib.SIGNATURES if signature not in lacking]


def _inputs_of_stages(stages: Sequence[Trained]) -> list[Feature]:
    """What requests hold for all stages, whatever they ask.

    Raises:
        ValueError: Two stages read different features of one name.
    """
    inputs: dict[str, Feature] = {}
    for stage in stages:
        for feature in inputs_of(stage.model):
            there = inputs.setdefault(feature.name, feature)
            if (there.dtype, there.shape) != (feature.dtype, feature.shape):
                raise ValueError(
                    f"Both stages read `{feature.name}`, of different kinds: {there.dtype} {list(there.shape)} and "
                    f"{feature.dtype} {list(feature.shape)}. Train both on datasets with the same users file."
                )
    if takes_labels(stages):
        inputs[HISTORY_LABELS] = schema_lib.HISTORY_LABELS_INPUT
    return list(inputs.values())


def takes_labels(stages: Sequence[Trained]) -> bool:
    """Whether requests say which events were liked: where one stage reads these alone, and another reads all."""
    return len({reads_liked_alone(stage.model, stage.folder) for stage in stages}) > 1


def _other_spellings(vocabulary: str, schema: Schema) -> dict[str, int]:
    """The lines of a vocabulary by the other spelling of the item, of those that have one: no operation composes."""
    if schema.id_form == schema_lib.RAW_IDS:
        return {}
    with open(vocabulary, encoding="utf-8", newline="\n") as stream:
        items = stream.read().split("\n")
    spellings = {decomposed(item): line for line, item in enumerate(items) if not item.isascii()}
    return {spelling: line for spelling, line in spellings.items() if spelling != items[line]}


def _num_unknown(items, ids):
    """How many items of each row, string [B, L], have no id, int32 [B, L]; "" is none: int32 [B]."""
    return tf.reduce_sum(tf.cast((ids == PADDING_ID) & (items != NO_ITEM), tf.int32), axis=1)


def _default_of(feature: Feature):
    """What stands for a value that an Example lacks; times must be there."""
    if feature.name == schema_lib.TIMESTAMP:
        return None
    return {"string": NO_ITEM, "float32": np.nan, "int64": 0}[feature.dtype]
