"""The file of a recording: values, and the text that stands for them.

The text is JSON over lines: the fields of a request's body one a line, the pieces of an answer one
a line with the moment at which each arrived. A piece is a string; bytes that are not UTF-8 (a
character that was cut in two) are lone surrogates in it, as Python's `surrogateescape` has them. A
piece that is mostly such bytes is base64. Control characters are escaped, so that the file can be
shown on a terminal.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .._core.phase import ClockName
from ..errors import ConfigurationError

__all__ = [
    "VERSION",
    "Base64",
    "FilePath",
    "TapedAnswer",
    "TapedEnd",
    "TapedExchange",
    "TapedRequest",
    "as_json",
    "bytes_of",
    "parse_tape",
    "render_tape",
    "words_of",
]

VERSION = 1
# A piece with more than one byte in so many that is not UTF-8 is base64; not counting those of the
# two characters that were cut at its ends.
_MOSTLY = 8
_CUT = 6
_SURROGATES = re.compile("[\udc80-\udcff]")
_NOT_SHOWN = re.compile("[^\x20-\x7e]")


class Base64(Struct, frozen=True):
    """Bytes that are not text."""

    base64: str


Words = str | Base64
FilePath = str | os.PathLike[str]


class TapedRequest(Struct, frozen=True, omit_defaults=True):
    """A request without its secrets. `body` is its JSON; `text` is a body that is not JSON. Both
    are UNSET where there is no body."""

    method: str
    url: str
    headers: dict[str, str] = {}
    body: Any = UNSET
    text: Words | UnsetType = UNSET


class TapedAnswer(Struct, frozen=True):
    """The head and the body of a response. `at` and the numbers in `body` are seconds from the
    moment at which the request was sent."""

    at: float
    status: int
    headers: dict[str, str]
    body: list[tuple[float, Words]]


class TapedEnd(Struct, frozen=True, omit_defaults=True):
    """How an exchange ended, after `at` seconds.

    `how` is "whole" (the body has ended), "enough" (the answer was complete, and the rest of the
    body was not read), "left" (the caller left before the end), "clock" (the clock `clock` ran out)
    or "error" (`error` is the name of its class in `llmstream.errors`, `cause` the number and the
    words of the operating system's error). `phase` is that of the attempt where it failed.
    """

    at: float
    how: Literal["whole", "enough", "left", "clock", "error"]
    phase: str = ""
    clock: str = ""
    error: str = ""
    message: str = ""
    retryable: bool = False
    reused: bool = False
    cause: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        if self.how == "clock":
            ClockName(self.clock)  # raises ValueError


class TapedExchange(Struct, frozen=True, omit_defaults=True):
    """A request and what became of it. `answer` is None where no head of a response arrived."""

    request: TapedRequest
    end: TapedEnd
    answer: TapedAnswer | None = None


class _Tape(Struct, frozen=True):
    llmstream_recording: int
    recorded: str
    exchanges: list[TapedExchange]


# ---- bytes ---------------------------------------------------------------------------------------


def words_of(data: bytes) -> Words:
    """Bytes as the file has them."""
    text = data.decode("utf-8", "surrogateescape")
    if (len(_SURROGATES.findall(text)) - _CUT) * _MOSTLY > len(data):
        return Base64(base64.b64encode(data).decode())
    return text


def bytes_of(words: Words) -> bytes:
    """The bytes that `words_of` was given. Raises ValueError for what it does not write."""
    if isinstance(words, Base64):
        return base64.b64decode(words.base64, validate=True)
    return words.encode("utf-8", "surrogateescape")


def as_json(data: bytes) -> Any:
    """The value of a JSON document; UNSET for other bytes."""
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        return UNSET


# ---- the text of a file --------------------------------------------------------------------------


def render_tape(recorded: str, exchanges: list[TapedExchange]) -> str:
    """The text of a file. `recorded` is the moment, as ISO 8601 writes it."""
    tape = _Tape(VERSION, recorded, exchanges)
    value = {
        "llmstream_recording": tape.llmstream_recording,
        "recorded": tape.recorded,
        "exchanges": [_ordered(exchange) for exchange in tape.exchanges],
    }
    return "".join(_lines(value, "\n")) + "\n"


def _ordered(exchange: TapedExchange) -> dict[str, Any]:
    """As it happened: the request, the answer, its end."""
    found = msgspec.to_builtins(exchange)
    return {name: found[name] for name in ("request", "answer", "end") if name in found}


def _lines(value: Any, indent: str) -> Iterator[str]:
    """JSON with a line for each value; a list that has no containers is one line."""
    if isinstance(value, dict) and value:
        inner = indent + " "
        for number, (name, held) in enumerate(value.items()):
            yield f"{',' if number else '{'}{inner}{_scalar(name)}: "
            yield from _lines(held, inner)
        yield indent + "}"
    elif isinstance(value, (list, tuple)) and any(
        isinstance(v, (dict, list, tuple)) for v in value
    ):
        inner = indent + " "
        for number, held in enumerate(value):
            yield f"{',' if number else '['}{inner}"
            yield from _lines(held, inner)
        yield indent + "]"
    elif isinstance(value, (list, tuple)):
        yield "[" + ", ".join(map(_scalar, value)) + "]"
    elif isinstance(value, dict):
        yield "{}"
    else:
        yield _scalar(value)


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else _NOT_SHOWN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    return char if char.isprintable() else json.dumps(char)[1:-1]


def parse_tape(data: bytes, name: str) -> list[TapedExchange]:
    """The exchanges of a file with these bytes. Raises ConfigurationError, which names the file
    `name`, for one that is not a whole recording."""
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        where = f" ({exc})" if isinstance(exc, json.JSONDecodeError) else ""
        raise ConfigurationError(
            f"{name} is not a whole recording{where}: was it cut, or merged? Record it anew"
        ) from None
    version = value.get("llmstream_recording") if isinstance(value, dict) else None
    if type(version) is not int:
        raise ConfigurationError(
            f"{name} is not a recording: its first field has to be llmstream_recording"
        )
    if version > VERSION:
        raise ConfigurationError(
            f"{name} was written by a later version of llmstream (format {version}; this one reads "
            f"format {VERSION}): update llmstream, or record it anew"
        )
    try:
        tape = msgspec.convert(value, _Tape)
        for exchange in tape.exchanges:
            for _, words in exchange.answer.body if exchange.answer else ():
                bytes_of(words)
    except (msgspec.ValidationError, ValueError) as exc:
        raise ConfigurationError(
            f"{name} is not a whole recording ({exc}): record it anew"
        ) from None
    return tape.exchanges
