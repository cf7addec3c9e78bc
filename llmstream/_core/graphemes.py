"""Where a text may be cut: between the characters that a reader sees (UAX #29, grapheme clusters).

A table of every code point would be large, and Python has none. `unicodedata` knows enough for the
side on which an error does no harm: whatever UAX #29 keeps together is kept together, and a few
clusters more (after a virama, say). Pure.
"""

from __future__ import annotations

import unicodedata

__all__ = ["is_boundary", "last_boundary", "may_grow", "unfinished"]

_ZWJ = "\u200d"
# Cf, Lm and Lo characters that extend a cluster, or stand after its letter.
_EXTEND = frozenset("\u200c\u200d\u0e33\u0eb3\uff9e\uff9f")
_MARKS = frozenset({"Mn", "Mc", "Me"})
_PREPENDED = frozenset(
    "\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd\U000111c2\U000111c3\U000113d1"
    "\U0001193f\U00011941\U00011a3a\U00011a84\U00011a85\U00011a86\U00011a87\U00011a88\U00011a89"
    "\U00011d46\U00011f02"
)
_LONGEST = 1000  # code points of a cluster; a family of four has 7, and UAX #15 allows 30 marks
_VIRAMA = 9  # the combining class of what joins two consonants


def is_boundary(text: str, at: int) -> bool:
    """Whether `text` may be cut at `at`, judged by what is in `text`."""
    if at <= 0 or at >= len(text):
        return True
    before, after = text[at - 1], text[at]
    if before < " " or (before < "\u0300" and after < "\u0300"):
        return not (before == "\r" and after == "\n")  # nothing else belongs to a control character
    if _extends(after) or before == _ZWJ:
        return False
    if "\ud800" <= before <= "\udbff":  # half a character; its other half may follow
        return not "\udc00" <= after <= "\udfff"
    if _is_regional(after) and _is_regional(before):
        return _regionals_before(text, at) % 2 == 0
    if _extends(before) and _joins(text, at):
        return False
    return not _is_syllable(before, after) and not _is_prepended(before)


def last_boundary(text: str) -> int:
    """The place before the last cluster of `text`; 0 if `text` is one cluster. One of more than
    1,000 code points is cut anywhere."""
    at = len(text) - 1
    least = max(0, at - _LONGEST)
    while at > least and not is_boundary(text, at):
        at -= 1
    return max(at, 0)


def unfinished(text: str) -> bool:
    """Whether the last cluster of `text` is surely a part of a longer one: it ends with a joiner,
    half a flag, half a character, or a CR whose LF may follow."""
    if not text:
        return False
    last = text[-1]
    if _is_regional(last):
        return _regionals_before(text, len(text)) % 2 == 1
    return last in (_ZWJ, "\r") or "\ud800" <= last <= "\udbff" or _is_prepended(last)


def may_grow(text: str) -> bool:
    """Whether the last cluster of `text` is one that often goes on in the next piece: an emoji (a
    tone, a selector or a joiner follows), or what is unfinished."""
    if not text or (text[-1].isascii() and text[-1] != "\r"):
        return False
    last = text[last_boundary(text)]
    return _is_pictographic(last) or unfinished(text)


def _extends(char: str) -> bool:
    return (
        unicodedata.category(char) in _MARKS
        or char in _EXTEND
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # tones of skin
        or "\U000e0020" <= char <= "\U000e007f"  # tags, of the flags of regions
    )


def _joins(text: str, at: int) -> bool:
    """Whether a virama stands before `at`, perhaps with more marks after it."""
    while at > 0 and _extends(text[at - 1]):
        at -= 1
        if unicodedata.combining(text[at]) == _VIRAMA:
            return True
    return False


def _is_regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _regionals_before(text: str, at: int) -> int:
    first = at
    while first > 0 and _is_regional(text[first - 1]):
        first -= 1
    return at - first


def _hangul(char: str) -> str:
    """What part of a Korean syllable it is: "L", "V", "T", the syllables "LV" and "LVT", or ""."""
    if "\uac00" <= char <= "\ud7a3":
        return "LVT" if (ord(char) - 0xAC00) % 28 else "LV"
    if "\u1100" <= char <= "\u115f" or "\ua960" <= char <= "\ua97c":
        return "L"
    if "\u1160" <= char <= "\u11a7" or "\ud7b0" <= char <= "\ud7c6":
        return "V"
    return "T" if "\u11a8" <= char <= "\u11ff" or "\ud7cb" <= char <= "\ud7fb" else ""


def _is_syllable(before: str, after: str) -> bool:
    first, second = _hangul(before), _hangul(after)
    if first == "L":
        return second in ("L", "V", "LV", "LVT")
    return bool(first) and (second == "T" or (second == "V" and first in ("LV", "V")))


def _is_prepended(char: str) -> bool:
    """A sign that belongs to the number or the letter after it."""
    return "\u0600" <= char <= "\u0605" or char in _PREPENDED


def _is_pictographic(char: str) -> bool:
    return (
        ("\U0001f000" <= char <= "\U0001faff" and not _is_regional(char))
        or "\u2190" <= char <= "\u2bff"
        or char in "\u00a9\u00ae\u203c\u2049\u2122\u2139\u3030\u303d\u3297\u3299"
    )
