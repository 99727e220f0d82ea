"""The REST interface: status, metadata, `:classify` and `:regress`, the real server and its configuration."""

import argparse
import inspect
import json
import pathlib
import re
import shlex
import subprocess
import threading
import urllib.request

import pytest
from google.protobuf import text_format
from rest_calls import SHOP, available, get, post
from tensorflow_serving.config import model_server_config_pb2
from werkzeug.test import Client as WebClient

from serving import server as server_lib
from serving.client import Client

# Status and metadata


@pytest.mark.parametrize(
    "path", [SHOP, f"{SHOP}/versions/7", "/V1/Models/shop", f"{SHOP}/labels/any", "/v1/models/s%68op"]
)
def test_the_status_of_a_model_lists_its_versions(web, path):
    assert get(web, path) == (200, {"model_version_status": [available(7)]})


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/versions/3", 400, "Missing model name in request."),
        ("/v1/models/none", 404, "Could not find any versions of model none"),
        (f"{SHOP}/versions/8", 404, "Could not find version 8 of model shop"),
        ("/v1/models/none/metadata", 404, "Servable not found for request: Latest(none)"),
        (f"{SHOP}/versions/8/metadata", 404, "Servable not found for request: Specific(shop, 8)"),
        (f"{SHOP}/labels/canary/metadata", 400, "Unrecognized servable version label: canary"),
        (f"{SHOP}/versions/{2**63}", 400, f"Failed to convert version: {2**63} to numeric."),
        (f"{SHOP}/versions/x", 400, f"Malformed request: GET {SHOP}/versions/x"),
        (f"{SHOP}/", 400, f"Malformed request: GET {SHOP}/"),
        (f"{SHOP}:predict", 400, f"Malformed request: GET {SHOP}:predict"),
        ("/v1/", 400, "Malformed request: GET /v1/"),
    ],
)
def test_a_get_that_cannot_be_answered_says_why(web, path, status, message):
    assert get(web, path) == (status, {"error": message})


def test_the_metadata_of_a_model_describes_its_signatures(web):
    status, document = get(web, f"{SHOP}/metadata")
    assert status == 200
    assert document["model_spec"] == {"name": "shop", "signature_name": "", "version": "7"}
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["history"] == {
        "name": "serving_default_history:0",
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "-1", "name": ""}], "unknown_rank": False},
    }
    assert signature["outputs"]["scores"]["tensor_shape"]["dim"][1] == {"size": "3", "name": ""}
    assert signature["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
def test_a_wrong_verb_is_a_malformed_request(web, method):
    response = web.open(SHOP, method=method)
    assert response.status_code == 400
    assert response.json == {"error": f"Malformed request: {method} {SHOP}"}


@pytest.mark.parametrize(
    "path", [f"{SHOP}:rank", f"{SHOP}:PREDICT", f"{SHOP}/versions/x:predict", "/v1/models:predict"]
)
def test_a_post_to_an_unknown_path_is_a_malformed_request(web, path):
    assert post(web, path, {}) == (400, {"error": f"Malformed request: POST {path}"})


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models/shop", "/favicon.ico"])
def test_a_path_outside_v1_gets_a_page_and_not_json(web, path):
    response = web.get(path)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "text/html"
    assert b"<H1>Not Found</H1>" in response.data


# Classify and regress


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_examples_must_be_there(web, method):
    status, answer = post(web, f"{SHOP}:{method}", {})
    assert status == 400
    assert "key 'examples' is expected and was not found" in answer["error"]


def test_examples_are_classified_and_regressed(web):
    document = {"examples": [{"price": 0.25}, {"price": [1.0]}]}
    assert post(web, "/v1/models/examples:classify", document) == (
        200,
        {"results": [[["cheap", 0.75], ["dear", 0.25]], [["cheap", 0.0], ["dear", 1.0]]]},
    )
    document = {"signature_name": "regress", "context": {"price": 0.5}, "examples": [{"price": 0.25}, {}]}
    assert post(web, "/v1/models/examples:regress", document) == (200, {"results": [0.25, 0.5]})


@pytest.mark.parametrize(
    ("path", "document", "message"),
    [
        (
            f"{SHOP}:classify",
            {},
            "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
            "tensorflow/serving/predict",
        ),
        (
            f"{SHOP}:regress",
            {},
            "Expected regression signature method_name to be tensorflow/serving/regress. Was: "
            "tensorflow/serving/predict",
        ),
        (f"{SHOP}:regress", {"signature_name": "x"}, "No signature was found with the name: x"),
        ("/v1/models/examples:classify", {}, "Feature: price (data type: float) is required but could not be found."),
    ],
)
def test_a_signature_of_the_wrong_kind_is_refused(web, path, document, message):
    status, answer = post(web, path, {"examples": [{"a": 1}], **document})
    assert status == 400
    assert message in answer["error"]


# The real server


def test_requests_are_answered_side_by_side(url):
    body = json.dumps({"instances": [["apple"]]}).encode()
    answers = []

    def ask():
        with urllib.request.urlopen(f"{url}{SHOP}:predict", body, timeout=20) as response:
            answers.append(json.loads(response.read())["predictions"][0]["items"])

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [["bread", "cheese", "dates"]] * 16


def test_the_example_command_of_every_model_works(url, store):
    for name, model in store.models.items():
        command = shlex.split(server_lib.example_curl(url, name, model))
        data = command[2].encode() if command[1] == "-d" else None
        if name != "examples":  # its signature takes serialised examples, of which "a" is none
            with urllib.request.urlopen(command[-1], data, timeout=20) as response:
                assert json.loads(response.read())["predictions"]
    assert (
        shlex.split(server_lib.example_curl(url, "shop", store.models["shop"]))[2]
        == '{"instances": [["apple", "bread"]]}'
    )


def test_the_access_log_has_one_short_line_a_request(store):
    lines = []
    web = WebClient(server_lib.RestApi(store, log=lines.append))
    web.get(f"{SHOP}?secret=1")
    (line,) = lines
    assert line.split()[1:4] == ["GET", SHOP, "200"]
    assert line.endswith(" ms")


def test_a_port_that_is_taken_is_a_wrong_argument(url):
    with pytest.raises(ValueError, match="Choose another with --port"):
        server_lib.listen("127.0.0.1", int(url.rsplit(":", 1)[1]))
    with pytest.raises(ValueError, match="port must be 0-65535"):
        server_lib.listen("127.0.0.1", 85010)


def test_a_folder_without_models_is_a_wrong_argument(tmp_path):
    args = argparse.Namespace(models=str(tmp_path), host="127.0.0.1", port=0)
    with pytest.raises(ValueError, match="NAME/VERSION/ SavedModel folders"):
        server_lib.run(args)
    with pytest.raises(FileNotFoundError, match="must name a folder"):
        server_lib.check(argparse.Namespace(**{**vars(args), "models": str(tmp_path / "none")}))


# TF Serving's own configuration


def test_the_model_configuration_of_tf_serving_is_valid():
    text = (pathlib.Path(server_lib.__file__).parent / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert model.model_platform == "tensorflow"
    assert model.base_path == f"/models/{model.name}"


def test_the_client_never_sends_more_rows_than_tf_serving_may_batch():
    text = (pathlib.Path(server_lib.__file__).parent / "batching.config").read_text()
    largest = int(re.search(r"max_batch_size { value: (\d+) }", text)[1])
    assert int(re.findall(r"allowed_batch_sizes: (\d+)", text)[-1]) == largest
    assert inspect.signature(Client.recommend).parameters["batch_size"].default <= largest


def test_the_health_check_of_the_container_tells_a_served_model_from_none(url):
    text = (pathlib.Path(server_lib.__file__).parent / "docker-compose.yml").read_text()
    (line,) = [line for line in text.splitlines() if "/dev/tcp/" in line]
    script = line.split("'", 1)[1].rsplit("'", 1)[0].replace("8501", url.rsplit(":", 1)[1])
    for name, returncode in (("shop", 0), ("none", 1)):
        command = script.replace("/models/shop/", f"/models/{name}/")
        assert subprocess.run(["bash", "-c", command], timeout=20, check=False).returncode == returncode
