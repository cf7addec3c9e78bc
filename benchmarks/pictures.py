"""The pictures of the README, drawn from the file of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["draw"]

_OURS, _FLOOR, _PEER = "#1f6feb", "#8b949e", "#d29922"
_PEER_ASYNCIO = "#a371f7"
_APIS = {
    "responses": "OpenAI Responses",
    "messages": "Anthropic Messages",
    "chat": "Chat Completions",
}

mpl.use("svg")
plt.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "llmstream",  # the same results give the same file
    }
)


def draw(results: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Every picture whose section is among the results."""
    folder.mkdir(parents=True, exist_ok=True)
    for section, picture in _PICTURES.items():
        if section in results:
            figure = picture(_Figures(results[section]))
            path = folder / f"{section}.svg"
            figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)
            yield path


class _Figures:
    """The medians of a section."""

    def __init__(self, section: dict[str, Any]) -> None:
        self.records = [record for record in section["records"] if record["figures"]]

    def rows(self, key: str, **job: Any) -> list[tuple[str, float]]:
        """(contender, median) of the records with this job."""
        return [
            (record["job"]["name"], record["figures"][key]["median"])
            for record in self.records
            if job.items() <= {k: v for k, v in record["job"].items() if k != "each"}.items()
        ]

    def line(self, key: str, by: str, **job: Any) -> tuple[list[float], list[float]]:
        """A figure over a number of the job."""
        found = sorted(
            (record["job"][by], record["figures"][key]["median"])
            for record in self.records
            if job.items() <= record["job"].items()
        )
        return [x for x, _ in found], [y for _, y in found]


def _color(name: str) -> str:
    if name in ("floor", "interpreter", "bare socket"):
        return _FLOOR
    return _OURS if name.partition(",")[0] == "llmstream" else _PEER


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def _bars(axes: Axes, rows: Sequence[tuple[str, float]], log: bool) -> None:
    names = [name for name, _ in rows]
    values = [value for _, value in rows]
    bars = axes.barh(names, values, color=[_color(name) for name in names], height=0.7)
    axes.bar_label(bars, [_label(value) for value in values], padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    if log:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks([])
        axes.set_xlim(min(values) / 2, max(values) * 4)
    else:
        axes.set_xlim(0, max(values) * 1.15)


def _cpu(figures: _Figures) -> Figure:
    ways = ("parts", "text", "no observer", "all observers")
    hidden = {f"llmstream, {way}" for way in ways}
    panels = {
        api: [row for row in figures.rows("1", api=api) if row[0] not in hidden] for api in _APIS
    }
    figure, axes = plt.subplots(
        3, 1, figsize=(8, 7), height_ratios=[len(rows) for rows in panels.values()]
    )
    figure.suptitle("CPU per event in microseconds (logarithmic), one event per HTTP chunk")
    for panel, (api, rows) in zip(axes, panels.items(), strict=True):
        _bars(panel, rows, log=True)
        panel.set_title(_APIS[api], loc="left", fontsize=10)
    figure.tight_layout()
    return figure


def _layers(figures: _Figures) -> Figure:
    figure, rows = plt.subplots(2, 2, figsize=(10, 5))
    for panels, (scheme, title) in zip(rows, (("http", "HTTP"), ("https", "TLS")), strict=True):
        for axes, connections in zip(panels, ("reused", "new"), strict=True):
            case = {"api": "responses", "scheme": scheme, "connections": connections}
            shown = [(_LAYERS.get(name, name), us) for name, us in figures.rows("us", **case)]
            _bars(axes, shown, log=True)
            axes.set_title(f"{title}, {connections} connections", loc="left", fontsize=10)
    figure.suptitle("CPU of a whole short call in microseconds (logarithmic), layer by layer")
    figure.tight_layout()
    return figure


_LAYERS = {"floor": "bare socket", "openai create": "openai"}


def _latency(figures: _Figures) -> Figure:
    figure, (first, token) = plt.subplots(1, 2, figsize=(10, 4))
    names = {
        "floor": ("floor, threads", _FLOOR),
        "llmstream": ("llmstream, threads", _OURS),
        "openai create": ("openai, threads", _PEER),
        "openai create, asyncio": ("openai, asyncio", _PEER_ASYNCIO),
    }
    for axes, key, title in (
        (first, "first.p95", "added first-token latency, p95, ms"),
        (token, "token.p99", "token latency, p99, ms"),
    ):
        for name, (label, color) in names.items():
            x, y = figures.line(key, "streams", name=name, api="responses")
            axes.plot(x, y, marker="o", color=color, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_xticks(x, [f"{value:,}" for value in x])
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(axis="y", color="#d0d7de", linewidth=0.6)
        axes.set_xlabel("streams begun at once, 50 tokens/s each")
        axes.set_title(title, fontsize=10)
    first.legend(frameon=False)
    figure.tight_layout()
    return figure


def _tls(figures: _Figures) -> Figure:
    figure, panels = plt.subplots(1, 2, figsize=(10, 2.2))
    labels = {"floor": "bare socket", "openai create": "openai, threads"}
    labels["openai create, asyncio"] = "openai, asyncio"
    for axes, connections in zip(panels, ("new", "reused"), strict=True):
        case = {"streams": 100, "connections": connections}
        rows = [(f"{n}, HTTP", v) for n, v in figures.rows("first.p95", scheme="http", **case)]
        rows += figures.rows("first.p95", scheme="https", **case)
        _bars(axes, [(labels.get(name, name), value) for name, value in rows], log=False)
        axes.set_title(f"{connections} connections", loc="left", fontsize=10)
    figure.suptitle("100 TLS streams at once: added first-token latency, p95, ms", y=1.08)
    figure.tight_layout()
    return figure


def _imports(figures: _Figures) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 2.2))
    _bars(axes, figures.rows("ms"), log=False)
    axes.set_title("A fresh process that imports one package, ms", loc="left")
    return figure


def _memory(figures: _Figures) -> Figure:
    figure, panels = plt.subplots(1, 3, figsize=(10, 1.8))
    for axes, (api, title) in zip(panels, _APIS.items(), strict=True):
        _bars(axes, figures.rows("kb", api=api), log=False)
        axes.set_title(title, loc="left", fontsize=10)
    figure.suptitle("Memory of an open stream beside its thread, KB", y=1.08)
    figure.tight_layout()
    return figure


_PICTURES: dict[str, Callable[[_Figures], Figure]] = {
    "cpu": _cpu,
    "layers": _layers,
    "latency": _latency,
    "tls": _tls,
    "imports": _imports,
    "memory": _memory,
}
