"""The transport over requests and urllib3: sends a request and returns its response.

What it relies on (measured with requests 2.34 and urllib3 2.8): requests' adapter is called
directly, so there are no redirects, no cookies and no `.netrc`; the connections are of a class of
our own (a documented hook of the pool, see `pool`), so their sockets are known before they connect;
bodies are read through http.client's `read1`, which returns at once what has arrived, chunked or
not (see `http`). Exceptions of the libraries are translated in `translate`.
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
from .http import RequestsResponse, current
from .pool import POOLS
from .translate import FOREIGN, bare_cause, translate

__all__ = ["RequestsTransport"]


class _Adapter(HTTPAdapter):
    """requests' adapter with the pools of `pool`. urllib3 retries only the set-up of a connection,
    once and at once, because nothing has reached the service by then. `_call.retrying` makes all
    other retries."""

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
        """Close the idle connections now. urllib3 leaves that to the garbage collector, which any
        traceback that refers to them delays."""
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


class RequestsTransport:
    """A Transport over requests and urllib3, with a connection pool of its own.

    `max_connections` is the number of idle connections that are kept (default 100). More may be
    open at the same time: no call ever waits for a connection. `verify` is True (the certificates
    of certifi, or the file in `REQUESTS_CA_BUNDLE`), a path to a CA file, or False. Proxies are
    taken from the environment. Thread-safe, also after a fork.
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
        # An observer that is notified of a phase, or a signal handler, may make a call of its own.
        outer = getattr(current, "scope", None), getattr(current, "response", None)
        try:
            return self._send(request, scope)
        except FOREIGN as exc:
            scope.check()
            error = translate(exc, scope, request)
            cause = bare_cause(exc)
        except (Stopped, LLMStreamError):
            raise
        except BaseException as exc:
            # Raised by a signal handler. The frames of requests and urllib3 contain the key and the
            # prompt, and error reporters show the variables of frames.
            raise exc.with_traceback(None)  # noqa: B904
        finally:
            current.scope, current.response = outer
        # Outside the handler, so that the foreign exception, which refers to the request and its
        # key, is not chained.
        raise error from cause

    def _send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        prepared = requests.Request(
            request.method,
            request.url,
            headers=request.headers,
            data=request.body or None,
            # requests must not replace a key by the user and password of the URL.
            auth=_unchanged if "authorization" in request.headers else None,
        ).prepare()
        url = prepared.url or ""
        current.scope = scope
        current.response = None
        sent = self._for_this_process().send(
            prepared,
            stream=True,
            timeout=None,
            verify=_certificates() if self._verify is True else self._verify,
            proxies={} if _is_loopback(url) else requests.utils.get_environ_proxies(url),
        )
        response = RequestsResponse(sent, current.response, scope)
        if scope.eof:
            # http.client treats an end of file among the headers as their end.
            response.close()
            raise http.client.IncompleteRead(b"")
        return response

    def _for_this_process(self) -> HTTPAdapter:
        # A TLS connection that two processes use breaks in both. So a forked child makes new
        # connections, and does not close the parent's sockets.
        with self._lock:
            if self._pid != os.getpid():
                self._adapter = _Adapter(self._idle)
                self._pid = os.getpid()
            return self._adapter

    def close(self) -> None:
        if self._pid == os.getpid():
            self._adapter.close_connections()
            self._adapter.close()


def _unchanged(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _certificates() -> bool | str:
    """The CA file of the environment, as in requests' sessions; else requests' default."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


@lru_cache(maxsize=64)
def _is_loopback(url: str) -> bool:
    """Whether the server is on this machine. Such a server is never reached through a proxy, which
    could not connect to it and would see the prompt (as in Go's ProxyFromEnvironment)."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
