"""A key that does not appear in texts, logs or pickles. Imports nothing of the package."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Secret"]

_BEGINNING = 8  # characters of a key that are looked for ("sk-proj-" and the like are harmless)


class Secret:
    """A key. Only `reveal()` returns it: its text, repr and format are "***". It cannot be pickled;
    pickle and copy raise TypeError. `bearer`: it is sent as `Authorization: Bearer`, whatever
    header the API has for keys."""

    __slots__ = ("_value", "bearer")

    def __init__(self, value: str, *, bearer: bool = False) -> None:
        self._value = value
        self.bearer = bearer

    def reveal(self) -> str:
        """The key itself, for the header that it is sent in."""
        return self._value

    @property
    def identity(self) -> str:
        """What tells it from other keys. As secret as the key."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with "***" in place of the key, also where it contains only the key's
        beginning."""
        value, start = self._value, 0
        if len(value) < _BEGINNING:
            return text  # a key for a local server ("test", "none") is not secret, and a usual word
        beginning = value[:_BEGINNING]
        while (at := text.find(beginning, start)) >= 0:
            length = len(beginning)
            while text[at + length : at + length + 1] == value[length : length + 1] != "":
                length += 1
            text = f"{text[:at]}***{text[at + length :]}"
            start = at + 3
        return text

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Secret)
            and other._value == self._value
            and other.bearer == self.bearer
        )

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled: configure it where it is used")
