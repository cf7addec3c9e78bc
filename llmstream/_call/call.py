"""One call: it starts once, has one reader, ends once, frees what it holds, then tells."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from .._core.timers import Timers
from .._runtime.deferred import defer
from .._runtime.frames import forget_variables
from .._runtime.scope import Stopped, StopReason
from .._runtime.threads import Lock
from ..errors import Cancelled, ConfigurationError, LLMStreamError
from ..events.base import AnyEvent
from ..result import Attempt
from ..telemetry.context import ActiveCall
from ..telemetry.reporter import Reporter
from .context import CallContext
from .exchange import EventBatches
from .retrying import Retrying

__all__ = ["Call", "Progress"]

_TWO_READERS = "this stream is being read by another thread: a stream has one reader"


class Progress(Enum):
    """How far a call is."""

    NEW = "not started"
    RUNNING = "running"
    ENDED = "ended"


_ENDED = Progress.ENDED


class Call:
    """One call. Unless marked "any thread", members may be used only by the thread that holds the
    reader lock. `begin_report` makes the reporter of a call that begins at a moment.
    """

    def __init__(
        self,
        ctx: CallContext,
        retrying: Retrying,
        begin_report: Callable[[float], Reporter | None],
    ) -> None:
        self.ctx = ctx  # any thread, to read
        self._scope = ctx.scope
        self.readable_as_text = retrying.readable_as_text  # any thread, to read
        self._retrying: Retrying | None = retrying  # None: ended, and the request let go
        self._begin_report: Callable[[float], Reporter | None] | None = begin_report
        self._reader = Lock()  # held by the one thread that reads
        self._batches: EventBatches | None = None
        self._active: ActiveCall | None = None
        self._error: LLMStreamError | None = None
        self.progress = Progress.NEW  # any thread, to read

    # -- any thread

    @property
    def ended(self) -> bool:
        return self.progress is _ENDED

    def cancel(self, reason: str | None) -> None:
        """End the call with Cancelled, in whatever phase it is. Returns at once, never raises."""
        self.ctx.scope.stop(StopReason(cancelled=True, reason=reason))

    def close(self, *, dropped: bool = False) -> None:
        """End the call if it still runs, and free everything it holds. Idempotent. `dropped`: in
        a finalizer."""
        if self.ended:
            return
        self.cancel("closed before the end")
        # A reader in another thread holds the lock: it wakes up and frees everything itself.
        if self._reader.acquire(blocking=False):
            try:
                if not self.ended:
                    complete = self.ctx.session.complete
                    self._end(None if complete else self.ctx.stop_error(), dropped)
            finally:
                self._reader.release()

    def acquire_reader(self) -> None:
        """Take the reader lock. Raises ConfigurationError where another thread has it."""
        if not self._reader.acquire(blocking=False):
            raise ConfigurationError(_TWO_READERS)

    def release_reader(self) -> None:
        self._reader.release()

    def pull(self) -> list[AnyEvent] | None:
        """The next events (perhaps none), or None at the end. Raises what ended the call."""
        self.acquire_reader()
        try:
            return self.next_batch()
        finally:
            self.release_reader()

    # -- the reader

    def next_batch(self) -> list[AnyEvent] | None:
        """What `pull` does, for the thread that holds the reader lock."""
        if self.progress is _ENDED:
            self._raise_again()
            return None
        error: LLMStreamError | None
        try:
            if self._scope.stop_reason is not None and self.ctx.cancelled:
                raise Stopped
            if self._batches is None:
                self._start()
                assert self._batches is not None
            batch = next(self._batches, None)
            if batch is not None:
                return batch
            error = None
        except Stopped:
            error = self.ctx.stop_error()
        except LLMStreamError as exc:
            error = exc
        except BaseException as exc:  # Ctrl-C above all: free the stream, and let it through
            forget_variables(exc)
            self.cancel("interrupted")
            self._end(self.ctx.stop_error())
            raise
        self._end(error)
        self._raise_again()
        return None

    def _raise_again(self) -> None:
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        ctx = self.ctx
        now = ctx.clock.monotonic()
        ctx.meter.begun = now
        ctx.scope.bind_to_process()
        ctx.scope.timers = Timers(ctx.timeouts, now)
        assert self._retrying is not None
        self._batches = self._retrying.batches()
        self.progress = Progress.RUNNING
        self._active = ActiveCall(ctx.trace_id)
        assert self._begin_report is not None
        ctx.reporter = self._begin_report(now)
        if ctx.reporter is not None:
            ctx.scope.listener = ctx.reporter.phase
            ctx.reporter.start()

    def _end(self, error: LLMStreamError | None, dropped: bool = False) -> None:
        """Free everything, then let it be known how the call ended."""
        ctx = self.ctx
        if self._batches is not None:
            ctx.meter.end(ctx.clock.monotonic())
            self._batches.close()
        ctx.scope.finish()
        if error is not None:
            forget_variables(error)
            ctx.session.flush()  # what was held back is in .partial
        last = ctx.end_attempt(error) if ctx.meter.attempts[1] else None
        if error is not None:
            ctx.seal(error)
        ctx.session.state.compact()
        self._error = error
        self.progress = Progress.ENDED
        retrying, self._retrying, self._begin_report = self._retrying, None, None
        assert retrying is not None
        if self._active is None:
            return  # it never started
        self._active.over = True
        if ctx.scope.forked:
            return  # the call is our parent's
        tell = _Telling(ctx, error, last, retrying.cancel_response)
        if dropped:
            defer(tell)
        else:
            tell()


class _Telling:
    """Tells how a call ended. An object of its own, since a deferred thread may do it after the
    call is gone. `last` is None for a call that ended between two attempts."""

    __slots__ = ("_cancel_response", "_ctx", "_error", "_last")

    def __init__(
        self,
        ctx: CallContext,
        error: LLMStreamError | None,
        last: Attempt | None,
        cancel_response: Callable[[], None],
    ) -> None:
        self._ctx = ctx
        self._error = error
        self._last = last
        self._cancel_response = cancel_response

    def __call__(self) -> None:
        try:
            if self._ctx.reporter is not None:
                self._report(self._ctx.reporter)
        finally:
            if isinstance(self._error, Cancelled):
                self._cancel_response()

    def _report(self, reporter: Reporter) -> None:
        try:
            if self._last is not None:
                self._ctx.report_attempt(self._last)
        finally:
            self._report_end(reporter)

    def _report_end(self, reporter: Reporter) -> None:
        ctx, error, last = self._ctx, self._error, self._last
        state, meter = ctx.session.state, ctx.meter
        reporter.end(
            error,
            ctx.result,
            phase=ctx.scope.phase.value if last is None else last.phase,
            status=getattr(error, "status", None) if last is None else last.status,
            finish=state.finish,
            request_id=ctx.request_id,
            response_id=state.response_id,
            response_model=state.model,
            first_token_ms=meter.first_token_ms,
            total_ms=meter.total_ms(meter.begun),
            waited_ms=ctx.scope.timers.waited * 1000.0,
            backoff_ms=meter.rested * 1000.0,
        )
