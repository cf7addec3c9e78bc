"""What a reader needs of a stream. A `Stream` is one, and so is a double of a test, or a `Fan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from .._core.checks import has_method, shown
from ..errors import ConfigurationError
from ..result import Chunk, Result

__all__ = ["Source", "WithResult", "checked_source"]


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
