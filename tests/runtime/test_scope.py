"""CancelScope on its own: no network, no thread, no time."""

from __future__ import annotations

import math

import pytest

from llmstream import Timeouts
from llmstream._core.phase import ClockName, Phase
from llmstream._core.timers import Timers
from llmstream._runtime.scope import CancelScope, Stopped, StopReason
from llmstream.testing import FakeClock

CANCEL = StopReason(cancelled=True, reason="enough")
IDLE = StopReason(clock=ClockName.IDLE)


class Wire:
    """A connection that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def shutdown(self) -> None:
        self.done.append("shutdown")

    def release(self) -> None:
        self.done.append("release")


def make(clock: FakeClock, timeouts: Timeouts | None = None) -> CancelScope:
    return CancelScope(Timers(timeouts or Timeouts(), clock.monotonic()), clock, clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_stop_shuts_what_is_attached(clock: FakeClock) -> None:
    """Once, and the reason is there before; a second stop changes nothing."""
    scope, wire = make(clock), Wire()
    scope.attach(wire)
    assert scope.stop(CANCEL)
    assert not scope.stop(StopReason(cancelled=True, reason="again"))
    assert (wire.done, scope.stop_reason) == (["shutdown"], CANCEL)
    with pytest.raises(Stopped):
        scope.begin_wait()


def test_what_is_attached_too_late_is_said_at_once(clock: FakeClock) -> None:
    """A stop that comes before the connection: attach raises, and detach releases it."""
    scope, wire = make(clock), Wire()
    scope.stop(CANCEL)
    with pytest.raises(Stopped):
        scope.attach(wire)
    scope.detach()
    assert wire.done == ["release"]


def test_a_connection_that_is_replaced_is_released(clock: FakeClock) -> None:
    """A plain socket gives way to its TLS wrapper; each is released once."""
    scope, plain, wrapped = make(clock), Wire(), Wire()
    scope.attach(plain)
    scope.attach(wrapped)
    assert (plain.done, wrapped.done) == (["release"], [])
    scope.finish()
    scope.finish()
    assert (plain.done, wrapped.done) == (["release"], ["release"])


def test_a_cancel_overrules_a_clock_but_not_the_reverse(clock: FakeClock) -> None:
    """A clock might be answered with a new attempt, a cancel never."""
    scope = make(clock)
    assert scope.stop(IDLE)
    assert scope.stop(CANCEL)
    assert not scope.stop(IDLE)
    assert scope.stop_reason == CANCEL
    assert not scope.rearm()


def test_rearm_after_a_clock(clock: FakeClock) -> None:
    """A clock ends the attempt; the deadline ends the call."""
    scope = make(clock)
    scope.stop(IDLE)
    assert scope.rearm()
    assert scope.stop_reason is None
    scope.stop(StopReason(clock=ClockName.TOTAL))
    assert not scope.rearm()


def test_nothing_stops_a_finished_call(clock: FakeClock) -> None:
    """Its connection may belong to another stream by then."""
    scope, wire = make(clock), Wire()
    scope.attach(wire)
    scope.finish()
    assert not scope.stop(CANCEL)
    assert wire.done == ["release"]
    assert scope.tick(math.inf) == math.inf


def test_a_broken_clock_stops_it(clock: FakeClock) -> None:
    """The scheduler ticks at the moment that the scope has asked for."""
    scope, wire = make(clock, Timeouts(connect=3.0)), Wire()
    scope.begin()
    scope.attach(wire)
    clock.advance(2.9)
    assert scope.stop_reason is None
    clock.advance(0.2)
    assert (scope.stop_reason, wire.done) == (StopReason(clock=ClockName.CONNECT), ["shutdown"])


def test_phases_begin_in_order(clock: FakeClock) -> None:
    """A phase that begins with a byte begins no earlier than the one before it; the listener and
    the list have the plain words."""
    scope, told = make(clock), []
    scope.listener = lambda phase, at: told.append((phase, at))
    scope.begin()
    scope.sending()
    at = clock.monotonic()
    scope.enter(Phase.BODY, at - 5.0)
    assert told == scope.phases == [("connect", at), ("send", at), ("body", at)]
    assert {type(phase) for phase, _ in told} == {str}


def test_a_sleep_ends_with_a_stop(clock: FakeClock) -> None:
    """And otherwise when its time is over."""
    scope = make(clock)
    began = clock.monotonic()
    scope.sleep(7.0)
    assert (clock.monotonic() - began, scope.phase) == (7.0, Phase.BACKOFF)
    scope.stop(CANCEL)
    with pytest.raises(Stopped):
        scope.sleep(7.0, Phase.THROTTLED)
    assert clock.monotonic() - began == 7.0


@pytest.mark.parametrize("connecting", [0.0, 4.0])
def test_the_first_token_clock_begins_with_the_request(clock: FakeClock, connecting: float) -> None:
    """The time that the connect took is not taken from it (DESIGN 4: it runs from the request)."""
    scope = make(clock, Timeouts(connect=5.0, first_token=10.0))
    scope.begin()
    clock.advance(connecting)
    scope.sending()
    clock.advance(1.0)
    scope.awaiting_response()
    clock.advance(9.9)
    assert scope.stop_reason is None
    clock.advance(0.2)
    assert scope.stop_reason == StopReason(clock=ClockName.FIRST_TOKEN)
