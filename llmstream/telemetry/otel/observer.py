"""The observer: a span for every call, its context in every request, its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..._core.checks import has_method, shown
from ..._runtime.fork import renew_in_child
from ..._settings.arguments import checked_flag
from ..._version import __version__
from ...errors import ConfigurationError
from ...result import Result
from ..records import (
    AttemptRecord,
    CallRecord,
    RequestContent,
    RetryRecord,
    RunRecord,
    ToolRecord,
)
from .attributes import (
    attempt_attributes,
    end_attributes,
    request_attributes,
    retry_attributes,
)
from .content import input_messages, instructions, output_messages
from .conventions import OPERATION, chosen_names
from .instruments import Instruments

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetryObserver"]

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as exc:  # raised when an observer is made: importing this module always works
    _missing: ImportError | None = exc
else:
    from .runs import RunSpans

    _missing = None


class OpenTelemetryObserver:
    """Reports every call to OpenTelemetry. One observer serves many clients. Thread-safe, and
    usable after a fork.

    A call is one span of kind CLIENT, `chat {model}`, from the call's start to its end with all
    retries. Its parent is the span that is current where the stream is first used. The call's span
    never becomes the current one itself: a generator would leak it into its caller. The span's
    events are `llmstream.attempt` (each attempt as it ends), `llmstream.retry` and
    `llmstream.first_token`. An error sets the status ERROR with the error's class, but never the
    error's words, in which services quote prompts. A cancelled call is not an error. Every request
    carries the span's context by the configured propagators: `traceparent` and, where the
    application has set any, `baggage` (with `OTEL_PROPAGATORS=tracecontext` no baggage is sent).

    A run (`Client.run`) is a span `invoke_agent`. The spans of its calls are its children, and so
    is a span `execute_tool {name}` for each call of a tool, which is the current span in the tool's
    thread. What a tool is given and returns is never recorded.

    Metrics, by the convention's names: duration, time to first chunk and time per output chunk in
    seconds, and tokens. Unlike the span's, their attributes are few: operation, provider, models,
    server, `error.type`. The time per chunk is the wait for the network between two arrivals,
    without the time that the caller's own loop takes. Chunks that arrive in one read are one
    arrival.

    Args:
        tracer_provider, meter_provider: default: the global ones, also where the application sets
            them later.
        names: "operation" (`gen_ai.client.operation.*`, conventions v1.41) or "inference"
            (`gen_ai.client.inference.*`, the newer ones). Default: "inference" where the
            environment variable `OTEL_SEMCONV_STABILITY_OPT_IN` contains
            `gen_ai_latest_experimental`, otherwise "operation".
        capture_content: record prompts and answers on the span (`gen_ai.input.messages`,
            `gen_ai.output.messages`, `gen_ai.system_instructions`, as JSON text). Default: False.
            No environment variable turns this on. Of pictures, sound and files only the type is
            recorded.

    Raises ConfigurationError without the package opentelemetry-api (extra `otel`), and for unknown
    `names`.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        names: str | None = None,
        capture_content: bool = False,
    ) -> None:
        if _missing is not None:
            raise ConfigurationError(
                'OpenTelemetry is not installed: pip install "llmstream-sync[otel]"'
            ) from _missing
        for name, provider, method in (
            ("tracer_provider", tracer_provider, "get_tracer"),
            ("meter_provider", meter_provider, "get_meter"),
        ):
            if provider is not None and not has_method(provider, method):
                raise ConfigurationError(f"{name}={shown(provider)}: pass one of OpenTelemetry's")
        self._names = chosen_names(names)
        schema_url = self._names.schema_url
        self._tracer = trace.get_tracer(
            "llmstream", __version__, tracer_provider, schema_url=schema_url
        )
        meter = metrics.get_meter("llmstream", __version__, meter_provider, schema_url=schema_url)
        self._instruments = Instruments(meter, self._names)
        self._captures_content = checked_flag("capture_content", capture_content)
        self._runs = RunSpans(self._tracer)
        self._calls: dict[int, _RunningCall] = {}  # each access is one atomic operation
        renew_in_child(self, _calls=dict)

    def wants(self, hook: str) -> bool:
        """Everything, but content only where it is captured."""
        return hook != "on_content" or self._captures_content

    # -- the hooks

    def on_start(self, call: CallRecord) -> None:
        """Start the span."""
        if call.id in self._calls:
            return  # told again after an interrupt
        parent = self._runs.context_of(call.trace_id) or otel_context.get_current()
        begun = int(call.started * 1e9)
        span = self._tracer.start_span(
            f"{OPERATION} {call.model}",
            context=parent,
            kind=SpanKind.CLIENT,
            attributes=request_attributes(call),
            start_time=begun,
        )
        known = span.get_span_context().is_valid
        # Without an SDK there is no span: an incoming context, if there is any, is passed on.
        context = trace.set_span_in_context(span, parent) if known else parent
        attributes = self._instruments.attributes(call)
        self._calls[call.id] = _RunningCall(span, context, begun, attributes)

    def request_headers(self, call: CallRecord) -> Mapping[str, str]:
        """The span's context, by the configured propagators."""
        headers: dict[str, str] = {}
        running = self._calls.get(call.id)
        if running is not None:
            propagate.inject(headers, running.context)
        return headers

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        """Add an event to the span."""
        running = self._calls.get(call.id)
        if running is not None:
            running.event("llmstream.first_token", at_ms, {"llmstream.first_token_ms": at_ms})

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        """Record the time per output chunk, once for each read."""
        running = self._calls.get(call.id)
        if running is not None and gap_ms is not None:
            self._instruments.per_chunk.record(gap_ms / 1000.0, running.attributes, running.context)

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """Add an event to the span, at the moment at which the attempt ended."""
        running = self._calls.get(call.id)
        if running is not None:
            ended = attempt.started_ms + attempt.total_ms
            running.event("llmstream.attempt", ended, attempt_attributes(attempt))

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        """Add an event to the span, now."""
        running = self._calls.get(call.id)
        if running is not None:
            running.event("llmstream.retry", None, retry_attributes(retry))

    def on_content(self, call: CallRecord, request: RequestContent, result: Result) -> None:
        """Record the prompt and the answer on the span."""
        running = self._calls.get(call.id)
        if running is None or not running.span.is_recording():
            return
        span = running.span
        span.set_attribute("gen_ai.input.messages", input_messages(request.prompt))
        if request.instructions:
            span.set_attribute("gen_ai.system_instructions", instructions(request.instructions))
        answer = output_messages(result, with_finish=self._names.finish_in_message)
        if answer is not None:
            span.set_attribute("gen_ai.output.messages", answer)

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        """End the span, and record the call's metrics."""
        running = self._calls.get(call.id)
        if running is None:
            return  # its start was not reported to this observer
        try:
            if not running.recorded:
                self._instruments.record_end(end, running.context)
                running.recorded = True
        except Exception:
            running.recorded = True
            raise
        finally:
            if running.recorded:  # otherwise an interrupt came in between: it is told again
                self._end_span(running, end)
                self._calls.pop(call.id, None)

    def on_run_start(self, run: RunRecord) -> None:
        """Start the span of a run."""
        self._runs.start_run(run)

    def on_tool_start(self, tool: ToolRecord) -> None:
        """Start the span of a tool's call, as the current one."""
        self._runs.start_tool(tool)

    def on_tool_end(self, tool: ToolRecord, end: ToolRecord) -> None:
        """End the span of a tool's call."""
        self._runs.end_tool(tool, end)

    def on_run_end(self, run: RunRecord, end: RunRecord) -> None:
        """End the span of a run."""
        self._runs.end_run(end)

    def _end_span(self, running: _RunningCall, end: CallRecord) -> None:
        span = running.span
        if span.is_recording():
            span.set_attributes(end_attributes(end, self._names.unfinished))
            if end.outcome == "error":
                span.set_status(Status(StatusCode.ERROR, end.error_type))
            span.end(running.at(end.total_ms))


class _RunningCall:
    """What is known of a call that runs: its span, the context of its requests, its start in
    nanoseconds of Unix time, and the attributes of its metrics."""

    __slots__ = ("attributes", "begun", "context", "recorded", "span")

    def __init__(
        self, span: Span, context: Context, begun: int, attributes: dict[str, Any]
    ) -> None:
        self.span = span
        self.context = context
        self.begun = begun
        self.attributes = attributes
        self.recorded = False  # its metrics are

    def at(self, ms: float) -> int:
        return self.begun + int(ms * 1e6)

    def event(self, name: str, at_ms: float | None, attributes: Mapping[str, Any]) -> None:
        if self.span.is_recording():
            self.span.add_event(name, attributes, None if at_ms is None else self.at(at_ms))
