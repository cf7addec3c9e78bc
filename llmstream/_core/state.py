"""Deltas -> response, items, content: what has arrived of an answer, on three levels.

The response (id, status), its items by `output_index`, an item's content by `content_index`. One
thread writes; any thread may read at any time: lists only grow, values are replaced whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import msgspec

from ..result import Chunk, Usage
from .overlap import OverlapTrimmer

__all__ = ["ContentState", "FastPath", "ItemState", "State", "merge_usage"]


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

    def add(self, delta: str) -> None:
        """A further piece."""
        if self._whole is not None:  # after its end, from a server that numbers no parts
            self.deltas = [self._whole]
            self._whole = None
        self.deltas.append(delta)

    def finish(self, whole: str) -> str:
        """Take the service's word for the whole and let the deltas go; returns the part of it that
        no delta had brought ("" where they had brought all, or something else)."""
        if self._whole is not None:
            return ""
        had = "".join(self.deltas)
        self._whole = had if had.endswith(whole) else whole
        self.deltas = []
        return whole[len(had) :] if whole.startswith(had) else ""

    def seal(self) -> None:
        """Nothing more comes: what has arrived is the whole."""
        self.finish("".join(self.deltas))


class ItemState:
    """One output item. `type`, `status`, `name`, `call_id` are None until they are known."""

    __slots__ = (
        "announced",
        "call_id",
        "closed",
        "content",
        "extra",
        "id",
        "index",
        "name",
        "number",
        "status",
        "type",
        "wire",
    )

    def __init__(self, index: int, id: str | None = None, number: int | None = None) -> None:
        self.index = index
        self.number = number  # the index as the server gives it, which need not be its own
        self.announced = False
        self.id = id
        self.type: str | None = None
        self.status: str | None = None
        self.name: str | None = None
        self.call_id: str | None = None
        self.content: dict[Any, ContentState] = {}  # by the dialect's own key
        self.closed = False  # the service said that it is whole
        self.wire: Callable[[], Any] | None = None  # the whole item as decoded JSON
        self.extra: dict[str, Any] = {}  # what a dialect has to remember to make it

    def part(self, key: Hashable, type: str) -> ContentState:
        """The part under `key`, made where it is new: its announcement may be late or missing."""
        found = self.content.get(key)
        if found is None:
            found = self.content[key] = ContentState(len(self.content), type)
        return found


class FastPath(NamedTuple):
    """Where a delta of text goes that is like the last one: an answer is mostly that. `key` is how
    the dialect tells that it is; valid until an event of any other kind comes."""

    key: Hashable
    deltas: list[str]  # of its part
    said: list[str]  # all text
    place: int  # the chunk's index


class State:
    """What has arrived of one answer.

    `response_id`, `status`, `model`, `finish`, `usage` and `service_tier` are the service's;
    `items` maps the output index to an ItemState.
    """

    def __init__(self) -> None:
        self.response_id: str | None = None
        self.status: str | None = None
        self.model: str | None = None
        self.finish: str | None = None
        self.usage = Usage()
        self.service_tier: str | None = None
        self.items: dict[int, ItemState] = {}
        self.primary: int | None = None  # the only item whose text is the answer's; None: all
        self.expected = 1  # how many choices were asked for (Chat Completions)
        self._ids: dict[str, ItemState] = {}
        self._next = 0  # the first index behind all items
        self._latest: ItemState | None = None  # the item with the greatest index
        self._said: dict[str, list[str]] = {"text": [], "thinking": [], "refusal": []}
        self.fast_path: FastPath | None = None
        self._overlap: OverlapTrimmer | None = None  # with what an earlier request had brought
        self._overlap_index = 0

    # -- reading

    @property
    def text(self) -> str:
        """The answer's text so far, exactly as it was delivered."""
        return "".join(self._said["text"])

    @property
    def tokens_at_least(self) -> int:
        """How many tokens the text has: what was reported, or one a delta."""
        return max(self.usage.output_tokens or 0, len(self._said["text"]))

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
        """The item that the server means by `index` and `id`, made where it is new.

        An id that is known at this index comes first, then the index (Copilot changes ids), then
        the id alone (llama.cpp sends no index), then the latest item.
        """
        if index is not None:
            found = self.items.get(index)
            if found is not None and (id is None or id == found.id):
                return found
            known = self._ids.get(id) if id is not None else None
            if known is not None and known.number == index:
                return known
            if found is None:
                return self.add(index, id)
            # What was here is whole: another item that the server gave the same number.
            return self.add(index, id) if found.closed else found
        if id is not None:
            known = self._ids.get(id)
            return known if known is not None else self.add(None, id)
        return self._latest if self._latest is not None else self.add(0, None)

    def announced(self, index: int | None, id: str | None) -> ItemState:
        """The item that begins: not one that has begun already, under another id."""
        item = self.item(index, id)
        unnamed = index is None and id is None  # a server that names no items at all
        if item.announced and ((id is not None and id != item.id) or unnamed):
            item = self.add(index, id)
        item.announced = True
        return item

    def identify(self, item: ItemState, id: str | None) -> None:
        """The item has this id from now on; under an earlier one it is still found."""
        if id is not None:
            item.id = id
            self._ids[id] = item

    def add(self, number: int | None, id: str | None) -> ItemState:
        """A new item, at the place that the server names, if it is free."""
        free = number is not None and number not in self.items
        index = number if number is not None and free else self._next
        self._next = max(self._next, index + 1)
        item = self.items[index] = ItemState(index, id, number)
        if self._latest is None or index >= self._latest.index:
            self._latest = item
        if id is not None:
            self._ids[id] = item
        return item

    def continue_from(self, before: State) -> None:
        """What comes now goes on where `before` was cut."""
        self._said = {kind: ["".join(said)] for kind, said in before._said.items()}
        self._overlap = OverlapTrimmer(before.text)

    def emit(self, kind: str, text: str, index: int) -> tuple[Chunk, ...]:
        """Something for the reader's eyes: keep it, and hand it on as a chunk."""
        if self._overlap is not None and kind == "text":
            self._overlap_index = index
            text = self._overlap.feed(text)
            if not text:
                return ()
        said = self._said.get(kind)
        if said is not None:
            said.append(text)
        return (Chunk(kind, text, index),)

    def open_fast_path(self, key: Hashable, part: ContentState, index: int) -> None:
        """Text of `part` has come, by the rules; more of the same needs none of them."""
        if self._overlap is None:
            self.fast_path = FastPath(key, part.deltas, self._said["text"], index)

    def append_fast(self, fast: FastPath, text: str) -> tuple[Chunk, ...]:
        """What `emit` does, for a further delta of the hot part."""
        fast.deltas.append(text)
        fast.said.append(text)
        return (Chunk("text", text, fast.place),)

    def flush(self) -> tuple[Chunk, ...]:
        """No more text comes: say what was held back, as it might have been an overlap."""
        overlap, self._overlap = self._overlap, None
        text = overlap.close() if overlap is not None else ""
        return self.emit("text", text, self._overlap_index) if text else ()


def merge_usage(old: Usage, said: Usage) -> Usage:
    """Usage after a further report: the last value per field that is not None."""
    new = Usage(
        *(b if b is not None else a for a, b in zip(_fields(old), _fields(said), strict=True))
    )
    if said.total_tokens is None and None not in (new.input_tokens, new.output_tokens):
        total = (new.input_tokens or 0) + (new.output_tokens or 0)
        new = msgspec.structs.replace(new, total_tokens=total)
    return new


def _fields(usage: Usage) -> tuple[int | None, ...]:
    return msgspec.structs.astuple(usage)
