"""The client, against a real server and against servers that misbehave."""

import socket
import subprocess
import sys
import threading

import pytest
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from serving import client as client_lib
from serving.client import Client, Recommendation, ServerError


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


def test_ids_are_sent_in_the_form_that_preparation_gives_them_unless_they_are_raw(url):
    (normal,), (raw,) = (client.recommend("shop", [["apple "]]) for client in (Client(url), Client(url, raw_ids=True)))
    assert normal == Client(url).recommend("shop", [["apple"]])[0]
    assert raw.num_unknown == 1


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


def test_the_client_needs_no_tensorflow():
    script = "import sys, serving.client; sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


def test_bare_scores_are_ranked_too(monkeypatch):
    """As TF Serving gives them where a signature has a single output."""
    client = Client("http://shop")
    inputs = {name: {"tensor_shape": {"dim": [{"size": "-1"}] * 2}} for name in ("history", "candidates")}
    signatures = {"signature_def": {"rank": {"inputs": inputs, "outputs": {"scores": {}}}}}
    monkeypatch.setattr(client, "metadata", lambda *_, **__: {"metadata": {"signature_def": signatures}})
    monkeypatch.setattr(client, "predict", lambda *_, **__: [[0.5, 2.0, -1.0]])
    assert client.rank("ctr", [["i"]], [["a", "b"]]) == [Recommendation(["b", "a"], [2.0, 0.5], 0)]
