"""A key that a function of the caller's returns: a token that expires (Entra, Vertex, OAuth)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ConfigurationError
from .secret import Secret

__all__ = ["ApiKey", "KeySource", "fault_of"]


class KeySource:
    """Asks a function for the key, before every request. Shows neither: a function's repr may
    contain what it was made with. Thread-safe if the function is; keeps no key."""

    __slots__ = ("ask",)

    def __init__(self, ask: Callable[[], str]) -> None:
        self.ask = ask

    def fetch(self) -> Secret:
        """The key for one request. Raises ConfigurationError if the function raises, or returns
        something that cannot be a key."""
        try:
            value: Any = self.ask()
        except Exception as exc:
            # Neither its text nor the exception itself: both may contain a secret.
            fault = (
                f"raised {type(exc).__name__} (its text may contain a secret and is not repeated: "
                "call it yourself to see it)"
            )
        else:
            fault = fault_of(value)
            if not fault:
                return Secret(value, bearer=_is_web_token(value))
        raise ConfigurationError(f"api_key: {self._name} {fault}; nothing was sent")

    @property
    def _name(self) -> str:
        name = getattr(self.ask, "__qualname__", None)
        return f"{name}()" if isinstance(name, str) else f"the {type(self.ask).__qualname__}"

    @property
    def identity(self) -> str:
        """What tells it from other keys: the same function, or the same method of one object."""
        owner = getattr(self.ask, "__self__", None)
        function = getattr(self.ask, "__func__", self.ask)
        return f"\0callable {id(owner) if function is not self.ask else 0} {id(function)}"

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySource) and other.ask == self.ask

    def __hash__(self) -> int:
        return hash(self.ask)


_LONGEST = 65_536  # characters; no server takes so long a header

# What `Client(api_key=...)` takes.
ApiKey = str | Secret | KeySource | Callable[[], str]


def fault_of(value: Any) -> str:
    """Why this cannot be a key, in words for "the function ..."; "" if it can be one."""
    if not isinstance(value, str):
        return f"returned {type(value).__name__} instead of a string"
    if not value:
        return "returned an empty string"
    if len(value) > _LONGEST:
        return f"returned a key of more than {_LONGEST:,} characters"
    if not value.isascii() or not value.isprintable() or " " in value:
        return "returned a key with white space or characters that no header can contain: strip it"
    return ""


def _is_web_token(value: str) -> bool:
    """Whether it is a JSON Web Token. Those are sent as `Authorization: Bearer`, also to services
    (Azure's) whose other keys have a header of their own."""
    return value.startswith("eyJ") and value.count(".") in (2, 4)
