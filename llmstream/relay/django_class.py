"""The class of Django's response. Imported when it is used: it needs Django."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse

from .body import Body

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
        current: object = getattr(self, "_iterator", self._body)
        if current is not self._body:  # a middleware has put another one in its place
            replaced: AsyncIterator[bytes] = super().__aiter__()
            return replaced
        if isinstance(self._body, Body):
            return aiter(self._body)
        from .loop import from_thread

        return from_thread(self._body)


def empty(status: int, headers: dict[str, str]) -> HttpResponse:
    return HttpResponse(status=status, headers=headers)
