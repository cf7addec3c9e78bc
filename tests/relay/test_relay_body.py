"""relay.sse: bytes at once and at a pace, heartbeats, and an end for every way to leave."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import pytest
from log_tools import Scripted
from support import (
    ANSWER,
    DELTAS,
    ENDING,
    OPENING,
    PATIENCE,
    eventually,
    in_threads,
)

from llmstream import Cancelled, Client, ConfigurationError, Stream, relay
from llmstream.relay import pump as pump_module
from llmstream.relay.body import Body, BrokenBody
from llmstream.relay.loop import from_thread
from llmstream.relay.parts import End, Part, Text, Thinking
from llmstream.relay.protocols.base import COMMENT
from llmstream.relay.pump import Batches
from llmstream.relay.reading import parts_of
from llmstream.testing import Answer, Drip, FakeTransport, LLMServer, Pause, Pings, Reply, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")

BEAT = 0.05  # seconds: a heartbeat that a test can wait for
TWO_WORDS = [*OPENING, *DELTAS[:2]]
THOUGHT = Answer(thinking="one two three")
CALL = Answer(tool_calls=[("f", '{"text": "one two three"}')])


class Letters:
    """A protocol: a letter for each kind of part, and its text."""

    content_type = "text/plain"
    headers: Mapping[str, str] = {}
    heartbeat = b"."
    shows_restart = True
    has_ids = False
    shows_failure = True

    def encode(self, part: Part) -> list[bytes]:
        text = getattr(part, "text", getattr(part, "type", ""))
        return [f"[{type(part).__name__[0]}{text}]".encode()]


class Mute(Letters):
    """Has no words for a failure, and no heartbeats."""

    heartbeat = b""
    shows_failure = False

    def encode(self, part: Part) -> list[bytes]:
        return [part.text.encode()] if isinstance(part, Text) else []


def body_of(stream: Stream, encoder: Any = None, **settings: Any) -> Body:
    given = {"interval": 0.0, "heartbeat": 60.0, "buffer": 65_536, **settings}
    return Body(Batches(parts_of(stream), stream, **given), encoder or Letters())


def told(pieces: Iterable[bytes]) -> str:
    """What the letters say, the pieces of a text as one: [B][Tone two][E]."""
    letters = b"".join(pieces).replace(b".", b"").decode()
    return re.sub(r"(?<!\[B)\]\[T", "", letters)


WHOLE = "[B][Tone two three four][E]"


# ---- what arrives ------------------------------------------------------------------------------


def test_the_answer_arrives(server: LLMServer, client_for: Callable[..., Client]) -> None:
    server.script(ANSWER)
    body = body_of(client_for(server).stream("Hi"), interval=0.0)
    assert told(body) == WHOLE
    with pytest.raises(StopIteration):
        next(body)


def test_the_first_bytes_come_before_the_first_token(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """They are a heartbeat, by which the response begins; and the request is sent with them."""
    server.script(Reply([Silence()]))
    body = body_of(client_for(server).stream("Hi"))
    assert not server.requests
    assert next(body) == b"."
    assert next(body) == b"[B]"
    server.wait_requests(1)
    body.close()


def test_heartbeats_come_before_the_first_token_and_in_silence(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    for word, steps in ((b"", [Silence()]), (b"one", [*TWO_WORDS, Pings(0.02)])):
        server.script(Reply(steps))
        body = body_of(client_for(server).stream("Hi"), heartbeat=BEAT)
        while word not in next(body):
            pass
        found: list[bytes] = []
        while found[-4:] != [b"."] * 4:
            found.append(next(body))
        body.close()


class Hands:
    """A clock whose hands a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, bell: Any, seconds: float | None) -> None:
        raise AssertionError("nobody waits here")


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    made = Hands()
    monkeypatch.setattr(pump_module, "SYSTEM_CLOCK", made)
    return made


class Given:
    """Parts that come when a test says so, from a thread."""

    def __init__(self) -> None:
        self.batches = Batches(self, self, interval=0.05, heartbeat=15.0, buffer=1000)  # type: ignore[arg-type]
        self._parts: list[Part] = []
        self._bell = threading.Semaphore(0)
        self._over = False
        self.given = 0

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Part:
        self._bell.acquire()
        if self._over:
            raise StopIteration
        return self._parts[self.given - 1]

    def give(self, *parts: Part) -> None:
        cursor = self.batches._cursor
        for part in parts:
            self._parts.append(part)
            self.given += 1
            before = self.batches._pump._last.number
            self._bell.release()
            eventually(lambda: self.batches._pump._last.number > before, "it was read")  # noqa: B023
        assert cursor is not None

    def cancel(self, reason: str | None = None) -> None:
        self._over = True
        self._bell.release()

    def close(self) -> None:
        self.cancel()


def test_the_first_token_comes_at_once_and_the_next_at_the_pace(hands: Hands) -> None:
    """Neighbours are one part, in one batch at most every interval."""
    source = Given()
    look = source.batches.look
    source.batches.begin()
    source.give(Text("a"))
    assert look() == [Text("a")]
    source.give(Text("b"), Text("c"))
    hands.now += 0.01
    assert look() == pytest.approx(0.04)
    hands.now += 0.03
    source.give(Text("d"))
    assert look() == pytest.approx(0.01)
    hands.now += 0.01
    assert look() == [Text("bcd")]
    hands.now += 5
    source.give(Text("e"))
    assert look() == [Text("e")]  # at once, after a pause
    source.batches.close()


def test_the_end_does_not_wait_for_the_pace(hands: Hands) -> None:
    source = Given()
    source.batches.begin()
    source.give(Text("a"))
    assert source.batches.look() == [Text("a")]
    source.give(Text("b"), End())
    source.cancel()
    eventually(lambda: source.batches._pump.end, "the thread has ended")
    assert source.batches.look() == [Text("b"), End()]
    assert source.batches.look() is None


def test_a_write_that_comes_alone_has_an_echo(hands: Hands) -> None:
    """A closed connection refuses the second write only, so that there are two within half a second
    of every heartbeat; not of tokens that follow each other."""
    source = Given()
    beats: list[float] = []

    def until(moment: float) -> None:
        while hands.now < moment:
            found = source.batches.look()
            if found == []:
                beats.append(round(hands.now - 100, 3))
            hands.now += 0.25

    source.batches.begin()
    until(132)
    assert beats == [0.5, 15.5, 16.0, 31.0, 31.5]
    beats.clear()
    for word in "one", "two", "three":
        source.give(Text(word))
        assert source.batches.look() == [Text(word)]
        source.batches.wrote()
        hands.now += 0.25
    until(150)
    assert beats == [47.5, 48.0]
    source.batches.close()


class Silent(Letters):
    """Has no words for what the model thinks."""

    def encode(self, part: Part) -> list[bytes]:
        return [] if isinstance(part, Thinking) else super().encode(part)


def test_what_is_not_shown_is_no_reason_for_silence(hands: Hands) -> None:
    """A model may think for minutes; the browser may leave meanwhile, and so may a proxy."""
    source = Given()
    body = Body(source.batches, Silent())
    beats: list[float] = []
    assert body._look() == b"."
    while hands.now < 132:
        source.give(Thinking("hm"))
        while isinstance(found := body._look(), bytes):
            assert found == b"."
            beats.append(round(hands.now - 100, 3))
        hands.now += 0.25
    assert beats == [0.5, 15.5, 16.0, 31.0, 31.5]
    source.give(Text("a"))
    assert body._look() == b"[Ta]"
    body.close()


@pytest.mark.parametrize(
    ("answer", "protocol", "options"),
    [
        (THOUGHT, "events", {"thinking": False}),
        (CALL, "chat-completions", {}),  # calls are sent at the end
    ],
)
def test_heartbeats_come_while_nothing_is_shown(
    server: LLMServer,
    client_for: Callable[..., Client],
    answer: Answer,
    protocol: str,
    options: dict[str, bool],
) -> None:
    blocks = answer.blocks()
    at = next(n for n, block in enumerate(blocks) if b"delta" in block)
    endless = re.sub(rb',"sequence_number":\d+', b"", blocks[at])
    drip = Drip(endless * 10_000, every=BEAT / 2, size=len(endless))
    server.script(Reply([*blocks[:at], drip]))
    stream = client_for(server).stream("Hi")
    body = relay.sse(stream, protocol, heartbeat=BEAT, interval=0, **options)
    beats = 0
    while beats <= 5 or stream.attempts[-1].chunks <= 5:
        beats += next(body).count(COMMENT)
    body.close()


def test_an_end_without_a_last_part_is_no_end(hands: Hands) -> None:
    source = Given()
    source.batches.begin()
    source.give(Text("a"))
    source.cancel()
    assert source.batches.look() == [Text("a")]
    eventually(lambda: source.batches._pump.end, "the thread has ended")
    with pytest.raises(Cancelled):
        source.batches.look()


# ---- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply.error(400), "InvalidRequestError"),
        (Reply([*TWO_WORDS, *Answer(error={"code": "server_error"}).blocks()[-1:]]), "ServerError"),
        (Reply(TWO_WORDS), "StreamTruncated"),
    ],
    ids=["refused", "in the stream", "cut"],
)
def test_a_failure_is_told_once_and_ends_the_body(
    reply: Reply, kind: str, server: LLMServer, client_for: Callable[..., Client]
) -> None:
    server.script(reply)
    text = told(body_of(client_for(server).stream("Hi")))
    assert text.count("[F") == 1
    assert text.endswith("]")
    assert f"[F{kind}" in text


def test_a_protocol_without_words_for_it_breaks_the_connection(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """After the last bytes; also when the server asks again."""
    server.script(Reply(TWO_WORDS))
    body = body_of(client_for(server).stream("Hi"), Mute())
    found = []
    with pytest.raises(BrokenBody, match="StreamTruncated"):
        found.extend(iter(lambda: next(body), None))
    with pytest.raises(BrokenBody):
        next(body)


def test_a_cancel_by_the_program_is_a_failure(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    server.script(Reply([*TWO_WORDS, Silence()]))
    stream = client_for(server).stream("Hi")
    body = body_of(stream)
    found = next(body)
    while b"one" not in found:
        found += next(body)
    stream.cancel("an operator")
    assert told(body).endswith("[FCancelled]")


# ---- a browser that left -----------------------------------------------------------------------


def test_closing_cancels_the_stream(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Before the first token, and in the middle; nothing is delivered after that."""
    for steps in ([Silence()], [*TWO_WORDS, Silence()]):
        server.script(Reply(steps))
        body = body_of(client_for(server).stream("Hi"))
        next(body)
        server.wait_requests(len(server.requests) or 1)
        if len(steps) > 1:
            while b"one" not in next(body):
                pass
        begun = time.monotonic()
        body.close()
        assert time.monotonic() - begun < PATIENCE / 3  # no clock of the stream is as short
        assert server.wait_closed(-1) - begun < PATIENCE / 3
        with pytest.raises(Cancelled):
            next(body)
        body.close()


def test_one_that_was_never_read_is_closed(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Also where the stream had begun; and its stream cannot be read any more."""
    client = client_for(server)
    unread = client.stream("Hi")
    body_of(unread).close()
    with pytest.raises(Cancelled):
        unread.result()
    server.script(Reply([*TWO_WORDS, Silence()]))
    begun = client.stream("Hi").__enter__()
    body = body_of(begun)
    body.close()
    server.wait_closed(0)
    with pytest.raises(Cancelled):
        next(body)


@pytest.mark.parametrize("read", [0, 1, 2])
def test_one_that_is_dropped_is_closed(
    read: int, server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """By a server that never calls close(), without the garbage collector."""
    server.script(Reply([*TWO_WORDS, Silence()]))
    gc.disable()
    try:
        stream = client_for(server).stream("Hi").__enter__()
        body = body_of(stream)
        for _ in range(read):
            next(body)
        del body, stream
        server.wait_closed(0)
    finally:
        gc.enable()


def test_close_wakes_a_thread_that_waits(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """It gets Cancelled, and no normal end."""
    server.script(Reply([*TWO_WORDS, Silence()]))
    body = body_of(client_for(server).stream("Hi"))
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in body:
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    server.wait_requests(1)
    eventually(lambda: body._batches._cursor._waiting, "it waits")
    body.close()
    thread.join(PATIENCE)
    assert [type(error) for error in errors] == [Cancelled]


def test_an_interrupt_closes(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script(Reply([*TWO_WORDS, Silence()]))
    body = body_of(client_for(server).stream("Hi"))
    next(body)
    server.wait_requests(1)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(body._batches, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(body)
    server.wait_closed(0)
    with pytest.raises(Cancelled):
        next(body)


def test_two_threads_do_not_share_a_body(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    server.script(Reply([*TWO_WORDS, Silence()]))
    body = body_of(client_for(server).stream("Hi"))
    next(body)
    with body._reader, pytest.raises(ConfigurationError, match="one browser"):
        next(body)
    body.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_told(server: LLMServer, client_for: Callable[..., Client]) -> None:
    server.script(Reply([*TWO_WORDS, Silence()]))
    body = body_of(client_for(server).stream("Hi"))
    while b"one" not in next(body):
        pass
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            list(body)
        except BaseException as error:
            os.write(write, type(error).__name__.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"ConfigurationError"
    os.waitpid(pid, 0)
    body.close()


# ---- a slow browser ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_slow_browser_slows_the_stream(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """No more is read than the bound, and what the network's reads and one batch have; then all of
    it arrives."""
    words = [f"word{number:05} " for number in range(20_000)]
    server.script(Answer("".join(words)))
    stream = client_for(server).stream("Hi")
    body = body_of(stream, buffer=20_000)
    next(body)
    waits = lambda: body._batches._pump.waiting  # noqa: E731
    eventually(waits, "the thread waits for the browser")
    held = len(stream.text)
    assert held < 20_000 + 40_000
    eventually(waits, "it still does")
    assert len(stream.text) <= held + 40_000
    text = told(body)
    assert text == f"[B][T{''.join(words)}][E]"


@pytest.mark.slow
def test_a_cancel_ends_the_thread_that_waits_for_a_slow_browser(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    server.script(Answer("a word " * 20_000))
    stream = client_for(server).stream("Hi")
    body = body_of(stream, buffer=1000)
    next(body)
    eventually(lambda: body._batches._pump.waiting, "the thread waits for the browser")
    stream.cancel()
    eventually(lambda: body._batches._pump.end, "the thread has ended")
    assert told(body).endswith("[FCancelled]")


# ---- 200 at once -------------------------------------------------------------------------------


def test_many_at_once_in_one_process(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """None starves, every one is whole, and nothing is left."""
    count = 100
    together = threading.Barrier(count)

    def reply(recorded: Any) -> Reply:
        together.wait(2 * PATIENCE)  # all are connected before any is answered
        return Reply([*OPENING, *(step for one in DELTAS for step in (Pause(0.02), one)), *ENDING])

    server.default = reply
    client = client_for(server)
    texts: list[str] = []
    errors = in_threads(
        count, lambda n: texts.append(told(body_of(client.stream("Hi"), heartbeat=0.5)))
    )
    assert errors == []
    assert len(texts) == count
    assert set(texts) == {WHOLE}


# ---- servers of ASGI ---------------------------------------------------------------------------


def in_loop(work: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), PATIENCE))


def test_the_same_bytes_for_a_server_of_asgi(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """By the body itself, without a thread that waits; and by a body that blocks."""
    client = client_for(server)

    async def read(pieces: Any) -> bytes:
        return b"".join([piece async for piece in pieces])

    async def read_beats(pieces: Any, stream: Scripted) -> bytes:
        found, silent = b"", True
        async for piece in pieces:
            found += piece
            if found.count(b".") > 3 and silent:
                silent = False
                stream.say("one")
                stream.finish()
        return found

    for wrapped in (lambda body: body, from_thread):
        server.script(
            Reply([*OPENING, *(step for one in DELTAS for step in (Pause(0.03), one)), *ENDING])
        )
        body = body_of(client.stream("Hi"), interval=0.01, heartbeat=0.02)
        assert told([in_loop(lambda: read(wrapped(body)))]) == WHOLE  # noqa: B023
        stream = Scripted()
        body = body_of(stream, interval=0.01, heartbeat=0.02)  # type: ignore[arg-type]
        assert told([in_loop(lambda: read_beats(wrapped(body), stream))]) == "[B][Tone][E]"  # noqa: B023


@pytest.mark.parametrize("kind", ["itself", "blocks"])
@pytest.mark.parametrize("words", [False, True])
def test_an_event_loop_that_leaves_cancels(
    kind: str, words: bool, server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """As a server does when the browser has left: the task is cancelled while it waits."""
    server.script(Reply([*(TWO_WORDS if words else ()), Silence()]))
    body = body_of(client_for(server).stream("Hi"))

    async def serve() -> None:
        pieces = aiter(body) if kind == "itself" else from_thread(body)
        async with aclosing(pieces) as found:  # type: ignore[type-var]
            async for _ in found:
                pass

    async def leave() -> None:
        task = asyncio.create_task(serve())
        while not server.requests:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_loop(leave)
    server.wait_closed(0)


def test_an_event_loop_gets_the_error(server: LLMServer, client_for: Callable[..., Client]) -> None:
    async def read(pieces: Any) -> None:
        async for _ in pieces:
            pass

    for wrapped in (lambda body: body, from_thread):
        server.script(Reply(TWO_WORDS))
        body = body_of(client_for(server).stream("Hi"), Mute())
        with pytest.raises(BrokenBody):
            in_loop(lambda: read(wrapped(body)))  # noqa: B023


# ---- sse ---------------------------------------------------------------------------------------


def test_sse_numbers_its_events() -> None:
    """From 0, which is no event: a browser that has got nothing else says so when it comes back."""
    body = relay.sse(Client(base_url="http://test", transport=FakeTransport(ANSWER)).stream("Hi"))
    found = list(body)
    assert found[0] == b"id: 0\n" + COMMENT
    frames = b"".join(found[1:]).replace(COMMENT, b"").split(b"\n\n")[:-1]
    assert [frame.split(b"\n")[0] for frame in frames] == [
        b"id: %d" % number for number in range(1, len(frames) + 1)
    ]
    assert body.headers == relay.headers("events")


def test_openai_clients_get_no_ids() -> None:
    """After one, the `openai` of Python takes a heartbeat for an event without data, and fails."""
    client = Client(base_url="http://test", transport=FakeTransport(ANSWER))
    assert b"id:" not in b"".join(relay.sse(client.stream("Hi"), "chat-completions"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"protocol": "carrier pigeon"}, "pass one of 'events'"),
        ({"protocol": 7}, "pass one of 'events'"),
        ({"protocol": "ui-message", "version": 4}, "pass one of 5, 6, 7"),
        ({"heartbeat": 0}, "heartbeat=0: pass a number from 0.01"),
        ({"heartbeat": None}, "heartbeat=None: pass a number"),
        ({"heartbeat": float("nan")}, "heartbeat=nan: pass a number"),
        ({"interval": -1}, "interval=-1: pass a number from 0"),
        ({"buffer": 0}, "buffer=0: pass a whole number"),
        ({"colour": "red"}, "'colour' is not an option"),
    ],
)
def test_wrong_arguments_are_said_at_once(arguments: dict[str, Any], words: str) -> None:
    """And the stream is as it was."""
    transport = FakeTransport(ANSWER)
    stream = Client(base_url="http://test", transport=transport).stream("Hi")
    with pytest.raises(ConfigurationError, match=words):
        relay.sse(stream, **arguments)
    assert not transport.requests
    assert stream.result().text == "one two three four"


def test_a_stream_that_was_read_is_refused() -> None:
    client = Client(base_url="http://test", transport=FakeTransport(ANSWER, ANSWER))
    read = client.stream("Hi")
    read.result()
    with pytest.raises(ConfigurationError, match="read before"):
        relay.sse(read)
    reading = client.stream("Hi")
    next(reading)
    with pytest.raises(ConfigurationError, match="already being read"):
        relay.sse(reading)
    reading.close()
    for odd in (None, "text", iter([]), client):
        with pytest.raises(ConfigurationError, match="pass a stream"):
            relay.sse(odd)


def test_a_protocol_that_cannot_show_a_restart_refuses_it() -> None:
    transport = FakeTransport()
    client = Client(base_url="http://test", transport=transport, on_disconnect="restart")
    with pytest.raises(ConfigurationError, match="restart"):
        relay.sse(client.stream("Hi"), "ui-message", version=6)
    relay.sse(client.stream("Hi"), "ui-message", version=7).close()
    assert not transport.requests
