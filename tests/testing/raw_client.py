"""A client on raw sockets: what the tests of the scripted server share."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Any

import pytest
import requests

from llmstream.testing import Cut, Drip, LLMServer, Pause, Pings, Reply, Silence, connection

PATH = "/v1/responses"
# Seconds within which the server has to notice a client's close. It takes 1 ms, and 2 s where the
# machine lets a thread wait; nothing else ends a wait of the server before 10 s.
NOTICED = 5.0
BIG = b"x" * 16_000_000  # more than the kernel's buffers of a connection hold

# what the server is doing when the client leaves -> the reply that keeps it at it
BUSY = {
    "silent before the head": Reply(before=[Silence()]),
    "silent": Reply([b"a", Silence()]),
    "pausing": Reply([b"a", Pause(60)]),
    "delaying": Reply(delay=60),
    "waiting to ping": Reply([b"a", Pings(60)]),
    "dripping": Reply([Drip(b"abc", every=60)]),
    "dripping in a chunk": Reply([Drip(b"abc", every=60, one_chunk=True)]),
    "sending": Reply([BIG]),
    "sending without chunks": Reply([BIG], framing="close"),
    "idle": Reply([b"a"]),
    "closing": Reply([b"a"], framing="close"),
    "cut": Reply([b"a", Cut()]),
}


def bench_threads(but: Collection[threading.Thread] = ()) -> list[str]:
    """The threads of scripted servers; not those of another test's, which may just end."""
    ours = [t for t in threading.enumerate() if t not in but]
    return [t.name for t in ours if t.name.startswith(connection.THREAD_NAME)]


def address(server: LLMServer) -> tuple[str, int]:
    host, port = server.url.rpartition("/")[2].split(":")
    return host, int(port)


@contextlib.contextmanager
def dialled(server: LLMServer) -> Iterator[socket.socket]:
    """A connected client socket, over TLS when the server speaks it."""
    with socket.create_connection(address(server), timeout=5) as plain:
        if server.ca_file is None:
            yield plain
            return
        context = ssl.create_default_context(cafile=server.ca_file)
        with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            yield wrapped


def post(sock: socket.socket, body: bytes = b"{}", *fields: str, path: str = PATH) -> None:
    head = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *fields]
    sock.sendall("\r\n".join([*head, "", ""]).encode() + body)


def read_to_end(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := sock.recv(65536):
        received += data
    return bytes(received)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    received = bytearray()
    while not received.endswith(end):
        data = sock.recv(1)
        assert data, f"the connection ended after {bytes(received)!r}"
        received += data
    return bytes(received)


def read_to_reset(sock: socket.socket) -> bytes:
    """The bytes before the reset, which must follow.

    Python's ssl before 3.11.9 and 3.12.3 shows a reset as an end of file: there the kernel is
    asked, whose state is CLOSE (7) after a reset and CLOSE_WAIT (8) after a FIN.
    """
    received = bytearray()
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        return bytes(received)
    if not isinstance(sock, ssl.SSLSocket) or sys.platform != "linux":
        pytest.fail("the connection ended without a reset")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x07"
    return bytes(received)


def body_of(server: LLMServer, *replies: Any, **head: Any) -> bytes:
    """What the client receives after the head, to the end of the connection."""
    server.script(Reply(replies, **head))
    with dialled(server) as sock:
        post(sock, b"{}", "Connection: close")
        return read_to_end(sock).partition(b"\r\n\r\n")[2]


def ask(server: LLMServer, **body: Any) -> requests.Response:
    return requests.post(server.base_url + "/responses", json=body, verify=server.ca_file)


def decode(blocks: list[bytes]) -> list[dict[str, Any]]:
    """The events of SSE blocks, checked for their form."""
    events = []
    for block in blocks:
        name, data, *rest = block.decode().split("\n")
        assert rest == ["", ""]
        event: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def decode_stream(body: bytes) -> list[dict[str, Any]]:
    return decode([block + b"\n\n" for block in body.split(b"\n\n")[:-1]])


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
