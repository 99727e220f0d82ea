"""Requests of many connections, answered together: one call of the model for what waits while the one before runs.

No request waits for others to come, unless `--batch-timeout-us` asks for it: a batch is what has queued up while the
model was busy. So a single user pays nothing, and under load, where one product of matrices answers 64 rows in the time
of ten, batches grow by themselves.

A request joins those of the same model, version and signature whose rows have its shape, or can be padded to it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.model_store import DEFAULT_SIGNATURE, LoadedModel
from serving.rest_json import StatusError, invalid_argument

# Rows of one call are fewer where lists are longer than this, as some models need length * length numbers a row.
_LENGTH_OF_FULL_BATCH = 256
_SHORTEST_LENGTH = 64


@dataclasses.dataclass(eq=False, slots=True)
class _Waiting:
    """A request in the queue: what to run, and where its answer goes."""

    model: LoadedModel
    signature_name: str
    feeds: Mapping[str, np.ndarray]
    num_rows: int
    most_rows: int  # of one call
    padding: Mapping[str, Any]
    answer: asyncio.Future[dict[str, np.ndarray]]
    since: float  # time.perf_counter() when it came
    is_running: bool = False


class Batcher:
    """A queue of requests, and the threads that answer them. `run` is called on an event loop.

    Args:
        max_batch_size: Most rows of one call of a model. Larger requests are answered in several.
        batch_timeout_us: Microseconds that a batch which is not full waits for more, 0 for none.
        num_threads: Calls at the same time.
        max_queued_rows: Rows that may wait; who comes then is refused.
        timeout_s: Seconds after which a request is given up.
        observe: Called with the name of the model and the microseconds of each call.
        observe_wait: Called with the microseconds that each request has waited for its call.
    """

    def __init__(
        self,
        *,
        max_batch_size: int = 64,
        batch_timeout_us: int = 0,
        num_threads: int = 2,
        max_queued_rows: int = 4096,
        timeout_s: float = 30.0,
        observe: Callable[[str, float], None] = lambda name, microseconds: None,
        observe_wait: Callable[[float], None] = lambda microseconds: None,
    ):
        self._max_batch_size = max_batch_size
        self._batch_timeout_s = batch_timeout_us / 1e6
        self._max_queued_rows = max_queued_rows
        self._timeout_s = timeout_s
        self._observe = observe
        self._observe_wait = observe_wait
        self._queues: dict[Any, list[_Waiting]] = {}  # by what can be answered together, the oldest first
        self._queued_rows = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    async def run(
        self, model: LoadedModel, signature_name: str, feeds: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """What `LoadedModel.predict` returns.

        Raises:
            StatusError: Its errors; UNAVAILABLE where too many wait, RESOURCE_EXHAUSTED or DEADLINE_EXCEEDED where an
                answer has not begun or not come in time.
        """
        waiting, key = self._waiting(model, signature_name, feeds)
        with self._changed:
            if self._is_closed or (self._queued_rows and self._queued_rows + waiting.num_rows > self._max_queued_rows):
                raise StatusError("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full")
            self._queued_rows += waiting.num_rows
            self._queues.setdefault(key, []).append(waiting)
            self._changed.notify()
        timer = asyncio.get_running_loop().call_later(self._timeout_s, self._give_up, waiting)
        try:
            return await waiting.answer
        finally:
            timer.cancel()

    def _give_up(self, waiting: _Waiting) -> None:
        code = "DEADLINE_EXCEEDED" if waiting.is_running else "RESOURCE_EXHAUSTED"
        _deliver([(waiting, StatusError(code, f"There was no answer within {self._timeout_s:g} s"))])

    def _waiting(
        self, model: LoadedModel, signature_name: str, feeds: Mapping[str, np.ndarray]
    ) -> tuple[_Waiting, Any]:
        """A request, and the key of those that it can be answered with."""
        num_rows = {len(array) if array.ndim else -1 for array in feeds.values()}
        answer = asyncio.get_running_loop().create_future()
        rows = max(num_rows)
        if len(num_rows) > 1 or rows < 1 or not model.is_batchable(signature_name):
            whole = max(rows, 1)
            return _Waiting(model, signature_name, feeds, whole, whole, {}, answer, time.perf_counter()), answer
        padding = model.padding(signature_name)
        signature_name = signature_name or DEFAULT_SIGNATURE
        longest = max((feeds[name].shape[1] for name in padding if feeds[name].ndim == 2), default=1)
        length = max(_SHORTEST_LENGTH, 1 << (longest - 1).bit_length())  # short rows do not pay for much longer ones
        shapes = tuple(
            (name, length if name in padding and array.ndim == 2 else array.shape[1:]) for name, array in feeds.items()
        )
        most_rows = max(1, min(self._max_batch_size, self._max_batch_size * _LENGTH_OF_FULL_BATCH // length))
        waiting = _Waiting(model, signature_name, feeds, rows, most_rows, padding, answer, time.perf_counter())
        return waiting, (id(model), signature_name, tuple(sorted(shapes)))

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            answers: list[tuple[_Waiting, Any]] = []
            self._answer(batch, answers)
            for loop in {waiting.answer.get_loop() for waiting in batch}:
                of_loop = [pair for pair in answers if pair[0].answer.get_loop() is loop]
                try:
                    loop.call_soon_threadsafe(_deliver, of_loop)
                except RuntimeError:  # the loop has ended, and with it who asked
                    continue

    def _take(self) -> list[_Waiting] | None:
        """The next batch, of those that have waited longest; None at the end."""
        with self._changed:
            while not self._queues:
                if self._is_closed:
                    return None
                self._changed.wait()
            key = next(iter(self._queues))
            if self._batch_timeout_s:
                until = time.monotonic() + self._batch_timeout_s
                while key in self._queues and not self._is_full(key) and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                if key not in self._queues:
                    return []
            queue = self._queues.pop(key)
            count, num_rows = 1, queue[0].num_rows
            while count < len(queue) and num_rows + queue[count].num_rows <= queue[0].most_rows:
                num_rows += queue[count].num_rows
                count += 1
            batch, left_over = queue[:count], queue[count:]
            if left_over:
                self._queues[key] = left_over  # at the end, after those of other models
                self._changed.notify()
            self._queued_rows -= num_rows
        now = time.perf_counter()
        for waiting in batch:
            waiting.is_running = True
            self._observe_wait((now - waiting.since) * 1e6)
        return [waiting for waiting in batch if not waiting.answer.done()]

    def _is_full(self, key: Any) -> bool:
        queue = self._queues[key]
        return sum(waiting.num_rows for waiting in queue) >= queue[0].most_rows

    def _answer(self, batch: Sequence[_Waiting], answers: list[tuple[_Waiting, Any]]) -> None:
        """Append each request with its outputs or its error; where one fails, the halves are tried by themselves."""
        if not batch:
            return
        try:
            outputs = self._call(batch)
        except Exception as error:
            is_late = isinstance(error, StatusError) and error.code == "DEADLINE_EXCEEDED"
            if len(batch) == 1 or is_late:
                answers += [(waiting, error) for waiting in batch]
                return
            middle = len(batch) // 2
            self._answer(batch[:middle], answers)
            self._answer(batch[middle:], answers)
            return
        start = 0
        for waiting in batch:
            end = start + waiting.num_rows
            whole = len(batch) == 1
            answers.append((waiting, outputs if whole else {name: array[start:end] for name, array in outputs.items()}))
            start = end

    def _call(self, batch: Sequence[_Waiting]) -> dict[str, np.ndarray]:
        first = batch[0]
        num_rows = sum(waiting.num_rows for waiting in batch)
        feeds = first.feeds if len(batch) == 1 else _joined(batch)
        pieces = []
        for start in range(0, num_rows, first.most_rows):
            piece = feeds
            if num_rows > first.most_rows:
                piece = {name: array[start : start + first.most_rows] for name, array in feeds.items()}
            started = time.perf_counter()
            pieces.append(first.model.predict(first.signature_name, piece))
            self._observe(first.model.name, (time.perf_counter() - started) * 1e6)
        outputs = pieces[0]
        if len(pieces) > 1:
            outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in outputs}
        if len(batch) > 1 and any(len(array) != num_rows for array in outputs.values()):
            raise invalid_argument("The model gives another number of rows than it was given")
        return outputs

    def close(self) -> None:
        """Answer what waits, and end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()


def _joined(batch: Sequence[_Waiting]) -> dict[str, np.ndarray]:
    """The rows of all requests, by the name of the input; lists that may be padded are, to the longest."""
    joined = {}
    for name in batch[0].feeds:
        arrays = [waiting.feeds[name] for waiting in batch]
        if name in batch[0].padding and arrays[0].ndim == 2:
            length = max(array.shape[1] for array in arrays)
            joined[name] = np.full([sum(map(len, arrays)), length], batch[0].padding[name], dtype=arrays[0].dtype)
            start = 0
            for array in arrays:
                joined[name][start : start + len(array), : array.shape[1]] = array
                start += len(array)
        else:
            joined[name] = np.concatenate(arrays)
    return joined


def _deliver(answers: Sequence[tuple[_Waiting, Any]]) -> None:
    for waiting, outcome in answers:
        if not waiting.answer.done():
            if isinstance(outcome, Exception):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)
