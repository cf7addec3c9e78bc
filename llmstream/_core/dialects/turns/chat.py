"""Turns in the form of Chat Completions, which is also the one that callers may use with every
API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .parts import Audio, Call, File, Form, Image, Inner, Output, Text, Thought
from .stored import refuse_file_id

__all__ = ["FORM", "calls_of", "extras_of", "output_of"]


def _text(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    text = part.get("text")
    return [Text(text)] if isinstance(text, str) else None


def _refusal(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    text = part.get("refusal")
    return [Text(text)] if isinstance(text, str) else None


def _image(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    image = part.get("image_url")
    if not isinstance(image, Mapping) or not isinstance(image.get("url"), str):
        return None
    return [Image(image["url"], image.get("detail"))]


def _file(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    file = part.get("file")
    if not isinstance(file, Mapping):
        return None
    if isinstance(file.get("file_data"), str):
        return [File(file.get("filename"), file["file_data"])]
    refuse_file_id(file)
    return None


def _audio(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    audio = part.get("input_audio")
    if not isinstance(audio, Mapping) or not isinstance(audio.get("data"), str):
        return None
    return [Audio(audio["data"], str(audio.get("format") or ""))]


FORM = Form(
    {
        "text": _text,
        "refusal": _refusal,
        "image_url": _image,
        "file": _file,
        "input_audio": _audio,
    },
    frozenset(
        {
            *("tool_calls", "tool_call_id", "function_call", "name", "refusal", "annotations"),
            *("audio", "reasoning", "reasoning_content", "reasoning_details"),
            *("is_error", "custom"),  # of `ToolCall.result`
        }
    ),
)


def calls_of(turn: Mapping[str, Any]) -> Iterator[Call]:
    """The calls of an assistant's turn."""
    calls = turn.get("tool_calls")
    for call in calls if isinstance(calls, (list, tuple)) else ():
        if not isinstance(call, Mapping):
            continue
        inner, custom = call.get("function"), call.get("custom")
        id = str(call.get("id") or "")
        if isinstance(inner, Mapping):
            yield Call(id, str(inner.get("name") or ""), str(inner.get("arguments") or "{}"))
        elif isinstance(custom, Mapping):
            yield Call(id, str(custom.get("name") or ""), str(custom.get("input") or ""), True)
    old = turn.get("function_call")  # before there were several calls in a turn
    if isinstance(old, Mapping) and not calls:
        name = str(old.get("name") or "")
        yield Call(name, name, str(old.get("arguments") or "{}"))


def extras_of(turn: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """What an assistant's turn has beside its content: before it, and after it."""
    thoughts = [turn.get("reasoning_content") or turn.get("reasoning")]
    refusal = [] if turn.get("content") else [turn.get("refusal")]
    return (
        [Thought(text) for text in thoughts if isinstance(text, str)],
        [*(Text(text) for text in refusal if isinstance(text, str)), *calls_of(turn)],
    )


def output_of(turn: Mapping[str, Any], inner: Inner) -> Output:
    """The output of a tool."""
    id = turn.get("name") if turn.get("role") == "function" else turn.get("tool_call_id")
    return Output(
        str(id or ""),
        inner(turn.get("content")),
        turn.get("is_error") is True,
        turn.get("custom") is True,
    )
