"""What the commands read from standard input, and how long they wait for it."""

from __future__ import annotations

import errno
import io
import math
import os
import stat
import sys
from queue import SimpleQueue
from typing import Any

from msgspec import Struct

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.readable import is_readable
from .._runtime.threads import spawn
from ..errors import ConfigurationError, DeadlineExceeded
from .output import complain

__all__ = ["FIRST_BYTE", "Deadline", "read_all", "read_if_any"]

# Seconds, at most, until the first byte, where standard input is not needed. Programs, ssh and
# supervisors often leave a pipe open to which nobody ever writes.
FIRST_BYTE = 2.0
_BLOCK = 65536
_AGAIN = 0.02  # seconds between two looks at a pipe that another program has made non-blocking


class Deadline(Struct, frozen=True):
    """The end of the command's time: `total` seconds (None: no limit) after `begun`, a moment of
    the system's clock."""

    total: float | None
    begun: float

    def left(self) -> float:
        """The seconds that are left, inf without a limit."""
        if self.total is None:
            return math.inf
        return self.total - (SYSTEM_CLOCK.monotonic() - self.begun)


def read_all(deadline: Deadline) -> str:
    """Standard input to its end. Raises ConfigurationError if it cannot be read, DeadlineExceeded
    if it does not end in time."""
    if sys.stdin is None:
        raise ConfigurationError("standard input is closed: nothing can be read from it")
    try:
        return _Reader(sys.stdin).read(deadline)
    except DeadlineExceeded:  # an OSError as well
        raise
    except OSError as error:
        raise _unreadable(error) from error


def read_if_any(deadline: Deadline) -> str:
    """Standard input for a command that can do without it: "" where it is a terminal, closed, or
    silent for FIRST_BYTE seconds (at most half of the deadline's), of which stderr has a line.

    After the first byte it is read to its end. Where a shell at a terminal runs the command as a
    later part of a pipeline, the first byte is waited for as well: the user sees what it waits for.
    Raises like `read_all`.
    """
    stream = sys.stdin
    if stream is None or stream.isatty():
        return ""
    patience = min(FIRST_BYTE, deadline.left() / 2)
    if _is_sure_to_send(stream):
        patience = math.inf
    try:
        text = _Reader(stream).read(deadline, patience)
    except DeadlineExceeded:
        raise
    except OSError as error:
        if error.errno == errno.EBADF:  # not open for reading: `nohup` leaves it so
            return ""
        raise _unreadable(error) from error
    except _Silent:
        complain(
            "standard input",
            f"not read, because it is open and nothing arrived within {max(0.0, patience):.2g} s; "
            "--stdin waits for it, --no-stdin does not look",
        )
        return ""
    return text


def _unreadable(error: OSError) -> ConfigurationError:
    reason = error.strerror or type(error).__name__
    return ConfigurationError(f"standard input cannot be read: {reason}")


def _is_sure_to_send(stream: Any) -> bool:
    try:
        is_file = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return True  # a stand-in for standard input, in memory
    return is_file or _is_in_a_pipeline_of_a_terminal()


def _is_in_a_pipeline_of_a_terminal() -> bool:
    """Whether this process is a later part of the pipeline that runs in the foreground of a
    terminal. A shell there puts each pipeline into a process group of its own, led by its first
    part."""
    try:
        group = os.getpgrp()
        if group in (os.getpid(), os.getpgid(os.getppid())):
            return False
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(terminal) == group
        finally:
            os.close(terminal)
    except (OSError, AttributeError):  # no terminal; or Windows, which has no process groups
        return False


class _Silent(Exception):
    """Nothing has arrived in time."""


class _Reader:
    """Reads a stream in a thread of its own, so that the wait for it has an end on every platform.
    The thread is a daemon, and reads the unbuffered stream: the interpreter's end waits for no lock
    that it holds."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._raw: Any = getattr(getattr(stream, "buffer", None), "raw", None)
        self._pieces: list[bytes] = []
        self._error: OSError | None = None
        self._ended = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    def read(self, deadline: Deadline, patience: float = math.inf) -> str:
        """The whole text. Raises _Silent if nothing arrives within `patience` seconds, and
        DeadlineExceeded."""
        if self._raw is None:
            text: str = self._stream.read()
            return text
        if patience < math.inf:
            # First without the thread: it would take what another program may want to read later.
            found = _found(self._raw.fileno(), patience)
            if found is False:
                raise _Silent
            patience = math.inf if found else patience
        first = SYSTEM_CLOCK.monotonic() + patience
        spawn(self._run, "stdin")
        while not self._ended:
            wait = deadline.left()
            if wait <= 0:
                raise _too_late(deadline)
            if not self._pieces:
                wait = min(wait, first - SYSTEM_CLOCK.monotonic())
                if wait <= 0:
                    raise _Silent
            SYSTEM_CLOCK.wait(self._bell, wait)
        if self._error is not None:
            raise self._error
        return _text(b"".join(self._pieces), self._stream)

    def _run(self) -> None:
        try:
            while (piece := self._raw.read(_BLOCK)) != b"":
                if piece is None:
                    SYSTEM_CLOCK.wait(SimpleQueue(), _AGAIN)
                    continue
                self._pieces.append(piece)
                self._bell.put(None)
        except OSError as error:
            self._error = error
        except ValueError:  # closed meanwhile
            self._error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._ended = True
        self._bell.put(None)


def _found(descriptor: int, seconds: float) -> bool | None:
    """Whether bytes or the end arrive in time; None where that cannot be seen without reading."""
    try:
        return is_readable(descriptor, seconds)
    except (OSError, ValueError):
        return None


def _too_late(deadline: Deadline) -> DeadlineExceeded:
    total = deadline.total or 0.0
    return DeadlineExceeded(
        f"standard input did not end within {total:g} s (--total), so nothing was sent: "
        "close it, or allow more time",
        seconds=total,
    )


def _text(data: bytes, stream: Any) -> str:
    """As text with "\\n" for every end of a line; what is not text in the encoding is U+FFFD."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if encoding.lower().replace("_", "-") in ("ascii", "us-ascii", "ansi-x3.4-1968", "utf-8"):
        encoding = "utf-8-sig"  # ASCII is what a machine without a locale takes UTF-8 for
    return io.TextIOWrapper(io.BytesIO(data), encoding, errors="replace").read()
