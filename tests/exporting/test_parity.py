"""What a saved model lists is what `evaluate` lists, for a thousand histories of each kind of model."""

import csv
import json
import random
import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import cli, export
from seqrec_tf.exporting import golden
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.schema import Feature

pytestmark = pytest.mark.slow

NUM_HISTORIES, NUM_ITEMS, K = 1000, 400, 20
SMALL = "train.epochs=1 train.learning_rate=0.01 model.dim=16 data.batch_size=128"


def write(path, header, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Of each of 4,200 users seven events, with times and labels; items and users have features."""
    path, rng = tmp_path_factory.mktemp("parity"), random.Random(1)
    events = []
    for user in range(4200):
        item, at = rng.randrange(NUM_ITEMS), 1_700_000_000 + rng.randrange(10_000)
        for _ in range(7):
            events.append((f"u{user}", f"i{item:03d}", at, int(rng.random() < 0.7)))
            item, at = (item + rng.choice([1, 1, 2, 30])) % NUM_ITEMS, at + rng.randrange(1, 100_000)
    write(path / "events.csv", ("user_id", "item_id", "timestamp", "label"), events)
    items = [(f"i{item:03d}", f"b{item % 7}", item / 9) for item in range(NUM_ITEMS)]
    write(path / "items.csv", ("item_id", "brand", "price"), items)
    users = [(f"u{user}", ("no", "de", "fr")[user % 3], user % 70) for user in range(4200)]
    write(path / "users.csv", ("user_id", "country", "age"), users)
    options = f"--items {path}/items.csv --users {path}/users.csv --label-column label"
    options += " --item-feature brand:category price:number --user-feature country:category age:number"
    assert cli.main(f"prepare --input {path}/events.csv --output {path}/dataset {options}".split()) == 0
    return path / "dataset"


@pytest.fixture(scope="module")
def of_vectors(tmp_path_factory, write_dataset):
    """Of each of 4,200 users seven events, with vectors of the items."""
    rng = random.Random(2)
    sequences = {}
    for user in range(4200):
        first = rng.randrange(NUM_ITEMS)
        sequences[f"u{user}"] = [f"i{(first + rng.choice([1, 2]) * step) % NUM_ITEMS:03d}" for step in range(7)]
    feature = Feature("image", "float32", (8,), kind="vector")
    vector = {feature: lambda item: np.sin(int(item[1:]) * np.arange(1, 9)).astype(np.float32)}
    return write_dataset(tmp_path_factory.mktemp("vectors") / "dataset", sequences, vector)


def check(version, capsys):
    """Compare the lists of a saved model with its golden requests, the trained one's, and say how many agree."""
    requests = json.loads((version / "assets.extra" / "golden_requests.json").read_text())
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(version))
        signature = loaded.signature_def["serving_default"]
        ask = session.make_callable(
            [signature.outputs["items"].name, signature.outputs["scores"].name],
            [info.name for info in signature.inputs.values()],
        )
        same, widest = 0, 0.0
        for start in range(0, len(requests), 64):
            part = requests[start : start + 64]
            feeds = golden._feeds(part, None)
            items, scores = ask(*(feeds[name] for name in signature.inputs))
            for request, row, found in zip(part, items, scores, strict=True):
                same += [item.decode() for item in row if item] == request["items"]
                widest = max(widest, np.abs(found[: len(request["scores"])] - request["scores"]).max())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{version.parent.name}: {same} of {len(requests)} lists are the same, scores within {widest:.1e}\n"
        )
    assert len(requests) == NUM_HISTORIES
    assert same >= 0.995 * len(requests)  # equal scores may round to either side; export has checked that it is that
    assert widest < 1e-4


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("sasrec", "model.num_blocks=1"),
        ("gru4rec", "model.units=16"),
        ("bst", "model.hidden_dims=[16] model.item_features=[*] model.user_features=[*] model.user_dim=4"),
    ],
)
def test_one_stage(model, settings, dataset, tmp_path, monkeypatch, capsys):
    run = trained(dataset, model, settings, tmp_path)
    monkeypatch.setattr(golden, "_NUM_GOLDEN", NUM_HISTORIES)
    monkeypatch.setattr(golden, "_GOLDEN_SCORES", NUM_HISTORIES * NUM_ITEMS)
    check(export.export(run, tmp_path / model, k=K), capsys)


def test_nova_with_vectors(of_vectors, tmp_path, monkeypatch, capsys):
    run = trained(of_vectors, "nova", "model.num_blocks=1", tmp_path)
    monkeypatch.setattr(golden, "_NUM_GOLDEN", NUM_HISTORIES)
    check(export.export(run, tmp_path / "nova", k=K), capsys)


def test_two_stages(dataset, tmp_path, monkeypatch, capsys):
    first = trained(dataset, "sasrec", "model.num_blocks=1", tmp_path)
    second = trained(dataset, "bst", "model.hidden_dims=[16] model.user_features=[*]", tmp_path)
    monkeypatch.setattr(golden, "_NUM_GOLDEN", NUM_HISTORIES)
    check(export.export(first, tmp_path / "two", k=K, ranker=second, num_candidates=100), capsys)


def trained(dataset, model, settings, path):
    """A run of one epoch."""
    small = SMALL if model != "gru4rec" else re.sub(r"model\.dim=\d+ ", "", SMALL)
    command = f"train --dataset {dataset} --model {model} --output {path}/run-{model} --set {small} {settings}"
    assert cli.main(command.split()) == 0
    return RunFolder(path / f"run-{model}")
