"""Outcome: how a call ended, as a value."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..result import LLMStreamError, Result, printable

__all__ = ["Outcome"]

_SHOWN = 60  # characters of a text or an error's message in the repr


class Outcome(Struct, frozen=True):
    """How a call ended: with a result, or with an error. Immutable; any thread may read it. It
    pickles if the prompt does.

    Args:
        index: the position of the prompt among those of its batch, from 0.
        prompt: the prompt as the caller gave it, None where it is not known (`collect`).
        result: the whole answer, None if the call failed.
        error: what ended the call otherwise, None if it succeeded. `error.partial` is what had
            arrived.
    """

    index: int
    prompt: Any
    result: Result | None
    error: LLMStreamError | None

    @property
    def ok(self) -> bool:
        """Whether the answer is whole."""
        return self.error is None

    @property
    def text(self) -> str:
        """The answer's text: all of it, or, beside an error, what had arrived."""
        if self.result is not None:
            return self.result.text
        return self.error.partial.text if self.error is not None else ""

    def __repr__(self) -> str:
        """The index, and how it ended. The prompt is left out: a repr is written into logs."""
        shown = f"index={self.index}, ok={self.ok}, text={_short(self.text)!r}"
        if self.error is not None:
            shown += f", error={type(self.error).__name__}({_short(self.error.message)!r})"
        return f"<Outcome {shown}>"


def _short(text: str) -> str:
    shown = printable(text[: _SHOWN + 1])
    return shown if len(text) <= _SHOWN else f"{shown[:_SHOWN]}..."
