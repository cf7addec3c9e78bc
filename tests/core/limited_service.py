"""A service that refuses what is over its limits, and callers that pass a rate, in virtual time.

A simulation by events: no thread, no clock, the same figures on every machine. The limits are those
that services are known to have: a fixed window, a sliding one, a token bucket, and a number of
requests at a time.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from llmstream._core.rate import Rate, Start

__all__ = ["AtATime", "Bucket", "FixedWindow", "Limit", "Run", "SlidingWindow", "simulate"]


class Limit(Protocol):
    """A limit of the service. `most` may change while it runs."""

    most: float

    def is_free(self, now: float) -> bool:
        """Whether one more request is accepted."""

    def take(self, now: float) -> None:
        """A request was accepted."""

    def end(self, now: float) -> None:
        """An accepted request has ended."""

    def reset(self, now: float) -> float | None:
        """What a header says of a limit that is used up: the seconds until it is reset."""


class FixedWindow:
    def __init__(self, most: float, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._window, self._taken = -1, 0

    def is_free(self, now: float) -> bool:
        window = int(now // self.seconds)
        if window != self._window:
            self._window, self._taken = window, 0
        return self._taken < self.most

    def take(self, now: float) -> None:
        self._taken += 1

    def end(self, now: float) -> None:
        pass

    def reset(self, now: float) -> float | None:
        left = (int(now // self.seconds) + 1) * self.seconds - now
        return None if self._taken < self.most else left


class SlidingWindow:
    def __init__(self, most: float, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._taken: deque[float] = deque()

    def is_free(self, now: float) -> bool:
        while self._taken and self._taken[0] <= now - self.seconds:
            self._taken.popleft()
        return len(self._taken) < self.most

    def take(self, now: float) -> None:
        self._taken.append(now)

    def end(self, now: float) -> None:
        pass

    def reset(self, now: float) -> float | None:
        return None if len(self._taken) < self.most else self._taken[0] + self.seconds - now


class Bucket:
    def __init__(self, most: float, seconds: float, burst: float) -> None:
        self.most, self.seconds, self.burst = most, seconds, burst
        self._level, self._at = burst, 0.0

    def is_free(self, now: float) -> bool:
        flow = (now - self._at) * self.most / self.seconds
        self._level, self._at = min(self.burst, self._level + flow), now
        return self._level >= 1.0

    def take(self, now: float) -> None:
        self._level -= 1.0

    def end(self, now: float) -> None:
        pass

    def reset(self, now: float) -> float | None:
        """OpenAI and Anthropic say when the bucket is full again."""
        full = (self.burst - self._level) * self.seconds / self.most
        return None if self._level >= 1.0 else full


class AtATime:
    def __init__(self, most: float) -> None:
        self.most = most
        self._running = 0

    def is_free(self, now: float) -> bool:
        return self._running < self.most

    def take(self, now: float) -> None:
        self._running += 1

    def end(self, now: float) -> None:
        self._running -= 1

    def reset(self, now: float) -> float | None:
        return None


class Run(NamedTuple):
    """The moments, in seconds since the begin, at which requests were sent, refused, answered."""

    sent: list[float]
    refused: list[float]
    answered: list[float]

    def refused_share(self, since: float) -> float:
        """Of what was sent."""
        refused = sum(at >= since for at in self.refused)
        return refused / max(1, sum(at >= since for at in self.sent))

    def per_second(self, since: float, until: float) -> float:
        """Answers."""
        return sum(since <= at < until for at in self.answered) / (until - since)


class _Simulation:
    def __init__(
        self,
        rate: Rate,
        limits: Sequence[Limit],
        workers: int,
        answer: Callable[[random.Random], float],
        *,
        begin: float,
        seed: int,
        says_when: bool,
        late_heads: bool,
    ) -> None:
        self.late_heads = late_heads
        self.rate = rate
        self.limits = limits
        self.answer = answer
        self.says_when = says_when
        self.begin = begin
        self.random = random.Random(seed)
        self.run = Run([], [], [])
        self.waiting = list(range(workers))  # a heap: whoever came first is served first
        self.refusals = [0] * workers  # in a row
        self.held_until = begin
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.numbers = itertools.count()
        self.wakes_at = -1.0

    def at(self, moment: float, what: Callable[..., None], *more: Any) -> None:
        heapq.heappush(self.events, (moment, next(self.numbers), what, more))

    def go(self, until: float) -> None:
        self.at(self.begin, self.advance)
        while self.events and self.events[0][0] < until:
            now, _, what, more = heapq.heappop(self.events)
            what(now, *more)

    def advance(self, now: float) -> None:
        while self.waiting:
            wait = max(self.rate.wait(now), self.held_until - now)
            if wait > 1e-6:
                if wait < 1e9 and not now < self.wakes_at <= now + wait:
                    self.wakes_at = now + wait
                    self.at(now + wait, self.advance)
                return
            start = Start(now)
            self.rate.start(start)
            self.run.sent.append(now - self.begin)
            self.at(now + self.way(), self.arrive, heapq.heappop(self.waiting), start)

    def way(self) -> float:
        """The seconds that a message is on its way."""
        return 0.005 + 0.01 * self.random.random()

    def arrive(self, now: float, worker: int, start: Start) -> None:
        free = [limit.is_free(now) for limit in self.limits]  # each keeps its own time
        if not all(free):
            resets = [reset for limit in self.limits if (reset := limit.reset(now)) is not None]
            self.at(now + self.way(), self.refuse, worker, start, max(resets, default=None))
            return
        for limit in self.limits:
            limit.take(now)
        resets = [reset for limit in self.limits if (reset := limit.reset(now)) is not None]
        back, took = self.way(), self.answer(self.random)
        head = now + back + (0.98 * took if self.late_heads else 0.0)
        self.at(head, self.accept, worker, start, max(resets, default=None))
        self.at(now + took, self.served)
        self.at(now + took + back, self.end, worker, start)

    def served(self, now: float) -> None:
        for limit in self.limits:
            limit.end(now)

    def accept(self, now: float, worker: int, start: Start, reset: float | None) -> None:
        self.refusals[worker] = 0
        self.rate.accepted(start, now)
        if self.says_when and reset is not None:
            self.rate.pause(now + reset, now)
        self.advance(now)

    def end(self, now: float, worker: int, start: Start) -> None:
        self.rate.end(start)
        self.run.answered.append(now - self.begin)
        self.again(now, worker)

    def refuse(self, now: float, worker: int, start: Start, reset: float | None) -> None:
        self.run.refused.append(now - self.begin)
        wait = 0.4 * 2.0 ** min(self.refusals[worker], 2)  # as RetryPolicy does
        self.refusals[worker] += 1
        if self.says_when and reset is not None:
            self.held_until = max(self.held_until, now + reset)
            self.rate.pause(now + reset, now)
            wait = max(wait, reset)
        self.rate.throttled(start, now)
        self.rate.end(start)
        self.at(now + wait * (1.0 + 0.25 * self.random.random()), self.again, worker)
        self.advance(now)

    def again(self, now: float, worker: int) -> None:
        heapq.heappush(self.waiting, worker)
        self.advance(now)


def simulate(
    new_rate: Callable[[int, float], Rate],
    limits: Sequence[Limit],
    answer: Callable[[random.Random], float],
    seconds: float,
    *,
    workers: int = 64,
    seed: int = 0,
    says_when: bool = False,
    late_heads: bool = False,
    changes: Sequence[tuple[float, float]] = (),
) -> Run:
    """`workers` callers without a pause, for so many `seconds`. `answer` is how long an answer
    takes; with `says_when` the service sends headers, and a wait with a refusal; with
    `late_heads` the head of a response comes near the end of the answer. `changes`: at a
    moment all limits are multiplied by a factor."""
    begin = random.Random(seed).uniform(0.0, 60.0)  # somewhere in the window
    simulation = _Simulation(
        new_rate(workers, begin),
        limits,
        workers,
        answer,
        begin=begin,
        seed=seed,
        says_when=says_when,
        late_heads=late_heads,
    )

    def change(now: float, factor: float) -> None:
        for limit in limits:
            limit.most *= factor

    for at, factor in changes:
        simulation.at(begin + at, change, factor)
    simulation.go(begin + seconds)
    return simulation.run
