"""What a tool has returned, or raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .._outputs import NotSendable

__all__ = ["Unwanted", "drained", "words_of"]

_LONGEST_WORDS = 4_000  # characters of an exception that the model is sent


class Unwanted(Exception):
    """Nobody waits for what an iterator yields any more."""


def drained(value: Any, wanted: Callable[[], bool]) -> Any:
    """What a tool has returned; of a generator, or another iterator, what it yields, as long as it
    is `wanted`: strings as one text, whose pieces they are, other items as a list. Raises
    Unwanted."""
    if not isinstance(value, Iterator):
        return value
    found = []
    for item in value:
        if not wanted():
            close = getattr(value, "close", None)
            if callable(close):
                close()
            raise Unwanted
        found.append(item)
    if found and all(isinstance(item, str) for item in found):
        return "".join(found)
    return found


def words_of(error: BaseException) -> str:
    """What the model is sent of an exception that a tool has raised: its class and its words, at
    most 4,000 characters."""
    kind = "The result cannot be sent" if isinstance(error, NotSendable) else type(error).__name__
    try:
        words = str(error)
    except Exception:  # its own __str__ fails
        words = ""
    text = f"{kind}: {words}" if words else kind
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_WORDS else f"{text[:_LONGEST_WORDS]} ..."
