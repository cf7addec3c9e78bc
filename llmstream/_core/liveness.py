"""Signs of life that services send as data: keepalives that are not JSON. Imports nothing.

Gateways that pack a comment into `data:` send `data: : keepalive`; others send a date, or a word,
in an event named "ping" or "heartbeat".
"""

from __future__ import annotations

import re

__all__ = ["is_ping", "is_sign_of_life"]

_WORDS = frozenset({"ping", "pings", "pong", "alive"})
_PARTS = ("keepalive", "heartbeat")
_NO_LETTERS = re.compile(r"[^a-z]+")
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
