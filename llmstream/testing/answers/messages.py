"""An `Answer` as the Anthropic Messages API streams it.

Source: the API reference "Streaming Messages", and recordings of the live service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..._core.dialects import APIS
from .base import Answer, Encoding, ErrorSpec, Event, ToolCallSpec, register, sse_block

__all__ = ["SIGNATURE", "encode_messages"]

SIGNATURE = "c2lnbmVkIGJ5IHRoZSB0ZXN0IGJlbmNo"  # of every thinking block

# A content filter's effect is called "refusal" here: "when streaming classifiers intervene".
_STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}
# HTTP status -> the type of the error, by the API reference "Errors"
_TYPES_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# a code of OpenAI's -> the type that means the same here
_TYPES_BY_CODE = {
    "context_length_exceeded": "invalid_request_error",
    "insufficient_quota": "billing_error",
    "invalid_api_key": "authentication_error",
    "model_not_found": "not_found_error",
    "rate_limit_exceeded": "rate_limit_error",
}


class _Block(NamedTuple):
    """One content block: how it is announced, and the deltas that fill it."""

    start: dict[str, Any]
    deltas: list[dict[str, Any]]


def encode_messages(answer: Answer) -> list[Event]:
    """The answer as the events of `POST /v1/messages` with `stream: true`.

    A refusal in words is text here, in a block of its own; "content_filter" ends with the stop
    reason "refusal", and "stop" with tool calls with "tool_use". An answer that fails before any
    content is the error event alone, as an overloaded service sends it.
    """
    return [(payload["type"], payload) for payload in _payloads(answer)]


def _payloads(answer: Answer) -> Iterator[dict[str, Any]]:
    blocks = list(_blocks(answer))
    if answer.error is not None and not blocks:
        yield _error(answer.error)
        return
    yield _message_start(answer)
    for index, block in enumerate(blocks):
        yield {"type": "content_block_start", "index": index, "content_block": block.start}
        if not index:
            yield {"type": "ping"}
        for delta in block.deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        if not (answer.error is not None and block is blocks[-1]):
            yield {"type": "content_block_stop", "index": index}
    if answer.error is not None:
        yield _error(answer.error)
        return
    yield _message_delta(answer)
    yield {"type": "message_stop"}


def _blocks(answer: Answer) -> Iterator[_Block]:
    if answer.thinking_deltas:
        deltas = [{"type": "thinking_delta", "thinking": d} for d in answer.thinking_deltas]
        signed = {"type": "signature_delta", "signature": SIGNATURE}
        # A block that is cut does not have its signature yet.
        cut = answer.error is not None and not _has_more(answer)
        start = {"type": "thinking", "thinking": "", "signature": ""}
        yield _Block(start, deltas if cut else [*deltas, signed])
    for pieces in (answer.text_deltas, answer.refusal_deltas):
        if pieces:
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
            yield _Block({"type": "text", "text": ""}, deltas)
    for call in answer.calls:
        yield _tool_use(call)


def _has_more(answer: Answer) -> bool:
    return bool(answer.text_deltas or answer.refusal_deltas or answer.tool_calls)


def _tool_use(call: ToolCallSpec) -> _Block:
    """As the live service: an empty delta first, and no other where there are no arguments."""
    start = {"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}}
    pieces = [] if call.arguments == "{}" else call.deltas
    return _Block(start, [{"type": "input_json_delta", "partial_json": p} for p in ["", *pieces]])


def _message_start(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {
        "model": answer.model,
        "id": answer.response_id,
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    counts = answer.token_counts
    if counts is not None:
        created = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
        message["usage"] = {
            **_input_usage(counts),
            "cache_creation": created,
            "output_tokens": min(1, counts[1]),
            "service_tier": "standard",
        }
    return {"type": "message_start", "message": message}


def _message_delta(answer: Answer) -> dict[str, Any]:
    called = answer.finish == "stop" and answer.tool_calls
    reason = _STOP_REASONS["tool_calls" if called else answer.finish]
    ended: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
    }
    counts = answer.token_counts
    if counts is not None:
        ended["usage"] = {
            **_input_usage(counts),
            "output_tokens": counts[1],
            "output_tokens_details": {"thinking_tokens": counts[3]},
        }
    return ended


def _input_usage(counts: tuple[int, int, int, int]) -> dict[str, int]:
    return {
        "input_tokens": counts[0],
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts[2],
    }


def _error(given: Mapping[str, Any]) -> dict[str, Any]:
    """This API's errors do not have a code: a code without a type is sent as the type."""
    error = {
        "details": None,
        "type": given.get("type") or given.get("code") or "api_error",
        "message": given.get("message", "a scripted error"),
    }
    return {"type": "error", "error": error, "request_id": "req_test"}


def _error_document(error: ErrorSpec) -> tuple[dict[str, Any], dict[str, str]]:
    """This API's errors do not have a code or a param, only a type.

    A type that is not given follows from the code, in this API's word for it where there is one,
    else from the status.
    """
    code = None if error.code is None else _TYPES_BY_CODE.get(error.code, error.code)
    kind = error.type or code or _TYPES_BY_STATUS.get(error.status, "api_error")
    body = {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": error.request_id,
    }
    return body, {} if error.request_id is None else {"request-id": error.request_id}


register(
    Encoding(
        api="messages",
        path="/v1/messages",
        base_path=APIS["messages"].base_path,
        prompt_field="messages",
        encode=encode_messages,
        error_document=_error_document,
        ping=sse_block("ping", {"type": "ping"}),
    )
)
