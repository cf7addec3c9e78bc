"""Removes what a continued answer repeats: a model that is asked to go on often begins with the
last words of the text it was given. Imports nothing."""

from __future__ import annotations

__all__ = ["OverlapTrimmer"]

LONGEST = 400  # characters: a longer overlap is not recognised
SHORTEST = 20  # characters: a shorter overlap may be chance


class OverlapTrimmer:
    """Removes an exact overlap of 20 to 400 characters between the end of `before` and the
    beginning of the text that is fed.

    New text is held back only while it may still be the overlap, that is, while it is the beginning
    of some end of `before`. `open` is true until that is decided. Not thread-safe.
    """

    __slots__ = ("_held", "_starts", "_tail", "open")

    def __init__(self, before: str) -> None:
        self._tail = before[-LONGEST:]
        # the positions in the tail at which an overlap may begin
        self._starts = range(max(0, len(self._tail) - SHORTEST + 1))
        self._held = ""
        self.open = len(self._starts) > 0

    def feed(self, text: str) -> str:
        """Take a further piece of text; returns the text that is certainly new, perhaps ""."""
        if not self.open:
            return text
        self._held += text
        if any(self._undecided(start) for start in self._starts):
            return ""
        return self.close()

    def _undecided(self, start: int) -> bool:
        """Whether an overlap that begins at `start` depends on text that has not arrived yet."""
        left = len(self._tail) - start
        return len(self._held) < left and self._tail.startswith(self._held, start)

    def close(self) -> str:
        """Decide now; returns the held text without the longest overlap."""
        held, self._held, self.open = self._held, "", False
        for start in self._starts:  # the longest first
            overlap = self._tail[start:]
            if held.startswith(overlap):
                return held[len(overlap) :]
        return held
