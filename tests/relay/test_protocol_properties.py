"""Any answer, in any pieces, through every protocol: a strict parser of its events reads the very
text, thinking and calls from the frames; and a failure is never read as a success."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corpus import PROPERTY
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from part_tools import check_order, encoded, joined, of_kind, parse_sse
from test_relay_corpus import as_html, shown

from llmstream import ConfigurationError, ToolCall, Usage
from llmstream.relay.parts import (
    Begin,
    CallArguments,
    CallBegin,
    CallEnd,
    End,
    Failure,
    Part,
    Refusal,
    Restart,
    Retry,
    Text,
    Thinking,
    merged,
)
from llmstream.relay.protocols import PROTOCOLS, make_encoder
from llmstream.relay.protocols.base import (
    COMMENT,
    Encoder,
    TableEncoder,
    clean,
    encode_json,
    frame,
    with_id,
)

VERSIONS = [
    pytest.param(protocol, version, id=f"{protocol}-{version}" if version else protocol)
    for protocol, row in PROTOCOLS.items()
    for version in row.versions or (None,)
]
OURS = [one for one in VERSIONS if one.values[0] not in ("ui-message", "ag-ui")]

QUICK = settings(PROPERTY, max_examples=30)

# ---- any answer --------------------------------------------------------------------------------

NASTY = ["\r", "\n", "\r\n", "\n\n", "\0", "\u2028", "\u2029", "\x85", "\ufeff", "\ud83d", "\ude42"]
NASTY += ["</script>", "<b>&amp;", "data: [DONE]\n\n", "event: done", ": x", " ", "\t", '"', "\\"]
NASTY += ["\U0001f642", "e\u0301", "\u202e", "]]>", "<!--", "\x1b[2J", "{", "null"]
texts = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=5)), min_size=1, max_size=4)
words = texts.map("".join).filter(bool)
names = st.one_of(st.sampled_from(["f", "get_weather", "a-b", 'odd"name<']), words)
usages = st.builds(
    Usage,
    input_tokens=st.none() | st.integers(0, 10**6),
    output_tokens=st.none() | st.integers(0, 10**6),
    cost=st.none() | st.floats(0, 1),
)
maybe = st.none() | words


@st.composite
def answers(draw: Any) -> list[Part]:
    """The parts of an answer, as `reading` may yield them."""
    parts: list[Part] = [Begin("trace-1", draw(maybe), 1_790_000_000.5)]
    begun: dict[str, tuple[CallBegin, list[str]]] = {}
    number = 0
    for what in draw(st.lists(st.sampled_from("tttkrcaayx"), max_size=14)):
        if what == "t":
            parts.append(Text(draw(words)))
        elif what == "k":
            parts.append(Thinking(draw(words)))
        elif what == "r":
            parts.append(Refusal(draw(words)))
        elif what == "c":
            number += 1
            call = CallBegin(f"{draw(words)}{number}", draw(names), draw(st.booleans()))
            begun[call.id] = (call, [])
            parts.append(call)
        elif what == "a" and begun:
            id = draw(st.sampled_from(sorted(begun)))
            begun[id][1].append(draw(words))
            parts.append(CallArguments(id, begun[id][1][-1]))
        elif what == "y":
            parts.append(Retry(draw(st.integers(2, 9)), draw(maybe), draw(st.floats(0, 60))))
        elif what == "x":
            begun.clear()
            parts.append(Restart(draw(st.integers(2, 9))))
    unfinished: list[ToolCall] = []
    if draw(st.booleans()):
        open_calls = tuple(ToolCall(c.id, c.name, "".join(t), c.custom) for c, t in begun.values())
        failure = Failure(
            type=draw(st.sampled_from(["RateLimitError", "Cancelled", "InternalError"])),
            message="It failed.",
            retryable=draw(st.booleans()),
            usage=draw(usages),
            trace_id="trace-1",
            incomplete_tool_calls=open_calls,
        )
        return [*parts, failure]
    safe: list[ToolCall] = []
    for call, pieces in begun.values():
        text = "".join(pieces)
        if draw(st.booleans()):
            unfinished.append(ToolCall(call.id, call.name, text, call.custom))
            continue
        if not call.custom:  # it has to be JSON: the service's last word
            text = json.dumps(text)
        rewritten = bool(pieces) and not call.custom
        if not pieces and text:
            parts.append(CallArguments(call.id, text))
        safe.append(ToolCall(call.id, call.name, text, call.custom))
        parts.append(CallEnd(call.id, call.name, text, call.custom, rewritten))
    finish = draw(
        st.sampled_from(["stop", "length", "tool_calls", "pause", "refusal", "odd", None])
    )
    parts.append(
        End(
            finish=finish,
            usage=draw(usages),
            model=draw(maybe),
            trace_id="trace-1",
            tool_calls=tuple(safe),
            incomplete_tool_calls=tuple(unfinished),
        )
    )
    return parts


def without_restarts(parts: list[Part], encoder: Encoder) -> list[Part]:
    """A protocol that cannot show a restart is never given one."""
    if encoder.shows_restart:
        return parts
    last = max((at for at, part in enumerate(parts) if isinstance(part, Restart)), default=0)
    return [parts[0], *parts[last + 1 :]]


@given(answers())
@QUICK
def test_the_answers_here_are_such_as_a_reader_yields(parts: list[Part]) -> None:
    check_order(parts)


# ---- all protocols -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "version"), VERSIONS)
@given(parts=answers())
@QUICK
def test_a_frame_is_one_event(protocol: str, version: Any, parts: list[Part]) -> None:
    """Each frame alone is read back as one event; with an id, it is the same event with that id;
    JSON has no null where a field is optional. Heartbeats are none."""
    encoder = make_encoder(protocol, version)
    parts = without_restarts(parts, encoder)
    frames = encoded(encoder, parts)
    if protocol == "text":
        for one in frames:
            one.decode("utf-8", "strict")
        return
    assert parse_sse(encoder.heartbeat) == []
    for number, one in enumerate(frames):
        (event,) = parse_sse(one)
        (known,) = parse_sse(with_id(one, number))
        assert known == event._replace(id=str(number))
        if event.data.startswith("{"):
            check_nulls(json.loads(event.data), "" if protocol != "chat-completions" else None)


def check_nulls(value: Any, allowed: str | None) -> None:
    """No field is null; in OpenAI's chunks the finish_reason is, until the end."""
    if isinstance(value, dict):
        for name, inner in value.items():
            assert inner is not None or (allowed is None and name == "finish_reason"), name
            if name not in ("input", "arguments"):  # the model's own
                check_nulls(inner, allowed)
    elif isinstance(value, list):
        for inner in value:
            check_nulls(inner, allowed)


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "version"), VERSIONS)
@given(parts=answers(), data=st.data())
@QUICK
def test_merged_neighbours_are_the_same_answer(
    protocol: str, version: Any, parts: list[Part], data: Any
) -> None:
    """However the pump has cut it into batches."""
    alone, batched = make_encoder(protocol, version), make_encoder(protocol, version)
    parts = without_restarts(parts, alone)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(parts)), max_size=5)))
    batches = [parts[a:b] for a, b in zip([0, *cuts], [*cuts, len(parts)], strict=True)]
    one = b"".join(encoded(alone, parts))
    other = b"".join(frame for batch in batches for frame in encoded(batched, merged(batch)))
    if protocol == "text":
        assert parts_text(parts, whole=True) == other.decode()
        return
    assert _squeezed(one) == _squeezed(other)


def _squeezed(body: bytes) -> list[tuple[str, Any]]:
    """The events, with the texts of neighbours of one kind joined."""
    found: list[list[Any]] = []
    for event in parse_sse(body):
        if not event.data.startswith("{"):
            if found and found[-1][0] == event.name and found[-1][1] == "html":
                found[-1][2] += shown([event.data]).text
            else:
                found.append([event.name, "html", shown([event.data]).text])
            continue
        shape, text = _text_of(json.loads(event.data))
        if found and text and found[-1][:2] == [event.name, shape]:
            found[-1][2] += text
        else:
            found.append([event.name, shape, text])
    return [tuple(one) for one in found]


_TEXTS = ("text", "delta", "inputTextDelta", "content", "reasoning_content", "refusal", "arguments")


def _text_of(value: Any) -> tuple[str, str]:
    """An event's JSON without its text, and the text."""
    text = ""
    if isinstance(value, dict) and value.get("done") is not True:
        inner = {}
        for name, one in value.items():
            if name in _TEXTS and isinstance(one, str):
                text, one = one, None
            elif name in ("choices", "delta"):
                one, found = _text_of(one)
                text = text or found
            inner[name] = one
        return json.dumps(inner), text
    if isinstance(value, list) and len(value) == 1:
        return _text_of(value[0])
    return json.dumps(value), text


def parts_text(parts: list[Part], whole: bool = False) -> str:
    kinds = (Text, Refusal) if whole else (Text,)
    return "".join(clean(part.text) for part in of_kind(parts, *kinds))


ENDS = {
    "events": lambda events: events[-1].name == "done",
    "html": lambda events: any(event.name == "done" for event in events),
    "chat-completions": lambda events: events[-1].data == "[DONE]",
    "ui-message": lambda events: any('"type":"finish"' in event.data for event in events),
    "ag-ui": lambda events: any(
        '"RUN_FINISHED"' in event.data and '"cancelled"' not in event.data for event in events
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "version"), VERSIONS)
@given(parts=answers())
@QUICK
def test_a_failure_at_any_place_is_no_success(
    protocol: str, version: Any, parts: list[Part]
) -> None:
    """After every part in turn: the success of the protocol is there if the End is, and only then;
    what a reader has seen before the failure is the beginning of the answer."""
    failure = Failure(type="StreamInterrupted", message="Cut off.", trace_id="trace-1")
    shows_restart = make_encoder(protocol, version).shows_restart
    parts = without_restarts(parts, make_encoder(protocol, version))
    assert shows_restart or not of_kind(parts, Restart)
    for size in range(len(parts)):
        if isinstance(parts[size], CallEnd):
            break  # the ends and the End come together
        encoder = make_encoder(protocol, version)
        frames = encoded(encoder, [*parts[:size], failure])
        if not encoder.shows_failure:
            assert frames == encoded(make_encoder(protocol, version), parts[:size])
            continue
        assert frames
        assert not ENDS[protocol](parse_sse(b"".join(frames))), size
        assert b"Cut off." in b"".join(frames)
    if isinstance(parts[-1], End) and protocol in ENDS:
        events = parse_sse(b"".join(encoded(make_encoder(protocol, version), parts)))
        assert ENDS[protocol](events)


# ---- our own, word for word --------------------------------------------------------------------


@given(answers())
@QUICK
def test_events_read_back(parts: list[Part]) -> None:
    text, thinking, calls, whole = "", "", {}, {}
    last: tuple[str, Any] = ("", None)
    for event in parse_sse(b"".join(encoded(make_encoder("events"), parts))):
        data = json.loads(event.data)
        last = (event.name, data)
        if event.name == "token":
            text += data["text"]
        elif event.name == "thinking":
            thinking += data["text"]
        elif event.name == "restart":
            text, thinking, calls = "", "", {}
        elif event.name == "tool_call" and data["done"]:
            whole[data["id"]] = (data["name"], data["arguments"], data.get("custom", False))
        elif event.name == "tool_call":
            calls[data["id"]] = calls.get(data["id"], "") + data["arguments"]
    begun = last_part = max(
        (at for at, part in enumerate(parts) if isinstance(part, Restart)), default=0
    )
    assert text == parts_text(parts[begun:], whole=True)
    assert thinking == "".join(clean(part.text) for part in of_kind(parts[begun:], Thinking))
    pieces: dict[str, str] = {clean(part.id): "" for part in of_kind(parts[begun:], CallBegin)}
    for part in of_kind(parts[last_part:], CallArguments):
        pieces[clean(part.id)] += clean(part.text)
    assert calls == pieces
    assert whole == {
        clean(end.id): (clean(end.name), clean(end.arguments), end.custom)
        for end in of_kind(parts, CallEnd)
    }
    name, data = last
    assert name == ("done" if isinstance(parts[-1], End) else "error")
    assert data["text_length"] == sum(len(p.text) for p in of_kind(parts[begun:], Text, Refusal))


@pytest.mark.slow
@pytest.mark.parametrize("version", [2, 4])
@given(parts=answers())
@QUICK
def test_html_reads_back(version: int, parts: list[Part]) -> None:
    """What a browser shows is the text, and no element comes from it."""
    name = "token" if version == 2 else "message"
    tokens: list[str] = []
    for event in parse_sse(b"".join(encoded(make_encoder("html", version), parts))):
        if event.name == "restart":
            tokens.clear()
        elif event.name == name and 'class="error"' not in event.data.partition(">")[0]:
            tokens.append(event.data)
    told = shown(tokens)
    begun = max((at for at, part in enumerate(parts) if isinstance(part, Restart)), default=0)
    # Between pieces of text and of refusal no line end is joined.
    expected, kind = "", None
    for part in of_kind(parts[begun:], Text, Refusal):
        joins = kind is not type(part)
        kind = type(part)
        expected += ("\ue000" if joins else "") + clean(part.text)
    assert _flat(told.text) == _flat(as_html(expected).replace("\ue000", ""))
    assert {tag for tag, _ in told.elements} <= {"span", "br"}
    assert all(not attributes or list(attributes) == ["class"] for _, attributes in told.elements)


def _flat(text: str) -> str:
    """Without line ends, whose number depends on what joins a CR and a LF."""
    return text.replace("\n", "")


@pytest.mark.parametrize("version", [2, 4])
def test_names_and_ids_are_the_same_in_html(version: int) -> None:
    """Whatever a service has put into them."""
    odd = 'a"><b>\r\n\nid: 9\n&amp;\u2028'
    frames = encoded(make_encoder("html", version), [CallEnd(odd, "f", "{}"), End(model=odd)])
    events = [event.data for event in parse_sse(b"".join(frames))]
    (_, call), *_ = shown([events[0]]).elements
    (_, done), *_ = shown([events[1]]).elements
    assert (call["data-id"], done["data-model"]) == (odd, odd)


@given(st.lists(words, min_size=1, max_size=5))
@QUICK
def test_line_ends_survive_html(pieces: list[str]) -> None:
    """Also a CR and a LF that come in two pieces."""
    frames = encoded(make_encoder("html"), [Text(piece) for piece in pieces])
    told = shown([event.data for event in parse_sse(b"".join(frames))])
    assert told.text == as_html("".join(map(clean, pieces)))


@given(answers())
@QUICK
def test_text_reads_back(parts: list[Part]) -> None:
    encoder = make_encoder("text")
    parts = without_restarts(parts, encoder)
    frames = encoded(encoder, parts)
    assert b"".join(frames).decode("utf-8", "strict") == parts_text(parts, whole=True)
    for one in frames:  # never half a character
        one.decode("utf-8", "strict")


@given(answers(), st.booleans())
@QUICK
def test_chat_completions_read_back(parts: list[Part], include_usage: bool) -> None:
    encoder = make_encoder("chat-completions", include_usage=include_usage)
    parts = without_restarts(parts, encoder)
    events = parse_sse(b"".join(encoded(encoder, parts)))
    chunks = [json.loads(event.data) for event in events if event.data != "[DONE]"]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
    assert "".join(delta.get("content", "") for delta in deltas) == parts_text(parts)
    for kind, field in ((Thinking, "reasoning_content"), (Refusal, "refusal")):
        told = "".join(delta.get(field, "") for delta in deltas)
        assert told == "".join(clean(part.text) for part in of_kind(parts, kind))
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["id"] for call in calls] == [clean(end.id) for end in of_kind(parts, CallEnd)]
    finishes = [c["finish_reason"] for chunk in chunks for c in chunk.get("choices", ())]
    if isinstance(parts[-1], End):
        assert [f for f in finishes if f] == finishes[-1:]
        assert ("usage" in chunks[-1]) == include_usage
        assert all(
            {"id", "object", "created", "model", "choices"} <= chunk.keys() for chunk in chunks
        )
    else:
        assert not any(finishes)
        assert chunks[-1].keys() == {"error"}


# ---- the pieces of it --------------------------------------------------------------------------


@given(texts.map("".join))
@QUICK
def test_json_is_one_line_for_everybody(text: str) -> None:
    """Also for clients that take U+2028, U+2029 and U+0085 for line ends."""
    encoded_text = encode_json({"text": text, text: [text]})
    assert json.loads(encoded_text) == {"text": clean(text), clean(text): [clean(text)]} or (
        text == "text"
    )
    assert len(encoded_text.decode().splitlines()) == 1
    assert b"\0" not in encoded_text


def test_a_frame_has_its_lines() -> None:
    assert frame(b"a\nb", "x") == b"event: x\ndata: a\ndata: b\n\n"
    assert with_id(frame(b"a"), 7) == b"id: 7\ndata: a\n\n"
    assert parse_sse(COMMENT) == []


@pytest.mark.parametrize(("protocol", "version"), VERSIONS)
def test_what_a_call_costs_is_not_for_browsers(protocol: str, version: Any) -> None:
    usage = Usage(input_tokens=3, output_tokens=4, cost=0.0625)
    for end in (End(usage=usage), Failure(type="ServerError", message="x", usage=usage)):
        body = b"".join(encoded(make_encoder(protocol, version), [Begin("t"), end]))
        assert b"0.0625" not in body
        assert b"cost" not in body


def test_an_unknown_part_is_not_sent() -> None:
    """A new kind of part says nothing in a protocol that has no words for it."""

    class New:
        pass

    for protocol in PROTOCOLS:
        assert list(make_encoder(protocol).encode(New())) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["sse", "", None, 7, ["events"], "EVENTS"])
def test_an_unknown_protocol_is_refused(odd: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass one of 'events'"):
        make_encoder(odd)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unknown_version_or_option_is_refused(protocol: str) -> None:
    for odd in (99, "x", 0, True, object(), [], 5.0):
        with pytest.raises(ConfigurationError, match="version"):
            make_encoder(protocol, odd)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="option"):
        make_encoder(protocol, nonsense=1)


def test_the_latest_version_is_the_default() -> None:
    for protocol, row in PROTOCOLS.items():
        assert list(row.versions) == sorted(row.versions, key=str)
        encoder = make_encoder(protocol)
        if isinstance(encoder, TableEncoder) and row.versions:
            assert encoder.version == row.versions[-1]
            assert make_encoder(protocol, str(row.versions[-1])).version == encoder.version  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "version"), VERSIONS)
@pytest.mark.parametrize("hidden", ["thinking", "tool_calls"])
@given(parts=answers())
@QUICK
def test_what_is_hidden_is_not_sent(
    protocol: str, version: Any, hidden: str, parts: list[Part]
) -> None:
    """The rest is what it would be without: the protocol stays a whole one."""
    encoder = make_encoder(protocol, version, **{hidden: False})
    plain = make_encoder(protocol, version)
    parts = without_restarts(parts, plain)
    kinds = (Thinking,) if hidden == "thinking" else (CallBegin, CallArguments, CallEnd)
    kept = [part for part in parts if not isinstance(part, kinds)]
    if hidden == "tool_calls":
        last = kept[-1]
        none: dict[str, Any] = {"incomplete_tool_calls": ()}
        if isinstance(last, End):
            none.update(
                tool_calls=(), finish="stop" if last.finish == "tool_calls" else last.finish
            )
        kept[-1] = replace(last, **none)
    assert encoded(encoder, parts) == encoded(plain, kept)
    for name in (
        "content_type",
        "headers",
        "heartbeat",
        "shows_restart",
        "has_ids",
        "shows_failure",
    ):
        assert getattr(encoder, name) == getattr(plain, name)


@pytest.mark.parametrize("option", ["thinking", "tool_calls"])
@pytest.mark.parametrize("odd", [None, 0, "no", []])
def test_what_is_hidden_is_said_by_a_bool(option: str, odd: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        make_encoder("events", **{option: odd})


@pytest.mark.parametrize("odd", [1, "yes", []])
def test_include_usage_is_a_bool(odd: Any) -> None:
    with pytest.raises(ConfigurationError, match="include_usage"):
        make_encoder("chat-completions", include_usage=odd)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"stream_options": {"include_usage": True}}, True),
        (b'{"stream_options": {"include_usage": true}}', True),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": None}, False),
        ({}, False),
        (None, False),
        ("odd", False),
    ],
)
def test_the_request_decides_whether_there_is_usage(body: Any, asked: bool) -> None:
    encoder = make_encoder("chat-completions", body=body)
    frames = encoded(encoder, [Begin("t"), End(usage=Usage(3, 4))])
    assert (b'"usage"' in b"".join(frames)) == asked


@pytest.mark.parametrize(("protocol", "version"), VERSIONS)
def test_joined_text_survives_whole(protocol: str, version: Any) -> None:
    """The nastiest text there is, in one piece and by the character."""
    text = "".join(NASTY).replace("\ud83d", "").replace("\ude42", "")
    for pieces in ([text], list(text)):
        parts: list[Part] = [Begin("t"), *map(Text, pieces), End(finish="stop")]
        body = b"".join(encoded(make_encoder(protocol, version), parts))
        if protocol == "text":
            assert body.decode() == text
        elif protocol == "html":
            told = shown([e.data for e in parse_sse(body) if e.name in ("token", "message")])
            assert told.text == as_html(text)
        else:
            told_text = "".join(
                _text_of(json.loads(e.data))[1]
                for e in parse_sse(body)
                if e.data.startswith("{") and _is_text(e.data)
            )
            assert told_text == text
        assert joined(parts, Text) == text


def _is_text(data: str) -> bool:
    kind = json.loads(data).get("type", "text-delta")
    return kind in ("text-delta", "TEXT_MESSAGE_CONTENT")
