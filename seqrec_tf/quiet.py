"""TensorFlow without its start-up chatter."""

from __future__ import annotations

import contextlib
import os
import subprocess
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


# Copies lines to stdout but those of logged errors of some source files, with the lines that go on with them.
_FILTER = r"""
import re, sys
is_dropped = False
for line in sys.stdin.buffer:
    if re.match(rb"[IWEF]\d{4} ", line):
        is_dropped = re.match(rb"E.* (" + sys.argv[1].encode() + rb")\.cc:", line)
    if not is_dropped:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


@contextlib.contextmanager
def stderr_without_errors_of(files: str):
    """While this lasts, what C++ logs to stderr goes through a process that leaves out errors of some source files.

    No log level reaches them. A process, and no thread, so that what TensorFlow says before it aborts is not lost.

    Args:
        files: Their names without `.cc`, as a regular expression.
    """
    sys.stderr.flush()
    stderr, ours = os.dup(2), sys.stderr
    command = [sys.executable, "-S", "-c", _FILTER, files]
    # In a session of its own, as Ctrl-C is for this process: the other one ends with it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, start_new_session=True) as process:
        pipe = process.stdin.fileno()  # type: ignore[union-attr]
        sys.stderr = os.fdopen(os.dup(stderr), "w", buffering=1)  # of Python nothing is left out
        os.dup2(pipe, 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            sys.stderr.close()
            sys.stderr = ours


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up chatter (CPU features, CUDA probing), which no log level reaches.

    It is written by C++ before logging is set up, so the descriptor of stderr points elsewhere meanwhile.
    """
    with stderr_to_nowhere():
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.list_physical_devices()
