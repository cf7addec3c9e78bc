"""Who answers, in the words of the conventions: `gen_ai.provider.name`, `openai.api.type`."""

from __future__ import annotations

from ..._core.dialects import APIS

__all__ = ["openai_type", "provider_of"]

# The well-known values of gen_ai.provider.name, by the end of the host's name.
_PROVIDERS = {
    "amazonaws.com": "aws.bedrock",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "anthropic.com": "anthropic",
    "cloud.ibm.com": "ibm.watsonx.ai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "cohere.ai": "cohere",
    "cohere.com": "cohere",
    "deepseek.com": "deepseek",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "googleapis.com": "gcp.gen_ai",
    "groq.com": "groq",
    "inference.ai.azure.com": "azure.ai.inference",
    "mistral.ai": "mistral_ai",
    "models.ai.azure.com": "azure.ai.inference",
    "moonshot.ai": "moonshot_ai",
    "moonshot.cn": "moonshot_ai",
    "openai.azure.com": "azure.ai.openai",
    "openai.com": "openai",
    "perplexity.ai": "perplexity",
    "services.ai.azure.com": "azure.ai.openai",
    "x.ai": "x_ai",
}


def provider_of(host: str, api: str) -> str:
    """The `gen_ai.provider.name` of a service: by its host, otherwise the API's own maker.

    The attribute "acts as a discriminator that identifies the GenAI telemetry format flavor" and
    "may differ from the actual upstream provider" (gen-ai-spans.md).
    """
    ending = host.lower()
    while ending:
        found = _PROVIDERS.get(ending)
        if found is not None:
            return found
        ending = ending.partition(".")[2]
    return APIS[api].provider or APIS[api].vendor if api in APIS else api


def openai_type(api: str, provider: str) -> str | None:
    """The `openai.api.type` of a call, which only OpenAI's own service has."""
    return APIS[api].openai_type if provider == "openai" and api in APIS else None
