"""Keys that a function returns, and keys that are sent as Bearer tokens."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import threading
import time
import traceback
from typing import Any

import pytest
from support import AT_ONCE, ONCE

from llmstream import (
    AuthenticationError,
    Cancelled,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    LLMStreamError,
    Timeouts,
)
from llmstream._settings import environment
from llmstream._settings.client import ClientSettings
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, LLMServer, Reply

APIS = ("responses", "messages", "chat", "gemini")
HEADER = {
    "responses": ("authorization", "Bearer {}"),
    "messages": ("x-api-key", "{}"),
    "chat": ("authorization", "Bearer {}"),
    "gemini": ("x-goog-api-key", "{}"),
}
MARKED = "tok-marked-77c1"
WEB_TOKEN = "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("LLMSTREAM_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(environment, "keyring_settings", lambda api: None)


def client_of(api: str, server: LLMServer, **settings: Any) -> Client:
    base = server.base_url_for(api)
    return Client(api, base_url=base, **{"model": "m", "retry": ONCE, **settings})


class Tokens:
    """A function that returns a new token each time; remembers the threads that asked."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def __call__(self) -> str:
        self.threads.append(threading.get_ident())
        return f"{MARKED}-{len(self.threads)}"


def get_token() -> str:
    return MARKED


# ---- functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_a_function_is_asked_before_every_request(llm_server: LLMServer, api: str) -> None:
    """Of every call and every retry, in the thread that reads; not when the client is made."""
    tokens = Tokens()
    client = client_of(api, llm_server, api_key=tokens, retry=AT_ONCE)
    stream = client.stream("Hi")
    assert tokens.threads == []
    llm_server.script(Reply.error(503), Answer("one"), Answer("two"))
    assert stream.result().text == "one"
    assert client.stream("Hi").result().text == "two"
    name, form = HEADER[api]
    sent = [request.headers[name] for request in llm_server.requests]
    assert sent == [form.format(f"{MARKED}-{n}") for n in (1, 2, 3)]
    assert set(tokens.threads) == {threading.get_ident()}


def test_a_restart_is_asked_with_a_new_key(llm_server: LLMServer) -> None:
    """After content, too."""
    client = client_of("chat", llm_server, api_key=Tokens(), retry=AT_ONCE)
    llm_server.script(Reply([*Answer("one two").blocks("chat")[:3], Cut()]), Answer("whole"))
    assert client.stream("Hi", on_disconnect="restart").result().text == "whole"
    assert llm_server.requests[1].headers["authorization"] == f"Bearer {MARKED}-2"


@pytest.mark.parametrize("api", APIS)
def test_every_answer_of_a_run_is_asked_with_a_new_key(llm_server: LLMServer, api: str) -> None:
    """The calls of tools may take longer than a token lives."""

    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sun in {city}"

    call = ("weather", '{"city": "Ulm"}', "call_1")
    llm_server.script(Answer(tool_calls=[call]), Answer("Sun."))
    client = client_of(api, llm_server, api_key=Tokens())
    assert client.run("Hi", [weather]).result().text == "Sun."
    name, form = HEADER[api]
    sent = [request.headers[name] for request in llm_server.requests]
    assert sent == [form.format(f"{MARKED}-{n}") for n in (1, 2)]


def test_every_call_of_a_batch_is_asked_with_a_new_key(llm_server: LLMServer) -> None:
    """Each by the worker that makes it."""
    client = client_of("chat", llm_server, api_key=Tokens())
    assert len(client.parallel(["a", "b", "c"], max_workers=2).results()) == 3
    sent = {request.headers["authorization"] for request in llm_server.requests}
    assert len(sent) == 3


def test_an_answer_that_is_resumed_is_asked_for_with_a_new_key() -> None:
    """Each time: a background response may take hours."""
    blocks = Answer("one two three").blocks()
    cuts = [Reply([*blocks[:4], Cut()]), Reply([*blocks[4:6], Cut()]), Reply(blocks[6:])]
    transport = FakeTransport(*cuts)
    doubles = {"transport": transport, "clock": FakeClock()}
    client = Client("responses", base_url="http://t/v1", api_key=Tokens(), model="m", **doubles)
    stream = client.stream("Hi", background=True, on_disconnect="resume")
    assert stream.result().text == "one two three"
    assert [request.method for request in transport.requests] == ["POST", "GET", "GET"]
    sent = [request.headers["authorization"] for request in transport.requests]
    assert sent == [f"Bearer {MARKED}-{n}" for n in (1, 2, 3)]


def raises(error: Exception) -> str:
    raise error


FAULTS: dict[str, tuple[Any, str]] = {
    "an exception": (functools.partial(raises, ValueError(MARKED)), "raised ValueError"),
    "an OSError": (functools.partial(raises, OSError(MARKED)), "raised OSError"),
    "the end of an iterator": (iter([]).__next__, "raised StopIteration"),
    "one of the library's": (
        functools.partial(raises, LLMStreamError(MARKED)),
        "raised LLMStreamError",
    ),
    "too many arguments": (lambda scope: MARKED, "raised TypeError"),
    "nothing": (lambda: None, "returned NoneType instead of a string"),
    "bytes": (lambda: MARKED.encode(), "returned bytes instead of a string"),
    "a tuple": (lambda: (MARKED, 3600), "returned tuple instead of a string"),
    "an empty string": (lambda: "", "returned an empty string"),
    "a line end": (lambda: f"{MARKED}\n", "strip it"),
    "a header": (lambda: f"{MARKED}\r\nx-evil: 1", "strip it"),
    "a space": (lambda: f"Bearer {MARKED}", "white space"),
    "not ASCII": (lambda: f"{MARKED}é", "no header can contain"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_function_that_has_no_key_is_named(
    llm_server: LLMServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A ConfigurationError without what the function said; nothing is sent, and not again."""
    caplog.set_level(logging.DEBUG)
    function, says = FAULTS[name]
    client = client_of("chat", llm_server, api_key=function, retry=AT_ONCE)
    stream = client.stream("Hi")
    with pytest.raises(ConfigurationError, match="api_key: ") as caught:
        stream.result()
    error = caught.value
    assert says in str(error)
    assert llm_server.requests == []
    chain = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    shown = [str(error), chain, repr(client), repr(client.settings), caplog.text]
    assert not [text for text in shown if MARKED in text]
    assert MARKED.encode() not in pickle.dumps(error)
    with pytest.raises(ConfigurationError):  # the same the next time
        stream.result()


def test_a_function_is_named_by_its_name(llm_server: LLMServer) -> None:
    """Its repr may contain what it was made with."""

    def fails() -> str:
        raise ValueError

    with pytest.raises(ConfigurationError, match=r"api_key: \S*fails\(\) raised ValueError"):
        client_of("chat", llm_server, api_key=fails).stream("Hi").result()
    bound = functools.partial(raises, ValueError(MARKED))
    with pytest.raises(ConfigurationError, match="api_key: the partial raised"):
        client_of("chat", llm_server, api_key=bound).stream("Hi").result()


def test_a_function_that_fails_at_a_retry_keeps_what_was_tried(llm_server: LLMServer) -> None:
    """The attempt before it is in `.attempts`."""
    keys = iter([MARKED])
    client = client_of("chat", llm_server, api_key=lambda: next(keys), retry=AT_ONCE)
    llm_server.script(Reply.error(503))
    with pytest.raises(ConfigurationError, match="raised StopIteration") as caught:
        client.stream("Hi").result()
    assert [attempt.status for attempt in caught.value.attempts] == [503]


def test_an_async_function_is_refused_at_once(llm_server: LLMServer) -> None:
    """It returns no key, but something to wait for."""

    async def token() -> str:
        return MARKED

    with pytest.raises(ConfigurationError, match="async function"):
        client_of("chat", llm_server, api_key=token)


def test_the_clocks_and_cancel_hold_around_a_slow_function(llm_server: LLMServer) -> None:
    """The total clock runs meanwhile, and nothing is sent after it; nor after a cancel."""

    def slow() -> str:
        time.sleep(0.4)
        return MARKED

    client = client_of("chat", llm_server, api_key=slow, timeouts=Timeouts(total=0.1))
    with pytest.raises(DeadlineExceeded):
        client.stream("Hi").result()

    def cancels() -> str:
        stream.cancel("enough")
        return MARKED

    stream = client_of("chat", llm_server, api_key=cancels).stream("Hi")
    with pytest.raises(Cancelled):
        stream.result()
    assert llm_server.requests == []


@pytest.mark.parametrize("api", APIS)
def test_a_service_that_quotes_any_of_the_keys_is_redacted(llm_server: LLMServer, api: str) -> None:
    """The key of this request, and those of the attempts before."""
    client = client_of(api, llm_server, api_key=Tokens(), retry=AT_ONCE)
    llm_server.script(
        Reply.error(503), Reply.error(401, message=f"bad {MARKED}-2, had {MARKED}-1", api=api)
    )
    with pytest.raises(AuthenticationError) as caught:
        client.stream("Hi").result()
    assert MARKED not in str(caught.value)


def test_a_background_response_is_cancelled_with_a_new_key(llm_server: LLMServer) -> None:
    """The farewell is a request like any other."""
    llm_server.script(Reply([*Answer("one two").blocks()[:6]], framing="close"), Reply())
    client = client_of("responses", llm_server, api_key=Tokens())
    stream = client.stream("Hi", background=True)
    with stream:
        next(stream)
    llm_server.wait_requests(2, timeout=10)
    assert llm_server.requests[1].headers["authorization"] == f"Bearer {MARKED}-2"


def test_a_farewell_without_a_key_is_left_out(llm_server: LLMServer) -> None:
    """Never an error: the call has ended already."""
    keys = iter([MARKED])
    llm_server.script(Reply([*Answer("one two").blocks()[:6]], framing="close"))
    client = client_of("responses", llm_server, api_key=lambda: next(keys))
    with client.stream("Hi", background=True) as stream:
        next(stream)
    assert len(llm_server.requests) == 1


def test_the_budget_is_that_of_the_function(llm_server: LLMServer) -> None:
    """Clients with one function share it, whatever it returns; with another one they do not."""
    holder, other = Tokens(), Tokens()
    clients = [client_of("chat", llm_server, api_key=key) for key in (holder, holder, other)]
    first, second, third = (client._endpoint.budget for client in clients)
    assert first is second
    assert first is not third

    class Provider:
        def token(self) -> str:
            return MARKED

    one, two = Provider(), Provider()
    methods = (one.token, one.token, two.token)
    clients = [client_of("chat", llm_server, api_key=method) for method in methods]
    first, second, third = (client._endpoint.budget for client in clients)
    assert first is second
    assert first is not third


def test_settings_with_a_function_pickle_without_it(llm_server: LLMServer) -> None:
    """With it only after `with_key()`, where it can be pickled at all."""
    settings = client_of("chat", llm_server, api_key=get_token).settings
    left: ClientSettings = pickle.loads(pickle.dumps(settings))
    assert left.api_key is None
    assert left.key_left_behind
    travelled: ClientSettings = pickle.loads(pickle.dumps(settings.with_key()))
    assert travelled.api_key == settings.api_key
    assert Client.from_settings(travelled).stream("Hi").result().text
    assert llm_server.requests[0].headers["authorization"] == f"Bearer {MARKED}"
    here = client_of("chat", llm_server, api_key=lambda: MARKED)
    pickle.dumps(here.settings)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.dumps(here.settings.with_key())


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("profile", [None, "azure"])
def test_a_web_token_is_a_bearer_token(
    llm_server: LLMServer, api: str, profile: str | None
) -> None:
    """Entra's tokens, also where other keys have a header of their own."""
    client_of(api, llm_server, api_key=lambda: WEB_TOKEN, profile=profile).stream("Hi").result()
    headers = llm_server.requests[0].headers
    assert headers["authorization"] == f"Bearer {WEB_TOKEN}"
    assert not {"x-api-key", "api-key"} & set(headers)


def test_another_key_of_a_function_has_the_header_of_the_profile(llm_server: LLMServer) -> None:
    """A key of Azure's that a vault returns."""
    client_of("chat", llm_server, api_key=get_token, profile="azure").stream("Hi").result()
    assert llm_server.requests[0].headers["api-key"] == MARKED


def test_from_env_takes_a_function(llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the environment's key."""
    monkeypatch.setenv("OPENAI_BASE_URL", llm_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    Client.from_env(api_key=get_token).stream("Hi").result()
    assert llm_server.requests[0].headers["authorization"] == f"Bearer {MARKED}"


# ---- ANTHROPIC_AUTH_TOKEN ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Client("messages"), lambda: Client.from_env()])
def test_an_auth_token_is_a_bearer_token(
    llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    """With the vendor's base URL, by name and by the environment; never as x-api-key."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", llm_server.url)
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", MARKED)
    client = make()
    assert client.settings.api == "messages"
    client.stream("Hi").result()
    headers = llm_server.requests[0].headers
    assert headers["authorization"] == f"Bearer {MARKED}"
    assert "x-api-key" not in headers
    assert MARKED not in f"{client!r} {client.settings!r} {environment.from_environment()!r}"


def test_a_key_goes_before_an_auth_token(
    llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in the environment: the key, and only the key."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", llm_server.url)
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", MARKED)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-1234")
    Client("messages").stream("Hi").result()
    headers = llm_server.requests[0].headers
    assert headers["x-api-key"] == "sk-ant-1234"
    assert "authorization" not in headers


def test_an_auth_token_goes_to_no_other_api_or_server(
    llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with a base_url of the caller's, and not to OpenAI."""
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", MARKED)
    client_of("messages", llm_server).stream("Hi").result()
    assert MARKED not in str(llm_server.requests[0].headers)
    for api in ("responses", "chat"):
        with pytest.raises(ConfigurationError, match="ANTHROPIC_AUTH_TOKEN"):
            Client(api)


def test_a_quoted_auth_token_is_redacted(
    llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like any other key."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", llm_server.url)
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", MARKED)
    llm_server.script(Reply.error(401, message=f"bad token {MARKED}", api="messages"))
    with pytest.raises(AuthenticationError) as caught:
        Client("messages").stream("Hi").result()
    assert MARKED not in str(caught.value)
