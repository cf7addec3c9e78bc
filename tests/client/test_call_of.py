"""`Stream.call_of`, `.model`, `.ended` and `.may_restart`: what a reader of chunks may ask."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from corpus import block

from llmstream import Client, Restarted, Retried, Stream
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, Reply

APIS = ["responses", "messages", "chat", "gemini"]
CALLS = [("weather", '{"city":"Rome"}', "a"), ("time", '{"zone":"CET"}', "b")]


def stream_of(api: str, *replies: Any, **settings: Any) -> Stream:
    transport = FakeTransport(*replies)
    client = Client(
        api, base_url="http://test", model="m", transport=transport, clock=FakeClock(), **settings
    )
    return client.stream("Hi")


@pytest.mark.parametrize("together", [False, True], ids=["apart", "in one read"])
@pytest.mark.parametrize("api", APIS)
def test_each_piece_has_its_call(api: str, together: bool) -> None:
    """By chunks, with its id and its name; the same object's equal for all pieces of a call."""
    blocks = Answer("Hm", tool_calls=CALLS).blocks(api)
    stream = stream_of(api, Reply([b"".join(blocks)] if together else blocks))
    pieces: dict[Any, str] = defaultdict(str)
    for chunk in stream.chunks():
        if chunk.type == "tool_call":
            call = stream.call_of(chunk)
            assert call is not None
            assert not call.custom
            pieces[call] += chunk.text
    assert len(pieces) == 2
    assert {(call.id, call.name): text for call, text in pieces.items()} == {
        (id, name): text for name, text, id in CALLS
    }


def test_the_calls_of_a_restarted_answer_are_others() -> None:
    """After a restart the pieces of the first attempt are not counted."""
    blocks = Answer(tool_calls=CALLS).blocks("chat")
    stream = stream_of(
        "chat", Reply([*blocks[:5], Cut()]), Answer(tool_calls=CALLS), on_disconnect="restart"
    )
    texts: dict[str | None, str] = defaultdict(str)
    for chunk in stream.chunks():
        if chunk.type == "restart":
            texts.clear()
        elif chunk.type == "tool_call":
            call = stream.call_of(chunk)
            assert call is not None
            texts[call.id] += chunk.text
    assert texts == {id: text for _, text, id in CALLS}


def test_a_piece_of_no_known_call_has_none() -> None:
    """Of another answer than the one that is read (n=2)."""
    function = {"name": "f", "arguments": "{}"}
    call = {"index": 0, "id": "x", "function": function}
    chunks = [
        block({"id": "c", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]})
        for index, delta, finish in (
            (0, {"content": "this"}, None),
            (1, {"tool_calls": [call]}, None),
            (0, {}, "stop"),
            (1, {}, "tool_calls"),
        )
    ]
    transport = FakeTransport(Reply([*chunks, b"data: [DONE]\n\n"]))
    client = Client("chat", base_url="http://test", model="m", transport=transport)
    stream = client.stream("Hi", extra_body={"n": 2})
    found = [stream.call_of(chunk) for chunk in stream.chunks() if chunk.type == "tool_call"]
    assert found == [None]


@pytest.mark.parametrize("api", APIS)
def test_what_may_be_known_before_and_after(api: str) -> None:
    stream = stream_of(api, Answer("Hi"))
    assert (stream.model, stream.ended, stream.may_restart) == ("m", False, False)
    stream.result()
    assert (stream.model, stream.ended) == ("test-model", True)
    assert stream_of(api, on_disconnect="restart").may_restart


def test_the_model_of_extra_body_is_the_one_that_is_asked_for() -> None:
    client = Client("chat", base_url="http://test", model="m", transport=FakeTransport())
    assert client.stream("Hi", extra_body={"model": "other"}).model == "other"


@pytest.mark.parametrize("api", APIS)
def test_a_retry_is_an_event_of_its_own(api: str) -> None:
    """Before its wait, and before the marker of what follows it."""
    blocks = Answer("one two").blocks(api)
    blocks = blocks[: next(at for at, one in enumerate(blocks) if b'"one"' in one) + 1]
    stream = stream_of(
        api, Reply.error(503), Reply([*blocks, Cut()]), Answer("Hi"), on_disconnect="restart"
    )
    marks = [e for e in stream.events(retries=True) if isinstance(e, (Retried, Restarted))]
    assert [(type(mark), mark.attempt) for mark in marks] == [
        (Retried, 2),
        (Retried, 3),
        (Restarted, 3),
    ]
    first = marks[0]
    assert isinstance(first, Retried)
    assert first.reason == "OverloadedError"
    assert first.delay > 0
    assert first.json() == {
        "type": "llmstream.retried",
        "attempt": 2,
        "reason": "OverloadedError",
        "delay": first.delay,
    }
    assert first.chunks == ()
    assert stream.text == "Hi"


def test_a_cancel_in_the_hand_of_the_reader_ends_the_wait() -> None:
    """The reader is told of a retry, and does not want it."""
    transport = FakeTransport(Reply.error(503, headers={"retry-after": "30"}), Answer("Hi"))
    clock = FakeClock()
    client = Client(base_url="http://test", transport=transport, clock=clock)
    stream = client.stream("Hi")
    for event in stream.events(retries=True):
        assert isinstance(event, Retried)
        stream.close()
        break
    assert stream.ended
    assert clock.slept == []
    assert len(transport.requests) == 1
