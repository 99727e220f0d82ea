"""What `seqrec train` shows while it works: a bar that moves within the epoch on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time

import keras
import rich.console
import rich.progress

from seqrec_tf.training.callbacks import RunKeeper, shown

# Seconds between two lines of an epoch where there is no terminal; where there is one, of two changes of the bar.
_LINE_SECONDS, _BAR_SECONDS = 30.0, 0.5
# A loss that nothing can mean which learns: an untrained model's is about 10. And how much it may grow.
_MOST_LOSS, _MOST_GROWTH = 1_000.0, 10.0
# A validation that is shorter is not worth a word.
_LEAST_SECONDS = 1.0


def is_exploded(loss: float, first: float = math.inf) -> bool:
    """Whether a loss, finite as it is, is far from that of a model which learns.

    Args:
        loss: The mean over an epoch.
        first: That of the run's first epoch.
    """
    return loss > _MOST_LOSS or 0.0 < _MOST_GROWTH * first < loss


class Progress(keras.callbacks.Callback):
    """One line an epoch with the figures, sequences a second and the time left; on a terminal a bar moves meanwhile.

    What TensorFlow takes to compile, in the first step and in the first of validation, is shown, and counts in neither
    rate nor time left. Two warnings come from here, once each: of a loss that explodes, and of a validation that takes
    as long as the training.

    Args:
        steps: Steps an epoch.
        sequences: Training sequences of an epoch.
        valid_sequences: Sequences that a validation looks at.
        epochs: The epochs to come.
        keeper: Knows the figures so far; it comes before this among the callbacks.
        log: Shows a finished line.
    """

    def __init__(self, *, steps: int, sequences: int, valid_sequences: int, epochs: range, keeper: RunKeeper, log):
        super().__init__()
        self._steps, self._sequences, self._valid_sequences = steps, sequences, valid_sequences
        self._epochs, self._keeper, self._write = epochs, keeper, log
        self._console = rich.console.Console(stderr=True)
        self._is_live = sys.stderr.isatty() and not self._console.is_dumb_terminal
        self._bar: rich.progress.Progress | None = None
        self._said: set[str] = set()
        # Of the whole run: where the time left is measured from, as seconds and epochs done, and what it leaves out.
        self._since = (time.monotonic(), self._epochs_done())
        self._compiling = 0.0
        self._compiled: set[str] = set()
        self._shown = 0.0

    # ==== What Keras calls ====

    def on_epoch_begin(self, epoch, logs=None):
        """Begin a bar."""
        self._epoch = epoch
        self._validation_seconds = self._rate = 0.0
        self._measure_from(time.monotonic())
        self._begin_bar()

    def on_train_batch_begin(self, batch, logs=None):
        """Say that the first step compiles."""
        if "steps" not in self._compiled:
            self._began = time.monotonic()
            self._show("compiling ...")
            if not self._is_live:
                self._write("Compiling ...")

    def on_train_batch_end(self, batch, logs=None):
        """Show the step, twice a second on a terminal and every half minute elsewhere."""
        now = time.monotonic()
        if "steps" not in self._compiled:
            self._has_compiled("steps", now)
            self._measure_from(now)
        else:
            steps = self._keeper.steps_done - self._clock[1]
            self._rate = steps * self._sequences / self._steps / max(now - self._clock[0], 1e-9)
        if is_exploded(loss := float(logs["loss"])):
            self._warn_of_loss(loss)
        if now - self._shown >= (_BAR_SECONDS if self._is_live else _LINE_SECONDS):
            self._shown = now
            figures = f"loss {_number(loss)}" + (f"  {self._rate:,.0f} sequences/s" if self._rate else "")
            if self._is_live:
                self._show(figures + self._time_left())
            else:
                self._write(f"epoch {self._epoch + 1}  step {self._keeper.steps_done:,}/{self._steps:,}  {figures}")

    def on_test_begin(self, logs=None):
        """Note the time."""
        self._began = self._test_began = time.monotonic()
        self._show("validating ...")

    def on_test_batch_end(self, batch, logs=None):
        """Note what the first step has taken, which compiles."""
        if "validation" not in self._compiled:
            self._has_compiled("validation", time.monotonic())
            self._test_began = time.monotonic()

    def on_test_end(self, logs=None):
        """Note the time."""
        self._validation_seconds = time.monotonic() - self._test_began

    def on_epoch_end(self, epoch, logs=None):
        """Show the figures of the epoch."""
        loss, monitor, best = float(logs["loss"]), self._keeper.monitor, self._keeper.best
        words = [f"epoch {epoch + 1}/{self._epochs.stop}", f"loss {_number(loss)}"]
        if monitor in logs:
            words.append(f"{shown(monitor)} {float(logs[monitor]):.4f}")
            if best:
                words.append(f"(best {best[monitor]:.4f}, epoch {best['epoch']})")
        if self._rate:
            words.append(f"{self._rate:,.0f} sequences/s")
        line = "  ".join(words) + self._time_left()
        if self._compiling:  # from now on, whole epochs tell how long one takes
            line += f"  (compiling took {self._compiling:.0f} s)"
            self._since, self._compiling = (time.monotonic(), self._epochs_done()), 0.0
        self._line(line)
        if is_exploded(loss, self._keeper.epochs[0]["loss"]):
            self._warn_of_loss(loss)
        self._warn_of_validation()

    # ==== The bar ====

    def _begin_bar(self):
        if not self._is_live:
            return
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("epoch {task.fields[epoch]}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.TimeElapsedColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=1 / _BAR_SECONDS,
            redirect_stdout=False,  # lines are written while there is no bar
            redirect_stderr=False,
        )
        name = f"{self._epoch + 1}/{self._epochs.stop}"
        self._task = self._bar.add_task("", total=self._steps, completed=self._keeper.steps_done, epoch=name)
        self._bar.start()

    def _show(self, words: str):
        if self._bar:
            self._bar.update(self._task, description=words, completed=self._keeper.steps_done)

    def close(self) -> None:
        """Take the bar away, so that lines can be written."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _line(self, text: str):
        self.close()
        self._write(text)

    # ==== Rate and time left ====

    def _measure_from(self, now: float):
        self._clock = (now, self._keeper.steps_done)
        self._shown = now

    def _has_compiled(self, what: str, now: float):
        self._compiled.add(what)
        self._compiling += now - self._began

    def _epochs_done(self) -> float:
        return len(self._keeper.epochs) + self._keeper.steps_done / self._steps

    def _time_left(self) -> str:
        """At most how long all epochs to come will take, in words that go on a line; empty where nothing tells."""
        seconds, epochs = self._since
        passed, done = time.monotonic() - seconds - self._compiling, self._epochs_done()
        if done <= epochs:
            return ""
        return f"  at most {_duration(passed / (done - epochs) * (self._epochs.stop - done))} left"

    # ==== Warnings ====

    def _warn_of_loss(self, loss: float):
        if "loss" in self._said:
            return
        self._said.add("loss")
        was_live = self._bar is not None
        self._line(
            f"Warning: the loss is {_number(loss)} in epoch {self._epoch + 1}: the training diverges, and this model "
            "learns nothing more. Set a smaller train.learning_rate or a train.clip_norm such as 1.0, and train anew."
        )
        if was_live:
            self._begin_bar()

    def _warn_of_validation(self):
        training = self._sequences / self._rate if self._rate else math.inf
        if self._validation_seconds < max(training, _LEAST_SECONDS) or "validation" in self._said:
            return
        self._said.add("validation")
        fewer = max(1, round(self._valid_sequences * training / self._validation_seconds / 5))
        self._line(
            f"Validation took {self._validation_seconds:.0f} s beside {training:.0f} s of training. "
            f"data.valid_sequences={fewer} makes it a fifth of that; train.validate_every=5 has it after every fifth "
            "epoch."
        )


def _number(loss: float) -> str:
    return f"{loss:.4f}" if abs(loss) < 1e5 else f"{loss:.3g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
