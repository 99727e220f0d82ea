"""Where tables lie between two steps that Beam does not run as one."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pickle
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_jobs.counting import NAMESPACE, SHUFFLE
from beam_jobs.tables import string_buffers


@dataclasses.dataclass(frozen=True)
class Stored:
    """A table that lies somewhere: its bytes, or the file that has them."""

    where: bytes | str


class Store:
    """Where tables lie between two steps.

    A runner that is spread over machines moves them itself, so their bytes, compressed, are what is handed on. A local
    one would hold all of them in memory, so there they lie in files, and only the files' names are handed on.

    Args:
        folder: A folder of this machine for the files; None where the bytes are handed on.
    """

    def __init__(self, folder: str | None = None):
        self._folder = folder

    def put(self, table: Any) -> Stored:
        """Lay a table down."""
        with _clock():
            return self._put(table)

    def _put(self, table: Any) -> Stored:
        stream = io.BytesIO()
        _Pickler(stream, 5).dump(table)
        if self._folder is None:
            return Stored(pa.compress(stream.getbuffer(), "zstd", asbytes=True) + stream.tell().to_bytes(8, "big"))
        path = os.path.join(self._folder, uuid.uuid4().hex)
        try:
            with open(path, "wb") as file:
                file.write(stream.getbuffer())
        except OSError as error:
            raise RuntimeError(
                f"Tables between two steps are kept in {self._folder}, and that cannot be written: {error.strerror}."
            ) from None
        return Stored(path)

    def take(self, stored: Any) -> Any:
        """Pick a table up, once: it is not there any more. One that was handed on as it is, is given as it is."""
        if not isinstance(stored, Stored):
            return stored
        with _clock():
            return self._take(stored)

    def _take(self, stored: Stored) -> Any:
        if isinstance(stored.where, bytes):
            size = int.from_bytes(stored.where[-8:], "big")
            return pickle.loads(pa.decompress(stored.where[:-8], size, "zstd"))
        with open(stored.where, "rb") as file:
            table = pickle.load(file)
        os.remove(stored.where)
        return table


@contextlib.contextmanager
def _clock() -> Iterator[None]:
    started = time.perf_counter_ns()
    yield
    Metrics.counter(NAMESPACE, SHUFFLE).inc(time.perf_counter_ns() - started)


class _Pickler(pickle.Pickler):
    """Pickles numbers in as few bytes as they need, and of strings cut from a longer array those alone."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is np.ndarray and value.ndim == 1 and len(value):
            least, most = value.min(), value.max()
            if least == most:
                return _repeated, (least, len(value))
            if value.dtype == np.int64:
                dtype = np.min_scalar_type(int(most) - int(least))
                if dtype.itemsize < 8:
                    return _widened, (int(least), (value - least).astype(dtype))
        if type(value) is pa.StringArray and not value.null_count:
            offsets, data = string_buffers(value)
            return _strings, (np.diff(offsets), data)
        return NotImplemented


def _repeated(value: Any, number: int) -> np.ndarray:
    return np.full(number, value)


def _widened(least: int, differences: np.ndarray) -> np.ndarray:
    return differences.astype(np.int64) + least


def _strings(lengths: np.ndarray, data: np.ndarray) -> pa.StringArray:
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(data))
