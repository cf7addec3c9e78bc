"""A client's settings as a value: what it was made with, and what of it travels."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from typing import Any

import pytest
from every import every

import llmstream.client
from llmstream import Client, ConfigurationError, RetryPolicy, Timeouts
from llmstream._core.request import HTTPRequest, StoredResponse
from llmstream._settings.client import ClientSettings
from llmstream._settings.secret import Secret
from llmstream.client import ClientOptions, StreamOptions
from llmstream.testing import Answer, FakeTransport, LLMServer

KEY = "sk-marked-key-0123456789"
GIVEN: dict[str, Any] = {
    "base_url": "http://service.test/v1",
    "api_key": KEY,
    "model": "m",
    "timeouts": Timeouts(total=45),
    "retry": RetryPolicy(max_attempts=2),
    "on_disconnect": "restart",
    "profile": "vllm",
    "headers": {"X-Team": "a", "Authorization": f"Bearer {KEY}"},
    "max_connections": 7,
    "verify": False,
    "max_event_bytes": 1000,
    "max_identical_chunks": 9,
}
VARIABLES = (
    "LLMSTREAM_API_KEY",
    "LLMSTREAM_BASE_URL",
    "LLMSTREAM_API",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("llmstream._settings.client.keyring_settings", lambda api: None)


def sent_headers(client: Client) -> Any:
    """The headers of one request of a client made anew from `client`'s settings."""
    transport = FakeTransport(Answer("Hi"))
    again = Client.from_settings(client.settings, transport=transport, on_disconnect="raise")
    again.stream("Hi").result()
    return transport.requests[0].headers


def test_the_settings_are_what_was_given() -> None:
    """Checked and frozen; header names in lower case, the key as a Secret."""
    settings = Client("chat", **GIVEN).settings
    expected = {
        **GIVEN,
        "api": "chat",
        "api_key": Secret(KEY),
        "headers": {"x-team": "a", "authorization": f"Bearer {KEY}"},
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    with pytest.raises(AttributeError):
        settings.model = "other"  # type: ignore[misc]


def test_a_client_like_another() -> None:
    """`from_settings` gives the same settings, and what is given beside them wins."""
    one = Client("chat", **GIVEN)
    assert Client.from_settings(one.settings).settings == one.settings
    assert Client.from_settings(one.settings, model="other").settings.model == "other"


@every("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_leaves_the_key_behind(protocol: int) -> None:
    """Neither the key nor a header that authenticates is in the pickle of settings or client."""
    client = Client("chat", **GIVEN)
    for value in (client.settings, client):
        assert KEY.encode() not in pickle.dumps(value, protocol)
    settings = pickle.loads(pickle.dumps(client.settings, protocol))
    assert settings.api_key is None
    assert dict(settings.headers) == {"x-team": "a"}
    same = ("api", "base_url", "model", "timeouts", "retry", "on_disconnect", "profile", "verify")
    for name in (*same, "max_connections", "max_event_bytes", "max_identical_chunks"):
        assert getattr(settings, name) == getattr(client.settings, name)


def test_without_its_key_a_pickle_says_so() -> None:
    """It is not used without one in silence, nor with a vendor's key that was meant for another."""
    client = Client("chat", **GIVEN)
    with pytest.raises(ConfigurationError, match=r"LLMSTREAM_API_KEY.*with_key"):
        pickle.loads(pickle.dumps(client))


def test_the_vendors_key_is_not_sent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the settings name an address, only LLMSTREAM_API_KEY stands in for the lost key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-vendor-012345")
    client = Client("chat", **GIVEN)
    with pytest.raises(ConfigurationError, match="LLMSTREAM_API_KEY"):
        pickle.loads(pickle.dumps(client))
    monkeypatch.setenv("LLMSTREAM_API_KEY", "sk-of-the-worker-012345")
    unpickled = pickle.loads(pickle.dumps(client))
    assert sent_headers(unpickled)["authorization"] == "Bearer sk-of-the-worker-012345"


def test_without_an_address_a_pickle_takes_the_environments_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Settings that came from the environment come from the environment where they arrive."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-here-0123456789")
    pickled = pickle.dumps(Client("chat", model="m"))
    assert b"sk-here" not in pickled
    monkeypatch.setenv("OPENAI_API_KEY", "sk-there-0123456789")
    assert sent_headers(pickle.loads(pickled))["authorization"] == "Bearer sk-there-0123456789"


def test_a_key_travels_where_the_caller_says_so() -> None:
    """`with_key()` takes the key and the headers along, once and for further pickles."""
    settings = Client("chat", **{**GIVEN, "headers": {"X-Team": "a"}}).settings.with_key()
    for _ in range(2):
        settings = pickle.loads(pickle.dumps(settings))
        assert settings.api_key == Secret(KEY)
    assert sent_headers(Client.from_settings(settings))["authorization"] == f"Bearer {KEY}"


ADDRESS = "https://marked-user:marked-pass@llm.example/v1?key=marked-query&api-version=2026-01-01"
BARE = "https://llm.example/v1?api-version=2026-01-01"


def test_a_pickle_leaves_behind_what_is_secret_in_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """User, password and query; the worker names the whole address, or `with_key()` takes it."""
    client = Client("chat", base_url=ADDRESS, model="m")
    pickled = pickle.dumps(client.settings)
    assert b"marked" not in pickled
    assert pickle.loads(pickled).base_url == BARE
    with pytest.raises(ConfigurationError, match=r"LLMSTREAM_BASE_URL.*with_key"):
        Client.from_settings(pickle.loads(pickled))
    for other in ("https://other.example/v1?key=x", BARE):
        monkeypatch.setenv("LLMSTREAM_BASE_URL", other)
        with pytest.raises(ConfigurationError, match="LLMSTREAM_BASE_URL"):
            Client.from_settings(pickle.loads(pickled))
    monkeypatch.setenv("LLMSTREAM_BASE_URL", ADDRESS)
    assert Client.from_settings(pickle.loads(pickled)).settings.base_url == ADDRESS
    whole = pickle.loads(pickle.dumps(client.settings.with_key()))
    assert whole.base_url == ADDRESS


@every(
    "header",
    [
        *("authorization", "X-Gateway-Authorization", "x-auth-token", "ocp-apim-subscription-key"),
        *("cf-access-client-secret", "Cookie", "apikey", "x-session", "x-sig"),
    ],
)
def test_every_header_that_authenticates_stays_behind(header: str) -> None:
    """By its name; any other by a value like "Bearer ..."."""
    kept = {"x-team": "a", "idempotency-key": "1", "anthropic-version": "2023-06-01"}
    headers = {**kept, header: "marked", "x-up": "Bearer marked"}
    settings = Client("chat", base_url=BARE, model="m", headers=headers).settings
    assert b"marked" not in pickle.dumps(settings)
    assert dict(pickle.loads(pickle.dumps(settings)).headers) == kept


def test_no_repr_shows_the_address_or_a_header() -> None:
    """Of the settings, the service, and the request; rich has a repr of its own."""
    client = Client("chat", base_url=ADDRESS, model="m", headers={"x-mine": "marked-header"})
    request = HTTPRequest("POST", ADDRESS, {"x-mine": "marked-header"}, b"marked")
    stored = StoredResponse(ADDRESS, {"x-mine": "marked-header"})
    for value in (client.settings, client.settings.service(), request, stored):
        rich: list[Any] = value.__rich_repr__()
        assert "marked" not in f"{value!r} {value} {rich}"
        assert "https://llm.example/v1" in repr(value)
    assert "x-mine" in repr(client.settings)


def test_no_key_to_lose_is_no_error() -> None:
    """A local server without a key: the pickled client works as it is."""
    client = pickle.loads(pickle.dumps(Client("chat", base_url="http://localhost:1/v1", model="m")))
    assert "authorization" not in sent_headers(client)


def test_the_repr_hides_the_key() -> None:
    """Of settings and client."""
    client = Client("chat", **{**GIVEN, "headers": None})
    assert KEY not in repr(client.settings) + repr(client)


def test_copies() -> None:
    """A copied client is another client with the same settings; settings are values."""
    client = Client("chat", base_url="http://localhost:1/v1", model="m")
    assert copy.copy(client).settings == client.settings
    assert copy.deepcopy(client.settings) == client.settings


def test_the_profile_in_use() -> None:
    """The one given, else the one that knows the host."""
    assert Client("chat", **GIVEN).profile == "vllm"
    given = {**GIVEN, "profile": None, "base_url": "https://api.mistral.ai/v1"}
    assert Client("chat", **given).profile == "mistral"


@pytest.mark.parametrize(
    ("function", "options"),
    [(Client.__init__, ClientOptions), (Client.stream, StreamOptions)],
)
def test_the_typed_options_are_the_arguments(function: Any, options: Any) -> None:
    """`stream(**options)`, `from_env` and `from_settings` take exactly what they pass on."""
    parameters = inspect.signature(function).parameters.values()
    taken = [p.name for p in parameters if p.name not in ("self", "prompt")]
    assert list(typing.get_type_hints(options, vars(llmstream.client))) == taken


def test_every_setting_is_an_argument() -> None:
    """But for the two that say what travels."""
    fields = {*ClientSettings.__struct_fields__} - {"key_left_behind", "key_travels"}
    objects = {"observers", "transport", "clock"}
    assert fields == {*ClientOptions.__annotations__} - objects


def test_a_dropped_client_is_freed_at_once(server: LLMServer) -> None:
    """Its idle connection too, without the garbage collector."""
    client = Client(base_url=server.base_url)
    stream = client.stream("Hi")
    stream.result()
    del client, stream
    server.wait_all_closed()
