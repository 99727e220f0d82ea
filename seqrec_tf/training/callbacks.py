"""Keras callbacks of a run: what is kept on disk, and what is shown."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import sys
import time

import keras
import tensorflow as tf

from seqrec_tf import run_folder as run_lib
from seqrec_tf.training.resume import checkpoint_numbers
from seqrec_tf.writing import naming, write_whole

# A damaged newest one leaves the one before.
_CHECKPOINTS_KEPT = 2


class _State(tf.train.experimental.PythonState):
    """A JSON value that travels in a checkpoint."""

    def __init__(self):
        self.value = {}

    def serialize(self):
        return json.dumps(self.value)

    def deserialize(self, string_value):
        self.value = json.loads(string_value)


class RunKeeper(keras.callbacks.Callback):
    """Keeps the best model and, after each epoch, all that another process needs to go on exactly from there.

    A checkpoint holds every variable (weights, optimizer slots, random generators) together with the epochs' figures,
    in one atomic step; batches follow from the epoch's number. So what comes after a stop equals what would have come,
    on CPUs with as many cores. The newest two are kept, and the models that were best with each.

    Args:
        path: The run folder.
        model: A compiled model whose optimizer is built.
        patience: Validations without a better figure of `model.monitor` after which training stops; 0 never stops.
        has_validation: Whether there are validation figures; without, the newest model is the best.
    """

    def __init__(self, path: pathlib.Path, model, *, patience: int, has_validation: bool):
        super().__init__()
        self.path = path
        self.patience = patience
        self.has_validation = has_validation
        self.monitor = f"val_{model.monitor}"
        self._model = model
        self._state = _State()
        self._state.value = {"epochs": []}
        variables = [variable.value for variable in (*model.variables, *model.optimizer.variables)]
        self._checkpoint = tf.train.Checkpoint(variables=variables, state=self._state)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(path / run_lib.CHECKPOINTS_FOLDER), max_to_keep=_CHECKPOINTS_KEPT
        )

    @property
    def epochs(self) -> list[dict]:
        """Figures of each finished epoch, oldest first."""
        return self._state.value["epochs"]

    @property
    def best(self) -> dict | None:
        """Figures of the best epoch; of the newest one where there is no validation."""
        validated = [epoch for epoch in self.epochs if self.monitor in epoch]
        if self.has_validation:
            return max(validated, key=lambda epoch: epoch[self.monitor], default=None)
        return self.epochs[-1] if self.epochs else None

    @property
    def has_lost_patience(self) -> bool:
        """Whether the last `patience` validations brought nothing better."""
        best = self.best
        since_best = [
            epoch for epoch in self.epochs if best and self.monitor in epoch and epoch["epoch"] > best["epoch"]
        ]
        return 0 < self.patience <= len(since_best)

    def restore(self, folder: pathlib.Path, *, log) -> int:
        """Restore the newest checkpoint of a folder that can be read, if there is any; returns the epochs already done.

        Args:
            folder: Of the checkpoints.
            log: Takes a line about each that cannot be read.

        Raises:
            ValueError: There are checkpoints, and none can be read.
        """
        numbers = checkpoint_numbers(folder)
        # A constant rate is a variable of the optimizer; that of the configuration may have changed.
        rate = self._model.optimizer.learning_rate
        before = rate.numpy() if isinstance(rate, keras.Variable) else None
        for number in numbers:
            prefix = folder / f"ckpt-{number}"
            try:
                self._checkpoint.restore(str(prefix)).assert_existing_objects_matched()
                break
            except Exception as error:  # each library has its own for a damaged file
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                log(f"The checkpoint {prefix} is damaged and is not used: {reason}")
        else:
            if numbers:
                raise ValueError(
                    f"None of the checkpoints in {folder} can be read, so this run cannot go on. Copy the folder "
                    f"again, or remove {folder.parent} and train anew."
                )
        if before is not None:
            rate.assign(before)
        self._take_best_model_of_restored()
        return len(self.epochs)

    def _take_best_model_of_restored(self):
        """Make the best model that of the epochs that were restored, wherever the run was killed."""
        for replaced in self.path.glob(self._replaced("*").name):
            if int(replaced.name.split("-")[1]) > len(self.epochs):  # replaced after what was restored
                self._publish(replaced)
        for partial in self.path.glob(self._partial("*").name):  # of a run that was killed between the two
            if self.best and partial == self._partial(self.best["epoch"]):
                self._publish(partial)
            else:
                partial.unlink()

    def on_epoch_begin(self, epoch, logs=None):
        """Note the time."""
        self._started = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Note the time, as what comes after the last step is validation."""
        self.training_seconds = time.monotonic() - self._started

    def on_epoch_end(self, epoch, logs=None):
        """Note the figures, keep the best model, write the checkpoint, stop when patience is lost."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(figures["loss"]):
            raise RuntimeError(
                f"The loss became {figures['loss']} in epoch {epoch + 1}. Set a smaller train.learning_rate or a "
                "train.clip_norm such as 1.0; the same command goes on after the epoch before."
            )
        seconds = {"seconds": time.monotonic() - self._started, "training_seconds": self.training_seconds}
        self.epochs.append({"epoch": epoch + 1, **figures, **{name: round(time, 3) for name, time in seconds.items()}})
        is_best = self.best is self.epochs[-1]
        with naming(self.path):
            partial = self._write_model(epoch + 1) if is_best else None
            self._manager.save(checkpoint_number=epoch + 1)
        self._remove_replaced()  # its checkpoint is not kept any more
        if partial:  # only now, as a run goes on from the checkpoint, for which the model before may be the best
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path / run_lib.BEST_MODEL_FILE, self._replaced(epoch + 1))
            self._publish(partial)
        self._write_log()
        if self.has_lost_patience:
            self.model.stop_training = True

    def save_best(self):
        """Write the model as the best one."""
        self._publish(self._write_model(len(self.epochs)))

    def _partial(self, epoch) -> pathlib.Path:
        return self.path / f"partial-{epoch}-{run_lib.BEST_MODEL_FILE}"

    def _replaced(self, epoch) -> pathlib.Path:
        """Where the model is that was the best before an epoch, as long as the checkpoint before that is kept."""
        return self.path / f"replaced-{epoch}-{run_lib.BEST_MODEL_FILE}"

    def _remove_replaced(self):
        for replaced in self.path.glob(self._replaced("*").name):
            replaced.unlink()

    def _publish(self, partial: pathlib.Path):
        os.replace(partial, self.path / run_lib.BEST_MODEL_FILE)

    def _write_model(self, epoch: int) -> pathlib.Path:
        partial = self._partial(epoch)
        optimizer, self._model.optimizer = self._model.optimizer, None  # its state is in the checkpoint
        try:
            self._model.save(partial)
        finally:
            self._model.optimizer = optimizer
        return partial

    def best_line(self) -> str:
        """The best epoch in a few words; empty where there is no validation."""
        if not self.best or self.monitor not in self.best:
            return ""
        return f" (epoch {self.best['epoch']}, validation {_shown(self.monitor)} {self.best[self.monitor]:.4f})"

    def finish(self) -> None:
        """Write the run's figures, and mark it finished."""
        figures = {"best": self.best, "epochs": len(self.epochs), "parameters": self._model.count_params()}
        for name in ("seconds", "training_seconds"):
            figures[name] = round(sum(epoch.get(name, 0.0) for epoch in self.epochs), 1)
        if self.epochs:
            self._write_log()  # a run that was stopped right after its last checkpoint has not
        write_whole(self.path / run_lib.METRICS_FILE, json.dumps(figures, indent=2) + "\n")
        self._remove_replaced()
        run_lib.complete(self.path)

    def _write_log(self):
        columns = list(dict.fromkeys(key for epoch in self.epochs for key in epoch))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.epochs)
        write_whole(self.path / run_lib.LOG_FILE, text.getvalue())


class Progress(keras.callbacks.Callback):
    """One line an epoch with the figures, sequences a second and the time left; on a terminal it moves with the steps.

    Args:
        steps: Steps an epoch.
        sequences: Sequences an epoch.
        keeper: Knows the figures so far; it comes before this among the callbacks.
        log: Shows a finished line.
    """

    def __init__(self, *, steps: int, sequences: int, keeper: RunKeeper, log):
        super().__init__()
        self._steps, self._sequences, self._keeper, self._log = steps, sequences, keeper, log
        self._is_live = sys.stderr.isatty()

    def on_train_begin(self, logs=None):
        """Note the time."""
        self._first_epoch = len(self._keeper.epochs)
        self._started = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Note the epoch."""
        self._epoch = epoch
        self._epoch_started = self._shown = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Show the step, ten times a second on a terminal and every half minute elsewhere."""
        now = time.monotonic()
        if now - self._shown < (0.1 if self._is_live else 30.0):
            return
        self._shown = now
        rate = (batch + 1) * self._sequences / self._steps / (now - self._epoch_started)
        line = f"epoch {self._epoch + 1}  step {batch + 1:,}/{self._steps:,}  loss {float(logs['loss']):.4f}"
        line += f"  {rate:,.0f} sequences/s"
        if self._is_live:
            sys.stderr.write(f"\r{line}  left {_duration(self._time_left(batch + 1))}\x1b[K")
            sys.stderr.flush()
        else:
            self._log(line)

    def on_epoch_end(self, epoch, logs=None):
        """Show the figures of the epoch."""
        if self._is_live:
            sys.stderr.write("\r\x1b[K")
        words = [f"epoch {epoch + 1}/{self.params['epochs']}", f"loss {float(logs['loss']):.4f}"]
        monitor = self._keeper.monitor
        if monitor in logs:
            words.append(f"{_shown(monitor)} {float(logs[monitor]):.4f}")
            if self._keeper.best:
                words.append(f"(best {self._keeper.best[monitor]:.4f}, epoch {self._keeper.best['epoch']})")
        words.append(f"{self._sequences / self._keeper.training_seconds:,.0f} sequences/s")
        words.append(f"at most {_duration(self._time_left(0))} left")
        self._log("  ".join(words))

    def _time_left(self, steps_of_epoch: int) -> float:
        done = len(self._keeper.epochs) - self._first_epoch + steps_of_epoch / self._steps
        left = self.params["epochs"] - self._first_epoch - done
        return (time.monotonic() - self._started) / max(done, 1e-9) * left


def _shown(monitor: str) -> str:
    """The name of a validation metric as people write it."""
    return monitor.removeprefix("val_").upper()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
