"""Connections that were idle for too long are not used again: whatever is between here and the
service may have forgotten them without a word, and the call would wait for nothing."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
from every import every
from support import PROMPT, eventually, in_threads

from llmstream import Client, ConfigurationError
from llmstream._runtime.clock import SYSTEM_CLOCK
from llmstream.testing import LLMServer


class Ahead:
    """The system's clocks, and what a test lets pass by each."""

    def __init__(self) -> None:
        self.passed = self.slept = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.passed

    def time(self) -> float:
        return time.time() + self.passed + self.slept

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        SYSTEM_CLOCK.wait(bell, seconds)


def asked(client: Client) -> None:
    assert client.stream(PROMPT).result().text == "Hello, world!"


@pytest.mark.parametrize("which", ["passed", "slept"])
@pytest.mark.parametrize(("settings", "limit"), [({}, 60.0), ({"idle_connection_timeout": 5}, 5)])
def test_after_its_time_a_connection_is_not_used_again(
    any_server: LLMServer,
    client_for: Callable[..., Client],
    settings: Any,
    limit: float,
    which: str,
) -> None:
    """60 s unless the client says otherwise; also where the machine was asleep meanwhile and the
    monotonic clock with it. A call makes it young again."""
    clock = Ahead()
    client = client_for(any_server, clock=clock, **settings)
    asked(client)
    for _ in range(3):
        setattr(clock, which, getattr(clock, which) + limit - 1)
        asked(client)
    assert any_server.connections == 1
    setattr(clock, which, getattr(clock, which) + limit + 1)
    asked(client)
    assert any_server.connections == 2


def test_without_a_limit_and_without_reuse(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """None and 0."""
    clock = Ahead()
    client = client_for(server, clock=clock, idle_connection_timeout=None)
    asked(client)
    clock.passed += 1e6
    asked(client)
    assert server.connections == 1
    client = client_for(server, idle_connection_timeout=0)
    asked(client)
    asked(client)
    assert server.connections == 3


def test_the_others_are_closed_too(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """All that are too old, when one call looks for a connection; the young stay."""
    clock = Ahead()
    client = client_for(server, clock=clock)
    streams = [client.stream(PROMPT) for _ in range(5)]
    for stream in streams:
        next(stream)
    for stream in streams:
        stream.result()
    assert server.connections == 5
    clock.passed += 61
    asked(client)
    assert server.connections == 6
    eventually(lambda: server.open_connections == 1, "the five old ones are closed")


def test_many_threads(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Time passes while they call: nobody gets a connection of another, or one that is closed."""
    clock = Ahead()
    client = client_for(server, clock=clock, idle_connection_timeout=1)
    server.default = server.echo

    def call(n: int) -> None:
        for round_ in range(10):
            clock.passed += 0.3
            assert client.stream(f"{n}/{round_}").result().text == f"{n}/{round_}"

    assert in_threads(8, call) == []


def test_the_setting_travels() -> None:
    """In the client's settings."""
    client = Client("chat", base_url="http://x", idle_connection_timeout=7.5)
    assert pickle.loads(pickle.dumps(client)).settings.idle_connection_timeout == 7.5
    assert Client("chat", base_url="http://x").settings.idle_connection_timeout == 60.0


@every("value", [-1, "60", True, float("nan"), [1], 1e300])
def test_values_that_cannot_be_one(value: Any) -> None:
    """Refused where the client is made."""
    with pytest.raises(ConfigurationError, match="idle_connection_timeout"):
        Client("chat", base_url="http://x", idle_connection_timeout=value)
