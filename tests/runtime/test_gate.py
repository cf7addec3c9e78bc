"""The gate: one call at a time, in order, and never a call that waits for a turn that is lost."""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue

import pytest
from support import eventually

from llmstream import Timeouts
from llmstream._core.timers import Timers
from llmstream._runtime.clock import SYSTEM_CLOCK
from llmstream._runtime.gate import GATE, Gate
from llmstream._runtime.scope import CancelScope, Stopped, StopReason
from llmstream._runtime.watchdog import shared_watchdog
from llmstream.testing import FakeClock


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread may stand still for longer than the second that a call waits for its turn."""
    monkeypatch.setattr("llmstream._runtime.gate._LONGEST", 60.0)


def new_scope(**clocks: float) -> CancelScope:
    timers = Timers(Timeouts(**clocks), SYSTEM_CLOCK.monotonic())
    return CancelScope(timers, SYSTEM_CLOCK, shared_watchdog())


class Waiter:
    """A thread that enters the gate and stays inside until it is told to leave."""

    def __init__(self, gate: Gate, order: list[int], number: int) -> None:
        self.scope = new_scope()
        self.leave = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(gate, order, number), daemon=True)
        self._thread.start()

    def _run(self, gate: Gate, order: list[int], number: int) -> None:
        try:
            gate.enter(self.scope)
            order.append(number)
            self.leave.wait(10)
            gate.leave(self.scope)
        except BaseException as exc:
            self.error = exc

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_one_at_a_time_and_in_order() -> None:
    gate, order, waiters = Gate(), [], []
    for number in range(5):
        waiters.append(Waiter(gate, order, number))
        eventually(lambda n=number: len(gate._waiting) == max(0, n) or order, "it has arrived")
        if number:
            eventually(lambda n=number: len(gate._waiting) == n, "it waits")
    for number, waiter in enumerate(waiters):
        eventually(lambda n=number: len(order) > n, "it has its turn")
        assert order == list(range(number + 1))
        waiter.leave.set()
        waiter.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_stopped_call_leaves_the_queue_and_keeps_no_turn() -> None:
    gate, order = Gate(), []
    first = Waiter(gate, order, 0)
    eventually(lambda: order == [0], "the first has its turn")
    second = Waiter(gate, order, 1)
    eventually(lambda: len(gate._waiting) == 1, "the second waits")
    second.scope.stop(StopReason(cancelled=True))
    second.join()
    assert type(second.error) is Stopped
    assert not gate._waiting
    third = Waiter(gate, order, 2)
    first.leave.set()
    eventually(lambda: order == [0, 2], "the third has its turn")
    third.leave.set()
    third.join()


def test_a_lost_turn_holds_nobody_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an interrupt between two steps; and the gate is one of one turn again."""
    monkeypatch.setattr("llmstream._runtime.gate._LONGEST", 0.05)
    gate = Gate()
    gate._free.get_nowait()
    for _ in range(2):
        scope = new_scope()
        gate.enter(scope)
        gate.leave(scope)
    assert gate._free.qsize() == 1
    slow = Waiter(gate, [], 0)
    eventually(lambda: slow.scope.has_turn, "it has its turn")
    scope = new_scope()
    gate.enter(scope)  # goes on without a turn
    gate.leave(scope)
    slow.leave.set()
    slow.join()
    assert gate._free.qsize() == 1


class SlowTurn(FakeClock):
    """While a call waits, 0.3 s pass; then the call that has the turn gives it back."""

    def __init__(self, holder: Waiter) -> None:
        super().__init__()
        self._holder = holder

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        self.advance(0.3)
        self._holder.leave.set()
        self._holder.join()


@pytest.mark.parametrize("total", [None, 0.1])
def test_of_the_clocks_only_total_runs_while_a_call_waits_for_its_turn(total: float | None) -> None:
    gate, order = Gate(), []
    holder = Waiter(gate, order, 0)
    eventually(lambda: order == [0], "another has the turn")
    clock = SlowTurn(holder)
    scope = CancelScope(
        Timers(Timeouts(connect=0.05, total=total), clock.monotonic()), clock, clock.scheduler
    )
    scope.begin()
    if total is None:
        gate.enter(scope)
        assert scope.has_turn
        assert scope.timers.left == 0.05
        gate.leave(scope)
    else:
        with pytest.raises(Stopped):
            gate.enter(scope)
        assert scope.stop_reason is not None
        assert scope.stop_reason.clock == "total"
    scope.finish()
    assert gate._free.qsize() == 1


def test_a_call_within_a_call_does_not_wait_for_it() -> None:
    """A signal handler's, in the thread that has the turn."""
    gate, outer, clock = Gate(), new_scope(), FakeClock()
    inner = CancelScope(Timers(Timeouts(), clock.monotonic()), clock, clock.scheduler)
    gate.enter(outer)
    gate.enter(inner)
    assert not inner.has_turn
    assert clock.slept == []
    gate.leave(inner)
    assert outer.has_turn
    gate.leave(outer)
    gate.enter(inner)
    assert inner.has_turn
    gate.leave(inner)


def test_entering_twice_and_leaving_twice_is_once() -> None:
    gate, scope = Gate(), new_scope()
    gate.enter(scope)
    gate.enter(scope)
    gate.leave(scope)
    gate.leave(scope)
    assert gate._free.qsize() == 1


def test_two_hundred_threads() -> None:
    """Never two at the same time; all get through, though every tenth is stopped."""
    gate, inside, most, done = Gate(), [], [], []

    def work(number: int) -> None:
        scope = new_scope()
        if number % 10 == 0:
            threading.Timer(0.001 * (number % 7), scope.stop, [StopReason(cancelled=True)]).start()
        for _ in range(5):
            try:
                gate.enter(scope)
            except Stopped:
                break
            inside.append(number)
            most.append(len(inside))
            time.sleep(0)
            inside.remove(number)
            gate.leave(scope)
        done.append(number)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 200
    assert max(most) == 1
    assert gate._free.qsize() == 1
    assert not gate._waiting


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_gate_of_its_own() -> None:
    scope = new_scope()
    GATE.enter(scope)
    try:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if GATE._free.qsize() == 1 and not GATE._waiting else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        GATE.leave(scope)
