"""How fast, and how many at a time, requests may be sent: a rate that the caller knows, or one that
is searched for.

Pure: it computes, the caller waits. Moments are in seconds on a monotonic scale of the caller's
choice. For one thread at a time.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from msgspec import Struct

__all__ = ["AdaptiveRate", "FixedRate", "Rate", "Start", "TokenBucket"]

NEVER = math.inf


class TokenBucket:
    """A bucket that `rate` tokens a second flow into, and that holds `burst` of them. A request
    takes one token. (The algorithm of ITU-T I.371, there called the generic cell rate algorithm.)
    """

    def __init__(self, rate: float, burst: float, level: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = level
        self._at = now

    def level(self, now: float) -> float:
        """The tokens in the bucket."""
        if now > self._at:  # a clock that is read in two threads may seem to go back
            self._level = min(self.burst, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait(self, now: float) -> float:
        """The seconds until there is a token."""
        missing = 1.0 - self.level(now)
        return missing / self.rate if missing > _ROUNDING else 0.0

    def take(self, now: float) -> None:
        """Take a token, which `wait` has found."""
        self._level = max(0.0, self.level(now) - 1.0)

    def set_rate(self, rate: float, burst: float, now: float) -> None:
        """From now on tokens flow at another rate."""
        self._level = min(self.level(now), burst)
        self.rate, self.burst = rate, burst


_ROUNDING = 1e-9


class Start(Struct, eq=False):
    """A request that is started at a moment."""

    at: float
    running: int = 0  # requests, this one included
    fills: bool = False  # it has taken the last place
    paced: bool = False  # it has waited for the rate
    recent: int = 0


class Rate(Protocol):
    """Says when the next request may be started."""

    def wait(self, now: float) -> float:
        """The seconds until a request may be started if nothing happens; inf: not before one
        ends."""

    def start(self, start: Start) -> None:
        """A request is started. `wait` is 0. A second call has no effect."""

    def accepted(self, start: Start, now: float) -> None:
        """The service has begun to answer the request."""

    def throttled(self, start: Start, now: float) -> None:
        """The service has refused the request because of its load, or of ours."""

    def pause(self, until: float, now: float) -> None:
        """Nothing is started before the moment `until`."""

    def end(self, start: Start) -> None:
        """The request has ended, however it has. A second call has no effect."""


class FixedRate:
    """So many requests a minute, in an even flow: a token bucket that holds the requests of one
    second (at least one), full at the start; and at most `most` at a time."""

    def __init__(self, per_minute: float, most: int, now: float) -> None:
        rate = per_minute / 60.0
        burst = max(1.0, rate)
        self._bucket = TokenBucket(rate, burst, burst, now)
        self._most = most
        self._running: dict[int, Start] = {}
        self._paused_until = -NEVER

    @property
    def running(self) -> int:
        return len(self._running)

    def wait(self, now: float) -> float:
        if self.running >= self._most:
            return NEVER
        return max(self._bucket.wait(now), self._paused_until - now, 0.0)

    def start(self, start: Start) -> None:
        if id(start) not in self._running:
            self._bucket.take(start.at)
            self._running[id(start)] = start

    def accepted(self, start: Start, now: float) -> None:
        pass

    def throttled(self, start: Start, now: float) -> None:
        pass

    def pause(self, until: float, now: float) -> None:
        self._paused_until = max(self._paused_until, until)

    def end(self, start: Start) -> None:
        self._running.pop(id(start), None)


# ---- the search --------------------------------------------------------------------------------

_FIRST = 8  # requests at a time, and starts a second, at the beginning
_BETA = 0.7  # CUBIC's (RFC 9438, 4.6)
_LEAST_RATE = 1.0 / 60.0  # starts a second
_SPAN = 100  # requests that it takes to come back to the last limit
_CUT_EVERY = 1.0  # seconds, at least, between two cuts


class _Limit:
    """A limit of the service that is searched for: CUBIC (RFC 9438) on requests instead of time.

    Until the first refusal it grows by 1 for each request (slow start). A refusal sets it to 0.7
    of what was refused; from there it comes back to that in `span` requests, quickly at first,
    stays near it, and then goes beyond, slowly at first. A limit that has not moved is found again
    within 5 % for most of the time, at the price of one or two refusals in about 1.6 spans; one
    that has doubled is reached after 2.5 spans.
    """

    def __init__(self, value: float, least: float) -> None:
        self.value = value
        self._least = least
        self._peak = value
        self._span = 1.0
        self._grown = 0
        self._is_known = False
        self._is_doubtful = False

    def grow(self) -> None:
        """A request that has used the limit up was accepted."""
        if not self._is_known:
            self.value += 1.0
            return
        self._grown += 1
        self.value = self._peak * (1.0 + (1.0 - _BETA) * (self._grown / self._span - 1.0) ** 3)

    def release(self) -> None:
        if self._is_doubtful:
            self._is_known = self._is_doubtful = False

    def cut(self, refused: float, span: float, *, doubtful: bool = False) -> None:
        """The service has refused at `refused`."""
        self._is_doubtful = doubtful and (self._is_doubtful or not self._is_known)
        self._is_known = True
        self._peak = max(self._least, refused)
        self.value = max(self._least, self._peak * _BETA)
        self._span = span
        self._grown = 0

    def settle(self, value: float, span: float) -> None:
        """This is what the service was seen to accept."""
        self._is_known = True
        self._is_doubtful = False
        self._peak = self.value = max(self._least, value)
        self._span = span
        self._grown = round(span)


class AdaptiveRate:
    """Finds how many requests at a time, and how many a second, a service accepts."""

    def __init__(self, most: int, now: float) -> None:
        first = min(_FIRST, most)
        self._most = most
        self.places = _Limit(first, 1.0)
        self.pace = _Limit(_FIRST, _LEAST_RATE)
        self._bucket = TokenBucket(_FIRST, *_burst(_FIRST), now)
        self._running: dict[int, Start] = {}
        self._paused_until = -NEVER
        self._pause_began: float | None = None
        self._started: deque[float] = deque()
        self._accepted: deque[float] = deque(maxlen=8192)  # when each was started
        self._recent: deque[Start] = deque(maxlen=64)
        self._last_cut = -NEVER
        self._began = now
        self._refusals = 0  # in a row
        self._probe_at = -NEVER
        self._probe: Start | None = None
        self._is_unsure = False
        self._episode = now
        self._pending: list[Start] = []

    @property
    def running(self) -> int:
        return len(self._running)

    def wait(self, now: float) -> float:
        if self.running >= int(min(self.places.value, self._most) + _ROUNDING):
            return NEVER
        if self._probe is not None:
            return NEVER
        return max(self._bucket.wait(now), self._paused_until - now, 0.0)

    def start(self, start: Start) -> None:
        if id(start) in self._running:
            return
        now = start.at
        start.paced = self._bucket.level(now) < self._bucket.burst - 0.5
        self._bucket.take(now)
        self._running[id(start)] = start
        start.running = self.running
        self._started.append(now)
        while self._started[0] <= now - 1.0:
            self._started.popleft()
        start.recent = len(self._started)
        start.fills = self.running >= int(min(self.places.value, self._most) + _ROUNDING)
        if self._is_unsure:
            self._probe = start
        self._pending.append(start)

    def _resolve(self, start: Start, refused: bool) -> None:
        for number, one in enumerate(self._pending):
            if one is start:
                del self._pending[number]
                if refused:
                    for later in self._pending[number:]:
                        later.running -= 1
                break

    def end(self, start: Start) -> None:
        self._running.pop(id(start), None)
        self._resolve(start, False)
        if self._probe is start:
            self._probe = None

    def pause(self, until: float, now: float) -> None:
        if until - now > 2.0:
            self._is_unsure = True
        if self._pause_began is None:
            self._pause_began = now
        self._paused_until = max(self._paused_until, until)

    def accepted(self, start: Start, now: float) -> None:
        self._resolve(start, False)
        self._accepted.append(now)
        self._recent.append(start)
        if start.at >= self._probe_at:
            self._refusals = 0
        if self._probe is start:
            self._probe = None
        if start.at >= self._paused_until - _ROUNDING:
            self._is_unsure = False
            if self._pause_began is not None:
                if self._paused_until - self._pause_began > 2.0:
                    self._settle(now)
                    self._episode = now
                self._pause_began = None
        if start.at < self._last_cut:
            return
        if start.fills and self.places.value < self._most:
            self.places.grow()
        if start.paced:
            self.pace.grow()
            self._set_pace(now)

    def _settle(self, now: float) -> None:
        rate = max(self._rate(60.0, now), self._rate(now - self._episode, now))
        if 0 < rate < self.pace.value:
            count = rate * (now - self._episode)
            self.pace.settle(rate, max(self._pace_span(rate), 0.5 * count))
            self._set_pace(now)

    def _rate(self, window: float, now: float) -> float:
        window = min(window, now - self._began)
        if window <= 0:
            return NEVER
        count = 0
        for at in reversed(self._accepted):
            if at < now - window:
                break
            count += 1
        return count / window

    def throttled(self, start: Start, now: float) -> None:
        self._resolve(start, True)
        if start.at < self._probe_at:
            return
        self._probe_at = now
        self._refusals += 1
        if self._probe is start:
            self._probe = None
        if self._refusals >= 2:
            self._is_unsure = True
            self.pause(now + min(5.0, 0.1 * 2.0**self._refusals), now)
            return
        if now - self._last_cut < _CUT_EVERY or start.at < self._last_cut:
            return
        busiest = max((s.running for s in self._recent), default=0)
        fastest = max((s.recent for s in self._recent), default=0)
        at_once, fast = start.running > busiest, start.recent > fastest
        if at_once and not fast:
            self.pace.release()
            refused = min(self.places.value, start.running - 1)
            self.places.cut(refused, max(30.0, 4.0 * refused))
        else:
            if not at_once:
                self.places.release()
            rate = self._rate(min(max(2.0, 10.0 / self.pace.value), now - self._last_cut), now)
            rate = min(self.pace.value, max(rate, self.pace.value / 3.0))
            self.pace.cut(rate, self._pace_span(rate), doubtful=at_once)
            self._set_pace(now)
        self._last_cut = now

    def _pace_span(self, rate: float) -> float:
        return max(30.0, 10.0 * rate)

    def _set_pace(self, now: float) -> None:
        self._bucket.set_rate(self.pace.value, _burst(self.pace.value)[0], now)


def _burst(rate: float) -> tuple[float, float]:
    burst = 2.0 + rate * 0.05
    return burst, burst
