"""Deep JSON, huge numbers and half characters at every place of an answer: whatever arrives, only
the library's own errors come out, also when the result is shown, pickled and sent back."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from llmstream import Client, LLMStreamError, Result, RetryPolicy
from llmstream.testing import FakeClock, FakeTransport, Reply

pytestmark = pytest.mark.attack

DEPTHS = (150, 201, 490, 900, 1100, 100_000)
DIGITS = (310, 4300, 4301, 5000, 100_000)
HALF = '"\\ud83d"'
VALUES = {
    **{f"list {n}": "[" * n + "1" + "]" * n for n in DEPTHS},
    **{f"object {n}": '{"a":' * n + "1" + "}" * n for n in DEPTHS},
    **{f"half in {n}": "[" * n + HALF + "]" * n for n in DEPTHS},
    **{f"{n} digits": "1" * n for n in DIGITS},
    **{f"-{n} digits": "-" + "1" * n for n in DIGITS},
    **{
        word: word for word in ("1e999999", "-1e999999", "NaN", "Infinity", "-0", HALF, '"\\u0000"')
    },
    "a long fraction": "0." + "1" * 5000,
}

HERE = "@@"  # the place of the value
MORE = {"zz": HERE}
TEXT = {"type": "output_text", "text": "a", "annotations": []}
MESSAGE = {"id": "i", "type": "message", "status": "completed", "content": [TEXT]}
ADDED = {
    "type": "response.output_item.added",
    "output_index": 0,
    "item": {**MESSAGE, "content": []},
}
DELTA = {"type": "response.output_text.delta", "output_index": 0, "delta": "a"}
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": HERE}}
START = {"type": "message_start", "message": {"id": "m", "content": []}}
BLOCK = {"type": "content_block_start", "index": 0}
PIECE = {"type": "content_block_delta", "index": 0}
END = [
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    {"type": "message_stop"},
]
WORD = {"type": "text_delta", "text": "a"}


def item(**more: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": 0, "item": {**MESSAGE, **more}}


def completed(output: Any = (), **more: Any) -> dict[str, Any]:
    response = {"id": "r", "status": "completed", "output": list(output), **more}
    return {"type": "response.completed", "response": response}


def choice(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def called(arguments: Any, **more: Any) -> dict[str, Any]:
    return choice(
        tool_calls=[
            {"index": 0, "id": "c", "function": {"name": "f", "arguments": arguments}, **more}
        ]
    )


NUMBER: dict[str, Any] = {"numberValue": HERE}
STOP: dict[str, Any] = {"finishReason": "STOP"}


def candidate(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, **fields}]}


FUNCTION = {"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": HERE}
# what is sent, as events of a stream, or (a dict) as one JSON body
PLACES: dict[str, list[tuple[str, Any]]] = {
    "responses": [
        ("item", [ADDED, DELTA, item(**MORE), completed([MESSAGE])]),
        ("output", [ADDED, DELTA, completed([{**MESSAGE, **MORE}])]),
        ("cut after the item", [ADDED, DELTA, item(**MORE)]),
        ("arguments", [{**item(), "item": FUNCTION}, completed()]),
        ("usage", [completed([MESSAGE], usage={"input_tokens": HERE, "output_tokens": HERE})]),
        ("unknown", [{"type": "response.zz", **MORE}, completed([MESSAGE])]),
        ("delta", [ADDED, {**DELTA, **MORE}, completed([MESSAGE])]),
        ("numbers", [ADDED, {**DELTA, "output_index": HERE, "sequence_number": HERE}, completed()]),
        ("error", [{"type": "error", "error": {"message": HERE, "code": HERE, **MORE}}]),
        ("body", {"object": "response", **completed([{**MESSAGE, **MORE}])["response"]}),
    ],
    "messages": [
        ("block", [START, {**BLOCK, "content_block": {"type": "text", **MORE}}, *END]),
        ("input", [START, {**BLOCK, "content_block": USE}, *END]),
        ("whole", [{**START, "message": {"id": "m", "content": [USE]}}, *END]),
        (
            "usage",
            [START, {**END[1], "usage": {"output_tokens": HERE, "input_tokens": HERE}}, END[2]],
        ),
        (
            "citation",
            [
                *(START, {**BLOCK, "content_block": {"type": "text"}}, {**PIECE, "delta": WORD}),
                {**PIECE, "delta": {"type": "citations_delta", "citation": HERE}},
                *END,
            ],
        ),
        (
            "body",
            {"type": "message", "role": "assistant", "content": [{**WORD, "type": "text", **MORE}]},
        ),
    ],
    "gemini": [
        ("part", [candidate({"text": "a", **MORE}, **STOP)]),
        ("another part", [candidate({"inlineData": HERE}, {"zz": HERE}, **STOP)]),
        ("arguments", [candidate({"functionCall": {"name": "f", "args": {"a": HERE}}}, **STOP)]),
        (
            "pieces",
            [
                candidate({"functionCall": {"name": "f", "willContinue": True}}),
                candidate({"functionCall": {"partialArgs": [{"jsonPath": "$.a", **NUMBER}]}}),
                candidate(**STOP),
            ],
        ),
        (
            "usage",
            [
                {
                    **candidate({"text": "a"}, **STOP),
                    "usageMetadata": {"promptTokenCount": HERE, "candidatesTokenCount": HERE},
                }
            ],
        ),
        ("error", [{"error": {"message": HERE, "code": HERE, "details": [HERE], **MORE}}]),
        ("index", [{"candidates": [{"index": HERE, "content": {"parts": [{"text": "a"}]}}]}]),
        ("body", {**candidate({"text": "a", **MORE}, **STOP), **MORE}),
    ],
    "chat": [
        ("chunk", [choice("stop", content="a", **MORE)]),
        ("call", [called("{}", extra_content=HERE), choice("tool_calls")]),
        ("arguments", [called({"a": HERE}), choice("tool_calls")]),
        ("arguments as text", [called(HERE), choice("tool_calls")]),
        (
            "usage",
            [
                choice("stop", content="a"),
                {"choices": [], "usage": {"prompt_tokens": HERE, "cost": HERE}},
            ],
        ),
        ("error", [{"error": {"message": HERE, "code": HERE, **MORE}}]),
        (
            "details",
            [choice("stop", content="a", reasoning_details=[{"type": "x", "text": "a", **MORE}])],
        ),
        ("index", [{"created": HERE, "choices": [{"index": HERE, "delta": {"content": "a"}}]}]),
        (
            "body",
            {
                "choices": [
                    {"index": 0, "message": {"content": "a", **MORE}, "finish_reason": "stop"}
                ]
            },
        ),
    ],
}


def reply(sent: Any, value: str) -> Reply:
    def text(payload: Any) -> bytes:
        return json.dumps(payload).replace(json.dumps(HERE), value).encode()

    if isinstance(sent, dict):
        return Reply([text(sent)], content_type="application/json")
    return Reply([b"data: " + text(event) + b"\n\n" for event in sent])


def outcomes(api: str, sent: Any, value: str) -> Iterator[Any]:
    """The result or the error, and what every event is."""
    transport = FakeTransport(reply(sent, value), reply(sent, value))
    settings: dict[str, Any] = {"model": "m", "base_url": "http://test/v1", "clock": FakeClock()}
    profile = {"profile": "openrouter"} if api == "chat" else {}
    with Client(api, transport=transport, retry=RetryPolicy(1), **profile, **settings) as client:
        stream = client.stream("Hi")
        try:
            yield stream.result()
        except LLMStreamError as error:
            yield error
        yield from (stream, stream.usage)
        try:
            for event in client.stream("Hi").events():
                repr(event)
        except LLMStreamError as error:
            yield error


def used(outcome: Any) -> None:
    """All that a caller may do with it."""
    repr(outcome)
    str(outcome)
    if not isinstance(outcome, (Result, LLMStreamError)):
        return
    pickle.loads(pickle.dumps(outcome))
    result = outcome if isinstance(outcome, Result) else outcome.partial
    assert repr(result.items)
    assert pickle.dumps(result.to_messages())
    for call in result.tool_calls:
        call.parsed()
    for call in result.incomplete_tool_calls:
        with contextlib.suppress(LLMStreamError):
            call.parsed()


@pytest.mark.parametrize(
    ("api", "place"), [(api, place) for api, places in PLACES.items() for place, _ in places]
)
def test_odd_values(api: str, place: str) -> None:
    """Each value, as JSON, and, in arguments, as text that contains JSON."""
    sent = dict(PLACES[api])[place]
    for value in VALUES.values():
        for form in (value, json.dumps(value)) if place.startswith("arg") else (value,):
            for outcome in outcomes(api, sent, form):
                used(outcome)
