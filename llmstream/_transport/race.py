"""Connects to a host that has several addresses, of which some may not answer: RFC 8305, "Happy
Eyeballs".

IPv6 and IPv4 take turns. The next address is tried when the one before has failed, or has not
answered for 250 ms; it goes on meanwhile, and the first connection counts. So a broken IPv6 costs
a quarter of a second. All of it is done by the calling thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from itertools import zip_longest
from typing import Any

from urllib3.connection import HTTPConnection

from .._runtime.readable import connected_or_failed
from .._runtime.scope import CancelScope

__all__ = ["first_connected", "in_turns", "shut_down"]

_MOST_NAMED = 8  # addresses that an error names
_DELAY = 0.25  # seconds; RFC 8305, section 8, Connection Attempt Delay

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


def shut_down(sock: socket.socket) -> None:
    """End every wait on a socket. Never raises: where it fails, the socket is not connected or is
    closed, and no thread is blocked in it."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        # Not SSLSocket.shutdown: that drops the TLS layer, and a reader that reads once more
        # would take encrypted bytes for plain ones.
        plain: Any = socket.SocketType
        kind = plain if isinstance(sock, plain) else socket.socket  # gevent's
        kind.shutdown(sock, socket.SHUT_RDWR)


def in_turns(addresses: list[Any]) -> list[Any]:
    """The addresses (of getaddrinfo) in the order in which they are tried: that of the system, with
    the families in turn."""
    families: dict[Any, list[Any]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    if len(families) < 2:
        return addresses
    rows = zip_longest(*families.values())
    return [address for row in rows for address in row if address is not None]


def first_connected(
    addresses: list[Any], conn: HTTPConnection, scope: CancelScope
) -> socket.socket:
    """A socket that is connected to one of the addresses, with the options of `conn`; the connect
    clock covers all of them together. The scope knows it. Raises Stopped, and OSError if none of
    them can be reached."""
    race = _Race(conn, scope)
    winner: socket.socket | None = None
    try:
        scope.attach(race)
        winner = race.run(deque(in_turns(addresses)))
        # From here on only the scope ends a wait, because a socket knows none of the five clocks.
        winner.settimeout(None)
        return winner
    finally:
        race.leave(winner)


class _Race:
    """The sockets of one connect, as the scope knows them (`_runtime.scope.Connection`). Those that
    have failed stay open until the end: the scope may be about to shut one down, and its number
    must not belong to another stream then."""

    def __init__(self, conn: HTTPConnection, scope: CancelScope) -> None:
        self._conn = conn
        self._scope = scope
        self._sockets: list[socket.socket] = []
        self._hosts: dict[socket.socket, str] = {}  # of those that are waited for
        self._failures: list[tuple[str, OSError]] = []
        # Where shutdown() does not wake a connect (elsewhere than on Linux) the bell does.
        self._bell: socket.socket | None = None
        self._rope: socket.socket | None = None

    @property
    def _sock(self) -> socket.socket | None:
        """The one begun last, under the name that it has in a SocketHandle."""
        return self._sockets[-1] if self._sockets else None

    def shutdown(self) -> None:
        for sock in tuple(self._sockets):
            shut_down(sock)
        if self._rope is not None:
            shut_down(self._rope)

    def release(self) -> None:
        pass

    def run(self, left: deque[Any]) -> socket.socket:
        """The first socket that is connected. Raises Stopped and OSError. A family of addresses
        that the kernel does not have is a failure like any other: the next one is tried."""
        waiting: list[socket.socket] = []
        while left or waiting:
            if left:
                found = self._begin(left, waiting)
                if isinstance(found, socket.socket):
                    return found
                if found is not None:
                    continue
            ready = self._wait(waiting, self._patience(left))
            if not ready and not left:
                for sock in waiting:
                    self._failures.append((self._hosts[sock], TimeoutError("timed out")))
                break
            for sock in ready:
                waiting.remove(sock)
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not number:
                    return sock
                self._failures.append((self._hosts[sock], OSError(number, os.strerror(number))))
        raise self._failure()

    def _failure(self) -> OSError:
        """Why there is no connection: the last reason, or, of several addresses, the reason of
        each."""
        if not self._failures:
            return OSError("no address")
        _, last = self._failures[-1]
        if len(self._failures) == 1:
            return last
        reasons = [f"{host}: {exc.strerror or exc}" for host, exc in self._failures[:_MOST_NAMED]]
        if (left := len(self._failures) - _MOST_NAMED) > 0:
            reasons.append(f"{left} more")
        # With its number it is of the class that stands for the last reason.
        number = last.errno
        text = "; ".join(reasons)
        return OSError(number, text) if number is not None else type(last)(text)

    def _begin(
        self, left: deque[Any], waiting: list[socket.socket]
    ) -> socket.socket | OSError | None:
        """Begin to connect to the next address. Returns the socket if it is connected, why it
        cannot be, or None if it is among the waiting ones."""
        family, kind, protocol, _, address = left.popleft()
        try:
            sock = self._socket(family, kind, protocol)
            # While nothing else is under way, a plain wait does, without a selector.
            sock.settimeout(0.0 if waiting else self._patience(left))
            sock.connect(address)
        except BlockingIOError:
            waiting.append(sock)
            self._hosts[sock] = str(address[0])
            return None
        except OSError as exc:
            self._check(ended=isinstance(exc, TimeoutError))
            if isinstance(exc, TimeoutError) and exc.errno is None and left:
                waiting.append(sock)  # it goes on; with a number the system has given up
                self._hosts[sock] = str(address[0])
            else:
                self._failures.append((str(address[0]), exc))
            return exc
        return sock

    def _socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        sock = socket.socket(family, kind, protocol)
        self._sockets.append(sock)
        self._scope.check()  # a scope that was stopped before does not know the socket
        for option in self._conn.socket_options or ():
            sock.setsockopt(*option)
        for level, option, value in _KEEPALIVE:
            sock.setsockopt(level, option, value)
        if self._conn.source_address:
            sock.bind(self._conn.source_address)
        return sock

    def _patience(self, left: deque[Any]) -> float | None:
        """How long to wait before the next step, in seconds. At the end a little more than the time
        that is left: the scope should end the wait, and does so where shutdown() wakes a connect.
        Elsewhere the timeout ends it, and the scope has the reason."""
        remaining = self._scope.timers.at - self._scope.clock.monotonic()
        if left:
            return max(0.001, min(_DELAY, remaining))
        return max(0.001, remaining + 0.25) if remaining < 1e6 else None

    def _wait(self, waiting: list[socket.socket], seconds: float | None) -> list[socket.socket]:
        """Those that are connected or have failed. Raises Stopped."""
        if self._bell is None:
            self._bell, self._rope = socket.socketpair()
        self._scope.check()  # a scope that was stopped before has not pulled the rope
        ready = connected_or_failed(waiting, self._bell, seconds)
        self._check(ended=not ready)
        return ready

    def _check(self, *, ended: bool) -> None:
        """Raises Stopped where the scope has ended the wait. Where the wait has `ended` by itself,
        the clocks are looked at: whoever watches them may come later than this thread, when the
        machine stands still."""
        if ended:
            self._scope.tick(self._scope.clock.monotonic())
        self._scope.check()

    def leave(self, winner: socket.socket | None) -> None:
        """Close all others."""
        if winner is not None and len(self._sockets) == 1:
            return
        self._scope.detach()
        for sock in (*self._sockets, self._bell, self._rope):
            if sock is not None and sock is not winner:
                sock.close()
