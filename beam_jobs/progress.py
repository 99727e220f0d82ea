"""What is shown while a job runs: one line, which moves on a terminal."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence

# How readers and writers say what they did, to whoever watches. Those in other processes are not heard.
READ_SOME, READ_ALL = "reading %s: %d lines, %d bytes", "read %s: %d lines, %d bytes"
WRITTEN = "wrote %s: %d records"
_READ = re.compile(r"(reading|read) .*: (\d+) lines, (\d+) bytes")
_WRITTEN = re.compile(r"wrote .*: (\d+) records")
_SECONDS_BETWEEN, _SECONDS_BETWEEN_LINES = 0.2, 60.0
_CLEAR = "\r\x1b[K"


class Progress(logging.Handler):
    """Follows the messages of readers and writers, and shows where they are.

    Args:
        paths: The files to read.
        num_ranges: In how many pieces.
        num_bytes: Their size; 0 where the pieces do not say what of it they are.
    """

    def __init__(self, paths: Sequence[str], num_ranges: int, num_bytes: int):
        super().__init__()
        self._paths = paths
        self._ranges_left = num_ranges
        self._num_bytes = num_bytes
        self._is_terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._lines = self._bytes = self._files_written = self._records = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take one message; others are not shown."""
        text = record.getMessage()
        if read := _READ.search(text):
            self._lines += int(read[2])
            self._bytes += int(read[3])
            self._ranges_left -= read[1] == "read"
            if read[1] == "read" and not self._ranges_left:
                sys.stderr.write(f"{_CLEAR if self._is_terminal else ''}{self._done()}\n")
                self._shown = 0.0 if self._is_terminal else time.monotonic()
                return
            self._show(self._reading())
        elif written := _WRITTEN.search(text):
            self._files_written += 1
            self._records += int(written[1])
            self._show(f"writing: {self._records:,} records in {self._files_written:,} files")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._is_terminal:
            sys.stderr.write(_CLEAR)
        super().close()

    def _show(self, text: str) -> None:
        """Show where the job is: on a terminal in place, elsewhere a line a minute."""
        now = time.monotonic()
        if now - self._shown < (_SECONDS_BETWEEN if self._is_terminal else _SECONDS_BETWEEN_LINES):
            return
        self._shown = now
        sys.stderr.write(f"{_CLEAR}{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()

    def _reading(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        text = f"reading: {self._lines:,} lines, {self._lines / seconds:,.0f} a second"
        if self._num_bytes and self._bytes:
            share = min(self._bytes / self._num_bytes, 1.0)
            text += f", {share:.0%}, {seconds / share - seconds:,.0f} s left"
        return text

    def _done(self) -> str:
        more = len(self._paths) - 1
        files = self._paths[0] + (f" and {more:,} more file{'s' if more > 1 else ''}" if more else "")
        return f"read {files}: {self._lines:,} lines in {time.monotonic() - self._started:.1f} s"


@contextlib.contextmanager
def shown(handler: logging.Handler) -> Iterator[None]:
    """Show what readers and writers say, not what Beam says of its stages: their errors come as exceptions, too."""
    root, ours = logging.getLogger(), logging.getLogger("beam_jobs")
    levels = root.level, ours.level
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Beam warns there that it cannot tell the memory of its model.
    others = root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = others
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        handler.close()
