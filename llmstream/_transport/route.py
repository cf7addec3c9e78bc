"""The way of a request to its service: host and port, the proxy in between, the certificates that
it is checked against. What error messages say of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from msgspec import Struct

from .proxy import Proxy, find_proxy
from .tls import Trust, Verify, trust_of

__all__ = ["Route", "route_of"]


class Route(Struct, frozen=True):
    """`place` is the service's host and port, `secure` whether it has TLS, and `has_tls` whether it
    or the proxy has. `trust` is what their certificates are checked against."""

    place: str
    secure: bool = False
    proxy: Proxy | None = None
    trust: Trust = Trust()
    has_tls: bool = False

    @property
    def tunnels(self) -> bool:
        """Whether the proxy, if any, passes bytes on and does not see the request."""
        return self.secure or self.proxy is None or self.proxy.is_socks

    @property
    def proxies(self) -> dict[str, str]:
        """The proxy as requests takes it."""
        return {} if self.proxy is None else {"all": self.proxy.url}

    @property
    def end(self) -> str:
        """What a connection is made to."""
        return f"{self.place} through {self.proxy}" if self.proxy else self.place


def route_of(
    url: str, verify: Verify, proxies: Mapping[str, str | None] | None, trust_env: bool
) -> Route:
    """Raises ConfigurationError for a proxy that cannot be one."""
    secure = url.lower().startswith("https:")
    proxy = find_proxy(url, proxies, trust_env)
    has_tls = secure or (proxy is not None and proxy.is_secure)
    trust = trust_of(verify, trust_env) if has_tls else Trust(verify)
    return Route(_place(url), secure, proxy, trust, has_tls)


@lru_cache(maxsize=64)
def _place(url: str) -> str:
    """Host and port, never user, password, path or query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "the server"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
