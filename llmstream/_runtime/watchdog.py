"""One thread that enforces the clocks of all streams, by shutting down their sockets.

In Python another thread cannot interrupt a blocked read, but `shutdown()` of its socket ends the
read at once, plain and TLS; `close()` does not (measured on Linux). So every stream has a
CancelScope, which knows the socket in use, the clocks and, once something has ended the stream, the
reason. The reason is always recorded before the socket is shut down, because with a close-delimited
body the reader cannot distinguish a shutdown from a clean end.
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
    """What the watchdog schedules: a CancelScope, or deferred work. `scheduled` is the moment of
    the next `tick`, or NEVER; the watchdog writes it."""

    scheduled: float

    def tick(self, now: float) -> float:
        """Do what is due at `now`; returns the moment of the next `tick`."""


class _Entry:
    """A place in the queue. `timed` is None when the entry is no longer valid."""

    __slots__ = ("timed",)

    def __init__(self, timed: Timed) -> None:
        self.timed: Timed | None = timed


class Watchdog:
    """The thread and its queue. Thread-safe.

    The thread sleeps until the earliest moment at which a clock can run out, checks the clock, and
    sleeps again. An event on a stream moves only that stream's own deadline; the watchdog is not
    notified, and finds the new deadline when it next checks. The thread is a daemon, starts with
    the first stream, and never ends."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        # Guards everything below. Reentrant, because the garbage collector may run a stream's
        # finalizer, and so `forget`, in a thread that holds it: every step must survive that.
        self._changed = threading.Condition(threading.RLock())
        # A heap of tuples that compare without running Python code.
        self._queue: list[tuple[float, int, _Entry]] = []
        self._entries: dict[int, _Entry] = {}  # id(timed) -> its valid entry
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def schedule(self, timed: Timed, at: float) -> None:
        """Call `timed.tick` at the moment `at`, or soon after."""
        with self._changed:
            if timed.scheduled <= at:
                return  # an earlier tick is scheduled, and will return the next moment
            self._drop(timed)
            entry = _Entry(timed)
            self._entries[id(timed)] = entry
            timed.scheduled = at
            heapq.heappush(self._queue, (at, next(self._numbers), entry))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="llmstream-watchdog", daemon=True
                )
                self._thread.start()
            elif self._queue[0][2] is entry:
                self._changed.notify()

    def forget(self, timed: Timed) -> None:
        """Call `timed.tick` no more."""
        with self._changed:
            self._drop(timed)
            # The entries of streams that ended early stay in the heap; this bounds their number.
            if len(self._queue) > 64 and len(self._queue) > 2 * len(self._entries):
                self._queue[:] = [item for item in self._queue if item[2].timed is not None]
                heapq.heapify(self._queue)

    def _drop(self, timed: Timed) -> None:
        entry = self._entries.pop(id(timed), None)
        if entry is not None:
            entry.timed = None
        timed.scheduled = NEVER

    def _run(self) -> None:
        while True:
            for timed in self._due():
                at = timed.tick(self._clock.monotonic())
                if at < timed.scheduled:
                    self.schedule(timed, at)

    def _due(self) -> list[Timed]:
        """Wait until something is due; returns all that is, out of the queue."""
        with self._changed:
            while True:
                now = self._clock.monotonic()
                due: list[Timed] = []
                upcoming = self._take(now, due)
                if due:
                    return due
                # A wait that is too long for the platform is cut, and the loop runs once more.
                self._changed.wait(None if upcoming is None else min(upcoming - now, 1e6))

    def _take(self, now: float, due: list[Timed]) -> float | None:
        """Move what is due at `now` into `due`; returns the moment of the next tick, or None."""
        while self._queue:
            item = heapq.heappop(self._queue)
            timed = item[2].timed
            if timed is None:
                continue
            if item[0] > now:
                heapq.heappush(self._queue, item)
                return item[0]
            self._drop(timed)
            due.append(timed)
        return None


_shared: Watchdog | None = None
# Reentrant: making the watchdog may run the garbage collector, whose finalizers need it too.
_shared_lock = threading.RLock()


def shared_watchdog() -> Watchdog:
    """The watchdog of this process. A forked child has its own."""
    global _shared
    if _shared is None:
        with _shared_lock:
            if _shared is None:
                _shared = Watchdog()
    return _shared


def _after_fork() -> None:
    """A thread does not survive a fork, and one that did not may have held a lock."""
    global _shared, _shared_lock
    _shared = None
    _shared_lock = threading.RLock()


in_child(_after_fork)
