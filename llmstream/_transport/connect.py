"""Makes a connected socket: name resolution, then a race of the addresses (see `race`).

The scope knows the socket before it connects, so that the connect clock, the total clock and a
cancel can end every wait here. Relies on a helper thread for `getaddrinfo`, which cannot be
interrupted.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError

from .._core.phase import Phase
from .._runtime.scope import CancelScope
from .._runtime.threads import spawn
from .race import first_connected, shut_down

__all__ = ["NotResolved", "SocketHandle", "attach", "connect", "resolve"]


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
        return cls(sock.dup(), is_own=True)

    def shutdown(self) -> None:
        shut_down(self._sock)

    def release(self) -> None:
        if self._is_own:
            self._sock.close()


class NotResolved(OSError):
    """The name `host` has no address, or could not be looked up."""

    def __init__(self, host: str, reason: OSError) -> None:
        super().__init__(*reason.args)
        self.host = host


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


@lru_cache(maxsize=64)
def _numeric(host: str, port: int) -> list[Any]:
    """The address of a host that is a numeric address. Raises socket.gaierror for a name."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


def resolve(host: str, port: int, scope: CancelScope) -> list[Any]:
    """The addresses of a host. getaddrinfo cannot be interrupted, so it runs in a daemon thread,
    which is abandoned if the scope is stopped. Raises NotResolved, Stopped."""
    try:
        return _numeric(host, port)
    except socket.gaierror:
        pass  # a name
    found: list[list[Any] | OSError] = []

    def look_up() -> None:
        try:
            found.append(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except OSError as exc:
            found.append(exc)
        except Exception as exc:  # usually UnicodeError; without a result the reader would hang
            found.append(socket.gaierror(socket.EAI_NONAME, f"not resolved ({type(exc).__name__})"))
        scope.wake()

    try:
        spawn(look_up, "resolver")
    except RuntimeError as exc:  # no further thread can be started
        raise OSError(str(exc)) from exc
    while not found:
        scope.pause(None)
    if isinstance(found[0], OSError):
        raise NotResolved(host, found[0]) from found[0]
    return found[0]
