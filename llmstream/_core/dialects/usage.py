"""Reads what services report of a usage in places of their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from ...events.base import InvocationMetrics, ReportedUsage
from ...result import Usage
from ..state import first_count

if TYPE_CHECKING:  # an API's events are imported when a client of it is made
    from ...events.chat import ChatUsage
    from ...events.responses import ResponseUsage

__all__ = [
    "COST_HEADER",
    "counted_media",
    "metrics_usage",
    "openai_usage",
    "reported_cost",
    "with_cost",
]

COST_HEADER = "x-litellm-response-cost"

_TICKS_PER_USD = 10**10  # xAI
_TOTALS = ("total_cost", "total")  # the sum in an object of costs (Perplexity)


def metrics_usage(metrics: InvocationMetrics) -> Usage:
    """The tokens that Amazon Bedrock has counted."""
    return Usage(
        metrics.input_token_count,
        metrics.output_token_count,
        None,
        metrics.cache_read_input_token_count,
        None,
        metrics.cache_write_input_token_count,
    )


def openai_usage(reported: ChatUsage | ResponseUsage) -> Usage:
    """The usage of OpenAI's two APIs: each count under the name in either of them; its parts in
    their details, or, from other services, beside the counts."""
    details_in = reported.prompt_tokens_details, reported.input_tokens_details
    details_out = reported.completion_tokens_details, reported.output_tokens_details
    return Usage(
        first_count(reported.prompt_tokens, reported.input_tokens),
        first_count(reported.completion_tokens, reported.output_tokens),
        reported.total_tokens,
        first_count(
            *(part.cached_tokens for part in details_in if part is not None),
            reported.cached_tokens,
            reported.prompt_cache_hit_tokens,
            reported.num_cached_tokens,
            reported.cache_read_input_tokens,
        ),
        first_count(
            *(part.reasoning_tokens for part in details_out if part is not None),
            reported.reasoning_tokens,
        ),
        first_count(
            *(part.cache_write_tokens for part in details_in if part is not None),
            reported.cache_creation_input_tokens,
        ),
        reported_cost(reported),
    )


def counted_media(reported: ChatUsage) -> frozenset[str]:
    """What has tokens beside text in the prompt or the answer: see `Attempt.media`."""
    details = (
        *(reported.prompt_tokens_details, reported.completion_tokens_details),
        *(reported.input_tokens_details, reported.output_tokens_details),
    )
    known = [part for part in details if part is not None]
    audio = any(part.audio_tokens for part in known)
    image = any(part.image_tokens for part in known)
    return frozenset((*(("audio",) if audio else ()), *(("image",) if image else ())))


def with_cost(usage: Usage, header: str) -> Usage:
    """`usage` with the cost in USD that a gateway (LiteLLM) reports in a header, unless it has one;
    what the body reports later replaces it. A 0 counts as unknown: the head of a stream is sent
    before its cost is known."""
    cost = _number(header)
    return (
        usage if usage.cost is not None or not cost else msgspec.structs.replace(usage, cost=cost)
    )


def reported_cost(reported: ReportedUsage) -> float | None:
    """The cost in USD that a usage has; None where it has none that is a cost. With the caller's
    own key for a provider (OpenRouter's BYOK) the provider bills its part in addition; without one
    that part is in the cost."""
    cost = reported.cost
    if isinstance(cost, dict):
        cost = next((cost[name] for name in _TOTALS if name in cost), None)
    ticks = reported.cost_in_usd_ticks
    if cost is None and ticks is not None:
        ticks = _number(ticks)
        return None if ticks is None else ticks / _TICKS_PER_USD
    costs = cost, reported.total_cost, reported.estimated_cost
    number = _number(next((cost for cost in costs if cost is not None), None))
    details = reported.cost_details
    if number is None or reported.is_byok is not True or not isinstance(details, dict):
        return number
    return number + (_number(details.get("upstream_inference_cost")) or 0.0)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
