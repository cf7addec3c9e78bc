"""After tokens have flowed: restart, continue, resume; and what ends them."""

from __future__ import annotations

import itertools
import json
import pickle
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from every import every
from hypothesis import given
from hypothesis import strategies as st
from support import eventually

from llmstream import (
    Cancelled,
    Client,
    ConfigurationError,
    ConnectionFailed,
    Continued,
    DeadlineExceeded,
    IdleTimeout,
    InvalidRequestError,
    LLMStreamError,
    LoopDetected,
    RateLimitError,
    Restarted,
    RetryPolicy,
    ServerError,
    StreamInterrupted,
    StreamTruncated,
    Timeouts,
)
from llmstream._call.budget import Budget
from llmstream._core.overlap import LONGEST, SHORTEST, OverlapTrimmer
from llmstream._core.phase import Phase
from llmstream._runtime.clock import SYSTEM_CLOCK
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pings,
    Recorded,
    Reply,
    Reset,
    Silence,
)
from llmstream.testing.answers import sse_block

APIS = ["responses", "messages", "chat", "gemini"]
TEXT = (
    "The sky is blue because the molecules of the air scatter the short waves of the sun's light "
    "far more than the long ones, which is named after Lord Rayleigh."
)
WHOLE = Answer(TEXT, usage=(10, 40))
BROKEN = [Cut(), Cut(last_chunk=True), Reset()]


def make(api: str, *replies: Any, **settings: Any) -> tuple[Client, FakeTransport, FakeClock]:
    transport, clock = FakeTransport(*replies), FakeClock()
    client = Client(
        api, base_url="http://test", model="m", transport=transport, clock=clock, **settings
    )
    return client, transport, clock


def prompt_of(request: Recorded) -> str:
    """The whole text of the last turn."""
    body = request.json()
    said = next(body[name] for name in ("input", "messages", "contents") if name in body)
    return said if isinstance(said, str) else text_of(said[-1])


def text_of(turn: Any) -> str:
    content = turn.get("content", turn.get("parts"))
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def quoted(request: Recorded) -> str:
    said = prompt_of(request)
    _, mark, rest = said.partition("<answer_so_far>\n")
    assert mark, said
    return rest.removesuffix("\n</answer_so_far>")


def going_on(overlap: int = 0) -> Callable[[Recorded], Answer]:
    """A model that goes on where it is told to, repeating the last `overlap` characters."""

    def answer(request: Recorded) -> Answer:
        if "<answer_so_far>" not in prompt_of(request):
            return WHOLE
        text = quoted(request)
        assert TEXT.startswith(text)
        repeated = text[-overlap:] if 0 < overlap <= len(text) else ""
        return Answer(repeated + TEXT[len(text) :], usage=(20, 7))

    return answer


def kept(request: Recorded) -> Reply:
    """The service's memory of WHOLE: its events from behind the cursor, or all of it as JSON."""
    blocks = WHOLE.blocks()
    if request.query.get("stream") != "true":
        final = json.loads(blocks[-1].partition(b"data: ")[2])["response"]
        return Reply(json.dumps(final).encode(), content_type="application/json")
    return Reply(blocks[int(request.query["starting_after"]) + 1 :])


def too_old(request: Recorded) -> Reply:
    return (
        Reply.error(400, message="the stream of this response is too old")
        if (request.query.get("stream") == "true")
        else kept(request)
    )


# ---- drop after every event --------------------------------------------------------------------


@pytest.mark.slow
@every("api", APIS)
@every("broken", BROKEN, ids=["cut", "clean", "reset"])
def test_restart_after_every_event(api: str, broken: Any) -> None:
    """The answer begins anew, and who was told to clear has the uninterrupted text."""
    blocks = WHOLE.blocks(api)
    for k in range(len(blocks)):
        client, transport, _ = make(
            api, Reply([*blocks[:k], broken]), Reply(WHOLE), on_disconnect="restart"
        )
        stream = client.stream("Why?")
        shown, seen = "", False
        for chunk in stream.chunks():
            if chunk.type == "restart":
                assert shown
                assert chunk.text == ""
                shown, seen = "", True
            shown += chunk.text
        result = stream.result()
        assert shown == stream.text == result.text == TEXT
        if len(transport.requests) == 1:  # chat: complete with its finish
            assert api == "chat"
            assert not seen
            continue
        first, last = result.attempts
        assert first.error is not None
        assert seen is bool(first.error.partial.text)
        assert TEXT.startswith(first.error.partial.text)
        assert last.usage is not None
        assert last.usage.output_tokens == 40
        assert [r.body for r in transport.requests] == [transport.requests[0].body] * 2


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("overlap", [0, 20, 33])
def test_continue_after_every_event(api: str, overlap: int) -> None:
    """The joined text is the uninterrupted one; what the model repeats is not said twice."""
    blocks = WHOLE.blocks(api)
    for k, broken in itertools.product(range(len(blocks)), BROKEN):
        client, transport, _ = make(
            api, Reply([*blocks[:k], broken]), going_on(overlap), on_disconnect="continue"
        )
        stream = client.stream("Why?", max_output_tokens=500)
        assert "".join(stream) == stream.text == stream.result().text == TEXT
        if len(transport.requests) > 1 and k > 6:
            (turn,) = stream.result().to_messages()
            assert text_of(turn) == TEXT


@pytest.mark.parametrize("api", APIS)
def test_continue_over_many_cuts(api: str) -> None:
    """Cut after every few tokens, again and again, it still comes to its end."""

    def two_words(request: Recorded) -> Reply:
        answer = WHOLE if "<answer_so_far>" not in prompt_of(request) else going_on()(request)
        blocks = answer.blocks(api)
        texts = [i for i, block in enumerate(blocks) if b" " in block.partition(b"data: ")[2]]
        return Reply([*blocks[: texts[6]], Cut()] if len(answer.text) > 60 else blocks)

    client, _, _ = make(api, *[two_words] * 12, on_disconnect="continue")
    stream = client.stream("Why?")
    events = list(stream.events())
    assert stream.text == TEXT
    marks = [event for event in events if isinstance(event, Continued)]
    assert [mark.attempt for mark in marks] == list(range(2, len(stream.attempts) + 1))
    assert marks[0].json() == {"type": "llmstream.continued", "attempt": 2}


@pytest.mark.parametrize("broken", BROKEN, ids=["cut", "clean", "reset"])
def test_resume_after_every_event(broken: Any) -> None:
    """Every event exactly once, identical text, one POST."""
    blocks = WHOLE.blocks()
    for k in range(1, len(blocks)):
        client, transport, _ = make(
            "responses", Reply([*blocks[:k], broken]), kept, on_disconnect="resume"
        )
        stream = client.stream("Why?", background=True)
        numbers = [event.sequence_number for event in stream.events()]
        assert numbers == list(range(len(blocks)))
        assert stream.result().text == TEXT
        post, get = transport.requests
        assert (post.method, get.method) == ("POST", "GET")
        assert get.path == f"/responses/resp_test?stream=true&starting_after={k - 1}"


def test_resume_filters_what_it_knows() -> None:
    """A service that sends more than was asked for is heard once."""
    blocks = WHOLE.blocks()
    client, _, _ = make(
        "responses", Reply([*blocks[:9], Cut()]), Reply(blocks), on_disconnect="resume"
    )
    stream = client.stream("Why?", background=True)
    assert "".join(stream) == TEXT


FOREIGN: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "no numbers": lambda blocks, k: [
        re.sub(rb',? *"sequence_number": *\d+', b"", b) for b in blocks
    ],
    "numbers from 0": lambda blocks, k: [
        re.sub(rb'"sequence_number": *\d+', b'"sequence_number":%d' % n, block)
        for n, block in enumerate(blocks[k:])
    ],
    "another response": lambda blocks, k: [b.replace(b"resp_test", b"resp_2") for b in blocks],
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=list(FOREIGN))
def test_a_foreign_stream_is_not_appended(foreign: Callable[..., list[bytes]]) -> None:
    """The answer is polled for: identical text, one POST."""
    blocks = WHOLE.blocks()
    for k in range(6, len(blocks) - 5, 5):

        def served(request: Recorded, k: int = k) -> Reply:
            if request.query.get("stream") == "true":
                return Reply(foreign(blocks, k))
            return kept(request)

        client, transport, _ = make(
            "responses", Reply([*blocks[:k], Cut()]), served, served, on_disconnect="resume"
        )
        assert "".join(client.stream("Why?", background=True)) == TEXT
        assert [r.method for r in transport.requests].count("POST") == 1


def test_a_keepalive_does_not_move_the_position() -> None:
    blocks = WHOLE.blocks()
    keepalive = b'event: keepalive\ndata: {"type":"keepalive","sequence_number":0}\n\n'
    client, transport, _ = make(
        "responses", Reply([*blocks[:9], keepalive, Cut()]), kept, on_disconnect="resume"
    )
    assert "".join(client.stream("Why?", background=True)) == TEXT
    assert transport.requests[1].query["starting_after"] == "8"


def test_resume_through_many_drops() -> None:
    """One event a connection."""
    answer = Answer("One two three", usage=(1, 2))
    blocks = answer.blocks()
    served = iter(range(len(blocks)))

    def one(request: Recorded) -> Reply:
        at = next(served)
        if request.method == "GET":
            assert request.query["starting_after"] == str(at - 1)
        return Reply([blocks[at], Cut()])

    client, transport, _ = make(
        "responses",
        *[one] * len(blocks),
        on_disconnect="resume",
        retry=RetryPolicy(max_attempts=9),
    )
    assert client.stream("Why?", background=True).result().text == "One two three"
    assert [r.method for r in transport.requests].count("POST") == 1


def test_too_old_is_polled() -> None:
    """Where the stream is not to be had any more, the missing end comes from the whole."""
    blocks = WHOLE.blocks()
    for k in range(1, len(blocks)):
        client, transport, _ = make(
            "responses", Reply([*blocks[:k], Cut()]), too_old, too_old, on_disconnect="resume"
        )
        stream = client.stream("Why?", background=True)
        assert "".join(stream) == TEXT
        assert stream.result().usage.output_tokens == 40
        assert [r.path for r in transport.requests[1:]] == [
            f"/responses/resp_test?stream=true&starting_after={k - 1}",
            "/responses/resp_test",
        ]
        assert len(stream.attempts) == 3


def unfinished(output: tuple[Any, ...] = ()) -> Reply:
    body = {"id": "resp_test", "object": "response", "status": "in_progress", "output": output}
    return Reply(json.dumps(body).encode(), content_type="application/json")


def test_polling_waits_for_the_end() -> None:
    blocks = WHOLE.blocks()
    client, transport, clock = make(
        "responses",
        Reply([*blocks[:9], Cut()]),
        Reply.error(404, message="too old"),
        *[unfinished()] * 5,
        kept,
        on_disconnect="resume",
    )
    assert "".join(client.stream("Why?", background=True)) == TEXT
    assert len(transport.requests) == 8
    assert clock.slept[-5:] == pytest.approx([0.5, 0.75, 1.125, 1.6875, 2.53125])


def test_every_poll_has_a_new_key() -> None:
    """A function that returns the key is asked for each: a token may expire meanwhile."""
    blocks = WHOLE.blocks()
    keys = itertools.count(1)
    client, transport, _ = make(
        "responses",
        Reply([*blocks[:9], Cut()]),
        Reply.error(404, message="too old"),
        *[unfinished()] * 3,
        kept,
        on_disconnect="resume",
        api_key=lambda: f"token-{next(keys)}",
    )
    assert client.stream("Why?", background=True).result().text == TEXT
    sent = [request.headers["authorization"] for request in transport.requests]
    assert sent == [f"Bearer token-{n}" for n in range(1, 7)]


def test_polling_is_bounded_by_the_idle_clock() -> None:
    """A response that never goes on ends in an IdleTimeout, with what had come."""
    blocks = WHOLE.blocks()
    client, _, clock = make(
        "responses",
        Reply([*blocks[:9], Cut()]),
        Reply.error(404, message="too old"),
        *[unfinished()] * 400,
        on_disconnect="resume",
        timeouts=Timeouts(idle=30),
        retry=RetryPolicy(max_attempts=2),
    )
    stream = client.stream("Why?", background=True)
    with pytest.raises(IdleTimeout) as caught:
        stream.result()
    assert caught.value.partial.text == stream.text != ""
    assert clock.monotonic() - 1000 < 120


@pytest.mark.parametrize("end", [Silence(), Pings(5.0)], ids=["silence", "pings"])
def test_a_resumed_stream_that_hangs(end: Any) -> None:
    """The idle clock holds for it, though no content of its own has come."""
    blocks = WHOLE.blocks()
    client, _, clock = make(
        "responses",
        Reply([*blocks[:9], Cut()]),
        Reply([end]),
        on_disconnect="resume",
        timeouts=Timeouts(idle=20, first_token=1000, silence=None),
        retry=RetryPolicy(max_attempts=1),
    )
    with pytest.raises(IdleTimeout):
        client.stream("Why?", background=True).result()
    assert 20 <= clock.monotonic() - 1000 < 30


def test_a_failed_response_is_not_resumed() -> None:
    failed = Answer("Some words here", error={"code": "server_error", "message": "sorry"})
    blocks = failed.blocks()
    ends = b'data: {"type":"response.failed","response":{"id":"resp_test","status":"failed"}}\n\n'
    client, transport, _ = make("responses", Reply([*blocks, ends]), on_disconnect="resume")
    with pytest.raises(ServerError):
        client.stream("Why?", background=True).result()
    assert len(transport.requests) == 1


def test_a_response_that_failed_meanwhile() -> None:
    """Polling finds out once, and says what the service says."""
    body = {
        "id": "resp_test",
        "object": "response",
        "status": "failed",
        "error": {"code": "server_error", "message": "sorry"},
        "output": [],
    }
    client, transport, _ = make(
        "responses",
        Reply([*WHOLE.blocks()[:9], Cut()]),
        Reply.error(400, message="too old"),
        Reply(json.dumps(body).encode(), content_type="application/json"),
        on_disconnect="resume",
    )
    with pytest.raises(ServerError, match="sorry") as caught:
        client.stream("Why?", background=True).result()
    assert len(transport.requests) == 3
    assert caught.value.partial.text


def test_a_resume_that_is_refused_for_good() -> None:
    """Neither the stream nor the response: the service's own words, and what had come."""
    client, _, _ = make(
        "responses",
        Reply([*WHOLE.blocks()[:9], Cut()]),
        Reply.error(404, message="gone"),
        Reply.error(404, message="gone for good"),
        on_disconnect="resume",
    )
    with pytest.raises(InvalidRequestError, match="gone for good") as caught:
        client.stream("Why?", background=True).result()
    assert caught.value.partial.text


def test_before_the_id_is_known_it_is_asked_again() -> None:
    client, transport, _ = make("responses", Reply([Cut()]), Reply(WHOLE), on_disconnect="resume")
    assert client.stream("Why?", background=True).result().text == TEXT
    assert [r.method for r in transport.requests] == ["POST", "POST"]


# ---- where a policy cannot work ----------------------------------------------------------------

CANNOT = {
    "resume without background": ("responses", "resume", {}, "background=True"),
    "resume on messages": ("messages", "resume", {}, "Responses API"),
    "resume on chat": ("chat", "resume", {}, "Responses API"),
    "resume on gemini": ("gemini", "resume", {}, "Responses API"),
    "in the background on gemini": ("gemini", "raise", {"background": True}, "no background"),
    "continue on gemini with tools": (
        "gemini",
        "continue",
        {"tools": [{"googleSearch": {}}]},
        "tools",
    ),
    "continue on gemini with tools of one's own": (
        "gemini",
        "continue",
        {"extra_body": {"tools": [{"codeExecution": {}}]}},
        "tools",
    ),
    "continue on gemini with a schema": (
        "gemini",
        "continue",
        {"extra_body": {"generationConfig": {"responseMimeType": "application/json"}}},
        "schema",
    ),
    "continue on gemini with several choices": (
        "gemini",
        "continue",
        {"extra_body": {"generationConfig": {"candidateCount": 2}}},
        "several",
    ),
    "continue on gemini with its own prompt": (
        "gemini",
        "continue",
        {"extra_body": {"contents": []}},
        "extra_body",
    ),
    "continue with tools": ("chat", "continue", {"tools": [{"name": "f"}]}, "tools"),
    "continue with tools in extra_body": (
        "responses",
        "continue",
        {"extra_body": {"tools": [{"type": "web_search"}]}},
        "tools",
    ),
    "continue with a schema": (
        "responses",
        "continue",
        {"extra_body": {"text": {"format": {"type": "json_schema"}}}},
        "schema",
    ),
    "continue with a response format": (
        "chat",
        "continue",
        {"extra_body": {"response_format": {"type": "json_object"}}},
        "schema",
    ),
    "continue with several choices": ("chat", "continue", {"extra_body": {"n": 2}}, "several"),
    "continue in the background": ("responses", "continue", {"background": True}, "resume"),
    "continue with its own prompt": (
        "chat",
        "continue",
        {"extra_body": {"messages": []}},
        "extra_body",
    ),
}


@every("name", CANNOT)
def test_where_a_policy_cannot_work(name: str) -> None:
    """A ConfigurationError that says why, before anything is sent."""
    api, policy, options, why = CANNOT[name]
    client, transport, _ = make(api, on_disconnect=policy)
    with pytest.raises(ConfigurationError, match=why):
        client.stream("Why?", **options)
    assert not transport.requests


@pytest.mark.parametrize("api", APIS)
def test_text_cannot_tell_of_a_restart(api: str) -> None:
    client, transport, _ = make(api, WHOLE, on_disconnect="restart")
    with pytest.raises(ConfigurationError, match=r"chunks\(\)"):
        iter(client.stream("Why?"))
    stream = client.stream("Why?")
    with pytest.raises(ConfigurationError, match=r"chunks\(\)"):
        next(stream)
    assert not transport.requests
    assert stream.result().text == TEXT


@pytest.mark.parametrize("api", APIS)
def test_a_format_of_text_can_be_continued(api: str) -> None:
    client, _, _ = make(api, WHOLE, on_disconnect="continue")
    plain: Any = {"response_format": {"type": "text"}, "text": {"format": {"type": "text"}}}
    if api == "gemini":
        plain = {"generationConfig": {"responseMimeType": "text/plain"}}
    assert client.stream("Why?", extra_body=plain).result().text == TEXT


@every("api", APIS)
@every(
    "answer",
    [
        Answer(thinking="Let me think about this", text=""),
        Answer("Calling", tool_calls=[("look", '{"a": 1}')]),
    ],
    ids=["thinking only", "a tool call"],
)
def test_what_cannot_be_continued_is_raised(api: str, answer: Answer) -> None:
    blocks = answer.blocks(api)
    deltas = [i for i, block in enumerate(blocks) if b"delta" in block and b"[DONE]" not in block]
    at = max(deltas, default=len(blocks))  # in Gemini nothing has a name, and a call is whole
    at = at if api != "messages" else at - 1
    pieces = blocks[: max(at - 1, 4) if deltas else -1]
    client, transport, _ = make(api, Reply([*pieces, Cut()]), on_disconnect="continue")
    with pytest.raises(StreamInterrupted) as caught:
        client.stream("Why?").result()
    assert len(transport.requests) == 1
    assert caught.value.partial.thinking or caught.value.partial.text


# ---- the request that continues ----------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_the_request_that_continues(api: str) -> None:
    """A user turn with the prompt and what had come, fewer tokens, and no second thinking."""
    blocks = WHOLE.blocks(api)
    client, transport, _ = make(
        api, Reply([*blocks[:12], Cut()]), going_on(), on_disconnect="continue"
    )
    thinking = {"thinking": "low"} if api != "chat" else {}
    client.stream("Why?", max_output_tokens=100, instructions="Be brief", **thinking).result()
    first, second = (r.json() for r in transport.requests)
    turns = second[{"responses": "input", "gemini": "contents"}.get(api, "messages")]
    assert turns[-1]["role"] == "user"
    assert text_of(turns[-1]).startswith("Why?")
    assert quoted(transport.requests[1])
    assert [t["role"] for t in turns] == (["system", "user"] if api == "chat" else ["user"])
    names = {"responses": "max_output_tokens", "gemini": "maxOutputTokens"}
    name = names.get(api, "max_tokens")
    before, after = (body.get("generationConfig", body) for body in (first, second))
    assert before[name] == 100
    assert 16 <= after[name] < 100
    assert not {"reasoning", "thinking", "output_config", "thinkingConfig"} & after.keys()
    assert second.get("model") == first.get("model")
    assert transport.requests[1].path == transport.requests[0].path


def test_a_signature_is_no_reason_against_continuing() -> None:
    """Gemini sends one with an empty text, or alone in a part."""
    blocks = WHOLE.blocks("gemini")
    for part in ({"text": "", "thoughtSignature": "c2ln"}, {"thoughtSignature": "c2ln"}):
        signed = sse_block(None, {"candidates": [{"content": {"parts": [part], "role": "model"}}]})
        client, transport, _ = make(
            "gemini", Reply([*blocks[:12], signed, Cut()]), going_on(), on_disconnect="continue"
        )
        result = client.stream("Why?").result()
        assert result.text == TEXT
        assert text_of(result.to_messages()[0]) == TEXT
        assert len(transport.requests) == 2


@every("group", ["generationConfig", "generation_config"])
@every("name", ["maxOutputTokens", "max_output_tokens"])
def test_a_limit_in_extra_body_is_lowered(group: str, name: str) -> None:
    """In each of the spellings that Gemini takes; the caller's own objects stay as they are."""
    blocks = WHOLE.blocks("gemini")
    client, transport, _ = make(
        "gemini", Reply([*blocks[:12], Cut()]), going_on(), on_disconnect="continue"
    )
    given = {group: {name: 100, "topK": 3}}
    client.stream("Why?", extra_body=given).result()
    first, second = (request.json()["generationConfig"] for request in transport.requests)
    assert first == given[group] == {name: 100, "topK": 3}
    assert 16 <= second[name] < 100
    assert second["topK"] == 3


def test_an_answer_that_used_its_tokens_has_a_few_left() -> None:
    blocks = WHOLE.blocks()
    client, transport, _ = make(
        "responses", Reply([*blocks[:-6], Cut()]), going_on(), on_disconnect="continue"
    )
    client.stream("Why?", max_output_tokens=20).result()
    assert transport.requests[1].json()["max_output_tokens"] == 16


# ---- counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["restart", "continue"])
def test_progress_counts_anew_but_not_for_ever(policy: str) -> None:
    """A call that goes on for a little each time ends after 3 x max_attempts."""
    cut = Reply([*WHOLE.blocks("chat")[:5], Cut()])
    client, transport, _ = make(
        "chat", *[cut] * 50, on_disconnect=policy, retry=RetryPolicy(max_attempts=3)
    )
    stream = client.stream("Why?")
    with pytest.raises(StreamInterrupted) as caught:
        stream.result()
    assert len(transport.requests) == 9 == len(caught.value.attempts)
    assert caught.value.partial.text


@pytest.mark.parametrize("policy", ["restart", "continue"])
def test_without_progress_the_attempts_run_out(policy: str) -> None:
    """What had come before stays readable, though the new attempts brought nothing."""
    client, transport, _ = make(
        "chat",
        Reply([*WHOLE.blocks("chat")[:5], Cut()]),
        *[Reply.error(503)] * 9,
        on_disconnect=policy,
        retry=RetryPolicy(max_attempts=3),
    )
    with pytest.raises(LLMStreamError) as caught:
        client.stream("Why?").result()
    assert len(transport.requests) == 4
    assert caught.value.partial.text == "The sky is blue"[: len(caught.value.partial.text)] != ""


def test_the_total_clock_covers_it_all() -> None:
    slow = Reply([*WHOLE.blocks("chat")[:5], Silence()])
    client, _, clock = make(
        "chat", *[slow] * 9, on_disconnect="restart", timeouts=Timeouts(idle=10, total=25)
    )
    with pytest.raises(DeadlineExceeded):
        client.stream("Why?").result()
    assert clock.monotonic() == pytest.approx(1025)


def test_an_idle_timeout_restarts() -> None:
    client, _, _ = make(
        "messages",
        Reply([*WHOLE.blocks("messages")[:5], Pings(1.0)]),
        WHOLE,
        on_disconnect="restart",
        timeouts=Timeouts(idle=10),
    )
    stream = client.stream("Why?")
    events = list(stream.events())
    (mark,) = (event for event in events if isinstance(event, Restarted))
    assert mark.attempt == 2
    assert isinstance(stream.attempts[0].error, IdleTimeout)
    assert stream.text == TEXT


@pytest.mark.parametrize("api", APIS)
def test_what_is_not_retryable_is_not_restarted(api: str) -> None:
    failing = Answer("Some words", error={"code": "insufficient_quota", "type": "billing_error"})
    client, transport, _ = make(api, failing, on_disconnect="restart")
    with pytest.raises(LLMStreamError):
        client.stream("Why?").result()
    assert len(transport.requests) == 1


def test_usage_of_abandoned_attempts_stays_visible() -> None:
    blocks = WHOLE.blocks("messages")
    client, _, _ = make("messages", Reply([*blocks[:6], Cut()]), WHOLE, on_disconnect="restart")
    result = client.stream("Why?").result()
    assert [a.usage.input_tokens for a in result.attempts if a.usage] == [10, 10]
    assert result.usage.output_tokens == 40
    assert pickle.loads(pickle.dumps(result)).attempts[0].error.partial.text


# ---- cancelling what runs in the background ------------------------------------------------------


def background(*, steps: int = 9) -> Reply:
    return Reply([*WHOLE.blocks()[:steps], Silence()])


def test_a_cancel_reaches_the_service(llm_server: LLMServer) -> None:
    """The reader's thread says so on its way out; `cancel()` itself does not wait."""
    llm_server.script(background(), Reply(b"{}", content_type="application/json"))
    with Client(base_url=llm_server.base_url) as client:
        stream = client.stream("Why?", background=True)
        it = iter(stream)
        next(it)
        reader = threading.Thread(target=lambda: [None for _ in _until_error(it)])
        reader.start()
        stream.cancel("enough")
        reader.join(10)
        with pytest.raises(Cancelled):
            stream.result()
        assert [r.path for r in llm_server.wait_requests(2)] == [
            "/v1/responses",
            "/v1/responses/resp_test/cancel",
        ]
        assert llm_server.requests[1].method == "POST"


def _until_error(it: Any) -> Any:
    try:
        yield from it
    except LLMStreamError:
        return


def test_leaving_early_cancels_too(llm_server: LLMServer) -> None:
    llm_server.script(background(), Reply(b"{}", content_type="application/json"))
    with (
        Client(base_url=llm_server.base_url) as client,
        client.stream("Why?", background=True) as stream,
    ):
        for _ in stream:
            break
    assert llm_server.wait_requests(2)[1].path.endswith("/cancel")


def test_no_cancel_for_what_is_over_or_not_in_the_background() -> None:
    client, transport, _ = make("responses", WHOLE, background(steps=6))
    client.stream("Why?", background=True).result()
    stream = client.stream("Why?")
    next(stream)
    stream.close()
    assert [r.method for r in transport.requests] == ["POST", "POST"]


def test_a_service_that_does_not_answer_the_cancel(llm_server: LLMServer) -> None:
    """Cancelled all the same, within the bound of 5 s."""
    clock = FakeClock()
    transport = FakeTransport(background(), Reply(before=Silence()))
    client = Client(base_url="http://test", transport=transport, clock=clock)
    stream = client.stream("Why?", background=True)
    next(stream)
    before = clock.monotonic()
    stream.cancel()
    with pytest.raises(Cancelled):
        next(stream)
    assert clock.monotonic() - before <= 5.0
    assert len(transport.requests) == 2


def test_what_a_restart_leaves_behind_is_cancelled() -> None:
    client, transport, _ = make(
        "responses",
        Reply([*WHOLE.blocks()[:9], Cut()]),
        Reply(b"{}", content_type="application/json"),
        WHOLE,
        on_disconnect="restart",
    )
    assert client.stream("Why?", background=True).result().text == TEXT
    assert [r.path for r in transport.requests] == [
        "/responses",
        "/responses/resp_test/cancel",
        "/responses",
    ]


# ---- the overlap ---------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    before=st.text("ab ", max_size=60),
    overlap=st.integers(0, 60),
    rest=st.text("ab ", max_size=60),
    cuts=st.lists(st.integers(1, 9), min_size=40, max_size=40),
)
def test_the_joint(before: str, overlap: int, rest: str, cuts: list[int]) -> None:
    """In any pieces: exactly the longest overlap of 20 to 400 characters is gone."""
    new = (before[-overlap:] if overlap else "") + rest
    found = next(
        (k for k in range(min(LONGEST, len(new)), SHORTEST - 1, -1) if before.endswith(new[:k])),
        0,
    )
    overlap, said, at = OverlapTrimmer(before), "", 0
    for size in cuts:
        said += overlap.feed(new[at : at + size])
        at += size
    said += overlap.feed(new[at:])
    assert said + overlap.close() == new[found:]


def test_the_joint_holds_back_no_longer_than_needed() -> None:
    overlap = OverlapTrimmer("x" * 10 + "The end of what came before")
    assert overlap.feed("Q") == "Q"
    assert not overlap.open


@pytest.mark.parametrize("length", [SHORTEST - 1, SHORTEST, LONGEST, LONGEST + 1])
def test_the_joints_limits(length: int) -> None:
    words = "".join(chr(0x4E00 + i) for i in range(500))
    overlap = OverlapTrimmer(words)
    said = overlap.feed(words[-length:] + "!") + overlap.close()
    assert said == ("!" if SHORTEST <= length <= LONGEST else words[-length:] + "!")


# ---- the loop scope ------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_a_model_in_a_loop(api: str) -> None:
    """Off by default; on, it ends the stream once the limit is reached, with what came."""
    looping = Answer(["Once. ", *["again "] * 50])
    client, _, _ = make(api, looping, max_identical_chunks=10)
    with pytest.raises(LoopDetected, match="10 times") as caught:
        client.stream("Why?").result()
    assert caught.value.partial.text == "Once. " + "again " * 10
    client, _, _ = make(api, looping)
    assert client.stream("Why?").result().text.count("again") == 50


def test_the_limit_has_to_be_a_number() -> None:
    with pytest.raises(ConfigurationError, match="max_identical_chunks"):
        make("chat", max_identical_chunks=0)


# ---- the budget, and the wait that all share ---------------------------------------------------


def test_the_budget_runs_out_and_success_fills_it() -> None:
    """100 retries without a success, then none; a success gives one back."""
    client, transport, _ = make("chat", *[Reply.error(500)] * 1000, retry=RetryPolicy(2))
    for _ in range(100):
        with pytest.raises(ServerError):
            client.stream("Why?").result()
    assert len(transport.requests) == 200
    with pytest.raises(ServerError, match="retry budget") as caught:
        client.stream("Why?").result()
    assert len(caught.value.attempts) == 1


@pytest.mark.slow
def test_a_success_after_a_retry_gives_back_what_it_cost() -> None:
    client, _, _ = make("chat", *[Reply.error(500), WHOLE] * 300, retry=RetryPolicy(2))
    for _ in range(300):
        assert client.stream("Why?").result().text == TEXT
    assert client._endpoint.budget.tokens == 500


def test_clients_of_one_host_and_key_share() -> None:
    def budget(url: str, key: str) -> Any:
        return Client(base_url=url, api_key=key)._endpoint.budget

    here, key = "http://127.0.0.1:9", "sk-one"
    one = Client(base_url=here, api_key=key)
    assert budget(here + "/v1", key) is one._endpoint.budget
    assert budget(here, "sk-two") is not one._endpoint.budget
    assert budget("http://127.0.0.1:8", key) is not one._endpoint.budget
    assert key not in repr(vars(one._endpoint.budget))


class Ahead:
    """The system's clock, and what a test lets pass by it."""

    passed = 0.0

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic() + self.passed

    def time(self) -> float:
        return SYSTEM_CLOCK.time() + self.passed

    def wait(self, bell: Any, seconds: float | None) -> None:
        SYSTEM_CLOCK.wait(bell, 0.01 if seconds is None else min(0.01, seconds))


def test_a_429_holds_all_of_the_host(llm_server: LLMServer) -> None:
    """One is told to wait; others, of another client too, do not ask before that."""
    clock = Ahead()
    llm_server.default = Answer("Hello")
    llm_server.script(Reply.error(429, headers={"retry-after": "50"}))
    with Client(base_url=llm_server.base_url) as one, Client(base_url=llm_server.base_url) as two:
        for client in (one, two):  # clients that are given a clock share no wait
            client._factory._clock = clock
        threads = [threading.Thread(target=one.stream("Why?").result)]
        threads[0].start()
        budget = one._endpoint.budget
        eventually(lambda: budget.throttled(clock.monotonic())[0], "the host is held")
        streams = [two.stream("Why?") for _ in range(20)]
        threads += [threading.Thread(target=stream.result) for stream in streams]
        for thread in threads[1:]:
            thread.start()
        held = [stream._call.ctx.scope for stream in streams]
        eventually(lambda: all(one.phase is Phase.THROTTLED for one in held), "all wait")
        clock.passed += 30.0
        assert len(llm_server.requests) == 1
        clock.passed += 45.0  # the rest, and the jitter
        for thread in threads:
            thread.join(30)
        assert all(stream.text == "Hello" for stream in streams)
        assert all(stream.attempts[0].throttled_ms >= 49_000 for stream in streams)
    assert len(llm_server.requests) == 22


LIMIT = {"retry-after": "20"}
WHOLE_KEY = "This request would exceed your organization's rate limit of 5 requests per minute"


@pytest.mark.parametrize("api", APIS)
def test_a_429_holds_its_model(api: str) -> None:
    """A call of another model does not wait, one of the same model does, also where the name is in
    `extra_body`."""
    refused = Reply.error(429, headers=LIMIT)
    client, _, clock = make(api, refused, WHOLE, WHOLE, WHOLE, retry=RetryPolicy(1, jitter=0.0))
    begun = clock.monotonic()
    with pytest.raises(RateLimitError):
        client.stream("Why?").result()
    assert client.stream("Why?", model="other").result().text == TEXT
    assert clock.monotonic() - begun < 1
    held = client.stream("Why?", model="other", extra_body={"model": "m"})
    assert held.result().text == TEXT
    assert held.attempts[0].throttled_ms == pytest.approx(20_000, abs=100)
    assert client.stream("Why?").result().attempts[0].throttled_ms == 0.0


@pytest.mark.parametrize("api", APIS)
def test_a_limit_of_the_whole_key_holds_every_model(api: str) -> None:
    """Where the service says that the limit is the organization's."""
    refused = Reply.error(429, headers=LIMIT, message=WHOLE_KEY)
    client, _, clock = make(api, refused, WHOLE, retry=RetryPolicy(1, jitter=0.0))
    with pytest.raises(RateLimitError):
        client.stream("Why?").result()
    with pytest.raises(RateLimitError, match="this host and key to wait 20 s"):
        client.stream("Why?", model="other", timeouts=Timeouts(total=5)).result()
    held = client.stream("Why?", model="other").result()
    assert held.attempts[0].throttled_ms == pytest.approx(20_000, abs=100)
    assert clock.monotonic() >= 1020


def test_a_limit_inside_the_stream_holds_its_model() -> None:
    """An error event that asks for a wait counts as a 429 does."""
    words = "Rate limit reached for m. Please try again in 6.5s."
    refused = Answer(error={"code": "rate_limit_exceeded", "message": words})
    client, _, clock = make("chat", refused, WHOLE, WHOLE, retry=RetryPolicy(1, jitter=0.0))
    begun = clock.monotonic()
    with pytest.raises(RateLimitError):
        client.stream("Why?").result()
    assert client.stream("Why?", model="other").result().attempts[0].throttled_ms == 0.0
    assert client.stream("Why?").result().text == TEXT
    assert clock.monotonic() - begun == pytest.approx(6.5, abs=0.1)


def test_holds_that_are_over_are_forgotten() -> None:
    """A client of many models keeps no more than those that still hold."""
    budget = Budget()
    for number in range(1000):
        budget.throttle(RateLimitError("no", retry_after=5.0), float(number), f"m{number}")
    assert len(budget._holds) <= 6
    assert budget.throttled(999.0, "m999") == (5.0, 5.0)
    assert budget.throttled(999.0, "m990") == (0.0, 0.0)
    assert budget.throttled(999.0) == (5.0, 5.0)
    budget.throttle(RateLimitError("no", retry_after=1.0), 999.0, "m999")
    assert budget.throttled(999.0, "m999") == (5.0, 5.0)  # a shorter wait ends no longer one
    budget.throttle(RateLimitError("no", retry_after=9.0), 999.0)
    assert budget.throttled(999.0, "m999") == budget.throttled(999.0, "new") == (9.0, 9.0)


@pytest.mark.slow
def test_a_herd_meets_one_limit(llm_server: LLMServer) -> None:
    """100 threads and a 429 with 2 s: none before, arrivals spread, few requests too many."""
    opens: list[float] = []
    lock = threading.Lock()

    def limited(request: Recorded) -> Reply | Answer:
        with lock:
            opens.append(request.received_at)
        if request.received_at < opens[0] + 1.99:
            return Reply.error(429, headers={"retry-after": "2"})
        return Answer("Hello")

    llm_server.default = limited
    with Client(base_url=llm_server.base_url, retry=RetryPolicy(jitter=0.25)) as client:
        streams = [client.stream("Why?") for _ in range(100)]
        threads = [threading.Thread(target=stream.result) for stream in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert all(stream.text == "Hello" for stream in streams)
    waited = [at - opens[0] for at in opens if at - opens[0] > 1.5]
    assert min(waited) >= 1.99
    refused = len(opens) - 100
    assert refused <= 100
    assert max(waited) - min(waited) > 0.2  # spread by the jitter


def test_a_hold_past_the_deadline_is_refused_at_once() -> None:
    client, transport, clock = make(
        "chat", Reply.error(429, headers={"retry-after": "20"}), WHOLE, retry=RetryPolicy(1)
    )
    with pytest.raises(RateLimitError):
        client.stream("Why?").result()
    with pytest.raises(RateLimitError, match="nothing was sent") as caught:
        client.stream("Why?", timeouts=Timeouts(total=5)).result()
    assert len(transport.requests) == 1
    assert caught.value.attempts == ()
    assert client.stream("Why?").result().text == TEXT
    assert clock.monotonic() >= 1020


def test_a_long_wait_holds_nobody_else() -> None:
    """Above max_retry_after the error is raised at once; the next call asks for itself."""
    client, _, clock = make("chat", Reply.error(429, headers={"retry-after": "600"}), WHOLE)
    with pytest.raises(RateLimitError):
        client.stream("Why?").result()
    assert client.stream("Why?").result().text == TEXT
    assert clock.monotonic() < 1001


def test_a_cancel_ends_the_hold() -> None:
    client, transport, clock = make(
        "chat", Reply.error(429, headers={"retry-after": "20"}), retry=RetryPolicy(1)
    )
    with pytest.raises(RateLimitError):
        client.stream("Why?").result()
    stream = client.stream("Why?")
    wait = clock.wait

    def cancelling(bell: Any, seconds: float | None) -> None:
        stream.cancel("no")
        wait(bell, 0.0)

    clock.wait = cancelling  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        stream.result()
    assert len(transport.requests) == 1
    assert clock.monotonic() < 1001


@pytest.mark.parametrize("policy", ["raise", "restart", "continue"])
def test_connections_that_never_come(policy: str) -> None:
    """No content, no policy: the ordinary retries."""
    client, transport, _ = make("chat", *[Reply(before=Cut())] * 4, on_disconnect=policy)
    with pytest.raises(ConnectionFailed):
        client.stream("Why?").result()
    assert len(transport.requests) == 4


def test_truncated_is_truncated_by_default() -> None:
    client, _, _ = make("responses", Reply(WHOLE.blocks()[:9]))
    with pytest.raises(StreamTruncated):
        client.stream("Why?").result()
