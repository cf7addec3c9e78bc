"""Tool calls: which ones are safe to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from ..result import ToolCall
from .state import State

__all__ = ["ToolCallState", "is_json", "item_calls", "partition_calls"]


class ToolCallState(NamedTuple):
    """A tool call as far as it came. `closed`: the service said that it is whole."""

    id: str | None
    name: str
    arguments: str
    custom: bool
    closed: bool


def item_calls(state: State, types: Mapping[str, str]) -> Iterator[ToolCallState]:
    """The calls among the items, where each is an item of its own. `types` maps the item types
    that the caller has to run to the kind of their arguments, "json" or "text"."""
    for item in state.in_order():
        kind = types.get(item.type or "")
        if kind is not None:
            parts = list(item.content.values())  # another thread may be adding
            text = "".join(part.text for part in parts if part.type == "tool_call")
            closed = item.closed and item.status != "incomplete"
            yield ToolCallState(
                item.call_id or item.id, item.name or "", text, kind == "text", closed
            )


def partition_calls(
    calls: Iterator[ToolCallState], cut: bool, is_json: Callable[[str], bool]
) -> tuple[tuple[ToolCall, ...], tuple[ToolCall, ...]]:
    """The calls that are safe to run, and those that are not.

    A call is safe when it was closed and, unless it is free text, parses. No argument at all is
    "{}", but not in an answer that was `cut` by a limit: there they may be missing.
    """
    whole: list[ToolCall] = []
    broken: list[ToolCall] = []
    for call in calls:
        text = call.arguments
        safe = call.closed and bool(call.name) and bool(text or call.custom or not cut)
        if safe and not text and not call.custom:
            text = "{}"
        made = ToolCall(call.id, call.name, text, call.custom)
        (whole if safe and (call.custom or is_json(text)) else broken).append(made)
    return tuple(whole), tuple(broken)


def is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
