"""Small SavedModels that the tests of this folder serve."""

import contextlib
import pathlib
import shutil
import threading

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving import server as server_lib
from serving.model_store import ModelStore

pytest.register_assert_rewrite("rest_calls")

ITEMS = ["apple", "bread", "cheese", "dates", "eggs"]


class Recommender(tf.Module):
    """Recommends the first items that the history lacks; knows ITEMS."""

    def __init__(self, *, k=3, top_score=1.0):
        super().__init__()
        self.k = k
        self.top_score = tf.Variable(top_score)
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(ITEMS, tf.range(len(ITEMS), dtype=tf.int64)), -1
        )

    @tf.function
    def serve(self, history):
        ids = self.table.lookup(history)  # [B, L]
        is_met = tf.reduce_any(ids[:, :, None] == tf.range(len(ITEMS), dtype=tf.int64), axis=1)  # [B, V]
        scores = self.top_score / tf.range(1.0, len(ITEMS) + 1.0)  # [V]
        values, best = tf.math.top_k(tf.where(is_met, -1.0, scores), self.k)  # [B, K]
        return {
            "items": tf.gather(tf.constant(ITEMS), best),
            "scores": values,
            "num_unknown": tf.reduce_sum(tf.cast((ids < 0) & (history != ""), tf.int32), axis=1),
        }


class Numbers(tf.Module):
    """Several inputs and outputs of every kind."""

    @tf.function
    def serve(self, user, price, weights, is_new):
        return {
            "user": user,
            "total": price * tf.reduce_sum(weights, axis=1),
            "is_new": is_new,
            "weights": weights,
            "key_bytes": tf.strings.join(["\xff", tf.strings.as_string(user)]),
        }

    @tf.function
    def double(self, value):
        return {"doubled": value * 2}

    @tf.function
    def inspect(self, value):
        return {"whole": tf.reduce_sum(value), "value": value}

    @tf.function
    def divide(self, value):
        return {"quotient": 12 // value}

    @tf.function
    def halve(self, value):
        return {"half": tf.cast(value, tf.bfloat16)}

    @tf.function
    def narrow(self, value):
        return {"value": value}


def _spec(dtype, *shape):
    return tf.TensorSpec([None, *shape], dtype)


def _export_recommender(path, *, length=None, **options):
    """Write a Recommender to the version folder `path`."""
    module = Recommender(**options)
    signature = module.serve.get_concrete_function(history=_spec(tf.string, length))
    tf.saved_model.save(module, str(path), {"serving_default": signature})


def _export_numbers(path):
    module = Numbers()
    floats = _spec(tf.float32)
    signatures = {
        "serving_default": module.serve.get_concrete_function(
            user=_spec(tf.int64), price=floats, weights=_spec(tf.float32, 3), is_new=_spec(tf.bool)
        ),
        "double": module.double.get_concrete_function(value=floats),
        "inspect": module.inspect.get_concrete_function(value=floats),
        "divide": module.divide.get_concrete_function(value=_spec(tf.int32)),
        "halve": module.halve.get_concrete_function(value=floats),
        "narrow": module.narrow.get_concrete_function(value=_spec(tf.uint8)),
        "unsupported": module.narrow.get_concrete_function(value=_spec(tf.complex64)),
    }
    tf.saved_model.save(module, str(path), signatures)


def _export_examples(path):
    """A TF1 SavedModel with the signatures of `:classify` and `:regress`."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None])
        price = tf.io.parse_example(serialized, {"price": tf.io.FixedLenFeature([], tf.float32)})["price"]
        classes = tf.stack([tf.fill(tf.shape(price), "cheap"), tf.fill(tf.shape(price), "dear")], axis=1)
        scores = tf.stack([1 - price, price], axis=1)
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": v1.saved_model.classification_signature_def(serialized, classes, scores),
                "regress": v1.saved_model.regression_signature_def(serialized, price[:, None]),
            },
        )
        builder.save()


def _write_warmup(path, inputs, *, log_type="predict_log"):
    """Give the SavedModel at `path` one warm-up request."""
    log = prediction_log_pb2.PredictionLog()
    getattr(log, log_type).SetInParent()
    if log_type == "predict_log":
        for name, value in inputs.items():
            log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    folder = pathlib.Path(path) / "assets.extra"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


@pytest.fixture(scope="session")
def export_recommender():
    """The function that writes a Recommender."""
    return _export_recommender


@pytest.fixture(scope="session")
def write_warmup():
    """The function that writes a warm-up request."""
    return _write_warmup


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder of models that no test may change."""
    folder = tmp_path_factory.mktemp("models")
    _export_recommender(folder / "shop" / "7")
    _write_warmup(folder / "shop" / "7", {"history": [["apple", "bread", ""]]})
    _export_recommender(folder / "fixed" / "1", length=2)
    _export_numbers(folder / "numbers" / "1")
    _export_examples(folder / "examples" / "1")
    (folder / "shop" / "tmp-8").mkdir()
    (folder / "README").touch()
    return folder


@pytest.fixture
def shop(models, tmp_path):
    """A folder with version 7 of the model `shop`, for a test to change."""
    shutil.copytree(models / "shop" / "7", tmp_path / "models" / "shop" / "7")
    return tmp_path / "models"


@pytest.fixture(scope="session")
def store(models):
    """The models of `models`, loaded."""
    store = ModelStore(models, report=lambda line: None)
    store.poll()
    return store


@pytest.fixture(scope="session")
def web(store):
    """Asks the REST interface of `store`, without a server."""
    from rest_calls import web_client

    return web_client(store)


@pytest.fixture(scope="session")
def url(store):
    """The address of a real server of `store`."""
    with _serving(store) as address:
        yield address


@pytest.fixture(scope="session")
def serving():
    """A context manager that serves a `ModelStore` and gives the server's address."""
    return _serving


@contextlib.contextmanager
def _serving(store):
    with server_lib.listen("127.0.0.1", 0) as listener:
        server = server_lib.make_http_server(server_lib.RestApi(store, log=lambda line: None), listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
