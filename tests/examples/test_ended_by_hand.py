"""Ctrl-C ends the examples for the terminal, wherever they are: at once, in a line, with nothing of
what is painted again left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from support import PACKAGE, PATIENCE, eventually

from llmstream.testing import Answer, LLMServer, Reply, Silence

NOTE = '{"name": "ulm"}'
LONG = "The tower is high. " * 400


def started(name: str, server: LLMServer, *arguments: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "SYSTEMROOT", "TMPDIR")}
    service = ["--api", "chat", "--base-url", server.base_url, "--model", "m"]
    return subprocess.Popen(
        [sys.executable, "-m", f"llmstream.examples.{name}", *arguments, *service],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, "PYTHONPATH": str(PACKAGE)},
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("name", "arguments", "replies", "requests"),
    [
        ("function_calls", ["Hi"], [Reply(before=[Silence()])], 1),
        (
            "function_calls",
            ["Hi"],
            [Answer(tool_calls=[("read_note", NOTE, "a")]), Reply([Silence()])],
            2,
        ),
        ("summary", ["-", "--workers", "3"], [Reply([Silence()])] * 3, 2),
        ("summary", ["-", "--size", "20000"], [Reply([Silence()])], 1),
    ],
    ids=["an answer", "after a call", "the parts", "the summary"],
)
def test_an_interrupt_ends_it(
    server: LLMServer, name: str, arguments: list[str], replies: list[Any], requests: int
) -> None:
    server.script(*replies)
    process = started(name, server, *arguments)
    assert process.stdin is not None
    try:
        process.stdin.write(LONG)
        process.stdin.close()
        process.stdin = None  # for communicate
        eventually(lambda: len(server.requests) >= requests, "it has asked", 60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert err.strip() == "Ended."
