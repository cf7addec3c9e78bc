"""Makes a connected socket: name resolution, one address after the other, keepalive.

The scope knows the socket before it connects, so that the connect clock, the total clock and a
cancel can end every wait here. Relies on a helper thread for `getaddrinfo`, which cannot be
interrupted.
"""

from __future__ import annotations

import contextlib
import socket
from functools import lru_cache
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError

from .._core.phase import Phase
from .._runtime.scope import CancelScope
from .._runtime.threads import spawn

__all__ = ["NotResolved", "SocketHandle", "attach", "connect", "resolve"]

# A peer that has disappeared is noticed although nothing is sent: after 60 s without data the
# system sends four probes, 15 s apart (its own default is two hours). The clocks are stricter; this
# is for idle connections, and keeps middleboxes from dropping a stream while the model thinks.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]


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
        # It fails if the socket is not connected or is closed: then no thread is blocked in it.
        with contextlib.suppress(OSError, ValueError, TypeError):
            # Not SSLSocket.shutdown: that drops the TLS layer, and a reader that reads once more
            # would take encrypted bytes for plain ones.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

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
    together. Each address gets an equal share of the time that is left, so that one that does not
    answer cannot use up all of it. Raises Stopped, NotResolved and urllib3's connection errors."""
    addresses = resolve(host, port, scope)
    failure: OSError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            _try_address(sock, address, conn, scope, len(addresses) - index)
        except OSError as exc:
            if sock is not None:
                sock.close()
            scope.check()  # it may have failed because the scope shut it down
            failure = exc
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        else:
            return sock
    raise NewConnectionError(conn, f"no address of {host} answered") from failure


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


def _try_address(
    sock: socket.socket, address: Any, conn: HTTPConnection, scope: CancelScope, left: int
) -> None:
    scope.attach(SocketHandle(sock))
    for option in conn.socket_options or ():
        sock.setsockopt(*option)
    for level, option, value in _KEEPALIVE:
        sock.setsockopt(level, option, value)
    remaining = scope.timers.at - scope.clock.monotonic()
    # The last address gets a little more than the time that is left: the scope should end the wait,
    # and does so where shutdown() wakes a connect (Linux). Elsewhere the timeout ends it, and the
    # scope has the reason.
    share = remaining / left if left > 1 else remaining + 0.25
    sock.settimeout(max(0.001, share) if share < 1e6 else None)
    if conn.source_address:
        sock.bind(conn.source_address)
    sock.connect(address)
    # From here on only the scope ends a wait, because a socket knows none of the five clocks.
    sock.settimeout(None)


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
