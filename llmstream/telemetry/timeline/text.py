"""Names, durations, counts and tables as text of the page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from ..records import AttemptRecord

__all__ = ["NONE", "count_cell", "duration", "ending", "escaped", "ms_cell", "table"]

NONE = '<span class="none">–</span>'
_LONGEST = 200  # characters of a name that are shown

# A name chosen by a service or a caller must not break the page, its XML, or the order of its
# letters: control characters, bidirectional marks, surrogates and non-characters are replaced.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def escaped(value: object) -> str:
    word = str(value)
    short = word if len(word) <= _LONGEST else word[: _LONGEST - 1] + "…"
    return html.escape(_UNSAFE.sub("\ufffd", short))


def duration(ms: float) -> str:
    if ms < 9.995:
        return f"{ms:.2f} ms" if ms < 0.995 else f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 99_995:
        return f"{ms / 1000:.2f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds:02d} s"


def ms_cell(ms: float | None) -> str:
    """A duration to read, and in ms for machines."""
    if ms is None:
        return NONE
    return f'<data value="{ms:.3f}">{duration(ms)}</data>'


def count_cell(number: int | None) -> str:
    return NONE if number is None else f'<data value="{number}">{number:,}</data>'


def ending(record: AttemptRecord) -> str:
    """ "success", or the error with its code."""
    if record.outcome == "success":
        return record.outcome
    parts = [record.error_type or record.outcome, record.error_code]
    if record.resent:
        parts.append("(stale connection: sent again)")
    return " ".join(part for part in parts if part)


def table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of the page. The parts are HTML."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
