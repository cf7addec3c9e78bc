"""What follows an answer, and the next prompt: the pure decisions of a run."""

from __future__ import annotations

from typing import Any

import pytest
from every import every

from llmstream import Result, ToolCall
from llmstream._core.dialects import APIS
from llmstream._core.outcome import Approval, ToolOutcome
from llmstream._core.tool_loop import (
    Conversation,
    Step,
    after_answer,
    after_calls,
    forces_a_call,
)

START = Conversation(messages=({"role": "user", "content": "Hi"},))
CALLS = (ToolCall("a", "add", "{}"), ToolCall("b", "weather", "{}"))


def written(outcomes: Any) -> list[Any]:
    return [
        ("allowed", one.request.id, one.approve)
        if isinstance(one, Approval)
        else ("told", one.call.id, one.output, one.is_error)
        for one in outcomes
    ]


def answer(finish: str | None, calls: tuple[ToolCall, ...] = (), **more: Any) -> Result:
    return Result(finish=finish, tool_calls=calls, turn=("turn",), **more)


@every(
    "finish, calls, step",
    [
        ("stop", (), Step.END),
        ("length", (), Step.END),
        ("refusal", (), Step.END),
        ("content_filter", (), Step.END),
        ("anything", (), Step.END),
        (None, (), Step.END),
        ("pause", (), Step.ASK),
        ("tool_calls", CALLS, Step.CALLS),
        # calls that are whole in an answer that is not
        ("length", CALLS, Step.END),
        ("content_filter", CALLS, Step.END),
        ("anything", CALLS, Step.END),
        (None, CALLS, Step.END),
    ],
)
def test_what_follows_an_answer(
    finish: str | None, calls: tuple[ToolCall, ...], step: Step
) -> None:
    after = after_answer(START, answer(finish, calls), (), written)
    assert after.step is step
    assert after.turns == 1
    if step is Step.CALLS:
        assert (after.calls, after.answer, after.messages) == (calls, ("turn",), START.messages)
    elif calls:  # each call in the messages has its outcome
        words = f"The call was not run, because the answer ended with {finish!r}."
        told = [("told", call.id, words, True) for call in calls]
        assert after.messages == (*START.messages, "turn", *told)
    else:
        assert after.messages == (*START.messages, "turn")


def test_the_next_prompt_has_the_outcomes_in_the_order_of_the_calls() -> None:
    asked = (ToolCall("m", "search", "{}"),)
    calls = after_answer(START, answer("tool_calls", CALLS), asked, written)
    outcomes = [ToolOutcome(CALLS[1], "rain"), ToolOutcome(CALLS[0], "no", True)]
    after = after_calls(calls, outcomes, [Approval(asked[0], True)], [False, True], written)
    assert after.step is Step.ASK
    assert after.messages == (
        *START.messages,
        "turn",
        ("told", "a", "no", True),
        ("told", "b", "rain", False),
        ("allowed", "m", True),
    )
    assert (after.calls, after.approvals, after.answer) == ((), (), ())


def test_approval_is_asked_in_an_answer_without_calls() -> None:
    """The answer ends with "stop": what the service wants to run is no call of the caller's."""
    asked = (ToolCall("m", "search", "{}"),)
    after = after_answer(START, answer("stop"), asked, written)
    assert (after.step, after.calls, after.approvals) == (Step.CALLS, (), asked)
    assert after_answer(START, answer("length"), asked, written).step is Step.END


def test_the_model_is_told_of_calls_that_do_not_parse() -> None:
    """They are not in the turn, so that they have no outcome."""
    broken = (ToolCall("x", "add", '{"a": '),)
    result = answer("tool_calls", CALLS[:1], incomplete_tool_calls=broken)
    calls = after_answer(START, result, (), written)
    after = after_calls(calls, [ToolOutcome(CALLS[0], "3")], (), [False], written)
    assert after.messages[-1]["role"] == "user"
    assert "'add'" in after.messages[-1]["content"]
    assert after.failures == 0
    alone = after_answer(START, answer("tool_calls", incomplete_tool_calls=broken), (), written)
    assert alone.step is Step.CALLS
    assert after_calls(alone, (), (), (), written).failures == 1
    cut = after_answer(START, answer("length", incomplete_tool_calls=broken), (), written)
    assert cut.step is Step.END


@every(
    "verdicts, failures",
    [
        ([[True], [True], [True]], 3),
        ([[True], [True, False], [True]], 1),
        ([[True, True, True]], 1),
        ([[True], [None], [True]], 2),
        ([[None, None]], 0),
        ([[False], [False]], 0),
    ],
)
def test_failures_in_a_row_are_turns(verdicts: list[list[bool | None]], failures: int) -> None:
    """A success ends the row; a refusal is neither."""
    state = START
    for turn in verdicts:
        calls = tuple(ToolCall(str(n), "add", "{}") for n in range(len(turn)))
        state = after_answer(state, answer("tool_calls", calls), (), written)
        state = after_calls(state, [ToolOutcome(c, "") for c in calls], (), turn, written)
    assert state.failures == failures


@every(
    "choice, forces",
    [
        (None, False),
        ("auto", False),
        ("none", False),
        ("required", True),
        ("any", True),
        ({"type": "auto"}, False),
        ({"type": "none"}, False),
        ({"type": "any"}, True),
        ({"type": "tool", "name": "add"}, True),
        ({"type": "function", "function": {"name": "add"}}, True),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, False),
        ({"type": "allowed_tools", "mode": "required", "tools": []}, True),
        ("ANY", True),
        ("VALIDATED", False),
        ({"mode": "ANY"}, True),
        ({"mode": "AUTO"}, False),
        ({"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["add"]}}, True),
        ({"function_calling_config": {"mode": "any"}}, True),
        ({"functionCallingConfig": {"mode": "VALIDATED"}}, False),
        ({"functionCallingConfig": {}}, False),
    ],
)
def test_a_choice_that_forces_a_call(choice: Any, forces: bool) -> None:
    assert forces_a_call(choice) is forces


@every("api", ["responses", "messages", "chat", "gemini"])
def test_one_call_at_a_time_in_each_api(api: str) -> None:
    dialect = APIS[api].load()
    fields = dialect.serial_calls(None)
    if api == "messages":
        assert fields == {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
        assert dialect.serial_calls("none") == {}
        named = dialect.serial_calls({"type": "tool", "name": "add"})["tool_choice"]
        assert named == {"type": "tool", "name": "add", "disable_parallel_tool_use": True}
    else:
        assert fields == ({} if api == "gemini" else {"parallel_tool_calls": False})


def test_a_conversation_does_not_change() -> None:
    with pytest.raises(AttributeError):
        START.turns = 2  # type: ignore[misc]
