"""A request as the caller made it (`Request`) and as HTTP sends it (`HTTPRequest`); requests for a
response that the service has stored (`StoredResponse`). Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ..errors import ConfigurationError
from .asked import bare_url

__all__ = ["HTTPRequest", "Request", "StoredResponse", "encode_body", "url_below"]


class Request(Struct, frozen=True, kw_only=True):
    """What the caller asked for, independent of the API. None where the caller gave nothing."""

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
    output: Any = None  # an `Output` (output.py, which is imported when there is one)
    output_retries: int = 0

    def __repr__(self) -> str:
        return f"Request({self.model!r})"  # never the prompt

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("model", self.model)]  # rich shows the variables of frames


class HTTPRequest(Struct, frozen=True):
    """One HTTP request. A dialect writes it without credentials; `Endpoint.dress` adds them.
    `choices` is the number of answers that it asks for. `stored` is False where it asks the service
    not to store the answer. `limit` is that of the answer's tokens, where the service may not
    report that it has cut the answer. `rounds`: the answer may go on after an end, because the
    service runs tools of its own in rounds, or because the model has several ends. `strict` are the
    names of the tools of which the library decides whether they are strict: a request without that
    is still the one asked for."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes = b""
    choices: int = 1
    stored: bool = True
    limit: Any = None
    strict: tuple[str, ...] = ()
    rounds: bool = False

    def __repr__(self) -> str:
        return f"HTTPRequest({self.method} {bare_url(self.url)}, {len(self.body)} bytes)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method), ("url", bare_url(self.url))]


class StoredResponse(Struct, frozen=True):
    """A response that the service has stored (a background response), and the requests for it. Its
    `url` is that of the response."""

    url: str
    headers: dict[str, str]

    def __repr__(self) -> str:
        return f"StoredResponse({bare_url(self.url)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", bare_url(self.url))]

    def resume(self, after: int | None) -> HTTPRequest:
        """Asks for its events with a sequence number greater than `after` (None: for all)."""
        cursor = "" if after is None else f"&starting_after={after}"
        return self._request("GET", "", f"stream=true{cursor}")

    def poll(self) -> HTTPRequest:
        """Asks for the answer so far, as one JSON body."""
        return self._request("GET", "", "")

    def cancel(self) -> HTTPRequest:
        """Asks the service to stop working on it."""
        return self._request("POST", "/cancel", "")

    def _request(self, method: str, path: str, query: str) -> HTTPRequest:
        base, _, kept = self.url.partition("?")
        query = "&".join(part for part in (kept, query) if part)
        return HTTPRequest(method, f"{base}{path}" + (f"?{query}" if query else ""), self.headers)


def url_below(url: str, part: str) -> str:
    """`url` with `part` appended to its path, quoted. Its query is kept."""
    base, mark, query = url.partition("?")
    return f"{base}/{quote(part, safe='')}{mark}{query}"


def encode_body(body: Mapping[str, Any], extra: Mapping[str, Any] | None) -> bytes:
    """The JSON of a request: `body` without the fields that are None, overridden by `extra`. Raises
    ConfigurationError for a value that JSON cannot express."""
    fields = {key: value for key, value in body.items() if value is not None}
    fields.update(extra or {})
    try:
        return msgspec.json.encode(fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ConfigurationError(
            f"the request cannot be written as JSON ({exc}): use plain dicts, lists, strings and "
            "numbers"
        ) from None  # a UnicodeError refers to the text
