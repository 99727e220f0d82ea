"""Whether a run can go on where it was stopped: as the same run, on the same data, for all workers at once."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Sequence

from seqrec_tf import run_folder as run_lib
from seqrec_tf.config import Config
from seqrec_tf.records import DatasetFolder
from seqrec_tf.schema import COMPLETED_FILE
from seqrec_tf.writing import LOCK_FILE


def check_output(path: pathlib.Path, config: Config, folder: DatasetFolder) -> list[str]:
    """Make sure that the run folder is new, or holds this run unfinished.

    What is trained and on what must be the same; how long and how fast may change.

    Returns:
        A line for each option of [train] that has changed.

    Raises:
        FileExistsError: The folder holds something else.
    """
    if (path / COMPLETED_FILE).exists():
        raise FileExistsError(f"{path} holds a finished run. Choose another --output, or remove it.")
    if not path.exists() or not any(file.name != LOCK_FILE for file in path.iterdir()):
        return []
    if not (path / run_lib.CONFIG_FILE).exists():
        raise FileExistsError(f"{path} holds something else than a run. Choose another --output.")
    if not checkpoint_numbers(path / run_lib.CHECKPOINTS_FOLDER):
        if (path / run_lib.LOG_FILE).exists():
            raise FileExistsError(
                f"{path} holds an unfinished run whose checkpoints are gone, so it cannot go on: "
                f"{path / run_lib.CHECKPOINTS_FOLDER} has none. Copy the folder again, choose another --output, or "
                "remove it to train anew."
            )
        return []  # it was stopped before its first epoch was done: nothing can be lost
    before = run_lib.read_config(path)
    differences = []
    if before.model_name != config.model_name:
        differences.append(f"model_name ({before.model_name!r}, now {config.model_name!r})")
    else:
        differences += _differences(before, config, "model") + _differences(before, config, "data")
    differences += _differences(before, config, "train", only=_of_optimizer_state(before, config))
    dataset = run_lib.read_dataset_info(path)
    if dataset["fingerprint"] != folder.fingerprint:
        differences.append("its dataset")
    differences += run_lib.other_encoders(dataset, folder)
    if differences:
        raise FileExistsError(
            f"{path} holds an unfinished run that differs in {', '.join(differences)}. Choose another --output, or "
            "give the options it was started with to go on with it; only those of [train] may change, but not what "
            "decides what the optimizer keeps."
        )
    return _differences(before, config, "train")


def checkpoint_numbers(folder: pathlib.Path) -> list[int]:
    """The epochs of the checkpoints that were written whole, whatever became of them since, the newest first.

    An index is written after its data, and TensorFlow's list of checkpoints, the file `checkpoint`, after both: of a
    run that was killed while it wrote one, there is neither.
    """
    names = [file.name for file in folder.glob("ckpt-*.index")]
    with contextlib.suppress(OSError):
        names += (folder / "checkpoint").read_text(encoding="utf-8", errors="replace").split('"')
    found = {match[1] for name in names if (match := re.search(r"ckpt-(\d+)(?:\.index)?$", name))}
    return sorted(map(int, found), reverse=True)


def _of_optimizer_state(before: Config, now: Config) -> list[str]:
    """Options of [train] that decide which variables the optimizer has, where these are others now."""
    names = ["optimizer", "precision"]
    for tell, options in (
        (lambda train: train.momentum > 0, ["momentum"]),
        (lambda train: train.schedule == "constant" and not train.warmup_steps, ["schedule", "warmup_steps"]),
    ):
        if tell(before.train) != tell(now.train):
            names += options
    return names


def _differences(before: Config, now: Config, section: str, only: Sequence[str] | None = None) -> list[str]:
    old, new = dataclasses.asdict(getattr(before, section)), dataclasses.asdict(getattr(now, section))
    return [
        f"{section}.{key} ({old[key]!r}, now {new[key]!r})"
        for key in (new if only is None else only)
        if old[key] != new[key]
    ]


def check_all_start_at(first_epoch: int, strategy) -> None:
    """Raise a RuntimeError where the workers have found different checkpoints."""
    import tensorflow as tf

    total = strategy.reduce("SUM", strategy.run(lambda: tf.constant(first_epoch)), axis=None)
    if int(total) != first_epoch * strategy.num_replicas_in_sync:
        raise RuntimeError(
            "The workers see different checkpoints. --output must be on a file system that all of them share."
        )
