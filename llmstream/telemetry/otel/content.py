"""Prompts and answers in the shapes of the conventions; used only where content is captured.

The shapes are those of the conventions' JSON schemas: gen-ai-input-messages.json,
gen-ai-output-messages.json and gen-ai-system-instructions.json. On spans they "MAY be recorded as
a JSON string": opentelemetry-api 1.30 has no structured attributes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from ...result import Result, ToolCall

__all__ = ["input_messages", "instructions", "output_messages"]

# A prompt may use the words of any of the APIs.
_TEXTS = {"text", "input_text", "output_text", "summary_text", "reasoning_text"}
# type -> the keys of its id, its name and its arguments
_TOOL_CALLS = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
    "tool_use": ("id", "name", "input"),
}
# type -> the keys of its id and its content
_TOOL_RESULTS = {
    "function_call_output": ("call_id", "output"),
    "custom_tool_call_output": ("call_id", "output"),
    "tool_result": ("tool_use_id", "content"),
}
_FINISH = {"tool_calls": "tool_call", "error": "error"}  # FinishReason in the schema
_ROLES = {"model": "assistant", "function": "tool"}  # those of turns with "parts"
_BESIDE = {"thought", "thoughtSignature", "thought_signature"}


def input_messages(prompt: str | list[Any]) -> str:
    """The value of `gen_ai.input.messages`. Of pictures, sound and files it has only the type."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return _as_json([_message(turn) for turn in turns])


def instructions(text: str) -> str:
    """The value of `gen_ai.system_instructions`."""
    return _as_json([_text(text)])


def output_messages(result: Result, *, with_finish: bool) -> str | None:
    """The value of `gen_ai.output.messages`; None for an answer without content. `with_finish`: the
    message has the finish reason."""
    parts: list[dict[str, Any]] = []
    if result.thinking:
        parts.append({"type": "reasoning", "content": result.thinking})
    if result.text:
        parts.append(_text(result.text))
    if result.refusal:
        parts.append({"type": "refusal", "content": result.refusal})
    parts.extend(_answered_call(call) for call in result.tool_calls)
    if not parts:
        return None
    message: dict[str, Any] = {"role": "assistant", "parts": parts}
    if with_finish:
        message["finish_reason"] = _FINISH.get(result.finish or "error", result.finish)
    return _as_json([message])


def _as_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is not valid UTF-8


def _text(content: Any) -> dict[str, Any]:
    return {"type": "text", "content": content}


def _message(turn: Mapping[str, Any]) -> dict[str, Any]:
    kind, role, content = turn.get("type"), turn.get("role"), turn.get("content")
    sent = turn.get("parts")
    if isinstance(sent, (list, tuple)) and content is None:
        role = _ROLES.get(str(role), role or "user")
        return {"role": role, "parts": _with_whole_texts(map(_untyped, sent))}
    if role is None:  # an item of the Responses API that is not a message
        return {"role": "tool" if kind in _TOOL_RESULTS else "assistant", "parts": [_part(turn)]}
    if role == "tool":  # Chat Completions
        return {"role": role, "parts": [_tool_response(turn.get("tool_call_id"), content)]}
    calls = turn.get("tool_calls") or ()
    return {"role": role, "parts": [*_parts(content), *(_chat_call(call) for call in calls)]}


def _parts(content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [_text(content)]
    return [_part(part) for part in content] if isinstance(content, (list, tuple)) else []


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        return _text(str(part))
    kind = str(part.get("type"))
    if kind in _TEXTS:
        return _text(part.get("text"))
    if kind in _TOOL_CALLS:
        return _tool_call(*(part.get(key) for key in _TOOL_CALLS[kind]))
    if kind in _TOOL_RESULTS:
        return _tool_response(*(part.get(key) for key in _TOOL_RESULTS[kind]))
    if kind == "thinking":
        return {"type": "reasoning", "content": part.get("thinking")}
    if kind == "reasoning":
        return {"type": "reasoning", "content": _joined(part.get("summary"))}
    if kind == "refusal":
        return {"type": kind, "content": part.get("refusal")}
    return {"type": kind}


def _untyped(part: Any) -> dict[str, Any]:
    """A part whose one field is its kind (Gemini)."""
    if not isinstance(part, Mapping):
        return _text(str(part))
    kind = next((n for n in part if n not in _BESIDE and part[n] is not None), "signature")
    content = part.get(kind)
    if kind == "text":
        return {"type": "reasoning" if part.get("thought") is True else kind, "content": content}
    if kind in ("functionCall", "function_call") and isinstance(content, Mapping):
        return _tool_call(content.get("id"), content.get("name"), content.get("args") or {})
    if kind in ("functionResponse", "function_response") and isinstance(content, Mapping):
        identity, response = content.get("id"), content.get("response")
        return {"type": "tool_call_response", "id": identity, "response": response}
    return {"type": kind}


def _with_whole_texts(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts of one kind that follow each other as one: an answer has a part for each delta."""
    whole: list[dict[str, Any]] = []
    for kind, group in groupby(parts, key=itemgetter("type")):
        if kind in ("text", "reasoning"):
            whole.append({"type": kind, "content": "".join(str(one["content"]) for one in group)})
        else:
            whole += group
    return whole


def _joined(parts: Any) -> str:
    return "".join(str(part.get("content") or "") for part in _parts(parts))


def _tool_call(identity: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": identity, "name": name, "arguments": _decoded(arguments)}


def _chat_call(call: Any) -> dict[str, Any]:
    function = call.get("function") or call.get("custom") or {}
    return _tool_call(
        call.get("id"), function.get("name"), function.get("arguments", function.get("input"))
    )


def _answered_call(call: ToolCall) -> dict[str, Any]:
    return _tool_call(call.id, call.name, call.arguments)


def _tool_response(identity: Any, content: Any) -> dict[str, Any]:
    response = content if isinstance(content, str) else _parts(content)
    return {"type": "tool_call_response", "id": identity, "response": response}


def _decoded(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments
