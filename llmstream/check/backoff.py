"""The waits between attempts that a retry policy promises, and whether a call kept to them."""

from __future__ import annotations

from collections.abc import Sequence

from .._core.retry import RetryPolicy
from . import pace
from .observed import Observed

__all__ = ["kept_by_server", "wait_bounds", "within"]


def wait_bounds(policy: RetryPolicy, n: int, asked: float = 0.0) -> tuple[float, float]:
    """The shortest and the longest wait in seconds after failure `n` (from 0).

    `asked` is the wait that the server asks for. Computed by the documented formula and not by the
    policy's own code, because that code is under test.
    """
    shortest = max(min(policy.cap, policy.base * 2.0**n), asked)
    return shortest, shortest * (1.0 + policy.jitter)


def within(waits: Sequence[float], bounds: Sequence[tuple[float, float]]) -> bool:
    """Whether each wait is within its bounds."""
    tolerance = 1e-9  # for the rounding of sums
    return all(
        low - tolerance <= wait <= high * (1.0 + tolerance) + tolerance
        for wait, (low, high) in zip(waits, bounds, strict=False)
    )


def kept_by_server(observed: Observed) -> bool:
    """Whether the server received the requests as far apart as the client reports its waits."""
    if len(observed.requests) != len(observed.attempts):
        return True  # some requests never reached the server
    return all(
        wait - 1e-6 * observed.speed <= gap <= wait + pace.LATE * observed.speed
        for wait, gap in zip(observed.waits, observed.gaps, strict=True)
    )
