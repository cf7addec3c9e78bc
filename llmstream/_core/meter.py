"""The measurements of one call: moments and counts in, `Attempt` and `Timings` out.

Moments and waits that go in are in seconds; what goes out is in milliseconds. Pure: the caller
reads the clock.
"""

from __future__ import annotations

import msgspec

from ..result import Attempt, LLMStreamError, Timings, Usage

__all__ = ["Meter", "usage_since"]

_NOTHING = Usage()


class Meter:
    """The measurements of one call, of its current attempt and of the attempts that have ended.

    Moments are seconds on a monotonic scale of the caller's choice. The reader's thread writes; any
    thread may read. `begun` is the start of the call, `first_content` the first content of all
    attempts, `first_token` that of the current one; `rested` and `throttled` are in seconds.
    """

    __slots__ = (
        "_attempt_begun",
        "_attempts",
        "_contents",
        "_ended",
        "_last_event",
        "_last_token",
        "_longest_gap",
        "_used",
        "_waited",
        "begun",
        "first_content",
        "first_token",
        "rested",
        "throttled",
    )

    def __init__(self) -> None:
        self.begun = 0.0
        self._ended: float | None = None
        self.first_content: float | None = None  # of all attempts
        self.rested = 0.0  # the sum of the waits between attempts
        self.throttled = 0.0  # the wait before the next attempt, asked for by the service
        # The attempts that have ended, and whether another one runs: one value, because another
        # thread may read while this one is written.
        self._attempts: tuple[tuple[Attempt, ...], bool] = ((), False)
        # The current attempt:
        self._attempt_begun = 0.0
        self.first_token: float | None = None
        self._last_event: float | None = None
        self._last_token: float | None = None
        self._waited = 0.0  # `Timers.waited` at the last arrival of content
        self._longest_gap: float | None = None
        self._contents = 0  # the session's count before this attempt
        self._used = _NOTHING  # the session's usage before this attempt

    # -- moments in

    def begin_attempt(self, now: float, contents: int, used: Usage) -> None:
        """A new attempt begins. `contents` and `used` are the session's so far: a session may go on
        with the answer of an earlier attempt."""
        self._attempt_begun = now
        self.first_token = self._last_event = self._last_token = None
        self._longest_gap = None
        self._contents = contents
        self._used = used
        self._attempts = (self._attempts[0], True)

    def event(self, now: float) -> None:
        """Events without content have arrived."""
        self._last_event = now

    def content(self, now: float, waited: float) -> float | None:
        """Events with content have arrived. `waited` is the sum of all waits for the network.
        Returns the seconds waited since the last content, None for the first of an attempt."""
        gap = None
        if self.first_token is None:
            self.first_token = now
            if self.first_content is None:
                self.first_content = now
        else:
            gap = waited - self._waited
            if self._longest_gap is None or gap > self._longest_gap:
                self._longest_gap = gap
        self._waited, self._last_token, self._last_event = waited, now, now
        return gap

    def add(self, attempt: Attempt) -> None:
        """The current attempt has ended, with `attempt` as its record."""
        self._attempts = ((*self._attempts[0], attempt), False)
        self.throttled = 0.0

    def end(self, now: float) -> None:
        """The call has ended."""
        self._ended = now

    # -- values out

    @property
    def attempts(self) -> tuple[tuple[Attempt, ...], bool]:
        """The attempts that have ended, and whether another one runs."""
        return self._attempts

    def attempt(
        self,
        now: float,
        *,
        phase: str,
        error: LLMStreamError | None,
        delay: float,
        usage: Usage,
        contents: int,
        number: int | None = None,
        status: int | None = None,
        request_id: str | None = None,
        received: int = 0,
        resent: bool = False,
        service_tier: str | None = None,
        media: frozenset[str] = frozenset(),
    ) -> Attempt:
        """The record of the current attempt so far. `delay` is in seconds; `contents` and `usage`
        are the session's."""
        now = now if self._ended is None else self._ended
        first, gap = self.first_token, self._longest_gap
        return Attempt(
            number=number or len(self._attempts[0]) + 1,
            started_ms=(self._attempt_begun - self.begun) * 1000.0,
            phase=phase,
            error=error,
            delay_ms=delay * 1000.0,
            usage=usage_since(usage, self._used),
            status=status,
            request_id=request_id,
            resent=resent,
            first_token_ms=None if first is None else (first - self._attempt_begun) * 1000.0,
            duration_ms=(now - self._attempt_begun) * 1000.0,
            bytes=received,
            throttled_ms=self.throttled * 1000.0,
            chunks=contents - self._contents,
            longest_gap_ms=None if gap is None else gap * 1000.0,
            service_tier=service_tier,
            media=tuple(sorted(media)),
        )

    def timings(self, now: float, attempts: tuple[Attempt, ...]) -> Timings:
        """The timings of the call, whose attempts so far are `attempts`."""
        return Timings(
            first_token_ms=self.first_token_ms,
            total_ms=self.total_ms(now) if attempts else 0.0,
            attempts=tuple(attempt.started_ms for attempt in attempts),
        )

    @property
    def first_token_ms(self) -> float | None:
        """Milliseconds from the start of the call to its first content, or None."""
        first = self.first_content
        return None if first is None else (first - self.begun) * 1000.0

    def total_ms(self, now: float) -> float:
        """Milliseconds from the start of the call to its end, or to `now` while it runs."""
        return ((now if self._ended is None else self._ended) - self.begun) * 1000.0

    def since(self, now: float, last_byte: float | None) -> str:
        """How long ago the last byte, event and token arrived, as text for an error's message."""
        moments = (("byte", last_byte), ("event", self._last_event), ("token", self._last_token))
        return ", ".join(
            f"no {name} yet" if at is None else f"last {name} {now - at:.1f} s ago"
            for name, at in moments
        )


def usage_since(usage: Usage, before: Usage) -> Usage:
    """`usage` minus `before`: for a resumed answer the service reports the usage of the whole
    answer, not of the last request."""
    if usage is before:
        return Usage()
    if before == _NOTHING:
        return usage
    fields = Usage.__struct_fields__
    parts = zip(
        fields, msgspec.structs.astuple(usage), msgspec.structs.astuple(before), strict=True
    )
    return Usage(**{n: None if now is None else now - (known or 0) for n, now, known in parts})
