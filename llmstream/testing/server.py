"""A scripted HTTP/1.1 server on the loopback, for tests of streaming clients.

It speaks on raw sockets, because it has to do what an honest HTTP server cannot: stop in the
middle of a chunk, lie about lengths, reset, fall silent, or never answer a TLS hello. A thread
serves each connection. No wait in it is blind: each is a poll that the client's close ends at
once, and `LLMServer.close()` too, by shutting the socket down.
"""

from __future__ import annotations

import contextlib
import math
import select
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from .answers import Answer, api_of_path, encoding
from .script import (
    LAST_CHUNK,
    Cut,
    Drip,
    Entry,
    Headers,
    Pause,
    Pings,
    Recorded,
    Reply,
    Reset,
    Send,
    Silence,
    Step,
    body_length,
    chunk,
    chunked_pieces,
    encode_reply,
    needs_api,
    pieces,
    prompt_text,
    render_head,
)

if TYPE_CHECKING:
    import ssl

    from .tls import TlsCodec

__all__ = ["LLMServer", "Recorded", "blackhole"]

# Bounds, in bytes and seconds.
MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
MAX_INBOX = MAX_BODY + 1024 * 1024  # a body, and some of what is pipelined behind it
PIECE = 64 * 1024  # read or written in one system call
HANDSHAKE_WAIT = 10.0
LINGER = 10.0  # after our FIN, for the client's
RESET_WAIT = 1.0  # before our RST, for the client's kernel to acknowledge
CLOSE_WAIT = 1.5  # for all threads together in `LLMServer.close()`

THREAD_NAME = "llmstream-test-server"


# --- waiting ------------------------------------------------------------------------------------

if sys.platform == "win32":

    def _ready(
        sock: socket.socket, timeout: float | None, *, read: bool = True, write: bool = False
    ) -> bool:
        """Waits until the socket can be read or written, or has failed; False after `timeout`."""
        watched = [sock]
        found = select.select(watched if read else [], watched if write else [], watched, timeout)
        return any(found)

else:

    def _ready(
        sock: socket.socket, timeout: float | None, *, read: bool = True, write: bool = False
    ) -> bool:
        """Waits until the socket can be read or written, or has failed; False after `timeout`."""
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


class _Gone(Exception):
    """The connection is over: the client ended it, or the server is being closed."""


class _BadRequest(Exception):
    """What came is not a request that this server takes; `status` says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Channel:
    """One accepted connection, plain or TLS. Every wait in it ends when the client closes.

    Waiting means reading: what the client sends meanwhile is kept in the inbox, and its end of
    file is found at once, which peeking cannot do behind unread or encrypted bytes.

    Used by one thread, except `shut_down`.
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
        self._lock = threading.Lock()  # guards the descriptor: no shutdown of one that was reused

    # ending

    def shut_down(self) -> None:
        """Ends every wait, for `LLMServer.close()`. From any thread, at any time."""
        with self._lock:
            self._shut_down = True
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        with self._lock:
            self._sock.close()

    def end_output(self, *, notify: bool) -> None:
        """Sends FIN; over TLS, tells the peer before when `notify` is set."""
        if notify and self._tls is not None:
            self._write(self._tls.close_notify())
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise self._gone() from exc

    def linger(self, seconds: float | None) -> None:
        """Discards what comes until the client closes (`_Gone`), at most for so long."""
        deadline = _deadline(seconds)
        while time.monotonic() < deadline:
            if _ready(self._sock, _left(deadline)):
                self._receive()

    def reset(self) -> None:
        """Sends RST, once the peer's kernel has what was sent before."""
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
            self.pause(0.05)  # nobody to ask: time enough on a loopback
            return False

    def _gone(self) -> _Gone:
        if not self._shut_down:
            self._on_client_close()
        return _Gone()

    # reading

    def pause(self, seconds: float | None) -> None:
        """Lets time pass; `None`: until the client closes. Raises `_Gone` as soon as it does."""
        deadline = _deadline(seconds)
        while True:
            self._fill()
            if time.monotonic() >= deadline:
                return
            _ready(self._sock, _left(deadline))

    def read_until(self, end: bytes, limit: int) -> bytes:
        """The bytes before `end`, which is taken too. Raises `_BadRequest` beyond `limit`."""
        while (found := self._inbox.find(end)) < 0:
            if len(self._inbox) > limit:
                raise _BadRequest(431, f"no {end!r} within {limit} bytes")
            self._await_more()
        data = self.read_exactly(found)
        self.read_exactly(len(end))
        return data

    def read_exactly(self, count: int) -> bytes:
        """So many bytes. Raises `_BadRequest` when that is more than a body may have."""
        if count > MAX_BODY:
            raise _BadRequest(413, f"a body of {count} bytes; the limit is {MAX_BODY}")
        while len(self._inbox) < count:
            self._await_more()
        data = bytes(self._inbox[:count])
        del self._inbox[:count]
        return data

    def _await_more(self) -> None:
        # One read: a request counts although the client's end of file is right behind it.
        _ready(self._sock, None)
        self._take()

    def _fill(self) -> None:
        """Takes into the inbox all that has come, without waiting."""
        while self._take():
            if len(self._inbox) > MAX_INBOX:
                raise _BadRequest(413, f"more than {MAX_INBOX} bytes while busy with a reply")

    def _take(self) -> bool:
        """Takes one read into the inbox, if there is anything to read."""
        data = self._receive()
        if data is None:
            return False
        self._inbox += data if self._tls is None else self._decrypted(self._tls, data)
        return True

    def _receive(self) -> bytes | None:
        """Raw bytes; None when there are none yet. Raises `_Gone` at the client's end."""
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
        """Sends all of it, as slowly as the client reads. Raises `_Gone` when that has left."""
        if self._tls is None:
            self._write(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), PIECE):  # encrypted bit by bit: a reply may be long
            self._write(self._tls.encrypt(view[start : start + PIECE]))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view[:PIECE]) :]
            except BlockingIOError:
                _ready(self._sock, None, write=True)
                self._fill()
            except OSError as exc:
                raise self._gone() from exc

    # TLS

    def shake_hands(self, context: ssl.SSLContext) -> None:
        """The TLS handshake, within `HANDSHAKE_WAIT`. Raises `_Gone` when it fails."""
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
        self._inbox += self._decrypted(codec, b"")  # what came along with the last handshake bytes

    def _receive_by(self, deadline: float) -> bytes:
        while time.monotonic() < deadline:
            if _ready(self._sock, _left(deadline)) and (data := self._receive()):
                return data
        raise _Gone


# --- requests -----------------------------------------------------------------------------------


def _read_request(channel: _Channel, connection: int) -> tuple[Recorded, bool]:
    """The next request, and whether the client lets the connection be kept."""
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
        raise _BadRequest(400, "the first line is not an HTTP/1.1 request line")
    return parts[0], parts[1], parts[2]


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise _BadRequest(400, "a line of the head is not a header field")
    return name, value.strip()


def _read_body(channel: _Channel, headers: Headers) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return _read_chunks(channel)
    return channel.read_exactly(_number(headers.get("content-length", "0"), 10))


def _read_chunks(channel: _Channel) -> bytes:
    body = bytearray()
    while size := _number(channel.read_until(b"\r\n", MAX_HEAD).decode("latin-1"), 16):
        if len(body) + size > MAX_BODY:
            raise _BadRequest(413, f"a body of more than {MAX_BODY} bytes")
        body += channel.read_exactly(size)
        if channel.read_exactly(2) != b"\r\n":
            raise _BadRequest(400, "a chunk does not end where its size says")
    while channel.read_until(b"\r\n", MAX_HEAD):  # trailers, up to the empty line
        pass
    return bytes(body)


def _number(text: str, base: int) -> int:
    digits = text.partition(";")[0].strip()  # a chunk's size may have extensions behind it
    if not digits.isalnum():
        raise _BadRequest(400, f"{text!r} is not a length")
    try:
        return int(digits, base)
    except ValueError:
        raise _BadRequest(400, f"{text!r} is not a length") from None


# --- replies ------------------------------------------------------------------------------------

# What is left of the connection after a step: it goes on; we sent FIN; it is no more.
_Left = Literal["open", "ended", "reset"]


class _Player:
    """Plays steps on a channel; `chunked` says whether what it sends is framed as chunks."""

    def __init__(self, channel: _Channel, *, chunked: bool) -> None:
        self.channel = channel
        self.chunked = chunked

    def play(self, steps: Sequence[Step]) -> _Left:
        """Plays until the end, or until a step has ended the connection."""
        for step in steps:
            left = _PLAYERS[type(step)](self, step)
            if left != "open":
                return left
        return "open"

    def send(self, step: Send) -> _Left:
        self._send(step.data, framed=not step.raw)
        return "open"

    def pause(self, step: Pause) -> _Left:
        self.channel.pause(step.seconds)
        return "open"

    def silence(self, step: Silence) -> _Left:
        self.channel.pause(None)
        return "open"

    def pings(self, step: Pings) -> _Left:
        sent = 0
        while step.count is None or sent < step.count:
            self.channel.pause(step.every)
            self._send(step.data)
            sent += 1
        return "open"

    def drip(self, step: Drip) -> _Left:
        if self.chunked and not step.one_chunk and not step.every:
            self.channel.send(chunked_pieces(step.data, step.size))
        elif self.chunked and step.one_chunk and step.data:
            self.channel.send(b"%x\r\n" % len(step.data))
            self._dribble(step, framed=False)
            self.channel.send(b"\r\n")
        else:
            self._dribble(step, framed=True)
        return "open"

    def cut(self, step: Cut) -> _Left:
        if step.last_chunk and self.chunked:
            self.channel.send(LAST_CHUNK)
        self.channel.end_output(notify=step.last_chunk)
        return "ended"

    def reset(self, step: Reset) -> _Left:
        self.channel.reset()
        return "reset"

    def _dribble(self, step: Drip, *, framed: bool) -> None:
        for piece in pieces(step.data, step.size):
            self._send(piece, framed=framed)
            if step.every:
                self.channel.pause(step.every)

    def _send(self, data: bytes, *, framed: bool = True) -> None:
        self.channel.send(chunk(data) if framed and self.chunked else data)


_PLAYERS: dict[type, Callable[[_Player, Any], _Left]] = {
    Send: _Player.send,
    Pause: _Player.pause,
    Silence: _Player.silence,
    Pings: _Player.pings,
    Drip: _Player.drip,
    Cut: _Player.cut,
    Reset: _Player.reset,
}


def _play_reply(channel: _Channel, reply: Reply, api: str | None, *, keep: bool) -> _Left:
    """The whole reply; `keep` says whether the connection may outlive it."""
    before, steps, headers = encode_reply(reply, api)
    left = _Player(channel, chunked=False).play((Pause(reply.delay), *before))
    if left != "open":
        return left
    actual = body_length(steps)
    length = actual if reply.length is None else reply.length
    channel.send(render_head(reply, headers, length if reply.framing == "length" else None))
    chunked = reply.framing == "chunked"
    left = _Player(channel, chunked=chunked).play(steps)
    if left != "open":
        return left
    if chunked:
        channel.send(LAST_CHUNK)
    lied = length != actual
    if keep and reply.framing != "close" and not lied:
        return "open"
    channel.end_output(notify=not lied)
    return "ended"


# --- connections --------------------------------------------------------------------------------


class _Connection:
    """One TCP connection and the thread that serves it."""

    def __init__(self, server: LLMServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.number = number
        self.channel = _Channel(sock, self._client_closed)
        self.recorded: list[Recorded] = []  # this connection's own; only its thread touches it
        self.thread = threading.Thread(
            target=self._run, name=f"{THREAD_NAME}-connection-{number}", daemon=True
        )

    def _run(self) -> None:
        try:
            self._open()
            while self._serve():
                pass
        except _Gone:
            pass
        except Exception as exc:
            self.server._failed(exc)
        finally:
            self.channel.close()
            self.server._ended(self)

    def _open(self) -> None:
        context = self.server._context
        if context is None:
            return
        if not self.server._handshake:
            self.channel.linger(None)
        self.channel.shake_hands(context)

    def _serve(self) -> bool:
        """One request and its reply; whether there can be another on this connection."""
        try:
            request, keep = _read_request(self.channel, self.number)
        except _BadRequest as exc:
            refusal = Reply.error(exc.status, message=str(exc))
            return self._after(_play_reply(self.channel, refusal, None, keep=False))
        self.recorded.append(request)
        self.server._received(request)
        reply, api = self.server._reply_to(request)
        left = _play_reply(self.channel, reply, api, keep=keep)
        self.server._note(request, finished_at=time.monotonic())
        return self._after(left)

    def _after(self, left: _Left) -> bool:
        if left == "ended":
            self.channel.linger(LINGER)
        return left == "open"

    def _client_closed(self) -> None:
        self.server._note(*self.recorded, closed_at=time.monotonic())


# --- the server ---------------------------------------------------------------------------------


class LLMServer:
    """A service of large language models that says and does what a test scripted.

    It listens on a free port of the loopback from its construction until `close()`; as a context
    manager it closes itself, and raises when one of its own threads failed. Every public member
    may be used from any thread.

    Arguments:
        tls: speak TLS, with a certificate for localhost, 127.0.0.1 and `host` by an authority of
            its own (`ca_file`). Needs trustme.
        handshake: False: take TCP connections, and never answer their TLS hello.
        host: the address to listen on.

    Attributes:
        default: what answers when nothing (more) is scripted: a `Reply`, an `Answer`, or a
            function that is given the request and returns one of the two. Assign to change.
        errors: exceptions that nobody expected in the server's own threads, scripted functions
            included. A client that disconnects is none.
        url: "http://127.0.0.1:PORT", or https.
        ca_file: with TLS, the path of a PEM file to verify the server with, which `close()`
            removes; else None.

    Raises `ImportError` for TLS without trustme, and `OSError` when it cannot listen.
    """

    def __init__(
        self, *, tls: bool = False, handshake: bool = True, host: str = "127.0.0.1"
    ) -> None:
        if not (tls or handshake):
            raise ValueError("handshake=False is about TLS: it needs tls=True")
        self._handshake = handshake
        self._context: ssl.SSLContext | None = None
        self.ca_file: str | None = None
        if tls:
            self._prepare_tls(host)
        self.default: Entry = Answer("Hello, world!")
        self.errors: list[Exception] = []
        self._changed = threading.Condition()  # guards the six below, and what is in them
        self._script: deque[Entry] = deque()
        self._requests: list[Recorded] = []
        self._accepted = 0
        self._open: set[_Connection] = set()
        self._threads: list[_Connection] = []  # perhaps ended, not yet joined
        self._closed = False
        self._listen(host, "https" if tls else "http")

    def _prepare_tls(self, host: str) -> None:
        from .tls import server_context, write_ca_file

        self._context = server_context(host)
        self.ca_file = write_ca_file()

    def _listen(self, host: str, scheme: str) -> None:
        try:
            self._listener = socket.create_server((host, 0), backlog=1024)
        except OSError:
            self._remove_ca_file()
            raise
        self._listener.setblocking(False)
        self.url = f"{scheme}://{host}:{self._listener.getsockname()[1]}"
        self._bell, self._bell_rope = socket.socketpair()  # wakes the acceptor
        self._acceptor = threading.Thread(
            target=self._accept, name=f"{THREAD_NAME}-acceptor", daemon=True
        )
        self._acceptor.start()

    def __repr__(self) -> str:
        return f"<LLMServer {self.url}, {len(self.requests)} requests>"

    # what a test says

    @property
    def base_url(self) -> str:
        """`url` with "/v1", the form that Responses and Chat clients take."""
        return f"{self.url}/v1"

    def base_url_for(self, api: str) -> str:
        """The `base_url` that clients of an API take: `url` for Messages, whose own path begins
        with /v1, and `base_url` for Responses and Chat Completions.

        Raises `ValueError` for an unknown API.
        """
        return self.url + encoding(api).base_path

    def script(self, *replies: Entry) -> None:
        """Appends replies; each request takes the next, whatever its path.

        An `Answer`, alone or in a `Reply`, is encoded for the API that the request's path
        belongs to; on a path that belongs to none the reply is a 404. A function is called in
        the connection's thread with the `Recorded` request and returns a `Reply` or an `Answer`.

        Raises `TypeError` for anything else.
        """
        for entry in replies:
            if not (isinstance(entry, (Reply, Answer)) or callable(entry)):
                raise TypeError(f"{entry!r} is neither a Reply, an Answer nor a function")
        with self._changed:
            self._script.extend(replies)

    @staticmethod
    def echo(recorded: Recorded) -> Answer:
        """Answers with the prompt's own text: `server.default = server.echo`."""
        return Answer(prompt_text(recorded))

    # what a test learns

    @property
    def requests(self) -> list[Recorded]:
        """The complete requests so far, in order of arrival; a new list."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted so far."""
        with self._changed:
            return self._accepted

    @property
    def open_connections(self) -> int:
        """How many of them have not ended yet."""
        with self._changed:
            return len(self._open)

    def wait_requests(self, n: int, timeout: float = 5.0) -> list[Recorded]:
        """Waits until there have been `n` requests, and returns all of them.

        Raises `TimeoutError` after `timeout` seconds.
        """
        self._wait(
            lambda: len(self._requests) >= n,
            timeout,
            lambda: f"{len(self._requests)} of {n} requests came within {timeout} s",
        )
        return self.requests

    def wait_connections(self, n: int, timeout: float = 5.0) -> None:
        """Waits until `n` TCP connections have been accepted, whatever became of them.

        Raises `TimeoutError` after `timeout` seconds.
        """
        self._wait(
            lambda: self._accepted >= n,
            timeout,
            lambda: f"{self._accepted} of {n} connections came within {timeout} s",
        )

    def wait_all_closed(self, timeout: float = 5.0) -> None:
        """Waits until no connection is open.

        Raises `TimeoutError` after `timeout` seconds.
        """
        self._wait(
            lambda: not self._open,
            timeout,
            lambda: f"{len(self._open)} connections are still open after {timeout} s",
        )

    def wait_finished(self, recorded: Recorded | int, timeout: float = 5.0) -> float:
        """Waits until a request's reply has been played to its end, and returns when that was.

        Takes a request or its index, as `wait_closed`. Raises `TimeoutError`.
        """
        return self._wait_moment(recorded, "finished_at", timeout, "the reply was not finished")

    def wait_closed(self, recorded: Recorded | int, timeout: float = 5.0) -> float:
        """Waits until the client has closed a request's connection, and returns when that was.

        Takes a request, or its index in `requests` (which need not have come yet). The moment is
        `time.monotonic()` seconds. Raises `TimeoutError` after `timeout` seconds.
        """
        return self._wait_moment(recorded, "closed_at", timeout, "the client did not close")

    def _wait_moment(
        self, recorded: Recorded | int, moment: str, timeout: float, failure: str
    ) -> float:
        def found() -> float | None:
            request = self._request(recorded)
            return None if request is None else getattr(request, moment)

        def sentence() -> str:
            request = self._request(recorded)
            if request is None:
                return f"request {recorded} did not come within {timeout} s"
            where = f"{request.method} {request.path} on connection {request.connection}"
            return f"{failure} within {timeout} s: {where}"

        self._wait(lambda: found() is not None, timeout, sentence)
        moment_found = found()
        assert moment_found is not None  # it was, and nothing takes a moment back
        return moment_found

    def _request(self, recorded: Recorded | int) -> Recorded | None:
        if isinstance(recorded, Recorded):
            return recorded
        try:
            return self._requests[recorded]
        except IndexError:
            return None

    def _wait(
        self, condition: Callable[[], bool], timeout: float, failure: Callable[[], str]
    ) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(failure())

    # what its connections tell it

    def _received(self, request: Recorded) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def _note(self, *requests: Recorded, **moments: float) -> None:
        with self._changed:
            for request in requests:
                for name, moment in moments.items():
                    setattr(request, name, moment)
            self._changed.notify_all()

    def _failed(self, error: Exception) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def _ended(self, connection: _Connection) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def _reply_to(self, request: Recorded) -> tuple[Reply, str | None]:
        """The reply, and the API in which its answers are encoded."""
        with self._changed:
            entry = self._script.popleft() if self._script else self.default
        api = api_of_path(request.path)
        try:
            reply = _as_reply(entry, request)
        except Exception as exc:
            self._failed(exc)
            return Reply.error(500, message="the scripted function failed"), api
        if api is None and needs_api(reply):
            message = f"no API of this test server is at {request.method} {request.path}"
            return Reply.error(404, type="invalid_request_error", message=message), api
        return reply, api

    # its life

    def _accept(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                selector.register(self._bell, selectors.EVENT_READ)
                while not self._closed:
                    selector.select()
                    self._accept_one()
        except Exception as exc:
            self._failed(exc)

    def _accept_one(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # the bell, or a client that left again
            return
        with self._changed:
            self._accepted += 1
            connection = _Connection(self, sock, self._accepted)
            self._threads = [one for one in self._threads if one.thread.is_alive()]
            self._threads.append(connection)
            self._open.add(connection)
            connection.thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Ends every connection and thread. From any thread; a second call has no effect.

        Bounded: `CLOSE_WAIT` seconds. Only a scripted function that does not return can keep a
        thread longer; that is reported in `errors`.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
        deadline = time.monotonic() + CLOSE_WAIT
        self._bell_rope.send(b"!")
        self._acceptor.join(CLOSE_WAIT)
        for sock in (self._listener, self._bell, self._bell_rope):
            sock.close()
        with self._changed:
            threads = list(self._threads)
        for connection in threads:
            connection.channel.shut_down()
        self._join(threads, deadline)
        self._remove_ca_file()

    def _join(self, connections: list[_Connection], deadline: float) -> None:
        for connection in connections:
            thread = connection.thread
            if thread is threading.current_thread():
                continue  # a scripted function closes its own server
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._failed(RuntimeError(f"{thread.name} did not end within {CLOSE_WAIT} s"))

    def _remove_ca_file(self) -> None:
        if self.ca_file is not None:
            from .tls import remove_ca_file

            remove_ca_file(self.ca_file)

    def __enter__(self) -> LLMServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if self.errors and error is None:  # never in the place of the test's own failure
            listed = "; ".join(repr(one) for one in self.errors)
            raise AssertionError(f"the test server itself failed: {listed}") from self.errors[0]


def _as_reply(entry: Entry, request: Recorded) -> Reply:
    made = entry if isinstance(entry, (Reply, Answer)) else entry(request)
    if isinstance(made, Answer):
        return Reply(made)
    if not isinstance(made, Reply):
        raise TypeError(f"a scripted function returned {made!r}: neither a Reply nor an Answer")
    return made


# --- a host that does not answer ----------------------------------------------------------------

BLACKHOLE_FILLERS = 64
BLACKHOLE_PATIENCE = 0.2  # seconds; a loopback connects in well under a millisecond


@contextlib.contextmanager
def blackhole() -> Iterator[tuple[str, int]]:
    """A `(host, port)` where a new TCP connect hangs: neither accepted nor refused.

    A listening socket whose queue is full, filled until a connect is seen to hang. As Linux
    does it; raises `RuntimeError` on a system that never lets a connect hang this way. Takes
    0.2 s to set up; everything is closed at exit.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address: tuple[str, int] = listener.getsockname()
        for _ in range(BLACKHOLE_FILLERS):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
            if not _ready(filler, BLACKHOLE_PATIENCE, read=False, write=True):
                break
        else:
            raise RuntimeError("this system goes on connecting to a full listening queue")
        yield address
