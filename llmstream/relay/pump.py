"""The parts of an answer in batches, at a pace, for those who write to browsers.

A thread of its own reads the stream into a bounded log (`readers.pump`), and whoever writes takes
what has arrived, at most every interval. A log that is full slows the upstream down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from .._runtime.clock import SYSTEM_CLOCK
from ..errors import Cancelled
from ..readers.pump import BLOCK, Bell, Cursor, Lease, Pump
from ..readers.reading import Reading
from .beats import Beats
from .parts import End, Failure, Part, merged

__all__ = ["Batches"]

_OVERHEAD = 32  # characters that every part counts as, besides its text: it is an object
_MOST = 4096  # parts that are looked at in one go


def characters(part: Part) -> int:
    """What a part takes of the bound of a relay."""
    return _OVERHEAD + len(getattr(part, "text", ""))


class Batches(Reading["list[Part]"]):
    """Lists of parts, neighbours merged, each at most every `interval` seconds; the first at once,
    and the last. An empty list says that nothing was written for `heartbeat` seconds (see `wrote`).

    One thread reads it, any thread may close it. It ends after an End or a Failure. A Batches that
    is closed or dropped before cancels the stream, and ends the thread.

    Args:
        parts: what is read, in a thread that starts with the first read.
        stream: where they come from: it is cancelled.
        interval: seconds between two batches.
        heartbeat: seconds; infinity for none.
        buffer: the characters that may wait to be taken; each part counts 32 more.
    """

    def __init__(
        self,
        parts: Iterator[Part],
        stream: Any,
        *,
        interval: float,
        heartbeat: float,
        buffer: int,
    ) -> None:
        super().__init__("a relay has one reader")
        self._owner: _Owner | None = _Owner(stream)
        self._pump: Pump[Part] = Pump(
            parts, self._owner, buffer, "relay", weigh=characters, replays=False
        )
        self._cursor = Cursor(self._pump, BLOCK)
        self._lease = Lease(self._pump)
        self._interval = interval
        self._beats = Beats(heartbeat)
        self._closed = False
        self._is_due = True
        self._whole = False  # the last part has been taken
        self._due = -math.inf  # when the next batch may come

    def begin(self) -> None:
        """Start the thread, which sends the request. The first read does it too. Raises what
        `Pump.begin` does, and Cancelled after `close`."""
        if self._closed:
            raise Cancelled("the relay was closed before its end")
        if self._owner is not None:
            self._beats.wrote(SYSTEM_CLOCK.monotonic())
            self._pump.follow()
            self._owner = None

    def _next(self) -> list[Part]:
        self.begin()
        while isinstance(found := self.look(), float):
            self.wait(found)
        if found is None:
            raise StopIteration
        return found

    def look(self) -> list[Part] | float | None:
        """The next batch, or how many seconds to wait for one, or None at the end. Raises Cancelled
        after `close`."""
        if self._closed:
            raise Cancelled("the relay was closed before its end")
        if self._whole:
            return None
        now = SYSTEM_CLOCK.monotonic()
        end = self._pump.end  # before the look at what is there: nothing comes after it
        self._is_due = now >= self._due or end is not None
        if self._is_due:
            if batch := merged(self._taken()):
                self._due = now + self._interval
                return batch
            if end is not None:  # without an End, and without a Failure
                raise end.error or Cancelled("the stream ended without a last part")
        if self._beats.beat(now):
            return []
        return (self._beats.at if self._is_due else min(self._due, self._beats.at)) - now

    def wrote(self) -> None:
        """What `look` has returned is written now. Not every part is, in every protocol: where a
        model thinks for minutes and nobody is shown it, there have to be heartbeats."""
        self._beats.wrote(SYSTEM_CLOCK.monotonic())

    def wait(self, seconds: float) -> None:
        """Wait for as long as `look` has said; may return early."""
        (self._cursor.wait if self._is_due else self._cursor.pause)(seconds)

    def _taken(self) -> Iterator[Part]:
        for _ in range(_MOST):
            part = self._cursor.take()
            if part is None:
                return
            yield part
            if isinstance(part, (End, Failure)):
                self._whole = True
                return

    def arm(self, bell: Bell) -> bool:
        """For an event loop, after `look`: `bell` is rung, in any thread, once there is something
        to look at before the seconds that `look` has said. Returns False where that is now."""
        is_empty = self._cursor.arm(bell)
        return is_empty or (not self._is_due and self._pump.end is None)

    def close(self) -> None:
        """Cancel the stream if it still runs, and end the thread. Nothing more is delivered.
        Idempotent; any thread, also in finalizers."""
        self._closed = True
        self._pump.close("the browser left")
        owner, self._owner = self._owner, None
        if owner is not None:  # nobody will read it, and it may have begun (`with stream`)
            owner.close()

    def _leave(self) -> None:
        self.close()
        self._cursor.close()


class _Owner:
    """A stream as the pump knows it, without its result: its end is a part."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.cancel = stream.cancel
        self.close = stream.close
        self.trace_id = getattr(stream, "trace_id", None)

    @property
    def stopped(self) -> bool:
        return getattr(self._stream, "stopped", False) is True
