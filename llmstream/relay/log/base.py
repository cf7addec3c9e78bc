"""What a log of answers is, and what all logs have in common.

A log keeps the frames of an answer while they are made, and for a while after that, so that a
browser that was cut off or reloaded goes on where it was. One producer writes an answer; any number
of readers follow it, each at its own speed, perhaps in other processes.

Every frame has a number, 1, 2, 3 ..., and an id: `<generation>-<number>`, the `id:` of SSE. The
generation is when the answer was claimed, in milliseconds, by the log's own clock. So a browser
that comes back with the id of an older answer of the same name is not mistaken for one that has
read a part of this one; a frame that is sent to the log twice is stored once; and a number that is
missing is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from msgspec import Struct
from msgspec.structs import replace

from ..._core.checks import has_method, shown
from ...errors import ConfigurationError
from ...result import LLMStreamError
from ..parts import Failure
from ..protocols import make_encoder
from ..protocols.base import Encoder

__all__ = [
    "About",
    "Claim",
    "Cursor",
    "End",
    "Entry",
    "Log",
    "LogError",
    "LogReader",
    "LogWriter",
    "checked_answer_id",
    "checked_log",
    "checked_seconds",
    "failed",
    "is_answer_id",
    "parse_cursor",
]

_LONGEST_ID = 512  # characters
_CURSOR = re.compile(r"([0-9]{1,15})-([0-9]{1,9})", re.ASCII)

# What a person may be shown. Nothing here tells of the server.
UNAVAILABLE = "The answer cannot be reached at the moment. Reload the page to go on."
LOST = "A part of the answer was lost. Please ask again."
STOPPED = "The server stopped before the answer was whole. Please ask again."
TOO_LONG = "The answer is longer than this server keeps."
FULL = "The server keeps too many answers at the moment. Please ask again later."
UNATTENDED = "The answer was stopped, because nobody was reading it."


class LogError(LLMStreamError):
    """A log cannot be used, is full, or no longer has what it had. `shown` is the sentence that a
    reader of the answer gets: it tells nothing of the server. `retryable`: the same may work a
    little later."""

    def __init__(self, message: str, *, shown: str = UNAVAILABLE, retryable: bool = True) -> None:
        super().__init__(message)
        self.shown = shown
        self.retryable = retryable

    @property
    def failure(self) -> Failure:
        """The error as the last part of an answer."""
        return Failure(type="LogError", message=self.shown, retryable=self.retryable)


class About(Struct, frozen=True):
    """What a reader has to know of an answer. `unattended`: the seconds that its producer goes on
    while nobody follows; None: to the end."""

    protocol: str
    version: int | str | None = None
    unattended: float | None = None

    def encoder(self) -> Encoder:
        """A new encoder, for what is sent beside the frames: heartbeats, and a last Failure."""
        return make_encoder(self.protocol, self.version)


class Cursor(NamedTuple):
    """A place in an answer: after the frame of this number (0: at the start)."""

    generation: int
    number: int

    def __str__(self) -> str:
        return f"{self.generation}-{self.number}"


class Entry(NamedTuple):
    """A frame, and its id."""

    id: str
    frame: bytes


class Claim(Struct):
    """What a producer asks of a log: to be the one that writes this answer.

    The log puts the `writer` here before anybody else can know the answer, so that an interrupt
    loses none.

    `stop` ends the producer, from any thread and any number of times. It is given what the readers
    are told, or None where somebody stopped the answer on purpose, and a reason for the records.
    """

    id: str
    about: About
    stop: Callable[[Failure | None, str], None]
    writer: LogWriter | None = None


class LogWriter(Protocol):
    """An answer, for its one producer. One thread writes; `release` may be called by any."""

    def append(self, frames: list[bytes]) -> None:
        """Store frames. Raises LogError: the answer is too long, or the log is full, cannot be
        reached, or no longer has the answer."""

    def end(self, frames: list[bytes], *, breaks: bool) -> None:
        """Store the last frames, which always fit, and the end. `breaks`: the body of every reader
        has to break after them, because the protocol has no other way to tell a failure. Raises
        LogError."""

    def withdraw(self) -> None:
        """The producer has not begun, and does not: as if the answer had not been claimed. Never
        raises."""

    def release(self) -> None:
        """The producer has ended, one way or other; what it did not say to be the end is not one.
        Never raises; idempotent."""


class End(NamedTuple):
    """How an answer has ended. `breaks`: see `LogWriter.end`."""

    breaks: bool


class LogReader(Protocol):
    """An answer, for one of its readers. One thread reads; any thread may close it.

    Attributes:
        about: what was said of the answer.
        end: how it ended, once all frames have been taken; None before that.
    """

    @property
    def about(self) -> About: ...
    @property
    def end(self) -> End | None: ...

    def take(self, seconds: float) -> list[Entry]:
        """The next frames; waits at most `seconds` for one. May return early, and empty. Raises
        LogError."""

    def close(self) -> None:
        """Leave. A thread that waits in `take` returns. Idempotent; also in finalizers."""


class Log(Protocol):
    """Where answers are kept. Any thread may use it at any time."""

    def claim(self, claim: Claim) -> LogWriter | None:
        """The answer's writer; None where it was claimed before. Raises LogError."""

    def reader(self, id: str, after: Cursor | None) -> LogReader | None:
        """A reader that begins after a place; at the start if that is None or in another answer.
        None where the answer is not known. Does not wait for frames. Raises LogError."""

    def stop(self, id: str, reason: str) -> bool:
        """Tell the producer to stop, in whatever process. Returns whether there is one. Raises
        LogError."""


def failed(about: About, failure: Failure) -> tuple[list[bytes], bool]:
    """The frames of a failure that no producer can write any more, and whether the body has to
    break after them."""
    encoder = about.encoder()
    return encoder.encode(replace(failure, text_length=None)), not encoder.shows_failure


# ---- what callers and browsers pass ------------------------------------------------------------


def checked_log(log: Any) -> Log:
    for method in ("claim", "reader", "stop"):
        if not has_method(log, method):
            raise ConfigurationError(
                f"log={shown(log)}: pass relay.MemoryLog() or relay.RedisLog(url), made once for "
                "the whole process"
            )
    found: Log = log
    return found


def checked_seconds(name: str, value: Any, most: float = 31 * 86_400.0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise ConfigurationError(
            f"{name}={shown(value)}: pass seconds, greater than 0 and at most {most:,.0f}"
        )
    return float(value)


def is_answer_id(id: Any) -> bool:
    """Whether an answer can have this id. (Raises ConfigurationError for what is no text at all,
    which is a mistake of the program and not of a browser.)"""
    if not isinstance(id, str):
        raise ConfigurationError(f"id={shown(id)}: pass the answer's id, a string")
    if not 0 < len(id) <= _LONGEST_ID:
        return False
    try:
        id.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True


def checked_answer_id(id: Any) -> str:
    if not is_answer_id(id):
        raise ConfigurationError(
            f"id={shown(id)}: pass a string of 1 to {_LONGEST_ID} whole characters, such as "
            "uuid.uuid4().hex"
        )
    checked: str = id
    return checked


def parse_cursor(last_event_id: Any) -> Cursor | None:
    """The place that a browser says to have reached; None where it says nothing that this library
    has ever sent."""
    if last_event_id is None:
        return None
    if not isinstance(last_event_id, str):
        raise ConfigurationError(
            f"last_event_id={shown(last_event_id)}: pass the request's header Last-Event-ID as a "
            "string, or None"
        )
    found = _CURSOR.fullmatch(last_event_id)
    return Cursor(int(found[1]), int(found[2])) if found else None
