"""`stream.display()` in a real kernel, which is run, interrupted, and run again."""

from __future__ import annotations

import re
import time

import pytest
from kernels import Kernel, until_asleep
from support import TWO_TOKENS

from llmstream.testing import Answer, Cut, LLMServer, Reply, Silence

pytestmark = pytest.mark.slow

SETUP = """
from llmstream import Client
client = Client("responses", base_url={base_url!r}, api_key="test-key")
"""
SOON = 10.0  # seconds; it takes a few milliseconds, and the clocks would take minutes


def run(kernel: Kernel, code: str) -> list[str]:
    """The outputs of a cell that has run."""
    cell = kernel.start(code)
    shown = kernel.shown(cell)
    kernel.outcome(cell)
    return shown


def test_run_interrupted_run_again(server: LLMServer, kernel: Kernel) -> None:
    """The interrupt ends the stream at once; what had arrived stays, with a line that says so; the
    next cells have their own outputs, no other. A result is shown once."""
    run(kernel, SETUP.format(base_url=server.base_url))
    (shown,) = run(kernel, "client.stream('Hi').display()")
    assert re.fullmatch(r"Hello, world!\n\n\*test-model · 34 tokens · \d+\.\d s\*", shown)

    blocks = Answer("one **two** three", thinking="hm").blocks()
    until_three = next(at for at, block in enumerate(blocks) if b" three" in block)
    server.script(Reply([*blocks[:until_three], Silence()]))
    cell = kernel.start("stream = client.stream('Count')\nresult = stream.display()\nprint('over')")
    kernel.shown(cell, lambda shown: "one **two**\n\n" in "".join(shown))
    until_asleep(kernel.manager.provisioner.pid)
    begun = time.monotonic()
    kernel.manager.interrupt_kernel()
    closed = server.wait_closed(1)
    outcome = kernel.outcome(cell)
    assert closed - begun < SOON
    assert (outcome["status"], outcome.get("ename")) == ("error", "KeyboardInterrupt")
    # The outputs so far were read before the interrupt; what comes now are updates of them.
    assert kernel.shown(cell) == ["one **two**\n\n**Interrupted.**", "KeyboardInterrupt"]

    assert run(kernel, "stream.text") == ["'one **two**'"]
    assert run(kernel, "stream") == ["one **two**"]
    after = run(
        kernel, "result = client.stream('Hi').display(progress=False)\nprint(result.finish)"
    )
    assert after == ["Hello, world!", "stop\n"]
    assert run(kernel, "result") == ["Hello, world!"]
    counted = run(
        kernel, "client.close()\nimport gc, threading\ngc.collect()\nstream.attempts[0].phase"
    )
    assert counted == ["'body'"]
    server.wait_all_closed()


def test_errors_stand_in_their_place(server: LLMServer, kernel: Kernel) -> None:
    """Below what had arrived; the error is raised after it."""
    run(kernel, SETUP.format(base_url=server.base_url))
    server.script(Reply([*TWO_TOKENS, Cut()]))
    shown, raised = run(kernel, "client.stream('Count').display()")
    sentence = "The answer was cut off before its end. Please try again."
    assert shown == f"one two\n\n**StreamInterrupted:** {sentence}"
    assert raised == "StreamInterrupted"


def test_values_as_they_are_shown(server: LLMServer, kernel: Kernel) -> None:
    """A stream starts no call by being shown; a result is Markdown."""
    run(kernel, SETUP.format(base_url=server.base_url))
    (shown,) = run(kernel, "stream = client.stream('Hi', trace_id='abc')\nstream")
    assert shown == "<code>&#60;Stream not started trace&#95;id&#61;abc&#62;</code>"
    assert not server.requests
    assert run(kernel, "stream.result()") == ["Hello, world!"]
    assert run(kernel, "stream") == ["Hello, world!"]
