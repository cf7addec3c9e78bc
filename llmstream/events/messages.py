"""The events of the Anthropic Messages API.

Source: the API reference "Streaming Messages" and the vendor's own types (anthropic 2.11.0,
2026-11, beta included), and what the service sends beyond them: `ping` and `error`. Every field is
optional; a field that is not declared is in `Event.raw`. One class stands for all kinds of content
block, and one for all kinds of delta, so that a new kind is not an unknown event: `type` says which
fields are used.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from .base import Event, InvocationMetrics, ReportedUsage, bind_types

__all__ = [
    "ContentBlock",
    "ContentBlockDelta",
    "ContentBlockDeltaEvent",
    "ContentBlockStartEvent",
    "ContentBlockStopEvent",
    "Message",
    "MessageDelta",
    "MessageDeltaEvent",
    "MessageErrorEvent",
    "MessageStartEvent",
    "MessageStopEvent",
    "MessageUsage",
    "PingEvent",
]


class ContentBlock(Struct, kw_only=True):
    """A block of the answer. `type` is "text", "thinking", "redacted_thinking", "tool_use" (the
    caller runs it), "server_tool_use", "mcp_tool_use", the result of a server tool, "compaction",
    ..."""

    type: str | None = None
    # text
    text: str | None = None
    citations: Any = None
    # thinking; the signature is valid only after the block's content_block_stop
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    # tools and their results
    id: str | None = None
    name: str | None = None
    input: Any = None
    caller: Any = None
    toolset_name: str | None = None
    server_name: str | None = None
    mcp_server_name: str | None = None
    tools: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    file_id: str | None = None
    # compaction and fallback
    encrypted_content: str | None = None
    tool_changes: Any = None
    from_: Any = field(default=None, name="from")
    to: Any = None
    trigger: Any = None


class ContentBlockDelta(Struct, kw_only=True):
    """A piece of a block. `type` is "text_delta", "thinking_delta", "input_json_delta",
    "signature_delta", "citations_delta" or "compaction_delta"."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    estimated_tokens: int | None = None
    partial_json: str | None = None
    signature: str | None = None
    citation: Any = None
    content: str | None = None
    encrypted_content: str | None = None


class OutputTokensDetails(Struct, kw_only=True):
    """The parts of the output tokens."""

    thinking_tokens: int | None = None


class MessageUsage(ReportedUsage, kw_only=True):
    """Tokens used so far, cumulative: a later report replaces an earlier one."""

    output_tokens_details: OutputTokensDetails | None = None
    cache_creation: Any = None
    server_tool_use: Any = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    iterations: Any = None
    fallback_credit: Any = None


class Message(Struct, kw_only=True):
    """The message itself, as it begins; some servers send it whole."""

    id: str | None = None
    type: str | None = None
    role: str | None = None
    model: str | None = None
    content: list[ContentBlock] | None = None
    container: Any = None
    diagnostics: Any = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None
    usage: MessageUsage | None = None


class MessageDelta(Struct, kw_only=True):
    """How the message ended. `stop_reason` is "end_turn", "stop_sequence", "tool_use",
    "max_tokens", "model_context_window_exceeded", "refusal", "pause_turn", "compaction"."""

    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None
    container: Any = None
    usage: MessageUsage | None = None  # from gateways


class MessageStartEvent(Event, tag="message_start"):
    """The message begins. The first event of a stream; it has the usage of the input."""

    message: Message | None = None


class ContentBlockStartEvent(Event, tag="content_block_start"):
    """A block begins."""

    index: int | None = None
    content_block: ContentBlock | None = None


class ContentBlockDeltaEvent(Event, tag="content_block_delta"):
    """A piece of the block `index`. Several blocks may be open at the same time."""

    index: int | None = None
    delta: ContentBlockDelta | None = None


class ContentBlockStopEvent(Event, tag="content_block_stop"):
    """A block is complete."""

    index: int | None = None


class MessageDeltaEvent(Event, tag="message_delta"):
    """How the message ends, and its usage: cumulative, so it replaces the earlier report."""

    delta: MessageDelta | None = None
    usage: MessageUsage | None = None
    context_management: Any = None
    input_transformations: Any = None


class MessageStopEvent(Event, tag="message_stop"):
    """The answer is complete. Terminal."""

    usage: MessageUsage | None = None  # from gateways
    invocation_metrics: InvocationMetrics | None = field(
        default=None, name="amazon-bedrock-invocationMetrics"
    )


class PingEvent(Event, tag="ping"):
    """A sign of life; may appear anywhere."""


class MessageErrorEvent(Event, tag="error"):
    """The service failed inside the stream. Terminal; may be the first and only event."""

    error: Any = None
    request_id: str | None = None


EVENTS: tuple[type[Event], ...] = (
    MessageStartEvent,
    ContentBlockStartEvent,
    ContentBlockDeltaEvent,
    ContentBlockStopEvent,
    MessageDeltaEvent,
    MessageStopEvent,
    PingEvent,
    MessageErrorEvent,
)
"""Every event class of this API."""

bind_types(EVENTS)
