"""Keepalives that are sent as data: signs of life on every API, at every place, nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every

from llmstream._core.dialects import APIS
from llmstream._core.dialects.base import Activity
from llmstream._core.liveness import SeenEvents, is_ping
from llmstream._core.session import Session
from llmstream.events import UnknownEvent
from llmstream.result import ProtocolError
from llmstream.testing import Answer

# What is not an event of the answer. None is JSON.
LIFE = {
    "a comment in the data": b"data: : keepalive\n\n",
    "OpenRouter's": b"data: : OPENROUTER PROCESSING\n\n",
    "without a blank": b"data::keepalive\n\n",
    "more blanks": b"data:   :   ping - 2026-01-02 03:04:05\n\n",
    "a date": b"event: ping\ndata: 2026-01-02 03:04:05.6\n\n",
    "a word": b"event: heartbeat\ndata: ok\n\n",
    "a capital letter": b"event: Keep-Alive\ndata: still here\n\n",
    "an underscore": b"event: keep_alive\ndata: x\n\n",
    "one word": b"event: keepalive\ndata: -\n\n",
    "half an object": b'event: ping\ndata: {"type": "pi\n\n',
    "two lines": b"event: ping\ndata: a\ndata: b\n\n",
    "the word alone": b"data: ping\n\n",
    "in brackets": b"data: [HEARTBEAT]\n\n",
    "empty data": b"data: \n\n",
    "empty data without a blank": b"data:\n\n",
    "an empty ping": b"event: ping\ndata:\n\n",
    "an end marker": b"event: ping\ndata: [DONE]\n\n",
    "no data": b"event: ping\n\n",
    "a comment": b": ping\n\n",
}
# Events that are JSON: they stay events.
EVENTS = {
    "a JSON ping": b'event: ping\ndata: {"type": "ping"}\n\n',
    "an empty object": b"event: heartbeat\ndata: {}\n\n",
    "a string": b'data: "keepalive"\n\n',
    "a number": b"event: heartbeat\ndata: 17\n\n",
}
APIS_TOO = pytest.mark.parametrize("api", APIS)


def played(api: str, blocks: list[bytes]) -> tuple[Session, list[object], int]:
    """The session, its events, and the number of signs of life."""
    session = Session(APIS[api].load())
    lives: list[None] = []
    session.on_sign_of_life = lambda: lives.append(None)
    events = [event for block in blocks for event in session.receive(block)]
    session.receive_eof()
    return session, events, len(lives)


@APIS_TOO
@pytest.mark.parametrize("life", LIFE.values(), ids=LIFE.keys())
def test_it_is_a_sign_of_life_everywhere(api: str, life: bytes) -> None:
    """At each place of an answer: the same answer, the same events, and one sign more."""
    blocks = Answer("Hi there", tool_calls=[("f", "{}")]).blocks(api)
    plain, expected, before = played(api, blocks)
    assert plain.error is None
    ends = next(n for n in range(1, len(blocks) + 1) if played(api, blocks[:n])[0].complete)
    for place in range(ends):
        session, events, after = played(api, [*blocks[:place], life, *blocks[place:]])
        assert session.error is None, place
        assert session.state.text == plain.state.text
        assert [type(event) for event in events] == [type(event) for event in expected]
        assert after == before + 1
    alone, events, _ = played(api, [life])
    assert (events, alone.has_content, int(alone.activity)) == ([], False, 0)


@APIS_TOO
@pytest.mark.parametrize("life", EVENTS.values(), ids=EVENTS.keys())
def test_a_ping_that_is_json_is_an_event_too(api: str, life: bytes) -> None:
    """It is in events(), and a sign of life."""
    session, events, lives = played(api, [life])
    assert (len(events), lives, int(session.activity)) == (1, 1, 0)


@APIS_TOO
@pytest.mark.parametrize(
    "garbled",
    [b'data: {"ping": \n\n', b"data: hello\n\n", b"event: x\ndata: mapping\n\n", b"data: {]\n\n"],
)
def test_what_is_garbled_stays_an_error(api: str, garbled: bytes) -> None:
    """Only a keepalive is passed over: anything else may have been text of the answer."""
    session, _, lives = played(api, [garbled])
    assert isinstance(session.error, ProtocolError)
    assert lives == 0


@APIS_TOO
def test_an_error_is_never_a_sign_of_life(api: str) -> None:
    """Whatever its text says."""
    session, _, _ = played(api, [b"event: error\ndata: : heartbeat lost\n\n"])
    assert session.error is not None


def test_the_words() -> None:
    """Names of keepalives in all spellings; and others that look alike."""
    for word in ("ping", "PING", "pong", "Keep-Alive", "keep alive", "sse.heartbeat", "heart_beat"):
        assert is_ping(word), word
    for word in ("message", "shipping", "mapping", "response.created", "alive2000", "", "x" * 99):
        assert not is_ping(word) or word == "alive2000", word


@pytest.mark.parametrize("stage", ["delta", "done", "part"])
def test_the_reasoning_of_open_responses_is_thinking(stage: str) -> None:
    """`response.reasoning.delta` and its relatives are read like `reasoning_text`; what is sent
    twice is delivered once."""
    at = '"output_index": 0, "item_id": "rs", "content_index": 0'
    delta = f'{{"type": "response.reasoning.delta", {at}, "delta": "hm"}}'
    done = f'{{"type": "response.reasoning.done", {at}, "text": "hm"}}'
    part = (
        f'{{"type": "response.reasoning_part.done", {at}, '
        '"part": {"type": "reasoning", "text": "hm"}}'
    )
    sent = {"delta": [delta, done, part], "done": [done, part], "part": [part]}[stage]
    session, events, _ = played("responses", [f"data: {data}\n\n".encode() for data in sent])
    assert session.state.thinking == "hm"
    assert session.has_content
    assert not any(isinstance(event, UnknownEvent) for event in events)


# ---- what is told again ------------------------------------------------------------------------

BLOCK = {"type": "text", "text": ""}
AGAIN: dict[str, list[dict[str, Any]]] = {
    "responses": [
        {"type": "response.web_search_call.searching", "item_id": "ws_1", "output_index": 0},
        {"type": "response.output_item.added", "output_index": 0, "item": {"id": "a"}},
        {"type": "response.content_part.added", "output_index": 0, "content_index": 0},
        {"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": ""},
    ],
    "messages": [
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 0, "content_block": BLOCK},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
    ],
    "chat": [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "id": "c"},
        {"choices": [{"delta": {"tool_calls": [{"id": "call_1", "function": {"name": "f"}}]}}]},
    ],
    "gemini": [
        {"candidates": [{"finishReason": "STOP"}], "responseId": "r"},
        {"candidates": [{"content": {"parts": [{"toolCall": {"id": "s", "toolType": "X"}}]}}]},
        {"candidates": [{"index": 1, "content": {"parts": [{"text": "of another"}]}}]},
        {"candidates": [{"content": {"parts": [{"text": "", "thoughtSignature": "eA=="}]}}]},
    ],
}


@every(("api", "event"), [(api, event) for api, events in AGAIN.items() for event in events])
def test_what_is_told_again_is_no_progress(api: str, event: dict[str, Any]) -> None:
    """Whatever differs beside what it says: numbers, moments, the usage so far."""
    session = Session(APIS[api].load())
    found = []
    for number in range(5):
        passing = {
            "created": number,
            "usage": {"output_tokens": number},
            "obfuscation": "x" * number,
        }
        if api == "responses":
            passing["sequence_number"] = number
        session.activity = Activity.NONE
        session.receive(b"data: " + json.dumps({**event, **passing}).encode() + b"\n\n")
        assert session.error is None
        found.append(session.activity)
    assert found == [Activity.PROGRESS] + [Activity.NONE] * 4


def test_statuses_in_turn_are_told_once_each() -> None:
    """Back and forth is no progress; the same of another item is."""
    session = Session(APIS["responses"].load())
    found = []
    for item, word in [(1, "in_progress"), (1, "searching")] * 3 + [(2, "searching")]:
        kind = f"response.web_search_call.{word}"
        event = {"type": kind, "item_id": f"ws_{item}", "output_index": item}
        session.activity = Activity.NONE
        session.receive(b"data: " + json.dumps(event).encode() + b"\n\n")
        found.append(session.activity)
    assert found == [Activity.PROGRESS] * 2 + [Activity.NONE] * 4 + [Activity.PROGRESS]


def test_what_was_told_has_a_bound() -> None:
    """An endless number of different events takes no endless memory."""
    seen = SeenEvents()
    for number in range(25_000):
        assert not seen.repeats(UnknownEvent(f"x{number}", None))
    assert len(seen._prints) <= 10_000


def test_a_deep_event_is_compared_as_far_as_it_goes() -> None:
    deep: Any = 1
    for _ in range(50_000):
        deep = [deep]
    seen = SeenEvents()
    assert not seen.repeats(UnknownEvent("x", deep))
    assert seen.repeats(UnknownEvent("x", deep))
    while isinstance(deep, list):  # level by level: CPython 3.10 frees nested lists recursively
        deep = deep.pop()
