"""The metrics of OpenTelemetry: names, units, buckets, values, and a bounded number of series.

The names, units and buckets in this file are written out of the conventions' text once more, so
that a slip in the table of the code shows.
"""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.metrics import MeterProvider as AnyMeterProvider
from opentelemetry.metrics import NoOpMeter
from spans import (
    ANSWER,
    PROMPT,
    USAGE,
    Telemetry,
    _no_settings,  # noqa: F401 - a fixture
    ids,
    played,
    record,
    telemetry_fixture,  # noqa: F401 - a fixture
    two_words,
)
from support import ONCE, failure

from llmstream import ConfigurationError, RetryPolicy
from llmstream.telemetry.otel import NAMES, OpenTelemetryObserver
from llmstream.testing import Answer, Cut, Pause, Reply

pytestmark = pytest.mark.usefixtures("nothing_left", "_no_settings")

SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
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
    """Times in seconds, to the clock: first chunk, each chunk, and the duration as that of the
    span."""
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
    """Counters have the modality `unknown`; the histograms have none."""
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
    """A finish reason that was expected and not received is `error` there."""
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
    assert used["input"] == spent == 10 + (12 + 5)  # cached ones included


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


@pytest.mark.slow
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
