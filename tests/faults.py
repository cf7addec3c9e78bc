"""Bad days, each with the outcome that it demands: what a prompt asks for, the test server does,
and `refusal` judges what the reader was given.

The prompt carries its `Plan`, so that a request alone determines its reply, whichever stream,
thread or attempt it belongs to, and every word of an answer names the stream that it is for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llmstream import (
    AuthenticationError,
    Cancelled,
    FirstTokenTimeout,
    InvalidRequestError,
    LLMStreamError,
    NotAStreamError,
    OverloadedError,
    PermissionDeniedError,
    ProtocolError,
    QuotaExceededError,
    Result,
    RetryPolicy,
    ServerError,
    SilenceTimeout,
    Stream,
    StreamInterrupted,
    StreamTruncated,
    Timeouts,
)
from llmstream.testing import Answer, Cut, Pause, Recorded, Reply, Reset, Silence
from llmstream.testing.answers import api_of_path
from llmstream.testing.script import prompt_text

APIS = ("responses", "messages", "chat", "gemini")
WORDS = 5
SHORT = 0.1  # seconds of a clock that is to break
FAR = 60.0
TWICE = RetryPolicy(max_attempts=2, base=0.0, cap=0.0, jitter=0.0)


class Plan(NamedTuple):
    """One call: its number, its reader's slot, what goes wrong, and after how many words."""

    number: int
    slot: int
    fault: str
    cut: int = 2

    @property
    def prompt(self) -> str:
        return f"{self.number} {self.slot} {self.cut} {self.fault}"

    @classmethod
    def of(cls, prompt: str) -> Plan:
        number, slot, cut, fault = prompt.split(" ", 3)
        return cls(int(number), int(slot), fault, int(cut))

    @property
    def words(self) -> list[str]:
        return [f"<{self.number}:{word}>" for word in range(WORDS)]

    @property
    def timeouts(self) -> Timeouts:
        short = FAULTS[self.fault].clock
        far = dict.fromkeys(("connect", "first_token", "idle", "silence"), FAR)
        return Timeouts(**{**far, **({short: SHORT} if short else {})})


class Fault(NamedTuple):
    """One bad day. `reply` makes the reply to attempt number n (from 1) of a plan, in an API.

    What it demands: `error` (None: a success), `heard` ("all" the words; "cut": exactly those
    before the cut; "some" of those; "none") and `attempts` (0: one or two). `clock` is the one
    that breaks. One that never `ends` is for readers that leave.
    """

    reply: Callable[[Plan, str, int], Reply]
    error: type[LLMStreamError] | None = None
    heard: str = "all"
    attempts: int = 1
    clock: str = ""
    ends: bool = True


def _whole(plan: Plan, api: str, attempt: int) -> Reply:
    return Reply(Answer(plan.words))


def _before_cut(plan: Plan, api: str) -> tuple[list[bytes], list[bytes]]:
    """The blocks up to the last word before the cut, and the rest."""
    blocks = Answer(plan.words).blocks(api)
    last = plan.words[plan.cut - 1].encode()
    at = next(index for index, block in enumerate(blocks) if last in block) + 1
    return blocks[:at], blocks[at:]


def _slow(plan: Plan, api: str, attempt: int) -> Reply:
    blocks = Answer(plan.words).blocks(api)
    return Reply([step for block in blocks for step in (block, Pause(0.0005))])


def _cut_by(*steps: Any, half: bool = False) -> Callable[[Plan, str, int], Reply]:
    def reply(plan: Plan, api: str, attempt: int) -> Reply:
        blocks, rest = _before_cut(plan, api)
        return Reply([*blocks, *([rest[0][: len(rest[0]) // 2]] if half else []), *steps])

    return reply


def _at_first(
    bad: Callable[[Plan, str, int], Reply],
) -> Callable[[Plan, str, int], Reply]:
    """Bad the first time, and good the second."""

    def reply(plan: Plan, api: str, attempt: int) -> Reply:
        return (bad if attempt == 1 else _whole)(plan, api, attempt)

    return reply


def _status(status: int, **said: Any) -> Callable[[Plan, str, int], Reply]:
    def reply(plan: Plan, api: str, attempt: int) -> Reply:
        return Reply.error(status, api=api, **said)

    return reply


def _failed(plan: Plan, api: str, attempt: int) -> Reply:
    error = {"type": "overloaded_error", "code": "overloaded_error", "message": "busy"}
    return Reply(Answer(plan.words[: plan.cut], error=error))


def _failed_at_once(plan: Plan, api: str, attempt: int) -> Reply:
    return _failed(plan._replace(cut=0), api, attempt)


_GARBAGE = b'data: {"type": "mess\n\n'
_SOON = {"retry-after-ms": "3"}
_QUOTA = {"code": "insufficient_quota", "type": None}

FAULTS: dict[str, Fault] = {
    "none": Fault(_whole),
    "slow": Fault(_slow),
    "429, then good": Fault(_at_first(_status(429, headers=_SOON)), attempts=2),
    "500, then good": Fault(_at_first(_status(500)), attempts=2),
    "503, then good": Fault(_at_first(_status(503)), attempts=2),
    "529, then good": Fault(_at_first(_status(529)), attempts=2),
    "garbled, then good": Fault(
        _at_first(lambda *_: Reply([_GARBAGE, Cut(last_chunk=True)])), attempts=2
    ),
    "failed, then good": Fault(_at_first(_failed_at_once), attempts=2),
    "lost, then good": Fault(_at_first(lambda *_: Reply(before=Reset())), attempts=2),
    "502 for good": Fault(_status(502), ServerError, "none", 2),
    "400": Fault(_status(400), InvalidRequestError, "none"),
    "401": Fault(_status(401), AuthenticationError, "none"),
    "403": Fault(_status(403), PermissionDeniedError, "none"),
    "quota": Fault(_status(429, **_QUOTA), QuotaExceededError, "none"),
    "a page": Fault(lambda *_: Reply.html(), NotAStreamError, "none"),
    "cut clean": Fault(_cut_by(Cut(last_chunk=True)), StreamTruncated, "cut"),
    "cut clean in an event": Fault(
        _cut_by(Cut(last_chunk=True), half=True), StreamTruncated, "cut"
    ),
    "cut dirty": Fault(_cut_by(Cut()), StreamInterrupted, "cut"),
    "cut dirty in an event": Fault(_cut_by(Cut(), half=True), StreamInterrupted, "cut"),
    # With the machine busy a reset, or a short clock, may come before the first word is read.
    "reset": Fault(_cut_by(Reset()), StreamInterrupted, "some", 0),
    "silence": Fault(_cut_by(Silence()), SilenceTimeout, "some", 0, "silence"),
    "no answer": Fault(
        lambda *_: Reply(before=Silence()), FirstTokenTimeout, "none", 1, "first_token"
    ),
    "garbled": Fault(_cut_by(_GARBAGE, Silence()), ProtocolError, "cut"),
    "failed": Fault(_failed, OverloadedError, "cut"),
    "held": Fault(lambda *_: Reply(before=Silence()), ends=False),
    "stuck": Fault(_cut_by(Silence()), ends=False),
    # Not 429: that would hold every call of this host and key.
    "503 for long": Fault(_status(503, headers={"retry-after": "50"}), ends=False),
}
ENDING = [name for name, fault in FAULTS.items() if fault.ends]


class Service:
    """What an LLMServer does by default, by the plan in the prompt: `server.default = service`.

    `hooks` are called, once, in the server's thread when a slot's request has come. `requests`
    counts those of each slot's latest call; one that comes late, of an earlier call, counts for
    nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._calls: dict[int, tuple[int, int]] = {}  # slot -> number of the call, its requests
        self.hooks: dict[tuple[int, int], Callable[[], None]] = {}  # by slot and number

    def __call__(self, recorded: Recorded) -> Reply:
        plan = Plan.of(prompt_text(recorded))
        with self._lock:
            number, before = self._calls.get(plan.slot, (-1, 0))
            attempt = before + 1 if number == plan.number else 1
            if plan.number >= number:
                self._calls[plan.slot] = (plan.number, attempt)
            hook = self.hooks.pop((plan.slot, plan.number), None)
        if hook is not None:
            hook()
        api = api_of_path(recorded.path)
        assert api is not None
        return FAULTS[plan.fault].reply(plan, api, attempt)

    def requests(self, plan: Plan) -> int:
        """How many requests of this call have come, while it is the latest of its slot."""
        with self._lock:
            number, count = self._calls.get(plan.slot, (-1, 0))
        return count if number == plan.number else 0


# --- what the reader was given ------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a call ended for its reader: what was delivered, and the result or the error."""

    text: str
    result: Result | None
    error: BaseException | None

    @property
    def partial(self) -> Result:
        error = self.error
        return error.partial if isinstance(error, LLMStreamError) else self.result or Result()


def _tokens(stream: Stream) -> Iterator[str]:
    yield from stream


def _chunks(stream: Stream) -> Iterator[str]:
    return (chunk.text for chunk in stream.chunks() if chunk.type == "text")


def _events(stream: Stream) -> Iterator[str]:
    return (c.text for event in stream.events() for c in event.chunks if c.type == "text")


def _nothing(stream: Stream) -> Iterator[str]:
    yield stream.result().text


VIEWS: dict[str, Callable[[Stream], Iterator[str]]] = {
    "tokens": _tokens,
    "chunks": _chunks,
    "events": _events,
    "result": _nothing,
}


def read(
    stream: Stream, view: str = "tokens", on_word: Callable[[int], Any] = lambda count: None
) -> Outcome:
    """Reads a stream to its end, whatever that is; `on_word` is told after each piece."""
    heard: list[str] = []
    try:
        for text in VIEWS[view](stream):
            heard.append(text)
            on_word(len(heard))
        result = stream.result()
    except BaseException as exc:
        if view == "result" and isinstance(exc, LLMStreamError):
            heard = [exc.partial.text]
        # The caller keeps outcomes, not frames.
        return Outcome("".join(heard), None, exc.with_traceback(None))
    return Outcome("".join(heard), result, None)


def refusal(plan: Plan, outcome: Outcome, *, cancelled: bool = False) -> str:
    """Why the outcome is not one that the plan allows ("" where it is). With `cancelled`, to be
    cancelled at any moment is one too."""
    fault = FAULTS[plan.fault]
    words = plan.words
    whole = "".join(words)
    text, error, partial = outcome.text, outcome.error, outcome.partial
    if not whole.startswith(text):
        return f"text that is not this call's: {text!r}"
    if not whole.startswith(partial.text):
        return f"a partial that is not this call's: {partial.text!r}"
    if cancelled and isinstance(error, Cancelled):
        # Events that had come are kept, though nothing is delivered after a cancel.
        return "" if partial.text.startswith(text) else "less is kept than was delivered"
    if not fault.ends:
        return f"it ended by itself: {error!r}"
    if partial.text != text:
        return f"delivered {text!r}, kept {partial.text!r}"
    if type(error) is not (fault.error or type(None)):
        return f"{error!r} in the place of {fault.error}"
    before = "".join(words[: plan.cut])
    allowed = {
        "all": text == whole,
        "cut": text == before,
        "some": before.startswith(text),
        "none": not text,
    }
    if not allowed[fault.heard]:
        return f"heard {text!r}, and it should be {fault.heard}"
    if error is None and (partial.finish != "stop" or not partial.turn):
        return f"a success without an end: {partial!r}"
    made = len(partial.attempts)
    if not (made == fault.attempts or (not fault.attempts and 1 <= made <= 2)):
        return f"{made} attempts: {partial.attempts}"
    return ""
