"""The attributes of spans, of their events and of metrics, out of the records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..records import AttemptRecord, CallRecord, RetryRecord, RunRecord, ToolRecord
from .conventions import OPERATION, RUN, TOOL
from .providers import openai_type, provider_of

__all__ = [
    "attempt_attributes",
    "end_attributes",
    "metric_attributes",
    "request_attributes",
    "retry_attributes",
    "run_attributes",
    "run_end_attributes",
    "tool_attributes",
    "tool_end_attributes",
]


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def metric_attributes(call: CallRecord, model: str, response_model: str | None) -> dict[str, Any]:
    """What all metrics of a call have in common."""
    return _known(
        {
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name": provider_of(call.host, call.api),
            "gen_ai.request.model": model,
            "gen_ai.response.model": response_model,
            "server.address": call.host or None,
            "server.port": call.port,
        }
    )


def request_attributes(call: CallRecord) -> dict[str, Any]:
    """What is known of a call when its span starts: samplers may look at these."""
    provider = provider_of(call.host, call.api)
    return _known(
        {
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": call.model,
            "gen_ai.request.stream": True,
            "gen_ai.request.max_tokens": call.max_output_tokens,
            "gen_ai.request.temperature": call.temperature,
            "gen_ai.request.top_p": call.top_p,
            "gen_ai.output.type": call.output_type,
            "openai.api.type": openai_type(call.api, provider),
            "server.address": call.host or None,
            "server.port": call.port,
            "llmstream.api": call.api,
            "llmstream.trace_id": call.trace_id,
        }
    )


def _usage_attributes(record: AttemptRecord | CallRecord) -> dict[str, int | None]:
    # The conventions count cached tokens, read or written, within the input tokens.
    usage = record.usage
    return {
        "gen_ai.usage.input_tokens": record.tokens_in,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }


def end_attributes(end: CallRecord, unfinished: str | None) -> dict[str, Any]:
    """What a span is given at its end. `unfinished` is the finish reason of an answer that did not
    end."""
    first = end.first_token_ms
    finish = end.finish or unfinished
    return _known(
        {
            "gen_ai.response.id": end.response_id,
            "gen_ai.response.model": end.response_model,
            "gen_ai.response.finish_reasons": None if finish is None else (finish,),
            "gen_ai.response.time_to_first_chunk": None if first is None else first / 1000.0,
            **_usage_attributes(end),
            "llmstream.cost_usd": end.usage.cost,
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


def attempt_attributes(attempt: AttemptRecord) -> dict[str, Any]:
    """Of the event `llmstream.attempt`."""
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
            **_usage_attributes(attempt),
        }
    )


def retry_attributes(retry: RetryRecord) -> dict[str, Any]:
    """Of the event `llmstream.retry`."""
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


def run_attributes(run: RunRecord) -> dict[str, Any]:
    """Of the span of a run, when it starts."""
    return {
        "gen_ai.operation.name": RUN,
        "gen_ai.provider.name": provider_of(run.host, run.api),
        "gen_ai.request.model": run.model,
        "llmstream.api": run.api,
        "llmstream.trace_id": run.trace_id,
    }


def run_end_attributes(end: RunRecord) -> dict[str, Any]:
    """Of the span of a run, at its end."""
    return _known(
        {
            "error.type": end.error_type if end.outcome == "error" else None,
            "llmstream.outcome": end.outcome,
            "llmstream.turns": end.turns,
            "llmstream.late_results": end.late_results,
        }
    )


def tool_attributes(tool: ToolRecord) -> dict[str, Any]:
    """Of the span of a tool's call, when it starts (gen-ai-spans.md, "Execute tool span")."""
    return _known(
        {
            "gen_ai.operation.name": TOOL,
            "gen_ai.tool.name": tool.name,
            "gen_ai.tool.call.id": tool.call_id,
            "gen_ai.tool.type": "function",
            "llmstream.trace_id": tool.trace_id,
            "llmstream.turn": tool.turn,
        }
    )


def tool_end_attributes(end: ToolRecord) -> dict[str, Any]:
    """Of the span of a tool's call, at its end."""
    return _known(
        {
            "error.type": end.error_type if end.outcome != "refused" else None,
            "llmstream.outcome": end.outcome,
        }
    )
