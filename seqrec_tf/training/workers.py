"""What to say where another worker of a training is gone."""

from __future__ import annotations

import contextlib
import re

import tensorflow as tf

from seqrec_tf.quiet import stderr_without_errors_of

# What TensorFlow raises where a worker does not answer any more.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
# Files of the runtime that log it before, in many lines.
_LOGGING = r"base_collective_executor|ring_\w+|hierarchical_tree_broadcaster|collective_\w+|coordination_\w+"


@contextlib.contextmanager
def explained(strategy, keeper):
    """Say of a worker that is gone what to do, instead of the runtime's text.

    Args:
        strategy: Nothing happens here unless it is of several workers.
        keeper: The `callbacks.RunKeeper`, which knows what is done.

    Raises:
        RuntimeError: Another worker cannot be reached.
    """
    if strategy.cluster_resolver is None:
        yield
        return
    try:
        with stderr_without_errors_of(_LOGGING):
            yield
    except _LOST as error:
        of_task = r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)"
        tasks = sorted({f"{kind} {number}" for kind, number in re.findall(of_task, error.message)})
        which = f" ({tasks[0]})" if len(tasks) == 1 else ""
        done = len(keeper.epochs)
        raise RuntimeError(
            f"Another machine of TF_CONFIG has ended or cannot be reached{which}, "
            "so this one ends too. Look at what that one said last; then start the same command on all machines, which "
            + (f"goes on after epoch {done}." if done else "begins anew, as no epoch was done.")
        ) from error
