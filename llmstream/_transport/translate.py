"""Foreign exceptions (requests, urllib3, http.client, ssl, the system) as the library's own."""

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

__all__ = ["ENDINGS", "FOREIGN", "bare", "translate"]

# What the layers below raise for what happens on the network. Anything else that comes through
# here is the caller's, raised by a signal handler in the middle of a read, and is let through.
FOREIGN: tuple[type[Exception], ...] = (
    OSError,  # the system's own, ssl's and requests'
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ValueError,  # http.client's and urllib3's parsing, encodings
)
ENDINGS: tuple[type[Exception], ...] = (Stopped, *FOREIGN)


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


def bare(exc: BaseException) -> OSError | None:
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


_CONNECTING = (Phase.CONNECT, Phase.TLS)


def translate(exc: Exception, scope: CancelScope, request: HTTPRequest | None) -> LLMStreamError:
    """A foreign exception as ours. The message is our own: theirs may show headers and URLs."""
    if request is not None and scope.bytes == 0:
        mistake = _callers_mistake(exc, request)
        if mistake is not None:
            return mistake
    if scope.bytes == 0 or scope.phase in _CONNECTING:
        return _not_connected(exc, scope)
    if _is_garbage(exc, scope):
        return ProtocolError(
            f"what the server sent is not HTTP as it should be ({_why(exc)}) in phase "
            f"{scope.phase!r}: look for a broken proxy, or a wrong base_url"
        )
    return StreamInterrupted(
        f"the connection was lost in phase {scope.phase!r} after {scope.bytes} bytes "
        f"({_why(exc)}): what arrived is in .partial"
    )


def _callers_mistake(exc: Exception, request: HTTPRequest) -> ConfigurationError | None:
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


def _not_connected(exc: Exception, scope: CancelScope) -> ConnectionFailed:
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
    how = "a reused connection" if scope.reused else "the connection"
    if scope.phase in _CONNECTING:
        return ConnectionFailed(
            f"no connection to the server ({_why(exc)}): is it running, are base_url and the "
            "proxy settings right?"
        )
    return ConnectionFailed(
        f"{how} was lost in phase {scope.phase!r}, before any byte of the answer ({_why(exc)})",
        reused=scope.reused,
    )


def _is_garbage(exc: Exception, scope: CancelScope) -> bool:
    """Not a cut: the bytes themselves are wrong."""
    if scope.eof or _os_error(exc) is not None:
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
