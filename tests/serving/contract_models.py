"""The small SavedModels that the tests of the contract ask; written to a folder, another server can serve them:

python tests/serving/contract_models.py FOLDER
"""

import pathlib
import sys

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

CONFIG = """model_config_list {
  config { name: "shop" base_path: "%(folder)s/shop" model_platform: "tensorflow" }
  config { name: "fixed" base_path: "%(folder)s/fixed" model_platform: "tensorflow" }
  config { name: "numbers" base_path: "%(folder)s/numbers" model_platform: "tensorflow" }
  config { name: "examples" base_path: "%(folder)s/examples" model_platform: "tensorflow" }
}
"""
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


def export_recommender(path, *, length=None, **options):
    """Write a Recommender to the version folder `path`."""
    module = Recommender(**options)
    signature = module.serve.get_concrete_function(history=_spec(tf.string, length))
    tf.saved_model.save(module, str(path), {"serving_default": signature})


def export_numbers(path):
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


def export_examples(path):
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


def write_warmup(path, inputs, *, log_type="predict_log"):
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


def write_models(folder):
    """Write all of them, and the configuration of a server that finds them at /models."""
    export_recommender(folder / "shop" / "7")
    write_warmup(folder / "shop" / "7", {"history": [["apple", "bread", ""]]})
    export_recommender(folder / "fixed" / "1", length=2)
    export_numbers(folder / "numbers" / "1")
    export_examples(folder / "examples" / "1")
    (folder / "models.config").write_text(CONFIG % {"folder": "/models"})


if __name__ == "__main__":
    write_models(pathlib.Path(sys.argv[1]))
