"""The APIs, one row each. A new API is a new file here, its events, and a row.

A dialect is imported with the first use of its API: its events alone are some sixty classes.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from .base import Dialect

__all__ = ["APIS", "DEFAULT_API", "LOCAL_API", "Api"]


class Api(Struct, frozen=True, kw_only=True):
    """What has to be known of an API without loading its dialect.

    Args:
        load: returns the dialect.
        key_variable, url_variable: the vendor's own environment variables.
        keyring: the name under which its key is kept on the keyring.
        vendor: who defines the API, in the words of genai-prices and OpenTelemetry.
        base_path: what the API's base_url has after the address of a server that serves all APIs.
        prompt_fields: the fields of a request's JSON that hold the prompt.
        limit_fields: those that limit the length of the answer.
        cached_beside: whether cached and cache-writing tokens are counted beside `input_tokens`,
            not within it.
        openai_type: the value of OpenTelemetry's `openai.api.type`, where it has one.
    """

    load: Callable[[], Dialect]
    key_variable: str
    url_variable: str
    keyring: str
    vendor: str
    prompt_fields: tuple[str, ...]
    limit_fields: tuple[str, ...]
    base_path: str = "/v1"
    cached_beside: bool = False
    openai_type: str | None = None


def _responses() -> Dialect:
    from .responses import RESPONSES

    return RESPONSES


def _messages() -> Dialect:
    from .messages import MESSAGES

    return MESSAGES


def _chat() -> Dialect:
    from .chat import CHAT

    return CHAT


# In the order in which the environment and the keyring are searched for a key.
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
}
DEFAULT_API = "responses"
# llama.cpp serves all three; in Responses it does not say that a limit cut the answer (measured).
LOCAL_API = "chat"
