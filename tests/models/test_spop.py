import numpy as np
import tensorflow as tf

from seqrec_tf.learning import ranking
from seqrec_tf.models import SPOP
from seqrec_tf.schema import ITEM_IDS, Schema


def test_items_rank_by_their_count_in_the_session_and_then_by_popularity():
    model = SPOP(schema=Schema(num_items=5))
    model.counts.assign([0, 90, 40, 40, 8, 2])
    query = model.query({ITEM_IDS: tf.constant([[4, 5, 4, 0], [0, 0, 0, 3]])})
    ids, scores = ranking.recommend(model, query, tf.zeros([2, 1], tf.int32), k=5)
    assert ids.numpy().tolist() == [[4, 5, 1, 2, 3], [3, 1, 2, 4, 5]]
    np.testing.assert_allclose(scores[0, :3], [2 + 0.999 * 8 / 90, 1 + 0.999 * 2 / 90, 0.999], rtol=1e-6)


def test_no_popularity_weighs_as_much_as_one_event():
    model = SPOP(schema=Schema(num_items=2))
    model.counts.assign([0, 2e7, 1])
    ids, _ = ranking.recommend(model, model.query({ITEM_IDS: tf.constant([[2]])}), tf.zeros([1, 1], tf.int32), k=2)
    assert ids.numpy().tolist() == [[2, 1]]


def test_the_state_after_each_event_counts_the_events_so_far():
    model = SPOP(schema=Schema(num_items=3))
    states = model({ITEM_IDS: tf.constant([[2, 0, 2, 1]])})
    assert states.numpy().tolist() == [[[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 2, 0], [0, 1, 2, 0]]]
