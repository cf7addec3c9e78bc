"""Reads what services report of a usage in places of their own."""

from __future__ import annotations

import math
from typing import Any

from ...events.base import InvocationMetrics
from ...result import Usage
from ..state import first_count

__all__ = ["metrics_usage", "openai_usage", "reported_cost"]

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


def openai_usage(
    reported: Any,
    tokens_in: int | None,
    tokens_out: int | None,
    details_in: Any,
    details_out: Any,
    own_key: Any = None,
) -> Usage:
    """The usage of OpenAI's two APIs, which have different names for the two counts and the same
    ones for the rest: in their details, or, from other services, beside the counts."""
    return Usage(
        tokens_in,
        tokens_out,
        reported.total_tokens,
        first_count(
            details_in.cached_tokens,
            reported.cached_tokens,
            reported.prompt_cache_hit_tokens,
            reported.num_cached_tokens,
            reported.cache_read_input_tokens,
        ),
        first_count(details_out.reasoning_tokens, reported.reasoning_tokens),
        first_count(details_in.cache_write_tokens, reported.cache_creation_input_tokens),
        reported_cost(reported.cost, reported.cost_in_usd_ticks, own_key),
    )


def reported_cost(cost: Any, ticks: Any = None, own_key: Any = None) -> float | None:
    """The cost in USD that a service reports; None where it reports none that is a cost. `own_key`
    has what the provider bills in addition, because the caller's own key for it was used."""
    if isinstance(cost, dict):
        cost = next((cost[name] for name in _TOTALS if name in cost), None)
    if cost is None and ticks is not None:
        ticks = _number(ticks)
        return None if ticks is None else ticks / _TICKS_PER_USD
    number = _number(cost)
    upstream = own_key.get("upstream_inference_cost") if isinstance(own_key, dict) else None
    return number if number is None else number + (_number(upstream) or 0.0)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
