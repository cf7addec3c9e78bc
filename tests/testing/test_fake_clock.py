"""FakeClock by itself: time that passes when the test says so."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from llmstream._runtime.scope import NEVER
from llmstream.testing import FakeClock


class Ticking:
    """What the clock knows of a call: when to look at it. `again` are the moments it asks for."""

    def __init__(self, *again: float) -> None:
        self.scheduled = NEVER
        self.again = list(again)
        self.ticks: list[float] = []

    def tick(self, now: float) -> float:
        self.ticks.append(now)
        return self.again.pop(0) if self.again else NEVER


def test_time_stands_still_until_it_is_moved() -> None:
    """Both scales move together, by exactly what was asked."""
    clock = FakeClock(start=5.0, unix=100.0)
    assert (clock.monotonic(), clock.time()) == (5.0, 100.0)
    clock.advance(2.5)
    assert (clock.monotonic(), clock.time()) == (7.5, 102.5)
    assert clock.slept == []


def test_a_wait_passes_at_once_and_is_listed() -> None:
    """No real second passes; the wait is in `slept`."""
    clock = FakeClock()
    clock.wait(SimpleQueue(), 3600.0)
    clock.wait(SimpleQueue(), 0.5)
    assert clock.monotonic() == 4600.5
    assert clock.slept == [3600.0, 0.5]


def test_a_bell_that_rang_ends_the_wait_before_it_begins() -> None:
    """The ring is taken, and no time passes."""
    clock = FakeClock()
    bell: SimpleQueue[None] = SimpleQueue()
    bell.put(None)
    clock.wait(bell, 60.0)
    assert (clock.monotonic(), clock.slept, bell.empty()) == (1000.0, [], True)


def test_a_wait_for_another_thread_takes_real_time() -> None:
    """A wait without a bound ends when the other thread rings."""
    clock = FakeClock()
    bell: SimpleQueue[None] = SimpleQueue()
    ringer = threading.Thread(target=bell.put, args=(None,))
    ringer.start()
    clock.wait(bell, None)
    ringer.join()
    assert (clock.monotonic(), clock.slept) == (1000.0, [])


def test_calls_are_looked_at_in_the_order_of_their_moments() -> None:
    """Each at its own moment, although time moves past all of them at once."""
    clock = FakeClock()
    seen: list[tuple[str, float]] = []

    class Noting(Ticking):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def tick(self, now: float) -> float:
            seen.append((self.name, clock.monotonic()))
            return super().tick(now)

    for name, at in (("late", 1020.0), ("early", 1010.0), ("after", 1061.0)):
        clock.schedule(Noting(name), at)  # type: ignore[arg-type]
    clock.advance(60.0)
    assert seen == [("early", 1010.0), ("late", 1020.0)]
    assert clock.monotonic() == 1060.0


def test_a_call_that_asks_for_it_is_looked_at_again() -> None:
    """`scheduled` says when; after the last time it is never."""
    clock = FakeClock()
    call = Ticking(1030.0)
    clock.schedule(call, 1010.0)  # type: ignore[arg-type]
    assert call.scheduled == 1010.0
    clock.advance(15.0)
    assert (call.ticks, call.scheduled) == ([1010.0], 1030.0)
    clock.advance(100.0)
    assert (call.ticks, call.scheduled) == ([1010.0, 1030.0], NEVER)


def test_a_call_that_is_forgotten_is_left_alone() -> None:
    """Also one that was never scheduled can be forgotten."""
    clock = FakeClock()
    call = Ticking()
    clock.schedule(call, 1010.0)  # type: ignore[arg-type]
    for _ in range(2):
        clock.forget(call)  # type: ignore[arg-type]
    clock.advance(60.0)
    assert (call.ticks, call.scheduled) == ([], NEVER)


def test_a_moment_that_has_passed_is_looked_at_with_the_next_move() -> None:
    """Time does not go back for it."""
    clock = FakeClock()
    call = Ticking()
    clock.schedule(call, 900.0)  # type: ignore[arg-type]
    clock.advance(0.0)
    assert (call.ticks, clock.monotonic()) == ([1000.0], 1000.0)


def test_it_is_its_own_scheduler() -> None:
    """A client that is given the clock needs no watchdog."""
    clock = FakeClock()
    assert clock.scheduler is clock
