"""A cost that the service itself reports: in every place that tells of a call, before any price
list is asked."""

from __future__ import annotations

import json
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from every import every
from support import AT_ONCE

from llmstream import Client, Result
from llmstream.telemetry import TimelineObserver
from llmstream.testing import Cut, FakeClock, FakeTransport, Reply

DONE = b"data: [DONE]\n\n"
COUNTS = {"prompt_tokens": 63, "completion_tokens": 255, "total_tokens": 318}
USD = Decimal("0.00123")

# What the service sends: usage, headers
REPORTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "openrouter": ({"cost": 0.00123, "cost_details": {"upstream_inference_cost": None}}, {}),
    "litellm": ({}, {"x-litellm-response-cost": "0.00123"}),
    "perplexity": ({"cost": {"input_tokens_cost": 0.001, "total_cost": 0.00123}}, {}),
    "xai": ({"cost_in_usd_ticks": 12_300_000}, {}),
}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n".encode()


def reply(name: str, *, cut: bool = False) -> Reply:
    usage, headers = REPORTS[name]
    steps: list[Any] = [chunk({"content": "Hi"}, usage={**COUNTS, **usage})]
    steps += [Cut()] if cut else [chunk({}, "stop"), DONE]
    return Reply(steps, headers=headers)


def client_of(*replies: Reply, **settings: Any) -> Client:
    doubles = {"transport": FakeTransport(*replies), "clock": FakeClock()}
    known = {"base_url": "http://service.test/v1", "model": "a-new-one", "retry": AT_ONCE}
    return Client("chat", **{**known, **doubles, **settings})


@pytest.fixture(autouse=True)
def no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price list is not asked."""
    monkeypatch.setattr("llmstream.telemetry.cost._installed", lambda: None)


@every("name", REPORTS)
def test_the_result_has_it_with_its_source(name: str) -> None:
    """Without a list, and for a model that none has."""
    result = client_of(reply(name)).stream("Hi").result()
    cost = result.cost()
    assert cost is not None
    assert (cost.amount, cost.source) == (USD, "reported by service.test")
    assert not cost.lower_bound
    assert result.usage.cost == pytest.approx(float(USD))


@every("name", REPORTS)
def test_every_attempt_counts(name: str) -> None:
    """One that was cut has cost at least what it had reported."""
    client = client_of(reply(name, cut=True), reply(name))
    result = client.stream("Hi", on_disconnect="restart").result()
    cost = result.cost()
    assert cost is not None
    assert (cost.amount, cost.lower_bound) == (2 * USD, True)


def test_the_log_and_the_timeline_have_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the service reported it; without a report there is no such field."""
    caplog.set_level(logging.INFO, "llmstream")
    page = tmp_path / "call.html"
    client = client_of(reply("openrouter"), observers=[TimelineObserver(page)])
    client.stream("Hi").result()
    assert "cost_usd=0.00123 " in caplog.text
    caplog.clear()
    assert '<dt>cost in USD</dt><dd><data value="0.00123">' in page.read_text("utf-8")
    bare = Reply([chunk({"content": "Hi"}, usage=COUNTS), chunk({}, "stop"), DONE])
    client_of(bare, observers=[TimelineObserver(page)]).stream("Hi").result()
    assert "cost_usd" not in caplog.text
    assert "cost in USD" not in page.read_text("utf-8")


def test_the_span_has_it() -> None:
    """Under the library's own name: the conventions have none."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from llmstream.telemetry import OpenTelemetryObserver

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    observer = OpenTelemetryObserver(tracer_provider=provider)
    client_of(reply("openrouter"), observers=[observer]).stream("Hi").result()
    costs = [span.attributes.get("llmstream.cost_usd") for span in exporter.get_finished_spans()]  # type: ignore[union-attr]
    assert 0.00123 in costs


def test_the_tally_of_a_conversation_has_it() -> None:
    """Two answers: the sum, which is known as a whole."""
    from llmstream.chat.tally import Tally

    tally = Tally()
    client = client_of(reply("openrouter"), reply("litellm"))
    for _ in range(2):
        result: Result = client.stream("Hi").result()
        tally.add(result, False, result.cost())
    assert tally.costs() == ["0.00246 USD"]


def test_a_batch_shows_it() -> None:
    """In the row of each call, and in the sum."""
    from llmstream.batchfile.summary import Summary

    summary = Summary("chat")
    client = client_of(reply("xai"), reply("perplexity"))
    for _ in range(2):
        summary._add_cost(client.stream("Hi").result())
    assert summary.cost == 2 * USD
    assert not summary.cost_is_partial
