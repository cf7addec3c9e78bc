"""What is only a sign of life: keepalives that are not JSON, and events that say nothing new.
Imports nothing.

Gateways that pack a comment into `data:` send `data: : keepalive`; others send a date, or a word,
in an event named "ping" or "heartbeat".
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["SeenEvents", "is_ping", "is_sign_of_life"]

_WORDS = frozenset({"ping", "pings", "pong", "alive"})
_PARTS = ("keepalive", "heartbeat")
_NO_LETTERS = re.compile(r"[^a-z]+")
# Fields that differ from event to event although nothing has happened.
_PASSING = frozenset(
    {"sequence_number", "usage", "created", "obfuscation", "system_fingerprint", "raw", "chunks"}
)
_DEPTH = 4  # of an event that is compared
_MAX_PRINTS = 10_000  # of events
_SMALL = 4096  # bytes of an event that is kept whole
_MAX_WORD, _MAX_DATA = 64, 256  # characters: nothing longer is a word, or a lone keepalive


def is_ping(word: str) -> bool:
    """Whether an event's name, or a lone word, means a keepalive, in any spelling: "ping",
    "Keep-Alive", "heartbeat"."""
    if len(word) > _MAX_WORD:
        return False
    words = _NO_LETTERS.split(word.lower())
    joined = "".join(words)
    return not _WORDS.isdisjoint(words) or any(part in joined for part in _PARTS)


def is_sign_of_life(name: str, data: bytes) -> bool:
    """Whether data that is not JSON is a keepalive, by the event's name or by the data itself: a
    comment in the data, or a word for a ping."""
    if name == "error":
        return False
    start = data.lstrip()[:1]
    if start == b":" or is_ping(name):
        return True
    # A quote or a brace: what is left of an event that was garbled on the way.
    garbled = len(data) > _MAX_DATA or b"{" in data or b'"' in data
    return not garbled and is_ping(data.decode("utf-8", "replace"))


class SeenEvents:
    """The events of an answer that were received before. A status that is repeated for ever must
    not keep a dead stream open: only what changes something is progress. Not thread-safe."""

    __slots__ = ("_first", "_prints")

    def __init__(self) -> None:
        # Most answers have one event of a type: it is looked at only when another one arrives.
        self._first: dict[type[Any], Any] = {}
        self._prints: set[int] = set()

    def repeats(self, event: Any) -> bool:
        """Whether an event (a struct) has nothing that none before it had. The first one is kept,
        unless it is large."""
        kind = type(event)
        first = self._first.setdefault(kind, event)
        if first is event and len(event.raw) <= _SMALL:
            return False
        if first is not None:
            self._first[kind] = None
            self._add(first)
        return first is not event and not self._add(event)

    def _add(self, event: Any) -> bool:
        """Whether it is new."""
        found = _comparable_struct(event, _DEPTH)
        if found in self._prints:
            return False
        if len(self._prints) >= _MAX_PRINTS:
            self._prints.clear()
        self._prints.add(found)
        return True


def _comparable_struct(event: Any, depth: int) -> int:
    found: list[Any] = [type(event)]
    for name in event.__struct_fields__:
        # The id of a whole event is the response's; some gateways send another with each.
        if name not in _PASSING and not (name == "id" and depth == _DEPTH):
            found.append(_comparable(getattr(event, name), depth))
    return hash(tuple(found))


def _comparable(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if depth == 0:
        return None
    if isinstance(value, dict):
        return tuple((k, _comparable(v, depth - 1)) for k, v in value.items() if k not in _PASSING)
    if isinstance(value, (list, tuple)):
        return tuple(_comparable(inner, depth - 1) for inner in value)
    return _comparable_struct(value, depth - 1) if hasattr(value, "__struct_fields__") else None
