"""The vendors' rules for strict schemas, read from their documentation and written as checks. They
know nothing of the code that writes the schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_LOOKAROUND = re.compile(r"\(\?<?[=!]")

OPENAI_KEYWORDS = {
    *("type", "description", "properties", "required", "additionalProperties", "items", "anyOf"),
    *("enum", "const", "$ref", "$defs", "pattern", "format", "multipleOf", "minimum", "maximum"),
    *("exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
}
OPENAI_FORMATS = {
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"),
}
ANTHROPIC_KEYWORDS = {
    *("type", "description", "properties", "required", "additionalProperties", "items", "anyOf"),
    *("enum", "const", "$ref", "$defs", "format", "minItems"),
}
ANTHROPIC_FORMATS = OPENAI_FORMATS | {"uri"}
TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}


def openai_faults(schema: Mapping[str, Any]) -> list[str]:
    """https://platform.openai.com/docs/guides/structured-outputs#supported-schemas"""
    faults = _root_faults(schema)
    names = enums = characters = 0
    for path, one in _all(schema):
        faults += _common_faults(path, one, schema, OPENAI_KEYWORDS, OPENAI_FORMATS)
        if "$ref" in one and one.keys() != {"$ref"}:
            faults.append(f"{path}: a reference has company")
        if one.get("type") == "object":
            properties = one.get("properties", {})
            if sorted(one.get("required", ())) != sorted(properties):
                faults.append(f"{path}: not every property is required")
            names += len(properties)
            characters += sum(map(len, properties))
        if _LOOKAROUND.search(one.get("pattern", "")):
            faults.append(f"{path}: a pattern that looks around")
        enums += len(one.get("enum", ()))
        characters += sum(len(v) for v in one.get("enum", ()) if isinstance(v, str))
    characters += sum(map(len, schema.get("$defs", ())))
    if names > 5_000 or enums > 1_000 or characters > 120_000 or _levels(schema, schema, ()) > 10:
        faults.append("too large")
    return faults


def anthropic_faults(schema: Mapping[str, Any]) -> list[str]:
    """https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations"""
    faults = _root_faults(schema)
    optional = unions = 0
    for path, one in _all(schema):
        faults += _common_faults(path, one, schema, ANTHROPIC_KEYWORDS, ANTHROPIC_FORMATS)
        if one.get("minItems", 0) not in (0, 1):
            faults.append(f"{path}: minItems")
        if one.get("type") == "object":
            optional += len(one.get("properties", {}).keys() - set(one.get("required", ())))
        unions += len(one.get("anyOf", ())) > 1 or isinstance(one.get("type"), list)
    if optional > 24 or unions > 16:
        faults.append("too complex")
    for name in schema.get("$defs", ()):
        if _reaches(schema, f"#/$defs/{name}", f"#/$defs/{name}"):
            faults.append(f"{name} contains itself")
    return faults


def _root_faults(schema: Mapping[str, Any]) -> list[str]:
    plain = schema.get("type") == "object" and not {"anyOf", "$ref", "enum"} & schema.keys()
    return [] if plain else ["the root is not an object"]


def _common_faults(
    path: str,
    one: Mapping[str, Any],
    root: Mapping[str, Any],
    keywords: set[str],
    formats: set[str],
) -> list[str]:
    faults = [f"{path}: {name}" for name in one.keys() - keywords]
    if not {"type", "anyOf", "$ref", "enum", "const"} & one.keys():
        faults.append(f"{path}: anything goes")
    if "type" in one and one["type"] not in TYPES:
        faults.append(f"{path}: type {one['type']}")
    if "anyOf" in one and (not one["anyOf"] or "type" in one):
        faults.append(f"{path}: a union that is empty, or of a type")
    if one.get("type") == "object":
        if one.get("additionalProperties") is not False or "properties" not in one:
            faults.append(f"{path}: an object is open")
        elif set(one.get("required", ())) - one["properties"].keys():
            faults.append(f"{path}: what is required is not a property")
    if one.get("type") == "array" and not isinstance(one.get("items"), Mapping):
        faults.append(f"{path}: an array without items")
    if "format" in one and (one["format"] not in formats or one.get("type") != "string"):
        faults.append(f"{path}: format {one['format']}")
    if "enum" in one and (not one["enum"] or not all(map(_is_plain, one["enum"]))):
        faults.append(f"{path}: enum")
    if "$ref" in one:
        kind, _, name = one["$ref"].rpartition("/")
        if one["$ref"] != "#" and (kind != "#/$defs" or name not in root.get("$defs", ())):
            faults.append(f"{path}: {one['$ref']} leads nowhere")
    return faults


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _all(schema: Any, path: str = "$") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema in it, with its place."""
    assert isinstance(schema, Mapping), f"{path} is not a schema"
    yield path, schema
    for place in ("properties", "$defs"):
        for name, inner in schema.get(place, {}).items():
            yield from _all(inner, f"{path}.{name}")
    for number, inner in enumerate(schema.get("anyOf", ())):
        yield from _all(inner, f"{path}|{number}")
    if isinstance(schema.get("items"), Mapping):
        yield from _all(schema["items"], f"{path}[]")


def _levels(schema: Any, root: Mapping[str, Any], seen: tuple[str, ...]) -> int:
    ref = schema.get("$ref")
    if ref is not None:
        if ref in seen or ref == "#":
            return 0
        return _levels(root["$defs"][ref.rpartition("/")[2]], root, (*seen, ref))
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    inner += [schema["items"]] if "items" in schema else []
    deepest = max((_levels(one, root, seen) for one in inner), default=0)
    return deepest + (schema.get("type") in ("object", "array"))


def _reaches(root: Mapping[str, Any], start: str, goal: str) -> bool:
    todo, seen = [start], set()
    while todo:
        ref = todo.pop()
        for _, one in _all(root["$defs"][ref.rpartition("/")[2]]):
            found = one.get("$ref")
            if found == goal:
                return True
            if found is not None and found not in seen:
                seen.add(found)
                todo.append(found)
    return False
