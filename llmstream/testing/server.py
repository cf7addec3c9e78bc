"""A scripted HTTP/1.1 server on the loopback, for tests of streaming clients.

It uses raw sockets, because it has to do what an honest HTTP server cannot: stop in the middle of a
chunk, lie about lengths, reset, fall silent, or never answer a TLS hello. A thread serves each
connection.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from .answers import Answer, api_of_path, encoding
from .channel import ready
from .connection import Connection, begin_thread
from .journal import Journal
from .script import Entry, Recorded, Reply, needs_api, prompt_text

if TYPE_CHECKING:
    import ssl

__all__ = ["LLMServer", "blackhole"]

CLOSE_WAIT = 5.0  # seconds, for all connections together in `LLMServer.close()`


class LLMServer:
    """A service of large language models that answers as a test has scripted.

    It listens on a free port of the loopback from its construction until `close()`. As a context
    manager it closes itself, and raises `AssertionError` when one of its own threads failed. Every
    public member may be used from any thread. It answers whatever Host and key a request has: it
    has nothing to protect, and tests of proxies and of keys use their own.

    Arguments:
        tls: use TLS, with a certificate for localhost, 127.0.0.1 and `host` by an authority of
            its own (`ca_file`). Needs trustme.
        handshake: False: accept TCP connections, and never answer their TLS hello.
        host: the address to listen on.

    Attributes:
        default: the reply when nothing (more) is scripted: a `Reply`, an `Answer`, or a function
            that takes the request and returns one of the two. Assign to change.
        errors: unexpected exceptions in the server's own threads, those of scripted functions
            included. A client that disconnects does not cause one.
        url: "http://127.0.0.1:PORT", or https.
        ca_file: with TLS, the path of a PEM file to verify the server with, which `close()`
            removes; else None.

    Raises `ImportError` for TLS without trustme, `ValueError` for `handshake=False` without TLS,
    `OSError` when it cannot listen, and `RuntimeError` when the system starts no further
    thread. A connection that would need one is closed, and that error is in `errors`.
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
        self._journal = Journal()
        self.errors = self._journal.errors
        self._lock = threading.Lock()  # guards the three below
        self._script: deque[Entry] = deque()
        self._connections: list[Connection] = []  # perhaps ended, not yet joined
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
        try:
            self._acceptor = begin_thread(self._accept, "acceptor")
        except BaseException:
            self._close_sockets()
            raise

    def __repr__(self) -> str:
        return f"<LLMServer {self.url}, {len(self.requests)} requests>"

    # what a test scripts

    @property
    def base_url(self) -> str:
        """`url` with "/v1", the form that Responses and Chat Completions clients take."""
        return f"{self.url}/v1"

    def base_url_for(self, api: str) -> str:
        """The `base_url` that clients of an API take: `url` for Messages, whose own path begins
        with /v1, and `base_url` for Responses and Chat Completions.

        Raises `ValueError` for an unknown API.
        """
        return self.url + encoding(api).base_path

    def script(self, *replies: Entry) -> None:
        """Append replies; each request takes the next, whatever its path.

        An `Answer`, alone or in a `Reply`, is encoded for the API that the request's path
        belongs to; on a path that belongs to none the reply is a 404. A function is called in
        the connection's thread with the `Recorded` request and returns a `Reply` or an `Answer`.

        Raises `TypeError` for anything else.
        """
        for entry in replies:
            if not (isinstance(entry, (Reply, Answer)) or callable(entry)):
                raise TypeError(f"{entry!r} is neither a Reply, an Answer nor a function")
        with self._lock:
            self._script.extend(replies)

    @staticmethod
    def echo(recorded: Recorded) -> Answer:
        """Answer with the prompt's own text: `server.default = server.echo`."""
        return Answer(prompt_text(recorded))

    # what a test learns

    @property
    def requests(self) -> list[Recorded]:
        """The complete requests so far, in order of arrival; a new list."""
        return self._journal.requests

    @property
    def connections(self) -> int:
        """How many TCP connections have been accepted so far."""
        return self._journal.connections

    @property
    def open_connections(self) -> int:
        """How many of them have not ended yet."""
        return self._journal.open_connections

    def wait_requests(self, n: int, timeout: float = 5.0) -> list[Recorded]:
        """Wait until there have been `n` requests, and return all of them.

        Raises `TimeoutError` after `timeout` seconds.
        """
        return self._journal.wait_requests(n, timeout)

    def wait_connections(self, n: int, timeout: float = 5.0) -> None:
        """Wait until `n` TCP connections have been accepted, closed ones included.

        Raises `TimeoutError` after `timeout` seconds.
        """
        self._journal.wait_connections(n, timeout)

    def wait_all_closed(self, timeout: float = 5.0) -> None:
        """Wait until no connection is open. Raises `TimeoutError` after `timeout` seconds."""
        self._journal.wait_all_closed(timeout)

    def wait_finished(self, recorded: Recorded | int, timeout: float = 5.0) -> float:
        """Wait until a request's reply has been played to its end, and return that moment.

        Arguments, result and errors are those of `wait_closed`.
        """
        return self._journal.wait_moment(
            recorded, "finished_at", timeout, "the reply was not finished"
        )

    def wait_closed(self, recorded: Recorded | int, timeout: float = 5.0) -> float:
        """Wait until the client has closed a request's connection, and return that moment.

        Takes a request, or its index in `requests` (which need not have arrived yet). The moment
        is in `time.monotonic()` seconds. Raises `TimeoutError` after `timeout` seconds.
        """
        return self._journal.wait_moment(recorded, "closed_at", timeout, "the client did not close")

    # its threads

    def _reply_to(self, request: Recorded) -> tuple[Reply, str | None]:
        """List the request; returns its reply, and the API in which its answers are encoded."""
        with self._lock:
            entry = self._script.popleft() if self._script else self.default
            # Listed after that: what a test scripts once it has seen the request is the next one's.
            self._journal.received(request)
        api = api_of_path(request.path)
        try:
            reply = _as_reply(entry, request)
        except Exception as exc:
            self._journal.failed(exc)
            return Reply.error(500, message="the scripted function failed"), api
        if api is None and needs_api(reply):
            message = f"no API of this test server is at {request.method} {request.path}"
            return Reply.error(404, type="invalid_request_error", message=message), api
        return reply, api

    def _accept(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                selector.register(self._bell, selectors.EVENT_READ)
                while not self._closed:
                    selector.select()
                    if not self._closed:
                        self._accept_one()
        except Exception as exc:
            self._journal.failed(exc)

    def _accept_one(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # the bell, or a client that left again
            return
        connection = Connection(
            sock,
            self._journal.accepted(),
            self._journal,
            self._reply_to,
            tls=self._context,
            handshake=self._handshake,
        )
        with self._lock:
            self._connections = [one for one in self._connections if _lives(one)]
            self._connections.append(connection)
            try:
                connection.begin()
            except RuntimeError as exc:
                self._journal.failed(exc)

    def close(self) -> None:
        """End every connection and thread. From any thread; a second call has no effect.

        It takes at most `CLOSE_WAIT` seconds. A connection's thread that runs longer, because a
        scripted function does not return, is reported in `errors`.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._bell_rope.send(b"!")
        # Without a limit: it waits for the bell only, and would not hear one that is closed.
        self._acceptor.join()
        self._close_sockets()
        deadline = time.monotonic() + CLOSE_WAIT
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.channel.shut_down()
        self._join(connections, deadline)

    def _close_sockets(self) -> None:
        for sock in (self._listener, self._bell, self._bell_rope):
            sock.close()
        self._remove_ca_file()

    def _join(self, connections: list[Connection], deadline: float) -> None:
        for connection in connections:
            thread = connection.thread
            if thread is None or thread is threading.current_thread():
                continue  # it never began; or a scripted function closes its own server
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                error = RuntimeError(f"{thread.name} did not end within {CLOSE_WAIT} s")
                self._journal.failed(error)

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
        if self.errors and error is None:  # the test's own failure comes first
            listed = "; ".join(repr(one) for one in self.errors)
            raise AssertionError(f"the test server itself failed: {listed}") from self.errors[0]


def _lives(connection: Connection) -> bool:
    return connection.thread is not None and connection.thread.is_alive()


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
    """A `(host, port)` where a new TCP connect hangs: it is neither accepted nor refused.

    It is a listening socket whose queue is full: the queue is filled until a connect hangs. This
    works as on Linux; on a system that never lets a connect hang this way it raises
    `RuntimeError`. The setup takes 0.2 s; everything is closed at exit.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address: tuple[str, int] = listener.getsockname()
        for _ in range(BLACKHOLE_FILLERS):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
            if not ready(filler, BLACKHOLE_PATIENCE, read=False, write=True):
                break
        else:
            raise RuntimeError("this system goes on connecting to a full listening queue")
        yield address
