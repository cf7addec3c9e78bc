"""What a turn is made of, whatever API it is written for. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "Audio",
    "Call",
    "File",
    "Form",
    "Image",
    "Inner",
    "Output",
    "Reader",
    "Text",
    "Thought",
    "Turn",
    "as_error",
    "fenced",
    "joined",
    "split_data_url",
    "texts_in",
]


class Text(NamedTuple):
    """Also a refusal, and what stands for something that an API has no part for."""

    text: str


class Thought(NamedTuple):
    """Reasoning, without its signature. Most services do not want it back."""

    text: str


class Image(NamedTuple):
    """`url` is an address, or a data: URL. `detail` is how closely it is to be looked at."""

    url: str
    detail: str | None = None


class File(NamedTuple):
    """`url` is a data: URL, or, for the services that take one, an address."""

    name: str | None
    url: str


class Audio(NamedTuple):
    """`data` is in base64, `format` is "wav" or "mp3"."""

    data: str
    format: str


class Call(NamedTuple):
    """A call of a tool, as the assistant has made it. `custom`: its arguments are free text."""

    id: str
    name: str
    arguments: str
    custom: bool = False


class Output(NamedTuple):
    """The output of the call with this id: a text, or a list as in `Turn.pieces`."""

    id: str
    content: str | list[Any]
    failed: bool = False
    custom: bool = False


class Turn(NamedTuple):
    """A turn that has been read.

    `pieces` are values of the classes above, and parts that are sent unchanged (mappings). None
    between two of them is the end of an item: texts on its two sides are not one text. `is_text`:
    the content was a text, not a list. `rest` are fields that no API is known to have.
    """

    role: str
    pieces: list[Any]
    is_text: bool = False
    rest: Mapping[str, Any] = {}


# The content of a part -> a text, or pieces.
Inner: TypeAlias = Callable[[Any], "str | list[Any]"]
# A part -> its pieces, [] for what stays with its service; None for one that is not well-formed.
Reader: TypeAlias = Callable[[Mapping[str, Any], Inner], "list[Any] | None"]


class Form(NamedTuple):
    """How one API writes turns: the types of its parts with their readers, the fields of a turn
    that not every API has, and those of the types that stand in the place of a turn."""

    parts: Mapping[str, Reader]
    fields: frozenset[str]
    items: frozenset[str] = frozenset()


def split_data_url(url: str) -> tuple[str, str] | None:
    """The media type and the base64 of a data: URL (RFC 2397); None for an address."""
    head, comma, data = url.partition(",")
    if not comma or head[:5].lower() != "data:" or not head.lower().endswith(";base64"):
        return None
    return head[5:].partition(";")[0].lower() or "text/plain", data


def fenced(title: str, text: str, language: str = "") -> str:
    """A text as a block of Markdown, under a remark of what it is."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"({title}:)\n{fence}{language}\n{text.rstrip()}\n{fence}"


def texts_in(pieces: str | list[Any]) -> str:
    """The texts of pieces, without the rest."""
    if isinstance(pieces, str):
        return pieces
    return "\n".join(piece.text for piece in pieces if isinstance(piece, Text))


def joined(pieces: list[Any]) -> str:
    """The texts of an answer as one: pieces of one text as they are, others as paragraphs."""
    made: list[str] = []
    together = False
    for piece in pieces:
        if isinstance(piece, Text):
            if piece.text.strip() and not (together and made):
                made.append(piece.text)
            elif piece.text and together and made:
                made[-1] += piece.text
            together = True
        else:
            together = False
    return "\n\n".join(made)


def as_error(output: str | list[Any]) -> str | list[Any]:
    """The output of a call that failed, for an API that has no field for that."""
    if isinstance(output, str):
        return output if output[:5].lower() == "error" else f"Error: {output}"
    return [Text("Error:"), *output]
