"""What a run yields besides the chunks of its answers. Values."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..result import Result, ToolCall

__all__ = ["ToolFinished", "ToolProgress", "ToolStarted", "Turn"]


class Turn(Struct, frozen=True):
    """An answer of the model is whole. Its calls, if it has any, are made after this item; the last
    turn of a run is the one without. `number` counts from 1."""

    result: Result
    number: int = 1


class ToolProgress(Struct, frozen=True):
    """The service runs a tool of its own (a search, code, a picture, MCP), and reports how far it
    is. `name` is the tool's, `status` "in_progress", "searching", "interpreting", "generating",
    "completed" or "failed", and `id` that of the item, if it has one."""

    name: str
    status: str
    id: str | None = None


class ToolStarted(Struct, frozen=True):
    """A tool is about to run. It begins only when the next item is asked for: a program that keeps
    `Run.state()` after each item has noted the call before it can have an effect."""

    call: ToolCall


class ToolFinished(Struct, frozen=True):
    """A call has its outcome, and the run's state has it.

    Args:
        call: the call.
        result: what the tool has returned, None where it failed or was not run.
        error: what it has raised; a `ToolTimeout`, `ToolRefused`, `UnknownTool` or
            `ToolInterrupted`; or None. A call that was not run has no ToolStarted before it.
        output: what the model is sent: a text, or a list of parts.
        seconds: how long it took, 0.0 for a call that was not run.
    """

    call: ToolCall
    result: Any = None
    error: BaseException | None = None
    output: str | list[Any] = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the tool has returned."""
        return self.error is None
