"""Reads an HTTP/1.1 response, and reports every blocking read to the call's scope.

http.client parses the response; below it stands a reader of our own (`_ReportingReader`), so that
the clocks run exactly while a read blocks. Relies on http.client's `response_class` and on
attributes of its HTTPResponse (`fp`, `chunk_left`).
"""

from __future__ import annotations

import contextlib
import http.client
import io
from collections.abc import Mapping
from typing import Any

import requests
from urllib3 import HTTPResponse

from .._runtime.scope import CancelScope, Stopped
from .._runtime.threads import Local
from ..result import LLMStreamError
from .route import Route
from .translate import ENDINGS, FOREIGN, bare_cause, translate

__all__ = ["ReportingResponse", "RequestsResponse", "current"]

_READ = 65536  # the most bytes of one read
# The reader's buffer. Small, because every open stream has one; 16 KiB is a full TLS record.
_BUFFER = 16384
_MAX_INTERIM = 20  # interim (1xx) responses that are skipped before the final one
_MIN_CHUNK = 6  # bytes: the end of the chunk before, and a chunk with one byte of data
_DRAIN = 65536  # bytes that are read after the end of an answer to keep its connection

# ---- what http.client reads from ---------------------------------------------------------------

# `current.scope` is the scope of the call that this thread is making, `current.response` its
# response, `current.query` the query of its URL with the question mark: urllib3 has no way to pass
# the first two down, and would log the third.
current = Local()


class _ReportingReader(io.RawIOBase):
    """The raw reader below a response. The clocks run exactly while its `readinto` blocks."""

    def __init__(self, raw: io.RawIOBase, scope: CancelScope) -> None:
        self._raw = raw
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


class _ReportingSocket:
    """What http.client.HTTPResponse needs of a socket: `makefile`."""

    def __init__(self, sock: Any, scope: CancelScope) -> None:
        self._sock = sock
        self._scope = scope

    def makefile(self, mode: str) -> io.BufferedReader:
        raw = self._sock.makefile(mode, buffering=0)
        return io.BufferedReader(_ReportingReader(raw, self._scope), _BUFFER)


class ReportingResponse(http.client.HTTPResponse):
    """http.client's response, which reads through a _ReportingReader."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        scope: CancelScope = current.scope
        super().__init__(_ReportingSocket(sock, scope), *args, **kwargs)  # type: ignore[arg-type]
        current.response = self

    def begin(self) -> None:
        super().begin()
        # http.client skips only 100 (Continue); 102 and 103 are interim responses too (RFC 9110,
        # section 15.2). 101 is not skipped: no request asks for a switch of protocols.
        for _ in range(_MAX_INTERIM):
            if not 101 < self.status < 200:
                # urllib3 would log header lines that cannot be parsed, with the URL.
                self.msg.defects.clear()
                self.msg.set_payload([])
                return
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        raise http.client.HTTPException("too many interim responses")


class RequestsResponse:
    """The transport's Response (see `base.Response`), over a response of requests. `body` is
    http.client's response, None under a test double of requests."""

    def __init__(
        self,
        response: requests.Response,
        body: ReportingResponse | None,
        scope: CancelScope,
        route: Route,
    ) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.headers.items()
        }
        # A double of requests may have a body, and nothing that it is read from.
        self._raw = io.BytesIO(response.content) if response.raw is None else response.raw
        self._scope = scope
        self._route = route
        self.forwarder = "" if route.tunnels else str(route.proxy)
        if getattr(self._raw, "_original_response", None) is not body:
            body = None  # a double's, which has read it
        encoded = self.headers.get("content-encoding", "identity") not in ("", "identity")
        # urllib3 decodes the others. Requests ask for identity, so that is rare.
        self._body = None if encoded else body
        self._http = body

    def read(self) -> bytes:
        error: LLMStreamError | None = None
        scope = self._scope
        try:
            data = self._read()
            if data or scope.stop_reason is None:
                return data
            raise Stopped  # the end of a close-delimited body was the scope's shutdown
        except FOREIGN as exc:
            scope.check()
            error = translate(exc, scope, None, self._route)
            cause = bare_cause(exc)
        raise error from cause

    def _read(self) -> bytes:
        body = self._body
        if body is None:
            # urllib3's response decodes; a double may have its own.
            options = {"decode_content": True} if isinstance(self._raw, HTTPResponse) else {}
            data: bytes = self._raw.read1(_READ, **options)
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
        """Read to the end of the body if it is near, and return the connection to the pool."""
        try:
            left = _DRAIN
            while left > 0 and (data := self._read()):
                left -= len(data)
            ended = left > 0 and self._scope.stop_reason is None
        except ENDINGS:
            ended = False
        self._scope.detach()
        if ended:
            # In this order: another thread may use the connection as soon as it is in the pool.
            with contextlib.suppress(*FOREIGN):
                if self._http is not None:
                    self._http.close()
                if isinstance(self._raw, HTTPResponse):
                    self._raw.release_conn()
        self.close()

    def close(self) -> None:
        self._scope.detach()
        # Closing a broken connection can fail in many ways.
        with contextlib.suppress(*FOREIGN):
            self._raw.close()


def _chunks_ahead(file: Any, had: int) -> list[bytes]:
    """The chunks (RFC 9112, section 7.1) that are buffered already after the chunk of `had` bytes
    that was read. http.client returns them one at a time, at 2 us each. They are parsed exactly as
    http.client does; anything else (extensions, the last chunk, trailers) is left to it."""
    reader: _ReportingReader = file.raw
    if reader.received - had < _MIN_CHUNK:
        return []  # the last read had no further chunk
    reader.peek_only = True  # otherwise `peek` would fill an empty buffer, which may block
    try:
        ahead: bytes = file.peek()
    finally:
        reader.peek_only = False
    found: list[bytes] = []
    at = 0
    while ahead.startswith(b"\r\n", at):  # which ends the chunk before
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
