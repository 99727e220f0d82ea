"""The SavedModels of a folder MODELS/NAME/VERSION/, loaded as TF Serving loads them, swapped when a newer one appears.

Only the newest version of a model is served, as TF Serving's default policy has it. A newer version takes over once it
is loaded and warm; requests under way keep the version that they began with.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from seqrec_tf import manifest
from seqrec_tf.schema import COMPLETED_FILE, EXTRA_FOLDER, RECOMMEND, WARM_UP_FILE
from serving.rest_json import StatusError, invalid_argument

DEFAULT_SIGNATURE = RECOMMEND.name

_WARMUP_FILE = f"{EXTRA_FOLDER}/{WARM_UP_FILE}"
_MAX_WARMUP_RECORDS = 1000
_TIMEOUT_MS = 30_000  # TF Serving's default for REST


class LoadedModel:
    """One version of a model in a session of its own, warm and ready.

    Args:
        path: The SavedModel folder.

    Raises:
        Exception: Whatever TensorFlow finds wrong with the SavedModel or its warm-up requests.

    Attributes:
        version: The version, the name of the folder.
        signatures: Signature name to `SignatureDef`.
        example: The inputs of the first warm-up request to the default signature, empty where there is none.
    """

    def __init__(self, path: pathlib.Path):
        import tensorflow as tf

        self.version = int(path.name)
        self.example: dict[str, np.ndarray] = {}
        self._run_options = tf.compat.v1.RunOptions(timeout_in_ms=_TIMEOUT_MS)
        # No `close`: the session goes with the last request that holds this object.
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with _damage_named(path):
            self.signatures = dict(tf.compat.v1.saved_model.load(self._session, ["serve"], str(path)).signature_def)
        warmup_file = path / _WARMUP_FILE
        if warmup_file.exists():
            self._warm_up(warmup_file)

    def input_dtypes(self, signature_name: str) -> dict[str, str]:
        """Input name to dtype, for a signature that a `:predict` request names ("" is the default one).

        Raises:
            StatusError: There is no such signature, or it has no inputs.
        """
        signature = self.signatures.get(signature_name or DEFAULT_SIGNATURE)
        if signature is None:
            raise invalid_argument(
                f'Serving signature name: "{signature_name or DEFAULT_SIGNATURE}" not found in signature def'
            )
        if not signature.inputs:
            raise invalid_argument(f"Failed to get input map for signature: {signature_name or 'DEFAULT'}")
        return {name: _dtype_name(info.dtype) for name, info in signature.inputs.items()}

    def predict(
        self, signature_name: str, feeds: Mapping[str, np.ndarray], *, has_deadline: bool = True
    ) -> dict[str, np.ndarray]:
        """Run a signature that `input_dtypes` knows.

        Args:
            signature_name: Name of the signature, "" is the default one.
            feeds: Input name to array, for every input.
            has_deadline: Whether it may take as long as TF Serving lets a request take, and no longer.

        Raises:
            StatusError: The model could not digest the arrays.
        """
        import tensorflow as tf

        signature = self.signatures[signature_name or DEFAULT_SIGNATURE]
        try:
            return self._session.run(
                {name: info.name for name, info in signature.outputs.items()},
                {signature.inputs[name].name: array for name, array in feeds.items()},
                options=self._run_options if has_deadline else None,
            )
        except tf.errors.OpError as error:
            # The session rewords the runtime's error, which is the one that TF Serving reports, with a traceback.
            raise StatusError(_code_name(error), getattr(error.__context__, "message", error.message)) from error
        except ValueError as error:  # a shape that the signature does not allow
            raise invalid_argument(str(error)) from error

    def run_examples(self, method: str, signature_name: str, examples: list[dict[str, list[Any]]]) -> dict[str, Any]:
        """Run a signature of TF1's `classify` or `regress` kind.

        Args:
            method: "classify" or "regress".
            signature_name: Name of the signature, "" is the default one.
            examples: Feature name to values, for each example.

        Returns:
            Output name to array.

        Raises:
            StatusError: The signature is not of that kind, or could not digest the examples.
        """
        signature_name = signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(signature_name)
        if signature is None:
            raise invalid_argument(f"No signature was found with the name: {signature_name}")
        expected = f"tensorflow/serving/{method}"
        if signature.method_name != expected:
            kind = {"classify": "classification", "regress": "regression"}[method]
            raise invalid_argument(
                f"Expected {kind} signature method_name to be {expected}. Was: {signature.method_name}"
            )
        wanted = {"classify": ("classes", "scores"), "regress": ("outputs",)}[method]
        if set(signature.inputs) != {"inputs"} or not set(signature.outputs) & set(wanted):
            raise StatusError(
                "FAILED_PRECONDITION",
                f"Expected the input inputs and an output of {', '.join(wanted)} in SignatureDef: {signature_name}",
            )
        serialized = np.array([_serialize_example(features) for features in examples], dtype=object)
        return self.predict(signature_name, {"inputs": serialized})

    def _warm_up(self, path: pathlib.Path) -> None:
        import tensorflow as tf
        from tensorflow_serving.apis import prediction_log_pb2

        for index, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
            if index == _MAX_WARMUP_RECORDS:
                raise ValueError(f"{path} holds more than {_MAX_WARMUP_RECORDS} warm-up requests, the most that load.")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise ValueError(
                    f"Warm-up request {index} of {path} must be a predict_log, got {log.WhichOneof('log_type')}."
                )
            request = log.predict_log.request
            name = request.model_spec.signature_name
            expected = self.input_dtypes(name)
            got = {key: _dtype_name(tensor.dtype) for key, tensor in request.inputs.items()}
            if got != expected:
                raise ValueError(f"Warm-up request {index} of {path} must have the inputs {expected}, got {got}.")
            feeds = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
            self.predict(name, feeds, has_deadline=False)
            if not self.example and name in ("", DEFAULT_SIGNATURE):
                self.example = feeds


@contextlib.contextmanager
def _damage_named(version: pathlib.Path) -> Iterator[None]:
    """Where a version that `seqrec export` wrote does not load, the sentence that names its damaged file."""
    if not (version / COMPLETED_FILE).exists():  # another program's
        yield
        return
    own = manifest.read(version, manifest.MODEL)
    loaded = [name for name in own.files if not name.startswith(f"{EXTRA_FOLDER}/")]
    own.check_sizes(loaded)
    with own.explaining(loaded, also=(OSError,)):
        yield


def _dtype_name(dtype: int) -> str:
    from tensorflow.core.framework import types_pb2

    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


def _serialize_example(features: Mapping[str, list[Any]]) -> bytes:
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if not values:
            continue
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example.SerializeToString()


def _code_name(error: Exception) -> str:
    from tensorflow.core.protobuf import error_codes_pb2

    if isinstance(error, StatusError):
        return error.code
    return error_codes_pb2.Code.Name(getattr(error, "error_code", error_codes_pb2.UNKNOWN))


class ModelStore:
    """The models of a folder, kept up to date.

    Args:
        folder: Holds NAME/VERSION/ SavedModels; anything else in it is ignored.
        report: Called with a line for each version that was loaded or failed to.
    """

    def __init__(self, folder: str | pathlib.Path, *, report: Callable[[str], None]):
        self._folder = pathlib.Path(folder)
        self._report = report
        self._models: dict[str, LoadedModel] = {}
        # When the files of a version that failed were last changed: it is tried again after the next change.
        self._failed: dict[pathlib.Path, float] = {}
        self._statuses: dict[str, dict[int, dict[str, Any]]] = {}
        self._lock = threading.Lock()  # guards _statuses

    @property
    def models(self) -> dict[str, LoadedModel]:
        """Name to the version being served."""
        return dict(self._models)

    def poll(self) -> None:
        """Load the newest version of each model where that is not the one being served."""
        for name, versions in self._scan().items():
            path = versions[max(versions)]
            served = self._models.get(name)
            if served is not None and served.version == max(versions):
                continue
            modified = _last_change(path)
            if self._failed.get(path) != modified and not self._load(name, path):
                self._failed[path] = modified

    def watch(self, *, period_s: float, stop: threading.Event) -> None:
        """Poll until `stop` is set."""
        while not stop.wait(period_s):
            try:
                self.poll()
            except OSError as error:  # a folder that went away while it was read
                self._report(f"{self._folder} could not be read: {error}")

    def find(self, name: str, version: int | None, label: str | None) -> LoadedModel:
        """The model that a request means.

        Raises:
            StatusError: It is not being served. There are no labels here.
        """
        if label is not None:
            raise invalid_argument(f"Unrecognized servable version label: {label}")
        model = self._models.get(name)
        if model is None or version not in (None, model.version):
            servable = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise StatusError("NOT_FOUND", f"Servable not found for request: {servable}")
        return model

    def statuses(self, name: str, version: int | None) -> list[dict[str, Any]]:
        """The state of each version of a model that was ever met, or of one version, newest first.

        Raises:
            StatusError: There is no such model or version.
        """
        with self._lock:
            known = dict(self._statuses.get(name, {}))
        if version is not None:
            if version not in known:
                raise StatusError("NOT_FOUND", f"Could not find version {version} of model {name}")
            return [known[version]]
        if not known:
            raise StatusError("NOT_FOUND", f"Could not find any versions of model {name}")
        return [known[key] for key in sorted(known, reverse=True)]

    def _scan(self) -> dict[str, dict[int, pathlib.Path]]:
        found: dict[str, dict[int, pathlib.Path]] = {}
        for path in sorted(self._folder.glob("*/*")):
            if re.fullmatch("[0-9]+", path.name) and path.is_dir():
                found.setdefault(path.parent.name, {})[int(path.name)] = path
        return found

    def _load(self, name: str, path: pathlib.Path) -> bool:
        version = int(path.name)
        self._set_status(name, version, "LOADING")
        start = time.perf_counter()
        try:
            model = LoadedModel(path)
        except Exception as error:  # a broken SavedModel can raise anything, and must not stop the server
            message = str(getattr(error, "message", error))
            self._set_status(name, version, "END", code=_code_name(error), message=message)
            kept = self._models.get(name)
            still = f"; version {kept.version} stays" if kept else ""
            self._report(f"{name} version {version} failed to load{still}: {' '.join(message.split())}")
            return False
        self._set_status(name, version, "AVAILABLE")
        replaced = self._models.get(name)
        self._models[name] = model
        if replaced is not None:
            self._set_status(name, replaced.version, "END")
        self._report(f"{name} version {version} loaded in {time.perf_counter() - start:.1f} s")
        return True

    def _set_status(self, name: str, version: int, state: str, *, code: str = "OK", message: str = "") -> None:
        status = {
            "version": str(version),
            "state": state,
            "status": {"error_code": code, "error_message": message},
        }
        with self._lock:
            self._statuses.setdefault(name, {})[version] = status


def _last_change(folder: pathlib.Path) -> float:
    return max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
