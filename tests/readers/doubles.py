"""Streams of tests: in memory, with moments of the test's choosing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from llmstream import Cancelled, Chunk, LLMStreamError, Result


class Script:
    """A stream that yields `items` (texts, or chunks) and then succeeds, or fails with `error`.

    `before` is called with the number of the next item before each, and before the end. It may
    wait; `cancelled` says that a cancel has come.
    """

    def __init__(
        self,
        items: Sequence[str | Chunk],
        error: Exception | None = None,
        before: Callable[[int], object] = lambda number: None,
    ) -> None:
        self.items = [i if isinstance(i, Chunk) else Chunk("text", i) for i in items]
        self.error = error
        self.before = before
        self.given = 0
        self.reason: str | None = None
        self.cancelled = threading.Event()
        self.closed = False

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.items[: self.given] if chunk.type == "text")

    @property
    def stopped(self) -> bool:
        return self.cancelled.is_set()

    def chunks(self) -> Iterator[Chunk]:
        return _View(self)

    def __iter__(self) -> Iterator[str]:
        return (chunk.text for chunk in self.chunks() if chunk.type == "text")

    def next(self) -> Chunk | None:
        if not self.cancelled.is_set():
            self.before(self.given)
        if self.cancelled.is_set():
            raise Cancelled("the call was cancelled", reason=self.reason)
        if self.given == len(self.items):
            if self.error is not None:
                raise self.error
            return None
        self.given += 1
        return self.items[self.given - 1]

    def result(self) -> Result:
        while self.next() is not None:
            pass
        return Result(text=self.text, finish="stop")

    def cancel(self, reason: str | None = None) -> None:
        if not self.cancelled.is_set():
            self.reason = reason
            self.cancelled.set()


class _View:
    def __init__(self, script: Script) -> None:
        self.script = script

    def __iter__(self) -> _View:
        return self

    def __next__(self) -> Chunk:
        chunk = self.script.next()
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self.script.closed = True


def broken(message: str = "cut off") -> LLMStreamError:
    return LLMStreamError(message)
