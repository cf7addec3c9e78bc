"""What the message of an HTTP error adds about the request: its URL, where that redirects to, the
proxy that has forwarded it. Pure. No URL is shown with its user, password, query or fragment."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

__all__ = ["bare_url", "place_asked"]

_MAX_URL = 300  # characters of a URL that are shown
_PROXIES = frozenset({403, 502, 503, 504})  # statuses with which proxies refuse, too


def bare_url(url: str) -> str:
    """A URL without user, password, query and fragment; "" for what is not one."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not host or not url.isprintable():
        return ""
    return f"{parts.scheme}://{host}{parts.path}"[:_MAX_URL]


def place_asked(
    status: int, has_code: bool, headers: Mapping[str, str], url: str, forwarder: str
) -> str:
    """What follows in the message of an HTTP error. `has_code` is whether the answer has a code or
    type of an API's error; `forwarder` describes a proxy that has seen the request ("": none)."""
    asked = bare_url(url)
    if 300 <= status < 400 and asked:
        goal = _redirected(url, headers.get("location"))
        if not goal:
            return f" (the URL was {asked}: change base_url)"
        return f" ({asked} redirects to {goal}: change base_url to where it leads)"
    if status in (404, 405) and asked:
        return f" (the URL was {asked}{'' if has_code else ': check base_url'})"
    if status in _PROXIES and forwarder and not has_code:
        return f" (perhaps {forwarder} has refused it)"
    return ""


def _redirected(url: str, location: str | None) -> str:
    """Where a redirect leads, "" if that is no URL."""
    try:
        return bare_url(urljoin(url, location)) if location else ""
    except ValueError:
        return ""
