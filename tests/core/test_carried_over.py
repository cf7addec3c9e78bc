"""A conversation goes on with another API: over every recording, what each API made is accepted by
the rules of the others, says the same there, and comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corpus import ABSENT, Recording, calls_of, own, recorded, replay
from every import every
from request_rules import RULES

from llmstream._core.dialects import APIS
from llmstream._core.request import Request

PNG = b"\x89PNG\r\n\x1a\nxx"
OWN_TOOLS: dict[str, Any] = {
    "apply_patch_call": "done",
    "local_shell_call": "done",
    "shell_call": [{"stdout": "done", "stderr": ""}],
}


def conversation(recording: Recording) -> list[Any]:
    """A question, the answer of the recording, an output of each of its calls (some with a picture,
    some failed), and the next question, with a picture. Empty where nothing of the answer can go
    on."""
    api = recording.api
    _, session = replay([recording.data], api)
    calls, _ = calls_of(session, api)
    safe = frozenset(call.id for call in calls if call.id)
    turn = APIS[api].load().assistant_turn(session.state, safe)
    if not turn:
        return []
    outputs = [
        call.result(["A chart", PNG] if number % 2 else {"n": number}, error=number % 3 == 2)
        for number, call in enumerate(calls)
    ]
    answered = {item.get("call_id") for item in turn if item.get("type", "").endswith("_output")}
    outputs += [
        _own_output(item)
        for item in turn
        if item.get("type") in OWN_TOOLS and item["call_id"] not in answered
    ]
    picture = {"type": "image_url", "image_url": {"url": "https://host.example/cat.png"}}
    question = {"role": "user", "content": [{"type": "text", "text": "And this?"}, picture]}
    return [{"role": "user", "content": "Hi"}, *turn, *outputs, question]


def _own_output(item: Any) -> dict[str, Any]:
    """The output of a call of a tool that Responses has defined, and the caller runs."""
    output = OWN_TOOLS[item["type"]]
    return {"type": f"{item['type']}_output", "call_id": item["call_id"], "output": output}


def own_turns(api: str, turns: list[Any]) -> list[Any]:
    return APIS[api].load().own_turns(turns)


def gist(turns: list[Any]) -> tuple[Any, ...]:
    """What turns of any form say: the words of the assistant, its calls, the outputs."""
    messages = own_turns("messages", turns)
    blocks = [
        (turn["role"], block)
        for turn in messages
        for block in (
            [{"type": "text", "text": turn["content"]}]
            if isinstance(turn["content"], str)
            else turn["content"]
        )
    ]
    said = "".join(
        block["text"] for role, block in blocks if role == "assistant" and block["type"] == "text"
    )
    return (
        "".join(said.split()),
        [(b["name"], b["input"]) for _, b in blocks if b["type"] == "tool_use"],
        json.dumps(messages).count('"type": "image"'),
        [_words(b["content"]) for _, b in blocks if b["type"] == "tool_result"],
    )


def _words(content: Any) -> str:
    """The texts of an output, without the remarks that stand for what an API cannot write."""
    texts = (
        [content]
        if isinstance(content, str)
        else [part["text"] for part in content if part["type"] == "text"]
    )
    words = "".join("\n".join(texts).removeprefix("Error:").split())
    return words.removesuffix("(Whatithasbesidetextfollows.)")


def recordings() -> list[Recording]:
    found = [recording for api in RULES for recording in recorded(api)]
    if not found:
        pytest.skip(ABSENT)
    return [*found, *own()]


@every("recording", recordings)
def test_what_one_api_made_goes_on_with_another(recording: Recording) -> None:
    turns = conversation(recording)
    for api in RULES if turns else ():
        made = own_turns(api, turns)
        RULES[api](made)
        assert own_turns(api, made) == made  # there is nothing left to do
        body = json.loads(
            APIS[api].load().request(Request(prompt=turns, model="m"), "https://host/v1").body
        )
        assert body[APIS[api].prompt_fields[0]] == made


@every("recording", recordings)
def test_it_says_the_same_and_comes_back(recording: Recording) -> None:
    """Thinking aside. What a service ran itself has become text, and stays it."""
    turns = conversation(recording)
    if not turns:
        return
    for other in RULES:
        there = own_turns(other, turns)
        back = own_turns(recording.api, there)
        RULES[recording.api](back)
        texts, calls, pictures, outputs = gist(there)
        assert gist(back) == (texts, calls, pictures, outputs)
        if other != recording.api:
            assert calls == gist(turns)[1]
            assert (pictures, outputs) == gist(turns)[2:]
            _no_secret_of_a_service(there)


def _no_secret_of_a_service(turns: list[Any]) -> None:
    text = json.dumps(turns)
    for word in ("signature", "encrypted_content", "redacted_thinking", "thought_signature"):
        assert f'"{word}":' not in text


VENDORS_TYPES = {  # Google's package is no part of the tests: `RULES` has its rules
    "chat": ("openai.types.chat", "ChatCompletionMessageParam"),
    "responses": ("openai.types.responses", "ResponseInputItemParam"),
    "messages": ("anthropic.types", "MessageParam"),
}


@pytest.mark.slow  # their packages take seconds to import
@pytest.mark.parametrize("api", VENDORS_TYPES)
def test_the_vendors_types_take_it(api: str) -> None:
    """Their packages' own types of a request, for every recording of another API."""
    pydantic = pytest.importorskip("pydantic")
    type = VENDORS_TYPES[api]
    adapter = pydantic.TypeAdapter(list[getattr(pytest.importorskip(type[0]), type[1])])
    for recording in recordings():
        if recording.api != api and (turns := conversation(recording)):
            adapter.validate_python(_complete(own_turns(api, turns)), strict=False)


def _complete(turns: list[Any]) -> list[Any]:
    """With what the types of Responses require and the service does not: the detail of a picture,
    and of a text of an answer its id, status and annotations."""
    turns = json.loads(json.dumps(turns))
    for turn in turns:
        content = turn.get("content") or turn.get("output")
        for part in content if isinstance(content, list) else ():
            if part["type"] == "input_image":
                part.setdefault("detail", "auto")
            if part["type"] == "output_text":
                part.setdefault("annotations", [])
                turn.update(id="msg_1", type="message", status="completed")
    return turns


def test_the_rules_refuse() -> None:
    """The checker can fail."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    bad: dict[str, list[Any]] = {
        "chat": [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "Hi"}],
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a.b", "input": {}}]}
        ],
        "responses": [{"type": "function_call_output", "call_id": "a", "output": "1"}],
    }
    for api, turns in bad.items():
        with pytest.raises((AssertionError, LookupError)):
            RULES[api](turns)
