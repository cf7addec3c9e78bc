"""What is typed while nobody reads lines: bytes of a terminal in, messages out. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["TypeAhead"]

_PASTE, _PASTED = b"\x1b[200~", b"\x1b[201~"  # what a terminal puts around a paste
_LONGEST = 32  # bytes of an escape sequence; a longer one is none
_STOP = "/stop"


class TypeAhead:
    """Messages that are typed ahead, and the line that is not finished. One thread uses it at a
    time.

    The terminal edits nothing itself (it is not in its canonical mode): each key is a byte or an
    escape sequence. Enter ends a message. Backspace, Ctrl-U and Ctrl-W erase as a terminal does,
    and Ctrl-D in an empty line is the end; other keys that are no letters are left out.

    A paste is a part of the message, whatever lines it has: they are in it with their line feeds. A
    message that begins with a pasted `/` ends with a line feed, so that it is text; see
    `Assembler`.

    Attributes:
        lines: the messages, the oldest first; None is the end.
    """

    def __init__(self) -> None:
        self.lines: deque[str | None] = deque()
        self._line = bytearray()
        self._escape = bytearray()
        self._paste: int | None = None  # where in the line the paste begins that goes on
        self._pasted_first = False  # whether the line begins with what was pasted

    @property
    def pasting(self) -> bool:
        """Whether a paste, or another key, has begun that has not ended."""
        return self._paste is not None or bool(self._escape)

    def feed(self, data: bytes) -> bool:
        """What was typed. Returns whether `/stop` is among the messages that it ends; that one is
        not in `lines`."""
        stopped = False
        for number in data:
            key = bytes((number,))
            if self._paste is not None:
                self._in_paste(self._paste, key)
            elif self._escape or key == b"\x1b":
                stopped |= self._in_escape(key)
            else:
                stopped |= self._press(key)
        return stopped

    def end(self) -> None:
        """The terminal has no more."""
        self.lines.append(None)

    def take_unfinished(self) -> str:
        """The line that has no end yet. It is the caller's then: "" the next time."""
        text = _text(self._line)
        self._begin()
        self._escape.clear()
        self._paste = None
        return text

    def _begin(self) -> None:
        self._line.clear()
        self._pasted_first = False

    def _in_paste(self, begin: int, key: bytes) -> None:
        line = self._line
        line += b"\n" if key == b"\r" else key
        if line.endswith(_PASTED) and len(line) - len(_PASTED) >= begin:
            del line[-len(_PASTED) :]
            self._paste = None

    def _in_escape(self, key: bytes) -> bool:
        escape = self._escape
        if key < b" " and escape and key != b"\x1b":  # the key Escape, then another one
            escape.clear()
            return self._press(key)
        escape += key
        if escape.endswith(b"\x1b"):
            del escape[:-1]
            return False
        begins = escape[1:2]
        ended = len(escape) > 2 and key >= b"@" if begins == b"[" else begins != b"O"
        if ended or len(escape) > _LONGEST or (begins == b"O" and len(escape) > 2):
            if escape == _PASTE:
                self._paste = len(self._line)
                self._pasted_first |= not self._line
            escape.clear()
        return False

    def _press(self, key: bytes) -> bool:
        line = self._line
        if key in (b"\n", b"\r"):
            return self._enter()
        if key in (b"\x7f", b"\x08"):
            while line and line.pop() & 0xC0 == 0x80:  # the bytes of one character in UTF-8
                pass
        elif key == b"\x15":  # Ctrl-U
            line.clear()
        elif key == b"\x17":  # Ctrl-W
            words = bytes(line).rstrip()
            del line[words.rfind(words.split()[-1]) if words else 0 :]
        elif key == b"\x04" and not line:  # Ctrl-D
            self.end()
        elif key >= b" " or key == b"\t":
            line += key
        if not line:
            self._pasted_first = False
        return False

    def _enter(self) -> bool:
        line = _text(self._line)
        pasted = self._pasted_first and line.startswith("/")
        self._begin()
        if not pasted and line.strip().lower() == _STOP:
            return True
        self.lines.append(f"{line}\n" if pasted and "\n" not in line else line)
        return False


def _text(line: bytearray) -> str:
    return line.decode("utf-8", "replace")
