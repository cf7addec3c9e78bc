"""The examples' own servers, and under /plain the same page over a plain relay, without a log."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, request, send_from_directory

from llmstream import relay
from llmstream.examples.flask_chat import create_app
from llmstream.examples.service import PAGE, client_from_env

HEARTBEAT = 0.5  # seconds: a browser that left is noticed within this and one more


def flask_app() -> Flask:
    protocol = os.environ.get("CHAT_PROTOCOL", "events")
    app = create_app(protocol=protocol, page=os.environ.get("CHAT_PAGE", PAGE))
    client = client_from_env()

    @app.get("/plain/")
    @app.get("/plain/<name>")
    def plain_page(name: str = "index.html") -> Response:
        return send_from_directory(PAGE, name)

    @app.post("/plain/answers")
    def plain_answer() -> Any:
        prompt = relay.prompt_of(request.get_json(), protocol)
        return relay.flask_response(client.stream(prompt), protocol, HEARTBEAT)

    return app


def plain_answer(request: Any) -> Any:
    """The same with Django."""
    from llmstream.examples.django_chat import views

    stream = views.client.stream(relay.prompt_of(request.body, "events"))
    return relay.django_response(stream, "events", HEARTBEAT)


def plain_file(request: Any, name: str = "index.html") -> Any:
    from llmstream.examples.django_chat import views

    return views.show_file(request, name)
