"""pace: the same text in an even rhythm, never late, and nothing left behind."""

from __future__ import annotations

import gc
import itertools
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from corpus import ABSENT, own, recorded
from doubles import Script, broken
from every import every
from support import (
    BLOCKS,
    ENDLESS,
    ONCE,
    OPENING,
    PROMPT,
    Reading,
    eventually,
    output_of,
    python,
)

from llmstream import (
    Cancelled,
    Chunk,
    Client,
    ConfigurationError,
    LLMStreamError,
    StreamTruncated,
    fanout,
    pace,
)
from llmstream.testing import Answer, FakeTransport, LLMServer, Reply, Send, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")

WORDS = [f"w{n} " for n in range(40)]
TEXT = "".join(WORDS)
RULES = ("chunk", "word", "line", "sentence")


def paced_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llmstream-pace"]


# ---- the text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", RULES)
def test_the_text_is_the_text(server: LLMServer, client: Client, by: str) -> None:
    server.script(Answer(WORDS, thinking="hm", tool_calls=[("f", "{}")]))
    stream = client.stream(PROMPT)
    assert "".join(pace(stream, 0.01, by)) == stream.result().text == TEXT


def recordings(api: str) -> list[Any]:
    found = [*(own() if api == "responses" else ()), *recorded(api)]
    return found or pytest.skip(ABSENT)


def assert_same_text(recording: Any, by: str) -> None:
    """The joined parts are what the stream has, whether it succeeds or fails."""
    client = Client(
        recording.api,
        base_url="http://test",
        model="m",
        retry=ONCE,
        transport=FakeTransport(Reply([Send(recording.data)])),
    )
    stream = client.stream(PROMPT)
    parts: list[str] = []
    with_error = None
    try:
        parts.extend(pace(stream, 0.0005, by))
    except LLMStreamError as error:
        with_error = error
    told = recording.expect["raises"]
    assert (with_error is None) == (told is None), (recording.name, with_error)
    assert "".join(parts) == stream.text == recording.expect["text"], recording.name


@pytest.mark.parametrize("api", ["responses", "messages", "chat"])
def test_recordings_keep_their_text(api: str) -> None:
    for recording, by in zip(recordings(api), itertools.cycle(RULES)):
        assert_same_text(recording, by)


@pytest.mark.slow
@pytest.mark.parametrize("by", RULES)
@pytest.mark.parametrize("api", ["responses", "messages", "chat"])
def test_every_recording_keeps_its_text(api: str, by: str) -> None:
    for recording in recordings(api):
        assert_same_text(recording, by)


# ---- what it reads -----------------------------------------------------------------------------

SOURCES: dict[str, Callable[[], Any]] = {
    "a list": lambda: WORDS,
    "a generator": lambda: (word for word in WORDS),
    "an iterator": lambda: iter(WORDS),
    "a double": lambda: Script(WORDS),
    "its chunks": lambda: Script([Chunk("thinking", "hm"), *WORDS]).chunks(),
    "a subscription": lambda: fanout(Script(WORDS)).subscribe(),
    "with empty ones": lambda: ["", *WORDS, "", ""],
}


@every("source", SOURCES.values(), ids=SOURCES.keys())
def test_what_it_takes(source: Callable[[], Any]) -> None:
    assert "".join(pace(source(), 0.001)) == TEXT


def test_one_of_three_readers_is_paced() -> None:
    fan = fanout(Script(WORDS))
    screen, file = pace(fan.subscribe(), 0.001, "word"), fan.subscribe()
    assert "".join(screen) == "".join(chunk.text for chunk in file) == TEXT


def test_nothing_at_all() -> None:
    paced = pace([])
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(paced)


@every("nothing", [None, "a text", b"bytes", 3, {"a": 1}, Script, open])
def test_what_is_no_stream_is_refused(nothing: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass a stream"):
        pace(nothing)


def test_items_that_are_no_text_are_refused() -> None:
    paced: Any = pace([1, 2])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="yields 1, and not str"):
        next(paced)


@every("interval", [-1, float("nan"), float("inf"), "1", None, True, 1e9])
def test_a_wrong_interval_is_refused(interval: Any) -> None:
    with pytest.raises(ConfigurationError, match="interval"):
        pace(WORDS, interval)


@pytest.mark.parametrize("by", ["", "Word", None, 1, []])
def test_a_wrong_rule_is_refused(by: Any) -> None:
    with pytest.raises(ConfigurationError, match="by="):
        pace(WORDS, by=by)


def test_a_restart_is_refused(client: Client) -> None:
    """At once, as by iteration; in chunks, when it comes."""
    with pytest.raises(ConfigurationError, match="restart"):
        pace(client.stream(PROMPT, on_disconnect="restart"))
    parts = []
    with pytest.raises(ConfigurationError, match="began anew"):
        parts.extend(pace(Script(["a", Chunk("restart", ""), "b"]).chunks(), 0.001))
    assert parts in ([], ["a"])


def test_a_stream_has_one_view(server: LLMServer, client: Client) -> None:
    stream = client.stream(PROMPT)
    stream.chunks()
    with pytest.raises(ConfigurationError, match="already being read"):
        pace(stream)


def test_nothing_is_sent_before_the_first_part(server: LLMServer, client: Client) -> None:
    paced = pace(client.stream(PROMPT))
    assert server.connections == 0
    assert not paced_threads()
    next(paced)
    assert len(server.requests) == 1


# ---- time --------------------------------------------------------------------------------------


class Timed:
    """Texts at moments, and when each character came."""

    def __init__(self, pieces: list[tuple[float, str]]) -> None:
        self.pieces = pieces
        self.arrived: list[float] = []

    def __iter__(self) -> Iterator[str]:
        begun = time.monotonic()
        for at, text in self.pieces:
            while (left := begun + at - time.monotonic()) > 0:
                time.sleep(left)
            self.arrived += [time.monotonic()] * len(text)
            yield text


class Standstills(threading.Thread):
    """When the process stood still: a thread that only sleeps, a few milliseconds at a time, woke
    up later than it wanted to."""

    def __init__(self) -> None:
        super().__init__(name="standstills")
        self.found: list[tuple[float, float]] = []
        self._over = threading.Event()

    def __enter__(self) -> Standstills:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        due = time.monotonic() + 0.005
        while not self._over.wait(0.005):
            now = time.monotonic()
            if now - due > 0.01:
                self.found.append((due, now))
            due = now + 0.005

    def between(self, begin: float, end: float) -> float:
        """The seconds of it within this time."""
        return sum(max(0.0, min(end, b) - max(begin, a)) for a, b in self.found)


def delays(pieces: list[tuple[float, str]], interval: float, by: str) -> list[float]:
    """How much later each character is shown than it came, in seconds in which the process ran,
    sorted."""
    source = Timed(pieces)
    shown: list[float] = []
    with Standstills() as still:
        for part in pace(source, interval, by):
            shown += [time.monotonic()] * len(part)
    pairs = zip(source.arrived, shown, strict=True)
    return sorted(b - a - still.between(a, b) for a, b in pairs)


def token_stream(seconds: float, rate: float) -> list[tuple[float, str]]:
    rng = random.Random(7)
    pieces, at = [], 0.0
    while at < seconds:
        pieces.append((at, rng.choice([" the", " quick", "est", ".", "\n", " \u4eca\u5929", ","])))
        at += rng.expovariate(rate)
    return pieces


@pytest.mark.slow
@pytest.mark.parametrize("by", RULES)
@pytest.mark.parametrize("rate", [12.0, 150.0])
def test_no_character_is_late(by: str, rate: float) -> None:
    """On an idle machine p99 is below the interval and 10 ms; the bound here is for any machine."""
    interval = 0.05
    found = delays(token_stream(4.0, rate), interval, by)
    p99 = found[int(len(found) * 0.99)]
    print(f"{by} {rate:g}/s: p50 {found[len(found) // 2] * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms")
    assert p99 <= interval + 0.15


def test_the_first_part_comes_before_the_second_token() -> None:
    gate = threading.Event()

    def texts() -> Iterator[str]:
        yield "Hel"
        assert gate.wait(10)
        yield "lo"

    paced = pace(texts(), 3600, "sentence")
    assert next(paced) == "Hel"
    gate.set()
    assert [*paced] == ["lo"]  # at the end the rest comes at once


def test_what_waits_goes_out_without_more_arriving() -> None:
    """The source blocks in its next(); the word that is not complete comes all the same."""
    gates = [threading.Event(), threading.Event()]

    def texts() -> Iterator[str]:
        yield "a "
        assert gates[0].wait(10)
        yield "wor"
        assert gates[1].wait(10)
        yield "d"

    paced = pace(texts(), 0.05, "word")
    assert next(paced) == "a "
    gates[0].set()
    assert next(paced) == "wor"
    gates[1].set()
    assert "".join(paced) == "d"


def test_a_slow_loop_gets_larger_parts() -> None:
    gate = threading.Event()

    def texts() -> Iterator[str]:
        yield from WORDS
        gate.set()

    paced = pace(texts(), 0.001)
    parts = [next(paced)]
    assert gate.wait(10)
    parts.extend(paced)
    assert "".join(parts) == TEXT
    assert len(parts) <= 4


def test_a_slow_loop_slows_an_endless_source() -> None:
    taken = itertools.count()
    paced = pace((f"{next(taken)} " for _ in itertools.count()), 0.0)
    next(paced)
    eventually(lambda: paced._pump.waiting, "the thread waits for room")
    assert next(taken) < 20_000
    paced.close()


# ---- the end -----------------------------------------------------------------------------------


def test_the_rest_comes_before_an_error() -> None:
    paced = pace(Script(WORDS, error=broken()), 3600.0, "line")
    parts = []
    for _ in range(2):
        with pytest.raises(LLMStreamError, match="cut off"):
            parts.extend(paced)
    assert "".join(parts) == TEXT


def test_a_cut_answer(server: LLMServer, client: Client) -> None:
    server.script(Reply([*BLOCKS[:7]]))
    stream = client.stream(PROMPT)
    parts = []
    with pytest.raises(StreamTruncated) as caught:
        parts.extend(pace(stream, 3600.0, "sentence"))
    assert "".join(parts) == caught.value.partial.text == stream.text


def test_a_cancel_from_another_thread(server: LLMServer, client: Client) -> None:
    server.script(Reply([*OPENING, ENDLESS, Silence()]))
    stream = client.stream(PROMPT)
    paced = pace(stream)
    next(paced)
    reading = Reading(stream, lambda _: [*paced])
    stream.cancel("the user left")
    error = reading.ended()
    assert isinstance(error, Cancelled)
    assert error.reason == "the user left"
    eventually(lambda: server.open_connections == 0, "the service sees the end")


def test_after_a_cancel_nothing_is_delivered(server: LLMServer, client: Client) -> None:
    server.script(Reply([*OPENING, *[ENDLESS] * 100, Silence()]))
    stream = client.stream(PROMPT)
    paced = pace(stream, 0.0)
    next(paced)
    stream.cancel()
    with pytest.raises(Cancelled):
        next(paced)


def view_of(stream: Any, view: str) -> Any:
    return {"stream": lambda: stream, "text": stream.__iter__, "chunks": stream.chunks}[view]()


@pytest.mark.parametrize("view", ["stream", "text", "chunks"])
@pytest.mark.parametrize("end", ["close", "drop"])
def test_leaving_it_ends_the_stream(server: LLMServer, client: Client, end: str, view: str) -> None:
    """Without the garbage collector; and of whichever view it was given."""
    server.script(Reply([*OPENING, ENDLESS, Silence()]))
    gc.disable()
    try:
        paced = pace(view_of(client.stream(PROMPT), view))
        freed = weakref.ref(paced)
        for _ in paced:
            break
        assert paced_threads()
        if end == "close":
            paced.close()
            with pytest.raises(Cancelled):
                next(paced)
        del paced
        assert freed() is None
        eventually(lambda: not paced_threads(), "the thread has ended")
        eventually(lambda: server.open_connections == 0, "the service sees the end")
    finally:
        gc.enable()


def test_a_generator_is_closed_by_its_thread() -> None:
    gate, closed = threading.Event(), threading.Event()

    def texts() -> Iterator[str]:
        try:
            while True:
                yield "x"
                gate.wait(10)
        finally:
            closed.set()

    paced = pace(texts())
    next(paced)
    paced.close()
    gate.set()
    with pytest.raises(Cancelled):
        next(paced)
    assert closed.wait(10)


def test_closing_wakes_a_reader_whose_source_is_stuck() -> None:
    """A generator cannot be woken, and its thread waits for it. Who reads the text need not."""
    gate = threading.Event()

    def texts() -> Iterator[str]:
        yield "x"
        gate.wait(60)

    paced = pace(texts())
    next(paced)
    reading = Reading(None, lambda _: next(paced))  # type: ignore[arg-type]
    eventually(paced._reader.locked, "the reader waits")
    paced.close()
    assert isinstance(reading.ended(), Cancelled)
    gate.set()


def test_a_source_that_cannot_be_closed_ends_all_the_same() -> None:
    """Whatever its clean-up raises."""

    class Odd:
        def __iter__(self) -> Odd:
            return self

        def __next__(self) -> str:
            raise ZeroDivisionError

        def close(self) -> None:
            raise SystemExit

    with pytest.raises(ZeroDivisionError):
        next(pace(Odd()))


def test_two_readers_are_refused() -> None:
    script = Script(WORDS, before=lambda number: number and script.cancelled.wait())
    paced = pace(script)
    next(paced)
    reading = Reading(None, lambda _: next(paced))  # type: ignore[arg-type]
    eventually(paced._reader.locked, "the reader waits")
    with pytest.raises(ConfigurationError, match="another thread"):
        next(paced)
    paced.close()
    assert isinstance(reading.ended(), Cancelled)


INTERRUPTED = """
    import sys, threading
    from llmstream import Client, pace
    from llmstream.testing import LLMServer, Reply, Silence
    from support import ENDLESS, OPENING

    with LLMServer() as server:
        server.script(Reply([*OPENING, ENDLESS, Silence()]))
        client = Client("responses", base_url=server.base_url, api_key="k")
        stream = client.stream("Hi")
        paced = pace(stream)
        next(paced)
        print("waiting", flush=True)
        try:
            next(paced)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        server.wait_all_closed(5.0)
        try:
            next(paced)
        except Exception as error:
            print(type(error).__name__)
        client.close()
"""


@pytest.mark.slow
def test_ctrl_c_ends_it_at_once() -> None:
    with python(INTERRUPTED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)  # it is about to wait
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert output.split() == ["interrupted", "Cancelled"]


def test_a_program_that_ends_does_not_wait_for_it() -> None:
    code = """
        import time
        from llmstream import pace
        def texts():
            yield "a"
            time.sleep(1000)
        paced = pace(texts())
        print(next(paced))
    """
    assert output_of(code) == "a\n"
