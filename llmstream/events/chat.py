"""The events of the Chat Completions API and of the many servers that speak it.

Source: the API reference "Chat completion chunk" (openai 3.52.0, 2026-11) and recordings of
seventeen services. Every field is optional; a field that is not declared is in `Event.raw`. The end
marker `[DONE]` is not an event, because it is not JSON.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from .base import Event, InvocationMetrics, ReportedUsage

__all__ = [
    "ChatCompletionChunkEvent",
    "ChatErrorEvent",
    "ChatUsage",
    "Choice",
    "ChoiceDelta",
    "ChoiceDeltaFunction",
    "ChoiceDeltaToolCall",
]


class ChatTokenDetails(Struct, kw_only=True):
    """The parts of a token count."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None
    text_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class ChatUsage(ReportedUsage, kw_only=True):
    """Tokens used: in the last chunk, in every chunk, or in a chunk after the finish."""

    total_tokens: int | None = None
    prompt_tokens_details: ChatTokenDetails | None = None
    completion_tokens_details: ChatTokenDetails | None = None
    input_tokens_details: ChatTokenDetails | None = None
    output_tokens_details: ChatTokenDetails | None = None


class ChoiceDeltaFunction(Struct, kw_only=True):
    """A piece of a function call: the name is sent once, the arguments in pieces."""

    name: str | None = None
    arguments: Any = None


class ChoiceDeltaToolCall(Struct, kw_only=True):
    """A piece of a tool call. Some services leave out `index`, or repeat an empty `id`, or leave
    out `function`: then `name` and `arguments` are in its place."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: ChoiceDeltaFunction | None = None
    custom: Any = None
    name: str | None = None
    arguments: Any = None


class ChoiceDelta(Struct, kw_only=True):
    """What a chunk adds to one choice. `content` is text, or a list of parts (Mistral); reasoning
    is in `reasoning_content`, `reasoning` or `reasoning_details`."""

    role: str | None = None
    content: Any = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = None
    tool_calls: list[ChoiceDeltaToolCall] | None = None
    function_call: ChoiceDeltaFunction | None = None
    audio: Any = None
    annotations: Any = None
    usage: ChatUsage | None = None


class Choice(Struct, kw_only=True):
    """One of the `n` answers. `message` is set in a completion that is not streamed, `error` in a
    choice that failed (OpenRouter), `text` in the older API of plain completions."""

    index: int | None = None
    delta: ChoiceDelta | None = None
    message: ChoiceDelta | None = None
    finish_reason: str | None = None
    error: Any = None
    text: str | None = None
    usage: ChatUsage | None = None
    logprobs: Any = None
    content_filter_results: Any = None


class GroqExtension(Struct, kw_only=True):
    """Groq's own field: its usage, or its error."""

    id: str | None = None
    usage: ChatUsage | None = None
    usage_breakdown: Any = None
    error: Any = None


class ChatCompletionChunkEvent(Event, tag=False):
    """One chunk. `choices` may be empty (usage, Azure's filter) or missing (audio)."""

    id: str | None = None
    object: str | None = None
    created: float | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: ChatUsage | None = None
    error: Any = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    moderation: Any = None
    obfuscation: str | None = None
    provider: Any = None
    x_groq: GroqExtension | None = None
    invocation_metrics: InvocationMetrics | None = field(
        default=None, name="amazon-bedrock-invocationMetrics"
    )


class ChatErrorEvent(Event, tag=False):
    """An error that is not part of a chunk: `event: error`, or the `error:` field of llama.cpp."""

    error: Any = None


EVENTS: tuple[type[Event], ...] = (ChatCompletionChunkEvent, ChatErrorEvent)
"""Every event class of this API."""

ChatCompletionChunkEvent.type = "chat.completion.chunk"
ChatErrorEvent.type = "error"
