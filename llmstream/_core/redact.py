"""Replaces what an error's message quotes of the prompt by "***".

Services repeat parts of a request in their errors, and errors are written to logs. Pure; imports
nothing of the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["prompt_texts", "redact_quotes"]

_SHORTEST = 8  # characters: a shorter text may be an ordinary word of the message
_WINDOW = 12  # characters that text and prompt have to share: every quote of 23 is found
# Fields of a prompt that are not its content: errors refer to its parts by them.
_NAMES = ("type", "role", "name", "status", "id", "call_id", "tool_call_id", "tool_use_id")


def prompt_texts(prompt: Any) -> Iterator[str]:
    """All texts in a prompt, however deeply they are nested."""
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
    """`text` with "***" in place of what it quotes of the texts in `quoted`, also where a service
    has escaped the quote, cut it, or put it on one line. Quotes of fewer than 23 characters from a
    longer text may remain."""
    found: list[tuple[int, int]] = []
    pieces = {text[at : at + _WINDOW] for at in range(len(text) - _WINDOW + 1)}
    for source in set(quoted):
        one_line = " ".join(source.split())
        for form in {source, one_line, json.dumps(source)[1:-1], repr(source)[1:-1]}:
            if _may_be_quoted(text, form, pieces):
                found += _quotes(text, form)
    kept, done = [], 0
    for start, end in sorted(found):
        if end > done:
            kept += [text[done:start], "***"] if start > done or not done else []
            done = end
    return "".join([*kept, text[done:]])


def _may_be_quoted(text: str, source: str, pieces: set[str]) -> bool:
    """False where `text` certainly does not quote `source`: a quick test for short texts, of which
    a prompt may have thousands."""
    if len(source) < _WINDOW:
        return source in text
    if len(source) >= 2 * _WINDOW - 1:
        return True
    return any(source[at : at + _WINDOW] in pieces for at in range(len(source) - _WINDOW + 1))


def _quotes(text: str, source: str) -> Iterator[tuple[int, int]]:
    """The positions at which `text` quotes `source`: (begin, end) of each piece."""
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
