"""The doubles of clock and transport: scripted calls in no time."""

from __future__ import annotations

import pytest
from every import every

from llmstream import (
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    LLMStreamError,
    RetryPolicy,
    SilenceTimeout,
    StreamInterrupted,
    StreamTruncated,
    Timeouts,
)
from llmstream.testing import (
    Answer,
    Cut,
    Drip,
    FakeClock,
    FakeTransport,
    Pause,
    Pings,
    Reply,
    Reset,
    Silence,
)

ANSWER = Answer("Hello brave new world")
TWO_WORDS = ANSWER.blocks()[:6]
REST = ANSWER.blocks()[6:]


def bench(*replies: Reply | Answer) -> tuple[Client, FakeTransport, FakeClock]:
    clock = FakeClock()
    transport = FakeTransport(*replies)
    return Client(base_url="http://test/v1", transport=transport, clock=clock), transport, clock


def test_a_scripted_answer_arrives() -> None:
    """A call through the double gives the answer and records the request."""
    client, transport, _ = bench(ANSWER)
    assert client.stream("Hi").result().text == "Hello brave new world"
    (request,) = transport.requests
    assert (request.method, request.path, request.json()["input"]) == (
        "POST",
        "/v1/responses",
        "Hi",
    )
    assert "user-agent" in request.headers


def test_waits_pass_without_passing() -> None:
    """A server's wait of 20 s is waited out on the double's time."""
    client, _, clock = bench(Reply.error(429, headers={"retry-after": "20"}), ANSWER)
    begun = clock.monotonic()
    result = client.stream("Hi").result()
    assert result.text == "Hello brave new world"
    assert 20 <= clock.monotonic() - begun <= 25
    assert clock.slept == [pytest.approx(result.attempts[0].delay_ms / 1000.0)]


CLOCKS: dict[str, tuple[Reply, Timeouts, type[LLMStreamError], float, str]] = {
    "before headers": (Reply(before=[Silence()]), Timeouts(), FirstTokenTimeout, 300, ""),
    "pings only": (Reply(Pings(20)), Timeouts(), FirstTokenTimeout, 300, ""),
    "silence": (
        Reply([b": ping\n\n", *TWO_WORDS, Silence()]),
        Timeouts(),
        SilenceTimeout,
        90,
        "Hello brave",
    ),
    "no ping": (Reply([*TWO_WORDS, Silence()]), Timeouts(), IdleTimeout, 180, "Hello brave"),
    "pings": (Reply([*TWO_WORDS, Pings(20)]), Timeouts(), IdleTimeout, 180, "Hello brave"),
    "drip": (
        Reply([*TWO_WORDS, Drip(b"data: " + b"x" * 9999, every=1.0)]),
        Timeouts(),
        IdleTimeout,
        180,
        "Hello brave",
    ),
    "total": (
        Reply([*TWO_WORDS, Pings(20)]),
        Timeouts(total=45),
        DeadlineExceeded,
        45,
        "Hello brave",
    ),
}


@every("name", CLOCKS)
def test_clocks_break_on_the_double_to_the_moment(name: str) -> None:
    """Each clock ends the stream exactly at its time, with the text so far."""
    reply, timeouts, error, seconds, text = CLOCKS[name]
    client, _, clock = bench(reply)
    begun = clock.monotonic()
    # A pause in the caller's own time must not count, but for the hard deadline.
    with pytest.raises(error) as caught:
        client.stream("Hi", timeouts=timeouts, retry=RetryPolicy(max_attempts=1)).result()
    assert clock.monotonic() - begun == pytest.approx(seconds)
    assert caught.value.partial.text == text


def test_the_callers_own_time_does_not_count() -> None:
    """A stream is not idle while the caller takes an hour between two tokens."""
    client, _, clock = bench(Reply([*TWO_WORDS, Pause(100.0), b": ping\n\n", Pause(70), *REST]))
    seen = []
    for token in client.stream("Hi", timeouts=Timeouts(silence=None)):
        seen.append(token)
        clock.advance(3600)
    assert "".join(seen) == "Hello brave new world"


def test_a_stream_that_would_hang_is_an_assertion_error() -> None:
    """With every clock off, a silent server does not hang the test."""
    client, _, _ = bench(Reply([*TWO_WORDS, Silence()]))
    with pytest.raises(AssertionError, match="hang for ever"):
        client.stream("Hi", timeouts=Timeouts(None, None, None, None)).result()


CUTS: dict[str, tuple[Reply, type[LLMStreamError]]] = {
    "no last chunk": (Reply([*TWO_WORDS, Cut()]), StreamInterrupted),
    "clean end": (Reply([*TWO_WORDS, Cut(last_chunk=True)]), StreamTruncated),
    "close-delimited": (Reply([*TWO_WORDS, Cut()], framing="close"), StreamTruncated),
    "reset": (Reply([*TWO_WORDS, Reset()]), StreamInterrupted),
    "before headers": (Reply(before=[Reset()]), ConnectionFailed),
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_are_errors_on_the_double_too(name: str) -> None:
    """Each way to cut a stream has its class, as over a real network."""
    reply, error = CUTS[name]
    client, _, _ = bench(reply)
    with pytest.raises(error):
        client.stream("Hi", retry=RetryPolicy(max_attempts=1)).result()


def test_a_missing_reply_is_an_assertion_error() -> None:
    """A request without a scripted reply is an AssertionError that says so."""
    client, _, _ = bench()
    with pytest.raises(AssertionError, match="script one more"):
        client.stream("Hi").result()
