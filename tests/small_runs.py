"""Runs that take seconds, on the chain of items."""

import csv
import pathlib

from seqrec_tf import config as config_lib
from seqrec_tf import models
from seqrec_tf.records import DatasetFolder
from seqrec_tf.train import train

SMALL = ("model.num_blocks=1", "model.dim=16", "model.max_len=12", "data.batch_size=32", "train.learning_rate=0.01")


def make_config(*settings, name="sasrec"):
    """The configuration of a small model, with these settings."""
    return config_lib.resolve(name, models.find(name).config_class, settings=(*SMALL, *settings))


def fit(dataset, output, *settings):
    """A SASRec trained with these settings: its run folder, and the lines that training showed."""
    lines = []
    return train(make_config(*settings), DatasetFolder(dataset), output, log=lines.append), lines


def trained(folder, path, name, *settings):
    """A run of some epochs of any model, in the folder `run` of a path."""
    cls = models.find(name).config_class
    narrow = next(({key: 16} for key in ("units", "dim") if key in cls.__dataclass_fields__), {})
    small = {**narrow, "max_len": 8, **({"num_blocks": 1} if "num_blocks" in cls.__dataclass_fields__ else {})}
    settings = (*(f"model.{key}={value}" for key, value in small.items()), *settings)
    resolved = config_lib.resolve(name, cls, settings=("train.learning_rate=0.01", "train.epochs=6", *settings))
    return train(resolved, folder, path / "run", log=lambda line: None)


def log_of(path):
    """The rows of a run's log, without the times that they took."""
    with (pathlib.Path(path) / "log.csv").open() as stream:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(stream)]
