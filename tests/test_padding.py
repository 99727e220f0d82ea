import pytest
import tensorflow as tf

from seqrec_tf import padding


def test_ids_are_padded_on_the_right_to_the_longest_row():
    padded = padding.ids(tf.ragged.constant([[3, 5], [7], []], dtype=tf.int64))
    assert padded.dtype == tf.int32
    assert padded.numpy().tolist() == [[3, 5], [7, 0], [0, 0]]


def test_histories_keep_their_dtype_and_have_a_column_at_least():
    none = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int64), [0, 0])
    assert padding.history(none).numpy().tolist() == [[0], [0]]
    some = padding.history(tf.ragged.constant([[1.5], [2.5, 3.5]]))
    assert some.dtype == tf.float32
    assert some.numpy().tolist() == [[1.5, 0.0], [2.5, 3.5]]


def test_the_first_categories_are_kept_in_tensors_as_in_lists():
    values = [[4], [7, 8, 9], []]
    padded = padding.categories(tf.ragged.constant(values, dtype=tf.int64), 2)
    assert padded.shape == (3, 2)
    assert padded.numpy().tolist() == padding.listed_categories(values, 2) == [[4, 0], [7, 8], [0, 0]]


@pytest.mark.parametrize(
    ("values", "length", "expected"),
    [
        ([["a"], ["b", "c", "d"]], 2, [["a", ""], ["c", "d"]]),
        ([["a"], ["b", "c", "d"]], None, [["a", "", ""], ["b", "c", "d"]]),
        ([[]], None, [[""]]),
        ([], None, []),
    ],
)
def test_lists_of_a_request_keep_their_newest(values, length, expected):
    assert padding.rows(values, padding.NO_ITEM, length=length) == expected
