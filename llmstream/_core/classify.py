"""The error class of a service's failure, wherever the failure is reported: in an HTTP status, in
an error inside a stream (flat or nested), in a failed response, in a 200 with a JSON error.

The same failure has the same class everywhere. With a status the status decides, except that a
quota code always means QuotaExceededError; without one the tables of codes and types below decide.
Pure: relies on the error classes and on `retry.parse_retry_after`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import (
    AuthenticationError,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    ServiceError,
)
from ..events.base import decode_json
from .retry import parse_retry_after

__all__ = ["error_from_payload", "error_from_status", "request_id_of"]

_TAGS = re.compile(r"<[^<>]*>")
_MAX_ID = 200  # characters of a service's request id that are kept
_MAX_MESSAGE = 500  # characters of a service's own text that an error's message repeats

_STATUS: dict[int, type[ServiceError]] = {
    401: AuthenticationError,
    402: QuotaExceededError,
    403: PermissionDeniedError,
    408: ServerError,
    409: ServerError,
    425: ServerError,
    429: RateLimitError,
    503: OverloadedError,
    529: OverloadedError,
}

# The values of `code` and `type` that OpenAI, Anthropic and the compatible servers send.
KNOWN_WORDS: dict[str, type[ServiceError]] = {
    word: cls
    for cls, words in {
        QuotaExceededError: (
            "insufficient_quota credit_balance_exhausted billing_hard_limit_reached billing_error "
            "billing_not_active quota_exceeded insufficient_credits payment_required"
        ),
        RateLimitError: (
            "rate_limit_exceeded rate_limit_error rate_limit too_many_requests "
            "rate_limit_reached throttling_error requests tokens"
        ),
        OverloadedError: (
            "overloaded_error overloaded server_overloaded engine_overloaded service_unavailable "
            "unavailable_error slow_down model_overloaded"
        ),
        AuthenticationError: (
            "authentication_error invalid_api_key unauthorized invalid_authentication"
        ),
        PermissionDeniedError: (
            "permission_error permission_denied permission_denied_error forbidden "
            "insufficient_permissions access_denied"
        ),
        InvalidRequestError: (
            "invalid_request_error invalid_request bad_request bad_request_error invalid_prompt "
            "invalid_type invalid_value context_length_exceeded exceed_context_size_error "
            "not_found not_found_error model_not_found request_too_large unsupported_value "
            "unsupported_parameter missing_required_parameter string_above_max_length "
            "content_policy_violation content_filter data_residency_mismatch bio_policy "
            "misalignment_policy_violation invalid_image invalid_image_format "
            "invalid_base64_image invalid_image_url invalid_image_mode image_too_large "
            "image_too_small image_parse_error image_content_policy_violation "
            "image_file_too_large unsupported_image_media_type empty_image_file "
            "failed_to_download_image image_file_not_found not_supported_error "
            "previous_response_not_found"
        ),
        ServerError: (
            "server_error api_error internal_server_error internal_error timeout_error timeout "
            "gateway_timeout bad_gateway vector_store_timeout"
        ),
    }.items()
    for word in words.split()
}

# Where a service puts its id of the request, the most reliable header first.
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id")


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The service's own id of the request, or None. `headers` has lower-case names."""
    found = (headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name))
    return next((value[:_MAX_ID] for value in found), None)


def error_from_status(
    status: int, body: bytes, headers: Mapping[str, str], now: float
) -> ServiceError:
    """The error of a response whose status is not a success. `headers` has lower-case names; `now`
    is the Unix time in seconds, for a Retry-After that is a date."""
    payload = _decoded(body)
    fields = _error_fields(payload)
    cls = _class_of_status(status)
    if _is_quota(fields):
        cls = QuotaExceededError
    message = fields["message"] or "the service gave no reason"
    error = cls(
        f"HTTP {status}{_label(fields)}: {message}",
        status=status,
        code=fields["code"],
        type=fields["type"],
        param=fields["param"],
        retry_after=parse_retry_after(headers, message, now),
        retryable=_should_retry(headers) if cls is not QuotaExceededError else None,
    )
    error.request_id = request_id_of(headers) or fields["request_id"]
    return error


def error_from_payload(payload: Any) -> ServiceError:
    """The error that was received inside a stream, or as the JSON body of a 200. `payload` is the
    decoded JSON."""
    fields = _error_fields(payload)
    cls = _class_of_fields(fields)
    message = fields["message"] or "the service gave no reason"
    error = cls(
        f"error inside the stream{_label(fields)}: {message}",
        code=fields["code"],
        type=fields["type"],
        param=fields["param"],
        retry_after=parse_retry_after({}, message, 0.0),
    )
    error.request_id = fields["request_id"]
    return error


def _class_of_status(status: int) -> type[ServiceError]:
    return _STATUS.get(status, ServerError if status >= 500 else InvalidRequestError)


def _is_quota(fields: Mapping[str, str | None]) -> bool:
    known = (KNOWN_WORDS.get((fields[name] or "").lower()) for name in ("code", "type"))
    return QuotaExceededError in known


def _class_of_fields(fields: Mapping[str, str | None]) -> type[ServiceError]:
    if _is_quota(fields):
        return QuotaExceededError
    for word in (fields["code"], fields["type"]):
        known = KNOWN_WORDS.get((word or "").lower())
        if known:
            return known
        if word and len(word) == 3 and word.isdecimal() and 400 <= int(word) <= 599:
            return _class_of_status(int(word))
    return ServerError


def _should_retry(headers: Mapping[str, str]) -> bool | None:
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())


def _label(fields: Mapping[str, str | None]) -> str:
    label = fields["code"] or fields["type"]
    return f" ({label[:100]})" if label else ""


def _decoded(body: bytes) -> Any:
    try:
        return decode_json(body)
    except (ValueError, RecursionError):
        # Usually a proxy's page: its text on one line, without the tags.
        return " ".join(_TAGS.sub(" ", body.decode("utf-8", "replace")).split())


def _error_fields(payload: Any) -> dict[str, str | None]:
    """code, type, message, param and request_id, wherever the service puts them."""
    outer = payload[0] if isinstance(payload, list) and payload else payload
    if isinstance(outer, str):
        return _fields_of({"message": outer}, {})
    if not isinstance(outer, dict):
        return _fields_of({}, {})
    response = outer.get("response")
    for holder in (outer, response if isinstance(response, dict) else {}):
        inner = holder.get("error")
        if isinstance(inner, dict):
            return _fields_of(inner, outer)
        if isinstance(inner, str):
            return _fields_of({**outer, "message": outer.get("message") or inner}, outer)
    return _fields_of(outer, outer)


def _fields_of(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, str | None]:
    kind = _text(inner.get("type"))
    return {
        "code": _text(inner.get("code")),
        "type": None if kind == "error" else kind,  # in the flat form it is the event's own type
        "message": _message(inner),
        "param": _text(inner.get("param")),
        "request_id": _text(outer.get("request_id")),
    }


def _message(inner: Mapping[str, Any]) -> str | None:
    message = inner.get("message") or inner.get("detail") or inner.get("msg")
    if isinstance(message, list):
        # FastAPI's validation errors: their "input" repeats the request, so only "msg" is used.
        message = "; ".join(str(d.get("msg")) for d in message if isinstance(d, dict))
    return _text(message)


def _text(value: Any) -> str | None:
    if not isinstance(value, (str, int)) or value == "":
        return None
    text = str(value) if isinstance(value, str) or abs(value) < 10**9 else "a huge number"
    # JSON can contain an unpaired surrogate, which no output can encode.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "..."
