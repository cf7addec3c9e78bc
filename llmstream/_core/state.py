"""What has arrived of an answer, on three levels: the response, its items, an item's content.

The dialects write it, in the thread that reads the stream; the public name is `Stream.state`. Any
thread may read it at any time: lists and dicts only grow, and values are replaced whole. Pure:
relies on the values of `result` and on `overlap`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ..result import Chunk, Usage, whole_prompt
from .overlap import OverlapTrimmer

__all__ = [
    "ContentState",
    "Contradiction",
    "FastPath",
    "Foreign",
    "ItemState",
    "Misplaced",
    "State",
    "first_count",
    "merge_usage",
    "rest_of",
]


T = TypeVar("T")


class Misplaced(ValueError):
    """A piece of the answer is in a place where it means nothing, so it cannot be used."""


class Contradiction(Misplaced):
    """What the service sends is not what it has sent before: which of the two is right cannot be
    known, and to ask again for the same answer does not help."""


class Foreign(Misplaced):
    """What arrives in place of the rest of an answer does not belong to it."""


def rest_of(whole: str, streamed: str) -> str:
    """The end of `whole`, the final text that the service sent, behind what was `streamed`. An
    empty one repeats nothing, and some services strip it. Raises Contradiction where another text
    was streamed."""
    if whole and not whole.startswith(streamed) and whole.strip() != streamed.strip():
        raise Contradiction("the final text is not what was streamed before it")
    return whole[len(streamed) :] if whole.startswith(streamed) else ""


class ContentState:
    """One part of an item: a message's text, a call's arguments, a summary.

    `index` is its position in the item, `type` the type of its chunks ("text", "thinking",
    "refusal", "tool_call") or another word of the dialect. `deltas` are its pieces until `finish`.
    The dialect writes; any thread may read.
    """

    __slots__ = ("_whole", "deltas", "index", "type")

    def __init__(self, index: int, type: str) -> None:
        self.index = index
        self.type = type
        self.deltas: list[str] = []
        self._whole: str | None = None

    @property
    def text(self) -> str:
        """The text that has arrived so far."""
        whole = self._whole
        return "".join(self.deltas) if whole is None else whole

    @property
    def done(self) -> bool:
        """Whether the text is final."""
        return self._whole is not None

    def add(self, delta: str) -> None:
        """Append a further piece."""
        if self._whole is not None:  # a new part, from a server that does not number its parts
            self.deltas = [self._whole]
            self._whole = None
        self.deltas.append(delta)

    def finish(self, whole: str) -> str:
        """Accept `whole`, the final text that the service sent, and release the deltas. Returns the
        end of it that no delta had contained ("" where the deltas had contained all of it, or
        another text: see `rest_of`)."""
        if self._whole is not None:
            return ""
        streamed = "".join(self.deltas)
        self._whole = streamed if streamed.endswith(whole) else whole
        self.deltas = []
        return whole[len(streamed) :] if whole.startswith(streamed) else ""

    def compact(self, known: str) -> None:
        """Keep the text in one piece; `known` itself where it is the same text."""
        text = self.text
        if text == known:
            text = known
        if self._whole is None:
            self.deltas = [text] if text else []
        else:
            self._whole = text

    def seal(self) -> None:
        """Make the text that has arrived the final one, and release the deltas."""
        self.finish("".join(self.deltas))


class _Shared(dict[Any, T]):
    """A dict that the dialect adds to while other threads may go through it: they see it as it was
    when they began. Nothing is ever taken out."""

    __slots__ = ()

    # The lists of keys and of values are made in one step. That of the items is not: it makes a
    # tuple for each, at any of which CPython before 3.12 may collect garbage, and whatever Python
    # code that runs lets another thread in.

    def __iter__(self) -> Iterator[Any]:
        return iter(list(dict.keys(self)))

    def keys(self) -> Any:
        return list(dict.keys(self))

    def values(self) -> Any:
        return list(dict.values(self))

    def items(self) -> Any:
        return [(key, self[key]) for key in list(dict.keys(self))]


class ItemState:
    """One output item: a message, a call, a block (Messages), a choice (Chat Completions).

    The dialect writes; any thread may read. `type`, `status`, `name` and `call_id` are None until
    they are known. `index` is the item's position in the answer.
    """

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
        self.number = number  # the index that the server sent; another item may have the same
        self.announced = False  # its first event has arrived (Responses)
        self.id = id
        self.type: str | None = None
        self.status: str | None = None
        self.name: str | None = None
        self.call_id: str | None = None
        self.content: dict[Any, ContentState] = _Shared()  # by a key of the dialect's choice
        self.closed = False  # the service reported that the item is complete
        self.wire: Callable[[], Any] | None = None  # returns the complete item as decoded JSON
        self.extra: dict[str, Any] = {}  # what the dialect keeps to write `wire`

    def forget_content(self) -> None:
        """It was not what the item has."""
        self.content = _Shared()

    def part(self, key: Hashable, type: str) -> ContentState:
        """The part under `key`, made if there is none: its first event may be late or missing."""
        found = self.content.get(key)
        if found is None:
            found = self.content[key] = ContentState(len(self.content), type)
        return found


class FastPath(Struct, frozen=True):
    """Where a text delta is appended that follows another one of the same part, as most events of
    an answer do. The dialect compares `key` to recognise such a delta. Valid until an event of any
    other kind arrives."""

    key: Hashable
    deltas: list[str]  # the pieces of the part
    texts: list[str]  # the pieces of the answer's text
    item_index: int  # the index of the chunks


def _unknown() -> None:
    return None


class State:
    """What has arrived of one answer.

    One thread writes, the one that reads the stream; any thread may read the attributes and
    properties, and nobody but the library writes them.

    Attributes:
        response_id, model, service_tier: as the service reported them; the dialect writes them.
        media: what has tokens beside text, see `Attempt.media`. The dialect writes it.
        status: the response's status as the API writes it. The dialect writes it, and the Session
            for a failure that is JSON.
        finish: why the answer ended, see `Result.finish`; None until then. The dialect writes it.
        refused: whether a filter of the service has ended the answer, whatever `finish` is for the
            calls in it. The dialect writes it.
        usage: what the service reported so far; the dialect writes it, by `merge_usage`.
        items: output index -> ItemState. Written by `add` alone.
        primary: the index of the only item whose text is the answer's text, or None for all items.
            Written and read by the Chat Completions dialect (several choices).
        expected: the number of choices that the request asks for. The Session writes it, the Chat
            Completions dialect reads it.
        seed: what distinguishes this answer from others, for the ids that are made. The Exchange
            writes it.
        stored: whether the service may have stored the answer. The Exchange writes it for what the
            request says, the Responses dialect for what the response says.
        limit: the limit of the answer's tokens, where the service may not report that it has cut
            the answer, or None. The Exchange writes it.
        rounds: whether the answer may go on after an end, see `HTTPRequest`. The Exchange writes
            it.
        unix_time: returns the Unix time in seconds, or None: errors name moments. The Exchange
            writes it.
        pinned: the answer goes on in another body: what has another id does not belong to it. The
            Session writes it.
        lost: events of the answer are missing, by their numbers. The Session writes it.
        half: the body has ended inside an event. The Session writes it.
        unplaced: what may be a piece of the answer belongs nowhere; the dialect writes it.
        choices: what the dialect knows of the answer beside its items.
        release: makes the chunks of what is held back in the texts of the answer, once nothing more
            arrives; the dialect writes it.
        fast_path: see FastPath. `open_fast_path` sets it, the dialect reads and clears it.
    """

    # What is set once for an answer, or never.
    response_id: str | None = None
    status: str | None = None
    model: str | None = None
    finish: str | None = None
    refused = False
    usage = Usage()
    service_tier: str | None = None
    media: frozenset[str] = frozenset()
    primary: int | None = None
    expected = 1
    seed = ""
    stored = True
    limit: Any = None
    rounds = False
    pinned = False
    lost = False
    half = False
    unplaced = False
    unix_time: Callable[[], float | None] = staticmethod(_unknown)
    choices: Any = None
    release: Callable[[State], Sequence[Chunk]] | None = None

    def __init__(self) -> None:
        self.items: dict[int, ItemState] = _Shared()
        self._ids: dict[str, ItemState] = {}
        self._numbered: dict[int, ItemState] = {}  # the latest item with each number
        self._next = 0  # the first index after all items
        self._latest: ItemState | None = None  # the item with the greatest index
        # the pieces of the answer by type, across all items
        self._texts: dict[str, list[str]] = {"text": [], "thinking": [], "refusal": []}
        self.fast_path: FastPath | None = None
        self._overlap: OverlapTrimmer | None = None  # only while an answer is continued
        self._overlap_index = 0  # the item whose text the trimmer holds back

    # -- any thread

    @property
    def text(self) -> str:
        """The text of the answer so far, exactly as it was delivered to the reader."""
        return "".join(self._texts["text"])

    @property
    def tokens_at_least(self) -> int:
        """The least number of tokens that the text has: as reported, or one for each delta."""
        return max(self.usage.output_tokens or 0, len(self._texts["text"]))

    @property
    def thinking(self) -> str:
        """The model's thinking so far."""
        return "".join(self._texts["thinking"])

    @property
    def refusal(self) -> str:
        """The model's refusal so far."""
        return "".join(self._texts["refusal"])

    def in_order(self) -> Iterator[ItemState]:
        """The items in the order of their index."""
        return (item for _, item in sorted(self.items.items()))

    # -- the thread that reads the stream

    def item(self, index: int | None, id: str | None) -> ItemState:
        """The item that the server means by `index` and `id`, made if there is none.

        An id that is known at this index decides first, then the index (Copilot changes ids), then
        the id alone (llama.cpp sends no index, or the index is odd), then the latest item is meant.
        """
        if index is not None:
            found = self.items.get(index)
            if found is not None and (id is None or id == found.id):
                return found
            known = self._ids.get(id) if id is not None else None
            if known is not None and known.number == index:
                return known
            if self.pinned and found is not None and found.id is not None and known is None:
                raise Foreign("a resumed answer has another item in place of the one that was open")
            odd = found is None or found.closed
            if odd and known is not None and known.announced and not known.closed:
                return known  # the index is odd, not the item
            if found is None:
                return self.add(index, id)
            # The item here is complete: the server sent the same index for another item.
            return self.add(index, id) if found.closed else found
        if id is not None:
            known = self._ids.get(id)
            return known if known is not None else self.add(None, id)
        return self._latest if self._latest is not None else self.add(0, None)

    def begin_item(self, index: int | None, id: str | None) -> ItemState:
        """The item that begins now: a new one if the item that is meant has begun already under
        another id."""
        free = index is not None and index not in self.items
        item = self.add(index, id) if free else self.item(index, id)
        unnamed = index is None and id is None  # a server that sends neither
        if item.announced and ((id is not None and id != item.id) or unnamed):
            item = self.add(index, id)
        item.announced = True
        return item

    def knows(self, index: int | None, id: str | None) -> bool:
        """Whether there is an item with this index; or, where there is no index, with this id."""
        return index in self.items if index is not None else id is None or id in self._ids

    def numbered(self, number: int) -> ItemState | None:
        """The latest item for which the server sent this index."""
        return self._numbered.get(number)

    def with_id(self, id: str | None) -> ItemState | None:
        """The item with this id, also an earlier one."""
        return self._ids.get(id) if id is not None else None

    def identify(self, item: ItemState, id: str | None) -> None:
        """Give the item this id; it is still found under an earlier one. None changes nothing."""
        if id is not None:
            item.id = id
            self._ids[id] = item

    def add(self, number: int | None, id: str | None) -> ItemState:
        """A new item, at the index that the server sent, if that is free, else after all items."""
        free = number is not None and number not in self.items
        index = number if number is not None and free else self._next
        self._next = max(self._next, index + 1)
        item = self.items[index] = ItemState(index, id, number)
        if number is not None:
            self._numbered[number] = item
        if self._latest is None or index >= self._latest.index:
            self._latest = item
        if id is not None:
            self._ids[id] = item
        return item

    def continue_from(self, before: State) -> None:
        """The answer goes on with the texts of `before`, which was cut off."""
        self._texts = {kind: ["".join(texts)] for kind, texts in before._texts.items()}
        self._overlap = OverlapTrimmer(before.text)

    def emit(self, kind: str, text: str, index: int) -> tuple[Chunk, ...]:
        """Append text to the answer and return it as a chunk; () where it is held back as a
        possible overlap. `kind` is the chunk's type, `index` that of the item."""
        if self._overlap is not None and kind == "text":
            self._overlap_index = index
            text = self._overlap.feed(text)
            if not text:
                return ()
        texts = self._texts.get(kind)
        if texts is not None:
            texts.append(text)
        return (Chunk(kind, text, index),)

    def open_fast_path(self, key: Hashable, part: ContentState, index: int) -> None:
        """A text delta of `part` was applied by all rules: further deltas with the same `key` may
        take the fast path."""
        if self._overlap is None:
            self.fast_path = FastPath(key, part.deltas, self._texts["text"], index)

    def append_fast(self, fast: FastPath, text: str) -> tuple[Chunk, ...]:
        """Append a further text delta to the part of the fast path and to the answer."""
        fast.deltas.append(text)
        fast.texts.append(text)
        return (Chunk("text", text, fast.item_index),)

    def compact(self) -> None:
        """Nothing more arrives: keep each text once, in one piece, for as long as the stream is
        kept."""
        texts = {kind: "".join(pieces) for kind, pieces in self._texts.items()}
        self._texts = {kind: [text] if text else [] for kind, text in texts.items()}
        self.fast_path = None
        for item in self.items.values():
            for part in item.content.values():
                part.compact(texts.get(part.type, ""))

    def flush(self) -> tuple[Chunk, ...]:
        """The answer has ended: append the text that was held back as a possible overlap, or as a
        possible tag."""
        release, self.release = self.release, None
        late = () if release is None else tuple(release(self))
        overlap, self._overlap = self._overlap, None
        text = overlap.close() if overlap is not None else ""
        return (*late, *self.emit("text", text, self._overlap_index)) if text else late


# A 0 does not replace a positive count of these.
_PROMPT = frozenset({"input_tokens", "cached_tokens", "cache_write_tokens"})


_NOTHING = Usage()


def merge_usage(old: Usage, reported: Usage, cached_beside: bool = False) -> Usage:
    """`old` updated by a further report: the last value per field that is not None. A 0 never
    replaces a positive count of the prompt: some gateways mean "not reported here" by it.
    `cached_beside`: see `whole_prompt`."""
    kept = False
    new = reported
    if old != _NOTHING:
        names = Usage.__struct_fields__
        values = []
        for name, before, now in zip(names, _fields(old), _fields(reported), strict=True):
            keep = now is None or (now == 0 and bool(before) and name in _PROMPT)
            kept |= keep and now is not None and name == "input_tokens"
            values.append(before if keep else now)
        new = Usage(*values)  # type: ignore[arg-type]  # each value is one of its own field
    prompt = whole_prompt(new, cached_beside)
    unknown = reported.total_tokens is None or kept or cached_beside
    if unknown and prompt is not None and new.output_tokens is not None:
        new = msgspec.structs.replace(new, total_tokens=prompt + new.output_tokens)
    return new


def first_count(*counts: int | None) -> int | None:
    """The first count that is positive, else the first that is known: services name the same count
    in several places, and leave 0 in some."""
    first = None
    for count in counts:
        if count is not None:
            if count > 0:
                return count
            if first is None:
                first = count
    return first


def _fields(usage: Usage) -> tuple[float | None, ...]:
    return msgspec.structs.astuple(usage)
