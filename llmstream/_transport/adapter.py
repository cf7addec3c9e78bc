"""requests, urllib3 and http.client: open, read, finish. The one place where their exceptions, and
those of ssl and the operating system, are translated.

What is built on here (measured, requests 2.34, urllib3 2.8): the adapter is called directly, so
there are no redirects, no cookies and no `.netrc`; the socket is known from before it connects
(own connection classes, a documented hook of the pool); bodies are read through http.client's
`read1`, which delivers what has arrived of a chunk at once, chunked or not.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from .._core.request import HTTPRequest
from .._runtime.fork import renew_in_child
from .._runtime.scope import CancelScope, Stopped
from .._runtime.threads import Lock
from ..result import LLMStreamError
from .base import Response
from .http import HTTPResponse, current
from .pool import POOLS
from .translate import FOREIGN, bare, translate

__all__ = ["RequestsTransport"]


class _Adapter(HTTPAdapter):
    """requests' adapter on the pools above. urllib3 retries what never reached the service, the
    set-up of the connection, once and at once; everything else is retried in the client's loop."""

    def __init__(self, idle: int) -> None:
        retries = urllib3.Retry(
            total=None,
            connect=1,
            read=0,
            redirect=0,
            status=0,
            other=0,
            backoff_factor=0,
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        super().__init__(max_retries=retries, pool_maxsize=idle, pool_block=False)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def close_connections(self) -> None:
        """Close what is idle now: urllib3 leaves it to the garbage collector, which may be held up
        by any traceback."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in list(manager.pools.keys()):
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        if isinstance(manager, urllib3.ProxyManager) and type(manager) is urllib3.ProxyManager:
            manager.pool_classes_by_scheme = POOLS
        return manager


# ---- the transport -----------------------------------------------------------------------------


class RequestsTransport:
    """Transport over requests and urllib3, with a pool of its own.

    `max_connections` is how many idle connections are kept; more may be open at once, nobody ever
    waits for one. `verify` is True (the system's or `REQUESTS_CA_BUNDLE`'s certificates), a path
    to a CA file, or False. Proxies come from the environment. Safe to use from many threads and
    after a fork.
    """

    def __init__(self, *, max_connections: int = 100, verify: bool | str = True) -> None:
        self._idle = max_connections
        self._verify = verify
        self._lock = Lock()  # guards _adapter and _pid
        self._adapter: _Adapter = _Adapter(max_connections)
        self._pid = os.getpid()
        renew_in_child(self, _lock=Lock)

    def send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        error: LLMStreamError | None = None
        # An observer that is told of a phase, or a signal handler, may make a call of its own.
        outer = getattr(current, "scope", None), getattr(current, "response", None)
        try:
            return self._send(request, scope)
        except FOREIGN as exc:
            scope.check()
            error = translate(exc, scope, request)
            cause = bare(exc)
        except (Stopped, LLMStreamError):
            raise
        except BaseException as exc:
            # Out of a signal handler. The frames of requests and urllib3 hold the key and the
            # prompt, and error reporters show what frames hold.
            raise exc.with_traceback(None)  # noqa: B904
        finally:
            current.scope, current.response = outer
        # Outside the handler, so that the foreign exception, which holds the request and its
        # key, is not chained.
        raise error from cause

    def _send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        prepared = requests.Request(
            request.method,
            request.url,
            headers=request.headers,
            data=request.body or None,
            # A user and password in the URL must not replace a key.
            auth=_as_it_is if "authorization" in request.headers else None,
        ).prepare()
        url = prepared.url or ""
        current.scope = scope
        current.response = None
        response = self._for_this_process().send(
            prepared,
            stream=True,
            timeout=None,
            verify=_certificates() if self._verify is True else self._verify,
            proxies={} if _is_loopback(url) else requests.utils.get_environ_proxies(url),
        )
        exchange = HTTPResponse(response, current.response, scope)
        if scope.eof:
            # http.client takes an end of file among the headers for their end.
            exchange.close()
            raise http.client.IncompleteRead(b"")
        return exchange

    def _for_this_process(self) -> HTTPAdapter:
        # A TLS connection that two processes use breaks in both: a child starts anew, and leaves
        # the parent's sockets alone.
        with self._lock:
            if self._pid != os.getpid():
                self._adapter = _Adapter(self._idle)
                self._pid = os.getpid()
            return self._adapter

    def close(self) -> None:
        if self._pid == os.getpid():
            self._adapter.close_connections()
            self._adapter.close()


def _as_it_is(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _certificates() -> bool | str:
    """As requests' sessions have it."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


@lru_cache(maxsize=64)
def _is_loopback(url: str) -> bool:
    """A server on this very machine is never asked for through a proxy, which could not reach it,
    and would see the prompt (the rule of Go's ProxyFromEnvironment)."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
