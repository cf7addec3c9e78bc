"""collect: a call's end as a value, and not as an exception."""

from __future__ import annotations

from ..result import LLMStreamError
from .outcome import Outcome
from .source import WithResult, checked_source

__all__ = ["collect"]


def collect(stream: WithResult) -> Outcome:
    """Read the stream to its end, and return how it ended: with `.result`, or with `.error` and,
    in `.text`, what had arrived.

    `stream` is a Stream that was not begun, that was read in part, that has ended or that was
    cancelled; a fan (see `fanout`); or a double with `result()`. Every LLMStreamError that its
    `result()` raises becomes `.error`. What is not about the stream is raised: a KeyboardInterrupt
    (the call is ended, as always), or an error of the caller's own code. Raises ConfigurationError
    for something that is no stream. The outcome's `index` is 0, and its `prompt` is None.
    """
    checked_source("collect", stream, "result")
    try:
        return Outcome(0, None, stream.result(), None)
    except LLMStreamError as error:
        return Outcome(0, None, None, error)
