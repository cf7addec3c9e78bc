"""The arithmetic of the benchmark, by hand and against the standard library's."""

from __future__ import annotations

import math
import statistics
from array import array
from typing import Any

import pytest
from every import every
from hypothesis import given
from hypothesis import strategies as st

from llmstream.bench import Distribution, Sample, percentile
from llmstream.bench.level import LevelReport, report
from llmstream.bench.statistics import Gaps
from llmstream.result import Usage

VALUES = st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=200)


def sample(number: int = 0, **given: Any) -> Sample:
    """Due at 10 s, sent at 10.5; chunks at 11, 11.2 and 11.6; the end at 12; 9 tokens."""
    known: dict[str, Any] = {
        "number": number,
        "scheduled": 10.0,
        "sent": 10.5,
        "first": 11.0,
        "first_output": 11.2,
        "ended": 12.0,
        "longest_gap": 0.4,
        "chunks": 3,
        "thought": True,
        "usage": Usage(input_tokens=7, output_tokens=9),
    }
    return Sample(**{**known, **given})


def failed(number: int = 0, error: str = "ServerError", **given: Any) -> Sample:
    return Sample(number=number, scheduled=10.0, sent=10.0, ended=13.0, error=error, **given)


def figures(*samples: Sample, **given: Any) -> LevelReport:
    known: dict[str, Any] = {"concurrency": 8, "rate": None, "begun": 10.0, "ended": 20.0}
    gaps = Gaps()
    for answered in filter(lambda one: one.ok, samples):
        gaps.add(array("d", [0.2, 0.4] if answered.longest_gap else []))
    return report(samples, gaps, **{**known, **given})


# ---- percentiles -------------------------------------------------------------------------------


@given(VALUES, st.integers(1, 100))
def test_a_percentile_is_the_nearest_rank(values: list[float], percent: int) -> None:
    """By the definition, in whole numbers: the least value that so many percent do not exceed."""
    found = percentile(sorted(values), percent / 100)
    within = [one for one in values if sum(v <= one for v in values) * 100 >= percent * len(values)]
    assert found == min(within)


@given(VALUES)
def test_a_distribution_is_in_order(values: list[float]) -> None:
    """The percentiles do not fall, and lie between the least and the greatest value."""
    found = Distribution.of(values)
    ordered = [found.min, found.p50, found.p90, found.p95, found.p99, found.max]
    assert None not in ordered
    assert ordered == sorted(ordered, key=lambda value: value or 0.0)
    assert (found.count, found.min, found.max) == (len(values), min(values), max(values))


def test_percentiles_by_hand() -> None:
    """Of 1, 2, ... 100 the percentile is its own number; one stall among forty is the p99."""
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.95, 0.99)] == [50, 90, 95, 99]
    assert [percentile([1.0, 2.0], share) for share in (0.5, 0.51)] == [1.0, 2.0]
    assert Distribution.of([0.1] * 39 + [1000.0]).p99 == 1000.0
    assert math.isnan(percentile([], 0.5))


def test_no_value_and_one_value() -> None:
    """No value: every figure is None, never 0. One value: it is every figure."""
    assert Distribution.of([]) == Distribution(count=0)
    one = Distribution.of([3.0])
    assert {one.mean, one.min, one.p50, one.p90, one.p95, one.p99, one.max} == {3.0}


def test_of_too_many_gaps_a_random_sample_is_kept() -> None:
    """Up to the bound all of them are; above it each has the same chance, and memory is bounded."""
    few, many = Gaps(most=1000), Gaps(most=1000)
    few.add(array("d", range(1000)))
    assert list(few.kept) == list(range(1000))
    for begin in range(0, 50_000, 700):
        many.add(array("d", range(begin, min(begin + 700, 50_000))))
    assert (many.count, len(many.kept)) == (50_000, 1000)
    # The mean of a uniform sample of 1,000 from 0 to 50,000 has a standard error of 456.
    assert statistics.fmean(many.kept) == pytest.approx(25_000, abs=4 * 456)
    level = report([sample()], many, concurrency=1, rate=None, begun=0.0, ended=1.0)
    assert "itl is that of a random 1,000 of 50,000 gaps." in level.notes


def test_a_client_that_keeps_too_few_connections() -> None:
    """Its requests connect anew, which is in the figures, so it is said."""
    both = [sample(0), sample(1)]
    notes = figures(*both, connections=1).notes
    assert any("max_connections" in note for note in notes)
    assert not any("max_connections" in note for note in figures(*both, connections=2).notes)


# ---- one request -------------------------------------------------------------------------------


def test_the_metrics_of_a_request() -> None:
    """All count from the scheduled start but tpot, which counts from the first chunk."""
    one = sample()
    metrics = ("ttft", "ttfo", "e2e", "tpot", "itl", "dispatch")
    expected = (1000.0, 1200.0, 2000.0, 1000.0 / 8, 400.0, 500.0)
    assert [one.value(metric) for metric in metrics] == pytest.approx(expected)
    assert one.value("failed_after") is None


def test_tokens_are_those_of_the_usage_else_chunks() -> None:
    """A usage of 0, or none, is not one."""
    assert (sample().tokens, sample().tokens_reported) == (9, True)
    for usage in (Usage(), Usage(output_tokens=0)):
        assert (sample(usage=usage).tokens, sample(usage=usage).tokens_reported) == (3, False)
        assert sample(usage=usage).value("tpot") == pytest.approx(1000.0 / 2)


def test_tokens_that_were_not_streamed_do_not_make_the_others_faster() -> None:
    """Reasoning that the service does not show is over before the first chunk."""
    usage = Usage(output_tokens=105, reasoning_tokens=100)
    assert sample(usage=usage, thought=False).value("tpot") == pytest.approx(1000.0 / 4)
    assert sample(usage=usage, thought=True).value("tpot") == pytest.approx(1000.0 / 104)
    # Beside the output tokens, as xAI counts them.
    beside = Usage(output_tokens=5, reasoning_tokens=100)
    assert sample(usage=beside, thought=False).value("tpot") == pytest.approx(1000.0 / 4)


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    one = sample(usage=Usage(output_tokens=1), longest_gap=None)
    assert (one.value("tpot"), one.value("itl")) == (None, None)
    assert sample(first=None, first_output=None).value("ttft") is None


# ---- a level -----------------------------------------------------------------------------------


def test_failed_requests_are_counted_and_not_in_the_percentiles() -> None:
    """They are in `requests`, `success` and `errors`, and have a distribution of their own."""
    level = figures(sample(0), sample(1), failed(2), failed(3, "RateLimitError", message="slow"))
    assert (level.requests, level.ok, level.failed, level.success) == (4, 2, 2, 0.5)
    assert level.errors == {"ServerError": 1, "RateLimitError": 1}
    assert level.examples["RateLimitError"] == "slow"
    assert level.distributions["ttft"].count == 2
    assert level.distributions["itl"].count == 4
    assert level.distributions["failed_after"].p50 == pytest.approx(3000.0)
    assert any("2 of 4 requests failed" in note for note in level.notes)


def test_throughput() -> None:
    """Over the duration of the level; only what was answered."""
    level = figures(sample(0), sample(1), failed(2))
    assert level.seconds == 10.0
    assert level.requests_per_second == pytest.approx(0.2)
    assert (level.output_tokens, level.output_tokens_per_second) == (18, pytest.approx(1.8))
    assert level.tokens_per_second_per_stream == pytest.approx(1000.0 / 125.0)
    assert level.input_tokens == 14


def test_goodput_has_every_request_in_its_denominator() -> None:
    """The good ones, of those that were answered, that failed, and that were never sent."""
    slow = sample(1, first=15.0, ended=16.0)
    level = figures(sample(0), slow, failed(2), unsent=1, limits={"ttft": 1000.0, "tpot": 125.0})
    assert level.goodput is not None
    assert (level.goodput.good, level.goodput.share) == (1, 0.25)
    assert level.goodput.requests_per_second == pytest.approx(0.1)


@every(
    ("limits", "good"),
    [
        ({"ttft": 1000.0}, True),
        ({"ttft": 999.0}, False),
        ({"ttfo": 1199.0}, False),
        ({"itl": 399.0}, False),
        ({"itl": 401.0}, True),
        ({"tpot": 124.0}, False),
        ({"e2e": 1999.0}, False),
        ({"ttft": 1000.0, "e2e": 1999.0}, False),
    ],
)
def test_every_limit_has_to_hold(limits: dict[str, float], good: bool) -> None:
    level = figures(sample(), limits=limits)
    assert level.goodput is not None
    assert level.goodput.good == good


def test_an_answer_without_content_is_not_good() -> None:
    """It has no first token in time; one of a single token has no time per token to be too long."""
    empty = sample(first=None, first_output=None, chunks=0, usage=Usage(), longest_gap=None)
    single = sample(usage=Usage(output_tokens=1), longest_gap=None)
    for one, good in ((empty, 0), (single, 1)):
        level = figures(one, limits={"ttft": 2000.0, "tpot": 1.0})
        assert level.goodput is not None
        assert level.goodput.good == good


def test_what_was_interrupted_is_in_no_figure() -> None:
    level = figures(sample(0), failed(1, "Cancelled", interrupted=True))
    assert (level.requests, level.failed, level.interrupted, level.success) == (1, 0, 1, 1.0)
    assert level.distributions["failed_after"].count == 0
    assert level.distributions["dispatch"].count == 1


def test_retries_by_the_error_before() -> None:
    retried = sample(0, retried=("RateLimitError", "RateLimitError", "ServerError"))
    level = figures(retried, failed(1, retried=("ServerError",)))
    assert (level.retries, level.retried) == (4, {"RateLimitError": 2, "ServerError": 2})


def test_where_the_tokens_are_from() -> None:
    counted = sample(1, usage=Usage())
    assert figures(sample()).tokens_from == "usage"
    assert figures(counted).tokens_from == "chunks"
    assert figures(sample(), counted).tokens_from == "usage and chunks"
    assert figures(failed()).tokens_from == ""
    assert any("their chunks are counted" in note for note in figures(counted).notes)
    assert figures(sample(), counted).input_tokens is None  # not known of all


def test_cached_tokens_are_in_the_whole_prompt() -> None:
    """On every API: some count them beside the input."""
    usage = Usage(input_tokens=7, cached_tokens=5, output_tokens=9)
    assert figures(sample(usage=usage)).input_tokens == 7
    assert figures(sample(usage=usage), cached_beside=True).input_tokens == 12


def test_the_most_at_once() -> None:
    """Two that touch do not overlap."""
    first = sample(0, sent=0.0, ended=2.0)
    second = sample(1, sent=1.0, ended=3.0)
    third = sample(2, sent=3.0, ended=4.0)
    assert figures(first, second, third).most_at_once == 2
    assert figures(second, third).most_at_once == 1
    assert figures().most_at_once == 0


def test_nothing_measured_is_not_zero() -> None:
    """A level without a request has counts of 0, and no rate, share or percentile."""
    level = figures(ended=10.0, limits={"ttft": 1.0})
    assert (level.requests, level.success, level.requests_per_second) == (0, None, None)
    assert level.goodput is not None
    assert (level.goodput.share, level.goodput.requests_per_second) == (None, None)
    assert level.distributions["ttft"].p50 is None
