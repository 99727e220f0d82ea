"""What to say where another worker of a training is gone."""

from __future__ import annotations

import contextlib
import re

import tensorflow as tf

# What TensorFlow raises where a worker does not answer any more; the second one sometimes comes of other causes.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


@contextlib.contextmanager
def explained(strategy, keeper):
    """Say of a worker that is gone what to do, instead of the runtime's text.

    Args:
        strategy: Nothing happens here unless it is of several workers.
        keeper: The `callbacks.RunKeeper`, which knows what is done.

    Raises:
        RuntimeError: Another worker cannot be reached.
    """
    try:
        yield
    except _LOST as error:
        if strategy.cluster_resolver is None:
            raise
        of_task = r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)"
        tasks = sorted({f"{kind} {number}" for kind, number in re.findall(of_task, error.message)})
        which = f" ({tasks[0]})" if len(tasks) == 1 else ""
        done = len(keeper.epochs)
        raise RuntimeError(
            f"Another machine of TF_CONFIG has ended or cannot be reached{which}, "
            "so this one ends too. Look at what that one said last; then start the same command on all machines, which "
            + (f"goes on after epoch {done}." if done else "begins anew, as no epoch was done.")
        ) from None
