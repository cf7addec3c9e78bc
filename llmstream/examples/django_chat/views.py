"""The server of the chat page, with Django: the same views under WSGI and ASGI."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST

from ... import relay
from ..service import HEADERS, answer_id, client_from_env, log_from_env

__all__ = ["begin", "go_on", "protect", "show_file", "show_page", "stop"]


# One of each for a process. Settings that cannot work are an error at the start.
client = client_from_env()
log = log_from_env()


def refusing(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Errors whose words may be shown to anybody. Others are this server's own: status 500, and
    its log."""

    @wraps(view)
    def checked(request: HttpRequest, **given: str) -> HttpResponseBase:
        try:
            return view(request, **given)
        except relay.BadRequest as error:
            return JsonResponse({"error": str(error)}, status=error.status)
        except relay.LogError as error:
            return JsonResponse({"error": error.shown}, status=503)

    return checked


@require_POST
@refusing
def begin(request: HttpRequest) -> HttpResponseBase:
    prompt = relay.prompt_of(request.body, settings.CHAT_PROTOCOL)
    id = answer_id(json.loads(request.body))
    # The answer is written to the log by a thread of its own. If it runs already, because the page
    # sends this again after a lost connection, nothing is begun.
    relay.publish(log, id, client.stream(prompt), protocol=settings.CHAT_PROTOCOL)
    return _events_of(request, id)


@require_GET
@refusing
def go_on(request: HttpRequest, id: str) -> HttpResponseBase:
    return _events_of(request, answer_id(id))


@require_POST
@refusing
def stop(request: HttpRequest, id: str) -> HttpResponseBase:
    relay.stop(log, answer_id(id))
    return HttpResponse(status=204)


def _events_of(request: HttpRequest, id: str) -> HttpResponseBase:
    events = relay.follow(log, id, request.headers.get("Last-Event-ID"))
    return relay.django_response(events, protocol=settings.CHAT_PROTOCOL)


# ---- the page: a project of your own has django.contrib.staticfiles ------------------------------


@ensure_csrf_cookie  # the page sends the token back as X-CSRFToken
def show_page(request: HttpRequest) -> HttpResponseBase:
    return show_file(request, "index.html")


@require_GET
def show_file(request: HttpRequest, name: str) -> HttpResponseBase:
    files = {str(p.relative_to(settings.CHAT_PAGE)): p for p in Path(settings.CHAT_PAGE).rglob("*")}
    if name not in files or not files[name].is_file():
        raise Http404
    return HttpResponse(files[name].read_bytes(), content_type=guess_type(name)[0])


def protect(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Any:
    """Middleware: the headers of the page."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return answer
