"""What clients do wrong, or could do to harm, over a bare connection."""

import gzip
import json
import socket
import threading
import time

import pytest
from rest_calls import SHOP

from serving.limits import Limits

BODY = b'{"instances": [["apple"]]}'
LIMITS = Limits(
    max_body_bytes=10_000,
    max_json_depth=8,
    max_rows=4,
    max_history_length=16,
    max_header_bytes=2000,
    header_timeout_s=0.3,
    body_timeout_s=0.3,
)


@pytest.fixture(scope="module")
def address(store, serving):
    with serving(store, limits=LIMITS) as url:
        yield "127.0.0.1", int(url.rsplit(":", 1)[1])


def exchange(address, data, *, half_close=False):
    """All that comes back until the server ends the connection, or the client has had its answers."""
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def statuses(answer):
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def request(body=BODY, *headers, path=f"{SHOP}:predict", length=None):
    lines = [f"POST {path} HTTP/1.1", "Host: h", "Connection: close", *headers]
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*pieces, end=b"0\r\n\r\n"):
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return request(body + end, "Transfer-Encoding: chunked")


def instances(value):
    return request(json.dumps({"instances": value}).encode())


@pytest.mark.parametrize(
    "data",
    [
        request(),
        chunked(BODY[:5], BODY[5:]),
        chunked(BODY, end=b"0;name=value\r\nX-Trailer: 1\r\n\r\n"),
        request(gzip.compress(BODY), "Content-Encoding: gzip"),
        request(gzip.compress(BODY[:5]) + gzip.compress(BODY[5:]), "Content-Encoding: gzip"),
        request(b'{"instances": [["bread"]], "instances": [["apple"]]}'),
        request(BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        request(BODY, "Expect: 100-continue"),
    ],
    ids=["plain", "chunks", "extensions and trailers", "gzip", "two members", "equal keys", "upgrade", "continue"],
)
def test_a_good_request_is_answered(address, data):
    answer = exchange(address, data)
    assert statuses(answer)[-1] == 200
    first = "apple" if b"bread" in data else "bread"  # the first of equal keys counts
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["predictions"][0]["items"][0] == first


@pytest.mark.parametrize("half_close", [False, True])
@pytest.mark.parametrize(
    "last", [request(), request() + b"garbage\r\n\r\n", request().replace(b"close", b"x") + b"garbage\r\n"]
)
def test_requests_that_do_not_wait_for_answers_get_them_in_order(address, half_close, last):
    data = b"".join(
        request(b'{"instances": [["%s"]]}' % item).replace(b"Connection: close\r\n", b"")
        for item in (b"apple", b"eggs")
    )
    answer = exchange(address, data + last, half_close=half_close)
    assert statuses(answer) == [200, 200, 200]
    assert answer.index(b'["bread", "cheese", "dates"]') < answer.index(b'["apple", "bread", "cheese"]')


WRONG = {
    "an endless chunk": (request(b"ffffffffffffffff\r\nabc", "Transfer-Encoding: chunked"), 400),
    "a chunk size that is none": (request(b"xyz\r\nabc\r\n", "Transfer-Encoding: chunked"), 400),
    "a short body": (request(length=1000), 400),
    "garbage": (b"garbage\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
    "two lengths": (request(BODY, "Content-Length: 3"), 400),
    "a large body": (request(b" " * 10_001), 413),
    "a large body in chunks": (chunked(*[b" " * 1000] * 11), 413),
    "a bomb": (request(gzip.compress(bytes(10**7)), "Content-Encoding: gzip"), 413),
    "large headers": (request(BODY, "X: " + "x" * 300_000), 431),
    "large trailers": (chunked(BODY, end=b"0\r\n" + b"X: " + b"x" * 300_000), 431),
    "deep lists": (request(b'{"instances": ' + b"[" * 9 + b"]" * 9 + b"}"), 400),
    "lists without an end": (request(b"[" * 9000), 400),
    "many rows": (instances([["a"]] * 5), 400),
    "a long row": (instances([["a"] * 17]), 400),
    "a query": (request(path=f"{SHOP}:predict?a=b"), 400),
    "a version of many digits": (request(path=f"{SHOP}/versions/{'9' * 1500}:predict"), 400),
}


@pytest.mark.parametrize(("data", "status"), WRONG.values(), ids=WRONG)
def test_what_a_client_does_wrong_has_its_status_and_a_short_reason(address, data, status):
    started = time.monotonic()
    answer = exchange(address, data, half_close=True)
    assert statuses(answer) == [status]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert list(json.loads(body)) == ["error"]
    assert len(body) < 1200
    assert time.monotonic() - started < 2
    assert statuses(exchange(address, request())) == [200]


@pytest.mark.parametrize(
    "data", [request(length=1000), b"POST /v1", chunked(BODY, end=b"0\r\nX: ")], ids=["body", "head", "trailer"]
)
def test_what_does_not_come_in_time_is_answered_408(address, data):
    answer = exchange(address, data)
    assert statuses(answer) == [408]
    assert b"did not come within 0.3 s" in answer


def test_a_connection_that_asks_nothing_is_closed(address):
    assert exchange(address, b"") == b""


def test_an_error_says_no_more_than_a_kilobyte_of_the_request(address):
    answer = exchange(address, request(b'{"instances": [{"%s": 1}]}' % (b"x" * 9000)))
    assert statuses(answer) == [400]
    assert len(answer.partition(b"\r\n\r\n")[2]) < 1100


def test_a_connection_too_many_is_told_to_come_back(store, serving):
    with serving(store, limits=Limits(max_connections=1)) as url:
        address = "127.0.0.1", int(url.rsplit(":", 1)[1])
        with socket.create_connection(address):
            time.sleep(0.05)
            answer = exchange(address, b"")
    assert statuses(answer) == [503]
    assert b"retry-after: 1\r\n" in answer


def test_answers_are_packed_for_those_who_take_it_where_the_server_is_told_so(store, asking):
    body = {"instances": [["apple"]] * 100}
    with asking(store, packs_answers=True) as web:
        packed = web.post(f"{SHOP}:predict", json=body)
        plain = web.post(f"{SHOP}:predict", json=body, headers={"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert packed.json() == plain.json()


def test_at_its_end_the_server_answers_what_is_in_flight_and_accepts_nobody(store):
    from serving.server import running

    answers = []
    with running(store, batching={"max_batch_size": 2, "batch_timeout_us": 500_000}) as server:
        address = "127.0.0.1", server.port
        data = request().replace(b"Connection: close\r\n", b"")
        asking = threading.Thread(target=lambda: answers.append(exchange(address, data)))
        asking.start()
        with socket.create_connection(address, timeout=5) as idle:  # without a request yet
            time.sleep(0.2)
            server.should_exit = True
            time.sleep(0.25)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(address, timeout=5)
            idle.sendall(data)
            idle_answer = idle.recv(65536)
        asking.join()
    for answer in (*answers, idle_answer):
        assert statuses(answer) == [200]
        assert b"connection: close\r\n" in answer
