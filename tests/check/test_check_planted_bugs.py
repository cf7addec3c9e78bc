"""A library that breaks a promise fails the checks: bugs are planted, one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from checking import FAST, ONE_REQUEST, failed, only, results

from llmstream import RetryPolicy
from llmstream._call.budget import Budget
from llmstream._core.session import Session
from llmstream._core.timers import Timers
from llmstream._runtime.scope import CancelScope
from llmstream.check import CHECKS, CheckSettings, concurrent, pace, wire
from llmstream.errors import FirstTokenTimeout
from llmstream.testing import Answer, LLMServer, Recorded

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a wait under test takes a quarter of a second, not a whole one; and this
    process, which many tests share, may stand still for longer than a check does."""
    monkeypatch.setattr(pace, "TARGET", 0.25)
    monkeypatch.setattr(pace, "LATE", 5.0)


def wants_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "should_retry", lambda self, error: True)


def wants_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "should_retry", lambda self, error: False)


def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "delay", lambda self, n, random, floor=0.0: floor)


def no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    real = RetryPolicy.delay
    monkeypatch.setattr(
        RetryPolicy, "delay", lambda self, n, random, floor=0.0: real(self, n, random)
    )


def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "TARGET", 1.0)  # waits that no busy machine takes by itself
    monkeypatch.setattr(CancelScope, "sleep", lambda self, seconds, phase="backoff": None)
    # Else the next request spins until the end of the wait that the service has asked for: of the
    # retry's own wait only the jitter would be missing, and that may be next to nothing.
    monkeypatch.setattr(Budget, "throttled", lambda self, now, model=None: (0.0, 0.0))


def cut_is_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive_eof(self: Session) -> None:
        self.ended = self.complete = True

    monkeypatch.setattr(Session, "receive_eof", receive_eof)


def pings_are_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Timers.end_wait

    def end_wait(self: Timers, now: float, *, received: bool) -> None:
        real(self, now, received=received)
        if received and self.phase_clock == "idle":
            self.left = math.inf  # as if the next ping were always in time, on any machine

    monkeypatch.setattr(Timers, "end_wait", end_wait)


def clocks_early(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Timers.begin_wait
    monkeypatch.setattr(Timers, "begin_wait", lambda self, now: min(real(self, now), now + 0.1))
    monkeypatch.setattr(Timers, "expired", lambda self, now: self.phase_clock)


def first_token_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FirstTokenTimeout, "retryable", True)


def cancel_is_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LATE", 0.2)
    real = CancelScope.stop
    monkeypatch.setattr(
        CancelScope, "stop", lambda self, why: not why.cancelled and real(self, why)
    )


def text_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session.receive

    def receive(self: Session, data: bytes) -> list[Any]:
        return real(self, data.replace(b" dolor", b""))

    monkeypatch.setattr(Session, "receive", receive)


def foreign_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(self: Session, data: bytes) -> list[Any]:
        raise KeyError("planted")

    monkeypatch.setattr(Session, "receive", receive)


WITH_WAITS = ["rate limit", "server errors", "reset before answer", "connection refused"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "names"),
    [
        (wants_always, ONE_REQUEST),
        (wants_never, [*WITH_WAITS, "retry-after"]),
        (no_backoff, WITH_WAITS),
        (no_floor, ["retry-after"]),
        (no_sleep, ["rate limit", "server errors", "reset before answer", "retry-after"]),
        (cut_is_success, ["truncated answer"]),
        (pings_are_progress, ["pings in mid-answer"]),
        (clocks_early, ["no answer", "silence in mid-answer"]),
        (first_token_retried, ["no answer", "pings before answer"]),
        (cancel_is_deaf, ["cancel"]),
        (text_is_lost, ["drop in mid-answer", "truncated answer", "garbled event"]),
        (foreign_exceptions, ["truncated answer", "rate limit"]),
    ],
)
def test_a_planted_bug_is_found(
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    names: list[str],
) -> None:
    """Each of these checks passes, and fails once the library has the bug."""
    settings = CheckSettings(retry=RetryPolicy(base=0.3, cap=0.3, max_attempts=3))
    assert failed(settings, *names) == set()
    monkeypatch.setattr(pace, "PATIENCE", 0.5)  # a call that hangs now hangs for ever
    plant(monkeypatch)
    assert failed(settings, *names) == set(names)


def test_a_repeated_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that goes on where nothing was cut, and so repeats what was received."""
    monkeypatch.setattr(wire, "REST", "Lorem ipsum dolor sit amet consectetur")
    result = only(CheckSettings(on_disconnect="continue", retry=FAST), "drop in mid-answer")
    assert result.status == "FAIL"
    assert "Lorem ipsum dolorLorem" in result.seen


def test_cross_talk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream of many that gets another's answer."""
    real = LLMServer.echo

    def echo(recorded: Recorded) -> Answer:
        said = real(recorded)
        return Answer("8:0") if said.text == "7" else said

    monkeypatch.setattr(LLMServer, "echo", echo)
    monkeypatch.setattr(concurrent, "_prompt", str)
    result = only(CheckSettings(), "50 streams")
    assert (result.status, result.figures["exact"]) == ("FAIL", 49)


def test_a_check_that_breaks_is_a_failed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of the check itself is a result like any other, and the rest goes on."""
    monkeypatch.setitem(CHECKS, "bad key", lambda settings: 1 / 0)
    found = results(CheckSettings(), "bad key", "quota used up")
    assert found["bad key"].status == "FAIL"
    assert "ZeroDivisionError" in found["bad key"].seen
    assert found["quota used up"].status == "ok"
