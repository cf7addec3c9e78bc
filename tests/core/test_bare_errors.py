"""An error in JSON that stands in a stream as it is, without a field: between two events, or where
a server has written it last and hung up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corpus import CUTTINGS, replay
from every import every

from llmstream import Client, RetryPolicy
from llmstream._core.dialects import APIS
from llmstream.errors import AuthenticationError, OverloadedError, RateLimitError, StreamTruncated
from llmstream.testing import Answer, FakeTransport, Reply

ERRORS: dict[str, tuple[Any, type]] = {
    "openai": ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, RateLimitError),
    "anthropic": ({"type": "error", "error": {"type": "overloaded_error"}}, OverloadedError),
    "google": ({"error": {"code": 401, "status": "UNAUTHENTICATED"}}, AuthenticationError),
}
FORMS = {
    "a line": lambda error: json.dumps(error),
    "indented": lambda error: json.dumps(error, indent=2),
    "CRLF": lambda error: json.dumps(error, indent=2).replace("\n", "\r\n"),
}


def begun(api: str) -> bytes:
    """An answer up to its last word."""
    blocks = Answer(["one", " two"]).blocks(api)
    last = next(n for n, block in enumerate(blocks) if b" two" in block)
    return b"".join(blocks[: last + 1])


@every("api", APIS)
@every("kind", ERRORS)
@every("form", FORMS)
@every("end", ["", "\n", "\n\n", "\n\ndata: {}\n\n"])
def test_it_is_the_reason(api: str, kind: str, form: str, end: str) -> None:
    """On every API, whatever its own errors look like, and however the bytes are cut."""
    error, expected = ERRORS[kind]
    body = begun(api) + (FORMS[form](error) + end).encode()
    for cut in (CUTTINGS["whole"], CUTTINGS["bytewise"]):
        _, session = replay(cut(body), api)
        assert type(session.error) is expected
        assert session.state.text == "one two"


@every("api", APIS)
def test_half_of_one_is_half_an_event(api: str) -> None:
    """So is other JSON, and an error that is quoted in another place."""
    text = json.dumps(ERRORS["openai"][0])
    for rest in (
        *(text[:at] for at in range(0, len(text), 9)),
        '{"note": 1}',
        '["error"]',
        "error",
    ):
        _, session = replay([begun(api) + rest.encode()], api)
        assert type(session.error) is StreamTruncated, rest
        assert session.state.text == "one two"


@every("api", ["responses", "messages", "chat"])
def test_after_the_end_it_is_none(api: str) -> None:
    """Where an event is the end."""
    body = b"".join(Answer("one").blocks(api)) + json.dumps(ERRORS["openai"][0]).encode()
    _, session = replay([body], api)
    assert (session.complete, session.error) == (True, None)


@every("api", APIS)
def test_it_decides_about_retries(api: str) -> None:
    """Before the first content: a refused key is asked for once."""
    error = json.dumps(ERRORS["google"][0]).encode()
    start = b": hello\n\n" + error
    transport = FakeTransport(*[Reply([start])] * 3)
    policy = RetryPolicy(max_attempts=3, base=0.0, cap=0.0, jitter=0.0)
    client = Client(api, transport=transport, model="m", api_key="k", retry=policy)
    with pytest.raises(AuthenticationError):
        client.stream("Hi").result()
    assert len(transport.requests) == 1
