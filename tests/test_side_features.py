"""Side features of items from the dataset folder to the saved model."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tensorflow as tf
from small_folders import seal
from small_runs import trained

from seqrec_tf import data, evaluate, export, models
from seqrec_tf.exporting import new_items
from seqrec_tf.learning import ranking
from seqrec_tf.records import DatasetFolder
from seqrec_tf.schema import FEATURES_FILE, ITEM_ID, Feature, Schema

STEPS = 8
# The step of the round that an item stands for, from 2: what training does not know and what is missing come before.
FEATURES = {
    Feature(ITEM_ID, "string", ()): str,
    Feature("step", "int64", (), kind="category", num_values=STEPS + 2): lambda item: int(item[-1]) + 2,
}


@pytest.fixture(scope="module")
def dataset(write_dataset, tmp_path_factory):
    """Users go round in a circle, at each step to any of two items; new-4 is a third, which nobody has seen."""
    random = np.random.default_rng(0)
    sequences = {
        f"user-{user}": [f"{'ab'[random.integers(2)]}-{(user + place) % STEPS}" for place in range(9)]
        for user in range(300)
    }
    path = tmp_path_factory.mktemp("round") / "dataset"
    folder = DatasetFolder(write_dataset(path, sequences, FEATURES, cold_items=["new-4"]))
    (path / FEATURES_FILE).write_text(json.dumps({"step": {"values": [str(step) for step in range(STEPS)]}}))
    seal(path)
    return folder


BY_FEATURES = ('model.item_features=["step"]', "model.loss=sampled-softmax", "model.num_negatives=8")
BY_IDS = ("model.fusion=concat", "model.loss=sampled-softmax", "model.num_negatives=8")


@pytest.fixture(scope="module")
def run_of(dataset, tmp_path_factory):
    """A function that gives the run of a model with these settings, trained once."""
    runs = {}

    def get(name, *settings):
        if (name, settings) not in runs:
            runs[name, settings] = trained(dataset, tmp_path_factory.mktemp(name), name, *settings)
        return runs[name, settings]

    return get


@pytest.mark.parametrize(
    ("name", "settings", "knows_the_new_item"),
    [
        ("sasrec", BY_FEATURES, True),
        ("nova", ("model.score_with_features=true", "model.loss=sampled-softmax", "model.num_negatives=8"), True),
        ("nova", BY_IDS, False),
    ],
)
def test_a_saved_model_recommends_a_new_item_by_its_features(run_of, tmp_path, name, settings, knows_the_new_item):
    path = export.export(run_of(name, *settings), tmp_path / "models" / "shop", k=6)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    answer = serve(history=tf.constant([["a-1", "b-2", "b-3"]]))
    items = [item.decode() for item in answer["items"].numpy()[0]]
    assert {"a-4", "b-4"} <= set(items)
    assert ("new-4" in items) == knows_the_new_item


@pytest.mark.parametrize("use", ["frozen", "trained"])
def test_new_items_are_known_by_the_components_of_their_vectors(use):
    random = np.random.default_rng(0)
    schema = Schema(num_items=12, item_features=(Feature("image", "float32", (30,), kind="vector"),))
    config = models.SASRec.config_class(dim=8, item_features=("*",), item_vectors=use)
    model = models.SASRec(config, schema)
    vectors = np.concatenate([np.zeros([1, 30]), random.normal(size=[12, 30])]).astype(np.float32)
    model.item_features.adapt({"image": vectors}, [1] * 12)
    grown = model.with_new_items(2, {"image": np.stack([vectors[5], np.zeros(30, np.float32)])})
    old, new = model.item_features.tables[0].numpy(), grown.item_features.tables[0].numpy()
    np.testing.assert_array_equal(new[:13], old)
    np.testing.assert_array_equal(new[13], old[5])
    assert not np.any(new[14])
    history = {"item_ids": tf.constant([[1, 5, 3]])}
    query = grown.query(history)
    np.testing.assert_array_equal(query, model.query(history))
    scores = grown.score_block(query, 1, 15)
    np.testing.assert_allclose(scores[:, :12], model.score_block(query, 1, 13), rtol=1e-5)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "bert4rec", "din"])
def test_items_that_came_after_training_are_recommended_by_a_saved_model(run_of, tmp_path, name):
    run = run_of(name, *(setting for setting in BY_FEATURES if name != "din" or "loss" not in setting))
    (tmp_path / "new.csv").write_text("item_id,step\nfresh,4\nother,6\na-1,1\nodd,nowhere\nbare,\n")
    path = export.export(run, tmp_path / "models" / "shop", k=8, items=str(tmp_path / "new.csv"))
    signatures = tf.saved_model.load(str(path)).signatures
    serve, history = signatures["serving_default"], tf.constant([["a-1", "b-2", "b-3"]])
    scores = signatures["rank"](history=history, candidates=tf.constant([["fresh", "other", "odd", "bare"]]))
    assert len(np.unique(scores["scores"])) == 4
    if name in ("bert4rec", "din"):
        return  # this little data teaches them too little
    items = [item.decode() for item in serve(history=history)["items"].numpy()[0]]
    assert {"a-4", "b-4", "new-4", "fresh"} <= set(items)
    # A new item in the history counts as what it is, and is no unknown id.
    answer = serve(history=tf.constant([["a-2", "b-3", "fresh"]]))
    items = [item.decode() for item in answer["items"].numpy()[0]]
    assert answer["num_unknown"].numpy().tolist() == [0]
    assert {"a-5", "b-5"} <= set(items)


def test_an_id_is_known_to_the_wide_part_and_to_the_deep_one_or_to_none(dataset):
    model = models.WideDeep.from_dataset(
        dataset, item_features=("step",), item_id_dropout_rate=0.5, num_negatives=2, hidden_dims=(4,)
    )
    for table in (model.items, model.wide_items):
        table.embeddings.assign(tf.ones_like(table.embeddings))
    ids = tf.range(1, model.num_items + 1)
    of_features = tf.add_n(model.item_features(ids))
    is_known = []
    for _ in range(10):
        vectors, wide = model._wide_and_deep(ids, training=True)
        is_known.append(wide.numpy())
        np.testing.assert_allclose((vectors - of_features)[:, 0], wide, atol=1e-6)
    assert 0.2 < np.mean(is_known) < 0.8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,step\na-1,1\n", "has no item that .* does not know already"),
        (
            "sku,step\nfresh,1\n",
            r"has no column 'item_id'; its header is \['sku', 'step'\]. Name it with --item-id-column",
        ),
        ("item_id,step\n,1\n", "line 2: item_id is empty"),
        ("item_id,stop\nfresh,1\n", "has no column 'step', which the model reads"),
        ("item_id,step\nfresh,1,2\n", "line 2: expected 2 fields, got 3"),
        ("item_id,step\nfresh\n", "line 2: expected 2 fields, got 1"),
        ('item_id,step\nfresh,"1\nother,2\n', "quotes do not match"),
        ('item_id,step\n"fr\nesh",1\n', "line 3: item_id holds a line break"),
        ("\ufeffitem_id,stop\nfresh,1\n", "has no column 'step', which the model reads"),
    ],
)
def test_a_file_of_new_items_that_cannot_be_used_says_why(run_of, tmp_path, text, message):
    run = run_of("sasrec", *BY_FEATURES)
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        export.export(run, tmp_path / "models" / "shop", k=5, items=str(tmp_path / "new.csv"))
    assert not any((tmp_path / "models" / "shop").glob("*"))


def test_quotes_of_new_items_are_letters_where_those_of_the_dataset_are(dataset, tmp_path, monkeypatch):
    (tmp_path / "new.csv").write_text('item_id,step\n2"-pipe,4\n"other,6\n')
    with pytest.raises(ValueError, match="quotes do not match"):
        new_items.read(str(tmp_path / "new.csv"), dataset, ["step"])
    monkeypatch.setattr(dataset, "schema", dataclasses.replace(dataset.schema, items_are_quoted=False))
    found = new_items.read(str(tmp_path / "new.csv"), dataset, ["step"])
    assert found.ids == ['2"-pipe', '"other']
    assert found.values["step"].tolist() == [6, 8]


def test_a_model_that_scores_by_ids_refuses_new_items(run_of, tmp_path):
    run = run_of("nova", *BY_IDS)
    (tmp_path / "new.csv").write_text("item_id,step\nfresh,4\n")
    with pytest.raises(ValueError, match=r"cannot recommend new ones\. Train it with model\.item_features"):
        export.export(run, tmp_path / "models" / "shop", k=5, items=str(tmp_path / "new.csv"))


def test_a_feature_that_the_dataset_lacks_names_the_nearest(dataset):
    with pytest.raises(ValueError, match=r"model.item_features must be one of step, got 'stp'. Did you mean 'step'"):
        models.SASRec.from_dataset(dataset, item_features=("stp",))


def test_a_dataset_without_features_says_how_to_get_them(chain_dataset):
    with pytest.raises(ValueError, match=r"NOVA reads side features of items, and this dataset has none. .*--items"):
        models.NOVA.from_dataset(chain_dataset)


def test_validation_makes_the_table_of_side_features_once_a_batch(dataset, monkeypatch):
    monkeypatch.setattr("seqrec_tf.models.base.parts_for_cores", lambda: 2)
    model = models.SASRec.from_dataset(dataset, dim=4, item_features=("*",), loss="sampled-softmax")
    model.compile()
    batch = inputs, labels = next(iter(data.load(dataset, model, "valid")))
    ranks = ranking.rank_and_recommend(model, model.query(inputs), labels["target"], labels["excluded"], k=10)[0]
    made, make = [], model.item_table
    model.item_table = lambda: made.append(1) or make()
    logs = model.test_step(batch)
    assert len(made) == 1
    assert model.frozen_table is None
    assert float(logs["hr@10"]) == pytest.approx(np.mean(ranks.numpy() <= 10))


def test_targets_without_training_events_have_figures_of_their_own(write_dataset, tmp_path):
    """The newest event of every second user is of an item that nobody had before."""
    sequences = {
        f"user-{user}": [*(f"{'ab'[user % 2]}-{(user + place) % 6}" for place in range(5)), "new-4"]
        if user % 2
        else [f"a-{(user + place) % 6}" for place in range(6)]
        for user in range(40)
    }
    folder = DatasetFolder(write_dataset(tmp_path / "dataset", sequences, FEATURES))
    result = evaluate.evaluate(models.PopRec.from_dataset(folder), folder)
    assert (result.num_targets, result.num_cold) == (40, 20)
    counts, gains = folder.item_counts, {"new": [], "old": []}
    for items in sequences.values():
        target, seen = items[-1], {folder.item_ids.index(item) for item in items[:-1]}
        own = counts[folder.item_ids.index(target)]
        rivals = [place for place in range(len(counts)) if place not in seen and folder.item_ids[place] != target]
        rank = 1 + sum(counts[place] >= own for place in rivals)
        gains["new" if target == "new-4" else "old"].append((rank <= 10) / np.log2(rank + 1))
    assert result.metrics["cold ndcg@10"].value == pytest.approx(np.mean(gains["new"]))
    assert result.metrics["cold hr@10"].value == pytest.approx(np.mean(np.sign(gains["new"])))
    assert result.metrics["ndcg@10"].value == pytest.approx(np.mean([*gains["new"], *gains["old"]]))
    assert np.mean(gains["new"]) < np.mean(gains["old"])
    assert "20 targets are items without training events" in evaluate.table(
        {"poprec": result}, protocol="full", split="test"
    )
    everything = evaluate.evaluate(models.PopRec.from_dataset(folder), folder, split="valid")
    assert everything.num_cold == 0
    assert not any(name.startswith("cold") for name in everything.metrics)


def test_a_feature_that_no_item_has_cannot_be_trained_on(write_dataset, tmp_path):
    of_none = {
        Feature(ITEM_ID, "string", ()): str,
        Feature("price", "float32", (), kind="number"): lambda item: math.nan,
    }
    path = tmp_path / "dataset"
    folder = DatasetFolder(write_dataset(path, {"ann": "abcd", "bob": "badce"}, of_none))
    with pytest.raises(ValueError, match=r"No item of .*dataset has a value of 'price', so a model cannot learn from"):
        trained(folder, tmp_path, "sasrec", "model.item_features=price")
