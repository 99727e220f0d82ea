"""Versions of models: loading, warm-up, hot swap."""

import shutil
import threading
import time
import weakref

import pytest
import tensorflow as tf
from rest_calls import SHOP, available, get, post

from seqrec_tf import export
from serving.model_store import LoadedModel, ModelStore
from serving.rest_json import StatusError


def test_every_model_is_loaded_with_one_line(models):
    lines = []
    ModelStore(models, report=lines.append).poll()
    assert [line.split(" loaded in ")[0] for line in lines] == [
        "examples version 1",
        "fixed version 1",
        "numbers version 1",
        "shop version 7",
    ]


def test_a_newer_version_takes_over_and_requests_under_way_keep_the_old_one(shop, export_recommender, asking):
    lines = []
    store = ModelStore(shop, report=lines.append)
    store.poll()
    old = store.find("shop", None, None)
    export_recommender(shop / "shop" / "8", top_score=2.0)
    store.poll()
    with asking(store) as web:
        status, answer = post(web, f"{SHOP}:predict", {"instances": [["apple"]]})
        assert (status, answer["predictions"][0]["scores"][0]) == (200, 1.0)
        assert old.predict("", {"history": [["apple"]]})["scores"][0, 0] == 0.5
        assert post(web, f"{SHOP}/versions/7:predict", {"instances": [["apple"]]})[0] == 404
        end = {**available(7), "state": "END"}
        assert get(web, SHOP) == (200, {"model_version_status": [available(8), end]})
    assert lines[1].startswith("shop version 8 loaded in ")


def test_a_removed_version_gives_way_to_the_one_before(shop, export_recommender):
    export_recommender(shop / "shop" / "8", top_score=2.0)
    store = ModelStore(shop, report=lambda line: None)
    store.poll()
    shutil.rmtree(shop / "shop" / "8")
    store.poll()
    assert store.find("shop", None, None).version == 7


def test_a_version_that_fails_to_load_is_reported_once_and_the_old_one_stays(shop, asking):
    lines = []
    store = ModelStore(shop, report=lines.append)
    store.poll()
    (shop / "shop" / "8").mkdir()
    store.poll()
    store.poll()
    assert len(lines) == 2
    assert lines[1].startswith("shop version 8 failed to load; version 7 stays: ")
    with asking(store) as web:
        assert post(web, f"{SHOP}:predict", {"instances": [["apple"]]})[0] == 200
        broken, served = get(web, SHOP)[1]["model_version_status"]
    assert (broken["version"], broken["state"]) == ("8", "END")
    assert broken["status"]["error_code"] != "OK"
    assert served == available(7)


def test_a_version_that_was_half_written_is_tried_again_once_it_changes(shop, export_recommender):
    store = ModelStore(shop, report=lambda line: None)
    (shop / "shop" / "8").mkdir()
    store.poll()
    assert not store.models
    export_recommender(shop / "shop" / "8")
    store.poll()
    assert store.find("shop", 8, None).version == 8


@pytest.mark.parametrize(
    ("warmup", "message"),
    [
        ({"inputs": {"wrong": [["apple"]]}}, "must have the inputs"),
        ({"inputs": {"history": [[1]]}}, "string"),
        ({"inputs": {}, "log_type": "session_run_log"}, "must be a predict_log"),
    ],
)
def test_a_bad_warmup_request_fails_the_load(shop, write_warmup, warmup, message):
    write_warmup(shop / "shop" / "7", **warmup)
    lines = []
    ModelStore(shop, report=lines.append).poll()
    (line,) = lines
    assert line.startswith("shop version 7 failed to load: ")
    assert message in line


def test_a_damaged_warmup_file_fails_the_load(shop):
    (shop / "shop" / "7" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"not a record")
    with pytest.raises(tf.errors.DataLossError):
        LoadedModel(shop / "shop" / "7")


def test_too_many_warmup_requests_fail_the_load(shop):
    path = shop / "shop" / "7" / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes() * 1001)
    with pytest.raises(ValueError, match="more than 1000"):
        LoadedModel(shop / "shop" / "7")


def test_no_request_fails_while_versions_are_swapped(shop, export_recommender, asking):
    store = ModelStore(shop, report=lambda line: None)
    store.poll()
    statuses = set()
    stop = threading.Event()

    def ask(web):
        while not stop.is_set():
            statuses.add(post(web, f"{SHOP}:predict", {"instances": [["apple"]]})[0])

    with asking(store) as web:
        asker = threading.Thread(target=ask, args=[web])
        watcher = threading.Thread(target=store.watch, kwargs={"period_s": 0.02, "stop": stop})
        for thread in (asker, watcher):
            thread.start()
        # Written beside and renamed, as an export does.
        export_recommender(shop / "new", top_score=2.0)
        (shop / "new").rename(shop / "shop" / "8")
        deadline = time.monotonic() + 20
        while store.find("shop", None, None).version != 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        stop.set()
        asker.join()
        watcher.join()
    assert store.find("shop", None, None).version == 8
    assert statuses == {200}


def test_a_damaged_version_of_ours_names_its_file(finished, tmp_path):
    version = export.export(finished[0], tmp_path / "shop", k=3)
    file = version / "saved_model.pb"
    content = file.read_bytes()
    file.write_bytes(b"\xff" * len(content))
    with pytest.raises(ValueError, match=rf"{file} is not what was written: .* `seqrec export`"):
        LoadedModel(version)
    file.write_bytes(content[:100])
    with pytest.raises(ValueError, match=rf"{file} has 100 bytes where .* were written: it was cut short"):
        LoadedModel(version)


def test_a_model_whose_last_version_goes_is_unloaded(shop):
    lines = []
    store = ModelStore(shop, report=lines.append)
    store.poll()
    model = weakref.ref(store.find("shop", None, None))
    shutil.rmtree(shop / "shop" / "7")
    store.poll()
    assert not store.models
    assert lines[1] == "shop version 7 unloaded"
    assert store.statuses("shop", None) == [{**available(7), "state": "END"}]
    assert model() is None  # and its memory is free


def test_models_stay_while_their_folder_cannot_be_read(shop):
    store = ModelStore(shop, report=lambda line: None)
    store.poll()
    shop.rename(shop.parent / "away")
    with pytest.raises(FileNotFoundError):
        store.poll()
    assert store.find("shop", None, None).version == 7


CONFIG = """model_config_list { config {
  name: "shop" base_path: "/models/shop" model_platform: "tensorflow"
  model_version_policy { specific { %s } }
  %s
} }"""


def labels(**versions):
    return "".join(f'version_labels {{ key: "{label}" value: {version} }}' for label, version in versions.items())


def test_a_configuration_says_which_versions_and_labels_are_served(shop, export_recommender):
    export_recommender(shop / "shop" / "8", top_score=2.0)
    config = shop.parent / "models.config"
    config.write_text(CONFIG % ("versions: 7 versions: 8", labels(stable=7, canary=8)))
    store = ModelStore(shop, report=lambda line: None, config_file=config)
    store.poll()
    assert [store.find("shop", None, label).version for label in (None, "stable", "canary")] == [8, 7, 8]
    with pytest.raises(StatusError, match="Unrecognized servable version label: other"):
        store.find("shop", None, "other")

    config.write_text(CONFIG % ("versions: 8", labels(stable=8)))  # the canary is promoted, the old one goes
    store.poll()
    assert store.find("shop", None, "stable").version == 8
    with pytest.raises(StatusError, match=r"Specific\(shop, 7\)"):
        store.find("shop", 7, None)

    config.write_text(CONFIG % ("versions: 8 versions: 9", labels(stable=9)))  # 9 is not there yet
    store.poll()
    assert store.find("shop", None, "stable").version == 8

    config.write_text("model_config_list {")
    with pytest.raises(ValueError, match="is no ModelServerConfig of TF Serving"):
        store.poll()
    assert store.find("shop", None, "stable").version == 8


def test_several_of_the_latest_versions_are_served_where_the_configuration_says_so(shop, export_recommender):
    export_recommender(shop / "shop" / "8")
    export_recommender(shop / "shop" / "9")
    config = shop.parent / "models.config"
    config.write_text((CONFIG % ("", "")).replace("specific {  }", "latest { num_versions: 2 }"))
    store = ModelStore(shop, report=lambda line: None, config_file=config)
    store.poll()
    assert [state["version"] for state in store.statuses("shop", None)] == ["9", "8"]
    assert store.find("shop", 8, None).version == 8
