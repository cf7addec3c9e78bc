"""Tool calls as services really send them: each one is the right call, or it is incomplete."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every
from support import ONCE

from llmstream import Client, LLMStreamError, Result
from llmstream.testing import FakeClock, FakeTransport, Reply


def data(payload: Any) -> bytes:
    return f"data: {json.dumps(payload)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def answer(api: str, *parts: bytes, profile: str | None = None) -> Result:
    """What a whole client makes of the parts."""
    transport = FakeTransport(Reply(list(parts)))
    client = Client(
        api,
        model="m",
        base_url="http://test/v1",
        retry=ONCE,
        transport=transport,
        clock=FakeClock(),
        profile=profile,
    )
    try:
        return client.stream("Hi").result()
    except LLMStreamError as error:
        return error.partial


def names_and_arguments(result: Result) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in result.tool_calls]


# ---- Chat Completions --------------------------------------------------------------------------


def call(
    name: str | None = None, arguments: Any = None, *, index: int | None = 0, **fields: Any
) -> dict[str, Any]:
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    return {**({} if index is None else {"index": index}), **fields, "function": function}


def said(*calls: Any, finish: str | None = None, index: int = 0, **delta: Any) -> bytes:
    if calls:
        delta["tool_calls"] = list(calls)
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return data({"id": "c1", "object": "chat.completion.chunk", "choices": [choice]})


def chat(*parts: bytes, finish: str = "tool_calls", profile: str | None = None) -> Result:
    return answer("chat", *parts, said(finish=finish), DONE, profile=profile)


def named(result: Result) -> list[tuple[str, str]]:
    return [(c.name, c.arguments) for c in result.tool_calls]


NAMES = {
    "in pieces": [call("get_", "", id="a"), call("weather"), call(None, '{"x":1}')],
    "in three": [call("get", id="a"), call("_"), call("weather", '{"x":1}')],
    "in pieces, the id repeated": [call("get_", id="a"), call("weather", '{"x":1}', id="a")],
    "in pieces, no id": [call("get_", ""), call("weather", ""), call(None, '{"x":1}')],
    "in pieces, no index": [
        call("get_", "", index=None, id="a"),
        call("weather", index=None),
        call(None, '{"x":1}', index=None),
    ],
    "a piece beside arguments": [
        call("get_", '{"x"', id="a"),
        call("weather", ":1}", id="a"),
    ],
    "all of it so far": [call("get_", "", id="a"), call("get_weather", '{"x":1}')],
    "repeated": [
        call("get_weather", '{"x"', id="a"),
        call("get_weather", ":1", id="a"),
        call("get_weather", "}", id="a"),
    ],
    "repeated without an id": [call("get_weather", '{"x"'), call("get_weather", ":1}")],
    "repeated without an index": [
        call("get_weather", '{"x"', index=None),
        call("get_weather", ":1}", index=None),
    ],
    "the whole call again": [
        call("get_weather", '{"x":1}', id="a"),
        call("get_weather", '{"x":1}', id="a"),
    ],
}


@every("pieces", NAMES.values(), ids=NAMES)
def test_a_name_is_whole(pieces: list[Any]) -> None:
    """However a gateway sends it, it is neither cut nor doubled."""
    result = chat(*(said(piece) for piece in pieces))
    assert named(result) == [("get_weather", '{"x":1}')]
    assert result.incomplete_tool_calls == ()
    (turn,) = result.to_messages()
    assert turn["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"x":1}'}


def test_the_name_of_the_older_form_in_pieces() -> None:
    parts = [
        said(function_call={"name": "get_"}),
        said(function_call={"name": "weather", "arguments": "{}"}),
    ]
    assert named(chat(*parts, finish="function_call")) == [("get_weather", "{}")]


ONE, TWO = '{"x":1}', '{"y":2}'
SHARED = {
    "in pieces": [call("f", "", id="a"), call(None, ONE), call("f", "", id="b"), call(None, TWO)],
    "whole": [call("f", ONE, id="a"), call("f", TWO, id="b")],
    "no ids": [call("f", ONE), call("f", TWO)],
    "no ids and no index": [call("f", ONE, index=None), call("f", TWO, index=None)],
    "the name after the id": [
        call("f", ONE, id="a"),
        call(None, "", id="b"),
        call("f"),
        call(None, TWO),
    ],
    "interleaved by id": [
        call("f", '{"x"', id="a"),
        call("f", '{"y"', id="b"),
        call(None, ":1}", id="a"),
        call(None, ":2}", id="b"),
    ],
}


@every("pieces", SHARED.values(), ids=SHARED)
def test_two_calls_of_one_name_at_one_index(pieces: list[Any]) -> None:
    result = chat(*(said(piece) for piece in pieces))
    assert named(result) == [("f", ONE), ("f", TWO)]
    assert len({c.id for c in result.tool_calls}) == 2
    assert result.incomplete_tool_calls == ()


def test_two_names_in_one_delta_are_two_calls() -> None:
    """Though neither has an index, an id or an argument."""
    result = chat(said(call("f", index=None), call("g", index=None)))
    assert named(result) == [("f", "{}"), ("g", "{}")]


def test_an_id_that_changes_from_delta_to_delta() -> None:
    """Some gateways make one for every delta; without a name it begins no call."""
    pieces = [call("f", "", id="a"), call(None, '{"x"', id="b"), call(None, ":1}", id="c")]
    assert named(chat(*(said(piece) for piece in pieces))) == [("f", ONE)]
    assert named(chat(*(said(piece) for piece in pieces), said(call(None, "", id="d")))) == [
        ("f", ONE)
    ]


OTHER_CHOICES = {
    "only the second": [said(call("f", ONE, id="a"), index=1), said(finish="stop", index=1)],
    "the calls in the second": [
        said(role="assistant", content="Hi"),
        said(call("f", ONE, id="a"), index=1),
        said(finish="tool_calls", index=1),
    ],
    "the finish in the first": [
        said(role="assistant"),
        said(call("f", ONE, id="a"), index=1),
        said(finish="tool_calls"),
    ],
    "the finish in the second": [
        said(call("f", ONE, id="a")),
        said(finish="tool_calls", index=1),
    ],
    "a finish in each": [
        said(content="Hi"),
        said(finish="stop"),
        said(call("f", ONE, id="a"), index=1, finish="tool_calls"),
    ],
}


@every("end", [b"", DONE], ids=["no end marker", "end marker"])
@every("parts", OTHER_CHOICES.values(), ids=OTHER_CHOICES)
def test_calls_in_another_choice(parts: list[bytes], end: bytes) -> None:
    """One answer was asked for: what a gateway puts into other choices belongs to it."""
    result = answer("chat", *parts, end)
    assert named(result) == [("f", ONE)]
    assert result.finish == "tool_calls"
    (turn,) = result.to_messages()
    assert [c["id"] for c in turn["tool_calls"]] == ["a"]


def test_an_alternative_is_not_a_part() -> None:
    """A choice with calls besides those of the first is another answer."""
    result = answer(
        "chat",
        said(call("f", ONE, id="a")),
        said(call("f", TWO, id="b"), index=1),
        said(finish="tool_calls", index=1),
        said(finish="tool_calls"),
        DONE,
    )
    assert named(result) == [("f", ONE)]


def test_text_in_another_choice() -> None:
    """The first choice has nothing: the text of the second one is the answer."""
    result = answer(
        "chat", said(role="assistant"), said(content="Hi", index=1), said(finish="stop", index=1)
    )
    assert (result.text, result.finish) == ("Hi", "stop")


# ---- every API ---------------------------------------------------------------------------------


def one_call(api: str, arguments: Any, finish: str | None = None) -> Result:
    """An answer with one call, its arguments in one piece (None: none), which ends with the
    service's word `finish` (None: its usual word)."""
    if api == "chat":
        return chat(said(call("f", arguments, id="a")), finish=finish or "tool_calls")
    if api == "messages":
        block = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
        delta = {"type": "input_json_delta", "partial_json": arguments}
        events = [
            {"type": "message_start", "message": {"id": "m", "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            *([] if arguments is None else [_delta(delta)]),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": finish or "tool_use"}},
            {"type": "message_stop"},
        ]
        return answer(api, *map(data, events))
    if api == "gemini":
        args = {"args": json.loads(arguments)} if (arguments or "").strip() else {}
        part = {"functionCall": {"name": "f", "id": "a", **args}}
        candidate = {"content": {"parts": [part]}, "finishReason": finish or "STOP"}
        return answer(api, data({"candidates": [candidate]}))
    item = {"type": "function_call", "id": "i", "call_id": "a", "name": "f"}
    item = {**item, "arguments": arguments or "", "status": "completed"}
    kind = "completed" if finish in (None, "completed") else "incomplete"
    response: dict[str, Any] = {"id": "r", "status": kind, "output": [item]}
    if kind == "incomplete":
        response["incomplete_details"] = {"reason": finish}
    return answer(
        api,
        data({"type": "response.output_item.done", "output_index": 0, "item": item}),
        data({"type": f"response.{kind}", "response": response}),
    )


def _delta(delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


APIS = ("responses", "messages", "chat", "gemini")


@pytest.mark.parametrize("api", APIS)
def test_json_text_inside_json(api: str) -> None:
    """Arguments that a gateway has encoded twice: `parsed` is the object."""
    (call,) = one_call(api, json.dumps(ONE)).tool_calls
    assert call.parsed() == {"x": 1}
    (call,) = one_call(api, json.dumps(json.dumps(ONE))).tool_calls
    assert call.parsed() == {"x": 1}


@pytest.mark.parametrize("api", APIS)
def test_half_an_object_inside_json_text(api: str) -> None:
    """The text is whole, what it contains is not."""
    result = one_call(api, json.dumps('{"x":'))
    assert result.tool_calls == ()
    assert len(result.incomplete_tool_calls) == 1


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_the_turn_has_the_object(api: str) -> None:
    (turn,) = one_call(api, json.dumps(ONE)).to_messages()
    sent = (
        turn["content"][0]["input"]
        if api == "messages"
        else json.loads(turn["tool_calls"][0]["function"]["arguments"])
    )
    assert sent == {"x": 1}


@pytest.mark.parametrize("text", ['{"x":1}', '"{\\"x\\":1}"'])
def test_the_input_of_a_block_as_text(text: str) -> None:
    """Messages from a gateway whose tool blocks have JSON text instead of an object."""
    block = {"type": "tool_use", "id": "a", "name": "f", "input": text}
    events = [
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ]
    result = answer("messages", *map(data, events))
    assert [c.parsed() for c in result.tool_calls] == [{"x": 1}]
    assert result.to_messages()[0]["content"][0]["input"] == {"x": 1}


WORDS = {
    "chat": ["stop", "function_call", "end_turn", "whatever"],
    "messages": ["end_turn", "stop_sequence", "pause_turn", "whatever"],
    "responses": ["completed", "whatever"],
    "gemini": ["STOP", "OTHER", "whatever"],
}


@every(("api", "word"), [(a, w) for a, words in WORDS.items() for w in words])
def test_a_whole_call_makes_the_finish(api: str, word: str) -> None:
    """Whatever word the service has for it."""
    assert one_call(api, ONE, word).finish == "tool_calls"


@pytest.mark.parametrize(
    ("api", "word"),
    [
        ("chat", "length"),
        ("messages", "max_tokens"),
        ("responses", "max_output_tokens"),
        ("gemini", "MAX_TOKENS"),
    ],
)
def test_an_answer_that_a_limit_has_cut(api: str, word: str) -> None:
    """Its finish stays; a call that has no arguments is incomplete, a whole one is safe."""
    cut = one_call(api, None, word)
    assert (cut.finish, cut.tool_calls, len(cut.incomplete_tool_calls)) == ("length", (), 1)
    assert cut.to_messages() == []
    whole = one_call(api, ONE, word)
    assert (whole.finish, named(whole)) == ("length", [("f", ONE)])


def test_the_word_content_filter_stays() -> None:
    assert one_call("chat", ONE, "content_filter").finish == "content_filter"
    assert one_call("responses", ONE, "content_filter").finish == "content_filter"


@every("api", APIS)
@every("nothing", [None, "", " "])
def test_no_argument_at_all(api: str, nothing: str | None) -> None:
    result = one_call(api, nothing)
    assert named(result) == [("f", "{}")]
    assert result.tool_calls[0].parsed() == {}


# ---- one id for several calls ------------------------------------------------------------------


def test_two_calls_with_one_id_at_one_index() -> None:
    """They are two calls, in one delta, in two, and in one message; the second gets an id."""
    first, second = call("get", '{"x":1}', id="a"), call("put", '{"x":2}', id="a")
    again = call("get", '{"x":3}', id="a")
    for parts in ([said(first, second)], [said(first), said(second)]):
        assert names_and_arguments(chat(*parts)) == [("get", '{"x":1}'), ("put", '{"x":2}')]
    result = chat(said(first), said(again))
    assert names_and_arguments(result) == [("get", '{"x":1}'), ("get", '{"x":3}')]
    assert len({c.id for c in result.tool_calls}) == 2


def test_a_call_that_comes_again_is_one_call() -> None:
    """The whole call a second time, and the name and id with every piece."""
    whole = call("get", '{"x":1}', id="a")
    assert names_and_arguments(chat(said(whole), said(whole))) == [("get", '{"x":1}')]
    pieces = [call("get", text, id="a") for text in ('{"x"', ":1}")]
    for parts in ([said(*pieces)], [said(piece) for piece in pieces]):
        assert names_and_arguments(chat(*parts)) == [("get", '{"x":1}')]


@pytest.mark.parametrize("nothing", ["", '""', '"null"', " "])
def test_arguments_that_are_none_are_an_empty_object(nothing: str) -> None:
    """Also where they are encoded twice; for the caller and in the next prompt."""
    result = chat(said(call("now", nothing, id="a")))
    assert names_and_arguments(result) == [("now", "{}")]
    (turn,) = result.to_messages()
    assert turn["tool_calls"][0]["function"]["arguments"] == "{}"


def test_a_whole_call_in_an_answer_without_a_finish() -> None:
    """On every API that can end without a word: the call is safe to run, and no word is invented
    (Kimi behind OpenRouter ends so)."""
    usage = data({"choices": [], "usage": {"completion_tokens": 4}})
    result = answer("chat", said(call("now", "{}", id="a")), usage, DONE)
    assert (named(result), result.finish) == ([("now", "{}")], None)
    tool = {"type": "tool_use", "id": "t", "name": "now", "input": {}}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": tool},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_stop"},
    ]
    result = answer("messages", *map(data, events))
    assert (named(result), result.finish) == ([("now", "{}")], None)
