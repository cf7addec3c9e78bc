"""What readers ask of a stream: a Stream has it, and so has a double."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from typing import Any

import pytest
from support import (
    ANSWER,
    ENDLESS,
    ONCE,
    OPENING,
    PATIENCE,
    PROMPT,
    Reading,
    clocks,
    eventually,
    failure,
)

from llmstream import Client, DeadlineExceeded, Stream, Timeouts, fanout, pace
from llmstream.readers.pump import Pump
from llmstream.readers.source import Source
from llmstream.telemetry import current_trace_id
from llmstream.testing import FakeClock, LLMServer, Reply, Silence


@pytest.fixture
def client(server: LLMServer, client_for: Callable[..., Client]) -> Client:
    return client_for(server, retry=ONCE, timeouts=clocks(10.0))


def watched(client: Client, read: Callable[[Stream], Iterable[Any]]) -> None:
    """The trace id is the call's while it runs, in the context of the reader."""
    assert current_trace_id() is None
    stream = client.stream(PROMPT)
    for _ in read(stream):
        assert current_trace_id() == stream.trace_id
        break
    else:
        pytest.fail("nothing was read")
    stream.close()
    eventually(lambda: current_trace_id() is None, "the call is over")


READERS: dict[str, Callable[[Stream], Iterable[Any]]] = {
    "iteration": iter,
    "pace": pace,
    "fanout": lambda stream: fanout(stream).subscribe(),
    "paced fan": lambda stream: pace(fanout(stream).subscribe()),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_the_trace_id_is_known_to_the_reader(
    server: LLMServer, client: Client, read: Callable[[Stream], Iterable[Any]]
) -> None:
    server.script(Reply([*OPENING, ENDLESS, Silence()]))
    Context().run(watched, client, read)


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_the_trace_id_is_known_to_the_handler(
    server: LLMServer, client: Client, seconds: float | None
) -> None:
    seen: list[str | None] = []

    class Handler:
        def on_token(self, text: str) -> None:
            seen.append(current_trace_id())
            if len(seen) == 3:
                stream.cancel()

        def on_progress(self, progress: Any) -> None: ...

    server.script(Reply([*OPENING, *[ENDLESS] * 3, Silence()]))  # else it may be over before
    stream = client.stream(PROMPT)
    assert failure(stream, lambda s: s.handle(Handler(), every_seconds=seconds))
    assert seen == [stream.trace_id] * 3


def test_a_stream_is_a_source(client: Client) -> None:
    source: Source = client.stream(PROMPT)
    assert callable(source.chunks)
    assert callable(source.cancel)


def test_a_cancel_stops_it_before_the_reader_knows(server: LLMServer, client: Client) -> None:
    server.script(ANSWER)
    stream = client.stream(PROMPT)
    assert not stream.stopped
    assert server.connections == 0  # to ask starts nothing
    next(stream)
    assert not stream.stopped
    stream.cancel()
    assert stream.stopped


def test_a_success_was_not_stopped(server: LLMServer, client: Client) -> None:
    server.script(ANSWER)
    stream = client.stream(PROMPT)
    assert stream.result()
    stream.cancel()  # no effect
    assert not stream.stopped


def test_the_total_clock_stops_it_while_nobody_reads(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    server.script(Reply([*OPENING, ENDLESS, Silence()]))
    clock = FakeClock()
    stream = client_for(server, retry=ONCE, timeouts=Timeouts(total=0.3), clock=clock).stream(
        PROMPT
    )
    next(stream)
    assert not stream.stopped
    clock.advance(0.4)
    assert stream.stopped
    assert isinstance(failure(stream), DeadlineExceeded)


def test_a_clock_that_allows_a_retry_does_not(server: LLMServer, client: Client) -> None:
    server.script(Reply([*OPENING, Silence()]))
    stream = client.stream(PROMPT, timeouts=clocks(0.2))
    reading = Reading(stream)
    assert reading.ended()
    assert not stream.stopped


# ---- the thread that reads a source gives it up at its end ---------------------------------------


class Racing(Pump[str]):
    """Its source ends between two looks of whoever closes it."""

    def __init__(self) -> None:
        self.goes_on, self.armed = threading.Event(), False
        self._ending: Any = None
        super().__init__(self.items(), self, 10, "handle")

    def items(self) -> Iterator[str]:
        yield "a"
        self.goes_on.wait(PATIENCE)

    def begun_to_wait(self) -> None:
        self.begin()
        eventually(lambda: self.oldest.next is not None, "it has read")
        self.armed = True

    def let_it_end(self) -> None:
        if self.armed and threading.current_thread() is threading.main_thread():
            self.armed = False
            self.goes_on.set()
            eventually(lambda: self._owner is None, "it has ended")

    @property
    def cancel(self) -> Callable[[object], None]:
        """Of the source."""
        self.let_it_end()
        return lambda reason: None


def test_a_source_that_ends_while_it_is_cancelled() -> None:
    pump = Racing()
    pump.begun_to_wait()
    pump.close("left")
    assert pump.end is not None
    assert pump.end.error is None


def test_a_source_that_ends_while_its_reader_leaves() -> None:
    """It has a cancel: how it ended counts, and not that it was left."""

    class Looked(Racing):
        @property
        def end(self) -> Any:
            ending = self._ending
            self.let_it_end()
            return ending

        @end.setter
        def end(self, value: Any) -> None:
            self._ending = value

    pump = Looked()
    pump.begun_to_wait()
    pump.closing = True
    assert pump.left() is None
    assert pump.end.error is None
