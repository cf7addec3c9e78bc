"""The UI message stream, event by event. That the real clients read it so: test_node_clients.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from relayed import all_recordings, events_in, frames_of, parts_in

from llmstream import Client, ConfigurationError, relay
from llmstream.relay import BadRequest
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
)
from llmstream.relay.protocols import make_encoder
from llmstream.result import ToolCall, Usage
from llmstream.testing import Answer, FakeTransport

BEGIN = Begin("trace-1", "m")
VERSIONS = pytest.mark.parametrize("version", [5, 6, 7])

# What each version knows: the type of a chunk -> its fields, "?" where one may be absent. Of the
# schemas of ai 5.0.277, 6.0.326 and 7.0.173, as far as a relay uses them.
SCHEMA = {
    "start": "messageId messageMetadata",
    "start-step": "",
    "finish-step": "",
    "text-start": "id providerMetadata?",
    "text-delta": "id delta",
    "text-end": "id",
    "reasoning-start": "id",
    "reasoning-delta": "id delta",
    "reasoning-end": "id",
    "tool-input-start": "toolCallId toolName dynamic?",
    "tool-input-delta": "toolCallId inputTextDelta",
    "tool-input-available": "toolCallId toolName input dynamic?",
    "tool-input-error": "toolCallId toolName input dynamic? errorText",
    "data-llmstream": "data transient",
    "message-metadata": "messageMetadata",
    "error": "errorText",
    "abort": "",
    "finish": "finishReason messageMetadata?",
}
SINCE_6 = {"tool-input-start": "inputEncoding?", "abort": "reason?"}
SINCE_7 = {"reset-step": ""}
REASONS = {"stop", "length", "content-filter", "tool-calls", "other"}


def checked(version: int, chunk: Any) -> None:
    """A chunk is of the version's vocabulary, and has no null where a field is optional."""
    known = {**SCHEMA, **(SINCE_7 if version >= 7 else {})}
    assert chunk["type"] in known, chunk
    words = known[chunk["type"]] + " " + (SINCE_6.get(chunk["type"], "") if version >= 6 else "")
    fields = words.split()
    assert chunk.keys() - {"type"} <= {field.rstrip("?") for field in fields}, chunk
    assert {field for field in fields if field[-1] != "?"} <= chunk.keys(), chunk
    assert None not in [value for name, value in chunk.items() if name != "input"], chunk
    if chunk["type"] == "finish":
        assert chunk["finishReason"] in REASONS | ({"interrupted"} if version == 7 else set())


def sent(*parts: Part, version: int = 7, **options: Any) -> list[Any]:
    chunks = list(events_in(frames_of(parts, "ui-message", version, **options)))
    for chunk in chunks:
        checked(version, chunk)
    return chunks


def types(*parts: Part, version: int = 7) -> list[str]:
    return [chunk["type"] for chunk in sent(*parts, version=version)]


@VERSIONS
def test_recordings_are_in_the_vocabulary(version: int) -> None:
    for recording in all_recordings():
        sent(*parts_in(recording), version=version)


def test_an_answer() -> None:
    """Start, a step, a part for each stretch of one kind, finish."""
    usage = Usage(input_tokens=3, output_tokens=4)
    end = End(finish="stop", usage=usage, model="m-1", trace_id="trace-1")
    assert sent(BEGIN, Thinking("Hm"), Text("Hel"), Text("lo"), end) == [
        {
            "type": "start",
            "messageId": "msg-trace-1",
            "messageMetadata": {"trace_id": "trace-1", "model": "m", "complete": False},
        },
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "1"},
        {"type": "reasoning-delta", "id": "1", "delta": "Hm"},
        {"type": "reasoning-end", "id": "1"},
        {"type": "text-start", "id": "2"},
        {"type": "text-delta", "id": "2", "delta": "Hel"},
        {"type": "text-delta", "id": "2", "delta": "lo"},
        {"type": "text-end", "id": "2"},
        {"type": "finish-step"},
        {
            "type": "finish",
            "finishReason": "stop",
            "messageMetadata": {
                "trace_id": "trace-1",
                "model": "m-1",
                "finish": "stop",
                "usage": {"input_tokens": 3, "output_tokens": 4},
                "complete": True,
            },
        },
    ]


def test_the_end_is_marked() -> None:
    """Whatever the relay has ended itself; a body without the marker was cut."""
    for last in (
        End(),
        Failure(type="ServerError", message="x"),
        Failure(type="Cancelled", message="x"),
    ):
        assert frames_of([BEGIN, last], "ui-message")[-1] == "data: [DONE]\n\n"


@VERSIONS
def test_a_call(version: int) -> None:
    """Its arguments arrive as they are written; free text is named where the version can."""
    parts = [
        *(CallBegin("c", "get"), CallArguments("c", '{"a"'), CallArguments("c", ":1.50}")),
        *(CallBegin("k", "run", True), CallArguments("k", "ls"), CallEnd("k", "run", "ls", True)),
    ]
    chunks = sent(BEGIN, *parts, CallEnd("c", "get", '{"a":1.50}'), End(), version=version)[2:-2]
    encoding = {} if version == 5 else {"inputEncoding": "text"}
    dynamic = {"dynamic": True}
    assert chunks == [
        {"type": "tool-input-start", "toolCallId": "c", "toolName": "get", **dynamic},
        {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": '{"a"'},
        {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": ":1.50}"},
        {"type": "tool-input-start", "toolCallId": "k", "toolName": "run", **dynamic, **encoding},
        {"type": "tool-input-delta", "toolCallId": "k", "inputTextDelta": "ls"},
        {
            "type": "tool-input-available",
            "toolCallId": "k",
            "toolName": "run",
            "input": "ls",
            **dynamic,
        },
        {
            "type": "tool-input-available",
            "toolCallId": "c",
            "toolName": "get",
            "input": {"a": 1.5},
            **dynamic,
        },
    ]


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("12345678901234567890123", "12345678901234567890123"),
        ('{"a":\r\n1}', '{"a":  1}'),
        ('"{\\"a\\":1}"', '{"a":1}'),
        ('"{\\"n\\":123456789012345678901234}"', '{"n":123456789012345678901234}'),
        ('"text"', '"text"'),
        ("null", "null"),
        ("", "{}"),
        ('{"a":"\u2028"}', '{"a":"\\u2028"}'),
    ],
)
def test_inputs_are_written_as_the_service_wrote_them(arguments: str, written: str) -> None:
    """No number loses a digit; what a gateway has encoded twice is the object in it."""
    frames = frames_of([BEGIN, CallBegin("c", "f"), CallEnd("c", "f", arguments)], "ui-message")
    assert f'"input":{written},' in frames[-1]


def test_a_call_that_is_not_json_is_not_shown_as_whole() -> None:
    """Whoever has called it whole."""
    end = End(finish="tool_calls", tool_calls=(ToolCall("c", "f", "{"),))
    assert types(BEGIN, CallBegin("c", "f"), CallEnd("c", "f", "{"), end)[2:4] == [
        "tool-input-start",
        "tool-input-error",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"__proto__":{"x":1}}',
        '{"a":[{"\\u005f_proto__":1}]}',
        '"{\\"__proto__\\":1}"',
        '{"constructor":{"prototype":1}}',
    ],
)
def test_inputs_that_would_end_the_answer_at_the_client(arguments: str) -> None:
    """It takes no JSON that changes a prototype; so the page has the call as a failed one."""
    parts = [BEGIN, CallBegin("c", "f"), CallEnd("c", "f", arguments), Text("Hi"), End()]
    assert types(*parts)[3:6] == ["tool-input-error", "text-start", "text-delta"]
    fine = CallEnd("c", "f", '{"constructor":"x","prototype":"y","proto":"z"}')
    assert types(BEGIN, CallBegin("c", "f"), fine)[3] == "tool-input-available"


@VERSIONS
def test_an_end_is_the_end(version: int) -> None:
    """Nothing follows it, whatever comes."""
    for last in (
        End(),
        Failure(type="ServerError", message="It failed."),
        Failure(type="Cancelled", message="It was stopped."),
    ):
        frames = frames_of([BEGIN, Text("x"), last], "ui-message", version)
        more = [BEGIN, Text("x"), last, Text("y"), Restart(2), End()]
        assert frames_of(more, "ui-message", version) == frames


@VERSIONS
def test_a_failure_comes_after_its_details(version: int) -> None:
    """The client reads nothing after `error`; the part that is open stays open."""
    failure = Failure(
        type="RateLimitError", message="Too many.", retryable=True, trace_id="trace-1"
    )
    metadata, note, error = sent(BEGIN, Text("Half"), failure, version=version)[-3:]
    assert metadata["messageMetadata"] == {
        "trace_id": "trace-1",
        "error": "RateLimitError",
        "complete": False,
    }
    assert note["data"] == {"error": "RateLimitError", "retryable": True, "trace_id": "trace-1"}
    assert error == {"type": "error", "errorText": "Too many."}
    assert "text-end" not in types(BEGIN, Text("Half"), failure, version=version)


@pytest.mark.parametrize(
    ("version", "last"),
    [(5, ["abort"]), (6, ["abort"]), (7, ["abort", "finish"])],
)
def test_a_stop(version: int, last: list[str]) -> None:
    stopped = Failure(type="Cancelled", message="It was stopped.")
    assert types(BEGIN, Text("Half"), stopped, version=version)[4:] == ["message-metadata", *last]


def test_tools_that_the_page_knows() -> None:
    """Their parts are of the type "tool-NAME"."""
    parts = [BEGIN, CallBegin("c", "f"), CallEnd("c", "f", "{}"), CallBegin("d", "f"), End()]
    assert not [chunk for chunk in sent(*parts, dynamic=False) if "dynamic" in chunk]
    with pytest.raises(ConfigurationError, match="dynamic="):
        make_encoder("ui-message", dynamic=1)


def test_a_restart_empties_the_step() -> None:
    """And the page is told, beside it."""
    assert types(BEGIN, Text("Half"), Retry(2), Restart(2), Text("Anew"), End())[4:] == [
        "data-llmstream",
        "data-llmstream",
        "reset-step",
        "text-start",
        "text-delta",
        "text-end",
        "finish-step",
        "finish",
    ]


@pytest.mark.parametrize("version", [5, 6])
def test_versions_that_cannot_begin_anew(version: int) -> None:
    """The policy is refused at once; a restart that comes nevertheless is an error."""
    transport = FakeTransport(Answer("x"))
    with Client("chat", base_url="http://service/v1", model="m", transport=transport) as client:
        stream = client.stream("Hi", on_disconnect="restart")
        with pytest.raises(ConfigurationError, match="on_disconnect='restart'"):
            relay.sse(stream, "ui-message", version=version)
        relay.sse(stream, "ui-message", version=7).close()
    assert types(BEGIN, Text("x"), Restart(2), Text("y"), version=version)[-1] == "error"


def test_a_refusal_is_a_text_that_the_page_can_tell() -> None:
    start, *_ = sent(BEGIN, Refusal("No"), End(finish="refusal"))[2:]
    assert start["providerMetadata"] == {"llmstream": {"refusal": True}}


def test_finish_words() -> None:
    """An unknown word of a service is "other", and the page has the word itself."""
    words = {"pause": "other", "odd": "other", None: "other", "content_filter": "content-filter"}
    for word, reason in words.items():
        assert sent(BEGIN, End(finish=word))[-1]["finishReason"] == reason


def test_the_id_of_the_message() -> None:
    """Of the call, so that a replay has the same; the caller's; or of the message that goes on."""
    assistant = {"id": "a-1", "role": "assistant", "parts": []}
    user = {"id": "u-1", "role": "user", "parts": []}

    def id(**options: Any) -> Any:
        return sent(BEGIN, **options)[0]["messageId"]

    assert id() == "msg-trace-1"
    assert id(id="mine") == "mine"
    assert id(body={"messages": [user, assistant]}) == "a-1"
    assert id(body=json.dumps({"messages": [assistant, user]})) == "msg-trace-1"
    assert id(body={"messages": []}) == "msg-trace-1"
    for odd in ("", 5, "x" * 513):
        with pytest.raises(ConfigurationError, match="id="):
            make_encoder("ui-message", id=odd)
    with pytest.raises(BadRequest):
        make_encoder("ui-message", body={"messages": 5})


def test_headers() -> None:
    headers = relay.headers("ui-message", version=5)
    assert headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert headers["Content-Type"].startswith("text/event-stream")
    assert "connection" not in {name.lower() for name in headers}  # hop-by-hop (PEP 3333)
