"""`:predict`, row by row of TF Serving's contract."""

import gzip

import pytest
from rest_calls import NUMBERS, SHOP, post

ROW_0 = "Failed to process element: 0 key: {} of 'instances' list. Error: INVALID_ARGUMENT: "
ONE_ROW = {"user": 2**62 + 1, "price": 2, "weights": [1, 2.5, 3], "is_new": True}


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
    response = web.post(f"{NUMBERS}:predict", content=body)
    assert response.content == b'{"predictions": [NaN, Infinity, -Infinity]}'


def test_a_scalar_output_is_fine_in_columns_but_not_in_rows(web):
    document = {"signature_name": "inspect", "inputs": [1, 2]}
    assert post(web, f"{NUMBERS}:predict", document) == (200, {"outputs": {"whole": 3.0, "value": [1.0, 2.0]}})
    document = {"signature_name": "inspect", "instances": [1, 2]}
    message = "Tensor name: whole has no shape information "
    assert post(web, f"{NUMBERS}:predict", document) == (400, {"error": message})


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_the_content_type_of_a_request_is_ignored(web, content_type):
    document = {"signature_name": "double", "instances": [1]}
    answer = post(web, f"{NUMBERS}:predict", document, headers={"Content-Type": content_type})
    assert answer == (200, {"predictions": [2.0]})


def test_a_gzipped_body_is_unpacked_and_the_answer_is_plain(web):
    body = gzip.compress(b'{"signature_name": "double", "instances": [1]}')
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    response = web.post(f"{NUMBERS}:predict", content=body, headers=headers)
    assert response.json() == {"predictions": [2.0]}
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
