"""What a training run will take, and whether it can work: told and checked before the work begins."""

from __future__ import annotations

import math
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from seqrec_tf.config import Config, ModelConfig
from seqrec_tf.records import DatasetFolder, read_split
from seqrec_tf.schema import LABELS, TARGET_START

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel


def preflight(
    model_class: type[SequenceModel], config: Config, folder: DatasetFolder, steps: int, replicas: int
) -> str:
    """One line that says what the work will take.

    Args:
        model_class: The model.
        config: Its configuration, whose `data.batch_size` is not 0.
        folder: The dataset.
        steps: Steps an epoch.
        replicas: Replicas that share a batch.

    Raises:
        ValueError: It cannot fit in this machine's memory. That of GPUs TensorFlow does not tell.
    """
    import tensorflow as tf

    from seqrec_tf.models.base_memory import training_bytes

    learns = learns_by_gradients(model_class, config.model)
    work = _work(config, folder, steps) if learns else "no epochs, as it learns by counting"
    rows = math.ceil(_longest_rows(config, folder) / replicas) if learns else 0
    needed = training_bytes(model_class, config.model, folder.schema, batch_size=rows)
    total = math.inf if tf.config.get_visible_devices("GPU") else _memory_limit()
    line = (
        f"{config.model_name}: {folder.num_items:,} items, {folder.num_training_sequences:,} sequences of "
        f"{folder.training_lengths['mean']:.0f} events on average; "
        f"{work}; about {needed / 1e9:.1f} GB "
        + ("of a GPU's memory" if total == math.inf else f"of {total / 1e9:.0f} GB memory")
        + (f"; {replicas} replicas" if replicas > 1 else "")
    )
    if needed > total:
        raise ValueError(f"{line}: this cannot fit. Set a smaller {_what_would_help(config, learns)}.")
    return line


def _work(config: Config, folder: DatasetFolder, steps: int) -> str:
    """Steps and epochs in words; of a model that makes several examples of a sequence, how many a step has."""
    words = f"{steps:,} steps an epoch, at most {config.train.epochs} epochs"
    if (most := config.model.examples_a_sequence) > 1:
        examples = min(max(folder.training_lengths["mean"] - 1, 1), most)
        words += f", {config.data.batch_size} sequences a step with about {examples:.0f} examples each"
    return words


def learns_by_gradients(model_class: type[SequenceModel], config: ModelConfig) -> bool:
    """Whether a model has a loss, and so epochs; else it learns by counting, in `adapt`."""
    from seqrec_tf.learning.objective import ObjectiveConfig
    from seqrec_tf.models.base import SequenceModel

    return isinstance(config, ObjectiveConfig) or model_class.target_losses is not SequenceModel.target_losses


def _longest_rows(config: Config, folder: DatasetFolder) -> int:
    """Sequences of the batch that takes most memory; of the longest, few make one where those of like length do."""
    from seqrec_tf.data import LEAST_ROWS

    rows, most = config.data.batch_size, config.model.examples_a_sequence
    if not config.data.sort_by_length:
        return rows
    longest = min(config.model.max_len if most == 1 else most, max(folder.schema.max_len, 1))
    return max(min(rows, LEAST_ROWS), math.ceil(rows * min(1.0, folder.training_lengths["mean"] / longest)))


def _what_would_help(config: Config, learns: bool) -> str:
    """Options of this model that decide how much memory it takes: "data.batch_size or model.dim"."""
    from seqrec_tf.learning.objective import ObjectiveConfig

    samples = not (isinstance(config.model, ObjectiveConfig) and config.model.loss == "softmax")
    names = ("max_targets", "max_len", "hidden_dims", "dim", "units") if learns else ("num_neighbors",)
    names = ("num_negatives", *names) if samples else names
    options = ["data.batch_size"] if learns else []
    options += [f"model.{name}" for name in names if getattr(config.model, name, 0)]
    words = ", ".join(options[:-1]) + (" or " if len(options) > 1 else "") + "".join(options[-1:])
    return (words or "dataset") + ("" if samples else ", or a sampled loss instead of softmax")


def _memory_limit() -> int:
    """Bytes of memory that this process may use: the machine's, or what its container is given."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(total, int(text))
    return total


def check_features(model: SequenceModel, folder: DatasetFolder) -> None:
    """Raise a ValueError where a model reads a feature that no item, or no user of a training sequence, has."""
    import numpy as np

    unknown = []
    if model.item_features is not None:
        for feature, table in zip(model.item_features.features, model.item_features.tables, strict=True):
            values = np.asarray(table)
            if not (np.isfinite(values) if np.isnan(feature.missing) else values != feature.missing).any():
                unknown.append(("item", feature.name))
    for feature in model.user_features.features if model.user_features is not None else ():
        learned = folder.learned_of_users[feature.name]
        if feature.kind == "number":  # no number at all, or nothing but zeros, teaches the same
            is_known = (learned["mean"], learned["deviation"]) != (0.0, 1.0) or any(
                np.isfinite(batch[feature.name]).any() for batch in read_split(folder, "train", [feature.name])
            )
        else:
            is_known = bool(learned["values"])
        if not is_known:
            unknown.append(("user", feature.name))
    for one, name in unknown:
        raise ValueError(
            f"No {one} of {folder.path} has a value of {name!r}, so a model cannot learn from it. Leave it out of "
            f"model.{one}_features, or prepare the dataset with {one}s files that fill this column."
        )


def check_labels_of_validation(model: SequenceModel, folder: DatasetFolder, max_sequences: int) -> None:
    """Raise a ValueError where validation would measure nothing: it ranks what was liked, and AUC needs both labels."""
    import tensorflow as tf

    wanted, num_left = {0, 1} if model.monitor == "auc" else {1}, max_sequences or sys.maxsize
    for batch in read_split(folder, "valid", [LABELS, TARGET_START]):
        labels = batch[LABELS][:num_left]
        num_left -= int(labels.nrows())
        position = tf.ragged.range(labels.row_lengths())
        is_target = position.flat_values >= tf.gather(batch[TARGET_START], position.value_rowids())
        wanted -= set(tf.boolean_mask(labels.flat_values, is_target).numpy().tolist())
        if not wanted:
            return
        if not num_left:
            break
    first = f"the first {max_sequences:,} sequences (data.valid_sequences) of " if max_sequences else ""
    raise ValueError(
        f"No event to predict of {first}{folder.path}'s split 'valid' has the label {max(wanted)}, so no epoch would "
        "be better than another. Prepare it with a larger validation split or another --label-threshold."
    )
