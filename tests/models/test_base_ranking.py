"""BST, DIN and Wide & Deep, and what they share, against NumPy."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import data
from seqrec_tf.models import BST, DIN, WideDeep
from seqrec_tf.models.base_ranking import AGES, HISTORY, USER
from seqrec_tf.records import DatasetFolder
from seqrec_tf.schema import (
    CANDIDATES,
    EXCLUDED,
    ITEM_ID,
    ITEM_IDS,
    ITEM_IDS_FEATURE,
    LABELS_FEATURE,
    TARGET,
    TIMESTAMPS_FEATURE,
    USER_ID_FEATURE,
    Feature,
    Schema,
)

SCHEMA = Schema(
    num_items=6,
    features=(ITEM_IDS_FEATURE, TIMESTAMPS_FEATURE, LABELS_FEATURE, USER_ID_FEATURE),
    time_unit="seconds",
    num_users=2,
)
OPTIONS = {"max_len": 3, "dim": 2, "user_dim": 2, "hidden_dims": (4, 3), "dropout_rate": 0.0}
QUERY = {HISTORY: tf.constant([[5, 2, 0]]), AGES: tf.constant([[1, 4, 0]])}


def random_model(cls, **options):
    model = cls(cls.config_class(**OPTIONS, **options), SCHEMA)
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return model


def dense(layer, inputs):
    return inputs @ layer.kernel.numpy() + layer.bias.numpy()


def perceptron(model, inputs, activation):
    hidden = inputs
    for number in range(2):
        hidden = activation(dense(model.perceptron.get_layer(f"hidden_{number}"), hidden), number)
    return dense(model.perceptron.get_layer("logit"), hidden)[0]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_bst_runs_history_and_candidate_through_one_block():
    model = random_model(BST, age_dim=2, num_heads=1)
    user = np.array([[0.3, -0.7]], np.float32)
    items, ages = model.items.embeddings.numpy(), model.ages.embeddings.numpy()
    block = model.blocks[0]

    def norm(layer, states):
        centred = states - states.mean(axis=-1, keepdims=True)
        centred /= np.sqrt(states.var(axis=-1, keepdims=True) + 1e-6)
        return centred * layer.gamma.numpy() + layer.beta.numpy()

    expected = []
    for candidate in (4, 1):
        tokens = np.concatenate([items[[5, 2, candidate]], ages[[1, 4, 1]]], axis=1)  # no padding here
        key, value = np.split(dense(block.attention.key_value, tokens), 2, axis=1)
        states = dense(block.attention.query, tokens)
        attended = dense(block.attention.mix, softmax(states @ key.T / np.sqrt(4)) @ value)
        states = norm(block.attention_norm, tokens + attended)
        hidden = dense(block.hidden, states)
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
        states = norm(block.feed_forward_norm, states + dense(block.output_projection, hidden))
        outputs = np.concatenate([states[0], states[1], np.zeros(4), states[2], items[candidate], user[0]])
        expected.append(perceptron(model, outputs, lambda logits, _: np.where(logits > 0, logits, 0.3 * logits)))
    logits = model.score_candidates({**QUERY, USER: tf.constant(user)}, tf.constant([[4, 1]]))
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4)


def test_din_weights_each_event_by_the_candidate():
    model = random_model(DIN)
    user = np.array([[0.3, -0.7]], np.float32)
    items = model.items.embeddings.numpy()
    slope = model.attention_activation.alpha.numpy().ravel()

    def prelu(logits, number):
        alpha = model.perceptron.get_layer(f"activation_{number}").alpha.numpy()
        return np.where(logits > 0, logits, alpha * logits)

    expected = []
    for candidate in (4, 1):
        interest = 0
        for event in (5, 2):
            pair = np.concatenate(
                [items[event], items[candidate], items[event] - items[candidate], items[event] * items[candidate]]
            )
            hidden = dense(model.attention_hidden, pair)
            hidden = np.where(hidden > 0, hidden, slope * hidden)
            interest = interest + dense(model.attention_weight, hidden) * items[event]
        expected.append(perceptron(model, np.concatenate([interest, items[candidate], user[0]]), prelu))
    logits = model.score_candidates({**QUERY, USER: tf.constant(user)}, tf.constant([[4, 1]]))
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4)


@pytest.mark.parametrize("use_history", [True, False])
def test_wide_deep_adds_crosses_to_a_perceptron(use_history):
    model = random_model(WideDeep, use_history=use_history, num_crosses=7 if use_history else 0)
    user = np.array([[0.3, -0.7]], np.float32)
    items = model.items.embeddings.numpy()
    expected = []
    for candidate in (4, 1):
        wide, parts = model.wide_items.embeddings.numpy()[candidate, 0], [items[candidate]]
        if use_history:
            buckets = [(event * 1_327_217_867 + candidate) % 7 for event in (5, 2)]
            wide += model.wide_crosses.embeddings.numpy()[buckets, 0].sum()
            parts.append(items[[5, 2]].mean(axis=0))
        outputs = np.concatenate([*parts, user[0]])
        expected.append(wide + perceptron(model, outputs, lambda logits, _: np.maximum(0, logits)))
    logits = model.score_candidates({**QUERY, USER: tf.constant(user)}, tf.constant([[4, 1]]))
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4)


def test_the_history_is_newest_first_with_its_age():
    model = random_model(BST, age_dim=2, num_heads=1)
    inputs = {
        "item_ids": tf.constant([[3, 1, 0, 4, 5, 2]]),
        "timestamps": tf.constant([[10, 85, 0, 93, 97, 100]], tf.int64),
        "target_time": tf.constant([100], tf.int64),
        "user_id": tf.constant([1], tf.int64),
    }
    query = model.query(inputs)
    assert query["history"].numpy().tolist() == [[2, 5, 4]]
    assert query["ages"].numpy().tolist() == [[1, 3, 4]]  # gaps of 0, 3 and 7 s: 1 + log2(gap + 1)


def test_without_times_ages_count_events():
    schema = Schema(num_items=6, features=(ITEM_IDS_FEATURE, LABELS_FEATURE))
    model = BST(BST.config_class(**{**OPTIONS, "user_dim": 0}, age_dim=2, num_heads=1), schema)
    query = model.query({"item_ids": tf.constant([[0, 3, 1]])})
    assert query["history"].numpy().tolist() == [[1, 3, 0]]
    assert query["ages"].numpy().tolist() == [[1, 2, 0]]


SEQUENCES = {
    "item_ids": tf.ragged.constant([[1, 2, 3, 4], [5], [6, 1]], tf.int64),
    "timestamps": tf.ragged.constant([[10, 20, 30, 40], [5], [7, 8]], tf.int64),
    "labels": tf.ragged.constant([[1, 0, 1, 0], [1], [0, 1]], tf.int64),
    "seen": tf.ragged.constant([[1, 2, 3, 4], [5], [6, 1]], tf.int64),
    "user_id": tf.constant([7, 8, 9], tf.int64),
}


def test_every_event_with_a_past_is_an_example():
    model = random_model(BST, age_dim=2, num_heads=1, max_targets=2)
    inputs, labels = model.make_batch(SEQUENCES, [0, 0])
    assert inputs["candidates"].numpy().tolist() == [[3], [4], [1]]
    assert labels.numpy().tolist() == [[1], [0], [1]]
    assert inputs["item_ids"].numpy().tolist() == [[1, 0], [1, 3], [0, 0]]  # what was liked before
    assert inputs["timestamps"].numpy().tolist() == [[10, 0], [10, 30], [0, 0]]
    assert inputs["target_time"].numpy().tolist() == [30, 40, 8]
    assert inputs["user_id"].numpy().tolist() == [7, 7, 9]


@pytest.mark.parametrize("time_unit", ["seconds", "order"])
def test_a_history_is_the_newest_that_was_liked_before_the_moment_of_the_target(time_unit):
    """Against a slow loop. In a mere order, equal numbers are no moment that several events share."""
    model = DIN(DIN.config_class(max_len=3, hidden_dims=(4,)), dataclasses.replace(SCHEMA, time_unit=time_unit))
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 15, 40)
    items, labels = ([rng.integers(low, high, length).tolist() for length in lengths] for low, high in ((1, 7), (0, 2)))
    times = [np.sort(rng.integers(0, 9, length)).tolist() for length in lengths]
    sequences = {"item_ids": items, "timestamps": times, "labels": labels}
    sequences = {name: tf.ragged.constant(rows, tf.int64) for name, rows in sequences.items()}
    expected, rows, places = [], [], []
    for row in range(40):
        for place in range(lengths[row]):
            before = [i for i in range(place) if time_unit == "order" or times[row][i] < times[row][place]]
            expected.append([items[row][i] for i in before if labels[row][i]][-3:])
            rows.append(row)
            places.append(place)
    start = tf.gather(sequences["item_ids"].row_starts(), rows)
    events, first, limit = model.histories(sequences, start, start + places)
    found = tf.gather(sequences["item_ids"].flat_values, tf.gather(events, tf.ragged.range(first, limit)))
    assert found.to_list() == expected
    assert [] in expected
    assert max(map(len, expected)) == 3


def test_training_and_evaluation_see_what_a_server_is_sent(write_dataset, tmp_path):
    """The newest liked events, however long before: not those among the newest events."""
    sequence = ["a", "b", "c", *"xyxyxyx", "d", *"xyxyx", "e", "f"]
    folder = DatasetFolder(write_dataset(tmp_path / "d", {"ann": sequence}, label_of=lambda item: int(item < "x")))
    model = DIN.from_dataset(folder, dim=2, max_len=3, max_targets=2, hidden_dims=[4])

    def names(ids):
        return ["".join(folder.item_ids[item - 1] for item in row if item) for row in ids.numpy()]

    inputs, _, _ = next(iter(data.load(folder, model)))
    assert names(inputs["candidates"]) == ["y", "x"]
    assert names(inputs["item_ids"]) == ["bcd", "bcd"]
    for split, expected in (("valid", "bcd"), ("test", "cde")):
        inputs, _ = next(iter(data.load(folder, model, split)))
        assert names(inputs["item_ids"]) == [expected]


def test_drawn_negatives_stand_beside_liked_events_alone():
    model = random_model(BST, age_dim=2, num_heads=1, num_negatives=2)
    inputs, labels = model.make_batch(SEQUENCES, [0, 0])
    assert inputs["candidates"].numpy()[:, 0].tolist() == [3, 1]
    assert labels.numpy().tolist() == [[1, 0, 0]] * 2
    assert set(inputs["candidates"].numpy()[0, 1:]) <= {5, 6}
    assert set(inputs["candidates"].numpy()[1, 1:]) <= {2, 3, 4, 5}


@pytest.mark.parametrize(("cls", "options"), [(BST, {"age_dim": 2, "num_heads": 1}), (DIN, {}), (WideDeep, {})])
def test_no_rows_of_several_candidates_have_no_scores(cls, options):
    """As in a part of a batch, or a replica, that is without any."""
    model = random_model(cls, num_negatives=2, **options)
    query = {**QUERY, USER: tf.zeros([1, 2])}
    nobody = {name: value[:0] for name, value in query.items()}
    assert model.score_candidates(nobody, tf.zeros([0, 3], tf.int32)).shape == [0, 3]
    assert model.score_candidates(query, tf.zeros([1, 0], tf.int32)).shape == [1, 0]


def test_a_target_that_is_drawn_is_no_negative_of_itself():
    model = random_model(DIN, num_negatives=2)
    logits, labels = tf.constant([[0.5, -1.0, 2.0]]), tf.constant([[1, 0, 0]])
    losses = [
        float(model.target_losses({CANDIDATES: tf.constant([candidates])}, labels, logits)[0])
        for candidates in ([4, 4, 5], [4, 3, 5])
    ]
    terms = np.log1p(np.exp([-0.5, -1.0, 2.0]))
    np.testing.assert_allclose(losses, [(terms[0] + terms[2]) / 2, terms.mean()], rtol=1e-5)


def test_a_batch_without_anything_liked_has_no_examples():
    model = random_model(BST, age_dim=2, num_heads=1, num_negatives=2)
    nothing = tf.ragged.constant([[0, 0, 0, 0], [1], [0, 0]], tf.int64)
    inputs, labels = model.make_batch({**SEQUENCES, "labels": nothing}, [0, 0])
    assert labels.shape == inputs["candidates"].shape == (0, 3)
    assert len(inputs["item_ids"]) == 0


def test_validation_among_drawn_items_is_of_what_was_liked():
    model = random_model(BST, age_dim=2, num_heads=1, num_negatives=2)
    ranked = []
    model.validation_rank = lambda inputs, labels: ranked.extend(labels["target"].numpy()) or labels["target"]
    model.compile()
    inputs = {"item_ids": tf.constant([[1], [2], [3]])}
    labels = {"target": tf.constant([4, 5, 6]), "target_label": tf.constant([1, 0, 1], tf.int64)}
    model.test_step((inputs, labels))
    assert ranked == [4, 6]


def test_a_catalogue_is_scored_some_items_at_a_time():
    model = random_model(BST, age_dim=2, num_heads=1)
    query = {**QUERY, USER: tf.constant([[0.3, -0.7]])}
    query = {name: tf.repeat(value, 5_000, axis=0) for name, value in query.items()}
    widths = []
    score = model.score
    model.score = lambda query, candidates: widths.append(candidates.shape) or score(query, candidates)
    expected = score(query, tf.repeat([[*range(1, 7)]], 5_000, axis=0))
    np.testing.assert_allclose(model.score_block(query, 1, 7)[4_999], expected[4_999], rtol=1e-5)
    assert widths == [(5_000, 3), (5_000, 3)]


def test_what_training_has_not_seen_is_no_negative_where_features_tell_it(write_dataset, tmp_path):
    kind = Feature("kind", "int64", (), kind="category", num_values=9)
    features = {Feature(ITEM_ID, "string", ()): str, kind: lambda item: ord(item) - ord("a") + 2}
    folder = DatasetFolder(write_dataset(tmp_path / "d", {"ann": "abcab", "bob": "bcabc"}, features, cold_items="xyz"))
    drawn = {}
    for names in ((), ("kind",)):
        options = OPTIONS | {"user_dim": 0, "num_negatives": 50, "item_features": names}
        inputs, _, _ = next(iter(data.load(folder, DIN.from_dataset(folder, **options))))
        drawn[names] = set(inputs["candidates"].numpy()[:, 1:].ravel())
    assert drawn[()] >= {4, 5, 6}
    assert drawn[("kind",)] <= {1, 2, 3}


def test_a_dataset_without_labels_needs_drawn_negatives():
    schema = Schema(num_items=6)
    with pytest.raises(ValueError, match=r"DIN learns from labels, and this dataset has none.*model\.num_negatives"):
        DIN(schema=schema)
    model = DIN(DIN.config_class(num_negatives=2, hidden_dims=(4,)), schema)
    assert model.monitor == "sampled_ndcg@10"
    assert not model.gives_probabilities


def test_validation_ranks_among_items_that_are_new_to_the_user(monkeypatch):
    schema = Schema(num_items=3_000)
    model = DIN(DIN.config_class(num_negatives=2, hidden_dims=(4,)), schema)
    among = []

    def rank_among(model, query, target, candidates):
        among.append(candidates.numpy())
        return target

    monkeypatch.setattr("seqrec_tf.models.base_ranking.rank_among", rank_among)
    inputs = {ITEM_IDS: tf.reshape(tf.range(1, 2_001), [2, 1_000])}
    labels = {TARGET: tf.constant([2_500, 2_501]), EXCLUDED: tf.reshape(tf.range(2_001, 2_401), [2, 200])}
    for _ in range(2):
        model.validation_rank(inputs, labels)
    first, again = among
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 100)
    for row, touched in zip(first, ([*range(1, 1_001), 2_500], [*range(2_201, 2_401), 2_501]), strict=True):
        assert not set(touched) & set(row)
        assert len(set(row)) > 80


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (BST, {"num_heads": 3, "dim": 4, "age_dim": 4}, r"must divide model\.dim \+ model\.age_dim, got 3 heads for 4"),
        (DIN, {"hidden_dims": ()}, r"model\.hidden_dims must be one or more positive widths, got \[\]"),
        (WideDeep, {"num_crosses": -1}, r"model\.num_crosses must be at least 0, got -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls.config_class(**options)
