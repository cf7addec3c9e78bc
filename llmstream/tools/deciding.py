"""What of a turn may run: the arguments are checked, and whoever may allow calls is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._core.checks import shown
from .._core.outcome import Approval
from ..errors import ConfigurationError
from ..result import ToolCall
from .entries import Entry, OpenTurn
from .failures import ToolRefused, UnknownTool
from .function import Tool

__all__ = ["Approve", "decide"]

Approve = Callable[[ToolCall], Any]


def decide(
    turn: OpenTurn,
    tools: Mapping[str, Tool | None],
    approve: Approve | None,
    check: Callable[[], object],
) -> list[Entry]:
    """Check the arguments of all calls of the turn, and ask `approve` for everything that may run,
    before anything of it runs. Returns the calls that have their outcome by that: those that cannot
    run, and refused ones. `check` is called after each question, and may raise.

    Raises ConfigurationError where there is nobody to ask, or the answer is none.
    """
    if turn.approvals is None and approve is None:
        raise ConfigurationError(
            f"the service asks whether it may run {shown(turn.requests[0].name)} itself: pass "
            "approve=, a function that decides it, or let its tool require no approval; "
            "Run.state() goes on from here"
        )
    decided = []
    left = [entry for entry in turn.entries if entry.outcome is None and not entry.is_callers]
    for entry in left:
        if (failure := _bind(entry, tools)) is not None and entry.claim():
            entry.fail(failure)
            decided.append(entry)
    refusals: list[tuple[Entry, str | None]] = []
    approvals: list[Approval] = []
    if approve is not None:
        for entry in left:
            if entry.outcome is None:
                allowed, reason = _asked(approve, entry.call, check)
                refusals += [] if allowed else [(entry, reason)]
        for request in turn.requests if turn.approvals is None else ():
            approvals.append(Approval(request, *_asked(approve, request, check)))
    for entry, reason in refusals:
        entry.claim()
        entry.fail(ToolRefused(reason))
        decided.append(entry)
    if turn.approvals is None:
        turn.approvals = tuple(approvals)
    return decided


def _bind(entry: Entry, tools: Mapping[str, Tool | None]) -> BaseException | None:
    """Check a call's arguments. Returns why it cannot run."""
    if entry.tool is None:
        return UnknownTool(entry.call, [*tools])
    try:
        entry.bound = entry.tool.bind(entry.call.arguments)
    except Exception as exc:  # a validator of the application's own may raise anything
        return exc
    return None


def _asked(
    approve: Approve, call: ToolCall, check: Callable[[], object]
) -> tuple[bool, str | None]:
    answer = approve(call)
    check()
    if isinstance(answer, bool):
        return answer, None
    if isinstance(answer, str):
        return False, answer or None
    raise ConfigurationError(
        f"approve returned {shown(answer)}: it has to return True, or False, or the reason of a "
        "refusal as a text; no call of this turn has run"
    )
