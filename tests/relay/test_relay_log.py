"""Reload and go on: what every log of answers does, in memory and on a real Redis."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from log_tools import (
    PROTOCOL,
    Browser,
    RedisServer,
    Scripted,
    check_ids,
    elapsed,
    errors_in,
    events_of,
    is_whole,
    kind,
    text_in,
)
from support import (
    ANSWER,
    DELTAS,
    ONCE,
    OPENING,
    PATIENCE,
    PROMPT,
    eventually,
    in_threads,
    other_threads,
)

from llmstream import Cancelled, Client, ConfigurationError, StreamInterrupted, relay
from llmstream.relay.body import BrokenBody
from llmstream.relay.log.base import TOO_LONG, UNATTENDED
from llmstream.testing import Answer, LLMServer, Reply, Reset, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")

WORDS = ["one", " two", " three", " four"]
TEXT = "".join(WORDS)
SOON = 2.0  # seconds: before the log on Redis looks by itself, which it does every 2.5 s
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.hosts)])
def make(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[Make]:
    """`make(**settings)` is a log, closed afterwards; on Redis each is that of another process."""
    made: list[Any] = []

    def new(**settings: Any) -> Any:
        if request.param == "memory":
            log: Any = relay.MemoryLog(**settings)
        else:
            server = request.getfixturevalue("redis_server")
            log = relay.RedisLog(server.url, **settings)
        made.append(log)
        return log

    yield new
    for log in made:
        log.close()
    if request.param == "redis":
        with request.getfixturevalue("redis_server").client() as client:
            client.flushall()


@pytest.fixture
def log(make: Make) -> Any:
    return make()


def publish(log: Any, stream: Any, id: str = "a", **settings: Any) -> relay.Publication:
    return relay.publish(log, id, stream, PROTOCOL, **{"interval": 0.0, **settings})


def whole(log: Any, id: str = "a", last: str | None = None) -> list[Any]:
    return Browser(relay.follow(log, id, last)).ended()


# ---- the answer --------------------------------------------------------------------------------


def test_an_answer_is_followed_while_it_is_made_and_after(log: Any) -> None:
    stream = Scripted()
    assert publish(log, stream)
    early = Browser(relay.follow(log, "a"))
    for number, word in enumerate(WORDS, 1):
        stream.say(word)
        early.reads("".join(WORDS[:number]))
    late = Browser(relay.follow(log, "a"))
    late.reads(TEXT)
    stream.finish()
    for events in (early.ended(), late.ended(), whole(log)):
        assert text_in(events) == TEXT
        assert is_whole(events)
        check_ids(events)


def test_the_connection_is_cut_at_each_event_in_turn(log: Any, server: LLMServer) -> None:
    """After the end: whatever a browser has seen, it gets the rest, once. One request in all."""
    server.script(Reply(ANSWER))
    with Client("responses", base_url=server.base_url, api_key="k") as client:
        publication = publish(log, client.stream(PROMPT))
        all_of_it = whole(log)
        assert publication.wait(PATIENCE)
        for cut in range(len(all_of_it)):
            seen = all_of_it[:cut]
            last = seen[-1].id if seen else None
            rest = whole(log, last=last)
            assert seen + rest == all_of_it
            check_ids(rest, last)
            # And a browser whose page was reloaded begins anew.
            assert not publish(log, client.stream(PROMPT))
            assert whole(log) == all_of_it
        assert len(server.requests) == 1
    assert text_in(all_of_it) == "one two three four"


def test_the_answer_can_be_kept(log: Any, server: LLMServer) -> None:
    """Whoever has published it waits for its end, and has its result."""
    server.script(Reply(ANSWER), Reply([*OPENING, Reset()]))
    with Client("responses", base_url=server.base_url, api_key="k") as client:
        stream = client.stream(PROMPT)
        assert publish(log, stream).wait(PATIENCE)
        assert stream.result().text == "one two three four"
        failing = client.stream(PROMPT, retry=ONCE)
        assert publish(log, failing, "b").wait(PATIENCE)
        with pytest.raises(StreamInterrupted):
            failing.result()


def test_the_connection_is_cut_while_the_answer_is_made(log: Any) -> None:
    """After each event that has arrived, the browser leaves, and comes back before the next one."""
    stream = Scripted()
    publish(log, stream)
    seen: list[Any] = []
    for number in range(len(WORDS) + 1):
        before = len(seen)
        body = relay.follow(log, "a", seen[-1].id if seen else None)
        browser = Browser(body)
        if number < len(WORDS):
            stream.say(WORDS[number])
            browser.reads(WORDS[number])
            body.close()
            browser.join(PATIENCE)
            assert isinstance(browser.error, Cancelled)
            seen += browser.events
        else:
            stream.finish()
            seen += browser.ended()
        assert len(seen) > before
    check_ids(seen)
    assert text_in(seen) == TEXT
    assert is_whole(seen)


def test_an_event_that_was_cut_in_half_comes_whole(log: Any) -> None:
    """Cut at every byte: the events before, and those after, are all."""
    publish(log, Scripted(*WORDS, finishes=True)).wait(PATIENCE)
    data = b"".join(relay.follow(log, "a"))
    everything = events_of(data)
    for cut in range(0, len(data), 7):
        seen = events_of(data[:cut])
        assert seen + whole(log, last=seen[-1].id if seen else None) == everything


@pytest.mark.parametrize(
    "last",
    [
        "",
        "0",
        "7",
        "-1",
        "x",
        "1-1",
        "0-0",
        "9" * 400,
        "1-1; DROP",
        "٣-١",
        "\x00",
        "\ud800",
        "1-1-1",
    ],
)
def test_an_invented_last_event_id_is_none(log: Any, last: str) -> None:
    publish(log, Scripted(*WORDS, finishes=True)).wait(PATIENCE)
    assert text_in(whole(log, last=last)) == TEXT
    generation, _, number = whole(log)[-1].id.partition("-")
    for number_of_none in (int(number) + 2, 10**8):
        events = whole(log, last=f"{generation}-{number_of_none}")
        assert text_in(events) == TEXT


def test_the_id_of_an_older_answer_is_none(make: Make) -> None:
    log, first, second = make(ttl=0.05), Scripted("an older answer"), Scripted(*WORDS)
    publish(log, first)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("an older answer")
    older = browser.events
    first.finish()
    browser.join(PATIENCE)
    eventually(lambda: not relay.follow(log, "a"), "the answer is forgotten")
    publish(log, second)
    browser = Browser(relay.follow(log, "a", older[2].id))
    browser.reads(TEXT)  # before its time begins
    assert text_in(browser.events) == TEXT
    second.finish()
    browser.join(PATIENCE)


# ---- once --------------------------------------------------------------------------------------


def test_an_id_is_published_once(log: Any) -> None:
    first, second, third = Scripted(*WORDS), Scripted("never"), Scripted("never")
    assert publish(log, first)
    assert not publish(log, second)
    assert second.closed.is_set()
    assert publish(log, second, "b") is not None  # an id of its own
    first.finish()
    assert text_in(whole(log)) == TEXT
    assert not publish(log, third)
    assert not third.sent.is_set()


def test_of_many_that_publish_at_once_one_does(make: Make) -> None:
    logs = [make()] * 4 if isinstance(make(), relay.MemoryLog) else [make() for _ in range(4)]
    for turn in range(5):
        streams = [Scripted(*WORDS, finishes=True) for _ in range(8)]
        first: list[bool] = []

        def work(number: int, turn: int = turn, streams: Any = streams, first: Any = first) -> None:
            first.append(bool(publish(logs[number % 4], streams[number], f"id-{turn}")))

        assert in_threads(len(streams), work) == []
        assert first.count(True) == 1
        assert text_in(whole(logs[0], f"id-{turn}")) == TEXT
        assert sum(stream.sent.is_set() for stream in streams) == 1


def test_who_has_all_of_it_and_who_asks_for_nothing_known_gets_204(log: Any) -> None:
    publish(log, Scripted(*WORDS, finishes=True)).wait(PATIENCE)
    events = whole(log)
    for body in (
        relay.follow(log, "a", events[-1].id),
        relay.follow(log, "another"),
        relay.follow(log, "another", events[-1].id),
        relay.follow(log, ""),
        relay.follow(log, "x" * 10_000),
        relay.follow(log, "\ud800"),
    ):
        assert not body
        assert body.status == 204
        assert list(body) == []
        body.close()
    body = relay.follow(log, "a")
    assert (bool(body), body.status) == (True, 200)
    assert body.headers == relay.headers(PROTOCOL)
    body.close()


@pytest.mark.parametrize(
    "id", ["a", "ü/€", "{a}", "}{", "}", "{}", " ", "a:log", "x" * 512, "\n\x00"]
)
def test_any_text_is_an_id(log: Any, id: str) -> None:
    publish(log, Scripted(*WORDS, finishes=True), id).wait(PATIENCE)
    assert text_in(whole(log, id)) == TEXT
    assert not relay.follow(log, id + "x"[: 512 - len(id)]) or len(id) == 512


# ---- readers -----------------------------------------------------------------------------------


def test_who_leaves_ends_nothing(log: Any) -> None:
    stream = Scripted("one")
    publish(log, stream)
    leaving, staying = Browser(relay.follow(log, "a")), Browser(relay.follow(log, "a"))
    for browser in (leaving, staying):
        browser.reads("one")
    leaving.body.close()
    leaving.join(PATIENCE)
    stream.say(" two")
    staying.reads("one two")
    staying.body.close()
    staying.join(PATIENCE)
    stream.say(" three")  # nobody is there
    stream.finish()
    assert text_in(whole(log)) == "one two three"
    assert stream.cancelled == []


@pytest.mark.slow
def test_an_answer_that_nobody_reads_is_stopped(log: Any) -> None:
    stream, patience = Scripted("one"), 3.0
    publish(log, stream, unattended=patience)
    reader = Browser(relay.follow(log, "a"))
    reader.reads("one")
    time.sleep(1.5 * patience)  # it goes on, because somebody reads
    assert stream.cancelled == []
    left = time.monotonic()
    reader.body.close()
    eventually(lambda: stream.cancelled, "the answer is stopped")
    assert elapsed(left) > 0.9 * patience
    events = whole(log)
    assert text_in(events) == "one"
    assert not is_whole(events)
    assert any(UNATTENDED in str(event.data) or kind(event) == "abort" for event in events)


def test_an_answer_that_nobody_ever_read_is_stopped(log: Any) -> None:
    stream = Scripted("one")
    publish(log, stream, unattended=0.1)
    eventually(lambda: stream.cancelled, "the answer is stopped")
    eventually(lambda: not is_whole(whole(log)), "it ends")


def test_an_answer_may_go_on_to_its_end_alone(log: Any) -> None:
    stream = Scripted("one")
    publication = publish(log, stream, unattended=None)
    assert not publication.wait(0.2)
    stream.finish()
    assert publication.wait(PATIENCE)
    assert is_whole(whole(log))


def test_a_body_that_is_closed_by_another_thread_ends_at_once(log: Any) -> None:
    stream = Scripted("one")
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    closed = time.monotonic()
    browser.body.close()
    browser.join(PATIENCE)
    assert elapsed(closed) < SOON
    assert isinstance(browser.error, Cancelled)
    with pytest.raises(Cancelled):
        next(browser.body)
    stream.finish()


def test_a_body_that_is_dropped_leaves(log: Any) -> None:
    stream = Scripted("one")
    publish(log, stream, unattended=0.2)
    body = relay.follow(log, "a")
    next(body)
    del body
    gc.collect()
    eventually(lambda: stream.cancelled, "nobody reads")


def test_heartbeats(log: Any) -> None:
    """The first bytes at once, before the first token; and whenever nothing else is written."""
    stream = Scripted()
    publish(log, stream)
    stream.sent.wait(PATIENCE)
    eventually(lambda: len(events_of(next(relay.follow(log, "a")))) > 0, "it has begun")
    last = whole_so_far(log)[-1].id
    body = relay.follow(log, "a", last, heartbeat=0.05)
    began = time.monotonic()
    assert next(body) == b": keep-alive\n\n"
    assert elapsed(began) < SOON
    assert [next(body) for _ in range(3)] == [b": keep-alive\n\n"] * 3
    assert elapsed(began) > 0.1
    stream.finish()
    assert is_whole(events_of(b"".join(body)))


def whole_so_far(log: Any) -> list[Any]:
    body = relay.follow(log, "a")
    events = events_of(next(body))
    body.close()
    return events


def test_an_event_loop_follows_too(log: Any) -> None:
    stream = Scripted("one")
    publish(log, stream)

    async def read() -> bytes:
        data = b""
        async for piece in relay.follow(log, "a"):
            data += piece
            if "one" in text_in(events_of(data)) and not data.count(b" two"):
                stream.say(" two")
                stream.finish()
        return data

    events = events_of(asyncio.run(read()))
    assert text_in(events).startswith("one two")
    assert is_whole(events)


# ---- stop --------------------------------------------------------------------------------------


def test_stop_ends_the_call_and_tells_the_readers(make: Make, server: LLMServer) -> None:
    here = make()
    there = here if isinstance(here, relay.MemoryLog) else make()
    server.script(Reply([*OPENING, *DELTAS[:2], Silence()]))
    with Client("responses", base_url=server.base_url, api_key="k") as client:
        publication = publish(here, client.stream(PROMPT))
        browser = Browser(relay.follow(there, "a"))
        browser.reads("one two")
        began = time.monotonic()
        assert relay.stop(there, "a", "the user")
        assert publication.wait(PATIENCE)
        assert elapsed(began) < SOON
        events = browser.ended()
        assert text_in(events) == "one two"
        assert not is_whole(events)
        assert whole(there) == events
        assert not relay.stop(there, "a")
        assert not relay.stop(there, "another")
        assert not relay.stop(there, "")


def test_any_text_is_a_reason(log: Any) -> None:
    for number, reason in enumerate(["half a \ud83d", "a\nline\x00", "x" * 100_000]):
        stream = Scripted("one")
        publish(log, stream, str(number))
        assert relay.stop(log, str(number), reason)
        eventually(lambda stream=stream: stream.cancelled, "it is stopped")
        assert stream.cancelled[0].startswith(reason[:6])


def test_stop_before_the_first_token(log: Any) -> None:
    stream = Scripted()
    publish(log, stream)
    assert relay.stop(log, "a")
    eventually(lambda: stream.cancelled, "the call is cancelled")
    assert not is_whole(whole(log))


# ---- answers that fail -------------------------------------------------------------------------


def test_an_answer_that_fails_is_told_to_all_readers(log: Any, server: LLMServer) -> None:
    server.script(Reply([*OPENING, *DELTAS[:2], Reset()]))
    with Client("responses", base_url=server.base_url, api_key="k") as client:
        publish(log, client.stream(PROMPT))
        events = whole(log)
        assert text_in(events) == "one two"
        assert len(errors_in(events)) == 1
        assert not is_whole(events)
        assert whole(log) == events
        assert not relay.follow(log, "a", events[-1].id)


def test_a_protocol_without_words_for_it_breaks(log: Any) -> None:
    stream = Scripted(*WORDS)
    relay.publish(log, "a", stream, "text", interval=0.0)
    live = Browser(relay.follow(log, "a"))
    eventually(lambda: live.data.decode() == TEXT, "all is read")
    stream.fail(Cancelled("cut"))
    for browser in (live, Browser(relay.follow(log, "a"))):
        with pytest.raises(BrokenBody):
            browser.ended()
        assert browser.data.decode() == TEXT
    relay.publish(log, "b", Scripted(*WORDS, finishes=True), "text")
    assert b"".join(relay.follow(log, "b")) == TEXT.encode()


def test_an_answer_that_is_too_long_ends_and_says_so(make: Make) -> None:
    log = make(max_answer_bytes=20_000)
    stream = Scripted("x" * 8000)
    publication = publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("x" * 8000)
    stream.say("y" * 30_000)
    events = browser.ended()
    assert publication.wait(PATIENCE)
    assert errors_in(events) == [TOO_LONG]
    assert text_in(events) == "x" * 8000
    assert "max_answer_bytes" in str(stream.cancelled[0])
    assert whole(log) == events


def test_a_log_that_is_closed_stops_its_answers(make: Make) -> None:
    log = make()
    stream = Scripted("one")
    publication = publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    log.close()
    events = browser.ended()
    assert publication.wait(PATIENCE)
    assert stream.cancelled
    assert not is_whole(events)
    assert errors_in(events)
    publish(log, Scripted("two", finishes=True), "b")  # it may be used again
    assert is_whole(whole(log, "b"))


def test_an_answer_is_forgotten_after_its_time(make: Make) -> None:
    log, again = make(ttl=0.1), Scripted("again")
    publish(log, Scripted(*WORDS, finishes=True)).wait(PATIENCE)
    eventually(lambda: not relay.follow(log, "a"), "the answer is forgotten")
    assert publish(log, again)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("again")  # before its time begins
    assert text_in(browser.events) == "again"
    again.finish()
    browser.join(PATIENCE)


# ---- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"log": None}, "MemoryLog"),
        ({"id": ""}, "id="),
        ({"id": None}, "id="),
        ({"id": "x" * 513}, "512"),
        ({"id": "\ud800"}, "id="),
        ({"protocol": "nope"}, "protocol="),
        ({"version": 99}, "version="),
        ({"stream": "text"}, "publish"),
        ({"unattended": 0}, "unattended="),
        ({"unattended": True}, "unattended="),
        ({"unattended": float("nan")}, "unattended="),
        ({"interval": -1}, "interval="),
        ({"buffer": 0}, "buffer="),
        ({"nothing": 1}, "nothing"),
    ],
)
def test_publish_says_at_once_what_is_wrong(arguments: dict[str, Any], words: str) -> None:
    log, stream = relay.MemoryLog(), Scripted()
    given = {"log": log, "id": "a", "stream": stream, "protocol": PROTOCOL, **arguments}
    with pytest.raises(ConfigurationError, match=words):
        relay.publish(**given)
    assert not stream.sent.is_set()
    assert not relay.follow(log, "a")


def test_follow_and_stop_say_at_once_what_is_wrong() -> None:
    log = relay.MemoryLog()
    for call in (
        lambda: relay.follow("log", "a"),  # type: ignore[arg-type]
        lambda: relay.follow(log, 1),  # type: ignore[arg-type]
        lambda: relay.follow(log, "a", 5),  # type: ignore[arg-type]
        lambda: relay.follow(log, "a", b"1-1"),  # type: ignore[arg-type]
        lambda: relay.follow(log, "a", heartbeat=0),
        lambda: relay.stop(log, 1),  # type: ignore[arg-type]
        lambda: relay.stop(log, "a", 5),  # type: ignore[arg-type]
        lambda: relay.stop(None, "a"),  # type: ignore[arg-type]
        lambda: relay.MemoryLog(ttl=0),
        lambda: relay.MemoryLog(max_bytes=0),
        lambda: relay.MemoryLog(max_answer_bytes=1.5),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError):
            call()


def test_a_stream_that_was_read_before_is_refused() -> None:
    log = relay.MemoryLog()
    with LLMServer() as server, Client("chat", base_url=server.base_url, model="m") as client:
        server.script(Reply(Answer("one")))
        stream = client.stream(PROMPT)
        stream.result()
        with pytest.raises(ConfigurationError, match="read before"):
            publish(log, stream)
        with pytest.raises(ConfigurationError, match="restart"):
            publish(log, client.stream(PROMPT, on_disconnect="restart"), version=5)
        assert publish(log, client.stream(PROMPT, on_disconnect="restart"), version=7)
        assert is_whole(whole(log))
        assert len(server.requests) == 2


# ---- at once -----------------------------------------------------------------------------------


def test_a_crowd_of_answers_and_readers(make: Make) -> None:
    """20 answers of 40 pieces with 3 readers each, all at once: each gets its own."""
    log, before = make(), other_threads()
    streams = [Scripted() for _ in range(20)]
    for number, stream in enumerate(streams):
        publish(log, stream, f"id-{number}")
    readers = [(n, Browser(relay.follow(log, f"id-{n}"))) for n in range(20) for _ in range(3)]

    def tell(number: int) -> None:
        for piece in range(40):
            streams[number].say(f"{number}.{piece} ")
        streams[number].finish()

    assert in_threads(20, tell) == []
    for number, reader in readers:
        events = reader.ended(60)
        check_ids(events)
        assert text_in(events) == "".join(f"{number}.{piece} " for piece in range(40))
        assert is_whole(events)
    eventually(lambda: not other_threads() - before, "their threads have ended")
