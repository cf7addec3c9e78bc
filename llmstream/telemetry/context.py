"""The trace id of the call that runs in this context, for the application's own log."""

from __future__ import annotations

import contextvars
import logging

__all__ = ["ActiveCall", "TraceIdFilter", "current_trace_id"]


class ActiveCall:
    """A call that runs in the context in which `enter` is called. Whichever thread ends the call
    sets `over`: whoever does that has this object before the context has it, or an interrupt in
    between would leave the call in the context for ever."""

    __slots__ = ("over", "trace_id")

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.over = False

    def enter(self) -> None:
        running = tuple(call for call in _active.get() if not call.over)
        _active.set((*running, self))


_active: contextvars.ContextVar[tuple[ActiveCall, ...]] = contextvars.ContextVar(
    "llmstream_active", default=()
)


def current_trace_id() -> str | None:
    """The trace id of the call that runs in the current context (PEP 567; each thread has its own).

    Of several calls it is the one that started last. Returns None outside of a call. A call runs
    from its stream's first use until its end. Thread-safe.
    """
    return next((call.trace_id for call in reversed(_active.get()) if not call.over), None)


class TraceIdFilter(logging.Filter):
    """Sets `trace_id` on log records that have none; "-" outside of a call.

    Add it to a handler, `handler.addFilter(TraceIdFilter())`, and write `%(trace_id)s` in the
    handler's format. It drops no record. Thread-safe.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "trace_id"):
            record.trace_id = current_trace_id() or "-"
        return True
