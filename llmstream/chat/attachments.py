"""Attachments: their names in a message, and what the model is sent of them.

A word that begins with @ names a file: `@notes.txt`, `@"my notes.txt"`, `@my\\ notes.txt`. `@@word`
is the word `@word`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from .._outputs import media_part, media_type
from ..errors import ConfigurationError
from .conversation import Content
from .typed import Message

__all__ = ["MOST_BYTES", "MOST_BYTES_TOGETHER", "File", "content_of", "file_of", "split_names"]

# Bytes of an image or a PDF: the services' limits are from 5 to 50 MB. Of a text: about 250,000
# tokens, as much as most models take at all. Of all attachments of one message: Anthropic's limit
# of a request, https://docs.anthropic.com/en/api/overview#request-size-limits
MOST_BYTES = 20_000_000
MOST_TEXT_BYTES = 1_000_000
MOST_BYTES_TOGETHER = 24_000_000  # a third more in base64
_NAME = re.compile(r"""(?<!\S)@(?:"([^"\n]+)"|'([^'\n]+)'|(@?(?:\\[ ]|[^\s"'])(?:\\[ ]|\S)*))""")
_AFTER_A_NAME = ".,;:!?)]}'\""
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_FENCE = re.compile(r"^\s*(`{3,})", re.MULTILINE)


class File(Struct, frozen=True):
    """A file that is attached: a text, or an image or a PDF as `media` with its bytes."""

    name: str
    size: int
    text: str = ""
    media: str = ""
    data: bytes = b""

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return self.media or "text"


def split_names(message: Message) -> tuple[Message, list[tuple[str, ...]]]:
    """The message with its names as words, and the names: of each the ways to read it, the first
    file that there is counts ("@notes.txt." has one more than "@notes.txt"). Names are looked for
    in what a person typed only."""
    names: list[tuple[str, ...]] = []

    def word(found: re.Match[str]) -> str:
        quoted = found[1] or found[2]
        if quoted:
            names.append((quoted,))
            return quoted
        text = found[3]
        if text.startswith("@"):
            return text
        name = text.replace("\\ ", " ")
        names.append(tuple(dict.fromkeys((name, name.rstrip(_AFTER_A_NAME) or name))))
        return name

    pieces = tuple(
        (_NAME.sub(word, text) if typed else text, typed) for text, typed in message.pieces
    )
    return Message(pieces), names


def file_of(name: str, data: bytes) -> File:
    """What is attached of a file with these bytes. Raises ConfigurationError, in a sentence, for
    one that no model can read."""
    if not data:
        raise ConfigurationError(f"{name} is empty: nothing was sent")
    media = media_type(data) or ""
    most = MOST_BYTES if media else MOST_TEXT_BYTES
    if len(data) > most:
        kind = media or "text"
        raise ConfigurationError(
            f"{name} has {_size(len(data))} of {kind}, and {_size(most)} are the most: "
            "attach a part of it"
        )
    if media:
        return File(name, len(data), media=media, data=data)
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigurationError(
            f"{name} is neither text in UTF-8, nor a PNG, JPEG, GIF or WebP image, nor a PDF: "
            "convert it first"
        )
    return File(name, len(data), text=text)


def content_of(text: str, files: Sequence[File]) -> Content:
    """The question that is sent: a text with the texts of its files, and parts for the others."""
    if sum(file.size for file in files) > MOST_BYTES_TOGETHER:
        raise ConfigurationError(
            f"the attachments have more than {_size(MOST_BYTES_TOGETHER)} together: "
            "send them in several messages"
        )
    whole = "\n\n".join(
        [text.strip("\n"), *(_fenced(file) for file in files if not file.media)]
    ).lstrip("\n")
    media = [media_part(file.media, file.data, file.name) for file in files if file.media]
    if not media:
        return whole
    return [*media, {"type": "text", "text": whole}]


def _fenced(file: File) -> str:
    longest = max((len(found) for found in _FENCE.findall(file.text)), default=2)
    fence = "`" * (longest + 1)
    end = "" if file.text.endswith("\n") else "\n"
    return f"{file.name}:\n{fence}\n{file.text}{end}{fence}"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size:,} bytes"
