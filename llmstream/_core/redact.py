"""Replaces what an error's message quotes of the prompt by "***".

Services repeat parts of a request in their errors, and errors are written to logs. What a prompt
and an error have in common by chance is no quote: the sentences in which services say what is
wrong, and the names that the request has for its model and tools, stay readable. Pure; imports
nothing of the package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["names_in", "prompt_texts", "redact_quotes"]

_SHORTEST = 8  # characters: a shorter text may be an ordinary word of the message
_WINDOW = 12  # characters that text and prompt have to share: every quote of 23 is found
# Fields of a prompt that are not its content: errors refer to its parts by them.
_NAMES = ("type", "role", "name", "status", "id", "call_id", "tool_call_id", "tool_use_id")

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
    if isinstance(tools, Mapping):
        name = tools.get("name")
        if isinstance(name, str):
            yield name
        for value in tools.values():
            yield from names_in(value)
    elif isinstance(tools, (list, tuple)):
        for value in tools:
            yield from names_in(value)


def prompt_texts(prompt: Any) -> Iterator[str]:
    """All texts in a prompt, however deeply they are nested."""
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, Mapping):
        for name, value in prompt.items():
            if name not in _NAMES:
                yield from prompt_texts(value)
    elif isinstance(prompt, (list, tuple)):
        for value in prompt:
            yield from prompt_texts(value)


def redact_quotes(text: str, quoted: Iterable[str], names: Iterable[str] = ()) -> str:
    """`text` with "***" in place of what it quotes of the texts in `quoted`, also where a service
    has escaped the quote, cut it, or put it on one line. Quotes of fewer than 23 characters from a
    longer text may remain, and what consists of `names` (of the model, of tools) and of the words
    in which services report errors."""
    found: list[tuple[int, int]] = []
    pieces = {text[at : at + _WINDOW] for at in range(len(text) - _WINDOW + 1)}
    for source in set(quoted):
        one_line = " ".join(source.split())
        for form in {source, one_line, json.dumps(source)[1:-1], repr(source)[1:-1]}:
            if _may_be_quoted(text, form, pieces):
                found += _quotes(text, form)
    if found:
        known = _STANDING.union(word.lower() for name in names for word in _WORD.findall(name))
        words = [(w.start(), w.end(), _is_known(w[0], known)) for w in _WORD.finditer(text)]
        found = [span for span in found if _is_telling(span, words)]
    kept, done = [], 0
    for start, end in sorted(found):
        if end > done:
            kept += [text[done:start], "***"] if start > done or not done else []
            done = end
    return "".join([*kept, text[done:]])


def _is_known(word: str, known: frozenset[str]) -> bool:
    return word.lower() in known or (word.isdecimal() and len(word) <= _LONGEST_NUMBER)


def _is_telling(span: tuple[int, int], words: list[tuple[int, int, bool]]) -> bool:
    """Whether a quote has a word that is not one of the standing words; a word at its edge counts
    where enough of it is in the quote."""
    begin, end = span
    for start, stop, is_known in words:
        covered = min(stop, end) - max(start, begin)
        if not is_known and covered >= min(_LEAST_COVERED, stop - start):
            return True
    return False


def _may_be_quoted(text: str, source: str, pieces: set[str]) -> bool:
    """False where `text` certainly does not quote `source`: a quick test for short texts, of which
    a prompt may have thousands."""
    if len(source) < _WINDOW:
        return source in text
    if len(source) >= 2 * _WINDOW - 1:
        return True
    return any(source[at : at + _WINDOW] in pieces for at in range(len(source) - _WINDOW + 1))


def _quotes(text: str, source: str) -> Iterator[tuple[int, int]]:
    """The positions at which `text` quotes `source`: (begin, end) of each piece."""
    window = min(_WINDOW, len(source))
    if window < _SHORTEST:
        return
    step = min(_WINDOW, len(source) - window + 1)
    at = 0
    while at + window <= len(text):
        place = source.find(text[at : at + window])
        if place < 0:
            at += step
            continue
        start, end = at, at + window
        while start and place and text[start - 1] == source[place - 1]:
            start, place = start - 1, place - 1
        while end < len(text) and (place := source.find(text[start : end + 1], place)) >= 0:
            end += 1
        yield start, end
        at = end
