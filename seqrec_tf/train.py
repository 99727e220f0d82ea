"""Train a model on a dataset folder, with validation, early stopping and exact resume.

Example:
  seqrec train --dataset shop --model sasrec --output runs/sasrec --set train.epochs=50 model.dim=64

The configuration is the model's defaults, overridden by --config FILE (TOML), overridden by --set. A run that was
stopped goes on after its last whole epoch when the same command is given again, and on a CPU with as many cores ends
with the figures it would have had.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import json
import os
import pathlib
import shutil
import sys
import tempfile
import textwrap
import warnings
from typing import TYPE_CHECKING

from seqrec_tf import run_folder as run_lib
from seqrec_tf.config import STRATEGIES, Config, DataConfig, TrainConfig, computing_in
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.schema import LABELS
from seqrec_tf.training.preflight import check_labels_of_validation, preflight
from seqrec_tf.training.resume import check_all_start_at, check_output, checkpoint_numbers
from seqrec_tf.writing import LOCK_FILE, naming, only_writer

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel


NEEDS_TENSORFLOW = True

_MOST_STEPS_AT_ONCE = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--dataset", required=True, metavar="DATASET", help="folder made by `seqrec prepare`")
    files = (pathlib.Path(__file__).parent / "models").glob("[!_]*.py")
    models = sorted(file.stem for file in files if not file.stem.startswith("base"))
    parser.add_argument(
        "--model", required=True, metavar="NAME", help=f"{', '.join(models)}; a dotted path names your own module"
    )
    parser.epilog = "\n".join(
        [
            "Keys of [model] are in the model's file, seqrec_tf/models/NAME.py, and what its configuration extends "
            "(seqrec_tf/config.py, objective.py, layers/transformer.py, models/base_ranking.py); the others:",
            *(f"\n[{section}]\n{_attributes(cls)}" for section, cls in (("data", DataConfig), ("train", TrainConfig))),
        ]
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


def _attributes(cls: type) -> str:
    """What a configuration class says of its fields, with their defaults."""
    text = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    for field in dataclasses.fields(cls):
        text = text.replace(f"{field.name}: ", f"{field.name} = {json.dumps(field.default)}: ", 1)
    return textwrap.indent(textwrap.dedent(text), "  ")


def run(args: argparse.Namespace) -> None:
    """Train as the arguments say."""
    from seqrec_tf import models
    from seqrec_tf.config import resolve
    from seqrec_tf.learning import parallel

    folder = DatasetFolder(args.dataset)
    toml = pathlib.Path(args.config).read_text(encoding="utf-8") if args.config else ""
    settings = [*args.set, *([f'train.strategy="{args.strategy}"'] if args.strategy else [])]
    model_class = models.find(args.model)
    config = resolve(args.model, model_class.config_class, toml=toml, toml_name=args.config or "", settings=settings)
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
        RuntimeError: The loss became NaN or infinite.
        OSError: `output` cannot be written.
    """
    log = log or (lambda line: sys.stdout.write(line + "\n"))
    shared = run_lib.local_path(output, "--output")
    strategy = make_strategy(config.train.strategy)
    is_chief = strategy.cluster_resolver is None or _is_chief(strategy.cluster_resolver)
    lock = only_writer(shared / LOCK_FILE, str(shared)) if is_chief else contextlib.nullcontext()
    is_new = not shared.exists()
    with lock, folder.manifest.explaining(), naming(shared):
        try:
            return _train(config, folder, shared, strategy, is_chief=is_chief, log=log)
        except BaseException:
            if is_chief and is_new and not checkpoint_numbers(shared / run_lib.CHECKPOINTS_FOLDER):
                shutil.rmtree(shared, ignore_errors=True)  # nothing is lost, and nothing half-written is left
            raise


def _train(
    config: Config, folder: DatasetFolder, shared: pathlib.Path, strategy, *, is_chief: bool, log
) -> RunFolder | None:
    """`train`, where nobody else writes the run folder."""
    import keras

    from seqrec_tf import data, models
    from seqrec_tf.training.callbacks import RunKeeper

    changes = check_output(shared, config, folder)
    model_class = models.find(config.model_name)
    steps = data.steps_per_epoch(folder, config.data.batch_size)
    if not steps:
        raise ValueError(f"{folder.path} has no training sequences. Prepare it with looser filters.")
    log(preflight(model_class, config, folder, steps, strategy.num_replicas_in_sync))

    keras.utils.set_random_seed(config.train.seed)
    with computing_in(config.train.precision), strategy.scope():
        model = _compiled_model(model_class, config, folder, steps, strategy.num_replicas_in_sync)
    if model.trainable_variables and folder.split_files("valid") and LABELS in folder.schema:
        check_labels_of_validation(model, folder, config.data.valid_sequences)
    # Only the chief writes the run folder; the others need a place of their own, but read the chief's checkpoints.
    place = contextlib.nullcontext(shared) if is_chief else tempfile.TemporaryDirectory(prefix="seqrec-worker-")
    with place as folder_of_run:
        path = pathlib.Path(folder_of_run)
        run_lib.begin(path, config, folder)
        has_validation = bool(folder.split_files("valid"))
        keeper = RunKeeper(path, model, patience=config.train.patience, has_validation=has_validation)
        first_epoch = _restore(keeper, shared / run_lib.CHECKPOINTS_FOLDER, config, strategy, changes=changes, log=log)
        if not has_validation:
            log("There is no validation split: training never stops early, and the newest model is the best.")
        epochs = config.train.epochs if model.trainable_variables else 0
        if first_epoch < epochs and not keeper.has_lost_patience:
            _fit(model, config, folder, keeper, strategy, epochs=range(first_epoch, epochs), log=log)
        if not (path / run_lib.BEST_MODEL_FILE).exists():  # nothing to train, or ended before the first validation
            keeper.save_best()
        if not is_chief:
            return None
        keeper.finish()
        log(f"Best model: {path / run_lib.BEST_MODEL_FILE}" + keeper.best_line())
        log(f"Next: seqrec evaluate --run {path}")
        return RunFolder(path)


def _restore(keeper, checkpoints: pathlib.Path, config: Config, strategy, *, changes: list[str], log) -> int:
    """Go on from the newest checkpoint, if there is one, on all workers from the same; returns the epochs done."""
    first_epoch = keeper.restore(checkpoints, log=log)
    if config.train.strategy == "multi-worker":
        check_all_start_at(first_epoch, strategy)
    if first_epoch:
        log(f"Going on after epoch {first_epoch} of at most {config.train.epochs}.")
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


def _fit(model, config: Config, folder: DatasetFolder, keeper, strategy, *, epochs: range, log) -> None:
    """Train a compiled model for some epochs, with a `callbacks.RunKeeper`."""
    import keras

    from seqrec_tf import data
    from seqrec_tf.training.callbacks import Progress

    def batches_of(split: str, **options):
        def load(context=None):
            batches = data.load(folder, model, split, **options)
            return batches if context is None else data.replica_batches(batches, context)

        is_multi_worker = config.train.strategy == "multi-worker"
        return strategy.distribute_datasets_from_function(load) if is_multi_worker else load()

    options, every = config.data, config.train.validate_every
    steps, sequences = data.steps_per_epoch(folder, options.batch_size), folder.num_training_sequences
    training = batches_of(
        "train",
        batch_size=options.batch_size,
        sort_by_length=options.sort_by_length,
        window=options.window,
        seed=config.train.seed,
        epochs=epochs,
    )
    validation = None
    if keeper.has_validation:
        validation = batches_of(
            "valid",
            batch_size=options.eval_batch_size,
            exclude_history=options.exclude_history,
            max_sequences=options.valid_sequences,
        )
    with warnings.catch_warnings():
        # Keras warns when a dataset of unknown length ends, which is how every validation ends.
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        model.fit(
            training,
            steps_per_epoch=steps,
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            validation_data=validation,
            # The last epoch too, whatever the interval.
            validation_freq=[*range(every, epochs.stop, every), epochs.stop],
            shuffle=False,
            verbose=0,
            callbacks=[
                keeper,
                Progress(steps=steps, sequences=sequences, keeper=keeper, log=log),
                keras.callbacks.TensorBoard(keeper.path / run_lib.TENSORBOARD_FOLDER, write_graph=False),
            ],
        )


def steps_at_once(steps: int) -> int:
    """Steps to run between two looks of Keras at the run, which cost as much as a small step does.

    They divide those of an epoch, as Keras would else go on into the next one.
    """
    return max(number for number in range(1, min(steps, _MOST_STEPS_AT_ONCE) + 1) if steps % number == 0)


def make_strategy(name: str):
    """The tf.distribute strategy of a `train.strategy`; "auto" mirrors where there are several GPUs."""
    import tensorflow as tf

    if name == "multi-worker":
        if "TF_CONFIG" not in os.environ:
            raise ValueError("--strategy multi-worker needs the environment variable TF_CONFIG on every machine.")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored" or (name == "auto" and len(tf.config.list_logical_devices("GPU")) > 1):
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _is_chief(resolver) -> bool:
    return resolver.task_type in (None, "chief") or (
        resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    )
