"""Bytes -> whole, normalised blocks of a text/event-stream.

Source: WHATWG HTML, section 9.2 "Server-sent events" (parsing and interpreting an event stream):
one leading BOM is dropped; a line ends with CR LF, LF or CR; an empty line ends a block; a block
that has not ended when the stream ends is discarded. Imports nothing.
"""

from __future__ import annotations

__all__ = ["Framer", "has_field", "split_blocks"]

_BOM = b"\xef\xbb\xbf"
_EMPTY_LINE = b"\n\n"


def split_blocks(data: bytes) -> list[bytes]:
    """The blocks in `data`, which ends with an empty line, without their empty lines."""
    # An odd number of newlines between two blocks leaves one before the second block.
    blocks = [block.lstrip(b"\n") for block in data.split(_EMPTY_LINE)]
    return [block for block in blocks if block]


class Framer:
    """Cuts a stream of bytes, which arrives in pieces of any size, after the end of a block.

    A block is the bytes between two empty lines, with its lines joined by LF. The cost is linear in
    the bytes received, however they are cut, and so is the memory: a block that arrives byte by
    byte takes no more than one that arrives whole. Holds at most `limit` bytes and one piece. When
    a block, or a line without an end, is larger than `limit`, `overflow` becomes true and `feed`
    returns nothing more. Not thread-safe.
    """

    __slots__ = ("_at_start", "_cr", "_held", "_limit", "overflow")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()  # of the block that has not ended yet
        self._cr = False  # the last byte was CR: an LF directly after it belongs to it
        self._at_start = True
        self.overflow = False

    @property
    def pending(self) -> int:
        """The number of bytes of the block that has begun and has not ended."""
        return len(self._held)

    @property
    def rest(self) -> bytes:
        """The block that has begun and has not ended."""
        return bytes(self._held)

    def feed(self, data: bytes) -> bytes:
        """The blocks that end in `data`, each with its empty line; b"" for none."""
        if not data or self.overflow:
            return b""
        if self._at_start:
            data = self._strip_bom(data)
        if self._cr or b"\r" in data:
            data = self._normalise(data)
        if not data:
            return b""
        held = self._held
        if held:
            if _EMPTY_LINE not in data and not (data[0] == 10 and held[-1] == 10):
                return self._hold(data)
            held += data
            data = bytes(held)
            held.clear()
        if data.endswith(_EMPTY_LINE):
            return data if len(data) <= self._limit else self._within(data)
        end = data.rfind(_EMPTY_LINE) + len(_EMPTY_LINE)
        if end < len(_EMPTY_LINE):  # no block ends here
            return self._hold(data.lstrip(b"\n"))
        blocks = data[:end]
        if len(blocks) > self._limit:
            blocks = self._within(blocks)
        self._hold(data[end:])
        return blocks

    def _within(self, data: bytes) -> bytes:
        """The blocks before the first one that is too large."""
        fitting: list[bytes] = []
        for block in split_blocks(data):
            if len(block) > self._limit:
                self.overflow = True
                return b"".join(fitting)
            fitting += (block, _EMPTY_LINE)
        return data

    def _hold(self, piece: bytes) -> bytes:
        if not piece:
            return b""
        held = self._held
        held += piece
        # The newline at the end of a line does not count.
        if len(held) > self._limit and len(held) - (piece[-1] == 10) > self._limit:
            self.overflow = True
            held.clear()
        return b""

    def _strip_bom(self, data: bytes) -> bytes:
        data = bytes(self._held) + data
        self._held.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            if data:
                self._hold(data)
            return b""
        self._at_start = False
        return data[len(_BOM) :] if data.startswith(_BOM) else data

    def _normalise(self, data: bytes) -> bytes:
        if self._cr and data[:1] == b"\n":
            data = data[1:]
            if not data:  # the LF of a CR LF pair arrived alone
                self._cr = False
                return data
        self._cr = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def has_field(block: bytes) -> bool:
    """Whether a block has a line, perhaps cut short, that is no comment."""
    return any(line and not line.startswith(b":") for line in block.split(b"\n"))
