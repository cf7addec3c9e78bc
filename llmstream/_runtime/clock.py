"""The clock: the only file that imports `time`.

Whatever needs the time, or has to wait, is given a Clock. Tests pass a double
(`llmstream.testing.FakeClock`) and never sleep.
"""

from __future__ import annotations

import contextlib
import time
from queue import Empty, SimpleQueue
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]

_MAX_WAIT = 1e6  # seconds; less than threading.TIMEOUT_MAX on every platform. Callers loop.


class Clock(Protocol):
    """The time, and waiting. Thread-safe: one object serves all calls of a client."""

    def monotonic(self) -> float:
        """Seconds on a scale that never goes back."""

    def time(self) -> float:
        """Unix time in seconds, to compare with a date that a server sends."""

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        """Wait until an item is in `bell` and take it; at most `seconds` (None: without a limit).
        May return early.

        `bell` is a SimpleQueue, because its `put` is documented to be safe in signal handlers and
        finalizers, from which a call may be cancelled. threading.Event is not."""


class SystemClock:
    """The machine's own clock."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        with contextlib.suppress(Empty):
            bell.get(timeout=None if seconds is None else min(max(0.0, seconds), _MAX_WAIT))


SYSTEM_CLOCK = SystemClock()
