"""The way of a request to its service: host and port, the proxy in between, the certificates that
it is checked against. What error messages say of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from .proxy import Proxy, find_proxy

__all__ = ["Route", "route_of"]


class Route(Struct, frozen=True):
    """`place` is the service's host and port. `verify` is what requests takes under this name, and
    `verify_source` what has chosen it: an argument, a variable, or "" for requests' default."""

    place: str
    secure: bool = False
    proxy: Proxy | None = None
    verify: bool | str = True
    verify_source: str = ""

    @property
    def tunnels(self) -> bool:
        """Whether the proxy, if any, passes bytes on and does not see the request."""
        return self.secure or self.proxy is None or self.proxy.is_socks

    @property
    def end(self) -> str:
        """What a connection is made to."""
        return f"{self.place} through {self.proxy}" if self.proxy else self.place

    @property
    def certificates(self) -> str:
        """The file or folder of CA certificates in use."""
        if isinstance(self.verify, str):
            return f"{self.verify} (from {self.verify_source})"
        return f"{DEFAULT_CA_BUNDLE_PATH} (of the package certifi)"


def route_of(
    url: str, verify: bool | str, proxies: Mapping[str, str | None] | None, trust_env: bool
) -> Route:
    """Raises ConfigurationError for a proxy that cannot be one."""
    source = "verify="
    if verify is True and trust_env:
        for source in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # as in requests' sessions
            found = os.environ.get(source)
            if found:
                verify = found
                break
    return Route(
        _place(url),
        url.lower().startswith("https:"),
        find_proxy(url, proxies, trust_env),
        verify,
        source if isinstance(verify, str) else "",
    )


def _place(url: str) -> str:
    """Host and port, never user, password, path or query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "the server"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
