"""What an event costs, counted and not timed: a gross regression fails here, on any machine.

Python's own instructions, and the calls of Python functions. The counts differ a little between
Python versions, so the bounds leave a third; a second generator, a property, or a copy for every
event is far more than that. Times are in benchmarks/.
"""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import pytest
from every import every
from support import run_traced

from llmstream import Client
from llmstream._core.dialects import APIS as ROWS
from llmstream._core.session import Session
from llmstream.telemetry.records import CallRecord
from llmstream.testing import Answer, FakeTransport

APIS = ("responses", "messages", "chat")
FEW, MANY = 200, 1200


class Effort(NamedTuple):
    """Per event."""

    instructions: float
    calls: float


def counted(work: Callable[[], Any], where: re.Pattern[str] | None = None) -> tuple[int, int]:
    """Instructions and calls of Python functions while `work` runs, in this thread; `where`: only
    those of files with such a path."""
    instructions = calls = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal instructions, calls
        if where is not None and not where.fullmatch(frame.f_code.co_filename.replace("\\", "/")):
            return None
        if event == "call":
            calls += 1
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            instructions += 1
        return trace

    run_traced(work, trace)
    return instructions, calls


def per_event(work_for: Callable[[int], Callable[[], Any]]) -> Effort:
    """The cost of one event more: what is paid once drops out."""
    work_for(FEW)()  # names are known, decoders are made
    few, many = counted(work_for(FEW)), counted(work_for(MANY))
    return Effort(*((b - a) / (MANY - FEW) for a, b in zip(few, many, strict=True)))


def words(number: int) -> Answer:
    return Answer(" word" * number)


def pieces_of(api: str, number: int, together: int) -> list[bytes]:
    blocks = words(number).blocks(api)
    return [b"".join(blocks[at : at + together]) for at in range(0, len(blocks), together)]


def session_work(api: str, together: int) -> Callable[[int], Callable[[], Any]]:
    """The core alone: bytes in, events out."""

    def work_for(number: int) -> Callable[[], Any]:
        pieces = pieces_of(api, number, together)

        def work() -> None:
            session = Session(ROWS[api].load())
            for piece in pieces:
                session.receive(piece)
            assert session.complete

        return work

    return work_for


class Everything:
    """Listens to all that is told."""

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        pass


def stream_work(api: str, **settings: Any) -> Callable[[int], Callable[[], Any]]:
    """A whole call, one event a read, without the network; the caller's loop counts with it."""

    def work_for(number: int) -> Callable[[], Any]:
        client = Client(
            api, base_url="http://test", transport=FakeTransport(words(number)), **settings
        )
        stream = client.stream("Hi", model="a-model")

        def work() -> None:
            assert sum(1 for _ in stream) == number

        return work

    return work_for


# what is done -> instructions and calls per event, at most
CORE = {
    ("responses", 16): Effort(290, 6),
    ("messages", 16): Effort(290, 6),
    ("chat", 16): Effort(400, 9),
    ("responses", 1): Effort(475, 11),
    ("messages", 1): Effort(475, 11),
    ("chat", 1): Effort(570, 14),
}
CALL = Effort(1650, 66)  # with one event a read, and what the double of the network does
AROUND_A_CALL = {  # once a call
    "responses": Effort(7400, 330),
    "messages": Effort(6700, 300),
    "chat": Effort(5900, 260),
}
TOLD = Effort(140, 10)  # one observer more, told of every read


@every(("api", "together"), CORE)
def test_the_core_takes_few_steps(api: str, together: int) -> None:
    """An event of text is framed, parsed, decoded and folded in so many instructions."""
    effort, bound = per_event(session_work(api, together)), CORE[api, together]
    assert effort.instructions <= bound.instructions, effort
    assert effort.calls <= bound.calls, effort


@pytest.mark.parametrize("api", APIS)
def test_a_call_takes_few_steps(api: str) -> None:
    """So does a whole call, clocks and views included, when every event comes alone; and an
    observer that listens to everything adds little."""
    alone = per_event(stream_work(api))
    assert alone.instructions <= CALL.instructions, alone
    assert alone.calls <= CALL.calls, alone
    watched = per_event(stream_work(api, observers=[Everything()]))
    assert watched.instructions - alone.instructions <= TOLD.instructions, (watched, alone)
    assert watched.calls - alone.calls <= TOLD.calls, (watched, alone)


# What begins and ends a call: its parts, clocks and records, but not its events or the network.
AROUND = re.compile(
    r".*/llmstream/(?:(?:_call|_runtime|_settings|telemetry)/.*|(?:client|stream)\.py"
    r"|_core/(?:timers|meter)\.py)"
)


@pytest.mark.parametrize("api", APIS)
def test_a_call_begins_and_ends_in_few_steps(api: str) -> None:
    """From `Client.stream` to the result of an answer of one word, where nobody listens and the log
    takes no line of a success."""
    client = Client(api, base_url="http://test", transport=FakeTransport(words(1), words(1)))
    client.stream("Hi", model="a-model").result()  # decoders are made
    effort = Effort(*counted(lambda: client.stream("Hi", model="a-model").result(), AROUND))
    assert effort.instructions <= AROUND_A_CALL[api].instructions, effort
    assert effort.calls <= AROUND_A_CALL[api].calls, effort


@pytest.mark.parametrize("api", APIS)
def test_an_event_leaves_its_text_behind_and_nothing_else(api: str) -> None:
    """What is kept of an event of text is the text: some eighty bytes with its places in two
    lists, not the event, its JSON or its chunk."""
    number = 20_000
    pieces = pieces_of(api, number, 16)
    session = Session(ROWS[api].load())
    half = len(pieces) // 2
    for piece in pieces[:half]:
        session.receive(piece)
    tracemalloc.start()
    try:
        for piece in pieces[half:-2]:
            session.receive(piece)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept / (number / 2) <= 120


def test_the_count_counts() -> None:
    """A call more for each event is seen."""
    plain = session_work("responses", 16)

    def wasteful(number: int) -> Callable[[], Any]:
        work = plain(number)

        def both() -> None:
            work()
            for _ in range(number):
                (lambda: None)()

        return both

    assert round(per_event(wasteful).calls - per_event(plain).calls) == 1
