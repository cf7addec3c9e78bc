"""Markdown on a terminal: printed once, whatever the pieces, the moments and the widths."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from corpus import PROPERTY
from every import every
from hypothesis import given
from hypothesis import strategies as st
from screens import Screen
from support import executed_lines, run_traced

from llmstream._core.blocks import Splitter, split
from llmstream.cli.markdown import MarkdownGrammar
from llmstream.cli.painter import PipePainter, PlainPainter, painter_for
from llmstream.cli.screen import ScreenPainter

GRAMMAR = MarkdownGrammar()


class Clock:
    """Time that stands still but where a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def paint(text: str, cuts: list[int], screen: Screen, step: float = 1.0) -> list[str]:
    """What a screen has, after `text` has arrived in pieces, one every `step` seconds."""
    clock = Clock()
    painter = ScreenPainter(screen, clock=clock, size=screen.size)
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        clock.now += step
        painter.add(text[begin:end])
    painter.finish()
    return screen.rows


BLOCKS = [
    "A paragraph with **bold**, *emphasis*, `code` and [a link](https://example.com/a).",
    "Two lines\nof one paragraph",
    "# A title",
    "Title\n=====",
    "Another one\n---",
    "---",
    "- one\n- two\n  - nested\n\n    with a paragraph\n- three",
    "1. one\n1. two\n\n1. three",
    "9. nine\n10. ten\n11. eleven",
    "* * *",
    "> quoted\nlazily\n>\n> - item\n> - item\n>\n> end",
    "```python\n" + "\n".join(f"line_{n} = '''{n}" for n in range(20)) + "\n```",
    "~~~\nunclosed\n\n# no title",
    "   ```\n   indented\n  less\n   ```",
    "| a | b |\n|---|:-:|\n" + "\n".join(f"| {n} | {'x' * n} |" for n in range(20)),
    "a | b\n--|--\nc | d\nno pipe\n\nafter",
    "    indented code\n\n    more",
    "<div>\n\nhtml\n\n</div>",
    "[ref]: https://example.com\n\n[text][ref]",
    "中文" * 120 + "。",
    "word " * 120 + "end",
    "an *open star " + "word " * 100 + "closes* here " + "word " * 60,
    "2 * 3 and snake_case_name " * 20,
    "long | header " * 30 + "\n" + "---|---",
    "- item\n\nA paragraph after a list, " + "which goes on " * 30,
    "&#27;[31m&Tab;&NewLine;x",
    "1986\\. A great year\n\\*not emphasis\\*",
    "- \n- b\n-",
    "***\ntext\n***",
    "text " * 60 + "\n===\n" + "text " * 60 + "\n- item\n" + "more " * 80,
]


@st.composite
def texts_and_cuts(draw: Callable[..., object]) -> tuple[str, list[int]]:
    blocks = draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5))
    joints = draw(st.lists(st.sampled_from(["\n\n", "\n", "\n\n\n"]), min_size=6, max_size=6))
    text = "".join(block + joint for block, joint in zip(blocks, joints, strict=False))
    if draw(st.booleans()):
        text = text.rstrip("\n")
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=30))
    return text, sorted(cuts)


@pytest.mark.slow
@PROPERTY
@given(texts_and_cuts())
def test_units_do_not_depend_on_the_pieces(case: tuple[str, list[int]]) -> None:
    """Where a text is cut into units depends on the text alone."""
    text, cuts = case
    whole, _ = split(Splitter(), text, GRAMMAR, final=True)
    units, state = [], Splitter()
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        done, state = split(state, text[begin:end], GRAMMAR)
        units += done
    done, state = split(state, "", GRAMMAR, final=True)
    assert units + done == whole
    assert state == Splitter()


@pytest.mark.slow
@PROPERTY
@given(texts_and_cuts(), st.sampled_from([20, 40, 80, 120]), st.sampled_from([6, 24]))
def test_the_scrollback_is_what_is_painted_at_once(
    case: tuple[str, list[int]], width: int, height: int
) -> None:
    text, cuts = case
    once = paint(text, [], Screen(width, 10_000))
    assert paint(text, cuts, Screen(width, height)) == once


# ---- a terminal that is resized ------------------------------------------------------------------

FLOWING = [block for block in BLOCKS if "|" not in block and "---" not in block]


@st.composite
def sizes_on_the_way(draw: Callable[..., object]) -> tuple[str, list[tuple[int, int, int, bool]]]:
    """A text, and the steps in which it arrives: how much of it there is then, the size of the
    terminal then, and whether the painter knows of that size already."""
    blocks = draw(st.lists(st.sampled_from(FLOWING), min_size=1, max_size=5))
    text = "\n\n".join(blocks)
    width, height = 80, 24
    steps = []
    for cut in sorted(draw(st.lists(st.integers(0, len(text)), max_size=25))):
        if draw(st.booleans()):
            width = draw(st.integers(20, 130))
        else:
            height = draw(st.integers(12, 40))
        if draw(st.booleans()):
            steps.append((cut, width, height, False))
        steps.append((cut, width, height, True))
    return text, steps


def words(rows: list[str]) -> str:
    """What stands on the rows; where they are broken depends on the width."""
    return "".join("".join(rows).split()).replace("\u2500", "").replace("\u258c", "")


# Rows above: what tmux adds to the others by breaking them scrolls away at the top of the screen.
ABOVE = "# One\n\n# Two\n\n# Three\n\n# Four\n\n"


@pytest.mark.slow
@PROPERTY
@given(sizes_on_the_way())
def test_the_scrollback_of_a_terminal_that_is_resized(
    case: tuple[str, list[tuple[int, int, int, bool]]],
) -> None:
    """It breaks the rows anew, and the painter learns of it later: the text is there once."""
    text, steps = case
    screen, clock = Screen(80, 24), Clock()
    known = screen.size()
    painter = ScreenPainter(screen, clock=clock, size=lambda: known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMUX", "whose ways the screen has")
        painter.add(ABOVE)
        begin = 0
        for end, width, height, is_known in steps:
            screen.resize(width, height)
            known = screen.size() if is_known else known
            clock.now += 1.0
            painter.add(text[begin:end])
            painter.tick()
            begin = end
        painter.add(text[begin:])
        painter.finish()
    assert words(screen.rows) == words(paint(ABOVE + text, [], Screen(1000, 10_000)))


def test_rows_are_painted_again_for_another_size() -> None:
    """Also while nothing arrives."""
    screen, clock = Screen(80, 24), Clock()
    painter = ScreenPainter(screen, clock=clock, size=screen.size)
    painter.add(ABOVE + "word " * 20)
    above = rows_of_answer(ABOVE)
    assert len(screen.rows) == len(above) + 3
    screen.resize(50, 24)
    clock.now += 1.0
    painter.tick()
    assert screen.rows == [*above, "", ("word " * 10).rstrip(), ("word " * 10).rstrip()]
    sent = screen.sent
    clock.now += 1.0
    painter.tick()
    assert screen.sent == sent


def test_what_is_not_finished_can_be_hidden() -> None:
    """Another program writes to the terminal meanwhile."""
    screen, clock = Screen(80, 24), Clock()
    painter = ScreenPainter(screen, clock=clock, size=screen.size)
    painter.hide()
    painter.add("First.\n\nSecond *one")
    painter.hide()
    assert screen.rows == ["First."]
    screen.write("Stopped\n")
    clock.now += 1.0
    painter.tick()
    assert screen.rows == ["First.", "Stopped", "", "Second *one"]
    painter.add("*.")
    painter.hide()
    painter.finish()
    assert screen.rows == ["First.", "Stopped", "", "Second one."]


# ---- what is never sent --------------------------------------------------------------------------

EVIL = (
    "\x1b]52;c;aGk=\x07 \x1b[2J \x9b31m \u202edlrow\u2066 \x08\x7f a\rb\n\n"
    "`\x1b[31mcode` [text\x1b]8;;http://evil\x1b\\](http://example.com/\x1b[31m) "
    "![image](http://example.com/%1b[2J) <http://example.com/\x07>\n\n"
    "&#27;[31m &#x1b;]0;title&#7; &#x202e;reversed &#155;2J\n\n"
    "```\x1b[2J\n\x1b]0;t\x07 code\n```\n\n"
    "| \x1b[1m | b |\n|---|---|\n| &#27;c | \x9bH |\n\n"
    "    \x1bc indented\n\n- \x1b[5m item\n\n> \x1b[7m\n\n<a href='\x1b'>\x1b</a>\n"
)


@pytest.mark.slow
@every("size", [1, 3, 7, 1000])
def test_nothing_that_a_terminal_obeys_is_sent(size: int) -> None:
    """Neither in text, code, links, cells nor as an entity, however it is cut; the screen refuses
    any sequence but those of the painter."""
    for method in ("add", "thinking"):
        screen = Screen(60, 24)
        clock = Clock()
        painter = ScreenPainter(screen, clock=clock, size=screen.size)
        for at in range(0, len(EVIL), size):
            clock.now += 1.0
            getattr(painter, method)(EVIL[at : at + size])
        painter.abort()
        ours = re.sub(r"\x1b\[(\?7[hl]|\d*[ACJK]|[\d;]*m)", "", screen.sent)
        assert {char for char in ours if not char.isprintable()} <= {"\n", "\r", "\t"}
        assert "\x1b]" not in screen.sent
        assert "\\x1b]52;c;aGk=\\x07" in "".join(screen.rows)
        assert "dlrow" in "".join(screen.rows)


def test_a_terminal_of_another_encoding() -> None:
    """What it lacks is shown as an escape, and bullets, bars and rules are of ASCII."""
    screen = Screen(40, 24, "ascii")
    rows = paint(
        "- caf\u00e9\n\n> quoted\n\n---\n\na | b\n--|--\n\u4e2d | \U0001f600\n", [], screen
    )
    assert rows[:3] == ["* caf\\xe9", "", "| quoted"]
    assert rows[4] == "-" * 40
    assert rows[-1] == "\\u4e2d  \\U0001f600"


# ---- what is shown -------------------------------------------------------------------------------


def rows_of_answer(text: str, width: int = 60) -> list[str]:
    return paint(text, [], Screen(width, 24))


def test_how_an_answer_looks() -> None:
    assert rows_of_answer(
        "# Title\n\nSome **bold** `code`, [a link](https://a.example/b) and <https://c.example>.\n"
        "1. one\n1. two\n   - deep\n\n```py\n\tx = 1\n```\n> said\n\n"
        "| n | v |\n|---|--:|\n| a | 10 |\n"
    ) == [
        "Title",
        "",
        "Some bold code, a link (https://a.example/b) and",
        "https://c.example.",
        "",
        "1. one",
        "2. two",
        "   \u2022 deep",
        "",
        "```py",
        "\tx = 1",
        "```",
        "",
        "\u258c said",
        "",
        "n   v",
        "\u2500  \u2500\u2500",
        "a  10",
    ]


def test_nothing_of_the_text_is_left_out() -> None:
    """HTML, definitions and links that are none are shown as they are written."""
    html = "<div>\nhtml <b>bold</b>\n</div>"
    links = "[ref]: http://a.example\n\n[text][ref] [js](javascript:x)"
    text = f"{html}\n\n{links}"
    assert rows_of_answer(text) == text.split("\n")


def test_blocks_in_hundreds_of_others_are_shown_as_text() -> None:
    """What markdown-it gives up on is not lost."""
    assert "deep" in "".join(rows_of_answer("> " * 200 + "deep\n"))
    assert "deep" in "".join(rows_of_answer("- " * 300 + "deep\n\nend\n"))


def test_thinking_is_dim_and_apart() -> None:
    screen = Screen()
    painter = ScreenPainter(screen, size=screen.size)
    painter.thinking("Hm, *what*")
    painter.thinking(" then?")
    painter.add("The answer.")
    painter.finish()
    assert screen.rows == ["Hm, what then?", "", "The answer."]
    dim, answer = screen.sent.rsplit("\n\n", 1)
    assert "\x1b[2;3m" in dim
    assert "\x1b[2" not in answer


def test_no_color_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org: bold and dim stay."""
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    paint("**bold** `code`\n\n```python\ndef f(): return 1\n```\n", [], screen)
    styles = set(re.findall(r"\x1b\[([\d;]*)m", screen.sent))
    assert "1" in styles
    assert styles <= {"0", "1", "2", "3", "4", "9"}, styles


@pytest.mark.slow
def test_what_is_not_finished_takes_a_few_rows() -> None:
    """However long a block is, at most ten rows are painted again, and half of the screen."""
    for block in (
        "- item\n  " + "x\n  - y\n" * 30,
        "| a |\n|--|\n" + "".join(f"| {n} |\n" for n in range(11)),
        "".join(f"> {n}\n" for n in range(50)),
    ):
        for height, most in ((24, 10), (8, 4), (1, 1)):
            screen = Screen(40, height)
            clock = Clock()
            painter = ScreenPainter(screen, clock=clock, size=screen.size)
            for line in block.splitlines(keepends=True):
                clock.now += 1.0
                painter.add(line)
            again = re.findall(r"\x1b\[\?7l(.*?)\x1b\[\?7h", screen.sent, re.DOTALL)
            rows = [painted.count("\n") + 1 for painted in again]
            assert rows
            assert max(rows) <= most
            painter.abort()


def test_it_is_painted_twelve_times_a_second_and_a_tenth_of_the_time() -> None:
    """A painting that takes long waits ten times as long."""
    clock = Clock()

    class Slow(Screen):
        paintings = 0
        cost = 0.0

        def flush(self) -> None:
            self.paintings += 1
            clock.now += self.cost

    for cost, most in ((0.0, 13), (0.05, 3)):
        clock.now = 0.0
        screen = Slow()
        screen.cost = cost
        painter = ScreenPainter(screen, clock=clock, size=screen.size)
        while clock.now < 1.0:
            clock.now += 0.001
            painter.add("word ")
        assert 1 < screen.paintings <= most
        painter.tick()
        clock.now += 10.0
        painter.tick()
        assert "word word" in screen.rows[-1]


@pytest.mark.slow
def test_the_work_grows_as_the_answer_does() -> None:
    """Twice the text, painted in twice as many pieces, is about twice the work."""
    block = "\n\n".join(BLOCKS[:5]) + "\n\n" + BLOCKS[11] + "\n\n" + BLOCKS[20] + "\n\n"

    def work(count: int) -> int:
        text = block * count
        cuts = list(range(50, len(text), 50))
        return executed_lines(lambda: paint(text, cuts, Unseen(80, 24)))

    class Unseen(Screen):
        def write(self, text: str) -> int:
            return len(text)

    work(1)  # imports, and what is kept
    assert work(4) <= 2.5 * work(2)


# ---- ends ----------------------------------------------------------------------------------------


def test_an_answer_that_ends_early_keeps_its_text() -> None:
    """`abort` paints what has arrived, ends the line, and takes back what it has set."""
    screen = Screen()
    painter = ScreenPainter(screen, size=screen.size)
    painter.add("A **bold")
    painter.add(" word and `code\r")
    painter.abort()
    assert screen.rows == ["A **bold word and `code\\x0d"]
    assert screen.wraps
    assert screen.sent.endswith("\n\x1b[?7h\x1b[0m")
    painter.abort()
    painter.finish()
    painter.add("late")
    assert screen.rows == ["A **bold word and `code\\x0d"]


def test_an_answer_that_begins_anew() -> None:
    screen = Screen()
    painter = ScreenPainter(screen, size=screen.size)
    painter.add("The sk")
    painter.restart()
    painter.add("The sky is blue.")
    painter.finish()
    assert screen.rows == ["The sk", "", "[the answer begins anew]", "", "The sky is blue."]


@every("style", ["rows", "tail", "line"])
def test_an_error_of_the_painting_loses_nothing(
    style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rich or a lexer cannot do is shown as text, and so is the rest of the answer."""
    screen = Screen()
    clock = Clock()
    painter = ScreenPainter(screen, clock=clock, size=screen.size)
    painter.add("First.\n\nSecond **one**.\n\nThi")
    clock.now += 1.0

    def fail(*_: object) -> None:
        raise ValueError("a fault of a lexer")

    if style == "line":
        monkeypatch.setattr(painter, "_paint_row", fail)
    else:
        monkeypatch.setattr(painter._renderer, style, fail)
    painter.add("rd\x1b[2J one\n\n")
    painter.add("Fourth.")
    painter.abort()
    text = "".join("\n".join(screen.rows).split())
    assert text == "First.Secondone.Third\\x1b[2Jone" + "Fourth."


class Interrupted(BaseException):
    pass


def interrupted_at(at: int, text: str) -> list[str] | None:
    """What a screen has after an interrupt at the line with this number of those that are executed,
    and `abort`; None where there are not so many. Not at a line between taking a piece and writing
    it: there CPython handles no signal."""
    screen = Screen(60, 24)
    painter = ScreenPainter(screen, clock=Clock(), size=screen.size)
    count = 0

    def trace(frame: FrameType, what: str, arg: object) -> Any:
        nonlocal count
        if "llmstream/cli/" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        if frame.f_code.co_name not in ("_flush", "_turn", "add") and what == "line":
            count += 1
            if count == at:
                raise Interrupted
        return trace

    try:
        run_traced(lambda: painter.add(text), trace)
    except Interrupted:
        painter.abort()
        return screen.rows
    return None


@pytest.mark.slow
def test_an_interrupt_anywhere_in_the_painting_loses_nothing() -> None:
    text = "One **two** three.\n\n- four\n- five\n\n```py\nsix = 7\n```\n\nEight"
    expected = rows_of_answer(text)
    at = 1
    while (rows := interrupted_at(at, text)) is not None:
        assert rows == expected, f"interrupted at line {at}"
        at += 7
    assert at > 100


# ---- which painter -------------------------------------------------------------------------------


def test_which_painter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Markdown on a terminal that can move its cursor; text there with `plain`, or without rich;
    the bytes as they are elsewhere."""
    monkeypatch.setenv("TERM", "xterm-256color")
    assert type(painter_for(Screen())) is ScreenPainter
    assert type(painter_for(Screen(), plain=True)) is PlainPainter
    assert type(painter_for(io.StringIO())) is PipePainter
    monkeypatch.setitem(sys.modules, "llmstream.cli.screen", None)
    assert type(painter_for(Screen())) is PlainPainter
    monkeypatch.undo()
    for name in ("dumb", "unknown", ""):
        monkeypatch.setenv("TERM", name)
        assert type(painter_for(Screen())) is PlainPainter


def test_text_in_a_pipe_and_on_a_plain_terminal() -> None:
    pipe = io.StringIO()
    painter = painter_for(pipe)
    painter.thinking("hm")
    painter.add("**a**\x1b[2J")
    painter.finish()
    assert pipe.getvalue() == "**a**\x1b[2J\n"
    screen = Screen()
    plain = PlainPainter(screen)
    plain.thinking("hm")
    plain.add("**a**")
    plain.add("\x1b[2J")
    plain.restart()
    plain.add("b")
    plain.abort()
    assert screen.rows == [
        "[thinking]",
        "hm",
        "[answer]",
        "**a**\\x1b[2J",
        "[the answer begins anew]",
        "b",
    ]
    assert "\x1b" not in screen.sent
