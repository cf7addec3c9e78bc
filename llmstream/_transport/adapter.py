"""The transport over requests and urllib3: sends a request and returns its response.

What it relies on (measured with requests 2.34 and urllib3 2.8): requests' adapter finds the pool
and the settings for an address, once for each route; a request goes to the pool directly, so there
are no redirects, no cookies and no `.netrc`; the connections are of a class of our own (a
documented hook of the pool, see `pool`), so their sockets are known before they connect; bodies are
read through http.client's `read1`, which returns at once what has arrived, chunked or not (see
`http`). Exceptions of the libraries are translated in `translate`.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Mapping
from functools import partial
from queue import Empty
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3
from msgspec import Struct
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool

from .._core.request import HTTPRequest
from .._runtime.clock import SYSTEM_CLOCK, Clock
from .._runtime.fork import process_number
from .._runtime.gate import GATE
from .._runtime.scope import CancelScope, Stopped
from ..result import LLMStreamError
from . import mocks
from .base import Response
from .detour import BARRIERS, DETOURS, detoured
from .http import RequestsResponse, current
from .pool import Idle, pools
from .proxy import refusal_of
from .route import Route, route_of
from .socks import check_installed
from .tls import Certificate, Contexts, SharedContext, Verify
from .translate import FOREIGN, bare_cause, refused, translate

__all__ = ["RequestsTransport"]


# What a pool needs no more where it has a context. Else each connection would load it once more.
_FILES = ("ca_certs", "ca_cert_dir", "cert_file", "key_file")


class _TLS(Struct, frozen=True):
    """The contexts of a call: for whom the request is for (a proxy that forwards it, too), and for
    a proxy. None where there is no TLS."""

    service: SharedContext | None = None
    proxy: SharedContext | None = None


_NO_TLS = _TLS()

# urllib3 retries nothing: `_call.retrying` makes all retries, and one attempt is one connect.
_NO_RETRIES = urllib3.Retry(
    total=None,
    connect=0,
    read=0,
    redirect=0,
    status=0,
    other=0,
    backoff_factor=0,
    raise_on_status=False,
    respect_retry_after_header=False,
)
_NO_TIMEOUT = urllib3.Timeout(None)  # the scope has the clocks
_MAX_WAYS = 64  # that an adapter remembers


class _Way(Struct, frozen=True):
    """How urllib3 is asked for an address. `target` is without the query, which may contain a key:
    urllib3 writes it to its log. The connection appends it. `fields` are the headers that come from
    the address."""

    pool: HTTPConnectionPool
    target: str
    query: str
    fields: dict[str, str]


class _Adapter(HTTPAdapter):
    """requests' adapter with the pools of `pool`. It finds the pool and its settings for an
    address; what follows does not need it."""

    def __init__(self, max_connections: int, idle: Idle) -> None:
        self._idle = idle
        super().__init__(max_retries=_NO_RETRIES, pool_maxsize=max_connections, pool_block=False)
        self._ways: dict[tuple[str, Route, _TLS], _Way] = {}

    def way(self, url: str, route: Route, tls: _TLS) -> _Way:
        """The way to an address. It is found anew where its proxy or certificates have changed."""
        key = url, route, tls
        way = self._ways.get(key)
        if way is None or way.pool.pool is None:  # closed
            if len(self._ways) >= _MAX_WAYS:
                self._ways.clear()
            way = self._ways[key] = self._find_way(url, route)
        return way

    def _find_way(self, url: str, route: Route) -> _Way:
        prepared = requests.Request("POST", url).prepare()
        proxies = route.proxies
        pool = self.get_connection_with_tls_context(prepared, route.trust.verify, proxies)
        target, mark, query = self.request_url(prepared, proxies).partition("?")
        fields = {"host": _host_field(str(prepared.url))}
        credentials = prepared.headers.get("authorization")  # requests makes it of the address
        if credentials is not None:
            fields["authorization"] = str(credentials)
        return _Way(cast(HTTPConnectionPool, pool), target, mark + query, fields)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = pools(self._idle)

    def close_connections(self) -> None:
        """Close the idle connections now. urllib3 leaves that to the garbage collector, which any
        traceback that refers to them delays."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in list(manager.pools.keys()):
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()

    def forget(self, context: SharedContext) -> None:
        """No call uses this context any more: close the idle connections that were made with it."""
        for way in list(self._ways):
            if context in (way[2].service, way[2].proxy):
                self._ways.pop(way, None)
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in list(manager.pools.keys()):
                if key.key_ssl_context is context:
                    with contextlib.suppress(KeyError, Empty):
                        # Without closing the pool: a call may just be about to use it. What comes
                        # back to it later is closed with it, by the garbage collector.
                        idle = manager.pools.pop(key).pool
                        while idle is not None:
                            idle.get(block=False).close()

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        tls: _TLS = current.tls
        if tls.proxy is not None:
            before = self.proxy_manager.get(proxy)
            if before is not None and before.proxy_config.ssl_context is not tls.proxy:
                self.proxy_manager.pop(proxy, None)  # a file of certificates has changed
            kwargs["proxy_ssl_context"] = tls.proxy
            if not tls.proxy.check_hostname:
                kwargs["proxy_assert_hostname"] = False
        manager = super().proxy_manager_for(proxy, **kwargs)
        is_http = isinstance(manager, urllib3.ProxyManager)
        manager.pool_classes_by_scheme = pools(self._idle, socks=not is_http)
        return manager

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        """Give the pool the client's own SSLContext, with which urllib3 reads no file of
        certificates."""
        pool: dict[str, Any]
        host, pool = super().build_connection_pool_key_attributes(*args, **kwargs)  # type: ignore[assignment]
        tls: _TLS = current.tls
        if tls.service is not None:
            for name in _FILES:
                pool.pop(name, None)
            pool["ssl_context"] = tls.service
            pool["cert_reqs"] = tls.service.verify_mode
            if not tls.service.check_hostname:
                pool["assert_hostname"] = False  # else urllib3 would check it by itself
        return host, pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The SSLContext of the pool has all of it. urllib3 would read the files once more."""


class RequestsTransport:
    """A Transport over requests and urllib3, with a connection pool of its own.

    `max_connections` is the number of idle connections that are kept (default 100). More may be
    open at the same time: no call ever waits for a connection. One that is idle for longer than
    `idle_timeout` seconds (by `clock`; None: without a limit) is not used again.

    `verify` is True (the certificates of certifi, or those that a variable names, see
    `tls.trust_of`), a path to a CA file or folder, False, or an SSLContext; `cert` is the client's
    own certificate. `proxies` is a dict as requests takes it; what it does not say is taken from
    the environment. With `trust_env=False` nothing is: no proxy and no CA file.

    Thread-safe, also after a fork.
    """

    def __init__(
        self,
        *,
        max_connections: int = 100,
        idle_timeout: float | None = 60.0,
        verify: Verify = True,
        cert: Certificate | None = None,
        proxies: Mapping[str, str | None] | None = None,
        trust_env: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._pool_settings = max_connections, Idle(clock, idle_timeout)
        self._verify = verify
        self._cert = cert
        self._contexts = Contexts()
        self._proxies = proxies
        self._trust_env = trust_env
        # The adapter by the number of its process: one at most. Each access is atomic, so a signal
        # handler may come in between.
        self._adapters = {process_number(): _Adapter(*self._pool_settings)}

    def send(self, request: HTTPRequest, scope: CancelScope, *, direct: bool = False) -> Response:
        """As `Transport.send`. `direct`: past the detours, which are for tests."""
        if DETOURS and not direct:
            return detoured(partial(self.send, direct=True), request, scope)
        error: LLMStreamError | None = None
        cause: OSError | None = None
        # An observer that is notified of a phase, or a signal handler, may make a call of its own.
        outer = current.scope, current.query, current.tls
        route = Route("the server")
        try:
            GATE.enter(scope)
            route = route_of(request.url, self._verify, self._proxies, self._trust_env)
            return self._send(request, scope, route)
        except LLMStreamError as exc:  # some are OSErrors too
            error = exc  # its frames may show the user and password of a proxy
        except FOREIGN as exc:
            scope.check()
            error = mocks.unanswered(exc) or translate(exc, scope, request, route)
            cause = bare_cause(exc)
        except Stopped:
            raise
        except BaseException as exc:
            # Raised by a signal handler, or by a double of HTTP. The frames of requests and urllib3
            # contain the key and the prompt, and error reporters show the variables of frames.
            error = mocks.unanswered(exc)
            if error is None:
                raise exc.with_traceback(None)  # noqa: B904
        finally:
            GATE.leave(scope)
            current.scope, current.query, current.tls = outer
        # Outside the handler, so that the foreign exception, which refers to the request and its
        # key, is not chained.
        raise error.with_traceback(None) from cause

    def _send(self, request: HTTPRequest, scope: CancelScope, route: Route) -> Response:
        proxy = route.proxy
        if proxy is not None and proxy.is_socks:
            check_installed(proxy)
        current.scope = scope
        current.query = ""
        current.tls = tls = self._tls_of(route) if route.has_tls else _NO_TLS
        adapter = self._for_this_process()
        if mocks.are_active():
            raw = mocks.send(adapter, request, route, self._cert)
        else:
            for barrier in BARRIERS:
                barrier.check(request.url, route)
            raw = _exchange(adapter.way(request.url, route, tls), request)
        response = RequestsResponse(raw, scope, route)
        if scope.eof:
            # An end of file among the headers is their end, as in http.client.
            response.close()
            raise http.client.IncompleteRead(b"")
        if not route.tunnels:
            refusal = refusal_of(response.status, response.headers)
            if refusal is not None:
                response.close()
                raise refused(refusal, route)
        return response

    def _tls_of(self, route: Route) -> _TLS:
        """Raises ConfigurationError for files that cannot be used."""
        proxy = None
        if route.proxy is not None and route.proxy.is_secure:
            # The certificate is for the service only.
            proxy = self._contexts.of(route.trust, None, self._forget)
        if not route.secure:
            return _TLS(proxy, proxy)
        return _TLS(self._contexts.of(route.trust, self._cert, self._forget), proxy)

    def _forget(self, context: SharedContext) -> None:
        adapter = self._adapters.get(process_number())
        if adapter is not None:
            adapter.forget(context)

    def _for_this_process(self) -> _Adapter:
        # A TLS connection that two processes use breaks in both. So a forked child makes new
        # connections, and does not close the parent's sockets.
        pid = process_number()
        found = self._adapters.get(pid)
        if found is None:
            for parent in list(self._adapters):
                self._adapters.pop(parent, None)
            found = self._adapters.setdefault(pid, _Adapter(*self._pool_settings))
        return found

    def keep_at_least(self, connections: int) -> None:
        """From now on keep so many idle connections, if `max_connections` is less."""
        idle = self._pool_settings[1]
        idle.least = max(idle.least, connections)

    def close(self) -> None:
        adapter = self._adapters.get(process_number())
        if adapter is not None:
            adapter.close_connections()
            adapter.close()


def _host_field(url: str) -> str:
    """The value of the field Host (RFC 9110, section 7.2)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host.partition('%')[0]}]"
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return host if parts.port in (None, default) else f"{host}:{parts.port}"


def _exchange(way: _Way, request: HTTPRequest) -> Any:
    """Send the request and return urllib3's response."""
    target = way.target
    if mocks.is_recorded():
        target += way.query  # the recording is compared with all of it
    else:
        current.query = way.query
    fields = {**way.fields, **request.headers}
    if request.body or request.method == "POST":
        fields["content-length"] = str(len(request.body))
    return way.pool.urlopen(
        request.method,
        target,
        body=request.body,
        headers=fields,
        retries=_NO_RETRIES,
        redirect=False,
        assert_same_host=False,
        timeout=_NO_TIMEOUT,
        preload_content=False,
        decode_content=False,
    )
