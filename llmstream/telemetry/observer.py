"""What observers and propagators implement, and the dispatcher that calls them."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from .._core.checks import shown
from .._runtime.threads import Local, Lock
from ..result import Result
from .records import (
    AttemptRecord,
    CallRecord,
    RequestContent,
    RetryRecord,
    RunRecord,
    ToolRecord,
)

__all__ = [
    "NO_HEADERS",
    "Dispatcher",
    "Hooks",
    "Levelled",
    "Listener",
    "Observer",
    "Propagator",
    "undisturbed",
]

T = TypeVar("T")

logger = logging.getLogger("llmstream")
logger.addHandler(logging.NullHandler())  # quiet unless the application has set up logging


class Observer(Protocol):
    """Observes calls: `Client(observers=[...])`. Any object with at least one of the `on_` methods
    is an observer. It does not have to inherit from this class. A missing method costs nothing.

    The methods are called in the thread that reads the stream, while it reads. They have to be
    quick, and thread-safe: one observer may serve many streams. For a stream that was dropped,
    `on_attempt`, `on_content` and `on_end` are called in a thread of their own, or in the main
    thread when the program ends. A forked child does not report the calls of its parent.

    Where an interrupt (Ctrl-C) comes in `on_start`, `on_attempt`, `on_retry`, `on_content` or
    `on_end`, the method is called once more with the same records, and after a second interrupt in
    a thread of its own. No method is called while the thread is in another one: of a call that an
    observer or a signal handler makes there, the observers are told afterwards.

    `call` is the record of the call's start, the same object in each call of a method. All times
    are milliseconds, `at_ms` since the call's start. What a method returns is ignored. An exception
    is logged once for each observer of a client, and goes no further. Async methods are refused
    with ConfigurationError when the client is made.
    """

    def wants(self, hook: str) -> bool:
        """Whether `hook` ("on_phase", ...) is to be called during the call that begins now. Asked
        once per call for each method that the observer has. Default: True."""
        return True

    def on_start(self, call: CallRecord) -> None:
        """The call begins."""

    def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
        """A phase begins: "connect", "tls", "send", "headers", "first_token", "body", "backoff",
        "throttled" or "poll"."""

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        """The first content of all attempts has arrived. Called at most once per call."""

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        """Content has arrived: `chunks` events in one read. `gap_ms` is the wait for the network
        since the content before, None for the first content of an attempt. The only method that is
        called often."""

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """An attempt has ended, with or without an error."""

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        """The attempt before has failed. Another one follows after a wait."""

    def on_content(self, call: CallRecord, request: RequestContent, result: Result) -> None:
        """The call has ended: what was asked, and the answer as far as it arrived. The only method
        that is given text: implement it only where there is a reason to keep text."""

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        """The call has ended."""

    def on_run_start(self, run: RunRecord) -> None:
        """A run (`Client.run`) begins. Its answers are calls, with the same trace id."""

    def on_tool_start(self, tool: ToolRecord) -> None:
        """A tool begins. Called in the tool's thread, in the context in which the tool then runs: a
        context variable that is set here holds in the tool, and nowhere else."""

    def on_tool_end(self, tool: ToolRecord, end: ToolRecord) -> None:
        """A call of a tool has its outcome. Called in the tool's thread; in the thread that reads
        the run for a call that was not run, whose start is not reported, and for one whose time is
        over. A tool that returns after its time has a second end, "late"."""

    def on_run_end(self, run: RunRecord, end: RunRecord) -> None:
        """The run has ended. Tools of it may still run."""


class Propagator(Protocol):
    """Adds headers to the requests of a call, so that a trace goes on at the service:
    `Client(observers=[...])`. One object may be a propagator and an observer. It is called in the
    thread that reads the stream and has to be thread-safe. An exception, and a name or value that
    HTTP cannot carry (RFC 9110, 5.1 and 5.5), is logged once; the request is sent without these
    headers."""

    def request_headers(self, call: CallRecord) -> Mapping[str, str]:
        """The headers of the call's next request, `traceparent` above all. Asked before each
        attempt. The caller's own headers win over these, and the key over both."""


_HOOKS = (
    "on_start",
    "on_phase",
    "on_first_token",
    "on_tokens",
    "on_attempt",
    "on_retry",
    "on_content",
    "on_end",
)
# Of runs. Looked up once for each run, so that calls pay nothing for them.
_RUN_HOOKS = ("on_run_start", "on_tool_start", "on_tool_end", "on_run_end")
# The library's own: as on_end, but only of a call that ends with an error. A log that takes no line
# of a success has it, so that of a success no record is made.
_ON_FAILURE = "_on_failure"
_PROPAGATE = "request_headers"
NO_HEADERS: dict[str, str] = {}
Listener = Callable[..., Any]
# The observer's `wants`, or how many before it answer all questions at once; one of its methods.
_Row = tuple["Listener | int | None", Listener]


class Levelled:
    """An observer of the library's own, which tells at once what it wants: three questions a call
    are cheaper than one for each hook. Asked instead of `wants`, but not of a subclass, which may
    override that."""

    def wanted(self) -> frozenset[str]:
        """The hooks that are to be called during the call that begins now."""
        raise NotImplementedError


class Hooks(dict[str, tuple[Listener, ...]]):
    """The listeners of each hook. Immutable.

    `anyone`: whether there is a listener. `successes`: whether there is one of more than retries
    and failures, so that the records of every call are needed.
    """

    __slots__ = ("anyone", "failure", "successes")

    def __init__(self, found: Mapping[str, tuple[Listener, ...]]) -> None:
        super().__init__({name: found[name] for name in _HOOKS})
        self.failure = found.get(_ON_FAILURE, ())
        self.successes = any(who for name, who in self.items() if name != "on_retry")
        self.anyone = self.successes or bool(self["on_retry"]) or bool(self.failure)


_MAX_ANSWERS = 64  # combinations of them that are remembered
_COROUTINE = 0x80  # inspect.CO_COROUTINE; importing inspect takes longer than all of this module


class Dispatcher:
    """A client's observers and propagators. Thread-safe."""

    def __init__(self, observers: Iterable[Any] = ()) -> None:
        """Raises TypeError for an object without any of the methods, and for async methods."""
        self._failed: set[int] = set()
        self._observers = tuple(observers)
        for observer in self._observers:
            _check(observer)
        self._rows = {name: tuple(self._rows_of(name)) for name in (*_HOOKS, _ON_FAILURE)}
        # Who is asked at each call whether it wants what; the listeners by the answers.
        self._levels = [one.wanted for one in self._observers if _is_levelled(one)]
        self._questions = [
            (row[0], name) for name, rows in self._rows.items() for row in rows if callable(row[0])
        ]
        self._by_answers: dict[tuple[Any, ...], Hooks] = {}
        self._propagators = _listeners(self._rows_of(_PROPAGATE))

    def _rows_of(self, name: str) -> Iterator[_Row]:
        levels = 0
        for observer in self._observers:
            levelled = _is_levelled(observer)
            listener = _own(observer, name)
            if listener is not None and (levelled or name != _ON_FAILURE):
                yield levels if levelled else _own(observer, "wants"), listener
            levels += levelled

    def hooks(self) -> Hooks:
        """The listeners of a call that begins now."""
        answers: tuple[Any, ...]
        try:
            answers = tuple([wanted() for wanted in self._levels])
        except Exception as exc:  # of a logger of the application's own
            self._complain(self._levels[0], exc)
            answers = (frozenset(),) * len(self._levels)
        if self._questions:
            answers += tuple([self._is_wanted(wants, name) for wants, name in self._questions])
        return self._by_answers.get(answers) or self._find(answers)

    def _find(self, answers: tuple[Any, ...]) -> Hooks:
        if len(self._by_answers) >= _MAX_ANSWERS:
            self._by_answers.clear()
        left = iter(answers[len(self._levels) :])
        found: dict[str, tuple[Listener, ...]] = {}
        for name, rows in self._rows.items():
            who = []
            for wants, listener in rows:
                if wants is None or (
                    name in answers[wants] if isinstance(wants, int) else next(left)
                ):
                    who.append(listener)
            found[name] = tuple(who)
        hooks = self._by_answers[answers] = Hooks(found)
        return hooks

    def run_hooks(self) -> dict[str, tuple[Listener, ...]]:
        """The listeners of a run that begins now, by hook."""
        rows = {name: [*self._rows_of(name)] for name in _RUN_HOOKS}
        if not any(rows.values()):
            return dict.fromkeys(_RUN_HOOKS, ())
        found: dict[str, tuple[Listener, ...]] = {}
        for name, listed in rows.items():
            found[name] = tuple(
                listener
                for wants, listener in listed
                if wants is None
                or (
                    self._is_wanted(wants, name)
                    if callable(wants)
                    else name in self._levels[wants]()
                )
            )
        return found

    def _is_wanted(self, wants: Listener, hook: str) -> bool:
        try:
            return bool(wants(hook))
        except Exception as exc:
            self._complain(wants, exc)
            return False

    def listens(self, hooks: Hooks) -> bool:
        """Whether anything of a call with these hooks is reported to anyone."""
        return hooks.anyone or bool(self._propagators)

    def follows(self, hooks: Hooks) -> bool:
        """Whether anything is reported to anyone before the call has failed, or if it does not."""
        return hooks.successes or bool(self._propagators)

    def notify(self, listeners: Iterable[Listener], *what: Any) -> None:
        """Call each listener. One that raises is logged once, and the others are called all the
        same. Raises the last BaseException that is not an Exception (Ctrl-C), after all calls.

        Where this thread is in a listener already (it makes a call, or a signal handler does), they
        are called after that one has returned: it may hold a lock that they need."""
        try:
            lock, later = _here.told
        except AttributeError:
            lock, later = _here.told = Lock(), deque()
        if lock.locked():
            later.append((self, listeners, what))
            return
        with lock:
            if later:
                _tell_later(later)
            try:
                self._notify(listeners, what)
            finally:
                if later:
                    _tell_later(later)

    def _notify(self, listeners: Iterable[Listener], what: tuple[Any, ...]) -> None:
        interrupt: BaseException | None = None
        for listener in listeners:
            try:
                listener(*what)
            except Exception as exc:
                self._complain(listener, exc)
            except BaseException as exc:
                interrupt = exc
        if interrupt is not None:
            raise interrupt

    def headers(self, call: Callable[[], CallRecord]) -> dict[str, str]:
        """The headers that the propagators add to the next request of a call; `call` returns the
        record of its start."""
        if not self._propagators:
            return NO_HEADERS
        merged: dict[str, str] = {}
        for propagate in self._propagators:
            try:
                merged.update(_sendable(propagate(call())))
            except Exception as exc:
                self._complain(propagate, exc)
        return merged

    def _complain(self, listener: Listener, exc: Exception) -> None:
        observer = getattr(listener, "__self__", listener)
        if id(observer) in self._failed:
            return
        self._failed.add(id(observer))
        with contextlib.suppress(Exception):  # a filter of the application may fail too
            logger.error(
                "the observer %s failed in %s (%s); the streams go on, and this is logged once",
                type(observer).__name__,
                getattr(listener, "__name__", "?"),
                type(exc).__name__,
                # Without this module's frame: its variables hold what was reported.
                exc_info=(type(exc), exc, exc.__traceback__ and exc.__traceback__.tb_next),
            )


# `told` of each thread: a lock that is held while the thread is in a listener (no other thread uses
# it), and what is told after that.
_here = Local()


def undisturbed(work: Callable[[], T]) -> T:
    """What `work` returns, which holds a lock that observers need. If a signal handler makes a call
    meanwhile, in this thread, the observers are told of it afterwards."""
    try:
        lock, later = _here.told
    except AttributeError:
        lock, later = _here.told = Lock(), deque()
    if lock.locked():
        return work()
    with lock:
        try:
            return work()
        finally:
            _tell_later(later)


def _tell_later(later: deque[tuple[Dispatcher, Iterable[Listener], tuple[Any, ...]]]) -> None:
    while later:
        dispatcher, listeners, what = later[0]
        dispatcher._notify(listeners, what)
        later.popleft()


def _listeners(rows: Iterable[_Row]) -> tuple[Listener, ...]:
    return tuple(listener for _, listener in rows)


def _check(observer: Any) -> None:
    names = (*_HOOKS, *_RUN_HOOKS, _PROPAGATE)
    if isinstance(observer, type) or not any(_own(observer, name) for name in names):
        raise TypeError(f"{shown(observer)} has none of the methods {', '.join(names)}")
    for name in (*names, "wants"):
        if _is_async(getattr(observer, name, None)):
            raise TypeError(f"{type(observer).__name__}.{name} is async, and would not be awaited")


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, 5.6.2


def _sendable(headers: Mapping[Any, Any]) -> dict[str, str]:
    """The headers with lower-case names. Raises ValueError for what HTTP cannot carry."""
    checked = {str(name).lower(): str(value) for name, value in headers.items()}
    for name, value in checked.items():
        if not _NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise ValueError(f"{name!r} or its value cannot be sent as a header")
    return checked


def _own(observer: Any, name: str) -> Listener | None:
    """The observer's method; None where it has none, or inherits the Protocol's, which does
    nothing."""
    method = getattr(observer, name, None)
    inherited = getattr(Observer, name, None) or getattr(Propagator, name, None)
    if not callable(method) or getattr(type(observer), name, None) is inherited:
        return None
    listener: Listener = method
    return listener


def _is_levelled(observer: Any) -> bool:
    return Levelled in type(observer).__bases__


def _is_async(method: Any) -> bool:
    return bool(getattr(getattr(method, "__code__", None), "co_flags", 0) & _COROUTINE)
