"""Conversations as files: JSON with a version. What is read back is exactly what was written."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from .._core.checks import checked_json
from ..errors import ConfigurationError
from .conversation import Content, Conversation, Exchange

__all__ = ["MOST_BYTES", "decode", "encode"]

MOST_BYTES = 200_000_000  # of a file: many images
_FORMAT = "llmstream chat"
_VERSION = 1
_FOREIGN = "is not a conversation that /save has written"
# What may stand in the turn of an answer. An `item` is the API's own (a call, its reasoning); it
# has no role.
_ROLES = (None, "assistant", "model", "tool")


class _Head(Struct):
    format: str = ""
    version: int = 0


class _Saved(Struct, kw_only=True, forbid_unknown_fields=True):
    format: str
    version: int
    model: str
    system: str | None
    exchanges: tuple[Exchange, ...]
    unanswered: Content | None = None
    replaces: bool = False


def encode(conversation: Conversation, model: str) -> bytes:
    """The file of a conversation that goes on with `model`."""
    system, exchanges, unanswered, replaces = conversation.state()
    saved = _Saved(
        format=_FORMAT,
        version=_VERSION,
        model=model,
        system=system,
        exchanges=exchanges,
        unanswered=unanswered,
        replaces=replaces,
    )
    return msgspec.json.format(msgspec.json.encode(saved), indent=1) + b"\n"


def decode(data: bytes, name: str) -> tuple[Conversation, str]:
    """The conversation of a file, and its model. Raises ConfigurationError, with the file's `name`,
    for anything that `encode` does not write."""
    if len(data) > MOST_BYTES:
        raise ConfigurationError(f"{name} is too large for a conversation")
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format == _FORMAT and head.version > _VERSION:
            raise ConfigurationError(
                f"{name} was saved by a newer version of llmstream: update this one"
            )
        if (head.format, head.version) != (_FORMAT, _VERSION):
            raise ValueError("of another format")
        saved = msgspec.json.decode(data, type=_Saved)
        _check(saved)
    except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors
        raise ConfigurationError(f"{name} {_FOREIGN}") from None
    state = saved.system, saved.exchanges, saved.unanswered, saved.replaces
    return Conversation.of(*state), saved.model


def _check(saved: _Saved) -> None:
    """Raises ValueError for what the library would not send, or would not have written."""
    contents = [exchange.question for exchange in saved.exchanges]
    if saved.unanswered is not None:
        contents.append(saved.unanswered)
    if not all(map(_is_content, contents)):
        raise ValueError("a question has parts of another kind")
    for exchange in saved.exchanges:
        if not all(isinstance(one, dict) and one.get("role") in _ROLES for one in exchange.turn):
            raise ValueError("an answer has turns of another kind")
        checked_json("answer", list(exchange.turn))


def _is_content(content: Content) -> bool:
    if isinstance(content, str):
        return bool(content)
    return bool(content) and all(map(_is_part, content))


def _is_part(part: dict[str, Any]) -> bool:
    """Whether it is a part as `content_of` writes it: what is attached is in the file, and never an
    address that a service would fetch."""
    kind = part.get("type")
    if kind == "text":
        return part.keys() == {"type", "text"} and isinstance(part["text"], str)
    inner = part.get(kind) if isinstance(kind, str) else None
    if part.keys() != {"type", kind} or not isinstance(inner, dict):
        return False
    if kind == "image_url":
        return inner.keys() == {"url"} and _is_data(inner["url"])
    named = isinstance(inner.get("filename"), str)
    return kind == "file" and named and _is_data(inner.get("file_data")) and len(inner) == 2


def _is_data(url: Any) -> bool:
    return isinstance(url, str) and url.startswith("data:")
