"""Profiles: where servers of one API contradict each other; and a toy profile, to
show that a new service is one class and one row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from every import every
from support import ONCE

from llmstream import Client, ConfigurationError, StreamTruncated
from llmstream._core.dialects.profiles import DEFAULT, PROFILES, Profile, endpoint, profile_for
from llmstream.testing import (
    Answer,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Recorded,
    Reply,
    Silence,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LLMSTREAM_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as started:
        yield started


def requested(
    base_url: str = "http://test/v1",
    profile: str | None = None,
    api: str = "chat",
    answer: Any = None,
    **options: Any,
) -> Recorded:
    """The request that a call makes."""
    transport = FakeTransport(answer or Answer("Hi"))
    client = Client(
        api,
        base_url=base_url,
        api_key="test-key",
        model="m",
        profile=profile,
        transport=transport,
        clock=FakeClock(),
        retry=ONCE,
    )
    client.stream("Hi", **options).result()
    (request,) = transport.requests
    return request


# ---- which profile -----------------------------------------------------------------------------


@every(
    ("base_url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://API.OpenAI.com/v1", "openai"),
        ("https://api.openai.com:443/v1", "openai"),
        ("https://res.openai.azure.com", "azure"),
        ("https://res.services.ai.azure.com/openai/v1", "azure"),
        ("https://res.cognitiveservices.azure.com/", "azure"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1", "bedrock"),
        ("https://bedrock-mantle.us-east-1.api.aws/v1", "bedrock"),
        ("https://abc.execute-api.us-east-1.amazonaws.com/v1", "default"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.moonshot.ai/v1", "moonshot"),
        ("https://api.moonshot.cn/v1", "moonshot"),
        ("https://api.kimi.com/coding/v1", "kimi"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.perplexity.ai", "perplexity"),
        ("https://api.cerebras.ai/v1", "cerebras"),
        ("https://res.openai.azure.us", "azure"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://us-east-1.api.x.ai/v1", "xai"),
        ("https://api.together.xyz/v1", "together"),
        ("https://api.fireworks.ai/inference/v1", "fireworks"),
        ("https://open.bigmodel.cn/api/paas/v4", "zhipu"),
        ("https://api.z.ai/api/coding/paas/v4", "zai"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://ws.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu", "vertex"),
        ("https://integrate.api.nvidia.com/v1", "nvidia"),
        ("https://models.github.ai/inference", "github"),
        ("https://router.huggingface.co/v1", "huggingface"),
        ("http://localhost:11434/v1", "default"),
        ("http://127.0.0.1:8000/v1", "default"),
        ("http://[::1]:8000/v1", "default"),
        ("https://api.openai.com.example.org/v1", "default"),
        ("https://example.org/api.openai.com/v1", "default"),
        ("https://notopenrouter.ai/v1", "default"),
        ("https://myapi.openai.com/v1", "default"),
        ("http://", "default"),
    ],
)
def test_the_host_tells_the_profile(base_url: str, name: str) -> None:
    """By the host's name and its subdomains, never by a part of a word or of the path."""
    assert profile_for(None, base_url).name == name


def test_a_named_profile_wins() -> None:
    """Over what the host says."""
    assert profile_for("vllm", "https://api.openai.com/v1").name == "vllm"


@pytest.mark.parametrize("name", ["nobody", "", "OpenAI"])
def test_an_unknown_profile_is_refused(name: str) -> None:
    """With the known ones in the sentence."""
    with pytest.raises(ConfigurationError, match="openrouter"):
        profile_for(name, "http://test")
    with pytest.raises(ConfigurationError, match="openrouter"):
        Client("chat", base_url="http://test", profile=name, transport=FakeTransport())


def test_every_row_is_under_its_own_name() -> None:
    """And no host belongs to two of them."""
    assert all(profile.name == name for name, profile in PROFILES.items())
    hosts = [host for profile in PROFILES.values() for host in profile.hosts]
    assert len(hosts) == len(set(hosts))


# ---- where a request goes ----------------------------------------------------------------------


@every(
    ("profile", "base_url", "expected"),
    [
        ("default", "http://h/v1", "http://h/v1/x"),
        ("default", "http://h/v1/", "http://h/v1/x"),
        ("default", "http://h", "http://h/x"),
        ("default", "http://h/v1?a=b&c=d", "http://h/v1/x?a=b&c=d"),
        ("default", "http://h/v1/?a=b", "http://h/v1/x?a=b"),
        ("azure", "https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1/x"),
        ("azure", "https://r.openai.azure.com/", "https://r.openai.azure.com/openai/v1/x"),
        (
            "azure",
            "https://r.openai.azure.com?api-version=preview",
            "https://r.openai.azure.com/openai/v1/x?api-version=preview",
        ),
        (
            "azure",
            "https://r.openai.azure.com/openai/v1",
            "https://r.openai.azure.com/openai/v1/x",
        ),
        (
            "azure",
            "https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/d/x?api-version=2024-10-21",
        ),
    ],
)
def test_endpoints(profile: str, base_url: str, expected: str) -> None:
    """The path under the base, the base's query behind it."""
    assert endpoint(PROFILES[profile], base_url, "/x") == expected


AZURE = "https://res.openai.azure.com"


@every(
    ("api", "base_url", "path"),
    [
        ("chat", AZURE, "/openai/v1/chat/completions"),
        ("chat", f"{AZURE}/", "/openai/v1/chat/completions"),
        ("chat", f"{AZURE}/openai/v1", "/openai/v1/chat/completions"),
        ("chat", f"{AZURE}/openai/v1/", "/openai/v1/chat/completions"),
        (
            "chat",
            f"{AZURE}/openai/deployments/gpt?api-version=2024-10-21",
            "/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        ),
        ("responses", AZURE, "/openai/v1/responses"),
        ("responses", f"{AZURE}/openai/v1/", "/openai/v1/responses"),
        (
            "responses",
            f"{AZURE}/openai/v1?api-version=preview",
            "/openai/v1/responses?api-version=preview",
        ),
    ],
)
def test_azure(api: str, base_url: str, path: str) -> None:
    """The resource's root, the v1 API or a deployment; the key in its own header and no other."""
    request = requested(base_url, api=api)
    assert request.path == path
    assert request.headers["api-key"] == "test-key"
    assert [n for n in request.headers if "test-key" in request.headers[n]] == ["api-key"]


def test_azure_behind_another_name() -> None:
    """A gateway in front of it: the profile says what the host cannot."""
    request = requested("https://gateway.example/openai/v1", profile="azure")
    assert "api-key" in request.headers
    assert "authorization" not in request.headers


# ---- what each row changes ---------------------------------------------------------------------


@every("name", sorted(PROFILES))
def test_the_limit_has_the_name_that_the_service_knows(name: str) -> None:
    """max_tokens, or its newer name where the old one is refused."""
    body = requested(profile=name, max_output_tokens=7).json()
    newer = name in ("openai", "azure", "cerebras")
    field = "max_completion_tokens" if newer else "max_tokens"
    assert {k: v for k, v in body.items() if k.startswith("max_")} == {field: 7}


@every("name", sorted(PROFILES))
def test_usage_is_asked_for_where_it_has_to_be(name: str) -> None:
    """Not where it comes unasked and the option is refused."""
    unasked = name in ("mistral", "perplexity")
    asked = requested(profile=name).json().get("stream_options")
    assert asked == (None if unasked else {"include_usage": True})


# thinking= -> profile -> what arrives; a profile that is not there refuses it
BY_THINKING = ("deepseek", "kimi", "moonshot", "zai", "zhipu")
BY_EFFORT = (
    "default",
    "openai",
    "azure",
    "bedrock",
    "ollama",
    "gemini",
    "groq",
    "perplexity",
    "cerebras",
    *("xai", "together", "fireworks", "nvidia", "github", "huggingface", "lmstudio"),
    "vertex",
)
THINKING: list[tuple[Any, dict[str, dict[str, Any]]]] = [
    (
        True,
        {
            **{name: {"reasoning_effort": "medium"} for name in BY_EFFORT},
            "openrouter": {"reasoning": {"effort": "medium"}},
            "vllm": {"chat_template_kwargs": {"enable_thinking": True}},
            "llama.cpp": {"chat_template_kwargs": {"enable_thinking": True}},
            **{name: {"thinking": {"type": "enabled"}} for name in BY_THINKING},
            "dashscope": {"enable_thinking": True},
        },
    ),
    (
        "low",
        {
            **{name: {"reasoning_effort": "low"} for name in BY_EFFORT},
            "openrouter": {"reasoning": {"effort": "low"}},
        },
    ),
    (
        2048,
        {
            "openrouter": {"reasoning": {"max_tokens": 2048}},
            "dashscope": {"enable_thinking": True, "thinking_budget": 2048},
        },
    ),
    (
        {"a": 1},
        {
            "openrouter": {"reasoning": {"a": 1}},
            "vllm": {"chat_template_kwargs": {"a": 1}},
            "llama.cpp": {"chat_template_kwargs": {"a": 1}},
            **{name: {"thinking": {"a": 1}} for name in BY_THINKING},
        },
    ),
]
OPTIONS = {
    *("reasoning_effort", "reasoning", "chat_template_kwargs", "thinking"),
    *("enable_thinking", "thinking_budget"),
}


@every("name", sorted(PROFILES))
@every(("thinking", "expected"), THINKING, ids=lambda value: str(value)[:20])
def test_thinking(name: str, thinking: Any, expected: dict[str, dict[str, Any]]) -> None:
    """Each service's own option, or a refusal that names the profile and the way out."""
    if name not in expected:
        with pytest.raises(ConfigurationError, match=rf"{name!r}.*extra_body"):
            requested(profile=name, thinking=thinking)
        return
    body = requested(profile=name, thinking=thinking).json()
    assert {k: v for k, v in body.items() if k in OPTIONS} == expected[name]


@every("name", sorted(PROFILES))
@every("thinking", [1.5, ["low"]])
def test_what_no_service_takes_is_refused(name: str, thinking: Any) -> None:
    """Whatever the profile: it is no form of the option."""
    with pytest.raises(ConfigurationError, match=r"thinking=.*pass True, an effort"):
        requested(profile=name, thinking=thinking)


@every("name", sorted(PROFILES))
@every("thinking", [None, False])
def test_no_thinking_is_no_option(name: str, thinking: Any) -> None:
    """In no profile."""
    assert not OPTIONS & set(requested(profile=name, thinking=thinking).json())


@every("name", sorted(PROFILES))
@every("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_understood_in_every_profile(name: str, field: str) -> None:
    """The fields that the row names; Groq's only one is `reasoning`."""
    block = _chunk({field: "Hm."})
    client, _ = _client(name, [block, _chunk({"content": "Yes."}), _chunk({}, "stop")])
    result = client.stream("Hi").result()
    expected = "Hm." if field in PROFILES[name].reasoning else ""
    assert (result.thinking, result.text) == (expected, "Yes.")


@every("name", sorted(PROFILES))
def test_the_linger_of_the_row(name: str) -> None:
    """How long usage behind the finish is waited for."""
    client, clock = _client(name, [_chunk({"content": "Hi"}, "stop"), Silence()])
    begun = clock.monotonic()
    assert client.stream("Hi").result().text == "Hi"
    assert clock.monotonic() - begun == pytest.approx(PROFILES[name].linger)


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def _client(profile: str, steps: list[Any]) -> tuple[Client, FakeClock]:
    clock = FakeClock()
    client = Client(
        "chat",
        base_url="http://test",
        model="m",
        profile=profile,
        transport=FakeTransport(Reply(steps)),
        clock=clock,
        retry=ONCE,
    )
    return client, clock


@every("name", sorted(PROFILES))
def test_turns_say_what_they_are_where_they_have_to(name: str) -> None:
    """llama.cpp's Responses API wants a type on every turn; elsewhere the prompt is untouched."""
    transport = FakeTransport(Answer("Hi"))
    client = Client(
        "responses", base_url="http://test", model="m", profile=name, transport=transport
    )
    turn = {"role": "user", "content": "Hi"}
    output = {"type": "function_call_output", "call_id": "c", "output": "x"}
    client.stream([turn, output]).result()
    typed = {"type": "message", **turn} if name == "llama.cpp" else turn
    assert transport.requests[0].json()["input"] == [typed, output]
    assert turn == {"role": "user", "content": "Hi"}


# ---- a toy profile -----------------------------------------------------------------------------

TOY_PROFILE = Profile(
    name="toy",
    hosts=("toy.example",),
    ends=frozenset({"done"}),
    linger=7.0,
    usage=False,
    reasoning=("reasoning",),
    max_tokens="most",
    thinking="thinking",
    auth="api-key",
    path="/toy",
)


@pytest.fixture
def toy_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "toy", TOY_PROFILE)


@pytest.mark.usefixtures("toy_profile")
@pytest.mark.parametrize("name", ["toy", None])
def test_a_row_is_all_that_a_profile_needs(name: str | None) -> None:
    """By its name, or by its host."""
    request = requested("https://api.toy.example", name, thinking={"a": 1}, max_output_tokens=3)
    body = request.json()
    assert request.path == "/toy/chat/completions"
    assert request.headers["api-key"] == "test-key"
    assert (body["most"], body["thinking"]) == (3, {"a": 1})
    assert "stream_options" not in body


@pytest.mark.usefixtures("toy_profile")
def test_a_profile_says_what_ends_an_answer() -> None:
    """Only [DONE] here: a finish_reason alone is not the end."""
    client, _ = _client("toy", [_chunk({"content": "Hi"}, "stop")])
    with pytest.raises(StreamTruncated):
        client.stream("Hi").result()
    done = b"data: [DONE]\n\n"
    client, _ = _client("toy", [_chunk({"content": "Hi"}, "stop"), Pause(6.0), done])
    assert client.stream("Hi").result().text == "Hi"


def test_the_default_is_lenient() -> None:
    """Either end will do, and every name of the reasoning is known."""
    assert DEFAULT.ends == {"finish", "done"}
    assert set(DEFAULT.reasoning) >= {n for p in PROFILES.values() for n in p.reasoning}


def test_an_unknown_api_is_refused() -> None:
    """With the known ones in the sentence."""
    with pytest.raises(ConfigurationError, match=r"'responses', 'messages', 'chat'"):
        Client("telepathy", base_url="http://test")
