"""Turns in the form of the Messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .chat import FORM as CHAT_FORM
from .parts import Call, File, Form, Image, Inner, Output, Reader, Text, Thought, fenced, texts_in
from .stored import refuse_file_id

__all__ = ["FORM"]


def _image(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    url = _url(part.get("source"))
    return None if url is None else [Image(url)]


def _document(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    source, title = part.get("source"), part.get("title")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if isinstance(source, Mapping) and kind == "text" and isinstance(source.get("data"), str):
        return [Text(fenced(str(title or "A document"), source["data"]))]
    if isinstance(source, Mapping) and kind == "content":
        content = inner(source.get("content"))
        return [Text(content)] if isinstance(content, str) else content
    url = _url(source)
    return None if url is None else [File(title if isinstance(title, str) else None, url)]


def _url(source: Any) -> str | None:
    if not isinstance(source, Mapping):
        return None
    if source.get("type") == "base64" and isinstance(source.get("data"), str):
        return f"data:{source.get('media_type')};base64,{source['data']}"
    if source.get("type") == "url" and isinstance(source.get("url"), str):
        return str(source["url"])
    refuse_file_id(source)
    return None


def _search_result(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    title = str(part.get("title") or part.get("source") or "A search result")
    return [Text(fenced(title, texts_in(inner(part.get("content")))))]


def _tool_use(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    id, name = part.get("id"), part.get("name")
    if not isinstance(id, str) or not isinstance(name, str):
        return None
    return [Call(id, name, _json(part.get("input") or {}))]


def _tool_result(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    id = part.get("tool_use_id")
    if not isinstance(id, str):
        return None
    return [Output(id, inner(part.get("content")), part.get("is_error") is True)]


def _thinking(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    text = part.get("thinking")
    return [Thought(text)] if isinstance(text, str) and text else []


def _compaction(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    """A summary of the turns before it."""
    text = part.get("content")
    return [Text(text)] if isinstance(text, str) and text else []


# ---- what the service runs itself --------------------------------------------------------------

# a tool of the service -> the field of its input with what it runs, and the language of that
_CODE = {"code_execution": ("code", "python"), "bash_code_execution": ("command", "sh")}


def _server_tool_use(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    field, language = _CODE.get(str(part.get("name")), ("", ""))
    given = part.get("input")
    code = given.get(field) if isinstance(given, Mapping) else None
    return [Text(fenced("Code that was run", code, language))] if isinstance(code, str) else []


def _code_result(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    content = part.get("content")
    if not isinstance(content, Mapping):
        return []
    printed = [content.get("stdout"), content.get("stderr")]
    text = "\n".join(one.rstrip() for one in printed if isinstance(one, str) and one.strip())
    return [Text(fenced("Its output", text))] if text else []


def _mcp_tool_use(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    title = f"A call of the tool {part.get('name')}"
    return [Text(fenced(title, _json(part.get("input") or {}), "json"))]


def _mcp_tool_result(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    text = texts_in(inner(part.get("content")))
    title = "It failed" if part.get("is_error") is True else "Its output"
    return [Text(fenced(title, text))] if text.strip() else []


def _stays(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    return []


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


_PARTS: dict[str, Reader] = {
    "text": CHAT_FORM.parts["text"],
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "thinking": _thinking,
    "redacted_thinking": _stays,
    "compaction": _compaction,
    "server_tool_use": _server_tool_use,
    "code_execution_tool_result": _code_result,
    "bash_code_execution_tool_result": _code_result,
    "mcp_tool_use": _mcp_tool_use,
    "mcp_tool_result": _mcp_tool_result,
    # Their results are encrypted, or stored at the service. The answer has what was found.
    "web_search_tool_result": _stays,
    "web_fetch_tool_result": _stays,
    "tool_search_tool_result": _stays,
    "text_editor_code_execution_tool_result": _stays,
    "container_upload": _stays,
    "tool_reference": _stays,
}
FORM = Form(_PARTS, frozenset())
