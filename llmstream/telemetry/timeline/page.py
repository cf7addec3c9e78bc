"""The page: for each call a head, a summary, the pictures, a legend and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from ..._version import __version__
from ..records import CallRecord
from .history import CallHistory
from .pictures import pictures
from .style import CSS, PHASES
from .tables import attempts_table, retries_table
from .text import count_cell, escaped, ms_cell

__all__ = ["page"]

_MOST_TICKS = 4000  # ticks of a page, shared by its calls: they are what makes a page large
# Nothing may be fetched or run, whatever names are on the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(calls: Sequence[CallHistory], total: int, running: int) -> str:
    """A page of `calls`, the latest of `total` that have ended; `running` calls are not shown."""
    notes = []
    if total > len(calls):
        notes.append(f"The last {len(calls)} of {total} calls.")
    if running:
        notes.append(f"{running} still running: not shown.")
    if not calls:
        notes.append("No call has ended.")
    ticks = max(100, min(1000, _MOST_TICKS // max(1, len(calls))))
    name = calls[0].call.trace_id if len(calls) == 1 else f"{len(calls)} calls"
    return "".join(
        [
            "<!DOCTYPE html>\n",
            '<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>',
            f"<title>llmstream timeline: {escaped(name)}</title>",
            f"<style>{CSS}</style></head><body>\n",
            f"<p>{' '.join(notes)}</p>" if notes else "",
            *(_section(history, ticks) for history in calls),
            f"<footer>llmstream {__version__}. Times count from the start of the call.</footer>",
            "</body></html>\n",
        ]
    )


def _section(history: CallHistory, ticks: int) -> str:
    call = history.call
    return "".join(
        [
            '<section class="call">',
            _head(call),
            _summary(call),
            pictures(history, ticks),
            _legend(history),
            attempts_table(history),
            retries_table(history),
            "</section>\n",
        ]
    )


def _head(call: CallRecord) -> str:
    where = call.host if call.port is None else f"{call.host}:{call.port}"
    begun = datetime.fromtimestamp(call.started, timezone.utc).isoformat(" ", "milliseconds")
    facts: list[tuple[str, object]] = [
        ("trace id", call.trace_id),
        ("API", call.api),
        ("model", call.model),
        ("answered by", call.response_model if call.response_model != call.model else None),
        ("host", where),
        ("began", begun),
        ("finish", call.finish),
        ("request id", call.request_id),
        ("response id", call.response_id),
    ]
    if call.outcome != "success":
        facts += [
            ("error", call.error_type),
            ("code", call.error_code),
            ("status", call.status),
            ("ended in phase", call.phase),
            ("reason", call.reason),
        ]
    shown = "".join(
        f"<div><dt>{name}</dt><dd><bdi>{escaped(value)}</bdi></dd></div>"
        for name, value in facts
        if value is not None
    )
    badge = call.error_type or "" if call.outcome == "error" else call.outcome
    return (
        f'<header><h1>Call <span class="badge {escaped(call.outcome)}">{escaped(badge)}</span></h1>'
        f'<dl class="facts">{shown}</dl></header>'
    )


def _summary(call: CallRecord) -> str:
    usage = call.usage
    tiles = [
        ("first token", ms_cell(call.first_token_ms)),
        ("total", ms_cell(call.total_ms)),
        ("network waits", ms_cell(call.waited_ms)),
        ("waits between attempts", ms_cell(call.backoff_ms)),
        ("longest gap", ms_cell(call.longest_gap_ms)),
        ("attempts", count_cell(len(call.attempts))),
        ("tokens in", count_cell(call.tokens_in)),
        ("of them cached", count_cell(usage.cached_tokens)),
        ("tokens out", count_cell(usage.output_tokens)),
        ("of them reasoning", count_cell(usage.reasoning_tokens)),
        ("chunks", count_cell(call.chunks)),
        ("bytes", count_cell(call.bytes)),
    ]
    if usage.cost is not None:  # as the service has reported it
        tiles.append(("cost in USD", f'<data value="{usage.cost}">{usage.cost:g}</data>'))
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    return f'<dl class="tiles">{shown}</dl>'


def _legend(history: CallHistory) -> str:
    used = {span.name for attempt in history.attempts for span in attempt.spans}
    used |= {wait.name for wait in history.waits}
    phases = "".join(
        f'<li><svg width="14" height="12" aria-hidden="true">'
        f'<rect class="p-{name}" width="14" height="12" rx="2"/></svg><b>{name}</b> {what}</li>'
        for name, what in PHASES.items()
        if name in used
    )
    return (
        f'<ul class="legend">{phases}<li><svg width="14" height="12" aria-hidden="true">'
        '<path class="tick" d="M3 12v-6M7 12v-12M11 12v-6"/></svg><b>chunks</b> as they arrived: '
        "one line for those that arrived together, taller for more of them</li></ul>"
    )
