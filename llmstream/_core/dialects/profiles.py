"""Where the servers of one API differ: the differences, as data.

A profile is a row here; the dialects use it. The default is lenient enough for every server, and
strict enough to recognise a truncated stream. Pure.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from ...errors import ConfigurationError
from ..checks import shown

__all__ = ["DEFAULT", "PROFILES", "Profile", "endpoint", "is_at", "profile_for"]

_REASONING = ("reasoning_content", "reasoning", "reasoning_details")


class Profile(Struct, frozen=True, kw_only=True):
    """How one service differs from others.

    Args:
        name: the value of `Client(profile=...)`.
        hosts: the endings of host names by which the service is recognised; "*" stands for
            anything.
        ends: what completes a chat answer: "finish" (a finish_reason), "done" ([DONE]), or either.
        linger: seconds to wait after the finish for usage and [DONE].
        usage: whether the request asks for usage with stream_options.
        calls: what distinguishes tool calls: "index", or "id" where the index may be missing.
        returns: the fields with reasoning that an assistant's turn has when it is sent back.
        reasoning: the fields that may contain reasoning. The first one that is not empty counts.
        max_tokens, thinking: the names of these options; "" if the service has none.
        think_tags: whether thinking is the beginning of the text, between <think> and </think>
            (Chat Completions): see `ThinkTags`. "open": without the first tag.
        auth: the header with the key: "own" (the dialect's), "bearer" (Authorization: Bearer),
            "api-key" or "x-api-key".
        call_ids: what ids of calls have to be in Chat Completions, a regular expression. Most
            servers take any; OpenAI, and what passes on to it, 40 characters.
        path: the path that is added to a base_url without one.
        typed_turns: whether each turn in a Responses input needs `"type": "message"`.
        tells_limit: whether a Responses answer that a limit has cut is always reported as cut.
        strict_tools: whether the service knows tools with a strict schema (Chat Completions).
        structured: how an answer that has to fit a schema is asked for: "json_schema" (the API's
            own option), "json_object" (its option for any JSON object; the schema goes into the
            instructions), "prompt" (the instructions alone), or "all" (the API's own option, the
            field `json_schema` and the instructions: a server that passes over what it does not
            know, and knows different ones of these on different APIs).
        reports_cost: whether the service reports the cost of every answer, so that no price list
            is needed. Sources: OpenRouter, "Usage accounting" ("included automatically in every
            response"); xAI, "Cost tracking" ("every inference response"); Perplexity's reference
            (`usage.cost`).
        advice: words of the service's errors, and what a caller can do about such an error.
    """

    name: str
    hosts: tuple[str, ...] = ()
    ends: frozenset[str] = frozenset({"finish", "done"})
    linger: float = 2.0
    usage: bool = True
    calls: str = "index"
    reasoning: tuple[str, ...] = _REASONING
    returns: tuple[str, ...] = ()
    max_tokens: str = "max_tokens"
    thinking: str = "reasoning_effort"
    think_tags: bool | str = False
    call_ids: str = ".{1,40}"
    auth: str = "own"
    path: str = ""
    typed_turns: bool = False
    tells_limit: bool = False
    strict_tools: bool = True
    structured: str = "json_schema"
    reports_cost: bool = False
    advice: tuple[tuple[str, str], ...] = ()


DEFAULT = Profile(name="default")
_LARGER_CONTEXT = (
    "a larger one is Client.local(context=N), LocalServer(context=N), `llmstream --local "
    "--context N` or `llama-server --ctx-size N`"
)

_ROWS = (
    DEFAULT,
    Profile(
        name="openai",
        hosts=("api.openai.com",),
        max_tokens="max_completion_tokens",
        tells_limit=True,
    ),
    Profile(
        name="azure",
        # The public cloud, those of governments and of China, and API Management.
        hosts=(
            *("openai.azure.com", "services.ai.azure.com", "cognitiveservices.azure.com"),
            *("openai.azure.us", "services.ai.azure.us", "cognitiveservices.azure.us"),
            *("openai.azure.cn", "cognitiveservices.azure.cn"),
            *("azure-api.net", "azure-api.us", "azure-api.cn"),
        ),
        max_tokens="max_completion_tokens",
        auth="api-key",
        path="/openai/v1",
        tells_limit=True,
    ),
    # Amazon Bedrock itself; its keys are Bearer tokens, for every API.
    Profile(
        name="bedrock",
        hosts=(
            *("bedrock-runtime*.*.amazonaws.com", "bedrock-runtime*.*.amazonaws.com.cn"),
            *("bedrock-mantle*.*.api.aws", "bedrock-mantle*.*.amazonaws.com"),
        ),
        auth="bearer",
    ),
    # Not by its host: a gateway without keys of its own passes the Authorization header on.
    # What is behind it is unknown, and with that the option for thinking.
    Profile(name="aws-gateway", auth="x-api-key", thinking=""),
    Profile(
        name="openrouter",
        hosts=("openrouter.ai",),
        auth="bearer",
        reports_cost=True,
        reasoning=("reasoning", "reasoning_content", "reasoning_details"),
        returns=("reasoning_details",),
        thinking="reasoning",
    ),
    # Servers of local models split thinking off by themselves, or not, as they are started.
    Profile(
        name="ollama",
        thinking="reasoning_effort",
        think_tags=True,
        reasoning=("reasoning", *_REASONING),
    ),
    Profile(name="lmstudio", think_tags=True, auth="bearer"),
    Profile(name="vllm", thinking="chat_template_kwargs", think_tags=True, auth="bearer"),
    Profile(
        name="llama.cpp",
        thinking="chat_template_kwargs",
        think_tags=True,
        typed_turns=True,
        # Measured: Chat Completions knows the option, Responses the field, Messages neither.
        structured="all",
        advice=(("exceeds the available context size", _LARGER_CONTEXT),),
    ),
    # These two do not always send [DONE], nor an index with every call. Mistral always sends usage.
    Profile(
        name="mistral",
        hosts=("api.mistral.ai",),
        calls="id",
        call_ids="[a-zA-Z0-9]{9}",
        usage=False,
        thinking="",
    ),
    # All regions, one, or those of a continent (google-genai 3.6.1: "us" and "eu").
    Profile(
        name="vertex",
        hosts=(
            *("aiplatform.googleapis.com", "*-aiplatform.googleapis.com"),
            "aiplatform.*.rep.googleapis.com",
        ),
    ),
    Profile(name="gemini", hosts=("generativelanguage.googleapis.com",), calls="id", linger=1.0),
    Profile(
        name="deepseek",
        hosts=("api.deepseek.com",),
        strict_tools=False,  # only at another address, for what is in beta
        structured="json_object",
        thinking="thinking",
        returns=("reasoning_content",),
    ),
    Profile(
        name="moonshot",
        hosts=("api.moonshot.ai", "api.moonshot.cn"),
        auth="bearer",  # for Messages, too
        strict_tools=False,
        structured="json_object",
        thinking="thinking",
        returns=("reasoning_content",),
    ),
    Profile(
        name="kimi",  # the same models under the name of the product
        hosts=("api.kimi.com",),
        strict_tools=False,
        structured="json_object",
        thinking="thinking",
        returns=("reasoning_content",),
    ),
    Profile(name="groq", hosts=("api.groq.com",), reasoning=("reasoning",)),
    Profile(name="perplexity", hosts=("api.perplexity.ai",), usage=False, reports_cost=True),
    Profile(name="cerebras", hosts=("api.cerebras.ai",), max_tokens="max_completion_tokens"),
    Profile(name="anthropic", hosts=("api.anthropic.com",), thinking=""),
    Profile(name="xai", hosts=("api.x.ai",), auth="bearer", reports_cost=True),
    Profile(name="together", hosts=("api.together.ai", "api.together.xyz")),
    Profile(name="fireworks", hosts=("api.fireworks.ai",), auth="bearer"),
    # The same models, in China and elsewhere.
    Profile(
        name="zhipu",
        hosts=("open.bigmodel.cn",),
        structured="json_object",
        thinking="thinking",
        returns=("reasoning_content",),
    ),
    Profile(
        name="zai",
        hosts=("api.z.ai",),
        structured="json_object",
        thinking="thinking",
        returns=("reasoning_content",),
    ),
    Profile(
        name="dashscope",
        hosts=(
            *("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com"),
            *("dashscope-us.aliyuncs.com", "maas.aliyuncs.com"),  # WORKSPACE.REGION.maas...
        ),
        thinking="enable_thinking",
    ),
    Profile(name="nvidia", hosts=("integrate.api.nvidia.com",)),
    Profile(name="github", hosts=("models.github.ai",)),
    Profile(name="huggingface", hosts=("router.huggingface.co",), auth="bearer"),
)
PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ROWS}


def profile_for(name: Any, base_url: str) -> Profile:
    """The profile with this name; without a name the profile of the host, else the default.

    Raises ConfigurationError for an unknown name.
    """
    if name is not None:
        found = PROFILES.get(name) if isinstance(name, str) else None
        if found is None:
            raise ConfigurationError(
                f"profile={shown(name)} is not known: use one of {list(PROFILES)}"
            )
        return found
    host = urlsplit(base_url).hostname or ""
    return next((p for p in PROFILES.values() if is_at(p, host)), DEFAULT)


def is_at(profile: Profile, host: str) -> bool:
    """Whether the service of the profile has this host."""
    return any(
        host.endswith("." + known) or host == known or ("*" in known and _matches(known, host))
        for known in profile.hosts
    )


def _matches(known: str, host: str) -> bool:
    return re.fullmatch(re.escape(known).replace(r"\*", ".*"), host) is not None


def endpoint(profile: Profile, base_url: str, path: str) -> str:
    """`base_url` with `path` (such as "/chat/completions") appended. Its query is kept."""
    base, _, query = base_url.partition("?")
    base = base.rstrip("/")
    if profile.path and not urlsplit(base).path:
        base += profile.path
    return f"{base}{path}" + (f"?{query}" if query else "")
