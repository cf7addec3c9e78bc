"""Stream, the caller's handle of one call, and the pump that pulls the call through its session in
the caller's thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ._core.classify import error_from_status, request_id_of
from ._core.deadline import Clocks, Timeouts
from ._core.dialects.base import AnyEvent, Dialect, WireRequest
from ._core.recovery import Step
from ._core.session import MAX_EVENT_BYTES, Session
from ._core.state import State, sort_calls
from .clock import Clock
from .errors import (
    Cancelled,
    ConfigurationError,
    ConnectTimeout,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    LLMStreamError,
    SilenceTimeout,
    StreamTimeout,
)
from .events.base import marked
from .observe import Active, Watch, random_id
from .result import Attempt, Chunk, Result, Service, Timings, ToolCall, Usage
from .transport import Exchange, Transport
from .watchdog import Guard, Scheduler, Stop, Stopped, later

__all__ = ["Batches", "Pump", "Run", "Stream"]

_ERROR_BODY = 65536  # bytes of an error's body that are read
_LINGER = 2.0  # seconds for the body of an error, or a page, to come
_SNIFF = 1200  # bytes of a foreign body that are read to show its beginning
_BLANK = b"\xef\xbb\xbf \t\r\n"  # white space, and the bytes of a BOM
_POLL_FIRST, _POLL_LONGEST = 0.5, 5.0  # seconds between two questions for an answer
_DRAIN_SECONDS = 0.05  # for the end of the body behind the end of the answer

_TWO_READERS = "this stream is being read by another thread: a stream has one reader"

T = TypeVar("T")
Select = Callable[["list[AnyEvent]", "Pump"], "list[T]"]
Batches = Generator[list[AnyEvent], None, None]


class Stream:
    """An answer that is on its way. Made by `Client.stream`; nothing is sent before its first use.

    Iterate it for the answer's text, or `chunks()`, or `events()`: one of the three, once, in one
    thread. `result()` reads the rest. Everything else may be called from any thread at any time.
    Used as a context manager, the call starts on entry and everything is freed on exit; leaving
    early is not an error. A stream that is dropped is freed.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._lease = _Lease(pump)
        self.trace_id = pump.trace_id
        self._claimed = ""
        self._view: Iterator[str] | None = None  # made by next(stream), not yet handed out

    def __repr__(self) -> str:
        return f"<Stream {self._pump.progress} trace_id={self.trace_id}>"

    # -- the three views

    def __iter__(self) -> Iterator[str]:
        """The answer's text, piece by piece."""
        if self._view is not None and self._claimed == "next()":
            self._claimed = "iteration"  # next(stream) came first: go on with it
            return self._view
        self._claim("iteration")
        return _View(_texts, self._pump, self._lease)

    def __next__(self) -> str:
        if self._view is None:
            self._claim("next()")
            self._view = _View(_texts, self._pump, self._lease)
        return next(self._view)

    def chunks(self) -> Iterator[Chunk]:
        """Every piece of the answer: text, thinking, refusal and tool call arguments."""
        self._claim("chunks()")
        return _View(_chunks, self._pump, self._lease)

    def events(self) -> Iterator[AnyEvent]:
        """Every event of the wire, typed, in order."""
        self._claim("events()")
        return _View(_events, self._pump, self._lease)

    def _claim(self, view: str) -> None:
        if view in ("iteration", "next()") and not self._pump.readable_as_text:
            raise ConfigurationError(
                "on_disconnect='restart' may begin the answer anew, and plain text could not tell "
                "you: iterate over chunks() (a chunk of type 'restart' says so) or events(), or "
                "use result()"
            )
        if self._claimed:
            raise ConfigurationError(
                f"this stream is already being read by {self._claimed}: a stream has one reader "
                "and one view. Keep the iterator (it = iter(stream)) to go on with it, or read "
                "the rest with result()"
            )
        self._claimed = view

    # -- reading to the end

    def result(self) -> Result:
        """Read the rest and return the whole answer. Raises what ended the stream otherwise;
        may be called again."""
        while self._pump.pull() is not None:
            pass
        return self._pump.snapshot()

    # -- what has arrived so far

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return self._pump.session.state.text

    @property
    def thinking(self) -> str:
        """The model's thinking so far, as far as the service shows it."""
        return self._pump.session.state.thinking

    @property
    def usage(self) -> Usage:
        """What the service has reported as used so far; most report at the end."""
        return self._pump.session.state.usage

    @property
    def state(self) -> State:
        """Response, items and content as they stand."""
        return self._pump.session.state

    @property
    def response_id(self) -> str | None:
        """The service's id of the response."""
        return self._pump.session.state.response_id

    @property
    def request_id(self) -> str | None:
        """The service's id of the latest request, for its support."""
        return self._pump.request_id

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The requests so far, the running one included."""
        return self._pump.attempts

    # -- ending it

    def cancel(self, reason: str | None = None) -> None:
        """End the call now, in whatever phase it is. The reader gets Cancelled, and nothing more
        is delivered. Returns at once; idempotent; no effect once the stream has ended. A background
        response is also cancelled at the service, by the reader's thread on its way out."""
        self._pump.guard.stop(Stop(cancelled=True, reason=reason))

    def close(self) -> None:
        """End the call if it still runs, and free everything it holds. Idempotent. A background
        response is cancelled at the service too, which may take up to 5 s."""
        self._pump.close()

    def __enter__(self) -> Stream:
        if not self._pump.started:
            self._pump.pull()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Lease:
    """Held by a stream and by its view: when the last of them is dropped, the call is freed. It
    refers to neither, and the pump to none of the three, so that needs no garbage collector."""

    __slots__ = ("_pump",)

    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            self._pump.close(dropped=True)


class _View(Generic[T]):
    """A view's iterator: what `select` makes of each batch of events, one by one.

    No generator: one that has failed would end well the next time.
    """

    __slots__ = ("_guard", "_items", "_lease", "_pump", "_select")

    def __init__(self, select: Select[T], pump: Pump, lease: _Lease) -> None:
        self._select = select
        self._pump = pump
        self._guard = pump.guard
        self._lease = lease
        self._items: Iterator[T] = iter(())

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._guard.stop_reason is None:
            for item in self._items:
                return item
        return self._further()

    def _further(self) -> T:
        pump = self._pump
        pump.take_turn()  # also while the batch is put in its place: a second reader loses none
        try:
            while True:
                if not pump.cancelled:  # nothing is delivered after a cancel, which is raised
                    for item in self._items:
                        return item
                batch = pump._next_batch()
                if batch is None:
                    raise StopIteration
                self._items = iter(self._select(batch, pump))
        finally:
            pump.end_turn()

    def close(self) -> None:
        """End the call, as a generator's `close` would (WSGI servers call it). Idempotent."""
        self._pump.close()


def _events(batch: list[AnyEvent], pump: Pump) -> list[AnyEvent]:
    return batch


def _chunks(batch: list[AnyEvent], pump: Pump) -> list[Chunk]:
    return [chunk for event in batch for chunk in event.chunks]


def _texts(batch: list[AnyEvent], pump: Pump) -> list[str]:
    only = pump.session.state.primary
    return [
        chunk.text
        for event in batch
        for chunk in event.chunks
        if chunk.type == "text" and (only is None or chunk.index == only)
    ]


class Run(Protocol):
    """How a call is made, attempt by attempt."""

    readable_as_text: bool
    service: Service  # who is asked

    def __call__(self, pump: Pump) -> Batches:
        """The retry loop: yields batches of events. Raises Stopped and the library's errors."""

    def watch(self, pump: Pump, begun: float) -> Watch | None:
        """The call begins: who is told of it."""

    def leave(self, pump: Pump) -> None:
        """The call was cancelled: let the service know, where it would go on. Never raises."""


class Pump:
    """The call behind a Stream: pulls its bytes through the session, attempt by attempt.

    `session` is the answer as the reader knows it, `latest` that of the current attempt, which may
    still have to take its place. Only the
    thread that holds the turn touches what is not said to be for any thread.
    """

    def __init__(
        self,
        run: Run,
        dialect: Dialect,
        timeouts: Timeouts,
        clock: Clock,
        scheduler: Scheduler,
        trace_id: str | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_identical_chunks: int | None = None,
    ) -> None:
        self.trace_id = trace_id or random_id(128)
        self.dialect = dialect
        self.guard = Guard(Clocks(timeouts, clock.monotonic()), clock, scheduler)
        self._limits = max_event_bytes, max_identical_chunks
        self.session = self._new_session(1)
        self.latest = self.session  # the one of the current attempt
        self._continues = False
        self.held = 0.0  # seconds that the attempt to come had to wait
        self.watch: Watch | None = None  # None: nobody wants to be told
        self._active: Active | None = None
        self._rested = 0.0  # seconds of waits between attempts
        self.request_id: str | None = None
        self._run = run
        self._timeouts = timeouts
        self._clock = clock
        self._turn = threading.Lock()  # held by the one thread that pulls
        self._batches: Batches | None = None  # None: not started
        self._over = False
        self._error: LLMStreamError | None = None
        # What the current attempt knows; read by snapshots in other threads.
        self._begun = 0.0
        self._ended: float | None = None
        self._attempt_begun = 0.0
        self._first_token: float | None = None
        self._first_of_all: float | None = None
        self._last_event: float | None = None
        self._last_token: float | None = None
        self._waited = 0.0  # by the clocks, when content came last
        self._longest_gap: float | None = None
        self._contents = 0  # of the session, before this attempt
        self._told_contents = 0  # of the session, before this batch
        self._used = Usage()  # what the service had reported before this attempt
        self._last: Attempt | None = None  # the one with which the call ended
        self._status: int | None = None
        self._history: tuple[tuple[Attempt, ...], bool] = ((), False)

    def _new_session(self, choices: int) -> Session:
        size, identical = self._limits
        return Session(self.dialect, size, choices, identical)

    # -- for any thread

    @property
    def readable_as_text(self) -> bool:
        return self._run.readable_as_text

    @property
    def started(self) -> bool:
        return self._batches is not None

    @property
    def progress(self) -> str:
        return "ended" if self._over else "running" if self.started else "not started"

    @property
    def cancelled(self) -> bool:
        stop = self.guard.stop_reason
        return stop is not None and stop.cancelled

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The requests so far, the running one included."""
        done, is_open = self._history  # one read: another thread may be recording
        return (*done, self._attempt(None, 0.0, len(done) + 1)) if is_open else done

    def close(self, *, dropped: bool = False) -> None:
        """End the call if it still runs, and free everything it holds. Idempotent. `dropped`: in
        a finalizer."""
        if self._over:
            return
        self.guard.stop(Stop(cancelled=True, reason="closed before the end"))
        # A reader in another thread wakes up and frees everything itself; it holds the turn.
        if self._turn.acquire(blocking=False):
            try:
                if not self._over:
                    self._end(None if self.session.complete else self.stopped(), dropped)
            finally:
                self._turn.release()

    # -- pulling

    def pull(self) -> list[AnyEvent] | None:
        """The next events (perhaps none), or None at the end. Raises what ended the stream."""
        self.take_turn()
        try:
            return self._next_batch()
        finally:
            self.end_turn()

    def take_turn(self) -> None:
        if not self._turn.acquire(blocking=False):
            raise ConfigurationError(_TWO_READERS)

    def end_turn(self) -> None:
        self._turn.release()

    def _next_batch(self) -> list[AnyEvent] | None:
        """What `pull` does, for the thread that has the turn."""
        if self._over:
            self.raise_again()
            return None
        error: LLMStreamError | None
        try:
            if self.cancelled:
                raise Stopped
            if self._batches is None:
                self._start()
                assert self._batches is not None
            batch = next(self._batches, None)
            if batch is not None:
                return batch
            error = None
        except Stopped:
            error = self.stopped()
        except LLMStreamError as exc:
            error = exc
        except BaseException:  # Ctrl-C above all: free the stream, and let it through
            self.guard.stop(Stop(cancelled=True, reason="interrupted"))
            self._end(self.stopped())
            raise
        self._end(error)
        self.raise_again()
        return None

    def raise_again(self) -> None:
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        self._begun = self._clock.monotonic()
        self.guard.claim()
        self.guard.clocks = Clocks(self._timeouts, self._begun)
        self._batches = self._run(self)
        self._active = Active(self.trace_id)
        self.watch = self._run.watch(self, self._begun)
        if self.watch is not None:
            self.guard.listener = self.watch.phase
            self.watch.start()

    def _end(self, error: LLMStreamError | None, dropped: bool = False) -> None:
        """Free everything, then let it be known how it ended."""
        if self._batches is not None:
            self._ended = self._clock.monotonic()
            self._batches.close()
        else:
            self._batches = _none()
        self.guard.over()
        if error is not None:
            self.session.state.join()  # what was held back is in .partial
        if self._attempt_open:
            self._last = self._close_attempt(error, 0.0)
        if error is not None:
            error.attempts = self._attempts
            error.trace_id = self.trace_id
            error.request_id = error.request_id or self.request_id
            error.partial = self.snapshot()
        self._error = error
        self._over = True
        if self._active is not None:
            self._active.over = True
            if self.guard.foreign:
                pass  # it is our parent's
            elif dropped:
                later(self._tell_the_end)
            else:
                self._tell_the_end()

    def _tell_the_end(self) -> None:
        error, watch = self._error, self.watch
        try:
            if watch is not None:
                try:
                    if self._last is not None:
                        watch.attempt(self._last, self.guard.phases)
                finally:
                    self._told(watch, error)
        finally:
            if isinstance(error, Cancelled):
                self._run.leave(self)

    def _told(self, watch: Watch, error: LLMStreamError | None) -> None:
        state, first, ended = self.session.state, self._first_of_all, self._ended or self._begun
        last = self._last  # None: it ended between two attempts
        watch.end(
            error,
            self.snapshot,
            phase=self.guard.phase if last is None else last.phase,
            status=getattr(error, "status", None) if last is None else last.status,
            finish=state.finish,
            request_id=self.request_id,
            response_id=state.response_id,
            response_model=state.model,
            first_token_ms=None if first is None else (first - self._begun) * 1000.0,
            total_ms=(ended - self._begun) * 1000.0,
            waited_ms=self.guard.clocks.waited * 1000.0,
            backoff_ms=self._rested * 1000.0,
        )

    # -- one attempt; called by the client's retry loop

    def attempt_events(self, transport: Transport, step: Step) -> Batches:
        """Send the request of `step` once and yield what comes, batch by batch; an empty batch (or
        the mark of the step) when the service has accepted it. Raises Stopped and what ended the
        attempt."""
        self._begin(step)
        if step.how == "poll":
            yield from self._poll(transport, step.request)
        else:
            yield from self._exchange(transport, step)
        if self.latest.error is not None:
            raise self.latest.error

    def _begin(self, step: Step) -> None:
        shown = self.session
        if step.how in ("resume", "poll"):
            session = shown
            session.resume()
        else:
            session = self._new_session(step.request.choices)
            if step.how == "continue":
                session.continue_from(shown)
                self._continues = True
            if step.how == "continue" or not shown.has_content:
                self.session = session
            # else what was shown stays readable until the service has accepted the new request
        self.latest = session
        self._attempt_begun = self._clock.monotonic()
        self._first_token = self._last_event = self._last_token = None
        self._longest_gap = None
        self._contents = self._told_contents = session.contents
        self._used = session.state.usage
        self._status = None
        self.request_id = None
        self.guard.phases = []
        self._history = (self._attempts, True)
        self.guard.clocks.resumed = session is shown and session.has_content

    def _exchange(self, transport: Transport, step: Step) -> Batches:
        session, guard = self.latest, self.guard
        guard.begin()
        exchange = transport.open(step.request, guard)
        try:
            self._opened(exchange)
            self.session = session
            yield [marked(step.mark, len(self._attempts) + 1)] if step.mark is not None else []
            yield from self._body(exchange, session)
        finally:
            self._close(exchange, session.complete)

    def _close(self, exchange: Exchange, whole: bool) -> None:
        try:
            if whole or not _is_success(exchange.status):
                # The body has been read, all but its end: keep the connection.
                self.guard.clocks.linger(_DRAIN_SECONDS)
                exchange.finish()
        finally:
            exchange.close()

    def _poll(self, transport: Transport, request: WireRequest) -> Batches:
        """Ask for the answer until it is whole. The idle clock (before the first content, the
        first-token clock) runs while it does not change."""
        session, guard = self.latest, self.guard
        clock = "idle" if session.has_content else "first_token"
        patience = getattr(self._timeouts, clock)
        before: int | None = None  # a hash: a traceback may show what is in sight
        changed = self._clock.monotonic()
        wait = _POLL_FIRST
        while True:
            guard.begin()
            exchange = transport.open(request, guard)
            whole = False
            try:
                self._opened(exchange)
                body = _read_all(exchange, self._limits[0], [])
                whole = True
            finally:
                self._close(exchange, whole)
            events = session.receive_json(body)
            if not session.unfinished:
                yield self._noted(session, events)
                return
            session.resume()
            now = self._clock.monotonic()
            if (known := hash(body)) != before:
                before, changed = known, now
            elif patience is not None and now - changed >= patience:
                guard.stop(Stop(clock=clock))
            body, events = b"", []
            guard.sleep(wait, "poll")
            wait = min(wait * 1.5, _POLL_LONGEST)

    def _opened(self, exchange: Exchange) -> None:
        guard = self.guard
        if guard.phase != "headers":  # a transport double that does not tell
            guard.asking("headers")
        guard.woke(0)
        self._status = exchange.status
        self.request_id = request_id_of(exchange.headers)
        if not _is_success(exchange.status):
            body = self._read_some(exchange, _ERROR_BODY)
            error = error_from_status(exchange.status, body, exchange.headers, self._clock.time())
            del body  # some servers quote the key in it, and tracebacks may show what is in sight
            raise error
        guard.enter("body" if guard.clocks.resumed else "first_token")

    def _body(self, exchange: Exchange, session: Session) -> Batches:
        first = _first_bytes(exchange)
        foreign = _foreign(exchange.headers.get("content-type", ""), first)
        if foreign == "JSON":
            pieces, first = [first], b""  # a traceback may show what is in sight
            body = _read_all(exchange, self._limits[0], pieces)
            yield self._noted(session, session.receive_json(body))
            return
        if foreign:
            session.refuse(first + self._read_some(exchange, _SNIFF - len(first)), foreign)
            return
        data = first
        while True:
            if data:
                events = self._noted(session, session.receive(data))
            else:
                session.receive_eof()
                events = []
            if events:
                yield events
            if session.ended:
                return
            first = data = b""  # a traceback may show what is in sight
            events = []
            data = self._read_on(exchange, session)

    def _read_on(self, exchange: Exchange, session: Session) -> bytes:
        if not session.linger:
            return exchange.read()
        # The answer, or its error, is known: whatever happens now is only the end.
        clocks = self.guard.clocks
        if clocks.phase_clock != "linger":  # again only after further content, not after pings
            clocks.linger(session.linger)
        try:
            return exchange.read()
        except (Stopped, LLMStreamError):
            return b""

    def _read_some(self, exchange: Exchange, limit: int) -> bytes:
        """A body for an error's message: what of it comes soon, at most about `limit` bytes."""
        body = b""
        self.guard.clocks.linger(_LINGER)
        try:
            while len(body) < limit and (data := exchange.read()):
                body += data
        except LLMStreamError:
            pass  # the status, or what came, is reason enough
        except Stopped:
            stop = self.guard.stop_reason
            if stop is not None and stop.clock != "linger":
                raise
        return body

    def _noted(self, session: Session, events: list[AnyEvent]) -> list[AnyEvent]:
        """Tell the clocks what came."""
        level = session.level
        if not events:
            return events
        guard = self.guard
        now = guard.last_byte
        if now is None:
            now = self._clock.monotonic()
        self._last_event = now
        session.level = 0
        if level > 1:
            self._content(now, session)
        if session.error is None:  # else only the end is waited for, and not for long
            if level > 1:
                guard.clocks.content()
            elif level:
                guard.clocks.progress()
        return events

    def _content(self, now: float, session: Session) -> None:
        waited = self.guard.clocks.waited
        gap = None
        if self._first_token is None:
            self._first_token = now
            if self.guard.phase != "body":
                self.guard.enter("body", now)
            if self._first_of_all is None:
                self._first_of_all = now
                if self.watch is not None:
                    self.watch.first_token(now)
        else:
            gap = waited - self._waited
            if self._longest_gap is None or gap > self._longest_gap:
                self._longest_gap = gap
        self._waited, self._last_token = waited, now
        if self.watch is not None and self.watch.tokens is not None:
            self.watch.tokens(now, gap, session.contents - self._told_contents)
            self._told_contents = session.contents

    @property
    def has_content(self) -> bool:
        """Whether content has come in this attempt."""
        return self._first_token is not None

    # -- records

    def _attempt(
        self, error: LLMStreamError | None, delay: float, number: int | None = None
    ) -> Attempt:
        now = self._ended if self._ended is not None else self._clock.monotonic()
        first = self._first_token
        guard = self.guard
        return Attempt(
            number=number or len(self._attempts) + 1,
            started=self._attempt_begun - self._begun,
            phase="done" if self.latest.complete and error is None else guard.phase,
            error=error,
            delay=delay,
            usage=_more(self.latest.state.usage, self._used),
            status=self._status,
            request_id=self.request_id,
            first_token_ms=None if first is None else (first - self._attempt_begun) * 1000.0,
            duration_ms=(now - self._attempt_begun) * 1000.0,
            bytes=guard.bytes,
            held=self.held,
            chunks=self.latest.contents - self._contents,
            longest_gap_ms=None if self._longest_gap is None else self._longest_gap * 1000.0,
            service_tier=self.latest.state.service_tier,
        )

    def record(self, error: LLMStreamError | None, delay: float, *, resent: bool = False) -> None:
        """The attempt has ended, and it is not the last."""
        attempt = self._close_attempt(error, delay, resent=resent)
        if self.watch is not None:
            self.watch.attempt(attempt, self.guard.phases)

    def _close_attempt(
        self, error: LLMStreamError | None, delay: float, *, resent: bool = False
    ) -> Attempt:
        self.guard.woke(0)  # what was waited for in vain
        attempt = self._attempt(error, delay)
        if error is not None:
            error.trace_id = self.trace_id
            error.request_id = error.request_id or self.request_id
        if resent:
            attempt = msgspec.structs.replace(attempt, resent=True)
        self._history = ((*self._attempts, attempt), False)
        self.held = 0.0
        return attempt

    def rest(self, seconds: float, phase: str) -> None:
        """Wait between two attempts. Raises Stopped."""
        since = self._clock.monotonic()
        try:
            self.guard.sleep(seconds, phase)
        finally:
            self._rested += self._clock.monotonic() - since

    def give_up(self, error: LLMStreamError, delay: float) -> None:
        """The attempt has failed, and another one follows. What it had brought stays readable."""
        self.record(error, delay)
        if self.watch is not None:
            self.watch.retry(delay)
        if self._first_token is not None:
            error.partial = self.snapshot()
        error.__traceback__ = None  # its frames hold the request, and it is kept

    @property
    def _attempts(self) -> tuple[Attempt, ...]:
        return self._history[0]

    @property
    def _attempt_open(self) -> bool:
        return self._history[1]

    def snapshot(self) -> Result:
        state = self.session.state
        cut = state.finish == "length"
        calls, broken = sort_calls(self.dialect.calls(state), cut, _is_json)
        attempts = self.attempts
        first = self._first_of_all
        end = self._ended if self._ended is not None else self._clock.monotonic()
        return Result(
            text=state.text,
            thinking=state.thinking,
            refusal=state.refusal,
            tool_calls=calls,
            incomplete_tool_calls=broken,
            finish=state.finish,
            usage=state.usage,
            items=tuple(item.wire() for item in state.in_order() if item.wire is not None),
            turn=self._turn_of(state, calls),
            model=state.model,
            response_id=state.response_id,
            request_id=self.request_id,
            trace_id=self.trace_id,
            attempts=attempts,
            timings=Timings(
                first_token_ms=None if first is None else (first - self._begun) * 1000.0,
                total_ms=(end - self._begun) * 1000.0 if attempts else 0.0,
                attempts=tuple(attempt.started * 1000.0 for attempt in attempts),
            ),
            service=self._run.service,
        )

    def _turn_of(self, state: State, calls: tuple[ToolCall, ...]) -> tuple[Any, ...]:
        if self._continues:  # plain text, of which the last request has brought the end only
            turn = {"type": "message"} if self.dialect.name == "responses" else {}
            whole = self.session.complete and state.text
            return ({**turn, "role": "assistant", "content": state.text},) if whole else ()
        return self.dialect.turn(state, frozenset(c.id for c in calls if c.id))

    def stopped(self) -> LLMStreamError:
        """The error of a guard that was stopped."""
        stop = self.guard.stop_reason or Stop(cancelled=True)
        started = self._attempt_open or self._attempts
        where = f"in phase {self.guard.phase!r}" if started else "before it began"
        if stop.cancelled:
            why = f": {stop.reason}" if stop.reason else ""
            return Cancelled(f"the call was cancelled {where}{why}", reason=stop.reason)
        cls, what, advice = _CLOCKS[stop.clock or ""]
        seconds = getattr(self._timeouts, cls.clock)
        return cls(
            f"{what} within {seconds:g} s (Timeouts.{cls.clock}), {where}; {self._since()}: "
            f"{advice}",
            seconds=seconds,
        )

    def _since(self) -> str:
        now = self._clock.monotonic()
        moments = (
            ("byte", self.guard.last_byte),
            ("event", self._last_event),
            ("token", self._last_token),
        )
        return ", ".join(
            f"no {name} yet" if at is None else f"last {name} {now - at:.1f} s ago"
            for name, at in moments
        )


# clock -> its error, what did not happen, what to do
_HALF = ".partial has what came"
_CLOCKS: dict[str, tuple[type[StreamTimeout], str, str]] = {
    "connect": (
        ConnectTimeout,
        "no connection",
        "check base_url, the network and the proxy, or allow more time",
    ),
    "first_token": (
        FirstTokenTimeout,
        "no content",
        "the service took the request and does not answer; a model that thinks long needs more",
    ),
    "idle": (IdleTimeout, "no progress", f"pings alone are no progress; {_HALF}"),
    "silence": (SilenceTimeout, "not one byte", f"the connection is probably dead; {_HALF}"),
    "total": (DeadlineExceeded, "no end", f"the hard deadline, retries included; {_HALF}"),
}


def _more(usage: Usage, before: Usage) -> Usage:
    """What the service has reported on top of what was known: an answer that is taken up again
    reports the whole of it."""
    if usage is before:
        return Usage()
    parts = ((n, getattr(usage, n), getattr(before, n) or 0) for n in Usage.__struct_fields__)
    return Usage(**{n: None if now is None else now - known for n, now, known in parts})


def _none() -> Batches:
    """What a call that was never made brings."""
    yield from ()


def _is_success(status: int) -> bool:
    return 200 <= status < 300


def _read_all(exchange: Exchange, limit: int, pieces: list[bytes]) -> bytes:
    """The rest of a body behind its first `pieces`, at most about `limit` bytes."""
    size = 0
    try:
        while size < limit and (data := exchange.read()):
            pieces.append(data)
            size += len(data)
    except BaseException:
        data = b""  # a traceback may show what is in sight
        pieces.clear()
        raise
    return b"".join(pieces)


def _first_bytes(exchange: Exchange) -> bytes:
    """The beginning of a body, up to something that can be seen: some servers send white space to
    keep a connection alive before they know what they will answer."""
    first = exchange.read()
    while not first.strip(_BLANK) and len(first) < _SNIFF and (more := exchange.read()):
        first += more
    return first


def _foreign(content_type: str, first: bytes) -> str:
    """What a success status brought instead of an event stream ("" where it is one).

    By the first byte, since labels are often wrong: no line of an event stream begins so.
    """
    start = first.lstrip(_BLANK)[:1]
    if start in (b"{", b"["):
        return "JSON"
    if start == b"<" or content_type.lower().startswith("text/html"):
        return "an HTML page"
    return ""


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
