"""The signatures of saved models: of one stage with rules, and of two stages, against what the trained models say."""

import csv
import json
import random
import re

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import cli, export
from seqrec_tf.exporting import rules
from seqrec_tf.exporting.golden import greedy
from seqrec_tf.learning import ranking
from seqrec_tf.run_folder import RunFolder

K = 6
LOWEST = np.finfo(np.float32).min


def write(path, header, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset with labels, times and items, and on it a SASRec and a DIN."""
    path, rng = tmp_path_factory.mktemp("two"), random.Random(3)
    events = []
    for user in range(60):
        item = rng.randrange(24)
        for step in range(9):
            events.append((f"u{user}", f"i{item:02d}", 1_700_000_000 + 1000 * step + user, int(rng.random() < 0.7)))
            item = (item + rng.choice([1, 1, 2, 7])) % 24
    write(path / "events.csv", ("user_id", "item_id", "timestamp", "label"), events)
    tags = [("x|y", "y", "z|x", "")[item % 4] for item in range(24)]
    items = [(f"i{item:02d}", "abc"[item % 3], tags[item]) for item in range(24)]
    write(path / "items.csv", ("item_id", "brand", "tags"), items)
    small = "data.batch_size=32 train.epochs=1 train.learning_rate=0.01 model.dim=8"
    for command in (
        f"prepare --input {path}/events.csv --items {path}/items.csv --label-column label --output {path}/dataset",
        f"train --dataset {path}/dataset --model sasrec --output {path}/sasrec --set {small} model.num_blocks=1",
        f"train --dataset {path}/dataset --model din --output {path}/din --set {small} model.hidden_dims=[8]",
    ):
        assert cli.main(command.split()) == 0
    return path


@pytest.fixture(scope="module")
def run(place):
    return RunFolder(place / "sasrec")


@pytest.fixture(scope="module")
def ruled(run, tmp_path_factory):
    """A SASRec with rules, its item vectors, and its version."""
    path = tmp_path_factory.mktemp("ruled")
    wanted = rules.parse(["brand=2", "tags=3"], ["tags=z"])
    version = export.export(run, path / "models" / "shop", k=K, wanted_rules=wanted, item_vectors=str(path / "vectors"))
    return path, tf.saved_model.load(str(version)).signatures


@pytest.fixture(scope="module")
def two(place, run, tmp_path_factory):
    version = export.export(
        run, tmp_path_factory.mktemp("two") / "shop", k=K, ranker=RunFolder(place / "din"), num_candidates=12
    )
    return version, tf.saved_model.load(str(version)).signatures


def ids_of(run, items):
    known = run.open_dataset().item_ids
    return np.array([[known.index(item) + 1 for item in items]], np.int32)


def strings(*rows):
    return tf.constant([list(row) for row in rows], shape=[len(rows), len(rows[0])], dtype=tf.string)


def texts(row):
    return [item.decode() for item in row.numpy()]


HISTORY = ["i03", "i04", "i05"]
EXCLUDED = ["i08", "i09"]


def test_rules_hold_for_all_lists(run, ruled):
    _, signatures = ruled
    folder, model = run.open_dataset(), run.load_model()
    values = folder.item_values(["brand", "tags"])
    z = folder.learned_of_items["tags"]["values"].index("z") + 2
    ids = ids_of(run, HISTORY)
    ranked, _ = ranking.recommend(model, model.query({"item_ids": ids}), ids, k=24 - 3)
    ranked = np.array([item for item in ranked[0].numpy() if z not in values["tags"][item]])
    taken = ranked[greedy(ranked, [(values["brand"][:, None], 2), (values["tags"], 3)])]
    expected = [folder.item_ids[item - 1] for item in taken[:K]]
    answer = signatures["serving_default"](history=strings(HISTORY))
    assert [item for item in texts(answer["items"][0]) if item] == expected
    without = [folder.item_ids[item - 1] for item in taken if folder.item_ids[item - 1] != expected[0]]
    answer = signatures["recommend"](
        history=strings(HISTORY),
        exclude=strings(expected[:1]),
        allow=strings([*without[:4], "nobody knows"]),
        k=tf.constant([3], tf.int64),
    )
    assert texts(answer["items"][0]) == [*without[:3], "", "", ""]
    assert answer["scores"].numpy()[0, 3:].tolist() == [LOWEST] * 3


def test_what_each_row_says_holds_for_it_alone(run, tmp_path, ruled):
    """Excluded and allowed items, also of those of whom nothing is known, who are answered by popularity."""
    _, signatures = ruled
    folder = run.open_dataset()
    rows = {
        "history": strings(HISTORY, [""] * 3, [""] * 3, HISTORY),
        "exclude": strings(["", ""], folder.item_ids[:2], ["", ""], EXCLUDED),
        "allow": strings(["i20", "i21"], ["", ""], ["i07", "i10"], ["nobody", "knows"]),
        "k": tf.constant([0, 2, 100, 0], tf.int64),
    }
    answer = signatures["recommend"](**rows)
    listed = [[item for item in texts(row) if item] for row in answer["items"]]
    assert set(listed[0]) <= {"i20", "i21"}
    assert not set(listed[1]) & set(folder.item_ids[:2])
    assert len(listed[1]) == 2
    by_count = [item for item in folder.item_ids if item in ("i07", "i10")]
    assert [item for item in by_count if item in listed[2]] == listed[2]
    assert listed[3] == []


def test_the_vectors_of_histories_and_items_give_the_scores(ruled):
    import pyarrow.parquet as pq

    path, signatures = ruled
    table = pq.read_table(path / "vectors" / "items.parquet")
    vectors = np.load(path / "vectors" / "vectors.npy")
    ids = (path / "vectors" / "ids.txt").read_text().splitlines()
    assert table["item_id"].to_pylist() == ids
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)
    histories = strings(HISTORY, ["i11", "i12", "i13"], ["", "", ""])
    answer = signatures["serving_default"](history=histories)
    query = signatures["embed"](history=histories)["vector"].numpy()
    for row in range(2):
        of_items = vectors[[ids.index(item) for item in texts(answer["items"][row]) if item]]
        np.testing.assert_allclose(of_items @ query[row], answer["scores"][row][: len(of_items)], rtol=1e-5, atol=1e-6)
    assert not query[2].any()  # nothing is known


def test_similar_items_are_those_of_the_highest_cosine(run, ruled):
    path, signatures = ruled
    vectors = np.load(path / "vectors" / "vectors.npy")
    folder = run.open_dataset()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[folder.item_ids.index("i05")]
    answer = signatures["similar"](item=tf.constant(["i05", "nobody knows", ""]))
    items = [item for item in texts(answer["items"][0]) if item]
    scores = answer["scores"].numpy()[0]
    np.testing.assert_allclose(scores[: len(items)], cosine[[folder.item_ids.index(item) for item in items]], rtol=1e-5)
    values = folder.item_values(["brand", "tags"])
    ranked = np.argsort(-cosine, kind="stable") + 1
    z = folder.learned_of_items["tags"]["values"].index("z") + 2
    ranked = np.array([i for i in ranked if folder.item_ids[i - 1] != "i05" and z not in values["tags"][i]])
    taken = ranked[greedy(ranked, [(values["brand"][:, None], 2), (values["tags"], 3)])[:K]]
    assert items == [folder.item_ids[item - 1] for item in taken]
    assert set(texts(answer["items"][1])) == set(texts(answer["items"][2])) == {""}
    assert answer["num_unknown"].numpy().tolist() == [0, 1, 0]


def example(**features):
    made = tf.train.Example()
    for name, values in features.items():
        kind = made.features.feature[name]
        if isinstance(values[0], str):
            kind.bytes_list.value.extend(value.encode() for value in values)
        else:
            kind.int64_list.value.extend(values)
    return made.SerializeToString()


def test_examples_get_the_same_answers_and_may_leave_out_what_they_do_not_need(ruled):
    _, signatures = ruled
    asked = tf.constant([example(history=HISTORY), example(history=HISTORY[1:], exclude=EXCLUDED, k=[2])])
    answer = signatures["examples"](inputs=asked)
    expected = signatures["recommend"](
        history=strings(HISTORY, [*HISTORY[1:], ""]),
        exclude=strings(["", ""], EXCLUDED),
        allow=strings([""], [""]),
        k=tf.constant([0, 2], tf.int64),
    )
    np.testing.assert_array_equal(answer["classes"], expected["items"])
    np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-5)
    of_one = signatures["regress"](inputs=tf.constant([example(history=HISTORY, candidates=["i10"])]))["outputs"]
    ranked = signatures["rank"](history=strings(HISTORY), candidates=strings(["i10"]))["scores"]
    np.testing.assert_allclose(of_one, ranked[:, 0], rtol=1e-5)


def test_two_stages_answer_as_the_two_by_hand(place, run, two):
    _, signatures = two
    folder, first, second = run.open_dataset(), run.load_model(), RunFolder(place / "din").load_model()
    history, labels = ["i01", "i02", "i09", "i10"], [1, 0, 1, 1]
    times = [1_700_000_000 + 60 * step for step in range(4)]
    ids = ids_of(run, history)
    proposed, _ = ranking.recommend(first, first.query({"item_ids": ids}), ids, k=12)
    liked = ids[:, np.array(labels) == 1]
    inputs = {"item_ids": liked, "timestamps": np.array([times])[:, np.array(labels) == 1]}
    inputs = {name: inputs[name] for name in ("item_ids", *second.reads)}
    scores = second.score_candidates(second.query(inputs), proposed).numpy()[0]
    order = np.argsort(-scores, kind="stable")[:K]
    sent = {"history": strings(history), "history_labels": tf.constant([labels], tf.int64)}
    answer = signatures["serving_default"](**sent)
    assert texts(answer["items"][0]) == [folder.item_ids[item - 1] for item in proposed.numpy()[0][order]]
    np.testing.assert_allclose(answer["scores"][0], scores[order], rtol=1e-5, atol=1e-6)
    ranked = signatures["rank"](**sent, candidates=answer["items"])["scores"]
    np.testing.assert_allclose(ranked, answer["scores"], rtol=1e-5, atol=1e-6)
    allowed = signatures["recommend"](
        **sent, exclude=strings([""]), allow=strings(["i20", "i21"]), k=tf.constant([0], tf.int64)
    )
    assert {item for item in texts(allowed["items"][0]) if item} == {"i20", "i21"}


def test_two_stages_hold_what_both_were_made_of(two):
    version, _ = two
    extra = version / "assets.extra"
    assert 'model_name = "din"' in (extra / "rank_config.toml").read_text()
    assert 'model_name = "sasrec"' in (extra / "config.toml").read_text()
    golden = json.loads((extra / "golden_requests.json").read_text())
    assert len(golden) > 20
    assert {tuple(request["history_labels"]) for request in golden} > {(1,) * 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--run {path}/sasrec --max-per color=2",
            "--max-per needs a column of categories .* got 'color'; there are: brand, tags",
        ),
        (
            "--run {path}/sasrec --max-per brand",
            "--max-per expects COLUMN=M with M from 1, such as brand=2, got 'brand'",
        ),
        ("--run {path}/sasrec --exclude-category tags=w", "--exclude-category tags=w: no item has this category"),
        ("--run {path}/din --item-vectors {path}/v", "--item-vectors: scores of DIN are no products of vectors"),
        ("--retrieve {path}/sasrec", "Give --run RUN, or both --retrieve RUN and --rank RUN"),
        ("--retrieve {path}/din --rank {path}/sasrec --candidates 20", "--retrieve needs a model that compares"),
        (
            "--retrieve {path}/sasrec --rank {path}/din --candidates 25",
            "--candidates must be from --k, 20, to the number",
        ),
        ("--run {path}/sasrec --warmup-batch-sizes 1,x", "--warmup-batch-sizes expects positive numbers"),
    ],
)
def test_options_that_do_not_fit_are_refused(place, tmp_path, capsys, options, message):
    words = options.format(path=place).split()
    assert cli.main(["export", *words, "--output", str(tmp_path / "shop")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "shop").exists() or not list((tmp_path / "shop").iterdir())


def test_datasets_of_other_items_do_not_make_two_stages(place, finished, tmp_path):
    with pytest.raises(ValueError, match="do not have the same item ids: item 1 is"):
        export.export(finished[0], tmp_path / "shop", k=3, ranker=RunFolder(place / "din"), num_candidates=5)
