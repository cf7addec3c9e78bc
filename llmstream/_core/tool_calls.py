"""The tool calls of an answer, and which of them are safe to run. Pure: relies on `state`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from ..result import ToolCall
from .state import State

__all__ = ["ToolCallState", "is_json", "item_calls", "partition_calls"]


class ToolCallState(NamedTuple):
    """A tool call as far as it has arrived. `custom`: its arguments are free text. `closed`: the
    service reported that it is complete."""

    id: str | None
    name: str
    arguments: str
    custom: bool
    closed: bool


def item_calls(state: State, types: Mapping[str, str]) -> Iterator[ToolCallState]:
    """The tool calls of an API in which each call is an item. `types` maps the types of the items
    that the caller has to run to the kind of their arguments, "json" or "text". Any thread."""
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

    A call is safe if it is closed and its arguments parse (free text always does). Empty arguments
    mean "{}"; but not in an answer that a limit has `cut`, where they may be missing.
    """
    whole: list[ToolCall] = []
    broken: list[ToolCall] = []
    for call in calls:
        text = call.arguments
        safe = call.closed and bool(call.name) and bool(text or call.custom or not cut)
        if safe and not text and not call.custom:
            text = "{}"
        tool_call = ToolCall(call.id, call.name, text, call.custom)
        (whole if safe and (call.custom or is_json(text)) else broken).append(tool_call)
    return tuple(whole), tuple(broken)


def is_json(text: str) -> bool:
    """Whether `text` is one whole JSON value."""
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
