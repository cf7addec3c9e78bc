"""The server of the chat page, with Django: the same views under WSGI and ASGI."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache, wraps
from mimetypes import guess_type
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST

from ... import relay
from ...client import Client
from ...errors import ConfigurationError
from ..service import HEADERS, PAGE, answer_id, client_from_env, log_from_env

__all__ = ["begin", "go_on", "protect", "show_file", "show_page", "stop"]

PROTOCOL = os.environ.get("CHAT_PROTOCOL", "events")  # "ui-message" for a page with `useChat`


# One of each for a process, made when it is needed first: after a server has forked its workers.
@cache
def client() -> Client:
    return client_from_env()


@cache
def log() -> Any:
    return log_from_env()


def refusing(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """What is wrong with a request is said to the page, with status 400."""

    @wraps(view)
    def checked(request: HttpRequest, **given: str) -> HttpResponseBase:
        try:
            return view(request, **given)
        except (ConfigurationError, json.JSONDecodeError) as error:
            return JsonResponse({"error": str(error)}, status=400)

    return checked


@require_POST
@refusing
def begin(request: HttpRequest) -> HttpResponseBase:
    body = json.loads(request.body)
    id = answer_id(body)
    prompt = relay.prompt_of(body, PROTOCOL)
    # The answer is written to the log by a thread of its own. If it runs already, because the page
    # sends this again after a lost connection, nothing is begun.
    relay.publish(log(), id, client().stream(prompt), protocol=PROTOCOL)
    return _events_of(request, id)


@require_GET
@refusing
def go_on(request: HttpRequest, id: str) -> HttpResponseBase:
    return _events_of(request, answer_id(id))


@require_POST
@refusing
def stop(request: HttpRequest, id: str) -> HttpResponseBase:
    relay.stop(log(), answer_id(id))
    return HttpResponse(status=204)


def _events_of(request: HttpRequest, id: str) -> HttpResponseBase:
    events = relay.follow(log(), id, request.headers.get("Last-Event-ID"))
    return relay.django_response(events, protocol=PROTOCOL)


# ---- the page: a project of your own has django.contrib.staticfiles ------------------------------


@ensure_csrf_cookie  # the page sends the token back as X-CSRFToken
def show_page(request: HttpRequest) -> HttpResponseBase:
    return show_file(request, "index.html")


@require_GET
def show_file(request: HttpRequest, name: str) -> HttpResponseBase:
    if name not in os.listdir(PAGE):
        raise Http404
    return HttpResponse((PAGE / name).read_bytes(), content_type=guess_type(name)[0])


def protect(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Any:
    """Middleware: the headers of the page."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return answer
