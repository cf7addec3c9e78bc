"""How fast, and how many at a time, requests may be sent: a rate that the caller knows, or one that
is searched for.

Pure: it computes, the caller waits. Moments are in seconds on a monotonic scale of the caller's
choice. For one thread at a time.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import Protocol

from msgspec import Struct

__all__ = ["AdaptiveRate", "FixedRate", "Rate", "Start", "TokenBucket"]

NEVER = math.inf


_ROUNDING = 1e-9
_SOON = 1e-5  # seconds


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


class Start(Struct, eq=False):
    """A request that is started at the moment `at`. The other fields are the rate's."""

    at: float
    running: int = 0  # requests, this one included
    recent: int = 0  # starts in the last second, this one included
    fills: bool = False  # it takes the last place
    paced: bool = False  # the pace was used up


class Rate(Protocol):
    """Says when the next request may be started."""

    def wait(self, now: float) -> float:
        """0 if a request may be started; else the seconds after which to ask again if nothing
        happens until then; inf: not before a request has ended or was answered."""

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
_BETA = 0.7  # CUBIC's (RFC 9438, section 4.6)
_SAME = 1.25  # times as great, at most: the same limit
_LEAST_PACE = 1.0 / 60.0  # starts a second
_LEAST_SPAN = 30.0  # requests
_CUT_EVERY = 1.0  # seconds, at least, between two cuts
_DEEPEST = 1.5  # a refusal divides what is believed by this at most, before _BETA
_RECENT = 64  # requests that show what the service accepts
_RARE = 2  # of them, or less: more than it accepts
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two probes of a service that refuses
_PRESUMED = 1.0  # seconds after which a request that was not refused counts as accepted
_PRESUMED_LEAST, _PRESUMED_MOST = 0.25, 30.0  # once it is known how fast the service refuses
_BLACKOUT = 2.0  # seconds without an acceptance, after which the pace is what was accepted before
_WINDOW = 60.0  # seconds: most limits are of a minute
_OUTAGE = 75.0  # seconds: longer than a limit of a minute refuses everything


class _Limit:
    """A limit of the service that is searched for: CUBIC (RFC 9438) on requests instead of time.

    Until the first refusal it grows by 1 for each request that has used it up and was accepted
    (slow start). A refusal sets it to 0.7 of what was refused, the peak. From there it comes back
    to the peak in `span` requests, quickly at first, stays near it, and then goes beyond, slowly at
    first: ``value = peak * (1 + 0.3 * (requests / span - 1)**3)``. So a limit that stays costs one
    or two refusals in about 1.6 spans, for 95 % of it on average, and one that has doubled is
    reached after 2.5 spans.

    A limit that was met once is doubtful, because the refusal may have been another limit's: its
    span is short. It is believed once it is met again.
    """

    def __init__(self, value: float, least: float) -> None:
        self.value = value
        self._least = least
        self._peak: float | None = None  # None: not met yet
        self._is_doubtful = False
        self._span = 1.0
        self._grown = 0.0  # requests since the last cut

    def grow(self) -> None:
        """A request that has used the limit up was accepted."""
        if self._peak is None:
            self.value += 1.0
            return
        self._grown += 1.0
        beyond = self._grown / self._span - 1.0
        self.value = max(self._least, self._peak * (1.0 + (1.0 - _BETA) * beyond**3))

    def cut(self, refused: float, short: float, long: float) -> None:
        """The service has refused at `refused`. `short` is the span of a limit that is doubtful,
        `long` that of one that is believed."""
        refused = max(self._least, refused)
        self._is_doubtful = self._peak is None or refused > _SAME * self._peak
        self._peak = refused
        self.value = max(self._least, refused * _BETA)
        self._span = max(1.0, short if self._is_doubtful else long)
        self._grown = 0.0

    def doubt(self) -> None:
        """Another limit explains the refusals: forget this one, unless it is believed."""
        if self._is_doubtful:
            self._peak, self._is_doubtful = None, False

    def settle(self, value: float, span: float) -> None:
        """This is what the service was seen to accept in a long time."""
        self._peak = self.value = max(self._least, value)
        self._is_doubtful = False
        self._span = self._grown = span


class AdaptiveRate:
    """Finds the limits of a service: how many requests at a time (`places`), and how many a second
    (`pace`), at most `most` at a time. It knows only which requests were accepted and which were
    refused with 429, 503 or 529.

    An acceptance is the head of a response that is a success. Many services send it with the first
    token, seconds after they have let the request in, but refuse at once. So a request that was not
    refused for a second counts as accepted; once there were refusals, one that was not refused for
    four times as long as the slowest of them took (0.25 s to 30 s).

    Start: 8 places and 8 starts a second, evenly spread; each grows while it is used up, by 1 for
    an acceptance, so that the pace grows e-fold in a second. So a service meets a ramp.

    Refusal: one of the two is cut, at most once a second, and never for a request that was started
    before the last cut. It is the places where more requests ran than (nearly) any of the last 64
    accepted ones had beside them, while the starts were not as fast; else the pace, whose peak is
    what was accepted lately. See `_Limit` for the way back and beyond.

    Blackout: after two refusals in a row, or a pause of more than 2 s, one request at a time asks
    whether the service accepts again, after 0.4 s, 0.8 s, ... 5 s. After 2 s and more of that the
    pace is the mean of what was accepted since the blackout before, or in the last minute: a
    service with a fixed or sliding window of a minute has had its minute's worth. After more than
    75 s it was an outage, and says nothing of the pace.
    """

    def __init__(self, most: int, now: float) -> None:
        self._most = most
        self.places = _Limit(min(_FIRST, most), 1.0)
        self.pace = _Limit(_FIRST, _LEAST_PACE)
        burst = _burst(_FIRST)
        self._bucket = TokenBucket(_FIRST, burst, burst, now)
        self._running: dict[int, Start] = {}
        self._unanswered: list[Start] = []  # neither accepted nor refused yet, the oldest first
        self._started: deque[float] = deque()  # when, in the last second
        self._recent: deque[Start] = deque(maxlen=_RECENT)  # were accepted
        self._acceptances: deque[float] = deque(maxlen=10_000)  # when
        self._presumed_after = _PRESUMED
        self._slowest_refusal = 0.0
        self._began = self._episode = now  # the first start; the end of the last blackout
        self._last_cut = -NEVER
        self._paused_until = -NEVER
        self._refusals = 0  # in a row
        self._last_refusal = -NEVER
        self._refused_since: float | None = None
        self._is_unsure = False  # whether the service accepts anything
        self._probe: Start | None = None  # the request that asks

    @property
    def running(self) -> int:
        """The requests that run."""
        return len(self._running)

    @property
    def _limit(self) -> int:
        return int(min(self.places.value, self._most) + _ROUNDING)

    def wait(self, now: float) -> float:
        self._presume(now)
        if self._probe is None and self.running < self._limit:
            return max(self._bucket.wait(now), self._paused_until - now, 0.0)
        if self._unanswered and (self._probe is not None or self.places.value < self._most):
            return max(self._unanswered[0].at + self._presumed_after - now, _SOON)
        return NEVER

    def _presume(self, now: float) -> None:
        """Take those for accepted that were not refused as fast as a service refuses."""
        while self._unanswered:
            start = self._unanswered[0]
            if now - start.at < self._presumed_after - _ROUNDING:
                return
            self.accepted(start, now)

    def start(self, start: Start) -> None:
        if id(start) in self._running:
            return
        now = start.at
        start.paced = self._bucket.level(now) < self._bucket.burst - 0.5
        self._bucket.take(now)
        self._started.append(now)
        while self._started[0] <= now - 1.0:
            self._started.popleft()
        start.recent = len(self._started)
        self._running[id(start)] = start
        start.running = self.running
        start.fills = self.running >= self._limit
        self._unanswered.append(start)
        if self._is_unsure:
            self._probe = start

    def end(self, start: Start) -> None:
        self._answered(start, was_refused=False)
        self._running.pop(id(start), None)

    def _answered(self, start: Start, *, was_refused: bool) -> None:
        if self._probe is start:
            self._probe = None
        if start not in self._unanswered:
            return
        at = self._unanswered.index(start)
        del self._unanswered[at]
        if was_refused:  # it did not run beside those that were started after it
            for later in self._unanswered[at:]:
                later.running -= 1

    def pause(self, until: float, now: float) -> None:
        if until - now > _BLACKOUT:
            self._begin_blackout(now)
        self._paused_until = max(self._paused_until, until)

    def _begin_blackout(self, now: float) -> None:
        self._is_unsure = True
        if self._refused_since is None:
            self._refused_since = now

    # -- accepted

    def accepted(self, start: Start, now: float) -> None:
        if start not in self._unanswered:
            return  # it was presumed
        self._answered(start, was_refused=False)
        self._acceptances.append(now)
        self._recent.append(start)
        if start.at >= self._last_refusal:
            self._refusals = 0
        if start.at >= self._paused_until - _ROUNDING:
            self._end_blackout(now)
        if start.at < self._last_cut:
            return
        if start.fills and self.places.value < self._most:
            self.places.grow()
        if start.paced:
            self.pace.grow()
            self._set_pace(now)

    def _end_blackout(self, now: float) -> None:
        self._is_unsure = False
        since, self._refused_since = self._refused_since, None
        if since is None or now - since <= _BLACKOUT:
            return
        if now - since > _OUTAGE:
            self._episode = now
            return
        episode = now - self._episode
        accepted = self._accepted_in(episode, now)
        pace = max(accepted / episode, self._mean(_WINDOW, now))
        if 0 < pace < self.pace.value:
            self.pace.settle(pace, max(_long_span(pace), 0.5 * accepted))
            self._set_pace(now)
        self._episode = now

    # -- refused

    def throttled(self, start: Start, now: float) -> None:
        self._answered(start, was_refused=True)
        self._slowest_refusal = max(self._slowest_refusal, now - start.at)
        self._presumed_after = min(
            max(_PRESUMED_LEAST, 4.0 * self._slowest_refusal), _PRESUMED_MOST
        )
        if start.at < self._last_refusal:
            return  # nothing new: it was on its way
        self._last_refusal = now
        self._refusals += 1
        if self._refusals >= 2:
            self._begin_blackout(now)
            again = _FIRST_PAUSE * 2.0 ** min(self._refusals - 1, 10)
            self.pause(now + min(again, _LONGEST_PAUSE), now)
        elif start.at >= self._last_cut and now - self._last_cut >= _CUT_EVERY:
            self._cut(start, now)
            self._last_cut = now

    def _cut(self, start: Start, now: float) -> None:
        as_many = sum(one.running >= start.running for one in self._recent)
        as_fast = sum(one.recent >= start.recent for one in self._recent)
        if as_many < _RARE <= as_fast:
            self.pace.doubt()
            refused = min(self.places.value, start.running - 1)
            self.places.cut(refused, max(15.0, refused), max(_LEAST_SPAN, 4.0 * refused))
            return
        if as_many >= _RARE:
            self.places.doubt()
        believed = self.pace.value
        window = min(max(0.5, 10.0 / believed), now - self._last_cut)
        pace = min(believed, max(self._mean(window, now), believed / _DEEPEST))
        self.pace.cut(pace, max(15.0, 2.0 * pace), _long_span(pace))
        self._set_pace(now)

    def _set_pace(self, now: float) -> None:
        self._bucket.set_rate(self.pace.value, _burst(self.pace.value), now)

    # -- what was accepted

    def _accepted_in(self, seconds: float, now: float) -> int:
        """The acceptances in the last `seconds`."""
        since = now - seconds
        return sum(1 for _ in itertools.takewhile(since.__le__, reversed(self._acceptances)))

    def _mean(self, seconds: float, now: float) -> float:
        """The acceptances a second in the last `seconds`, or since the first start."""
        seconds = min(seconds, now - self._began)
        return self._accepted_in(seconds, now) / seconds if seconds > 0 else 0.0


def _burst(pace: float) -> float:
    """The tokens that a bucket holds: few, so that the starts are spread; and those of 50 ms, which
    a thread may wake up too late."""
    return 2.0 + pace * 0.05


def _long_span(pace: float) -> float:
    """The requests of 10 s at 9 a second, of 2 s at 100 a second: often enough, not too often."""
    return max(_LEAST_SPAN, min(30.0 * math.sqrt(pace), 100.0 + pace))
