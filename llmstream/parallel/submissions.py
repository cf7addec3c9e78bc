"""The rate limit of a batch whose requests are sent by other processes.

The limiter cannot see those requests. So it is passed when a call is submitted, and learns from how
the call has ended: the retries of a call, which its process makes, are not limited.
"""

from __future__ import annotations

from .._call.limiter import Limiter, Place
from .._core.timers import Timeouts, Timers
from .._runtime.clock import Clock
from .._runtime.scope import CancelScope, Stopped, StopReason
from .._runtime.watchdog import shared_watchdog
from ..errors import LLMStreamError, OverloadedError, RateLimitError
from ..result import Result
from .prompts import Ask

__all__ = ["Submissions"]

_NO_CLOCKS = Timeouts(connect=None, first_token=None, idle=None, silence=None)


class Submissions:
    """Lets calls be submitted at the limiter's rate (None: at once)."""

    def __init__(self, limiter: Limiter | None, clock: Clock) -> None:
        self._limiter = limiter
        self._scope = CancelScope(Timers(_NO_CLOCKS, clock.monotonic()), clock, shared_watchdog())
        self._places: dict[int, Place] = {}

    def wait(self, ask: Ask) -> bool:
        """Wait until the call may be submitted; False once the batch is cancelled."""
        if self._limiter is None:
            return True
        place = self._limiter.place(str(ask.options.get("model") or ""), lambda now: 0.0)
        try:
            place.acquire(self._scope)
        except Stopped:
            return False
        self._places[ask.index] = place
        return True

    def stop(self) -> None:
        """End the waits. Any thread."""
        self._scope.stop(StopReason(cancelled=True))

    def ended(self, ask: Ask, result: Result | None, error: LLMStreamError | None) -> None:
        """A call has ended. Any thread."""
        place = self._places.pop(ask.index, None)
        if place is None:
            return
        attempts = result.attempts if result is not None else error.attempts if error else ()
        refusals = [
            attempt.error
            for attempt in attempts
            if isinstance(attempt.error, (RateLimitError, OverloadedError))
        ]
        if refusals:
            place.failed(refusals[-1], refusals[-1].retry_after or 0.0)
        else:
            place.accepted({})
            place.release()
