"""A call whose arguments are a megabyte, in pieces of four bytes: each costs the same, however many
came before it, also with the partial value of the arguments."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_effort import counted

from llmstream import Client
from llmstream._core.dialects import APIS as ROWS
from llmstream._core.request import HTTPRequest
from llmstream._core.session import Session
from llmstream._runtime.clock import SYSTEM_CLOCK
from llmstream._runtime.scope import CancelScope
from llmstream.output import PartialJSON
from llmstream.testing import Answer, FakeTransport, Reply

APIS = ("responses", "messages", "chat", "gemini")


@pytest.fixture(autouse=True)
def without_the_collector() -> Iterator[None]:
    """Its passes take as long as the heap is large that other tests have left."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def arguments(pieces: int) -> str:
    """JSON of so many pieces of four bytes: words, and what stands between them. A double streams
    each of them alone."""
    return '{"list": ["' + '", "'.join(["abcd"] * (pieces // 2)) + '"]}'


def answer(pieces: int) -> Answer:
    return Answer(tool_calls=[("save", arguments(pieces))])


def whole_of(api: str, pieces: int) -> str:
    """The arguments as the API brings them."""
    return '{"text":"' + "abcd" * pieces + '"}' if api == "gemini" else arguments(pieces)


def blocks_of(api: str, pieces: int) -> list[bytes]:
    """The stream. A double of Gemini sends a call whole; Vertex streams a string in pieces, too."""
    if api != "gemini":
        return answer(pieces).blocks(api)
    piece = {"jsonPath": "$.text", "stringValue": "abcd", "willContinue": True}
    calls: list[Any] = [{"name": "save", "willContinue": True}]
    calls += [{"partialArgs": [piece], "willContinue": True}] * pieces
    sent: list[Any] = [{"content": {"parts": [{"functionCall": one}]}} for one in (*calls, {})]
    sent.append({"finishReason": "STOP"})
    return [b"data: " + json.dumps({"candidates": [one]}).encode() + b"\r\n\r\n" for one in sent]


# what the caller does with the chunks of a call
def through(stream: Any) -> None:
    for _ in stream.chunks():
        pass


def with_partials(stream: Any) -> None:
    partial = PartialJSON(3600)  # no parse but the first: what each piece costs beside
    for chunk in stream.chunks():
        if chunk.type == "tool_call":
            partial.add(chunk.text)


def with_calls(stream: Any) -> None:
    for chunk in stream.chunks():
        if chunk.type == "tool_call":
            assert stream.call_of(chunk).name == "save"


READERS: dict[str, Callable[[Any], None]] = {
    "chunks": through,
    "chunks and partials": with_partials,
    "chunks and their calls": with_calls,
}


@pytest.mark.slow
@pytest.mark.parametrize("api", [*APIS[:3], pytest.param(APIS[3], marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_a_piece_costs_the_same_however_many_came_before(api: str, reader: str) -> None:
    """In Python's instructions, over a whole call."""

    def instructions(pieces: int) -> int:
        transport = FakeTransport(Reply(blocks_of(api, pieces)))
        client = Client(api, base_url="http://test", transport=transport)
        return counted(lambda: READERS[reader](client.stream("Hi", model="m")))[0]

    instructions(40)  # names are known, decoders are made
    few, some, many = (instructions(pieces) for pieces in (200, 800, 2000))
    early, late = (some - few) / 600, (many - some) / 1200
    assert late <= early * 1.05, (early, late)
    assert late <= 2600, late


class Paced:
    """The clock of a service that sends a piece every `gap` seconds: the time that is spent in this
    thread passes, too. No clock of a call runs out, so it is its own scheduler: the watchdog has
    another time."""

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._waited = 0.0

    def monotonic(self) -> float:
        return self._waited + time.thread_time()

    time = staticmethod(SYSTEM_CLOCK.time)
    wait = staticmethod(SYSTEM_CLOCK.wait)

    @property
    def scheduler(self) -> Paced:
        return self

    def schedule(self, scope: CancelScope, at: float) -> None: ...

    def forget(self, scope: CancelScope) -> None: ...

    def piece(self) -> None:
        self._waited += self._gap


class Pieces:
    """A transport whose answer is the blocks that are given, one a read."""

    forwarder = ""
    status = 200
    headers = {"content-type": "text/event-stream"}  # noqa: RUF012

    def __init__(self, blocks: Iterator[bytes], clock: Paced) -> None:
        self._blocks = blocks
        self._clock = clock

    def send(self, request: HTTPRequest, scope: CancelScope) -> Pieces:
        scope.sending()
        scope.awaiting_response()
        scope.end_wait(1)
        return self

    def read(self) -> bytes:
        self._clock.piece()
        return next(self._blocks, b"")

    def finish(self) -> None: ...

    def close(self) -> None: ...


def timed(partial: PartialJSON) -> list[float]:
    """The seconds of each of its parses, from now on."""
    parse, took = partial._parse_json, []

    def parsed(data: bytes, **options: Any) -> Any:
        since = time.thread_time()
        try:
            return parse(data, **options)
        finally:
            took.append(time.thread_time() - since)

    partial._parse_json = parsed
    return took


MEGABYTE = 262_144  # pieces


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_a_megabyte(api: str) -> None:
    """At full speed the parses take 0.6 s at most, where all of it takes no more than six; at a
    hundred pieces a second those of the last two thousand, where they are dearest, take a tenth of
    the time at most. The arguments are those that were sent."""
    text = whole_of(api, MEGABYTE)
    blocks = blocks_of(api, MEGABYTE)
    full = Paced(0.0)
    client = Client(api, base_url="http://t", transport=Pieces(iter(blocks), full), clock=full)
    partial = PartialJSON()
    parses = timed(partial)
    stream = client.stream("Hi", model="m")
    begun = time.thread_time()
    for chunk in stream.chunks():
        if chunk.type == "tool_call":
            partial.add(chunk.text)
    whole = time.thread_time() - begun
    (call,) = stream.result().tool_calls
    print(f"{api}: {whole:.2f} s, of it {sum(parses):.2f} s for {len(parses)} parses")
    assert call.arguments == text
    assert partial.value == json.loads(text)
    assert len(parses) > 5
    assert sum(parses) <= max(0.6, 0.1 * whole)  # a busy machine takes longer for everything

    paced = Paced(0.01)
    partial = PartialJSON(clock=paced)
    parses = timed(partial)
    partial.add(text[:-8000])
    parses.clear()
    begun = paced.monotonic()
    for at in range(len(text) - 8000, len(text), 4):
        paced.piece()
        partial.add(text[at : at + 4])
    spent, took = sum(parses), paced.monotonic() - begun
    print(f"at 100 pieces a second: {spent / took:.1%} of the time, {len(parses)} parses")
    assert partial.value == json.loads(text)
    assert spent <= 0.1 * took


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_the_core_alone_takes_the_same_for_each(api: str) -> None:
    """A megabyte in one session: its last quarter takes no longer than its first."""
    blocks = blocks_of(api, MEGABYTE // 4)
    session = Session(ROWS[api].load())
    quarter = len(blocks) // 4
    took = []
    for begin in range(0, 4 * quarter, quarter):
        since = time.thread_time()
        for block in blocks[begin : begin + quarter]:
            session.receive(block)
        took.append(time.thread_time() - since)
    print(api, [f"{seconds:.2f}" for seconds in took])
    assert min(took[2:]) <= 2 * min(took[:2])
