"""A terminal in memory, as far as the painter of answers uses one; anything else is an error."""

from __future__ import annotations

import io
import re

from rich.cells import cell_len

_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen(io.StringIO):
    """What has been written to a terminal of `width` x `height`. `rows` is the scrollback and the
    screen, from the first row to the last one that is not empty."""

    def __init__(self, width: int = 80, height: int = 24, encoding: str = "utf-8") -> None:
        super().__init__()
        self.width, self.height = width, height
        self.sent = ""
        self.wraps = True
        self._encoding = encoding
        self._rows: list[str] = [""]
        self._at = 0
        self._column = 0
        self._top = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True

    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def write(self, text: str) -> int:
        text.encode(self._encoding)
        self.sent += text
        at = 0
        while at < len(text):
            found = _SEQUENCE.match(text, at)
            if found is not None:
                self._obey(*found.groups())
                at = found.end()
                continue
            self._show(text[at])
            at += 1
        return len(text)

    def _obey(self, private: str, number: str, command: str) -> None:
        if command == "m" and not private:
            return
        if (private, number) == ("?", "7") and command in "hl":
            self.wraps = command == "h"
        elif command == "A" and not private:
            # What has left the screen cannot be reached any more.
            self._at = max(self._top, self._at - int(number))
        elif command == "B" and not private:
            self._at = min(self._top + self.height - 1, self._at + int(number or 1))
            self._rows += [""] * (self._at + 1 - len(self._rows))
        elif command == "K" and not private and not number:
            assert self._column == 0
            self._rows[self._at] = ""
        else:
            raise AssertionError(f"unexpected sequence {private}{number}{command}")

    def _show(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._down()
        else:
            assert char == "\t" or char >= " ", f"{char!r} was sent"
            row = self._rows[self._at] if self._column else ""
            assert self._column or not self._rows[self._at], "a row is written over"
            column = cell_len((row + char).expandtabs(8))
            if column > self.width:
                if not self.wraps:
                    return
                self._down()
                row, column = "", cell_len(char.expandtabs(8))
            self._rows[self._at] = row + char
            self._column = max(column, 1)

    def _down(self) -> None:
        self._at += 1
        self._column = 0
        if self._at == len(self._rows):
            self._rows.append("")
        self._top = max(self._top, self._at - self.height + 1)

    @property
    def rows(self) -> list[str]:
        rows = [row.rstrip() for row in self._rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows
