"""What readers ask of a stream: a Stream has it, and so has a double."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import ANSWER, ENDLESS, ONCE, OPENING, PROMPT, Reading, clocks, eventually, failure

from llmstream import Client, DeadlineExceeded, Timeouts
from llmstream.readers.source import Source
from llmstream.testing import LLMServer, Reply, Silence


@pytest.fixture
def client(server: LLMServer, client_for: Callable[..., Client]) -> Client:
    return client_for(server, retry=ONCE, timeouts=clocks(10.0))


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


def test_the_total_clock_stops_it_while_nobody_reads(server: LLMServer, client: Client) -> None:
    server.script(Reply([*OPENING, ENDLESS, Silence()]))
    stream = client.stream(PROMPT, timeouts=Timeouts(total=0.3))
    next(stream)
    eventually(lambda: stream.stopped, "the total clock has run out")
    assert isinstance(failure(stream), DeadlineExceeded)


def test_a_clock_that_allows_a_retry_does_not(server: LLMServer, client: Client) -> None:
    server.script(Reply([*OPENING, Silence()]))
    stream = client.stream(PROMPT, timeouts=clocks(0.2))
    reading = Reading(stream)
    assert reading.ended()
    assert not stream.stopped
