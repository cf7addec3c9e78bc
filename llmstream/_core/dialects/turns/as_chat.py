"""Turns of any form -> messages of Chat Completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .ids import CallIds, link
from .parts import Audio, Call, File, Image, Output, Text, Thought, Turn, as_error, joined
from .reading import CHAT, read_turns

__all__ = ["chat_messages"]


def chat_messages(turns: Sequence[Any], ids: str, reasoning: bool) -> list[Any]:
    """The messages. `ids`: what the service takes as ids of calls, a regular expression.
    `reasoning`: whether it wants `reasoning_content` beside calls."""
    made: list[Any] = []
    shown: list[Any] = []  # what the outputs before have beside texts
    for turn in read_turns(turns, CHAT):
        if isinstance(turn, Turn):
            shown += _shown_in(turn)
        for message in _messages(turn, reasoning) if isinstance(turn, Turn) else (turn,):
            if shown and message.get("role") != "tool":  # nothing may come between the outputs
                made.append({"role": "user", "content": list(shown)})
                shown.clear()
            made.append(message)
    if shown:
        made.append({"role": "user", "content": shown})
    return link(made, ids, False, _linked)


def _messages(turn: Turn, reasoning: bool) -> Iterator[Any]:
    if turn.role == "assistant":
        message = _answer(turn, reasoning)
        if message.keys() & {"content", "tool_calls"}:
            yield message
        return
    outputs = [piece for piece in turn.pieces if isinstance(piece, Output)]
    for output in outputs:
        yield {"role": "tool", "tool_call_id": output.id, "content": _output_text(output)}
    others = [p for p in turn.pieces if p is not None and not isinstance(p, Output)]
    if turn.is_text and len(others) == 1 and isinstance(others[0], Text):
        yield {**turn.rest, "role": turn.role, "content": others[0].text}
    elif others:
        yield {**turn.rest, "role": turn.role, "content": [_part(piece) for piece in others]}


def _answer(turn: Turn, reasoning: bool) -> dict[str, Any]:
    """An assistant's turn, without content and calls where nothing of it can be sent."""
    message: dict[str, Any] = {**turn.rest, "role": "assistant"}
    pieces = [
        Text(text) if (text := _text_in(piece)) is not None else piece for piece in turn.pieces
    ]
    calls = [_call(piece) for piece in pieces if isinstance(piece, Call)]
    unknown = [piece for piece in pieces if isinstance(piece, Mapping)]
    text = joined(pieces)
    if unknown:
        message["content"] = [*([_part(Text(text))] if text else ()), *unknown]
    elif text or calls:
        message["content"] = text or None
    if calls:
        message["tool_calls"] = calls
        if reasoning:
            thoughts = [piece.text for piece in pieces if isinstance(piece, Thought)]
            message["reasoning_content"] = "\n".join(thoughts)
    return message


def _call(call: Call) -> dict[str, Any]:
    if call.custom:
        inner = {"name": call.name, "input": call.arguments}
        return {"id": call.id, "type": "custom", "custom": inner}
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _output_text(output: Output) -> str:
    """What the API takes as an output: texts."""
    content = as_error(output.content) if output.failed else output.content
    if isinstance(content, str):
        return content
    texts = [text for piece in content if (text := _text_in(piece)) is not None]
    if len(texts) < len(content):
        texts.append("(What it has beside text follows.)")
    return "\n".join(texts)


def _text_in(piece: Any) -> str | None:
    if isinstance(piece, Text):
        return piece.text
    kind = piece.get("type") if isinstance(piece, Mapping) else None
    text = piece.get(kind) if kind in ("text", "refusal") else None
    return text if isinstance(text, str) else None


def _shown_in(turn: Turn) -> list[Any]:
    """What its outputs have beside texts, as parts of a user's turn."""
    found: list[Any] = []
    for output in turn.pieces:
        if isinstance(output, Output) and not isinstance(output.content, str):
            media = [_part(piece) for piece in output.content if _text_in(piece) is None]
            if media:
                found += [_part(Text(f"The output of the call {output.id} has this:")), *media]
    return found


def _part(piece: Any) -> Any:
    if isinstance(piece, Text):
        return {"type": "text", "text": piece.text}
    if isinstance(piece, Image):
        detail = {"detail": piece.detail} if piece.detail in ("low", "high", "auto") else {}
        return {"type": "image_url", "image_url": {"url": piece.url, **detail}}
    if isinstance(piece, File):
        return {"type": "file", "file": {"filename": piece.name or "file", "file_data": piece.url}}
    if isinstance(piece, Audio):
        audio = {"data": piece.data, "format": piece.format}
        return {"type": "input_audio", "input_audio": audio}
    return piece


def _linked(turn: Any, ids: CallIds) -> Any:
    if turn.get("role") == "tool" and isinstance(turn.get("tool_call_id"), str):
        old = turn["tool_call_id"]
        new = ids.output(old)
        return turn if new == old else {**turn, "tool_call_id": new}
    calls = turn.get("tool_calls")
    if not isinstance(calls, (list, tuple)):
        return turn
    linked = [_linked_call(call, ids) for call in calls]
    return turn if linked == list(calls) else {**turn, "tool_calls": linked}


def _linked_call(call: Any, ids: CallIds) -> Any:
    id = call.get("id") if isinstance(call, Mapping) else None
    if not isinstance(id, str):
        return call
    new = ids.call(id)
    return call if new == id else {**call, "id": new}
