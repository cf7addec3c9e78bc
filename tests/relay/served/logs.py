"""An application of Flask whose answers go on: the log is the Redis at the address in REDIS_URL."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, request

from llmstream import relay

from . import common

app = Flask(__name__)
log = relay.RedisLog(os.environ["REDIS_URL"], lease=float(os.environ["LEASE"]))


@app.get("/publish/<id>")
def publish(id: str) -> Any:
    stream, _ = common.asked(request.args)
    return {"first": bool(relay.publish(log, id, stream, interval=0.0)), "pid": os.getpid()}


@app.get("/follow/<id>")
def follow(id: str) -> Any:
    body = relay.follow(log, id, request.headers.get("Last-Event-ID"))
    return relay.flask_response(body)


@app.get("/stop/<id>")
def stop(id: str) -> Any:
    return {"stopped": relay.stop(log, id)}


@app.get("/state")
def state() -> Any:
    return common.state()
