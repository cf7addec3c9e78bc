"""Observers of calls: what is reported to them, and the observers of this library.

    from llmstream import Client
    from llmstream.telemetry import PrometheusObserver

    client = Client(observers=[PrometheusObserver(models=["gpt-5.4-mini"])])

Importing this module imports no metrics, tracing or price library: each name is imported when it is
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..result import Cost
    from .context import TraceIdFilter, current_trace_id
    from .log import LogObserver
    from .observer import Observer, Propagator
    from .otel import OpenTelemetryObserver
    from .prometheus import PrometheusObserver
    from .records import AttemptRecord, CallRecord, RequestContent, RetryRecord
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
    "TimelineObserver",
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
    "TimelineObserver": ".timeline",
    "TraceIdFilter": ".context",
    "current_trace_id": ".context",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
