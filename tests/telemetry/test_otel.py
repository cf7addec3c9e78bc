"""OpenTelemetry: what a real SDK exports of calls over the loopback, and what it never sees.

The names, units and buckets in this file are written out of the conventions' text once more, so
that a slip in the table of the code shows.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from conftest import AT_ONCE, ONCE, eventually, failure, in_threads, output_of
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.metrics import MeterProvider as AnyMeterProvider
from opentelemetry.metrics import NoOpMeter
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from llmstream import (
    Client,
    ConfigurationError,
    FirstTokenTimeout,
    IdleTimeout,
    LLMStreamError,
    QuotaExceededError,
    Result,
    RetryPolicy,
    StreamInterrupted,
    StreamTruncated,
    Timeouts,
    ToolCall,
)
from llmstream.telemetry.observer import Dispatcher
from llmstream.telemetry.otel import NAMES, OpenTelemetryObserver, provider_of
from llmstream.telemetry.records import AttemptRecord, CallRecord, RetryRecord
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Silence,
)

pytestmark = pytest.mark.usefixtures("nothing_left", "_no_settings")

APIS = ("responses", "messages", "chat")
ANSWER = Answer("one two three four", usage=(12, 34, 5, 6), model="served-model")
PROMPT = "Why is the sky blue?"


@pytest.fixture
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


class Telemetry:
    """An application's SDK, in memory."""

    def __init__(self, **tracing: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False, **tracing)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("the application")

    def observer(self, **settings: Any) -> OpenTelemetryObserver:
        return OpenTelemetryObserver(self.tracers, self.meters, **settings)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those of calls."""
        return [s for s in self.exporter.get_finished_spans() if s.kind is SpanKind.CLIENT]

    @property
    def span(self) -> ReadableSpan:
        (only,) = self.spans
        return only

    def metrics(self) -> dict[str, Any]:
        """What there is now, by name."""
        data = self.reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else ()
        return {m.name: m for r in resources for s in r.scope_metrics for m in s.metrics}

    def points(self, name: str) -> list[Any]:
        found = self.metrics().get(name)
        return list(found.data.data_points) if found is not None else []

    def everything(self) -> str:
        """All that was exported, as JSON."""
        data = self.reader.get_metrics_data()
        spans = [span.to_json() for span in self.exporter.get_finished_spans()]
        return "\n".join([*spans, data.to_json() if data is not None else ""])


class Records:
    """An observer of the records themselves, to compare with."""

    def __init__(self) -> None:
        self.attempts: list[AttemptRecord] = []
        self.retries: list[RetryRecord] = []
        self.ends: list[CallRecord] = []

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        self.attempts.append(attempt)

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        self.retries.append(retry)

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.ends.append(end)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


Ask = Callable[..., Client]


@pytest.fixture
def ask(nothing_left: None) -> Iterator[Ask]:
    """`ask(server, api, observer, ...)` is a client of that server, closed afterwards."""
    made: list[Client] = []

    def make(server: LLMServer, api: str, *observers: Any, **settings: Any) -> Client:
        known = {"api_key": "test-key", "model": "asked-model", "retry": AT_ONCE, **settings}
        base_url = server.base_url_for(api)
        made.append(Client(api, base_url=base_url, observers=observers, **known))
        return made[-1]

    yield make
    for client in made:
        client.close()


def played(
    *replies: Any, observer: Any, **settings: Any
) -> tuple[Client, FakeTransport, FakeClock]:
    """A client without network and time."""
    transport, clock = FakeTransport(*replies), FakeClock()
    known = {"base_url": "http://test/v1", "model": "asked-model", **settings}
    client = Client(observers=[observer], transport=transport, clock=clock, **known)
    return client, transport, clock


def two_words(api: str) -> list[bytes]:
    """The answer's blocks up to and with its second word."""
    blocks = ANSWER.blocks(api)
    last = next(number for number, block in enumerate(blocks) if b" two" in block)
    return blocks[: last + 1]


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def sent(headers: Mapping[str, str]) -> tuple[str, str]:
    """Trace and span of a request's traceparent."""
    version, trace_id, span_id, _ = headers["traceparent"].split("-")
    assert version == "00"
    return trace_id, span_id


def events(span: ReadableSpan, name: str) -> list[dict[str, Any]]:
    return [dict(e.attributes or {}) for e in span.events if e.name == name]


# ---- the span of a call ------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_a_whole_answer(server: LLMServer, ask: Ask, telemetry: Telemetry, api: str) -> None:
    """A call is one CLIENT span with the conventions' attributes, as long as the call was."""
    server.default = ANSWER
    records = Records()
    client = ask(server, api, telemetry.observer(), records)
    stream = client.stream(PROMPT, max_output_tokens=100, temperature=0.5, top_p=0.9)
    assert stream.result().text == "one two three four"
    span, (end,) = telemetry.span, records.ends
    attributes = dict(span.attributes or {})
    provider = "anthropic" if api == "messages" else "openai"
    kinds = {"responses": "responses", "chat": "chat_completions"}
    usage = stream.usage
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": "asked-model",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.response.id": stream.response_id,
        "gen_ai.response.model": "served-model",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": (end.first_token_ms or 0.0) / 1000.0,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": 34,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": int(server.url.rpartition(":")[2]),
        "http.response.status_code": 200,
        "llmstream.api": api,
        "llmstream.trace_id": stream.trace_id,
        "llmstream.outcome": "success",
        "llmstream.phase": "done",
        "llmstream.attempts": 1,
        "llmstream.retries": 0,
        "llmstream.chunks": end.chunks,
        "llmstream.bytes": end.bytes,
        "llmstream.first_token_ms": end.first_token_ms,
        "llmstream.waited_ms": end.waited_ms,
        "llmstream.backoff_ms": 0.0,
    }
    if usage.reasoning_tokens is not None:
        expected["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    if provider == "openai":
        expected["openai.api.type"] = kinds[api]
    for optional in ("llmstream.longest_gap_ms", "llmstream.request_id"):
        attributes.pop(optional, None)
    assert attributes == expected
    assert (span.name, span.kind) == ("chat asked-model", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent is None
    assert [e.name for e in span.events] == ["llmstream.first_token", "llmstream.attempt"]
    begun, ended = span.start_time or 0, span.end_time or 0
    assert (begun, ended - begun) == (int(end.started * 1e9), int(end.total_ms * 1e6))
    scope = span.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.schema_url) == (
        "llmstream",
        "https://opentelemetry.io/schemas/1.41.0",
    )


Failing = tuple[Callable[[str], list[Any]], type[LLMStreamError], dict[str, Any]]

# what is answered, what comes of it, and the settings
FAILURES: dict[str, Failing] = {
    "a drop": (lambda api: [Reply([*two_words(api), Cut()])], StreamInterrupted, {}),
    "a drop, retried in vain": (
        lambda api: [Reply([*ANSWER.blocks(api)[:1], Cut()])] * 4,
        StreamInterrupted,
        {},
    ),
    "a truncation": (
        lambda api: [Reply([*two_words(api), Cut(last_chunk=True)])],
        StreamTruncated,
        {},
    ),
    "the quota": (
        lambda api: [Reply.error(429, code="insufficient_quota", type="billing_error", api=api)],
        QuotaExceededError,
        {},
    ),
    "429, then the quota": (
        lambda api: [Reply.error(429, api=api), Reply.error(402, api=api)],
        QuotaExceededError,
        {},
    ),
    "no first token": (
        lambda api: [Reply([Pings(0.01)])],
        FirstTokenTimeout,
        {"timeouts": Timeouts(first_token=0.15)},
    ),
    "idle": (
        lambda api: [Reply([*two_words(api), Silence()])],
        IdleTimeout,
        {"timeouts": Timeouts(idle=0.15)},
    ),
}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("story", FAILURES.values(), ids=FAILURES.keys())
def test_a_failure(
    server: LLMServer, ask: Ask, telemetry: Telemetry, api: str, story: Failing
) -> None:
    """The span has the error's class and phase, and its events the same story as the records."""
    replies, expected, settings = story
    server.script(*replies(api))
    observer, records = telemetry.observer(), Records()
    error = failure(ask(server, api, observer, records, **settings).stream(PROMPT))
    assert type(error) is expected
    span, (end,) = telemetry.span, records.ends
    attributes = span.attributes or {}
    assert (span.status.status_code, span.status.description) == (
        StatusCode.ERROR,
        expected.__name__,
    )
    assert attributes["error.type"] == expected.__name__
    assert attributes["llmstream.outcome"] == "error"
    assert attributes["llmstream.phase"] == end.phase
    assert attributes["llmstream.attempts"] == len(error.attempts) == len(records.attempts)
    assert "gen_ai.response.finish_reasons" not in attributes
    assert_same_story(span, records)
    (point,) = telemetry.points("gen_ai.client.operation.duration")
    assert point.attributes["error.type"] == expected.__name__
    assert not observer._calls


def assert_same_story(span: ReadableSpan, records: Records) -> None:
    begun = span.start_time or 0
    told = [e for e in span.events if e.name == "llmstream.attempt"]
    for event, attempt in zip(told, records.attempts, strict=True):
        said = event.attributes or {}
        assert said["llmstream.attempt"] == attempt.number
        assert said["llmstream.outcome"] == attempt.outcome
        assert said["llmstream.phase"] == attempt.phase
        is_error = attempt.outcome == "error"
        assert said.get("error.type") == (attempt.error_type if is_error else None)
        assert said.get("llmstream.error_code") == attempt.error_code
        assert said.get("http.response.status_code") == attempt.status
        assert said["llmstream.total_ms"] == attempt.total_ms
        assert said["llmstream.wait_ms"] == attempt.wait_ms
        assert said.get("gen_ai.usage.input_tokens") == attempt.usage.input_tokens
        assert event.timestamp == begun + int((attempt.started_ms + attempt.total_ms) * 1e6)
    again = events(span, "llmstream.retry")
    for said, retry in zip(again, records.retries, strict=True):
        assert said["llmstream.attempt"] == retry.attempt
        assert said["llmstream.wait_ms"] == retry.wait_ms
        assert said["error.type"] == retry.error_type
        assert said["llmstream.phase"] == retry.phase


@pytest.mark.parametrize("api", APIS)
def test_a_retry_that_helps(server: LLMServer, ask: Ask, telemetry: Telemetry, api: str) -> None:
    """429, then the answer: one span without an error, two attempts, one retry, and both requests
    carry the same span."""
    server.script(Reply.error(429, api=api), ANSWER)
    records = Records()
    ask(server, api, telemetry.observer(), records).stream(PROMPT).result()
    span = telemetry.span
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in (span.attributes or {})
    assert [e.name for e in span.events] == [
        "llmstream.attempt",
        "llmstream.retry",
        "llmstream.first_token",
        "llmstream.attempt",
    ]
    assert_same_story(span, records)
    failed, whole = events(span, "llmstream.attempt")
    assert failed["error.type"] == "RateLimitError"
    assert failed["http.response.status_code"] == 429
    assert "error.type" not in whole
    assert [sent(request.headers) for request in server.requests] == [ids(span)] * 2


def test_a_cancel_is_no_error(server: LLMServer, ask: Ask, telemetry: Telemetry) -> None:
    """A cancelled call's span has no error, but says that it was cancelled, and why."""
    server.default = Reply([*two_words("responses"), Silence()])
    observer = telemetry.observer()
    stream = ask(server, "responses", observer).stream(PROMPT)
    next(stream)
    stream.cancel("changed my mind")
    failure(stream, lambda s: s.result())
    span = telemetry.span
    attributes = span.attributes or {}
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes
    assert attributes["llmstream.outcome"] == "cancelled"
    assert attributes["llmstream.reason"] == "changed my mind"
    assert [e["llmstream.outcome"] for e in events(span, "llmstream.attempt")] == ["cancelled"]
    assert "error.type" not in events(span, "llmstream.attempt")[0]
    (point,) = telemetry.points("gen_ai.client.operation.duration")
    assert "error.type" not in point.attributes
    assert not observer._calls


@pytest.mark.parametrize("api", APIS)
def test_leaving_early(server: LLMServer, ask: Ask, telemetry: Telemetry, api: str) -> None:
    """Leaving the `with` block ends the span at once."""
    server.default = Reply([*two_words(api), Silence()])
    observer = telemetry.observer()
    with ask(server, api, observer).stream(PROMPT) as stream:
        for _ in stream:
            break
    assert (telemetry.span.attributes or {})["llmstream.outcome"] == "cancelled"
    assert not observer._calls


def test_a_dropped_stream(server: LLMServer, ask: Ask, telemetry: Telemetry) -> None:
    """A stream that nobody holds any more ends its span, in a thread of its own."""
    server.default = Reply([*two_words("responses"), Silence()])
    observer = telemetry.observer()
    stream = ask(server, "responses", observer).stream(PROMPT)
    next(stream)
    del stream
    eventually(lambda: telemetry.spans, "the span has ended")
    assert (telemetry.span.attributes or {})["llmstream.outcome"] == "cancelled"
    eventually(lambda: not observer._calls, "nothing is kept")


def test_a_call_that_never_began(server: LLMServer, ask: Ask, telemetry: Telemetry) -> None:
    """A stream that was not used, or cancelled before, has no span."""
    client = ask(server, "responses", telemetry.observer())
    client.stream(PROMPT)
    stream = client.stream(PROMPT)
    stream.cancel()
    failure(stream)
    assert telemetry.spans == []


# ---- its place in the caller's trace -----------------------------------------------------------


def test_a_child_of_the_current_span(server: LLMServer, ask: Ask, telemetry: Telemetry) -> None:
    """The parent is the span that is current at the first use, not where the stream was made."""
    client = ask(server, "responses", telemetry.observer())
    stream = client.stream(PROMPT)
    with telemetry.tracer.start_as_current_span("outer") as outer:
        next(stream)
    stream.result()  # its span goes on after its parent
    span = telemetry.span
    assert span.parent == outer.get_span_context()
    assert sent(server.requests[0].headers) == ids(span)
    assert ids(span)[0] == f"{outer.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("api", APIS)
def test_nothing_leaks_into_the_caller(
    server: LLMServer, ask: Ask, telemetry: Telemetry, api: str
) -> None:
    """While a stream runs, and when it has ended, the caller's context is what it was."""
    server.default = ANSWER
    client = ask(server, api, telemetry.observer())
    before = otel_context.get_current()
    for _ in client.stream(PROMPT):
        assert trace.get_current_span() is trace.INVALID_SPAN
        assert otel_context.get_current() == before
    with telemetry.tracer.start_as_current_span("outer") as outer:
        for _ in client.stream(PROMPT):
            assert trace.get_current_span() is outer
    assert otel_context.get_current() == before
    assert len(telemetry.spans) == 2


def test_parallel_streams_in_one_thread(server: LLMServer, ask: Ask, telemetry: Telemetry) -> None:
    """Streams read in turns are siblings: none becomes the parent of another."""
    server.default = ANSWER
    observer = telemetry.observer()
    client = ask(server, "responses", observer)
    with telemetry.tracer.start_as_current_span("outer") as outer:
        streams = [client.stream(f"number {n}") for n in range(4)]
        first = [next(stream) for stream in streams]
        second = [next(stream) for stream in reversed(streams)]
        for stream in streams:
            stream.result()
    assert (first, second) == (["one"] * 4, [" two"] * 4)
    assert [span.parent for span in telemetry.spans] == [outer.get_span_context()] * 4
    by_trace_id = {(s.attributes or {})["llmstream.trace_id"]: ids(s) for s in telemetry.spans}
    assert by_trace_id == {
        request.headers["x-client-request-id"]: sent(request.headers) for request in server.requests
    }
    assert len(set(by_trace_id.values())) == 4


def test_many_threads_and_clients(server: LLMServer, ask: Ask, telemetry: Telemetry) -> None:
    """One observer of two clients in eight threads: every call is told, and once."""
    server.default = ANSWER
    observer = telemetry.observer()
    clients = [ask(server, api, observer) for api in ("responses", "chat")]

    def work(number: int) -> None:
        for _ in range(10):
            clients[number % 2].stream(PROMPT).result()

    assert not in_threads(8, work)
    assert len({ids(span) for span in telemetry.spans}) == 80
    assert sum(p.count for p in telemetry.points("gen_ai.client.operation.duration")) == 80
    used = {p.attributes["gen_ai.token.type"]: p for p in telemetry.points(USAGE)}
    assert (used["input"].sum, used["output"].sum) == (80 * 12, 80 * 34)
    assert not observer._calls


class Words(TextMapPropagator):
    """Another way to tell the other side."""

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        return context

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        span = trace.get_current_span(context).get_span_context()
        carrier["x-words"] = f"{span.span_id:016x}"

    @property
    def fields(self) -> set[str]:
        return {"x-words"}


def test_the_configured_propagator(server: LLMServer, ask: Ask, telemetry: Telemetry) -> None:
    """What goes out is what the application's propagator writes."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Words())
    try:
        ask(server, "responses", telemetry.observer()).stream(PROMPT).result()
    finally:
        propagate.set_global_textmap(before)
    assert server.requests[0].headers["x-words"] == ids(telemetry.span)[1]


def test_baggage_goes_along(server: LLMServer, ask: Ask, telemetry: Telemetry) -> None:
    """What the caller has put into the context is propagated with the span."""
    token = otel_context.attach(baggage.set_baggage("tenant", "blue"))
    try:
        ask(server, "responses", telemetry.observer()).stream(PROMPT).result()
    finally:
        otel_context.detach(token)
    assert server.requests[0].headers["baggage"] == "tenant=blue"


# ---- metrics: names, units, buckets ------------------------------------------------------------

SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
USAGE = "gen_ai.client.token.usage"
INFERENCE = "gen_ai.client.inference"
COUNTER: list[float] = []

# name -> unit, buckets
EXPECTED: dict[str, dict[str, tuple[str, list[Any]]]] = {
    "operation": {
        "gen_ai.client.operation.duration": ("s", SECONDS),
        "gen_ai.client.operation.time_to_first_chunk": ("s", SECONDS),
        "gen_ai.client.operation.time_per_output_chunk": ("s", SECONDS),
        "gen_ai.client.token.usage": ("{token}", TOKENS),
    },
    "inference": {
        "gen_ai.client.inference.duration": ("s", SECONDS),
        "gen_ai.client.inference.time_to_first_chunk": ("s", SECONDS),
        "gen_ai.client.inference.time_per_output_chunk": ("s", SECONDS),
        "gen_ai.client.inference.usage.input_tokens": ("{token}", COUNTER),
        "gen_ai.client.inference.usage.output_tokens": ("{token}", COUNTER),
        "gen_ai.client.inference.usage.cache_read.input_tokens": ("{token}", COUNTER),
        "gen_ai.client.inference.usage.reasoning.output_tokens": ("{token}", COUNTER),
        "gen_ai.client.inference.operation.input_tokens": ("{token}", TOKENS),
        "gen_ai.client.inference.operation.output_tokens": ("{token}", TOKENS),
    },
}
SLOWLY: list[Any] = [
    piece for block in ANSWER.blocks() for piece in (block, *([Pause(0.5)] * (b".delta" in block)))
]


@pytest.mark.parametrize("names", list(EXPECTED))
def test_the_instruments(telemetry: Telemetry, names: str) -> None:
    """Exactly the instruments of the chosen set, with the conventions' units and buckets."""
    observer = telemetry.observer(names=names)
    client, _, _ = played(Reply(SLOWLY), observer=observer)
    client.stream(PROMPT).result()
    seen = {}
    for name, metric in telemetry.metrics().items():
        point = metric.data.data_points[0]
        is_counter = getattr(metric.data, "is_monotonic", False)
        buckets = COUNTER if is_counter else list(point.explicit_bounds)
        seen[name] = (metric.unit, buckets)
        assert metric.description
    assert seen == EXPECTED[names]
    assert set(NAMES) == set(EXPECTED)


def test_what_is_measured(telemetry: Telemetry) -> None:
    """Times in seconds, to the clock: first chunk, each chunk, and the whole call as its span."""
    observer = telemetry.observer()
    client, _, _ = played(Reply(SLOWLY, delay=2.0), observer=observer)
    client.stream(PROMPT).result()
    shared = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "asked-model",
        "server.address": "test",
        "server.port": 80,
    }
    served = {**shared, "gen_ai.response.model": "served-model"}
    (duration,) = telemetry.points("gen_ai.client.operation.duration")
    assert (duration.count, duration.sum) == (1, pytest.approx(4.0))
    assert dict(duration.attributes) == served
    span = telemetry.span
    assert (span.end_time or 0) - (span.start_time or 0) == pytest.approx(4.0 * 1e9)
    (first,) = telemetry.points("gen_ai.client.operation.time_to_first_chunk")
    assert (first.count, first.sum) == (1, pytest.approx(2.0))
    assert dict(first.attributes) == served
    (each,) = telemetry.points("gen_ai.client.operation.time_per_output_chunk")
    assert (each.count, each.min, each.max) == (3, pytest.approx(0.5), pytest.approx(0.5))
    assert dict(each.attributes) == shared
    used = {dict(p.attributes)["gen_ai.token.type"]: p for p in telemetry.points(USAGE)}
    assert {kind: p.sum for kind, p in used.items()} == {"input": 12, "output": 34}
    assert dict(used["input"].attributes) == {**served, "gen_ai.token.type": "input"}


def test_tokens_of_the_newer_set(telemetry: Telemetry) -> None:
    """Counters say that the modality is unknown; the histograms do not."""
    observer = telemetry.observer(names="inference")
    client, _, _ = played(ANSWER, observer=observer)
    client.stream(PROMPT).result()
    seen = {}
    for kind in ("input_tokens", "output_tokens", "cache_read.input_tokens"):
        (point,) = telemetry.points(f"{INFERENCE}.usage.{kind}")
        assert point.attributes["gen_ai.token.modality"] == "unknown"
        seen[kind] = point.value
    (reasoning,) = telemetry.points(f"{INFERENCE}.usage.reasoning.output_tokens")
    assert (seen, reasoning.value) == (
        {"input_tokens": 12, "output_tokens": 34, "cache_read.input_tokens": 5},
        6,
    )
    (per_call,) = telemetry.points(f"{INFERENCE}.operation.output_tokens")
    assert per_call.sum == 34
    assert "gen_ai.token.modality" not in per_call.attributes


def test_unknown_tokens(telemetry: Telemetry) -> None:
    """Where the service reported none, the older set records nothing and the newer one 0."""
    newer = Telemetry()
    for told, names in ((telemetry, "operation"), (newer, "inference")):
        observer = told.observer(names=names)
        client, _, _ = played(Reply.error(400), observer=observer, retry=ONCE)
        failure(client.stream(PROMPT))
    assert telemetry.points(USAGE) == []
    (point,) = newer.points(f"{INFERENCE}.usage.input_tokens")
    assert point.value == 0
    assert "error.type" not in point.attributes
    (per_call,) = newer.points(f"{INFERENCE}.operation.input_tokens")
    assert (per_call.count, per_call.sum) == (1, 0)
    assert per_call.attributes["error.type"] == "InvalidRequestError"


def test_the_newer_set_names_an_answer_that_did_not_end(telemetry: Telemetry) -> None:
    """A finish reason that was expected and did not come is `error` there."""
    observer = telemetry.observer(names="inference")
    client, _, _ = played(Reply([*two_words("responses"), Cut()]), observer=observer, retry=ONCE)
    failure(client.stream(PROMPT))
    assert (telemetry.span.attributes or {})["gen_ai.response.finish_reasons"] == ("error",)


def test_tokens_of_all_attempts_count(telemetry: Telemetry) -> None:
    """What an attempt that was given up had cost is in the sum: it is billed too."""
    cut = Reply([*Answer("one two", usage=(10, 0)).blocks("messages")[:3], Cut()])
    observer = telemetry.observer()
    client, _, _ = played(
        cut, ANSWER, observer=observer, api="messages", retry=RetryPolicy(base=1.0, jitter=0.0)
    )
    client.stream(PROMPT).result()
    spent = (telemetry.span.attributes or {})["gen_ai.usage.input_tokens"]
    used = {p.attributes["gen_ai.token.type"]: p.sum for p in telemetry.points(USAGE)}
    assert used["input"] == spent == 10 + 12


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "operation"),
        ("", "operation"),
        ("http,database", "operation"),
        ("gen_ai_latest_experimental", "inference"),
        ("http/dup, gen_ai_latest_experimental", "inference"),
    ],
)
def test_the_variable_of_the_conventions(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: str
) -> None:
    """OTEL_SEMCONV_STABILITY_OPT_IN chooses the names where the caller has not."""
    if value is not None:
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", value)
    assert OpenTelemetryObserver()._names is NAMES[expected]
    assert OpenTelemetryObserver(names="operation")._names is NAMES["operation"]


@pytest.mark.parametrize("names", ["", "latest", 1, ["operation"]])
def test_unknown_names(names: Any) -> None:
    """Names that are not known are refused, with those that are."""
    with pytest.raises(ConfigurationError, match=r"names=.*'operation', 'inference'"):
        OpenTelemetryObserver(names=names)


def test_exemplars_lead_to_the_span(telemetry: Telemetry) -> None:
    """A measurement's exemplar is the span of its call."""
    client, _, _ = played(Reply(SLOWLY), observer=telemetry.observer())
    client.stream(PROMPT).result()
    seen = telemetry.metrics()  # once: a collection empties the reservoirs
    for name in EXPECTED["operation"]:
        exemplars = [e for point in seen[name].data.data_points for e in point.exemplars]
        assert {(f"{e.trace_id:032x}", f"{e.span_id:016x}") for e in exemplars} == {
            ids(telemetry.span)
        }


def record(number: int, **fields: Any) -> CallRecord:
    known = {"trace_id": "t", "api": "responses", "model": "m", "host": "h", "started": 1e9}
    return CallRecord(id=number, **{**known, **fields})


def test_bounded_series(telemetry: Telemetry) -> None:
    """Ten thousand model names make a bounded number of series, and no call is lost."""
    observer = telemetry.observer()
    for number in range(10_000):
        call = record(number, model=f"model-{number}", outcome="success")
        observer.on_start(call)
        observer.on_end(call, call)
    points = telemetry.points("gen_ai.client.operation.duration")
    assert sum(point.count for point in points) == 10_000
    models = {point.attributes["gen_ai.request.model"] for point in points}
    assert len(points) == len(models) <= 201
    assert {"model-0", "_OTHER"} <= models
    assert len(observer._instruments._series) <= 200


class OldMeter(NoOpMeter):
    """Of opentelemetry-api before 1.30: histograms know no advice."""

    made: list[str]

    def create_histogram(self, name: str, unit: str = "", description: str = "") -> Any:  # type: ignore[override]
        self.made.append(name)
        return super().create_histogram(name, unit, description)


class OldMeterProvider(AnyMeterProvider):
    def __init__(self) -> None:
        self.meter = OldMeter("old")
        self.meter.made = []

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        return self.meter


def test_an_older_api_without_buckets() -> None:
    """Where histograms take no advice on buckets they are made without."""
    provider = OldMeterProvider()
    OpenTelemetryObserver(meter_provider=provider)
    assert sorted(provider.meter.made) == sorted(EXPECTED["operation"])


HOSTS = {
    "api.openai.com": "openai",
    "API.OpenAI.com": "openai",
    "eu.api.openai.com": "openai",
    "notopenai.com": "openai",  # by the API, not by its name
    "mine.openai.azure.com": "azure.ai.openai",
    "api.anthropic.com": "anthropic",
    "api.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "us-central1-aiplatform.googleapis.com": "gcp.gen_ai",
    "bedrock-runtime.us-east-1.amazonaws.com": "aws.bedrock",
    "localhost": "openai",
    "": "openai",
}


@pytest.mark.parametrize(("host", "expected"), HOSTS.items(), ids=HOSTS.keys())
def test_providers(host: str, expected: str) -> None:
    """The provider is known by the host, else by the API that is spoken."""
    assert provider_of(host, "chat") == expected
    assert provider_of("localhost", "messages") == "anthropic"


# ---- content: on request only ------------------------------------------------------------------

MARKED = {
    "prompt": "prompt-7f3a",
    "instructions": "instructions-7f3a",
    "answer": "answer-7f3a",
    "key": "key-7f3a",
    "header": "header-7f3a",
    "error": "error-7f3a",
}
# (What a model is called, and the reason of a cancel, are the caller's own and are told.)


def bad_day(server: LLMServer, ask: Ask, api: str, observer: OpenTelemetryObserver) -> None:
    """Calls of all kinds, with marks in all that is nobody's business."""
    answer = Answer(["say ", MARKED["answer"]], thinking=MARKED["answer"], usage=(1, 2))
    quoting = f"{MARKED['error']}: {MARKED['prompt']}, {MARKED['key']}"
    server.script(
        answer,
        Reply.error(429, message=quoting, api=api),
        Reply([*answer.blocks(api)[:-2], Cut()]),
        Reply.error(400, message=quoting, code=quoting, type=quoting, param=quoting, api=api),
        Answer(MARKED["answer"], error={"code": "server_error", "message": quoting}),
        Reply.html(f"<html>{quoting}</html>"),
    )
    client = ask(server, api, observer, api_key=MARKED["key"], retry=RetryPolicy(base=0.0, cap=0.0))
    for _ in range(5):
        stream = client.stream(
            [{"role": "user", "content": MARKED["prompt"]}],
            instructions=MARKED["instructions"],
            headers={"x-private": MARKED["header"]},
        )
        with contextlib.suppress(LLMStreamError):
            stream.result()


@pytest.mark.parametrize("names", list(NAMES))
@pytest.mark.parametrize("api", APIS)
def test_nothing_private_by_default(
    server: LLMServer, ask: Ask, telemetry: Telemetry, api: str, names: str
) -> None:
    """No prompt, answer, key, header or error's words in anything that is exported."""
    bad_day(server, ask, api, telemetry.observer(names=names))
    exported = telemetry.everything()
    assert len(telemetry.spans) == 5
    assert [mark for mark in MARKED.values() if mark in exported] == []


@pytest.mark.parametrize("names", list(NAMES))
@pytest.mark.parametrize("api", APIS)
def test_content_on_request(
    server: LLMServer, ask: Ask, telemetry: Telemetry, api: str, names: str
) -> None:
    """With capture_content prompts and answers are on the spans; a key and an error's words not."""
    bad_day(server, ask, api, telemetry.observer(names=names, capture_content=True))
    exported = telemetry.everything()
    seen = {name for name, mark in MARKED.items() if mark in exported}
    assert seen == {"prompt", "instructions", "answer"}
    attributes = telemetry.spans[0].attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": MARKED["prompt"]}]}
    ]
    assert json.loads(str(attributes["gen_ai.system_instructions"])) == [
        {"type": "text", "content": MARKED["instructions"]}
    ]
    finish = {"finish_reason": "stop"} if names == "operation" else {}
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": MARKED["answer"]},
                {"type": "text", "content": f"say {MARKED['answer']}"},
            ],
            **finish,
        }
    ]
    refused = telemetry.spans[2].attributes or {}
    assert "gen_ai.output.messages" not in refused


def test_content_is_not_even_listened_to(telemetry: Telemetry) -> None:
    """By default a client makes up no content for this observer."""
    assert Dispatcher([telemetry.observer()]).hooks()["on_content"] == ()
    capturing = telemetry.observer(capture_content=True)
    assert len(Dispatcher([capturing]).hooks()["on_content"]) == 1


def call_part(identity: str | None, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": identity, "name": "look", "arguments": arguments}


ARGUMENTS = '{"at": "sky"}'
DECODED = {"at": "sky"}
SAID: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "a text": ("Hi", [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]),
    "a system turn": (
        [{"role": "system", "content": "Be kind"}],
        [{"role": "system", "parts": [{"type": "text", "content": "Be kind"}]}],
    ),
    "parts, and a picture": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    "plain",
                ],
            }
        ],
        [
            {
                "role": "user",
                "parts": [
                    {"type": "text", "content": "What is it?"},
                    {"type": "image_url"},
                    {"type": "text", "content": "plain"},
                ],
            }
        ],
    ),
    "tools of chat": (
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "function": {"name": "look", "arguments": ARGUMENTS}},
                    {"id": "c2", "function": {"name": "look", "arguments": '{"at'}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "blue"},
        ],
        [
            {"role": "assistant", "parts": [call_part("c1", DECODED), call_part("c2", '{"at')]},
            {
                "role": "tool",
                "parts": [{"type": "tool_call_response", "id": "c1", "response": "blue"}],
            },
        ],
    ),
    "tools of messages": (
        [
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": DECODED},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "content": [{"type": "text", "text": "blue"}],
                    }
                ],
            },
        ],
        [
            {
                "role": "assistant",
                "parts": [{"type": "reasoning", "content": "hm"}, call_part("c1", DECODED)],
            },
            {
                "role": "user",
                "parts": [
                    {
                        "type": "tool_call_response",
                        "id": "c1",
                        "response": [{"type": "text", "content": "blue"}],
                    }
                ],
            },
        ],
    ),
    "items of responses": (
        [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": ARGUMENTS},
            {"type": "function_call_output", "call_id": "c1", "output": "blue"},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "refusal", "refusal": "No"}],
            },
        ],
        [
            {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}]},
            {"role": "assistant", "parts": [call_part("c1", DECODED)]},
            {
                "role": "tool",
                "parts": [{"type": "tool_call_response", "id": "c1", "response": "blue"}],
            },
            {"role": "assistant", "parts": [{"type": "refusal", "content": "No"}]},
        ],
    ),
}


@pytest.mark.parametrize(("prompt", "expected"), SAID.values(), ids=SAID.keys())
def test_prompts_in_the_shape_of_the_schema(
    telemetry: Telemetry, prompt: Any, expected: list[dict[str, Any]]
) -> None:
    """Prompts in any API's words become the conventions' messages and parts."""
    client, _, _ = played(ANSWER, observer=telemetry.observer(capture_content=True))
    client.stream(prompt).result()
    said = (telemetry.span.attributes or {})["gen_ai.input.messages"]
    assert json.loads(str(said)) == expected


@pytest.mark.parametrize("api", APIS)
def test_a_conversation_with_tools(telemetry: Telemetry, api: str) -> None:
    """An answer's own turn, sent back, is recorded with the same calls as the answer was."""
    asking = Answer("Let me look", tool_calls=[("look", ARGUMENTS, "c1")])
    observer = telemetry.observer(capture_content=True)
    client, _, _ = played(asking, ANSWER, observer=observer, api=api)
    turn = client.stream("Hi").result().to_messages()
    client.stream([{"role": "user", "content": "Hi"}, *turn]).result()
    first, second = (span.attributes or {} for span in telemetry.spans)
    answer = json.loads(str(first["gen_ai.output.messages"]))[0]
    assert call_part("c1", DECODED) in answer["parts"]
    assert answer["finish_reason"] == "tool_call"
    history = json.loads(str(second["gen_ai.input.messages"]))
    parts = [part for message in history for part in message["parts"]]
    assert call_part("c1", DECODED) in parts
    assert {"type": "text", "content": "Let me look"} in parts


def test_half_a_character(telemetry: Telemetry) -> None:
    """What is no valid Unicode is recorded all the same, as text that can be exported."""
    observer = telemetry.observer(capture_content=True)
    call = record(1, outcome="success")
    observer.on_start(call)
    result = Result(text="half \ud83d", tool_calls=(ToolCall(None, "look", "x", custom=True),))
    observer.on_content(call, _request_of("Hi \ud83d"), result)
    observer.on_end(call, call)
    attributes = telemetry.span.attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"]))[0]["parts"][0]["content"] == "Hi ?"
    (message,) = json.loads(str(attributes["gen_ai.output.messages"]))
    assert message["parts"] == [{"type": "text", "content": "half ?"}, call_part(None, "x")]


def _request_of(prompt: str) -> Any:
    from llmstream._core.request import Request

    return Request(prompt=prompt, model="m")


# ---- with half an SDK, or none -----------------------------------------------------------------


def test_a_span_that_is_not_sampled(server: LLMServer, ask: Ask) -> None:
    """Not sampled: no span, the request says so, and the metrics are complete."""
    telemetry = Telemetry(sampler=ALWAYS_OFF)
    server.default = ANSWER
    observer = telemetry.observer(capture_content=True)
    ask(server, "responses", observer).stream(PROMPT).result()
    assert telemetry.spans == []
    flags = server.requests[0].headers["traceparent"].rpartition("-")[2]
    assert not int(flags, 16) & 1  # W3C Trace Context 3.2.2.5.1: the sampled flag
    (point,) = telemetry.points("gen_ai.client.operation.duration")
    assert point.count == 1
    assert not observer._calls


def test_moments_without_a_start(telemetry: Telemetry) -> None:
    """A call whose start was not told is ignored."""
    observer = telemetry.observer(capture_content=True)
    call = record(1, outcome="success")
    attempt = AttemptRecord(
        trace_id="t", api="chat", model="m", host="h", number=1, outcome="success", phase="done"
    )
    retry = RetryRecord(attempt=1, wait_ms=1.0, error_type="ServerError", phase="headers")
    observer.on_first_token(call, 1.0)
    observer.on_tokens(call, 1.0, 2.0, 1)
    observer.on_attempt(call, attempt)
    observer.on_retry(call, retry)
    observer.on_content(call, _request_of("Hi"), Result())
    observer.on_end(call, call)
    assert observer.request_headers(call) == {}
    assert telemetry.spans == []
    assert telemetry.metrics() == {}


NO_SDK = """
import sys
sys.modules["opentelemetry.sdk"] = None
from opentelemetry import context, propagate
from llmstream import Client
from llmstream.telemetry.otel import OpenTelemetryObserver
from llmstream.testing import Answer, FakeClock, FakeTransport

transport = FakeTransport(Answer("one two"), Answer("one two"))
observer = OpenTelemetryObserver(capture_content=True)
client = Client(
    base_url="http://test", transport=transport, clock=FakeClock(), observers=[observer]
)
stream = client.stream("Hi")
print(stream.result().text)
own = transport.requests[0].headers["traceparent"]
print(own.split("-")[1] == stream.trace_id)
# a trace that came in is passed on, though nobody records it here
incoming = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
context.attach(propagate.extract({"traceparent": incoming}))
client.stream("Hi").result()
print(transport.requests[1].headers["traceparent"] == incoming, observer._calls)
"""


def test_without_an_sdk() -> None:
    """With the API alone calls go on as ever, and pass an incoming trace on."""
    assert output_of(NO_SDK).splitlines() == ["one two", "True", "True {}"]


NO_API = """
import sys
sys.modules["opentelemetry"] = None
import llmstream
import llmstream.telemetry.otel
try:
    llmstream.telemetry.otel.OpenTelemetryObserver()
except llmstream.ConfigurationError as error:
    print(error)
"""


def test_without_the_package() -> None:
    """Without OpenTelemetry the module imports, and the observer says what to install."""
    said = 'OpenTelemetry is not installed: pip install "llmstream-sync[otel]"'
    assert output_of(NO_API).strip() == said


def test_the_library_does_not_import_it() -> None:
    """`import llmstream` brings nothing of OpenTelemetry."""
    code = "import sys, llmstream; print([m for m in sys.modules if 'opentelemetry' in m])"
    assert output_of(code).strip() == "[]"


FORKED = """
import faulthandler, os
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from llmstream import Client
from llmstream.telemetry import OpenTelemetryObserver
from llmstream.testing import Answer, FakeClock, FakeTransport, Reply, Silence

observer = OpenTelemetryObserver(TracerProvider(), MeterProvider())
blocks = Answer("one two").blocks()
client = Client(
    base_url="http://test",
    transport=FakeTransport(Reply([*blocks[:6], Silence()]), Answer("three")),
    clock=FakeClock(),
    observers=[observer],
)
running = client.stream("Hi")
next(running)
observer._instruments._lock.acquire()
pid = os.fork()
if pid == 0:
    faulthandler.dump_traceback_later(20, exit=True)  # shows where it hangs
    print(len(observer._calls), client.stream("Hi").result().text, len(observer._calls), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
observer._instruments._lock.release()
running.close()
print(len(observer._calls))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_it_records() -> None:
    """A child that is forked while another thread holds the lock can make calls; the parent's
    calls are not among those it knows."""
    assert output_of(FORKED, PYTHONWARNINGS="ignore").splitlines() == ["0 three 0", "0"]


LATE = """
from llmstream import Client
from llmstream.telemetry.otel import OpenTelemetryObserver
from llmstream.testing import Answer, FakeClock, FakeTransport

transport = FakeTransport(Answer("one two"))
client = Client(
    base_url="http://test",
    transport=transport,
    clock=FakeClock(),
    observers=[OpenTelemetryObserver()],
)

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider([reader]))
client.stream("Hi").result()
print([span.name for span in exporter.get_finished_spans()])
(scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
print(sorted(metric.name for metric in scope.metrics)[0])
print(scope.metrics[0].data.data_points[0].explicit_bounds[0])
"""


def test_global_providers_that_come_later() -> None:
    """By default the global providers are used, also where they are set after the client."""
    assert output_of(LATE).splitlines() == [
        "['chat gpt-5.4-mini']",
        "gen_ai.client.operation.duration",
        "0.01",
    ]
