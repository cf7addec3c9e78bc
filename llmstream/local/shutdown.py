"""How a running llama.cpp server ends: its connections, its sockets, forks, and the process's exit.

llama.cpp's destructor holds the GIL and waits for every open connection, without a bound. So a
server is only dropped once it is quiet; one that does not become quiet stays in memory.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.fork import in_child, process_number

__all__ = ["HOST", "Engine", "counters", "until", "watch_forks"]

HOST = "127.0.0.1"

# Bounds, in seconds.
REACHED = 5.0  # at close, until the server has moved to its hidden port
SETTLED = 2.0  # at close, until all requests have ended; normally it takes 0.05 s
PROBE = 0.5  # for one question to the server; the answer takes 1 ms
TICK = 0.01  # between two questions


class Engine:
    """One C++ server: where it listens, in which process it runs, and how to stop it.

    It is apart from LocalServer so that the finalizer, which refers to it, does not keep the
    LocalServer alive. `native` is the C++ object, None once it is gone; `key` is what the server
    wants to see in a request.
    """

    def __init__(self, native: Any, key: str) -> None:
        self.native = native
        self.key = key
        self.port = int(native.listening_address.rsplit(":", 1)[1])
        self.pid = process_number()
        _running.add(self)

    def stop(self) -> None:
        """End the server and free the model. weakref.finalize calls it once."""
        if self.pid != process_number():
            return  # the copy in a forked child: it was let go at the fork
        safe = False
        try:
            safe = _quieten(self.port, self.key) and not _inherited
        finally:
            if not safe:
                self.abandon()
            self.native = None  # the last reference: here the destructor runs
            _running.discard(self)

    def abandon(self) -> None:
        """Leave the server in memory for ever, with its sockets shut down."""
        for _, copy in _sockets(self.port):
            _c_library().shutdown(copy, socket.SHUT_RDWR)
        _keep_for_ever(self.native)


_running: set[Engine] = set()  # only `add` and `discard` are used, which are atomic


# --- making it quiet ----------------------------------------------------------------------------


def _quieten(port: int, key: str) -> bool:
    """End everything that goes on at `port`; whether the server may then be dropped.

    The destructor holds the GIL and waits for the connections. A stream that a Python thread reads,
    or a request that waits for its turn, would therefore block the process for good. So every
    connection has to be cut, and no other may arrive: a client whose stream is cut may connect
    again at once.
    """
    hidden = _move(port)

    def is_reached() -> bool:
        _cut(port)  # this also frees a thread for the answer
        return counters(hidden, key) is not None

    def is_idle() -> bool:
        _cut(port)
        found = counters(hidden, key) or b""
        return b"requests_processing 0\n" in found and b"requests_deferred 0\n" in found

    if not until(is_reached, REACHED):
        return False
    # On a hidden port, where nobody can connect, the destructor also ends with work left: after
    # the current batch and the second within which each request looks at its connection. But it
    # holds the GIL meanwhile.
    return until(is_idle, SETTLED) or hidden != port


def _move(port: int) -> int:
    """Move the server to a port that nobody knows and return that port; `port` if it cannot.

    llama.cpp cannot be asked to stop listening, and shutting its socket down makes it close the
    same descriptor number twice. But another socket can be put under that number. The accept that
    is under way still takes one connection from the old socket, so it is given one; the next accept
    is on the new socket.
    """
    if sys.platform != "linux":  # not tried elsewhere
        return port
    for descriptor, copy in _sockets(port):
        if not _address("getpeername", copy):  # the listening socket
            return _replace(descriptor, port)
    return port


def _replace(listener: int, port: int) -> int:
    hidden = port
    with contextlib.suppress(OSError), socket.create_server((HOST, 0)) as other:
        other.setblocking(True)  # whatever the default timeout: without it llama.cpp would spin
        os.dup2(other.fileno(), listener, inheritable=False)
        hidden = int(other.getsockname()[1])
        # The one connection. If it is refused because the queue is full, it is not needed.
        socket.create_connection((HOST, port), timeout=PROBE).close()
    return hidden


def until(check: Callable[[], bool], seconds: float) -> bool:
    """Repeat `check` until it is true; False when that takes longer than `seconds`."""
    deadline = SYSTEM_CLOCK.monotonic() + seconds
    while not check():
        if SYSTEM_CLOCK.monotonic() > deadline:
            return False
        SYSTEM_CLOCK.wait(SimpleQueue(), TICK)
    return True


def counters(port: int, key: str) -> bytes | None:
    """The counters of llama.cpp's main loop, as Prometheus text; None if it does not answer."""
    # http.client, because it ignores a proxy in the environment, which could be used for 127.0.0.1.
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {key}"})
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


# --- its sockets --------------------------------------------------------------------------------


def _cut(port: int) -> None:
    """Shut down the server's end of its connections: their readers see an end of file."""
    for _, copy in _sockets(port):
        if _address("getpeername", copy):  # not the listening socket
            _c_library().shutdown(copy, socket.SHUT_RDWR)


def _sockets(port: int) -> Iterator[tuple[int, int]]:
    """This process's descriptors of the server's sockets, each with a duplicate.

    The duplicate stays the same socket whoever closes the original, and is closed here. (llama.cpp
    itself does not tell its sockets.) Without a /dev/fd, as on Windows, there are none: `close`
    then only succeeds once the requests have ended or their clients have left.
    """
    own = port.to_bytes(2, "big") + socket.inet_aton(HOST)
    try:
        descriptors = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile, or no descriptor is free
            # Before the dup: closing a duplicate of a file drops its POSIX locks (fcntl(2)).
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            copy = os.dup(descriptor)
            try:
                if _address("getsockname", copy) == own:
                    yield descriptor, copy
            finally:
                os.close(copy)


def _address(call: str, descriptor: int) -> bytes:
    """Port and IPv4 address, 6 bytes; b"" for no such address.

    `call` is getsockname or getpeername of the C library. A Python socket made of a descriptor that
    is not ours could change it: with a default timeout set it makes it non-blocking, for everybody.
    """
    import ctypes

    buffer, length = ctypes.create_string_buffer(128), ctypes.c_uint32(128)
    if getattr(_c_library(), call)(descriptor, buffer, ctypes.byref(length)) != 0:
        return b""
    # struct sockaddr_in, 16 bytes: two for the family, then port and address.
    return buffer.raw[2:8] if length.value == 16 else b""


def _c_library() -> Any:
    import ctypes

    return ctypes.CDLL(None)


# --- exit and forks -----------------------------------------------------------------------------

_kept: list[Any] = []  # C++ servers that stay in memory
_inherited = False  # this process was forked from one with a running server
_registered: set[str] = set()  # hooks of the interpreter and the C library, registered once each


def _keep_for_ever(native: Any) -> None:
    """Never let the destructor run, and end the process without C++'s destructors.

    The interpreter drops its own references when it ends, so the reference is one that nobody
    holds. glibc's on_exit calls its last function first and passes it the status: that function is
    `_exit` itself. Elsewhere no such hook gets the status, and C++'s destructors run.
    """
    _kept.append(native)
    with contextlib.suppress(ImportError, AttributeError, OSError, TypeError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
        library = _c_library()
        if "exit" not in _registered:
            library.on_exit(library._exit, None)
            _registered.add("exit")


def watch_forks() -> None:
    """Let go of the servers in every forked child. A second call has no effect."""
    if "fork" not in _registered:
        _registered.add("fork")
        in_child(_after_fork_in_child)


def _after_fork_in_child() -> None:
    """Let go of the parent's servers, whose threads do not exist in the child.

    Their C++ objects stay in memory: their destructors, and those that C runs at exit, would wait
    for those threads. Their sockets are closed, which would keep the parent's port and its clients'
    connections open. The child may start servers of its own. They too stay in memory when they are
    closed, because llama.cpp then joins a thread of the parent's.
    """
    global _inherited
    _inherited = bool(_running or _kept)
    for engine in tuple(_running):
        _keep_for_ever(engine.native)
        for descriptor, _ in _sockets(engine.port):
            os.close(descriptor)
    _running.clear()
