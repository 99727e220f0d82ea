"""The gRPC interface, beside REST."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server import running


@pytest.fixture(scope="module")
def channel(store):
    with (
        running(store, grpc_address="127.0.0.1:0") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict_request(model="shop", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_a_history_gets_what_the_model_gives(prediction, store):
    response = prediction.Predict(predict_request(history=[["apple", "caviar"]]), timeout=20)
    expected = store.find("shop", None, None).predict("", {"history": np.array([[b"apple", b"caviar"]], object)})
    assert response.outputs.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tf.make_ndarray(response.outputs[name]), array)
    assert (response.model_spec.name, response.model_spec.version.value) == ("shop", 7)


def test_only_the_outputs_asked_for_come(prediction):
    request = predict_request(history=[["apple"]])
    request.output_filter.append("items")
    assert list(prediction.Predict(request, timeout=20).outputs) == ["items"]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_request("none", history=[["a"]]), "NOT_FOUND", "Servable not found for request: Latest(none)"),
        (predict_request(), "INVALID_ARGUMENT", "input size does not match signature"),
        (predict_request(history=[[1]]), "INVALID_ARGUMENT", "Input history must be string"),
        (predict_request(history=[["a"]] * 2000), "INVALID_ARGUMENT", "a request may have 1024"),
    ],
)
def test_a_wrong_request_has_the_status_of_rest(prediction, request_, code, message):
    with pytest.raises(grpc.RpcError) as error:
        prediction.Predict(request_, timeout=20)
    assert error.value.code().name == code
    assert message in error.value.details()


def test_metadata_and_status_are_those_of_the_store(prediction, channel, store):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "shop"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    prediction.GetModelMetadata(request, timeout=20).metadata["signature_def"].Unpack(signatures)
    assert dict(signatures.signature_def) == store.find("shop", None, None).signatures

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "shop"
    (status,) = (
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=20).model_version_status
    )
    assert (status.version, status.state, status.status.error_code) == (7, status.AVAILABLE, 0)
