"""Units of Markdown as the rows of a terminal, with rich and markdown-it-py (extra `rich`).

Nothing that a model has written is lost: HTML, definitions of links, and addresses are shown as
text. No hyperlink is written (OSC 8): the address that is shown is the one that is meant. Code is
not wrapped and has no frame, so that it can be copied.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from markdown_it import MarkdownIt
from msgspec import Struct
from msgspec.structs import replace
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.syntax import Syntax
from rich.text import Text

from .._core.blocks import Code, Unit

__all__ = ["MarkdownGrammar", "Painted", "Rendered", "Renderer"]

_NESTING = 60  # blocks and emphasis inside of each other; deeper ones are shown as they are written
_HIGHLIGHTED = 8000  # characters of code that are given to a highlighter at once
_NARROWEST = 10  # columns that a paragraph gets, however deep it is
_RULE = 40
_DIM = Style(dim=True)
_STYLES = {
    "em": Style(italic=True),
    "strong": Style(bold=True),
    "s": Style(strike=True),
    "link": Style(underline=True),
    "code": Style(color="cyan"),
    "heading": Style(bold=True),
    "h1": Style(bold=True, underline=True),
    "head": Style(bold=True),
}
# What may open emphasis, code or a link, as it stands in text where it has not done so.
_OPEN = re.compile(r"`|\*(?=\S)|(?<![^\W_])_+(?=[^\s_])|~~(?=\S)|\[[^\]]*$")

_BREAK = re.compile(r"[ \t]*<br ?/?>[ \t]*", re.IGNORECASE)


# ---- what is a block -----------------------------------------------------------------------------


def _parser() -> MarkdownIt:
    # Definitions of links would have to be known before they are used; HTML would be left out.
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _NESTING})
    return parser.enable(["table", "strikethrough"]).disable(["reference", "html_block"])


class MarkdownGrammar:
    """The Grammar of CommonMark with tables; see `_core.blocks`."""

    def __init__(self) -> None:
        self._parser = _parser()
        self._flow = _parser().disable("lheading")

    def blocks(self, source: str, *, flow: bool) -> Sequence[Any]:
        parser = self._flow if flow else self._parser
        tokens: list[Any] = []
        parser.block.parse(source, parser, {}, tokens)
        return tokens

    def is_settled(self, text: str) -> bool:
        children = self._parser.parseInline(text)[0].children or ()
        return _OPEN.search("".join(t.content for t in children if t.type == "text")) is None

    def tokens(self, source: str, *, flow: bool) -> Sequence[Any]:
        """The tokens of `source`, with what is inside of paragraphs."""
        return (self._flow if flow else self._parser).parse(source)


# ---- rows ----------------------------------------------------------------------------------------


class Rendered(Struct, frozen=True):
    """What the next unit needs to know of those before it. A value.

    Args:
        begun: whether there is a row already.
        carry: the last row of a paragraph that goes on.
        widths: the columns of the latest table.
    """

    begun: bool = False
    carry: Any = None
    widths: tuple[int, ...] = ()


class _Words:
    """The words of paragraphs, headings and cells, with their styles, on rows."""

    def __init__(self, encode: Callable[[str], str]) -> None:
        self.encode = encode
        self._console = Console(width=80, color_system=None, force_terminal=False)

    def wrapped(self, text: Text, width: int) -> list[Text]:
        rows = list(text.wrap(self._console, max(width, 2), overflow="fold", tab_size=8))
        for row in rows:
            row.rstrip()
        return rows or [Text()]

    def inline(self, tokens: Sequence[Any] | None, *, breaks: bool = False) -> Text:
        """The words of a paragraph. `breaks`: a <br> is one, as tables have it."""
        text = Text()
        open_styles: list[Style] = []
        links: list[tuple[str, int]] = []
        for token in tokens or ():
            kind = token.type
            if kind in ("softbreak", "hardbreak"):
                text.append("\n")
            elif kind == "image":
                alt = self.inline(token.children)
                text.append_text(alt)
                self._address(text, str(token.attrs.get("src", "")), alt.plain)
            elif kind.endswith("_open"):
                open_styles.append(_STYLES.get(kind.removesuffix("_open"), Style.null()))
                if kind == "link_open":
                    links.append((str(token.attrs.get("href", "")), len(text)))
            elif kind.endswith("_close"):
                open_styles.pop()
                if kind == "link_close":
                    address, begin = links.pop()
                    self._address(text, address, text.plain[begin:])
            else:
                style = Style.combine(open_styles) if open_styles else Style.null()
                if kind == "code_inline":
                    style += _STYLES["code"]
                content = _BREAK.sub("\n", token.content) if breaks else token.content
                text.append(self.encode(content), style)
        return text

    def _address(self, text: Text, address: str, shown: str) -> None:
        """Where a link leads, unless the text says so."""
        if address and address.removeprefix("mailto:") != shown:
            text.append(f" ({self.encode(address)})", _DIM)

    def folded(self, row: Text, width: int) -> list[Text]:
        row = row.copy()
        row.expand_tabs(8)
        if row.cell_len <= width:
            return [row]
        return list(row.wrap(self._console, width, overflow="fold"))


class _Tables:
    """Tables: columns as wide as their widest cell, if all of them fit."""

    def __init__(self, words: _Words, line: str) -> None:
        self._words = words
        self._line = line

    def table(
        self, parts: Sequence[Any], source: str, width: int, widths: tuple[int, ...] = ()
    ) -> tuple[list[Text], tuple[int, ...]]:
        """The rows of a table, and the widths of its columns. With `widths`: without its head."""
        cells = [
            [
                (self._words.inline(_cell_tokens(cell[1]), breaks=True), _alignment(cell[0]))
                for cell in row[1]
            ]
            for part in parts
            for row in part[1]
        ]
        count = len(cells[0])
        room = width - 2 * (count - 1)
        if room < 3 * count:  # too narrow: as it is written
            lines = source.split("\n")[2 if widths else 0 :]
            return self._words.wrapped(
                Text(self._words.encode("\n".join(lines))), width
            ), widths or (0,)
        continued = bool(widths)
        if len(widths) != count or sum(widths) > room:
            widths = _fitting([_widest(row[n][0] for row in cells) for n in range(count)], room)
        rows: list[Text] = []
        for one, row in enumerate(cells):
            if one == 0 and continued:
                continue
            rows += self._row(row, widths, head=one == 0)
            if one == 0:
                rows.append(Text("  ".join(self._line * n for n in widths), _DIM))
        return rows, widths

    def _row(self, cells: Sequence[Any], widths: Sequence[int], *, head: bool) -> list[Text]:
        columns = []
        for (text, align), width in zip(cells, widths, strict=True):
            if head:
                text.stylize(_STYLES["head"])
            lines = self._words.wrapped(text, width)
            for line in lines:
                line.align(align, width)
            columns.append(lines)
        height = max(map(len, columns))
        rows = []
        for one in range(height):
            parts = [
                lines[one] if one < len(lines) else Text(" " * width)
                for lines, width in zip(columns, widths, strict=True)
            ]
            row = Text("  ").join(parts)
            row.rstrip()
            rows.append(row)
        return rows


class Renderer:
    """Makes rows of units. Two renderers with the same arguments make the same rows.

    Args:
        grammar: that with which the units were found.
        encode: what is done with each text that is shown.
        ascii_only: whether the terminal has no other signs.
    """

    def __init__(
        self, grammar: MarkdownGrammar, encode: Callable[[str], str], *, ascii_only: bool = False
    ) -> None:
        self._grammar = grammar
        self._encode = encode
        self._bullet, self._bar, self._line, self._more = (
            ("*", "|", "-", "...") if ascii_only else ("•", "▌", "─", "⋮")
        )
        self._words = _Words(encode)
        self._tables = _Tables(self._words, self._line)
        self._lexers: dict[str, Any] = {}

    def rows(
        self, units: Sequence[Unit], state: Rendered, width: int
    ) -> tuple[list[Text], Rendered]:
        """The rows of the units, and what those after them need to know. Rows of code may be wider
        than `width`; they are not wrapped."""
        rows: list[Text] = []
        for unit in units:
            more, state = self._unit(unit, state, width)
            rows += more
        return rows, state

    def tail(
        self,
        unit: Unit | None,
        state: Rendered,
        width: int,
        height: int,
        narrow: tuple[int, int],
    ) -> list[Text]:
        """The last rows of what is not finished: at most `height`, none wider than `width`. On a
        terminal of `narrow[0]` columns they would take at most `narrow[1]` rows more, unless it is
        one row here."""
        rows: list[Text] = []
        if unit is not None:
            rows, state = self._unit(self._shortened(unit, width * height), state, width)
        if state.carry is not None:
            rows.append(state.carry)
        columns, left = narrow
        fitting: list[Text] = []
        for row in self._from_the_end(rows, width):
            left -= max(0, (row.cell_len - 1) // columns)
            if fitting and (len(fitting) == height or left < 0):
                if height > 1:
                    fitting[-1] = Text(self._more, _DIM)
                break
            fitting.append(row)
        fitting.reverse()
        return fitting

    def _from_the_end(self, rows: Sequence[Text], width: int) -> Iterator[Text]:
        for row in reversed(rows):
            yield from reversed(self._words.folded(row, width))

    def _shortened(self, unit: Unit, room: int) -> Unit:
        """What is not finished is mostly short; of what is long only the end is looked at."""
        longest = 2000 + 2 * room
        if unit.code is not None:
            lines = tuple(line[-longest:] for line in unit.code.lines)
            return replace(unit, code=replace(unit.code, lines=lines))
        return unit if len(unit.source) <= 4 * longest else Unit(unit.source[-longest:])

    def _unit(self, unit: Unit, state: Rendered, width: int) -> tuple[list[Text], Rendered]:
        if unit.code is not None:
            rows = self._code(unit.code)
        elif unit.join in ("block", "words", "letters") and (
            unit.goes_on or state.carry is not None
        ):
            return self._flowing(unit, state, width)
        else:
            tokens = self._grammar.tokens(unit.source, flow=False)
            if unit.join == "row":
                rows = self._tables.table(_nodes(tokens)[0][1], unit.source, width, state.widths)[0]
            else:
                rows, state = self._top(tokens, unit, state, width)
        if state.begun and unit.join == "quote":
            rows.insert(0, Text(self._bar, _DIM))
        elif state.begun and unit.join in ("block", "loose item"):
            rows.insert(0, Text())
        return rows, replace(state, begun=True)

    def _top(
        self, tokens: Sequence[Any], unit: Unit, state: Rendered, width: int
    ) -> tuple[list[Text], Rendered]:
        try:
            nodes = _nodes(tokens)
            if any(token.level >= _NESTING - 2 for token in tokens):
                raise RecursionError
            if nodes and nodes[0][0].type == "table_open":
                rows, widths = self._tables.table(nodes[0][1], unit.source, width)
                rest = self._blocks(nodes[1:], unit.source, width, None)
                return rows + rest, replace(state, widths=widths)
            return self._blocks(nodes, unit.source, width, unit.number), state
        except RecursionError:
            return self._words.wrapped(Text(self._encode(unit.source)), width), state

    def _flowing(self, unit: Unit, state: Rendered, width: int) -> tuple[list[Text], Rendered]:
        """A part of a paragraph: its rows but the last one, which goes on."""
        tokens = self._grammar.tokens(unit.source, flow=unit.join != "block")
        nodes = _nodes(tokens)
        rows: list[Text] = []
        if state.begun and unit.join == "block":
            rows.append(Text())
        text = Text() if state.carry is None else state.carry.copy()
        if unit.join == "words":
            text.append(" ")
        if nodes and nodes[0][0].type == "paragraph_open":
            text.append_text(self._words.inline(nodes[0][1][0][0].children))
            nodes = nodes[1:]
        rows += self._words.wrapped(text, width)
        rows += self._blocks(nodes, unit.source, width, None)
        carry = rows.pop() if unit.goes_on else None
        return rows, replace(state, begun=True, carry=carry)

    # ---- blocks ----------------------------------------------------------------------------------

    def _blocks(
        self, nodes: Sequence[Any], source: str, width: int, number: int | None
    ) -> list[Text]:
        rows: list[Text] = []
        width = max(width, _NARROWEST)
        end = None
        for token, inside in nodes:
            if end is not None and (token.map is None or token.map[0] > end or not token.level):
                rows.append(Text())
            rows += self._block(token, inside, source, width, number)
            end = None if token.map is None else _last_line(token, source)
        return rows

    def _block(
        self, token: Any, inside: Sequence[Any], source: str, width: int, number: int | None
    ) -> list[Text]:
        kind = token.type
        if kind == "paragraph_open":
            return self._words.wrapped(self._words.inline(inside[0][0].children), width)
        if kind == "heading_open":
            text = self._words.inline(inside[0][0].children if inside else ())
            text.stylize(_STYLES["h1" if token.tag == "h1" else "heading"])
            return self._words.wrapped(text, width)
        if kind == "hr":
            return [Text(self._line * min(width, _RULE), _DIM)]
        if kind in ("fence", "code_block"):
            lines = tuple(token.content.removesuffix("\n").split("\n"))
            if kind == "code_block":
                return [Text("    ") + row for row in self._highlighted(Code("", lines))]
            return self._code(Code(token.info.strip(), lines, (), True, True))
        if kind == "blockquote_open":
            rows = self._blocks(inside, source, width - 2, None)
            return [_indented(Text(f"{self._bar} ", _DIM), row) for row in rows]
        if kind in ("bullet_list_open", "ordered_list_open"):
            return self._list(token, inside, source, width, number)
        if kind == "table_open":
            return self._tables.table(inside, source, width)[0]
        return self._words.wrapped(Text(self._encode(token.content)), width)

    def _list(
        self, token: Any, items: Sequence[Any], source: str, width: int, number: int | None
    ) -> list[Text]:
        rows: list[Text] = []
        numbers: Iterator[int] | None = None
        if token.type == "ordered_list_open":
            numbers = itertools.count(
                int(token.attrs.get("start", 1)) if number is None else number
            )
        end = None
        for item, inside in items:
            mark = f"{self._bullet} " if numbers is None else f"{next(numbers)}. "
            body = self._blocks(inside, source, width - len(mark), None) or [Text()]
            if end is not None and item.map[0] > end:
                rows.append(Text())
            for row in body:
                rows.append(_indented(Text(mark if row is body[0] else " " * len(mark)), row))
            end = _last_line(item, source)
        return rows

    def _code(self, code: Code) -> list[Text]:
        rows = self._highlighted(code) if code.lines else []
        if code.opens:
            rows.insert(0, Text(f"```{self._encode(code.info)}", _DIM))
        if code.closes:
            rows.append(Text("```", _DIM))
        return rows

    def _lexer(self, language: str) -> Any:
        """What knows the words of a language, or None."""
        if language not in self._lexers:
            self._lexers[language] = Syntax("", language, tab_size=0).lexer
        return self._lexers[language]

    def _highlighted(self, code: Code) -> list[Text]:
        lines = [self._encode(line) for line in code.lines]
        before = [self._encode(line) for line in code.before]
        whole = "\n".join([*before, *lines])
        language = code.info.split(maxsplit=1)[0] if code.info else ""
        lexer = self._lexer(language) if language and len(whole) <= _HIGHLIGHTED else None
        if lexer is not None:
            text = Syntax(whole, lexer, theme="ansi_dark").highlight(whole)
            rows = list(text.split("\n", allow_blank=True))
            if [row.plain for row in rows[: len(before) + len(lines)]] == [*before, *lines]:
                return rows[len(before) : len(before) + len(lines)]
        return [Text(line) for line in lines]


def _nodes(tokens: Sequence[Any]) -> list[Any]:
    """The tokens as a tree: pairs of a token and what is inside of it."""
    root: list[Any] = []
    stack = [root]
    for token in tokens:
        if token.nesting < 0:
            stack.pop()
        else:
            inside: list[Any] = []
            stack[-1].append((token, inside))
            if token.nesting > 0:
                stack.append(inside)
    return root


def _indented(mark: Text, row: Text) -> Text:
    row = Text().append_text(mark).append_text(row)
    row.rstrip()
    return row


def _last_line(token: Any, source: str) -> int:
    """The number after that of the last line of a block, without the empty lines at its end."""
    lines = source.split("\n")
    end = int(token.map[1])
    while end > token.map[0] + 1 and not (lines[end - 1] if end <= len(lines) else "").strip(
        " \t>"
    ):
        end -= 1
    return end


def _cell_tokens(inside: Sequence[Any]) -> Sequence[Any]:
    return inside[0][0].children or () if inside else ()


def _alignment(cell: Any) -> Any:
    return str(cell.attrs.get("style", "")).removeprefix("text-align:") or "left"


def _widest(texts: Iterator[Text]) -> int:
    return max(1, *(max((line.cell_len for line in text.split("\n")), default=1) for text in texts))


def _fitting(wanted: list[int], room: int) -> tuple[int, ...]:
    """The widths that the columns get. Where they do not fit, none of them is wider than a limit
    that makes the others fit."""
    limit = min(max(wanted), room)
    while sum(min(one, limit) for one in wanted) > room and limit > 1:
        limit -= 1
    return tuple(min(one, limit) for one in wanted)


# ---- escape sequences ----------------------------------------------------------------------------


class Painted:
    """Rows as what a terminal is sent: colors as it has them, without those under NO_COLOR."""

    def __init__(self) -> None:
        console = Console(force_terminal=True, width=80)
        name = console.color_system
        systems = {"standard": "STANDARD", "256": "EIGHT_BIT", "truecolor": "TRUECOLOR"}
        self._system = ColorSystem[systems[name]] if name in systems else None
        self._no_color = console.no_color
        self._console = console

    def line(self, row: Text, base: Style | None = None) -> str:
        """A row, without the end of the line."""
        pieces = []
        own = row.style if isinstance(row.style, Style) else Style.null()
        base = own if base is None else base + own
        for segment in row.render(self._console):
            style = base if segment.style is None else base + segment.style
            if self._no_color:
                style = style.without_color
            pieces.append(style.render(segment.text, color_system=self._system))
        return "".join(pieces)
