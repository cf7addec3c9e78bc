"""The tables of a call: its attempts and its retries."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import AttemptRecord
from .history import MOST_ATTEMPTS, AttemptHistory, CallHistory, Span
from .text import NONE, count_cell, ending, escaped, ms_cell, table

__all__ = ["attempts_table", "retries_table"]


def attempts_table(history: CallHistory) -> str:
    heads = (
        "#",
        "began",
        "took",
        "ended",
        "in phase",
        "HTTP",
        "first token",
        "longest gap",
        "chunks",
        "bytes",
        "tokens in / out",
        "phases",
    )
    caption = "Attempts"
    if history.left_out:
        half = MOST_ATTEMPTS // 2
        caption += f" (the first {half} and the last {half}; {history.left_out} are left out)"
    return table(caption, heads, (_attempt_cells(attempt) for attempt in history.attempts))


def retries_table(history: CallHistory) -> str:
    retries = history.call.retries
    if not retries:
        return "<p>No retries.</p>"
    half = MOST_ATTEMPTS // 2
    shown = retries if len(retries) <= MOST_ATTEMPTS else (*retries[:half], *retries[-half:])
    rows = (
        [
            str(retry.attempt),
            escaped(" ".join(word for word in (retry.error_type, retry.error_code) if word)),
            count_cell(retry.status),
            escaped(retry.phase),
            ms_cell(retry.wait_ms),
        ]
        for retry in shown
    )
    heads = ("after attempt", "because of", "HTTP", "in phase", "planned wait")
    return table("Retries", heads, rows)


def _attempt_cells(attempt: AttemptHistory) -> list[str]:
    record = attempt.record
    return [
        str(record.number),
        ms_cell(record.started_ms),
        ms_cell(record.total_ms),
        escaped(ending(record)),
        escaped(record.phase),
        count_cell(record.status),
        ms_cell(record.first_token_ms),
        ms_cell(record.longest_gap_ms),
        count_cell(record.chunks),
        count_cell(record.bytes),
        _tokens(record),
        _phase_times(attempt.spans),
    ]


def _tokens(record: AttemptRecord) -> str:
    if record.tokens_in is None and record.usage.output_tokens is None:
        return NONE
    return f"{count_cell(record.tokens_in)} / {count_cell(record.usage.output_tokens)}"


def _phase_times(spans: Sequence[Span]) -> str:
    """The time in each phase, summed over its entries."""
    times: dict[str, float] = {}
    for span in spans:
        times[span.name] = times.get(span.name, 0.0) + span.ms
    return " · ".join(
        f'<span class="nowrap">{escaped(name)} {ms_cell(ms)}</span>' for name, ms in times.items()
    )
