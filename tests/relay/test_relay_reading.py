"""A stream's events become the parts of its answer: all of it, once, in order, an honest end."""

from __future__ import annotations

import gc
import json
import logging
import pickle
import random
import re
import sys
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from corpus import block, completed, say
from part_tools import APIS, check_order, joined, of_kind, read, stream_of
from support import cpu_seconds, executed_lines

from llmstream import (
    Cancelled,
    Client,
    ConfigurationError,
    LLMStreamError,
    RetryPolicy,
    Stream,
    Timeouts,
    ToolCall,
    Usage,
    errors,
)
from llmstream.relay.failures import INTERNAL, MESSAGES, failure_of
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
from llmstream.relay.protocols import make_encoder
from llmstream.relay.reading import checked_stream, parts_of
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, Pings, Reply, Silence

RETRY = RetryPolicy(max_attempts=3)
TWO = Answer("one two three")


def beginning(api: str, answer: Answer = TWO, words: int = 2) -> list[bytes]:
    """The blocks of an answer up to so many words of its text."""
    blocks = answer.blocks(api)
    first = next(at for at, one in enumerate(blocks) if b'"one"' in one)
    return blocks[: first + words]


# ---- a whole answer ----------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_an_answer_in_its_parts(api: str) -> None:
    """The text as iteration has it, piece by piece; thinking, the call, and the end of it all."""
    answer = Answer(
        "one two", thinking="let me see", tool_calls=[("weather", '{"city":"Rome"}', "call_a")]
    )
    stream = stream_of(api, answer)
    parts = read(stream)
    check_order(parts)
    begin = parts[0]
    assert isinstance(begin, Begin)
    assert (begin.trace_id, begin.model) == (stream.trace_id, "m")
    assert abs(begin.created - time.time()) < 60
    assert [part.text for part in of_kind(parts, Text)] == answer.text_deltas
    assert joined(parts, Thinking) == "let me see"
    assert of_kind(parts, CallBegin) == [CallBegin("call_a", "weather")]
    pieces = answer.calls[0].deltas if api != "gemini" else ['{"city":"Rome"}']  # whole there
    assert [part.text for part in of_kind(parts, CallArguments)] == pieces
    assert of_kind(parts, CallEnd) == [CallEnd("call_a", "weather", '{"city":"Rome"}')]
    result = stream.result()
    assert parts[-1] == End(
        finish="tool_calls",
        usage=result.usage,
        model="test-model",
        response_id=result.response_id,
        trace_id=stream.trace_id,
        tool_calls=(ToolCall("call_a", "weather", '{"city":"Rome"}'),),
        text_length=7,
    )


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_refusal_is_a_kind_of_its_own(api: str) -> None:
    parts = read(stream_of(api, Answer(refusal="I will not")))
    check_order(parts)
    assert joined(parts, Refusal) == "I will not"
    assert joined(parts, Text) == ""
    assert parts[-1].text_length == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("api", APIS)
def test_the_model_is_the_one_that_is_asked_for_until_it_is_known(api: str) -> None:
    stream = stream_of(api, TWO)
    assert stream.model == "m"
    stream.result()
    assert stream.model == "test-model"


def test_only_the_first_of_several_answers_is_the_answer() -> None:
    """With n=2 the second choice is not shown, nor are its calls."""

    def chunk(index: int, finish: str | None = None, **delta: Any) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return block({"id": "c", "model": "m", "choices": [choice]})

    def call(index: int, id: str) -> bytes:
        function = {"name": "f", "arguments": "{}"}
        return chunk(index, tool_calls=[{"index": 0, "id": id, "function": function}])

    body = [
        chunk(1, content="other"),
        chunk(0, content="this"),
        call(1, "b"),
        call(0, "a"),
        chunk(0, "tool_calls"),
        chunk(1, "tool_calls"),
        b"data: [DONE]\n\n",
    ]
    transport = FakeTransport(Reply(body))
    client = Client("chat", base_url="http://test", model="m", transport=transport)
    parts = read(client.stream("Hi", extra_body={"n": 2}))
    check_order(parts)
    assert joined(parts, Text) == "this"
    assert [call.id for call in of_kind(parts, CallBegin, CallEnd)] == ["a", "a"]


# ---- calls -------------------------------------------------------------------------------------


def responses_delta(index: int, text: str, custom: bool = False) -> bytes:
    kind = "custom_tool_call_input" if custom else "function_call_arguments"
    return say(f"response.{kind}.delta", output_index=index, item_id=f"fc_{index}", delta=text)


def responses_item(index: int, id: str, name: str, text: str | None = None, **more: Any) -> bytes:
    """A call is announced, or with `text` done."""
    custom = more.get("type") == "custom_tool_call"
    item = {"type": "function_call", "id": f"fc_{index}", "call_id": id, "name": name, **more}
    item["input" if custom else "arguments"] = text or ""
    kind = "added" if text is None else "done"
    return say(f"response.output_item.{kind}", output_index=index, item=item)


def messages_body(*events: dict[str, Any]) -> list[bytes]:
    start = {"type": "message_start", "message": {"id": "msg", "role": "assistant"}}
    ends = [
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ]
    return [block(event, event["type"]) for event in (start, *events, *ends)]


def messages_start(index: int, id: str, name: str) -> dict[str, Any]:
    use = {"type": "tool_use", "id": id, "name": name, "input": {}}
    return {"type": "content_block_start", "index": index, "content_block": use}


def messages_delta(index: int, text: str) -> dict[str, Any]:
    delta = {"type": "input_json_delta", "partial_json": text}
    return {"type": "content_block_delta", "index": index, "delta": delta}


def chat_body(*deltas: dict[str, Any], finish: str = "tool_calls") -> list[bytes]:
    ends = [{"index": 0, "delta": {}, "finish_reason": finish}]
    choices = [{"index": 0, "delta": delta} for delta in deltas]
    chunks = [block({"id": "c", "model": "m", "choices": [one]}) for one in (*choices, *ends)]
    return [*chunks, b"data: [DONE]\n\n"]


def chat_call(index: int, text: str, id: str = "", name: str = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": text, **({"name": name} if name else {})}
    return {
        "tool_calls": [{"index": index, "function": function, **({"id": id} if id else {}), **more}]
    }


def gemini_body(*calls: dict[str, Any], finish: str = "STOP") -> list[bytes]:
    def chunk(parts: list[Any], **more: Any) -> bytes:
        content = {"parts": parts, "role": "model"}
        return block({"candidates": [{"content": content, **more}], "modelVersion": "m"})

    chunks = [chunk([{"functionCall": call}]) for call in calls]
    return [*chunks, chunk([{"text": ""}], finishReason=finish)]


def gemini_piece(text: str, more: bool = True) -> dict[str, Any]:
    """Of the string that is the call's argument "a"; as Vertex sends it."""
    args = {"jsonPath": "$.a", "stringValue": text, "willContinue": more}
    return {"partialArgs": [args], "willContinue": True}


SIDE_BY_SIDE = {
    "responses": [
        responses_item(0, "a", "first"),
        responses_item(1, "b", "second"),
        responses_delta(0, '{"x"'),
        responses_delta(1, '{"y"'),
        responses_delta(1, ":2}"),
        responses_delta(0, ":1}"),
        responses_item(0, "a", "first", '{"x":1}'),
        responses_item(1, "b", "second", '{"y":2}'),
        completed(),
    ],
    "messages": messages_body(
        messages_start(0, "a", "first"),
        messages_start(1, "b", "second"),
        messages_delta(0, '{"x"'),
        messages_delta(1, '{"y"'),
        messages_delta(1, ":2}"),
        messages_delta(0, ":1}"),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_stop", "index": 1},
    ),
    "chat": chat_body(
        chat_call(0, "", "a", "first"),
        chat_call(1, "", "b", "second"),
        chat_call(0, '{"x"'),
        chat_call(1, '{"y"'),
        chat_call(1, ":2}"),
        chat_call(0, ":1}"),
    ),
}


@pytest.mark.parametrize("together", [False, True], ids=["apart", "in one read"])
@pytest.mark.parametrize("api", SIDE_BY_SIDE)
def test_calls_side_by_side_keep_their_pieces(api: str, together: bool) -> None:
    """Each piece has the id of its call, in the order of the wire, however they arrive."""
    body = SIDE_BY_SIDE[api]
    parts = read(stream_of(api, Reply([b"".join(body)] if together else body)))
    check_order(parts)
    assert [(p.id, p.text) for p in of_kind(parts, CallArguments)] == [
        ("a", '{"x"'),
        ("b", '{"y"'),
        ("b", ":2}"),
        ("a", ":1}"),
    ]
    assert [(p.id, p.name, p.arguments) for p in of_kind(parts, CallEnd)] == [
        ("a", "first", '{"x":1}'),
        ("b", "second", '{"y":2}'),
    ]


@pytest.mark.parametrize("together", [False, True], ids=["apart", "in one read"])
def test_calls_of_gemini_come_one_after_the_other(together: bool) -> None:
    """In pieces, whole, and without an id: each with its own id from its beginning to its end."""
    body = gemini_body(
        {"name": "first", "id": "a", "willContinue": True},
        gemini_piece("on"),
        gemini_piece("e", more=False),
        {},
        {"name": "second", "id": "b", "args": {"y": 2}},
        {"name": "third", "args": {"z": [3]}},
    )
    parts = read(stream_of("gemini", Reply([b"".join(body)] if together else body)))
    check_order(parts)
    pieces: dict[str, str] = defaultdict(str)
    for part in of_kind(parts, CallArguments):
        pieces[part.id] += part.text
    ended = [(p.id, p.name, p.arguments) for p in of_kind(parts, CallEnd)]
    texts = ['{"a":"one"}', '{"y":2}', '{"z":[3]}']
    assert [row[1:] for row in ended] == list(zip(["first", "second", "third"], texts, strict=True))
    assert [id for id, _, _ in ended][:2] == ["a", "b"]
    assert [pieces[id] for id, _, _ in ended] == texts
    end = parts[-1]
    assert isinstance(end, End)
    assert [call.id for call in end.tool_calls] == [id for id, _, _ in ended]


def test_equal_pieces_of_calls_side_by_side() -> None:
    """Where pieces of two calls are equal, each call still has its own, all of them, in order."""
    rng = random.Random(7)
    for _ in range(50):
        texts = ['{"a":"' + "".join(rng.choice("ab") for _ in range(8)) + '"}' for _ in range(3)]
        left = [list(text) for text in texts]
        deltas = [chat_call(n, "", f"id{n}", "f") for n in range(3)]
        while any(left):
            n = rng.choice([n for n in range(3) if left[n]])
            deltas.append(chat_call(n, left[n].pop(0)))
        body = chat_body(*deltas)
        size = rng.choice([1, 3, len(body)])
        pieces = [b"".join(body[at : at + size]) for at in range(0, len(body), size)]
        parts = read(stream_of("chat", Reply(pieces)))
        check_order(parts)
        assert [call.arguments for call in of_kind(parts, CallEnd)] == texts


CUSTOM = {
    "responses": [
        responses_item(0, "a", "sql", type="custom_tool_call"),
        responses_delta(0, "select", custom=True),
        responses_delta(0, " 1", custom=True),
        responses_item(0, "a", "sql", "select 1", type="custom_tool_call"),
        completed(),
    ],
    "chat": chat_body(
        {
            "tool_calls": [
                {"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "custom": {"input": "select"}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": " 1"}}]},
    ),
}


@pytest.mark.parametrize("api", CUSTOM)
def test_a_custom_call_is_free_text(api: str) -> None:
    parts = read(stream_of(api, Reply(CUSTOM[api])))
    check_order(parts)
    assert of_kind(parts, CallBegin) == [CallBegin("a", "sql", custom=True)]
    assert of_kind(parts, CallEnd) == [CallEnd("a", "sql", "select 1", custom=True)]


@pytest.mark.parametrize("api", APIS)
def test_a_call_without_arguments_has_an_empty_object(api: str) -> None:
    """It begins with its end, since it has no piece before."""
    parts = read(stream_of(api, Answer(tool_calls=[("now", "", "a")])))
    check_order(parts)
    assert parts[1:-1] == [
        CallBegin("a", "now"),
        CallArguments("a", "{}"),
        CallEnd("a", "now", "{}"),
    ]


@pytest.mark.parametrize("api", APIS)
def test_a_call_that_is_cut_off_is_never_whole(api: str) -> None:
    """By a limit: it began, and has no end, and the end says so."""
    answer = Answer(tool_calls=[("f", '{"a":1}', "a"), ("g", '{"b":', "b")], finish="length")
    reply: Any = answer
    if api == "gemini":
        cut = gemini_body(
            {"name": "f", "id": "a", "args": {"a": 1}},
            {"name": "g", "id": "b", "willContinue": True},
            gemini_piece("x"),
            finish="MAX_TOKENS",
        )
        reply = Reply(cut)
    parts = read(stream_of(api, reply))
    check_order(parts)
    assert [call.id for call in of_kind(parts, CallBegin)] == ["a", "b"]
    assert [call.id for call in of_kind(parts, CallEnd)] == ["a"]
    end = parts[-1]
    assert isinstance(end, End)
    assert [call.id for call in end.incomplete_tool_calls] == ["b"]


@pytest.mark.parametrize("api", APIS)
def test_no_call_is_whole_before_its_answer_is(api: str) -> None:
    """Cut after every block: before the end of the answer no call has an end."""
    blocks = Answer("Hm", tool_calls=[("f", '{"a":1}', "a"), ("g", "", "b")]).blocks(api)
    for size in range(len(blocks)):
        parts = read(stream_of(api, Reply([*blocks[:size], Cut()])))
        check_order(parts)
        if isinstance(parts[-1], Failure):
            assert not of_kind(parts, CallEnd, End)
            begun = {call.id for call in of_kind(parts, CallBegin)}
            assert begun == {call.id for call in parts[-1].incomplete_tool_calls}


def test_calls_without_ids_are_sent_whole_at_the_end() -> None:
    """The library makes their ids, and knows them once the answer is whole."""
    body = chat_body(chat_call(0, '{"a":', name="f"), chat_call(0, "1}"))
    stream = stream_of("chat", Reply(body))
    parts = read(stream)
    check_order(parts)
    (call,) = stream.result().tool_calls
    assert call.id
    assert parts[1:-1] == [
        CallBegin(call.id, "f"),
        CallArguments(call.id, '{"a":1}'),
        CallEnd(call.id, "f", '{"a":1}'),
    ]


def test_a_repeated_id_is_made_unique() -> None:
    body = chat_body(
        chat_call(0, '{"n":1}', "same", "f"),
        chat_call(1, '{"n":2}', "same", "g"),
    )
    stream = stream_of("chat", Reply(body))
    parts = read(stream)
    check_order(parts)
    ids = [call.id for call in stream.result().tool_calls]
    assert len(set(ids)) == 2
    assert [call.id for call in of_kind(parts, CallEnd)] == ids


def test_an_id_that_changes_leaves_an_orphan() -> None:
    """The call is sent anew under its last id; the first one is named as unfinished."""
    function = {"arguments": ":1}"}
    body = chat_body(
        chat_call(0, '{"a"', "old", "f"),
        {"tool_calls": [{"index": 0, "id": "new", "function": function}]},
    )
    parts = read(stream_of("chat", Reply(body)))
    check_order(parts)
    assert [call.id for call in of_kind(parts, CallBegin)] == ["old", "new"]
    assert of_kind(parts, CallEnd) == [CallEnd("new", "f", '{"a":1}')]
    assert [call.id for call in parts[-1].incomplete_tool_calls] == ["old"]  # type: ignore[union-attr]


def test_arguments_that_are_written_another_way_in_the_end() -> None:
    """The final ones hold; of the same value, they void nothing."""
    body = [
        responses_item(0, "a", "f"),
        responses_delta(0, '{"a":1}'),
        responses_item(0, "a", "f", '{ "a": 1 }'),
        completed(),
    ]
    parts = read(stream_of("responses", Reply(body)))
    assert of_kind(parts, CallEnd) == [CallEnd("a", "f", '{ "a": 1 }', rewritten=False)]


def test_arguments_that_lost_a_piece_are_rewritten() -> None:
    body = [
        responses_item(0, "a", "f"),
        responses_delta(0, '{"a":'),
        responses_delta(0, "}"),
        responses_item(0, "a", "f", '{"a":7}'),
        completed(),
    ]
    parts = read(stream_of("responses", Reply(body)))
    check_order(parts)
    assert of_kind(parts, CallEnd) == [CallEnd("a", "f", '{"a":7}', rewritten=True)]


def test_arguments_whose_call_is_announced_late_are_held_back() -> None:
    body = [
        responses_delta(0, '{"a"'),
        responses_item(0, "a", "f"),
        responses_delta(0, ":1}"),
        responses_item(0, "a", "f", '{"a":1}'),
        completed(),
    ]
    parts = read(stream_of("responses", Reply(body)))
    check_order(parts)
    assert parts[1:3] == [CallBegin("a", "f"), CallArguments("a", '{"a":1}')]
    assert of_kind(parts, CallEnd) == [CallEnd("a", "f", '{"a":1}')]


# ---- what it costs -----------------------------------------------------------------------------

PIECES = 250_000  # of four bytes: 1 MB of arguments


def long_arguments(api: str, pieces: int) -> str:
    if api == "gemini":  # an object
        return '{"a":"' + "abcd" * pieces + '"}'
    return '"' + "abcd" * (pieces - 1) + 'ab"'


def long_call(api: str, pieces: int) -> list[bytes]:
    text = long_arguments(api, pieces)
    deltas = [text[at : at + 4] for at in range(0, len(text), 4)]
    if api == "responses":
        body = [
            responses_item(0, "a", "f"),
            *(responses_delta(0, one) for one in deltas),
            responses_item(0, "a", "f", text),
            completed(),
        ]
    elif api == "messages":
        body = messages_body(
            messages_start(0, "a", "f"),
            *(messages_delta(0, one) for one in deltas),
            {"type": "content_block_stop", "index": 0},
        )
    elif api == "gemini":
        body = gemini_body(
            {"name": "f", "id": "a", "willContinue": True},
            *([gemini_piece("abcd" * 4)] * (pieces // 4 - 1)),  # each is an event of its own kind
            gemini_piece("abcd" * 4, more=False),
            {},
        )
    else:
        body = chat_body(chat_call(0, "", "a", "f"), *(chat_call(0, one) for one in deltas))
    return [b"".join(body[at : at + 100]) for at in range(0, len(body), 100)]


def lines(api: str, pieces: int, work: Callable[[Stream], Any]) -> int:
    stream = stream_of(api, Reply(long_call(api, pieces)))
    return executed_lines(lambda: work(stream))


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_arguments_cost_the_same_however_long_they_are(api: str) -> None:
    """Ten times the pieces are ten times the work; and a piece costs at most three times what it
    costs to read it by `chunks()`."""
    few, many = (lines(api, number, read) for number in (200, 2000))
    assert many < 11 * few
    plain = lines(api, 2000, lambda stream: list(stream.chunks()))
    assert many < 3 * plain, (many, plain)


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_a_megabyte_of_arguments_in_small_pieces(api: str) -> None:
    """In CPU time: at most three times what it takes to read them by `chunks()`."""

    def seconds(work: Callable[[Stream], Any]) -> float:
        stream = stream_of(api, Reply(long_call(api, PIECES)))
        return cpu_seconds(lambda: work(stream))

    def relayed(stream: Stream) -> None:
        *_, call, end = (part for part in parts_of(stream))
        assert isinstance(call, CallEnd)
        assert call.arguments == long_arguments(api, PIECES)
        assert isinstance(end, End)

    plain = seconds(lambda stream: sum(1 for _ in stream.chunks()))
    assert seconds(relayed) < 3 * plain + 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["one after another", "in turns"])
def test_many_calls_cost_the_same_each(shape: str) -> None:
    """A piece looks at no call but its own, or the one that is next."""

    def body(calls: int) -> Reply:
        begins = [chat_call(n, "", f"id{n}", "f") for n in range(calls)]
        pieces = [[chat_call(n, one) for one in ('{"a"', ":", f'"{n}"', "}")] for n in range(calls)]
        rows = pieces if shape == "one after another" else zip(*pieces, strict=True)
        chunks = chat_body(*begins, *(one for row in rows for one in row))
        return Reply([b"".join(chunks)])

    def cost(calls: int) -> int:
        stream = stream_of("chat", body(calls))
        return executed_lines(lambda: read(stream))

    few, many = cost(40), cost(400)
    assert many < 13 * few, (few, many)


# ---- attempts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_a_retry_is_told_before_its_wait(api: str) -> None:
    """Not when the next request has been accepted: then the person has waited in silence."""
    clock = FakeClock()
    refusal = Reply.error(429, headers={"retry-after": "20"})
    stream = stream_of(api, refusal, TWO, clock=clock, retry=RETRY)
    parts = parts_of(stream)
    begin, retry = next(parts), next(parts)
    assert isinstance(begin, Begin)
    assert isinstance(retry, Retry)
    assert (retry.attempt, retry.reason) == (2, "RateLimitError")
    assert retry.delay >= 20
    assert clock.slept == []  # the wait is yet to come
    rest = list(parts)
    assert sum(clock.slept) >= 20
    check_order([begin, retry, *rest])
    assert joined(rest, Text) == "one two three"


@pytest.mark.parametrize("api", APIS)
def test_every_retry_is_told(api: str) -> None:
    stream = stream_of(api, Reply.error(503), Reply.error(500), TWO, retry=RETRY)
    parts = read(stream)
    check_order(parts)
    assert [(r.attempt, r.reason) for r in of_kind(parts, Retry)] == [
        (2, "OverloadedError"),
        (3, "ServerError"),
    ]
    assert len(stream.attempts) == 3


def test_a_view_without_retries_has_none() -> None:
    """`events()` is as it was; with `retries=True` it has them."""
    names = []
    for retries in (False, True):
        stream = stream_of("chat", Reply.error(503), TWO, retry=RETRY)
        names.append([event.type for event in stream.events(retries=retries)])
    assert names[1] == ["llmstream.retried", *names[0]]


@pytest.mark.parametrize("api", APIS)
def test_a_restart_voids_what_was_shown(api: str) -> None:
    answer = Answer("one two", tool_calls=[("f", '{"a":1}', "a")])
    blocks = answer.blocks(api)
    last = max(at for at, one in enumerate(blocks) if b"}" in one and b"a" in one) - 2
    stream = stream_of(
        api, Reply([*blocks[:last], Cut()]), answer, retry=RETRY, on_disconnect="restart"
    )
    parts = read(stream)
    check_order(parts)
    kinds = [type(part) for part in parts]
    assert kinds.index(Retry) == kinds.index(Restart) - 1
    assert of_kind(parts, Restart) == [Restart(2)]
    assert joined(parts, Text) == "one two"
    end = parts[-1]
    assert isinstance(end, End)
    assert end.text_length == 7
    assert [call.id for call in end.tool_calls] == ["a"]
    assert end.incomplete_tool_calls == ()


@pytest.mark.parametrize("api", APIS)
def test_a_continued_answer_is_one(api: str) -> None:
    stream = stream_of(
        api,
        Reply([*beginning(api), Cut()]),
        Answer(" three"),
        retry=RETRY,
        on_disconnect="continue",
    )
    parts = read(stream)
    check_order(parts)
    assert len(of_kind(parts, Retry)) == 1
    assert joined(parts, Text) == stream.text == "one two three"


def test_a_resumed_answer_is_one() -> None:
    blocks = TWO.blocks()
    cut = len(beginning("responses"))
    stream = stream_of(
        "responses",
        Reply([*blocks[:cut], Cut()]),
        Reply(blocks[cut - 2 :]),  # with two that are known
        retry=RETRY,
        on_disconnect="resume",
    )
    parts = read(stream)
    check_order(parts)
    assert joined(parts, Text) == "one two three"
    assert isinstance(parts[-1], End)


# ---- failures ----------------------------------------------------------------------------------

CLOCKS = Timeouts(connect=5.0, first_token=5.0, idle=5.0, silence=5.0)


def failing(api: str, content: bool) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The name of an error's class -> a reply that ends so, and the client's settings."""
    start: list[Any] = beginning(api) if content else []
    said = {"timeouts": CLOCKS}
    silent = {"timeouts": Timeouts(idle=9.0, silence=5.0)}
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "StreamInterrupted": (Reply([*start, Cut()]), {}),
        "StreamTruncated": (Reply([*start, Cut(last_chunk=True)]), {}),
        "ProtocolError": (Reply([*start, b"data: {garbled\n\n"]), {}),
        "ServerError": (Reply([*start, _error_block(api)]), {}),
        "DeadlineExceeded": (Reply([*start, Silence()]), {"timeouts": Timeouts(total=5.0)}),
    }
    if content:
        cases["IdleTimeout"] = (Reply([*start, Pings(every=1.0)]), said)
        cases["SilenceTimeout"] = (Reply([*start, Silence()]), silent)
        looped = [TWO.blocks(api)[len(start) - 1]] * 20
        looped = [re_numbered(one) for one in looped]
        cases["LoopDetected"] = (Reply([*start, *looped]), {"max_identical_chunks": 5})
        return cases
    cases["FirstTokenTimeout"] = (Reply([Silence()]), said)
    cases["NotAStreamError"] = (Reply.html(), {})
    cases["ConnectionFailed"] = (Reply(TWO, before=[Cut()]), {})
    for status, name in (
        (400, "InvalidRequestError"),
        (401, "AuthenticationError"),
        (402, "QuotaExceededError"),
        (403, "PermissionDeniedError"),
        (404, "InvalidRequestError"),
        (429, "RateLimitError"),
        (500, "ServerError"),
        (503, "OverloadedError"),
    ):
        cases[f"{name} {status}"] = (Reply.error(status), {})
    return cases


def re_numbered(data: bytes) -> bytes:
    return re.sub(rb',"sequence_number":\d+', b"", data)


def _error_block(api: str) -> bytes:
    return Answer(error={"code": "server_error", "message": "SECRET words"}).blocks(api)[-1]


CASES = [
    pytest.param(api, content, name, id=f"{api}-{'after' if content else 'before'}-{name}")
    for api in APIS
    for content in (False, True)
    for name in failing(api, content)
]


@pytest.mark.parametrize(("api", "content", "name"), CASES)
def test_every_failure_is_one_part(api: str, content: bool, name: str) -> None:
    """It is the last one, with the class of the error and a sentence; what came before it stays."""
    reply, settings = failing(api, content)[name]
    stream = stream_of(api, reply, **settings)
    reading = parts_of(stream)
    parts = list(reading)
    check_order(parts)
    failure = parts[-1]
    assert isinstance(failure, Failure)
    with pytest.raises(LLMStreamError) as caught:
        stream.result()
    error = caught.value
    assert reading.error is error
    assert failure.type == type(error).__name__ == name.partition(" ")[0]
    assert failure.message == MESSAGES[type(error)]
    assert failure.retryable == error.retryable
    assert failure.trace_id == stream.trace_id
    assert failure.usage == error.partial.usage
    assert joined(parts, Text) == error.partial.text
    assert failure.text_length == len(error.partial.text)
    assert bool(error.partial.text) == content
    with pytest.raises(StopIteration):
        next(reading)


def test_every_error_has_a_sentence_that_anybody_may_read() -> None:
    """A class of `llmstream.errors` that is new needs one here; and none says more than it may."""
    classes = {getattr(errors, name) for name in errors.__all__} - {errors.BatchError}
    assert classes == MESSAGES.keys()
    for cls, message in MESSAGES.items():
        assert message.endswith(".")
        assert len(message) < 100
        words = message.lower()
        for word in ("key", "quota", "http", "api", "token", "model", "llmstream", cls.__name__):
            assert word not in words, (cls, word)


SECRET = "sk-SECRET http://inner.example/v1 the prompt"


@pytest.mark.parametrize(
    "cls", [getattr(errors, name) for name in errors.__all__ if name != "BatchError"]
)
def test_a_failure_says_nothing_of_the_error_itself(cls: type[LLMStreamError]) -> None:
    error = cls(SECRET)
    stream = stream_of("responses", TWO)
    failure = failure_of(error, stream)
    assert failure.type == cls.__name__
    assert "SECRET" not in repr(failure)
    assert "inner" not in repr(failure)


def test_a_class_of_ones_own_is_shown_as_its_parent() -> None:
    """The names that a page may meet are known."""

    class MyKeyIsWrong(errors.AuthenticationError):
        pass

    stream = stream_of("responses", TWO)
    assert failure_of(MyKeyIsWrong(SECRET), stream).type == "AuthenticationError"


def test_a_foreign_exception_is_a_failure_and_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else on the server would tell of it. The page learns nothing of it but that it
    is."""
    stream = stream_of("responses", TWO)
    parts = parts_of(stream)
    assert isinstance(next(parts), Begin)
    assert isinstance(next(parts), Text)

    def broken(chunk: Any) -> Any:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(parts, "_parts", broken)
    with caplog.at_level(logging.ERROR, "llmstream"):
        rest = list(parts)
    assert rest == [
        Failure(
            type=INTERNAL,
            message="Something went wrong on the server.",
            usage=Usage(),
            trace_id=stream.trace_id,
            text_length=3,
        )
    ]
    assert isinstance(parts.error, ZeroDivisionError)
    assert stream.ended
    assert "ZeroDivisionError" in caplog.text
    assert stream.trace_id in caplog.text


# ---- the ways out ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [0, 1, 2])
def test_a_cancel_is_a_failure_of_its_own(words: int) -> None:
    stream = stream_of("responses", TWO)
    parts = parts_of(stream)
    seen: list[Part] = [next(parts) for _ in range(words + 1)]
    stream.cancel("the user pressed stop")
    seen += parts
    check_order(seen)
    failure = seen[-1]
    assert isinstance(failure, Failure)
    assert (failure.type, failure.retryable) == ("Cancelled", False)
    assert "pressed" not in failure.message
    assert isinstance(parts.error, Cancelled)


def test_cancelled_before_anything_nothing_is_sent() -> None:
    transport = FakeTransport(TWO)
    client = Client(base_url="http://test", transport=transport)
    stream = client.stream("Hi")
    stream.cancel()
    parts = read(stream)
    assert [type(part) for part in parts] == [Begin, Failure]
    assert transport.requests == []


def test_closing_ends_the_call() -> None:
    stream = stream_of("responses", TWO)
    parts = parts_of(stream)
    next(parts)
    next(parts)
    assert not stream.ended
    parts.close()
    parts.close()
    assert stream.ended
    rest = list(parts)
    assert [type(part) for part in rest] == [Failure]


def test_dropping_ends_the_call() -> None:
    """Without the garbage collector: the parts are in no cycle."""
    gc.disable()
    try:
        stream = stream_of("responses", TWO)
        parts = parts_of(stream)
        next(parts)
        next(parts)
        call = weakref.ref(stream._call)
        del parts, stream
        found = call()
        assert found is None or found.ended
    finally:
        gc.enable()


def test_an_interrupt_goes_through_and_loses_nothing_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C is raised, the call has ended, and whoever reads on is told."""
    stream = stream_of("responses", TWO)
    parts = parts_of(stream)
    next(parts)

    def interrupted(event: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "_parts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(parts)
    assert stream.ended
    with pytest.raises(Cancelled):
        next(parts)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "use",
    [
        lambda stream: next(stream),
        lambda stream: list(stream),
        lambda stream: stream.chunks(),
        lambda stream: stream.events(),
        lambda stream: stream.result(),
        lambda stream: parts_of(stream),
    ],
    ids=["next", "iteration", "chunks", "events", "result", "parts"],
)
def test_a_stream_that_was_read_is_refused_at_once(api: str, use: Callable[[Any], Any]) -> None:
    stream = stream_of(api, TWO)
    kept = use(stream)
    with pytest.raises(ConfigurationError, match="read"):
        parts_of(stream)
    del kept


def test_a_stream_that_has_been_entered_is_taken() -> None:
    with stream_of("responses", TWO) as stream:
        assert joined(read(stream), Text) == "one two three"


@pytest.mark.parametrize("odd", [None, "text", object(), [TWO], iter("abc"), Stream])
def test_what_is_no_stream_is_refused(odd: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass a stream"):
        parts_of(odd)


@pytest.mark.parametrize(
    ("protocol", "version"), [("text", None), ("chat-completions", None), ("ui-message", 5)]
)
def test_a_protocol_without_a_word_for_it_refuses_restart(protocol: str, version: Any) -> None:
    stream = stream_of("chat", TWO, on_disconnect="restart")
    with pytest.raises(ConfigurationError, match="on_disconnect"):
        checked_stream("relay.sse", stream, make_encoder(protocol, version))
    checked_stream("relay.sse", stream, make_encoder("events"))
    checked_stream("relay.sse", stream)


# ---- merging -----------------------------------------------------------------------------------


def test_neighbours_are_merged() -> None:
    parts: list[Part] = [
        Begin("t"),
        Text("a"),
        Text("b"),
        Thinking("c"),
        Text("d"),
        CallBegin("1", "f"),
        CallArguments("1", "x"),
        CallArguments("1", "y"),
        CallArguments("2", "z"),
        Refusal("r"),
        Refusal("s"),
        Retry(2),
        Text("e"),
        End(),
    ]
    assert merged(parts) == [
        Begin("t"),
        Text("ab"),
        Thinking("c"),
        Text("d"),
        CallBegin("1", "f"),
        CallArguments("1", "xy"),
        CallArguments("2", "z"),
        Refusal("rs"),
        Retry(2),
        Text("e"),
        End(),
    ]
    assert merged([]) == []
    assert merged(merged(parts)) == merged(parts)


@pytest.mark.parametrize("api", APIS)
def test_parts_are_values(api: str) -> None:
    """They compare, pickle, and cannot be changed."""
    answer = Answer("Hm", thinking="x", tool_calls=[("f", json.dumps({"a": 1}))])
    for part in read(stream_of(api, answer)):
        assert pickle.loads(pickle.dumps(part)) == part
        with pytest.raises(AttributeError):
            part.text = "other"  # type: ignore[misc, union-attr]


# ---- an interrupt at any moment ----------------------------------------------------------------


class Interrupt(BaseException):
    """What is injected."""


def interrupted_at(number: int, work: Callable[[], None]) -> bool:
    """`work` with an interrupt at the n-th point at which CPython looks for some: where a function
    begins, and where one that is written in C has returned. Whether there are so many."""
    count = 0

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_return") and "/llmstream/" in frame.f_code.co_filename
        if count == number:
            sys.setprofile(None)
            raise Interrupt

    before = sys.getprofile()
    try:
        sys.setprofile(profile)
        work()
    except Interrupt:
        pass
    finally:
        sys.setprofile(before)
    return count >= number


@pytest.mark.parametrize(
    ("api", "stride"),
    [
        ("responses", 41),
        ("gemini", 13),
        *(pytest.param(api, 3, marks=pytest.mark.attack) for api in APIS),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_an_interrupt_no_part_is_missing_in_silence(
    api: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads on gets all of the answer, or is told that it has been interrupted."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    answer = Answer("one two three", tool_calls=[("f", '{"a":1}')])
    point, whole, told = 1, 0, 0
    while True:
        stream = stream_of(api, answer)
        parts, seen = parts_of(stream), list[Part]()

        def work(parts: Any = parts, seen: list[Part] = seen) -> None:
            for part in parts:
                seen.append(part)

        if not interrupted_at(point, work):
            break
        is_told = False
        try:
            seen += parts
        except Cancelled:
            is_told = True
        if of_kind(seen, End):  # (after it nothing is missing, whatever comes)
            whole += 1
            check_order(seen)
            assert joined(seen, Text) == "one two three"
            assert len(of_kind(seen, CallEnd)) == 1
        else:
            told += 1
            assert is_told or isinstance(seen[-1], Failure)
        assert stream.ended
        point += stride
    assert told > 10
    assert whole
