"""Turns of any form -> input items of the Responses API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .ids import CallIds, link
from .parts import (
    Audio,
    Call,
    File,
    Image,
    Output,
    Text,
    Thought,
    Turn,
    as_error,
    joined,
    split_data_url,
)
from .reading import RESPONSES, read_turns

__all__ = ["responses_items"]

_IDS = r".{1,64}"


def responses_items(turns: Sequence[Any], typed: bool) -> list[Any]:
    """The items. In the reference a message needs no type; with `typed` each gets one."""
    made: list[Any] = []
    free: set[str] = set()  # the calls whose arguments are free text
    for turn in read_turns(turns, RESPONSES):
        for item in _items(turn, free) if isinstance(turn, Turn) else (turn,):
            if item.get("type") == "custom_tool_call":
                free.add(str(item.get("call_id")))
            made.append(item)
    made = link(made, _IDS, True, _linked)
    if not typed:
        return made
    return [
        {"type": "message", **item} if "role" in item and "type" not in item else item
        for item in made
    ]


def _items(turn: Turn, free: set[str]) -> Iterator[Any]:
    run: list[Any] = []  # of pieces of one message
    for piece in (*turn.pieces, None):
        if not isinstance(piece, (Call, Output)) and piece is not None:
            run.append(piece)
            continue
        yield from _message(turn, run)
        run = []
        if isinstance(piece, Call):
            yield _call(piece)
        elif isinstance(piece, Output):
            yield _output(piece, piece.custom or piece.id in free)


def _message(turn: Turn, run: list[Any]) -> Iterator[Any]:
    answer = turn.role == "assistant"
    pieces = [piece for piece in run if not isinstance(piece, Thought)]
    texts = all(isinstance(piece, Text) for piece in pieces)
    # What another API has made of texts and other parts is one text.
    plain = turn.is_text or (answer and any(not isinstance(p, Text) for p in turn.pieces))
    content: Any = [_part(piece, "output_text" if answer else "input_text") for piece in pieces]
    if texts and plain:
        content = joined(run)
    if content:
        yield {**turn.rest, "role": turn.role, "content": content}


def _call(call: Call) -> dict[str, Any]:
    known = {"call_id": call.id, "name": call.name}
    if call.custom:
        return {"type": "custom_tool_call", **known, "input": call.arguments}
    return {"type": "function_call", **known, "arguments": call.arguments}


def _output(output: Output, custom: bool) -> dict[str, Any]:
    content = as_error(output.content) if output.failed else output.content
    if not isinstance(content, str):
        content = [_part(piece, "input_text") for piece in content]
    kind = "custom_tool_call_output" if custom else "function_call_output"
    return {"type": kind, "call_id": output.id, "output": content}


def _part(piece: Any, text: str) -> Any:
    if isinstance(piece, Text):
        return {"type": text, "text": piece.text}
    if isinstance(piece, Image):
        detail = {"detail": piece.detail} if piece.detail else {}
        return {"type": "input_image", "image_url": piece.url, **detail}
    if isinstance(piece, File):
        if split_data_url(piece.url) is None:
            return {"type": "input_file", "file_url": piece.url}
        return {"type": "input_file", "filename": piece.name or "file", "file_data": piece.url}
    if isinstance(piece, Audio):
        audio = {"data": piece.data, "format": piece.format}
        return {"type": "input_audio", "input_audio": audio}
    return piece


_CALLS = frozenset({"function_call", "custom_tool_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})


def _linked(item: Any, ids: CallIds) -> Any:
    kind, id = item.get("type"), item.get("call_id")
    if not isinstance(id, str) or kind not in _CALLS | _OUTPUTS:
        return item
    new = ids.call(id) if kind in _CALLS else ids.output(id)
    return item if new == id else {**item, "call_id": new}
