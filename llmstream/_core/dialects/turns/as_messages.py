"""Turns of any form -> messages of the Messages API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ....errors import ConfigurationError
from ....result import decode_arguments
from .ids import CallIds, link
from .parts import Audio, Call, File, Image, Output, Text, Thought, Turn, split_data_url
from .reading import MESSAGES, read_turns

__all__ = ["messages_turns"]

_IDS = r"[a-zA-Z0-9_-]{1,64}"


def messages_turns(turns: Sequence[Any]) -> list[Any]:
    """The messages; turns of the system and of developers are among them."""
    made: list[Any] = []
    for turn in read_turns(turns, MESSAGES):
        made += _messages(turn) if isinstance(turn, Turn) else (turn,)
    return link([turn for turn in made if not _is_blank(turn)], _IDS, True, _linked)


def _is_blank(turn: Any) -> bool:
    """Whether it is an answer without text, which other APIs take and this one refuses."""
    content = turn.get("content")
    return turn.get("role") == "assistant" and isinstance(content, str) and not content.strip()


def _messages(turn: Turn) -> Iterator[Any]:
    pieces = [
        piece for piece in turn.pieces if piece is not None and not isinstance(piece, Thought)
    ]
    if turn.is_text and len(pieces) == 1 and isinstance(pieces[0], Text):
        yield {**turn.rest, "role": turn.role, "content": pieces[0].text}
        return
    blocks = [block for piece in pieces for block in _blocks(piece)]
    if turn.role == "assistant":  # nothing may come between calls and their outputs
        blocks.sort(key=_is_call)
    else:
        blocks.sort(key=_is_no_result)
    if blocks:
        yield {**turn.rest, "role": turn.role, "content": blocks}


def _is_call(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "tool_use"


def _is_no_result(block: Any) -> bool:
    return not isinstance(block, Mapping) or block.get("type") != "tool_result"


def _blocks(piece: Any) -> list[Any]:
    """The blocks of a piece: none of a text that is blank, which the API refuses, nor of a
    thought, which it takes only with its own signature."""
    if isinstance(piece, Text):
        return [{"type": "text", "text": piece.text}] if piece.text.strip() else []
    if isinstance(piece, Call):
        call = {"id": piece.id, "name": piece.name, "input": _input(piece)}
        return [{"type": "tool_use", **call}]
    if isinstance(piece, Output):
        return [_result(piece)]
    if isinstance(piece, (Image, File, Audio)):
        return [_media(piece)]
    if not isinstance(piece, Mapping):
        return []
    text = piece.get("text") if piece.get("type") == "text" else None
    return [] if isinstance(text, str) and not text.strip() else [piece]


def _result(output: Output) -> dict[str, Any]:
    content = output.content
    if not isinstance(content, str):
        content = [block for piece in content for block in _blocks(piece)]
    failed = {"is_error": True} if output.failed else {}
    return {"type": "tool_result", "tool_use_id": output.id, "content": content, **failed}


def _input(call: Call) -> Any:
    if call.custom:
        return {"input": call.arguments}
    try:
        value = decode_arguments(call.arguments)
    except (ValueError, RecursionError):
        value = call.arguments
    return value if isinstance(value, dict) else {"input": value}


def _media(media: Image | File | Audio) -> Any:
    if isinstance(media, Audio):
        raise ConfigurationError("prompt: the Messages API takes no audio: leave it out")
    data = split_data_url(media.url)
    if data is None:
        source: Any = {"type": "url", "url": media.url}
    else:
        source = {"type": "base64", "media_type": data[0], "data": data[1]}
    if isinstance(media, Image):
        return {"type": "image", "source": source}
    if data is not None and data[0] == "text/plain":
        source = {"type": "text", "media_type": data[0], "data": _text_of(data[1])}
    return {"type": "document", "source": source, **({"title": media.name} if media.name else {})}


def _text_of(data: str) -> str:
    try:
        return msgspec.convert(data, bytes).decode("utf-8", "replace")  # from base64
    except msgspec.ValidationError:
        raise ConfigurationError("prompt: a file's data: URL is not base64") from None


def _linked(turn: Any, ids: CallIds) -> Any:
    content = turn.get("content")
    if not isinstance(content, (list, tuple)):
        return turn
    linked = [_linked_block(block, ids) for block in content]
    return turn if linked == list(content) else {**turn, "content": linked}


# a type of block -> its field with the id of a call
_ID_FIELDS = {"tool_use": "id", "tool_result": "tool_use_id"}


def _linked_block(block: Any, ids: CallIds) -> Any:
    kind = block.get("type") if isinstance(block, Mapping) else None
    field = _ID_FIELDS.get(kind) if isinstance(kind, str) else None
    id = block.get(field) if field is not None else None
    if not isinstance(id, str):
        return block
    new = ids.call(id) if kind == "tool_use" else ids.output(id)
    return block if new == id else {**block, field: new}
