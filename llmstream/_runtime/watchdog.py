"""One thread that enforces the clocks of all streams, by shutting their sockets.

A blocked read cannot be interrupted from outside in Python, but `shutdown()` of its socket ends it
at once, plain and TLS (closing does not: DESIGN, measured facts). So every stream has a CancelScope: it
knows the socket in use, which clock runs, and, once something ended the stream, the reason. The
reason is always recorded before the socket is shut, because on a close-delimited body the reader
cannot tell a shutdown from a clean end.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import Protocol

from .clock import SYSTEM_CLOCK, Clock
from .fork import in_child
from .scope import NEVER

__all__ = ["Watchdog", "shared_watchdog"]


class Timed(Protocol):
    """What the watchdog looks at: a CancelScope, or deferred work."""

    scheduled: float

    def tick(self, now: float) -> float:
        """Look; returns when to look again."""


class _Entry:
    """A place in the queue. `scope` is None once it no longer counts."""

    __slots__ = ("scope",)

    def __init__(self, scope: Timed) -> None:
        self.scope: Timed | None = scope


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
        self._entries: dict[int, _Entry] = {}  # id(scope) -> its entry that counts
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def schedule(self, scope: Timed, at: float) -> None:
        with self._changed:
            if scope.scheduled <= at:
                return  # an earlier look is due, and will find out what is next
            self._drop(scope)
            entry = _Entry(scope)
            self._entries[id(scope)] = entry
            scope.scheduled = at
            heapq.heappush(self._queue, (at, next(self._numbers), entry))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="llmstream-watchdog", daemon=True
                )
                self._thread.start()
            elif self._queue[0][2] is entry:
                self._changed.notify()

    def forget(self, scope: Timed) -> None:
        with self._changed:
            self._drop(scope)
            # Entries of streams that ended early stay in the heap; bound them.
            if len(self._queue) > 64 and len(self._queue) > 2 * len(self._entries):
                self._queue[:] = [item for item in self._queue if item[2].scope is not None]
                heapq.heapify(self._queue)

    def _drop(self, scope: Timed) -> None:
        entry = self._entries.pop(id(scope), None)
        if entry is not None:
            entry.scope = None
        scope.scheduled = NEVER

    def _run(self) -> None:
        while True:
            for scope in self._due():
                at = scope.tick(self._clock.monotonic())
                if at < scope.scheduled:
                    self.schedule(scope, at)

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
            scope = item[2].scope
            if scope is None:
                continue
            if item[0] > now:
                heapq.heappush(self._queue, item)
                return item[0]
            self._drop(scope)
            due.append(scope)
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


def _after_fork() -> None:
    """Threads do not survive a fork, and a lock may have been held by one of them."""
    global _shared, _shared_lock
    _shared = None
    _shared_lock = threading.RLock()


in_child(_after_fork)
