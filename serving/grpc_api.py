"""TF Serving's gRPC interface: Predict, GetModelMetadata, GetModelStatus, by the models and the batches of REST."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.batching import Batcher
from serving.limits import Limits
from serving.metrics import Metrics
from serving.model_store import LoadedModel, ModelStore
from serving.request_log import RequestLog
from serving.rest_json import StatusError, invalid_argument


async def start(
    store: ModelStore,
    batcher: Batcher,
    limits: Limits,
    metrics: Metrics,
    request_log: RequestLog | None,
    address: str,
) -> tuple[Any, int]:
    """A server on the running event loop, and its port.

    Raises:
        ValueError: The address is not free.
    """
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", limits.max_body_bytes), ("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=limits.max_connections,
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(store, batcher, limits, metrics, request_log), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(store), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ValueError(f"Cannot listen on {address}. Choose another with --grpc-port.") from error
    await server.start()
    return server, port


def _answering(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A method whose `StatusError` is the status of the call."""

    async def answer(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request)
        except StatusError as error:
            await context.abort(grpc.StatusCode[error.code], error.message[:1000])

    return answer


def _find(store: ModelStore, spec: Any) -> LoadedModel:
    version = spec.version.value if spec.HasField("version") else None
    return store.find(spec.name, version, spec.version_label or None)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(
        self,
        store: ModelStore,
        batcher: Batcher,
        limits: Limits,
        metrics: Metrics,
        request_log: RequestLog | None,
    ):
        self._store, self._batcher, self._limits = store, batcher, limits
        self._metrics, self._request_log = metrics, request_log

    @_answering
    async def Predict(self, request: Any) -> Any:  # noqa: N802
        """Outputs of a signature, all or those of `output_filter`."""
        start, code = time.perf_counter(), "OK"
        try:
            return await self._predict(request)
        except StatusError as error:
            code = error.code
            raise
        finally:
            name = request.model_spec.name
            if name in self._store.names:
                microseconds = (time.perf_counter() - start) * 1e6
                self._metrics.observe_request(name, "predict", "GRPC", code, microseconds)

    async def _predict(self, request: Any) -> Any:
        import tensorflow as tf

        model, name = _find(self._store, request.model_spec), request.model_spec.signature_name
        expected = model.input_dtypes(name)
        if request.inputs.keys() != expected.keys():
            raise invalid_argument(
                f"input size does not match signature: {','.join(sorted(request.inputs))} given, "
                f"{','.join(sorted(expected))} expected."
            )
        try:
            feeds = {key: tf.make_ndarray(request.inputs[key]) for key in expected}
        except (TypeError, ValueError) as error:
            raise invalid_argument(f"An input is no tensor: {error}") from error
        for key, array in feeds.items():
            if tf.as_dtype(request.inputs[key].dtype).name != tf.as_dtype(_tf_name(expected[key])).name:
                raise invalid_argument(f"Input {key} must be {expected[key]}, got {array.dtype}.")
        self._limits.check(feeds)
        outputs = await self._batcher.run(model, name, feeds)
        if self._request_log:
            self._request_log.add(model.name, model.version, name, feeds, outputs)
        response = predict_pb2.PredictResponse()
        _describe(response.model_spec, model, name)
        for key in request.output_filter or outputs:
            if key not in outputs:
                raise invalid_argument(f"output tensor alias not found in signature: {key}")
            response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
        return response

    @_answering
    async def GetModelMetadata(self, request: Any) -> Any:  # noqa: N802
        """The signatures, which is all the metadata that there is."""
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid_argument("Metadata field must be signature_def, and no other.")
        model = _find(self._store, request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _describe(response.model_spec, model, "")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, signature in model.signatures.items():
            signatures.signature_def[key].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, store: ModelStore):
        self._store = store

    @_answering
    async def GetModelStatus(self, request: Any) -> Any:  # noqa: N802
        """The state of each version."""
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._store.statuses(spec.name, version):
            added = response.model_version_status.add(version=int(status["version"]))
            added.state = get_model_status_pb2.ModelVersionStatus.State.Value(status["state"])
            added.status.error_code = grpc.StatusCode[status["status"]["error_code"]].value[0]
            added.status.error_message = status["status"]["error_message"]
        return response


def _describe(spec: Any, model: LoadedModel, signature_name: str) -> None:
    spec.name, spec.signature_name = model.name, signature_name
    spec.version.CopyFrom(wrappers_pb2.Int64Value(value=model.version))


def _tf_name(dtype: str) -> str:
    return {"float": "float32", "double": "float64"}.get(dtype, dtype)
