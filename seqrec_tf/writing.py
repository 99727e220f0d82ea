"""Writing: one process a folder, files that are whole or not there, and one error where the disk refuses.

Only the standard library is imported here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator

# Held in a folder while it is written. One that a killed process has left is nobody's, and is taken over.
LOCK_FILE = ".lock"

# What a disk says when it takes no more, and when it takes nothing.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


def write_whole(path: pathlib.Path, text: str) -> None:
    """Write a text file beside its name and rename it, so that it is never half there."""
    partial = path.with_name(path.name + ".partial")
    try:
        with naming(path):
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Where a disk is full or read-only, whatever library says it, an OSError that names the path."""
    try:
        yield
    except Exception as error:
        number = trouble(error)
        if number not in (*FULL, errno.EROFS) or getattr(error, "filename", None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def trouble(error: BaseException) -> int | None:
    """Which of FULL and REFUSED an error tells of, by its number or, of libraries, its words; None of any other."""
    if isinstance(error, OSError) and error.errno in (*FULL, *REFUSED):
        return error.errno
    text = str(error)
    return next((number for number in (*FULL, *REFUSED) if os.strerror(number) in text), None)


@contextlib.contextmanager
def only_writer(lock: str | os.PathLike, written: str) -> Iterator[None]:
    """Hold a lock file, which nobody else holds then; the system frees it when this process ends, however it does.

    Folders that are made for it are removed afterwards where they are still empty.

    Args:
        lock: The file: LOCK_FILE in a folder that is written, or beside one that gets its name at the end.
        written: The folder that is written, for the error of another process.

    Raises:
        FileExistsError: Another process holds it.
    """
    lock = pathlib.Path(lock)
    made = _make_folders(lock.parent)
    try:
        stream = _acquire(lock, written)
        try:
            yield
        finally:
            if _is_at(stream, lock):
                lock.unlink()
            stream.close()
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty, as it should be
                folder.rmdir()


def _make_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Make a folder with those above it; gives those that were not there, the lowest first."""
    missing = []
    for above in (folder, *folder.parents):
        if above.exists():
            break
        missing.append(above)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(lock: pathlib.Path, written: str):
    while True:
        stream = open(lock, "a+", encoding="utf-8")  # noqa: SIM115 - the caller closes it
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "another one"
            stream.close()
            raise FileExistsError(
                f"{written} is being written by another process ({holder}). Wait until it has ended, or choose another "
                "folder."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            sys.stderr.write(f"{lock.parent} takes no locks: see to it that no other process writes {written}.\n")
        if _is_at(stream, lock):  # else its last holder has just removed it
            break
        stream.close()
    stream.truncate(0)
    try:
        with naming(lock):
            stream.write(f"process {os.getpid()} of {socket.gethostname()}, since {time.strftime('%F %T')}")
            stream.flush()
    except OSError:
        lock.unlink()
        raise
    return stream


def _is_at(stream, path: pathlib.Path) -> bool:
    """Whether an open file is still what has this path."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
