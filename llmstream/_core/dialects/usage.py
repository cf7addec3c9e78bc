"""Reads what services report of a usage in places of their own."""

from __future__ import annotations

import math
from typing import Any

from ...events.base import InvocationMetrics
from ...result import Usage

__all__ = ["metrics_usage", "reported_cost"]

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
