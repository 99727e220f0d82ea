"""The epochs of a run: a compiled model, batches for all replicas, and what is said where they go wrong."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import keras

from seqrec_tf import data
from seqrec_tf import run_folder as run_lib
from seqrec_tf.config import Config
from seqrec_tf.records import DatasetFolder
from seqrec_tf.training import divergence, workers
from seqrec_tf.training.callbacks import RunKeeper
from seqrec_tf.training.progress import Progress


class Fitting:
    """Epochs of a compiled model; the first may have been cut by a stop.

    Args:
        model: The model.
        config: The run's configuration.
        folder: The dataset.
        keeper: Keeps what is made, and knows how far the first epoch is.
        strategy: The tf.distribute strategy.
        epochs: The epochs to come.
        log: Shows a line of text.
    """

    def __init__(
        self, model, config: Config, folder: DatasetFolder, keeper: RunKeeper, strategy, *, epochs: range, log
    ):
        self._model, self._folder, self._keeper, self._strategy, self._epochs = model, folder, keeper, strategy, epochs
        self._steps = data.steps_per_epoch(folder, config.data.batch_size)
        self._of_training: dict[str, Any] = {
            "batch_size": config.data.batch_size,
            "sort_by_length": config.data.sort_by_length,
            "window": config.data.window,
            "seed": config.train.seed,
        }
        valid_sequences = config.data.valid_sequences
        self._validation = None
        if keeper.has_validation:
            self._validation = self._batches(
                "valid",
                batch_size=config.data.eval_batch_size,
                exclude_history=config.data.exclude_history,
                max_sequences=valid_sequences,
            )
            there = folder.stats["splits"]["valid"]["sequences"]
            valid_sequences = min(valid_sequences or there, there)
        every = config.train.validate_every
        # Epochs, from 1, that are validated: the last one too, whatever the interval.
        self._validated = [*range(every, epochs.stop, every), epochs.stop]
        self._progress = Progress(
            steps=self._steps,
            sequences=folder.num_training_sequences,
            valid_sequences=valid_sequences,
            epochs=epochs,
            keeper=keeper,
            log=log,
        )

    def run(self) -> None:
        """Train.

        Raises:
            RuntimeError: A loss was not finite, or another worker is gone.
            TrainingStoppedError: SIGTERM came; what is needed to go on is saved.
        """
        keeper, epochs = self._keeper, self._epochs
        with (
            warnings.catch_warnings(),
            contextlib.closing(self._progress),
            divergence.explained(self._model, keeper, self._sequences_of),
            workers.explained(self._strategy, keeper),
        ):
            # Keras warns when a dataset of unknown length ends, which is how every validation ends.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            whole = range(epochs.start + bool(keeper.steps_done), epochs.stop)
            if keeper.steps_done == self._steps:
                self._end_epoch(epochs.start)
            elif keeper.steps_done:
                self._fit(range(epochs.start, whole.start), first_step=keeper.steps_done)
            if whole and not keeper.has_lost_patience:
                self._fit(whole)

    def _fit(self, epochs: range, first_step: int = 0) -> None:
        self._model.fit(
            self._batches("train", skip=first_step, epochs=epochs, **self._of_training),
            steps_per_epoch=self._steps - first_step,
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            validation_data=self._validation,
            validation_freq=self._validated,
            shuffle=False,
            verbose=0,
            callbacks=self._callbacks(),
        )

    def _end_epoch(self, epoch: int) -> None:
        """End an epoch that was stopped after its last step, as `fit` would."""
        callbacks, figures = self._callbacks(), {}
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(epoch)
        if self._validation is not None and epoch + 1 in self._validated:
            figures = self._model.evaluate(self._validation, callbacks=callbacks, verbose=0, return_dict=True)
        logs = {"loss": self._keeper.loss} | {f"val_{name}": value for name, value in figures.items()}
        callbacks.on_epoch_end(epoch, logs)
        callbacks.on_train_end()

    def _callbacks(self) -> keras.callbacks.CallbackList:
        board = keras.callbacks.TensorBoard(self._keeper.path / run_lib.TENSORBOARD_FOLDER, write_graph=False)
        return keras.callbacks.CallbackList([self._keeper, self._progress, board], add_history=True, model=self._model)

    def _batches(self, split: str, *, skip: int = 0, **options):
        """Batches of a split; of several workers each gets its part."""

        def load(context=None):
            batches = data.load(self._folder, self._model, split, **options).skip(skip)
            return batches if context is None else data.replica_batches(batches, context)

        if self._strategy.cluster_resolver is None:
            return load()
        return self._strategy.distribute_datasets_from_function(load)

    def _sequences_of(self, epoch: int, step: int) -> list[str]:
        return data.sequences_of_batch(self._folder, self._model, epoch=epoch, step=step, **self._of_training)
