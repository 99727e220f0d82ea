"""The client, against a real server and against servers that misbehave."""

import json
import shlex
import socket
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from seqrec_tf import cli, records
from seqrec_tf import schema as schema_lib
from seqrec_tf.schema import Feature, Schema
from serving import client as client_lib
from serving.client import Client, Recommendation, ServerError
from serving.model_store import ModelStore
from serving.server import example_curl


@pytest.fixture
def answering():
    """Start a server that gives the answers listed, the last one for ever; returns its address and the paths asked."""
    servers = []

    def start(*answers):
        left, paths = list(answers), []

        def app(environ, start_response):
            paths.append(environ["PATH_INFO"])
            status, body = left.pop(0) if len(left) > 1 else left[0]
            return Response(body, status=status)(environ, start_response)

        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.port}", paths

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(client_lib, "_PAUSES_S", (0.0, 0.0))


def run(*arguments):
    return cli.main(["recommend", *arguments])


def test_histories_of_unequal_length_are_padded_and_answered_in_order(url):
    recommendations = Client(url).recommend("shop", [["apple"], [], ["bread", "caviar", "apple"]])
    assert [recommendation.items for recommendation in recommendations] == [
        ["bread", "cheese", "dates"],
        ["apple", "bread", "cheese"],
        ["cheese", "dates", "eggs"],
    ]
    assert [recommendation.num_unknown for recommendation in recommendations] == [0, 0, 1]


def test_many_histories_are_sent_in_batches_with_the_same_answers(url):
    histories = [["apple"], ["bread", "apple"], ["cheese"], [], ["dates"]]
    whole = Client(url).recommend("shop", histories)
    assert Client(url).recommend("shop", histories, batch_size=2) == whole
    assert len(whole) == 5


def test_no_histories_give_no_recommendations(url):
    assert Client(url).recommend("shop", []) == []


def test_a_model_of_fixed_length_gets_the_newest_items(url):
    (recommendation,) = Client(url).recommend("fixed", [["apple", "bread", "cheese"]])
    assert recommendation.items == ["apple", "dates", "eggs"]
    assert Client(url).recommend("fixed", [["apple"]])[0].items == ["bread", "cheese", "dates"]


def test_k_cuts_the_list(url):
    (recommendation,) = Client(url).recommend("shop", [["apple"]], k=1, version=7)
    assert recommendation == Recommendation(items=["bread"], scores=[0.5], num_unknown=0)


@pytest.mark.parametrize(("k", "message"), [(4, "returns 3 items, 4 were asked for"), (0, "k must be at least 1")])
def test_a_k_that_the_model_cannot_give_is_refused(url, k, message):
    with pytest.raises(ValueError, match=message):
        Client(url).recommend("shop", [["apple"]], k=k)


def test_a_model_that_is_no_recommender_is_refused(url):
    with pytest.raises(ValueError, match="must take `history` and give `items` and `scores`"):
        Client(url).recommend("numbers", [["apple"]])


def test_items_that_a_model_fills_up_with_are_left_out():
    prediction = {"items": ["a", "", ""], "scores": [1.0, float("-inf"), float("-inf")]}
    assert client_lib._read_prediction(prediction, "m", 2) == Recommendation(["a"], [1.0], 0)


def test_status_and_metadata_are_what_the_server_says(url):
    assert Client(url + "/").status("shop")[0]["state"] == "AVAILABLE"
    assert Client(url).metadata("shop")["model_spec"]["version"] == "7"


def test_the_error_of_the_server_is_shown(url):
    with pytest.raises(ServerError, match=r"answered 404: Servable not found for request: Latest\(none\)") as error:
        Client(url).recommend("none", [["apple"]])
    assert error.value.status == 404


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ValueError, match="must start with http"):
        Client("localhost:8501")


def test_a_server_that_is_not_there_is_reported_with_the_way_to_start_one():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerError, match="Start one with `seqrec serve --models MODELS`"):
        Client(f"http://127.0.0.1:{port}").status("shop")


def test_a_server_that_does_not_answer_in_time_is_reported():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ServerError, match=r"did not answer within 0\.1 s"),
    ):
        Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.1).status("shop")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(answering, no_pauses, status):
    url, paths = answering((status, '{"error": "busy"}'), (200, '{"model_version_status": []}'))
    assert Client(url).status("shop") == []
    assert len(paths) == 2


def test_a_server_that_stays_busy_is_reported(answering, no_pauses):
    url, paths = answering((503, '{"error": "queue full"}'))
    with pytest.raises(ServerError, match="answered 503: queue full"):
        Client(url).status("shop")
    assert len(paths) == 3


def test_other_errors_are_not_tried_again(answering):
    url, paths = answering((400, '{"error": "wrong"}'))
    with pytest.raises(ServerError, match="answered 400: wrong"):
        Client(url).status("shop")
    assert len(paths) == 1


@pytest.mark.parametrize("answer", [(200, "<html>"), (404, "<html>"), (404, "[]")])
def test_a_server_of_another_kind_is_reported(answering, answer):
    url, _ = answering(answer)
    with pytest.raises(ServerError, match="is it a TF Serving REST port"):
        Client(url).status("shop")


# The command


def test_the_command_prints_a_table_and_what_was_unknown(url, capsys):
    assert run("--url", url, "--model", "shop", "--history", "apple, caviar", "--item", "salt, sea", "--k", "2") == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == ["rank  item     score", "   1  bread   0.5000", "   2  cheese  0.3333"]
    assert output.err == "2 of 3 history items are unknown to the model and were ignored\n"


def test_one_unknown_item_is_reported_in_the_singular(url, capsys):
    assert run("--url", url, "--model", "shop", "--history", "apple,bread,caviar") == 0
    assert capsys.readouterr().err == "1 of 3 history items is unknown to the model and was ignored\n"


def test_the_command_prints_json_on_request(url, capsys):
    assert run("--url", url, "--model", "shop", "--item", "apple", "--k", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"items": ["bread"], "scores": [0.5], "num_unknown": 0}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "shop"], 2, "There is no history"),
        (["--model", "shop", "--history", "apple", "--k", "9"], 2, "export the model with a larger k"),
        (["--model", "shop", "--history", "apple", "--candidates", "bread", "--k", "0"], 2, "--k must be at least 1"),
        (["--model", "none", "--history", "apple"], 1, "Servable not found"),
        (["--model", "shop", "--user", "ann"], 2, "Model `shop` does not take `user_id`: leave out"),
        (["--model", "shop", "--history", "apple", "--timeout", "-1"], 2, "--timeout must be more than 0 seconds"),
        (["--model", "shop", "--history", "apple", "--json", "--dataset", "d"], 2, "leave one out"),
        (["--model", "shop", "--history", "apple", "--dataset", "no/folder"], 2, "is not a dataset folder"),
    ],
)
def test_a_failing_command_says_why_in_one_line(url, capsys, arguments, status, message):
    assert run("--url", url, *arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture
def dataset(tmp_path):
    """A dataset folder with the names of two items."""
    features = (
        Feature("item_id", "string", ()),
        Feature("title", "string", ()),
        Feature("tags", "string", (None,)),
        Feature("price", "float32", ()),
    )
    (tmp_path / schema_lib.SCHEMA_FILE).write_text(Schema(num_items=2, item_features=features).to_json())
    (tmp_path / schema_lib.ITEMS_FOLDER).mkdir()
    path = tmp_path / schema_lib.ITEMS_FOLDER / records.shard_name(0, 1)
    with tf.io.TFRecordWriter(str(path), records.COMPRESSION) as writer:
        for item, title in (("bread", "Brown bread"), ("dates", "Dried dates")):
            values = {"item_id": item, "title": title, "tags": ["food", "new"], "price": 1.0}
            writer.write(records.encode_example(values, features))
    (tmp_path / schema_lib.COMPLETED_FILE).touch()
    return str(tmp_path)


def test_names_come_from_the_dataset(url, dataset, capsys):
    assert run("--url", url, "--model", "shop", "--history", "apple", "--dataset", dataset) == 0
    assert capsys.readouterr().out.splitlines() == [
        "rank  item     score  name",
        "   1  bread   0.5000  Brown bread",
        "   2  cheese  0.3333",
        "   3  dates   0.2500  Dried dates",
    ]


def test_a_dataset_without_items_gives_the_answer_without_names(url, tiny_dataset, capsys):
    assert run("--url", url, "--model", "shop", "--history", "apple", "--dataset", tiny_dataset) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "bread", "0.5000"]


@pytest.mark.parametrize("feature", ["nome", "price", "tags"])
def test_a_name_feature_that_is_not_one_string_is_refused(url, dataset, capsys, feature):
    arguments = ["--model", "shop", "--history", "apple", "--dataset", dataset, "--name-feature", feature]
    assert run("--url", url, *arguments) == 2
    assert "there are: item_id, title" in capsys.readouterr().err


def test_the_client_needs_no_tensorflow():
    script = "import sys, serving.client; sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


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


def test_bare_scores_are_ranked_too(monkeypatch):
    """As TF Serving gives them where a signature has a single output."""
    client = Client("http://shop")
    inputs = {name: {"tensor_shape": {"dim": [{"size": "-1"}] * 2}} for name in ("history", "candidates")}
    signatures = {"signature_def": {"rank": {"inputs": inputs, "outputs": {"scores": {}}}}}
    monkeypatch.setattr(client, "metadata", lambda *_, **__: {"metadata": {"signature_def": signatures}})
    monkeypatch.setattr(client, "predict", lambda *_, **__: [[0.5, 2.0, -1.0]])
    assert client.rank("ctr", [["i"]], [["a", "b"]]) == [Recommendation(["b", "a"], [2.0, 0.5], 0)]


def test_what_a_model_does_not_know_is_said(personal, capsys):
    address, golden = personal
    arguments = ["--url", address, "--model", "bst", "--history", "nothing", "--user", golden[0]["user_id"]]
    arguments += ["--history-times", "5", "--candidates", f"nowhere,{golden[0]['items'][0]}"]
    assert run(*arguments) == 0
    answer = capsys.readouterr()
    assert answer.out.splitlines()[-1].split() == ["2", "nowhere", "unknown"]
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
