"""The two pictures of the README, drawn from calls that are played with the library's own doubles.

    python benchmarks/readme_pictures.py          # writes pictures/call.svg and pictures/clocks.svg

Nothing in them is drawn from memory: the moments, waits, clocks, defaults and words are those of a
real call in a `FakeClock`'s time. The same code gives the same bytes, and tests/test_readmes.py
compares them with the files.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from llmstream import Client, LLMStreamError, Result, RetryPolicy, StreamTimeout, Timeouts
from llmstream.telemetry import CallRecord, LogObserver, RetryRecord
from llmstream.testing import Answer, FakeClock, FakeTransport, Pause, Pings, Reply

FOLDER = Path(__file__).resolve().parent / "pictures"
TRACE_ID = "8c5f9b2e41d04a7c9e63f0a1b7d25c34"

# ---- playing -----------------------------------------------------------------------------------


class Run(NamedTuple):
    """A stretch of time in which one clock ran, or (`left` is inf) none did."""

    start: float
    end: float
    left: float  # seconds of the clock at the start


class Arrival(NamedTuple):
    """Bytes that were read from the response."""

    at: float
    data: bytes


class Watched(FakeClock):
    """A FakeClock that notes which of a call's clocks run while its time passes."""

    def __init__(self) -> None:
        super().__init__(start=0.0)
        self.scope: Any = None
        self.runs: list[Run] = []

    def advance(self, seconds: float) -> None:
        start, at = self.monotonic(), math.inf if self.scope is None else self.scope.timers.at
        super().advance(seconds)
        if self.monotonic() > start:
            self.runs.append(Run(start, self.monotonic(), at - start))


class Wire:
    """A transport around a FakeTransport: connecting takes time, and what is read is noted."""

    def __init__(self, clock: Watched, connecting: float, *replies: Reply) -> None:
        self._inner = FakeTransport(*replies)
        self._clock = clock
        self._connecting = connecting
        self.arrivals: list[Arrival] = []

    def send(self, request: Any, scope: Any) -> Any:
        self._clock.scope = scope
        self._clock.advance(self._connecting)
        scope.check()
        scope.end_wait(0)
        return _Read(self._inner.send(request, scope), self.arrivals, self._clock)

    def close(self) -> None:
        self._inner.close()


class _Read:
    def __init__(self, response: Any, arrivals: list[Arrival], clock: FakeClock) -> None:
        self.status, self.headers = response.status, response.headers
        self.forwarder = response.forwarder
        self.finish, self.close = response.finish, response.close
        self._read, self._arrivals, self._clock = response.read, arrivals, clock

    def read(self) -> bytes:
        data: bytes = self._read()
        if data:
            self._arrivals.append(Arrival(self._clock.monotonic(), data))
        return data


class Notes:
    """An observer that keeps what it is told, in seconds since the start of the call."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, float]] = []
        self.tokens: list[float] = []
        self.retries: list[RetryRecord] = []
        self.end: CallRecord | None = None

    def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
        self.phases.append((phase, at_ms / 1000))

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        self.tokens.append(at_ms / 1000)

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        self.retries.append(retry)

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.end = end


class Played(NamedTuple):
    """What is known of a call after it was played."""

    notes: Notes
    arrivals: list[Arrival]
    runs: list[Run]
    error: LLMStreamError | None
    result: Result
    log: list[str]  # the lines of the log `llmstream`


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name} {record.getMessage()}")


def play(
    connecting: float,
    replies: Iterable[Reply],
    body: Callable[[Watched, str], None] = lambda clock, token: None,
    **settings: Any,
) -> Played:
    """Make the call; `body` is the body of the caller's loop over its tokens."""
    clock, notes, handler = Watched(), Notes(), _Lines()
    wire = Wire(clock, connecting, *replies)
    logger = logging.Logger("llmstream", logging.INFO)  # of its own, not the process's
    logger.addHandler(handler)
    client = Client(
        "responses",
        base_url="https://api.openai.com/v1",
        model="gpt-5.4-mini",
        transport=wire,
        clock=clock,
        observers=[notes, LogObserver(logger)],
        **settings,
    )
    stream = client.stream("Why is the sky blue?", trace_id=TRACE_ID)
    error: LLMStreamError | None = None
    try:
        for token in stream:
            body(clock, token)
        result = stream.result()
    except LLMStreamError as exc:
        error, result = exc, exc.partial
    client.close()
    return Played(notes, wire.arrivals, clock.runs, error, result, handler.lines)


# ---- the two calls -----------------------------------------------------------------------------

IDLE = 8.0  # seconds of the first call's idle clock
RETRY_AFTER = 2


def bad_day() -> Played:
    """A 429, a retry, an answer that stalls though its server pings on, and the idle clock."""
    answer = Answer("The sky is blue because air scatters short waves of light far more than")
    blocks = answer.blocks()
    opening, deltas = blocks[:4], blocks[4 : 4 + len(answer.text_deltas)]
    pauses = (0.4, 0.2, 0.2, 1.2, 0.2, 0.3, 0.2, 0.2, 0.9, 0.2, 0.2, 0.2, 0.3, 0.0)
    steps: list[Any] = [b"".join(opening), Pause(1.1)]
    for pause, delta in zip(pauses, deltas, strict=False):
        steps += [delta, Pause(pause)]
    refused = Reply.error(
        429,
        code="rate_limit_exceeded",
        message="Rate limit reached",
        headers={"retry-after": str(RETRY_AFTER)},
        request_id="req_b1f0",
    )
    return play(
        0.15,
        [
            dataclasses.replace(refused, delay=0.45),
            Reply([*steps, Pings(1.5)], delay=0.6, headers={"x-request-id": "req_7c2a"}),
        ],
        timeouts=Timeouts(idle=IDLE, total=45),
        retry=RetryPolicy(jitter=0.0),
    )


PING = b": ping\n\n"
LOOP_BODY = 70.0  # seconds that the second call's reader takes after one of its tokens
LATE = "waves"  # that token


def long_answer(**timeouts: float | None) -> Played:
    """An answer that takes its time in every way that the clocks tell apart."""
    from llmstream.testing.answers import sse_block

    blocks = Answer(["Blue", " light", f" {LATE}", " scatter", " most."]).blocks()
    opening, deltas, ending = blocks[:4], blocks[4:9], blocks[9:]
    search = {"type": "web_search_call", "id": "ws_1", "status": "in_progress"}
    added = {"type": "response.output_item.added", "output_index": 1, "item": search}
    steps = [
        *(opening[0], Pause(38), PING, Pause(55), PING, Pause(42)),
        *(b"".join(opening[1:]) + deltas[0], Pause(24), deltas[1], Pause(36), deltas[2]),
        *(Pause(60), PING, Pause(48), PING, Pause(30)),
        *(sse_block("response.output_item.added", added), Pause(56), PING, Pause(28)),
        *(deltas[3], Pause(30), deltas[4], b"".join(ending)),
    ]

    def body(clock: Watched, token: str) -> None:
        if LATE in token:
            clock.advance(LOOP_BODY)

    every = dict.fromkeys(Timeouts.__struct_fields__, None)
    return play(4.0, [Reply(steps, delay=70)], body, timeouts=Timeouts(**{**every, **timeouts}))


# ---- drawing -----------------------------------------------------------------------------------

SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace"
# A class's name -> its colour on a light and on a dark page.
COLOURS = {
    "paper": ("#ffffff", "#0d1117"),
    "edge": ("#d1d9e0", "#3d444d"),
    "ink": ("#1f2328", "#f0f6fc"),
    "soft": ("#59636e", "#9198a1"),
    "grid": ("#eaeef2", "#21262d"),
    "wait": ("#c8d1da", "#414a54"),
    "blue": ("#0969da", "#4493f8"),
    "pale": ("#b6d7ff", "#1f4470"),
    "amber": ("#bc7a00", "#d29922"),
    "sand": ("#fbe3ae", "#4d3a12"),
    "red": ("#cf222e", "#f85149"),
    "green": ("#1a7f37", "#3fb950"),
    "shade": ("#f3f5f8", "#161b22"),
}


class Drawing:
    """An SVG that is readable on light and dark pages: its colours follow the reader's setting."""

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.width, self.height = width, height
        self._title, self._description = title, description
        self._parts: list[str] = []

    def add(self, part: str) -> None:
        self._parts.append(part)

    def box(self, x: float, y: float, width: float, height: float, fill: str, **more: Any) -> None:
        size = f'width="{_n(width)}" height="{_n(height)}"'
        self.add(f'<rect x="{_n(x)}" y="{_n(y)}" {size} class="f-{fill}"{_more(more)}/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, **more: Any) -> None:
        ends = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
        self.add(f'<line {ends} class="s-{stroke}"{_more(more)}/>')

    def dot(self, x: float, y: float, r: float, fill: str = "none", stroke: str = "none") -> None:
        kind = " ".join(f"{k}-{v}" for k, v in (("f", fill), ("s", stroke)) if v != "none")
        hollow = ' fill="none"' if fill == "none" else ""
        self.add(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}" class="{kind}"{hollow}/>')

    def shape(self, points: Sequence[tuple[float, float]], fill: str, **more: Any) -> None:
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self.add(f'<polygon points="{path}" class="f-{fill}"{_more(more)}/>')

    def path(self, points: Sequence[tuple[float, float]], stroke: str, **more: Any) -> None:
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self.add(f'<polyline points="{path}" fill="none" class="s-{stroke}"{_more(more)}/>')

    def text(
        self, x: float, y: float, words: str, fill: str = "ink", style: str = "", at: str = "start"
    ) -> None:
        anchor = "" if at == "start" else f' text-anchor="{at}"'
        kind = f"f-{fill} {style}".strip()
        self.add(f'<text x="{_n(x)}" y="{_n(y)}" class="{kind}"{anchor}>{escape(words)}</text>')

    def area(
        self,
        runs: Sequence[Run],
        x: Callable[[float], float],
        level: Callable[[float], float],
        floor: float,
        fill: str,
        stroke: str,
    ) -> None:
        """What a clock has left in each run: one shape for runs that follow each other."""
        for group in _connected(runs):
            points = []
            for run in group:
                points.append((x(run.start), level(run.left)))
                points.append((x(run.end), level(run.left - (run.end - run.start))))
            self.shape([(points[0][0], floor), *points, (points[-1][0], floor)], fill)
            self.path(points, stroke, stroke_width=1.5, stroke_linejoin="round")

    def mark(self, form: str, x: float, y: float, colour: str) -> None:
        if form == "dot":
            self.dot(x, y, 4.5, colour)
        elif form == "ring":
            self.dot(x, y, 4, "paper", colour)
        elif form == "diamond":
            self.shape([(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)], colour)
        elif form == "bar":
            self.line(x, y - 5, x, y + 5, colour, stroke_width=2)
        else:
            self.box(x - 5, y - 5, 10, 10, colour)

    def svg(self) -> str:
        width, height = self.width, self.height
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
            f'  viewBox="0 0 {width} {height}" role="img" aria-labelledby="title about">',
            f'<title id="title">{escape(self._title)}</title>',
            f'<desc id="about">{escape(self._description)}</desc>',
            "<style>",
            f"text{{font:12px {SANS}}}.m{{font-family:{MONO}}}",
            ".b{font-weight:600}.s{font-size:11px}.h{font-size:14px;font-weight:600}",
            *_colours(0),
            "@media (prefers-color-scheme:dark){",
            *_colours(1),
            "}",
            "</style>",
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"',
            '  class="f-paper s-edge"/>',
            *self._parts,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"


def _connected(runs: Iterable[Run]) -> list[list[Run]]:
    groups: list[list[Run]] = []
    for run in runs:
        if groups and math.isclose(groups[-1][-1].end, run.start):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _colours(which: int) -> Iterator[str]:
    for name, pair in COLOURS.items():
        yield f".f-{name}{{fill:{pair[which]}}}.s-{name}{{stroke:{pair[which]}}}"


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _more(more: dict[str, Any]) -> str:
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())


def _seconds(value: float) -> str:
    return f"{value:g} s"


# ---- picture 1: a call on a bad day ------------------------------------------------------------


class Bad(NamedTuple):
    """The lanes of the picture, from top to bottom: where each begins."""

    first: float = 56
    backoff: float = 94
    second: float = 140
    idle: float = 184
    axis: float = 240


def call_picture() -> str:
    played, lane = bad_day(), Bad()
    notes, end, error = played.notes, played.notes.end, played.error
    assert end is not None
    assert error is not None
    total = end.total_ms / 1000
    left, right, width = 104, 26, 860
    scale = (width - left - right) / total

    def x(at: float) -> float:
        return left + at * scale

    first, second = end.attempts
    drawing = Drawing(
        width,
        370,
        "A call that meets a 429, retries, streams, stalls, and ends by the idle clock",
        f"Attempt 1 is refused with {first.status} after {first.total_ms / 1000:.1f} s. "
        f"The library waits {notes.retries[0].wait_ms / 1000:g} s, as the server asks. "
        f"Attempt 2 streams {len(notes.tokens)} tokens; then only pings arrive. "
        f"After {_seconds(IDLE)} without progress the idle clock ends the call with "
        f"{type(error).__name__}; .partial has the text so far.",
    )
    drawing.text(20, 30, "One call on a bad day", style="h")
    drawing.text(width - right, 30, f"Timeouts(idle={IDLE:g}, total=45)", "soft", "m s", at="end")
    for mark in range(0, int(total) + 1, 2):
        drawing.line(x(mark), lane.first - 8, x(mark), lane.axis, "grid")
        drawing.text(x(mark), lane.axis + 15, _seconds(mark), "soft", "s", at="middle")
    for name, y in zip(("attempt 1", "backoff", "attempt 2", "idle clock"), lane, strict=False):
        drawing.text(20, y + 16, name, "soft")

    refused = first.total_ms / 1000
    _until_answered(drawing, lane.first, x, notes, 0.0, refused)
    drawing.dot(x(refused), lane.first + 12, 5, "red")
    words = f"{first.status} {first.error_code}, retry-after: {RETRY_AFTER}"
    drawing.text(x(refused) + 12, lane.first + 16, words, "red", "m s")

    began = second.started_ms / 1000
    drawing.box(x(refused), lane.backoff + 4, x(began) - x(refused), 16, "sand", rx=3)
    words = f"{_seconds(end.backoff_ms / 1000)}, as the server asks"
    drawing.text(x(began) + 8, lane.backoff + 16, words, "soft", "s")

    begun, last = notes.tokens[0], notes.tokens[-1]
    y = lane.second
    _until_answered(drawing, y, x, notes, began, begun)
    drawing.box(x(begun), y + 4, x(last) - x(begun), 16, "pale")
    for at in notes.tokens:
        drawing.line(x(at), y + 2, x(at), y + 22, "blue", stroke_width=2)
    drawing.line(x(last), y + 12, x(total), y + 12, "wait", stroke_width=2, stroke_dasharray="2 4")
    pings = [arrival.at for arrival in played.arrivals if arrival.data == PING]
    for at in pings:
        drawing.dot(x(at), y + 12, 4, "paper", "soft")
    drawing.text(x(begun), y - 4, "first token", "blue", "s", at="middle")
    drawing.text((x(pings[0]) + x(pings[-1])) / 2, y - 4, "only pings", "soft", "s", at="middle")

    # Before the first content the clock that is due first is another one.
    running = [run for run in played.runs if run.start >= begun]
    floor = lane.idle + 48
    drawing.area(running, x, _level(lane.idle + 2, floor, IDLE), floor, "sand", "amber")
    drawing.text(x(begun) - 8, lane.idle + 16, "every token resets it", "soft", "s", at="end")
    drawing.line(x(total), lane.first - 8, x(total), floor, "red", stroke_width=1.5)
    drawing.dot(x(total), floor, 5, "red")
    words = f"{_seconds(IDLE)} without progress"
    drawing.text(x(total) - 10, lane.idle + 14, words, "red", "s", at="end")

    y = lane.axis + 39
    _legend(
        drawing,
        left,
        y,
        (
            ("soft", "box", "connects"),
            ("wait", "box", "waits for the response"),
            ("blue", "bar", "token"),
            ("soft", "ring", "ping"),
            ("sand", "box", "what is left of the idle clock"),
        ),
    )
    y += 30
    for line in textwrap.wrap(f"{type(error).__name__}: {error}", 112):
        drawing.text(20, y, line, "red", "m s")
        y += 16
    drawing.text(20, y + 6, f'error.partial.text == "{played.result.text}"', "ink", "m s")
    return drawing.svg()


def _until_answered(
    drawing: Drawing, y: float, x: Callable[[float], float], notes: Notes, start: float, end: float
) -> None:
    """An attempt from its start to its first token, or its refusal."""
    asked = next(at for phase, at in notes.phases if phase == "send" and at >= start)
    drawing.box(x(start), y + 4, x(asked) - x(start), 16, "soft")
    drawing.box(x(asked), y + 4, x(end) - x(asked), 16, "wait")


def _legend(drawing: Drawing, x: float, y: float, entries: Iterable[tuple[str, str, str]]) -> None:
    """A row of (colour, form, words). The widths of words are only guessed: there is room."""
    for colour, form, words in entries:
        drawing.mark(form, x + 5, y - 4, colour)
        drawing.text(x + 17, y, words, "soft", "s")
        x += 17 + len(words) * 5.9 + 18


def _level(top: float, floor: float, whole: float) -> Callable[[float], float]:
    """Where a rest of `whole` seconds is drawn."""
    return lambda left: floor - (floor - top) * min(1.0, max(0.0, left / whole))


# ---- picture 2: the five clocks ----------------------------------------------------------------

# A clock -> what it is about.
CLOCKS = {
    "connect": "DNS, TCP and TLS together",
    "first_token": "ends at the first content",
    "idle": "reset by progress, not pings",
    "silence": "reset by any byte; 90 s",
    "total": "never pauses: the deadline",
}
FAR = 640.0  # seconds: a total clock that the played call does not reach
PLOT = (184.0, 716.0)  # between these the time is drawn
WIDTHS = (0.1, 0.36, 0.16, 0.13, 0.25)  # shares of the columns, in the order of `_columns`


class Column(NamedTuple):
    """A part of the call, which is drawn at a scale of its own."""

    words: str
    start: float
    end: float


def _columns(played: Played) -> list[Column]:
    notes = played.notes
    asked = next(at for phase, at in notes.phases if phase == "send")
    # The reader's own time is the gap between two waits of the library.
    before = next(
        run for run in played.runs if run.left == math.inf and run.start > notes.tokens[0]
    )
    assert notes.end is not None
    return [
        Column("connect", 0.0, asked),
        Column("wait for the first token", asked, notes.tokens[0]),
        Column("stream", notes.tokens[0], before.start),
        Column("your code", before.start, before.end),
        Column("stream on", before.end, notes.end.total_ms / 1000),
    ]


def _axis(columns: Sequence[Column]) -> Callable[[float], float]:
    def x(at: float) -> float:
        place = PLOT[0]
        for column, share in zip(columns, WIDTHS, strict=True):
            width = share * (PLOT[1] - PLOT[0])
            if at <= column.end:
                return place + width * (at - column.start) / (column.end - column.start)
            place += width
        return PLOT[1]

    return x


def clocks_picture() -> str:
    defaults = Timeouts()
    # Each clock alone: then what is due next is that clock, or nothing.
    played = {name: long_answer(**{name: getattr(defaults, name) or FAR}) for name in CLOCKS}
    assert all(one.error is None for one in played.values())
    columns = _columns(played["idle"])
    x = _axis(columns)
    shown = ", ".join(f"{name} {_setting(getattr(defaults, name))}" for name in CLOCKS)
    drawing = Drawing(
        860,
        412,
        "The five clocks of a call on one time axis",
        f"What each clock has left while a call connects, waits, and streams; by default {shown}.",
    )
    top, row, height = 112, 52, 38
    bottom = top + len(CLOCKS) * row - 6
    drawing.text(20, 30, "Five clocks", style="h")
    drawing.text(PLOT[1], 30, "time is not to scale", "soft", "s", at="end")
    for number, column in enumerate(columns):
        a, b = x(column.start + 1e-9), x(column.end)
        if column.words == "your code":
            drawing.box(a, 44, b - a, bottom - 44, "shade")
        if number:
            drawing.line(a, 44, a, bottom, "edge", stroke_dasharray="2 3")
        drawing.text((a + b) / 2, 58, column.words, "soft", "s", at="middle")
    _wire(drawing, 84, x, played["idle"])
    for number, (name, about) in enumerate(CLOCKS.items()):
        y = top + number * row
        default = getattr(defaults, name)
        drawing.text(20, y + 16, f"{name} = {_setting(default)}", style="m b")
        drawing.text(20, y + 32, about, "soft", "s")
        drawing.text(PLOT[1] + 12, y + 25, _error_of(name), "red", "m s")
        runs = [run for run in played[name].runs if run.left < math.inf]
        level = _level(y, y + height, max(run.left for run in runs))
        drawing.line(PLOT[0], y + height, PLOT[1], y + height, "grid")
        fill, stroke = ("grid", "soft") if default is None else ("pale", "blue")
        drawing.area(runs, x, level, y + height, fill, stroke)
    _legend(
        drawing,
        PLOT[0],
        bottom + 26,
        (
            ("blue", "dot", "content"),
            ("green", "diamond", "other progress"),
            ("soft", "ring", "ping, announcement"),
            ("pale", "box", "what is left of a clock"),
        ),
    )
    return drawing.svg()


def _wire(drawing: Drawing, y: float, x: Callable[[float], float], played: Played) -> None:
    """What arrives. Progress is what winds the idle clock up."""
    drawing.text(20, y + 4, "what arrives", "soft", "s")
    drawing.line(PLOT[0], y, PLOT[1], y, "wait")
    whole = Timeouts().idle
    progress = {run.start for run in played.runs if run.left == whole}
    for arrival in played.arrivals:
        if arrival.at in played.notes.tokens:
            drawing.mark("dot", x(arrival.at), y, "blue")
        elif arrival.at in progress:
            drawing.mark("diamond", x(arrival.at), y, "green")
        else:
            drawing.mark("ring", x(arrival.at), y, "soft")


def _setting(value: Any) -> str:
    return "off" if value is None else value if isinstance(value, str) else _seconds(value)


def _error_of(clock: str) -> str:
    return next(cls.__name__ for cls in StreamTimeout.__subclasses__() if cls.clock == clock)


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    return {"call.svg": call_picture(), "clocks.svg": clocks_picture()}


def main() -> None:
    for name, svg in pictures().items():
        (FOLDER / name).write_text(svg, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
