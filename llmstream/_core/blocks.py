"""Markdown that arrives in pieces, cut where no later piece can change what stands before. Pure.

A terminal can only repaint what is still on its screen. So an answer is printed once, unit by unit,
and no more than the unit that is not finished is painted again. The units depend on the text alone,
not on how it was cut into pieces. That follows from two facts:

- CommonMark finds blocks line by line: once a line begins a block, what stands before that line is
  finished (https://spec.commonmark.org/0.31.2/, appendix "A parsing strategy"). The same holds for
  the items of a list and the blocks inside of a quotation.
- What may grow without a bound is cut inside of the block: fenced code after every few lines, a
  table after its first rows, a paragraph between two words where no emphasis, code or link is open.
  Where that is depends only on what stands before.

Which lines are which block is decided by a `Grammar`; in the command that is markdown-it-py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

__all__ = ["Code", "Grammar", "Splitter", "Unit", "live", "split"]

# Lines of code that are finished together, and the lines before them that a highlighter also sees.
CODE_LINES = 8
CODE_CONTEXT = 24
TABLE_ROWS = 12  # of these a table's columns get their widths; each further row is a unit
PARAGRAPH = 160  # characters after which a paragraph may be cut
_NEXT_TRY = 40  # and, where something is open there, the characters until the next try
_FORCED = 3000  # and those after which it is cut though something is open
_WINDOW = 1000  # characters that are first looked at for the end of a block


class Token(Protocol):
    """What `split` needs of markdown-it's tokens."""

    type: str
    level: int
    map: Any  # [first line, line after the last], or None
    markup: str
    info: str
    attrs: dict[str, Any]


class Grammar(Protocol):
    """What is a block, and what is open."""

    def blocks(self, source: str, *, flow: bool) -> Sequence[Any]:
        """The tokens of the blocks in `source`. `flow`: it goes on with a paragraph, of which no
        line below makes a heading."""

    def is_settled(self, text: str) -> bool:
        """Whether no emphasis, code or link that begins in a part of a paragraph can go on after
        it."""


class Code(Struct, frozen=True):
    """Lines of one fenced block of code.

    Args:
        info: what follows the opening fence; its first word is the language.
        lines: the lines.
        before: those that stand before them in the block, as far as a highlighter is to see them.
        opens: whether the block begins with these lines.
        closes: whether it ends with them.
    """

    info: str
    lines: tuple[str, ...]
    before: tuple[str, ...] = ()
    opens: bool = False
    closes: bool = False


# How a unit stands to the one before it: as the next block; as the next item of the same list, with
# an empty line between them or without; as the next block of the same quotation; as the next words
# of the same paragraph, after a space or without; as the next lines of the same code or table.
Join = Literal["block", "item", "loose item", "quote", "words", "letters", "code", "row"]


class Unit(Struct, frozen=True):
    """A finished part of the text.

    Args:
        source: its Markdown; for rows of a table with the two lines of the head before them.
        join: how it follows what stands before.
        number: for an item of a numbered list: its number.
        goes_on: whether the paragraph goes on with the next unit.
        code: instead of `source`.
    """

    source: str
    join: Join = "block"
    number: int | None = None
    goes_on: bool = False
    code: Code | None = None


class _Fence(Struct, frozen=True):
    """An open block of fenced code."""

    mark: str
    indent: int
    info: str
    recent: tuple[str, ...] = ()  # finished lines, for the highlighter
    opened: bool = False  # whether a unit has begun it


class Splitter(Struct, frozen=True):
    """What is not finished, and what it goes on with. A value: `split` returns the next one."""

    pending: str = ""
    join: Join = "block"
    number: int | None = None  # of the next item, in a numbered list
    head: str = ""  # the two lines of the table that goes on
    fence: _Fence | None = None
    tried: int = 0  # characters of the paragraph where it cannot be cut


def split(
    state: Splitter, text: str, grammar: Grammar, *, final: bool = False
) -> tuple[list[Unit], Splitter]:
    """The units that are finished when `text` has arrived, and what is not. `final`: nothing
    follows, so all of it is finished."""
    units: list[Unit] = []
    state = replace(state, pending=state.pending + text)
    while True:
        if state.fence is not None:
            done, after = _code(state, state.fence, final)
        else:
            done, after = _prose(state, grammar, final)
        units += done
        if after.pending and after != state:
            state = after
            continue
        if final and after.fence is not None:  # one that is never closed
            return [*units, _code_unit(after.fence, (), closes=True)], Splitter()
        return units, after


def live(state: Splitter) -> Unit | None:
    """What is not finished, as a unit; None if nothing is there to show."""
    if state.fence is not None:
        lines = _unindented(state.pending.split("\n"), state.fence.indent)
        if lines and not lines[-1]:
            lines = lines[:-1]
        if not lines and state.fence.opened:
            return None
        return _code_unit(state.fence, lines, closes=False)
    if not state.pending.strip():
        return None
    return Unit(state.head + state.pending, state.join, state.number)


# ---- fenced code ---------------------------------------------------------------------------------


def _code(state: Splitter, fence: _Fence, final: bool) -> tuple[list[Unit], Splitter]:
    """The lines of fenced code, up to the end of the block. Each is looked at once."""
    mark = fence.mark
    closing = re.compile(rf" {{0,3}}{re.escape(mark[0])}{{{len(mark)},}}[ \t]*")
    lines = state.pending.split("\n")
    rest = lines.pop()
    if final and rest:
        lines.append(rest)
        rest = ""
    units: list[Unit] = []
    for start in range(0, len(lines), CODE_LINES):
        part = lines[start : start + CODE_LINES]
        end = next((n for n, line in enumerate(part) if closing.fullmatch(line)), None)
        if end is not None:
            body = _unindented(part[:end], fence.indent)
            units.append(_code_unit(fence, body, closes=True))
            after = lines[start + end + 1 :]
            return units, Splitter("\n".join([*after, rest]))
        if len(part) < CODE_LINES and not final:
            return units, replace(state, fence=fence, pending="\n".join([*part, rest]))
        body = _unindented(part, fence.indent)
        units.append(_code_unit(fence, body, closes=False))
        recent = (*fence.recent, *body)[-CODE_CONTEXT:]
        fence = replace(fence, recent=recent, opened=True)
    return units, replace(state, fence=fence, pending=rest)


def _code_unit(fence: _Fence, lines: Sequence[str], *, closes: bool) -> Unit:
    opens = not fence.opened
    code = Code(fence.info, tuple(lines), fence.recent, opens, closes)
    return Unit("", "block" if opens else "code", code=code)


def _unindented(lines: Sequence[str], indent: int) -> list[str]:
    """The lines without the spaces that also the opening fence has."""
    if not indent:
        return list(lines)
    return [line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in lines]


# ---- the words of a paragraph --------------------------------------------------------------------

# How a line begins that is a paragraph, or goes on with one, whatever follows.
_PROSE = re.compile(
    r" {0,3}(?:[^\W\d_]|[*_]{1,3}[^\s*_]|`{1,2}[^`]|[\[(\"'“«„‘]|[^\x00-\x7f\s]|\d+[^\d.)])"
)
_FLOWS = ("words", "letters")
_WIDE = 0x2E80  # from here on scripts that write without spaces


def _prose(state: Splitter, grammar: Grammar, final: bool) -> tuple[list[Unit], Splitter]:
    """A paragraph that is cut, else what is finished of the blocks."""
    text, tried = state.pending, state.tried
    if state.join == "block":
        text = text.lstrip("\n")
    if len(text) > PARAGRAPH and state.join in ("block", *_FLOWS):
        at = _cut_of(text, max(PARAGRAPH, tried), grammar)
        if at > 0:
            space = text[at] == " "
            unit = Unit(text[:at], state.join, goes_on=True)
            return [unit], Splitter(text[at + space :], "words" if space else "letters")
        tried = -at
    units, after = _blocks(state, grammar, final)
    return units, after if units else replace(after, tried=tried)


def _cut_of(text: str, begin: int, grammar: Grammar) -> int:
    """Where the paragraph may be cut: the number of characters before. Zero or less: nowhere up
    to there. Depends on nothing after the cut but one character."""
    line = 0  # where the line begins
    while True:
        if _PROSE.match(text, line) is None:
            return -begin
        end = text.find("\n", line)
        stop = len(text) - 1 if end < 0 else end
        pipe = text.find("|", line, stop)  # the head of a table has one
        at = max(begin, line + 1)
        while at < (stop if pipe < 0 else min(stop, pipe)):
            if not _is_between_words(text, at):
                at += 1
                continue
            if at >= _FORCED or grammar.is_settled(text[:at]):
                return at
            begin = at = at + _NEXT_TRY
        if end < 0 or end + 1 >= len(text):
            return -begin
        line = end + 1


def _is_between_words(text: str, at: int) -> bool:
    before, here, after = text[at - 1], text[at], text[at + 1]
    if here == " ":
        return after.isalpha() and not before.isspace() and before != "\\"
    return here.isalpha() and ord(here) >= _WIDE and ord(before) >= _WIDE


# ---- blocks --------------------------------------------------------------------------------------


def _blocks(state: Splitter, grammar: Grammar, final: bool) -> tuple[list[Unit], Splitter]:
    """The blocks that are finished, and what is finished of the last one."""
    source = state.pending if final else _whole_lines(state.pending)
    size = _WINDOW
    while True:
        end = len(source) if size >= len(source) else source.rfind("\n", 0, size) + 1
        part = source[:end] if end else source
        ends = final and len(part) == len(source)
        tokens = grammar.blocks(state.head + part, flow=state.join in _FLOWS)
        tops = [token for token in tokens if token.level == 0 and token.map]
        if not tops:
            return [], Splitter() if ends else state
        units, after = _Reading(state, part, tokens, tops, ends).run()
        if after is not None:
            return units, replace(after, pending=after.pending + state.pending[len(part) :])
        if len(part) == len(source):
            return [], state
        size *= 2


def _whole_lines(text: str) -> str:
    """The lines that are whole, and the last one, if it begins a paragraph whatever follows."""
    end = text.rfind("\n") + 1
    begins = text[:end].endswith("\n\n") and text[end : end + 1].isalpha()
    return text if begins else text[:end]


class _Reading:
    """One look at the blocks of a text."""

    def __init__(
        self, state: Splitter, part: str, tokens: Sequence[Any], tops: list[Any], ends: bool
    ) -> None:
        self._state = state
        self._tokens = tokens
        self._tops = tops
        self._ends = ends
        self._lines = (state.head + part).split("\n")
        self._units: list[Unit] = []
        self._at = 2 if state.head else 0  # the first line that is not in a unit

    def run(self) -> tuple[list[Unit], Splitter | None]:
        """The units, and what goes on; None if nothing is finished."""
        begun = self._at
        state = self._state
        for number, top in enumerate(self._tops):
            ends = self._ends or number + 1 < len(self._tops)
            last = number + 1 == len(self._tops)
            end = len(self._lines) if last else self._tops[number + 1].map[0]
            if top.type == "fence":
                return self._units, self._fenced(top)
            if number and self._is_long(top):
                break  # it may be cut, and that is looked at first
            find = _PARTS.get(top.type)
            if find is not None:
                state = find(self, top, end, ends, state)
            elif ends:
                self._unit(end, state.join)
            if not ends:
                break
            flowed = state.join in _FLOWS
            state = Splitter()
            if flowed:
                break  # what follows is read again: there a line may make a heading
        if self._at == begun and not self._ends:
            return [], None
        return self._units, replace(state, pending="\n".join(self._lines[self._at :]), tried=0)

    def _unit(self, end: int, join: Join, number: int | None = None, head: str = "") -> None:
        source = "\n".join(self._lines[self._at : end]).strip("\n")
        self._units.append(Unit(head + source, join, number))
        self._at = end

    def _is_long(self, top: Any) -> bool:
        """Whether a block may begin with a part of a paragraph."""
        line, room = top.map[0], PARAGRAPH
        if _PROSE.match(self._lines[line]) is None:
            return False
        while room >= 0 and line < len(self._lines) and self._lines[line].strip():
            room -= len(self._lines[line]) + 1
            line += 1
        return room < 0

    def _fenced(self, top: Any) -> Splitter:
        line = self._lines[top.map[0]]
        indent = len(line) - len(line.lstrip(" "))
        fence = _Fence(top.markup, indent, top.info.strip())
        return Splitter("\n".join(self._lines[top.map[0] + 1 :]), fence=fence)

    def _inside(self, top: Any, kind: str | None) -> list[Any]:
        """The blocks directly inside of one."""
        begin, end = top.map
        return [
            token
            for token in self._tokens
            if token.level == 1
            and token.map
            and begin <= token.map[0] < end
            and (kind is None or token.type == kind)
        ]

    def _items(self, top: Any, end: int, ends: bool, state: Splitter) -> Splitter:
        """Each item of a list that another one follows is finished."""
        items = self._inside(top, "list_item_open")
        number = None
        if top.type == "ordered_list_open":
            number = int(top.attrs.get("start", 1)) if state.number is None else state.number
        join = state.join
        for one in range(len(items)):
            last = one + 1 == len(items)
            if last and not ends:
                break
            stop = end if last else items[one + 1].map[0]
            self._unit(stop, join, number)
            join = "item" if self._lines[stop - 1].strip() else "loose item"
            number = None if number is None else number + 1
        return Splitter(join=join, number=number)

    def _quoted(self, top: Any, end: int, ends: bool, state: Splitter) -> Splitter:
        """Each block of a quotation that another one follows is finished."""
        join = state.join
        for block in self._inside(top, None)[1:]:
            self._unit(block.map[0], join)
            join = "quote"
        if ends:
            self._unit(end, join)
        return Splitter(join=join)

    def _rows(self, top: Any, end: int, ends: bool, state: Splitter) -> Splitter:
        """A table with its first rows, then each row."""
        head, join = state.head, state.join
        first = top.map[0] + 2
        if not head:
            if top.map[1] - first < TABLE_ROWS and not ends:
                return state
            at = top.map[0]
            head = "\n".join(self._lines[at : at + 2]) + "\n"
            self._unit(min(first + TABLE_ROWS, top.map[1]), join)
        while self._at < top.map[1]:
            self._unit(self._at + 1, "row", head=head)
        if ends:
            self._at = end
        return Splitter(head=head, join="row")


_PARTS: dict[str, Any] = {
    "bullet_list_open": _Reading._items,
    "ordered_list_open": _Reading._items,
    "blockquote_open": _Reading._quoted,
    "table_open": _Reading._rows,
}
