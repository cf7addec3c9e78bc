"""Where the parts of a run are put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from msgspec import structs

from .._core.checks import CENTURY, checked_range, shown
from .._core.dialects.base import Dialect
from .._core.dialects.tools import function_tool
from .._core.timers import Timeouts
from .._core.tool_loop import MAX_FAILURES, Conversation, Step, forces_a_call
from .._outputs import NotSendable, output_of
from .._runtime.clock import Clock
from .._runtime.ids import random_id
from .._runtime.scope import NEVER
from .._settings.arguments import (
    checked_count,
    checked_flag,
    checked_prompt,
    checked_trace_id,
    of_type,
)
from ..errors import ConfigurationError
from ..result import Service
from ..telemetry.observer import Dispatcher
from ..telemetry.tool_reporter import ToolReporter
from .entries import Entry, OpenTurn
from .function import Tool, as_tools
from .loop import Loop, Place, Rules, TurnStream
from .run import Run
from .saved import SavedRun, conversation_of, copied, loaded, restore, result_of

__all__ = ["RunService", "make_run", "resume_run"]

_MOST_TURNS = 10_000
_ON_ERROR = ("tell", "raise")
# The options that a state has as plain data. The others that decide what a run does have to be
# given again when it is resumed.
_PLAIN = (
    *("max_turns", "parallel_tools", "tool_timeout", "on_tool_error"),
    *("model", "instructions", "max_output_tokens", "temperature", "top_p", "stop"),
    *("tool_choice", "thinking", "background", "on_disconnect", "output_retries"),
)
_NEEDED = ("approve", "output", "headers", "extra_body")
_OF_RUN = ("max_turns", "parallel_tools", "tool_timeout", "on_tool_error", "approve")


class RunService(NamedTuple):
    """What a run needs of its client. `keep` is called with what `Client.close` has to cancel."""

    stream: Callable[..., Any]
    dialect: Dialect
    service: Service
    clock: Clock
    timeouts: Timeouts
    dispatcher: Dispatcher
    keep: Callable[[Loop], None]


def make_run(client: RunService, prompt: Any, tools: Any, options: Mapping[str, Any]) -> Run:
    """The run of `Client.run`. Raises ConfigurationError."""
    prompt = checked_prompt(prompt)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    trace_id = checked_trace_id(options.get("trace_id")) or random_id(128)
    made = _Maker(client, tools, options, trace_id, prompt)
    try:
        messages = copied(prompt)  # as plain data of its own: the caller may go on to use the list
    except TypeError as exc:
        raise ConfigurationError(
            f"prompt: a run keeps it as JSON ({exc}): use plain dicts, lists and strings"
        ) from None
    return made.run(Place(Conversation(messages=tuple(messages))), [])


def resume_run(
    client: RunService,
    state: Any,
    tools: Any,
    outcomes: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Run:
    """The run of `Client.resume_run`. Raises ConfigurationError."""
    saved = loaded(state)
    known = _names(as_tools(tools))
    if missing := [name for name in saved.tools if name not in known]:
        raise ConfigurationError(
            f"tools: the run had {shown(missing[0])} too: pass the tools that it had, and more if "
            "you like"
        )
    if missing := [name for name in saved.needs if options.get(name) is None]:
        raise ConfigurationError(
            f"{missing[0]}: the run had this option, and its state does not: pass it again"
        )
    trace_id = checked_trace_id(options.get("trace_id")) or saved.trace_id
    made = _Maker(client, tools, {**saved.options, **options}, trace_id, saved.messages)
    conversation = conversation_of(saved)
    if conversation.failures > MAX_FAILURES:  # it goes on because the caller wants it to
        conversation = structs.replace(conversation, failures=0)
    turn, news = None, []
    if conversation.step is Step.CALLS:
        turn = OpenTurn(conversation.calls, conversation.approvals, made.tools)
        news = restore(turn, saved, _written(outcomes, turn))
        if turn.callers:
            call = turn.callers[0]
            raise ConfigurationError(
                f"outcomes: the call {shown(call.id)} of {shown(call.name)} is the caller's to "
                "run: pass outcomes={its id: what came of it}"
            )
    elif outcomes:
        raise ConfigurationError("outcomes: no call of this run is without one")
    return made.run(Place(conversation, turn, result_of(saved), saved.usage), news)


class _Maker:
    """The checked arguments of a run."""

    def __init__(
        self,
        client: RunService,
        tools: Any,
        options: Mapping[str, Any],
        trace_id: str,
        prompt: list[Any],
    ) -> None:
        self._client = client
        self._trace_id = trace_id
        given = as_tools(tools)
        self.tools = _names(given)
        limits = of_type(Timeouts, "timeouts", options.get("timeouts")) or client.timeouts
        total = limits.total
        self._rules = _checked_rules(options, NEVER if total is None else total)
        of_streams = {
            name: value
            for name, value in options.items()
            if name not in (*_OF_RUN, "trace_id") and value is not None
        }
        self._make_stream = partial(_make_stream, client, given, limits, of_streams, self._rules)
        # What cannot be sent is refused now. It touches no network.
        trial = self._make_stream(trace_id, prompt, 1, NEVER)
        self._model: str = trial.model
        plain = {name: options[name] for name in _PLAIN if options.get(name) is not None}
        plain |= {"model": self._model, "tool_timeout": self._rules.tool_timeout}
        self._plain = plain
        self._needs = [name for name in _NEEDED if options.get(name) is not None]

    def run(self, place: Place, news: list[Entry]) -> Run:
        client = self._client
        reporter = ToolReporter(
            client.dispatcher,
            trace_id=self._trace_id,
            api=client.service.api,
            host=client.service.host,
            model=self._model,
        )
        loop = Loop(
            partial(self._make_stream, self._trace_id),
            client.dialect,
            self.tools,
            self._rules,
            client.clock,
            reporter,
            place,
            news,
        )
        client.keep(loop)
        return Run(loop, self._describe)

    def _describe(self) -> SavedRun:
        return SavedRun(
            version=1,
            api=self._client.service.api,
            trace_id=self._trace_id,
            messages=[],
            tools=[*self.tools],
            options=self._plain,
            needs=self._needs,
        )


def _make_stream(
    client: RunService,
    tools: list[Any],
    limits: Timeouts,
    options: Mapping[str, Any],
    rules: Rules,
    trace_id: str,
    messages: list[Any],
    number: int,
    left: float,
) -> TurnStream:
    """The stream of an answer: with the time that is left to the run."""
    own = dict(options)
    choice = own.get("tool_choice")
    if number > 1 and forces_a_call(choice):
        choice = own["tool_choice"] = "auto"
    if left < NEVER:
        own["timeouts"] = structs.replace(limits, total=left)
    if tools and not rules.parallel_tools:
        extra = own.get("extra_body")
        if extra is None or isinstance(extra, Mapping):
            own["extra_body"] = {**client.dialect.serial_calls(choice), **(extra or {})}
    made: TurnStream = client.stream(messages, tools=tools or None, trace_id=trace_id, **own)
    return made


def _names(tools: list[Tool | Mapping[str, Any]]) -> dict[str, Tool | None]:
    """The tools by their names; None for one that was declared without a function."""
    named: dict[str, Tool | None] = {}
    for tool in tools:
        if isinstance(tool, Tool):
            named[tool.name] = tool
            continue
        name = (function_tool(tool) or tool).get("name")
        if isinstance(name, str):
            named.setdefault(name, None)
    return named


def _checked_rules(options: Mapping[str, Any], total: float) -> Rules:
    seconds = options.get("tool_timeout")
    on_error = options.get("on_tool_error", "tell")
    if not isinstance(on_error, str) or on_error not in _ON_ERROR:
        raise ConfigurationError(f"on_tool_error={shown(on_error)}: use one of {[*_ON_ERROR]}")
    return Rules(
        max_turns=checked_count("max_turns", options.get("max_turns", 10), _MOST_TURNS),
        parallel_tools=checked_flag("parallel_tools", options.get("parallel_tools", True)),
        tool_timeout=None
        if seconds is None
        else checked_range("tool_timeout", seconds, 0.001, CENTURY),
        approve=_checked_approve(options.get("approve")),
        on_tool_error=on_error,
        total=total,
    )


def _checked_approve(approve: Any) -> Any:
    if approve is None:
        return None
    if inspect.iscoroutinefunction(approve):
        raise ConfigurationError("approve is an async function: pass one that returns the decision")
    if not callable(approve):
        raise ConfigurationError(
            f"approve={shown(approve)}: pass a function that takes a ToolCall, and returns True, "
            "False, or the reason of a refusal"
        )
    return approve


def _written(outcomes: Any, turn: OpenTurn) -> dict[str | None, tuple[Any, str | list[Any]]]:
    """What the caller knows of the calls that have no outcome: the value and what is sent."""
    if outcomes is None:
        return {}
    if not isinstance(outcomes, Mapping):
        raise ConfigurationError("outcomes: pass a dict of the ids of calls and what came of them")
    known = {entry.call.id for entry in turn.entries}
    written: dict[str | None, tuple[Any, str | list[Any]]] = {}
    for id, value in outcomes.items():
        if id not in known:
            raise ConfigurationError(f"outcomes: no open call has the id {shown(id)}")
        try:
            written[id] = (value, output_of(value))
        except NotSendable as exc:
            raise ConfigurationError(f"outcomes[{shown(id)}] cannot be sent: {exc}") from None
    return written
