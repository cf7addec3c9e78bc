"""One classifier for everything a service can say no with: an HTTP status, an error inside a 200
stream (flat or nested), a failed response, a 200 with a JSON error. The same failure is the same
class, wherever it came from."""

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
_ID_LIMIT = 200  # characters of a service's id of a request
_MESSAGE_LIMIT = 500  # characters of a service's own words that go into ours

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

# Codes and types of OpenAI, Anthropic and the compatible servers.
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

# Where a service puts the id of a request, in the order of trust.
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id")


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The service's own id of the request; `headers` has lower-case names."""
    found = (headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name))
    return next((value[:_ID_LIMIT] for value in found), None)


def error_from_status(
    status: int, body: bytes, headers: Mapping[str, str], now: float
) -> ServiceError:
    """The error of an HTTP status other than success. `now` is the Unix time, for dates."""
    payload = _decoded(body)
    words = _words(payload)
    cls = _of_status(status)
    if _is_quota(words):
        cls = QuotaExceededError
    said = words["message"] or "the service gave no reason"
    error = cls(
        f"HTTP {status}{_label(words)}: {said}",
        status=status,
        code=words["code"],
        type=words["type"],
        param=words["param"],
        retry_after=parse_retry_after(headers, said, now),
        retryable=_should_retry(headers) if cls is not QuotaExceededError else None,
    )
    error.request_id = request_id_of(headers) or words["request_id"]
    return error


def error_from_payload(payload: Any) -> ServiceError:
    """The error that came inside a stream, or as the JSON body of a 200."""
    words = _words(payload)
    cls = _of_words(words)
    said = words["message"] or "the service gave no reason"
    error = cls(
        f"error inside the stream{_label(words)}: {said}",
        code=words["code"],
        type=words["type"],
        param=words["param"],
        retry_after=parse_retry_after({}, said, 0.0),
    )
    error.request_id = words["request_id"]
    return error


def _of_status(status: int) -> type[ServiceError]:
    return _STATUS.get(status, ServerError if status >= 500 else InvalidRequestError)


def _is_quota(words: Mapping[str, str | None]) -> bool:
    known = (KNOWN_WORDS.get((words[name] or "").lower()) for name in ("code", "type"))
    return QuotaExceededError in known


def _of_words(words: Mapping[str, str | None]) -> type[ServiceError]:
    if _is_quota(words):
        return QuotaExceededError
    for word in (words["code"], words["type"]):
        known = KNOWN_WORDS.get((word or "").lower())
        if known:
            return known
        if word and len(word) == 3 and word.isdecimal() and 400 <= int(word) <= 599:
            return _of_status(int(word))
    return ServerError


def _should_retry(headers: Mapping[str, str]) -> bool | None:
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())


def _label(words: Mapping[str, str | None]) -> str:
    label = words["code"] or words["type"]
    return f" ({label[:100]})" if label else ""


def _decoded(body: bytes) -> Any:
    try:
        return decode_json(body)
    except (ValueError, RecursionError):
        # A proxy's page, most often: its words on one line.
        return " ".join(_TAGS.sub(" ", body.decode("utf-8", "replace")).split())


def _words(payload: Any) -> dict[str, str | None]:
    """code, type, message, param and request_id, wherever the service put them."""
    outer = payload[0] if isinstance(payload, list) and payload else payload
    if isinstance(outer, str):
        return _row({"message": outer}, {})
    if not isinstance(outer, dict):
        return _row({}, {})
    response = outer.get("response")
    for holder in (outer, response if isinstance(response, dict) else {}):
        inner = holder.get("error")
        if isinstance(inner, dict):
            return _row(inner, outer)
        if isinstance(inner, str):
            return _row({**outer, "message": outer.get("message") or inner}, outer)
    return _row(outer, outer)


def _row(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, str | None]:
    kind = _text(inner.get("type"))
    return {
        "code": _text(inner.get("code")),
        "type": None if kind == "error" else kind,  # the flat form: the event's own type
        "message": _message(inner),
        "param": _text(inner.get("param")),
        "request_id": _text(outer.get("request_id")),
    }


def _message(inner: Mapping[str, Any]) -> str | None:
    said = inner.get("message") or inner.get("detail") or inner.get("msg")
    if isinstance(said, list):
        # FastAPI's validation errors: their "input" repeats the request, so only "msg" is taken.
        said = "; ".join(str(d.get("msg")) for d in said if isinstance(d, dict))
    return _text(said)


def _text(value: Any) -> str | None:
    if not isinstance(value, (str, int)) or value == "":
        return None
    text = str(value) if isinstance(value, str) or abs(value) < 10**9 else "a huge number"
    # Half a surrogate, which JSON can spell, could not be written anywhere.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _MESSAGE_LIMIT else text[:_MESSAGE_LIMIT] + "..."
