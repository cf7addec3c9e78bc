"""When bytes that mean nothing are to be written, so that a browser that left is noticed."""

from __future__ import annotations

import math

__all__ = ["Beats"]

# A connection that the browser has closed refuses the second write, not the first: the answer to
# the first one is what says so. So a write that comes alone is followed by another one soon.
_ECHO = 0.5  # seconds


class Beats:
    """The heartbeats of one body. `at` is the moment of the next one.

    `heartbeat` is in seconds; infinity for none.
    """

    __slots__ = ("_echoes", "_heartbeat", "_written", "at")

    def __init__(self, heartbeat: float) -> None:
        self._heartbeat = heartbeat
        self._written = -math.inf  # when the last bytes were
        self._echoes = False  # the next heartbeat is the echo of a write that came alone
        self.at = math.inf

    def wrote(self, now: float, *, is_echo: bool = False) -> None:
        """Bytes are written now: the next heartbeat counts from here."""
        alone = now - self._written > _ECHO and self._heartbeat < math.inf
        self._echoes = alone and not is_echo
        self._written = now
        self.at = now + (min(_ECHO, self._heartbeat) if self._echoes else self._heartbeat)

    def beat(self, now: float) -> bool:
        """Whether a heartbeat is due, which then is written now."""
        if now < self.at:
            return False
        self.wrote(now, is_echo=self._echoes)
        return True
