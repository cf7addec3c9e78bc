"""An application of Starlette, which FastAPI is made of."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from llmstream import relay

from . import common


async def chat(request: Request) -> StreamingResponse:
    stream, options = common.asked(request.query_params)
    protocol = options.pop("protocol")
    body: Any = relay.sse(stream, protocol, **options)
    return StreamingResponse(body, headers=relay.headers(protocol))


async def state(request: Request) -> JSONResponse:
    return JSONResponse(common.state())


app = Starlette(routes=[Route("/chat", chat), Route("/state", state)])
