"""A value that does not show itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

__all__ = ["Secret", "quotable", "without_quotes"]

_RECOGNISED = 8  # characters of a key that give it away ("sk-proj-" and the like do no harm)
_WINDOW = 12  # characters that text and prompt have to share: every quote of 23 is found
# What a prompt's parts are called, and what they refer to, is no prompt, and errors are about it.
_NAMES = ("type", "role", "name", "status", "id", "call_id", "tool_call_id", "tool_use_id")


class Secret:
    """A key. Only `reveal()` gives it; text, repr, format and logs show "***", and it cannot be
    pickled or copied into one."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the header it goes out in."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with the key blotted out, also where only its beginning is left of it."""
        value, start = self._value, 0
        if len(value) < _RECOGNISED:
            return text  # "test", "none": what local servers are given is no secret, but a word
        beginning = value[:_RECOGNISED]
        while (at := text.find(beginning, start)) >= 0:
            length = len(beginning)
            while text[at + length : at + length + 1] == value[length : length + 1] != "":
                length += 1
            text = f"{text[:at]}***{text[at + length :]}"
            start = at + 3
        return text

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled: configure it where it is used")


def quotable(prompt: Any) -> Iterator[str]:
    """The texts in a prompt, however it is nested."""
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, Mapping):
        for name, value in prompt.items():
            if name not in _NAMES:
                yield from quotable(value)
    elif isinstance(prompt, (list, tuple)):
        for value in prompt:
            yield from quotable(value)


def without_quotes(text: str, quoted: Iterable[str]) -> str:
    """`text` with what it quotes of `quoted` blotted out, also where a service has escaped it, cut
    it, or put it on one line. Of longer texts, quotes of fewer than 23 characters may stay."""
    found: list[tuple[int, int]] = []
    pieces = {text[at : at + _WINDOW] for at in range(len(text) - _WINDOW + 1)}
    for source in set(quoted):
        one_line = " ".join(source.split())
        for form in {source, one_line, json.dumps(source)[1:-1], repr(source)[1:-1]}:
            if _may_be_quoted(text, form, pieces):
                found += _quotes(text, form)
    shown, done = [], 0
    for start, end in sorted(found):
        if end > done:
            shown += [text[done:start], "***"] if start > done or not done else []
            done = end
    return "".join([*shown, text[done:]])


def _may_be_quoted(text: str, source: str, pieces: set[str]) -> bool:
    """A quick answer for short texts, of which a prompt may have thousands."""
    if len(source) < _WINDOW:
        return source in text
    if len(source) >= 2 * _WINDOW - 1:
        return True
    return any(source[at : at + _WINDOW] in pieces for at in range(len(source) - _WINDOW + 1))


def _quotes(text: str, source: str) -> Iterator[tuple[int, int]]:
    """Where `text` quotes `source`: (begin, end) of each piece."""
    window = min(_WINDOW, len(source))
    if window < _RECOGNISED:
        return
    step = min(_WINDOW, len(source) - window + 1)
    at = 0
    while at + window <= len(text):
        place = source.find(text[at : at + window])
        if place < 0:
            at += step
            continue
        start, end = at, at + window
        while start and place and text[start - 1] == source[place - 1]:
            start, place = start - 1, place - 1
        while end < len(text) and (place := source.find(text[start : end + 1], place)) >= 0:
            end += 1
        yield start, end
        at = end
