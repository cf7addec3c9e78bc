"""An `Answer` as the Chat Completions API streams it.

Source: the API reference "Chat completion chunk", and recordings of the live service. Thinking is
sent as DeepSeek and many others send it, because OpenAI's own service does not show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..._core.dialects import APIS
from .base import Answer, Encoding, Event, ToolCallSpec, register

__all__ = ["encode_chat"]


def encode_chat(answer: Answer) -> list[Event]:
    """The answer as the chunks of `POST /chat/completions` with `stream: true` and
    `stream_options: {include_usage: true}`.

    "stop" with tool calls ends with "tool_calls". An answer that fails before any content is the
    error alone.
    """
    chunks = list(_chunks(answer))
    if answer.error is None:
        return [*((None, chunk) for chunk in chunks), (None, "[DONE]")]
    return [*((None, chunk) for chunk in chunks), (None, _error(answer.error))]


def _chunks(answer: Answer) -> Iterator[dict[str, Any]]:
    deltas = list(_deltas(answer))
    if deltas or answer.error is None:
        yield _chunk(answer, _opening(answer))
    for delta in deltas:
        yield _chunk(answer, delta)
    if answer.error is not None:
        return
    called = answer.finish == "stop" and answer.tool_calls
    yield _chunk(answer, {}, "tool_calls" if called else answer.finish)
    if answer.usage is not None:
        yield {**_head(answer), "choices": [], "usage": _usage(answer)}


def _opening(answer: Answer) -> dict[str, Any]:
    """The chunk with the role: content is "" where text comes first, null where it does not."""
    role: dict[str, Any] = {"role": "assistant", "content": None}
    if answer.thinking_deltas:
        return {**role, "reasoning_content": ""}
    if answer.text_deltas or not (answer.refusal_deltas or answer.tool_calls):
        return {**role, "content": "", "refusal": None}
    return {**role, "refusal": ""} if answer.refusal_deltas else role


def _deltas(answer: Answer) -> Iterator[dict[str, Any]]:
    for piece in answer.thinking_deltas:
        yield {"content": None, "reasoning_content": piece}
    for piece in answer.text_deltas:
        yield {"content": piece}
    for piece in answer.refusal_deltas:
        yield {"refusal": piece}
    for index, call in enumerate(answer.calls):
        yield from _call_deltas(index, call)


def _call_deltas(index: int, call: ToolCallSpec) -> Iterator[dict[str, Any]]:
    """Index, id and name are sent once; the arguments follow with the index alone."""
    function = {"name": call.name, "arguments": ""}
    announced = {"index": index, "id": call.call_id, "type": "function", "function": function}
    yield {"tool_calls": [announced]}
    for piece in call.deltas:
        yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _chunk(
    answer: Answer, delta: Mapping[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    unknown = {} if answer.usage is None else {"usage": None}
    return {**_head(answer), "choices": [choice], **unknown}


def _head(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.response_id,
        "object": "chat.completion.chunk",
        "created": answer.created_at,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _usage(answer: Answer) -> dict[str, Any]:
    prompt, output, cached, reasoning = answer.token_counts or (0, 0, 0, 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _error(given: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"message": "a scripted error", "type": None, "param": None, "code": None, **given}
    return {"error": fields}


register(
    Encoding(
        api="chat",
        path="/chat/completions",
        base_path=APIS["chat"].base_path,
        prompt_field="messages",
        encode=encode_chat,
    )
)
