"""Reads an HTTP/1.1 response, and reports every blocking read to the call's scope.

The head is read by `head`, the body by http.client; below them stands a reader of our own
(`_ReportingReader`), so that the clocks know of every read. Relies on attributes and methods of
http.client's HTTPResponse (`fp`, `chunk_left`, `_get_chunk_left`).
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
from collections.abc import Mapping
from typing import Any

from urllib3 import HTTPResponse

from .._runtime.scope import CancelScope, Stopped
from .._runtime.threads import Local
from ..result import LLMStreamError
from .encoding import Decoder, decoder_of
from .head import read_head
from .mocks import read_some
from .route import Route
from .translate import ENDINGS, FOREIGN, bare_cause, translate

__all__ = ["ReportingResponse", "RequestsResponse", "current"]

_READ = 65536  # the most bytes of one read
# The reader's buffer. Small, because every open stream has one; 16 KiB is a full TLS record.
_BUFFER = 16384
_MAX_LINE = 65536  # bytes of the line before a chunk: its size and its extensions
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_NEXT_CHUNK = re.compile(rb"\r\n([0-9A-Fa-f]{1,8})\r\n")  # the end of a chunk, the next one's size
_MIN_CHUNK = 6  # bytes: the end of the chunk before, and a chunk with one byte of data
_DRAIN = 65536  # bytes that are read after the end of an answer to keep its connection

# ---- what http.client reads from ---------------------------------------------------------------


class _Current(Local):
    """What urllib3 has no way to pass down, or would log: the scope of the call that this thread is
    making, its contexts, and the query of its URL with the question mark."""

    scope: Any = None
    query: Any = None
    tls: Any = None


current = _Current()


class _ReportingReader(io.RawIOBase):
    """The raw reader below a response. The clocks run exactly while its `readinto` blocks."""

    def __init__(self, raw: io.RawIOBase, scope: CancelScope, sock: Any) -> None:
        self._raw = raw
        self._sock = sock
        self.scope = scope
        self.received = 0  # bytes of the last read
        self.peek_only = False  # do not read: report that no bytes are available

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.peek_only:
            return None
        scope = self.scope
        scope.begin_wait()
        received = 0
        try:
            received = self._raw.readinto(buffer) or 0
        finally:
            scope.end_wait(received)
        if not received:
            scope.eof = True
        self.received = received
        return received

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            super().close()

    def has_decrypted(self) -> bool:
        """Whether TLS has decrypted bytes that nobody has read: the socket does not show them."""
        # TLS inside the TLS of a proxy is not a socket; its `sslobj` is what a socket's is.
        pending = getattr(getattr(self._sock, "sslobj", self._sock), "pending", None)
        try:
            return pending is not None and pending() > 0
        except (OSError, ValueError):
            return False


class _Buffer(io.BufferedReader):
    """The buffer above a _ReportingReader. It knows whether bytes were left in it."""

    raw: _ReportingReader
    _was_left = False

    def buffered(self) -> bytes:
        """The bytes that have been received and not been read."""
        reader = self.raw
        reader.peek_only = True  # otherwise `peek` would fill an empty buffer, which may block
        try:
            return self.peek()
        finally:
            reader.peek_only = False

    def has_surplus(self) -> bool:
        """Whether more bytes have arrived than were read."""
        return self._was_left if self.closed else bool(self.buffered()) or self.raw.has_decrypted()

    def close(self) -> None:
        if not self.closed:  # http.client closes it at the end of a body
            self._was_left = self.has_surplus()
        super().close()


class _ReportingSocket:
    """What http.client.HTTPResponse needs of a socket: `makefile`."""

    def __init__(self, sock: Any, scope: CancelScope) -> None:
        self._sock = sock
        self._scope = scope

    def makefile(self, mode: str) -> _Buffer:
        raw = self._sock.makefile(mode, buffering=0)
        return _Buffer(_ReportingReader(raw, self._scope, self._sock), _BUFFER)


class ChunkError(http.client.HTTPException):
    """The chunks of a body (RFC 9112, section 7.1) are not where their sizes say."""


class ReportingResponse(http.client.HTTPResponse):
    """http.client's response, which reads through a _ReportingReader, and is strict about chunks:
    http.client takes any two bytes for the end of a chunk, and a size may have a sign."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        scope: CancelScope = current.scope
        super().__init__(_ReportingSocket(sock, scope), *args, **kwargs)  # type: ignore[arg-type]
        self.buffer: _Buffer = self.fp  # type: ignore[assignment]

    def begin(self) -> None:
        """As http.client does it, with a head that `head` has read."""
        head = read_head(self.buffer)
        self.code = self.status = head.status
        self.reason = head.reason
        self.version = head.version
        self.headers = head.first  # type: ignore[assignment]  # http.client only looks names up
        self.fields = head.joined
        self.chunked = head.first.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined]
        self.length = self._length()
        if not self.will_close and not self.chunked and self.length is None:
            self.will_close = True

    @property
    def msg(self) -> http.client.HTTPMessage:
        """For requests, which looks for cookies where a double of it has let a request through."""
        message = http.client.HTTPMessage()
        for name, value in self.fields.items():
            message[name] = value
        return message

    @msg.setter
    def msg(self, value: Any) -> None:
        pass

    def _length(self) -> int | None:
        """The length of the body where that is known from the head."""
        if self.status in (204, 304) or self.status < 200 or self._method == "HEAD":  # type: ignore[attr-defined]
            return 0
        if self.chunked:
            return None
        values = {value.strip() for value in self.fields.get("content-length", "").split(",")}
        if len(values) > 1:  # RFC 9112, section 6.3
            raise http.client.HTTPException("several lengths of one body")
        try:
            length = int(values.pop())
        except ValueError:
            return None
        return length if length >= 0 else None

    def _get_chunk_left(self) -> int | None:
        left: int | None = self.chunk_left
        if left:
            return left
        if left is not None:
            end = self._safe_read(2)  # type: ignore[attr-defined]
            if end != b"\r\n":
                raise ChunkError("a chunk does not end where its size says")
        left = self._next_size()
        if left == 0:
            self._read_and_discard_trailer()  # type: ignore[attr-defined]
            self._close_conn()  # type: ignore[attr-defined]
            left = None
        self.chunk_left = left
        return left

    def _next_size(self) -> int:
        line: bytes = self.fp.readline(_MAX_LINE + 1)
        if not line.endswith(b"\n"):
            if len(line) > _MAX_LINE:
                raise ChunkError("the line before a chunk is too long")
            raise http.client.IncompleteRead(line)
        size = line.partition(b";")[0].strip(b" \t\r\n")
        if not _SIZE.fullmatch(size):
            raise ChunkError("a chunk's size is not a hexadecimal number")
        return int(size, 16)


class RequestsResponse:
    """The transport's Response (see `base.Response`), over a response of urllib3."""

    def __init__(self, raw: Any, scope: CancelScope, route: Route) -> None:
        self.status: int = raw.status
        self._raw = raw
        self._scope = scope
        self._route = route
        self.forwarder = "" if route.tunnels else str(route.proxy)
        # http.client's response; a double of HTTP may have none.
        body = getattr(raw, "_original_response", None)
        self._http = body if isinstance(body, ReportingResponse) else None
        self.headers: Mapping[str, str] = (
            {name.lower(): value for name, value in raw.headers.items()}
            if self._http is None
            else self._http.fields
        )
        encoded = self.headers.get("content-encoding", "identity") not in ("", "identity")
        self._plain = None if encoded else self._http  # None: it is to be decoded, or a double's
        self._decoder: Decoder | None = None
        self._broken = self._is_closed = False

    def read(self) -> bytes:
        error: LLMStreamError | None = None
        scope = self._scope
        if scope.stop_reason is not None:  # what has been received may be read without any wait
            raise Stopped
        try:
            data = self._read()
            if data or scope.stop_reason is None:
                return data
            raise Stopped  # the end of a close-delimited body was the scope's shutdown
        except FOREIGN as exc:
            self._broken = True
            scope.check()
            error = translate(exc, scope, None, self._route)
            cause = bare_cause(exc)
        raise error from cause

    def _read(self) -> bytes:
        body = self._plain
        if body is None:
            return self._read_otherwise()
        data: bytes = body.read1(_READ)
        if not data:
            _check_whole(body)
        elif body.chunked and body.chunk_left == 0 and body.fp is not None:
            more = _chunks_ahead(body.buffer, len(data))
            if more:
                return b"".join((data, *more))
        return data

    def _read_otherwise(self) -> bytes:
        """A body that is encoded, though requests ask for identity; or a double's."""
        body = self._http
        if body is None:
            return read_some(self._raw, _READ)
        decoder = self._decoder = self._decoder or decoder_of(self.headers["content-encoding"])
        if decoder is None:
            self._plain = body
            return self._read()
        while True:
            self._scope.check_clocks()  # what arrives in one wait may decode to megabytes
            decoded = decoder.read(_READ)
            if decoded:
                return decoded
            received = body.read1(_READ)
            if not received:
                _check_whole(body)
                return b""
            decoder.feed(received)

    def finish(self) -> None:
        """Read to the end of the body if it is near, and return the connection to the pool."""
        try:
            left = _DRAIN
            while left > 0 and (data := self._read()):
                left -= len(data)
            ended = left > 0 and self._scope.stop_reason is None and not self._broken
        except ENDINGS:
            ended = False
        self._scope.detach()
        # After a surplus nobody knows where the next answer on this connection begins, nor after a
        # 101, from which on the connection does not speak HTTP.
        if ended and self.status >= 200 and not (self._http and self._http.buffer.has_surplus()):
            # In this order: another thread may use the connection as soon as it is in the pool.
            with contextlib.suppress(*FOREIGN):
                if self._http is not None:
                    self._http.close()
                if isinstance(self._raw, HTTPResponse):
                    self._raw.release_conn()
        self.close()

    def close(self) -> None:
        if self._is_closed:
            return
        self._scope.detach()
        # Closing a broken connection can fail in many ways.
        with contextlib.suppress(*FOREIGN):
            self._raw.close()
        self._is_closed = True


def _check_whole(body: ReportingResponse) -> None:
    """The body has ended. Raises IncompleteRead if its Content-Length had promised more."""
    if body.length:
        raise http.client.IncompleteRead(b"", body.length)


def _chunks_ahead(file: _Buffer, had: int) -> list[bytes]:
    """The chunks (RFC 9112, section 7.1) that are buffered already after the chunk of `had` bytes
    that was read. http.client returns them one at a time, at 2 us each. They are parsed exactly as
    http.client does; anything else (extensions, the last chunk, trailers) is left to it."""
    if file.raw.received - had < _MIN_CHUNK:
        return []  # the last read had no further chunk
    ahead = file.buffered()
    found: list[bytes] = []
    at = 0
    while (head := _NEXT_CHUNK.match(ahead, at)) is not None:
        start = head.end()
        size = int(head[1], 16)
        if not size or start + size > len(ahead):
            break
        at = start + size
        found.append(ahead[start:at])
    if at:
        file.read(at)
    return found
