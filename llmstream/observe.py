"""What is told of a call while it runs: the records, the one Protocol of those who get them, the
lines of the log, and the trace id for the caller's own.

No record holds a prompt, an answer, a key or a header's value, nor the words of an error, in which
services like to quote them.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import json
import logging
import os
import random
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct

from .errors import Cancelled, LLMStreamError, ServiceError
from .result import Attempt, Result, Usage, total_usage

if TYPE_CHECKING:
    from ._core.dialects.base import Call

__all__ = [
    "AttemptRecord",
    "CallRecord",
    "Observer",
    "Observers",
    "RetryRecord",
    "TraceIdFilter",
    "Watch",
    "current_trace_id",
    "error_code",
]

logger = logging.getLogger("llmstream")
logger.addHandler(logging.NullHandler())  # quiet unless the application has set up logging


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """One request that was sent, or tried, and has ended.

    Times are milliseconds; `started_ms` and `phases` (name, begun) count from the start of the
    call, `total_ms` and `first_token_ms` from the start of the attempt. `outcome` is "success",
    "error" or "cancelled"; `phase` where it ended, "done" for a success; `error_type` the error's
    class, `error_code` the service's code (or type, or the HTTP status). `longest_gap_ms` is the
    longest wait for the network between two arrivals of content, without the time that the
    caller's own loop took. `chunks` counts events with content, `bytes` headers and body as they
    were received. `held_ms` is the wait before it that this host's and key's callers had been
    asked for, `wait_ms` the backoff planned after it. `usage` is None-filled where the service
    reported none.
    """

    trace_id: str
    api: str
    model: str
    host: str
    number: int
    outcome: str
    phase: str
    error_type: str | None = None
    error_code: str | None = None
    status: int | None = None
    request_id: str | None = None
    started_ms: float = 0.0
    total_ms: float = 0.0
    first_token_ms: float | None = None
    longest_gap_ms: float | None = None
    held_ms: float = 0.0
    wait_ms: float = 0.0
    usage: Usage = Usage()
    chunks: int = 0
    bytes: int = 0
    resent: bool = False
    phases: tuple[tuple[str, float], ...] = ()


class RetryRecord(Struct, frozen=True, kw_only=True):
    """Attempt number `attempt` has failed, another one follows after `wait_ms` (planned).

    `error_type`, `error_code`, `status` and `phase` say why.
    """

    attempt: int
    wait_ms: float
    error_type: str
    phase: str
    error_code: str | None = None
    status: int | None = None


class CallRecord(Struct, frozen=True, kw_only=True):
    """One call, as it begins (`outcome` "running") and as it has ended.

    `id` is unique in this process: the key under which an observer keeps what it knows of a call
    that runs. `started` is Unix time in seconds, everything else in milliseconds.
    `first_token_ms` is the first content of all attempts, `backoff_ms` what waits between attempts
    have taken, `waited_ms` the time spent waiting for the network, `usage` the sum of what the
    service reported for the attempts, a lower bound where one was cut. The other fields are as in
    AttemptRecord, over all attempts; `error_*`, `status` and `phase` are those of the end, and
    `reason` is what `cancel(reason)` was given.
    """

    id: int
    trace_id: str
    api: str
    model: str
    host: str
    port: int | None = None
    started: float = 0.0
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    outcome: str = "running"
    phase: str = "connect"
    finish: str | None = None
    error_type: str | None = None
    error_code: str | None = None
    status: int | None = None
    reason: str | None = None
    request_id: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    first_token_ms: float | None = None
    total_ms: float = 0.0
    waited_ms: float = 0.0
    backoff_ms: float = 0.0
    longest_gap_ms: float | None = None
    usage: Usage = Usage()
    chunks: int = 0
    bytes: int = 0
    attempts: tuple[AttemptRecord, ...] = ()
    retries: tuple[RetryRecord, ...] = ()


class Observer(Protocol):
    """Who is told. Any object with at least one of these methods; those it lacks cost nothing.

    They are called in the thread that reads the stream, while it does: be quick, and thread-safe,
    since one observer may serve many streams. (`on_attempt` and `on_end` of a stream that was
    dropped come in a thread of their own, at the end of a program in the main one.) `call` is the
    record of the call's start, the same object each time. An exception is logged once for each
    observer of a client, and goes no further.
    """

    def on_start(self, call: CallRecord) -> None:
        """The call begins."""

    def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
        """It has come to "connect", "tls", "send", "headers", "first_token", "body", "backoff",
        "held" or "poll", `at_ms` after its start."""

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        """The first content of all has come."""

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        """Content has come: `chunks` events with one read, after a wait of `gap_ms` for the
        network since the last (None for an attempt's first). The one method that is called often.
        """

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """An attempt has ended."""

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        """Another one follows, after a wait."""

    def on_content(self, call: CallRecord, request: Call, result: Result) -> None:
        """The call has ended; what was asked and answered. For those who have reason to see it."""

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        """The call has ended."""

    def request_headers(self, call: CallRecord) -> Mapping[str, str]:
        """Headers to send with every request of the call: `traceparent`, that is."""
        return {}


_MOMENTS = (
    "on_start",
    "on_phase",
    "on_first_token",
    "on_tokens",
    "on_attempt",
    "on_retry",
    "on_content",
    "on_end",
    "request_headers",
)
Listener = Callable[..., Any]
_ids = itertools.count(1)
_COROUTINE = 0x80  # inspect.CO_COROUTINE; importing inspect takes longer than all of this module


class Observers:
    """A client's observers, and the log, which is always one of them. Thread-safe."""

    def __init__(self, observers: Iterable[Any] = ()) -> None:
        """Raises TypeError for what cannot observe."""
        self._failed: set[int] = set()
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self.any = False
        everyone = tuple(observers)
        for observer in everyone:
            if isinstance(observer, type) or not any(_own(observer, name) for name in _MOMENTS):
                raise TypeError(f"{observer!r} has none of the methods {', '.join(_MOMENTS)}")
            self.any = True
            for name in _MOMENTS:
                if _is_async(getattr(observer, name, None)):
                    raise TypeError(f"{type(observer).__name__}.{name} is async: nobody awaits it")
        for name in _MOMENTS:
            found = (_own(observer, name) for observer in everyone)
            self._listeners[name] = tuple(listener for listener in found if listener is not None)

    def listeners(self, moment: str) -> tuple[Listener, ...]:
        return self._listeners[moment]

    def tell(self, listeners: Iterable[Listener], *what: Any) -> None:
        """Tell each of them; one that fails is logged once and harms nobody."""
        interrupt: BaseException | None = None
        for listener in listeners:
            try:
                listener(*what)
            except Exception as exc:
                self._complain(listener, exc)
            except BaseException as exc:  # Ctrl-C: the others are told all the same
                interrupt = exc
        if interrupt is not None:
            raise interrupt

    def headers(self, call: CallRecord) -> dict[str, str]:
        """What the observers want to be sent along."""
        merged: dict[str, str] = {}
        for listener in self._listeners["request_headers"]:
            try:
                merged.update(_sendable(listener(call)))
            except Exception as exc:
                self._complain(listener, exc)
        return merged

    def _complain(self, listener: Listener, exc: Exception) -> None:
        observer = getattr(listener, "__self__", listener)
        if id(observer) in self._failed:
            return
        self._failed.add(id(observer))
        with contextlib.suppress(Exception):  # an application's own filter may fail too
            logger.error(
                "the observer %s has failed in %s (%s); the streams go on, and this is said once",
                type(observer).__name__,
                getattr(listener, "__name__", "?"),
                type(exc).__name__,
                # Without our own frame, which holds what was told.
                exc_info=(type(exc), exc, exc.__traceback__ and exc.__traceback__.tb_next),
            )


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _sendable(headers: Mapping[Any, Any]) -> dict[str, str]:
    """With lower-case names. Raises ValueError for what HTTP could not carry."""
    checked = {str(name).lower(): str(value) for name, value in headers.items()}
    for name, value in checked.items():
        if not _NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise ValueError(f"{name!r} is no header, or its value is none")
    return checked


def _own(observer: Any, name: str) -> Listener | None:
    """The observer's method, unless it is the Protocol's own, which does nothing."""
    method = getattr(observer, name, None)
    if not callable(method) or getattr(type(observer), name, None) is getattr(Observer, name):
        return None
    listener: Listener = method
    return listener


def _is_async(method: Any) -> bool:
    return bool(getattr(getattr(method, "__code__", None), "co_flags", 0) & _COROUTINE)


class Watch:
    """What is told of one call. Used by the thread that reads it; other threads may look."""

    __slots__ = (
        "_attempts",
        "_begun",
        "_debug",
        "_ended",
        "_headers",
        "_observers",
        "_pid",
        "_request",
        "_retries",
        "call",
        "phase",
        "tokens",
    )

    def __init__(self, observers: Observers, call: CallRecord, request: Call, begun: float) -> None:
        self._observers = observers
        self._request = request
        self._begun = begun
        self._pid = os.getpid()
        self._attempts: list[AttemptRecord] = []
        self._retries: list[RetryRecord] = []
        self._debug = logger.isEnabledFor(logging.DEBUG)
        self.call = call
        # None where nobody listens.
        wanted = self._debug or observers.listeners("on_phase")
        self.phase: Callable[[str, float], None] | None = self._phase if wanted else None
        self.tokens: Callable[[float, float | None, int], None] | None = (
            self._tokens if observers.listeners("on_tokens") else None
        )
        self._headers: dict[str, str] = {}
        self._ended = False

    def start(self) -> None:
        """The call begins. On its own: the pump has to know of us before anybody is told."""
        self._tell("on_start", self.call)

    @property
    def _mine(self) -> bool:
        """Not in a forked child, which is not the one that makes the call."""
        return self._pid == os.getpid()

    def _tell(self, moment: str, *what: Any) -> None:
        listeners = self._observers.listeners(moment)
        if listeners and self._mine:
            self._observers.tell(listeners, *what)

    def _ms(self, at: float) -> float:
        return (at - self._begun) * 1000.0

    def headers(self) -> dict[str, str]:
        if not self._ended:  # behind it, the last ones: the observers have forgotten the call
            self._headers = self._observers.headers(self.call)
        return self._headers

    def _phase(self, phase: str, at: float) -> None:
        at_ms = self._ms(at)
        self._tell("on_phase", self.call, phase, at_ms)
        if self._debug:
            _log_phase(self.call, len(self._attempts) + 1, phase, at_ms)

    def first_token(self, at: float) -> None:
        self._tell("on_first_token", self.call, self._ms(at))

    def _tokens(self, at: float, gap: float | None, chunks: int) -> None:
        gap_ms = None if gap is None else gap * 1000.0
        self._tell("on_tokens", self.call, self._ms(at), gap_ms, chunks)

    def attempt(self, attempt: Attempt, phases: Iterable[tuple[str, float]]) -> None:
        call, error = self.call, attempt.error
        record = AttemptRecord(
            trace_id=call.trace_id,
            api=call.api,
            model=call.model,
            host=call.host,
            number=attempt.number,
            outcome=_outcome(error),
            phase=attempt.phase,
            error_type=None if error is None else type(error).__name__,
            error_code=error_code(error),
            status=attempt.status,
            request_id=attempt.request_id,
            started_ms=attempt.started * 1000.0,
            total_ms=attempt.duration_ms,
            first_token_ms=attempt.first_token_ms,
            longest_gap_ms=attempt.longest_gap_ms,
            held_ms=attempt.held * 1000.0,
            wait_ms=attempt.delay * 1000.0,
            usage=attempt.usage or Usage(),
            chunks=attempt.chunks,
            bytes=attempt.bytes,
            resent=attempt.resent,
            phases=tuple((name, self._ms(at)) for name, at in phases),
        )
        self._attempts.append(record)
        self._tell("on_attempt", call, record)

    def retry(self, delay: float) -> None:
        """After the last attempt that was told, another one follows."""
        last = self._attempts[-1]
        record = RetryRecord(
            attempt=last.number,
            wait_ms=delay * 1000.0,
            error_type=last.error_type or "",
            error_code=last.error_code,
            status=last.status,
            phase=last.phase,
        )
        self._retries.append(record)
        self._tell("on_retry", self.call, record)
        _log_retry(self.call, record)

    def end(self, error: LLMStreamError | None, result: Callable[[], Result], **known: Any) -> None:
        """The call has ended, `known` are further fields of its record."""
        if not self._mine:
            return
        attempts = tuple(self._attempts)
        self._ended = True
        gaps = [a.longest_gap_ms for a in attempts if a.longest_gap_ms is not None]
        end = msgspec.structs.replace(
            self.call,
            outcome=_outcome(error),
            error_type=None if error is None else type(error).__name__,
            error_code=error_code(error),
            reason=getattr(error, "reason", None),
            longest_gap_ms=max(gaps, default=None),
            usage=total_usage(a.usage for a in attempts),
            chunks=sum(a.chunks for a in attempts),
            bytes=sum(a.bytes for a in attempts),
            attempts=attempts,
            retries=tuple(self._retries),
            **known,
        )
        try:
            if self._observers.listeners("on_content"):
                self._tell("on_content", self.call, self._request, result())
        finally:
            try:
                self._tell("on_end", self.call, end)
            finally:
                _log_end(end)


def start_watch(
    observers: Observers,
    request: Call,
    *,
    begun: float,
    trace_id: str,
    **known: Any,
) -> Watch | None:
    """The watch over a call that begins now; None where nobody would be told."""
    if not observers.any and not logger.isEnabledFor(logging.WARNING):
        return None
    call = CallRecord(
        id=next(_ids),
        trace_id=trace_id,
        model=request.model,
        max_output_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        **known,
    )
    return Watch(observers, call, request, begun)


def _outcome(error: LLMStreamError | None) -> str:
    if error is None:
        return "success"
    return "cancelled" if isinstance(error, Cancelled) else "error"


_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def error_code(error: LLMStreamError | None) -> str | None:
    """The service's code of an error, else its type, else the HTTP status; None for errors that
    are not the service's. A code that is no plain word is "other": it may be anything."""
    if not isinstance(error, ServiceError):
        return None
    code = error.code or error.type or error.status
    if code is None:
        return None
    return str(code) if _CODE.fullmatch(str(code)) else "other"


# ---- the log -----------------------------------------------------------------------------------


def _log_end(end: CallRecord) -> None:
    level = logging.WARNING if end.outcome == "error" else logging.INFO
    if not logger.isEnabledFor(level):
        return
    usage = end.usage
    _log(
        level,
        "call ended",
        trace_id=end.trace_id,
        outcome=end.outcome,
        error_type=end.error_type,
        error_code=end.error_code,
        status=end.status,
        phase=end.phase,
        finish=end.finish,
        reason=end.reason,
        api=end.api,
        model=end.model,
        host=end.host,
        attempts=len(end.attempts),
        retries=len(end.retries),
        first_token_ms=end.first_token_ms,
        total_ms=end.total_ms,
        waited_ms=end.waited_ms,
        backoff_ms=end.backoff_ms,
        longest_gap_ms=end.longest_gap_ms,
        tokens_in=usage.input_tokens,
        tokens_out=usage.output_tokens,
        tokens_cached=usage.cached_tokens,
        tokens_reasoning=usage.reasoning_tokens,
        chunks=end.chunks,
        bytes=end.bytes,
        request_id=end.request_id,
        response_id=end.response_id,
    )


def _log_retry(call: CallRecord, retry: RetryRecord) -> None:
    if logger.isEnabledFor(logging.WARNING):
        _log(
            logging.WARNING,
            "call retried",
            trace_id=call.trace_id,
            attempt=retry.attempt,
            error_type=retry.error_type,
            error_code=retry.error_code,
            status=retry.status,
            phase=retry.phase,
            wait_ms=retry.wait_ms,
            api=call.api,
            model=call.model,
            host=call.host,
        )


def _log_phase(call: CallRecord, attempt: int, phase: str, at_ms: float) -> None:
    _log(logging.DEBUG, "phase", trace_id=call.trace_id, attempt=attempt, phase=phase, at_ms=at_ms)


def _log(level: int, what: str, **fields: Any) -> None:
    """One line: what, then name=value of all that is known; the same in `extra`."""
    known = " ".join(f"{name}={_shown(v)}" for name, v in fields.items() if v is not None)
    with contextlib.suppress(Exception):  # an application's own filter or handler may fail
        said = ("%s: %s", (what, known))
        record = logger.makeRecord(logger.name, level, __file__, 0, *said, None, "_log")
        # Not through extra=, which refuses a name that the application's record factory has set.
        vars(record).update(fields)
        logger.handle(record)


_PLAIN = re.compile(r"[^\s\"'=\\]+")


def _shown(value: Any) -> str:
    """A value as one word: what a caller or a service may have chosen breaks no line."""
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    return text if text.isprintable() and _PLAIN.fullmatch(text) else json.dumps(text)


# ---- the trace id for the caller's own log -------------------------------------------------------


# Of its own, since an application may seed the common one; no system call, since ids are no secret
# and every system call is a chance for a hundred other threads.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def random_id(bits: int) -> str:
    """In hex digits. Thread-safe; not the same in a forked child."""
    return f"{_random.getrandbits(bits):0{bits // 4}x}"


class Active:
    """A call that runs in this context. `over` is set from whatever thread ends it."""

    __slots__ = ("over", "trace_id")

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.over = False
        running = tuple(call for call in _active.get() if not call.over)
        _active.set((*running, self))


_active: contextvars.ContextVar[tuple[Active, ...]] = contextvars.ContextVar(
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
