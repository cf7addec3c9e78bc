"""The limit that the requests of many calls share: how many may run, and how fast they may start.

A batch makes one Limiter. Every request of its calls passes it, retries too.
"""

from __future__ import annotations

from typing import Any

from .._core.checks import is_number, shown
from .._runtime.clock import Clock
from ..errors import ConfigurationError

__all__ = ["Limiter", "checked_rate_limit"]

_MOST = 1e9  # requests a minute: more is a mistake in the unit


def checked_rate_limit(rate_limit: Any) -> float | str | None:
    """`rate_limit` of a batch: requests a minute, "auto", or None. Raises ConfigurationError."""
    if rate_limit is None or (isinstance(rate_limit, str) and rate_limit == "auto"):
        return rate_limit
    if not is_number(rate_limit) or not 0 < rate_limit <= _MOST:
        raise ConfigurationError(
            f"rate_limit={shown(rate_limit)}: give requests a minute, greater than 0, "
            '"auto" to find the limit of the service, or None for no limit'
        )
    return float(rate_limit)


class Limiter:
    """The limit of one batch, for `Call.limit_by`. Thread-safe.

    Args:
        rate_limit: requests a minute, or "auto": the limit of the service is searched for.
        max_workers: the number of requests that may run at the same time, at most.
        clock: what the moments are read on.
    """

    def __init__(self, rate_limit: float | str, max_workers: int, clock: Clock) -> None:
        self._rate_limit = rate_limit
        self._max_workers = max_workers
        self._clock = clock
