import math

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning import ranking
from seqrec_tf.models import ItemKNN, itemknn
from seqrec_tf.schema import ITEM_IDS, Schema

SESSIONS = [[1, 2, 3, 2], [2, 3], [1, 2], [4, 1, 1], [5]]


def fitted(**options):
    model = ItemKNN(ItemKNN.config_class(**options), Schema(num_items=5))
    rows = [row for row, session in enumerate(SESSIONS) for _ in session]
    model.count(np.array(rows), np.array([item for session in SESSIONS for item in session]))
    return model


def similarity(left, right, regularization):
    def sequences_with(*items):
        return sum(all(item in session for item in items) for session in SESSIONS)

    of_left, of_right, both = sequences_with(left), sequences_with(right), sequences_with(left, right)
    return both / math.sqrt((of_left + regularization) * (of_right + regularization)) if left != right else 0.0


@pytest.mark.parametrize("block", [64_000_000, 12])
@pytest.mark.parametrize("regularization", [0.0, 2.0])
def test_the_score_is_the_sum_of_regularized_cosines(monkeypatch, regularization, block):
    monkeypatch.setattr(itemknn, "_BLOCK_NUMBERS", block)
    model = fitted(regularization=regularization)
    histories = [[3, 0, 1], [2, 2, 5]]
    scores = model.score_block(model.query({ITEM_IDS: tf.constant(histories)}), 1, 6)
    expected = [
        [sum(similarity(event, item, regularization) for event in history if event) for item in range(1, 6)]
        for history in histories
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_where_few_items_are_left_to_draw_the_rank_is_among_these():
    model = fitted()
    query = model.query({ITEM_IDS: tf.constant([[3, 1]])})
    ranks = [
        ranking.rank_among(model, query, tf.constant([2]), tf.constant([rivals])) for rivals in ([4, 5], [4, 5, 0, 0])
    ]
    assert ranks[0].numpy().tolist() == ranks[1].numpy().tolist()


def test_only_the_likest_neighbours_are_kept():
    model = fitted(regularization=0.0, num_neighbors=1)
    assert model.neighbors.numpy()[1:5, 0].tolist() == [2, 3, 2, 1]
    assert model.similarities.numpy()[5].tolist() == [0.0]


def test_a_catalogue_smaller_than_the_number_of_neighbours_is_kept_whole():
    assert fitted(num_neighbors=100).neighbors.shape == (6, 5)
