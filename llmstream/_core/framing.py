"""Bytes -> whole, normalised blocks of a text/event-stream.

Source: WHATWG HTML, section 9.2 "Server-sent events" (parsing and interpreting an event stream):
one leading BOM is dropped, a line ends with CR LF, LF or CR, an empty line ends a block, and what
is pending when the stream ends is discarded.
"""

from __future__ import annotations

__all__ = ["Framer"]

_BOM = b"\xef\xbb\xbf"


class Framer:
    """Cuts a stream of bytes, in pieces of any size, into blocks.

    A block is the bytes between two empty lines, its own lines joined by LF, without the empty
    line. Linear in the bytes received, however they are cut: pieces are only joined once the end
    of their block has come. Holds at most `limit` bytes and one piece; once a block, or a line
    without end, has outgrown it, `overflow` is true and nothing behind it is cut any more.
    """

    __slots__ = ("_at_start", "_cr", "_limit", "_pieces", "_size", "overflow")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # of the block that is not ended yet
        self._size = 0
        self._cr = False  # the last byte was CR: an LF right behind it belongs to it
        self._at_start = True
        self.overflow = False

    @property
    def pending(self) -> int:
        """Bytes of the block that has begun and not ended."""
        return self._size

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that `data` ends, in order."""
        if not data or self.overflow:
            return []
        if self._at_start:
            data = self._strip_bom(data)
        if self._cr or b"\r" in data:
            data = self._normalise(data)
        if not data:
            return []
        pieces = self._pieces
        if pieces:
            if b"\n\n" not in data and not (data[0] == 10 and pieces[-1][-1] == 10):
                return self._hold(data)
            pieces.append(data)
            data = b"".join(pieces)
            pieces.clear()
        blocks = data.split(b"\n\n")
        # An odd number of newlines between two blocks leaves one in front of the second.
        rest = blocks.pop().lstrip(b"\n")
        self._size = 0
        found = [block.lstrip(b"\n") for block in blocks if block]
        if len(data) > self._limit:
            found = self._within(found)
        if rest:
            self._hold(rest)
        return [block for block in found if block]

    def _within(self, blocks: list[bytes]) -> list[bytes]:
        """The blocks before the first that is too large."""
        for index, block in enumerate(blocks):
            if len(block) > self._limit:
                self.overflow = True
                return blocks[:index]
        return blocks

    def _hold(self, piece: bytes) -> list[bytes]:
        self._size += len(piece)
        self._pieces.append(piece)
        # The newline at the end of a line is not the block's.
        if self._size > self._limit and self._size - (piece[-1] == 10) > self._limit:
            self.overflow = True
            self._pieces.clear()
            self._size = 0
        return []

    def _strip_bom(self, data: bytes) -> bytes:
        data = b"".join([*self._pieces, data])
        self._pieces.clear()
        self._size = 0
        if len(data) < len(_BOM) and _BOM.startswith(data):
            if data:
                self._hold(data)
            return b""
        self._at_start = False
        return data[len(_BOM) :] if data.startswith(_BOM) else data

    def _normalise(self, data: bytes) -> bytes:
        if self._cr and data[:1] == b"\n":
            data = data[1:]
            if not data:  # the pair is complete, nothing came with it
                self._cr = False
                return data
        self._cr = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
