"""Markdown on a terminal: printed once, whatever the pieces, the moments and the widths."""

from __future__ import annotations

from collections.abc import Callable

from corpus import PROPERTY
from hypothesis import given
from hypothesis import strategies as st
from screens import Screen

from llmstream._core.blocks import Splitter, split
from llmstream.cli.markdown import MarkdownGrammar
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


@PROPERTY
@given(texts_and_cuts(), st.sampled_from([20, 40, 80, 120]), st.sampled_from([6, 24]))
def test_the_scrollback_is_what_is_painted_at_once(
    case: tuple[str, list[int]], width: int, height: int
) -> None:
    text, cuts = case
    once = paint(text, [], Screen(width, 10_000))
    assert paint(text, cuts, Screen(width, height)) == once
