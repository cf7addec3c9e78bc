"""What every check of a caller's values uses: how a value is shown in a message, and whether a
number or a JSON value is one that can be sent.

No check calls a method of an object that is not a plain value: its `__repr__`, `__float__` or
`__eq__` may raise, take long, or show a key. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

from ..errors import ConfigurationError

__all__ = [
    "CENTURY",
    "MANY",
    "checked_json",
    "checked_range",
    "few",
    "has_method",
    "is_number",
    "is_whole",
    "shown",
]

CENTURY = 3_153_600_000.0  # seconds: a longer wait is a mistake in the unit
MANY = 2**31 - 1  # of anything that is counted

_FEW = 10_000
_SHOWN = 16  # characters of a string; a longer one may be a key or a prompt
_DEEP = 200  # containers inside each other; services refuse fewer
_VALUES = 2_000_000  # values in one parameter; to look at so many takes less than a second
_LEAST_INT, _GREATEST_INT = -(2**63), 2**64 - 1  # more is written by no encoder


def shown(value: object) -> str:
    """A value in a message: plain ones as they are where they are short, others by their type."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        bits = int.bit_length(value)
        return int.__repr__(value) if bits <= 64 else f"an integer of {bits} bits"
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, str):
        size = str.__len__(value)
        return str.__repr__(value) if size <= _SHOWN else f"a string of {size} characters"
    return f"an object of type {type(value).__name__}"


def is_number(value: object) -> bool:
    """Whether it is an int or a float. A bool is not one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: object, least: int, most: int) -> bool:
    """Whether it is an int from `least` to `most`. A bool is not one."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def has_method(value: object, name: str) -> bool:
    """Whether an object (not a class) has this method. Whatever its attributes raise counts as
    no."""
    try:
        return not isinstance(value, type) and callable(getattr(value, name, None))
    except Exception:
        return False


def checked_range(name: str, value: Any, least: float, most: float) -> float:
    """A number from `least` to `most`. Raises ConfigurationError."""
    if not is_number(value) or not least <= value <= most:
        raise ConfigurationError(
            f"{name}={shown(value)}: pass a number from {_plain(least)} to {_plain(most)}"
        )
    number: float = value
    return number


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number == math.floor(number) else f"{number:g}"


def few(name: str, values: Any, what: str) -> list[Any]:
    """The values of any iterable but a string, at most 10,000: it may have no end. Raises
    ConfigurationError; `what` says what they are."""
    try:
        if isinstance(values, (str, bytes)):
            raise TypeError
        found = list(islice(values, _FEW + 1))
    except Exception:  # whatever an iterator raises
        raise ConfigurationError(f"{name}: give a list of {what}, not {shown(values)}") from None
    if len(found) > _FEW:
        raise ConfigurationError(f"{name}: give at most {_FEW:,} {what}")
    return found


# ---- JSON --------------------------------------------------------------------------------------


def checked_json(name: str, value: Any) -> None:
    """Raises ConfigurationError, with the place, for a value that JSON does not have: NaN, bytes, a
    set, half a character, an object, a key that is not a string, a structure that contains itself.
    (The encoder writes some of these as something else: NaN as null, bytes in base64.)"""
    try:
        _check(value, 1, [_VALUES])
    except _OddError as odd:
        place = (name, *reversed(odd.steps))
        error = _refused(place[:4] if odd.is_vast else place, odd.what)
    except RecursionError:  # the caller is almost as deep as Python goes
        error = _refused((name,), "a structure that is too deep here")
    else:
        return
    raise error


class _OddError(Exception):
    """A value that JSON does not have. On the way out it gathers where that is, from the inside:
    values that are right pay nothing for it."""

    def __init__(self, what: str, *, is_vast: bool = False) -> None:
        self.what = what
        self.is_vast = is_vast  # the whole place would be too long
        self.steps: list[str | int] = []


def _check(value: Any, depth: int, left: list[int]) -> None:
    if isinstance(value, str):
        _check_text(value)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int):
        if not _LEAST_INT <= value <= _GREATEST_INT:
            raise _OddError(f"{shown(value)}, and 64 are the most")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _OddError(f"{shown(value)}, which JSON does not have")
    elif isinstance(value, (dict, list, tuple, Mapping)):
        _check_inside(value, depth, left)
    else:
        raise _OddError(shown(value))


def _check_inside(value: Any, depth: int, left: list[int]) -> None:
    if depth > _DEEP:
        raise _OddError(
            f"a structure deeper than {_DEEP}, or one that contains itself", is_vast=True
        )
    left[0] -= len(value) + 1
    if left[0] < 0:
        raise _OddError(f"more than {_VALUES:,} values", is_vast=True)
    is_mapping = type(value) is not list and isinstance(value, Mapping)
    if is_mapping:
        for key in value:
            _check_key(key)
    step: str | int = -1
    try:
        for step, inner in value.items() if is_mapping else enumerate(value):  # noqa: B007 - below
            kind = type(inner)
            if kind is list or kind is dict:
                _check_inside(inner, depth + 1, left)
            elif not (inner is None or (kind is str and inner.isascii())):
                _check(inner, depth + 1, left)
    except _OddError as odd:
        odd.steps.append(step)
        raise


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise _OddError(f"the key {shown(key)}, which is not a string")
    if not key.isascii():
        _check_text(key)


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise _OddError(f"half a character (a lone surrogate) at position {exc.start}") from None


def _refused(place: tuple[str | int, ...], what: str) -> ConfigurationError:
    path = str(place[0])
    for step in place[1:]:
        path += f"[{step}]" if isinstance(step, int) else f"[{shown(step)}]"
    return ConfigurationError(
        f"{path} cannot be written as JSON ({what}): use plain dicts with strings as keys, lists, "
        "strings, and finite numbers"
    )
