"""When to show which part of a text that arrives in pieces: by deadlines, and where it may be cut.

Two wishes contradict each other: a part at most every interval, and no character later than an
interval after it arrived. Where all that is there may be shown, both hold. Where the beginning of a
word waits for its end, it waits for an interval at most, and then the next part may come after half
an interval. Pure: the caller says what time it is.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable

from .graphemes import is_boundary, last_boundary, may_grow, unfinished

__all__ = ["RULES", "Pacer"]


class Pacer:
    """The text that has arrived and is not shown yet. Times are seconds on one monotonic scale.

    `interval` is the time between two parts, `rule` one of `RULES`.
    """

    def __init__(self, interval: float, rule: Callable[[str], int]) -> None:
        self._interval = interval
        self._complete = rule
        self._parts: list[str] = []  # joined when they are looked at
        self._arrivals: deque[tuple[float, int]] = deque()  # moments, and numbers of characters
        self._due: float | None = None  # when the next part may come; None before the first

    def add(self, text: str, at: float) -> None:
        """`text` has arrived, at the moment `at`."""
        if text:
            self._parts.append(text)
            self._arrivals.append((at, len(text)))

    def take(self, now: float) -> str:
        """The part to be shown at the moment `now`; "" for none."""
        if not self._parts:
            return ""
        deadline = self._deadline()
        if self._due is not None and now < self._due and now < deadline:
            return ""
        text = "".join(self._parts)
        cut = self._cut(text, now, deadline)
        self._parts = [text[cut:]] if cut < len(text) else []
        if cut:
            self._forget(cut)
            self._due = now + self._interval
        return text[:cut]

    def next_look(self, now: float) -> float:
        """The moment of the next `take`, if nothing more arrives; infinity where nothing waits."""
        if not self._arrivals:
            return math.inf
        deadline = self._deadline()
        if now >= deadline:
            deadline += self._interval  # of a cluster that is not finished
        if self._due is not None and now < self._due:
            return min(self._due, deadline)
        return deadline

    def needs_more(self, now: float) -> bool:
        """Whether an arrival may bring the next part, or the next look, nearer."""
        return not self._arrivals or self._due is None or now >= self._due

    def rest(self) -> str:
        """All that has not been shown."""
        rest = "".join(self._parts)
        self._parts.clear()
        self._arrivals.clear()
        return rest

    def _deadline(self) -> float:
        """When the oldest character is late. (One sum: two that are equal on paper may differ.)"""
        return self._arrivals[0][0] + self._interval

    def _cut(self, text: str, now: float, deadline: float) -> int:
        cut = self._complete(text) if self._due is not None else by_chunk(text)
        if cut:
            # What would be late before the next part but one goes too.
            if cut < len(text) and now - self._arrival(cut) >= self._interval / 2:
                cut = max(cut, _finished(text))
            return cut
        if now < deadline:
            return 0
        return len(text) if now >= deadline + self._interval else _finished(text)

    def _arrival(self, place: int) -> float:
        """When the character at `place` arrived."""
        for at, count in self._arrivals:
            place -= count
            if place < 0:
                return at
        return math.inf

    def _forget(self, cut: int) -> None:
        arrivals = self._arrivals
        while cut:
            at, count = arrivals.popleft()
            if count > cut:
                arrivals.appendleft((at, count - cut))
                return
            cut -= count


def _finished(text: str) -> int:
    """The length of `text` without a last cluster that is surely not whole."""
    return last_boundary(text) if unfinished(text) else len(text)


# ---- rules: how much of a text is complete -----------------------------------------------------


def by_chunk(text: str) -> int:
    """All, but an emoji at the end, which may go on in the next piece."""
    return last_boundary(text) if may_grow(text) else len(text)


_LONGEST_WORD = 1000  # characters; what is longer is not one, and is cut anywhere


def by_word(text: str) -> int:
    """Up to the last white space after a word; in scripts without spaces up to the last
    character."""
    for at in range(len(text), max(0, len(text) - _LONGEST_WORD), -1):
        before, is_end = text[at - 1], at == len(text)
        if before.isspace():
            if is_boundary(text, at) and not (is_end and before == "\r"):
                return at if text[:at].strip() else 0
        elif (
            not is_end
            and (_without_spaces(before) or _without_spaces(text[at]))
            and is_boundary(text, at)
        ):
            return at
    return last_boundary(text) if len(text) > _LONGEST_WORD else 0


def by_line(text: str) -> int:
    """Up to the last line end."""
    at = text.rfind("\n") + 1
    carriage = text.rfind("\r", at, len(text) - 1) + 1  # after one at the end a LF may follow
    return max(at, carriage)


_STOP = "[.!?\\u2026\\u061f\\u06d4\\u0964]"
_QUOTE = "[\\u300d\\u300f\\u2019\\u201d\\uff09]"
# A full stop and its quotes before white space; those of scripts that need none; or a line end. (A
# match begins with the first of several stops: looking from each would take the square of time.)
_SENTENCE = re.compile(
    rf"(?<!{_STOP}){_STOP}+[\"')\]\u00bb\u2019\u201d]*\s+"
    rf"|[\u3002\uff01\uff1f\uff61]+{_QUOTE}*(?!{_QUOTE}|\Z)"
    r"|\n"
)


def by_sentence(text: str) -> int:
    """Up to the last end of a sentence or a line."""
    end = 0
    for found in _SENTENCE.finditer(text):
        end = found.end()
    return end if end == len(text) or is_boundary(text, end) else 0


RULES: dict[str, Callable[[str], int]] = {
    "chunk": by_chunk,
    "word": by_word,
    "line": by_line,
    "sentence": by_sentence,
}

# Scripts that are written without spaces between words, by their first and last code points: Thai,
# Lao, Tibetan, Burmese, Khmer, Tai, Balinese, Javanese; the signs, kana and ideographs of Chinese
# and Japanese.
_RANGES = (
    ("\u0e00", "\u0fff"),
    ("\u1000", "\u109f"),
    ("\u1780", "\u17ff"),
    ("\u1950", "\u19df"),
    ("\u1a20", "\u1aaf"),
    ("\u1b00", "\u1b7f"),
    ("\u2e80", "\u312f"),
    ("\u31a0", "\u9fff"),
    ("\ua980", "\uaadf"),
    ("\uf900", "\ufaff"),
    ("\uff00", "\uffef"),
    ("\U0001b000", "\U0001b16f"),
    ("\U00020000", "\U0003ffff"),
)


def _without_spaces(char: str) -> bool:
    return char >= "\u0e00" and any(first <= char <= last for first, last in _RANGES)
