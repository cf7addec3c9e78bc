"""The pictures of a benchmark: every request, the percentiles, and the levels beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from ..telemetry.timeline.scale import Scale
from .level import LevelReport
from .plot import Plot, Tick
from .statistics import Distribution, Sample, percentile

__all__ = ["levels_pictures", "percentile_plot", "requests_plot"]

_MOST_DOTS = 600  # of a metric in a picture
_POINTS = 200  # of a curve


def requests_plot(level: LevelReport, metrics: Sequence[str] = ("e2e", "ttft")) -> Plot:
    """These metrics of every request, at the moment when it was due."""
    samples = [sample for sample in level.samples if not sample.interrupted]
    times = Scale(0.0, max(level.seconds * 1000.0, 1.0))
    plot = Plot(
        "every request, at its scheduled start",
        times.steps(),
        (times.start, times.end),
        max((value for one in samples for value in _values(one, metrics)), default=1.0),
    )
    for metric in metrics:
        plot.key(metric, metric)
        points = (
            (_at(sample, level), value)
            for sample in samples
            if (value := sample.value(metric)) is not None
        )
        plot.dots(metric, _thinned(list(points), times.end))
    failures = [
        (_at(sample, level), value, sample.error or "")
        for sample in samples
        if (value := sample.value("failed_after")) is not None
    ]
    if failures:
        plot.key("bad", "failed")
        plot.crosses(failures[:: -(-len(failures) // _MOST_DOTS)])
    return plot


def percentile_plot(level: LevelReport) -> Plot:
    """The values of ttft and e2e from the least to the greatest."""
    ordered = {
        metric: sorted(
            value for sample in level.samples if (value := sample.value(metric)) is not None
        )
        for metric in ("e2e", "ttft")
    }
    marks = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0]
    ticks: list[Tick] = [(mark, f"{mark:.0%}") for mark in marks]
    most = max((values[-1] for values in ordered.values() if values), default=1.0)
    plot = Plot("share of requests that took no longer", ticks, (0.0, 1.0), most)
    for metric, values in ordered.items():
        plot.key(metric, metric)
        if values:
            shares = [number / _POINTS for number in range(_POINTS + 1)]
            plot.curve(metric, [(share, percentile(values, share)) for share in shares])
    return plot


def levels_pictures(reports: Sequence[LevelReport]) -> list[Plot]:
    """Latencies and throughput against the load."""
    ticks: list[Tick] = [(float(at), level.name) for at, level in enumerate(reports)]
    span = (-0.3, len(reports) - 0.7)
    plots = []
    for metric, title in (
        ("ttft", "time to first token, by level"),
        ("tpot", "time per output token, by level"),
    ):
        found = [level.distributions[metric] for level in reports]
        plot = Plot(title, ticks, span, max((one.p99 or 0.0 for one in found), default=0.0))
        for name in ("p50", "p90", "p99"):
            plot.curve(metric, _line(found, name), name)
        plot.key(metric, "p50 solid, p90 dashed, p99 dotted")
        plots.append(plot)
    rates = [level.output_tokens_per_second or 0.0 for level in reports]
    plot = Plot("tokens a second of all streams, by level", ticks, span, max(rates), "")
    plot.curve("rate", [(float(at), rate) for at, rate in enumerate(rates)])
    return [*plots, plot]


def _line(found: Sequence[Distribution], name: str) -> list[tuple[float, float]]:
    values = [(float(at), getattr(one, name)) for at, one in enumerate(found)]
    return [(at, value) for at, value in values if value is not None]


def _values(sample: Sample, metrics: Sequence[str]) -> list[float]:
    each = (sample.value(metric) for metric in (*metrics, "failed_after"))
    return [value for value in each if value is not None]


def _at(sample: Sample, level: LevelReport) -> float:
    return (sample.scheduled - level.begun) * 1000.0


def _thinned(points: list[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """At most `_MOST_DOTS` of them: of many in the same stretch of time the greatest and the least,
    so that no stall is left out."""
    if len(points) <= _MOST_DOTS:
        return points
    stretches: dict[int, tuple[tuple[float, float], tuple[float, float]]] = {}
    for at, value in points:
        key = min(int(at / end * _MOST_DOTS / 2), _MOST_DOTS // 2 - 1)
        least, most = stretches.get(key, ((at, value), (at, value)))
        stretches[key] = min(least, (at, value), key=_value), max(most, (at, value), key=_value)
    return [point for pair in stretches.values() for point in dict.fromkeys(pair)]


def _value(point: tuple[float, float]) -> float:
    return point[1]
