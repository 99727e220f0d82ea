"""Train a model on a dataset folder, with validation, early stopping and exact resume.

Example:
  seqrec train --dataset shop --model sasrec --output runs/sasrec --set train.epochs=50 model.dim=64

The configuration is the model's defaults, overridden by --config FILE (TOML), overridden by --set. A run that was
killed goes on after its last whole epoch when the same command is given again, one that SIGTERM stopped after its last
step; on a CPU with as many cores it ends with the figures it would have had.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seqrec_tf import run_folder as run_lib
from seqrec_tf.config import STRATEGIES, Config, DataConfig, ModelConfig, TrainConfig, computing_in, resolve
from seqrec_tf.messages import next_command
from seqrec_tf.options import config_class, help_of, model_names, module_of
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.schema import LABELS
from seqrec_tf.training.preflight import check_features, check_labels_of_validation, preflight
from seqrec_tf.training.resume import check_all_start_at, check_output, check_place, checkpoints_in
from seqrec_tf.writing import LOCK_FILE, naming, only_writer

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel


NEEDS_TENSORFLOW = True

_MOST_STEPS_AT_ONCE = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--dataset", required=True, metavar="DATASET", help="folder made by `seqrec prepare`")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help=f"{', '.join(model_names())}; a dotted path names your own module",
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="run folder to write, or to go on with")
    parser.add_argument("--config", metavar="FILE", help="TOML with sections [model], [data], [train]")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="such as train.epochs=20 model.dim=64",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="tf.distribute strategy (train.strategy); auto: mirrored where there are several GPUs. multi-worker reads "
        "TF_CONFIG; start the same command on every machine",
    )
    parser.add_argument("--no-report", action="store_true", help="do not write the page RUN/report.html at the end")


def more_help(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the keys of --set and --config to the help; those of a model where one is named."""
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--model")
    model = named.parse_known_args([word for word in arguments if word not in ("-h", "--help")])[0].model
    sections: list[str] = []
    defaults: Mapping[str, Any] = {}
    if model is None:
        sections.append("Keys of [model]: seqrec train --help --model NAME, such as --model sasrec")
    else:
        try:
            cls = config_class(model) or _imported_options(model)
            sections.append(help_of("model", cls).replace("[model]", f"[model] of {model}", 1))
            defaults = cls.data_defaults
        except ValueError as error:
            sections.append(str(error))
    sections += [help_of("data", DataConfig, defaults), help_of("train", TrainConfig)]
    parser.epilog = "\n\n".join(["Keys of --set and of the sections of --config, with their defaults:", *sections])


def _imported_options(model: str) -> type[ModelConfig]:
    """The options of a model, by importing it."""
    from seqrec_tf import models

    return models.find(model).config_class


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, as far as it can be told without TensorFlow."""
    module_of(args.model)
    check_place(run_lib.local_path(args.output, "--output"))
    if args.strategy and any(setting.startswith("train.strategy=") for setting in args.set):
        raise ValueError("--strategy and --set train.strategy are the same option: give one of them.")
    options = config_class(args.model)
    config = None if options is None else _resolve(args, options)
    if (config.train.strategy if config else args.strategy) == "multi-worker":
        check_cluster()
    if "://" not in args.dataset:
        folder = DatasetFolder(args.dataset)
        if not folder.num_training_sequences:
            raise no_training_sequences(folder)


def _resolve(args: argparse.Namespace, options: type[ModelConfig]) -> Config:
    toml = pathlib.Path(args.config).read_text(encoding="utf-8") if args.config else ""
    settings = [*args.set, *([f'train.strategy="{args.strategy}"'] if args.strategy else [])]
    return resolve(args.model, options, toml=toml, toml_name=args.config or "", settings=settings)


def check_cluster() -> None:
    """Raise a ValueError where nothing says which machines train together."""
    if "TF_CONFIG" not in os.environ:
        raise ValueError("--strategy multi-worker needs the environment variable TF_CONFIG on every machine.")


def no_training_sequences(folder: DatasetFolder) -> ValueError:
    """The error of a dataset without anything to learn from."""
    return ValueError(f"{folder.path} has no training sequences. Prepare it with looser filters.")


def run(args: argparse.Namespace) -> None:
    """Train as the arguments say."""
    from seqrec_tf import models
    from seqrec_tf.learning import parallel

    folder = DatasetFolder(args.dataset)
    model_class = models.find(args.model)
    config = _resolve(args, model_class.config_class)
    if config.train.strategy in ("auto", "none"):  # replicas do not take a batch in parts
        parallel.limit_threads(model_class.num_parts(config.model, folder.schema))
    finished = train(config, folder, args.output)
    if finished and not args.no_report and any(folder.split_files(split) for split in ("test", "valid")):
        from seqrec_tf import report

        page = finished.path / report.REPORT_FILE
        report.write_run_report(finished, page, dataset=args.dataset)
        sys.stdout.write(f"Report: {page}\n")


def train(config: Config, folder: DatasetFolder, output: str | os.PathLike, *, log=None) -> RunFolder | None:
    """Train a model and write its run folder; go on with it where it was stopped.

    Args:
        config: The resolved configuration.
        folder: The dataset.
        output: Run folder.
        log: Function that shows a line of text; stdout where None.

    Returns:
        The finished run; None in a worker that is not the chief, which leaves no folder.

    Raises:
        FileExistsError: `output` holds a finished run, or an unfinished one of another model, data or dataset, or
            another process is writing it.
        ValueError: The training split is empty, the model cannot fit in memory, validation would measure nothing, or a
            file of the dataset or of the checkpoints is damaged.
        RuntimeError: The loss became NaN or infinite, or another worker ended.
        TrainingStoppedError: SIGTERM came; what is needed to go on is saved.
        OSError: `output` cannot be written.
    """
    log = log or _say
    shared = run_lib.local_path(output, "--output")
    strategy = make_strategy(config.train.strategy)
    is_chief = strategy.cluster_resolver is None or _is_chief(strategy.cluster_resolver)
    lock = only_writer(shared / LOCK_FILE, str(shared)) if is_chief else contextlib.nullcontext()
    is_new = not shared.exists()
    with lock, folder.manifest.explaining(), naming(shared):
        try:
            return _train(config, folder, shared, strategy, is_chief=is_chief, log=log)
        except BaseException:
            if is_chief and is_new and not checkpoints_in(shared / run_lib.CHECKPOINTS_FOLDER):
                shutil.rmtree(shared, ignore_errors=True)  # nothing is lost, and nothing half-written is left
            raise


def _train(
    config: Config, folder: DatasetFolder, shared: pathlib.Path, strategy, *, is_chief: bool, log
) -> RunFolder | None:
    """`train`, where nobody else writes the run folder."""
    import keras

    from seqrec_tf import data, models
    from seqrec_tf.training.callbacks import RunKeeper
    from seqrec_tf.training.fitting import Fitting
    from seqrec_tf.training.progress import is_exploded
    from seqrec_tf.training.stopping import StopRequest

    if not config.data.batch_size:  # the run folder keeps what it comes to
        rows = data.sequences_a_batch(folder, config.model)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows))
    changes = check_output(shared, config, folder)
    model_class = models.find(config.model_name)
    steps = data.steps_per_epoch(folder, config.data.batch_size)
    if not steps:
        raise no_training_sequences(folder)
    log(preflight(model_class, config, folder, steps, strategy.num_replicas_in_sync))

    keras.utils.set_random_seed(config.train.seed)
    with computing_in(config.train.precision), strategy.scope():
        model = _compiled_model(model_class, config, folder, steps, strategy.num_replicas_in_sync)
    check_features(model, folder)
    if model.trainable_variables and folder.split_files("valid") and LABELS in folder.schema:
        check_labels_of_validation(model, folder, config.data.valid_sequences)
    # Only the chief writes the run folder; the others need a place of their own, but read the chief's checkpoints.
    place = contextlib.nullcontext(shared) if is_chief else tempfile.TemporaryDirectory(prefix="seqrec-worker-")
    with place as folder_of_run, StopRequest() as stop:
        path = pathlib.Path(folder_of_run)
        run_lib.begin(path, config, folder)
        has_validation = bool(folder.split_files("valid"))
        keeper = RunKeeper(path, model, patience=config.train.patience, has_validation=has_validation, stop=stop)
        checkpoints = shared / run_lib.CHECKPOINTS_FOLDER
        first_epoch = _restore(keeper, checkpoints, config, strategy, steps=steps, changes=changes, log=log)
        if not has_validation:
            log("There is no validation split: training never stops early, and the newest model is the best.")
        epochs = config.train.epochs if model.trainable_variables else 0
        if first_epoch < epochs and not keeper.has_lost_patience:
            Fitting(model, config, folder, keeper, strategy, epochs=range(first_epoch, epochs), log=log).run()
        if not (path / run_lib.BEST_MODEL_FILE).exists():  # nothing to train, or ended before the first validation
            keeper.save_best()
        if not is_chief:
            return None
        keeper.finish()
        log(f"Best model: {path / run_lib.BEST_MODEL_FILE}" + keeper.best_line())
        if keeper.best and is_exploded(keeper.best["loss"], keeper.epochs[0]["loss"]):
            log(f"Warning: its loss was {keeper.best['loss']:.3g}, so it has learned nothing that is of use.")
        log(next_command("evaluate", "--run", path).rstrip())
        return RunFolder(path)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # also where stdout is a file, which somebody may watch


def _restore(
    keeper, checkpoints: pathlib.Path, config: Config, strategy, *, steps: int, changes: list[str], log
) -> int:
    """Go on from the newest checkpoint, if there is one, on all workers from the same; returns the epochs done."""
    first_epoch = keeper.restore(checkpoints, log=log)
    if config.train.strategy == "multi-worker":
        check_all_start_at(first_epoch * steps + keeper.steps_done, strategy)
    if first_epoch or keeper.steps_done:
        after = (
            f"step {keeper.steps_done:,} of epoch {first_epoch + 1}" if keeper.steps_done else f"epoch {first_epoch}"
        )
        log(f"Going on after {after} of at most {config.train.epochs}.")
        if changes:
            log(f"Changed since: {', '.join(changes)}.")
    return first_epoch


def _compiled_model(
    model_class: type[SequenceModel], config: Config, folder: DatasetFolder, steps: int, replicas: int
) -> SequenceModel:
    from seqrec_tf.learning.optimizers import LossScaleOptimizer, make_optimizer

    if config.train.precision == "mixed_float16" and replicas > 1:
        raise ValueError(
            f"train.precision=mixed_float16 with {replicas} replicas is not supported, as each would scale its loss by "
            "its own; set mixed_bfloat16."
        )
    model = model_class(config.model, folder.schema)
    model.adapt(folder)
    optimizer = make_optimizer(config.train, total_steps=steps * config.train.epochs)
    if config.train.precision == "mixed_float16":
        optimizer = LossScaleOptimizer(optimizer)
    # With several replicas Keras cannot run more steps than one at once.
    model.compile(optimizer=optimizer, steps_per_execution=1 if replicas > 1 else steps_at_once(steps))
    optimizer.build(model.trainable_variables)  # so that its state can be restored before the first step
    return model


def steps_at_once(steps: int) -> int:
    """Steps to run between two looks of Keras at the run, which cost as much as a small step does.

    They divide those of an epoch, as Keras would else go on into the next one.
    """
    return max(number for number in range(1, min(steps, _MOST_STEPS_AT_ONCE) + 1) if steps % number == 0)


def make_strategy(name: str):
    """The tf.distribute strategy of a `train.strategy`; "auto" mirrors where there are several GPUs."""
    import tensorflow as tf

    if name == "multi-worker":
        check_cluster()
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored" or (name == "auto" and len(tf.config.list_logical_devices("GPU")) > 1):
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _is_chief(resolver) -> bool:
    return resolver.task_type in (None, "chief") or (
        resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    )
