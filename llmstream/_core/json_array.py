"""A stream that is one JSON array, of which each element is an event: what a proxy makes of the
Gemini API's stream that drops `alt=sse`. Its elements are read as they arrive. Pure."""

from __future__ import annotations

import re
from typing import Generic, Protocol, TypeVar

__all__ = ["ArrayStream", "Elements", "Reader"]

_BLANK = b" \t\r\n\xef\xbb\xbf"
_BETWEEN = re.compile(rb"[^\s,\xef\xbb\xbf]")  # white space, commas, a BOM in front
_BRACKET = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'["\\]')

_E = TypeVar("_E")


class Elements:
    """The objects in an array, each as soon as it is whole. O(n), however the bytes are cut.

    Attributes: `closed`: the array has ended. `odd`: it has something else than objects, and
    nothing more of it is read. `held`: the bytes of the object that has begun.
    """

    __slots__ = ("_depth", "_escaped", "_in_string", "_opened", "closed", "held", "odd")

    def __init__(self) -> None:
        self.held = bytearray()
        self.closed = self.odd = False
        self._opened = self._in_string = self._escaped = False
        self._depth = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The objects that end in `data`."""
        found: list[bytes] = []
        begin, at, size = 0, 0, len(data)
        while at < size and not (self.closed or self.odd):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            pattern = _IN_STRING if self._in_string else _BRACKET if self._depth else _BETWEEN
            match = pattern.search(data, at)
            if match is None:
                break
            at, sign = match.end(), match[0]
            if self._in_string:
                self._escaped = sign == b"\\"
                self._in_string = self._escaped
            elif sign == b'"' and self._depth:
                self._in_string = True
            elif self._depth or sign == b"{":
                begin = match.start() if not self._depth else begin
                self._depth += 1 if sign in b"{[" else -1
                if not self._depth:
                    self.held += data[begin:at]
                    found.append(bytes(self.held))
                    self.held.clear()
            else:
                self._between(sign)
        if self._depth:
            self.held += data[begin:]
        return found

    def _between(self, sign: bytes) -> None:
        if sign == b"[" and not self._opened:
            self._opened = True
        elif sign == b"]" and self._opened:
            self.closed = True
        else:
            self.odd = True


class Reader(Protocol[_E]):
    """What reads a stream of events: a `Session`."""

    @property
    def events(self) -> int: ...

    @property
    def ended(self) -> bool: ...

    def receive(self, data: bytes) -> list[_E]: ...

    def receive_eof(self) -> list[_E]: ...

    def is_of_answer(self, element: bytes) -> bool: ...

    def refuse(self, body: bytes, what: str) -> list[_E]: ...


class ArrayStream(Generic[_E]):
    """Gives the elements of an array to `reader`, as a stream of events. `limit` is the most bytes
    of one. An array that does not close is a stream that was cut; one whose first element is no
    part of an answer is not a stream."""

    __slots__ = ("_elements", "_limit", "_reader")

    def __init__(self, reader: Reader[_E], limit: int) -> None:
        self._reader = reader
        self._limit = limit
        self._elements = Elements()

    def receive(self, data: bytes) -> list[_E]:
        """As `Session.receive`."""
        reader, elements = self._reader, self._elements
        found = elements.feed(data)
        if not reader.events and not reader.ended:
            if found and not reader.is_of_answer(found[0]):
                return self._refuse(found[0])
            if elements.odd and not found:
                return self._refuse(data)
        if elements.odd:
            found.append(b"[")  # garbage in the midst of an answer
        blocks = [_block(element) for element in found]
        if len(elements.held) > self._limit:
            blocks.append(_block(bytes(elements.held))[:-2])  # too large, and refused as such
        return reader.receive(b"".join(blocks)) if blocks else []

    def receive_eof(self) -> list[_E]:
        """As `Session.receive_eof`."""
        reader, elements = self._reader, self._elements
        if elements.closed and not reader.events and not reader.ended:
            return self._refuse(b"")
        if not elements.closed:
            reader.receive(_block(bytes(elements.held) or b"[")[:-2])
        return reader.receive_eof()

    def _refuse(self, body: bytes) -> list[_E]:
        body = body if body.lstrip(_BLANK)[:1] == b"[" else b"[" + body
        return self._reader.refuse(body, "JSON that is neither a completion nor an error")


def _block(element: bytes) -> bytes:
    """An element as an event. Between the values of JSON a line end is a blank."""
    return b"data: " + element.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n\n"
