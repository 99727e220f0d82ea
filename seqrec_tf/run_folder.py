"""The run folder: what a training run keeps, and how a later step opens it.

config.toml        the resolved configuration
dataset.json       path, fingerprint and schema of the dataset it was trained on, encoders of its vectors, versions of
                   the libraries
checkpoints/       the newest state and the one before, to go on after a stop
best.keras         the model of the best epoch
log.csv            one line an epoch
metrics.json       figures of the best epoch; epochs, parameters, seconds in all and of training
tensorboard/       events
COMPLETED          last: which files there are
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from importlib.metadata import version
from typing import Any

from seqrec_tf import __version__, manifest
from seqrec_tf.config import Config, DataConfig, from_values, read_toml, resolve
from seqrec_tf.messages import DATASET, RUN, kind_of, not_expected, parse_json
from seqrec_tf.records import DatasetFolder
from seqrec_tf.schema import COMPLETED_FILE, Schema
from seqrec_tf.writing import write_whole

CONFIG_FILE = "config.toml"
DATASET_FILE = "dataset.json"
BEST_MODEL_FILE = "best.keras"
LOG_FILE = "log.csv"
METRICS_FILE = "metrics.json"
CHECKPOINTS_FOLDER = "checkpoints"
TENSORBOARD_FOLDER = "tensorboard"


class RunFolder:
    """A finished run, opened for reading.

    Args:
        path: The folder that `seqrec train` wrote.

    Raises:
        FileNotFoundError: There is no such run, it has not finished, or a file is missing.
        ValueError: A file is not what was written.

    Attributes:
        path: The folder.
        manifest: What was written to its files.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = local_path(path, "--run")
        if not (self.path / COMPLETED_FILE).exists() or kind_of(self.path) == DATASET:  # which has such a file too
            if (self.path / CONFIG_FILE).exists():
                raise FileNotFoundError(
                    f"{path} is a run that has not finished. Give `seqrec train` the same options again to go on."
                )
            raise not_expected(
                path, RUN, make=f"Make it with `seqrec train --dataset DATASET --model sasrec --output {path}`."
            )
        self.manifest = manifest.read(self.path, manifest.RUN)
        self.manifest.check_sizes()
        for name in (CONFIG_FILE, DATASET_FILE):
            self.manifest.content(name)

    @functools.cached_property
    def config(self) -> Config:
        """The resolved configuration."""
        return read_config(self.path)

    def excludes_history(self, *, keep_history: bool) -> bool:
        """Whether items of the history leave the ranking; `keep_history` is the option --keep-history.

        Raises:
            ValueError: The option changes nothing.
        """
        values = read_toml((self.path / CONFIG_FILE).read_text(encoding="utf-8"), str(self.path / CONFIG_FILE))
        excludes = from_values(DataConfig, values.get("data", {}), section="data").exclude_history
        if keep_history and not excludes:
            raise ValueError(
                f"--keep-history changes nothing: {self.path} was trained with data.exclude_history=false."
            )
        return excludes and not keep_history

    @functools.cached_property
    def dataset_info(self) -> dict[str, Any]:
        """Path, fingerprint and schema of the dataset."""
        return read_dataset_info(self.path)

    def open_dataset(self, path: str | None = None) -> DatasetFolder:
        """The dataset folder of this run, or a copy of it.

        Raises:
            ValueError: Its schema or its data differ.
        """
        folder = DatasetFolder(path or self.dataset_info["path"])
        ours = Schema.from_dict(self.dataset_info["schema"], called=f"The schema in {self.path / DATASET_FILE}")
        known = {feature.name for feature in ours.item_features}
        # Vectors that were made since are nothing to this run.
        kept = [feature for feature in folder.schema.item_features if feature.kind != "vector" or feature.name in known]
        differences = ours.differences(dataclasses.replace(folder.schema, item_features=tuple(kept)))
        if not differences and folder.fingerprint != self.dataset_info["fingerprint"]:
            differences = ["the records or the vocabulary (the fingerprints differ)"]
        differences += other_encoders(self.dataset_info, folder)
        if differences:
            raise ValueError(
                f"{folder.path} is not the dataset that {self.path} was trained on; it differs in "
                f"{'; '.join(differences)}. Train again on it, or give the original dataset."
            )
        return folder

    def load_model(self):
        """The model of the best epoch, a `SequenceModel`, computing in the precision it was trained in."""
        import keras

        from seqrec_tf import models

        for problem in self.manifest.damaged([BEST_MODEL_FILE]).values():
            raise ValueError(self.manifest.sentence(BEST_MODEL_FILE, problem))
        model_class = models.find(self.config.model_name)
        own = {model_class.__name__: model_class}  # a model from outside need not be registered
        return keras.models.load_model(self.path / BEST_MODEL_FILE, custom_objects=own, compile=False)


def begin(path: pathlib.Path, config: Config, folder: DatasetFolder) -> None:
    """Create the run folder with what makes the run."""
    path.mkdir(parents=True, exist_ok=True)
    dataset = {
        "path": folder.path if "://" in folder.path else os.path.abspath(folder.path),
        "fingerprint": folder.fingerprint,
        "encoders": folder.encoders,
        "schema": folder.schema.to_dict(),
        "versions": {"seqrec_tf": __version__} | {name: version(name) for name in ("tensorflow", "keras")},
    }
    write_whole(path / DATASET_FILE, json.dumps(dataset, indent=2) + "\n")
    write_whole(path / CONFIG_FILE, config.to_toml())


def complete(path: pathlib.Path) -> None:
    """Mark a run finished: name the files that later steps read. Checkpoints may be removed from now on."""
    names = (CONFIG_FILE, DATASET_FILE, BEST_MODEL_FILE, LOG_FILE, METRICS_FILE)
    files = manifest.of_folder(path, [name for name in names if (path / name).exists()])
    write_whole(path / COMPLETED_FILE, manifest.to_json(manifest.RUN, files))


def read_config(path: pathlib.Path) -> Config:
    """The resolved configuration of a run, finished or not."""
    from seqrec_tf import models

    text = (path / CONFIG_FILE).read_text(encoding="utf-8")
    values = read_toml(text, str(path / CONFIG_FILE))
    if not isinstance(name := values.get("model_name"), str):
        raise ValueError(f"{path / CONFIG_FILE} must say `model_name`, as a run's does: the file is damaged.")
    return resolve(name, models.find(name).config_class, toml=text, toml_name=str(path / CONFIG_FILE))


def read_dataset_info(path: pathlib.Path) -> dict[str, Any]:
    """Path, fingerprint and schema of the dataset of a run, finished or not."""
    return parse_json((path / DATASET_FILE).read_text(encoding="utf-8"), path / DATASET_FILE)


def other_encoders(dataset_info: dict[str, Any], folder: DatasetFolder) -> list[str]:
    """A line for each feature of vectors that another encoder has made since a run began; new ones do not matter."""
    return [
        f"{name}, which was made by another encoder"
        for name, identity in dataset_info.get("encoders", {}).items()
        if folder.encoders.get(name, identity) != identity
    ]


def local_path(path: str | os.PathLike, option: str) -> pathlib.Path:
    """The path, which must be on this machine or mounted there.

    Raises:
        ValueError: It is the address of a remote file system.
    """
    if "://" in str(path):
        raise ValueError(f"{option} must be a local path, got {path}. Copy the folder there when it is finished.")
    return pathlib.Path(path)


def output_file(path: str | None, option: str = "--json") -> pathlib.Path | None:
    """The file of an option such as `--json`; None where none is asked for, or stdout (-) is.

    Raises:
        FileNotFoundError: There is no folder for it.
        ValueError: It is a folder, or remote.
    """
    if not path or path == "-":
        return None
    file = local_path(path, option)
    if file.is_dir():
        raise ValueError(f"{option} {file}: this is a folder; name a file.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{option} {file}: there is no folder {file.parent}.")
    if not os.access(file.parent, os.W_OK):
        raise PermissionError(f"{option} {file}: the folder {file.parent} cannot be written. Name another file.")
    return file
