"""The class of Django's response. Imported when it is used: it needs Django."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse

__all__ = ["RelayResponse", "empty"]


class RelayResponse(StreamingHttpResponse):
    """A body, written as it comes.

    Django reads a body that is not asynchronous to its end before an ASGI server gets the first
    byte of it (`StreamingHttpResponse.__aiter__`), and takes a body with both kinds of iteration
    for one that is not. So this class has an `__aiter__` of its own.
    """

    def __init__(self, body: Iterator[bytes], **arguments: Any) -> None:
        super().__init__(body, **arguments)
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        from .loop import from_thread

        current: object = getattr(self, "_iterator", self._body)
        if self.is_async:  # a middleware has put another one in its place
            replaced: AsyncIterator[bytes] = super().__aiter__()
            return replaced
        if current is self._body and isinstance(self._body, AsyncIterable):
            return aiter(self._body)
        pieces: Any = self.streaming_content
        return from_thread(iter(pieces), self._body)


def empty(status: int, headers: dict[str, str]) -> HttpResponse:
    return HttpResponse(status=status, headers=headers)
