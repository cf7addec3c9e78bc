"""Reading an HTTP/1.1 response: every blocking read is reported to the call's scope."""

from __future__ import annotations

import contextlib
import http.client
import io
from collections.abc import Mapping
from typing import Any

import requests

from .._runtime.scope import CancelScope, Stopped
from .._runtime.threads import Local
from ..result import LLMStreamError
from .translate import ENDINGS, FOREIGN, bare, translate

__all__ = ["HTTPResponse", "ReportingResponse", "current"]

_READ = 65536  # bytes asked for at once
# The reader's buffer. Small, because every open stream has one; 16 KiB is a full TLS record.
_BUFFER = 16384
_INTERIM = 20  # interim (1xx) answers passed over before the answer
_LEAST_CHUNK = 6  # bytes of a chunk with one byte in it, and the end of the one before
_DRAIN = 65536  # bytes read after the end of an answer to keep its connection

# ---- sockets that tell -------------------------------------------------------------------------

# The scope of the call that this thread is making: urllib3 gives no way to pass it down.
current = Local()


class _ReportingReader(io.RawIOBase):
    """Every blocking read of a response passes here: the clocks run exactly while it waits."""

    def __init__(self, raw: io.RawIOBase, scope: CancelScope) -> None:
        self._raw = raw
        self.scope = scope
        self.received = 0  # bytes of the last read
        self.peek_only = False  # say that there is nothing, without asking

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


class _ReportingSocket:
    """What http.client.HTTPResponse needs of a socket: its file."""

    def __init__(self, sock: Any, scope: CancelScope) -> None:
        self._sock = sock
        self._scope = scope

    def makefile(self, mode: str) -> io.BufferedReader:
        raw = self._sock.makefile(mode, buffering=0)
        return io.BufferedReader(_ReportingReader(raw, self._scope), _BUFFER)


class ReportingResponse(http.client.HTTPResponse):
    """http.client's response, reading through the reader."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        scope: CancelScope = current.scope
        super().__init__(_ReportingSocket(sock, scope), *args, **kwargs)  # type: ignore[arg-type]
        current.response = self

    def begin(self) -> None:
        super().begin()
        # http.client passes over 100 (Continue) only; 102 and 103 are no answers either
        # (RFC 9110, 15.2). 101 would be one to a question that was not asked.
        for _ in range(_INTERIM):
            if not 101 < self.status < 200:
                return
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        raise http.client.HTTPException("too many interim responses")


class HTTPResponse:
    """See Exchange. `body` is http.client's response, None under a test double of requests."""

    def __init__(
        self, response: requests.Response, body: ReportingResponse | None, scope: CancelScope
    ) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.headers.items()
        }
        self._raw = response.raw
        self._scope = scope
        encoded = self.headers.get("content-encoding", "identity") not in ("", "identity")
        # urllib3 knows how to decode; we asked for identity, so it seldom has to.
        self._body = None if encoded else body
        self._http = body

    def read(self) -> bytes:
        error: LLMStreamError | None = None
        scope = self._scope
        try:
            data = self._read()
            if data or scope.stop_reason is None:
                return data
            raise Stopped  # the clean end of a close-delimited body was a shutdown
        except FOREIGN as exc:
            scope.check()
            error = translate(exc, scope, None)
            cause = bare(exc)
        raise error from cause

    def _read(self) -> bytes:
        body = self._body
        if body is None:
            data: bytes = self._raw.read1(_READ, decode_content=True)
            return data
        data = body.read1(_READ)
        if not data and body.length:
            raise http.client.IncompleteRead(b"", body.length)
        if data and body.chunked and body.chunk_left == 0 and body.fp is not None:
            more = _chunks_ahead(body.fp, len(data))
            if more:
                return b"".join((data, *more))
        return data

    def finish(self) -> None:
        """Read to the end of the body if it is near, and give the connection back."""
        try:
            left = _DRAIN
            while left > 0 and (data := self._read()):
                left -= len(data)
            ended = left > 0 and self._scope.stop_reason is None
        except ENDINGS:
            ended = False
        self._scope.detach()
        if ended:
            # First this, then the connection: another thread may take it at once.
            with contextlib.suppress(*FOREIGN):
                if self._http is not None:
                    self._http.close()
                self._raw.release_conn()
        self.close()

    def close(self) -> None:
        self._scope.detach()
        # Closing a broken connection fails in as many ways as it can break.
        with contextlib.suppress(*FOREIGN):
            self._raw.close()


def _chunks_ahead(file: Any, had: int) -> list[bytes]:
    """The chunks (RFC 9112, 7.1) that have arrived whole behind one that has been read, of `had`
    bytes. http.client would hand them out one at a time, at 2 us each; they are read exactly as it
    does, and whatever is not plain (extensions, the last chunk, trailers) is left to it."""
    reader: _ReportingReader = file.raw
    if reader.received - had < _LEAST_CHUNK:
        return []  # there was no more in it
    reader.peek_only = True  # or an empty buffer would be filled, and that may block
    try:
        ahead: bytes = file.peek()
    finally:
        reader.peek_only = False
    found: list[bytes] = []
    at = 0
    while ahead.startswith(b"\r\n", at):  # the end of the chunk before
        end = ahead.find(b"\n", at + 2)
        try:
            size = int(ahead[at + 2 : end], 16)
        except ValueError:
            break
        start = end + 1
        if end < 0 or size <= 0 or start + size > len(ahead):
            break
        at = start + size
        found.append(ahead[start:at])
    if at:
        file.read(at)
    return found
