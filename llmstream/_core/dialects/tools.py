"""Reads tools, tool choices and response formats in the form of any of the APIs, so that a caller
can use one form with all of them. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["asks_for_structure", "chosen_tool", "function_tool", "structure_kinds"]


def function_tool(tool: Any) -> dict[str, Any] | None:
    """A function tool, in the form of any of the APIs, as {"name", "description", "parameters",
    ...}; None for a tool of another kind (the service's own), which is sent unchanged."""
    if not isinstance(tool, Mapping):
        return None
    inner = tool.get("function")
    if isinstance(inner, Mapping):  # Chat Completions
        return dict(inner)
    if "input_schema" in tool and tool.get("type", "custom") == "custom":  # Messages
        rest = {k: v for k, v in tool.items() if k not in ("type", "input_schema")}
        return {**rest, "parameters": tool["input_schema"]}
    if tool.get("type") == "function" or (tool.get("name") and "type" not in tool):
        return {k: v for k, v in tool.items() if k != "type"}
    return None


def chosen_tool(choice: Any) -> str | None:
    """The name of the one function that a tool choice asks for, or None."""
    if not isinstance(choice, Mapping):
        return None
    inner = choice.get("function")
    named = inner if isinstance(inner, Mapping) else choice
    name = named.get("name")
    return name if isinstance(name, str) else None


# The fields by which llama.cpp and vLLM constrain an answer.
_GRAMMARS = ("grammar", "json_schema", "guided_json", "guided_regex", "guided_grammar")


def asks_for_structure(extra: Mapping[str, Any]) -> bool:
    """Whether the answer has to have a structure: by `text.format` (Responses), `response_format`
    (Chat Completions), `output_format` or `output_config.format` (Messages), or a grammar."""
    return not structure_kinds(extra) <= {"text"}


def structure_kinds(extra: Mapping[str, Any]) -> set[Any]:
    """The types of all formats that `extra_body` asks for, see `asks_for_structure`; a grammar is
    of the type "grammar"."""
    text, config = extra.get("text"), extra.get("output_config")
    config_of_gemini = extra.get("generationConfig") or extra.get("generation_config")
    formats = [
        text.get("format") if isinstance(text, Mapping) else None,
        config.get("format") if isinstance(config, Mapping) else None,
        extra.get("response_format"),
        extra.get("output_format"),
    ]
    kinds = {str(f.get("type") if isinstance(f, Mapping) else f) for f in formats if f}
    kinds |= _kinds_of_gemini(config_of_gemini)
    return kinds | ({"grammar"} if any(extra.get(name) for name in _GRAMMARS) else set())


def _kinds_of_gemini(config: Any) -> set[str]:
    """The same in `generationConfig`."""
    if not isinstance(config, Mapping):
        return set()
    names = {name.replace("_", "").lower() for name, value in config.items() if value}
    if names & {"responseschema", "responsejsonschema"}:
        return {"json_schema"}
    kind = str(config.get("responseMimeType") or config.get("response_mime_type") or "")
    known = {"application/json": "json_object", "text/plain": "text"}
    return {known.get(kind, kind)} if kind else set()
