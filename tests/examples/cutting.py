"""A TCP proxy that cuts connections in the middle of an answer."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable

from support import PATIENCE, RawServer

__all__ = ["CuttingProxy"]

_EVENT_STREAM = re.compile(rb"^content-type: *text/event-stream.*?\r\n\r\n", re.I | re.M | re.S)
_END = b"\n\n"  # of an event
_DATA = re.compile(rb"^data:", re.M)
_AT_ONCE = struct.pack("ii", 1, 0)


class CuttingProxy:
    """Between browsers and a server; one request a connection.

    `cuts` has, for each response of events in turn, the number of events after which its connection
    ends; without one left it does not. Comments do not count: whether one comes before an event
    depends on who is faster, and a page that is brought nothing many times waits longer each time.
    For the same reason a connection is reset only where it has brought nothing: a reset takes away
    what the browser has not read.

    A body that is not whole is an error to the browser, and Chromium then drops what the page has
    not read of it: the events of a connection that is cut in their very moment are often lost. With
    `looks_whole` they are not: the server is asked in HTTP/1.0, where a body ends with its
    connection, so that a cut looks like the end.

    `served` lists where these responses came from. `route` chooses the server's port by the
    request's first line.
    """

    def __init__(self, route: Callable[[str], int]) -> None:
        self.cuts: list[int] = []
        self.looks_whole = False
        self.served: list[int] = []
        self._route = route
        self._server = RawServer(self._serve)
        self.url = self._server.url

    def _serve(self, browser: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = browser.recv(65_536)
            if not piece:
                return  # a connection that the browser has opened in advance
            head += piece
        head = head.replace(b"Connection: keep-alive\r\n", b"Connection: close\r\n", 1)
        if self.looks_whole:
            head = head.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
        port = self._route(head.partition(b"\r\n")[0].decode())
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as server:
            server.sendall(head)
            up = threading.Thread(target=_copy, args=(browser, server), name="cutting-proxy")
            up.start()
            is_reset = False
            try:
                is_reset = self._answer(server, browser, port)
            finally:
                # A thread that reads a socket holds it open: it has to leave before the close.
                with contextlib.suppress(OSError):
                    browser.shutdown(socket.SHUT_RD)
                up.join()
                if is_reset:  # without lingering: the connection ends with a reset
                    browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                browser.close()

    def _answer(self, server: socket.socket, browser: socket.socket, port: int) -> bool:
        """Hand on the response, to its end or to where it is cut. Returns whether none was."""
        data, left = b"", None
        is_known = False
        while piece := server.recv(65_536):
            data += piece
            if not is_known and b"\r\n\r\n" in data:
                is_known = True
                if found := _EVENT_STREAM.search(data):
                    self.served.append(port)
                    left = self.cuts.pop(0) if self.cuts else None
                    if left == 0:
                        return True
                    browser.sendall(data[: found.end()])
                    data = data[found.end() :]
            while left is not None and _END in data:
                event, _, data = data.partition(_END)
                browser.sendall(event + _END)
                left -= _DATA.search(event) is not None
                if left == 0:
                    return False
            if is_known and left is None:
                browser.sendall(data)
                data = b""
        browser.sendall(data)
        return False

    def close(self) -> None:
        self._server.close()
        if self._server.errors:
            raise self._server.errors[0]


def _copy(source: socket.socket, target: socket.socket) -> None:
    source.settimeout(4 * PATIENCE)
    with contextlib.suppress(OSError):
        while piece := source.recv(65_536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
