import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning import parallel


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


@pytest.fixture
def machine(monkeypatch):
    """A function that sets the cores and the GPUs that there seem to be."""
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)

    def of(cores, gpus=()):
        monkeypatch.setattr(parallel, "num_cores", lambda: cores)
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(gpus))

    return of


@pytest.mark.parametrize(("cores", "parts"), [(1, 1), (2, 2), (4, 4), (64, 4)])
def test_there_are_no_more_parts_than_cores_nor_than_four(machine, cores, parts):
    machine(cores)
    assert parallel.parts_for_cores() == parts


def test_with_a_gpu_there_is_one_part(machine):
    machine(4, gpus=["gpu"])
    assert parallel.parts_for_cores() == 1


def test_replicas_are_not_taken_apart(machine, monkeypatch):
    class Strategy:
        num_replicas_in_sync = 2

    machine(4)
    monkeypatch.setattr(tf.distribute, "get_strategy", Strategy)
    assert parallel.parts_for_cores() == 1


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_container_has_the_cores_of_its_quota(monkeypatch, tmp_path, quota, cores):
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(parallel, "_QUOTA_FILE", tmp_path / "cpu.max")
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert parallel.num_cores() == cores


@pytest.mark.parametrize(("cores", "parts", "given"), [(2, 2, [1]), (4, 4, [1]), (16, 4, []), (2, 1, [])])
def test_an_operation_has_one_thread_where_each_core_has_a_part(machine, monkeypatch, cores, parts, given):
    machine(cores)
    threads = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", threads.append)
    parallel.limit_threads(parts)
    assert threads == given


def test_threads_that_the_user_has_set_stay(machine, monkeypatch):
    machine(2)
    threads = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", threads.append)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    parallel.limit_threads(2)
    assert threads == []


def test_it_is_no_error_that_tensorflow_has_begun(machine, monkeypatch):
    def refuse(threads):
        raise RuntimeError("it has")

    machine(2)
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", refuse)
    parallel.limit_threads(2)
