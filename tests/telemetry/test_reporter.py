"""The records of calls field by field, in false time and over real connections."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from every import every
from support import (
    BLOCKS,
    ENDLESS,
    ONCE,
    PROMPT,
    TWO_TOKENS,
    Address,
    RawServer,
    clocks,
    failure,
    read_request,
)
from test_recovery import WHOLE, kept, too_old
from test_recovery import make as recovering
from told import APIS, NO_JITTER, THREE, TRACE, Told, id_header, make, split, timed

from llmstream import Client, LLMStreamError, RateLimitError, RetryPolicy, Stream, Timeouts, Usage
from llmstream.telemetry.observer import Dispatcher
from llmstream.telemetry.records import AttemptRecord, CallRecord, RetryRecord, error_code
from llmstream.testing import (
    Answer,
    Cut,
    FakeTransport,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Reset,
    Silence,
)
from llmstream.testing.answers import sse_block

pytestmark = pytest.mark.usefixtures("nothing_left")

# ---- field by field, in false time ---------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_the_records_of_a_success(api: str) -> None:
    """Every field of the attempt's and the call's record, to the millisecond, in four APIs."""
    reply = timed(api, THREE, headers={id_header(api): "req-1"})
    client, clock, told = make(reply, api=api)
    stream = client.stream(
        PROMPT, trace_id=TRACE, max_output_tokens=99, temperature=0.5, top_p=0.25
    )
    for _ in stream:
        clock.advance(10.0)  # what the caller's own loop takes is no gap
    begun = CallRecord(
        id=told.calls[0].id,
        trace_id=TRACE,
        api=api,
        model="m",
        host="test",
        port=8080,
        started=1_800_000_000.0,
        max_output_tokens=99,
        temperature=0.5,
        top_p=0.25,
    )
    result = stream.result()
    usage = result.usage
    assert (usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens) == (34, 5, 6)
    attempt = AttemptRecord(
        trace_id=TRACE,
        api=api,
        model="m",
        host="test",
        number=1,
        outcome="success",
        phase="done",
        status=200,
        request_id="req-1",
        total_ms=33_000.0,
        first_token_ms=1500.0,
        longest_gap_ms=500.0,
        usage=usage,
        chunks=3,
        bytes=told.attempts[0].bytes,
        phases=(
            ("connect", 0.0),
            ("send", 0.0),
            ("headers", 0.0),
            ("first_token", 1000.0),
            ("body", 1500.0),
        ),
    )
    sent = sum(len(block) for block in THREE.blocks(api))
    assert 0.9 * sent < attempt.bytes <= sent + 1  # the double counts a head as one byte
    assert told.calls == [begun]
    assert told.attempts == [attempt]
    assert told.end == msgspec.structs.replace(
        begun,
        outcome="success",
        phase="done",
        finish="stop",
        status=200,
        request_id="req-1",
        response_id="resp_test",
        response_model="test-model",
        first_token_ms=1500.0,
        total_ms=33_000.0,
        waited_ms=3000.0,
        longest_gap_ms=500.0,
        usage=usage,
        chunks=3,
        bytes=attempt.bytes,
        attempts=(attempt,),
    )
    assert told.all("tokens") == [(1500.0, None, 1), (11_750.0, 250.0, 1), (22_250.0, 500.0, 1)]
    assert told.all("first_token") == [(1500.0,)]
    assert told.all("phase") == list(attempt.phases)


@pytest.mark.parametrize("api", APIS)
def test_the_order_of_the_moments(api: str) -> None:
    """Start, phases, first token, tokens, attempt, retry, backoff, content, end; `call` is the
    same object each time, and everything is reported in the thread that reads."""
    client, _, told = make(Reply.error(503, api=api), timed(api, THREE), api=api)
    client.stream(PROMPT).result()
    assert told.names == [
        "start",
        *["phase"] * 3,  # connect, send, headers
        "attempt",
        "retry",
        "phase",  # backoff
        *["phase"] * 5,  # connect, send, headers, first_token, body
        "first_token",
        *["tokens"] * 3,
        "attempt",
        "content",
        "end",
    ]
    assert told.phases == [
        *("connect", "send", "headers", "backoff"),
        *("connect", "send", "headers", "first_token", "body"),
    ]
    assert {id(what[0]) for _, what in told.moments} == {id(told.calls[0])}
    assert told.calls[0].outcome == "running"
    assert set(told.threads.values()) == {threading.current_thread().name}


def test_a_read_with_many_events_is_reported_once() -> None:
    """`on_tokens` is called once for each read with content, and counts its events."""
    opening, deltas, ending = split("responses", Answer("one two three four five"))
    steps = [b"".join([*opening, *deltas[:3]]), Pause(0.5), b"".join([*deltas[3:], *ending])]
    client, _, told = make(Reply(steps))
    client.stream(PROMPT).result()
    assert told.all("tokens") == [(0.0, None, 3), (500.0, 500.0, 2)]
    assert told.end.chunks == 5


SAYS: dict[str, Answer] = {
    "text": Answer("one two three"),
    "nothing": Answer(""),
    "thinking": Answer("one", thinking="let me see"),
    "refusal": Answer(refusal="I would rather not"),
    "calls": Answer(tool_calls=[("f", '{"a": 1}'), ("g", '{"b": [1, 2]}')]),
    "no usage": Answer("one two", usage=None),
    "cut by the limit": Answer("one two", finish="length"),
    "filtered": Answer("one two", finish="content_filter"),
}


@every("says", SAYS)
@every("api", APIS)
def test_what_is_reported_adds_up(api: str, says: str) -> None:
    """The chunks of all moments are those of the records; finish, usage, ids and model are the
    result's."""
    client, _, told = make(SAYS[says], api=api)
    result = client.stream(PROMPT).result()
    end = told.end
    assert sum(chunks for _, _, chunks in told.all("tokens")) == end.chunks
    assert (end.chunks > 0) is (says != "nothing")
    assert end.usage == result.usage == end.attempts[0].usage
    assert end.usage.input_tokens == (None if says == "no usage" else 12)
    assert end.finish == result.finish
    assert end.response_id == result.response_id
    assert end.response_model == result.model
    assert end.first_token_ms == result.timings.first_token_ms
    assert end.total_ms == result.timings.total_ms
    assert (end.first_token_ms is None) is (says == "nothing")
    assert told.names.count("first_token") == (says != "nothing")
    assert told.all("content")[0][1] == result


@pytest.mark.parametrize("api", APIS)
def test_the_records_of_a_retry(api: str) -> None:
    """A 503, a cut before the first token, and a success: waits, reasons, times from the start of
    the call and of the attempt, sums."""
    opening, _, _ = split(api, THREE)
    client, clock, told = make(
        Reply.error(503, code="overloaded", type="overloaded", api=api, request_id="req-1"),
        Reply([*opening, Pause(0.25), Cut()], delay=0.5),
        timed(api, THREE),
        api=api,
    )
    stream = client.stream(PROMPT)
    stream.result()
    first, second, third = told.attempts
    end = told.end
    assert clock.slept == [0.5, 1.0]
    assert [retry for (retry,) in told.all("retry")] == list(end.retries)
    code = "503" if api == "gemini" else "overloaded"  # its codes are numbers
    assert end.retries == (
        RetryRecord(
            attempt=1,
            wait_ms=500.0,
            error_type="OverloadedError",
            error_code=code,
            status=503,
            phase="headers",
        ),
        RetryRecord(
            attempt=2,
            wait_ms=1000.0,
            error_type="StreamInterrupted",
            status=200,
            phase="first_token",
        ),
    )
    assert end.attempts == (first, second, third)
    assert [a.number for a in end.attempts] == [1, 2, 3]
    assert [a.outcome for a in end.attempts] == ["error", "error", "success"]
    assert [a.phase for a in end.attempts] == ["headers", "first_token", "done"]
    assert [a.started_ms for a in end.attempts] == [0.0, 500.0, 2250.0]
    assert [a.total_ms for a in end.attempts] == [0.0, 750.0, 3000.0]
    assert [a.wait_ms for a in end.attempts] == [500.0, 1000.0, 0.0]
    assert [a.first_token_ms for a in end.attempts] == [None, None, 1500.0]
    assert [a.request_id for a in end.attempts] == ["req-1", None, None]
    assert [a.error_code for a in end.attempts] == [code, None, None]
    assert third.phases[0] == ("connect", 2250.0)
    assert (end.first_token_ms, end.total_ms) == (3750.0, 5250.0)
    assert (end.backoff_ms, end.waited_ms) == (1500.0, 3750.0)
    assert end.bytes == first.bytes + second.bytes + third.bytes > 0
    assert (end.error_type, end.error_code, end.status, end.request_id) == (None, None, 200, None)
    # the caller's own records say the same
    assert [a.duration_ms for a in stream.attempts] == [a.total_ms for a in end.attempts]
    assert [a.chunks for a in stream.attempts] == [a.chunks for a in end.attempts]


ENDINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "401": (
        Reply.error(401, code="invalid_api_key"),
        {"error_type": "AuthenticationError", "error_code": "invalid_api_key", "status": 401},
    ),
    "429 that asks for too much": (
        Reply.error(429, headers={"retry-after": "900"}),
        {"error_type": "RateLimitError", "error_code": "429", "status": 429},
    ),
    "quota": (
        Reply.error(429, code="insufficient_quota"),
        {"error_type": "QuotaExceededError", "error_code": "insufficient_quota", "status": 429},
    ),
    "a page": (
        Reply.html(),
        {"error_type": "NotAStreamError", "status": 200, "phase": "first_token"},
    ),
    "a cut": (
        Reply([*TWO_TOKENS, Cut()]),
        {"error_type": "StreamInterrupted", "status": 200, "phase": "body", "chunks": 2},
    ),
    "a reset": (
        Reply([*TWO_TOKENS, Reset()]),
        {"error_type": "StreamInterrupted", "status": 200, "phase": "body", "chunks": 2},
    ),
    "a clean end": (
        Reply(TWO_TOKENS),
        {"error_type": "StreamTruncated", "status": 200, "phase": "body", "chunks": 2},
    ),
    "an error event": (
        Reply([*TWO_TOKENS, sse_block("error", {"error": {"code": 402, "message": "m"}})]),
        {
            "error_type": "QuotaExceededError",
            "error_code": "402",
            "status": 200,
            "phase": "body",
            "chunks": 2,
        },
    ),
    "garbage": (
        Reply([*TWO_TOKENS, b"data: {\n\n"]),
        {"error_type": "ProtocolError", "status": 200, "phase": "body", "chunks": 2},
    ),
    "no answer": (
        Reply(before=[Cut()]),
        {"error_type": "ConnectionFailed", "phase": "headers"},
    ),
    "no first token": (
        Reply([Pings(1.0)]),
        {
            "error_type": "FirstTokenTimeout",
            "status": 200,
            "phase": "first_token",
            "total_ms": 60_000.0,
            "waited_ms": 60_000.0,
        },
    ),
    "no headers": (
        Reply(before=[Silence()]),
        {
            "error_type": "FirstTokenTimeout",
            "phase": "headers",
            "total_ms": 60_000.0,
            "waited_ms": 60_000.0,
        },
    ),
    "silence": (
        Reply([*TWO_TOKENS, Silence()]),
        {
            "error_type": "SilenceTimeout",
            "status": 200,
            "phase": "body",
            "chunks": 2,
            "total_ms": 20_000.0,
            "waited_ms": 20_000.0,
        },
    ),
    "no progress": (
        Reply([*TWO_TOKENS, Pings(1.0)]),
        {
            "error_type": "IdleTimeout",
            "status": 200,
            "phase": "body",
            "chunks": 2,
            "total_ms": 30_000.0,
            "waited_ms": 30_000.0,
        },
    ),
    "no end": (
        Reply([*TWO_TOKENS, Pings(1.0, data=ENDLESS)]),
        {"error_type": "DeadlineExceeded", "status": 200, "phase": "body", "total_ms": 90_000.0},
    ),
}


@every("name", ENDINGS)
def test_the_record_of_every_end(name: str) -> None:
    """Each way to fail: class, code, status, phase and times, the same on the attempt, the call and
    the error that the caller gets."""
    reply, expected = ENDINGS[name]
    limits = Timeouts(first_token=60.0, silence=20.0, idle=30.0, total=90.0)
    client, _, told = make(reply, timeouts=limits, retry=ONCE)
    error = failure(client.stream(PROMPT), Stream.result)
    (attempt,), end = told.attempts, told.end
    shown = msgspec.structs.asdict(end)
    known = {"error_code": None, "status": None, "phase": "headers", "chunks": shown["chunks"]}
    known |= {"total_ms": 0.0, "waited_ms": 0.0, "outcome": "error"} | expected
    if name == "no end":
        known |= {"waited_ms": 90_000.0}
    assert {field: shown[field] for field in known} == known
    alike = (
        "outcome",
        "phase",
        "error_type",
        "error_code",
        "status",
        "total_ms",
        "chunks",
        "bytes",
    )
    for field in (*alike, "longest_gap_ms", "first_token_ms", "request_id"):
        assert getattr(attempt, field) == getattr(end, field), field
    assert end.error_type == type(error).__name__
    assert end.error_code == error_code(error)
    assert end.phase == error.attempts[-1].phase
    assert end.attempts == (attempt,)
    assert end.finish is None
    assert end.retries == ()
    assert (end.first_token_ms is None) is (end.chunks == 0)


def test_what_was_waited_for_in_vain_counts(
    unanswering: Address, client_for: Callable[..., Client]
) -> None:
    """`waited_ms` has the time that a connect, and a DNS look-up, took until their clock ended it,
    over all attempts."""
    told = Told()
    client = client_for(
        unanswering,
        observers=[told],
        timeouts=clocks(connect=0.15),
        retry=RetryPolicy(max_attempts=2, base=0.0, cap=0.0),
    )
    failure(client.stream(PROMPT), Stream.result)
    end = told.end
    assert [a.error_type for a in end.attempts] == ["ConnectTimeout"] * 2
    assert end.phase == "connect"
    assert 299.0 <= end.waited_ms <= end.total_ms


def test_a_wait_after_a_429_is_reported_by_those_that_wait() -> None:
    """One stream is asked to wait: it backs off, and the next one of the same host and key is held:
    `throttled_ms`, `backoff_ms`, the phases "backoff" and "throttled"."""
    asks = Reply.error(429, headers={"retry-after": "4"})
    client, clock, told = make(asks, THREE, THREE, retry=RetryPolicy(max_attempts=2, jitter=0.0))
    first = client.stream(PROMPT, trace_id="first", retry=ONCE)
    failure(first, lambda _: first.result())
    clock.advance(1.0)
    client.stream(PROMPT, trace_id="held").result()
    client.stream(PROMPT, trace_id="free").result()
    refused, held, free = told.ends
    assert (refused.outcome, refused.backoff_ms, refused.retries) == ("error", 0.0, ())
    assert (held.outcome, held.backoff_ms, held.total_ms) == ("success", 3000.0, 3000.0)
    assert [(a.throttled_ms, a.started_ms) for a in held.attempts] == [(3000.0, 3000.0)]
    assert held.retries == ()
    assert (free.backoff_ms, free.attempts[0].throttled_ms) == (0.0, 0.0)
    assert told.phases == [
        *("connect", "send", "headers", "throttled"),
        *("connect", "send", "headers", "first_token", "body") * 2,
    ]
    assert clock.slept == [3.0]


def test_backoff_and_throttling_add_up() -> None:
    """A backoff that another stream's 429 makes longer: both are in `backoff_ms`, the planned wait
    is in the retry's record, the hold in the next attempt's `throttled_ms`."""
    client, clock, told = make(timeouts=clocks(600.0))
    transport = client._endpoint.transport
    assert isinstance(transport, FakeTransport)
    other: list[LLMStreamError] = []

    class InBackoff(Told):
        def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
            super().on_phase(call, phase, at_ms)
            if phase == "backoff" and call.trace_id == "mine" and not other:
                other.append(failure(client.stream(PROMPT, retry=ONCE), Stream.result))

    told = InBackoff()
    client._factory._dispatcher = Dispatcher([told])
    transport.script(Reply.error(500), Reply.error(429, headers={"retry-after": "8"}), THREE)
    client.stream(PROMPT, trace_id="mine").result()
    assert isinstance(other[0], RateLimitError)
    end = told.ends[-1]
    assert [r.wait_ms for r in end.retries] == [500.0]
    assert [(a.wait_ms, a.throttled_ms) for a in end.attempts] == [(500.0, 0.0), (0.0, 7500.0)]
    assert end.backoff_ms == end.total_ms == 8000.0
    assert clock.slept == [0.5, 7.5]


def test_a_call_that_may_not_wait_has_no_attempt() -> None:
    """Nothing is sent: no attempt is reported, the end is in phase "throttled", with the status
    that asked for the wait."""
    asks = Reply.error(429, code="rate_limit_exceeded", headers={"retry-after": "30"})
    client, _, told = make(asks, timeouts=clocks(600.0, total=5.0))
    failure(client.stream(PROMPT), Stream.result)
    error = failure(client.stream(PROMPT), Stream.result)
    assert "nothing was sent" in str(error)
    end = told.ends[-1]
    assert (end.attempts, end.retries, end.bytes, end.first_token_ms) == ((), (), 0, None)
    assert (end.outcome, end.error_type, end.error_code) == (
        "error",
        "RateLimitError",
        "rate_limit_exceeded",
    )
    assert (end.phase, end.status) == ("throttled", 429)


# ---- policies ----------------------------------------------------------------------------------


def test_restart_counts_both_answers() -> None:
    """Usage, chunks and bytes are the sum over the abandoned attempt and the complete one."""
    opening, deltas, _ = split("messages", Answer("one two three", usage=(10, 40)))
    client, _, told = make(
        Reply([*opening, *deltas[:2], Pause(1.0), Cut()]),
        Answer("one two three", usage=(10, 40)),
        api="messages",
        on_disconnect="restart",
    )
    stream = client.stream(PROMPT)
    result = stream.result()
    end = told.end
    first, second = end.attempts
    assert first.usage.input_tokens == 10  # Messages says so at the start
    assert end.usage.input_tokens == 20
    assert end.usage.output_tokens == (first.usage.output_tokens or 0) + 40
    assert result.usage.input_tokens == 10
    assert (first.chunks, second.chunks, end.chunks) == (2, 3, 5)
    assert (first.outcome, first.phase, first.error_type) == ("error", "body", "StreamInterrupted")
    assert told.names.count("first_token") == 1  # of all
    assert (first.first_token_ms, second.first_token_ms) == (0.0, 0.0)
    assert (end.first_token_ms, second.started_ms) == (0.0, 1500.0)
    assert [gap for _, gap, _ in told.all("tokens")] == [None, 0.0, None, 0.0, 0.0]
    assert [r.error_type for r in end.retries] == ["StreamInterrupted"]


def test_continue_counts_both_requests() -> None:
    """A new request is billed anew: usage is the sum, the text of the first is not a chunk of
    the second."""
    blocks = Answer("one two", usage=(10, 40)).blocks("messages")
    opening, deltas, _ = split("messages", Answer("one two", usage=(10, 40)))
    client, _, told = make(
        Reply([*opening, deltas[0], Cut()]),
        Answer(" two", usage=(20, 7)),
        api="messages",
        on_disconnect="continue",
    )
    result = client.stream(PROMPT).result()
    assert result.text == "one two"
    assert blocks
    end = told.end
    first, second = end.attempts
    assert end.usage.input_tokens == 30
    assert end.usage.output_tokens == (first.usage.output_tokens or 0) + 7
    assert (first.chunks, second.chunks) == (1, sum(c for _, _, c in told.all("tokens")) - 1)
    assert [a.outcome for a in end.attempts] == ["error", "success"]


def early_usage(answer: Answer) -> list[bytes]:
    """The blocks of an answer whose service reports some usage before the end."""
    blocks = answer.blocks()
    said = b'"usage":{"input_tokens":10,"output_tokens":1,"total_tokens":11}'
    return [blocks[0].replace(b'"usage":null', said), *blocks[1:]]


@pytest.mark.parametrize("early", [False, True], ids=["at the end", "early too"])
@pytest.mark.parametrize("then", [(kept,), (too_old, too_old)], ids=["resumed", "polled"])
def test_resume_counts_the_answer_once(early: bool, then: tuple[Any, ...]) -> None:
    """It is one answer, and reported once, however often its stream is taken up."""
    blocks = early_usage(WHOLE) if early else WHOLE.blocks()
    assert early is (b'"input_tokens":10' in blocks[0])
    told = Told()
    client, _, _ = recovering(
        "responses",
        Reply([*blocks[:6], Cut()]),
        *then,
        on_disconnect="resume",
        observers=[told],
        retry=NO_JITTER,
    )
    result = client.stream(PROMPT, background=True).result()
    end = told.end
    assert result.text == WHOLE.text
    assert end.usage == result.usage == Usage(10, 40, 50, 0, 0)
    assert end.chunks == sum(a.chunks for a in end.attempts)
    assert end.chunks == sum(chunks for _, _, chunks in told.all("tokens"))
    assert end.attempts[0].chunks == 2
    assert [r.attempt for r in end.retries] == [1]
    polled = len(then) == 2
    assert [a.outcome for a in end.attempts] == ["error", *["error"] * polled, "success"]
    assert len({a.number for a in end.attempts}) == len(end.attempts)
    assert all(a.phases[0][0] == "connect" for a in end.attempts)


def test_polling_is_reported_by_its_phase() -> None:
    """A response that is not ready is asked for again: the phase "poll", one attempt, the bytes of
    the last answer at least."""
    final = json.loads(WHOLE.blocks()[-1].partition(b"data: ")[2])["response"]
    half = {**final, "status": "in_progress", "output": []}
    told = Told()
    client, _, clock = recovering(
        "responses",
        Reply([*WHOLE.blocks()[:6], Cut()]),
        Reply.error(400, message="the stream of this response is too old"),
        Reply.json(half),
        Reply.json(half),
        Reply.json(final),
        on_disconnect="resume",
        observers=[told],
        retry=NO_JITTER,
    )
    assert client.stream(PROMPT, background=True).result().text == WHOLE.text
    end = told.end
    assert told.phases.count("poll") == 2
    assert [a.outcome for a in end.attempts] == ["error", "error", "success"]
    assert [name for name, _ in end.attempts[2].phases].count("poll") == 2
    assert clock.slept == [0.5, 0.5, 0.75]
    assert end.total_ms == pytest.approx(1750.0)


# ---- over a real network -----------------------------------------------------------------------


def test_the_phases_of_a_connection(
    any_server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Connect, TLS where there is one, send, headers, first token, body; a reused connection has no
    handshake. They are in order of time, and the host and port are the server's."""
    any_server.default = Answer("one two three")
    told = Told()
    client = client_for(any_server, observers=[told])
    for _ in range(2):
        client.stream(PROMPT).result()
    assert any_server.connections == 1
    tls = ["tls"] * any_server.base_url.startswith("https")
    rest = ["send", "headers", "first_token", "body"]
    fresh, reused = ([name for name, _ in a.phases] for a in told.attempts)
    assert fresh == ["connect", *tls, *rest]
    assert reused == ["connect", *rest]
    for end in told.ends:
        times = [at for _, at in end.attempts[0].phases]
        assert times == sorted(times)
        assert 0.0 <= times[0] <= times[-1] <= end.total_ms
        assert end.first_token_ms is not None
        assert times[-2] <= times[-1] >= end.first_token_ms  # "body" begins with its byte
        assert end.waited_ms <= end.total_ms
        assert abs(end.started - time.time()) < 60.0
        host = any_server.base_url.split("://")[1].partition("/")[0]
        assert host in (f"{end.host}:{end.port}", f"[{end.host}]:{end.port}")
    assert told.all("phase")[: len(fresh)] == list(told.attempts[0].phases)


def test_the_bytes_are_those_of_the_wire(raw_server: Callable[..., RawServer]) -> None:
    """Headers, chunk framing and body, to the byte."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(b), b) for b in BLOCKS) + b"0\r\n\r\n"
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    def serve(sock: Any) -> None:
        read_request(sock)
        sock.sendall(head + body)
        sock.recv(1)

    told, server = Told(), raw_server(serve)
    with Client(base_url=server.base_url, api_key="test-key", observers=[told]) as client:
        client.stream(PROMPT).result()
    assert told.end.bytes == len(head) + len(body)


def test_a_stale_connection_is_resent_and_reported(raw_server: Callable[..., RawServer]) -> None:
    """The free resend is an attempt of its own, marked; it is not a retry, and costs no wait."""
    reply = b"".join(b"%x\r\n%b\r\n" % (len(b), b) for b in BLOCKS) + b"0\r\n\r\n"
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    served = threading.Semaphore(0)

    def serve(sock: Any) -> None:
        read_request(sock)
        sock.sendall(head + reply)
        if len(server.sockets) == 1:
            read_request(sock)  # the second request comes, and is not answered
            return
        sock.recv(1)
        served.release()

    server = raw_server(serve)
    told = Told()
    with Client(base_url=server.base_url, api_key="test-key", observers=[told]) as client:
        client.stream(PROMPT).result()
        client.stream(PROMPT).result()
        end = told.ends[1]
        stale, fresh = end.attempts
        assert (stale.resent, stale.outcome, stale.error_type) == (
            True,
            "error",
            "ConnectionFailed",
        )
        assert (stale.number, fresh.number, fresh.resent) == (1, 2, False)
        assert stale.wait_ms == end.backoff_ms == 0.0
        assert end.retries == ()
        assert "retry" not in told.names
        assert end.outcome == "success"
