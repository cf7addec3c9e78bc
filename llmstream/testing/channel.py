"""The socket of one accepted connection, plain or TLS: requests are read, bytes are written.

No wait here is blind: each is a poll that the client's close ends at once. `Channel.shut_down` ends
it too, by shutting the socket down.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .script import Headers, Recorded

if TYPE_CHECKING:
    import ssl

    from .tls import TlsCodec

__all__ = ["BadRequest", "Channel", "Gone", "read_request", "ready"]

# Bounds, in bytes and seconds.
MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
MAX_INBOX = MAX_BODY + 1024 * 1024  # a body, and some of what is pipelined after it
PIECE = 64 * 1024  # read or written in one system call
HANDSHAKE_WAIT = 10.0
RESET_WAIT = 1.0  # before our RST, for the client's kernel to acknowledge


# --- waiting ------------------------------------------------------------------------------------

if sys.platform == "win32":

    def ready(
        sock: socket.socket, timeout: float | None, *, read: bool = True, write: bool = False
    ) -> bool:
        """Wait until the socket can be read or written, or has failed; False after `timeout`."""
        watched = [sock]
        found = select.select(watched if read else [], watched if write else [], watched, timeout)
        return any(found)

else:

    def ready(
        sock: socket.socket, timeout: float | None, *, read: bool = True, write: bool = False
    ) -> bool:
        """Wait until the socket can be read or written, or has failed; False after `timeout`."""
        # poll, not select: descriptors above 1023 are ordinary in a test of a thousand streams
        poll = select.poll()
        poll.register(sock, select.POLLIN * read | select.POLLOUT * write)
        return bool(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))


def _deadline(timeout: float | None) -> float:
    return math.inf if timeout is None else time.monotonic() + timeout


def _left(deadline: float) -> float | None:
    """Seconds until the deadline, for a poll; None when there is none."""
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())


# --- one connection's bytes ---------------------------------------------------------------------


class Gone(Exception):
    """The connection is over: the client ended it, or the server is being closed."""


class BadRequest(Exception):
    """The received bytes are not a request that this server accepts; `status` says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Channel:
    """One accepted connection, plain or TLS. Every wait in it ends when the client closes.

    A wait reads: bytes that arrive meanwhile are kept in the inbox, and the client's end of file
    is noticed at once. Peeking cannot do that: it sees neither an end of file after unread bytes
    nor one inside TLS.

    `on_client_close` is called, in the channel's thread, when the client has closed or reset the
    connection. Used by one thread, except `shut_down`.
    """

    def __init__(self, sock: socket.socket, on_client_close: Callable[[], None]) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # macOS refuses when the client has left already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._on_client_close = on_client_close
        self._inbox = bytearray()
        self._tls: TlsCodec | None = None
        self._shut_down = False
        # Guards the descriptor: a closed one may already belong to another socket.
        self._lock = threading.Lock()

    # ending

    def shut_down(self) -> None:
        """End every wait, for the server's close. From any thread, at any time."""
        with self._lock:
            self._shut_down = True
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        with self._lock:
            self._sock.close()

    def end_output(self, *, notify: bool) -> None:
        """Send FIN; over TLS, after a close_notify when `notify` is set."""
        if notify and self._tls is not None:
            self._write(self._tls.close_notify())
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise self._gone() from exc

    def linger(self, seconds: float | None) -> None:
        """Discard what arrives, for at most `seconds`. Raises `Gone` when the client closes."""
        deadline = _deadline(seconds)
        while time.monotonic() < deadline:
            if ready(self._sock, _left(deadline)):
                self._receive()

    def reset(self) -> None:
        """Send RST, once the peer's kernel has acknowledged the bytes sent before."""
        deadline = _deadline(RESET_WAIT)
        while self._unacknowledged() and time.monotonic() < deadline:
            self.pause(0.001)
        layout = "hh" if sys.platform == "win32" else "ii"
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(layout, 1, 0))
        self.close()

    def _unacknowledged(self) -> bool:
        if sys.platform == "linux":
            import fcntl
            import termios

            count = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, tcp(7)
            return count != bytes(4)
        else:  # noqa: RET505 (mypy reads platforms by branches)
            self.pause(0.05)  # the kernel cannot be asked; this is long enough on a loopback
            return False

    def _gone(self) -> Gone:
        if not self._shut_down:
            self._on_client_close()
        return Gone()

    # reading

    def pause(self, seconds: float | None) -> None:
        """Let time pass; `None`: until the client closes. Raises `Gone` as soon as it does."""
        deadline = _deadline(seconds)
        while True:
            self._fill()
            if time.monotonic() >= deadline:
                return
            ready(self._sock, _left(deadline))

    def read_until(self, end: bytes, limit: int) -> bytes:
        """The bytes before `end`, which is consumed too. Raises `BadRequest` beyond `limit`."""
        while (found := self._inbox.find(end)) < 0:
            if len(self._inbox) > limit:
                raise BadRequest(431, f"no {end!r} within {limit} bytes")
            self._await_more()
        data = self.read_exactly(found)
        self.read_exactly(len(end))
        return data

    def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes. Raises `BadRequest` when a body may not have that many."""
        if count > MAX_BODY:
            raise BadRequest(413, f"a body of {count} bytes; the limit is {MAX_BODY}")
        while len(self._inbox) < count:
            self._await_more()
        data = bytes(self._inbox[:count])
        del self._inbox[:count]
        return data

    def _await_more(self) -> None:
        # One read: a request counts although the client's end of file follows directly.
        ready(self._sock, None)
        self._take()

    def _fill(self) -> None:
        """Read into the inbox all that has arrived, without waiting."""
        while self._take():
            if len(self._inbox) > MAX_INBOX:
                raise BadRequest(413, f"more than {MAX_INBOX} bytes while busy with a reply")

    def _take(self) -> bool:
        """Read once into the inbox; whether there were bytes to read."""
        data = self._receive()
        if data is None:
            return False
        self._inbox += data if self._tls is None else self._decrypted(self._tls, data)
        return True

    def _receive(self) -> bytes | None:
        """Raw bytes; None when there are none yet. Raises `Gone` at the client's end."""
        try:
            data = self._sock.recv(PIECE)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise self._gone() from exc
        if not data:
            raise self._gone()
        return data

    def _decrypted(self, tls: TlsCodec, data: bytes) -> bytes:
        from .tls import TlsClosed

        try:
            return tls.decrypt(data)
        except TlsClosed as exc:
            raise self._gone() from exc

    # writing

    def send(self, data: bytes) -> None:
        """Send all of `data`, as slowly as the client reads. Raises `Gone` when it has left."""
        if self._tls is None:
            self._write(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), PIECE):  # encrypted piece by piece: a reply may be long
            self._write(self._tls.encrypt(view[start : start + PIECE]))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view[:PIECE]) :]
            except BlockingIOError:
                ready(self._sock, None, write=True)
                self._fill()
            except OSError as exc:
                raise self._gone() from exc

    # TLS

    def shake_hands(self, context: ssl.SSLContext) -> None:
        """The TLS handshake, within `HANDSHAKE_WAIT`. Raises `Gone` when it fails."""
        from .tls import TlsClosed, TlsCodec

        codec = TlsCodec(context)
        deadline = _deadline(HANDSHAKE_WAIT)
        done, received = False, b""
        while not done:
            try:
                done, answer = codec.shake(received)
            except TlsClosed as exc:
                raise self._gone() from exc
            self._write(answer)
            if not done:
                received = self._receive_by(deadline)
        self._tls = codec
        self._inbox += self._decrypted(codec, b"")  # received with the handshake's last bytes

    def _receive_by(self, deadline: float) -> bytes:
        while time.monotonic() < deadline:
            if ready(self._sock, _left(deadline)) and (data := self._receive()):
                return data
        raise Gone


# --- requests -----------------------------------------------------------------------------------


def read_request(channel: Channel, connection: int) -> tuple[Recorded, bool]:
    """The next request, and whether the client lets the connection be kept.

    `connection` is the connection's number, for the record. Raises `BadRequest` and `Gone`.
    """
    head = channel.read_until(b"\r\n\r\n", MAX_HEAD).decode("latin-1")
    start, *lines = head.split("\r\n")
    method, target, version = _start_line(start)
    headers = Headers(_field(line) for line in lines)
    body = _read_body(channel, headers)
    closes = "close" in headers.get("connection", "").lower()
    request = Recorded(method, target, headers, body, connection, time.monotonic())
    return request, version == "HTTP/1.1" and not closes


def _start_line(line: str) -> tuple[str, str, str]:
    parts = line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(400, "the first line is not an HTTP/1.1 request line")
    return parts[0], parts[1], parts[2]


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise BadRequest(400, "a line of the head is not a header field")
    return name, value.strip()


def _read_body(channel: Channel, headers: Headers) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return _read_chunks(channel)
    return channel.read_exactly(_number(headers.get("content-length", "0"), 10))


def _read_chunks(channel: Channel) -> bytes:
    body = bytearray()
    while size := _number(channel.read_until(b"\r\n", MAX_HEAD).decode("latin-1"), 16):
        if len(body) + size > MAX_BODY:
            raise BadRequest(413, f"a body of more than {MAX_BODY} bytes")
        body += channel.read_exactly(size)
        if channel.read_exactly(2) != b"\r\n":
            raise BadRequest(400, "a chunk does not end where its size says")
    while channel.read_until(b"\r\n", MAX_HEAD):  # trailers, up to the empty line
        pass
    return bytes(body)


def _number(text: str, base: int) -> int:
    digits = text.partition(";")[0].strip()  # extensions may follow a chunk's size
    if not digits.isalnum():
        raise BadRequest(400, f"{text!r} is not a length")
    try:
        return int(digits, base)
    except ValueError:
        raise BadRequest(400, f"{text!r} is not a length") from None
