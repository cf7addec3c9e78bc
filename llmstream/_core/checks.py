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
    if isinstance(value, str):
        _check_text(name, value)
        return
    left = [_VALUES]
    try:
        _check(value, (name,), left)
    except RecursionError:  # the caller is almost as deep as Python goes
        raise _refused((name,), "a structure that is too deep here") from None


def _check(value: Any, place: tuple[str | int, ...], left: list[int]) -> None:
    if isinstance(value, str):
        if not value.isascii():
            _check_text(place, value)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int):
        if not _LEAST_INT <= value <= _GREATEST_INT:
            raise _refused(place, f"{shown(value)}, and 64 are the most")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _refused(place, f"{shown(value)}, which JSON does not have")
    elif isinstance(value, (dict, list, tuple, Mapping)):
        _check_inside(value, place, left)
    else:
        raise _refused(place, shown(value))


def _check_inside(value: Any, place: tuple[str | int, ...], left: list[int]) -> None:
    if len(place) > _DEEP:
        raise _refused(place[:4], f"a structure deeper than {_DEEP}, or one that contains itself")
    left[0] -= len(value) + 1
    if left[0] < 0:
        raise _refused(place[:4], f"more than {_VALUES:,} values")
    if not isinstance(value, Mapping):
        for index, inner in enumerate(value):
            if not _is_plain(inner):
                _check(inner, (*place, index), left)
        return
    for key, inner in value.items():
        if not isinstance(key, str):
            raise _refused(place, f"the key {shown(key)}, which is not a string")
        if not key.isascii():
            _check_text(place, key)
        if not _is_plain(inner):
            _check(inner, (*place, key), left)


def _is_plain(value: Any) -> bool:
    """What most values are: there is nothing to look at in it."""
    return value is None or (type(value) is str and value.isascii())


def _check_text(place: str | tuple[str | int, ...], text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        at = exc.start
    else:
        return
    place = (place,) if isinstance(place, str) else place
    raise _refused(place, f"half a character (a lone surrogate) at position {at}")


def _refused(place: tuple[str | int, ...], what: str) -> ConfigurationError:
    path = str(place[0])
    for step in place[1:]:
        path += f"[{step}]" if isinstance(step, int) else f"[{shown(step)}]"
    return ConfigurationError(
        f"{path} cannot be written as JSON ({what}): use plain dicts with strings as keys, lists, "
        "strings, and finite numbers"
    )
