"""A response of Flask (extra `flask`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..stream import Stream
from .protocols.base import Version
from .response import response_of

if TYPE_CHECKING:
    from flask import Response

__all__ = ["flask_response"]


def flask_response(
    stream: Stream | Iterator[bytes] | None,
    protocol: str = "events",
    heartbeat: float = 15.0,
    *,
    version: Version | None = None,
    cors: str | None = None,
    **options: Any,
) -> Response:
    """The answer as a response of a Flask view.

        @app.post("/chat")
        def chat():
            return relay.flask_response(client.stream(request.get_json()["prompt"]))

    `stream` is a Stream that nobody has read yet, what `follow` returns, or None for 204. The other
    arguments are those of `sse` (`interval` and `buffer` too) and of `headers`.

    A browser whose connection was lost asks again by itself, with the header `Last-Event-ID`
    (EventSource does). For a Stream that gets 204, which ends it: the prompt is not run a second
    time. To go on with an answer, see `publish` and `follow`.

    Needs no worker of a special kind; one of gunicorn's sync workers has one browser at a time.
    Raises what `sse` and `headers` raise, and ConfigurationError without Flask.
    """
    try:
        from flask import Response, has_request_context, request
    except ImportError as exc:
        raise ConfigurationError(
            "flask_response needs Flask: pip install 'llmstream-sync[flask]'"
        ) from exc
    last = request.headers.get("Last-Event-ID") if has_request_context() else None
    found = response_of(
        stream, protocol, heartbeat, version=version, cors=cors, last_event_id=last, **options
    )
    return Response(found.body, status=found.status, headers=found.headers)
