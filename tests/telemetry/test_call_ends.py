"""How the end of a call is reported: in every phase, by every way to end it, and only once."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from every import every
from support import (
    BLOCKS,
    ONCE,
    PATIENCE,
    PROMPT,
    TWO_TOKENS,
    Reading,
    clocks,
    eventually,
    failure,
    other_threads,
    output_of,
    phase_of,
)
from told import THREE, TRACE, Told, make

from llmstream import Cancelled, Client, DeadlineExceeded, RetryPolicy, Stream
from llmstream._runtime.watchdog import shared_watchdog
from llmstream.telemetry.records import CallRecord
from llmstream.testing import Answer, FakeClock, LLMServer, Pause, Pings, Reply, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_what_never_began_is_not_reported() -> None:
    """Cancelled, closed, dropped, or its client closed before the first use: not one moment."""
    client, _, told = make(THREE)
    stream = client.stream(PROMPT)
    stream.cancel("changed my mind")
    assert type(failure(stream, Stream.result)) is Cancelled
    client.stream(PROMPT).close()
    client.stream(PROMPT)
    left = client.stream(PROMPT)
    client.close()
    assert type(failure(left, Stream.result)) is Cancelled
    assert told.moments == []


def in_phase(wanted: str, do: Callable[[], None]) -> Told:
    class In(Told):
        def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
            super().on_phase(call, phase, at_ms)
            if phase == wanted:
                do()

    return In()


# how it is ended -> the reason that is told
ENDED = {"cancel": "enough", "client": "the client was closed", "deadline": None}

PHASES: dict[str, list[Any]] = {
    "connect": [THREE],
    "send": [THREE],
    "headers": [THREE],
    "first_token": [THREE],
    "body": [THREE],
    "backoff": [Reply.error(500), THREE],
    "throttled": [Reply.error(429, headers={"retry-after": "4"}), THREE],
}


@every(
    ("way", "phase"),
    # with the double of time, no wait is there to be ended by the deadline in "connect"
    [(way, phase) for way in ENDED for phase in PHASES if (way, phase) != ("deadline", "connect")],
)
def test_the_phase_of_the_end(phase: str, way: str) -> None:
    """Cancelled, its client closed, or past its deadline in each phase: the call's record has that
    phase, as does the error's message, and each attempt is reported once."""
    clock = FakeClock(start=0.0)
    held: list[Stream] = []

    def end() -> None:
        if way == "cancel":
            held[0].cancel("enough")
        elif way == "client":
            client.close()
        else:
            clock.advance(100.0)

    told = in_phase(phase, end)
    client, _, _ = make(*PHASES[phase], observer=told, clock=clock)
    if phase == "throttled":
        failure(client.stream(PROMPT, retry=ONCE), Stream.result)
    held.append(client.stream(PROMPT, timeouts=clocks(900.0, total=50.0)))
    error = failure(held[0], Stream.result)
    last = told.ends[-1]
    assert type(error) is (DeadlineExceeded if way == "deadline" else Cancelled)
    assert ("before it began" if phase == "throttled" else f"in phase {phase!r}") in str(error)
    assert last.phase == phase
    assert last.outcome == ("error" if way == "deadline" else "cancelled")
    assert last.error_type == type(error).__name__
    assert last.reason == ENDED[way]
    assert told.names[-1] == "end"
    assert len(last.attempts) == len(error.attempts)
    assert len(last.attempts) == {"backoff": 1, "throttled": 0}.get(phase, 1)
    if phase in ("backoff", "throttled"):
        assert last.status is None  # what it ended in was no answer
    assert told.all("content")[-1][1].text == error.partial.text


@pytest.mark.parametrize("phase", ["tls", "headers", "first_token", "body", "backoff"])
def test_a_cancel_from_another_thread_is_reported_by_the_reader(
    client_for: Callable[..., Client], phase: str
) -> None:
    """Over a real connection: one end, in the reader's thread, with phase, reason and what
    arrived."""
    steps = {
        "headers": Reply(before=[Silence()]),
        "first_token": Reply([Pings(0.02)]),
        "body": Reply([*TWO_TOKENS, Silence()]),
        "backoff": Reply.error(500),
    }
    told = Told()
    with LLMServer(tls=phase == "tls", handshake=phase != "tls") as server:
        if phase != "tls":
            server.default = steps[phase]
        client = client_for(
            server, observers=[told], retry=RetryPolicy(base=60.0, cap=60.0), timeouts=clocks()
        )
        stream = client.stream(PROMPT)
        reading = Reading(stream)
        eventually(lambda: phase_of(stream) == phase, f"the stream is in phase {phase!r}")
        if phase == "body":
            eventually(lambda: stream.text == "one two", "two tokens have come")
        stream.cancel("no longer wanted")
        assert type(reading.ended()) is Cancelled
        end = told.end
        assert (end.outcome, end.phase, end.reason) == ("cancelled", phase, "no longer wanted")
        assert (end.error_type, end.error_code) == ("Cancelled", None)
        assert end.chunks == (2 if phase == "body" else 0)
        assert told.threads["end"] == reading.name
        assert len(told.attempts) == 1
        stream.cancel()
        stream.close()
        client.close()
        assert len(told.ends) == 1


def test_leaving_early_is_reported() -> None:
    """Leaving the block before the end is a cancel, with its reason; after it, nothing."""
    client, _, told = make(Reply([*TWO_TOKENS, Pause(1.0), *BLOCKS[6:]]), THREE)
    with client.stream(PROMPT) as stream:
        assert next(stream) == "one"
    end = told.end
    assert (end.outcome, end.phase, end.reason) == ("cancelled", "body", "closed before the end")
    assert end.chunks == 1
    with client.stream(PROMPT) as stream:
        stream.result()
    assert [one.outcome for one in told.ends] == ["cancelled", "success"]


def test_a_dropped_stream_is_reported_by_another_thread(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Not in the finalizer, which may run anywhere: in a thread of its own, which then ends."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    told = Told()
    client = client_for(server, observers=[told])
    before = other_threads()
    stream = client.stream(PROMPT)
    next(stream)
    del stream
    eventually(lambda: told.ends, "the end is told")
    assert told.threads["end"] == told.threads["attempt"] == "llmstream-deferred"
    assert told.end.reason == "closed before the end"
    assert told.names[-3:] == ["attempt", "content", "end"]
    eventually(
        lambda: not [t for t in other_threads() - before if "llmstream-deferred" in t.name],
        "its thread has ended",
    )


def test_a_stream_in_a_garbage_cycle_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The collector frees it while an observer's lock is held by this very thread: no deadlock,
    and it is reported afterwards."""
    lock = threading.Lock()

    class Locking(Told):
        def on_end(self, call: CallRecord, end: CallRecord) -> None:
            with lock:
                super().on_end(call, end)

    client, _, told = make(THREE, observer=Locking())
    caplog.set_level(logging.INFO, logger="llmstream")
    cycle: list[Any] = [client.stream(PROMPT, trace_id="cycle")]
    next(cycle[0])
    cycle.append(cycle)
    with lock:
        del cycle
        gc.collect()
        assert told.ends == []
    eventually(lambda: told.ends, "the end is told")
    assert told.end.outcome == "cancelled"
    eventually(lambda: caplog.messages, "the log has it")
    assert caplog.messages[0].startswith("call ended: trace_id=cycle outcome=cancelled")


def test_where_no_thread_can_be_had_the_watchdog_lives(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropped stream whose end cannot be reported, since the system gives no thread, harms no
    other stream's clocks: the watchdog goes on."""
    real, refused = threading.Thread.start, threading.Event()

    def start(self: threading.Thread) -> None:
        if self.name == "llmstream-deferred":
            refused.set()
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    hooks: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", hooks.append)
    server.default = Reply([b"".join(TWO_TOKENS), Silence()])  # no gap that could be too long
    client = client_for(server, timeouts=clocks(idle=0.3), observers=[Told()])
    waiting = Reading(client.stream(PROMPT))
    eventually(lambda: waiting.stream.text == "one two", "another stream waits")
    dropped = client.stream(PROMPT)
    next(dropped)
    watchdog = shared_watchdog()
    del dropped
    assert refused.wait(PATIENCE)
    error = waiting.ended()
    assert type(error).__name__ == "IdleTimeout"
    assert hooks == []
    assert watchdog._running.locked()


class Interrupting(FakeClock):
    """Ctrl-C is pressed while the library waits."""

    def advance(self, seconds: float) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("replies", "phase", "attempts"),
    [
        ([Reply(THREE, delay=1.0)], "headers", 1),
        ([Reply([*TWO_TOKENS, Pause(1.0)])], "body", 1),
        ([Reply.error(500), THREE], "backoff", 1),
    ],
    ids=["headers", "body", "backoff"],
)
def test_ctrl_c_is_reported(replies: list[Any], phase: str, attempts: int) -> None:
    """KeyboardInterrupt goes through to the caller; the observers learn that the call was
    interrupted, and where."""
    client, _, told = make(*replies, clock=Interrupting(start=0.0))
    stream = client.stream(PROMPT)
    with pytest.raises(KeyboardInterrupt):
        stream.result()
    end = told.end
    assert (end.outcome, end.reason, end.phase) == ("cancelled", "interrupted", phase)
    assert len(end.attempts) == len(told.attempts) == attempts


LAST = """
    import logging, sys
    from llmstream import Client

    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)

    class Observer:
        def on_start(self, call): print("start", flush=True)
        def on_end(self, call, end): print("end", end.outcome, flush=True)

    client = Client(base_url=sys.argv[1], observers=[Observer()], api_key="test-key")
    stream = client.stream("x")
    view = iter(stream)
    print(next(view))
    cycle = [client.stream("x")]
    cycle.append(cycle)
    next(cycle[0])
    print("bye")
"""


def test_the_interpreter_ends_while_a_stream_runs(server: LLMServer) -> None:
    """Silently and in time; what is still running has no end."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    begun = time.monotonic()
    lines = output_of(LAST, server.base_url).splitlines()
    assert time.monotonic() - begun < PATIENCE
    assert lines[-1] == "bye"
    assert [line for line in lines if not line.startswith("llmstream phase")] == [
        *("start", "one", "start", "bye")
    ]


FORK = """
    import io, json, logging, os, sys
    from llmstream import Client

    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(process)d %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logged = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(logged)
    told = []

    class Observer:
        def on_start(self, call): told.append(("start", call.trace_id))
        def on_phase(self, call, phase, at): told.append(("phase", call.trace_id))
        def on_attempt(self, call, attempt): told.append(("attempt", call.trace_id))
        def on_end(self, call, end): told.append(("end", call.trace_id))

    client = Client(base_url=sys.argv[1], observers=[Observer()], api_key="test-key")
    closed = client.stream("running", trace_id="parents", background=True)
    dropped = client.stream("running", trace_id="parents")
    next(closed), next(dropped)
    unused = client.stream("whole", trace_id="childs")
    parent, before = os.getpid(), len(told)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        closed.close()
        del dropped
        unused.result()
        kinds = sorted({(kind, of) for kind, of in told[before:]})
        print(json.dumps(kinds), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert told[before:] == []
    closed.close()
    del dropped
    for _ in range(10_000):
        ends = len([1 for kind, _ in told if kind == "end"])
        if ends == 2 and logged.stream.getvalue().count("call ended") == 2:
            break  # the log may be told after the observer
        __import__("time").sleep(0.001)
    print(json.dumps([kind for kind, _ in told[before:]]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_reports_nothing_of_its_parents_streams(server: LLMServer) -> None:
    """Closing and dropping them in the child is reported by nobody, neither to observers nor in the
    log, and does not cancel the parent's response at the service; a stream that the child starts
    itself is reported, and the parent reports the end of its own."""

    def reply(request: Any) -> Reply | Answer:
        if request.path.endswith("/cancel"):
            return Reply.json({})
        return (
            Answer("x") if request.json()["input"] == "whole" else Reply([*TWO_TOKENS, Silence()])
        )

    server.default = reply
    lines = output_of(FORK, server.base_url, PYTHONWARNINGS="ignore").splitlines()
    child, parent = (json.loads(line) for line in lines if line.startswith("["))
    assert child == [
        ["attempt", "childs"],
        ["end", "childs"],
        ["phase", "childs"],
        ["start", "childs"],
    ]
    assert sorted(parent) == ["attempt", "attempt", "end", "end"]
    ended = [line for line in lines if "call ended" in line]
    assert len(ended) == 3
    assert len({line.partition(" ")[0] for line in ended}) == 2  # each by who made the call
    cancels = [r for r in server.requests if r.path.endswith("/cancel")]
    assert len(cancels) == 1


def test_the_last_request_comes_after_the_end_and_asks_nobody() -> None:
    """Cancelling a background response sends one more request: with the call's headers, but no
    observer is asked for them, since to them the call is over."""

    class Spans(Told):
        def request_headers(self, call: CallRecord) -> dict[str, str]:
            self.note("headers", call)
            return {"traceparent": f"00-{TRACE}-{'a' * 16}-01"}

    blocks = THREE.blocks()
    client, _, told = make(
        Reply([*blocks[:5], Silence()]), Reply.json({}), observer=Spans(), timeouts=clocks()
    )
    with client.stream(PROMPT, background=True) as stream:
        next(stream)
    first, farewell = client._endpoint.transport.requests  # type: ignore[attr-defined]
    assert farewell.path.endswith("/cancel")
    assert farewell.headers["traceparent"] == first.headers["traceparent"]
    assert told.names[-1] == "end"
    assert told.names.count("headers") == 1


def test_a_program_that_ends_says_goodbye(server: LLMServer) -> None:
    """A background response that was left early is cancelled at the service, and the call has its
    line, though the program ends at once."""
    blocks = Answer("The sky is blue").blocks()[:6]
    server.script(Reply([*blocks, Silence()]), Reply.json({"status": "cancelled"}))
    said = output_of(
        """
        import logging, sys
        from llmstream import Client

        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

        def main():
            client = Client(base_url=sys.argv[1], model="m", api_key="k")
            for token in client.stream("Hi", background=True):
                break

        main()
        """,
        server.base_url,
    )
    assert said.count("call ended") == 1
    assert [request.path.rpartition("/")[2] for request in server.requests][1:] == ["cancel"]
