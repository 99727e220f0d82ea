import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import parallel


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_a_function_of_rows_gives_the_same_in_parts(parts):
    batch = {"a": tf.range(5), "b": tf.reshape(tf.range(10), [5, 2])}
    weights = tf.constant([1, 10, 100, 1000, 10_000])

    def function(rows, weight):
        return {"sum": rows["a"] + rows["b"][:, 1] * weight, "odd": tf.boolean_mask(weight, rows["a"] % 2 == 1)}

    result = parallel.in_parts(function, parts, batch, weights)
    np.testing.assert_array_equal(result["sum"], [1, 31, 502, 7003, 90_004])
    np.testing.assert_array_equal(result["odd"], [10, 1000])


def test_the_parts_are_of_like_size():
    sizes = []
    parallel.in_parts(lambda rows: sizes.append(len(rows)) or rows, 3, tf.range(8))
    assert sizes == [2, 3, 3]


def test_there_are_no_more_parts_than_cores_nor_than_four(monkeypatch):
    for cores, parts in ((1, 1), (2, 2), (4, 4), (64, 4)):
        monkeypatch.setattr(parallel, "num_cores", lambda cores=cores: cores)
        assert parallel.num_parts() == parts


def test_replicas_are_not_taken_apart(monkeypatch):
    class Strategy:
        num_replicas_in_sync = 2

    monkeypatch.setattr(parallel, "num_cores", lambda: 4)
    monkeypatch.setattr(tf.distribute, "get_strategy", Strategy)
    assert parallel.num_parts() == 1


@pytest.mark.parametrize(("cores", "parts", "threads"), [(2, 2, 1), (16, 4, 4), (3, 2, 1), (2, 1, None)])
def test_an_operation_gets_its_share_of_the_cores(monkeypatch, cores, parts, threads):
    given = []
    monkeypatch.setattr(parallel, "num_cores", lambda: cores)
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", given.append)
    parallel.limit_threads(parts)
    assert given == ([] if threads is None else [threads])


def test_threads_that_the_user_has_set_stay(monkeypatch):
    given = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", given.append)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    parallel.limit_threads(2)
    assert given == []


def test_it_is_no_error_that_tensorflow_has_begun():
    tf.constant(1)
    parallel.limit_threads(2)
