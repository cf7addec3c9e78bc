"""A key that does not appear in texts, logs or pickles. Imports nothing of the package."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Secret"]


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
