"""What the fault server sends: one answer, whole and in parts."""

from __future__ import annotations

import itertools

from ..testing import Answer, Pings
from ..testing.answers import encoding
from .settings import CheckSettings

__all__ = ["ANSWER", "PART", "PROMPT", "REST", "WHOLE", "first_part", "opening", "ping", "pings"]

WHOLE = "Lorem ipsum dolor sit amet consectetur"
PART = "Lorem ipsum dolor"  # the text that is sent before a fault in mid-answer
REST = " sit amet consectetur"
ANSWER = Answer(WHOLE)
PROMPT = "Say it."


def opening(api: str) -> list[bytes]:
    """The answer's events before its first content."""
    return _before(api, b"Lorem")


def first_part(api: str) -> list[bytes]:
    """The answer's events as far as the text `PART`. They leave in one write: between two of them
    the server might stand still for longer than a clock that runs faster."""
    return [b"".join(_before(api, b" sit"))]


def _before(api: str, word: bytes) -> list[bytes]:
    """The answer's events before the first one that contains `word`."""
    return list(itertools.takewhile(lambda block: word not in block, ANSWER.blocks(api)))


def ping(api: str) -> bytes:
    """One sign of life: what makes the silence clock "auto" hold."""
    return encoding(api).ping


def pings(settings: CheckSettings) -> Pings:
    """Endless pings, in real seconds close enough for the silence clock."""
    silence = settings.timeouts.seconds("silence")
    every = 0.1 if silence is None else min(0.1, silence / 4.0)
    return Pings(every, data=encoding(settings.api).ping)
