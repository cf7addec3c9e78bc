"""Connections through a SOCKS proxy (extra `socks`).

PySocks speaks with the proxy, over a socket that the scope of the call knows. It is not let look up
names and not let connect: neither could be interrupted.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from urllib3.connection import HTTPConnection

from .._runtime.scope import CancelScope
from ..errors import ConfigurationError
from .connect import SocketHandle, attach, connect
from .lookup import resolve
from .proxy import Proxy, ProxyRefused

__all__ = ["check_installed", "connect_through_socks"]

_DEFAULT_PORT = 1080

# The beginnings of PySocks' words for what another attempt does not change: user and password, the
# proxy's rules, a command or a kind of address that it does not know, another protocol.
_FINAL = (
    *("SOCKS5 authentication", "All offered", "No username", "0x02", "0x07", "0x08"),
    *("0x5c", "0x5d", "SOCKS5 proxy server", "SOCKS4 proxy server"),
)


def check_installed(proxy: Proxy) -> None:
    """Raises ConfigurationError if the library for SOCKS proxies is missing."""
    try:
        importlib.import_module("socks")
        importlib.import_module("urllib3.contrib.socks")
    except ImportError:
        raise ConfigurationError(
            f'{proxy} needs PySocks, which is not installed: pip install "llmstream-sync[socks]", '
            f"or configure an HTTP proxy in {proxy.source}"
        ) from None


def connect_through_socks(
    conn: HTTPConnection, options: Mapping[str, Any], scope: CancelScope, tls: bool
) -> socket.socket:
    """A socket that is connected to the host of `conn`; `options` are those of urllib3's
    SOCKSProxyManager. Raises Stopped, ProxyRefused, NotResolved and urllib3's errors."""
    host = conn.host
    if not options["rdns"]:
        host = _local_address(conn._dns_host, conn.port, options, scope)
    proxy = options["proxy_host"].strip("[]")
    sock = connect(conn, proxy, options["proxy_port"] or _DEFAULT_PORT, scope)
    return attach(_negotiated(sock, host, conn.port, options, scope), scope, tls)


def _local_address(host: str, port: int, options: Mapping[str, Any], scope: CancelScope) -> str:
    """The address of a host, looked up here. IPv4 comes first: fewer proxies reach the other."""
    addresses = resolve(host, port, scope)
    found = [a for a in addresses if a[0] == socket.AF_INET]
    if not found and options["socks_version"] == importlib.import_module("socks").SOCKS4:
        raise ProxyRefused("SOCKS4 knows no IPv6: use socks5h", passing=False)
    return str((found or addresses)[0][4][0])


class _Connected(socket.socket):
    """PySocks connects its sockets itself, by the `connect` of the class below its own. This one
    is below it, and the socket is connected already."""

    def connect(self, address: Any) -> None:
        pass


@lru_cache(maxsize=1)
def _negotiator() -> Any:
    return type("_Negotiator", (importlib.import_module("socks").socksocket, _Connected), {})


def _negotiated(
    sock: socket.socket, host: str, port: int, options: Mapping[str, Any], scope: CancelScope
) -> socket.socket:
    kind = _negotiator()
    with kind(sock.family, sock.type, sock.proto, fileno=sock.detach()) as speaker:
        scope.attach(SocketHandle(speaker))
        speaker.set_proxy(
            options["socks_version"],
            options["proxy_host"],
            options["proxy_port"] or _DEFAULT_PORT,
            options["rdns"],
            options["username"],
            options["password"],
        )
        try:
            speaker.connect((host, port))
        except OSError as exc:
            scope.check()  # the scope may have shut it down
            raise _refusal(exc) from None
        connected = socket.socket(fileno=speaker.detach())
        connected.settimeout(None)  # not socket.setdefaulttimeout's
        return connected


def _refusal(exc: OSError) -> OSError:
    """PySocks wraps the system's errors, and its own, which have words from its own tables."""
    while isinstance(beneath := getattr(exc, "socket_err", None), OSError):
        exc = beneath
    words = getattr(exc, "msg", None)
    if not isinstance(words, str):
        return exc
    return ProxyRefused(words, passing=not words.startswith(_FINAL))
