"""The five clocks as arithmetic: which one is broken at `now`, and when to look next.

Seconds on any monotonic scale go in; nothing here knows what time it is.
"""

from __future__ import annotations

import math

from msgspec import Struct

from ..errors import ConfigurationError
from .phase import ClockName

__all__ = ["Timeouts", "Timers"]

_OFF = math.inf
_IDLE = ClockName.IDLE


class Timeouts(Struct, frozen=True):
    """The time boundaries of a call, in seconds; None turns a clock off.

    ============= ======= ===================================== =================================
    clock         default runs from                             reset by
    ============= ======= ===================================== =================================
    `connect`     10      the start of DNS                      nothing; DNS, TCP and TLS, over
                                                                all addresses
    `first_token` 300     the request sent                      ends at the first content
    `idle`        180     the first content                     progress: content, a tool's
                                                                status, an item begun or done;
                                                                not pings
    `silence`     90      the first byte of the response        any byte at all
    `total`       off     the start of the call                 nothing: the hard deadline, over
                                                                retries and waits
    ============= ======= ===================================== =================================

    The clocks run only while the library waits for the network, never while the caller's loop
    body runs; `total` always runs. Raises ConfigurationError for what is not a positive number.
    """

    connect: float | None = 10.0
    first_token: float | None = 300.0
    idle: float | None = 180.0
    silence: float | None = 90.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(
                    f"Timeouts({name}={value!r}): give seconds greater than 0, or None for no limit"
                )


def _seconds(value: float | None) -> float:
    return _OFF if value is None else value


class Timers:
    """The state of one call's clocks.

    One of connect, first_token and idle runs at a time (`phase_clock`, `left` seconds of it), with
    silence beside it once a byte has come, and total over all. `at` is the moment at which the
    first of them breaks while nothing happens: one attribute that another thread may read.
    Between `begin_wait` and `end_wait` the clocks run; otherwise only total does. `waited` is the sum of
    those times.
    """

    __slots__ = (
        "_idle",
        "_silence",
        "_since",
        "_total",
        "at",
        "left",
        "phase_clock",
        "resumed",
        "timeouts",
        "waited",
    )

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self.timeouts = timeouts
        self.phase_clock = ClockName.CONNECT
        self.resumed = False  # the request is for the rest of an answer whose content has come
        self.left = _OFF
        self._idle = _seconds(timeouts.idle)
        self._silence = _OFF
        self._since: float | None = None
        self.waited = 0.0
        self._total = now + _seconds(timeouts.total)
        self.at = self._total

    def connecting(self) -> None:
        """A new attempt begins."""
        self._run(ClockName.CONNECT, _seconds(self.timeouts.connect))
        self._silence = _OFF

    def requesting(self) -> None:
        """The connection stands, the request goes out (and again when it is out)."""
        if self.resumed:
            self._run(_IDLE, self._idle)
        else:
            self._run(ClockName.FIRST_TOKEN, _seconds(self.timeouts.first_token))
        self._silence = _OFF  # a proxy's words were not the service's

    def content(self) -> None:
        """Content came."""
        self._run(_IDLE, self._idle)

    def progress(self) -> None:
        """Progress came that is no content: keeps idle from running out, ends no other clock."""
        if self.phase_clock is _IDLE:
            self.left = self._idle

    def linger(self, seconds: float) -> None:
        """The answer is complete: wait at most this long for what may still follow."""
        self._run(ClockName.LINGER, seconds)
        self._silence = _OFF

    def rest(self) -> None:
        """Between two attempts: only total runs."""
        self._run(ClockName.BACKOFF, _OFF)
        self._silence = _OFF
        self._since = None
        self.at = self._total

    def _run(self, phase_clock: ClockName, seconds: float) -> None:
        self.phase_clock = phase_clock
        self.left = seconds

    def begin_wait(self, now: float) -> float:
        """The library begins to wait for the network; returns `at`."""
        if self._since is not None:
            self.end_wait(now, received=False)
        self._since = now
        first = self.left if self.left < self._silence else self._silence
        at = now + first
        self.at = at = at if at < self._total else self._total
        return at

    def end_wait(self, now: float, *, received: bool) -> None:
        """The wait is over, with bytes or without."""
        since = self._since
        if since is None:
            return
        self._since = None
        self.at = self._total
        took = now - since
        self.waited += took
        self.left -= took
        if (
            received and self.phase_clock is not ClockName.CONNECT
        ):  # a proxy's words are not the service's
            self._silence = _seconds(self.timeouts.silence)
        else:
            self._silence -= took

    def remaining(self, now: float) -> float:
        """Seconds until the hard deadline (inf where there is none)."""
        return self._total - now

    def broken(self, now: float) -> ClockName | None:
        """The clock that ran out first, or None."""
        if now < self.at:
            return None
        since = self._since
        due = [(self._total, ClockName.TOTAL)]
        if since is not None:
            due += [
                (since + self.left, self.phase_clock),
                (since + self._silence, ClockName.SILENCE),
            ]
        at, name = min(due)
        return name if at <= now else None
