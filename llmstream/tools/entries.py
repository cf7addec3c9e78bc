"""The calls of an answer, each until it has its outcome."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._core.outcome import Approval, ToolOutcome
from .._outputs import output_of
from .._runtime.scope import NEVER
from ..result import ToolCall
from .context import ToolContext
from .failures import ToolRefused
from .function import Tool, ToolArgumentsError, ToolError
from .items import ToolFinished
from .returned import words_of

__all__ = ["Entry", "OpenTurn"]


class Entry:
    """One call. Whoever ends it claims it first; only one claim is granted, so only the first
    outcome counts. Each step is one operation on an attribute or a deque: any thread may look.

    Attributes:
        call, tool: what is called; no tool where the caller runs it, or where there is none of
            this name.
        is_callers: whether the caller runs it: it was declared without a function.
        announced: whether the run has yielded its ToolStarted.
        bound: the tool with its arguments, once these are checked.
        begun: whether it was handed to a thread.
        outcome: what the model is sent, once it is known.
        failed: whether the call has failed; None for one that was refused.
        value, error, seconds: what came of it, see ToolFinished.
        context: what its tool knows of it, while it runs.
        deadline: when its time is over, in monotonic seconds.
        record: of its begin, for observers.
    """

    __slots__ = (
        "_claims",
        "announced",
        "begun",
        "bound",
        "call",
        "context",
        "deadline",
        "error",
        "failed",
        "is_callers",
        "outcome",
        "record",
        "seconds",
        "tool",
        "value",
    )

    def __init__(self, call: ToolCall, tool: Tool | None, *, is_callers: bool = False) -> None:
        self.call = call
        self.tool = tool
        self.is_callers = is_callers
        self.announced = self.begun = False
        self.bound: Callable[[], Any] | None = None
        self.outcome: ToolOutcome | None = None
        self.failed: bool | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.context: ToolContext | None = None
        self.deadline = NEVER
        self.record: Any = None
        self._claims = deque([None])

    def claim(self) -> bool:
        """Whether the caller of this method is the one who ends the call."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def finish(self, value: Any, output: str | list[Any], seconds: float = 0.0) -> None:
        """The tool has returned. After `claim`."""
        self.value, self.seconds = value, seconds
        self.failed = False
        self.outcome = ToolOutcome(self.call, output)  # last: it says that the call has ended

    def fail(self, error: BaseException, seconds: float = 0.0) -> None:
        """The call has failed, or was not run. After `claim`."""
        self.error, self.seconds = error, seconds
        self.failed = None if isinstance(error, ToolRefused) else True
        self.outcome = ToolOutcome(self.call, _told(error), True)

    def restore(self, outcome: ToolOutcome, failed: bool | None) -> None:
        """The call had its outcome before the run was resumed."""
        self._claims.clear()
        self.announced = self.begun = True
        self.failed = failed
        self.outcome = outcome

    def finished(self) -> ToolFinished:
        """What the run yields. Once it has its outcome."""
        assert self.outcome is not None
        return ToolFinished(self.call, self.value, self.error, self.outcome.output, self.seconds)


def _told(error: BaseException) -> str | list[Any]:
    """What the model is sent of a failure. Never raises: the call has to end."""
    if isinstance(error, ToolError):
        with contextlib.suppress(Exception):  # a subclass may have no words, or odd ones
            return output_of(error.words)
    return str(error) if isinstance(error, ToolArgumentsError) else words_of(error)


class OpenTurn:
    """The calls of an answer, and what the service asks to be allowed to run itself."""

    def __init__(
        self,
        calls: Sequence[ToolCall],
        requests: Sequence[ToolCall],
        tools: Mapping[str, Tool | None],
    ) -> None:
        self.entries = [
            Entry(call, tools.get(call.name), is_callers=tools.get(call.name, "") is None)
            for call in calls
        ]
        self.requests = tuple(requests)
        self.approvals: tuple[Approval, ...] | None = None if requests else ()  # None: not asked

    @property
    def callers(self) -> list[ToolCall]:
        """The calls that the caller has to run, and that have no outcome."""
        return [e.call for e in self.entries if e.is_callers and e.outcome is None]
