"""Training: it learns, keeps the best model, and goes on exactly where it was stopped."""

import argparse
import csv
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import cli, models, run_folder
from seqrec_tf import config as config_lib
from seqrec_tf.callbacks import RunKeeper
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.train import add_arguments, make_strategy, preflight, run, train

SMALL = ("model.dim=16", "model.max_len=12", "data.batch_size=32", "train.learning_rate=0.01")


def make_config(*settings, name="sasrec"):
    return config_lib.resolve(name, models.find(name).config_class, settings=(*SMALL, *settings))


def fit(dataset, output, *settings):
    lines = []
    return train(make_config(*settings), DatasetFolder(dataset), output, log=lines.append), lines


def log_of(path):
    with (pathlib.Path(path) / "log.csv").open() as stream:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def finished(chain_dataset, tmp_path_factory):
    """A run of six epochs."""
    return fit(chain_dataset, tmp_path_factory.mktemp("runs") / "six", "train.epochs=6")


def test_it_learns_a_chain(finished):
    run, _ = finished
    rows = log_of(run.path)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert max(float(row["val_ndcg@10"]) for row in rows) > 0.7  # by chance 0.33


def test_the_run_folder_is_whole(finished):
    run, _ = finished
    names = {entry.name for entry in run.path.iterdir()}
    files = {"COMPLETED", "best.keras", "config.toml", "dataset.json", "log.csv", "metrics.json"}
    assert names == files | {"checkpoints", "tensorboard"}
    assert run.config == make_config("train.epochs=6")


def test_the_best_model_is_without_the_optimizers_state(finished):
    run, _ = finished
    with zipfile.ZipFile(run.path / "best.keras") as archive:
        archive.extract("model.weights.h5", run.path.parent)
    with h5py.File(run.path.parent / "model.weights.h5") as weights:
        assert "optimizer" not in weights
        assert len(weights) > 0


def test_the_best_model_is_that_of_the_best_epoch(finished, chain_dataset):
    from seqrec_tf import data

    run, _ = finished
    rows = log_of(run.path)
    model = run.load_model()
    model.compile()
    figures = model.evaluate(data.load(chain_dataset, model, "valid"), verbose=0, return_dict=True)
    assert figures["ndcg@10"] == pytest.approx(max(float(row["val_ndcg@10"]) for row in rows), abs=1e-5)


def test_progress_says_rate_and_time_left(finished):
    _, lines = finished
    assert lines[0].startswith("sasrec: 20 items, 200 sequences of")
    assert "epoch 6/6" in lines[6]
    assert "sequences/s" in lines[6]
    assert "0:00:00 left" in lines[6]


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
    chain_dataset, tmp_path, monkeypatch, is_saved
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
    expected, _ = fit(chain_dataset, tmp_path / "expected", f"train.epochs={1 + is_saved}")
    assert len(log_of(run.path)) == 1 + is_saved
    for ours, theirs in zip(run.load_model().weights, expected.load_model().weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


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


@pytest.fixture
def keep(chain_dataset, tmp_path):
    """Tells a `RunKeeper` the figures of epochs, each of which leaves its number in all of the model's weights."""
    model = models.SASRec.from_dataset(chain_dataset, dim=4)
    model.compile()
    model.optimizer.build(model.trainable_variables)

    def keep(figures, **options):
        keeper = RunKeeper(tmp_path, model, **{"patience": 0, "has_validation": True, **options})
        keeper.set_model(model)
        model.stop_training = False
        for epoch, figure in enumerate(figures):
            for weight in model.trainable_variables:
                weight.assign(tf.fill(weight.shape, epoch + 1.0))
            keeper.on_epoch_begin(epoch)
            keeper.on_train_batch_end(0)
            keeper.on_epoch_end(epoch, {"loss": 1.0, **({} if figure is None else {"val_ndcg@10": figure})})
            if model.stop_training:
                break
        return len(keeper.epochs), keras.saving.load_model(tmp_path / "best.keras", compile=False).trainable_variables[
            0
        ].numpy().max()

    return keep


@pytest.mark.parametrize(
    ("figures", "best"), [([0.2, 0.3, 0.1], 2), ([0.3, 0.3, 0.3], 1), ([0.1, None, 0.2, None], 3), ([0.0, 0.0], 1)]
)
def test_the_best_model_is_the_first_with_the_best_figure(keep, figures, best):
    assert keep(figures) == (len(figures), best)


def test_without_validation_the_newest_model_is_the_best(keep):
    assert keep([None] * 3, has_validation=False) == (3, 3)


def test_patience_counts_validations(keep):
    """Not epochs, of which every second is validated."""
    assert keep([None, 0.3, None, 0.2, None, 0.3, None, 0.4], patience=2) == (6, 2)
    assert keep([None, 0.3, None, 0.2, None, 0.4, None, 0.3], patience=2) == (8, 6)


def test_a_dataset_without_validation_trains_all_its_epochs(write_dataset, tmp_path):
    folder = DatasetFolder(write_dataset(tmp_path / "dataset", {str(user): "abcdef" for user in range(20)}))
    shutil.rmtree(tmp_path / "dataset" / "valid")
    lines = []
    run = train(make_config("train.epochs=3"), folder, tmp_path / "run", log=lines.append)
    assert any("There is no validation split" in line for line in lines)
    assert [row["epoch"] for row in log_of(run.path)] == ["1", "2", "3"]
    kept = tf.train.load_checkpoint(str(run.path / "checkpoints"))
    names = [name for name, shape in kept.get_variable_to_shape_map().items() if shape == [7, 16]]
    table = run.load_model().items.table
    assert any(np.array_equal(kept.get_tensor(name), table) for name in names)


def test_training_stops_when_validation_gets_no_better(chain_dataset, tmp_path):
    run, _ = fit(chain_dataset, tmp_path / "run", "train.epochs=40", "train.patience=2", "train.learning_rate=0.0")
    assert len(log_of(run.path)) == 3  # the first is the best, two more bring nothing


def test_a_finished_run_is_not_overwritten(finished, chain_dataset):
    run, _ = finished
    with pytest.raises(FileExistsError, match="holds a finished run"):
        fit(chain_dataset, run.path, "train.epochs=6")


def test_another_model_does_not_go_on_with_a_run(chain_dataset, tiny_dataset, tmp_path):
    run, _ = fit(chain_dataset, tmp_path / "run", "train.epochs=1")
    (run.path / "COMPLETED").unlink()
    with pytest.raises(FileExistsError, match=r"differs in model\.norm \('post', now 'pre'\)"):
        fit(chain_dataset, run.path, "train.epochs=1", "model.norm=pre")
    with pytest.raises(FileExistsError, match="differs in its dataset"):
        fit(tiny_dataset, run.path, "train.epochs=1")


def test_a_run_may_go_on_for_longer_and_says_what_changed(chain_dataset, tmp_path):
    run, _ = fit(chain_dataset, tmp_path / "run", "train.epochs=1")
    (run.path / "COMPLETED").unlink()
    again, lines = fit(chain_dataset, run.path, "train.epochs=2", "train.learning_rate=0.001")
    assert "Changed since: train.epochs (1, now 2), train.learning_rate (0.01, now 0.001)." in lines
    assert len(log_of(again.path)) == 2
    assert again.config.train.epochs == 2


def test_a_run_goes_on_at_the_rate_that_it_is_given(chain_dataset, tmp_path):
    run, _ = fit(chain_dataset, tmp_path / "run", "train.epochs=1")
    (run.path / "COMPLETED").unlink()
    table = next(weight for weight in run.load_model().get_weights() if weight.shape == (21, 16))
    again, _ = fit(chain_dataset, run.path, "train.epochs=2", "train.learning_rate=0.0", "train.patience=0")
    assert len(log_of(again.path)) == 2
    newest = tf.train.load_checkpoint(str(run.path / "checkpoints"))
    assert any(np.array_equal(table, newest.get_tensor(name)) for name in newest.get_variable_to_shape_map())


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("train.optimizer=adam", "train.optimizer=adagrad"),
        ("train.schedule=constant", "train.schedule=cosine"),
        ("train.warmup_steps=0", "train.warmup_steps=5"),
        ("train.precision=float32", "train.precision=mixed_float16"),
    ],
)
def test_a_run_does_not_go_on_with_another_kind_of_optimizer(chain_dataset, tmp_path, first, then):
    run, _ = fit(chain_dataset, tmp_path / "run", "train.epochs=1", first)
    (run.path / "COMPLETED").unlink()
    with pytest.raises(FileExistsError, match=rf"differs in {then.split('=')[0]} "):
        fit(chain_dataset, run.path, "train.epochs=2", then)


def test_a_run_minds_other_encoders_of_its_vectors_and_no_new_ones():
    info = {"encoders": {"title_vector": "a"}}
    for encoders, number in (({"title_vector": "a", "photo_vector": "b"}, 0), ({"title_vector": "c"}, 1)):
        assert len(run_folder.other_encoders(info, SimpleNamespace(encoders=encoders))) == number
    assert run_folder.other_encoders({}, SimpleNamespace(encoders={"title_vector": "a"})) == []


def test_what_was_refused_can_be_mended(chain_dataset, tmp_path):
    """A run that was refused leaves nothing that stands in the way of the advice it gave."""
    with pytest.raises(ValueError, match="cannot fit"):
        fit(chain_dataset, tmp_path / "run", "train.epochs=1", "data.batch_size=100000000")
    assert not (tmp_path / "run").exists()


def test_the_last_epoch_is_always_validated(chain_dataset, tmp_path):
    run, _ = fit(chain_dataset, tmp_path / "run", "train.epochs=2", "train.validate_every=5")
    rows = log_of(run.path)
    assert [bool(row["val_ndcg@10"]) for row in rows] == [False, True]
    assert run.load_model() is not None


def test_a_remote_run_folder_is_refused(chain_dataset):
    with pytest.raises(ValueError, match="--output must be a local path"):
        fit(chain_dataset, "gs://bucket/run", "train.epochs=1")


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(chain_dataset, tmp_path):
    with pytest.raises(RuntimeError, match=r"The loss became .* Set a smaller train.learning_rate"):
        fit(chain_dataset, tmp_path / "run", "train.epochs=3", "train.learning_rate=1e30")


def test_two_replicas_train_as_one_device(finished, chain_dataset, tmp_path):
    """MirroredStrategy on two logical CPU devices, in a process of its own as devices are set up once."""
    script = (
        "import tensorflow as tf, sys\n"
        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],"
        " [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from seqrec_tf import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    logs = []
    for strategy in ("none", "mirrored"):
        output = tmp_path / strategy
        command = [sys.executable, "-c", script, "train", "--dataset", chain_dataset, "--model", "sasrec"]
        command += ["--output", str(output), "--strategy", strategy]
        # Replicas draw their own dropout and negatives, so compare a loss that has neither. One batch has a single
        # row, so that a replica has none; the shares of a validation batch are unequal.
        command += ["--set", *SMALL, "train.epochs=2", "model.dropout_rate=0.0", "model.loss=softmax"]
        command += [
            "data.batch_size=199",
            "data.sort_by_length=false",
            "data.eval_batch_size=67",
            "train.clip_norm=0.05",
        ]
        subprocess.run(command, check=True, capture_output=True)
        logs.append(log_of(output))
    for column in ("loss", "val_ndcg@10"):
        alone, mirrored = ([float(row[column]) for row in rows] for rows in logs)
        np.testing.assert_allclose(alone, mirrored, rtol=1e-4)


def test_replicas_draw_their_own_dropout_and_negatives():
    script = (
        "import keras, numpy as np, tensorflow as tf\n"
        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],"
        " [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from seqrec_tf.layers import Dropout\n"
        "strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])\n"
        "with strategy.scope():\n"
        "    dropout = Dropout(0.5)\n"
        "draw = tf.function(lambda: strategy.run(lambda: dropout(tf.ones([100]), training=True)))\n"
        "masks = np.stack([value.numpy() for _ in range(2) for value in draw().values])\n"
        "assert len({mask.tobytes() for mask in masks}) == 4, masks\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_workers(number, dataset, output, *settings):
    """MultiWorkerMirroredStrategy, processes on this machine; the lines that the first one shows."""
    ports = []
    for _ in range(number):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            ports.append(probe.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    command = [sys.executable, "-m", "seqrec_tf.cli", "train", "--strategy", "multi-worker", "--dataset", dataset]
    command += ["--model", "sasrec", "--output", str(output), "--set", *SMALL, *settings]
    workers = []
    for index in range(number):
        environment = os.environ | {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        workers.append(subprocess.Popen(command, env=environment, **pipes))
    try:
        answers = [worker.communicate(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * number, answers
    return answers[0][0].splitlines()


@pytest.mark.slow
def test_two_workers_train_as_one_device_and_go_on_together(chain_dataset, tmp_path):
    # Replicas draw their own dropout and negatives, so compare a loss that has neither.
    settings = ("model.dropout_rate=0.0", "model.loss=softmax")
    run_workers(2, chain_dataset, tmp_path / "workers", "train.epochs=1", *settings)
    (tmp_path / "workers" / "COMPLETED").unlink()  # as if stopped after the first epoch
    lines = run_workers(2, chain_dataset, tmp_path / "workers", "train.epochs=2", *settings)
    assert "Going on after epoch 1 of at most 2." in lines
    alone, _ = fit(chain_dataset, tmp_path / "alone", "train.epochs=2", *settings)
    together = log_of(tmp_path / "workers")
    for column in ("loss", "val_ndcg@10"):
        expected = [float(row[column]) for row in log_of(alone.path)]
        np.testing.assert_allclose([float(row[column]) for row in together], expected, rtol=1e-3)


@pytest.mark.slow
def test_a_cluster_of_one_worker_trains(chain_dataset, tmp_path):
    run_workers(1, chain_dataset, tmp_path / "worker", "train.epochs=1")
    assert len(log_of(tmp_path / "worker")) == 1


def test_a_dataset_that_changed_is_refused(finished, tiny_dataset, chain_dataset, tmp_path):
    run, _ = finished
    with pytest.raises(ValueError, match="it differs in num_items: 20 against 5"):
        run.open_dataset(tiny_dataset)
    other = tmp_path / "other"  # of the same sizes, with other items behind the ids
    shutil.copytree(chain_dataset, other)
    stats = json.loads((other / "stats.json").read_text())
    (other / "stats.json").write_text(json.dumps({**stats, "fingerprint": "another"}))
    with pytest.raises(ValueError, match=r"it differs in the records or the vocabulary \(the fingerprints differ\)"):
        run.open_dataset(str(other))


def test_what_cannot_fit_is_refused_before_the_work(chain_dataset, monkeypatch):
    work = models.find("sasrec"), make_config("data.batch_size=100000000"), DatasetFolder(chain_dataset)
    with pytest.raises(ValueError, match=r"cannot fit. Set a smaller data.batch_size"):
        preflight(*work, steps=1, replicas=1)
    # The memory of this machine is not that of its GPUs.
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert "GB of a GPU's memory" in preflight(*work, steps=1, replicas=1)


@pytest.mark.parametrize(("model", "label", "missing"), [("sasrec", 0, 1), ("din", 0, 1), ("din", 1, 0)])
def test_a_validation_that_would_measure_nothing_is_refused_before_the_work(tmp_path, capsys, model, label, missing):
    lines = [
        f"u{user},i{(user + time) % 7},{time},{label if time == 4 else (user + time) % 2}"
        for user in range(9)
        for time in range(6)
    ]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n" + "\n".join(lines) + "\n")
    dataset, run = str(tmp_path / "dataset"), tmp_path / "run"
    files = ["--input", str(tmp_path / "events.csv"), "--output", dataset]
    assert cli.main(["prepare", *files, "--label-column", "label"]) == 0
    assert cli.main(["train", "--dataset", dataset, "--model", model, "--output", str(run)]) == 2
    assert f"No event to predict of {dataset}'s split 'valid' has the label {missing}, so" in capsys.readouterr().err
    assert not run.exists()


def test_validation_of_some_sequences_must_measure_something_too(tmp_path, capsys):
    lines = [f"u{user:03},i{(user + time) % 7},{time},{int(user > 40)}" for user in range(60) for time in range(6)]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n" + "\n".join(lines) + "\n")
    dataset, run = str(tmp_path / "dataset"), tmp_path / "run"
    files = ["--input", str(tmp_path / "events.csv"), "--output", dataset, "--num-shards", "1"]
    assert cli.main(["prepare", *files, "--label-column", "label"]) == 0
    arguments = [
        "train",
        "--dataset",
        dataset,
        "--model",
        "din",
        "--output",
        str(run),
        "--set",
        "data.valid_sequences=1",
    ]
    assert cli.main(arguments) == 2
    assert "of the first 1 sequences (data.valid_sequences) of" in capsys.readouterr().err


def test_multi_worker_needs_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="TF_CONFIG"):
        make_strategy("multi-worker")


@pytest.mark.parametrize(("strategy", "is_limited"), [("none", True), ("mirrored", False)])
def test_operations_get_one_thread_where_a_batch_is_in_parts(chain_dataset, monkeypatch, strategy, is_limited):
    parts = []
    monkeypatch.setattr("seqrec_tf.parallel.limit_threads", parts.append)
    monkeypatch.setattr("seqrec_tf.models.base.parts_for_cores", lambda: 3)
    monkeypatch.setattr("seqrec_tf.train.train", lambda config, folder, output: None)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = ["--dataset", str(chain_dataset), "--model", "sasrec", "--output", "run", "--strategy", strategy]
    run(parser.parse_args(options))
    assert parts == ([3] if is_limited else [])


@pytest.mark.parametrize("number", ["bfloat16", "float16"])
def test_mixed_precision_and_a_schedule_train(chain_dataset, tmp_path, number):
    import keras

    run, _ = fit(
        chain_dataset,
        tmp_path / "run",
        "train.epochs=4",
        f"train.precision=mixed_{number}",
        "train.schedule=cosine",
        "train.warmup_steps=5",
        "train.clip_norm=1.0",
    )
    assert keras.mixed_precision.dtype_policy().name == "float32"  # as it was before
    assert run.load_model().compute_dtype == number
    rows = log_of(run.path)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_popularity_needs_no_training(chain_dataset, tmp_path):
    config = config_lib.resolve("poprec", models.find("poprec").config_class)
    run = train(config, DatasetFolder(chain_dataset), tmp_path / "run", log=lambda line: None)
    assert run.load_model().counts.numpy()[1] == DatasetFolder(chain_dataset).item_counts[0]
    assert not (run.path / run_folder.LOG_FILE).exists()
