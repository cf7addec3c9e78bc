"""Doubles of clock and transport: a whole call with faults, waits and retries, in no time at all.

clock = FakeClock()
transport = FakeTransport(Reply.error(429, headers={"retry-after": "20"}), Answer("Hello"))
client = Client(base_url="http://test", transport=transport, clock=clock)

assert client.stream("Hi").result().text == "Hello"
assert 20 <= clock.monotonic() <= 25                    # and no second has passed
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from queue import Empty, SimpleQueue

from .._core.request import HTTPRequest
from .._runtime.scope import CancelScope
from ..errors import ConnectionFailed, StreamInterrupted
from .answers import api_of_path
from .script import (
    Cut,
    Drip,
    Entry,
    Headers,
    Pause,
    Pings,
    Recorded,
    Reply,
    Reset,
    Send,
    Silence,
    Step,
    expand,
    pieces,
)

__all__ = ["FakeClock", "FakeTransport"]

_NEVER = math.inf


class FakeClock:
    """Time that passes only when it is told to, or when the library waits for it.

    Given to a Client, it stands in for the machine's clock and for the watchdog: whenever time
    moves, streams whose clocks run out meanwhile are ended, in order. `slept` lists every wait
    in seconds (backoffs, that is). Thread-safe.
    """

    def __init__(self, start: float = 1000.0, unix: float = 1_800_000_000.0) -> None:
        self._lock = threading.RLock()  # guards what is below
        self._now = start
        self._offset = unix - start
        self._scopes: dict[int, tuple[float, CancelScope]] = {}
        self.slept: list[float] = []

    @property
    def scheduler(self) -> FakeClock:
        """The stand-in for the watchdog: the clock itself."""
        return self

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._now + self._offset

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        if seconds is None:
            # For another thread, and threads need real time; bounded, callers look again.
            with contextlib.suppress(Empty):
                bell.get(timeout=1.0)
            return
        try:
            bell.get(block=False)  # rung already: taken, as the machine's clock does
        except Empty:
            self.slept.append(seconds)
            self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        target = self._now + seconds
        while True:
            with self._lock:
                at, scope = min(
                    self._scopes.values(), key=lambda due: due[0], default=(_NEVER, None)
                )
                if scope is None or at > target:
                    self._now = target
                    return
                self._now = max(self._now, at)
                self.forget(scope)
            again = scope.tick(self._now)
            if again < _NEVER:
                self.schedule(scope, again)

    def schedule(self, scope: CancelScope, at: float) -> None:
        with self._lock:
            self._scopes[id(scope)] = (at, scope)
            scope.scheduled = at

    def forget(self, scope: CancelScope) -> None:
        with self._lock:
            self._scopes.pop(id(scope), None)
            scope.scheduled = _NEVER


class FakeTransport:
    """A transport that plays scripted replies in memory, in the vocabulary of LLMServer.

    Each request takes the next reply; `requests` records them (`headers`, `.json()`). Pauses,
    pings and drips move the FakeClock; Silence waits until one of the stream's clocks ends it, and
    raises AssertionError where none ever would: the stream would hang. Thread-safe.
    """

    def __init__(self, *replies: Entry) -> None:
        self._lock = threading.Lock()  # guards _replies and requests
        self._replies: deque[Entry] = deque(replies)
        self.requests: list[Recorded] = []
        self.closed = 0

    def script(self, *replies: Entry) -> None:
        """Add replies for the requests to come."""
        with self._lock:
            self._replies.extend(replies)

    def send(self, request: HTTPRequest, scope: CancelScope) -> _FakeExchange:
        recorded, entry = self._record(request, scope)
        if callable(entry):
            entry = entry(recorded)
        reply = entry if isinstance(entry, Reply) else Reply(entry)
        player = _Player(reply, api_of_path(recorded.path), scope)
        player.before()
        scope.awaiting_response()
        scope.end_wait(1)
        return _FakeExchange(reply, player, scope)

    def _record(self, request: HTTPRequest, scope: CancelScope) -> tuple[Recorded, Entry]:
        recorded = Recorded(
            method=request.method,
            path="/" + request.url.split("://", 1)[-1].partition("/")[2],
            headers=Headers(request.headers.items()),
            body=request.body,
            connection=1,
            received_at=scope.clock.monotonic(),
        )
        with self._lock:
            self.requests.append(recorded)
            if not self._replies:
                raise AssertionError(
                    f"FakeTransport has no reply for request number {len(self.requests)}: "
                    "script one more"
                )
            return recorded, self._replies.popleft()

    def close(self) -> None:
        self.closed += 1


class _Player:
    """Plays a reply's steps as pieces of a body, moving time."""

    def __init__(self, reply: Reply, api: str | None, scope: CancelScope) -> None:
        self._reply = reply
        self._scope = scope
        self._before = expand(reply.before, api)
        self._pieces = self._play(expand(reply.steps, api))

    def before(self) -> None:
        scope = self._scope
        scope.sending()
        self._pass(self._reply.delay)
        for step in self._before:
            if isinstance(step, (Cut, Reset)):
                raise ConnectionFailed("the connection was lost before any byte of the answer")
            for _ in self._play([step]):
                pass

    def next(self) -> bytes:
        scope = self._scope
        scope.begin_wait()
        data = b""
        try:
            data = next(self._pieces, b"")
        finally:
            scope.end_wait(len(data))
        return data

    def _play(self, steps: list[Step]) -> Iterator[bytes]:
        for step in steps:
            if isinstance(step, Cut):
                if step.last_chunk or self._reply.framing == "close":
                    return
                raise StreamInterrupted("the connection was lost in phase 'body'")
            if isinstance(step, Reset):
                raise StreamInterrupted("the connection was reset in phase 'body'")
            yield from self._pieces_of(step)

    def _pieces_of(self, step: Step) -> Iterator[bytes]:
        if isinstance(step, Send):
            yield step.data
        elif isinstance(step, Pause):
            self._pass(step.seconds)
        elif isinstance(step, Drip):
            for piece in pieces(step.data, step.size):
                self._pass(step.every)
                yield piece
        elif isinstance(step, Pings):
            for _ in range(step.count) if step.count is not None else iter(int, 1):
                self._pass(step.every)
                yield step.data
        elif isinstance(step, Silence):
            self._silence()

    def _pass(self, seconds: float) -> None:
        scope = self._scope
        clock = scope.clock
        if seconds and not isinstance(clock, FakeClock):
            raise AssertionError("a script with waits needs a FakeClock: Client(clock=...)")
        until = clock.monotonic() + seconds
        while isinstance(clock, FakeClock) and (left := until - clock.monotonic()) > 0:
            # In steps, so that time stands still at the moment that a clock breaks.
            clock.advance(min(left, max(0.0, scope.timers.at - clock.monotonic())))
            scope.check()
        scope.check()

    def _silence(self) -> None:
        scope = self._scope
        while True:
            at = scope.timers.at
            if at == _NEVER:
                raise AssertionError("no clock runs: this stream would hang for ever")
            self._pass(max(0.0, at - scope.clock.monotonic()))


class _FakeExchange:
    def __init__(self, reply: Reply, player: _Player, scope: CancelScope) -> None:
        self.status = reply.status
        given = {"content-type": reply.content_type, **reply.headers}
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in given.items() if value is not None
        }
        self._player = player
        self.finished = False

    def read(self) -> bytes:
        return self._player.next()

    def finish(self) -> None:
        self.finished = True

    def close(self) -> None:
        pass
