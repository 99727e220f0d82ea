"""The SavedModels of a folder MODELS/NAME/VERSION/, loaded as TF Serving loads them, swapped when a newer one appears.

Of each model the newest version is served, as TF Serving's default policy has it, or what a file of TF Serving's model
configuration asks for. A version takes over once it is loaded and warm, and then the one before goes; requests under
way keep the version that they began with.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import pathlib
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from seqrec_tf import manifest
from seqrec_tf.messages import DATASET, MODEL, RUN, VERSION, kind_of
from seqrec_tf.padding import NO_ITEM, NO_TIME
from seqrec_tf.schema import CANDIDATES, COMPLETED_FILE, EXTRA_FOLDER, RECOMMEND, SCHEMA_FILE, WARM_UP_FILE
from serving.rest_json import StatusError, invalid_argument

DEFAULT_SIGNATURE = RECOMMEND.name

_WARMUP_FILE = f"{EXTRA_FOLDER}/{WARM_UP_FILE}"
_MAX_WARMUP_RECORDS = 1000
_TIMEOUT_S = 30.0  # TF Serving's default for REST


def check_models(path: str) -> None:
    """Raise an error where a path is no folder of models, of which each version may be broken."""
    kind = kind_of(path)
    if kind in ("", "a file"):
        raise FileNotFoundError(f"--models must name a folder, {path} is {kind or 'none: there is no such folder'}.")
    if kind in (MODEL, VERSION):
        folder = pathlib.Path(path).absolute().parent
        above = folder if kind == MODEL else folder.parent
        raise ValueError(f"--models must name the folder above MODELS/NAME, {path} is {kind}. Give --models {above}.")
    if kind in (DATASET, RUN):
        raise ValueError(
            f"--models must name a folder of exported models, {path} is {kind}. Make one with `seqrec export --run RUN "
            "--output MODELS/NAME`, and give --models MODELS."
        )


class LoadedModel:
    """One version of a model in a session of its own, warm and ready.

    Args:
        path: The SavedModel folder.
        name: Under which it is served, the name of the folder above where it is left out.
        timeout_s: Seconds that a call may take.

    Raises:
        Exception: Whatever TensorFlow finds wrong with the SavedModel or its warm-up requests.

    Attributes:
        name: Under which it is served.
        version: The version, the name of the folder.
        signatures: Signature name to `SignatureDef`.
        example: The inputs of the first warm-up request to the default signature, empty where there is none.
        is_ours: Whether `seqrec export` has made it.
    """

    def __init__(self, path: pathlib.Path, name: str = "", *, timeout_s: float = _TIMEOUT_S):
        import tensorflow as tf

        self.name = name or path.parent.name
        self.version = int(path.name)
        self.example: dict[str, np.ndarray] = {}
        self._run_options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, round(1000 * timeout_s)))
        # No `close`: the session goes with the last request that holds this object.
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with _damage_named(path):
            self.signatures = dict(tf.compat.v1.saved_model.load(self._session, ["serve"], str(path)).signature_def)
        self.is_ours = (path / EXTRA_FOLDER / SCHEMA_FILE).exists()
        self._is_batchable = {name: _is_batchable(signature) for name, signature in self.signatures.items()}
        self._padding = {
            name: _padding(signature) if self.is_ours else {} for name, signature in self.signatures.items()
        }
        self._calls: dict[str, Callable[..., list[np.ndarray]]] = {}  # signature name to what runs it
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

    def is_batchable(self, signature_name: str) -> bool:
        """Whether one call may answer rows of several requests: the first size of all that goes in and out is open."""
        return self._is_batchable[signature_name or DEFAULT_SIGNATURE]

    def padding(self, signature_name: str) -> dict[str, Any]:
        """What may stand on the right of the rows of an input without a change of the answer, by the input's name.

        Only models of `seqrec export` say so, of lists of any length; each candidate has a score of its own.
        """
        return self._padding[signature_name or DEFAULT_SIGNATURE]

    def predict(
        self, signature_name: str, feeds: Mapping[str, np.ndarray], *, has_deadline: bool = True
    ) -> dict[str, np.ndarray]:
        """Run a signature that `input_dtypes` knows.

        Args:
            signature_name: Name of the signature, "" is the default one.
            feeds: Input name to array, for every input.
            has_deadline: Whether it may take `timeout_s` and no longer.

        Raises:
            StatusError: The model could not digest the arrays.
        """
        import tensorflow as tf

        signature_name = signature_name or DEFAULT_SIGNATURE
        signature = self.signatures[signature_name]
        try:
            if signature_name not in self._calls:  # one that was made twice does no harm
                self._calls[signature_name] = self._session.make_callable(
                    [info.name for info in signature.outputs.values()],
                    [info.name for info in signature.inputs.values()],
                    accept_options=True,
                )
            arrays = self._calls[signature_name](
                *(feeds[name] for name in signature.inputs), options=self._run_options if has_deadline else None
            )
            return dict(zip(signature.outputs, arrays, strict=True))
        except tf.errors.OpError as error:
            # The session rewords the runtime's error, which is the one that TF Serving reports, with a traceback.
            raise StatusError(_code_name(error), getattr(error.__context__, "message", error.message)) from error
        except ValueError as error:  # a shape that the signature does not allow
            raise invalid_argument(str(error)) from error

    def example_feeds(
        self, method: str, signature_name: str, examples: list[dict[str, list[Any]]]
    ) -> dict[str, np.ndarray]:
        """What `predict` takes, for a signature of TF1's `classify` or `regress` kind.

        Args:
            method: "classify" or "regress".
            signature_name: Name of the signature, "" is the default one.
            examples: Feature name to values, for each example.

        Raises:
            StatusError: The signature is not of that kind.
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
        return {"inputs": np.array([_serialize_example(features) for features in examples], dtype=object)}

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


def _is_batchable(signature: Any) -> bool:
    shapes = [info.tensor_shape for info in (*signature.inputs.values(), *signature.outputs.values())]
    return all(shape.dim and shape.dim[0].size == -1 for shape in shapes)


def _padding(signature: Any) -> dict[str, Any]:
    padding: dict[str, Any] = {}
    for name, info in signature.inputs.items():
        if [dim.size for dim in info.tensor_shape.dim] == [-1, -1] and name != CANDIDATES:
            value = {"string": NO_ITEM.encode(), "int64": NO_TIME}.get(_dtype_name(info.dtype))
            if value is not None:
                padding[name] = value
    return padding


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
        report: Called with a line for each version that was loaded, failed to, or was unloaded.
        config_file: A text file of TF Serving's `ModelServerConfig`: which models, which of their versions, and their
            labels. It is read again when it changes.
        timeout_s: Seconds that a call of a model may take.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        report: Callable[[str], None],
        config_file: str | pathlib.Path | None = None,
        timeout_s: float = _TIMEOUT_S,
    ):
        self._folder = pathlib.Path(folder)
        self._report = report
        self._timeout_s = timeout_s
        self._config = _ModelConfig(config_file) if config_file else None
        self._models: dict[str, dict[int, LoadedModel]] = {}  # replaced as a whole, as other threads read it
        self._labels: dict[str, dict[str, int]] = {}
        # When the files of a version that failed were last changed: it is tried again after the next change.
        self._failed: dict[pathlib.Path, float] = {}
        self._statuses: dict[str, dict[int, dict[str, Any]]] = {}
        self._polling = threading.Lock()
        self._lock = threading.Lock()  # guards _statuses

    @property
    def models(self) -> dict[str, LoadedModel]:
        """Name to the newest version being served."""
        return {name: versions[max(versions)] for name, versions in self._models.items()}

    @property
    def names(self) -> Collection[str]:
        """Of the models being served."""
        return self._models.keys()

    def why_nothing_is_served(self) -> str:
        """A sentence on a folder without models, or with broken ones alone, which were reported one by one."""
        if self._failed:
            broken = ", ".join(str(path) for path in sorted(self._failed))
            return (
                f"No model could be served from {self._folder}: {broken} cannot be loaded, for the reason above. "
                "Export it again with `seqrec export`, or copy the folder anew."
            )
        return (
            f"No model could be served from {self._folder}: it must hold NAME/VERSION/ SavedModel folders. Make one "
            f"with `seqrec export --run RUN --output {self._folder}/NAME`."
        )

    def poll(self) -> None:
        """Load the versions that should be served and are not, one after the other; then unload those that should not.

        Raises:
            OSError: The folder cannot be read; everything stays as it is.
            ValueError: So for the configuration.
        """
        with self._polling:
            self._poll()

    def _poll(self) -> None:
        if self._config:
            self._config.read()
        found = self._scan()
        wanted = self._config.wanted(found) if self._config else {name: _newest(found[name]) for name in found}
        for name, versions in sorted(wanted.items()):
            for version, path in sorted(versions.items()):
                if version not in self._models.get(name, {}):
                    modified = _last_change(path)
                    if self._failed.get(path) != modified and not self._load(name, path):
                        self._failed[path] = modified
        if self._config:
            self._labels = self._config.labels(self._models, self._labels)
        for name, served in self._models.items():
            versions = wanted.get(name, {})
            superfluous = set(served) - set(versions)
            # What fails to load takes nobody's place.
            if superfluous and (not versions or set(versions) & set(served)):
                self._unload(name, superfluous)

    def watch(self, *, period_s: float, stop: threading.Event) -> None:
        """Poll until `stop` is set."""
        problem = ""
        while not stop.wait(period_s):
            try:
                self.poll()
                problem = ""
            except (OSError, ValueError) as error:  # a folder that went away while it was read, a half-written file
                if str(error) != problem:
                    self._report(f"{self._folder} could not be read, what is served stays: {error}")
                problem = str(error)

    def find(self, name: str, version: int | None, label: str | None) -> LoadedModel:
        """The model that a request means.

        Raises:
            StatusError: It is not being served, or has no such label.
        """
        if label is not None:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {label}")
        versions = self._models.get(name, {})
        model = versions.get(max(versions, default=-1) if version is None else version)
        if model is None:
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
        for model in sorted(self._folder.iterdir()):
            if model.is_dir():
                numbers = (path for path in model.iterdir() if re.fullmatch("[0-9]+", path.name) and path.is_dir())
                found[model.name] = {int(path.name): path for path in numbers}
        return found

    def _load(self, name: str, path: pathlib.Path) -> bool:
        version = int(path.name)
        self._set_status(name, version, "LOADING")
        start = time.perf_counter()
        try:
            model = LoadedModel(path, name, timeout_s=self._timeout_s)
        except Exception as error:  # a broken SavedModel can raise anything, and must not stop the server
            message = str(getattr(error, "message", error))
            self._set_status(name, version, "END", code=_code_name(error), message=message)
            kept = max(self._models.get(name, {}), default=None)
            still = f"; version {kept} stays" if kept is not None else ""
            self._report(f"{name} version {version} failed to load{still}: {' '.join(message.split())}")
            return False
        self._set_status(name, version, "AVAILABLE")
        self._models = {**self._models, name: {**self._models.get(name, {}), version: model}}
        _tidy_memory()
        self._report(f"{name} version {version} loaded in {time.perf_counter() - start:.1f} s")
        return True

    def _unload(self, name: str, versions: Collection[int]) -> None:
        left = {version: model for version, model in self._models[name].items() if version not in versions}
        self._models = {other: models for other, models in {**self._models, name: left}.items() if models}
        for version in sorted(versions):
            self._set_status(name, version, "END")
            self._report(f"{name} version {version} unloaded")
        _tidy_memory()

    def _set_status(self, name: str, version: int, state: str, *, code: str = "OK", message: str = "") -> None:
        status = {
            "version": str(version),
            "state": state,
            "status": {"error_code": code, "error_message": message},
        }
        with self._lock:
            self._statuses.setdefault(name, {})[version] = status


def _newest(versions: Mapping[int, pathlib.Path], count: int = 1) -> dict[int, pathlib.Path]:
    return {version: versions[version] for version in sorted(versions)[-count:]}


def read_model_config(path: pathlib.Path, text: str) -> Any:
    """The `ModelServerConfig` of a file's text.

    Raises:
        ValueError: It is none.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path} is no ModelServerConfig of TF Serving: {error}") from error


class _ModelConfig:
    """A file of TF Serving's `ModelServerConfig`; `base_path` says only by its last part where in MODELS a model is."""

    def __init__(self, path: str | pathlib.Path):
        self._path = pathlib.Path(path)
        self._text = ""
        self._models: list[Any] = []

    def read(self) -> None:
        """Read the file where it has changed.

        Raises:
            ValueError: It is no such configuration.
        """
        text = self._path.read_text(encoding="utf-8")
        if text == self._text:
            return
        config = read_model_config(self._path, text)
        self._text, self._models = text, list(config.model_config_list.config)

    def wanted(self, found: Mapping[str, Mapping[int, pathlib.Path]]) -> dict[str, dict[int, pathlib.Path]]:
        """Which versions of each model are to be served, of those that are there."""
        wanted = {}
        for model in self._models:
            versions = found.get(pathlib.PurePosixPath(model.base_path).name or model.name, {})
            policy = model.model_version_policy
            if policy.WhichOneof("policy_choice") == "specific":
                wanted[model.name] = {key: path for key, path in versions.items() if key in policy.specific.versions}
            elif policy.WhichOneof("policy_choice") == "all":
                wanted[model.name] = dict(versions)
            else:
                wanted[model.name] = _newest(versions, policy.latest.num_versions or 1)
        return wanted

    def labels(
        self, served: Mapping[str, Mapping[int, LoadedModel]], before: Mapping[str, Mapping[str, int]]
    ) -> dict[str, dict[str, int]]:
        """The version of each label of each model; a label moves when its new version is served, not before."""
        labels: dict[str, dict[str, int]] = {}
        for model in self._models:
            for label, version in model.version_labels.items():
                for candidate in (version, before.get(model.name, {}).get(label, version)):
                    if candidate in served.get(model.name, {}):
                        labels.setdefault(model.name, {})[label] = candidate
                        break
        return labels


def _last_change(folder: pathlib.Path) -> float:
    return max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)


def _tidy_memory() -> None:
    """Give back what loading and unloading has left over, and spare the collector what stays."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # the graphs of TensorFlow are a million objects, which no pause for collection need look at again
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
