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
from collections import deque
from functools import partial
from queue import SimpleQueue
from typing import Protocol

from .clock import SYSTEM_CLOCK, Clock
from .fork import in_child
from .scope import NEVER
from .threads import Lock, RLock, spawn

__all__ = ["Watchdog", "shared_watchdog"]

_SPARE = 64  # entries that are no longer valid, and not worth a look


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
    """The thread and its queue. Thread-safe, and safe in signal handlers and finalizers: other
    threads only append to `_incoming`, and the queue belongs to the thread. There is no lock that
    an interrupt could leave behind.

    The thread sleeps until the earliest moment at which a clock can run out, checks the clock, and
    sleeps again. An event on a stream moves only that stream's own deadline; the watchdog is not
    notified, and finds the new deadline when it next checks. The thread is a daemon, starts with
    the first stream, and never ends."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        # Tuples that compare without running Python code.
        self._incoming: deque[tuple[float, int, _Entry]] = deque()
        self._queue: list[tuple[float, int, _Entry]] = []  # a heap; the thread's own
        self._entries: dict[int, _Entry] = {}  # id(timed) -> its valid entry
        self._numbers = itertools.count()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._wakes = -NEVER  # when the thread wakes by itself; -NEVER: it looks before it sleeps
        self._running = Lock()  # held by the thread while it runs
        self._starting = RLock()  # held while the thread is started

    def schedule(self, timed: Timed, at: float) -> None:
        """Call `timed.tick` at the moment `at`, or soon after. Raises ConfigurationError if the
        thread cannot be started."""
        if timed.scheduled <= at:
            return  # an earlier tick is scheduled, and will return the next moment
        name, entry = id(timed), _Entry(timed)
        before = self._entries.get(name)
        self._incoming.append((at, next(self._numbers), entry))
        self._entries[name] = entry
        timed.scheduled = at
        if before is not None:
            before.timed = None
        if not self._running.locked():
            self._start()
        elif at < self._wakes or len(self._incoming) > _SPARE + len(self._entries):
            self._bell.put(None)

    def forget(self, timed: Timed) -> None:
        """Call `timed.tick` no more."""
        entry = self._entries.pop(id(timed), None)
        if entry is not None:
            entry.timed = None
        timed.scheduled = NEVER

    def _start(self) -> None:
        with self._starting:
            if not self._running.locked():
                begun: SimpleQueue[None] = SimpleQueue()
                spawn(partial(self._run, begun), "watchdog")
                begun.get()

    def _run(self, begun: SimpleQueue[None]) -> None:
        if self._running.locked():
            begun.put(None)
            return  # a signal handler has started it in the middle of a start
        with self._running:
            begun.put(None)
            while True:
                for timed in self._due():
                    at = timed.tick(self._clock.monotonic())
                    if at < timed.scheduled:
                        self.schedule(timed, at)

    def _due(self) -> list[Timed]:
        """Wait until something is due; returns all that is, out of the queue."""
        while True:
            self._wakes = -NEVER
            self._receive()
            now = self._clock.monotonic()
            due: list[Timed] = []
            upcoming = self._take(now, due)
            if due:
                return due
            # In this order: what is appended after the look finds when the thread wakes.
            self._wakes = upcoming
            if not self._incoming:
                wait = None if upcoming == NEVER else upcoming - now
                self._clock.wait(self._bell, wait)  # may return early

    def _receive(self) -> None:
        """Put what the other threads have appended into the queue."""
        incoming, queue = self._incoming, self._queue
        while incoming:
            item = incoming.popleft()
            if item[2].timed is not None:
                heapq.heappush(queue, item)
        # The entries of streams that ended early stay in the heap; this bounds their number.
        if len(queue) > _SPARE and len(queue) > 2 * len(self._entries):
            queue[:] = [item for item in queue if item[2].timed is not None]
            heapq.heapify(queue)

    def _take(self, now: float, due: list[Timed]) -> float:
        """Move what is due at `now` into `due`; returns the moment of the next tick, or NEVER."""
        while self._queue:
            entry = self._queue[0][2]
            timed = entry.timed
            if timed is not None and self._queue[0][0] > now:
                return self._queue[0][0]
            heapq.heappop(self._queue)
            if timed is not None:
                if self._entries.get(id(timed)) is entry:
                    del self._entries[id(timed)]
                timed.scheduled = NEVER
                due.append(timed)
        return NEVER


_shared: dict[str, Watchdog] = {}  # one at most; an operation on it is atomic


def shared_watchdog() -> Watchdog:
    """The watchdog of this process. A forked child has its own."""
    return _shared.get("") or _shared.setdefault("", Watchdog())


in_child(_shared.clear)  # a thread does not survive a fork
