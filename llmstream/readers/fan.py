"""fanout: one stream, any number of readers."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

from .._core.checks import shown
from .._settings.arguments import checked_count
from ..errors import Cancelled, ConfigurationError, LLMStreamError
from ..result import Chunk, Result
from .pump import BLOCK, CLOSE, DROP, Cursor, Lease, Missed, Pump
from .raised import raised
from .reading import Reading
from .source import READ_BEFORE, Source, checked_source, chunks_of

__all__ = ["Fan", "SubscriberLagged", "Subscription", "fanout"]

_SLOW = (BLOCK, DROP, CLOSE)


class SubscriberLagged(LLMStreamError):
    """A subscriber of a fan has not got the whole answer, because the log is bounded: it came late,
    or it was too slow. The stream itself may be well: `fan.result()` has all of it.

    `missed` is the number of chunks that this subscriber did not get. `partial` is the whole answer
    where the stream has ended by then, else empty.
    """

    def __init__(self, message: str, *, missed: int = 0) -> None:
        super().__init__(message)
        self.missed = missed


def fanout(stream: Source, limit: int = 65_536) -> Fan:
    """Several readers of one stream, each at its own speed.

        fan = fanout(client.stream(prompt))
        page, log = fan.subscribe(), fan.subscribe(slow="drop")

    `stream` is a Stream that nobody has read yet, or a double with `chunks()`, `result()` and
    `cancel()`. The fan takes it over: it reads it in a thread of its own, which starts with the
    first read of a subscriber, with `result()`, or with `with fan`. Nothing is sent before that.

    `limit` is the number of chunks that are kept, a chunk of more than 1,024 characters counting
    as several: so the log has at most `limit` chunks and `limit` x 1,024 characters, and one chunk
    more. The default holds nearly every answer, so that a subscriber may come at any time, also
    after the end.

    Raises ConfigurationError for a stream that is being read, or was read before.
    """
    checked_source("fanout", stream, "chunks", "result", "cancel")
    places = checked_count("limit", limit)
    if getattr(stream, "text", ""):
        raise ConfigurationError(READ_BEFORE)
    return Fan(stream, places)


class Fan:
    """A stream with several readers. Made by `fanout`. Any thread may use it at any time.

    As a context manager it starts the call on entry, and ends it on exit. A fan that is dropped,
    together with its subscribers, is freed, and its call ended. In a forked child a fan that has
    begun raises ConfigurationError, after the chunks that were there at the fork.
    """

    def __init__(self, stream: Source, limit: int) -> None:
        self._stream = stream
        self._pump = Pump(chunks_of(stream), stream, limit, "fanout")
        self._lease = Lease(self._pump)

    def __repr__(self) -> str:
        pump = self._pump
        how = "ended"
        if pump.end is None:
            how = "running" if pump.begun else "not started"
        return f"<Fan {how} subscribers={len(pump.cursors)}>"

    def subscribe(self, slow: str = BLOCK) -> Subscription:
        """An iterator over the chunks of the whole answer, from its start, as far as the log still
        has it; then what ended the stream, if it failed.

        `slow` says what happens when this subscriber falls behind by more than the log holds:

        - "block": the stream waits for it, and so do all others. Nothing is lost.
        - "drop": it goes on with the oldest chunk that is there. `missed` counts what it did not
          get, and at the end SubscriberLagged is raised in place of a normal end.
        - "close": its next read raises SubscriberLagged.

        A subscriber that comes when the start of the answer is no longer in the log is told so in
        the same way: with "block" and "close" by its first read. Where the answer began anew (a
        "restart" chunk), what came before that is not missed.
        """
        how: Any = slow
        if not isinstance(how, str) or how not in _SLOW:
            raise ConfigurationError(f"slow={shown(how)}: pass one of {[*_SLOW]}")
        return Subscription(Cursor(self._pump, slow), self._pump, self._lease)

    @property
    def trace_id(self) -> str | None:
        """The stream's, see `Stream.trace_id`."""
        return self._pump.trace_id

    @property
    def text(self) -> str:
        """The answer's text so far, as the stream has it: ahead of every subscriber."""
        text: str = getattr(self._stream, "text", "")
        return text

    def result(self) -> Result:
        """Wait for the end of the stream, and return the whole answer. Raises what ended the stream
        otherwise. May be called again, and in several threads.

        The end only comes when the subscribers with slow="block" have read, or are closed: do not
        wait for it in the thread that has to read them.
        """
        pump = self._pump
        pump.begin()
        waiter: Cursor[Chunk] = Cursor(pump, DROP)
        try:
            while (end := pump.end) is None:
                waiter.pause()
        finally:
            waiter.close()
        if end.error is not None:
            raise raised(end.error)
        assert end.result is not None
        return end.result

    def cancel(self, reason: str | None = None) -> None:
        """End the call now. Every subscriber gets Cancelled, and nothing more is delivered. Returns
        at once; idempotent; no effect once the stream has ended."""
        self._pump.close(reason)

    def close(self) -> None:
        """End the call if it still runs, and free what it holds. Idempotent."""
        self._pump.close("closed before the end")

    def __enter__(self) -> Fan:
        self._pump.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Subscription(Reading[Chunk]):
    """The chunks of a fan's stream, for one reader. Made by `Fan.subscribe`.

    One thread reads it; any thread may close it. One that is dropped or closed gives up its place,
    and keeps nobody waiting. The others and the stream go on.
    """

    def __init__(self, cursor: Cursor[Chunk], pump: Pump[Chunk], lease: Lease) -> None:
        super().__init__("subscribe once for each reader")
        self._cursor = cursor
        self._pump = pump
        self._lease: Lease | None = lease
        self._closed = self._follows = False

    @property
    def trace_id(self) -> str | None:
        """The stream's, see `Stream.trace_id`."""
        return self._pump.trace_id

    @property
    def missed(self) -> int:
        """The number of chunks that this subscriber has not got, and will not get."""
        return self._cursor.missed

    def _next(self) -> Chunk:
        pump, cursor = self._pump, self._cursor
        if not (self._follows or self._closed):
            self._follows = True
            pump.follow()
        if cursor.missed and cursor.slow != DROP:
            raise self._lagged("came when the start of the answer was no longer in the log")
        while not self._closed:
            end = pump.end
            if end is None and (pump.closing or (pump.stopped and not pump.forked)):
                cursor.pause()  # it may have been whole before that
                continue
            if end is not None and end.at_once:
                self._finish(end.error, end.result)
            try:
                chunk = cursor.take()
            except Missed:
                if cursor.slow != DROP:
                    cursor.missed = cursor.behind
                    raise self._lagged("was slower than the stream by more than the log") from None
                if cursor.skip():
                    return Chunk("restart", "")
                continue
            if chunk is not None:
                return chunk
            if end is not None:
                self._finish(end.error, end.result)
            cursor.wait()
        raise Cancelled("this subscriber was closed")

    def _finish(self, error: BaseException | None, result: Result | None) -> None:
        """Raise what ends the reading."""
        if error is not None:
            ending = raised(error)
            if self.missed and isinstance(ending, LLMStreamError):
                ending.add(f"this subscriber missed {self.missed:,} chunks before that")
            raise ending
        if self.missed:
            lagged = self._lagged("missed a part of the answer")
            lagged.partial = result if result is not None else Result()
            raise lagged
        raise StopIteration

    def _lagged(self, what: str) -> SubscriberLagged:
        how = "" if self._cursor.slow == BLOCK else f" (slow={self._cursor.slow!r})"
        return SubscriberLagged(
            f"this subscriber {what}, so {self.missed:,} chunks are not delivered to it{how}: "
            "subscribe before the first read, read faster, or give fanout a greater limit; the "
            "whole answer is in fan.result()",
            missed=self.missed,
        )

    def _leave(self) -> None:
        self._cursor.close()

    def cancel(self, reason: str | None = None) -> None:
        """As `close`: ends this subscription, and not the stream."""
        self.close()

    def close(self) -> None:
        """Give up the place: what comes is not kept for this subscriber, and nobody waits for it.
        A thread that reads here gets Cancelled. Any thread; idempotent."""
        self._closed = True
        self._lease = None
        self._cursor.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            self._cursor.close()
