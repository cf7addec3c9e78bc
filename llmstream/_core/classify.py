"""The error class of a service's failure, wherever the failure is reported: in an HTTP status, in
an error inside a stream (flat or nested), in a failed response, in a 200 with a JSON error.

The same failure has the same class everywhere. With a status the status decides, except that a
quota code always means QuotaExceededError; without one the tables of codes and types below decide.
An upstream's verdict that a gateway quotes wins over the gateway's own.
Pure: relies on the error classes, on `error_body`, which reads, and on `retry`, which knows waits.
"""

from __future__ import annotations

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
from ..result import printable
from .asked import place_asked
from .error_body import ErrorBody, read_body, read_error
from .retry import is_daily_quota, is_of_a_day, parse_retry_after, reset_of_used_up_limits

__all__ = ["error_from_payload", "error_from_status", "request_id_of"]

_MAX_ID = 200  # characters of a service's request id that are kept

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
            "billing_not_active quota_exceeded insufficient_credits payment_required "
            "budgetexceedederror budget_exceeded"
        ),
        RateLimitError: (
            "rate_limit_exceeded rate_limit_error rate_limit too_many_requests "
            "rate_limit_reached throttling_error requests tokens resource_exhausted "
            "ratelimiterror throttlingexception toomanyrequestsexception"
        ),
        OverloadedError: (
            "overloaded_error overloaded server_overloaded engine_overloaded service_unavailable "
            "unavailable_error slow_down model_overloaded unavailable serviceunavailableerror "
            "serviceunavailableexception overloadederror"
        ),
        AuthenticationError: (
            "authentication_error invalid_api_key unauthorized invalid_authentication "
            "unauthenticated authenticationerror unrecognizedclientexception api_key_invalid"
        ),
        PermissionDeniedError: (
            "permission_error permission_denied permission_denied_error forbidden "
            "insufficient_permissions access_denied permissiondeniederror accessdeniedexception"
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
            "previous_response_not_found invalid_argument failed_precondition out_of_range "
            "badrequesterror notfounderror unprocessableentityerror unsupportedparamserror "
            "contextwindowexceedederror contentpolicyviolationerror validationexception "
            "extra_forbidden"
        ),
        ServerError: (
            "server_error api_error internal_server_error internal_error timeout_error timeout "
            "gateway_timeout bad_gateway vector_store_timeout internal deadline_exceeded "
            "internalservererror apiconnectionerror apierror"
        ),
    }.items()
    for word in words.split()
}

# Where a service puts its id of the request, the most reliable header first.
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id")


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The service's own id of the request, or None. `headers` has lower-case names."""
    for name in _REQUEST_ID_HEADERS:
        value = headers.get(name)
        if value:
            return printable(value[:_MAX_ID])[:_MAX_ID]
    return None


def error_from_status(
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    now: float,
    url: str = "",
    forwarder: str = "",
) -> ServiceError:
    """The error of a response whose status is not a success. `headers` has lower-case names; `now`
    is the Unix time in seconds, for waits that end at a moment; `url` is what was asked, and
    `forwarder` describes the proxy that has seen the request, if any."""
    report = read_body(body)
    limits = {**report.headers, **headers}  # the upstream's own, where a gateway quotes them
    wait = parse_retry_after(limits, report.words, now, report.parts)
    cls = _class_of(report, status, wait)
    place = place_asked(status, bool(report.code or report.type), headers, url, forwarder)
    error = cls(
        f"HTTP {status}{_described(report)}{place}",
        status=status,
        code=report.code,
        type=report.type,
        param=report.param,
        retry_after=_retry_after(cls, wait, limits, now),
        retryable=_should_retry(headers) if cls is not QuotaExceededError else None,
    )
    error.request_id = request_id_of(headers) or report.request_id
    return error


def error_from_payload(payload: Any, now: float | None = None) -> ServiceError:
    """The error that was received inside a stream, or as the JSON body of a 200. `payload` is the
    decoded JSON, `now` the Unix time in seconds, if it is known."""
    report = read_error(payload)
    wait = parse_retry_after(report.headers, report.words, now, report.parts)
    cls = _class_of(report, None, wait)
    error = cls(
        f"error inside the stream{_described(report)}",
        code=report.code,
        type=report.type,
        param=report.param,
        retry_after=_retry_after(cls, wait, report.headers, now),
    )
    error.request_id = report.request_id
    return error


def _retry_after(
    cls: type[ServiceError], wait: float | None, headers: Mapping[str, str], now: float | None
) -> float | None:
    if wait is None and cls is RateLimitError:
        return reset_of_used_up_limits(headers, now)
    return wait


def _class_of(report: ErrorBody, status: int | None, wait: float | None) -> type[ServiceError]:
    """`wait` is what the service asks for: a limit of a day that ends soon is not a quota."""
    upstream = list(filter(None, map(_class_of_word, report.upstream)))
    own = list(filter(None, map(_class_of_word, (report.code, report.type, report.status))))
    if QuotaExceededError in (*upstream, *map(_known, (report.code, report.type))):
        return QuotaExceededError
    if upstream:
        cls = upstream[0]
    elif status is not None:
        cls = _class_of_status(status)
    else:
        cls = own[0] if own else ServerError
    if cls is RateLimitError and (
        any(map(is_daily_quota, report.parts)) or (wait is None and is_of_a_day(report.words))
    ):
        return QuotaExceededError
    return cls


def _class_of_status(status: int) -> type[ServiceError]:
    return _STATUS.get(status, ServerError if status >= 500 else InvalidRequestError)


def _known(word: str | None) -> type[ServiceError] | None:
    return KNOWN_WORDS.get((word or "").lower())


def _class_of_word(word: str | None) -> type[ServiceError] | None:
    known = _known(word)
    if known is None and word and len(word) == 3 and word.isdecimal() and 400 <= int(word) <= 599:
        return _class_of_status(int(word))
    return known


def _should_retry(headers: Mapping[str, str]) -> bool | None:
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())


def _described(report: ErrorBody) -> str:
    label = report.code or report.type
    shown = f" ({label[:100]})" if label else ""
    return f"{shown}: {report.message or 'the service gave no reason'}"
