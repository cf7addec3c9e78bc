"""Markdown on a terminal, append-only: what is finished is printed once, and never touched again.

Below what is finished stand the last rows of what is not, at most `LIVE_ROWS` of them: these are
erased and painted again. So the scrollback has the answer once, whatever its length, and the work
for an answer grows as its length does. Nothing but colors, the movement of the cursor over those
rows, their erasure, and the mark against automatic line breaks in them is ever sent to the
terminal.

The cursor waits at the begin of the first of these rows. A terminal that breaks its rows anew when
its size changes keeps the cursor at its place in the text, and takes rows below the cursor away
before it lets others scroll off. So all that is below the cursor is what is painted again, whatever
the size is by now: the program learns of a new size later (tmux: after up to 250 ms).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TextIO

from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.style import Style

from .._core.blocks import Splitter, live, split
from .._core.terminal import for_terminal
from .._runtime.clock import SYSTEM_CLOCK
from .markdown import MarkdownGrammar, Painted, Rendered, Renderer

__all__ = ["LIVE_ROWS", "ScreenPainter"]

LIVE_ROWS = 10  # at most, and at most half of the terminal's
# The columns of a terminal whose rows are broken anew and still do not scroll away at their begin.
_NARROW = 20
_SHORTEST = 1 / 12  # seconds between two paintings
_COSTS = 10  # and that many times what the last one has taken
_PIECE = 2048  # characters that are about written at once
_THINKING = Style(dim=True, italic=True)
_BEGINS_ANEW = "[the answer begins anew]"
_NO_WRAP, _WRAP, _PLAIN = "\x1b[?7l", "\x1b[?7h", "\x1b[0m"
# Erases from the row of the cursor on. Not from its first place: where that is the first one of the
# screen, tmux takes it for clearing the screen, and keeps what was there as scrolled away.
_ERASE = "\r\x1b[K\x1b[C\x1b[J\r"


class _Shown(Struct, frozen=True):
    """What is on the terminal, and what is not yet."""

    splitter: Splitter = Splitter()
    rendered: Rendered = Rendered()
    live: tuple[str, ...] = ()  # the rows that are painted again, as they are written
    size: tuple[int, int] = (0, 0)  # of the terminal then
    above: int = 0  # rows that this painter has finished


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
        self._hidden = False
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
        if self._clock() >= self._due and (self._text or self._hidden or self._is_resized()):
            self._paint()

    def hide(self) -> None:
        if self._shown.live:
            self._shown = replace(self._shown, live=())
            self._hidden = True
            self._write(_ERASE)

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

    def _is_resized(self) -> bool:
        """Whether the rows that are not finished stand as for another size."""
        return bool(self._shown.live) and not self._closed and self._size() != self._shown.size

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
        shown = self._shown
        if self._text or self._held or shown.live or shown.splitter != Splitter():
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
        self._hidden = False
        self._flush()
        now = self._clock()
        self._due = now + max(_SHORTEST, _COSTS * (now - begun))

    def _next(self, before: _Shown, *, final: bool) -> tuple[_Shown, str, list[str]]:
        """What is shown after the next painting, and what is written for it."""
        size = width, height = self._size()
        text, held = self._taken(final=final)
        base = _THINKING if self._is_thinking else None
        units, splitter = split(before.splitter, text, self._grammar, final=final)
        rows, rendered = self._renderer.rows(units, before.rendered, width)
        done = [self._paint_row(row, base) for row in rows]
        if final:
            rendered = Rendered(begun=rendered.begun)
        room = max(1, min(LIVE_ROWS, height // 2))
        above = before.above + len(done)
        # tmux scrolls by each row that breaking adds, also while the screen below is empty.
        spare = min(above, height - room) if "TMUX" in os.environ else height - room
        narrow = _NARROW, spare
        tail = [] if final else self._renderer.tail(live(splitter), rendered, width, room, narrow)
        painted = tuple(self._paint_row(row, base) for row in tail)
        after = _Shown(splitter, rendered, painted, size, above)
        pieces: list[str] = []
        if done or painted != before.live or size != before.size:
            pieces = _frame(before.live, done, painted)
        return after, held, pieces

    def _as_text(self, before: _Shown, *, final: bool) -> tuple[_Shown, str, list[str]]:
        """What is not printed yet, as it is written."""
        text, held = self._taken(final=final)
        parts = [before.rendered.carry.plain] if before.rendered.carry is not None else []
        fence = before.splitter.fence
        if fence is not None and not fence.opened:
            parts.append(f"```{fence.info}")
        rows = "\n".join([*parts, before.splitter.pending + text]).rstrip("\n").split("\n")
        after = _Shown(rendered=Rendered(begun=True), above=before.above + len(rows))
        return after, held, _frame(before.live, rows, ())

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


def _frame(live: tuple[str, ...], done: list[str], painted: tuple[str, ...]) -> list[str]:
    """What is written for one painting, in pieces: `live` is erased, and other rows take its place.
    The cursor is at the begin of the first row of `live`, and then of `painted`."""
    pieces = [_ERASE if live else ""]
    for row in done:
        if len(pieces[-1]) + len(row) > _PIECE:
            pieces.append("")
        pieces[-1] += f"{row}\n"
    if painted:
        # Where the terminal takes a sign for wider than it is taken here, its row stays one row.
        back = f"\x1b[{len(painted) - 1}A" if len(painted) > 1 else ""
        pieces.append("".join([_NO_WRAP, "\n".join(painted), _WRAP, "\r", back]))
    return pieces


def _size_of(out: TextIO) -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, rows or 24
