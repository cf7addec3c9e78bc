"""OpenTelemetry (extra `otel`): a span per call, its metrics, and `traceparent` on every request.

    from llmstream import Client
    from llmstream.telemetry import OpenTelemetryObserver

    client = Client(observers=[OpenTelemetryObserver()])

Only the API of OpenTelemetry is needed here; the application brings the SDK, or nothing is
recorded. Names, units and buckets are those of the GenAI semantic conventions, of which two sets
are in use. They are data: `NAMES`. What no convention has a name for is called `llmstream.*`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..._core.dialects import APIS
from ..._version import __version__
from ...errors import ConfigurationError
from ...result import Result, ToolCall, Usage

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from ..records import AttemptRecord, CallRecord, RequestContent, RetryRecord

__all__ = ["NAMES", "Metric", "Names", "OpenTelemetryObserver", "TokenMetric", "provider_of"]

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as exc:  # told to who makes an observer: a module should always import
    _missing: ImportError | None = exc
else:
    _missing = None


# ---- the names ---------------------------------------------------------------------------------


class Metric(Struct, frozen=True, kw_only=True):
    """An instrument: a histogram with these bucket boundaries, or, without any, a counter."""

    name: str
    unit: str
    description: str
    buckets: tuple[float, ...] = ()


class TokenMetric(Struct, frozen=True, kw_only=True):
    """An instrument that counts tokens.

    `counts` are the fields of Usage that it is fed with, each with the attributes of its own.
    `zero`: an unknown count is recorded as 0, else not at all. `error`: it carries `error.type`.
    """

    metric: Metric
    counts: tuple[tuple[str, dict[str, str]], ...]
    zero: bool = False
    error: bool = False


class Names(Struct, frozen=True, kw_only=True):
    """One set of names.

    `unfinished` is the finish reason of an answer that did not end, `finish_in_message` tells
    whether the reason is also in `gen_ai.output.messages`.
    """

    schema_url: str | None
    duration: Metric
    first_chunk: Metric
    per_chunk: Metric
    tokens: tuple[TokenMetric, ...]
    unfinished: str | None
    finish_in_message: bool


# gen-ai-metrics.md and client-inference.md say the same of each: "This metric SHOULD be specified
# with ExplicitBucketBoundaries of ...".
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(float(4**power) for power in range(14))  # 1, 4, 16, ... 67108864

_FIRST_CHUNK = (
    "Time to receive the first chunk, measured from when the client issues the generation request "
    "to when the first chunk is received in the response stream."
)
_PER_CHUNK = (
    "Time per output chunk, recorded for each chunk received after the first one, measured as the "
    "time elapsed from the end of the previous chunk to the end of the current chunk."
)


def _seconds(name: str, description: str) -> Metric:
    return Metric(name=name, unit="s", description=description, buckets=_SECONDS)


def _usage(name: str, field: str, description: str) -> TokenMetric:
    # gen-ai-token-metrics.md: "SHOULD record this metric for each inference operation, including
    # failed ones [...] or `0` if the response was not received or did not contain token usage";
    # the modality is `unknown` where the provider does not break usage down.
    return TokenMetric(
        metric=Metric(
            name=f"gen_ai.client.inference.usage.{name}", unit="{token}", description=description
        ),
        counts=((field, {"gen_ai.token.modality": "unknown"}),),
        zero=True,
    )


def _per_operation(name: str, description: str) -> TokenMetric:
    return TokenMetric(
        metric=Metric(
            name=f"gen_ai.client.inference.operation.{name}",
            unit="{token}",
            description=description,
            buckets=_TOKENS,
        ),
        counts=((name, {}),),
        zero=True,
        error=True,
    )


NAMES: dict[str, Names] = {
    # github.com/open-telemetry/semantic-conventions v1.41.0, docs/gen-ai/gen-ai-metrics.md and
    # gen-ai-spans.md: the last version there.
    "operation": Names(
        schema_url="https://opentelemetry.io/schemas/1.41.0",
        duration=_seconds("gen_ai.client.operation.duration", "GenAI operation duration."),
        first_chunk=_seconds("gen_ai.client.operation.time_to_first_chunk", _FIRST_CHUNK),
        per_chunk=_seconds("gen_ai.client.operation.time_per_output_chunk", _PER_CHUNK),
        tokens=(
            TokenMetric(
                metric=Metric(
                    name="gen_ai.client.token.usage",
                    unit="{token}",
                    description="Number of input and output tokens used.",
                    buckets=_TOKENS,
                ),
                counts=(
                    ("input_tokens", {"gen_ai.token.type": "input"}),
                    ("output_tokens", {"gen_ai.token.type": "output"}),
                ),
            ),
        ),
        unfinished=None,
        finish_in_message=True,
    ),
    # github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/client-inference.md and
    # gen-ai-token-metrics.md, in development (no release yet). Of its counters only
    # `usage.cache_write.input_tokens` is absent: Usage does not know that number.
    "inference": Names(
        schema_url=None,
        duration=_seconds(
            "gen_ai.client.inference.duration", "GenAI client inference operation duration."
        ),
        first_chunk=_seconds("gen_ai.client.inference.time_to_first_chunk", _FIRST_CHUNK),
        per_chunk=_seconds("gen_ai.client.inference.time_per_output_chunk", _PER_CHUNK),
        tokens=(
            _usage(
                "input_tokens",
                "input_tokens",
                "The number of input (prompt) tokens used, including cached tokens.",
            ),
            _usage(
                "output_tokens",
                "output_tokens",
                "The number of output (completion) tokens used, including reasoning tokens.",
            ),
            _usage(
                "cache_read.input_tokens",
                "cached_tokens",
                "The number of input tokens served from a provider-managed cache.",
            ),
            _usage(
                "reasoning.output_tokens",
                "reasoning_tokens",
                "The number of output tokens used for reasoning (e.g. chain-of-thought, extended "
                "thinking).",
            ),
            _per_operation(
                "input_tokens",
                "The number of input (prompt) tokens used per inference operation.",
            ),
            _per_operation(
                "output_tokens",
                "The number of output (completion) tokens used per inference operation.",
            ),
        ),
        # client-inference.md [18]: "If a finish reason was expected but not received [...]
        # instrumentations SHOULD report `error`"
        unfinished="error",
        finish_in_message=False,  # "Deprecated: report [...] in gen_ai.response.finish_reasons"
    ),
}

# gen-ai-spans.md (v1.37 to v1.41): "`gen_ai_latest_experimental` - emit the latest experimental
# version of GenAI conventions (supported by the instrumentation)"
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_LATEST = "gen_ai_latest_experimental"

_OPERATION = "chat"  # of the well-known values the one for all three APIs

# The well-known values of gen_ai.provider.name, by the end of the host's name.
_PROVIDERS = {
    "amazonaws.com": "aws.bedrock",
    "anthropic.com": "anthropic",
    "cloud.ibm.com": "ibm.watsonx.ai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "cohere.ai": "cohere",
    "cohere.com": "cohere",
    "deepseek.com": "deepseek",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "googleapis.com": "gcp.gen_ai",
    "groq.com": "groq",
    "inference.ai.azure.com": "azure.ai.inference",
    "mistral.ai": "mistral_ai",
    "models.ai.azure.com": "azure.ai.inference",
    "moonshot.ai": "moonshot_ai",
    "moonshot.cn": "moonshot_ai",
    "openai.azure.com": "azure.ai.openai",
    "openai.com": "openai",
    "perplexity.ai": "perplexity",
    "services.ai.azure.com": "azure.ai.openai",
    "x.ai": "x_ai",
}
# Elsewhere the API's own maker: the attribute "acts as a discriminator that identifies the GenAI
# telemetry format flavor" and "may differ from the actual upstream provider".

# So many combinations of service and models have metrics of their own; the models of further ones
# are told as `_OTHER`, so that names out of a request cannot fill the memory.
_MOST_SERIES = 200
_OTHER = "_OTHER"


def provider_of(host: str, api: str) -> str:
    """The `gen_ai.provider.name` of a service: by its host, else by the API it speaks."""
    ending = host.lower()
    while ending:
        found = _PROVIDERS.get(ending)
        if found is not None:
            return found
        ending = ending.partition(".")[2]
    return APIS[api].vendor if api in APIS else api


def _openai_type(api: str) -> str | None:
    return APIS[api].openai_type if api in APIS else None


# ---- the observer ------------------------------------------------------------------------------


class OpenTelemetryObserver:
    """Tells OpenTelemetry of every call. One serves many clients; safe in any thread.

    A call is one span of kind CLIENT, `chat {model}`, from its start to its end with all retries,
    a child of whatever span is current where the stream is first used. It never becomes the
    current one itself: a generator would leak it into its caller. Its events are
    `llmstream.attempt` (each attempt as it ends), `llmstream.retry` and `llmstream.first_token`.
    An error sets the status ERROR with the error's class, never its words, in which services quote
    prompts; a cancelled call is no error. Every request carries the span's context by the
    configured propagators: `traceparent` and, where the application has set any, `baggage`
    (`OTEL_PROPAGATORS=tracecontext` keeps that at home).

    Metrics, by the convention's names: duration, time to first chunk and time per output chunk in
    seconds, tokens. Unlike the span's, their attributes are few: operation, provider, models,
    server, `error.type`. The time per chunk is the wait for the network between two arrivals,
    without what the caller's own loop took; chunks that came with one read are one arrival.

    Args:
        tracer_provider, meter_provider: default: the global ones, also where they are set later.
        names: "operation" (`gen_ai.client.operation.*`, conventions v1.41) or "inference"
            (`gen_ai.client.inference.*`, the newer ones); default: "inference" where
            `OTEL_SEMCONV_STABILITY_OPT_IN` has `gen_ai_latest_experimental`, else "operation".
        capture_content: record prompts and answers on the span (`gen_ai.input.messages`,
            `gen_ai.output.messages`, `gen_ai.system_instructions`, as JSON text). No variable of
            the environment turns this on. Of pictures, sound and files only the type is recorded.

    Raises ConfigurationError without the package opentelemetry-api, and for unknown `names`.
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
        self._names = known = _chosen(names)
        self._tracer = trace.get_tracer(
            "llmstream", __version__, tracer_provider, schema_url=known.schema_url
        )
        meter = metrics.get_meter(
            "llmstream", __version__, meter_provider, schema_url=known.schema_url
        )
        self._duration = _histogram(meter, known.duration)
        self._first_chunk = _histogram(meter, known.first_chunk)
        self._per_chunk = _histogram(meter, known.per_chunk)
        self._tokens = tuple(_token_recorder(meter, one.metric) for one in known.tokens)
        self._lock = threading.Lock()
        self._calls: dict[int, _Running] = {}  # each access is one atomic operation
        self._series: dict[tuple[Any, ...], dict[str, Any]] = {}  # guarded by _lock
        if capture_content:
            # An attribute only then: a client looks once for what its observers listen to, and
            # makes up the content for nobody else.
            self.on_content: Callable[[CallRecord, RequestContent, Result], None] = self._content

    # -- the moments of a call

    def on_start(self, call: CallRecord) -> None:
        """Starts the span."""
        parent = otel_context.get_current()
        begun = int(call.started * 1e9)
        span = self._tracer.start_span(
            f"{_OPERATION} {call.model}",
            context=parent,
            kind=SpanKind.CLIENT,
            attributes=_request_attributes(call),
            start_time=begun,
        )
        known = span.get_span_context().is_valid
        # Without an SDK there is no span: what came in, if anything, is passed on.
        context = trace.set_span_in_context(span, parent) if known else parent
        self._calls[call.id] = _Running(span, context, begun, self._labels(call, None))

    def request_headers(self, call: CallRecord) -> Mapping[str, str]:
        """The span's context, by the configured propagators."""
        headers: dict[str, str] = {}
        running = self._calls.get(call.id)
        if running is not None:
            propagate.inject(headers, running.context)
        return headers

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        """An event on the span."""
        running = self._calls.get(call.id)
        if running is not None:
            running.event("llmstream.first_token", at_ms, {"llmstream.first_token_ms": at_ms})

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        """Records the time per output chunk, once for what came with one read."""
        running = self._calls.get(call.id)
        if running is not None and gap_ms is not None:
            self._per_chunk.record(gap_ms / 1000.0, running.labels, running.context)

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """An event on the span, at the moment the attempt ended."""
        running = self._calls.get(call.id)
        if running is not None:
            ended = attempt.started_ms + attempt.total_ms
            running.event("llmstream.attempt", ended, _attempt_attributes(attempt))

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        """An event on the span, now."""
        running = self._calls.get(call.id)
        if running is not None:
            running.event("llmstream.retry", None, _retry_attributes(retry))

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        """Ends the span, and records the metrics of the call."""
        running = self._calls.pop(call.id, None)
        if running is None:
            return  # not one whose start was told
        try:
            self._measure(running, end)
        finally:
            self._finish(running, end)

    # -- what they do

    def _finish(self, running: _Running, end: CallRecord) -> None:
        span = running.span
        if span.is_recording():
            span.set_attributes(_end_attributes(end, self._names.unfinished))
            if end.outcome == "error":
                span.set_status(Status(StatusCode.ERROR, end.error_type))
        span.end(running.at(end.total_ms))

    def _measure(self, running: _Running, end: CallRecord) -> None:
        labels, context = self._labels(end, end.response_model), running.context
        failed = {"error.type": end.error_type} if end.outcome == "error" else {}
        # "the metric value SHOULD be the same as the span duration"
        self._duration.record(end.total_ms / 1000.0, {**labels, **failed}, context)
        if end.first_token_ms is not None:
            self._first_chunk.record(end.first_token_ms / 1000.0, labels, context)
        for names, record in zip(self._names.tokens, self._tokens, strict=True):
            shared = {**labels, **failed} if names.error else labels
            for field, own in names.counts:
                count = getattr(end.usage, field)
                if count is not None or names.zero:
                    record(count or 0, {**shared, **own}, context)

    def _labels(self, call: CallRecord, response_model: str | None) -> dict[str, Any]:
        """The attributes that all metrics of a call have in common."""
        key = (call.api, call.host, call.port, call.model, response_model)
        with self._lock:
            found = self._series.get(key)
            if found is not None:
                return found
            if len(self._series) >= _MOST_SERIES:
                return _metric_attributes(call, _OTHER, response_model and _OTHER)
            found = self._series[key] = _metric_attributes(call, call.model, response_model)
            return found

    def _content(self, call: CallRecord, request: RequestContent, result: Result) -> None:
        """Records what was asked and answered."""
        running = self._calls.get(call.id)
        if running is None or not running.span.is_recording():
            return
        span = running.span
        span.set_attribute("gen_ai.input.messages", _as_json(_input(request.prompt)))
        if request.instructions:
            span.set_attribute(
                "gen_ai.system_instructions", _as_json([_text(request.instructions)])
            )
        answer = _output(result)
        if answer["parts"]:
            if self._names.finish_in_message:
                answer["finish_reason"] = _FINISH.get(result.finish or "error", result.finish)
            span.set_attribute("gen_ai.output.messages", _as_json([answer]))


class _Running:
    """What is known of a call that runs: its span, the context of its requests, its start in
    nanoseconds of Unix time, and the attributes of its metrics."""

    __slots__ = ("begun", "context", "labels", "span")

    def __init__(self, span: Span, context: Context, begun: int, labels: dict[str, Any]) -> None:
        self.span = span
        self.context = context
        self.begun = begun
        self.labels = labels

    def at(self, ms: float) -> int:
        return self.begun + int(ms * 1e6)

    def event(self, name: str, at_ms: float | None, attributes: Mapping[str, Any]) -> None:
        if self.span.is_recording():
            self.span.add_event(name, attributes, None if at_ms is None else self.at(at_ms))


def _chosen(names: Any) -> Names:
    if names is None:
        opted = {word.strip() for word in os.environ.get(_OPT_IN, "").split(",")}
        names = "inference" if _LATEST in opted else "operation"
    found = NAMES.get(names) if isinstance(names, str) else None
    if found is None:
        raise ConfigurationError(f"names={names!r} is not known: give one of {list(NAMES)}")
    return found


def _histogram(meter: Meter, metric: Metric) -> Histogram:
    try:
        return meter.create_histogram(
            metric.name,
            metric.unit,
            metric.description,
            explicit_bucket_boundaries_advisory=metric.buckets,
        )
    except TypeError:  # before version 1.30: the application's views have to set the buckets
        return meter.create_histogram(metric.name, metric.unit, metric.description)


def _token_recorder(meter: Meter, metric: Metric) -> Callable[..., None]:
    recorder: Callable[..., None]
    if metric.buckets:
        recorder = _histogram(meter, metric).record
    else:
        recorder = meter.create_counter(metric.name, metric.unit, metric.description).add
    return recorder


# ---- attributes --------------------------------------------------------------------------------


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _metric_attributes(call: CallRecord, model: str, response_model: str | None) -> dict[str, Any]:
    return _known(
        {
            "gen_ai.operation.name": _OPERATION,
            "gen_ai.provider.name": provider_of(call.host, call.api),
            "gen_ai.request.model": model,
            "gen_ai.response.model": response_model,
            "server.address": call.host or None,
            "server.port": call.port,
        }
    )


def _request_attributes(call: CallRecord) -> dict[str, Any]:
    """Known from the start: samplers may look at them."""
    provider = provider_of(call.host, call.api)
    return _known(
        {
            "gen_ai.operation.name": _OPERATION,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": call.model,
            "gen_ai.request.stream": True,
            "gen_ai.request.max_tokens": call.max_output_tokens,
            "gen_ai.request.temperature": call.temperature,
            "gen_ai.request.top_p": call.top_p,
            "openai.api.type": _openai_type(call.api) if provider == "openai" else None,
            "server.address": call.host or None,
            "server.port": call.port,
            "llmstream.api": call.api,
            "llmstream.trace_id": call.trace_id,
        }
    )


def _usage_attributes(usage: Usage) -> dict[str, int | None]:
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }


def _end_attributes(end: CallRecord, unfinished: str | None) -> dict[str, Any]:
    first = end.first_token_ms
    finish = end.finish or unfinished
    return _known(
        {
            "gen_ai.response.id": end.response_id,
            "gen_ai.response.model": end.response_model,
            "gen_ai.response.finish_reasons": None if finish is None else (finish,),
            "gen_ai.response.time_to_first_chunk": None if first is None else first / 1000.0,
            **_usage_attributes(end.usage),
            "error.type": end.error_type if end.outcome == "error" else None,
            "http.response.status_code": end.status,
            "llmstream.outcome": end.outcome,
            "llmstream.phase": end.phase,
            "llmstream.error_code": end.error_code,
            "llmstream.reason": end.reason,
            "llmstream.request_id": end.request_id,
            "llmstream.attempts": len(end.attempts),
            "llmstream.retries": len(end.retries),
            "llmstream.first_token_ms": first,
            "llmstream.longest_gap_ms": end.longest_gap_ms,
            "llmstream.waited_ms": end.waited_ms,
            "llmstream.backoff_ms": end.backoff_ms,
            "llmstream.chunks": end.chunks,
            "llmstream.bytes": end.bytes,
        }
    )


def _attempt_attributes(attempt: AttemptRecord) -> dict[str, Any]:
    return _known(
        {
            "llmstream.attempt": attempt.number,
            "llmstream.outcome": attempt.outcome,
            "llmstream.phase": attempt.phase,
            "error.type": attempt.error_type if attempt.outcome == "error" else None,
            "llmstream.error_code": attempt.error_code,
            "http.response.status_code": attempt.status,
            "llmstream.request_id": attempt.request_id,
            "llmstream.started_ms": attempt.started_ms,
            "llmstream.total_ms": attempt.total_ms,
            "llmstream.first_token_ms": attempt.first_token_ms,
            "llmstream.longest_gap_ms": attempt.longest_gap_ms,
            "llmstream.throttled_ms": attempt.throttled_ms,
            "llmstream.wait_ms": attempt.wait_ms,
            "llmstream.resent": attempt.resent,
            "llmstream.chunks": attempt.chunks,
            "llmstream.bytes": attempt.bytes,
            **_usage_attributes(attempt.usage),
        }
    )


def _retry_attributes(retry: RetryRecord) -> dict[str, Any]:
    return _known(
        {
            "llmstream.attempt": retry.attempt,
            "llmstream.wait_ms": retry.wait_ms,
            "llmstream.phase": retry.phase,
            "error.type": retry.error_type,
            "llmstream.error_code": retry.error_code,
            "http.response.status_code": retry.status,
        }
    )


# ---- content, where it was asked for -----------------------------------------------------------
#
# The shapes are those of the conventions' JSON schemas (gen-ai-input-messages.json,
# gen-ai-output-messages.json, gen-ai-system-instructions.json). On spans they "MAY be recorded as
# a JSON string": structured attributes are no part of opentelemetry-api 1.30.

# what a prompt may have been written in: any of the three APIs' own words
_TEXTS = {"text", "input_text", "output_text", "summary_text", "reasoning_text"}
# type -> the keys of its id, its name and its arguments
_TOOL_CALLS = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
    "tool_use": ("id", "name", "input"),
}
# type -> the keys of its id and its content
_TOOL_RESULTS = {
    "function_call_output": ("call_id", "output"),
    "custom_tool_call_output": ("call_id", "output"),
    "tool_result": ("tool_use_id", "content"),
}
_FINISH = {"tool_calls": "tool_call", "error": "error"}  # FinishReason in the schema


def _as_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is no UTF-8


def _text(content: Any) -> dict[str, Any]:
    return {"type": "text", "content": content}


def _input(prompt: str | list[Any]) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "parts": [_text(prompt)]}]
    return [_message(turn) for turn in prompt]


def _message(turn: Mapping[str, Any]) -> dict[str, Any]:
    kind, role, content = turn.get("type"), turn.get("role"), turn.get("content")
    if role is None:  # an item of the Responses API that is no message
        return {"role": "tool" if kind in _TOOL_RESULTS else "assistant", "parts": [_part(turn)]}
    if role == "tool":  # Chat Completions
        return {"role": role, "parts": [_tool_response(turn.get("tool_call_id"), content)]}
    calls = turn.get("tool_calls") or ()
    return {"role": role, "parts": [*_parts(content), *(_chat_call(call) for call in calls)]}


def _parts(content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [_text(content)]
    return [_part(part) for part in content] if isinstance(content, (list, tuple)) else []


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        return _text(str(part))
    kind = str(part.get("type"))
    if kind in _TEXTS:
        return _text(part.get("text"))
    if kind in _TOOL_CALLS:
        return _tool_call(*(part.get(key) for key in _TOOL_CALLS[kind]))
    if kind in _TOOL_RESULTS:
        return _tool_response(*(part.get(key) for key in _TOOL_RESULTS[kind]))
    if kind == "thinking":
        return {"type": "reasoning", "content": part.get("thinking")}
    if kind == "reasoning":
        return {"type": "reasoning", "content": _joined(part.get("summary"))}
    if kind == "refusal":
        return {"type": kind, "content": part.get("refusal")}
    return {"type": kind}


def _joined(parts: Any) -> str:
    return "".join(str(part.get("content") or "") for part in _parts(parts))


def _tool_call(identity: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": identity, "name": name, "arguments": _decoded(arguments)}


def _chat_call(call: Any) -> dict[str, Any]:
    function = call.get("function") or call.get("custom") or {}
    return _tool_call(
        call.get("id"), function.get("name"), function.get("arguments", function.get("input"))
    )


def _tool_response(identity: Any, content: Any) -> dict[str, Any]:
    said = content if isinstance(content, str) else _parts(content)
    return {"type": "tool_call_response", "id": identity, "response": said}


def _decoded(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _output(result: Result) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if result.thinking:
        parts.append({"type": "reasoning", "content": result.thinking})
    if result.text:
        parts.append(_text(result.text))
    if result.refusal:
        parts.append({"type": "refusal", "content": result.refusal})
    parts.extend(_answered_call(call) for call in result.tool_calls)
    return {"role": "assistant", "parts": parts}


def _answered_call(call: ToolCall) -> dict[str, Any]:
    return _tool_call(call.id, call.name, call.arguments)
