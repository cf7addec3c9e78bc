"""Draws attempts and waits, one below the other, as SVG."""

from __future__ import annotations

import math

from .history import Arrivals, AttemptHistory, Gap, Span
from .scale import EDGE, WIDTH, Scale, text_width
from .style import PHASES
from .text import duration, ending, escaped

__all__ = ["Canvas", "label_at"]

_BAR, _LANE, _LINE = 18.0, 22.0, 15.0  # px: heights of a bar, of the ticks, of a line of text


def label_at(label: str, x: float, y: float, kind: str) -> str:
    """Text that begins at x, or ends at the right edge where it has no room."""
    place = f'x="{x:.1f}"' if x + text_width(label) <= EDGE else f'x="{EDGE:.0f}" text-anchor="end"'
    return f'<text class="{kind}" {place} y="{y:.0f}">{escaped(label)}</text>'


class Canvas:
    """Draws from top to bottom. Each line of text has a height of its own, so no two lines
    overlap."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.y = 0.0
        self.drawn: list[str] = []

    def wait(self, wait: Span) -> None:
        x, width = self._bar(wait, self.y + 2, _BAR - 6)
        self._name(wait.name, faint=True)
        self._label(duration(wait.ms), x + width + 5, self.y + 12)
        self.y += _BAR + 4

    def attempt(self, attempt: AttemptHistory, ticks: int) -> None:
        self._name(f"attempt {attempt.record.number}")
        self._phases(attempt)
        self.y += _BAR + 4
        if len(attempt.arrivals):
            self._ticks(attempt.arrivals, ticks)
            self.y += _LANE
            self._gaps(attempt)
        if attempt.record.outcome != "success":
            self._ending(attempt)
        self.y += 8

    def _name(self, name: str, *, faint: bool = False) -> None:
        kind = "name faint" if faint else "name"
        self.drawn.append(f'<text class="{kind}" x="0" y="{self.y + 13:.0f}">{name}</text>')

    def _label(self, label: str, x: float, y: float, kind: str = "label") -> None:
        self.drawn.append(label_at(label, x, y, kind))

    def _bar(self, span: Span, y: float, height: float) -> tuple[float, float]:
        x = self.scale.x(span.start)
        width = max(1.5, self.scale.x(span.end) - x)
        kind = span.name if span.name in PHASES else "other"
        self.drawn.append(
            f'<rect class="p-{kind}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" '
            f'height="{height:.0f}"><title>{escaped(span.name)}: {duration(span.ms)}, '
            f"from {duration(span.start)}</title></rect>"
        )
        return x, width

    def _phases(self, attempt: AttemptHistory) -> None:
        seen: set[str] = set()
        for span in attempt.spans:
            # The first of each name, however short; of the others only those that can be seen.
            if span.name in seen and self.scale.px(span.ms) < 1:
                continue
            seen.add(span.name)
            x, width = self._bar(span, self.y, _BAR)
            label = f"{span.name} {duration(span.ms)}"
            if text_width(label) + 8 > width:
                label = span.name
            if text_width(label) + 8 <= width:
                self._label(label, x + 4, self.y + 13, "inside")

    def _ticks(self, arrivals: Arrivals, ticks: int) -> None:
        """One tick for arrivals that fall together, at most `ticks` of them. Its height is the
        share of the tick with the most chunks."""
        unit = WIDTH / ticks
        merged: dict[int, tuple[float, int]] = {}
        for at, chunks in arrivals:
            key = int(self.scale.x(at) / unit)
            first, before = merged.get(key, (at, 0))
            merged[key] = first, before + chunks
        most = max((chunks for _, chunks in merged.values()), default=1) or 1
        base = self.y + _LANE - 2
        for at, chunks in merged.values():
            height = 6 + (_LANE - 8) * math.sqrt(chunks / most)
            self.drawn.append(
                f'<path class="tick" d="M{self.scale.x(at):.1f} {base:.0f}v-{height:.0f}">'
                f"<title>{duration(at)}: {chunks} chunk{'' if chunks == 1 else 's'}</title></path>"
            )

    def _gaps(self, attempt: AttemptHistory) -> None:
        """The longest gaps that can be seen, as far as their labels have room. For an attempt that
        failed, first the silence before its end."""
        gaps = [(gap, duration(gap.ms)) for gap in attempt.arrivals.gaps]
        if attempt.record.outcome != "success":
            silence = attempt.end - attempt.arrivals.last
            gaps.insert(0, (Gap(silence, attempt.end), f"nothing more for {duration(silence)}"))
        taken: list[tuple[float, float]] = []
        for gap, label in gaps:
            start, end = self.scale.x(gap.at - gap.ms), self.scale.x(gap.at)
            if end - start < 6:
                continue
            half = text_width(label) / 2
            middle = min(EDGE - half, (start + end) / 2)
            if any(middle - half < b and middle + half > a for a, b in taken):
                continue
            taken.append((middle - half - 6, middle + half + 6))
            self.drawn.append(
                f'<path class="gap" d="M{start:.1f} {self.y:.0f}v3H{end:.1f}v-3"/>'
                f'<text class="gap" x="{middle:.1f}" y="{self.y + 14:.0f}">{label}</text>'
            )
        if taken:
            self.y += _LINE

    def _ending(self, attempt: AttemptHistory) -> None:
        record = attempt.record
        label = f"✕ {ending(record)}, in phase {record.phase}"
        if record.status is not None and str(record.status) != record.error_code:
            label += f", HTTP {record.status}"
        x = self.scale.x(attempt.end)
        self.drawn.append(f'<path class="error" d="M{x:.1f} {self.y - 4:.0f}v5"/>')
        self._label(label, x - 4, self.y + 11, "error")
        self.y += _LINE
