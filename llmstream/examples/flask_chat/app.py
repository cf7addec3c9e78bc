"""The server of the chat page, with Flask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask, Response, request

from ... import relay
from ...client import Client
from ..service import HEADERS, PAGE, answer_id, client_from_env, log_from_env

__all__ = ["create_app"]


def create_app(
    client: Client | None = None,
    log: Any = None,
    *,
    protocol: str = "events",
    page: str | Path = PAGE,
) -> Flask:
    """The application.

    `protocol` is what the page reads: "events" for our own, "ui-message" for one with `useChat`.
    `page` is the folder with its files. Defaults: the service that the environment names, else the
    local model; the Redis of `REDIS_URL`, else this process's memory, which a second worker process
    does not see.
    """
    app = Flask(__name__, static_folder=str(Path(page).resolve()), static_url_path="")
    client = client or client_from_env()
    log = log or log_from_env()

    @app.get("/")
    def show_page() -> Response:
        return app.send_static_file("index.html")

    @app.post("/answers")
    def begin() -> Response:
        prompt = relay.prompt_of(request.get_data(), protocol)
        # JSON by its header, too: pages of other sites cannot send that (CORS).
        id = answer_id(request.get_json())
        # The answer is written to the log by a thread of its own. If it runs already, because the
        # page sends this again after a lost connection, nothing is begun.
        relay.publish(log, id, client.stream(prompt), protocol=protocol)
        return events_of(id)

    @app.get("/answers/<id>")
    def go_on(id: str) -> Response:
        return events_of(answer_id(id))

    @app.post("/answers/<id>/stop")
    def stop(id: str) -> tuple[str, int]:
        relay.stop(log, answer_id(id))
        return "", 204

    def events_of(id: str) -> Response:
        events = relay.follow(log, id, request.headers.get("Last-Event-ID"))
        response: Response = relay.flask_response(events, protocol=protocol)
        return response

    # Words that may be shown to anybody. Other errors are this server's own: 500, and its log.
    @app.errorhandler(relay.BadRequest)
    def refuse(error: relay.BadRequest) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, error.status

    @app.errorhandler(relay.LogError)
    def unavailable(error: relay.LogError) -> tuple[dict[str, str], int]:
        return {"error": error.shown}, 503

    @app.after_request
    def protect(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return app
