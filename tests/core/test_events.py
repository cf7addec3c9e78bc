"""The typed events of the Responses API: complete, lenient, lossless, and what each means."""

from __future__ import annotations

import json
import pickle
import typing
from typing import Any

import msgspec
import pytest
from corpus import WIRE, block, recorded, replay, say
from every import every

from llmstream import events as public
from llmstream._core.dialects import APIS
from llmstream._core.session import Session
from llmstream.events import UnknownEvent
from llmstream.events import responses as ev
from llmstream.events.base import Event
from llmstream.result import ProtocolError

RESPONSES = APIS["responses"].load()
CLASSES = {cls.type: cls for cls in ev.EVENTS}
KINDS = sorted(CLASSES)
ESSENTIAL = {"delta", "item", "response"}
OWN_FIELDS = {"sequence_number", "chunks", "raw"}


def wire() -> dict[str, Any]:
    path = WIRE / "responses_events.json"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def decode(payload: Any, name: str = "message") -> Event | UnknownEvent:
    return RESPONSES.decode(name, json.dumps(payload).encode())


def declared(cls: type[Event]) -> set[str]:
    """The names of a class's fields on the wire."""
    return set(cls.__struct_encode_fields__) - {"$raw", "$chunks"}


# --- the reference ------------------------------------------------------------------------------


def test_there_are_59_and_what_the_wire_adds() -> None:
    """One class for each of the reference's types; and those that only the wire knows."""
    reference = set(wire()["responses_sse_events"])
    assert len(reference) == 59
    assert reference <= set(CLASSES)
    assert set(CLASSES) - reference == {
        "keepalive",
        "response.apply_patch_call_operation_diff.delta",
        "response.apply_patch_call_operation_diff.done",
        "response.reasoning.delta",
        "response.reasoning.done",
        "response.reasoning_part.added",
        "response.reasoning_part.done",
    }
    assert len(CLASSES) == len(ev.EVENTS)


def test_every_field_of_the_reference_is_declared() -> None:
    """Each field that the reference lists for a type can be read from the typed event."""
    for kind, described in wire()["responses_sse_events"].items():
        listed = {f["name"] for f in described["fields"]} - {"type"}
        assert listed <= declared(CLASSES[kind]), kind


def test_the_classes_have_the_references_names() -> None:
    """Who knows the vendor's package finds the same names here."""
    for kind, described in wire()["responses_sse_events"].items():
        assert CLASSES[kind].__name__ == described["class"], kind


def test_the_response_and_its_items_are_declared() -> None:
    """So are the fields of the response, of its usage, of all item types and content parts."""
    reference = wire()
    assert {f["name"] for f in reference["Response"]} <= set(ev.Response.__struct_encode_fields__)
    usage = {f["name"] for f in reference["ResponseUsage"]}
    assert usage <= set(ev.ResponseUsage.__struct_encode_fields__)
    for kind, described in reference["response_output_items"].items():
        fields = {f["name"] for f in described["fields"]}
        assert fields <= set(ev.Item.__struct_encode_fields__), kind
    for kind, fields in reference["content_parts"].items():
        names = {f["name"] for f in fields}
        assert names <= set(ev.ContentPart.__struct_encode_fields__), kind


def test_events_are_public() -> None:
    """Every class is in llmstream.events and its __all__."""
    for cls in ev.EVENTS:
        assert getattr(public, cls.__name__) is cls
        assert cls.__name__ in public.__all__
        assert cls.__doc__


@every("kind", KINDS)
def test_every_field_is_optional(kind: str) -> None:
    """Compatible servers leave fields out: each has a default, and none shares a mutable one."""
    cls = CLASSES[kind]
    assert issubclass(cls, Event)
    assert not cls.__struct_config__.forbid_unknown_fields
    assert cls() == cls()
    for default in cls.__struct_defaults__:
        assert default in (None, (), b"")


# --- decoding -----------------------------------------------------------------------------------


@every("kind", KINDS)
def test_an_empty_event_decodes(kind: str) -> None:
    """A type alone is an event of its class; so is one without a type that the event line names."""
    event = decode({"type": kind})
    assert type(event) is CLASSES[kind]
    assert event.type == kind
    assert event.json() == {"type": kind}
    named = decode({}, name=kind)
    assert type(named) is CLASSES[kind]


@every("kind", KINDS)
def test_the_json_decides_before_the_event_line(kind: str) -> None:
    """Where both name a type, it is the JSON's."""
    assert type(decode({"type": kind}, name="response.created")) is CLASSES[kind]


@every("kind", KINDS)
def test_nulls_decode(kind: str) -> None:
    """Null in every field, the sequence number too, is as if it were left out."""
    nulls = dict.fromkeys(declared(CLASSES[kind]))
    event = decode({"type": kind, **nulls})
    assert event == msgspec.structs.replace(decode({"type": kind}), raw=event.raw)


def fields_of(cls: type[Event]) -> dict[str, Any]:
    """The fields on the wire and their types."""
    hints = typing.get_type_hints(cls)
    names = zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True)
    return {wire: hints[name] for name, wire in names if not wire.startswith("$")}


def fits(value: Any, hint: Any) -> bool:
    try:
        msgspec.json.decode(json.dumps(value), type=hint)
    except msgspec.ValidationError:
        return False
    return True


WRONG: list[Any] = [
    5,
    -1,
    2**70,
    1.5,
    True,
    "text",
    "5",
    "",
    [],
    [None],
    [[]],
    [5],
    {},
    {"a": None},
    {"type": 5},
    {"id": []},
    {"output": {}},
    {"output": [None, 5, {"content": [None, 5, {"text": 5}]}]},
    {"usage": []},
    {"usage": {"input_tokens": "x"}},
    {"content": {}},
    {"summary": [None]},
    {"content": [None]},
    {"content": [{"type": [], "text": {}}]},
    {"type": "message", "content": 5},
]


@pytest.mark.slow
@every("kind", KINDS)
def test_fields_of_wrong_types_never_crash(kind: str) -> None:
    """A field of another type is left out, and stays in `raw`; only answer text that cannot be
    read (delta, item, response) is an error, and then it is a ProtocolError, never a crash."""
    for field, hint in fields_of(CLASSES[kind]).items():
        for value in WRONG:
            payload = {"type": kind, field: value}
            session = Session(RESPONSES)
            events = session.receive(block(payload))
            if isinstance(session.error, ProtocolError):
                assert field in ESSENTIAL, value
                assert not fits(value, hint), value
                assert not events
                with pytest.raises(ValueError):
                    decode(payload)
                continue
            (event,) = events
            assert type(event) is CLASSES[kind]
            assert event.json() == payload


@every(
    ("kind", "field", "value"),
    [
        ("response.output_text.delta", "delta", 5),
        ("response.output_text.delta", "delta", {"text": "x"}),
        ("response.output_text.delta", "delta", ["x"]),
        ("response.function_call_arguments.delta", "delta", {}),
        ("response.output_item.done", "item", "x"),
        ("response.output_item.done", "item", []),
        ("response.completed", "response", "x"),
        ("response.completed", "response", []),
    ],
)
def test_answer_text_that_cannot_be_read_does_not_vanish(kind: str, field: str, value: Any) -> None:
    """It ends the stream with a ProtocolError that names the field and not its content."""
    session = Session(RESPONSES)
    assert session.receive(say(kind, **{field: value})) == []
    assert type(session.error) is ProtocolError
    assert field in str(session.error)
    assert "'x'" not in str(session.error)


@every(
    "payload",
    [
        {"output_index": "0", "content_index": 0, "delta": "x"},
        {"output_index": 0, "content_index": [], "delta": "x"},
        {"output_index": 0, "logprobs": 5, "delta": "x"},
        {"output_index": 0, "item_id": 5, "delta": "x"},
        {"output_index": 0, "sequence_number": "7", "delta": "x"},
        {"output_index": 0, "sequence_number": {}, "delta": "x"},
        {"output_index": 0.0, "delta": "x"},
        {"output_index": None, "delta": "x"},
        {"output_index": 2**70, "delta": "x"},
        {"output_index": -3, "delta": "x"},
    ],
    ids=str,
)
def test_text_survives_odd_neighbours(payload: dict[str, Any]) -> None:
    """A field beside the text that does not fit costs nothing of the text."""
    session = Session(RESPONSES)
    (event,) = session.receive(say("response.output_text.delta", **payload))
    assert session.state.text == "x"
    assert [chunk.text for chunk in event.chunks] == ["x"]


# --- unknown ------------------------------------------------------------------------------------

UNKNOWN: list[tuple[Any, str, str]] = [
    ({"type": "response.new.thing", "a": {"b": [1]}}, "message", "response.new.thing"),
    ({"type": "vendor.thing"}, "x", "vendor.thing"),
    ({"a": 1}, "message", "message"),
    ({"a": 1}, "vendor.named", "vendor.named"),
    ({"type": 5}, "vendor.named", "vendor.named"),
    ({"type": None}, "message", "message"),
    ({"type": ""}, "message", ""),
    ([1, 2], "message", "message"),
    ("text", "ping", "ping"),
    (5, "message", "message"),
    (None, "message", "message"),
    (True, "message", "message"),
    ([], "message", "message"),
    ({}, "message", "message"),
]


@every(("payload", "name", "kind"), UNKNOWN, ids=repr)
def test_unknown_events_keep_everything(payload: Any, name: str, kind: str) -> None:
    """An event of no known type is an UnknownEvent with all of its data: never dropped, never
    another class, never the end of the stream."""
    session = Session(RESPONSES)
    (event,) = session.receive(block(payload, name))
    assert type(event) is UnknownEvent
    assert (event.type, event.data, event.json()) == (kind, payload, payload)
    assert event.chunks == ()
    assert (session.error, session.complete, session.ended) == (None, False, False)


def test_an_unknown_event_has_its_number() -> None:
    """A sequence number is read where it is one."""
    for number, found in ((7, 7), ("7", None), (None, None), ([], None)):
        event = decode({"type": "new", "sequence_number": number})
        assert event.sequence_number == found


def test_undeclared_fields_stay() -> None:
    """What is not declared is in `raw` and `json()`, and in nested objects likewise."""
    payload = {
        "type": "response.output_item.done",
        "obfuscation": "xyz",
        "item": {"type": "message", "id": "m", "novel": {"a": [1, None]}, "content": []},
    }
    event = decode(payload)
    assert event.json() == payload
    assert json.loads(event.raw) == payload


@every("kind", KINDS)
def test_no_service_can_set_our_own_fields(kind: str) -> None:
    """`chunks` and `raw` are ours: fields of these names on the wire do not reach them."""
    payload = {"type": kind, "chunks": ["x"], "raw": "x"}
    event = decode(payload)
    assert event.chunks == ()
    assert event.json() == payload


def test_not_even_by_their_encoded_names() -> None:
    """Nor do the names that they are encoded under: an event cannot forge a chunk."""
    for value in ([], ["x"], [{"type": "text", "text": "forged", "index": 0}], "eA=="):
        payload = {"type": "response.created", "$chunks": value, "$raw": "eA=="}
        session = Session(RESPONSES)
        for event in session.receive(block(payload)):
            assert event.chunks == ()
            assert event.json() == payload
        assert session.state.text == ""


# --- values -------------------------------------------------------------------------------------


@every("kind", KINDS)
def test_events_pickle(kind: str) -> None:
    """An event goes to another process as it is."""
    payload = {"type": kind, "sequence_number": 3, "item_id": "m", "novel": 1}
    event = decode(payload)
    twin = pickle.loads(pickle.dumps(event))
    assert twin == event
    assert (type(twin), twin.type, twin.json()) == (type(event), kind, payload)


def test_unknown_events_pickle() -> None:
    """So does one of an unknown type."""
    event = decode({"type": "new", "a": [1]})
    assert pickle.loads(pickle.dumps(event)) == event


@every("kind", [*KINDS, "response.new"])
def test_repr_is_short(kind: str) -> None:
    """What is shown is the class and its fields that are set, not the raw JSON a second time."""
    event = decode({"type": kind, "sequence_number": 3, "novel": "rawraw"})
    shown = repr(event)
    assert shown.startswith(type(event).__name__ + "(")
    assert "raw=" not in shown
    assert "chunks=" not in shown
    if kind in CLASSES:
        assert shown == f"{type(event).__name__}(sequence_number=3)"


def test_the_corpus_is_typed() -> None:
    """Where the corpus is there: no event of it is unknown, but for what its services invented."""
    unknown: dict[str, int] = {}
    for recording in recorded():
        events, _ = replay((recording.data,))
        for event in events:
            if isinstance(event, UnknownEvent):
                unknown[event.type] = unknown.get(event.type, 0) + 1
    assert not [kind for kind in unknown if kind in CLASSES]
    assert sum(unknown.values()) <= 10, unknown


# --- what each means to the clocks and to the end -----------------------------------------------

NOTHING, PROGRESS, CONTENT = 0, 1, 2

# DESIGN 4: type -> level; deltas with the fields that make them content.
ACTIVITY: dict[str, tuple[dict[str, Any], int]] = {
    # not by created, queued, in_progress, pings
    "response.created": ({"response": {"id": "r"}}, NOTHING),
    "response.queued": ({"response": {"id": "r"}}, NOTHING),
    "response.in_progress": ({"response": {"id": "r"}}, NOTHING),
    "keepalive": ({}, NOTHING),
    "error": ({"message": "m"}, NOTHING),
    "response.failed": ({"response": {}}, NOTHING),
    # the end
    "response.completed": ({"response": {}}, PROGRESS),
    "response.incomplete": ({"response": {}}, PROGRESS),
    # an item or part added or done
    "response.output_item.added": ({"item": {"type": "message"}}, PROGRESS),
    "response.output_item.done": ({"item": {"type": "message"}}, PROGRESS),
    "response.content_part.added": ({"part": {"type": "output_text", "text": ""}}, PROGRESS),
    "response.content_part.done": ({"part": {"type": "output_text", "text": ""}}, PROGRESS),
    "response.reasoning_summary_part.added": ({"part": {}}, PROGRESS),
    "response.reasoning_summary_part.done": ({"part": {}}, PROGRESS),
    "response.output_text.annotation.added": ({"annotation": {}}, PROGRESS),
    # text, thinking, refusal, tool arguments, code, image, audio: content
    "response.output_text.delta": ({"delta": "x"}, CONTENT),
    "response.refusal.delta": ({"delta": "x"}, CONTENT),
    "response.reasoning_summary_text.delta": ({"delta": "x"}, CONTENT),
    "response.reasoning_text.delta": ({"delta": "x"}, CONTENT),
    "response.reasoning.delta": ({"delta": "x"}, CONTENT),
    "response.function_call_arguments.delta": ({"delta": "{"}, CONTENT),
    "response.custom_tool_call_input.delta": ({"delta": "x"}, CONTENT),
    "response.mcp_call_arguments.delta": ({"delta": "{"}, CONTENT),
    "response.code_interpreter_call_code.delta": ({"delta": "x"}, CONTENT),
    "response.image_generation_call.partial_image": ({"partial_image_b64": "eA=="}, CONTENT),
    "response.audio.delta": ({"delta": "eA=="}, CONTENT),
    "response.audio.transcript.delta": ({"delta": "x"}, CONTENT),
    "response.shell_call_command.delta": ({"delta": "ls"}, CONTENT),
    "response.shell_call_output_content.delta": ({"delta": {"stdout": "x"}}, CONTENT),
    "response.apply_patch_call_operation_diff.delta": ({"delta": "+x"}, CONTENT),
    # what was whole before is not content once more
    "response.output_text.done": ({"text": ""}, PROGRESS),
    "response.refusal.done": ({"refusal": ""}, PROGRESS),
    "response.reasoning_summary_text.done": ({"text": ""}, PROGRESS),
    "response.reasoning_text.done": ({"text": ""}, PROGRESS),
    "response.reasoning.done": ({"text": ""}, PROGRESS),
    "response.reasoning_part.added": ({"part": {"type": "reasoning_text"}}, PROGRESS),
    "response.reasoning_part.done": ({"part": {"type": "reasoning_text"}}, PROGRESS),
    "response.function_call_arguments.done": ({"arguments": ""}, PROGRESS),
    "response.custom_tool_call_input.done": ({"input": ""}, PROGRESS),
    "response.mcp_call_arguments.done": ({"arguments": "{}"}, PROGRESS),
    "response.code_interpreter_call_code.done": ({"code": "x"}, PROGRESS),
    "response.audio.done": ({}, PROGRESS),
    "response.audio.transcript.done": ({}, PROGRESS),
    "response.shell_call_command.added": ({"command": ""}, PROGRESS),
    "response.shell_call_command.done": ({"command": "ls"}, PROGRESS),
    "response.shell_call_output_content.done": ({"output": []}, PROGRESS),
    "response.apply_patch_call_operation_diff.done": ({"diff": "+x"}, PROGRESS),
    # a tool's, search's, code's, image's status
    "response.file_search_call.in_progress": ({}, PROGRESS),
    "response.file_search_call.searching": ({}, PROGRESS),
    "response.file_search_call.completed": ({}, PROGRESS),
    "response.web_search_call.in_progress": ({}, PROGRESS),
    "response.web_search_call.searching": ({}, PROGRESS),
    "response.web_search_call.completed": ({}, PROGRESS),
    "response.code_interpreter_call.in_progress": ({}, PROGRESS),
    "response.code_interpreter_call.interpreting": ({}, PROGRESS),
    "response.code_interpreter_call.completed": ({}, PROGRESS),
    "response.image_generation_call.in_progress": ({}, PROGRESS),
    "response.image_generation_call.generating": ({}, PROGRESS),
    "response.image_generation_call.completed": ({}, PROGRESS),
    "response.mcp_call.in_progress": ({}, PROGRESS),
    "response.mcp_call.completed": ({}, PROGRESS),
    "response.mcp_call.failed": ({}, PROGRESS),
    "response.mcp_list_tools.in_progress": ({}, PROGRESS),
    "response.mcp_list_tools.completed": ({}, PROGRESS),
    "response.mcp_list_tools.failed": ({}, PROGRESS),
    "response.compaction.compacting": ({}, PROGRESS),
}


def level_of(piece: bytes) -> int:
    session = Session(RESPONSES)
    assert len(session.receive(piece)) == 1
    return session.activity


def test_every_type_has_a_row() -> None:
    """No event without a meaning."""
    assert set(ACTIVITY) == set(CLASSES)


@every("kind", ACTIVITY)
def test_activity(kind: str) -> None:
    """What each event is to the clocks: content, progress or nothing."""
    fields, level = ACTIVITY[kind]
    at = {} if "response" in fields else {"output_index": 0, "item_id": "i"}
    assert level_of(say(kind, **at, **fields)) == level


@every(
    ("kind", "fields"),
    [
        ("response.output_text.done", {"text": "late"}),
        ("response.refusal.done", {"refusal": "late"}),
        ("response.reasoning_summary_text.done", {"text": "late"}),
        ("response.reasoning_text.done", {"text": "late"}),
        ("response.reasoning.done", {"text": "late"}),
        ("response.reasoning_part.done", {"part": {"type": "reasoning_text", "text": "late"}}),
        ("response.function_call_arguments.done", {"arguments": "{}"}),
        ("response.custom_tool_call_input.done", {"input": "late"}),
        ("response.content_part.done", {"part": {"type": "output_text", "text": "late"}}),
        (
            "response.output_item.done",
            {"item": {"type": "message", "content": [{"type": "output_text", "text": "late"}]}},
        ),
        (
            "response.completed",
            {
                "response": {
                    "output": [
                        {"type": "message", "content": [{"type": "output_text", "text": "late"}]}
                    ]
                }
            },
        ),
    ],
)
def test_late_content_is_content(kind: str, fields: dict[str, Any]) -> None:
    """Text that only a done event brings is content, as a delta would be."""
    assert level_of(say(kind, output_index=0, content_index=0, item_id="i", **fields)) == CONTENT


READ_BY_THE_CALLER = (
    "response.output_text.delta",
    "response.refusal.delta",
    "response.reasoning_summary_text.delta",
    "response.reasoning_text.delta",
    "response.reasoning.delta",
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
)


@every("kind", READ_BY_THE_CALLER)
def test_an_empty_delta_is_no_content(kind: str) -> None:
    """A delta of nothing does not end the first-token clock."""
    for delta in ("", None):
        assert level_of(say(kind, output_index=0, delta=delta)) < CONTENT


@every(
    ("kind", "level"),
    [
        ("response.novel.thing", NOTHING),
        ("response.novel_call.in_progress", NOTHING),
        ("response.cancelled", NOTHING),
        ("ping", NOTHING),
        ("vendor.status", NOTHING),
        ("", NOTHING),
    ],
)
def test_activity_of_the_unknown(kind: str, level: int) -> None:
    """Nobody knows whether an unknown event changes anything: it keeps no dead stream open."""
    assert level_of(say(kind, x=1)) == level


def test_comments_are_nothing() -> None:
    """Comments and [DONE] are not even events."""
    session = Session(RESPONSES)
    assert session.receive(b": ping\n\n:\n\ndata: [DONE]\n\nid: 5\n\n") == []
    assert (session.activity, session.events, session.ended) == (NOTHING, 0, False)


TERMINAL = {"response.completed", "response.incomplete", "response.failed", "error"}


@every("kind", KINDS)
def test_only_terminal_events_end(kind: str) -> None:
    """Two types make an answer complete, two fail it, no other ends anything."""
    session = Session(RESPONSES)
    session.receive(say(kind, **ACTIVITY[kind][0]))
    assert session.complete is (kind in ("response.completed", "response.incomplete"))
    assert (session.error is not None) is (kind in ("response.failed", "error"))
    assert session.ended is (kind in TERMINAL and kind != "error")
    assert (session.linger > 0) is (kind == "error")
