"""Heads of requests and responses: what is read means what it means in http.client, on recorded
heads, mutations of them and at any cut; what is written is what http.client would send."""

from __future__ import annotations

import http.client
import io
import random
from typing import Any

import pytest
from every import every

from llmstream._transport.head import read_head, request_head
from llmstream._transport.http import _Buffer

CLOUDFLARE = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 22 Sep 2026 10:13:20 GMT\r\nServer: cloudflare\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: keep-alive\r\nset-cookie: __cf_bm=a; path=/\r\nset-cookie: _cfuvid=b; path=/\r\n"
    b"openai-processing-ms: 187\r\nx-ratelimit-reset-tokens: 6m0s\r\nCF-RAY: 8a-FRA\r\n\r\n"
)
HEADS = [
    CLOUDFLARE,
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 17\r\n\r\n",
    b"HTTP/1.1 200\r\nConnection: close\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\nServer: x\n\n",
    b"HTTP/1.1 200 OK\r\nX-Long: a\r\n  folded\r\n\tmore\r\nA: b\r\n\r\n",
    b"HTTP/1.0 301 Moved\r\nKeep-Alive: timeout=5\r\nConnection: Keep-Alive\r\nLocation:/x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX:  two blanks \t\r\nEmpty:\r\nWeird Name: x\r\nlost line\r\nA: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n: no name\r\nX-Latin: caf\xe9 \x00\x0b\x85\r\nbare: a\rb: c\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: -1\r\n\r\n",
]
PIECES = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b" ",
        b"\t",
        b"\x00",
        b"\xff",
        b"HTTP/1.1",
        b"HTTP/2.0",
        b"FTP/1",
    ),
    *(
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"100",
        b"99",
    ),
    *(b"\r\n folded", b"A: b\r\n" * 120, b"x" * 70000, b"From someone\r\n", b"1_0", b"+5", b"\x85"),
]


class InPieces(io.RawIOBase):
    """Gives the bytes in pieces of random lengths."""

    def __init__(self, data: bytes, rng: random.Random) -> None:
        self.data, self.rng = data, rng
        self.peek_only = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.peek_only:
            return None
        size = min(len(buffer), self.rng.choice((1, 2, 7, 100, 70000)), len(self.data))
        buffer[:size] = self.data[:size]
        self.data = self.data[size:]
        return size

    def has_decrypted(self) -> bool:
        return False


class Sock:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


def oracle(data: bytes) -> Any:
    """What http.client reads."""
    response = http.client.HTTPResponse(Sock(data))  # type: ignore[arg-type]
    try:
        response.begin()
    except http.client.HTTPException as exc:
        return type(exc)
    fields: dict[str, str] = {}
    for name, value in response.headers.items():
        low = name.lower()
        fields[low] = f"{fields[low]}, {value}" if low in fields else value
    first = {name: response.headers.get(name) for name in fields}
    left = response.fp.read() if response.fp is not None else None
    return response.version, response.status, response.reason, first, fields, left


def ours(data: bytes, rng: random.Random) -> Any:
    file = _Buffer(InPieces(data, rng), 65536)  # type: ignore[arg-type]
    try:
        head = read_head(file)
    except http.client.HTTPException as exc:
        return type(exc)
    return (*head, file.read())


def agree(data: bytes, rng: random.Random) -> bool:
    expected, found = oracle(data), ours(data, rng)
    if isinstance(expected, tuple):
        if 101 < expected[1] < 200:
            return False  # http.client takes these for the final response
        expected = (*expected[:-1], found[-1] if expected[-1] is None else expected[-1])
    assert found == expected, data
    return True


@every("head", HEADS)
def test_a_head_means_what_it_means_in_http_client(head: bytes) -> None:
    rng = random.Random(1)
    for _ in range(5):
        assert agree(head + b"the body", rng)
    for cut in range(len(head)):
        agree(head[:cut], rng)


@pytest.mark.slow
def test_mutated_heads() -> None:
    """5,000 heads with bytes and pieces removed, added, moved and repeated."""
    rng = random.Random(20261125)
    compared = 0
    for _ in range(5000):
        data = bytearray(rng.choice(HEADS))
        for _ in range(rng.randint(1, 4)):
            at, end = sorted(rng.choices(range(len(data) + 1), k=2))
            change = rng.randrange(4)
            if change == 0:
                data[at:at] = rng.choice(PIECES)
            elif change == 1:
                del data[at : min(end, at + 8)]
            elif change == 2:
                data[at:at] = data[at:end]
            else:
                data[at : at + 1] = bytes([rng.randrange(256)])
        compared += agree(bytes(data) + b"\r\n\r\nbody", rng)
    assert compared > 4500


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (99, None),
        (100, http.client.HTTPException),
    ],
)
def test_the_limits_are_those_of_http_client(lines: int, kind: Any) -> None:
    rng = random.Random(3)
    many = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * lines + b"\r\n"
    assert agree(many, rng)
    assert (oracle(many) is kind) is (kind is not None)
    for size in (65535, 65536, 65537):
        assert agree(b"HTTP/1.1 200 OK\r\n" + b"A: ".ljust(size - 2, b"x") + b"\r\n\r\n", rng)
        assert agree(b"HTTP/1.1 200 ".ljust(size - 2, b"x") + b"\r\n\r\n", rng)


def test_interim_responses_are_skipped() -> None:
    """100 to 199, but for 101; not for ever."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    assert ours(interim * 20 + final, random.Random(1))[1] == 200
    assert ours(interim * 21 + final, random.Random(1)) is http.client.HTTPException
    switched = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    assert ours(interim + switched + final, random.Random(1))[1] == 101


def test_a_request_is_what_http_client_sends() -> None:
    sent: list[bytes] = []

    class Recording(http.client.HTTPConnection):
        def send(self, data: Any) -> None:
            sent.append(bytes(data))

    fields = {"host": "h:8080", "authorization": "Bearer ä", "empty": "", "content-length": "2"}
    connection = Recording("h", 8080)
    connection.putrequest("POST", "/v1/x?a=%20", skip_host=True, skip_accept_encoding=True)
    for name, value in fields.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert request_head("POST", "/v1/x?a=%20", fields) == b"".join(sent)


@every(
    ("target", "fields"),
    [
        ("/x y", {}),
        ("/x\r\nA: b", {}),
        ("", {}),
        ("/", {"a": "b\r\nc: d"}),
        ("/", {"a": "b\nc"}),
        ("/", {"a": " b"}),
        ("/", {"a\r\nb": "c"}),
        ("/", {"": "c"}),
        ("/", {" a": "c"}),
        ("/", {"a": "\u20ac"}),
    ],
)
def test_a_request_that_would_be_another_one_is_refused(
    target: str, fields: dict[str, str]
) -> None:
    with pytest.raises(ValueError):
        request_head("POST", target, fields)
