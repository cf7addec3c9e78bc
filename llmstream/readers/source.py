"""What a reader needs of a stream. A `Stream` is one, and so is a double of a test, or a `Fan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from .._core.checks import has_method, shown
from ..errors import ConfigurationError
from ..result import Chunk, Result

__all__ = ["READ_BEFORE", "Chunks", "Source", "WithResult", "checked_source", "chunks_of"]

READ_BEFORE = (
    "this stream was read before, and its first pieces are gone: pass a stream that nobody has read"
)


class WithResult(Protocol):
    """Something that is read to its end in one go."""

    def result(self) -> Result:
        """Read the rest and return the whole answer. Raises what ended the call otherwise."""


class Source(WithResult, Protocol):
    """A stream, as its readers know it. One thread reads; `cancel` may be called from any.

    Where it also has `text` and `stopped` (see `Stream`), readers use them.
    """

    def chunks(self) -> Iterator[Chunk]:
        """Every piece of the answer, in order. Raises what ended the call, after the pieces that
        had arrived."""

    def cancel(self, reason: str | None = None) -> None:
        """End the call; a thread that reads is woken. Returns at once; idempotent."""


def checked_source(function: str, stream: Any, *methods: str) -> None:
    """Raises ConfigurationError unless `stream` has the methods that `function` needs."""
    for method in methods:
        if not has_method(stream, method):
            raise ConfigurationError(
                f"{function}({shown(stream)}): pass a stream, such as client.stream(...) returns "
                f"(this has no {method}())"
            )


def chunks_of(stream: Source) -> Chunks:
    """The chunks of a whole answer. Chooses the stream's view at once: a stream that is being read
    raises ConfigurationError. One that has ended already has none left, which would look like an
    empty answer: that raises at the end."""
    return Chunks(stream)


class Chunks:
    """An iterator over the chunks of a stream. Not a generator, which could not be closed by
    another thread."""

    def __init__(self, stream: Source) -> None:
        self._chunks = iter(stream.chunks())
        self._stream = stream
        self._any = False

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        for chunk in self._chunks:
            self._any = True
            return chunk
        if not self._any:
            result = self._stream.result()
            if result.text or result.thinking or result.refusal or result.tool_calls:
                raise ConfigurationError(READ_BEFORE)
        raise StopIteration

    def close(self) -> None:
        """Free what the view holds."""
        close: Any = getattr(self._chunks, "close", None)
        if close is not None:
            close()
