"""Doubles of HTTP that other libraries put into requests and urllib3, in the tests of users.

`responses` replaces `HTTPAdapter.send`, which ours inherits. requests-mock, HTTMock and tests that
patch it themselves replace `Session.send` or `Session.get_adapter`, which the transport calls only
then. VCR.py replaces the connection classes of urllib3's pools; ours then stand beneath its own. So
no request gets past a double to the network in silence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..errors import ConfigurationError

__all__ = ["is_recorded", "recorded", "send", "unanswered"]

_OWN = "requests.sessions"
_INSTEAD = "or use a server or a FakeTransport of llmstream.testing"


def send(
    adapter: HTTPAdapter, prepared: requests.PreparedRequest, **options: Any
) -> requests.Response:
    """Send by the adapter, or by a session with this adapter where a session's methods are
    replaced. Raises also what the double raises, and ConfigurationError for its odd answers."""
    session = requests.Session
    homes = {getattr(m, "__module__", _OWN) for m in (session.send, session.get_adapter)}
    if homes == {_OWN}:
        return adapter.send(prepared, **options)
    mocked = session()
    mocked.trust_env = False
    mocked.adapters.clear()
    mocked.mount("http://", adapter)
    mocked.mount("https://", adapter)
    answer: Any = mocked.send(prepared, allow_redirects=False, **options)
    if not isinstance(answer, requests.Response):
        raise ConfigurationError(
            "HTTP is replaced by a double that does not return a requests.Response: let it, "
            f"{_INSTEAD}"
        )
    return answer


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
    pools = (HTTPConnectionPool, HTTPSConnectionPool)
    return any(_is_recorder(pool.ConnectionCls) for pool in pools)


def _is_recorder(connection: Any) -> bool:
    return hasattr(connection, "cassette") and hasattr(connection, "_baseclass")


@lru_cache(maxsize=8)  # VCR.py compares classes, so each one has to stay the same
def _with_base(double: Any, ours: Any) -> Any:
    return type(double.__name__, (double,), {"_baseclass": ours})
