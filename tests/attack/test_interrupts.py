"""Interrupts (Ctrl-C, a signal handler that raises, an exception that another thread sets) at every
moment of a call: no lock stays held, no stream taken, no gauge up, no socket open.

Two ways to find every moment. The sweep raises at the n-th point at which CPython looks for
interrupts, for one n after the other: where a function begins, and where a function written in C
has returned. So it goes through requests, urllib3, http.client, queue and threading too. The storm
raises at random: signals in the main thread, asynchronous exceptions in others.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import FrameType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support import PATIENCE, eventually

from llmstream import Client, LLMStreamError, RetryPolicy, Timeouts
from llmstream._call import call as calls
from llmstream._runtime.watchdog import shared_watchdog
from llmstream.telemetry import PrometheusObserver
from llmstream.telemetry.records import CallRecord
from llmstream.testing import Answer, FakeTransport, LLMServer, Reply

SEED = 20261126
APIS = ("responses", "messages", "chat", "gemini")
ANSWER = Answer("one two three")
TEXT = "one two three"
WATCHED = Timeouts(total=4.0)
_GENERATOR = 0x20 | 0x80 | 0x200  # inspect.CO_GENERATOR and its relatives

pytestmark = [
    # What an interrupt keeps from being closed is closed when its last reference goes.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.timeout(180),
]


class Interrupt(BaseException):
    """What the injected interrupts raise."""


class Ledger:
    """An observer that counts what it is told of each call."""

    def __init__(self) -> None:
        self.starts: Counter[int] = Counter()
        self.ends: Counter[int] = Counter()

    def on_start(self, call: CallRecord) -> None:
        self.starts[call.id] += 1

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.ends[call.id] += 1


class Endless(FakeTransport):
    """Always has one more answer."""

    def send(self, request: Any, scope: Any) -> Any:
        self.requests.clear()
        self.script(ANSWER)
        return super().send(request, scope)


class Attack:
    """One client under attack, and what it must look like afterwards."""

    def __init__(self, api: str, server: LLMServer | None, kind: str) -> None:
        self.api = api
        self.kind = kind
        self.ledger = Ledger()
        self.registry = CollectorRegistry()
        self.observers = [PrometheusObserver(self.registry), self.ledger]
        self.settings: dict[str, Any] = {"base_url": "http://double.test"}
        if server is not None:
            self.settings["base_url"] = server.base_url_for(api)
            if server.ca_file:
                self.settings["verify"] = server.ca_file
            server.default = self.reply
        self.server = server
        self.requests = 0
        gc.collect()
        # What other tests of the process have left is not of this client.
        self.others = [*calls._unsettled.values(), *timed()]
        self.client = self.make()

    def reply(self, request: Any) -> Any:
        self.requests += 1
        return Reply.error(500, api=self.api) if "retry" in self.kind and self.odd else ANSWER

    @property
    def odd(self) -> bool:
        return self.requests % 2 == 1

    def make(self) -> Client:
        transport = None if self.server is not None else Endless()
        return Client(
            self.api,
            api_key="test-key",
            model="test-model",
            observers=self.observers,
            timeouts=WATCHED,
            retry=RetryPolicy(max_attempts=3, base=0.0, cap=0.0, jitter=0.0),
            transport=transport,
            **self.settings,
        )

    # -- the work that is interrupted

    def work(self) -> None:
        self.client._endpoint.budget.refill(retried=True)  # what an interrupt has cost
        _WORK[self.kind](self)

    def read(self) -> None:
        with self.client.stream("x") as stream:
            for _ in stream:
                pass

    def read_all(self) -> None:
        self.client.stream("x").result()

    def close_early(self) -> None:
        stream = self.client.stream("x")
        next(stream)
        stream.close()

    def drop(self) -> None:
        stream = self.client.stream("x")
        next(stream)
        del stream

    def open_and_close(self) -> None:
        client = self.make()
        try:
            with client.stream("x") as stream:
                for _ in stream:
                    pass
        finally:
            client.close()

    # -- afterwards

    def check(self) -> None:
        """A call in another thread works in time, and nothing is left of those before."""
        outcome: list[Any] = []

        def call() -> None:
            try:
                outcome.append(self.client.stream("x").result().text)
            except LLMStreamError as exc:
                outcome.append(exc)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert outcome == [TEXT]
        eventually(lambda: not self.left(), "nothing is left")

    def left(self) -> dict[str, Any]:
        labels = {"api": self.api, "model": "other"}
        found = {
            "gauge": self.registry.get_sample_value("llm_stream_in_flight", labels),
            "not told": self.ledger.starts.keys() - self.ledger.ends.keys(),
            "calls": [one for one in calls._unsettled.copy().values() if one not in self.others],
            "clocks": [one for one in timed() if one not in self.others],
        }
        return {name: what for name, what in found.items() if what}


def timed() -> list[Any]:
    """What the watchdog schedules just now."""
    return [entry.timed for entry in shared_watchdog()._entries.copy().values() if entry.timed]


_WORK: dict[str, Callable[[Attack], None]] = {
    "read": Attack.read,
    "result": Attack.read_all,
    "retry": Attack.read,
    "close": Attack.close_early,
    "drop": Attack.drop,
    "client": Attack.open_and_close,
}


@pytest.fixture(autouse=True)
def in_finalizers(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the exceptions that end finalizers. CPython lets none of them through."""
    names: list[str] = []

    def hook(unraisable: Any) -> None:
        names.append(type(unraisable.exc_value).__name__)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    yield names
    assert set(names) <= {"Interrupt"}


@contextlib.contextmanager
def attack(api: str, kind: str, place: str) -> Iterator[Attack]:
    """`place`: "http", "tls", or "double" (no network)."""
    with contextlib.ExitStack() as stack:
        server = None
        if place != "double":
            server = stack.enter_context(LLMServer(tls=place == "tls"))
        made = Attack(api, server, kind)
        stack.callback(made.client.close)
        made.work()
        yield made
        made.check()
        gc.collect()  # what an interrupt has left in a cycle


# ---- the sweep ---------------------------------------------------------------------------------


def interrupted_at(number: int, work: Callable[[], None]) -> str:
    """Do `work`, with an interrupt at its point `number`; returns where that was, "" where `work`
    has fewer points."""
    count, where = 0, ""

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count, where
        code = frame.f_code
        # A generator that goes on has its own handlers, which raising here would pass by.
        begins = event == "call" and not code.co_flags & _GENERATOR
        if frame is own or not (begins or event == "c_return"):
            return
        count += 1
        if count == number:
            where = f"{event} {code.co_filename}:{frame.f_lineno} {getattr(arg, '__name__', '')}"
            sys.setprofile(None)
            raise Interrupt

    own, before = sys._getframe(), sys.getprofile()
    try:
        sys.setprofile(profile)
        work()
    except Interrupt:
        pass
    finally:
        sys.setprofile(before)
    return where


def sweep(under: Attack, stride: int, every: int = 1) -> int:
    """Interrupt the work at one point of `stride`, up to its last; check after `every` of them.
    Returns the number of interrupts."""
    point, done = 1 + random.Random(SEED).randrange(stride), 0
    while interrupted_at(point, under.work):
        done += 1
        point += stride
        if done % every == 0:
            under.check()
    return done


SWEEPS = [
    *((api, kind, "http") for api in APIS for kind in ("read", "retry", "close", "drop")),
    *((api, "client", "tls") for api in APIS),
    ("responses", "result", "tls"),
]


@pytest.mark.attack
@pytest.mark.parametrize(("api", "kind", "place"), SWEEPS)
def test_an_interrupt_at_each_point(api: str, kind: str, place: str) -> None:
    """One point of 11 of a whole call: more than 80 of each kind."""
    with attack(api, kind, place) as under:
        done = sweep(under, 11, every=10)
    print(f"{done} interrupts")
    assert done > 50


@pytest.mark.slow
def test_an_interrupt_at_some_points(in_finalizers: list[str]) -> None:
    """The same at one point of 40, for the default suite."""
    with attack("responses", "read", "http") as under:
        assert sweep(under, 40, every=10) > 20


# ---- the storm ---------------------------------------------------------------------------------


class Storm:
    """Sends a signal to the main thread, a random time after each call begins."""

    def __init__(self, longest: float) -> None:
        self.random = random.Random(SEED)
        self.longest = longest
        self.interrupts = 0
        self._armed = False
        self._delays: SimpleQueue[float | None] = SimpleQueue()

    def __enter__(self) -> Storm:
        self._before = signal.signal(signal.SIGUSR1, self._handle)
        self._thread = threading.Thread(target=self._send, args=(threading.get_ident(),))
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._delays.put(None)
        self._thread.join()
        signal.signal(signal.SIGUSR1, self._before)

    def _send(self, target: int) -> None:
        while (delay := self._delays.get()) is not None:
            time.sleep(delay)
            signal.pthread_kill(target, signal.SIGUSR1)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            self.interrupts += 1
            raise Interrupt

    def over(self, work: Callable[[], None]) -> None:
        """`work`, which is interrupted unless it ends before."""
        try:
            self._armed = True
            self._delays.put(self.random.random() * self.longest)
            work()
        except Interrupt:
            pass
        finally:
            self._armed = False


def storm(under: Attack, seconds: float, longest: float, least: int) -> int:
    """For so many seconds, and longer until there were so many interrupts: a busy machine makes
    fewer of them in a second."""
    with Storm(longest) as weather:
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds or (
            weather.interrupts < least and passed < PATIENCE
        ):
            weather.over(under.work)
    return weather.interrupts


@pytest.mark.attack
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("kind", "place", "longest"),
    [("read", "http", 0.003), ("retry", "tls", 0.005), ("read", "double", 0.0008)],
)
def test_signals_at_random(api: str, kind: str, place: str, longest: float) -> None:
    """A signal handler that raises, at random moments of thousands of calls."""
    with attack(api, kind, place) as under:
        done = storm(under, 1.5, longest, 101)
    print(f"{done} interrupts")
    assert done > 100


def test_some_signals_at_random() -> None:
    """The same for a moment, for the default suite."""
    with attack("chat", "read", "http") as under:
        assert storm(under, 0.4, 0.003, 11) > 10


class Target(threading.Thread):
    """Works until it is told to stop; an interrupt may end it."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.stop = False

    def run(self) -> None:
        while not self.stop:
            try:
                self.work()
            except Interrupt:
                continue


@pytest.fixture
def interrupts_may_end_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that falls between two calls does, and leaves by the hook."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs, /) -> None:
        if args.exc_type is not Interrupt:
            before(args)

    monkeypatch.setattr(threading, "excepthook", hook)


def interrupt(thread: threading.Thread) -> None:
    """Raise Interrupt in `thread`, at its next instruction that looks for it."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupt)
    )


@pytest.mark.attack
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("place", ["http", "double"])
@pytest.mark.usefixtures("interrupts_may_end_threads")
def test_asynchronous_exceptions_in_threads(api: str, place: str) -> None:
    """Three threads that share a client, with exceptions from a fourth one."""
    chance, done = random.Random(SEED), 0
    with attack(api, "read", place) as under:
        targets = [Target(under.work) for _ in range(3)]
        for target in targets:
            target.start()
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < 2.0 or (done <= 50 and passed < PATIENCE):
            time.sleep(chance.random() * 0.001)
            index = chance.randrange(len(targets))
            if not targets[index].is_alive():
                targets[index] = Target(under.work)
                targets[index].start()
            interrupt(targets[index])
            done += 1
        for target in targets:
            target.stop = True
        for target in targets:
            target.join(PATIENCE)
            assert not target.is_alive()
    print(f"{done} interrupts")
    assert done > 50
