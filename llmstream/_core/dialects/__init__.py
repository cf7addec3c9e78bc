"""One module per API, imported when it is used. A new service is a new file and a row here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping

from .base import Call, Dialect, WireRequest

__all__ = ["DIALECTS", "Call", "Dialect", "WireRequest"]


def _responses() -> Dialect:
    from .responses import RESPONSES

    return RESPONSES


def _messages() -> Dialect:
    from .messages import MESSAGES

    return MESSAGES


def _chat() -> Dialect:
    from .chat import CHAT

    return CHAT


class _Dialects(MutableMapping[str, Dialect]):
    """By name. Each is made at its first use: its events alone are some sixty classes."""

    def __init__(self, rows: dict[str, Callable[[], Dialect]]) -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> Dialect:
        return self._rows[name]()

    def __setitem__(self, name: str, dialect: Dialect) -> None:
        self._rows[name] = lambda: dialect

    def __delitem__(self, name: str) -> None:
        del self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


DIALECTS = _Dialects({"responses": _responses, "messages": _messages, "chat": _chat})
