"""The pictures of a call: the whole call, and short attempts again at their own scale."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .canvas import Canvas, label_at
from .history import AttemptHistory, CallHistory
from .scale import EDGE, Scale
from .text import duration

__all__ = ["pictures"]

_MOST_ZOOMS = 4  # attempts of a call that are drawn again at their own scale
_SMALL = 400  # px: an attempt that is drawn smaller is drawn again


def pictures(history: CallHistory, ticks: int) -> str:
    """`ticks`: how many ticks a picture has at most."""
    whole = Scale(0.0, max(history.call.total_ms, 0.001))
    drawn = [_chart("the whole call", history, history.attempts, whole, ticks)]
    small = [
        attempt
        for attempt in history.attempts
        if len(attempt.arrivals) > 1 and whole.px(attempt.end - attempt.start) < _SMALL
    ]
    for attempt in small[-_MOST_ZOOMS:]:
        title = f"attempt {attempt.record.number} alone"
        scale = Scale(attempt.start, attempt.end)
        drawn.append(_chart(title, history, [attempt], scale, ticks))
    return "".join(drawn)


def _chart(
    title: str,
    history: CallHistory,
    attempts: Sequence[AttemptHistory],
    scale: Scale,
    ticks: int,
) -> str:
    first_token = history.call.first_token_ms
    marked = first_token is not None and scale.start <= first_token <= scale.end
    canvas = Canvas(scale)
    canvas.y = top = 36.0 if marked else 22.0
    waits = deque(wait for wait in history.waits if scale.shows(wait))
    for attempt in attempts:
        while waits and waits[0].start < attempt.start:
            canvas.wait(waits.popleft())
        canvas.attempt(attempt, ticks)
    if len(attempts) == len(history.attempts):
        for wait in waits:
            canvas.wait(wait)
    height = canvas.y + 4
    axis = _axis(scale, top, height)
    mark = (
        _first_token_mark(first_token, scale, height) if marked and first_token is not None else ""
    )
    return (
        f'<figure><figcaption>{title}</figcaption><div class="scroll">'
        f'<svg class="chart" role="img" aria-label="timeline: {title}" '
        f'viewBox="0 0 {EDGE:.0f} {height:.0f}">'
        f"{axis}{mark}{''.join(canvas.drawn)}</svg></div></figure>"
    )


def _axis(scale: Scale, top: float, bottom: float) -> str:
    drawn = []
    for at, label in scale.steps():
        x = scale.x(at)
        drawn.append(f'<path class="grid" d="M{x:.1f} {top - 4:.0f}V{bottom:.0f}"/>')
        drawn.append(f'<text class="axis" x="{x:.1f}" y="12">{label}</text>')
    return "".join(drawn)


def _first_token_mark(at: float, scale: Scale, bottom: float) -> str:
    x = scale.x(at)
    label = label_at(f"first token {duration(at)}", x + 5, 27, "first")
    return f'<path class="first" d="M{x:.1f} 17V{bottom:.0f}"/>{label}'
