"""When requests start: as soon as a stream is free, or at moments that are known beforehand. Pure.

Closed loop: a fixed number of streams at once, each of which asks again when its answer has ended.
A service that stalls is asked less often, so a stall counts once for each stream, however long it
is ("coordinated omission"). Open loop: requests are due at their moments whatever the service does,
and their latency counts from there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Protocol

__all__ = ["Arrivals", "ClosedLoop", "OpenLoop"]


class Arrivals(Protocol):
    """Moments are in seconds since the begin of the level. Not thread-safe."""

    def next(self, now: float) -> float | None:
        """When the next request is due; None after the last one."""

    def due(self, now: float) -> int:
        """How many further requests have been due until `now`. Takes them."""


class ClosedLoop:
    """At most `requests` (None: any number), none later than `duration` seconds."""

    def __init__(self, requests: int | None, duration: float | None) -> None:
        self._left = math.inf if requests is None else requests
        self._until = math.inf if duration is None else duration

    def next(self, now: float) -> float | None:
        if self._left <= 0 or now >= self._until:
            return None
        self._left -= 1
        return now

    def due(self, now: float) -> int:
        return 0


class OpenLoop:
    """`rate` requests a second: at times as random as those of independent users (a Poisson
    process, whose gaps are exponentially distributed with the mean 1 / rate), or evenly spaced.

    The same `seed` gives the same moments. At most `requests`, none later than `duration` seconds
    (None: no such limit; one of them has to be given).
    """

    def __init__(
        self,
        rate: float,
        requests: int | None,
        duration: float | None,
        *,
        seed: int = 0,
        constant: bool = False,
    ) -> None:
        self._times = _times(rate, requests, duration, seed, constant)

    def next(self, now: float) -> float | None:
        return next(self._times, None)

    def due(self, now: float) -> int:
        count = 0
        for at in self._times:
            if at > now:
                break
            count += 1
        return count


def _times(
    rate: float, requests: int | None, duration: float | None, seed: int, constant: bool
) -> Iterator[float]:
    gaps = random.Random(seed)
    most = math.inf if requests is None else requests
    until = math.inf if duration is None else duration
    at = 0.0
    number = 0
    while number < most:
        # Not a sum of 1 / rate, whose rounding adds up.
        at = number / rate if constant else at + gaps.expovariate(rate)
        if at >= until:
            return
        yield at
        number += 1
