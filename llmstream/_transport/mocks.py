"""Doubles of HTTP that other libraries put into requests and urllib3, in the tests of users.

`responses` replaces `HTTPAdapter.send`, which ours inherits. requests-mock, HTTMock and tests that
patch it themselves replace `Session.send` or `Session.get_adapter`, which the transport calls only
then. VCR.py replaces the connection classes of urllib3's pools; ours then stand beneath its own. So
no request gets past a double to the network in silence.
"""

from __future__ import annotations

import http.client
import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .._core.request import HTTPRequest
from ..errors import ConfigurationError
from .route import Route

__all__ = ["are_active", "is_recorded", "read_some", "recorded", "send", "unanswered"]

_INSTEAD = "or use a server or a FakeTransport of llmstream.testing"
_OWN = ("requests.adapters", "requests.sessions")


def are_active() -> bool:
    """Whether a double of requests is in place at the moment."""
    session = requests.Session
    return (
        getattr(HTTPAdapter.send, "__module__", None) not in _OWN
        or getattr(session.send, "__module__", None) not in _OWN
        or getattr(session.get_adapter, "__module__", None) not in _OWN
    )


def send(adapter: HTTPAdapter, request: HTTPRequest, route: Route, cert: Any) -> Any:
    """Send by requests, as the double expects it: by the adapter, or by a session with this adapter
    where a session's methods are replaced. Returns a response as urllib3's. Raises also what the
    double raises, and ConfigurationError for its odd answers."""
    prepared = requests.Request(
        request.method,
        request.url,
        headers=request.headers,
        data=request.body or None,
        # requests must not replace a key by the user and password of the URL.
        auth=_unchanged if "authorization" in request.headers else None,
    ).prepare()
    options: dict[str, Any] = {
        "stream": True,
        "timeout": None,
        "verify": route.trust.verify,
        "cert": cert,
        "proxies": route.proxies,
    }
    session = requests.Session
    homes = {getattr(m, "__module__", None) for m in (session.send, session.get_adapter)}
    if homes == {"requests.sessions"}:
        return _raw(adapter.send(prepared, **options))
    mocked = session()
    mocked.trust_env = False
    mocked.adapters.clear()
    mocked.mount("http://", adapter)
    mocked.mount("https://", adapter)
    return _raw(mocked.send(prepared, allow_redirects=False, **options))


def _unchanged(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _raw(answer: Any) -> Any:
    """urllib3's response in that of requests; where a double has none, one that is made of it."""
    if not isinstance(answer, requests.Response):
        raise ConfigurationError(
            "HTTP is replaced by a double that does not return a requests.Response: let it, "
            f"{_INSTEAD}"
        )
    if isinstance(getattr(answer.raw, "_original_response", None), http.client.HTTPResponse):
        return answer.raw  # the double has let the request through
    # A double may have a body, and nothing that it is read from.
    body = io.BytesIO(answer.content) if answer.raw is None else answer.raw
    return _Answer(answer.status_code, answer.headers, body)


class _Answer:
    """A double's answer, as a response of urllib3."""

    def __init__(self, status: int, headers: Mapping[str, str], body: Any) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    def read1(self, size: int) -> bytes:
        return read_some(self._body, size)

    def close(self) -> None:
        self._body.close()


def read_some(body: Any, size: int) -> bytes:
    """At most `size` bytes of a double's body. urllib3's response decodes if it is asked to; a
    double may have its own."""
    options = {"decode_content": True} if isinstance(body, HTTPResponse) else {}
    data: bytes = body.read1(size, **options)
    return data


def unanswered(exc: BaseException) -> ConfigurationError | None:
    """The error where a double has no answer for a request; None where `exc` is of another kind."""
    home = type(exc).__module__.partition(".")[0]
    if home in ("requests_mock", "vcr"):
        name = {"vcr": "VCR.py"}.get(home, home)
    elif str(exc).startswith("Connection refused by Responses"):
        name = "the library responses"
    else:
        return None
    return ConfigurationError(
        f"HTTP is replaced by {name}, which has no answer for this request "
        f"({type(exc).__name__}): register or record one, {_INSTEAD}"
    )


def recorded(default: Any, ours: Any) -> Any:
    """The connection class of a pool: ours, or VCR.py's with ours beneath while it has replaced
    urllib3's `default`."""
    return _with_base(default, ours) if _is_recorder(default) else ours


def is_recorded() -> bool:
    """Whether VCR.py has replaced urllib3's connections at the moment."""
    plain, tls = HTTPConnectionPool.ConnectionCls, HTTPSConnectionPool.ConnectionCls
    return _is_recorder(plain) or _is_recorder(tls)


def _is_recorder(connection: Any) -> bool:
    return hasattr(connection, "cassette") and hasattr(connection, "_baseclass")


@lru_cache(maxsize=8)  # VCR.py compares classes, so each one has to stay the same
def _with_base(double: Any, ours: Any) -> Any:
    return type(double.__name__, (double,), {"_baseclass": ours})
