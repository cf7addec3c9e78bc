"""Damage to streams that knows what a stream is made of: events are lost, doubled, swapped, cut,
and the fields of their JSON become something else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["ODD", "OPS", "Op", "blocks_of", "damaged", "random_ops"]

# What a field may hold in the place of what belongs there.
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    1.5,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "0",
    "error",
    "\ud83d",
    "\0",
    [],
    [[]],
    [None],
    ["x"],
    {},
    {"type": "text", "text": "y"},
    {"text": "z"},
    {"error": {"message": "m", "code": 429}},
    {"arguments": "{", "name": "f"},
)


class Op(NamedTuple):
    """One damage: its name, which block, where in it, and which odd value (or other block)."""

    name: str
    block: int
    place: int = 0
    value: int = 0


def blocks_of(body: bytes) -> list[bytes]:
    """The blocks of a stream with its line ends, each with its blank line."""
    return [block + b"\n\n" for block in body.replace(b"\r\n", b"\n").split(b"\n\n") if block]


def damaged(blocks: Iterable[bytes], ops: Iterable[Op]) -> list[bytes]:
    """The blocks after all of it."""
    found = list(blocks)
    for op in ops:
        if found:
            OPS[op.name](found, op.block % len(found), op.place, op.value)
            found = [block for block in found if block]
    return found


def random_ops(rng: random.Random, count: int) -> list[Op]:
    names = sorted(OPS)
    return [
        Op(rng.choice(names), rng.randrange(1000), rng.randrange(1000), rng.randrange(1000))
        for _ in range(count)
    ]


# --- to whole events ----------------------------------------------------------------------------


def _drop(blocks: list[bytes], at: int, place: int, value: int) -> None:
    del blocks[at]


def _double(blocks: list[bytes], at: int, place: int, value: int) -> None:
    blocks.insert(place % (len(blocks) + 1), blocks[at])


def _move(blocks: list[bytes], at: int, place: int, value: int) -> None:
    blocks.insert(place % len(blocks), blocks.pop(at))


def _cut(blocks: list[bytes], at: int, place: int, value: int) -> None:
    """The block is cut, and the stream goes on or not."""
    block = blocks[at]
    blocks[at] = block[: place % len(block)] + (b"", b"\n", b"\n\n")[value % 3]
    if value % 2:
        del blocks[at + 1 :]


def _byte(blocks: list[bytes], at: int, place: int, value: int) -> None:
    block = bytearray(blocks[at])
    block[place % len(block)] = value % 256
    blocks[at] = bytes(block)


def _line_ends(blocks: list[bytes], at: int, place: int, value: int) -> None:
    blocks[at] = blocks[at].replace(b"\n", (b"\r\n", b"\r", b"\n\r", b"\n\n")[value % 4])


def _noise(blocks: list[bytes], at: int, place: int, value: int) -> None:
    noise = (
        b": ping\n\n",
        b"\xef\xbb\xbf",
        b"\n",
        b"\r",
        b"data\n\n",
        b"id: 1\n",
        b"data: [DONE]\n\n",
    )
    blocks.insert(at, noise[value % len(noise)])


# --- to the JSON of one event -------------------------------------------------------------------


def _field(blocks: list[bytes], at: int, place: int, value: int) -> None:
    """Something else in the place of any value."""
    _edit(blocks, at, lambda payload: _put(payload, place, lambda _: ODD[value % len(ODD)]))


def _without(blocks: list[bytes], at: int, place: int, value: int) -> None:
    """A field is missing."""

    def edit(payload: Any) -> Any:
        holders = [node for node in _nodes(payload) if isinstance(node, dict) and node]
        if holders:
            holder = holders[place % len(holders)]
            del holder[list(holder)[value % len(holder)]]
        return payload

    _edit(blocks, at, edit)


def _graft(blocks: list[bytes], at: int, place: int, value: int) -> None:
    """A value of another event in the place of any value."""
    other = _payload(blocks[value % len(blocks)])
    nodes = list(_nodes(other))
    _edit(blocks, at, lambda payload: _put(payload, place, lambda _: nodes[value % len(nodes)]))


def _nest(blocks: list[bytes], at: int, place: int, value: int) -> None:
    """A value inside something else."""
    wrap: Callable[[Any], Any] = (
        lambda node: [node],
        lambda node: {"response": node},
        lambda node: {"error": node},
        lambda node: {"message": node, "type": "message_start"},
        lambda node: {"choices": [node]},
        lambda node: [[node] * 3],
    )[value % 6]
    _edit(blocks, at, lambda payload: _put(payload, place, wrap))


def _edit(blocks: list[bytes], at: int, change: Callable[[Any], Any]) -> None:
    head, mark, _ = blocks[at].partition(b"data:")
    payload = _payload(blocks[at])
    if mark and payload is not None:
        changed = json.dumps(change(payload), separators=(",", ":"))
        blocks[at] = head + mark + b" " + changed.encode() + b"\n\n"


def _payload(block: bytes) -> Any:
    try:
        return json.loads(block.partition(b"data:")[2])
    except (ValueError, RecursionError):
        return None


def _nodes(payload: Any) -> Iterator[Any]:
    yield payload
    for inner in payload.values() if isinstance(payload, dict) else ():
        yield from _nodes(inner)
    for inner in payload if isinstance(payload, list) else ():
        yield from _nodes(inner)


def _put(payload: Any, place: int, change: Callable[[Any], Any]) -> Any:
    """`payload` with its node number `place`, in the order of `_nodes`, changed."""
    left = place % sum(1 for _ in _nodes(payload))

    def walk(node: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            left = 1 << 60
            return change(node)
        if isinstance(node, dict):
            return {key: walk(inner) for key, inner in node.items()}
        return [walk(inner) for inner in node] if isinstance(node, list) else node

    return walk(payload)


OPS: dict[str, Callable[[list[bytes], int, int, int], None]] = {
    "drop": _drop,
    "double": _double,
    "move": _move,
    "cut": _cut,
    "byte": _byte,
    "line ends": _line_ends,
    "noise": _noise,
    "field": _field,
    "without": _without,
    "graft": _graft,
    "nest": _nest,
}
