"""A canary: started, promoted and rolled back on a real server, by the labels of its configuration."""

import json
import shutil
import threading

import pytest
import tensorflow as tf

from seqrec_tf import cli
from serving.canary import State, states, target
from serving.client import Client
from serving.model_store import ModelStore

ITEMS = ["apple", "bread", "cheese"]
CONFIG = """# The shop's models.

model_config_list {
  config {
    name: "shop"
    base_path: "/models/shop"
    model_platform: "tensorflow"
  }
}
"""


class Constant(tf.Module):
    """Scores the items 3, 2 and 1 times `scale`, whatever the history, in all ways that golden requests ask."""

    def __init__(self, scale):
        super().__init__()
        self.scale = tf.constant(scale)

    def _answer(self, is_allowed):
        scores = self.scale * tf.constant([3.0, 2.0, 1.0])
        values, best = tf.math.top_k(tf.where(is_allowed, scores, -1.0), 3)  # [B, 3]
        items = tf.where(values > 0, tf.gather(tf.constant(ITEMS), best), "")
        return {"items": items, "scores": values, "num_unknown": tf.zeros_like(values[:, 0], tf.int32)}

    @tf.function
    def serve(self, history):
        return self._answer(tf.fill([tf.shape(history)[0], 3], True))

    @tf.function
    def among(self, history, exclude, allow, k):
        def has(ids):
            return tf.reduce_any(ids[:, :, None] == tf.constant(ITEMS), axis=1)  # [B, 3]

        return self._answer(has(allow) & ~has(exclude))

    @tf.function
    def rank(self, history, candidates):
        places = tf.argmax(candidates[:, :, None] == tf.constant(ITEMS), axis=2)  # [B, C]
        scores = tf.gather(self.scale * tf.constant([3.0, 2.0, 1.0]), places)
        return {"scores": scores, "num_unknown": tf.zeros_like(scores[:, 0], tf.int32)}


def write_version(folder, *, scale, golden_scale):
    """A model, and a golden request with the answer of one that multiplies by `golden_scale`."""
    ids = tf.TensorSpec([None, None], tf.string)
    module = Constant(scale)
    signatures = {
        "serving_default": module.serve.get_concrete_function(history=ids),
        "recommend": module.among.get_concrete_function(
            history=ids, exclude=ids, allow=ids, k=tf.TensorSpec([None], tf.int64)
        ),
        "rank": module.rank.get_concrete_function(history=ids, candidates=ids),
    }
    tf.saved_model.save(module, str(folder), signatures)
    golden = {"history": ["apple"], "items": ITEMS, "scores": [golden_scale * score for score in (3.0, 2.0, 1.0)]}
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "golden_requests.json").write_text(json.dumps([golden]))


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Versions 1 and 2 answer as they should, 3 does not."""
    folder = tmp_path_factory.mktemp("canary") / "models"
    for version, scale in ((1, 1.0), (2, 2.0), (3, 3.0)):
        write_version(folder / "shop" / str(version), scale=scale, golden_scale=min(scale, 2.0))
    return folder


@pytest.fixture
def place(versions, tmp_path, serving):
    """The configuration of a server of version 1, and what asks for an action."""
    config = tmp_path / "models.config"
    config.write_text(CONFIG.replace("  }\n}", "    model_version_policy { specific { versions: 1 } }\n  }\n}"))
    store = ModelStore(versions, report=lambda line: None, config_file=config)
    store.poll()
    stop = threading.Event()
    watcher = threading.Thread(target=store.watch, kwargs={"period_s": 0.02, "stop": stop})
    watcher.start()
    with serving(store) as url:

        def act(action, *options):
            words = ["canary", action, "--config", str(config), "--model", "shop", "--url", url, "--timeout-s", "20"]
            return cli.main([*words, *options])

        yield config, act, url
    stop.set()
    watcher.join()


def scores(url):
    """The best score by each label."""
    client = Client(url)
    return {label: client.recommend("shop", [["apple"]], version=label)[0].scores[0] for label in ("stable", "canary")}


def test_a_canary_is_started_promoted_and_rolled_back(place, versions, capsys):
    config, act, url = place
    models = ("--models", str(versions))
    assert act("pin") == 0
    assert scores(url) == {"stable": 3.0, "canary": 3.0}
    assert act("start", "--version", "2", *models) == 0
    assert scores(url) == {"stable": 3.0, "canary": 6.0}
    assert act("rollback") == 0
    assert scores(url) == {"stable": 3.0, "canary": 3.0}
    assert act("start", "--version", "2", *models) == 0
    assert act("promote", *models) == 0
    assert scores(url) == {"stable": 6.0, "canary": 6.0}
    assert act("rollback") == 0  # also after it was promoted
    assert scores(url) == {"stable": 3.0, "canary": 3.0}
    assert config.read_text().startswith("# The shop's models.\n")
    assert f"{url}: 3 answers of shop version 2: all as the trained model's\n" in capsys.readouterr().out


def test_a_canary_that_answers_otherwise_gets_no_label(place, versions, capsys):
    config, act, url = place
    assert act("pin") == 0
    before = config.read_text()
    assert act("start", "--version", "3", "--models", str(versions)) == 3
    assert config.read_text() == before
    assert scores(url) == {"stable": 3.0, "canary": 3.0}
    out = capsys.readouterr().out
    assert "answers of shop version 3: 3 differ" in out
    assert "rank, history ending apple: the scores differ: [9.0, 6.0, 3.0], expected [6.0, 4.0, 2.0]" in out


def test_a_version_that_does_not_come_leaves_the_file_as_it_was(place, versions, capsys):
    config, act, _ = place
    assert act("pin") == 0
    before = config.read_text()
    assert act("start", "--version", "9", "--models", str(versions), "--timeout-s", "0.2") == 1
    assert config.read_text() == before
    assert "has not followed within 0.2 s: version 9 is not there." in capsys.readouterr().err


def test_a_command_is_run_after_each_change(place, tmp_path):
    config, act, _ = place
    assert act("pin", "--apply", f"cp {config} {tmp_path / 'applied'}") == 0
    assert (tmp_path / "applied").read_text() == config.read_text()


@pytest.mark.parametrize(("version", "status", "said"), [(1, 0, "all as the trained model's"), (3, 3, "3 differ")])
def test_check_asks_a_server_the_golden_requests(versions, serving, tmp_path, capsys, version, status, said):
    shutil.copytree(versions / "shop" / str(version), tmp_path / "shop" / str(version))
    store = ModelStore(tmp_path, report=lambda line: None)
    store.poll()
    with serving(store) as url:
        assert cli.main(["check", "--url", url, "--model", "shop", "--models", str(versions)]) == status
    assert f"{url}: 3 answers of shop: {said}\n" in capsys.readouterr().out


PINNED = {"stable": 1, "canary": 1}
STARTED = {"stable": 1, "canary": 2}
PROMOTED = {"stable": 2, "canary": 2, "previous": 1}


def test_versions_are_loaded_before_labels_move_and_unloaded_after():
    def steps(versions, labels, to):
        return [(set(state.versions), state.labels) for state in states(State(frozenset(versions), labels), to)]

    assert steps([1], PINNED, STARTED) == [({1, 2}, PINNED), ({1, 2}, STARTED)]
    assert steps([1, 2], STARTED, PROMOTED) == [({1, 2}, PROMOTED)]
    assert steps([1, 2], PROMOTED, PINNED) == [({1, 2}, PINNED), ({1}, PINNED)]
    now, third = {"stable": 2, "canary": 2}, {"stable": 2, "canary": 3}
    assert steps([1, 2], PROMOTED, third) == [({2}, now), ({2, 3}, now), ({2, 3}, third)]  # never three


@pytest.mark.parametrize(
    ("action", "labels", "message"),
    [
        ("pin", PINNED, "`stable` is version 1 already"),
        ("start", {}, "no label `stable`"),
        ("start", STARTED, "Version 2 is a canary already"),
        ("start", {"stable": 5, "canary": 5}, "Version 5 is `stable` already"),
        ("promote", PINNED, "There is no canary"),
        ("rollback", PINNED, "nothing to roll back to"),
    ],
)
def test_an_action_that_does_not_go_with_the_labels_is_refused(action, labels, message):
    with pytest.raises(ValueError, match=message):
        target(action, labels, 5)
