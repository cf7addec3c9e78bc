"""Reads turns in the form of any of the APIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import chat, messages, responses
from .chat import extras_of, output_of
from .parts import Audio, File, Form, Image, Output, Text, Turn

__all__ = ["CHAT", "MESSAGES", "RESPONSES", "media_of", "read_part", "read_turns"]

CHAT, RESPONSES, MESSAGES = chat.FORM, responses.FORM, messages.FORM
_FORMS = (CHAT, RESPONSES, MESSAGES)
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
    for turn in turns:
        found = _read(turn, own)
        last = read[-1] if read else None
        if isinstance(found, Turn) and isinstance(last, Turn) and _are_one(last, found):
            read[-1] = Turn(last.role, [*last.pieces, None, *found.pieces])
        elif not isinstance(found, Turn) or found.pieces:
            read.append(found)
    return read


def _are_one(last: Turn, turn: Turn) -> bool:
    if last.role != turn.role or last.rest or turn.rest:
        return False
    return turn.role == "assistant" or all(
        piece is None or isinstance(piece, Output) for piece in (*last.pieces, *turn.pieces)
    )


def _read(turn: Any, own: Form) -> Any:
    """The turn as a `Turn`; itself where it is in the form `own`, or in none that is known."""
    role, content = turn.get("role"), turn.get("content")
    if role is None:
        return _read_item(turn, own)
    foreign = not (turn.keys() - own.fields).isdisjoint(_FOREIGN)
    if isinstance(content, str) and not foreign and role not in ("tool", "function"):
        return turn
    if role in ("tool", "function"):
        return _read_output(turn, own)
    pieces: list[Any] = []
    if isinstance(content, (list, tuple)):
        for part in content:
            found = read_part(part, own)
            foreign = foreign or found != [part]
            pieces += found
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
    return Turn(role, pieces, isinstance(content, str), rest)


def _read_item(turn: Any, own: Form) -> Any:
    """What stands in the place of a turn, without a role."""
    pieces = read_part(turn, own)
    if pieces == [turn]:
        return turn
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
    if not isinstance(kind, str) or kind in own.parts:
        return [part]
    reader = _READERS.get(kind)
    pieces = reader(part, lambda content: _inner(content, own)) if reader is not None else None
    return [part] if pieces is None else pieces


def media_of(part: Any) -> Image | File | Audio | None:
    """A picture, file or audio in the form of any API; None for anything else."""
    found = read_part(part, _NO_FORM)
    media = found[0] if len(found) == 1 else None
    return media if isinstance(media, (Image, File, Audio)) else None


_NO_FORM = Form({}, frozenset())
