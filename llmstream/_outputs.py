"""What a model is sent of the value that a tool has returned, and of a file. Imports nothing of the
package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["NotSendable", "media_part", "media_type", "output_of"]

# How files begin, what follows 8 bytes after that, and their media types: those that the APIs take
# as a picture or a document.
_KINDS: tuple[tuple[bytes, bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", b"", "image/png"),
    (b"\xff\xd8\xff", b"", "image/jpeg"),
    (b"GIF87a", b"", "image/gif"),
    (b"GIF89a", b"", "image/gif"),
    (b"RIFF", b"WEBP", "image/webp"),
    (b"%PDF-", b"", "application/pdf"),
)


class NotSendable(TypeError):
    """A tool has returned something that cannot be written as text or as parts."""


def output_of(value: Any) -> str | list[Any]:
    """`value` as a text, or as a list of parts in the form of Chat Completions, which every API
    takes.

    - A string is sent as it is.
    - Bytes are a picture (PNG, JPEG, GIF, WebP), a PDF, or else text in UTF-8. What shows itself in
      a notebook as a PNG (Pillow's images) is a picture.
    - A part (text, picture, file, audio), or a list of parts, is sent as parts; among them strings
      are texts, and bytes and pictures are what they are alone.
    - Everything else is JSON: None, numbers, dicts, lists, dataclasses, msgspec Structs, dates,
      enums, and pydantic models. NaN and infinities, which JSON does not have, are written as
      Python's `json` writes them, and not as null.

    Raises NotSendable.
    """
    if isinstance(value, str):
        return _sendable(str(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(value))
    alone = _media(value)
    if alone is not None:
        return [alone]
    if isinstance(value, (list, tuple)) and _are_parts(value):
        return [_part(item) for item in value]
    if hasattr(value, "__await__"):
        close = getattr(value, "close", None)
        if close is not None:
            close()  # or Python complains that nobody has awaited it
        raise NotSendable("it returned a coroutine: write the tool as a plain function")
    return _as_json(value)


def _sendable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise NotSendable(
            f"its result has half a character (a lone surrogate) at position {exc.start}"
        ) from None
    return text


def _of_bytes(data: bytes) -> str | list[Any]:
    part = _file(data)
    if part is not None:
        return [part]
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotSendable(
            "it returned bytes that are neither a picture (PNG, JPEG, GIF, WebP), nor a PDF, nor "
            "text in UTF-8"
        ) from None


def media_type(data: bytes) -> str | None:
    """The media type of a picture or a PDF that the APIs take; None for other bytes."""
    for start, then, kind in _KINDS:
        if data.startswith(start) and data[8 : 8 + len(then)] == then:
            return kind
    return None


def media_part(kind: str, data: bytes, name: str) -> dict[str, Any]:
    """A picture, or a document with its file name, as a part in the form of Chat Completions."""
    url = f"data:{kind};base64,{msgspec.to_builtins(data)}"
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": name, "file_data": url}}


def _file(data: bytes) -> dict[str, Any] | None:
    """A picture or a PDF as a part; None for other bytes."""
    kind = media_type(data)
    return None if kind is None else media_part(kind, data, "file.pdf")


def _media(value: Any) -> dict[str, Any] | None:
    """A value that is a part for itself, and not a text; None for any other."""
    if isinstance(value, (bytes, bytearray)):
        return _file(bytes(value))
    if isinstance(value, Mapping):
        return dict(value) if _is_media(value) else None
    draw = getattr(type(value), "_repr_png_", None)
    drawn = draw(value) if callable(draw) else None
    return _file(drawn) if isinstance(drawn, bytes) else None


# the type of a part -> the field of its object that it must have
_FIELDS = {"image_url": "url", "file": "file_data", "input_audio": "data"}


def _is_media(value: Mapping[Any, Any]) -> bool:
    kind = value.get("type")
    field = _FIELDS.get(kind) if isinstance(kind, str) else None
    inner = value.get(kind) if field is not None else None
    return isinstance(inner, Mapping) and isinstance(inner.get(field), str)


def _are_parts(items: list[Any] | tuple[Any, ...]) -> bool:
    """Whether each item is a part, and not all of them are strings: those are data."""
    return all(map(_is_part, items)) and not all(isinstance(item, str) for item in items)


def _is_part(item: Any) -> bool:
    is_text = isinstance(item, str) or (
        isinstance(item, Mapping)
        and item.get("type") == "text"
        and isinstance(item.get("text"), str)
    )
    return is_text or _media(item) is not None


def _part(item: Any) -> Any:
    if isinstance(item, str):
        return {"type": "text", "text": _sendable(item)}
    return _media(item) or dict(item)


def _as_json(value: Any) -> str:
    try:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_model)
        return _sendable(json.dumps(plain, ensure_ascii=False))
    except NotSendable:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise NotSendable(f"its result cannot be written as JSON ({exc})") from None


def _model(value: Any) -> Any:
    """A value that msgspec does not know: a pydantic model writes itself."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    raise NotSendable(
        f"it returned an object of type {type(value).__name__}: return text, numbers, dicts, "
        "lists, dataclasses, or parts"
    )
