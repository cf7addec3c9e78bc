"""What is asked again, after what wait, how often; what is not; and what a hostile peer's answer is
turned into. Over a real network."""

from __future__ import annotations

import email.utils
import gzip
import pickle
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from support import (
    ANSWER,
    AT_ONCE,
    BLOCKS,
    DELTAS,
    ENDLESS,
    ONCE,
    OPENING,
    PROMPT,
    TWO_TOKENS,
    RawServer,
    Reading,
    bounded,
    clocks,
    eventually,
    failure,
    phase_of,
    read_request,
    until_blocked,
)

import llmstream._call.retrying
from llmstream import (
    AuthenticationError,
    Cancelled,
    Client,
    ConfigurationError,
    ConnectionFailed,
    ConnectTimeout,
    FirstTokenTimeout,
    IdleTimeout,
    InvalidRequestError,
    LLMStreamError,
    NotAStreamError,
    OverloadedError,
    PermissionDeniedError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    ServiceError,
    SilenceTimeout,
    Stream,
    StreamInterrupted,
    StreamTruncated,
    Timeouts,
)
from llmstream.testing import (
    Answer,
    Cut,
    Drip,
    FakeClock,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Reset,
    Send,
    Silence,
)
from llmstream.testing.answers import sse_block
from llmstream.testing.script import chunk

TEXT = "one two three four"
FAR = clocks(8.0)  # seconds: a stream that hangs is noticed, but not for nothing
SHORT = 0.2

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jitter is always half of what it may be."""
    monkeypatch.setattr(llmstream._call.retrying.random, "random", lambda: 0.5)


def in_stream(
    code: str = "server_error", kind: str = "error", message: str = "a scripted error"
) -> bytes:
    """An error event inside a 200 stream, in one of its shapes."""
    said = {"code": code, "type": code, "message": message}
    payloads: dict[str, tuple[str, Any]] = {
        "error": ("error", {"type": "error", "error": said}),
        "flat": ("error", {"type": "error", "code": code, "message": "a scripted error"}),
        "failed": (
            "response.failed",
            {"type": "response.failed", "response": {"status": "failed", "error": said}},
        ),
    }
    name, payload = payloads[kind]
    return sse_block(name, payload)


# ---- asked again -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failing:
    """A failure before the first content, and how its attempt is recorded."""

    reply: Reply
    error: type[LLMStreamError]
    phase: str = "headers"
    status: int | None = None
    timeouts: Timeouts = FAR
    times: int = 2


def with_status(status: int, error: type[LLMStreamError], **headers: str) -> Failing:
    return Failing(Reply.error(status, headers=headers), error, status=status)


def inside(
    steps: Any, error: type[LLMStreamError], phase: str = "first_token", **kwargs: Any
) -> Failing:
    timeouts = kwargs.pop("timeouts", FAR)
    return Failing(Reply(steps, **kwargs), error, phase, 200, timeouts)


RETRIED = {
    **{str(status): with_status(status, ServerError) for status in (408, 409, 425, 500, 502, 504)},
    "429": with_status(429, RateLimitError),
    "503": with_status(503, OverloadedError),
    "529": with_status(529, OverloadedError),
    "599": with_status(599, ServerError),
    "400 that asks for it": with_status(400, InvalidRequestError, **{"x-should-retry": "true"}),
    "a reset before the headers": Failing(Reply(before=[Reset()]), ConnectionFailed),
    "an end before the headers": Failing(Reply(before=[Cut()]), ConnectionFailed),
    "an end in the status line": Failing(Reply.raw(b"HTTP/1."), StreamInterrupted),
    "an end in the headers": Failing(
        Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev"), StreamInterrupted
    ),
    "a reset in the headers": Failing(
        Reply(before=[b"HTTP/1.1 200 OK\r\nServer: x\r\n", Reset()]), StreamInterrupted
    ),
    "a reset after the headers": inside([Reset()], StreamInterrupted),
    "a reset after an event": inside([*OPENING, Reset()], StreamInterrupted),
    "a cut after an event": inside([*OPENING, Cut()], StreamInterrupted),
    "a cut in a chunk": inside(
        [*OPENING, Send(chunk(DELTAS[0])[:-9], raw=True), Cut()], StreamInterrupted
    ),
    "a body shorter than its length": inside(
        OPENING, StreamInterrupted, framing="length", length=99_999
    ),
    "a clean end after an event": inside([*OPENING, Cut(last_chunk=True)], StreamTruncated),
    "a clean end after half an event": inside([*OPENING, DELTAS[0][:-2]], StreamTruncated),
    "the end of a close-delimited body": inside(OPENING, StreamTruncated, framing="close"),
    "an empty body": inside([], StreamTruncated),
    "an error event": inside([BLOCKS[0], in_stream()], ServerError),
    "an error event first of all": inside([in_stream("overloaded_error")], OverloadedError),
    "a flat error event": inside(
        [BLOCKS[0], in_stream("rate_limit_exceeded", "flat")], RateLimitError
    ),
    "a failed response": inside([BLOCKS[0], in_stream("server_error", "failed")], ServerError),
    "an error and a failed response": inside(Answer(error={"code": "server_error"}), ServerError),
    "an error event and silence": inside([in_stream(), Silence()], ServerError),
    "an error event and endless pings": inside([in_stream(), Pings(0.05)], ServerError),
    "an error event and a reset": inside([in_stream(), Reset()], ServerError),
    "a JSON error in a 200": Failing(
        Reply.json({"error": {"code": "server_error", "message": "x"}}),
        ServerError,
        "first_token",
        200,
    ),
    "a JSON answer that was cut": inside(
        [b'{"id":"r","object":"respo'],
        StreamInterrupted,
        framing="length",
        length=999,
        content_type="application/json",
    ),
    "an event that is garbled": inside([BLOCKS[0], sse_block(None, "{]")], ProtocolError),
    "an error body that was cut": Failing(
        Reply([b'{"error": {"mess', Cut()], status=503), OverloadedError, status=503
    ),
    "an error body without end": Failing(
        Reply([b'{"error": {"mess', Silence()], status=503), OverloadedError, status=503, times=1
    ),
    "an error page that stalls": Failing(
        Reply([b"<p>" * 30_000, Silence()], status=502, framing="length", length=999_999),
        ServerError,
        status=502,
        times=1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", RETRIED.values(), ids=RETRIED.keys())
def test_a_failure_before_the_content_is_asked_again(
    server: LLMServer, client_for: Callable[..., Client], case: Failing
) -> None:
    """Failures of each kind, then an answer: one whole result, and the history tells all."""
    server.script(*[case.reply] * case.times, ANSWER)
    stream = client_for(server, retry=AT_ONCE, timeouts=case.timeouts).stream(PROMPT)
    reading = bounded(stream)
    assert reading.error is None
    result = stream.result()
    assert result.text == "".join(reading.tokens) == TEXT
    assert len(server.requests) == case.times + 1
    assert {request.body for request in server.requests} == {server.requests[0].body}
    *failed, last = result.attempts
    assert len(failed) == case.times
    for number, attempt in enumerate(failed, 1):
        assert attempt.number == number
        assert type(attempt.error) is case.error
        assert (attempt.phase, attempt.status) == (case.phase, case.status)
        assert not attempt.resent
    assert (last.number, last.error) == (case.times + 1, None)
    assert (last.phase, last.status) == ("done", 200)
    begun = [attempt.started_ms / 1000.0 for attempt in result.attempts]
    assert begun == sorted(set(begun))
    assert begun[0] >= 0.0
    assert result.timings.attempts == tuple(a.started_ms for a in result.attempts)


def test_over_tls(tls_server: LLMServer, client_for: Callable[..., Client]) -> None:
    """The same over TLS, where cuts look different: none of them is an answer."""
    names = [name for name in RETRIED if name.startswith(("a ", "an end", "the end"))]
    for name in names:
        case = RETRIED[name]
        tls_server.script(case.reply, ANSWER)
        stream = client_for(tls_server, retry=AT_ONCE, timeouts=case.timeouts).stream(PROMPT)
        assert bounded(stream).error is None, name
        assert type(stream.attempts[0].error) is case.error, name
        assert stream.result().text == TEXT


def test_a_connect_timeout_is_asked_again(client_for: Callable[..., Client]) -> None:
    """The connect clock starts anew with each attempt."""
    clock = FakeClock()  # time passes once the handshake has begun
    with LLMServer(tls=True, handshake=False) as silent:
        client = client_for(
            silent,
            timeouts=clocks(8.0, connect=SHORT),
            retry=RetryPolicy(3, 0.0, 0.0),
            clock=clock,
        )
        stream = client.stream(PROMPT)
        reading = Reading(stream)
        for number in range(1, 4):
            silent.wait_connections(number)
            eventually(
                lambda n=number: len(stream.attempts) == n and phase_of(stream) == "tls",
                "the handshake has begun",
            )
            clock.advance(SHORT)
        error = reading.ended()
        assert isinstance(error, ConnectTimeout)
        assert type(error) is ConnectTimeout
        assert [type(attempt.error) for attempt in error.attempts] == [ConnectTimeout] * 3
        assert silent.connections == 3
        silent.wait_all_closed()


def test_a_refused_connection_is_asked_again(client_for: Callable[..., Client]) -> None:
    """A server that is not there: all attempts are made, and the error says what to check."""
    # The system gives that port to nobody, as it may one that was closed.
    client = client_for(None, base_url="http://127.0.0.1:1/v1", retry=AT_ONCE)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert isinstance(error, ConnectionError)
    assert "refused" in str(error)
    assert [attempt.phase for attempt in error.attempts] == ["connect"] * 4
    assert isinstance(error.__cause__, OSError)


def test_a_name_that_does_not_exist(
    client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host name that does not resolve is a ConnectionFailed that says so."""

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = client_for(None, base_url="http://llm.invalid/v1", retry=AT_ONCE)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert "resolved" in str(error)


def test_a_resolver_that_breaks(
    client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever getaddrinfo raises (gevent and others replace it), the call does not hang."""

    def getaddrinfo(*args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        raise ValueError("a resolver of its own kind")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    off = Timeouts(None, None, None, None, None)
    client = client_for(None, base_url="http://llm.invalid/v1", retry=ONCE, timeouts=off)
    assert type(failure(client.stream(PROMPT))) is ConnectionFailed


def test_the_last_failure_is_raised(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """When the attempts are used up, the last failure is raised, with all of them."""
    cut = Reply([BLOCKS[0], Cut()])
    server.script(Reply.error(500), cut, Reply.error(503), Reply.error(429))
    error = failure(client_for(server, retry=AT_ONCE).stream(PROMPT))
    assert type(error) is RateLimitError
    assert [type(attempt.error) for attempt in error.attempts] == [
        ServerError,
        StreamInterrupted,
        OverloadedError,
        RateLimitError,
    ]
    assert error.attempts[-1].error is error
    assert [*map(id, error.attempts)] == [*map(id, error.partial.attempts)]
    assert len(server.requests) == 4


def test_the_message_counts_the_attempts(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Once, whatever ends the call, and however often the error is raised; one attempt is not
    counted."""
    cut = Reply([BLOCKS[0], Cut()])
    for replies, policy, made in (
        ([Reply.error(500)] * 4, AT_ONCE, 4),
        ([cut] * 4, AT_ONCE, 4),
        ([Reply.error(503), Reply.error(401)], AT_ONCE, 2),
        ([Reply.error(500)], ONCE, 1),
        ([Reply.error(400)], AT_ONCE, 1),
    ):
        server.script(*replies)
        stream = client_for(server, retry=policy).stream(PROMPT)
        error = failure(stream)
        with pytest.raises(type(error)) as again:
            stream.result()
        assert str(again.value) == str(error)
        assert len(error.attempts) == made
        assert str(error).count("attempts") == (made > 1)
        assert str(error).endswith(f"; after {made} attempts") is (made > 1)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_cancel_in_a_wait_counts_the_attempts(client_for: Callable[..., Client]) -> None:
    """Of a call that ended between two of them, those that were made; also a deadline's."""
    with LLMServer() as server:
        server.default = Reply.error(503)
        patient = RetryPolicy(base=60.0, cap=60.0, max_attempts=9)
        stream = client_for(server, retry=patient).stream(PROMPT)
        reading = Reading(stream)
        eventually(lambda: phase_of(stream) == "backoff", "it waits")
        stream.cancel("enough")
        error = reading.ended()
        assert isinstance(error, Cancelled)
        assert "attempts" not in str(error)
        quick = RetryPolicy(base=0.01, cap=0.01, max_attempts=9)
        stream = client_for(server, retry=quick).stream(PROMPT)
        server.script(Reply.error(503), Reply.error(503), Reply(before=[Silence()]))
        reading = Reading(stream)
        server.wait_requests(4)
        stream.cancel("enough")
        error = reading.ended()
        assert isinstance(error, Cancelled)
        assert str(error).endswith("after 3 attempts")


def test_each_attempt_has_its_own_identity(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """An attempt that got no answer does not show the request id of the one before."""
    server.script(
        Reply.error(500, request_id="req-1"),
        Reply(before=[Reset()]),
        Reply(ANSWER, headers={"x-request-id": "req-3"}),
    )
    stream = client_for(server, retry=AT_ONCE).stream(PROMPT)
    result = stream.result()
    assert [attempt.request_id for attempt in result.attempts] == ["req-1", None, "req-3"]
    assert result.request_id == stream.request_id == "req-3"
    errors = [attempt.error for attempt in result.attempts]
    assert [error and error.request_id for error in errors] == ["req-1", None, None]


# ---- waits -------------------------------------------------------------------------------------


def test_the_waits_grow(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Without a word of the server: base times 2**n, up to the cap, and jitter on top."""
    server.default = Reply.error(500)
    clock = FakeClock()
    policy = RetryPolicy(max_attempts=6, base=1.0, cap=5.0, jitter=0.5)
    error = failure(client_for(server, clock=clock, retry=policy).stream(PROMPT))
    assert clock.slept == [1.25, 2.5, 5.0, 6.25, 6.25]
    assert [attempt.delay_ms for attempt in error.attempts] == [
        *(1000.0 * s for s in clock.slept),
        0.0,
    ]
    assert len(server.requests) == 6


NOW = 1_800_000_000.0  # what FakeClock takes for now
ASKED = {
    "seconds": ({"retry-after": "20"}, 20.0),
    "a fraction": ({"retry-after": "7.5"}, 7.5),
    "just at the limit": ({"retry-after": "60"}, 60.0),
    "milliseconds": ({"retry-after-ms": "6500"}, 6.5),
    "milliseconds before seconds": ({"retry-after-ms": "6500", "retry-after": "9"}, 6.5),
    "a date": ({"retry-after": email.utils.formatdate(NOW + 30, usegmt=True)}, 30.0),
    "a date in the past": ({"retry-after": email.utils.formatdate(NOW - 30, usegmt=True)}, 0.4),
    "less than our own": ({"retry-after": "0.1"}, 0.4),
    "zero": ({"retry-after": "0"}, 0.4),
    "a negative number": ({"retry-after": "-1"}, 0.4),
    "no number": ({"retry-after": "nan"}, 0.4),
    "infinity": ({"retry-after": "inf"}, 0.4),
    "nonsense": ({"retry-after": "soon"}, 0.4),
    "nothing": ({"retry-after": ""}, 0.4),
}


@pytest.mark.parametrize(("headers", "floor"), ASKED.values(), ids=ASKED.keys())
def test_the_servers_wait_is_a_floor(
    server: LLMServer, client_for: Callable[..., Client], headers: dict[str, str], floor: float
) -> None:
    """A wait the server asks for is a floor, with the jitter on top; nonsense is no wait."""
    server.script(Reply.error(429, headers=headers), ANSWER)
    clock = FakeClock()
    result = client_for(server, clock=clock).stream(PROMPT).result()
    (waited,) = clock.slept
    assert waited == pytest.approx(floor * 1.125, abs=1e-3)
    assert result.attempts[0].delay_ms == pytest.approx(waited * 1000.0)


def test_a_wait_in_the_message(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """OpenAI says it in words, also inside the stream."""
    words = "Rate limit reached. Please try again in 6.379s."
    server.script(
        Reply.error(429, message=words),
        Reply(
            sse_block("error", {"type": "error", "code": "rate_limit_exceeded", "message": words})
        ),
        ANSWER,
    )
    clock = FakeClock()
    assert client_for(server, clock=clock).stream(PROMPT).result().text == TEXT
    assert clock.slept == pytest.approx([6.379 * 1.125] * 2)


@pytest.mark.parametrize(
    ("headers", "timeouts"),
    [
        ({"retry-after": "61"}, FAR),
        ({"retry-after-ms": "600000"}, FAR),
        ({"retry-after": "30"}, clocks(total=20.0)),
        ({"retry-after": "19"}, clocks(total=20.0)),  # with its jitter it goes past
    ],
)
def test_a_wait_too_long_is_not_begun(
    server: LLMServer,
    client_for: Callable[..., Client],
    headers: dict[str, str],
    timeouts: Timeouts,
) -> None:
    """Above max_retry_after, or past the deadline, the error is raised at once."""
    server.default = Reply.error(429, headers=headers)
    clock = FakeClock()
    error = failure(client_for(server, clock=clock, timeouts=timeouts).stream(PROMPT))
    assert type(error) is RateLimitError
    assert error.retry_after in (61.0, 600.0, 30.0, 19.0)
    assert clock.slept == []
    assert len(server.requests) == len(error.attempts) == 1


# ---- never asked again -------------------------------------------------------------------------

QUOTA = {"status": 429, "code": "insufficient_quota"}
FINAL = {
    **{str(status): (Reply.error(status), InvalidRequestError) for status in (400, 404, 413, 422)},
    "401": (Reply.error(401), AuthenticationError),
    "402": (Reply.error(402), QuotaExceededError),
    "403": (Reply.error(403), PermissionDeniedError),
    "418": (Reply.error(418), InvalidRequestError),
    "quota by code": (Reply.error(429, code="insufficient_quota"), QuotaExceededError),
    "quota by type": (Reply.error(429, type="insufficient_quota"), QuotaExceededError),
    "quota, though it asks for it": (
        Reply.error(429, code="insufficient_quota", headers={"x-should-retry": "true"}),
        QuotaExceededError,
    ),
    "429 that asks not to": (
        Reply.error(429, headers={"x-should-retry": "false"}),
        RateLimitError,
    ),
    "500 that asks not to": (Reply.error(500, headers={"x-should-retry": "FALSE"}), ServerError),
    "quota inside the stream": (Reply(in_stream("insufficient_quota")), QuotaExceededError),
    "a wrong request inside the stream": (
        Reply(in_stream("invalid_request_error", "failed")),
        InvalidRequestError,
    ),
    "a wrong key in a JSON 200": (
        Reply.json({"error": {"code": "invalid_api_key"}}),
        AuthenticationError,
    ),
    "a redirect": (
        Reply(status=307, headers={"location": "/v1/responses"}, framing="length"),
        InvalidRequestError,
    ),
    "a page": (Reply.html(), NotAStreamError),
    "no HTTP": (Reply.raw(b"SSH-2.0-OpenSSH_9.6\r\n"), ProtocolError),
}


@pytest.mark.parametrize(("reply", "error"), FINAL.values(), ids=FINAL.keys())
def test_what_would_fail_again_is_asked_once(
    server: LLMServer,
    client_for: Callable[..., Client],
    reply: Reply,
    error: type[LLMStreamError],
) -> None:
    """A failure that comes again costs exactly one request."""
    server.script(reply)
    found = failure(client_for(server, retry=AT_ONCE, timeouts=FAR).stream(PROMPT))
    assert type(found) is error
    assert not found.retryable or isinstance(found, ServiceError)
    assert len(server.requests) == len(found.attempts) == 1


CUTS: dict[str, tuple[list[Any], type[LLMStreamError], Timeouts]] = {
    "reset": ([Reset()], StreamInterrupted, FAR),
    "cut": ([Cut()], StreamInterrupted, FAR),
    "clean end": ([Cut(last_chunk=True)], StreamTruncated, FAR),
    "error": ([in_stream("overloaded_error")], OverloadedError, FAR),
    "failed": ([in_stream("server_error", "failed")], ServerError, FAR),
    "idle": ([Pings(0.02)], IdleTimeout, clocks(8.0, idle=SHORT)),
    "silence": ([Silence()], SilenceTimeout, clocks(8.0, silence=SHORT)),
}


def up_to_content(answer: Answer, event: str) -> list[bytes]:
    blocks = answer.blocks()
    first = next(n for n, block in enumerate(blocks) if event.encode() in block)
    return blocks[: first + 1]


CONTENT = {
    "text": TWO_TOKENS,
    "thinking": up_to_content(Answer("x", thinking="hm"), "summary_text.delta"),
    "refusal": up_to_content(Answer(refusal="no"), "refusal.delta"),
    "arguments": up_to_content(Answer(tool_calls=[("f", "{}")]), "arguments.delta"),
}


@pytest.mark.parametrize(("end", "error", "timeouts"), CUTS.values(), ids=CUTS.keys())
def test_never_after_content(
    server: LLMServer,
    client_for: Callable[..., Client],
    end: list[Any],
    error: type[LLMStreamError],
    timeouts: Timeouts,
) -> None:
    """Once content of any kind has come, nothing is asked again, and what came is kept."""
    for kind, steps in CONTENT.items():
        server.script(Reply([*steps, *end]), Answer("said twice"))
        before = len(server.requests)
        stream = client_for(server, retry=AT_ONCE, timeouts=timeouts).stream(PROMPT)
        found = failure(stream, Stream.result)
        assert type(found) is error, kind
        assert len(server.requests) - before == len(found.attempts) == 1, kind
        partial = found.partial
        seen = {"text": partial.text, "thinking": partial.thinking, "refusal": partial.refusal}
        seen["arguments"] = "".join(call.arguments for call in partial.incomplete_tool_calls)
        assert seen[kind], kind
        assert partial.tool_calls == ()
        server.script(Reply.error(400))  # use up the other reply
        server._script.popleft()
        server._script.popleft()


def test_content_and_error_in_one_read(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A retryable error that arrives together with the first content is behind content."""
    server.script(Reply(b"".join([*TWO_TOKENS, in_stream()])), Answer("said twice"))
    stream = client_for(server, retry=AT_ONCE).stream(PROMPT)
    reading = bounded(stream)
    assert type(reading.error) is ServerError
    assert reading.tokens == ["one", " two"]
    assert len(server.requests) == 1


def test_a_first_token_timeout_is_asked_again_on_request_only(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """It may bill twice: by default it is not retried, with retry_first_token=True it is."""
    slow = Reply([BLOCKS[0], Silence()])
    server.script(slow, slow, ANSWER)
    timeouts = clocks(8.0, first_token=SHORT)
    clock = FakeClock()  # time passes while the service is silent
    client = client_for(server, timeouts=timeouts, retry=AT_ONCE, clock=clock)

    def read_through_a_silence(stream: Stream) -> Reading:
        reading = Reading(stream, Stream.result)
        eventually(lambda: stream.response_id, "the first event has arrived")
        until_blocked(reading)  # the clock stands while an event is handed over
        clock.advance(SHORT)
        reading.ended()
        return reading

    error = read_through_a_silence(client.stream(PROMPT)).error
    assert isinstance(error, LLMStreamError)
    assert type(error) is FirstTokenTimeout
    assert len(error.attempts) == 1
    willing = RetryPolicy(base=0.0, cap=0.0, retry_first_token=True)
    result = read_through_a_silence(client.stream(PROMPT, retry=willing)).value
    assert result.text == TEXT
    assert type(result.attempts[0].error) is FirstTokenTimeout
    assert len(result.attempts) == 2


def test_a_cancel_beats_a_retry(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A cancel that comes while an attempt is failing is not answered with another attempt."""
    server.default = Reply([b"{", Silence()], status=503)
    stream = client_for(server, retry=RetryPolicy(1000, 0.0, 0.0)).stream(PROMPT)
    reading = Reading(stream)
    server.wait_requests(1)
    stream.cancel("stop")
    assert type(reading.ended(within=5.0)) is Cancelled


# ---- a connection that has gone stale ----------------------------------------------------------


def test_a_connection_closed_while_idle(
    any_server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A kept connection that the server has closed meanwhile is noticed before it is used."""
    any_server.default = Reply([*BLOCKS, Cut(last_chunk=True)])
    client = client_for(any_server, retry=ONCE)
    for number in range(3):
        result = client.stream(PROMPT).result()
        assert len(result.attempts) == 1
        any_server.wait_finished(number)
    assert len(any_server.requests) == any_server.connections == 3


STALE = {"end": Reply(before=[Cut()]), "reset": Reply(before=[Reset()])}


@pytest.mark.parametrize("drop", STALE.values(), ids=STALE.keys())
def test_a_connection_closed_under_the_request(
    any_server: LLMServer, client_for: Callable[..., Client], drop: Reply
) -> None:
    """A reused connection that drops without a byte costs nothing: resent once, at once."""
    any_server.script(ANSWER, drop, ANSWER)
    clock = FakeClock()
    client = client_for(any_server, retry=ONCE, clock=clock)
    client.stream(PROMPT).result()
    result = client.stream(PROMPT).result()
    assert result.text == TEXT
    assert clock.slept == []
    first, second = result.attempts
    assert isinstance(first.error, ConnectionFailed)
    assert (first.resent, first.delay_ms, first.error.reused) == (True, 0.0, True)
    assert (second.resent, second.error) == (False, None)
    assert len(any_server.requests) == 3
    assert any_server.connections == 2


def test_resent_at_most_once(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """When the second connection drops as well, it is a failure like any other."""
    gate = threading.Barrier(2)

    def together(_: Any) -> Answer:
        gate.wait(10)
        return ANSWER

    drop = Reply(before=[Cut()])
    server.script(together, together)
    client = client_for(server, retry=ONCE)
    two = [Reading(client.stream(PROMPT)) for _ in range(2)]
    assert [reading.ended() for reading in two] == [None, None]
    assert server.connections == 2  # both idle now
    server.script(drop, drop, ANSWER)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert [attempt.resent for attempt in error.attempts] == [True, False]
    assert len(server.requests) == 4


def test_a_fresh_connection_is_not_resent(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """On a new connection the service may have begun to work: that is an attempt."""
    server.script(Reply(before=[Cut()]), ANSWER)
    error = failure(client_for(server, retry=ONCE).stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert not error.reused
    assert len(server.requests) == 1


def test_a_byte_makes_it_no_longer_stale(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A reused connection that drops after one byte of an answer is not resent for free."""
    server.script(ANSWER, Reply.raw(b"H"), ANSWER)
    client = client_for(server, retry=ONCE)
    client.stream(PROMPT).result()
    error = failure(client.stream(PROMPT))
    assert type(error) is StreamInterrupted
    assert len(server.requests) == 2


# ---- what a service says -----------------------------------------------------------------------

KEY = "sk-marked-0123456789abcdef"
ECHOES = {
    "status": lambda said: Reply.error(401, message=said),
    "stream": lambda said: Reply(
        sse_block("error", {"type": "error", "code": "invalid_api_key", "message": said})
    ),
    "json": lambda said: Reply.json({"error": {"code": "invalid_api_key", "message": said}}),
    "page": lambda said: Reply.html(f"<html>{said}"),
    "other json": lambda said: Reply.json({"you sent": said}),
    "plain text": lambda said: Reply(said.encode(), status=400, content_type="text/plain"),
    "code": lambda said: Reply.error(401, code=said),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
@pytest.mark.parametrize("before", [0, 254, 466])
def test_a_key_in_the_servers_words_is_not_repeated(
    server: LLMServer, client_for: Callable[..., Client], echo: Any, before: int
) -> None:
    """Servers quote keys in their errors: ours do not, nor half of one where words are cut."""
    server.script(echo("x" * before + f"Incorrect API key: {KEY}."))
    error = failure(client_for(server, api_key=KEY, retry=ONCE).stream(PROMPT))
    shown = "".join(map(repr, [error, str(error), vars(error), error.attempts, error.__cause__]))
    assert KEY not in shown
    assert KEY[:12] not in shown


def test_an_error_body_is_read_up_to_a_bound(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Of an error's body so much is read as a message needs; the connection is then dropped."""
    page = b"<p>overloaded</p>" * 600_000
    server.script(Reply(page, status=400, framing="length", content_type="text/html"))
    error = failure(client_for(server, retry=ONCE).stream(PROMPT))
    assert type(error) is InvalidRequestError
    assert error.attempts[0].bytes < 1_000_000
    assert len(str(error)) < 1000
    server.wait_closed(0)


def test_what_a_service_error_carries(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Status, code, type, param, the asked wait and the request's id are on the error."""
    server.script(
        Reply.error(
            429,
            type="requests",
            code="rate_limit_exceeded",
            message="slow down",
            param="model",
            headers={"retry-after": "70"},
            request_id="req_1",
        )
    )
    error = failure(client_for(server).stream(PROMPT))
    assert isinstance(error, RateLimitError)
    assert (error.status, error.code, error.type, error.param, error.retry_after) == (
        429,
        "rate_limit_exceeded",
        "requests",
        "model",
        70.0,
    )
    assert error.request_id == error.attempts[0].request_id == "req_1"
    assert "429" in str(error)
    assert "slow down" in str(error)


# ---- pickling ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "timeouts"),
    [
        (Reply.error(429, headers={"retry-after": "1"}, request_id="r"), FAR),
        (Reply([*TWO_TOKENS, Silence()]), clocks(8.0, idle=SHORT)),
        (Reply([*TWO_TOKENS, Reset()]), FAR),
        (Reply(before=[Cut()]), FAR),
        (Reply([*TWO_TOKENS, Cut(last_chunk=True)]), FAR),
        (Reply.html(), FAR),
        (Reply(before=[Silence()]), clocks(8.0, first_token=SHORT)),
    ],
)
def test_errors_pickle(
    server: LLMServer, client_for: Callable[..., Client], reply: Reply, timeouts: Timeouts
) -> None:
    """An error survives pickling with its attempts, whose last one is the error itself."""
    server.default = reply
    retry = RetryPolicy(max_attempts=2, base=0.0, cap=0.0, max_retry_after=0.5)
    error = failure(client_for(server, timeouts=timeouts, retry=retry).stream(PROMPT))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.partial.text == error.partial.text
        assert (copy.trace_id, copy.request_id) == (error.trace_id, error.request_id)
        assert len(copy.attempts) == len(error.attempts)
        assert copy.attempts[-1].error is copy
        assert vars(copy).keys() == vars(error).keys()
    assert pickle.loads(pickle.dumps(error.attempts))[-1].status == error.attempts[-1].status
    assert pickle.loads(pickle.dumps(error.partial)).text == error.partial.text


# ---- hostile peers -----------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = b"".join(BLOCKS)
COMPLETION = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "m",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "content": [{"type": "output_text", "text": TEXT}],
        }
    ],
}


def gzipped(data: bytes, *, cut: int | None = None) -> Reply:
    packed = gzip.compress(data)[:cut]
    return Reply(packed, headers={"content-encoding": "gzip"}, framing="length")


HOSTILE: dict[str, tuple[Reply, type[LLMStreamError] | str]] = {
    "another protocol": (Reply.raw(b"SSH-2.0-OpenSSH_9.6\r\n"), ProtocolError),
    "random bytes": (Reply.raw(bytes(range(256)) * 8), ProtocolError),
    "a TLS alert": (Reply.raw(b"\x15\x03\x01\x00\x02\x02\x16"), LLMStreamError),
    "HTTP/2": (Reply.raw(b"\x00\x00\x12\x04" + bytes(20)), LLMStreamError),
    "a status that is no number": (Reply.raw(b"HTTP/1.1 abc OK\r\n\r\n"), ProtocolError),
    "status 0": (Reply.raw(b"HTTP/1.1 0 OK\r\n\r\n"), ProtocolError),
    "status 999": (Reply.raw(b"HTTP/1.1 999 Odd\r\n\r\n"), ServerError),
    "status 99999": (Reply.raw(b"HTTP/1.1 99999 Odd\r\n\r\n"), ProtocolError),
    "200 headers of them": (
        Reply.raw(HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n" + WHOLE),
        ProtocolError,
    ),
    "a huge header line": (
        Reply.raw(HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n" + WHOLE),
        ProtocolError,
    ),
    "a huge status line": (Reply.raw(b"HTTP/1.1 200 " + b"y" * 100_000 + b"\r\n"), ProtocolError),
    "a header without a colon": (Reply.raw(HEAD + b"nonsense\r\n\r\n" + WHOLE), TEXT),
    "a header that is not ASCII": (Reply.raw(HEAD + b"X: \xff\xfe\r\n\r\n" + WHOLE), TEXT),
    "a bad chunk size": (Reply.raw(CHUNKED + b"zz\r\n"), ProtocolError),
    "a bad chunk size later": (
        Reply.raw(CHUNKED + chunk(b"".join(TWO_TOKENS)) + b"zz\r\n"),
        ProtocolError,
    ),
    "a huge chunk size": (
        Reply.raw(CHUNKED + b"f" * 16 + b"\r\n" + BLOCKS[0]),
        StreamInterrupted,
    ),
    "an endless chunk size": (Reply.raw(CHUNKED + b"f" * 100_000), ProtocolError),
    "a negative chunk size": (Reply.raw(CHUNKED + b"-5\r\n" + BLOCKS[0]), LLMStreamError),
    "no chunk end": (Reply.raw(CHUNKED + b"5\r\ndata:XX"), LLMStreamError),
    "too long a Content-Length": (
        Reply(TWO_TOKENS, framing="length", length=9999),
        StreamInterrupted,
    ),
    "too short a Content-Length": (Reply(BLOCKS, framing="length", length=500), StreamTruncated),
    "a Content-Length that is no number": (
        Reply.raw(HEAD + b"Content-Length: many\r\n\r\n" + WHOLE),
        TEXT,
    ),
    "a negative Content-Length": (Reply.raw(HEAD + b"Content-Length: -5\r\n\r\n" + WHOLE), TEXT),
    "two Content-Lengths": (
        Reply.raw(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + WHOLE),
        ProtocolError,
    ),
    "gzip that is none": (
        Reply(WHOLE, headers={"content-encoding": "gzip"}),
        ProtocolError,
    ),
    "gzip that breaks": (
        gzipped(WHOLE[:-300] + bytes(300), cut=-40),
        LLMStreamError,
    ),
    "gzip": (gzipped(WHOLE), TEXT),
    "gzip, truncated": (gzipped(WHOLE, cut=120), LLMStreamError),
    "an unknown encoding": (Reply(WHOLE, headers={"content-encoding": "zzz"}), TEXT),
    "204": (Reply(status=204, framing="length"), NotAStreamError),
    "301": (
        Reply(status=301, headers={"location": "http://127.0.0.1:1/"}, framing="length"),
        InvalidRequestError,
    ),
    "304": (Reply(status=304, framing="length"), InvalidRequestError),
    "101": (Reply.raw(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n"), LLMStreamError),
    "100 before the answer": (Reply(ANSWER, before=[b"HTTP/1.1 100 Continue\r\n\r\n"]), TEXT),
    "103 before the answer": (
        Reply(ANSWER, before=[b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n"]),
        TEXT,
    ),
    "102 a few times before the answer": (
        Reply(ANSWER, before=[b"HTTP/1.1 102 Processing\r\n\r\n" * 3]),
        TEXT,
    ),
    "HTTP/1.0": (Reply.raw(b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE), TEXT),
    "a page": (Reply.html(), NotAStreamError),
    "a page without end": (Reply([b"<html>", Silence()]), NotAStreamError),
    "a completion in JSON": (Reply.json(COMPLETION), TEXT),
    "an error in JSON": (Reply.json({"error": {"message": "no"}}), ServerError),
    "other JSON": (Reply.json({"hello": "world"}), NotAStreamError),
    "JSON that is a list": (Reply.json([1, 2]), NotAStreamError),
    "JSON nested without end": (
        Reply(b"[" * 200_000, framing="length", content_type="application/json"),
        NotAStreamError,
    ),
    "events nested without end": (Reply(sse_block(None, "[" * 200_000)), ProtocolError),
    "an empty body": (Reply(), StreamTruncated),
    "an empty body without end": (Reply([Silence()]), FirstTokenTimeout),
    "only comments": (Reply(b": hello\n\n: again\n\n"), StreamTruncated),
    "plain text": (Reply(b"hello"), NotAStreamError),
    "an event that never ends": (Reply([b"data: " + b"x" * 70_000, Cut()]), StreamInterrupted),
    "half the terminal event": (Reply([*BLOCKS[:-1], BLOCKS[-1][:-2]]), StreamTruncated),
    "the terminal event first": (Reply([BLOCKS[-1]]), TEXT),
    "everything twice": (Reply([*BLOCKS, *BLOCKS]), TEXT),
}


@pytest.mark.slow
@pytest.mark.parametrize(("reply", "expected"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_answers(
    server: LLMServer,
    client_for: Callable[..., Client],
    reply: Reply,
    expected: type[LLMStreamError] | str,
) -> None:
    """Whatever a peer says: the right answer or an error of ours, in time, and the next call on
    this client is not harmed by it."""
    server.script(reply)
    client = client_for(server, retry=ONCE, timeouts=clocks(8.0))
    soon = clocks(8.0, first_token=0.8, silence=0.8)
    waits = expected is FirstTokenTimeout
    stream = client.stream(PROMPT, timeouts=soon if waits else None)
    reading = bounded(stream, Stream.result)
    if isinstance(expected, str):
        assert reading.error is None, repr(reading.error)
        assert reading.value.text == expected
    else:
        assert isinstance(reading.error, expected), repr(reading.error)
        assert type(reading.error) is expected or expected is LLMStreamError
        assert reading.error.partial.finish is None
    server.default = server.echo
    assert client.stream("and now?").result().text == "and now?"


def test_hostile_proxy_messages(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A foreign body is shown by its beginning only, in one line."""
    server.script(Reply.html("<html>\n" + "x" * 100_000))
    error = failure(client_for(server).stream(PROMPT))
    assert len(str(error)) < 700
    assert "\n" not in str(error)


def test_an_interim_answer_does_not_shift_the_next(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A late answer behind an interim one (103, RFC 9110 15.2) never reaches another prompt."""
    server.script(
        Reply(
            Answer("for the first"),
            before=[b"HTTP/1.1 103 Early Hints\r\n\r\n", Pause(0.2)],
        )
    )
    server.default = server.echo
    client = client_for(server, retry=ONCE)
    assert client.stream("first").result().text == "for the first"
    assert client.stream("second").result().text == "second"


def test_content_behind_an_error_does_not_hold_it_up(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """After an error event the stream ends, whatever the server goes on sending."""
    server.script(Reply([in_stream(), *OPENING, Pings(0.02, data=ENDLESS)]))
    reading = Reading(client_for(server, retry=ONCE).stream(PROMPT), Stream.result)
    assert type(reading.ended(within=8.0)) is ServerError


@pytest.mark.slow
def test_a_refusal_of_an_option_whose_body_stalls(server: LLMServer) -> None:
    """Chat asks once more without an option that a 400 names, also when the body has no end."""
    body = b'{"error": {"message": "unknown: stream_options", "param": "stream_options"}}'
    server.script(
        Reply([body, Silence()], status=400, content_type="application/json"), Answer("well")
    )
    with Client("chat", base_url=server.base_url, model="m", retry=ONCE) as client:
        reading = bounded(client.stream(PROMPT), Stream.result)
    assert reading.error is None or isinstance(reading.error, InvalidRequestError)
    assert len(server.requests) <= 2


@pytest.mark.slow
@pytest.mark.parametrize(("api", "every"), [("responses", 0.01), ("responses", 0.1), ("chat", 0.1)])
def test_pings_behind_the_end_do_not_hold_it_up(
    server: LLMServer, client_for: Callable[..., Client], api: str, every: float
) -> None:
    """After the end (an error; in Chat the finish) more is waited for, but not while pings come."""

    from llmstream._core.dialects import APIS

    if api not in APIS:
        pytest.skip("not in this version")
    ends: dict[str, list[Any]] = {
        "responses": [in_stream("invalid_request_error")],
        "chat": [
            sse_block(None, {"choices": [{"index": 0, "delta": {"content": TEXT}}]}),
            sse_block(None, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        ],
    }
    server.script(Reply([*ends[api], Pings(every)]))
    client = Client(api, base_url=server.base_url, model="m", timeouts=clocks(60.0))
    with client:
        reading = Reading(client.stream(PROMPT), Stream.result)
        error = reading.ended(within=8.0)
    assert type(error) is (InvalidRequestError if api == "responses" else type(None))


@pytest.mark.slow
def test_an_answer_before_the_request_is_whole(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client]
) -> None:
    """A server that answers 413 and closes while the request is still being sent is heard, or the
    connection is reported lost; nothing hangs."""
    body = b'{"error": {"message": "too large"}}'

    def handler(sock: socket.socket) -> None:
        sock.recv(1000)
        head = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        sock.sendall(head % len(body) + body)

    client = client_for(raw_server(handler), retry=ONCE, timeouts=FAR)
    error = failure(client.stream("x" * 20_000_000))
    assert isinstance(error, (InvalidRequestError, ConnectionFailed, StreamInterrupted))


def test_a_server_that_dribbles_its_head(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client]
) -> None:
    """Headers that come byte by byte are an answer like any other."""

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        for byte in CHUNKED:
            sock.sendall(bytes([byte]))
        sock.sendall(chunk(WHOLE) + b"0\r\n\r\n")

    client = client_for(raw_server(handler), retry=ONCE)
    begun = time.monotonic()
    assert client.stream(PROMPT).result().text == TEXT
    assert time.monotonic() - begun < 10


def test_gzip_by_the_byte(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A compressed stream that we did not ask for is decoded, however small its pieces."""
    server.script(Reply([Drip(gzip.compress(WHOLE))], headers={"content-encoding": "gzip"}))
    assert client_for(server, retry=ONCE).stream(PROMPT).result().text == TEXT


def test_a_configuration_error_on_the_way_is_not_asked_again(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A key that no header can contain, from a function, is found when the request is made: nothing
    is sent, and the function is not called again."""
    keys = iter(["one\r\ntwo: three"])
    client = client_for(server, api_key=lambda: next(keys, "a-right-key"), retry=AT_ONCE)
    assert type(failure(client.stream(PROMPT))) is ConfigurationError
    assert next(keys, None) is None
    assert server.requests == []


def test_a_remark_follows_a_sentence_of_the_service(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Its full stop makes room."""
    server.script(*[Reply.error(503, message="Please wait.")] * 2)
    error = failure(client_for(server, retry=RetryPolicy(2, base=0.0)).stream(PROMPT))
    assert str(error).endswith("Please wait; after 2 attempts")
