import types

import numpy as np
import tensorflow as tf

from seqrec_tf.learning import ranking
from seqrec_tf.models import PopRec
from seqrec_tf.schema import ITEM_IDS, Schema

COUNTS = [9, 5, 5, 2]


def made():
    """A model that has counted 4 items."""
    model = PopRec(schema=Schema(num_items=4))
    model.adapt(types.SimpleNamespace(item_counts=COUNTS))
    return model


def query(model, *histories):
    return model.query({ITEM_IDS: tf.constant(histories)})


def test_the_score_of_an_item_is_its_number_of_training_events():
    model = made()
    np.testing.assert_array_equal(model.score_block(query(model, [1, 2]), 1, 5), [COUNTS])


def test_every_history_gets_the_same_scores():
    model = made()
    scores = model.score_block(query(model, [1, 2, 0], [3, 0, 0], [0, 0, 0]), 1, 5)
    np.testing.assert_array_equal(scores, [COUNTS] * 3)


def test_it_recommends_the_most_frequent_items_that_the_history_lacks():
    model = made()
    ids, scores = ranking.recommend(model, query(model, [1, 4], [3, 0]), tf.constant([[1, 4], [3, 0]]), k=2)
    assert ids.numpy().tolist() == [[2, 3], [1, 2]]
    assert scores.numpy().tolist() == [[5, 5], [9, 5]]


def test_equally_frequent_items_count_against_the_target():
    model = made()
    targets, excluded = tf.constant([2, 1]), tf.constant([[4], [4]])
    rank, _, _ = ranking.rank_and_recommend(model, query(model, [4], [4]), targets, excluded, k=4)
    assert rank.numpy().tolist() == [3, 1]


def test_it_has_nothing_to_train():
    assert made().trainable_variables == []


def test_the_counts_survive_saving(tmp_path):
    import keras

    made().save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert model.counts.numpy().tolist() == [0, *COUNTS]
