"""A batch in parts of rows that are worked on side by side, so that all cores of the processor have something to do.

TensorFlow spreads each operation over the cores and waits after each for the slowest, and most operations of a
sequence model are too small for that. Parts of a batch need nothing of one another, so that a core can go through one
of them while another core goes through the next.
"""

from __future__ import annotations

import itertools
import os

import tensorflow as tf

# More parts make a larger graph, which takes longer to build.
_MOST_PARTS = 4


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_parts() -> int:
    """How many parts of a batch are worth it: 1 where GPUs or several replicas share the work already."""
    if tf.config.list_physical_devices("GPU") or tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return 1
    return min(num_cores(), _MOST_PARTS)


def limit_threads(parts: int) -> None:
    """Leave each operation its share of the cores, when as many run at once; before TensorFlow's first operation.

    Nothing happens after that, or where TF_NUM_INTRAOP_THREADS says otherwise.
    """
    if parts > 1 and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(max(1, num_cores() // parts))
        except RuntimeError:  # TensorFlow has its threads already
            return


def in_parts(function, parts: int, *batch):
    """A function of the rows of a batch, in parts.

    Args:
        function: Of as many (nested) tensors [B', ...] as `batch` has, for any B', to a (nested) tensor [N', ...].
        parts: How many.
        *batch: (Nested) tensors [B, ...].

    Returns:
        What the parts gave, one after the other: [N, ...].
    """
    if parts == 1:
        return function(*batch)
    rows = tf.shape(tf.nest.flatten(batch)[0])[0]
    ends = [rows * part // parts for part in range(parts + 1)]
    results = [
        function(*tf.nest.map_structure(lambda tensor, rows=slice(start, stop): tensor[rows], batch))
        for start, stop in itertools.pairwise(ends)
    ]
    return tf.nest.map_structure(lambda *of_parts: tf.concat(of_parts, axis=0), *results)
