"""The losses of targets by every loss with every kind of negatives."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_objective import (
    BIAS,
    COUNTS,
    HIDDEN,
    NUM_ITEMS,
    OF_OTHER_SEQUENCES,
    TABLE,
    TARGETS,
    every_combination,
    losses_of,
    make_objective,
    slow_score,
)

from seqrec_tf.learning import sampling
from seqrec_tf.learning.objective import LOSSES, NextItemObjective


def log_share(item, exponent):
    weights = [count**exponent for count in COUNTS]
    return math.log(weights[item - 1] / sum(weights))


def slow_sampled_softmax(positive, negatives):
    return math.log(math.exp(positive) + sum(math.exp(other) for other in negatives)) - positive


def slow_bpr_max(positive, negatives, regularization):
    powers = [math.exp(other) for other in negatives]
    weights = [power / sum(powers) for power in powers]
    likelihood = sum(w / (1 + math.exp(other - positive)) for w, other in zip(weights, negatives, strict=True))
    return -math.log(likelihood) + regularization * sum(w * r**2 for w, r in zip(weights, negatives, strict=True))


def fix_draw(monkeypatch, ids):
    """Every draw by popularity, and every draw for one target, is `ids`."""
    ids = tf.constant(ids, tf.int32)
    monkeypatch.setattr(sampling, "popularity_negatives", lambda cumulative, shape, seed: ids)
    monkeypatch.setattr(NextItemObjective, "draw", lambda self, sequence, is_target: ids)


@every_combination
@pytest.mark.parametrize("bias", [BIAS, None], ids=["bias", "no bias"])
def test_every_loss_with_every_kind_of_negatives_is_finite_and_so_are_its_gradients(options, bias):
    of_scores = {} if options["loss"] == "softmax" else {"elu": 0.5}
    if options["loss"] in ("softmax", "sampled-softmax"):
        of_scores["temperature"] = 0.5
    objective = make_objective(**of_scores, **options)
    hidden, table = tf.constant(HIDDEN), tf.constant(TABLE)
    with tf.GradientTape() as tape:
        tape.watch([hidden, table])
        values = losses_of(objective, hidden=hidden, table=table, bias=bias)
    assert (values.dtype, values.shape) == (tf.float32, [3])
    assert np.all(np.isfinite(values))
    gradients = [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(values, [hidden, table])]
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    assert all(np.any(gradient != 0) for gradient in gradients)
    assert np.all(gradients[1][0] == 0)  # padding is no item


@every_combination
def test_a_batch_without_targets_has_no_losses(options):
    objective = make_objective(**options)
    hidden = tf.zeros([0, 2])
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        values = losses_of(objective, hidden=hidden, targets=np.zeros([0], np.int32), is_target=np.zeros([2, 2], bool))
    assert values.shape == [0]
    assert tape.gradient(values, hidden).shape == [0, 2]


@every_combination
def test_hidden_states_of_half_precision_give_losses_of_full_precision(options):
    values = losses_of(make_objective(**options), hidden=HIDDEN.astype(np.float16))
    assert values.dtype == tf.float32
    np.testing.assert_allclose(values, losses_of(make_objective(**options)), rtol=0.02)


def test_the_softmax_takes_all_items_their_biases_and_the_temperature():
    values = losses_of(make_objective(loss="softmax", temperature=0.5))
    expected = []
    for n, target in enumerate(TARGETS):
        logits = {item: slow_score(n, item) / 0.5 for item in range(1, NUM_ITEMS + 1)}
        expected.append(math.log(sum(map(math.exp, logits.values()))) - logits[target])
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_the_sampled_softmax_of_uniform_negatives_is_not_corrected(monkeypatch):
    drawn = [[4, 5], [4, 4], [1, 2]]
    fix_draw(monkeypatch, drawn)
    values = losses_of(make_objective(loss="sampled-softmax", num_negatives=2, temperature=0.5))
    expected = [
        slow_sampled_softmax(slow_score(n, target) / 0.5, [slow_score(n, item) / 0.5 for item in drawn[n]])
        for n, target in enumerate(TARGETS)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_sampled_softmax_of_popular_negatives_is_corrected_by_how_likely_each_is(monkeypatch, exponent):
    drawn = [[4, 1], [4, 4], [1, 5]]
    fix_draw(monkeypatch, drawn)
    options = {"negatives": "popular", "num_negatives": 2, "popularity_exponent": exponent, "temperature": 0.5}
    values = losses_of(make_objective(loss="sampled-softmax", **options))

    def corrected(n, item):
        return slow_score(n, item) / 0.5 - log_share(item, exponent)

    expected = [
        slow_sampled_softmax(corrected(n, target), [corrected(n, item) for item in drawn[n]])
        for n, target in enumerate(TARGETS)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_corrected_negatives_share_the_gradient_as_in_the_full_softmax(exponent):
    """The reason of the correction: without it, items that are drawn more often would be pushed down more."""
    options = {"negatives": "popular", "num_negatives": 100_000, "popularity_exponent": exponent}
    objective = make_objective(loss="sampled-softmax", share_negatives=True, **options)
    bias = tf.constant(BIAS)
    with tf.GradientTape() as tape:
        tape.watch(bias)
        values = losses_of(objective, hidden=HIDDEN[:1], targets=TARGETS[:1], bias=bias)
    gradient = tf.convert_to_tensor(tape.gradient(values, bias)).numpy()
    others = [item for item in range(1, NUM_ITEMS + 1) if item != TARGETS[0]]
    powers = np.array([math.exp(slow_score(0, item)) for item in others])
    np.testing.assert_allclose(gradient[others] / np.sum(gradient[others]), powers / np.sum(powers), rtol=0.05)


def test_in_batch_negatives_are_the_targets_of_other_sequences_and_the_drawn_but_not_the_own_target(monkeypatch):
    fix_draw(monkeypatch, [4, 2])
    values = losses_of(make_objective(loss="sampled-softmax", negatives="in-batch", num_negatives=2))
    # The targets are 3 and 2 of one sequence, and 3 of the other; beside them 4 and 2 are drawn.
    negatives = [[4, 2], [3, 4], [2, 4, 2]]

    def corrected(n, item):
        return slow_score(n, item) - log_share(item, 1.0)

    expected = [
        slow_sampled_softmax(corrected(n, target), [corrected(n, item) for item in negatives[n]])
        for n, target in enumerate(TARGETS)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_in_batch_negatives_are_corrected_by_their_share_of_events_whatever_the_exponent(exponent):
    """Other targets come as often as their events do; the exponent is only that of the items drawn beside them."""
    options = {"negatives": "in-batch", "num_negatives": 0, "popularity_exponent": exponent}
    values = losses_of(make_objective(loss="sampled-softmax", **options))

    def corrected(n, item):
        return slow_score(n, item) - log_share(item, 1.0)

    expected = [
        slow_sampled_softmax(corrected(n, target), [corrected(n, item) for item in others])
        for n, (target, others) in enumerate(zip(TARGETS, OF_OTHER_SEQUENCES, strict=True))
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_in_batch_negatives_need_no_others_beside_them():
    values = losses_of(make_objective(loss="bpr-max", negatives="in-batch", num_negatives=0))
    expected = [
        slow_bpr_max(slow_score(n, target), [slow_score(n, item) for item in others], 1.0) if others else 0.0
        for n, (target, others) in enumerate(zip(TARGETS, OF_OTHER_SEQUENCES, strict=True))
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("negatives", ["popular", "uniform"])
def test_shared_negatives_are_those_of_every_target_but_where_they_are_the_target(monkeypatch, negatives):
    shared = [2, 4, 1]
    fix_draw(monkeypatch, shared)
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *args, **options: tf.constant(shared))
    options = {"share_negatives": True, "num_negatives": 3, "regularization": 1.95}
    values = losses_of(make_objective(loss="bpr-max", negatives=negatives, **options))
    expected = [
        slow_bpr_max(slow_score(n, target), [slow_score(n, item) for item in shared if item != target], 1.95)
        for n, target in enumerate(TARGETS)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_an_elu_bends_negative_scores_before_the_loss(monkeypatch, scale):
    drawn = [[4, 5], [4, 1], [1, 2]]
    fix_draw(monkeypatch, drawn)
    objective = make_objective(loss="top1", num_negatives=2, elu=0.5)
    hidden = tf.constant(HIDDEN * scale)
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        values = losses_of(objective, hidden=hidden, bias=None)

    def bent(n, item):
        score = float(HIDDEN[n] @ TABLE[item]) * scale
        return score if score > 0 else 0.5 * (math.exp(score) - 1)

    def sigmoid(value):
        return 1 / (1 + math.exp(-max(value, -700)))

    expected = [
        sum(sigmoid(bent(n, item) - bent(n, target)) + sigmoid(bent(n, item) ** 2) for item in drawn[n]) / 2
        for n, target in enumerate(TARGETS)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(tape.gradient(values, hidden)))


def test_the_generalized_cross_entropy_knows_the_number_of_items_and_of_negatives(monkeypatch):
    drawn = [[4, 5], [4, 4], [1, 2]]
    fix_draw(monkeypatch, drawn)
    values = losses_of(make_objective(loss="gbce", num_negatives=2, gbce_calibration=0.9))
    rate = 2 / (NUM_ITEMS - 1)
    beta = rate * (0.9 * (1 - 1 / rate) + 1 / rate)

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    expected = [
        -(
            beta * math.log(sigmoid(slow_score(n, target)))
            + sum(math.log(1 - sigmoid(slow_score(n, item))) for item in drawn[n])
        )
        / 3
        for n, target in enumerate(TARGETS)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["sampled-softmax", "bpr", "top1", "bpr-max", "top1-max"])
@pytest.mark.parametrize(
    "options",
    [
        {"negatives": "popular"},
        {"negatives": "popular", "share_negatives": True},
        {"negatives": "uniform", "share_negatives": True},
        {"negatives": "in-batch"},
    ],
    ids=["popular", "popular-shared", "uniform-shared", "in-batch"],
)
def test_the_target_is_no_negative_of_itself(loss, options):
    """Where there is but one item every draw is the target, and the loss has nothing to compare it with."""
    objective = make_objective(loss=loss, num_negatives=3, num_items=1, counts=[7], **options)
    hidden = tf.constant(HIDDEN)
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        values = losses_of(objective, hidden=hidden, targets=np.ones([3], np.int32), table=TABLE[:2], bias=BIAS[:2])
    np.testing.assert_allclose(values, [0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(values, hidden), np.zeros([3, 2]), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"share_negatives": True}, {"negatives": "in-batch"}])
def test_items_without_a_training_event_leave_losses_finite(options):
    objective = make_objective(
        **{"loss": "sampled-softmax", "negatives": "popular", "num_negatives": 4, **options}, counts=[3, 0, 0, 0, 0]
    )
    assert np.all(np.isfinite(losses_of(objective)))


def test_an_item_without_a_training_event_counts_as_a_thousandth(monkeypatch):
    drawn = [[1, 5]] * 3
    fix_draw(monkeypatch, drawn)
    objective = make_objective(loss="sampled-softmax", negatives="popular", num_negatives=2, counts=[8, 4, 2, 1, 0])
    weights = [8, 4, 2, 1, 0.001]

    def corrected(n, item):
        return slow_score(n, item) - math.log(weights[item - 1] / sum(weights))

    expected = [
        slow_sampled_softmax(corrected(n, target), [corrected(n, item) for item in (1, 5)])
        for n, target in enumerate(TARGETS)
    ]
    np.testing.assert_allclose(losses_of(objective), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        *({"loss": loss} for loss in LOSSES),
        *({"loss": loss, "negatives": "popular", "share_negatives": True} for loss in ("bpr-max", "sampled-softmax")),
        *({"loss": loss, "negatives": "in-batch"} for loss in ("bpr-max", "top1-max", "sampled-softmax")),
        {"loss": "bpr-max", "negatives": "in-batch", "elu": 0.5},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_model_of_pairs_learns_a_chain_by_every_loss(options):
    """After item i comes i + 1, in a circle of 8; the state is an embedding of the last item alone."""
    options = options if options["loss"] == "softmax" else {"num_negatives": 4, **options}
    objective = make_objective(num_items=8, counts=[1] * 8, **options)
    random = np.random.default_rng(1)
    states, table = (tf.Variable(random.normal(size=[9, 16], scale=0.1).astype(np.float32)) for _ in range(2))
    last = np.arange(1, 9, dtype=np.int32)
    following = last % 8 + 1

    def mean_rank():
        scores = states.numpy()[last] @ table.numpy()[1:].T
        return np.mean([np.sum(row >= row[item - 1]) for row, item in zip(scores, following, strict=True)])

    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build([states, table])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            values = objective(
                tf.gather(states, last),
                following,
                sequence=np.stack([last, following], axis=1),
                is_target=np.ones([8, 1], bool),
                table=tf.convert_to_tensor(table),
            )
            loss = tf.reduce_mean(values)
        gradients = tape.gradient(loss, [states, table])
        optimizer.apply(gradients, [states, table])

    assert mean_rank() > 3  # 4.5 by chance
    for _ in range(60):
        step()
    assert mean_rank() < 1.2
