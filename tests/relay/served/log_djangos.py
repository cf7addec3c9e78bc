"""An application of Django that follows answers, under ASGI: `asgi`. The log is the Redis at the
address in REDIS_URL."""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponseBase
from django.urls import path

from llmstream import relay

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of a test")
django.setup()
log = relay.RedisLog(os.environ["REDIS_URL"], lease=float(os.environ["LEASE"]))


def follow(request: HttpRequest, id: str) -> HttpResponseBase:
    body = relay.follow(log, id, request.headers.get("Last-Event-ID"))
    return relay.django_response(body)


urlpatterns = [path("follow/<id>", follow)]
asgi = get_asgi_application()
