"""fanout: each subscriber's text is the whole text, or it was told why not; the log is bounded."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from doubles import Script, broken
from every import every
from support import (
    ANSWER,
    BLOCKS,
    ENDLESS,
    ONCE,
    OPENING,
    PATIENCE,
    PROMPT,
    eventually,
    other_threads,
    output_of,
)

from llmstream import (
    Cancelled,
    Chunk,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    LLMStreamError,
    StreamTruncated,
    SubscriberLagged,
    Timeouts,
    collect,
    fanout,
)
from llmstream.readers import Fan, Subscription
from llmstream.testing import Cut, FakeClock, LLMServer, Reply, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")

WORDS = [f"w{n} " for n in range(40)]
TEXT = "".join(WORDS)


def text_of(chunks: Any) -> str:
    return "".join(chunk.text for chunk in chunks)


class Following(threading.Thread):
    """A thread that reads a subscription to its end."""

    def __init__(self, chunks: Iterator[Chunk], between: Callable[[], object] = lambda: None):
        super().__init__(name="follower")
        self.chunks: list[Chunk] = []
        self.error: BaseException | None = None
        self._read = [chunks]  # given away: the thread's frame has the only reference
        self._between = between
        self.start()

    def run(self) -> None:
        try:
            for chunk in self._read.pop():
                self.chunks.append(chunk)
                self._between()
        except BaseException as error:
            self.error = error

    @property
    def text(self) -> str:
        return text_of(self.chunks)

    def ended(self) -> BaseException | None:
        self.join(PATIENCE)
        assert not self.is_alive(), "the subscriber hangs"
        return self.error


# ---- what a subscriber gets --------------------------------------------------------------------


def test_all_get_the_whole_answer(server: LLMServer, client: Client) -> None:
    server.script(ANSWER)
    fan = fanout(client.stream(PROMPT))
    readers = [Following(fan.subscribe(how)) for how in ("block", "drop", "close")]
    assert [reader.ended() for reader in readers] == [None] * 3
    assert {reader.text for reader in readers} == {"one two three four"}
    assert len(server.requests) == 1
    assert fan.result().text == fan.text == "one two three four"
    assert text_of(fan.subscribe()) == fan.text  # late: after the end
    assert collect(fan).text == fan.text


def test_nothing_is_sent_before_the_first_read(server: LLMServer, client: Client) -> None:
    threads = other_threads()
    fan = fanout(client.stream(PROMPT))
    fan.subscribe()
    assert (server.connections, other_threads(), fan.text) == (0, threads, "")
    with fan:
        eventually(lambda: server.requests, "the call has started")


def test_every_kind_of_chunk_passes() -> None:
    chunks = [
        Chunk("thinking", "hm"),
        Chunk("text", "a"),
        Chunk("restart", ""),
        Chunk("tool_call", "{}", 3),
    ]
    assert [*fanout(Script(chunks)).subscribe()] == chunks


@pytest.mark.parametrize("first", ["text", "chunks"])
def test_a_stream_that_is_read_is_refused(server: LLMServer, client: Client, first: str) -> None:
    server.script(ANSWER)
    stream = client.stream(PROMPT)
    next(iter(stream) if first == "text" else stream.chunks())
    with pytest.raises(ConfigurationError, match="read"):
        fanout(stream)


def test_a_stream_that_has_ended_is_refused(server: LLMServer, client: Client) -> None:
    """It has no chunks left: the subscribers would take it for an empty answer."""
    server.script(ANSWER)
    stream = client.stream(PROMPT)
    stream.result()
    with pytest.raises(ConfigurationError, match="read before"):
        fanout(stream)

    class Ended(Script):
        text = ""

    script = Ended(WORDS)
    script.given = len(WORDS)
    script.result = lambda: Script(["x"]).result()  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="read before"):
        next(fanout(script).subscribe())


def test_an_entered_stream_is_taken(server: LLMServer, client: Client) -> None:
    server.script(ANSWER)
    with client.stream(PROMPT) as stream:
        assert text_of(fanout(stream).subscribe()) == "one two three four"


@every("limit", [0, -1, 1.5, True, None, "10"])
def test_a_wrong_limit_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="limit"):
        fanout(Script(WORDS), limit=limit)


@pytest.mark.parametrize("nothing", [None, "text", ["a"], Script])
def test_what_is_no_stream_is_refused(nothing: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass a stream"):
        fanout(nothing)


@pytest.mark.parametrize("slow", ["", "BLOCK", None, 1])
def test_a_wrong_policy_is_refused(slow: Any) -> None:
    with pytest.raises(ConfigurationError, match="slow"):
        fanout(Script(WORDS)).subscribe(slow)


# ---- the slow, the late, the dead --------------------------------------------------------------


def test_block_slows_the_stream_within_the_bound() -> None:
    """The stream is read no further than the log is long, until the slowest one has read."""
    script = Script(WORDS)
    fan = fanout(script, limit=5)
    slow, fast = fan.subscribe(), Following(fan.subscribe())
    for number in range(1, 11):
        next(slow)
        eventually(lambda n=number: script.given >= n + 4, "the room is used")
        assert script.given <= number + 5
    assert fast.is_alive()
    assert text_of(slow) == "".join(WORDS[10:])
    assert (fast.ended(), fast.text) == (None, TEXT)


def test_drop_goes_on_and_is_told_at_the_end() -> None:
    fan = fanout(Script(WORDS), limit=5)
    dropping = fan.subscribe("drop")
    assert text_of(fan.subscribe()) == TEXT
    for late in (dropping, fan.subscribe("drop")):
        got = [next(late) for _ in range(5)]
        for _ in range(2):
            with pytest.raises(SubscriberLagged, match="35 chunks") as caught:
                next(late)
        assert text_of(got) == "".join(WORDS[-5:])
    assert caught.value.missed == dropping.missed == 35
    assert caught.value.partial.text == TEXT


def test_close_is_told_at_once() -> None:
    fan = fanout(Script(WORDS), limit=5)
    closing = fan.subscribe("close")
    assert text_of(fan.subscribe()) == TEXT
    for _ in range(2):
        with pytest.raises(SubscriberLagged, match="slower"):
            next(closing)
    assert closing.missed == 35


@pytest.mark.parametrize("slow", ["block", "close"])
def test_a_late_one_is_told_by_its_first_read(slow: str) -> None:
    fan = fanout(Script(WORDS), limit=39)
    fan.result()
    late = fan.subscribe(slow)
    with pytest.raises(SubscriberLagged, match="start of the answer"):
        next(late)
    fan = fanout(Script(WORDS), limit=40)
    fan.result()
    assert text_of(fan.subscribe(slow)) == TEXT


def test_what_came_before_a_restart_is_not_missed() -> None:
    """After a "restart" chunk the text begins anew."""
    fan = fanout(Script([*WORDS, Chunk("restart", ""), "new ", "text"]), limit=2)
    slow = fan.subscribe("drop")
    assert fan.result()
    assert [*slow] == [Chunk("restart", ""), Chunk("text", "new "), Chunk("text", "text")]
    assert slow.missed == 0
    assert text_of(fan.subscribe()) == "new text"
    fan = fanout(Script([*WORDS, Chunk("restart", ""), "new ", "text"]), limit=1)
    fan.result()
    with pytest.raises(SubscriberLagged, match="1 chunks"):
        next(fan.subscribe())


def test_long_chunks_count_as_several() -> None:
    """`limit` bounds the characters too."""
    script = Script(["x" * 10_240] * 100)
    fan = fanout(script, limit=22)
    blocking = fan.subscribe()
    next(blocking)
    eventually(lambda: script.given >= 3, "the room is used")
    assert script.given <= 4
    assert text_of(blocking) == "x" * 10_240 * 99
    assert text_of(fanout(Script(["y" * 10**6, "z"]), limit=1).subscribe()) == "y" * 10**6 + "z"


DEATHS: dict[str, Callable[[list[Subscription]], object]] = {
    "dropped": list.clear,
    "closed": lambda subscriptions: subscriptions[0].close(),
    "left": lambda subscriptions: subscriptions[0].__exit__(None, None, None),
    "cancelled": lambda subscriptions: subscriptions[0].cancel("bored"),
}


@every("die", DEATHS.values(), ids=DEATHS.keys())
@every("read", [0, 1, 3])
def test_a_dead_one_keeps_nobody_waiting(die: Any, read: int) -> None:
    script = Script(WORDS)
    fan = fanout(script, limit=3)
    dying = [fan.subscribe()]
    alive = Following(fan.subscribe("drop"))
    for _ in range(read):
        next(dying[0])
    eventually(lambda: script.given == 3 + read, "the others wait for it")
    eventually(lambda: alive.chunks and alive.chunks[-1].text == WORDS[2 + read], "all is read")
    die(dying)
    alive.ended()
    assert alive.text.endswith(WORDS[-1])
    if dying:
        with pytest.raises(Cancelled, match="subscriber was closed"):
            next(dying[0])


def test_closing_wakes_the_thread_that_reads() -> None:
    script = Script(WORDS, before=lambda number: number and script.cancelled.wait())
    fan = fanout(script)
    reading = fan.subscribe()
    reader = Following(reading)
    eventually(lambda: reader.chunks, "the first chunk is there")
    reading.close()
    assert isinstance(reader.ended(), Cancelled)
    assert not script.stopped
    fan.close()


def test_one_subscription_has_one_reader() -> None:
    """Two readers of one would each get a part of the answer."""
    script = Script(WORDS, before=lambda number: number and script.cancelled.wait())
    fan = fanout(script)
    reading = fan.subscribe()
    reader = Following(reading)
    eventually(lambda: reader.chunks and reading._reader.locked(), "the reader waits")
    with pytest.raises(ConfigurationError, match="subscribe once for each"):
        next(reading)
    fan.close()
    assert isinstance(reader.ended(), Cancelled)


# ---- the end -----------------------------------------------------------------------------------


def test_an_error_comes_after_what_arrived(server: LLMServer, client: Client) -> None:
    """To everyone, the late one too, each as an error of its own."""
    server.script(Reply([*BLOCKS[:7], Cut()]))
    fan = fanout(client.stream(PROMPT))
    readers = [Following(fan.subscribe(how)) for how in ("block", "drop", "close")]
    errors = [reader.ended() for reader in readers]
    readers.append(Following(fan.subscribe()))
    errors.append(readers[-1].ended())
    assert {reader.text for reader in readers} == {"one two three"}
    assert len({id(error) for error in errors}) == 4
    for error in errors:
        assert isinstance(error, LLMStreamError)
        assert error.partial.text == "one two three"
        assert error.attempts
    with pytest.raises(type(errors[0])):  # type: ignore[arg-type]
        fan.result()
    assert collect(fan).text == "one two three"


def test_a_truncated_answer_keeps_its_kind(server: LLMServer, client: Client) -> None:
    server.script(Reply([*BLOCKS[:7]]))
    with pytest.raises(StreamTruncated) as caught:
        [*fanout(client.stream(PROMPT)).subscribe()]
    assert caught.value.trace_id


def test_an_error_says_what_was_missed_before_it() -> None:
    fan = fanout(Script(WORDS, error=broken()), limit=5)
    with pytest.raises(LLMStreamError):
        fan.result()
    with pytest.raises(LLMStreamError, match="cut off; this subscriber missed 35 chunks"):
        [*fan.subscribe("drop")]
    with pytest.raises(LLMStreamError, match=r"^cut off$"):
        fan.result()


def test_a_foreign_error_is_delivered() -> None:
    fan = fanout(Script(WORDS, error=ZeroDivisionError("a bug")))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            [*fan.subscribe()]


@pytest.mark.parametrize("how", ["fan", "stream", "close", "exit"])
def test_cancel_ends_all_at_once(server: LLMServer, client: Client, how: str) -> None:
    server.script(Reply([*OPENING, ENDLESS, Silence()]))
    stream = client.stream(PROMPT)
    fan = fanout(stream)
    readers = [Following(fan.subscribe(slow)) for slow in ("block", "drop", "close")]
    for reader in readers:
        eventually(lambda r=reader: r.chunks, "the first chunk is there")
    began = time.monotonic()
    if how == "exit":
        with fan:
            pass
    else:
        {"fan": fan.cancel, "stream": stream.cancel, "close": fan.close}[how]()
    assert all(isinstance(reader.ended(), Cancelled) for reader in readers)
    assert time.monotonic() - began < 5.0
    with pytest.raises(Cancelled):
        next(fan.subscribe())
    with pytest.raises(Cancelled):
        fan.result()


def test_cancelled_before_it_began(server: LLMServer, client: Client) -> None:
    fan = fanout(client.stream(PROMPT))
    fan.cancel("never mind")
    with pytest.raises(Cancelled, match="never mind"):
        next(fan.subscribe())
    assert server.connections == 0


def test_after_a_cancel_nothing_is_delivered() -> None:
    script = Script(WORDS, before=lambda number: number == 10 and script.cancelled.wait())
    fan = fanout(script)
    reading = fan.subscribe()
    next(reading)
    eventually(lambda: script.given == 10, "ten are in the log")
    fan.cancel("enough")
    with pytest.raises(Cancelled, match="cancelled") as caught:
        next(reading)
    assert caught.value.reason == "enough"


def test_after_a_cancel_of_the_stream_nothing_is_delivered() -> None:
    """By whoever made the stream: the reader need not wait until the fan's thread has noticed."""
    gate = threading.Event()

    def hold(number: int) -> None:
        if number == 10:
            gate.wait(PATIENCE)

    script = Script(WORDS, before=hold)
    reading = Following(fanout(script).subscribe(), between=lambda: script.cancel("enough"))
    eventually(lambda: reading.chunks, "the first chunk is there")
    gate.set()
    assert isinstance(reading.ended(), Cancelled)
    assert len(reading.chunks) == 1


def test_a_cancel_that_comes_too_late_cuts_nothing_off() -> None:
    """The stream is whole, and the fan's thread has not written that down yet: a subscriber that is
    behind gets the rest, and not an end that looks whole."""

    class Ending(Script):
        def result(self) -> Any:
            fan.cancel("too late")
            self.cancelled.clear()  # it has no effect once the stream has ended
            return super().result()

    fan = fanout(Ending(WORDS))
    subscribers = [fan.subscribe(slow) for slow in ("block", "drop", "close")]
    assert [text_of(chunks) for chunks in subscribers] == [TEXT] * 3


def test_one_that_was_closed_starts_no_call(server: LLMServer, client: Client) -> None:
    fan = fanout(client.stream(PROMPT))
    chunks = fan.subscribe()
    chunks.close()
    with pytest.raises(Cancelled, match="this subscriber was closed"):
        next(chunks)
    assert "not started" in repr(fan)
    assert server.connections == 0


@pytest.mark.parametrize("why", ["cancel", "total"])
def test_a_subscriber_that_blocks_does_not_hold_back_the_end(
    server: LLMServer, client_for: Callable[..., Client], why: str
) -> None:
    """The fan's thread waits for one that does not read, while the stream is stopped: the others
    are told."""
    server.script(Reply([*OPENING, ENDLESS * 2000, Silence()]))
    total, clock = 0.5 if why == "total" else None, FakeClock()
    client = client_for(server, retry=ONCE, clock=clock)
    stream = client.stream(PROMPT, timeouts=Timeouts(total=total))
    fan = fanout(stream, limit=3)
    stuck = fan.subscribe()
    reader = Following(fan.subscribe("drop"))
    eventually(lambda: len(reader.chunks) == 3, "the log is full")
    if why == "cancel":
        stream.cancel()
    else:
        clock.advance(1.0)
    assert isinstance(reader.ended(), DeadlineExceeded if total else Cancelled)
    assert stuck.missed == 0


def test_a_dropped_fan_is_freed(server: LLMServer, client: Client) -> None:
    """Without the garbage collector: the call ends, the thread too, and nothing refers to it."""
    server.script(Reply([*OPENING, ENDLESS, Silence()]))
    gc.disable()
    try:
        fan: Fan | None = fanout(client.stream(PROMPT))
        reading: Subscription | None = fan.subscribe()
        assert reading is not None
        next(reading)
        freed = weakref.ref(fan)
        fan = None
        assert freed() is None
        assert any(t.name == "llmstream-fanout" for t in threading.enumerate())
        reading = None
        eventually(
            lambda: not any(t.name == "llmstream-fanout" for t in threading.enumerate()),
            "the thread has ended",
        )
        eventually(lambda: server.open_connections == 0, "the service sees the end")
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_long_log_is_freed() -> None:
    """A chain of nodes is not freed by recursion."""
    fan = fanout(Script(["x"] * 200_000), limit=200_000)
    fan.result()
    kept = fan.subscribe()
    next(kept)
    del fan, kept


def test_context_variables_travel(server: LLMServer, client_for: Callable[..., Client]) -> None:
    import contextvars

    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    def key() -> str:
        seen.append(who.get())
        return "a-key"

    client = client_for(server, api_key=key)
    who.set("me")
    assert fanout(client.stream(PROMPT)).result().text
    assert seen == ["me"]


FORK = """
    import os, sys, threading
    from llmstream import Client, LLMStreamError, fanout
    from llmstream.testing import Answer, LLMServer, Pause, Reply

    begun = sys.argv[1] == "begun"
    words = "".join(f"w{n} " for n in range(8))
    read, write = os.pipe()
    with LLMServer() as server:
        blocks = Answer(words).blocks("responses")
        server.default = lambda _: Reply([s for b in blocks for s in (b, Pause(0.03))])
        client = Client("responses", base_url=server.base_url, api_key="k", model="m")
        fan = fanout(client.stream("Hi"))
        sub, other = fan.subscribe(), fan.subscribe()
        got = [next(sub).text] if begun else []
        if os.fork() == 0:
            end = "whole"
            text = ""
            try:
                for chunk in other:
                    text += chunk.text
                assert text == words
            except BaseException as exc:
                end = type(exc).__name__
            try:
                fan.result()
            except BaseException as exc:
                end += " " + type(exc).__name__
            fan.cancel()
            del fan, sub, other
            os.write(write, end.encode())
            os._exit(0)
        os.wait()
        got += [chunk.text for chunk in sub]
        print(os.read(read, 4096).decode())
        print("".join(got) == words, fan.result().text == words)
        client.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "child"),
    [("begun", "ConfigurationError ConfigurationError"), ("new", "whole")],
)
def test_a_fork(begun: str, child: str) -> None:
    """One that has begun belongs to its process, one that has not works in either."""
    assert output_of(FORK, begun).split("\n")[:2] == [child, "True True"]


# ---- a thousand schedules ----------------------------------------------------------------------


def length_of(fan: Fan) -> int:
    """The chunks in the log."""
    node, count = fan._pump.oldest.next, 0
    while node is not None and node.item is not None:
        node, count = node.next, count + 1
    return count


class Schedule:
    """One fan, and subscribers that are fast, slow, dead and late, by a random generator."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.limit = rng.choice([1, 2, 3, 5, 8, 20, 100])
        count = rng.randrange(0, 60)
        self.items = [
            Chunk("restart", "") if rng.random() < 0.02 else Chunk("text", f"{n}.")
            for n in range(count)
        ]
        error = rng.choice([None, None, broken()])
        self.arrivals = sorted(rng.randrange(count + 1) for _ in range(rng.randrange(1, 5)))
        self.script = Script(self.items, error, self.before)
        self.fan = fanout(self.script, limit=self.limit)
        self.cancel_at = rng.choice([None, None, None, rng.randrange(count + 1)])
        self.readers: list[tuple[str, bool, Following]] = []
        self.longest = 0

    def before(self, number: int) -> None:
        """In the fan's thread, before each chunk."""
        self.longest = max(self.longest, length_of(self.fan))
        if number == self.cancel_at:
            self.fan.cancel("by the schedule")
        while self.arrivals and self.arrivals[0] <= number:
            self.arrivals.pop(0)
            self.subscribe()
        self.rest()

    def rest(self) -> None:
        if self.rng.random() < 0.2:
            time.sleep(self.rng.random() * 0.0005)

    def subscribe(self) -> None:
        slow = self.rng.choice(["block", "drop", "close"])
        dies = self.rng.choice([None, None, self.rng.randrange(10)])
        pace = self.rng.choice([0.0, 0.0, 0.0005, 0.002])
        left = [dies]

        def between() -> None:
            if pace and self.rng.random() < 0.3:
                time.sleep(pace)
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise InterruptedError("dies")

        subscription = self.fan.subscribe(slow)
        self.readers.append((slow, dies is not None, Following(subscription, between)))

    def run(self) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            self.subscribe()
        eventually(lambda: self.fan._pump.end, "the stream ends whatever its readers do")
        if self.rng.random() < 0.5:
            self.subscribe()
        whole = self.whole(self.items)
        for slow, dies, reader in self.readers:
            error, text = reader.ended(), self.whole(reader.chunks)
            told = f"{slow} dies={dies} limit={self.limit} {error!r}"
            if isinstance(error, InterruptedError):
                continue
            if error is None:
                assert text == whole, told
                assert (self.cancel_at, self.script.error) == (None, None), told
            elif isinstance(error, SubscriberLagged):
                assert error.missed > 0
                prefix = any(whole.startswith(text) for whole in self.versions())
                assert slow == "drop" or prefix, told
            elif isinstance(error, Cancelled):
                assert self.cancel_at is not None, told
            else:
                assert "cut off" in f"{self.script.error and error}", told
                assert text == whole or "missed" in str(error), told
        # A subscriber may come between the look for room and the chunk that takes it.
        assert self.longest <= self.limit + 1

    def versions(self) -> list[str]:
        """The answer's text, and those that were given up for it."""
        ends = [at for at, chunk in enumerate(self.items) if chunk.type == "restart"]
        return [self.whole(self.items[:end]) for end in [*ends, len(self.items)]]

    @staticmethod
    def whole(chunks: list[Chunk]) -> str:
        """What a reader shows in the end."""
        text = ""
        for chunk in chunks:
            text = "" if chunk.type == "restart" else text + chunk.text
        return text


def test_a_hundred_random_schedules() -> None:
    for seed in range(100):
        Schedule(seed).run()


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(1, 10))
def test_nine_hundred_more(hundred: int) -> None:
    for seed in range(hundred * 100, hundred * 100 + 100):
        Schedule(seed).run()
