"""The trace id of the call that runs in this context, for the caller's own log."""

from __future__ import annotations

import contextvars
import logging

__all__ = ["ActiveCall", "TraceIdFilter", "current_trace_id"]


class ActiveCall:
    """A call that runs in this context. `over` is set from whatever thread ends it."""

    __slots__ = ("over", "trace_id")

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.over = False
        running = tuple(call for call in _active.get() if not call.over)
        _active.set((*running, self))


_active: contextvars.ContextVar[tuple[ActiveCall, ...]] = contextvars.ContextVar(
    "llmstream_active", default=()
)


def current_trace_id() -> str | None:
    """The trace id of the call that runs in this context (thread), the latest if there are
    several; None outside of one. A call runs from its stream's first use until it ends."""
    return next((call.trace_id for call in reversed(_active.get()) if not call.over), None)


class TraceIdFilter(logging.Filter):
    """Sets `trace_id` on log records that have none: `handler.addFilter(TraceIdFilter())` and
    `%(trace_id)s` in its format ("-" outside of a call)."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "trace_id"):
            record.trace_id = current_trace_id() or "-"
        return True
