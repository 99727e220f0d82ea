"""A batch in parts of rows that are worked on side by side, so that all cores of the processor have something to do.

TensorFlow spreads each operation over the cores and waits after each for the slowest, and most operations of a
sequence model are too small for that. Parts of a batch need nothing of one another, so that a core can go through one
of them while another core goes through the next.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib

import tensorflow as tf

# More parts make a larger graph, which takes longer to build.
_MOST_PARTS = 4
# What a container may use of the processor: microseconds, or "max", in a period of so many.
_QUOTA_FILE = pathlib.Path("/sys/fs/cgroup/cpu.max")


def num_cores() -> int:
    """Processor cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _QUOTA_FILE.exists():
        quota, period = _QUOTA_FILE.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def parts_for_cores() -> int:
    """In how many parts a batch is worth taking: one a core, at most four; 1 where GPUs or replicas share the work."""
    if tf.config.get_visible_devices("GPU") or tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return 1
    return min(num_cores(), _MOST_PARTS)


def limit_threads(parts: int) -> None:
    """Let each operation have one thread where there are as many parts as cores; before TensorFlow's first operation.

    Nothing happens after that, or where TF_NUM_INTRAOP_THREADS says otherwise.
    """
    if parts == num_cores() and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        with contextlib.suppress(RuntimeError):  # TensorFlow has its threads already
            tf.config.threading.set_intra_op_parallelism_threads(1)


def in_parts(function, parts: int, *batch):
    """A function of the rows of a batch, in parts.

    Args:
        function: Takes as many (nested) tensors [B', ...] as `batch` has, for any B', and gives a (nested) tensor
            [N', ...].
        parts: How many; where there are fewer rows, some are without any.
        *batch: (Nested) tensors [B, ...].

    Returns:
        What the parts gave, one after the other: [N, ...].
    """
    if parts == 1:
        return function(*batch)
    num_rows = tf.shape(tf.nest.flatten(batch)[0])[0]
    ends = [num_rows * part // parts for part in range(parts + 1)]
    results = [
        function(*tf.nest.map_structure(lambda tensor, part=slice(start, stop): tensor[part], batch))
        for start, stop in itertools.pairwise(ends)
    ]
    return tf.nest.map_structure(lambda *of_parts: tf.concat(of_parts, axis=0), *results)
