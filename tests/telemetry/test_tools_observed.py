"""What observers are told of runs and of the calls of tools: records, log, metrics, spans."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from support import PATIENCE, eventually

from llmstream import Client, ConfigurationError
from llmstream.errors import RunError
from llmstream.telemetry import (
    OpenTelemetryObserver,
    PrometheusObserver,
    RunRecord,
    ToolRecord,
    current_trace_id,
)
from llmstream.testing import Answer, FakeTransport
from llmstream.tools import ToolError, tool

PROMPT = "the words of the prompt"
SECRET = "the words of the tool"
CALLS = Answer(
    tool_calls=[
        ("good", '{"word": "argument-word"}', "c1"),
        ("bad", "{}", "c2"),
        ("gone", "{}", "c3"),
        ("asked", "{}", "c4"),
        ("good", '{"word": 5}', "c5"),
    ]
)


def good(word: str) -> str:
    return SECRET


def bad() -> str:
    raise ToolError(SECRET)


def asked() -> str:
    return SECRET


def client(*observers: Any, answers: tuple[Answer, ...] = (CALLS, Answer("Done."))) -> Client:
    transport = FakeTransport(*answers)
    return Client("chat", transport=transport, model="m", api_key="k", observers=observers)


def run(*observers: Any) -> Any:
    return client(*observers).run(
        PROMPT, [good, bad, asked], approve=lambda call: call.name != "asked", trace_id="t-1"
    )


class Told:
    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def on_run_start(self, run: RunRecord) -> None:
        self.log.append(("run", run.outcome, current_trace_id()))

    def on_tool_start(self, tool: ToolRecord) -> None:
        self.log.append(("tool", tool, threading.current_thread().name, current_trace_id()))

    def on_tool_end(self, tool: ToolRecord, end: ToolRecord) -> None:
        self.log.append(("end", tool, end))

    def on_run_end(self, run: RunRecord, end: RunRecord) -> None:
        self.log.append(("run end", run, end))


def test_what_an_observer_is_told() -> None:
    told = Told()
    run(told).result()
    assert told.log[0] == ("run", "running", "t-1")
    starts = {row[1].call_id: row for row in told.log if row[0] == "tool"}
    assert starts.keys() == {"c1", "c2"}
    assert {row[2:] for row in starts.values()} == {("llmstream-tool", "t-1")}
    ends = {row[2].call_id: row for row in told.log if row[0] == "end"}
    outcomes = {id: (row[2].name, row[2].outcome, row[2].error_type) for id, row in ends.items()}
    assert outcomes == {
        "c1": ("good", "success", None),
        "c2": ("bad", "error", "ToolError"),
        "c3": ("gone", "error", "UnknownTool"),
        "c4": ("asked", "refused", "ToolRefused"),
        "c5": ("good", "error", "ToolArgumentsError"),
    }
    assert all(ends[id][1] is starts[id][1] for id in starts)
    assert [id for id, row in ends.items() if not row[2].known] == ["c3"]
    assert {row[2].turn for row in ends.values()} == {1}
    kind, begun, end = told.log[-1]
    assert (kind, end.outcome, end.turns, end.trace_id) == ("run end", "success", 2, "t-1")
    assert {row[2].run for row in ends.values()} == {begun.id}
    assert end.total_ms >= ends["c1"][2].total_ms >= 0
    assert SECRET not in repr(told.log)
    assert "argument-word" not in repr(told.log)
    assert PROMPT not in repr(told.log)


def test_the_end_of_a_tools_time_and_its_late_end() -> None:
    told = Told()
    let: SimpleQueue[None] = SimpleQueue()

    def good(word: str) -> str:
        let.get(timeout=PATIENCE)
        return SECRET

    one = Answer(tool_calls=[("good", '{"word": "x"}', "c1")])
    going = client(told, answers=(one, Answer("Done."))).run(PROMPT, [good], tool_timeout=0.01)
    going.result()
    let.put(None)
    eventually(lambda: len([r for r in told.log if r[0] == "end"]) == 2, "its late end")
    first, second = (row[2] for row in told.log if row[0] == "end")
    assert (first.outcome, second.outcome) == ("timeout", "late")
    assert first.id == second.id
    assert second.total_ms > 0


def test_a_tool_whose_time_is_over_before_its_start_is_told() -> None:
    """Its thread begins late, or an observer takes its time: it is one tool all the same."""

    class Slow(Told):
        def on_tool_start(self, tool: ToolRecord) -> None:
            eventually(lambda: [row for row in self.log if row[0] == "end"], "its time is over")
            super().on_tool_start(tool)

    told = Slow()
    one = Answer(tool_calls=[("good", '{"word": "x"}', "c1")])
    client(told, answers=(one, Answer("Done."))).run(PROMPT, [good], tool_timeout=0.01).result()
    eventually(lambda: len([r for r in told.log if r[0] == "end"]) == 2, "its late end")
    first, start, second = (row for row in told.log if row[0] in ("tool", "end"))
    assert (first[2].outcome, second[2].outcome) == ("timeout", "late")
    assert first[1] is start[1] is second[1]


def test_a_run_that_fails_and_one_that_is_cancelled() -> None:
    told = Told()
    failing = client(told, answers=(CALLS,) * 5).run(PROMPT, [good], max_turns=1)
    with pytest.raises(RunError):
        failing.result()
    left = client(told).run(PROMPT, [good])
    next(left)
    left.close()
    left.close()
    ends = [row[2] for row in told.log if row[0] == "run end"]
    assert [(e.outcome, e.error_type) for e in ends] == [
        ("error", "RunError"),
        ("cancelled", "Cancelled"),
    ]


def test_an_observer_that_raises_disturbs_no_run(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def on_tool_start(self, tool: ToolRecord) -> None:
            raise ValueError("mine")

        on_tool_end = on_run_start = on_run_end = on_tool_start

    assert run(Broken()).result().text == "Done."
    assert "Broken failed" in caplog.text


def test_an_observer_is_asked_what_it_wants() -> None:
    class Choosy(Told):
        def wants(self, hook: str) -> bool:
            return hook == "on_run_end"

    told = Choosy()
    run(told).result()
    assert [row[0] for row in told.log] == ["run end"]

    class Async:
        async def on_tool_end(self, tool: ToolRecord, end: ToolRecord) -> None:
            raise AssertionError

    with pytest.raises(ConfigurationError, match="async"):
        client(Async())


def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmstream")
    run().result()
    lines = [r for r in caplog.records if r.message.startswith(("tool", "run"))]
    levels = {(r.tool, r.outcome): r.levelname for r in lines if r.message.startswith("tool")}  # type: ignore[attr-defined]
    assert levels == {
        ("good", "success"): "INFO",
        ("good", "error"): "WARNING",
        ("bad", "error"): "WARNING",
        ("gone", "error"): "WARNING",
        ("asked", "refused"): "INFO",
    }
    assert lines[-1].message.startswith("run ended: trace_id=t-1 outcome=success turns=2")
    text = caplog.text
    assert SECRET not in text
    assert "argument-word" not in text
    assert PROMPT not in text
    caplog.clear()
    caplog.set_level(logging.WARNING, "llmstream")
    run().result()
    assert {r.levelname for r in caplog.records} == {"WARNING"}
    assert len(caplog.records) == 3


def test_metrics() -> None:
    registry = CollectorRegistry()
    client(PrometheusObserver(registry), answers=(Answer("Hi"),)).stream(PROMPT).result()
    assert "tool" not in generate_latest(registry).decode()
    observer = PrometheusObserver(registry, tools=["good", "asked"])
    run(observer).result()
    counts = {
        tuple(sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "llm_stream_tool_duration_ms_count"
    }
    assert counts == {
        ("good", "success"): 1,
        ("good", "error"): 1,
        ("asked", "refused"): 1,
        ("other", "error"): 2,
    }
    for number in range(50):
        made_up = Answer(tool_calls=[(f"tool_{number}", "{}")])
        client(observer, answers=(made_up, Answer("Done."))).run(PROMPT, [good]).result()
    assert "tool_7" not in generate_latest(registry).decode()
    with pytest.raises(ConfigurationError, match="tools: give a list"):
        PrometheusObserver(CollectorRegistry(), tools="good")


@pytest.fixture
def spans() -> Iterator[tuple[OpenTelemetryObserver, TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(shutdown_on_exit=False)
    yield OpenTelemetryObserver(tracers, meters), tracers, exporter
    meters.shutdown()


def test_spans(
    spans: tuple[OpenTelemetryObserver, TracerProvider, InMemorySpanExporter],
) -> None:
    """A tree: the application's span, the run, its calls and tools, what a tool makes itself."""
    observer, tracers, exporter = spans
    tracer = tracers.get_tracer("the application")

    def good(word: str) -> str:
        with tracer.start_as_current_span("inside"):
            return SECRET

    with tracer.start_as_current_span("outside"):
        client(observer).run(
            PROMPT, [good, bad, asked], approve=lambda call: call.name != "asked", trace_id="t-1"
        ).result()
        assert trace.get_current_span().get_span_context().is_valid
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    assert {name: len(listed) for name, listed in found.items()} == {
        "outside": 1,
        "invoke_agent": 1,
        "chat m": 2,
        "execute_tool good": 2,
        "execute_tool bad": 1,
        "execute_tool asked": 1,
        "execute_tool": 1,
        "inside": 1,
    }

    def parents(name: str) -> set[int | None]:
        return {span.parent.span_id if span.parent else None for span in found[name]}

    def ids(name: str) -> set[int]:
        return {span.context.span_id for span in found[name]}

    assert parents("invoke_agent") == ids("outside")
    tools = ("execute_tool good", "execute_tool bad", "execute_tool asked", "execute_tool")
    for name in ("chat m", *tools):
        assert parents(name) == ids("invoke_agent")
    assert parents("inside") <= ids("execute_tool good")
    assert len({span.context.trace_id for listed in found.values() for span in listed}) == 1
    (failed,) = found["execute_tool bad"]
    assert failed.status.status_code.name == "ERROR"
    assert failed.attributes is not None
    assert dict(failed.attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "bad",
        "gen_ai.tool.call.id": "c2",
        "gen_ai.tool.type": "function",
        "llmstream.trace_id": "t-1",
        "llmstream.turn": 1,
        "error.type": "ToolError",
        "llmstream.outcome": "error",
    }
    (refused,) = found["execute_tool asked"]
    assert refused.status.status_code.name == "UNSET"
    (agent,) = found["invoke_agent"]
    assert agent.attributes is not None
    assert agent.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert agent.attributes["llmstream.turns"] == 2
    words = repr([span.to_json() for listed in found.values() for span in listed])
    assert SECRET not in words
    assert PROMPT not in words
    assert not observer._runs._runs
    assert not observer._runs._tools


def test_a_call_beside_a_run_is_not_its_child(
    spans: tuple[OpenTelemetryObserver, TracerProvider, InMemorySpanExporter],
) -> None:
    observer, _, exporter = spans
    here = client(observer, answers=(CALLS, Answer("beside"), Answer("Done.")))
    going = here.run(PROMPT, [tool(good)])
    next(going)
    here.stream(PROMPT).result()
    going.close()
    calls = [s for s in exporter.get_finished_spans() if s.name == "chat m"]
    assert sorted(span.parent is None for span in calls) == [False, True]
