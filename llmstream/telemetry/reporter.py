"""Reports one call to the observers while it runs."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from .._core.dialects.tools import structure_kinds
from .._core.phase import Phase
from .._core.request import Request
from .._runtime.deferred import defer
from .._runtime.fork import process_number
from .._runtime.ids import call_numbers
from .._runtime.threads import Lock
from ..errors import LLMStreamError
from ..result import Attempt, Result, Usage, total_usage
from .observer import NO_HEADERS, Dispatcher, Hooks, Listener
from .records import AttemptRecord, CallRecord, RequestContent, RetryRecord, error_code, outcome

__all__ = ["Reporter"]


_JSON = {"json_object", "json_schema"}  # types of a format
_Made = tuple[Attempt, tuple[tuple[Phase, float], ...]]  # an attempt and its phases


class Reporter:
    """Makes the records of one call, and passes them to the observers. Used by the thread that
    reads the call. `phase` and `tokens` are None where no observer has that hook, so that the
    reader can skip the work; and a record is made when there is someone to be given it. `known`
    are further fields of the call's record, as it begins."""

    __slots__ = (
        "_attempts",
        "_begun",
        "_call",
        "_dispatcher",
        "_elsewhere",
        "_ended",
        "_headers",
        "_hooks",
        "_known",
        "_made",
        "_pid",
        "_request",
        "_retries",
        "_untold",
        "phase",
        "tokens",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        hooks: Hooks,
        request: Request,
        begun: float,
        **known: Any,
    ) -> None:
        self._dispatcher = dispatcher
        self._hooks = hooks
        self._request: Request | None = request  # None: the call has ended
        self._begun = begun
        self._known = known
        self._pid = process_number()
        self._made: list[_Made] = []  # the attempts that were reported
        self._attempts: list[AttemptRecord] = []  # their records, as far as these are made
        self._retries: list[RetryRecord] = []
        self._call: CallRecord | None = None
        self._ended = False
        self._headers: dict[str, str] = NO_HEADERS
        self._untold: deque[_Told] | None = None  # what must be told and has not been
        self._elsewhere: _Elsewhere | None = None
        self.phase: Callable[[str, float], None] | None = None
        self.tokens: Callable[[float, float | None, int], None] | None = None
        if hooks.successes:
            self.phase = self._phase if hooks["on_phase"] else None
            self.tokens = self._tokens if hooks["on_tokens"] else None

    @property
    def call(self) -> CallRecord:
        """The record of the call's start: always the same one."""
        call = self._call
        if call is None:
            request = self._request
            assert request is not None
            call = self._call = CallRecord(
                id=next(call_numbers),
                model=request.model,
                max_output_tokens=request.max_output_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                output_type=_output_type(request),
                **self._known,
            )
        return call

    def start(self) -> None:
        """Report that the call begins. Not in the constructor: the call must have its reporter
        before an observer can look at the call."""
        if self._hooks["on_start"]:
            self._must_tell(self._hooks["on_start"], self.call)
            self.tell_rest()

    @property
    def records(self) -> bool:
        """Whether the records of all attempts are needed, with their phases."""
        return self._hooks.successes

    @property
    def attempts(self) -> int:
        """How many attempts were reported."""
        return len(self._made)

    @property
    def _mine(self) -> bool:
        """False in a forked child: the parent makes the call, and reports it."""
        return self._pid == process_number()

    def _notify(self, hook: str, *what: Any) -> None:
        listeners = self._hooks[hook]
        if listeners and self._mine:
            self._dispatcher.notify(listeners, *what)

    def _must_tell(self, listeners: tuple[Listener, ...], *what: Any) -> None:
        if not listeners:
            return
        if self._untold is None:
            self._untold = deque()
        self._untold.extend([_Told(listener, what) for listener in listeners])

    def tell_rest(self) -> None:
        """Tell the observers what they must be told, and have not been. One that an interrupt has
        cut short is told again: nobody knows how far it came. Where a second interrupt comes, it is
        told this, and all that follows, in another thread. Raises the interrupt, after all calls.
        """
        if not self._untold:
            return
        elsewhere = self._elsewhere
        interrupt: BaseException | None = None
        for told in tuple(self._untold) if self._mine else ():
            while told.times < _TIMES and (elsewhere is None or not elsewhere.takes(told)):
                try:
                    told.times += 1
                    self._dispatcher.notify(told.listeners, *told.what)
                    break
                except BaseException as exc:
                    interrupt = exc
            else:
                if elsewhere is None:
                    elsewhere = self._elsewhere = _Elsewhere()
                elsewhere.add(told)
            self._untold.remove(told)
        if elsewhere is not None and elsewhere.left:
            defer(partial(elsewhere.tell, self._dispatcher))
        if interrupt is not None:
            raise interrupt

    def _ms(self, at: float) -> float:
        return (at - self._begun) * 1000.0

    def headers(self) -> dict[str, str]:
        """The propagators' headers for the next request. After the call's end they are those of the
        last request: to the propagators the call is over."""
        if not self._ended:
            self._headers = self._dispatcher.headers(lambda: self.call)
        return self._headers

    def _phase(self, phase: str, at: float) -> None:
        self._notify("on_phase", self.call, phase, self._ms(at))

    def first_token(self, at: float) -> None:
        if self._hooks["on_first_token"]:
            self._notify("on_first_token", self.call, self._ms(at))

    def _tokens(self, at: float, gap: float | None, chunks: int) -> None:
        if self._mine:
            call, at_ms = self._call or self.call, (at - self._begun) * 1000.0
            gap_ms = None if gap is None else gap * 1000.0
            self._dispatcher.notify(self._hooks["on_tokens"], call, at_ms, gap_ms, chunks)

    def attempt(self, attempt: Attempt, phases: Iterable[tuple[Phase, float]] | None) -> None:
        """An attempt has ended. `phases` is None where they were not kept."""
        self._made.append((attempt, tuple(phases or ())))
        if self._hooks.successes:
            self._record_attempts()
            self.tell_rest()

    def _record_attempts(self) -> None:
        """Make the records of the attempts that have none."""
        for attempt, phases in self._made[len(self._attempts) :]:
            record = _record(self.call, self._begun, attempt, phases)
            self._must_tell(self._hooks["on_attempt"], self.call, record)
            self._attempts.append(record)

    def retry(self, delay: float) -> None:
        """After the attempt that was reported last another one follows, in `delay` seconds."""
        self._record_attempts()
        last = self._attempts[-1]
        record = RetryRecord(
            attempt=last.number,
            wait_ms=delay * 1000.0,
            error_type=last.error_type or "",
            error_code=last.error_code,
            status=last.status,
            phase=last.phase,
        )
        self._must_tell(self._hooks["on_retry"], self.call, record)
        self._retries.append(record)
        self.tell_rest()

    def end(
        self,
        error: LLMStreamError | None,
        result: Callable[[], Result],
        known: Callable[[], dict[str, Any]],
    ) -> None:
        """The call has ended. `result` is called only where an observer has on_content; `known`
        returns further fields of the call's record."""
        if not self._mine:
            return
        if not self._ended:
            if self._hooks.successes or (self._hooks.failure and outcome(error) == "error"):
                self._close(error, result, known())
            else:
                self._ended = True
                self._request = None
        self.tell_rest()

    def _close(
        self, error: LLMStreamError | None, result: Callable[[], Result], known: dict[str, Any]
    ) -> None:
        self._record_attempts()
        hooks, request = self._hooks, self._request
        end = msgspec.structs.replace(
            self.call,
            outcome=outcome(error),
            error_type=None if error is None else type(error).__name__,
            error_code=error_code(error),
            reason=getattr(error, "reason", None),
            retries=tuple(self._retries),
            **_sums(tuple(self._attempts)),
            **known,
        )
        try:
            if request is not None and hooks["on_content"]:
                content = RequestContent(request.prompt, request.instructions, request.tools)
                self._must_tell(hooks["on_content"], self.call, content, result())
        finally:
            self._must_tell(hooks["on_end"], self.call, end)
            if end.outcome == "error":
                self._must_tell(hooks.failure, self.call, end)
            self._ended = True
            self._request = None  # a kept stream does not keep its prompt


def _record(
    call: CallRecord, begun: float, attempt: Attempt, phases: Iterable[tuple[Phase, float]]
) -> AttemptRecord:
    error = attempt.error
    return AttemptRecord(
        trace_id=call.trace_id,
        api=call.api,
        model=call.model,
        host=call.host,
        number=attempt.number,
        outcome=outcome(error),
        phase=attempt.phase,
        error_type=None if error is None else type(error).__name__,
        error_code=error_code(error),
        status=attempt.status,
        request_id=attempt.request_id,
        started_ms=attempt.started_ms,
        total_ms=attempt.duration_ms,
        first_token_ms=attempt.first_token_ms,
        longest_gap_ms=attempt.longest_gap_ms,
        throttled_ms=attempt.throttled_ms,
        wait_ms=attempt.delay_ms,
        usage=attempt.usage or Usage(),
        chunks=attempt.chunks,
        bytes=attempt.bytes,
        resent=attempt.resent,
        phases=tuple([(phase._value_, (at - begun) * 1000.0) for phase, at in phases]),
    )


def _sums(attempts: tuple[AttemptRecord, ...]) -> dict[str, Any]:
    """What a call's record has of its attempts."""
    if len(attempts) == 1:
        (only,) = attempts
        return {
            "longest_gap_ms": only.longest_gap_ms,
            "usage": only.usage,
            "chunks": only.chunks,
            "bytes": only.bytes,
            "attempts": attempts,
        }
    gaps = [a.longest_gap_ms for a in attempts if a.longest_gap_ms is not None]
    return {
        "longest_gap_ms": max(gaps, default=None),
        "usage": total_usage(a.usage for a in attempts),
        "chunks": sum(a.chunks for a in attempts),
        "bytes": sum(a.bytes for a in attempts),
        "attempts": attempts,
    }


_TIMES = 2  # that the call's own thread tells one listener of one thing, at most


class _Elsewhere:
    """What another thread tells: to observers in which interrupts came again and again, in order,
    once more. Any thread."""

    __slots__ = ("_lock", "_observers", "left")

    def __init__(self) -> None:
        self.left: deque[_Told] = deque()
        self._observers: set[int] = set()
        self._lock = Lock()

    def takes(self, told: _Told) -> bool:
        return told.observer in self._observers

    def add(self, told: _Told) -> None:
        self._observers.add(told.observer)
        self.left.append(told)

    def tell(self, dispatcher: Dispatcher) -> None:
        with self._lock:
            while self.left:
                told = self.left[0]
                with contextlib.suppress(BaseException):  # there is nobody to raise it to
                    dispatcher.notify(told.listeners, *told.what)
                self.left.popleft()


class _Told:
    """What one listener must be told, and how often that was tried."""

    __slots__ = ("listeners", "times", "what")

    def __init__(self, listener: Listener, what: tuple[Any, ...]) -> None:
        self.listeners = (listener,)
        self.what = what
        self.times = 0

    @property
    def observer(self) -> int:
        (listener,) = self.listeners
        return id(getattr(listener, "__self__", listener))


def _output_type(request: Request) -> str | None:
    kinds = structure_kinds(request.extra_body) if request.extra_body else set()
    return None if request.output is None and kinds.isdisjoint(_JSON) else "json"
