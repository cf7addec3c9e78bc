"""An interrupt at any line of the readers leaves no thread and no connection behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from shells import Notebook
from support import ANSWER, BLOCKS, ONCE, PROMPT, clocks, eventually, interrupted

from llmstream import Client, Result, SubscriberLagged, fanout, pace
from llmstream.testing import LLMServer, Reply, Silence

pytestmark = pytest.mark.attack

HANGING = Reply([*BLOCKS[:7], Silence()])
PLACES = ("/llmstream/readers/", "/llmstream/_runtime/threads", "/llmstream/_core/pacing")


def paced(client: Client) -> None:
    assert "".join(pace(client.stream(PROMPT), 0.001)) == "one two three four"


def paced_and_left(client: Client) -> None:
    for _ in pace(client.stream(PROMPT), 0.001):
        break


def fanned(client: Client) -> None:
    fan = fanout(client.stream(PROMPT), limit=2)
    for subscription in (fan.subscribe(), fan.subscribe("drop")):
        with contextlib.suppress(SubscriberLagged):
            assert [*subscription]
    assert fan.result()


def fanned_and_left(client: Client) -> None:
    next(fanout(client.stream(PROMPT)).subscribe())


def handled(client: Client) -> None:
    class Handler:
        def on_token(self, text: str) -> None: ...

        def on_progress(self, progress: Any) -> None: ...

    assert client.stream(PROMPT).handle(Handler())


def displayed(client: Client) -> None:
    assert client.stream(PROMPT).display(0.001).text == "one two three four"


WORK: dict[str, tuple[Callable[[Client], None], Any]] = {
    "pace": (paced, ANSWER),
    "pace, left": (paced_and_left, HANGING),
    "fanout": (fanned, ANSWER),
    "fanout, left": (fanned_and_left, HANGING),
    "handle": (handled, ANSWER),
    "display, printed": (displayed, ANSWER),
}


def readers() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.partition("-")[2] in ("pace", "fanout", "handle")]


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
    server.default = lambda _: answer
    client = client_for(server, retry=ONCE, timeouts=clocks(30.0))
    interrupt_everywhere(lambda: work(client))
    client.close()
    eventually(lambda: server.open_connections == 0, "the connections are closed")


def interrupt_everywhere(work: Callable[[], None]) -> None:
    total = interrupted(work, at=-1, places=PLACES)
    assert total > 50
    for at in range(1, total, 2):
        interrupted(work, at, PLACES)
        assert [*pace(["the next reader"])]
        eventually(lambda: not readers(), f"the threads of the readers have ended ({at})")


def test_an_interrupt_at_any_line_of_a_notebook(
    notebook: Notebook,
    server: LLMServer,
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cell after it has its own output, and the shell is as it was."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    server.default = lambda _: ANSWER
    client = client_for(server, retry=ONCE, timeouts=clocks(30.0))
    interrupt_everywhere(lambda: displayed(client))
    notebook.outputs.clear()
    result = notebook.run("result = client.stream('Hi').display(progress=False)", client=client)
    assert notebook.shown == [result.text]
    formatter = notebook.shell.display_formatter.ipython_display_formatter
    assert Result not in formatter.type_printers
    client.close()
    eventually(lambda: server.open_connections == 0, "the connections are closed")
