"""Work that a finalizer must not do itself, done soon by a thread of its own."""

from __future__ import annotations

import atexit
import contextlib
import sys
from collections.abc import Callable

from .clock import SYSTEM_CLOCK
from .fork import in_child
from .scope import NEVER
from .threads import Lock, spawn
from .watchdog import shared_watchdog

__all__ = ["defer"]


class _Deferred:
    """Work to be done once, soon, in a thread of its own; at the end of the program, at once."""

    __slots__ = ("_doing", "_done", "_work", "scheduled")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._doing = Lock()
        self._done = False
        self.scheduled = NEVER

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
            _pending.discard(self)

    def tick(self, now: float) -> float:
        # No thread to be had (a limit, the end of the interpreter): the watchdog has to survive it.
        with contextlib.suppress(RuntimeError):
            spawn(self.do, "deferred")
        return NEVER


def defer(work: Callable[[], None]) -> None:
    """Do what a finalizer must not do itself: the garbage collector may run it anywhere, also in
    a thread that holds the lock which the work wants. Safe in finalizers and signal handlers.
    A program that ends does what is left first, and waits for it a few seconds at most. Nothing
    is done any more behind that: no thread could be started."""
    global _exit_awaited
    if sys.is_finalizing():
        return
    deferred = _Deferred(work)
    _pending.add(deferred)
    if not _exit_awaited:  # late: those who are to be told shut down behind us
        _exit_awaited = True
        atexit.register(_finish_pending)
    shared_watchdog().schedule(deferred, 0.0)


_pending: set[_Deferred] = set()  # not done yet
in_child(_pending.clear)  # the parent's
_exit_awaited = False
_EXIT_SECONDS = 6.0


def _finish_pending() -> None:
    until = SYSTEM_CLOCK.monotonic() + _EXIT_SECONDS
    while _pending and (left := until - SYSTEM_CLOCK.monotonic()) > 0:
        for deferred in list(_pending)[:1]:
            deferred.do(left)
