"""The meter: moments in seconds in, values in milliseconds out."""

from __future__ import annotations

from typing import Any

import pytest

from llmstream import Attempt, StreamInterrupted, Timings, Usage
from llmstream._core.meter import Meter, usage_since


def attempt_of(meter: Meter, now: float, **known: Any) -> Attempt:
    given: dict[str, Any] = {
        "phase": "body",
        "error": None,
        "delay": 0.0,
        "usage": Usage(),
        "contents": 0,
    }
    return meter.attempt(now, **{**given, **known})


def test_one_unit() -> None:
    """Milliseconds since the call's start, or the attempt's; counts without those before it."""
    meter = Meter()
    meter.begun = 100.0
    meter.throttled = 0.25
    meter.begin_attempt(101.0, contents=5, used=Usage(output_tokens=3))
    assert meter.content(101.5, waited=0.2) is None
    assert meter.content(102.0, waited=0.5) == pytest.approx(0.3)
    assert meter.content(102.5, waited=0.6) == pytest.approx(0.1)
    error = StreamInterrupted("cut")
    made = attempt_of(
        meter,
        103.0,
        error=error,
        delay=1.5,
        usage=Usage(output_tokens=10),
        contents=8,
        received=77,
    )
    assert made == Attempt(
        number=1,
        started_ms=1000.0,
        phase="body",
        error=error,
        delay_ms=1500.0,
        usage=Usage(output_tokens=7),
        first_token_ms=500.0,
        duration_ms=2000.0,
        bytes=77,
        throttled_ms=250.0,
        chunks=3,
        longest_gap_ms=pytest.approx(300.0),  # type: ignore[arg-type]
    )


def test_attempts_and_timings() -> None:
    """The running attempt is open until it is added; the first content of all counts once."""
    meter = Meter()
    meter.begun = 10.0
    assert meter.attempts == ((), False)
    meter.begin_attempt(10.0, 0, Usage())
    meter.content(11.0, 0.0)
    assert meter.attempts == ((), True)
    first = attempt_of(meter, 12.0)
    meter.add(first)
    meter.begin_attempt(13.0, 1, Usage())
    meter.content(14.0, 0.0)
    second = attempt_of(meter, 15.0)
    meter.add(second)
    meter.end(15.0)
    assert meter.attempts == ((first, second), False)
    assert [a.number for a in (first, second)] == [1, 2]
    timings = Timings(first_token_ms=1000.0, total_ms=5000.0, attempts=(0.0, 3000.0))
    assert meter.timings(99.0, (first, second)) == timings
    assert meter.timings(99.0, ()).total_ms == 0.0


def test_what_arrived_last_in_words() -> None:
    """For the message of a clock's error."""
    meter = Meter()
    meter.begin_attempt(0.0, 0, Usage())
    assert meter.since(1.0, None) == "no byte yet, no event yet, no token yet"
    meter.event(2.0)
    assert meter.since(5.0, 4.0) == "last byte 1.0 s ago, last event 3.0 s ago, no token yet"
    meter.content(6.0, 0.0)
    assert (
        meter.since(8.0, 7.5) == "last byte 0.5 s ago, last event 2.0 s ago, last token 2.0 s ago"
    )


def test_usage_beyond_what_was_known() -> None:
    """A resumed answer reports the whole; None stays None, and the same object is nothing new."""
    before = Usage(input_tokens=10, output_tokens=4)
    assert usage_since(before, before) == Usage()
    now = Usage(input_tokens=10, output_tokens=9, cached_tokens=2)
    assert usage_since(now, before) == Usage(input_tokens=0, output_tokens=5, cached_tokens=2)
