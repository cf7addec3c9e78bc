"""A host with several addresses: they are tried one after another, 250 ms apart, and the first
connection counts; every clock and every cancel holds for all of them at once."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    ONCE,
    PROMPT,
    Reading,
    clocks,
    eventually,
    failure,
    open_sockets,
    phase_of,
)

from llmstream import Cancelled, Client, ConnectionFailed
from llmstream._runtime.clock import SystemClock
from llmstream._transport.race import in_turns
from llmstream.testing import LLMServer, blackhole

HOST = "many.invalid"


def known(family: Any, address: Any) -> Any:
    return (family, socket.SOCK_STREAM, 6, "", address)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses of HOST, as getaddrinfo returns them: the test fills the list."""
    found: list[Any] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != HOST:
            return real(host, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        return list(found)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return found


@pytest.fixture
def hanging(nothing_left: None) -> Iterator[Any]:
    """An address that does not answer."""
    with blackhole() as place:
        yield known(socket.AF_INET, place)


@pytest.fixture
def good(server: LLMServer) -> Any:
    return known(socket.AF_INET, ("127.0.0.1", int(server.url.rpartition(":")[2])))


REFUSING = known(socket.AF_INET, ("127.0.0.1", 1))
SOON = 5.0  # seconds, on the busiest machine; the clocks of a connect leave twice as many
BASE_URL = f"http://{HOST}:80/v1"


def test_families_take_turns() -> None:
    """Beginning with the one that the system prefers; otherwise in its order."""
    four, six = (socket.AF_INET, socket.AF_INET6)
    given = [known(six, n) for n in range(3)] + [known(four, n) for n in range(2)]
    assert [a[::4] for a in in_turns(given)] == [(six, 0), (four, 0), (six, 1), (four, 1), (six, 2)]
    assert [a[::4] for a in in_turns(given[::-1])] == [
        *[(four, 1), (six, 2), (four, 0), (six, 1), (six, 0)]
    ]
    assert in_turns(given[:3]) == given[:3]


def test_one_that_does_not_answer_costs_a_quarter_of_a_second(
    client_for: Callable[..., Client], addresses: list[Any], hanging: Any, good: Any
) -> None:
    """With the default clocks, which leave ten seconds; nobody else is needed for it."""
    addresses += [hanging, good, good]
    client = client_for(None, base_url=BASE_URL, retry=ONCE)
    begun = time.monotonic()
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert 0.2 < time.monotonic() - begun < SOON


def test_one_that_refuses_costs_nothing(
    client_for: Callable[..., Client],
    addresses: list[Any],
    hanging: Any,
    good: Any,
    server: LLMServer,
) -> None:
    """Before one that does not answer, and while that is being waited for."""
    addresses += [REFUSING, hanging, REFUSING, REFUSING, good]
    client = client_for(None, base_url=BASE_URL, retry=ONCE)
    begun = time.monotonic()
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert time.monotonic() - begun < SOON
    assert server.connections == 1


def test_ipv6_that_does_not_work(
    client_for: Callable[..., Client], addresses: list[Any], hanging: Any, good: Any
) -> None:
    """Many addresses of a family that cannot be had do not stand before the first of the other."""
    documentation = [
        known(socket.AF_INET6, (f"2001:db8::{n}", 80, 0, 0)) for n in range(1, 30)
    ]  # RFC 3849: nobody has them
    addresses += [*documentation, good]
    client = client_for(None, base_url=BASE_URL, retry=ONCE)
    begun = time.monotonic()
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert time.monotonic() - begun < SOON


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("ending", ["connect", "total", "cancel", "close"])
def test_clocks_and_cancels_hold_for_all(
    client_for: Callable[..., Client],
    addresses: list[Any],
    hanging: Any,
    ending: str,
    count: int,
) -> None:
    """While the first is tried alone, and while several are under way; every socket is closed, and
    no thread was needed."""
    addresses += [hanging] * count
    before = open_sockets()
    limits = {"connect": 0.7, "total": None} if ending == "connect" else {"total": 0.7}
    limits = limits if ending in ("connect", "total") else {}
    client = client_for(None, base_url=BASE_URL, retry=ONCE, timeouts=clocks(60.0, **limits))
    stream = client.stream(PROMPT)
    threads = threading.active_count()
    reading = Reading(stream)
    begun = time.monotonic()
    if ending in ("cancel", "close"):
        eventually(lambda: phase_of(stream) == "connect", "it connects")
        sockets = count + (2 if count > 1 else 0)  # and a pair that wakes the reader
        eventually(lambda: len(open_sockets() - before) >= sockets, "all are under way")
        names = [t.name for t in threading.enumerate()]
        assert len(names) <= threads + 2, names  # the reader, the watchdog
        begun = time.monotonic()
        stream.cancel() if ending == "cancel" else client.close()
        assert type(reading.ended()) is Cancelled
        assert time.monotonic() - begun < SOON
    else:
        expected = {"connect": "ConnectTimeout", "total": "DeadlineExceeded"}[ending]
        assert type(reading.ended()).__name__ == expected
        assert 0.5 < time.monotonic() - begun < SOON
    eventually(lambda: not open_sockets() - before, "all are closed")


class Late(SystemClock):
    """A clock whose watchdog stands still."""

    @property
    def scheduler(self) -> Late:
        return self

    def schedule(self, scope: Any, at: float) -> None:
        pass

    def forget(self, scope: Any) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("clock", ["connect", "total"])
def test_a_clock_that_is_looked_at_late_is_the_reason(
    client_for: Callable[..., Client], addresses: list[Any], hanging: Any, clock: str, count: int
) -> None:
    """The wait ends by itself soon after it: that is no connection that has failed."""
    addresses += [hanging] * count
    limits = clocks(60.0, **{clock: 0.1})
    client = client_for(None, base_url=BASE_URL, retry=ONCE, timeouts=limits, clock=Late())
    expected = {"connect": "ConnectTimeout", "total": "DeadlineExceeded"}[clock]
    assert type(failure(client.stream(PROMPT))).__name__ == expected


def test_none_can_be_reached(client_for: Callable[..., Client], addresses: list[Any]) -> None:
    """At once; the reason is the system's."""
    addresses += [REFUSING, REFUSING]
    error = failure(client_for(None, base_url=BASE_URL, retry=ONCE).stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert "refused" in str(error)


def test_the_earlier_one_may_win(
    client_for: Callable[..., Client], addresses: list[Any], hanging: Any
) -> None:
    """It is not given up when the next one is tried."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        place = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(place)
        addresses += [known(socket.AF_INET, place), hanging]
        before = open_sockets()
        client = client_for(None, base_url=BASE_URL, retry=ONCE)
        stream = client.stream(PROMPT)
        reading = Reading(stream)
        eventually(lambda: len(open_sockets() - before) >= 4, "both are under way")
        for filler in fillers:
            filler.close()
        listener.settimeout(0.2)
        accepted = []
        eventually(
            lambda: phase_of(stream) not in ("", "connect") or taken(listener, accepted),
            "the first is connected after all",
        )
        stream.cancel()
        assert type(reading.ended()) is Cancelled
        for sock in accepted:
            sock.close()


def taken(listener: socket.socket, accepted: list[socket.socket]) -> None:
    with contextlib.suppress(TimeoutError):
        accepted.append(listener.accept()[0])


MISSING = {
    "a family that the kernel does not have": (socket.AF_APPLETALK, ("::1", 1)),
    "an address of no interface": (socket.AF_INET6, ("2001:db8::1", 1, 0, 0)),
    "an address that cannot be connected to": (socket.AF_INET, ("255.255.255.255", 1)),
    "a port that cannot be": (socket.AF_INET, ("127.0.0.1", 0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("count", [1, 3])
def test_what_the_kernel_does_not_have_does_not_end_the_attempt(
    client_for: Callable[..., Client], addresses: list[Any], good: Any, missing: str, count: int
) -> None:
    """The next address is tried, in the same attempt; without another one, the error names all
    that were tried."""
    odd = known(*MISSING[missing])
    client = client_for(None, base_url=BASE_URL, retry=ONCE)
    addresses += [odd] * count + [good]
    result = client.stream(PROMPT).result()
    assert (result.text, len(result.attempts)) == ("Hello, world!", 1)
    client.close()
    client = client_for(None, base_url=BASE_URL, retry=ONCE)
    addresses[:] = [odd] * count + [REFUSING]
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert len(error.attempts) == 1
    assert "127.0.0.1: Connection refused" in str(error)
    assert f"{odd[4][0]}: " in str(error)


def test_many_addresses_are_not_all_named(
    client_for: Callable[..., Client], addresses: list[Any]
) -> None:
    """A message stays readable."""
    addresses += [REFUSING] * 30
    error = failure(client_for(None, base_url=BASE_URL, retry=ONCE).stream(PROMPT))
    assert str(error).count("Connection refused") == 8
    assert "22 more" in str(error)
    assert isinstance(error.__cause__, ConnectionRefusedError)
