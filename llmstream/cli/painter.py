"""Where an answer is painted while it arrives: `painter_for(sys.stdout)`.

A painter is used by one thread. It starts no thread, keeps no file and sets no signal handler: what
it holds back is painted with the next piece, by `tick`, or by `finish` and `abort`.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol, TextIO

from .._core.terminal import for_terminal
from .._runtime.clock import SYSTEM_CLOCK
from ..readers.handlers import TimedChunks
from ..readers.source import chunks_of
from ..result import Chunk
from ..stream import Stream
from .signals import Stopping

__all__ = ["PLAIN", "Painter", "PipePainter", "PlainPainter", "paint", "painter_for"]

# What the option --plain does.
PLAIN = (
    "on a terminal: text without Markdown and colors, with thinking between [thinking] and [answer]"
)
_TICK = 0.1  # seconds between two looks at what is held back, while nothing comes


class Painter(Protocol):
    """Takes the pieces of one answer, and shows them. All of it may raise OSError, of the output.

    Pieces may be cut anywhere. After `finish` or `abort` the painter takes no more.
    """

    def add(self, text: str) -> None:
        """A piece of the answer."""

    def thinking(self, text: str) -> None:
        """A piece of the thinking; pipes and files are not given it."""

    def restart(self) -> None:
        """The answer begins anew. What is painted stays, and a line says so."""

    def tick(self) -> None:
        """Paint what is held back, if it is time. For a caller that waits for the next piece."""

    def hide(self) -> None:
        """Take away what is not finished: another program is about to write to the terminal. The
        next `tick` paints it again."""

    def finish(self) -> None:
        """The answer is whole: paint the rest, and end the line."""

    def abort(self) -> None:
        """The answer ends early, by an error or an interrupt: paint what has arrived, and leave the
        terminal as it was found. Also after `finish`, and twice."""


def painter_for(out: TextIO, *, plain: bool = False, end_line: bool = True) -> Painter:
    """The painter for `out`: Markdown on a terminal, if rich is there (extra `rich`); text on a
    terminal that cannot move its cursor, and with `plain`; the text as it is elsewhere.

    `end_line`: whether a pipe is given a newline after a text that does not end with one.
    """
    if not out.isatty():
        return PipePainter(out, end_line=end_line)
    if not plain and os.environ.get("TERM", "xterm") not in ("dumb", "unknown", ""):
        with contextlib.suppress(ImportError):
            from .screen import ScreenPainter

            if ScreenPainter.can_paint():
                return ScreenPainter(out)
    return PlainPainter(out)


def paint(stream: Stream, painter: Painter) -> None:
    """Read the stream to its end and paint it: text, refusals and thinking. What is held back is
    painted also while nothing comes, so the stream is then read in a thread of its own.

    Raises what the stream raises, and OSError of the output. After an error or an interrupt the
    stream is ended, and what has arrived is on the terminal.
    """
    try:
        if isinstance(painter, PipePainter):
            for chunk in stream.chunks():
                _show(chunk, stream, painter)
        else:
            _paint_in_time(stream, painter)
        painter.finish()
    finally:
        painter.abort()


def _paint_in_time(stream: Stream, painter: Painter) -> None:
    due = SYSTEM_CLOCK.monotonic()
    items = TimedChunks(chunks_of(stream), stream, lambda: due)
    try:
        with Stopping() as stopping:
            while True:
                chunk = items.get()
                if stopping.asked:
                    painter.hide()
                    stopping.stop()
                if items.ended:
                    return
                if chunk is not None:
                    _show(chunk, stream, painter)
                else:
                    painter.tick()
                    due = SYSTEM_CLOCK.monotonic() + _TICK
    except BaseException:
        stream.cancel("the painting has ended")
        items.close()
        raise


def _show(chunk: Chunk, stream: Stream, painter: Painter) -> None:
    if chunk.type == "thinking":
        painter.thinking(chunk.text)
    elif chunk.type == "restart":
        painter.restart()
    elif chunk.type in ("text", "refusal"):
        primary = stream.state.primary  # of several choices one is the answer
        if primary is None or chunk.index == primary:
            painter.add(chunk.text)


class PipePainter:
    """Writes the answer as it is, each piece at once."""

    def __init__(self, out: TextIO, *, end_line: bool = True) -> None:
        self._out = out
        self._end_line = end_line
        self._last = "\n"

    def add(self, text: str) -> None:
        self._write(text)

    def thinking(self, text: str) -> None:
        """Not written: a program that reads the answer would take it for a part of it."""

    def restart(self) -> None:
        if not self._last.endswith("\n"):
            self._write("\n")
        self._write("[the answer begins anew]\n")

    def tick(self) -> None:
        """Nothing is held back."""

    def hide(self) -> None:
        """All of it is finished."""

    def finish(self) -> None:
        if self._end_line and not self._last.endswith("\n"):
            self._write("\n")

    def abort(self) -> None:
        self.finish()

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._out.flush()
            self._last = text


class PlainPainter(PipePainter):
    """Writes the answer to a terminal: control characters are shown as escapes."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._thinking = False

    def add(self, text: str) -> None:
        self._write(self._turned(False, text))

    def thinking(self, text: str) -> None:
        self._write(self._turned(True, text))

    def _turned(self, thinking: bool, text: str) -> str:
        """`text`, after a line that says that the thinking begins, or that it has ended."""
        text = for_terminal(text)
        if not text or thinking == self._thinking:
            return text
        self._thinking = thinking
        line = "" if self._last.endswith("\n") else "\n"
        return f"{line}[{'thinking' if thinking else 'answer'}]\n{text}"
