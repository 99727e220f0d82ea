"""SIGTERM: the step is finished and saved, and the same command ends as if nothing had been."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_runs import SMALL, fit, log_of, make_config

from seqrec_tf.records import DatasetFolder
from seqrec_tf.train import train
from seqrec_tf.training import stopping
from seqrec_tf.training.resume import checkpoints_in


def stop_after(dataset, output, line, *settings):
    """Train, with SIGTERM when a line is shown that begins so; the error that it ends with."""

    def stop(shown):
        if shown.startswith(line):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(stopping.TrainingStoppedError) as error:
        train(make_config(*settings), DatasetFolder(dataset), output, log=stop)
    return error.value


@pytest.mark.parametrize(
    ("at_once", "step"), [(1, 1), pytest.param(16, 7, marks=pytest.mark.slow)], ids=["within", "before validation"]
)
def test_a_stopped_run_ends_as_if_it_had_not_been(finished, chain_dataset, tmp_path, monkeypatch, at_once, step):
    """Stopped after the first step of the third epoch, or after the last of its 7, which has no validation yet."""
    run, _ = finished
    monkeypatch.setattr("seqrec_tf.train._MOST_STEPS_AT_ONCE", at_once)
    handler = signal.getsignal(signal.SIGTERM)
    error = stop_after(chain_dataset, tmp_path / "run", "epoch 2/", "train.epochs=6")
    assert signal.getsignal(signal.SIGTERM) == handler
    assert error.exit_status == 128 + signal.SIGTERM
    assert f"Stopped by SIGTERM after step {step} of epoch 3, which is saved in {tmp_path / 'run'}. Give the" in str(
        error
    )
    again, lines = fit(chain_dataset, tmp_path / "run", "train.epochs=6")
    assert lines[1] == f"Going on after step {step} of epoch 3 of at most 6."
    assert log_of(again.path) == log_of(run.path)
    for ours, theirs in zip(again.load_model().weights, run.load_model().weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert not list((again.path / "checkpoints").glob("within-*"))


@pytest.mark.slow
def test_an_epoch_without_validation_stays_without_after_a_stop(chain_dataset, tmp_path):
    settings = ("train.epochs=3", "train.validate_every=3")
    stop_after(chain_dataset, tmp_path / "run", "epoch 1/", *settings)
    again, _ = fit(chain_dataset, tmp_path / "run", *settings)
    assert log_of(again.path) == log_of(fit(chain_dataset, tmp_path / "whole", *settings)[0].path)


@pytest.mark.slow
def test_the_command_ends_with_143_and_goes_on(finished, chain_dataset, tmp_path):
    run, _ = finished
    command = [sys.executable, "-m", "seqrec_tf.cli", "train", "--dataset", chain_dataset, "--model", "sasrec"]
    command += ["--output", str(tmp_path / "run"), "--set", *SMALL, "train.epochs=6"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.splitlines()[-1].startswith("seqrec train: Stopped by SIGTERM after step 7 of epoch ")
    subprocess.run(command, check=True)
    assert log_of(tmp_path / "run") == log_of(run.path)


def test_a_second_signal_is_not_held_back():
    with stopping.StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_asked
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_newest_stop_counts_unless_an_epoch_was_done_since(tmp_path):
    for name in ("within-2-340", "within-2-90", "within-1-900", "ckpt-1"):
        (tmp_path / f"{name}.index").touch()
    (tmp_path / "ckpt-9.data-00000-of-00001").touch()  # killed before its index was written
    assert checkpoints_in(tmp_path) == ["within-2-340", "within-2-90", "within-1-900", "ckpt-1"]
    (tmp_path / "ckpt-2.index").touch()
    assert checkpoints_in(tmp_path) == ["within-2-340", "within-2-90", "ckpt-2", "within-1-900", "ckpt-1"]
    (tmp_path / "checkpoint").write_text('all_model_checkpoint_paths: "ckpt-10"\n')  # whose index was removed since
    assert checkpoints_in(tmp_path)[:2] == ["ckpt-10", "within-2-340"]
    assert checkpoints_in(tmp_path / "nowhere") == []
