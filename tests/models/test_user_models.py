"""BPRMF, FPMC, TransRec and NeuMF against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import data, models
from seqrec_tf.models import BPRMF, FPMC, NeuMF, TransRec
from seqrec_tf.records import DatasetFolder, user_fingerprint
from seqrec_tf.schema import ITEM_IDS, ITEM_IDS_FEATURE, USER_ID, USER_ID_FEATURE, Schema

SCHEMA = Schema(num_items=5, features=(ITEM_IDS_FEATURE, USER_ID_FEATURE), num_users=2)
KNOWN, OTHER, NOBODY = 7, 8, 9
INPUTS = {
    ITEM_IDS: tf.constant([[1, 4, 2, 0], [0, 0, 5, 3], [3, 2, 0, 0]]),
    USER_ID: tf.constant([KNOWN, OTHER, NOBODY], tf.int64),
}
NEWEST = [2, 3, 2]


def random_model(cls, **options):
    model = cls(cls.config_class(**options), SCHEMA)
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    model.users.adapt(np.array([OTHER, KNOWN]))
    # Rows follow the sorted fingerprints; who is not known is the zero vector.
    vectors = np.concatenate([model.users.vectors.embeddings.numpy(), np.zeros([1, model.users.dim])])
    return model, vectors


def all_scores(model):
    return model.score_block(model.query(INPUTS), 1, 6).numpy()


def test_bprmf_is_the_product_of_user_and_item_and_a_bias():
    model, users = random_model(BPRMF, dim=3)
    items, bias = model.items.embeddings.numpy(), model.bias.numpy()
    expected = [[users[row] @ items[item] + bias[item] for item in range(1, 6)] for row in range(3)]
    np.testing.assert_allclose(all_scores(model), expected, rtol=1e-5)


def test_bprmf_learns_from_every_event():
    model, _ = random_model(BPRMF, dim=3)
    sequences = {ITEM_IDS: tf.ragged.constant([[1, 2, 3], [4]], tf.int64), USER_ID: tf.constant([7, 8], tf.int64)}
    _, labels = model.make_batch({**sequences, "seen": sequences[ITEM_IDS]}, [0, 0])
    assert labels.numpy().tolist() == [[1, 2, 3], [4, 0, 0]]


def test_fpmc_adds_the_user_s_taste_to_what_follows_the_newest_event():
    model, users = random_model(FPMC, dim=3)
    left, gone_to = model.inputs.embeddings.numpy(), model.outputs.embeddings.numpy()
    expected = [
        [users[row] @ gone_to[item, :3] + left[NEWEST[row]] @ gone_to[item, 3:] for item in range(1, 6)]
        for row in range(3)
    ]
    np.testing.assert_allclose(all_scores(model), expected, rtol=1e-5)


def test_transrec_ranks_by_the_distance_from_where_the_user_takes_the_newest_event():
    model, users = random_model(TransRec, dim=3)
    points, shared, bias = (weight.numpy() for weight in (model.items.embeddings, model.translation, model.bias))
    arrival = [points[NEWEST[row]] + shared + users[row] for row in range(3)]
    expected = np.array(
        [[bias[item] - np.sum((arrival[row] - points[item]) ** 2) for item in range(1, 6)] for row in range(3)]
    )
    expected += np.sum(np.square(arrival), axis=1, keepdims=True)  # the part that does not depend on the item
    np.testing.assert_allclose(all_scores(model), expected, rtol=1e-4, atol=1e-5)


def test_neumf_is_a_product_beside_a_tower():
    model, users = random_model(NeuMF, dim=2, hidden_dims=(4, 3))
    items = model.items.embeddings.numpy()
    hidden = model.tower[0]
    expected = np.zeros([3, 5])
    for row in range(3):
        for item in range(1, 6):
            both = np.concatenate([users[row, 2:], items[item, 2:]])
            first = np.concatenate([model.of_user.kernel.numpy(), model.of_item.kernel.numpy()])
            state = np.maximum(0, both @ first + model.of_user.bias.numpy())
            state = np.maximum(0, state @ hidden.kernel.numpy() + hidden.bias.numpy())
            outputs = np.concatenate([users[row, :2] * items[item, :2], state])
            expected[row, item - 1] = (outputs @ model.score.kernel.numpy() + model.score.bias.numpy())[0]
    np.testing.assert_allclose(all_scores(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"loss": "softmax"}, {"share_negatives": True}, {"negatives": "in-batch"}])
def test_neumf_refuses_losses_that_share_items_between_users(options):
    with pytest.raises(ValueError, match="NeuMF scores each user with their own items"):
        NeuMF.config_class(**options)


def test_a_model_that_reads_users_needs_some(chain_dataset):
    with pytest.raises(ValueError, match="counts none"):
        BPRMF(schema=Schema(num_items=5, features=(ITEM_IDS_FEATURE,)))


@pytest.mark.parametrize("cls", [BPRMF, FPMC, TransRec, NeuMF])
def test_training_users_are_known_and_others_are_cold(cls, tiny_dataset):
    model = cls.from_dataset(tiny_dataset, dim=4)
    folder = DatasetFolder(tiny_dataset)
    assert len(folder.training_users()) == folder.schema.num_users
    user = user_fingerprint(tf.constant(["ann", "nobody"]))
    inputs = {ITEM_IDS: tf.zeros([2, 3], tf.int32), USER_ID: user}
    assert model.is_cold(inputs).numpy().tolist() == [False, True]
    # Items of a history are not to be recommended, which popularity alone would not know.
    inputs = {ITEM_IDS: tf.constant([[1, 0, 0]] * 2), USER_ID: user}
    assert model.is_cold(inputs).numpy().tolist() == [False, False]


def test_neumf_corrects_popular_negatives_and_divides_by_the_temperature(tiny_dataset):
    options = {"loss": "sampled-softmax", "negatives": "popular", "temperature": 0.5, "num_negatives": 3}
    model = NeuMF.from_dataset(tiny_dataset, **options)
    counts = np.array(DatasetFolder(tiny_dataset).item_counts, np.float64)
    log_q = np.log(np.maximum(counts, 1e-3) / np.maximum(counts, 1e-3).sum())
    ids = np.array([[2, 3, 1], [1, 1, 4]], np.int32)
    model.objective.draw = lambda sequence, is_target: tf.constant(ids)
    targets = np.array([1, 2], np.int32)
    user = tf.constant(np.random.default_rng(0).normal(size=[1, 2, model.users.dim]), tf.float32)
    losses = model.target_losses({ITEM_IDS: tf.constant(targets[None])}, tf.constant(targets[None]), user).numpy()
    for row in range(2):
        items = np.concatenate([targets[row : row + 1], ids[row]])
        logits = model._score(user[0, row : row + 1], items[None]).numpy()[0] / 0.5 - log_q[items - 1]
        kept = np.concatenate([[True], ids[row] != targets[row]])
        assert losses[row] == pytest.approx(np.log(np.exp(logits[kept]).sum()) - logits[0], rel=1e-4)


@pytest.mark.parametrize("name", ["sasrec", "bert4rec", "caser", "bprmf", "neumf", "bst"])
def test_a_batch_has_a_weight_for_each_row_of_its_labels(chain_dataset, name):
    cls = models.find(name)
    options = {"num_negatives": 2} if name == "bst" else {}
    model = cls.from_dataset(chain_dataset, max_len=12, **options)
    targets, weights = [], []
    for _, labels, weight in data.load(chain_dataset, model, batch_size=32, epochs=range(1)):
        assert weight.shape == labels.shape[:1]
        later = range(model.config.num_targets if name == "caser" else 1)
        targets.append(sum(np.count_nonzero(labels.numpy()[:, ahead:]) for ahead in later))
        weights.append(weight.numpy()[0])
    # Batches count by their targets; those of BERT4Rec are drawn.
    tolerance = 0.25 if name == "bert4rec" else 1e-5
    np.testing.assert_allclose(np.array(targets) / np.mean(targets), weights, rtol=tolerance)
