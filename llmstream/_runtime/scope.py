"""The handle by which other threads end a call: why it was stopped, its socket, its timers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from msgspec import Struct

from .._core.phase import ClockName, Phase
from .._core.timers import Timers
from .clock import Clock
from .threads import RLock

__all__ = ["NEVER", "CancelScope", "Connection", "Scheduler", "StopReason", "Stopped"]

NEVER = math.inf
_MOST_PHASES = 100  # kept of an attempt; one that polls for hours has more


class StopReason(Struct, frozen=True):
    """Why a stream was ended from outside: a clock's name, or a cancel and its reason."""

    clock: ClockName | None = None
    cancelled: bool = False
    reason: str | None = None


class Stopped(Exception):
    """Control flow between the edge's parts: the scope was stopped. Never leaves the library.

    No OSError and no urllib3 error on purpose: urllib3 would wrap it, and might retry.
    """


class Scheduler(Protocol):
    """Who calls `CancelScope.tick` when it is time. Thread-safe."""

    def schedule(self, scope: CancelScope, at: float) -> None:
        """Call `scope.tick` at `at` (monotonic seconds), or soon after."""

    def forget(self, scope: CancelScope) -> None:
        """The scope's stream is over."""


class Connection(Protocol):
    """What a scope shuts."""

    def shutdown(self) -> None:
        """End every wait on it now. Never blocks, never raises, in any thread."""

    def release(self) -> None:
        """The scope lets go of it. Never raises."""


class CancelScope:
    """One call's handle for other threads. Its own thread is "the reader".

    The reader brackets every wait for the network with `begin_wait` and `end_wait`; any thread may `stop`.
    """

    __slots__ = (
        "_connection",
        "_lock",
        "_over",
        "_pid",
        "_scheduler",
        "_wake",
        "bytes",
        "clock",
        "eof",
        "last_byte",
        "listener",
        "phase",
        "phases",
        "reused",
        "scheduled",
        "stop_reason",
        "timers",
    )

    def __init__(self, clocks: Timers, clock: Clock, scheduler: Scheduler) -> None:
        # Guards _connection, _over and the setting of stop_reason. Reentrant, because a signal
        # handler or a finalizer may cancel in the thread that holds it. shutdown() is called under
        # it: it does not block, and the socket must not pass to another stream meanwhile.
        self._lock = RLock()
        self._connection: Connection | None = None
        self._over = False
        self._pid = os.getpid()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._scheduler = scheduler
        self.scheduled = NEVER  # when the scheduler will look next; written by the scheduler
        self.timers = clocks
        self.clock = clock
        self.stop_reason: StopReason | None = None
        # What the reader knows of the current attempt, and who is told when a phase begins.
        self.phase = Phase.CONNECT
        self.phases: list[tuple[str, float]] = []
        self.listener: Callable[[str, float], None] | None = None
        self.bytes = 0
        self.eof = False
        self.reused = False
        self.last_byte: float | None = None

    # -- the reader's side

    def bind_to_process(self) -> None:
        """The call is made in this process, whichever one has made the scope."""
        self._own_process()
        self._pid = os.getpid()

    def begin(self) -> None:
        """A new attempt: the connect clock starts. Raises Stopped."""
        self.rearm()
        self.enter(Phase.CONNECT)
        self.bytes = 0
        self.eof = self.reused = False
        self.last_byte = None
        self.timers.connecting()
        self.begin_wait()

    def enter(self, phase: Phase, at: float | None = None) -> None:
        """A phase begins, now or with the byte that came `at`."""
        self.phase = phase
        now = self.clock.monotonic() if at is None else at
        if self.phases and now < self.phases[-1][1]:  # it came with the bytes of the one before
            now = self.phases[-1][1]
        if len(self.phases) < _MOST_PHASES:
            self.phases.append((phase.value, now))
        if self.listener is not None:
            self.listener(phase.value, now)

    def sending(self) -> None:
        """The connection is there and the request goes out: the first-token clock starts. Raises
        Stopped."""
        self._request_phase(Phase.SEND)

    def awaiting_response(self) -> None:
        """The request is out: the first-token clock starts anew. Raises Stopped."""
        self._request_phase(Phase.HEADERS)

    def _request_phase(self, phase: Phase) -> None:
        self.enter(phase)
        self.bytes = 0
        self.last_byte = None
        self.timers.requesting()
        self.begin_wait()

    def begin_wait(self) -> None:
        """The reader is about to wait for the network. Raises Stopped."""
        if self.stop_reason is not None:
            raise Stopped
        at = self.timers.begin_wait(self.clock.monotonic())
        if at < self.scheduled:
            self._scheduler.schedule(self, at)

    def end_wait(self, received: int) -> None:
        """The wait is over and brought `received` bytes."""
        now = self.clock.monotonic()
        self.timers.end_wait(now, received=received > 0)
        if received:
            self.bytes += received
            self.last_byte = now

    def check(self) -> None:
        """Raises Stopped."""
        if self.stop_reason is not None:
            raise Stopped

    def pause(self, seconds: float | None) -> None:
        """Wait for a `wake`, at most `seconds`; may return early. Raises Stopped."""
        self.check()
        self.clock.wait(self._wake, seconds)
        self.check()

    def sleep(self, seconds: float, phase: Phase = Phase.BACKOFF) -> None:
        """Wait out a backoff; only the total clock runs. Raises Stopped."""
        self.enter(phase)
        self.timers.back_off()
        if self.timers.at < self.scheduled:
            self._scheduler.schedule(self, self.timers.at)
        until = self.clock.monotonic() + seconds
        while (left := until - self.clock.monotonic()) > 0:
            self.pause(left)

    def attach(self, connection: Connection) -> None:
        """The connection to shut from now on. Raises Stopped where it is too late for it."""
        self._replace(connection)
        self.check()

    def detach(self) -> None:
        """No connection of ours any more: another stream may get it now. Never raises."""
        self._replace(None)

    def _replace(self, connection: Connection | None) -> None:
        with self._lock:
            before, self._connection = self._connection, connection
        if before is not None:
            before.release()

    def rearm(self) -> bool:
        """A clock ended the attempt, not the call: go on with the next attempt; whether that is
        possible (not after a cancel, nor past the hard deadline)."""
        with self._lock:
            reason = self.stop_reason
            if reason is not None and (reason.cancelled or reason.clock is ClockName.TOTAL):
                return False
            self.stop_reason = None
            return True

    def finish(self) -> None:
        """The call has ended: nothing can stop it any more. Idempotent."""
        self._own_process()
        with self._lock:
            if self._over:
                return
            self._over = True
        self.detach()
        self._scheduler.forget(self)

    # -- any thread's side

    @property
    def forked(self) -> bool:
        """In a forked child, which is not the one that makes the call."""
        return self._pid != os.getpid()

    def _own_process(self) -> None:
        """In a forked child the lock may be held, for ever, by a thread that is not there."""
        if self.forked:
            self._lock = RLock()

    def stop(self, reason: StopReason) -> bool:
        """End the call; whether this was what ended it. Returns at once, never raises."""
        self._own_process()
        with self._lock:
            before = self.stop_reason
            # A cancel also overrules a clock, which the reader might answer with a new attempt.
            if self._over or (before is not None and (before.cancelled or not reason.cancelled)):
                return False
            self.stop_reason = reason
            # Not from a forked child: the connection is its parent's too.
            if self._connection is not None and self._pid == os.getpid():
                self._connection.shutdown()
        self._wake.put(None)
        return True

    def wake(self) -> None:
        """End a `pause`."""
        self._wake.put(None)

    def tick(self, now: float) -> float:
        """Stop the call if a clock is broken; returns when to look again."""
        with self._lock:
            if self._over or self.stop_reason is not None:
                return NEVER
            clock = self.timers.expired(now)
            if clock is None:
                return self.timers.at
            self.stop(StopReason(clock=clock))
        return NEVER
