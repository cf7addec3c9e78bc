"""The limit that the requests of many calls share: how many may run, and how fast they may start.

A batch makes one Limiter. Every request of its calls passes it, retries too.
"""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from .._core.checks import is_number, shown
from .._core.rate import NEVER, AdaptiveRate, FixedRate, Rate, Start
from .._core.retry import reset_of_used_up_limits
from .._runtime.clock import Clock
from .._runtime.fork import renew_in_child
from .._runtime.scope import CancelScope
from .._runtime.threads import RLock
from ..errors import ConfigurationError, LLMStreamError, OverloadedError, RateLimitError

__all__ = ["Limiter", "Place", "checked_rate_limit"]

AUTO = "auto"
_MOST = 1e9  # requests a minute: more is a mistake in the unit
_LONGEST = 60.0  # seconds that are waited for the reset of a limit that a success says is used up
_PATIENCE = 90.0  # seconds: a window of a minute, and its half

_AGAIN_AND_AGAIN = 3  # refusals in a row
_SOON = 1e-6  # seconds: a wait that is none

Held = Callable[[float], float]


def checked_rate_limit(rate_limit: Any) -> float | str | None:
    """`rate_limit` of a batch: requests a minute, "auto", or None. Raises ConfigurationError."""
    if rate_limit is None or (isinstance(rate_limit, str) and rate_limit == AUTO):
        return rate_limit
    if not is_number(rate_limit) or not 0 < rate_limit <= _MOST:
        raise ConfigurationError(
            f"rate_limit={shown(rate_limit)}: give requests a minute, greater than 0 and at most "
            f'{_MOST:,.0f}, "auto" to find the limit of the service, or None for no limit'
        )
    return float(rate_limit)


class Limiter:
    """The limit of one batch, for `Call.limit_by`. Thread-safe.

    A call has its place from its request to the end of the answer. Places are given in the order in
    which the calls asked for their first one; a retry is as old as its call (see `Place` for the
    exception). Who waits sleeps until it is woken, and is woken at once by a cancel. While a call
    waits for its first place it has not begun, and its clocks do not run; while it waits with a
    retry only `total` runs.

    With a number the requests of all models flow evenly (`FixedRate`); with "auto" the limits of
    the service are searched for, for each model (`AdaptiveRate`). Either way nothing is sent to a
    model before the end of a wait that the service has asked all its callers for (see `Budget`),
    or, for a minute at most, before the reset of a limit that a success says is used up.

    Args:
        rate_limit: requests a minute, or "auto": the limit of the service is searched for, for
            each model.
        max_workers: the number of requests that may run at the same time, at most.
        clock: what the moments are read on.
    """

    def __init__(self, rate_limit: float | str, max_workers: int, clock: Clock) -> None:
        self.clock = clock
        self.is_adaptive = isinstance(rate_limit, str)
        self._new_lane = partial(_Lane, rate_limit, max_workers, clock)
        self._numbers = itertools.count()
        self._lanes: dict[str, _Lane] = {}
        renew_in_child(self, _lanes=dict)

    def place(self, model: str, held: Held) -> Place:
        """The place of a call of `model`. `held` returns the seconds, at a moment, for which the
        service has asked all callers of the model to wait."""
        name = model if self.is_adaptive else ""
        lane = self._lanes.get(name) or self._lanes.setdefault(name, self._new_lane())
        return Place(lane, self._numbers, held, is_adaptive=self.is_adaptive)


class Place:
    """The place of one call, among those that have one or wait for one. The first call that waits
    is served first; a retry is as old as its call. But one that is refused again and again lets the
    others go first: it may be the only one that is refused.

    For the thread that reads the call, but `granted` and `wakes_at`, which are the lane's.
    """

    __slots__ = (
        "_is_adaptive",
        "_lane",
        "_numbers",
        "_refusals",
        "_refused_since",
        "granted",
        "held",
        "number",
        "scope",
        "wakes_at",
    )

    def __init__(
        self, lane: _Lane, numbers: Iterator[int], held: Held, *, is_adaptive: bool
    ) -> None:
        self._lane = lane
        self._is_adaptive = is_adaptive
        self._refusals = 0  # in a row; the head of a success proves nothing
        self._refused_since = 0.0
        self._numbers = numbers
        self.number = next(numbers)
        self.held = held
        self.scope: CancelScope | None = None
        self.granted: Start | None = None
        self.wakes_at = NEVER

    def acquire(self, scope: CancelScope) -> None:
        """Wait until a request may be sent. Raises Stopped, as soon as the scope is stopped."""
        self.scope = scope
        lane = self._lane
        try:
            lane.do(partial(lane.join, self))
            while self.granted is None:
                left = self.wakes_at - lane.clock.monotonic()
                scope.pause(None if left == NEVER else max(0.0, left))
                lane.do(lane.advance)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """The request has ended, or none will be sent. Idempotent, never raises."""
        self._lane.do(partial(self._lane.leave, self))

    def accepted(self, headers: Mapping[str, str]) -> None:
        """The service has begun to answer. `headers` has lower-case names."""
        lane = self._lane
        if self.granted is not None and self._is_adaptive:
            lane.do(partial(lane.accepted, self.granted))
        reset = reset_of_used_up_limits(headers, lane.clock.time())
        if reset:
            lane.do(partial(lane.pause, min(reset, _LONGEST)))

    def failed(self, error: LLMStreamError, wait: float = 0.0) -> bool:
        """The request has ended with `error`, in which the service asks for a wait of so many
        seconds that is waited out. Returns whether it is not counted as an attempt: the
        limit is found by refusals, and a call is not to fail for one that it has not caused. (One
        that alone is refused, or in the stream of a success, may be refused for ever.)"""
        lane, start = self._lane, self.granted
        excused = False
        if self._is_adaptive and start is not None and _is_throttle(error):
            now = lane.clock.monotonic()
            if not self._refusals:
                self._refused_since = now
            self._refusals += 1
            if self._refusals >= _AGAIN_AND_AGAIN:
                self.number = next(self._numbers)
            lane.do(partial(lane.throttled, start, wait))
            excused = lane.is_patient() and now - self._refused_since < _PATIENCE
        else:
            self._refusals = 0
        self.release()
        return excused


def _is_throttle(error: LLMStreamError) -> bool:
    """429, 503 and 529, in a status or in a stream, unless they are final."""
    return isinstance(error, (RateLimitError, OverloadedError)) and error.retryable


class _Lane:
    """The requests that one rate holds for.

    Whatever changes it is an action, which may be done twice. Actions are written down before they
    are done and struck out afterwards, so that none is lost to an interrupt; and where a finalizer
    or a signal handler comes in the middle of one, its own is done after that.
    """

    def __init__(self, rate_limit: float | str, max_workers: int, clock: Clock) -> None:
        self.clock = clock
        now = clock.monotonic()
        self._rate: Rate
        if isinstance(rate_limit, str):
            self._rate = AdaptiveRate(max_workers, now)
        else:
            self._rate = FixedRate(rate_limit, max_workers, now)
        self._waiting: list[Place] = []  # by number
        self._refused_since: float | None = None  # and nothing was accepted
        self._actions: deque[Callable[[], None]] = deque()
        self._lock = RLock()  # held by the one thread that acts
        self._acting = False

    def do(self, action: Callable[[], None]) -> None:
        """Do `action` now, or have it done by the thread that is at it."""
        self._actions.append(action)
        while self._actions:
            with self._lock:
                if self._acting:
                    return  # further up in this thread's stack, where it is done next
                self._acting = True
                try:
                    while self._actions:
                        self._actions[0]()
                        self._actions.popleft()
                finally:
                    self._acting = False

    def is_patient(self) -> bool:
        """Whether the service has refused everything for less than a minute and a half."""
        since = self._refused_since
        return since is None or self.clock.monotonic() - since < _PATIENCE

    # -- actions

    def join(self, place: Place) -> None:
        if place.granted is None and place not in self._waiting:
            place.wakes_at = NEVER
            bisect.insort(self._waiting, place, key=_number)
        self.advance()

    def leave(self, place: Place) -> None:
        if place in self._waiting:
            self._waiting.remove(place)
        if place.granted is not None:
            self._rate.end(place.granted)
            place.granted = None
        self.advance()

    def accepted(self, start: Start) -> None:
        self._refused_since = None
        self._rate.accepted(start, self.clock.monotonic())
        self.advance()

    def throttled(self, start: Start, wait: float) -> None:
        now = self.clock.monotonic()
        if wait:
            self._rate.pause(now + wait, now)
        if self._refused_since is None:
            self._refused_since = now
        self._rate.throttled(start, now)

    def pause(self, seconds: float) -> None:
        now = self.clock.monotonic()
        self._rate.pause(now + seconds, now)

    def advance(self) -> None:
        """Let those start that may, in the order in which they came."""
        for place in [one for one in self._waiting if one.granted is not None]:
            self._grant(place, place.granted)  # an interrupt has cut this short
        now = self.clock.monotonic()
        while self._waiting:
            wait = self._rate.wait(now)
            if wait <= _SOON:
                wait, place = min(((one.held(now), one) for one in self._waiting), key=_seconds)
                if wait <= _SOON:
                    self._grant(place, Start(now))
                    continue
            self._look_again(now, now + wait)
            return

    def _grant(self, place: Place, start: Start | None) -> None:
        assert start is not None
        place.granted = start
        self._rate.start(start)
        if place.scope is not None:
            place.scope.wake()
        self._waiting.remove(place)

    def _look_again(self, now: float, at: float) -> None:
        """The first one that waits looks again at the moment `at`. The others are woken."""
        first = self._waiting[0]
        if at < first.wakes_at or first.wakes_at <= now:
            first.wakes_at = at
            if first.scope is not None:
                first.scope.wake()


def _number(place: Place) -> int:
    return place.number


def _seconds(held: tuple[float, Place]) -> float:
    return max(0.0, held[0])
