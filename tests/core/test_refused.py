"""What a server refuses by name is left out of the request, or named as the server wants it, in
every form of its error; nothing that the answer depends on is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every

from llmstream._core.classify import error_from_payload, error_from_status
from llmstream._core.dialects import APIS
from llmstream._core.request import HTTPRequest
from llmstream.errors import ConnectionFailed

EXTRA = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": {"a": 1}}


def refusals(name: str) -> dict[str, tuple[int | None, Any]]:
    """The ways in which servers refuse the field `name`: status (None: inside a stream), body."""
    entry = {**EXTRA, "loc": ["body", name]}
    words = {
        "OpenAI": f"Unrecognized request argument supplied: {name}",
        "OpenAI, newer": f"Unknown parameter: '{name}'.",
        "OpenAI, models": f"Unsupported parameter: '{name}' is not supported with this model.",
        "pydantic": f"{name}: Extra inputs are not permitted",
        "pydantic, text": f"1 validation error for R\n{name}\n  Extra inputs are not permitted "
        "[type=extra_forbidden, input_value={'a': 1}, input_type=dict]",
        "vLLM": str([{**EXTRA, "loc": ("body", name)}]),
        "Groq": f"property '{name}' is unsupported",
        "Google": f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.',
        "JSON schema": f"Additional properties are not allowed ('{name}' was unexpected)",
        "Go": f'json: unknown field "{name}"',
        "serde": f"unknown field `{name}`, expected one of `a`, `b`",
        "Python": f"create() got an unexpected keyword argument '{name}'",
        "litellm": f"litellm.UnsupportedParamsError: m does not support parameters: ['{name}']",
    }
    found: dict[str, tuple[int | None, Any]] = {
        form: (400, {"error": {"message": text, "type": "invalid_request_error"}})
        for form, text in words.items()
    }
    return {
        **found,
        "param": (400, {"error": {"message": "no", "param": name, "code": "unknown_parameter"}}),
        "a text": (400, {"detail": f"{name} is not supported"}),
        "detail": (422, {"detail": [entry]}),
        "the second of a detail": (422, {"detail": [{"loc": ["body", "n"], "msg": "no"}, entry]}),
        "message.detail": (422, {"object": "error", "message": {"detail": [entry]}}),
        "a list": (422, [entry]),
        "in a 500": (500, {"detail": f"Error code: 400 - { ({'detail': [entry]}) }"}),
        "in a 500 without a status": (500, {"error": f"unknown field: {name}"}),
        "inside the stream": (None, {"error": {"message": f"Unknown parameter: '{name}'"}}),
    }


def request(**fields: Any) -> HTTPRequest:
    return HTTPRequest("POST", "http://test", {"a": "b"}, json.dumps(fields).encode())


def asked(api: str, status: int | None, payload: Any, **fields: Any) -> Any:
    """The body that is asked again with, or None."""
    if status is None:
        error = error_from_payload(payload)
    else:
        error = error_from_status(status, json.dumps(payload).encode(), {}, 0.0)
    simpler = APIS[api].load().without_refused_option(request(**fields), error)
    if simpler is None:
        return None
    assert (simpler.url, simpler.headers) == ("http://test", {"a": "b"})
    return json.loads(simpler.body)


OPTIONS = {"include_usage": True}
PADDING = {"include_obfuscation": False}


@every("api", APIS)
@every("form", refusals("x"))
def test_stream_options_are_left_out(api: str, form: str) -> None:
    status, payload = refusals("stream_options")[form]
    fields = {"model": "m", "temperature": 0.5, "stop": ["a"]}
    assert asked(api, status, payload, **fields, stream_options=OPTIONS) == fields
    assert asked(api, status, payload, **fields) is None  # nothing to leave out


@every("api", APIS)
@every("form", refusals("x"))
def test_a_part_of_the_stream_options_is_left_out(api: str, form: str) -> None:
    """Only what is refused goes, and the options once nothing is in them."""
    status, payload = refusals("include_obfuscation")[form]
    assert asked(api, status, payload, a=1, stream_options=PADDING) == {"a": 1}
    both = {**PADDING, **OPTIONS}
    assert asked(api, status, payload, a=1, stream_options=both) == {
        "a": 1,
        "stream_options": OPTIONS,
    }


def test_a_part_in_its_place() -> None:
    entry = {**EXTRA, "loc": ["body", "stream_options", "include_obfuscation"]}
    both = {**PADDING, **OPTIONS}
    found = asked("responses", 422, {"detail": [entry]}, stream_options=both)
    assert found == {"stream_options": OPTIONS}


LIMITS = ["max_tokens", "max_completion_tokens"]


@every(("name", "other"), [LIMITS, LIMITS[::-1]])
@every("form", refusals("x"))
def test_the_limit_has_the_name_that_the_server_knows(name: str, other: str, form: str) -> None:
    """On chat, whose limit has two names; not where one of them means something else."""
    status, payload = refusals(name)[form]
    assert asked("chat", status, payload, **{name: 5}) == {other: 5}
    assert asked("chat", status, payload, **{name: 5, other: 7}) == {other: 7}
    assert asked("chat", status, payload, **{other: 5}) is None
    for api in ("responses", "messages", "gemini"):
        assert asked(api, status, payload, **{name: 5}) is None


def test_a_server_that_names_both() -> None:
    openai = "Unsupported parameter: 'max_tokens' is not supported with this model. "
    for words in (
        openai + "Use 'max_completion_tokens' instead.",
        "'max_tokens' is deprecated, use max_completion_tokens instead",
        "Please use max_completion_tokens instead of 'max_tokens'",
    ):
        payload = {"error": {"message": words, "param": "max_tokens"}}
        assert asked("chat", 400, payload, max_tokens=5) == {"max_completion_tokens": 5}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("max_tokens is too large: 100000. This model supports at most 4096.", "invalid_value"),
        ("Invalid 'max_tokens': integer below minimum value.", "integer_below_min_value"),
        ("Unsupported value: 'max_tokens' has to be 1.", "unsupported_value"),
        ("The sum of max_tokens and the prompt exceeds the context.", None),
    ],
)
def test_a_wrong_value_is_not_a_refused_name(words: str, code: str | None) -> None:
    payload = {"error": {"message": words, "param": "max_tokens", "code": code}}
    assert asked("chat", 400, payload, max_tokens=5) is None


@every("api", APIS)
@every("form", refusals("x"))
@every("name", ["temperature", "top_p", "tools", "tool_choice", "stop", "seed"])
def test_what_the_answer_depends_on_stays(api: str, form: str, name: str) -> None:
    """The caller is told instead."""
    status, payload = refusals(name)[form]
    fields = {name: 1, "stream_options": OPTIONS, "max_tokens": 5}
    assert asked(api, status, payload, **fields) is None


ENCRYPTED = "reasoning.encrypted_content"


@every("form", refusals("x"))
def test_a_server_that_does_not_encrypt_reasoning(form: str) -> None:
    """What the library asks for beside `store: false` goes, the caller's own `include` stays."""
    for name in ("include", ENCRYPTED):
        status, payload = refusals(name)[form]
        fields = {"stream_options": PADDING, "store": False}
        assert asked("responses", status, payload, include=[ENCRYPTED], **fields) == fields
        found = asked("responses", status, payload, include=["a", ENCRYPTED])
        assert found == {"include": ["a"]}
        assert asked("responses", status, payload, include=["a"]) is None


def test_a_refused_part_is_not_taken_for_another_option() -> None:
    """`include_obfuscation` contains the word include."""
    status, payload = refusals("include_obfuscation")["OpenAI"]
    found = asked("responses", status, payload, include=[ENCRYPTED], stream_options=PADDING)
    assert found == {"include": [ENCRYPTED]}


def test_what_is_no_refusal() -> None:
    """Another failure, another kind of error, a request without a body."""
    dialect = APIS["chat"].load()
    named = {"error": {"message": "stream_options"}}
    for status in (401, 403, 404, 429, 500, 503):
        assert asked("chat", status, named, stream_options=OPTIONS) is None
    refused = error_from_status(400, json.dumps(named).encode(), {}, 0.0)
    for body in (b"", b"{]", b"[]", b'"stream_options"'):
        assert dialect.without_refused_option(HTTPRequest("GET", "u", {}, body), refused) is None
    lost = ConnectionFailed("stream_options is not supported")
    assert dialect.without_refused_option(request(stream_options=OPTIONS), lost) is None


# ---- tools that the library has made strict ----------------------------------------------------

MESSAGES_TOOL = {"name": "f", "input_schema": {}, "strict": True}
RESPONSES_TOOL = {"type": "function", "name": "f", "parameters": {}, "strict": True}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": {}, "strict": True}}
TOOLS = {"messages": MESSAGES_TOOL, "responses": RESPONSES_TOOL, "chat": CHAT_TOOL}
# The words of services to which a strict schema was too much, or which want all tools the same.
TOO_MUCH = [
    "The compiled grammar is too large. Simplify your tool schemas.",
    "Schema is too complex for compilation. Try reducing the number of tools.",
    "Schemas contains too many optional parameters (87): grammar compilation is inefficient.",
    "Invalid schema for function 'f': In context=('properties', 'a'), 'pattern' is not permitted.",
    "All tools of a request must have the same value of strict.",
    "'claude-3-haiku' does not support strict tools",
]


def asked_about_tools(api: str, status: int, message: str, tools: list[Any], **more: Any) -> Any:
    error = error_from_status(status, json.dumps({"error": {"message": message}}).encode(), {}, 0.0)
    sent = HTTPRequest("POST", "u", {}, json.dumps({"tools": tools}).encode(), **more)
    simpler = APIS[api].load().without_refused_option(sent, error)
    return simpler and (json.loads(simpler.body)["tools"], simpler.strict)


@every("api", TOOLS)
@every("words", TOO_MUCH)
def test_strict_is_not_asked_again(api: str, words: str) -> None:
    """Where the schema is too much for the service. The caller checks the arguments anyway; where a
    schema without the field counts as strict, it says that it is not."""
    for status in (400, 422):
        tools, strict = asked_about_tools(api, status, words, [TOOLS[api]], strict=("f",))
        inner = tools[0].get("function", tools[0])
        if api == "messages":
            assert "strict" not in inner
        elif "strict tools" not in words:
            assert inner["strict"] is False
        assert not inner.get("strict")
        assert asked_about_tools(api, status, words, tools, strict=strict) is None


@every("api", TOOLS)
@every("form", refusals("strict"))
def test_a_service_that_does_not_know_strict(api: str, form: str) -> None:
    """Then the field itself is left out, in every form of the error."""
    status, payload = refusals("strict")[form]
    if status is None:
        error = error_from_payload(payload)
    else:
        error = error_from_status(status, json.dumps(payload).encode(), {}, 0.0)
    tools = [TOOLS[api], {"type": "function", "name": "g", "parameters": {}, "strict": False}]
    body = json.dumps({"tools": tools}).encode()
    sent = HTTPRequest("POST", "u", {}, body, strict=("f", "g"))
    simpler = APIS[api].load().without_refused_option(sent, error)
    assert simpler is not None
    assert b"strict" not in simpler.body


@every("api", TOOLS)
def test_what_the_caller_has_made_strict_stays(api: str) -> None:
    """And so does everything after an error that is about something else."""
    words = TOO_MUCH[0]
    assert asked_about_tools(api, 400, words, [TOOLS[api]]) is None
    assert asked_about_tools(api, 400, words, [TOOLS[api]], strict=("g",)) is None
    for status in (401, 429, 500):
        assert asked_about_tools(api, status, words, [TOOLS[api]], strict=("f",)) is None
    assert asked_about_tools(api, 400, "no such model", [TOOLS[api]], strict=("f",)) is None


def test_a_service_that_does_not_know_eager_tools() -> None:
    """How the arguments are streamed is nothing that the answer depends on."""
    name = "eager_input_streaming"
    eager = {"name": "f", "input_schema": {}, name: True}
    message = f"tools.0.custom.{name}: Extra inputs are not permitted"
    tools, _ = asked_about_tools("messages", 400, message, [eager, {"type": "other"}])
    assert tools == [{"name": "f", "input_schema": {}}, {"type": "other"}]
    assert asked_about_tools("messages", 400, message, tools) is None
