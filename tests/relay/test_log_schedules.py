"""Random schedules of publish, follow, stop and cut, against a model of what must come of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from log_tools import (
    PROTOCOL,
    Event,
    RedisServer,
    Scripted,
    check_ids,
    errors_in,
    events_of,
    is_whole,
    text_in,
)
from support import eventually

from llmstream import ServerError, relay

pytestmark = pytest.mark.usefixtures("nothing_left")

IDS = ["a", "b", "c"]
STEPS = 40


class Page:
    """A browser that is cut off again and again, and comes back with the last id that it has."""

    def __init__(self, log: Any, id: str) -> None:
        self.log, self.id = log, id
        self.events: list[Event] = []
        self.body: Any = None
        self._rest = b""

    @property
    def last(self) -> str | None:
        return self.events[-1].id if self.events else None

    def read(self) -> bool:
        """One piece, which may be a heartbeat. Returns whether there may be more."""
        if self.body is None:
            self.body = relay.follow(self.log, self.id, self.last, heartbeat=0.01)
            self._rest = b""
            if not self.body:
                self.body = None
                return False
        piece = next(self.body, None)
        if piece is None:
            self.body = None
            return False
        self._rest += piece
        *whole, self._rest = self._rest.split(b"\n\n")
        self.events += events_of(b"".join(block + b"\n\n" for block in whole))
        return True

    def cut(self, how: random.Random) -> None:
        """In the middle of whatever: a part of what was sent may not have arrived."""
        body, self.body = self.body, None
        if body is not None and how.random() < 0.5:
            body.close()
        if self.events and how.random() < 0.3:
            del self.events[-how.randint(1, len(self.events)) :]

    def reload(self) -> None:
        self.cut(random.Random(0))
        self.events = []


class Answered:
    """What the model knows of an answer."""

    def __init__(self) -> None:
        self.streams: list[Scripted] = []
        self.words = ""
        self.how = ""  # it ended, as far as the one who ended it knows

    @property
    def made(self) -> list[Scripted]:
        return [stream for stream in self.streams if stream.sent.is_set()]


def play(log: Any, seed: int) -> None:
    luck = random.Random(seed)
    answers = {id: Answered() for id in IDS}
    pages = [Page(log, luck.choice(IDS)) for _ in range(4)]
    for step in range(STEPS):
        id = luck.choice(IDS)
        answer = answers[id]
        what = luck.choice(["publish", "say", "say", "read", "read", "read", "cut", "end", "stop"])
        if what == "publish":
            stream = Scripted()
            is_first = bool(relay.publish(log, id, stream, PROTOCOL, interval=0.0))
            assert is_first == (not answer.streams)
            answer.streams.append(stream)
        elif what == "read":
            luck.choice(pages).read()
        elif what == "cut":
            page = luck.choice(pages)
            page.cut(luck) if luck.random() < 0.8 else page.reload()
        elif not answer.streams or answer.how:
            assert not relay.stop(log, id) or answer.how
        elif what == "say":
            word = f"{step}{luck.choice(['', 'é', '🙂'])} "
            answer.words += word
            answer.streams[0].say(word)
        elif what == "stop":
            answer.how = "stopped"
            assert relay.stop(log, id)
        elif luck.random() < 0.4:
            answer.how = luck.choice(["finished", "failed"])
            if answer.how == "finished":
                answer.streams[0].finish()
            else:
                answer.streams[0].fail(ServerError("the service failed"))
    check(log, answers, pages)


def check(log: Any, answers: dict[str, Answered], pages: list[Page]) -> None:
    for answer in answers.values():
        if answer.streams and not answer.how:
            answer.how = "finished"
            answer.streams[0].finish()
    fresh = {id: Page(log, id) for id in IDS}
    for page in [*fresh.values(), *pages]:
        while page.read():
            pass
    for id, answer in answers.items():
        events = fresh[id].events
        if not answer.streams:
            assert events == []
            continue
        assert answer.made == answer.streams[:1]  # one request, that of the first
        check_ids(events)
        assert answer.words.startswith(text_in(events))
        assert is_whole(events) == (answer.how == "finished")
        assert len(errors_in(events)) == (answer.how != "finished")
        if answer.how != "stopped":
            assert text_in(events) == answer.words
    for page in pages:
        assert page.events == fresh[page.id].events


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_random_schedules(first: int) -> None:
    for seed in range(first, first + 20):
        play_on_memory(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(40, 1000, 120))
def test_a_thousand_random_schedules(first: int) -> None:
    for seed in range(first, first + 120):
        play_on_memory(seed)


def play_on_memory(seed: int) -> None:
    log = relay.MemoryLog()
    try:
        play(log, seed)
    except BaseException as exc:
        exc.add_note(f"seed {seed}") if hasattr(exc, "add_note") else None
        raise
    finally:
        log.close()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.remove()


@pytest.mark.hosts
@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_schedules_on_redis(first: int, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("redis_server")
    for seed in range(first, first + 20):
        log = relay.RedisLog(server.url, prefix=f"seed-{seed}")
        try:
            play(log, seed)
        finally:
            log.close()
    with server.client() as client:
        eventually(lambda: client.info("clients")["connected_clients"] == 1, "all is closed")
        client.flushall()
