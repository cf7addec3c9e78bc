"""What a call did, and the result that follows from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ..errors import ConfigurationError
from ..result import Attempt, LLMStreamError
from ..testing import Recorded
from .result import CheckResult, result
from .wire import PART, WHOLE
from .wording import counted

__all__ = ["Observed", "judged"]


class Observed(Struct):
    """What a call did.

    Attributes:
        error: what ended the call. None: a success.
        delivered: the text that the reader received.
        text: the text that the stream's result (or the error's `.partial`) holds.
        restarts: how many "restart" chunks the reader received.
        attempts: the stream's own record.
        requests: the server's record.
        seconds: how long the call took, by the clock it ran on.
        speed: how many times faster that clock ran than the machine's.
        hung: the real seconds after which the check gave up; 0: the call ended by itself.
    """

    error: BaseException | None = None
    delivered: str = ""
    text: str = ""
    restarts: int = 0
    attempts: tuple[Attempt, ...] = ()
    requests: Sequence[Recorded] = ()
    seconds: float = 0.0
    speed: float = 1.0
    hung: float = 0.0

    @property
    def ending(self) -> str:
        """What the call ended with: "the answer", an error's name or "a hang"."""
        if self.hung:
            return "a hang"
        return "the answer" if self.error is None else type(self.error).__name__

    @property
    def whole(self) -> bool:
        """Whether the call succeeded with exactly the answer."""
        return self.error is None and self.delivered == self.text == WHOLE

    @property
    def part(self) -> bool:
        """Whether the call failed, and delivered and kept exactly the part that was sent."""
        return self.error is not None and self.delivered == self.text == PART

    @property
    def waits(self) -> list[float]:
        """The waits between the attempts in seconds, by the client's record."""
        return [attempt.delay_ms / 1000.0 for attempt in self.attempts[:-1]]

    @property
    def gaps(self) -> list[float]:
        """The time between the requests, by the server's record, in seconds of the clock."""
        times = [request.received_at for request in self.requests]
        return [(after - before) * self.speed for before, after in itertools.pairwise(times)]

    def describe(self) -> str:
        """The ending, the number of requests and the waits, in words."""
        what = self.ending
        if self.hung:
            what = f"no end after {self.hung:.1f} real seconds"
        elif self.error is not None and not isinstance(self.error, LLMStreamError):
            what = f"a foreign {what} ({self.error})"
        elif isinstance(self.error, ConfigurationError):
            what = f"{what} ({self.error})"
        waits = ", ".join(f"{wait:.2f}" for wait in self.waits)
        requests = counted(len(self.attempts), "request")
        return f"{what}, {requests}" + (f", waits {waits} s" if waits else "")

    def figures(self) -> dict[str, Any]:
        """The figures that every result of a call has."""
        return {
            "speed": self.speed,
            "ended": self.ending,
            "requests": len(self.attempts),
            "waits": self.waits,
            "clock_seconds": self.seconds,
        }


def judged(
    expected: str, observed: Observed, *demands: tuple[bool, str], more: str = "", **figures: Any
) -> CheckResult:
    """The result of a call: "ok" where every demand holds.

    A demand is whether it holds, and what is wrong if it does not. `more` is added to what was
    seen, `figures` to the figures.
    """
    wrong = [what for holds, what in demands if not holds]
    seen = "; ".join(part for part in (observed.describe(), more, *wrong) if part)
    status = "FAIL" if wrong else "ok"
    return result(status, expected, seen, **{**observed.figures(), **figures})
