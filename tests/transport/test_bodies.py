"""Bodies that are not what their heads say: sizes, chunks, encodings, and what follows the end."""

from __future__ import annotations

import gzip
import socket
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from support import RawServer, failure, read_request

from llmstream import Client, NotAStreamError, ProtocolError, RetryPolicy, StreamInterrupted
from llmstream.testing import Answer, LLMServer, Reply

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FAST = RetryPolicy(max_attempts=3, base=0.001, cap=0.001)
BODY = b"".join(Answer("answer A").blocks("chat"))
OTHER = b"".join(Answer("answer B").blocks("chat"))
STRAY = b"".join(Answer("rest of A").blocks("chat"))

ClientOf = Callable[..., Client]
MakeServer = Callable[..., RawServer]


def with_length(body: bytes, length: int | None = None) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def chunk(data: bytes, size: bytes | None = None, end: bytes = b"\r\n") -> bytes:
    return (size or b"%x" % len(data)) + b"\r\n" + data + end


@pytest.fixture
def client_of(client_for: ClientOf) -> ClientOf:
    return lambda server: client_for(server, api="chat", model="m", retry=FAST)


# ---- what follows the end ----------------------------------------------------------------------

SURPLUS: dict[str, bytes] = {
    "with a length": with_length(BODY) + b"JUNK",
    "with a length that is too small": with_length(BODY + STRAY, len(BODY)),
    "after the last chunk": CHUNKED + chunk(BODY) + b"0\r\n\r\n" + b"J",
    "a second response": with_length(BODY) + with_length(STRAY),
    "after an error": b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}" + with_length(STRAY),
    "after 204": b"HTTP/1.1 204 No\r\n\r\n" + with_length(STRAY),
    "after 101": b"HTTP/1.1 101 Switch\r\n\r\n",
}


@pytest.mark.parametrize("case", SURPLUS)
def test_a_connection_with_a_surplus_is_not_used_again(
    case: str, raw_server: MakeServer, client_of: ClientOf
) -> None:
    """The surplus would be taken for the answer to the next prompt."""
    first = threading.Event()

    def handler(sock: socket.socket) -> None:
        if first.is_set():
            read_request(sock)
            sock.sendall(with_length(OTHER))
            return
        first.set()
        read_request(sock)
        sock.sendall(SURPLUS[case])
        read_request(sock)  # which never comes
        sock.sendall(with_length(STRAY))

    server = raw_server(handler)
    client = client_of(server)
    stream = client.stream("a")
    if b"404" in SURPLUS[case] or b" 204" in SURPLUS[case] or b" 101" in SURPLUS[case]:
        failure(stream)
    else:
        assert stream.result().text == "answer A"
    assert client.stream("b").result().text == "answer B"
    assert server.accepted == 2


def test_a_surplus_in_a_tls_record_is_seen(tls_server: LLMServer, client_for: ClientOf) -> None:
    """It has been decrypted, and the socket does not show it."""
    tls_server.script(Reply([BODY + b"JUNK"], headers={"Content-Length": str(len(BODY))}))
    tls_server.default = lambda _: Reply([OTHER])
    client = client_for(tls_server, api="chat", model="m", retry=FAST)
    assert client.stream("a").result().text == "answer A"
    assert client.stream("b").result().text == "answer B"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_connection_without_a_surplus_is_used_again(
    framing: str, raw_server: MakeServer, client_of: ClientOf
) -> None:
    def handler(sock: socket.socket) -> None:
        while True:
            read_request(sock)
            whole = with_length(BODY)
            sock.sendall(whole if framing == "length" else CHUNKED + chunk(BODY) + b"0\r\n\r\n")

    server = raw_server(handler)
    client = client_of(server)
    for _ in range(3):
        assert client.stream("a").result().text == "answer A"
    assert server.accepted == 1


# ---- chunks ------------------------------------------------------------------------------------

GARBLED: dict[str, bytes] = {
    "a size that is too small": chunk(BODY, b"%x" % (len(BODY) - 9)),
    "a size that is one too large": chunk(BODY, b"%x" % (len(BODY) + 1)) + chunk(BODY),
    "a size that covers the line end": chunk(BODY, b"%x" % (len(BODY) + 2)) + b"100\r\n" + BODY,
    "no line end": chunk(BODY, end=b"") + chunk(BODY),
    "two letters for a line end": chunk(BODY, end=b"ab"),
    "a sign": chunk(BODY, b"+%x" % len(BODY)),
    "a negative size": chunk(BODY, b"-5"),
    "a prefix": chunk(BODY, b"0x%x" % len(BODY)),
    "an underscore": chunk(BODY, b"1_0"),
    "no size": chunk(BODY, b";a=b"),
    "words": chunk(BODY, b"abcxyz"),
    "a line that is too long": chunk(BODY, b"%x;" % len(BODY) + b"x" * 70_000),
}


@pytest.mark.parametrize("case", GARBLED)
@pytest.mark.parametrize("when", ["first", "after content"])
def test_chunks_are_where_their_sizes_say(
    case: str, when: str, raw_server: MakeServer, client_of: ClientOf
) -> None:
    """Else the error says so, once: the next response of such a server is no better."""
    blocks = Answer("one two three").blocks("chat")
    begin = b"".join(chunk(block) for block in blocks[:2]) if when == "after content" else b""
    garbled = GARBLED[case]
    if case != "no line end":  # no terminal event among what is read before the error
        garbled = garbled.replace(b"[DONE]", b"[DOWN]").replace(b'"stop"', b"null  ")
    else:
        garbled = chunk(blocks[2], end=b"") + chunk(blocks[3])

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(CHUNKED + begin + garbled + b"0\r\n\r\n")
        sock.recv(1)

    server = raw_server(handler)
    error = failure(client_of(server).stream("Hi"))
    assert type(error) is ProtocolError, error
    assert len(error.attempts) == 1


def test_a_cut_in_a_chunk_is_a_cut(raw_server: MakeServer, client_of: ClientOf) -> None:
    """Not garbage: the connection was lost."""
    for cut in (3, 30, len(chunk(BODY)) - 1):

        def handler(sock: socket.socket, cut: int = cut) -> None:
            read_request(sock)
            sock.sendall((CHUNKED + chunk(BODY[:60]) + chunk(BODY[60:90]))[: len(CHUNKED) + cut])

        assert isinstance(failure(client_of(raw_server(handler)).stream("Hi")), StreamInterrupted)


# ---- interim responses -------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
@pytest.mark.parametrize("count", [20, 21])
def test_interim_responses_have_a_number(
    line: bytes, count: int, raw_server: MakeServer, client_of: ClientOf
) -> None:
    """100 (Continue) too, which http.client skips without counting."""

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall((b"HTTP/1.1 " + line + b"\r\n\r\n") * count + with_length(BODY))

    stream = client_of(raw_server(handler)).stream("Hi")
    if count == 20:
        assert stream.result().text == "answer A"
    else:
        assert type(failure(stream)) is ProtocolError


# ---- encodings ---------------------------------------------------------------------------------

ENCODED: dict[str, tuple[str, bytes]] = {
    "gzip": ("gzip", gzip.compress(BODY)),
    "upper case": ("GZIP", gzip.compress(BODY)),
    "deflate": ("deflate", zlib.compress(BODY)),
    "identity too": ("identity, gzip", gzip.compress(BODY)),
    "a character set": ("utf-8", BODY),
}


@pytest.mark.parametrize("case", ENCODED)
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_an_encoding_is_decoded_once(
    case: str, framing: str, server: LLMServer, client_for: ClientOf
) -> None:
    """Requests ask for identity; some servers send another, and the connection is used again."""
    encoding, body = ENCODED[case]
    reply = Reply([body], headers={"Content-Encoding": encoding}, framing=framing)
    server.default = lambda _: reply
    client = client_for(server, api="chat", model="m", retry=FAST)
    for _ in range(2):
        assert client.stream("Hi").result().text == "answer A"


UNDECODABLE: dict[str, tuple[str, bytes]] = {
    "nested": ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
    "of two kinds": ("gzip, br", gzip.compress(BODY)),
    "not gzip": ("gzip", BODY),
    "not deflate": ("deflate", b"\xff" * 50),
    "broken": ("gzip", gzip.compress(BODY)[:10] + b"\xff" * 90),
    "brotli": ("br", b"\x8b\x03\x80abcd\x03"),
    "zstd": ("zstd", b"(\xb5/\xfd\x04X)\x00\x00hello"),
}


@pytest.mark.parametrize("case", UNDECODABLE)
def test_what_cannot_be_decoded_is_asked_for_once(
    case: str, server: LLMServer, client_for: ClientOf
) -> None:
    """A second request would be billed, and be answered in the same way."""
    encoding, body = UNDECODABLE[case]
    server.default = lambda _: Reply([body], headers={"Content-Encoding": encoding})
    error = failure(client_for(server, api="chat", model="m", retry=FAST).stream("Hi"))
    assert isinstance(error, ProtocolError)
    assert isinstance(error, NotAStreamError) or "identity" in str(error)
    assert len(error.attempts) == 1


def test_a_json_body_has_a_bound(server: LLMServer, client_for: ClientOf) -> None:
    """An answer in one JSON document: max_event_bytes holds for what it decodes to."""
    body = gzip.compress(b'{"x": "' + bytes(3_000_000) + b'"}')
    server.default = lambda _: Reply([body], headers={"Content-Encoding": "gzip"})
    client = client_for(server, api="chat", model="m", retry=FAST, max_event_bytes=1_000_000)
    error: Any = failure(client.stream("Hi"))
    assert type(error).__name__ == "EventTooLarge"
    assert "max_event_bytes" in str(error)
