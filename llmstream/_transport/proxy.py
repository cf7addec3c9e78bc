"""Which proxy a request goes through, and where that is configured.

Relies on requests for the rules of the environment (`HTTPS_PROXY`, `NO_PROXY` and their relatives,
and the settings of macOS and Windows) and on urllib3 to parse addresses. No text that is made here
contains a proxy's user or password.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from msgspec import Struct

from ..errors import ConfigurationError

__all__ = [
    "Proxies",
    "Proxy",
    "ProxyRefused",
    "checked_proxies",
    "find_proxy",
    "is_loopback",
    "refusal_of",
]

_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?")

# Statuses with which a proxy refuses for the moment only.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
# Headers of an answer that a proxy writes itself, and beginnings of the names of proxies in Server.
_MARKS = ("proxy-authenticate", "proxy-agent", "x-squid-error")
_SERVERS = ("squid", "tinyproxy", "privoxy", "mitmproxy", "zscaler", "bluecoat", "fortiproxy")


class Proxy(Struct, frozen=True):
    """A proxy. `url` is its address with user and password, `place` its address without them;
    `source` says where it is configured: a variable's name, or the argument's."""

    url: str
    place: str
    source: str

    @property
    def is_socks(self) -> bool:
        return self.place.startswith("socks")

    @property
    def is_secure(self) -> bool:
        """Whether the connection to the proxy itself has TLS."""
        return self.place.startswith("https:")

    def __repr__(self) -> str:
        return f"the proxy {self.place} (from {self.source})"

    __str__ = __repr__

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("place", self.place), ("source", self.source)]


class ProxyRefused(OSError):
    """A proxy does not make the connection. `words` say why; `passing` is whether the next attempt
    may succeed."""

    def __init__(self, words: str, *, passing: bool) -> None:
        super().__init__(words)
        self.words = words
        self.passing = passing

    @classmethod
    def by_status(cls, status: int) -> ProxyRefused:
        words = f"HTTP {status}"
        if status == 407:
            words += ": it wants another user and password"
        return cls(words, passing=status in _PASSING)


class Proxies(dict[str, "str | None"]):
    """The argument `proxies`, as requests takes it. Its text hides users and passwords."""

    def __repr__(self) -> str:
        return repr({key: value and _place(value) for key, value in self.items()})

    def without_credentials(self) -> Proxies:
        """The same proxies, without users and passwords."""
        return Proxies({key: value and _bare(value) for key, value in self.items()})


def checked_proxies(proxies: Any) -> Proxies | None:
    """The argument `proxies`. Raises ConfigurationError."""
    if proxies is None:
        return None
    if not isinstance(proxies, Mapping):
        raise ConfigurationError(
            "proxies=: pass a dict like {'https': 'http://host:3128'}, as requests takes it"
        )
    for key, value in proxies.items():
        if not isinstance(key, str) or not (value is None or isinstance(value, str)):
            raise ConfigurationError(
                "proxies=: keys have to be strings like 'https' or 'all', values addresses or None"
            )
        if value and key != "no_proxy":
            _parsed(value, _argument(key))
    return Proxies(proxies)


def find_proxy(url: str, proxies: Mapping[str, str | None] | None, trust_env: bool) -> Proxy | None:
    """The proxy for `url`, or None: that of the argument, else (with `trust_env`) that of the
    environment. Raises ConfigurationError for an address that cannot be one."""
    if proxies:
        own = proxies.get("no_proxy")
        if own and requests.utils.should_bypass_proxies(url, no_proxy=own):
            return None
        for key in _keys(url):
            if key in proxies:
                address = proxies[key]
                return _parsed(address, _argument(key)) if address else None
    # A server on this machine is never reached through a proxy that only the environment names: it
    # could not connect to it and would see the prompt (as in Go's ProxyFromEnvironment).
    if not trust_env or is_loopback(url):
        return None
    found = requests.utils.get_environ_proxies(url)
    for key in _keys(url):
        if found.get(key):
            return _parsed(found[key], _variable(key, found[key]))
    return None


def refusal_of(status: int, headers: Mapping[str, str]) -> ProxyRefused | None:
    """The refusal of a proxy that forwards plain HTTP, where its answer shows that it is the
    proxy's and not the service's. `headers` has lower-case names."""
    if status < 400:
        return None
    marked = any(name in headers for name in _MARKS)
    marked = marked or "error=" in headers.get("proxy-status", "")  # RFC 9209
    marked = marked or headers.get("server", "").lower().startswith(_SERVERS)
    return ProxyRefused.by_status(status) if marked or status == 407 else None


def _keys(url: str) -> tuple[str, ...]:
    """The keys of a dict of proxies that fit, the most exact first (requests' select_proxy)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}", parts.scheme, f"all://{parts.hostname}", "all"


def _argument(key: str) -> str:
    return "proxies=" if "@" in key else f"proxies= (key {key[:80]!r})"


def _variable(key: str, value: str) -> str:
    """The name of the variable from which urllib has taken the proxy: lower case comes first."""
    names = [n for n, v in os.environ.items() if n.lower() == f"{key}_proxy" and v == value]
    return min(names, key=lambda n: n != n.lower(), default="the system's proxy settings")


@lru_cache(maxsize=64)
def _parsed(address: str, source: str) -> Proxy:
    """Raises ConfigurationError, which names the source."""
    scheme, rest = _split(address)
    why = ""
    try:
        parts = urllib3.util.parse_url(f"{scheme}://{rest}")
    except urllib3.exceptions.LocationParseError:
        why = "host or port cannot be read (other characters than letters and digits in user and "
        why += "password have to be percent-encoded)"
    else:
        if scheme not in _SCHEMES:
            why = f"its scheme is not one of {', '.join(_SCHEMES)}"
        elif not parts.host or not _PLACE.fullmatch(rest.rpartition("@")[2].split("/")[0]):
            why = "it has no host that can be one"
        elif parts.port == 0:
            why = "its port cannot be one"
        elif "@" in (parts.request_uri + (parts.fragment or "")):
            why = "special characters in user and password have to be percent-encoded"
    if why:
        raise ConfigurationError(
            f"{source} names a proxy that cannot be one, {_place(address)}: {why}. Use an address "
            "like 'http://host:3128' or 'socks5h://host:1080'"
        )
    return Proxy(f"{scheme}://{rest}", _place(address), source)


def _split(address: str) -> tuple[str, str]:
    """Scheme (http where there is none, as in requests) and rest."""
    before, mark, rest = address.strip().partition("://")
    return (before.lower(), rest) if mark else ("http", before)


def _place(address: str) -> str:
    """Scheme, host and port, as far as it is certain that they are no user and no password."""
    scheme, rest = _split(address)
    if not re.fullmatch(r"[a-z][a-z0-9+.-]{0,20}", scheme):
        scheme = "***"
    place = re.split(r"[/?#\\]", rest.rpartition("@")[2], maxsplit=1)[0]
    return f"{scheme}://{place if _PLACE.fullmatch(place) else '***'}"


def _bare(address: str) -> str:
    scheme, rest = _split(address)
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else address


# Names that hosts files give to the loopback, besides `localhost` and what ends in it (RFC 6761).
_LOOPBACKS = frozenset(
    {"localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
)


@lru_cache(maxsize=64)
def is_loopback(url: str) -> bool:
    """Whether the server is on this machine, by its name or address in any spelling that a resolver
    understands: `LOCALHOST.`, `app.localhost`, 127.1, 0x7f000001, [::ffff:127.0.0.1]. So are
    0.0.0.0 and [::], to which a connection stays on this machine."""
    host = (urlsplit(url).hostname or "").lower()
    if not host.isascii():  # as IDNA maps it: full-width letters, digits and dots
        import unicodedata

        host = unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower()
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost") or host in _LOOPBACKS:
        return True
    address = _ip_address(host)
    address = getattr(address, "ipv4_mapped", None) or address
    return address is not None and (address.is_loopback or address.is_unspecified)


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:  # 127.1, 2130706433, 0177.0.0.1, 0x7f.1: as getaddrinfo reads them
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
