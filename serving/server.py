"""A REST and gRPC server with the contract of TF Serving's, for one machine.

MODELS holds NAME/VERSION/ SavedModel folders, VERSION an integer; the newest version of each model is served, and a
newer one takes over when it appears. With --model-config, a text file of TF Serving's `ModelServerConfig`, other
versions and labels are. Status, metadata, predict, classify, regress, metrics and errors follow the sources of TF
Serving 2.20, so that a client written against this server works with the other. SIGTERM ends it in order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import logging
import pathlib
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvicorn

from seqrec_tf.config import check_at_least
from seqrec_tf.messages import next_command
from serving import rest_json
from serving.batching import Batcher
from serving.http_protocol import LimitedProtocol
from serving.limits import Limits
from serving.metrics import Metrics
from serving.model_store import DEFAULT_SIGNATURE, LoadedModel, ModelStore, check_models
from serving.request_log import RequestLog
from serving.rest_api import RestApi

NEEDS_TENSORFLOW = True
_POLL_PERIOD_S = 2.0
_SWITCH_INTERVAL_S = 0.0005  # Python's 5 ms would keep a model's thread from its next call so long
_DRAIN_S = 1.0  # in which connections without a request may still send one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `seqrec serve`."""
    parser.add_argument("--models", required=True, help="folder with NAME/VERSION/ SavedModel folders")
    parser.add_argument(
        "--model-config",
        metavar="FILE",
        help="text file of TF Serving's ModelServerConfig: versions and labels; read again when it changes",
    )
    parser.add_argument("--port", type=int, default=8501, help="port to listen on (default %(default)s; 0 picks one)")
    parser.add_argument("--grpc-port", type=int, help="port of gRPC; without it there is none")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine only)"
    )
    batching = parser.add_argument_group("batching across requests")
    batching.add_argument(
        "--max-batch-size",
        type=int,
        default=64,
        help="most rows of one call of a model (default %(default)s; 1 answers each row by itself)",
    )
    batching.add_argument(
        "--batch-timeout-us",
        type=int,
        default=0,
        help="microseconds that a batch which is not full waits for more (default %(default)s)",
    )
    batching.add_argument(
        "--num-batch-threads", type=int, default=2, help="calls of models at the same time (default %(default)s)"
    )
    batching.add_argument(
        "--max-queued-rows",
        type=int,
        default=4096,
        help="rows that may wait; more are answered 503 (default %(default)s)",
    )
    batching.add_argument(
        "--timeout-s",
        type=float,
        default=30.0,
        help="seconds after which a request is given up, 504, or 429 where it has not begun (default %(default)s)",
    )
    limits = parser.add_argument_group("limits")
    for field in dataclasses.fields(Limits):
        option, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        limits.add_argument(
            option, type=type(field.default), default=field.default, help=f"{text} (default %(default)s)"
        )
    parser.add_argument(
        "--shutdown-timeout-s",
        type=float,
        default=30.0,
        help="seconds for what is in flight when SIGTERM comes (default %(default)s)",
    )
    parser.add_argument(
        "--gzip-answers",
        action="store_true",
        help="pack answers for clients that accept gzip, which TF Serving does not",
    )
    parser.add_argument("--access-log", action="store_true", help="write a line for each request to stderr")
    parser.add_argument(
        "--log-requests", metavar="FILE", help="append answered requests as lines of JSON, for `seqrec drift`"
    )
    parser.add_argument(
        "--log-share",
        type=float,
        default=1.0,
        help="share of the requests that --log-requests writes (default %(default)s)",
    )


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, as far as it can be told without TensorFlow."""
    check_models(args.models)
    if not 0 <= args.port < 2**16:
        raise ValueError(f"--port must be from 0 to 65535, got {args.port}.")
    if args.model_config and not pathlib.Path(args.model_config).is_file():
        raise FileNotFoundError(f"--model-config must name a file, {args.model_config} is none.")
    at_least = {field.name: 1 for field in dataclasses.fields(Limits)} | dict.fromkeys(
        ("max_batch_size", "num_batch_threads", "max_queued_rows"), 1
    )
    for name in ("header_timeout_s", "body_timeout_s", "keep_alive_timeout_s", "timeout_s", "shutdown_timeout_s"):
        at_least[name] = 0
    for name, least in (at_least | {"batch_timeout_us": 0, "log_share": 0}).items():
        check_at_least(f"--{name.replace('_', '-')}", getattr(args, name), least)
    if args.log_share > 1:
        raise ValueError(f"--log-share must be at most 1, got {args.log_share}.")


def run(args: argparse.Namespace) -> None:
    """Serve until SIGTERM, or until interrupted."""
    limits = Limits(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Limits)})
    request_log = RequestLog(args.log_requests, share=args.log_share) if args.log_requests else None
    store = ModelStore(args.models, report=_write_line, config_file=args.model_config, timeout_s=args.timeout_s)
    listener = listen(args.host, args.port)
    store.poll()
    if not store.models:
        raise ValueError(store.why_nothing_is_served())
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    batching = {
        name: getattr(args, name) for name in ("max_batch_size", "batch_timeout_us", "max_queued_rows", "timeout_s")
    }
    server = Server(
        store,
        listener,
        limits=limits,
        batching=batching | {"num_threads": args.num_batch_threads},
        request_log=request_log,
        log=_write_line if args.access_log else None,
        packs_answers=args.gzip_answers,
        grpc_address=f"{_bracketed(args.host)}:{args.grpc_port}" if args.grpc_port is not None else None,
        shutdown_timeout_s=args.shutdown_timeout_s,
    )
    server.on_start = functools.partial(_say_what_is_served, server, store, args.host)
    server.run()


def _say_what_is_served(server: Server, store: ModelStore, host: str) -> None:
    url = f"http://{_bracketed(host)}:{server.port}"
    sys.stdout.write(f"Serving {', '.join(sorted(store.models))} at {url} until interrupted. Try:\n")
    for name, model in sorted(store.models.items()):
        sys.stdout.write(f"  {example_curl(url, name, model)}\n")
    sys.stdout.write(next_command("recommend", "--url", url, "--model", min(store.models), "--history", "A,B,C"))
    sys.stdout.flush()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _write_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def listen(host: str, port: int) -> socket.socket:
    """A socket that has its address; clients are refused until the server listens, when the models are loaded.

    Raises:
        ValueError: The address is not free, or not this machine's.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = str(getattr(error, "strerror", None) or error).removeprefix("bind(): ")
        raise ValueError(f"Cannot listen on {host} port {port}: {reason}. Choose another with --port.") from error
    return listener


class Server(uvicorn.Server):
    """The models of a store, over REST and gRPC.

    Args:
        store: The models; polled while the server runs.
        listener: A socket that has its address.
        limits: What a request may cost.
        batching: Options of `Batcher`.
        request_log: Where answered requests are written.
        log: Called with a line for each request.
        packs_answers: Whether clients that accept gzip get it.
        grpc_address: HOST:PORT, None for no gRPC.
        shutdown_timeout_s: Seconds for what is in flight at the end.

    Attributes:
        port: At which it listens.
        grpc_port: So for gRPC, once it runs.
        on_start: Called when it listens.
    """

    def __init__(
        self,
        store: ModelStore,
        listener: socket.socket,
        *,
        limits: Limits | None = None,
        batching: Mapping[str, Any] | None = None,
        request_log: RequestLog | None = None,
        log: Callable[[str], None] | None = None,
        packs_answers: bool = False,
        grpc_address: str | None = None,
        shutdown_timeout_s: float = 30.0,
    ):
        self._store, self._listener, self._request_log = store, listener, request_log
        self._limits = limits or Limits()
        self.metrics = Metrics()
        self._batcher = Batcher(
            **(batching or {}), observe=self.metrics.observe_run, observe_wait=self.metrics.observe_wait
        )
        self._api = RestApi(
            store,
            self._batcher,
            log=log,
            limits=self._limits,
            metrics=self.metrics,
            request_log=request_log,
            packs_answers=packs_answers,
        )
        self._grpc_address, self._grpc = grpc_address, None
        self._shutdown_timeout_s = shutdown_timeout_s
        self.port: int = listener.getsockname()[1]
        self.grpc_port: int | None = None
        self.on_start: Callable[[], None] = lambda: None
        protocol: Any = functools.partial(LimitedProtocol, limits=self._limits)
        config = uvicorn.Config(
            self._api,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=self._limits.keep_alive_timeout_s,  # type: ignore[arg-type]
            timeout_graceful_shutdown=shutdown_timeout_s,  # type: ignore[arg-type]
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what is wrong with a request the client reads
        self.metrics.gauge("connections", lambda: len(self.server_state.connections))
        self.metrics.gauge("queued_rows", lambda: self._batcher.queued_rows)
        if request_log:
            self.metrics.gauge("unlogged_requests", lambda: request_log.num_dropped)

    def run(self) -> None:  # type: ignore[override]
        """Serve until SIGTERM or SIGINT, which raises KeyboardInterrupt once what is in flight has been answered."""
        stop = threading.Event()
        watch = {"period_s": _POLL_PERIOD_S, "stop": stop}
        threading.Thread(target=self._store.watch, kwargs=watch, daemon=True).start()
        try:
            super().run(sockets=[self._listener])
        finally:
            stop.set()
            self._batcher.close()
            if self._request_log:
                self._request_log.close()
        if signal.SIGINT in self._captured_signals:
            raise KeyboardInterrupt

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        if self._grpc_address:
            from serving import grpc_api

            self._grpc, self.grpc_port = await grpc_api.start(
                self._store, self._batcher, self._limits, self.metrics, self._request_log, self._grpc_address
            )
        await super().startup(sockets)
        self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody, end each connection with its next answer, then those without a request."""
        loop = asyncio.get_running_loop()
        self._api.is_draining = True
        for server in self.servers:
            server.close()
        stop_grpc = asyncio.ensure_future(self._grpc.stop(self._shutdown_timeout_s)) if self._grpc else None
        until = loop.time() + min(_DRAIN_S, self._shutdown_timeout_s)
        while self.server_state.connections and loop.time() < until and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if stop_grpc:
            await stop_grpc

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's, without the signals being raised again after the end: SIGTERM is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def running(store: ModelStore, **options: Any) -> Iterator[Server]:
    """A server in a thread, at a free port of this machine, while the context lasts; `options` are `Server`'s."""
    server = Server(store, listen("127.0.0.1", 0), **options)
    has_started = threading.Event()
    server.on_start = has_started.set
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        if not has_started.wait(30):
            raise RuntimeError("The server has not started.")
        yield server
    finally:
        server.should_exit = True
        thread.join()


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
