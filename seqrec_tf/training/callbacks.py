"""What a run keeps on disk, as a Keras callback."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import time

import keras
import tensorflow as tf

from seqrec_tf import run_folder as run_lib
from seqrec_tf.training.divergence import LossNotFiniteError
from seqrec_tf.training.resume import checkpoints_in
from seqrec_tf.training.stopping import StopRequest, TrainingStoppedError
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

    Where SIGTERM asks to stop, it keeps the same within the epoch.

    A checkpoint holds every variable (weights, optimizer slots, random generators) together with the epochs' figures,
    in one atomic step; batches follow from the epoch's number. So what comes after a stop equals what would have come,
    on CPUs with as many cores. The newest two are kept, and the models that were best with each.

    Args:
        path: The run folder.
        model: A compiled model whose optimizer is built.
        patience: Validations without a better figure of `model.monitor` after which training stops; 0 never stops.
        has_validation: Whether there are validation figures; without, the newest model is the best.
        stop: Asked after each step whether to stop; nobody asks for it where None.

    Attributes:
        steps_done: Steps that are done of the epoch that is not.
        loss: The mean loss over these.
    """

    def __init__(
        self, path: pathlib.Path, model, *, patience: int, has_validation: bool, stop: StopRequest | None = None
    ):
        super().__init__()
        self.path = path
        self.patience = patience
        self.has_validation = has_validation
        self.steps_done, self.loss = 0, 0.0
        self._stop = stop or StopRequest()
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
        names = checkpoints_in(folder)
        # A constant rate is a variable of the optimizer; that of the configuration may have changed.
        rate = self._model.optimizer.learning_rate
        before = rate.numpy() if isinstance(rate, keras.Variable) else None
        for name in names:
            prefix = folder / name
            try:
                self._checkpoint.restore(str(prefix)).assert_existing_objects_matched()
                break
            except Exception as error:  # each library has its own for a damaged file
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                log(f"The checkpoint {prefix} is damaged and is not used: {reason}")
        else:
            if names:
                raise ValueError(
                    f"None of the checkpoints in {folder} can be read, so this run cannot go on. Copy the folder "
                    f"again, or remove {folder.parent} and train anew."
                )
        if before is not None:
            rate.assign(before)
        self._take_best_model_of_restored()
        self.steps_done = self._state.value.get("within", {}).get("steps", 0)
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
        """Note the time; go on with the epoch that a stop has cut."""
        within = self._state.value.pop("within", {})
        self._started = time.monotonic() - within.get("seconds", 0.0)
        self.training_seconds = within.get("training_seconds", 0.0)
        self.loss = within.get("mean_loss", 0.0)
        self._first_step = self.steps_done = within.get("steps", 0)
        if within:
            self._model.set_loss_tracker(within["loss"])

    def on_train_batch_end(self, batch, logs=None):
        """Note the time, as what comes after the last step is validation; stop where that is asked or all is lost."""
        self.training_seconds = time.monotonic() - self._started
        self.steps_done = self._first_step + batch + 1
        self.loss = float(logs["loss"]) if logs else 0.0
        if not math.isfinite(self.loss):
            raise LossNotFiniteError("NaN" if math.isnan(self.loss) else "infinite")
        self._end_if_asked()

    def on_test_batch_end(self, batch, logs=None):
        """Stop where that is asked."""
        self._end_if_asked()

    def _end_if_asked(self):
        """Keep all that is needed to go on after this step, and stop."""
        if not self._stop.is_asked:
            return
        self._state.value["within"] = {
            "steps": self.steps_done,
            "mean_loss": self.loss,
            "loss": self._model.loss_tracker_state(),
            "seconds": time.monotonic() - self._started,
            "training_seconds": self.training_seconds,
        }
        name = f"within-{len(self.epochs)}-{self.steps_done}"
        self._checkpoint.write(str(self.path / run_lib.CHECKPOINTS_FOLDER / name))
        raise TrainingStoppedError(
            f"Stopped by SIGTERM after step {self.steps_done:,} of epoch {len(self.epochs) + 1}, which is saved in "
            f"{self.path}. Give the same command again to go on from there."
        )

    def on_epoch_end(self, epoch, logs=None):
        """Note the figures, keep the best model, write the checkpoint, stop when patience is lost."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        seconds = {"seconds": time.monotonic() - self._started, "training_seconds": self.training_seconds}
        self.epochs.append({"epoch": epoch + 1, **figures, **{name: round(time, 3) for name, time in seconds.items()}})
        is_best = self.best is self.epochs[-1]
        with naming(self.path):
            partial = self._write_model(epoch + 1) if is_best else None
            self._manager.save(checkpoint_number=epoch + 1)
        self.steps_done = 0
        for file in (self.path / run_lib.CHECKPOINTS_FOLDER).glob("within-*"):
            file.unlink()
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
        return f" (epoch {self.best['epoch']}, validation {shown(self.monitor)} {self.best[self.monitor]:.4f})"

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


def shown(monitor: str) -> str:
    """The name of a validation metric as people write it."""
    return monitor.removeprefix("val_").upper()
