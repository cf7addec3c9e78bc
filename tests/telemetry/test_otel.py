"""OpenTelemetry: the spans that a real SDK exports of calls over the loopback, and their place in
the caller's trace."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from every import every
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from spans import (
    ANSWER,
    APIS,
    PROMPT,
    USAGE,
    Ask,
    Records,
    Telemetry,
    _no_settings,  # noqa: F401 - a fixture
    ask_fixture,  # noqa: F401 - a fixture
    events,
    ids,
    played,
    record,
    sent,
    telemetry_fixture,  # noqa: F401 - a fixture
    two_words,
)
from support import eventually, failure, in_threads, output_of

from llmstream import (
    FirstTokenTimeout,
    IdleTimeout,
    LLMStreamError,
    QuotaExceededError,
    Result,
    StreamInterrupted,
    StreamTruncated,
    Timeouts,
)
from llmstream.telemetry.otel import provider_of
from llmstream.telemetry.records import AttemptRecord, RequestContent, RetryRecord
from llmstream.testing import Answer, Cut, LLMServer, Pings, Reply, Silence

pytestmark = pytest.mark.usefixtures("nothing_left", "_no_settings")

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
    provider = {"messages": "anthropic", "gemini": "gcp.gemini"}.get(api, "openai")
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
        "gen_ai.usage.input_tokens": end.tokens_in,
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
    assert end.tokens_in == {"messages": 12 + 5}.get(api, 12)  # there cached ones are beside it
    if usage.cache_write_tokens is not None:
        expected["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_write_tokens
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


JSON_BY_HAND: dict[str, dict[str, Any]] = {
    "responses": {"text": {"format": {"type": "json_object"}}},
    "messages": {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    "chat": {"response_format": {"type": "json_object"}},
    "gemini": {"generationConfig": {"responseMimeType": "application/json"}},
}
PLAIN_BY_HAND: dict[str, dict[str, Any]] = {
    "responses": {"text": {"format": {"type": "text"}}},
    "messages": {"metadata": {"user_id": "one"}},
    "chat": {"response_format": {"type": "text"}},
    "gemini": {"generationConfig": {"responseMimeType": "text/plain"}},
}


@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_has_to_be_json(telemetry: Telemetry, api: str) -> None:
    """However it was asked for. Of any other one nothing is said."""
    for settings, expected in (
        ({"output": dict[str, int]}, "json"),
        ({"extra_body": JSON_BY_HAND[api]}, "json"),
        ({"extra_body": PLAIN_BY_HAND[api]}, None),
        ({}, None),
    ):
        telemetry.exporter.clear()
        client, _, _ = played(Answer('{"a": 1}'), observer=telemetry.observer(), api=api)
        with client:
            assert client.stream(PROMPT, **settings).result().text == '{"a": 1}'
        attributes = dict(telemetry.span.attributes or {})
        assert attributes.get("gen_ai.output.type") == expected


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
        assert said.get("gen_ai.usage.input_tokens") == attempt.tokens_in
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
    """A cancelled call's span has no error, but the outcome and the reason."""
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
    """A stream without references ends its span, in a thread of its own."""
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
    """One observer of two clients in eight threads: every call is reported once."""
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


@every(("host", "expected"), HOSTS.items(), ids=HOSTS.keys())
def test_providers(host: str, expected: str) -> None:
    """The provider is known by the host, else by the API that is spoken."""
    assert provider_of(host, "chat") == expected
    assert provider_of("localhost", "messages") == "anthropic"
    assert provider_of("localhost", "gemini") == "gcp.gemini"
    assert provider_of("us-central1-aiplatform.googleapis.com", "gemini") == "gcp.gen_ai"


# ---- with half an SDK, or none -----------------------------------------------------------------


def test_a_span_that_is_not_sampled(server: LLMServer, ask: Ask) -> None:
    """Not sampled: no span, the request's flags are 00, and the metrics are complete."""
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
    """A call whose start was not reported is ignored."""
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
    observer.on_content(call, RequestContent("Hi"), Result())
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
    """Without OpenTelemetry the module imports, and the observer's error has the install
    command."""
    said = 'OpenTelemetry is not installed: pip install "llmstream-sync[otel]"'
    assert output_of(NO_API).strip() == said


def test_the_library_does_not_import_it() -> None:
    """`import llmstream` imports nothing of OpenTelemetry."""
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
