"""A server that answers as the services do, as fast as the socket takes it or at a model's pace.

In a process of its own, so that its work is in no contender's figures: one thread, epoll, bytes
that were rendered beforehand. The path says which API it is, the model what is sent:

    fast-20000-16   20,000 tokens at once, 16 events in an HTTP chunk
    paced-100       the first token 200 ms after the request, then 50 a second, 100 in all; a
                    token's text is the moment (monotonic, ns) at which it was sent
    hold-1          one token, then nothing more: the answer stays open
    large-8388608   an event of 8 MB, in HTTP chunks of 16 KB

`GET /late` says by how much the paced tokens since the last such question left after their time,
which shows whether the server itself kept up.

With `--secure` it listens on a second port, with TLS: a certificate of an authority of its own
(trustme), which is the last of a file that has certifi's as well. A trust store of the usual size
is what costs a client its time.

Loopback only. Ends with its standard input, so with its parent at the latest.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import resource
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import wire

__all__ = ["FIRST_TOKEN", "PACE", "Address", "raise_file_limit", "running"]

FIRST_TOKEN = 0.2  # seconds from the request to the first token
PACE = 0.02  # seconds from token to token
_LIFETIME = 3 * 3600.0  # seconds after which the server ends whatever its parent does
_PIECE = 16384  # bytes in an HTTP chunk of a large event

_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Date: Tue, 22 Sep 2026 10:13:20 GMT\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n"
    b"Connection: keep-alive\r\n"
    b"Cache-Control: no-cache\r\n"
    b"x-request-id: req_0a1b2c3d4e5f60718293a4b5c6d7e8f9\r\n"
    b"openai-processing-ms: 187\r\n"
    b"\r\n"
)
_REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
_END = b"0\r\n\r\n"
_APIS = {path: api for api, path in wire.PATHS.items()}
# A socket that has nothing to read, or no room to write; ssl's are OSErrors too.
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Address(NamedTuple):
    """Where a load server listens, without a path: `secure` with TLS, "" without `--secure`.
    `trust` is the file of CA certificates to check it against."""

    plain: str
    secure: str = ""
    trust: str = ""


class Plan(NamedTuple):
    """What is sent at the request, then token by token, then at the end."""

    opening: bytes
    tokens: list[tuple[bytes, bytes]]  # what stands before and behind the moment of sending
    closing: bytes  # events, not yet in an HTTP chunk


@cache
def plan_for(api: str, model: str) -> Plan:
    """What a request gets. Raises ValueError for a model that says nothing."""
    mode, *rest = model.split("-")
    numbers = [int(number) for number in rest]
    if mode == "fast":
        tokens, each = numbers
        return _at_once(wire.chunked(wire.answer(api, tokens).events, each))
    if mode == "large":
        body = b"".join(wire.large_answer(api, numbers[0]).events)
        return _at_once([wire.frame(body[at : at + _PIECE]) for at in range(0, len(body), _PIECE)])
    if mode == "hold":
        held = wire.answer(api, numbers[0])
        return Plan(_HEAD + b"".join(wire.chunked([*held.opening, *held.tokens], 1)), [], b"")
    if mode == "paced":
        answer = wire.stamped(api, numbers[0])
        tokens_cut = [_cut(wire.frame(event)) for event in answer.tokens]
        opening = _HEAD + b"".join(wire.chunked(answer.opening, 1))
        return Plan(opening, tokens_cut, b"".join(answer.closing))
    raise ValueError(model)


def _at_once(chunks: list[bytes]) -> Plan:
    return Plan(_HEAD + b"".join(chunks) + _END, [], b"")


def _cut(chunk: bytes) -> tuple[bytes, bytes]:
    before, _, after = chunk.partition(wire.STAMP_BYTES)
    return before, after


class _Connection:
    """A client, the request it is sending, and what it has not taken yet."""

    __slots__ = ("closed", "number", "out", "plan", "received", "said", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.out = memoryview(b"")
        self.plan: Plan | None = None
        self.number = 0  # of the next token
        self.said: list[bytes] = []  # the tokens of a paced answer
        self.closed = False


class Server:
    """See the module."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self._contexts: dict[socket.socket, ssl.SSLContext | None] = {}
        self.port = self._listen(None)
        self.secure_port = 0 if context is None else self._listen(context)
        self._due: list[tuple[float, int, _Connection]] = []
        self._order = itertools.count()
        self._late: list[float] = []

    def _listen(self, context: ssl.SSLContext | None) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, listener)
        self._contexts[listener] = context
        port: int = listener.getsockname()[1]
        return port

    def serve(self, lifetime: float) -> None:
        """Until standard input ends, or for `lifetime` seconds."""
        self._selector.register(sys.stdin, selectors.EVENT_READ, "parent")
        until = time.monotonic() + lifetime
        while (now := time.monotonic()) < until:
            wait = min(until, self._due[0][0] if self._due else until) - now
            for key, mask in self._selector.select(max(0.0, wait)):
                if isinstance(key.data, socket.socket):
                    self._accept(key.data)
                elif key.data == "parent":
                    return
                elif mask & selectors.EVENT_READ:
                    self._receive(key.data)
                else:
                    self._flush(key.data)
            self._send_due()

    def _accept(self, listener: socket.socket) -> None:
        context = self._contexts[listener]
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if context is not None:  # the first `recv` begins the handshake
                    sock = context.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
                connection = _Connection(sock)
                self._selector.register(sock, selectors.EVENT_READ, connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except _NOT_NOW:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.received += data
        head, blank, body = connection.received.partition(b"\r\n\r\n")
        if blank and len(body) >= _content_length(head):
            connection.received = b""
            self._answer(connection, head.split(b" ", 2)[1].decode(), body)

    def _answer(self, connection: _Connection, path: str, body: bytes) -> None:
        came = time.monotonic()
        if path == "/late":
            late, self._late = sorted(self._late) or [0.0], []
            said = json.dumps({"p50": late[len(late) // 2], "p99": late[int(len(late) * 0.99)]})
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(said)}\r\n\r\n"
            self._send(connection, (head + said).encode())
            return
        try:
            plan = plan_for(_APIS[path], json.loads(body)["model"])
        except (KeyError, ValueError):
            self._send(connection, _REFUSAL)
            return
        connection.plan, connection.number, connection.said = plan, 0, []
        if plan.tokens:
            self._schedule(connection, came + FIRST_TOKEN)
        self._send(connection, plan.opening)

    def _schedule(self, connection: _Connection, at: float) -> None:
        heapq.heappush(self._due, (at, next(self._order), connection))

    def _send_due(self) -> None:
        due = self._due
        while due and due[0][0] <= time.monotonic():
            at, _, connection = heapq.heappop(due)
            if not connection.closed and connection.plan is not None:
                self._send_token(connection, connection.plan, at)

    def _send_token(self, connection: _Connection, plan: Plan, at: float) -> None:
        before, after = plan.tokens[connection.number]
        connection.number += 1
        more = connection.number < len(plan.tokens)
        if more:
            self._schedule(connection, at + PACE)
        now = time.monotonic_ns()
        self._late.append(now * 1e-9 - at)
        stamp = b"%019d" % now
        connection.said.append(stamp)
        data = b"%b%b%b" % (before, stamp, after)
        if not more:
            whole = b"".join([said + b" " for said in connection.said])
            closing = plan.closing.replace(wire.TEXT.encode(), whole)
            data += wire.frame(closing) + _END
        self._send(connection, data)

    def _send(self, connection: _Connection, data: bytes) -> None:
        if connection.out:
            connection.out = memoryview(bytes(connection.out) + data)
            return
        try:
            sent = connection.sock.send(data)
        except _NOT_NOW:
            sent = 0
        except OSError:
            self._close(connection)
            return
        if sent < len(data):
            connection.out = memoryview(data)[sent:]
            self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            connection.out = connection.out[connection.sock.send(connection.out) :]
        except _NOT_NOW:
            return
        except OSError:
            self._close(connection)
            return
        if not connection.out:
            self._selector.modify(connection.sock, selectors.EVENT_READ, connection)

    def _close(self, connection: _Connection) -> None:
        if not connection.closed:
            connection.closed = True
            self._selector.unregister(connection.sock)
            connection.sock.close()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def raise_file_limit() -> None:
    """As many descriptors as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A context for the server, and the file to check it against."""
    import certifi
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = folder / "trust.pem"
    trust.write_bytes(Path(certifi.where()).read_bytes() + b"\n" + authority.cert_pem.bytes())
    return context, trust


@contextlib.contextmanager
def running(*, secure: bool = False) -> Iterator[Address]:
    """A load server for as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), *(["--secure"] if secure else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            found = json.loads(process.stdout.readline())
            tls = f"https://127.0.0.1:{found['secure']}" if secure else ""
            yield Address(f"http://127.0.0.1:{found['port']}", tls, found["trust"])
        finally:
            process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lifetime", type=float, default=_LIFETIME, help="seconds")
    parser.add_argument("--secure", action="store_true", help="listen with TLS, too")
    arguments = parser.parse_args()
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="llmstream-bench-") as folder:
        context, trust = _certified(Path(folder)) if arguments.secure else (None, "")
        server = Server(context)
        listening = {"port": server.port, "secure": server.secure_port, "trust": str(trust)}
        print(json.dumps(listening), flush=True)
        server.serve(arguments.lifetime)


if __name__ == "__main__":
    main()
