"""Turns in the form of the Responses API: messages, and items that are no messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ....errors import ConfigurationError
from .chat import FORM as CHAT_FORM
from .parts import Call, File, Form, Image, Inner, Output, Reader, Text, Thought, fenced
from .stored import refuse_file_id

__all__ = ["FORM"]


# ---- parts of a message ------------------------------------------------------------------------


def _image(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    url = part.get("image_url")
    if isinstance(url, str):
        return [Image(url, part.get("detail"))]
    refuse_file_id(part)
    return None


def _file(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    url = part.get("file_data") or part.get("file_url")
    if isinstance(url, str):
        return [File(part.get("filename"), url)]
    refuse_file_id(part)
    return None


# ---- items -------------------------------------------------------------------------------------


def _call(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    id, name = part.get("call_id") or part.get("id"), part.get("name")
    if not isinstance(id, str) or not isinstance(name, str):
        return None
    if part.get("type") == "custom_tool_call":
        return [Call(id, name, str(part.get("input") or ""), True)]
    return [Call(id, name, str(part.get("arguments") or "{}"))]


def _output(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    id = part.get("call_id") or part.get("id")
    if not isinstance(id, str):
        return None
    custom = part.get("type") == "custom_tool_call_output"
    return [Output(id, inner(part.get("output")), custom=custom)]


def _own_output(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    """Of a tool that the API has defined: a text, or an object of its own."""
    id, sent = part.get("call_id") or part.get("id"), part.get("output")
    if not isinstance(id, str):
        return None
    return [Output(id, sent if isinstance(sent, str) else _json(sent))]


def _own_tool(field: str) -> Reader:
    """A call of a tool that the API has defined and the caller runs, as one of a function."""

    def read(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
        id, kind = part.get("call_id") or part.get("id"), part.get("type")
        if not isinstance(id, str):
            return None
        name = str(kind).removesuffix("_call")
        return [Call(id, name, _json({field: part.get(field)}))]

    return read


def _screenshot(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    id, sent = part.get("call_id"), part.get("output")
    if not isinstance(id, str) or not isinstance(sent, Mapping):
        return None
    return [Output(id, _image(sent, inner) or [])]


def _reasoning(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    parts = [*_listed(part.get("content")), *_listed(part.get("summary"))]
    texts = [one.get("text") for one in parts if isinstance(one, Mapping)]
    text = "\n".join(one for one in texts if isinstance(one, str))
    return [Thought(text)] if text else []


def _code(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    made = [Text(fenced("Code that was run", str(part.get("code") or ""), "python"))]
    for one in _listed(part.get("outputs")):
        if isinstance(one, Mapping) and one.get("logs"):
            made.append(Text("\n" + fenced("Its output", str(one["logs"]))))
    return made if part.get("code") else []


def _mcp_call(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    title = f"A call of the tool {part.get('name')}"
    made = [Text(fenced(title, str(part.get("arguments") or "{}"), "json"))]
    for field, words in (("output", "Its output"), ("error", "It failed")):
        sent = part.get(field)
        if sent:
            made.append(Text("\n" + fenced(words, sent if isinstance(sent, str) else _json(sent))))
    return made


def _picture(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    prompt = part.get("revised_prompt")
    return [Text(fenced("A picture was made", prompt if isinstance(prompt, str) else ""))]


def _reference(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    raise ConfigurationError(
        "prompt: it has an item_reference, which only the service knows that has stored the item: "
        "send the item itself to go on with another API"
    )


def _stays(part: Mapping[str, Any], inner: Inner) -> list[Any] | None:
    return []


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


_PARTS: dict[str, Reader] = {
    "input_text": CHAT_FORM.parts["text"],
    "output_text": CHAT_FORM.parts["text"],
    "refusal": CHAT_FORM.parts["refusal"],
    "input_image": _image,
    "input_file": _file,
    "input_audio": CHAT_FORM.parts["input_audio"],  # the same in this API
    "function_call": _call,
    "function_call_output": _output,
    "custom_tool_call": _call,
    "custom_tool_call_output": _output,
    "local_shell_call": _own_tool("action"),
    "local_shell_call_output": _own_output,
    "shell_call": _own_tool("action"),
    "shell_call_output": _own_output,
    "apply_patch_call": _own_tool("operation"),
    "apply_patch_call_output": _own_output,
    "computer_call": _own_tool("action"),
    "computer_call_output": _screenshot,
    "reasoning": _reasoning,
    "code_interpreter_call": _code,
    "mcp_call": _mcp_call,
    "image_generation_call": _picture,
    "item_reference": _reference,
    # What the service has found is in the answer. The rest means something to the service only.
    "web_search_call": _stays,
    "file_search_call": _stays,
    "tool_search_call": _stays,
    "tool_search_output": _stays,
    "mcp_list_tools": _stays,
    "mcp_approval_request": _stays,
    "mcp_approval_response": _stays,
    "compaction": _stays,
    "additional_tools": _stays,
}
_IN_MESSAGES = frozenset(kind for kind in _PARTS if kind.startswith(("input_", "output_")))
FORM = Form(
    _PARTS,
    frozenset({"type", "id", "status", "phase"}),
    frozenset(_PARTS) - _IN_MESSAGES - {"refusal"},
)
