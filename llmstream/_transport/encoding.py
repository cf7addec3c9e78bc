"""Content encodings: the bytes of an encoded body in, bounded pieces of the decoded body out.

Every request asks for `identity`, so a body is encoded only by a server, or a proxy, that does not
honour that. It is decoded once at most, and piece by piece: a body of 1 KB may stand for gigabytes.
Source: RFC 9110, section 8.4; RFC 1950 to 1952 for the formats. No I/O: relies on zlib.
"""

from __future__ import annotations

import zlib
from typing import Any

__all__ = ["BadEncoding", "Decoder", "decoder_of"]

_GZIP = frozenset({"gzip", "x-gzip"})
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15  # zlib's names for the three formats


class BadEncoding(ValueError):
    """The body cannot be decoded. The message is for the caller, without any of the body."""


def decoder_of(encoding: str) -> Decoder | None:
    """The decoder for a Content-Encoding header; None where the bytes are read as they are: without
    an encoding, or with one that is unknown here (some servers write a character set there). Raises
    BadEncoding for one encoding inside another."""
    names = [name for part in encoding.lower().split(",") if (name := part.strip())]
    names = [name for name in names if name != "identity"]
    if len(names) > 1:
        raise BadEncoding(f"{len(names)} encodings, one inside another")
    if not names or not (names[0] in _GZIP or names[0] == "deflate"):
        return None
    return Decoder(names[0])


class Decoder:
    """Decodes a body of `encoding`. `feed` it when `read` returns b"". Not thread-safe."""

    __slots__ = ("_encoding", "_ignores_rest", "_pending", "_zlib")

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._pending = b""  # received, and not decoded yet
        self._zlib: Any = None  # its objects have no public type
        self._ignores_rest = False

    def feed(self, data: bytes) -> None:
        """More of the body has arrived."""
        self._pending += data

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes of the decoded body, b"" where more has to be received. Raises
        BadEncoding."""
        while self._is_ready():
            before = self._pending
            try:
                decoded: bytes = self._zlib.decompress(before, limit)
            except zlib.error:
                raise BadEncoding(f"the bytes are not {self._encoding}") from None
            ended = self._zlib.eof
            self._pending = self._zlib.unused_data if ended else self._zlib.unconsumed_tail
            if decoded:
                return decoded
            if not before and not ended:
                break  # nor was there decoded data that had not fitted into the limit
        return b""

    def _is_ready(self) -> bool:
        """Whether there is a zlib object to ask."""
        if self._zlib is None:
            return self._begin()
        if self._zlib.eof:  # a gzip body may have several members; anything else is ignored
            if self._encoding in _GZIP and self._pending[:1] == b"\x1f":
                return self._begin()
            self._ignores_rest = self._ignores_rest or bool(self._pending)
            self._pending = b""
            return False
        return True

    def _begin(self) -> bool:
        """Begin to decode a body, or a member of it."""
        if self._ignores_rest or len(self._pending) < 2:
            return False
        bits = _GZIP_BITS
        if self._encoding not in _GZIP:
            # What HTTP calls deflate is zlib's format (RFC 1950). Some servers send bare deflate.
            first, second = self._pending[:2]
            is_zlib = first & 15 == 8 and (first << 8 | second) % 31 == 0
            bits = _ZLIB_BITS if is_zlib else _RAW_BITS
        self._zlib = zlib.decompressobj(bits)
        return True
