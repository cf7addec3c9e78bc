"""Translates foreign exceptions (of requests, urllib3, http.client, ssl, the operating system) into
the library's own. The only place that does so.

Messages are written here, never copied, because foreign messages may contain headers and URLs.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import requests
import urllib3

from .._core.phase import Phase
from .._core.request import HTTPRequest
from .._runtime.scope import CancelScope, Stopped
from ..errors import ConfigurationError, ConnectionFailed, StreamInterrupted
from ..result import LLMStreamError, ProtocolError

__all__ = ["ENDINGS", "FOREIGN", "bare_cause", "translate"]

# What the layers below raise for whatever happens on the network. Any other exception was raised by
# a signal handler of the caller's in the middle of a read, and is not caught.
FOREIGN: tuple[type[Exception], ...] = (
    OSError,  # the system's own, ssl's and requests'
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ValueError,  # of http.client's and urllib3's parsing, and of encodings
)
ENDINGS: tuple[type[Exception], ...] = (Stopped, *FOREIGN)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An exception and all exceptions that it was raised from or wraps."""
    visited: set[int] = set()
    queue: list[Any] = [exc]
    while queue:
        found = queue.pop(0)
        if isinstance(found, BaseException) and id(found) not in visited:
            visited.add(id(found))
            yield found
            queue += [*found.args, getattr(found, "reason", None), found.__cause__]
            queue.append(found.__context__)


def _find(exc: BaseException, *kinds: type[BaseException]) -> Any:
    return next((e for e in _chain(exc) if isinstance(e, kinds)), None)


def bare_cause(exc: BaseException) -> OSError | None:
    """The operating system's error behind `exc`, copied without frames and objects; None if there
    is none."""
    found = _os_error(exc)
    return None if found is None else OSError(*found.args[:2])


def _os_error(exc: BaseException) -> OSError | None:
    # requests' exceptions are OSErrors too, but they wrap the system's.
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


_CONNECTING = (Phase.CONNECT, Phase.TLS)


def translate(exc: Exception, scope: CancelScope, request: HTTPRequest | None) -> LLMStreamError:
    """A foreign exception as one of the library's. `request` is None while the body is read."""
    if request is not None and scope.bytes == 0:
        mistake = _callers_mistake(exc, request)
        if mistake is not None:
            return mistake
    if scope.bytes == 0 or scope.phase in _CONNECTING:
        return _not_connected(exc, scope)
    if _is_garbage(exc, scope):
        return ProtocolError(
            f"the server's response is not valid HTTP ({_reason(exc)}) in phase {scope.phase!r}: "
            "check for a broken proxy or a wrong base_url"
        )
    return StreamInterrupted(
        f"the connection was lost in phase {scope.phase!r} after {scope.bytes} bytes "
        f"({_reason(exc)}): what arrived is in .partial"
    )


def _callers_mistake(exc: Exception, request: HTTPRequest) -> ConfigurationError | None:
    if isinstance(exc, FileNotFoundError) or (
        isinstance(exc, OSError) and "CA certificate" in str(exc)
    ):
        return ConfigurationError(
            "the file of CA certificates cannot be read: check verify= and REQUESTS_CA_BUNDLE"
        )
    if not isinstance(exc, _CALLERS_MISTAKE):
        return None
    if isinstance(exc, (requests.exceptions.InvalidHeader, UnicodeError)):
        return ConfigurationError(
            "a header or the API key contains a character that HTTP does not allow (is there a "
            "line end at the end of the key?)"
        )
    return ConfigurationError(
        f"base_url is not a usable address ({type(exc).__name__}): pass one like "
        "'https://api.openai.com/v1'"
    )


def _not_connected(exc: Exception, scope: CancelScope) -> ConnectionFailed:
    certificate = _find(exc, ssl.SSLCertVerificationError)
    if certificate is not None:
        error = ConnectionFailed(
            "the server's certificate was not accepted "
            f"({certificate.verify_message or 'verification failed'}): behind a company proxy, "
            "set REQUESTS_CA_BUNDLE or verify= to the proxy's CA file"
        )
        error.retryable = False
        return error
    name = _find(exc, socket.gaierror)
    if name is not None:
        return ConnectionFailed(
            f"the name of the host could not be resolved ({_reason(exc)}): check base_url and the "
            "network"
        )
    which = "a reused connection" if scope.reused else "the connection"
    if scope.phase in _CONNECTING:
        return ConnectionFailed(
            f"no connection to the server ({_reason(exc)}): is it running, and are base_url and "
            "the proxy settings correct?"
        )
    return ConnectionFailed(
        f"{which} was lost in phase {scope.phase!r}, before any byte of the response arrived "
        f"({_reason(exc)})",
        reused=scope.reused,
    )


def _is_garbage(exc: Exception, scope: CancelScope) -> bool:
    """Whether the bytes themselves are wrong, not their end."""
    if scope.eof or _os_error(exc) is not None:
        return False
    kinds = (http.client.HTTPException, ValueError, urllib3.exceptions.DecodeError)
    return _find(exc, *kinds) is not None


def _reason(exc: BaseException) -> str:
    """The innermost reason in a few words, without addresses, headers or bodies."""
    found = _os_error(exc)
    if found is not None:
        return f"{type(found).__name__}: {found.strerror or 'no further reason'}"
    inner = _find(exc, http.client.HTTPException) or exc
    return type(inner).__name__
