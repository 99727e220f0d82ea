"""Uvicorn's HTTP, with what it lacks against hostile or broken clients: limits of headers, time and connections.

Parsing, chunks, keep-alive and pipelining are uvicorn's and httptools'. A request that they refuse gets an answer in
the form of the others, and its connection ends in order: what is still coming is read and dropped for a moment, as a
connection that is closed over unread bytes is reset, and the answer may be lost.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving import rest_json
from serving.limits import Limits

# Java's client offers HTTP/2 with each request. Nothing here takes such an offer, and the parser would drop the body.
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_LINGER_S = 2.0  # for what a refused client is still sending


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        limits: What it may cost.
    """

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._in_head = True  # until the headers of a request have come, and again after its body
        self._has_begun = False  # a request, in the bytes that are being parsed
        self._num_body_bytes = 0
        self._num_other_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(503, f"There are {self._limits.max_connections} connections, the most that are served.")
        else:
            self._start_timer(self._limits.header_timeout_s, self._end_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._timer is None and self._in_head:
            self._start_timer(self._limits.header_timeout_s, self._end_head)
        if self._in_head and _UPGRADE.search(data):
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
        self._has_begun = False
        before = self._num_body_bytes
        super().data_received(data)
        if self._has_begun:  # the bytes before it are of others
            self._num_other_bytes = 0
        else:
            self._num_other_bytes += len(data) - (self._num_body_bytes - before)
        # Chunks of few bytes, long extensions and trailers are paid for by the body that they bring.
        if self._num_other_bytes > self._limits.max_header_bytes + 2 * self._num_body_bytes:
            self._refuse(431, f"The headers are larger than {self._limits.max_header_bytes} bytes.")

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more, but may wait for its answer; whether the connection stays for it."""
        cycle = self.cycle
        if cycle is not None and cycle.more_body and not cycle.response_complete:
            self._refuse(400, "The body ends before its announced end.")
        if cycle is None or cycle.response_complete or cycle.disconnected:
            return False
        cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_begun, self._num_body_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer, which nothing here reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and not self.transport.is_closing():  # answered before all of it was read
            if self.expect_100_continue:
                self.transport.close()  # the body may never come
            else:
                self._start_timer(_LINGER_S, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_timer(self._limits.body_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_timer()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the client does not take its answer
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _end_head(self) -> None:
        """The headers have not come in time."""
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timer(self._limits.header_timeout_s, self._end_head)  # first the request before
        elif self._num_other_bytes or self._has_begun:
            self._refuse(408, f"The headers did not come within {self._limits.header_timeout_s:g} s.")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer, drop what else comes, and close."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._stop_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:  # this request is whole: it is the next one that is wrong
                cycle.keep_alive = False
                return
            cycle.disconnected = True  # whoever reads its body stops
            cycle.message_event.set()
        body = rest_json.error_body(message)
        content = [STATUS_LINE[status], b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)]
        if status == 503:
            content.append(b"retry-after: 1\r\n")
        self.transport.write(b"".join([*content, b"connection: close\r\n\r\n", body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._start_timer(_LINGER_S, self.transport.abort)

    def _start_timer(self, seconds: float, end: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
