"""Interrupts at the moments of calls that share a limit: every place is given back, and nobody who
waits is forgotten."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from support import eventually
from test_interrupts import in_finalizers, interrupted_at, pytestmark  # noqa: F401

from llmstream import Client, RetryPolicy
from llmstream._call.limiter import Limiter
from llmstream._runtime.clock import SYSTEM_CLOCK
from llmstream.testing import Answer, FakeTransport, Reply


class Refuses(FakeTransport):
    """Refuses each first request, and answers the second."""

    odd = False

    def send(self, request: Any, scope: Any) -> Any:
        self.odd = not self.odd
        self.requests.clear()
        self.script(Reply.error(429) if self.odd else Answer("one two three"))
        return super().send(request, scope)


def sweep(limit: float | str, stride: int) -> int:
    """Interrupt one point of `stride` of a call that waits for its place, is refused, and answered;
    returns the number of interrupts."""
    retry = RetryPolicy(base=0.0, cap=0.0, jitter=0.0)
    client = Client("chat", base_url="http://t", model="m", transport=Refuses(), retry=retry)
    limiter = Limiter(limit, 1, SYSTEM_CLOCK)
    limiter.place("m", lambda now: 0.0)
    (lane,) = limiter._lanes.values()

    def work() -> None:
        lane._rate.wait = lambda now: 1e9 if lane._rate.running else 0.0  # type: ignore[method-assign]
        client._limited_stream(limiter, "x").result()

    def whole() -> None:
        client._endpoint.budget.refill(retried=True)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(20.0)
        assert not thread.is_alive(), "a place was lost"

    done = 0
    while interrupted_at(1 + done * stride, work):
        done += 1
        gc.collect(0)
        client._endpoint.budget.refill(retried=True)
        if done % 5 == 0:
            whole()
            eventually(lambda: lane._rate.running == len(lane._waiting) == 0, "all is free")
    client.close()
    return done


@pytest.mark.parametrize("limit", ["auto", 1e6])
def test_an_interrupt_loses_no_place(limit: float | str) -> None:
    assert sweep(limit, 61) > 10


@pytest.mark.attack
@pytest.mark.parametrize("limit", ["auto", 1e6])
def test_an_interrupt_at_each_point_loses_no_place(limit: float | str) -> None:
    assert sweep(limit, 1) > 500
