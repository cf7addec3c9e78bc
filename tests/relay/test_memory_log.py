"""MemoryLog: its bound, forks, and publications that cannot begin; interrupts at any line."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import threading
from types import FrameType
from typing import Any

import pytest
from log_tools import PROTOCOL, Browser, Scripted, errors_in, is_whole, text_in
from support import PATIENCE, eventually, run_traced

from llmstream import ConfigurationError, relay
from llmstream.relay.log import publishing
from llmstream.relay.log.base import FULL, STOPPED

pytestmark = pytest.mark.usefixtures("nothing_left")


def publish(log: Any, stream: Any, id: str = "a", **settings: Any) -> relay.Publication:
    return relay.publish(log, id, stream, PROTOCOL, **{"interval": 0.0, **settings})


def whole(log: Any, id: str = "a", last: str | None = None) -> list[Any]:
    return Browser(relay.follow(log, id, last)).ended()


# ---- its bound ---------------------------------------------------------------------------------


def test_the_oldest_answers_that_nobody_reads_are_forgotten() -> None:
    log = relay.MemoryLog(max_bytes=400_000)
    for number in range(10):
        publish(log, Scripted("x" * 90_000, finishes=True), str(number)).wait(PATIENCE)
    known = [number for number in range(10) if relay.follow(log, str(number))]
    assert known == [6, 7, 8, 9]
    assert text_in(whole(log, "9")) == "x" * 90_000


def test_an_answer_that_somebody_reads_is_kept() -> None:
    log = relay.MemoryLog(max_bytes=400_000)
    publish(log, Scripted("x" * 90_000, finishes=True), "read").wait(PATIENCE)
    body = relay.follow(log, "read")
    for number in range(10):
        publish(log, Scripted("x" * 90_000, finishes=True), str(number)).wait(PATIENCE)
    assert text_in(whole(log, "read")) == "x" * 90_000
    body.close()


def test_a_log_that_is_full_refuses_and_says_so() -> None:
    log = relay.MemoryLog(max_bytes=300_000)
    streams = [Scripted("x" * 140_000), Scripted("x" * 140_000)]
    for number, stream in enumerate(streams):
        publish(log, stream, str(number))
    readers = [Browser(relay.follow(log, str(number))) for number in range(2)]
    for reader in readers:
        reader.reads("x" * 140_000)
    streams[0].say("y" * 140_000)  # there is no room for it
    assert errors_in(readers[0].ended()) == [FULL]
    assert "max_bytes" in str(streams[0].cancelled[0])
    streams[1].say("y" * 100_000)  # for this there is, once the first is forgotten
    readers[1].reads("y" * 100_000)
    refused = Scripted()

    def more() -> None:
        nonlocal refused
        for number in range(100):
            refused = Scripted("z" * 2000)
            publish(log, refused, f"more-{number}")

    with pytest.raises(relay.LogError, match="max_bytes") as caught:
        more()
    assert caught.value.shown == FULL
    assert refused.closed.is_set()
    assert not refused.sent.is_set()
    log.close()
    readers[1].ended()


def test_a_look_that_comes_late_does_not_say_that_a_reader_left_earlier() -> None:
    """The watchdog's thread may stand still between the time that it is given and its look."""
    log, stream = relay.MemoryLog(), Scripted()
    publish(log, stream, unattended=60.0)
    body = relay.follow(log, "a")
    answer = log._answers["a"]
    answer.left += 10.0
    left = answer.left
    assert answer.tick(left - 5.0) == left + 60.0
    assert answer.tick(left + 5.0) == left + 65.0
    body.close()
    stream.finish()


# ---- processes and threads ---------------------------------------------------------------------


def test_in_a_forked_child_the_parents_answers_end() -> None:
    """What they had is there; the child may publish its own; the parent notices nothing."""
    log, stream = relay.MemoryLog(), Scripted("one")
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    publish(log, Scripted("done", finishes=True), "done").wait(PATIENCE)
    half_read = relay.follow(log, "a")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = [
                errors_in(Browser(half_read).ended()),
                errors_in(whole(log)),
                text_in(whole(log)),
                relay.stop(log, "a"),
                text_in(whole(log, "done")),
                bool(publish(log, Scripted("two", finishes=True), "b")),
                text_in(whole(log, "b")),
                log.close(),
            ]
            os.write(writing, json.dumps(found).encode())
        except BaseException as exc:
            os.write(writing, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    told = [STOPPED]
    assert json.loads(found) == [told, told, "one", False, "done", True, "two", None]
    stream.say(" two")
    stream.finish()
    events = browser.ended()
    assert text_in(events) == "one two"
    assert is_whole(events)
    assert not relay.follow(log, "b")
    half_read.close()


def test_an_id_is_free_again_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    log, stream = relay.MemoryLog(), Scripted()

    def refuse(*args: Any) -> None:
        raise ConfigurationError("the system starts no further thread")

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "spawn", refuse)
        with pytest.raises(ConfigurationError, match="no further thread"):
            publish(log, stream)
    assert stream.closed.is_set()
    assert not relay.follow(log, "a")
    assert publish(log, Scripted("one", finishes=True))
    assert text_in(whole(log)) == "one"


@pytest.mark.slow
def test_a_log_that_is_dropped_ends_its_answers() -> None:
    log, stream = relay.MemoryLog(), Scripted("one")
    publication = publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    del log
    gc.collect()
    assert publication.wait(PATIENCE)
    assert errors_in(browser.ended()) == [STOPPED]


def test_an_exception_that_is_not_ours_ends_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the thread's, and the readers are told."""
    log, stream = relay.MemoryLog(), Scripted("one")
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_value))

    def fails(self: Any, parts: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(publishing._Producer, "_store", fails)
    publication = publish(log, stream)
    assert publication.wait(PATIENCE)
    assert errors_in(whole(log)) == [STOPPED]
    assert stream.cancelled
    assert isinstance(seen[0], ZeroDivisionError)


# ---- interrupts --------------------------------------------------------------------------------

PLACES = ("/llmstream/relay/log/", "/llmstream/relay/pump", "/llmstream/_runtime/threads")


def work(log: Any, streams: list[Scripted], seen: list[Any]) -> None:
    """What a view does."""
    stream = Scripted("one", " two", finishes=True)
    streams.append(stream)
    relay.publish(log, "a", stream, PROTOCOL, interval=0.0)
    body = relay.follow(log, "a", heartbeat=5.0)
    try:
        for piece in body:
            seen.append(piece)
    finally:
        body.close()


def interrupt_at(line: int) -> Any:
    """A trace function that interrupts the main thread there."""
    count = 0

    def trace(frame: FrameType, what: str, arg: object) -> Any:
        nonlocal count
        if not any(place in frame.f_code.co_filename for place in PLACES):
            return None
        if what == "line":
            count += 1
            if count == line:
                raise KeyboardInterrupt
        return trace

    trace.reached = lambda: count >= line  # type: ignore[attr-defined]
    return trace


@pytest.mark.attack
def test_an_interrupt_at_any_line_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at each line in turn: what was published ends, and everybody may read that; an id that
    was not published is free; no thread is left, and no reader."""
    # An interrupt in a finalizer goes no further. (pytest would keep it, and its frames.)
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    line = 0
    while True:
        line += 2
        log, streams, seen = relay.MemoryLog(), [], []  # type: ignore[var-annotated]
        trace = interrupt_at(line)
        with contextlib.suppress(KeyboardInterrupt):
            run_traced(lambda log=log, s=streams, d=seen: work(log, s, d), trace)
        gc.collect()
        if not trace.reached():
            break
        for answer in log._answers.values():
            eventually(lambda a=answer: not a.seats, f"nobody reads after line {line}")
        body = relay.follow(log, "a")
        if body:
            events = Browser(body).ended(10)
            assert is_whole(events) or errors_in(events), f"at line {line}"
        else:
            again = publish(log, Scripted("again", finishes=True))
            assert again, f"at line {line}"
            assert text_in(whole(log)) == "again"
        for stream in streams:
            if stream.sent.is_set():
                stream.finish()
        log.close()
        eventually(
            lambda: not [t for t in threading.enumerate() if t.name == "llmstream-publish"],
            f"the thread of line {line} has ended",
        )
    assert line > 100
