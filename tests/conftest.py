"""Fixtures that several folders of tests share."""

import contextlib
import csv
import dataclasses
import io
import os
import pathlib
import random
import tempfile

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture
def policy(request):
    """The `train.precision` that layers compute in, by the test's parameter."""
    from seqrec_tf.config import computing_in

    with computing_in(request.param):
        yield request.param


@pytest.fixture(scope="session")
def write_dataset():
    """The function that prepares a leave-one-out dataset folder of sequences, by the real job."""
    return _write_dataset


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """3 users, 5 items."""
    sequences = {"ann": "abcd", "bob": "badce", "eve": "cab"}
    return _write_dataset(tmp_path_factory.mktemp("tiny") / "dataset", sequences)


@pytest.fixture(scope="session")
def chain_dataset(tmp_path_factory):
    """200 users, 20 items; the item after `i` is nearly always `i + 1`, so a sequential model can learn it at once."""
    rng = random.Random(0)
    sequences = {}
    for user in range(200):
        item = rng.randrange(20)
        sequence = []
        for _ in range(rng.randrange(5, 12)):
            sequence.append(f"item-{item:02d}")
            item = (item + 1) % 20 if rng.random() < 0.95 else rng.randrange(20)
        sequences[f"user-{user}"] = sequence
    return _write_dataset(tmp_path_factory.mktemp("chain") / "dataset", sequences)


@pytest.fixture(scope="session")
def finished(chain_dataset, tmp_path_factory):
    """A run of six epochs on the chain, which no test may change, and the lines that it showed."""
    from small_runs import fit

    return fit(chain_dataset, tmp_path_factory.mktemp("runs") / "six", "train.epochs=6")


def _write_dataset(path, sequences, item_features=None, cold_items=(), label_of=None):
    """Prepare a leave-one-out dataset folder. Its events have an order, but no times.

    `{"ann": "abc"}` gives the events ann,a ann,b ann,c.

    Args:
        path: The folder.
        sequences: User to items, oldest first.
        item_features: Feature to a function that gives the encoded value of an item, from the item's raw id.
        cold_items: Items that nobody has touched. They get the last ids.
        label_of: A function that gives the label of an event, from the item's raw id. Events have no labels where None.

    Returns:
        The path as a string.
    """
    from seqrec_tf import cli

    header = ["user_id", "item_id", *(["label"] if label_of else [])]
    rows = (
        [user, item, *([label_of(item)] if label_of else [])] for user, items in sequences.items() for item in items
    )
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        events = pathlib.Path(folder) / "events.csv"
        with events.open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])
        options = ["--time-column", "none", *(["--label-column", "label"] if label_of else [])]
        status = cli.main(["prepare", "--input", str(events), "--output", str(path), *options])
    assert status == 0, said.getvalue()
    if item_features or cold_items:
        _write_items(pathlib.Path(path), item_features or {}, sorted(cold_items))
    return str(path)


def _write_items(path, item_features, cold_items):
    """Give a dataset folder items and features of items that no job could have made of files."""
    import tensorflow as tf
    from small_folders import seal

    from seqrec_tf import records
    from seqrec_tf import schema as s

    folder = records.DatasetFolder(path)
    vocabulary = [*folder.item_ids, *cold_items]
    counts = [*folder.item_counts, *[0] * len(cold_items)]
    schema = dataclasses.replace(folder.schema, num_items=len(vocabulary), item_features=tuple(item_features))
    (path / s.ITEM_VOCABULARY_FILE).write_text("".join(f"{item}\n" for item in vocabulary))
    (path / s.ITEM_COUNTS_FILE).write_text("".join(f"{count}\n" for count in counts))
    (path / s.SCHEMA_FILE).write_text(schema.to_json())
    if item_features:
        (path / s.ITEMS_FOLDER).mkdir()
        with tf.io.TFRecordWriter(str(path / s.ITEMS_FOLDER / records.shard_name(0, 1)), records.COMPRESSION) as writer:
            for item in vocabulary:
                values = {feature.name: value_of(item) for feature, value_of in item_features.items()}
                writer.write(records.encode_example(values, schema.item_features))
    seal(path)
