"""SIGTERM while a model is trained: the step is finished, what is needed to go on is saved, and the command ends.

Schedulers of jobs send it some seconds before they kill. A second SIGTERM ends the process at once.
"""

from __future__ import annotations

import signal
import threading


class TrainingStoppedError(RuntimeError):
    """Training was stopped from outside, and saved: the same command goes on."""

    exit_status = 143  # 128 and the number of SIGTERM, as shells say


class StopRequest:
    """Notes SIGTERM while it is entered, in the main thread; elsewhere signals cannot be had, and nothing is noted."""

    def __init__(self):
        self.is_asked = False

    def __enter__(self) -> StopRequest:
        self._is_installed = threading.current_thread() is threading.main_thread()
        if self._is_installed:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_error) -> None:
        if self._is_installed:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, _number, _frame) -> None:
        self.is_asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
