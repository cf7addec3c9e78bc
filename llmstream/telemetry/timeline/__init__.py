"""The picture of a call: a page that shows where its time went.

    trace = TimelineObserver("out.html")
    client = Client(observers=[trace])

The page stands alone: no script, nothing fetched from anywhere, light or dark as the reader's
system has it, and it prints. It shows times, counts, names and errors; never a prompt, an answer, a
key or a header.
"""

from __future__ import annotations

import heapq
import html
import math
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from ..._core.phase import Phase
from ..._version import __version__
from ...result import Usage
from ..records import AttemptRecord, CallRecord

__all__ = ["TimelineObserver"]

_MOMENTS = 2000  # arrivals of content kept for an attempt; more are merged in time
_GAPS = 3  # the longest gaps kept for an attempt
_WAITS = 500  # waits between attempts that are kept for a call
_ATTEMPTS = 60  # attempts that are shown of a call: the first half and the last
_TICKS = 4000  # ticks of a page, shared by its calls: they are what makes it large
_ZOOMS = 4  # attempts of a call that are drawn again at their own scale
_WORD = 200  # characters of a name that are shown


class TimelineObserver:
    """Draws each call it is told of as a timeline on one HTML page.

    Args:
        path: where the page is written, anew at the end of every call; default: nowhere, see
            `write` and `html`.
        calls: so many calls are kept, the latest; default 20. A page of one call is about 20 KB,
            of 20 long ones below 1 MB.

    For diagnosis: it keeps what it draws in memory. One observer may serve many clients.
    Thread-safe.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, calls: int = 20) -> None:
        if calls < 1:
            raise ValueError(f"calls={calls!r}: keep at least one")
        self._path = path
        self._lock = threading.Lock()  # guards _running, _done and _total
        self._running: dict[int, _Trace] = {}
        self._done: deque[_Trace] = deque(maxlen=calls)
        self._total = 0
        self._writing = threading.Lock()  # held while the page is made and written

    @property
    def calls(self) -> int:
        """How many calls have ended."""
        return self._total

    def html(self) -> str:
        """The page, of the calls that have ended."""
        with self._lock:
            shown, total, running = list(self._done), self._total, len(self._running)
        return _page(shown, total, running)

    def write(self, path: str | os.PathLike[str] | None = None) -> None:
        """Write the page to `path` (default: the observer's). Raises OSError, and ValueError
        where there is no path."""
        target = path if path is not None else self._path
        if target is None:
            raise ValueError("write(): give a path, here or to the observer")
        with self._writing, open(target, "w", encoding="utf-8") as file:
            file.write(self.html())

    # -- what it is told; of a call, by one thread at a time

    def on_start(self, call: CallRecord) -> None:
        with self._lock:
            self._running[call.id] = _Trace(call)

    def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
        trace = self._running.get(call.id)
        if trace is not None:
            trace.phase(phase, at_ms)

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        trace = self._running.get(call.id)
        if trace is not None:
            trace.moments.add(at_ms, gap_ms, chunks)

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        trace = self._running.get(call.id)
        if trace is not None:
            trace.attempt(attempt)

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        with self._lock:
            trace = self._running.pop(call.id, None)
            if trace is None:
                return
            trace.end(end)
            self._done.append(trace)
            self._total += 1
        if self._path is not None:
            self.write()


# ---- what is kept of a call ----------------------------------------------------------------------


class _Gap(NamedTuple):
    ms: float  # the wait for the network
    at: float  # when it ended, ms since the start of the call


class _Moments:
    """When content came: exact to 0.01 ms, and coarser once there are more than _MOMENTS."""

    def __init__(self) -> None:
        self.width = 0.01  # ms
        self.last = 0.0  # when content came last, ms since the start of the call
        self._counts: dict[int, int] = {}
        self._gaps: list[_Gap] = []  # a heap, the shortest first

    def add(self, at: float, gap: float | None, chunks: int) -> None:
        self.last = at
        key = int(at / self.width)
        self._counts[key] = self._counts.get(key, 0) + chunks
        if len(self._counts) > _MOMENTS:
            self._coarsen()
        if gap is not None:
            push = heapq.heappush if len(self._gaps) < _GAPS else heapq.heappushpop
            push(self._gaps, _Gap(gap, at))

    def _coarsen(self) -> None:
        self.width *= 2
        merged: dict[int, int] = {}
        for key, count in self._counts.items():
            merged[key // 2] = merged.get(key // 2, 0) + count
        self._counts = merged

    @property
    def gaps(self) -> list[_Gap]:
        """The longest, the longest first."""
        return sorted(self._gaps, reverse=True)

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """(ms, chunks), in order."""
        return ((key * self.width, count) for key, count in sorted(self._counts.items()))


class _Span(NamedTuple):
    name: str
    start: float
    end: float

    @property
    def ms(self) -> float:
        return self.end - self.start


class _Row(NamedTuple):
    """An attempt as it is drawn."""

    record: AttemptRecord
    moments: _Moments

    @property
    def start(self) -> float:
        return self.record.started_ms

    @property
    def end(self) -> float:
        return self.record.started_ms + self.record.total_ms

    @property
    def spans(self) -> list[_Span]:
        """Its phases, each until the next."""
        phases = self.record.phases
        ends = [*(at for _, at in phases[1:]), self.end]
        return [_Span(name, at, max(at, end)) for (name, at), end in zip(phases, ends, strict=True)]


class _Trace:
    """A call as far as it was told."""

    def __init__(self, call: CallRecord) -> None:
        self.call = call
        self.rows: list[_Row] = []
        self.waits: list[_Span] = []  # "backoff" and "throttled"
        self.left_out = 0  # attempts
        self.moments = _Moments()  # of the attempt that runs
        self._wait: tuple[str, float] | None = None

    def phase(self, phase: str, at: float) -> None:
        self._rested(at)
        if phase in (Phase.BACKOFF, Phase.THROTTLED):
            self._wait = phase, at

    def _rested(self, at: float) -> None:
        if self._wait is not None and len(self.waits) < _WAITS:
            self.waits.append(_Span(*self._wait, at))
        self._wait = None

    def attempt(self, attempt: AttemptRecord) -> None:
        self.rows.append(_Row(attempt, self.moments))
        self.moments = _Moments()
        if len(self.rows) > _ATTEMPTS:
            del self.rows[_ATTEMPTS // 2]
            self.left_out += 1

    def end(self, end: CallRecord) -> None:
        self._rested(end.total_ms)
        self.call = end


# ---- the page ------------------------------------------------------------------------------------

# No word of a service or a caller may break the page, its XML, or the order of its letters.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def _text(value: object) -> str:
    word = str(value)
    short = word if len(word) <= _WORD else word[: _WORD - 1] + "…"
    return html.escape(_UNSAFE.sub("\ufffd", short))


def _duration(ms: float) -> str:
    if ms < 9.995:
        return f"{ms:.2f} ms" if ms < 0.995 else f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 99_995:
        return f"{ms / 1000:.2f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds:02d} s"


def _ms(ms: float | None) -> str:
    """A duration to read, and in ms for machines."""
    if ms is None:
        return _NONE
    return f'<data value="{ms:.3f}">{_duration(ms)}</data>'


def _count(number: int | None) -> str:
    return _NONE if number is None else f'<data value="{number}">{number:,}</data>'


# Nothing may be fetched or run, whatever came into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_NONE = '<span class="none">–</span>'


def _page(traces: Sequence[_Trace], total: int, running: int) -> str:
    notes = []
    if total > len(traces):
        notes.append(f"The last {len(traces)} of {total} calls.")
    if running:
        notes.append(f"{running} still running: not shown.")
    if not traces:
        notes.append("No call has ended.")
    ticks = max(100, min(1000, _TICKS // max(1, len(traces))))
    name = traces[0].call.trace_id if len(traces) == 1 else f"{len(traces)} calls"
    return "".join(
        [
            "<!DOCTYPE html>\n",
            '<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>',
            f"<title>llmstream trace: {_text(name)}</title><style>{_CSS}</style></head><body>\n",
            f"<p>{' '.join(notes)}</p>" if notes else "",
            *(_section(trace, ticks) for trace in traces),
            f"<footer>llmstream {__version__}. Times are since the start of the call.</footer>",
            "</body></html>\n",
        ]
    )


def _section(trace: _Trace, ticks: int) -> str:
    call = trace.call
    return "".join(
        [
            '<section class="call">',
            _head(call),
            _summary(call),
            _pictures(trace, ticks),
            _legend(trace),
            _attempts_table(trace),
            _retries_table(trace),
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
        f"<div><dt>{name}</dt><dd><bdi>{_text(value)}</bdi></dd></div>"
        for name, value in facts
        if value is not None
    )
    said = {"success": "success", "cancelled": "cancelled"}.get(call.outcome, call.error_type or "")
    return (
        f'<header><h1>Call <span class="badge {_text(call.outcome)}">{_text(said)}</span></h1>'
        f'<dl class="facts">{shown}</dl></header>'
    )


def _summary(call: CallRecord) -> str:
    usage = call.usage
    tiles = [
        ("first token", _ms(call.first_token_ms)),
        ("total", _ms(call.total_ms)),
        ("network waits", _ms(call.waited_ms)),
        ("waits between attempts", _ms(call.backoff_ms)),
        ("longest gap", _ms(call.longest_gap_ms)),
        ("attempts", _count(len(call.attempts))),
        ("tokens in", _count(usage.input_tokens)),
        ("of them cached", _count(usage.cached_tokens)),
        ("tokens out", _count(usage.output_tokens)),
        ("of them reasoning", _count(usage.reasoning_tokens)),
        ("chunks", _count(call.chunks)),
        ("bytes", _count(call.bytes)),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    return f'<dl class="tiles">{shown}</dl>'


def _legend(trace: _Trace) -> str:
    used = {span.name for row in trace.rows for span in row.spans}
    used |= {wait.name for wait in trace.waits}
    known = "".join(
        f'<li><svg width="14" height="12" aria-hidden="true">'
        f'<rect class="p-{name}" width="14" height="12" rx="2"/></svg><b>{name}</b> {what}</li>'
        for name, what in _PHASES.items()
        if name in used
    )
    return (
        f'<ul class="legend">{known}<li><svg width="14" height="12" aria-hidden="true">'
        '<path class="tick" d="M3 12v-6M7 12v-12M11 12v-6"/></svg><b>chunks</b> as they came: one '
        "line for what came together, the taller the more</li></ul>"
    )


# name -> what the time was spent on
_PHASES = {
    Phase.CONNECT: "name and TCP connection",
    Phase.TLS: "TLS handshake",
    Phase.SEND: "the request on its way out",
    Phase.HEADERS: "waiting for the answer's headers",
    Phase.FIRST_TOKEN: "waiting for the first content",
    Phase.BODY: "content, from the first on",
    Phase.POLL: "asking again for an answer in the background",
    Phase.BACKOFF: "waiting before another attempt",
    Phase.THROTTLED: "waiting because the service asked all callers to",
}


# ---- tables --------------------------------------------------------------------------------------


def _table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _attempts_table(trace: _Trace) -> str:
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
    if trace.left_out:
        caption += f" (the first and the last {_ATTEMPTS // 2}; {trace.left_out} are left out)"
    return _table(caption, heads, (_attempt_cells(row) for row in trace.rows))


def _attempt_cells(row: _Row) -> list[str]:
    record = row.record
    return [
        str(record.number),
        _ms(record.started_ms),
        _ms(record.total_ms),
        _text(_ending(record)),
        _text(record.phase),
        _count(record.status),
        _ms(record.first_token_ms),
        _ms(record.longest_gap_ms),
        _count(record.chunks),
        _count(record.bytes),
        _tokens(record.usage),
        _phase_times(row.spans),
    ]


def _ending(record: AttemptRecord) -> str:
    """ "success", or the error with its code."""
    if record.outcome == "success":
        return record.outcome
    parts = [record.error_type or record.outcome, record.error_code]
    if record.resent:
        parts.append("(stale connection: sent again)")
    return " ".join(part for part in parts if part)


def _tokens(usage: Usage) -> str:
    if usage.input_tokens is None and usage.output_tokens is None:
        return _NONE
    return f"{_count(usage.input_tokens)} / {_count(usage.output_tokens)}"


def _phase_times(spans: Sequence[_Span]) -> str:
    """The time in each phase, however often it was entered."""
    times: dict[str, float] = {}
    for span in spans:
        times[span.name] = times.get(span.name, 0.0) + span.ms
    return " · ".join(
        f'<span class="nowrap">{_text(name)} {_ms(ms)}</span>' for name, ms in times.items()
    )


def _retries_table(trace: _Trace) -> str:
    retries = trace.call.retries
    if not retries:
        return "<p>No retries.</p>"
    half = _ATTEMPTS // 2
    shown = retries if len(retries) <= _ATTEMPTS else (*retries[:half], *retries[-half:])
    rows = (
        [
            str(retry.attempt),
            _text(" ".join(word for word in (retry.error_type, retry.error_code) if word)),
            _count(retry.status),
            _text(retry.phase),
            _ms(retry.wait_ms),
        ]
        for retry in shown
    )
    heads = ("after attempt", "because of", "HTTP", "in phase", "planned wait")
    return _table("Retries", heads, rows)


# ---- pictures ------------------------------------------------------------------------------------

_LEFT, _WIDTH, _PAD = 96.0, 1000.0, 24.0  # px: the names' column, the time's, the right edge
_RIGHT = _LEFT + _WIDTH
_LETTER = 6.8  # px, at most about, of a letter at 11 px
_BAR, _LANE, _LINE = 18.0, 22.0, 15.0  # px: heights of a bar, of the ticks, of a line of text


def _pictures(trace: _Trace, ticks: int) -> str:
    whole = _Scale(0.0, max(trace.call.total_ms, 0.001))
    drawn = [_chart("the whole call", trace, trace.rows, whole, ticks)]
    # A short attempt beside long waits shows nothing: draw it again.
    small = [
        row for row in trace.rows if len(row.moments) > 1 and whole.px(row.end - row.start) < 400
    ]
    for row in small[-_ZOOMS:]:
        title = f"attempt {row.record.number} alone"
        drawn.append(_chart(title, trace, [row], _Scale(row.start, row.end), ticks))
    return "".join(drawn)


class _Scale:
    """From ms to the picture's x."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, max(end, start + 0.001)

    def px(self, ms: float) -> float:
        return ms * _WIDTH / (self.end - self.start)

    def x(self, at: float) -> float:
        return _LEFT + min(_WIDTH, max(0.0, self.px(at - self.start)))

    def shows(self, span: _Span) -> bool:
        return span.end >= self.start and span.start <= self.end

    def steps(self) -> list[tuple[float, str]]:
        """Where the axis has its marks, and what they say."""
        span = self.end - self.start
        power = 10.0 ** math.floor(math.log10(span / 8))
        step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 10)
        unit, divisor = ("s", 1000.0) if span >= 2000 else ("ms", 1.0)
        digits = max(0, -math.floor(math.log10(step / divisor) + 1e-9))
        first = math.ceil(self.start / step - 1e-9)
        last = math.floor(self.end / step + 1e-9)
        return [
            (n * step, f"{n * step / divisor:.{digits}f} {unit}") for n in range(first, last + 1)
        ]


def _chart(title: str, trace: _Trace, rows: Sequence[_Row], scale: _Scale, ticks: int) -> str:
    canvas = _Canvas(scale)
    canvas.y = 36.0 if _marks_first_token(trace, scale) else 22.0
    top = canvas.y
    waits = deque(wait for wait in trace.waits if scale.shows(wait))
    for row in rows:
        while waits and waits[0].start < row.start:
            canvas.wait(waits.popleft())
        canvas.attempt(row, ticks)
    if len(rows) == len(trace.rows):
        for wait in waits:
            canvas.wait(wait)
    height = canvas.y + 4
    axis = _axis(scale, top, height)
    mark = _first_token_mark(trace, scale, height) if top > 22 else ""
    return (
        f'<figure><figcaption>{title}</figcaption><div class="scroll">'
        f'<svg class="chart" role="img" aria-label="timeline: {title}" '
        f'viewBox="0 0 {_RIGHT + _PAD:.0f} {height:.0f}">'
        f"{axis}{mark}{''.join(canvas.drawn)}</svg></div></figure>"
    )


def _axis(scale: _Scale, top: float, bottom: float) -> str:
    drawn = []
    for at, label in scale.steps():
        x = scale.x(at)
        drawn.append(f'<path class="grid" d="M{x:.1f} {top - 4:.0f}V{bottom:.0f}"/>')
        drawn.append(f'<text class="axis" x="{x:.1f}" y="12">{label}</text>')
    return "".join(drawn)


def _marks_first_token(trace: _Trace, scale: _Scale) -> bool:
    at = trace.call.first_token_ms
    return at is not None and scale.start <= at <= scale.end


def _first_token_mark(trace: _Trace, scale: _Scale, bottom: float) -> str:
    at = trace.call.first_token_ms or 0.0
    label = f"first token {_duration(at)}"
    x = scale.x(at)
    return f'<path class="first" d="M{x:.1f} 17V{bottom:.0f}"/>{_label(label, x + 5, 27, "first")}'


def _width(label: str) -> float:
    return len(label) * _LETTER


def _label(label: str, x: float, y: float, kind: str) -> str:
    """Text that begins at x, or ends at the right edge where it has no room."""
    end = _RIGHT + _PAD
    place = f'x="{x:.1f}"' if x + _width(label) <= end else f'x="{end:.0f}" text-anchor="end"'
    return f'<text class="{kind}" {place} y="{y:.0f}">{_text(label)}</text>'


class _Canvas:
    """Draws from top to bottom; each line of text has a height of its own, so none overlap."""

    def __init__(self, scale: _Scale) -> None:
        self.scale = scale
        self.y = 0.0
        self.drawn: list[str] = []

    def wait(self, wait: _Span) -> None:
        x, width = self._bar(wait, self.y + 2, _BAR - 6)
        self._name(wait.name, faint=True)
        self._label(_duration(wait.ms), x + width + 5, self.y + 12)
        self.y += _BAR + 4

    def attempt(self, row: _Row, ticks: int) -> None:
        self._name(f"attempt {row.record.number}")
        self._phases(row)
        self.y += _BAR + 4
        if len(row.moments):
            self._ticks(row.moments, ticks)
            self.y += _LANE
            self._gaps(row)
        if row.record.outcome != "success":
            self._ending(row)
        self.y += 8

    def _name(self, name: str, *, faint: bool = False) -> None:
        kind = "name faint" if faint else "name"
        self.drawn.append(f'<text class="{kind}" x="0" y="{self.y + 13:.0f}">{name}</text>')

    def _label(self, label: str, x: float, y: float, kind: str = "label") -> None:
        self.drawn.append(_label(label, x, y, kind))

    def _bar(self, span: _Span, y: float, height: float) -> tuple[float, float]:
        x = self.scale.x(span.start)
        width = max(1.5, self.scale.x(span.end) - x)
        kind = span.name if span.name in _PHASES else "other"
        self.drawn.append(
            f'<rect class="p-{kind}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" '
            f'height="{height:.0f}"><title>{_text(span.name)}: {_duration(span.ms)}, '
            f"from {_duration(span.start)}</title></rect>"
        )
        return x, width

    def _phases(self, row: _Row) -> None:
        seen: set[str] = set()
        for span in row.spans:
            # Every phase once, however short; of many only those that can be seen.
            if span.name in seen and self.scale.px(span.ms) < 1:
                continue
            seen.add(span.name)
            x, width = self._bar(span, self.y, _BAR)
            label = f"{span.name} {_duration(span.ms)}"
            if _width(label) + 8 > width:
                label = span.name
            if _width(label) + 8 <= width:
                self._label(label, x + 4, self.y + 13, "inside")

    def _ticks(self, moments: _Moments, ticks: int) -> None:
        """One tick for what falls together; its height is the share of the most that do."""
        unit = _WIDTH / ticks
        merged: dict[int, tuple[float, int]] = {}
        for at, chunks in moments:
            key = int(self.scale.x(at) / unit)
            first, before = merged.get(key, (at, 0))
            merged[key] = first, before + chunks
        most = max((chunks for _, chunks in merged.values()), default=1) or 1
        base = self.y + _LANE - 2
        for at, chunks in merged.values():
            height = 6 + (_LANE - 8) * math.sqrt(chunks / most)
            self.drawn.append(
                f'<path class="tick" d="M{self.scale.x(at):.1f} {base:.0f}v-{height:.0f}">'
                f"<title>{_duration(at)}: {chunks} chunk{'' if chunks == 1 else 's'}</title></path>"
            )

    def _gaps(self, row: _Row) -> None:
        """The longest gaps that can be seen, as far as their labels have room; and before them what
        an attempt that failed had to wait in vain."""
        gaps = [(gap, _duration(gap.ms)) for gap in row.moments.gaps]
        if row.record.outcome != "success":
            silence = row.end - row.moments.last
            gaps.insert(0, (_Gap(silence, row.end), f"nothing more for {_duration(silence)}"))
        taken: list[tuple[float, float]] = []
        for gap, label in gaps:
            start, end = self.scale.x(gap.at - gap.ms), self.scale.x(gap.at)
            if end - start < 6:
                continue
            half = _width(label) / 2
            middle = min(_RIGHT + _PAD - half, (start + end) / 2)
            if any(middle - half < b and middle + half > a for a, b in taken):
                continue
            taken.append((middle - half - 6, middle + half + 6))
            self.drawn.append(
                f'<path class="gap" d="M{start:.1f} {self.y:.0f}v3H{end:.1f}v-3"/>'
                f'<text class="gap" x="{middle:.1f}" y="{self.y + 14:.0f}">{label}</text>'
            )
        if taken:
            self.y += _LINE

    def _ending(self, row: _Row) -> None:
        record = row.record
        label = f"✕ {_ending(record)}, in phase {record.phase}"
        if record.status is not None and str(record.status) != record.error_code:
            label += f", HTTP {record.status}"
        x = self.scale.x(row.end)
        self.drawn.append(f'<path class="error" d="M{x:.1f} {self.y - 4:.0f}v5"/>')
        self._label(label, x - 4, self.y + 11, "error")
        self.y += _LINE


_CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2127;--soft:#5b6570;--line:#d9dee3;--card:#f4f6f8;
--ok:#1a7f37;--bad:#c4242b;--mid:#8a5a00;--tick:#1f5fbf;
--connect:#cdbff0;--tls:#f0bfe3;--send:#b5e3dc;--headers:#f4dfa0;--first_token:#f7c79a;
--body:#b9d4f7;--poll:#d6dfb0;--other:#ccd2d8;--backoff:#b9c0c7;--held:#e0b4b4}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e6eaee;--soft:#9aa5b1;--line:#333b44;
--card:#1e242b;--ok:#57c777;--bad:#ff7b78;--mid:#e0b050;--tick:#7fb2ff;
--connect:#57458a;--tls:#7b3f6d;--send:#1f655c;--headers:#6f5a17;--first_token:#84501d;
--body:#264f86;--poll:#555f26;--other:#454d56;--backoff:#56606b;--held:#7a4040}}
@media print{:root{color-scheme:light;--bg:#fff;--fg:#000;--soft:#444;--line:#bbb;--card:#fff;
--ok:#1a7f37;--bad:#c4242b;--mid:#8a5a00;--tick:#1f5fbf;
--connect:#cdbff0;--tls:#f0bfe3;--send:#b5e3dc;--headers:#f4dfa0;--first_token:#f7c79a;
--body:#b9d4f7;--poll:#d6dfb0;--other:#ccd2d8;--backoff:#b9c0c7;--held:#e0b4b4}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
figure,tr,.tiles{break-inside:avoid}.scroll{overflow:visible!important}
.chart{min-width:0!important}body{padding:0}}
*{box-sizing:border-box}
body{margin:0 auto;padding:20px 24px;max-width:1180px;background:var(--bg);color:var(--fg);
font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.call+.call{margin-top:40px;padding-top:24px;border-top:2px solid var(--line)}
h1{font-size:20px;margin:0 0 10px}
.badge{font-size:14px;font-weight:600;margin-left:6px;padding:2px 10px;border-radius:12px;
border:1px solid currentColor;vertical-align:2px}
.success{color:var(--ok)}.error{color:var(--bad)}.cancelled{color:var(--mid)}
dl{margin:0}dd{margin:0;overflow-wrap:anywhere}dt{color:var(--soft);font-size:12px}
.facts{display:flex;flex-wrap:wrap;gap:8px 28px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(172px,1fr));gap:8px;margin:16px 0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:7px 10px}
.tiles dd{font-size:17px;font-weight:600;font-variant-numeric:tabular-nums}
figure{margin:18px 0 0}figcaption{font-weight:600;margin-bottom:4px}
.scroll{overflow-x:auto}
.chart{display:block;width:100%;min-width:820px;height:auto}
svg text{font-size:11px;fill:var(--fg);paint-order:stroke;stroke:var(--bg);stroke-width:3px}
svg .axis{text-anchor:middle;fill:var(--soft)}svg .name{font-size:12px;font-weight:600}
svg .faint{font-weight:400;fill:var(--soft)}svg .label{fill:var(--soft)}
svg .inside{pointer-events:none;stroke:none}
svg text.error{fill:var(--bad);font-weight:600}svg path.error{stroke:var(--bad);stroke-width:2}
svg text.gap{text-anchor:middle;fill:var(--soft)}
svg path.gap{fill:none;stroke:var(--soft);stroke-width:1}
svg text.first{fill:var(--ok);font-weight:600}
svg path.first{stroke:var(--ok);stroke-width:1;stroke-dasharray:3 3}
.grid{stroke:var(--line);stroke-width:1}.tick{stroke:var(--tick);stroke-width:1.2;fill:none}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:12px 0;
font-size:12px;color:var(--soft)}
.legend svg{vertical-align:-2px;margin-right:5px}.legend b{color:var(--fg)}
table{border-collapse:collapse;width:100%;margin-top:14px;font-size:12.5px;
font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;font-size:14px;padding-bottom:4px}
th,td{text-align:left;vertical-align:top;padding:4px 10px 4px 0;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500}td data,.nowrap{white-space:nowrap}
.none{color:var(--soft)}footer{margin-top:28px;color:var(--soft);font-size:12px}
""" + "".join(f".p-{name}{{fill:var(--{name})}}" for name in (*_PHASES, "other"))
