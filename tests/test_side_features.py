"""Side features of items from the dataset folder to the saved model."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import cli, config, data, evaluate, export, models, new_items, ranking
from seqrec_tf.records import DatasetFolder, read_split
from seqrec_tf.schema import FEATURES_FILE, ITEM_ID, Feature, Schema
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
    folder = DatasetFolder(write_dataset(path, sequences, FEATURES, cold_items=["new-4"]))
    (path / FEATURES_FILE).write_text(json.dumps({"step": {"values": [str(step) for step in range(STEPS)]}}))
    return folder


def trained(dataset, path, name, *settings):
    width = "units" if name == "gru4rec" else "dim"
    settings = (f"model.{width}=16", "model.max_len=8", "train.learning_rate=0.01", "train.epochs=6", *settings)
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
def test_items_that_came_after_training_are_recommended_by_a_saved_model(dataset, tmp_path, name):
    settings = ["model.item_features=step", "model.num_negatives=8"]
    settings += ["model.loss=sampled-softmax"] if name != "din" else []
    run = trained(dataset, tmp_path, name, *settings)
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


@pytest.fixture(scope="module")
def run_by_features(dataset, tmp_path_factory):
    return trained(dataset, tmp_path_factory.mktemp("features"), "sasrec", "model.item_features=step", "train.epochs=1")


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
def test_a_file_of_new_items_that_cannot_be_used_says_why(run_by_features, tmp_path, text, message):
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        export.export(run_by_features, tmp_path / "models" / "shop", k=5, items=str(tmp_path / "new.csv"))
    assert not any((tmp_path / "models" / "shop").glob("*"))


def test_quotes_of_new_items_are_letters_where_those_of_the_dataset_are(dataset, tmp_path, monkeypatch):
    (tmp_path / "new.csv").write_text('item_id,step\n2"-pipe,4\n"other,6\n')
    with pytest.raises(ValueError, match="quotes do not match"):
        new_items.read(str(tmp_path / "new.csv"), dataset, ["step"])
    monkeypatch.setattr(dataset, "schema", dataclasses.replace(dataset.schema, items_are_quoted=False))
    found = new_items.read(str(tmp_path / "new.csv"), dataset, ["step"])
    assert found.ids == ['2"-pipe', '"other']
    assert found.values["step"].tolist() == [6, 8]


def test_a_model_that_scores_by_ids_refuses_new_items(dataset, tmp_path):
    run = trained(dataset, tmp_path, "nova", "train.epochs=1")
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


@pytest.fixture(scope="module")
def labelled_shop(tmp_path_factory):
    """Who likes what follows from the user's country and age alone: the even items in some, the odd ones in others."""
    path = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    users, events = ["user_id,country,age,hobbies"], ["user_id,item_id,timestamp,label"]
    for user in range(340):
        country, is_old = random.integers(2), random.integers(2)
        is_new = user >= 300  # with more hobbies than events
        hobbies = ("a|b|c|d" if is_new else "a|b") if is_old else ""
        users.append(f"u{user},{('no', 'se')[country]},{20 + 40 * is_old},{hobbies}")
        for time in range(4 if is_new else 12):
            item = random.integers(10)
            events.append(f"u{user},i{item},{1_700_000_000 + time},{int(item % 2 == (country + is_old) % 2)}")
    (path / "users.csv").write_text("\n".join(users) + "\n")
    (path / "events.csv").write_text("\n".join(events) + "\n")
    status = cli.main(
        [
            *("prepare", "--input", str(path / "events.csv"), "--users", str(path / "users.csv")),
            *("--label-column", "label", "--output", str(path / "dataset")),
            *("--user-feature", "country:category", "age:number", "hobbies:categories"),
        ]
    )
    assert status == 0
    return DatasetFolder(path / "dataset")


def test_ranking_by_features_of_users_from_events_to_the_saved_model(labelled_shop, tmp_path):
    settings = ["model.hidden_dims=[32,16]", "data.batch_size=16", "train.epochs=8"]
    aucs = {}
    for name, features in (("blind", []), ("seeing", ['model.user_features=["*"]'])):
        run = trained(labelled_shop, tmp_path / name, "wide_deep", *settings, "model.use_history=false", *features)
        model = run.load_model()
        aucs[name] = evaluate.evaluate(model, labelled_shop, protocol="labels").metrics["auc"].value
    assert aucs["blind"] < 0.65
    assert aucs["seeing"] > 0.95
    arguments = ["evaluate", "--run", str(run.path), "--json", str(tmp_path / "figures.json")]
    assert cli.main(arguments) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())["protocols"]["labels"]["wide_deep"]["metrics"]
    assert figures.keys() == {"auc", "logloss", "calibration"}  # each user has one event to predict: no AUC of users
    path = export.export(run, tmp_path / "models" / "ctr", k=5)  # compares the answers to golden requests
    rank = tf.saved_model.load(str(path)).signatures["rank"]
    assert set(rank.structured_input_signature[1]) == {
        *("history", "candidates", "country", "age", "hobbies", "history_timestamps", "timestamp")
    } - ({"history_timestamps", "timestamp"} - set(model.reads))

    def scores(country, age, hobbies, history="i1"):
        answer = rank(
            history=tf.constant([[history]]),
            candidates=tf.constant([["i2", "i3"]]),
            country=tf.constant([country]),
            age=tf.constant([age], tf.float32),
            hobbies=tf.constant([hobbies]),
        )
        even, odd = answer["scores"].numpy()[0]
        return even - odd

    assert scores("no", 20, [""]) > 1
    assert scores("se", 20, [""]) < -1
    assert scores("se", 60, ["b", "a"]) > 1
    assert scores("se", 60, ["b", "a"], history="") == scores("se", 60, ["b", "a"])  # a visitor without any event
    # As training reads users: without blanks at the ends, and no more of several categories than a training user has.
    assert scores(" se", 60, ["b ", "a"]) == scores("se", 60, ["b", "a"])
    assert scores("se", 60, ["b", "a", "c", "d", "a", "a"]) == scores("se", 60, ["b", "a", "c", "d"])
    for unknown in (("fi", 20, ["zz"]), ("", float("nan"), [""])):
        assert np.isfinite(scores(*unknown))


@pytest.mark.parametrize("history_length", [None, 3])
def test_golden_requests_to_a_ranking_model_hold_what_was_liked(labelled_shop, tmp_path, history_length):
    """With its times; export compares the answers. Of who liked nothing the history is empty."""
    run = trained(labelled_shop, tmp_path, "bst", "model.hidden_dims=[8]", "data.batch_size=16", "train.epochs=1")
    path = export.export(run, tmp_path / "models" / "ctr", k=5, history_length=history_length)
    golden = json.loads((path / "assets.extra" / "golden_requests.json").read_text())
    liked = {()}
    for batch in read_split(labelled_shop, "test"):
        for items, labels in zip(batch["item_ids"].to_list(), batch["labels"].to_list(), strict=True):
            events = zip(items[:-1], range(1_700_000_000, 1_800_000_000), labels, strict=False)
            events = [(labelled_shop.item_ids[item - 1], time) for item, time, label in events if label]
            liked.add(tuple(events[-(history_length or 8) :]))  # 8 is model.max_len
    sent = [
        tuple(event for event in zip(request["history"], request["history_timestamps"], strict=True) if event[0])
        for request in golden
    ]
    assert set(sent) <= liked
    assert max(map(len, sent)) == (history_length or 8)


def test_a_feature_of_users_that_the_dataset_lacks_is_named(labelled_shop, chain_dataset):
    with pytest.raises(ValueError, match=r"model.user_features must be one of .*got 'contry'. Did you mean 'country'"):
        models.BST.from_dataset(labelled_shop, user_features=("contry",))
    with pytest.raises(ValueError, match=r"BST reads side features of users, and this dataset has none. .*--users"):
        models.BST.from_dataset(chain_dataset, user_features=("*",), num_negatives=2)
