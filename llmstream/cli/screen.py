"""Markdown on a terminal, append-only: what is finished is printed once, and never touched again.

Below what is finished stand the last rows of what is not, at most `LIVE_ROWS` of them: these are
erased and painted again. So the scrollback has the answer once, whatever its length, and the work
for an answer grows as its length does. Nothing but colors, the movement of the cursor over those
rows, and the mark against automatic line breaks in them is ever sent to the terminal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TextIO

from msgspec import Struct
from rich.cells import cell_len, get_character_cell_size
from rich.console import Console
from rich.style import Style

from .._core.blocks import Splitter, live, split
from .._core.terminal import for_terminal
from .._runtime.clock import SYSTEM_CLOCK
from .markdown import MarkdownGrammar, Painted, Rendered, Renderer

__all__ = ["LIVE_ROWS", "ScreenPainter", "rows_of"]

LIVE_ROWS = 10  # at most, and at most half of the terminal's
_SHORTEST = 1 / 12  # seconds between two paintings
_COSTS = 10  # and that many times what the last one has taken
_PIECE = 2048  # characters that are about written at once
_THINKING = Style(dim=True, italic=True)
_BEGINS_ANEW = "[the answer begins anew]"
_NO_WRAP, _WRAP, _PLAIN = "\x1b[?7l", "\x1b[?7h", "\x1b[0m"


class _Shown(Struct, frozen=True):
    """What is on the terminal, and what is not yet."""

    splitter: Splitter = Splitter()
    rendered: Rendered = Rendered()
    live: tuple[str, ...] = ()  # the rows that are painted again, as they are written
    texts: tuple[str, ...] = ()  # and their text alone
    width: int = 0  # of the terminal then


class ScreenPainter:
    """Paints one answer on a terminal; see `Painter`.

    Between two pieces the screen may be behind by what has arrived since the last painting. An
    interrupt at any point loses nothing that was added: `abort` paints it.

    Args:
        out: the terminal.
        clock: seconds on a scale that never goes back.
        size: columns and rows of the terminal.
    """

    def __init__(
        self,
        out: TextIO,
        *,
        clock: Callable[[], float] = SYSTEM_CLOCK.monotonic,
        size: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._out = out
        self._clock = clock
        self._size = size or (lambda: _size_of(out))
        self._encoding = getattr(out, "encoding", None) or "utf-8"
        ascii_only = not self._encoding.lower().startswith("utf")
        self._grammar = MarkdownGrammar()
        self._renderer = Renderer(self._grammar, self._shown_as, ascii_only=ascii_only)
        self._paint_row = Painted().line
        self._due = 0.0
        self._text = ""  # what has arrived since the last painting
        self._held = ""  # a carriage return, until the next character is there
        self._is_thinking = False
        self._shown = _Shown()
        self._unwritten: list[str] = []
        self._closed = False

    @staticmethod
    def can_paint() -> bool:
        """Whether the terminal obeys escape sequences; the old console of Windows does not."""
        return not Console().legacy_windows

    def add(self, text: str) -> None:
        self._turn(False, text)

    def thinking(self, text: str) -> None:
        self._turn(True, text)

    def restart(self) -> None:
        self._end()
        self._text = _BEGINS_ANEW
        self._is_thinking = False
        self._end()

    def tick(self) -> None:
        if self._text and self._clock() >= self._due:
            self._paint()

    def finish(self) -> None:
        if not self._closed:
            self._end()
            self._closed = True

    def abort(self) -> None:
        if not self._closed:
            self._flush()  # what an interrupt has kept from being written
            self._end()
            self._closed = True
            self._write(f"{_WRAP}{_PLAIN}")

    # ---- pieces ----------------------------------------------------------------------------------

    def _turn(self, thinking: bool, text: str) -> None:
        if not text or self._closed:
            return
        if thinking != self._is_thinking:
            self._end()
            self._is_thinking = thinking
        self._text += text
        self.tick()

    def _taken(self, *, final: bool) -> tuple[str, str]:
        """What has arrived, as it may be shown, and what waits for its next character."""
        text = self._held + self._text
        held = "\r" if text.endswith("\r") and not final else ""
        text = text[: len(text) - len(held)].replace("\r\n", "\n")
        return self._shown_as(text), held

    def _shown_as(self, text: str) -> str:
        text = for_terminal(text)
        if text.isascii():
            return text
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)

    # ---- painting --------------------------------------------------------------------------------

    def _end(self) -> None:
        """Paint all that has arrived; what follows is another text."""
        if self._text or self._held or self._shown != _Shown(rendered=self._shown.rendered):
            self._paint(final=True)

    def _paint(self, *, final: bool = False) -> None:
        begun = self._clock()
        before = self._shown
        try:
            after, held, pieces = self._next(before, final=final)
        except Exception:
            # A fault of a library, say of a lexer: the answer counts more than its colors.
            after, held, pieces = self._as_text(before, final=final)
        # From here on it counts as written: what an interrupt leaves of it, `abort` writes.
        self._shown, self._text, self._held, self._unwritten = after, "", held, pieces
        self._flush()
        now = self._clock()
        self._due = now + max(_SHORTEST, _COSTS * (now - begun))

    def _next(self, before: _Shown, *, final: bool) -> tuple[_Shown, str, list[str]]:
        """What is shown after the next painting, and what is written for it."""
        width, height = self._size()
        text, held = self._taken(final=final)
        base = _THINKING if self._is_thinking else None
        units, splitter = split(before.splitter, text, self._grammar, final=final)
        rows, rendered = self._renderer.rows(units, before.rendered, width)
        done = [self._paint_row(row, base) for row in rows]
        if final:
            rendered = Rendered(begun=rendered.begun)
        room = max(1, min(LIVE_ROWS, height // 2))
        tail = [] if final else self._renderer.tail(live(splitter), rendered, width, room)
        painted = tuple(self._paint_row(row, base) for row in tail)
        after = _Shown(splitter, rendered, painted, tuple(row.plain for row in tail), width)
        pieces: list[str] = []
        if done or painted != before.live or width != before.width:
            up = rows_of(before.texts, width) if width < before.width else len(before.live)
            pieces = _frame(up, done, painted)
        return after, held, pieces

    def _as_text(self, before: _Shown, *, final: bool) -> tuple[_Shown, str, list[str]]:
        """What is not printed yet, as it is written."""
        text, held = self._taken(final=final)
        parts = [before.rendered.carry.plain] if before.rendered.carry is not None else []
        fence = before.splitter.fence
        if fence is not None and not fence.opened:
            parts.append(f"```{fence.info}")
        rows = "\n".join([*parts, before.splitter.pending + text]).rstrip("\n").split("\n")
        after = _Shown(rendered=Rendered(begun=True))
        return after, held, _frame(len(before.live), rows, ())

    def _write(self, text: str) -> None:
        self._unwritten.append(text)
        self._flush()

    def _flush(self) -> None:
        """Write what is not written. A piece that is begun is in the buffer of `out`, so it counts
        as written also where an interrupt ends the writing."""
        pieces, write = self._unwritten, self._out.write
        while pieces:
            piece = pieces[0]
            del pieces[0]
            write(piece)
        self._out.flush()


def _frame(up: int, done: list[str], painted: tuple[str, ...]) -> list[str]:
    """What is written for one painting, in pieces: `up` rows are erased, and others take their
    place. The cursor is at the begin of the row below."""
    # Row by row: to erase to the end of the screen (ED) from its first place on is to clear it for
    # tmux, which keeps what was there among the rows that have scrolled away.
    erase = "\x1b[K\x1b[B" * up
    pieces = [f"\r\x1b[{up}A{erase}\x1b[{up}A" if up else ""]
    for row in done:
        if len(pieces[-1]) + len(row) > _PIECE:
            pieces.append("")
        pieces[-1] += f"{row}\n"
    if painted:
        # Where the terminal takes a sign for wider than it is taken here, its row stays one row.
        pieces.append("".join([_NO_WRAP, *(f"{row}\n" for row in painted), _WRAP]))
    return pieces


def rows_of(texts: tuple[str, ...], width: int) -> int:
    """On how many rows these stand after the terminal has become narrower: most terminals break
    them anew, and so keep all of them."""
    if os.environ.get("XTERM_VERSION") or os.environ.get("STY"):
        return len(texts)  # xterm and screen cut them off
    return sum(_rows_of(text, width) for text in texts)


def _rows_of(text: str, width: int) -> int:
    if cell_len(text) <= width:
        return 1
    rows, column = 1, 0
    for char in text:
        size = get_character_cell_size(char)
        if column + size > width:
            rows, column = rows + 1, 0
        column += size
    return rows


def _size_of(out: TextIO) -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, rows or 24
