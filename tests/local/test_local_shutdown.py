"""How a local server ends, with the real model: close, exit, Ctrl-C, forks."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import threading
import time
from pathlib import Path

import pytest
import requests
from local_tools import endless, linux, refuses, run

from llmstream.local import LocalServer, shutdown

BUSY = """
import os, signal, sys, threading, time
import requests
from llmstream.local import LocalServer, shared_server

def post(server, **body):
    key = {"Authorization": f"Bearer {server.api_key}"}
    url = server.base_url + "/responses"
    return requests.post(url, json=body, headers=key, stream=True, timeout=30)

def read(server):
    try:
        with post(server, input="Tell a story", stream=True, ignore_eos=True) as response:
            for piece in response.raw.stream(65536):
                pass
    except Exception:
        pass  # cut

def interrupt_in(seconds):
    def kill():
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=kill, daemon=True).start()
"""


def test_close_ends_streams_that_run_wait_and_come_back(model: Path) -> None:
    """llama.cpp itself would wait for ever: one reader reads, one sleeps, others wait in line, and
    one comes back as often as it is cut. A default timeout for sockets changes nothing."""
    server = LocalServer(parallel=1)
    closed = threading.Event()

    def read(again: bool) -> None:
        while True:
            # urllib3's exceptions among them: that the body was cut
            with contextlib.suppress(Exception), endless(server) as response:
                for _ in response.raw.stream(65536):
                    pass
            if closed.is_set() or not again:
                return

    idle = endless(server)
    next(idle.raw.stream(65536))  # and no more
    readers = [threading.Thread(target=read, args=(again,)) for again in (False, False, True)]
    for reader in readers:
        reader.start()
    time.sleep(0.5)
    socket.setdefaulttimeout(5)
    try:
        started = time.monotonic()
        server.close()
        took = time.monotonic() - started
    finally:
        socket.setdefaulttimeout(None)
        closed.set()
        idle.close()
        for reader in readers:
            reader.join(10)
    assert took < shutdown.REACHED + shutdown.SETTLED + 3
    assert not any(reader.is_alive() for reader in readers)
    assert server.closed
    assert refuses(server)
    assert shutdown._kept == []


@linux
def test_close_leaves_no_socket_no_descriptor_and_one_thread_at_most(model: Path) -> None:
    """However often: what C++ keeps is one thread of its runtime's, made once."""
    script = """
        import json, os, sys, threading
        from llmstream.local import LocalServer
        def seen():
            return [len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))]
        found = [seen()]
        for _ in range(3):
            with LocalServer(context=256):
                pass
            found.append(seen())
        print(json.dumps([found, len(threading.enumerate())]))
    """
    done = run(script)
    assert done.stderr == ""
    (before, *after), threads = json.loads(done.stdout)
    assert threads == 1
    assert all(tasks <= before[0] + 1 for tasks, _ in after)
    assert all(files == before[1] for _, files in after)


def test_close_is_idempotent_and_garbage_is_collected(model: Path) -> None:
    """A server without a reference stops like one that was closed."""
    server = LocalServer(context=256)
    url = server.url
    assert repr(server) == f"<LocalServer SmolLM2-135M-Instruct {url}>"
    stopped = server._engine
    del server
    gc.collect()
    assert stopped.native is None
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)
    server = LocalServer(context=256)
    server.close()
    server.close()
    assert repr(server) == "<LocalServer SmolLM2-135M-Instruct closed>"


@linux
def test_a_ctrl_c_is_pythons(model: Path) -> None:
    """While the model loads and while it answers SIGINT raises KeyboardInterrupt, and the process
    ends; no handler of SIGINT or SIGTERM was put in."""
    script = (
        BUSY
        + """
        handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
        interrupt_in(0.1)
        try:
            LocalServer()
            time.sleep(5)
        except KeyboardInterrupt:
            print("loading")
        server = LocalServer()
        interrupt_in(0.5)
        try:
            read(server)
        except KeyboardInterrupt:
            print("reading")
        assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
        caught = [line.split()[1] for line in open("/proc/self/status") if "SigCgt" in line][0]
        print(int(caught, 16) & 1 << signal.SIGTERM - 1)
    """.replace("\n        ", "\n")
    )
    done = run(script)
    assert done.stdout == "loading\nreading\n0\n", done.stderr
    assert done.returncode == 0


def test_an_interpreter_ends_while_the_model_answers(model: Path) -> None:
    """Nobody closed it, a daemon thread reads, others wait: the exit is clean and takes seconds."""
    script = (
        BUSY
        + """
server = shared_server()
for _ in range(4):
    threading.Thread(target=read, args=(server,), daemon=True).start()
time.sleep(0.7)
print("ends", flush=True)
raise SystemExit(7)
"""
    )
    started = time.monotonic()
    done = run(script)
    assert done.stdout == "ends\n"
    assert done.returncode == 7, done.stderr
    assert time.monotonic() - started < 30


@linux
def test_a_forked_child_starts_a_server_of_its_own(model: Path) -> None:
    """The parent's is closed there; the child's works and closes, the child ends with its own
    status and what it printed, and the parent goes on. With the parent busy, too."""
    script = (
        BUSY
        + """
def answers(server):
    return post(server, input="Hi", max_output_tokens=3).status_code

def wait_for(child):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    return "hangs"

parent = shared_server()
threading.Thread(target=read, args=(parent,), daemon=True).start()
time.sleep(0.5)
for use in (False, True):
    child = os.fork()
    if not child:
        found = [parent.closed]
        if use:
            mine = shared_server()
            found += [mine is not parent, answers(mine)]
            mine.close()
        parent.close()
        print(*found)  # not flushed: the interpreter does it at its end
        sys.exit(5)
    print(wait_for(child), answers(parent), parent.closed, flush=True)
"""
    )
    done = run(script, PYTHONWARNINGS="ignore")
    assert done.stdout == ("True\n5 200 False\nTrue True 200\n5 200 False\n"), done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@linux
def test_a_forked_child_does_not_hold_the_parents_port(model: Path) -> None:
    """When the parent closes, the port is free, although the child lives on."""
    script = """
        import os, socket, sys, time
        from llmstream.local import LocalServer
        server = LocalServer(context=256)
        child = os.fork()
        if not child:
            time.sleep(60)
        server.close()
        try:
            socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 5)
            print("open")
        except ConnectionRefusedError:
            print("refused")
        os.kill(child, 9)
        os.waitpid(child, 0)
    """
    done = run(script, PYTHONWARNINGS="ignore")
    assert done.stdout == "refused\n", done.stderr


@linux
def test_a_server_that_cannot_be_quietened_stays_and_the_process_ends(model: Path) -> None:
    """Where its connections cannot be cut (no /dev/fd, as on Windows) and a client holds on,
    nothing hangs: the server stays in memory, closed to others, and the exit is clean."""
    script = (
        BUSY
        + """
from llmstream.local import shutdown
shutdown._sockets = lambda port: iter(())
shutdown.REACHED = shutdown.SETTLED = 0.3
server = LocalServer()
threading.Thread(target=read, args=(server,), daemon=True).start()
time.sleep(0.5)
server.close()
print(len(shutdown._kept), server.closed, flush=True)
sys.exit(3)
"""
    )
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (3, "1 True\n", "")
