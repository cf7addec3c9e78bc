"""Whole benchmarks in a clock of their own, where every figure is known exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from llmstream import Client, ConfigurationError, RetryPolicy
from llmstream._core.dialects import APIS
from llmstream.bench import Benchmark, LevelReport, Load
from llmstream.testing import Answer, FakeClock, FakeTransport, Pause, Reply, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")

WORDS = 5
Entry = Reply | Answer


def paced(
    delay: float, gap: float = 0.0, *, usage: tuple[int, ...] | None = None, **given: Any
) -> Reply:
    """An answer of `WORDS` tokens: the first after `delay` seconds, the others `gap` apart."""
    words = [f"word{number} " for number in range(WORDS)]
    blocks = Answer(words, usage=usage, **given).blocks()
    steps: list[Any] = []
    for block in blocks:
        if b".delta" in block and b"word0 " not in block:
            steps.append(Pause(gap))
        steps.append(block)
    return Reply(steps, delay=delay)


def play(replies: Sequence[Entry], load: Load, **settings: Any) -> list[LevelReport]:
    clock = FakeClock()
    transport = FakeTransport(*replies)
    given = {"base_url": "http://test", "api_key": "k", **settings}
    with Client(transport=transport, clock=clock, **given) as client:
        return list(Benchmark(client, load, clock=clock).run())


def one(replies: Sequence[Entry], load: Load, **settings: Any) -> LevelReport:
    (level,) = play(replies, load, **settings)
    return level


def test_known_delays_are_measured_exactly() -> None:
    """Five tokens, the first after 300 ms, then every 40 ms."""
    load = Load(concurrency=(1,), requests=4, warmup=0)
    level = one([paced(0.3, 0.04, usage=(10, WORDS))] * 4, load)
    expected = {"ttft": 300.0, "ttfo": 300.0, "itl": 40.0, "tpot": 40.0, "e2e": 460.0}
    for metric, ms in expected.items():
        found = level.distributions[metric]
        for name in ("mean", "min", "p50", "p90", "p95", "p99", "max"):
            assert getattr(found, name) == pytest.approx(ms), (metric, name)
    assert level.seconds == pytest.approx(4 * 0.46)
    assert level.requests_per_second == pytest.approx(1 / 0.46)
    assert level.output_tokens_per_second == pytest.approx(WORDS / 0.46)
    assert level.tokens_per_second_per_stream == pytest.approx(25.0)
    assert (level.ok, level.output_tokens, level.tokens_from) == (4, 4 * WORDS, "usage")


def test_thinking_is_the_first_token_and_not_the_first_output() -> None:
    """ttft is the first thought, ttfo the first word after it."""
    blocks = Answer("word", thinking="hm").blocks()
    at = next(number for number, block in enumerate(blocks) if b"output_text.delta" in block)
    reply = Reply([*blocks[:at], Pause(0.7), *blocks[at:]], delay=0.2)
    level = one([reply], Load(concurrency=(1,), requests=1, warmup=0))
    assert level.distributions["ttft"].p50 == pytest.approx(200.0)
    assert level.distributions["ttfo"].p50 == pytest.approx(900.0)


def test_an_answer_ends_with_its_last_event() -> None:
    """A chat server that sends neither usage nor [DONE] keeps the client for 2 s more. That is no
    time of the service's: it is in no latency, and a note says so."""
    first, *others = chat_blocks("a", "b", "c")
    steps = [first, *(part for block in others[:2] for part in (Pause(0.1), block)), *others[2:]]
    reply = Reply([*steps, Silence()], delay=0.2)
    load = Load(concurrency=(1,), requests=2, warmup=0, limits={"e2e": 500})
    level = one([reply, reply], load, api="chat", model="m")
    found = {name: level.distributions[name].p50 for name in ("ttft", "itl", "tpot", "e2e")}
    assert found == pytest.approx({"ttft": 200.0, "itl": 100.0, "tpot": 100.0, "e2e": 400.0})
    assert level.seconds == pytest.approx(0.4 + 2.0 + 0.4)
    assert level.goodput is not None
    assert level.goodput.good == 2
    assert any("waited up to 2.0 s" in note for note in level.notes)


def chat_blocks(*words: str) -> list[bytes]:
    """The events of a chat answer, without usage and [DONE]."""
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": word}, None) for word in words]
    return [
        b"data: %b\n\n"
        % json.dumps(
            {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        ).encode()
        for delta, finish in [*deltas, ({}, "stop")]
    ]


def stalled(number: int, of: int, stall: float) -> list[Reply]:
    """Answers of 10 ms each, of which one takes `stall` seconds longer."""
    return [paced(0.01 + (stall if at == number else 0.0)) for at in range(of)]


def lindley(gap: float, services: Sequence[float]) -> list[float]:
    """The latencies of a queue with one server, evenly spaced arrivals and these service times
    (Lindley 1952): the wait is that of the one before, plus its service, less the gap."""
    latencies: list[float] = []
    wait = 0.0
    for service in services:
        latencies.append(wait + service)
        wait = max(0.0, wait + service - gap)
    return latencies


def test_a_stall_is_in_the_latency_of_all_that_were_due_meanwhile() -> None:
    """One answer of a hundred takes a second longer. Fifty requests are due meanwhile: their
    latency counts from then, as in the theory of queues. (No coordinated omission.)"""
    load = Load(rate=(50,), constant=True, requests=100, max_concurrency=1, warmup=0)
    level = one(stalled(20, 100, 1.0), load)
    expected = lindley(1 / 50, [1.01 if at == 20 else 0.01 for at in range(100)])
    found = [sample.value("ttft") for sample in level.samples]
    assert found == pytest.approx([ms * 1000.0 for ms in expected])
    distribution = level.distributions["ttft"]
    assert distribution.p99 == pytest.approx(1000.0, rel=0.05)
    assert distribution.p90 is not None
    assert distribution.p90 > 750.0
    assert level.distributions["dispatch"].max == pytest.approx(990.0)
    assert any("did not keep up" in note for note in level.notes)


def test_a_closed_loop_shows_the_same_stall_once() -> None:
    """That is what an open loop is for: here the service is asked less while it stalls."""
    level = one(stalled(20, 100, 1.0), Load(concurrency=(1,), requests=100, warmup=0))
    assert level.distributions["ttft"].p95 == pytest.approx(10.0)
    assert level.distributions["ttft"].max == pytest.approx(1010.0)


def test_retries_and_their_waits_are_in_the_latency() -> None:
    """A 503 and a wait of one second, then the answer."""
    replies = [Reply.error(503, headers={"retry-after": "1"}), paced(0.2)]
    policy = RetryPolicy(base=0.0, cap=0.0, jitter=0.0)
    level = one(replies, Load(concurrency=(1,), requests=1, warmup=0), retry=policy)
    assert level.distributions["ttft"].p50 == pytest.approx(1200.0)
    assert (level.ok, level.failed, level.retries) == (1, 0, 1)
    assert level.retried == {"OverloadedError": 1}


def test_one_attempt_has_no_retries() -> None:
    """--max-attempts 1: the error is a figure."""
    load = Load(concurrency=(1,), requests=2, warmup=0, max_attempts=1)
    level = one([Reply.error(503, message="busy"), paced(0.2)], load)
    assert (level.ok, level.failed, level.retries) == (1, 1, 0)
    assert level.errors == {"OverloadedError": 1}
    assert "busy" in level.examples["OverloadedError"]


def test_warm_up_requests_do_not_count() -> None:
    """The first answer is slow, and in no figure; a failed one is reported."""
    load = Load(concurrency=(1,), requests=3, warmup=2, max_attempts=1)
    level = one([paced(9.0), Reply.error(500), *[paced(0.1)] * 3], load)
    assert (level.requests, level.warmup, level.warmup_failed) == (3, 2, 1)
    assert level.distributions["ttft"].max == pytest.approx(100.0)
    assert level.seconds == pytest.approx(0.3)


def test_levels_run_one_after_another() -> None:
    """Each has figures of its own."""
    load = Load(rate=(1, 10), constant=True, requests=5, max_concurrency=1, warmup=0)
    first, second = play([*[paced(0.1)] * 5, *[paced(0.2)] * 5], load)
    assert first.distributions["ttft"].max == pytest.approx(100.0)
    assert second.distributions["ttft"].max == pytest.approx(200.0 + 4 * 100.0)
    assert [level.rate for level in (first, second)] == [1, 10]


def test_a_service_that_hangs_ends_by_the_clock() -> None:
    """Each request has a deadline, and what could not be sent within it is not sent: the level
    ends by itself, and nothing that was due is forgotten."""
    load = Load(rate=(1,), constant=True, requests=100, max_concurrency=1, warmup=0, total=5.0)
    level = one([paced(1e6)] * 100, load)
    assert (level.ok, set(level.errors)) == (0, {"DeadlineExceeded"})
    assert level.requests == level.failed + level.unsent == 100
    assert level.unsent > 50
    assert level.seconds <= 99.0 + 2 * 5.0
    assert any("never sent" in note for note in level.notes)


@pytest.mark.parametrize("requests", [200, 30])
def test_a_service_that_refuses_everything_is_left_alone(requests: int) -> None:
    """After 50 refusals for a reason that does not pass; fewer requests are all made."""
    replies = [Reply.error(401, message="bad key")] * 200
    level = one(replies, Load(concurrency=(1,), requests=requests, warmup=0))
    assert level.errors == {"AuthenticationError": min(requests, 50)}
    assert any("were refused" in note for note in level.notes) == (requests > 50)


def test_refusals_after_an_answer_are_figures() -> None:
    """A service that has answered once may answer again."""
    replies = [paced(0.1), *[Reply.error(400)] * 99]
    level = one(replies, Load(concurrency=(1,), requests=100, warmup=0))
    assert (level.ok, level.failed) == (1, 99)


@pytest.mark.parametrize("api", APIS)
def test_every_api(api: str) -> None:
    """Known delays on each of them; the default model where there is one."""
    load = Load(concurrency=(1,), requests=2, warmup=0)
    answer = Answer("a b c", usage=(3, 4))
    level = one([Reply(answer, delay=0.25)] * 2, load, api=api, model="m")
    assert level.distributions["ttft"].p99 == pytest.approx(250.0)
    assert (level.ok, level.output_tokens, level.input_tokens) == (2, 8, 6)


def test_settings_that_cannot_work_are_no_figure() -> None:
    """They are raised, and nothing is left running."""

    def no_key() -> str:
        raise KeyError("vault")

    with pytest.raises(ConfigurationError):
        play([paced(0.1)] * 20, Load(concurrency=(1,), warmup=0), api_key=no_key)


def test_a_broken_double_is_not_swallowed() -> None:
    """What is not the library's error goes to the caller."""
    with pytest.raises(AssertionError, match="no reply"):
        play([paced(0.1)], Load(concurrency=(1,), requests=2, warmup=0))


def test_what_was_measured_before_an_exception_stays() -> None:
    """In `reports`, with the reason."""
    clock = FakeClock()
    with Client(
        transport=FakeTransport(paced(0.1), paced(0.1)),
        clock=clock,
        base_url="http://test",
        api_key="k",
    ) as client:
        bench = Benchmark(client, Load(concurrency=(1,), requests=3, warmup=0), clock=clock)
        with pytest.raises(AssertionError):
            list(bench.run())
    assert [level.ok for level in bench.reports] == [2]
    assert "Ended before its time: AssertionError" in bench.reports[0].notes[0]
