"""What the commands write, and where."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from .exit_codes import exit_code

__all__ = ["complain", "flush_quietly", "print_pieces", "report_error"]


def complain(what: str, why: object) -> None:
    """Write one line about a failure to stderr."""
    sys.stderr.write(f"llmstream: {what}: {why}\n")


def flush_quietly(stream: TextIO) -> None:
    """Write what is buffered, if that is possible.

    If it is not, the stream is pointed at /dev/null: the interpreter tries again at its exit, and
    would complain about a closed pipe.
    """
    try:
        stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_pieces(pieces: Iterable[str], *, end_line: bool) -> None:
    """Write each piece to stdout as soon as it is there.

    With `end_line` the output ends with a newline, whatever ends the pieces. What was written
    before an error stays. Raises OSError, and what `pieces` raises.
    """
    out = sys.stdout
    last = "\n"
    try:
        for piece in pieces:
            out.write(piece)
            out.flush()
            last = piece or last
    finally:
        if end_line and not last.endswith("\n"):
            out.write("\n")
        out.flush()


def report_error(error: Exception) -> int:
    """Write one line about an error to stderr, after the output so far; returns its exit code."""
    flush_quietly(sys.stdout)
    complain(type(error).__name__, error)
    return exit_code(error)
