"""The arguments of a call that arrives as values at paths (Gemini on Vertex). Pure.

The pieces arrive in the order of the JSON, so the JSON grows with them. Where they do not, what was
shown of it cannot be taken back: the call is then not safe to run.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ...events.gemini import PartialArg
from ..state import Misplaced

__all__ = ["PartialArguments"]

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""")
_ESCAPED = re.compile(r"\\(.)")
_DEEPEST = 100  # objects and lists inside each other

Step = str | int


def _steps(path: str | None) -> list[Step]:
    """A JSONPath to one value (RFC 9535): `$.a.b[0]['c']`."""
    text = path or ""
    at = 1 if text.startswith("$") else 0
    steps: list[Step] = []
    if text and at == 0:
        text, at = f".{text}", 0
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            raise Misplaced("it has a piece of a call's arguments at a path that cannot be read")
        name, number, single, double = found.groups()
        if number is not None:
            steps.append(int(number))
        else:
            quoted = single if single is not None else double
            steps.append(name if quoted is None else _ESCAPED.sub(r"\1", quoted))
        at = found.end()
    if not steps or isinstance(steps[0], int) or len(steps) > _DEEPEST:
        raise Misplaced("it has a piece of a call's arguments at a path that cannot be one")
    return steps


class _Open:
    """An object or a list that is being written."""

    __slots__ = ("known", "step")

    def __init__(self) -> None:
        self.step: Step | None = None  # the latest one
        self.known: set[Step] = set()


class PartialArguments:
    """JSON that grows. Not thread-safe."""

    __slots__ = ("_open", "_path", "_string", "_text", "is_odd")

    def __init__(self) -> None:
        self._text: list[str] = ["{"]  # not yet shown
        self._open: list[_Open] = [_Open()]
        self._path: list[Step] = []  # of the string that is open
        self._string = False
        self.is_odd = False  # a piece is not where the JSON goes on

    def grown(self) -> str:
        """What has been added since the last time."""
        text = "".join(self._text)
        self._text.clear()
        return text

    def closed(self) -> str:
        """The same, with the end of the JSON."""
        self._end_string()
        self._leave(0)
        self._text.append("}")
        return self.grown()

    def set(self, name: str, value: Any) -> None:
        """A value that is whole."""
        self._end_string()
        if self._reach([name]):
            self._text.append(_encoded(value))

    def add(self, piece: PartialArg, *, is_null: bool) -> None:
        """A value, or a piece of a string. `is_null`: the piece has the field of a null, which may
        itself be null. Raises Misplaced for a path that cannot be read."""
        path = _steps(piece.json_path)
        text = piece.string_value
        others = (piece.number_value, piece.bool_value, piece.null_value)
        has_other = any(value is not None for value in others)
        if self._string and path == self._path:
            if text is None and has_other:
                self.is_odd = True
                return
            self._text.append(_encoded(text or "")[1:-1])
            if not piece.will_continue:
                self._end_string()
            return
        self._end_string()
        if text is None and not has_other and not is_null:
            # Unless the value is only announced, which one it is cannot be known.
            self.is_odd = self.is_odd or not piece.will_continue
            return
        if not self._reach(path):
            return
        if text is None:
            value = piece.number_value if piece.number_value is not None else piece.bool_value
            self._text.append(_encoded(value))
            return
        self._text.append(_encoded(text)[:-1])
        self._string, self._path = True, path
        if not piece.will_continue:
            self._end_string()

    def _end_string(self) -> None:
        if self._string:
            self._text.append('"')
            self._string = False

    def _reach(self, path: list[Step]) -> bool:
        """Go to where the value at `path` stands. False where the JSON is past it."""
        same = 0
        for level, step in zip(self._open[:-1], path, strict=False):
            if level.step != step:
                break
            same += 1
        same = min(same, len(path) - 1)
        self._leave(same)
        for step in path[same:-1]:
            if not self._begin(step):
                return False
            self._open.append(_Open())
            self._text.append("[" if isinstance(path[len(self._open) - 1], int) else "{")
        return self._begin(path[-1])

    def _begin(self, step: Step) -> bool:
        level = self._open[-1]
        is_list = isinstance(step, int)
        mixed = level.step is not None and isinstance(level.step, int) is not is_list
        if step in level.known or mixed or (is_list and step != len(level.known)):
            self.is_odd = True
            return False
        if level.known:
            self._text.append(",")
        level.known.add(step)
        level.step = step
        if not is_list:
            self._text.append(f"{_encoded(step)}:")
        return True

    def _leave(self, depth: int) -> None:
        """End what is open below the levels of `depth` steps."""
        while len(self._open) - 1 > depth:
            level = self._open.pop()
            self._text.append("]" if isinstance(level.step, int) else "}")


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()
