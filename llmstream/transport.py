"""requests, urllib3 and http.client: open, read, finish. The one place where their exceptions, and
those of ssl and the operating system, are translated.

What is built on here (measured, requests 2.34, urllib3 2.8): the adapter is called directly, so
there are no redirects, no cookies and no `.netrc`; the socket is known from before it connects
(own connection classes, a documented hook of the pool); bodies are read through http.client's
`read1`, which delivers what has arrived of a chunk at once, chunked or not.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator, Mapping
from functools import lru_cache
from queue import Full, LifoQueue
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError, NewConnectionError

from ._core.dialects.base import WireRequest
from .errors import (
    ConfigurationError,
    ConnectionFailed,
    LLMStreamError,
    ProtocolError,
    StreamInterrupted,
)
from .watchdog import Guard, Stopped

__all__ = ["Exchange", "RequestsTransport", "Transport"]

_READ = 65536  # bytes asked for at once
# The reader's buffer. Small, because every open stream has one; 16 KiB is a full TLS record.
_BUFFER = 16384
_INTERIM = 20  # interim (1xx) answers passed over before the answer
_LEAST_CHUNK = 6  # bytes of a chunk with one byte in it, and the end of the one before
_TOGETHER = 65536  # bytes of a request that are copied to be sent at once
_DRAIN = 65536  # bytes read after the end of an answer to keep its connection


class Exchange(Protocol):
    """One request that was answered: status and headers are there, the body is to come.

    All methods are for the reader's thread. They raise Stopped when the guard was stopped, else
    the library's own errors only.
    """

    status: int

    @property
    def headers(self) -> Mapping[str, str]:
        """With lower-case names."""

    def read(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end of the body."""

    def finish(self) -> None:
        """The answer is complete: make the connection reusable if that costs little, else drop
        it. Never raises."""

    def close(self) -> None:
        """Drop the connection. Idempotent, never raises."""


class Transport(Protocol):
    """How requests get to a service. Thread-safe."""

    def open(self, request: WireRequest, guard: Guard) -> Exchange:
        """Send, and wait for the head of the answer. Raises like Exchange."""

    def close(self) -> None:
        """Close idle connections. The transport can still be used."""


# What the layers below raise for what happens on the network. Anything else that comes through
# here is the caller's, raised by a signal handler in the middle of a read, and is let through.
_FOREIGN: tuple[type[Exception], ...] = (
    OSError,  # the system's own, ssl's and requests'
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ValueError,  # http.client's and urllib3's parsing, encodings
)
_ENDINGS: tuple[type[Exception], ...] = (Stopped, *_FOREIGN)

# A peer that is gone without a word is noticed while nothing is sent: after 60 s, four probes, one
# every 15 s (the system's own default is two hours). The clocks are stricter; this holds for idle
# connections, and keeps middleboxes from forgetting a stream that thinks.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]

# ---- sockets that tell -------------------------------------------------------------------------

# The guard of the call that this thread is making: urllib3 gives no way to pass it down.
_current = threading.local()


class _Tap(io.RawIOBase):
    """Every blocking read of a response passes here: the clocks run exactly while it waits."""

    def __init__(self, raw: io.RawIOBase, guard: Guard) -> None:
        self._raw = raw
        self.guard = guard
        self.received = 0  # bytes of the last read
        self.dry = False  # say that there is nothing, without asking

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.dry:
            return None
        guard = self.guard
        guard.wait()
        received = 0
        try:
            received = self._raw.readinto(buffer) or 0
        finally:
            guard.woke(received)
        if not received:
            guard.eof = True
        self.received = received
        return received

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            super().close()


class _TappedSocket:
    """What http.client.HTTPResponse needs of a socket: its file."""

    def __init__(self, sock: Any, guard: Guard) -> None:
        self._sock = sock
        self._guard = guard

    def makefile(self, mode: str) -> io.BufferedReader:
        raw = self._sock.makefile(mode, buffering=0)
        return io.BufferedReader(_Tap(raw, self._guard), _BUFFER)


class _Response(http.client.HTTPResponse):
    """http.client's response, reading through the tap."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        guard: Guard = _current.guard
        super().__init__(_TappedSocket(sock, guard), *args, **kwargs)  # type: ignore[arg-type]
        _current.response = self

    def begin(self) -> None:
        super().begin()
        # http.client passes over 100 (Continue) only; 102 and 103 are no answers either
        # (RFC 9110, 15.2). 101 would be one to a question that was not asked.
        for _ in range(_INTERIM):
            if not 101 < self.status < 200:
                return
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        raise http.client.HTTPException("too many interim responses")


class _GuardedConnection(HTTPConnection):
    """A connection whose socket the guard knows from before it connects."""

    response_class = _Response

    def _new_conn(self) -> socket.socket:
        return _connect(self, _current.guard, tls=self._tls)

    _tls = False
    _fresh = False
    _gathered: list[Any] | None = None  # what is to be sent together

    def _tunnel(self) -> None:
        super()._tunnel()
        _current.guard.wait()  # reading the proxy's answer ended the wait; TLS is to come

    def connect(self) -> None:
        super().connect()
        self._fresh = True
        # The TLS wrapper now, where there is one. A wrapper that is no socket (TLS through a TLS
        # proxy) cannot be shut like one; the duplicate that `_connect` left can.
        if isinstance(self.sock, socket.socket):
            _current.guard.attach(self.sock)

    def request(self, *args: Any, **kwargs: Any) -> None:
        guard: Guard = _current.guard
        if self.sock is None:
            self.connect()
        elif not self._fresh:
            guard.reused = True
            # TLS inside the TLS of a proxy is no socket; the one below it is.
            guard.attach(getattr(self.sock, "socket", self.sock))
        self._fresh = False
        guard.asking("send")
        gathered: list[Any] = []
        self._gathered = gathered
        try:
            super().request(*args, **kwargs)
        finally:
            self._gathered = None
        for data in _joined(gathered):
            self.send(data)
        guard.asking("headers")

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
        self.poolmanager.pool_classes_by_scheme = _POOLS

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
            manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS = {"http": _Pool, "https": _TLSPool}


# ---- connecting --------------------------------------------------------------------------------


def _connect(conn: HTTPConnection, guard: Guard, tls: bool) -> socket.socket:
    """A connected socket. The connect clock covers all addresses together; each one gets an equal
    share of what is left, so that one that does not answer cannot use it up."""
    host = conn._dns_host
    try:
        addresses = _resolve(host, conn.port, guard)
    except OSError as exc:
        error = exc if isinstance(exc, socket.gaierror) else socket.gaierror(*exc.args)
        raise NameResolutionError(host, conn, error) from exc
    failure: OSError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            _try_address(sock, address, conn, guard, len(addresses) - index)
            guard.attach(sock, duplicate=tls)
            if tls:
                guard.enter("tls")
        except OSError as exc:
            sock.close()
            guard.check()  # it failed because it was shut
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise NewConnectionError(conn, f"no address of {host} answered") from failure


def _try_address(
    sock: socket.socket, address: Any, conn: HTTPConnection, guard: Guard, left: int
) -> None:
    guard.attach(sock)
    for option in conn.socket_options or ():
        sock.setsockopt(*option)
    for level, option, value in _KEEPALIVE:
        sock.setsockopt(level, option, value)
    remaining = guard.clocks.at - guard.clock.monotonic()
    # The last address has a little more than is left: the guard is to end it, and does where
    # shutdown() wakes a connect (Linux); elsewhere the timeout does, and the guard says why.
    share = remaining / left if left > 1 else remaining + 0.25
    sock.settimeout(max(0.001, share) if share < 1e6 else None)
    if conn.source_address:
        sock.bind(conn.source_address)
    sock.connect(address)
    # From here on only the guard ends a wait: it knows five clocks, a socket knows none of them.
    sock.settimeout(None)


@lru_cache(maxsize=64)
def _numeric(host: str, port: int) -> list[Any]:
    """The address that a host in digits is."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


def _resolve(host: str, port: int, guard: Guard) -> list[Any]:
    """The addresses of a host. getaddrinfo cannot be interrupted: it runs in a daemon thread that
    is left behind when the guard stops the call. Raises OSError, Stopped."""
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
        except Exception as exc:  # above all UnicodeError; whatever it is, nobody may wait for it
            found.append(socket.gaierror(socket.EAI_NONAME, f"not resolved ({type(exc).__name__})"))
        guard.nudge()

    try:
        threading.Thread(target=look_up, name="llmstream-resolver", daemon=True).start()
    except RuntimeError as exc:  # no more threads to be had
        raise OSError(str(exc)) from exc
    while not found:
        guard.pause(None)
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


# ---- the transport -----------------------------------------------------------------------------


_instances: weakref.WeakSet[RequestsTransport] = weakref.WeakSet()


def _after_fork() -> None:
    for transport in list(_instances):
        transport._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
        self._lock = threading.Lock()  # guards _adapter and _pid
        self._adapter: _Adapter = _Adapter(max_connections)
        self._pid = os.getpid()
        _instances.add(self)

    def open(self, request: WireRequest, guard: Guard) -> Exchange:
        error: LLMStreamError | None = None
        # An observer that is told of a phase, or a signal handler, may make a call of its own.
        outer = getattr(_current, "guard", None), getattr(_current, "response", None)
        try:
            return self._open(request, guard)
        except _FOREIGN as exc:
            guard.check()
            error = _translate(exc, guard, request)
            cause = _bare(exc)
        except (Stopped, LLMStreamError):
            raise
        except BaseException as exc:
            # Out of a signal handler. The frames of requests and urllib3 hold the key and the
            # prompt, and error reporters show what frames hold.
            raise exc.with_traceback(None)  # noqa: B904
        finally:
            _current.guard, _current.response = outer
        # Outside the handler, so that the foreign exception, which holds the request and its
        # key, is not chained.
        raise error from cause

    def _open(self, request: WireRequest, guard: Guard) -> Exchange:
        prepared = requests.Request(
            request.method,
            request.url,
            headers=request.headers,
            data=request.body or None,
            # A user and password in the URL must not replace a key.
            auth=_as_it_is if "authorization" in request.headers else None,
        ).prepare()
        url = prepared.url or ""
        _current.guard = guard
        _current.response = None
        response = self._for_this_process().send(
            prepared,
            stream=True,
            timeout=None,
            verify=_certificates() if self._verify is True else self._verify,
            proxies={} if _is_loopback(url) else requests.utils.get_environ_proxies(url),
        )
        exchange = _HTTPExchange(response, _current.response, guard)
        if guard.eof:
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


class _HTTPExchange:
    """See Exchange. `body` is http.client's response, None under a test double of requests."""

    def __init__(self, response: requests.Response, body: _Response | None, guard: Guard) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.headers.items()
        }
        self._raw = response.raw
        self._guard = guard
        encoded = self.headers.get("content-encoding", "identity") not in ("", "identity")
        # urllib3 knows how to decode; we asked for identity, so it seldom has to.
        self._body = None if encoded else body
        self._http = body

    def read(self) -> bytes:
        error: LLMStreamError | None = None
        guard = self._guard
        try:
            data = self._read()
            if data or guard.stop_reason is None:
                return data
            raise Stopped  # the clean end of a close-delimited body was a shutdown
        except _FOREIGN as exc:
            guard.check()
            error = _translate(exc, guard, None)
            cause = _bare(exc)
        raise error from cause

    def _read(self) -> bytes:
        body = self._body
        if body is None:
            data: bytes = self._raw.read1(_READ, decode_content=True)
            return data
        data = body.read1(_READ)
        if not data and body.length:
            raise http.client.IncompleteRead(b"", body.length)
        if data and body.chunked and body.chunk_left == 0 and body.fp is not None:
            more = _chunks_ahead(body.fp, len(data))
            if more:
                return b"".join((data, *more))
        return data

    def finish(self) -> None:
        """Read to the end of the body if it is near, and give the connection back."""
        try:
            left = _DRAIN
            while left > 0 and (data := self._read()):
                left -= len(data)
            ended = left > 0 and self._guard.stop_reason is None
        except _ENDINGS:
            ended = False
        self._guard.detach()
        if ended:
            # First this, then the connection: another thread may take it at once.
            with contextlib.suppress(*_FOREIGN):
                if self._http is not None:
                    self._http.close()
                self._raw.release_conn()
        self.close()

    def close(self) -> None:
        self._guard.detach()
        # Closing a broken connection fails in as many ways as it can break.
        with contextlib.suppress(*_FOREIGN):
            self._raw.close()


def _chunks_ahead(file: Any, had: int) -> list[bytes]:
    """The chunks (RFC 9112, 7.1) that have arrived whole behind one that has been read, of `had`
    bytes. http.client would hand them out one at a time, at 2 us each; they are read exactly as it
    does, and whatever is not plain (extensions, the last chunk, trailers) is left to it."""
    tap: _Tap = file.raw
    if tap.received - had < _LEAST_CHUNK:
        return []  # there was no more in it
    tap.dry = True  # or an empty buffer would be filled, and that may block
    try:
        ahead: bytes = file.peek()
    finally:
        tap.dry = False
    found: list[bytes] = []
    at = 0
    while ahead.startswith(b"\r\n", at):  # the end of the chunk before
        end = ahead.find(b"\n", at + 2)
        try:
            size = int(ahead[at + 2 : end], 16)
        except ValueError:
            break
        start = end + 1
        if end < 0 or size <= 0 or start + size > len(ahead):
            break
        at = start + size
        found.append(ahead[start:at])
    if at:
        file.read(at)
    return found


# ---- translation -------------------------------------------------------------------------------


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An exception and everything it was raised from or wraps."""
    seen: set[int] = set()
    queue: list[Any] = [exc]
    while queue:
        found = queue.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            queue += [*found.args, getattr(found, "reason", None), found.__cause__]
            queue.append(found.__context__)


def _find(exc: BaseException, *kinds: type[BaseException]) -> Any:
    return next((e for e in _chain(exc) if isinstance(e, kinds)), None)


def _bare(exc: BaseException) -> OSError | None:
    """The operating system's own error, without the frames and objects that hung on it."""
    found = _os_error(exc)
    return None if found is None else OSError(*found.args[:2])


def _os_error(exc: BaseException) -> OSError | None:
    # requests' exceptions are OSErrors too, and wrap the real one.
    foreign = (requests.RequestException, LLMStreamError)
    found = [e for e in _chain(exc) if isinstance(e, OSError) and not isinstance(e, foreign)]
    return found[-1] if found else None


_CALLERS_MISTAKE: tuple[type[Exception], ...] = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidProxyURL,
    urllib3.exceptions.LocationValueError,
    UnicodeError,
)


def _translate(exc: Exception, guard: Guard, request: WireRequest | None) -> LLMStreamError:
    """A foreign exception as ours. The message is our own: theirs may show headers and URLs."""
    if request is not None and guard.bytes == 0:
        mistake = _callers_mistake(exc, request)
        if mistake is not None:
            return mistake
    if guard.bytes == 0 or guard.phase in ("connect", "tls"):
        return _not_connected(exc, guard)
    if _is_garbage(exc, guard):
        return ProtocolError(
            f"what the server sent is not HTTP as it should be ({_why(exc)}) in phase "
            f"{guard.phase!r}: look for a broken proxy, or a wrong base_url"
        )
    return StreamInterrupted(
        f"the connection was lost in phase {guard.phase!r} after {guard.bytes} bytes "
        f"({_why(exc)}): what arrived is in .partial"
    )


def _callers_mistake(exc: Exception, request: WireRequest) -> ConfigurationError | None:
    if isinstance(exc, FileNotFoundError) or (
        isinstance(exc, OSError) and "CA certificate" in str(exc)
    ):
        return ConfigurationError(
            "the CA certificates to verify with cannot be read: check verify= and "
            "REQUESTS_CA_BUNDLE"
        )
    if not isinstance(exc, _CALLERS_MISTAKE):
        return None
    if isinstance(exc, (requests.exceptions.InvalidHeader, UnicodeError)):
        return ConfigurationError(
            "a header or the API key holds a character that HTTP does not allow (a line end at "
            "the end of the key?)"
        )
    return ConfigurationError(
        f"base_url does not make a usable address ({type(exc).__name__}): give it like "
        "'https://api.openai.com/v1'"
    )


def _not_connected(exc: Exception, guard: Guard) -> ConnectionFailed:
    certificate = _find(exc, ssl.SSLCertVerificationError)
    if certificate is not None:
        error = ConnectionFailed(
            "the server's certificate was not accepted "
            f"({certificate.verify_message or 'verification failed'}): behind a company proxy, "
            "point REQUESTS_CA_BUNDLE or verify= to its CA file"
        )
        error.retryable = False
        return error
    name = _find(exc, socket.gaierror)
    if name is not None:
        return ConnectionFailed(
            f"the host's name could not be resolved ({_why(exc)}): check base_url and the network"
        )
    how = "a reused connection" if guard.reused else "the connection"
    if guard.phase in ("connect", "tls"):
        return ConnectionFailed(
            f"no connection to the server ({_why(exc)}): is it running, are base_url and the "
            "proxy settings right?"
        )
    return ConnectionFailed(
        f"{how} was lost in phase {guard.phase!r}, before any byte of the answer ({_why(exc)})",
        reused=guard.reused,
    )


def _is_garbage(exc: Exception, guard: Guard) -> bool:
    """Not a cut: the bytes themselves are wrong."""
    if guard.eof or _os_error(exc) is not None:
        return False
    kinds = (http.client.HTTPException, ValueError, urllib3.exceptions.DecodeError)
    return _find(exc, *kinds) is not None


def _why(exc: BaseException) -> str:
    """The innermost reason in a few words, without addresses, headers or bodies."""
    found = _os_error(exc)
    if found is not None:
        return f"{type(found).__name__}: {found.strerror or 'no further reason'}"
    inner = _find(exc, http.client.HTTPException) or exc
    return type(inner).__name__
