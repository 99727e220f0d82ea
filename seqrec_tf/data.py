"""A dataset folder to `tf.data` batches: training sequences, and histories with the item to predict.

Little of a batch is padding: within a window of many thousand sequences they are sorted by length (roughly, so that a
batch is not the same in every epoch), cut into batches with about as many targets each, and the batches are shuffled.
Records are parsed a window at a time, which is several times faster than one by one. Everything follows from the seed
and the epoch, so a run that was stopped goes on with the batches it would have had.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from seqrec_tf import padding, records
from seqrec_tf.config import WINDOWS, ModelConfig, check_choice
from seqrec_tf.learning.parallel import num_cores
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.records import DatasetFolder, user_fingerprint
from seqrec_tf.schema import (
    EXCLUDED,
    ITEM_IDS,
    LABELS,
    PLACE,
    SEEN,
    TARGET,
    TARGET_LABEL,
    TARGET_START,
    TARGET_TIME,
    TIME_ORDER,
    TIMESTAMPS,
    TOUCHED,
    USER_ID,
)

# Largest relative change of a length before sequences are sorted by it.
_LENGTH_NOISE = 0.1
# Sequences that are shuffled, and sorted by length, together.
_WINDOW = 25_600
# The same where sequences are in the order of time, which is that of these windows.
_WINDOW_OF_TIME = 1_600
# Sequences that a batch of like length has at least, where the average is more.
LEAST_ROWS = 8
# Sequences of a training batch, events to predict, or examples of a ranking model, where nothing else is said.
_BATCH, _EXAMPLES = 128, 1_024
# What the names of sequences are called beside their features.
_NAME = "name of the sequence"
_PARALLEL_FILES = 4
# Batches that are made at once, at most, and that wait for the model.
_PARALLEL_BATCHES = min(num_cores(), 8)
_WAITING_BATCHES = 4


def load(
    dataset: DatasetFolder | str,
    model: SequenceModel,
    split: str = "train",
    *,
    batch_size: int = 0,
    sort_by_length: bool = True,
    window: str = "newest",
    seed: int = 0,
    epochs: range | None = None,
    exclude_history: bool = True,
    max_sequences: int = 0,
) -> tf.data.Dataset:
    """Batches for `model.fit` and `model.evaluate`.

    Args:
        dataset: A finished dataset folder, or its path.
        model: Decides what a training batch holds (`model.make_batch`) and how much history it sees.
        split: "train" gives what the model's loss needs, `(inputs, labels, weight: float32, for each row of the
            labels)`, each iteration in a new order. "valid" and "test" give, for each event to predict, what
            `evaluation_batches` says.
        batch_size: Sequences a batch; on average, in training batches of like length. Of "valid" and "test", events to
            predict. 0 stands for what `sequences_a_batch` says, or 128 events.
        sort_by_length: Whether training batches hold sequences of like length, for little padding, and about as many
            targets each: long sequences make small batches.
        window: What an epoch sees of a sequence that is longer than the model's: its "newest" events, or "random":
            these half of the time, else as many from a random place.
        seed: Decides the order of training batches.
        epochs: Training epochs to give one after the other, each with its own order, the same in every run.
        exclude_history: Whether `excluded` holds the items of the history, or none.
        max_sequences: Only the first so many sequences of "valid" and "test"; all where 0.

    Raises:
        ValueError: The split is unknown or empty, or the window unknown.
    """
    check_choice("window", window, WINDOWS)
    folder = dataset if isinstance(dataset, DatasetFolder) else DatasetFolder(dataset)
    folder.check_split(split)
    if split != "train":
        batches = evaluation_batches(
            folder,
            split,
            model,
            batch_size=batch_size or _BATCH,
            exclude_history=exclude_history,
            max_sequences=max_sequences,
        )
        return batches.map(_without_what_evaluation_alone_reads)

    batch_size = batch_size or sequences_a_batch(folder, model.config)

    def one_epoch(order):
        return _training_epoch(
            folder, model, batch_size=batch_size, sort_by_length=sort_by_length, window=window, order=order
        )

    if epochs is not None:
        orders = tf.data.Dataset.from_tensor_slices([[seed, epoch] for epoch in epochs])
        batches = orders.flat_map(one_epoch)
    else:
        draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
        batches = draws.flat_map(lambda draw: one_epoch(tf.stack([tf.cast(draw % 2**31, tf.int32), 0])))
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps_per_epoch(folder, batch_size)))
    return _ahead(batches)


def _without_what_evaluation_alone_reads(inputs, labels):
    return inputs, {key: labels[key] for key in labels if key not in (TOUCHED, PLACE, USER_ID)}


def sequences_a_batch(folder: DatasetFolder, config: ModelConfig) -> int:
    """Training sequences of a batch where no `batch_size` says it: 128, or as many as make about 1,024 examples.

    Example: a ranking model makes on average 103 examples of the sequences of MovieLens 100K, so a batch has 10.

    Args:
        folder: The dataset.
        config: The model's configuration, which says how many examples a sequence makes.
    """
    if config.examples_a_sequence == 1:
        return _BATCH
    examples = min(max(folder.training_lengths["mean"] - 1, 1), config.examples_a_sequence)
    return max(1, round(_EXAMPLES / examples))


def steps_per_epoch(folder: DatasetFolder, batch_size: int) -> int:
    """Training batches of one epoch."""
    return math.ceil(folder.num_training_sequences / batch_size)


def sequences_of_batch(
    dataset: DatasetFolder,
    model: SequenceModel,
    *,
    batch_size: int,
    sort_by_length: bool,
    window: str,
    seed: int,
    epoch: int,
    step: int,
) -> list[str]:
    """Name the sequences of one batch of `load`: the user of each or, without users, "FILE record NUMBER" from 0.

    Args:
        dataset: As in `load`, as what follows is.
        model: It.
        batch_size: It, not 0.
        sort_by_length: It.
        window: It.
        seed: It.
        epoch: Which of `epochs`.
        step: Which batch of the epoch, from 0.
    """
    names = _training_epoch(
        dataset,
        model,
        batch_size=batch_size,
        sort_by_length=sort_by_length,
        window=window,
        order=tf.constant([seed, epoch]),
        only_names=True,
    )
    return [name.decode() for name in next(names.skip(step).as_numpy_iterator())]


def replica_batches(batches: tf.data.Dataset, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """What the replicas of one worker see of the batches of all: replica r of R takes rows r, r + R, ... of each.

    For `strategy.distribute_datasets_from_function`. Left to itself, tf.distribute gives each of several workers whole
    batches where it cannot tell their size, which makes the global batch larger and the epoch shorter.

    Args:
        batches: The batches of a step over all replicas, in the same order on every worker.
        context: Which worker asks.
    """
    total = context.num_replicas_in_sync
    per_worker = total // context.num_input_pipelines
    first = context.input_pipeline_id * per_worker

    def parts(*batch):
        replicas = tf.data.Dataset.range(first, first + per_worker)
        return replicas.map(lambda replica: tf.nest.map_structure(lambda rows: rows[replica::total], batch))

    return _ahead(batches.flat_map(parts))


def evaluation_batches(
    folder: DatasetFolder,
    split: str,
    model: SequenceModel,
    *,
    batch_size: int,
    exclude_history: bool,
    max_sequences: int = 0,
) -> tf.data.Dataset:
    """Every event to predict of a split, or of its first `max_sequences` sequences, with the events before it.

    Returns:
        Batches, in the same order each time, of
        inputs: `item_ids` int32 [B, L], the newest `max_len` events before the target (`model.histories`), and what
        else the model reads: `timestamps` int64 [B, L] with `target_time` int64 [B], `user_id` int64 [B], features of
        users [B, ...];
        labels: `target` int32 [B]; `excluded` int32 [B, S], all items before the target (or nothing, [B, 0]); `touched`
        int32 [B, T], all items of the sequence; `place` int64 [B, 2], the number of the sequence in the split and the
        target's position there; and, where the dataset has them, `target_label` int64 [B] and `user_id` string [B].
    """
    spec = _parsing_spec(folder)

    def to_batches(number, serialized):
        parsed = tf.io.parse_example(serialized, spec)
        of_user = _of_user(parsed, model)
        may_be_history, targets = _targets(parsed, model)

        def batch(index):
            part = slice(index * batch_size, (index + 1) * batch_size)
            of_batch = _Targets(*(of_target[part] for of_target in targets))
            inputs = _inputs_before(parsed, of_user, may_be_history, of_batch, model)
            return inputs, _labels_of(parsed, number, of_batch, exclude_history=exclude_history)

        num_batches = -(-tf.size(targets.position, tf.int64) // batch_size)
        return tf.data.Dataset.range(num_batches).map(batch, num_parallel_calls=_PARALLEL_BATCHES)

    files = tf.data.Dataset.from_tensor_slices(folder.split_files(split))
    serialized = tf.data.TFRecordDataset(files, compression_type=records.COMPRESSION)
    serialized = records.whole(serialized, folder.num_records(split)).take(max_sequences or -1)
    return _ahead(serialized.enumerate().batch(50 * batch_size).flat_map(to_batches))


class _Targets(NamedTuple):
    """Events to predict, a row each, those with short histories first: int64 [N] each.

    Attributes:
        sequence: The sequence of each.
        position: Its position there.
        start: Place of the sequence's first event; places are counted over all sequences.
        end: Place after the sequence's last event.
        oldest: Where its history begins, among the events that may be history.
        limit: Where its history ends.
    """

    sequence: Any
    position: Any
    start: Any
    end: Any
    oldest: Any
    limit: Any


def _targets(parsed, model) -> tuple[Any, _Targets]:
    """Places of the events that may be history, int64 [E], and the events to predict of some parsed records."""
    items, lengths = parsed[ITEM_IDS], parsed[ITEM_IDS].row_lengths()
    positions = tf.ragged.range(parsed[TARGET_START], lengths)
    sequence, position = positions.value_rowids(), positions.flat_values
    start = tf.gather(items.row_starts(), sequence)
    may_be_history, oldest, limit = model.histories(parsed, start, start + position)
    targets = _Targets(sequence, position, start, start + tf.gather(lengths, sequence), oldest, limit)
    by_length = tf.argsort(limit - oldest, stable=True)
    return may_be_history, _Targets(*(tf.gather(of_target, by_length) for of_target in targets))


def _inputs_before(parsed, of_user, may_be_history, targets: _Targets, model) -> dict[str, Any]:
    """What a model takes to predict some targets: the newest events before each, and what else it reads."""
    of_history = tf.gather(may_be_history, tf.ragged.range(targets.oldest, targets.limit))

    def history(name):
        return padding.history(tf.gather(parsed[name].flat_values, of_history))

    inputs = {ITEM_IDS: tf.cast(history(ITEM_IDS), tf.int32)}
    inputs |= {name: history(name) for name in model.reads if name not in model.reads_of_user}
    inputs |= {name: tf.gather(value, targets.sequence) for name, value in of_user.items()}
    if TIMESTAMPS in model.reads:
        inputs[TARGET_TIME] = tf.gather(parsed[TIMESTAMPS].flat_values, targets.start + targets.position)
    return inputs


def _labels_of(parsed, number, targets: _Targets, *, exclude_history: bool) -> dict[str, Any]:
    """The labels of some targets; `number` is that of each sequence in the split, int64 [B]."""
    items, target = parsed[ITEM_IDS].flat_values, targets.start + targets.position

    def items_from_start(limit):
        return padding.ids(tf.gather(items, tf.ragged.range(targets.start, limit)))

    labels = {
        TARGET: tf.cast(tf.gather(items, target), tf.int32),
        EXCLUDED: items_from_start(target if exclude_history else targets.start),
        TOUCHED: items_from_start(targets.end),
        PLACE: tf.stack([tf.gather(number, targets.sequence), targets.position], axis=1),
    }
    if LABELS in parsed:
        labels[TARGET_LABEL] = tf.gather(parsed[LABELS].flat_values, target)
    if USER_ID in parsed:
        labels[USER_ID] = tf.gather(parsed[USER_ID], targets.sequence)
    return labels


def _ahead(batches):
    """Batches made before they are asked for, as many as we say.

    Where tf.data may find out how many, its thread for that sleeps for up to a minute, and it happens that the end of
    an iterator, which each validation has, waits until it wakes.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(_WAITING_BATCHES).with_options(options)


def _training_epoch(folder, model, *, batch_size, sort_by_length, window, order, only_names=False):
    """One epoch; `order` is int32 [2], from which all shuffling follows. With `only_names`, of the sequences alone."""
    files = folder.split_files("train")
    if folder.schema.record_order == TIME_ORDER:
        parallel, window_size = len(files), _WINDOW_OF_TIME  # side by side, so that what ended together is together
    else:
        parallel, window_size = _PARALLEL_FILES, _WINDOW
        files = tf.gather(files, tf.argsort(tf.random.stateless_uniform([len(files)], order)))
    spec = _parsing_spec(folder)

    def to_batches(index, of_records):
        serialized, names = of_records if only_names else (of_records, None)
        parsed = tf.io.parse_example(serialized, spec)
        draw = tf.stack([order[0] + tf.cast(index, tf.int32), order[1]])
        sequences, num_targets = _windows_by_length(
            parsed, folder, model, window=window, sort_by_length=sort_by_length, draw=draw, names=names
        )
        num_sequences = tf.size(num_targets, tf.int64)
        num_batches = -(-num_sequences // batch_size)
        # What few sequences are left after the first window make no whole batch, nor count as one.
        whole_batches = tf.where(index == 0, tf.cast(num_batches, tf.float64), num_sequences / batch_size)
        targets_a_batch = tf.reduce_sum(num_targets) / tf.cast(whole_batches, tf.float32)
        shuffled = tf.argsort(tf.random.stateless_uniform(num_batches[None], draw + 1))
        if sort_by_length and batch_size > LEAST_ROWS:
            ends = _equal_shares(num_targets, num_batches)
        else:
            ends = tf.minimum(tf.range(1, num_batches + 1) * batch_size, num_sequences)
        starts = tf.concat([[0], ends[:-1]], axis=0)

        def batch(index):
            rows = slice(starts[index], ends[index])
            if only_names:
                return sequences[_NAME][rows]
            cut = {name: _rows(value, rows) for name, value in sequences.items()}
            inputs, labels = model.make_batch(cut, draw + tf.stack([(index + 1) * 1009, 0]))
            # The mean over a batch of short sequences counts each of their targets for more than that over a batch of
            # long ones; weighted by what a batch has to predict, all targets of an epoch count the same
            # (but where a ranking model draws negatives for what was liked: what was not liked counts here too).
            weight = tf.reduce_sum(num_targets[rows]) / targets_a_batch
            return inputs, labels, tf.fill(tf.shape(labels)[:1], weight)  # of ranking models, a row a target

        return tf.data.Dataset.from_tensor_slices(shuffled).map(batch, num_parallel_calls=_PARALLEL_BATCHES)

    def records_of(file):
        serialized = tf.data.TFRecordDataset(file, compression_type=records.COMPRESSION)
        if not only_names:
            return serialized
        return serialized.enumerate().map(
            lambda number, record: (record, tf.strings.join([file, " record ", tf.strings.as_string(number)]))
        )

    serialized = tf.data.Dataset.from_tensor_slices(files).interleave(
        records_of,
        cycle_length=parallel,
        num_parallel_calls=min(parallel, _PARALLEL_FILES),
        deterministic=True,
    )
    serialized = records.whole(serialized, folder.num_records("train"))
    whole_batches = max(window_size, 10 * batch_size) // batch_size * batch_size
    return serialized.batch(whole_batches).enumerate().flat_map(to_batches)


def _windows_by_length(parsed, folder, model, *, window, sort_by_length, draw, names=None):
    """What an epoch sees of some sequences, those of like length side by side, for `model.make_batch`.

    Args:
        parsed: The records.
        folder: Where they are from.
        model: What learns from them.
        window: The window of an epoch, as in `load`.
        sort_by_length: Whether to sort them; else their order is random.
        draw: int32 [2], from which all that is random follows.
        names: string [B], of the records, to give with the others; None where nobody asks.

    Returns:
        Name to what `make_batch` takes of each sequence; how much each counts, float32 [B].
    """
    first, limit = _window(parsed[ITEM_IDS].row_lengths(), model.training_events, window, draw + 2)
    if model.history_is_liked and LABELS in parsed:
        first = tf.zeros_like(first)  # what was liked may lie anywhere before
    lengths = tf.cast(limit - first, tf.float32)
    noise = tf.random.stateless_uniform(tf.shape(lengths), draw, -_LENGTH_NOISE, _LENGTH_NOISE)
    # The noise alone decides among equal lengths, so this shuffles too.
    by_length = tf.argsort(lengths * (1.0 + noise) if sort_by_length else noise)
    # Put in order at once, so that a batch is a slice.
    start = parsed[ITEM_IDS].row_starts()
    events = tf.ragged.range(tf.gather(start + first, by_length), tf.gather(start + limit, by_length))
    sequences = {
        feature.name: tf.gather(parsed[feature.name].flat_values, events)
        for feature in folder.schema.features
        if feature.is_list
    }
    sequences[SEEN] = tf.gather(parsed[ITEM_IDS], by_length)
    sequences |= {name: tf.gather(value, by_length) for name, value in _of_user(parsed, model).items()}
    if names is not None:
        sequences[_NAME] = tf.gather(parsed.get(USER_ID, names), by_length)
    return sequences, tf.gather(model.num_targets(lengths), by_length)


def _equal_shares(costs, number):
    """Where to cut rows into runs of about the same cost: the end of each run, int64 [number].

    Args:
        costs: float32 [N], not negative.
        number: int64, of runs. Each has at least `LEAST_ROWS` rows, or their average if that is less; less one.
    """
    rows = tf.cast(tf.size(costs, tf.int64) / number, tf.float32)  # of a run, on average
    # With this added to each, no row costs more than one part in LEAST_ROWS of a run.
    extra = (LEAST_ROWS * tf.reduce_max(costs) - rows * tf.reduce_mean(costs)) / tf.maximum(rows - LEAST_ROWS, 1e-3)
    up_to = tf.cumsum(costs + tf.maximum(extra, 0.0))
    shares = tf.cast(tf.range(1, number), tf.float32) / tf.cast(number, tf.float32)
    ends = tf.searchsorted(up_to, shares * up_to[-1], side="right", out_type=tf.int64)
    return tf.concat([ends, tf.size(costs, tf.int64)[None]], axis=0)


def _window(lengths, width, kind, seed):
    """First position, and the one after the last, of what an epoch sees of sequences of these lengths: int64 [B]."""
    limit = lengths
    if kind == "random":
        is_newest, place = tf.unstack(tf.random.stateless_uniform([2, tf.size(lengths)], seed))
        num_places = tf.cast(tf.maximum(lengths - width, 0) + 1, tf.float32)
        limit -= tf.where(is_newest < 0.5, tf.zeros_like(lengths), tf.cast(place * num_places, lengths.dtype))
    return tf.maximum(limit - width, 0), limit


def _rows(value, rows):
    """Some rows, one after the other, of a tensor; of a ragged one, without a look at the others."""
    if not isinstance(value, tf.RaggedTensor):
        return value[rows]
    splits = value.row_splits[rows.start : rows.stop + 1]
    return tf.RaggedTensor.from_row_splits(
        value.flat_values[splits[0] : splits[-1]], splits - splits[0], validate=False
    )


def _of_user(parsed, model):
    """What a model reads of the user of each sequence: name to a tensor [B, ...]."""
    features = {feature.name: feature for feature in model.schema.user_features}
    values = {}
    for name in model.reads_of_user:
        value = parsed[name]
        if name == USER_ID:
            value = user_fingerprint(value)
        elif features[name].is_list:
            value = padding.categories(value, features[name].max_length)
        values[name] = value
    return values


def _parsing_spec(folder):
    return records.parsing_spec(folder.schema.record_features)
