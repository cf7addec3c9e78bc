"""Waiting in an event loop for what a thread does: the only file of the package that imports
asyncio, and only servers of ASGI import it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

from .._core.checks import has_method
from ..readers.pump import BLOCK, Bell, Cursor, Lease, Pump

__all__ = ["Alarm", "from_thread"]

_AHEAD = 65_536  # bytes that a thread reads ahead
_LONG = 3600.0  # seconds


class Alarm:
    """Wakes a coroutine of the running loop. Any thread may ring it (`put`)."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def put(self, item: None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, arm: Callable[[Bell], bool], seconds: float) -> None:
        """Wait for at most `seconds`, unless `arm` says that there is nothing to wait for."""
        self._event.clear()
        if not arm(self):
            return
        timer = self._loop.call_later(max(0.0, seconds), self._event.set)
        try:
            await self._event.wait()
        finally:
            timer.cancel()


async def from_thread(
    pieces: Iterator[bytes], body: Iterator[bytes] | None = None
) -> AsyncIterator[bytes]:
    """The pieces of a body that blocks, or of what is made of `body`, which is closed then. A
    thread of its own reads them, a few ahead; not one of the loop's executor, which has few, and a
    body may take minutes."""
    owner = _Closed(pieces if body is None else body)
    pump: Pump[bytes] = Pump(pieces, owner, _AHEAD, "relay-loop", weigh=_weight, replays=False)
    cursor, lease = Cursor(pump, BLOCK), Lease(pump)
    alarm = Alarm()
    try:
        pump.begin()
        while True:
            end = pump.end  # before the look at what is there: nothing comes after it
            piece = cursor.take()
            if piece is not None:
                yield piece
            elif end is None:
                await alarm.wait(cursor.arm, _LONG)
            elif end.error is not None:
                raise end.error
            else:
                return
    finally:
        pump.close("the browser left")
        cursor.close()
        del lease


def _weight(piece: bytes) -> int:
    return 1 + len(piece)


class _Closed:
    """A body as the pump knows it: whoever waits in it is woken by its `close`."""

    def __init__(self, body: Iterator[bytes]) -> None:
        self._body = body

    def cancel(self, reason: str | None = None) -> None:
        if has_method(self._body, "close"):
            self._body.close()  # type: ignore[attr-defined]
