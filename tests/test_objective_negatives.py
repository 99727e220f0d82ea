"""Which items the objective draws as negatives, and how often."""

import math

import numpy as np
import pytest
import tensorflow as tf
from small_objective import (
    COMBINATIONS,
    COUNTS,
    IS_TARGET,
    NUM_ITEMS,
    SEQUENCE,
    TARGETS,
    losses_of,
    make_objective,
    slow_score,
)


def test_negatives_of_the_generalized_cross_entropy_are_of_all_items():
    """As its calibration takes them to be: those of the sequence too."""
    objective = make_objective(loss="gbce", num_negatives=400)
    assert not objective.needs_seen
    drawn = objective.draw(np.array([[1, 2, 3]]), np.array([[True]])).numpy()
    assert set(drawn.ravel()) == set(range(1, NUM_ITEMS + 1))


def test_items_without_events_may_be_left_out_of_the_negatives():
    objective = make_objective(loss="softmax")
    objective.adapt([8, 4, 2, 0, 0], only_seen=True)
    scores = [[slow_score(n, item) for item in (1, 2, 3)] for n in range(3)]
    expected = [
        math.log(sum(map(math.exp, row))) - row[target - 1] for row, target in zip(scores, TARGETS, strict=True)
    ]
    np.testing.assert_allclose(losses_of(objective), expected, rtol=1e-5)
    for is_shared in (False, True):
        objective = make_objective(num_negatives=200, share_negatives=is_shared)
        objective.adapt([8, 4, 2, 0, 0], only_seen=True)
        drawn = objective._draw_shared(TARGETS) if is_shared else objective.draw(SEQUENCE[:, 3:], IS_TARGET)
        assert set(np.unique(drawn)) <= {1, 2, 3}
        assert np.any(drawn == 3)


def test_uniform_negatives_are_no_item_of_the_sequence():
    drawn = make_objective(num_negatives=50).draw(tf.constant(SEQUENCE), tf.constant(IS_TARGET)).numpy()
    assert drawn.shape == (3, 50)
    assert [sorted(set(row)) for row in drawn] == [[4, 5], [4, 5], [1, 2, 4]]


def test_popular_negatives_are_drawn_by_the_power_of_their_counts():
    objective = make_objective(negatives="popular", num_negatives=4000, popularity_exponent=0.5)
    drawn = objective.draw(tf.constant(SEQUENCE), tf.constant(IS_TARGET)).numpy()
    assert drawn.shape == (3, 4000)
    observed = np.array([np.sum(drawn == item) for item in range(1, 6)])
    expected = 12_000 * np.sqrt(COUNTS) / np.sum(np.sqrt(COUNTS))
    assert np.sum((observed - expected) ** 2 / expected) < 18.47  # exceeded once in 1000 with 4 degrees of freedom


def test_before_any_counting_all_items_are_drawn_alike():
    objective = make_objective(negatives="popular", num_negatives=4000, counts=None)
    drawn = objective.draw(tf.constant(SEQUENCE), tf.constant(IS_TARGET)).numpy()
    observed = np.array([np.sum(drawn == item) for item in range(1, 6)])
    assert np.sum((observed - 2400) ** 2 / 2400) < 18.47


def test_counting_changes_what_is_drawn():
    objective = make_objective(negatives="popular", num_negatives=50, counts=[1, 0, 0, 0, 0])
    assert np.mean(objective.draw(tf.constant(SEQUENCE), tf.constant(IS_TARGET)) == 1) > 0.95
    objective.adapt([0, 0, 0, 1, 0])
    assert np.mean(objective.draw(tf.constant(SEQUENCE), tf.constant(IS_TARGET)) == 4) > 0.95


@pytest.mark.parametrize("options", [options for options in COMBINATIONS if options["loss"] == "bpr"], ids=str)
def test_every_step_draws_other_negatives(options):
    objective = make_objective(**{**options, "num_negatives": 20})
    first, second = losses_of(objective).numpy(), losses_of(objective).numpy()
    assert np.any(first != second)


@pytest.mark.parametrize("options", [options for options in COMBINATIONS if options["loss"] == "bpr"], ids=str)
def test_the_same_seed_draws_the_same_negatives(options):
    first, second = (losses_of(make_objective(**options)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_compiled_step_draws_anew_each_time():
    objective = make_objective(loss="bpr", negatives="popular", num_negatives=20)
    step = tf.function(lambda: losses_of(objective))
    assert np.any(step().numpy() != step().numpy())
