"""Several replicas and workers train as one device does."""

import argparse
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from small_runs import SMALL, fit, log_of

from seqrec_tf.train import add_arguments, make_strategy, run


def test_two_replicas_train_as_one_device(chain_dataset, tmp_path):
    """MirroredStrategy on two logical CPU devices, in a process of its own as devices are set up once."""
    script = (
        "import tensorflow as tf, sys\n"
        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],"
        " [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from seqrec_tf import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    # Replicas draw their own dropout and negatives, so compare a loss that has neither. One batch has a single
    # row, so that a replica has none; the shares of a validation batch are unequal.
    settings = ("train.epochs=2", "model.dropout_rate=0.0", "model.loss=softmax", "data.batch_size=199")
    settings += ("data.sort_by_length=false", "data.eval_batch_size=67", "train.clip_norm=0.05")
    command = [sys.executable, "-c", script, "train", "--dataset", chain_dataset, "--model", "sasrec"]
    command += ["--output", str(tmp_path / "mirrored"), "--strategy", "mirrored", "--set", *SMALL, *settings]
    subprocess.run(command, check=True, capture_output=True)
    alone, _ = fit(chain_dataset, tmp_path / "alone", *settings)
    logs = [log_of(path) for path in (alone.path, tmp_path / "mirrored")]
    for column in ("loss", "val_ndcg@10"):
        of_one, of_replicas = ([float(row[column]) for row in rows] for rows in logs)
        np.testing.assert_allclose(of_one, of_replicas, rtol=1e-4)


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


def start_workers(number, dataset, output, *settings):
    """MultiWorkerMirroredStrategy, processes on this machine."""
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
    return workers


def run_workers(number, dataset, output, *settings):
    """Let them train; the lines that the first one shows."""
    workers = start_workers(number, dataset, output, *settings)
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
@pytest.mark.parametrize("lost", [0, 1])
def test_a_worker_that_dies_ends_the_other_with_one_sentence(chain_dataset, tmp_path, lost):
    workers = start_workers(2, chain_dataset, tmp_path / "run", "train.epochs=100000", "train.patience=0")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "log.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        workers[lost].kill()
        began = time.monotonic()
        _, said = workers[1 - lost].communicate(timeout=60)
    finally:
        for worker in workers:
            worker.kill()
    assert time.monotonic() - began < 30
    assert workers[1 - lost].returncode == 1
    assert said.startswith("seqrec train: Another machine of TF_CONFIG has ended or cannot be reached")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_cluster_of_one_worker_trains(chain_dataset, tmp_path):
    run_workers(1, chain_dataset, tmp_path / "worker", "train.epochs=1")
    assert len(log_of(tmp_path / "worker")) == 1


def test_multi_worker_needs_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="TF_CONFIG"):
        make_strategy("multi-worker")


@pytest.mark.parametrize(("strategy", "is_limited"), [("none", True), ("mirrored", False)])
def test_operations_get_one_thread_where_a_batch_is_in_parts(chain_dataset, monkeypatch, strategy, is_limited):
    parts = []
    monkeypatch.setattr("seqrec_tf.learning.parallel.limit_threads", parts.append)
    monkeypatch.setattr("seqrec_tf.models.base.parts_for_cores", lambda: 3)
    monkeypatch.setattr("seqrec_tf.train.train", lambda config, folder, output: None)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = ["--dataset", str(chain_dataset), "--model", "sasrec", "--output", "run", "--strategy", strategy]
    run(parser.parse_args(options))
    assert parts == ([3] if is_limited else [])
