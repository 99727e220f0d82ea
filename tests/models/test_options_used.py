"""Every option of every model, given alone, changes what is learned, or is refused: none is accepted and ignored.

What is learned is a batch, its loss, the gradients and the scores afterwards, all from the same seeds. Options of the
loss are tried with each loss, of one model: it is the same code in all.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_contract import SMALL, all_scores, make_model, right_padded, training_batch

from seqrec_tf import models
from seqrec_tf.learning.objective import LOSSES, ObjectiveConfig

# Each item is followed by the next one, in a circle; long enough for masks and windows to differ.
SEQUENCES = [[(first + step) % 12 + 1 for step in range(8)] for first in range(6)]

# What an option is, where it is not the default or twice that.
OTHER = {
    "item_features": ("price",),
    "item_vectors": "frozen",
    "user_features": ("age",),
    "activation": "tanh",
    "norm": "pre",
    "fusion": "concat",
    "mask_rate": 0.9,
    "last_only_rate": 0.9,
    "max_targets": 1,
    "loss": "top1",
    "hidden_dims": (4,),
    "attention_dropout_rate": 0.4,
    "num_heads": 4,
    "popularity_exponent": 0.5,
}
# The loader cuts sequences by it, whatever the model: `data.load`.
OF_THE_LOADER = {"max_len"}


def changed(name, default):
    """A value of an option that is not its default."""
    if name == "negatives":
        return "popular" if default == "uniform" else "uniform"
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, bool):
        return not default
    return default * 2 + 2 if isinstance(default, int) else default / 2 + 0.125


def learned(cls, **options):
    """All that one step of training depends on, and what it leads to."""
    keras.utils.set_random_seed(1)
    small = {name: value for name, value in SMALL.items() if "features" not in name}
    model = make_model(cls, **{**dict.fromkeys(("item_features", "user_features"), ()), **small, **options})
    if model.objective is not None:
        model.objective.adapt(np.arange(12, 0, -1))
    x, y = training_batch(model, SEQUENCES)
    with tf.GradientTape() as tape:
        loss = model.mean_loss(model.target_losses(x, y, model(x, training=True)))
    gradients = tape.gradient(loss, model.trainable_variables)
    numbers = [*tf.nest.flatten((x, y)), loss, *filter(lambda gradient: gradient is not None, gradients)]
    arrays = [tf.convert_to_tensor(number).numpy() for number in numbers]
    return [*arrays, *[weight.numpy() for weight in model.weights], all_scores(model, right_padded(model))]


def same(one, other):
    def alike(left, right):  # features may be NaN
        return np.array_equal(left, right, equal_nan=left.dtype.kind == "f" and right.dtype.kind == "f")

    return len(one) == len(other) and all(map(alike, one, other))


def ignored(cls, mode, *, of=None):
    """Options of a model, or of a group of options, that change nothing where some others are given already."""
    before = learned(cls, **mode)
    assert same(before, learned(cls, **mode))  # so that what differs is the option's doing
    found = []
    for field in dataclasses.fields(of or cls.config_class):
        if field.name in OF_THE_LOADER | mode.keys() or (field.name == "dim" and cls is models.GRU4Rec):
            continue  # dim of GRU4Rec is refused beside ties: tests/models/test_gru4rec.py
        default = getattr(make_model(cls, **{**SMALL, **mode}).config, field.name)
        try:
            after = learned(cls, **{**mode, field.name: changed(field.name, default)})
        except ValueError:
            continue  # refused, with a sentence
        if same(before, after):
            found.append(field.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("mode", [{}, {"item_features": ("*",)}], ids=["ids", "features"])
def test_no_option_of_a_model_is_ignored(name, mode):
    cls = models.find(name)
    if not mode.keys() <= {field.name for field in dataclasses.fields(cls.config_class)}:
        pytest.skip("it reads no side features")
    if not make_model(cls).trainable_variables:
        pytest.skip("it has no trainable weights")
    if cls is models.NOVA and not mode:
        pytest.skip("it is a model of features")
    assert ignored(cls, mode) == []


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", [{}, {"negatives": "popular"}, {"negatives": "in-batch"}, {"share_negatives": True}])
def test_no_option_of_the_loss_is_ignored(loss, mode):
    cls = models.find("sasrec")
    try:
        cls.config_class(loss=loss, **mode)
    except ValueError:
        return  # the mode itself is refused
    assert ignored(cls, {"loss": loss, **mode}, of=ObjectiveConfig) == []
