"""The plain value of JSON that grows."""

from __future__ import annotations

import math
from typing import Any

from .._core.checks import checked_range
from .._core.json_text import JSONScanner
from .._runtime.clock import SYSTEM_CLOCK, Clock
from ..errors import ConfigurationError

__all__ = ["PartialJSON", "decoded"]

_SHARE = 10  # times the cost of a parse that pass before the next one
_GROWTH = 16  # a parse for each sixteenth more, where no time has to pass
_NUMBER = b"0123456789+-.eE"  # what a number consists of: its end may be missing
_LONGEST_INTERVAL = 3600.0


class PartialJSON:
    """The value of JSON that arrives in pieces: plain dicts and lists, as far as it has arrived.

        partial = PartialJSON()
        for chunk in stream.chunks():
            if chunk.type == "tool_call" and partial.add(chunk.text):
                show(partial.value)

    A string grows until it is closed; a number, true, false or null is there once it is whole; what
    is nested 200 levels deep is too deep. Sentences, thinking in `<think>` tags or a code fence
    around the object are passed over. `value` is None before it has begun. Each parse makes new
    objects, so a value may be kept. Not thread-safe.

    Parsing starts anew each time (by jiter, about 4 ns a byte), so it has a budget: the next parse
    comes once `interval` seconds have passed, and ten times what the last one has taken: less than
    a tenth of the time, at any size. With `interval=0` no time has to pass: it comes once the text
    has grown by a sixteenth, and all parses together take as long as some twenty of the whole.

    Args:
        interval: seconds, from 0 to 3,600.
        clock: a double for tests.

    Raises ConfigurationError without the extra `output` (jiter).
    """

    def __init__(self, interval: float = 0.05, *, clock: Clock | None = None) -> None:
        self._interval = checked_range("interval", interval, 0, _LONGEST_INTERVAL)
        self._parse_json = _jiter()
        self._now = (clock or SYSTEM_CLOCK).monotonic
        self.value: Any = None
        self._scanner = JSONScanner(lists=True)
        self._unread: list[str] = []  # the pieces that were not looked at yet
        self._before: list[str] = []  # the text until the JSON begins
        self._json = bytearray()  # the JSON so far
        self._size = 0  # characters of the text
        self._parsed = 0  # the characters of the text at the last parse
        self._due = -math.inf  # when the next parse may be made
        self._broken = False  # it is not JSON: more of it changes nothing

    @property
    def closed(self) -> bool:
        """Whether the value is whole: its last bracket has arrived."""
        return self._scanner.end is not None

    def add(self, text: str) -> bool:
        """The next piece of the text. Returns whether `value` was made anew."""
        if self._scanner.end is not None:
            return False
        self._unread.append(text)
        self._size += len(text)
        if self._interval:
            due = self._now() >= self._due
        else:
            due = (self._size - self._parsed) * _GROWTH >= self._parsed
        if not due and "}" not in text and "]" not in text:
            return False
        self._read()
        return (due or self.closed) and self.parse()

    def parse(self) -> bool:
        """Parse what has arrived, though it may not be due. Returns whether `value` was made anew:
        not if nothing has arrived since the last parse, or what has arrived is not JSON."""
        self._read()
        if not self._json or self._size == self._parsed or self._broken:
            return False
        begun = self._now()
        data = bytes(self._json)
        if not (self.closed or self._scanner.in_string):
            data = data.rstrip(_NUMBER)
        try:
            self.value = self._parse_json(
                data, allow_inf_nan=False, cache_mode="keys", partial_mode="trailing-strings"
            )
        except ValueError:
            self._broken = True
        self._parsed = self._size
        ended = self._now()
        self._due = ended + max(self._interval, _SHARE * (ended - begun))
        return not self._broken

    def _read(self) -> None:
        """Look at the pieces that have arrived, all at once."""
        if not self._unread:
            return
        text, self._unread = "".join(self._unread), []
        scanner = self._scanner
        begun = scanner.start is not None
        scanner.feed(text)
        if scanner.start is None:
            self._before.append(text)
            return
        if not begun:
            text = "".join([*self._before, text])[scanner.start :]
            self._before = []
        if scanner.end is not None:  # what follows is no part of it
            text = text[: len(text) - (self._size - scanner.end)]
        self._json += _encoded(text)

    def is_whole(self, json: str) -> bool:
        """Whether the value is whole, and `json` is its JSON."""
        return self.closed and self._json == _encoded(json)


def decoded(json: str) -> Any:
    """The plain value of a whole JSON text. Raises ValueError."""
    return _jiter()(_encoded(json), allow_inf_nan=False, cache_mode="keys")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _jiter() -> Any:
    try:
        from jiter import from_json
    except ImportError:
        raise ConfigurationError(
            "values of half an answer need jiter: pip install 'llmstream-sync[output]'"
        ) from None
    return from_json
