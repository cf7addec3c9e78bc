"""The spellings in which a service may quote a text: escaped for JSON, HTML or a URL, also twice,
and over lines. Pure; imports nothing of the package."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["Form", "blotted", "forms_of", "texts_of"]


class Form(NamedTuple):
    """A text whose escapes are undone and whose white space is collapsed. `places` has the position
    of each character in the text itself: (begin, end)."""

    text: str
    places: list[tuple[int, int]]


_DECODED = 2  # times that escapes are undone: JSON in JSON
_ESCAPE = (
    r"(?s)\\u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|\\(?:u(?P<u>[0-9a-fA-F]{4})|U000(?P<U>[0-9a-fA-F]{5})|x(?P<x>[0-9a-fA-F]{2})|(?P<char>.))"
    r"|(?P<entity>&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8});)"
    r"|(?P<percent>%[0-7][0-9a-fA-F]|(?:%[89a-fA-F][0-9a-fA-F])+)"
)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "a": "\a"}


def forms_of(text: str) -> list[Form]:
    """The text as it is, and with its escapes undone, so that it can be compared with a prompt:
    what is decoded is the text, because it is short."""
    form = Form(text, [(at, at + 1) for at in range(len(text))])
    forms = [_collapsed(form)]
    for _ in range(_DECODED):
        before = form
        form = _decoded(before)
        if form.text == before.text:
            break
        forms.append(_collapsed(form))
    return forms


def texts_of(text: str) -> list[str]:
    """The texts of `forms_of`, with their white space as it is; where the places do not matter."""
    texts = [text]
    for _ in range(_DECODED):
        before = texts[-1]
        text = re.sub(_ESCAPE, _meant, before)
        if text == before:
            break
        texts.append(text)
    return texts


def _decoded(form: Form) -> Form:
    chars: list[str] = []
    places: list[tuple[int, int]] = []
    done = 0
    for found in re.finditer(_ESCAPE, form.text):
        meant = _meant(found)
        place = (form.places[found.start()][0], form.places[found.end() - 1][1])
        chars += [form.text[done : found.start()], meant]
        places += [*form.places[done : found.start()], *[place] * len(meant)]
        done = found.end()
    return Form("".join([*chars, form.text[done:]]), places + form.places[done:])


def _meant(escape: re.Match[str]) -> str:
    if escape["entity"]:
        import html  # its table takes 2 ms to import

        return html.unescape(escape["entity"])
    if escape["percent"]:
        return unquote(escape["percent"])
    if escape["char"]:
        return _CONTROLS.get(escape["char"], escape["char"])
    if escape["high"]:
        pair = int(escape["high"], 16) - 0xD800 << 10 | int(escape["low"], 16) - 0xDC00
        return chr(0x10000 + pair)
    code = int(escape["u"] or escape["U"] or escape["x"], 16)
    return chr(code)


_SPACE = re.compile(r"\s+")


def _collapsed(form: Form) -> Form:
    """The form with one space for each run of white space, as `" ".join(text.split())` has it."""
    chars: list[str] = []
    places: list[tuple[int, int]] = []
    done = 0
    for found in _SPACE.finditer(form.text):
        chars += [form.text[done : found.start()], " "]
        places += form.places[done : found.start()]
        places.append((form.places[found.start()][0], form.places[found.end() - 1][1]))
        done = found.end()
    return Form("".join([*chars, form.text[done:]]), places + form.places[done:])


def blotted(text: str, found: list[tuple[int, int]]) -> str:
    kept, done = [], 0
    for start, end in sorted(found):
        if end > done:
            kept += [text[done:start], "***"] if start > done or not done else []
            done = end
    return "".join([*kept, text[done:]])
