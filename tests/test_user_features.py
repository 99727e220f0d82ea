"""Side features of users, and labels, from the events to the saved model."""

import json

import numpy as np
import pytest
import tensorflow as tf
from small_runs import trained

from seqrec_tf import cli, evaluate, export, models
from seqrec_tf.records import DatasetFolder, read_split
from seqrec_tf.training.preflight import check_features


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


@pytest.fixture(scope="module")
def run_of_bst(labelled_shop, tmp_path_factory):
    settings = ("model.hidden_dims=[8]", "data.batch_size=16", "train.epochs=1")
    return trained(labelled_shop, tmp_path_factory.mktemp("bst"), "bst", *settings)


@pytest.mark.parametrize("history_length", [None, 3])
def test_golden_requests_to_a_ranking_model_hold_what_was_liked(labelled_shop, run_of_bst, tmp_path, history_length):
    """With its times; export compares the answers. Of who liked nothing the history is empty."""
    path = export.export(run_of_bst, tmp_path / "models" / "ctr", k=5, history_length=history_length)
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


def test_a_feature_that_no_user_has_cannot_be_trained_on(labelled_shop, monkeypatch):
    model = models.BST.from_dataset(labelled_shop, user_features=("country", "age"))
    check_features(model, labelled_shop)
    known = labelled_shop.learned_of_users
    monkeypatch.setattr(labelled_shop, "learned_of_users", known | {"age": {"mean": 0.0, "deviation": 1.0}})
    check_features(model, labelled_shop)  # as of a column of zeros, which the records hold
    monkeypatch.setattr(labelled_shop, "learned_of_users", known | {"country": {"values": []}})
    with pytest.raises(ValueError, match=r"No user of .* has a value of 'country', so a model cannot"):
        check_features(model, labelled_shop)
