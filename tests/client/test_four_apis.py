"""The same program against the four APIs: only the client's first line differs.

What an API cannot say is in the tables of this file, beside what it says instead.
"""

from __future__ import annotations

import copy
import gc
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from corpus import Recording, params, random_pieces, recorded, replay, told
from every import every
from support import AT_ONCE, ONCE, eventually, failure, open_sockets, other_threads

from llmstream import (
    Chunk,
    Client,
    ConfigurationError,
    LLMStreamError,
    NotAStreamError,
    Result,
    RetryPolicy,
    StreamInterrupted,
    StreamTruncated,
    ToolCall,
    Usage,
    errors,
)
from llmstream._core.dialects import APIS as ROWS
from llmstream._core.session import Session
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Reply,
    Reset,
)
from llmstream.testing.answers import ErrorSpec, gemini, sse_block
from llmstream.testing.answers.messages import SIGNATURE

APIS = ("responses", "messages", "chat", "gemini")
PATH = {
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "chat": "/v1/chat/completions",
    "gemini": "/v1beta/models/m:streamGenerateContent?alt=sse",
}
# How many blocks of an answer stand behind the one that completes it.
BEHIND = {"responses": 0, "messages": 0, "chat": 2, "gemini": 0}

Ask = Callable[..., Client]


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Threads and sockets are counted once for the whole file: it has some six hundred tests."""
    threads, sockets = other_threads(), open_sockets()
    yield
    gc.collect()
    eventually(lambda: not other_threads() - threads, "the threads have ended")
    eventually(lambda: not open_sockets() - sockets, "the sockets are closed")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "LLMSTREAM_")):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as started:
        yield started


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def ask(server: LLMServer, api: str) -> Iterator[Ask]:
    """`ask(**settings)` is a client of the server over the API; retries do not wait."""
    made: list[Client] = []

    def make(**settings: Any) -> Client:
        known = {"api_key": "test-key", "model": "m", "retry": AT_ONCE}
        client = Client(api, base_url=server.base_url_for(api), **{**known, **settings})
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def sent(server: LLMServer, number: int = -1) -> Any:
    """The JSON of a request."""
    return server.requests[number].json()


def http_error(api: str, status: int, *, headers: Any = None, **fields: str) -> Reply:
    """An HTTP error in the API's own shape."""
    body, identity = ErrorSpec(status, **fields).document(api)
    return Reply.json(body, status, headers={**identity, **(headers or {})})


# ---- text and thinking -------------------------------------------------------------------------


def test_text(server: LLMServer, ask: Ask, api: str) -> None:
    """Token by token, and the whole in the result, with model, id, finish and one attempt."""
    server.script(Answer("One two three.", model="m-1", response_id="id-1"))
    stream = ask().stream("Hi")
    assert list(stream) == ["One", " two", " three."]
    result = stream.result()
    assert (result.text, result.thinking, result.refusal) == ("One two three.", "", "")
    assert (result.model, result.response_id, result.finish) == ("m-1", "id-1", "stop")
    assert [attempt.status for attempt in result.attempts] == [200]
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", PATH[api])
    if api == "gemini":  # both are in the address
        assert not {"stream", "model"} & sent(server).keys()
        return
    assert sent(server)["stream"] is True
    assert sent(server)["model"] == "m"


def test_an_empty_answer_is_a_success(server: LLMServer, ask: Ask) -> None:
    """A model may say nothing at all."""
    server.script(Answer(""))
    stream = ask().stream("Hi")
    assert list(stream.chunks()) == []
    assert (stream.result().text, stream.result().finish) == ("", "stop")


def test_thinking_comes_before_the_text_and_apart(server: LLMServer, ask: Ask) -> None:
    """The chunks show the passage from thinking to text; iteration gives the text alone."""
    server.script(Answer("One two.", thinking="Let me think."), Answer("Yes.", thinking="Hm."))
    client = ask()
    stream = client.stream("Hi")
    chunks = [(chunk.type, chunk.text) for chunk in stream.chunks()]
    assert chunks == [
        ("thinking", "Let"),
        ("thinking", " me"),
        ("thinking", " think."),
        ("text", "One"),
        ("text", " two."),
    ]
    assert (stream.thinking, stream.text) == ("Let me think.", "One two.")
    assert stream.result().thinking == "Let me think."
    assert list(client.stream("Hi")) == ["Yes."]


# What each API makes of a refusal in words: (text, refusal).
IN_TEXT = ("I will not.", "")
REFUSED = {"messages": IN_TEXT, "gemini": IN_TEXT}


def test_a_refusal_in_words(server: LLMServer, ask: Ask, api: str) -> None:
    """It has a place of its own, except in Messages and Gemini, where it is text."""
    server.script(Answer(refusal="I will not."))
    result = ask().stream("Hi").result()
    assert (result.text, result.refusal) == REFUSED.get(api, ("", "I will not."))


INDICES = {
    "responses": [("thinking", 0), ("text", 1), ("tool_call", 2), ("tool_call", 3)],
    "messages": [("thinking", 0), ("text", 1), ("tool_call", 2), ("tool_call", 3)],
    "chat": [("thinking", 0), ("text", 0), ("tool_call", 0), ("tool_call", 0)],
    "gemini": [("thinking", 0), ("text", 1), ("tool_call", 2), ("tool_call", 3)],
}


def test_the_index_of_a_chunk(server: LLMServer, ask: Ask, api: str) -> None:
    """The item's or block's position; for chat the choice's."""
    calls = [("f", "{}"), ("g", "{}")] if api == "gemini" else [("f", "1"), ("g", "2")]
    server.script(Answer(["a"], thinking=["b"], tool_calls=calls))
    chunks = ask().stream("Hi").chunks()
    assert [(chunk.type, chunk.index) for chunk in chunks] == INDICES[api]


# ---- tools -------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
# One tool, in the form of each API.
TOOL_FORMS: dict[str, dict[str, Any]] = {
    "responses": {
        "type": "function",
        "name": "weather",
        "description": "How is it?",
        "parameters": SCHEMA,
    },
    "messages": {"name": "weather", "description": "How is it?", "input_schema": SCHEMA},
    "chat": {
        "type": "function",
        "function": {"name": "weather", "description": "How is it?", "parameters": SCHEMA},
    },
    "gemini": {
        "functionDeclarations": [
            {"name": "weather", "description": "How is it?", "parametersJsonSchema": SCHEMA}
        ]
    },
}
MORE_FORMS: dict[str, dict[str, Any]] = {
    "messages with its type": {**TOOL_FORMS["messages"], "type": "custom"},
    "bare": {"name": "weather", "description": "How is it?", "parameters": SCHEMA},
}


@pytest.mark.parametrize("form", [*TOOL_FORMS, *MORE_FORMS])
def test_a_tool_in_any_form_is_understood(server: LLMServer, ask: Ask, api: str, form: str) -> None:
    """One definition does for the four APIs: it arrives in the API's own form."""
    tool = {**TOOL_FORMS, **MORE_FORMS}[form]
    before = json.dumps(tool)
    ask().stream("Hi", tools=[tool]).result()
    (arrived,) = sent(server)["tools"]
    assert {k: v for k, v in arrived.items() if (k, v) != ("type", "custom")} == TOOL_FORMS[api]
    assert json.dumps(tool) == before  # the caller's own dict is untouched


def test_functions_that_share_a_tool_are_taken_apart(server: LLMServer, ask: Ask, api: str) -> None:
    """As Gemini has them, in the older form too, whose types are in capitals; what else the tool
    has is the service's."""
    old = {"type": "OBJECT", "properties": {"type": {"type": "ARRAY", "items": {"type": "STRING"}}}}
    new = {"type": "object", "properties": {"type": {"type": "array", "items": {"type": "string"}}}}
    declared = [
        {"name": "one", "parameters": old},
        {"name": "two", "description": "Two.", "parametersJsonSchema": new},
        {"name": "three"},
    ]
    tool = {"functionDeclarations": declared, "googleSearch": {}}
    before = json.dumps(tool)
    ask().stream("Hi", tools=[tool]).result()
    arrived = sent(server)["tools"]
    assert json.dumps(tool) == before
    if api == "gemini":
        assert arrived == [{"functionDeclarations": declared}, {"googleSearch": {}}]
        return
    *functions, rest = arrived
    assert rest == {"googleSearch": {}}
    functions = [one.get("function", one) for one in functions]
    assert [one["name"] for one in functions] == ["one", "two", "three"]
    schemas = [one.get("parameters", one.get("input_schema")) for one in functions]
    assert schemas[:2] == [new, new]
    assert functions[1]["description"] == "Two."


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        {"type": "web_search"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "mcp", "server_label": "x", "server_url": "https://x"},
    ],
)
def test_a_tool_of_the_service_is_passed_on(server: LLMServer, ask: Ask, tool: Any) -> None:
    """What is no function tool is the caller's word to the service."""
    ask().stream("Hi", tools=[tool]).result()
    assert sent(server)["tools"] == [tool]


def test_a_tool_without_parameters(server: LLMServer, ask: Ask, api: str) -> None:
    """Messages demands a schema: there an empty one is sent."""
    ask().stream("Hi", tools=[{"type": "function", "name": "now"}]).result()
    assert sent(server)["tools"] == {
        "responses": [{"type": "function", "name": "now"}],
        "messages": [{"name": "now", "input_schema": {"type": "object", "properties": {}}}],
        "chat": [{"type": "function", "function": {"name": "now"}}],
        "gemini": [{"functionDeclarations": [{"name": "now"}]}],
    }.get(api)


NAMED: dict[str, Any] = {
    "responses": {"type": "function", "name": "weather"},
    "messages": {"type": "tool", "name": "weather"},
    "chat": {"type": "function", "function": {"name": "weather"}},
}


def config(**fields: Any) -> dict[str, Any]:
    return {"functionCallingConfig": fields}


NAMED["gemini"] = config(mode="ANY", allowedFunctionNames=["weather"])
AUTO, NONE, ANY = config(mode="AUTO"), config(mode="NONE"), config(mode="ANY")
CHOICES: list[tuple[Any, dict[str, Any]]] = [
    ("auto", {"responses": "auto", "messages": {"type": "auto"}, "chat": "auto", "gemini": AUTO}),
    ("none", {"responses": "none", "messages": {"type": "none"}, "chat": "none", "gemini": NONE}),
    (
        "required",
        {"responses": "required", "messages": {"type": "any"}, "chat": "required", "gemini": ANY},
    ),
    *[(form, NAMED) for form in NAMED.values()],
]
CHOICES += [
    ({"functionCallingConfig": form["gemini"]["functionCallingConfig"]}, form)
    for _, form in CHOICES[:3]
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_the_choice_of_a_tool(
    server: LLMServer, ask: Ask, api: str, choice: Any, expected: dict[str, Any]
) -> None:
    """auto, none, required, or one function in any of the four forms."""
    ask().stream("Hi", tools=[TOOL_FORMS["chat"]], tool_choice=choice).result()
    assert sent(server)["toolConfig" if api == "gemini" else "tool_choice"] == expected[api]


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_tool_calls(server: LLMServer, ask: Ask, api: str, finish: str) -> None:
    """Parallel calls with ids, exact arguments, and "{}" for no arguments; the finish tells. In
    Gemini arguments are an object, and a call is one piece."""
    calls = [("weather", '{"city": "Köln \\u00e9"}', "id_0"), ("now", "{}", "id_1")]
    server.script(Answer("Look.", tool_calls=calls, finish=finish))
    stream = ask().stream("Hi")
    pieces = [chunk.text for chunk in stream.chunks() if chunk.type == "tool_call"]
    result = stream.result()
    arguments = '{"city":"Köln é"}' if api == "gemini" else '{"city": "Köln \\u00e9"}'
    assert result.tool_calls == (
        ToolCall("id_0", "weather", arguments),
        ToolCall("id_1", "now", "{}"),
    )
    assert result.tool_calls[0].parsed() == {"city": "Köln é"}
    assert result.incomplete_tool_calls == ()
    assert result.finish == "tool_calls"
    assert "".join(pieces).startswith(arguments)
    assert len(pieces) > 3 or api == "gemini"  # as they came


def call_that_is_cut(api: str, text: str, thinking: str, arguments: str) -> Answer | Reply:
    """An answer that the limit ends inside a call. Only Vertex sends calls of Gemini in pieces."""
    if api != "gemini":
        calls = [("weather", arguments)]
        return Answer(text, thinking=thinking, tool_calls=calls, finish="length")
    *blocks, last = Answer(text, thinking=thinking, finish="length").blocks(api)
    args = {"jsonPath": "$.city", "stringValue": "K", "willContinue": True}
    pieces = {"partialArgs": [args]} if arguments else {}
    part = {"functionCall": {"name": "weather", **pieces, "willContinue": True}}
    call = sse_block(None, {"candidates": [{"content": {"parts": [part], "role": "model"}}]})
    return Reply([*blocks, call, last])


@pytest.mark.parametrize("arguments", ['{"city":"K', ""])
def test_a_call_that_the_limit_cut_is_not_safe(
    server: LLMServer, ask: Ask, api: str, arguments: str
) -> None:
    """Half its arguments, or none of them: it is incomplete, and no turn holds it."""
    server.script(call_that_is_cut(api, "Look.", "", arguments))
    result = ask().stream("Hi").result()
    assert result.finish == "length"
    assert result.tool_calls == ()
    known = arguments or ("{" if api == "gemini" else "")
    assert [(c.name, c.arguments) for c in result.incomplete_tool_calls] == [("weather", known)]
    assert "weather" not in json.dumps(result.to_messages())
    assert "Look." in json.dumps(result.to_messages())


# ---- conversations -----------------------------------------------------------------------------

USER = {"role": "user", "content": "How is it in Köln?"}
ASSISTANT: dict[str, list[dict[str, Any]]] = {
    "responses": [
        {
            "id": "rs_test_0",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm."}],
        },
        {
            "id": "msg_test_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "annotations": [], "logprobs": [], "text": "I look."}
            ],
        },
        {
            "id": "fc_test_2",
            "type": "function_call",
            "status": "completed",
            "arguments": '{"city": "Köln"}',
            "call_id": "c1",
            "name": "weather",
        },
    ],
    "messages": [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Köln"}},
            ],
        }
    ],
    "gemini": [
        {
            "role": "model",
            "parts": [
                *({"text": "Hm.", "thought": True}, {"text": "I"}, {"text": " look."}),
                {
                    "functionCall": {"name": "weather", "id": "c1", "args": {"city": "Köln"}},
                    "thoughtSignature": gemini.SIGNATURE,
                },
            ],
        }
    ],
    "chat": [
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Köln"}'},
                }
            ],
        }
    ],
}
TOOL_RESULT: dict[str, dict[str, Any]] = {
    "responses": {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    "messages": {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "rain"}],
    },
    "chat": {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    "gemini": {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "weather", "response": {"output": "rain"}, "id": "c1"}}
        ],
    },
}


def turns(server: LLMServer, api: str) -> Any:
    return sent(server)[{"responses": "input", "gemini": "contents"}.get(api, "messages")]


def own(api: str, turn: dict[str, Any]) -> dict[str, Any]:
    """A turn of one text, as the API has it."""
    if api != "gemini" or "content" not in turn:
        return turn
    return {"role": turn["role"], "parts": [{"text": turn["content"]}]}


def test_a_conversation_with_a_tool(server: LLMServer, ask: Ask, api: str) -> None:
    """The result's turn goes into the next prompt, in the API's own form, signatures kept."""
    call = ("weather", '{"city": "Köln"}', "c1")
    server.script(Answer("I look.", thinking="Hm.", tool_calls=[call]), Answer("It rains."))
    client = ask()
    first = client.stream([USER]).result()
    assert first.to_messages() == ASSISTANT[api]
    prompt = [USER, *first.to_messages(), TOOL_RESULT[api]]
    second = client.stream(prompt).result()
    assert turns(server, api) == [own(api, USER), *ASSISTANT[api], TOOL_RESULT[api]]
    assert second.text == "It rains."


def test_a_long_conversation(server: LLMServer, ask: Ask, api: str) -> None:
    """Turn by turn the prompt grows by exactly what was said."""
    server.default = server.echo
    client = ask()
    prompt: list[Any] = []
    for said in ("one", "two", "three"):
        prompt.append({"role": "user", "content": said})
        result = client.stream(prompt).result()
        assert result.text == said
        prompt += result.to_messages()
    assert turns(server, api) == [own(api, turn) for turn in prompt[:-1]]
    assert len(prompt) == 6


def test_half_a_block_is_left_out_of_the_turn(server: LLMServer, ask: Ask, api: str) -> None:
    """Of an answer that failed the closed blocks are items; but a turn that ends in thinking is
    one that the services refuse, so there is none. In Gemini every piece is a part of its own."""
    error = {"type": "invalid_request_error", "message": "no"}
    server.script(Answer("I loo", thinking="Hm.", error=error))
    partial = failure(ask().stream("Hi")).partial
    assert (partial.text, partial.thinking) == ("I loo", "Hm.")
    if api == "gemini":
        parts = [{"text": "Hm.", "thought": True}, {"text": "I"}, {"text": " loo"}]
        assert partial.to_messages() == [{"role": "model", "parts": parts}]
        return
    kinds = [item["type"] for item in partial.items] if api != "chat" else []
    assert kinds == {"responses": ["reasoning"], "messages": ["thinking"]}.get(api, [])
    assert partial.to_messages() == []


def test_the_thinking_of_a_call_that_was_cut_is_in_no_turn(
    server: LLMServer, ask: Ask, api: str
) -> None:
    """It would be the last of the turn, without what it led to. Gemini signs what follows it."""
    server.script(call_that_is_cut(api, "", "Hm.", '{"city":"K'))
    result = ask().stream("Hi").result()
    assert result.thinking == "Hm."
    assert "weather" not in json.dumps(result.to_messages())
    if api != "gemini":
        assert result.to_messages() == []


def test_a_closed_call_behind_which_the_answer_failed(
    server: LLMServer, ask: Ask, api: str
) -> None:
    """It stays in the turn where each item is closed by itself; chat closes all or nothing, and in
    Gemini a call is whole when it arrives."""
    calls = [("f", '{"a": 1}', "c1"), ("g", '{"b": 1}', "c2")]
    server.script(Answer(tool_calls=calls, error={"type": "invalid_request_error"}))
    partial = failure(ask().stream("Hi")).partial
    safe = {"chat": [], "gemini": ["f", "g"]}.get(api, ["f"])
    assert [c.name for c in partial.tool_calls] == safe
    turn = json.dumps(partial.to_messages())
    assert [name for name in ("f", "g") if f'"{name}"' in turn] == safe


def test_an_answer_that_says_nothing_is_no_turn_that_is_refused(
    server: LLMServer, ask: Ask, api: str
) -> None:
    """No API takes an assistant's turn without content back."""
    server.script(call_that_is_cut(api, "", "", '{"city":"K'))
    assert ask().stream("Hi").result().to_messages() == []


# ---- usage and finish --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ((12, 34), Usage(12, 34, 46, 0, 0)),
        ((12, 34, 5, 6), Usage(12, 34, 46, 5, 6)),
        ((0, 0), Usage(0, 0, 0, 0, 0)),
        (None, Usage()),
    ],
)
def test_usage(server: LLMServer, ask: Ask, api: str, said: Any, usage: Usage) -> None:
    """As reported; None where the service reports nothing, as Gemini for a 0. The total is that of
    the whole prompt: Messages counts cached tokens beside the input."""
    if api == "gemini":
        cached, reasoning = usage.cached_tokens or None, usage.reasoning_tokens or None
        usage = msgspec.structs.replace(usage, cached_tokens=cached, reasoning_tokens=reasoning)
    if api == "messages" and usage.cached_tokens:
        usage = msgspec.structs.replace(usage, total_tokens=12 + 5 + 34)
    server.script(Answer("Hi", usage=said))
    stream = ask().stream("Hi")
    result = stream.result()
    assert result.usage == stream.usage == result.attempts[0].usage
    assert msgspec.structs.replace(result.usage, cache_write_tokens=None) == usage


FILTERED = {"responses": "content_filter", "messages": "refusal", "chat": "content_filter"}


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "length", "content_filter"])
def test_finish(server: LLMServer, ask: Ask, api: str, finish: str) -> None:
    """One vocabulary; the end for a filter is a refusal in Messages."""
    calls = [("f", "{}")] if finish == "tool_calls" else []
    server.script(Answer("Hi", tool_calls=calls, finish=finish))
    expected = FILTERED.get(api, finish) if finish == "content_filter" else finish
    assert ask().stream("Hi").result().finish == expected


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fields", "name"),
    [
        (400, {}, "InvalidRequestError"),
        (401, {}, "AuthenticationError"),
        (402, {}, "QuotaExceededError"),
        (403, {}, "PermissionDeniedError"),
        (404, {}, "InvalidRequestError"),
        (413, {}, "InvalidRequestError"),
        (422, {}, "InvalidRequestError"),
        (429, {}, "RateLimitError"),
        (429, {"type": "insufficient_quota"}, "QuotaExceededError"),
        (500, {}, "ServerError"),
        (502, {}, "ServerError"),
        (503, {}, "OverloadedError"),
        (504, {}, "ServerError"),
        (529, {}, "OverloadedError"),
    ],
)
def test_http_errors(
    server: LLMServer, ask: Ask, api: str, status: int, fields: dict[str, str], name: str
) -> None:
    """The same status is the same class, with the service's words and the request's id."""
    server.script(http_error(api, status, message="so it is", request_id="req_7", **fields))
    error = failure(ask(retry=ONCE).stream("Hi"))
    assert type(error).__name__ == name
    assert isinstance(error, errors.ServiceError)
    assert error.status == status
    assert "so it is" in error.message
    assert error.request_id == "req_7"
    assert error.partial == Result(
        trace_id=error.trace_id,
        request_id="req_7",
        attempts=error.partial.attempts,
        timings=error.partial.timings,
        service=error.partial.service,
    )


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_what_may_pass_is_retried(server: LLMServer, ask: Ask, api: str, status: int) -> None:
    """The answer of the second attempt is the answer; the first is on record."""
    server.script(http_error(api, status), Answer("At last."))
    result = ask().stream("Hi").result()
    assert result.text == "At last."
    assert [attempt.status for attempt in result.attempts] == [status, 200]
    assert server.requests[0].body == server.requests[1].body


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_what_will_not_pass_is_not_retried(
    server: LLMServer, ask: Ask, api: str, status: int
) -> None:
    """One request, one error."""
    server.script(http_error(api, status))
    failure(ask().stream("Hi"))
    assert len(server.requests) == 1


def test_a_servers_wait_is_waited_out(api: str) -> None:
    """Retry-After, in whatever shape the error itself is."""
    clock = FakeClock()
    wait = http_error(api, 429, headers={"retry-after": "20"})
    client = Client(
        api,
        base_url="http://test",
        model="m",
        transport=FakeTransport(wait, Answer("Hi")),
        clock=clock,
        retry=RetryPolicy(jitter=0.0),
    )
    assert client.stream("Hi").result().text == "Hi"
    assert clock.slept == [20.0]


# (type in the API's own words, class, whether it is tried again before content)
IN_STREAM: list[tuple[dict[str, str], str, bool]] = [
    ({"type": "overloaded_error"}, "OverloadedError", True),
    ({"type": "api_error"}, "ServerError", True),
    ({"code": "server_error"}, "ServerError", True),
    ({"code": "rate_limit_exceeded"}, "RateLimitError", True),
    ({"type": "rate_limit_error"}, "RateLimitError", True),
    ({"code": "insufficient_quota"}, "QuotaExceededError", False),
    ({"type": "invalid_request_error"}, "InvalidRequestError", False),
    ({"code": "context_length_exceeded"}, "InvalidRequestError", False),
    ({"type": "authentication_error"}, "AuthenticationError", False),
    ({"type": "never_heard_of"}, "ServerError", True),
    ({}, "ServerError", True),
]


@pytest.mark.parametrize(("said", "name", "again"), IN_STREAM)
def test_errors_in_the_stream_before_content(
    server: LLMServer, ask: Ask, said: dict[str, str], name: str, again: bool
) -> None:
    """The same words are the same class; asked again where that may help."""
    server.script(Answer(error={**said, "message": "so it is"}), Answer("Whole."))
    stream = ask().stream("Hi")
    first: LLMStreamError | None
    if again:
        assert stream.result().text == "Whole."
        first = stream.attempts[0].error
    else:
        first = failure(stream)
    assert type(first).__name__ == name
    assert "so it is" in str(first)
    assert len(server.requests) == (2 if again else 1)


@pytest.mark.parametrize(("said", "name", "again"), IN_STREAM)
def test_errors_in_the_stream_behind_content(
    server: LLMServer, ask: Ask, said: dict[str, str], name: str, again: bool
) -> None:
    """What came is delivered once and kept; nothing is asked again, whatever the error."""
    server.default = Answer("One two", error={**said, "message": "so it is"})
    tokens: list[str] = []
    error = failure(ask().stream("Hi"), lambda stream: tokens.extend(stream))
    assert type(error).__name__ == name
    assert error.retryable == again
    assert tokens == ["One", " two"]
    assert (error.partial.text, error.partial.finish) == ("One two", None)
    assert len(server.requests) == 1


# ---- 200, but no stream ------------------------------------------------------------------------

WHOLE: dict[str, dict[str, Any]] = {
    "gemini": {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "All at once."},
                        {"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}},
                    ],
                    "role": "model",
                },
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3},
        "modelVersion": "m-1",
        "responseId": "id-1",
    },
    "responses": {
        "id": "id-1",
        "object": "response",
        "status": "completed",
        "model": "m-1",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "All at once."}],
            },
            {
                "id": "fc_1",
                "type": "function_call",
                "status": "completed",
                "name": "f",
                "arguments": '{"a":1}',
                "call_id": "c1",
            },
        ],
        "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    },
    "messages": {
        "id": "id-1",
        "type": "message",
        "role": "assistant",
        "model": "m-1",
        "content": [
            {"type": "text", "text": "All at once."},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    },
    "chat": {
        "id": "id-1",
        "object": "chat.completion",
        "model": "m-1",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "All at once.",
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a":1}'},
                        }
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    },
}


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", ""])
def test_a_whole_completion_is_a_stream_of_one_chunk(
    server: LLMServer, ask: Ask, api: str, content_type: str
) -> None:
    """A server that does not stream: one chunk of text, and everything else in the result."""
    server.script(
        Reply(json.dumps(WHOLE[api]).encode(), framing="length", content_type=content_type)
    )
    stream = ask().stream("Hi")
    chunks = list(stream.chunks())
    assert [chunk.text for chunk in chunks if chunk.type == "text"] == ["All at once."]
    result = stream.result()
    assert (result.text, result.finish) == ("All at once.", "tool_calls")
    assert [(c.id, c.name, c.parsed()) for c in result.tool_calls] == [("c1", "f", {"a": 1})]
    assert (result.usage.input_tokens, result.usage.output_tokens) == (1, 2)
    assert (result.model, result.response_id) == ("m-1", "id-1")
    assert len(result.to_messages()) == (2 if api == "responses" else 1)


def test_a_whole_completion_is_an_event_too(server: LLMServer, ask: Ask, api: str) -> None:
    """One that holds all of the JSON that came."""
    server.script(Reply.json(WHOLE[api]))
    shown = [event.json() for event in ask().stream("Hi").events()]
    holders = {"responses": "response", "messages": "message"}
    assert [e for e in shown if e.get(holders.get(api, ""), e) == WHOLE[api]]


@pytest.mark.parametrize("end", [Cut(), Reset()])
def test_a_completion_cut_inside_its_json_is_cut(
    server: LLMServer, ask: Ask, api: str, end: Any
) -> None:
    """A connection lost in the middle of the JSON is an interrupted one, and may be asked again."""
    half = json.dumps(WHOLE[api]).encode()[:-40]
    server.default = Reply([half, end], content_type="application/json")
    assert isinstance(failure(ask(retry=ONCE).stream("Hi")), StreamInterrupted)
    server.script(server.default, Answer("Whole."))
    assert ask().stream("Hi").result().text == "Whole."


@pytest.mark.parametrize("cut", ["half", "half, closed cleanly", "no JSON"])
def test_json_that_cannot_be_read_is_no_answer(
    server: LLMServer, ask: Ask, api: str, cut: str
) -> None:
    """Never a success, and never a foreign exception."""
    whole = json.dumps(WHOLE[api]).encode()
    body = {"half": whole[:-1], "half, closed cleanly": whole[:60], "no JSON": b"{not json"}[cut]
    framing = "close" if "closed" in cut else "length"
    server.script(Reply(body, framing=framing, content_type="application/json"))  # type: ignore[arg-type]
    assert isinstance(failure(ask(retry=ONCE).stream("Hi")), NotAStreamError)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"type": "overloaded_error"}, "OverloadedError"),
        ({"code": "insufficient_quota"}, "QuotaExceededError"),
        ({"type": "invalid_request_error"}, "InvalidRequestError"),
        ({}, "ServerError"),
    ],
)
def test_an_error_as_the_json_of_a_200(
    server: LLMServer, ask: Ask, api: str, said: dict[str, str], name: str
) -> None:
    """Its words decide, as inside a stream."""
    body, _ = ErrorSpec(200, message="so it is", **said).document(api)
    server.script(Reply.json(body))
    error = failure(ask(retry=ONCE).stream("Hi"))
    assert type(error).__name__ == name
    assert "so it is" in error.message


@pytest.mark.parametrize(
    "obj",
    [
        *({}, {"hello": "world"}, [], [1]),
        *({"choices": None}, {"choices": []}, {"choices": [{}]}, {"choices": [None]}),
        *({"output": 5}, {"output": []}, {"output": ["x"]}, {"output": [{}]}),
        *({"content": 5}, {"content": [], "page": 0}, {"content": ["x"]}, {"content": [{}]}),
    ],
    ids=str,
)
def test_any_other_json_is_no_stream(server: LLMServer, ask: Ask, obj: Any) -> None:
    """Neither a completion nor an error."""
    server.script(Reply.json(obj))
    assert isinstance(failure(ask().stream("Hi")), NotAStreamError)
    assert len(server.requests) == 1


def test_html_is_no_stream(server: LLMServer, ask: Ask) -> None:
    """The error shows the first 300 characters of a proxy's page, and no more."""
    page = "<html>" + "".join(f"{n:04d} " for n in range(400))
    server.script(Reply.html(page))
    error = failure(ask().stream("Hi"))
    assert isinstance(error, NotAStreamError)
    assert page[:300] in error.message
    assert page[:301] not in error.message


# ---- cut answers are never whole ---------------------------------------------------------------

CUT_ANSWERS = {
    "text": Answer("One two three."),
    "thinking": Answer("See.", thinking="Let me."),
    "calls": Answer("Look.", tool_calls=[("f", '{"a": 1}'), ("g", "{}")]),
    "length": Answer("One", finish="length"),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CUT_ANSWERS)
def test_cut_at_every_byte_in_memory(api: str, name: str, step: int) -> None:
    """A body that ends at any byte before the end of the ending's block is truncated, and has a
    prefix of the answer; behind it, the whole. (The default suite cuts at each byte around the
    ending and at every seventh; the recordings are cut at each below.)"""
    blocks = CUT_ANSWERS[name].blocks(api)
    data = b"".join(blocks)
    ending = len(b"".join(blocks[: len(blocks) - BEHIND[api]]))
    whole = Session(ROWS[api].load())
    whole.receive(data)
    for offset in sorted({*range(0, len(data), step), *range(ending - 30, len(data) + 1)}):
        session = Session(ROWS[api].load())
        session.receive(data[:offset])
        session.receive_eof()
        if offset < ending:
            assert isinstance(session.error, StreamTruncated), offset
            assert not session.complete
            assert whole.state.text.startswith(session.state.text)
        else:
            assert (session.complete, session.error) == (True, None), offset
            assert session.state.text == whole.state.text


SMALL, LARGE = 2_500, 6_000  # bytes: above these are two thirds of the recordings, and a third
# Responses has a file of its own for this, test_corpus.
RECORDINGS = [recording for api in ("messages", "chat") for recording in recorded(api)]


@every("recording", params(RECORDINGS))
def test_a_recording_is_reported_exactly(recording: Recording) -> None:
    """What real services sent, in one piece and in random pieces."""
    whole, session = replay((recording.data,), recording.api)
    assert told(session, recording.api) == recording.expect
    events, session = replay(random_pieces(1)(recording.data), recording.api)
    assert told(session, recording.api) == recording.expect
    assert events == whole
    assert [event.chunks for event in events] == [event.chunks for event in whole]


@every("recording", params(RECORDINGS, below=SMALL))
def test_a_recording_cut_at_every_byte(recording: Recording) -> None:
    """Until the block that completes it is complete, its end is a truncation; text, thinking and
    calls are a beginning of the whole's. Behind that block nothing takes the success back but the
    service's own error."""
    check_every_cut(recording)


@pytest.mark.slow
@pytest.mark.parametrize("recording", params(RECORDINGS, at_least=SMALL, below=LARGE))
def test_a_larger_recording_cut_at_every_byte(recording: Recording) -> None:
    check_every_cut(recording)


def check_every_cut(recording: Recording) -> None:
    api = recording.api
    _, full = replay((recording.data,), api)
    known = told(full, api)
    session = Session(ROWS[api].load())
    for offset in range(len(recording.data)):
        ended = copy.copy(session)
        # In Chat Completions the end of the body completes an answer that has a finish, but no
        # text; the end is tried on a state of its own.
        bare = b'"finish_reason":"' in recording.data[:offset] and not session.state.text
        if bare:
            ended.state = copy.deepcopy(session.state)
        ended.receive_eof()
        if bare and ended.complete and not session.complete:
            assert ended.state.finish is not None, offset
        elif not (session.complete or session.error):
            assert type(ended.error) is StreamTruncated, offset
        elif session.complete:
            assert ended.error is None, offset
        for kind in ("text", "thinking", "refusal"):
            assert known[kind].startswith(getattr(session.state, kind))
        if session.receive(recording.data[offset : offset + 1]):
            for call in told(session, api)["tool_calls"]:
                assert call in known["tool_calls"]
    session.receive_eof()
    assert told(session, api) == known


# way of ending -> (what is sent behind the bytes, framing, the error)
ENDS: dict[str, tuple[list[Any], str, type[LLMStreamError]]] = {
    "last chunk": ([Cut(last_chunk=True)], "chunked", StreamTruncated),
    "kept alive": ([], "chunked", StreamTruncated),
    "no last chunk": ([Cut()], "chunked", StreamInterrupted),
    "reset": ([Reset()], "chunked", StreamInterrupted),
    "closed": ([Cut()], "close", StreamTruncated),
    "reset while close-delimited": ([Reset()], "close", StreamInterrupted),
    "content-length": ([], "length", StreamTruncated),
}
PLACES = ["before any block", "behind the text", "before the ending", "inside the ending"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ENDS)
def test_cut_over_http(server: LLMServer, ask: Ask, api: str, way: str, place: str) -> None:
    """However the connection ends before the answer does, it is that error; its partial has what
    came, and what came is not asked for again."""
    steps, framing, expected = ENDS[way]
    blocks = Answer("One two three.").blocks(api)
    ending = len(blocks) - BEHIND[api] - 1
    said = max(i for i, block in enumerate(blocks[:ending]) if b"two" in block) + 1
    data = {
        "before any block": b"",
        "behind the text": b"".join(blocks[:said]),
        "before the ending": b"".join(blocks[:ending]),
        "inside the ending": b"".join(blocks[:ending]) + blocks[ending][:-1],
    }[place]
    server.default = Reply([data, *steps], framing=framing)  # type: ignore[arg-type]
    error = failure(ask(retry=ONCE).stream("Hi"))
    assert type(error) is expected
    whole = "One two three."
    assert error.partial.finish in (None, "stop")  # Messages says why before it says that it ended
    assert whole.startswith(error.partial.text)
    assert (error.partial.text == "") == (place == "before any block")
    if place != "before any block":
        failure(ask().stream("Hi"))
        assert len(server.requests) == 2  # no retry behind content


@pytest.mark.parametrize("way", ["last chunk", "no last chunk", "reset", "closed"])
def test_cut_before_content_is_asked_again(server: LLMServer, ask: Ask, api: str, way: str) -> None:
    """Nothing was delivered: the next attempt gives the answer, once."""
    steps, framing, _ = ENDS[way]
    first = Answer("One two.").blocks(api)[0]
    if api == "gemini":  # where the first event is content already
        first = sse_block(None, {"usageMetadata": {"promptTokenCount": 3}, "responseId": "r"})
    server.script(Reply([first, *steps], framing=framing), Answer("One two."))  # type: ignore[arg-type]
    stream = ask().stream("Hi")
    assert list(stream) == ["One", " two."]
    assert len(stream.attempts) == 2


def test_closing_the_client_closes_connections_though_an_error_is_kept(
    server: LLMServer, ask: Ask, api: str
) -> None:
    """What the caller holds on to must not hold a connection."""
    server.script(http_error(api, 400))
    client = ask()
    kept = failure(client.stream("Hi"))
    client.close()
    server.wait_all_closed()
    assert kept.attempts


# ---- headers -----------------------------------------------------------------------------------

AUTH = {
    "responses": ("authorization", "Bearer test-key"),
    "messages": ("x-api-key", "test-key"),
    "chat": ("authorization", "Bearer test-key"),
    "gemini": ("x-goog-api-key", "test-key"),
}


def test_the_key_goes_where_the_api_wants_it(server: LLMServer, ask: Ask, api: str) -> None:
    """And nowhere else."""
    ask().stream("Hi").result()
    headers = server.requests[0].headers
    name, value = AUTH[api]
    assert headers[name] == value
    assert [n for n in headers if "test-key" in headers[n]] == [name]
    assert headers["content-type"] == "application/json"
    assert headers["accept"] == "text/event-stream"
    assert ("anthropic-version" in headers) == (api == "messages")


def test_no_key_no_header(server: LLMServer, ask: Ask) -> None:
    """A local server may want none."""
    ask(api_key=None).stream("Hi").result()
    headers = server.requests[0].headers
    assert not {"authorization", "x-api-key", "api-key", "x-goog-api-key"} & set(headers)


@pytest.mark.parametrize("where", ["client", "call"])
def test_headers_have_the_last_word(server: LLMServer, ask: Ask, where: str) -> None:
    """headers= overrides the library's own, whatever their case."""
    mine = {"Anthropic-Version": "2026-10-21", "X-Mine": "1", "Anthropic-Beta": "b1,b2"}
    settings = {"headers": mine}
    client = ask(**settings if where == "client" else {})
    client.stream("Hi", **settings if where == "call" else {}).result()
    headers = server.requests[0].headers
    assert headers["anthropic-version"] == "2026-10-21"
    assert headers["anthropic-beta"] == "b1,b2"
    assert headers["x-mine"] == "1"


def test_the_version_of_the_messages_api(server: LLMServer) -> None:
    """The one that the dialect was written for."""
    with Client("messages", base_url=server.url, model="m") as client:
        client.stream("Hi").result()
    assert server.requests[0].headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_the_base_url_of_messages_may_have_the_version(server: LLMServer, end: str) -> None:
    """Both forms are in use; the path is the same."""
    with Client("messages", base_url=server.url + end, model="m") as client:
        client.stream("Hi").result()
    assert server.requests[0].path == "/v1/messages"


@pytest.mark.parametrize("base", ["/v1", "/gateway/x/v1"])
def test_a_query_of_the_base_url_is_kept(server: LLMServer, api: str, base: str) -> None:
    """Gateways take their version, or a tenant, there: it belongs behind the path."""
    with Client(api, base_url=f"{server.url}{base}?tenant=a", model="m") as client:
        client.stream("Hi").result()
    path = PATH[api].removeprefix("/v1").removeprefix("beta")
    assert server.requests[0].path == f"{base}{path}{'&' if '?' in path else '?'}tenant=a"


# ---- instructions and system turns -------------------------------------------------------------

SYSTEM = {"role": "system", "content": "From the list."}


def test_instructions(server: LLMServer, ask: Ask, api: str) -> None:
    """A field of its own, or the first turn of chat."""
    ask().stream("Hi", instructions="Be kind.").result()
    body = sent(server)
    user = {"role": "user", "content": "Hi"}
    expected = {
        "responses": (body.get("instructions"), body.get("input")) == ("Be kind.", "Hi"),
        "messages": (body.get("system"), body.get("messages")) == ("Be kind.", [user]),
        "chat": body.get("messages") == [{"role": "system", "content": "Be kind."}, user],
        "gemini": (body.get("systemInstruction"), body.get("contents"))
        == ({"parts": [{"text": "Be kind."}]}, [own(api, user)]),
    }
    assert expected[api], body


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_turn_in_the_prompt(server: LLMServer, ask: Ask, api: str, role: str) -> None:
    """Messages and Gemini have no such turn: there it joins the instructions, in their order."""
    prompt = [{"role": role, "content": "From the list."}, USER]
    ask().stream(prompt, instructions="Be kind.").result()
    body = sent(server)
    if api == "messages":
        assert body["system"] == "Be kind.\n\nFrom the list."
        assert body["messages"] == [USER]
    elif api == "gemini":
        texts = [{"text": "Be kind."}, {"text": "From the list."}]
        assert body["systemInstruction"] == {"parts": texts}
        assert body["contents"] == [own(api, USER)]
    else:
        assert turns(server, api)[-2:] == prompt
    assert prompt == [{"role": role, "content": "From the list."}, USER]


def test_system_turns_of_parts_stay_parts(server: LLMServer) -> None:
    """Their cache marks must not be lost."""
    marked = {"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}
    with Client("messages", base_url=server.url, model="m") as client:
        prompt = [{"role": "system", "content": [marked]}, USER]
        client.stream(prompt, instructions="Be kind.").result()
    assert sent(server)["system"] == [{"type": "text", "text": "Be kind."}, marked]


# ---- options -----------------------------------------------------------------------------------


def thinks(**fields: Any) -> dict[str, Any]:
    return {"generationConfig": {"thinkingConfig": fields}}


# option, value -> what arrives, per API (None: refused before anything is sent)
OPTIONS: list[tuple[dict[str, Any], dict[str, dict[str, Any] | None]]] = [
    (
        {"temperature": 0.0, "top_p": 0.5},
        {
            **{api: {"temperature": 0.0, "top_p": 0.5} for api in APIS},
            "gemini": {"generationConfig": {"temperature": 0.0, "topP": 0.5}},
        },
    ),
    ({"model": "other"}, {**{api: {"model": "other"} for api in APIS}, "gemini": {"model": None}}),
    (
        {"max_output_tokens": 7},
        {
            "responses": {"max_output_tokens": 7},
            "messages": {"max_tokens": 7},
            "chat": {"max_tokens": 7},
            "gemini": {"generationConfig": {"maxOutputTokens": 7}},
        },
    ),
    (
        {"stop": "END"},
        {
            "responses": None,
            "messages": {"stop_sequences": ["END"]},
            "chat": {"stop": "END"},
            "gemini": {"generationConfig": {"stopSequences": ["END"]}},
        },
    ),
    (
        {"stop": ["a", "b"]},
        {
            "responses": None,
            "messages": {"stop_sequences": ["a", "b"]},
            "chat": {"stop": ["a", "b"]},
            "gemini": {"generationConfig": {"stopSequences": ["a", "b"]}},
        },
    ),
    (
        {"background": True},
        {
            **dict.fromkeys(APIS),
            "responses": {"background": True, "store": True},
        },
    ),
    (
        {"thinking": True},
        {
            "responses": {"reasoning": {"summary": "auto"}},
            "messages": {"thinking": {"type": "adaptive"}},
            "chat": {"reasoning_effort": "medium"},
            "gemini": thinks(includeThoughts=True),
        },
    ),
    (
        {"thinking": "low"},
        {
            "responses": {"reasoning": {"effort": "low", "summary": "auto"}},
            "messages": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            "chat": {"reasoning_effort": "low"},
            "gemini": thinks(includeThoughts=True, thinkingLevel="LOW"),
        },
    ),
    (
        {"thinking": 2048},
        {
            "responses": None,
            "messages": {
                "thinking": {"type": "enabled", "budget_tokens": 2048},
                "max_tokens": 4096 + 2048,
            },
            "chat": None,
            "gemini": thinks(includeThoughts=True, thinkingBudget=2048),
        },
    ),
    (
        {"thinking": 2048, "max_output_tokens": 9000},
        {
            "responses": None,
            "messages": {
                "thinking": {"type": "enabled", "budget_tokens": 2048},
                "max_tokens": 9000,
            },
            "chat": None,
            "gemini": {
                "generationConfig": {
                    "maxOutputTokens": 9000,
                    "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 2048},
                }
            },
        },
    ),
    (
        {"thinking": 1023},
        {**dict.fromkeys(APIS), "gemini": thinks(includeThoughts=True, thinkingBudget=1023)},
    ),
    ({"thinking": -1}, dict.fromkeys(APIS)),
    ({"thinking": 1.5}, dict.fromkeys(APIS)),
    ({"thinking": ["low"]}, dict.fromkeys(APIS)),
    (
        {"thinking": {"any": "thing"}},
        {
            "responses": {"reasoning": {"any": "thing"}},
            "messages": {"thinking": {"any": "thing"}},
            "chat": None,
            "gemini": thinks(any="thing"),
        },
    ),
    (
        {"extra_body": {"seed": 5, "stream": True}},
        {api: {"seed": 5, "stream": True} for api in APIS},
    ),
    ({"max_output_tokens": 0}, dict.fromkeys(APIS)),
    ({"max_output_tokens": True}, dict.fromkeys(APIS)),
    ({"max_output_tokens": "7"}, dict.fromkeys(APIS)),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS, ids=lambda o: None)
def test_options(
    server: LLMServer,
    ask: Ask,
    api: str,
    options: dict[str, Any],
    expected: dict[str, dict[str, Any] | None],
) -> None:
    """Each in the API's own field, or refused with a ConfigurationError, never left out."""
    arrives = expected[api]
    if arrives is None:
        with pytest.raises(ConfigurationError):
            ask().stream("Hi", **options)
        assert server.requests == []
        return
    ask().stream("Hi", **options).result()
    body = sent(server)
    assert {name: body.get(name) for name in arrives} == arrives


BARE: dict[str, dict[str, Any]] = {
    "responses": {
        "model": "m",
        "input": "Hi",
        "stream": True,
        "stream_options": {"include_obfuscation": False},
    },
    "messages": {
        "model": "m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    },
    "chat": {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
}


@pytest.mark.parametrize("thinking", [None, False])
def test_what_is_not_said_is_not_sent(
    server: LLMServer, ask: Ask, api: str, thinking: bool | None
) -> None:
    """The smallest request is this and nothing else."""
    ask().stream("Hi", thinking=thinking).result()
    assert sent(server) == BARE[api]


PARTS: dict[str, list[Any]] = {
    "responses": [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:;base64,AA=="},
    ],
    "messages": [
        {"type": "text", "text": "What is it?", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
    ],
    "chat": [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ],
    "gemini": [
        {"text": "What is it?"},
        {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
        {"fileData": {"mimeType": "video/mp4", "fileUri": "https://youtu.be/x"}},
    ],
}


def test_parts_of_a_prompt_pass_untouched(server: LLMServer, ask: Ask, api: str) -> None:
    """Images, files and audio are the API's own affair, and any further key of a turn."""
    prompt = [{"role": "user", "content": PARTS[api], "name": "ada"}]
    if api == "gemini":  # which has no further key
        prompt = [{"role": "user", "parts": PARTS[api]}]
    ask().stream(prompt).result()
    assert turns(server, api) == prompt


# ---- odd arguments -----------------------------------------------------------------------------

ODD: list[Any] = [
    5,
    1.5,
    "x",
    b"x",
    [],
    {},
    [None],
    ["x"],
    [{}],
    [{"type": []}],
    [{"function": {}}],
    [{"functionDeclarations": 5}, {"functionDeclarations": [5, {}, {"parameters": []}]}],
    {"functionCallingConfig": {"mode": [], "allowedFunctionNames": 5}},
    {"type": 5},
    {"function": {"name": 5}},
    object(),
    {1: 2},
    float("nan"),
    10**30,
    "\ud800",
]


@every(
    "option",
    [
        *("instructions", "temperature", "top_p", "stop", "tools", "tool_choice"),
        *("thinking", "extra_body", "headers"),
    ],
)
def test_odd_options_are_refused_or_sent(api: str, option: str) -> None:
    """A mistake is a ConfigurationError: no TypeError of ours leaves the library."""
    client = Client(api, base_url="http://test", model="m", transport=FakeTransport())
    foreign = {}
    for value in ODD:
        try:
            client.stream("Hi", **{option: value})
        except ConfigurationError:
            pass
        except Exception as exc:
            foreign[repr(value)] = exc
    assert foreign == {}


@every("role", ["system", "user", None, 5])
def test_odd_turns_are_refused_or_sent(api: str, role: Any) -> None:
    """The same for the content of a turn."""
    client = Client(api, base_url="http://test", model="m", transport=FakeTransport())
    foreign = {}
    for value in [*ODD, None]:
        try:
            client.stream([{"role": role, "content": value}, USER], instructions="Be kind.")
        except ConfigurationError:
            pass
        except Exception as exc:
            foreign[repr(value)] = exc
    assert foreign == {}


# ---- odd events --------------------------------------------------------------------------------

SHAPES: list[Any] = [
    *(None, 0, -1, 10**30, 1.5, "", "x", True, [], {}, [None], [{}], {"a": None}),
    [{"type": "thinking", "thinking": [{"type": "text", "text": 7}]}],
]
RICH = Answer("One.", thinking="hm", refusal="no", tool_calls=[("f", '{"a":1}'), ("g", "{}")])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands inside a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(below, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], by)
    return copied


def distorted(answer: Answer, api: str, share: int) -> Iterator[bytes]:
    """The answer's stream with shapes at every place of an event, once per kind of event: with each
    shape, or at each place with one in `share`, others than at the place before."""
    blocks = answer.blocks(api)
    seen = set()
    number = 0
    for at, block in enumerate(blocks):
        head, _, data = block.partition(b"data: ")
        if data.startswith(b"[DONE]") or b".in_progress" in head:  # as response.created
            continue
        event = json.loads(data)
        paths = list(places(event))
        kind = (event.get("type"), tuple(paths))
        if kind in seen:
            continue
        seen.add(kind)
        for path in paths:
            number += 1
            for shape in SHAPES[number % share :: share]:
                changed = json.dumps(replaced(event, path, shape)).encode()
                middle = b"".join([head, b"data: ", changed, b"\n\n"])
                yield b"".join([*blocks[:at], middle, *blocks[at + 1 :]])


@pytest.mark.slow
@pytest.mark.parametrize("share", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("which", ["whole", "failing"])
def test_no_shape_of_an_event_brings_a_foreign_exception(api: str, which: str, share: int) -> None:
    """Anything at any place of any event: an outcome, a readable state, and a turn."""
    answer = RICH if which == "whole" else Answer("a", error={"code": "x", "message": "m"})
    dialect = ROWS[api].load()
    for data in distorted(answer, api, share):
        session = Session(dialect)
        events = session.receive(data)
        session.receive_eof()
        assert session.complete or session.error is not None
        state = session.state
        assert isinstance(state.text + state.thinking + state.refusal, str)
        assert all(call.arguments is not None for call in dialect.calls(state))
        json.dumps([item.wire() for item in state.in_order() if item.wire is not None])
        json.dumps(
            dialect.assistant_turn(state, frozenset(c.id for c in dialect.calls(state) if c.id))
        )
        assert all(isinstance(chunk, Chunk) for event in events for chunk in event.chunks)
