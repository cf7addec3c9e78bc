"""What the responses of all frameworks have in common: status, headers and body."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .._core.checks import has_method, shown
from ..errors import ConfigurationError
from .body import Body, sse
from .http import headers
from .protocols.base import Version

__all__ = ["Response", "response_of"]


class Response(NamedTuple):
    """`body` is an iterator with `close()`, or () where the status has none."""

    status: int
    headers: dict[str, str]
    body: Iterator[bytes] | tuple[()]


_NOTHING: tuple[()] = ()


def response_of(
    stream: Any,
    protocol: str,
    heartbeat: float,
    *,
    version: Version | None = None,
    cors: str | None = None,
    last_event_id: str | None = None,
    **options: Any,
) -> Response:
    """The response to a browser. `stream` is a Stream that nobody has read, or a body that is one
    already (of `sse`, or of `follow`), or None: there is nothing, or nothing more, for which 204 is
    what every client understands. `last_event_id` is the header of the request: with it a browser
    wants to go on with an answer, and a Stream, or the body of one, would be another answer."""
    head = headers(protocol, version=version, cors=cors)
    access = {
        name: value for name, value in head.items() if name.startswith("Access") or name == "Vary"
    }
    # Some proxies keep a 204, and the next answer of this address is another one.
    nothing = Response(204, {"Cache-Control": "no-store", **access}, _NOTHING)
    if stream is None:
        return nothing
    is_stream = has_method(stream, "events") and has_method(stream, "cancel")
    if last_event_id and (is_stream or isinstance(stream, Body)):
        stream.close()
        return nothing
    if is_stream:
        body = sse(stream, protocol, version=version, heartbeat=heartbeat, **options)
        return Response(200, head, body)
    if not has_method(stream, "__next__") or not has_method(stream, "close"):
        raise ConfigurationError(
            f"{shown(stream)}: pass a stream, such as client.stream(...) returns, what relay.sse "
            "or relay.follow returns, or None for 204"
        )
    # A body knows its own headers, and that of `follow` whether there is anything to send.
    head = {**getattr(stream, "headers", head), **access}
    status = getattr(stream, "status", 200)
    if status == 204:
        stream.close()
    return Response(status, head, _NOTHING if status == 204 else stream)
