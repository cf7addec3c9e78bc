"""An `Answer` as the Gemini API streams it.

Source: the REST reference v1beta, and recordings of the live service.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..._core.dialects import APIS
from .base import Answer, Encoding, ErrorSpec, Event, ToolCallSpec, register

__all__ = ["SIGNATURE", "encode_gemini"]

SIGNATURE = "c2lnbmVkIGJ5IHRoZSB0ZXN0IGJlbmNo"  # of the first call, else of the end

_FINISHES = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}  # all others are STOP
# HTTP status -> the word for it (google.rpc.Code)
_WORDS_BY_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_STATUS_BY_WORD = {word: status for status, word in _WORDS_BY_STATUS.items()}
# a code or type of another API -> the word that means the same here
_WORDS = {
    "authentication_error": "UNAUTHENTICATED",
    "billing_error": "RESOURCE_EXHAUSTED",
    "context_length_exceeded": "INVALID_ARGUMENT",
    "insufficient_quota": "RESOURCE_EXHAUSTED",
    "invalid_api_key": "UNAUTHENTICATED",
    "invalid_prompt": "INVALID_ARGUMENT",
    "invalid_request_error": "INVALID_ARGUMENT",
    "model_not_found": "NOT_FOUND",
    "not_found_error": "NOT_FOUND",
    "overloaded_error": "UNAVAILABLE",
    "permission_error": "PERMISSION_DENIED",
    "rate_limit_error": "RESOURCE_EXHAUSTED",
    "rate_limit_exceeded": "RESOURCE_EXHAUSTED",
    "server_error": "INTERNAL",
    "timeout_error": "DEADLINE_EXCEEDED",
}
_OF_A_DAY = ("insufficient_quota", "billing_error")


def encode_gemini(answer: Answer) -> list[Event]:
    """The answer as the chunks of `:streamGenerateContent?alt=sse`: without names, ids or an end.

    A refusal in words is text. A call is whole in one part, and has an id where one was given; an
    answer that fails ends with a chunk that has only the error.
    """
    return [(None, payload) for payload in _payloads(answer)]


def _payloads(answer: Answer) -> Iterator[dict[str, Any]]:
    for delta in answer.thinking_deltas:
        yield _chunk(answer, [{"text": delta, "thought": True}])
    for delta in (*answer.text_deltas, *answer.refusal_deltas):
        yield _chunk(answer, [{"text": delta}])
    for number, call in enumerate(answer.calls):
        signature = {} if number else {"thoughtSignature": SIGNATURE}
        yield _chunk(answer, [{"functionCall": _call(call), **signature}])
    if answer.error is not None:
        yield {"error": _error(answer.error)}
        return
    last: dict[str, Any] = {"text": ""}
    if not answer.tool_calls and answer.thinking_deltas:
        last["thoughtSignature"] = SIGNATURE
    ended = _chunk(answer, [last])
    ended["candidates"][0]["finishReason"] = _FINISHES.get(answer.finish, "STOP")
    counts = answer.token_counts
    if counts is not None:
        ended["usageMetadata"] = _usage(*counts)
    yield ended


def _chunk(answer: Answer, parts: list[dict[str, Any]]) -> dict[str, Any]:
    content = {"parts": parts, "role": "model"}
    return {
        "candidates": [{"content": content, "index": 0}],
        "modelVersion": answer.model,
        "responseId": answer.response_id,
    }


def _call(call: ToolCallSpec) -> dict[str, Any]:
    named: dict[str, Any] = {"name": call.name, "id": call.call_id}
    arguments: Any = {}
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError(
            f"the arguments of {call.name!r} are no JSON object, and the Gemini API has no other: "
            "for a call that is broken pass the bytes of its chunks to Reply"
        )
    return {**named, "args": arguments} if arguments else named


def _usage(given: int, made: int, cached: int, thought: int) -> dict[str, int]:
    """Counts that are 0 are absent. Thinking is counted beside the answer, not within it."""
    counts = {
        "promptTokenCount": given,
        "candidatesTokenCount": made - thought,
        "cachedContentTokenCount": cached,
        "thoughtsTokenCount": thought,
        "totalTokenCount": given + made,
    }
    always = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
    return {name: count for name, count in counts.items() if count or name in always}


def _word(code: str | None, type: str | None) -> str | None:
    found = code or type
    return None if found is None else _WORDS.get(found, found)


def _error(given: Mapping[str, Any]) -> dict[str, Any]:
    word = _word(given.get("code"), given.get("type")) or "INTERNAL"
    error = {
        "code": _STATUS_BY_WORD.get(word, 500),
        "message": given.get("message", "a scripted error"),
        "status": word,
    }
    if {given.get("code"), given.get("type")} & {*_OF_A_DAY}:
        error["details"] = [_DAILY_QUOTA]
    return error


_DAILY_QUOTA = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
}


def _error_document(error: ErrorSpec) -> tuple[dict[str, Any], dict[str, str]]:
    """This API's errors have a number and a word, which follows from the code, the type or the
    status. The real service has no header with an id; one that is given is sent."""
    by_status = _WORDS_BY_STATUS.get(error.status, "INTERNAL")
    sent: dict[str, Any] = {
        "code": error.status,
        "message": error.message,
        "status": _word(error.code, error.type) or by_status,
    }
    if {error.code, error.type} & {*_OF_A_DAY}:
        sent["details"] = [_DAILY_QUOTA]
    identity = {} if error.request_id is None else {"x-request-id": error.request_id}
    return {"error": sent}, identity


register(
    Encoding(
        api="gemini",
        path=":streamGenerateContent",
        base_path=APIS["gemini"].base_path,
        prompt_field="contents",
        encode=encode_gemini,
        error_document=_error_document,
    )
)
