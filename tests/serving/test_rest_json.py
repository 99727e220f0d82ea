"""JSON to arrays and back, without a server."""

import json

import numpy as np
import pytest

from serving import rest_json
from serving.rest_json import StatusError


def feed(values, dtype):
    """The array that a columnar request of one input feeds."""
    return rest_json.predict_feeds({"inputs": values}, {"x": dtype})[0]["x"]


def problem(values, dtype):
    """The message that a columnar request of one input gets."""
    with pytest.raises(StatusError) as error:
        feed(values, dtype)
    return error.value.message


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype", "value"),
    [
        ("float", np.float32, 1.5),
        ("float", np.float32, 3),
        ("double", np.float64, 0.1),
        ("int32", np.int32, -(2**31)),
        ("int64", np.int64, 2**63 - 1),
        ("uint32", np.uint32, 2**32 - 1),
        ("uint64", np.uint64, 2**64 - 1),
        ("bool", np.bool_, True),
    ],
)
def test_a_value_arrives_in_the_dtype_of_the_input(dtype, numpy_dtype, value):
    array = feed([[value], [value]], dtype)
    assert array.dtype == numpy_dtype
    assert array.tolist() == [[numpy_dtype(value)]] * 2


def test_strings_arrive_as_utf8_bytes():
    assert feed(["é", ""], "string").tolist() == ["é".encode(), b""]


def test_an_8_bit_integer_is_cut_as_tf_serving_cuts_it():
    assert feed([300], "uint8").tolist() == [300 - 256]


@pytest.mark.parametrize("value", [1.0, True, None, "1", float("nan"), 2**70, -(2**63) - 1])
def test_an_integer_input_takes_only_integers_that_fit(value):
    assert problem([value], "int64").endswith("is not of expected type: int64")


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ("abc", "int64", 'JSON Value: "abc" Type: String is not of expected type: int64'),
        (True, "float", "JSON Value: true Type: True is not of expected type: float"),
        (False, "string", "JSON Value: false Type: False is not of expected type: string"),
        (None, "bool", "JSON Value: null Type: Null is not of expected type: bool"),
        (1, "bool", "JSON Value: 1 Type: Number is not of expected type: bool"),
        ({"b64": "YQ=="}, "float", 'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: float'),
        (2**31, "int32", "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        (-1, "uint64", "JSON Value: -1 Type: Number is not of expected type: uint64"),
        (2**24, "float", "Cannot convert JSON value: 16777216 to float without loss of precision."),
        (1e39, "float", "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        (2**53, "double", "Cannot convert JSON value: 9007199254740992 to double without loss of precision."),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_tf_servings_words(value, dtype, message):
    assert problem([value], dtype) == message


def test_floats_that_are_not_finite_are_accepted():
    array = feed([float("nan"), float("inf"), float("-inf")], "float")
    np.testing.assert_array_equal(array, np.array([np.nan, np.inf, -np.inf], np.float32))


@pytest.mark.parametrize("text", ["aGk=", "aGk", " aG k= \n"])
def test_base64_becomes_bytes_with_or_without_padding_and_spaces(text):
    assert feed([{"b64": text}], "string").tolist() == [b"hi"]


def test_a_single_base64_object_is_a_scalar_input():
    assert feed({"b64": "aGk="}, "string").item() == b"hi"


@pytest.mark.parametrize("text", ["a", "a$==", "aGk=="])
def test_bad_base64_is_refused(text):
    assert problem([{"b64": text}], "string") == "Unable to base64 decode"


@pytest.mark.parametrize("value", [{"b64": 1}, {"b65": "aGk="}, {"b64": "aGk=", "more": 1}])
def test_an_object_that_is_not_base64_is_refused(value):
    assert problem([value], "string").endswith("not formatted correctly for base64 data")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2], [3]], "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ([[1, 2], 3], "JSON Value: 3 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ([1, [2]], "Encountered list at unexpected level: 1 expected < 1"),
    ],
)
def test_a_ragged_column_is_refused(values, message):
    assert problem(values, "int64") == message


def test_an_empty_list_is_an_array_without_values():
    assert feed([], "float").shape == (0,)
    assert feed([[], []], "float").shape == (2, 0)


def test_bytes_that_are_not_utf8_pass_through_unchanged():
    document = rest_json.parse_object(b'{"inputs": ["\xff"]}')
    array = rest_json.predict_feeds(document, {"x": "string"})[0]["x"]
    assert array.tolist() == [b"\xff"]
    assert rest_json.predict_body({"y": array}, is_row=False) == b'{"outputs": ["\xff"]}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b'{"instances": [1,}', "JSON Parse error: "),
        (b'{"instances": ["\\ud83d"]}', "JSON Parse error: The surrogate pair in string is invalid."),
        (b'{"instances": ' + b"[" * 100_000, "JSON Parse error: "),
        (b'{"instances": [' + b"1" * 5000 + b"]}", "JSON Parse error: "),
        (b"[1]", "JSON Value: [\n    1\n] Is not object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body, message):
    with pytest.raises(StatusError) as error:
        rest_json.parse_object(body)
    assert error.value.code == "INVALID_ARGUMENT"
    assert error.value.message.startswith(message)


def test_a_byte_order_mark_and_surrogate_pairs_are_read():
    assert rest_json.parse_object(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}


def test_float32_is_written_without_noise_digits():
    body = rest_json.predict_body({"y": np.array([0.2, 1e-7, 3.0], np.float32)}, is_row=False)
    assert body == b'{"outputs": [0.2, 1e-07, 3.0]}'


def test_values_that_are_not_finite_are_written_bare():
    body = rest_json.predict_body({"y": np.array([np.nan, np.inf, -np.inf], np.float32)}, is_row=True)
    assert body == b'{"predictions": [NaN, Infinity, -Infinity]}'


def test_large_integers_are_written_whole():
    assert (
        rest_json.predict_body({"y": np.array([2**63 - 1])}, is_row=True) == b'{"predictions": [9223372036854775807]}'
    )


@pytest.mark.parametrize(("name", "expected"), [("image_bytes", [[{"b64": "aGk="}]]), ("image", [["hi"]])])
def test_only_names_in_bytes_are_written_as_base64(name, expected):
    assert rest_json.to_json_value(name, np.array([[b"hi"]], dtype=object)) == expected


def test_two_outputs_make_an_object_a_row_or_an_object_of_columns():
    outputs = {"a": np.array([1, 2]), "b": np.array([[True], [False]])}
    assert json.loads(rest_json.predict_body(outputs, is_row=True)) == {
        "predictions": [{"a": 1, "b": [True]}, {"a": 2, "b": [False]}]
    }
    assert json.loads(rest_json.predict_body(outputs, is_row=False)) == {
        "outputs": {"a": [1, 2], "b": [[True], [False]]}
    }


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": np.array(1)}, "Tensor name: y has no shape information "),
        ({"y": np.zeros(2), "z": np.zeros(3)}, "Tensor name: z has inconsistent batch size: 3 expecting: 2"),
        ({"y": np.zeros(1, np.float16)}, "Failed to write JSON value for tensor type: half"),
    ],
)
def test_outputs_that_rows_cannot_carry_are_refused(outputs, message):
    with pytest.raises(StatusError) as error:
        rest_json.predict_body(outputs, is_row=True)
    assert error.value.message == message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"a": [1, 2.0]}]}, "Unexpected element type in feature: a expecting type: int64"),
        ({"examples": [{"a": [[1]]}]}, "Feature: a has element with unexpected JSON type: Array"),
        ({"examples": [{"a": 2**63}]}, "Feature: a has uint64 element. Only int64 is supported."),
    ],
)
def test_examples_that_are_wrong_are_refused(document, message):
    with pytest.raises(StatusError) as error:
        rest_json.request_examples(document)
    assert message in error.value.message


def test_the_context_is_part_of_each_example():
    document = {"context": {"a": 1, "b": "x"}, "examples": [{"a": [2, True]}, {"c": {"b64": "aGk="}, "d": [0.5]}]}
    assert rest_json.request_examples(document) == [
        {"a": [2, 1], "b": [b"x"]},
        {"a": [1], "b": [b"x"], "c": [b"hi"], "d": [0.5]},
    ]
