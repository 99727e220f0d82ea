"""A run that was stopped goes on exactly where it was, and with nothing else than it began with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_folders import seal
from small_runs import SMALL, fit, log_of, make_config

from seqrec_tf import run_folder
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.train import train
from seqrec_tf.writing import LOCK_FILE, only_writer


@pytest.fixture(scope="module")
def stopped(chain_dataset, tmp_path_factory):
    """The folder of a run that was stopped after its first epoch. No test may change it."""
    run, _ = fit(chain_dataset, tmp_path_factory.mktemp("runs") / "stopped", "train.epochs=1")
    (run.path / "COMPLETED").unlink()
    return run.path


@pytest.fixture
def copy_of_stopped(stopped, tmp_path):
    """A copy of that folder, for a test to go on with."""
    return shutil.copytree(stopped, tmp_path / "copy")


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(finished, chain_dataset, tmp_path):
    """Stopped by an exception in the third epoch; weights, slots, random state and order of batches must come back."""
    run, _ = finished

    class StopError(Exception):
        pass

    def stop_in_third_epoch(line):
        if line.startswith("epoch 3/"):
            raise StopError

    with pytest.raises(StopError):
        train(make_config("train.epochs=6"), DatasetFolder(chain_dataset), tmp_path / "run", log=stop_in_third_epoch)
    with pytest.raises(FileNotFoundError, match="has not finished"):
        RunFolder(tmp_path / "run")
    again, lines = fit(chain_dataset, tmp_path / "run", "train.epochs=6")
    assert lines[1].startswith("Going on after epoch 3")
    assert log_of(again.path) == log_of(run.path)
    for ours, theirs in zip(again.load_model().weights, run.load_model().weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_run_that_was_killed_beside_its_checkpoint_has_the_model_of_its_best_epoch(
    stopped, chain_dataset, tmp_path, monkeypatch, is_saved
):
    """Killed in the second epoch, right before its checkpoint or after it: with the first's model, or its own."""
    save = tf.train.CheckpointManager.save

    class KilledError(Exception):
        pass

    def stop(manager, checkpoint_number):
        if checkpoint_number == 1 or is_saved:
            save(manager, checkpoint_number=checkpoint_number)
        if checkpoint_number == 2:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(tf.train.CheckpointManager, "save", stop)
        with pytest.raises(KilledError):
            fit(chain_dataset, tmp_path / "run", "train.epochs=2")
    assert len(list((tmp_path / "run").glob("partial-*"))) == 1
    # A run of no more epochs than it has: what is the best model is decided by the checkpoint alone.
    run, _ = fit(chain_dataset, tmp_path / "run", f"train.epochs={1 + is_saved}")
    assert not list(run.path.glob("partial-*"))
    expected = fit(chain_dataset, tmp_path / "expected", "train.epochs=2")[0].path if is_saved else stopped
    expected = keras.saving.load_model(expected / "best.keras", compile=False)
    assert len(log_of(run.path)) == 1 + is_saved
    for ours, theirs in zip(run.load_model().weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(finished, chain_dataset, tmp_path):
    run, _ = finished
    command = [sys.executable, "-m", "seqrec_tf.cli", "train", "--dataset", chain_dataset, "--model", "sasrec"]
    command += ["--output", str(tmp_path / "run"), "--set", *SMALL, "train.epochs=6"]
    process = subprocess.Popen(command)
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "COMPLETED").exists()
    subprocess.run(command, check=True)
    assert log_of(tmp_path / "run") == log_of(run.path)


def test_a_run_that_ends_before_its_first_validation_has_a_model(chain_dataset, tmp_path):
    class StopError(Exception):
        pass

    def stop(line):
        if line.startswith("epoch 1/"):
            raise StopError

    settings = ("train.validate_every=3", "train.epochs=4")
    with pytest.raises(StopError):
        train(make_config(*settings), DatasetFolder(chain_dataset), tmp_path / "run", log=stop)
    run, _ = fit(chain_dataset, tmp_path / "run", settings[0], "train.epochs=1")
    assert run.load_model().num_items == 20


def test_a_finished_run_is_not_overwritten(finished, chain_dataset):
    run, _ = finished
    with pytest.raises(FileExistsError, match="holds a finished run"):
        fit(chain_dataset, run.path, "train.epochs=6")


def test_another_model_does_not_go_on_with_a_run(stopped, chain_dataset, tiny_dataset):
    with pytest.raises(FileExistsError, match=r"differs in model\.norm \('post', now 'pre'\)"):
        fit(chain_dataset, stopped, "train.epochs=1", "model.norm=pre")
    with pytest.raises(FileExistsError, match="differs in its dataset"):
        fit(tiny_dataset, stopped, "train.epochs=1")


def test_a_run_may_go_on_for_longer_and_says_what_changed(copy_of_stopped, chain_dataset):
    again, lines = fit(chain_dataset, copy_of_stopped, "train.epochs=2", "train.learning_rate=0.001")
    assert "Changed since: train.epochs (1, now 2), train.learning_rate (0.01, now 0.001)." in lines
    assert len(log_of(again.path)) == 2
    assert again.config.train.epochs == 2


def test_a_run_goes_on_at_the_rate_that_it_is_given(copy_of_stopped, chain_dataset):
    best = keras.saving.load_model(copy_of_stopped / "best.keras", compile=False)
    table = next(weight for weight in best.get_weights() if weight.shape == (21, 16))
    again, _ = fit(chain_dataset, copy_of_stopped, "train.epochs=2", "train.learning_rate=0.0", "train.patience=0")
    assert len(log_of(again.path)) == 2
    newest = tf.train.load_checkpoint(str(again.path / "checkpoints"))
    assert any(np.array_equal(table, newest.get_tensor(name)) for name in newest.get_variable_to_shape_map())


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("optimizer", "adam", "adagrad"),
        ("schedule", "constant", "cosine"),
        ("warmup_steps", 0, 5),
        ("precision", "float32", "mixed_float16"),
    ],
)
def test_a_run_does_not_go_on_with_another_kind_of_optimizer(stopped, chain_dataset, name, first, then):
    assert getattr(run_folder.read_config(stopped).train, name) == first
    with pytest.raises(FileExistsError, match=rf"differs in train.{name} "):
        fit(chain_dataset, stopped, "train.epochs=2", f"train.{name}={then}")


def test_a_run_minds_other_encoders_of_its_vectors_and_no_new_ones():
    info = {"encoders": {"title_vector": "a"}}
    for encoders, number in (({"title_vector": "a", "photo_vector": "b"}, 0), ({"title_vector": "c"}, 1)):
        assert len(run_folder.other_encoders(info, SimpleNamespace(encoders=encoders))) == number
    assert run_folder.other_encoders({}, SimpleNamespace(encoders={"title_vector": "a"})) == []


def test_a_dataset_that_changed_is_refused(finished, tiny_dataset, chain_dataset, tmp_path):
    run, _ = finished
    with pytest.raises(ValueError, match="it differs in num_items: 20 against 5"):
        run.open_dataset(tiny_dataset)
    other = tmp_path / "other"  # of the same sizes, with other items behind the ids
    shutil.copytree(chain_dataset, other)
    stats = json.loads((other / "stats.json").read_text())
    (other / "stats.json").write_text(json.dumps({**stats, "fingerprint": "another"}))
    seal(other)
    with pytest.raises(ValueError, match=r"it differs in the records or the vocabulary \(the fingerprints differ\)"):
        run.open_dataset(str(other))


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def three_epochs(chain_dataset, tmp_path_factory):
    """The folder of a run that was stopped after its third epoch, and its best model after the second."""
    path = tmp_path_factory.mktemp("runs") / "three"

    def stop(line):
        if line.startswith("epoch 2/"):
            shutil.copy(path / "best.keras", path.parent / "best-of-two.keras")
        if line.startswith("epoch 3/"):
            raise StopError

    with pytest.raises(StopError):
        train(make_config("train.epochs=6"), DatasetFolder(chain_dataset), path, log=stop)
    return path, path.parent / "best-of-two.keras"


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("ckpt-3.data-00000-of-00001", lambda file: os.truncate(file, file.stat().st_size // 2)),
        ("ckpt-3.data-00000-of-00001", flipped),
        ("ckpt-3.data-00000-of-00001", os.unlink),
        ("ckpt-3.index", flipped),
        ("ckpt-3.index", os.unlink),
    ],
)
def test_a_damaged_checkpoint_is_said_aloud_and_the_one_before_is_used(
    three_epochs, chain_dataset, tmp_path, name, damage
):
    run, best_of_two = three_epochs
    copy = shutil.copytree(run, tmp_path / "copy")
    assert {file.name for file in (copy / "checkpoints").glob("*.index")} == {"ckpt-2.index", "ckpt-3.index"}
    damage(copy / "checkpoints" / name)
    again, lines = fit(chain_dataset, copy, "train.epochs=2")
    assert lines[1].startswith(f"The checkpoint {copy}/checkpoints/ckpt-3 is damaged and is not used: ")
    assert lines[2] == "Going on after epoch 2 of at most 2."
    assert log_of(again.path) == log_of(run)[:2]
    expected = keras.saving.load_model(best_of_two, compile=False)
    for ours, theirs in zip(again.load_model().weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_without_tensorflows_list_of_checkpoints_the_newest_is_found(three_epochs, chain_dataset, tmp_path):
    copy = shutil.copytree(three_epochs[0], tmp_path / "copy")
    (copy / "checkpoints" / "checkpoint").unlink()
    assert "Going on after epoch 3 of at most 3." in fit(chain_dataset, copy, "train.epochs=3")[1]


def test_a_run_never_begins_again_where_it_was(three_epochs, chain_dataset, tmp_path):
    copy = shutil.copytree(three_epochs[0], tmp_path / "copy")
    for file in (copy / "checkpoints").glob("*.data*"):
        flipped(file)
    with pytest.raises(ValueError, match=f"None of the checkpoints in {copy}/checkpoints can be read"):
        fit(chain_dataset, copy, "train.epochs=6")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(FileExistsError, match="holds an unfinished run whose checkpoints are gone"):
        fit(chain_dataset, copy, "train.epochs=6")
    assert log_of(copy) == log_of(three_epochs[0])


def test_only_one_process_trains_in_a_folder(chain_dataset, tmp_path):
    with only_writer(tmp_path / "run" / LOCK_FILE, "it"):
        with pytest.raises(FileExistsError, match=f"{tmp_path}/run is being written by another process"):
            fit(chain_dataset, tmp_path / "run", "train.epochs=1")
        assert os.listdir(tmp_path / "run") == [LOCK_FILE]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["best.keras", "config.toml", "dataset.json"])
def test_a_damaged_file_of_a_run_is_named(finished, tmp_path, name):
    copy = shutil.copytree(finished[0].path, tmp_path / "copy")
    flipped(copy / name)
    with pytest.raises(ValueError, match=rf"{copy}/{name} is not what was written: .* `seqrec train`"):
        RunFolder(copy).load_model()
    os.truncate(copy / name, 100)
    with pytest.raises(ValueError, match=f"{copy}/{name} has 100 bytes where .* were written: it was cut short"):
        RunFolder(copy)
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{copy}/{name} is missing"):
        RunFolder(copy)
