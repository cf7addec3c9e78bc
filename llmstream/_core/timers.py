"""The five clocks as arithmetic: which one has run out at a moment, and when the next one would.

Pure: moments, in seconds on a monotonic scale of the caller's choice, are arguments. The names of
the clocks are in `phase`.
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
    """The five clocks of a call, in seconds; None turns a clock off. Immutable.

    ============= ======= ============================== ==========================================
    clock         default runs from                      reset by
    ============= ======= ============================== ==========================================
    `connect`     10      the start of DNS               nothing; covers DNS, TCP and TLS over all
                                                         addresses
    `first_token` 300     the request was sent           nothing; ends at the first content
    `idle`        180     the first content              progress: content, a tool's status, an item
                                                         begun or done; not by pings
    `silence`     90      the first byte of the response any byte
    `total`       off     the start of the call          nothing; covers retries and waits: the
                                                         hard deadline
    ============= ======= ============================== ==========================================

    Sending the request has the same limit as `first_token`. A clock that runs out ends the attempt
    with its error (ConnectTimeout, FirstTokenTimeout, IdleTimeout, SilenceTimeout), or the call
    (DeadlineExceeded).

    The clocks run only while the library waits for the network, never while the body of the
    caller's loop runs; only `total` always runs. An attempt that resumes an answer runs `idle`
    instead of `first_token`.

    Raises ConfigurationError for a value that is not a number greater than 0.
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
    """The state of one call's clocks. For the reader's thread, except `at` and `expired`, which
    the watchdog's thread reads.

    One of connect, first_token and idle runs at a time: `phase_clock`, with `left` seconds of it
    left. Silence runs beside it after the first byte, and total always. The clocks run between
    `begin_wait` and `end_wait`; at other times only total does. `waited` is the sum of these waits,
    in seconds. `at` is the moment at which the first clock runs out if nothing happens.
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
        self.resumed = False  # the request is for the rest of an answer that has content already
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
        """The request is about to be sent; or, called again, it has been sent."""
        if self.resumed:
            self._run(_IDLE, self._idle)
        else:
            self._run(ClockName.FIRST_TOKEN, _seconds(self.timeouts.first_token))
        self._silence = _OFF  # bytes so far were a proxy's, not the service's

    def content(self) -> None:
        """Content has arrived."""
        self._run(_IDLE, self._idle)

    def progress(self) -> None:
        """Progress other than content has arrived: it resets idle, and ends no other clock."""
        if self.phase_clock is _IDLE:
            self.left = self._idle

    def linger(self, seconds: float) -> None:
        """The answer has ended: wait at most `seconds` for the rest of the stream."""
        self._run(ClockName.LINGER, seconds)
        self._silence = _OFF

    def back_off(self) -> None:
        """The wait between two attempts begins: only total runs."""
        self._run(ClockName.BACKOFF, _OFF)
        self._silence = _OFF
        self._since = None
        self.at = self._total

    def _run(self, phase_clock: ClockName, seconds: float) -> None:
        self.phase_clock = phase_clock
        self.left = seconds

    def begin_wait(self, now: float) -> float:
        """The reader begins to wait for the network; returns `at`."""
        if self._since is not None:
            self.end_wait(now, received=False)
        self._since = now
        first = self.left if self.left < self._silence else self._silence
        at = now + first
        self.at = at = at if at < self._total else self._total
        return at

    def end_wait(self, now: float, *, received: bool) -> None:
        """The wait is over; `received`: whether bytes have arrived."""
        since = self._since
        if since is None:
            return
        self._since = None
        self.at = self._total
        took = now - since
        self.waited += took
        self.left -= took
        # Bytes that arrive while connecting are a proxy's, not the service's.
        if received and self.phase_clock is not ClockName.CONNECT:
            self._silence = _seconds(self.timeouts.silence)
        else:
            self._silence -= took

    def remaining(self, now: float) -> float:
        """Seconds until the hard deadline, inf if there is none."""
        return self._total - now

    def expired(self, now: float) -> ClockName | None:
        """The clock that has run out first, or None."""
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
