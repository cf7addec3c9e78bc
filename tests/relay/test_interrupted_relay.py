"""An interrupt at any line of a relay leaves no thread and no connection behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import ANSWER, BLOCKS, ONCE, PROMPT, clocks, eventually, interrupted

from llmstream import Client, relay
from llmstream.testing import LLMServer, Reply, Silence
from llmstream.testing.script import prompt_text

pytestmark = pytest.mark.attack

HANGING = Reply([*BLOCKS[:7], Silence()])
PLACES = ("/llmstream/relay/", "/llmstream/readers/", "/llmstream/_runtime/threads")


def served(client: Client) -> None:
    """As a server of WSGI does."""
    body = relay.sse(client.stream(PROMPT), interval=0.001)
    try:
        assert b"event: done" in b"".join(body)
    finally:
        body.close()


def left(client: Client) -> None:
    body = relay.sse(client.stream(PROMPT), interval=0.001, heartbeat=0.01)
    try:
        for piece in body:
            if b"one" in piece:
                break
    finally:
        body.close()


def dropped(client: Client) -> None:
    for piece in relay.sse(client.stream(PROMPT), heartbeat=0.01):
        if b"one" in piece:
            break


def unread(client: Client) -> None:
    relay.sse(client.stream(PROMPT))


def whole(client: Client) -> None:
    assert relay.whole(client.stream(PROMPT))["text"] == "one two three four"


WORK: dict[str, tuple[Callable[[Client], None], Any]] = {
    "served": (served, ANSWER),
    "left": (left, HANGING),
    "dropped": (dropped, HANGING),
    "unread": (unread, HANGING),
    "whole": (whole, ANSWER),
}


def relays() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "llmstream-relay"]


@pytest.mark.parametrize(("work", "answer"), WORK.values(), ids=WORK.keys())
def test_an_interrupt_at_any_line(
    server: LLMServer,
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    work: Any,
    answer: Any,
) -> None:
    # An interrupt in a finalizer goes no further. (pytest would keep it, and its frames.)
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    server.default = lambda recorded: answer if prompt_text(recorded) == PROMPT else ANSWER
    client = client_for(server, retry=ONCE, timeouts=clocks(30.0))
    interrupted(lambda: work(client), at=-1, places=PLACES)  # imports
    total = interrupted(lambda: work(client), at=-1, places=PLACES)
    assert total > 30
    for at in range(1, total, 2):
        with contextlib.suppress(AssertionError):  # of the work that was cut short
            interrupted(lambda: work(client), at, PLACES)
        # Whoever relays next sees to what a finalizer could not.
        assert b"event: done" in b"".join(relay.sse(client.stream("The next"), interval=0))
        eventually(lambda: not relays(), f"the threads of the relays have ended ({at})")
    client.close()
    eventually(lambda: server.open_connections == 0, "the connections are closed")
