"""One thread that enforces the clocks of all streams, by shutting their sockets.

A blocked read cannot be interrupted from outside in Python, but `shutdown()` of its socket ends it
at once, plain and TLS (closing does not: DESIGN, measured facts). So every stream has a Guard: it
knows the socket in use, which clock runs, and, once something ended the stream, the reason. The
reason is always recorded before the socket is shut, because on a close-delimited body the reader
cannot tell a shutdown from a clean end.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import itertools
import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from msgspec import Struct

from ._core.deadline import Clocks
from .clock import SYSTEM_CLOCK, Clock

__all__ = ["Guard", "Scheduler", "Stop", "Stopped", "Watchdog", "later", "shared_watchdog"]

_NEVER = math.inf
_PHASES = 100  # kept of an attempt; one that polls for hours has more


class Stop(Struct, frozen=True):
    """Why a stream was ended from outside: a clock's name, or a cancel and its reason."""

    clock: str | None = None
    cancelled: bool = False
    reason: str | None = None


class Stopped(Exception):
    """Control flow between the edge's parts: the guard was stopped. Never leaves the library.

    No OSError and no urllib3 error on purpose: urllib3 would wrap it, and might retry.
    """


class Scheduler(Protocol):
    """Who calls `Guard.tick` when it is time. Thread-safe."""

    def schedule(self, guard: Guard, at: float) -> None:
        """Call `guard.tick` at `at` (monotonic seconds), or soon after."""

    def forget(self, guard: Guard) -> None:
        """The guard's stream is over."""


class Guard:
    """One call's handle for other threads. Its own thread is "the reader".

    The reader brackets every wait for the network with `wait` and `woke`; any thread may `stop`.
    """

    __slots__ = (
        "_lock",
        "_over",
        "_own",
        "_pid",
        "_scheduler",
        "_sock",
        "_wake",
        "bytes",
        "clock",
        "clocks",
        "eof",
        "last_byte",
        "listener",
        "phase",
        "phases",
        "reused",
        "scheduled",
        "stop_reason",
    )

    def __init__(self, clocks: Clocks, clock: Clock, scheduler: Scheduler) -> None:
        # Guards _sock, _own, _over and the setting of stop_reason. Reentrant, because a signal
        # handler or a finalizer may cancel in the thread that holds it. shutdown() is called under
        # it: it does not block, and the socket must not pass to another stream meanwhile.
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self._own: socket.socket | None = None  # a duplicate that is ours to close
        self._over = False
        self._pid = os.getpid()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._scheduler = scheduler
        self.scheduled = _NEVER  # when the scheduler will look next; written by the scheduler
        self.clocks = clocks
        self.clock = clock
        self.stop_reason: Stop | None = None
        # What the reader knows of the current attempt, and who is told when a phase begins.
        self.phase = "connect"
        self.phases: list[tuple[str, float]] = []
        self.listener: Callable[[str, float], None] | None = None
        self.bytes = 0
        self.eof = False
        self.reused = False
        self.last_byte: float | None = None

    # -- the reader's side

    def claim(self) -> None:
        """The call is made in this process, whichever one has made the guard."""
        self._own_process()
        self._pid = os.getpid()

    def begin(self) -> None:
        """A new attempt: the connect clock starts. Raises Stopped."""
        self.revive()
        self.enter("connect")
        self.bytes = 0
        self.eof = self.reused = False
        self.last_byte = None
        self.clocks.connecting()
        self.wait()

    def enter(self, phase: str, at: float | None = None) -> None:
        """A phase begins, now or with the byte that came `at`."""
        self.phase = phase
        now = self.clock.monotonic() if at is None else at
        if self.phases and now < self.phases[-1][1]:  # it came with the bytes of the one before
            now = self.phases[-1][1]
        if len(self.phases) < _PHASES:
            self.phases.append((phase, now))
        if self.listener is not None:
            self.listener(phase, now)

    def asking(self, phase: str) -> None:
        """The connection stands (`phase` "send"), the request is out ("headers"): the first-token
        clock starts."""
        self.enter(phase)
        self.bytes = 0
        self.last_byte = None
        self.clocks.asking()
        self.wait()

    def wait(self) -> None:
        """The reader is about to wait for the network. Raises Stopped."""
        if self.stop_reason is not None:
            raise Stopped
        at = self.clocks.wait(self.clock.monotonic())
        if at < self.scheduled:
            self._scheduler.schedule(self, at)

    def woke(self, received: int) -> None:
        """The wait is over and brought `received` bytes."""
        now = self.clock.monotonic()
        self.clocks.woke(now, received=received > 0)
        if received:
            self.bytes += received
            self.last_byte = now

    def check(self) -> None:
        """Raises Stopped."""
        if self.stop_reason is not None:
            raise Stopped

    def pause(self, seconds: float | None) -> None:
        """Wait for a `nudge`, at most `seconds`; may return early. Raises Stopped."""
        self.check()
        self.clock.wait(self._wake, seconds)
        self.check()

    def sleep(self, seconds: float, phase: str = "backoff") -> None:
        """Wait out a backoff; only the total clock runs. Raises Stopped."""
        self.enter(phase)
        self.clocks.rest()
        if self.clocks.at < self.scheduled:
            self._scheduler.schedule(self, self.clocks.at)
        until = self.clock.monotonic() + seconds
        while (left := until - self.clock.monotonic()) > 0:
            self.pause(left)

    def attach(self, sock: socket.socket | None, *, duplicate: bool = False) -> None:
        """The socket to shut from now on. Raises Stopped where it is too late for it.

        With `duplicate`, a descriptor of our own: wrapping a socket in TLS takes the original's
        descriptor away, and the wrapper is not to be had before its handshake is over.
        """
        with self._lock:
            own, self._own = self._own, None
            if own is not None:
                own.close()
            if duplicate and sock is not None:
                sock = self._own = sock.dup()
            self._sock = sock
        self.check()

    def detach(self) -> None:
        """No socket of ours any more: it may go to another stream now. Never raises."""
        with self._lock:
            self._sock = None
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def revive(self) -> bool:
        """A clock ended the attempt, not the call: go on with the next attempt; whether that is
        possible (not after a cancel, nor past the hard deadline)."""
        with self._lock:
            reason = self.stop_reason
            if reason is not None and (reason.cancelled or reason.clock == "total"):
                return False
            self.stop_reason = None
            return True

    def over(self) -> None:
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
    def foreign(self) -> bool:
        """In a forked child, which is not the one that makes the call."""
        return self._pid != os.getpid()

    def _own_process(self) -> None:
        """In a forked child the lock may be held, for ever, by a thread that is not there."""
        if self.foreign:
            self._lock = threading.RLock()

    def stop(self, reason: Stop) -> bool:
        """End the call; whether this was what ended it. Returns at once, never raises."""
        self._own_process()
        with self._lock:
            before = self.stop_reason
            # A cancel also overrules a clock, which the reader might answer with a new attempt.
            if self._over or (before is not None and (before.cancelled or not reason.cancelled)):
                return False
            self.stop_reason = reason
            # Not from a forked child: the connection is its parent's too.
            if self._sock is not None and self._pid == os.getpid():
                _shutdown(self._sock)
        self._wake.put(None)
        return True

    def nudge(self) -> None:
        """End a `pause`."""
        self._wake.put(None)

    def tick(self, now: float) -> float:
        """Stop the call if a clock is broken; returns when to look again."""
        with self._lock:
            if self._over or self.stop_reason is not None:
                return _NEVER
            clock = self.clocks.broken(now)
            if clock is None:
                return self.clocks.at
            self.stop(Stop(clock=clock))
        return _NEVER


def _shutdown(sock: socket.socket) -> None:
    # Not connected, or closed already: then nothing is blocked in it.
    with contextlib.suppress(OSError, ValueError, TypeError):
        # Not SSLSocket.shutdown: it forgets the TLS layer, and a reader that comes back would take
        # the encrypted bytes for plain ones.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Timed(Protocol):
    """What the watchdog looks at: a Guard, or an errand."""

    scheduled: float

    def tick(self, now: float) -> float:
        """Look; returns when to look again."""


class _Entry:
    """A place in the queue. `guard` is None once it no longer counts."""

    __slots__ = ("guard",)

    def __init__(self, guard: Timed) -> None:
        self.guard: Timed | None = guard


class Watchdog:
    """The thread and its queue. It sleeps until the earliest moment at which a clock could break,
    looks, and goes back to sleep: an event on a stream only moves that stream's own deadline, and
    is not told here. The thread is a daemon, starts with the first stream and stays."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        # Guards everything below. Reentrant, because the garbage collector may run a stream's
        # finalizer, and so `forget`, in a thread that holds it: every step must survive that.
        self._changed = threading.Condition(threading.RLock())
        # A heap of tuples that compare without running Python code.
        self._queue: list[tuple[float, int, _Entry]] = []
        self._entries: dict[int, _Entry] = {}  # id(guard) -> its entry that counts
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def schedule(self, guard: Timed, at: float) -> None:
        with self._changed:
            if guard.scheduled <= at:
                return  # an earlier look is due, and will find out what is next
            self._drop(guard)
            entry = _Entry(guard)
            self._entries[id(guard)] = entry
            guard.scheduled = at
            heapq.heappush(self._queue, (at, next(self._numbers), entry))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="llmstream-watchdog", daemon=True
                )
                self._thread.start()
            elif self._queue[0][2] is entry:
                self._changed.notify()

    def forget(self, guard: Timed) -> None:
        with self._changed:
            self._drop(guard)
            # Entries of streams that ended early stay in the heap; bound them.
            if len(self._queue) > 64 and len(self._queue) > 2 * len(self._entries):
                self._queue[:] = [item for item in self._queue if item[2].guard is not None]
                heapq.heapify(self._queue)

    def _drop(self, guard: Timed) -> None:
        entry = self._entries.pop(id(guard), None)
        if entry is not None:
            entry.guard = None
        guard.scheduled = _NEVER

    def _run(self) -> None:
        while True:
            for guard in self._due():
                at = guard.tick(self._clock.monotonic())
                if at < guard.scheduled:
                    self.schedule(guard, at)

    def _due(self) -> list[Timed]:
        """Wait until some are due, and take them out of the queue."""
        with self._changed:
            while True:
                now = self._clock.monotonic()
                due: list[Timed] = []
                upcoming = self._take(now, due)
                if due:
                    return due
                # A wait that is too long for the platform is cut; then it looks once for nothing.
                self._changed.wait(None if upcoming is None else min(upcoming - now, 1e6))

    def _take(self, now: float, due: list[Timed]) -> float | None:
        """Move what is due at `now` into `due`; returns when the next is, None if there is none."""
        while self._queue:
            item = heapq.heappop(self._queue)
            guard = item[2].guard
            if guard is None:
                continue
            if item[0] > now:
                heapq.heappush(self._queue, item)
                return item[0]
            self._drop(guard)
            due.append(guard)
        return None


_shared: Watchdog | None = None
# Reentrant: making the watchdog may run the garbage collector, and a finalizer wants it too.
_shared_lock = threading.RLock()


def shared_watchdog() -> Watchdog:
    """The process's one watchdog."""
    global _shared
    if _shared is None:
        with _shared_lock:
            if _shared is None:
                _shared = Watchdog()
    return _shared


class _Errand:
    """Work to be done once, soon, in a thread of its own; at the end of the program, at once."""

    __slots__ = ("_doing", "_done", "_work", "scheduled")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._doing = threading.Lock()
        self._done = False
        self.scheduled = _NEVER

    def do(self, patience: float = -1.0) -> None:
        """Do it, or wait at most `patience` seconds for the thread that does."""
        if not self._doing.acquire(timeout=patience):
            return
        try:
            if not self._done:
                self._done = True
                self._work()
        finally:
            self._doing.release()
            _errands.discard(self)

    def tick(self, now: float) -> float:
        # No thread to be had (a limit, the end of the interpreter): the watchdog has to survive it.
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self.do, name="llmstream-errand", daemon=True).start()
        return _NEVER


def later(work: Callable[[], None]) -> None:
    """Do what a finalizer must not do itself: the garbage collector may run it anywhere, also in
    a thread that holds the lock which the work wants. Safe in finalizers and signal handlers.
    A program that ends does what is left first, and waits for it a few seconds at most. Nothing
    is done any more behind that: no thread could be started."""
    global _exit_awaited
    if sys.is_finalizing():
        return
    errand = _Errand(work)
    _errands.add(errand)
    if not _exit_awaited:  # late: those who are to be told shut down behind us
        _exit_awaited = True
        atexit.register(_finish_errands)
    shared_watchdog().schedule(errand, 0.0)


_errands: set[_Errand] = set()  # not done yet
_exit_awaited = False
_EXIT_SECONDS = 6.0


def _finish_errands() -> None:
    until = SYSTEM_CLOCK.monotonic() + _EXIT_SECONDS
    while _errands and (left := until - SYSTEM_CLOCK.monotonic()) > 0:
        for errand in list(_errands)[:1]:
            errand.do(left)


def _after_fork() -> None:
    """Threads do not survive a fork, and a lock may have been held by one of them."""
    global _shared, _shared_lock
    _shared = None
    _shared_lock = threading.RLock()
    _errands.clear()  # the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
