"""A loss that is not finite ends the step before it changes a weight, and the error says which sequences it was."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from small_runs import SMALL

from seqrec_tf import data, models
from seqrec_tf.models.base_keras import LOSS_IS_FINITE
from seqrec_tf.records import DatasetFolder
from seqrec_tf.training import divergence, workers
from seqrec_tf.training.callbacks import RunKeeper

BATCHES = {"batch_size": 32, "sort_by_length": True, "window": "newest", "seed": 3}


@pytest.fixture(scope="module")
def model(chain_dataset):
    """A small model that has made no step."""
    model = models.SASRec.from_dataset(chain_dataset, dim=4, num_blocks=1, max_len=20)
    model.compile()
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def keeper(model, tmp_path):
    """That of a run whose first epoch is done."""
    keeper = RunKeeper(tmp_path, model, patience=0, has_validation=False)
    keeper.epochs.append({"epoch": 1, "loss": 0.5})
    return keeper


@pytest.fixture
def spoiled(model, chain_dataset):
    """A function that makes a step with this number everywhere in the item table, in an explanation."""
    values = [variable.numpy() for variable in model.variables]
    (batch,) = data.load(chain_dataset, model, batch_size=32).take(1)

    def step(number, keeper):
        model.items.table.assign(tf.fill(model.items.table.shape, number))
        model.set_loss_tracker([9.0, 3.0])  # three steps of the epoch are done
        before = [variable.numpy() for variable in model.trainable_variables]
        with divergence.explained(model, keeper, lambda epoch, step: [f"epoch {epoch} step {step}", "bob"]):
            model.train_step(batch)
        return before

    yield step
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def test_the_batch_is_named_where_the_weights_were_finite(model, keeper, spoiled):
    with pytest.raises(RuntimeError) as error:
        spoiled(3e38, keeper)
    assert str(error.value) == (
        "The loss became NaN at step 4 of epoch 2, of the sequences epoch 1 step 3, bob; before it, the largest weight "
        "was 3e+38. Set a smaller train.learning_rate or a train.clip_norm such as 1.0; the same command goes on after "
        "epoch 1."
    )


def test_the_step_before_is_named_where_it_spoiled_the_weights(keeper, spoiled):
    with pytest.raises(
        RuntimeError, match="as the step before had a gradient that was not finite, of the sequences ep"
    ):
        spoiled(float("nan"), keeper)
    keeper.epochs.clear()
    with pytest.raises(RuntimeError, match=r"epoch 0 step 2, bob\. .* no epoch is done, so nothing is kept\."):
        spoiled(float("nan"), keeper)


def test_a_step_whose_loss_is_not_finite_changes_nothing(model, chain_dataset):
    batches = data.load(chain_dataset, model, batch_size=32)
    (batch,) = batches.take(1)
    table = model.items.table.numpy()
    model.items.table.assign(tf.fill(table.shape, 3e38))
    before = [variable.numpy() for variable in (*model.trainable_variables, *model.optimizer.variables)]
    with pytest.raises(tf.errors.InvalidArgumentError, match=LOSS_IS_FINITE):
        tf.function(model.train_step)(batch)
    after = [variable.numpy() for variable in (*model.trainable_variables, *model.optimizer.variables)]
    model.items.table.assign(table)
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, now)


def test_sequences_of_a_batch_are_those_that_made_it(model, chain_dataset):
    """Each row of the batch is the items of one user of the names, but for the last."""
    folder = DatasetFolder(chain_dataset)
    items = {}
    for file in folder.split_files("train"):
        for record in tf.data.TFRecordDataset(file, compression_type="GZIP"):
            example = tf.train.Example.FromString(record.numpy()).features.feature
            items[example["user_id"].bytes_list.value[0].decode()] = list(example["item_ids"].int64_list.value)
    batches = list(data.load(folder, model, epochs=range(2, 3), **BATCHES))
    for step in (0, 4):
        names = data.sequences_of_batch(folder, model, epoch=2, step=step, **BATCHES)
        rows = batches[step][0]["item_ids"].numpy()
        assert len(names) == len(rows) > 1
        for name, row in zip(names, rows, strict=True):
            assert items[name][:-1] == [item for item in row.tolist() if item]


def test_records_without_users_are_named_by_file_and_number(model, chain_dataset, monkeypatch):
    """The name of a record is where it lies."""
    monkeypatch.setattr("seqrec_tf.data.USER_ID", "a feature that is not there")
    folder = DatasetFolder(chain_dataset)
    names = data.sequences_of_batch(folder, model, epoch=0, step=0, **BATCHES)
    rows = next(iter(data.load(folder, model, epochs=range(1), **BATCHES)))[0]["item_ids"].numpy()
    for name, row in zip(names, rows, strict=True):
        file, number = name.split(" record ")
        (record,) = tf.data.TFRecordDataset(file, compression_type="GZIP").skip(int(number)).take(1)
        example = tf.train.Example.FromString(record.numpy()).features.feature
        assert list(example["item_ids"].int64_list.value)[:-1] == [item for item in row.tolist() if item]


def test_another_error_of_the_runtime_is_not_taken_for_one(model, keeper):
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="another"),
        divergence.explained(model, keeper, lambda epoch, step: []),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "another")


def test_a_worker_that_is_gone_is_no_riddle(keeper):
    lost = tf.errors.UnavailableError(None, None, "recvmsg from /job:worker/replica:0/task:1: Connection reset by peer")
    cluster = tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec({"worker": ["a:1", "b:1"]}))

    class Strategy:
        cluster_resolver = cluster

    with pytest.raises(RuntimeError) as error, workers.explained(Strategy(), keeper):
        raise lost
    assert str(error.value) == (
        "Another machine of TF_CONFIG has ended or cannot be reached (worker 1), so this one ends too. Look at what "
        "that one said last; then start the same command on all machines, which goes on after epoch 1."
    )
    with pytest.raises(tf.errors.UnavailableError), workers.explained(tf.distribute.get_strategy(), keeper):
        raise lost


@pytest.mark.slow
def test_replicas_say_it_too(chain_dataset, tmp_path):
    script = (
        "import tensorflow as tf, sys\n"
        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],"
        " [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from seqrec_tf import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "train", "--dataset", chain_dataset, "--model", "sasrec", "--strategy"]
    command += ["mirrored", "--output", str(tmp_path / "run"), "--set", *SMALL, "train.learning_rate=1e30"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "The loss became NaN at step 2 of epoch 1, of the sequences user-" in done.stderr


def test_errors_that_a_sentence_replaces_are_left_out_with_all_their_lines():
    """And nothing else: neither what Python writes, nor warnings, nor what is said before the process aborts."""
    script = (
        "import os, sys\n"
        "from seqrec_tf.quiet import stderr_without_errors_of\n"
        "with stderr_without_errors_of('ring_alg|other'):\n"
        "    sys.stderr.write('of Python\\n')\n"
        "    os.write(2, b'E0000 00:00:17.9 12 ring_alg.cc:291] Aborting\\nand more\\n')\n"
        "    os.write(2, b'W0000 00:00:17.9 12 ring_alg.cc:1] warned\\n')\n"
        "    os.write(2, b'E0000 00:00:17.9 12 kept.cc:7] an error\\nthat goes on\\n')\n"
        "    os.write(2, b'F0000 00:00:17.9 12 other.cc:7] fatal\\n')\n"
        "    os.abort()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode < 0
    said = [line.rpartition("] ")[2] for line in done.stderr.splitlines()]
    assert sorted(said) == ["an error", "fatal", "of Python", "that goes on", "warned"]
