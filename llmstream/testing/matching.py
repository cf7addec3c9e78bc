"""Which recorded request a request is, and in what it differs from those that it is not.

Compared are requests as a file has them, without their secrets: a text with "***" in it is one that
has anything in its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, UnsetType

from .._core.checks import few, shown
from ..errors import ConfigurationError
from .scrub import BLOT
from .tape import TapedRequest

__all__ = ["MATCH_ON", "Matcher", "is_of"]

MATCH_ON = ("method", "url", "body")
_PARTS = ("method", "url", "path", "body")
_NAMED = 4  # differences that a message names
_LOOKED_AT = 1000  # differences of a request that are counted
# Fields whose values are names, and no part of a prompt.
_NAMES = frozenset(
    {"model", "type", "role", "name", "status", "effort", "tool_choice", "stop_reason", "detail"}
)
_NAME = re.compile(r"[\w.:/-]{1,64}")
_MISSING: Any = object()


class Matcher:
    """Compares requests. `match_on` are the parts that have to be equal: "method", "url" or "path"
    (the address without host and port), "body". `ignore` are fields of the body that are not
    compared, as paths: "metadata.run", "input.0.content", "messages.*.name".

    Raises ConfigurationError for what is not known."""

    def __init__(self, match_on: Sequence[str] = MATCH_ON, ignore: Sequence[str] = ()) -> None:
        self._match_on = few("match_on", match_on, f"names of {[*_PARTS]}")
        paths = few("ignore", ignore, "paths like 'metadata.run'")
        for part in self._match_on:
            if part not in _PARTS:
                raise ConfigurationError(f"match_on has {shown(part)}: use names of {[*_PARTS]}")
        for path in paths:
            if not isinstance(path, str) or not path:
                raise ConfigurationError(
                    f"ignore has {shown(path)}: give paths like 'metadata.run'"
                )
        self._ignore = [path.split(".") for path in paths]

    def key(self, request: TapedRequest) -> str:
        """Equal for requests that are the same, but for the order of fields."""
        return json.dumps(self._form(request), sort_keys=True)

    def same(self, recorded: TapedRequest, request: TapedRequest) -> bool:
        return next(_differences(self._form(recorded), self._form(request)), None) is None

    def distance(self, recorded: TapedRequest, request: TapedRequest) -> int:
        """How far a recorded request is from this one: the number of differences; those of the
        address count more."""
        found = islice(_differences(self._form(recorded), self._form(request)), _LOOKED_AT)
        return sum(1 if path[0] == "body" else _LOOKED_AT for path, _, _ in found)

    def describe(self, recorded: TapedRequest, request: TapedRequest) -> str:
        """What differs, in words that quote no text of a prompt."""
        found = [*islice(_differences(self._form(recorded), self._form(request)), _LOOKED_AT)]
        words = [_described(*difference) for difference in found[:_NAMED]]
        if len(found) > _NAMED:
            words.append(f"and {len(found) - _NAMED} more")
        return ", ".join(words)

    def _form(self, request: TapedRequest) -> dict[str, Any]:
        form: dict[str, Any] = {}
        for part in self._match_on:
            if part == "path":
                address = urlsplit(request.url)
                form["path"] = address.path + ("?" + address.query if address.query else "")
            elif part != "body":
                form[part] = getattr(request, part)
            elif request.body is not UNSET:
                form["body"] = self._without_ignored(request.body)
            elif not isinstance(request.text, UnsetType):
                form["text"] = msgspec.to_builtins(request.text)
        return form

    def _without_ignored(self, body: Any) -> Any:
        for path in self._ignore:
            body = _without(body, path)
        return body


def _without(value: Any, path: Sequence[str]) -> Any:
    """A JSON value without what stands at `path`."""
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        names = [name for name in value if first in (name, "*")]
        changed = {name: _without(value[name], rest) for name in names if rest}
        return {**{n: v for n, v in value.items() if n not in names}, **changed}
    if isinstance(value, list):
        return [
            _without(held, rest) if rest and first in (str(index), "*") else held
            for index, held in enumerate(value)
            if rest or first not in (str(index), "*")
        ]
    return value


def _differences(
    recorded: Any, now: Any, path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Where two JSON values differ: the place, and both values there."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for name in [*recorded, *(name for name in now if name not in recorded)]:
            here, there = recorded.get(name, _MISSING), now.get(name, _MISSING)
            yield from _differences(here, there, (*path, name))
    elif isinstance(recorded, list) and isinstance(now, list):
        for index in range(max(len(recorded), len(now))):
            here = recorded[index] if index < len(recorded) else _MISSING
            there = now[index] if index < len(now) else _MISSING
            yield from _differences(here, there, (*path, index))
    elif not _equal(recorded, now):
        yield path, recorded, now


def _equal(recorded: Any, now: Any) -> bool:
    if isinstance(recorded, str) and isinstance(now, str):
        return recorded == now or _fits(recorded, now)
    return type(recorded) is type(now) and bool(recorded == now)


def _fits(recorded: str, now: str) -> bool:
    """Whether a text can be the one in which something is blotted out."""
    first, *inner = recorded.split(BLOT)
    if not inner or not now.startswith(first):
        return False
    at = len(first)
    for part in inner[:-1]:
        found = now.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(now) - at >= len(inner[-1]) and now.endswith(inner[-1])


def _described(path: tuple[Any, ...], recorded: Any, now: Any) -> str:
    place = str(path[0]) + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}"[:60] for step in path[1:]
    )
    if recorded is _MISSING:
        return f"{place} (not in the recording)"
    if now is _MISSING:
        return f"{place} (only in the recording)"
    if isinstance(recorded, str) and isinstance(now, str) and not _is_name(path, recorded, now):
        same = next(
            (at for at, pair in enumerate(zip(recorded, now, strict=False)) if pair[0] != pair[1]),
            min(len(recorded), len(now)),
        )
        return (
            f"{place} (recorded {len(recorded)} characters, now {len(now)}; "
            f"the first {same} are the same)"
        )
    plain = _is_name(path, recorded, now)
    return f"{place} (recorded {_shown(recorded, plain)}, now {_shown(now, plain)})"


def _is_name(path: tuple[Any, ...], *values: Any) -> bool:
    if path in (("method",), ("url",), ("path",)):
        return True
    return path[-1] in _NAMES and all(isinstance(v, str) and _NAME.fullmatch(v) for v in values)


def _shown(value: Any, plain: bool) -> str:
    if isinstance(value, str):
        return repr(value) if plain else f"a string of {len(value)} characters"
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return shown(value)


def is_of(url: str, hosts: Sequence[str]) -> bool:
    """Whether the host of an address is one of these names, in which * stands for anything."""
    host = urlsplit(url).hostname or ""
    return any(fnmatchcase(host, pattern) for pattern in hosts)
