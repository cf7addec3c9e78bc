"""Tells how a call ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import Cancelled, LLMStreamError
from ..telemetry.reporter import Reporter
from .context import CallContext

__all__ = ["Telling"]


class Telling:
    """Tells how a call ended. An object of its own, since a deferred thread may do it after the
    call is gone. Called again after an interrupt, it tells what has not been told."""

    __slots__ = ("_cancel_response", "_ctx", "_error", "_last", "_reporter")

    def __init__(
        self,
        ctx: CallContext,
        error: LLMStreamError | None,
        cancel_response: Callable[[], None],
    ) -> None:
        self._ctx = ctx
        self._error = error
        self._cancel_response: Callable[[], None] | None = cancel_response
        failed = error is not None and not isinstance(error, Cancelled)
        reporter = self._reporter = ctx.failure_reporter() if failed else ctx.reporter
        done = ctx.meter.attempts[0]
        # None for a call that ended between two attempts
        self._last = done[-1] if reporter is not None and len(done) > reporter.attempts else None

    def __call__(self) -> None:
        try:
            if self._reporter is not None:
                self._report(self._reporter)
        finally:
            farewell, self._cancel_response = self._cancel_response, None
            if farewell is not None and isinstance(self._error, Cancelled):
                farewell()

    def _report(self, reporter: Reporter) -> None:
        try:
            for attempt in self._ctx.meter.attempts[0][reporter.attempts :]:
                self._ctx.report_attempt(attempt)
        finally:
            reporter.end(self._error, self._ctx.result, self._known)

    def _known(self) -> dict[str, Any]:
        """What the call's record has besides its attempts and its error."""
        ctx, last = self._ctx, self._last
        state, meter = ctx.session.state, ctx.meter
        return {
            "phase": ctx.scope.phase.value if last is None else last.phase,
            "status": getattr(self._error, "status", None) if last is None else last.status,
            "finish": state.finish,
            "request_id": ctx.request_id,
            "response_id": state.response_id,
            "response_model": state.model,
            "first_token_ms": meter.first_token_ms,
            "total_ms": meter.total_ms(meter.begun),
            "waited_ms": ctx.scope.timers.waited * 1000.0,
            "backoff_ms": meter.rested * 1000.0,
        }
