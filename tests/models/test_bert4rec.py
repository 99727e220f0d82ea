import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import data
from seqrec_tf.learning import ranking
from seqrec_tf.models import BERT4Rec
from seqrec_tf.models.bert4rec import BERT4RecConfig
from seqrec_tf.schema import ITEM_IDS, SEEN, Schema

NUM_ITEMS = 5
MASK = NUM_ITEMS + 1


def made(*, num_items=NUM_ITEMS, **options):
    """A small BERT4Rec with random weights, biases and scales too."""
    config = {"max_len": 4, "dim": 4, "num_blocks": 1, "num_heads": 2, "dropout_rate": 0.0, **options}
    model = BERT4Rec(BERT4RecConfig(**config), Schema(num_items))
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(random.normal(size=weight.shape, scale=0.5))
    return model


def ragged(sequences):
    return dict.fromkeys([ITEM_IDS, SEEN], tf.ragged.constant(sequences, dtype=tf.int64, ragged_rank=1))


def batch(model, sequences, seed=(1, 2)):
    inputs, labels = model.make_batch(ragged(sequences), tf.constant(seed))
    return inputs[ITEM_IDS].numpy(), labels.numpy()


@pytest.fixture(scope="module")
def model():
    """A model that no test changes."""
    return made(num_blocks=2)


@pytest.fixture(scope="module")
def long_batch():
    """Inputs, labels and what was there, of 400 sequences of 30 events; one in two masks only the newest."""
    model = made(num_items=50, max_len=30, mask_rate=0.6, last_only_rate=0.5)
    items = np.random.default_rng(2).integers(1, 51, size=(400, 30))
    inputs, labels = batch(model, items.tolist())
    return inputs, labels, items


@pytest.mark.parametrize("seed", [(0, 0), (1, 2), (7, -3)])
def test_masks_fall_on_events_alone_and_labels_are_what_was_there(seed):
    sequences = [[1, 2, 3, 4], [5, 3], [], [2], [4, 4, 1]]
    items = np.array([row + [0] * (4 - len(row)) for row in sequences])
    inputs, labels = batch(made(mask_rate=0.5), sequences, seed)
    assert inputs.dtype == labels.dtype == np.int32
    is_masked = inputs == MASK
    assert not np.any(is_masked & (items == 0))
    np.testing.assert_array_equal(labels, np.where(is_masked, items, 0))
    np.testing.assert_array_equal(inputs, np.where(is_masked, MASK, items))


@pytest.mark.parametrize("mask_rate", [0.0, 0.1, 0.9])
def test_every_sequence_with_an_event_has_a_mask(mask_rate):
    sequences = [[1, 2, 3, 4], [5, 3], [], [2], [4, 4, 1]] * 20
    inputs, labels = batch(made(mask_rate=mask_rate), sequences)
    expected = np.array([len(sequence) > 0 for sequence in sequences])
    np.testing.assert_array_equal(np.any(inputs == MASK, axis=1), expected)
    np.testing.assert_array_equal(np.any(labels != 0, axis=1), expected)


def test_where_no_mask_falls_by_chance_the_newest_event_is_masked():
    inputs, labels = batch(made(mask_rate=0.0, last_only_rate=0.0), [[1, 2, 3, 4], [5, 3], [2], []])
    assert inputs.tolist() == [[1, 2, 3, MASK], [5, MASK, 0, 0], [MASK, 0, 0, 0], [0, 0, 0, 0]]
    assert labels.tolist() == [[0, 0, 0, 4], [0, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]


def test_in_some_sequences_only_the_newest_event_is_masked(long_batch):
    inputs, labels, items = long_batch
    is_masked = inputs == 51
    num_masks = is_masked.sum(axis=1)
    # With 30 events and a rate of 0.6, a single mask does not happen by chance.
    assert not np.any((num_masks > 1) & (num_masks < 6))
    last_only = num_masks == 1
    assert np.all(is_masked[last_only, -1])
    np.testing.assert_array_equal(labels[last_only, -1], items[last_only, -1])
    assert abs(last_only.mean() - 0.5) < 4 * math.sqrt(0.25 / 400)


def test_the_other_sequences_mask_each_event_at_the_mask_rate(long_batch):
    inputs, _, _ = long_batch
    is_masked = inputs == 51
    others = is_masked[is_masked.sum(axis=1) > 1]
    assert abs(others.mean() - 0.6) < 4 * math.sqrt(0.24 / others.size)
    assert np.all(np.abs(others.mean(axis=0) - 0.6) < 5 * math.sqrt(0.24 / len(others)))


@pytest.mark.parametrize("mask_rate", [0.2, 0.6])
def test_without_last_only_the_share_of_masks_is_the_mask_rate(mask_rate):
    model = made(max_len=30, mask_rate=mask_rate, last_only_rate=0.0)
    inputs, _ = batch(model, [[1, 2, 3, 4, 5] * 6] * 400)
    share = np.mean(inputs == MASK)
    assert abs(share - mask_rate) < 4 * math.sqrt(mask_rate * (1 - mask_rate) / inputs.size) + 0.8**30


def test_the_same_seed_masks_the_same_events_and_another_seed_others(model):
    sequences = [[1, 2, 3, 4]] * 50
    first, _ = batch(model, sequences, (1, 2))
    np.testing.assert_array_equal(batch(model, sequences, (1, 2))[0], first)
    assert np.any(batch(model, sequences, (1, 3))[0] != first)
    assert np.any(batch(model, sequences, (2, 2))[0] != first)
    assert len(np.unique(first, axis=0)) > 3  # nor do the rows mask alike


@pytest.mark.parametrize("history", [[3], [3, 1], [3, 1, 4], [2, 5, 3, 1, 4]])
def test_the_query_is_the_state_of_a_mask_after_the_newest_events(model, history):
    query = model.query({ITEM_IDS: tf.constant([history])})
    by_hand = tf.constant([[*history[-3:], MASK]])
    expected = model.project(model({ITEM_IDS: by_hand})[:, -1])
    np.testing.assert_allclose(query, expected, atol=1e-5)


def test_histories_padded_anywhere_share_a_batch(model):
    histories = [[3, 1, 4, 0, 0], [0, 0, 3, 1, 4], [3, 0, 1, 0, 4], [2, 2, 3, 1, 4], [0, 2, 0, 0, 0], [0, 0, 0, 0, 0]]
    query = model.query({ITEM_IDS: tf.constant(histories)})
    for row, by_hand in zip(query, [[3, 1, 4, MASK]] * 4 + [[2, MASK], [MASK]], strict=True):
        expected = model.project(model({ITEM_IDS: tf.constant([by_hand])})[:, -1])
        np.testing.assert_allclose(row[None], expected, atol=1e-5)


def test_a_history_of_no_width_has_the_query_of_a_mask_alone(model):
    expected = model.project(model({ITEM_IDS: tf.constant([[MASK]])})[:, -1])
    np.testing.assert_allclose(model.query({ITEM_IDS: tf.zeros([1, 0], tf.int32)}), expected, atol=1e-5)


def test_a_model_of_one_position_sees_the_mask_alone():
    model = made(max_len=1)
    first, second = (model.query({ITEM_IDS: tf.constant([history])}) for history in ([3, 1], [2, 5]))
    np.testing.assert_array_equal(first, second)


def test_a_later_event_changes_an_earlier_state(model):
    before, after = (model({ITEM_IDS: tf.constant([history])}).numpy() for history in ([3, 1, 4], [3, 1, 2]))
    assert np.abs(after[0, 0] - before[0, 0]).max() > 1e-3


def test_the_masked_item_itself_is_not_seen(model):
    """The state that predicts an event is that of its mask, so it cannot know the answer but by the other events."""
    inputs, labels = batch(model, [[3, 1, 4, 2]] * 20)
    for row, targets in zip(inputs, labels, strict=True):
        assert set(row[targets != 0]) == {MASK}
    last = [[3, 1, 4, item] for item in (2, 5)]
    quiet = made(mask_rate=0.0, last_only_rate=0.0)  # the newest is masked
    states = [quiet({ITEM_IDS: batch(quiet, [sequence])[0]}).numpy() for sequence in last]
    np.testing.assert_array_equal(states[0], states[1])


def test_asked_for_a_position_call_gives_its_state(model):
    item_ids = tf.constant([[3, 1, MASK, 2], [MASK, 4, 0, 0]])
    whole = model({ITEM_IDS: item_ids}).numpy()
    one = model.call({ITEM_IDS: item_ids}, position=tf.constant([2, 0]))
    np.testing.assert_allclose(one, whole[[0, 1], [2, 0]], atol=1e-5)


def slow_gelu(x):
    return np.array([value / 2 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def slow_projection(model, state):
    kernel, bias = model.projection.get_weights()
    gamma, beta = model.projection_norm.get_weights()
    x = slow_gelu(state @ kernel + bias)
    return gamma * (x - x.mean()) / math.sqrt(x.var() + 1e-6) + beta


def test_scores_are_those_of_the_projected_state_with_the_input_table_and_the_bias(model):
    state = model({ITEM_IDS: tf.constant([[3, 1, MASK]])}).numpy()[0, -1]
    table, bias = model.items.get_weights()[0], model.bias.numpy()
    expected = table[1 : NUM_ITEMS + 1] @ slow_projection(model, state) + bias[1:]
    query = model.query({ITEM_IDS: tf.constant([[3, 1]])})
    np.testing.assert_allclose(model.score_block(query, 1, NUM_ITEMS + 1)[0], expected, atol=1e-4)
    candidates = tf.constant([[5, 1, 3]])
    np.testing.assert_allclose(model.score_candidates(query, candidates)[0], expected[[4, 0, 2]], atol=1e-4)


def test_the_loss_is_the_mean_over_masks(model):
    item_ids, labels = [[3, MASK, 4, MASK], [MASK, 2, 0, 0]], [[0, 1, 0, 5], [4, 0, 0, 0]]
    states = model({ITEM_IDS: tf.constant(item_ids)}).numpy()
    table, bias = model.items.get_weights()[0], model.bias.numpy()
    expected = []
    for row, position in zip(*np.nonzero(labels), strict=True):
        logits = table[1 : NUM_ITEMS + 1] @ slow_projection(model, states[row, position]) + bias[1:]
        expected.append(np.log(np.sum(np.exp(logits))) - logits[labels[row][position] - 1])
    loss = tf.reduce_mean(
        model.target_losses({ITEM_IDS: tf.constant(item_ids)}, tf.constant(labels), tf.constant(states))
    )
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_mask_is_never_recommended_nor_a_rival():
    model = made()
    query = model.query({ITEM_IDS: tf.constant([[3, 1]])})
    table = model.items.get_weights()[0]
    table[[0, MASK]] = 100 * query[0]  # padding and mask would score the highest
    model.items.set_weights([table])
    query = tf.constant(query)
    ids, _ = ranking.recommend(model, query, tf.zeros([1, 1], tf.int32), k=NUM_ITEMS)
    assert sorted(ids.numpy()[0]) == [1, 2, 3, 4, 5]
    assert ranking.rank_and_recommend(model, query, ids[:, 0], tf.zeros([1, 1], tf.int32), k=5)[0].numpy() == [1]


def test_uniform_negatives_are_no_item_that_is_older_than_what_the_model_sees(write_dataset, tmp_path):
    items = [f"i{item}" for item in range(9)]
    dataset = write_dataset(tmp_path / "dataset", {"u": items[:7], "v": items[2:]})
    model = BERT4Rec.from_dataset(dataset, max_len=3, loss="bce", num_negatives=4, dim=8)
    assert model.objective.needs_seen
    for inputs, labels, _ in data.load(dataset, model, epochs=range(1)):
        assert inputs[ITEM_IDS].shape[1] == 3
        for seen, events, masked in zip(inputs[SEEN].numpy(), inputs[ITEM_IDS].numpy(), labels.numpy(), strict=True):
            assert set(np.where(masked, masked, events)) < set(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rate": 1.5}, r"model\.mask_rate must be in \[0, 1\), got 1\.5\."),
        ({"last_only_rate": -0.1}, r"model\.last_only_rate must be in \[0, 1\), got -0\.1\."),
        ({"dim": 0}, r"model\.dim must be at least 1, got 0\."),
        ({"dim": 5, "num_heads": 2}, r"model\.num_heads must divide model\.dim, got 2 heads for dim 5"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BERT4RecConfig(**options)
