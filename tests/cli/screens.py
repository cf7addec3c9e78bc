"""A terminal in memory, as far as the painter of answers uses one; anything else is an error."""

from __future__ import annotations

import io
import re

from rich.cells import cell_len

_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen(io.StringIO):
    """What has been written to a terminal of `width` x `height`. `rows` is the scrollback and the
    screen, from the first row to the last one that is not empty; a row that the terminal has broken
    is one row. `resize` does what tmux does (screen.c and grid.c of 3.3): see there."""

    def __init__(self, width: int = 80, height: int = 24, encoding: str = "utf-8") -> None:
        super().__init__()
        self.width, self.height = width, height
        self.sent = ""
        self.wraps = True
        self._encoding = encoding
        self._rows: list[str] = [""]
        self._broken: list[bool] = [False]  # whether the row goes on in the next one
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
        elif command == "C" and not private and not number:
            self._column = min(self._column + 1, self.width - 1)
        elif command == "K" and not private and not number:
            assert self._column == 0
            self._rows[self._at], self._broken[self._at] = "", False
        elif command == "J" and not private and not number:
            assert not self._rows[self._at]
            first = self._column == 0 and self._at == self._top
            assert not first, "tmux takes it for clearing the screen, and keeps what was there"
            del self._rows[self._at + 1 :], self._broken[self._at + 1 :]
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
                self._broken[self._at] = True
                self._down()
                row, column = "", cell_len(char.expandtabs(8))
            self._rows[self._at] = row + char
            self._column = max(column, 1)

    def _down(self) -> None:
        self._at += 1
        self._column = 0
        if self._at == len(self._rows):
            self._rows.append("")
            self._broken.append(False)
        self._top = max(self._top, self._at - self.height + 1)

    # ---- another size ----------------------------------------------------------------------------

    def resize(self, width: int, height: int) -> None:
        """The height first: rows below the cursor are taken away, then rows scroll off at the top;
        a higher screen takes some of these back. Then rows are broken anew, and the cursor keeps
        its place in the text; one that has scrolled off goes to the first row of the screen."""
        missing = self._top + self.height - len(self._rows)
        self._rows += [""] * missing
        self._broken += [False] * missing
        if height < self.height:
            needed = self.height - height
            below = min(needed, self._top + self.height - 1 - self._at)
            if below:
                del self._rows[-below:], self._broken[-below:]
            self._top += needed - below
        else:
            self._top = max(0, self._top - (height - self.height))
            more = self._top + height - len(self._rows)
            self._rows += [""] * more
            self._broken += [False] * more
        self.height = height
        if width != self.width:
            self.width = width
            self._reflow()

    def _reflow(self) -> None:
        rows: list[str] = []
        broken: list[bool] = []
        place = 0, self._column
        for begin, line in self._lines():
            parts = _parts(line, self.width)
            if begin <= self._at < begin + self._count(begin):
                before = sum(len(row) for row in self._rows[begin : self._at])
                before += len(_cut(self._rows[self._at], self._column))
                place = _place_of(parts, before)
                place = len(rows) + place[0], place[1]
            rows += parts
            broken += [True] * (len(parts) - 1) + [False]
        self._rows, self._broken = rows, broken
        self._top = len(rows) - self.height
        if self._top < 0:
            self._rows += [""] * -self._top
            self._broken += [False] * -self._top
            self._top = 0
        self._at, self._column = place if place[0] >= self._top else (self._top, 0)

    def _count(self, begin: int) -> int:
        end = begin
        while self._broken[end]:
            end += 1
        return end - begin + 1

    def _lines(self) -> list[tuple[int, str]]:
        """The number of the first row of each line, and its text."""
        lines: list[tuple[int, str]] = []
        at = 0
        while at < len(self._rows):
            count = self._count(at)
            lines.append((at, "".join(self._rows[at : at + count])))
            at += count
        return lines

    @property
    def rows(self) -> list[str]:
        rows = [line.rstrip() for _, line in self._lines()]
        while rows and not rows[-1]:
            rows.pop()
        return rows


def _parts(line: str, width: int) -> list[str]:
    """A line on rows of this width."""
    parts = [""]
    for char in line:
        if cell_len(parts[-1] + char) > width:
            parts.append("")
        parts[-1] += char
    return parts


def _cut(row: str, column: int) -> str:
    """What stands before a column."""
    end = 0
    while end < len(row) and cell_len(row[: end + 1]) <= column:
        end += 1
    return row[:end]


def _place_of(parts: list[str], before: int) -> tuple[int, int]:
    """The row and the column of a place with so many characters before it."""
    for number, part in enumerate(parts):
        if before < len(part) or number + 1 == len(parts):
            return number, cell_len(part[:before])
        before -= len(part)
    raise AssertionError
