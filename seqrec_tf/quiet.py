"""TensorFlow without its start-up chatter."""

from __future__ import annotations

import contextlib
import os
import sys


@contextlib.contextmanager
def stderr_to_nowhere():
    """While this lasts, what even C++ writes to stderr is lost. An exception still says what went wrong."""
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up chatter (CPU features, CUDA probing), which no log level reaches.

    It is written by C++ before logging is set up, so the descriptor of stderr points elsewhere meanwhile.
    """
    with stderr_to_nowhere():
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.list_physical_devices()
