"""An application of Flask."""

from __future__ import annotations

from typing import Any

from flask import Flask, request

from llmstream import relay

from . import common

app = Flask(__name__)


@app.get("/chat")
def chat() -> Any:
    stream, options = common.asked(request.args)
    return relay.flask_response(stream, **options)


@app.get("/plain")
def plain() -> Any:
    """By hand: the body and the headers."""
    stream, options = common.asked(request.args)
    protocol = options.pop("protocol")
    return app.response_class(
        relay.sse(stream, protocol, **options), headers=relay.headers(protocol)
    )


@app.get("/whole")
def whole() -> Any:
    return relay.whole(common.asked(request.args)[0])


@app.get("/state")
def state() -> Any:
    return common.state()
