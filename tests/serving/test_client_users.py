"""The client and the command of models that know users and times."""

import json
import shlex
import urllib.request

import numpy as np
import pytest

from seqrec_tf import cli
from serving.client import Client
from serving.golden import differences
from serving.model_store import ModelStore
from serving.server import example_curl


def run(*arguments):
    return cli.main(["recommend", *arguments])


@pytest.fixture(scope="module")
def personal_store(tmp_path_factory):
    """A store of BST, which knows users and times, and its folder."""
    path, random = tmp_path_factory.mktemp("personal"), np.random.default_rng(0)
    lines = [
        f"u{user},i{random.integers(12)},{1_700_000_000 + 500 * place}" for user in range(20) for place in range(8)
    ]
    (path / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    settings = "model.num_negatives=2 model.dim=8 model.age_dim=8 model.user_dim=4 model.hidden_dims=[8] train.epochs=1"
    for command in (
        f"prepare --input {path / 'events.csv'} --output {path / 'dataset'}",
        f"train --dataset {path / 'dataset'} --model bst --output {path / 'run'} --set {settings}",
        f"export --run {path / 'run'} --output {path / 'models' / 'bst'} --k 5",
    ):
        assert cli.main(command.split()) == 0
    store = ModelStore(path / "models", report=lambda line: None)
    store.poll()
    return store, path / "models"


@pytest.fixture(scope="module")
def personal(personal_store, serving):
    """Its server, and the model's golden requests."""
    store, path = personal_store
    golden = path / "bst" / "1" / "assets.extra" / "golden_requests.json"
    with serving(store) as address:
        yield address, json.loads(golden.read_text())


def given(requests):
    return {
        "users": [request["user_id"] for request in requests],
        "history_times": [request["history_timestamps"] for request in requests],
        "times": [request["timestamp"] for request in requests],
    }


def test_users_and_times_are_sent_to_a_model_that_knows_them(personal):
    address, golden = personal
    histories = [request["history"] for request in golden]
    recommendations = Client(address).recommend("bst", histories, **given(golden), batch_size=2)
    for request, recommendation in zip(golden, recommendations, strict=True):
        assert recommendation.scores == pytest.approx(request["scores"], abs=1e-4)


def test_what_is_given_in_vain_or_for_other_histories_is_an_error(personal, url):
    address, golden = personal
    for arguments, message in (
        ({"users": ["ann"]}, "Model `shop` does not take `user_id`: leave out"),
        ({"history_times": [np.array([1, 2])]}, "Model `shop` does not take `history_timestamps`"),
        ({"user_features": {"age": [0.0]}}, "does not take `age`: leave out --user-feature age"),
        (
            {"user_features": {"country": ["no"]}},
            "Model `shop` does not take `country`: leave out --user-feature country",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Client(url).recommend("shop", [["apple"]], **arguments)
    with pytest.raises(ValueError, match="`user_id` must have a value for each of 2 histories, got 1"):
        Client(address).recommend("bst", [["i1"], ["i2"]], **given(golden[:1]))
    with pytest.raises(ValueError, match="candidates for each of 2 histories, got 1"):
        Client(address).rank("bst", [["i1"], ["i2"]], [["i3"]], **given(golden[:2]))


def test_the_example_command_of_a_model_that_knows_users_works(personal, personal_store):
    command = shlex.split(example_curl(personal[0], "bst", personal_store[0].models["bst"]))
    with urllib.request.urlopen(command[-1], command[2].encode(), timeout=20) as response:
        assert len(json.loads(response.read())["predictions"][0]["items"]) == 5


def test_candidates_are_ranked_by_the_scores_that_they_are_recommended_with(personal):
    address, golden = personal
    histories, candidates = ([request[name] for request in golden] for name in ("history", "items"))
    candidates[0] = candidates[0][::-1][:3]
    ranked = Client(address).rank("bst", histories, candidates, **given(golden))
    assert ranked[0].items == candidates[0][::-1]
    assert ranked[0].scores == pytest.approx(golden[0]["scores"][-3:], abs=1e-4)
    assert ranked[1].items == candidates[1]
    assert ranked[1].scores == pytest.approx(golden[1]["scores"], abs=1e-4)


def test_excluded_and_allowed_items_are_sent_to_a_signature_that_takes_them(personal):
    address, golden = personal
    histories = [request["history"] for request in golden[:2]]
    best = [request["items"] for request in golden[:2]]
    recommendations = Client(address).recommend(
        "bst", histories, exclude=[best[0][:1], []], allow=[best[0], []], k=3, **given(golden[:2])
    )
    assert [recommendation.items for recommendation in recommendations] == [best[0][1:4], best[1][:3]]


def test_a_server_is_asked_the_golden_requests(personal, personal_store, tmp_path):
    address, golden = personal
    number, lines = differences(Client(address), "bst", personal_store[1])
    assert (number, lines) == (3 * len(golden), [])
    extra = tmp_path / "bst" / "1" / "assets.extra"
    extra.mkdir(parents=True)
    golden = json.loads(json.dumps(golden))
    golden[0]["scores"][1] += 0.01
    golden[1]["items"][0] = "i-other"
    (extra / "golden_requests.json").write_text(json.dumps(golden))
    _, lines = differences(Client(address), "bst", tmp_path)
    assert [line.split(",")[0] for line in lines if "the scores differ" in line][:1] == ["serving_default"]
    assert any("the items differ" in line and "i-other" in line for line in lines)
    with pytest.raises(FileNotFoundError, match=r"has version 1 of model bst, and .* is not there\. Give"):
        differences(Client(address), "bst", tmp_path / "elsewhere")


def test_what_a_model_takes_and_is_not_given_is_named(personal):
    address, golden = personal
    with pytest.raises(ValueError, match=r"Model `bst` takes `user_id`: give users \(--user\)"):
        Client(address).recommend("bst", [golden[0]["history"]])


def test_the_command_ranks_candidates(personal, capsys):
    address, golden = personal
    request = golden[0]
    arguments = ["--url", address, "--model", "bst", "--history", ",".join(request["history"])]
    arguments += ["--user", request["user_id"], "--time", str(request["timestamp"]), "--history-times"]
    arguments += [",".join(map(str, request["history_timestamps"])), "--candidates", ",".join(request["items"][::-1])]
    assert run(*arguments, "--k", "2", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["items"] == request["items"][:2]
    arguments[arguments.index("--history-times") + 1] = "1"
    assert run(*arguments) == 2
    assert "--history-times must have" in capsys.readouterr().err
    arguments[arguments.index("--history-times") + 1] = "noon"
    assert run(*arguments) == 2
    assert "--history-times must be a whole number, got 'noon'." in capsys.readouterr().err


def test_who_has_a_name_needs_no_history(personal, capsys):
    address, golden = personal
    arguments = ["--url", address, "--model", "bst", "--user", golden[0]["user_id"], "--json"]
    assert run(*arguments) == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 5


def test_what_a_model_does_not_know_is_said(personal, capsys):
    address, golden = personal
    arguments = ["--url", address, "--model", "bst", "--history", "nothing", "--user", golden[0]["user_id"]]
    arguments += ["--history-times", "5", "--candidates", f"nowhere,{golden[0]['items'][0]}"]
    assert run(*arguments) == 0
    answer = capsys.readouterr()
    assert answer.out.splitlines()[-2].split() == ["2", "nowhere", "unknown"]
    assert "1 of 1 history items is unknown to the model" in answer.err


@pytest.fixture
def of_users(monkeypatch):
    """A client of a model that takes features of users; what it sends is in the list."""

    def tensor(dtype, rank):
        return {"dtype": dtype, "tensor_shape": {"dim": [{"size": "-1"}] * rank}}

    inputs = {
        "history": tensor("DT_STRING", 2),
        "country": tensor("DT_STRING", 1),
        "age": tensor("DT_FLOAT", 1),
        "hobbies": tensor("DT_STRING", 2),
    }
    outputs = {"items": tensor("DT_STRING", 2), "scores": tensor("DT_FLOAT", 2)}
    sent = []

    def call(self, path, body=None):
        if body is None:
            signatures = {"serving_default": {"inputs": inputs, "outputs": outputs}}
            return {"metadata": {"signature_def": {"signature_def": signatures}}}
        sent.extend(body["instances"])
        return {"predictions": [{"items": ["x"], "scores": [1.0]}] * len(body["instances"])}

    monkeypatch.setattr(Client, "_call", call)
    return sent


def test_features_of_users_are_sent_to_a_model_that_takes_them(of_users):
    features = {"country": ["no", ""], "age": [31.0, 7.5], "hobbies": [["a", "b"], []]}
    Client("http://shop").recommend("ctr", [["i"], ["j"]], user_features=features)
    assert of_users == [
        {"history": ["i"], "age": 31.0, "country": "no", "hobbies": ["a", "b"]},
        {"history": ["j"], "age": 7.5, "country": "", "hobbies": ["", ""]},
    ]
    with pytest.raises(ValueError, match="takes `age`: give the feature of the users \\(--user-feature age=VALUE\\)"):
        Client("http://shop").recommend("ctr", [["i"]])


def test_the_command_takes_features_of_the_user(of_users, capsys):
    arguments = ["--url", "http://shop", "--model", "ctr", "--history", "i", "--json", "--user-feature"]
    assert run(*arguments, "country=no", "age=31", "hobbies=a|b") == 0
    assert of_users == [{"history": ["i"], "age": 31.0, "country": "no", "hobbies": ["a", "b"]}]
    assert run(*arguments, "age=old") == 2
    assert "--user-feature age must be a number, got 'old'." in capsys.readouterr().err
    assert run(*arguments, "land=no") == 2
    assert "--user-feature expects NAME=VALUE, NAME being an input of model `ctr`" in capsys.readouterr().err
