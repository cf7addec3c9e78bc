"""What the HTTP response of a relay needs besides its body: headers; and the whole answer, for
servers that cannot stream."""

from __future__ import annotations

import re
from typing import Any

from .._core.checks import shown
from ..errors import ConfigurationError
from .protocols import make_encoder
from .protocols.base import Encoder, Version

__all__ = ["headers", "headers_of"]

# Scheme, host and port, as a browser sends them (RFC 6454, 6.2).
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-zA-Z0-9._~\[\]:-]+")

_COMMON = {
    # Proxies must not keep it (no-cache), and must not compress it: they would wait for more.
    "Cache-Control": "no-cache, no-transform",
    # Django's GZipMiddleware, Flask-Compress and their like leave alone what has an encoding.
    "Content-Encoding": "identity",
    "X-Accel-Buffering": "no",  # nginx
    # A browser that guesses the type of text waits for a kilobyte.
    "X-Content-Type-Options": "nosniff",
}


def headers(
    protocol: str, *, version: Version | None = None, cors: str | None = None
) -> dict[str, str]:
    """The headers of a response whose body is `sse(stream, protocol, version=version)`.

    `cors` is the origin of the page, such as "https://app.example.com", where it is another than
    that of this server, or "*" for any. (A preflight request is your server's to answer.)

    Raises ConfigurationError for a protocol or version that is not known, and for a `cors` that is
    not an origin.
    """
    found = headers_of(make_encoder(protocol, version))
    if cors is None:
        return found
    origin: Any = cors
    if not isinstance(origin, str) or not (origin == "*" or _ORIGIN.fullmatch(origin)):
        raise ConfigurationError(
            f"cors={shown(origin)}: pass an origin such as 'https://app.example.com' (a scheme, a "
            "host, perhaps a port, and no path), or '*'"
        )
    found["Access-Control-Allow-Origin"] = origin
    if origin != "*":
        found["Vary"] = "Origin"
    return found


def headers_of(encoder: Encoder) -> dict[str, str]:
    """The headers of a response that an encoder writes."""
    return {"Content-Type": encoder.content_type, **_COMMON, **encoder.headers}
