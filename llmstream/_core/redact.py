"""Replaces what an error's message quotes of the prompt by "***".

Services repeat parts of a request in their errors, and errors are written to logs. What a prompt
and an error have in common by chance is no quote: the sentences in which services say what is
wrong, and the names that the request has for its model and tools, stay readable. Pure.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from .spellings import Form, blotted, forms_of

__all__ = ["names_in", "prompt_texts", "redact_quotes", "redact_texts", "telling"]

_SHORTEST = 8  # characters: a shorter text may be an ordinary word of the message
_WINDOW = 12  # characters that text and prompt have to share
# Of a long prompt every eighth piece of eight characters is looked up: each quote of 15 contains
# one. Only around those that the text has too is the prompt read character by character.
_STEP = 8
_LONG = 2 * _WINDOW  # characters: in a shorter text every piece is looked up
_BLOCK = 1 << 15  # characters of a prompt between two looks at the clock
_OVERLAP = 256  # characters that the parts of a longer text have in common
# Fields of a prompt that are not its content: errors refer to its parts by them.
_NAMES = frozenset(
    (
        *("type", "role", "name", "status", "id", "call_id", "tool_call_id", "tool_use_id"),
        *("required", "media_type", "mimeType", "mime_type"),
    )
)
_NAME = re.compile(r"[\w.:/-]{1,128}")  # what such a field holds, else it is content, too

_WORD = re.compile(r"[^\W_]+")
_LEAST_COVERED = 3  # characters of a word that a quote has to have, for the word to be quoted
_LONGEST_NUMBER = 4  # digits: a longer number may be somebody's
# The words in which services say what is wrong with a request. A quote of nothing else is none.
_STANDING = frozenset(
    """
    a about above access account accepted acceptable accessible active actual add additional after again
    all allowed allow already also an and another any api are argument arguments array as assistant at audio authentication
    authorization authorized available bad base64 base be because been before being below between
    billing body boolean both but by call called calls can cannot capacity change check choice choices client
    code column completion completions config configuration configured connection contact contain contained containing contains content
    contents context correct could count create created credit credits current currently data
    decode default define defined denied deployment deprecated details developer did different disabled do docs documentation does done down
    due duplicate each either empty enable enabled end endpoint enough entity equal error errors even
    event exceed exceeded exceeds exist existing exists expect expected expired failed failure false field fields
    file find first float follow following for forbidden format found free from function functions gateway
    generate generated generation get given greater had has have header headers help high host http https id
    ids if image images immediately in include included including incorrect index info information input inputs instance instead
    instructions insufficient integer internal into invalid is it item items its json key keys kind
    last later latest least length less limit limited limits line list load loaded long longer low
    malformed many match matches max maximum may media message messages method min minimum missing mode model models
    more most multiple must name named names near need needed negative new no non none not null number object of on once one only
    open openai operation option optional options or order organization other otherwise out output over
    overloaded page parameter parameters parse part parts pass passed path payload per permission permitted place plan please
    plus policy position positive possible present problem process processing project prompt properties property provide provided
    provider proxy quota range rate reach reached read reason reasoning receive received refer refused region rejected remove
    request requested requests require required requires resource response responses result results retry return returned role
    roles run same schema see seems send sent server service set setting settings shorter should single size so some
    something start state status stop stream streaming string subscription such supply supplied support supported supports system
    team temperature text than that the their them then there these they this those thinking through time timeout times to token
    tokens too tool tools top total trailing true try turn type types unable unauthorized unavailable undefined unexpected
    unique unknown unless unprocessable unrecognized unsupported until up upgrade upstream url usage use used user users
    using valid validation value values version via wait was we were what when where whether which while
    will with within without would wrong yet you your
    """.split()  # noqa: E501, SIM905 (a table)
)


def names_in(tools: Any) -> Iterator[str]:
    """The names in the tools (and the choice of one) of a request: errors refer to them."""
    left = [tools]
    while left:  # not by recursion: a request may be nested as deep as the interpreter allows
        value = left.pop()
        if isinstance(value, Mapping):
            name = value.get("name")
            if isinstance(name, str):
                yield name
            left += reversed([*value.values()])
        elif isinstance(value, (list, tuple)):
            left += reversed(value)


def prompt_texts(prompt: Any) -> Iterator[str]:
    """All texts in a prompt, however deeply they are nested, also those of objects that are sent
    as JSON."""
    left = [prompt]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            left += reversed(
                [v for name, v in value.items() if name not in _NAMES or not _is_name(v)]
            )
        elif isinstance(value, (list, tuple)):
            left += reversed(value)
        elif value is not None and not isinstance(value, (bool, int, float)):
            left += _as_json(value)


def _is_name(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(one, str) and _NAME.fullmatch(one) for one in value)
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _as_json(value: Any) -> list[Any]:
    """A dataclass, a set, bytes: as a list of what JSON has of it. Empty for what is never sent."""
    try:
        found = msgspec.to_builtins(value)
    except (TypeError, ValueError, RecursionError):
        return []
    return [] if type(found) is type(value) else [found]


def redact_quotes(text: str, quoted: Iterable[str], names: Iterable[str] = ()) -> str:
    """`text` with "***" in place of what it quotes, see `redact_texts`."""
    return redact_texts([text], quoted, names)[0]


def redact_texts(
    texts: Iterable[str],
    quoted: Iterable[str],
    names: Iterable[str] = (),
    expired: Callable[[], bool] | None = None,
) -> list[str]:
    """`texts` with "***" in place of what they quote of the texts in `quoted`, also where a service
    has escaped the quote, cut it, or put it on one line. Quotes of fewer than 15 characters from a
    longer text may remain, and what consists of `names` (of the model, of tools) and of the words
    in which services report errors.

    The cost is linear in the length of `quoted`. Where `expired` returns true before all of it has
    been compared, only `names` and those words remain.
    """
    texts = list(texts)
    forms = [forms_of(text) for text in texts]
    search = _Search(form.text for of_one in forms for form in of_one)
    in_time = search.through(quoted, expired)
    if in_time and not search.found:
        return texts
    names = [*names]
    redacted = []
    for text, of_one in zip(texts, forms, strict=True):
        if in_time:
            spans = {span for form in of_one for span in _quotes(form, search.found)}
            found = telling(text, spans, names)
        else:
            found = [(start, end) for start, end, is_known in _words(text, names) if not is_known]
        redacted.append(blotted(text, found))
    return redacted


def telling(
    text: str, spans: Iterable[tuple[int, int]], names: Iterable[str] = ()
) -> list[tuple[int, int]]:
    """Those of the `spans` in `text` that have more than `names` and the words in which services
    report errors."""
    words = _words(text, names)
    return [span for span in spans if _is_telling(span, words)]


def _words(text: str, names: Iterable[str]) -> list[tuple[int, int, bool]]:
    """The words of a text: begin, end, and whether it is one that stays readable."""
    known = _STANDING.union(word.lower() for name in names for word in _WORD.findall(name))
    return [(w.start(), w.end(), _is_known(w[0], known)) for w in _WORD.finditer(text)]


def _is_known(word: str, known: frozenset[str]) -> bool:
    return word.lower() in known or (word.isdecimal() and len(word) <= _LONGEST_NUMBER)


def _is_telling(span: tuple[int, int], words: list[tuple[int, int, bool]]) -> bool:
    """Whether a quote has a word that is not one of the standing words; a word at its edge counts
    where enough of it is in the quote."""
    begin, end = span
    for at in range(max(0, bisect_right(words, (begin,)) - 1), len(words)):
        start, stop, is_known = words[at]
        if start >= end:
            return False
        covered = min(stop, end) - max(start, begin)
        if not is_known and covered >= min(_LEAST_COVERED, stop - start):
            return True
    return False


# ---- the search ----------------------------------------------------------------------------------


class _Search:
    """The pieces of texts that are sought in a prompt. `found` are those that it has."""

    __slots__ = ("_long", "_short", "_size", "_sought", "found")

    def __init__(self, texts: Iterable[str]) -> None:
        self.found: set[str] = set()
        # The pieces of each length from 8 to 12 characters: those of less than 12 are the whole of
        # a text of the prompt.
        self._sought: dict[int, set[str]] = {n: set() for n in range(_SHORTEST, _WINDOW + 1)}
        for text in texts:
            for length, pieces in self._sought.items():
                pieces.update(text[at : at + length] for at in range(len(text) - length + 1))
        self._long: list[str] = []
        self._short: list[str] = []
        self._size = 0

    def through(self, quoted: Iterable[str], expired: Callable[[], bool] | None) -> bool:
        """Search in all of `quoted`; returns False where `expired` ended it."""
        if not self._sought[_SHORTEST]:  # no text is long enough to quote anything
            return True
        for source in quoted:
            for begin in range(0, len(source), _BLOCK):
                part = source[max(0, begin - _OVERLAP) : begin + _BLOCK]
                part = " ".join(part.split())
                if len(part) >= _LONG:
                    self._long.append(part)
                elif len(part) >= _SHORTEST:
                    self._short.append(part)
                self._size += len(part) + 1
                if self._size > _BLOCK:
                    if expired is not None and expired():
                        return False
                    self._look()
        self._look()
        return True

    def _look(self) -> None:
        """Look up what has been gathered."""
        self._look_up(self._short)
        for length in range(_SHORTEST, _WINDOW):
            self.found |= self._sought[length].intersection(
                [part for part in self._short if len(part) == length]
            )
        self._scan(" ".join(self._long))
        self._long, self._short, self._size = [], [], 0

    def _look_up(self, parts: Iterable[str]) -> None:
        """Every piece."""
        pieces = [p[at : at + _WINDOW] for p in parts for at in range(len(p) - _WINDOW + 1)]
        self.found |= self._sought[_WINDOW].intersection(pieces)

    def _scan(self, block: str) -> None:
        """The pieces around those of eight characters that the texts have too."""
        pieces = [block[at : at + _STEP] for at in range(0, len(block), _STEP)]
        hits = self._sought[_STEP].intersection(pieces)
        if hits:
            places = [at * _STEP for at, piece in enumerate(pieces) if piece in hits]
            self._look_up({block[max(0, at - _STEP + 1) : at + 2 * _STEP] for at in places})


def _quotes(form: Form, found: set[str]) -> Iterator[tuple[int, int]]:
    """Where a text has pieces that were found: (begin, end) of each run of them."""
    text = form.text
    lengths = {len(piece) for piece in found}
    begin = end = 0
    for at in range(len(text)):
        reach = max((at + n for n in lengths if text[at : at + n] in found), default=0)
        if reach <= end:
            continue
        if at >= end:
            if end:
                yield _span(form, begin, end)
            begin = at
        end = reach
    if end:
        yield _span(form, begin, end)


def _span(form: Form, begin: int, end: int) -> tuple[int, int]:
    """The characters of the text itself, without white space at the edges."""
    begin += form.text[begin] == " "
    end -= form.text[end - 1] == " "
    return form.places[begin][0], form.places[end - 1][1]
