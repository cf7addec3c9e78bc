"""The arithmetic: from the measurements of single requests to the figures of a level. Pure.

Moments are in seconds on one monotonic scale; durations that come out are in milliseconds.

Percentiles are exact, by the nearest rank: all values are kept and sorted, and p99 is the least one
that 99 % of them do not exceed. So each is a value that was measured, and the p99 of fewer than a
hundred values is their maximum. (numpy's default lies between two values where they are few: with
one stall among forty requests, its p99 is a time that no request took.)
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ..result import Usage

__all__ = [
    "FORMULAS",
    "METRICS",
    "Distribution",
    "Gaps",
    "Goodput",
    "Sample",
    "goodput",
    "percentile",
]

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}

# The metrics that have percentiles, in the order in which they are shown, with their formulas. The
# same words mean other things in other tools, so the formulas are printed with the figures.
FORMULAS: dict[str, str] = {
    "ttft": "time to first token: first chunk of content - scheduled start",
    "ttfo": "time to first output: first chunk that is not thinking - scheduled start",
    "itl": "inter-token latency: every gap between two chunks of a request, as they were read",
    "tpot": "time per output token: (e2e - ttft) / (tokens - 1)",
    "e2e": "end to end: end of the answer - scheduled start",
    "dispatch": "dispatch delay: start of the request - scheduled start",
    "failed_after": "of the requests that failed: the error - scheduled start",
}
METRICS = tuple(FORMULAS)
# What a limit of goodput may be set for.
LIMITED = ("ttft", "ttfo", "itl", "tpot", "e2e")


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least of the values, which are sorted, that `share` of them (0 to 1) do not exceed. NaN
    for no values."""
    if not ordered:
        return math.nan
    rank = math.ceil(share * len(ordered) - 1e-9)  # 0.07 * 100 is a little more than 7
    return ordered[max(rank, 1) - 1]


class Distribution(Struct, frozen=True, kw_only=True):
    """How a metric is distributed, in milliseconds; all None where there is no value.

    `count` is the number of values: one for each request, or for each gap.
    """

    count: int = 0
    mean: float | None = None
    min: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution:
        ordered = sorted(values)
        if not ordered:
            return cls()
        return cls(
            count=len(ordered),
            mean=math.fsum(ordered) / len(ordered),
            min=ordered[0],
            max=ordered[-1],
            **{name: percentile(ordered, share) for name, share in PERCENTILES.items()},
        )


class Sample(Struct, kw_only=True):
    """What was measured of one request. Moments are in seconds of the clock of the run.

    Args:
        number: its number in the level, from 0.
        scheduled: when it was to start.
        sent: when it started. Later than `scheduled` where all streams that are allowed at once
            were busy.
        first: the first chunk of content, None without content.
        first_output: the first chunk that is not thinking.
        ended: the last event of the answer, or the error.
        lingered: seconds after the end in which the client waited for what may still have followed:
            without usage and [DONE] a chat service leaves open whether there is more.
        longest_gap: seconds between two chunks, None for fewer than two.
        chunks: how many chunks of content were read, thinking among them.
        thought: whether one of them was thinking.
        usage: what the service reported.
        error: the class of the error that ended it; None: it was answered.
        message: the error's message.
        interrupted: whether it was cut because the benchmark was stopped.
        retried: the errors of the attempts before the last one, by class.
        received: bytes.
    """

    number: int
    scheduled: float
    sent: float
    first: float | None = None
    first_output: float | None = None
    ended: float = 0.0
    lingered: float = 0.0
    longest_gap: float | None = None
    chunks: int = 0
    thought: bool = False
    usage: Usage = Usage()
    error: str | None = None
    message: str = ""
    interrupted: bool = False
    retried: tuple[str, ...] = ()
    received: int = 0

    @property
    def ok(self) -> bool:
        return self.error is None and not self.interrupted

    @property
    def failed(self) -> bool:
        return self.error is not None and not self.interrupted

    @property
    def tokens(self) -> int:
        """The tokens of the answer as the service reports them, else its chunks."""
        return self.usage.output_tokens or self.chunks

    @property
    def tokens_reported(self) -> bool:
        return bool(self.usage.output_tokens)

    @property
    def streamed_tokens(self) -> int:
        """The tokens that were sent one by one. Thinking that the service does not show is counted
        in its output tokens, and was over before the first chunk."""
        hidden = 0 if self.thought else self.usage.reasoning_tokens or 0
        reported = self.usage.output_tokens or 0
        return reported - hidden if hidden < reported else self.tokens

    def value(self, metric: str) -> float | None:
        """The value of a metric in ms, None where the request has none; of "itl" the longest gap.
        Only a request that was answered has another value than "dispatch" and "failed_after"."""
        seconds: float | None = None
        if metric == "dispatch":
            seconds = self.sent - self.scheduled
        elif metric == "failed_after":
            seconds = self.ended - self.scheduled if self.failed else None
        elif self.ok:
            seconds = self._seconds(metric)
        return None if seconds is None else seconds * 1000.0

    def _seconds(self, metric: str) -> float | None:
        if metric == "e2e":
            return self.ended - self.scheduled
        if metric == "itl":
            return self.longest_gap
        if metric == "tpot":
            count = self.streamed_tokens
            if self.first is None or count < 2:
                return None
            return (self.ended - self.first) / (count - 1)
        moment = self.first if metric == "ttft" else self.first_output
        return None if moment is None else moment - self.scheduled


class Goodput(Struct, frozen=True, kw_only=True):
    """The requests that were answered within all limits.

    Args:
        limits: milliseconds for each metric; of "itl" for a request's longest gap.
        good: how many requests.
        share: of all requests, those that failed or were never sent among them.
        requests_per_second: good ones.
    """

    limits: Mapping[str, float]
    good: int
    share: float | None
    requests_per_second: float | None


def goodput(
    samples: Iterable[Sample], limits: Mapping[str, float], requests: int, seconds: float
) -> Goodput:
    """`requests` is the number of all that were due, `seconds` the duration of the level."""
    good = sum(is_good(sample, limits) for sample in samples)
    return Goodput(
        limits=limits,
        good=good,
        share=good / requests if requests else None,
        requests_per_second=good / seconds if seconds > 0 else None,
    )


def is_good(sample: Sample, limits: Mapping[str, float]) -> bool:
    """Whether a request was answered within the limits. An answer without any output has no first
    token in time; an answer of one token has no gap that could be too long."""
    if not sample.ok:
        return False
    for metric, limit in limits.items():
        value = sample.value(metric)
        if value is None:
            if metric in ("ttft", "ttfo"):
                return False
        elif value > limit:
            return False
    return True


class Gaps:
    """The gaps between the chunks of all requests, in seconds: all of them up to `most` (a long
    benchmark has billions), then a random sample of that size (algorithm R of Vitter 1985).

    Attributes:
        count: how many there were.
        kept: those that are kept.
    """

    def __init__(self, most: int = 2_000_000) -> None:
        self.count = 0
        self.kept: array[float] = array("d")
        self._most = most
        self._random = random.Random(0)

    def add(self, gaps: array[float]) -> None:
        if self.count + len(gaps) <= self._most:
            self.count += len(gaps)
            self.kept.extend(gaps)
            return
        for gap in gaps:
            self.count += 1
            if len(self.kept) < self._most:
                self.kept.append(gap)
                continue
            place = int(self._random.random() * self.count)
            if place < self._most:
                self.kept[place] = gap


def distributions(samples: Sequence[Sample], gaps: Gaps) -> dict[str, Distribution]:
    """The distribution of every metric. `gaps` are those of the answered requests."""
    found = {}
    for metric in METRICS:
        if metric == "itl":
            values = (gap * 1000.0 for gap in gaps.kept)
        else:
            each = (sample.value(metric) for sample in samples if not sample.interrupted)
            values = (value for value in each if value is not None)
        found[metric] = Distribution.of(values)
    return found


def most_at_once(samples: Iterable[Sample]) -> int:
    """The most requests that ran at one moment."""
    steps = [(sample.sent, 1) for sample in samples]
    steps += [(sample.ended + sample.lingered, -1) for sample in samples]
    running = most = 0
    for _, step in sorted(steps):  # at the same moment the one that ended comes first
        running += step
        most = max(most, running)
    return most


def error_counts(samples: Iterable[Sample]) -> tuple[dict[str, int], dict[str, str]]:
    """The failed requests by the class of their error, and an example of each one's message."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for sample in samples:
        if sample.failed and sample.error is not None:
            counts[sample.error] += 1
            examples.setdefault(sample.error, sample.message)
    return dict(counts.most_common()), examples
