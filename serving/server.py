"""A local REST server for development, with the contract of TF Serving's.

MODELS holds NAME/VERSION/ SavedModel folders, VERSION an integer; the newest version of each model is served, and a
newer one takes over when it appears. Status, metadata, predict, classify, regress and errors follow the sources of TF
Serving 2.20, so that a client written against this server works in production. What it lacks is in serving/README.md,
as is production itself, which uses TF Serving.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shlex
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from seqrec_tf.messages import next_command
from serving import rest_json
from serving.model_store import DEFAULT_SIGNATURE, LoadedModel, ModelStore, check_models
from serving.rest_json import StatusError, invalid_argument

_POLL_PERIOD_S = 2.0
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


NEEDS_TENSORFLOW = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `seqrec serve`."""
    parser.add_argument("--models", required=True, help="folder with NAME/VERSION/ SavedModel folders")
    parser.add_argument("--port", type=int, default=8501, help="port to listen on (default %(default)s; 0 picks one)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine only)"
    )


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, as far as it can be told without TensorFlow."""
    check_models(args.models)
    if not 0 <= args.port < 2**16:
        raise ValueError(f"--port must be from 0 to 65535, got {args.port}.")


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted."""
    store = ModelStore(args.models, report=_write_line)
    with listen(args.host, args.port) as listener:
        store.poll()
        if not store.models:
            raise ValueError(store.why_nothing_is_served())
        server = make_http_server(RestApi(store, log=_write_line), listener)
    stop = threading.Event()
    threading.Thread(target=store.watch, kwargs={"period_s": _POLL_PERIOD_S, "stop": stop}, daemon=True).start()
    url = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{server.port}"
    sys.stdout.write(f"Serving {', '.join(sorted(store.models))} at {url} until interrupted. Try:\n")
    for name, model in sorted(store.models.items()):
        sys.stdout.write(f"  {example_curl(url, name, model)}\n")
    sys.stdout.write(next_command("recommend", "--url", url, "--model", min(store.models), "--history", "A,B,C"))
    sys.stdout.flush()
    server.serve_forever()
    stop.set()


def _write_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: The address is not free, or not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", error)).partition(" (")[0]  # without the address, which Python adds
        raise ValueError(f"Cannot listen on {host} port {port}: {reason}. Choose another with --port.") from error


class _QuietHandler(WSGIRequestHandler):
    """The HTTP layer without an access log of its own: RestApi writes a better one."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def make_http_server(app: RestApi, listener: socket.socket) -> BaseWSGIServer:
    """A server of one thread a request, on a socket that listens already."""
    host, port = listener.getsockname()[:2]
    return make_server(host, port, app, threaded=True, request_handler=_QuietHandler, fd=listener.fileno())


class RestApi:
    """TF Serving's REST interface as a WSGI application.

    Args:
        store: The models.
        log: Called with a line for each request.
    """

    def __init__(self, store: ModelStore, *, log: Callable[[str], None]):
        self._store = store
        self._log = log

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        start = time.perf_counter()
        request = Request(environ)
        path = environ.get("REQUEST_URI", request.path).partition("?")[0]  # as it came, escapes included
        response = self._respond(request, path)
        milliseconds = (time.perf_counter() - start) * 1000
        self._log(f"{time.strftime('%H:%M:%S')} {request.method} {path} {response.status_code} {milliseconds:.1f} ms")
        return response(environ, start_response)

    def _respond(self, request: Request, path: str) -> Response:
        if not re.match("/v1/", path, re.I):
            return Response(_NOT_FOUND_PAGE, status=404, content_type="text/html")
        try:
            status, body = 200, self._answer(request, path)
        except StatusError as error:
            status, body = _HTTP_STATUS.get(error.code, 500), rest_json.error_body(error.message)
        except Exception as error:  # the client gets an answer, and the server goes on
            self._log(f"{type(error).__name__}: {error}")
            status, body = 500, rest_json.error_body(f"{type(error).__name__}: {error}")
        return Response(body, status=status, content_type="application/json")

    def _answer(self, request: Request, path: str) -> bytes:
        pattern = {"GET": _GET_PATH, "POST": _POST_PATH}.get(request.method)
        match = pattern and pattern.fullmatch(path)
        if not match:
            raise invalid_argument(f"Malformed request: {request.method} {path}")
        name, version, label, method = match.group("name", "version", "label", "method")
        if version is not None and int(version) >= 2**63:
            raise invalid_argument(f"Failed to convert version: {version} to numeric.")
        name = unquote(name or "")
        servable = (name, int(version) if version else None, unquote(label) if label else None)
        if request.method == "POST":
            return self._infer(method, servable, _read_body(request))
        if not name:
            raise invalid_argument("Missing model name in request.")
        if method == "metadata":
            return _metadata_body(name, self._store.find(*servable))
        return rest_json.json_body({"model_version_status": self._store.statuses(*servable[:2])})

    def _infer(self, method: str, servable: tuple[str, int | None, str | None], body: bytes) -> bytes:
        # In this order, so that a request that is wrong in two ways gets the same answer from TF Serving.
        document = rest_json.parse_object(body)
        signature_name = rest_json.signature_name(document)
        if method == "predict":
            model = self._store.find(*servable)
            feeds, is_row = rest_json.predict_feeds(document, model.input_dtypes(signature_name))
            return rest_json.predict_body(model.predict(signature_name, feeds), is_row=is_row)
        examples = rest_json.request_examples(document)
        outputs = self._store.find(*servable).run_examples(method, signature_name, examples)
        if method == "classify":
            return rest_json.classify_body(outputs.get("classes"), outputs.get("scores"))
        return rest_json.regress_body(outputs["outputs"])


def _read_body(request: Request) -> bytes:
    body = request.get_data()
    if "gzip" not in request.headers.get("Content-Encoding", ""):
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        return b""  # TF Serving goes on with an empty body


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


def example_curl(url: str, name: str, model: LoadedModel) -> str:
    """A command line that asks a model something, from its warm-up requests or else its signature."""
    signature = model.signatures.get(DEFAULT_SIGNATURE)
    if signature is None or not signature.inputs:
        return f"curl {url}/v1/models/{name}/metadata"
    dtypes = model.input_dtypes(DEFAULT_SIGNATURE)
    row = {}
    for key, info in signature.inputs.items():
        sizes = [dim.size for dim in info.tensor_shape.dim[1:]]  # without the batch
        if key in model.example:
            value = rest_json.to_json_value(key, model.example[key][:1])[0]
            while sizes == [-1] and len(value) > 1 and value[-1] == "":  # padding says nothing
                value.pop()
        else:
            value = {"string": "a", "bool": True}.get(dtypes[key], 1)
            for size in reversed(sizes):
                value = [value] * max(size, 1)
        row[key] = value
    instance = row if len(row) > 1 else next(iter(row.values()))
    body = rest_json.json_body({"instances": [instance]}).decode("utf-8", "replace")
    return f"curl -d {shlex.quote(body)} {url}/v1/models/{name}:predict"
