"""Observers of calls: what is reported to them, and the observers of this library.

    from llmstream import Client
    from llmstream.telemetry import PrometheusObserver

    client = Client(observers=[PrometheusObserver(models=["gpt-5.4-mini"])])

Importing this module imports no metrics, tracing or price library: each name is imported when it is
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ..result import Cost
    from .context import TraceIdFilter, current_trace_id
    from .log import LogObserver
    from .observer import Observer, Propagator
    from .otel import OpenTelemetryObserver
    from .prometheus import PrometheusObserver
    from .records import (
        AttemptRecord,
        CallRecord,
        RequestContent,
        RetryRecord,
        RunRecord,
        ToolRecord,
    )
    from .timeline import TimelineObserver

__all__ = [
    "AttemptRecord",
    "CallRecord",
    "Cost",
    "LogObserver",
    "Observer",
    "OpenTelemetryObserver",
    "PrometheusObserver",
    "Propagator",
    "RequestContent",
    "RetryRecord",
    "RunRecord",
    "TimelineObserver",
    "ToolRecord",
    "TraceIdFilter",
    "current_trace_id",
]

# A public name -> the module that defines it.
_HOMES = {
    "AttemptRecord": ".records",
    "CallRecord": ".records",
    "Cost": "..result",
    "LogObserver": ".log",
    "Observer": ".observer",
    "OpenTelemetryObserver": ".otel",
    "PrometheusObserver": ".prometheus",
    "Propagator": ".observer",
    "RequestContent": ".records",
    "RetryRecord": ".records",
    "RunRecord": ".records",
    "TimelineObserver": ".timeline",
    "ToolRecord": ".records",
    "TraceIdFilter": ".context",
    "current_trace_id": ".context",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
