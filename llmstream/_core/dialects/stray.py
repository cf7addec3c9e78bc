"""Text of the answer in a place where the reference has none: it must not get lost unnoticed.
Relies on `state`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..state import Misplaced

__all__ = ["has_text", "refuse_text", "text_fields", "without_text"]

# What services call a piece of an answer.
_NAMES = (
    "text",
    "content",
    "delta",
    "thinking",
    "reasoning",
    "reasoning_content",
    "refusal",
    "partial_json",
    "arguments",
    "input",
    "output_text",
    "completion",
    "response",
    "token",
    "function",
    "tool_calls",
    "message",
)
_DEEPEST = 4  # a piece of text lies no deeper


def text_fields(value: Any) -> dict[str, str]:
    """The fields of `value` that are not empty strings and have the name of a piece of text."""
    fields = value if isinstance(value, Mapping) else {}
    return {n: fields[n] for n in _NAMES if isinstance(fields.get(n), str) and fields[n]}


def has_text(value: Any, depth: int = 0) -> bool:
    """Whether `value`, a piece of an event, has text of the answer: a string, or one in a field
    that services use for it."""
    if isinstance(value, str):
        return bool(value)
    if depth == _DEEPEST:
        return False
    inner: Iterable[Any] = ()
    if isinstance(value, Mapping):
        inner = (value[name] for name in _NAMES if name in value)
    elif isinstance(value, list):
        inner = value
    return any(has_text(one, depth + 1) for one in inner)


def refuse_text(value: Any) -> None:
    """Raises Misplaced if `value` has text of the answer."""
    if has_text(value):
        raise Misplaced("it has a piece of the answer in a place where none is expected")


def without_text(handle: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The rule `handle` for an event that has no piece of the answer; it refuses one that has."""

    def apply(state: Any, event: Any) -> Any:
        if b'"delta"' in event.raw:
            sent = event.json()
            refuse_text(sent.get("delta") if isinstance(sent, Mapping) else None)
        return handle(state, event)

    return apply
