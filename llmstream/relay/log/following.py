"""follow: an answer of a log, as the body of a response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NoReturn

from ..._core.checks import checked_range
from ..._runtime.clock import SYSTEM_CLOCK
from ...errors import Cancelled
from ...readers.reading import Reading
from ...telemetry.observer import logger
from ..beats import Beats
from ..body import BrokenBody
from ..http import headers_of
from ..protocols.base import Encoder, with_id
from .base import Entry, Log, LogError, LogReader, checked_log, failed, is_answer_id, parse_cursor

__all__ = ["Followed", "follow"]

_LONGEST = 3600.0  # seconds of a heartbeat


def follow(
    log: Log, id: str, last_event_id: str | None = None, *, heartbeat: float = 15.0
) -> Followed:
    """The bytes of an answer that is, or was, published: from its start, or from where a browser
    was cut off.

    Returns an iterator of bytes with `close()`, the body of a response, in the protocol that
    `publish` was given. Its `headers` are those that the response has to have, and its `status` is
    200. Where there is nothing to send, it is empty and false, and its status is 204: the answer is
    not known (any more), or this browser has all of it. (EventSource comes back after every end,
    and stops at a 204.) `flask_response` and `django_response` take it as it is.

    `last_event_id` is what the browser sends as `Last-Event-ID`: the frames after that one follow,
    without loss and without repeat. Whatever is no id of this answer is as if it were not there:
    the answer comes whole. (The protocol "text" has no ids.)

    Any number of readers follow an answer at once. Who leaves ends nothing but the own reading.
    When nothing has been written for `heartbeat` seconds (0.01 to 3,600), bytes that mean nothing
    are.

    An answer that cannot be read to its end is told as a failure, in the protocol, and the body
    ends: its producer has died, the log no longer has it, or cannot be reached. Protocols without
    words for that raise BrokenBody.

    Raises ConfigurationError for wrong arguments, LogError where the log cannot be reached.
    """
    found = checked_log(log)
    after = parse_cursor(last_event_id)
    beat = checked_range("heartbeat", heartbeat, 0.01, _LONGEST)
    reader = found.reader(id, after) if is_answer_id(id) else None
    return Followed(reader, beat)


class Followed(Reading[bytes]):
    """The body of a response. Made by `follow`. One thread reads it; any thread may close it."""

    def __init__(self, reader: LogReader | None, heartbeat: float) -> None:
        super().__init__("a body goes to one browser; call follow() for each")
        self._beats = Beats(heartbeat)
        self._beats.at = SYSTEM_CLOCK.monotonic()  # the first bytes come at once
        self._source = reader
        self._closed = False
        self._broken = False  # the body has to break at its end
        self._over = False  # all frames have been taken
        self._waiting: list[Entry] = []
        self.headers: dict[str, str] = {"Cache-Control": "no-store"}
        self.status = 204
        self._encoder: Encoder | None = None
        if reader is not None:
            try:
                self._begin(reader)
            except BaseException:
                reader.close()
                raise

    def _begin(self, reader: LogReader) -> None:
        self._encoder = reader.about.encoder()
        self._take(reader, 0)
        if self._waiting or not self._over:
            self.headers = headers_of(self._encoder)
            self.status = 200

    def __bool__(self) -> bool:
        return self.status != 204

    def _next(self) -> bytes:
        reader, encoder = self._source, self._encoder
        while not self._closed:
            now = SYSTEM_CLOCK.monotonic()
            if self._waiting:
                self._beats.wrote(now)
                return self._bytes()
            if self._over or reader is None or encoder is None:
                self._finish()
            if self._beats.beat(now) and encoder.heartbeat:
                return encoder.heartbeat
            self._take(reader, self._beats.at - now)
        raise Cancelled("this reading was closed")

    def _take(self, reader: LogReader, seconds: float) -> None:
        try:
            self._waiting = reader.take(seconds)
        except LogError as error:
            logger.error("an answer cannot be followed to its end: %s", error)
            frames, self._broken = failed(reader.about, error.failure)
            self._waiting = [Entry("", frame) for frame in frames]
            self._over = True
            return
        end = reader.end
        if end is not None:
            self._over, self._broken = True, end.breaks

    def _bytes(self) -> bytes:
        entries, self._waiting = self._waiting, []
        assert self._encoder is not None
        if not self._encoder.has_ids:
            return b"".join(entry.frame for entry in entries)
        return b"".join(
            with_id(entry.frame, entry.id) if entry.id else entry.frame for entry in entries
        )

    def _finish(self) -> NoReturn:
        if self._broken:
            raise BrokenBody(
                "the answer failed, and this protocol has no words for that: the connection is "
                "broken, so that the browser does not take it for whole"
            )
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The same bytes, for a server of ASGI. A thread waits for them."""
        from ..loop import from_thread

        return from_thread(self)

    def close(self) -> None:
        """Leave: nothing more is delivered, and a thread that waits for bytes gets Cancelled. The
        answer goes on. Returns at once. Idempotent; any thread."""
        self._closed = True
        if self._source is not None:
            self._source.close()

    def _leave(self) -> None:
        self.close()
