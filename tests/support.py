"""What the tests of the network's edge share: servers, clients, threads, and the proof of no leak.

Nothing here sleeps to let something happen: `eventually` polls with a bound, `PATIENCE`, which
nothing that works comes near.
"""

from __future__ import annotations

import contextlib
import contextvars
import dis
import gc
import os
import queue
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import llmstream
from llmstream import Client, LLMStreamError, RetryPolicy, Stream, Timeouts
from llmstream.testing import Answer, LLMServer, blackhole

PATIENCE = 15.0  # seconds: the bound of every wait, far from what anything takes
PROMPT = "Why is the sky blue?"
ONCE = RetryPolicy(max_attempts=1)
AT_ONCE = RetryPolicy(base=0.0, cap=0.0, jitter=0.0)  # four attempts without waits
TESTS = Path(__file__).resolve().parent
PACKAGE = Path(llmstream.__file__).resolve().parents[1]

ANSWER = Answer("one two three four")
BLOCKS = ANSWER.blocks()
OPENING, DELTAS, ENDING = BLOCKS[:4], BLOCKS[4:8], BLOCKS[8:]
TWO_TOKENS = [*OPENING, *DELTAS[:2]]  # what has come of it: "one two"
# A delta that may be sent again and again: a doubled number would be passed over.
ENDLESS = re.sub(rb',"sequence_number":\d+', b"", DELTAS[0])


def eventually(condition: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """The first true value of `condition`; fails with `what` when none came in time."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within} s: {what}")
        time.sleep(0.002)
    return value


# ---- nothing is left behind --------------------------------------------------------------------


def open_sockets() -> set[str]:
    """The sockets of this process, by inode (empty where there is no /proc)."""
    found = set()
    for fd in _fds():
        with contextlib.suppress(OSError):  # the listing's own descriptor
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith("socket:"):
                found.add(target)
    return found


def _fds() -> list[str]:
    try:
        return os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return []


def other_threads() -> set[threading.Thread]:
    """All threads but the one watchdog, which stays."""
    return {t for t in threading.enumerate() if t.name != "llmstream-watchdog"}


def watchdogs() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "llmstream-watchdog"]


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs the test in a clean environment; afterwards no thread and no socket may be left, and
    no more than one watchdog; a signal does what it did before."""
    for name in list(os.environ):
        ours = name.startswith(
            ("OPENAI_", "ANTHROPIC_", "LLMSTREAM_", "GOOGLE_", "GEMINI_", "SSL_CERT_")
        )
        if ours or name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)
    threads, sockets = other_threads(), open_sockets()
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    eventually(lambda: not other_threads() - threads, "the threads of the test have ended")
    eventually(lambda: not open_sockets() - sockets, "the sockets of the test are closed")
    assert len(watchdogs()) <= 1


def executed_lines(work: Callable[[], object]) -> int:
    """The lines of Python that `work` executes."""
    count = 0

    def trace(frame: FrameType, what: str, arg: object) -> Any:
        nonlocal count
        count += 1
        return trace

    run_traced(work, trace)
    return count


def cpu_seconds(work: Callable[[], object]) -> float:
    """What `work` takes of this thread, without the cyclic collector: its passes take as long as
    the heap is large that the other tests of the process have left."""
    gc.collect()
    gc.disable()
    try:
        begun = time.thread_time()
        work()
        return time.thread_time() - begun
    finally:
        gc.enable()


def interrupted(work: Callable[[], None], at: int, places: tuple[str, ...]) -> int:
    """`work` with a KeyboardInterrupt at the line with this number, of those that are executed in
    files of the package whose names have one of `places` in them; returns how many these were.

    In a thread of its own: where a tracer raises at the end of an `except`, CPython goes on as if
    that exception were still being handled, and keeps it, with all that its frames hold, as the
    context of every later one in the thread."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        name = frame.f_code.co_filename
        if event == "line" and any(place in name for place in places) and not _leaves_with(frame):
            count += 1
            if count == at:
                raise KeyboardInterrupt
        return trace if "/llmstream/" in name else None

    errors: list[BaseException] = []  # without the interrupt, whose frames keep what is dropped
    interrupts: list[int] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            context.run(run_traced, work, trace)
        except KeyboardInterrupt:
            interrupts.append(count)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    assert not interrupts or at <= count
    return count


def _leaves_with(frame: FrameType) -> bool:
    """Whether the frame is about to call `__exit__` at the end of a `with`, without an error: a
    tracer may raise there, where a signal cannot (`_runtime.threads`)."""
    code, at = frame.f_code, frame.f_lasti
    names = [dis.opname[code.co_code[n]] for n in range(at, min(at + 6, len(code.co_code)), 2)]
    if names[:1] != ["LOAD_CONST"] or names[1:] not in (["LOAD_CONST"] * 2, ["DUP_TOP"] * 2):
        return False
    return code.co_consts[code.co_code[at + 1]] is None


def run_traced(work: Callable[[], object], trace: Any) -> None:
    """`work`, in this thread, with a trace function (see sys.settrace). The cyclic collector waits:
    the finalizers of what other tests have left would be traced, too."""
    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()


# ---- servers -----------------------------------------------------------------------------------


@pytest.fixture
def server(nothing_left: None) -> Iterator[LLMServer]:
    with LLMServer() as started:
        yield started


@pytest.fixture
def tls_server(nothing_left: None) -> Iterator[LLMServer]:
    with LLMServer(tls=True) as started:
        yield started


@pytest.fixture(params=["http", "tls"])
def any_server(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[LLMServer]:
    with LLMServer(tls=request.param == "tls") as started:
        yield started


class RawServer:
    """Takes connections and gives each one's socket to `handler`, in a thread: for what has to
    wait for the client in the middle of a reply."""

    def __init__(
        self, handler: Callable[[socket.socket], None], context: ssl.SSLContext | None = None
    ) -> None:
        self.handler = handler
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self.base_url = f"{self.url}/v1"
        self.errors: list[BaseException] = []
        self.closing = threading.Event()
        self.accepted = 0
        self.threads = [threading.Thread(target=self._accept, name="raw-server")]
        self.sockets: list[socket.socket] = []
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), name="raw-connection")
            self.threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        try:
            if self.context is not None:
                sock = self.context.wrap_socket(sock, server_side=True)
                self.sockets.append(sock)
            with sock:
                self.handler(sock)
        except OSError:
            pass  # the client left
        except BaseException as exc:
            self.errors.append(exc)
        finally:
            sock.close()

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join(PATIENCE)  # it has listed all that it has accepted
        self.listener.close()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def raw_server(nothing_left: None) -> Iterator[Callable[..., RawServer]]:
    """`raw_server(handler, context=None)` makes a RawServer; its failures fail the test."""
    made: list[RawServer] = []

    def make(handler: Callable[[socket.socket], None], context: Any = None) -> RawServer:
        made.append(RawServer(handler, context))
        return made[-1]

    yield make
    for one in made:
        one.close()
    errors = [error for one in made for error in one.errors]
    if errors:
        raise errors[0]


class Address:
    """Where a client is sent to, when no server is there."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url


@pytest.fixture
def unanswering(nothing_left: None) -> Iterator[Address]:
    """An address where a TCP connect hangs."""
    with blackhole() as (host, port):
        yield Address(f"http://{host}:{port}/v1")


def read_request(sock: socket.socket) -> bytes:
    """The head of a request; its body, by Content-Length, is read too."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("the client left")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    expected = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < expected:
        piece = sock.recv(65536)
        if not piece:  # or it would be asked for ever, by a thread that lets no other one run
            raise ConnectionError("the client left")
        body += piece
    return head


# ---- clients, and threads that use them --------------------------------------------------------


@pytest.fixture
def client_for(nothing_left: None) -> Iterator[Callable[..., Client]]:
    """`client_for(server, **settings)` is a Client of that server, closed afterwards."""
    made: list[Client] = []

    def make(service: Any, **settings: Any) -> Client:
        known: dict[str, Any] = {"api_key": "test-key"}
        if service is not None:
            known["base_url"] = service.base_url
        if getattr(service, "ca_file", None):
            known["verify"] = service.ca_file
        client = Client(**{"api": "responses", **known, **settings})
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


class Reading(threading.Thread):
    """A thread that reads a stream to its end and keeps what came of it."""

    def __init__(self, stream: Stream, read: Callable[[Stream], Any] | None = None) -> None:
        super().__init__(name="reader")
        self.stream = stream
        self.tokens: list[str] = []
        self.value: Any = None
        self.error: BaseException | None = None
        self.ended_at = 0.0
        self._read = read or self._collect
        self.start()

    def _collect(self, stream: Stream) -> None:
        for token in stream:
            self.tokens.append(token)

    def run(self) -> None:
        try:
            self.value = self._read(self.stream)
        except BaseException as exc:
            self.error = exc
        self.ended_at = time.monotonic()

    def ended(self, within: float = PATIENCE) -> BaseException | None:
        """What the reader was given in the end (None: a whole answer), in time."""
        self.join(within)
        if self.is_alive():
            self.stream.cancel("the test gave up")
            self.join(PATIENCE)
            pytest.fail(f"the reader did not end within {within} s: {self.stream.attempts}")
        return self.error


def bounded(stream: Stream, read: Callable[[Stream], Any] | None = None) -> Reading:
    """Reads a stream to its end in a thread, since it might hang, and waits for that."""
    reading = Reading(stream, read)
    reading.ended()
    return reading


def failure(stream: Stream, read: Callable[[Stream], Any] | None = None) -> LLMStreamError:
    """The error that ends a stream; anything foreign, a success or a hang fails the test."""
    error = bounded(stream, read).error
    assert isinstance(error, LLMStreamError), f"foreign, or none at all: {error!r}"
    return error


def phase_of(stream: Stream) -> str:
    """The phase of the running attempt; "backoff" between two, "" before the first."""
    attempts = stream.attempts
    if not attempts:
        return ""
    return attempts[-1].phase if attempts[-1].error is None else "backoff"


def socket_of(stream: Stream) -> socket.socket | None:
    """The socket that a stream waits on just now."""
    connection = stream._call.ctx.scope._connection
    return None if connection is None else connection._sock


def until_blocked(thread: threading.Thread) -> None:
    """Waits until a thread is blocked in a system call, and not only about to be: Python runs a
    signal's handler between two bytecodes, so one that comes just before a blocking call waits
    with it."""
    stat = Path(f"/proc/self/task/{thread.native_id}/stat")
    if not stat.exists():
        time.sleep(0.3)
        return
    asleep = 0

    def is_blocked() -> bool:
        nonlocal asleep
        asleep = asleep + 1 if stat.read_text().rpartition(")")[2].split()[0] == "S" else 0
        return asleep > 20

    eventually(is_blocked, f"{thread.name} is blocked")


def signal_main(number: signal.Signals) -> None:
    """Sends the main thread a signal once it is blocked. In another thread."""
    main = threading.main_thread()
    until_blocked(main)
    signal.pthread_kill(main.ident, number)  # type: ignore[arg-type]


def clocks(seconds: float = 60.0, **settings: float | None) -> Timeouts:
    """All clocks at `seconds`, far away, except those given."""
    names: Sequence[str] = ("connect", "first_token", "idle", "silence")
    return Timeouts(**{**dict.fromkeys(names, seconds), **settings})


@pytest.fixture
def stuck_dns(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names are not resolved until the test is over. The event tells that somebody has asked."""
    asked, over = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(*args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            asked.set()
            over.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_AGAIN, "the test is over")
        return real(*args, flags=flags, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    over.set()


@pytest.fixture
def no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names under .invalid are not known, without asking a resolver that may be slow."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(host, str) and host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def in_threads(count: int, work: Callable[[int], Any]) -> list[BaseException]:
    """Runs `work` with 0, 1, ... in a thread each, to their ends; what they raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def hold_for_ever(lock: Any) -> None:
    """A daemon thread has the lock, and keeps it; returns when it has it."""
    held: queue.SimpleQueue[None] = queue.SimpleQueue()

    def hold() -> None:
        with lock:
            held.put(None)
            queue.SimpleQueue[None]().get()

    threading.Thread(target=hold, daemon=True).start()
    held.get()


# ---- processes ---------------------------------------------------------------------------------


# Since Python 3.12 a fork of a process with several threads is warned of: what it may break is what
# these tests look at. (A process that forks on purpose has its output compared.)
_FORKS = "ignore:This process:DeprecationWarning"


class _Process(subprocess.Popen[str]):
    """Where the test fails before the process has ended, the process is ended, and shows where it
    was. (Popen would wait for it.)"""

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None and self.poll() is None:
            print("the process was ended; it said:", self.aborted())
        super().__exit__(kind, error, traceback)

    def aborted(self) -> str:
        """End it; returns the rest of what it says, with the stacks of its threads."""
        self.send_signal(signal.SIGABRT)
        try:
            return self.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            self.kill()
            return self.communicate()[0]


def python(code: str, *args: str, **environment: str) -> _Process:
    """A Python process that runs `code`; its output is one text.

    Each line leaves it whole: unbuffered (`-u`), print writes a line and its end one after the
    other, and a line of another thread or process may come between them.
    """
    lines = "import sys; sys.stdout.reconfigure(line_buffering=True)\n"
    return _Process(
        [sys.executable, "-X", "faulthandler", "-c", lines + textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=TESTS,  # -c puts it first on the path
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONWARNINGS": _FORKS, **environment},
    )


def output_of(code: str, *args: str, **environment: str) -> str:
    """What the code prints; it has to end by itself, in time and with status 0."""
    with python(code, *args, **environment) as process:
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the process hangs; it said: {process.aborted()}")
    assert process.returncode == 0, output
    return output
