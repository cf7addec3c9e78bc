"""The Messages API and the servers that speak it: small transcripts, written by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from corpus import is_json
from every import every
from support import ONCE, failure

from llmstream import (
    Chunk,
    Client,
    ConfigurationError,
    FirstTokenTimeout,
    IdleTimeout,
    OverloadedError,
    ProtocolError,
    Result,
    ServerError,
    StreamTruncated,
    Timeouts,
    Usage,
)
from llmstream._core.dialects import APIS
from llmstream._core.request import Request
from llmstream._core.session import Session
from llmstream._core.tool_calls import partition_calls
from llmstream.events import (
    ContentBlock,
    ContentBlockDelta,
    ContentBlockDeltaEvent,
    ContentBlockStartEvent,
    UnknownEvent,
)
from llmstream.events import messages as ev
from llmstream.testing import Answer, FakeClock, FakeTransport, Pings, Reply, Silence

MESSAGES = APIS["messages"].load()
WIRE = Path(__file__).resolve().parents[3] / "shared" / "wire" / "messages_events.json"


# ---- writing transcripts -----------------------------------------------------------------------


def say(kind: str, **fields: Any) -> bytes:
    """One event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def begin(*content: Any, **fields: Any) -> bytes:
    message = {"id": "msg_1", "role": "assistant", "model": "m-1", "content": [*content], **fields}
    return say("message_start", message=message)


def start(index: int | None, type: str, **fields: Any) -> bytes:
    return say("content_block_start", index=index, content_block={"type": type, **fields})


def delta(index: int | None, **fields: Any) -> bytes:
    """A delta; its type is told by its field."""
    kinds = {"text": "text", "thinking": "thinking", "partial_json": "input_json"}
    kind = next(iter(fields))
    fields.setdefault("type", f"{kinds.get(kind, kind)}_delta")
    return say("content_block_delta", index=index, delta=fields)


def stop(index: int | None) -> bytes:
    return say("content_block_stop", index=index)


def block(index: int | None, type: str, *deltas: dict[str, Any], **fields: Any) -> bytes:
    """A whole block."""
    return b"".join(
        [start(index, type, **fields), *(delta(index, **d) for d in deltas), stop(index)]
    )


def text(index: int | None, *pieces: str) -> bytes:
    return block(index, "text", *({"text": piece} for piece in pieces), text="")


def ending(reason: str | None = "end_turn", **fields: Any) -> bytes:
    return say("message_delta", delta={"stop_reason": reason}, **fields) + say("message_stop")


END = ending()
PING = say("ping")


def read(*parts: bytes) -> tuple[Session, Result]:
    """What the session makes of a body that ends cleanly behind the parts."""
    session = Session(MESSAGES)
    session.receive(b"".join(parts))
    session.receive_eof()
    state = session.state
    calls, broken = partition_calls(MESSAGES.calls(state), state.finish == "length", is_json)
    return session, Result(
        text=state.text,
        thinking=state.thinking,
        tool_calls=calls,
        incomplete_tool_calls=broken,
        finish=state.finish,
        usage=state.usage,
        items=tuple(item.wire() for item in state.in_order() if item.wire is not None),
        turn=MESSAGES.assistant_turn(state, frozenset(call.id for call in calls if call.id)),
    )


def whole(*parts: bytes) -> Result:
    """The same of what has to be a success."""
    session, result = read(*parts)
    assert session.error is None
    assert session.complete
    return result


def chunks(*parts: bytes) -> list[tuple[str, str, int]]:
    """What the reader of `chunks()` is given."""
    session = Session(MESSAGES)
    events = session.receive(b"".join(parts))
    return [(c.type, c.text, c.index) for event in events for c in event.chunks]


def calls(result: Result) -> list[tuple[Any, ...]]:
    return [(call.id, call.name, call.arguments) for call in result.tool_calls]


# ---- what ends an answer -----------------------------------------------------------------------


@every(
    "parts",
    [
        [],
        [PING],
        [begin()],
        [begin(), text(0, "Hi")],
        [begin(), text(0, "Hi"), say("message_delta", delta={"stop_reason": "end_turn"})],
        [begin(), text(0, "Hi"), END[:-1]],
        [begin(), text(0, "Hi"), b"data: [DONE]\n\n"],
        [begin(), text(0, "Hi"), PING, PING],
        [begin(stop_reason="end_turn")],
        [begin({"type": "text", "text": "Hi"}, stop_reason="end_turn")],
    ],
)
def test_only_message_stop_completes(parts: list[bytes]) -> None:
    """Not the reason of the ending, nor [DONE], nor the end of the body."""
    session, result = read(*parts)
    assert isinstance(session.error, StreamTruncated)
    assert "Hi".startswith(result.text)


def test_a_gateways_end_marker_is_harmless() -> None:
    """[DONE] behind the end, and even before it."""
    assert whole(begin(), text(0, "Hi"), END, b"data: [DONE]\n\n").text == "Hi"
    assert whole(begin(), text(0, "Hi"), b"data: [DONE]\n\n", END).text == "Hi"


REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
    "pause_turn": "pause",
    "compaction": "pause",
    "something_new": "something_new",
}


@every(("reason", "finish"), REASONS.items())
@every("where", ["message_delta", "message_start"])
def test_every_stop_reason(reason: str, finish: str, where: str) -> None:
    """In the common vocabulary; a new one as the service wrote it."""
    if where == "message_delta":
        result = whole(begin(), text(0, "Hi"), ending(reason))
    else:
        preset = begin({"type": "text", "text": "Hi"}, stop_reason=reason)
        result = whole(preset, say("message_stop"))
    assert (result.text, result.finish) == ("Hi", finish)


def test_every_stop_reason_of_the_vendor_is_tested() -> None:
    """The table above is not shorter than the vendor's list."""
    if not WIRE.exists():
        pytest.skip(f"{WIRE} is absent")
    table = json.loads(WIRE.read_text())
    assert {*table["StopReason"], *table["BetaStopReason"]} <= set(REASONS)


@pytest.mark.parametrize(
    "parts",
    [
        [begin(), text(0, "Hi"), say("message_stop")],
        [begin(), text(0, "Hi"), ending(None)],
        [begin(), text(0, "Hi"), say("message_delta"), say("message_stop")],
        [begin(), text(0, "Hi"), say("message_delta", delta=None, usage=None), say("message_stop")],
    ],
)
def test_an_ending_without_a_reason(parts: list[bytes]) -> None:
    """The answer is whole, the finish unknown."""
    assert (whole(*parts).text, whole(*parts).finish) == ("Hi", None)


def test_nothing_behind_message_stop_is_read() -> None:
    """It is the end."""
    late = say("error", error={"type": "overloaded_error", "message": "m"})
    assert whole(begin(), text(0, "Hi"), END, text(1, "more"), late).text == "Hi"


# ---- blocks ------------------------------------------------------------------------------------


def test_a_block_may_begin_with_content() -> None:
    """What stands in its start comes first, and once."""
    parts = [begin(), start(0, "text", text="Hel"), delta(0, text="lo"), stop(0), END]
    assert chunks(*parts) == [("text", "Hel", 0), ("text", "lo", 0)]
    assert whole(*parts).items == ({"type": "text", "text": "Hello"},)


def test_blocks_that_overlap() -> None:
    """llama.cpp: the text begins while the thinking is still open; both arrive, at their places."""
    parts = [
        begin(),
        start(0, "thinking", thinking="", signature=""),
        delta(0, thinking="Hm"),
        start(1, "text", text=""),
        delta(1, text="Y"),
        delta(0, thinking="."),
        delta(1, text="es"),
        stop(1),
        stop(0),
        END,
    ]
    assert chunks(*parts) == [
        ("thinking", "Hm", 0),
        ("text", "Y", 1),
        ("thinking", ".", 0),
        ("text", "es", 1),
    ]
    result = whole(*parts)
    assert (result.thinking, result.text) == ("Hm.", "Yes")
    assert [item["type"] for item in result.items] == ["thinking", "text"]


def test_thinking_between_texts_and_calls() -> None:
    """Interleaved thinking: each passage is a block of its own, in its order."""
    result = whole(
        begin(),
        block(0, "thinking", {"thinking": "a"}, {"signature": "s1"}, thinking="", signature=""),
        text(1, "b"),
        block(2, "thinking", {"thinking": "c"}, {"signature": "s2"}, thinking="", signature=""),
        block(3, "tool_use", {"partial_json": '{"x":1}'}, id="t1", name="f", input={}),
        ending("tool_use"),
    )
    assert (result.thinking, result.text) == ("ac", "b")
    assert result.to_messages() == [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "a", "signature": "s1"},
                {"type": "text", "text": "b"},
                {"type": "thinking", "thinking": "c", "signature": "s2"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
            ],
        }
    ]


def test_blocks_that_arrive_out_of_order() -> None:
    """The turn has them by their index."""
    result = whole(begin(), text(1, "b"), text(0, "a"), END)
    assert [item["text"] for item in result.items] == ["a", "b"]


SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "abcdef"}
THINKING = [
    start(0, "thinking", thinking="", signature=""),
    delta(0, thinking="Hm."),
    delta(0, signature="abc"),
    delta(0, signature="def"),
    stop(0),
]


def test_a_signature_comes_in_pieces() -> None:
    """It belongs to the block once that has stopped, and is nothing that the reader is shown."""
    result = whole(begin(), *THINKING, END)
    assert result.items == (SIGNED,)
    assert chunks(begin(), *THINKING, END) == [("thinking", "Hm.", 0)]


@pytest.mark.parametrize("length", range(len(THINKING)))
def test_a_cut_before_the_stop_leaves_no_signed_block(length: int) -> None:
    """Half a signature is worthless: the block is in no item and in no turn."""
    session, result = read(begin(), *THINKING[:length])
    assert isinstance(session.error, StreamTruncated)
    assert (result.items, result.to_messages()) == ((), [])
    assert result.thinking == ("Hm." if length > 1 else "")


def test_a_cut_behind_the_stop_keeps_the_signed_block() -> None:
    """Only what was closed is kept; the text behind it was not."""
    _, result = read(begin(), *THINKING, start(1, "text", text=""), delta(1, text="Ye"))
    assert result.items == (SIGNED,)
    assert result.text == "Ye"


def test_a_signature_alone() -> None:
    """Thinking that is not shown: the block has only its signature, which must go back."""
    only = block(0, "thinking", {"signature": "abc"}, thinking="", signature="")
    (item,) = whole(begin(), only, text(1, "Hi"), END).items[:1]
    assert item == {"type": "thinking", "thinking": "", "signature": "abc"}


def test_redacted_thinking() -> None:
    """Unreadable, and kept: the next turn has to hold it."""
    redacted = {"type": "redacted_thinking", "data": "EtECxyz"}
    result = whole(begin(), block(0, **redacted), text(1, "Hi"), END)
    assert result.thinking == ""
    assert result.items[0] == redacted
    assert result.to_messages()[0]["content"][0] == redacted


def test_citations_are_collected_into_their_block() -> None:
    """In their order, beside the text."""
    one, two = {"type": "char_location", "cited_text": "a"}, {"type": "page_location"}
    result = whole(
        begin(),
        block(
            0, "text", {"citation": one, "type": "citations_delta"}, {"text": "Hi"},
            {"citation": two, "type": "citations_delta"}, text="", citations=[],
        ),
        text(1, "plain"),
        END,
    )  # fmt: skip
    assert result.items == (
        {"type": "text", "text": "Hi", "citations": [one, two]},
        {"type": "text", "text": "plain"},
    )
    assert result.text == "Hiplain"


@pytest.mark.parametrize(
    ("deltas", "item"),
    [
        (
            [{"content": "So far.", "type": "compaction_delta"}],
            {"type": "compaction", "content": "So far."},
        ),
        (
            [{"content": "So ", "type": "compaction_delta"},
             {"content": "far.", "type": "compaction_delta"}],
            {"type": "compaction", "content": "So far."},
        ),
        (
            [{"content": None, "encrypted_content": "xyz", "type": "compaction_delta"}],
            {"type": "compaction", "content": None, "encrypted_content": "xyz"},
        ),
    ],
)  # fmt: skip
def test_compaction(deltas: list[dict[str, Any]], item: dict[str, Any]) -> None:
    """A summary of what was said before: no text of the answer, but an item that goes back."""
    parts = [begin(), block(0, "compaction", *deltas, content=None), text(1, "Hi"), END]
    result = whole(*parts)
    assert result.items[0] == item
    assert (result.text, chunks(*parts)) == ("Hi", [("text", "Hi", 1)])


@every(
    "item",
    [
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"url": "u"}]},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": {"error_code": "e"}},
        {"type": "code_execution_tool_result", "tool_use_id": "s1", "content": {"stdout": ""}},
        {"type": "mcp_tool_result", "tool_use_id": "s1", "is_error": True, "content": "x"},
        {"type": "container_upload", "file_id": "f1"},
        {"type": "something_new", "field": {"deep": [1, None]}},
    ],
)
def test_what_the_service_ran_itself(item: dict[str, Any]) -> None:
    """Its call and its result are items, whole and with all their fields, and no calls of ours."""
    used = {"type": "server_tool_use", "id": "s1", "name": "web_search", "caller": {"type": "d"}}
    pieces = [{"partial_json": ""}, {"partial_json": '{"query":'}, {"partial_json": ' "q"}'}]
    parts = [
        begin(),
        block(0, used.pop("type"), *pieces, input={}, **used),
        block(1, **item),
        text(2, "Hi"),
        END,
    ]
    result = whole(*parts)
    assert result.items[0] == {
        "type": "server_tool_use",
        "id": "s1",
        "name": "web_search",
        "caller": {"type": "d"},
        "input": {"query": "q"},
    }
    assert result.items[1] == item
    assert (result.tool_calls, result.incomplete_tool_calls) == ((), ())
    assert result.finish == "stop"
    assert chunks(*parts) == [("text", "Hi", 2)]


# ---- tool calls --------------------------------------------------------------------------------


@every(
    ("input", "pieces", "arguments"),
    [
        ({}, [], "{}"),
        ({}, [""], "{}"),
        ({}, ["", "{}"], "{}"),
        (None, [], "{}"),
        ({}, ["", '{"x":', " 1}"], '{"x": 1}'),
        ({"x": 1}, [], '{"x": 1}'),
        ({"x": "ü"}, [], '{"x": "ü"}'),
        ({"x": 1}, ["", '{"x":2}'], '{"x":2}'),
    ],
)
def test_a_tool_call(input: Any, pieces: list[str], arguments: str) -> None:
    """Its input in pieces, or in its start, or none at all, which is {}."""
    deltas = [{"partial_json": piece} for piece in pieces]
    parts = [
        begin(),
        block(0, "tool_use", *deltas, id="t1", name="f", input=input),
        ending("tool_use"),
    ]
    result = whole(*parts)
    assert calls(result) == [("t1", "f", arguments)]
    assert result.incomplete_tool_calls == ()
    assert result.to_messages()[0]["content"][0]["input"] == json.loads(arguments)
    shown = "".join(piece for _, piece, _ in chunks(*parts))
    assert shown in (arguments, "")


def test_calls_that_overlap() -> None:
    """Their pieces are told apart by the index."""
    result = whole(
        begin(),
        start(0, "tool_use", id="t1", name="f", input={}),
        start(1, "tool_use", id="t2", name="g", input={}),
        delta(1, partial_json='{"y"'),
        delta(0, partial_json='{"x"'),
        delta(0, partial_json=":1}"),
        delta(1, partial_json=":2}"),
        stop(0),
        stop(1),
        ending("tool_use"),
    )
    assert calls(result) == [("t1", "f", '{"x":1}'), ("t2", "g", '{"y":2}')]


CALL = [
    start(0, "tool_use", id="t1", name="f", input={}),
    delta(0, partial_json='{"x":'),
    delta(0, partial_json="1}"),
]


@every("length", [1, 2, 3])
@every("end", [[], [ending("max_tokens")], [ending("tool_use")]])
def test_a_call_without_its_stop_is_not_safe(length: int, end: list[bytes]) -> None:
    """Even where what came of its input is JSON, and even where the message ended."""
    _, result = read(begin(), *CALL[:length], *end)
    assert result.tool_calls == ()
    expected = ("", '{"x":', '{"x":1}')[length - 1]
    assert [(c.name, c.arguments) for c in result.incomplete_tool_calls] == [("f", expected)]
    assert (result.items, result.to_messages()) == ((), [])


@pytest.mark.parametrize("length", [1, 2])
def test_a_call_that_the_limit_cut(length: int) -> None:
    """The service stops the block all the same: half an input is no input, and the turn could not
    be sent back with it."""
    _, result = read(begin(), text(1, "Hi"), *CALL[:length], stop(0), ending("max_tokens"))
    assert result.tool_calls == ()
    assert len(result.incomplete_tool_calls) == 1
    assert result.to_messages() == [
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    ]


def test_input_that_is_no_json_is_not_safe() -> None:
    """And in no turn."""
    parts = [begin(), *CALL[:2], stop(0), ending("tool_use")]
    result = whole(*parts)
    assert result.tool_calls == ()
    assert result.to_messages() == []


def test_a_call_without_a_name_is_in_no_turn() -> None:
    """Nobody knows what to run."""
    result = whole(begin(), block(0, "tool_use", id="t1", input={}), ending("tool_use"))
    assert result.to_messages() == []


def test_a_call_without_an_id_gets_one() -> None:
    """The same in the call and in the turn."""
    result = whole(begin(), block(0, "tool_use", name="f", input={}), ending("tool_use"))
    (call,), (turn,) = result.tool_calls, result.to_messages()
    assert call.id
    assert turn["content"] == [{"type": "tool_use", "name": "f", "input": {}, "id": call.id}]


@pytest.mark.parametrize("pieces", [[], [""], [" "], ["\n\n", " "]])
def test_an_empty_text_is_in_no_turn(pieces: list[str]) -> None:
    """The API refuses text blocks without anything but white space, and a turn without blocks;
    the text itself stays as it was."""
    called = block(1, "tool_use", id="t1", name="f", input={})
    result = whole(begin(), text(0, *pieces), called, ending("tool_use"))
    (turn,) = result.to_messages()
    assert [item["type"] for item in turn["content"]] == ["tool_use"]
    result = whole(begin(), text(0, *pieces), END)
    assert result.text == "".join(pieces)
    assert result.to_messages() == []


@pytest.mark.parametrize(
    "last", [SIGNED, {"type": "redacted_thinking", "data": "xyz"}], ids=lambda item: item["type"]
)
def test_no_turn_ends_in_thinking(last: dict[str, Any]) -> None:
    """ "The final block in an assistant message cannot be `thinking`": what it led to was cut."""
    result = whole(begin(), text(0, "Hi"), block(1, **last), ending("max_tokens"))
    assert [item["type"] for item in result.items] == ["text", last["type"]]
    assert result.to_messages() == [
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    ]
    assert whole(begin(), block(0, **last), ending("max_tokens")).to_messages() == []


# ---- a whole answer in message_start -----------------------------------------------------------


def test_a_message_that_begins_whole() -> None:
    """Text, thinking and a call with its input: each a chunk, an item, and closed."""
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
    ]
    parts = [begin(*content, stop_reason="tool_use"), say("message_stop")]
    assert chunks(*parts) == [
        ("thinking", "Hm.", 0),
        ("text", "Hi", 1),
        ("tool_call", '{"x": 1}', 2),
    ]
    result = whole(*parts)
    assert list(result.items) == content
    assert calls(result) == [("t1", "f", '{"x": 1}'), ("t2", "g", "{}")]
    assert result.finish == "tool_calls"


def test_a_message_that_begins_with_an_empty_block() -> None:
    """Some gateways announce the first block twice: what follows is its content."""
    parts = [begin({"type": "text", "text": ""}), text(0, "Hi"), END]
    assert whole(*parts).text == "Hi"
    parts = [begin({"type": "text", "text": ""}), delta(0, text="Hi"), stop(0), END]
    assert whole(*parts).text == "Hi"


def test_a_message_that_begins_with_content_goes_on() -> None:
    """Further blocks follow with further indices."""
    result = whole(begin({"type": "text", "text": "a"}), text(1, "b"), END)
    assert result.text == "ab"


# ---- usage -------------------------------------------------------------------------------------


def usage(**fields: Any) -> dict[str, Any]:
    return {"usage": fields}


@every(
    ("first", "last", "expected"),
    [
        (
            usage(input_tokens=12, output_tokens=1),
            usage(output_tokens=34),
            Usage(12, 34, 46),
        ),
        (
            usage(input_tokens=12, output_tokens=1),
            usage(input_tokens=20, output_tokens=34),
            Usage(20, 34, 54),
        ),
        (
            usage(input_tokens=12, cache_read_input_tokens=3, output_tokens=1),
            usage(output_tokens=34, output_tokens_details={"thinking_tokens": 30}),
            Usage(12, 34, 49, 3, 30),
        ),
        (
            usage(
                input_tokens=100,
                cache_read_input_tokens=900,
                cache_creation_input_tokens=50,
                output_tokens=1,
            ),
            usage(
                input_tokens=0,
                cache_read_input_tokens=0,
                cache_creation_input_tokens=0,
                output_tokens=5,
            ),
            Usage(100, 5, 1055, 900, None, 50),
        ),
        (
            usage(input_tokens=12, output_tokens=1),
            usage(input_tokens=None, output_tokens=0),
            Usage(12, 0, 12),
        ),
        (usage(input_tokens=12, output_tokens=1), {}, Usage(12, 1, 13)),
        (usage(input_tokens=12, output_tokens=1), {"usage": None}, Usage(12, 1, 13)),
        ({}, usage(output_tokens=34), Usage(None, 34, None)),
        ({}, {}, Usage()),
        (
            usage(input_tokens="12", output_tokens="many"),
            usage(output_tokens=34, new_field={"deep": 1}),
            Usage(12, 34, 46),
        ),
    ],
)
def test_usage(first: dict[str, Any], last: dict[str, Any], expected: Usage) -> None:
    """Cumulative: the later report replaces the earlier one, field by field, and never adds."""
    assert whole(begin(**first), text(0, "Hi"), ending(**last)).usage == expected


def test_several_reports_of_usage() -> None:
    """The last one counts."""
    reports = [
        say("message_delta", delta={}, usage={"output_tokens": count}) for count in (5, 10, 15)
    ]
    used = begin(usage={"input_tokens": 1, "output_tokens": 1})
    assert whole(used, text(0, "Hi"), *reports, END).usage == Usage(1, 15, 16)


# ---- pings, padding, errors --------------------------------------------------------------------

WHOLE = [
    begin(),
    start(0, "text", text=""),
    delta(0, text="H"),
    delta(0, text="i"),
    stop(0),
    say("message_delta", delta={"stop_reason": "end_turn"}),
    say("message_stop"),
]


@every("place", range(len(WHOLE)))
@every("ping", [PING, b": ping\n\n", b"event: ping\ndata: {}\n\n"])
def test_a_ping_anywhere(place: int, ping: bytes) -> None:
    """Before, between and inside: the same answer."""
    result = whole(*WHOLE[:place], ping, *WHOLE[place:])
    assert (result.text, result.finish, result.items) == (
        "Hi",
        "stop",
        ({"type": "text", "text": "Hi"},),
    )


def test_pings_are_no_content_and_no_progress() -> None:
    """They keep neither the first-token clock nor the idle clock from running out."""

    def ask(*steps: Any) -> Any:
        client = Client(
            "messages",
            base_url="http://test",
            model="m",
            retry=ONCE,
            transport=FakeTransport(Reply(steps)),
            clock=FakeClock(),
            timeouts=Timeouts(first_token=30.0, idle=20.0, silence=10.0),
        )
        return failure(client.stream("Hi"))

    pings = Pings(every=5.0, data=PING)
    assert isinstance(ask(begin(), pings, Silence()), FirstTokenTimeout)
    announced = start(0, "text", text="")
    assert isinstance(ask(begin(), announced, pings, Silence()), FirstTokenTimeout)
    begun = [begin(), announced, delta(0, text="Hi")]
    assert isinstance(ask(*begun, pings, Silence()), IdleTimeout)


def test_padding_inside_the_json() -> None:
    """The service pads its events with blanks against traffic analysis."""
    padded = [part.replace(b"}\n\n", b"}            \n\n") for part in WHOLE]
    inside = [part.replace(b"}\n\n", b"      }\n\n") for part in WHOLE]
    for parts in (padded, inside):
        assert whole(*parts).text == "Hi"


def test_events_without_event_lines() -> None:
    """The type in the JSON decides; where both are there and differ, too."""
    bare = [part.partition(b"\n")[2] for part in WHOLE]
    assert whole(*bare).text == "Hi"
    misnamed = [b"event: message\n" + part for part in bare]
    assert whole(*misnamed).text == "Hi"


BUSY = {"type": "overloaded_error", "message": "busy"}


@every(
    "broken",
    [
        say("error", error=BUSY),
        say("error", error=BUSY, request_id="req_1"),
        say("error", error={**BUSY, "details": None}),
        b"data: " + json.dumps({"type": "error", "error": BUSY}).encode() + b"\n\n",
        b"event: error\ndata: " + json.dumps({"error": BUSY}).encode() + b"\n\n",
        b"event: error\ndata: " + json.dumps(BUSY).encode() + b"\n\n",
        b"data: " + json.dumps({"error": BUSY}).encode() + b"\n\n",
        b"error: " + json.dumps({"error": BUSY}).encode() + b"\n\n",
        b"error: " + json.dumps(BUSY).encode() + b"\n\n",
    ],
    ids=lambda part: part.decode().strip()[:60],
)
@every("place", [0, 1, 3, 6])
def test_an_error_in_each_of_its_forms(broken: bytes, place: int) -> None:
    """As the first and only event, or anywhere: the answer has failed, what came is kept."""
    session, result = read(*WHOLE[:place], broken, *WHOLE[place:])
    assert isinstance(session.error, OverloadedError), session.error
    assert "busy" in session.error.message
    assert not session.complete
    assert result.text == {0: "", 1: "", 3: "H", 6: "Hi"}[place]


@every(
    "broken",
    [say("error"), say("error", error=None), say("error", error="boom"), say("error", error=[]),
     b"event: error\ndata: boom\n\n", b"event: error\ndata: null\n\n"],
)  # fmt: skip
def test_an_error_without_words_that_are_known(broken: bytes) -> None:
    """Still a failure of the service."""
    session, _ = read(begin(), broken)
    assert isinstance(session.error, ServerError), session.error


def test_the_request_id_of_an_error_in_the_stream() -> None:
    """For the service's support."""
    session, _ = read(say("error", error=BUSY, request_id="req_1"))
    assert session.error is not None
    assert session.error.request_id == "req_1"


def test_an_overloaded_service_is_asked_again() -> None:
    """The error is the first and only event, in a 200: the next attempt has the answer."""
    transport = FakeTransport(Reply(say("error", error=BUSY)), Answer("Hi"))
    client = Client(
        "messages", base_url="http://test", model="m", transport=transport, clock=FakeClock()
    )
    result = client.stream("Hi").result()
    assert result.text == "Hi"
    assert [type(attempt.error).__name__ for attempt in result.attempts] == [
        "OverloadedError",
        "NoneType",
    ]


# ---- what is unknown, and what is odd ----------------------------------------------------------


def test_unknown_events_and_deltas_are_kept() -> None:
    """ "New event types may be added": they are events, and the answer goes on."""
    session = Session(MESSAGES)
    events = session.receive(
        b"".join(
            [
                begin(),
                say("something_new", field={"deep": 1}),
                start(0, "text", text=""),
                delta(0, new="x", type="new_delta"),
                delta(0, text="Hi"),
                stop(0),
                END,
            ]
        )
    )
    unknown, odd = events[1], events[3]
    assert isinstance(unknown, UnknownEvent)
    assert (unknown.type, unknown.data["field"]) == ("something_new", {"deep": 1})
    assert isinstance(odd, ContentBlockDeltaEvent)
    assert odd.json()["delta"] == {"new": "x", "type": "new_delta"}
    assert (session.state.text, session.complete) == ("Hi", True)
    assert len(events) == 8


@every(
    "odd",
    [
        say("content_block_start", index=9),
        say("content_block_start", index=9, content_block=None),
        say("content_block_start", index=9, content_block={}),
        say("content_block_start", index=9, content_block={"type": None}),
        say("content_block_delta", index=9),
        say("content_block_delta", index=9, delta=None),
        say("content_block_delta", index=9, delta={}),
        say("content_block_delta", index=9, delta={"type": None}),
        say("content_block_delta", index=9, delta={"type": "text_delta"}),
        say("content_block_delta", index=9, delta={"type": "text_delta", "text": None}),
        say("content_block_delta", index=9, delta={"type": "citations_delta", "citation": None}),
        say("content_block_delta", index=9, delta={"type": "input_json_delta"}),
        say("content_block_stop", index=9),
        say("content_block_stop", index=-1),
        say("content_block_stop", index=10**30),
        say("message_delta"),
        say("message_delta", delta={}, usage={}),
        say("message_start"),
        say("message_start", message=None),
        say("message_start", message={"content": None, "usage": None}),
        say("message_start", message={"content": [], "id": 5, "model": []}),
        say("ping", extra=[1]),
        b"data: {}\n\n",
        b"data: []\n\n",
        b"data: null\n\n",
        b'data: {"type": null}\n\n',
        b'data: {"type": 5}\n\n',
        b'data: {"type": []}\n\n',
        b'data: {"type": {}}\n\n',
        b"data:\n\n",
    ],
    ids=lambda part: part.decode().strip()[-60:],
)
def test_an_event_that_says_nothing_changes_nothing(odd: bytes) -> None:
    """Anywhere between the events of an answer."""
    for place in range(len(WHOLE)):
        result = whole(*WHOLE[:place], odd, *WHOLE[place:])
        assert (result.text, result.finish, result.tool_calls) == ("Hi", "stop", ())


@every(
    "broken",
    [
        b"data: {half\n\n",
        say("content_block_delta", index=0, delta="Hi"),
        say("content_block_delta", index=0, delta=["Hi"]),
        say("content_block_delta", index=0, delta={"type": "text_delta", "text": 5}),
        say("content_block_delta", index=0, delta={"type": "text_delta", "text": ["Hi"]}),
        say("content_block_delta", index=0, delta={"type": "text_delta", "text": {"a": "Hi"}}),
        say("content_block_start", index=1, content_block="Hi"),
        say("content_block_start", index=1, content_block={"type": "text", "text": 5}),
        say("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": {}}),
    ],
    ids=lambda part: part.decode().strip()[-70:],
)
def test_content_that_cannot_be_read_does_not_vanish(broken: bytes) -> None:
    """It is a ProtocolError: leaving it out and reporting a success would be a lie."""
    session, result = read(*WHOLE[:3], broken, *WHOLE[3:])
    assert isinstance(session.error, ProtocolError), (session.error, result.text)
    assert result.text == "H"


def test_text_behind_its_blocks_stop_does_not_vanish() -> None:
    """A server that closes a block too early has still said it: it is delivered, or it is a
    ProtocolError, but the answer is no success without it."""
    session, result = read(begin(), text(0, "a"), delta(0, text="b"), END)
    assert isinstance(session.error, ProtocolError) or result.text == "ab"


@pytest.mark.parametrize("index", [None, 0])
def test_blocks_without_indices_of_their_own(index: int | None) -> None:
    """A server that numbers nothing, or everything 0, still begins and ends its blocks."""
    result = whole(
        begin(),
        block(index, "thinking", {"thinking": "Hm."}, thinking="", signature=""),
        text(index, "Hi"),
        block(index, "tool_use", {"partial_json": '{"x":1}'}, id="t1", name="f", input={}),
        ending("tool_use"),
    )
    assert (result.thinking, result.text) == ("Hm.", "Hi")
    assert calls(result) == [("t1", "f", '{"x":1}')]


def test_a_second_message_start_says_nothing_twice() -> None:
    """Its blocks are not delivered again."""
    first = begin({"type": "text", "text": "Hi"})
    assert chunks(first, first, END) == [("text", "Hi", 0)]


@pytest.mark.parametrize("size", [2, 3])
def test_any_order_of_events_has_an_outcome(size: int) -> None:
    """Starts, deltas and stops in every order: no foreign exception, nothing delivered twice, and
    a block in the turn is a block that was begun and stopped."""
    events = [
        begin(),
        start(0, "text", text=""),
        delta(0, text="x"),
        stop(0),
        start(1, "tool_use", id="t", name="f", input={}),
        delta(1, partial_json="{}"),
        stop(1),
    ]
    for parts in itertools.permutations(events, size):
        session, result = read(*parts, END)
        assert session.complete or session.error is not None
        assert result.text in ("", "x")
        for turn in result.to_messages():
            assert {"text", "tool_use"} >= {item["type"] for item in turn["content"]}


# ---- the vendor's own types --------------------------------------------------------------------


def test_every_event_of_the_vendor_is_typed() -> None:
    """Each event, with all its fields, is one of our classes."""
    table = _table()
    classes = {cls.type: cls for cls in ev.EVENTS}
    for name in ("stream_events", "beta_stream_events"):
        for kind, row in table[name].items():
            missing = _fields(row["fields"]) - {"type", *classes[kind].__struct_encode_fields__}
            assert not missing, kind
    assert set(table["wire_only_events"]) <= set(classes)


@pytest.mark.parametrize(
    ("names", "struct"),
    [
        (("delta_types", "beta_delta_types"), ContentBlockDelta),
        (("content_block_start_types", "beta_content_blocks"), ContentBlock),
    ],
)
def test_every_block_and_delta_of_the_vendor_is_typed(names: tuple[str, ...], struct: Any) -> None:
    """One class stands for all kinds: it has every field of each."""
    table = _table()
    for name in names:
        for kind, row in table[name].items():
            missing = _fields(row["fields"]) - set(struct.__struct_encode_fields__)
            assert not missing, kind


@pytest.mark.parametrize(
    ("name", "struct"),
    [
        ("message_delta.delta", ev.MessageDelta),
        ("Message", ev.Message),
        ("Usage", ev.MessageUsage),
        ("MessageDeltaUsage", ev.MessageUsage),
        ("BetaUsage", ev.MessageUsage),
    ],
)
def test_every_field_of_the_message_is_typed(name: str, struct: Any) -> None:
    """The message, how it ends, and its usage."""
    assert not _fields(_table()[name]) - set(struct.__struct_encode_fields__)


def test_every_block_of_the_vendor_survives() -> None:
    """A block of each kind, with every field it can have, is an item exactly as it came."""
    table = _table()
    for name in ("content_block_start_types", "beta_content_blocks"):
        for kind, row in table[name].items():
            made = {field: _value(field) for field in _fields(row["fields"])}
            item = {**made, "type": kind}
            result = whole(begin(), block(0, **item), END)
            assert result.items == (item,), kind
            assert result.items == whole(begin(item), END).items


def test_every_event_of_ours_is_decoded_as_its_class() -> None:
    """From the wire, by its type."""
    session = Session(MESSAGES)
    (event,) = session.receive(start(0, "text", text="Hi"))
    assert isinstance(event, ContentBlockStartEvent)
    assert event.content_block is not None
    assert (event.content_block.type, event.content_block.text) == ("text", "Hi")
    assert event.chunks == (Chunk("text", "Hi", 0),)


def _table() -> Any:
    if not WIRE.exists():
        pytest.skip(f"{WIRE} is absent")
    return json.loads(WIRE.read_text())


def _fields(rows: list[dict[str, Any]]) -> set[str]:
    return {row["name"].rstrip("_") for row in rows}


def _value(field: str) -> Any:
    """Something that a field of this name may hold."""
    known: dict[str, Any] = {"input": {"x": 1}, "content": [{"type": "x"}], "citations": [{}]}
    return known.get(field, True if field == "is_error" else f"some {field}")


# ---- thinking ----------------------------------------------------------------------------------


def thinking_of(model: str, thinking: Any, limit: int | None = None) -> dict[str, Any]:
    request = Request(prompt="Hi", model=model, thinking=thinking, max_output_tokens=limit)
    body: dict[str, Any] = json.loads(MESSAGES.request(request, "http://test").body)
    return body


@every(
    "model",
    [
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
        "claude-opus-4-20250514",
        "claude-opus-4-1",
        "claude-opus-4-5",
        "claude-sonnet-4-5@20250929",
        "claude-3-7-sonnet-latest",
        "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "anthropic/claude-sonnet-4.5",
        "Claude-Sonnet-4",
    ],
)
def test_older_models_think_within_a_budget(model: str) -> None:
    """They refuse adaptive thinking, and an effort; max_tokens is above the budget."""
    for thinking, budget in ((True, 4096), ("low", 2048), ("high", 8192), ("max", 16384)):
        body = thinking_of(model, thinking)
        assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}
        assert body["max_tokens"] == 4096 + budget
        assert "output_config" not in body


@every(
    "model",
    [
        "claude-opus-4-6",
        "claude-opus-4-8",
        "claude-sonnet-4-6",
        "claude-sonnet-4-6-20260218",
        "claude-haiku-5",
        "claude-opus-5-1",
        "claude-opus-4-10",
        "anthropic.claude-opus-4-6-v1:0",
        "anthropic/claude-opus-4.7",
        "claude-newest",
    ],
)
def test_newer_models_show_their_thoughts(model: str) -> None:
    """They dose thinking themselves, and show none of it unless they are asked to."""
    adaptive = {"type": "adaptive", "display": "summarized"}
    assert thinking_of(model, True)["thinking"] == adaptive
    body = thinking_of(model, "low")
    assert (body["thinking"], body["output_config"]) == (adaptive, {"effort": "low"})


def test_the_default_model_takes_it() -> None:
    assert MESSAGES.default_model is not None
    assert thinking_of(MESSAGES.default_model, True)["thinking"]["type"] == "enabled"


@every(
    ("thinking", "limit", "budget", "most"),
    [
        (True, 20_000, 4096, 20_000),
        (True, 4000, 2000, 4000),
        (True, 1500, 1024, 1500),
        (True, 1024, 1024, 2048),
        (True, 100, 1024, 1124),
        (2048, 9000, 2048, 9000),
        (2048, 2048, 2048, 4096),
        ({"type": "enabled", "budget_tokens": 2048}, 1000, 2048, 3048),
    ],
)
def test_the_limit_is_above_the_budget(thinking: Any, limit: int, budget: int, most: int) -> None:
    """The API refuses any other: a limit that leaves no room is for the answer alone."""
    body = thinking_of("claude-haiku-4-5", thinking, limit)
    assert (body["thinking"]["budget_tokens"], body["max_tokens"]) == (budget, most)


# ---- pieces in odd places ----------------------------------------------------------------------


def strange(kind: str = "content_block_delta", **fields: Any) -> bytes:
    return say(kind, **fields)


OPEN = start(0, "text", text="") + delta(0, text="one ")
CLOSED = delta(0, text="three") + stop(0) + END


@every(
    "piece",
    [
        strange(index=0, delta={"text": "two "}),
        strange(index=0, delta={"type": "new_delta", "text": "two "}),
        strange(index=0, delta={"type": None, "text": "two "}),
        strange(index=0, text="two "),
        strange(index=0, delta={"type": "input_json_delta", "text": "two "}),
        strange(delta={"type": "text_delta", "text": "two "}),
        strange(index=7, delta={"type": "text_delta", "text": "two "}),
        strange(index="0", delta={"type": "text_delta", "text": "two "}),
        strange(index={}, delta={"type": "text_delta", "text": "two "}),
        strange("text_delta", text="two "),
        strange("content_block_delta_2", index=0, delta={"text": "two "}),
        b'data: {"index":0,"delta":{"type":"text_delta","text":"two "}}\n\n',
        b'data: {"text":"two "}\n\n',
    ],
)
def test_the_field_that_is_there_decides(piece: bytes) -> None:
    """Text is placed by its field where the type, the index or the event's name is odd."""
    assert whole(OPEN, piece, CLOSED).text == "one two three"


@every(
    "piece",
    [
        strange(index=0, delta={"type": "text_delta", "content": "two "}),
        strange(index=0, delta={"type": "text_delta", "value": "two "}),
        strange(index=0, delta={"type": "text_delta", "text": None}),
        strange(index=0, delta={"type": "text_delta", "text": 2}),
        strange(index=0, delta={"type": "text_delta", "text": ["two "]}),
        strange(index=0, delta={"type": "input_json_delta", "partial_json": "two "}),
        strange(index=0, delta=None),
        strange(index=0, delta="two "),
        strange("new", delta="two "),
        strange("ping", delta={"text": "two "}),
        strange("message_delta", delta={"text": "two "}),
        strange("content_block_start", index=0, delta={"text": "two "}),
        strange("content_block_stop", index=0, delta={"text": "two "}),
        strange("message_stop", delta={"text": "two "}),
    ],
)
def test_a_piece_that_cannot_be_placed_is_no_success(piece: bytes) -> None:
    session, result = read(OPEN, piece, CLOSED)
    assert type(session.error) is ProtocolError
    assert result.text == "one "


@pytest.mark.parametrize(
    "event",
    [
        strange("status", text="working"),
        strange("new", index=0, level=3),
        strange("new", delta={"level": "3"}),
        strange(index=0, delta={"type": "new_delta", "level": "3"}),
    ],
)
def test_what_has_no_piece_of_the_answer_is_no_error(event: bytes) -> None:
    assert whole(OPEN, event, CLOSED).text == "one three"


def test_a_block_whose_start_is_late_or_missing() -> None:
    named = {"id": "a", "name": "f", "input": {}}
    first, rest = delta(1, partial_json='{"x":'), delta(1, partial_json="1}")
    late = whole(first, start(1, "tool_use", **named), rest, stop(1), END)
    assert [(c.name, c.arguments) for c in late.tool_calls] == [("f", '{"x":1}')]
    missing = whole(first, rest, stop(1), END)
    assert missing.tool_calls == ()
    assert [(c.name, c.arguments) for c in missing.incomplete_tool_calls] == [("", '{"x":1}')]


def test_a_call_whose_input_went_elsewhere_is_not_safe() -> None:
    named = {"id": "a", "name": "f", "input": {}}
    other = delta(9, partial_json='{"x":1}')
    result = whole(start(0, "tool_use", **named), other, stop(0), END)
    assert result.tool_calls == ()
    assert [c.name for c in result.incomplete_tool_calls] == ["f", ""]


@pytest.mark.parametrize("piece", [{"partial_json": None}, {"input": {"x": 1}}, {}])
def test_a_call_that_lost_a_piece_of_its_input(piece: dict[str, Any]) -> None:
    named = {"id": "a", "name": "f", "input": {}}
    lost = strange(index=0, delta={"type": "input_json_delta", **piece})
    session, result = read(start(0, "tool_use", **named), lost, stop(0), END)
    assert type(session.error) is ProtocolError
    assert result.tool_calls == ()


def test_a_block_without_a_type() -> None:
    named = strange("content_block_start", index=0, content_block={"id": "a", "name": "f"})
    result = whole(named, delta(0, partial_json='{"x":1}'), stop(0), END)
    assert [(c.name, c.arguments) for c in result.tool_calls] == [("f", '{"x":1}')]
    begun = strange("content_block_start", index=0, content_block={"text": "one "})
    assert whole(begun, delta(0, text="two"), stop(0), END).text == "one two"


def test_a_whole_message_is_compared_with_what_was_streamed() -> None:
    """The missing end is delivered; another text is no success, and neither is a piece that the
    whole block does not have."""

    def message(text: str) -> bytes:
        return say("message_start", message={"content": [{"type": "text", "text": text}]})

    assert whole(OPEN, message("one two three"), stop(0), END).text == "one two three"
    assert whole(message("one two"), OPEN, delta(0, text="two"), END).text == "one two"
    for body in ((OPEN, message("two"), END), (message("two"), OPEN, END)):
        session, _ = read(*body)
        assert type(session.error) is ProtocolError


@pytest.mark.parametrize("model", ["claude-opus-4-7", "us.anthropic.claude-sonnet-5-v1:0"])
def test_a_budget_for_a_model_that_takes_none(model: str) -> None:
    """The error says what to pass; the API's own option is sent as it is."""
    with pytest.raises(
        ConfigurationError, match=f"{model} takes no budget.*pass True or an effort"
    ):
        thinking_of(model, 2048)
    own = {"type": "enabled", "budget_tokens": 2048}
    assert thinking_of(model, own)["thinking"] == own
    for older in ("claude-opus-4-6", "claude-haiku-4-5", "another-model"):
        assert thinking_of(older, 2048)["thinking"] == own
