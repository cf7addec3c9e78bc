"""What a person types: lines that become messages, and commands."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

__all__ = ["BLOCK", "Assembler", "Command", "Message", "parse"]

BLOCK = '"""'  # begins and ends a message of several lines
_COMMAND = re.compile(r"/([A-Za-z]+|\?)(?:\s+(.*))?\s*$", re.DOTALL)


class Message(Struct, frozen=True):
    """Text for the model, in pieces: (text, whether a person typed it as a line). In what was
    pasted, and in blocks, @ and / are letters like others: nobody has looked at each of them."""

    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "\n".join(text for text, _ in self.pieces)


class Command(Struct, frozen=True):
    """`/name argument`."""

    name: str
    argument: str = ""


class Assembler:
    r"""Makes messages of lines.

    A line that ends with an odd number of backslashes goes on in the next one. A line that begins
    with `\"""` begins a block, and one that ends with it ends the block. A line with line feeds was
    pasted.
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[str, bool]] = []
        self._block: list[str] | None = None
        self._goes_on = False

    @property
    def is_open(self) -> bool:
        """Whether a message has begun that has not ended."""
        return self.in_block or self._goes_on

    @property
    def in_block(self) -> bool:
        """Whether it is a block."""
        return self._block is not None

    def feed(self, line: str) -> Message | None:
        """The next line, without its end; returns the message that it ends."""
        parts = _typed_lines(line)
        if parts is None:
            return self._feed(line.strip("\n"), typed=False)
        for part in parts:
            message = self._feed(part, typed=True)
        return message

    def end(self) -> Message | None:
        """There are no further lines: returns the message that has begun."""
        if self._block is not None:
            self._pieces.append(("\n".join(self._block), False))
        return self._done()

    def clear(self) -> None:
        """Forget what has begun."""
        self._pieces, self._block, self._goes_on = [], None, False

    def _feed(self, line: str, *, typed: bool) -> Message | None:
        if self._block is not None:
            return self._into_block(line)
        if typed and not self._goes_on and line.startswith(BLOCK):
            self._block = []
            return self._into_block(line[len(BLOCK) :])
        slashes = len(line) - len(line.rstrip("\\"))
        self._goes_on = typed and slashes % 2 == 1
        self._pieces.append((line[:-1] if self._goes_on else line, typed))
        return None if self._goes_on else self._done()

    def _into_block(self, line: str) -> Message | None:
        assert self._block is not None
        ended = line.endswith(BLOCK)
        text = line[: -len(BLOCK)] if ended else line
        if text or self._block or not ended:
            self._block.append(text)
        if not ended:
            return None
        while self._block and not self._block[0]:
            del self._block[0]
        if self._block and not self._block[-1]:
            del self._block[-1]
        self._pieces.append(("\n".join(self._block), False))
        return self._done()

    def _done(self) -> Message | None:
        pieces = tuple(self._pieces)
        self.clear()
        return Message(pieces) if any(text.strip() for text, _ in pieces) else None


def _typed_lines(line: str) -> Sequence[str] | None:
    """The lines that a person typed: more than one where `line` is a message of the history with
    all of them. None if it was pasted."""
    if "\n" not in line:
        return [line]
    parts = line.split("\n")
    if line.startswith(BLOCK) and line.endswith(BLOCK) and len(line) >= 2 * len(BLOCK):
        return parts
    if all((len(part) - len(part.rstrip("\\"))) % 2 for part in parts[:-1]):
        return parts
    return None


def parse(message: Message) -> Message | Command:
    """A typed line that begins with / as the command that it is. `//` is a message with a /."""
    text, typed = message.pieces[0]
    if not typed or not text.startswith("/"):
        return message
    if text.startswith("//"):
        return Message(((text[1:], typed), *message.pieces[1:]))
    found = _COMMAND.match(message.text.rstrip())
    if found is None:
        return Command(re.match(r"/(\S*)", message.text)[1])  # type: ignore[index]
    return Command(found[1].lower(), (found[2] or "").strip())
