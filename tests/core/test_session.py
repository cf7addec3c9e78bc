"""One response body, attacked: lies, repeats, crashes. (What real services send: test_corpus.py.)

A lie is a success that is none, or a call that nobody made. A repeat is text delivered twice. A
crash is anything that `receive` raises.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from corpus import (
    CUTTINGS,
    PROPERTY,
    block,
    bytewise,
    calls_of,
    completed,
    own,
    random_pieces,
    replay,
    say,
    told,
    whole,
)
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st
from support import cpu_seconds

from llmstream._core.dialects import APIS
from llmstream._core.session import Session
from llmstream.errors import (
    EventTooLarge,
    NotAStreamError,
    ServerError,
    ServiceError,
    StreamTruncated,
)
from llmstream.events.responses import EVENTS
from llmstream.result import LLMStreamError, ProtocolError

RESPONSES = APIS["responses"].load()
PARIS = '{"city":"Paris"}'
OSLO = '{"city":"Oslo"}'


# --- writing ------------------------------------------------------------------------------------


def text(delta: Any, index: int | None = 0, part: int | None = 0, id: str | None = None) -> bytes:
    return say("response.output_text.delta", **_at(index, part, id), delta=delta)


def text_done(
    whole: Any, index: int | None = 0, part: int | None = 0, id: str | None = None
) -> bytes:
    return say("response.output_text.done", **_at(index, part, id), text=whole)


def args(delta: Any, index: int | None = 0, id: str | None = None) -> bytes:
    return say("response.function_call_arguments.delta", **_at(index, None, id), delta=delta)


def args_done(whole: Any, index: int | None = 0, id: str | None = None) -> bytes:
    return say("response.function_call_arguments.done", **_at(index, None, id), arguments=whole)


def added(item: Any, index: int | None = 0) -> bytes:
    return say("response.output_item.added", **_at(index, None, None), item=item)


def done(item: Any, index: int | None = 0) -> bytes:
    return say("response.output_item.done", **_at(index, None, None), item=item)


def _at(index: int | None, part: int | None, id: str | None) -> dict[str, Any]:
    known = {"output_index": index, "content_index": part, "item_id": id}
    return {name: value for name, value in known.items() if value is not None}


def message(*texts: str, id: str | None = "m", **fields: Any) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": each} for each in texts]
    return {"id": id, "type": "message", "status": "completed", "content": parts, **fields}


def function(
    arguments: Any, name: str = "f", id: str | None = "c", **fields: Any
) -> dict[str, Any]:
    call = {"type": "function_call", "name": name, "arguments": arguments, "status": "completed"}
    return {"id": id, "call_id": f"call_{name}", **call, **fields}


OPENING = say("response.created", response={"id": "r", "status": "in_progress", "model": "o"})


# --- how a stream ends --------------------------------------------------------------------------

ENDS: dict[str, tuple[list[bytes], str, str | None]] = {
    # name: the stream, its text, the error's class or None
    "nothing at all": ([], "", "StreamTruncated"),
    "only the opening": ([OPENING], "", "StreamTruncated"),
    "only comments": ([b": ping\n\n" * 5], "", "StreamTruncated"),
    "only [DONE]": ([b"data: [DONE]\n\n"], "", "StreamTruncated"),
    "the end is first": ([completed(), text("x")], "", None),
    "two ends": ([text("x"), completed(), completed(message("y"))], "x", None),
    "an error behind the end": ([text("x"), completed(), say("error", message="late")], "x", None),
    "rubbish behind the end": (
        [text("x"), completed(), b"data: {\n\n", b"\xff\xff\n\n"],
        "x",
        None,
    ),
    "half an event behind the end": ([text("x"), completed(), b"data: {"], "x", None),
    "[DONE] behind the end": ([text("x"), completed(), b"data: [DONE]\n\n"], "x", None),
    "[DONE] before the end": ([text("x"), b"data: [DONE]\n\n", completed()], "x", None),
    "an end without a response": ([text("x"), say("response.completed")], "x", None),
    "an end of nulls": ([text("x"), say("response.completed", response=None)], "x", None),
    "an end by its event line": (
        [text("x"), block({"response": {}}, "response.completed")],
        "x",
        None,
    ),
    "an end in another event": (
        [text("x"), block({"type": "response.done", "response": {}})],
        "x",
        "StreamTruncated",
    ),
    "an end for another api": (
        [text("x"), block({"type": "message_stop"})],
        "x",
        "StreamTruncated",
    ),
    "a chat's end": (
        [text("x"), block({"choices": [{"finish_reason": "stop"}]})],
        "x",
        "StreamTruncated",
    ),
    "an end in the text": (
        [text('{"type":"response.completed"}')],
        '{"type":"response.completed"}',
        "StreamTruncated",
    ),
    "an end in a comment": ([text("x"), b": " + completed()], "x", None),
    "an end in one comment": (
        [text("x"), b": " + completed().replace(b"\n", b" ").strip() + b"\n\n"],
        "x",
        "StreamTruncated",
    ),
    "an end without its blank line": ([text("x"), completed()[:-1]], "x", "StreamTruncated"),
    "an end without any line end": ([text("x"), completed()[:-2]], "x", "StreamTruncated"),
    "an end that is half": ([text("x"), completed()[:-4] + b"\n\n"], "x", "ProtocolError"),
    "a status that says completed": (
        [say("response.in_progress", response={"status": "completed"})],
        "",
        "StreamTruncated",
    ),
    "a failed end": (
        [text("x"), say("response.completed", response={"status": "failed"})],
        "x",
        "ServerError",
    ),
    "an error": ([text("x"), say("error", message="m")], "x", "ServerError"),
    "an error, then an end": (
        [text("x"), say("error", message="m"), completed()],
        "x",
        "ServerError",
    ),
    "an error, then failed": (
        [say("error", code="overloaded_error"), say("response.failed")],
        "",
        "OverloadedError",
    ),
    "an error, then text": ([say("error", message="m"), text("x")], "x", "ServerError"),
    "failed, then an end": ([say("response.failed"), completed()], "", "ServerError"),
    "malformed": ([text("x"), b"data: {\n\n", completed()], "x", "ProtocolError"),
    "malformed behind an error": ([say("error", message="m"), b"data: {\n\n"], "", "ServerError"),
    "cancelled elsewhere": (
        [text("x"), say("response.cancelled", response={"status": "cancelled"})],
        "x",
        "StreamTruncated",
    ),
}


@every("name", ENDS)
def test_ends(name: str) -> None:
    """Success on the service's own end only; an error stands, whatever follows."""
    pieces, expected, raises = ENDS[name]
    for cut in CUTTINGS.values():
        _, session = replay(cut(b"".join(pieces)))
        found = told(session)
        assert (found["text"], found["raises"]) == (expected, raises)
        assert session.complete is (raises is None)
        assert session.ended


@every("name", ENDS)
def test_nothing_is_heard_behind_the_end(name: str) -> None:
    """Once a stream has ended nothing is delivered, kept or changed."""
    session = Session(RESPONSES)
    for piece in ENDS[name][0]:
        session.receive(piece)
    session.receive_eof()
    before = told(session)
    for late in (text("late"), completed(message("late")), say("error", message="late"), b"\xff"):
        assert session.receive(late) == []
    session.receive_eof()
    assert told(session) == before


@every(
    ("kind", "response", "finish"),
    [
        ("completed", {}, "stop"),
        ("completed", {"status": "completed"}, "stop"),
        (
            "completed",
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
        ),
        ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("incomplete", {"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ("incomplete", {"incomplete_details": {"reason": "steered"}}, "steered"),
        ("incomplete", {"incomplete_details": {}}, "incomplete"),
        ("incomplete", {"incomplete_details": None}, "incomplete"),
        ("incomplete", {"incomplete_details": "odd"}, "incomplete"),
        ("incomplete", {}, "incomplete"),
        ("completed", {"output": [function(PARIS)]}, "tool_calls"),
        ("completed", {"output": [{"type": "custom_tool_call", "input": "x"}]}, "tool_calls"),
        ("completed", {"output": [{"type": "mcp_call"}]}, "stop"),
        (
            "incomplete",
            {"output": [function("{")], "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
        ),
    ],
)
def test_finish(kind: str, response: dict[str, Any], finish: str) -> None:
    """DESIGN 2: one vocabulary; any other value as the service wrote it."""
    _, session = replay([say(f"response.{kind}", response=response)])
    assert (session.complete, session.state.finish) == (True, finish)


def test_the_identity_is_the_services() -> None:
    """Id, status, model and usage are the last that were said; null takes nothing back."""
    usage = {"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 1}}
    _, session = replay(
        [
            OPENING,
            say("response.in_progress", response={"id": None, "model": "o-2", "usage": None}),
            say("response.completed", response={"id": "r", "status": "completed", "usage": usage}),
        ]
    )
    state = session.state
    assert (state.response_id, state.model, state.status) == ("r", "o-2", "completed")
    assert (state.usage.input_tokens, state.usage.total_tokens) == (3, 7)
    assert (state.usage.cached_tokens, state.usage.reasoning_tokens) == (1, None)


def test_a_truncation_says_where() -> None:
    """The message counts the events, and the bytes of the one that is half; the text that came
    is not in it."""
    _, session = replay([OPENING, text("secret words"), b"data: {half"])
    message = str(session.error)
    assert "2 events" in message
    assert "11 bytes" in message
    assert "secret" not in message


# --- nothing twice ------------------------------------------------------------------------------

# name: the events before the end, the final output, the text exactly
REPEATS: dict[str, tuple[list[bytes], list[Any], str]] = {
    "all four say it": (
        [text("hel"), text("lo"), text_done("hello"), done(message("hello"))],
        [message("hello")],
        "hello",
    ),
    "no content_index": (
        [
            text("hel", part=None),
            text("lo", part=None),
            text_done("hello", part=None),
            done(message("hello")),
        ],
        [message("hello")],
        "hello",
    ),
    "no content_index, final output only": (
        [text("hel", part=None), text("lo", part=None)],
        [message("hello")],
        "hello",
    ),
    "no index of any kind": (
        [text("hel", None, None, "m"), text("lo", None, None, "m"), done(message("hello"), None)],
        [message("hello")],
        "hello",
    ),
    "neither index nor id": (
        [text("hel", None, None), text("lo", None, None), text_done("hello", None, None)],
        [message("hello", id=None)],
        "hello",
    ),
    "another id at the end": ([text("hello", id="a")], [message("hello", id="b")], "hello"),
    "another id in each": (
        [
            added(message(id="a")),
            text("hello", id="b"),
            text_done("hello", id="c"),
            done(message("hello", id="d")),
        ],
        [message("hello", id="e")],
        "hello",
    ),
    "another place at the end": (
        [added({"type": "reasoning", "id": "r"}), text("hello", 1, id="a")],
        [message("hello", id="a")],
        "hello",
    ),
    "another place and id at the end": (
        [text("hello", 1, id="a")],
        [message("hello", id="b")],
        "hello",
    ),
    "done only, another place and id": (
        [text_done("hello", 1, id="a")],
        [message("hello", id="b")],
        "hello",
    ),
    "part done only, another place and id": (
        [
            say(
                "response.content_part.done",
                output_index=1,
                content_index=0,
                part=message("hello")["content"][0],
            )
        ],
        [message("hello", id="b")],
        "hello",
    ),
    "done twice": (
        [
            text("hello"),
            text_done("hello"),
            text_done("hello"),
            done(message("hello")),
            done(message("hello")),
        ],
        [message("hello")],
        "hello",
    ),
    "done before its announcement": (
        [text_done("hello"), added(message()), done(message("hello"))],
        [message("hello")],
        "hello",
    ),
    "half in deltas": (
        [text("hel"), text_done("hello"), done(message("hello"))],
        [message("hello")],
        "hello",
    ),
    "half until the very end": ([text("hel")], [message("hello")], "hello"),
    "fewer words at the end": ([text("hello ")], [message("hello")], "hello "),
    "two parts": (
        [text("a", 0, 0), text("b", 0, 1), done(message("a", "b"))],
        [message("a", "b")],
        "ab",
    ),
    "the second part is late": (
        [text("a", 0, 0), done(message("a", "b"))],
        [message("a", "b")],
        "ab",
    ),
    "two messages of the same words": (
        [
            text("ok", 0, id="a"),
            done(message("ok", id="a"), 0),
            text("ok", 1, id="b"),
            done(message("ok", id="b"), 1),
        ],
        [message("ok", id="a"), message("ok", id="b")],
        "okok",
    ),
    "two messages, only the end names them": (
        [],
        [message("ok", id="a"), message("ok", id="b")],
        "okok",
    ),
    "the end changes the order": (
        [text("a", 0, id="a"), text("b", 1, id="b")],
        [message("b", id="b"), message("a", id="a")],
        "ab",
    ),
    "the end adds one in front": (
        [text("b", 1, id="b")],
        [message("a", id="a"), message("b", id="b")],
        "ba",
    ),
    "the end leaves one out": (
        [text("a", 0, id="a"), text("b", 1, id="b")],
        [message("b", id="b")],
        "ab",
    ),
    "an empty end": ([text("hello")], [], "hello"),
    "refusal beside text": (
        [text("a"), say("response.refusal.delta", output_index=0, content_index=1, delta="no")],
        [
            {
                **message("a"),
                "content": [*message("a")["content"], {"type": "refusal", "refusal": "no"}],
            }
        ],
        "a",
    ),
    "mixed: some events have an index": (
        [
            added(message(id="a"), 0),
            text("hel", None, 0, "a"),
            text("lo", 0, 0, None),
            text_done("hello", None, 0, "a"),
        ],
        [message("hello", id="a")],
        "hello",
    ),
    "part and text done behind the item's end, under other ids": (
        [
            text("hello", id="a"),
            done(message("hello", id="b")),
            text_done("hello", id="c"),
            say(
                "response.content_part.done",
                **_at(0, 0, "d"),
                part=message("hello")["content"][0],
            ),
        ],
        [message("hello", id="e")],
        "hello",
    ),
    "closed without its words": (
        [text("hel"), done({"type": "message", "id": "m"})],
        [message("hello")],
        "hello",
    ),
    "closed with empty words": (
        [text_done(""), done(message("", id="m"))],
        [message("hello", id="m")],
        "hello",
    ),
    "two messages, neither index nor id": (
        [done(message("a", id=None), None), done(message("b", id=None), None)],
        [],
        "ab",
    ),
    "two messages begin, neither index nor id": (
        [
            added(message(id=None), None),
            text("a", None, None),
            added(message(id=None), None),
            text("b", None, None),
        ],
        [message("a", id=None), message("b", id=None)],
        "ab",
    ),
    "mixed: the first has no id": (
        [
            text("hel", 0, 0, None),
            added(message(id="a"), 0),
            text("lo", None, 0, "a"),
            done(message("hello", id="a"), None),
        ],
        [message("hello", id="a")],
        "hello",
    ),
}


@every("name", REPEATS)
def test_no_word_comes_twice(name: str) -> None:
    """Done events and the final output repeat what the deltas brought, under other ids, places and
    indices: the reader gets it once; and what is really said twice comes twice."""
    pieces, output, expected = REPEATS[name]
    events, session = replay([*pieces, completed(*output)])
    assert session.complete
    assert session.state.text == expected
    chunks = [chunk.text for event in events for chunk in event.chunks if chunk.type == "text"]
    assert "".join(chunks) == expected
    assert all(chunks)


def test_other_words_at_the_end_are_no_success() -> None:
    _, session = replay([text("hello"), completed(message("HELLO"))])
    assert type(session.error) is ProtocolError
    assert session.state.text == "hello"


@every("name", REPEATS)
def test_no_word_comes_twice_without_an_end(name: str) -> None:
    """The same where the stream is cut before its end: then only what the events brought."""
    pieces, _, expected = REPEATS[name]
    _, session = replay(pieces)
    assert type(session.error) is StreamTruncated
    assert expected.startswith(session.state.text) or session.state.text in expected


# --- the right arguments ------------------------------------------------------------------------

# name: the stream, the safe calls as (name, arguments), the unsafe ones
CALLS: dict[str, tuple[list[bytes], list[tuple[str, str]], list[tuple[str, str]]]] = {
    "one": (
        [added(function("")), args(PARIS), done(function(PARIS)), completed()],
        [("f", PARIS)],
        [],
    ),
    "never closed": (
        [added(function("")), args(PARIS), args_done(PARIS), completed()],
        [],
        [("f", PARIS)],
    ),
    "closed by the end": (
        [added(function("")), args(PARIS), completed(function(PARIS))],
        [("f", PARIS)],
        [],
    ),
    "only in the end": ([completed(function(PARIS))], [("f", PARIS)], []),
    "half, closed": ([done(function('{"a":')), completed()], [], [("f", '{"a":')]),
    "half, and no end": ([added(function("")), args('{"a":')], [], [("f", '{"a":')]),
    "whole, not closed, and no end": ([added(function("")), args(PARIS)], [], [("f", PARIS)]),
    "closed, and no end": (
        [added(function("")), args(PARIS), done(function(PARIS))],
        [("f", PARIS)],
        [],
    ),
    "no arguments": ([done(function("")), completed()], [("f", "{}")], []),
    "null arguments": ([done(function(None)), completed()], [("f", "{}")], []),
    "the done event has the last word": (
        [added(function("")), args('{"a":'), done(function(PARIS)), completed()],
        [("f", PARIS)],
        [],
    ),
    "two at the same index, one after the other": (
        [
            added(function("", "f", "1")),
            args(PARIS, 0, "1"),
            done(function(PARIS, "f", "1")),
            added(function("", "g", "2")),
            args(OSLO, 0, "2"),
            done(function(OSLO, "g", "2")),
            completed(),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "two at the same index, done events only": (
        [done(function(PARIS, "f", "1")), done(function(OSLO, "g", "2")), completed()],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "two at the same index, at the same time": (
        [
            added(function("", "f", "1")),
            added(function("", "g", "2")),
            args(PARIS[:5], 0, "1"),
            args(OSLO[:5], 0, "2"),
            args(PARIS[5:], 0, "1"),
            args(OSLO[5:], 0, "2"),
            done(function(PARIS, "f", "1")),
            done(function(OSLO, "g", "2")),
            completed(),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "two without an index, at the same time": (
        [
            added(function("", "f", "1"), None),
            added(function("", "g", "2"), None),
            args(OSLO, None, "2"),
            args(PARIS, None, "1"),
            done(function(OSLO, "g", "2"), None),
            done(function(PARIS, "f", "1"), None),
            completed(),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "two with the same id": (
        [
            added(function("", "f", "1"), 0),
            args(PARIS, 0, "1"),
            done(function(PARIS, "f", "1"), 0),
            added(function("", "g", "1"), 1),
            args(OSLO, 1, "1"),
            done(function(OSLO, "g", "1"), 1),
            completed(),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "rotating ids": (
        [
            added(function("", "f", "x1")),
            args(PARIS[:5], 0, "x2"),
            args(PARIS[5:], 0, "x3"),
            done(function(PARIS, "f", "x4")),
            completed(function(PARIS, "f", "x5")),
        ],
        [("f", PARIS)],
        [],
    ),
    "rotating ids, closed by the end": (
        [
            added(function("", "f", "x1"), 0),
            args(PARIS, 0, "x2"),
            added(function("", "g", "y1"), 1),
            args(OSLO, 1, "y2"),
            completed(function(PARIS, "f", "x5"), function(OSLO, "g", "y5")),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "ids and places change, the call ids hold": (
        [
            added(function("", "f", "x1"), 1),
            args('{"city"', 1, "x2"),
            added(function("", "g", "x3"), 2),
            args('{"city"', 2, "x4"),
            done(function(OSLO, "g", "x5"), 2),
            completed(function(PARIS, "f", "x6"), function(OSLO, "g", "x7")),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "no ids, places change, the call ids hold": (
        [
            added(function("", "f", None), 1),
            args('{"city"', 1),
            added(function("", "g", None), 2),
            args('{"city"', 2),
            done(function(OSLO, "g", None), 2),
            completed(function(PARIS, "f", "x6"), function(OSLO, "g", "x7")),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "the service calls it incomplete": (
        [done(function(PARIS, status="incomplete")), completed()],
        [],
        [("f", PARIS)],
    ),
    "a message at the call's index": (
        [
            added(message(), 0),
            text("hi", 0),
            done(message("hi"), 0),
            added(function(""), 0),
            args(PARIS, 0),
            done(function(PARIS), 0),
            completed(),
        ],
        [("f", PARIS)],
        [],
    ),
    "closed with no arguments though they came": (
        [added(function("")), args(PARIS), done(function("")), completed()],
        [("f", PARIS)],
        [],
    ),
    "half came, closed with none": (
        [added(function("")), args('{"a":'), done(function("")), completed()],
        [],
        [("f", '{"a":')],
    ),
    "half came, the end has none": (
        [added(function("")), args('{"a":'), completed(function(""))],
        [],
        [("f", '{"a":')],
    ),
    "half came, the arguments' end has none": (
        [added(function("")), args('{"a":'), args_done(""), done(function("")), completed()],
        [],
        [("f", '{"a":')],
    ),
    "an empty object came, then the arguments": (
        [added(function("")), args("{}"), done(function(PARIS)), completed()],
        [("f", PARIS)],
        [],
    ),
    "closed empty, the end has the arguments": (
        [added(function("")), done(function("")), completed(function(PARIS))],
        [("f", PARIS)],
        [],
    ),
    "closed twice, under other ids": (
        [
            added(function("", "f", "1")),
            args(PARIS, 0, "1"),
            done(function(PARIS, "f", "2")),
            done(function(PARIS, "f", "3")),
            completed(function(PARIS, "f", "4")),
        ],
        [("f", PARIS)],
        [],
    ),
    "two, neither index nor id": (
        [
            done(function(PARIS, "f", None), None),
            done(function(OSLO, "g", None), None),
            completed(),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "two begin, neither index nor id": (
        [
            added(function("", "f", None), None),
            args(PARIS, None),
            done(function(PARIS, "f", None), None),
            added(function("", "g", None), None),
            args(OSLO, None),
            done(function(OSLO, "g", None), None),
            completed(),
        ],
        [("f", PARIS), ("g", OSLO)],
        [],
    ),
    "what the service runs itself": (
        [
            done(
                {
                    "type": "mcp_call",
                    "id": "x",
                    "name": "f",
                    "arguments": PARIS,
                    "status": "completed",
                }
            ),
            completed(),
        ],
        [],
        [],
    ),
}


@every("name", CALLS)
def test_calls_have_their_own_arguments(name: str) -> None:
    """Each call is listed once, with its own name and its own arguments, among the safe ones only
    when it was closed and parses."""
    pieces, safe, unsafe = CALLS[name]
    _, session = replay(pieces)
    found = [[(call.name, call.arguments) for call in calls] for calls in calls_of(session)]
    assert found == [safe, unsafe]
    for call in calls_of(session)[0]:
        assert call.id == (f"call_{call.name}")


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, {"a": [1, {"b": None}]}, [1], 5, True])
def test_arguments_as_an_object_are_not_lost(arguments: Any) -> None:
    """Gateways send the object itself instead of its text: the call keeps it, or is not safe;
    never a call with no arguments at all."""
    for pieces in ([done(function(arguments)), completed()], [completed(function(arguments))]):
        _, session = replay(pieces)
        safe, unsafe = calls_of(session)
        assert len(safe) + len(unsafe) == 1
        for call in safe:
            assert call.parsed() == arguments


# --- bytes --------------------------------------------------------------------------------------


def test_invalid_utf_8_becomes_a_replacement_character() -> None:
    """One bad byte costs one character, in a delta and in a done event, not the stream."""
    for piece in (text("a?b"), text_done("a?b")):
        _, session = replay([piece.replace(b"?", b"\xff"), completed()])
        assert (session.state.text, session.complete) == ("a\ufffdb", True)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_cut_by_tcp_is_whole(cut: int) -> None:
    """A character of four bytes that arrives in two pieces."""
    data = json.dumps(
        {"type": "response.output_text.delta", "output_index": 0, "delta": "🚀"}, ensure_ascii=False
    ).encode()
    at = data.index("🚀".encode()) + cut
    _, session = replay([b"data: ", data[:at], data[at:], b"\n\n", completed()])
    assert session.state.text == "🚀"


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([r'"\ud83d\ude80"'], "🚀"),
        ([r'"a\ud83d"', r'"\ude80b"'], ("a\ufffd\ufffdb", "a🚀b")),
        ([r'"\ud83d"'], ("\ufffd",)),
        ([r'"\ude80\ud83d"'], ("\ufffd\ufffd",)),
    ],
)
def test_half_a_surrogate_does_not_end_the_stream(deltas: list[str], expected: Any) -> None:
    r"""Servers in JavaScript cut strings between UTF-16 units: "\ud83d" alone is grammatical JSON
    (RFC 8259, 8.2). It costs a character, not the answer."""
    pieces = [
        b'data: {"type":"response.output_text.delta","output_index":0,"delta":%b}\n\n'
        % delta.encode()
        for delta in deltas
    ]
    _, session = replay([*pieces, completed()])
    assert session.error is None
    assert session.state.text in ((expected,) if isinstance(expected, str) else expected)
    session.state.text.encode()  # no half surrogate is delivered


def test_separators_of_other_standards_are_text() -> None:
    """U+2028, U+0085, VT, FF, FS inside JSON strings are text, raw and escaped, in one data line
    and in several."""
    odd = "a\u2028b\u2029c\u0085d\x1c\x0b\x0ce\u0000f"
    raw = json.dumps(
        {"type": "response.output_text.delta", "output_index": 0, "delta": odd}, ensure_ascii=False
    )
    for piece in (
        f"data: {raw}\n\n",
        f"id: 1\ndata: {raw}\n\n",
        f"data: {raw[:1]}\ndata: {raw[1:]}\n\n",
    ):
        _, session = replay([piece.encode(), completed()])
        assert session.state.text == odd


# --- too large ----------------------------------------------------------------------------------

LIMIT = 300


@pytest.mark.parametrize("cut", CUTTINGS)
def test_what_came_before_an_event_too_large_is_delivered(cut: str) -> None:
    """However the bytes are cut, the events before the one without end are delivered."""
    data = text("a") + text("b") + b"data: " + b"x" * 5 * LIMIT
    events, session = replay(CUTTINGS[cut](data), limit=LIMIT)
    assert type(session.error) is EventTooLarge
    assert (session.state.text, len(events)) == ("ab", 2)


@pytest.mark.parametrize("cut", CUTTINGS)
def test_an_end_before_an_event_too_large_is_an_end(cut: str) -> None:
    """A complete answer stays one, whatever comes behind it."""
    data = text("a") + completed() + b"data: " + b"x" * 5 * LIMIT
    _, session = replay(CUTTINGS[cut](data), limit=LIMIT)
    assert (session.complete, session.error) == (True, None)


@pytest.mark.parametrize("over", [-1, 0, 1, 2, 100])
def test_the_limit_is_the_same_however_it_is_cut(over: int) -> None:
    """An event of a given size passes or not by its size, not by the pieces it came in."""
    head, tail = b'data: {"type":"keepalive","x":"', b'"}'
    event = head + b"x" * (LIMIT + over - len(head) - len(tail)) + tail + b"\n\n"
    outcomes = {
        name: type(replay(cut(event), limit=LIMIT)[1].error) for name, cut in CUTTINGS.items()
    }
    assert len(set(outcomes.values())) == 1, outcomes


def test_the_message_says_what_to_do() -> None:
    """EventTooLarge names the limit, not the content."""
    _, session = replay([b"data: secret" + b"x" * LIMIT], limit=LIMIT)
    assert "max_event_bytes" in str(session.error)
    assert "secret" not in str(session.error)


# --- odd shapes ---------------------------------------------------------------------------------

DEEP: Any = "DEEP"  # stands for JSON that is nested a hundred thousand times
HUGE: Any = "HUGE"  # stands for an integer of five thousand digits
ODD: list[Any] = [
    None,
    5,
    -1,
    2**70,
    10**300,
    1.5,
    True,
    "",
    "x",
    [],
    {},
    [None],
    [[]],
    [{}],
    [5, "x"],
    {"a": 1},
    {"type": None},
    {"type": "message"},
    {"type": []},
    {"type": "message", "content": None},
    {"type": "message", "content": [None]},
    {"type": "message", "content": [[], 5, "x"]},
    {"type": "message", "content": [{"type": "output_text"}]},
    {"type": "message", "content": [{"type": "output_text", "text": 5}]},
    {"type": "message", "content": "text"},
    {"type": "message", "content": {}},
    {"type": "reasoning", "summary": [None]},
    {"type": "reasoning", "summary": "x"},
    {"type": "reasoning", "content": [None], "summary": None},
    {"type": "function_call"},
    {"type": "function_call", "arguments": {}},
    {"type": "function_call", "arguments": 5, "name": 5, "call_id": []},
    {"type": "custom_tool_call", "input": {}},
    {"type": "custom_tool_call", "input": None},
    {"status": "completed", "output": [None]},
    {"output": [None, {"type": "message"}, 5]},
    {"output": None},
    {"output": {}},
    {"output": "x"},
    {"output": [[]]},
    {"output": [{"type": "message", "content": [None]}]},
    {"usage": 5},
    {"usage": {"input_tokens": None}},
    {"usage": {"input_tokens": "x"}},
    {"usage": {"input_tokens_details": []}},
    {"error": []},
    {"error": {"code": []}},
    {"incomplete_details": 5},
    {"incomplete_details": {"reason": {}}},
    {"id": 5, "status": []},
    DEEP,
    HUGE,
]


def with_monsters(payload: Any, name: str) -> bytes:
    data = block(payload, name)
    data = data.replace(b'"DEEP"', b"[" * 100_000 + b"]" * 100_000)
    return data.replace(b'"HUGE"', b"9" * 5000)


FIELDS_OF = {
    cls.type: sorted(set(cls.__struct_encode_fields__) - {"$raw", "$chunks", "sequence_number"})
    for cls in EVENTS
}


@pytest.mark.slow
@pytest.mark.parametrize("share", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_odd_shapes_never_crash(share: int) -> None:
    """Any value in any field of any event, alone and behind a begun item: events or an error, and
    a session that still counts. (The default suite has one value in five of each field, others than
    of the field before.)"""
    fields = [(kind, field) for kind in sorted(FIELDS_OF) for field in FIELDS_OF[kind]]
    for number, (kind, field) in enumerate(fields):
        for value in ODD[number % share :: share]:
            piece = with_monsters({"type": kind, "output_index": 0, field: value}, kind)
            for before in ([], [added(message(id="a")), text("x", id="a")]):
                try:
                    events, session = replay([*before, piece, completed(message("x", id="a"))])
                    _is_sound(events, session)
                except Exception as exc:
                    raise AssertionError(f"{kind}.{field} = {str(value)[:80]}") from exc


@every(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"true",
        b"{",
        b"}",
        b"{}{}",
        b"{} ",
        b" {}",
        b"NaN",
        b'{"type":"response.completed","type":"response.created"}',
        b'{"type":"response.created"',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"-",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"[DONE] ",
        b"[done]",
        b"'",
        b'{"type":"response.output_text.delta","delta":"\\x"}',
        b"1e999",
        b'{"type":"error","message":"m","code":' + b"9" * 5000 + b"}",
        b'{"type":"error","message":"try again in ' + b"9" * 400 + b'h"}',
        b'{"type":"error","code":"' + b"9" * 5000 + b'"}',
        b'{"type":"error","error":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"type":"error","novel":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda data: ascii(data)[:50],
)
@every("name", [None, "error", "response.completed", "response.output_text.delta"])
def test_odd_data_never_crashes(data: bytes, name: str | None) -> None:
    """Any data under any event name: an event, an error of ours, or nothing."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    events, session = replay([text("x"), head + b"data: " + data + b"\n\n"])
    _is_sound(events, session)


def _is_sound(events: Iterable[Any], session: Session) -> None:
    """What holds of every session that was told of its end."""
    events = list(events)
    assert session.ended
    assert session.complete is (session.error is None)
    if session.error is not None:
        assert isinstance(session.error, (ServiceError, ProtocolError, StreamTruncated))
        assert len(session.error.message) < 2000
    assert session.events == len(events)
    for kind in ("text", "thinking", "refusal"):
        joined = "".join(c.text for e in events for c in e.chunks if c.type == kind)
        assert joined == getattr(session.state, kind)
    for call in calls_of(session)[0]:
        assert call.custom or json.loads(call.arguments) is not ...
    for item in session.state.in_order():
        if item.wire is not None:
            item.wire()
    RESPONSES.assistant_turn(session.state, frozenset())


# --- random bytes -------------------------------------------------------------------------------

GRAINS = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"event: ",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r",
        b": ping",
        b"id: 1",
        b"{",
        b"}",
        b'{"type":"',
        b'"delta":"x"',
        b"response.output_text.delta",
        b"response.completed",
        b"error",
        b'"output_index":0',
        b",",
        b'"',
        b"[DONE]",
        b"\xff",
        b"\xef\xbb\xbf",
        b"null",
        b"error: {}",
        text("t"),
        text_done("tt"),
        added(message()),
        done(message("tt")),
        done(function(PARIS)),
        args("{"),
        say("keepalive"),
        say("error", message="m"),
        OPENING,
    ]
)


@pytest.mark.slow
@settings(PROPERTY, max_examples=400)
@given(st.lists(st.one_of(GRAINS, st.binary(max_size=6)), max_size=14), st.integers(0, 5))
def test_random_bytes_never_raise(grains: list[bytes], seed: int) -> None:
    """Bytes of no form, of half a form, of whole events: never an exception, the same in one piece
    as in random ones, and a success only behind a whole terminal event."""
    data = b"".join(grains)
    events, session = replay(random_pieces(seed)(data))
    _is_sound(events, session)
    others, other = replay(whole(data))
    assert others == events
    assert told(other) == told(session)
    if session.complete:
        assert b"response.completed" in data


@settings(PROPERTY, max_examples=60)
@given(st.sampled_from(own()), st.randoms(use_true_random=False))
def test_damaged_recordings_never_raise(recording: Any, rng: random.Random) -> None:
    """Recordings with bytes changed, dropped, doubled or swapped: never an exception."""
    data = bytearray(recording.data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data))
        end = min(len(data), at + rng.choice((1, 1, 5, 60)))
        damage = rng.randrange(4)
        if damage == 0:
            data[at] = rng.randrange(256)
        elif damage == 1:
            del data[at:end]
        elif damage == 2:
            data[at:at] = data[at:end]
        else:
            data[at:end] = bytes(reversed(data[at:end]))
        if not data:
            break
    events, session = replay([bytes(data)])
    _is_sound(events, session)


@pytest.mark.slow
@settings(PROPERTY, max_examples=150)
@given(st.sampled_from(own()), st.randoms(use_true_random=False))
def test_shuffled_recordings_never_raise(recording: Any, rng: random.Random) -> None:
    """The blocks of a recording in any order, some lost, some doubled: never an exception, and
    what is delivered is what is kept."""
    blocks = [b + b"\n\n" for b in recording.data.replace(b"\r\n", b"\n").split(b"\n\n")]
    rng.shuffle(blocks)
    kept = [b for b in blocks for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    events, session = replay([b"".join(kept)])
    _is_sound(events, session)


# --- random answers -----------------------------------------------------------------------------


# What names the item in an event: its id and its index, one of them, an id that changes with each
# event and the index (Copilot), or nothing, where items follow each other (Codex).
MODES = ("full", "ids only", "indices only", "rotating ids", "neither")


class Answer:
    """A random answer whose every word is unique, as a random but truthful service sends it.

    Items are open at the same time; announcements, done events and the final output may be missing
    or come twice; ids may change or be missing, indices may be missing. Each part's own events are
    in order, and no word is lost: what deltas do not bring, a later event of the part does.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.mode = rng.choice(MODES)
        self.output = rng.choice(("full", "full", "empty", "missing"))
        self.offset = rng.choice((0, 0, 1)) if self.mode not in ("ids only", "neither") else 0
        self.no_part_index = rng.random() < 0.3
        self.numbers = iter(range(10**6))
        self.expected: dict[str, Counter[str]] = {"text": Counter(), "thinking": Counter()}
        self.closed: list[tuple[str, str]] = []
        self.open: list[tuple[str, str]] = []
        count = rng.randint(1, 4)
        self.items = [self.item(index) for index in range(count)]

    def word(self) -> str:
        return f"<{next(self.numbers)}>"

    def id(self, index: int) -> str | None:
        if self.mode == "neither":
            return None
        return f"x{next(self.numbers)}" if self.mode == "rotating ids" else f"i{index}"

    def at(self, index: int, part: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.mode not in ("ids only", "neither"):
            found["output_index"] = index + self.offset
        if self.mode not in ("indices only", "neither"):
            found["item_id"] = self.id(index)
        if part is not None and not self.no_part_index:
            found["content_index"] = part
        return found

    def item(self, index: int) -> tuple[list[bytes], dict[str, Any]]:
        kind = self.rng.choice(("message", "message", "reasoning", "function_call"))
        return self.call(index) if kind == "function_call" else self.spoken(index, kind)

    # -- messages and reasoning

    def spoken(self, index: int, kind: str) -> tuple[list[bytes], dict[str, Any]]:
        rng = self.rng
        prefix, part_type, said = {
            "message": ("response.output_text", "output_text", "text"),
            "reasoning": ("response.reasoning_text", "reasoning_text", "thinking"),
        }[kind]
        parts = rng.randint(1, 2)
        # Parts without numbers can only be told apart by their announcements.
        announced = (self.no_part_index and parts > 1) or rng.random() < 0.5
        words = [[self.word() for _ in range(rng.randint(1, 4))] for _ in range(parts)]
        content = [{"type": part_type, "text": "".join(each)} for each in words]
        final = {"type": kind, "status": "completed", "content": content}
        closed = rng.random() < 0.6 or self.mode == "neither"
        told_whole = closed or self.output == "full"
        events: list[bytes] = []
        if rng.random() < 0.7 or self.mode == "neither":
            events.append(self.announce(index, {**final, "content": [], "status": "in_progress"}))
        late = False  # the rest comes with the item's end: then no later part has come before
        for number, each in enumerate(words):
            self.expected[said].update(each)
            if late:
                continue
            part_done = rng.random() < 0.5
            heard = rng.randint(0, len(each)) if told_whole or part_done else len(each)
            if self.mode == "rotating ids" and not (closed or part_done):
                heard = max(1, heard)  # else only the final output would name it, by another id
            late = heard < len(each) and not part_done
            if announced:
                empty = {**content[number], "text": ""}
                at = self.at(index, number)
                events.append(say("response.content_part.added", **at, part=empty))
            for word in each[:heard]:
                events.append(say(f"{prefix}.delta", **self.at(index, number), delta=word))
            if part_done:
                repeat = say(f"{prefix}.done", **self.at(index, number), text="".join(each))
                events += [repeat] * rng.choice((1, 1, 2))
            if kind == "message" and rng.random() < 0.3 and (part_done or heard == len(each)):
                events.append(
                    say(
                        "response.content_part.done", **self.at(index, number), part=content[number]
                    )
                )
        if closed:
            # Without a name the same item twice is two items.
            times = 1 if self.mode == "neither" else rng.choice((1, 1, 2))
            events += [self.finish(index, final)] * times
        return events, final

    # -- calls

    def call(self, index: int) -> tuple[list[bytes], dict[str, Any]]:
        rng = self.rng
        pieces = ['{"w":', f'"{self.word()}"', "}"]
        arguments = "".join(pieces)
        name = f"f{index}"
        final = {
            "type": "function_call",
            "status": "completed",
            "name": name,
            "call_id": f"call{index}",
            "arguments": arguments,
        }
        closed = rng.random() < 0.6 or self.mode == "neither"
        events = [self.announce(index, {**final, "arguments": "", "status": "in_progress"})]
        heard = rng.randint(1, 3) if closed or self.output == "full" else 3
        events += [
            say("response.function_call_arguments.delta", **self.at(index), delta=piece)
            for piece in pieces[:heard]
        ]
        if rng.random() < 0.5:
            repeat = say(
                "response.function_call_arguments.done", **self.at(index), arguments=arguments
            )
            events += [repeat] * rng.choice((1, 2))
        if closed:
            events += [self.finish(index, final)] * rng.choice((1, 1, 2))
        safe = closed or self.output == "full"
        (self.closed if safe else self.open).append((name, arguments))
        return events, final

    def announce(self, index: int, item: dict[str, Any]) -> bytes:
        return say("response.output_item.added", **self.named(index, item))

    def finish(self, index: int, item: dict[str, Any]) -> bytes:
        return say("response.output_item.done", **self.named(index, item))

    def named(self, index: int, item: dict[str, Any]) -> dict[str, Any]:
        at = self.at(index)
        id = at.pop("item_id", None)
        return {**at, "item": {"id": id, **item}}

    # -- the stream

    def stream(self) -> list[bytes]:
        rng = self.rng
        queues = [list(events) for events, _ in self.items]
        mixed: list[bytes] = [OPENING]
        together = rng.random() < 0.5 and self.mode != "neither"
        while any(queues):
            waiting = [queue for queue in queues if queue]
            mixed.append((rng.choice(waiting) if together else waiting[0]).pop(0))
            if rng.random() < 0.1:
                mixed.append(
                    rng.choice((b": ping\n\n", say("keepalive"), say("response.in_progress")))
                )
        return [*mixed, self.end()]

    def end(self) -> bytes:
        if self.output == "missing":
            return say("response.completed", response={"id": "r", "status": "completed"})
        output = [{"id": self.id(index), **final} for index, (_, final) in enumerate(self.items)]
        return completed(*(output if self.output == "full" else []))


def check_random_answer(seed: int) -> None:
    answer = Answer(random.Random(seed))
    stream = answer.stream()
    events, session = replay([b"".join(stream)])
    _is_sound(events, session)
    assert session.complete
    for kind, expected in answer.expected.items():
        said = getattr(session.state, kind)
        heard = Counter(f"<{word}" for word in said.split("<")[1:])
        assert heard == expected, (seed, answer.mode, kind)
    safe, unsafe = ([(c.name, c.arguments) for c in calls] for calls in calls_of(session))
    assert sorted(safe) == sorted(answer.closed), (seed, answer.mode)
    assert sorted(unsafe) == sorted(answer.open), (seed, answer.mode)
    in_bytes, again = replay(random_pieces(seed)(b"".join(stream)))
    assert in_bytes == events
    assert told(again) == told(session)


@pytest.mark.slow
@every("batch", range(8))
def test_random_answers_come_whole_and_once(batch: int) -> None:
    """Answers of several items, open at the same time, with missing, late and doubled events,
    missing indices or changing ids: each word once, each call with its own arguments."""
    for seed in range(batch * 100, batch * 100 + 100):
        check_random_answer(seed)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(8))
def test_very_many_random_answers(batch: int) -> None:
    """The same, twenty thousand times."""
    for seed in range(10_000 + batch * 2500, 10_000 + batch * 2500 + 2500):
        check_random_answer(seed)


def test_a_cut_of_a_random_answer_is_a_prefix() -> None:
    """Cut behind any event: the text so far is a prefix of the whole, no call is safe that was not
    closed, and there is no success."""
    for seed in range(60):
        answer = Answer(random.Random(seed))
        pieces = answer.stream()
        _, full = replay(pieces)
        session = Session(RESPONSES)
        for piece in pieces[:-1]:
            session.receive(piece)
            assert full.state.text.startswith(session.state.text)
            assert full.state.thinking.startswith(session.state.thinking)
            for call in calls_of(session)[0]:
                assert (call.name, call.arguments) in answer.closed
            ended = copy.copy(session)
            ended.receive_eof()
            assert type(ended.error) is StreamTruncated


# --- a 200 with JSON ----------------------------------------------------------------------------


def from_json(payload: Any) -> Session:
    session = Session(RESPONSES)
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    events = session.receive_json(body)
    _is_sound(events, session)
    return session


@pytest.mark.parametrize("status", ["completed", None, "missing"])
def test_a_whole_answer_as_json(status: str | None) -> None:
    """`stream: true` ignored by the server: the whole answer as one event, nothing lost."""
    payload: dict[str, Any] = {
        "id": "r",
        "model": "o",
        "status": status,
        "error": None,
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
            message("hel", "lo"),
            function(PARIS),
            {"type": "custom_tool_call", "name": "g", "input": "x"},
        ],
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    if status == "missing":
        del payload["status"]
    session = from_json(payload)
    found = told(session)
    assert (found["text"], found["thinking"], found["finish"]) == ("hello", "Hm.", "tool_calls")
    assert [call["name"] for call in found["tool_calls"]] == ["f", "g"]
    assert (found["usage"], session.state.response_id) == ({"input": 1, "output": 2}, "r")
    assert session.complete


def test_an_incomplete_answer_as_json() -> None:
    """Ended by the limit: complete as an answer, and its half call is not safe."""
    session = from_json(
        {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [function('{"a":', status="incomplete")],
        }
    )
    assert (session.complete, session.state.finish) == (True, "length")
    assert calls_of(session)[0] == ()


@every("value", ODD)
@every("field", ["output", "usage", "error", "status", "id", "novel"])
def test_odd_json_never_crashes(field: str, value: Any) -> None:
    """Any value in any place: an answer or an error of ours."""
    payload = {"id": "r", "status": "completed", "output": [message("x")], field: value}
    body = json.dumps(payload).encode()
    body = body.replace(b'"DEEP"', b"[" * 100_000 + b"]" * 100_000).replace(b'"HUGE"', b"9" * 5000)
    from_json(body)


@every(
    ("body", "shown"),
    [
        (b"", "''"),
        (b"{", "{"),
        (b'{"a": 1}', "a"),
        (b"\xff\xfe{", "\\ufffd"),
        (b"{" + b"x" * 100_000, "{xxx"),
        (b'{"output": 5}', "output"),
    ],
)
def test_json_that_is_neither(body: bytes, shown: str) -> None:
    """Not a stream, not an answer, not an error: said so, with its beginning only."""
    session = from_json(body)
    assert type(session.error) is NotAStreamError
    assert len(str(session.error)) < 1000
    assert shown.strip("'") in ascii(str(session.error))


def test_a_page_is_refused() -> None:
    """HTML in the stream's place: a bounded message that asks the right questions."""
    session = Session(RESPONSES)
    assert session.refuse(b"<html>" + b"x" * 10_000, "an HTML page") == []
    assert type(session.error) is NotAStreamError
    assert "base_url" in str(session.error)
    assert len(str(session.error)) < 1000
    assert session.ended


# --- levels -------------------------------------------------------------------------------------


def test_the_level_is_the_highest_since_it_was_taken() -> None:
    """A batch of a ping, a status and a token is content; then it starts anew."""
    session = Session(RESPONSES)
    session.receive(say("keepalive") + added(message()) + text("x") + say("keepalive"))
    assert session.activity == 2
    session.activity = 0
    session.receive(say("keepalive"))
    assert session.activity == 0
    session.receive(say("response.web_search_call.searching") + say("keepalive"))
    assert session.activity == 1


def test_every_error_pickles() -> None:
    """Also those that a stream ends in."""
    for name, (pieces, _, raises) in ENDS.items():
        _, session = replay(pieces)
        if raises:
            twin = pickle.loads(pickle.dumps(session.error))
            assert (type(twin), str(twin)) == (type(session.error), str(session.error)), name
            assert isinstance(twin, LLMStreamError)


@pytest.mark.slow
def test_a_long_stream_costs_the_same_per_event() -> None:
    """Ten times the events are ten times the work, counted in calls, not in seconds."""

    def calls(count: int) -> int:
        session = Session(RESPONSES)
        work = 0
        real: Callable[..., Iterator[Any]] = RESPONSES.apply

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(RESPONSES, name)

            def apply(self, state: Any, event: Any) -> Any:
                nonlocal work
                work += 1
                return real(state, event)

        session._dialect = Counting()
        for piece in bytewise(text("x") * count):
            session.receive(piece)
        assert session.state.text == "x" * count
        return work

    assert calls(1000) == 10 * calls(100)


CROWD = 1000
CROWDS: dict[str, list[bytes]] = {
    "items of another kind at the end": [
        *(added({"type": "reasoning", "id": f"a{n}"}, n) for n in range(CROWD)),
        completed(*({"type": "message", "id": f"b{n}"} for n in range(CROWD))),
    ],
    "items of other ids at the end": [
        *(text(f"{n} " * 9, n, 0, f"a{n}") for n in range(CROWD)),
        completed(*(message(f"{n} " * 9, id=f"b{n}") for n in range(CROWD))),
    ],
    "items of other ids, places and words": [
        *(text(f"{n} " * 9, n, 0, f"a{n}") for n in range(CROWD)),
        completed(*(message("x", id=f"b{n}") for n in reversed(range(CROWD)))),
    ],
    "calls without indices": [
        *(done(function(PARIS, f"f{n}", f"a{n}"), None) for n in range(CROWD)),
        completed(*(function(PARIS, f"f{n}", f"b{n}") for n in range(CROWD))),
    ],
    "parts of one item": [
        *(text("x", 0, n) for n in range(CROWD)),
        done(message(*["x"] * CROWD)),
        completed(message(*["x"] * CROWD)),
    ],
    "parts without numbers": [
        *(piece for _ in range(CROWD) for piece in (text("x", 0, None), text_done("x", 0, None))),
        completed(),
    ],
    "the same end again and again": [
        text("x" * 1000),
        *(text_done("x" * 1000) for _ in range(CROWD)),
        *(done(message("x" * 1000)) for _ in range(CROWD)),
        completed(message("x" * 1000)),
    ],
}


@pytest.mark.slow
@every("name", CROWDS)
def test_a_crowd_is_no_hang(name: str) -> None:
    """Thousands of items or parts in one answer take a fraction of a second of computing: not
    everything is compared with everything else. No clock and no cancel reaches a reader that is
    computing."""
    played: list[Session] = []
    assert cpu_seconds(lambda: played.append(replay([b"".join(CROWDS[name])])[1])) < 2.0
    (session,) = played
    assert session.complete is (name != "items of other ids, places and words")


@pytest.mark.slow
@every("front", [False, True])
@every("closed", [False, True])
@every("offset", [0, 1])
@every("count", [10, 60, 300])
def test_a_crowd_under_other_ids_is_said_once(
    count: int, offset: int, closed: bool, front: bool
) -> None:
    """However many items there are, and though the final output calls all of them by other ids
    (Copilot) and has one more in front: each word once, each call once."""
    pieces: list[bytes] = []
    output: list[Any] = []
    for n in range(count):
        at = 2 * n + offset
        arguments = json.dumps({"n": n})
        pieces += [text(f"<{n}>", at, 0, f"m{n}"), args(arguments, at + 1, f"c{n}")]
        output += [message(f"<{n}>", id=f"x{n}"), function(arguments, f"f{n}", f"y{n}")]
        if closed:
            pieces += [done(output[-2], at), done(output[-1], at + 1)]
    words = [f"<{n}>" for n in range(count)]
    if front:
        output.insert(0, message("<front>"))
        words.append("<front>")
    output = [{**item, "id": f"z{n}"} for n, item in enumerate(output)]
    _, session = replay([*pieces, completed(*output)])
    assert session.state.text == "".join(words)
    assert [call.name for call in calls_of(session)[0]] == [f"f{n}" for n in range(count)]


def test_an_error_keeps_the_text_before_it() -> None:
    """What arrived is there when the service fails."""
    _, session = replay([text("a"), text("b"), say("response.failed", response={"error": {}})])
    assert type(session.error) is ServerError
    assert session.state.text == "ab"
