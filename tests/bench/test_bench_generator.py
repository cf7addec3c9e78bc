"""The threads of the load generator: none is left, however it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, eventually

from llmstream import Client, ConfigurationError
from llmstream._runtime import threads
from llmstream.bench import Benchmark, Load
from llmstream.bench.generator import Generator
from llmstream.testing import Answer, LLMServer, Recorded, Reply, Silence

ClientFor = Callable[..., Client]
HANGS = Reply([*Answer("a b c").blocks()[:5], Silence()])


def bench_threads() -> int:
    return sum(thread.name == "llmstream-bench" for thread in threading.enumerate())


def test_an_interrupt_cancels_what_runs(server: LLMServer, client_for: ClientFor) -> None:
    """Ctrl-C in the caller's thread: streams are cancelled, threads end, the figures stay."""
    server.script(*[Answer("a b c")] * 3)
    server.default = HANGS

    def interrupt(name: str, generator: Generator) -> None:
        if len(server.requests) == 7:
            raise KeyboardInterrupt

    load = Load(concurrency=(4,), requests=100, warmup=0)
    bench = Benchmark(client_for(server), load, each=interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(bench.run())
    (level,) = bench.reports
    assert (level.ok, level.failed, level.interrupted) == (3, 0, 4)
    eventually(lambda: bench_threads() == 0, "its threads have ended")


def test_an_interrupt_of_an_open_loop_counts_what_was_due(
    server: LLMServer, client_for: ClientFor
) -> None:
    """What waited for a free stream was not sent, and counts as not answered; what was not due yet
    does not."""
    server.default = HANGS

    def interrupt(name: str, generator: Generator) -> None:
        if generator.running == 1 and time.monotonic() - generator.begun > 0.5:
            raise KeyboardInterrupt

    load = Load(rate=(20,), constant=True, requests=10_000, max_concurrency=1, warmup=0)
    bench = Benchmark(client_for(server), load, each=interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(bench.run())
    (level,) = bench.reports
    assert (level.ok, level.interrupted) == (0, 1)
    assert 5 <= level.unsent < 1000
    assert level.requests == level.unsent


def test_no_further_thread_is_an_error(
    server: LLMServer, client_for: ClientFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the caller's, and not a lower load than was asked for."""
    begin, begun = threads._begin, [0]

    def at_most_three(work: Callable[[], None]) -> None:
        begun[0] += 1
        if begun[0] > 3:
            raise RuntimeError("can't start new thread")
        begin(work)

    client = client_for(server)
    client.stream("start the watchdog").result()
    monkeypatch.setattr(threads, "_begin", at_most_three)
    server.default = HANGS
    for load in (
        Load(concurrency=(8,), requests=100, warmup=0),
        Load(rate=(500,), constant=True, requests=100, warmup=0),
    ):
        begun[0] = 0
        with pytest.raises(ConfigurationError, match="no further thread"):
            list(Benchmark(client, load).run())
        eventually(lambda: bench_threads() == 0, "its threads have ended")


def test_threads_are_started_as_they_are_needed(server: LLMServer, client_for: ClientFor) -> None:
    """An open loop that has one stream at a time has one more thread, which waits for the moment of
    the next, whatever it is allowed."""
    counts: list[int] = []

    def reply(recorded: Recorded) -> Reply:
        counts.append(bench_threads())
        return Reply(Answer("a"))

    def interrupt(name: str, generator: Generator) -> None:
        counts.append(bench_threads())
        if generator.samples:
            raise KeyboardInterrupt

    server.default = reply
    load = Load(rate=(0.001,), constant=True, requests=100, max_concurrency=200, warmup=0)
    bench = Benchmark(client_for(server), load, each=interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(bench.run())
    assert set(counts) == {2}
    (level,) = bench.reports
    assert (level.ok, level.failed, len(server.requests)) == (1, 0, 1)
    eventually(lambda: bench_threads() == 0, "its threads have ended")


@pytest.mark.parametrize("load", [{"concurrency": (32,)}, {"rate": (400,)}])
def test_every_request_is_made_once(
    server: LLMServer, client_for: ClientFor, load: dict[str, Any]
) -> None:
    """Over many threads: each number has one sample, its own prompt, and one request."""
    server.default = server.echo
    prompts = [f"prompt-{number}" for number in range(200)]
    whole = Load(requests=200, warmup=0, prompts=prompts, **load)
    (level,) = Benchmark(client_for(server), whole).run()
    assert (level.ok, level.requests, level.retries) == (200, 200, 0)
    assert sorted(sample.number for sample in level.samples) == list(range(200))
    assert sorted(recorded.json()["input"] for recorded in server.requests) == sorted(prompts)
    assert level.most_at_once <= level.concurrency
    assert all(
        sample.scheduled <= sample.sent <= (sample.first or 0.0) <= sample.ended
        for sample in level.samples
    )


def test_a_closed_client_is_refused(server: LLMServer, client_for: ClientFor) -> None:
    client = client_for(server)
    client.close()
    with pytest.raises(ConfigurationError, match="closed"):
        list(Benchmark(client, Load(requests=5)).run())
    eventually(lambda: bench_threads() == 0, "its threads have ended", PATIENCE)
