"""The contenders: how each of them is asked for an answer, and how its events say text.

A contender is made for one API and one load server, and used in a process of its own (measure.py).
All get what their documentation recommends for many streams: one client, as many connections as
there are streams, and no retries, which would hide a failure. What is asked for is named by the
model, see load.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import importlib.util
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar, cast

import wire

__all__ = [
    "CONTENDERS",
    "AsyncContender",
    "Contender",
    "contender",
    "installed",
    "read_whole",
]

_KEY = "sk-benchmark"
_PROMPT = "Why is the sky blue?"
_CHAT_PROMPT = [{"role": "user", "content": _PROMPT}]
_MAX_TOKENS = 4096
_JSON = {"Content-Type": "application/json"}
_DELTA = re.compile(rb'"delta":"([^"]*)"')  # of the Responses API
_PATIENCE = 600.0  # seconds; else the vendors' 5 s to connect end what 1,000 threads began at once

Text = Callable[[Any], str]


class _Common:
    """A library, and one way of using it. `apis` are those it is measured with, `needs` the
    packages it takes, `text` says what of the answer an event brings."""

    apis: ClassVar[tuple[str, ...]] = wire.APIS
    needs: ClassVar[tuple[str, ...]] = ()
    text: Text

    def __init__(
        self, api: str, address: str, connections: int = 1, trust: str = "", *, reuse: bool = True
    ) -> None:
        self.api = api
        self.address = address
        self.base_url = address if api == "messages" else f"{address}/v1"
        self.connections = connections
        self.trust = trust  # the file of CA certificates, where the address has TLS
        self.reuse = reuse  # whether connections are kept
        self.text = _TYPED[api]
        self.set_up()

    def set_up(self) -> None:
        """Make the client."""

    def close(self) -> None:
        """Free what is left."""


class Contender(_Common):
    """A library used from threads."""

    def events(self, model: str) -> Iterator[Any]:
        """What a user's loop is given for an answer."""
        raise NotImplementedError

    def count(self, model: str) -> int:
        """Read a whole answer; the number of its characters."""
        text = self.text
        total = 0
        for event in self.events(model):
            total += len(text(event))
        return total

    def read(self, model: str) -> int:
        """The same with as little as possible: a layer of HTTP leaves the events unread."""
        return self.count(model)


class AsyncContender(_Common):
    """A library used from an event loop."""

    def __init__(
        self, api: str, address: str, connections: int = 1, trust: str = "", *, reuse: bool = True
    ) -> None:
        self.loop = asyncio.new_event_loop()
        super().__init__(api, address, connections, trust, reuse=reuse)

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def events(self, model: str) -> AsyncIterator[Any]:
        """What a user's loop is given for an answer."""
        raise NotImplementedError

    def count(self, model: str) -> int:
        """Read a whole answer; the number of its characters."""
        return self.loop.run_until_complete(self._count(model))

    async def _count(self, model: str) -> int:
        text = self.text
        total = 0
        async for event in self.events(model):
            total += len(text(event))
        return total


# ---- what events say: the same functions for every library with typed events -------------------


def _responses_text(event: Any) -> str:
    kind = event.type
    if kind == "response.output_text.delta":
        return event.delta
    if kind == "response.image_generation_call.partial_image":
        return event.partial_image_b64
    return ""


def _messages_text(event: Any) -> str:
    return event.delta.text if event.type == "content_block_delta" else ""


def _chat_text(event: Any) -> str:
    choices = event.choices
    return (choices[0].delta.content or "") if choices else ""


_TYPED: dict[str, Text] = {
    "responses": _responses_text,
    "messages": _messages_text,
    "chat": _chat_text,
}


def _helper_text(event: Any) -> str:
    """openai's helper for chat has events of its own beside the chunks."""
    return event.delta if event.type == "content.delta" else ""


# ---- the floor ---------------------------------------------------------------------------------


class Floor(Contender):
    """A bare socket and orjson: `recv`, the sizes of the HTTP chunks, the lines, `loads`."""

    needs = ("orjson",)

    def set_up(self) -> None:
        import orjson

        self.context = ssl.create_default_context(cafile=self.trust) if self.trust else None
        self.loads = orjson.loads
        self.text = _PLAIN[self.api]
        self.idle: list[Any] = []  # connections

    def close(self) -> None:
        for connection in self.idle:
            connection.close()

    def events(self, model: str) -> Iterator[Any]:
        loads = self.loads
        for lines in self._lines(model):
            for line in lines:
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    yield loads(line[6:])

    def count(self, model: str) -> int:
        # Without the generator of `events`: what is not needed does not belong to a floor.
        loads, text = self.loads, self.text
        total = 0
        for lines in self._lines(model):
            for line in lines:
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    total += len(text(loads(line[6:])))
        return total

    def read(self, model: str) -> int:
        # No JSON: a layer of HTTP does not know what it brings.
        return sum(map(len, _DELTA.findall(b"".join(self._bodies(model)))))

    def _lines(self, model: str) -> Iterator[list[bytes]]:
        """The whole lines of the body, as they come."""
        pending: list[bytes] = []
        for body in self._bodies(model):
            if b"\n" in body:
                lines = b"".join([*pending, body]).split(b"\n")
                pending = [lines.pop()]
                yield lines
            else:
                pending.append(body)

    def _bodies(self, model: str) -> Iterator[bytes]:
        """The body without the framing of its chunks, as much as each `recv` brings."""
        host, _, port = self.address.partition("://")[2].partition(":")
        asked = _asked(model)
        request = (
            f"POST {wire.PATHS[self.api]} HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(asked)}\r\n\r\n"
        )
        with self._connection(lambda: self._connected(host, int(port))) as sock:
            sock.sendall(request.encode() + asked)
            data = b""
            while b"\r\n\r\n" not in data:
                data += _received(sock)
            data = data.partition(b"\r\n\r\n")[2]
            while True:
                chunks = []
                at = 0
                while (end := data.find(b"\r\n", at)) >= 0:
                    size = int(data[at:end], 16)
                    stop = end + 2 + size
                    if not size or len(data) < stop + 2:
                        break
                    chunks.append(data[end + 2 : stop])
                    at = stop + 2
                if chunks:
                    yield b"".join(chunks)
                if data.startswith(b"0\r\n\r\n", at):
                    return
                data = data[at:] + _received(sock)

    @contextlib.contextmanager
    def _connection(self, connect: Callable[[], Any]) -> Iterator[Any]:
        """An idle connection, or a new one. It is kept if the answer was read to its end."""
        connection = self.idle.pop() if self.idle else connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self.reuse:
            self.idle.append(connection)
        else:
            connection.close()

    def _connected(self, host: str, port: int) -> socket.socket:
        sock = socket.create_connection((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(sock, server_hostname=host) if self.context else sock


class HTTPClient(Floor):
    """The standard library's http.client, and the lines and JSON of the floor."""

    apis = ()  # only where it is named

    def _bodies(self, model: str) -> Iterator[bytes]:
        with self._connection(self._made) as connection:
            connection.request("POST", wire.PATHS[self.api], _asked(model), _JSON)
            response = connection.getresponse()
            while data := response.read1():
                yield data

    def _made(self) -> http.client.HTTPConnection:
        host = self.address.partition("://")[2]
        if self.context:
            return http.client.HTTPSConnection(host, context=self.context)
        return http.client.HTTPConnection(host)


class URLLib3(Floor):
    """`urlopen` of one of urllib3's pools, and the lines and JSON of the floor."""

    apis = ()
    needs = ("orjson", "urllib3")

    def set_up(self) -> None:
        super().set_up()
        import urllib3

        more = {"ssl_context": self.context} if self.trust else {}
        self.pool = urllib3.connection_from_url(self.address, maxsize=self.connections, **more)

    def close(self) -> None:
        self.pool.close()

    def _bodies(self, model: str) -> Iterator[bytes]:
        response = self.pool.urlopen(
            "POST",
            wire.PATHS[self.api],
            body=_asked(model),
            headers=_JSON,
            retries=False,
            preload_content=False,
            timeout=_PATIENCE,
        )
        while data := response.read1():
            yield data
        response.release_conn()
        if not self.reuse:
            self.pool.pool.get(block=False).close()
            self.pool.pool.put(None, block=False)


class Requests(Floor):
    """`post` of a Session of requests, or without one where no connection is kept, and the lines
    and JSON of the floor."""

    apis = ()
    needs = ("orjson", "requests")

    def set_up(self) -> None:
        super().set_up()
        import requests

        self.session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=self.connections)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, adapter)
        self.post = self.session.post if self.reuse else requests.post

    def close(self) -> None:
        self.session.close()

    def _bodies(self, model: str) -> Iterator[bytes]:
        with self.post(
            self.address + wire.PATHS[self.api],
            _asked(model),
            headers=_JSON,
            stream=True,
            verify=self.trust or True,
        ) as response:
            while data := response.raw.read1():
                yield data


def _asked(model: str) -> bytes:
    return f'{{"model":"{model}","stream":true}}'.encode()


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("the load server closed the connection")
    return data


def _responses_plain(event: Any) -> str:
    kind = event["type"]
    if kind == "response.output_text.delta":
        return event["delta"]
    if kind == "response.image_generation_call.partial_image":
        return event["partial_image_b64"]
    return ""


def _messages_plain(event: Any) -> str:
    return event["delta"]["text"] if event["type"] == "content_block_delta" else ""


def _chat_plain(event: Any) -> str:
    choices = event["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


_PLAIN: dict[str, Text] = {
    "responses": _responses_plain,
    "messages": _messages_plain,
    "chat": _chat_plain,
}


# ---- llmstream ---------------------------------------------------------------------------------


class LLMStream(Contender):
    """Typed events, with state, usage, clocks and a Prometheus observer: what a user runs."""

    def set_up(self) -> None:
        from llmstream import Client

        self.client = Client(
            self.api,
            base_url=self.base_url,
            api_key=_KEY,
            max_connections=self.connections,
            idle_connection_timeout=60 if self.reuse else 0,
            verify=self.trust or True,
            observers=self.observers(),
        )

    def observers(self) -> tuple[Any, ...]:
        from prometheus_client import CollectorRegistry

        from llmstream.telemetry.prometheus import PrometheusObserver

        return (PrometheusObserver(registry=CollectorRegistry()),)

    def close(self) -> None:
        self.client.close()

    def events(self, model: str) -> Iterator[Any]:
        return self.client.stream(_PROMPT, model=model).events()


class LLMStreamBare(LLMStream):
    """The same without an observer."""

    def observers(self) -> tuple[Any, ...]:
        return ()


class LLMStreamAll(LLMStream):
    """The same with all observers: metrics, OpenTelemetry's SDK with spans and metrics kept in
    memory, the page of `--timeline`, and a log that takes every line."""

    needs = ("opentelemetry.sdk",)

    def observers(self) -> tuple[Any, ...]:
        import logging

        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        from llmstream.telemetry.otel import OpenTelemetryObserver
        from llmstream.telemetry.timeline import TimelineObserver

        log = logging.getLogger("llmstream")
        log.setLevel(logging.DEBUG)
        log.propagate = False
        tracing = TracerProvider()
        tracing.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
        metering = MeterProvider([InMemoryMetricReader()])
        opentelemetry = OpenTelemetryObserver(tracing, metering)
        return (*super().observers(), opentelemetry, TimelineObserver())


class LLMStreamText(LLMStream):
    """The same with the simplest view, `for tok in stream`."""

    def set_up(self) -> None:
        super().set_up()
        self.text = str

    def events(self, model: str) -> Iterator[Any]:
        return iter(self.client.stream(_PROMPT, model=model))


class LLMStreamParts(Contender):
    """llmstream's own transport, framing, SSE and decoding, and nothing above them: no state,
    usage, clocks, metrics or views."""

    def set_up(self) -> None:
        from llmstream._core.dialects import APIS
        from llmstream._core.framing import Framer
        from llmstream._core.request import Request
        from llmstream._core.session import MAX_EVENT_BYTES
        from llmstream._core.sse import parse
        from llmstream._transport.adapter import RequestsTransport

        self.dialect: Any = APIS[self.api].load()
        self.call = Request
        self.framer = lambda: Framer(MAX_EVENT_BYTES)
        self.parse = parse
        self.transport = RequestsTransport(max_connections=self.connections)

    def close(self) -> None:
        self.transport.close()

    def events(self, model: str) -> Iterator[Any]:
        request = self.dialect.request(self.call(prompt=_PROMPT, model=model), self.base_url)
        exchange = self.transport.send(request, cast(Any, _NoGuard()))
        feed, parse, decode = self.framer().feed, self.parse, self.dialect.decode
        while data := exchange.read():
            for name, said in parse(feed(data)):
                if said != b"[DONE]":
                    yield decode(name, said)
        exchange.finish()


class _NoClock:
    """No time passes, no clock runs."""

    at = float("inf")

    @staticmethod
    def monotonic() -> float:
        return 0.0


class _NoGuard:
    """Stands where the transport expects the scope of a call, and does nothing."""

    timers = clock = _NoClock
    stop_reason = listener = None
    phase = "connect"
    bytes = 0
    eof = reused = has_turn = False

    def nothing(self, *args: Any, **options: Any) -> None:
        """Nothing is timed, nothing is stopped."""

    attach = detach = check = enter = begin_wait = end_wait = nothing
    sending = awaiting_response = pause = wake = nothing


# ---- openai ------------------------------------------------------------------------------------


class OpenAICreate(Contender):
    """`create(stream=True)`."""

    apis = ("responses", "chat")
    needs = ("openai",)

    def set_up(self) -> None:
        import openai

        self.client = openai.OpenAI(
            http_client=openai.DefaultHttpxClient(**_pool(openai, self)),
            **_options(self),
        )

    def events(self, model: str) -> Iterator[Any]:
        return _openai_create(self.client, self.api, model)


class OpenAIStream(OpenAICreate):
    """`.stream()`."""

    def set_up(self) -> None:
        super().set_up()
        if self.api == "chat":
            self.text = _helper_text

    def events(self, model: str) -> Iterator[Any]:
        with _openai_stream(self.client, self.api, model) as stream:
            yield from stream


class OpenAICreateAsync(AsyncContender):
    """`create(stream=True)` of the asyncio client."""

    apis = ("responses", "chat")
    needs = ("openai",)

    def set_up(self) -> None:
        import openai

        self.client = openai.AsyncOpenAI(
            http_client=openai.DefaultAsyncHttpxClient(**_pool(openai, self)),
            **_options(self),
        )

    async def events(self, model: str) -> AsyncIterator[Any]:
        async for event in await _openai_create(self.client, self.api, model):
            yield event


class OpenAIStreamAsync(OpenAICreateAsync):
    """`.stream()` of the asyncio client."""

    def set_up(self) -> None:
        super().set_up()
        if self.api == "chat":
            self.text = _helper_text

    async def events(self, model: str) -> AsyncIterator[Any]:
        async with _openai_stream(self.client, self.api, model) as stream:
            async for event in stream:
                yield event


def _openai_create(client: Any, api: str, model: str) -> Any:
    if api == "responses":
        return client.responses.create(model=model, input=_PROMPT, stream=True)
    return client.chat.completions.create(
        model=model,
        messages=_CHAT_PROMPT,
        stream=True,
        stream_options={"include_usage": True},
    )


def _openai_stream(client: Any, api: str, model: str) -> Any:
    if api == "responses":
        return client.responses.stream(model=model, input=_PROMPT)
    return client.chat.completions.stream(
        model=model, messages=_CHAT_PROMPT, stream_options={"include_usage": True}
    )


def _options(made: _Common) -> dict[str, Any]:
    """The arguments that all clients of the two vendors take."""
    return {"api_key": _KEY, "base_url": made.base_url, "max_retries": 0, "timeout": _PATIENCE}


def _pool(package: Any, made: _Common) -> dict[str, Any]:
    """Limits of the HTTP library that the vendor's package is built on, and one SSLContext for all
    of its connections."""
    bases = (base.__module__.partition(".")[0] for base in package.DefaultHttpxClient.__mro__)
    library = importlib.import_module(next(name for name in bases if name.startswith("httpx")))
    kept = made.connections if made.reuse else 0
    pool = {"limits": library.Limits(max_connections=None, max_keepalive_connections=kept)}
    if made.trust:
        pool["verify"] = ssl.create_default_context(cafile=made.trust)
    return pool


# ---- anthropic ---------------------------------------------------------------------------------


class AnthropicCreate(Contender):
    """`create(stream=True)`."""

    apis = ("messages",)
    needs = ("anthropic",)

    def set_up(self) -> None:
        import anthropic

        self.client = anthropic.Anthropic(
            http_client=anthropic.DefaultHttpxClient(**_pool(anthropic, self)),
            **_options(self),
        )

    def events(self, model: str) -> Iterator[Any]:
        return self.client.messages.create(**_message(model), stream=True)


class AnthropicStream(AnthropicCreate):
    """`.stream()`."""

    def events(self, model: str) -> Iterator[Any]:
        with self.client.messages.stream(**_message(model)) as stream:
            yield from stream


class AnthropicCreateAsync(AsyncContender):
    """`create(stream=True)` of the asyncio client."""

    apis = ("messages",)
    needs = ("anthropic",)

    def set_up(self) -> None:
        import anthropic

        self.client = anthropic.AsyncAnthropic(
            http_client=anthropic.DefaultAsyncHttpxClient(**_pool(anthropic, self)),
            **_options(self),
        )

    async def events(self, model: str) -> AsyncIterator[Any]:
        async for event in await self.client.messages.create(**_message(model), stream=True):
            yield event


class AnthropicStreamAsync(AnthropicCreateAsync):
    """`.stream()` of the asyncio client."""

    async def events(self, model: str) -> AsyncIterator[Any]:
        async with self.client.messages.stream(**_message(model)) as stream:
            async for event in stream:
                yield event


def _message(model: str) -> dict[str, Any]:
    return {"model": model, "max_tokens": _MAX_TOKENS, "messages": _CHAT_PROMPT}


# ---- litellm -----------------------------------------------------------------------------------

# API -> provider, and a model that litellm knows
_LIKE = {
    "responses": ("openai", "gpt-4.1-mini"),
    "messages": ("anthropic", "claude-sonnet-4-5"),
    "chat": ("openai", "gpt-4.1-mini"),
}


class LiteLLM(Contender):
    """`completion(stream=True)`, for responses `responses(stream=True)`."""

    needs = ("litellm",)

    def set_up(self) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched
        import litellm

        litellm.suppress_debug_info = True
        self.litellm: Any = litellm
        if self.api == "messages":
            self.text = _chat_text  # its events have chat's form, whatever the API

    def events(self, model: str) -> Iterator[Any]:
        provider, like = _LIKE[self.api]
        name = f"{provider}/{model}"
        if name not in self.litellm.model_cost:
            # what it does not know, it would not stream, and look up again and again
            self.litellm.register_model({name: dict(self.litellm.model_cost[like])})
        where = {"api_base": self.base_url, "api_key": _KEY, "stream": True}
        if self.api == "responses":
            return self.litellm.responses(model=name, input=_PROMPT, **where)
        return self.litellm.completion(
            model=name,
            messages=_CHAT_PROMPT,
            max_retries=0,
            timeout=_PATIENCE,
            **where,
        )


CONTENDERS: dict[str, type[Contender] | type[AsyncContender]] = {
    "floor": Floor,
    "http.client": HTTPClient,
    "urllib3": URLLib3,
    "requests": Requests,
    "llmstream": LLMStream,
    "llmstream, text": LLMStreamText,
    "llmstream, no observer": LLMStreamBare,
    "llmstream, all observers": LLMStreamAll,
    "llmstream, parts": LLMStreamParts,
    "openai create": OpenAICreate,
    "openai stream": OpenAIStream,
    "openai create, asyncio": OpenAICreateAsync,
    "openai stream, asyncio": OpenAIStreamAsync,
    "anthropic create": AnthropicCreate,
    "anthropic stream": AnthropicStream,
    "anthropic create, asyncio": AnthropicCreateAsync,
    "anthropic stream, asyncio": AnthropicStreamAsync,
    "litellm": LiteLLM,
}


def installed(name: str) -> bool:
    """Whether the packages are there that a contender takes."""
    return all(_is_there(package) for package in CONTENDERS[name].needs)


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even what it is a part of
        return False


@contextlib.contextmanager
def contender(
    name: str,
    api: str,
    address: str,
    connections: int = 1,
    trust: str = "",
    *,
    reuse: bool = True,
) -> Iterator[Contender | AsyncContender]:
    """A contender, ready, and warm: it has read a short answer."""
    made = CONTENDERS[name](api, address, connections, trust, reuse=reuse)
    try:
        read_whole(made, 500, 1)
        yield made
    finally:
        made.close()


def read_whole(made: Contender | AsyncContender, tokens: int, each: int) -> None:
    """Read an answer of so many tokens. Raises AssertionError where not all of it was there."""
    found, expected = made.count(f"fast-{tokens}-{each}"), wire.characters(tokens)
    assert found == expected, f"{found} characters of {expected}"
