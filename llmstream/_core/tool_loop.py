"""The decisions of a run, in which the model calls tools until it answers: what follows an answer,
and the next prompt. Pure: answers and outcomes in, values out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..result import Result, ToolCall
from .outcome import Approval, ToolOutcome

__all__ = [
    "MAX_FAILURES",
    "Conversation",
    "Step",
    "WriteOutcomes",
    "after_answer",
    "after_calls",
    "forces_a_call",
]

MAX_FAILURES = 3  # turns in a row without one call that succeeded: so many are told to the model
_FINISHES = ("stop", "tool_calls")  # of answers whose calls may run
_NOT_RUN = "The call was not run, because the answer ended with {!r}."
_BROKEN = (
    "Your call of {!r} was not run, because its arguments are not JSON. If it is still needed, "
    "call it again, with the whole arguments."
)
_LONGEST_NAME = 64  # characters of a tool's name that the model has made up

WriteOutcomes = Callable[[Sequence["ToolOutcome | Approval"]], "list[Any]"]


class Step(Enum):
    """What a run does next."""

    ASK = "the next request is sent"
    CALLS = "the calls of the answer are made"
    END = "the answer is there"


class Conversation(Struct, frozen=True, kw_only=True):
    """How far a run is. Immutable: a run replaces it in one step, so any thread may read it.

    Args:
        messages: the turns so far, as the next prompt: each call in them has its outcome.
        turns: the answers so far.
        failures: the turns in a row, up to now, in which calls failed and none succeeded.
        step: what is next.
        answer: while `step` is CALLS, the assistant's turn, whose calls have no outcome yet.
        calls: its calls.
        approvals: what the service asks to be allowed to run itself.
        broken: the names of its calls that cannot be run, because their arguments do not parse.
            They are not part of the turn, so that they have no outcome: the model is told in words.
    """

    messages: tuple[Any, ...]
    turns: int = 0
    failures: int = 0
    step: Step = Step.ASK
    answer: tuple[Any, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    approvals: tuple[ToolCall, ...] = ()
    broken: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Conversation(turns={self.turns}, step={self.step.name})"  # never the prompt

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("turns", self.turns)]  # rich shows the variables of frames


def after_answer(
    so_far: Conversation, result: Result, approvals: Sequence[ToolCall], write: WriteOutcomes
) -> Conversation:
    """What follows an answer that is whole. `approvals` are what the service asks for in it;
    `write` writes outcomes as the turns of the API.

    Calls are made only after a finish that says so: never where a limit or a filter has cut the
    answer. These calls remain in the messages, with the outcome that they were not run.
    """
    turns = so_far.turns + 1
    answer = tuple(result.to_messages())
    if result.finish in _FINISHES:
        broken = tuple(call.name[:_LONGEST_NAME] for call in result.incomplete_tool_calls)
        calls = result.tool_calls if result.finish == "tool_calls" else ()
        if calls or approvals or (broken and result.finish == "tool_calls"):
            return replace(
                so_far,
                turns=turns,
                step=Step.CALLS,
                answer=answer,
                calls=calls,
                approvals=tuple(approvals),
                broken=broken,
            )
    not_run = [ToolOutcome(c, _NOT_RUN.format(result.finish), True) for c in result.tool_calls]
    messages = (*so_far.messages, *answer, *(write(not_run) if not_run and answer else ()))
    step = Step.ASK if result.finish == "pause" else Step.END
    return replace(so_far, messages=messages, turns=turns, step=step)


def after_calls(
    so_far: Conversation,
    outcomes: Sequence[ToolOutcome],
    approvals: Sequence[Approval],
    failed: Sequence[bool | None],
    write: WriteOutcomes,
) -> Conversation:
    """What follows the calls of an answer. `outcomes` are those of `calls`, in any order;
    `failed` says of each whether it failed, and has None for one that was refused, which is neither
    a failure nor a success."""
    by_id = {outcome.call.id: outcome for outcome in outcomes}
    ordered = [by_id[call.id] for call in so_far.calls]
    told = [_BROKEN.format(name) for name in so_far.broken]
    verdicts = [*failed, *(True for _ in told)]
    failures = so_far.failures
    if False in verdicts:
        failures = 0
    elif True in verdicts:
        failures += 1
    turns = write([*ordered, *approvals])
    if told:
        turns = [*turns, {"role": "user", "content": "\n".join(told)}]
    return Conversation(
        messages=(*so_far.messages, *so_far.answer, *turns),
        turns=so_far.turns,
        failures=failures,
    )


def forces_a_call(choice: Any) -> bool:
    """Whether a `tool_choice` lets the model do nothing but call a tool. In a run it holds for the
    first answer: with it in every prompt there would be no other answer."""
    if isinstance(choice, Mapping):
        inner = next((choice[name] for name in _CONFIGS if name in choice), choice)
        mode = inner.get("mode") if isinstance(inner, Mapping) else None
        if mode is not None or inner is not choice:  # a choice among some of the tools
            return _is_force(mode)
        return choice.get("type") not in ("auto", "none")
    return _is_force(choice)


_CONFIGS = ("functionCallingConfig", "function_calling_config")


def _is_force(word: Any) -> bool:
    return isinstance(word, str) and word.lower() in ("required", "any")
