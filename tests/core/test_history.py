"""`Result.to_messages()`: what must go back does, what must not does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every
from support import ONCE

from llmstream import Client, InvalidRequestError, LLMStreamError, Result
from llmstream.testing import FakeClock, FakeTransport, Reply


def data(payload: Any) -> bytes:
    return f"data: {json.dumps(payload)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def answer(
    api: str, *replies: Reply, profile: str | None = None, **options: Any
) -> tuple[Result, list[dict[str, Any]]]:
    """What a whole client makes of the replies, and the bodies that it sends."""
    transport = FakeTransport(*replies)
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
        result = client.stream("Hi", **options).result()
    except LLMStreamError as error:
        result = error.partial
    return result, [json.loads(request.body) for request in transport.requests]


# ---- Chat Completions --------------------------------------------------------------------------


def said(finish: str | None = None, **delta: Any) -> bytes:
    return data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def chat(*parts: bytes, profile: str | None = None, finish: str = "stop") -> dict[str, Any]:
    """The turn of an answer."""
    result, _ = answer("chat", Reply([*parts, said(finish), DONE]), profile=profile)
    (turn,) = result.to_messages()
    assert isinstance(turn, dict)
    return turn


CALL = said(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}])
THOUGHT = [said(role="assistant", reasoning_content="Let "), said(reasoning_content="me.")]


@pytest.mark.parametrize("profile", ["deepseek", "moonshot", "kimi"])
def test_reasoning_goes_back_beside_calls(profile: str) -> None:
    """Without it these services refuse the turn; beside text alone older models refuse it."""
    assert chat(*THOUGHT, CALL, profile=profile)["reasoning_content"] == "Let me."
    assert "reasoning_content" not in chat(*THOUGHT, said(content="Hi"), profile=profile)


@pytest.mark.parametrize("profile", [None, "openai", "groq", "mistral"])
def test_reasoning_goes_to_nobody_else(profile: str | None) -> None:
    turn = chat(*THOUGHT, said(content="Hi"), CALL, profile=profile)
    assert not {"reasoning", "reasoning_content", "reasoning_details"} & turn.keys()


def details(*parts: Any) -> bytes:
    return said(reasoning="x", reasoning_details=list(parts))


def test_reasoning_details_go_back() -> None:
    """OpenRouter's: the pieces of one detail become one, encrypted ones are kept as they are."""
    text = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
    encrypted = {"type": "reasoning.encrypted", "data": "ENC", "id": "r1", "index": 1}
    turn = chat(
        details({**text, "text": "Let "}),
        details({**text, "text": "me."}),
        details({**text, "signature": "SIG"}),
        details(encrypted, {**encrypted, "data": "MORE"}),
        said(content="Hi"),
        profile="openrouter",
    )
    assert turn["reasoning_details"] == [
        {**text, "text": "Let me.", "signature": "SIG"},
        encrypted,
        {**encrypted, "data": "MORE"},
    ]


@pytest.mark.parametrize("profile", [None, "gemini"])
@pytest.mark.parametrize("key", ["extra_content", "x_unknown"])
def test_unknown_fields_of_a_call_go_back(profile: str | None, key: str) -> None:
    """Gemini refuses a history whose calls lack the signature of their thought."""
    signature = {"google": {"thought_signature": "SIG"}}
    one = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}", "y": 2}}
    two = {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}
    turn = chat(said(tool_calls=[{**one, key: signature}, two]), profile=profile)
    first, second = turn["tool_calls"]
    assert first[key] == signature
    assert first["function"]["y"] == 2
    assert set(second) == {"id", "type", "function"}
    assert set(second["function"]) == {"name", "arguments"}


def test_a_signature_after_the_call() -> None:
    """In a delta of its own."""
    signature = {"google": {"thought_signature": "SIG"}}
    turn = chat(CALL, said(tool_calls=[{"index": 0, "extra_content": signature}]))
    assert turn["tool_calls"][0]["extra_content"] == signature


def test_a_signature_in_an_answer_that_is_not_streamed() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"s": 1}}
    choice = {"index": 0, "message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    body = json.dumps({"object": "chat.completion", "choices": [choice]}).encode()
    result, _ = answer("chat", Reply([body], headers={"content-type": "application/json"}))
    assert result.to_messages()[0]["tool_calls"][0]["extra_content"] == {"s": 1}
    assert result.items[0]["tool_calls"][0]["extra_content"] == {"s": 1}


# ---- Responses ---------------------------------------------------------------------------------


def reasoning(n: int, **fields: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": f"rs_{n}", "summary": [], **fields}


def called(n: int, arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    call = {"type": "function_call", "id": f"fc_{n}", "call_id": f"call_{n}", "name": "f"}
    return {**call, "arguments": arguments, "status": "completed", **fields}


def message(text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "type": "message",
        "id": "msg",
        "role": "assistant",
        "status": status,
        "content": [part],
    }


def finished(*items: Any, reason: str | None = None, **fields: Any) -> Reply:
    """Each item is closed, then the response is."""
    events: list[Any] = [
        {"type": "response.output_item.done", "output_index": index, "item": item}
        for index, item in enumerate(items)
    ]
    kind = "completed" if reason is None else "incomplete"
    response = {"id": "r", "status": kind, "output": list(items), **fields}
    if reason is not None:
        response["incomplete_details"] = {"reason": reason}
    events.append({"type": f"response.{kind}", "response": response})
    return Reply([data(event) for event in events])


def ids(reply: Reply, **options: Any) -> list[Any]:
    result, _ = answer("responses", reply, **options)
    return [item.get("id") for item in result.to_messages()]


@every(
    ("items", "kept"),
    [
        ([reasoning(1), called(1, '{"a":'), reasoning(2), called(2)], ["rs_2", "fc_2"]),
        ([reasoning(1), called(1), reasoning(2), called(2, '{"a":')], ["rs_1", "fc_1"]),
        ([reasoning(1), reasoning(2), called(1)], ["rs_1", "rs_2", "fc_1"]),
        ([reasoning(1), reasoning(2), called(1, '{"a":'), message("Hi")], ["msg"]),
        ([reasoning(1), message(""), reasoning(2)], ["rs_1", "msg"]),
        ([reasoning(1), called(1, "{}", status="incomplete")], []),
        ([reasoning(1)], []),
    ],
)
def test_no_reasoning_without_its_successor(items: list[Any], kept: list[str]) -> None:
    """The API refuses it: "without its required following item"."""
    assert ids(finished(*items)) == kept


def test_no_reasoning_that_was_never_stored() -> None:
    """The caller asks the service to store nothing, or the service says that it did not."""
    plain, sealed = reasoning(1), reasoning(1, encrypted_content="ENC")
    said_so = {"extra_body": {"store": False}}
    assert ids(finished(plain, message("Hi")), **said_so) == ["msg"]
    assert ids(finished(plain, message("Hi"), store=False)) == ["msg"]
    assert ids(finished(sealed, message("Hi"), store=False), **said_so) == ["rs_1", "msg"]
    assert ids(finished(plain, message("Hi"), store=True)) == ["rs_1", "msg"]


def test_encrypted_reasoning_is_asked_for() -> None:
    """Where nothing is stored, and only there; what the caller asks for stays."""
    encrypted = "reasoning.encrypted_content"

    def asked(**extra: Any) -> Any:
        _, (body,) = answer("responses", finished(message("Hi")), extra_body=extra)
        return body.get("include")

    assert asked() is None
    assert asked(store=True) is None
    assert asked(store=False) == [encrypted]
    assert asked(store=False, include=["a"]) == ["a", encrypted]
    assert asked(store=False, include=[encrypted]) == [encrypted]


@pytest.mark.parametrize("include", [[], ["a"]])
def test_a_model_that_does_not_encrypt(include: list[str]) -> None:
    """It refuses the option: the request is sent again without it, at no cost."""
    error = {"message": "Encrypted content is not supported with this model.", "param": "include"}
    refusal = Reply([json.dumps({"error": error}).encode()], status=400)
    result, (first, second) = answer(
        "responses",
        refusal,
        finished(message("Hi")),
        extra_body={"store": False, "include": include},
    )
    assert result.text == "Hi"
    assert first["include"] == [*include, "reasoning.encrypted_content"]
    assert second.get("include", []) == include


def test_another_refusal_stays_one() -> None:
    refusal = Reply([b'{"error": {"message": "no such model"}}'], status=400)
    transport = FakeTransport(refusal)
    client = Client("responses", base_url="http://test", transport=transport, clock=FakeClock())
    with pytest.raises(InvalidRequestError):
        client.stream("Hi", extra_body={"store": False}).result()
    assert len(transport.requests) == 1


def test_a_text_that_its_limit_has_cut_goes_back() -> None:
    reply = finished(reasoning(1), message("Once upon", "incomplete"), reason="max_output_tokens")
    result, _ = answer("responses", reply)
    assert result.finish == "length"
    assert [item["type"] for item in result.to_messages()] == ["reasoning", "message"]
    empty = finished(reasoning(1), message("", "incomplete"), reason="max_output_tokens")
    assert answer("responses", empty)[0].to_messages() == []


def test_a_text_whose_item_was_never_closed_goes_back() -> None:
    """From a server that does not close its items and repeats none at the end."""
    events = [
        {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"},
        {"type": "response.completed", "response": {"id": "r", "output": []}},
    ]
    result, _ = answer("responses", Reply([data(event) for event in events]))
    (item,) = result.to_messages()
    assert (item["role"], item["content"][0]["text"]) == ("assistant", "Hi")
    cut, _ = answer("responses", Reply([data(events[0])]))
    assert cut.to_messages() == []


def test_a_call_goes_back_as_the_api_takes_it() -> None:
    """With the id of the call that the caller answers, and arguments as the text of one object."""
    result, _ = answer(
        "responses",
        finished(
            called(1, {"x": 1}),
            called(2, json.dumps('{"x":1}')),
            called(3, "", call_id=None, id=None),
        ),
    )
    calls, sent = result.tool_calls, result.to_messages()
    assert [item["call_id"] for item in sent] == [call.id for call in calls]
    assert [json.loads(item["arguments"]) for item in sent] == [{"x": 1}, {"x": 1}, {}]
    assert len({call.id for call in calls} - {None}) == 3
