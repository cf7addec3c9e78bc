"""A character that a server has cut into two deltas is that character again; a half that never gets
its other one is one U+FFFD at its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every

from llmstream import Client, LLMStreamError
from llmstream._core.dialects import APIS
from llmstream._core.session import Session
from llmstream._core.tool_calls import is_json, partition_calls
from llmstream.errors import StreamTruncated
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, Reply, Reset, Silence

HIGH, LOW = b"\\ud83d", b"\\ude00"
each_api = pytest.mark.parametrize("api", APIS)


def played(api: str, blocks: list[bytes], *, joined: bool = False) -> tuple[Session, list[Any]]:
    dialect = APIS[api].load()
    session = Session(dialect)
    events: list[Any] = []
    for block in [b"".join(blocks)] if joined else blocks:
        events += session.receive(block)
    events += session.receive_eof()
    return session, events


def cut(api: str, answer: Answer) -> list[bytes]:
    """The answer's events, with halves for the words HIGH and LOW."""
    blocks = answer.blocks(api)
    return [block.replace(b"HIGH", HIGH).replace(b"LOW", LOW) for block in blocks]


def texts(events: list[Any], kind: str) -> str:
    return "".join(c.text for event in events for c in event.chunks if c.type == kind)


@each_api
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["aHIGH", "LOWb"], "a😀b"),
        (["HIGH", "LOW"], "😀"),
        (["a", "HIGH", "LOW", "b", "c"], "a😀bc"),
        (["aHIGH", "LOWHIGH", "LOWb"], "a😀😀b"),
    ],
)
def test_halves_of_text_are_joined(
    api: str, joined: bool, pieces: list[str], expected: str
) -> None:
    """In text, however the events arrive; no chunk has half a character."""
    session, events = played(api, cut(api, Answer(pieces)), joined=joined)
    assert session.error is None
    assert session.state.text == texts(events, "text") == expected
    assert all(chunk.text.encode() for event in events for chunk in event.chunks)


def chat(finish: str | None = None, index: int = 0, **delta: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


def said(kind: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


def candidate(*parts: Any, **fields: Any) -> bytes:
    one = {"content": {"parts": list(parts)}, **fields}
    return b"data: " + json.dumps({"candidates": [one]}).encode() + b"\r\n\r\n"


def piece(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments, "name": "f"}, **fields}


SIGNED = {"thoughtSignature": "eA=="}
BLOCK = {"index": 0, "content_block": {"type": "thinking", "thinking": ""}}
ITEM = {"output_index": 0, "item_id": "i"}
PART = {**ITEM, "content_index": 0}
OTHER_KINDS = {
    "chat thinking": ("chat", "thinking", lambda t: chat(reasoning_content=t)),
    "chat refusal": ("chat", "refusal", lambda t: chat(refusal=t)),
    "chat arguments": ("chat", "tool_call", lambda t: chat(tool_calls=[piece(0, t, id="1")])),
    "gemini thinking": ("gemini", "thinking", lambda t: candidate({"text": t, "thought": True})),
    "gemini signed text": ("gemini", "text", lambda t: candidate({"text": t, **SIGNED})),
    "messages thinking": (
        "messages",
        "thinking",
        lambda t: said(
            "content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": t}
        ),
    ),
    "responses thinking": (
        "responses",
        "thinking",
        lambda t: said("response.reasoning_text.delta", **PART, delta=t),
    ),
    "responses summary": (
        "responses",
        "thinking",
        lambda t: said("response.reasoning_summary_text.delta", **ITEM, summary_index=0, delta=t),
    ),
    "responses refusal": (
        "responses",
        "refusal",
        lambda t: said("response.refusal.delta", **PART, delta=t),
    ),
    "responses arguments": (
        "responses",
        "tool_call",
        lambda t: said("response.function_call_arguments.delta", **ITEM, delta=t),
    ),
}


@every(("api", "kind", "delta"), OTHER_KINDS.values(), ids=OTHER_KINDS.keys())
def test_halves_of_all_other_texts_are_joined(api: str, kind: str, delta: Any) -> None:
    """Thinking, refusals and arguments; and a half without another one is one U+FFFD, before other
    text and at the end of the stream."""
    start = [said("content_block_start", **BLOCK)] if api == "messages" else []
    _, events = played(api, [*start, delta("a\ud83d"), delta("\ude00b")])
    assert texts(events, kind) == "a😀b"
    _, events = played(api, [*start, delta("a\ud83d"), delta("b")])
    assert texts(events, kind) == "a\ufffdb"
    _, events = played(api, [*start, delta("a\ud83d")])
    assert texts(events, kind) == "a\ufffd"
    _, events = played(api, [*start, delta("a"), delta("\ude00b")])
    assert texts(events, kind) == "a\ufffdb"


@every(
    ("pieces", "found"),
    [
        (["a\ud83d", "\ude00b"], "a😀b"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["a\ud83d"], "a\ufffd"),
        (["a", "\ude00b"], "a\ufffdb"),
    ],
)
@every("ends", ["in the last piece", "by itself"])
def test_pieces_of_a_string_are_joined(pieces: list[str], found: str, ends: str) -> None:
    """Of an argument that Vertex streams. What is in a whole call is a value of its own, also where
    its field is called as those are that go on."""

    def call(**fields: Any) -> bytes:
        return candidate({"functionCall": fields})

    def argument(text: str, path: str = "$.text") -> list[Any]:
        return [{"jsonPath": path, "stringValue": text, "willContinue": True}]

    sent = [call(partialArgs=argument(text), willContinue=True) for text in pieces]
    if ends == "in the last piece":
        sent[-1] = call(partialArgs=argument(pieces[-1]))
    else:
        sent.append(call())
    whole = [call(name="g", args={"text": "\ud83d"}), call(name="g", args={"text": "\ude00"})]
    begun = call(name="f", willContinue=True)
    session, events = played("gemini", [begun, *sent, *whole, candidate(finishReason="STOP")])
    assert session.error is None
    calls = APIS["gemini"].load().calls(session.state)
    arguments = [json.loads(one.arguments) for one in calls]
    assert arguments == [{"text": found}, {"text": "\ufffd"}, {"text": "\ufffd"}]
    first = [c.text for event in events for c in event.chunks if c.index == 0]
    assert json.loads("".join(first)) == {"text": found}


def test_halves_of_two_arguments_do_not_mix() -> None:
    pieces = [
        {"jsonPath": f"$.{name}", "stringValue": text, "willContinue": True}
        for name, text in (("a", "x\ud83d"), ("b", "\ude00y"))
    ]
    blocks = [
        candidate({"functionCall": {"name": "f", "willContinue": True}}),
        *(candidate({"functionCall": {"partialArgs": [p], "willContinue": True}}) for p in pieces),
        candidate({"functionCall": {}}, finishReason="STOP"),
    ]
    session, _ = played("gemini", blocks)
    (call,) = APIS["gemini"].load().calls(session.state)
    assert session.error is None
    assert json.loads(call.arguments)["b"] == "\ufffdy"


def test_parts_do_not_mix() -> None:
    """Each call, and each choice, has halves of its own."""
    blocks = [
        chat(tool_calls=[piece(0, '{"a":"\ud83d', id="1"), piece(1, '{"b":"\ud83d', id="2")]),
        chat(tool_calls=[piece(1, '\ude01"}')]),
        chat(tool_calls=[piece(0, '\ude00"}')]),
        chat("tool_calls"),
    ]
    session, _ = played("chat", blocks)
    calls, broken = partition_calls(APIS["chat"].load().calls(session.state), False, is_json)
    assert [call.parsed() for call in calls] == [{"a": "😀"}, {"b": "😁"}]
    assert broken == ()


@each_api
def test_a_half_at_the_end_of_its_part_is_not_lost(api: str) -> None:
    """Nor are there two: the end of the part, or of the answer, brings U+FFFD."""
    session, events = played(api, cut(api, Answer(["a", "bHIGH"])))
    assert session.error is None
    assert session.state.text == texts(events, "text") == "ab\ufffd"


@each_api
def test_a_half_at_a_cut_is_not_lost(api: str) -> None:
    """The partial text has it."""
    blocks = cut(api, Answer(["a", "bHIGH", "LOW"]))
    end = next(n for n, block in enumerate(blocks) if HIGH in block) + 1
    session, events = played(api, blocks[:end])
    assert isinstance(session.error, StreamTruncated)
    assert session.state.text == texts(events, "text") == "ab\ufffd"


def test_the_event_is_as_it_was_received() -> None:
    """`raw` has the halves, and other fields than text are not waited for."""
    blocks = [chat(content="a\ud83d"), chat(content="\ude00", note="\ud83d"), chat("stop")]
    _, events = played("chat", blocks)
    assert [b"data: " + event.raw + b"\n\n" for event in events] == blocks


def test_halves_in_the_finish_and_before_done() -> None:
    """The other half may arrive with the finish, and half of one too."""
    session, _ = played("chat", [chat(content="\ud83d"), chat("stop", content="\ude00")])
    assert session.state.text == "😀"
    session, _ = played("chat", [chat("stop", content="a\ud83d"), b"data: [DONE]\n\n"])
    assert session.state.text == "a\ufffd"


def test_a_json_answer_with_half_a_character() -> None:
    """It has no next delta."""
    message = {"role": "assistant", "content": "a\ud83d"}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    session = Session(APIS["chat"].load())
    session.receive_json(json.dumps(body).encode())
    assert (session.error, session.state.text) == (None, "a\ufffd")


@pytest.mark.parametrize("how", ["reset", "cut", "idle"])
@each_api
def test_a_half_at_a_lost_connection_is_in_the_partial(api: str, how: str) -> None:
    """One U+FFFD at its place, whatever ended the stream."""
    blocks = Answer(["Hi ", "X", "Y"]).blocks(api)
    last = next(n for n, block in enumerate(blocks) if b'"X"' in block)
    ends: dict[str, Any] = {"reset": Reset(), "cut": Cut(), "idle": Silence()}
    half = blocks[last].replace(b'"X"', b'"\\ud83d"')
    transport = FakeTransport(Reply([*blocks[:last], half, ends[how]]))
    client = Client(api, base_url="http://test", model="m", transport=transport, clock=FakeClock())
    with pytest.raises(LLMStreamError) as caught:
        client.stream("Hi").result()
    assert caught.value.partial.text == "Hi \ufffd"


@each_api
@pytest.mark.parametrize("data", [b'"\\ud83d"', b'["\\ud83d", "\\ude00"]', b"1", b"null"])
def test_halves_where_no_event_is(api: str, data: bytes) -> None:
    """JSON that is not an object is an event like any other, or garbled; never a foreign error."""
    blocks = Answer(["Hi ", "X"]).blocks(api)
    session, _ = played(api, [*blocks[:-1], b"data: " + data + b"\n\n", *blocks[-1:]])
    assert session.state.text == "Hi X"
    assert session.error is None or type(session.error).__module__.startswith("llmstream")
