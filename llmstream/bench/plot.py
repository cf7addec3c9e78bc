"""A picture with two axes, as SVG. Milliseconds go up; what goes to the right is the picture's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..telemetry.timeline.scale import EDGE, WIDTH
from ..telemetry.timeline.text import duration, escaped

__all__ = ["STYLE", "Plot", "Tick", "steps"]

_LEFT = EDGE - WIDTH - 24.0  # px: where the axis begins
_TOP, _HEIGHT, _FOOT = 26.0, 200.0, 34.0  # px

Tick = tuple[float, str]  # a place on an axis, and its label

# The colours are those of the timeline's page, for light, dark and paper.
STYLE = """
.m-ttft{--c:var(--tick)}.m-e2e{--c:var(--mid)}.m-tpot{--c:var(--ok)}.m-bad{--c:var(--bad)}
.m-rate{--c:var(--soft)}
svg .dot{fill:var(--c);fill-opacity:.65}svg .cross{stroke:var(--c);stroke-width:1.6;fill:none}
svg .curve{stroke:var(--c);stroke-width:2;fill:none;stroke-linejoin:round}
svg .p99{stroke-dasharray:2 4}svg .p90{stroke-dasharray:8 4}
svg text.side{text-anchor:end;fill:var(--soft)}svg text.key{font-weight:600;fill:var(--c)}
h2{font-size:17px;margin:34px 0 4px;padding-top:14px;border-top:2px solid var(--line)}
.note{border-left:3px solid var(--mid);padding:2px 10px;margin:8px 0}
td.n,th.n{text-align:right}code{font-size:12px}
"""


def steps(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`, about five of them."""
    most = most if math.isfinite(most) and most > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(most / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if most / (power * factor) <= 5)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


class Plot:
    """Draws into one picture.

    Args:
        title: what it shows.
        right: the marks of the axis to the right, in their order.
        span: the first and the last value of that axis.
        most: the greatest value of the axis that goes up.
        unit: of that axis: "ms", or what stands after its numbers.
    """

    def __init__(
        self,
        title: str,
        right: Sequence[Tick],
        span: tuple[float, float],
        most: float,
        unit: str = "ms",
    ) -> None:
        self._title = title
        self._start, self._end = span[0], max(span[1], span[0] + 1e-9)
        marks = steps(most)
        self._most = marks[-1]
        self._drawn: list[str] = []
        self._keys = _LEFT
        for value in marks:
            label = duration(value) if unit == "ms" and value else f"{value:g}"
            self._drawn.append(
                f'<path class="grid" d="M{_LEFT:.0f} {self.y(value):.1f}H{_LEFT + WIDTH:.0f}"/>'
                f'<text class="side" x="{_LEFT - 6:.0f}" y="{self.y(value) + 4:.1f}">{label}</text>'
            )
        for at, label in right:
            self._drawn.append(
                f'<path class="grid" d="M{self.x(at):.1f} {_TOP:.0f}v{_HEIGHT + 4:.0f}"/>'
                f'<text class="axis" x="{self.x(at):.1f}" y="{_TOP + _HEIGHT + 18:.0f}">'
                f"{escaped(label)}</text>"
            )

    def x(self, at: float) -> float:
        return _LEFT + WIDTH * (at - self._start) / (self._end - self._start)

    def y(self, value: float) -> float:
        return _TOP + _HEIGHT * (1.0 - min(max(value / self._most, 0.0), 1.0))

    def dots(self, metric: str, points: Iterable[tuple[float, float]]) -> None:
        for at, value in points:
            self._drawn.append(
                f'<circle class="dot m-{metric}" cx="{self.x(at):.1f}" cy="{self.y(value):.1f}" '
                f'r="2.6"><title>{metric} {duration(value)}</title></circle>'
            )

    def crosses(self, points: Iterable[tuple[float, float, str]]) -> None:
        """Failures: when, after how long, and with which error."""
        for at, value, error in points:
            x, y = self.x(at), self.y(value)
            self._drawn.append(
                f'<path class="cross m-bad" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8">'
                f"<title>{escaped(error)} after {duration(value)}</title></path>"
            )

    def curve(self, metric: str, points: Sequence[tuple[float, float]], kind: str = "") -> None:
        if not points:
            return
        way = "L".join(f"{self.x(at):.1f} {self.y(value):.1f}" for at, value in points)
        self._drawn.append(f'<path class="curve m-{metric} {kind}" d="M{way}"/>')
        if len(points) == 1:
            self.dots(metric, points)

    def key(self, metric: str, label: str) -> None:
        """What a colour means."""
        self._drawn.append(
            f'<text class="key m-{metric}" x="{self._keys:.0f}" y="14">{escaped(label)}</text>'
        )
        self._keys += 8.0 * len(label) + 18.0

    def svg(self) -> str:
        height = _TOP + _HEIGHT + _FOOT
        return (
            f'<svg class="chart" role="img" aria-label="{escaped(self._title)}" '
            f'viewBox="0 0 {EDGE:.0f} {height:.0f}">{"".join(self._drawn)}</svg>'
        )

    def figure(self) -> str:
        return (
            f"<figure><figcaption>{escaped(self._title)}</figcaption>"
            f'<div class="scroll">{self.svg()}</div></figure>'
        )
