"""Where the library runs: behind proxies, in forked and spawned children, under gevent, in a
notebook's kernel, at a terminal with Ctrl-C, in two hundred threads; and what is left of its
secrets in what all of them print."""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import logging
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kernels import Kernel, until_asleep
from support import (
    ANSWER,
    AT_ONCE,
    BLOCKS,
    ONCE,
    PACKAGE,
    PATIENCE,
    PROMPT,
    TESTS,
    TWO_TOKENS,
    Address,
    RawServer,
    Reading,
    clocks,
    failure,
    open_sockets,
    other_threads,
    output_of,
    python,
    read_request,
    socket_of,
    watchdogs,
)
from test_classify import SHAPES
from test_connections import Tunnel, named

from llmstream import Client, ConnectionFailed, RetryPolicy, Stream, errors
from llmstream._core.dialects import APIS as ROWS
from llmstream.testing import Answer, Cut, LLMServer, Pings, Recorded, Reply, Silence
from llmstream.testing.answers import sse_block
from llmstream.testing.script import LAST_CHUNK, chunk, prompt_text
from llmstream.testing.tls import server_context

APIS = ("responses", "messages", "chat", "gemini")
AUTH = {
    "responses": ("authorization", "Bearer the-key"),
    "messages": ("x-api-key", "the-key"),
    "chat": ("authorization", "Bearer the-key"),
    "gemini": ("x-goog-api-key", "the-key"),
}
SOON = 5.0  # seconds in which what happens at once has happened, on the busiest machine

pytestmark = pytest.mark.usefixtures("nothing_left")


def by_prompt(recorded: Recorded) -> Reply | Answer:
    """What the prompt names; else the prompt comes back."""
    prompt = prompt_text(recorded)
    api = next(name for name, path in PATHS.items() if recorded.path.endswith(path))
    if prompt == "headers":
        return Reply(before=[Silence()])
    if prompt == "first_token":
        return Reply([Pings(0.02)])
    if prompt == "body":
        return Reply([*Answer("one two three").blocks(api)[:-4], Silence()])
    if prompt == "tokens":
        return Reply([*TWO_TOKENS, Silence()])
    if prompt == "pings":
        return Reply([*TWO_TOKENS, Pings(0.02)])
    if prompt == "backoff":
        return Reply.error(500)
    return LLMServer.echo(recorded)


PATHS = {
    "responses": "/responses",
    "messages": "/messages",
    "chat": "/chat/completions",
    "gemini": ":streamGenerateContent?alt=sse",
}


def client_of(api: str, base: str, **settings: Any) -> Client:
    """A client of any of the four APIs; `base` ends before the version."""
    base_url = base + ROWS[api].base_path
    known = {"api_key": "the-key", "model": "m", "retry": ONCE, "timeouts": clocks(8.0)}
    return Client(api, base_url=base_url, **{**known, **settings})


# ---- proxies and certificates of the environment -----------------------------------------------


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc that has something for every host."""
    file = tmp_path / "netrc"
    hosts = ("llm.test", "localhost", "127.0.0.1", "llm.invalid")
    lines = [f"machine {host} login me password marked-netrc\n" for host in hosts]
    file.write_text("".join(lines) + "default login me password marked-netrc\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of these tests lead to this machine."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        known = host in ("llm.test", "llm.invalid")
        return real("127.0.0.1" if known else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# the environment ("P": the proxy) -> whether https goes through the proxy
ROUTES = {
    "HTTPS_PROXY": ({"HTTPS_PROXY": "P"}, True),
    "https_proxy": ({"https_proxy": "P"}, True),
    "ALL_PROXY": ({"ALL_PROXY": "P"}, True),
    "all_proxy": ({"all_proxy": "P"}, True),
    "the scheme's own first": ({"ALL_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "P"}, True),
    "NO_PROXY of another": ({"HTTPS_PROXY": "P", "NO_PROXY": "example.com"}, True),
    "HTTP_PROXY": ({"HTTP_PROXY": "P"}, False),
    "NO_PROXY": ({"HTTPS_PROXY": "P", "NO_PROXY": "example.com, llm.test"}, False),
    "no_proxy": ({"https_proxy": "P", "no_proxy": "llm.test"}, False),
    "NO_PROXY *": ({"ALL_PROXY": "P", "NO_PROXY": "*"}, False),
    "an empty one": ({"HTTPS_PROXY": "P", "https_proxy": ""}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "is_used"), ROUTES.values(), ids=ROUTES.keys())
def test_https_takes_the_way_that_the_environment_says(
    tls_server: LLMServer,
    raw_server: Callable[..., RawServer],
    monkeypatch: pytest.MonkeyPatch,
    netrc: None,
    names: None,
    environment: dict[str, str],
    is_used: bool,
) -> None:
    """Each variable, for the four APIs: the key reaches the service as it is, .netrc or not; the
    proxy is given its own user and password, and nothing else is."""
    assert tls_server.ca_file is not None
    tunnel = Tunnel(tls_server.url)
    proxy = raw_server(tunnel)
    address = proxy.url.replace("://", "://user:p%40ss@")
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("P", address) if value == "P" else value)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls_server.ca_file)
    base = named(tls_server).removesuffix("/v1")
    for api in APIS:
        with client_of(api, base) as client:
            assert client.stream(PROMPT).result().text == "Hello, world!"
    for api, request in zip(APIS, tls_server.requests, strict=True):
        name, value = AUTH[api]
        assert request.headers[name] == value
        assert [n for n in request.headers if "the-key" in request.headers[n]] == [name]
        assert "proxy-authorization" not in request.headers
        assert not any("marked-netrc" in value for value in request.headers.values())
    assert len(tunnel.heads) == (len(APIS) if is_used else 0)
    for head in tunnel.heads:
        assert head.startswith(b"CONNECT llm.test")
        assert b"Basic " + base64.b64encode(b"user:p@ss") in head
        assert b"the-key" not in head


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_http_takes_the_way_that_the_environment_says(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch, netrc: None, variable: str
) -> None:
    """A proxy of plain HTTP passes each API's key on, and gets its own password."""
    monkeypatch.setenv(variable, server.url.replace("://", "://user:p%40ss@"))
    for api in APIS:
        with client_of(api, "http://llm.invalid") as client:
            assert client.stream(PROMPT).result().text == "Hello, world!"
    for api, request in zip(APIS, server.requests, strict=True):
        name, value = AUTH[api]
        assert request.path.startswith(f"http://llm.invalid{ROWS[api].base_path or '/v1'}/")
        assert request.headers[name] == value
        given = base64.b64decode(request.headers["proxy-authorization"].removeprefix("Basic "))
        assert given == b"user:p@ss"
        assert "the-key" not in request.headers["proxy-authorization"]


def test_without_a_key_nobody_is_given_one(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch, netrc: None
) -> None:
    """A local server without a key gets no authorization, for all that .netrc says."""
    for api in APIS:
        with client_of(api, server.url, api_key=None) as client:
            client.stream(PROMPT).result()
    for request in server.requests:
        own = {"authorization", "x-api-key", "api-key", "x-goog-api-key"}
        assert not own & set(request.headers)


def test_a_proxy_that_refuses_is_named_without_its_password(
    tls_server: LLMServer,
    raw_server: Callable[..., RawServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The proxy's password is in no message, cause, log or pickle; nor is the key."""
    caplog.set_level(logging.DEBUG)
    proxy = raw_server(Tunnel(answer=b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n"))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:marked-password@"))
    for api in APIS:
        base = named(tls_server).removesuffix("/v1")
        with client_of(api, base, api_key="marked-key") as client:
            error = failure(client.stream("marked-prompt"), Stream.result)
        assert type(error) is ConnectionFailed
        assert "marked-" not in "".join(everything_shown(error))
    assert "marked-" not in caplog.text


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_certificates_of_the_environment(
    tls_server: LLMServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A company's CA file, by either variable, for the three APIs, on a reused connection too."""
    assert tls_server.ca_file is not None
    monkeypatch.setenv(variable, tls_server.ca_file)
    for api in APIS:
        with client_of(api, tls_server.url) as client:
            for _ in range(2):
                assert client.stream(PROMPT).result().text == "Hello, world!"
    assert tls_server.connections == len(APIS)


def test_one_ca_file_goes_before_the_other(
    tls_server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REQUESTS_CA_BUNDLE, then CURL_CA_BUNDLE."""
    assert tls_server.ca_file is not None
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls_server.ca_file)
    monkeypatch.setenv("CURL_CA_BUNDLE", "/nowhere/ca.pem")
    with client_of("chat", tls_server.url) as client:
        assert client.stream(PROMPT).result().text == "Hello, world!"


def test_tcp_keepalive(any_server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Middleboxes forget connections that say nothing for minutes: TCP itself asks earlier, also
    where a stream's own clocks are off."""
    any_server.script(Reply([*TWO_TOKENS, Silence()]))
    stream = client_for(any_server).stream(PROMPT)
    next(stream)
    sock = socket_of(stream)
    assert sock is not None
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    # name -> the most that makes sense: seconds, seconds, times
    bounds = {"TCP_KEEPIDLE": 120, "TCP_KEEPALIVE": 120, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 10}
    known = [name for name in bounds if hasattr(socket, name)]
    values = {n: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in known}
    stream.close()
    for name, value in values.items():
        assert 0 < value <= bounds[name], f"{name} is {value}"


# ---- children ----------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# What a child does with a client that it inherited: its streams work, so do its clocks.
CHILD = """
    import os, sys, threading, time
    from support import eventually, watchdogs
    from llmstream import Cancelled, Client, RetryPolicy, StreamTimeout, Timeouts

    def ask(client, who):
        result = client.stream(who).result()
        assert (result.text, len(result.attempts)) == (who, 1), result

    def a_child_is_fine(client, who):
        ask(client, f"{who} once")
        failed = {}

        def fails(clock, prompt):
            try:
                client.stream(prompt, timeouts=Timeouts(**{clock: 0.2})).result()
            except StreamTimeout as exc:
                failed[clock] = exc.clock

        begun = time.monotonic()
        cases = (("idle", "pings"), ("silence", "tokens"), ("total", "headers"),
                 ("first_token", "first_token"))
        failing = [threading.Thread(target=fails, args=case) for case in cases]
        for thread in failing:
            thread.start()
        for thread in failing:
            thread.join(10)
        assert failed == {clock: clock for clock, _ in cases}, failed
        assert 0.15 < time.monotonic() - begun < 5, "the clocks of the child"
        assert len(watchdogs()) == 1

        stream = client.stream("tokens")
        woken = []

        def read():
            try:
                stream.result()
            except Cancelled:
                woken.append(True)

        reading = threading.Thread(target=read)
        reading.start()
        eventually(lambda: stream.text == "one two", "the child is in the middle")
        stream.cancel()
        reading.join(5)
        assert woken == [True], "cancelled in the child"
        ask(client, f"{who} again")
"""

BUSY = (
    CHILD
    + """
    base_url, held_url, ca_file = sys.argv[1:]
    settings = {"verify": ca_file or True, "retry": RetryPolicy(max_attempts=1)}
    client = Client(base_url=base_url, **settings)
    holder = Client(base_url=held_url, **settings)
    ask(client, "parent before")
    mine = holder.stream("held")
    tokens = iter(mine)
    first = next(tokens)
    streams = [holder.stream("held") for _ in range(4)]
    texts = []
    threads = [threading.Thread(target=lambda s=s: texts.append(s.result().text)) for s in streams]
    for thread in threads:
        thread.start()
    eventually(lambda: all(s.text == "one two" for s in streams), "all are in the middle")
    pid = os.fork()
    if not pid:
        try:
            a_child_is_fine(client, "child")
            mine.cancel()  # what it inherited is not its own
            del tokens, mine, streams
            holder.close()
            client.close()
            sys.exit(0)  # with all that an interpreter does at its end
        except Exception as exc:
            print("child:", repr(exc), flush=True)
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    print("child ended", status, flush=True)
    ask(client, "parent after")
    texts.append("".join([first, *tokens]))
    for thread in threads:
        thread.join()
    print(texts)
    client.close()
    holder.close()
"""
)


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
def test_a_fork_of_a_busy_parent(
    tls_server: LLMServer, server: LLMServer, raw_server: Callable[..., RawServer], tls: bool
) -> None:
    """A parent with a stream of its own and four threads in the middle of theirs forks: the child
    streams, its clocks fire, its cancels wake; then the parent's five go on to their ends."""
    service = tls_server if tls else server
    service.default = by_prompt
    gate = threading.Event()

    def held(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(chunk(b"".join(TWO_TOKENS)))
        assert gate.wait(PATIENCE)
        sock.sendall(chunk(b"".join(BLOCKS[len(TWO_TOKENS) :])) + LAST_CHUNK)
        sock.recv(1)

    holder = raw_server(held, server_context("127.0.0.1") if tls else None)
    arguments = (service.base_url, holder.base_url, service.ca_file or "")
    with python(BUSY, *arguments, PYTHONWARNINGS="ignore") as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            gate.set()
            output = said + process.communicate(timeout=PATIENCE)[0]
        finally:
            gate.set()
            process.kill()
    expected = ["one two three four"] * 5
    assert output == f"child ended 0\n{expected}\n"
    assert process.returncode == 0
    parents = {r.connection for r in service.requests if prompt_text(r).startswith("parent")}
    others = {r.connection for r in service.requests if not prompt_text(r).startswith("parent")}
    assert parents.isdisjoint(others), "the child has used a connection of its parent"


FIRST = (
    CHILD
    + """
    client = Client(base_url=sys.argv[1], verify=sys.argv[2] or True,
                    retry=RetryPolicy(max_attempts=1))
    unused = client.stream("made by the parent")
    children = []
    for number in range(2):
        pid = os.fork()
        if not pid:
            try:
                a_child_is_fine(client, f"child {number}")
                assert unused.result().text == "made by the parent"
                client.close()
                os._exit(0)
            except BaseException as exc:
                print("child:", repr(exc), flush=True)
                os._exit(1)
        children.append(pid)
    ask(client, "parent")
    print([os.waitpid(pid, 0)[1] for pid in children])
    a_child_is_fine(client, "parent")
    assert unused.result().text == "made by the parent"
    client.close()
"""
)


@pytest.mark.slow
@needs_fork
def test_a_fork_before_the_first_use(tls_server: LLMServer) -> None:
    """Clocks, cancels and streams of children of a client that nobody has used yet; a stream made
    before the fork may be used once on each side."""
    tls_server.default = by_prompt
    arguments = (tls_server.base_url, tls_server.ca_file or "")
    assert output_of(FIRST, *arguments, PYTHONWARNINGS="ignore") == "[0, 0]\n"


POOL = (
    CHILD
    + """
    import multiprocessing

    client = Client(base_url=sys.argv[1], retry=RetryPolicy(max_attempts=1))

    def work(number):
        a_child_is_fine(client, f"child {number}")
        return os.getpid()

    if __name__ == "__main__":
        multiprocessing.set_start_method(sys.argv[2])
        ask(client, "parent before")
        with multiprocessing.Pool(2) as pool:
            working = pool.map_async(work, range(4))
            ask(client, "parent meanwhile")
            pids = working.get(60)
            pool.close()
            pool.join()
        assert os.getpid() not in pids
        ask(client, "parent after")
        client.close()
        print("fine")
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param("fork", marks=needs_fork), "spawn"])
def test_multiprocessing(server: LLMServer, tmp_path: Path, method: str) -> None:
    """The workers of a pool stream with the module's client, however they are started."""
    server.default = by_prompt
    script = tmp_path / "pool.py"  # a spawned child imports it
    script.write_text("\n".join(line[4:] for line in POOL.splitlines()))
    done = subprocess.run(
        [sys.executable, "-u", str(script), server.base_url, method],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PACKAGE), str(TESTS)]),
            "PYTHONWARNINGS": "ignore",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("fine\n", 0)
    server.wait_all_closed()


# ---- gevent ------------------------------------------------------------------------------------

GEVENT = """
    from gevent import monkey
    monkey.patch_all()
    import gevent, os, sys, threading, time
    from gevent.event import Event
    from support import open_sockets, other_threads, phase_of, watchdogs
    from llmstream import Cancelled, Client, LLMStreamError, RetryPolicy, Timeouts

    base_url, ca_file, hole, deaf = sys.argv[1:]

    def client_of(base_url, **settings):
        known = {"verify": ca_file or True, "retry": RetryPolicy(max_attempts=1)}
        return Client(base_url=base_url, **{**known, **settings})

    client = client_of(base_url)
    others = {
        "connect": client_of(hole),
        "tls": client_of(deaf),
        "dns": client_of("http://llm.invalid/v1"),
        "backoff": client_of(base_url, retry=RetryPolicy(base=60, cap=60)),
    }
    over = Event()
    real = gevent.socket.getaddrinfo

    def getaddrinfo(host, *args, flags=0, **kwargs):
        if host == "llm.invalid" and not flags & gevent.socket.AI_NUMERICHOST:
            over.wait(30)
            raise gevent.socket.gaierror(-2, "the test is over")
        return real(host, *args, flags=flags, **kwargs)

    gevent.socket.getaddrinfo = sys.modules["socket"].getaddrinfo = getaddrinfo

    def until(condition, what):
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, what
            gevent.sleep(0.002)

    def spawned(function, *args):
        def run():
            try:
                return function(*args)
            except BaseException as exc:
                return exc
        return gevent.spawn(run)

    def got(greenlet):
        value = greenlet.get(timeout=15)
        if isinstance(value, BaseException) and not isinstance(value, LLMStreamError):
            raise value
        return value

    # Nobody holds up the loop: a greenlet that only counts goes on counting.
    late = []

    def count():
        while True:
            before = time.monotonic()
            gevent.sleep(0.01)
            late.append(time.monotonic() - before)

    counting = gevent.spawn(count)

    # each clock, all at the same time, each in the phases that it has to cover
    far = dict.fromkeys(("connect", "first_token", "idle", "silence"), 60.0)

    def dies(clock, where):
        begun = time.monotonic()
        limits = Timeouts(**{**far, clock: 0.3})
        try:
            others.get(where, client).stream(where, timeouts=limits).result()
        except LLMStreamError as exc:
            assert getattr(exc, "clock", None) == clock, (clock, where, repr(exc))
            assert 0.25 < time.monotonic() - begun < 5, (clock, where)
            return exc
        raise AssertionError(f"{clock} did not end {where}")

    dying = [
        spawned(dies, clock, where)
        for clock, where in (
            ("connect", "connect"), ("connect", "tls"), ("connect", "dns"),
            ("total", "connect"), ("total", "tls"), ("total", "dns"), ("total", "headers"),
            ("total", "tokens"), ("first_token", "headers"),
            ("first_token", "first_token"), ("idle", "tokens"), ("idle", "pings"),
            ("silence", "tokens"),
        )
    ]
    for greenlet in dying:
        got(greenlet)

    # a cancel from another greenlet, in each phase
    wanted = {"dns": "connect", "tokens": "body"}
    for where in ("dns", "connect", "tls", "headers", "first_token", "tokens", "pings", "backoff"):
        stream = others.get(where, client).stream(where)
        reading = spawned(stream.result)
        until(lambda: phase_of(stream) == wanted.get(where, where.replace("pings", "body")), where)
        gevent.sleep(0)
        begun = time.monotonic()
        stream.cancel("enough")
        assert time.monotonic() - begun < 5, "cancel returns at once"
        assert type(got(reading)) is Cancelled, where
        assert time.monotonic() - begun < 5, where

    # a greenlet that is killed, or runs out of gevent's own time, frees its stream
    streams = [client.stream("tokens") for _ in range(2)]
    killed = gevent.spawn(streams[0].result)
    until(lambda: streams[0].text == "one two", "in the middle")
    killed.kill(timeout=5)

    def gives_up():
        with gevent.Timeout(0.2, False):
            streams[1].result()
            return "whole"
        return "given up"

    assert got(spawned(gives_up)) == "given up"
    for stream in streams:
        try:
            stream.result()
            raise AssertionError("it is over")
        except Cancelled:
            pass

    # fifty at once, each its own
    prompts = [f"greenlet {n} " + "x" * n for n in range(50)]
    asked = [spawned(lambda p=p: client.stream(p).result().text) for p in prompts]
    assert [got(greenlet) for greenlet in asked] == prompts
    views = [spawned(lambda p=p: "".join(client.stream(p))) for p in prompts]
    assert [got(greenlet) for greenlet in views] == prompts
    counting.kill()
    assert max(late) < 5, max(late)
    assert len(watchdogs()) == 1

    # leaving early, closing, and the end
    for token in client.stream("tokens"):
        break
    running = [client.stream("tokens") for _ in range(3)]
    reading = [spawned(stream.result) for stream in running]
    until(lambda: all(s.text == "one two" for s in running), "all are in the middle")
    client.close()
    assert [type(got(greenlet)) for greenlet in reading] == [Cancelled] * 3
    over.set()
    for other in others.values():
        other.close()
    until(lambda: {t.name for t in other_threads()} <= {"MainThread"}, "no thread is left")
    until(lambda: len(open_sockets()) <= 1, "no socket is left")  # gevent's own
    print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
def test_gevent(server: LLMServer, tls_server: LLMServer, unanswering: Address, tls: bool) -> None:
    """Under gevent's monkey patches greenlets are threads: clocks fire, cancels wake, fifty streams
    run at once, nobody holds up the loop, and the process ends by itself."""
    pytest.importorskip("gevent")
    service = tls_server if tls else server
    service.default = by_prompt
    with LLMServer(tls=True, handshake=False) as deaf:
        arguments = (tls_server.ca_file or "", unanswering.base_url, deaf.base_url)
        assert output_of(GEVENT, service.base_url, *arguments) == "fine\n"
        deaf.wait_all_closed()
    service.wait_all_closed()


# ---- Ctrl-C ------------------------------------------------------------------------------------

PHASES = """
    import os, signal, socket, sys, threading, time
    from support import eventually, open_sockets, phase_of, until_blocked
    from llmstream import Cancelled, Client, RetryPolicy

    base_url, ca_file, hole, deaf = sys.argv[1:]
    real = socket.getaddrinfo

    def getaddrinfo(host, *args, flags=0, **kwargs):
        if host == "llm.invalid" and not flags & socket.AI_NUMERICHOST:
            time.sleep(60)
        return real(host, *args, flags=flags, **kwargs)

    socket.getaddrinfo = getaddrinfo
    once = RetryPolicy(max_attempts=1)
    client = Client(base_url=base_url, verify=ca_file or True, retry=once)
    others = {
        "dns": Client(base_url="http://llm.invalid/v1", retry=once),
        "connect": Client(base_url=hole, retry=once),
        "tls": Client(base_url=deaf, retry=once),
        "backoff": Client(base_url=base_url, verify=ca_file or True,
                          retry=RetryPolicy(base=60, cap=60)),
    }
    wanted = {"dns": "connect", "not started": "", "loop body": "body", "result": "body",
              "with body": "body", "with exit": "body", "tokens": "body"}

    def tell(stream, phase):
        eventually(lambda: phase_of(stream) == wanted.get(phase, phase), phase)
        if phase == "result":
            eventually(lambda: stream.text == "one two", phase)
        until_blocked(threading.main_thread())
        print("reached", phase, flush=True)

    def interrupted_by_its_own_hand(stream):
        # Ctrl-C that comes when the with block is being left, before it has closed anything.
        real = stream._call.close
        def close():
            stream._call.close = real
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)
        stream._call.close = close

    def use(stream, phase):
        if phase == "not started":
            time.sleep(60)
        elif phase == "loop body":
            for _ in stream:
                time.sleep(60)
        elif phase == "result":
            stream.result()
        elif phase == "with body":
            with stream:
                next(stream)
                time.sleep(60)
        elif phase == "with exit":
            with stream:
                next(stream)
                print("reached", phase, flush=True)
                interrupted_by_its_own_hand(stream)
        else:
            for _ in stream:
                pass

    for phase in ("not started", "dns", "connect", "tls", "headers", "first_token", "tokens",
                  "loop body", "result", "with body", "with exit", "backoff"):
        prompt = phase if phase in ("headers", "first_token", "backoff") else "tokens"
        stream = others.get(phase, client).stream(prompt)
        teller = threading.Thread(target=tell, args=(stream, phase))
        if phase != "with exit":
            teller.start()
        times = 0
        try:
            try:
                use(stream, phase)
            except KeyboardInterrupt:
                times += 1
                raise
        except KeyboardInterrupt as exc:
            times += 1
            assert exc.__context__ is None and exc.__cause__ is None, repr(exc.__context__)
        assert times == 2
        if phase != "with exit":
            teller.join()
        if phase not in ("not started", "loop body", "with exit"):
            try:
                stream.result()
                raise AssertionError("it is over")
            except Cancelled:
                pass
        del stream, teller  # of what nobody was waiting in, the last reference goes
        print("interrupted", flush=True)
        second = client.stream(f"second after {phase}")
        assert "".join(second) == f"second after {phase}"
    client.close()
    for other in others.values():
        other.close()
    eventually(lambda: not open_sockets(), "all sockets are closed")
    print("free")
    sys.stdout.flush()
    os._exit(0)  # a resolver sleeps
"""


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
def test_ctrl_c_in_every_phase_and_on_it_goes(
    server: LLMServer, tls_server: LLMServer, unanswering: Address, tls: bool
) -> None:
    """One Ctrl-C a phase, in one process: KeyboardInterrupt comes once and alone, the server sees
    the connection close, and the next stream brings its own answer."""
    service = tls_server if tls else server
    service.default = by_prompt
    with LLMServer(tls=True, handshake=False) as deaf:
        arguments = (tls_server.ca_file or "", unanswering.base_url, deaf.base_url)
        with python(PHASES, service.base_url, *arguments) as process:
            try:
                said = interrupted_where_it_says(process, service)
            finally:
                process.kill()
        deaf.wait_all_closed()
    assert process.returncode == 0, said
    assert said[-1] == "free\n"
    assert len(said) == 2 * 12 + 1
    service.wait_all_closed()


def interrupted_where_it_says(process: subprocess.Popen[str], service: LLMServer) -> list[str]:
    """Sends SIGINT at each "reached ...", checks that the process goes on at once, and that the
    server sees the stream's connection go."""
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if not line.startswith("reached"):
            continue
        phase = line.removeprefix("reached ").strip()
        begun = time.monotonic()
        if phase != "with exit":  # that one interrupts itself
            process.send_signal(signal.SIGINT)
        said.append(process.stdout.readline())
        assert said[-1] == "interrupted\n", "".join(said) + process.stdout.read()
        assert time.monotonic() - begun < SOON, phase
        if phase not in ("not started", "dns", "connect", "tls", "backoff"):
            asked = [r for r in service.requests if not prompt_text(r).startswith("second")]
            assert service.wait_closed(asked[-1]) - begun < SOON, phase
    process.wait(PATIENCE)
    return said


UNCAUGHT = """
    import sys, threading
    from support import phase_of, eventually, until_blocked
    from llmstream import Client

    client = Client(base_url=sys.argv[1])
    stream = client.stream(sys.argv[2])

    def tell():
        eventually(lambda: phase_of(stream) == sys.argv[3], "the phase is reached")
        until_blocked(threading.main_thread())
        print("reached", flush=True)

    threading.Thread(target=tell).start()
    for token in stream:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)]
)
@pytest.mark.parametrize(("prompt", "phase"), [("headers", "headers"), ("tokens", "body")])
def test_a_program_that_catches_nothing(
    server: LLMServer, number: int, status: int, prompt: str, phase: str
) -> None:
    """It ends as any other does, by the signal itself, at once; with one KeyboardInterrupt, no
    other exception, in what it prints, or with nothing at all."""
    server.default = by_prompt
    with python(UNCAUGHT, server.base_url, prompt, phase) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "reached\n"
            begun = time.monotonic()
            process.send_signal(number)
            output = process.communicate(timeout=PATIENCE)[0]
        finally:
            process.kill()
    assert process.returncode == status
    assert server.wait_closed(0) - begun < SOON
    if number == signal.SIGTERM:
        assert output == ""
    else:
        assert output.splitlines()[-1] == "KeyboardInterrupt"
        assert output.count("KeyboardInterrupt") == output.count("Traceback") == 1
        assert "Exception ignored" not in output


EIGHT = """
    import sys, threading
    from concurrent.futures import ThreadPoolExecutor
    from support import eventually, until_blocked
    from llmstream import Cancelled, Client

    base_url, how = sys.argv[1:]
    ended = []

    def read(stream):
        try:
            for token in stream:
                pass
        except Cancelled:
            ended.append(stream)

    def tell():
        eventually(lambda: all(s.text == "one two" for s in streams), "all are in the middle")
        until_blocked(threading.main_thread())
        print("reached", flush=True)

    client = Client(base_url=base_url)
    streams = [client.stream("tokens") for _ in range(8)]
    telling = threading.Thread(target=tell)
    telling.start()
    try:
        if how == "pool":
            with ThreadPoolExecutor(8) as pool, client:
                for future in [pool.submit(read, stream) for stream in streams]:
                    future.result()
        else:
            daemon = how == "daemons"
            threads = [threading.Thread(target=read, args=[s], daemon=daemon) for s in streams]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except KeyboardInterrupt:
                if how == "cancel":
                    for stream in streams:
                        stream.cancel("Ctrl-C")
                    for thread in threads:
                        thread.join()
                raise
    except KeyboardInterrupt:
        print("interrupted")
    telling.join()
    if how != "daemons":
        # Not by join(): interrupted, it takes its thread for ended (CPython before 3.13).
        eventually(lambda: len(ended) == 8, "all have ended")
        print("all ended")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pool", "cancel", "daemons"])
def test_eight_streams_stop_on_one_ctrl_c(server: LLMServer, how: str) -> None:
    """Eight threads read, the main thread waits for them: one Ctrl-C ends the process."""
    server.default = by_prompt
    with python(EIGHT, server.base_url, how) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first == "reached\n", first + process.stdout.read()
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=PATIENCE)[0]
            assert time.monotonic() - begun < SOON
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert output == "interrupted\n" + ("" if how == "daemons" else "all ended\n")
    server.wait_all_closed()


# ---- a notebook's kernel -----------------------------------------------------------------------

SETUP = """
import sys, time
from llmstream import Client, RetryPolicy
client = Client(base_url={base_url!r}, retry=RetryPolicy(max_attempts=1))
"""
CELLS = {
    "a loop": (
        "for tok in client.stream('tokens'):\n    print(tok, end='', flush=True)",
        "one two",
    ),
    "a named stream": (
        "s = client.stream('tokens')\nfor tok in s:\n    print(tok, end='', flush=True)",
        "one two",
    ),
    "result()": ("print('asked', flush=True)\nclient.stream('headers').result()", "asked\n"),
    "a with block": (
        "with client.stream('pings') as s:\n  for tok in s:\n    print(tok, end='', flush=True)",
        "one two",
    ),
    "the loop's body": (
        "for tok in client.stream('tokens'):\n    print(tok, end='', flush=True); time.sleep(60)",
        "one",
    ),
}


@pytest.mark.slow
def test_a_notebook_whose_cell_is_interrupted(server: LLMServer, kernel: Kernel) -> None:
    """The kernel's interrupt ends a cell that streams, at once, wherever it is; the connection
    closes though the notebook keeps the traceback; the next cell prints its own tokens, no other.
    """
    server.default = by_prompt
    cell = kernel.start(SETUP.format(base_url=server.base_url))
    assert kernel.outcome(cell)["status"] == "ok"
    for name, (code, shown) in CELLS.items():
        before = len(server.requests)
        cell = kernel.start(code)
        assert kernel.printed(cell, lambda text, s=shown: text == s) == shown, name
        (request,) = server.wait_requests(before + 1)[before:]
        until_asleep(kernel.manager.provisioner.pid)
        begun = time.monotonic()
        kernel.manager.interrupt_kernel()
        outcome = kernel.outcome(cell)
        assert time.monotonic() - begun < SOON, name
        assert (outcome["status"], outcome.get("ename")) == ("error", "KeyboardInterrupt"), name
        assert server.wait_closed(request) - begun < SOON, name
        assert kernel.printed(cell, lambda _: False) == "", name
        following = kernel.start(
            f"for tok in client.stream({'after ' + name!r}):\n    print(tok, end='', flush=True)"
        )
        assert kernel.outcome(following)["status"] == "ok", name
        assert kernel.printed(following, lambda _: False) == f"after {name}"
    cell = kernel.start("client.close()\nimport gc, threading\nprint(threading.active_count())")
    assert kernel.outcome(cell)["status"] == "ok"
    server.wait_all_closed()


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "for outcome in client.parallel(prompts):\n    print(outcome.text)",
        "batch = client.parallel(prompts)\nbatch.results()",
        "batch = client.parallel(prompts)\nfor index, chunk in batch.chunks(): pass",
    ],
)
def test_a_notebook_whose_parallel_prompts_are_interrupted(
    code: str, server: LLMServer, kernel: Kernel
) -> None:
    """One interrupt ends all eight streams at once, though the notebook keeps the batch; the next
    cell has its own answers, and no worker is left."""
    server.default = by_prompt
    cell = kernel.start(SETUP.format(base_url=server.base_url) + "prompts = ['tokens'] * 20")
    assert kernel.outcome(cell)["status"] == "ok"
    cell = kernel.start(code)
    server.wait_requests(8)
    until_asleep(kernel.manager.provisioner.pid)
    begun = time.monotonic()
    kernel.manager.interrupt_kernel()
    outcome = kernel.outcome(cell)
    assert (outcome["status"], outcome.get("ename")) == ("error", "KeyboardInterrupt")
    server.wait_all_closed()
    assert time.monotonic() - begun < SOON
    assert len(server.requests) == 8
    following = kernel.start(
        "print(*(r.text for r in client.parallel(['after a', 'after b']).results()))\n"
        "import threading\n"
        "def workers():\n"
        "    return [t.name for t in threading.enumerate() if t.name == 'llmstream-worker']\n"
        f"until = time.monotonic() + {PATIENCE / 2}\n"
        "while workers() and time.monotonic() < until: time.sleep(0.01)\n"
        "print(workers())"
    )
    assert kernel.outcome(following)["status"] == "ok"
    assert kernel.printed(cell, lambda _: False) == ""
    assert kernel.printed(following, lambda _: False) == "after a after b\n[]\n"


# ---- dropped half way --------------------------------------------------------------------------


def raises_in_the_loop(view: Iterator[Any]) -> None:
    with contextlib.suppress(ZeroDivisionError):
        for _ in view:
            _ = 1 / 0


def makes_a_cycle(view: Iterator[Any]) -> None:
    next(view)
    cycle: list[Any] = [view]
    cycle.append(cycle)
    del view, cycle
    gc.collect()


def ends_in_another_thread(view: Iterator[Any]) -> None:
    next(view)
    hand: queue.SimpleQueue[Any] = queue.SimpleQueue()
    hand.put(view)
    del view

    def take_and_drop() -> None:
        del_me = hand.get()
        next(del_me)

    other = threading.Thread(target=take_and_drop)
    other.start()
    other.join()


def stays_in_a_dead_generator(view: Iterator[Any]) -> None:
    def outer(inner: Iterator[Any]) -> Iterator[Any]:
        yield from inner

    wrapped = outer(view)
    del view
    next(wrapped)
    wrapped.close()  # type: ignore[attr-defined]


def once_and_no_more(view: Iterator[Any]) -> None:
    next(view)


VIEWS: dict[str, Callable[[Stream], Iterator[Any]]] = {
    "text": iter,
    "chunks": Stream.chunks,
    "events": Stream.events,
}
DROPS = {
    "raises in the loop": raises_in_the_loop,
    "a garbage cycle": makes_a_cycle,
    "in another thread": ends_in_another_thread,
    "in a wrapper": stays_in_a_dead_generator,
    "once and no more": once_and_no_more,
}


@pytest.mark.slow
@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS.keys())
def test_a_view_dropped_half_way_frees_its_call(
    any_server: LLMServer, client_for: Callable[..., Client], drop: Callable[[Any], None]
) -> None:
    """However its last reference goes, each of the three views takes its connection with it."""
    any_server.default = by_prompt
    client = client_for(any_server)
    for number, view in enumerate(VIEWS.values()):
        drop(view(client.stream("tokens")))
        any_server.wait_closed(number)
    assert client.stream(PROMPT).result().text == PROMPT
    assert len(any_server.requests) == 4


def test_a_view_outlives_its_stream_and_the_reverse(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A stream whose name is gone goes on in its view; one whose view is gone, in result()."""
    server.default = Answer(["one ", "two ", "three"])
    client = client_for(server)
    tokens = iter(client.stream(PROMPT))
    gc.collect()
    assert "".join(tokens) == "one two three"
    stream = client.stream(PROMPT)
    assert next(iter(stream)) == "one "
    gc.collect()
    assert stream.result().text == "one two three"
    assert server.connections == 1


@pytest.mark.slow
def test_a_thousand_streams_never_started(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """No thread, no socket, and no memory once they are gone, with views and without."""
    client = client_for(server)
    threads, sockets = other_threads(), open_sockets()

    def make(count: int) -> None:
        kept: list[Any] = []
        for _ in range(count):
            stream = client.stream(PROMPT)
            kept += [stream, iter(stream)]
            client.stream(PROMPT).chunks()
        assert other_threads() <= threads
        assert open_sockets() <= sockets
        assert len(client._calls) == count

    make(50)  # what is made once, is made now
    tracemalloc.start()
    try:
        make(500)
        assert len(client._calls) == 0  # without the garbage collector
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 100_000, f"{left} bytes are left"
    assert peak / 500 < 30_000, f"{peak / 500:.0f} bytes for a stream that waits"
    assert server.connections == 0
    assert client.stream(PROMPT).result().text == "Hello, world!"


LAST = """
    import atexit, gc, sys, threading
    from llmstream import Client

    client = Client(base_url=sys.argv[1], verify=sys.argv[2])
    gc.disable()

    class Holder:
        pass

    kept = [client.stream("tokens") for _ in range(3)]
    views = [iter(kept[0]), kept[1].chunks(), kept[2].events()]
    for view in views:
        next(view)
    cycle = Holder()
    cycle.itself, cycle.view = cycle, iter(client.stream("tokens"))
    next(cycle.view)
    local = threading.local()
    local.stream = client.stream("tokens")
    next(local.stream)
    never = [client.stream("tokens") for _ in range(10)]
    client.itself = client  # even the client is garbage in a circle
    sys.kept = client.stream("tokens")
    next(sys.kept)
    atexit.register(lambda: next(kept[0].chunks()) if False else print("bye"))
"""


@pytest.mark.slow
def test_streams_at_the_end_of_the_interpreter(tls_server: LLMServer) -> None:
    """Held in globals, cycles, thread-locals and modules when the interpreter ends: it ends, says
    nothing, and the connections close."""
    tls_server.default = by_prompt
    output = output_of(LAST, tls_server.base_url, tls_server.ca_file or "")
    assert output == "bye\n"
    assert len(tls_server.requests) == 6
    tls_server.wait_all_closed()


# ---- two hundred threads -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_ten_thousand_streams_of_two_hundred_threads(
    any_server: LLMServer, client_for: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    """200 threads with 50 streams each on one client: each prompt comes back to its own stream, no
    connection serves two at once, and all are there once."""
    any_server.default = any_server.echo
    client = client_for(any_server, max_connections=200, timeouts=clocks(100.0))
    unused = client.stream(PROMPT)

    def work(number: int) -> int:
        for call in range(50):
            prompt = f"thread {number} call {call} " + "x" * (number + call)
            result = client.stream(prompt).result()
            assert result.text == prompt
            assert [attempt.error for attempt in result.attempts if not attempt.resent] == [None]
        return call + 1

    begun = time.monotonic()
    workers = [Reading(unused, lambda _, n=n: work(n)) for n in range(200)]
    assert [worker.ended(within=120) for worker in workers] == [None] * 200
    assert time.monotonic() - begun < 100
    assert sum(worker.value for worker in workers) == 10_000
    prompts = {prompt_text(request) for request in any_server.requests}
    assert len(prompts) == 10_000
    # a busy machine drops some whose end came too late; most are used again and again
    assert any_server.connections < 1000
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert len(watchdogs()) == 1
    client.close()
    any_server.wait_all_closed()


# ---- errors inside a 200 -----------------------------------------------------------------------

MAY_PASS = ("RateLimitError", "OverloadedError", "ServerError")


def event(payload: Any, name: str | None = "error") -> bytes:
    return sse_block(name, payload)


FAILED = {"type": "invalid_request_error", "code": "invalid_prompt", "message": "m"}
# how it is written -> (the bytes, its class, the APIs that know it)
WRITTEN: dict[str, tuple[bytes, str, tuple[str, ...]]] = {
    "without a name": (
        event({"type": "error", "error": {"type": "invalid_request_error", "message": "m"}}, None),
        "InvalidRequestError",
        APIS,
    ),
    "a bare field": (
        event({"error": {"code": 401, "message": "m"}}, None),
        "AuthenticationError",
        APIS,
    ),
    "a bare text": (event({"error": "m"}, None), "ServerError", APIS),
    "response.failed": (
        event(
            {"type": "response.failed", "response": {"status": "failed", "error": FAILED}},
            "response.failed",
        ),
        "InvalidRequestError",
        ("responses",),
    ),
    "an error, then response.failed": (
        event({**FAILED, "type": "error", "code": "insufficient_quota"})
        + event(
            {"type": "response.failed", "response": {"status": "failed", "error": FAILED}},
            "response.failed",
        ),
        "QuotaExceededError",
        ("responses",),
    ),
    "beside choices": (
        event(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
                "error": {"code": 402, "message": "m"},
            },
            None,
        ),
        "QuotaExceededError",
        ("chat",),
    ),
    "in a choice": (
        event(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "choices": [
                    {"index": 0, "delta": {}, "error": {"code": "403", "message": "m"}},
                ],
            },
            None,
        ),
        "PermissionDeniedError",
        ("chat",),
    ),
    "a finish that failed": (
        event(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}],
            },
            None,
        ),
        "ServerError",
        ("chat",),
    ),
    "vLLM's": (
        event({"object": "error", "message": "m", "type": "BadRequestError", "code": 400}, None),
        "InvalidRequestError",
        ("chat",),
    ),
    "groq's": (
        event(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "choices": [],
                "x_groq": {"error": {"code": 404, "message": "m"}},
            },
            None,
        ),
        "InvalidRequestError",
        ("chat",),
    ),
    "plain words": (b"event: error\ndata: the model is gone\n\n", "ServerError", APIS),
    "a comment before it": (
        b": ping\n\n" + event({"error": {"code": "model_not_found", "message": "m"}}),
        "InvalidRequestError",
        APIS,
    ),
}
# Not events, but what proxies and servers put in their place; inside a body they are no events
# at all, and the answer is one that ended too early.
PAGES: dict[str, tuple[bytes, str]] = {
    "HTML": (b"<html><body>Bad gateway</body></html>\n", "NotAStreamError"),
    "JSON": (b'{"error": {"code": "invalid_api_key", "message": "m"}}\n', "AuthenticationError"),
    "JSON in a list": (b'[{"error": {"code": 400, "message": "m"}}]\n', "InvalidRequestError"),
    "other JSON": (b'{"hello": "world"}\n', "NotAStreamError"),
}


def three_tokens(api: str) -> list[bytes]:
    """The beginning of an answer, up to its third token."""
    blocks = Answer(["one ", "two ", "three ", "four"]).blocks(api)
    last = next(n for n, block in enumerate(blocks) if b"four" in block)
    return blocks[:last]


def in_a_stream(api: str) -> dict[str, tuple[bytes, str]]:
    shapes = {name: (event(row[0]), row[1].__name__) for name, row in SHAPES.items()}
    if api == "chat":
        del shapes["list"]  # Gemini's is a whole body, see PAGES
    if api == "gemini":
        shapes["list"] = shapes["list"][0], "ServerError"  # by its status, an unknown word
    return shapes | {
        name: (data, error) for name, (data, error, known_to) in WRITTEN.items() if api in known_to
    }


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_every_error_as_the_first_event(server: LLMServer, api: str) -> None:
    """Each shape over HTTP, as the first event of a 200: its class, and what may not pass costs
    one request; what may is asked again."""
    rows = in_a_stream(api)
    assert len(rows) >= 25
    with client_of(api, server.url, retry=AT_ONCE) as client:
        for name, (data, expected) in {**rows, **PAGES}.items():
            before = len(server.requests)
            server.script(Reply(data))
            stream = client.stream(PROMPT)
            if expected in MAY_PASS:
                assert stream.result().text == "Hello, world!", name
                error: Any = stream.attempts[0].error
                assert len(server.requests) - before == 2, name
            else:
                error = failure(stream)
                assert len(server.requests) - before == 1, name
                assert len(error.attempts) == 1, name
            assert type(error).__name__ == expected, name
            assert error.partial.text == "", name


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_every_error_behind_three_tokens(server: LLMServer, api: str) -> None:
    """Each shape over HTTP, after three tokens: its class, the three tokens once, one request."""
    opening = three_tokens(api)
    pages = {name: (data, "StreamTruncated") for name, (data, _) in PAGES.items()}
    pages["JSON"] = PAGES["JSON"]  # what a gateway writes before it hangs up is the reason
    with client_of(api, server.url, retry=AT_ONCE) as client:
        for name, (data, expected) in {**in_a_stream(api), **pages}.items():
            before = len(server.requests)
            server.script(Reply([*opening, data]))
            tokens: list[str] = []
            error = failure(client.stream(PROMPT), tokens.extend)
            assert type(error).__name__ == expected, name
            assert tokens == ["one ", "two ", "three "], name
            assert error.partial.text == "one two three ", name
            assert error.partial.finish in (None, "error"), name
            assert len(server.requests) - before == 1, name


# ---- secrets -----------------------------------------------------------------------------------


def attributes(root: Any) -> Iterator[Any]:
    """An object and all that its attributes lead to; tracebacks and modules are not followed."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
        elif isinstance(one, BaseException):
            waiting += [*one.args, *vars(one).values(), one.__cause__, one.__context__]
            waiting += getattr(one, "__notes__", [])
        elif isinstance(one, msgspec.Struct):
            waiting += [getattr(one, name) for name in one.__struct_fields__]
        elif type(one).__module__.startswith("llmstream"):
            waiting += vars(one).values() if hasattr(one, "__dict__") else ()


def everything_shown(error: BaseException) -> list[str]:
    """All that an error can be made to show: what an error reporter, a log or a pickle takes."""
    shown = [str(error), repr(error), repr(vars(error)), repr(error.args)]
    shown += [repr(one) for one in attributes(error)]
    shown += [one for one in attributes(error) if isinstance(one, str)]
    printed = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown.append("".join(printed.format(chain=True)))
    for one in attributes(error):
        if isinstance(one, BaseException) and one is not error:
            printed = traceback.TracebackException.from_exception(one, capture_locals=True)
            shown.append("".join(printed.format(chain=True)))
    shown += [repr(pickle.dumps(error, protocol)) for protocol in (0, 2, 5)]
    return shown


@pytest.fixture
def every_logger(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All loggers at DEBUG, those of our dependencies included."""
    caplog.set_level(logging.DEBUG)
    names = ["llmstream", "urllib3", "urllib3.connectionpool", "requests", "http", "sseclient"]
    for name in (*names, *logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


KEY, WORDS = "sk-marked-key-0123456789", "marked-prompt"
# what happens -> how the server answers, with the last for as long as it is asked
HAPPENS: dict[str, list[Any]] = {
    "a whole answer": [ANSWER],
    "400": [Reply.error(400)],
    "401": [Reply.error(401)],
    "404 in HTML": [Reply.html(status=404)],
    "500, then 403": [Reply.error(500), Reply.error(403)],
    "500 to the end": [Reply.error(500)],
    "429 that asks for too much": [Reply.error(429, headers={"retry-after": "999"})],
    "a redirect": [Reply(status=307, headers={"location": "/elsewhere"}, framing="length")],
    "no answer": [Reply(before=[Cut()])],
    "no HTTP": [Reply.raw(b"SSH-2.0-none\r\n")],
    "a broken body": [Reply.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")]
    * 2,
    "a page": [Reply.html()],
    "other JSON": [Reply.json({"hello": "world"})],
    "a broken event": [Reply(b"data: {broken\n\n")],
    "a cut": ["opening", Cut()],
    "a clean end": ["opening"],
    "no more tokens": ["opening", Silence()],
    "an error event": ["opening", event({"error": {"code": "server_error", "message": "m"}})],
    "no first token": [Reply([Silence()])],
    "a cancel": ["opening", Pings(0.02)],
}


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_a_marked_run_shows_no_mark(
    server: LLMServer,
    api: str,
    every_logger: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A key, a header and a prompt that are marked, through all that can happen: no repr, message,
    attribute, cause, pickle, log, warning, nor any traceback with its locals shows the mark."""
    printed = io.StringIO()
    again = RetryPolicy(max_attempts=2, base=0.0, cap=0.0)
    soon = {
        "no more tokens": clocks(8.0, idle=0.15),
        "no first token": clocks(8.0, first_token=0.15),
    }
    options: dict[str, Any] = {
        "instructions": "marked-instructions",
        "tools": [{"name": "f", "description": "marked-tool", "parameters": {"type": "object"}}],
        "headers": {"x-mine": "marked-header"},
        "extra_body": {"metadata": {"user": "marked-user"}},
    }
    settings = {"api_key": KEY, "retry": again}
    with client_of(api, server.url, headers={"x-ours": "marked-header"}, **settings) as client:
        for name, replies in HAPPENS.items():
            opening = three_tokens(api)
            if "opening" in replies:
                replies = [Reply([*opening, *replies[1:]])]
            server.script(*replies[:-1])
            server.default = replies[-1]  # as often as it is asked
            limits = soon.get(name, clocks(8.0))
            prompt = [{"role": "user", "content": WORDS}]
            stream = client.stream(prompt, timeouts=limits, **options)
            shown = [repr(client), str(client), repr(stream), str(stream)]
            if name == "a whole answer":
                result = stream.result()
                shown += [repr(result), repr(pickle.dumps(result.attempts))]
                shown += [repr(vars(stream)), repr(stream.state)]
            else:
                if name == "a cancel":
                    next(stream)
                    stream.cancel("enough")
                error = failure(stream, Stream.result)
                shown += everything_shown(error)
                shown += everything_shown(pickle.loads(pickle.dumps(error)))
                traceback.print_exception(error, file=printed)
                logging.getLogger("application").error("failed: %s", error, exc_info=error)
            shown += [repr(stream), repr(stream.attempts), repr(stream.trace_id)]
            for text in shown:
                at = text.find("marked-")
                assert at < 0, f"{name}: ...{text[max(0, at - 300) : at + 100]}"
        assert WORDS in server.requests[0].body.decode()  # it was sent
        assert KEY in str([*server.requests[0].headers.values()])
    assert len(every_logger.records) > len(HAPPENS)  # urllib3 has said something
    for text in (every_logger.text, printed.getvalue(), *capfd.readouterr()):
        assert "marked-" not in text
    records = [repr(vars(record)) for record in every_logger.records]
    assert not [text for text in records if "marked-" in text]


@pytest.mark.parametrize("api", APIS)
def test_a_key_that_the_server_quotes_is_in_no_traceback(server: LLMServer, api: str) -> None:
    """Servers quote keys in their errors: it is in no frame's locals either."""
    for reply in (
        Reply.error(401, message=f"Incorrect API key: {KEY}", api=api),
        Reply(event({"error": {"code": 401, "message": f"Incorrect API key: {KEY}"}})),
        Reply.json({"error": {"code": 401, "message": f"Incorrect API key: {KEY}"}}),
    ):
        server.script(reply)
        with client_of(api, server.url, api_key=KEY) as client:
            error = failure(client.stream(WORDS), Stream.result)
        assert type(error).__name__ == "AuthenticationError"
        assert "marked-" not in "".join(everything_shown(error))


REPORTER = """
    import logging, sys, warnings
    from llmstream import Client, LLMStreamError

    logging.basicConfig(level=logging.DEBUG)
    warnings.simplefilter("always")
    client = Client(sys.argv[2], base_url=sys.argv[1], api_key=sys.argv[3], model="m")
    print(repr(client))
    stream = client.stream(sys.argv[4])
    print(repr(stream))
    try:
        stream.result()
    except LLMStreamError as exc:
        logging.exception("caught")
    client.stream(sys.argv[4]).result()  # and nobody catches this one
"""


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_a_process_prints_no_mark(server: LLMServer, api: str) -> None:
    """All that a process prints, its last traceback included."""
    server.script(
        Reply([*three_tokens(api), Cut()]),
        Reply.error(401, message=f"Incorrect API key: {KEY}", api=api),
    )
    base_url = server.base_url_for(api)
    with python(REPORTER, base_url, api, KEY, WORDS, PYTHONDEVMODE="1") as process:
        output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1
    assert "StreamInterrupted" in output
    assert output.splitlines()[-1].startswith("llmstream.errors.AuthenticationError")
    assert "marked-" not in output


def test_there_is_a_shape_for_every_class_of_error() -> None:
    """The tables above go through the tree of errors, not through a corner of it."""
    classes = {row[1].__name__ for row in SHAPES.values()}
    classes |= {error for _, error, _ in WRITTEN.values()}
    service = {cls.__name__ for cls in errors.ServiceError.__subclasses__()}
    assert classes == service
