"""A double of the transport. With FakeClock a call with faults, waits and retries takes no time.

clock = FakeClock()
transport = FakeTransport(Reply.error(429, headers={"retry-after": "20"}), Answer("Hello"))
client = Client(base_url="http://test", transport=transport, clock=clock)

assert client.stream("Hi").result().text == "Hello"
assert clock.slept[0] >= 20  # and not one real second has passed
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping

from .._core.request import HTTPRequest
from .._runtime.scope import NEVER, CancelScope
from ..errors import ConnectionFailed, StreamInterrupted
from .answers import api_of_path
from .clocks import FakeClock, let_pass
from .script import (
    Cut,
    Drip,
    EncodedReply,
    Entry,
    Headers,
    Pause,
    Pings,
    Recorded,
    Reply,
    Reset,
    Send,
    Silence,
    Step,
    encode_reply,
    pieces,
)

__all__ = ["FakeTransport", "as_recorded"]


class FakeTransport:
    """A transport that plays scripted replies in memory, in the vocabulary of LLMServer.

    Each request takes the next reply. Pauses, pings and drips move the FakeClock. A Silence lasts
    until one of the stream's clocks ends it. Framing, raw bytes and TLS do not exist here: a reply
    is the pieces of its body. Thread-safe.

    The stream that plays it raises AssertionError where the script is at fault: no reply is left,
    a script with waits has no FakeClock, or every clock is off and the stream would hang for ever.

    Attributes:
        requests: the requests so far, in order. Their times are seconds of the client's clock.
        closed: how many times the transport was closed.
    """

    def __init__(self, *replies: Entry) -> None:
        self._lock = threading.Lock()  # guards _replies and requests
        self._replies: deque[Entry] = deque(replies)
        self.requests: list[Recorded] = []
        self.closed = 0

    def script(self, *replies: Entry) -> None:
        """Append replies; each request takes the next, whatever its path."""
        with self._lock:
            self._replies.extend(replies)

    def send(self, request: HTTPRequest, scope: CancelScope) -> _FakeResponse:
        """Record the request and play its reply up to the body; for the library."""
        recorded, entry = self._record(request, scope)
        if callable(entry):
            entry = entry(recorded)
        reply = entry if isinstance(entry, Reply) else Reply(entry)
        encoded = encode_reply(reply, api_of_path(recorded.path))
        player = _Player(reply, encoded, scope)
        player.before()
        scope.end_wait(1)
        return _FakeResponse(reply, encoded.headers, player)

    def _record(self, request: HTTPRequest, scope: CancelScope) -> tuple[Recorded, Entry]:
        recorded = as_recorded(request, scope.clock.monotonic())
        with self._lock:
            self.requests.append(recorded)
            if not self._replies:
                raise AssertionError(
                    f"FakeTransport has no reply for request number {len(self.requests)}: "
                    "script one more"
                )
            return recorded, self._replies.popleft()

    def close(self) -> None:
        """Count the call; for the library."""
        self.closed += 1


def as_recorded(request: HTTPRequest, at: float) -> Recorded:
    """The request as a server would have received it at the moment `at`."""
    return Recorded(
        method=request.method,
        path="/" + request.url.split("://", 1)[-1].partition("/")[2],
        headers=Headers(request.headers.items()),
        body=request.body,
        connection=1,
        received_at=at,
    )


class _Player:
    """Plays a reply's steps as pieces of a body, and moves time."""

    def __init__(self, reply: Reply, encoded: EncodedReply, scope: CancelScope) -> None:
        self._reply = reply
        self._scope = scope
        self._before = encoded.before
        self._pieces = self._play(encoded.steps)

    def before(self) -> None:
        scope = self._scope
        scope.sending()
        scope.awaiting_response()
        self._pass(self._reply.delay)
        for step in self._before:
            if isinstance(step, (Cut, Reset)):
                raise ConnectionFailed(
                    "the connection was lost before any byte of the response arrived"
                )
            for _ in self._play([step]):
                pass

    def next(self) -> bytes:
        scope = self._scope
        scope.begin_wait()
        data = b""
        try:
            data = next(self._pieces, b"")
        finally:
            scope.end_wait(len(data))
        return data

    def _play(self, steps: list[Step]) -> Iterator[bytes]:
        for step in steps:
            if isinstance(step, Cut):
                if step.last_chunk or self._reply.framing == "close":
                    return
                raise StreamInterrupted("the connection was lost in phase 'body'")
            if isinstance(step, Reset):
                raise StreamInterrupted("the connection was reset in phase 'body'")
            yield from self._pieces_of(step)

    def _pieces_of(self, step: Step) -> Iterator[bytes]:
        if isinstance(step, Send):
            yield step.data
        elif isinstance(step, Pause):
            self._pass(step.seconds)
        elif isinstance(step, Drip):
            for piece in pieces(step.data, step.size):
                self._pass(step.every)
                yield piece
        elif isinstance(step, Pings):
            for _ in range(step.count) if step.count is not None else iter(int, 1):
                self._pass(step.every)
                yield step.data
        elif isinstance(step, Silence):
            self._silence()

    def _pass(self, seconds: float) -> None:
        scope = self._scope
        if seconds and not isinstance(scope.clock, FakeClock):
            raise AssertionError("a script with waits needs a FakeClock: Client(clock=...)")
        let_pass(scope, seconds)

    def _silence(self) -> None:
        scope = self._scope
        while True:
            at = scope.timers.at
            if at == NEVER:
                raise AssertionError("every clock is off: this stream would hang for ever")
            self._pass(max(0.0, at - scope.clock.monotonic()))


class _FakeResponse:
    """A reply as the library sees a response."""

    forwarder = ""

    def __init__(self, reply: Reply, headers: Mapping[str, str | None], player: _Player) -> None:
        self.status = reply.status
        given: dict[str, str | None] = {"content-type": reply.content_type}
        given.update((name.lower(), value) for name, value in headers.items())
        self.headers = {name: value for name, value in given.items() if value is not None}
        self._player = player

    def read(self) -> bytes:
        return self._player.next()

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass
