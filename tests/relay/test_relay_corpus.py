"""Every recording of a real service, as parts and through every encoder of ours: the same text,
thinking, calls and end as the library itself reports, and never half an answer for a whole one."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from corpus import LARGE, Recording, bytewise, params, random_pieces
from part_tools import (
    RECORDINGS,
    check_order,
    encoded,
    joined,
    of_kind,
    parse_sse,
    read,
    stream_of_recording,
)

from llmstream import LLMStreamError, Result, Stream
from llmstream._core.tool_calls import is_same_json
from llmstream.relay.parts import (
    CallArguments,
    CallEnd,
    End,
    Failure,
    Part,
    Refusal,
    Text,
    Thinking,
    merged,
)
from llmstream.relay.protocols import PROTOCOLS, make_encoder

OURS = ["events", "text", "html", "chat-completions"]


def outcome(stream: Stream) -> tuple[Result, LLMStreamError | None]:
    try:
        return stream.result(), None
    except LLMStreamError as error:
        return error.partial, error


def check_parts(parts: list[Part], stream: Stream, text: str) -> None:
    """The parts are what the library reports of the answer."""
    check_order(parts)
    result, error = outcome(stream)
    assert joined(parts, Text) == text == result.text
    assert joined(parts, Thinking) == result.thinking
    assert joined(parts, Refusal) == result.refusal
    last = parts[-1]
    if error is not None:
        assert isinstance(last, Failure)
        assert (last.type, last.retryable) == (type(error).__name__, error.retryable)
        assert not of_kind(parts, CallEnd)
        return
    assert isinstance(last, End)
    assert last.tool_calls == result.tool_calls
    assert (last.finish, last.usage, last.model) == (result.finish, result.usage, result.model)
    assert last.text_length == len(result.text)
    ends = of_kind(parts, CallEnd)
    assert [(e.id, e.name, e.arguments, e.custom) for e in ends] == [
        (c.id, c.name, c.arguments, c.custom) for c in result.tool_calls
    ]
    for end in ends:
        pieces = "".join(p.text for p in of_kind(parts, CallArguments) if p.id == end.id)
        assert not end.rewritten
        assert pieces == end.arguments


def text_by_iteration(recording: Recording) -> str:
    stream, pieces = stream_of_recording(recording), []
    try:
        for token in stream:
            pieces.append(token)
    except LLMStreamError:
        pass
    return "".join(pieces)


@pytest.mark.parametrize("recording", params(RECORDINGS))
def test_the_parts_of_every_recording(recording: Recording) -> None:
    """Whole, and in random pieces."""
    text = text_by_iteration(recording)
    for pieces in (None, random_pieces(3)(recording.data)):
        stream = stream_of_recording(recording, pieces)
        check_parts(read(stream), stream, text)


SHORT = [recording for recording in RECORDINGS if recording.size <= LARGE]


@pytest.mark.parametrize("recording", params(SHORT, slow_above=2_000))
def test_byte_by_byte(recording: Recording) -> None:
    stream = stream_of_recording(recording, bytewise(recording.data))
    check_parts(read(stream), stream, text_by_iteration(recording))


@pytest.mark.parametrize("recording", params(RECORDINGS, slow_above=2_000))
def test_cut_after_every_event_it_is_a_failure(recording: Recording) -> None:
    """Wherever the body is cut, the parts end as the call does, and so do all encodings."""
    blocks = recording.data.replace(b"\r\n", b"\n").split(b"\n\n")
    step = max(1, len(blocks) // 40)
    for size in range(0, len(blocks), step):
        data = b"".join(one + b"\n\n" for one in blocks[:size])
        stream = stream_of_recording(recording, [data])
        parts = read(stream)
        result, error = outcome(stream)
        check_order(parts)
        assert isinstance(parts[-1], Failure if error is not None else End)
        assert joined(parts, Text) == result.text
        for protocol in OURS:
            if protocol == "text":  # has no words for it: its host breaks the connection
                continue
            success = looks_whole(protocol, encoded(make_encoder(protocol), merged(parts)))
            assert success == (error is None), (protocol, size)


# ---- the encodings -----------------------------------------------------------------------------


def looks_whole(protocol: str, frames: list[bytes]) -> bool:
    """Whether a client of the protocol takes it for a whole answer."""
    body = b"".join(frames)
    names = [event.name for event in parse_sse(body)]
    if protocol == "chat-completions":
        return body.endswith(b"data: [DONE]\n\n") and b'"finish_reason":"' in body
    assert names.count("done") + names.count("error") == 1
    assert names[-1] == ("close" if protocol == "html" else names[-1])
    return "done" in names


class Fragments(HTMLParser):
    """The text that a browser shows of fragments, and their elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "br":
            self.text += "\n"

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(fragments: list[str]) -> Fragments:
    parser = Fragments()
    for fragment in fragments:
        parser.feed(fragment)
        parser.close()
    return parser


def as_html(text: str) -> str:
    """What HTML has of a text: its line ends are one kind, and it has no NUL."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


@pytest.mark.parametrize("together", [False, True], ids=["single", "merged"])
@pytest.mark.parametrize("recording", params(RECORDINGS))
def test_the_encodings_of_every_recording(recording: Recording, together: bool) -> None:
    stream = stream_of_recording(recording)
    parts = read(stream)
    result, error = outcome(stream)
    if together:
        parts = merged(parts)
    _check_events(encoded(make_encoder("events"), parts), result, error)
    text = b"".join(encoded(make_encoder("text"), parts)).decode("utf-8", "strict")
    assert text == _in_order(parts)
    for version in (2, 4):
        _check_html(encoded(make_encoder("html", version), parts), version, parts, error)
    _check_chunks(
        encoded(make_encoder("chat-completions", include_usage=True), parts), result, error
    )


def _in_order(parts: list[Part]) -> str:
    return "".join(part.text for part in of_kind(parts, Text, Refusal))


def _check_events(frames: list[bytes], result: Result, error: LLMStreamError | None) -> None:
    events = [(one.name, json.loads(one.data)) for one in parse_sse(b"".join(frames))]
    assert all(None not in data.values() for _, data in events)
    tokens = [data for name, data in events if name == "token"]
    assert "".join(t["text"] for t in tokens if "refusal" not in t) == result.text
    assert "".join(t["text"] for t in tokens if "refusal" in t) == result.refusal
    assert "".join(data["text"] for name, data in events if name == "thinking") == result.thinking
    last, data = events[-1]
    assert [name for name, _ in events if name in ("done", "error")] == [last]
    assert data["text_length"] == sum(len(t["text"]) for t in tokens)
    calls = [data for name, data in events if name == "tool_call"]
    whole = [call for call in calls if call["done"]]
    if error is not None:
        assert last == "error"
        assert (data["type"], data["retryable"]) == (type(error).__name__, error.retryable)
        assert whole == []
        return
    assert last == "done"
    assert data.get("finish") == result.finish
    assert data["trace_id"] == result.trace_id
    usage = data.get("usage", {})
    assert usage.get("input_tokens") == result.usage.input_tokens
    assert usage.get("output_tokens") == result.usage.output_tokens
    assert [(c["id"], c["name"], c["arguments"]) for c in whole] == [
        (c.id, c.name, c.arguments) for c in result.tool_calls
    ]
    for call in whole:
        pieces = "".join(c["arguments"] for c in calls if c["id"] == call["id"] and not c["done"])
        assert pieces == call["arguments"]


def _check_html(
    frames: list[bytes], version: int, parts: list[Part], error: LLMStreamError | None
) -> None:
    events = parse_sse(b"".join(frames))
    token = "token" if version == 2 else "message"
    told = shown([e.data for e in events if e.name == token])
    ending = [e.data for e in events if e.name in ("done", "error")]
    assert len(ending) == 1
    if error is not None:
        sentence = shown(ending).text
        assert sentence.endswith(".")
        shown_text = told.text if version == 2 else told.text.removesuffix(sentence)
        assert shown_text == as_html(_in_order(parts))
    else:
        assert told.text == as_html(_in_order(parts))
    assert {tag for tag, _ in told.elements} <= {"span", "br"}
    thinking = shown([e.data for e in events if e.name == "thinking"])
    assert thinking.text == as_html(joined(parts, Thinking))
    calls = [shown([e.data]) for e in events if e.name == "tool_call"]
    assert [call.text for call in calls] == [
        as_html(end.name + end.arguments) for end in of_kind(parts, CallEnd)
    ]
    assert events[-1].name == "close"


def _check_chunks(frames: list[bytes], result: Result, error: LLMStreamError | None) -> None:
    events = parse_sse(b"".join(frames))
    assert {one.name for one in events} == {"message"}
    if error is not None:
        failed = json.loads(events[-1].data)
        assert failed["error"]["type"] == type(error).__name__
        return
    assert events[-1].data == "[DONE]"
    chunks: list[dict[str, Any]] = [json.loads(one.data) for one in events[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    for field, whole in (
        ("content", result.text),
        ("reasoning_content", result.thinking),
        ("refusal", result.refusal),
    ):
        assert "".join(delta.get(field, "") for delta in deltas) == whole
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == list(range(len(calls)))
    assert [call["id"] for call in calls] == [call.id for call in result.tool_calls]
    for call, known in zip(calls, result.tool_calls, strict=True):
        if known.custom:
            assert call["custom"] == {"name": known.name, "input": known.arguments}
        else:
            assert call["function"]["name"] == known.name
            assert is_same_json(call["function"]["arguments"], known.arguments)
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1] in ("stop", "length", "tool_calls", "content_filter")
    if result.finish in ("stop", "length", "tool_calls", "content_filter"):
        assert reasons[-1] == result.finish
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == (result.usage.output_tokens or 0)


def test_every_protocol_is_here_or_has_clients_of_its_own() -> None:
    assert {*OURS, "ui-message", "ag-ui"} == PROTOCOLS.keys()
