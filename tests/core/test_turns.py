"""Turns in the form of Chat Completions are taken by every API, each in its own words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmstream._core.dialects import APIS
from llmstream._core.request import Request
from llmstream.errors import ConfigurationError

PNG = "data:image/png;base64,aGk="
CALLS = [
    {"role": "user", "content": "Compare"},
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "get", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "now", "arguments": ""}},
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "1"},
    {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
]


def sent(api: str, *turns: Any) -> Any:
    """The turns as they are in the body of a request."""
    dialect = APIS[api].load()
    request = dialect.request(Request(prompt=list(turns), model="m"), "https://service/v1")
    body = json.loads(request.body)
    return body[{"responses": "input", "gemini": "contents"}.get(api, "messages")]


def part(api: str, value: dict[str, Any]) -> Any:
    (turn,) = sent(api, {"role": "user", "content": [{"type": "text", "text": "See"}, value]})
    return turn["content"][1]


def test_a_text_is_a_text() -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert sent("responses", turn) == [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    ]
    assert sent("messages", turn) == sent("chat", turn) == [turn]


def test_geminis_own_form_is_sent_unchanged() -> None:
    """Also what is not known."""
    parts = [{"text": "Hi"}, {"newPart": {}}, {"inline_data": {"mime_type": "x/y", "data": "eA=="}}]
    turns = [{"role": "user", "parts": parts}, {"role": "model", "parts": [{"text": ""}]}]
    assert sent("gemini", *turns) == turns
    assert sent("gemini", {"parts": [{"text": "Hi"}]}) == [{"parts": [{"text": "Hi"}]}]


def test_an_answer_in_parts_is_output() -> None:
    """The Responses API tells what was said to the model from what it has said."""
    turn = {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    (item,) = sent("responses", turn)
    assert item["content"] == [{"type": "output_text", "text": "Hi"}]


def test_images() -> None:
    """By data: URL and by address."""
    inline = {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}
    distant = {"type": "image_url", "image_url": {"url": "https://host.example/cat.png"}}
    assert part("responses", inline) == {
        "type": "input_image",
        "image_url": PNG,
        "detail": "low",
    }
    assert part("messages", inline) == {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
    }
    assert part("messages", distant) == {
        "type": "image",
        "source": {"type": "url", "url": "https://host.example/cat.png"},
    }
    assert part("chat", inline) == inline


def test_files() -> None:
    data = "data:application/pdf;base64,aGk="
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": data}}
    note = {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk="}}
    distant = {"type": "file", "file": {"file_data": "https://host.example/a.pdf"}}
    assert part("responses", pdf) == {
        "type": "input_file",
        "filename": "a.pdf",
        "file_data": "data:application/pdf;base64,aGk=",
    }
    assert part("responses", distant) == {
        "type": "input_file",
        "file_url": "https://host.example/a.pdf",
    }
    assert part("messages", pdf) == {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
        "title": "a.pdf",
    }
    assert part("messages", note)["source"] == {
        "type": "text",
        "media_type": "text/plain",
        "data": "hi",
    }


def test_audio() -> None:
    """Two of the APIs have it."""
    audio = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
    assert part("responses", audio) == part("chat", audio) == audio
    with pytest.raises(ConfigurationError, match="no audio"):
        part("messages", audio)


def test_calls_and_their_outputs() -> None:
    assert sent("chat", *CALLS) == CALLS
    assert sent("responses", *CALLS)[1:] == [
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "a", "name": "get", "arguments": '{"x":1}'},
        {"type": "function_call", "call_id": "b", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {
            "type": "function_call_output",
            "call_id": "b",
            "output": [{"type": "input_text", "text": "noon"}],
        },
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "noon"}]},
    ]
    assert sent("messages", *CALLS)[1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "get", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "now", "input": {}},
            ],
        },
        {"role": "user", "content": results},
    ]


def test_calls_without_a_text() -> None:
    """Chat Completions has null there, which the others refuse."""
    turn = {**CALLS[1], "content": None}
    assert [item["type"] for item in sent("responses", turn)] == ["function_call"] * 2
    (message,) = sent("messages", turn)
    assert [block["type"] for block in message["content"]] == ["tool_use"] * 2


@pytest.mark.parametrize("api", ["responses", "messages", "chat"])
def test_an_apis_own_form_is_sent_unchanged(api: str) -> None:
    """Also what is not known, and what only looks like a part."""
    odd = {"type": "image_url", "image_url": PNG}
    own = {
        "responses": [{"type": "input_image", "image_url": PNG}, odd, {"type": "new"}],
        "messages": [{"type": "image", "source": {"type": "file", "file_id": "f"}}, odd],
        "chat": [{"type": "image_url", "image_url": {"url": PNG}}, odd],
    }
    turn = {"role": "user", "content": own[api]}
    assert sent(api, turn, {"role": "user", "content": "Hi"}) == [
        turn,
        {"role": "user", "content": "Hi"},
    ]
    items = [{"type": "reasoning", "id": "r", "summary": []}, {"type": "item_reference", "id": "i"}]
    assert sent("responses", *items) == items
