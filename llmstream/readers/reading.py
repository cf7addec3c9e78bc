"""What the iterators of this room have in common: one reader, and an end that stays the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from .._runtime.threads import Lock
from ..errors import Cancelled, ConfigurationError
from .raised import raised

__all__ = ["Reading"]

T = TypeVar("T")


class Reading(Generic[T]):
    """An iterator that one thread reads. Not a generator: after an exception a generator's next
    `next()` raises StopIteration, which looks like a normal end.

    An interrupt loses no item in silence. Where one falls between the item and the reader (at the
    release of the lock, say), the next `next()` has the item; and where it falls into the making of
    one, the next `next()` raises Cancelled.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice  # for a second reader
        self._reader = Lock()  # held by the one thread that reads
        self._error: Exception | None = None
        self._gone = Cancelled("interrupted")
        self._done = False
        self._kept: Iterator[T] = iter(())  # the item that is on its way to the reader

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        for item in self._kept:
            return item
        if self._reader.locked():
            raise ConfigurationError(f"this is being read by another thread: {self._advice}")
        with self._reader:
            if self._done:
                if self._error is not None:
                    raise raised(self._error)
                raise StopIteration
            try:
                self._kept = iter((self._next(),))
            except StopIteration:
                self._done = True
                self._leave()
                raise
            except BaseException as error:  # Ctrl-C too: a reader that is interrupted is gone
                self._error, self._done = self._gone, True  # at once: another one may come
                if isinstance(error, Exception):
                    self._error = raised(error)
                self._leave()
                raise
        # From an iterator to the caller there is no moment for an interrupt.
        for item in self._kept:
            return item
        raise StopIteration

    def _next(self) -> T:
        """The next item. Raises StopIteration, or what ended the reading."""
        raise NotImplementedError

    def _leave(self) -> None:
        """Free what the reading holds; it has ended. Never raises."""
        raise NotImplementedError
