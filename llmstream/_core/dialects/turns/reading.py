"""Reads turns in the form of any of the APIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import chat, gemini, messages, responses
from .chat import extras_of, output_of
from .parts import Form, Output, Text, Turn

__all__ = ["CHAT", "GEMINI", "MESSAGES", "RESPONSES", "read_part", "read_turns"]

CHAT, RESPONSES, MESSAGES = chat.FORM, responses.FORM, messages.FORM
GEMINI = gemini.FORM
_FORMS = (CHAT, RESPONSES, MESSAGES, GEMINI)
# Types that two APIs have mean the same, or their reader knows both.
_READERS = {kind: reader for form in _FORMS for kind, reader in form.parts.items()}
# Those of an answer that was written to a dict whole belong to no turn of a prompt.
_ANSWER = frozenset({"model", "stop_reason", "stop_sequence", "usage", "container"})
_FIELDS = _ANSWER.union(*(form.fields for form in _FORMS))
# A name is of Chat Completions, but servers of the others may know it too.
_FOREIGN = _FIELDS - {"name"}
_ALWAYS = frozenset({"role", "content"})


def read_turns(turns: Sequence[Any], own: Form) -> list[Any]:
    """The turns, those in another form than `own` as `Turn`s, the others unchanged.

    The items of one answer become one turn, and so do the outputs of its calls.
    """
    read: list[Any] = []
    for turn, ids in gemini.with_ids(turns):
        found = gemini.read_turn(turn, ids) if _is_foreign(turn, own) else _read(turn, own)
        last = read[-1] if read else None
        if isinstance(found, Turn) and isinstance(last, Turn) and _are_one(last, found):
            last.pieces.extend((None, *found.pieces))
            read[-1] = Turn(last.role, last.pieces)
        elif not isinstance(found, Turn) or any(piece is not None for piece in found.pieces):
            read.append(found)
    return read


def _is_foreign(turn: Any, own: Form) -> bool:
    return own is not GEMINI and gemini.is_gemini(turn)


def _are_one(last: Turn, turn: Turn) -> bool:
    if last.role != turn.role or last.rest or turn.rest:
        return False
    ends = (last.pieces[0], last.pieces[-1])  # of a long run nobody looks at all
    return turn.role == "assistant" or all(
        piece is None or isinstance(piece, Output) for piece in (*ends, *turn.pieces)
    )


def _read(turn: Any, own: Form) -> Any:
    """The turn as a `Turn`; itself where it is in the form `own`, or in none that is known."""
    role, content = turn.get("role"), turn.get("content")
    if own is GEMINI and gemini.is_gemini(turn):
        return turn
    if role is None:
        return _read_item(turn, own)
    foreign = own is GEMINI or not (turn.keys() - own.fields).isdisjoint(_FOREIGN)
    if isinstance(content, str) and not foreign and role not in ("tool", "function"):
        return turn
    if role in ("tool", "function"):
        return _read_output(turn, own)
    pieces: list[Any] = []
    if isinstance(content, (list, tuple)):
        for part in content:
            found = read_part(part, own)
            foreign = foreign or found != [part]
            pieces += found or [None]  # what stays with its service ends a paragraph
        foreign = foreign or _is_for_one_text(role, content, own)
    elif isinstance(content, str):
        pieces = [Text(content)] if content else []
    elif content is not None:
        return turn
    if not foreign:
        return turn
    if role == "assistant":
        before, after = extras_of(turn)
        pieces = [*before, *pieces, *after]
    rest = {name: turn[name] for name in turn.keys() - _FIELDS - _ALWAYS}
    return Turn(role, pieces, not isinstance(content, (list, tuple)), rest)


def _read_item(turn: Any, own: Form) -> Any:
    """What stands in the place of a turn, without a role (Responses)."""
    kind = turn.get("type")
    if own.items or not isinstance(kind, str):  # the one API that has them knows new ones too
        return turn
    pieces = read_part(turn, own)
    if pieces == [turn]:
        return Turn("assistant", [])
    is_output = any(isinstance(piece, Output) for piece in pieces)
    return Turn("user" if is_output else "assistant", pieces)


def _read_output(turn: Any, own: Form) -> Any:
    """The output of a tool, in a turn of its own."""
    output = output_of(turn, lambda content: _inner(content, own))
    if own is not CHAT or "is_error" in turn or "custom" in turn:
        return Turn("user", [output])
    simple = isinstance(output.content, str) or all(
        isinstance(piece, Mapping) and piece.get("type") == "text" for piece in output.content
    )
    return turn if simple else Turn("user", [output])


def _inner(content: Any, own: Form) -> str | list[Any]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else [content]
    return [piece for part in parts for piece in read_part(part, own)]


def read_part(part: Any, own: Form) -> list[Any]:
    """The pieces of a part: itself where it is in the form `own`, or in none that is known; [] for
    what stays with its service."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or _is_own(kind, part, own):
        return [part]
    reader = _READERS.get(kind)
    if reader is None:  # what a tool of a service has found, perhaps a new one
        return [] if kind.endswith("_tool_result") else [part]
    pieces = reader(part, lambda content: _inner(content, own))
    return [part] if pieces is None else pieces


def _is_own(kind: str, part: Mapping[str, Any], own: Form) -> bool:
    """Whether a part is in the form `own`. A type may be that of a part in one API, and in another
    of what stands by itself."""
    known = kind in own.parts and kind not in own.items
    return known and (own is MESSAGES or "citations" not in part)


def _is_for_one_text(role: Any, content: Any, own: Form) -> bool:
    """Whether an answer has only texts, and the API, or many servers of it, want a string."""
    return own is CHAT and role == "assistant" and all(map(_is_bare_text, content))


def _is_bare_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.keys() == {"type", "text"} and part["type"] == "text"
