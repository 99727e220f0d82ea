"""Answered requests as lines of JSON in a file, for `seqrec drift`; written by a thread of its own.

A line holds the time, the model, its version, the signature, the inputs and what was recommended:

    {"time": 1733050000.0, "model": "shop", "version": 3, "signature": "serving_default",
     "inputs": {"history": [["a", "b"]]}, "outputs": {"items": [["c"]], "scores": [[0.5]]}}
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from seqrec_tf.schema import ITEMS, SCORES
from serving import rest_json
from serving.model_store import DEFAULT_SIGNATURE
from serving.rest_json import StatusError

_MOST_WAITING = 4096


class RequestLog:
    """Appends to a file; one that was moved away, as logrotate does, is begun anew.

    Args:
        path: The file.
        share: Share of the requests that are written, chosen by chance.

    Attributes:
        num_dropped: Requests that were not written as the disk was too slow.
    """

    def __init__(self, path: str, *, share: float = 1.0):
        self._share = share
        self._file = logging.handlers.WatchedFileHandler(path, encoding="utf-8", errors="surrogateescape")
        self._waiting: queue.Queue[tuple[Any, ...] | None] = queue.Queue(_MOST_WAITING)
        self.num_dropped = 0
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def add(
        self,
        name: str,
        version: int,
        signature_name: str,
        feeds: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
    ) -> None:
        """Log an answered request, or not, by chance; never waits."""
        if random.random() < self._share:
            try:
                self._waiting.put_nowait((time.time(), name, version, signature_name, feeds, outputs))
            except queue.Full:
                self.num_dropped += 1

    def close(self) -> None:
        """Write what waits, and end."""
        self._waiting.put(None)
        self._thread.join()
        self._file.close()

    def _write(self) -> None:
        while (entry := self._waiting.get()) is not None:
            try:
                self._file.handle(logging.makeLogRecord({"msg": _line(*entry)}))
            except StatusError:  # a dtype that JSON cannot carry, which only gRPC brings
                self.num_dropped += 1


def _line(
    moment: float,
    name: str,
    version: int,
    signature_name: str,
    feeds: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
) -> str:
    document = {
        "time": round(moment, 3),
        "model": name,
        "version": version,
        "signature": signature_name or DEFAULT_SIGNATURE,
        "inputs": {key: rest_json.to_json_value(key, array) for key, array in feeds.items()},
        "outputs": {key: rest_json.to_json_value(key, outputs[key]) for key in (ITEMS, SCORES) if key in outputs},
    }
    return rest_json.json_body(document).decode("utf-8", "surrogateescape")
