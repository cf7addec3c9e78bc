"""What the two views of a typed answer have in common."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from .._core.output import Output
from ..errors import ConfigurationError, LLMStreamError
from ..events.base import AnyEvent
from ..result import Chunk

__all__ = ["OutputView", "Reader", "RunningCall", "output_of"]

T = TypeVar("T")


class RunningCall(Protocol):
    """A call, as these views know it."""

    readable_as_text: bool

    @property
    def ctx(self) -> Any: ...
    def reading(self, step: Callable[[], T]) -> T: ...
    def next_batch(self) -> list[AnyEvent] | None: ...
    def fail(self, error: LLMStreamError) -> None: ...
    def cancel(self, reason: str | None) -> None: ...
    def close(self) -> None: ...


class Reader(Protocol[T]):
    """Makes the items of a view from the chunks of the answer's text and from "restart" chunks."""

    def read(self, chunk: Chunk, items: deque[T]) -> LLMStreamError | None:
        """Add what `chunk` completes to `items`. Returns the error that ends the call, if any."""

    def end(
        self, text: str, value: Any, error: LLMStreamError | None, items: deque[T]
    ) -> LLMStreamError | None:
        """The same at the end of the call, whose answer is `text`. It has ended with `error`, or
        with `value`, which is None for an answer that is not the last word."""


class OutputView(Generic[T]):
    """An iterator over what a reader makes of an answer. Items that were made before an error are
    yielded before it is raised; after a cancel none is.

    It keeps `keeper`, which frees the call when the last one that keeps it goes.
    """

    def __init__(self, reader: Reader[T], call: RunningCall, keeper: object) -> None:
        self._reader = reader
        self._call = call
        self._keeper = keeper
        self._items: deque[T] = deque()
        self._failure: LLMStreamError | None = None  # that the reader has found
        self._over = False

    def __iter__(self) -> OutputView[T]:
        return self

    def __next__(self) -> T:
        return self._call.reading(self._next)

    def _next(self) -> T:
        call = self._call
        while True:
            if not call.ctx.cancelled:
                if self._items:
                    return self._items.popleft()
                if self._failure is not None:
                    call.fail(self._failure)
            self._pull()

    def _pull(self) -> None:
        """Make more items. Raises StopIteration, and what ended the call."""
        call = self._call
        try:
            try:
                batch = call.next_batch()
            except LLMStreamError as error:
                if self._over or call.ctx.cancelled:
                    raise
                self._end(error)
                if not self._items:
                    raise
                return
            if batch is not None:
                self._read(batch)
            elif not self._over:
                self._end(None)
            else:
                raise StopIteration
        except (LLMStreamError, StopIteration):
            raise
        except BaseException:  # an interrupt: what it has cut short would be missing
            call.cancel("interrupted")
            raise

    def _read(self, batch: Iterable[AnyEvent]) -> None:
        only = self._call.ctx.session.state.primary
        for event in batch:
            for chunk in event.chunks:
                kind = chunk.type
                wanted = kind == "text" and (only is None or chunk.index == only)
                if (wanted or kind == "restart") and self._failure is None:
                    self._failure = self._reader.read(chunk, self._items)

    def _end(self, error: LLMStreamError | None) -> None:
        ctx = self._call.ctx
        text = ctx.session.state.text
        self._failure = self._failure or self._reader.end(text, ctx.value, error, self._items)
        self._over = True  # not before: an interrupt may come in between

    def cancel(self, reason: str | None = None) -> None:
        """See `Stream.cancel`: for a reader that was given the view, and not the stream."""
        self._call.cancel(reason)

    def close(self) -> None:
        """End the call, as a generator's `close` would. Idempotent."""
        self._call.close()


def output_of(call: RunningCall, view: str) -> Output:
    """What the answer has to be. Raises ConfigurationError where it may be anything."""
    output: Output | None = call.ctx.output
    if output is None:
        raise ConfigurationError(
            f"{view} needs the type of the answer: pass output= to client.stream()"
        )
    return output
