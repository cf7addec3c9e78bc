"""AG-UI, event by event, and by the models of the protocol's own package. That the real client
reads it so: test_node_clients.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from relayed import all_recordings, events_in, frames_of, parts_in

from llmstream import ConfigurationError
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

core = pytest.importorskip("ag_ui.core")
pydantic = pytest.importorskip("pydantic")
EVENT = pydantic.TypeAdapter(core.Event)

BEGIN = Begin("trace-1", "m")
HISTORY = [{"id": "u-1", "role": "user", "content": "Hi"}]
POSTED = {"threadId": "T", "runId": "R", "messages": HISTORY}


def sent(*parts: Part, **options: Any) -> list[Any]:
    """The events, each as the models have it: no field more, and none lost."""
    events = list(events_in(frames_of(parts, "ag-ui", **options)))
    for event in events:
        model = EVENT.validate_json(json.dumps(event))
        again = json.loads(model.model_dump_json(by_alias=True, exclude_unset=True))
        assert again == event
    return events


def types(*parts: Part, **options: Any) -> list[str]:
    return [event["type"] for event in sent(*parts, **options)]


def test_the_models_take_every_recording() -> None:
    for recording in all_recordings():
        sent(*parts_in(recording))


def test_an_answer() -> None:
    usage = Usage(input_tokens=3, output_tokens=4, cached_tokens=1, cost=0.5)
    end = End(finish="stop", usage=usage, model="m-1", trace_id="trace-1")
    assert sent(BEGIN, Thinking("Hm"), Text("Hel"), Text("lo"), end, body=POSTED) == [
        {
            "type": "RUN_STARTED",
            "threadId": "T",
            "runId": "R",
            "protocolVersion": "1.0",
            "metadata": {"trace_id": "trace-1", "model": "m"},
        },
        {"type": "REASONING_START", "messageId": "msg-trace-1-1"},
        {"type": "REASONING_MESSAGE_START", "messageId": "msg-trace-1-1", "role": "reasoning"},
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": "msg-trace-1-1", "delta": "Hm"},
        {"type": "REASONING_MESSAGE_END", "messageId": "msg-trace-1-1"},
        {"type": "REASONING_END", "messageId": "msg-trace-1-1"},
        {"type": "TEXT_MESSAGE_START", "messageId": "msg-trace-1-2", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "msg-trace-1-2", "delta": "Hel"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "msg-trace-1-2", "delta": "lo"},
        {"type": "TEXT_MESSAGE_END", "messageId": "msg-trace-1-2"},
        {
            "type": "RUN_FINISHED",
            "threadId": "T",
            "runId": "R",
            "result": {"finish": "stop", "model": "m-1", "trace_id": "trace-1"},
            "outcome": {"type": "success"},
            "usage": [
                {"model": "m-1", "inputTokens": 3, "outputTokens": 4, "cachedInputTokens": 1}
            ],
        },
    ]


def test_the_wire_of_this_protocol() -> None:
    """The client's parser fails at CR and at `[DONE]`."""
    frames = frames_of([BEGIN, Text("a\r\nb"), End()], "ag-ui")
    assert all(frame.startswith("data: {") and frame.endswith("}\n\n") for frame in frames)
    assert not any("\r" in frame or "[DONE]" in frame for frame in frames)


def test_calls() -> None:
    """Each is a message of its own. Those that wait for an answer are named at the end."""
    calls = [
        *(CallBegin("a", "get"), CallArguments("a", '{"x"'), CallArguments("a", ":1}")),
        *(CallBegin("b", "now"), CallEnd("a", "get", '{"x":1}'), CallEnd("b", "now", "{}")),
    ]
    tools = (ToolCall("a", "get", '{"x":1}'), ToolCall("b", "now", "{}"))
    events = sent(BEGIN, Text("I look."), *calls, End(finish="tool_calls", tool_calls=tools))
    assert [(e["type"], e.get("toolCallId"), e.get("delta")) for e in events[3:-1]] == [
        ("TEXT_MESSAGE_END", None, None),
        ("TOOL_CALL_START", "a", None),
        ("TOOL_CALL_ARGS", "a", '{"x"'),
        ("TOOL_CALL_ARGS", "a", ":1}"),
        ("TOOL_CALL_START", "b", None),
        ("TOOL_CALL_END", "a", None),
        ("TOOL_CALL_ARGS", "b", "{}"),
        ("TOOL_CALL_END", "b", None),
    ]
    assert events[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["a", "b"]}


def test_a_call_under_the_id_of_an_older_one() -> None:
    """The client would add its arguments to the old call's."""
    old = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [*HISTORY, {"id": "m", "role": "assistant", "toolCalls": [old, {**old, "id": "a-2"}]}]
    tools = (ToolCall("a", "f", "{}"),)
    parts = [BEGIN, CallBegin("a", "f"), CallEnd("a", "f", "{}"), End(tool_calls=tools)]
    events = sent(*parts, body={"messages": history})
    assert {event["toolCallId"] for event in events[1:-1]} == {"a-3"}
    assert events[-1]["outcome"]["pendingToolCallIds"] == ["a-3"]


HALF = [CallBegin("c", "cut"), CallArguments("c", "{")]


def test_a_call_that_was_cut_is_taken_back_before_its_end() -> None:
    """The run needs the end; a client that finds no call under the id runs none."""
    assert types(BEGIN, *HALF, End(finish="length"))[3:5] == ["ACTIVITY_SNAPSHOT", "TOOL_CALL_END"]
    assert types(BEGIN, *HALF, Failure(type="ServerError", message="x"))[3:] == [
        "ACTIVITY_SNAPSHOT",
        "RUN_ERROR",
    ]


def test_a_failure() -> None:
    """Nothing may follow it; the half message is never ended."""
    failure = Failure(
        type="RateLimitError",
        message="Too many.",
        retryable=True,
        trace_id="trace-1",
        usage=Usage(output_tokens=4),
    )
    events = sent(BEGIN, Text("Half"), failure, Text("x"), End())
    assert events[3:] == [
        {
            "type": "RUN_ERROR",
            "message": "Too many.",
            "code": "RateLimitError",
            "usage": [{"outputTokens": 4}],
            "metadata": {"trace_id": "trace-1", "retryable": True},
        }
    ]


def test_a_stop() -> None:
    events = sent(BEGIN, Thinking("Hm"), *HALF, Failure(type="Cancelled", message="x"))
    assert events[-1]["outcome"] == {"type": "cancelled"}
    assert "RUN_ERROR" not in [event["type"] for event in events]


def test_an_end_of_a_run_that_another_has_begun() -> None:
    """Of a log whose producer is gone: whatever is open there, an error may follow."""
    assert types(Failure(type="Cancelled", message="It was stopped.")) == ["RUN_ERROR"]


def test_a_restart() -> None:
    """All that was shown is taken back; with a history the page has just that again."""
    parts = [BEGIN, Thinking("Hm"), Text("Half"), Retry(2, "ServerError", 0.4), Restart(2), End()]
    events = sent(*parts, body=POSTED)
    assert [event["type"] for event in events[8:-1]] == [
        "CUSTOM",
        "CUSTOM",
        "ACTIVITY_SNAPSHOT",
        "ACTIVITY_SNAPSHOT",
        "MESSAGES_SNAPSHOT",
        "TEXT_MESSAGE_END",
    ]
    assert events[12]["messages"] == HISTORY
    assert "MESSAGES_SNAPSHOT" not in types(*parts)  # it would empty the page
    assert make_encoder("ag-ui").shows_restart


def test_a_long_history_is_not_sent_back() -> None:
    long = {"messages": [{"id": "u", "role": "user", "content": "x" * 300_000}]}
    parts = [BEGIN, Text("Half"), Restart(2), Text("Anew"), End()]
    assert "MESSAGES_SNAPSHOT" in types(*parts, body=POSTED)
    assert "MESSAGES_SNAPSHOT" not in types(*parts, body=long)


def test_a_restart_before_anything_was_shown() -> None:
    assert types(BEGIN, Restart(2), Text("x"), End(), body=POSTED)[1:3] == [
        "CUSTOM",
        "TEXT_MESSAGE_START",
    ]


def test_a_refusal() -> None:
    start = sent(BEGIN, Refusal("No"), End(finish="refusal"))[1]
    assert start["metadata"] == {"refusal": True}


def test_counts_that_the_schema_has_not() -> None:
    """They would end the run."""
    usage = Usage(input_tokens=2**60, output_tokens=-1, total_tokens=5)
    assert sent(BEGIN, End(usage=usage))[-1]["usage"] == [{"totalTokens": 5}]
    assert "usage" not in sent(BEGIN, End(usage=Usage(input_tokens=2**60)))[-1]


def test_ids() -> None:
    """The caller's, those of the request, or those of the call."""
    assert sent(BEGIN, body={**POSTED, "runId": None})[0]["runId"] == "run-trace-1"
    assert sent(BEGIN)[0]["threadId"] == "thread-trace-1"
    assert sent(BEGIN, body=POSTED, thread_id="mine")[0]["threadId"] == "mine"
    for odd in ("", 5, "x" * 513):
        with pytest.raises(ConfigurationError, match="run_id="):
            make_encoder("ag-ui", run_id=odd)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        {"threadId": 5},
        {"messages": 5},
        {"messages": [5]},
        {"messages": [{"id": 5, "role": "user"}]},
        {"messages": [{"id": "x"}]},
        {"messages": [{"id": "x", "role": "user", "content": object()}]},
    ],
)
def test_bodies_that_are_wrong(body: Any) -> None:
    with pytest.raises(BadRequest):
        make_encoder("ag-ui", body=body)


def test_a_history_is_repeated_without_nulls() -> None:
    """Clients of other languages write them; the one that reads takes none."""
    message = {"id": "a", "role": "assistant"}
    posted = {"messages": [{**message, "content": None, "toolCalls": None}]}
    events = sent(BEGIN, Text("x"), Restart(2), End(), body=posted)
    (snapshot,) = [event for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
    assert snapshot["messages"] == [message]
