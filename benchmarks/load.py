"""Open-loop load on `seqrec serve`: latencies and errors at rising rates, and what batching across requests gives.

    python benchmarks/load.py
    python benchmarks/load.py --before CHECKOUT
    python benchmarks/load.py --faults    # 10,000 requests while versions are swapped; SIGTERM to a busy server

Requests leave at a constant rate whatever the answers do, as users do, and a latency counts from the moment at which
its request should have left. The rate rises until the server falls behind. SASRec with d = 64, L = 50 and random
weights recommends 20 of 100,000 items for histories of 50 events. The load comes from this process, on the same cores.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import uvloop

ROOT = pathlib.Path(__file__).parent.parent
LENGTH, MODEL = 50, "shop"
BEHIND_S = 1.0  # p99 of a server that has fallen behind


def main() -> None:
    """Measure each server at each size of request, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32], help="of a request")
    parser.add_argument("--rates", type=float, nargs="+", help="requests a second; else rising by a quarter")
    parser.add_argument("--seconds", type=float, default=5.0, help="at each rate")
    parser.add_argument("--faults", action="store_true", help="swaps of versions and SIGTERM, in place of rising rates")
    parser.add_argument("--before", help="a checkout of another version, to be measured beside this one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_model(f"{folder}/{MODEL}/1", args.items)
        if args.faults:
            requests = [request(1, args.items, seed) for seed in range(100)]
            swap_under_load(folder, requests)
            for _ in range(3):
                end_under_load(folder, requests)
            return
        columns = {"a second": 10, "answered": 10, "p50 ms": 9, "p95 ms": 9, "p99 ms": 9, "errors": 8}
        print(f"{'server':<13}{'rows':>5}" + "".join(f"{title:>{width}}" for title, width in columns.items()))
        for rows in args.rows:
            requests = [request(rows, args.items, seed) for seed in range(100)]
            servers = {"batching": (ROOT, []), "no batching": (ROOT, ["--max-batch-size", str(rows)])}
            if args.before:
                servers["before"] = (pathlib.Path(args.before).resolve(), [])
            for name, (checkout, options) in servers.items():
                with serving(folder, checkout, options) as (port, _):
                    uvloop.run(open_loop(port, requests, rate=20 / rows, seconds=2.0))  # warm
                    closed = uvloop.run(closed_loop(port, requests, connections=64, seconds=args.seconds))
                    print(f"{name:<13}{rows:>5}  64 clients in a circle: {closed:,.0f} a second")
                    best = 0.0
                    for rate in args.rates or rising(40 / rows**0.5):
                        result = uvloop.run(open_loop(port, requests, rate=rate, seconds=args.seconds))
                        print(f"{name:<13}{rows:>5}{rate:>10,.0f}{result}", flush=True)
                        if result.is_behind(rate):
                            break
                        best = max(best, result.answered)
                    print(f"{name:<13}{rows:>5}  most in time: {best:,.0f} a second")


def swap_under_load(models: str, requests: list[bytes], *, rate: float = 400, count: int = 10_000) -> None:
    """Requests at a constant rate while one version after the other is published and the one before removed."""
    versions, stop = pathlib.Path(models) / MODEL, threading.Event()

    def publish():
        number = 1
        while not stop.wait(4):
            new = versions / "new"
            shutil.copytree(versions / str(number), new)
            new.rename(versions / str(number + 1))
            stop.wait(4)
            shutil.rmtree(versions / str(number))
            number += 1

    with serving(models) as (port, process):
        before = memory(process.pid)
        publisher = threading.Thread(target=publish)
        publisher.start()
        result = uvloop.run(open_loop(port, requests, rate=rate, seconds=count / rate))
        stop.set()
        publisher.join()
        time.sleep(5)
        num_swaps = max(int(path.name) for path in versions.iterdir()) - 1
        late = 1000 * result.percentile(0.99)
        print(f"{num_swaps} swaps: {len(result.latencies):,} answers, {result.num_errors} failures, p99 {late:.0f} ms")
        memories = before, memory(process.pid, "VmHWM"), memory(process.pid)
        print("memory, MB: {:.0f} before, {:.0f} at most, {:.0f} afterwards".format(*memories))


def end_under_load(models: str, requests: list[bytes], *, connections: int = 64) -> None:
    """SIGTERM to a server that 64 clients keep busy: what is sent and not answered is a failure."""
    counts: collections.Counter = collections.Counter()

    async def client(port):
        pool = Pool(port)
        while True:
            try:
                await pool.ask(random.choice(requests))
                counts["answered"] += 1
            except ConnectionRefusedError:
                return
            except OSError as error:
                counts[type(error).__name__] += 1
                return

    async def clients(port, process):
        running = [asyncio.ensure_future(client(port)) for _ in range(connections)]
        await asyncio.sleep(2)
        process.terminate()
        await asyncio.wait_for(asyncio.gather(*running), 30)

    with serving(models) as (port, process):
        started = time.monotonic()
        uvloop.run(clients(port, process))
        status = process.wait()
        print(f"SIGTERM: {dict(counts)}, exit status {status}, {time.monotonic() - started - 2:.1f} s later")


def memory(pid: int, key: str = "VmRSS") -> float:
    """MB of a process."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return float("nan")


def rising(rate: float):
    """Rates, each a quarter above the one before."""
    while True:
        yield rate
        rate *= 1.25


def write_model(path: str, num_items: int) -> None:
    """Export a model in a process of its own, so that this one stays small."""
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import latency\n"
    script += f"latency.write_model({path!r}, {num_items})"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, stderr=subprocess.DEVNULL)


def request(rows: int, num_items: int, seed: int) -> bytes:
    """A POST request for histories by chance."""
    rng = random.Random(seed)
    histories = [[f"item-{rng.randint(1, num_items)}" for _ in range(LENGTH)] for _ in range(rows)]
    body = json.dumps({"instances": histories}).encode()
    head = f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.contextmanager
def serving(models: str, checkout: pathlib.Path = ROOT, options=(), *, log=None):
    """`seqrec serve` of a checkout, ready: its port and its process, for the time of the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "seqrec_tf.cli", "serve", "--models", models, "--port", str(port), *options]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    output = {"stdout": subprocess.DEVNULL, "stderr": log or subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=checkout, env=environment, **output)
    try:
        until = time.monotonic() + 120
        while not uvloop.run(is_ready(port)):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command)} does not serve.")
            time.sleep(0.2)
        yield port, process
    finally:
        process.terminate()
        process.wait()


async def is_ready(port: int) -> bool:
    """Whether the model answers."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5)
        writer.write(f"GET /v1/models/{MODEL}/metadata HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in answer


class Connection(asyncio.Protocol):
    """One connection, which asks one request at a time."""

    def __init__(self):
        self.answer, self.buffer, self.is_open = None, b"", True

    def connection_made(self, transport):
        """Keep the transport."""
        self.transport = transport

    def ask(self, data: bytes) -> asyncio.Future:
        """Send a request; the future is its status."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self.answer

    def data_received(self, data):
        """Wait for the whole answer."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self.buffer) >= end + 4 + size:
            self.is_open = b"connection: close" not in head
            self.buffer, answer, self.answer = b"", self.answer, None
            if answer and not answer.done():
                answer.set_result(int(head[9:12]))

    def connection_lost(self, error):
        """What was asked has no answer."""
        self.is_open = False
        if self.answer and not self.answer.done():
            self.answer.set_exception(error or ConnectionResetError("closed without an answer"))


class Pool:
    """Connections to a port, opened as they are needed and used again while the server keeps them."""

    def __init__(self, port: int):
        self._port, self._idle = port, []

    async def ask(self, data: bytes) -> int:
        """The status of the answer."""
        connection = None
        while self._idle and connection is None:
            connection = self._idle.pop()
            connection = connection if connection.is_open else None
        if connection is None:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        status = await connection.ask(data)
        if connection.is_open:
            self._idle.append(connection)
        else:
            connection.transport.close()
        return status


@dataclasses.dataclass
class Result:
    """What came back."""

    seconds: float
    latencies: list[float]
    num_errors: int

    @property
    def answered(self) -> float:
        """Answers of status 200 a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds."""
        return sorted(self.latencies)[int(share * (len(self.latencies) - 1))] if self.latencies else float("nan")

    def is_behind(self, rate: float) -> bool:
        """Whether the server does not keep up."""
        return bool(self.num_errors) or self.answered < 0.9 * rate or self.percentile(0.99) > BEHIND_S

    def __str__(self) -> str:
        times = "".join(f"{1000 * self.percentile(share):>9.1f}" for share in (0.5, 0.95, 0.99))
        return f"{self.answered:>10,.0f}{times}{self.num_errors:>8}"


async def open_loop(port: int, requests: list[bytes], *, rate: float, seconds: float) -> Result:
    """Requests at a constant rate."""
    loop, pool, latencies, errors = asyncio.get_running_loop(), Pool(port), [], []

    async def one(data, due):
        try:
            status = await asyncio.wait_for(pool.ask(data), 30)
            latencies.append(loop.time() - due) if status == 200 else errors.append(status)
        except (OSError, TimeoutError) as error:
            errors.append(repr(error))

    start, tasks = loop.time(), set()
    for index in range(max(10, int(rate * seconds))):
        due = start + index / rate
        if (wait := due - loop.time()) > 0:
            await asyncio.sleep(wait)
        task = loop.create_task(one(requests[index % len(requests)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if loop.time() - due > 10:  # even the sender is behind
            break
    while tasks:
        await asyncio.wait(tasks)
    return Result(loop.time() - start, latencies, len(errors))


async def closed_loop(port: int, requests: list[bytes], *, connections: int, seconds: float) -> float:
    """Answers a second to clients of which each asks again when it has its answer."""
    loop, pool = asyncio.get_running_loop(), Pool(port)
    until, count = loop.time() + seconds, 0

    async def client():
        nonlocal count
        while loop.time() < until:
            with contextlib.suppress(OSError):
                status = await pool.ask(random.choice(requests))
                count += status == 200

    await asyncio.gather(*(client() for _ in range(connections)))
    return count / seconds


if __name__ == "__main__":
    main()
