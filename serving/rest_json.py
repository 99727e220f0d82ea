"""The bodies of TF Serving's REST interface: JSON requests to numpy arrays, numpy arrays to JSON.

Pure functions, without a server or TensorFlow. Rules and messages are those of TF Serving's `json_tensor.cc`, so that a
request that works here works in production, and one that fails there fails here with the same words. Dtypes go by
TF Serving's names ("float", "int64", "string", ...).
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_NUMPY_DTYPES: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "string": np.object_,
}
# TF Serving reads the narrow integers as int32 and then cuts them.
_INTEGER_RANGES = {
    **dict.fromkeys(("int8", "int16", "uint8", "int32"), (-(2**31), 2**31 - 1)),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
# The largest integer and the largest finite value.
_DECIMAL_LIMITS = {
    "float": (2**24 - 1, float(np.finfo(np.float32).max)),
    "double": (2**53 - 1, float(np.finfo(np.float64).max)),
}
_MOST_DIMENSIONS = 64  # of an array of NumPy
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))
_MOST_ECHO = 1000  # bytes of an error
# Half of a pair alone, as in "\\ud83d", has no UTF-8.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class StatusError(Exception):
    """A failure with one of TensorFlow's status codes, as TF Serving would report it.

    Args:
        code: Name of the status code, such as "INVALID_ARGUMENT".
        message: What the client reads.
    """

    def __init__(self, code: str, message: str):
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def invalid_argument(message: str) -> StatusError:
    """The error that a wrong request deserves."""
    return StatusError("INVALID_ARGUMENT", message)


def parse_object(body: bytes, *, max_depth: int = _MOST_DIMENSIONS) -> dict[str, Any]:
    """Read a request body, which must be a JSON object. The first of equal keys counts, as for TF Serving.

    Args:
        body: The bytes.
        max_depth: Deepest nesting of lists and objects.

    Raises:
        StatusError: It is empty, not JSON, too deep, or not an object.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    if _is_deeper(body, max_depth):
        raise invalid_argument(f"JSON Parse error: Lists and objects are nested more than {max_depth} deep")
    try:
        # TF Serving hands bytes that are not UTF-8 to the model as they are; surrogates carry them through Python.
        text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        document = json.loads(text, object_pairs_hook=_first_of_equal_keys)
        if _SURROGATE_ESCAPE.search(body):
            json_body(document)
    except json.JSONDecodeError as error:
        raise invalid_argument(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except UnicodeEncodeError as error:
        raise invalid_argument("JSON Parse error: The surrogate pair in string is invalid.") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond what Python reads
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise _format_error(document, "Is not object")
    return document


def _first_of_equal_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        values.update(reversed(pairs))
    return values


def _is_deeper(body: bytes, max_depth: int) -> bool:
    """Whether lists and objects are nested deeper; what Python's recursion cannot read is found before it is read."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    brackets = _JSON_STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) > max_depth


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request names; "" where it leaves that open."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name


def predict_feeds(document: Mapping[str, Any], dtypes: Mapping[str, str]) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays to feed for a `:predict` request.

    Args:
        document: The request.
        dtypes: Input name to dtype, for every input of the signature.

    Returns:
        The array of each input, and whether the request was in row format (`instances`).

    Raises:
        StatusError: The request does not fit the inputs.
    """
    if "instances" in document:
        if "inputs" in document:
            raise _format_error(
                document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
            )
        instances = document["instances"]
        if not isinstance(instances, list):
            raise _format_error(document, "Expecting 'instances' to be an list/array")
        if not instances:
            raise _format_error(document, "No values in 'instances' array")
        return _row_feeds(instances, dtypes), True
    if "inputs" in document:
        return _columnar_feeds(document["inputs"], dtypes), False
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _row_feeds(instances: list[Any], dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    if not isinstance(instances[0], dict) and len(dtypes) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    are_objects = _is_named_row(instances[0])
    columns: dict[str, _Column] = {}
    for index, row in enumerate(instances):
        if _is_named_row(row) != are_objects:
            expected, got = ("object", "list") if are_objects else ("value/list", "object")
            raise invalid_argument(f"Expecting {expected} but got {got} at item {index} of input list")
        for name, value in row.items() if are_objects else [(next(iter(dtypes)), row)]:
            key = f" key: {name}" if are_objects else ""
            try:
                if name not in dtypes:
                    raise invalid_argument(f"JSON object: does not have named input: {name}")
                columns.setdefault(name, _Column(dtypes[name])).add_row(value)
            except StatusError as error:
                raise invalid_argument(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: {error}"
                ) from error
        if are_objects and row.keys() != dtypes.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_text(row)} keys must be equal "
                f"to: {','.join(sorted(dtypes))}"
            )
    return {name: column.to_array([len(instances), *column.shape]) for name, column in columns.items()}


def _columnar_feeds(inputs: Any, dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    if not _is_named_row(inputs):
        if len(dtypes) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        inputs = {next(iter(dtypes)): inputs}
    feeds = {}
    for name, dtype in dtypes.items():
        if name not in inputs:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        column = _Column(dtype)
        column.add_row(inputs[name])
        feeds[name] = column.to_array(column.shape)
    return feeds


class _Column:
    """The values of one input, gathered row by row; every row must have the shape of the first."""

    def __init__(self, dtype: str):
        self.dtype = dtype
        self.shape: list[int] = []
        self._values: list[Any] = []
        self._row_size = -1

    def add_row(self, row: Any) -> None:
        shape = _dense_shape(row)
        before = len(self._values)
        self._append(row, shape, level=0)
        size = len(self._values) - before
        if self._row_size < 0:
            self._row_size, self.shape = size, shape
        elif size != self._row_size:
            raise invalid_argument(f"Expecting tensor size: {self._row_size} but got: {size}")
        elif shape != self.shape:
            raise invalid_argument(f"Expecting shape {_shape_text(self.shape)} but got: {_shape_text(shape)}")

    def _append(self, value: Any, shape: list[int], *, level: int) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                raise invalid_argument(
                    f"JSON Value: {_text(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                    f"level: {len(shape)}"
                )
            self._values.append(_to_scalar(value, self.dtype))
            return
        if level >= len(shape):
            raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        if self.dtype == "string" and level + 1 == len(shape) and set(map(type, value)) == {str}:
            self._values += [element.encode("utf-8", "surrogateescape") for element in value]
            return
        for element in value:
            self._append(element, shape, level=level + 1)

    def to_array(self, shape: list[int]) -> np.ndarray:
        read_as = np.int32 if self.dtype in ("int8", "int16", "uint8") else _NUMPY_DTYPES.get(self.dtype, np.object_)
        if len(shape) > _MOST_DIMENSIONS:
            raise invalid_argument(f"Lists are nested more than {_MOST_DIMENSIONS} deep")
        array = np.array(self._values, dtype=read_as).astype(_NUMPY_DTYPES.get(self.dtype, np.object_), copy=False)
        return array.reshape(shape)


def _dense_shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _to_scalar(value: Any, dtype: str) -> Any:
    if dtype not in _NUMPY_DTYPES:
        raise StatusError("UNIMPLEMENTED", f"Conversion of JSON Value: {_text(value)} to type: {dtype}")
    # A bool is an int to `isinstance`, hence `type`.
    if dtype in _INTEGER_RANGES and type(value) is int:
        low, high = _INTEGER_RANGES[dtype]
        if low <= value <= high:
            return value
    elif dtype in _DECIMAL_LIMITS and type(value) in (int, float):
        if _is_lossless(value, dtype):
            return value
        raise invalid_argument(f"Cannot convert JSON value: {_text(value)} to {dtype} without loss of precision.")
    elif dtype == "bool" and isinstance(value, bool):
        return value
    elif dtype == "string" and isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    elif dtype == "string" and isinstance(value, dict):
        return _decode_base64(value)
    raise invalid_argument(f"JSON Value: {_text(value)} Type: {_type_name(value)} is not of expected type: {dtype}")


def _is_lossless(value: float, dtype: str) -> bool:
    largest_integer, largest_finite = _DECIMAL_LIMITS[dtype]
    if isinstance(value, int):
        return abs(value) <= largest_integer
    return not math.isfinite(value) or abs(value) <= largest_finite


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_named_row(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _decode_base64(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise _format_error(value, "not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    if not text.endswith("="):
        text += "=" * (-len(text) % 4)  # TF Serving does not insist on padding
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise invalid_argument("Unable to base64 decode") from error


def request_examples(document: Mapping[str, Any]) -> list[dict[str, list[Any]]]:
    """The examples of a `:classify` or `:regress` request.

    Returns:
        Feature name to its values (all bytes, all int or all float) for each example; the request's `context` is part
        of each.

    Raises:
        StatusError: The request has no examples, or one that is not a `tf.train.Example` in JSON.
    """
    context = _example_features(document["context"]) if "context" in document else {}
    if "examples" not in document:
        raise _format_error(document, "When method is classify, key 'examples' is expected and was not found")
    examples = document["examples"]
    if not isinstance(examples, list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _format_error(document, "'examples' value is an empty array")
    return [{**context, **_example_features(example)} for example in examples]


def _example_features(example: Any) -> dict[str, list[Any]]:
    if not isinstance(example, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {_type_name(example)}")
    features = {}
    for name, content in example.items():
        values = [_feature_value(name, value) for value in (content if isinstance(content, list) else [content])]
        if any(type(value) is not type(values[0]) for value in values):
            kind = {bytes: "bytes", int: "int64", float: "float"}[type(values[0])]
            raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {kind}")
        features[name] = values
    return features


def _feature_value(name: str, value: Any) -> bytes | int | float:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if _is_base64(value):
        return _decode_base64(value)
    if isinstance(value, int):
        low, high = _INTEGER_RANGES["int64"]
        if not low <= value <= high:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return int(value)
    if isinstance(value, float):
        return _to_scalar(value, "float")
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {_type_name(value)}")


def predict_body(outputs: Mapping[str, np.ndarray], *, is_row: bool) -> bytes:
    """The answer to a `:predict` request.

    Args:
        outputs: Output name to array.
        is_row: Whether the request was in row format.

    Raises:
        StatusError: An output has a dtype that JSON cannot carry or, in row format, no batch dimension.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if not is_row:
        columns = {name: to_json_value(name, array) for name, array in outputs.items()}
        return json_body({"outputs": columns if len(columns) > 1 else columns.popitem()[1]})
    batch_size = -1
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if batch_size >= 0 and len(array) != batch_size:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch_size}"
            )
        batch_size = len(array)
    rows = zip(*(to_json_value(name, array) for name, array in outputs.items()), strict=True)
    return json_body(
        {"predictions": [dict(zip(outputs, row, strict=True)) if len(outputs) > 1 else row[0] for row in rows]}
    )


def classify_body(classes: np.ndarray | None, scores: np.ndarray | None) -> bytes:
    """The answer to a `:classify` request, from string [B, C] classes, float32 [B, C] scores or both."""
    shape = next(array.shape for array in (classes, scores) if array is not None)
    labels = to_json_value("", np.full(shape, b"", dtype=object) if classes is None else classes)
    values = to_json_value("", np.zeros(shape, np.float32) if scores is None else scores)
    return json_body(
        {"results": [[list(pair) for pair in zip(*row, strict=True)] for row in zip(labels, values, strict=True)]}
    )


def regress_body(values: np.ndarray) -> bytes:
    """The answer to a `:regress` request, from float32 [B] or [B, 1] values."""
    return json_body({"results": to_json_value("", values.reshape(-1))})


def error_body(message: str) -> bytes:
    """The answer to a request that failed, which says no more than a kilobyte of what the request held."""
    text = message.encode("utf-8", "surrogateescape")
    if len(text) > _MOST_ECHO:
        half = _MOST_ECHO // 2
        message = f"{text[:half].decode('utf-8', 'ignore')} ... {text[-half:].decode('utf-8', 'ignore')}"
    return json_body({"error": message})


def to_json_value(name: str, array: np.ndarray) -> Any:
    """An array as nested lists (a bare value for rank 0) that `json` can write.

    Args:
        name: Name of the tensor; a string tensor whose name ends in `_bytes` becomes `{"b64": ...}` objects.
        array: Any array that TensorFlow returns.
    """
    if array.dtype.kind == "O":
        values = np.empty(array.size, dtype=object)
        if name.endswith("_bytes"):
            values[:] = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
        else:
            values[:] = [value.decode("utf-8", "surrogateescape") for value in array.ravel()]
        return values.reshape(array.shape).tolist()
    if array.dtype == np.float32:
        # By way of the shortest text: 0.2, not 0.20000000298023224.
        return array.astype(str).astype(np.float64).tolist()
    if array.dtype not in _NUMPY_DTYPES.values():
        dtype = "half" if array.dtype == np.float16 else array.dtype.name
        raise invalid_argument(f"Failed to write JSON value for tensor type: {dtype}")
    return array.tolist()


def json_body(document: Any) -> bytes:
    """A document as the bytes of an answer."""
    # NaN and Infinity are written bare, as TF Serving does.
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")


_ERROR_ENCODER = json.JSONEncoder(indent=4, ensure_ascii=False)


def _text(value: Any) -> str:
    """A JSON value as error messages show it, of a long one the beginning."""
    text, length = [], 0
    for piece in _ERROR_ENCODER.iterencode(value):
        text.append(piece[:_MOST_ECHO])
        length += len(piece)
        if length > _MOST_ECHO:
            break
    return "".join(text)


def _shape_text(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _type_name(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def _format_error(value: Any, problem: str) -> StatusError:
    return invalid_argument(f"JSON Value: {_text(value)} {problem}")
