"""What `Answer` becomes on the wire of the Gemini API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corpus import WIRE
from every import every

from llmstream.testing import Answer
from llmstream.testing.answers import ErrorSpec
from llmstream.testing.answers.gemini import SIGNATURE

FIELDS = WIRE / "gemini_events.json"


def sent(answer: Answer) -> list[Any]:
    blocks = answer.blocks("gemini")
    assert all(block.startswith(b"data: {") and block.endswith(b"}\n\n") for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


def parts_of(chunks: list[Any]) -> list[Any]:
    return [part for one in chunks for part in one["candidates"][0]["content"]["parts"]]


def test_a_text_answer_is_the_stream_of_the_gemini_api() -> None:
    """Parts that are always new; the finish in a chunk with an empty text; no end event."""
    answer = Answer("One two.", response_id="r9", model="m", usage=(7, 9, 3, 5))
    chunks = sent(answer)
    assert parts_of(chunks) == [{"text": "One"}, {"text": " two."}, {"text": ""}]
    assert {(one["responseId"], one["modelVersion"]) for one in chunks} == {("r9", "m")}
    finishes = [one["candidates"][0].get("finishReason") for one in chunks]
    assert finishes == [None, None, "STOP"]
    assert chunks[-1]["usageMetadata"] == {
        "promptTokenCount": 7,
        "candidatesTokenCount": 4,
        "cachedContentTokenCount": 3,
        "thoughtsTokenCount": 5,
        "totalTokenCount": 16,
    }
    assert not any(b"usage" in block for block in Answer("x", usage=None).blocks("gemini"))


def test_thinking_and_calls() -> None:
    """A call is whole in one part, without arguments where it has none; the first is signed. A
    thought that is followed by text only is signed at the end."""
    calls = [("f", '{"a": [1]}', "c1"), ("g", "{}")]
    parts = parts_of(sent(Answer("Text", thinking="Hm", tool_calls=calls)))
    assert parts == [
        {"text": "Hm", "thought": True},
        {"text": "Text"},
        {
            "functionCall": {"name": "f", "id": "c1", "args": {"a": [1]}},
            "thoughtSignature": SIGNATURE,
        },
        {"functionCall": {"name": "g", "id": "call_test_1"}},
        {"text": ""},
    ]
    *_, last = parts_of(sent(Answer("Text", thinking="Hm")))
    assert last == {"text": "", "thoughtSignature": SIGNATURE}


@every("arguments", ["[1]", '"x"', "null", '{"a": 1', "nothing"])
def test_arguments_are_an_object(arguments: str) -> None:
    with pytest.raises(ValueError, match=r"'f' are no JSON object.*pass the bytes"):
        sent(Answer(tool_calls=[("f", arguments)]))


@every(
    ("finish", "word"),
    [
        ("stop", "STOP"),
        ("tool_calls", "STOP"),
        ("length", "MAX_TOKENS"),
        ("content_filter", "SAFETY"),
    ],
)
def test_the_word_for_the_end(finish: str, word: str) -> None:
    for answer in (Answer("x", finish=finish), Answer(tool_calls=[("f", "{}")], finish=finish)):
        *_, last = sent(answer)
        assert last["candidates"][0]["finishReason"] == word


@every(
    ("error", "code", "status"),
    [
        ({"type": "overloaded_error"}, 503, "UNAVAILABLE"),
        ({"code": "rate_limit_exceeded"}, 429, "RESOURCE_EXHAUSTED"),
        ({"code": "invalid_api_key"}, 401, "UNAUTHENTICATED"),
        ({"code": "DEADLINE_EXCEEDED"}, 504, "DEADLINE_EXCEEDED"),
        ({}, 500, "INTERNAL"),
    ],
)
def test_an_error_has_a_number_and_a_word(error: dict[str, str], code: int, status: str) -> None:
    """In a chunk that has nothing else."""
    *chunks, last = sent(Answer("a b", error={**error, "message": "m"}))
    assert last == {"error": {"code": code, "message": "m", "status": status}}
    assert parts_of(chunks) == [{"text": "a"}, {"text": " b"}]


def test_a_refusal_with_a_status() -> None:
    body, headers = ErrorSpec(429, message="m").document("gemini")
    assert body == {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}
    assert headers == {}  # the service sends no id of the request
    assert ErrorSpec(500, request_id="r1").document("gemini")[1] == {"x-request-id": "r1"}
    body, _ = ErrorSpec(429, code="insufficient_quota").document("gemini")
    assert "PerDay" in json.dumps(body["error"]["details"])


@pytest.mark.skipif(not FIELDS.exists(), reason=f"{FIELDS} is absent")
def test_no_field_is_unknown_to_the_vendor() -> None:
    types = json.loads(FIELDS.read_text("utf-8"))["types"]
    known = {one["name"] for kind in types.values() for one in kind.get("fields", ())}

    def check(value: Any) -> None:
        for one in value if isinstance(value, list) else ():
            check(one)
        for name, one in value.items() if isinstance(value, dict) else ():
            assert name in known, name
            if name != "args":
                check(one)

    check(sent(Answer("a", thinking="b", tool_calls=[("f", '{"x": 1}')], usage=(1, 2, 1, 1))))
