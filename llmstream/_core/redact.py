"""What a message quotes of a prompt, blotted out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["prompt_texts", "redact_quotes"]

_SHORTEST = 8  # characters: a shorter prompt is a word of its own
_WINDOW = 12  # characters that text and prompt have to share: every quote of 23 is found
# What a prompt's parts are called, and what they refer to, is no prompt, and errors are about it.
_NAMES = ("type", "role", "name", "status", "id", "call_id", "tool_call_id", "tool_use_id")


def prompt_texts(prompt: Any) -> Iterator[str]:
    """The texts in a prompt, however it is nested."""
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, Mapping):
        for name, value in prompt.items():
            if name not in _NAMES:
                yield from prompt_texts(value)
    elif isinstance(prompt, (list, tuple)):
        for value in prompt:
            yield from prompt_texts(value)


def redact_quotes(text: str, quoted: Iterable[str]) -> str:
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
    if window < _SHORTEST:
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
