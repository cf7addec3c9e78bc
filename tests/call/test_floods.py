"""Services, and what stands in front of them, that send without end and bring nothing: every flood
ends by a clock, in time, on the four APIs. The library is never idle in them."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import ONCE, RawServer, Reading, read_request

from llmstream import (
    Client,
    ConnectTimeout,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    ProtocolError,
    ServerError,
    StreamTimeout,
    StreamTruncated,
    Timeouts,
)
from llmstream.testing import Answer

APIS = ("responses", "messages", "chat", "gemini")
CLOCK = 0.3  # seconds; also for the floods
SOON = 8.0  # seconds: of a busy machine
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def sse(payload: dict[str, Any]) -> bytes:
    return f"event: {payload.get('type', 'message')}\ndata: {json.dumps(payload)}\n\n".encode()


def delta(api: str, text: str) -> dict[str, Any]:
    if api == "messages":
        piece = {"type": "text_delta", "text": text}
        return {"type": "content_block_delta", "index": 0, "delta": piece}
    if api == "responses":
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        return {"type": "response.output_text.delta", "delta": text, **place}
    if api == "gemini":
        return {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}}]}
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}


def status(api: str) -> dict[str, Any]:
    """What says something the first time, and nothing after it."""
    if api == "messages":
        return {"type": "content_block_stop", "index": 0}
    if api == "responses":
        place = {"item_id": "ws_1", "output_index": 0}
        return {"type": "response.web_search_call.searching", **place}
    if api == "gemini":
        return {"candidates": [{"content": {"parts": [{"functionCall": {}}], "role": "model"}}]}
    call = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}


def usage(api: str) -> dict[str, Any]:
    if api == "messages":
        return {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}}
    if api == "responses":
        response = {"id": "r", "status": "in_progress", "usage": {"output_tokens": 7}}
        return {"type": "response.in_progress", "response": response}
    if api == "gemini":
        return {"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 7}}
    used = {"prompt_tokens": 1, "completion_tokens": 7}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": used}


EVENTS: dict[str, Callable[[str], bytes]] = {
    "comments": lambda _: b": ping\n\n",
    "comments without an end": lambda _: b": ping\n",
    "newlines": lambda _: b"\n",
    "carriage returns": lambda _: b"\r",
    "fields": lambda _: b"retry: 1\n\n",
    "empty data": lambda _: b"data:\n\n",
    "pings": lambda _: sse({"type": "ping"}),
    "words": lambda _: b"data: keepalive\n\n",
    "unknown events": lambda _: sse({"type": "novel", "x": 1}),
    "unknown events of the API": lambda _: sse({"type": "response.novel.thing", "x": 1}),
    "empty deltas": lambda api: sse(delta(api, "")),
    "a status": lambda api: sse(status(api)),
    "usage": lambda api: sse(usage(api)),
}


def pour(sock: socket.socket, piece: bytes, seconds: float = SOON * 2) -> None:
    """Send `piece` again and again, until the client leaves."""
    block = piece * (65536 // len(piece) + 1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sock.sendall(block)


def opening(api: str) -> bytes:
    """An answer's beginning, with its first word."""
    blocks = Answer("word " * 6).blocks(api)
    first = next(n for n, block in enumerate(blocks) if b"word" in block)
    return b"".join(blocks[: first + 1])


def ended(
    client: Client, api: str, seconds: float = CLOCK, **clocks: float | None
) -> tuple[BaseException | None, float]:
    begun = time.monotonic()
    every = {"connect": SOON, **dict.fromkeys(("first_token", "idle", "silence"), seconds)}
    reading = Reading(client.stream("Hi", timeouts=Timeouts(**{**every, **clocks})))
    return reading.ended(SOON), time.monotonic() - begun


@pytest.fixture
def client_of(client_for: Callable[..., Client]) -> Callable[..., Client]:
    def make(server: RawServer, api: str = "chat", **settings: Any) -> Client:
        base = server.url if api in ("messages", "gemini") else server.base_url
        known = {"base_url": base, "retry": ONCE, "model": "m"}
        return client_for(None, api=api, **{**known, **settings})

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("api", "flood"),
    [
        # What is not of the API is told from events before any API is asked.
        pytest.param(api, flood, marks=pytest.mark.slow if is_any and api == "gemini" else ())
        for api in APIS
        for flood in EVENTS
        for is_any in [flood not in ("empty deltas", "a status", "usage")]
    ],
)
@pytest.mark.parametrize("when", ["before the first token", "after it"])
def test_a_flood_of_nothing(
    api: str,
    flood: str,
    when: str,
    raw_server: Callable[..., RawServer],
    client_of: Callable[..., Client],
) -> None:
    """It ends by the first-token clock, or by idle: what arrives is not progress."""
    begins = when == "after it"

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(HEAD + b"\r\n" + (opening(api) if begins else b""))
        pour(sock, EVENTS[flood](api))

    # A comment without an end is also an event without an end: a fast machine reads its 64 MiB
    # before a clock runs out, but no machine reads a TiB.
    client = client_of(raw_server(handler), api, max_event_bytes=2**40)
    error, seconds = ended(client, api)
    assert isinstance(error, IdleTimeout if begins else FirstTokenTimeout), error
    assert CLOCK * 0.9 <= seconds < SOON
    assert error.partial.text.strip() == ("word" if begins else "")


HTTP: dict[str, tuple[bytes, bytes]] = {
    "trailers": (CHUNKED + b"0\r\n", b"x: y\r\n"),
    "chunk extensions": (CHUNKED, b"1;" + b"x" * 5000 + b"\r\n:\r\n"),
    "chunks of a byte": (CHUNKED, b"1\r\n:\r\n1\r\n\n\r\n"),
    "one event without an end": (HEAD + b"\r\ndata: ", b"x"),
    "white space": (HEAD + b"\r\n", b" "),
    "JSON without an end": (HEAD + b"\r\n{", b" "),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim responses of another kind": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("flood", HTTP)
def test_a_flood_of_http(
    flood: str,
    raw_server: Callable[..., RawServer],
    client_of: Callable[..., Client],
) -> None:
    """Below the events: it ends by a clock, or because there is too much of it."""
    begin, piece = HTTP[flood]

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(begin)
        pour(sock, piece)

    error, _ = ended(client_of(raw_server(handler)), "chat")
    assert isinstance(error, (StreamTimeout, ProtocolError)), error


def bomb() -> bytes:
    """1 MB of gzip that stands for 1 GB of comments."""
    return gzip.compress(b": p\n\n" * 20_000_000, 1)


@pytest.mark.parametrize("end", ["total", "idle", "cancel"])
@pytest.mark.slow
def test_a_bomb_is_decoded_within_the_clocks(
    end: str,
    raw_server: Callable[..., RawServer],
    client_of: Callable[..., Client],
) -> None:
    """What arrives in one packet may keep the library at work for minutes: it asks the clocks, and
    whether it was cancelled, all the time."""
    body = bomb()

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        sock.sendall(head % len(body) + body)
        sock.recv(1)

    client = client_of(raw_server(handler))
    clocks = Timeouts(
        first_token=CLOCK if end == "idle" else 60, total=CLOCK if end == "total" else 60
    )
    stream = client.stream("Hi", timeouts=clocks)
    begun = time.monotonic()
    if end == "cancel":
        threading.Timer(CLOCK, stream.cancel).start()
    error = Reading(stream).ended(SOON)
    kinds = {"total": DeadlineExceeded, "idle": FirstTokenTimeout}
    assert type(error).__name__ == kinds[end].__name__ if end in kinds else "Cancelled"
    assert time.monotonic() - begun < 3


@pytest.mark.slow
@pytest.mark.parametrize("body", ["flood", "bomb", "silence", "nested"])
def test_the_body_of_an_error(
    body: str,
    raw_server: Callable[..., RawServer],
    client_of: Callable[..., Client],
) -> None:
    """The status is reason enough: its body costs at most 2 s."""

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(b"HTTP/1.1 500 Oops\r\nContent-Type: text/plain\r\n")
        if body == "bomb":
            packed = gzip.compress(bytes(50_000_000), 1)
            sock.sendall(b"Content-Encoding: gzip\r\n\r\n" + packed)
        elif body == "nested":
            sock.sendall(b"Content-Encoding: gzip, gzip\r\n\r\n" + gzip.compress(b"x"))
        else:
            sock.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        if body == "flood":
            pour(sock, b"1\r\n \r\n")
        sock.recv(1)

    error, seconds = ended(client_of(raw_server(handler)), "chat", seconds=20.0)
    assert isinstance(error, ServerError)
    assert seconds < 6


@pytest.mark.parametrize("flood", ["headers", "interim"])
def test_a_proxy_that_floods_its_answer_to_connect(
    flood: str,
    raw_server: Callable[..., RawServer],
    client_of: Callable[..., Client],
) -> None:
    """The connect clock covers the proxy's answer."""

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        if flood == "headers":
            sock.sendall(b"HTTP/1.1 200 OK\r\n")
            pour(sock, b"X: y\r\n")
        pour(sock, b"HTTP/1.1 100 Continue\r\n\r\n")

    proxy = raw_server(handler)
    client = client_of(proxy, base_url="https://service.test/v1", proxies={"all": proxy.url})
    error, _ = ended(client, "chat", connect=CLOCK)
    assert isinstance(error, (ConnectTimeout, ProtocolError, ConnectionError)), error


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("after", [b": ping\n\n", b"\n", b'data: {"type": "ping"}\n\n'])
def test_a_flood_after_the_end_of_the_answer(
    api: str,
    after: bytes,
    raw_server: Callable[..., RawServer],
    client_of: Callable[..., Client],
) -> None:
    """The answer is complete, and what follows is waited for as long as ever: 2 s at most. Where
    no event proves the end and the clock cuts one in half, that may be more of the answer."""
    blocks = [block for block in Answer("Hello").blocks(api) if b"[DONE]" not in block]

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(HEAD + b"\r\n" + b"".join(blocks))
        pour(sock, after)

    client = client_of(raw_server(handler), api)
    stream = client.stream("Hi", timeouts=Timeouts(idle=20))
    begun = time.monotonic()
    reading = Reading(stream)
    error = reading.ended(SOON)
    in_half = api == "gemini" and after.startswith(b"data")
    assert error is None or (in_half and isinstance(error, StreamTruncated)), error
    assert "".join(reading.tokens) == "Hello"
    assert time.monotonic() - begun < 5


def test_an_event_byte_by_byte_is_whole(
    raw_server: Callable[..., RawServer],
    client_of: Callable[..., Client],
) -> None:
    """In chunks of one byte, with extensions."""
    body = b"".join(Answer("Hello there").blocks("chat"))

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(CHUNKED + b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body))
        sock.sendall(b"0\r\nx: y\r\n\r\n")

    assert client_of(raw_server(handler)).stream("Hi").result().text == "Hello there"
