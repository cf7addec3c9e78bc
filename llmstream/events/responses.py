"""The events of the OpenAI Responses API, grouped as its reference groups them.

Source: the API reference of the streaming events (59 types, openai 3.52.0, 2026-11), and what the
service sends beyond it: `keepalive`, patch deltas, nested errors. Every field is optional, because
compatible servers leave some out; a field that is not declared is in `Event.raw`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from .base import Event, ReportedUsage, bind_types

__all__ = [
    "ContentPart",
    "Item",
    "KeepAliveEvent",
    "Response",
    "ResponseApplyPatchCallOperationDiffDeltaEvent",
    "ResponseApplyPatchCallOperationDiffDoneEvent",
    "ResponseAudioDeltaEvent",
    "ResponseAudioDoneEvent",
    "ResponseAudioTranscriptDeltaEvent",
    "ResponseAudioTranscriptDoneEvent",
    "ResponseCodeInterpreterCallCodeDeltaEvent",
    "ResponseCodeInterpreterCallCodeDoneEvent",
    "ResponseCodeInterpreterCallCompletedEvent",
    "ResponseCodeInterpreterCallInProgressEvent",
    "ResponseCodeInterpreterCallInterpretingEvent",
    "ResponseCompactionCompactingEvent",
    "ResponseCompletedEvent",
    "ResponseContentPartAddedEvent",
    "ResponseContentPartDoneEvent",
    "ResponseCreatedEvent",
    "ResponseCustomToolCallInputDeltaEvent",
    "ResponseCustomToolCallInputDoneEvent",
    "ResponseErrorEvent",
    "ResponseFailedEvent",
    "ResponseFileSearchCallCompletedEvent",
    "ResponseFileSearchCallInProgressEvent",
    "ResponseFileSearchCallSearchingEvent",
    "ResponseFunctionCallArgumentsDeltaEvent",
    "ResponseFunctionCallArgumentsDoneEvent",
    "ResponseImageGenCallCompletedEvent",
    "ResponseImageGenCallGeneratingEvent",
    "ResponseImageGenCallInProgressEvent",
    "ResponseImageGenCallPartialImageEvent",
    "ResponseInProgressEvent",
    "ResponseIncompleteEvent",
    "ResponseMcpCallArgumentsDeltaEvent",
    "ResponseMcpCallArgumentsDoneEvent",
    "ResponseMcpCallCompletedEvent",
    "ResponseMcpCallFailedEvent",
    "ResponseMcpCallInProgressEvent",
    "ResponseMcpListToolsCompletedEvent",
    "ResponseMcpListToolsFailedEvent",
    "ResponseMcpListToolsInProgressEvent",
    "ResponseOutputItemAddedEvent",
    "ResponseOutputItemDoneEvent",
    "ResponseOutputTextAnnotationAddedEvent",
    "ResponseQueuedEvent",
    "ResponseReasoningDeltaEvent",
    "ResponseReasoningDoneEvent",
    "ResponseReasoningPartAddedEvent",
    "ResponseReasoningPartDoneEvent",
    "ResponseReasoningSummaryPartAddedEvent",
    "ResponseReasoningSummaryPartDoneEvent",
    "ResponseReasoningSummaryTextDeltaEvent",
    "ResponseReasoningSummaryTextDoneEvent",
    "ResponseReasoningTextDeltaEvent",
    "ResponseReasoningTextDoneEvent",
    "ResponseRefusalDeltaEvent",
    "ResponseRefusalDoneEvent",
    "ResponseShellCallCommandAddedEvent",
    "ResponseShellCallCommandDeltaEvent",
    "ResponseShellCallCommandDoneEvent",
    "ResponseShellCallOutputContentDeltaEvent",
    "ResponseShellCallOutputContentDoneEvent",
    "ResponseTextDeltaEvent",
    "ResponseTextDoneEvent",
    "ResponseUsage",
    "ResponseWebSearchCallCompletedEvent",
    "ResponseWebSearchCallInProgressEvent",
    "ResponseWebSearchCallSearchingEvent",
    "TokenDetails",
]

# ---- The values that events carry ------------------------------------------------------------


class ContentPart(Struct, kw_only=True):
    """A part of a message or of a reasoning item. `type` is "output_text", "summary_text" or
    "reasoning_text" (then `text` is set), or "refusal" (then `refusal` is set)."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    annotations: Any = None
    logprobs: Any = None


class Item(Struct, kw_only=True):
    """An output item: a message, a reasoning step, a call, or a call's output.

    One class stands for the 28 item types of the reference: `type` says which fields are used.
    Fields that are not declared here are in the event's `raw` and in `Result.items`.
    """

    id: str | None = None
    type: str | None = None
    status: str | None = None
    # messages and reasoning
    role: str | None = None
    phase: str | None = None
    content: list[ContentPart] | None = None
    summary: list[ContentPart] | None = None
    encrypted_content: str | None = None
    # calls of any kind
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Any = None
    input: str | None = None
    output: Any = None
    async_: Any = field(default=None, name="async")
    caller: Any = None
    created_by: str | None = None
    error: Any = None
    # file search and web search
    queries: Any = None
    results: Any = None
    action: Any = None
    # code interpreter and programs
    code: str | None = None
    container_id: str | None = None
    outputs: Any = None
    fingerprint: str | None = None
    # image generation
    result: str | None = None
    background: str | None = None
    output_format: str | None = None
    quality: str | None = None
    revised_prompt: str | None = None
    size: str | None = None
    svg_usage: Any = None
    # computer use
    actions: Any = None
    pending_safety_checks: Any = None
    acknowledged_safety_checks: Any = None
    # shell and patch
    environment: Any = None
    max_output_length: int | None = None
    operation: Any = None
    # MCP and tool search
    server_label: str | None = None
    approval_request_id: str | None = None
    approve: bool | None = None
    reason: str | None = None
    execution: str | None = None
    tools: Any = None


class TokenDetails(Struct, kw_only=True):
    """The parts of a token count."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_tokens_details: Any = None
    reasoning_tokens: int | None = None


class ResponseUsage(ReportedUsage, kw_only=True):
    """Tokens used, as the terminal event reports them."""

    total_tokens: int | None = None
    input_tokens_details: TokenDetails | None = None
    output_tokens_details: TokenDetails | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None


class Response(Struct, kw_only=True):
    """The response itself, as the lifecycle events contain it. `status` is "queued", "in_progress",
    "completed", "incomplete", "failed" or "cancelled"."""

    id: str | None = None
    object: Any = None
    status: str | None = None
    model: str | None = None
    created_at: float | None = None
    completed_at: float | None = None
    error: Any = None
    incomplete_details: Any = None
    output: list[Item] | None = None
    usage: ResponseUsage | None = None
    # what the request had
    instructions: Any = None
    metadata: Any = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    tool_choice: Any = None
    tools: Any = None
    background: bool | None = None
    conversation: Any = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    previous_response_id: str | None = None
    prompt: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_diagnostics: Any = None
    reasoning: Any = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    text: Any = None
    top_logprobs: int | None = None
    truncation: Any = None
    user: str | None = None
    # what else the service reports
    access_programs: Any = None
    image: Any = None
    input_transformations: Any = None
    moderation: Any = None
    tool_usage: Any = None


# ---- Lifecycle ----------------------------------------------------------------------------------


class ResponseCreatedEvent(Event, tag="response.created"):
    """The response exists. The first event of a stream."""

    response: Response | None = None


class ResponseQueuedEvent(Event, tag="response.queued"):
    """A background response waits in the service's queue."""

    response: Response | None = None


class ResponseInProgressEvent(Event, tag="response.in_progress"):
    """The service works on the response."""

    response: Response | None = None


class ResponseCompletedEvent(Event, tag="response.completed"):
    """The answer is complete. Terminal; it has the final response and its usage."""

    response: Response | None = None


class ResponseIncompleteEvent(Event, tag="response.incomplete"):
    """A limit or a filter ended the answer early. Terminal."""

    response: Response | None = None


class ResponseFailedEvent(Event, tag="response.failed"):
    """The service failed. Terminal; `response.error` says why."""

    response: Response | None = None


class ResponseCompactionCompactingEvent(Event, tag="response.compaction.compacting"):
    """The context is being summarised."""

    output_index: int | None = None
    item_id: str | None = None


# ---- Items and their parts ----------------------------------------------------------------------


class ResponseOutputItemAddedEvent(Event, tag="response.output_item.added"):
    """An output item begins: a message, a call, a reasoning step."""

    output_index: int | None = None
    item: Item | None = None


class ResponseOutputItemDoneEvent(Event, tag="response.output_item.done"):
    """An output item is complete."""

    output_index: int | None = None
    item: Item | None = None


class ResponseContentPartAddedEvent(Event, tag="response.content_part.added"):
    """A part of a message begins."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    part: ContentPart | None = None


class ResponseContentPartDoneEvent(Event, tag="response.content_part.done"):
    """A part of a message is complete."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    part: ContentPart | None = None


# ---- Text ---------------------------------------------------------------------------------------


class ResponseTextDeltaEvent(Event, tag="response.output_text.delta"):
    """A piece of the answer's text."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    delta: str | None = None
    logprobs: Any = None


class ResponseTextDoneEvent(Event, tag="response.output_text.done"):
    """The whole text of one part."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    logprobs: Any = None
    text: str | None = None


class ResponseOutputTextAnnotationAddedEvent(Event, tag="response.output_text.annotation.added"):
    """A citation or file reference in the text."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    annotation_index: int | None = None
    annotation: Any = None


# ---- Refusal ------------------------------------------------------------------------------------


class ResponseRefusalDeltaEvent(Event, tag="response.refusal.delta"):
    """A piece of a refusal."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    delta: str | None = None


class ResponseRefusalDoneEvent(Event, tag="response.refusal.done"):
    """The whole refusal."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    refusal: str | None = None


# ---- Reasoning ----------------------------------------------------------------------------------


class ResponseReasoningSummaryPartAddedEvent(Event, tag="response.reasoning_summary_part.added"):
    """A part of the reasoning summary begins."""

    output_index: int | None = None
    item_id: str | None = None
    summary_index: int | None = None
    part: ContentPart | None = None


class ResponseReasoningSummaryPartDoneEvent(Event, tag="response.reasoning_summary_part.done"):
    """A part of the reasoning summary is complete."""

    output_index: int | None = None
    item_id: str | None = None
    summary_index: int | None = None
    part: ContentPart | None = None
    status: str | None = None


class ResponseReasoningSummaryTextDeltaEvent(Event, tag="response.reasoning_summary_text.delta"):
    """A piece of the reasoning summary."""

    output_index: int | None = None
    item_id: str | None = None
    summary_index: int | None = None
    delta: str | None = None


class ResponseReasoningSummaryTextDoneEvent(Event, tag="response.reasoning_summary_text.done"):
    """The whole text of one summary part."""

    output_index: int | None = None
    item_id: str | None = None
    summary_index: int | None = None
    text: str | None = None


class ResponseReasoningTextDeltaEvent(Event, tag="response.reasoning_text.delta"):
    """A piece of the raw reasoning."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    delta: str | None = None


class ResponseReasoningTextDoneEvent(Event, tag="response.reasoning_text.done"):
    """The whole raw reasoning of one part."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    text: str | None = None


class ResponseReasoningDeltaEvent(Event, tag="response.reasoning.delta"):
    """A piece of the raw reasoning, as Open Responses names it."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    delta: str | None = None


class ResponseReasoningDoneEvent(Event, tag="response.reasoning.done"):
    """The whole raw reasoning of one part, as Open Responses names it."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    text: str | None = None


class ResponseReasoningPartAddedEvent(Event, tag="response.reasoning_part.added"):
    """A part of the raw reasoning begins (vLLM)."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    part: ContentPart | None = None


class ResponseReasoningPartDoneEvent(Event, tag="response.reasoning_part.done"):
    """A part of the raw reasoning is complete (vLLM)."""

    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    part: ContentPart | None = None


# ---- Function and custom tool calls -------------------------------------------------------------


class ResponseFunctionCallArgumentsDeltaEvent(Event, tag="response.function_call_arguments.delta"):
    """A piece of a function call's arguments (JSON text)."""

    output_index: int | None = None
    item_id: str | None = None
    delta: str | None = None


class ResponseFunctionCallArgumentsDoneEvent(Event, tag="response.function_call_arguments.done"):
    """The whole arguments of a function call; its name is in the item."""

    output_index: int | None = None
    item_id: str | None = None
    arguments: str | None = None


class ResponseCustomToolCallInputDeltaEvent(Event, tag="response.custom_tool_call_input.delta"):
    """A piece of a custom call's input (free text)."""

    output_index: int | None = None
    item_id: str | None = None
    delta: str | None = None


class ResponseCustomToolCallInputDoneEvent(Event, tag="response.custom_tool_call_input.done"):
    """The whole input of a custom call."""

    output_index: int | None = None
    item_id: str | None = None
    input: str | None = None


# ---- File search and web search -----------------------------------------------------------------


class ResponseFileSearchCallInProgressEvent(Event, tag="response.file_search_call.in_progress"):
    """A file search was announced."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseFileSearchCallSearchingEvent(Event, tag="response.file_search_call.searching"):
    """A file search runs."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseFileSearchCallCompletedEvent(Event, tag="response.file_search_call.completed"):
    """A file search is done."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseWebSearchCallInProgressEvent(Event, tag="response.web_search_call.in_progress"):
    """A web search was announced."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseWebSearchCallSearchingEvent(Event, tag="response.web_search_call.searching"):
    """A web search runs."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseWebSearchCallCompletedEvent(Event, tag="response.web_search_call.completed"):
    """A web search is done."""

    output_index: int | None = None
    item_id: str | None = None


# ---- Code interpreter ---------------------------------------------------------------------------


class ResponseCodeInterpreterCallInProgressEvent(
    Event, tag="response.code_interpreter_call.in_progress"
):
    """A code interpreter call was announced."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseCodeInterpreterCallInterpretingEvent(
    Event, tag="response.code_interpreter_call.interpreting"
):
    """The code runs."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseCodeInterpreterCallCompletedEvent(
    Event, tag="response.code_interpreter_call.completed"
):
    """The code has run."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseCodeInterpreterCallCodeDeltaEvent(
    Event, tag="response.code_interpreter_call_code.delta"
):
    """A piece of the code."""

    output_index: int | None = None
    item_id: str | None = None
    delta: str | None = None


class ResponseCodeInterpreterCallCodeDoneEvent(
    Event, tag="response.code_interpreter_call_code.done"
):
    """The whole code."""

    output_index: int | None = None
    item_id: str | None = None
    code: str | None = None


# ---- Image generation ---------------------------------------------------------------------------


class ResponseImageGenCallInProgressEvent(Event, tag="response.image_generation_call.in_progress"):
    """An image was announced."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseImageGenCallGeneratingEvent(Event, tag="response.image_generation_call.generating"):
    """An image is being made."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseImageGenCallPartialImageEvent(
    Event, tag="response.image_generation_call.partial_image"
):
    """A preview of the image, in base64."""

    output_index: int | None = None
    item_id: str | None = None
    partial_image_b64: str | None = None
    partial_image_index: int | None = None
    background: str | None = None
    output_format: str | None = None
    quality: str | None = None
    size: str | None = None


class ResponseImageGenCallCompletedEvent(Event, tag="response.image_generation_call.completed"):
    """The image is done; it is in the item."""

    output_index: int | None = None
    item_id: str | None = None


# ---- MCP ----------------------------------------------------------------------------------------


class ResponseMcpCallInProgressEvent(Event, tag="response.mcp_call.in_progress"):
    """A remote MCP tool call runs."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseMcpCallCompletedEvent(Event, tag="response.mcp_call.completed"):
    """A remote MCP tool call is done."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseMcpCallFailedEvent(Event, tag="response.mcp_call.failed"):
    """A remote MCP tool call failed."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseMcpCallArgumentsDeltaEvent(Event, tag="response.mcp_call_arguments.delta"):
    """A piece of the arguments of an MCP call, which the service itself runs."""

    output_index: int | None = None
    item_id: str | None = None
    delta: str | None = None


class ResponseMcpCallArgumentsDoneEvent(Event, tag="response.mcp_call_arguments.done"):
    """The whole arguments of an MCP call."""

    output_index: int | None = None
    item_id: str | None = None
    arguments: str | None = None


class ResponseMcpListToolsInProgressEvent(Event, tag="response.mcp_list_tools.in_progress"):
    """The tools of an MCP server are being listed."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseMcpListToolsCompletedEvent(Event, tag="response.mcp_list_tools.completed"):
    """The tools of an MCP server are listed; they are in the item."""

    output_index: int | None = None
    item_id: str | None = None


class ResponseMcpListToolsFailedEvent(Event, tag="response.mcp_list_tools.failed"):
    """Listing the tools of an MCP server failed."""

    output_index: int | None = None
    item_id: str | None = None


# ---- Audio --------------------------------------------------------------------------------------


class ResponseAudioDeltaEvent(Event, tag="response.audio.delta"):
    """A piece of audio, in base64."""

    delta: str | None = None


class ResponseAudioDoneEvent(Event, tag="response.audio.done"):
    """The audio is complete."""


class ResponseAudioTranscriptDeltaEvent(Event, tag="response.audio.transcript.delta"):
    """A piece of the audio's transcript."""

    delta: str | None = None


class ResponseAudioTranscriptDoneEvent(Event, tag="response.audio.transcript.done"):
    """The transcript is complete."""


# ---- Shell --------------------------------------------------------------------------------------


class ResponseShellCallCommandAddedEvent(Event, tag="response.shell_call_command.added"):
    """A shell command begins."""

    output_index: int | None = None
    command_index: int | None = None
    command: str | None = None


class ResponseShellCallCommandDeltaEvent(Event, tag="response.shell_call_command.delta"):
    """A piece of a shell command."""

    output_index: int | None = None
    command_index: int | None = None
    delta: str | None = None
    obfuscation: str | None = None


class ResponseShellCallCommandDoneEvent(Event, tag="response.shell_call_command.done"):
    """A whole shell command."""

    output_index: int | None = None
    command_index: int | None = None
    command: str | None = None


class ResponseShellCallOutputContentDeltaEvent(
    Event, tag="response.shell_call_output_content.delta"
):
    """A piece of a command's output: `{"stdout"|"stderr": str}`."""

    output_index: int | None = None
    item_id: str | None = None
    command_index: int | None = None
    delta: Any = None


class ResponseShellCallOutputContentDoneEvent(Event, tag="response.shell_call_output_content.done"):
    """The whole output of a command."""

    output_index: int | None = None
    item_id: str | None = None
    command_index: int | None = None
    output: Any = None


# ---- Patch (on the wire, not in the reference) --------------------------------------------------


class ResponseApplyPatchCallOperationDiffDeltaEvent(
    Event, tag="response.apply_patch_call_operation_diff.delta"
):
    """A piece of a patch."""

    output_index: int | None = None
    item_id: str | None = None
    delta: str | None = None


class ResponseApplyPatchCallOperationDiffDoneEvent(
    Event, tag="response.apply_patch_call_operation_diff.done"
):
    """The whole patch."""

    output_index: int | None = None
    item_id: str | None = None
    diff: str | None = None


# ---- Errors and signs of life -------------------------------------------------------------------


class ResponseErrorEvent(Event, tag="error"):
    """An error inside the stream. In the reference `code`, `message` and `param` are fields of the
    event; the live service nests them under `error`. A `response.failed` usually follows.
    """

    error: Any = None
    code: Any = None
    message: Any = None
    param: Any = None


class KeepAliveEvent(Event, tag="keepalive"):
    """A sign of life on long streams; undocumented. It uses up a sequence number."""


EVENTS: tuple[type[Event], ...] = (
    ResponseCreatedEvent,
    ResponseQueuedEvent,
    ResponseInProgressEvent,
    ResponseCompletedEvent,
    ResponseIncompleteEvent,
    ResponseFailedEvent,
    ResponseCompactionCompactingEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
    ResponseOutputTextAnnotationAddedEvent,
    ResponseRefusalDeltaEvent,
    ResponseRefusalDoneEvent,
    ResponseReasoningSummaryPartAddedEvent,
    ResponseReasoningSummaryPartDoneEvent,
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseReasoningSummaryTextDoneEvent,
    ResponseReasoningTextDeltaEvent,
    ResponseReasoningTextDoneEvent,
    ResponseReasoningDeltaEvent,
    ResponseReasoningDoneEvent,
    ResponseReasoningPartAddedEvent,
    ResponseReasoningPartDoneEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseCustomToolCallInputDeltaEvent,
    ResponseCustomToolCallInputDoneEvent,
    ResponseFileSearchCallInProgressEvent,
    ResponseFileSearchCallSearchingEvent,
    ResponseFileSearchCallCompletedEvent,
    ResponseWebSearchCallInProgressEvent,
    ResponseWebSearchCallSearchingEvent,
    ResponseWebSearchCallCompletedEvent,
    ResponseCodeInterpreterCallInProgressEvent,
    ResponseCodeInterpreterCallInterpretingEvent,
    ResponseCodeInterpreterCallCompletedEvent,
    ResponseCodeInterpreterCallCodeDeltaEvent,
    ResponseCodeInterpreterCallCodeDoneEvent,
    ResponseImageGenCallInProgressEvent,
    ResponseImageGenCallGeneratingEvent,
    ResponseImageGenCallPartialImageEvent,
    ResponseImageGenCallCompletedEvent,
    ResponseMcpCallInProgressEvent,
    ResponseMcpCallCompletedEvent,
    ResponseMcpCallFailedEvent,
    ResponseMcpCallArgumentsDeltaEvent,
    ResponseMcpCallArgumentsDoneEvent,
    ResponseMcpListToolsInProgressEvent,
    ResponseMcpListToolsCompletedEvent,
    ResponseMcpListToolsFailedEvent,
    ResponseAudioDeltaEvent,
    ResponseAudioDoneEvent,
    ResponseAudioTranscriptDeltaEvent,
    ResponseAudioTranscriptDoneEvent,
    ResponseShellCallCommandAddedEvent,
    ResponseShellCallCommandDeltaEvent,
    ResponseShellCallCommandDoneEvent,
    ResponseShellCallOutputContentDeltaEvent,
    ResponseShellCallOutputContentDoneEvent,
    ResponseApplyPatchCallOperationDiffDeltaEvent,
    ResponseApplyPatchCallOperationDiffDoneEvent,
    ResponseErrorEvent,
    KeepAliveEvent,
)
"""Every event class of this API."""

bind_types(EVENTS)
