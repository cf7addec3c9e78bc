"""What became of the calls of a turn: what a tool has returned, and what was allowed. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..result import ToolCall

__all__ = ["Approval", "ToolOutcome"]


class ToolOutcome(Struct, frozen=True):
    """The outcome of one call.

    Args:
        call: the call, as it is in `Result.tool_calls`.
        output: what the model is sent: a text, or a list of parts in the form of Chat Completions
            or in the API's own (texts, pictures, files).
        is_error: whether the call failed, or was not run. Messages has a field for it; in the other
            APIs the text begins with "Error: " (see `Dialect.outcome_turns`).
    """

    call: ToolCall
    output: str | list[Any] = ""
    is_error: bool = False


class Approval(Struct, frozen=True):
    """The answer to a service that asks whether it may run a tool itself (MCP).

    `request` is what `Dialect.approval_requests` has found; its `id` is that of the question.
    `reason` is told to the model, where the API has a place for it.
    """

    request: ToolCall
    approve: bool
    reason: str | None = None
