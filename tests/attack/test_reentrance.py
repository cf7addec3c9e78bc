"""Calls that are made in odd places: in a signal handler, in an observer, in a finalizer, while the
interpreter ends. They work, or fail with an error of the library; they never hang."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support import PATIENCE, PROMPT, output_of

from llmstream import Client, ConfigurationError, Timeouts
from llmstream.telemetry import PrometheusObserver
from llmstream.telemetry.records import CallRecord
from llmstream.testing import Answer, LLMServer

APIS = ("responses", "messages", "chat", "gemini")
TEXT = "one two three"
HOOKS = ("on_start", "on_phase", "on_first_token", "on_tokens", "on_attempt", "on_end")

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("nothing_left")]


def made(api: str, server: LLMServer, *observers: Any) -> Client:
    server.default = Answer(TEXT)
    return Client(
        api,
        base_url=server.base_url_for(api),
        api_key="test-key",
        model="m",
        observers=observers,
        timeouts=Timeouts(total=PATIENCE),
    )


def in_flight(registry: CollectorRegistry, api: str) -> float | None:
    return registry.get_sample_value("llm_stream_in_flight", {"api": api, "model": "other"})


# ---- signal handlers ---------------------------------------------------------------------------


def handled(api: str, server: LLMServer, seconds: float, least: int) -> int:
    """Calls whose signal handler makes a call, again and again; how many of those there were. For
    so many seconds, and longer until there were `least`."""
    registry = CollectorRegistry()
    client = made(api, server, PrometheusObserver(registry))
    main, over, inside, count = threading.get_ident(), threading.Event(), False, 0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal inside, count
        if not inside:
            inside = True
            assert client.stream("handler").result().text == TEXT
            count += 1
            inside = False

    def send() -> None:
        while not over.wait(0.0017):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds or (
            count < least and passed < PATIENCE
        ):
            assert client.stream("x").result().text == TEXT
            list(registry.collect())
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert in_flight(registry, api) == 0
    client.close()
    return count


def test_a_signal_handler_makes_calls(server: LLMServer) -> None:
    """At any moment of another call, also while metrics are written or collected."""
    assert handled("responses", server, 0.5, 6) > 5


@pytest.mark.attack
@pytest.mark.parametrize("api", APIS)
def test_a_signal_handler_makes_hundreds_of_calls(server: LLMServer, api: str) -> None:
    """The same for some seconds."""
    count = handled(api, server, 4.0, 51)
    print(f"{count} calls in handlers")
    assert count > 50


def test_a_handler_does_not_read_the_stream_that_it_interrupts(server: LLMServer) -> None:
    """It has a reader, which is this thread: ConfigurationError, and the stream goes on."""
    client = made("chat", server)
    refused: list[BaseException] = []

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            stream.result()
        except ConfigurationError as exc:
            refused.append(exc)

    class Signalling:
        def on_start(self, call: CallRecord) -> None:
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        client = made("chat", server, Signalling())
        stream = client.stream("x")
        assert stream.result().text == TEXT
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 1
    client.close()


# ---- observers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_an_observer_makes_a_call(server: LLMServer, hook: str) -> None:
    """In each of its methods, on its own client: the call works. It is told to the observers once
    the method has returned, so no observer is entered while it runs."""
    registry = CollectorRegistry()
    texts: list[str] = []
    running: list[str] = []

    class Caller:
        def __getattr__(self, name: str) -> Callable[..., None]:
            if name not in HOOKS:
                raise AttributeError(name)
            return lambda *what: self.told(name)

        def told(self, name: str) -> None:
            assert running == []
            running.append(name)
            if name == hook and not texts:
                texts.append("")
                texts.append(client.stream(PROMPT).result().text)
            running.pop()

    client = made("responses", server, PrometheusObserver(registry), Caller())
    assert client.stream(PROMPT).result().text == TEXT
    assert texts == ["", TEXT]
    assert in_flight(registry, "responses") == 0
    total = {"api": "responses", "model": "other", "outcome": "success"}
    assert registry.get_sample_value("llm_stream_total_duration_ms_count", total) == 2
    client.close()


# ---- finalizers --------------------------------------------------------------------------------


def test_a_finalizer_makes_a_call(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`__del__`, also out of the garbage collector, and the callback of a weak reference."""
    client = made("messages", server)
    texts: list[str] = []
    failed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)

    class Caller:
        def __del__(self) -> None:
            texts.append(client.stream(PROMPT).result().text)

    class Plain:
        itself: Any = None

    Caller()
    plain: Any = Plain()
    plain.itself, plain.caller = plain, Caller()
    reference = weakref.ref(plain, lambda _: texts.append(client.stream(PROMPT).result().text))
    del plain
    gc.collect()
    assert reference() is None
    assert (texts, failed) == ([TEXT] * 3, [])
    client.close()


END = """
    import atexit, sys, threading
    from llmstream import Client, LLMStreamError, Timeouts

    client = Client("chat", base_url=sys.argv[1], api_key="k", model="m",
                    timeouts=Timeouts(total=5, connect=2))

    def call(where, write=sys.stdout.write, ours=LLMStreamError):
        try:
            write(f"{where}: {client.stream('x').result().text}\\n")
        except ours as exc:
            write(f"{where}: {type(exc).__name__}\\n")
        sys.stdout.flush()

    class Last:
        def __init__(self, where): self.where = where
        def __del__(self): call(self.where)

    if "first" in sys.argv: call("before")
    atexit.register(call, "atexit")
    last = Last("module")
    sys.last = Last("sys")
    cycle = [Last("cycle")]
    cycle.append(cycle)
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["first", "none before"])
def test_calls_while_the_interpreter_ends(server: LLMServer, first: str) -> None:
    """In an exit function, and in finalizers of what modules still hold: a text, or an error of the
    library; and the program ends."""
    server.default = Answer(TEXT)
    begun = time.monotonic()
    lines = output_of(END, server.base_url_for("chat"), first).splitlines()
    assert time.monotonic() - begun < PATIENCE
    print(lines)
    assert f"atexit: {TEXT}" in lines or "atexit: ConfigurationError" in lines
    for line in lines:
        where, _, what = line.partition(": ")
        assert where in ("before", "atexit", "module", "sys", "cycle"), line
        assert what in (TEXT, "ConfigurationError", "Cancelled"), line
