"""TF Serving's REST interface, as an ASGI application: paths, bodies and statuses; the models answer elsewhere."""

from __future__ import annotations

import asyncio
import gzip
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from serving import rest_json
from serving.batching import Batcher
from serving.limits import Limits
from serving.metrics import Metrics
from serving.model_store import LoadedModel, ModelStore
from serving.request_log import RequestLog
from serving.rest_json import StatusError, invalid_argument

METRICS_PATH = "/monitoring/prometheus/metrics"

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST_PATH = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?-i:(?P<method>classify|regress|predict))", re.I | re.A
)
_GET_PATH = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<method>metadata))?", re.I | re.A)
_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_NOT_FOUND_PAGE = "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"

_JSON, _TEXT, _HTML = b"application/json", b"text/plain; version=0.0.4; charset=utf-8", b"text/html"
_MOST_DIGITS = 1000  # of a version
_LARGE_BODY = 256 * 1024  # bytes; reading these would keep the others waiting
_WORTH_PACKING = 1024  # bytes
_MOST_HELD_BODIES = 16  # of the largest size, in memory at the same time


class _HttpError(Exception):
    """A failure for which TensorFlow has no status code."""

    def __init__(self, status: int, message: str):
        super().__init__(status, message)
        self.status = status
        self.message = message


class _ClientGoneError(Exception):
    """There is nobody to answer."""


class RestApi:
    """The application.

    Args:
        store: The models.
        batcher: Runs them.
        log: Called with a line for each request, and for each failure of the server.
        limits: What a request may cost.
        metrics: What is counted.
        request_log: Where answered requests are written.
        packs_answers: Whether clients that accept gzip get it.

    Attributes:
        is_draining: Whether each answer ends its connection, as the server is about to stop.
    """

    def __init__(
        self,
        store: ModelStore,
        batcher: Batcher,
        *,
        log: Callable[[str], None] | None = None,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        request_log: RequestLog | None = None,
        packs_answers: bool = False,
    ):
        self._store = store
        self._batcher = batcher
        self._log = log
        self._limits = limits or Limits()
        self._metrics = metrics or Metrics()
        self._request_log = request_log
        self._packs_answers = packs_answers
        self._held_bytes = 0
        self.is_draining = False

    async def __call__(self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """Answer one request."""
        start = time.perf_counter()
        path = scope["raw_path"].decode("ascii", "replace")  # as it came, escapes included
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("ascii", "replace")
        headers = dict(scope["headers"])
        try:
            status, kind, body = await self._respond(scope["method"], path, headers, receive)
        except _ClientGoneError:
            return
        answer_headers = [(b"content-type", kind)]
        if self._packs_answers and len(body) > _WORTH_PACKING and b"gzip" in headers.get(b"accept-encoding", b""):
            body = gzip.compress(body, compresslevel=1)
            answer_headers += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
        answer_headers.append((b"content-length", b"%d" % len(body)))
        if status == 503:
            answer_headers.append((b"retry-after", b"1"))
        if self.is_draining:
            answer_headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": answer_headers})
        await send({"type": "http.response.body", "body": body})
        if self._log:
            milliseconds = (time.perf_counter() - start) * 1000
            self._log(f"{time.strftime('%H:%M:%S')} {scope['method']} {path[:1000]} {status} {milliseconds:.1f} ms")

    async def _respond(
        self, method: str, path: str, headers: Mapping[bytes, bytes], receive: Callable[[], Awaitable[Any]]
    ) -> tuple[int, bytes, bytes]:
        if path == METRICS_PATH and method == "GET":
            return 200, _TEXT, self._metrics.page()
        if not re.match("/v1/", path, re.I):
            return 404, _HTML, _NOT_FOUND_PAGE.encode()
        try:
            match = _match(method, path)
            if method == "POST":
                return 200, _JSON, await self._infer(match, headers, receive)
            return 200, _JSON, self._describe(match)
        except StatusError as error:
            return _HTTP_STATUS.get(error.code, 500), _JSON, rest_json.error_body(error.message)
        except _HttpError as error:
            return error.status, _JSON, rest_json.error_body(error.message)
        except (_ClientGoneError, asyncio.CancelledError):
            raise
        except Exception as error:  # the client gets an answer, and the server goes on
            if self._log:
                self._log(f"{type(error).__name__}: {error}")
            return 500, _JSON, rest_json.error_body(f"{type(error).__name__}: {error}")

    def _describe(self, match: re.Match[str]) -> bytes:
        name, version, _ = servable = _servable(match)
        if not name:
            raise invalid_argument("Missing model name in request.")
        if match["method"] == "metadata":
            return _metadata_body(name, self._store.find(*servable))
        return rest_json.json_body({"model_version_status": self._store.statuses(name, version)})

    async def _infer(
        self, match: re.Match[str], headers: Mapping[bytes, bytes], receive: Callable[[], Awaitable[Any]]
    ) -> bytes:
        start = time.perf_counter()
        servable, method, code = _servable(match), match["method"], "OK"
        body = await self._read_body(headers, receive)
        try:
            return await self._answer(method, servable, body)
        except StatusError as error:
            code = error.code
            raise
        finally:
            self._held_bytes -= len(body)
            if servable[0] in self._store.names:
                microseconds = (time.perf_counter() - start) * 1e6
                self._metrics.observe_request(servable[0], method, "REST", code, microseconds)

    async def _answer(self, method: str, servable: tuple[str, int | None, str | None], body: bytes) -> bytes:
        # In this order, so that a request that is wrong in two ways gets the same answer from TF Serving.
        if len(body) > _LARGE_BODY:
            document = await asyncio.to_thread(rest_json.parse_object, body, max_depth=self._limits.max_json_depth)
        else:
            document = rest_json.parse_object(body, max_depth=self._limits.max_json_depth)
        signature_name = rest_json.signature_name(document)
        if method == "predict":
            model = self._store.find(*servable)
            read = rest_json.predict_feeds
            arguments = document, model.input_dtypes(signature_name)
            feeds, is_row = await asyncio.to_thread(read, *arguments) if len(body) > _LARGE_BODY else read(*arguments)
        else:
            examples = rest_json.request_examples(document)
            model = self._store.find(*servable)
            feeds = model.example_feeds(method, signature_name, examples)
        self._limits.check(feeds)
        outputs = await self._batcher.run(model, signature_name, feeds)
        if self._request_log:
            self._request_log.add(model.name, model.version, signature_name, feeds, outputs)
        if method == "predict":
            return rest_json.predict_body(outputs, is_row=is_row)
        if method == "classify":
            return rest_json.classify_body(outputs.get("classes"), outputs.get("scores"))
        return rest_json.regress_body(outputs["outputs"])

    async def _read_body(self, headers: Mapping[bytes, bytes], receive: Callable[[], Awaitable[Any]]) -> bytes:
        """The body, unpacked; its bytes count as held until they are answered."""
        most = self._limits.max_body_bytes
        too_large = _HttpError(413, f"The body is larger than {most} bytes, the most that is read.")
        if int(headers.get(b"content-length", b"0")) > most:
            raise too_large
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGoneError
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    self._held_bytes += len(pieces[-1])
                    if size > most:
                        raise too_large
                    if self._held_bytes > most * _MOST_HELD_BODIES:
                        raise StatusError("UNAVAILABLE", "The bodies of other requests fill the memory for them.")
                    if not message.get("more_body"):
                        break
            body = b"".join(pieces)
            if b"gzip" in headers.get(b"content-encoding", b""):
                unpacked = _unpack(body, most)
                if len(unpacked) > most:
                    raise too_large
                body = unpacked
        except TimeoutError as error:
            self._held_bytes -= size
            raise _HttpError(408, f"The body did not come within {self._limits.body_timeout_s:g} s.") from error
        except BaseException:
            self._held_bytes -= size
            raise
        self._held_bytes += len(body) - size
        return body


def _match(method: str, path: str) -> re.Match[str]:
    pattern = {"GET": _GET_PATH, "POST": _POST_PATH}.get(method)
    match = pattern and pattern.fullmatch(path)
    if not match:
        raise invalid_argument(f"Malformed request: {method} {path}")
    if match["version"] and (len(match["version"]) > _MOST_DIGITS or int(match["version"]) >= 2**63):
        raise invalid_argument(f"Failed to convert version: {match['version']} to numeric.")
    return match


def _servable(match: re.Match[str]) -> tuple[str, int | None, str | None]:
    name, version, label = match.group("name", "version", "label")
    return unquote(name or ""), int(version) if version else None, unquote(label) if label else None


def _unpack(body: bytes, most: int) -> bytes:
    """What was packed by gzip, no more than a byte over `most`; TF Serving goes on with nothing where it is broken."""
    unpacked = b""
    while body and len(unpacked) <= most:
        stream = zlib.decompressobj(wbits=31)
        try:
            unpacked += stream.decompress(body, most + 1 - len(unpacked))
        except zlib.error:
            return b""
        if not stream.eof:
            return unpacked if len(unpacked) > most else b""
        body = stream.unused_data
    return unpacked


def _metadata_body(name: str, model: LoadedModel) -> bytes:
    from google.protobuf import json_format

    signatures = {
        key: json_format.MessageToDict(
            signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for key, signature in model.signatures.items()
    }
    return rest_json.json_body(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(model.version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )
