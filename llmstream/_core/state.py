"""Deltas -> response, items, content: what has arrived of an answer, on three levels.

The response (id, status), its items by `output_index`, an item's content by `content_index`. One
thread writes; any thread may read at any time: lists only grow, values are replaced whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from ..result import Chunk, ToolCall, Usage

__all__ = ["ContentState", "ItemState", "State"]


JsonCheck = Callable[[str], bool]


class ContentState:
    """One part of an item: a message's text, a call's arguments, a summary."""

    __slots__ = ("_whole", "deltas", "index", "type")

    def __init__(self, index: int, type: str) -> None:
        self.index = index
        self.type = type
        self.deltas: list[str] = []
        self._whole: str | None = None

    @property
    def text(self) -> str:
        """What has arrived of it."""
        whole = self._whole
        return "".join(self.deltas) if whole is None else whole

    @property
    def done(self) -> bool:
        """The service has said what the whole of it is."""
        return self._whole is not None

    def finish(self, whole: str) -> str:
        """Take the service's word for the whole and let the deltas go; returns the part of it that
        no delta had brought ("" where they had brought all, or something else)."""
        if self._whole is not None:
            return ""
        had = "".join(self.deltas)
        self._whole = whole
        self.deltas = []
        return whole[len(had) :] if whole.startswith(had) else ""


class ItemState:
    """One output item. `type`, `status`, `name`, `call_id` are None until they are known."""

    __slots__ = ("call_id", "closed", "content", "id", "index", "name", "status", "type", "wire")

    def __init__(self, index: int, id: str | None = None) -> None:
        self.index = index
        self.id = id
        self.type: str | None = None
        self.status: str | None = None
        self.name: str | None = None
        self.call_id: str | None = None
        self.content: dict[Hashable, ContentState] = {}
        self.closed = False  # the service said that it is whole
        self.wire: Callable[[], Any] | None = None  # the whole item as decoded JSON

    def part(self, key: Hashable, type: str) -> ContentState:
        """The part under `key`, made where it is new: its announcement may be late or missing."""
        found = self.content.get(key)
        if found is None:
            found = self.content[key] = ContentState(len(self.content), type)
        return found


class State:
    """What has arrived of one answer.

    `response_id`, `status`, `model`, `finish` and `usage` are the service's; `items` maps the
    output index to an ItemState.
    """

    def __init__(self) -> None:
        self.response_id: str | None = None
        self.status: str | None = None
        self.model: str | None = None
        self.finish: str | None = None
        self.usage = Usage()
        self.items: dict[int, ItemState] = {}
        self._ids: dict[str, ItemState] = {}
        self._said: dict[str, list[str]] = {"text": [], "thinking": [], "refusal": []}

    # -- reading

    @property
    def text(self) -> str:
        """The answer's text so far, exactly as it was delivered."""
        return "".join(self._said["text"])

    @property
    def thinking(self) -> str:
        return "".join(self._said["thinking"])

    @property
    def refusal(self) -> str:
        return "".join(self._said["refusal"])

    def in_order(self) -> Iterator[ItemState]:
        """The items by their position."""
        return (item for _, item in sorted(dict(self.items).items()))

    # -- writing

    def item(self, index: int | None, id: str | None) -> ItemState:
        """The item at `index`; by its id where the server sends no index (llama.cpp); the last one
        where it sends neither. The index is trusted before the id: Copilot changes ids."""
        if index is not None:
            found = self.items.get(index)
            return found if found is not None else self._add(index, id)
        if id is not None:
            known = self._ids.get(id)
            return known if known is not None else self._add(self._next_index(), id)
        return self.items[max(self.items)] if self.items else self._add(0, None)

    def _next_index(self) -> int:
        return max(self.items, default=-1) + 1

    def _add(self, index: int, id: str | None) -> ItemState:
        item = self.items[index] = ItemState(index, id)
        if id is not None:
            self._ids[id] = item
        return item

    def say(self, kind: str, text: str, index: int) -> tuple[Chunk, ...]:
        """Something for the reader's eyes: keep it, and hand it on as a chunk."""
        said = self._said.get(kind)
        if said is not None:
            said.append(text)
        return (Chunk(kind, text, index),)


def tool_calls(
    items: Iterator[ItemState], types: Mapping[str, str], cut: bool, is_json: JsonCheck
) -> tuple[tuple[ToolCall, ...], tuple[ToolCall, ...]]:
    """The calls that are safe to run, and those that are not.

    `types` maps the item types that the caller has to run to the kind of their arguments ("json"
    or "text"); `cut` says that the answer ended by a limit. A call is safe when it was closed
    and, unless it is free text, parses; no argument at all is "{}", but not in an answer that
    was cut.
    """
    whole: list[ToolCall] = []
    broken: list[ToolCall] = []
    for item in items:
        kind = types.get(item.type or "")
        if kind is None:
            continue
        custom = kind == "text"
        text = "".join(part.text for part in item.content.values() if part.type == "tool_call")
        safe = item.closed and item.status != "incomplete" and bool(text or custom or not cut)
        arguments = text if text or custom or not safe else "{}"
        call = ToolCall(item.call_id or item.id, item.name or "", arguments, custom)
        (whole if safe and (custom or is_json(arguments)) else broken).append(call)
    return tuple(whole), tuple(broken)
