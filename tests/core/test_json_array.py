"""A stream that arrives as one JSON array of its events, from a proxy that drops `alt=sse`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corpus import CUTTINGS, PROPERTY, bytewise, recorded, told
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream import Client, LLMStreamError, RetryPolicy
from llmstream._core.dialects import APIS
from llmstream._core.json_array import ArrayStream, Elements
from llmstream._core.session import MAX_EVENT_BYTES, Session
from llmstream.errors import (
    EventTooLarge,
    NotAStreamError,
    OverloadedError,
    ProtocolError,
    StreamInterrupted,
    StreamTruncated,
)
from llmstream.testing import Cut, FakeClock, FakeTransport, Pause, Reply

ONCE = RetryPolicy(max_attempts=1)


def chunk(*parts: Any, **fields: Any) -> Any:
    return {"candidates": [{"content": {"parts": list(parts)}, **fields}]}


def array_of(chunks: list[Any]) -> bytes:
    """As Google writes it."""
    return b"[" + b"\n,\r\n".join(json.dumps(one, indent=2).encode() for one in chunks) + b"\n]\n"


CHUNKS = [
    chunk({"text": 'H{i"\\ [ü'}),
    chunk({"functionCall": {"name": "f", "args": {"a": ["}", {}]}}}),
    chunk({"text": " you"}, finishReason="STOP"),
]
ARRAY = array_of(CHUNKS)


def fed(pieces: Any, limit: int = MAX_EVENT_BYTES) -> tuple[list[Any], Session]:
    session = Session(APIS["gemini"].load(), limit)
    stream = ArrayStream(session, limit)
    events = [event for piece in pieces for event in stream.receive(piece)]
    return events + stream.receive_eof(), session


def asked(*steps: Any, **options: Any) -> Any:
    reply = Reply([*steps], content_type="application/json")
    client = Client("gemini", transport=FakeTransport(reply), model="m", api_key="k", retry=ONCE)
    return client.stream("Hi", **options)


# ---- the elements ------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@pytest.mark.slow
@settings(PROPERTY, max_examples=60)
@given(st.lists(st.dictionaries(st.text(max_size=3), VALUES), max_size=4), st.data())
def test_any_array_is_its_objects(values: list[Any], data: st.DataObject) -> None:
    """However it is written and cut."""
    indent = data.draw(st.sampled_from([None, 1]))
    ascii = data.draw(st.booleans())
    text = json.dumps(values, indent=indent, ensure_ascii=ascii).encode("utf-8", "replace")
    size = data.draw(st.integers(1, 9))
    elements = Elements()
    found = []
    for at in range(0, len(text), size):
        found += elements.feed(text[at : at + size])
    assert (elements.closed, elements.odd) == (True, False)
    assert [json.loads(one) for one in found] == json.loads(text)
    assert elements.feed(b"anything") == []


# ---- a stream ----------------------------------------------------------------------------------


def recordings() -> list[Any]:
    found = []
    for recording in recorded("gemini"):
        lines = [line for line in recording.data.splitlines() if line.strip()]
        if recording.expect["complete"] and all(line.startswith(b"data: {") for line in lines):
            chunks = [json.loads(line[6:]) for line in lines]
            found.append(pytest.param(recording, array_of(chunks), id=recording.name))
    if not found:
        pytest.skip("no corpus")
    return found


@every("recording, array", recordings)
def test_a_recording_as_an_array(recording: Any, array: bytes) -> None:
    """The same answer, events, end and error, however the array is cut."""
    expected, _ = fed([array])
    for name, cut in CUTTINGS.items():
        if name == "bytewise" and len(array) > 6000:
            continue
        events, session = fed(cut(array))
        assert told(session, "gemini") == recording.expect, name
        assert events == expected
    wanted = recording.expect["raises"]
    if wanted is None:
        result = asked(array).result()
    else:
        with pytest.raises(LLMStreamError) as caught:
            asked(array).result()
        assert type(caught.value).__name__ == wanted
        result = caught.value.partial
    for kind in ("text", "thinking"):
        assert getattr(result, kind) == recording.expect[kind]


def test_cut_at_every_byte() -> None:
    """As a stream that is cut: what has arrived is kept, and nothing is a success before the array
    has closed."""
    end = ARRAY.rindex(b"]") + 1
    shown = ""
    for at in range(1, len(ARRAY) + 1):
        _, session = fed([ARRAY[:at]])
        if at < end:
            assert type(session.error) is StreamTruncated, at
        else:
            assert session.complete
        assert session.state.text.startswith(shown)
        shown = session.state.text
        if at % 7 and at < end - 5:
            continue
        with pytest.raises(StreamInterrupted) as caught:
            asked(ARRAY[:at], Cut()).result()
        assert caught.value.partial.text == shown
    assert shown == 'H{i"\\ [ü you'


def test_tokens_come_before_the_end() -> None:
    """Each as it arrives: the first-token clock does not wait for the whole."""
    clock = FakeClock()
    cut = ARRAY.index(b"\n,\r\n") + 1
    reply = Reply([ARRAY[:cut], Pause(100), ARRAY[cut:]], content_type="application/json")
    client = Client("gemini", transport=FakeTransport(reply), model="m", api_key="k", clock=clock)
    stream = client.stream("Hi")
    begun = clock.monotonic()
    tokens = iter(stream)
    assert next(tokens) == 'H{i"\\ [ü'
    assert clock.monotonic() - begun < 1
    assert "".join(tokens) == " you"
    assert [(call.name, call.parsed()) for call in stream.result().tool_calls] == [
        ("f", {"a": ["}", {}]})
    ]


def test_a_policy_goes_on_with_what_came() -> None:
    begun = array_of([chunk({"text": "one two three four five six seven"})])[:-3]
    rest = array_of([chunk({"text": " eight"}, finishReason="STOP")])
    replies = [Reply([one], content_type="application/json") for one in (begun, rest)]
    client = Client(
        "gemini", transport=FakeTransport(*replies), model="m", api_key="k", clock=FakeClock()
    )
    stream = client.stream("Hi", on_disconnect="continue")
    assert "".join(stream) == "one two three four five six seven eight"
    assert len(stream.result().attempts) == 2


# ---- what is none ------------------------------------------------------------------------------


@every("body", [b"[]", b"[ ]\n", b"[1, 2]", b'["x"]', b"[[1]]", b'[{"a": 1}]', b"[null]"])
def test_another_array_is_no_stream(body: bytes) -> None:
    for pieces in ([body], bytewise(body)):
        events, session = fed(pieces)
        assert (events, type(session.error)) == ([], NotAStreamError)
    with pytest.raises(NotAStreamError, match="neither a completion nor an error"):
        asked(body).result()


@every(
    "garbage, error",
    [
        (b"5]", ProtocolError),
        (b"{nonsense}]", ProtocolError),
        (b'{"candidates": 7}]', ProtocolError),
        (b'{"error": {"code": 503, "status": "UNAVAILABLE", "message": "m"}}]', OverloadedError),
        (b'{"text": "' + b"x" * 3000, EventTooLarge),
    ],
)
def test_what_ends_an_answer(garbage: bytes, error: type) -> None:
    """In the midst of the array; what came before is kept."""
    body = array_of(CHUNKS[:1])[:-2] + b"," + garbage
    for pieces in ([body], bytewise(body)):
        _, session = fed(pieces, 2000)
        assert type(session.error) is error
        assert session.state.text == 'H{i"\\ [ü'


@pytest.mark.slow
def test_what_is_large_is_read_in_linear_time() -> None:
    """Ten thousand events, and one string of megabytes in small pieces."""
    many = array_of([chunk({"text": "ab"})] * 10_000 + [chunk(finishReason="STOP")])
    _, session = fed(many[at : at + 100] for at in range(0, len(many), 100))
    assert session.complete
    assert session.state.text == "ab" * 10_000
    long = array_of([chunk({"text": "ab" * 1_000_000}, finishReason="STOP")])
    _, session = fed(long[at : at + 100] for at in range(0, len(long), 100))
    assert session.complete
    assert len(session.state.text) == 2_000_000


@every("api", ["responses", "messages", "chat"])
def test_no_other_api_has_arrays(api: str) -> None:
    reply = Reply([ARRAY], content_type="application/json")
    client = Client(api, transport=FakeTransport(reply), model="m", api_key="k", retry=ONCE)
    with pytest.raises(NotAStreamError):
        client.stream("Hi").result()
