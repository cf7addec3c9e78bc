"""Shared by the tests of telemetry: an observer that keeps all that is reported to it, clients of
doubles, and readers of log lines."""

from __future__ import annotations

import json
import logging
import re
import threading
from typing import Any

import pytest

from llmstream import Client, Result, RetryPolicy
from llmstream.telemetry.records import AttemptRecord, CallRecord, RetryRecord
from llmstream.testing import Answer, FakeClock, FakeTransport, Pause, Reply

APIS = ("responses", "messages", "chat", "gemini")
NO_JITTER = RetryPolicy(base=0.5, jitter=0.0)
TRACE = "0123456789abcdef0123456789abcdef"


class Told:
    """An observer that keeps all that is reported to it: `moments` are (name, what)."""

    def __init__(self) -> None:
        self.moments: list[tuple[str, tuple[Any, ...]]] = []
        self.threads: dict[str, str] = {}  # the last thread of each moment

    def note(self, name: str, *what: Any) -> None:
        self.threads[name] = threading.current_thread().name
        self.moments.append((name, what))

    def on_start(self, call: CallRecord) -> None:
        self.note("start", call)

    def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
        self.note("phase", call, phase, at_ms)

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        self.note("first_token", call, at_ms)

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        self.note("tokens", call, at_ms, gap_ms, chunks)

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        self.note("attempt", call, attempt)

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        self.note("retry", call, retry)

    def on_content(self, call: CallRecord, request: Any, result: Result) -> None:
        self.note("content", call, request, result)

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.note("end", call, end)

    # -- what the tests ask

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.moments]

    def all(self, name: str) -> list[tuple[Any, ...]]:
        """What was reported at each such moment, without the call."""
        return [what[1:] for found, what in self.moments if found == name]

    @property
    def calls(self) -> list[CallRecord]:
        return [what[0] for name, what in self.moments if name == "start"]

    @property
    def ends(self) -> list[CallRecord]:
        return [what[0] for what in self.all("end")]

    @property
    def end(self) -> CallRecord:
        """The record of the one call that has ended."""
        (end,) = self.ends
        return end

    @property
    def attempts(self) -> list[AttemptRecord]:
        return [what[0] for what in self.all("attempt")]

    @property
    def phases(self) -> list[str]:
        return [what[0] for what in self.all("phase")]


def make(
    *replies: Any, api: str = "responses", observer: Any = None, **settings: Any
) -> tuple[Client, FakeClock, Told]:
    """A client of doubles, its clock, whose time begins at 0, and the observer of its calls."""
    told, clock = observer or Told(), settings.pop("clock", None) or FakeClock(start=0.0)
    known = {"observers": [told], "model": "m", "retry": NO_JITTER}
    client = Client(
        api,
        base_url="http://test:8080",
        transport=FakeTransport(*replies),
        clock=clock,
        **{**known, **settings},
    )
    return client, clock, told


def split(api: str, answer: Answer) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """An answer's blocks: before its text, the text delta by delta, and after it."""
    blocks, count = answer.blocks(api), len(answer.text_deltas)
    first = next(n for n, b in enumerate(blocks) if answer.text_deltas[0].encode() in b)
    return blocks[:first], blocks[first : first + count], blocks[first + count :]


def timed(api: str, answer: Answer, *, headers: Any = None) -> Reply:
    """Headers after 1 s, first content after 1.5 s, gaps of 0.25 s and 0.5 s, the end after 3 s."""
    opening, (one, two, three), ending = split(api, answer)
    steps = [*opening, Pause(0.5), one, Pause(0.25), two, Pause(0.5), three, Pause(0.75), *ending]
    return Reply(steps, delay=1.0, headers=headers or {})


def id_header(api: str) -> str:
    return "request-id" if api == "messages" else "x-request-id"


THREE = Answer("one two three", usage=(12, 34, 5, 6))

MOMENTS = (
    "on_start",
    "on_phase",
    "on_first_token",
    "on_tokens",
    "on_attempt",
    "on_retry",
    "on_content",
    "on_end",
    "request_headers",
)


def failing(*moments: str, error: BaseException | None = None) -> Any:
    """An observer that raises in the moments given."""

    def fail(self: Any, *what: Any) -> None:
        raise error or ValueError("an observer's own mistake")

    return type("Failing", (), dict.fromkeys(moments, fail))()


@pytest.fixture(name="log")
def debug_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The lines of the logger `llmstream`, DEBUG included."""
    caplog.set_level(logging.DEBUG, logger="llmstream")
    return caplog


_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


def parsed(line: str) -> tuple[str, dict[str, str]]:
    """A line's kind, and its fields as text; there is nothing else in it."""
    kind, _, rest = line.partition(": ")
    assert _FIELD.sub("", rest).strip(" ") == "", line
    fields = {n: json.loads(v) if v.startswith('"') else v for n, v in _FIELD.findall(rest)}
    return kind, fields


def lines_of(log: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in log.records if r.name == "llmstream" and r.levelno >= level]


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    plain = vars(logging.makeLogRecord({}))
    added = {"message", "asctime", "taskName"}
    return {n: v for n, v in vars(record).items() if n not in plain and n not in added}
