"""Fixtures that several folders of tests share."""

import collections
import json
import os
import pathlib
import random

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
    """A function that writes a leave-one-out dataset folder in plain Python, without Beam."""
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


def _write_dataset(path, sequences, item_features=None, cold_items=(), label_of=None):
    """Write a dataset folder.

    Args:
        path: The folder.
        sequences: User to items, oldest first.
        item_features: Feature to a function of the item's raw id that gives its value.
        cold_items: Items that nobody has touched.
        label_of: A function of the item's raw id that gives the label of its events; they have none where None.
    """
    import tensorflow as tf

    from seqrec_tf import records
    from seqrec_tf import schema as s

    train = {user: list(items)[:-2] for user, items in sequences.items()}
    counts = collections.Counter(item for items in train.values() for item in items)
    catalogue = {item for items in sequences.values() for item in items} | set(cold_items)
    vocabulary = sorted(catalogue, key=lambda item: (-counts[item], item))
    ids = {item: number for number, item in enumerate(vocabulary, start=1)}
    schema = s.Schema(
        num_items=len(vocabulary),
        features=(
            *(s.USER_ID_FEATURE, s.ITEM_IDS_FEATURE, s.TARGET_START_FEATURE),
            *((s.LABELS_FEATURE,) if label_of else ()),
        ),
        max_len=max(map(len, sequences.values())),
        num_users=sum(len(items) > 1 for items in train.values()),
        item_features=tuple(item_features or ()),
    )
    splits = {
        "train": {user: (items, 1) for user, items in train.items() if len(items) > 1},
        "valid": {user: (list(items)[:-1], len(items) - 2) for user, items in sequences.items()},
        "test": {user: (list(items), len(items) - 1) for user, items in sequences.items()},
    }
    path = pathlib.Path(path)
    stats = {"fingerprint": f"{path.name}-{len(sequences)}", "splits": {}}
    for split, rows in splits.items():
        (path / split).mkdir(parents=True)
        with tf.io.TFRecordWriter(str(path / split / records.shard_name(0, 1)), records.COMPRESSION) as writer:
            for user, (items, target_start) in rows.items():
                values = {
                    s.USER_ID: user,
                    s.ITEM_IDS: [ids[item] for item in items],
                    s.TARGET_START: target_start,
                }
                if label_of:
                    values[s.LABELS] = [label_of(item) for item in items]
                writer.write(records.encode_example(values, schema.features))
        lengths = [len(items) for items, _ in rows.values()]
        stats["splits"][split] = {"sequences": len(rows), "length": {"mean": sum(lengths) / len(lengths)}}
    if item_features:
        (path / s.ITEMS_FOLDER).mkdir()
        with tf.io.TFRecordWriter(str(path / s.ITEMS_FOLDER / records.shard_name(0, 1)), records.COMPRESSION) as writer:
            for item in vocabulary:
                values = {feature.name: value_of(item) for feature, value_of in item_features.items()}
                writer.write(records.encode_example(values, schema.item_features))
    (path / "vocabularies").mkdir()
    (path / s.ITEM_VOCABULARY_FILE).write_text("".join(f"{item}\n" for item in vocabulary))
    (path / s.ITEM_COUNTS_FILE).write_text("".join(f"{counts[item]}\n" for item in vocabulary))
    (path / s.SCHEMA_FILE).write_text(schema.to_json())
    (path / s.STATS_FILE).write_text(json.dumps(stats))
    (path / s.COMPLETED_FILE).touch()
    return str(path)
