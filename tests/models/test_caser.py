import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.models import Caser
from seqrec_tf.schema import ITEM_IDS, ITEM_IDS_FEATURE, USER_ID, USER_ID_FEATURE, Schema

SCHEMA = Schema(num_items=5, features=(ITEM_IDS_FEATURE, USER_ID_FEATURE), num_users=2)


def random_model(**options):
    small = {"dim": 4, "window": 3, "num_horizontal": 2, "num_vertical": 2, "dropout_rate": 0.0}
    model = Caser(Caser.config_class(**small, **options), SCHEMA)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(random.normal(size=weight.shape))
    return model


def slow_state(model, events):
    """What the filters find in the newest events, one number at a time."""
    config = model.config
    image = np.zeros([config.window, config.dim])
    for row, item in enumerate(reversed(events[-config.window :])):
        image[config.window - 1 - row] = model.inputs.embeddings.numpy()[item]
    found = []
    for height, convolve in enumerate(model.horizontal, start=1):
        kernel, bias = (weight.numpy() for weight in convolve.weights)
        for number in range(config.num_horizontal):
            places = range(config.window - height + 1)
            values = [np.sum(image[at : at + height] * kernel[:, :, number]) + bias[number] for at in places]
            found.append(max(0.0, *values))
    vertical = model.vertical.weights[0].numpy()
    found += [image[:, column] @ vertical[:, number] for column in range(config.dim) for number in range(2)]
    kernel, bias = (weight.numpy() for weight in model.hidden.weights)
    return np.maximum(0.0, np.array(found) @ kernel + bias)


def test_the_state_is_what_the_filters_find_and_the_user():
    model = random_model()
    model.users.adapt(np.array([7, 9]))
    states = model({ITEM_IDS: tf.constant([[3, 1, 4, 5], [2, 0, 5, 0]]), USER_ID: tf.constant([9, 7], tf.int64)})
    users = model.users.vectors.embeddings.numpy()
    np.testing.assert_allclose(states[0, 3], [*slow_state(model, [3, 1, 4, 5]), *users[1]], rtol=1e-4)
    np.testing.assert_allclose(states[1, 2], [*slow_state(model, [2, 5]), *users[0]], rtol=1e-4)


def test_without_users_the_history_alone_counts():
    model = random_model(use_users=False)
    assert USER_ID not in model.reads
    states = model({ITEM_IDS: tf.constant([[3, 1, 4, 5]])})
    np.testing.assert_allclose(states[0, 3], slow_state(model, [3, 1, 4, 5]), rtol=1e-4)


def test_each_window_predicts_the_next_items():
    """Item 2 is the target of windows that end 1 and 2 events before it, where a window has 2 targets."""
    y = tf.constant([[3, 2, 0], [5, 0, 0]])
    losses = {}
    for number in (1, 2):
        model = random_model(use_users=False, num_targets=number, loss="softmax")
        x = {ITEM_IDS: tf.constant([[1, 3, 2], [4, 5, 0]])}
        losses[number] = model.target_losses(x, y, model(x)).numpy()
    state = model(x)[0, 0].numpy()
    logits = model.outputs.embeddings.numpy()[1:] @ state + model.bias.numpy()[1:]
    skipped = np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits[2 - 1]
    assert losses[2][:3] == pytest.approx(losses[1])
    assert losses[2][3:] == pytest.approx([skipped], rel=1e-4)
