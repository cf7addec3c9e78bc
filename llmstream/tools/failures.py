"""Why a call has no result, besides what its tool has raised: the errors of `ToolFinished`, whose
words are what the model is told."""

from __future__ import annotations

from typing import Any

from ..result import ToolCall, printable
from .function import ToolError

__all__ = ["ToolInterrupted", "ToolRefused", "ToolTimeout", "UnknownTool"]

_SHOWN = 64  # characters of a name that the model has made up


class ToolTimeout(ToolError, TimeoutError):
    """The tool did not return within its time. Its thread goes on, since a thread cannot be ended
    from outside. What it returns later is dropped, and counted (`Run.late_results`)."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The tool did not return within {seconds:g} s, and is not waited for any longer. "
            "Whether it has had its effect is not known."
        )
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds,)


class ToolRefused(ToolError):
    """`approve` has refused the call. `reason` is what it returned, or None."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(
            f"The call was refused: {reason}" if reason else "The user refused this call."
        )
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


class UnknownTool(ToolError):
    """The model has called a tool that it was not given."""

    def __init__(self, call: ToolCall, known: list[str]) -> None:
        names = ", ".join(known) or "none"
        super().__init__(
            f"There is no tool {printable(call.name)[:_SHOWN]!r}. The tools are: {names}."
        )
        self._made_of = call, known

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of


class ToolInterrupted(ToolError):
    """The program was stopped while the tool ran, and nobody knows how far it came. It is not run
    again."""

    def __init__(self) -> None:
        super().__init__(
            "The program was stopped while this tool ran. Whether it has had its effect is not "
            "known. It was not run again."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
