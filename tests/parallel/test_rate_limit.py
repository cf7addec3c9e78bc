"""`Client.parallel(rate_limit=...)` against a service with limits, over HTTP and in real time.

The search itself is proved in tests/core/test_rate.py in virtual time, for many kinds of services.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support import nothing_left  # noqa: F401 (a fixture)

from llmstream import Client
from llmstream._runtime.clock import SYSTEM_CLOCK
from llmstream.testing import Answer, LLMServer, Recorded, Reply

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as running:
        yield running


class Request(NamedTuple):
    at: float  # seconds since the first one
    was_accepted: bool
    factor: float  # of the limits


class LimitedService:
    """Answers after `seconds`, and 429 above `most` requests in flight, or `per_minute` of them (a
    bucket that holds those of a second), without a header. After `doubles_at` seconds both are
    twice as much."""

    def __init__(
        self, most: int, per_minute: float, seconds: float, doubles_at: float = 1e9
    ) -> None:
        self._lock = threading.Lock()
        self._most, self._rate, self._seconds = most, per_minute / 60.0, seconds
        self._level = self._rate
        self._at = self._begun = 0.0
        self._ends: list[float] = []
        self._doubles_at = doubles_at
        self.requests: list[Request] = []

    def __call__(self, request: Recorded) -> Reply:
        with self._lock:
            now = SYSTEM_CLOCK.monotonic()
            self._begun = self._begun or now
            factor = 2.0 if now - self._begun >= self._doubles_at else 1.0
            rate = factor * self._rate
            if self.requests:
                self._level = min(rate, self._level + (now - self._at) * rate)
            self._at = now
            self._ends = [end for end in self._ends if end > now]
            accepted = self._level >= 1.0 and len(self._ends) < factor * self._most
            self.requests.append(Request(now - self._begun, accepted, factor))
            if not accepted:
                return Reply.error(429, message="too many requests")
            self._level -= 1.0
            self._ends.append(now + self._seconds)
        return Reply(Answer("Hello"), delay=self._seconds)

    def share_refused(self, since: float) -> float:
        late = [request for request in self.requests if request.at >= since]
        return sum(not request.was_accepted for request in late) / max(1, len(late))

    def accepted_per_second(self, since: float, until: float) -> float:
        return sum(r.was_accepted and since <= r.at < until for r in self.requests) / (
            until - since
        )


def run(server: LLMServer, service: LimitedService, number: int) -> None:
    server.default = service
    with Client("chat", base_url=f"{server.url}/v1", model="m", api_key="sk-test") as client:
        prompts = [f"prompt {n}" for n in range(number)]
        results = client.parallel(prompts, max_workers=64, rate_limit="auto").results()
    assert [result.text for result in results] == ["Hello"] * number


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "number", "limit"), [(0.5, 330, 10.0), (3.0, 230, 20 / 3.0)])
def test_the_limit_of_a_service_finds_itself(
    server: LLMServer, seconds: float, number: int, limit: float
) -> None:
    """20 in flight or 600 a minute, whichever binds: all are answered, at most 5 % are refused
    after the first ten seconds, and at least 80 % of the limit is used from the start on."""
    service = LimitedService(20, 600, seconds)
    run(server, service, number)
    last = service.requests[-1].at
    assert service.share_refused(10.0) <= 0.05
    assert service.accepted_per_second(0.0, last) >= 0.8 * limit


@pytest.mark.slow
def test_a_limit_that_doubles_in_mid_run_is_found(server: LLMServer) -> None:
    """Of 10 requests a second 20 become possible after 15 seconds: in the last ten seconds more
    than 16 are used."""
    service = LimitedService(20, 600, 0.5, doubles_at=15.0)
    run(server, service, 750)
    last = service.requests[-1].at
    assert service.share_refused(10.0) <= 0.05
    assert service.accepted_per_second(last - 10.0, last) >= 0.8 * 20.0


@pytest.mark.slow
def test_a_given_rate_holds(server: LLMServer) -> None:
    """600 a minute, a burst of a second among them: a service of that limit refuses nothing."""
    service = LimitedService(1000, 630, 0.05)
    server.default = service
    with Client("chat", base_url=f"{server.url}/v1", model="m", api_key="sk-test") as client:
        client.parallel(["Hi"] * 60, max_workers=16, rate_limit=600).results()
    last = service.requests[-1].at
    assert 4.8 <= last <= 8.0
    assert service.share_refused(0.0) == 0.0
