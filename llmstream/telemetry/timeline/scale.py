"""The time axis of a picture: from milliseconds to pixels."""

from __future__ import annotations

import math

from .history import Span

__all__ = ["EDGE", "WIDTH", "Scale", "text_width"]

_NAMES, WIDTH, _PAD = 96.0, 1000.0, 24.0  # px: the names' column, the time's, the right margin
EDGE = _NAMES + WIDTH + _PAD  # px: the right edge
_LETTER = 6.8  # px: about the widest letter at 11 px


def text_width(label: str) -> float:
    """The width of a label, in px, at most."""
    return len(label) * _LETTER


class Scale:
    """From ms since the start of the call to the picture's x."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, max(end, start + 0.001)

    def px(self, ms: float) -> float:
        return ms * WIDTH / (self.end - self.start)

    def x(self, at: float) -> float:
        return _NAMES + min(WIDTH, max(0.0, self.px(at - self.start)))

    def shows(self, span: Span) -> bool:
        return span.end >= self.start and span.start <= self.end

    def steps(self) -> list[tuple[float, str]]:
        """Where the axis has its marks, and their labels."""
        span = self.end - self.start
        power = 10.0 ** math.floor(math.log10(span / 8))
        step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 10)
        unit, divisor = ("s", 1000.0) if span >= 2000 else ("ms", 1.0)
        digits = max(0, -math.floor(math.log10(step / divisor) + 1e-9))
        first = math.ceil(self.start / step - 1e-9)
        last = math.floor(self.end / step + 1e-9)
        return [
            (n * step, f"{n * step / divisor:.{digits}f} {unit}") for n in range(first, last + 1)
        ]
