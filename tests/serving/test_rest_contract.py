"""The REST interface but `:predict`: status, metadata, wrong paths and verbs, `:classify` and `:regress`."""

import pytest
from rest_calls import SHOP, available, get, post

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
    response = web.request(method, SHOP)
    assert response.status_code == 400
    assert response.json() == {"error": f"Malformed request: {method} {SHOP}"}


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
    assert b"<H1>Not Found</H1>" in response.content


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
