"""What is told of a call: the records field by field, the moments and their order, the lines of the
log, the trace ids; and that nobody who listens can harm a stream."""

from __future__ import annotations

import contextvars
import gc
import json
import logging
import pickle
import re
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from conftest import (
    AT_ONCE,
    BLOCKS,
    ONCE,
    PATIENCE,
    PROMPT,
    TWO_TOKENS,
    Address,
    RawServer,
    Reading,
    bounded,
    clocks,
    eventually,
    failure,
    other_threads,
    output_of,
    phase_of,
    read_request,
)
from test_recovery import kept, too_old
from test_recovery import make as recovering

from llmstream import (
    Cancelled,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    LLMStreamError,
    RateLimitError,
    Result,
    RetryPolicy,
    Stream,
    Timeouts,
    Usage,
)
from llmstream._call.call import Progress
from llmstream._runtime.watchdog import shared_watchdog
from llmstream.telemetry.context import TraceIdFilter, current_trace_id
from llmstream.telemetry.context import _active as active
from llmstream.telemetry.log import LogObserver
from llmstream.telemetry.observer import Dispatcher, Observer
from llmstream.telemetry.records import AttemptRecord, CallRecord, RetryRecord, error_code
from llmstream.telemetry.reporter import start_reporter
from llmstream.telemetry.timeline import TimelineObserver
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Reset,
    Silence,
)
from llmstream.testing.answers import sse_block

APIS = ("responses", "messages", "chat")
NO_JITTER = RetryPolicy(base=0.5, jitter=0.0)
TRACE = "0123456789abcdef0123456789abcdef"

pytestmark = pytest.mark.usefixtures("nothing_left")


class Told:
    """An observer that keeps all that it is told: `moments` are (name, what)."""

    def __init__(self) -> None:
        self.moments: list[tuple[str, tuple[Any, ...]]] = []
        self.threads: dict[str, str] = {}  # the last thread of each moment

    def note(self, name: str, *what: Any) -> None:
        self.threads[name] = threading.current_thread().name
        self.moments.append((name, what))

    def on_start(self, call: CallRecord) -> None:
        self.note("start", call)

    def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
        self.note("phase", call, phase, at_ms)

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        self.note("first_token", call, at_ms)

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        self.note("tokens", call, at_ms, gap_ms, chunks)

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        self.note("attempt", call, attempt)

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        self.note("retry", call, retry)

    def on_content(self, call: CallRecord, request: Any, result: Result) -> None:
        self.note("content", call, request, result)

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.note("end", call, end)

    # -- what the tests ask

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.moments]

    def all(self, name: str) -> list[tuple[Any, ...]]:
        """What was said at each such moment, the call left out."""
        return [what[1:] for found, what in self.moments if found == name]

    @property
    def calls(self) -> list[CallRecord]:
        return [what[0] for name, what in self.moments if name == "start"]

    @property
    def ends(self) -> list[CallRecord]:
        return [what[0] for what in self.all("end")]

    @property
    def end(self) -> CallRecord:
        """The record of the one call that has ended."""
        (end,) = self.ends
        return end

    @property
    def attempts(self) -> list[AttemptRecord]:
        return [what[0] for what in self.all("attempt")]

    @property
    def phases(self) -> list[str]:
        return [what[0] for what in self.all("phase")]


def make(
    *replies: Any, api: str = "responses", observer: Any = None, **settings: Any
) -> tuple[Client, FakeClock, Told]:
    """A client of doubles whose time begins at 0, and who is told of its calls."""
    told, clock = observer or Told(), settings.pop("clock", None) or FakeClock(start=0.0)
    known = {"observers": [told], "model": "m", "retry": NO_JITTER}
    client = Client(
        api,
        base_url="http://test:8080",
        transport=FakeTransport(*replies),
        clock=clock,
        **{**known, **settings},
    )
    return client, clock, told


def split(api: str, answer: Answer) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """An answer's blocks: before its text, the text delta by delta, and behind it."""
    blocks, count = answer.blocks(api), len(answer.text_deltas)
    first = next(n for n, b in enumerate(blocks) if answer.text_deltas[0].encode() in b)
    return blocks[:first], blocks[first : first + count], blocks[first + count :]


def timed(api: str, answer: Answer, *, headers: Any = None) -> Reply:
    """Headers after 1 s, first content after 1.5 s, gaps of 0.25 s and 0.5 s, the end after 3 s."""
    opening, (one, two, three), ending = split(api, answer)
    steps = [*opening, Pause(0.5), one, Pause(0.25), two, Pause(0.5), three, Pause(0.75), *ending]
    return Reply(steps, delay=1.0, headers=headers or {})


def id_header(api: str) -> str:
    return "request-id" if api == "messages" else "x-request-id"


THREE = Answer("one two three", usage=(12, 34, 5, 6))


# ---- the records, field by field ---------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_the_records_of_a_success(api: str) -> None:
    """Every field of the attempt's and the call's record, to the millisecond, in three APIs."""
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
            ("headers", 1000.0),
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
    same object each time, and everything is told in the thread that reads."""
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


def test_a_read_with_many_events_is_told_once() -> None:
    """`on_tokens` is called once for each read that brings content, and counts its events."""
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


@pytest.mark.parametrize("says", SAYS)
@pytest.mark.parametrize("api", APIS)
def test_what_was_told_adds_up(api: str, says: str) -> None:
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
    code = "overloaded"
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
        {"error_type": "ConnectionFailed", "phase": "send"},
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
            "phase": "send",
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
        Reply([*TWO_TOKENS, Pings(1.0, data=TWO_TOKENS[-1])]),
        {"error_type": "DeadlineExceeded", "status": 200, "phase": "body", "total_ms": 90_000.0},
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
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


def test_a_hold_after_a_429_is_told_by_those_that_wait() -> None:
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


def test_backoff_and_hold_add_up() -> None:
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
    client._dispatcher = Dispatcher([told])
    transport.script(Reply.error(500), Reply.error(429, headers={"retry-after": "8"}), THREE)
    client.stream(PROMPT, trace_id="mine").result()
    assert isinstance(other[0], RateLimitError)
    end = told.ends[-1]
    assert [r.wait_ms for r in end.retries] == [500.0]
    assert [(a.wait_ms, a.throttled_ms) for a in end.attempts] == [(500.0, 0.0), (0.0, 7500.0)]
    assert end.backoff_ms == end.total_ms == 8000.0
    assert clock.slept == [0.5, 7.5]


def test_a_call_that_may_not_wait_for_the_hold_has_no_attempt() -> None:
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
    """Usage, chunks and bytes are the sum over the abandoned attempt and the whole one."""
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
    """A new request is billed anew: usage is the sum, the text of the first is no chunk of the
    second."""
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
    whole = kept.__globals__["WHOLE"]
    blocks = early_usage(whole) if early else whole.blocks()
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
    assert result.text == whole.text
    assert end.usage == result.usage == Usage(10, 40, 50, 0, 0)
    assert end.chunks == sum(a.chunks for a in end.attempts)
    assert end.chunks == sum(chunks for _, _, chunks in told.all("tokens"))
    assert end.attempts[0].chunks == 2
    assert [r.attempt for r in end.retries] == [1]
    polled = len(then) == 2
    assert [a.outcome for a in end.attempts] == ["error", *["error"] * polled, "success"]
    assert len({a.number for a in end.attempts}) == len(end.attempts)
    assert all(a.phases[0][0] == "connect" for a in end.attempts)


def test_polling_is_told_by_its_phase() -> None:
    """A response that is not ready is asked for again: the phase "poll", one attempt, the bytes of
    the last answer at least."""
    whole = kept.__globals__["WHOLE"]
    final = json.loads(whole.blocks()[-1].partition(b"data: ")[2])["response"]
    half = {**final, "status": "in_progress", "output": []}
    told = Told()
    client, _, clock = recovering(
        "responses",
        Reply([*whole.blocks()[:6], Cut()]),
        Reply.error(400, message="the stream of this response is too old"),
        Reply.json(half),
        Reply.json(half),
        Reply.json(final),
        on_disconnect="resume",
        observers=[told],
        retry=NO_JITTER,
    )
    assert client.stream(PROMPT, background=True).result().text == whole.text
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


def test_a_stale_connection_is_resent_and_told(raw_server: Callable[..., RawServer]) -> None:
    """The free resend is an attempt of its own, marked; it is no retry, and costs no wait."""
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


# ---- how a call ends ---------------------------------------------------------------------------


def test_what_never_began_is_not_told() -> None:
    """Cancelled, closed, dropped, or its client closed before the first use: not one moment."""
    client, _, told = make(THREE)
    stream = client.stream(PROMPT)
    stream.cancel("changed my mind")
    assert type(failure(stream, Stream.result)) is Cancelled
    client.stream(PROMPT).close()
    client.stream(PROMPT)
    left = client.stream(PROMPT)
    client.close()
    assert type(failure(left, Stream.result)) is Cancelled
    assert told.moments == []


def in_phase(wanted: str, do: Callable[[], None]) -> Told:
    class In(Told):
        def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
            super().on_phase(call, phase, at_ms)
            if phase == wanted:
                do()

    return In()


# how it is ended -> the reason that is told
ENDED = {"cancel": "enough", "client": "the client was closed", "deadline": None}
PHASES: dict[str, list[Any]] = {
    "connect": [THREE],
    "send": [THREE],
    "headers": [THREE],
    "first_token": [THREE],
    "body": [THREE],
    "backoff": [Reply.error(500), THREE],
    "throttled": [Reply.error(429, headers={"retry-after": "4"}), THREE],
}


@pytest.mark.parametrize(
    ("way", "phase"),
    # with the double of time, no wait is there to be ended by the deadline in "connect"
    [(way, phase) for way in ENDED for phase in PHASES if (way, phase) != ("deadline", "connect")],
)
def test_the_phase_of_the_end(phase: str, way: str) -> None:
    """Cancelled, its client closed, or past its deadline in each phase: the call's record says that
    phase, the same as the error's words, and each attempt is told once."""
    clock = FakeClock(start=0.0)
    held: list[Stream] = []

    def end() -> None:
        if way == "cancel":
            held[0].cancel("enough")
        elif way == "client":
            client.close()
        else:
            clock.advance(100.0)

    told = in_phase(phase, end)
    client, _, _ = make(*PHASES[phase], observer=told, clock=clock)
    if phase == "throttled":
        failure(client.stream(PROMPT, retry=ONCE), Stream.result)
    held.append(client.stream(PROMPT, timeouts=clocks(900.0, total=50.0)))
    error = failure(held[0], Stream.result)
    last = told.ends[-1]
    assert type(error) is (DeadlineExceeded if way == "deadline" else Cancelled)
    assert ("before it began" if phase == "throttled" else f"in phase {phase!r}") in str(error)
    assert last.phase == phase
    assert last.outcome == ("error" if way == "deadline" else "cancelled")
    assert last.error_type == type(error).__name__
    assert last.reason == ENDED[way]
    assert told.names[-1] == "end"
    assert len(last.attempts) == len(error.attempts)
    assert len(last.attempts) == {"backoff": 1, "throttled": 0}.get(phase, 1)
    if phase in ("backoff", "throttled"):
        assert last.status is None  # what it ended in was no answer
    assert told.all("content")[-1][1].text == error.partial.text


@pytest.mark.parametrize("phase", ["tls", "headers", "first_token", "body", "backoff"])
def test_a_cancel_from_another_thread_is_told_by_the_reader(
    client_for: Callable[..., Client], phase: str
) -> None:
    """Over a real connection: one end, in the reader's thread, with phase, reason and what came."""
    steps = {
        "headers": Reply(before=[Silence()]),
        "first_token": Reply([Pings(0.02)]),
        "body": Reply([*TWO_TOKENS, Silence()]),
        "backoff": Reply.error(500),
    }
    told = Told()
    with LLMServer(tls=phase == "tls", handshake=phase != "tls") as server:
        if phase != "tls":
            server.default = steps[phase]
        client = client_for(
            server, observers=[told], retry=RetryPolicy(base=60.0, cap=60.0), timeouts=clocks()
        )
        stream = client.stream(PROMPT)
        reading = Reading(stream)
        eventually(lambda: phase_of(stream) == phase, f"the stream is in phase {phase!r}")
        if phase == "body":
            eventually(lambda: stream.text == "one two", "two tokens have come")
        stream.cancel("no longer wanted")
        assert type(reading.ended()) is Cancelled
        end = told.end
        assert (end.outcome, end.phase, end.reason) == ("cancelled", phase, "no longer wanted")
        assert (end.error_type, end.error_code) == ("Cancelled", None)
        assert end.chunks == (2 if phase == "body" else 0)
        assert told.threads["end"] == reading.name
        assert len(told.attempts) == 1
        stream.cancel()
        stream.close()
        client.close()
        assert len(told.ends) == 1


def test_leaving_early_is_told() -> None:
    """Leaving the block before the end is a cancel, with its reason; after it, nothing."""
    client, _, told = make(Reply([*TWO_TOKENS, Pause(1.0), *BLOCKS[6:]]), THREE)
    with client.stream(PROMPT) as stream:
        assert next(stream) == "one"
    end = told.end
    assert (end.outcome, end.phase, end.reason) == ("cancelled", "body", "closed before the end")
    assert end.chunks == 1
    with client.stream(PROMPT) as stream:
        stream.result()
    assert [one.outcome for one in told.ends] == ["cancelled", "success"]


def test_a_dropped_stream_is_told_by_another_thread(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Not in the finalizer, which may run anywhere: in a thread of its own, which then ends."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    told = Told()
    client = client_for(server, observers=[told])
    before = other_threads()
    stream = client.stream(PROMPT)
    next(stream)
    del stream
    eventually(lambda: told.ends, "the end is told")
    assert told.threads["end"] == told.threads["attempt"] == "llmstream-deferred"
    assert told.end.reason == "closed before the end"
    assert told.names[-3:] == ["attempt", "content", "end"]
    eventually(
        lambda: not [t for t in other_threads() - before if "llmstream-deferred" in t.name],
        "its thread has ended",
    )


def test_a_stream_in_a_garbage_cycle_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The collector frees it while an observer's lock is held by this very thread: no deadlock,
    and it is told afterwards."""
    lock = threading.Lock()

    class Locking(Told):
        def on_end(self, call: CallRecord, end: CallRecord) -> None:
            with lock:
                super().on_end(call, end)

    client, _, told = make(THREE, observer=Locking())
    caplog.set_level(logging.INFO, logger="llmstream")
    cycle: list[Any] = [client.stream(PROMPT, trace_id="cycle")]
    next(cycle[0])
    cycle.append(cycle)
    with lock:
        del cycle
        gc.collect()
        assert told.ends == []
    eventually(lambda: told.ends, "the end is told")
    assert told.end.outcome == "cancelled"
    eventually(lambda: caplog.messages, "the log has it")
    assert caplog.messages[0].startswith("call ended: trace_id=cycle outcome=cancelled")


def test_where_no_thread_can_be_had_the_watchdog_lives(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropped stream whose end cannot be told, since the system gives no thread, harms no other
    stream's clocks: the watchdog goes on."""
    real, refused = threading.Thread.start, threading.Event()

    def start(self: threading.Thread) -> None:
        if self.name == "llmstream-deferred":
            refused.set()
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    hooks: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", hooks.append)
    server.default = Reply([*TWO_TOKENS, Silence()])
    client = client_for(server, timeouts=clocks(idle=0.3), observers=[Told()])
    waiting = Reading(client.stream(PROMPT))
    eventually(lambda: waiting.stream.text == "one two", "another stream waits")
    dropped = client.stream(PROMPT)
    next(dropped)
    thread = shared_watchdog()._thread
    del dropped
    assert refused.wait(PATIENCE)
    error = waiting.ended()
    assert type(error).__name__ == "IdleTimeout"
    assert hooks == []
    assert thread is not None
    assert thread.is_alive()


class Interrupting(FakeClock):
    """Ctrl-C comes while the library waits."""

    def advance(self, seconds: float) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("replies", "phase", "attempts"),
    [
        ([Reply(THREE, delay=1.0)], "send", 1),
        ([Reply([*TWO_TOKENS, Pause(1.0)])], "body", 1),
        ([Reply.error(500), THREE], "backoff", 1),
    ],
    ids=["send", "body", "backoff"],
)
def test_ctrl_c_is_told(replies: list[Any], phase: str, attempts: int) -> None:
    """KeyboardInterrupt goes through to the caller; the observers learn that the call was
    interrupted, and where."""
    client, _, told = make(*replies, clock=Interrupting(start=0.0))
    stream = client.stream(PROMPT)
    with pytest.raises(KeyboardInterrupt):
        stream.result()
    end = told.end
    assert (end.outcome, end.reason, end.phase) == ("cancelled", "interrupted", phase)
    assert len(end.attempts) == len(told.attempts) == attempts


LAST = """
    import logging, sys
    from llmstream import Client

    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)

    class Observer:
        def on_start(self, call): print("start", flush=True)
        def on_end(self, call, end): print("end", end.outcome, flush=True)

    client = Client(base_url=sys.argv[1], observers=[Observer()], api_key="test-key")
    stream = client.stream("x")
    view = iter(stream)
    print(next(view))
    cycle = [client.stream("x")]
    cycle.append(cycle)
    next(cycle[0])
    print("bye")
"""


def test_the_interpreter_ends_while_a_stream_runs(server: LLMServer) -> None:
    """Silently and in time; what is still running has no end."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    begun = time.monotonic()
    lines = output_of(LAST, server.base_url).splitlines()
    assert time.monotonic() - begun < PATIENCE
    assert lines[-1] == "bye"
    assert [line for line in lines if not line.startswith("llmstream phase")] == [
        *("start", "one", "start", "bye")
    ]


FORK = """
    import json, logging, os, sys
    from llmstream import Client

    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(process)d %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    told = []

    class Observer:
        def on_start(self, call): told.append(("start", call.trace_id))
        def on_phase(self, call, phase, at): told.append(("phase", call.trace_id))
        def on_attempt(self, call, attempt): told.append(("attempt", call.trace_id))
        def on_end(self, call, end): told.append(("end", call.trace_id))

    client = Client(base_url=sys.argv[1], observers=[Observer()], api_key="test-key")
    closed = client.stream("running", trace_id="parents", background=True)
    dropped = client.stream("running", trace_id="parents")
    next(closed), next(dropped)
    unused = client.stream("whole", trace_id="childs")
    parent, before = os.getpid(), len(told)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        closed.close()
        del dropped
        unused.result()
        kinds = sorted({(kind, of) for kind, of in told[before:]})
        print(json.dumps(kinds), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert told[before:] == []
    closed.close()
    del dropped
    for _ in range(10_000):
        if len([1 for kind, _ in told if kind == "end"]) == 2:
            break
        __import__("time").sleep(0.001)
    print(json.dumps([kind for kind, _ in told[before:]]))
"""


def test_a_forked_child_tells_nothing_of_its_parents_streams(server: LLMServer) -> None:
    """Closing and dropping them in the child is told by nobody, neither to observers nor in the
    log, and does not cancel the parent's response at the service; a stream that the child starts
    itself is told, and the parent's end is the parent's to tell."""

    def reply(request: Any) -> Reply | Answer:
        if request.path.endswith("/cancel"):
            return Reply.json({})
        return (
            Answer("x") if request.json()["input"] == "whole" else Reply([*TWO_TOKENS, Silence()])
        )

    server.default = reply
    lines = output_of(FORK, server.base_url, PYTHONWARNINGS="ignore").splitlines()
    child, parent = (json.loads(line) for line in lines if line.startswith("["))
    assert child == [
        ["attempt", "childs"],
        ["end", "childs"],
        ["phase", "childs"],
        ["start", "childs"],
    ]
    assert sorted(parent) == ["attempt", "attempt", "end", "end"]
    ended = [line for line in lines if "call ended" in line]
    assert len(ended) == 3
    assert len({line.partition(" ")[0] for line in ended}) == 2  # each by who made the call
    cancels = [r for r in server.requests if r.path.endswith("/cancel")]
    assert len(cancels) == 1


def test_a_farewell_comes_behind_the_end_and_asks_nobody() -> None:
    """Cancelling a background response sends one more request: with the call's headers, but no
    observer is asked for them, since to them the call is over."""

    class Spans(Told):
        def request_headers(self, call: CallRecord) -> dict[str, str]:
            self.note("headers", call)
            return {"traceparent": f"00-{TRACE}-{'a' * 16}-01"}

    blocks = THREE.blocks()
    client, _, told = make(
        Reply([*blocks[:5], Silence()]), Reply.json({}), observer=Spans(), timeouts=clocks()
    )
    with client.stream(PROMPT, background=True) as stream:
        next(stream)
    first, farewell = client._endpoint.transport.requests  # type: ignore[attr-defined]
    assert farewell.path.endswith("/cancel")
    assert farewell.headers["traceparent"] == first.headers["traceparent"]
    assert told.names[-1] == "end"
    assert told.names.count("headers") == 1


# ---- observers ---------------------------------------------------------------------------------


class OnlyTheEnd:
    def __init__(self) -> None:
        self.ends: list[CallRecord] = []

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.ends.append(end)


class Inherits(Observer):
    """Overrides one method; the Protocol's own cost nothing."""

    def __init__(self) -> None:
        self.seen = 0

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        self.seen += 1


MOMENTS = (
    "on_start",
    "on_phase",
    "on_first_token",
    "on_tokens",
    "on_attempt",
    "on_retry",
    "on_content",
    "on_end",
    "request_headers",
)


def failing(*moments: str, error: BaseException | None = None) -> Any:
    """An observer that raises in the moments given."""

    def fail(self: Any, *what: Any) -> None:
        raise error or ValueError("an observer's own mistake")

    return type("Failing", (), dict.fromkeys(moments, fail))()


def test_several_observers_are_told_in_their_order() -> None:
    """All of them, each what it wants, in the order in which they were given."""
    order: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def on_end(self, call: CallRecord, end: CallRecord) -> None:
            order.append(self.name)

    whole, only, heir = Told(), OnlyTheEnd(), Inherits()
    client, _, _ = make(THREE, observers=[Named("a"), whole, only, Named("b"), heir, Named("c")])
    client.stream(PROMPT).result()
    assert order == ["a", "b", "c"]
    assert only.ends == [whole.end]
    assert heir.seen == 1


def test_methods_that_an_observer_lacks_cost_nothing() -> None:
    """Nobody listens for phases and tokens: the watch has nobody to call."""
    hooks = Dispatcher([OnlyTheEnd(), Inherits()]).hooks()
    assert [name for name, who in hooks.items() if who] == ["on_first_token", "on_end"]
    client, _, _ = make(THREE, observers=[OnlyTheEnd()])
    stream = client.stream(PROMPT)
    stream.result()
    watch = stream._call.ctx.reporter
    assert watch is not None
    assert (watch.phase, watch.tokens) == (None, None)


@pytest.mark.parametrize(
    "observers",
    [
        None,
        5,
        "observer",
        [None],
        ["observer"],
        [object()],
        [Told],
        [Told(), None],
        Told(),
        [lambda: None],
        [[Told()]],
    ],
)
def test_what_cannot_observe_is_refused(observers: Any) -> None:
    """Classes, None, text, an observer without its list: a ConfigurationError at once."""
    with pytest.raises(ConfigurationError, match="observers: give a list of observers"):
        Client(base_url="http://test", observers=observers)


def test_any_iterable_of_observers_will_do() -> None:
    """A tuple, a generator, a set."""
    told = Told()
    for given in ((told,), iter([told]), {told}):
        client, _, _ = make(THREE, observers=given)
        client.stream(PROMPT).result()
    assert len(told.ends) == 3


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="llmstream")
    return caplog


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("moments", [*((one,) for one in MOMENTS), MOMENTS], ids=lambda m: m[0])
def test_an_observer_that_fails_harms_nobody(
    log: pytest.LogCaptureFixture, api: str, moments: tuple[str, ...]
) -> None:
    """In each moment and in all of them, before and behind a good one: the answer is the same,
    the good one is told the same, and the failure is logged once for each observer."""
    replies = Reply.error(500, api=api), timed(api, THREE)
    plain, _, reference = make(*replies, api=api)
    expected = plain.stream(PROMPT, trace_id=TRACE).result()
    log.clear()
    told, bad, worse = Told(), failing(*moments), failing(*moments)
    client, _, _ = make(*replies, *replies, api=api, observers=[bad, told, worse])
    result = client.stream(PROMPT, trace_id=TRACE).result()
    for one, other in zip(result.attempts, expected.attempts, strict=True):
        assert (type(one.error), one.started_ms) == (type(other.error), other.started_ms)
    without = {"attempts": ()}
    assert msgspec.structs.replace(result, **without) == msgspec.structs.replace(
        expected, **without
    )
    assert told.names == reference.names
    assert told.end == msgspec.structs.replace(reference.end, id=told.end.id)
    client.stream(PROMPT).result()
    complaints = [r for r in log.records if r.levelno == logging.ERROR]
    assert len(complaints) == 2
    for complaint in complaints:
        assert re.fullmatch(
            r"the observer Failing failed in \w+ \(ValueError\); the streams go on, and this is "
            r"logged once",
            complaint.getMessage(),
        )
        assert complaint.exc_info
        assert isinstance(complaint.exc_info[1], ValueError)
    assert len([m for m in log.messages if m.startswith("call ended")]) == 2


@pytest.mark.parametrize("moment", MOMENTS[:-1])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_inside_an_observer_frees_everything(
    server: LLMServer,
    client_for: Callable[..., Client],
    moment: str,
    kind: type[BaseException],
) -> None:
    """Ctrl-C may come while an observer runs: it goes through, the connection is closed, and the
    others still learn of the end of what they were told has begun."""
    server.script(Reply.error(500), Reply([*BLOCKS[:6], Pause(0.01), *BLOCKS[6:]]))
    first, last = Told(), Told()
    client = client_for(
        server, observers=[first, failing(moment, error=kind()), last], retry=AT_ONCE
    )
    stream = client.stream(PROMPT)
    with pytest.raises(kind):
        stream.result()
    assert stream._call.progress is Progress.ENDED
    for told in (first, last):
        assert len(told.calls) == len(told.ends) == 1
        assert told.names[-1] == "end"
        assert len(told.attempts) == len(told.end.attempts)
    assert current_trace_id() is None
    client.close()
    server.wait_all_closed()


def test_a_real_ctrl_c_inside_an_observer(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """SIGINT while on_tokens runs: KeyboardInterrupt to the caller, one end to the observers."""

    class Signalling(Told):
        def on_tokens(self, *what: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    told = Signalling()
    client = client_for(server, observers=[told])
    stream = client.stream(PROMPT)
    with pytest.raises(KeyboardInterrupt):
        stream.result()
    assert (told.end.outcome, told.end.reason) == ("cancelled", "interrupted")
    client.close()
    server.wait_all_closed()


def test_one_observer_of_many_clients_and_threads(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Five clients, twenty threads, a hundred calls: each call is told whole, in order, under an id
    of its own."""
    told = Told()
    server.default = server.echo
    clients = [client_for(server, observers=[told], timeouts=clocks()) for _ in range(5)]

    def work(number: int) -> None:
        for call in range(5):
            client = clients[(number + call) % 5]
            client.stream(f"a b c {number}", trace_id=f"{number}-{call}").result()

    unused = clients[0].stream(PROMPT)
    workers = [Reading(unused, lambda _, n=n: work(n)) for n in range(20)]
    assert [worker.ended() for worker in workers] == [None] * 20
    assert len({call.id for call in told.calls}) == len(told.ends) == 100
    assert {end.trace_id for end in told.ends} == {f"{n}-{c}" for n in range(20) for c in range(5)}
    for call in told.calls:
        mine = [name for name, what in told.moments if what[0] is call]
        assert mine[0] == "start"
        assert mine[-1] == "end"
        assert Counter(mine)["first_token"] == Counter(mine)["end"] == 1


ACTIONS: dict[str, Callable[[Stream], Any]] = {
    "cancel": Stream.cancel,
    "close": Stream.close,
    "attempts": lambda stream: [repr(one) for one in stream.attempts],
    "text": lambda stream: (stream.text, stream.usage, stream.request_id, repr(stream)),
    "state": lambda stream: (stream.state.in_order(), stream.thinking, stream.response_id),
    "result": Stream.result,
    "next": next,
    "with": Stream.__enter__,
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("action", ACTIONS)
def test_observers_that_call_back(log: pytest.LogCaptureFixture, action: str, moment: str) -> None:
    """Into the very stream they are told of, at every moment: nothing hangs, nothing breaks; a
    cancel ends it, reading a second time is refused and logged, the rest does nothing."""
    act, held = ACTIONS[action], []

    def call_back(self: Any, *what: Any) -> dict[str, str]:
        act(held[0])
        return {}

    observer = type("Calling", (), {moment: call_back})()
    told = Told()
    client, _, _ = make(Reply.error(500), timed("responses", THREE), observers=[observer, told])
    held.append(client.stream(PROMPT))
    reading = bounded(held[0], Stream.result)
    ends = action in ("cancel", "close") and moment not in ("on_content", "on_end")
    complete = action == "close" and moment == "on_attempt"
    if ends and not complete:
        assert type(reading.error) is Cancelled
    else:
        assert reading.error is None or type(reading.error) is Cancelled
        if reading.error is None:
            assert reading.value.text == "one two three"
    assert len(told.ends) == 1
    assert told.names[-1] == "end"
    complaints = [r for r in log.records if r.levelno == logging.ERROR]
    assert len(complaints) == (action in ("result", "next"))


def test_an_observer_may_make_calls_itself() -> None:
    """A stream read to its end inside on_end of another: both are told, both end."""
    held: list[Client] = []

    class Grading(Told):
        def on_end(self, call: CallRecord, end: CallRecord) -> None:
            super().on_end(call, end)
            if call.trace_id == "outer":
                assert held[0].stream("Is this right?", trace_id="inner").result().text

    client, _, told = make(THREE, Answer("yes"), observer=Grading())
    held.append(client)
    assert client.stream(PROMPT, trace_id="outer").result().text == "one two three"
    assert [end.trace_id for end in told.ends] == ["outer", "inner"]
    assert current_trace_id() is None


def test_none_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without observers and with the logger silenced there is no reporter at all; with either one
    there is."""
    known: dict[str, Any] = {"begun": 0.0, "trace_id": "t", "api": "responses", "host": "h"}
    call = type("Call", (), dict.fromkeys(("model", "max_output_tokens", "temperature", "top_p")))

    def watched(*observers: Any) -> bool:
        return start_reporter(Dispatcher(observers), call, **known) is not None

    logger = logging.getLogger("llmstream")
    monkeypatch.setattr(logger, "level", logging.ERROR)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    assert (watched(), watched(LogObserver()), watched(OnlyTheEnd())) == (False, False, True)
    client, _, _ = make(THREE, observers=[])
    stream = client.stream(PROMPT)
    stream.result()
    assert stream._call.ctx.reporter is None
    assert stream._call.ctx.scope.listener is None
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    assert watched(LogObserver())
    assert not watched()
    logging.disable(logging.CRITICAL)
    try:
        assert not watched(LogObserver())
    finally:
        logging.disable(logging.NOTSET)
        logger.manager._clear_cache()  # type: ignore[attr-defined]


# ---- what a record is --------------------------------------------------------------------------


def some_records() -> list[Any]:
    client, _, told = make(Reply.error(429), timed("responses", THREE))
    client.stream(PROMPT, trace_id=TRACE).result()
    return [told.calls[0], told.end, *told.attempts, *told.end.retries]


def test_records_are_values() -> None:
    """Frozen, equal where their fields are, hashable, picklable, and JSON through msgspec."""
    for record in some_records():
        for field in record.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(record, field, None)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(record, protocol))
            assert again == record
            assert again is not record
            assert hash(again) == hash(record)
        written = msgspec.json.encode(record)
        assert msgspec.json.decode(written, type=type(record)) == record
        assert json.loads(written)
        assert record != msgspec.structs.replace(record, error_type="Other")
        assert type(record).__name__ in repr(record)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"code": "insufficient_quota", "type": "t"}, "insufficient_quota"),
        ({"type": "overloaded_error"}, "overloaded_error"),
        ({"status": 418}, "418"),
        ({"code": "a sentence of the service", "status": 400}, "other"),
        ({"code": "two\nlines"}, "other"),
        ({"code": "x" * 65}, "other"),
        ({"code": 'quote"'}, "other"),
        ({"code": "ünknown"}, "other"),
        ({}, None),
    ],
)
def test_the_code_of_an_error(said: dict[str, Any], code: str | None) -> None:
    """The service's code, else its type, else the status; what is no plain word is "other"."""
    error = RateLimitError("m", **said)
    assert error_code(error) == code


def test_only_the_service_has_codes() -> None:
    """A timeout, a cancel, a success have none."""
    assert error_code(None) is None
    assert error_code(Cancelled("m")) is None
    assert error_code(DeadlineExceeded("m")) is None


# ---- the log -----------------------------------------------------------------------------------

_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


def parsed(line: str) -> tuple[str, dict[str, str]]:
    """What a line says: its kind, and its fields as text; there is nothing else in it."""
    kind, _, rest = line.partition(": ")
    assert _FIELD.sub("", rest).strip(" ") == "", line
    fields = {n: json.loads(v) if v.startswith('"') else v for n, v in _FIELD.findall(rest)}
    return kind, fields


def lines_of(log: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in log.records if r.name == "llmstream" and r.levelno >= level]


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    plain = vars(logging.makeLogRecord({}))
    added = {"message", "asctime", "taskName"}
    return {n: v for n, v in vars(record).items() if n not in plain and n not in added}


def test_the_line_of_a_success(log: pytest.LogCaptureFixture) -> None:
    """Word by word, at INFO, with the same in `extra`, as numbers."""
    log.set_level(logging.INFO, logger="llmstream")
    reply = timed("responses", THREE, headers={"x-request-id": "req-1"})
    client, _, told = make(reply)
    client.stream(PROMPT, trace_id="t-1").result()
    (record,) = log.records
    received = told.end.bytes
    assert (record.name, record.levelno) == ("llmstream", logging.INFO)
    assert record.getMessage() == (
        "call ended: trace_id=t-1 outcome=success status=200 phase=done finish=stop api=responses "
        "model=m host=test attempts=1 retries=0 first_token_ms=1500.0 total_ms=3000.0 "
        "waited_ms=3000.0 backoff_ms=0.0 longest_gap_ms=500.0 tokens_in=12 tokens_out=34 "
        f"tokens_cached=5 tokens_reasoning=6 chunks=3 bytes={received} request_id=req-1 "
        "response_id=resp_test"
    )
    assert extra_of(record) == {
        "trace_id": "t-1",
        "outcome": "success",
        "error_type": None,
        "error_code": None,
        "status": 200,
        "phase": "done",
        "finish": "stop",
        "reason": None,
        "api": "responses",
        "model": "m",
        "host": "test",
        "attempts": 1,
        "retries": 0,
        "first_token_ms": 1500.0,
        "total_ms": 3000.0,
        "waited_ms": 3000.0,
        "backoff_ms": 0.0,
        "longest_gap_ms": 500.0,
        "tokens_in": 12,
        "tokens_out": 34,
        "tokens_cached": 5,
        "tokens_reasoning": 6,
        "chunks": 3,
        "bytes": received,
        "request_id": "req-1",
        "response_id": "resp_test",
    }
    json.dumps(extra_of(record))


def test_the_lines_of_a_retry_and_an_error(log: pytest.LogCaptureFixture) -> None:
    """One line for the retry and one for the end, both at WARNING."""
    log.set_level(logging.INFO, logger="llmstream")
    quota = Reply.error(402, code="insufficient_quota", request_id="req-2")
    client, _, told = make(Reply.error(503), quota)
    failure(client.stream(PROMPT, trace_id="t-1"), lambda s: s.result())
    retried, ended = log.records
    assert [r.levelno for r in (retried, ended)] == [logging.WARNING] * 2
    assert retried.getMessage() == (
        "call retried: trace_id=t-1 attempt=1 error_type=OverloadedError error_code=503 status=503 "
        "phase=headers wait_ms=500.0 api=responses model=m host=test"
    )
    assert extra_of(retried) == {
        "trace_id": "t-1",
        "attempt": 1,
        "error_type": "OverloadedError",
        "error_code": "503",
        "status": 503,
        "phase": "headers",
        "wait_ms": 500.0,
        "api": "responses",
        "model": "m",
        "host": "test",
    }
    assert ended.getMessage() == (
        "call ended: trace_id=t-1 outcome=error error_type=QuotaExceededError "
        "error_code=insufficient_quota status=402 phase=headers api=responses model=m host=test "
        "attempts=2 retries=1 total_ms=500.0 waited_ms=0.0 backoff_ms=500.0 chunks=0 "
        f"bytes={told.end.bytes} request_id=req-2"
    )


def test_the_line_of_a_cancel(log: pytest.LogCaptureFixture) -> None:
    """At INFO: it is what the caller wanted."""
    log.set_level(logging.INFO, logger="llmstream")
    client, _, told = make(Reply([*TWO_TOKENS, Pause(1.0)]))
    stream = client.stream(PROMPT, trace_id="t-1")
    assert next(stream) == "one"
    stream.cancel("the user left")
    failure(stream, lambda s: s.result())
    (record,) = log.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "call ended: trace_id=t-1 outcome=cancelled error_type=Cancelled status=200 phase=body "
        'reason="the user left" api=responses model=m host=test attempts=1 retries=0 '
        "first_token_ms=0.0 total_ms=0.0 waited_ms=0.0 backoff_ms=0.0 chunks=1 "
        f"bytes={told.end.bytes} response_id=resp_test"
    )


def test_debug_adds_the_phases(log: pytest.LogCaptureFixture) -> None:
    """One line for each phase of each attempt, nothing for tokens."""
    client, _, told = make(Reply.error(500), timed("responses", THREE))
    client.stream(PROMPT, trace_id="t-1").result()
    debug = [r for r in log.records if r.levelno == logging.DEBUG]
    assert [r.getMessage() for r in debug] == [
        "phase: trace_id=t-1 attempt=1 phase=connect at_ms=0.0",
        "phase: trace_id=t-1 attempt=1 phase=send at_ms=0.0",
        "phase: trace_id=t-1 attempt=1 phase=headers at_ms=0.0",
        "phase: trace_id=t-1 attempt=2 phase=backoff at_ms=0.0",
        "phase: trace_id=t-1 attempt=2 phase=connect at_ms=500.0",
        "phase: trace_id=t-1 attempt=2 phase=send at_ms=500.0",
        "phase: trace_id=t-1 attempt=2 phase=headers at_ms=1500.0",
        "phase: trace_id=t-1 attempt=2 phase=first_token at_ms=1500.0",
        "phase: trace_id=t-1 attempt=2 phase=body at_ms=2000.0",
    ]
    assert [extra_of(r)["phase"] for r in debug] == told.phases


@pytest.mark.parametrize(
    ("level", "kinds"),
    [
        (logging.DEBUG, {"phase", "call retried", "call ended"}),
        (logging.INFO, {"call retried", "call ended"}),
        (logging.WARNING, {"call retried"}),
        (logging.ERROR, set()),
    ],
)
def test_the_levels(log: pytest.LogCaptureFixture, level: int, kinds: set[str]) -> None:
    """Of a call that was retried and succeeded: what each level of the logger shows."""
    log.set_level(level, logger="llmstream")
    client, _, _ = make(Reply.error(500), THREE, observers=[])
    client.stream(PROMPT).result()
    assert {line.partition(":")[0] for line in lines_of(log, logging.DEBUG)} == kinds
    log.clear()
    client, _, _ = make(Reply.error(400), observers=[])
    failure(client.stream(PROMPT), Stream.result)
    ended = [line for line in lines_of(log) if line.startswith("call ended")]
    assert len(ended) == (level <= logging.WARNING)


QUIET = """
    import sys
    from llmstream import Client, LLMStreamError

    class Failing:
        def on_end(self, call, end):
            raise ValueError("an observer's own mistake")

    with Client(base_url=sys.argv[1], api_key="test-key", observers=[Failing()]) as client:
        try:
            client.stream("x").result()
        except LLMStreamError:
            pass
"""


def test_quiet_without_logging_set_up(server: LLMServer) -> None:
    """An application that has set up no logging sees nothing: not of errors, retries, nor of an
    observer that fails."""
    server.script(Reply.error(500, headers={"retry-after-ms": "1"}), Reply.error(400))
    assert output_of(QUIET, server.base_url) == ""
    assert len(server.requests) == 2


HOSTILE = (
    "two\nlines",
    "call ended: outcome=success",
    'quote " inside',
    "back\\slash",
    "tab\tand\x00nul\x1b[31mred",
    "a=b c=d",
    "\u2028line\u2029and\x85next",
    "right\u202eto left",
    "%s %(trace_id)s %d {trace_id}",
    "ünïcode 東京",
    "'single'",
    " ",
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_values_break_no_line(log: pytest.LogCaptureFixture, hostile: str) -> None:
    """A model's name, a cancel's reason and what the service says as id: each log line stays one
    line, reads back to exactly these values, and says nothing else."""
    answer = Answer(["one ", "two"], response_id=hostile, model=hostile)
    client, _, _ = make(Reply.error(500), answer)
    stream = client.stream(PROMPT, trace_id="t-1", model=hostile)
    next(stream)
    stream.cancel(hostile)
    failure(stream, lambda s: s.result())
    for record in log.records:
        line = record.getMessage()
        assert line.splitlines() == [line]
        assert line.isprintable()
        _, fields = parsed(line)
        for name, value in extra_of(record).items():
            shown = f"{value:.1f}" if isinstance(value, float) else str(value)
            assert fields.get(name) == (None if value is None else shown), name
    ended = log.records[-1]
    assert (ended.model, ended.reason, ended.response_id) == (hostile,) * 3  # type: ignore[attr-defined]
    assert parsed(ended.getMessage())[1]["outcome"] == "cancelled"


def test_half_a_surrogate_can_be_written(log: pytest.LogCaptureFixture) -> None:
    """A reason out of a file name's undecodable bytes does not lose the line on a UTF-8 stream."""
    client, _, _ = make(THREE)
    stream = client.stream(PROMPT)
    next(stream)
    stream.cancel(b"report-\xff.txt".decode("utf-8", "surrogateescape"))
    failure(stream, lambda s: s.result())
    line = lines_of(log)[-1]
    assert line.encode("utf-8")
    assert parsed(line)[1]["reason"] == "report-\udcff.txt"


def hostile_id_header(value: str) -> Reply:
    return Reply(THREE, headers={"x-request-id": value})


def test_a_request_id_of_the_service_is_one_word(log: pytest.LogCaptureFixture) -> None:
    """It comes from a header: whatever is in it."""
    client, _, _ = make(hostile_id_header('req outcome=error "x"'))
    client.stream(PROMPT).result()
    assert parsed(lines_of(log)[-1])[1]["request_id"] == 'req outcome=error "x"'
    assert parsed(lines_of(log)[-1])[1]["outcome"] == "success"


class Raising(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise ValueError("a filter's own mistake")


@pytest.mark.parametrize("observers", [(), (failing(*MOMENTS),)], ids=["alone", "and an observer"])
def test_a_filter_that_raises_breaks_no_stream(
    log: pytest.LogCaptureFixture, observers: tuple[Any, ...]
) -> None:
    """An application's own logging may fail at every line: the streams do not."""
    broken = Raising()
    logger = logging.getLogger("llmstream")
    logger.addFilter(broken)
    try:
        client, _, _ = make(Reply.error(500), THREE, Reply.error(400), observers=observers)
        assert client.stream(PROMPT).result().text == "one two three"
        error = failure(client.stream(PROMPT), Stream.result)
    finally:
        logger.removeFilter(broken)
    assert type(error).__name__ == "InvalidRequestError"


def test_a_record_factory_that_sets_our_names(log: pytest.LogCaptureFixture) -> None:
    """Applications put `trace_id` or `request_id` on every record by a factory, as the logging
    cookbook shows; `extra` would refuse these names, and the lines would be lost."""
    real = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = real(*args, **kwargs)
        record.trace_id = record.request_id = record.host = "the application's"
        return record

    logging.setLogRecordFactory(factory)
    try:
        client, _, told = make(Reply.error(500), THREE)
        client.stream(PROMPT, trace_id="t-1").result()
    finally:
        logging.setLogRecordFactory(real)
    kinds = [line.partition(":")[0] for line in lines_of(log)]
    assert kinds == ["call retried", "call ended"]
    assert [r.trace_id for r in log.records] == ["t-1"] * len(log.records)  # type: ignore[attr-defined]
    assert log.records[-1].bytes == told.end.bytes  # type: ignore[attr-defined]


# ---- the trace id ------------------------------------------------------------------------------


def test_the_trace_id_for_the_callers_own_log(log: pytest.LogCaptureFixture) -> None:
    """Inside a call every line that the application logs can carry its id; outside it says "-"."""
    log.handler.addFilter(TraceIdFilter())
    mine = logging.getLogger("application")
    log.set_level(logging.INFO, logger="application")
    client, _, _ = make(THREE)
    stream = client.stream(PROMPT, trace_id="t-1")
    mine.info("before")
    assert current_trace_id() is None
    for _ in stream:
        mine.info("during")
        assert current_trace_id() == "t-1"
    mine.info("after")
    mine.info("its own", extra={"trace_id": "mine"})
    said = [(r.getMessage(), r.trace_id) for r in log.records if r.name == "application"]  # type: ignore[attr-defined]
    assert said == [
        ("before", "-"),
        *[("during", "t-1")] * 3,
        ("after", "-"),
        ("its own", "mine"),
    ]
    assert logging.Formatter("%(trace_id)s").format(log.records[-1]) == "mine"


def test_nested_and_interleaved_streams() -> None:
    """The latest that runs is the current one; when it ends, the one before is again."""
    client, _, _ = make(*[THREE] * 5)
    for _ in client.stream(PROMPT, trace_id="outer"):
        assert current_trace_id() == "outer"
        inner = client.stream(PROMPT, trace_id="inner")
        next(inner)
        assert current_trace_id() == "inner"
        inner.close()
        assert current_trace_id() == "outer"
    assert current_trace_id() is None
    first, second = (client.stream(PROMPT, trace_id=name) for name in ("first", "second"))
    client._endpoint.transport.script(THREE)  # type: ignore[attr-defined]
    pairs = zip(first, second, strict=True)
    next(pairs)
    assert current_trace_id() == "second"
    first.close()
    assert current_trace_id() == "second"
    second.close()
    assert current_trace_id() is None


def test_a_stream_that_ends_elsewhere() -> None:
    """Closed, dropped or read to its end by another thread: this one's context has no call then."""
    client, _, _ = make(*[THREE] * 3)
    for end in (Stream.close, Stream.result):
        stream = client.stream(PROMPT, trace_id="t-1")
        next(stream)
        assert current_trace_id() == "t-1"
        other = threading.Thread(target=end, args=(stream,))
        other.start()
        other.join()
        assert current_trace_id() is None
    stream = client.stream(PROMPT, trace_id="t-1")
    next(stream)
    del stream
    assert current_trace_id() is None


def test_threads_with_and_without_the_context() -> None:
    """A thread has its own context: it knows the call only where it was given a copy."""
    client, _, _ = make(THREE, THREE)
    stream = client.stream(PROMPT, trace_id="t-1")
    next(stream)
    seen: list[str | None] = []
    copied = contextvars.copy_context()

    def look() -> None:
        seen.append(current_trace_id())

    for target, args in ((look, ()), (copied.run, (look,))):
        thread = threading.Thread(target=target, args=args)
        thread.start()
        thread.join()
    assert seen == [None, "t-1"]
    stream.close()
    assert copied.run(current_trace_id) is None
    # what begins in a copy is not seen outside of it
    other = client.stream(PROMPT, trace_id="t-2")
    copied.run(next, other)
    assert copied.run(current_trace_id) == "t-2"
    assert current_trace_id() is None
    other.close()


def test_ten_thousand_calls_leave_no_trail() -> None:
    """The context keeps what runs, not what has been."""
    client, _, _ = make(*[THREE] * 300)
    kept_open = client.stream(PROMPT)
    next(kept_open)
    for _ in range(200):
        client.stream(PROMPT).result()
    assert len(active.get()) <= 2
    kept_open.close()


def test_the_trace_id_is_on_everything(log: pytest.LogCaptureFixture) -> None:
    """Stream, result, error (pickled too, and those of attempts that were given up), every record
    and every line."""
    client, _, told = make(Reply.error(500), THREE, Reply.error(500), Reply([*TWO_TOKENS, Cut()]))
    stream = client.stream(PROMPT, trace_id="t-1")
    result = stream.result()
    assert stream.trace_id == result.trace_id == "t-1"
    assert stream.attempts[0].error is not None
    assert stream.attempts[0].error.trace_id == "t-1"
    error = failure(client.stream(PROMPT, trace_id="t-1"), Stream.result)
    again = pickle.loads(pickle.dumps(error))
    assert error.trace_id == again.trace_id == "t-1"
    assert error.partial.trace_id == again.attempts[-1].error.trace_id == "t-1"
    for _, (call, *what) in told.moments:
        assert call.trace_id == "t-1"
        for record in what:
            assert getattr(record, "trace_id", "t-1") == "t-1"
    assert {parsed(line)[1]["trace_id"] for line in lines_of(log, logging.DEBUG)} == {"t-1"}


IDS: dict[str, tuple[str | None, bool]] = {
    "made": (None, True),
    "hex": (TRACE, True),
    "upper case": (TRACE.upper(), True),
    "a UUID": (str(uuid.UUID(TRACE)), True),
    "all zero": ("0" * 32, False),
    "a zero UUID": (str(uuid.UUID(int=0)), False),
    "too short": (TRACE[:-1], False),
    "too long": (TRACE + "0", False),
    "a word": ("order-4711", False),
    "words": ("order 4711 / item 3", False),
}


@pytest.mark.parametrize("given", IDS)
def test_the_trace_id_on_the_wire(server: LLMServer, given: str) -> None:
    """X-Client-Request-Id has it as it was given; traceparent where it is one, with a parent id of
    its own for each attempt."""
    trace_id, is_one = IDS[given]
    server.script(Reply.error(500), Reply.error(500), THREE)
    with Client(base_url=server.base_url, api_key="test-key", retry=AT_ONCE) as client:
        stream = client.stream(PROMPT, trace_id=trace_id)
        stream.result()
    assert stream.trace_id == (trace_id or stream.trace_id)
    assert [r.headers["x-client-request-id"] for r in server.requests] == [stream.trace_id] * 3
    parents = [r.headers.get("traceparent") for r in server.requests]
    if not is_one:
        assert parents == [None] * 3
        return
    digits = stream.trace_id.replace("-", "").lower()
    for parent in parents:
        assert parent is not None
        assert re.fullmatch(f"00-{digits}-[0-9a-f]{{16}}-01", parent)
    assert len(set(parents)) == 3


def test_made_trace_ids_are_all_different() -> None:
    """32 hex digits each."""
    client, _, _ = make()
    made = {client.stream(PROMPT).trace_id for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


class Parent:
    def __init__(self, headers: Any) -> None:
        self.headers = headers
        self.calls: list[CallRecord] = []

    def request_headers(self, call: CallRecord) -> Any:
        self.calls.append(call)
        return self.headers


def test_whose_headers_win(server: LLMServer) -> None:
    """The caller's over the observers', the last observer's over the first's, theirs over the
    default; nobody's over the key and the content type. They are asked for at every attempt."""
    server.script(Reply.error(500), THREE)
    first = Parent({"TraceParent": "first", "x-first": "1", "x-mine": "observer"})
    second = Parent({"traceparent": "second", "tracestate": "a=b", "Authorization": "observer"})
    with Client(
        base_url=server.base_url,
        api_key="test-key",
        retry=AT_ONCE,
        observers=[first, second],
        headers={"X-Mine": "client"},
    ) as client:
        client.stream(PROMPT, headers={"tracestate": "call"}).result()
        client.stream(PROMPT, headers={"Traceparent": "call"}).result()
    for request in server.requests[:2]:
        sent = request.headers
        assert (sent["traceparent"], sent["tracestate"]) == ("second", "call")
        assert (sent["x-first"], sent["x-mine"]) == ("1", "client")
        assert sent["authorization"] == "Bearer test-key"
        assert sent["content-type"] == "application/json"
    assert server.requests[2].headers["traceparent"] == "call"
    assert len(first.calls) == len(second.calls) == 3


@pytest.mark.parametrize(
    "headers",
    [
        None,
        5,
        ["traceparent"],
        {"traceparent": "two\r\nlines: x"},
        {"a name": "x"},
        {"": "x"},
        {"x-nul": "\x00"},
        {"x-surrogate": "\ud800"},
    ],
    ids=repr,
)
def test_headers_that_are_none_break_no_stream(
    server: LLMServer, log: pytest.LogCaptureFixture, headers: Any
) -> None:
    """What an observer gives that HTTP cannot carry is left out, and said once."""
    with Client(
        base_url=server.base_url, api_key="test-key", observers=[Parent(headers)]
    ) as client:
        for _ in range(2):
            assert client.stream(PROMPT, trace_id=TRACE).result().text
    assert TRACE in server.requests[0].headers["traceparent"]
    assert len([r for r in log.records if r.levelno == logging.ERROR]) == 1


# ---- the story ---------------------------------------------------------------------------------


class Story(NamedTuple):
    told: Told
    results: list[Any]  # what the callers got
    lines: list[logging.LogRecord]
    server: LLMServer
    page: str


@pytest.fixture
def story(
    server: LLMServer, client_for: Callable[..., Client], log: pytest.LogCaptureFixture
) -> Story:
    """One run: a call that meets a 429, a drop and a truncation and succeeds in the end; one whose
    answer is cut and begins anew; one that is out of quota; one that is left early."""
    told, trace = Told(), TimelineObserver()
    asks = Reply.error(429, headers={"retry-after-ms": "60"}, request_id="req-1")
    whole = Reply(
        [*BLOCKS[:4], Pause(0.05), BLOCKS[4], Pause(0.08), *BLOCKS[5:]],
        delay=0.04,
        headers={"x-request-id": "req-4"},
    )
    server.script(
        *(asks, Reply([*BLOCKS[:4], Cut()]), Reply(BLOCKS[:4]), whole),
        *(Reply([*TWO_TOKENS, Reset()]), Answer("five six")),
        Reply.error(429, code="insufficient_quota", request_id="req-7"),
        Reply([*TWO_TOKENS, Silence()]),
    )
    policy = RetryPolicy(base=0.03, cap=0.05, jitter=0.0)
    client = client_for(server, observers=[told, trace], retry=policy, timeouts=clocks(), model="m")
    results = [
        client.stream(PROMPT, trace_id="a").result(),
        client.stream(PROMPT, trace_id="b", on_disconnect="restart").result(),
        failure(client.stream(PROMPT, trace_id="c"), Stream.result),
    ]
    with client.stream(PROMPT, trace_id="d") as stream:
        next(stream)
    lines = [r for r in log.records if r.name == "llmstream"]
    return Story(told, [*results, stream], lines, server, trace.html())


def test_records_and_results_tell_one_story(story: Story) -> None:
    """What the observers were told is what the callers got, and what the server saw."""
    told, (first, second, quota, left), server = story.told, story.results, story.server
    a, b, c, d = told.ends
    assert [end.outcome for end in told.ends] == ["success", "success", "error", "cancelled"]
    assert [x.error_type for x in a.attempts] == [
        *("RateLimitError", "StreamInterrupted", "StreamTruncated"),
        None,
    ]
    assert [x.phase for x in a.attempts] == ["headers", "first_token", "first_token", "done"]
    assert [x.status for x in a.attempts] == [429, 200, 200, 200]
    assert [x.request_id for x in a.attempts] == ["req-1", None, None, "req-4"]
    assert [x.error_type for x in b.attempts] == ["StreamInterrupted", None]
    assert (b.attempts[0].phase, b.attempts[0].chunks, b.chunks) == ("body", 2, 4)
    assert (c.error_type, c.error_code, c.status) == (
        "QuotaExceededError",
        "insufficient_quota",
        429,
    )
    assert (c.request_id, c.retries, c.first_token_ms) == ("req-7", (), None)
    assert (d.reason, d.phase, d.chunks >= 1) == ("closed before the end", "body", True)
    for end, attempts in zip(
        told.ends, (first.attempts, second.attempts, quota.attempts, left.attempts), strict=True
    ):
        assert len(end.attempts) == len(attempts)
        for record, attempt in zip(end.attempts, attempts, strict=True):
            assert record.number == attempt.number
            assert record.started_ms == attempt.started_ms
            assert record.total_ms == attempt.duration_ms
            assert record.first_token_ms == attempt.first_token_ms
            assert record.longest_gap_ms == attempt.longest_gap_ms
            assert record.wait_ms == attempt.delay_ms
            assert record.throttled_ms == attempt.throttled_ms
            assert (record.status, record.phase) == (attempt.status, attempt.phase)
            assert (record.request_id, record.bytes) == (attempt.request_id, attempt.bytes)
            assert (record.chunks, record.usage) == (attempt.chunks, attempt.usage)
            kind = None if attempt.error is None else type(attempt.error).__name__
            assert (record.error_type, record.error_code) == (kind, error_code(attempt.error))
    assert a.total_ms == first.timings.total_ms
    assert a.first_token_ms == first.timings.first_token_ms
    # the server's own view: as many requests, at the times that the records say
    assert len(server.requests) == sum(len(end.attempts) for end in told.ends) == 8
    begun = server.requests[0].received_at * 1000.0
    for request, record in zip(server.requests, a.attempts, strict=False):
        assert request.headers["x-client-request-id"] == record.trace_id == "a"
        assert abs(request.received_at * 1000.0 - begun - record.started_ms) < 500.0
    last = a.attempts[3]
    assert last.first_token_ms is not None
    assert last.first_token_ms >= 89.0  # 40 ms to the headers, 50 ms to the first token
    assert last.longest_gap_ms is not None
    assert 0.0 < last.longest_gap_ms < last.total_ms  # of the 80 ms, less who is late for the first
    assert a.backoff_ms >= 60.0 + 50.0 + 50.0 - 1.0
    assert a.retries[0].wait_ms == 60.0


def test_the_records_agree_with_themselves(story: Story) -> None:
    """Sums are sums, phases lie inside their attempts, waits between them."""
    for end in story.told.ends:
        assert end.chunks == sum(x.chunks for x in end.attempts)
        assert end.bytes == sum(x.bytes for x in end.attempts)
        gaps = [x.longest_gap_ms for x in end.attempts if x.longest_gap_ms is not None]
        assert end.longest_gap_ms == max(gaps, default=None)
        assert end.attempts[-1].phase == end.phase
        assert end.attempts[-1].status == end.status
        failed = [x for x in end.attempts if x.wait_ms]
        assert [r.attempt for r in end.retries] == [x.number for x in failed]
        for retry in end.retries:
            given_up = end.attempts[retry.attempt - 1]
            for name in ("wait_ms", "error_type", "error_code", "status", "phase"):
                assert getattr(retry, name) == getattr(given_up, name), name
        for one, following in zip(end.attempts, end.attempts[1:], strict=False):
            gap = following.started_ms - one.started_ms - one.total_ms
            assert gap >= one.wait_ms - 1.0
        for one in end.attempts:
            times = [at for _, at in one.phases]
            assert times == sorted(times)
            assert one.started_ms - 0.5 <= times[0]
            assert times[-1] <= one.started_ms + one.total_ms + 0.5
            assert [name for name, _ in one.phases][:1] == ["connect"]
            if one.outcome != "success":
                assert one.phases[-1][0] == one.phase
        spent = sum(x.total_ms for x in end.attempts) + end.backoff_ms
        assert spent == pytest.approx(end.total_ms, abs=50.0)


def test_the_log_tells_the_records_story(story: Story) -> None:
    """Every line, field by field: ends, retries and phases are those of the records, in order."""
    told = story.told
    said: dict[str, list[tuple[dict[str, str], dict[str, Any]]]] = {}
    for line in story.lines:
        kind, fields = parsed(line.getMessage())
        extra = extra_of(line)
        shown = {n: f"{v:.1f}" if isinstance(v, float) else str(v) for n, v in extra.items()}
        assert fields == {n: v for n, v in shown.items() if extra[n] is not None}
        said.setdefault(kind, []).append((fields, extra))
    assert [extra["trace_id"] for _, extra in said["call ended"]] == ["a", "b", "c", "d"]
    for (_, extra), end in zip(said["call ended"], told.ends, strict=True):
        assert extra == {
            **{n: getattr(end, n) for n in extra if hasattr(end, n)},
            "attempts": len(end.attempts),
            "retries": len(end.retries),
            "tokens_in": end.usage.input_tokens,
            "tokens_out": end.usage.output_tokens,
            "tokens_cached": end.usage.cached_tokens,
            "tokens_reasoning": end.usage.reasoning_tokens,
        }
    retries = [(end, retry) for end in told.ends for retry in end.retries]
    assert len(said["call retried"]) == len(retries) == 4
    for (_, extra), (end, retry) in zip(said["call retried"], retries, strict=True):
        known = ("trace_id", "api", "model", "host")
        assert extra == msgspec.structs.asdict(retry) | {n: getattr(end, n) for n in known}
    for end in told.ends:
        mine = [extra for _, extra in said["phase"] if extra["trace_id"] == end.trace_id]
        for attempt in end.attempts:
            phases = [
                (extra["phase"], extra["at_ms"])
                for extra in mine
                if extra["attempt"] == attempt.number and extra["phase"] != "backoff"
            ]
            assert tuple(phases) == attempt.phases
        waits = [extra["attempt"] for extra in mine if extra["phase"] == "backoff"]
        assert waits == [retry.attempt + 1 for retry in end.retries]
    moments = [(what[0].trace_id, *what[1:]) for name, what in told.moments if name == "phase"]
    assert [(e["trace_id"], e["phase"], e["at_ms"]) for _, e in said["phase"]] == moments


def cells_of(section: str, caption: str) -> list[list[str]]:
    """The cells of a table of the trace page."""
    found = re.search(f"<caption>{caption}.*?<tbody>(.*?)</tbody>", section, re.S)
    rows = re.findall("<tr>(.*?)</tr>", found[1], re.S) if found else []
    return [re.findall("<td>(.*?)</td>", row, re.S) for row in rows]


def number_in(cell: str) -> float | None:
    """What is there for machines."""
    found = re.search('<data value="([^"]*)"', cell)
    return float(found[1]) if found else None


def test_the_page_tells_the_records_story(story: Story) -> None:
    """The picture of the run has the numbers of the records: of each call, each attempt, each of
    its phases, and each retry."""
    sections = story.page.split('<section class="call">')[1:]
    assert len(sections) == 4
    for end in story.told.ends:
        (section,) = (one for one in sections if f"<bdi>{end.trace_id}</bdi>" in one)

        def near(*numbers: float | None) -> list[Any]:
            return [n if n is None else pytest.approx(n, abs=0.002) for n in numbers]

        tiles = re.findall(r"<dt>([\w ]+)</dt><dd>(<data.*?|<span.*?)</dd>", section)
        told = {name: number_in(value) for name, value in tiles}
        times = ("first token", "total", "network waits", "waits between attempts", "longest gap")
        assert [told[name] for name in times] == near(
            end.first_token_ms, end.total_ms, end.waited_ms, end.backoff_ms, end.longest_gap_ms
        )
        assert (told["attempts"], told["chunks"]) == (len(end.attempts), end.chunks)
        assert (told["bytes"], told["tokens out"]) == (end.bytes, end.usage.output_tokens)
        facts = dict(re.findall(r"<dt>([\w ]+)</dt><dd><bdi>(.*?)</bdi>", section))
        assert facts["host"] == f"{end.host}:{end.port}"
        assert facts.get("error") == end.error_type
        assert facts.get("code") == end.error_code
        assert facts.get("ended in phase") == (None if end.outcome == "success" else end.phase)
        assert facts.get("reason") == end.reason
        rows = cells_of(section, "Attempts")
        assert len(rows) == len(end.attempts)
        for row, attempt in zip(rows, end.attempts, strict=True):
            kind = attempt.error_type or "success"
            assert row[3] == " ".join(word for word in (kind, attempt.error_code) if word)
            assert (row[0], row[4]) == (str(attempt.number), attempt.phase)
            assert [number_in(row[n]) for n in (1, 2, 5, 6, 7, 8, 9)] == near(
                attempt.started_ms,
                attempt.total_ms,
                attempt.status,
                attempt.first_token_ms,
                attempt.longest_gap_ms,
                attempt.chunks,
                attempt.bytes,
            )
            over = attempt.started_ms + attempt.total_ms
            until = [*(at for _, at in attempt.phases[1:]), over]
            spent = [(name, to - at) for (name, at), to in zip(attempt.phases, until, strict=True)]
            shown = re.findall(r'nowrap">(\w+) <data value="([^"]*)"', row[11])
            assert [name for name, _ in shown] == [name for name, _ in spent]
            assert [float(ms) for _, ms in shown] == near(*(ms for _, ms in spent))
        retries = cells_of(section, "Retries")
        assert [(row[0], number_in(row[4])) for row in retries] == [
            (str(retry.attempt), *near(retry.wait_ms)) for retry in end.retries
        ]


# ---- calls inside of calls, and at the end -------------------------------------------------------


@pytest.mark.parametrize("moment", ["connect", "send", "headers", "first_token", "body"])
def test_an_observer_may_make_a_call_of_its_own(server: LLMServer, moment: str) -> None:
    """In any phase of the call that it is told of: both end well."""
    texts: list[str] = []

    class Asks:
        def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
            if phase == moment and not texts:
                texts.append("")
                texts.append(inner.stream("inner").result().text)

    with (
        Client(base_url=server.base_url, model="m", api_key="k") as inner,
        Client(base_url=server.base_url, model="m", api_key="k", observers=[Asks()]) as outer,
    ):
        answer = outer.stream("outer").result().text
    assert texts == ["", answer]


def test_a_program_that_ends_says_goodbye(server: LLMServer) -> None:
    """A background response that was left early is cancelled at the service, and the call has its
    line, though the program ends at once."""
    blocks = Answer("The sky is blue").blocks()[:6]
    server.script(Reply([*blocks, Silence()]), Reply.json({"status": "cancelled"}))
    said = output_of(
        """
        import logging, sys
        from llmstream import Client

        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

        def main():
            client = Client(base_url=sys.argv[1], model="m", api_key="k")
            for token in client.stream("Hi", background=True):
                break

        main()
        """,
        server.base_url,
    )
    assert said.count("call ended") == 1
    assert [request.path.rpartition("/")[2] for request in server.requests][1:] == ["cancel"]


def test_async_observers_are_refused() -> None:
    """Nobody would await them: said at once, not by silence."""

    class Waits:
        async def on_end(self, call: CallRecord, end: CallRecord) -> None: ...

    with pytest.raises(ConfigurationError, match="async"):
        Client(base_url="http://test", observers=[Waits()])


def test_ids_are_unique_though_random_is_seeded_and_the_process_forked() -> None:
    """An application that seeds the common generator, or forks, gets other trace ids each time."""
    said = output_of(
        """
        import os, random
        from llmstream import Client

        client = Client(base_url="http://127.0.0.1:9", model="m")
        for _ in range(2):
            random.seed(1)
            print(client.stream("Hi").trace_id, flush=True)
        if os.fork() == 0:
            print(client.stream("Hi").trace_id, flush=True)
            os._exit(0)
        os.wait()
        print(client.stream("Hi").trace_id, flush=True)
        """
    )
    ids = said.split()
    assert len(ids) == len(set(ids)) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in ids)
