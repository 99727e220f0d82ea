import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning import ranking
from seqrec_tf.models import GRU4Rec
from seqrec_tf.models.gru4rec import GRU4RecConfig
from seqrec_tf.schema import ITEM_IDS, Schema

NUM_ITEMS = 5
# Four users, L = 4, padded on the right, on the left and in between.
ITEM_IDS_OF_USERS = np.array([[1, 2, 3, 4], [5, 3, 0, 0], [0, 0, 2, 1], [0, 4, 0, 1]], np.int32)

both_tables = pytest.mark.parametrize(
    "options", [{"is_tied": True}, {"is_tied": False, "dim": 2}], ids=["tied", "untied"]
)


def made(**options):
    """A small GRU4Rec with random weights, biases too."""
    model = GRU4Rec(GRU4RecConfig(**{"max_len": 4, "units": 3, "num_negatives": 4, **options}), Schema(NUM_ITEMS))
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(random.normal(size=weight.shape, scale=0.7))
    return model


def states(model, item_ids, **options):
    return model({ITEM_IDS: tf.constant(item_ids, tf.int32)}, **options).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_gru(layer, inputs):
    """States after each input of one sequence, as Keras writes a GRU with reset_after=True: a list of [units]."""
    kernel, recurrent_kernel, (input_bias, recurrent_bias) = layer.get_weights()
    state, after = np.zeros(layer.units), []
    for x in inputs:
        x_update, x_reset, x_new = np.split(x @ kernel + input_bias, 3)
        h_update, h_reset, h_new = np.split(state @ recurrent_kernel + recurrent_bias, 3)
        update, reset = sigmoid(x_update + h_update), sigmoid(x_reset + h_reset)
        state = update * state + (1 - update) * np.tanh(x_new + reset * h_new)
        after.append(state)
    return after


def slow_states(model, history):
    """States after each event of a history without padding: a list of [units]."""
    after = [model.items.get_weights()[0][item] for item in history]
    for layer in model.layers_of_gru:
        after = slow_gru(layer, after)
    return after


@both_tables
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_states_equal_a_slow_loop(options, num_layers):
    model = made(num_layers=num_layers, **options)
    result = states(model, ITEM_IDS_OF_USERS)
    assert result.shape == (4, 4, 3)
    for row, item_ids in zip(result, ITEM_IDS_OF_USERS, strict=True):
        is_real = item_ids != 0
        np.testing.assert_allclose(row[is_real], slow_states(model, item_ids[is_real]), atol=1e-5)


@both_tables
def test_the_query_equals_the_last_state_of_a_slow_loop(options):
    model = made(num_layers=2, **options)
    query = model.query({ITEM_IDS: tf.constant(ITEM_IDS_OF_USERS)})
    expected = [slow_states(model, row[row != 0])[-1] for row in ITEM_IDS_OF_USERS]
    np.testing.assert_allclose(query, expected, atol=1e-5)


@pytest.mark.parametrize("padded", [[0, 1, 2, 3], [1, 0, 2, 3], [1, 0, 0, 2, 0, 3, 0], [1, 2, 3, 0, 0]])
def test_padding_between_events_changes_no_state(padded):
    model = made(num_layers=2)
    expected = states(model, [[1, 2, 3]])[0]
    np.testing.assert_allclose(states(model, [padded])[0][np.array(padded) != 0], expected, atol=1e-6)


def test_a_later_event_changes_no_earlier_state():
    model = made(num_layers=2)
    before, after = states(model, [[1, 2, 3, 4]]), states(model, [[1, 2, 5, 5]])
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert np.abs(after[:, 2:] - before[:, 2:]).max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 0), (0, 4), (0, 0)])
def test_a_batch_without_events_or_rows_has_states_of_its_shape(shape):
    model = made()
    item_ids = np.zeros(shape, np.int32)
    assert states(model, item_ids).shape == (*shape, 3)


def test_tied_tables_are_one_and_untied_ones_have_their_own_widths():
    tied, untied = made(is_tied=True), made(is_tied=False, dim=2)
    assert tied.items is tied.outputs
    assert [weight.path.rpartition("/")[0] for weight in tied.weights if "embeddings" in weight.name] == ["outputs"]
    assert untied.items.get_weights()[0].shape == (NUM_ITEMS + 1, 2)
    assert untied.outputs.get_weights()[0].shape == (NUM_ITEMS + 1, 3)
    assert tied.item_table().shape == untied.item_table().shape == (NUM_ITEMS + 1, 3)


@both_tables
def test_scores_are_dot_products_with_the_output_table_plus_the_bias_of_the_item(options):
    model = made(**options)
    query = model.query({ITEM_IDS: tf.constant(ITEM_IDS_OF_USERS)})
    expected = query.numpy() @ model.outputs.get_weights()[0].T + model.bias.numpy()
    np.testing.assert_allclose(model.score_block(query, 1, 6), expected[:, 1:], atol=1e-5)
    np.testing.assert_allclose(model.score_block(query, 3, 5), expected[:, 3:5], atol=1e-5)
    candidates = np.array([[1, 5], [2, 2], [4, 1], [3, 5]], np.int32)
    np.testing.assert_allclose(
        model.score_candidates(query, tf.constant(candidates)),
        np.take_along_axis(expected, candidates, axis=1),
        atol=1e-5,
    )


def test_the_bias_decides_the_ranking_where_it_is_large():
    model = made()
    model.bias.assign([99.0, 10.0, 30.0, 20.0, 50.0, 40.0])  # the padding's is the largest
    query = model.query({ITEM_IDS: tf.constant(ITEM_IDS_OF_USERS[:1])})
    ids, _ = ranking.recommend(model, query, tf.zeros([1, 1], tf.int32), k=5)
    assert ids.numpy().tolist() == [[4, 5, 2, 3, 1]]
    for rank, item in enumerate([4, 5, 2, 3, 1], start=1):
        target, excluded = tf.constant([item]), tf.zeros([1, 1], tf.int32)
        assert ranking.rank_and_recommend(model, query, target, excluded, k=5)[0].numpy() == [rank]
        assert ranking.rank_among(model, query, target, tf.constant([[1, 2, 3, 4, 5]])).numpy() == [rank]


def test_the_bias_is_in_the_loss():
    model = made(loss="softmax", num_negatives=2048)
    inputs, targets = {ITEM_IDS: tf.constant([[1, 2]])}, tf.constant([[2, 3]])
    table, bias = model.item_table().numpy(), model.bias.numpy()
    expected = []
    for state, target in zip(slow_states(model, [1, 2]), [2, 3], strict=True):
        logits = table[1:] @ state + bias[1:]
        expected.append(np.log(np.sum(np.exp(logits))) - logits[target - 1])
    assert float(tf.reduce_mean(model.target_losses(inputs, targets, model(inputs)))) == pytest.approx(
        np.mean(expected), rel=1e-5
    )


@pytest.mark.parametrize("options", [{"embedding_dropout_rate": 0.5}, {"hidden_dropout_rate": 0.5}])
def test_each_dropout_acts_in_training_alone(options):
    model = made(**options)
    quiet = states(model, ITEM_IDS_OF_USERS)
    np.testing.assert_array_equal(states(model, ITEM_IDS_OF_USERS, training=False), quiet)
    assert np.any(np.abs(states(model, ITEM_IDS_OF_USERS, training=True) - quiet) > 1e-3)


def test_an_untrained_model_s_item_counts_come_from_its_dataset(tiny_dataset):
    from seqrec_tf.records import DatasetFolder

    dataset = DatasetFolder(tiny_dataset)
    model = GRU4Rec.from_dataset(tiny_dataset, units=3, num_negatives=4, popularity_exponent=0.5)
    np.testing.assert_allclose(
        model.objective.cumulative.numpy(), np.cumsum(np.maximum(dataset.item_counts, 1e-3) ** 0.5), rtol=1e-9
    )


def test_a_saved_model_keeps_its_item_counts(tmp_path):
    model = made()
    model.objective.adapt([8, 4, 2, 1, 0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.objective.cumulative, model.objective.cumulative)
    np.testing.assert_allclose(loaded.objective.cumulative, [8, 12, 14, 15, 15.001])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 0}, r"model\.units must be at least 1, got 0\."),
        ({"num_layers": 0}, r"model\.num_layers must be at least 1, got 0\."),
        ({"embedding_dropout_rate": 1.0}, r"model\.embedding_dropout_rate must be in \[0, 1\), got 1\.0\."),
        ({"hidden_dropout_rate": -0.1}, r"model\.hidden_dropout_rate must be in \[0, 1\), got -0\.1\."),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GRU4RecConfig(**options)
