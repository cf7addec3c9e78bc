"""Prompts and answers are on spans only where they are asked for, in the conventions' shapes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from spans import (
    ANSWER,
    APIS,
    Ask,
    Telemetry,
    _no_settings,  # noqa: F401 - a fixture
    ask_fixture,  # noqa: F401 - a fixture
    played,
    record,
    telemetry_fixture,  # noqa: F401 - a fixture
)

from llmstream import LLMStreamError, Result, RetryPolicy, ToolCall
from llmstream.telemetry.observer import Dispatcher
from llmstream.telemetry.otel import NAMES, OpenTelemetryObserver
from llmstream.telemetry.records import RequestContent
from llmstream.testing import Answer, Cut, LLMServer, Reply

pytestmark = pytest.mark.usefixtures("nothing_left", "_no_settings")

MARKED = {
    "prompt": "prompt-7f3a",
    "instructions": "instructions-7f3a",
    "answer": "answer-7f3a",
    "key": "key-7f3a",
    "header": "header-7f3a",
    "error": "error-7f3a",
}
# (The name of a model and the reason of a cancel are the caller's own, and are recorded.)


def bad_day(server: LLMServer, ask: Ask, api: str, observer: OpenTelemetryObserver) -> None:
    """Calls of all kinds, with marks in all that must not be recorded."""
    answer = Answer(["say ", MARKED["answer"]], thinking=MARKED["answer"], usage=(1, 2))
    quoting = f"{MARKED['error']}: {MARKED['prompt']}, {MARKED['key']}"
    server.script(
        answer,
        Reply.error(429, message=quoting, api=api),
        Reply([*answer.blocks(api)[:-2], Cut()]),
        Reply.error(400, message=quoting, code=quoting, type=quoting, param=quoting, api=api),
        Answer(MARKED["answer"], error={"code": "server_error", "message": quoting}),
        Reply.html(f"<html>{quoting}</html>"),
    )
    client = ask(server, api, observer, api_key=MARKED["key"], retry=RetryPolicy(base=0.0, cap=0.0))
    for _ in range(5):
        stream = client.stream(
            [{"role": "user", "content": MARKED["prompt"]}],
            instructions=MARKED["instructions"],
            headers={"x-private": MARKED["header"]},
        )
        with contextlib.suppress(LLMStreamError):
            stream.result()


@pytest.mark.parametrize("names", list(NAMES))
@pytest.mark.parametrize("api", APIS)
def test_nothing_private_by_default(
    server: LLMServer, ask: Ask, telemetry: Telemetry, api: str, names: str
) -> None:
    """No prompt, answer, key, header or error's words in anything that is exported."""
    bad_day(server, ask, api, telemetry.observer(names=names))
    exported = telemetry.everything()
    assert len(telemetry.spans) == 5
    assert [mark for mark in MARKED.values() if mark in exported] == []


@pytest.mark.parametrize("names", list(NAMES))
@pytest.mark.parametrize("api", APIS)
def test_content_on_request(
    server: LLMServer, ask: Ask, telemetry: Telemetry, api: str, names: str
) -> None:
    """With capture_content prompts and answers are on the spans; a key and an error's words not."""
    bad_day(server, ask, api, telemetry.observer(names=names, capture_content=True))
    exported = telemetry.everything()
    seen = {name for name, mark in MARKED.items() if mark in exported}
    assert seen == {"prompt", "instructions", "answer"}
    attributes = telemetry.spans[0].attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": MARKED["prompt"]}]}
    ]
    assert json.loads(str(attributes["gen_ai.system_instructions"])) == [
        {"type": "text", "content": MARKED["instructions"]}
    ]
    finish = {"finish_reason": "stop"} if names == "operation" else {}
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": MARKED["answer"]},
                {"type": "text", "content": f"say {MARKED['answer']}"},
            ],
            **finish,
        }
    ]
    refused = telemetry.spans[2].attributes or {}
    assert "gen_ai.output.messages" not in refused


def test_content_is_not_even_listened_to(telemetry: Telemetry) -> None:
    """By default a client makes up no content for this observer."""
    assert Dispatcher([telemetry.observer()]).hooks()["on_content"] == ()
    capturing = telemetry.observer(capture_content=True)
    assert len(Dispatcher([capturing]).hooks()["on_content"]) == 1


def call_part(identity: str | None, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": identity, "name": "look", "arguments": arguments}


ARGUMENTS = '{"at": "sky"}'
DECODED = {"at": "sky"}

SAID: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "a text": ("Hi", [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]),
    "a system turn": (
        [{"role": "system", "content": "Be kind"}],
        [{"role": "system", "parts": [{"type": "text", "content": "Be kind"}]}],
    ),
    "parts, and a picture": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    "plain",
                ],
            }
        ],
        [
            {
                "role": "user",
                "parts": [
                    {"type": "text", "content": "What is it?"},
                    {"type": "image_url"},
                    {"type": "text", "content": "plain"},
                ],
            }
        ],
    ),
    "tools of chat": (
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "function": {"name": "look", "arguments": ARGUMENTS}},
                    {"id": "c2", "function": {"name": "look", "arguments": '{"at'}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "blue"},
        ],
        [
            {"role": "assistant", "parts": [call_part("c1", DECODED), call_part("c2", '{"at')]},
            {
                "role": "tool",
                "parts": [{"type": "tool_call_response", "id": "c1", "response": "blue"}],
            },
        ],
    ),
    "tools of messages": (
        [
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": DECODED},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "content": [{"type": "text", "text": "blue"}],
                    }
                ],
            },
        ],
        [
            {
                "role": "assistant",
                "parts": [{"type": "reasoning", "content": "hm"}, call_part("c1", DECODED)],
            },
            {
                "role": "user",
                "parts": [
                    {
                        "type": "tool_call_response",
                        "id": "c1",
                        "response": [{"type": "text", "content": "blue"}],
                    }
                ],
            },
        ],
    ),
    "parts of Gemini": (
        [
            {"role": "user", "parts": [{"text": "Hi"}, {"inlineData": {"data": "aGk="}}]},
            {
                "role": "model",
                "parts": [
                    {"text": "hm", "thought": True},
                    {
                        "functionCall": {"id": "c1", "name": "look", "args": DECODED},
                        "thoughtSignature": "s",
                    },
                    {"function_call": {"name": "look"}},
                    {"thoughtSignature": "s"},
                ],
            },
            {
                "role": "user",
                "parts": [{"functionResponse": {"id": "c1", "name": "look", "response": {"a": 1}}}],
            },
        ],
        [
            {"role": "user", "parts": [{"type": "text", "content": "Hi"}, {"type": "inlineData"}]},
            {
                "role": "assistant",
                "parts": [
                    {"type": "reasoning", "content": "hm"},
                    call_part("c1", DECODED),
                    {**call_part("c1", {}), "id": None},
                    {"type": "signature"},
                ],
            },
            {
                "role": "user",
                "parts": [{"type": "tool_call_response", "id": "c1", "response": {"a": 1}}],
            },
        ],
    ),
    "items of responses": (
        [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": ARGUMENTS},
            {"type": "function_call_output", "call_id": "c1", "output": "blue"},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "refusal", "refusal": "No"}],
            },
        ],
        [
            {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}]},
            {"role": "assistant", "parts": [call_part("c1", DECODED)]},
            {
                "role": "tool",
                "parts": [{"type": "tool_call_response", "id": "c1", "response": "blue"}],
            },
            {"role": "assistant", "parts": [{"type": "refusal", "content": "No"}]},
        ],
    ),
}


@pytest.mark.parametrize(("prompt", "expected"), SAID.values(), ids=SAID.keys())
def test_prompts_in_the_shape_of_the_schema(
    telemetry: Telemetry, prompt: Any, expected: list[dict[str, Any]]
) -> None:
    """Prompts in any API's words become the conventions' messages and parts."""
    client, _, _ = played(ANSWER, observer=telemetry.observer(capture_content=True))
    client.stream(prompt).result()
    said = (telemetry.span.attributes or {})["gen_ai.input.messages"]
    assert json.loads(str(said)) == expected


@pytest.mark.parametrize("api", APIS)
def test_a_conversation_with_tools(telemetry: Telemetry, api: str) -> None:
    """An answer's own turn, sent back, is recorded with the same calls as the answer was."""
    asking = Answer("Let me look", tool_calls=[("look", ARGUMENTS, "c1")])
    observer = telemetry.observer(capture_content=True)
    client, _, _ = played(asking, ANSWER, observer=observer, api=api)
    turn = client.stream("Hi").result().to_messages()
    client.stream([{"role": "user", "content": "Hi"}, *turn]).result()
    first, second = (span.attributes or {} for span in telemetry.spans)
    answer = json.loads(str(first["gen_ai.output.messages"]))[0]
    assert call_part("c1", DECODED) in answer["parts"]
    assert answer["finish_reason"] == "tool_call"
    history = json.loads(str(second["gen_ai.input.messages"]))
    parts = [part for message in history for part in message["parts"]]
    assert call_part("c1", DECODED) in parts
    assert {"type": "text", "content": "Let me look"} in parts


def test_half_a_character(telemetry: Telemetry) -> None:
    """Text that is not valid Unicode is recorded all the same, as text that can be exported."""
    observer = telemetry.observer(capture_content=True)
    call = record(1, outcome="success")
    observer.on_start(call)
    result = Result(text="half \ud83d", tool_calls=(ToolCall(None, "look", "x", custom=True),))
    observer.on_content(call, RequestContent("Hi \ud83d"), result)
    observer.on_end(call, call)
    attributes = telemetry.span.attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"]))[0]["parts"][0]["content"] == "Hi ?"
    (message,) = json.loads(str(attributes["gen_ai.output.messages"]))
    assert message["parts"] == [{"type": "text", "content": "half ?"}, call_part(None, "x")]
