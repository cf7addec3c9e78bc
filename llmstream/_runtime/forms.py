"""Makes the forms of types one at a time: msgspec crashes the process where two threads read the
same class of Structs for the first time (0.22, CPython 3.11 and 3.12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core.typeform import TypeForm
from .fork import renew_in_child
from .threads import RLock

__all__ = ["form_of", "forms_of"]


class _Turn:
    """Who makes a form now. A signal handler that makes one in the meantime has the same turn."""

    def __init__(self) -> None:
        self.lock = RLock()
        renew_in_child(self, lock=RLock)


_turn = _Turn()


def form_of(type: Any) -> TypeForm[Any]:
    """`TypeForm.of`, for any number of threads."""
    with _turn.lock:
        return TypeForm.of(type)


def forms_of(types: Sequence[Any]) -> list[TypeForm[Any]]:
    """`TypeForm.of_each`, for any number of threads."""
    with _turn.lock:
        return TypeForm.of_each(types)
