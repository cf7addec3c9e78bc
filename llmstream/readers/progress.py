"""Progress: how far an answer is."""

from __future__ import annotations

from msgspec import Struct

from ..result import LLMStreamError

__all__ = ["UNDONE", "Progress"]

UNDONE = 0.95  # the most that `fraction` is before the end: a guess is not a promise


class Progress(Struct, frozen=True):
    """How far an answer is. Immutable; it pickles.

    Args:
        chunks: the pieces so far, of every kind: thinking and arguments of tool calls too.
        chars: the characters of the answer's text so far.
        elapsed: seconds since `handle` was called.
        chunks_per_second: `chunks` in the time that has elapsed. A chunk is not a token: services
            put one or several into a chunk.
        tokens_per_second: the output tokens that the service reported, in the time that has
            elapsed. Never an estimate: None until the answer is whole, and where the service
            reports none.
        fraction: `chars` of the characters that were expected, 0.95 at most until the answer is
            whole, then 1.0. None where no number was given.
        done: whether the answer is whole.
        error: what ended the call otherwise.
    """

    chunks: int = 0
    chars: int = 0
    elapsed: float = 0.0
    chunks_per_second: float = 0.0
    tokens_per_second: float | None = None
    fraction: float | None = None
    done: bool = False
    error: LLMStreamError | None = None
