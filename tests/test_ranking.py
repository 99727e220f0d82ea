"""Blocks, exclusion and the best of a catalogue against slow code; models rank by them in `models/test_base.py`."""

import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.ranking import blocks, exclude, top_k


@pytest.mark.parametrize("wrap", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_excluded_items_lose_their_score_in_their_block(wrap):
    block = tf.constant([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    result = wrap(lambda block, out: exclude(block, out, 3))(block, tf.constant([[3, 5, 3, 9, 1, 0], [0] * 6]))
    np.testing.assert_array_equal(result, np.array([[-math.inf, 0.2, -math.inf], [0.4, 0.5, 0.6]], np.float32))


def test_where_nothing_is_excluded_scores_stay():
    result = exclude(tf.ones([2, 3]), tf.zeros([2, 0], tf.int32), 1)
    assert result.numpy().tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("num_values", [3, 1000])
@pytest.mark.parametrize("width", [640, 1280, 1281])
def test_top_k_by_groups_is_that_of_a_sort(width, num_values):
    scores = np.random.default_rng(0).integers(num_values, size=[4, width]).astype(np.float32)
    scores[1] = -np.inf
    scores[2, 7:] = -np.inf
    for is_nan in (np.zeros(scores.shape, bool), np.tile(np.arange(width) % 9 == 4, [4, 1])):
        given = np.where(is_nan, np.nan, scores)
        given[3] = scores[3]
        without = np.where(np.isnan(given), -np.inf, given)
        expected = np.argsort(-without, axis=1, kind="stable")[:, :2]
        found, columns, num_nan = top_k(tf.constant(given), 2)
        np.testing.assert_array_equal(columns, expected)
        np.testing.assert_array_equal(found, np.take_along_axis(without, expected, axis=1))
        np.testing.assert_array_equal(num_nan, np.isnan(given).sum(axis=1))


@pytest.mark.parametrize("num_items", [1, 127, 128, 129, 1000, 65_536, 65_537, 200_000])
def test_blocks_cover_every_item_once(num_items):
    found = list(blocks(num_items))
    assert [item for start, stop in found for item in range(start, stop)] == list(range(1, num_items + 1))
    assert all((stop - start) % 128 == 0 for start, stop in found[:-1])
