"""An answer on a real terminal (tmux): the scrollback is what is painted at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import pytest
from panes import Pane, require_tmux
from screens import Screen
from support import PATIENCE, eventually

from llmstream.cli.screen import ScreenPainter

pytestmark = pytest.mark.slow

# Reads commands as JSON, a line each, and answers each with the size of the terminal and the
# processor time that painting has taken so far.
CHILD = """
import json, sys, time
from llmstream.cli.screen import ScreenPainter
painter = ScreenPainter(sys.stdout, clock=lambda: now)  # each piece is painted
now = spent = 0.0
with open(sys.argv[1]) as commands, open(sys.argv[2], "w") as replies:
    for line in commands:
        name, text = json.loads(line)
        now += 1.0
        begun = time.process_time()
        getattr(painter, name)(*([text] if text is not None else []))
        spent += time.process_time() - begun
        replies.write(json.dumps([painter._size(), spent]) + "\\n")
        replies.flush()
"""

PARTS = [
    "## Section {n}\n\n",
    """Paragraph {n} is **long** enough to be wrapped, with `code` and *emphasis* in it, \
and it goes on with more words than fit on a row, so that it is cut before it ends, at least once \
or twice. The 中文 in it is wide, and the word number {n} is in it once.

""",
    "1. item {n} one\n2. item {n} two\n   - nested {n}\n3. item {n} three\n\n",
    """```python
def function_{n}(argument):
    # Code {n} is not wrapped.
    for one in range({n}):
        print(one, argument)

    return {n}


class Class{n}:
    value = {n}
    other = '{n}'
```

""",
    "> quoted {n}\n>\n> and more of it\n\n",
    "| name {n} | value |\n|---|---:|\n| a{n} | {n} |\n| b{n} | {n} |\n\n",
    "---\n\n",
]


def answer(size: int) -> str:
    """A text of about `size` characters with all that an answer has."""
    text, parts, n = "", cycle(PARTS), 0
    while len(text) < size:
        n += 1
        text += next(parts).format(n=n)
    return text


def at_once(text: str, width: int) -> list[str]:
    """The rows that a terminal without an end has after one painting."""
    screen = Screen(width, 1_000_000)
    painter = ScreenPainter(screen, size=screen.size)
    painter.add(text)
    painter.finish()
    return screen.rows


class Driven:
    """A painter in a pane, told by the test what to do next."""

    def __init__(self, pane: Pane, commands: Any, replies: Any) -> None:
        self.pane = pane
        self._commands = commands
        self._replies = replies
        self.spent = 0.0

    def do(self, name: str, text: str | None = None) -> tuple[int, int]:
        self._commands.write(json.dumps([name, text]) + "\n")
        self._commands.flush()
        size, self.spent = json.loads(self._replies.readline())
        return tuple(size)

    def resize(self, width: int, height: int) -> None:
        self.pane.resize(width, height)
        eventually(lambda: self.do("add", "") == (width, height), "the new size")


@contextmanager
def driven(folder: Path, width: int, height: int) -> Iterator[Driven]:
    require_tmux()
    commands, replies = folder / "commands", folder / "replies"
    os.mkfifo(commands)
    os.mkfifo(replies)
    words = [sys.executable, "-c", CHILD, str(commands), str(replies)]
    with (
        Pane(folder, words, width, height, {"PYTHONPATH": os.pathsep.join(sys.path)}) as pane,
        open(commands, "w", encoding="utf-8") as out,
        open(replies, encoding="utf-8") as back,
    ):
        yield Driven(pane, out, back)


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def squeezed(rows: list[str]) -> str:
    return "".join("".join(rows).split())


@pytest.mark.parametrize(("width", "height"), [(80, 24), (44, 12), (120, 40)])
def test_the_scrollback_of_a_long_answer(tmp_path: Path, width: int, height: int) -> None:
    """25,000 characters in 800 pieces, each of them painted: nothing twice, nothing missing."""
    text = answer(25_000)
    with driven(tmp_path, width, height) as painter:
        for piece in pieces(text, 32):
            painter.do("add", piece)
        painter.do("finish")
        rows = eventually_rows(painter.pane, at_once(text, width))
        assert rows == at_once(text, width)
        print(f"{width} columns: {painter.spent:.2f} s of painting")


def test_the_scrollback_of_a_terminal_that_is_resized(tmp_path: Path) -> None:
    """At other widths the rows are others; the text is the same, once."""
    text = answer(25_000)
    sizes = cycle([(60, 24), (100, 30), (46, 24), (80, 16), (132, 40), (50, 20)])
    with driven(tmp_path, 80, 24) as painter:
        for number, piece in enumerate(pieces(text, 32)):
            painter.do("add", piece)
            if number % 9 == 8:
                painter.resize(*next(sizes))
        painter.do("finish")
        expected = squeezed(at_once(text, 80))
        eventually(lambda: squeezed(painter.pane.rows) == expected, "the text, once")


@pytest.mark.parametrize("seed", range(3))
def test_the_scrollback_of_a_terminal_that_is_resized_at_any_moment(
    tmp_path: Path, seed: int
) -> None:
    """The painter learns of a size after the terminal has broken its rows anew, and goes on to
    paint meanwhile."""
    text, random = answer(12_000), Random(seed)
    with driven(tmp_path, 80, 24) as painter:
        for number, piece in enumerate(pieces(text, 40)):
            painter.do("add", piece)
            if number > 7 and random.random() < 0.4:
                painter.pane.resize(random.randint(46, 132), random.randint(20, 40))
        painter.do("finish")
        expected = squeezed(at_once(text, 80))
        eventually(lambda: squeezed(painter.pane.rows) == expected, "the text, once")


def eventually_rows(pane: Pane, expected: list[str]) -> list[str]:
    """What the terminal has; it may be behind the painter."""
    last: list[str] = []
    for _ in range(int(PATIENCE * 10)):
        last = pane.rows
        if last == expected:
            break
    return last
