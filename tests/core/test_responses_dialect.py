"""Responses: pieces in odd places, doubled numbers, and final texts that are not what was streamed.

(What real services send: test_corpus.py; attacks on a body: test_session.py.)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from corpus import is_json
from every import every

from llmstream import ProtocolError
from llmstream._core.dialects.responses import RESPONSES
from llmstream._core.session import Session
from llmstream._core.tool_calls import partition_calls

Event = dict[str, Any]

TEXT = "one two three"
ARGUMENTS = '{"x":1}'
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "status": "completed"}
CALL = {
    "id": "f",
    "type": "function_call",
    "status": "completed",
    "call_id": "c",
    "name": "run",
    "arguments": ARGUMENTS,
}
AT: Event = {"item_id": "m", "output_index": 0, "content_index": 0}
AT_CALL: Event = {"item_id": "f", "output_index": 1}
PIECE = 4  # the place of "two " in the stream
CALL_PIECE = 10


def of(kind: str, **fields: Any) -> Event:
    return {"type": f"response.{kind}", **fields}


def message(text: str = TEXT) -> Event:
    return {**MESSAGE, "content": [{"type": "output_text", "text": text, "annotations": []}]}


def answer(dones: bool = True, output: bool = True) -> list[Event]:
    """A message in three pieces and a call in two, with or without what repeats them."""
    part = message()["content"][0]
    response = {"id": "r", "status": "in_progress", "output": []}
    items = [message(), CALL]
    events = [
        of("created", response=response),
        of("output_item.added", output_index=0, item={**MESSAGE, "content": []}),
        of("content_part.added", **AT, part={**part, "text": ""}),
        *(of("output_text.delta", **AT, delta=piece) for piece in ("one ", "two ", "three")),
        of("output_text.done", **AT, text=TEXT),
        of("content_part.done", **AT, part=part),
        of("output_item.done", output_index=0, item=items[0]),
        of("output_item.added", output_index=1, item={**CALL, "arguments": ""}),
        of("function_call_arguments.delta", **AT_CALL, delta='{"x":'),
        of("function_call_arguments.delta", **AT_CALL, delta="1}"),
        of("function_call_arguments.done", **AT_CALL, arguments=ARGUMENTS),
        of("output_item.done", output_index=1, item=items[1]),
    ]
    final = {"id": "r", "status": "completed", "output": items if output else []}
    if not dones:
        events = [event for event in events if not event["type"].endswith(".done")]
    return copy.deepcopy([*events, of("completed", response=final)])


def numbered(events: list[Event], number: Callable[[int], int | None] = int) -> list[Event]:
    """The events with the numbers that `number` gives to their places."""
    numbers = [number(place) for place in range(len(events))]
    return [
        event if n is None else {**event, "sequence_number": n}
        for event, n in zip(events, numbers, strict=True)
    ]


def read(events: list[Event]) -> tuple[Session, str, list[str], list[str]]:
    """The session, the text as it was delivered, the calls that are safe to run, the others."""
    session = Session(RESPONSES)
    chunks = []
    for event in events:
        for seen in session.receive(f"data: {json.dumps(event)}\n\n".encode()):
            chunks += [chunk for chunk in seen.chunks if chunk.type == "text"]
    session.receive_eof()
    text = "".join(chunk.text for chunk in chunks)
    assert text == session.state.text
    safe, broken = partition_calls(RESPONSES.calls(session.state), False, is_json)
    return session, text, [c.arguments for c in safe], [c.arguments for c in broken]


def is_whole(events: list[Event], safe: list[str] | None = None) -> None:
    session, text, calls, _ = read(events)
    assert session.error is None
    assert (text, calls) == (TEXT, [ARGUMENTS] if safe is None else safe)


def is_refused(events: list[Event]) -> Session:
    session, text, calls, _ = read(events)
    assert type(session.error) is ProtocolError, (text, calls)
    assert not session.complete
    return session


def with_piece(place: int, events: list[Event], **fields: Any) -> list[Event]:
    """The answer with another piece in this place; a field that is ... is left out."""
    piece = {**events[place], **fields}
    events[place] = {name: value for name, value in piece.items() if value is not ...}
    return events


# ---- places ------------------------------------------------------------------------------------


@every("dones", [True, False])
@every(
    "fields",
    [
        {"item_id": ...},
        {"output_index": ...},
        {"content_index": ...},
        {"item_id": ..., "output_index": ..., "content_index": ...},
        {"output_index": {}},
        {"output_index": "0"},
        {"output_index": 7},
        {"item_id": "another"},
        {"type": "response.output_text.delta.2"},
        {"type": "response.new.delta"},
        {"type": "new"},
        {"type": ...},
        {"type": ..., "item_id": ..., "output_index": ..., "content_index": ...},
    ],
)
def test_text_in_an_odd_place_is_placed(dones: bool, fields: Event) -> None:
    events = answer(dones, dones)
    events = events if dones else [*events[:6], events[-1]]
    is_whole(with_piece(PIECE, events, **fields), None if dones else [])


@every("dones", [True, False])
@every(
    "fields",
    [
        {"delta": None},
        {"delta": ...},
        {"delta": ..., "text": "two "},
        {"delta": {"text": "two "}},
        {"delta": ["two "]},
        {"delta": 2},
        {"type": "response.in_progress"},
        {"type": "response.output_item.added"},
        {"type": "keepalive"},
        {"type": "response.function_call_arguments.delta"},
        {"type": "response.new.delta", "delta": {"text": "two "}},
        {"type": "response.new.delta", "item_id": ..., "output_index": ...},
    ],
)
def test_text_that_cannot_be_placed_is_no_success(dones: bool, fields: Event) -> None:
    is_refused(with_piece(PIECE, answer(dones, dones), **fields))


@every(
    "fields",
    [
        {"output_index": ...},
        {"item_id": ...},
        {"item_id": ..., "output_index": ...},
        {"output_index": 7},
        {"output_index": 0},
        {"item_id": "another"},
        {"type": "response.new.delta"},
        {"delta": None},
        {"delta": {"x": 1}},
        {"delta": ["1"]},
        {"item_id": "m", "output_index": 0},
        {"output_index": 7, "item_id": "another"},
    ],
)
@every("dones", [True, False])
def test_arguments_are_never_run_without_a_piece(dones: bool, fields: Event) -> None:
    session, text, calls, _ = read(with_piece(CALL_PIECE if dones else 7, answer(dones), **fields))
    assert calls in ([], [ARGUMENTS])
    assert session.complete is (session.error is None)
    if session.complete:
        assert (text, calls) == (TEXT, [ARGUMENTS])


def test_a_call_whose_input_did_not_arrive_is_not_safe() -> None:
    """It was to be repeated, and was not there."""
    for kind, name in (
        ("function_call", "function_call_arguments.done"),
        ("custom_tool_call", "custom_tool_call_input.done"),
    ):
        bare = {**CALL, "type": kind, "arguments": None}
        events = [
            of("created", response={"id": "r"}),
            of("output_item.added", output_index=0, item=bare),
            of(name, output_index=0, item_id="f", arguments=None, input=None),
            of("output_item.done", output_index=0, item=bare),
            of("completed", response={"id": "r", "status": "completed", "output": []}),
        ]
        session, _, safe, broken = read(events)
        assert session.complete
        assert (safe, broken) == ([], [""])


@every(
    "event",
    [
        of("new.delta", delta="not text"),
        of("new.delta", delta="not text", item_id="another", output_index=9),
        of("output_audio.delta", delta="UklGRg==", **AT),
        of("new", level=3),
        {"type": "status", "text": "working"},
        {"hello": 1},
    ],
)
def test_what_is_no_piece_of_the_answer_is_no_error(event: Event) -> None:
    """The final text shows that it was not one."""
    events = answer()
    is_whole([*events[:PIECE], event, *events[PIECE:]])


# ---- numbers -----------------------------------------------------------------------------------

NUMBERINGS: dict[str, Callable[[int], int | None]] = {
    "from 0": int,
    "from 1": lambda place: place + 1,
    "always 0": lambda place: 0,
    "always -1": lambda place: -1,
    "never": lambda place: None,
    "from 0 for each item": lambda place: place if place < 9 else place - 9,
    "from 1 for each item": lambda place: place + 1 if place < 9 else place - 8,
    "from 0 for each item, with an end of its own": lambda place: (
        0 if place == 14 else place if place < 9 else place - 9
    ),
    "two by two": lambda place: 2 * place,
    "backwards": lambda place: 100 - place,
    "only some": lambda place: place if place % 3 else None,
}


@every("number", NUMBERINGS.values(), ids=list(NUMBERINGS))
def test_every_numbering_is_read(number: Callable[[int], int | None]) -> None:
    is_whole(numbered(answer(), number))


@every("dones", [True, False])
@every("output", [True, False])
@every("first", [0, 1])
def test_a_doubled_number_is_passed_over(dones: bool, output: bool, first: int) -> None:
    """Once, twice, as a block of three, with another content, and every event of the stream."""
    safe = [ARGUMENTS] if dones or output else []
    events = numbered(answer(dones, output), lambda place: place + first)
    for place, event in enumerate(events):
        before, behind = events[: place + 1], events[place + 1 :]
        is_whole([*before, event, *behind], safe)
        is_whole([*before, event, event, *behind], safe)
        is_whole([*before, *before[-3:], *behind], safe)
        if "delta" in event:
            is_whole([*before, {**event, "delta": "X"}, *behind], safe)
    is_whole([event for event in events for _ in range(2)], safe)


def test_a_keepalive_with_a_number_of_its_own() -> None:
    """It is a sign of life, and moves no position."""
    session = Session(RESPONSES)
    alive: list[int] = []
    session.on_sign_of_life = lambda: alive.append(1)
    for event in [*numbered(answer())[:6], {"type": "keepalive", "sequence_number": 0}]:
        session.receive(f"data: {json.dumps(event)}\n\n".encode())
    assert (session.cursor, len(alive)) == (5, 1)


@pytest.mark.parametrize("output", [True, False])
def test_a_lost_or_late_piece_is_no_success(output: bool) -> None:
    """Whether the final text shows it, or the numbers alone."""
    for dones in (True, False):
        events = numbered(answer(dones, output))
        pieces = [place for place, event in enumerate(events) if "delta" in event]
        for place in pieces:
            lost = [*events[:place], *events[place + 1 :]]
            session, text, calls, _ = read(lost)
            if session.error is None:  # the last piece, which the final text has
                assert (text, calls) == (TEXT, [ARGUMENTS])
            late = [*events[:place], events[place + 1], events[place], *events[place + 2 :]]
            session, text, calls, _ = read(late)
            if session.error is None:
                assert (text, calls) == (TEXT, [ARGUMENTS])


# ---- final texts -------------------------------------------------------------------------------

WHOLES: dict[str, tuple[int, Callable[[Event, str], Any]]] = {
    "text.done": (6, lambda event, text: event.update(text=text)),
    "part.done": (7, lambda event, text: event["part"].update(text=text)),
    "item.done": (8, lambda event, text: event.update(item=message(text))),
    "completed": (
        14,
        lambda event, text: event["response"]["output"].__setitem__(0, message(text)),
    ),
}


@every(("place", "put"), WHOLES.values(), ids=list(WHOLES))
@every("text", ["X", "one ", "two three", "one one two three", "One two three"])
def test_another_final_text_is_no_success(
    place: int, put: Callable[[Event, str], Any], text: str
) -> None:
    events = answer()
    put(events[place], text)
    error = is_refused(events).error
    assert error is not None
    assert not error.retryable
    assert "contradicts" in str(error)


@pytest.mark.parametrize(("place", "put"), WHOLES.values(), ids=list(WHOLES))
def test_the_missing_end_is_delivered(place: int, put: Callable[[Event, str], Any]) -> None:
    """Where every repeat from there on has it; and an empty one repeats nothing."""
    events = answer()
    for at, later in WHOLES.values():
        if at >= place:
            later(events[at], f"{TEXT} four")
    session, text, _, _ = read(events)
    assert session.error is None
    assert text == f"{TEXT} four"
    events = answer()
    put(events[place], "")
    is_whole(events)


def test_parts_that_arrive_side_by_side_are_compared_by_number() -> None:
    parts = [{"type": "output_text", "text": text} for text in ("a b", "c d")]
    pieces = [(1, "c "), (0, "a "), (1, "d"), (0, "b")]
    events = [
        of("output_text.delta", **{**AT, "content_index": at}, delta=text) for at, text in pieces
    ]
    done = of("output_item.done", output_index=0, item={**MESSAGE, "content": parts})
    end = of("completed", response={"id": "r", "status": "completed", "output": []})
    session, text, _, _ = read([*events, done, end])
    assert session.error is None
    assert text == "c a db"


ARGUED: dict[str, tuple[int, Callable[[Event, Any], Any]]] = {
    "arguments.done": (12, lambda event, sent: event.update(arguments=sent)),
    "item.done": (13, lambda event, sent: event["item"].update(arguments=sent)),
    "completed": (14, lambda event, sent: event["response"]["output"][1].update(arguments=sent)),
}


@pytest.mark.parametrize(("place", "put"), ARGUED.values(), ids=list(ARGUED))
def test_other_final_arguments_are_no_success(place: int, put: Callable[[Event, Any], Any]) -> None:
    """Unless they are the same value, written in another way; what is empty repeats nothing."""
    for other in ('{"x":2}', "{}", '{"x":', "X"):
        events = answer()
        put(events[place], other)
        assert read(events)[2] == []
        is_refused(events)
    for same in ('{ "x" : 1 }', '"{\\"x\\":1}"', {"x": 1}, "", None):
        events = answer()
        put(events[place], same)
        session, _, safe, _ = read(events)
        assert session.error is None
        assert [json.loads(json.loads(s) if s[0] == '"' else s) for s in safe] == [{"x": 1}]


@every("place", [13, 14])
@every("fields", [{"type": "message"}, {"type": "new"}, {"name": "delete"}])
def test_a_call_that_ends_as_another_one(place: int, fields: Event) -> None:
    events = answer()
    event = events[place]
    item = event["item"] if place == 13 else event["response"]["output"][1]
    item.update(fields)
    is_refused(events)
    assert read(events)[2] == []


def test_text_of_an_item_that_the_answer_does_not_have() -> None:
    """Every delta has another index and id than the item that is complete in the end."""
    events = answer()
    for place in (3, 4, 5):
        events[place].update(output_index=5, item_id="another")
    is_refused(events)


# ---- resumed -----------------------------------------------------------------------------------


def resumed(first: list[Event], rest: list[Event]) -> tuple[Session, str]:
    session = Session(RESPONSES)
    for body in (first, rest):
        for event in body:
            session.receive(f"data: {json.dumps(event)}\n\n".encode())
        if body is first:
            session.resume()
    return session, session.state.text


def test_a_resumed_stream_repeats_from_anywhere() -> None:
    events = numbered(answer())
    for cut in range(1, len(events) - 1):
        for start in range(cut + 1):
            session, text = resumed(events[:cut], events[start:])
            assert session.error is None
            assert text == TEXT


FOREIGN: dict[str, Callable[[list[Event], int], list[Event]]] = {
    "without numbers": lambda events, cut: answer(),
    "without numbers, the rest": lambda events, cut: answer()[cut:],
    "the rest from 0": lambda events, cut: numbered(answer()[cut:]),
    "another response": lambda events, cut: json.loads(
        json.dumps(events).replace('"id": "r"', '"id": "s"')
    ),
    "another item": lambda events, cut: json.loads(
        json.dumps(events[cut:]).replace('"m"', '"n"').replace('"id": "r"', '"id": "s"')
    ),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=list(FOREIGN))
def test_what_is_foreign_is_not_appended(
    foreign: Callable[[list[Event], int], list[Event]],
) -> None:
    """And cannot be resumed again, so that the answer is polled."""
    events = numbered(answer())
    for cut in range(3, 9):
        session, text = resumed(events[:cut], foreign(events, cut))
        assert TEXT.startswith(text)
        assert session.error is None or session.cursor is None or session.error.retryable
        if session.complete:
            assert text == TEXT


def test_a_poll_that_contradicts_is_no_success() -> None:
    events = numbered(answer())
    response = events[-1]["response"]
    for body, why in (
        ({**response, "id": "s"}, "another response"),
        ({**response, "object": "response", "output": [message("X"), CALL]}, "contradicts"),
    ):
        session, text = resumed(events[:5], [])
        session.receive_json(json.dumps(body).encode())
        assert type(session.error) is ProtocolError
        assert why in str(session.error)
        assert session.state.text == text == "one two "
    session, _ = resumed(events[:5], [])
    session.receive_json(json.dumps({**response, "object": "response"}).encode())
    assert session.error is None
    assert session.state.text == TEXT


def test_an_event_that_could_not_be_used_has_not_arrived() -> None:
    """The answer is resumed from before it."""
    session = Session(RESPONSES)
    events = numbered(answer())
    events[PIECE]["type"] = "response.function_call_arguments.delta"
    for event in events:
        session.receive(f"data: {json.dumps(event)}\n\n".encode())
    assert type(session.error) is ProtocolError
    assert session.cursor == PIECE - 1
