"""Connections whose socket the scope of the call knows before it connects, and pools of them.

Relies on two documented hooks of urllib3's pools, `ConnectionCls` and `QueueCls`, and on
`http.current`, the call that the thread is making.
"""

from __future__ import annotations

import socket
from queue import Full, LifoQueue
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .._runtime.scope import CancelScope
from .connect import SocketHandle, connect
from .http import ReportingResponse, current

__all__ = ["POOLS"]

_MAX_JOINED = 65536  # bytes of a request that are copied to be sent in one piece


class _ScopedConnection(HTTPConnection):
    """A connection that attaches its socket to the scope before it connects, and reports the phases
    of a request to it."""

    response_class = ReportingResponse

    def _new_conn(self) -> socket.socket:
        return connect(self, current.scope, tls=self._tls)

    _tls = False
    _is_new = False  # connected, and not used by a request yet
    _pieces: list[Any] | None = None  # of the request that is being written

    def _tunnel(self) -> None:
        super()._tunnel()
        current.scope.begin_wait()  # reading the proxy's response ended the wait; TLS follows

    def connect(self) -> None:
        super().connect()
        self._is_new = True
        # With TLS this is the wrapper. A wrapper that is not a socket (TLS through a TLS proxy)
        # cannot be shut down like one; the duplicate that `connect` has attached can.
        if isinstance(self.sock, socket.socket):
            current.scope.attach(SocketHandle(self.sock))

    def request(self, *args: Any, **kwargs: Any) -> None:
        scope: CancelScope = current.scope
        if self.sock is None:
            self.connect()
        elif not self._is_new:
            scope.reused = True
            # TLS inside the TLS of a proxy is not a socket; the socket below it is.
            scope.attach(SocketHandle(getattr(self.sock, "socket", self.sock)))
        self._is_new = False
        scope.sending()
        pieces: list[Any] = []
        self._pieces = pieces
        try:
            super().request(*args, **kwargs)
        finally:
            self._pieces = None
        for data in _joined(pieces):
            self.send(data)
        scope.awaiting_response()

    def send(self, data: Any) -> None:
        if self._pieces is None:
            super().send(data)
        else:
            self._pieces.append(data)


def _joined(pieces: list[Any]) -> list[Any]:
    """Head and body of a request as one piece, unless they are large. http.client sends them
    separately, and without Nagle's algorithm each becomes a packet that wakes up the server."""
    if sum(map(len, pieces)) > _MAX_JOINED:
        return pieces
    return [b"".join(pieces)]


class _ScopedTLSConnection(_ScopedConnection, HTTPSConnection):
    _tls = True


class _IdleQueue(LifoQueue):  # type: ignore[type-arg]
    """The idle connections of a pool. A connection that finds it full is closed, without the
    warning that urllib3 would log: more connections than it has places may be open."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            super().put(item, block=False)
        except Full:
            if item is not None:
                item.close()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _ScopedConnection
    QueueCls = _IdleQueue


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _ScopedTLSConnection
    QueueCls = _IdleQueue


POOLS = {"http": _Pool, "https": _TLSPool}
