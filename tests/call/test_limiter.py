"""The limit that the requests of many calls share: who is served when, what is given back, and what
a refusal costs a call."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from every import every
from support import nothing_left  # noqa: F401 (a fixture)

from llmstream import Client, RetryPolicy, Timeouts
from llmstream._call.budget import CAPACITY
from llmstream._call.limiter import Limiter, Place, _Lane, checked_rate_limit
from llmstream._core.timers import Timers
from llmstream._runtime.clock import SYSTEM_CLOCK
from llmstream._runtime.scope import CancelScope, Stopped, StopReason
from llmstream._runtime.watchdog import shared_watchdog
from llmstream.errors import (
    Cancelled,
    ConfigurationError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
)
from llmstream.stream import Stream
from llmstream.testing import Answer, FakeClock, LLMServer, Recorded, Reply

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as running:
        yield running


def client_of(server: LLMServer, **more: Any) -> Client:
    return Client(
        "responses",
        base_url=f"{server.url}/v1",
        api_key="sk-test",
        **{"retry": RetryPolicy(base=0.01, cap=0.01), **more},
    )


def limited(client: Client, limiter: Limiter, prompt: str = "Hi", **options: Any) -> Stream:
    return client._limited_stream(limiter, prompt, **options)


def new_scope() -> CancelScope:
    now = SYSTEM_CLOCK.monotonic()
    return CancelScope(Timers(Timeouts(), now), SYSTEM_CLOCK, shared_watchdog())


def free(now: float) -> float:
    return 0.0


# --- arguments ----------------------------------------------------------------------------------


@every("value", [0, -1, float("nan"), float("inf"), True, "fast", "600", b"", []])
def test_a_rate_limit_is_checked(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="requests a minute"):
        checked_rate_limit(value)


def test_rate_limits_that_work() -> None:
    assert checked_rate_limit(None) is None
    assert checked_rate_limit("auto") == "auto"
    assert checked_rate_limit(0.5) == 0.5


# --- places -------------------------------------------------------------------------------------


def waiting(limiter: Limiter) -> int:
    return sum(len(lane._waiting) for lane in limiter._lanes.values())


def running(limiter: Limiter) -> int:
    return sum(lane._rate.running for lane in limiter._lanes.values())


def reached(condition: Any) -> None:
    """Wait for what another thread does soon."""
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came to that")


class Worker:
    """A thread that waits for its place."""

    def __init__(self, place: Place, order: list[int]) -> None:
        self.place = place
        self.scope = new_scope()
        self.stopped = False
        self._order = order
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        try:
            self.place.acquire(self.scope)
            self._order.append(self.place.number)
        except Stopped:
            self.stopped = True


def test_first_come_first_served_and_a_retry_is_as_old_as_its_call() -> None:
    limiter = Limiter(1e6, 1, SYSTEM_CLOCK)
    places = [limiter.place("m", free) for _ in range(6)]
    order: list[int] = []
    places[0].acquire(new_scope())
    workers = []
    for place in (places[5], places[3], places[1], places[4]):
        workers.append(Worker(place, order))
        reached(lambda: waiting(limiter) == len(workers))
    places[0].release()
    reached(lambda: order == [1])
    workers.append(Worker(places[0], order))  # its retry
    reached(lambda: waiting(limiter) == 4)
    while len(order) < 5:
        served = [*order]
        places[order[-1]].release()
        reached(partial(served.__ne__, order))
    assert order == [1, 0, 3, 4, 5]
    for worker in workers:
        worker.place.release()
        worker.thread.join()
    assert running(limiter) == waiting(limiter) == 0


def test_a_call_that_is_refused_again_and_again_lets_the_others_go_first() -> None:
    """It may be the only one, and while the service refuses, one call at a time is made: the
    others would wait until it has failed."""
    limiter = Limiter("auto", 1, SYSTEM_CLOCK)
    first, second = (limiter.place("m", free) for _ in range(2))
    refused = RateLimitError("no", status=429)
    for times in range(3):
        assert first.number < second.number, times
        first.acquire(new_scope())
        assert first.failed(refused)
    assert first.number > second.number


def test_a_cancelled_call_leaves_the_queue_at_once() -> None:
    limiter = Limiter(1e6, 1, SYSTEM_CLOCK)
    order: list[int] = []
    first, second, third = (limiter.place("m", free) for _ in range(3))
    first.acquire(new_scope())
    workers = [Worker(second, order), Worker(third, order)]
    reached(lambda: waiting(limiter) == 2)
    workers[0].scope.stop(StopReason(cancelled=True))
    workers[0].thread.join(5.0)
    assert workers[0].stopped
    first.release()
    workers[1].thread.join(5.0)
    assert order == [2]
    third.release()
    assert running(limiter) == waiting(limiter) == 0


def test_a_wait_for_the_rate_ends_with_a_cancel() -> None:
    limiter = Limiter(0.001, 8, SYSTEM_CLOCK)  # the second request in 60,000 seconds
    order: list[int] = []
    limiter.place("m", free).acquire(new_scope())
    worker = Worker(limiter.place("m", free), order)
    reached(lambda: waiting(limiter) == 1)
    worker.scope.stop(StopReason(cancelled=True))
    worker.thread.join(5.0)
    assert worker.stopped


class Scope:
    """Notes that it was woken. Nobody sleeps."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


class Hand:
    """A clock that is set by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(1000), marks=pytest.mark.slow)])
@pytest.mark.parametrize("limit", ["auto", 1200.0])
def test_random_schedules(limit: float | str, seeds: range) -> None:
    """After each step nobody waits who may start, in the order of the calls; the
    first one that waits looks again when it may start, and was woken where that is earlier than it
    thought; in the end every place is free."""
    for seed in seeds:
        _play(limit, random.Random(seed))


def _play(limit: float | str, rnd: random.Random) -> None:
    clock: Any = Hand()
    most = rnd.choice([1, 3, 16])
    lane = _Lane(limit, most, clock)
    hold = [0.0]
    numbers = itertools.count()
    places: list[Any] = [
        Place(lane, numbers, lambda now: max(0.0, hold[0] - now), is_adaptive=limit == "auto")
        for _ in range(rnd.choice([2, 8, 40]))
    ]
    seen: dict[int, tuple[Scope, int]] = {}  # how often each was woken when it last looked
    for _ in range(rnd.randrange(20, 120)):
        clock.now += rnd.choice([0.0, 0.01, 0.3, 4.0]) * rnd.random()
        _step(lane, rnd.choice(places), hold, rnd)
        for place in [*lane._waiting]:  # who is due, or was woken, looks again
            woken = place.scope, place.scope.woken
            if place.wakes_at <= clock.now or seen.get(place.number) != woken:
                lane.do(lane.advance)
                seen[place.number] = place.scope, place.scope.woken
        if lane._waiting:
            wait = max(lane._rate.wait(clock.now), hold[0] - clock.now)
            first = lane._waiting[0]
            assert wait > 0.0
            if limit == "auto":  # a pace that has grown meanwhile makes the wait shorter
                assert first.wakes_at < float("inf") or wait == float("inf")
            else:
                assert first.wakes_at <= clock.now + wait + 1e-6
            assert [p.number for p in lane._waiting] == sorted(p.number for p in lane._waiting)
        granted = [p for p in places if p.granted is not None]
        assert lane._rate.running == len(granted) <= most
    for place in places:
        place.release()
    assert lane._rate.running == len(lane._waiting) == len(lane._actions) == 0


def _step(lane: _Lane, place: Any, hold: list[float], rnd: random.Random) -> None:
    what = rnd.random()
    if place.granted is None and place not in lane._waiting:
        place.scope = Scope()
        lane.do(lambda: lane.join(place))
        lane.do(lambda: lane.join(place))  # an interrupt may have it done twice
    elif place.granted is not None and what < 0.5:
        if what < 0.2:
            place.accepted({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"})
        elif what < 0.4:
            lane.do(lambda: lane.throttled(place.granted, rnd.choice([0.0, 0.0, 3.0])))
        if what < 0.1:
            hold[0] = lane.clock.monotonic() + 2.0
        place.release()
    elif what > 0.8:
        place.release()  # cancelled
        place.release()


def test_an_action_in_the_middle_of_an_action_is_done_after_it() -> None:
    """As of a finalizer that frees a dropped call."""
    lane = _Lane(600.0, 1, SYSTEM_CLOCK)
    done: list[str] = []

    def outer() -> None:
        lane.do(lambda: done.append("inner"))
        done.append("outer")

    lane.do(outer)
    assert done == ["outer", "inner"]


def test_an_interrupted_action_is_done_again() -> None:
    lane = _Lane(600.0, 1, SYSTEM_CLOCK)
    tries: list[int] = []

    def interrupted() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lane.do(interrupted)
    lane.do(lambda: tries.append(2))
    assert tries == [1, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_begins_with_free_places() -> None:
    limiter = Limiter(600.0, 1, SYSTEM_CLOCK)
    limiter.place("m", free).acquire(new_scope())
    child = os.fork()
    if child == 0:
        place = limiter.place("m", free)
        scope = CancelScope(Timers(Timeouts(), 0.0), SYSTEM_CLOCK, shared_watchdog())
        threading.Timer(20.0, os._exit, (1,)).start()
        place.acquire(scope)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- calls --------------------------------------------------------------------------------------


def test_a_call_that_fails_in_the_callers_hands_gives_its_place_back(server: LLMServer) -> None:
    client = client_of(server)
    limiter = Limiter("auto", 1, SYSTEM_CLOCK)

    def half() -> None:
        for _ in limited(client, limiter):
            raise ValueError("the caller's own")

    for _ in range(3):
        with pytest.raises(ValueError, match="own"):
            half()
        assert running(limiter) == 0
    stream = limited(client, limiter)
    next(stream)
    assert running(limiter) == 1
    stream.close()
    assert running(limiter) == 0
    assert limited(client, limiter).result().text == "Hello, world!"
    assert running(limiter) == 0
    client.close()


def test_a_call_begins_when_it_has_its_place(server: LLMServer) -> None:
    """The wait in the queue of a batch is no part of the call, whose hard deadline starts later."""
    clock = FakeClock()
    client = client_of(server, clock=clock)
    limiter = Limiter("auto", 1, clock)
    place = limiter.place("gpt-5.4-mini", free)
    place.acquire(new_scope())
    stream = limited(client, limiter, timeouts=Timeouts(total=5.0))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(stream.result()))
    thread.start()
    reached(lambda: waiting(limiter) == 1)
    clock.advance(60.0)
    place.release()
    thread.join(10.0)
    assert found[0].text == "Hello, world!"
    client.close()


def test_a_cancel_ends_the_wait_for_a_place(server: LLMServer) -> None:
    client = client_of(server)
    limiter = Limiter("auto", 1, SYSTEM_CLOCK)
    place = limiter.place("gpt-5.4-mini", free)
    place.acquire(new_scope())
    stream = limited(client, limiter)
    found: list[BaseException] = []

    def read() -> None:
        try:
            stream.result()
        except Cancelled as exc:
            found.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    reached(lambda: waiting(limiter) == 1)
    stream.cancel("enough")
    thread.join(5.0)
    assert "before it began" in str(found[0])
    assert waiting(limiter) == 0
    assert server.requests == []
    client.close()


OVERLOADED = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
)
REFUSALS = {
    "429": (Reply.error(429), RateLimitError),
    "503": (Reply.error(503), OverloadedError),
    "529": (Reply.error(529), OverloadedError),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_costs_a_wait_and_no_attempt(server: LLMServer, status: str) -> None:
    """Where the limit is searched for. Ten refusals in a row, with four attempts; nothing of the
    budget is spent, which many calls share."""
    reply, error = REFUSALS[status]
    client = client_of(server, clock=FakeClock())
    server.script(*[reply] * 10)
    result = limited(client, Limiter("auto", 8, client._clock)).result()
    assert len(result.attempts) == 11
    assert client._endpoint.budget.tokens == CAPACITY
    # With a rate that is given it costs an attempt.
    server.script(*[reply] * 4)
    with pytest.raises(error):
        limited(client, Limiter(600.0, 8, client._clock)).result()
    client.close()


def test_a_service_that_refuses_everything_is_not_asked_for_ever(server: LLMServer) -> None:
    """After a minute and a half a refusal is a failed attempt like any other."""
    clock = FakeClock()
    client = client_of(server, clock=clock, retry=RetryPolicy())
    server.default = Reply.error(503)
    begun = clock.monotonic()
    with pytest.raises(OverloadedError):
        limited(client, Limiter("auto", 8, clock)).result()
    assert 90.0 <= clock.monotonic() - begun <= 150.0
    client.close()


def test_refusals_inside_a_success_are_not_retried_for_ever(server: LLMServer) -> None:
    """The head of a response says 200, and its first event that the service is overloaded."""
    clock = FakeClock()
    client = client_of(server, clock=clock, retry=RetryPolicy())
    server.default = Reply([OVERLOADED])
    begun = clock.monotonic()
    with pytest.raises(OverloadedError):
        limited(client, Limiter("auto", 8, clock)).result()
    assert 90.0 <= clock.monotonic() - begun <= 600.0
    client.close()


def test_a_call_that_alone_is_refused_is_not_retried_for_ever(server: LLMServer) -> None:
    """The service answers others all the time: this prompt is too long for its limit, say."""
    clock = FakeClock()
    client = client_of(server, clock=clock, retry=RetryPolicy())
    limiter = Limiter("auto", 8, clock)
    asked: list[Recorded] = []

    def answer(request: Recorded) -> Answer | Reply:
        asked.append(request)
        if request.json()["input"] == "good":
            return Answer("ok")
        if len(asked) > 1000:
            return Reply.error(400)  # or this test would not end
        assert limited(client, limiter, "good").result().text == "ok"
        return Reply.error(429)

    server.default = answer
    begun = clock.monotonic()
    with pytest.raises(RateLimitError):
        limited(client, limiter, "bad").result()
    assert 90.0 <= clock.monotonic() - begun <= 600.0
    client.close()


def test_no_retry_is_no_retry(server: LLMServer) -> None:
    client = client_of(server, retry=RetryPolicy(max_attempts=1))
    server.script(Reply.error(429))
    with pytest.raises(RateLimitError):
        limited(client, Limiter("auto", 8, SYSTEM_CLOCK)).result()
    assert len(server.requests) == 1
    client.close()


def test_a_used_up_quota_is_final(server: LLMServer) -> None:
    client = client_of(server)
    limiter = Limiter("auto", 8, SYSTEM_CLOCK)
    server.script(Reply.error(429, code="insufficient_quota"))
    with pytest.raises(QuotaExceededError):
        limited(client, limiter).result()
    assert len(server.requests) == 1
    assert running(limiter) == 0
    client.close()


USED_UP = {
    "OpenAI": {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7.66s"},
    "tokens": {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0m7.66s"},
    "Azure": {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-renewalperiod-requests": "7.66",
    },
    "integers": {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8"},
    "OpenRouter": {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000007660"},
    "Unix": {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000008"},
    "Anthropic": {
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:08Z",
    },
}


@pytest.mark.parametrize("limit", ["auto", 6000.0])
@pytest.mark.parametrize("service", USED_UP)
def test_a_limit_that_is_used_up_only_delays(
    server: LLMServer, service: str, limit: float | str
) -> None:
    """What a success says of what remains, in the words of every vendor."""
    clock = FakeClock()
    client = client_of(server, clock=clock)
    limiter = Limiter(limit, 8, clock)
    server.script(Reply(Answer("one"), headers=USED_UP[service]), Answer("two"))
    limited(client, limiter).result()
    answered = clock.monotonic()
    assert limited(client, limiter).result().text == "two"
    assert 7.6 <= clock.monotonic() - answered <= 8.1
    client.close()


def test_a_reset_that_is_far_away_is_asked_about_after_a_minute(server: LLMServer) -> None:
    """Nothing is refused here: the service decides."""
    clock = FakeClock()
    client = client_of(server, clock=clock)
    limiter = Limiter("auto", 8, clock)
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20h0m0s"}
    server.script(Reply(Answer("one"), headers=used_up), Answer("two"))
    limited(client, limiter).result()
    begun = clock.monotonic()
    assert limited(client, limiter).result().text == "two"
    assert clock.monotonic() - begun == pytest.approx(60.0, abs=0.1)
    client.close()


def test_a_wait_that_the_service_asks_for_holds_its_model(server: LLMServer) -> None:
    """All calls of the model, in the queue too, and none of another model."""
    clock = FakeClock()
    client = client_of(server, clock=clock, retry=RetryPolicy(max_attempts=1))
    limiter = Limiter("auto", 8, clock)
    server.script(Reply.error(429, headers={"retry-after": "20"}))
    with pytest.raises(RateLimitError):
        limited(client, limiter, model="slow").result()
    begun = clock.monotonic()
    limited(client, limiter, model="other").result()
    assert clock.monotonic() - begun < 1.0
    limited(client, limiter, model="slow").result()
    assert clock.monotonic() - begun >= 19.9
    client.close()


def test_a_given_rate_holds_over_all_requests(server: LLMServer) -> None:
    """Retries too."""
    clock = FakeClock()
    client = client_of(server, clock=clock)
    limiter = Limiter(60.0, 8, clock)
    server.script(Answer("one"), Reply.error(500), Answer("two"), Answer("three"))
    begun = clock.monotonic()
    moments = []
    for _ in range(3):
        limited(client, limiter).result()
        moments.append(clock.monotonic() - begun)
    assert moments == pytest.approx([0.0, 2.0, 3.0], abs=0.05)
    client.close()
