"""The tool calls of an answer, and which of them are safe to run. Pure: relies on `state`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from ..result import Chunk, ToolCall, decode_arguments
from .state import ItemState, State

__all__ = [
    "CallFinder",
    "RunningCall",
    "ToolCallState",
    "arguments_to_send",
    "call_ids",
    "decoded_arguments",
    "finish_with_calls",
    "has_safe_call",
    "hashed",
    "is_json",
    "is_same_json",
    "item_calls",
    "partition_calls",
    "running_item",
]

_LONGEST_ID = 200  # characters of an answer's id that the ids of its calls depend on
_OTHER = 1_000_003  # the next number to make an id of, where one is taken
_KEPT = ("length", "content_filter", "tool_calls")  # a whole call does not change these
_NOTHING = ("", '""', '"null"')  # arguments that are none, also where they are encoded twice


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
    items = [item for item in state.in_order() if item.type in types]
    ids = call_ids(state, [item.call_id or item.id for item in items])
    for item, id in zip(items, ids, strict=True):
        parts = list(item.content.values())  # another thread may be adding
        text = "".join(part.text for part in parts if part.type == "tool_call")
        closed = item.closed and item.status != "incomplete"
        if "lost" in item.extra and not text.strip():  # what it should contain did not arrive
            closed = False
        closed = closed and "odd" not in item.extra  # arguments that no call has
        kind = types[item.type or ""]
        yield ToolCallState(id, item.name or "", text, kind == "text", closed)


class RunningCall(Protocol):
    """A tool call while it arrives. What is not known yet is None, or "". It hashes and compares by
    identity, or as what does.

    `deltas` are the pieces of its arguments, as far as they have to tell it from the other calls
    with the same index.
    """

    @property
    def id(self) -> str | None: ...
    @property
    def name(self) -> str: ...
    @property
    def custom(self) -> bool: ...
    @property
    def deltas(self) -> Sequence[str]: ...


class _RunningItem(NamedTuple):
    item: ItemState  # first: what it hashes and compares by
    id: str | None
    name: str
    custom: bool
    deltas: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(self.item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _RunningItem) and self.item is other.item


def running_item(state: State, types: Mapping[str, str], index: int) -> tuple[RunningCall, ...]:
    """The call at `index`, where each call is an item; see `item_calls`."""
    item = state.items.get(index)
    if item is None:
        return ()
    custom = types.get(item.type or "") == "text"
    return (_RunningItem(item, item.call_id or item.id, item.name or "", custom),)


class CallFinder:
    """Which call each piece of arguments belongs to. For the thread that reads the stream, which
    asks for every chunk of type "tool_call" once, in their order. It takes the same time however
    many pieces a call has.

    The chunks of several calls may have one index (Chat Completions). A chunk has the very object
    that was appended to the pieces of its call. One that fits several of them may be taken for a
    piece of another call, whose own next piece it equals: so each call has its pieces, and no
    other, in their order.

    `calls` returns the calls whose chunks have an index, as far as they have arrived.
    """

    def __init__(self, calls: Callable[[State, int], Sequence[RunningCall]]) -> None:
        self._calls = calls
        self._state: State | None = None
        self._taken: dict[RunningCall, int] = {}  # the pieces of each call that were found
        self._latest: dict[int, int] = {}  # index -> the place of the call that was found last

    def find(self, state: State, chunk: Chunk) -> RunningCall | None:
        """The call that `chunk` is a piece of; None where that is not known."""
        if state is not self._state:  # the answer began anew
            self._state = state
            self._taken, self._latest = {}, {}
        calls = self._calls(state, chunk.index)
        if len(calls) == 1 and not calls[0].deltas:
            return calls[0]
        latest = self._latest.get(chunk.index, 0)
        for step in range(len(calls)):
            place = (latest + step) % len(calls)
            call = calls[place]
            taken = self._taken.get(call, 0)
            if taken < len(call.deltas) and call.deltas[taken] is chunk.text:
                self._taken[call] = taken + 1
                self._latest[chunk.index] = place
                return call
        return None


def call_ids(state: State, sent: list[str | None]) -> list[str]:
    """The ids of an answer's calls: as the service sent them, and one that is made for each call
    that has none, or the id of an earlier call. A made id is the same whenever it is asked for. It
    is nine letters and digits, which is what the strictest service (Mistral) takes."""
    ids: dict[str, None] = dict.fromkeys(id for id in sent if id)  # in their order
    if len(ids) == len(sent):
        return list(ids)
    ids.clear()
    answer = hashed(f"{state.seed[:_LONGEST_ID]}/{(state.response_id or '')[:_LONGEST_ID]}/")
    for id in sent:
        number = len(ids)
        while not id or id in ids:
            id = f"c{hashed(str(number), answer) % 2**32:08x}"
            number += _OTHER
        ids[id] = None
    return list(ids)


def partition_calls(
    calls: Iterator[ToolCallState], cut: bool, is_json: Callable[[str], bool]
) -> tuple[tuple[ToolCall, ...], tuple[ToolCall, ...]]:
    """The calls that are safe to run, and those that are not.

    A call is safe if it is closed and its arguments parse (free text always does). Empty arguments
    mean "{}"; but not in an answer that a limit has `cut`, where they may be missing. Beside
    arguments without a name, which may be a piece of any of them, none is safe.
    """
    whole: list[ToolCall] = []
    broken: list[ToolCall] = []
    known = list(calls)
    astray = any(call.arguments and not call.name for call in known)
    for call in known:
        text = call.arguments
        empty = not call.custom and text.strip() in _NOTHING
        missing = astray or (empty and cut and not text.strip())
        safe = call.closed and bool(call.name) and not missing
        if safe and empty:
            text = "{}"
        tool_call = ToolCall(call.id, call.name, text, call.custom)
        parses = call.custom or (is_json(text) and not _is_half_inside(text))
        (whole if safe and parses else broken).append(tool_call)
    return tuple(whole), tuple(broken)


def _is_half_inside(text: str) -> bool:
    """Whether the arguments are a JSON string that contains the beginning of an object."""
    if not text.lstrip().startswith('"'):
        return False
    inner = decode_arguments(text)
    return isinstance(inner, str) and inner.lstrip()[:1] in ("{", "[", '"')


def hashed(text: str, before: int = 0xCBF29CE484222325) -> int:
    """FNV-1a, 64 bits, of `text` after what `before` is the hash of."""
    for byte in text.encode("utf-8", "replace"):
        before = (before ^ byte) * 0x100000001B3 % 2**64
    return before


def decoded_arguments(sent: Any) -> str:
    """Arguments as text: some servers send them as decoded JSON."""
    return sent if isinstance(sent, str) else msgspec.json.encode(sent).decode()


def arguments_to_send(arguments: Any) -> str:
    """The arguments of a call that is safe to run, as text for the next prompt: one object,
    whatever a gateway made of it."""
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    if text.strip() in (*_NOTHING, "null"):
        return "{}"
    if text.lstrip().startswith('"'):  # encoded twice
        with contextlib.suppress(ValueError, RecursionError):
            return msgspec.json.encode(decode_arguments(text)).decode()
    return text


def finish_with_calls(finish: str | None, has_call: bool) -> str | None:
    """The finish of an answer that is complete: `finish`, or "tool_calls" where it has a call that
    is safe to run (`has_call`), whatever word the service has for its end. An answer that was cut
    remains one, and where the service has no word there is none."""
    return "tool_calls" if has_call and finish is not None and finish not in _KEPT else finish


def has_safe_call(calls: Iterator[ToolCallState]) -> bool:
    """Whether one of the calls of an answer that was not cut is safe to run."""
    return any(partition_calls(iter((call,)), False, is_json)[0] for call in calls)


def is_same_json(one: str, other: str) -> bool:
    """Whether both are JSON of the same value, written in whatever way."""
    try:
        return bool(decode_arguments(one) == decode_arguments(other))
    except (ValueError, RecursionError):
        return False


def is_json(text: str) -> bool:
    """Whether `text` is one whole JSON value."""
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
