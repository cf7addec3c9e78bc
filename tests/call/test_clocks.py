"""The five clocks over a real network: each fires in time, not before its time, says why, and keeps
what had arrived; and none of them harms a healthy stream."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from every import every
from support import (
    BLOCKS,
    DELTAS,
    ENDING,
    ENDLESS,
    ONCE,
    OPENING,
    PATIENCE,
    PROMPT,
    TWO_TOKENS,
    Address,
    RawServer,
    Reading,
    clocks,
    eventually,
    failure,
    phase_of,
    read_request,
)

from llmstream import (
    Client,
    ConnectTimeout,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    LLMStreamError,
    RetryPolicy,
    ServerError,
    SilenceTimeout,
    StreamInterrupted,
    StreamTimeout,
    StreamTruncated,
    Timeouts,
)
from llmstream._core.timers import Timers
from llmstream._runtime.clock import SYSTEM_CLOCK
from llmstream._runtime.scope import CancelScope
from llmstream._runtime.watchdog import shared_watchdog
from llmstream._transport.connect import SocketHandle
from llmstream.testing import (
    Answer,
    Cut,
    Drip,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Send,
    Silence,
)
from llmstream.testing.answers import sse_block

T = 0.25  # seconds: the clock under test ...
LONGER = 2.5  # ... and where something has to arrive before it runs out, on the busiest machine
LATE = 3.0  # seconds after its time within which a clock has fired, on the busiest machine
EARLY = 0.01  # two clocks are read one after the other
KEEPALIVE = sse_block("keepalive", {"type": "keepalive", "sequence_number": 3})

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclass(frozen=True)
class Case:
    """A stream that dies in one way. `clock` is the one that has to notice, after `seconds`."""

    clock: str
    steps: Any = ()
    before: Any = ()
    text: str = ""
    phase: str = "first_token"
    seconds: float = T


# In one write: no clock runs out between the two.
BOTH_TOKENS = b"".join(TWO_TOKENS)
HALF_EVENT = DELTAS[2][:-1]  # whole but for the last newline: it never is an event
DYING = {
    "silence before the headers": Case(
        "first_token", before=[Silence()], phase="headers", seconds=LONGER
    ),
    "silence after the headers": Case("first_token", [Silence()], seconds=LONGER),
    "silence after created": Case("first_token", [*BLOCKS[:2], Silence()], seconds=LONGER),
    "pings only": Case("first_token", [Pings(0.02)], seconds=LONGER),
    "pings after created": Case("first_token", [*BLOCKS[:2], Pings(0.02)], seconds=LONGER),
    "an item announced, then pings": Case("first_token", [*OPENING, Pings(0.02)], seconds=LONGER),
    "items announced for ever": Case("first_token", [Pings(0.02, data=OPENING[2])], seconds=LONGER),
    "one byte at a time before the content": Case(
        "first_token", [Drip(BLOCKS[0][:-1] + b" " * 999, every=0.02)], seconds=LONGER
    ),
    "silence after two tokens": Case(
        "idle", [BOTH_TOKENS, Silence()], text="one two", phase="body"
    ),
    "pings after two tokens": Case(
        "idle", [BOTH_TOKENS, Pings(0.02)], text="one two", phase="body"
    ),
    "keepalives after two tokens": Case(
        "idle", [BOTH_TOKENS, Pings(0.02, data=KEEPALIVE)], text="one two", phase="body"
    ),
    "in_progress after two tokens": Case(
        "idle", [BOTH_TOKENS, Pings(0.02, data=BLOCKS[1])], text="one two", phase="body"
    ),
    "one byte at a time, never an event": Case(
        "idle",
        [BOTH_TOKENS, Drip(HALF_EVENT + b" " * 999, every=0.05)],
        text="one two",
        phase="body",
    ),
    "one byte at a time inside one HTTP chunk": Case(
        "idle",
        [BOTH_TOKENS, Drip(HALF_EVENT + b" " * 999, every=0.05, one_chunk=True)],
        text="one two",
        phase="body",
    ),
    "nothing after the first byte": Case(
        "first_token", before=[Send(b"H"), Silence()], phase="headers", seconds=LONGER
    ),
    "no byte after two tokens": Case(
        "silence", [BOTH_TOKENS, Silence()], text="one two", phase="body"
    ),
    "no end, before the headers": Case("total", before=[Silence()], phase="headers"),
    "no end, after two tokens": Case(
        "total", [BOTH_TOKENS, Silence()], text="one two", seconds=LONGER
    ),
    "no end, though every read is fast": Case(
        "total", [*OPENING, Pings(0.005, data=ENDLESS)], text="one", seconds=LONGER
    ),
}
CLOCKS: dict[str, type[StreamTimeout]] = {
    cls.clock: cls
    for cls in (ConnectTimeout, FirstTokenTimeout, IdleTimeout, SilenceTimeout, DeadlineExceeded)
}


def not_early_nor_late(late: float, error: LLMStreamError) -> None:
    """`late` is in seconds after the clock's time."""
    assert late > -EARLY, f"{-late} s before its time: {error}"
    assert late < LATE, f"{late} s too late: {error}"


def late_by(begun: float, seconds: float, error: LLMStreamError) -> None:
    """The clock of `seconds` that began to run after `begun` has fired just now."""
    not_early_nor_late(time.monotonic() - begun - seconds, error)


def assert_says_why(error: LLMStreamError, clock: str, seconds: float) -> None:
    """The right class, and a message that names the clock and what came last when."""
    assert type(error) is CLOCKS[clock]
    assert isinstance(error, StreamTimeout)
    assert isinstance(error, TimeoutError)
    assert error.seconds == seconds
    assert f"{seconds:g} s (Timeouts.{clock})" in str(error)
    for what in ("byte", "event", "token"):
        assert re.search(rf"last {what} \d+\.\d s ago|no {what} yet", str(error)), str(error)


@pytest.mark.slow
@pytest.mark.parametrize("case", DYING.values(), ids=DYING.keys())
def test_a_dying_stream_ends_by_its_clock(
    server: LLMServer, tls_server: LLMServer, client_for: Callable[..., Client], case: Case
) -> None:
    """Each way to die is noticed by the right clock, in time, and what had arrived is kept: over
    HTTP and TLS, in chunks and in a close-delimited body, all four at once."""
    timeouts = clocks(**{case.clock: case.seconds})
    dying = []
    for service in (server, tls_server):
        service.default = lambda asked: Reply(
            case.steps, before=case.before, framing=asked.json()["input"]
        )
        client = client_for(service, timeouts=timeouts, retry=ONCE)
        dying += [Dying(client.stream(framing)) for framing in ("chunked", "close")]
    for one in dying:
        one.join(PATIENCE)
        check_death(one, case)
    for service in (server, tls_server):
        service.wait_all_closed()


class Dying(Reading):
    """A reader that knows when it began."""

    begun = 0.0

    def run(self) -> None:
        self.begun = time.monotonic()
        super().run()


def check_death(reading: Dying, case: Case) -> None:
    """The right error, neither early nor late, with all that had arrived."""
    stream = reading.stream
    error = reading.ended()
    assert isinstance(error, LLMStreamError)
    not_early_nor_late(reading.ended_at - reading.begun - case.seconds, error)
    assert_says_why(error, case.clock, case.seconds)
    assert error.partial.text == stream.text == "".join(reading.tokens)
    assert error.partial.text.startswith(case.text)
    assert ("no token yet" in str(error)) == (not case.text)
    assert error.partial.finish is None
    (attempt,) = error.attempts
    assert attempt.error is error
    if case.clock != "total":
        assert attempt.phase == case.phase
    assert error.trace_id == stream.trace_id == error.partial.trace_id


# ---- connect -----------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["connect", "total"])
def test_a_host_that_does_not_answer(
    client_for: Callable[..., Client], unanswering: Address, clock: str
) -> None:
    """A TCP connect that hangs ends by the connect clock, or by the total clock."""
    client = client_for(unanswering, timeouts=clocks(**{clock: T}), retry=ONCE)
    stream = client.stream(PROMPT)
    begun = time.monotonic()
    error = failure(stream)
    late_by(begun, T, error)
    assert_says_why(error, clock, T)
    assert error.attempts[0].phase == "connect"


@pytest.mark.parametrize("clock", ["connect", "total"])
def test_a_server_that_never_answers_the_tls_hello(
    client_for: Callable[..., Client], clock: str
) -> None:
    """The connect clock covers the TLS handshake; so does the total clock."""
    time_of_test = FakeClock()  # it passes once the handshake has begun
    with LLMServer(tls=True, handshake=False) as server:
        client = client_for(server, timeouts=clocks(**{clock: T}), retry=ONCE, clock=time_of_test)
        stream = client.stream(PROMPT)
        reading = Reading(stream)
        eventually(lambda: phase_of(stream) == "tls", "the handshake has begun")
        time_of_test.advance(T - EARLY)
        assert reading.is_alive()
        time_of_test.advance(EARLY)
        error = reading.ended()
        assert isinstance(error, LLMStreamError)
        assert_says_why(error, clock, T)
        assert error.attempts[0].phase == "tls"
        server.wait_all_closed()


@pytest.mark.parametrize("clock", ["connect", "total"])
def test_a_name_that_is_not_resolved(
    client_for: Callable[..., Client], stuck_dns: threading.Event, clock: str
) -> None:
    """getaddrinfo cannot be interrupted, and still the connect and the total clock hold in it."""
    client = client_for(
        None, base_url="http://llm.invalid/v1", timeouts=clocks(**{clock: T}), retry=ONCE
    )
    stream = client.stream(PROMPT)
    begun = time.monotonic()
    error = failure(stream)
    late_by(begun, T, error)
    assert_says_why(error, clock, T)
    assert stuck_dns.wait(PATIENCE)


def test_no_clock_before_the_first_use(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """The clocks start with the call, not when the Stream is made."""
    clock = FakeClock()
    client = client_for(server, timeouts=clocks(total=T, connect=T), clock=clock)
    stream = client.stream(PROMPT)
    clock.advance(2 * T)
    assert stream.result().text == "Hello, world!"


# ---- first token -------------------------------------------------------------------------------


def test_a_request_that_the_server_does_not_read(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client]
) -> None:
    """The first-token clock runs while a large request is being sent, too."""
    over = threading.Event()
    deaf = raw_server(lambda sock: over.wait(30))
    client = client_for(deaf, timeouts=clocks(first_token=T), retry=ONCE)
    stream = client.stream("x" * 30_000_000)
    begun = time.monotonic()
    error = failure(stream)
    late_by(begun, T, error)
    assert_says_why(error, "first_token", T)
    assert error.attempts[0].phase == "send"
    over.set()


# ---- total -------------------------------------------------------------------------------------


def test_the_deadline_covers_the_attempts_together(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """The total clock runs from the first attempt on and is not wound up again by a retry."""
    server.script(Reply.error(500, headers={"retry-after": "0.1"}), Reply(before=[Silence()]))
    clock = FakeClock()
    client = client_for(
        server, timeouts=clocks(total=2 * T), retry=RetryPolicy(base=0.1, jitter=0.0), clock=clock
    )
    begun = clock.monotonic()
    reading = Reading(client.stream(PROMPT))
    server.wait_requests(2)
    assert clock.slept == pytest.approx([0.1])
    clock.advance(begun + 2 * T - EARLY - clock.monotonic())
    assert reading.is_alive()
    clock.advance(EARLY)
    error = reading.ended()
    assert isinstance(error, LLMStreamError)
    assert_says_why(error, "total", 2 * T)
    first, second = error.attempts
    assert isinstance(first.error, ServerError)
    assert second.error is error


def test_no_wait_goes_past_the_deadline(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A backoff that would end behind the deadline is not begun: the service's error comes now."""
    server.default = Reply.error(500)
    clock = FakeClock()
    client = client_for(
        server,
        timeouts=clocks(total=3 * T),
        # The second wait would end after the deadline, and no request is under way when it comes.
        retry=RetryPolicy(max_attempts=1000, base=2 * T, cap=2 * T, jitter=0.0),
        clock=clock,
    )
    begun = clock.monotonic()
    error = failure(client.stream(PROMPT))
    assert isinstance(error, ServerError)
    assert clock.monotonic() - begun == pytest.approx(2 * T)
    assert len(error.attempts) == len(server.requests) == 2


def test_the_deadline_runs_in_the_callers_own_time(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """The total clock alone runs while the caller's loop body does."""
    server.script(Reply([*TWO_TOKENS, Silence()]))
    clock = FakeClock()
    client = client_for(server, timeouts=clocks(total=T), retry=ONCE, clock=clock)
    tokens = iter(client.stream(PROMPT))
    assert next(tokens) == "one"
    clock.advance(T)
    server.wait_closed(0)  # the deadline shuts the connection, though nobody reads
    with pytest.raises(DeadlineExceeded) as caught:
        list(tokens)
    assert caught.value.partial.text.startswith("one")


# ---- healthy streams ---------------------------------------------------------------------------

WIDE = 2.5  # seconds: a clock with room for a busy machine; progress comes every tenth of it
BEAT = WIDE / 10
LONG = Answer(" word" * 30).blocks()
CALL = Answer(tool_calls=[("f", str([*range(12)]))], finish="tool_calls")
THINKING = Answer("so", thinking=[f"{n} " for n in range(24)])
HEALTHY = {
    "progress among pings": [
        step for block in LONG[:-1] for step in (block, Pause(BEAT), b": ping\n\n")
    ],
    "tool arguments only": [step for block in CALL.blocks()[:-1] for step in (block, Pause(BEAT))],
    "thinking only": [step for block in THINKING.blocks()[:-1] for step in (block, Pause(BEAT))],
}
LAST = {
    "progress among pings": LONG[-1],
    "tool arguments only": CALL.blocks()[-1],
    "thinking only": THINKING.blocks()[-1],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "framing"),
    [
        ("progress among pings", "chunked"),
        ("tool arguments only", "chunked"),
        ("thinking only", "close"),
    ],
)
def test_progress_of_any_kind_keeps_a_stream_alive(
    server: LLMServer, client_for: Callable[..., Client], name: str, framing: str
) -> None:
    """A stream that makes progress, of whatever kind, for three times the idle clock succeeds."""
    server.script(Reply([*HEALTHY[name], LAST[name]], framing=framing))
    client = client_for(server, timeouts=clocks(first_token=WIDE, idle=WIDE, silence=WIDE))
    begun = time.monotonic()
    result = Reading(client.stream(PROMPT), lambda stream: stream.result())
    assert result.ended(within=4 * PATIENCE) is None
    assert time.monotonic() - begun > 3 * WIDE - EARLY
    assert len(server.requests) == 1


joined = b"".join  # in one write: after the first content the clock runs between two
QUIET = {
    "before the headers": Reply(before=[Pause(4 * T)], steps=joined(BLOCKS)),
    "after the headers": Reply([Pause(4 * T), joined(BLOCKS)]),
    "after created": Reply([*BLOCKS[:2], Pause(4 * T), joined(BLOCKS[2:])]),
    "after an item was announced": Reply([*OPENING, Pause(4 * T), joined(BLOCKS[len(OPENING) :])]),
    "after a ping": Reply([KEEPALIVE, Pause(4 * T), joined(BLOCKS)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("reply", QUIET.values(), ids=QUIET.keys())
def test_a_long_prompt_is_no_dead_connection(
    server: LLMServer, client_for: Callable[..., Client], reply: Reply
) -> None:
    """Before the first content only first_token rules: however long the service is silent, it is
    asked once."""
    server.script(reply)
    client = client_for(server, timeouts=clocks(silence=T))
    assert client.stream(PROMPT).result().text == "one two three four"
    assert len(server.requests) == 1


LIFE = {
    "a ping": KEEPALIVE,
    "a comment": b": ping\n\n",
    "a bare comment": b":\n\n",
    "a comment before an event": b": ping\n" + BLOCKS[1],
    "an empty event": b"data:\n\n",
    "a ping without data": b"event: ping\n\n",
    "a comment as data": b"data: : keepalive\n\n",
    "an unknown ping": b"event: heartbeat\ndata: {}\n\n",
    "empty lines": b"\n\n",
}


@every("first", [True, False], ids=["at the start", "in mid-answer"])
@every("life", LIFE.values(), ids=LIFE.keys())
def test_silence_auto_holds_for_a_service_that_pings(life: bytes, first: bool) -> None:
    """After any sign of life, 90 s without a byte end the stream."""
    start = [life, *TWO_TOKENS] if first else [*TWO_TOKENS, Pause(50), life]
    clock = FakeClock()
    begun = clock.monotonic()
    client = Client(transport=FakeTransport(Reply([*start, Silence()])), clock=clock, api_key="k")
    error = failure(client.stream(PROMPT))
    assert isinstance(error, SilenceTimeout)
    assert error.seconds == 90
    assert "90 s (Timeouts.silence)" in str(error)
    assert clock.monotonic() - begun == pytest.approx(90 if first else 140, abs=1)


def test_silence_auto_is_off_for_a_service_that_never_pings() -> None:
    """It may think for minutes in mid-answer, until idle ends it. A number holds for it too."""
    reply = Reply([*TWO_TOKENS, Silence()])
    for timeouts, error in (
        (Timeouts(), IdleTimeout),
        (Timeouts(silence=50), SilenceTimeout),
        (Timeouts(silence=None), IdleTimeout),
    ):
        client = Client(transport=FakeTransport(reply), clock=FakeClock(), api_key="k")
        assert type(failure(client.stream(PROMPT, timeouts=timeouts))) is error


AFTER_THE_FINISH: dict[str, bytes] = {
    "a ping as data": sse_block(None, {"type": "ping"}),
    "a word": b"data: keepalive\n\n",
    "a comment": b": ping\n\n",
    "an unknown event": sse_block(None, {"novel": 1}),
    "usage": sse_block(None, {"usageMetadata": {"promptTokenCount": 1}}),
    "another candidate": sse_block(
        None, {"candidates": [{"index": 1, "content": {"parts": [{"text": "x"}]}}]}
    ),
}


@every("together", [True, False])
@every("then", [Silence(), Pings(0.1)], ids=["silence", "pings"])
@every("after", AFTER_THE_FINISH)
def test_what_is_no_content_does_not_put_the_end_off(together: bool, then: Any, after: str) -> None:
    """Gemini has no event of the end: the body's end is waited for, from the finish on, for 2 s.
    Pings and usage that follow the finish, in the same read or in another one, change nothing."""
    blocks = Answer("one two").blocks("gemini")
    ends = blocks[-1] + AFTER_THE_FINISH[after]
    last = [ends] if together else [blocks[-1], Pause(0.5), AFTER_THE_FINISH[after]]
    clock = FakeClock(start=0.0)
    transport = FakeTransport(Reply([*blocks[:-1], *last, then]))
    client = Client("gemini", base_url="http://test", model="m", transport=transport, clock=clock)
    assert client.stream(PROMPT).result().text == "one two"
    assert clock.monotonic() < 3


@pytest.mark.slow
def test_pings_are_no_silence(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Pings for three times the silence clock are bytes: the stream succeeds."""
    quiet = Pings(BEAT, count=15)
    server.script(Reply([quiet, *TWO_TOKENS, quiet, *DELTAS[2:], *ENDING]))
    client = client_for(server, timeouts=clocks(silence=WIDE))
    reading = Reading(client.stream(PROMPT))
    assert reading.ended(within=4 * PATIENCE) is None
    assert "".join(reading.tokens) == "one two three four"


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_slow_consumer_is_no_slow_service(
    any_server: LLMServer, client_for: Callable[..., Client], framing: str
) -> None:
    """The clocks do not run in the caller's loop body, nor between `with` and the loop."""
    # The tokens come one by one and the reader waits for each: the socket is used between them.
    blocks = Answer("one two").blocks()
    steps = [step for block in blocks for step in (block, Pause(0.01))]
    any_server.script(Reply(steps, framing=framing))
    clock = FakeClock()
    client = client_for(any_server, timeouts=Timeouts(5.0, T, T, T, None), clock=clock)
    with client.stream(PROMPT) as stream:
        clock.advance(1.5 * T)
        tokens = []
        for token in stream:
            clock.advance(1.5 * T)
            tokens.append(token)
    assert tokens == ["one", " two"]


def test_clocks_that_are_off_do_not_run(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """None turns a clock off, all five of them too."""
    server.script(Reply([*TWO_TOKENS, Pause(T), *DELTAS[2:], *ENDING], delay=T))
    client = client_for(server, timeouts=Timeouts(None, None, None, None, None))
    assert Reading(client.stream(PROMPT)).ended() is None


# ---- races -------------------------------------------------------------------------------------


def test_the_end_of_file_of_a_stopped_stream_is_no_end(
    raw_server: Callable[..., RawServer],
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server's own clean FIN, come exactly when a clock has fired, ends nothing well."""
    fired = threading.Event()
    # The clock fires, but the socket is left to the server, which closes it as if all were well.
    monkeypatch.setattr(SocketHandle, "shutdown", lambda handle: fired.set())

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        sock.sendall(head + b"".join(TWO_TOKENS))
        assert fired.wait(30)

    client = client_for(raw_server(handler), timeouts=clocks(idle=T), retry=ONCE)
    error = failure(client.stream(PROMPT))
    assert type(error) is IdleTimeout
    assert error.partial.text == "one two"


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_an_end_of_file_that_races_with_the_clock(
    server: LLMServer, client_for: Callable[..., Client], framing: str
) -> None:
    """Whoever wins, the clock or the server's FIN: it is an error that keeps what came."""
    server.default = Reply([BOTH_TOKENS, Pause(T), Cut(last_chunk=True)], framing=framing)
    client = client_for(server, timeouts=clocks(idle=T), retry=ONCE)
    readings = [Reading(client.stream(PROMPT)) for _ in range(24)]
    errors = [reading.ended() for reading in readings]
    kinds = (IdleTimeout, StreamTruncated, StreamInterrupted)
    assert [type(error) for error in errors if not isinstance(error, kinds)] == []
    assert {"".join(reading.tokens) for reading in readings} == {"one two"}


def test_a_later_look_does_not_replace_an_earlier_one() -> None:
    """The watchdog may be told the same scope's moments in any order (it races with the reader):
    the earliest counts, or a clock would be looked at too late."""
    watchdog = shared_watchdog()
    now = SYSTEM_CLOCK.monotonic()
    scope = CancelScope(Timers(Timeouts(first_token=T), now), SYSTEM_CLOCK, watchdog)
    scope.awaiting_response()  # the reader has told it `now + T` ...
    watchdog.schedule(scope, now + 3600.0)  # ... just before the watchdog's own, older, word
    eventually(lambda: scope.stop_reason, "the clock fired", within=T + LATE)
    scope.finish()


def test_a_hundred_streams_are_watched_by_one_thread(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A hundred streams that fall silent at once are all ended in time, by the one watchdog."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    client = client_for(server, timeouts=clocks(idle=2 * T, total=60.0), retry=ONCE)
    readings = [Reading(client.stream(PROMPT)) for _ in range(100)]
    errors = [reading.ended() for reading in readings]
    assert {type(error) for error in errors} == {IdleTimeout}
    assert sum(t.name == "llmstream-watchdog" for t in threading.enumerate()) == 1
