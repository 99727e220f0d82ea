"""What ranking models share: the score of a candidate after a history, learned from labels, as click-through rates are.

A matching model compares a history with all items at once; a ranking model looks at the history and a candidate
together. It learns from the dataset's labels or, where `num_negatives` is set, from drawn items beside those that were
chosen. With labels, a history is the newest liked events (label 1), as the clicks of the papers; where times are known,
those before the moment of the candidate, as what was shown together with it was not yet liked.

Tensor letters: B batch, L length, D model dim, K candidates, N training examples.
"""

from __future__ import annotations

import dataclasses
import math

import keras
import tensorflow as tf

from seqrec_tf import padding
from seqrec_tf.config import ItemFeaturesConfig, Sizes, check_at_least, check_rate
from seqrec_tf.layers import Dropout, UserEmbedding
from seqrec_tf.layers.feature_vectors import chosen_features
from seqrec_tf.learning import sampling
from seqrec_tf.learning.parallel import in_parts
from seqrec_tf.learning.ranking import rank_among
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.schema import (
    CANDIDATES,
    EXCLUDED,
    HISTORY,
    ITEM_IDS,
    LABELS,
    PADDING_ID,
    SEEN,
    TARGET,
    TARGET_LABEL,
    TARGET_TIME,
    TIMESTAMPS,
    USER_ID,
)

# Items that a target is ranked against in validation, where the model does not learn from labels.
_VALIDATION_CANDIDATES = 100

# What a query holds: as HISTORY the liked events, newest first, int32 [B, L]; how long ago they were, as a row of an
# embedding, int32 [B, L]; what is known of the user, float [B, U].
AGES, USER = "ages", "user"

# Rows of an embedding of ages: 0 is padding, row 1 + b holds gaps of [2^b, 2^(b+1)) - 1 seconds, the last all longer.
_NUM_GAPS = 36

# Pairs of a history and a candidate that are scored at once when the whole catalogue is.
_PAIRS = 16_384


@dataclasses.dataclass(frozen=True)
class RankingConfig(ItemFeaturesConfig):
    """Options that every ranking model has.

    Attributes:
        max_len: Newest events that the model sees; with labels, newest liked ones.
        max_targets: Events of a sequence that an epoch learns from, the newest of its window.
        num_negatives: Items drawn uniformly for each liked event, as examples with label 0; where 0, the events with
            label 0 are the negatives.
        dim: Width of the item embeddings.
        user_dim: Width of a vector of each user, by who they are; none where 0.
        user_features: Features of users to read, by name; ["*"] is all that the dataset has.
        hidden_dims: Widths of the layers of the multi-layer perceptron.
        dropout_rate: Share that is dropped of embeddings, of the perceptron's hidden layers and, in BST, of what its
            blocks compute.
    """

    data_defaults = {"batch_size": 0}  # noqa: RUF012  (a mapping that nothing changes)

    max_len: int = 20
    max_targets: int = 200
    num_negatives: int = 0
    dim: int = 32
    user_dim: int = 0
    user_features: tuple[str, ...] = ()
    hidden_dims: tuple[int, ...] = (1024, 512, 256)
    dropout_rate: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        for name, least in (("max_targets", 1), ("num_negatives", 0), ("dim", 1), ("user_dim", 0)):
            check_at_least(f"model.{name}", getattr(self, name), least)
        check_rate("model.dropout_rate", self.dropout_rate)
        if not self.hidden_dims or min(self.hidden_dims) < 1:
            raise ValueError(f"model.hidden_dims must be one or more positive widths, got {list(self.hidden_dims)}.")

    @property
    def examples_a_sequence(self):
        """Every event that an epoch learns from."""
        return self.max_targets

    def sizes(self):
        """Every event of a sequence is an example, and each of its candidates passes the perceptron."""
        return Sizes(
            dim=self.dim,
            user_dim=self.user_dim,
            hidden_dim=sum(self.hidden_dims),
            num_examples=self.examples_a_sequence,
            num_candidates=1 + self.num_negatives,
        )

    @property
    def scores_by_features(self):
        """There is no item table: candidates are represented one by one."""
        return False


class RankingModel(SequenceModel):
    """Base of ranking models; it defines what `SequenceModel` asks for, and a subclass `create_layers` and `score`."""

    config_class = RankingConfig
    scores_one_by_one = True
    history_is_liked = True

    def __init__(self, config=None, schema=None, **kwargs):
        options = config or self.config_class()
        if schema is not None and LABELS not in schema and not options.num_negatives:
            raise ValueError(
                f"{type(self).__name__} learns from labels, and this dataset has none. Prepare it with --label-column, "
                "or draw negatives with model.num_negatives, such as 4."
            )
        super().__init__(config, schema, **kwargs)
        self.num_drawn = self.num_items  # items 1 to this may be drawn

    @property
    def gives_probabilities(self):
        """Where events with label 0 are the negatives, and not drawn items."""
        return not self.config.num_negatives

    @property
    def monitor(self):
        """AUC where there are labels to compare with, else NDCG among drawn items."""
        return "auc" if self.gives_probabilities else "sampled_ndcg@10"

    def create_metrics(self):
        """Those that `monitor` is one of."""
        if self.gives_probabilities:
            return [keras.metrics.AUC(num_thresholds=2000, from_logits=True, name="auc")]
        return [keras.metrics.Mean(name=f"sampled_{name}@10") for name in ("ndcg", "hr")]

    def features_to_read(self):
        """Times where a model uses ages; the user where they have a vector."""
        chosen = chosen_features(self.config.user_features, self.schema.user_features, "user", type(self).__name__)
        names = (USER_ID,) if self.config.user_dim else ()
        of_events = [name for name in super().features_to_read() if name != TIMESTAMPS or self._are_times_known]
        return (*of_events, *names, *(feature.name for feature in chosen))

    def is_cold(self, inputs):
        """Nobody: without a history, too, a candidate has a logit, by the item and what is known of the user."""
        return tf.zeros(tf.shape(inputs[ITEM_IDS])[:1], tf.bool)

    @property
    def takes_new_items(self):
        """Candidates are represented by their features too."""
        return self.item_features is not None

    def adapt(self, dataset):
        """As other models; items without training events are no negatives where features could tell them."""
        super().adapt(dataset)
        if self.item_features is not None:
            self.num_drawn = sum(count > 0 for count in dataset.item_counts)

    def score(self, query, candidates, training=False):
        """Compute the logits of candidates.

        Args:
            query: dict of `history` int32 [B, L], `ages` int32 [B, L], both newest first and 0 at padding, L being
                `max_len`; `user` float [B, U] where something is known of them.
            candidates: int32 [B, K].
            training: Whether dropout is on.

        Returns:
            float [B, K].
        """
        raise NotImplementedError

    @property
    def num_ages(self) -> int:
        """Rows of an embedding of ages."""
        return _NUM_GAPS + 1 if self.has_times else self.config.max_len + 1

    @property
    def has_times(self) -> bool:
        """Whether ages are gaps of time; they count events where the model reads no times, or these are an order."""
        return TIMESTAMPS in self.reads

    @property
    def _are_times_known(self):
        return self.schema.time_unit == "seconds"

    def make_sides(self):
        """Make the layers of what else is known of users (`users`, `user_features`) and items (`item_features`)."""
        config = self.config
        self.users = UserEmbedding(self.schema.num_users, config.user_dim, name="users") if config.user_dim else None
        self.make_user_features(config.user_features, config.dim)
        self.make_item_features(config.item_features, config.dim)

    def logits(self, pairs, query, training):
        """Compute the logits of the perceptron, of a history, a candidate and the user.

        Args:
            pairs: A list of what is known of each history with each candidate, float [B, K, W] each.
            query: What `query` returned; its `user` joins the pairs.
            training: Whether dropout is on.

        Returns:
            float32 [B, K].
        """
        rows, number = tf.unstack(tf.shape(pairs[0])[:2])
        if USER in query:
            pairs = [*pairs, tf.repeat(query[USER][:, None], number, axis=1)]
        flat = tf.reshape(tf.concat(pairs, axis=-1), [rows * number, sum(part.shape[-1] for part in pairs)])
        return tf.reshape(self.perceptron(flat, training=training), [rows, number])

    def query(self, inputs, training=False):
        """Put together what `score` takes of the histories."""
        item_ids = inputs[ITEM_IDS]
        # Events to the left, newest first.
        key = tf.where(item_ids != PADDING_ID, tf.range(1, tf.shape(item_ids)[1] + 1), 0)
        order = tf.argsort(key, axis=1, direction="DESCENDING", stable=True)[:, : self.config.max_len]
        missing = [[0, 0], [0, self.config.max_len - tf.shape(order)[1]]]

        def arranged(events):
            events = tf.pad(tf.gather(events, order, batch_dims=1), missing)
            return tf.ensure_shape(events, [None, self.config.max_len])

        history = arranged(item_ids)
        if self.has_times:
            gap = tf.maximum(inputs[TARGET_TIME][:, None] - arranged(inputs[TIMESTAMPS]), 0)
            doublings = tf.math.log(tf.cast(gap, tf.float64) + 1.0) / math.log(2.0)
            ages = tf.minimum(1 + tf.cast(doublings + 1e-9, tf.int32), _NUM_GAPS)
        else:
            ages = tf.range(1, self.config.max_len + 1)[None]
        query = {HISTORY: history, AGES: tf.where(history != PADDING_ID, ages, 0)}
        user = [self.users(inputs[USER_ID], training=training)] if self.users else []
        if self.user_features is not None:
            user += self.user_features([inputs[feature.name] for feature in self.user_features.features])
        return query | ({USER: tf.concat(user, axis=1)} if user else {})

    def call(self, inputs, training=False):
        """Compute the logits of the candidates, float [N, K]; of item 1 alone where there are none."""
        candidates = inputs.get(CANDIDATES)
        if candidates is None:
            candidates = tf.ones([tf.shape(inputs[ITEM_IDS])[0], 1], tf.int32)
        return self.score(self.query(inputs, training), candidates, training=training)

    def score_candidates(self, query, candidates):
        """Compute the logits of each row's own candidates, int [B, K]: float32 [B, K]."""
        return tf.cast(self.score(query, candidates), tf.float32)

    def score_block(self, query, start, stop):
        """Score the items with ids in [start, stop), some at a time, for memory: float32 [B, stop - start]."""
        rows = tf.shape(query[HISTORY])[0]
        width = tf.clip_by_value(_PAIRS // tf.maximum(rows, 1), 1, stop - start)
        firsts = tf.range(start, stop, width)

        def block(first):
            ids = tf.minimum(first + tf.range(width), stop - 1)
            return self.score_candidates(query, tf.repeat(ids[None], rows, axis=0))

        # One at a time: map_fn would start ten.
        scores = tf.map_fn(block, firsts, fn_output_signature=tf.float32, parallel_iterations=1)  # [blocks, B, width]
        return tf.reshape(tf.transpose(scores, [1, 0, 2]), [rows, -1])[:, : stop - start]

    def histories(self, sequences, start, target):
        """Choose the newest events that were liked and lie before the moment of the target.

        Of the items [7, 9, 4] with the labels [1, 0, 1], a target that comes after them has the history [7, 4].
        """
        if LABELS not in sequences:
            return super().histories(sequences, start, target)
        limit = target
        if self._are_times_known:
            times = sequences[TIMESTAMPS].flat_values
            is_later = tf.concat([[True], times[1:] != times[:-1]], axis=0)  # than the event before
            moments, moment = tf.where(is_later)[:, 0], tf.cumsum(tf.cast(is_later, tf.int64)) - 1
            limit = tf.maximum(start, tf.gather(moments, tf.gather(moment, target)))
        is_liked = sequences[LABELS].flat_values == 1
        liked_before = tf.cumsum(tf.cast(is_liked, tf.int64), exclusive=True)
        first, limit = tf.gather(liked_before, start), tf.gather(liked_before, limit)
        return tf.where(is_liked)[:, 0], tf.maximum(first, limit - self.config.max_len), limit

    @property
    def training_events(self):
        """Histories of the oldest targets, and the targets."""
        return self.config.max_len + self.config.max_targets

    def num_targets(self, lengths):
        """How much a training sequence counts, by its events, liked or not: float32 [B] of float32 [B]."""
        return tf.minimum(lengths - 1.0, float(self.config.max_targets))

    def make_batch(self, sequences, seed):
        """Make an example of each of the newest events, with its history.

        With labels, the items [7, 9, 4] with the labels [1, 0, 1] are the examples: 9 after [7], label 0; 4 after [7],
        label 1. With drawn negatives, they are 4 after [7], beside the negatives.

        Returns:
            inputs: dict of `item_ids` int32 [N, L] and what the model reads; `candidates` int32 [N, 1 + negatives].
            labels: int32 [N, 1 + negatives].
        """
        config, items = self.config, sequences[ITEM_IDS]
        lengths = items.row_lengths()
        oldest = tf.minimum(tf.maximum(lengths - config.max_targets, 1), lengths)  # of the targets
        places = tf.ragged.range(oldest, lengths)
        row, place = places.value_rowids(), places.flat_values
        first, number = tf.gather(items.row_starts(), row), place - tf.gather(oldest, row)
        if not self.gives_probabilities and LABELS in sequences:
            is_liked = tf.gather(sequences[LABELS].flat_values, first + place) == 1
            row, place, first, number = (tf.boolean_mask(part, is_liked) for part in (row, place, first, number))
        may_be_history, begin, end = self.histories(sequences, first, first + place)
        history = tf.gather(may_be_history, tf.ragged.range(begin, end))

        def of_history(name):
            return padding.history(tf.gather(sequences[name].flat_values, history))

        target = tf.cast(tf.gather(items.flat_values, first + place), tf.int32)[:, None]
        inputs = {ITEM_IDS: tf.cast(of_history(ITEM_IDS), tf.int32), CANDIDATES: target}
        for name in self.reads:
            inputs[name] = tf.gather(sequences[name], row) if name in self.reads_of_user else of_history(name)
        if TIMESTAMPS in self.reads:
            inputs[TARGET_TIME] = tf.gather(sequences[TIMESTAMPS].flat_values, first + place)
        if self.gives_probabilities:
            return inputs, tf.cast(tf.gather(sequences[LABELS].flat_values, first + place), tf.int32)[:, None]
        # For each sequence at once: its items are sorted once, not once for each of its targets.
        drawn = sampling.uniform_negatives(
            sequences[SEEN].to_tensor(),
            num_items=self.num_drawn,
            shape=[items.nrows(), config.max_targets, config.num_negatives],
            seed=seed,
        )
        drawn = tf.gather_nd(drawn, tf.stack([row, number], axis=1))
        inputs[CANDIDATES] = tf.concat([target, drawn], axis=1)
        return inputs, tf.concat([tf.ones_like(target), tf.zeros_like(drawn)], axis=1)

    def target_losses(self, x, y, y_pred):
        """Compute the log-loss of each example, the mean over its candidates: float32 [N]."""
        logits, labels = tf.cast(y_pred, tf.float32), tf.cast(y, tf.float32)
        log_losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        # Where a sequence holds every item, what is drawn may be the target itself, which is the first candidate.
        is_target_again = tf.pad(x[CANDIDATES][:, 1:] == x[CANDIDATES][:, :1], [[0, 0], [1, 0]])
        counts = 1.0 - tf.cast(is_target_again, tf.float32)
        return tf.reduce_sum(counts * log_losses, axis=1) / tf.reduce_sum(counts, axis=1)

    def validation_rank(self, inputs, labels):
        """Rank each target among drawn items, the same each time: int32 [B].

        To score all items, one by one, would take longer than the training.
        """
        target = labels[TARGET]
        drawn = sampling.uniform_negatives(
            tf.concat([inputs[ITEM_IDS], labels[EXCLUDED], target[:, None]], axis=1),
            num_items=self.num_items,
            shape=[tf.size(target), _VALIDATION_CANDIDATES],
            seed=tf.stack([0, tf.reduce_sum(target)]),
        )
        return rank_among(self, self.query(inputs), target, drawn)

    def update_validation(self, inputs, labels):
        """Measure the AUC of the events to predict, by their labels; ranking metrics where it learns from none."""
        if not self.gives_probabilities:
            super().update_validation(inputs, labels)
            return

        def scores_of(inputs, target):
            return self.score_candidates(self.query(inputs), target[:, None])[:, 0]

        scores = in_parts(scores_of, self.num_parts(self.config, self.schema), inputs, labels[TARGET])
        (auc,) = self.validation_metrics
        # The thresholds lie evenly in probability, where those of rare labels are crowded; the order is the same.
        auc.update_state(labels[TARGET_LABEL], scores / 4.0)


def perceptron(config, *, activation):
    """Make the multi-layer perceptron that ends a ranking model: hidden layers with dropout, and a logit.

    Args:
        config: The `RankingConfig`, for the widths and the dropout.
        activation: Class of the layer after each hidden one, such as `keras.layers.ReLU`.
    """
    layers = []
    for number, dim in enumerate(config.hidden_dims):
        layers += [
            keras.layers.Dense(dim, name=f"hidden_{number}"),
            activation(name=f"activation_{number}"),
            Dropout(config.dropout_rate),
        ]
    # In 16 bits, many candidates would have the same logit.
    return keras.Sequential([*layers, keras.layers.Dense(1, dtype="float32", name="logit")], name="perceptron")
