"""The five clocks as arithmetic: which one has run out at a moment, and when the next one would.

Pure: moments, in seconds on a monotonic scale of the caller's choice, are arguments. The names of
the clocks are in `phase`.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from ..errors import ConfigurationError
from .checks import CENTURY, is_number, shown
from .phase import ClockName

__all__ = ["Timeouts", "Timers"]

_OFF = math.inf
_AUTO = "auto"
_AUTO_SILENCE = 90.0
_CONNECT, _FIRST_TOKEN, _IDLE = ClockName.CONNECT, ClockName.FIRST_TOKEN, ClockName.IDLE


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
    `silence`     "auto"  the first content              any byte: pings, comments, keepalives too
    `total`       off     the start of the call          nothing; covers retries and waits: the
                                                         hard deadline
    ============= ======= ============================== ==========================================

    Before the first content only `first_token` and `total` rule: a server that sends its headers
    and then computes a long prompt is not dead. After it, `silence="auto"` means 90 seconds, but
    only once this response has sent a sign of life (a ping, a comment or a keepalive, at any time):
    a service that never sends one may be quiet in mid-answer until `idle` runs out. A number holds
    always.

    Sending the request has the same limit as `first_token`. A clock that runs out ends the attempt
    with its error (ConnectTimeout, FirstTokenTimeout, IdleTimeout, SilenceTimeout), or the call
    (DeadlineExceeded).

    The clocks run from the moment at which the library begins to wait for the network until it
    hands over what arrived, never while the body of the caller's loop runs; only `total` always
    runs. An attempt that resumes an answer runs `idle` instead of `first_token`.

    Raises ConfigurationError for a value that is not a number greater than 0 and at most
    3,153,600,000 (a century); "auto" for `silence`, and math.inf for no limit, are excepted.
    """

    connect: float | None = 10.0
    first_token: float | None = 300.0
    idle: float | None = 180.0
    silence: float | Literal["auto"] | None = "auto"
    total: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None or (is_number(value) and (0 < value <= CENTURY or value == _OFF)):
                continue
            if name == "silence" and isinstance(value, str) and value == _AUTO:
                continue
            words = ', "auto",' if name == "silence" else ","
            raise ConfigurationError(
                f"Timeouts({name}={shown(value)}): give seconds greater than 0 and at most "
                f"{CENTURY:,.0f} (a century){words} or None for no limit"
            )

    def seconds(self, name: str) -> float | None:
        """What the clock `name` is set to: its seconds, those of "auto" too, or None."""
        value: float | str | None = getattr(self, name)
        return _AUTO_SILENCE if isinstance(value, str) else value


def _seconds(value: float | None) -> float:
    return _OFF if value is None else value


class Timers:
    """The state of one call's clocks. For the reader's thread, except `at` and `expired`, which
    the watchdog's thread reads.

    One of connect, first_token and idle runs at a time: `phase_clock`, with `left` seconds of it
    left. Silence runs beside idle, and total always. The clocks run from `begin_wait` to `end_wait`
    and, silence excepted, from there to the next `begin_wait` or to `hand_over`: a service that
    sends as fast as the library reads keeps it from waiting at all. At other times only total does.
    `waited` is the sum of the waits, in seconds. `at` is the moment at which the first clock runs
    out in this wait if nothing happens.
    """

    __slots__ = (
        "_alive",
        "_idle",
        "_silence",
        "_silence_limit",
        "_since",
        "_total",
        "_working_since",
        "at",
        "left",
        "phase_clock",
        "resumed",
        "timeouts",
        "waited",
    )

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self.timeouts = timeouts
        self.phase_clock = _CONNECT
        self.resumed = False  # the request is for the rest of an answer that has content already
        self._idle = _seconds(timeouts.idle)
        # Seconds left; and of silence what any byte resets it to, as things are.
        self.left = self._silence = self._silence_limit = _OFF
        self._alive = False  # this response has sent a sign of life
        # Since when the library waits, and since when it works on what arrived.
        self._since: float | None = None
        self._working_since: float | None = None
        self.waited = 0.0
        self.start(now)

    def start(self, now: float) -> None:
        """The call starts at `now`: total runs from then on."""
        total = self.timeouts.total
        self.at = self._total = _OFF if total is None else now + total

    def connecting(self) -> None:
        """A new attempt begins."""
        self._run(_CONNECT, _seconds(self.timeouts.connect))

    def requesting(self) -> None:
        """The request is about to be sent; or, called again, it has been sent."""
        # Bytes so far, and signs of life, were those of a proxy or of the response before.
        self._alive = False
        if self.resumed:
            self._run(_IDLE, self._idle)
            self._silence_limit = self._silence_in_force()  # from the first byte on
        else:
            self._run(_FIRST_TOKEN, _seconds(self.timeouts.first_token))

    def content(self) -> None:
        """Content has arrived."""
        if self.phase_clock is not _IDLE:  # the first one
            self.phase_clock = _IDLE
            self._silence = self._silence_limit = self._silence_in_force()
        self.left = self._idle
        self._working_since = None

    def sign_of_life(self) -> None:
        """A ping, a comment or a keepalive has arrived: from now on the service's silence means
        that it is dead."""
        if not self._alive:
            self._alive = True
            if self.phase_clock is _IDLE:
                self._silence = self._silence_limit = self._silence_in_force()

    def _silence_in_force(self) -> float:
        silence = self.timeouts.silence
        if isinstance(silence, str):
            return _AUTO_SILENCE if self._alive else _OFF
        return _seconds(silence)

    def progress(self) -> None:
        """Progress other than content has been handed over: it resets idle, and ends no other
        clock."""
        if self.phase_clock is _IDLE:
            self.left = self._idle

    def linger(self, seconds: float) -> None:
        """The answer has ended: wait at most `seconds` for the rest of the stream."""
        self._run(ClockName.LINGER, seconds)

    def back_off(self) -> None:
        """The wait between two attempts begins: only total runs."""
        self._run(ClockName.BACKOFF, _OFF)
        self._since = None
        self.at = self._total

    def _run(self, phase_clock: ClockName, seconds: float) -> None:
        self.phase_clock = phase_clock
        self.left = seconds
        self._working_since = None
        self._silence = self._silence_limit = _OFF

    def begin_wait(self, now: float) -> float:
        """The reader begins to wait for the network; returns `at`."""
        if self._since is not None:
            self.end_wait(now, received=False)
        working_since = self._working_since
        if working_since is not None:
            self.left -= now - working_since
        self._since = now
        first = self.left if self.left < self._silence else self._silence
        at = now + first
        self.at = at = at if at < self._total else self._total
        return at

    def begin_connect(self, now: float) -> float:
        """`connecting`, and a wait for it begins at `now`; returns `at`."""
        seconds = self.timeouts.connect
        return self._begin(_CONNECT, _OFF if seconds is None else seconds, now)

    def begin_request(self, now: float) -> float:
        """The wait that runs, if any, is over, without a byte; `requesting`, and a wait for that
        begins; returns `at`."""
        if self.resumed:
            self.end_wait(now, received=False)
            self.requesting()
            return self.begin_wait(now)
        self._alive = False
        seconds = self.timeouts.first_token
        return self._begin(_FIRST_TOKEN, _OFF if seconds is None else seconds, now)

    def _begin(self, phase_clock: ClockName, seconds: float, now: float) -> float:
        since = self._since
        if since is not None:
            self.waited += now - since
        self.phase_clock = phase_clock
        self.left = seconds
        self._since = now
        self._working_since = None
        self._silence = self._silence_limit = _OFF
        at = now + seconds
        self.at = at = at if at < self._total else self._total
        return at

    def end_wait(self, now: float, *, received: bool) -> None:
        """The wait is over; `received`: whether bytes have arrived."""
        since = self._since
        if since is None:
            return
        self._since = None
        self._working_since = now
        self.at = self._total
        took = now - since
        self.waited += took
        self.left -= took
        if received:
            self._silence = self._silence_limit
        else:
            self._silence -= took

    def hand_over(self, now: float) -> None:
        """The caller gets what has arrived; until the next `begin_wait` only total runs."""
        working_since = self._working_since
        if working_since is not None:
            self._working_since = None
            self.left -= now - working_since

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
