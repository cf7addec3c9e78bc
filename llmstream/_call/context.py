"""What the parts of one call share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._core.dialects.base import Dialect
from .._core.meter import Meter
from .._core.phase import ClockName, Phase
from .._core.session import Session
from .._core.state import State
from .._core.timers import Timeouts
from .._core.tool_calls import RunningCall, is_json, partition_calls
from .._runtime.clock import Clock
from .._runtime.scope import CancelScope, StopReason
from ..errors import (
    Cancelled,
    ConnectTimeout,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    LLMStreamError,
    OutputError,
    SilenceTimeout,
    StreamTimeout,
)
from ..result import Attempt, Result, Service, ToolCall, Usage, total_usage
from ..telemetry.reporter import Reporter

__all__ = ["CallContext"]


class CallContext:
    """The state of one call. The reader writes, any thread reads. It builds values from what it
    holds; it decides nothing and does no I/O.

    `session` is the answer as the reader knows it; `latest` is the answer of the current attempt,
    which may still have to take its place.
    """

    __slots__ = (
        "_dialect",
        "_service",
        "clock",
        "continued",
        "latest",
        "make_reporter",
        "meter",
        "output",
        "refused",
        "reporter",
        "request_id",
        "scope",
        "session",
        "status",
        "timeouts",
        "trace_id",
        "used",
        "value",
    )

    def __init__(
        self,
        session: Session,
        scope: CancelScope,
        timeouts: Timeouts,
        clock: Clock,
        dialect: Dialect,
        service: Service,
        trace_id: str,
    ) -> None:
        self._dialect = dialect
        self._service = service
        self.session = self.latest = session
        self.scope = scope
        self.timeouts = timeouts
        self.clock = clock
        self.trace_id = trace_id
        self.meter = Meter()
        # None: nobody wants to be told; or only of a failure, of which `make_reporter` makes one.
        self.reporter: Reporter | None = None
        self.make_reporter: Callable[[], Reporter] | None = None
        self.continued = False  # several requests have brought the text
        self.request_id: str | None = None
        self.status: int | None = None  # of the current attempt's response
        self.output: Any = None  # what the answer has to be: an `Output` of the core
        self.value: Any = None  # of the answer, once it has ended
        # What answers have used that do not count, because another one was asked for.
        self.used: tuple[Usage, ...] = ()
        self.refused: Session | None = None  # the latest of them

    @property
    def cancelled(self) -> bool:
        stop = self.scope.stop_reason
        return stop is not None and stop.cancelled

    # -- attempts

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The requests so far, the running one included."""
        done, is_open = self.meter.attempts
        return (*done, self._attempt(None, 0.0, number=len(done) + 1)) if is_open else done

    def end_attempt(
        self, error: LLMStreamError | None, delay: float = 0.0, *, resent: bool = False
    ) -> Attempt:
        """The current attempt has ended; `delay` seconds are waited before the next one."""
        self.scope.end_wait(0)  # what was waited for in vain
        attempt = self._attempt(error, delay, resent=resent)
        if error is not None:
            self._identify(error)
        self.meter.add(attempt)
        return attempt

    def failure_reporter(self) -> Reporter | None:
        """The reporter of a call of which an attempt has failed."""
        if self.reporter is None and self.make_reporter is not None:
            self.reporter = self.make_reporter()
        return self.reporter

    def report_attempt(self, attempt: Attempt) -> None:
        reporter = self.failure_reporter()
        if reporter is not None:
            reporter.attempt(attempt, self.scope.phases)

    def _attempt(
        self,
        error: LLMStreamError | None,
        delay: float,
        *,
        number: int | None = None,
        resent: bool = False,
    ) -> Attempt:
        session, scope = self.latest, self.scope
        done = session.complete and error is None
        return self.meter.attempt(
            self.clock.monotonic(),
            phase=(Phase.DONE if done else scope.phase).value,
            error=error,
            delay=delay,
            usage=session.state.usage,
            contents=session.contents,
            number=number,
            status=self.status,
            request_id=self.request_id,
            received=scope.bytes,
            resent=resent,
            service_tier=session.state.service_tier,
            media=session.state.media,
        )

    # -- the answer so far

    def running_calls(self, state: State, index: int) -> Sequence[RunningCall]:
        return self._dialect.running_calls(state, index)

    def result(self) -> Result:
        state = self.session.state
        cut = state.finish == "length"
        calls, broken = partition_calls(self._dialect.calls(state), cut, is_json)
        attempts = self.attempts
        return Result(
            text=state.text,
            thinking=state.thinking,
            refusal=state.refusal,
            tool_calls=calls,
            incomplete_tool_calls=broken,
            finish=state.finish,
            usage=self._usage(state) if self.used else state.usage,
            items=tuple(item.wire() for item in state.in_order() if item.wire is not None),
            turn=self._turn(state, calls),
            model=state.model,
            response_id=state.response_id,
            request_id=self.request_id,
            trace_id=self.trace_id,
            attempts=attempts,
            timings=self.meter.timings(self.clock.monotonic(), attempts),
            service=self._service,
            value=self.value,
        )

    def _turn(self, state: State, calls: tuple[ToolCall, ...]) -> tuple[Any, ...]:
        if self.continued:  # plain text, of which the last request has brought only the end
            whole = self.session.complete and state.text
            return (self._dialect.continued_turn(state.text),) if whole else ()
        return self._dialect.assistant_turn(state, frozenset(c.id for c in calls if c.id))

    def _usage(self, state: State) -> Usage:
        """What the call has used: with the answers that do not count."""
        counted = self.used if self.session is self.refused else (*self.used, state.usage)
        return total_usage(counted)

    def settle(self) -> OutputError | None:
        """The answer has ended: read the value that it has to be. Returns why it has none."""
        if self.output is None:
            return None
        from .._core.output import judged

        self.value, error = judged(self.output, self.session.state)
        return error

    def refuse(self) -> None:
        """The answer does not count: another one is asked for. It stays readable until the service
        has accepted that request."""
        self.refused = self.session
        self.used = (*self.used, self.session.state.usage)

    # -- errors

    def _identify(self, error: LLMStreamError) -> None:
        error.trace_id = self.trace_id
        error.request_id = error.request_id or self.request_id

    def seal(self, error: LLMStreamError) -> None:
        """Complete the error that ends the call: whose it is, what was tried, what arrived."""
        self._identify(error)
        error.attempts = self.meter.attempts[0]
        made = len(error.attempts)
        if made > 1:
            error.add(f"after {made} attempts")
        error.partial = self.result()

    def stop_error(self) -> LLMStreamError:
        """The error of a scope that was stopped."""
        scope = self.scope
        stop = scope.stop_reason or StopReason(cancelled=True)
        done, is_open = self.meter.attempts
        where = f"in phase {scope.phase!r}" if is_open or done else "before it began"
        if stop.cancelled:
            why = f": {stop.reason}" if stop.reason else ""
            return Cancelled(f"the call was cancelled {where}{why}", reason=stop.reason)
        cls, what, advice = _TIMEOUTS[stop.clock or ClockName.TOTAL]
        seconds = self.timeouts.seconds(cls.clock) or 0.0
        since = self.meter.since(self.clock.monotonic(), scope.last_byte)
        return cls(
            f"{what} within {seconds:g} s (Timeouts.{cls.clock}), {where}; {since}: {advice}",
            seconds=seconds,
        )


# clock -> its error, what did not happen, what to do
_HALF = ".partial has what arrived"
_TIMEOUTS: dict[ClockName, tuple[type[StreamTimeout], str, str]] = {
    ClockName.CONNECT: (
        ConnectTimeout,
        "no connection",
        "check base_url, the network and the proxy, or allow more time",
    ),
    ClockName.FIRST_TOKEN: (
        FirstTokenTimeout,
        "no content",
        "the service accepted the request and does not answer; a model that thinks long needs more",
    ),
    ClockName.IDLE: (IdleTimeout, "no progress", f"pings alone are not progress; {_HALF}"),
    ClockName.SILENCE: (
        SilenceTimeout,
        "not one byte",
        f"the connection is probably dead; {_HALF}",
    ),
    ClockName.TOTAL: (DeadlineExceeded, "no end", f"the hard deadline, retries included; {_HALF}"),
}
