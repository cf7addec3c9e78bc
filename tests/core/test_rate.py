"""The token bucket, and the search for the limits of a service: in virtual time, over many kinds of
limits, and over random schedules."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from every import every
from limited_service import AtATime, Bucket, FixedWindow, Limit, Run, SlidingWindow, simulate

from llmstream._core.rate import AdaptiveRate, FixedRate, Rate, Start, TokenBucket

# --- a rate that is given -----------------------------------------------------------------------


def starts_of(rate: Rate, number: int, now: float = 0.0) -> list[float]:
    """When so many requests are started by callers that never pause, and that end at once."""
    found = []
    for _ in range(number):
        now += rate.wait(now)
        start = Start(now)
        rate.start(start)
        rate.end(start)
        found.append(now)
    return found


@every("per_minute", [0.5, 1, 3, 59, 60, 61, 600, 12_345.6])
def test_a_given_rate_holds(per_minute: float) -> None:
    """In no span of time do more requests start than the rate and the burst of one second allow."""
    starts = starts_of(FixedRate(per_minute, 8, 0.0), 500)
    burst = max(1.0, per_minute / 60.0)
    for first in range(0, 500, 7):
        for last in range(first + 1, 500, 13):
            spent = starts[last] - starts[first]
            assert last - first + 1 <= burst + spent * per_minute / 60.0 + 1e-6
    # ... and not fewer than the rate.
    assert starts[-1] == pytest.approx((500 - math.floor(burst)) * 60.0 / per_minute, rel=0.01)


def test_a_given_rate_has_a_burst_of_a_second() -> None:
    assert starts_of(FixedRate(600, 8, 0.0), 12) == pytest.approx([0.0] * 10 + [0.1, 0.2])
    assert starts_of(FixedRate(60, 8, 0.0), 3) == pytest.approx([0.0, 1.0, 2.0])
    assert starts_of(FixedRate(0.5, 8, 0.0), 2) == pytest.approx([0.0, 120.0])


def test_a_given_rate_has_places() -> None:
    rate = FixedRate(60_000, 2, 0.0)
    one, two = Start(0.0), Start(0.0)
    rate.start(one)
    rate.start(two)
    assert rate.wait(0.0) == math.inf
    rate.end(one)
    assert rate.wait(0.0) == 0.0
    rate.end(one)  # a second end has no effect
    rate.start(Start(0.0))
    assert rate.wait(0.0) == math.inf


@pytest.mark.parametrize("new_rate", [lambda: FixedRate(600, 8, 0.0), lambda: AdaptiveRate(8, 0.0)])
def test_a_pause_only_delays(new_rate: Callable[[], Rate]) -> None:
    rate = new_rate()
    rate.pause(5.0, 0.0)
    rate.pause(3.0, 1.0)
    assert rate.wait(1.0) == 4.0
    assert rate.wait(5.0) == 0.0


def test_a_bucket_is_right_when_time_goes_back() -> None:
    bucket = TokenBucket(1.0, 2.0, 2.0, 10.0)
    bucket.take(10.0)
    bucket.take(9.0)
    assert bucket.wait(9.5) == 1.0
    assert bucket.wait(11.0) == 0.0


# --- the search ---------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[float, Callable[[random.Random], float]]] = {
    "50 ms": (0.05, lambda r: 0.05 * r.uniform(0.5, 1.5)),
    "200 ms": (0.2, lambda r: 0.2 * r.uniform(0.5, 1.5)),
    "1 s": (1.0, lambda r: r.uniform(0.3, 1.7)),
    "2 s, very different": (2.0, lambda r: r.expovariate(0.5)),
    "5 s": (5.0, lambda r: 5.0 * r.uniform(0.5, 1.5)),
}
TEN_A_SECOND: dict[str, Callable[[], Sequence[Limit]]] = {
    "600 in a fixed minute": lambda: [FixedWindow(600, 60)],
    "600 in the last minute": lambda: [SlidingWindow(600, 60)],
    "a bucket of 600": lambda: [Bucket(600, 60, 600)],
    "a bucket of 10": lambda: [Bucket(600, 60, 10)],
}
SERVICES: dict[str, Callable[[], Sequence[Limit]]] = {
    **TEN_A_SECOND,
    "20 at a time": lambda: [AtATime(20)],
    "20 at a time, a bucket of 10": lambda: [AtATime(20), Bucket(600, 60, 10)],
    "20 at a time, 600 in a fixed minute": lambda: [AtATime(20), FixedWindow(600, 60)],
    "20 at a time, 600 in the last minute": lambda: [AtATime(20), SlidingWindow(600, 60)],
}
SECONDS = 180.0


def limit_of(service: str, seconds: float, workers: int) -> float:
    """Answers a second."""
    found = workers / (seconds + 0.02)
    if "at a time" in service:
        found = min(found, 20 / (seconds + 0.02))
    return found if service == "20 at a time" else min(found, 10.0)


def check(service: str, answer: str, seed: int, how: str) -> tuple[float, float]:
    """The share of refusals after ten seconds, and the throughput relative to the limit."""
    mean, takes = ANSWERS[answer]
    run = simulate(
        AdaptiveRate, SERVICES[service](), takes, SECONDS, seed=seed,
        says_when=how == "with headers", late_heads=how == "late heads",
    )  # fmt: skip
    limit = limit_of(service, mean, 64)
    # After the ramp; or from the start on, where a window was used up in the first ten seconds.
    used = max(run.per_second(10.0, SECONDS), run.per_second(0.0, SECONDS))
    return run.refused_share(10.0), used / limit


@pytest.mark.slow
@every("how", ["silent", "late heads"])
@every("service", SERVICES)
def test_a_limit_is_found(service: str, how: str) -> None:
    """At most 5 % of the requests are refused after the first 10 s, and at least 80 % of the limit
    is used."""
    refused, used = check(service, "1 s", 1, how)
    assert refused <= 0.05
    assert used >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("how", ["silent", "with headers", "late heads"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("service", SERVICES)
def test_every_limit_is_found(service: str, answer: str, how: str) -> None:
    """The same, of fast and slow answers, with and without headers, and of heads
    that come near the end of the answer (75 % then), from three moments on."""
    found = [check(service, answer, seed, how) for seed in range(3)]
    assert max(refused for refused, _ in found) <= 0.05
    assert min(used for _, used in found) >= (0.75 if how == "late heads" else 0.8)


def doubled(service: str, answer: str, seed: int) -> Run:
    return simulate(
        AdaptiveRate, SERVICES[service](), ANSWERS[answer][1], 240.0, workers=200, seed=seed,
        changes=[(120.0, 2.0)],
    )  # fmt: skip


@pytest.mark.parametrize("service", ["20 at a time, a bucket of 10", "20 at a time"])
def test_a_limit_that_doubles_is_found(service: str) -> None:
    """A minute later at least 80 % of the new limit is used, and refusals stay rare."""
    run = doubled(service, "1 s", 1)
    assert run.per_second(180.0, 240.0) >= 0.8 * 2.0 * limit_of(service, 1.0, 100)
    assert run.refused_share(10.0) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("service", SERVICES)
def test_every_limit_that_doubles_is_found(service: str, answer: str) -> None:
    """Within a minute more is used than the old limit had, by half at least; the mean of three
    seeds, because a window of a minute is a minute's noise."""
    runs = [doubled(service, answer, seed) for seed in range(3)]
    old = limit_of(service, ANSWERS[answer][0], 100)
    assert sum(run.per_second(150.0, 240.0) for run in runs) / 3 >= 1.5 * old
    assert max(run.refused_share(10.0) for run in runs) <= 0.05


@pytest.mark.parametrize("service", TEN_A_SECOND)
def test_a_limit_that_falls_is_found(service: str) -> None:
    """To a third: then 5 % of refusals are allowed in the minutes after."""
    limits = TEN_A_SECOND[service]()
    run = simulate(
        AdaptiveRate, limits, ANSWERS["200 ms"][1], 300.0, seed=2, changes=[(120.0, 1 / 3)]
    )
    assert run.per_second(180.0, 300.0) >= 0.8 * 10.0 / 3.0
    assert run.refused_share(130.0) <= 0.05


def test_the_start_is_a_ramp() -> None:
    """A service without a limit is not met by all callers at once; what they can use is reached
    within seconds."""
    run = simulate(AdaptiveRate, [], ANSWERS["200 ms"][1], 20.0)
    assert sum(at < 0.5 for at in run.sent) <= 8
    assert sum(at < 1.0 for at in run.sent) <= 20
    assert run.per_second(10.0, 20.0) >= 0.95 * 64 / 0.22


def test_an_outage_is_asked_rarely_and_survived() -> None:
    """A service that refuses everything for five minutes is asked every five seconds at most; when
    it accepts again, the old pace is back within seconds."""
    limits = [Bucket(600, 60, 10)]
    run = simulate(
        AdaptiveRate, limits, ANSWERS["1 s"][1], 600.0,
        changes=[(120.0, 1e-9), (420.0, 1e9)],
    )  # fmt: skip
    assert sum(125.0 <= at < 420.0 for at in run.sent) <= 295 / 5 + 10
    assert run.per_second(440.0, 600.0) >= 0.8 * 10.0


@pytest.mark.parametrize("per_minute", [3, 15, 60])
def test_a_low_limit_is_found(per_minute: int) -> None:
    """Of a free tier."""
    run = simulate(
        AdaptiveRate, [SlidingWindow(per_minute, 60)], ANSWERS["1 s"][1], 3600.0, workers=8
    )
    assert run.per_second(300.0, 3600.0) >= 0.8 * per_minute / 60
    assert run.refused_share(300.0) <= (0.35 if per_minute < 15 else 0.15)


# --- random schedules ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["given", "searched"])
def test_random_schedules(kind: str) -> None:
    """1,000 of them: whatever the service does, and in whatever order it is told, no count is
    negative, nothing is started over the limit, and whoever waits is let through in the end."""
    for seed in range(1000):
        rnd = random.Random(seed)
        most = rnd.choice([1, 2, 8, 64])
        rate = FixedRate(rnd.uniform(1, 6000), most, 0.0) if kind == "given" else None
        _play(rate or AdaptiveRate(most, 0.0), most, rnd)


def _play(rate: FixedRate | AdaptiveRate, most: int, rnd: random.Random) -> None:
    now = 0.0
    running: list[Start] = []
    ended: list[Start] = []
    for _ in range(rnd.randrange(20, 200)):
        now += rnd.choice([0.0, 0.001, 0.1, 1.0, 7.0]) * rnd.random()
        what = rnd.random()
        if what < 0.45:
            for _ in range(100):
                wait = rate.wait(now)
                assert 0.0 <= wait <= 3700.0 or wait == math.inf
                if wait in (0.0, math.inf):
                    break
                now += wait
            else:
                raise AssertionError("it waits for ever")
            if wait == 0.0:
                start = Start(now)
                rate.start(start)
                rate.start(start)  # an interrupt may have the action done twice
                running.append(start)
                assert rate.running == len(running) <= most
            else:
                assert running, "it waits for the end of a request, and none runs"
        elif what < 0.5:
            rate.pause(now + rnd.choice([0.0, 0.5, 3.0, 60.0]), now)
        elif running:
            start = running.pop(rnd.randrange(len(running)))
            if what < 0.7:
                rate.accepted(start, now)
            elif what < 0.85:
                rate.throttled(start, now)
            rate.end(start)
            ended.append(start)
            rate.end(rnd.choice(ended))
            assert rate.running == len(running)
    # Whoever waits now is let through once all others have ended, or before.
    for start in running:
        rate.end(start)
    assert rate.running == 0
    assert rate.wait(now) <= 3700.0
