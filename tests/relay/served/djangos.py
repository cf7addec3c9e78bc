"""An application of Django, with the middleware that compresses: `wsgi` and `asgi`."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path

from llmstream import relay

from . import common

settings.configure(
    ALLOWED_HOSTS=["*"],
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "loggers": {"django": {"handlers": ["console"]}},
    },
    MIDDLEWARE=[
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
)
django.setup()


def chat(request: HttpRequest) -> HttpResponseBase:
    stream, options = common.asked(request.GET)
    last = request.headers.get("Last-Event-ID")
    return relay.django_response(stream, last_event_id=last, **options)


async def chat_async(request: HttpRequest) -> HttpResponseBase:
    return chat(request)


def body(request: HttpRequest) -> HttpResponseBase:
    """What is given is a body that blocks, and not a stream."""
    stream, options = common.asked(request.GET)
    protocol = options.pop("protocol")
    made: Any = relay.sse(stream, protocol, **options)

    class Blocks:
        __next__ = staticmethod(made.__next__)
        close = staticmethod(made.close)

        def __iter__(self) -> Blocks:
            return self

    return relay.django_response(Blocks(), protocol)


def state(request: HttpRequest) -> HttpResponseBase:
    return JsonResponse(common.state())


urlpatterns = [
    path("chat", chat),
    path("async", chat_async),
    path("body", body),
    path("state", state),
]
wsgi = get_wsgi_application()
asgi = get_asgi_application()
