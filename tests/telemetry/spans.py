"""Shared by the tests of OpenTelemetry: an application's SDK in memory, and clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from support import AT_ONCE

from llmstream import Client
from llmstream.telemetry.otel import OpenTelemetryObserver
from llmstream.telemetry.records import AttemptRecord, CallRecord, RetryRecord
from llmstream.testing import Answer, FakeClock, FakeTransport, LLMServer

APIS = ("responses", "messages", "chat", "gemini")
ANSWER = Answer("one two three four", usage=(12, 34, 5, 6), model="served-model")
PROMPT = "Why is the sky blue?"
USAGE = "gen_ai.client.token.usage"


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


@pytest.fixture(name="telemetry")
def telemetry_fixture() -> Telemetry:
    return Telemetry()


Ask = Callable[..., Client]


@pytest.fixture(name="ask")
def ask_fixture(nothing_left: None) -> Iterator[Ask]:
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


def record(number: int, **fields: Any) -> CallRecord:
    known = {"trace_id": "t", "api": "responses", "model": "m", "host": "h", "started": 1e9}
    return CallRecord(id=number, **{**known, **fields})
