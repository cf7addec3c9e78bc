"""Numbers in words, as the results show them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["alternatives", "counted", "seconds_or_off"]


def counted(number: int, noun: str) -> str:
    """`counted(2, "request")` is "2 requests"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def seconds_or_off(seconds: float | str | None) -> str:
    """A clock's setting: its seconds, "auto", or "off" for None."""
    if isinstance(seconds, str):
        return seconds
    return "off" if seconds is None else f"{seconds:g}"


def alternatives(names: Sequence[str]) -> str:
    """The names, each once, joined by "or"."""
    return " or ".join(dict.fromkeys(names))
