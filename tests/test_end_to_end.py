"""The golden path: an event log, Beam, TFRecords, `fit`, SavedModel, REST; the answer is the trained model's."""

import json
import pathlib
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import cli, demo
from seqrec_tf.learning import ranking
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder


def seqrec(*arguments):
    assert cli.main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Every step by its command, on a generated shop."""
    path = tmp_path_factory.mktemp("shop")
    demo.generate_shop(path / "raw", num_customers=600, seed=1)
    seqrec(
        *("prepare", "--input", path / "raw" / "events.csv", "--output", path / "dataset"),
        *("--user-column", "customer", "--item-column", "item", "--time-column", "time"),
        *("--items", path / "raw" / "items.csv", "--item-id-column", "item"),
    )
    seqrec(
        *("train", "--dataset", path / "dataset", "--model", "sasrec", "--output", path / "run", "--set"),
        *("train.epochs=8", "train.learning_rate=0.01", "model.dim=32", "model.max_len=20", "model.loss=softmax"),
    )
    seqrec("export", "--run", path / "run", "--output", path / "models" / "shop", "--k", 10)
    return path


def test_every_event_is_in_the_dataset_and_every_bad_line_beside_it(shop):
    folder = DatasetFolder(shop / "dataset")
    num_lines = len((shop / "raw" / "events.csv").read_bytes().splitlines()) - 1
    rejected = [
        json.loads(line)
        for file in pathlib.Path(folder.file("rejected")).glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert len(rejected) == len(demo._BROKEN) + 1
    assert folder.stats["input"]["events"] == num_lines - len(rejected)
    train_events = folder.stats["splits"]["train"]["events"]
    assert sum(folder.item_counts) == train_events
    assert train_events + 2 * 600 == folder.stats["input"]["events"]


def test_the_model_beats_popularity(shop, capsys):
    seqrec("evaluate", "--run", shop / "run", "--json", "-")
    figures = json.loads(capsys.readouterr().out)["protocols"]["full"]
    assert figures["sasrec"]["metrics"]["ndcg@10"]["low"] > 1.5 * figures["poprec"]["metrics"]["ndcg@10"]["high"]


def test_rest_answers_what_the_trained_model_answers(shop):
    from serving.model_store import ModelStore
    from serving.server import running

    folder, model = DatasetFolder(shop / "dataset"), RunFolder(shop / "run").load_model()
    history = ["birch-tent", "birch-sleeping-bag", "birch-sleeping-mat"]
    ids = np.array([[folder.item_ids.index(item) + 1 for item in history]], np.int32)
    items, scores = ranking.recommend(model, model.query({"item_ids": ids}), ids, k=10)

    store = ModelStore(shop / "models", report=lambda line: None)
    store.poll()
    body = json.dumps({"instances": [{"history": history}]}).encode()
    with (
        running(store) as server,
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v1/models/shop:predict", body) as answer,
    ):
        row = json.load(answer)["predictions"][0]
    assert row["items"] == [folder.item_ids[item - 1] for item in items.numpy()[0]]
    np.testing.assert_allclose(row["scores"], scores.numpy()[0], rtol=1e-4)
    assert row["num_unknown"] == 0


@pytest.mark.slow
def test_the_demo_goes_all_the_way(tmp_path):
    command = [sys.executable, "-m", "seqrec_tf.cli", "demo", "--output", str(tmp_path / "demo")]
    done = subprocess.run([*command, "--customers", "400", "--epochs", "2"], capture_output=True, text=True, check=True)
    assert "seqrec recommend" in done.stdout
    assert "Done in" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists" in again.stderr


@pytest.mark.parametrize("exclude_history", [True, False])
def test_items_of_the_history_are_recommended_where_the_run_says_so(write_dataset, tmp_path, capsys, exclude_history):
    """Users who choose the same again and again, which no model can find that leaves out the history."""
    sequences = {f"user-{user}": [f"item-{user % 12:02d}"] * 6 for user in range(60)}
    dataset, run, model = write_dataset(tmp_path / "shop", sequences), tmp_path / "run", tmp_path / "models" / "shop"
    seqrec(
        *("train", "--dataset", dataset, "--model", "sasrec", "--output", run, "--set", "train.epochs=5"),
        *("train.learning_rate=0.02", "data.batch_size=16", "model.dim=16", "model.max_len=8", "model.loss=softmax"),
        "model.num_blocks=1",
        f"data.exclude_history={str(exclude_history).lower()}",
    )

    def figures(*command):
        capsys.readouterr()
        seqrec(*command, "--json", "-")
        return json.loads(capsys.readouterr().out)

    def hit_rate(*options):
        protocols = figures("evaluate", "--run", run, *options)["protocols"]
        return protocols["full"]["sasrec"]["metrics"]["hr@1"]["value"]

    hits = 0.0 if exclude_history else 1.0
    assert json.loads((run / "metrics.json").read_text())["best"]["val_hr@10"] == hits
    assert hit_rate() == hits
    if exclude_history:  # else the option would change nothing, and is refused
        assert hit_rate("--keep-history") == 1.0
    of_run = figures("analyze", "--dataset", dataset, "--run", run, "--shuffles", 1)["order"]["model"]
    assert of_run["hr@10"]["true_order"] == hits
    seqrec("export", "--run", run, "--output", model, "--k", 1)
    serve = tf.saved_model.load(str(next(model.iterdir()))).signatures["serving_default"]
    answer = serve(history=tf.constant([["item-03", "item-03"]]))["items"].numpy()[0, 0]
    assert (answer == b"item-03") is not exclude_history
