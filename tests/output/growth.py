"""What it means that a partial value grows into the whole one; and JSON to try it with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

__all__ = ["check_grown", "drained", "random_json", "random_value"]


def drained(view: Iterable[Any]) -> tuple[list[Any], BaseException | None]:
    """All items of a view, and what it raised after them."""
    items: list[Any] = []
    try:
        items.extend(view)
    except BaseException as exc:
        return items, exc
    return items, None


def check_grown(before: Any, after: Any, path: str = "$") -> None:
    """`before` has only what `after` has: a string is a prefix, a list and an object have the first
    values, everything else is the same."""
    if isinstance(after, str):
        assert isinstance(before, str), path
        assert after.startswith(before), path
    elif isinstance(after, dict):
        assert isinstance(before, dict), path
        assert [*before] == [*after][: len(before)], path
        for name in before:
            check_grown(before[name], after[name], f"{path}.{name}")
    elif isinstance(after, list):
        assert isinstance(before, list), path
        assert len(before) <= len(after), path
        for index, (one, other) in enumerate(zip(before, after, strict=False)):
            check_grown(one, other, f"{path}[{index}]")
    else:
        assert type(before) is type(after), path
        assert before == after, path


_LETTERS = 'ab"\\\né\U0001f600{}[],:\u2028 `0-'


def random_value(chance: random.Random, depth: int = 0) -> Any:
    """A value that is likely to be cut in an odd place."""
    kind = chance.randrange(8 if depth < 4 else 5)
    if kind == 0:
        return chance.choice([True, False, None])
    if kind == 1:
        return chance.choice([0, -1, 12345, 10**30, chance.random() * 1e9, 1e-7, -2.5e300])
    if kind < 5:
        return _text(chance)
    if kind == 5:
        return [random_value(chance, depth + 1) for _ in range(chance.randrange(5))]
    return {_text(chance): random_value(chance, depth + 1) for _ in range(chance.randrange(5))}


def random_json(chance: random.Random, value: Any) -> str:
    """JSON of it, written in one of several ways."""
    return json.dumps(value, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1]))


def _text(chance: random.Random) -> str:
    return "".join(chance.choice(_LETTERS) for _ in range(chance.randrange(7)))
