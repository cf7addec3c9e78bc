"""Translates foreign exceptions (of requests, urllib3, http.client, ssl, the operating system) into
the library's own. The only place that does so.

Messages are written here, never copied, because foreign messages may contain headers and URLs.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from typing import Any

import requests
import urllib3

from .._core.phase import Phase
from .._core.request import HTTPRequest
from .._runtime.scope import CancelScope, Stopped
from ..errors import ConfigurationError, ConnectionFailed, StreamInterrupted
from ..result import LLMStreamError, ProtocolError, printable
from .encoding import BadEncoding
from .lookup import NotResolved
from .proxy import ProxyRefused
from .route import Route

__all__ = ["ENDINGS", "FOREIGN", "bare_cause", "refused", "translate"]

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
    if found is None or not isinstance(found.errno, int):
        return None  # the words of a library or a proxy, which may repeat anything
    return OSError(found.errno, printable(str(found.strerror)))


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
    urllib3.exceptions.LocationValueError,
    UnicodeError,
)


_CONNECTING = (Phase.CONNECT, Phase.TLS)

# The numbers of OpenSSL's strict checks (X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA to
# X509_V_ERR_EC_KEY_EXPLICIT_PARAMS in x509_vfy.h), which Python makes by default since 3.13.
_STRICT = range(80, 95)
_NOT_YET, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)  # of a host, of an address

# The ends of OpenSSL's words where the server does not accept the client's certificate, or has got
# none: the alerts of RFC 8446, section 6.2.
_NO_CLIENT = "ALERT_CERTIFICATE_REQUIRED"
_NOTHING_COMMON = "ALERT_HANDSHAKE_FAILURE"  # or, before TLS 1.3, the same
_OTHER_CLIENT = tuple(
    f"ALERT_{name}"
    for name in (
        *("BAD_CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED"),
        *(f"CERTIFICATE_{why}" for why in ("EXPIRED", "REVOKED", "UNKNOWN")),
    )
)


def translate(
    exc: Exception, scope: CancelScope, request: HTTPRequest | None, route: Route
) -> LLMStreamError:
    """A foreign exception as one of the library's. `request` is None while the body is read."""
    if request is not None and scope.bytes == 0:
        mistake = _callers_mistake(exc)
        if mistake is not None:
            return mistake
    refusal = _find(exc, ProxyRefused)
    if refusal is not None:
        return refused(refusal, route)
    encoding = _find(exc, BadEncoding)
    if encoding is not None:
        return ProtocolError(
            f"the body of the response of {route.end} cannot be decoded ({encoding}): the request "
            "asks for content-encoding identity; check the server, or a proxy in front of it"
        )
    if scope.bytes == 0 or scope.phase in _CONNECTING:
        return _not_connected(exc, scope, route)
    if _is_garbage(exc, scope):
        return ProtocolError(
            f"the response of {route.end} is not valid HTTP ({_reason(exc)}) in phase "
            f"{scope.phase!r}: check for a broken proxy or a wrong base_url"
        )
    return StreamInterrupted(
        f"the connection to {route.end} was lost in phase {scope.phase!r} after {scope.bytes} "
        f"bytes ({_reason(exc)}): what arrived is in .partial"
    )


def refused(refusal: ProxyRefused, route: Route) -> ConnectionFailed:
    """The error where a proxy does not make the connection, or does not forward the request."""
    source = route.proxy.source if route.proxy else "its variable"
    error = ConnectionFailed(
        f"{route.proxy} refuses the connection to {route.place} ({refusal.words}): check its "
        f"address, user and password in {source}, and whether it allows this host and port"
    )
    error.retryable = refusal.passing
    return error


def _callers_mistake(exc: Exception) -> ConfigurationError | None:
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


def _not_connected(exc: Exception, scope: CancelScope, route: Route) -> ConnectionFailed:
    certificate = _find(exc, ssl.SSLCertVerificationError)
    if certificate is not None:
        return _not_verified(certificate, route)
    alert = str(getattr(_find(exc, ssl.SSLError), "reason", None))
    if alert.endswith((_NO_CLIENT, _NOTHING_COMMON, *_OTHER_CLIENT)):
        return _client_not_accepted(alert, route)
    name = _find(exc, NotResolved)
    if name is not None:
        is_service = name.host == route.place.rpartition(":")[0].strip("[]")
        through = None if is_service else route.proxy
        what, where = (through, through.source) if through else (route.place, "base_url")
        return ConnectionFailed(
            f"the name of the host of {what} could not be resolved ({_reason(exc)}): check {where} "
            "and the network"
        )
    if scope.phase in _CONNECTING:
        where = f"base_url and {route.proxy.source}" if route.proxy else "base_url"
        return ConnectionFailed(
            f"no connection to {route.end} ({_reason(exc)}): is it running, and is {where} correct?"
        )
    which = "a reused connection" if scope.reused else "the connection"
    return ConnectionFailed(
        f"{which} to {route.end} was lost in phase {scope.phase!r}, before any byte of the "
        f"response arrived ({_reason(exc)})",
        reused=scope.reused,
    )


def _not_verified(exc: ssl.SSLCertVerificationError, route: Route) -> ConnectionFailed:
    """A certificate that was not accepted: it is not another time, either."""
    code = getattr(exc, "verify_code", 0)
    if code in _STRICT:
        advice = (
            "this is not a question of trust: the certificate, or one of its CAs, breaks a rule "
            "of RFC 5280 that Python checks strictly since 3.13 (ssl.VERIFY_X509_STRICT). Another "
            "CA file does not help. Ask its issuer for certificates that follow the rule. Until "
            "then pass an SSLContext without this check: context = ssl.create_default_context("
            "cafile=...); context.verify_flags &= ~ssl.VERIFY_X509_STRICT; verify=context"
        )
    elif code in (_NOT_YET, _EXPIRED):
        advice = "is the clock of this machine right? Else the server needs a new certificate"
    elif code in _OTHER_NAME:
        advice = "base_url has to name a host that the certificate is for"
    else:
        advice = (
            "if the service, or a company proxy that opens TLS, has a CA of its own, pass its CA "
            "file by REQUESTS_CA_BUNDLE or verify="
        )
    error = ConnectionFailed(
        f"the certificate of {route.end} was not accepted "
        f"({exc.verify_message or 'verification failed'}; checked against "
        f"{route.trust}): {advice}"
    )
    error.retryable = False
    return error


def _client_not_accepted(alert: str, route: Route) -> ConnectionFailed:
    if alert.endswith(_NO_CLIENT):
        words, advice = "asks for a certificate of the client's", "pass one by cert="
    elif alert.endswith(_NOTHING_COMMON):
        words = "ends the TLS handshake"
        advice = (
            "if it asks for a certificate of the client's, pass one by cert=; else it has no "
            "protocol or cipher in common with this Python, which wants TLS 1.2 at least"
        )
    else:
        words = "does not accept the client's certificate"
        advice = "check whether cert= names the one that it knows"
    error = ConnectionFailed(f"{route.end} {words} ({alert}): {advice}")
    error.retryable = False
    return error


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
