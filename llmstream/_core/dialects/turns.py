"""Reads turns in the form of Chat Completions, so that a caller can use one form with all APIs:
parts that are images, files or audio, calls of tools, and their outputs. Imports nothing of the
package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = [
    "Audio",
    "Call",
    "File",
    "Image",
    "as_error",
    "calls_of",
    "is_plain",
    "media_of",
    "split_data_url",
]


class Image(NamedTuple):
    """`url` is an address, or a data: URL. `detail` is how closely it is to be looked at."""

    url: str
    detail: str | None


class File(NamedTuple):
    """`url` is a data: URL, or, for the services that take one, an address."""

    name: str | None
    url: str


class Audio(NamedTuple):
    """`data` is in base64, `format` is "wav" or "mp3"."""

    data: str
    format: str


class Call(NamedTuple):
    """A call of a function, as the assistant has made it."""

    id: str
    name: str
    arguments: str


def is_plain(turn: Any) -> bool:
    """Whether a turn is the same in every API: one with a text."""
    return (
        isinstance(turn.get("content"), str)
        and turn.get("role") != "tool"
        and "tool_calls" not in turn
    )


def media_of(part: Any) -> Image | File | Audio | None:
    """A part in the form of Chat Completions; None for any other, which is sent unchanged."""
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    inner = part.get(kind) if isinstance(kind, str) else None
    if not isinstance(inner, Mapping):
        return None
    if kind == "image_url" and isinstance(inner.get("url"), str):
        return Image(inner["url"], inner.get("detail"))
    if kind == "file" and isinstance(inner.get("file_data"), str):
        return File(inner.get("filename"), inner["file_data"])
    if kind == "input_audio" and isinstance(inner.get("data"), str):
        return Audio(inner["data"], str(inner.get("format") or ""))
    return None


def calls_of(turn: Mapping[str, Any]) -> Iterator[Call]:
    """The calls of an assistant's turn in the form of Chat Completions."""
    calls = turn.get("tool_calls")
    for call in calls if isinstance(calls, (list, tuple)) else ():
        inner = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(inner, Mapping):
            yield Call(
                str(call.get("id") or ""),
                str(inner.get("name") or ""),
                str(inner.get("arguments") or "{}"),
            )


def split_data_url(url: str) -> tuple[str, str] | None:
    """The media type and the base64 of a data: URL (RFC 2397); None for an address."""
    head, comma, data = url.partition(",")
    if not comma or head[:5].lower() != "data:" or not head.lower().endswith(";base64"):
        return None
    return head[5:].partition(";")[0].lower() or "text/plain", data


def as_error(output: str | list[Any]) -> str | list[Any]:
    """The output of a call that failed, for an API that has no field for that."""
    if isinstance(output, str):
        return output if output[:5].lower() == "error" else f"Error: {output}"
    return [{"type": "text", "text": "Error:"}, *output]
