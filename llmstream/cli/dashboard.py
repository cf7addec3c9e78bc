"""`llmstream dashboard`: the Grafana dashboard of the library's Prometheus metrics."""

from __future__ import annotations

import argparse
from importlib.resources import files

from .command import Command, Parser
from .output import write

__all__ = ["DASHBOARD"]


def _add_arguments(parser: Parser) -> None:
    parser.description = (
        "Print a Grafana dashboard (10 or later) for the metrics of PrometheusObserver, as JSON. "
        "In Grafana: Dashboards, New, Import, upload the file."
    )


def _run(options: argparse.Namespace) -> int:
    dashboards = files("llmstream") / "telemetry" / "dashboards"
    write((dashboards / "llmstream.json").read_text("utf-8"))
    return 0


DASHBOARD = Command("print a Grafana dashboard for the metrics, as JSON", _add_arguments, _run)
