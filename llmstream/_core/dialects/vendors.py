"""Where each service is, and the names under which its key is known: the rows that belong to those
of `profiles`. Pure.

Sources: the vendors' own documentation and SDKs, from where the names of the variables are. What is
not documented is not here: an API without an address has to be given one.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

__all__ = ["VENDORS", "Vendor"]


class Vendor(Struct, frozen=True, kw_only=True):
    """A service as its customers know it.

    Args:
        name: that of its profile, and of its key on the keyring.
        apis: the APIs that it serves; the first one where none is asked for.
        addresses: API -> base_url. One without an address has it in `url_variable`.
        key_variables: the environment variables that the vendor's own SDKs read the key from; the
            first one that is set counts.
        url_variable: the variable with the address of this customer's own resource, or "".
        key_optional: whether the service may do without a key: a server on this machine.
    """

    name: str
    apis: tuple[str, ...]
    addresses: Mapping[str, str] = {}
    key_variables: tuple[str, ...] = ()
    url_variable: str = ""
    key_optional: bool = False


def _vendor(name: str, *key_variables: str, **addresses: str) -> Vendor:
    return Vendor(
        name=name, apis=tuple(addresses), addresses=addresses, key_variables=key_variables
    )


def _local(name: str, port: int, *key_variables: str) -> Vendor:
    """A server that serves all three APIs on this machine, at its usual port."""
    root = f"http://localhost:{port}"
    addresses = {"chat": f"{root}/v1", "responses": f"{root}/v1", "messages": root}
    return Vendor(
        name=name,
        apis=tuple(addresses),
        addresses=addresses,
        key_variables=key_variables,
        key_optional=True,
    )


_ROWS = (
    Vendor(
        name="openai",
        apis=("responses", "chat"),
        addresses=dict.fromkeys(("responses", "chat"), "https://api.openai.com/v1"),
        key_variables=("OPENAI_API_KEY",),
        url_variable="OPENAI_BASE_URL",
    ),
    Vendor(
        name="anthropic",
        apis=("messages",),
        addresses={"messages": "https://api.anthropic.com"},
        key_variables=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
        url_variable="ANTHROPIC_BASE_URL",
    ),
    _vendor(
        "gemini",
        *("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        chat="https://generativelanguage.googleapis.com/v1beta/openai",
        gemini="https://generativelanguage.googleapis.com/v1beta",
    ),
    # Google Cloud: a project and a region in the address, and tokens instead of keys.
    Vendor(name="vertex", apis=("gemini", "chat")),
    # Every customer has a host of their own, in the public cloud or in that of a government.
    Vendor(
        name="azure",
        apis=("chat", "responses"),
        key_variables=("AZURE_OPENAI_API_KEY",),
        url_variable="AZURE_OPENAI_ENDPOINT",
    ),
    # Every region has a host of its own: base_url names it.
    Vendor(
        name="bedrock",
        apis=("chat", "responses", "messages"),
        key_variables=("AWS_BEARER_TOKEN_BEDROCK",),
    ),
    _vendor(
        "openrouter",
        "OPENROUTER_API_KEY",
        chat="https://openrouter.ai/api/v1",
        responses="https://openrouter.ai/api/v1",
        messages="https://openrouter.ai/api",
    ),
    _vendor(
        "groq",
        "GROQ_API_KEY",
        chat="https://api.groq.com/openai/v1",
        responses="https://api.groq.com/openai/v1",
    ),
    _vendor("mistral", "MISTRAL_API_KEY", chat="https://api.mistral.ai/v1"),
    _vendor(
        "deepseek",
        "DEEPSEEK_API_KEY",
        chat="https://api.deepseek.com",
        messages="https://api.deepseek.com/anthropic",
    ),
    _vendor("xai", "XAI_API_KEY", chat="https://api.x.ai/v1", responses="https://api.x.ai/v1"),
    _vendor("together", "TOGETHER_API_KEY", chat="https://api.together.ai/v1"),
    _vendor(
        "fireworks",
        "FIREWORKS_API_KEY",
        chat="https://api.fireworks.ai/inference/v1",
        responses="https://api.fireworks.ai/inference/v1",
        messages="https://api.fireworks.ai/inference",
    ),
    _vendor(
        "moonshot",
        "MOONSHOT_API_KEY",
        chat="https://api.moonshot.ai/v1",
        responses="https://api.moonshot.ai/v1",
        messages="https://api.moonshot.ai/anthropic",
    ),
    _vendor("kimi", "KIMI_API_KEY", chat="https://api.kimi.com/coding/v1"),
    # The vendor's newer SDK reads ZAI_API_KEY for both of its addresses.
    _vendor(
        "zhipu",
        *("ZHIPUAI_API_KEY", "ZAI_API_KEY"),
        chat="https://open.bigmodel.cn/api/paas/v4",
        messages="https://open.bigmodel.cn/api/anthropic",
    ),
    _vendor(
        "zai",
        "ZAI_API_KEY",
        chat="https://api.z.ai/api/paas/v4",
        messages="https://api.z.ai/api/anthropic",
    ),
    _vendor(
        "dashscope",
        "DASHSCOPE_API_KEY",
        chat="https://dashscope.aliyuncs.com/compatible-mode/v1",
        responses="https://dashscope.aliyuncs.com/compatible-mode/v1",
    ),
    _vendor("nvidia", "NVIDIA_API_KEY", chat="https://integrate.api.nvidia.com/v1"),
    # GitHub Models was retired on 2026-07-30 (GitHub community discussion 203602); the row is kept
    # for proxies of it.
    _vendor("github", "GITHUB_TOKEN", chat="https://models.github.ai/inference"),
    _vendor(
        "huggingface",
        "HF_TOKEN",
        chat="https://router.huggingface.co/v1",
        responses="https://router.huggingface.co/v1",
    ),
    _vendor("cerebras", "CEREBRAS_API_KEY", chat="https://api.cerebras.ai/v1"),
    # Its Chat Completions, which had the models of Sonar, ended on 2026-09-27 ("Migrate from Sonar
    # to the Agent API"); the address is kept for proxies of it.
    _vendor(
        "perplexity",
        *("PERPLEXITY_API_KEY", "PPLX_API_KEY"),
        responses="https://api.perplexity.ai/v1",
        chat="https://api.perplexity.ai",
    ),
    _local("ollama", 11434),
    _local("lmstudio", 1234, "LM_API_TOKEN"),
    _local("vllm", 8000, "VLLM_API_KEY"),
    _local("llama.cpp", 8080, "LLAMA_API_KEY"),
)
VENDORS: dict[str, Vendor] = {vendor.name: vendor for vendor in _ROWS}
