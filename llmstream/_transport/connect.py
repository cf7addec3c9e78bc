"""Makes a connected socket: name resolution (see `lookup`), then a race of the addresses (see
`race`).

The scope knows the socket before it connects, so that the connect clock, the total clock and a
cancel can end every wait here.
"""

from __future__ import annotations

import socket
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError

from .._core.phase import Phase
from .._runtime.scope import CancelScope
from .lookup import resolve
from .race import first_connected, shut_down

__all__ = ["SocketHandle", "attach", "connect"]


class SocketHandle:
    """A socket as a scope knows it (`_runtime.scope.Connection`). `is_own`: `release` closes it."""

    __slots__ = ("_is_own", "_sock")

    def __init__(self, sock: socket.socket, *, is_own: bool = False) -> None:
        self._sock = sock
        self._is_own = is_own

    @classmethod
    def duplicate(cls, sock: socket.socket) -> SocketHandle:
        """A handle with a descriptor of its own. Wrapping a socket in TLS detaches the descriptor
        of the original, and the wrapper is not available before its handshake has ended."""
        # Not `sock.dup()`: an interrupt in the middle of it would lose the new descriptor. Here,
        # the interpreter makes one call, and its result is an object, which closes itself.
        kind: Any = socket.SocketType
        if not isinstance(sock, kind):  # gevent's
            return cls(sock.dup(), is_own=True)
        descriptor = map(socket.dup, [sock.fileno()])
        return cls(
            *map(kind, [sock.family], [sock.type], [sock.proto], descriptor),
            is_own=True,
        )

    def shutdown(self) -> None:
        shut_down(self._sock)

    def release(self) -> None:
        if self._is_own:
            self._sock.close()


def connect(conn: HTTPConnection, host: str, port: int, scope: CancelScope) -> socket.socket:
    """A connected socket, with the options of `conn`. The connect clock covers all addresses
    together. Raises Stopped, NotResolved and urllib3's connection errors."""
    addresses = resolve(host, port, scope)
    try:
        return first_connected(addresses, conn, scope)
    except OSError as exc:
        raise NewConnectionError(conn, f"no address of {host} answered") from exc


def attach(sock: socket.socket, scope: CancelScope, tls: bool) -> socket.socket:
    """The connected socket, attached to the scope for what comes next: TLS or the request."""
    try:
        if tls:
            scope.attach(SocketHandle.duplicate(sock))
            scope.enter(Phase.TLS)
        else:
            scope.attach(SocketHandle(sock))
    except BaseException:
        sock.close()
        raise
    return sock
