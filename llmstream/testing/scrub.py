"""Takes the secrets out of a recording: keys, passwords, cookies, ids of organizations.

What is secret is known by its name (a header `authorization`, a field `api_key`). It is then looked
for everywhere, in every spelling in which the library looks for it in errors
(`_core/key_quotes.py`); also where a service sends a key back in pieces, over many events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from msgspec import UNSET

from .._core.credentials import credentials_in, credentials_of_address, is_credential
from .._core.key_quotes import spans_of_keys
from .._core.spellings import blotted
from ..errors import ConfigurationError
from .tape import TapedRequest, as_json, words_of

__all__ = ["BLOT", "Piece", "Scrubber", "checked_secrets"]

BLOT = "***"
Piece = tuple[float, bytes]  # seconds from the request on, and the bytes that arrived then

# Headers that are made anew for every request, or belong to a connection: of no use in a file.
_PASSING = frozenset(
    {"baggage", "connection", "content-length", "host", "traceparent", "tracestate"}
    | {"x-client-request-id"}
)
# Headers and fields that say whose account it is.
_ACCOUNTS = (
    r"(?i)(?:^|[-_.])(?:org|organi[sz]ation|project|account|tenant|workspace|subscription|customer)"
    r"(?:[-_.]?(?:id|name))?$"
)
_ACCOUNT_FIELDS = (
    r"(?i)(?:org|organi[sz]ation|project|account|tenant|workspace)[-_]?(?:id|uuid)|organi[sz]ation"
)
# OpenAI's ids of organizations and projects, which stand in the words of its errors.
_ACCOUNT_IDS = re.compile(r"\b(?:org-|proj_)[A-Za-z0-9]{8,}\b")
# Fields of an address's query that say nothing secret, whatever their value.
_OPEN_FIELDS = frozenset(
    {"after", "alt", "api-version", "api_version", "before", "include", "include[]", "limit"}
    | {"order", "starting_after", "stream", "version"}
)
_LEAST = 8  # characters of what may be an ordinary word
# The fields that say which part of an answer an event belongs to.
_PLACES = ("type", "item_id", "output_index", "content_index", "summary_index", "index")


def checked_secrets(secrets: Any) -> list[str | re.Pattern[str]]:
    """Raises ConfigurationError for what is neither texts nor patterns."""
    if isinstance(secrets, (str, re.Pattern)):
        secrets = [secrets]
    found = [*secrets]
    for secret in found:
        text = isinstance(secret, re.Pattern) and isinstance(secret.pattern, str)
        if not text and not (isinstance(secret, str) and secret):
            raise ConfigurationError("secrets: give a list of texts, or of compiled patterns")
    return found


class Scrubber:
    """Knows secrets, and takes them out. `secrets` are further ones: texts, or patterns.

    `learn` is to be called for every exchange before anything is scrubbed: a key that is used in
    one request may be quoted in the answer to another. Not thread-safe."""

    def __init__(self, secrets: Iterable[str | re.Pattern[str]] = ()) -> None:
        self.keys: set[str] = set()
        self._passwords: set[str] = set()
        self._words: set[str] = set()
        self._patterns = [_ACCOUNT_IDS]
        for secret in secrets:
            if isinstance(secret, re.Pattern):
                self._patterns.append(secret)
            else:
                self._words.add(secret)

    def learn(
        self, url: str, headers: Mapping[str, str], body: bytes, answered: Mapping[str, str]
    ) -> None:
        """Learn the secrets of a request, and of the headers of its response."""
        self.keys.update(key for key in credentials_in(headers) if key)
        self.keys.update(held for _, held in _named(as_json(body)))
        address, _, query = url.partition("?")
        self._passwords.update(credentials_of_address(address))
        for field in query.split("&"):
            name, _, value = field.partition("=")
            if _is_secret_field(name, value):
                self._passwords.update({value, unquote(value)})
        for name, value in (*headers.items(), *answered.items()):
            if re.search(_ACCOUNTS, name) and len(value) >= _LEAST:
                self._words.add(value)

    # -- a request

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> TapedRequest:
        """The request as the file has it."""
        value = as_json(body) if body else UNSET
        text = words_of(body) if body and value is UNSET else UNSET
        if isinstance(text, str):
            text = self._scrubbed([text])[0]
        return TapedRequest(method, self.url(url), self.headers(headers), self.value(value), text)

    def url(self, url: str) -> str:
        """The address without user, password and the values of its query that may be secret."""
        address, mark, query = url.partition("?")
        scheme, colon, rest = address.partition("://")
        place, slash, path = rest.partition("/")
        (path,) = self._scrubbed([path])
        fields = []
        for field in query.split("&"):
            name, _, value = field.partition("=")
            fields.append(f"{name}={BLOT}" if _is_secret_field(name, value) else field)
        return f"{scheme}{colon}{place.rpartition('@')[2]}{slash}{path}{mark}{'&'.join(fields)}"

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers in alphabetical order, with lower-case names."""
        kept = {n.lower(): v for n, v in sorted(headers.items()) if n.lower() not in _PASSING}
        values = dict(zip(kept, self._scrubbed(kept.values()), strict=True))
        return {name: BLOT if _is_private(name, kept[name]) else values[name] for name in kept}

    def value(self, value: Any) -> Any:
        """A JSON value; the fields that are named as secrets are blotted out."""
        if value is UNSET:
            return value
        tree = _Tree(value)
        for slot in [slot for slot, _ in _named(tree.root)]:
            slot[0][slot[1]] = BLOT
        leaves = [*tree.leaves()]
        for leaf, text in zip(leaves, self._scrubbed(leaf.text for leaf in leaves), strict=True):
            leaf.put(text)
        return tree.root[0]

    # -- an answer

    def text(self, text: str) -> str:
        """A text without the secrets."""
        return self._scrubbed([text])[0]

    def pieces(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The pieces of a body. Those without a secret stay as they are, byte by byte."""
        data = b"".join(piece for _, piece in pieces)
        edits = self._edits(data)
        return [*pieces] if not edits else [*_edited(pieces, edits)]

    def _edits(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """What has to be replaced: (begin, end, by what), in order."""
        document = as_json(data) if data.lstrip()[:1] in (b"{", b"[") else UNSET
        if document is not UNSET:
            tree = _Tree(document)
            return [(0, len(data), tree.encoded())] if self._scrub([tree]) else []
        lines: list[tuple[int, int, bytes, _Tree]] = []
        others: list[tuple[int, int]] = []
        for found in re.finditer(rb"[^\r\n]+", data):
            field = re.match(rb"data: ?(?=[{\[])", found[0])
            value = UNSET if field is None else as_json(found[0][field.end() :])
            if field is None or value is UNSET:
                others.append(found.span())
            else:
                lines.append((*found.span(), field[0], _Tree(value)))
        if not lines:
            others = [(0, len(data))]  # a page: what it quotes may go over lines
        changed = self._scrub([tree for *_, tree in lines])
        edits = [
            (begin, end, field + tree.encoded())
            for begin, end, field, tree in lines
            if id(tree) in changed
        ]
        edits += self._edits_of_text(data, others)
        return sorted(edits)

    def _edits_of_text(
        self, data: bytes, spans: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, int, bytes]]:
        texts = {data[begin:end]: b"" for begin, end in spans}
        plain = [text.decode("utf-8", "surrogateescape") for text in texts]
        for text, scrubbed in zip(texts, self._scrubbed(plain), strict=True):
            texts[text] = scrubbed.encode("utf-8", "surrogateescape")
        for begin, end in spans:
            before = data[begin:end]
            if texts[before] != before:
                yield begin, end, texts[before]

    def _scrub(self, trees: Sequence[_Tree]) -> set[int]:
        """Scrub values that belong together: what stands at the same place in several of them is
        one text. Returns the ids of those that have changed."""
        changed = set()
        groups: dict[Any, list[tuple[_Tree, _Leaf]]] = {}
        for tree in trees:
            place = tree.place()
            for leaf in tree.leaves():
                if isinstance(leaf.name, str) and re.fullmatch(_ACCOUNT_FIELDS, leaf.name):
                    leaf.put(BLOT)
                    changed.add(id(tree))
                else:
                    groups.setdefault((place, leaf.path), []).append((tree, leaf))
        found = [[leaf.text for _, leaf in group] for group in groups.values()]
        # What is always the same, such as an event's type, is one text.
        joined = [texts[0] if _is_constant(texts) else "".join(texts) for texts in found]
        for group, texts, spans in zip(groups.values(), found, self._spans(joined), strict=True):
            if spans:
                if _is_constant(texts):
                    (spans,) = self._spans(["".join(texts)])
                for (tree, leaf), text in zip(group, _blotted_over(texts, spans), strict=True):
                    if text != leaf.text:
                        leaf.put(text)
                        changed.add(id(tree))
        return changed

    def _scrubbed(self, texts: Iterable[str]) -> list[str]:
        texts = [*texts]
        return [
            blotted(text, spans) if spans else text
            for text, spans in zip(texts, self._spans(texts), strict=True)
        ]

    def _spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Where each text has secrets."""
        keys = {*self.keys, *(word for word in self._words if len(word) >= _LEAST)}
        found = spans_of_keys(texts, keys, self._passwords)
        patterns = [*self._patterns]
        if self._words:
            longest_first = sorted(self._words, key=len, reverse=True)
            patterns.append(re.compile("|".join(map(re.escape, longest_first))))
        for text, spans in zip(texts, found, strict=True):
            spans += (
                match.span() for pattern in patterns for match in pattern.finditer(text) if match[0]
            )
        return found

    def seal(self, written: str) -> str:
        """The text of a whole file, in which no key stands as it was sent: the last look."""
        for key in sorted(self.keys | self._passwords | self._words, key=len, reverse=True):
            if len(key) >= _LEAST:
                for form in {key, json.dumps(key)[1:-1], json.dumps(json.dumps(key)[1:-1])[1:-1]}:
                    written = written.replace(form, BLOT)
        return written


def _is_secret_field(name: str, value: str) -> bool:
    if name.lower() in _OPEN_FIELDS or not value:
        return False
    return is_credential(name) or len(value) >= _LEAST


def _is_private(name: str, value: str) -> bool:
    return is_credential(name, value) or re.search(_ACCOUNTS, name) is not None


def _named(value: Any) -> Iterator[tuple[tuple[Any, Any], str]]:
    """The fields of a JSON value that are named as secrets: where each stands, and its text. The
    signature of a thinking block is no secret, and a service wants it back."""
    left = [value]
    while left:
        inner = left.pop()
        if isinstance(inner, Mapping):
            for name, held in inner.items():
                if not isinstance(held, str):
                    left.append(held)
                elif held and not name.lower().endswith("signature") and is_credential(name, held):
                    yield (inner, name), held.partition(" ")[2].strip() or held
        elif isinstance(inner, list):
            left += inner


# ---- JSON values ---------------------------------------------------------------------------------


class _Leaf:
    """A text in a JSON value. `path` is where it stands: the items of a list by their own `index`
    where they have one."""

    __slots__ = ("_holder", "name", "path", "text")

    def __init__(self, holder: Any, name: Any, path: tuple[Any, ...], text: str) -> None:
        self._holder = holder
        self.name = name
        self.path = path
        self.text = text

    def put(self, text: str) -> None:
        self._holder[self.name] = text


class _Tree:
    """A JSON value that is changed in place."""

    def __init__(self, value: Any) -> None:
        self.root = [value]

    def leaves(self) -> Iterator[_Leaf]:
        left: list[tuple[Any, tuple[Any, ...]]] = [(self.root, ())]
        while left:
            holder, path = left.pop()
            found = holder.items() if isinstance(holder, dict) else enumerate(holder)
            for name, held in found:
                index = held.get("index") if isinstance(held, dict) else None
                step = index if isinstance(index, int) and isinstance(name, int) else name
                if isinstance(held, str):
                    yield _Leaf(holder, name, (*path, step), held)
                elif isinstance(held, (dict, list)):
                    left.append((held, (*path, step)))

    def place(self) -> tuple[Any, ...]:
        """What the events that carry pieces of one text have in common."""
        value = self.root[0]
        if not isinstance(value, dict):
            return ()
        found = (value.get(name) for name in _PLACES)
        return tuple(name if isinstance(name, (str, int)) else None for name in found)

    def encoded(self) -> bytes:
        text = json.dumps(self.root[0], ensure_ascii=False, separators=(",", ":"))
        try:
            return text.encode()
        except UnicodeEncodeError:  # half a character
            return json.dumps(self.root[0], separators=(",", ":")).encode()


def _is_constant(texts: Sequence[str]) -> bool:
    return texts.count(texts[0]) == len(texts)


# ---- spans ---------------------------------------------------------------------------------------


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def _blotted_over(texts: Sequence[str], spans: Iterable[tuple[int, int]]) -> Iterator[str]:
    """`texts` with a blot where a span begins in their concatenation, without the rest of it."""
    left = _merged(spans)
    start = 0
    for text in texts:
        end = start + len(text)
        kept, done = [], start
        for begin, stop in left:
            if begin < end and stop > start:
                kept.append(text[done - start : max(0, begin - start)])
                kept.append(BLOT if begin >= start else "")
                done = min(stop, end)
        yield "".join(kept) + text[done - start :]
        start = end


def _edited(pieces: Sequence[Piece], edits: Sequence[tuple[int, int, bytes]]) -> Iterator[Piece]:
    """The pieces with each edit in the one in which it begins. What is empty then is left out."""
    start = first = 0
    for at, data in pieces:
        end = start + len(data)
        kept, done = [], start
        while first < len(edits) and edits[first][1] <= start:
            first += 1
        for begin, stop, new in edits[first:]:
            if begin >= end:
                break
            kept.append(data[done - start : max(0, begin - start)])
            kept.append(new if begin >= start else b"")
            done = min(stop, end)
        piece = b"".join(kept) + data[done - start :]
        if piece:
            yield at, piece
        start = end
