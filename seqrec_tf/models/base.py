"""What every model shares: construction from a schema, training and validation steps, ranking, saving.

A model turns a padded history into a *query* and scores items with it. `fit`, `evaluate`, the ranking metrics and the
export use nothing but the methods below, so a model overrides only where it differs.

Tensor letters: B batch, L length, N targets of a batch, D model dim, V items (padding row included), K candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from seqrec_tf import config as config_lib
from seqrec_tf import metrics
from seqrec_tf.config import ModelConfig
from seqrec_tf.layers.feature_vectors import FeatureVectors, ItemFeatures, chosen_features
from seqrec_tf.losses import logits_at_once
from seqrec_tf.models.base_batches import EXCLUDED, TARGET, liked_alone, negatives_avoid, newest_position, pad
from seqrec_tf.objective import NextItemObjective, ObjectiveConfig
from seqrec_tf.parallel import in_parts, parts_for_cores
from seqrec_tf.ranking import best_items
from seqrec_tf.schema import ITEM_IDS, PADDING_ID, SEEN, TARGET_TIME, TIMESTAMPS, USER_ID, Schema

# More items than this make a loss over all of them most of a step's work.
_MANY_ITEMS = 10_000


class SequenceModel(keras.Model):
    """Base of all models.

    A subclass defines `create_layers`, `call` and `item_table`; one that scores items other than by a dot product with
    a table overrides `score_block` and `score_candidates` instead of the last. On CPUs a batch is worked on in parts of
    its rows, perhaps without any: where `call`, `query` or `target_losses` do not treat rows independently, it
    overrides `num_parts`.

    Args:
        config: The model's configuration, an instance of `config_class`; its defaults where None.
        schema: What the dataset holds; the number of items, at least.

    Attributes:
        reads: Features of a sequence that the model takes beside `item_ids`: of `user_id` (as a fingerprint),
            `timestamps` (with `target_time`) and features of users, those that its class or its configuration names and
            the schema has.
    """

    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    reads: tuple[str, ...] = ()
    item_features: Any = None  # an ItemFeatures, where `make_item_features` made one
    user_features: Any = None  # a FeatureVectors, where `make_user_features` made one
    ranks_candidates: bool = False  # whether it is for a few candidates, as all items would take it long
    frozen_table: Any = None  # a tf.Variable, where `freeze_item_table` made one
    bias: Any = None  # float32 [V], where `make_item_bias` made it
    config: Any  # an instance of config_class

    def __init__(self, config: ModelConfig | None = None, schema: Schema | None = None, **kwargs):
        super().__init__(**{"name": type(self).__name__.lower(), **kwargs})
        self.supports_jit = False  # XLA, which Keras chooses on a GPU, compiles anew for each shape of a batch
        if schema is None:
            raise TypeError(
                f"{type(self).__name__} needs the schema of its dataset, such as Schema(num_items=1000); "
                f"{type(self).__name__}.from_dataset(folder) takes it from a dataset folder."
            )
        self.config = self.config_class() if config is None else config
        self.schema = schema
        self.num_items = schema.num_items
        self.reads = tuple(name for name in self.features_to_read() if name in schema)
        self.objective: Any = None  # a NextItemObjective, where the configuration has its options
        if isinstance(self.config, ObjectiveConfig):
            self.objective = NextItemObjective(self.config, self.num_items)
        self.validation_metrics = self.create_metrics()
        with config_lib.computing_in(self.dtype_policy):  # that of a saved model, whatever it is now
            self.create_layers()
            self(self.example_inputs())  # creates the weights, which depend on the schema and the configuration alone

    # ---- What a model defines ----

    def create_layers(self) -> None:
        """Create the layers as attributes; a `layers.UserEmbedding` as `users` where the model reads `user_id`."""
        raise NotImplementedError

    @property
    def reads_of_user(self) -> tuple[str, ...]:
        """Those of `reads` that a sequence has once, and not one of each event."""
        once = {USER_ID, *(feature.name for feature in self.schema.user_features)}
        return tuple(name for name in self.reads if name in once)

    @property
    def gives_probabilities(self) -> bool:
        """Whether a score is the logit of the probability that the event's label is 1."""
        return False

    @property
    def monitor(self) -> str:
        """The validation metric that decides which epoch is the best; larger is better."""
        return "ndcg@10"

    def create_metrics(self) -> list[keras.metrics.Metric]:
        """What `test_step` updates; `monitor` is the name of one of them."""
        return [keras.metrics.Mean(name="ndcg@10"), keras.metrics.Mean(name="hr@10")]

    def make_item_features(self, names, dim) -> None:
        """Side features of items as the layer `item_features`, None where no names are given.

        Args:
            names: Of features of the schema; "*" stands for all that a model can read.
            dim: Width of the vector of each.

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
        """Features of users as the layer `user_features`, as `make_item_features` does for items."""
        chosen = chosen_features(names, self.schema.user_features, "user", type(self).__name__)
        self.user_features = FeatureVectors(chosen, dim, name="user_features") if chosen else None

    def represent(self, item_ids, training=False):
        """Vectors of items, by their row of the layer `items` and, where there are any, by their features.

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

    def represented_table(self, training=False):
        """What `represent` gives for every item, as an `item_table`: the table itself where there are no features."""
        if self.item_features is None:
            return self.items.table
        return tf.cast(self.represent(tf.range(self.num_items + 1), training=training), tf.float32)

    @property
    def scores_by_features(self) -> bool:
        """Whether the item table is made of side features, so that items that nobody has touched yet have a score."""
        return self.item_features is not None and self.config.scores_by_features

    @property
    def takes_new_items(self) -> bool:
        """Whether items that came after training can be added, known by their side features alone."""
        return self.scores_by_features

    def make_item_bias(self) -> None:
        """Make a weight of each item's `item_bias`."""
        self.bias = self.add_weight(name="bias", shape=[self.num_items + 1], initializer="zeros", dtype="float32")

    def features_to_read(self) -> tuple[str, ...]:
        """What `reads` would be if the schema had everything; a model whose options decide it overrides this."""
        return type(self).reads

    def histories(self, sequences, start, target):
        """Which events are the history of each event to predict, but for training of models that predict every event.

        Args:
            sequences: What the records hold of each event, by name, `item_ids` among it: ragged [B, L].
            start: int64 [N], place of the first event of the target's sequence, counted over all sequences.
            target: int64 [N], that of the target.

        Returns:
            events: int64 [E], places of events, oldest first; first, limit: int64 [N], such that a history is
            events[first:limit].
        """
        places = tf.range(tf.size(sequences[ITEM_IDS].flat_values, tf.int64))
        return places, tf.maximum(start, target - self.config.max_len), target

    def call(self, inputs, training=False):
        """Hidden states of a batch of histories.

        Args:
            inputs: dict with `item_ids`: int32 [B, L], 0 is padding, on either side; and what the model `reads`.
            training: Whether dropout is on.

        Returns:
            float [B, L, D]; row i predicts the item after position i. Rows of padding are undefined.
        """
        raise NotImplementedError

    def item_table(self):
        """Output embeddings, row 0 being padding: a tensor or `tf.Variable`, float [V, D], perhaps with more rows.

        Of a variable, sampled losses read and change only the rows that they need.
        """
        raise NotImplementedError

    def item_bias(self):
        """A score of each item that does not depend on the history, float32 [V]; None where there is none."""
        return None if self.bias is None else tf.convert_to_tensor(self.bias)

    def project(self, hidden):
        """Hidden states, float [..., D], to what is compared with the item table; themselves, by default."""
        return hidden

    def query(self, inputs):
        """What is known of each history when it ends: float [B, D], the state of its newest event."""
        hidden = self(inputs, training=False)
        return self.project(tf.gather(hidden, newest_position(inputs[ITEM_IDS]), axis=1, batch_dims=1))

    def score_block(self, query, start, stop):
        """Scores of the items with ids in [start, stop): float32 [B, stop - start]."""
        vectors = tf.cast(self._table_to_score()[start:stop], tf.float32)
        scores = tf.matmul(tf.cast(query, tf.float32), vectors, transpose_b=True)
        bias = self.item_bias()
        return scores if bias is None else scores + bias[start:stop]

    def score_candidates(self, query, candidates):
        """Scores of each row's own candidates, int [B, K]: float32 [B, K]."""
        vectors = tf.cast(tf.gather(self._table_to_score(), candidates), tf.float32)  # [B, K, D]
        # One product of matrices a row would be slower, as they are small.
        scores = tf.reduce_sum(vectors * tf.cast(query, tf.float32)[:, None, :], axis=-1)
        bias = self.item_bias()
        return scores if bias is None else scores + tf.gather(bias, candidates)

    def with_new_items(self, number: int, values: Mapping[str, np.ndarray]) -> SequenceModel:
        """This model for a catalogue with more items at its end, which it knows by their side features alone.

        Args:
            number: How many there are.
            values: Name of each of the model's `item_features` to their values, [number, ...].

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
        grown = type(self)(self.config, schema, dtype=self.dtype_policy)
        for old, new in zip(self.weights, grown.weights, strict=True):
            value = old.numpy()
            if value.shape != new.shape:  # a row of each item, and perhaps of padding before and others after them
                kept = min(self.num_items + 1, len(value))
                rows = np.zeros([number, *value.shape[1:]], value.dtype)
                value = np.concatenate([value[:kept], rows, value[kept:]])
            new.assign(value)
        grown.item_features.set_rows(values, self.num_items + 1)
        return grown

    def freeze_item_table(self) -> None:
        """Compute the item table once, where it is made of side features, for a model that learns no more."""
        if self.scores_by_features:
            self.frozen_table = tf.Variable(self.item_table(), trainable=False, name="item_table")

    def _table_to_score(self):
        return tf.convert_to_tensor(self.item_table() if self.frozen_table is None else self.frozen_table)

    def make_batch(self, sequences, seed):
        """Training sequences to `(inputs, labels)`; runs in tf.data, on one batch.

        Here every event but the first is a target, predicted from the events before it.

        Args:
            sequences: dict of `tf.RaggedTensor` [B, None], a key for each per-event feature of the schema, cut to
                `training_events` events (for ranking models with labels, at the end alone), and `seen`, all its items;
                of `reads_of_user`, tensors [B, ...].
            seed: int32 [2], of this batch in this epoch, for what is random.

        Returns:
            inputs: dict with `item_ids` int32 [B, L] and, where the negatives depend on it, `seen` int32 [B, S].
            labels: int32 [B, L], the item that follows each position, 0 where none does.
        """
        if of_events := set(self.reads) - set(self.reads_of_user):
            raise NotImplementedError(
                f"{type(self).__name__} reads {', '.join(sorted(of_events))} of each event: its `make_batch` must give "
                "them beside the items."
            )
        item_ids = sequences[ITEM_IDS]
        return {ITEM_IDS: pad(item_ids[:, :-1]), **self.beside_items(sequences)}, pad(item_ids[:, 1:])

    def beside_items(self, sequences):
        """What a training batch holds beside items and targets; arguments and values as in `make_batch`."""
        inputs = {name: sequences[name] for name in self.reads_of_user}
        if self.objective is not None and self.objective.needs_seen:
            inputs[SEEN] = pad(sequences[SEEN])
        return inputs

    @property
    def training_events(self) -> int:
        """Events of a sequence that `make_batch` sees: as many inputs as the model takes, and the last one's target."""
        return self.config.max_len + 1

    def num_targets(self, lengths):
        """How much a training sequence counts, by its events: float32 [B] of float32 [B]."""
        return lengths - 1.0

    def is_cold(self, inputs):
        """Of whom the model knows nothing, so that the most popular items are as good: bool [B]."""
        is_empty = tf.reduce_all(inputs[ITEM_IDS] == PADDING_ID, axis=1)
        return is_empty & ~self.users.is_known(inputs[USER_ID]) if USER_ID in self.reads else is_empty

    def adapt(self, dataset) -> None:
        """Take what is learned by counting, not by gradients, from a `records.DatasetFolder`.

        A saved model holds it; but before one is trained further, it is to be taken again.
        """
        if self.objective is not None:
            self.objective.adapt(dataset.item_counts, only_seen=self.scores_by_features)
        if USER_ID in self.reads:
            self.users.adapt(dataset.training_users())
        if self.item_features is not None:
            names = [feature.name for feature in self.item_features.features]
            self.item_features.adapt(dataset.item_values(names), dataset.item_counts)

    # ---- What follows from it ----

    @classmethod
    def from_dataset(cls, dataset, **options):
        """A model for a dataset folder, `options` being fields of its configuration.

        Args:
            dataset: A `records.DatasetFolder`, or its path.
            **options: Such as `dim=64`.
        """
        from seqrec_tf.records import DatasetFolder

        dataset = dataset if isinstance(dataset, DatasetFolder) else DatasetFolder(dataset)
        model = cls(config_lib.from_values(cls.config_class, options, section="model"), dataset.schema)
        model.adapt(dataset)
        return model

    @classmethod
    def memory_estimate(cls, config, schema, *, batch_size) -> int:
        """Bytes that training will need, roughly: tables with their optimizer slots, and a batch's activations."""
        dim = getattr(config, "units", getattr(config, "dim", 1))
        length = min(config.max_len, schema.max_len or config.max_len)
        tokens = batch_size * length
        has_users = USER_ID in cls.reads or getattr(config, "use_users", False)
        rows_of_users = getattr(config, "user_dim", dim if has_users else 0) * schema.num_users
        tables = 4 * 4 * (schema.num_items * dim + rows_of_users)  # weights, gradient, two moments
        names = getattr(config, "item_features", ())
        for feature in schema.item_features:
            if feature.kind == "vector" and ("*" in names or feature.name in names):
                width = feature.shape[0] if config.item_vectors == "projected" else min(dim, feature.shape[0])
                # Trained: as other tables; else float16.
                tables += (16 if config.item_vectors == "trained" else 2) * schema.num_items * width
        attention = 6 * 4 * tokens * length * getattr(config, "num_heads", 1) * getattr(config, "num_blocks", 0)
        states = 20 * 4 * tokens * dim * (1 + getattr(config, "num_blocks", 0))
        scored = 0  # per target: logits and, where each has its own negatives, their vectors
        if isinstance(config, ObjectiveConfig):
            scored = config.num_negatives * (1 if config.share_negatives else dim)
            if config.loss == "softmax":
                logits = logits_at_once(schema.num_items) * cls.num_parts(config, schema)
                return tables + attention + states + 3 * 4 * logits
            elif config.negatives == "in-batch":
                scored = config.num_negatives + tokens
        return tables + attention + states + 3 * 4 * tokens * scored

    def example_inputs(self):
        """Inputs of the smallest batch, to build the model with."""
        inputs = {ITEM_IDS: tf.zeros([1, 2], tf.int32)}
        inputs |= {name: tf.zeros([1, 2], tf.int64) for name in self.reads if name not in self.reads_of_user}
        features = {feature.name: feature for feature in self.schema.user_features}
        for name in self.reads_of_user:
            feature = features.get(name)
            shape = [1, feature.max_length] if feature and feature.kind == "categories" else [1]
            inputs[name] = tf.zeros(shape, feature.dtype if feature else tf.int64)
        return inputs | ({TARGET_TIME: tf.zeros([1], tf.int64)} if TIMESTAMPS in self.reads else {})

    @classmethod
    def num_parts(cls, config, schema) -> int:
        """In how many parts of its rows a batch is worked on: 1 where these would not be independent, or not pay.

        Args:
            config: Of the model.
            schema: Of the dataset.
        """
        if isinstance(config, ObjectiveConfig):
            if config.negatives_are_shared:
                return 1
            # A table that is made of side features would be made in each part; logits of many items are products so
            # large that they keep all cores busy.
            makes_table = getattr(config, "scores_by_features", False)
            if config.loss == "softmax" and (makes_table or schema.num_items > _MANY_ITEMS):
                return 1
        return parts_for_cores()

    def mean_loss(self, values, weight=None):
        """Mean over the targets of the whole batch, on all replicas, times the batch's weight: float32 scalar.

        Args:
            values: float32 [N], what `target_losses` gives.
            weight: float32 [B], all equal: the weight of this batch among those of an epoch; 1 where None.
        """
        total, count = tf.reduce_sum(values), tf.cast(tf.size(values), tf.float32)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            count = replica.all_reduce("SUM", count)  # replicas' gradients are summed
        for extra in self.losses:  # regularizers of layers, the same on every replica
            total += extra * count / (1 if replica is None else replica.num_replicas_in_sync)
        # A replica may have no rows.
        weight = 1.0 if weight is None else tf.reduce_max(tf.concat([[0.0], weight], axis=0))
        return weight * tf.math.divide_no_nan(total, count)

    def target_losses(self, x, y, y_pred):
        """Loss of each real target: float32 [N]. A model that learns by another loss overrides this.

        Args:
            x: The inputs of `call`.
            y: int32 [B, L], targets; 0 where there is none.
            y_pred: float [B, L, D], what `call` returned.
        """
        if self.objective is None:
            raise NotImplementedError(f"{type(self).__name__} has no loss: it learns nothing by gradients.")
        is_target = y != PADDING_ID
        if not self.scores_by_features:
            table = self.item_table()
        elif self.objective.config.loss == "softmax":
            table = self.represented_table(training=True)
        else:
            table = self.represent  # the rows that the samples need, and no others
        return self.objective(
            self.project(tf.boolean_mask(y_pred, is_target)),
            tf.boolean_mask(y, is_target),
            sequence=negatives_avoid(x, y),
            is_target=is_target,
            table=table,
            bias=self.item_bias(),
        )

    def rank_among(self, query, target, candidates):
        """Rank of each target among its own candidates, ties against it: int32 [B], from 1.

        Args:
            query: What `query` returned for the histories.
            target: int32 [B].
            candidates: int32 [B, K], 0 is none.
        """
        scores = self.score_candidates(query, tf.concat([target[:, None], candidates], axis=1))
        is_rival = (candidates != PADDING_ID) & (candidates != target[:, None])
        num_rivals = tf.reduce_sum(tf.cast(is_rival, tf.int32), axis=1)
        rivals = tf.where(is_rival, scores[:, 1:], -np.inf)
        return 1 + metrics.count_not_below(scores[:, 0], rivals, num_rivals=num_rivals)

    def recommend(self, query, excluded, *, k):
        """The k items with the highest scores, equal scores by the smaller id (the more frequent item).

        Args:
            query: What `query` returned for the histories.
            excluded: int32 [B, S], items that may not be recommended; 0 is ignored.
            k: Items a row, at most `num_items`.

        Returns:
            ids: int32 [B, k].
            scores: float32 [B, k], descending; -inf, beside an id that means nothing, where fewer than k are left.
        """
        return self._recommend(query, excluded, k)[:2]

    def rank_and_recommend(self, query, target, excluded, *, k):
        """What `recommend` gives, and ranks that tell as much as it does, from one pass over the catalogue.

        Args:
            query: What `query` returned for the histories.
            target: int32 [B].
            excluded: int32 [B, S], items that may not be recommended; 0 is ignored.
            k: Items a row.

        Returns:
            rank: int32 [B], from 1, ties against the target (see `metrics`), where it is at most k; else more than k,
                and `metrics.IMPOSSIBLE` where the target is excluded.
            ids: int32 [B, k].
            scores: float32 [B, k].
        """
        ids, scores, num_nan = self._recommend(query, excluded, min(k + 1, self.num_items))
        # The best k + 1 hold every rival that stands before a target of rank k, and perhaps the target; scores that
        # are NaN stand before every target, and are not among them.
        is_target = ids == target[:, None]
        rivals, own = tf.where(is_target, -np.inf, scores), tf.where(is_target, scores, -np.inf)
        # Where the target is among them its score is of the same product as theirs, so that equal items are equal.
        listed = tf.reduce_max(own, axis=1)
        target_scores = self.score_candidates(query, target[:, None])[:, 0]
        target_scores = tf.where(listed > -np.inf, listed, target_scores)
        num_rivals = tf.reduce_sum(tf.cast(rivals > -np.inf, tf.int32), axis=1)
        num_nan -= tf.cast(tf.math.is_nan(target_scores), tf.int32)
        before = num_nan + metrics.count_not_below(target_scores, rivals, num_rivals=num_rivals)
        # One that is not among them is behind all of them, even where its score, of another product, rounds up.
        is_behind = (listed == -np.inf) & ~tf.math.is_nan(target_scores)
        before = tf.where(is_behind, tf.maximum(before, min(k, self.num_items - 1)), before)
        is_excluded = tf.reduce_any(excluded == target[:, None], axis=1)
        return tf.where(is_excluded, metrics.IMPOSSIBLE, before + 1), ids[:, :k], scores[:, :k]

    def _recommend(self, query, excluded, k):
        """Ids, scores and number of NaN, of the best k items, as `ranking.best_items` gives them."""
        return best_items(partial(self.score_block, query), excluded, num_items=self.num_items, k=k)

    def validation_rank(self, inputs, labels):
        """Rank of each target that validation measures, here among all items: int32 [B], more than 10 where it is.

        Args:
            inputs: Of `data.load`, from `valid` or `test`.
            labels: Of the same.
        """
        return self.rank_and_recommend(self.query(inputs), labels[TARGET], labels[EXCLUDED], k=10)[0]

    def test_step(self, data):
        """Ranking metrics of a batch that `data.load` made from `valid` or `test`; of what was liked, by labels."""
        inputs, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        inputs, labels = liked_alone(inputs, labels)
        makes_table = self.scores_by_features and self.frozen_table is None
        if makes_table:  # of side features, and once for all parts of the batch and of the catalogue
            self.frozen_table = self.item_table()
        try:
            rank = in_parts(self.validation_rank, self.num_parts(self.config, self.schema), inputs, labels)
        finally:
            if makes_table:
                self.frozen_table = None
        ndcg, hit_rate = self.validation_metrics
        ndcg.update_state(metrics.ndcg(rank, 10))
        hit_rate.update_state(metrics.hit_rate(rank, 10))
        return self._replica_logs({metric.name: metric.result() for metric in self.validation_metrics})

    def train_step(self, data):
        """As Keras' own, but the loss shown is the mean over batches: their weights are in it already."""
        inputs, labels, weight = keras.utils.unpack_x_y_sample_weight(data)

        def losses_of(inputs, labels):
            return self.target_losses(inputs, labels, self(inputs, training=True))

        parts = self.num_parts(self.config, self.schema)
        with tf.GradientTape() as tape:
            loss = self.mean_loss(in_parts(losses_of, parts, inputs, labels), weight)
            scaled = self.optimizer.scale_loss(loss)
        self._loss_tracker.update_state(loss * self.distribute_strategy.num_replicas_in_sync)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables, strict=True))
        return self._replica_logs({"loss": self._loss_tracker.result()})

    # ---- Keras 3 under tf.distribute (keras issue 20585) ----

    def _get_metrics_result_or_logs(self, logs):
        """Keras would take the mean of the replicas' own figures, whatever share of the events each has had."""
        return logs if "loss" in logs else {metric.name: metric.result() for metric in self.validation_metrics}

    def _replica_logs(self, logs):
        """Keras takes the mean over axis 0 of logs from several workers, which scalars do not have."""
        strategy = self.distribute_strategy
        is_of_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if is_of_workers and strategy.extended._in_multi_worker_mode():  # as Keras asks; not in a cluster of one
            return {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras reduces a batch of PerReplica values here to build the model, and fails; ours is built already."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    # ---- Saving ----

    def get_config(self) -> dict[str, Any]:
        """The configuration and the schema: all that decides the shape of the weights."""
        return {**super().get_config(), "config": dataclasses.asdict(self.config), "schema": self.schema.to_dict()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The inverse of `get_config`."""
        config = dict(config)
        model_config = config_lib.from_values(cls.config_class, config.pop("config"), section="model")
        return cls(model_config, Schema.from_dict(config.pop("schema")), **config)

    def build_from_config(self, config):
        """Nothing: the constructor has built the model."""
