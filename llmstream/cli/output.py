"""What the commands write, and where.

Pipes and files are given the text as it is. A terminal obeys control characters, and a model, or
the service's error, may contain any: there only newline and tab are written, and the others are
shown as escapes.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from .._core.terminal import CONTROLS, SHOWN
from .exit_codes import exit_code
from .words import in_options

__all__ = [
    "complain",
    "flush_quietly",
    "json_for_terminal",
    "prepare_output",
    "print_pieces",
    "remark",
    "report_error",
    "write",
]

_SHOWN_IN_JSON = {code: f"\\u{code:04x}" for code in CONTROLS}
_NOTHING: dict[int, str] = {}


def _as_json(error: UnicodeError) -> tuple[str, int]:
    """What an encoding does not have, as JSON writes it: an emoji is two escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(f"\\u{code:04x}" for code in codes), error.end


_JSON_ESCAPES = "llmstream.json"
codecs.register_error(_JSON_ESCAPES, _as_json)


class _Closed(io.TextIOBase):
    """Stands for a standard output that was closed before the command began."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "standard output is closed")


def prepare_output() -> None:
    """Make standard output take every text, and keep files and sockets off its descriptor.

    What its encoding lacks is written as an escape. If it is closed, the first write raises
    OSError.
    """
    spare = os.open(os.devnull, os.O_RDWR)
    while spare <= 2:  # a socket there would be given what others print
        spare = os.open(os.devnull, os.O_RDWR)
    os.close(spare)
    if sys.stdout is None:
        sys.stdout = _Closed()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Write `text` to stdout, and flush it. Raises OSError."""
    print_pieces([text], end_line=False)


def complain(what: str, why: object) -> bool:
    """Write one line about a failure to stderr; see `remark`."""
    return remark(f"{what}: {why}")


def remark(text: str) -> bool:
    """Write one line to stderr; returns False if that is not possible. Never raises: there would be
    nowhere to report it."""
    stream = sys.stderr
    if stream is None:
        return True  # the caller has closed it, and wants none
    line = " ".join(f"llmstream: {text}".split("\n"))
    try:
        stream.write(line.translate(_controls_of(stream)) + "\n")
        stream.flush()
    except (OSError, ValueError):
        flush_quietly(stream)
        return False
    return True


def _controls_of(stream: TextIO, *, as_json: bool = False) -> dict[int, str]:
    if not stream.isatty():
        return _NOTHING
    return _SHOWN_IN_JSON if as_json else SHOWN


def json_for_terminal(line: bytes) -> bytes:
    """A line of JSON, in UTF-8, as this terminal may be given it: what it would obey, and what its
    encoding lacks, as the escapes of JSON."""
    text = line.decode().translate(_SHOWN_IN_JSON)
    return text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", _JSON_ESCAPES)


def flush_quietly(stream: TextIO | None) -> None:
    """Write what is buffered, if that is possible.

    If it is not, the stream is pointed at /dev/null: the interpreter tries again at its exit, and
    would complain about a closed pipe.
    """
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # it may have no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_pieces(pieces: Iterable[str], *, end_line: bool, as_json: bool = False) -> None:
    """Write each piece to stdout as soon as it is there.

    With `end_line` the output ends with a newline, whatever ends the pieces. With `as_json` the
    escapes are those of JSON. What was written before an error stays. Raises OSError, and what
    `pieces` raises.
    """
    out = sys.stdout
    if as_json and isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors=_JSON_ESCAPES)
    controls = _controls_of(out, as_json=as_json)
    last = "\n"
    try:
        for piece in pieces:
            out.write(piece.translate(controls) if controls else piece)
            out.flush()
            last = piece or last
    finally:
        if end_line and not last.endswith("\n"):
            out.write("\n")
        out.flush()


def report_error(error: Exception) -> int:
    """Write one line about an error to stderr, after the output so far; returns its exit code."""
    flush_quietly(sys.stdout)
    complain(type(error).__name__, in_options(error))
    return exit_code(error)
