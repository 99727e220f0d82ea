import itertools

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning.sampling import popularity_negatives, uniform_negatives

SEED = tf.constant([3, 4])
# The chi-square value that 6 degrees of freedom exceed once in a thousand times.
CHI_SQUARE_6 = 22.46


def draw(excluded, *, num_items, num_draws, seed=SEED):
    excluded = tf.constant(excluded)
    shape = [excluded.shape[0], num_draws]
    return uniform_negatives(excluded, num_items=num_items, shape=shape, seed=seed).numpy()


@pytest.fixture
def draws_in_order(monkeypatch):
    """Random bits are 0, 1, 2, ... in every row."""

    def count(shape, seed, **options):
        del seed
        return tf.broadcast_to(tf.range(shape[-1], dtype=options["dtype"]), shape)

    monkeypatch.setattr(tf.random, "stateless_uniform", count)


@pytest.mark.usefixtures("draws_in_order")
def test_the_draw_r_stands_for_the_rth_free_item_whatever_is_excluded():
    items = [1, 2, 3, 4, 5]
    excluded, expected = [], []
    for mask in itertools.product([False, True], repeat=5):
        excluded.append([item if out else 0 for item, out in zip(items, mask, strict=True)])
        free = [item for item, out in zip(items, mask, strict=True) if not out] or items
        expected.append([free[r % len(free)] for r in range(10)])
    np.testing.assert_array_equal(draw(excluded, num_items=5, num_draws=10), expected)


@pytest.mark.usefixtures("draws_in_order")
def test_order_repeats_and_padding_among_the_excluded_do_not_matter():
    excluded = [[2, 4, 0, 0, 0], [4, 2, 4, 2, 4], [0, 4, 0, 2, 0], [4, 4, 4, 0, 2]]
    np.testing.assert_array_equal(draw(excluded, num_items=5, num_draws=3), [[1, 3, 5]] * 4)


@pytest.mark.usefixtures("draws_in_order")
def test_excluded_ids_beyond_the_items_such_as_a_mask_do_not_matter():
    excluded = [[2, 4, 6, 6, 99], [6, 4, 2, 0, 0], [2, 4, 0, -1, 0]]
    np.testing.assert_array_equal(draw(excluded, num_items=5, num_draws=3), [[1, 3, 5]] * 3)


def test_excluded_items_and_padding_are_never_drawn():
    excluded = [[1, 2, 3, 0], [6, 6, 0, 1], [0, 0, 0, 0]]
    sample = draw(excluded, num_items=6, num_draws=2000)
    assert [sorted(set(row)) for row in sample.tolist()] == [[4, 5, 6], [2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]


def test_the_only_free_item_is_always_drawn():
    assert draw([[1, 2, 4, 5]], num_items=5, num_draws=3).tolist() == [[3, 3, 3]]


def test_a_row_that_excludes_every_item_draws_from_all_of_them():
    assert set(draw([[3, 2, 1, 3]], num_items=3, num_draws=200).ravel()) == {1, 2, 3}


def test_free_items_are_drawn_equally_often():
    sample = draw([[2, 5, 9]], num_items=10, num_draws=7000).ravel()
    observed = np.array([np.sum(sample == item) for item in (1, 3, 4, 6, 7, 8, 10)])
    assert np.sum((observed - 1000) ** 2 / 1000) < CHI_SQUARE_6


def test_rows_with_the_same_exclusions_draw_differently():
    first, second = draw([[1], [1]], num_items=1000, num_draws=20)
    assert np.sum(first == second) < 5


def test_the_same_seed_gives_the_same_draw():
    first = draw([[1]], num_items=1000, num_draws=20)
    np.testing.assert_array_equal(draw([[1]], num_items=1000, num_draws=20), first)


def test_another_seed_gives_another_draw():
    first = draw([[1]], num_items=1000, num_draws=20)
    assert np.any(draw([[1]], num_items=1000, num_draws=20, seed=tf.constant([3, 5])) != first)


def test_nothing_excluded_draws_from_all_items():
    excluded = tf.zeros([2, 0], tf.int32)
    sample = uniform_negatives(excluded, num_items=3, shape=[2, 200], seed=SEED)
    assert set(sample.numpy().ravel()) == {1, 2, 3}


def test_a_draw_of_rank_3_keeps_each_row_s_exclusions():
    sample = uniform_negatives(tf.constant([[1, 2], [3, 4]]), num_items=4, shape=[2, 50, 3], seed=SEED).numpy()
    assert sample.shape == (2, 50, 3)
    assert [sorted(set(row.ravel())) for row in sample] == [[3, 4], [1, 2]]


def test_a_vocabulary_near_the_limit_of_int32_does_not_overflow():
    num_items = 2**31 - 2
    sample = draw([[1, num_items, num_items - 1]], num_items=num_items, num_draws=1000)
    assert sample.min() > 1
    assert sample.max() < num_items - 1


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_it_runs_in_a_graph_with_unknown_shapes(dtype):
    @tf.function(input_signature=[tf.TensorSpec([None, None], dtype), tf.TensorSpec([None], tf.int32)])
    def run(excluded, shape):
        return uniform_negatives(excluded, num_items=10, shape=shape, seed=SEED)

    for excluded, shape in (([[2, 5, 9]], [1, 20]), ([[2, 0], [3, 3]], [2, 5, 4])):
        expected = uniform_negatives(tf.constant(excluded), num_items=10, shape=shape, seed=SEED)
        result = run(tf.constant(excluded, dtype), tf.constant(shape))
        assert result.dtype == tf.int32
        np.testing.assert_array_equal(result, expected)


def draw_by_weight(weights, shape, seed=SEED):
    return popularity_negatives(tf.constant(np.cumsum(weights), tf.float64), shape=shape, seed=seed).numpy()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_items_are_drawn_by_their_weights(scale):
    shares = np.array([7, 6, 5, 4, 3, 2, 1]) / 28
    sample = draw_by_weight(shares * 28 * scale, [28_000])
    observed, expected = np.array([np.sum(sample == item) for item in range(1, 8)]), 28_000 * shares
    assert np.sum((observed - expected) ** 2 / expected) < CHI_SQUARE_6


@pytest.mark.parametrize("weights", [[0, 1, 0, 2, 0], [0, 0, 5, 0, 0], [1, 0, 0, 0, 1]])
def test_an_item_without_weight_is_never_drawn(weights):
    sample = draw_by_weight(np.array(weights, float), [3000])
    assert set(sample) == {item for item, weight in enumerate(weights, start=1) if weight}


@pytest.mark.parametrize(
    ("uniform", "item"), [(0.0, 1), (0.2499, 1), (0.25, 2), (0.7499, 2), (0.75, 4), (1 - 2**-53, 4)]
)
def test_a_draw_falls_to_the_item_whose_share_of_the_weight_it_is_in(monkeypatch, uniform, item):
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda shape, seed, dtype: tf.fill(shape, np.float64(uniform)))
    assert draw_by_weight([1, 2, 0, 1], [1]).tolist() == [item]


def test_the_end_of_the_weights_falls_to_a_real_item(monkeypatch):
    """A product of a number just below 1 and a large sum may round to the sum itself."""
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda shape, seed, dtype: tf.ones(shape, dtype))
    assert draw_by_weight([1, 2, 4], [2]).tolist() == [3, 3]


def test_the_rarest_of_a_million_items_is_drawn_too():
    weights = np.concatenate([np.full(1_000_000 - 1, 1e-3), [1e3]])
    sample = draw_by_weight(weights, [2000])
    assert sample.min() >= 1
    assert sample.max() == 1_000_000
    assert 800 < np.sum(sample == 1_000_000) < 1200  # half of the weight


def test_the_same_seed_gives_the_same_draw_by_weight():
    first = draw_by_weight(np.ones(1000), [20])
    np.testing.assert_array_equal(draw_by_weight(np.ones(1000), [20]), first)
    assert np.any(draw_by_weight(np.ones(1000), [20], seed=tf.constant([3, 5])) != first)


@pytest.mark.parametrize("shape", [[], [0], [5], [2, 3], [2, 3, 4]])
def test_a_draw_by_weight_has_any_rank(shape):
    sample = draw_by_weight(np.ones(3), shape)
    assert (sample.dtype, list(sample.shape)) == (np.int32, shape)
    assert set(sample.ravel()) <= {1, 2, 3}


def test_a_draw_by_weight_runs_in_a_graph_with_unknown_shapes():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64), tf.TensorSpec([None], tf.int32)])
    def run(cumulative, shape):
        return popularity_negatives(cumulative, shape=shape, seed=SEED)

    for weights, shape in (([1.0, 2.0, 3.0], [50]), ([5.0, 0.0], [2, 5, 4])):
        result = run(tf.constant(np.cumsum(weights)), tf.constant(shape))
        assert result.dtype == tf.int32
        np.testing.assert_array_equal(result, draw_by_weight(weights, shape))
