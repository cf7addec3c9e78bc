"""Replaces what an error's message quotes of a key by "***".

Any part of eight characters is a quote, escaped or not, over lines, with other characters in
between, in another case, in hexadecimal or in base64: half a key in a log is a leak, too. Of a
placeholder like "no-key-required" the standing words of errors stay readable. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from .credentials import credentials_in, credentials_of_address
from .redact import telling
from .request import HTTPRequest
from .spellings import Form, blotted, forms_of, texts_of

__all__ = ["redact_keys", "spans_of_keys", "without_credentials_of"]

_LEAST = 8  # characters; a shorter key ("test", "none") is that of a local server
_SURE = 16  # characters in a row that no message has by chance
_LONGEST = 16_384  # characters of a key that are looked for: more than a header has
_LONG = 2_000  # characters of a text that is looked through before anything is sought in it
_LEAST_WHOLE = 4  # characters of a password that is looked for as a whole word


def redact_keys(
    texts: Iterable[str], keys: Iterable[str], passwords: Iterable[str] = ()
) -> list[str]:
    """`texts` with "***" in place of what they quote of `keys`; `passwords` are keys that are
    looked for as whole words where they are shorter than eight characters."""
    texts = [*texts]
    spans = spans_of_keys(texts, keys, passwords)
    return [blotted(text, found) for text, found in zip(texts, spans, strict=True)]


def spans_of_keys(
    texts: Iterable[str], keys: Iterable[str], passwords: Iterable[str] = ()
) -> list[list[tuple[int, int]]]:
    """Of each text, where it quotes `keys` or `passwords`: (begin, end)."""
    passwords = {*passwords}
    spellings = {form for key in {*keys, *passwords} for form in _spellings(key)}
    sought = {
        kept: {part for key in spellings for part in _parts("".join(filter(kept, key.casefold())))}
        for kept in (_visible, _alphanumeric)
    }
    short = [p for p in passwords if _LEAST_WHOLE <= len(p) < _LEAST]
    words = re.compile("|".join(rf"(?<!\w){re.escape(p)}(?!\w)" for p in short)) if short else None
    spans: list[list[tuple[int, int]]] = []
    for text in texts:
        if len(text) > _LONG and words is None and not _may_quote(text, sought):
            spans.append([])
            continue
        found = {
            span
            for form in forms_of(text)
            for kept, parts in sought.items()
            for span in _quotes(form, kept, parts)
        }
        found.update(word.span() for word in (words.finditer(text) if words else ()))
        sure = {(begin, end) for begin, end in found if end - begin >= _SURE}
        spans.append([*sure, *telling(text, found - sure)])
    return spans


def _may_quote(text: str, sought: Mapping[Any, set[str]]) -> bool:
    """Whether a text has any of the parts that are sought, wherever it has them: at a small part
    of the cost of finding the places."""
    for form in texts_of(text):
        visible = "".join(form.split())
        if not visible.isprintable():
            visible = "".join(filter(_visible, visible))
        visible = visible.casefold()
        for chars, parts in (
            (visible, sought[_visible]),
            (re.sub(r"[\W_]+", "", visible), sought[_alphanumeric]),
        ):
            if not parts.isdisjoint([chars[at : at + _LEAST] for at in range(len(chars))]):
                return True
    return False


def without_credentials_of(request: HTTPRequest, text: str) -> str:
    """`text`, a word that the service has answered `request` with, with "***" in place of what it
    quotes of the request's credentials. What quotes nothing as it was sent costs 5 us."""
    headers = request.headers
    if not _repeats(text, "\n".join([request.url, *headers.values()])):
        return text
    keys = [*credentials_in(headers)]
    passwords = [*credentials_of_address(request.url)]
    if not _repeats(text, "\n".join([*keys, *passwords])):
        return text  # it repeats the call's own id
    return redact_keys([text], keys, passwords)[0]


def _repeats(text: str, sent: str) -> bool:
    """Whether `text` has fifteen characters in a row of `sent`, or eight at some places."""
    return any(text[at : at + _LEAST] in sent for at in range(0, len(text) - _LEAST + 1, _LEAST))


def _spellings(key: str) -> Iterator[str]:
    if len(key) < _LEAST:
        return
    key = key[:_LONGEST]
    yield key
    data = key.encode("utf-8", "replace")
    yield data.hex()
    for before in range(3):  # a key in the middle of what is encoded stands at one of three places
        encoded = str(msgspec.to_builtins(bytes(before) + data)).rstrip("=")
        whole = len(encoded) - ((before + len(data)) % 3 != 0)
        yield encoded[(0, 2, 3)[before] : whole]


def _parts(key: str) -> Iterator[str]:
    return (key[at : at + _LEAST] for at in range(len(key) - _LEAST + 1))


def _visible(char: str) -> bool:
    return char.isprintable() and not char.isspace()


def _alphanumeric(char: str) -> bool:
    return char.isalnum()


def _quotes(form: Form, kept: Callable[[str], bool], sought: set[str]) -> Iterator[tuple[int, int]]:
    """Where a text has the parts that are sought: (begin, end) of each run of them."""
    chars = [
        (folded, place)
        for char, place in zip(form.text, form.places, strict=True)
        if kept(char)
        for folded in char.casefold()
    ]
    text = "".join(char for char, _ in chars)
    begin = end = 0
    for at in range(len(text) - _LEAST + 1):
        if text[at : at + _LEAST] in sought:
            if at > end or not end:
                if end:
                    yield chars[begin][1][0], chars[end - 1][1][1]
                begin = at
            end = at + _LEAST
    if end:
        yield chars[begin][1][0], chars[end - 1][1][1]
