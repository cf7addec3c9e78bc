"""ConsoleHandler: an answer on a terminal, or in a pipe."""

from __future__ import annotations

import sys
from typing import TextIO

from .._core.terminal import for_terminal
from ..result import LLMStreamError, Result
from .progress import Progress

__all__ = ["ConsoleHandler"]


class ConsoleHandler:
    """Prints the tokens, and the words of a refusal, to standard output, and the progress to
    standard error, if that is a terminal: `stream.handle(ConsoleHandler())`.

    Where both are terminals, the line of the progress is shown until the first token and after the
    last one, so that it never runs into the text; where standard output is a file or a pipe, all
    the time. A terminal is not given control characters of an answer: they are shown as escapes.
    What an encoding does not have is written as an escape. An error is printed in one line, and
    `handle` raises it.

    `out`, `err`: other text files than sys.stdout and sys.stderr. Raises what they raise: a closed
    pipe ends the stream. One handler serves one stream at a time.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out
        self._err = err
        self._line = 0  # characters of the progress line that stands on the terminal
        self._last = "\n"  # the latest text on standard output
        self._summary = ""

    def on_token(self, text: str) -> None:
        """Print a piece of the answer."""
        out = self._out if self._out is not None else sys.stdout
        if out is None or not text:
            return
        if out.isatty():
            self._clear()
            text = for_terminal(text)
        _write(out, text)
        self._last = text

    def on_refusal(self, text: str) -> None:
        """Print a piece of the words with which the model refuses, as text."""
        self.on_token(text)

    def on_progress(self, progress: Progress) -> None:
        """Show the progress in place of the line before it."""
        err = self._err if self._err is not None else sys.stderr
        out = self._out if self._out is not None else sys.stdout
        if err is None or not err.isatty() or progress.error is not None:
            return
        line = _line_of(progress)
        if progress.done:
            self._summary = line
            return
        if progress.chars and out is not None and out.isatty():
            return
        _write(err, f"\r{line.ljust(self._line)}")
        self._line = len(line)

    def on_complete(self, result: Result) -> None:
        """End the line, and show the last progress."""
        self._finish()
        err = self._err if self._err is not None else sys.stderr
        if self._summary and err is not None:
            _write(err, f"{self._summary}\n")
        self._summary = ""

    def on_error(self, error: LLMStreamError) -> None:
        """End the line, and print the error."""
        self._finish()
        err = self._err if self._err is not None else sys.stderr
        if err is not None:
            _write(err, f"{type(error).__name__}: {error.message}\n")

    def _finish(self) -> None:
        self._clear()
        out = self._out if self._out is not None else sys.stdout
        if out is not None and not self._last.endswith("\n"):
            _write(out, "\n")
        self._last = "\n"

    def _clear(self) -> None:
        err = self._err if self._err is not None else sys.stderr
        if self._line and err is not None:
            _write(err, f"\r{' ' * self._line}\r")
        self._line = 0


def _line_of(progress: Progress) -> str:
    parts = [] if progress.fraction is None else [f"{progress.fraction:.0%}"]
    parts += [f"{progress.chunks:,} chunks", f"{progress.chars:,} characters"]
    parts.append(f"{progress.elapsed:.1f} s")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:.1f} tokens/s")
    return ", ".join(parts)


def _write(file: TextIO, text: str) -> None:
    """Write what this file takes of the text, and flush it."""
    try:
        file.write(text)
    except UnicodeEncodeError:
        encoding = file.encoding or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    file.flush()
