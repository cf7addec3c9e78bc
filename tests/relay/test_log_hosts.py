"""Reload and go on between two real servers that share a real Redis: gunicorn with Flask."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hosts import Browser, Event, Host, gunicorn, uvicorn
from log_tools import RedisServer, elapsed
from support import PATIENCE, eventually

from llmstream.relay.log.base import STOPPED
from llmstream.testing import Answer, LLMServer, Pause, Reply, Silence

pytestmark = pytest.mark.hosts

WORDS = ["one", " two", ' "three"\n', " 🙂", " \u2028", " </script>"]
TEXT = "".join(WORDS)
LEASE = 12.0  # seconds: what a lease would tell comes far later than what is told at once
LATE = 8.0  # seconds that a machine may take longer than a lease
BLOCKS = Answer(WORDS).blocks()
Serve = Callable[..., AbstractContextManager[Host]]


@pytest.fixture(scope="module")
def service() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def serve(service: LLMServer, redis_server: RedisServer) -> Serve:
    """`serve(folder, *options)` is a server that shares the log with its like."""
    settings = {"SERVICE": service.base_url, "REDIS_URL": redis_server.url, "LEASE": str(LEASE)}
    options = ["served.logs:app", "--worker-class", "gthread", "--threads", "20"]
    return lambda folder, *more: gunicorn(folder, *options, *more, **settings)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> Iterator[tuple[Host, Host]]:
    folder = tmp_path_factory.mktemp("two")
    with serve(folder / "one") as one, serve(folder / "two") as two:
        yield one, two


@pytest.fixture(autouse=True)
def empty(redis_server: RedisServer) -> Iterator[None]:
    yield
    with redis_server.client() as client:
        client.flushall()


def follow(host: Host, id: str, last: str | None = None) -> Browser:
    header = f"Last-Event-ID: {last}\r\n" if last is not None else ""
    return Browser(host.port, f"/follow/{id}", headers=header)


def text_in(events: list[Event]) -> str:
    return "".join(json.loads(e.data)["text"] for e in events if e.name == "token")


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def slow() -> Reply:
    return Reply([step for block in BLOCKS for step in (block, Pause(0.03))])


def test_the_connection_is_cut_at_each_event_and_goes_to_the_other_server(
    two: tuple[Host, Host], service: LLMServer
) -> None:
    before = len(service.requests)
    service.script(slow())
    assert two[0].json("/publish/whole", prompt="why")["first"]
    with follow(two[1], "whole") as browser:
        everything = list(browser.events())
    assert text_in(everything) == TEXT
    for cut in range(1, len(everything)):
        service.script(slow())
        id = f"cut-{cut}"
        assert two[0].json(f"/publish/{id}", prompt="why")["first"]
        assert not two[1].json(f"/publish/{id}", prompt="why")["first"]
        seen: list[Event] = []
        with follow(two[0], id) as browser:
            for event in browser.events():
                seen.append(event)
                if len(seen) == cut:
                    break
        with follow(two[1], id, seen[-1].id) as browser:
            seen += browser.events()
            assert browser.is_whole
        assert text_in(seen) == TEXT
        assert len({event.id for event in seen}) == len(seen)
        assert names(seen).count("done") == 1
        with follow(two[0], id, seen[-1].id) as browser:
            assert browser.status == 204
    assert len(service.requests) - before == len(everything)


def test_stop_works_at_the_other_server(two: tuple[Host, Host], service: LLMServer) -> None:
    service.script(Reply([*BLOCKS[:6], Silence()]))
    two[0].json("/publish/a", prompt="why")
    with follow(two[0], "a") as browser:
        events = browser.events()
        seen = [next(events)]
        began = time.monotonic()
        assert two[1].json("/stop/a")["stopped"]
        eventually(lambda: service.requests[-1].closed_at, "the call is cancelled")
        assert elapsed(began) < LEASE / 4
        seen += events
    assert names(seen)[-1] == "error"
    assert "done" not in names(seen)
    assert not two[1].json("/stop/a")["stopped"]


def test_the_worker_is_killed(two: tuple[Host, Host], service: LLMServer) -> None:
    service.script(Reply([*BLOCKS[:6], Silence()]))
    pid = two[0].json("/publish/a", prompt="why")["pid"]
    with follow(two[1], "a") as browser:
        events = browser.events()
        seen = [next(events)]
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        seen += events
        assert elapsed(began) < LEASE + LATE
    assert json.loads(seen[-1].data)["message"] == STOPPED


def test_the_server_is_ended(
    two: tuple[Host, Host], serve: Serve, service: LLMServer, tmp_path: Path
) -> None:
    """As for a new version of the application: the readers elsewhere are told at once."""
    service.script(Reply([*BLOCKS[:6], Silence()]))
    with serve(tmp_path) as old:
        old.json("/publish/a", prompt="why")
        with follow(two[1], "a") as browser:
            events = browser.events()
            seen = [next(events)]
            old.process.terminate()
            began = time.monotonic()
            seen += events
            told = elapsed(began)
        assert old.process.wait(PATIENCE) == 0
    assert json.loads(seen[-1].data)["message"] == STOPPED
    assert told < LEASE / 2


@pytest.mark.parametrize("worker", ["gevent", "sync"])
def test_other_workers(
    two: tuple[Host, Host], serve: Serve, service: LLMServer, tmp_path: Path, worker: str
) -> None:
    """gevent's greenlets; and sync, which has one browser at a time and writes on meanwhile."""
    service.script(Reply([*BLOCKS[:6], Silence()]), Reply([*BLOCKS[:6], Silence()]), slow())
    with serve(tmp_path, "--worker-class", worker, "--threads", "1") as host:
        for id, stopped_by in (("a", host), ("b", two[1])):
            host.json(f"/publish/{id}", prompt="why")
            with follow(host if worker == "gevent" else two[0], id) as browser:
                events = browser.events()
                seen = [next(events)]
                began = time.monotonic()
                assert stopped_by.json(f"/stop/{id}")["stopped"]
                seen += events
                assert elapsed(began) < LEASE / 4
            assert names(seen)[-1] == "error"
        host.json("/publish/c", prompt="why")
        with follow(host, "c") as browser:
            seen = [event for event, _ in zip(browser.events(), range(3), strict=False)]
        with follow(host, "c", seen[-1].id) as browser:
            assert text_in(seen + list(browser.events())) == TEXT


def test_an_event_loop(
    two: tuple[Host, Host], service: LLMServer, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Django under uvicorn: cut, and continued there."""
    service.script(slow())
    settings = {"SERVICE": service.base_url, "REDIS_URL": redis_server.url, "LEASE": str(LEASE)}
    two[0].json("/publish/a", prompt="why")
    with uvicorn(tmp_path, "served.log_djangos:asgi", **settings) as host:
        with follow(host, "a") as browser:
            seen = [event for event, _ in zip(browser.events(), range(3), strict=False)]
        with follow(host, "a", seen[-1].id) as browser:
            seen += browser.events()
            assert browser.is_whole
        assert text_in(seen) == TEXT
        with follow(host, "a", seen[-1].id) as browser:
            assert browser.status == 204
        with follow(host, "unknown") as browser:
            assert browser.status == 204


def test_nothing_is_left(two: tuple[Host, Host], service: LLMServer) -> None:
    service.script(*[Reply(Answer(WORDS)) for _ in range(10)])
    for number in range(10):
        two[number % 2].json(f"/publish/{number}", prompt="why")
        with follow(two[(number + 1) % 2], str(number)) as browser:
            assert text_in(list(browser.events())) == TEXT
    for host in two:
        eventually(
            lambda host=host: (
                [name for name in host.json("/state")["threads"] if "llmstream" in name]
                in ([], ["llmstream-watchdog"])
            ),
            "the threads have ended",
        )
