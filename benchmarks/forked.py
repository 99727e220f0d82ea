"""Commands of `seqrec` in forks of this process, which have its imports already, and can be killed at any moment."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable

from seqrec_tf import cli


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended: `status` is negative where a signal killed it."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def sentence(self) -> str:
        """The line that says why; of `check`, the first about a file."""
        said = [line for line in self.err.split("\n") if line.startswith("seqrec ")]
        return (said or [line.strip() for line in self.out.split("\n") if line.startswith("  ")] or [""])[-1]


def call(command: str, *, kill_after: float | None = None, before: Callable[[], object] | None = None) -> Outcome:
    """Run a command of `seqrec` in a process of its own, and kill it after some seconds if it still runs then."""
    process = Running(command, before=before)
    while kill_after is not None and process.seconds < kill_after and not process.has_ended:
        time.sleep(0.002)
    if kill_after is not None and not process.has_ended:
        os.kill(process.pid, signal.SIGKILL)
    return process.outcome()


class Running:
    """A command that runs in a fork of this process.

    Args:
        command: Without the `seqrec`.
        before: What the fork does first.
    """

    def __init__(self, command: str, *, before: Callable[[], object] | None = None):
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - closed with the outcome
        self._started, self._status = time.monotonic(), None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            for file, number in zip(self._files, (1, 2), strict=True):
                os.dup2(file.fileno(), number)
            status = 70
            try:
                if before:
                    before()
                status = cli.main(shlex.split(command))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def outcome(self) -> Outcome:
        """How it ended, once it has."""
        while not self.has_ended:
            time.sleep(0.01)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return Outcome(self._status or 0, *texts, self.seconds)


def in_fork(function: Callable[..., object], *args) -> None:
    """Do something with TensorFlow, whose runtime may not be started before a fork."""
    pid = os.fork()
    if not pid:
        try:
            function(*args)
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{function.__name__} failed for {args}.")
