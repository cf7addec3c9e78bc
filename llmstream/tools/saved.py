"""The state of a run as plain data, which JSON and pickle can hold, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from .._core.checks import checked_json, shown
from .._core.outcome import Approval, ToolOutcome
from .._core.tool_loop import Conversation, Step
from ..errors import ConfigurationError
from ..result import Result, ToolCall, Usage
from .entries import Entry, OpenTurn
from .failures import ToolInterrupted

__all__ = [
    "SavedRun",
    "conversation_of",
    "loaded",
    "restore",
    "saved_answer",
]

_VERSION = 1
_StepName = Literal["ask", "calls", "end"]
_WORDS: dict[Step, _StepName] = {Step.ASK: "ask", Step.CALLS: "calls", Step.END: "end"}
_STEPS = {word: step for step, word in _WORDS.items()}


class _Call(Struct, kw_only=True):
    """A call of the answer whose calls are being made. "started": it was begun, and has no
    outcome: it may have had its effect."""

    id: str
    name: str
    arguments: str
    custom: bool = False
    status: Literal["waiting", "started", "finished"] = "waiting"
    output: str | list[Any] = ""
    is_error: bool = False
    failed: bool | None = False


class _Request(Struct, kw_only=True):
    """What the service asks to be allowed to run; `approve` is None as long as nobody was asked."""

    id: str | None
    name: str
    arguments: str
    approve: bool | None = None
    reason: str | None = None


class _Answer(Struct, kw_only=True):
    """The latest answer."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    finish: str | None = None
    usage: Usage = Usage()
    model: str | None = None
    response_id: str | None = None
    request_id: str | None = None


class SavedRun(Struct, kw_only=True):
    """A run, see `Run.state`.

    `options` are those of the run that are plain data, `needs` the names of the others that it was
    given and that decide what it does: they have to be given again. `tools` are the names of its
    tools.
    """

    version: int
    api: str
    trace_id: str
    messages: list[Any]
    turns: int = 0
    failures: int = 0
    step: _StepName = "ask"
    answer: list[Any] = []
    calls: list[_Call] = []
    approvals: list[_Request] = []
    broken: list[str] = []
    latest: _Answer | None = None
    usage: Usage = Usage()
    tools: list[str] = []
    options: dict[str, Any] = {}
    needs: list[str] = []

    def __repr__(self) -> str:
        return f"SavedRun({self.trace_id})"  # never the prompt


def fill(
    saved: SavedRun, conversation: Conversation, turn: OpenTurn | None, *, ended: bool
) -> None:
    """Set the fields of a SavedRun that say how far it is. `ended`: what was announced and not
    begun will not begin."""
    saved.messages = list(conversation.messages)
    saved.turns = conversation.turns
    saved.failures = conversation.failures
    saved.step = _WORDS[conversation.step]
    saved.answer = list(conversation.answer)
    saved.broken = list(conversation.broken)
    if turn is None or conversation.step is not Step.CALLS:
        return
    saved.calls = [_saved_call(entry, ended) for entry in turn.entries]
    answered = {one.request.id: one for one in turn.approvals or ()}
    for request in turn.requests:
        kept = _Request(id=request.id, name=request.name, arguments=request.arguments)
        answer = answered.get(request.id)
        if answer is not None:
            kept.approve, kept.reason = answer.approve, answer.reason
        saved.approvals.append(kept)


def _saved_call(entry: Entry, ended: bool) -> _Call:
    call, outcome = entry.call, entry.outcome
    saved = _Call(id=call.id or "", name=call.name, arguments=call.arguments, custom=call.custom)
    if outcome is not None:
        saved.status, saved.output = "finished", outcome.output
        saved.is_error, saved.failed = outcome.is_error, entry.failed
    elif entry.begun or (entry.announced and not ended):
        saved.status = "started"
    return saved


def saved_answer(result: Result) -> Any:
    """The latest answer, for a SavedRun."""
    return _Answer(
        **{name: getattr(result, name) for name in _Answer.__struct_fields__},
    )


def copied(value: Any) -> Any:
    """As dicts, lists, strings and numbers, which share nothing with it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def loaded(state: Any) -> SavedRun:
    """A SavedRun from what `Run.state` has returned. Raises ConfigurationError."""
    if not isinstance(state, Mapping):
        raise ConfigurationError(
            f"state={shown(state)}: pass the dict that Run.state() has returned; decode it where "
            "it was kept as JSON"
        )
    checked_json("state", state)
    if state.get("version") != _VERSION:
        raise ConfigurationError(
            f"state: version {shown(state.get('version'))} is not known: pass what Run.state() of "
            "this version of the library has returned"
        )
    try:
        saved = msgspec.convert(dict(state), SavedRun)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"state: pass what Run.state() has returned ({exc})") from None
    if saved.step != "end" and not saved.messages:
        raise ConfigurationError("state: it has no messages: pass what Run.state() has returned")
    return saved


def conversation_of(saved: SavedRun) -> Conversation:
    """How far the run was."""
    return Conversation(
        messages=tuple(saved.messages),
        turns=saved.turns,
        failures=saved.failures,
        step=_STEPS[saved.step],
        answer=tuple(saved.answer),
        calls=tuple(ToolCall(c.id, c.name, c.arguments, c.custom) for c in saved.calls),
        approvals=tuple(ToolCall(r.id, r.name, r.arguments) for r in saved.approvals),
        broken=tuple(saved.broken),
    )


def result_of(saved: SavedRun) -> Result | None:
    """The latest answer, without its items and attempts."""
    answer = saved.latest
    if answer is None:
        return None
    known = {name: getattr(answer, name) for name in answer.__struct_fields__}
    return Result(**known, trace_id=saved.trace_id)


def restore(turn: OpenTurn, saved: SavedRun, outcomes: Mapping[str | None, Any]) -> list[Entry]:
    """Give the calls of the open turn the outcomes that they had, or that the caller knows
    (`outcomes`). A call that was begun and has none has failed: nobody knows how far it came.
    Returns the entries whose end is news."""
    news: list[Entry] = []
    for entry, known in zip(turn.entries, saved.calls, strict=True):
        if known.status == "finished":
            outcome = ToolOutcome(entry.call, known.output, known.is_error)
            entry.restore(outcome, known.failed)
        elif entry.call.id in outcomes:
            entry.claim()
            entry.finish(*outcomes[entry.call.id])
            news.append(entry)
        elif known.status == "started":
            entry.claim()
            entry.fail(ToolInterrupted())
            news.append(entry)
    if saved.approvals and all(one.approve is not None for one in saved.approvals):
        turn.approvals = tuple(
            Approval(request, bool(one.approve), one.reason)
            for request, one in zip(turn.requests, saved.approvals, strict=True)
        )
    return news
