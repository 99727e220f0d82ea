"""Hostile requests against `seqrec serve`: does it crash, leak, blame itself, or answer differently afterwards?

    python benchmarks/hostile.py

Sends requests that break HTTP, JSON, gzip, the limits or the patience of a server, of kinds drawn by chance, many at
the same time, and counts the statuses of each kind. Ends with status 1 unless the server lives, no status is of class
5xx but 503 under overload, its memory stayed under twice that of an idle server, and the answers to good requests are
the same bytes as before.
"""

import argparse
import asyncio
import collections
import gzip
import json
import random
import socket
import struct
import sys
import tempfile
import time

import load
import uvloop

PATH = f"/v1/models/{load.MODEL}:predict"
GOOD = b'{"instances": [["item-1", "item-2"]]}'
# Short, so that those who are slow do not keep the others waiting.
OPTIONS = ["--header-timeout-s", "1", "--body-timeout-s", "1", "--keep-alive-timeout-s", "5"]
HALF_CLOSE, RESET, STAY = "half-close", "reset", "stay"


def post(body: bytes, *headers: str, path: str = PATH, length: int | None = None, verb: str = "POST") -> bytes:
    """A request with a body, whose length may be a lie."""
    lines = [f"{verb} {path} HTTP/1.1", "Host: h", *headers]
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(body: bytes, *headers: str) -> bytes:
    """A request whose body is chunks already."""
    return post(body, "Transfer-Encoding: chunked", *headers)


BOMB = gzip.compress(bytes(1 << 30), compresslevel=9)
LAYERS = gzip.compress(BOMB)


def garbage(rng):
    """Bytes by chance."""
    return rng.randbytes(rng.randint(1, 2000)), HALF_CLOSE


def tls(rng):
    """The hello of a TLS client."""
    return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(508), STAY


def endless_chunk(rng):
    """A chunk that never ends, then the end."""
    size = rng.choice([b"ffffffffffffffff", b"7fffffffffffffff", b"ffffffff", b"1" + b"0" * 40])
    return chunked(size + b"\r\n" + b"a" * rng.randint(0, 100)), rng.choice([HALF_CLOSE, STAY])


def bad_chunks(rng):
    """Sizes that are none, ends that are missing."""
    bad = [
        b"xyz\r\nabc\r\n",
        b"-1\r\n",
        b"5\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"\r\n\r\n",
        b" 3\r\nabc\r\n",
        b"0x3\r\nabc",
    ]
    return chunked(rng.choice(bad)), rng.choice([HALF_CLOSE, STAY])


def extensions_and_trailers(rng):
    """Chunks with all that HTTP allows, and more than anybody needs."""
    extension = b";name=" + b"v" * rng.choice([1, 1000, 200_000])
    trailers = b"".join(b"X-%d: %s\r\n" % (index, b"v" * 50) for index in range(rng.choice([0, 3, 5000])))
    return chunked(b"%x%s\r\n%s\r\n0\r\n%s\r\n" % (len(GOOD), extension, GOOD, trailers)), STAY


def byte_by_byte(rng):
    """A body in chunks of a byte."""
    body = GOOD * rng.choice([1, 1000, 20_000])
    return chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"), STAY


def short_body(rng):
    """Less than was announced."""
    return post(GOOD, length=len(GOOD) + rng.choice([1, 1000, 10**7, 10**18])), rng.choice([HALF_CLOSE, STAY, RESET])


def long_body(rng):
    """More than was announced: the rest is no request."""
    return post(GOOD, length=len(GOOD) - 5), HALF_CLOSE


def large_body(rng):
    """More than is read."""
    return post(b" " * rng.choice([5, 8]) * 10**6 + GOOD), STAY


def bomb(rng):
    """A megabyte that is a gigabyte."""
    return post(
        rng.choice([BOMB, LAYERS, BOMB[:1000], b"\x1f\x8b" + rng.randbytes(50)]), "Content-Encoding: gzip"
    ), STAY


def nested(rng):
    """Lists in lists in lists."""
    depth, (left, right) = (
        rng.choice([33, 63, 64, 65, 100, 900, 5000, 100_000]),
        rng.choice([(b"[", b"]"), (b'{"a":', b"}")]),
    )
    body = b'{"instances": ' + left * depth + b'"a"' + right * rng.choice([depth, depth, 0]) + b"}"
    return post(body), STAY


def many(rng):
    """Many rows, long rows, many keys, long texts."""
    row = ["item-1"] * rng.choice([1, 10, 4096, 5000])
    documents = [
        {"instances": [row] * rng.choice([1, 8])},
        {"instances": [["a"]] * rng.choice([1024, 1025, 100_000])},
        {"instances": [{f"k{index}": 1 for index in range(20_000)}]},
        {"instances": [["x" * 10**6]]},
        {"inputs": [[[["a"] * 50] * 50] * 50]},
        {"instances": [[]] * 1000},
        {"signature_name": "s" * 10**5, "instances": [1]},
    ]
    return post(json.dumps(rng.choice(documents)).encode()), STAY


def wrong_values(rng):
    """JSON of the wrong kind."""
    values = [
        "1",
        "null",
        "true",
        "NaN",
        "1e999",
        "-" + "9" * 5000,
        '"\\ud800"',
        '"\x00"',
        "{}",
        '{"b64": "?"}',
        '"\xff"',
    ]
    value = rng.choice(values)
    forms = [
        '{"instances": [[%s]]}',
        '{"instances": %s}',
        '{"inputs": {"history": %s}}',
        "%s",
        '{"instances": [%s, ["a"]]}',
    ]
    return post((rng.choice(forms) % value).encode("latin-1")), STAY


def mutated(rng):
    """A good request with some bytes changed, anywhere."""
    data = bytearray(post(GOOD))
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data), HALF_CLOSE


def strange_paths(rng):
    """Paths, versions and verbs."""
    paths = [
        f"{PATH}?x=1",
        "//v1/models",
        "/v1/models/%00:predict",
        "/v1/../../etc/passwd",
        "/v1/models/shop/versions/" + "9" * 5000,
        "/v1/models/" + "a" * 5000,
        "/v1/models/shop/labels/%ff:predict",
        "*",
        "http://h/v1/models/shop",
        "/v1/models/shop:predict#x",
        "/monitoring/prometheus/metrics",
        "/v1/models/sh\xf6p",
        "/v1/models/shop/metadata?" + "q" * 3000,
    ]
    verbs = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PATCH", "BREW", "PRI", "get"]
    return post(GOOD, path=rng.choice(paths), verb=rng.choice(verbs)), HALF_CLOSE


def large_headers(rng):
    """Headers that are large, many, broken or without an end."""
    heads = [
        b"GET /v1/models/shop HTTP/1.1\r\nX: " + b"v" * 10**6 + b"\r\n\r\n",
        b"GET /v1/models/shop HTTP/1.1\r\n" + b"a: b\r\n" * 50_000 + b"\r\n",
        b"GET /v1/models/shop HTTP/1.1\r\n" + b"n" * 300_000,
        b"GET /" + b"p" * 500_000,
        b"GET /v1/models/shop HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/models/shop HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET /v1/models/shop HTTP/9.9\r\n\r\n",
        b"GET /v1/models/shop\r\n\r\n",
    ]
    return rng.choice(heads), rng.choice([HALF_CLOSE, STAY])


def two_lengths(rng):
    """Requests that a proxy may cut elsewhere."""
    headers = [
        ("Content-Length: 3", "Transfer-Encoding: chunked"),
        ("Content-Length: 3", "Content-Length: 4"),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: xchunked",),
        ("Content-Length: -1",),
        ("Content-Length: 1e3",),
        ("Content-Length: 99999999999999999999999",),
    ]
    lines = "\r\n".join(["POST " + PATH + " HTTP/1.1", "Host: h", *rng.choice(headers)])
    return lines.encode() + b"\r\n\r\n" + GOOD, HALF_CLOSE


def pipelined(rng):
    """Many requests at once, perhaps with garbage at the end."""
    return post(GOOD) * rng.randint(2, 30) + rng.choice([b"", b"garbage\r\n\r\n"]), HALF_CLOSE


def upgrades(rng):
    """Other protocols."""
    return rng.choice(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            post(GOOD, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
            post(GOOD, "Connection: Upgrade", "Upgrade: websocket"),
            post(b"", "Expect: 100-continue", length=len(GOOD)),
        ]
    ), STAY


def slow_head(rng):
    """Headers that do not go on."""
    return b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: " + b"h" * rng.randint(0, 50), STAY


def gone(rng):
    """A client that asks and leaves."""
    return post(GOOD), RESET


KINDS = [
    garbage,
    tls,
    endless_chunk,
    bad_chunks,
    extensions_and_trailers,
    byte_by_byte,
    short_body,
    long_body,
    large_body,
    bomb,
    nested,
    many,
    wrong_values,
    mutated,
    strange_paths,
    large_headers,
    two_lengths,
    pipelined,
    upgrades,
    slow_head,
    gone,
]


async def send(port: int, data: bytes, end: str, timeout_s: float) -> str:
    """What comes back: the statuses, or how the connection ended."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        return type(error).__name__
    answer = bytearray()

    async def read():
        while piece := await reader.read(65536):
            answer.extend(piece[:10_000])

    try:
        reading = asyncio.ensure_future(read())
        writer.write(data)
        if end == RESET:
            await asyncio.sleep(random.random() * 0.01)
            option = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        else:
            await asyncio.wait([asyncio.ensure_future(writer.drain())], timeout=timeout_s)
            if end == HALF_CLOSE:
                writer.write_eof()
            await asyncio.wait([reading], timeout=timeout_s)
        reading.cancel()
    except OSError:
        pass
    finally:
        writer.close()
    statuses = sorted({answer[at + 9 : at + 12].decode("latin-1") for at in found(answer, b"HTTP/1.1 ")})
    return "+".join(statuses) or "no answer"


def found(data: bytes, piece: bytes):
    """Where it is in the data."""
    at = data.find(piece)
    while at >= 0:
        yield at
        at = data.find(piece, at + 1)


async def good_answers(port: int) -> list[bytes]:
    """What fixed requests get."""
    answers = []
    for seed in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(load.request(1 + seed % 3, 1000, seed).replace(b"Host:", b"Connection: close\r\nHost:", 1))
        answers.append((await reader.read()).partition(b"\r\n\r\n")[2])
        writer.close()
    return answers


async def attack(port: int, count: int, at_once: int, seed: int) -> dict[str, collections.Counter]:
    """Send requests of all kinds by chance; the statuses of each kind."""
    rng, statuses = random.Random(seed), collections.defaultdict(collections.Counter)
    left = iter(range(count))

    async def attacker():
        for _ in left:
            kind = rng.choice(KINDS)
            data, end = kind(rng)
            statuses[kind.__name__][await send(port, data, end, 4.0)] += 1

    await asyncio.gather(*(attacker() for _ in range(at_once)))
    return statuses


def blames_itself(statuses: str) -> bool:
    """Whether a status says that the server failed."""
    return any(status.startswith("5") and status != "503" for status in statuses.split("+"))


def main() -> None:
    """Attack a server, and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load.write_model(f"{folder}/{load.MODEL}/1", args.items)
        with load.serving(folder, options=OPTIONS) as (port, process):
            before = uvloop.run(good_answers(port))
            idle = load.memory(process.pid)
            started = time.monotonic()
            statuses = uvloop.run(attack(port, args.requests, args.at_once, args.seed))
            seconds, highest, after_all = (
                time.monotonic() - started,
                load.memory(process.pid, "VmHWM"),
                load.memory(process.pid),
            )
            lives = process.poll() is None
            same = lives and uvloop.run(good_answers(port)) == before
    for kind in KINDS:
        counts = statuses[kind.__name__].most_common()
        print(f"{kind.__name__:<24}" + "  ".join(f"{status}: {count:,}" for status, count in counts))
    of_server = sum(counts[status] for counts in statuses.values() for status in counts if blames_itself(status))
    print(
        f"{args.requests:,} requests in {seconds:.0f} s; lives: {lives}; 5xx but 503: {of_server}; same answers: {same}"
    )
    print(f"memory, MB: {idle:.0f} idle, {highest:.0f} at most, {after_all:.0f} afterwards")
    sys.exit(not (lives and same and not of_server and highest < 2 * idle))


if __name__ == "__main__":
    main()
