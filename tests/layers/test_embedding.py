import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.config import computing_in
from seqrec_tf.layers import Embedding
from seqrec_tf.models import GRU4Rec, SASRec
from seqrec_tf.schema import Schema

IDS = [[3, 0], [3, 1]]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_it_gives_the_rows_in_the_dtype_of_its_computations(training, dtype):
    layer = Embedding(4, 3, dtype=dtype)
    rows = layer(tf.constant(IDS), training=training)
    expected = tf.cast(tf.constant(layer.table.numpy()[IDS]), layer.compute_dtype)
    assert layer.table.dtype == tf.float32
    np.testing.assert_array_equal(tf.cast(rows, tf.float32), tf.cast(expected, tf.float32))


def test_a_number_as_initializer_is_a_standard_deviation():
    keras.utils.set_random_seed(1)
    assert np.std(Embedding(1000, 20, initializer=0.3).table.numpy()) == pytest.approx(0.3, rel=0.02)


def test_it_comes_back_from_its_config():
    layer = Embedding(4, 3, initializer="ones", constraint=keras.constraints.MaxNorm(1.0, axis=1), dtype="bfloat16")
    copy = Embedding.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    np.testing.assert_array_equal(tf.cast(copy.table, tf.float32), np.ones([4, 3]))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (SASRec, {"loss": "bce"}),
        (SASRec, {"loss": "sampled-softmax", "share_negatives": True, "num_negatives": 3}),
        (GRU4Rec, {"loss": "bpr-max", "negatives": "in-batch", "num_negatives": 3}),
    ],
)
def test_a_sampled_loss_has_a_gradient_of_the_rows_that_it_touches(policy, cls, options):
    """Through the tied table's both uses: the cost of a step does not depend on the catalogue."""
    with computing_in(policy):
        model = cls(cls.config_class(max_len=4, **options), Schema(num_items=1000))
    x, y = {"item_ids": tf.constant([[5, 7, 9]])}, tf.constant([[7, 9, 0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.target_losses(x, y, model(x, training=True)))
    gradient = tape.gradient(loss, model.item_table())
    assert isinstance(gradient, tf.IndexedSlices)
    rows = set(gradient.indices.numpy().tolist())
    assert {5, 7, 9} <= rows
    assert len(rows) <= 3 + 6
