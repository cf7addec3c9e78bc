"""The APIs, one row each. A new API is a new file in this folder, a file of events, and a row.

A dialect is imported when its API is first used, because its events alone are up to sixty classes.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from .base import Dialect

__all__ = ["APIS", "DEFAULT_API", "LOCAL_API", "Api"]


class Api(Struct, frozen=True, kw_only=True):
    """What other floors need to know of an API without loading its dialect.

    Args:
        load: imports and returns the dialect.
        key_variable, url_variable: the vendor's own environment variables.
        other_key_variable: another variable with the key, which counts where the first is not set.
        bearer_variable: the vendor's variable for a token that is sent as `Authorization: Bearer`.
            It counts where `key_variable` is not set. None where the vendor has none.
        keyring: the name under which the key is stored on the keyring.
        vendor: who defines the API, as genai-prices names it.
        provider: the same as OpenTelemetry names it; "" where the names are the same.
        base_path: what the API's base_url has after the address of a server that serves all APIs.
        prompt_fields: the fields of a request's JSON that contain the prompt.
        limit_fields: the fields that limit the length of the answer; one in an object of the
            request is "object.field".
        cached_beside: whether cached and cache-writing tokens are counted in addition to
            `input_tokens`, not within it.
        omits_zeros: whether a count that is 0 is absent from a usage.
        openai_type: the value of OpenTelemetry's `openai.api.type`, or None where it has none.
    """

    load: Callable[[], Dialect]
    key_variable: str
    url_variable: str
    keyring: str
    vendor: str
    prompt_fields: tuple[str, ...]
    limit_fields: tuple[str, ...]
    other_key_variable: str | None = None
    bearer_variable: str | None = None
    provider: str = ""
    base_path: str = "/v1"
    cached_beside: bool = False
    omits_zeros: bool = False
    openai_type: str | None = None

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The variables that a key may be in, the first one that counts first."""
        names = (self.key_variable, self.other_key_variable, self.bearer_variable)
        return tuple(name for name in names if name is not None)


def _responses() -> Dialect:
    from .responses import RESPONSES

    return RESPONSES


def _messages() -> Dialect:
    from .messages import MESSAGES

    return MESSAGES


def _chat() -> Dialect:
    from .chat import CHAT

    return CHAT


def _gemini() -> Dialect:
    from .gemini import GEMINI

    return GEMINI


# The environment and the keyring are searched for a key in this order.
APIS: dict[str, Api] = {
    "responses": Api(
        load=_responses,
        key_variable="OPENAI_API_KEY",
        url_variable="OPENAI_BASE_URL",
        keyring="openai",
        vendor="openai",
        prompt_fields=("input", "instructions"),
        limit_fields=("max_output_tokens",),
        openai_type="responses",
    ),
    "messages": Api(
        load=_messages,
        key_variable="ANTHROPIC_API_KEY",
        url_variable="ANTHROPIC_BASE_URL",
        bearer_variable="ANTHROPIC_AUTH_TOKEN",
        keyring="anthropic",
        vendor="anthropic",
        prompt_fields=("messages", "system"),
        limit_fields=("max_tokens",),
        base_path="",  # its own paths begin with /v1
        cached_beside=True,
    ),
    "chat": Api(
        load=_chat,
        key_variable="OPENAI_API_KEY",
        url_variable="OPENAI_BASE_URL",
        keyring="openai",
        vendor="openai",
        prompt_fields=("messages", "prompt"),
        limit_fields=("max_tokens", "max_completion_tokens"),
        openai_type="chat_completions",
    ),
    "gemini": Api(
        load=_gemini,
        key_variable="GOOGLE_API_KEY",
        other_key_variable="GEMINI_API_KEY",
        url_variable="GOOGLE_GEMINI_BASE_URL",
        keyring="gemini",
        vendor="google",
        provider="gcp.gemini",
        prompt_fields=("contents", "systemInstruction"),
        limit_fields=(
            *("generationConfig.maxOutputTokens", "generationConfig.max_output_tokens"),
            *("generation_config.maxOutputTokens", "generation_config.max_output_tokens"),
        ),
        base_path="/v1beta",
        omits_zeros=True,
    ),
}
DEFAULT_API = "responses"
# llama.cpp serves all three; in Responses it does not report that a limit has cut the answer
# (measured).
LOCAL_API = "chat"
