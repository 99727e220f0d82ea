"""Export: the saved model answers in strings what the trained model answers in ids."""

import ast
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_folders import seal

import seqrec_tf
from seqrec_tf import cli, config, export, models, run_folder
from seqrec_tf.learning import ranking
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.train import train


@pytest.fixture(scope="module")
def run(chain_dataset, tmp_path_factory):
    settings = ("model.num_blocks=1", "model.dim=16", "model.max_len=6", "train.learning_rate=0.01")
    settings += ("data.batch_size=32", "train.epochs=5")
    resolved = config.resolve("sasrec", models.find("sasrec").config_class, settings=settings)
    folder = DatasetFolder(chain_dataset)
    return train(resolved, folder, tmp_path_factory.mktemp("runs") / "run", log=lambda line: None)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export.export(run, tmp_path_factory.mktemp("models") / "shop", k=5)


@pytest.fixture
def versions(exported, tmp_path):
    """A folder with that version, for a test to export more versions to."""
    shutil.copytree(exported, tmp_path / "models" / "shop" / "1")
    return tmp_path / "models" / "shop"


@pytest.fixture(scope="module")
def serve(exported):
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    return lambda *histories: {
        name: value.numpy().tolist() for name, value in signature(history=tf.constant(histories)).items()
    }


def names(*numbers):
    return [f"item-{number:02d}" for number in numbers]


def test_the_answer_is_the_trained_models(run, serve, chain_dataset):
    folder = DatasetFolder(chain_dataset)
    model = run.load_model()
    history = names(3, 4, 5)
    ids = np.array([[folder.item_ids.index(item) + 1 for item in history]], np.int32)
    items, scores = ranking.recommend(model, model.query({"item_ids": ids}), ids, k=5)
    answer = serve(history)
    assert [item.decode() for item in answer["items"][0]] == [folder.item_ids[item - 1] for item in items[0]]
    np.testing.assert_allclose(answer["scores"][0], scores[0], rtol=1e-5, atol=1e-6)


def test_it_recommends_what_comes_next(serve):
    assert serve(names(3, 4, 5))["items"][0][0] == b"item-06"


def test_history_is_not_recommended(serve):
    answer = serve(names(*range(17)))
    assert set(answer["items"][0]) == {b"item-17", b"item-18", b"item-19", b""}
    assert answer["items"][0][3:] == [b"", b""]
    assert answer["scores"][0][3] == np.finfo(np.float32).min


def test_padding_and_unknown_ids_change_nothing_and_are_counted(serve):
    plain, padded, unknown = serve(
        [*names(3, 4, 5), "", ""], ["", *names(3), "", *names(4, 5)], ["new", *names(3, 4), "newer", *names(5)]
    )["scores"]
    np.testing.assert_allclose(plain, padded, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(plain, unknown, rtol=1e-5, atol=1e-6)
    assert serve(["new", "item-03", "", "newer"])["num_unknown"] == [2]


def test_a_long_history_counts_its_newest_known_events(serve):
    long = names(*range(10, 18))
    assert serve(long)["items"][0][0] == b"item-18"
    old_part_replaced = names(1, 2) + long[2:]  # max_len is 6: these two are too old to matter, but are excluded
    kept = [s for i, s in zip(serve(long)["items"][0], serve(long)["scores"][0], strict=True) if i == b"item-18"]
    same = serve(old_part_replaced)
    assert [s for i, s in zip(same["items"][0], same["scores"][0], strict=True) if i == b"item-18"] == pytest.approx(
        kept
    )


@pytest.mark.parametrize("history", [[""], ["nobody knows"], ["", ""]])
def test_an_empty_history_gets_the_most_popular_items(serve, chain_dataset, history):
    folder = DatasetFolder(chain_dataset)
    answer = serve(history)
    assert [item.decode() for item in answer["items"][0]] == folder.item_ids[:5]
    np.testing.assert_allclose(np.exp(answer["scores"][0]), np.array(folder.item_counts[:5]) / sum(folder.item_counts))


def test_a_history_of_no_columns_is_answered(exported):
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    assert signature(history=tf.zeros([2, 0], tf.string))["items"].shape == (2, 5)


@pytest.fixture(scope="module")
def run_without_repeats(write_dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("without_repeats")
    sequences = {f"user-{user}": names(*((user + place) % 20 for place in range(8))) for user in range(40)}
    folder = DatasetFolder(write_dataset(path / "dataset", sequences))
    settings = ("model.num_blocks=1", "model.dim=4", "model.max_len=6", "train.epochs=1")
    resolved = config.resolve("sasrec", models.find("sasrec").config_class, settings=settings)
    return train(resolved, folder, path / "run", log=lambda line: None)


@pytest.mark.parametrize(
    ("duplicates", "sent", "same_as"),
    [
        ("consecutive", [5, 3, 3, 4, 3], [5, 3, 4, 3]),
        ("all", [3, 4, 4, 3, 5, 3], [3, 4, 5]),
        ("keep", [3, 4, 4], [3, 4, 4]),
    ],
)
def test_repeats_that_training_dropped_are_dropped(run_without_repeats, tmp_path, duplicates, sent, same_as):
    run = shutil.copytree(run_without_repeats.path, tmp_path / "run")
    dataset = shutil.copytree(run_without_repeats.open_dataset(None).path, tmp_path / "dataset")
    for file in (dataset / "schema.json", run / "dataset.json"):
        whole = json.loads(file.read_text())
        whole.get("schema", whole)["repeats"] = duplicates
        file.write_text(json.dumps(whole))
    seal(dataset)
    run_folder.complete(run)
    path = export.export(RunFolder(run), tmp_path / "models" / "shop", dataset=str(dataset), k=5)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    answer, expected, dropped = (
        serve(history=tf.constant([["", *names(*history), ""]])) for history in (sent, same_as, sorted(set(sent)))
    )
    for name in ("items", "scores"):
        np.testing.assert_array_equal(answer[name], expected[name])
    if duplicates == "keep":
        assert not np.array_equal(answer["scores"], dropped["scores"])


def test_neighbours_that_filters_made_are_no_golden_request(write_dataset, tmp_path):
    """`a x a`, of which filters leave `a a`, is another request than `a a`, which has a repeat."""
    sequences = {f"user-{user}": "abcdefgh" if user % 2 else "abbcdefg" for user in range(60)}
    dataset = tmp_path / "dataset"
    write_dataset(dataset, sequences)
    schema = json.loads((dataset / "schema.json").read_text())
    (dataset / "schema.json").write_text(json.dumps(schema | {"repeats": "consecutive"}))
    seal(dataset)
    settings = ("model.num_blocks=1", "model.dim=4", "model.max_len=8", "train.epochs=1")
    resolved = config.resolve("sasrec", models.find("sasrec").config_class, settings=settings)
    run = train(resolved, DatasetFolder(dataset), tmp_path / "run", log=lambda line: None)
    path = export.export(run, tmp_path / "models" / "shop", k=3)
    golden = json.loads((path / "assets.extra" / "golden_requests.json").read_text())
    assert {"".join(request["history"]) for request in golden} == {"abcdefg"}


def test_a_version_that_takes_other_requests_says_so(run, versions, chain_dataset, tmp_path, capsys):
    exported = ["export", "--run", str(run.path), "--output", str(versions)]

    def said(*options):
        capsys.readouterr()
        assert cli.main([*exported, *options]) == 0
        return capsys.readouterr().err

    assert export.changed_inputs(versions / "1") == ""
    assert said() == ""
    assert "Requests for version 2 do not fit version 3: history is string of length 6, not string." in said(
        "--history-length", "6"
    )
    settings = ("model.dim=4", "model.max_len=6", "train.epochs=1")
    fpmc = config.resolve("fpmc", models.find("fpmc").config_class, settings=settings)
    exported[2] = str(train(fpmc, DatasetFolder(chain_dataset), tmp_path / "run", log=lambda line: None).path)
    assert "history is string, not string of length 6; user_id is new." in said()


def test_rows_do_not_influence_each_other(serve):
    together = serve(names(3, 4, 5), names(7, 8, 9))["scores"]
    np.testing.assert_allclose(together[1], serve(names(7, 8, 9))["scores"][0], rtol=1e-5, atol=1e-6)


def test_tensorflow_alone_answers(exported, serve):
    """In a process without this package: no operation is of it, or of Python."""
    code = (
        "import sys, tensorflow as tf\n"
        f"signature = tf.saved_model.load({str(exported)!r}).signatures['serving_default']\n"
        f"print(signature(history=tf.constant([{names(3, 4, 5)}]))['items'].numpy().tolist())\n"
        "sys.exit(' '.join({'seqrec_tf', 'tensorflow_text'} & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == serve(names(3, 4, 5))["items"]


def test_every_output_has_the_batch_first(exported):
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    assert all(spec.shape[0] is None for spec in signature.structured_outputs.values())
    assert {name: spec.dtype.name for name, spec in signature.structured_outputs.items()} == {
        "items": "string",
        "scores": "float32",
        "num_unknown": "int32",
    }


def test_candidates_are_ranked_by_the_scores_they_are_recommended_with(exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    history = tf.constant([names(3, 4), ["", ""]])
    best = signatures["serving_default"](history=history)
    candidates = tf.concat([best["items"][:, ::-1], [["nowhere", ""]] * 2], axis=1)
    ranked = signatures["rank"](history=history, candidates=candidates)
    np.testing.assert_allclose(ranked["scores"][:, :-2], best["scores"][:, ::-1], rtol=1e-5, atol=1e-6)
    assert np.all(ranked["scores"][:, -2:] == np.finfo(np.float32).min)
    assert ranked["num_unknown"].numpy().tolist() == [0, 0]


def test_golden_and_warm_up_requests_are_stored(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    golden = json.loads((exported / "assets.extra" / "golden_requests.json").read_text())
    assert len(golden) == 50
    export.check_golden(exported, golden, None)
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(exported / "assets.extra" / "tf_serving_warmup_requests"))
    ]
    requests = [log.predict_log.request for log in logs]
    assert {request.model_spec.name for request in requests} == {"shop"}
    first = ("history", "item", "inputs")  # of which each signature takes one
    sizes = [
        (r.model_spec.signature_name, r.inputs[name].tensor_shape.dim[0].size)
        for r in requests
        for name in first
        if name in r.inputs
    ]
    names = ("serving_default", "recommend", "rank", "embed", "similar", "examples", "regress")
    assert sizes == [(name, size) for name in names for size in (1, 8, 64)]
    own = {"recommend": {"exclude", "allow", "k"}, "rank": {"candidates"}}
    for request in requests:
        wanted = own.get(request.model_spec.signature_name, set())
        assert set(request.inputs) - {*first} == wanted


def test_what_a_model_was_made_of_is_beside_it(run, exported, chain_dataset):
    extra = exported / "assets.extra"
    assert (extra / "config.toml").read_text() == (run.path / "config.toml").read_text()
    made_of = json.loads((extra / "dataset.json").read_text())
    assert made_of["fingerprint"] == DatasetFolder(chain_dataset).fingerprint
    assert made_of["versions"] == {module.__name__: module.__version__ for module in (seqrec_tf, tf, keras)}


@pytest.mark.parametrize("name", ["bprmf", "caser", "fmc", "fpmc", "itemknn", "neumf", "poprec", "spop", "transrec"])
def test_models_of_users_and_models_that_count_are_exported_too(name, chain_dataset, tmp_path):
    """Those that no other test exports; exporting compares the answers with the trained model's."""
    settings = ("data.batch_size=32", "train.epochs=1", "train.learning_rate=0.01")
    resolved = config.resolve(name, models.find(name).config_class, settings=settings)
    run = train(resolved, DatasetFolder(chain_dataset), tmp_path / "run", log=lambda line: None)
    serve = tf.saved_model.load(str(export.export(run, tmp_path / "shop", k=5))).signatures["serving_default"]
    assert ("user_id" in serve.structured_input_signature[1]) == ("user_id" in run.load_model().reads)
    if "user_id" in run.load_model().reads:
        users = tf.constant(["user-0", "user-1", "nobody"])
        known, other, unknown = serve(history=tf.constant([[""]] * 3), user_id=users)["scores"].numpy()
        assert np.abs(known - other).max() > 1e-6
        counts = np.array(DatasetFolder(chain_dataset).item_counts)
        np.testing.assert_allclose(np.exp(unknown), counts[:5] / counts.sum(), rtol=1e-5)


def test_a_saved_model_that_answers_otherwise_is_not_published(run, tmp_path, monkeypatch):
    honest = export.golden_requests

    def shifted(*args, **options):
        requests = honest(*args, **options)
        requests[3]["scores"] = [score + 0.01 for score in requests[3]["scores"]]
        return requests

    monkeypatch.setattr(export, "golden_requests", shifted)
    with pytest.raises(RuntimeError, match="does not answer as the trained one; the scores differ"):
        export.export(run, tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


def test_swapped_items_are_noticed(exported):
    golden = json.loads((exported / "assets.extra" / "golden_requests.json").read_text())
    golden[0]["items"][:2] = golden[0]["items"][1::-1]
    with pytest.raises(RuntimeError, match="the items differ"):
        export.check_golden(exported, golden, None)


def test_versions_count_up_and_are_not_overwritten(run, exported, versions):
    assert exported.name == "1"
    assert export.export(run, versions).name == "2"
    with pytest.raises(FileExistsError, match="Leave out --version to write 3"):
        export.export(run, versions, version=2)


def test_the_history_length_can_be_fixed(run, tmp_path):
    path = export.export(run, tmp_path / "shop", history_length=4)
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    assert signature.structured_input_signature[1]["history"].shape == (None, 4)


def test_more_items_than_there_are_is_an_error(run, tmp_path, capsys):
    assert cli.main(["export", "--run", str(run.path), "--output", str(tmp_path / "shop"), "--k", "21"]) == 2
    assert "--k must be from 1 to the number of items, 20, got 21" in capsys.readouterr().err


def test_a_history_length_below_one_is_an_error(run, tmp_path):
    with pytest.raises(ValueError, match="--history-length must be at least 1, got 0"):
        export.export(run, tmp_path / "shop", history_length=0)


def test_the_run_must_have_finished(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        RunFolder(tmp_path)


def exported_from(sequences, write_dataset, path, name):
    """The signatures of a model of these sequences, which is trained as shortly as can be."""
    write_dataset(path / "dataset", sequences)
    settings = ("train.epochs=1", *(("model.dim=4",) if name == "bprmf" else ()))
    resolved = config.resolve(name, models.find(name).config_class, settings=settings)
    run = train(resolved, DatasetFolder(path / "dataset"), path / "run", log=lambda line: None)
    return tf.saved_model.load(str(export.export(run, path / "models" / "shop", k=2))).signatures


def test_requests_may_spell_numbers_as_floats_where_all_ids_are_numbers(write_dataset, tmp_path):
    asked = exported_from({"1": "12345", "2.0": "23451", "3": "34512"}, write_dataset, tmp_path, "bprmf")
    plain, spelled = (
        asked["rank"](history=tf.constant([history]), candidates=tf.constant([candidates]), user_id=tf.constant([user]))
        for history, candidates, user in [
            (["1", "2", "3"], ["4", "5"], "2"),
            ([" 1.0", "2", "3.00\u00a0"], ["4.0", "5 "], " 2.0 "),
        ]
    )
    assert plain["num_unknown"].numpy().tolist() == spelled["num_unknown"].numpy().tolist() == [0]
    np.testing.assert_array_equal(plain["scores"], spelled["scores"])
    unknown = asked["rank"](history=[["01", "1.5"]], candidates=[["04", "4"]], user_id=["2"])
    assert unknown["num_unknown"].numpy().tolist() == [2]
    assert unknown["scores"][0, 0] == tf.float32.min


def test_requests_may_hold_accents_apart_from_their_letters(write_dataset, tmp_path):
    items = ["Caf\u00e9", "\u1ea4n", "7.0", "tent"]
    asked = exported_from(dict.fromkeys("abc", items), write_dataset, tmp_path, "poprec")
    answer = asked["serving_default"](history=[["Cafe\u0301", "A\u0302\u0301n", "Caf\u00e9 ", "7", "7.0"]])
    assert answer["num_unknown"].numpy().tolist() == [1]  # 7, as these ids are text
    assert answer["items"].numpy().tolist() == [[b"tent", b""]]
