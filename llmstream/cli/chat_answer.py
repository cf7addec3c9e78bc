"""One answer of a chat: asked for, painted, stopped by Ctrl-C or `/stop`, and kept."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.readable import is_readable
from .._runtime.threads import spawn
from ..chat.ahead import TypeAhead
from ..errors import ConfigurationError
from ..result import LLMStreamError, Result
from ..stream import Stream
from .painter import Painter, paint

__all__ = ["Answered", "Interrupts", "read_answer", "typing_ahead"]

_LOOK = 0.05  # seconds between two looks at whether an answer has ended, while somebody may type
_REST = 0.5  # seconds in which the next piece of a paste has to be there
_STOPPED = "stopped by its reader"
_BRACKETED, _NOT_BRACKETED = "\x1b[?2004h", "\x1b[?2004l"


class Interrupts:
    """What Ctrl-C does in a chat at a terminal: it stops the answer that runs; elsewhere it raises
    KeyboardInterrupt. A second one during an answer raises as well: the terminal may be blocked."""

    def __init__(self, line: Callable[[], str]) -> None:
        self.stopped = False  # whether the latest answer was stopped
        self.line = ""  # what stood in the line at the latest interrupt
        self._typed = line
        self._stream: Stream | None = None
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before or signal.SIG_DFL)

    def begin(self, stream: Stream) -> None:
        """From now on they stop `stream`."""
        self.stopped = False
        self._stream = stream

    def end(self) -> None:
        """No answer runs."""
        self._stream = None

    def stop(self) -> None:
        """Stop the answer that runs; any thread may."""
        stream = self._stream
        if stream is not None:
            self.stopped = True
            stream.cancel(_STOPPED)

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """Another program has the terminal, and Ctrl-C is its own."""
        handler = signal.signal(signal.SIGINT, lambda number, frame: None)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._stream is not None and not self.stopped:
            self.stop()
            return
        self.line = self._typed()
        raise KeyboardInterrupt


class Answered:
    """How an answer ended.

    Args:
        text: what was shown.
        result: the answer, or what had arrived of it.
        error: why it is not whole, None if it is.
        stopped: whether its reader stopped it.
    """

    def __init__(
        self, text: str, result: Result, error: LLMStreamError | None, stopped: bool
    ) -> None:
        self.text = text
        self.result = result
        self.error = error
        self.stopped = stopped


def read_answer(stream: Stream, painter: Painter, interrupts: Interrupts | None) -> Answered:
    """Read a stream to its end and paint it. Raises what the painter raises, and, without
    `interrupts`, what an interrupt does. With them one interrupt raises nothing until their `end`:
    so the caller can keep the answer first."""
    shown = _Shown(painter)
    error: LLMStreamError | None = None
    result = Result()
    if interrupts is not None:
        interrupts.begin(stream)
    try:
        try:
            with stream:  # begins the call, which may fail at once
                paint(stream, shown)
                result = stream.result()
        except LLMStreamError as failure:
            error, result = failure, failure.partial
    except KeyboardInterrupt:
        if interrupts is None:
            raise
        stream.close()
        try:
            stream.result()
        except LLMStreamError as failure:
            error, result = failure, failure.partial
    finally:
        painter.abort()
    stopped = interrupts is not None and interrupts.stopped and error is not None
    return Answered("".join(shown.pieces), result, error, stopped)


class _Shown:
    """A painter that also keeps what it is given of the answer, since it last began anew."""

    def __init__(self, painter: Painter) -> None:
        self.pieces: list[str] = []
        self._painter = painter
        self.thinking = painter.thinking
        self.tick = painter.tick
        self.hide = painter.hide
        self.finish = painter.finish
        self.abort = painter.abort

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self._painter.add(text)

    def restart(self) -> None:
        self.pieces.clear()
        self._painter.restart()


@contextlib.contextmanager
def typing_ahead(ahead: TypeAhead, stop: Callable[[], None]) -> Iterator[None]:
    """While an answer is painted: `/stop` and Enter stop it, and any other message that is typed is
    read after it. What is typed is not shown, since it would run into the answer; what has no end
    yet is `ahead.take_unfinished()`.

    Where the terminal's modes cannot be set (Windows), nothing is read meanwhile.
    """
    try:
        import termios

        terminal = sys.stdin.fileno()
        modes = termios.tcgetattr(terminal)
    except (ImportError, OSError, ValueError):
        yield
        return
    quiet = [*modes[:6], [*modes[6]]]
    # Not line by line: a terminal keeps 4095 bytes of a line, and a paste may have more.
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
    bell: SimpleQueue[None] = SimpleQueue()
    running = [True]

    def take() -> bool:
        data = os.read(terminal, 65536)
        if not data:
            ahead.end()
        elif ahead.feed(data):
            stop()
        return bool(data)

    def watch() -> None:
        try:
            while running:
                if is_readable(terminal, _LOOK) and running and not take():
                    return
        except (OSError, ValueError):
            pass  # the terminal is gone: the next read of it says so
        finally:
            bell.put(None)

    def begin(*_: object) -> None:
        # Not in the background: there it would stop the process.
        with contextlib.suppress(termios.error, OSError):
            if os.tcgetpgrp(terminal) == os.getpgrp():
                termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
                _send(_BRACKETED)

    # After a stop (Ctrl-Z) the terminal is as the shell has left it.
    before = signal.signal(signal.SIGCONT, begin)
    try:
        begin()
        try:
            spawn(watch, "typing")
        except ConfigurationError:  # without a thread `/stop` waits for the end
            bell.put(None)
        yield
    finally:
        signal.signal(signal.SIGCONT, before or signal.SIG_DFL)
        running.clear()
        SYSTEM_CLOCK.wait(bell, 1.0)
        with contextlib.suppress(termios.error, OSError, ValueError):
            _send(_NOT_BRACKETED)
            while is_readable(terminal, _REST if ahead.pasting else 0) and take():
                pass
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(terminal, termios.TCSADRAIN, modes)


def _send(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
