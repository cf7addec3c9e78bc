"""The only import of time.

Everything that needs to know what time it is, or to wait, is given a Clock; tests give it a double
(`llmstream.testing.FakeClock`) and never sleep.
"""

from __future__ import annotations

import contextlib
import time
from queue import Empty, SimpleQueue
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]

_LONGEST = 1e6  # seconds; threading.TIMEOUT_MAX is larger everywhere, callers wait in a loop


class Clock(Protocol):
    """Time, and waiting for it to pass. Thread-safe."""

    def monotonic(self) -> float:
        """Seconds on a scale that never goes back."""

    def time(self) -> float:
        """Unix time in seconds, for what servers write as a date."""

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        """Wait until something is put into `bell` (and take it), at most `seconds`.

        A SimpleQueue, because its `put` is documented to be safe in signal handlers and finalizers,
        where a cancel may come from; threading.Event is not."""


class SystemClock:
    """The machine's own clock."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        with contextlib.suppress(Empty):
            bell.get(timeout=None if seconds is None else min(max(0.0, seconds), _LONGEST))


SYSTEM_CLOCK = SystemClock()
