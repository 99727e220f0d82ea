"""What training shows: rates without compilation, warnings once each, a bar on a terminal."""

import io
import re
import time
import types

import pytest

from seqrec_tf import models
from seqrec_tf.training import progress as progress_lib
from seqrec_tf.training.callbacks import RunKeeper
from seqrec_tf.training.progress import Progress, is_exploded


@pytest.fixture
def show(chain_dataset, tmp_path, monkeypatch):
    """Shows epochs of 10 steps and 100 sequences, by a clock of its own; gives the lines."""
    model = models.PopRec.from_dataset(chain_dataset)
    model.compile()
    model.optimizer.build([])
    now = [0.0]
    monkeypatch.setattr(progress_lib, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def show(*, epochs=2, compiling=0.0, step=1.0, validation=0.0, losses=(0.5,)):
        keeper, lines = RunKeeper(tmp_path, model, patience=0, has_validation=True), []
        told = {"steps": 10, "sequences": 100, "valid_sequences": 1000, "epochs": range(epochs), "keeper": keeper}
        progress = Progress(**told, log=lambda line: lines.append((now[0], line)))
        for epoch in range(epochs):
            loss = losses[min(epoch, len(losses) - 1)]
            progress.on_epoch_begin(epoch)
            for batch in range(10):
                progress.on_train_batch_begin(batch)
                now[0] += step + (compiling if not epoch and not batch else 0.0)
                keeper.steps_done = batch + 1
                progress.on_train_batch_end(batch, {"loss": loss})
            progress.on_test_begin()
            for batch in range(2):
                now[0] += validation / 2
                progress.on_test_batch_end(batch)
            progress.on_test_end()
            keeper.steps_done = 0
            keeper.epochs.append({"epoch": epoch + 1, "loss": loss, keeper.monitor: 0.1})
            progress.on_epoch_end(epoch, {"loss": loss, keeper.monitor: 0.1})
        progress.close()
        return lines

    return show


def test_rate_and_time_left_do_not_count_compilation(show):
    """100 sequences in 10 s; of the first epoch's ten steps, nine are known; two more epochs take 10 s each."""
    (_, begun), *_, (_, first), (_, second), (_, third) = show(epochs=3, compiling=600.0)
    assert begun == "Compiling ..."
    assert first.endswith("10 sequences/s  at most 0:00:18 left  (compiling took 601 s)")
    assert second.endswith("10 sequences/s  at most 0:00:10 left")
    assert third.endswith("at most 0:00:00 left")


def test_long_epochs_have_a_line_each_half_minute(show):
    lines = [(second, line) for second, line in show(epochs=1, step=11.0) if line.startswith("epoch 1  step")]
    assert lines == [
        (44.0, "epoch 1  step 4/10  loss 0.5000  1 sequences/s"),
        (77.0, "epoch 1  step 7/10  loss 0.5000  1 sequences/s"),
        (110.0, "epoch 1  step 10/10  loss 0.5000  1 sequences/s"),
    ]


def test_a_validation_as_long_as_training_is_said_once_with_what_thins_it(show):
    """20 s, or by the second of its two steps alone 10 s; a fifth of the 10 s of training sees a fifth of 1,000."""
    lines = [line for _, line in show(epochs=3, validation=20.0) if line.startswith("Validation")]
    assert lines == [
        "Validation took 10 s beside 10 s of training. data.valid_sequences=200 makes it a fifth of that; "
        "train.validate_every=5 has it after every fifth epoch."
    ]
    assert not [line for _, line in show(epochs=3, validation=9.0) if line.startswith("Validation")]


@pytest.mark.parametrize(
    ("losses", "warns_in"), [((6e11,), 1), ((0.5, 0.6, 5.1), 3), ((0.5, 4.9), None), ((9.0,), None)]
)
def test_a_loss_that_explodes_is_said_once(show, losses, warns_in):
    lines = [line for _, line in show(epochs=4, losses=losses) if line.startswith("Warning")]
    assert len(lines) == (warns_in is not None)
    if lines:
        shown = "6e+11" if losses[0] > 1 else "5.1000"
        assert lines[0].startswith(f"Warning: the loss is {shown} in epoch {warns_in}: the training diverges")
        assert "Set a smaller train.learning_rate or a train.clip_norm such as 1.0" in lines[0]


def test_an_exploded_loss_is_ten_times_the_first_or_a_thousand():
    assert [is_exploded(loss, 1.0) for loss in (10.0, 10.1)] == [False, True]
    assert [is_exploded(loss) for loss in (1000.0, 1001.0)] == [False, True]
    assert not is_exploded(5.0, 0.0)


class _Terminal(io.StringIO):
    def isatty(self):
        return True

    def text(self):
        """What was written, without colours and moves of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def test_on_a_terminal_a_bar_moves_within_the_epoch(chain_dataset, tmp_path, monkeypatch):
    """Its thread draws while a step lasts, so that it moves while nothing else does."""
    terminal, lines = _Terminal(), []
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    model = models.PopRec.from_dataset(chain_dataset)
    model.compile()
    model.optimizer.build([])
    keeper = RunKeeper(tmp_path, model, patience=0, has_validation=False)
    told = {"steps": 10, "sequences": 100, "valid_sequences": 0, "epochs": range(1), "keeper": keeper}
    progress = Progress(**told, log=lines.append)
    progress.on_epoch_begin(0)
    progress.on_train_batch_begin(0)
    time.sleep(1.1)
    assert "0/10 compiling ..." in terminal.text()
    for batch in (0, 4):
        keeper.steps_done = batch + 1
        progress.on_train_batch_begin(batch)
        time.sleep(0.6)
        progress.on_train_batch_end(batch, {"loss": 0.5})
    time.sleep(0.6)
    assert "5/10 loss 0.5000" in terminal.text()
    keeper.epochs.append({"epoch": 1, "loss": 0.5})
    progress.on_epoch_end(0, {"loss": 0.5})
    assert lines[0].startswith("epoch 1/1  loss 0.5000")
