"""A success that is not a stream: one request, and an error that shows what arrived. And a stream
under a wrong label, which stays one."""

from __future__ import annotations

import gzip

import pytest
from every import every
from support import failure

from llmstream import Client, LLMStreamError, NotAStreamError, RetryPolicy, StreamTruncated
from llmstream.testing import Answer, Cut, Drip, LLMServer, Reply

APIS = ("responses", "messages", "chat", "gemini")
PROXY = b"upstream connect error or disconnect/reset before headers"
AWS = b"\x00\x00\x00\x9b\x00\x00\x00\x4b\xaa\xbb\xcc\xdd\x0b:event-type\x07\x00\x05chunk"
BROTLI = b"\x0b\x02\x80hello\x03"
ZSTD = b"(\xb5/\xfd\x04X)\x00\x00hello"

# A reply, and what the error has to show of it.
FOREIGN: dict[str, tuple[Reply, list[str]]] = {
    "plain text": (Reply([PROXY], content_type="text/plain"), ["text", "text/plain", "upstream"]),
    "plain text as a stream": (Reply([PROXY]), ["text/event-stream", "upstream connect"]),
    "plain text, byte by byte": (Reply([Drip(PROXY, every=0.001)]), ["upstream connect"]),
    "a word like a field": (Reply([b"database is down"]), ["database is down"]),
    "an error in words": (
        Reply([b"error: no such host\n"], content_type="text/plain"),
        ["error: no such host"],
    ),
    "no label": (Reply([PROXY], content_type=None), ["upstream connect"]),
    "an AWS event stream": (
        Reply([AWS], content_type="application/vnd.amazon.eventstream"),
        ["binary data", "application/vnd.amazon.eventstream", "event-type"],
    ),
    "binary as a stream": (Reply([AWS]), ["binary data", "event-type"]),
    "brotli": (Reply([BROTLI], headers={"Content-Encoding": "br"}), ["'br'", "hello"]),
    "zstd": (Reply([ZSTD], headers={"Content-Encoding": "zstd"}), ["'zstd'", "hello"]),
    "204": (Reply([], status=204, framing="length"), ["204", "no content"]),
    "a page": (Reply(b"<html>Log in</html>", content_type="text/html"), ["HTML page", "Log in"]),
}


def failure_of(server: LLMServer, api: str, reply: Reply) -> LLMStreamError:
    server.default = lambda _: reply
    base = server.base_url_for(api)
    retry = RetryPolicy(max_attempts=2, base=0.01)
    with Client(api, base_url=base, api_key="sk-test", model="m", retry=retry) as client:
        return failure(client.stream("Hi"))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("reply", "shown"), FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_no_stream_is_shown_and_asked_once(
    server: LLMServer, api: str, reply: Reply, shown: list[str]
) -> None:
    """With its label and its beginning; another request would bring the same."""
    error = failure_of(server, api, reply)
    assert type(error) is NotAStreamError
    assert not error.retryable
    assert len(server.requests) == len(error.attempts) == 1
    for words in shown:
        assert words in str(error)


@pytest.mark.slow
@every("api", APIS)
@every(
    "label",
    ["text/plain", "application/json", "application/octet-stream", "text/html", "x", "", None],
)
@every("start", [b"", b": ping\n\n", b"\n\n", b"\xef\xbb\xbf", b"id: 1\n\n"])
def test_a_stream_stays_one_under_any_label(
    server: LLMServer, api: str, label: str | None, start: bytes
) -> None:
    """Labels are often wrong: the first bytes decide."""
    reply = Reply([start, *Answer("Hi there").blocks(api)], content_type=label)
    server.default = lambda _: reply
    base = server.base_url_for(api)
    with Client(api, base_url=base, api_key="sk-test", model="m") as client:
        assert client.stream("Hi").result().text == "Hi there"


def test_a_stream_that_arrives_byte_by_byte(server: LLMServer) -> None:
    """The beginning of a field's name is not foreign yet."""
    body = b"".join(Answer("Hi").blocks("chat"))
    server.script(Reply([Drip(body, every=0.0)], content_type="text/plain"))
    with Client("chat", base_url=server.base_url, api_key="sk-test", model="m") as client:
        assert client.stream("Hi").result().text == "Hi"


@pytest.mark.parametrize("length", range(6))
def test_a_stream_that_is_cut_in_its_first_field(server: LLMServer, length: int) -> None:
    """It is a cut stream, which is asked for again, and not something else."""
    cut = Reply([*([b"data: {"[:length]] if length else []), Cut(last_chunk=True)])
    error = failure_of(server, "chat", cut)
    assert type(error) is StreamTruncated
    assert len(error.attempts) == 2


def test_an_encoding_that_can_be_decoded(server: LLMServer) -> None:
    """A server that compresses although it was asked not to."""
    body = gzip.compress(b"".join(Answer("Hi there").blocks("chat")))
    server.script(Reply([body], headers={"Content-Encoding": "gzip"}))
    with Client("chat", base_url=server.base_url, api_key="sk-test", model="m") as client:
        assert client.stream("Hi").result().text == "Hi there"
