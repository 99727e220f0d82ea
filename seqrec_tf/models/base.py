"""What a model must define, what it may define, and what it is given.

A model turns a padded history into a *query* and scores items with it; training, evaluation and export use no more of
it than is said here, in three sections in this order. What a model is given goes on in `base_features` (items and users
known by side features, new items) and `base_keras` (the steps of `fit` and `evaluate`, saving). Ranks and
recommendations are functions of any model, in `seqrec_tf.learning.ranking`.

Tensor letters: B batch, L length, N targets of a batch, D model dim, V items (padding row included), K candidates, E
events of all sequences of a batch.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import tensorflow as tf

from seqrec_tf import config as config_lib
from seqrec_tf import padding
from seqrec_tf.config import ItemFeaturesConfig, ModelConfig
from seqrec_tf.learning import metrics
from seqrec_tf.learning.objective import NextItemObjective, ObjectiveConfig
from seqrec_tf.learning.parallel import in_parts, parts_for_cores
from seqrec_tf.learning.ranking import rank_and_recommend
from seqrec_tf.models.base_batches import liked_alone, negatives_avoid, newest_position
from seqrec_tf.models.base_features import SideFeatures
from seqrec_tf.models.base_keras import KerasModel
from seqrec_tf.schema import EXCLUDED, ITEM_IDS, PADDING_ID, SEEN, TARGET, USER_ID, Schema

# More items than this make a loss over all of them most of a step's work.
_MANY_ITEMS = 10_000


class SequenceModel(SideFeatures, KerasModel):
    """Base of all models.

    Args:
        config: The model's configuration, an instance of `config_class`; its defaults where None.
        schema: What the dataset holds; the number of items, at least.

    Attributes:
        config_class: The dataclass of the model's options.
        reads: Features of a sequence that the model takes beside `item_ids`: `user_id` (as a fingerprint), `timestamps`
            (with `target_time`), features of users. A class names what it could read; of this, a model has what the
            schema has.
        scores_one_by_one: Whether the model looks at the history and one item together, so that to score the whole
            catalogue takes long.
        history_is_liked: Whether a history holds liked events alone, where the dataset has labels.
        scores_by_similarity: Whether an item's score is how alike it is to the items of the history.
        objective: The `NextItemObjective`, where the configuration has its options; else None.
        bias: float32 [V], where `make_item_bias` made it; else None.
    """

    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    reads: tuple[str, ...] = ()
    scores_one_by_one: bool = False
    history_is_liked: bool = False
    scores_by_similarity: bool = False
    config: Any
    objective: Any = None
    bias: Any = None

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
        if isinstance(self.config, ObjectiveConfig):
            self.objective = NextItemObjective(self.config, self.num_items)
        self.validation_metrics = self.create_metrics()
        with config_lib.computing_in(self.dtype_policy):  # that of a saved model, whatever it is now
            self.create_layers()
            self(self.example_inputs())  # creates the weights, which depend on the schema and the configuration alone

    # ==== What a model must define ====

    def create_layers(self) -> None:
        """Create the layers as attributes; a `layers.UserEmbedding` as `users` where the model reads `user_id`."""
        raise NotImplementedError

    def call(self, inputs, training=False):
        """Compute the hidden states of a batch of histories.

        Args:
            inputs: dict with `item_ids`: int32 [B, L], 0 is padding, on either side; and what the model `reads`.
            training: Whether dropout is on.

        Returns:
            float [B, L, D]; row i predicts the item after position i. Rows of padding are undefined.
        """
        raise NotImplementedError

    def item_table(self):
        """Give the vectors that states are compared with; a model with `score_block` of its own needs none.

        Returns:
            float [V, D], perhaps with more rows; row 0 is padding. A tensor or a `tf.Variable`, of which sampled losses
            read and change only the rows that they need.
        """
        raise NotImplementedError

    # ==== What it may define: what it learns from ====

    def features_to_read(self) -> tuple[str, ...]:
        """What `reads` would be if the schema had everything, for a model whose options decide it."""
        return type(self).reads

    def make_batch(self, sequences, seed):
        """Turn training sequences into `(inputs, labels)`; runs in tf.data, on one batch.

        Here every event but the first is a target, predicted from the events before it: the sequence [7, 9, 4] gives
        the inputs [7, 9] and the labels [9, 4].

        Args:
            sequences: dict of `tf.RaggedTensor` [B, None], a key for each per-event feature of the schema, cut to
                `training_events` events (where `history_is_liked`, at the end alone); `seen`, all items of the
                sequence; of `reads_of_user`, tensors [B, ...].
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
        inputs = {ITEM_IDS: padding.ids(item_ids[:, :-1]), **self.beside_items(sequences)}
        return inputs, padding.ids(item_ids[:, 1:])

    @property
    def training_events(self) -> int:
        """Events of a sequence that `make_batch` sees: as many inputs as the model takes, and the last one's target."""
        return self.config.max_len + 1

    def num_targets(self, lengths):
        """How much training sequences count, by the number of their events: float32 [B] of float32 [B]."""
        return lengths - 1.0

    def target_losses(self, x, y, y_pred):
        """Compute the loss of each real target; here by the options of the `objective`.

        Args:
            x: The inputs of `call`.
            y: int32 [B, L], targets; 0 where there is none.
            y_pred: float [B, L, D], what `call` returned.

        Returns:
            float32 [N].
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

    @classmethod
    def num_parts(cls, config, schema) -> int:
        """In how many parts of its rows a batch is worked on: 1 where these would not be independent, or not pay.

        Args:
            config: The model's configuration.
            schema: The dataset's.
        """
        if isinstance(config, ObjectiveConfig):
            if config.negatives_are_shared:
                return 1
            # A table that is made of side features would be made in each part; logits of many items are products so
            # large that they keep all cores busy.
            makes_table = isinstance(config, ItemFeaturesConfig) and config.scores_by_features
            if config.loss == "softmax" and (makes_table or schema.num_items > _MANY_ITEMS):
                return 1
        return parts_for_cores()

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

    # ==== What it may define: how it scores ====

    def histories(self, sequences, start, target):
        """Choose the history of each event to predict; here the newest events before it.

        Training asks too where each target has a history of its own, and not where a whole sequence is one row.
        A history is the slice [first, limit) of `events`. Of one sequence of the items [7, 9, 4], whose last is to be
        predicted (start 0, target 2), events [0, 1, 2], first 0 and limit 2 are the history [7, 9].

        Args:
            sequences: What the records hold of each event, by name, `item_ids` among it: ragged [B, L].
            start: int64 [N], place of the first event of the target's sequence, counted over all sequences.
            target: int64 [N], place of the target.

        Returns:
            events: int64 [E], places of the events that may be in a history, oldest first.
            first: int64 [N].
            limit: int64 [N].
        """
        places = tf.range(tf.size(sequences[ITEM_IDS].flat_values, tf.int64))
        return places, tf.maximum(start, target - self.config.max_len), target

    def project(self, hidden):
        """Turn hidden states, float [..., D], into what is compared with the item table; by default they stay."""
        return hidden

    def item_bias(self):
        """Give a score of each item that does not depend on the history, float32 [V]; None where there is none."""
        return None if self.bias is None else tf.convert_to_tensor(self.bias)

    def query(self, inputs):
        """Compute what is known of each history when it ends: float [B, D], the state of its newest event."""
        hidden = self(inputs, training=False)
        return self.project(tf.gather(hidden, newest_position(inputs[ITEM_IDS]), axis=1, batch_dims=1))

    def score_block(self, query, start, stop):
        """Score the items with ids in [start, stop): float32 [B, stop - start]."""
        vectors = tf.cast(self.table_to_score()[start:stop], tf.float32)
        scores = tf.matmul(tf.cast(query, tf.float32), vectors, transpose_b=True)
        bias = self.item_bias()
        return scores if bias is None else scores + bias[start:stop]

    def score_candidates(self, query, candidates):
        """Score each row's own candidates, int [B, K]: float32 [B, K]."""
        vectors = tf.cast(tf.gather(self.table_to_score(), candidates), tf.float32)  # [B, K, D]
        # One product of matrices a row would be slower, as they are small.
        scores = tf.reduce_sum(vectors * tf.cast(query, tf.float32)[:, None, :], axis=-1)
        bias = self.item_bias()
        return scores if bias is None else scores + tf.gather(bias, candidates)

    @property
    def scores_by_vectors(self) -> bool:
        """Whether a score is the product of what `query` gives with a row of the item table, plus the item's bias."""
        cls = type(self)
        return (cls.score_block, cls.score_candidates) == (SequenceModel.score_block, SequenceModel.score_candidates)

    def is_cold(self, inputs):
        """Tell of whom the model knows nothing, so that the most popular items are as good: bool [B]."""
        is_empty = tf.reduce_all(inputs[ITEM_IDS] == PADDING_ID, axis=1)
        return is_empty & ~self.users.is_known(inputs[USER_ID]) if USER_ID in self.reads else is_empty

    @property
    def gives_probabilities(self) -> bool:
        """Whether a score is the logit of the probability that the event's label is 1."""
        return False

    # ==== What it may define: how it is validated ====

    @property
    def monitor(self) -> str:
        """The validation metric that decides which epoch is the best; larger is better."""
        return "ndcg@10"

    def create_metrics(self) -> list[keras.metrics.Metric]:
        """Create what `update_validation` updates; `monitor` is the name of one of them."""
        return [keras.metrics.Mean(name="ndcg@10"), keras.metrics.Mean(name="hr@10")]

    def update_validation(self, inputs, labels) -> None:
        """Update `validation_metrics` by the events to predict that were liked; by all of them without labels.

        Args:
            inputs: A batch of `data.load`, from `valid` or `test`.
            labels: Its labels.
        """
        inputs, labels = liked_alone(inputs, labels)
        with self.item_table_made_once():  # for all parts of the batch and of the catalogue
            rank = in_parts(self.validation_rank, self.num_parts(self.config, self.schema), inputs, labels)
        ndcg, hit_rate = self.validation_metrics
        ndcg.update_state(metrics.ndcg(rank, 10))
        hit_rate.update_state(metrics.hit_rate(rank, 10))

    def validation_rank(self, inputs, labels):
        """Rank each target, here among all items: int32 [B]; a rank that is not in the top 10 need only be larger."""
        return rank_and_recommend(self, self.query(inputs), labels[TARGET], labels[EXCLUDED], k=10)[0]

    # ==== What it is given; more is in `base_features` and `base_keras` ====

    @classmethod
    def from_dataset(cls, dataset, **options):
        """Make a model for a dataset folder.

        Args:
            dataset: A `records.DatasetFolder`, or its path.
            **options: Fields of the configuration, such as `dim=64`.
        """
        from seqrec_tf.records import DatasetFolder

        dataset = dataset if isinstance(dataset, DatasetFolder) else DatasetFolder(dataset)
        model = cls(config_lib.from_values(cls.config_class, options, section="model"), dataset.schema)
        model.adapt(dataset)
        return model

    def make_item_bias(self) -> None:
        """Make a weight of each item's `item_bias`."""
        self.bias = self.add_weight(name="bias", shape=[self.num_items + 1], initializer="zeros", dtype="float32")

    @property
    def reads_of_user(self) -> tuple[str, ...]:
        """Those of `reads` that a sequence has once, and not one of each event."""
        once = {USER_ID, *(feature.name for feature in self.schema.user_features)}
        return tuple(name for name in self.reads if name in once)

    def beside_items(self, sequences):
        """Give what a training batch holds beside items and targets; arguments and values as in `make_batch`."""
        inputs = {name: sequences[name] for name in self.reads_of_user}
        if self.objective is not None and self.objective.needs_seen:
            inputs[SEEN] = padding.ids(sequences[SEEN])
        return inputs
