"""A call whose option the service refuses by name is made again without it: at once, once, at no
cost, and never after content has arrived."""

from __future__ import annotations

from typing import Any

import pytest

from llmstream import Client, InvalidRequestError, LLMStreamError, RetryPolicy
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, Reply

ANSWER = Answer("one two three")
ENTRY = {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}
DETAIL = Reply.json({"detail": [ENTRY]}, 422)
NO_PADDING = Reply.error(400, message="Unknown parameter: 'stream_options.include_obfuscation'.")


def make(api: str, *replies: Any, **settings: Any) -> tuple[Client, FakeTransport, FakeClock]:
    transport, clock = FakeTransport(*replies), FakeClock()
    given = {"base_url": "http://test", "model": "m", "retry": RetryPolicy(1), **settings}
    return Client(api, transport=transport, clock=clock, **given), transport, clock


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("refusal", [DETAIL, NO_PADDING], ids=["all", "a part"])
def test_asked_again_at_once(api: str, refusal: Reply) -> None:
    """Also where the policy allows no retry."""
    client, transport, clock = make(api, refusal, ANSWER)
    assert client.stream("Why?").result().text == "one two three"
    first, second = (request.json() for request in transport.requests)
    assert first.pop("stream_options")
    assert second == first
    assert clock.slept == []
    assert client._endpoint.budget.tokens == 500


def test_another_refusal_is_raised() -> None:
    client, transport, _ = make("chat", Reply.error(500, message="400: temperature is unknown"))
    with pytest.raises(InvalidRequestError):
        client.stream("Why?", temperature=0.5).result()
    assert len(transport.requests) == 1


def test_nothing_is_left_out_for_gemini() -> None:
    """The library adds nothing to its requests that an answer does not depend on."""
    words = "Invalid JSON payload received. Unknown name \"topP\" at 'generation_config'"
    client, transport, _ = make("gemini", *[Reply.error(400, message=words, api="gemini")] * 2)
    with pytest.raises(InvalidRequestError, match="topP"):
        client.stream("Why?", top_p=0.5, max_output_tokens=9).result()
    assert len(transport.requests) == 1


def test_two_names_that_are_both_refused() -> None:
    """The error is raised: no body is sent twice."""
    first, second = "max_tokens", "max_completion_tokens"
    refusals = [Reply.error(400, message=f"Unknown parameter: '{n}'") for n in (first, second)]
    client, transport, _ = make("chat", *refusals * 5)
    with pytest.raises(InvalidRequestError, match=second):
        client.stream("Why?", max_output_tokens=9).result()
    bodies = [request.json() for request in transport.requests]
    assert [(b.get(first), b.get(second)) for b in bodies] == [(9, None), (None, 9)]


def test_several_refusals_one_after_the_other() -> None:
    limit = Reply.error(400, message="Unsupported parameter: 'max_tokens' is not supported")
    client, transport, _ = make("chat", DETAIL, limit, ANSWER)
    assert client.stream("Why?", max_output_tokens=9).result().text == "one two three"
    assert "stream_options" not in transport.requests[2].json()
    assert transport.requests[2].json()["max_completion_tokens"] == 9


def test_what_was_refused_stays_out_of_the_retries() -> None:
    client, transport, _ = make("chat", DETAIL, Reply.error(503), ANSWER, retry=RetryPolicy(2))
    assert client.stream("Why?").result().text == "one two three"
    assert ["stream_options" in r.json() for r in transport.requests] == [True, False, False]


def test_not_after_content() -> None:
    """An error that names the option in mid-answer: asked again, the answer would come twice."""
    message = "Unknown parameter: 'stream_options'"
    failing = Answer("one two", error={"code": "invalid_request_error", "message": message})
    client, transport, _ = make("chat", failing, ANSWER)
    stream = client.stream("Why?")
    tokens: list[str] = []
    with pytest.raises(LLMStreamError):
        tokens.extend(stream)
    assert "".join(tokens) == "one two"
    assert len(transport.requests) == 1


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_continuation_is_asked_again_as_a_continuation(api: str) -> None:
    """It is the request that was refused, not the first one, that is made again."""
    cut = Reply([*ANSWER.blocks(api)[:-4], Cut()])
    client, transport, _ = make(
        api, cut, DETAIL, Answer(" four"), retry=RetryPolicy(4), on_disconnect="continue"
    )
    result = client.stream("Why?").result()
    assert result.text.endswith(" four")
    first, second, third = (request.json() for request in transport.requests)
    assert "answer_so_far" in str(second)
    assert second.pop("stream_options")
    assert third == second != first


@pytest.mark.parametrize("api", ["responses", "chat", "gemini"])
def test_the_place_of_a_validation_error(api: str) -> None:
    """In the message and in `param`, without what the request had there."""
    entry = {"loc": ["body", "messages", 0, "tool_call_id"], "msg": "Field required", "input": "s3"}
    client, _, _ = make(api, Reply.json({"detail": [entry]}, 422))
    with pytest.raises(InvalidRequestError) as caught:
        client.stream("Why?").result()
    assert caught.value.param == "body.messages.0.tool_call_id"
    assert "body.messages.0.tool_call_id: Field required" in str(caught.value)
    assert "s3" not in str(caught.value)
