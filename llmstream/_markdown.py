"""Markdown that a model has written, as a notebook may be given it. Pure.

A notebook renders Markdown with whatever HTML is in it, and what a kernel has just sent counts as
trusted there: JupyterLab runs its scripts. So a model that repeats a web page could run code in the
reader's session. The rule here does not depend on how a renderer reads Markdown, and they differ:
no `<` of the model that could begin a tag is left, but in fenced code, which is fenced anew where
all of them agree.

- Outside of code such a `<` is `&lt;`; in a formula, where an entity would be shown, a space
  follows it. Code spans and code inside of lists, if they need it, are written as HTML in which
  every sign is an entity.
- A link leads to http, https, mailto, or a place without a scheme: anything else (javascript:,
  data:) is shown as text.
- An image is a link. A browser fetches an image without being asked, and its address could carry
  what was said to whoever has planted it (CVE-2025-32711 is such a case).

A text without any of this stays as it is, character by character.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["answer_markdown", "as_code", "as_text", "safe_markdown"]

_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # what begins a tag, a comment or a declaration in HTML
_ESCAPED_TAG = re.compile(r"(?<!\\)(\\*)<(?=[A-Za-z/!?])")
# What several renderers take for the begin of a formula that goes on over blank lines, and fences.
_FORMULAS = re.compile(r"\$\$|\\\[|\\begin\{")
_FENCE = re.compile(r"([ \t>]*)(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*)")
_LANGUAGE = re.compile(r"[\w+#.-]*")
_TICKS = re.compile(r"`+")
_AUTOLINK = re.compile(r"<(https?://[^\s<>\"'`]+)>")
_IMAGE = re.compile(r"(?<!\\)((?:\\\\)*)!(?=\[)")
_LONGEST = 300  # characters of a destination before its first / or ?
_LINK = re.compile(rf"\](?=([(:])\s*([^\s/?]{{1,{_LONGEST}}}))")
# A block of an extension of Python-Markdown, which marimo uses: its attributes may be handlers.
_BLOCK = re.compile(r"^([ \t>]*)(?=///+[ \t]*[\w-]+[ \t]*(?:\|.*)?$)", re.MULTILINE)
# A scheme ends at the first colon, if no / ? or # comes before it (RFC 3986, 3.1).
_SCHEME = re.compile(r"([^/?#:]*):")
_HARMLESS = frozenset({"http", "https", "mailto"})
_FORMULA = re.compile(
    r"\$\$.{1,1000}?\$\$|(?<![\\$])\$(?![\s$])[^$\n]{1,1000}?(?<![\s\\])\$(?!\d)"
    r"|\\\(.{1,1000}?\\\)|\\\[.{1,1000}?\\\]|\\begin\{(\w{1,20}\*?)\}.{1,1000}?\\end\{\1\}",
    re.DOTALL,
)
_CONTROLS = {code: None for code in range(0x20) if chr(code) not in "\t\n"}
_MARK = re.compile(r"[!-+/:-@\[-`{-~\x00-\x1f]")  # all signs but , - and .
_SIGN = re.compile(r"[!-/:-@\[-`{-~\x00-\x1f]")


def safe_markdown(text: str) -> str:
    """`text` as a notebook may render it. A fence that is open at the end is closed."""
    if not text.isprintable():
        # A renderer may leave controls out, and so make a tag of what was none.
        text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)
    return "\n".join(_blocks(text.split("\n"), _FORMULAS.search(text) is None))


def as_text(text: str) -> str:
    """A name in the middle of a line: no renderer finds markup in it."""
    return _MARK.sub(_entity, text)


def as_code(text: str) -> str:
    """A code span, or a block inside of one, whatever is in `text`."""
    return f"<code>{_SIGN.sub(_entity, text)}</code>"


def _entity(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"


def answer_markdown(
    text: str, refusal: str = "", calls: Iterable[Any] = (), finish: str | None = None
) -> str:
    """The parts of an answer, and a remark where it ended otherwise than by itself."""
    parts = [safe_markdown(part) for part in (text, refusal) if part]
    parts += [f"Tool call: {as_code(call.name)} {as_code(call.arguments)}" for call in calls]
    if finish in _REMARKS:
        parts.append(f"*{_REMARKS[finish]}*")
    return "\n\n".join(parts)


_REMARKS: dict[str | None, str] = {
    "length": "The answer was cut at the limit of its tokens.",
    "content_filter": "The answer was cut by the content filter of the service.",
}


# ---- blocks --------------------------------------------------------------------------------------


def _blocks(lines: list[str], fenced: bool) -> Iterator[str]:
    """The lines of fenced code, and those of all else, each as it may be rendered. `fenced`:
    whether all renderers agree on where fenced code begins."""
    paragraph: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        fence = _FENCE.fullmatch(line)
        if fence is None:
            paragraph.append(line)
            if not line.strip():  # no code span goes beyond a blank line
                yield _inline("\n".join(paragraph))
                paragraph = []
            continue
        if paragraph:
            yield _inline("\n".join(paragraph))
            paragraph = []
        end = _end_of(fence, lines, at)
        yield from _code_block(fence, lines[at:end], lines[end : end + 1], fenced)
        at = end + 1
    if paragraph:
        yield _inline("\n".join(paragraph))


def _end_of(fence: re.Match[str], lines: list[str], at: int) -> int:
    """The number of the line that closes the fence; that after the last one if none does."""
    closing = re.compile(rf"[ \t>]*{fence[2][0]}{{{len(fence[2])},}}[ \t]*")
    while at < len(lines) and not closing.fullmatch(lines[at]):
        at += 1
    return at


def _code_block(
    fence: re.Match[str], body: list[str], closing: list[str], fenced: bool
) -> Iterator[str]:
    indent, ticks, language = fence.groups()
    code = "\n".join(body)
    if not _is_risky(code) and not _is_risky(language):
        yield fence[0]
        yield from body
        yield closing[0] if closing else indent + ticks
    elif fenced and not indent:
        longest = max((len(found[0]) for found in _TICKS.finditer(code)), default=0)
        anew = "`" * max(3, longest + 1)
        name = _LANGUAGE.match(language)
        yield from ("", anew + (name[0] if name else ""), *body, anew, "")
    else:
        inside = "\n".join(line.removeprefix(indent) for line in body)
        yield f"{indent}<pre>{as_code(inside)}</pre>"


# ---- inside of a paragraph -----------------------------------------------------------------------


def _is_risky(text: str) -> bool:
    if _TAG.search(text) or "![" in text or _BLOCK.search(text):
        return True
    return any(not _is_harmless(found[2]) for found in _LINK.finditer(text))


def _inline(text: str) -> str:
    if not _is_risky(text):
        return text
    parts: list[str] = []
    done = 0
    for begin, end, width in _code_spans(text):
        parts.append(_prose(text[done:begin]))
        span = text[begin:end]
        parts.append(as_code(span[width:-width].strip()) if _is_risky(span) else span)
        done = end
    parts.append(_prose(text[done:]))
    return "".join(parts)


def _code_spans(text: str) -> Iterator[tuple[int, int, int]]:
    """Begin, end and the number of backticks of each code span (CommonMark 6.1). Linear: for each
    run of backticks the next one of its length is known."""
    runs = [(found.start(), found.end()) for found in _TICKS.finditer(text)]
    following: list[int | None] = [None] * len(runs)
    latest: dict[int, int] = {}
    for number in range(len(runs) - 1, -1, -1):
        width = runs[number][1] - runs[number][0]
        following[number] = latest.get(width)
        latest[width] = number
    number = 0
    while number < len(runs):
        begin, end = runs[number]
        other = following[number]
        if other is None or text[:begin].endswith("\\"):
            number += 1
            continue
        yield begin, runs[other][1], end - begin
        number = other + 1


def _prose(text: str) -> str:
    parts: list[str] = []
    done = 0
    for found in _FORMULA.finditer(text):
        parts += _marked(text[done : found.start()]), _marked(found[0], tag="< ")
        done = found.end()
    parts.append(_marked(text[done:]))
    return "".join(parts)


def _marked(text: str, tag: str = "&lt;") -> str:
    text = _AUTOLINK.sub(r"\1", text)
    # An entity after a backslash would be none.
    text = _ESCAPED_TAG.sub(lambda found: found[1][: len(found[1]) // 2 * 2] + tag, text)
    text = _BLOCK.sub(r"\1\\", text)
    text = _IMAGE.sub(r"\1\\!", text)
    return _LINK.sub(lambda found: "]" if _is_harmless(found[2]) else "]\\", text)


def _is_harmless(destination: str) -> bool:
    """Whether a link may lead there, however the destination is written."""
    if len(destination) == _LONGEST:
        return False
    for written in (destination, destination.replace("\\", "")):
        address = "".join(char for char in html.unescape(written) if char > " ").lstrip("<")
        scheme = _SCHEME.match(address)
        if scheme is not None and scheme[1].lower() not in _HARMLESS:
            return False
    return True
