"""Headers, whole answers, and the responses of Flask and Django."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from support import ANSWER, DELTAS, OPENING, PATIENCE, eventually

from llmstream import Cancelled, Client, ConfigurationError, RetryPolicy, Stream, relay
from llmstream.relay.protocols import PROTOCOLS
from llmstream.testing import Answer, FakeTransport, LLMServer, Reply, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")

flask = pytest.importorskip("flask", reason="needs Flask (extra `test`)")
django = pytest.importorskip("django", reason="needs Django (extra `test`)")


def streams(*script: Any, **settings: Any) -> Callable[..., Stream]:
    client = Client(base_url="http://test", transport=FakeTransport(*script), **settings)
    return lambda **options: client.stream("Hi", **options)


# ---- headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_keeps_compresses_or_guesses(protocol: str) -> None:
    found = relay.headers(protocol)
    assert found["Content-Encoding"] == "identity"
    assert found["Cache-Control"] == "no-cache, no-transform"
    assert found["X-Accel-Buffering"] == "no"
    assert found["X-Content-Type-Options"] == "nosniff"
    assert found["Content-Type"].endswith("; charset=utf-8")
    assert "connection" not in {name.lower() for name in found}  # hop by hop: not a WSGI header
    assert all(isinstance(value, str) and value.isascii() for value in found.values())


def test_the_headers_of_a_version() -> None:
    for version in (5, 6, 7):
        found = relay.headers("ui-message", version=version)
        assert found["x-vercel-ai-ui-message-stream"] == "v1"


@pytest.mark.parametrize(
    "origin", ["https://app.example.com", "http://localhost:5173", "http://[::1]:80"]
)
def test_an_origin_may_read(origin: str) -> None:
    found = relay.headers("events", cors=origin)
    assert found["Access-Control-Allow-Origin"] == origin
    assert found["Vary"] == "Origin"


def test_every_origin_may_read() -> None:
    found = relay.headers("events", cors="*")
    assert found["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in found
    assert "Access-Control-Allow-Origin" not in relay.headers("events")


@pytest.mark.parametrize(
    "odd",
    ["", "app.example.com", "https://a/path", "https://a\r\nX: 1", "https://a, https://b", 7, True],
)
def test_what_is_no_origin(odd: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass an origin"):
        relay.headers("events", cors=odd)


# ---- whole -------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["responses", "messages", "chat", "gemini"])
def test_an_answer_in_one_piece(api: str) -> None:
    answer = Answer(
        "The \u2028 sky", thinking="Hm.", tool_calls=[("look", '{"at": "sky"}')], usage=(3, 5)
    )
    stream = streams(answer, api=api, model="m")()
    found = relay.whole(stream)
    result = stream.result()
    assert found["text"] == "The \u2028 sky"
    assert found["thinking"] == "Hm."
    assert [call["name"] for call in found["tool_calls"]] == ["look"]
    assert json.loads(found["tool_calls"][0]["arguments"]) == {"at": "sky"}
    assert found["usage"]["output_tokens"] == 5
    assert (found["finish"], found["trace_id"]) == (result.finish, stream.trace_id)
    assert "error" not in found
    assert json.loads(json.dumps(found)) == found
    assert None not in found.values()


def test_an_answer_that_fails() -> None:
    """What has arrived, and what anybody may read; nothing of the service."""
    once = RetryPolicy(max_attempts=1)
    cut = relay.whole(streams(Reply([*OPENING, *DELTAS[:2]]), retry=once)())
    assert cut["text"] == "one two"
    assert cut["error"]["type"] == "StreamTruncated"
    assert cut["error"]["retryable"] is True
    assert "finish" not in cut
    secret = Reply.error(400, message="the secret words of the service")
    refused = relay.whole(streams(secret, retry=once)())
    assert refused["text"] == ""
    assert refused["error"] == {
        "type": "InvalidRequestError",
        "message": "This request cannot be answered.",
        "retryable": False,
    }
    assert "secret" not in json.dumps(refused)


def test_what_the_error_says_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody raises it: an operator finds the reason by the trace id that the browser has."""
    caplog.set_level("WARNING", "llmstream")
    stream = streams(Reply.error(404, message="no model of that name"), api_key="the-key-0123")()
    found = relay.whole(stream)
    (line,) = [one.getMessage() for one in caplog.records if "relay failed" in one.getMessage()]
    assert f"trace_id={found['trace_id']} InvalidRequestError: " in line
    assert "no model of that name" in line
    assert "the-key-0123" not in line


def test_a_browser_that_left_is_no_line_of_the_log(
    server: LLMServer, client_for: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "llmstream")
    server.script(Reply([*OPENING, *DELTAS[:2], Silence()]))
    body = relay.sse(client_for(server).stream("Hi"))
    while b"one" not in next(body):
        pass
    body.close()
    eventually(lambda: body._batches._pump.end, "the thread has ended")
    assert caplog.text == ""


def test_an_answer_that_began_anew() -> None:
    """Has nothing from before that."""
    again = Reply([*OPENING, *DELTAS[:2]]), Answer("a new one")
    retry = RetryPolicy(base=0.0, cap=0.0, jitter=0.0)
    found = relay.whole(streams(*again, on_disconnect="restart", retry=retry)())
    assert found["text"] == "a new one"
    assert found["finish"] == "stop"


def test_what_is_no_stream() -> None:
    for odd in (None, "text", 7, []):
        with pytest.raises(ConfigurationError, match="pass a stream"):
            relay.whole(odd)


# ---- Flask -------------------------------------------------------------------------------------


@pytest.fixture
def app(server: LLMServer, client_for: Callable[..., Client]) -> Any:
    made = flask.Flask("test")
    made.testing = True
    client = client_for(server)

    @made.route("/chat", methods=["GET", "POST"])
    def chat() -> Any:
        options = dict(flask.request.args)
        return relay.flask_response(client.stream("Hi"), **options)

    @made.get("/nothing")
    def nothing() -> Any:
        return relay.flask_response(None, cors="https://a")

    @made.get("/made")
    def body() -> Any:
        return relay.flask_response(relay.sse(client.stream("Hi"), "text"), "text")

    return made


def test_flask(app: Any, server: LLMServer) -> None:
    server.script(ANSWER)
    response = app.test_client().post("/chat?protocol=ui-message&cors=https://a")
    wanted = relay.headers("ui-message", cors="https://a")
    assert response.status_code == 200
    assert {name: response.headers[name] for name in wanted} == wanted
    assert b'"finishReason":"stop"' in response.data


def test_flask_with_a_body(app: Any, server: LLMServer) -> None:
    server.script(ANSWER)
    response = app.test_client().get("/made")
    assert response.data.decode() == "one two three four"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_flask_without_a_body(app: Any) -> None:
    response = app.test_client().get("/nothing")
    assert (response.status_code, response.data) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == "https://a"
    assert response.headers["Cache-Control"] == "no-store"


def test_flask_closes_what_is_not_read(app: Any, server: LLMServer) -> None:
    """A server that is asked for the head alone, and one whose browser leaves."""
    assert app.test_client().head("/chat").status_code == 200
    assert not server.requests
    server.script(Reply([*OPENING, *DELTAS[:2], Silence()]))
    response = app.test_client().get("/chat", buffered=False)
    found = iter(response.response)
    while b"one" not in next(found):
        pass
    response.close()
    server.wait_closed(0)


@pytest.mark.parametrize("path", ["/chat", "/made"])
def test_flask_does_not_run_a_prompt_twice(app: Any, server: LLMServer, path: str) -> None:
    """A browser that lost its connection asks again by itself."""
    response = app.test_client().get(path, headers={"Last-Event-ID": "3"})
    assert (response.status_code, response.data) == (204, b"")
    assert response.headers["Cache-Control"] == "no-store"
    assert not server.requests


def test_what_no_response_can_be_made_of(app: Any) -> None:
    with app.test_request_context("/"):
        for odd in ("text", b"text", 7, ["a"], iter([b"a"])):
            with pytest.raises(ConfigurationError, match="pass a stream"):
                relay.flask_response(odd)


# ---- Django ------------------------------------------------------------------------------------


@pytest.fixture
def configured() -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure()


def gzipped(response: Any) -> Any:
    from django.http import HttpRequest
    from django.middleware.gzip import GZipMiddleware

    request = HttpRequest()
    request.META["HTTP_ACCEPT_ENCODING"] = "gzip"
    return GZipMiddleware(lambda given: response)(request)


@pytest.mark.usefixtures("configured")
def test_django() -> None:
    """GZipMiddleware does not touch it."""
    response = gzipped(
        relay.django_response(streams(ANSWER)(), protocol="ui-message", cors="https://a")
    )
    wanted = relay.headers("ui-message", cors="https://a")
    assert {name: response.headers[name] for name in wanted} == wanted
    assert (response.status_code, response.streaming) == (200, True)
    assert b'"finishReason":"stop"' in b"".join(response)


async def read(response: Any) -> list[bytes]:
    async with aclosing(aiter(response)) as found:  # as ASGIHandler does
        return [piece async for piece in found]


@pytest.mark.usefixtures("configured")
def test_django_under_asgi() -> None:
    response = gzipped(relay.django_response(streams(ANSWER)(), "text"))
    found = asyncio.run(asyncio.wait_for(read(response), PATIENCE))
    assert b"".join(found).decode() == "one two three four"


@pytest.mark.usefixtures("configured")
def test_django_under_asgi_with_middleware_that_changes_the_body() -> None:
    """Its body is the one that is sent."""
    response = relay.django_response(streams(ANSWER)(), "text")
    before = response.streaming_content

    async def louder() -> Any:
        for piece in before:
            yield piece.upper()

    response.streaming_content = louder()
    found = asyncio.run(asyncio.wait_for(read(response), PATIENCE))
    assert b"".join(found).decode() == "ONE TWO THREE FOUR"
    response.close()


@pytest.mark.usefixtures("configured")
def test_django_under_asgi_with_middleware_that_knows_no_asgi(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Its body streams all the same, and ends with the browser that leaves."""
    server.script(Reply([*OPENING, *DELTAS[:2], Silence()]))
    response = relay.django_response(client_for(server).stream("Hi"))
    before = response.streaming_content
    response.streaming_content = (piece.upper() for piece in before)

    async def leave() -> None:
        async with aclosing(aiter(response)) as pieces:
            async for piece in pieces:
                if b"ONE" in piece:
                    return

    asyncio.run(asyncio.wait_for(leave(), PATIENCE))
    server.wait_closed(0)
    response.close()


@pytest.mark.usefixtures("configured")
def test_django_closes_what_is_not_read(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    client = client_for(server)
    unread = client.stream("Hi")
    relay.django_response(unread).close()
    with pytest.raises(Cancelled):
        unread.result()
    server.script(Reply([*OPENING, *DELTAS[:2], Silence()]))
    response = relay.django_response(client.stream("Hi"))
    found: Iterator[bytes] = iter(response)
    while b"one" not in next(found):
        pass
    response.close()
    server.wait_closed(0)


@pytest.mark.usefixtures("configured")
def test_django_without_a_body() -> None:
    stream = streams(ANSWER)()
    for response in (
        relay.django_response(None, cors="*"),
        relay.django_response(stream, cors="*", last_event_id="3"),
    ):
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    with pytest.raises(Cancelled):
        stream.result()


@pytest.mark.parametrize("name", ["flask", "django"])
def test_a_framework_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said how to install it; and the stream is as it was."""
    import sys

    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "llmstream.relay.django_class", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    stream = streams(ANSWER)()
    with pytest.raises(ConfigurationError, match=rf"pip install 'llmstream-sync\[{name}\]'"):
        getattr(relay, f"{name}_response")(stream)
    assert stream.result().text == "one two three four"
