"""Finds JSON in a text that arrives in pieces, and the elements of a list in it as they close. Each
character is looked at once. Pure; imports nothing of the package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from itertools import islice
from typing import Any

__all__ = ["BLANKS", "ElementScanner", "JSONScanner", "json_candidates"]

BLANKS = "\ufeff \t\r\n"  # white space of JSON, and the byte order mark that some services send

_SKIP: Any = re.compile(f"[{BLANKS}]*").match  # always matches
_OUTSIDE = re.compile(r'["{}\[\]]').search  # what counts outside of a string
_INSIDE = re.compile(r'["\\]').search  # what counts in a string
_ELEMENT = re.compile(r"[^\s,]").search  # the begin of an element, or the end of its list
_SCALAR_END = re.compile(r"[\s,\]}]").search
_OBJECT = re.compile(r'\{\s*["}]').search  # an object, and not a brace in a sentence
_FENCE = re.compile(r"```[\w+.-]*[ \t]*(?:\r?\n|(?=[{\[]))").match
_HALF_FENCE = re.compile(r"`{1,2}|```[\w+.-]*[ \t]*\r?").fullmatch
_THINK, _END_OF_THINKING = "<think>", "</think>"
_LONGEST_FENCE = 64  # characters
_LONGEST_HELD = 200  # characters of white space after a brace in a sentence
_LONGEST_NAME = 64  # characters of a field's name that are kept
_MOST_CANDIDATES = 100


class _Before(IntEnum):
    """What has been read before the JSON."""

    NOTHING = 0  # nothing, or only white space and a fence
    THINKING = 1  # thinking that the server did not separate from the answer
    SENTENCES = 2


class _Scanner:
    """Finds the begin of a JSON object, and of a list where `lists` is set: at the begin of the
    text, after thinking in `<think>` tags, after a fence, or (an object only) among sentences.
    Subclasses read on from there.

    `start` is the position in the text, counted in characters from 0, or None until it is found.
    """

    def __init__(self, *, lists: bool, sentences: bool = False) -> None:
        self.start: int | None = None
        self._lists = lists
        self._before = _Before.SENTENCES if sentences else _Before.NOTHING
        self._held = ""  # the end of what was read, whose meaning is not known yet
        self._size = 0  # characters of the pieces before this one

    def feed(self, text: str, at: int = 0) -> None:
        """The next piece of the text; what comes before `at` in it is passed over."""
        if self.start is None:
            if self._held:
                text, self._size = self._held + text, self._size - len(self._held)
                self._held = ""
            at = self._find(text, at)
            if at < 0:
                self._size += len(text)
                return
            self.start = self._size + at
        if text:
            self._scan(text, at)
        self._size += len(text)

    def _scan(self, text: str, at: int) -> None:
        raise NotImplementedError

    def _find(self, text: str, at: int) -> int:
        """The position of the begin, or -1."""
        while self._before is not _Before.SENTENCES:
            if self._before is _Before.THINKING:
                end = text.find(_END_OF_THINKING, at)
                if end < 0:
                    self._held = text[max(at, len(text) - len(_END_OF_THINKING) + 1) :]
                    return -1
                at = end + len(_END_OF_THINKING)
                self._before = _Before.NOTHING
            at = _SKIP(text, at).end()
            if at == len(text):
                return -1
            if text[at] == "{" or (text[at] == "[" and self._lists):
                return at
            rest = text[at : at + _LONGEST_FENCE]
            fence = _FENCE(rest)
            if fence is not None:
                at += fence.end()
            elif rest.startswith(_THINK):
                at += len(_THINK)
                self._before = _Before.THINKING
            elif len(rest) < _LONGEST_FENCE and (_THINK.startswith(rest) or _HALF_FENCE(rest)):
                self._held = rest
                return -1
            else:
                self._before = _Before.SENTENCES
        found = _OBJECT(text, at)
        if found is not None:
            return found.start()
        last = text.rfind("{", at)
        if last >= 0 and not text[last + 1 :].strip():
            self._held = text[last:] if len(text) - last <= _LONGEST_HELD else ""
        return -1


class JSONScanner(_Scanner):
    """Where the first JSON object of a text begins and ends. `end` is the position after it, or
    None until it is closed; `in_string` is whether the text so far ends inside a string of it. What
    is between the brackets is not checked."""

    def __init__(self, *, lists: bool, sentences: bool = False) -> None:
        super().__init__(lists=lists, sentences=sentences)
        self.end: int | None = None
        self.in_string = False
        self._escaped = False
        self._depth = 0

    def _scan(self, text: str, at: int) -> None:
        if self.end is not None:
            return
        if self._escaped:
            at, self._escaped = at + 1, False
        inside, depth = self.in_string, self._depth
        while True:
            found = (_INSIDE if inside else _OUTSIDE)(text, at)
            if found is None:
                break
            at = found.end()
            char = text[at - 1]
            if char == '"':
                inside = not inside
            elif char == "\\":
                if at == len(text):
                    self._escaped = True
                    break
                at += 1
            elif char in "{[":
                depth += 1
            else:
                depth -= 1
                if not depth:
                    self.end = self._size + at
                    break
        self.in_string, self._depth = inside, depth


def json_candidates(text: str, *, lists: bool) -> Iterator[str]:
    """What may be the JSON of an answer, in order: the parts of `text` that a JSONScanner finds.
    The last one may be cut. At most a hundred."""
    return islice(_candidates(text, lists), _MOST_CANDIDATES)


def _candidates(text: str, lists: bool) -> Iterator[str]:
    at, sentences = 0, False
    while True:
        scanner = JSONScanner(lists=lists, sentences=sentences)
        scanner.feed(text, at)
        if scanner.start is None:
            return
        yield text[scanner.start : scanner.end]
        if scanner.end is None:
            return
        at, sentences = scanner.end, True


class _Place(IntEnum):
    """Where an ElementScanner is."""

    OBJECT = 0  # in the object around the list
    BETWEEN = 1  # in the list, outside of its elements
    CONTAINER = 2  # in an element that is a list or an object
    SCALAR = 3  # in a number, true, false or null
    STRING = 4
    AFTER = 5  # after the list


class ElementScanner(_Scanner):
    """The elements of a list, as text, each as soon as it is closed. The list is the field `key` of
    the object, or, where there is no object, the list itself. What an element contains is not
    checked, nor what stands around the list."""

    def __init__(self, key: str) -> None:
        super().__init__(lists=True)
        self._key = key
        self._place = _Place.OBJECT
        self._around = _Place.OBJECT  # of a string: where it is
        self._escaped = False
        self._depth = 0  # of brackets: in the object, or in the element
        self._name = ""  # the last string of the object that can be the name of its field
        self._open: list[str] | None = None  # the pieces of the element that is open
        self._closed: list[str] = []

    def take(self) -> list[str]:
        """The elements that have closed since this was asked last."""
        closed, self._closed = self._closed, []
        return closed

    def _scan(self, text: str, at: int) -> None:
        if not self._depth and self._place is _Place.OBJECT:  # the first character
            if text[at] == "[":
                self._place = _Place.BETWEEN
            self._depth = 1
            at += 1
        begin = 0  # of the open element, or of the name, in this piece
        size = len(text)
        if self._escaped:
            at, self._escaped = at + 1, False
        while at < size:
            place = self._place
            if place is _Place.STRING:
                found = _INSIDE(text, at)
                if found is None:
                    break
                at = found.end()
                if text[at - 1] == "\\":
                    self._escaped = at == size
                    at += 1
                    continue
                self._place = self._around
                if self._around is _Place.BETWEEN:
                    self._close(text[begin:at])
                elif self._around is _Place.OBJECT and self._depth == 1:
                    self._name += text[begin : at - 1][:_LONGEST_NAME]
            elif place is _Place.CONTAINER or place is _Place.OBJECT:
                found = _OUTSIDE(text, at)
                if found is None:
                    break
                at = found.end()
                char = text[at - 1]
                if char == '"':
                    self._place, self._around = _Place.STRING, place
                    if place is _Place.OBJECT:
                        begin, self._name = at, ""
                elif char in "{[":
                    if self._is_the_list(char):
                        self._place = _Place.BETWEEN
                    else:
                        self._depth += 1
                else:
                    self._depth -= 1
                    if not self._depth:
                        self._place = _Place.AFTER
                        if place is _Place.CONTAINER:
                            self._place = _Place.BETWEEN
                            self._close(text[begin:at])
            elif place is _Place.BETWEEN:
                found = _ELEMENT(text, at)
                if found is None:
                    break
                at = found.end()
                begin, char = at - 1, text[at - 1]
                if char == "]":
                    self._place = _Place.AFTER
                    break
                self._open = []
                if char == '"':
                    self._place, self._around = _Place.STRING, place
                elif char in "{[":
                    self._place, self._depth = _Place.CONTAINER, 1
                else:
                    self._place = _Place.SCALAR
            elif place is _Place.SCALAR:
                found = _SCALAR_END(text, at)
                if found is None:
                    break
                at = found.start()
                self._place = _Place.BETWEEN
                self._close(text[begin:at])
            else:
                return
        if self._open is not None:
            self._open.append(text[begin:])
        elif self._place is _Place.STRING and len(self._name) < _LONGEST_NAME:
            self._name += text[begin:]

    def _is_the_list(self, char: str) -> bool:
        return (
            char == "["
            and self._depth == 1
            and self._place is _Place.OBJECT
            and self._name == self._key
        )

    def _close(self, end: str) -> None:
        pieces, self._open = self._open or [], None
        self._closed.append("".join([*pieces, end]) if pieces else end)
