"""Connections whose socket the scope knows from before it connects, and pools of them."""

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

_TOGETHER = 65536  # bytes of a request that are copied to be sent at once


class _GuardedConnection(HTTPConnection):
    """A connection whose socket the scope knows from before it connects."""

    response_class = ReportingResponse

    def _new_conn(self) -> socket.socket:
        return connect(self, current.scope, tls=self._tls)

    _tls = False
    _fresh = False
    _gathered: list[Any] | None = None  # what is to be sent together

    def _tunnel(self) -> None:
        super()._tunnel()
        current.scope.begin_wait()  # reading the proxy's answer ended the wait; TLS is to come

    def connect(self) -> None:
        super().connect()
        self._fresh = True
        # The TLS wrapper now, where there is one. A wrapper that is no socket (TLS through a TLS
        # proxy) cannot be shut like one; the duplicate that `connect` left can.
        if isinstance(self.sock, socket.socket):
            current.scope.attach(SocketHandle(self.sock))

    def request(self, *args: Any, **kwargs: Any) -> None:
        scope: CancelScope = current.scope
        if self.sock is None:
            self.connect()
        elif not self._fresh:
            scope.reused = True
            # TLS inside the TLS of a proxy is no socket; the one below it is.
            scope.attach(SocketHandle(getattr(self.sock, "socket", self.sock)))
        self._fresh = False
        scope.sending()
        gathered: list[Any] = []
        self._gathered = gathered
        try:
            super().request(*args, **kwargs)
        finally:
            self._gathered = None
        for data in _joined(gathered):
            self.send(data)
        scope.awaiting_response()

    def send(self, data: Any) -> None:
        if self._gathered is None:
            super().send(data)
        else:
            self._gathered.append(data)


def _joined(pieces: list[Any]) -> list[Any]:
    """Head and body of a request as one piece, unless it is large: http.client sends them one by
    one, and without Nagle's algorithm each is a packet, for which the server wakes up."""
    if sum(map(len, pieces)) > _TOGETHER:
        return pieces
    return [b"".join(pieces)]


class _GuardedTLSConnection(_GuardedConnection, HTTPSConnection):
    _tls = True


class _IdleQueue(LifoQueue):  # type: ignore[type-arg]
    """Idle connections. The pool grows with use; what does not fit back in is closed without the
    warning that urllib3 would log."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            super().put(item, block=False)
        except Full:
            if item is not None:
                item.close()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _GuardedConnection
    QueueCls = _IdleQueue


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTLSConnection
    QueueCls = _IdleQueue


POOLS = {"http": _Pool, "https": _TLSPool}
