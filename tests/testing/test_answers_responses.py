"""What `Answer` becomes on the wire of the Responses API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corpus import WIRE
from raw_client import decode

from llmstream.testing import Answer

FIELDS = WIRE / "responses_events.json"


def types_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_answer_is_the_stream_of_the_responses_api() -> None:
    """The events, their order, their places, and the whole at the end."""
    events = decode(Answer("One two.", response_id="resp_9", model="m").blocks())
    assert types_of(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    created, completed = events[0]["response"], events[-1]["response"]
    assert (created["status"], created["output"], created["usage"]) == ("in_progress", [], None)
    assert (completed["id"], completed["model"]) == ("resp_9", "m")
    assert completed["status"] == "completed"
    assert completed["output"] == [events[-2]["item"]]
    assert completed["output"][0]["content"][0]["text"] == "One two."
    assert completed["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 34,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 46,
    }
    assert {event["item_id"] for event in events[3:8]} == {events[2]["item"]["id"]}


@pytest.mark.parametrize(
    ("text", "deltas"),
    [
        ("Hello, world!", ["Hello,", " world!"]),
        (" a\n\n b \t", [" a", "\n\n b", " \t"]),
        ("", []),
        (["Hel", "lo", ""], ["Hel", "lo", ""]),
    ],
)
def test_text_is_split_exactly(text: str | list[str], deltas: list[str]) -> None:
    """Word-like deltas whose join is the text; a list is taken as it is."""
    answer = Answer(text, thinking=text, refusal=text)
    assert answer.text_deltas == answer.thinking_deltas == answer.refusal_deltas == deltas


def test_usage_forms() -> None:
    """Cached and reasoning tokens may follow; with None no usage is sent."""
    full = decode(Answer("x", usage=(1, 2, 3, 4)).blocks())[-1]["response"]["usage"]
    assert full["input_tokens_details"] == {"cached_tokens": 3}
    assert full["output_tokens_details"] == {"reasoning_tokens": 4}
    assert decode(Answer("x", usage=None).blocks())[-1]["response"]["usage"] is None


def test_an_answer_with_everything() -> None:
    """Thinking, text with a refusal after it, and two calls: four kinds, three items and one."""
    answer = Answer(
        "See.",
        thinking="Let me think.",
        refusal="No.",
        tool_calls=[("f", '{"city": "Köln"}'), ("g", "{}", "call_x")],
        finish="tool_calls",
    )
    events = decode(answer.blocks())
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert output[0]["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    assert [part["type"] for part in output[1]["content"]] == ["output_text", "refusal"]
    assert output[1]["content"][1]["refusal"] == "No."
    assert [(c["name"], c["arguments"], c["call_id"]) for c in output[2:]] == [
        ("f", '{"city": "Köln"}', "call_test_0"),
        ("g", "{}", "call_x"),
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == output
    assert [event["output_index"] for event in events if "item" in event] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    for kind, index, whole in [
        ("reasoning_summary_text", 0, "Let me think."),
        ("output_text", 1, "See."),
        ("refusal", 1, "No."),
        ("function_call_arguments", 2, '{"city": "Köln"}'),
        ("function_call_arguments", 3, "{}"),
    ]:
        deltas = [
            event["delta"]
            for event in events
            if event["type"] == f"response.{kind}.delta" and event["output_index"] == index
        ]
        assert "".join(deltas) == whole


def test_item_events_nest() -> None:
    """Each item is added, filled and done before the next; parts likewise."""
    events = decode(Answer("a", thinking="b", refusal="c", tool_calls=[("f", "{}")]).blocks())
    assert types_of(events)[2:-1] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_incomplete_answer(finish: str, reason: str) -> None:
    """The last item and the response are incomplete, and say why."""
    events = decode(Answer("cut", thinking="x", finish=finish).blocks())
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": reason}
    assert response["status"] == response["output"][-1]["status"] == "incomplete"
    assert response["usage"]["total_tokens"] == 46


def test_an_answer_that_fails_in_the_stream() -> None:
    """The error event, nested as on the live wire, then the failed response; no ending."""
    error = {"code": "server_error", "message": "sorry"}
    events = decode(Answer(error=error).blocks())
    assert types_of(events) == ["created", "in_progress", "error", "failed"]
    assert events[2]["error"] == {**error, "type": None, "param": None}
    assert events[3]["response"]["status"] == "failed"
    assert events[3]["response"]["error"] == error


def test_an_answer_that_fails_after_some_content() -> None:
    """The content stands, and the last item stays open."""
    events = decode(Answer("a b", thinking="t", error={"type": "overloaded_error"}).blocks())
    assert types_of(events)[-4:] == ["output_text.delta", "output_text.delta", "error", "failed"]
    assert types_of(events).count("output_item.added") == 2
    assert types_of(events).count("output_item.done") == 1


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        (Answer(), ["message"]),
        (Answer(thinking="x"), ["reasoning"]),
        (Answer(tool_calls=[("f", "{}")]), ["function_call"]),
        (Answer(refusal="x"), ["message"]),
    ],
)
def test_which_items_an_answer_has(answer: Answer, kinds: list[str]) -> None:
    """An answer that says nothing at all is an empty message; others have what they say."""
    output = decode(answer.blocks())[-1]["response"]["output"]
    assert [item["type"] for item in output] == kinds


def test_mistakes_in_an_answer() -> None:
    """Each is refused where it is made."""
    with pytest.raises(ValueError, match="finish"):
        Answer(finish="end_turn")
    with pytest.raises(ValueError, match="usage"):
        Answer(usage=(1,))
    with pytest.raises(ValueError, match="tool call"):
        Answer(tool_calls=[("f",)])
    with pytest.raises(ValueError, match="no encoder for the API 'telepathy'"):
        Answer().blocks("telepathy")


def test_an_answer_always_gives_the_same_bytes() -> None:
    """No clock and no random numbers: two runs compare equal."""
    make = Answer("a b", thinking="c", tool_calls=[("f", "{}")]).blocks
    assert make() == make()


def test_every_event_has_the_fields_that_the_vendor_requires() -> None:
    """Checked against the table of event fields from the vendor's own package."""
    if not FIELDS.exists():
        pytest.skip(f"{FIELDS} is absent")
    known = json.loads(FIELDS.read_text())["responses_sse_events"]
    everything = Answer("a", thinking="b", refusal="c", tool_calls=[("f", "{}")])
    answers = [everything, Answer("x", finish="length"), Answer(error={"message": "m"})]
    for event in (event for answer in answers for event in decode(answer.blocks())):
        required = {field["name"] for field in known[event["type"]]["fields"] if field["required"]}
        if event["type"] == "error":
            required = {"type", "sequence_number"}  # nested on the live wire, flat in the table
        if event["type"] == "response.function_call_arguments.done":
            required.discard("name")  # the live wire has it in the item only
        assert required <= set(event), event["type"]
