"""Connections whose socket the scope of the call knows before it connects, and pools of them.

Relies on two documented hooks of urllib3's pools, `ConnectionCls` and `QueueCls`, and on
`http.current`, the call that the thread is making.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections import deque
from collections.abc import Mapping
from functools import partial
from queue import Empty
from typing import Any

from msgspec import Struct
from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .._runtime.clock import Clock
from .._runtime.gate import GATE
from .._runtime.scope import CancelScope
from .connect import SocketHandle, attach, connect
from .head import request_head
from .http import ReportingResponse, current
from .mocks import is_recorded, recorded
from .proxy import ProxyRefused
from .socks import connect_through_socks

__all__ = ["Idle", "pools"]

_REFUSAL = re.compile(r"Tunnel connection failed: (\d+)")  # http.client's words
_MAX_JOINED = 65536  # bytes of a request that are copied to be sent in one piece


class _ScopedConnection(HTTPConnection):
    """A connection that attaches its socket to the scope before it connects, and reports the phases
    of a request to it."""

    response_class: type[ReportingResponse] = ReportingResponse

    def _new_conn(self) -> socket.socket:
        scope: CancelScope = current.scope
        GATE.leave(scope)
        return attach(connect(self, self._dns_host, self.port, scope), scope, self._tls)

    _tls = False
    _is_new = False  # connected, and not used by a request yet
    _sent = ("", "")  # method and address of the request, as urllib3 gave them

    def _tunnel(self) -> None:
        refusal = None
        try:
            super()._tunnel()
        except OSError as exc:
            found = _REFUSAL.match(str(exc))
            if found is None:
                raise
            refusal = ProxyRefused.by_status(int(found[1]))
        if refusal is not None:
            # Outside the handler: the proxy's own words, which may repeat anything, are not
            # chained.
            raise refusal
        current.scope.begin_wait()  # reading the proxy's response ended the wait; TLS follows

    def connect(self) -> None:
        super().connect()
        self._is_new = True
        # With TLS this is the wrapper. A wrapper that is not a socket (TLS through a TLS proxy)
        # cannot be shut down like one; the duplicate that `connect` has attached can.
        if isinstance(self.sock, socket.socket):
            current.scope.attach(SocketHandle(self.sock))

    def request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Send a request in one piece; `headers` are all of them. http.client would send head and
        body separately, and without Nagle's algorithm each becomes a packet that wakes the server.
        `options` are those of urllib3's response."""
        scope: CancelScope = current.scope
        if self.sock is None:
            self.connect()
        elif not self._is_new:
            scope.reused = True
            # TLS inside the TLS of a proxy is not a socket; the socket below it is.
            scope.attach(SocketHandle(getattr(self.sock, "socket", self.sock)))
        self._is_new = False
        if scope.listener is not None:
            GATE.leave(scope)  # it is called with the next phase
        scope.sending()
        GATE.enter(scope)
        self._sent = method, url
        head = request_head(method, url + current.query, headers or {})
        GATE.leave(scope)
        if body and len(body) > _MAX_JOINED:
            self.send(head)
            self.send(body)
        else:
            self.send(head + body if body else head)
        scope.awaiting_response()

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """The response, as soon as its head has arrived."""
        method, url = self._sent
        response = self.response_class(self.sock, method=method)
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        if response.will_close:
            self.close()  # the response holds the socket
        return HTTPResponse(
            body=response,
            headers=HTTPHeaderDict(response.fields) if is_recorded() else None,  # VCR.py reads them
            status=response.status,
            version=response.version,
            version_string="HTTP/1.0" if response.version == 10 else "HTTP/1.1",
            reason=response.reason,
            preload_content=False,
            decode_content=False,
            original_response=response,
            request_method=method,
            request_url=url,
        )


class _ScopedTLSConnection(_ScopedConnection, HTTPSConnection):
    _tls = True


class _SocksConnection(_ScopedConnection):
    """Through a SOCKS proxy. `_socks_options` are those of urllib3's SOCKSProxyManager."""

    def __init__(self, _socks_options: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._socks_options = _socks_options

    def _new_conn(self) -> socket.socket:
        GATE.leave(current.scope)
        return connect_through_socks(self, self._socks_options, current.scope, self._tls)


class _SocksTLSConnection(_SocksConnection, _ScopedTLSConnection):
    pass


class Idle(Struct):
    """How long a connection may be idle, in seconds, and the clock; None: without a limit. `least`:
    so many idle connections are kept, if the pool has fewer places: one for each worker of a batch.

    Balancers and NATs forget a connection that is idle for some minutes, many without a word: what
    is sent on it is lost, and the call waits for its first token until the clock breaks."""

    clock: Clock
    timeout: float | None = None
    least: int = 0

    def since(self) -> tuple[float, float]:
        """Now. By both clocks: on some systems the monotonic one stands while a machine sleeps."""
        clock = self.clock
        return clock.monotonic(), clock.time()

    def is_over(self, since: tuple[float, float]) -> bool:
        limit, clock = self.timeout, self.clock
        return limit is not None and (
            clock.monotonic() - since[0] >= limit or clock.time() - since[1] >= limit
        )


class _IdleQueue:
    """The idle connections of a pool: what urllib3 uses of a LifoQueue. A connection that finds it
    full replaces the one that was used longest ago, without the warning that urllib3 would log:
    more connections than it has places may be open. One that was idle for too long is closed when
    another call looks for a connection, or gives one back.

    Each step is one operation of a deque, because a LifoQueue has a lock, which an interrupt leaves
    held, and at which a call in a signal handler waits for ever."""

    def __init__(self, maxsize: int, limit: Idle) -> None:
        self._places = maxsize
        self._limit = limit
        # Each connection with the moment since which it is idle: the last one was used last.
        self._idle: deque[tuple[Any, tuple[float, float]]] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if item is None:  # urllib3's mark for a connection that may be made: here, any may
            return
        idle, limit = self._idle, self._limit
        idle.append((item, limit.since()))
        places = max(self._places, limit.least)
        if len(idle) == 1 and places and limit.timeout != 0.0:
            return  # there is no older one
        with contextlib.suppress(IndexError):  # another thread has taken it
            while len(idle) > places or limit.is_over(idle[0][1]):
                idle.popleft()[0].close()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            while True:
                item, since = self._idle.pop()
                if not self._limit.is_over(since):
                    return item
                item.close()
        except IndexError:
            raise Empty from None

    def qsize(self) -> int:
        return len(self._idle)


class _Pool(HTTPConnectionPool):
    _connection: type[HTTPConnection] = _ScopedConnection

    def __init__(self, *args: Any, idle: Idle, **kwargs: Any) -> None:
        self._idle = idle
        super().__init__(*args, **kwargs)

    def QueueCls(self, maxsize: int = 0) -> Any:  # type: ignore[override]  # noqa: N802 (urllib3's name)
        return _IdleQueue(maxsize, self._idle)

    @property
    def ConnectionCls(self) -> Any:  # type: ignore[override]  # noqa: N802 (urllib3's name)
        return recorded(HTTPConnectionPool.ConnectionCls, self._connection)


class _TLSPool(HTTPSConnectionPool):
    _connection: type[HTTPConnection] = _ScopedTLSConnection

    def __init__(self, *args: Any, idle: Idle, **kwargs: Any) -> None:
        self._idle = idle
        super().__init__(*args, **kwargs)

    def QueueCls(self, maxsize: int = 0) -> Any:  # type: ignore[override]  # noqa: N802
        return _IdleQueue(maxsize, self._idle)

    @property
    def ConnectionCls(self) -> Any:  # type: ignore[override]  # noqa: N802
        return recorded(HTTPSConnectionPool.ConnectionCls, self._connection)


class _SocksPool(_Pool):
    _connection = _SocksConnection


class _SocksTLSPool(_TLSPool):
    _connection = _SocksTLSConnection


def pools(idle: Idle, *, socks: bool = False) -> dict[str, Any]:
    """What makes the pools of a client, by scheme, as urllib3's managers take it."""
    plain, tls = (_SocksPool, _SocksTLSPool) if socks else (_Pool, _TLSPool)
    return {"http": partial(plain, idle=idle), "https": partial(tls, idle=idle)}
