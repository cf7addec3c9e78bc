"""A request: in the caller's words, in the API's, and a response that the service keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ..errors import ConfigurationError

__all__ = ["HTTPRequest", "Request", "StoredResponse", "encode_body", "under"]


class Request(Struct, frozen=True, kw_only=True):
    """What the caller asked for, in no API's words yet. None means: not said."""

    prompt: str | list[Any]
    model: str
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Any = None
    tools: Any = None
    tool_choice: Any = None
    thinking: Any = None
    background: bool = False
    extra_body: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Request({self.model!r})"  # never the prompt


class HTTPRequest(Struct, frozen=True):
    """One HTTP request, without its credentials."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes = b""
    choices: int = 1

    def __repr__(self) -> str:
        return f"HTTPRequest({self.method} {self.url.partition('?')[0]}, {len(self.body)} bytes)"


class StoredResponse(Struct, frozen=True):
    """A response that the service keeps (in the background), and how to get back to it."""

    url: str
    headers: dict[str, str]

    def resume(self, after: int | None) -> HTTPRequest:
        """Its events again, from behind the sequence number `after`."""
        cursor = "" if after is None else f"&starting_after={after}"
        return self._request("GET", "", f"stream=true{cursor}")

    def poll(self) -> HTTPRequest:
        """As far as it is, as one JSON body."""
        return self._request("GET", "", "")

    def cancel(self) -> HTTPRequest:
        """The end of it."""
        return self._request("POST", "/cancel", "")

    def _request(self, method: str, path: str, query: str) -> HTTPRequest:
        base, _, kept = self.url.partition("?")
        query = "&".join(part for part in (kept, query) if part)
        return HTTPRequest(method, f"{base}{path}" + (f"?{query}" if query else ""), self.headers)


def under(url: str, part: str) -> str:
    """The URL of something below `url`, whose query is kept."""
    base, mark, query = url.partition("?")
    return f"{base}/{quote(part, safe='')}{mark}{query}"


def encode_body(body: Mapping[str, Any], extra: Mapping[str, Any] | None) -> bytes:
    """The JSON of a request: what is None is left out, `extra` has the last word."""
    said = {key: value for key, value in body.items() if value is not None}
    said.update(extra or {})
    try:
        return msgspec.json.encode(said)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(
            f"the request cannot be written as JSON ({exc}): give plain dicts, lists, strings and "
            "numbers"
        ) from exc
