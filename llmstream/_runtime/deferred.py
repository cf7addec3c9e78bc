"""Deferred work: what a finalizer must not do itself is done soon after, in a thread of its own.

Relies on the watchdog, which starts the thread, and on `atexit` for what is left at the end of the
program.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable

from ..errors import ConfigurationError
from .clock import SYSTEM_CLOCK
from .fork import in_child
from .scope import NEVER
from .threads import Lock, is_finalizing, spawn
from .watchdog import shared_watchdog

__all__ = ["defer"]


class _Deferred:
    """Work that is done once: soon, in a thread of its own, or at the end of the program. What the
    watchdog schedules (`watchdog.Timed`)."""

    __slots__ = ("_lock", "_work", "scheduled")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._lock = Lock()  # held by the thread that does the work
        self.scheduled = NEVER

    def run(self, timeout: float = -1.0) -> None:
        """Do the work, or wait at most `timeout` seconds (-1: without a limit) for the thread that
        does it."""
        # Only here is a lock not entered by `with`, which has no timeout: no signal handler runs in
        # the thread, but for the main thread when the program ends.
        if not self._lock.acquire(timeout=timeout):
            return
        try:
            if self in _pending:
                self._work()
        finally:
            _pending.discard(self)
            self._lock.release()

    def tick(self, now: float) -> float:
        try:
            spawn(self.run, "deferred")
        except ConfigurationError:  # a limit, or the interpreter ends
            return now + _AGAIN
        return NEVER


def defer(work: Callable[[], None]) -> None:
    """Do `work` soon, in another thread. Safe in finalizers and
    signal handlers.

    A finalizer must not do it itself, because the garbage collector may run the finalizer anywhere,
    also in a thread that holds a lock which the work needs. When the program ends, the work that is
    left is done first, for 6 seconds at most. Work that is deferred after that is dropped, because
    no thread can be started any more."""
    global _exit_registered
    if is_finalizing():
        return
    deferred = _Deferred(work)
    _pending.add(deferred)
    # Registered with the first work, not on import: exit functions run in reverse order, so the
    # observers that the work notifies shut down after it.
    if not _exit_registered:
        _exit_registered = True
        atexit.register(_finish_pending)
    with contextlib.suppress(ConfigurationError):  # no thread: then at the end of the program
        shared_watchdog().schedule(deferred, 0.0)


_pending: set[_Deferred] = set()  # the work that is not done yet
in_child(_pending.clear)  # it is the parent's
_exit_registered = False
_EXIT_SECONDS = 6.0
_AGAIN = 1.0  # seconds until the system is asked for a thread again


def _finish_pending() -> None:
    until = SYSTEM_CLOCK.monotonic() + _EXIT_SECONDS
    while _pending and (left := until - SYSTEM_CLOCK.monotonic()) > 0:
        for deferred in list(_pending)[:1]:
            deferred.run(left)
