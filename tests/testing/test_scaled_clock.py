"""The clock that is faster than the machine's: its time, its waits, and the thread that ends."""

from __future__ import annotations

import math
import time
from queue import SimpleQueue

import pytest
from support import PATIENCE, other_threads

from llmstream import Client, SilenceTimeout, Timeouts
from llmstream._core.timers import Timers
from llmstream._runtime.scope import NEVER, CancelScope
from llmstream.testing import Answer, LLMServer, Reply, Silence
from llmstream.testing.clocks import ScaledClock

TWO_WORDS = Answer("Hello brave new world").blocks()[:6]
SOON = PATIENCE  # real seconds; nothing here takes one

pytestmark = pytest.mark.usefixtures("nothing_left")


class Ticked(CancelScope):
    """A scope that reports when it is looked at, and wants to be looked at again as often as
    `again` says."""

    __slots__ = ("again", "ticks")

    def __init__(self, clock: ScaledClock, *again: float) -> None:
        super().__init__(Timers(Timeouts(), 0.0), clock, clock.scheduler)
        self.again = list(again)
        self.ticks: SimpleQueue[float] = SimpleQueue()

    def tick(self, now: float) -> float:
        self.ticks.put(now)
        return now + self.again.pop(0) if self.again else NEVER


def test_its_time_passes_faster() -> None:
    """A thousand seconds in one, and not more."""
    with ScaledClock(1000.0) as clock:
        before, begun = time.monotonic(), clock.monotonic()
        time.sleep(0.05)
        passed, real = clock.monotonic() - begun, time.monotonic() - before
    assert 1000.0 * 0.05 <= passed <= 1000.0 * real + 1.0


def test_its_date_runs_along() -> None:
    """Unix time is right at first, and then as fast as the clock."""
    with ScaledClock(1000.0) as clock:
        assert abs(clock.time() - time.time()) < 1000.0 * SOON
        moments = [clock.monotonic(), clock.time(), clock.monotonic()]
        time.sleep(0.05)
        moments += [clock.monotonic(), clock.time(), clock.monotonic()]
    earliest, date, begun, ended, later_date, latest = moments
    assert ended - begun - 1.0 <= later_date - date <= latest - earliest + 1.0


def test_a_wait_is_shorter_by_the_same_factor() -> None:
    """A hundred seconds take a tenth of one; something in the bell ends the wait at once."""
    bell: SimpleQueue[None] = SimpleQueue()
    with ScaledClock(1000.0) as clock:
        begun = clock.monotonic()
        clock.wait(bell, 100.0)
        assert clock.monotonic() - begun >= 99.9
        bell.put(None)
        before = time.monotonic()
        clock.wait(bell, 1e9)
        assert time.monotonic() - before < SOON
        assert bell.empty()


def test_what_is_scheduled_is_looked_at_in_time_and_again() -> None:
    """At the moment that was asked for or later, and as often as the scope wants."""
    with ScaledClock(1000.0) as clock:
        scope = Ticked(clock, 20.0)
        at = clock.monotonic() + 50.0
        clock.schedule(scope, at)
        first, second = scope.ticks.get(timeout=SOON), scope.ticks.get(timeout=SOON)
        assert at <= first
        assert second - first >= 20.0
        clock.wait(SimpleQueue(), 50.0)
        assert scope.ticks.empty()


def test_only_an_earlier_moment_changes_the_next_look() -> None:
    """A later one is found by the look that is due anyway."""
    with ScaledClock(1000.0) as clock:
        scope = Ticked(clock)
        far = clock.monotonic() + 1e6
        clock.schedule(scope, far)
        clock.schedule(scope, far + 1.0)
        assert scope.scheduled == far
        clock.schedule(scope, clock.monotonic())
        assert scope.ticks.get(timeout=SOON) < far


def test_what_is_forgotten_is_not_looked_at() -> None:
    """Its stream is over."""
    with ScaledClock(1000.0) as clock:
        scope = Ticked(clock)
        with clock._changed:  # before its thread can look, however late this one is
            clock.schedule(scope, clock.monotonic() + 50.0)
            clock.forget(scope)
        assert scope.scheduled == NEVER
        clock.wait(SimpleQueue(), 100.0)
        assert scope.ticks.empty()


def test_its_thread_ends_with_it() -> None:
    """One thread, gone after `close`, which may be called twice."""
    before = other_threads()
    clock = ScaledClock(10.0)
    assert other_threads() - before == {clock._thread}
    clock.close()
    clock.close()
    assert other_threads() - before == set()


@pytest.mark.parametrize("speed", [0.0, -1.0, math.inf, math.nan])
def test_a_speed_that_is_none(speed: float) -> None:
    """Refused, before a thread is started."""
    before = other_threads()
    with pytest.raises(ValueError, match="number above 0"):
        ScaledClock(speed)
    assert other_threads() - before == set()


def test_a_client_lives_by_it(llm_server: LLMServer) -> None:
    """A silence of 90 seconds ends a stream in a fraction of one, and the error says 90."""
    # At once, and no other clock: a real delay of a tenth of a second is half a minute here.
    llm_server.script(Reply([b": ping\n\n" + b"".join(TWO_WORDS), Silence()]))
    far = Timeouts(connect=None, first_token=None, idle=None, silence=90.0)
    before = time.monotonic()
    with (
        ScaledClock(300.0) as clock,
        Client(base_url=llm_server.base_url, api_key="test-key", clock=clock) as client,
    ):
        begun = clock.monotonic()
        stream = client.stream("hi", timeouts=far)
        with pytest.raises(SilenceTimeout) as caught:
            list(stream)
        assert clock.monotonic() - begun >= 90.0
    assert time.monotonic() - before < SOON
    assert caught.value.seconds == 90.0
    assert caught.value.partial.text == "Hello brave"
