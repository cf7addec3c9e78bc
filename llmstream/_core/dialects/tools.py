"""Reads tools, tool choices and response formats in the form of any of the APIs, so that a caller
can use one form with all of them. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "FUNCTIONS",
    "asks_for_structure",
    "chosen_tool",
    "declared_in",
    "function_tool",
    "plain_choice",
    "separate_functions",
    "structure_kinds",
]

FUNCTIONS = frozenset(("functionDeclarations", "function_declarations"))  # of one tool, in Gemini


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


def separate_functions(tools: Sequence[Any]) -> Sequence[Any]:
    """The tools with each function apart that Gemini's form has in one; what else such a tool has
    stays a tool of the service."""
    apart: list[Any] = []
    for tool in tools:
        declared, rest = declared_in(tool)
        if isinstance(declared, (list, tuple)):
            apart += map(_function_of, declared)
            apart += [rest] if rest else []
        else:
            apart.append(tool)
    return apart


def declared_in(tool: Any) -> tuple[Any, dict[Any, Any]]:
    """What a tool in Gemini's form has as its functions, and what else it has: a tool of the
    service. (None, {}) for any other tool."""
    if not isinstance(tool, Mapping):
        return None, {}
    declared = tool.get("functionDeclarations") or tool.get("function_declarations")
    if not declared:
        return None, {}
    return declared, {name: value for name, value in tool.items() if name not in FUNCTIONS}


def _function_of(declared: Any) -> Any:
    if not isinstance(declared, Mapping):
        return declared
    names = ("parametersJsonSchema", "parameters_json_schema", "parameters")
    schema = next((declared[name] for name in names if declared.get(name)), None)
    about = {name: declared[name] for name in ("name", "description") if declared.get(name)}
    return {
        "type": "function",
        **about,
        **({"parameters": _as_json_schema(schema)} if schema else {}),
    }


_DEEPEST = 50  # levels of a schema that are looked at


def _as_json_schema(schema: Any, depth: int = 0) -> Any:
    """A schema whose types may be in capitals, as OpenAPI's are in Gemini's older form."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return schema
    found = dict(schema)
    kind, inner = found.get("type"), depth + 1
    if isinstance(kind, str) and kind.isupper():
        found["type"] = kind.lower()
    properties = found.get("properties")
    if isinstance(properties, Mapping):
        found["properties"] = {n: _as_json_schema(one, inner) for n, one in properties.items()}
    for name in ("items", "additionalProperties"):
        if name in found:
            found[name] = _as_json_schema(found[name], inner)
    for name in ("anyOf", "any_of"):
        if isinstance(found.get(name), (list, tuple)):
            found["anyOf"] = [_as_json_schema(one, inner) for one in found.pop(name)]
    return found


_MODES = {"AUTO": "auto", "VALIDATED": "auto", "ANY": "required", "NONE": "none"}


def plain_choice(choice: Any) -> Any:
    """A tool choice in Gemini's form as one that the other APIs have; any other one as it is."""
    if not isinstance(choice, Mapping):
        return choice
    config = choice.get("functionCallingConfig") or choice.get("function_calling_config")
    if not isinstance(config, Mapping):
        return choice
    names = config.get("allowedFunctionNames") or config.get("allowed_function_names") or ()
    mode = _MODES.get(str(config.get("mode") or "AUTO").upper())
    if mode is None or not isinstance(names, (list, tuple)) or len(names) > 1:
        return choice
    return {"type": "function", "name": names[0]} if names else mode


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
