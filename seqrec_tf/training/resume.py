"""Whether a run can go on where it was stopped: as the same run, on the same data, for all workers at once."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from seqrec_tf import run_folder as run_lib
from seqrec_tf.config import Config
from seqrec_tf.records import DatasetFolder
from seqrec_tf.schema import COMPLETED_FILE


def check_place(path: pathlib.Path) -> None:
    """Raise a FileExistsError where the run folder holds a finished run, or something else than a run."""
    if (path / COMPLETED_FILE).exists() and (path / run_lib.CONFIG_FILE).exists():
        raise FileExistsError(f"{path} holds a finished run. Choose another --output, or remove it.")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file. Choose another --output.")
    if path.exists() and any(path.iterdir()) and not (path / run_lib.CONFIG_FILE).exists():
        raise FileExistsError(f"{path} holds something else than a run. Choose another --output.")


def check_output(path: pathlib.Path, config: Config, folder: DatasetFolder) -> list[str]:
    """Make sure that the run folder is new, or holds this run unfinished.

    What is trained and on what must be the same; how long and how fast may change.

    Returns:
        A line for each option of [train] that has changed.

    Raises:
        FileExistsError: The folder holds something else.
    """
    check_place(path)
    if not (path / run_lib.CHECKPOINTS_FOLDER).exists():
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


def newest_within(folder: pathlib.Path, epochs: int) -> str | None:
    """The checkpoint that a stop has left within the epoch after so many; None where there is none.

    Args:
        folder: Of the checkpoints. `within-2-340` was written in the third epoch, after 340 of its steps.
        epochs: Epochs that the newest other checkpoint has; one within an earlier epoch is of no use.
    """
    found = [tuple(map(int, file.stem.split("-")[1:])) for file in folder.glob("within-*.index")]
    newest = max(found, default=(-1, 0))
    return str(folder / f"within-{newest[0]}-{newest[1]}") if newest[0] >= epochs else None


def check_all_start_at(step: int, strategy) -> None:
    """Raise a RuntimeError where the workers have found different checkpoints, of other steps."""
    import tensorflow as tf

    total = strategy.reduce("SUM", strategy.run(lambda: tf.constant(step, tf.int64)), axis=None)
    if int(total) != step * strategy.num_replicas_in_sync:
        raise RuntimeError(
            "The workers see different checkpoints. --output must be on a file system that all of them share."
        )
