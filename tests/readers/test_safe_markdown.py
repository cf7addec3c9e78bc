"""What a model writes, as three renderers show it: none makes a tag, a link or an image of it that
could do something by itself, wherever they disagree about Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream import Client, Result, ToolCall
from llmstream._markdown import answer_markdown, as_code, as_text, safe_markdown
from llmstream.testing import LLMServer

RENDERERS = ("markdown-it", "commonmark", "mistune", "nbconvert-like")
# What the renderers make of Markdown, and what safe_markdown itself writes.
TAGS = {
    *("p", "br", "hr", "em", "strong", "code", "pre", "a", "ul", "ol", "li", "blockquote", "del"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "s"),
    *("div", "span", "sup", "section", "input", "dl", "dt", "dd"),
}
ATTRIBUTES = {"href", "title", "class", "start", "style", "id", "type", "checked", "disabled"}


def renderer(name: str) -> Callable[[str], str]:
    if name in ("markdown-it", "commonmark"):
        markdown_it = pytest.importorskip("markdown_it")
        made = markdown_it.MarkdownIt(
            "commonmark" if name == "commonmark" else "js-default",
            {"html": True, **({} if name == "commonmark" else {"linkify": False})},
        )
        # What a renderer refuses by itself is not looked at: not all of them refuse it.
        made.validateLink = lambda url: True
        rendered: Callable[[str], str] = made.render
        return rendered
    mistune = pytest.importorskip("mistune")
    plugins = ["strikethrough", "table", "url", "task_lists", "footnotes", "def_list"]
    if name == "nbconvert-like":
        plugins.append("math")

    class Everything(mistune.HTMLRenderer):  # type: ignore[misc]
        def safe_url(self, url: str) -> str:
            return url

    made = mistune.create_markdown(renderer=Everything(escape=False), plugins=plugins)
    return lambda text: str(made(text))


class Looked(HTMLParser):
    """What a browser would do by itself, and what a click would."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.problems.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES:
                self.problems.append(f"<{tag} {name}>")
            if name == "href":
                self._look_at(value or "")
            if name == "style" and not re.fullmatch(r"text-align: ?\w+;?", value or ""):
                self.problems.append(f"style={value}")

    def _look_at(self, address: str) -> None:
        # As a browser reads it (WHATWG URL, 4.4): without tabs and line ends, and controls around.
        address = re.sub(r"[\t\r\n]", "", address).strip("".join(map(chr, range(0x21))))
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", address)
        if scheme and scheme[1].lower() not in ("http", "https", "mailto"):
            self.problems.append(address)

    def handle_comment(self, data: str) -> None:
        self.problems.append("a comment")

    def handle_decl(self, decl: str) -> None:
        self.problems.append("a declaration")

    def handle_pi(self, data: str) -> None:
        self.problems.append("an instruction")

    def unknown_decl(self, data: str) -> None:
        self.problems.append("a section")

    def handle_data(self, data: str) -> None:
        self.text += data


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<IMG SRC=x>",
    "a\n\n<div\nonclick=alert(1)>x</div>",
    "<!-- x --><?php x?><!DOCTYPE html><![CDATA[x]]>",
    "\\<script>alert(1)\\</script>",
    "\\\\<script>alert(1)</script>",
    "`<script>` and ``<b>`<i>``",
    "`<script>",
    "``` <script>alert(1)</script> ```",
    "```html\n<script>alert(1)</script>\n```",
    "```html\n<script>alert(1)</script>",
    "```html\n<script>\n````\n<b>\n```\n<i>",
    "~~~\n<script>\n```\n<b>\n~~~\n<i>",
    "~~~\n```\n~~~\n<script>\n```",
    "```<script>\nx\n```",
    "``` `\n<script>\n```",
    "- a\n  ```html\n  <script>alert(1)</script>\n  ```\n- b <b>",
    "> ```html\n> <script>alert(1)</script>\n\n<script>",
    "    ```\n<script>\n    ```",
    "1. x\n\n   ~~~\n   <img src=x>\n   ~~~",
    "$$\n\n```\n<script>\n```\n\n$$",
    "$$ a <b $$ and $x<y$ and \\(a<b\\) and \\[a<b\\]",
    "$`$ <script> `",
    "<https://a.example/x> and <https://a.example/onmouseover=alert(1)/>",
    "<javascript:alert(1)>",
    "[x](javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x]( \n javascript:alert(1))",
    "[x](java&#115;cript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](java&Tab;script&NewLine;:alert(1))",
    "[x](javascript\\:alert(1))",
    "[x](JavaScript:alert(1) 'title')",
    "[x](&#1;javascript:alert(1))",
    "[x](vbscript:x) [y](data:text/html,<script>) [z](file:///etc/passwd)",
    "[x][y]\n\n[y]: javascript:alert(1)",
    "[x]\n\n[x]:\njavascript:alert(1)",
    "[x]\n\n> [x]: <javascript:alert(1)>",
    "![x](https://a.example/x.png)",
    "![x][y]\n\n[y]: https://a.example/x.png",
    "\\![x](https://a.example/x.png) \\\\![x](https://a.example/x.png)",
    "[![x](https://a.example/x.png)](javascript:alert(1))",
    "```\n![x](https://a.example/x.png)\n[x](javascript:alert(1))\n```",
    "\r```\r<script>\r```\r<b>",
    "<\x00script>alert(1)</script><\x0bb>",
    "<scr\x01ipt>",
    "/// details | T\n    attrs: {onclick: alert(1)}\nx\n///",
    "> /// html | img[src=x]\n> ///",
    "a\n: <b>\n\n[^1]\n\n[^1]: <i>",
    "|a|b|\n|-|-|\n|<b>|`|<i>|`|",
]
PIECES = st.sampled_from(
    [
        *("<", "<script>", "</", "<img src=x onerror=a>", "<b", ">", "<!--", "-->", "&lt;", "&"),
        *("`", "``", "```", "````", "~~~", "```html", "\n", "\n\n", "\r", "\n    ", "\n  ", "\n> "),
        *("\n- ", "\n1. ", "$", "$$", "\\(", "\\)", "\\", "\\\\", "|", "\n|-|-|\n", "*", "_", "#"),
        *("[x]", "](", "]:", "]", "[", "(", ")", "![", "!", "[x](javascript:a)", "javascript:a"),
        *("[x]: javascript:a", "&colon;", "&#106;", "https://a.b/", "<https://a.b/>", " ", "word"),
        *("\t", "\x00", "\x0b", "\\begin{a}", "\\end{a}", "\n$$\n", "\n[^1]: ", "\n: ", "[^1]"),
        *(
            "\n/// details | T",
            "\n    attrs: {onclick: a}\n",
            "\n///\n",
            "{: onclick=a}",
            "{onclick=a}",
        ),
    ]
)


@pytest.mark.parametrize("name", RENDERERS)
def test_attacks(name: str) -> None:
    render = renderer(name)
    for text in ATTACKS:
        markup = render(safe_markdown(text))
        assert not Looked(markup).problems, (text, safe_markdown(text), markup)


@pytest.mark.parametrize("name", RENDERERS)
def test_the_attacks_are_attacks(name: str) -> None:
    """Without the rule each renderer does make something of many of them."""
    render = renderer(name)
    assert sum(bool(Looked(render(text)).problems) for text in ATTACKS) > len(ATTACKS) / 3


@pytest.mark.slow
@pytest.mark.parametrize("name", RENDERERS)
@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(PIECES, max_size=25))
def test_anything_that_looks_like_an_attack(name: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    markup = renderer(name)(safe_markdown(text))
    assert not Looked(markup).problems, (text, safe_markdown(text), markup)


ORDINARY = [
    "# Title\n\nSome *text* with **marks**, `code` and [a link](https://a.example/x?a=b#c).\n",
    "- a\n- b\n  1. c\n\n> quote\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "```python\nfor x in y[1:]:\n    print(x < 3, d['a'](x))\n```\n\nand so on",
    "if a < b && c <= d: 1 <3",
    "$x^2 + y_1 < 4$ and $$\\sum_i x_i$$",
    "[see below](#part) or [there](../there.md), mail [me](mailto:me@a.example)",
    "Zürich, 東京, 👩‍👩‍👧, \u200f שלום",
    "list[int]: a list",
    "",
]


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ORDINARY:
        assert safe_markdown(text) == text


@pytest.mark.parametrize("name", RENDERERS)
def test_tags_are_shown_as_what_they_are(name: str) -> None:
    """In prose, in code spans, in code, and in code inside of lists and quotes."""
    render = renderer(name)
    code = "<div class='a'>\n  `x` & *y* [z](javascript:a)\n</div>"
    inside = code.replace("\n", "\n  ")
    for text, shown in [
        ("a <b>bold</b> word", "a <b>bold</b> word"),
        ("a \\<b> word", "a <b> word"),
        ("write `<b>*x*</b>` or `` <i>` ``", "write <b>*x*</b> or <i>`"),
        (f"```html\n{code}\n```", code),
        (f"```html\n{code}", code),
        (f"- see\n\n  ```html\n  {inside}\n  ```\n\n- b", code),
    ]:
        looked = Looked(render(safe_markdown(text)))
        assert shown in looked.text, (text, safe_markdown(text))


def test_a_language_keeps_its_colours() -> None:
    """Fenced code stays fenced, with its language."""
    made = safe_markdown("Look:\n```c++\n#include <map>\n```\nDone")
    assert made == "Look:\n\n```c++\n#include <map>\n```\n\nDone"


def test_a_fence_that_is_open_is_closed() -> None:
    """While an answer arrives, what stands below it is not code."""
    assert safe_markdown("```py\nx = 1") == "```py\nx = 1\n```"
    assert safe_markdown("  ~~~~\nx") == "  ~~~~\nx\n  ~~~~"


@given(st.text())
def test_a_name_and_code_are_shown_as_they_are(text: str) -> None:
    entity = re.compile("&#(\\d+);")
    for written in (as_text(text), as_code(text)[len("<code>") : -len("</code>")]):
        assert entity.sub(lambda found: chr(int(found[1])), written) == text
        assert not re.search("[<>*_`\\[!|]", written)


def test_time_is_linear() -> None:
    """Many of each attack; a quadratic rule would take minutes."""
    pieces = ("```a", "`a``b```c", "\\(<b", "[x](", "]:  ", "$<b", "<b ", "\\", "![", "\n```\n")
    for piece in pieces:
        text = piece * (30_000 // len(piece))
        assert safe_markdown(text)
    runs = " ".join("`" * n for n in range(1, 200)) + "<b"
    assert safe_markdown(runs)


# ---- the values ----------------------------------------------------------------------------------


def test_a_result_in_a_notebook() -> None:
    assert Result(text="**x**", finish="stop")._repr_markdown_() == "**x**"
    assert Result(text="<b>", finish="stop")._repr_markdown_() == "&lt;b>"
    assert Result()._repr_markdown_() is None
    assert Result(refusal="I can't.")._repr_markdown_() == "I can't."
    cut = Result(text="```\nx", finish="length")._repr_markdown_()
    assert cut == "```\nx\n```\n\n*The answer was cut at the limit of its tokens.*"
    call = ToolCall("1", "find", '{"a": "<b>"}')
    shown = Result(text="Let me see", tool_calls=(call,), finish="tool_calls")._repr_markdown_()
    assert shown is not None
    assert html.unescape(shown) == (
        'Let me see\n\nTool call: <code>find</code> <code>{"a": "<b>"}</code>'
    )
    assert repr(Result(text="x")) == "Result(text='x')"


def test_a_stream_in_a_notebook(server: LLMServer, client: Client) -> None:
    """It shows what has arrived, and starts no call; its repr is what it was."""
    stream = client.stream("Hi")
    assert stream._repr_markdown_() == ""
    assert stream._repr_mimebundle_()["text/plain"] == repr(stream)
    assert html.unescape(stream._repr_mimebundle_()["text/markdown"]) == f"<code>{stream!r}</code>"
    assert repr(stream) == f"<Stream not started trace_id={stream.trace_id}>"
    assert not server.requests
    assert next(stream) == "Hello,"
    stream.result()
    assert stream._repr_markdown_() == "Hello, world!"
    assert answer_markdown(stream.text) == stream._repr_mimebundle_()["text/markdown"]
    assert len(server.requests) == 1
