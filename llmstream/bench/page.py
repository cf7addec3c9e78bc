"""The figures of a benchmark as one page that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._version import __version__
from ..telemetry.timeline.style import CSS
from ..telemetry.timeline.text import NONE, count_cell, escaped, ms_cell, table
from .document import PERCENTILES
from .level import LevelReport
from .load import Load
from .pictures import levels_pictures, percentile_plot, requests_plot
from .plot import STYLE
from .statistics import FORMULAS
from .table import heading

__all__ = ["page"]

# Nothing may be fetched or run, whatever names are on the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_COLUMNS = ("mean", "min", "p50", "p90", "p95", "p99", "max")


def page(about: Mapping[str, str], load: Load, reports: Sequence[LevelReport]) -> str:
    """A page of all levels, light or dark as the reader's system is. It has no script and fetches
    nothing, and shows no prompt, answer or key."""
    title = f"llmstream bench: {about['model']} at {about['host']}"
    levels = "".join(plot.figure() for plot in levels_pictures(reports)) if reports[1:] else ""
    return "".join(
        [
            "<!DOCTYPE html>\n",
            '<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>',
            f"<title>{escaped(title)}</title><style>{CSS}{STYLE}</style></head><body>\n",
            f"<h1>{escaped(title)}</h1>",
            f"<p>{escaped(heading(about, load).splitlines()[1])}</p>",
            levels,
            *(_section(level) for level in reports),
            _formulas(),
            f"<footer>llmstream {__version__}</footer></body></html>\n",
        ]
    )


def _section(level: LevelReport) -> str:
    return "".join(
        [
            f"<section><h2>{escaped(level.name)}</h2>",
            _tiles(level),
            *(f'<p class="note">{escaped(note)}</p>' for note in level.notes),
            requests_plot(level).figure(),
            percentile_plot(level).figure(),
            _distributions(level),
            _errors(level),
            "</section>\n",
        ]
    )


def _tiles(level: LevelReport) -> str:
    tiles = [
        ("requests", count_cell(level.requests)),
        ("answered", count_cell(level.ok)),
        ("failed", count_cell(level.failed)),
        ("not sent", count_cell(level.unsent)),
        ("retries", count_cell(level.retries)),
        ("most at once", count_cell(level.most_at_once)),
        ("duration", ms_cell(level.seconds * 1000.0)),
        ("requests a second", _number(level.requests_per_second)),
        ("tokens a second", _number(level.output_tokens_per_second)),
        ("tokens a second, per stream", _number(level.tokens_per_second_per_stream)),
        (f"tokens out ({escaped(level.tokens_from or 'none')})", count_cell(level.output_tokens)),
        ("tokens in", count_cell(level.input_tokens)),
    ]
    if level.goodput is not None:
        limits = ", ".join(f"{name} ≤ {ms:g} ms" for name, ms in level.goodput.limits.items())
        rate = _number(level.goodput.requests_per_second)
        share = "" if level.goodput.share is None else f" ({level.goodput.share:.1%})"
        tiles.append((f"goodput, requests a second: {escaped(limits)}", f"{rate}{share}"))
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    return f'<dl class="tiles">{shown}</dl>'


def _number(value: float | None) -> str:
    return NONE if value is None else f'<data value="{value:.3f}">{value:,.2f}</data>'


def _distributions(level: LevelReport) -> str:
    rows = (
        [
            escaped(name),
            *(ms_cell(getattr(level.distributions[name], column)) for column in _COLUMNS),
            count_cell(level.distributions[name].count),
        ]
        for name in FORMULAS
        if level.distributions[name].count
    )
    return table("Percentiles", ("", *_COLUMNS, "n"), rows)


def _errors(level: LevelReport) -> str:
    if not level.errors and not level.retried:
        return "<p>No errors and no retries.</p>"
    rows = [
        [escaped(error), count_cell(count), escaped(level.examples.get(error, ""))]
        for error, count in level.errors.items()
    ]
    rows += [
        [escaped(error), count_cell(count), "retried"] for error, count in level.retried.items()
    ]
    return table("Errors", ("error", "n", "an example"), rows)


def _formulas() -> str:
    terms = "".join(
        f"<li><b>{name}</b> {escaped(formula)}</li>" for name, formula in FORMULAS.items()
    )
    return (
        f"<h2>What the words mean</h2><ul>{terms}<li><b>percentiles</b> {escaped(PERCENTILES)}"
        "</li></ul>"
    )
