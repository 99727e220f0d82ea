"""The REST interface, row by row of TF Serving's contract, and the swapping of versions."""

import argparse
import gzip
import inspect
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import threading
import time
import urllib.request

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from werkzeug.test import Client as WebClient

from serving import server as server_lib
from serving.client import Client
from serving.model_store import LoadedModel, ModelStore

ROW_0 = "Failed to process element: 0 key: {} of 'instances' list. Error: INVALID_ARGUMENT: "
ONE_ROW = {"user": 2**62 + 1, "price": 2, "weights": [1, 2.5, 3], "is_new": True}
SHOP = "/v1/models/shop"
NUMBERS = "/v1/models/numbers"


def web_client(store):
    return WebClient(server_lib.RestApi(store, log=lambda line: None))


@pytest.fixture(scope="session")
def web(store):
    return web_client(store)


def post(web, path, document, **options):
    data = document if isinstance(document, bytes) else json.dumps(document)
    response = web.post(path, data=data, **options)
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, json.loads(response.data)


def get(web, path):
    response = web.get(path)
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, json.loads(response.data)


def available(version):
    return {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


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


# Predict


def test_rows_of_strings_give_an_object_a_row(web):
    document = {"instances": [["apple", "caviar", ""], ["", "", ""]]}
    assert post(web, f"{SHOP}:predict", document) == (
        200,
        {
            "predictions": [
                {"items": ["bread", "cheese", "dates"], "scores": [0.5, 0.33333334, 0.25], "num_unknown": 1},
                {"items": ["apple", "bread", "cheese"], "scores": [1.0, 0.5, 0.33333334], "num_unknown": 0},
            ]
        },
    )


@pytest.mark.parametrize(
    "document",
    [{"inputs": [["apple"]]}, {"inputs": {"history": [["apple"]], "ignored": 1}}, {"inputs": [[{"b64": "YXBwbGU="}]]}],
)
def test_columns_of_strings_give_an_object_of_columns(web, document):
    assert post(web, f"{SHOP}/versions/7:predict", document) == (
        200,
        {
            "outputs": {
                "items": [["bread", "cheese", "dates"]],
                "scores": [[0.5, 0.33333334, 0.25]],
                "num_unknown": [0],
            }
        },
    )


def test_several_inputs_of_every_kind_make_the_round_trip(web):
    answer = {"user": 2**62 + 1, "total": 13.0, "is_new": True, "weights": [1.0, 2.5, 3.0]}
    status, document = post(web, f"{NUMBERS}:predict", {"instances": [ONE_ROW]})
    assert status == 200
    assert document["predictions"] == [{**answer, "key_bytes": {"b64": document["predictions"][0]["key_bytes"]["b64"]}}]
    columns = {name: [value] for name, value in ONE_ROW.items()}
    status, document = post(web, f"{NUMBERS}:predict", {"inputs": columns, "signature_name": "serving_default"})
    assert status == 200
    assert {name: document["outputs"][name][0] for name in answer} == answer


@pytest.mark.parametrize(
    ("document", "answer"),
    [
        ({"instances": [1, 2.5]}, {"predictions": [2.0, 5.0]}),
        ({"instances": [{"value": 1}]}, {"predictions": [2.0]}),
        ({"inputs": [1, 2.5]}, {"outputs": [2.0, 5.0]}),
        ({"inputs": {"value": [1]}}, {"outputs": [2.0]}),
    ],
)
def test_one_output_is_written_bare(web, document, answer):
    assert post(web, f"{NUMBERS}:predict", {"signature_name": "double", **document}) == (200, answer)


def test_values_that_are_not_finite_go_in_and_out_bare(web):
    body = b'{"signature_name": "double", "instances": [NaN, Infinity, -Infinity]}'
    response = web.post(f"{NUMBERS}:predict", data=body)
    assert response.data == b'{"predictions": [NaN, Infinity, -Infinity]}'


def test_a_scalar_output_is_fine_in_columns_but_not_in_rows(web):
    document = {"signature_name": "inspect", "inputs": [1, 2]}
    assert post(web, f"{NUMBERS}:predict", document) == (200, {"outputs": {"whole": 3.0, "value": [1.0, 2.0]}})
    document = {"signature_name": "inspect", "instances": [1, 2]}
    message = "Tensor name: whole has no shape information "
    assert post(web, f"{NUMBERS}:predict", document) == (400, {"error": message})


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_the_content_type_of_a_request_is_ignored(web, content_type):
    document = {"signature_name": "double", "instances": [1]}
    answer = post(web, f"{NUMBERS}:predict?unused=1", document, content_type=content_type)
    assert answer == (200, {"predictions": [2.0]})


def test_a_gzipped_body_is_unpacked_and_the_answer_is_plain(web):
    body = gzip.compress(b'{"signature_name": "double", "instances": [1]}')
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    response = web.post(f"{NUMBERS}:predict", data=body, headers=headers)
    assert response.json == {"predictions": [2.0]}
    assert "Content-Encoding" not in response.headers


def test_a_body_that_is_not_the_gzip_it_claims_counts_as_empty(web):
    answer = post(web, f"{NUMBERS}:predict", b'{"instances": [1]}', headers={"Content-Encoding": "gzip"})
    assert answer == (400, {"error": "JSON Parse error: The document is empty"})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: "),
        (b"[]", "JSON Value: [] Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": [1], "instances": [1]}, "Not formatted correctly expecting only one of"),
        ({"instances": 1}, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": [1]}, "instances is a plain list, but expecting list of objects"),
        ({"inputs": [1]}, "inputs is a plain value/list, but expecting an object"),
        ({"instances": [{**ONE_ROW, "x": 1}]}, ROW_0.format("x") + "JSON object: does not have named input: x"),
        ({"instances": [{"price": 1}]}, "keys must be equal to: is_new,price,user,weights"),
        ({"instances": [ONE_ROW, [1]]}, "Expecting object but got list at item 1 of input list"),
        ({"inputs": {"price": [1]}}, "Missing named input: "),
        (
            {"instances": [{**ONE_ROW, "user": "abc"}]},
            ROW_0.format("user") + 'JSON Value: "abc" Type: String is not of expected type: int64',
        ),
        (
            {"instances": [{**ONE_ROW, "user": 1.0}]},
            ROW_0.format("user") + "JSON Value: 1.0 Type: Number is not of expected type: int64",
        ),
        (
            {"instances": [ONE_ROW, {**ONE_ROW, "weights": [1, 2, 3, 4]}]},
            "Failed to process element: 1 key: weights of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor "
            "size: 3 but got: 4",
        ),
        (
            {"instances": [{**ONE_ROW, "weights": [[1], [2]]}, {**ONE_ROW, "weights": [[1, 2]]}]},
            "INVALID_ARGUMENT: Expecting shape [2,1] but got: [1,2]",
        ),
        ({"instances": [{**ONE_ROW, "weights": [1, [2]]}]}, ROW_0.format("weights") + "Encountered list at unexpected"),
        ({"instances": [1], "signature_name": "x"}, 'Serving signature name: "x" not found in signature def'),
        ({"instances": [1], "signature_name": 1}, "'signature_name' key must be a string value."),
        (
            {"instances": [1], "signature_name": "__saved_model_init_op"},
            "Failed to get input map for signature: __saved_model_init_op",
        ),
        ({"instances": [0], "signature_name": "divide"}, "Integer division by zero"),
        ({"instances": [1], "signature_name": "halve"}, "Failed to write JSON value for tensor type: bfloat16"),
        ({"instances": [1, {"value": 2}], "signature_name": "double"}, "Expecting value/list but got object at item 1"),
        ({"instances": [[1], [2, 3]], "signature_name": "double"}, "Error: INVALID_ARGUMENT: Expecting tensor size: 1"),
    ],
)
def test_a_wrong_predict_request_is_refused_in_tf_servings_words(web, document, message):
    status, answer = post(web, f"{NUMBERS}:predict", document)
    assert status == 400
    assert list(answer) == ["error"]
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("value", "message"),
    [({"b64": "a$"}, "Unable to base64 decode"), ({"b65": "aGk="}, "not formatted correctly for base64 data")],
)
def test_bad_base64_is_refused(web, value, message):
    status, answer = post(web, f"{SHOP}:predict", {"instances": [[value]]})
    assert status == 400
    assert answer["error"].endswith(message)


def test_a_dtype_that_json_cannot_carry_is_not_implemented(web):
    status, answer = post(web, f"{NUMBERS}:predict", {"inputs": [1], "signature_name": "unsupported"})
    assert (status, answer) == (501, {"error": "Conversion of JSON Value: 1 to type: complex64"})


def test_an_array_of_the_wrong_shape_is_refused(web):
    status, answer = post(web, "/v1/models/fixed:predict", {"instances": [["apple", "bread", "cheese"]]})
    assert status == 400
    assert "shape" in answer["error"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models/none:predict", 404, "Servable not found for request: Latest(none)"),
        (f"{SHOP}/versions/8:predict", 404, "Servable not found for request: Specific(shop, 8)"),
        (f"{SHOP}/labels/canary:predict", 400, "Unrecognized servable version label: canary"),
        ("/v1/models/none:classify", 404, "Servable not found for request: Latest(none)"),
    ],
)
def test_a_post_to_a_model_that_is_not_served_says_so(web, path, status, message):
    document = {"instances": [["apple"]], "examples": [{}]}
    assert post(web, path, document) == (status, {"error": message})


@pytest.mark.parametrize("method", ["predict", "classify", "regress"])
def test_the_body_is_parsed_before_the_model_is_looked_up(web, method):
    answer = post(web, f"/v1/models/none:{method}", b"")
    assert answer == (400, {"error": "JSON Parse error: The document is empty"})


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


# Versions, warm-up, hot swap


def test_every_model_is_loaded_with_one_line(models):
    lines = []
    ModelStore(models, report=lines.append).poll()
    assert [line.split(" loaded in ")[0] for line in lines] == [
        "examples version 1",
        "fixed version 1",
        "numbers version 1",
        "shop version 7",
    ]


def test_a_newer_version_takes_over_and_requests_under_way_keep_the_old_one(shop, export_recommender):
    lines = []
    store = ModelStore(shop, report=lines.append)
    store.poll()
    old = store.find("shop", None, None)
    export_recommender(shop / "shop" / "8", top_score=2.0)
    store.poll()
    web = web_client(store)
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


def test_a_version_that_fails_to_load_is_reported_once_and_the_old_one_stays(shop):
    lines = []
    store = ModelStore(shop, report=lines.append)
    store.poll()
    (shop / "shop" / "8").mkdir()
    store.poll()
    store.poll()
    assert len(lines) == 2
    assert lines[1].startswith("shop version 8 failed to load; version 7 stays: ")
    web = web_client(store)
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


def test_no_request_fails_while_versions_are_swapped(shop, export_recommender):
    store = ModelStore(shop, report=lambda line: None)
    store.poll()
    web = web_client(store)
    statuses = set()
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            statuses.add(post(web, f"{SHOP}:predict", {"instances": [["apple"]]})[0])

    asker = threading.Thread(target=ask)
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
        server_lib.run(argparse.Namespace(**{**vars(args), "models": str(tmp_path / "none")}))


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
