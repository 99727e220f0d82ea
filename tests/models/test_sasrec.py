import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning import ranking
from seqrec_tf.learning.objective import NextItemObjective
from seqrec_tf.models import SASRec
from seqrec_tf.models.sasrec import SASRecConfig
from seqrec_tf.schema import ITEM_IDS, SEEN, Schema

NUM_ITEMS = 5
# Two users, L = 4; the second has seen two items.
ITEM_IDS_OF_USERS = np.array([[1, 2, 3, 4], [5, 3, 0, 0]], np.int32)
TARGETS = np.array([[2, 3, 4, 5], [3, 1, 0, 0]], np.int32)
NEGATIVES = np.array([[5, 1], [1, 5], [2, 1], [2, 3], [4, 2], [2, 4]], np.int32)  # of the 6 targets in turn


def made(**options):
    """A small SASRec with random weights, biases and scales too."""
    config = {"max_len": 4, "dim": 4, "num_blocks": 1, "num_heads": 2, "dropout_rate": 0.0, **options}
    model = SASRec(SASRecConfig(**config), Schema(num_items=NUM_ITEMS))
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape, scale=0.5))
    return model


def hidden_states(model, item_ids, training=False):
    return model({ITEM_IDS: tf.constant(item_ids)}, training=training).numpy()


def slow_norm(layer, x):
    gamma, beta = layer.get_weights()
    return gamma * (x - x.mean()) / math.sqrt(x.var() + 1e-6) + beta


def slow_states(model, history):
    """States after each event of one history without padding, one at a time: a list of [D]."""
    config = model.config
    is_pre = config.norm == "pre"
    items, positions = model.items.get_weights()[0], model.encoder.positions.get_weights()[0]
    states = [
        items[item] * math.sqrt(config.dim) + positions[len(history) - i]  # the newest event has position 1
        for i, item in enumerate(history)
    ]
    if not is_pre:
        states = [slow_norm(model.encoder.norm, x) for x in states]
    for block in model.encoder.blocks:
        (wq, bq), (wkv, bkv) = block.attention.query.get_weights(), block.attention.key_value.get_weights()
        (w1, b1), (w2, b2) = block.hidden.get_weights(), block.output_projection.get_weights()
        normed = [slow_norm(block.attention_norm, x) for x in states] if is_pre else states
        head_dim = config.dim // config.num_heads
        after = []
        for i in range(len(history)):
            attended = np.zeros(config.dim)
            for head in range(config.num_heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                query = (normed[i] @ wq + bq)[part]
                keys = [(normed[j] @ wkv + bkv)[: config.dim][part] for j in range(i + 1)]
                values = [(normed[j] @ wkv + bkv)[config.dim :][part] for j in range(i + 1)]
                powers = [math.exp(query @ key / math.sqrt(head_dim)) for key in keys]
                attended[part] = sum(p / sum(powers) * value for p, value in zip(powers, values, strict=True))
            x = states[i] + attended
            x = x if is_pre else slow_norm(block.attention_norm, x)
            inner = np.maximum((slow_norm(block.feed_forward_norm, x) if is_pre else x) @ w1 + b1, 0)
            x = x + inner @ w2 + b2
            after.append(x if is_pre else slow_norm(block.feed_forward_norm, x))
        states = after
    return [slow_norm(model.encoder.norm, x) for x in states] if is_pre else states


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("options", [{}, {"num_heads": 1}, {"num_blocks": 2, "feed_forward_ratio": 2.0}])
def test_the_states_equal_a_slow_loop(options, norm):
    model = made(norm=norm, **options)
    result = hidden_states(model, ITEM_IDS_OF_USERS)
    np.testing.assert_allclose(result[0], slow_states(model, [1, 2, 3, 4]), atol=1e-4)
    np.testing.assert_allclose(result[1, :2], slow_states(model, [5, 3]), atol=1e-4)


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_the_query_equals_the_last_state_of_a_slow_loop(num_blocks):
    model = made(num_blocks=num_blocks)
    query = model.query({ITEM_IDS: tf.constant(ITEM_IDS_OF_USERS)})
    expected = [slow_states(model, [1, 2, 3, 4])[-1], slow_states(model, [5, 3])[-1]]
    np.testing.assert_allclose(query, expected, atol=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_the_query_equals_the_state_of_the_newest_event_wherever_it_is(norm, num_blocks):
    model = made(norm=norm, num_blocks=num_blocks)
    item_ids = np.array([[1, 2, 3, 4], [5, 3, 0, 0], [0, 0, 2, 1], [0, 4, 0, 0]], np.int32)
    states = hidden_states(model, item_ids)
    query = model.query({ITEM_IDS: tf.constant(item_ids)})
    np.testing.assert_allclose(query, states[[0, 1, 2, 3], [3, 1, 3, 1]], atol=1e-5)


def test_scores_are_dot_products_with_the_input_table():
    model = made()
    query = model.query({ITEM_IDS: tf.constant(ITEM_IDS_OF_USERS)})
    expected = query.numpy() @ model.items.get_weights()[0][1:].T
    np.testing.assert_allclose(model.score_block(query, 1, NUM_ITEMS + 1), expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_no_state_of_training_knows_what_comes_later(norm):
    """Item i of the labels is item i + 1 of the inputs: a state that saw it would know its own answer."""
    model = made(norm=norm, num_blocks=2)
    before = hidden_states(model, [[1, 2, 3, 4]], training=True)
    for position in range(1, 4):
        changed = [[1, 2, 3, 4]]
        changed[0][position:] = [5] * (4 - position)
        after = hidden_states(model, changed, training=True)
        np.testing.assert_allclose(after[0, :position], before[0, :position], atol=1e-6)
        assert np.abs(after[0, position:] - before[0, position:]).max() > 1e-3


def test_the_loss_of_a_position_does_not_change_with_later_events():
    model = made(loss="softmax")
    first_only = tf.constant([[2, 0, 0, 0]])
    losses = [
        float(tf.reduce_mean(model.target_losses(inputs, first_only, model(inputs, training=True))))
        for inputs in ({ITEM_IDS: tf.constant([[1, 2, *rest]])} for rest in ([3, 4], [5, 1]))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_positions_count_from_the_newest_event():
    model = made()
    positions = model.encoder.positions.get_weights()[0]
    model.encoder.positions.set_weights([np.where(np.arange(5)[:, None] == 1, -positions, positions)])
    changed = hidden_states(model, ITEM_IDS_OF_USERS)
    model.encoder.positions.set_weights([positions])
    change = np.abs(changed - hidden_states(model, ITEM_IDS_OF_USERS)).max(axis=-1)
    # Position 1 is the fourth event of the first user and the second of the other.
    assert np.all(change[0, :3] == 0)
    assert change[0, 3] > 1e-3
    assert change[1, 0] == 0
    assert change[1, 1] > 1e-3


def test_events_older_than_max_len_share_the_last_position():
    model = made()
    inputs = [{ITEM_IDS: tf.constant([history])} for history in ([1, 2, 3, 4, 5, 1], [2, 1, 3, 4, 5, 1])]
    # The two oldest swap: their position is the same, and attention knows no other order.
    np.testing.assert_allclose(model.query(inputs[0]), model.query(inputs[1]), atol=1e-5)


def test_the_softmax_loss_is_the_mean_over_targets():
    model = made(loss="softmax")
    states = hidden_states(model, ITEM_IDS_OF_USERS)
    table = model.items.get_weights()[0]
    expected = []
    for row, position in zip(*np.nonzero(TARGETS), strict=True):
        logits = [states[row, position] @ table[item] for item in range(1, NUM_ITEMS + 1)]
        own = logits[TARGETS[row, position] - 1]
        expected.append(math.log(sum(math.exp(logit) for logit in logits)) - own)
    loss = tf.reduce_mean(
        model.target_losses({ITEM_IDS: tf.constant(ITEM_IDS_OF_USERS)}, tf.constant(TARGETS), tf.constant(states))
    )
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("num_negatives", [1, 2])
def test_the_bce_loss_is_the_mean_over_targets(monkeypatch, num_negatives):
    model = made(loss="bce", num_negatives=num_negatives)
    negatives = NEGATIVES[:, :num_negatives]
    monkeypatch.setattr(NextItemObjective, "draw", lambda self, sequence, is_target: tf.constant(negatives))
    states = hidden_states(model, ITEM_IDS_OF_USERS)
    table = model.items.get_weights()[0]

    def sigmoid(logit):
        return 1 / (1 + math.exp(-logit))

    expected = []
    for n, (row, position) in enumerate(zip(*np.nonzero(TARGETS), strict=True)):
        state = states[row, position]
        total = -math.log(sigmoid(state @ table[TARGETS[row, position]]))
        for item in negatives[n]:
            total -= math.log(1 - sigmoid(state @ table[item]))
        expected.append(total / (1 + num_negatives))
    loss = tf.reduce_mean(
        model.target_losses({ITEM_IDS: tf.constant(ITEM_IDS_OF_USERS)}, tf.constant(TARGETS), tf.constant(states))
    )
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_the_loss_of_a_batch_without_targets_is_0(loss):
    model = made(loss=loss)
    inputs = {ITEM_IDS: tf.constant([[1, 0], [0, 0]])}
    assert float(model.mean_loss(model.target_losses(inputs, tf.zeros([2, 2], tf.int32), model(inputs)))) == 0.0


def test_a_training_batch_is_the_sequence_and_the_sequence_one_later():
    sequences = {ITEM_IDS: tf.ragged.constant([[1, 2, 3, 4, 5], [5, 3, 1], [2]], dtype=tf.int64, ragged_rank=1)}
    inputs, labels = made().make_batch({**sequences, SEEN: sequences[ITEM_IDS]}, [0, 0])
    assert inputs[ITEM_IDS].numpy().tolist() == [[1, 2, 3, 4], [5, 3, 0, 0], [0, 0, 0, 0]]
    assert labels.numpy().tolist() == [[2, 3, 4, 5], [3, 1, 0, 0], [0, 0, 0, 0]]


def test_dropout_acts_in_training_alone():
    model = made(dropout_rate=0.5)
    quiet = hidden_states(model, ITEM_IDS_OF_USERS)
    np.testing.assert_array_equal(hidden_states(model, ITEM_IDS_OF_USERS), quiet)
    assert np.any(np.abs(hidden_states(model, ITEM_IDS_OF_USERS, training=True) - quiet) > 1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 5, "num_heads": 2}, r"model\.num_heads must divide model\.dim, got 2 heads for dim 5"),
        ({"norm": "prae"}, r"model\.norm must be one of pre, post, got 'prae'"),
        ({"loss": "sofmax"}, r"model\.loss must be one of .*got 'sofmax'\. Did you mean 'softmax'\?"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SASRecConfig(**options)


def test_ranking_scores_only_items_of_the_catalogue():
    """Row 0 of the table is padding; it is neither a rival nor recommended, whatever its vector is."""
    model = made()
    table = model.items.get_weights()[0]
    query = model.query({ITEM_IDS: tf.constant([[1, 2]])})
    table[0] = 100 * query[0]
    model.items.set_weights([table])
    ids, _ = ranking.recommend(model, query, tf.zeros([1, 0], tf.int32), k=NUM_ITEMS)
    assert sorted(ids.numpy()[0]) == [1, 2, 3, 4, 5]
    best = ids.numpy()[:, 0]
    rank, _, _ = ranking.rank_and_recommend(model, query, tf.constant(best), tf.zeros([1, 1], tf.int32), k=5)
    assert rank.numpy() == [1]
