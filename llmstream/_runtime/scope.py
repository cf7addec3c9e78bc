"""The handle by which other threads stop a call: why it was stopped, its connection, its timers.

The reader's thread makes a call and waits for the network; the watchdog, `cancel()` and `close()`
stop it from other threads. Relies on `Timers` for the arithmetic and on a Scheduler (the watchdog)
to be called at the right moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, Protocol

from msgspec import Struct

from .._core.phase import ClockName, Phase
from .._core.timers import Timers
from .clock import Clock
from .fork import process_number
from .threads import RLock, is_finalizing

__all__ = ["NEVER", "CancelScope", "Connection", "Scheduler", "StopReason", "Stopped"]

NEVER = math.inf
_MAX_PHASES = 100  # of an attempt that are kept; one that polls for hours has more


class StopReason(Struct, frozen=True):
    """Why a call was stopped from outside: by a clock, or by a cancel and its reason."""

    clock: ClockName | None = None
    cancelled: bool = False
    reason: str | None = None


class Stopped(Exception):
    """The scope was stopped. Control flow between the parts of a call; it never leaves the library.

    It is deliberately not an OSError and not an error of urllib3: urllib3 would wrap it, and might
    retry.
    """


class Scheduler(Protocol):
    """Calls `CancelScope.tick` when it is due: the watchdog, or a test double. Thread-safe."""

    def schedule(self, scope: CancelScope, at: float, /) -> None:
        """Call `scope.tick` at `at` (monotonic seconds), or soon after."""

    def forget(self, scope: CancelScope, /) -> None:
        """The scope's call has ended: call `scope.tick` no more."""


class Connection(Protocol):
    """What a scope shuts down when it is stopped: a socket, as the scope knows it."""

    def shutdown(self) -> None:
        """End every wait on it at once. Any thread. Never blocks, never raises."""

    def release(self) -> None:
        """The scope no longer refers to it. Never raises."""


class CancelScope:
    """The handle of one call for other threads. The thread that makes the call is "the reader".

    The reader calls `begin_wait` before and `end_wait` after every wait for the network; any thread
    may `stop` the call.

    Attributes, written by the reader unless noted; any thread may read them:
        timers, clock: the call's clocks, and the clock that they are read on.
        stop_reason: why the call was stopped, or None. Written under the lock, by any thread.
        scheduled: when the scheduler calls `tick` next. Written by the scheduler.
        phase: the phase of the current attempt.
        phases: those of the current attempt so far, each with its begin; None: nobody is told.
        listener: called with each phase and its moment when it begins, or None.
        bytes: the number of bytes received since the request was sent; before that, from a proxy.
        eof: whether the end of the connection's stream was read.
        reused: whether the connection had served an earlier request.
        last_byte: the moment at which the last bytes arrived, or None.
        has_turn: whether the call has the turn of the gate (see `gate`). Any thread gives it.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_lock",
        "_pid",
        "_scheduler",
        "_shut",
        "_wake",
        "bytes",
        "clock",
        "eof",
        "has_turn",
        "last_byte",
        "listener",
        "phase",
        "phases",
        "reused",
        "scheduled",
        "stop_reason",
        "timers",
    )

    def __init__(self, timers: Timers, clock: Clock, scheduler: Scheduler) -> None:
        # Guards _connection, _shut, _ended, stop_reason. Reentrant: a signal handler may cancel in
        # the thread that holds it. Held in shutdown(), or the socket may be another stream's.
        self._lock = RLock()
        self._connection: Connection | None = None
        self._shut: Connection | None = None  # the one that was shut down
        self._ended = self.eof = self.reused = self.has_turn = False
        self._pid = process_number()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._scheduler = scheduler
        self.scheduled = NEVER
        self.timers = timers
        self.clock = clock
        self.stop_reason: StopReason | None = None
        self.phase = Phase.CONNECT
        self.phases: list[tuple[Phase, float]] | None = []
        self.listener: Callable[[str, float], None] | None = None
        self.bytes = 0
        self.last_byte: float | None = None

    # -- the reader's side

    def bind_to_process(self) -> None:
        """This process makes the call, whichever process has made the scope."""
        self._own_lock()
        self._pid = process_number()

    def begin(self) -> None:
        """A new attempt begins: the connect clock starts. Raises Stopped."""
        if self.stop_reason is not None:
            self.rearm()
        now = self.enter(Phase.CONNECT)
        self.bytes = 0
        self.eof = self.reused = False
        self.last_byte = None
        self._wait_until(self.timers.begin_connect(now), now)

    def enter(self, phase: Phase, at: float | None = None) -> float:
        """A phase begins, now or with the byte that arrived at the moment `at`. Returns the moment
        from which its wait counts: the listener's time is not the service's."""
        self.phase = phase
        if at is None:
            at = self.clock.monotonic()
        if self.phases is not None:
            at = _keep(self.phases, phase, at)
        if self.listener is None:
            return at
        self.listener(phase.value, at)
        return self.clock.monotonic()

    def sending(self) -> None:
        """The connection stands and the request is about to be sent: the first-token clock starts.
        Raises Stopped."""
        self._request_phase(Phase.SEND)

    def awaiting_response(self) -> None:
        """The request was sent: the first-token clock starts anew. Raises Stopped."""
        self._request_phase(Phase.HEADERS)

    def _request_phase(self, phase: Phase) -> None:
        now = self.enter(phase)
        self.bytes = 0
        self.last_byte = None
        self._wait_until(self.timers.begin_request(now), now)  # the wait for the connect is over

    def begin_wait(self) -> None:
        """The reader is about to wait for the network. Raises Stopped."""
        now = self.clock.monotonic()
        self._wait_until(self.timers.begin_wait(now), now)

    def _wait_until(self, at: float, now: float) -> None:
        """The wait that began at `now` ends at `at`, at the latest. Raises Stopped."""
        if self.stop_reason is not None:
            raise Stopped
        if at <= now:  # it has run out while the library worked on what had arrived
            self.tick(now)
            self.check()
        if at < self.scheduled:
            self._scheduler.schedule(self, at)

    def end_wait(self, received: int) -> None:
        """The wait is over; `received` bytes have arrived."""
        now = self.clock.monotonic()
        self.timers.end_wait(now, received=received > 0)
        if received:
            self.bytes += received
            self.last_byte = now

    def hand_over(self) -> None:
        """The caller gets what has arrived: its time is not the service's."""
        self.timers.hand_over(self.clock.monotonic())

    def check_clocks(self) -> None:
        """The reader works on what has arrived, and goes on. Raises Stopped if the scope was
        stopped or a clock has run out."""
        self.begin_wait()
        self.end_wait(0)

    def check(self) -> None:
        """Raises Stopped if the scope was stopped."""
        if self.stop_reason is not None:
            raise Stopped

    def pause(self, seconds: float | None) -> None:
        """Wait for `wake`, at most `seconds` (None: without a limit). May return early. Raises
        Stopped."""
        self.check()
        self.clock.wait(self._wake, seconds)
        self.check()

    def sleep(self, seconds: float, phase: Phase = Phase.BACKOFF) -> None:
        """Wait `seconds` between two attempts; only the total clock runs. Raises Stopped."""
        self.enter(phase)
        self.timers.back_off()
        if self.timers.at < self.scheduled:
            self._scheduler.schedule(self, self.timers.at)
        until = self.clock.monotonic() + seconds
        while (left := until - self.clock.monotonic()) > 0:
            self.pause(left)

    def attach(self, connection: Connection) -> None:
        """`connection` is the one to shut down from now on. Raises Stopped if the scope was stopped
        before."""
        self._replace(connection)
        self.check()

    def detach(self) -> None:
        """The call has no connection any more: another call may use it. Never raises."""
        if self._connection is not None:
            self._replace(None)

    def _replace(self, connection: Connection | None) -> None:
        with self._own_lock():
            before, self._connection, self._shut = self._connection, connection, None
        if before is not None:
            before.release()

    def rearm(self) -> bool:
        """Clear the stop reason, so that another attempt can be made. Returns whether that is
        possible: not after a cancel, and not after the hard deadline."""
        with self._lock:
            reason = self.stop_reason
            if reason is not None and (reason.cancelled or reason.clock is ClockName.TOTAL):
                return False
            self.stop_reason = None
            return True

    def finish(self) -> None:
        """The call has ended: it cannot be stopped any more. Idempotent."""
        with self._own_lock():
            self._ended = True
        self.detach()  # also where it has ended already: an interrupt may have come in between
        self._scheduler.forget(self)

    # -- any thread's side

    @property
    def forked(self) -> bool:
        """Whether this is a forked child, and not the process that makes the call."""
        return self._pid != process_number()

    def leave_to_parent(self) -> None:
        """In a forked child: the call goes on in the parent. Nothing here may touch its connection;
        who is in the middle of it gets Stopped."""
        self._lock = RLock()
        self._connection = self._shut = None
        self._ended = True
        self.scheduled = NEVER
        self.stop_reason = StopReason(cancelled=True, reason="the process was forked")

    def _own_lock(self) -> AbstractContextManager[Any]:
        """The lock. In a forked child, and when the interpreter ends, it is a new one: a thread
        that there is no more may hold the other one for ever."""
        if self.forked or is_finalizing():
            self._lock = RLock()
        return self._lock

    def stop(self, reason: StopReason) -> bool:
        """Stop the call; returns whether `reason` is now why it was stopped. Returns at once, never
        raises."""
        with self._own_lock():
            if self._ended:
                return False
            before = self.stop_reason
            # A cancel overrides a clock, after which the reader might make another attempt.
            if is_new := before is None or (reason.cancelled and not before.cancelled):
                self.stop_reason = reason
            # Also after an interrupt in here; not in a forked child: it is the parent's connection.
            if (wire := self._connection) is not self._shut and wire and not self.forked:
                wire.shutdown()
                self._shut = wire
        self._wake.put(None)
        return is_new

    def wake(self) -> None:
        """End a `pause`."""
        self._wake.put(None)

    def tick(self, now: float) -> float:
        """Stop the call if a clock has run out at `now`; returns the moment of the next `tick`."""
        with self._lock:
            if self._ended or self.stop_reason is not None:
                return NEVER
            clock = self.timers.expired(now)
            if clock is None:
                return self.timers.at
            self.stop(StopReason(clock=clock))
        return NEVER


def _keep(phases: list[tuple[Phase, float]], phase: Phase, at: float) -> float:
    """Add a phase that begins at `at`; returns the moment: not before the last one's."""
    if phases and at < phases[-1][1]:  # its bytes arrived with those of the last one
        at = phases[-1][1]
    if len(phases) < _MAX_PHASES:
        phases.append((phase, at))
    return at
