"""Characters beyond U+FFFF that a server has cut into two deltas, one half of a surrogate pair in
each (servers in JavaScript count in UTF-16): the first half is held until its other half arrives.

Used from the first event on that has half a character. Imports nothing of the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any

__all__ = ["HalfCharacter", "Halves", "has_half", "mended"]

# What is held is little: a server that cuts characters cuts them in deltas, one or two at a time.
_MOST_HELD = 64
_LARGEST_HELD = 65_536  # bytes of the event in which a half arrived
_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_WHOLE = ("text", "refusal", "arguments", "input", "content", "summary", "output")
# The fields whose text goes on in the next delta.
_GOES_ON = frozenset(
    {
        *("delta", "text", "thinking", "partial_json", "content", "refusal", "arguments", "input"),
        *("reasoning", "reasoning_content", "summary", "stringValue"),
    }
)
_IDENTITY = frozenset({"type", "id", "object", "model", "item_id", "role", "call_id", "jsonPath"})
# What tells the parts of an answer apart: of each line the first one that an object has.
_PLACES = (
    ("output_index", "index", "item_id"),
    ("content_index",),
    ("summary_index",),
    ("jsonPath",),
)
# What is in one of these is whole, whatever its fields are called.
_WHOLE_VALUES = frozenset({"logprobs", "args"})


class HalfCharacter(ValueError):
    """An event has half a character, which the decoders refuse."""


def has_half(data: bytes) -> bool:
    """Whether an event's JSON has half a character."""
    if _ESCAPE.search(data) is None:
        return False
    try:
        return _has_lone(_decoded(data))
    except (ValueError, RecursionError):
        return False


def mended(data: bytes) -> bytes:
    """JSON with U+FFFD for each half of a character."""
    return _encoded(_walk(_decoded(data), lambda key, text: _LONE.sub(_REPLACEMENT, text)))


class Halves:
    """The halves of one stream that wait for their other halves. Not thread-safe."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        # where the text belongs -> the half, and the event that it was in
        self._held: dict[Hashable, tuple[str, Any]] = {}

    @property
    def waiting(self) -> bool:
        return bool(self._held)

    def mend(self, data: bytes) -> list[bytes]:
        """The event without lone halves. Before it, what its parts wait for in vain, if it ends
        them."""
        if not self._held and not has_half(data):
            return [data]
        try:
            event = _decoded(data)
        except (ValueError, RecursionError):
            return [data]
        goes_on = _is_delta(event) and len(data) <= _LARGEST_HELD
        ends = _ends_a_part(event)
        held: dict[Hashable, str] = {}

        def mend(key: Any, text: str) -> str:
            goes = text and key and key[-1] in _GOES_ON
            if not goes or not _WHOLE_VALUES.isdisjoint(key):
                return _LONE.sub(_REPLACEMENT, text)
            half, _ = self._held.pop(key, ("", None))
            text = (half + text).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
            full = len(held) + len(self._held) >= _MOST_HELD
            if goes_on and not ends and not full and "\ud800" <= text[-1] <= "\udbff":
                held[key] = text[-1]
                text = text[:-1]
            return _LONE.sub(_REPLACEMENT, text)

        fixed = _encoded(_walk(event, mend, _root(event)))
        before: list[bytes] = []
        if ends:
            before = self.release(event)
        elif _is_whole(event):  # it has what the halves were a part of
            self._held = {k: v for k, v in self._held.items() if not _is_part_of(k, event)}
        for key, half in held.items():
            self._held[key] = (half, event)
        return [*before, fixed]

    def release(self, ended: Any = None) -> list[bytes]:
        """An event with U+FFFD for each half that waits in vain: in the parts that the event
        `ended` ends, or in all."""
        events = []
        for key in [key for key in self._held if ended is None or _is_part_of(key, ended)]:
            _, event = self._held.pop(key)
            event = {k: v for k, v in event.items() if k not in ("sequence_number", "usage")}

            def only(here: Any, text: str, key: Hashable = key) -> str:
                if here == key:
                    return _REPLACEMENT
                return _LONE.sub("", text) if here and here[-1] in _IDENTITY else ""

            events.append(_encoded(_walk(event, only, _root(event))))
        return events


def _decoded(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "replace"))


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _walk(value: Any, change: Any, key: tuple[Hashable, ...] = ()) -> Any:
    """`value` with each text replaced by `change(where it belongs, text)`."""
    if isinstance(value, str):
        return change(key, value)
    if isinstance(value, list):
        return [
            _walk(inner, change, key if _place(inner) else (*key, position))
            for position, inner in enumerate(value)
        ]
    if isinstance(value, dict):
        key = (*key, *_place(value))
        return {
            _LONE.sub(_REPLACEMENT, name): _walk(inner, change, (*key, name))
            for name, inner in value.items()
        }
    return value


def _place(value: Any) -> tuple[Hashable, ...]:
    if not isinstance(value, dict):
        return ()
    found = (next((n for n in names if value.get(n) is not None), None) for names in _PLACES)
    return tuple((name, str(value[name])) for name in found if name is not None)


def _has_lone(value: Any) -> bool:
    if isinstance(value, str):
        return _LONE.search(value) is not None
    if isinstance(value, list):
        return any(map(_has_lone, value))
    return isinstance(value, dict) and any(map(_has_lone, (*value, *value.values())))


def _root(event: Any) -> tuple[Hashable, ...]:
    kind = event.get("type") if isinstance(event, dict) else None
    return (kind,) if isinstance(kind, str) else ()


def _is_delta(event: Any) -> bool:
    """Whether the event's texts may go on in the next one."""
    if not isinstance(event, dict):
        return False
    return _candidates(event) is not None or str(event.get("type")).endswith("delta")


def _candidates(event: dict[str, Any]) -> list[Any] | None:
    """The answers that an event has pieces of, in the APIs whose events have several."""
    found = event.get("choices", event.get("candidates"))
    return found if isinstance(found, list) else None


def _ends_a_part(event: Any) -> bool:
    """Whether the event ends a part whose text it does not repeat, or the answer."""
    if not isinstance(event, dict):
        return False
    choices = _candidates(event)
    if choices is not None:
        ends = ("finish_reason", "finishReason")
        return any(
            isinstance(c, dict) and (any(c.get(name) for name in ends) or _ends_a_call(c))
            for c in choices
        )
    kind = str(event.get("type"))
    if kind.endswith(_ENDS):
        response = event.get("response")
        return not (isinstance(response, dict) and response.get("output"))
    return kind.endswith("_stop") or (kind.endswith(".done") and not _is_whole(event))


def _ends_a_call(candidate: dict[str, Any]) -> bool:
    """Whether the candidate has the end of a call, or a whole one (Gemini)."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    calls = (
        [part.get("functionCall") for part in parts or () if isinstance(part, dict)]
        if isinstance(parts, list)
        else []
    )
    return any(isinstance(call, dict) and not call.get("willContinue") for call in calls)


def _is_whole(event: Any) -> bool:
    """Whether the event repeats the whole text of a part, or of all."""
    if not isinstance(event, dict) or not str(event.get("type")).endswith((".done", *_ENDS)):
        return False
    inner = [event, *(event.get(name) for name in ("item", "part", "response"))]
    return any(isinstance(i, dict) and any(i.get(n) for n in _WHOLE) for i in inner)


def _is_part_of(key: Any, ended: Any) -> bool:
    """Whether the text at `key` belongs to what the event `ended` ends."""
    choices = _candidates(ended)
    if choices is not None:
        return any(_place(c)[:1] == () or _place(c)[0] in key for c in choices if _place(c) or c)
    place = _place(ended)
    return not place or place[0] in key
