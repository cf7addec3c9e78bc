"""relay.sse: the bytes of an answer for a browser, as the body of an HTTP response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from .._core.checks import MANY, checked_range
from .._settings.arguments import checked_count
from ..errors import LLMStreamError
from ..readers.reading import Reading
from ..stream import Stream
from .http import headers_of
from .parts import Failure, Part
from .protocols import make_encoder
from .protocols.base import Encoder, Version, with_id
from .pump import Batches
from .reading import checked_stream, parts_of

__all__ = ["Body", "BrokenBody", "sse"]

_LONGEST = 3600.0  # seconds of a heartbeat and of an interval


class BrokenBody(LLMStreamError):
    """Raised to the server that writes a body, after its last bytes: the answer failed, and the
    protocol has no words for that. The server then breaks the connection, by which the browser can
    tell a part of an answer from a whole one."""


def sse(
    stream: Stream,
    protocol: str = "events",
    *,
    version: Version | None = None,
    heartbeat: float = 15.0,
    interval: float = 0.05,
    buffer: int = 65_536,
    **options: Any,
) -> Body:
    """The answer as bytes for a browser: the body of a response with `headers(protocol)`.

        @app.post("/chat")
        def chat():
            return Response(relay.sse(client.stream(prompt)), headers=relay.headers("events"))

    It is an iterator of bytes with `close()`, as WSGI asks for (PEP 3333), and an asynchronous
    iterator for servers of ASGI. The request is sent with the first bytes that are asked for. These
    come at once, before the first token, in every protocol that has heartbeats.

    `stream` is a Stream that nobody has read yet. A thread reads it; at most `buffer` characters
    wait for the browser (each piece counts 32 more), then the stream is slowed.

    What has arrived goes out at most every `interval` seconds (0 to 3,600), the first token at
    once. When nothing has been written for `heartbeat` seconds (0.01 to 3,600), bytes that mean
    nothing are: by them the server notices that the browser has left, and proxies that the answer
    goes on. A browser that left cancels the stream within `heartbeat` and a second, and so does a
    body that is closed or dropped, read or not.

    `version` is the protocol's, the latest by default; `options` are those of the protocol: see
    `llmstream.relay.protocols`.

    A stream that fails is told in the protocol, with words that anybody may read, and the body
    ends. Protocols without words for it ("text") raise BrokenBody then, so that the connection
    breaks.

    Raises ConfigurationError for wrong arguments, for a stream that was read before, and for
    `on_disconnect="restart"` in a protocol that cannot show it.
    """
    encoder = make_encoder(protocol, version, **options)
    beat = checked_range("heartbeat", heartbeat, 0.01, _LONGEST)
    pace = checked_range("interval", interval, 0, _LONGEST)
    room = checked_count("buffer", buffer, MANY)
    checked_stream("relay.sse", stream, encoder)
    batches = Batches(parts_of(stream), stream, interval=pace, heartbeat=beat, buffer=room)
    return Body(batches, encoder)


class Body(Reading[bytes]):
    """The body of a response. Made by `sse`. One thread reads it; any thread may close it.

    `headers` are those that the response has to have.
    """

    def __init__(self, batches: Batches, encoder: Encoder) -> None:
        super().__init__("a body goes to one browser")
        self.headers = headers_of(encoder)
        self._batches = batches
        self._encoder = encoder
        self._number = 0  # of the last frame
        self._opened = False
        self._failure: Failure | None = None

    def _next(self) -> bytes:
        while isinstance(found := self._look(), float):
            self._batches.wait(found)
        if found is None:
            raise StopIteration
        return found

    def _look(self) -> bytes | float | None:
        """The next bytes, or how many seconds to wait for some, or None at the end."""
        if not self._opened:
            self._batches.begin()
            self._opened = True
            if opening := self._encoder.heartbeat:
                # With an id: a browser whose connection is lost before the first event has to say
                # so when it asks again, or the prompt is run twice (see `response_of`).
                return with_id(opening, 0) if self._encoder.has_ids else opening
        while isinstance(found := self._batches.look(), list):
            if found and (data := self._encoded(found)):
                self._batches.wrote()
                return data
            if not found and self._encoder.heartbeat:
                return self._encoder.heartbeat
        if found is None and self._failure is not None and not self._encoder.shows_failure:
            raise BrokenBody(
                f"the answer failed ({self._failure.type}, trace_id {self._failure.trace_id}), and "
                "this protocol has no words for that: the connection is broken, so that the "
                "browser does not take it for whole"
            )
        return found

    def _encoded(self, parts: list[Part]) -> bytes:
        frames = []
        for part in parts:
            if isinstance(part, Failure):
                self._failure = part
            for frame in self._encoder.encode(part):
                if self._encoder.has_ids:
                    self._number += 1
                    frame = with_id(frame, self._number)
                frames.append(frame)
        return b"".join(frames)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The same bytes, for a server of ASGI. No thread waits."""
        from .loop import Alarm

        alarm = Alarm()
        try:
            while (found := self._look()) is not None:
                if isinstance(found, bytes):
                    yield found
                else:
                    await alarm.wait(self._batches.arm, found)
        finally:
            self.close()

    def close(self) -> None:
        """Cancel the stream if it still runs, and free what the body holds. Nothing more is
        delivered: a thread that waits for bytes gets Cancelled. Returns at once. Idempotent."""
        self._batches.close()

    def _leave(self) -> None:
        self.close()
