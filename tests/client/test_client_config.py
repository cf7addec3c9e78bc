"""Settings, requests and the caller's mistakes: what goes out on the wire, and what never does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses
from every import every
from support import AT_ONCE, ONCE, PROMPT, bounded, eventually, failure

import llmstream
import llmstream.client
from llmstream import (
    AuthenticationError,
    Client,
    ConfigurationError,
    LLMStreamError,
    OverloadedError,
    RateLimitError,
    RetryPolicy,
    Stream,
    Timeouts,
)
from llmstream.testing import Answer, LLMServer, Reply

OPENAI = "https://api.openai.com/v1/responses"
SSE = {"content_type": "text/event-stream"}
HELLO = b"".join(Answer("Hello").blocks())

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def _no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keyring of whoever runs the tests is not asked."""
    import llmstream._settings.client
    import llmstream._settings.environment

    for module in (
        llmstream._settings.environment,
        llmstream._settings.client,
        llmstream.client,
    ):
        monkeypatch.setattr(module, "keyring_settings", lambda api: None, raising=False)


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    """The vendors' addresses without the vendors: requests are answered by `responses`."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def sent(wire: responses.RequestsMock) -> Any:
    """The one request that was made."""
    (call,) = wire.calls
    return call.request


# ---- the request on the wire -------------------------------------------------------------------

MINIMAL = {
    "model": "gpt-5.4-mini",
    "input": PROMPT,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
NESTED = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
BODIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing said": ({}, {}),
    "model": ({"model": "m"}, {"model": "m"}),
    "instructions": ({"instructions": "Be brief."}, {"instructions": "Be brief."}),
    "max_output_tokens": ({"max_output_tokens": 10}, {"max_output_tokens": 10}),
    "temperature": ({"temperature": 0.0}, {"temperature": 0.0}),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5}),
    "tools": (
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "auto"},
    ),
    "tools in the chat form": (
        {"tools": [NESTED], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}},
    ),
    "no tools": ({"tools": []}, {}),
    "thinking": ({"thinking": True}, {"reasoning": {"summary": "auto"}}),
    "thinking hard": (
        {"thinking": "high"},
        {"reasoning": {"effort": "high", "summary": "auto"}},
    ),
    "thinking as an object": (
        {"thinking": {"effort": "low"}},
        {"reasoning": {"effort": "low"}},
    ),
    "not thinking": ({"thinking": False}, {}),
    "background": ({"background": True}, {"background": True, "store": True}),
    "extra_body": (
        {"extra_body": {"seed": 7, "text": {"format": {"type": "json_object"}}}},
        {"seed": 7, "text": {"format": {"type": "json_object"}}},
    ),
    "extra_body has the last word": (
        {"extra_body": {"model": "other", "stream_options": None}},
        {"model": "other", "stream_options": None},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "added"), BODIES.values(), ids=BODIES.keys())
def test_the_body(
    wire: responses.RequestsMock, options: dict[str, Any], added: dict[str, Any]
) -> None:
    """The JSON of a request is exactly what was asked for, and nothing that was not."""
    wire.post(OPENAI, body=HELLO, **SSE)
    client = Client("responses", api_key="k")
    assert client.stream(PROMPT, **options).result().text == "Hello"
    assert json.loads(sent(wire).body) == {**MINIMAL, **added}


def test_turns(wire: responses.RequestsMock) -> None:
    """A list of turns goes out as the input, unchanged, whatever becomes of the list later."""
    wire.post(OPENAI, body=HELLO, **SSE)
    turns = [dict(turn) for turn in TURNS]
    stream = Client("responses", api_key="k").stream(turns)
    turns.append({"role": "user", "content": "too late"})
    turns[0]["content"] = "changed"
    stream.result()
    assert json.loads(sent(wire).body)["input"] == TURNS


def test_text_goes_out_as_it_is(wire: responses.RequestsMock) -> None:
    """Any text is sent unchanged, in UTF-8."""
    text = 'naïve \U0001f600 \u2028 \x00 "quoted" \\ end\n'
    wire.post(OPENAI, body=HELLO, **SSE)
    Client("responses", api_key="k").stream(text).result()
    assert json.loads(sent(wire).body)["input"] == text


def test_the_headers(wire: responses.RequestsMock) -> None:
    """The headers of a request, all of them."""
    wire.post(OPENAI, body=HELLO, **SSE)
    Client("responses", api_key="the-key").stream(PROMPT, trace_id="trace-1").result()
    headers = {name.lower(): value for name, value in sent(wire).headers.items()}
    del headers["content-length"]
    assert headers == {
        "authorization": "Bearer the-key",
        "content-type": "application/json",
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "user-agent": f"llmstream/{llmstream.__version__}",
        "x-client-request-id": "trace-1",
    }


def test_headers_of_the_caller(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A call's headers win over the client's, these over ours; case does not matter."""
    client = client_for(server, headers={"X-One": "client", "X-Two": "client"})
    client.stream(PROMPT, headers={"x-one": "call", "User-Agent": "mine"}).result()
    headers = server.requests[0].headers
    assert (headers["x-one"], headers["x-two"]) == ("call", "client")
    assert headers["user-agent"] == "mine"
    client.stream(PROMPT, headers={"Authorization": "Basic abc"}).result()
    assert server.requests[1].headers["authorization"] == "Basic abc"


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("https://llm.example/v1", "https://llm.example/v1/responses"),
        ("https://llm.example/v1/", "https://llm.example/v1/responses"),
        ("https://llm.example", "https://llm.example/responses"),
        ("http://llm.example:8080/a/b", "http://llm.example:8080/a/b/responses"),
    ],
)
def test_the_address(wire: responses.RequestsMock, base_url: str, address: str) -> None:
    """base_url is the vendor's own form; a slash at its end does not matter."""
    wire.post(address, body=HELLO, **SSE)
    assert Client("responses", base_url=base_url).stream(PROMPT).result().text == "Hello"


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AuthenticationError), (429, RateLimitError), (503, OverloadedError)],
)
def test_a_status(wire: responses.RequestsMock, status: int, error: type[LLMStreamError]) -> None:
    """An error status is its class, also under a double of requests."""
    wire.post(OPENAI, json={"error": {"message": "no"}}, status=status)
    found = failure(Client("responses", api_key="k", retry=ONCE).stream(PROMPT))
    assert type(found) is error


# ---- the trace id ------------------------------------------------------------------------------


def test_the_trace_id_is_everywhere(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """It goes out with every attempt, and is on the Stream, the Result, and errors."""
    server.script(Reply.error(500), Answer("Hello"), Reply.error(400))
    client = client_for(server, retry=AT_ONCE)
    stream = client.stream(PROMPT, trace_id="  trace-1 ")
    assert stream.trace_id == stream.result().trace_id == "trace-1"
    error = failure(client.stream(PROMPT, trace_id="trace-2"))
    assert error.trace_id == error.partial.trace_id == "trace-2"
    ids = [request.headers["x-client-request-id"] for request in server.requests]
    assert ids == ["trace-1", "trace-1", "trace-2"]


def test_a_trace_id_is_made(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Without one, each call gets its own: 32 hex digits."""
    client = client_for(server)
    made = {client.stream(PROMPT).trace_id for _ in range(50)}
    assert len(made) == 50
    assert all(len(trace_id) == 32 and int(trace_id, 16) >= 0 for trace_id in made)


# ---- the environment ---------------------------------------------------------------------------

# environment -> (authorization, address) or the words of the error
ENVIRONMENTS: dict[str, tuple[dict[str, str], tuple[str | None, str] | str]] = {
    "nothing": ({}, "OPENAI_API_KEY"),
    "OpenAI's key": ({"OPENAI_API_KEY": "ok"}, ("Bearer ok", OPENAI)),
    "OpenAI's key and address": (
        {"OPENAI_API_KEY": "ok", "OPENAI_BASE_URL": "http://o.example/v1"},
        ("Bearer ok", "http://o.example/v1/responses"),
    ),
    "an address of our own": (
        {"LLMSTREAM_BASE_URL": "http://l.example/v1"},
        (None, "http://l.example/v1/responses"),
    ),
    "an address of our own, a key of OpenAI's": (
        {"LLMSTREAM_BASE_URL": "http://l.example/v1", "OPENAI_API_KEY": "ok"},
        (None, "http://l.example/v1/responses"),
    ),
    "all of our own": (
        {
            "LLMSTREAM_BASE_URL": "http://l.example/v1",
            "LLMSTREAM_API_KEY": "lk",
            "OPENAI_API_KEY": "ok",
            "OPENAI_BASE_URL": "http://o.example/v1",
        },
        ("Bearer lk", "http://l.example/v1/responses"),
    ),
    "a key of our own": ({"LLMSTREAM_API_KEY": "lk"}, ("Bearer lk", OPENAI)),
    "an API, no key": ({"LLMSTREAM_API": "responses"}, "OPENAI_API_KEY"),
    "an API and OpenAI's key": (
        {"LLMSTREAM_API": "responses", "OPENAI_API_KEY": "ok", "ANTHROPIC_API_KEY": "ak"},
        ("Bearer ok", OPENAI),
    ),
    "empty values": ({"OPENAI_API_KEY": "", "LLMSTREAM_BASE_URL": ""}, "OPENAI_API_KEY"),
    "an API that is none": (
        {"LLMSTREAM_API": "telegraph", "LLMSTREAM_BASE_URL": "http://l.example"},
        "telegraph",
    ),
    "an address that is none": ({"LLMSTREAM_BASE_URL": "l.example"}, "LLMSTREAM_BASE_URL"),
}


@pytest.mark.parametrize("how", ["from_env", "stream"])
@pytest.mark.parametrize(
    ("environment", "expected"), ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys()
)
def test_the_environment(
    wire: responses.RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    expected: tuple[str | None, str] | str,
    how: str,
) -> None:
    """LLMSTREAM_* before OPENAI_* before ANTHROPIC_*; a vendor's key goes to that vendor only."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(llmstream.client, "_default", {})

    def ask() -> Any:
        if how == "stream":
            return llmstream.stream(PROMPT).result()
        return Client.from_env().stream(PROMPT).result()

    if isinstance(expected, str):
        with pytest.raises(ConfigurationError, match=expected):
            ask()
        assert len(wire.calls) == 0
        return
    authorization, address = expected
    wire.post(address, body=HELLO, **SSE)
    assert ask().text == "Hello"
    assert sent(wire).headers.get("authorization") == authorization


def test_no_way_in_names_the_ways_out() -> None:
    """Where nothing is configured, the error says everything that could be."""
    for ask in (lambda: llmstream.stream(PROMPT), Client.from_env, lambda: Client("responses")):
        with pytest.raises(ConfigurationError) as caught:
            ask()
        keys = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY")
        for way in (*keys, "LLMSTREAM_BASE_URL", "api_key=", "base_url=", "local"):
            assert way in str(caught.value)


OVERRIDES: dict[str, tuple[dict[str, Any], tuple[str | None, str]]] = {
    "an address": ({"base_url": "http://mine.example/v1"}, (None, "http://mine.example/v1")),
    "an address and a key": (
        {"base_url": "http://mine.example/v1", "api_key": "mine"},
        ("Bearer mine", "http://mine.example/v1"),
    ),
    "a key": ({"api_key": "mine"}, ("Bearer mine", "http://l.example/v1")),
    "a model": ({"model": "m"}, ("Bearer lk", "http://l.example/v1")),
}


@pytest.mark.parametrize(("given", "expected"), OVERRIDES.values(), ids=OVERRIDES.keys())
def test_overrides_of_the_environment(
    wire: responses.RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    expected: tuple[str | None, str],
) -> None:
    """What is given wins; what is not comes from the environment. No key goes to an address that
    it was not meant for: not the environment's to a given one, nor a given one to the vendor's
    when the environment names another server."""
    monkeypatch.setenv("LLMSTREAM_BASE_URL", "http://l.example/v1")
    monkeypatch.setenv("LLMSTREAM_API_KEY", "lk")
    monkeypatch.setenv("OPENAI_API_KEY", "ok")
    authorization, base_url = expected
    for address in (base_url, "https://api.openai.com/v1"):
        wire.post(f"{address}/responses", body=HELLO, **SSE)
    Client.from_env(**given).stream(PROMPT).result()
    assert sent(wire).url == f"{base_url}/responses"
    assert sent(wire).headers.get("authorization") == authorization


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "LLMSTREAM_API_KEY"])
def test_no_key_of_the_environment_goes_to_a_given_address(
    server: LLMServer,
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    """Client(base_url=...) without a key sends none, whatever the environment holds."""
    monkeypatch.setenv(variable, "marked-key")
    client_for(server, api_key=None).stream(PROMPT).result()
    headers = server.requests[0].headers
    assert "authorization" not in headers
    assert "marked-key" not in repr(headers)


def test_the_model(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call's model, else the client's, else LLMSTREAM_MODEL, else the API's default."""
    plain, own = client_for(server), client_for(server, model="of the client")
    plain.stream(PROMPT).result()
    monkeypatch.setenv("LLMSTREAM_MODEL", "of the environment")
    plain.stream(PROMPT).result()
    own.stream(PROMPT).result()
    own.stream(PROMPT, model="of the call").result()
    assert [request.json()["model"] for request in server.requests] == [
        "gpt-5.4-mini",
        "of the environment",
        "of the client",
        "of the call",
    ]


# ---- the one-liner -----------------------------------------------------------------------------


def test_the_one_liner(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """stream(prompt) keeps its client, and makes another when the environment changes."""
    monkeypatch.setattr(llmstream.client, "_default", {})
    monkeypatch.setenv("LLMSTREAM_BASE_URL", server.base_url)
    assert "".join(llmstream.stream(PROMPT)) == "Hello, world!"
    assert "".join(llmstream.stream(PROMPT, temperature=0.5)) == "Hello, world!"
    assert server.connections == 1
    assert server.requests[1].json()["temperature"] == 0.5
    with LLMServer() as other:
        monkeypatch.setenv("LLMSTREAM_BASE_URL", other.base_url)
        assert "".join(llmstream.stream(PROMPT)) == "Hello, world!"
        assert len(other.requests) == 1
        (client,) = llmstream.client._default.values()
        client.close()
        other.wait_all_closed()
    # the first one's idle connection went with it
    server.wait_all_closed()


def test_the_one_liner_in_many_threads(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that call stream() at once share one client."""
    monkeypatch.setattr(llmstream.client, "_default", {})
    monkeypatch.setenv("LLMSTREAM_BASE_URL", server.base_url)
    server.default = server.echo
    made: list[Client] = []
    real = Client.__init__

    def count(self: Client, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        real(self, *args, **kwargs)

    monkeypatch.setattr(Client, "__init__", count)
    texts: list[str] = []
    gate = threading.Barrier(8)

    def ask(number: int) -> None:
        gate.wait(10)
        texts.append("".join(llmstream.stream(f"prompt {number}")))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert sorted(texts) == [f"prompt {n}" for n in range(8)]
    assert len(made) == 1
    made[0].close()


def test_the_one_liner_after_a_close(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing its client (the interpreter's exit, a test's end) does not spoil stream()."""
    monkeypatch.setattr(llmstream.client, "_default", {})
    monkeypatch.setenv("LLMSTREAM_BASE_URL", server.base_url)
    stream = llmstream.stream(PROMPT)
    assert isinstance(stream, Stream)
    assert stream.result().text == "Hello, world!"
    (client,) = llmstream.client._default.values()
    client.close()
    eventually(lambda: server.open_connections == 0, "its connections are closed")


# ---- the caller's mistakes ---------------------------------------------------------------------

WRONG_CLIENTS: dict[str, dict[str, Any]] = {
    "an unknown API": {"api": "telegraph"},
    "an API that is no text": {"api": ["responses"]},
    "no scheme": {"base_url": "api.example/v1"},
    "another scheme": {"base_url": "ftp://api.example/v1"},
    "an empty base_url": {"base_url": ""},
    "a base_url that is no text": {"base_url": 5},
    "an empty key": {"api_key": ""},
    "a key with a line end": {"api_key": "key\n"},
    "a key that is no text": {"api_key": 5},
    "timeouts that are a number": {"timeouts": 30},
    "a retry policy that is a number": {"retry": 3},
    "an unknown policy": {"on_disconnect": "hope"},
    "headers that are no text": {"headers": {"x": 1}},
    "header names that are no text": {"headers": {1: "x"}},
    "headers that are a list": {"headers": [("x", "y")]},
    "no connections": {"max_connections": -1},
    "connections that are no number": {"max_connections": "many"},
    "events of no size": {"max_event_bytes": 0},
    "a profile that does not exist": {"profile": "no-such-profile"},
}


@every("settings", WRONG_CLIENTS.values(), ids=WRONG_CLIENTS.keys())
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    """A Client that cannot work is not made: ConfigurationError, with a word on what to give."""
    with pytest.raises(ConfigurationError) as caught:
        Client(**{"base_url": "http://llm.example/v1", **settings})
    assert len(str(caught.value)) > 20
    assert not caught.value.retryable


WRONG_CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "an empty prompt": ("", {}),
    "no prompt": (None, {}),
    "an empty list": ([], {}),
    "a number": (5, {}),
    "bytes": (b"Hi", {}),
    "a dict": ({"role": "user", "content": "Hi"}, {}),
    "a list of texts": (["Hi"], {}),
    "content that is no JSON": ([{"role": "user", "content": object()}], {}),
    "half a character": ("\ud800", {}),
    "nested without end": ([{"role": "user", "content": []}], {"extra_body": {}}),
    "stop": (PROMPT, {"stop": ["\n"]}),
    "max_output_tokens=0": (PROMPT, {"max_output_tokens": 0}),
    "max_output_tokens=True": (PROMPT, {"max_output_tokens": True}),
    "max_output_tokens=1.5": (PROMPT, {"max_output_tokens": 1.5}),
    "timeouts that are a number": (PROMPT, {"timeouts": 30}),
    "retry that is a number": (PROMPT, {"retry": 3}),
    "an unknown policy": (PROMPT, {"on_disconnect": "hope"}),
    "no temperature": (PROMPT, {"temperature": float("nan")}),
    "an empty trace id": (PROMPT, {"trace_id": " "}),
    "a trace id with a line end": (PROMPT, {"trace_id": "a\nb"}),
    "a trace id that is not ASCII": (PROMPT, {"trace_id": "ü"}),
    "a trace id that is no text": (PROMPT, {"trace_id": 5}),
    "a long trace id": (PROMPT, {"trace_id": "x" * 513}),
    "extra_body that is no JSON": (PROMPT, {"extra_body": {"x": object()}}),
    "thinking that is a list": (PROMPT, {"thinking": [1]}),
    "headers that are no text": (PROMPT, {"headers": {"x": None}}),
}
_deep: list[Any] = []
_deep.append(_deep)
WRONG_CALLS["nested without end"] = ([{"role": "user", "content": _deep}], {})


@pytest.mark.parametrize(("prompt", "options"), WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_calls_that_cannot_be_made(
    server: LLMServer, client_for: Callable[..., Client], prompt: Any, options: dict[str, Any]
) -> None:
    """A call that cannot be made is not: ConfigurationError before anything is sent."""
    client = client_for(server)
    with pytest.raises(ConfigurationError):
        client.stream(prompt, **options)
    assert server.connections == 0
    assert len(client._calls) == 0


WRONG_ON_THE_WAY: dict[str, dict[str, Any]] = {
    "a key with a line end inside": {"api_key": "key\r\nx-evil: 1"},
    "a key that is not Latin": {"api_key": "schlüssel-\u4e2d"},
    "a header with a line end": {"headers": {"x": "a\r\nb: c"}},
    "a header that is not Latin": {"headers": {"x": "\u4e2d"}},
    "a header's name with a line end": {"headers": {"x\r\ny": "z"}},
    "a port that is none": {"base_url": "http://127.0.0.1:99999/v1"},
    "a port that is no number": {"base_url": "http://127.0.0.1:http/v1"},
    "no host": {"base_url": "http:///v1"},
    "half an IPv6 address": {"base_url": "http://[::1/v1"},
    "a host with a blank": {"base_url": "http://my host/v1"},
    "a host that begins with a star": {"base_url": "http://*.example/v1"},
}


@pytest.mark.parametrize("settings", WRONG_ON_THE_WAY.values(), ids=WRONG_ON_THE_WAY.keys())
def test_mistakes_found_on_the_way(
    server: LLMServer, client_for: Callable[..., Client], settings: dict[str, Any]
) -> None:
    """What is found only when the request is made is a ConfigurationError as well, at once, with
    nothing sent and no key in its words."""

    def ask() -> None:
        client_for(server, retry=AT_ONCE, **settings).stream(PROMPT).result()

    with pytest.raises(ConfigurationError) as caught:
        ask()
    assert server.requests == []
    assert "schl" not in str(caught.value)
    assert "evil" not in str(caught.value)


def test_a_label_that_is_too_long(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A host name that DNS cannot hold is an error of ours."""
    client = client_for(None, base_url=f"http://{'a' * 64}.example/v1", retry=ONCE)
    assert isinstance(bounded(client.stream(PROMPT)).error, LLMStreamError)


@every("name", ["connect", "first_token", "idle", "silence", "total"])
@every("value", [0, -1, "5", True, float("nan")])
def test_timeouts_that_make_no_sense(name: str, value: Any) -> None:
    """A clock is a number of seconds above 0, or None."""
    with pytest.raises(ConfigurationError, match=name):
        Timeouts(**{name: value})


@every(
    "settings",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": "3"},
        {"max_attempts": None},
        {"base": -1},
        {"base": "1"},
        {"base": None},
        {"cap": float("nan")},
        {"jitter": -0.1},
        {"max_retry_after": "60"},
    ],
)
def test_retry_policies_that_make_no_sense(settings: dict[str, Any]) -> None:
    """A policy's numbers are 0 or more; its attempts at least 1."""
    with pytest.raises(ConfigurationError):
        RetryPolicy(**settings)


def test_a_closed_client_makes_no_streams(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """After close() a call is refused, and the error says what to do."""
    client = client_for(server)
    client.close()
    with pytest.raises(ConfigurationError, match="new one"):
        client.stream(PROMPT)


def test_a_repr_without_a_key(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """repr of a Client: its API and address, no key, no header."""
    client = client_for(server, api_key="marked-key", headers={"x": "marked-header"})
    assert "marked" not in repr(client)
    assert server.base_url in repr(client)
    assert "marked" not in repr(client.stream(PROMPT))
    assert "marked" not in repr(
        llmstream._settings.environment.ServiceSettings("responses", None, client._endpoint._key)
    )
    assert os.environ.get("LLMSTREAM_API_KEY") is None
