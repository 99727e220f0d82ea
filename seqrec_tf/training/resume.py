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


def check_place(path: pathlib.Path) -> None:
    """Raise a FileExistsError where the run folder holds a finished run, or something else than a run."""
    if (path / COMPLETED_FILE).exists() and (path / run_lib.CONFIG_FILE).exists():
        raise FileExistsError(f"{path} holds a finished run. Choose another --output, or remove it.")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file. Choose another --output.")
    is_used = path.exists() and any(file.name != LOCK_FILE for file in path.iterdir())
    if is_used and not (path / run_lib.CONFIG_FILE).exists():
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
    if not checkpoints_in(path / run_lib.CHECKPOINTS_FOLDER):
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


def checkpoints_in(folder: pathlib.Path) -> list[str]:
    """The names of the checkpoints that were written whole, whatever became of them since, the newest first.

    `ckpt-2` was written after the second epoch, `within-2-340` by a stop in the third, after 340 of its steps.

    An index is written after its data, and TensorFlow's list of checkpoints, the file `checkpoint`, after both: of a
    run that was killed while it wrote one, there is neither.
    """
    names = [file.stem for file in folder.glob("*.index")]
    with contextlib.suppress(OSError):
        names += re.findall(r"ckpt-\d+", (folder / "checkpoint").read_text(encoding="utf-8", errors="replace"))
    found = [name for name in names if re.fullmatch(r"ckpt-\d+|within-\d+-\d+", name)]
    return sorted(set(found), key=lambda name: [int(number) for number in name.split("-")[1:]], reverse=True)


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


def check_all_start_at(step: int, strategy) -> None:
    """Raise a RuntimeError where the workers have found different checkpoints, of other steps."""
    import tensorflow as tf

    total = strategy.reduce("SUM", strategy.run(lambda: tf.constant(step, tf.int64)), axis=None)
    if int(total) != step * strategy.num_replicas_in_sync:
        raise RuntimeError(
            "The workers see different checkpoints. --output must be on a file system that all of them share."
        )
