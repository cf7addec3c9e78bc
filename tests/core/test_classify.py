"""One classifier: the same failure is the same class, by HTTP status and inside the stream."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from corpus import PROPERTY, block, say
from every import every
from hypothesis import given
from hypothesis import strategies as st

from llmstream._core.classify import error_from_payload, error_from_status, request_id_of
from llmstream._core.dialects import APIS
from llmstream._core.session import Session
from llmstream.errors import (
    AuthenticationError,
    InvalidRequestError,
    NotAStreamError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    ServiceError,
    StreamTruncated,
)
from llmstream.result import LLMStreamError, ProtocolError

NOW = 1_790_000_000.0
LONGEST = 1200  # characters of a message, whatever the service says


def by_status(status: int, payload: Any, headers: dict[str, str] | None = None) -> ServiceError:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return error_from_status(status, body, headers or {}, NOW)


def in_stream(*pieces: bytes) -> LLMStreamError | None:
    """What a stream of these events, ended cleanly, ends in."""
    session = Session(APIS["responses"].load())
    for piece in pieces:
        session.receive(piece)
    session.receive_eof()
    assert not session.complete
    return session.error


def in_json(body: bytes) -> LLMStreamError | None:
    """What a 200 with this JSON body ends in."""
    session = Session(APIS["responses"].load())
    session.receive_json(body)
    assert not session.complete
    return session.error


# --- every status -------------------------------------------------------------------------------

STATUSES: dict[int, type[ServiceError]] = {
    **dict.fromkeys(range(300, 500), InvalidRequestError),
    **dict.fromkeys(range(500, 600), ServerError),
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
RETRIED = {408, 409, 425, 429, *range(500, 600)}


@every("status", sorted(STATUSES))
def test_every_status(status: int) -> None:
    """Each status from 300 to 599 has its class, whatever words come with it, and is retried
    exactly where asking again may help."""
    for payload in (b"", {}, {"error": {"message": "no", "code": "rate_limit_exceeded"}}, b"<p>"):
        error = by_status(status, payload)
        assert type(error) is STATUSES[status]
        assert error.status == status
        assert error.retryable is (status in RETRIED)
        assert str(status) in error.message


@every("status", [400, 403, 429, 500, 529])
@every("word", ["insufficient_quota", "credit_balance_exhausted", "INSUFFICIENT_QUOTA"])
@every("where", ["code", "type"])
def test_quota_wins_over_the_status(status: int, word: str, where: str) -> None:
    """Used-up money is never retried, whatever status it comes with, by code or by type, in any
    case, and even where the server says to retry."""
    payload = {"error": {"message": "no", where: word}}
    error = by_status(status, payload, {"x-should-retry": "true"})
    assert type(error) is QuotaExceededError
    assert error.retryable is False
    assert type(error_from_payload(payload)) is QuotaExceededError


@every(
    ("said", "status", "retryable"),
    [
        ("true", 400, True),
        ("TRUE", 401, True),
        ("false", 500, False),
        ("False", 429, False),
        ("", 500, True),
        ("maybe", 500, True),
        ("maybe", 400, False),
    ],
)
def test_x_should_retry_decides(said: str, status: int, retryable: bool) -> None:
    """The server's own word on retrying counts where it is one."""
    assert by_status(status, {}, {"x-should-retry": said}).retryable is retryable


# --- shapes -------------------------------------------------------------------------------------

# name -> (payload, class inside a 200, code, type, message, param)
Shape = tuple[Any, type[ServiceError], str | None, str | None, str | None, str | None]
SHAPES: dict[str, Shape] = {
    "openai": (
        {"error": {"message": "m", "type": "tokens", "param": "p", "code": "rate_limit_exceeded"}},
        RateLimitError,
        "rate_limit_exceeded",
        "tokens",
        "m",
        "p",
    ),
    "openai without code": (
        {"error": {"message": "m", "type": "invalid_request_error", "param": None, "code": None}},
        InvalidRequestError,
        None,
        "invalid_request_error",
        "m",
        None,
    ),
    "nested event": (
        {"type": "error", "error": {"type": "server_error", "code": "x", "message": "m"}},
        ServerError,
        "x",
        "server_error",
        "m",
        None,
    ),
    "flat event": (
        {"type": "error", "code": "context_length_exceeded", "message": "m", "param": "input"},
        InvalidRequestError,
        "context_length_exceeded",
        None,
        "m",
        "input",
    ),
    "failed": (
        {
            "type": "response.failed",
            "response": {"error": {"code": "server_error", "message": "m"}},
        },
        ServerError,
        "server_error",
        None,
        "m",
        None,
    ),
    "anthropic": (
        {"type": "error", "error": {"type": "overloaded_error", "message": "m"}, "request_id": "r"},
        OverloadedError,
        None,
        "overloaded_error",
        "m",
        None,
    ),
    "llama.cpp": (
        {"error": {"code": 503, "message": "m", "type": "unavailable_error"}},
        OverloadedError,
        "503",
        "unavailable_error",
        "m",
        None,
    ),
    "number as code": (
        {"error": {"code": 429, "message": "m"}},
        RateLimitError,
        "429",
        None,
        "m",
        None,
    ),
    "number as text": (
        {"error": {"code": "401", "message": "m"}},
        AuthenticationError,
        "401",
        None,
        "m",
        None,
    ),
    "number 402": (
        {"error": {"code": 402, "message": "m"}},
        QuotaExceededError,
        "402",
        None,
        "m",
        None,
    ),
    "number 400": (
        {"error": {"code": 400, "message": "m"}},
        InvalidRequestError,
        "400",
        None,
        "m",
        None,
    ),
    "number 529": (
        {"error": {"code": 529, "message": "m"}},
        OverloadedError,
        "529",
        None,
        "m",
        None,
    ),
    "number 200": ({"error": {"code": 200, "message": "m"}}, ServerError, "200", None, "m", None),
    "number -1": ({"error": {"code": -1, "message": "m"}}, ServerError, "-1", None, "m", None),
    "code above type": (
        {"error": {"code": "invalid_api_key", "type": "invalid_request_error", "message": "m"}},
        AuthenticationError,
        "invalid_api_key",
        "invalid_request_error",
        "m",
        None,
    ),
    "unknown code, known type": (
        {"error": {"code": "flux", "type": "rate_limit_error", "message": "m"}},
        RateLimitError,
        "flux",
        "rate_limit_error",
        "m",
        None,
    ),
    "unknown": ({"error": {"code": "flux", "message": "m"}}, ServerError, "flux", None, "m", None),
    "upper case": (
        {"error": {"code": "RATE_LIMIT_EXCEEDED", "message": "m"}},
        RateLimitError,
        "RATE_LIMIT_EXCEEDED",
        None,
        "m",
        None,
    ),
    "text": ({"error": "m"}, ServerError, None, None, "m", None),
    "text beside a message": ({"error": "x", "message": "m"}, ServerError, None, None, "m", None),
    "detail": ({"detail": "m"}, ServerError, None, None, "m", None),
    "validation": (
        {
            "detail": [
                {"loc": ["body"], "msg": "m", "type": "missing", "input": "secret"},
                {"msg": "n"},
            ]
        },
        ServerError,
        None,
        None,
        "m; n",
        None,
    ),
    "list": (
        [{"error": {"code": 429, "message": "m", "status": "X"}}],
        RateLimitError,
        "429",
        None,
        "m",
        None,
    ),
    "flat": (
        {"message": "m", "code": "permission_denied"},
        PermissionDeniedError,
        "permission_denied",
        None,
        "m",
        None,
    ),
    "azure gateway": ({"statusCode": 429, "message": "m"}, ServerError, None, None, "m", None),
    "msg": ({"msg": "m"}, ServerError, None, None, "m", None),
    "empty object": ({}, ServerError, None, None, None, None),
    "empty error": ({"error": {}}, ServerError, None, None, None, None),
    "null error": ({"error": None, "message": "m"}, ServerError, None, None, "m", None),
    "empty list": ([], ServerError, None, None, None, None),
    "list of nulls": ([None], ServerError, None, None, None, None),
    "a string": ("m", ServerError, None, None, "m", None),
    "a number": (5, ServerError, None, None, None, None),
    "null": (None, ServerError, None, None, None, None),
    "odd types": (
        {"error": {"code": ["a"], "type": {"b": 1}, "message": {"c": 2}, "param": [1]}},
        ServerError,
        None,
        None,
        None,
        None,
    ),
    "empty words": (
        {"error": {"code": "", "type": "", "message": ""}},
        ServerError,
        None,
        None,
        None,
        None,
    ),
    "content policy": (
        {"error": {"code": "content_policy_violation", "message": "m"}},
        InvalidRequestError,
        "content_policy_violation",
        None,
        "m",
        None,
    ),
    "model": (
        {"error": {"code": "model_not_found", "type": "x", "message": "m"}},
        InvalidRequestError,
        "model_not_found",
        "x",
        "m",
        None,
    ),
}


def test_there_are_enough_shapes() -> None:
    """FAULTS 3 asks for 25."""
    assert len(SHAPES) >= 25


@every("name", SHAPES)
def test_shapes_inside_a_stream(name: str) -> None:
    """Each shape gives its class and the service's own words."""
    payload, cls, code, type_, message, param = SHAPES[name]
    error = error_from_payload(payload)
    assert type(error) is cls
    assert (error.status, error.code, error.type, error.param) == (None, code, type_, param)
    assert (message or "no reason") in error.message
    assert error.request_id == ("r" if name == "anthropic" else None)
    assert error.retry_after is None


@every("name", SHAPES)
@every("status", [400, 401, 429, 500, 529])
def test_shapes_with_a_status(name: str, status: int) -> None:
    """With a status the status decides, quota aside; the words are the same."""
    payload, _, code, type_, message, param = SHAPES[name]
    error = by_status(status, payload)
    assert type(error) is STATUSES[status]
    assert (error.code, error.type, error.param) == (code, type_, param)
    assert (message or "no reason") in error.message


# status -> the shape that the same failure has inside a stream
SAME: dict[int, list[dict[str, Any]]] = {
    400: [{"code": "invalid_request_error"}, {"type": "invalid_request_error"}, {"code": 400}],
    401: [{"code": "invalid_api_key"}, {"type": "authentication_error"}, {"code": "401"}],
    402: [{"code": "insufficient_quota"}, {"code": 402}, {"type": "billing_error"}],
    403: [{"type": "permission_error"}, {"code": 403}],
    404: [{"code": "model_not_found"}, {"type": "not_found_error"}, {"code": 404}],
    413: [{"type": "request_too_large"}, {"code": 413}],
    429: [{"code": "rate_limit_exceeded"}, {"type": "rate_limit_error"}, {"code": 429}],
    500: [{"code": "server_error"}, {"type": "api_error"}, {"code": 500}],
    503: [{"code": "service_unavailable"}, {"code": 503}],
    504: [{"type": "timeout_error"}, {"code": 504}],
    529: [{"type": "overloaded_error"}, {"code": 529}],
}


@every("status", SAME)
def test_the_same_failure_is_the_same_class(status: int) -> None:
    """By status, flat and nested, as the first event and after tokens, as a failed response, as
    an object without a type, in a field of its own, and as the JSON of a 200: one class."""
    opening = say("response.created", response={"id": "r", "status": "in_progress"})
    token = say("response.output_text.delta", output_index=0, content_index=0, delta="x")
    for words in SAME[status]:
        error = {**words, "message": "m"}
        expected = type(by_status(status, {"error": error}))
        nested = say("error", error=error)
        ways = {
            "nested": in_stream(nested),
            "after tokens": in_stream(opening, token, token, token, nested),
            "failed": in_stream(say("response.failed", response={"error": error})),
            "both": in_stream(nested, say("response.failed", response={"error": error})),
            "untyped": in_stream(opening, block({"error": error})),
            "untyped, first": in_stream(block({"error": error})),
            "named": in_stream(block({"error": error}, "error")),
            "named, flat": in_stream(block(error, "error")),
            "bare field": in_stream(b"error: " + json.dumps(error).encode() + b"\n\n"),
            "json": in_json(json.dumps({"error": error}).encode()),
            "json list": in_json(json.dumps([{"error": error}]).encode()),
            "json typed": in_json(json.dumps({"type": "error", "error": error}).encode()),
        }
        if "type" not in words:  # the flat form has the event's type in its place
            ways["flat"] = in_stream(say("error", **error))
        found = {way: type(error) for way, error in ways.items()}
        assert found == dict.fromkeys(ways, expected), words


# What a stream can hold instead of an error object: never taken for a plain truncation.
ODD_ERRORS = {
    "a string": block("boom", "error"),
    "an empty object": block({}, "error"),
    "null": block(None, "error"),
    "a string inside": block({"error": "boom"}),
    "a string inside, typed": say("error", error="boom"),
    "text": b"event: error\ndata: Internal Server Error\n\n",
    "failed without a reason": say("response.failed"),
    "failed with null": say("response.failed", response=None),
    "failed with a string": say("response.failed", response={"error": "boom"}),
    "failed in the status": say("response.completed", response={"status": "failed"}),
}


@every("name", ODD_ERRORS)
def test_odd_errors_are_errors_of_the_service(name: str) -> None:
    """An event that says error is one, whatever it holds: not a truncation, which is retried."""
    error = in_stream(ODD_ERRORS[name])
    assert isinstance(error, (ServiceError, ProtocolError))
    if name != "text":
        assert type(error) is ServerError
        assert "boom" in error.message or "boom" not in ODD_ERRORS[name].decode()


# --- a 200 with JSON ----------------------------------------------------------------------------

# what a 200 holds that is no whole answer -> the class
NO_ANSWERS: dict[str, tuple[Any, type[LLMStreamError]]] = {
    "null": (None, NotAStreamError),
    "a number": (5, NotAStreamError),
    "an object": ({"ok": True}, NotAStreamError),
    "a list": ([], NotAStreamError),
    "a chat completion": ({"object": "chat.completion", "choices": []}, NotAStreamError),
    "no error": ({"error": None}, NotAStreamError),
    "failed": ({"output": [], "status": "failed", "error": {"code": "server_error"}}, ServerError),
    "failed, no reason": ({"output": [], "status": "failed"}, ServerError),
    "an error beside output": (
        {"output": [], "error": {"code": "rate_limit_exceeded"}},
        RateLimitError,
    ),
    "queued": ({"id": "r", "status": "queued", "output": []}, LLMStreamError),
    "in progress": ({"id": "r", "status": "in_progress", "output": []}, LLMStreamError),
    "cancelled": ({"id": "r", "status": "cancelled", "output": []}, LLMStreamError),
}


@every("name", NO_ANSWERS)
def test_json_that_is_no_whole_answer_is_no_success(name: str) -> None:
    """A 200 with JSON is a success only where it holds a completed answer."""
    payload, cls = NO_ANSWERS[name]
    error = in_json(json.dumps(payload).encode())
    assert isinstance(error, cls)
    assert not isinstance(error, StreamTruncated) or cls is LLMStreamError


# --- identities ---------------------------------------------------------------------------------


@every(
    ("headers", "body", "found"),
    [
        ({"x-request-id": "a", "request-id": "b"}, {}, "a"),
        ({"request-id": "b"}, {}, "b"),
        ({"apim-request-id": "c"}, {}, "c"),
        ({"x-ms-request-id": "d"}, {}, "d"),
        ({"x-request-id": ""}, {"request_id": "e"}, "e"),
        ({}, {"request_id": "e"}, "e"),
        ({}, {"error": {}, "request_id": "e"}, "e"),
        ({"x-request-id": "a"}, {"request_id": "e"}, "a"),
        ({}, {"request_id": ["e"]}, None),
        ({}, {}, None),
    ],
)
def test_request_id(headers: dict[str, str], body: Any, found: str | None) -> None:
    """The service's own id of the request: the header first, then the body."""
    assert by_status(500, body, headers).request_id == found
    assert request_id_of(headers) in (found, None)


def test_retry_after_by_every_way() -> None:
    """Headers with a status; the message inside a stream as well."""
    assert by_status(429, {}, {"retry-after": "7"}).retry_after == 7.0
    assert by_status(429, {}, {"retry-after-ms": "70"}).retry_after == 0.07
    message = {"error": {"message": "Please try again in 6.379s", "code": "rate_limit_exceeded"}}
    assert by_status(429, message).retry_after == 6.379
    assert error_from_payload(message).retry_after == 6.379
    error = in_stream(say("error", **message["error"]))
    assert isinstance(error, ServiceError)
    assert error.retry_after == 6.379


# --- bounded, and never a crash -----------------------------------------------------------------

LONG = "long " * 100_000
MONSTERS: dict[str, Any] = {
    "message": {"error": {"message": LONG}},
    "code": {"error": {"code": LONG, "message": "m"}},
    "type": {"error": {"type": LONG}},
    "param": {"error": {"param": LONG}},
    "detail": {"detail": [{"msg": LONG}] * 100},
    "string": LONG,
    "html": ("<html>" + LONG).encode(),
    "digits as code": {"error": {"code": "9" * 5000, "message": "m"}},
    "digits as number": b'{"error": {"code": ' + b"9" * 5000 + b"}}",
    "great number": {"error": {"code": 10**300}},
    "many hours": {"error": {"message": "try again in " + "9" * 400 + "h"}},
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep inside": b'{"error": {"message": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "invalid utf-8": b'{"error": {"message": "\xff"}}',
    "half a surrogate": b'{"error": {"message": "\\ud800"}}',
    "half": b'{"error": {"message": "m',
    "nul": b"\0",
}


@every("name", MONSTERS)
def test_monsters_are_bounded(name: str) -> None:
    """Whatever a service says, by status, the answer is an error of bounded words."""
    payload = MONSTERS[name]
    error = by_status(500, payload)
    assert type(error) is ServerError
    assert len(error.message) <= LONGEST
    assert len(str(error)) <= LONGEST
    pickle.loads(pickle.dumps(error))


@pytest.mark.slow
@every("name", MONSTERS)
def test_monsters_inside_a_stream_are_bounded(name: str) -> None:
    """The same inside a stream, and as the JSON of a 200: an error, never an exception."""
    payload = MONSTERS[name]
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    for error in (
        in_stream(b"event: error\ndata: " + body + b"\n\n"),
        in_stream(b'data: {"type": "error", "error": ' + body + b"}\n\n"),
        in_stream(b"error: " + body + b"\n\n"),
        in_json(body),
        in_json(b'{"error": ' + body + b"}"),
    ):
        assert isinstance(error, (ServiceError, ProtocolError))
        assert len(error.message) <= LONGEST


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "message",
                    "code",
                    "type",
                    "param",
                    "detail",
                    "msg",
                    "response",
                    "request_id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@PROPERTY
@given(JSON, st.integers(300, 599))
def test_any_payload_is_an_error(payload: Any, status: int) -> None:
    """Any JSON at all is classified without a crash, by both ways; its words are text or None."""
    for error in (error_from_payload(payload), by_status(status, payload)):
        assert isinstance(error, ServiceError)
        assert len(error.message) <= LONGEST
        for word in (error.code, error.type, error.param, error.request_id):
            assert word is None or (isinstance(word, str) and word)


@pytest.mark.slow
@PROPERTY
@given(st.binary(max_size=60), st.integers(300, 599))
def test_any_body_is_an_error(body: bytes, status: int) -> None:
    """So are bytes of no form."""
    assert isinstance(by_status(status, body), ServiceError)


def test_validation_errors_do_not_repeat_the_request() -> None:
    """FastAPI puts the request's own words into "input": they stay out."""
    payload, *_ = SHAPES["validation"]
    assert "secret" not in by_status(422, payload).message
    assert "secret" not in error_from_payload(payload).message


# --- waits --------------------------------------------------------------------------------------

RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}
GOOGLE = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "no", "details": [RETRY_INFO]}
LATER = "x" * 900 + " Please retry in 36.4s."
UNTIL = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int((NOW + 12) * 1000))}
# payload -> the wait with a status, and inside a stream
WAITS: dict[str, tuple[Any, float | None, float | None]] = {
    "RetryInfo": ({"error": GOOGLE}, 34.4, 34.4),
    "RetryInfo in a list of one": ([{"error": GOOGLE}], 34.4, 34.4),
    "in words": ({"error": {"message": "Retry in 5 seconds"}}, 5.0, 5.0),
    "in words that are cut": ({"error": {"message": LATER}}, 36.4, 36.4),
    "in a field": ({"error": {"message": "no", "retry_after": 7}}, 7.0, 7.0),
    "in a field beside the error": ({"error": "no", "retry_after": 7}, 7.0, 7.0),
    "in a detail": ({"detail": {"error": GOOGLE}}, 34.4, 34.4),
    "in a failed response": ({"response": {"error": GOOGLE}}, 34.4, 34.4),
    "in quoted headers": (
        {"error": {"message": "no", "metadata": {"headers": {"Retry-After": "8"}}}},
        8.0,
        8.0,
    ),
    "a moment in quoted headers": (
        {"error": {"code": 429, "message": "no", "metadata": {"headers": UNTIL}}},
        12.0,
        None,
    ),
    "of an upstream": ({"error": f"429 RESOURCE_EXHAUSTED. { ({'error': GOOGLE}) }"}, 34.4, 34.4),
    "none": ({"error": {"message": "no"}}, None, None),
}


@every("name", WAITS)
def test_the_wait_that_a_body_asks_for(name: str) -> None:
    payload, by_http, inside = WAITS[name]
    assert by_status(429, payload).retry_after == by_http
    assert error_from_payload(payload).retry_after == inside


def test_a_reset_counts_where_nothing_else_is_said() -> None:
    """And only for a rate limit: what is used up does not delay the answer to another failure."""
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}
    assert by_status(429, {}, headers).retry_after == 360.0
    assert by_status(429, {}, {**headers, "retry-after": "3"}).retry_after == 3.0
    assert by_status(429, {"error": GOOGLE}, headers).retry_after == 34.4
    assert by_status(429, {"error": "try again in 2s"}, headers).retry_after == 2.0
    assert by_status(500, {}, headers).retry_after is None
    assert by_status(400, {}, headers).retry_after is None
    assert by_status(429, {"error": {"code": "insufficient_quota"}}, headers).retry_after is None


@pytest.mark.parametrize(("per", "cls"), [("Day", QuotaExceededError), ("Minute", RateLimitError)])
def test_a_quota_of_a_day_is_not_waited_out(per: str, cls: type[ServiceError]) -> None:
    """Google reports both as a 429; by the quota's id they are told apart."""
    quota = {"violations": [{"quotaId": f"GenerateRequestsPer{per}PerProjectPerModel-FreeTier"}]}
    error = {**GOOGLE, "details": [quota, RETRY_INFO]}
    for found in (by_status(429, {"error": error}), by_status(429, [{"error": error}])):
        assert type(found) is cls
        assert found.retry_after == 34.4
    assert type(error_from_payload({"error": error})) is cls
    assert type(by_status(503, {"error": error})) is OverloadedError


# --- what gateways and frameworks wrap ----------------------------------------------------------

INVALID = {"message": "no such thing", "type": "invalid_request_error", "code": "unknown_x"}
VALIDATION = {"type": "missing", "loc": ["body", "messages", 0, "tool_call_id"], "msg": "required"}
# body -> (words that the message has, code, param)
WRAPPED: dict[str, tuple[Any, str, str | None, str | None]] = {
    "detail with an error": ({"detail": {"error": INVALID}}, "no such thing", "unknown_x", None),
    "detail is the error": ({"detail": INVALID}, "no such thing", "unknown_x", None),
    "detail of a detail": ({"detail": {"detail": "no such thing"}}, "no such thing", None, None),
    "detail in a text": ({"detail": "no such thing"}, "no such thing", None, None),
    "an error in an error": ({"error": {"error": INVALID}}, "no such thing", "unknown_x", None),
    "errors": ({"errors": [INVALID]}, "no such thing", "unknown_x", None),
    "errors beside success": (
        {"success": False, "errors": [{"code": 7003, "message": "no such thing"}]},
        "no such thing",
        "7003",
        None,
    ),
    "texts": ({"message": ["a is wrong", "b is wrong"]}, "a is wrong; b is wrong", None, None),
    "AWS": ({"Message": "no such thing"}, "no such thing", None, None),
    "RFC 9457": ({"title": "no such thing", "status": 400}, "no such thing", None, None),
    "loc": (
        {"detail": [VALIDATION]},
        "body.messages.0.tool_call_id: required",
        None,
        "body.messages.0.tool_call_id",
    ),
    "a list of them": (
        [VALIDATION],
        "body.messages.0.tool_call_id: required",
        None,
        "body.messages.0.tool_call_id",
    ),
    "message.detail": (
        {"object": "error", "message": {"detail": [VALIDATION]}, "type": "invalid_request_error"},
        "body.messages.0.tool_call_id: required",
        None,
        "body.messages.0.tool_call_id",
    ),
    "as Python prints it": (
        {"message": str([{**VALIDATION, "loc": ("body", "n"), "input": "secret"}]), "code": 400},
        "body.n: required",
        "400",
        "body.n",
    ),
    "in the words": (
        {"error": {"message": "messages.0.content: Field required"}},
        "messages.0.content: Field required",
        None,
        "messages.0.content",
    ),
    "pydantic's own": (
        {"message": "1 error\nn\n  no int [type=int, input_value='secret', input_type=str]"},
        "no int [type=int, input_type=str]",
        None,
        None,
    ),
}


@every("name", WRAPPED)
@every("how", ["json", "an event", "an event without a name"])
def test_an_error_is_found_where_it_is_wrapped(name: str, how: str) -> None:
    """Also where the body of the error is an event stream; and what a validator shows of the
    request stays out."""
    payload, words, code, param = WRAPPED[name]
    data = json.dumps(payload).encode()
    start = b"event: error\r\n" if how == "an event" else b""
    body = data if how == "json" else start + b"data: " + data + b"\r\n\r\ndata: [DONE]\r\n\r\n"
    error = by_status(422, body)
    assert type(error) is InvalidRequestError
    assert words in error.message
    assert (error.code, error.param) == (code, param)
    assert "secret" not in error.message


def test_an_event_of_plain_text() -> None:
    error = by_status(500, b"event: error\ndata: Internal Server Error\n\n")
    assert error.message == "HTTP 500: Internal Server Error"


# words of a gateway -> the class of what the upstream said
UPSTREAM: list[tuple[str, type[ServiceError]]] = [
    ("Error code: 400 - {'error': {'message': 'bad', 'code': 'x'}}", InvalidRequestError),
    ("Error code: 429 - {'error': {'message': \"it's full\"}}", RateLimitError),
    ("Error code: 429 - {'error': {'code': 'insufficient_quota'}}", QuotaExceededError),
    ("Error code: 401", AuthenticationError),
    ("400: bad", InvalidRequestError),
    ("429: too many", RateLimitError),
    ('400 {"type":"error","error":{"message":"bad"}}', InvalidRequestError),
    ("429 RESOURCE_EXHAUSTED. {'error': {'code': 429, 'message': 'full'}}", RateLimitError),
    ("503 UNAVAILABLE. {'error': {'message': 'busy'}}", OverloadedError),
    ("429 Too Many Requests", RateLimitError),
    ("400 Client Error: Bad Request for url: https://x.example", InvalidRequestError),
    ("Client error '404 Not Found' for url 'https://x.example'", InvalidRequestError),
    ("HTTP status client error (400 Bad Request) for url (https://x.example)", InvalidRequestError),
    ("The provider has failed (400 Bad Request)", InvalidRequestError),
    ("[SDK Error]: fetching from x: [429 Too Many Requests] full", RateLimitError),
    ("HTTP 429: full", RateLimitError),
    ("HTTP/1.1 529 overloaded", OverloadedError),
    ("status_code: 429, body: full", RateLimitError),
    ("error, status code: 401, message: no", AuthenticationError),
    ("Request failed with status code 403", PermissionDeniedError),
    ("litellm.RateLimitError: full", RateLimitError),
    ("litellm.BadRequestError: OpenAIException - bad", InvalidRequestError),
    ("litellm.ContextWindowExceededError: BadRequestError: long", InvalidRequestError),
    ("litellm.APIConnectionError: XException - Error code: 429 - full", RateLimitError),
    ("litellm.ServiceUnavailableError: busy", OverloadedError),
    ("openai.AuthenticationError: no", AuthenticationError),
    ("An error occurred (ThrottlingException) when calling the X operation: no", RateLimitError),
    ("An error occurred (ValidationException) when calling the X: no", InvalidRequestError),
    ('{"error": {"type": "overloaded_error", "message": "busy"}}', OverloadedError),
]


@every(("words", "cls"), UPSTREAM, ids=[words[:40] for words, _ in UPSTREAM])
@every("status", [400, 500, 502])
def test_what_an_upstream_said_decides(words: str, cls: type[ServiceError], status: int) -> None:
    """In the known forms, wherever the gateway puts the text; the status stays the gateway's."""
    for payload in (
        {"error": {"message": words, "code": str(status)}},
        {"error": words},
        {"detail": words},
        {"message": words},
        f"{words}\n".encode() if words[0] != "{" else json.dumps(words).encode(),
    ):
        error = by_status(status, payload)
        assert type(error) is cls
        assert (error.status, error.retryable) == (status, cls.retryable)
    assert type(error_from_payload({"error": {"message": words}})) is cls


@every(
    "words",
    [
        "We have served 429 requests and 400 errors",
        "The limit of 400 tokens is exceeded",
        "400 tokens are too many",
        "4000: bad",
        "40: bad",
        "Code 429 is documented elsewhere",
        "x" * 300 + " (429 Too Many Requests)",
        "The number (429 or so) is high",
        "See RateLimitError: it is documented",
        "id 5f400: bad",
        "",
    ],
)
def test_a_number_in_prose_is_no_verdict(words: str) -> None:
    for status in (400, 401, 500):
        assert type(by_status(status, {"error": {"message": words}})) is STATUSES[status]
    page = f"<html><h1>400 Bad Request</h1>{words}</html>".encode()
    assert type(by_status(500, page)) is ServerError


# OpenRouter's metadata -> class with a 502 and with a 400, words
RAW = {"error": {"type": "overloaded_error", "message": "busy"}}
PROVIDERS: list[tuple[Any, type[ServiceError], type[ServiceError], str]] = [
    (RAW, OverloadedError, OverloadedError, "busy"),
    (json.dumps(RAW), OverloadedError, OverloadedError, "busy"),
    (json.dumps({"error": INVALID}), InvalidRequestError, InvalidRequestError, "no such thing"),
    (json.dumps([{"error": {"code": 429, "message": "full"}}]), RateLimitError, RateLimitError, ""),
    ('data: {"error": {"code": 429}}\n\n', RateLimitError, RateLimitError, ""),
    ("Error code: 400 - bad", InvalidRequestError, InvalidRequestError, "bad"),
    ({"code": "insufficient_quota"}, QuotaExceededError, QuotaExceededError, ""),
    ("m is temporarily rate-limited upstream", ServerError, InvalidRequestError, "rate-limited"),
    ("", ServerError, InvalidRequestError, ""),
    (None, ServerError, InvalidRequestError, ""),
    (5, ServerError, InvalidRequestError, ""),
]


@every(("raw", "at_502", "at_400", "words"), PROVIDERS)
def test_a_provider_behind_a_router(
    raw: Any, at_502: type[ServiceError], at_400: type[ServiceError], words: str
) -> None:
    """Which one failed and why; its words decide the class."""
    said = {
        "message": "Provider returned error",
        "metadata": {"provider_name": "Vendor", "raw": raw, "flagged_input": "secret"},
    }
    for status, cls in ((502, at_502), (400, at_400)):
        for error in (
            by_status(status, {"error": {**said, "code": status}, "user_id": "u"}),
            error_from_payload({"error": {**said, "code": status}}),
        ):
            assert type(error) is cls
            assert "Provider returned error (provider Vendor)" in error.message
            assert words in error.message
            assert "secret" not in error.message
            assert error.code == str(status)


# --- limits of a day, and resets ----------------------------------------------------------------

OF_A_DAY = (
    "Rate limit exceeded: free-models-per-day",
    "Rate limit reached for requests per day (RPD): Limit 200, Used 200",
    "You have exceeded your daily quota",
    "Daily limit reached",
)


@pytest.mark.parametrize("words", OF_A_DAY)
def test_a_limit_of_a_day_is_a_quota(words: str) -> None:
    """Inside the stream too; but not where the service says that it ends soon, nor where a limit of
    a minute is named beside it."""
    payload = {"error": {"message": words, "code": 429}}
    assert type(by_status(429, payload)) is QuotaExceededError
    assert type(error_from_payload(payload)) is QuotaExceededError
    soon = {"error": {"message": f"{words}. Please try again in 7.5s", "code": 429}}
    assert type(by_status(429, soon)) is RateLimitError
    both = {"error": {"message": f"{words}, and 10 per minute", "code": 429}}
    assert type(by_status(429, both)) is RateLimitError
    assert type(by_status(400, payload)) is InvalidRequestError


RESETS = {
    "anthropic-priority-input-tokens": "2026-09-21T14:13:40Z",
    "x-ratelimit-tokens": "20",
}


@pytest.mark.parametrize(("name", "reset"), RESETS.items(), ids=RESETS)
def test_further_resets(name: str, reset: str) -> None:
    kind, _, last = name.rpartition("-")
    remaining, when = (
        (f"{name}-remaining", f"{name}-reset")
        if "priority" in name
        else (f"{kind}-remaining-{last}", f"{kind}-renewalperiod-{last}")
    )
    for left, wait in (("0", 20.0), ("5", None)):
        assert by_status(429, {}, {remaining: left, when: reset}).retry_after == wait


def test_a_reset_in_the_headers_that_a_router_quotes() -> None:
    """It names a moment, which the stream knows the time for."""
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int((NOW + 10) * 1000))}
    payload = {"error": {"code": 429, "message": "slow", "metadata": {"headers": headers}}}
    assert error_from_payload(payload, NOW).retry_after == 10.0
    assert error_from_payload(payload).retry_after is None
    for api in APIS:
        session = Session(APIS[api].load())
        session.state.unix_time = lambda: NOW
        session.receive(block(payload if api == "chat" else {"type": "error", **payload}))
        assert isinstance(session.error, RateLimitError)
        assert session.error.retry_after == 10.0


def test_a_reset_in_words() -> None:
    assert by_status(429, {"error": {"message": "The limit resets in 12s."}}).retry_after == 12.0


# --- further forms of errors --------------------------------------------------------------------

FURTHER: dict[str, tuple[Any, str | None, str]] = {
    "places as names": (
        {"errors": {"messages.0": ["is required", "is short"]}},
        "messages.0",
        "messages.0: is required is short",
    ),
    "places beside a title": (
        {"title": "Not valid", "status": 400, "errors": {"Messages": ["The field is required."]}},
        "Messages",
        "Messages: The field is required.",
    ),
    "places in a detail": ({"detail": {"model": ["unknown"]}}, "model", "model: unknown"),
    "a reason in a detail": ({"detail": {"reason": "why"}}, None, "why"),
    "an object of JSON:API": ({"errors": [{"status": "400", "title": "T"}]}, None, "T"),
    "a pointer": (
        {"errors": [{"detail": "Not text", "source": {"pointer": "/messages/0/content"}}]},
        "messages.0.content",
        "Not text",
    ),
    "a property too many": (
        {
            "message": [
                {
                    "instancePath": "/tools/0",
                    "msg": "must NOT have additional properties",
                    "params": {"additionalProperty": "strict"},
                }
            ]
        },
        "tools.0.strict",
        "tools.0.strict: must NOT have additional properties",
    ),
    "a field": ({"detail": [{"field": "model", "message": "unknown"}]}, "model", "unknown"),
    "what repeats the request": ({"detail": {"input": "secret", "ctx": "x"}}, None, "no reason"),
}


@every("name", FURTHER)
def test_further_forms_of_validation_errors(name: str) -> None:
    payload, param, words = FURTHER[name]
    error = by_status(400, payload)
    assert type(error) is InvalidRequestError
    assert words in str(error)
    assert error.param == param
    assert "secret" not in str(error)


QUOTES: dict[str, type[ServiceError]] = {
    "upstream returned 429": RateLimitError,
    "Upstream error 401: bad key": AuthenticationError,
    "Error 429: slow down": RateLimitError,
    "Error: 429 Too Many Requests": RateLimitError,
    "[503] try later": OverloadedError,
    "Got a 404 from upstream": InvalidRequestError,
    'statusCode: 429, body: "slow"': RateLimitError,
    'Error calling the model: 400 - {"error": {"message": "x"}}': InvalidRequestError,
    "error: 400 tokens are too many": ServerError,
    "The 404 page is not here": ServerError,
}


@every(("words", "cls"), QUOTES.items(), ids=QUOTES)
def test_further_words_with_a_status(words: str, cls: type[ServiceError]) -> None:
    assert type(by_status(500, {"error": {"message": words}})) is cls
    assert type(error_from_payload({"error": {"message": words}})) is cls


def test_places_in_a_python_literal() -> None:
    """Its keys may be of any type."""
    words = "Error code: 400 - {'detail': {1: ['odd'], 'model': ['unknown']}}"
    error = by_status(500, {"error": {"message": words}})
    assert type(error) is InvalidRequestError
    assert "model: unknown" in str(error)
    assert error.param == "model"
