"""A 401 says which key was sent, or why none was, and what to do; services that want the key in
another header get it there."""

from __future__ import annotations

from typing import Any

import pytest
from every import every

from llmstream import AuthenticationError, Client, LLMStreamError, PermissionDeniedError
from llmstream.cli import main
from llmstream.testing import Answer, FakeClock, FakeTransport, LLMServer, Reply

APIS = ["responses", "messages", "chat", "gemini"]
KEY = "a-key-of-the-tests"


def sent(api: str, base_url: str = "https://gateway.example/v1", **settings: Any) -> Any:
    """The headers of a request."""
    transport = FakeTransport(Answer("Hi"))
    given = {"base_url": base_url, "model": "m", "api_key": KEY, **settings}
    Client(api, transport=transport, clock=FakeClock(), **given).stream("Why?").result()
    return {k: v for k, v in transport.requests[0].headers.items() if KEY in v}


def refused(status: int = 401, api: str = "chat", **settings: Any) -> LLMStreamError:
    headers = settings.pop("call_headers", None)
    transport = FakeTransport(settings.pop("reply", None) or Reply.error(status, message="no"))
    given = {"base_url": "https://gateway.example/v1", "model": "m", **settings}
    client = Client(api, transport=transport, clock=FakeClock(), **given)
    with pytest.raises((AuthenticationError, PermissionDeniedError)) as caught:
        client.stream("Why?", headers=headers).result()
    return caught.value


@every("api", APIS)
@every(
    "host",
    [
        "name.openai.azure.com",
        "name.openai.azure.us",
        "name.openai.azure.cn",
        "name.services.ai.azure.com",
        "name.cognitiveservices.azure.us",
        "name.azure-api.net",
        "name.azure-api.us",
    ],
)
def test_azure_wants_the_key_in_a_header_of_its_own(api: str, host: str) -> None:
    """In each of its clouds, and in API Management."""
    assert sent(api, f"https://{host}/some/path") == {"api-key": KEY}


@pytest.mark.parametrize("api", APIS)
def test_the_header_of_a_profile(api: str) -> None:
    """vLLM and OpenRouter want a Bearer token on every API, an AWS gateway its own header."""
    bearer = {"authorization": f"Bearer {KEY}"}
    assert sent(api, profile="vllm") == bearer
    assert sent(api, "https://openrouter.ai/api/v1") == bearer
    assert sent(api, profile="aws-gateway") == {"x-api-key": KEY}
    assert sent(api, profile="azure") == {"api-key": KEY}
    own = {"messages": {"x-api-key": KEY}, "gemini": {"x-goog-api-key": KEY}}
    assert sent(api) == own.get(api, bearer)


@pytest.mark.parametrize("api", APIS)
def test_no_key_was_sent(api: str) -> None:
    """Why, and the ways to send one; also where a gateway says 403."""
    for status in (401, 403):
        told = str(refused(status, api))
        assert "no key was sent, because base_url is given without one" in told
        assert "pass api_key=" in told
        assert "LLMSTREAM_API_KEY" in told
        assert told.count("no key was sent") == 1


def test_a_key_that_was_refused_by_an_unknown_host() -> None:
    """Which header it was in, and which profile sends another one; never the key."""
    told = str(refused(api_key=KEY))
    assert "the key was sent in the header 'authorization'" in told
    for profile in ("'azure'", "'aws-gateway'", "'vllm'"):
        assert profile in told
    assert KEY not in told
    assert "header 'x-api-key'" in str(refused(api="messages", api_key=KEY))
    assert "header 'x-goog-api-key'" in str(refused(api="gemini", api_key=KEY))
    assert "header 'authorization'" in str(refused(api="gemini", api_key=f"ya29.{KEY}"))


@pytest.mark.parametrize(
    "settings",
    [
        {"headers": {"Authorization": "Basic abcdefgh"}},
        {"call_headers": {"X-API-Key": "abcdefgh"}},
        {"api_key": KEY, "base_url": "https://api.openai.com/v1"},
        {"api_key": KEY, "base_url": "https://name.azure-api.net/v1"},
        {"api_key": KEY, "profile": "vllm"},
    ],
)
def test_where_there_is_nothing_to_advise(settings: dict[str, Any]) -> None:
    """The caller's own header, a known host, a profile that was chosen."""
    told = str(refused(**settings))
    assert "no key" not in told
    assert "header" not in told


def test_a_403_of_a_key_is_about_permission() -> None:
    """Where the service says so; a gateway that does not find a key where it looks for it says no
    more than this."""
    assert "header" not in str(refused(403, api_key=KEY))
    for words in ("Forbidden", "Missing Authentication Token"):
        gateway = Reply.json({"message": words}, 403)
        told = str(refused(reply=gateway, api_key=KEY))
        assert "the key was sent in the header 'authorization'" in told
        assert "'aws-gateway' 'x-api-key'" in told
        assert "header" not in str(refused(reply=gateway, api_key=KEY, profile="aws-gateway"))


@every("api", APIS)
@every(
    "host",
    [
        "bedrock-runtime.us-east-1.amazonaws.com",
        "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
        "bedrock-runtime.cn-north-1.amazonaws.com.cn",
        "bedrock-mantle.eu-west-1.api.aws",
    ],
)
def test_bedrock_wants_a_bearer_token(api: str, host: str) -> None:
    """On every API. What an API Gateway wants depends on what is behind it."""
    assert sent(api, f"https://{host}/openai/v1") == {"authorization": f"Bearer {KEY}"}
    gateway = "https://abc123.execute-api.us-east-1.amazonaws.com/prod/v1"
    assert sent(api, gateway) == sent(api)


# ---- the environment, for an address that is given ---------------------------------------------


@pytest.fixture
def own_settings(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSTREAM_API", "chat")
    monkeypatch.setenv("LLMSTREAM_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-another-vendor")


@pytest.mark.usefixtures("own_settings")
def test_our_own_variables_count_for_a_given_address(server: LLMServer) -> None:
    server.default = Answer("Hi")
    with Client.from_env(base_url=server.base_url, model="m") as client:
        assert client.stream("Why?").result().text == "Hi"
    request = server.requests[0]
    assert request.path.endswith("/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.usefixtures("own_settings")
def test_what_is_given_wins(server: LLMServer) -> None:
    server.default = Answer("Hi")
    with Client.from_env(base_url=server.base_url, api="responses", api_key="mine") as client:
        client.stream("Why?").result()
    assert server.requests[0].path.endswith("/responses")
    assert server.requests[0].headers["authorization"] == "Bearer mine"


@pytest.mark.usefixtures("own_settings")
@pytest.mark.parametrize("same", [True, False])
def test_a_key_that_is_meant_for_another_server_is_not_sent(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """LLMSTREAM_BASE_URL says where LLMSTREAM_API_KEY belongs."""
    named = server.base_url if same else "http://other.example/v1"
    monkeypatch.setenv("LLMSTREAM_BASE_URL", named)
    server.default = Answer("Hi")
    with Client.from_env(base_url=server.base_url, model="m") as client:
        client.stream("Why?").result()
    assert ("authorization" in server.requests[0].headers) is same


@pytest.mark.usefixtures("own_settings")
def test_the_command_with_an_address(server: LLMServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.default = Answer("Hi")
    code = main(["--base-url", server.base_url, "--model", "m", "--no-stdin", "Why?"])
    assert code == 0
    assert capsys.readouterr().out.strip() == "Hi"
    assert server.requests[0].path.endswith("/chat/completions")
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
