"""Turns of any form -> contents of the Gemini API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ....errors import ConfigurationError
from ....events.base import decode_json
from .chat import output_of
from .gemini import FORM, field, is_gemini, with_ids
from .parts import (
    Audio,
    Call,
    File,
    Image,
    Output,
    Text,
    Thought,
    Turn,
    split_data_url,
)
from .reading import GEMINI, read_part, read_turns

__all__ = ["function_response", "gemini_contents"]


class _Calls:
    """The calls so far: the names, the order, and the service's own ids, by the id that an output
    refers to. A call without an id of the service's own is answered without one."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[str, str | None, int]]] = {}
        self._latest: dict[str, tuple[str, str | None, int]] = {}
        self._count = 0

    def add(self, id: str, name: str, own: str | None) -> None:
        self._count += 1
        self._waiting.setdefault(id, []).append((name, own, self._count))

    def find(self, id: str) -> tuple[str, str | None, int]:
        """What the next output with this id belongs to."""
        waiting = self._waiting.get(id)
        if waiting:
            self._latest[id] = waiting.pop(0)
        return self._latest.get(id, (id, None, self._count + 1))

    def knows(self, id: str) -> bool:
        """Whether the call of an output that was looked for is here."""
        return id in self._latest


def gemini_contents(turns: Sequence[Any]) -> list[Any]:
    """The contents; turns of the system and of developers are among them."""
    calls = _Calls()
    made: list[Any] = []
    for turn, ids in with_ids(read_turns(turns, GEMINI)):
        if isinstance(turn, Turn):
            made += _contents(turn, calls)
            continue
        made.append(_noted(turn, ids, calls) if is_gemini(turn) else turn)
    return _one_turn_a_round(made)


def _noted(turn: Mapping[str, Any], ids: list[str], calls: _Calls) -> Mapping[str, Any]:
    """The turn, whose calls and outputs are known from now on. An output has no id if its call has
    none here: in a run that another API has begun, say."""
    rest = iter(ids)
    parts = list(turn.get("parts") or ())
    changed = False
    for at, part in enumerate(parts):
        call, output = field(part, "functionCall"), field(part, "functionResponse")
        if isinstance(call, Mapping):
            calls.add(next(rest, ""), str(call.get("name") or ""), call.get("id") or None)
        elif output is not None:
            id = next(rest, "")
            own = calls.find(id)[1]
            if own is None and calls.knows(id) and output.get("id"):
                changed = True
                kept = {name: value for name, value in output.items() if name != "id"}
                parts[at] = {"functionResponse": kept}
    return {**turn, "parts": parts} if changed else turn


def _contents(turn: Turn, calls: _Calls) -> Iterator[Any]:
    parts: list[Any] = []
    answers: list[tuple[int, Any]] = []
    after: list[Any] = []
    for piece in turn.pieces:
        if isinstance(piece, Output):
            name, own, place = calls.find(piece.id)
            response, more = _response(name, own, piece)
            answers.append((place, response))
            after += more
        elif isinstance(piece, Call):
            calls.add(piece.id, piece.name, None)
            parts.append({"functionCall": {"name": piece.name, "args": _arguments(piece)}})
        elif piece is not None and not isinstance(piece, Thought):
            parts += _part(piece)
    answers.sort(key=lambda one: one[0])  # without ids their order tells which call is meant
    whole = [*(response for _, response in answers), *after, *parts]
    if whole:
        yield {"role": "model" if turn.role == "assistant" else turn.role, "parts": whole}


def _is_round(turn: Any) -> bool:
    parts = turn.get("parts") if turn.get("role") in ("user", "function") else None
    if not isinstance(parts, (list, tuple)) or not parts:
        return False
    return all(field(part, "functionResponse") is not None for part in parts)


def _one_turn_a_round(turns: list[Any]) -> list[Any]:
    """All outputs of one round are one turn."""
    made: list[Any] = []
    for turn in turns:
        if made and _is_round(turn) and _is_round(made[-1]):
            made[-1] = {**made[-1], "parts": [*made[-1]["parts"], *turn["parts"]]}
        else:
            made.append(turn)
    return made


def function_response(
    name: str, id: str | None, turn: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """The output of a call, in the form of `ToolCall.result`, as a part; and the parts that follow
    all outputs: what it has beside texts."""

    def inner(content: Any) -> str | list[Any]:
        if isinstance(content, str):
            return content
        parts = content if isinstance(content, (list, tuple)) else ()
        return [piece for part in parts for piece in read_part(part, FORM)]

    return _response(name, id, output_of(turn, inner))


def _response(name: str, id: str | None, output: Output) -> tuple[dict[str, Any], list[Any]]:
    content, media = output.content, []
    if not isinstance(content, str):
        texts = [piece.text for piece in content if isinstance(piece, Text)]
        media = [one for piece in content if not isinstance(piece, Text) for one in _part(piece)]
        if media:
            media.insert(0, {"text": f"The output of the call of {name} has this:"})
            texts = texts or ["(What it has beside text follows.)"]
        content = "\n".join(texts)
    response = {"name": name, "response": _object(content, output.failed)}
    if id is not None:
        response["id"] = id
    return {"functionResponse": response}, media


def _object(text: str, failed: bool) -> dict[str, Any]:
    """An output as the object that the API wants."""
    if failed:
        return {"error": text}
    try:
        value = decode_json(text.encode("utf-8", "replace")) if text.lstrip()[:1] == "{" else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"output": text}


def _arguments(call: Call) -> Any:
    if call.custom:
        return {"input": call.arguments}
    try:
        value = decode_json(call.arguments.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        value = call.arguments
    return value if isinstance(value, dict) else {"input": value}


def _part(piece: Any) -> list[Any]:
    if isinstance(piece, Text):
        return [{"text": piece.text}] if piece.text else []
    if isinstance(piece, Audio):
        return [{"inlineData": {"mimeType": f"audio/{piece.format}", "data": piece.data}}]
    if isinstance(piece, (Image, File)):
        return [_media(piece)]
    kind = piece.get("type") if isinstance(piece, Mapping) else None
    if isinstance(kind, str):
        raise ConfigurationError(
            f"prompt: the Gemini API has nothing for a part of the type {kind!r}: leave it out"
        )
    return [piece]


# What the API takes by its address, by the ending of that.
_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "heic": "image/heic",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "csv": "text/csv",
    "html": "text/html",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
}


def _media(media: Image | File) -> Any:
    data = split_data_url(media.url)
    if data is not None:
        return {"inlineData": {"mimeType": data[0], "data": data[1]}}
    ending = media.url.partition("?")[0].lower().rpartition(".")[2]
    kind = _TYPES.get(ending) or ("image/jpeg" if isinstance(media, Image) else None)
    return {"fileData": {**({"mimeType": kind} if kind else {}), "fileUri": media.url}}
