"""The spans of runs and of the calls of their tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from ..._runtime.fork import renew_in_child
from ..records import RunRecord, ToolRecord
from .attributes import run_attributes, run_end_attributes, tool_attributes, tool_end_attributes
from .conventions import RUN, TOOL

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

__all__ = ["RunSpans"]

_NO_ERRORS = ("success", "refused", "late")


class RunSpans:
    """The spans of the runs and tools that run. Thread-safe: each access is one operation."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._runs: dict[str, tuple[Span, Context]] = {}  # by the trace id
        self._tools: dict[int, Span] = {}
        renew_in_child(self, _runs=dict, _tools=dict)

    def context_of(self, trace_id: str) -> Context | None:
        """The context of the run with this trace id; None where there is no such run."""
        found = self._runs.get(trace_id)
        return None if found is None else found[1]

    def start_run(self, run: RunRecord) -> None:
        parent = otel_context.get_current()
        span = self._tracer.start_span(
            RUN,
            context=parent,
            kind=SpanKind.INTERNAL,
            attributes=run_attributes(run),
            start_time=int(run.started * 1e9),
        )
        known = span.get_span_context().is_valid
        self._runs[run.trace_id] = (
            span,
            trace.set_span_in_context(span, parent) if known else parent,
        )

    def end_run(self, end: RunRecord) -> None:
        span, _ = self._runs.pop(end.trace_id, (None, None))
        if span is not None and span.is_recording():
            span.set_attributes(run_end_attributes(end))
            if end.outcome == "error":
                span.set_status(Status(StatusCode.ERROR, end.error_type))
            span.end(_moment(end))

    def start_tool(self, tool: ToolRecord) -> None:
        """Start the span, and make it the current one: the context is the tool's own."""
        span = self._tools[tool.id] = self._start(tool)
        if span.get_span_context().is_valid:
            otel_context.attach(trace.set_span_in_context(span))

    def end_tool(self, tool: ToolRecord, end: ToolRecord) -> None:
        span = self._tools.pop(tool.id, None)
        if span is None:
            if end.outcome == "late":
                return  # its span has ended with its time
            span = self._start(tool)
        if span.is_recording():
            span.set_attributes(tool_end_attributes(end))
            if end.outcome not in _NO_ERRORS:
                span.set_status(Status(StatusCode.ERROR, end.error_type))
            span.end(_moment(end))

    def _start(self, tool: ToolRecord) -> Span:
        # A name that the model has made up is in the attributes only: names of spans are few.
        return self._tracer.start_span(
            f"{TOOL} {tool.name}" if tool.known else TOOL,
            context=self.context_of(tool.trace_id) or otel_context.get_current(),
            kind=SpanKind.INTERNAL,
            attributes=tool_attributes(tool),
            start_time=int(tool.started * 1e9),
        )


def _moment(end: RunRecord | ToolRecord) -> int:
    return int((end.started + end.total_ms / 1000.0) * 1e9)
