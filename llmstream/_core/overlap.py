"""Where a continued answer meets what had come before: a model often repeats its last words."""

from __future__ import annotations

__all__ = ["OverlapTrimmer"]

LONGEST = 400  # characters of an overlap that are recognised
SHORTEST = 20  # fewer may be chance


class OverlapTrimmer:
    """Removes an exact overlap of 20 to 400 characters between `before` and what is fed.

    New text is held back only while it could still turn out to be the overlap: as long as it is
    the beginning of some end of `before`. Not thread-safe.
    """

    __slots__ = ("_held", "_starts", "_tail", "open")

    def __init__(self, before: str) -> None:
        self._tail = before[-LONGEST:]
        # where in the tail an overlap might begin
        self._starts = range(max(0, len(self._tail) - SHORTEST + 1))
        self._held = ""
        self.open = len(self._starts) > 0

    def feed(self, text: str) -> str:
        """What of the text so far, and of `text`, is new and certain."""
        if not self.open:
            return text
        self._held += text
        if any(self._undecided(start) for start in self._starts):
            return ""
        return self.close()

    def _undecided(self, start: int) -> bool:
        """More text could make, or unmake, an overlap that begins at `start`."""
        left = len(self._tail) - start
        return len(self._held) < left and self._tail.startswith(self._held, start)

    def close(self) -> str:
        """No more comes: what is left once the longest overlap is gone."""
        held, self._held, self.open = self._held, "", False
        for start in self._starts:  # the longest first
            overlap = self._tail[start:]
            if held.startswith(overlap):
                return held[len(overlap) :]
        return held
