"""Ending a call from outside: any thread, a signal handler, Ctrl-C, the garbage collector; in every
phase; at once, once, and without a trace."""

from __future__ import annotations

import gc
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    BLOCKS,
    DELTAS,
    ENDLESS,
    ONCE,
    OPENING,
    PATIENCE,
    PROMPT,
    TWO_TOKENS,
    Address,
    RawServer,
    Reading,
    bounded,
    clocks,
    eventually,
    failure,
    open_sockets,
    other_threads,
    output_of,
    phase_of,
    python,
    signal_main,
    socket_of,
)

from llmstream import (
    Cancelled,
    Client,
    ConfigurationError,
    LLMStreamError,
    RetryPolicy,
    Stream,
)
from llmstream.testing import Answer, LLMServer, Pause, Pings, Recorded, Reply, Silence

# Far from both, and nearer than any clock of these streams: cancel() takes microseconds, but a pass
# of the collector over what the other tests have left, or another process, may come between.
AT_MOST = 5.0  # seconds that cancel() may take ...
SOON = 5.0  # ... and after which the reader is back

pytestmark = pytest.mark.usefixtures("nothing_left")

Start = Callable[[], tuple[Stream, Callable[[], Any]]]


# ---- from another thread, in every phase -------------------------------------------------------


def cancel_and_check(stream: Stream, reading: Reading, reason: str = "no longer wanted") -> None:
    """Cancels in the middle of something, and checks all that a cancel promises."""
    begun = time.monotonic()
    stream.cancel(reason)
    assert time.monotonic() - begun < AT_MOST
    stream.cancel("too late")
    error = reading.ended(within=SOON)
    assert type(error) is Cancelled
    assert error.reason == reason
    assert reason in str(error)
    assert not error.retryable
    # what had arrived is kept, though not all of it was handed out
    assert error.partial.text.startswith("".join(reading.tokens))
    assert error.trace_id == stream.trace_id
    assert error.attempts == stream.attempts
    with pytest.raises(Cancelled) as again:
        stream.result()
    assert again.value is error


def test_before_the_start(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Cancelled before its first use, a stream sends nothing and records no attempt."""
    stream = client_for(server).stream(PROMPT)
    stream.cancel("changed my mind")
    for use in (stream.__enter__, lambda: next(stream), stream.result):
        with pytest.raises(Cancelled) as caught:
            use()
        assert caught.value.reason == "changed my mind"
        assert caught.value.attempts == stream.attempts == ()
        assert "before it began" in str(caught.value)
    assert server.connections == 0


def test_in_dns(client_for: Callable[..., Client], stuck_dns: threading.Event) -> None:
    """A cancel ends a call whose host name is being looked up."""
    stream = client_for(None, base_url="http://llm.invalid/v1").stream(PROMPT)
    reading = Reading(stream)
    assert stuck_dns.wait(PATIENCE)
    cancel_and_check(stream, reading)
    assert stream.attempts[0].phase == "connect"


def test_in_connect(client_for: Callable[..., Client], unanswering: Address) -> None:
    """A cancel ends a call whose TCP connect hangs."""
    stream = client_for(unanswering).stream(PROMPT)
    reading = Reading(stream)
    eventually(lambda: socket_of(stream) is not None, "a socket is there")
    cancel_and_check(stream, reading)
    assert stream.attempts[0].phase == "connect"


def test_just_before_connect(
    client_for: Callable[..., Client], unanswering: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel that comes when the socket is known, but connect() not yet called, is not lost: a
    socket that is shut before it connects connects all the same."""
    client = client_for(unanswering, timeouts=clocks(connect=30.0))
    stream = client.stream(PROMPT)

    def first_cancel_then(name: str) -> None:
        real = getattr(socket.socket, name)

        def method(sock: socket.socket, *args: Any) -> Any:
            stream.cancel("in the gap")
            return real(sock, *args)

        monkeypatch.setattr(socket.socket, name, method)

    first_cancel_then("connect")
    first_cancel_then("connect_ex")
    reading = Reading(stream)
    assert type(reading.ended(within=SOON)) is Cancelled


def test_in_the_tls_handshake(client_for: Callable[..., Client]) -> None:
    """A cancel ends a call whose server never answers the TLS hello."""
    with LLMServer(tls=True, handshake=False) as silent:
        stream = client_for(silent).stream(PROMPT)
        reading = Reading(stream)
        eventually(lambda: phase_of(stream) == "tls", "the handshake has begun")
        silent.wait_connections(1)
        cancel_and_check(stream, reading)
        assert stream.attempts[0].phase == "tls"
        silent.wait_all_closed()


# what the server does -> the phase in which it leaves the stream
PHASES = {
    "before the headers": (Reply(before=[Silence()]), "headers"),
    "in the headers": (Reply(before=[b"HTTP/1.1 200 OK\r\nConte", Silence()]), "headers"),
    "after the headers": (Reply([Silence()]), "first_token"),
    "after an event": (Reply([BLOCKS[0], Silence()]), "first_token"),
    "among pings": (Reply([Pings(0.01)]), "first_token"),
    "in the body": (Reply([*TWO_TOKENS, Silence()]), "body"),
    "in a body that is fast": (Reply([*OPENING, Pings(0.001, data=ENDLESS)]), "body"),
    "in half an event": (Reply([*TWO_TOKENS, DELTAS[2][:20], Silence()]), "body"),
    "in a close-delimited body": (Reply([*TWO_TOKENS, Silence()], framing="close"), "body"),
}


@pytest.mark.parametrize(("reply", "phase"), PHASES.values(), ids=PHASES.keys())
def test_in_the_answer(
    any_server: LLMServer, client_for: Callable[..., Client], reply: Reply, phase: str
) -> None:
    """A cancel ends a call wherever its answer has got to, and the server sees it leave."""
    any_server.script(reply)
    client = client_for(any_server)
    stream = client.stream(PROMPT)
    reading = Reading(stream)
    any_server.wait_requests(1)
    eventually(lambda: phase_of(stream) == phase, f"the stream is in phase {phase}")
    cancel_and_check(stream, reading)
    any_server.wait_closed(0)
    assert stream.attempts[0].phase == phase
    assert client.stream(PROMPT).result().text == "Hello, world!"


def test_while_a_large_request_is_sent(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client]
) -> None:
    """A cancel ends a call whose server does not read the request."""
    over = threading.Event()
    deaf = raw_server(lambda sock: over.wait(PATIENCE))
    stream = client_for(deaf).stream("x" * 30_000_000)
    reading = Reading(stream)
    eventually(lambda: phase_of(stream) == "send", "the request is being sent")
    cancel_and_check(stream, reading)
    over.set()


def test_in_a_backoff(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A cancel ends the wait between two attempts; the one that failed is in the history."""
    server.default = Reply.error(500)
    client = client_for(server, retry=RetryPolicy(base=60.0, cap=60.0))
    stream = client.stream(PROMPT)
    reading = Reading(stream)
    eventually(lambda: phase_of(stream) == "backoff", "the stream waits")
    cancel_and_check(stream, reading)
    (attempt,) = stream.attempts
    assert attempt.status == 500
    assert attempt.delay_ms >= 60_000.0
    assert len(server.requests) == 1


def test_in_an_error_body(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A cancel ends a call that reads the body of an error status."""
    server.script(Reply([b'{"error":', Silence()], status=400, framing="length", length=999))
    stream = client_for(server).stream(PROMPT)
    reading = Reading(stream)
    eventually(lambda: stream.attempts and stream.attempts[-1].status == 400, "the status came")
    stream.cancel("enough")
    assert isinstance(reading.ended(within=SOON), LLMStreamError)
    server.wait_closed(0)


def test_after_the_end(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Once the stream has ended, a cancel has no effect on it, nor on its connection's next."""
    client = client_for(server)
    stream = client.stream(PROMPT)
    whole = stream.result()
    following = client.stream(PROMPT)
    tokens = iter(following)
    next(tokens)
    stream.cancel("late")
    stream.close()
    assert stream.result().text == whole.text
    assert [*tokens] == [" world!"]
    assert server.connections == 1


def test_after_an_error(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A cancel does not change what a stream has failed with."""
    server.script(Reply.error(400))
    stream = client_for(server).stream(PROMPT)
    error = failure(stream)
    stream.cancel("late")
    assert failure(stream, Stream.result) is error


# ---- nothing is delivered any more -------------------------------------------------------------

VIEWS: dict[str, Callable[[Stream], Iterator[Any]]] = {
    "text": iter,
    "chunks": Stream.chunks,
    "events": Stream.events,
}


@pytest.mark.parametrize("view", VIEWS)
def test_from_the_loop_body(
    server: LLMServer, client_for: Callable[..., Client], view: str
) -> None:
    """After a cancel nothing is delivered, although the whole answer has been received."""
    server.script(Reply(b"".join(BLOCKS)))
    stream = client_for(server).stream(PROMPT)
    got: list[Any] = []
    with pytest.raises(Cancelled) as caught:
        _cancel_in_the_loop(stream, VIEWS[view], got)
    assert len(got) == 1
    assert caught.value.reason == "seen enough"


def _cancel_in_the_loop(
    stream: Stream, view: Callable[[Stream], Iterator[Any]], got: list[Any]
) -> None:
    for item in view(stream):
        got.append(item)
        stream.cancel("seen enough")


@pytest.mark.parametrize("view", ["text", "chunks"])
def test_from_the_loop_body_in_one_event(
    server: LLMServer, client_for: Callable[..., Client], view: str
) -> None:
    """An event may bring several pieces of text: a cancel after the first holds back the rest."""
    items = [
        {"type": "message", "id": text, "content": [{"type": "output_text", "text": text}]}
        for text in ("one", "two", "three")
    ]
    whole = {"id": "r", "object": "response", "status": "completed", "output": items}
    server.script(Reply.json(whole))
    stream = client_for(server).stream(PROMPT)
    got: list[Any] = []
    with pytest.raises(Cancelled):
        _cancel_in_the_loop(stream, VIEWS[view], got)
    assert len(got) == 1


def test_between_two_tokens(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A cancel from another thread, while the loop body runs: not one more token comes."""
    server.script(Reply(b"".join(BLOCKS)))
    stream = client_for(server).stream(PROMPT)
    tokens = iter(stream)
    assert next(tokens) == "one"
    other = threading.Thread(target=stream.cancel)
    other.start()
    other.join()
    with pytest.raises(Cancelled):
        next(tokens)
    with pytest.raises((StopIteration, Cancelled)):
        next(tokens)


# ---- close, with, and being dropped ------------------------------------------------------------


def test_leaving_a_with_block_early_is_no_error(
    any_server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Leaving a with block in the middle frees the connection and raises nothing."""
    any_server.script(Reply([*TWO_TOKENS, Silence()]))
    with client_for(any_server).stream(PROMPT) as stream:
        for _ in stream:
            break
    any_server.wait_closed(0)
    assert stream.text.startswith("one")
    assert stream.attempts[0].phase == "body"


def test_an_exception_in_the_with_block_comes_through(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """The caller's own exception leaves the with block unchanged, and the stream is freed."""
    server.script(Reply([*TWO_TOKENS, Silence()]))
    with pytest.raises(ZeroDivisionError), client_for(server).stream(PROMPT) as stream:
        assert [1 / 0 for _ in stream]
    server.wait_closed(0)


def test_close_is_idempotent(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """close() may be called at any time and any number of times, from the start on."""
    server.script(Reply([*TWO_TOKENS, Silence()]))
    client = client_for(server)
    stream = client.stream(PROMPT)
    next(stream)
    for _ in range(3):
        stream.close()
    server.wait_closed(0)
    with pytest.raises(Cancelled):
        next(stream)
    unused = client.stream(PROMPT)
    unused.close()
    unused.close()
    with pytest.raises(Cancelled):
        unused.result()
    assert len(server.requests) == 1


def test_close_after_the_end_keeps_the_answer(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A stream that was read to its end stays readable after close() and with."""
    with client_for(server).stream(PROMPT) as stream:
        text = "".join(stream)
    stream.close()
    assert stream.result().text == text == "Hello, world!"


def test_close_from_another_thread(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """close() from another thread wakes a blocked reader and returns at once."""
    server.script(Reply([*TWO_TOKENS, Silence()]))
    stream = client_for(server).stream(PROMPT)
    reading = Reading(stream)
    eventually(lambda: stream.text == "one two", "the reader waits for the third token")
    begun = time.monotonic()
    stream.close()
    assert time.monotonic() - begun < AT_MOST
    assert type(reading.ended(within=SOON)) is Cancelled
    server.wait_closed(0)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the garbage collector: what is freed, is freed by its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


LEAVING: dict[str, Callable[[Client], Any]] = {
    "a loop left by break": lambda client: _break(client.stream(PROMPT)),
    "chunks() left by break": lambda client: _break(client.stream(PROMPT).chunks()),
    "events() left by break": lambda client: _break(client.stream(PROMPT).events()),
    "next() and no more": lambda client: next(client.stream(PROMPT)) and None,
    "a stream variable": lambda client: _break_of_variable(client),
}


def _break(tokens: Any) -> None:
    for _ in tokens:
        break


def _break_of_variable(client: Client) -> None:
    stream = client.stream(PROMPT)
    for _ in stream:
        break


@pytest.mark.slow
@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING.keys())
def test_a_dropped_stream_is_freed_at_once(
    server: LLMServer, client_for: Callable[..., Client], no_collector: None, leave: Any
) -> None:
    """A stream that nobody holds any more is freed by its last reference, not by the garbage
    collector, which may come minutes later."""
    server.script(Reply([*TWO_TOKENS, Silence()]))
    client = client_for(server)
    leave(client)
    server.wait_closed(0, timeout=SOON)
    assert client.stream(PROMPT).result().text == "Hello, world!"


def test_a_stream_never_started_leaves_nothing(
    server: LLMServer, client_for: Callable[..., Client], no_collector: None
) -> None:
    """Streams that are made and never used touch no network and leave no thread."""
    threads, sockets = other_threads(), open_sockets()
    client = client_for(server)
    for _ in range(100):
        client.stream(PROMPT)
    assert other_threads() <= threads  # one of another test may end just now
    assert open_sockets() <= sockets
    assert len(client._calls) == 0
    assert server.connections == 0


# ---- the client's end --------------------------------------------------------------------------


def test_client_close_ends_running_streams(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Client.close() ends its running streams, and those not yet begun, with Cancelled."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    client = client_for(server)
    streams = [client.stream(PROMPT) for _ in range(8)]
    readings = [Reading(stream) for stream in streams]
    eventually(lambda: all(s.text == "one two" for s in streams), "all are in the middle")
    later = client.stream(PROMPT)
    client.close()
    client.close()
    for reading in readings:
        error = reading.ended(within=SOON)
        assert type(error) is Cancelled
        assert "closed" in str(error)
    with pytest.raises(Cancelled):
        later.result()
    with pytest.raises(ConfigurationError):
        client.stream(PROMPT)
    server.wait_all_closed()


def test_client_close_ends_streams_that_nobody_named(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """`for tok in client.stream(...)` keeps only the iterator: Client.close() ends it as well."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    client = client_for(server)
    views: list[Callable[[Stream], Iterator[Any]]] = [iter, Stream.chunks, Stream.events]
    seen: list[Any] = []

    def loop(view: Callable[[Stream], Iterator[Any]]) -> Callable[[Any], None]:
        return lambda _: seen.extend(view(client.stream(PROMPT)))

    unused = client.stream(PROMPT)
    readings = [Reading(unused, loop(view)) for view in views]
    server.wait_requests(3)
    client.close()
    try:
        assert [type(reading.ended(within=SOON)) for reading in readings] == [Cancelled] * 3
    finally:
        server.close()  # or they would stay


def test_a_client_as_a_context_manager(server: LLMServer) -> None:
    """Leaving `with Client(...)` closes it."""
    server.script(Reply([*TWO_TOKENS, Silence()]))
    with Client("responses", base_url=server.base_url) as client:
        stream = client.stream(PROMPT)
        next(stream)
    with pytest.raises(Cancelled):
        next(stream)
    server.wait_all_closed()


@pytest.mark.slow
def test_client_close_in_the_middle_of_making_a_stream(server: LLMServer) -> None:
    """A signal handler may call Client.close() while its thread is inside Client.stream()."""
    # In a process of its own: a deadlock would spread.
    code = """
        import sys, threading
        from llmstream import Client, ConfigurationError

        client = Client(base_url=sys.argv[1])

        class Interrupted(type(client._calls)):
            def add(self, stream):
                super().add(stream)
                client.close()  # what a handler does that runs just now

        client._calls = Interrupted()

        def call():
            try:
                client.stream("Hi")
            except ConfigurationError:
                pass  # it is closed: that may be noticed, or not

        calling = threading.Thread(target=call, daemon=True)
        calling.start()
        calling.join(10)
        print("deadlock" if calling.is_alive() else "fine")
    """
    assert output_of(code, server.base_url) == "fine\n"


# ---- signals -----------------------------------------------------------------------------------


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], None]], None]]:
    """`on_signal(handler)` handles SIGUSR1 (SIGALRM is pytest-timeout's)."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, lambda *_: handler()) and None
    signal.signal(signal.SIGUSR1, before)


SIGNALLED = {
    "headers": Reply(before=[Silence()]),
    "body": Reply([*TWO_TOKENS, Silence()]),
    "backoff": Reply.error(500),
}


@pytest.mark.parametrize("phase", SIGNALLED)
@pytest.mark.parametrize("end", ["cancel", "close", "client"])
def test_from_a_signal_handler(
    server: LLMServer,
    client_for: Callable[..., Client],
    on_signal: Callable[[Callable[[], None]], None],
    phase: str,
    end: str,
) -> None:
    """The main thread's blocked reader is ended by a handler that runs in the main thread."""
    server.script(SIGNALLED[phase])
    client = client_for(server, retry=RetryPolicy(base=60.0, cap=60.0))
    stream = client.stream(PROMPT)
    on_signal({"cancel": stream.cancel, "close": stream.close, "client": client.close}[end])

    def send() -> None:
        eventually(lambda: phase_of(stream) == phase, f"the stream is in phase {phase}")
        signal_main(signal.SIGUSR1)

    assert threading.current_thread() is threading.main_thread()
    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Cancelled):
        stream.result()
    sender.join()


def test_a_foreign_exception_from_a_signal_handler_comes_through(
    server: LLMServer,
    client_for: Callable[..., Client],
    on_signal: Callable[[Callable[[], None]], None],
) -> None:
    """What a handler raises in the middle of a read is the caller's: it is not translated, and
    the stream is freed."""

    class Alarm(Exception):
        pass

    def handler() -> None:
        raise Alarm

    server.script(Reply([*TWO_TOKENS, Silence()]))
    stream = client_for(server).stream(PROMPT)
    on_signal(handler)

    def send() -> None:
        eventually(lambda: stream.text == "one two", "the reader waits")
        signal_main(signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Alarm):
        stream.result()
    sender.join()
    server.wait_closed(0)


# ---- Ctrl-C ------------------------------------------------------------------------------------

READER = """
    import socket, sys, threading, time
    from support import eventually, open_sockets, other_threads, phase_of, until_blocked
    from llmstream import Cancelled, Client, RetryPolicy

    base_url, phase, ca_file = sys.argv[1:]
    if phase == "dns":
        real = socket.getaddrinfo
        def getaddrinfo(*args, flags=0, **kwargs):
            if not flags & socket.AI_NUMERICHOST:
                time.sleep(60)
            return real(*args, flags=flags, **kwargs)
        socket.getaddrinfo = getaddrinfo
    client = Client(
        base_url=base_url, verify=ca_file or True, retry=RetryPolicy(base=60.0, cap=60.0)
    )
    stream = client.stream("Hi")
    wanted = {"dns": "connect", "loop": "body"}.get(phase, phase)

    def tell():
        eventually(lambda: phase_of(stream) == wanted, "the phase is reached")
        until_blocked(threading.main_thread())
        print("reached", flush=True)

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        for token in stream:
            while phase == "loop":
                time.sleep(0.05)
    except KeyboardInterrupt:
        print("interrupted")
    teller.join()
    if phase == "loop":
        del stream  # the collector is not needed for it
    else:
        try:
            stream.result()
        except Cancelled:
            print("ended")
    if phase != "loop":
        client.close()
    eventually(lambda: not open_sockets(), "all sockets are closed")
    eventually(
        lambda: {t.name for t in other_threads()} <= {"MainThread", "llmstream-resolver"},
        "no thread is left",
    )
    print("free")
"""
INTERRUPTED = {
    "dns": None,
    "connect": None,
    "tls": None,
    "headers": Reply(before=[Silence()]),
    "first_token": Reply([BLOCKS[0], Pings(0.05)]),
    "body": Reply([*TWO_TOKENS, Silence()]),
    "loop": Reply([*TWO_TOKENS, Silence()]),
    "backoff": Reply.error(500),
}


def interrupt(base_url: str, phase: str, ca_file: str | None = None) -> str:
    """What a process says that gets one Ctrl-C when it has reached the phase."""
    with python(READER, base_url, phase, ca_file or "") as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first == "reached\n", first + process.stdout.read()
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=PATIENCE)[0]
            assert time.monotonic() - begun < 5.0
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"it did not end; it said {process.communicate()[0]}")
        finally:
            process.kill()
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
@pytest.mark.parametrize("phase", INTERRUPTED)
def test_one_ctrl_c_is_enough(
    server: LLMServer, request: pytest.FixtureRequest, phase: str
) -> None:
    """One Ctrl-C ends a process in every phase: KeyboardInterrupt comes through, the stream is
    freed, nothing is printed besides."""
    reply = INTERRUPTED[phase]
    if reply is not None:
        server.script(reply)
    if phase == "tls":
        with LLMServer(tls=True, handshake=False) as silent:
            output = interrupt(silent.base_url, phase, silent.ca_file)
    elif phase == "dns":
        output = interrupt("http://llm.invalid/v1", phase)
    else:
        service = request.getfixturevalue("unanswering") if phase == "connect" else server
        output = interrupt(service.base_url, phase)
    ended = "" if phase == "loop" else "ended\n"
    assert output == f"interrupted\n{ended}free\n"


@pytest.mark.slow
def test_a_process_that_ends_in_the_middle(server: LLMServer) -> None:
    """A process may end with a running stream: at once, with no word on stderr."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    code = """
        import sys, threading
        from llmstream import Client
        client = Client(base_url=sys.argv[1])
        stream = client.stream("Hi")
        held = [stream, iter(stream)]
        print(next(held[1]))
        threading.Thread(target=client.stream("Hi").result, daemon=True).start()
    """
    with python(code, server.base_url) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert (output, process.returncode) == ("one\n", 0)
    server.wait_all_closed()


# ---- races -------------------------------------------------------------------------------------


def test_a_connection_is_clean_before_another_stream_gets_it(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool may hand a connection on the moment it gets it: its response is finished by then,
    or the next request on it would fail, and be sent twice."""
    from llmstream._transport import pool

    server.default = lambda recorded: Reply(server.echo(recorded), framing="length")
    client = client_for(server, retry=ONCE)
    nested: list[Stream] = []
    real = pool._IdleQueue.put

    def put(queue: Any, item: Any, *args: Any, **kwargs: Any) -> None:
        real(queue, item, *args, **kwargs)
        if item is not None and not nested:
            nested.append(client.stream("second"))
            bounded(nested[0], Stream.result)

    monkeypatch.setattr(pool._IdleQueue, "put", put)
    assert client.stream("first").result().text == "first"
    assert nested[0].result().text == "second"
    assert [attempt.error for attempt in nested[0].attempts] == [None]
    assert len(server.requests) == 2


def chatty(recorded: Recorded) -> Reply:
    """Each prompt's own text, in pieces, over a few milliseconds."""
    words = Answer([f"{recorded.json()['input']};"] * 6)
    return Reply([step for block in words.blocks() for step in (block, Pause(0.0005))])


def cancel_at_random(client: Client, count: int, seed: int) -> dict[str, int]:
    """`count` calls, each cancelled by another thread at a random moment, each followed by one
    that is not; returns how the first ones ended."""
    chance = random.Random(seed)
    outcomes = {"whole": 0, "cancelled": 0}
    for number in range(count):
        stream = client.stream(f"cancelled {seed}-{number}")
        delay = chance.choice([chance.random() * 0.012, chance.random() * 0.001])
        canceller = threading.Timer(delay, stream.cancel)
        canceller.start()
        try:
            assert stream.result().text == f"cancelled {seed}-{number};" * 6
            outcomes["whole"] += 1
        except Cancelled as exc:
            assert (f"cancelled {seed}-{number};" * 6).startswith(exc.partial.text)  # noqa: PT017
            outcomes["cancelled"] += 1
        result = client.stream(f"after {seed}-{number}").result()
        assert result.text == f"after {seed}-{number};" * 6
        assert len(result.attempts) == 1
        canceller.join()
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize(
    "count", [160, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_cancels_at_random_times(
    any_server: LLMServer, client_for: Callable[..., Client], count: int
) -> None:
    """Cancels at random moments leave no thread, socket or descriptor, harm no neighbour, and
    never shut the connection of the stream that comes next."""
    any_server.default = chatty
    client = client_for(any_server, retry=ONCE)
    threads = other_threads()
    neighbour_is_done = threading.Event()

    def neighbours(_: Stream) -> int:
        calls = 0
        while not (calls and neighbour_is_done.is_set()):  # it may begin late
            result = client.stream("neighbour").result()
            assert result.text == "neighbour;" * 6
            assert len(result.attempts) == 1
            calls += 1
        return calls

    neighbour = Reading(client.stream(PROMPT), neighbours)
    workers = 8
    runs = [
        Reading(client.stream(PROMPT), lambda _, n=n: cancel_at_random(client, count // workers, n))
        for n in range(workers)
    ]
    try:
        assert [run.ended(within=800) for run in runs] == [None] * workers
    finally:
        neighbour_is_done.set()
    assert neighbour.ended() is None
    assert neighbour.value > 0
    assert sum(run.value["cancelled"] for run in runs) > count // 10  # it was a test of cancels
    client.close()
    any_server.wait_all_closed()
    eventually(lambda: other_threads() - threads <= _of(any_server), "no thread is left")


def _of(server: LLMServer) -> set[threading.Thread]:
    """The server's own threads."""
    return {t for t in threading.enumerate() if t.name.startswith("llmstream-test-server")}
