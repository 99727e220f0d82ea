"""Side features of items from the dataset folder to the saved model."""

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import config, evaluate, export, models
from seqrec_tf.records import DatasetFolder
from seqrec_tf.schema import ITEM_ID, Feature
from seqrec_tf.train import train

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
    return DatasetFolder(write_dataset(path, sequences, FEATURES, cold_items=["new-4"]))


def trained(dataset, path, name, *settings):
    settings = ("model.dim=16", "model.max_len=8", "train.learning_rate=0.01", "train.epochs=6", *settings)
    resolved = config.resolve(name, models.find(name).config_class, settings=settings)
    return train(resolved, dataset, path / "run", log=lambda line: None)


@pytest.mark.parametrize(
    ("name", "settings", "knows_the_new_item"),
    [
        ("sasrec", ['model.item_features=["step"]'], True),
        ("nova", ["model.score_with_features=true"], True),
        ("nova", ["model.fusion=concat"], False),
    ],
)
def test_a_saved_model_recommends_a_new_item_by_its_features(dataset, tmp_path, name, settings, knows_the_new_item):
    run = trained(dataset, tmp_path, name, *settings, "model.loss=sampled-softmax", "model.num_negatives=8")
    path = export.export(run, tmp_path / "models" / "shop", k=6)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    answer = serve(history=tf.constant([["a-1", "b-2", "b-3"]]))
    items = [item.decode() for item in answer["items"].numpy()[0]]
    assert {"a-4", "b-4"} <= set(items)
    assert ("new-4" in items) == knows_the_new_item


def test_a_feature_that_the_dataset_lacks_names_the_nearest(dataset):
    with pytest.raises(ValueError, match=r"model.item_features must be one of step, got 'stp'. Did you mean 'step'"):
        models.SASRec.from_dataset(dataset, item_features=("stp",))


def test_a_dataset_without_features_says_how_to_get_them(chain_dataset):
    with pytest.raises(ValueError, match=r"NOVA reads side features of items, and this dataset has none. .*--items"):
        models.NOVA.from_dataset(chain_dataset)


def test_targets_without_training_events_have_figures_of_their_own(write_dataset, tmp_path):
    """The newest event of every second user is of an item that nobody had before."""
    sequences = {
        f"user-{user}": [*(f"{'ab'[user % 2]}-{(user + place) % STEPS}" for place in range(5)), "new-4"]
        if user % 2
        else [f"a-{(user + place) % STEPS}" for place in range(6)]
        for user in range(40)
    }
    folder = DatasetFolder(write_dataset(tmp_path / "dataset", sequences, FEATURES))
    result = evaluate.evaluate(models.PopRec.from_dataset(folder), folder)
    assert (result.num_targets, result.num_cold) == (40, 20)
    assert 0 <= result.metrics["cold ndcg@10"].value <= result.metrics["cold hr@10"].value <= 1
    assert "20 targets are items without training events" in evaluate.table(
        {"poprec": result}, protocol="full", split="test"
    )
    everything = evaluate.evaluate(models.PopRec.from_dataset(folder), folder, split="valid")
    assert everything.num_cold == 0
    assert not any(name.startswith("cold") for name in everything.metrics)
