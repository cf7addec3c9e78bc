"""A value that does not show itself."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Secret"]

_RECOGNISED = 8  # characters of a key that give it away ("sk-proj-" and the like do no harm)


class Secret:
    """A key. Only `reveal()` gives it; text, repr, format and logs show "***", and it cannot be
    pickled or copied into one."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the header it goes out in."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with the key blotted out, also where only its beginning is left of it."""
        value, start = self._value, 0
        if len(value) < _RECOGNISED:
            return text  # "test", "none": what local servers are given is no secret, but a word
        beginning = value[:_RECOGNISED]
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
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled: configure it where it is used")
