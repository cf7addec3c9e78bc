"""A response of Django (extra `django`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..stream import Stream
from .protocols.base import Version
from .response import response_of

if TYPE_CHECKING:
    from django.http import HttpResponseBase

__all__ = ["django_response"]


def django_response(
    stream: Stream | Iterator[bytes] | None,
    protocol: str = "events",
    heartbeat: float = 15.0,
    *,
    version: Version | None = None,
    cors: str | None = None,
    last_event_id: str | None = None,
    **options: Any,
) -> HttpResponseBase:
    """The answer as a response of a Django view, for servers of WSGI and of ASGI.

        def chat(request):
            stream = client.stream(json.loads(request.body)["prompt"])
            return relay.django_response(stream, last_event_id=request.headers.get("Last-Event-ID"))

    `stream` is a Stream that nobody has read yet, what `follow` returns, or None for 204. The other
    arguments are those of `sse` (`interval` and `buffer` too) and of `headers`.

    A browser whose connection was lost asks again by itself, with the header `Last-Event-ID`
    (EventSource does). Given as `last_event_id`, a Stream gets 204, which ends it: the prompt is
    not run a second time. To go on with an answer, see `publish` and `follow`.

    A view for GET needs Django's `require_GET`: its servers ask for the whole answer for a HEAD
    request too, and drop it.

    GZipMiddleware leaves the response alone. Under ASGI no thread waits for the answer of a Stream;
    the view may be a plain function. Raises what `sse` and `headers` raise, and ConfigurationError
    without Django.
    """
    try:
        from .django_class import RelayResponse, empty
    except ImportError as exc:
        raise ConfigurationError(
            "django_response needs Django: pip install 'llmstream-sync[django]'"
        ) from exc
    found = response_of(
        stream,
        protocol,
        heartbeat,
        version=version,
        cors=cors,
        last_event_id=last_event_id,
        **options,
    )
    if not isinstance(found.body, tuple):
        return RelayResponse(found.body, status=found.status, headers=found.headers)
    return empty(found.status, found.headers)
