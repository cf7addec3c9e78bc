"""One look-up of a host at a time, shared by all who wait for it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import ONCE, PATIENCE, clocks, eventually, failure, in_threads

from llmstream import Cancelled, Client, ConnectTimeout
from llmstream._runtime import threads
from llmstream._transport import lookup
from llmstream.testing import LLMServer

HOST = "lookup.invalid"


class Resolver:
    """In place of getaddrinfo: answers for HOST when it is told to."""

    def __init__(self) -> None:
        self.real = socket.getaddrinfo
        self.asked: list[Any] = []
        self.answers = threading.Semaphore(0)
        self.failure: BaseException | None = None

    def __call__(self, host: Any, port: Any, *args: Any, flags: int = 0, **more: Any) -> Any:
        if host != HOST:
            return self.real(host, port, *args, flags=flags, **more)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        self.asked.append(port)
        assert self.answers.acquire(timeout=PATIENCE)
        if self.failure is not None:
            raise self.failure
        return self.real("127.0.0.1", port, *args, **more)


@pytest.fixture
def resolver(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    found = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.answers.release(1000)
    eventually(lambda: not lookup._under_way, "no look-up is left")


def resolvers() -> int:
    return sum(thread.name == "llmstream-resolver" for thread in threading.enumerate())


def waiting() -> int:
    return sum(len(found.waiting) for found in lookup._under_way.values())


def at(host: str, server: LLMServer) -> str:
    return server.base_url.replace("127.0.0.1", host)


def test_many_calls_have_one_look_up(resolver: Resolver, server: LLMServer) -> None:
    """A hundred calls of several clients, one thread, one answer; the next call asks anew."""
    clients = [Client("chat", base_url=at(HOST, server), model="m") for _ in range(4)]
    texts: list[str] = []
    calls = threading.Thread(
        target=in_threads,
        args=(100, lambda n: texts.append(clients[n % 4].stream("Hi").result().text)),
    )
    calls.start()
    eventually(lambda: waiting() == 100, "all wait")
    eventually(lambda: len(resolver.asked) == 1, "the look-up has begun")
    assert resolvers() == 1
    resolver.answers.release()
    calls.join(PATIENCE)
    assert len(texts) == 100
    assert len(resolver.asked) == 1
    for client in clients:
        client.close()
    resolver.answers.release()
    with Client("chat", base_url=at(HOST, server), model="m") as client:
        assert client.stream("Hi").result().text
    assert len(resolver.asked) == 2


@pytest.mark.slow
def test_each_has_its_own_clocks_and_cancel(resolver: Resolver, server: LLMServer) -> None:
    """Those who leave do not take the look-up from those who stay."""
    with Client("chat", base_url=at(HOST, server), model="m", timeouts=clocks()) as client:
        staying, leaving = client.stream("stay"), client.stream("leave")
        found: dict[str, Any] = {}
        calls = [
            threading.Thread(target=lambda: found.update(stay=staying.result().text)),
            threading.Thread(target=lambda: found.update(leave=failure(leaving))),
        ]
        for call in calls:
            call.start()
        eventually(lambda: waiting() == 2, "both wait")
        hasty = client.stream("soon", timeouts=clocks(connect=0.05))
        assert isinstance(failure(hasty), ConnectTimeout)
        leaving.cancel("left")
        calls[1].join(PATIENCE)
        assert isinstance(found["leave"], Cancelled)
        resolver.answers.release()
        calls[0].join(PATIENCE)
        assert found["stay"]
    assert len(resolver.asked) == 1


def test_ports_of_one_host(resolver: Resolver, server: LLMServer) -> None:
    """Two services of one host share the look-up, and each is reached at its own port."""
    with LLMServer() as other:
        urls = [at(HOST, server), at(HOST, other)]
        clients = [Client("chat", base_url=url, model="m") for url in urls]
        texts: list[str] = []
        calls = threading.Thread(
            target=in_threads,
            args=(2, lambda n: texts.append(clients[n].stream("Hi").result().text)),
        )
        calls.start()
        eventually(lambda: waiting() == 2, "both wait")
        resolver.answers.release()
        calls.join(PATIENCE)
        assert len(texts) == 2
        assert [len(one.requests) for one in (server, other)] == [1, 1]
        for client in clients:
            client.close()
    assert len(resolver.asked) == 1


@pytest.mark.parametrize("broken", [socket.gaierror(8, "no"), ValueError("odd"), SystemExit()])
def test_a_look_up_that_fails(resolver: Resolver, server: LLMServer, broken: BaseException) -> None:
    """All who wait have the failure; the next call asks anew."""
    resolver.failure = broken
    errors: list[BaseException] = []
    with Client("chat", base_url=at(HOST, server), model="m", max_connections=9) as client:
        calls = threading.Thread(
            target=in_threads,
            args=(5, lambda n: errors.append(failure(client.stream("Hi", retry=ONCE)))),
        )
        calls.start()
        eventually(lambda: waiting() == 5, "all wait")
        resolver.answers.release()
        calls.join(PATIENCE)
        assert ["resolved" in str(error) for error in errors] == [True] * 5
        resolver.failure = None
        resolver.answers.release()
        assert client.stream("Hi").result().text


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_at_its_begin(
    resolver: Resolver,
    server: LLMServer,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """The thread that begins it is interrupted: those who wait for it begin anew."""
    real = threads.spawn
    others: list[threading.Thread] = []
    texts: list[str] = []
    client = Client("chat", base_url=at(HOST, server), model="m")

    def interrupted(work: Callable[[], object], name: str) -> Any:
        monkeypatch.setattr(lookup, "spawn", real)
        if when == "after":
            real(work, name)
        others.append(
            threading.Thread(target=lambda: texts.append(client.stream("2").result().text))
        )
        others[0].start()
        eventually(lambda: waiting() == 2, "another one waits")
        raise KeyboardInterrupt

    monkeypatch.setattr(lookup, "spawn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.stream("1").result()
    resolver.answers.release(2)
    others[0].join(PATIENCE)
    assert len(texts) == 1
    client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_looks_up_anew(resolver: Resolver, server: LLMServer) -> None:
    """The parent's thread does not exist in the child."""
    client = Client("chat", base_url=at(HOST, server), model="m")
    texts: list[str] = []
    call = threading.Thread(target=lambda: texts.append(client.stream("Hi").result().text))
    call.start()
    eventually(lambda: waiting() == len(resolver.asked) == 1, "it waits")
    pid = os.fork()
    if pid == 0:
        resolver.answers = threading.Semaphore(1)  # the parent's thread may be inside the other one
        os._exit(0 if not lookup._under_way and client.stream("Hi").result().text else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    resolver.answers.release()
    call.join(PATIENCE)
    assert len(texts) == 1
    client.close()
