"""JSON schemas as the APIs take them: what an API's strict mode knows stays, what it does not know
becomes words of the description, and what it cannot promise makes the schema not strict. Pure.

Sources: OpenAI, "Structured model outputs" (supported schemas); Anthropic, "Structured outputs"
(JSON Schema limitations); the transforms of both vendors' packages, which the tests compare with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from ..errors import ConfigurationError

__all__ = ["Fitted", "SchemaRules", "fit", "is_object", "mended"]

Schema = dict[str, Any]

# Keywords that only describe, and that no model needs.
_DROPPED = frozenset(
    (
        *("title", "$schema", "$id", "$anchor", "$comment", "discriminator", "readOnly"),
        *("writeOnly", "deprecated"),
    )
)
# Keywords that no strict mode knows and no description replaces: they decide the shape.
_SHAPE = frozenset(
    (
        *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
        *("unevaluatedProperties", "unevaluatedItems", "contains", "minContains"),
        *("maxContains", "not", "if", "then", "else", "dependentRequired"),
        *("dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef"),
        *("prefixItems",),
    )
)
_DEFINITIONS = ("$defs", "definitions")
_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
}
# What no grammar of a service can follow in a regular expression: it looks around, or back.
_ODD_PATTERN = re.compile(r"\(\?<?[=!]|\(\?P=|\\[1-9bBAZ]")
_TYPE_NAMES = ("object", "array", *_TYPES.values())
_DEEP = 200  # schemas inside each other


class SchemaRules(Struct, frozen=True, kw_only=True):
    """What the strict mode of an API knows of JSON Schema.

    Args:
        kept: the keywords of constraints that stay; all others become words of the description.
        formats: the values of `format` that stay.
        least_items: the values of `minItems` that stay; empty: all of them.
        all_required: whether each property has to be required. One that may be left out then
            takes null.
        recursion: whether a schema may refer to itself.
        loose_words: whether constraints that are not `kept` become words also where the schema is
            not strict.
        names: what the names of an object's properties have to match; they are refused otherwise,
            strict or not.
        levels, properties, enum_values, characters: the most that one schema may have: of objects
            and arrays inside each other, of properties, of values in all enums, and of characters
            in all names and values of enums. None: no limit is known.
        optional, unions, tools: the most that all strict schemas of a request may have together:
            of properties that may be left out, of unions, and of schemas.
    """

    kept: frozenset[str]
    formats: frozenset[str]
    least_items: frozenset[int] = frozenset()
    all_required: bool = False
    recursion: bool = True
    loose_words: bool = False
    names: str | None = None
    levels: int | None = None
    properties: int | None = None
    enum_values: int | None = None
    characters: int | None = None
    optional: int | None = None
    unions: int | None = None
    tools: int | None = None


class Fitted(Struct, frozen=True, kw_only=True):
    """A schema as an API takes it.

    Args:
        schema: the schema.
        strict: whether the API may be asked to follow it strictly.
        reason: why it is not strict, None where it is.
        described: the keywords that have become words of a description, sorted: what the API does
            not enforce.
        optional, unions: how many properties may be left out, and how many unions there are.
    """

    schema: Schema
    strict: bool
    reason: str | None = None
    described: tuple[str, ...] = ()
    optional: int = 0
    unions: int = 0


class _NotStrictError(Exception):
    """A schema cannot be followed strictly. `args` has the place and the reason."""


def fit(schema: Mapping[str, Any], rules: SchemaRules, *, strict: bool | None = None) -> Fitted:
    """`schema`, whose root has to be an object, as an API with these rules takes it.

    `strict`: None makes it strict where that is possible, False never does. True raises
    ConfigurationError where it is not possible. So does a schema that no API takes.
    """
    _check_form(schema)
    root = _Root(schema)
    if not is_object(root.schema, root):
        raise ConfigurationError("a schema's root has to be an object with properties")
    _check_names(root.schema, rules)
    reason = "it was not asked for"
    if strict is not False:
        try:
            return _Strict(root, rules).fitted()
        except _NotStrictError as exc:
            reason = "{} {}".format(*exc.args)
            if strict:
                raise ConfigurationError(f"the schema cannot be strict: {reason}") from None
        except RecursionError:
            reason = "it is too deep"
    loose = _Loose(root, rules)
    try:
        whole = loose.whole()
    except RecursionError:
        raise ConfigurationError("the schema is too deep for an API to take") from None
    return Fitted(
        schema=whole, strict=False, reason=reason, described=tuple(sorted(loose.described))
    )


def is_object(schema: Mapping[str, Any], root: _Root | None = None) -> bool:
    """Whether a schema describes objects with properties, as the root of a tool's or an answer's
    schema has to."""
    root = root or _Root(schema)
    found = root.resolved(schema)
    return found.get("type") == "object" and "properties" in found


def _check_form(schema: Any) -> None:
    """Raises ConfigurationError, with the place, where a keyword that is looked into is not of the
    form that JSON Schema gives it."""
    left: list[tuple[Any, str]] = [(schema, "$")]
    while left:
        one, path = left.pop()
        if isinstance(one, bool):
            continue
        if not isinstance(one, Mapping):
            raise ConfigurationError(f"the schema is not one: `{path}` is no object")
        for name, value in one.items():
            place = f"{path}.{name}"
            if not _FORMS.get(name, _anything)(value):
                raise ConfigurationError(
                    f"the schema is not one: `{place}` has not the form that JSON Schema gives it"
                )
            if name in _OF_NAMES:
                left += [(inner, f"{place}.{key}") for key, inner in value.items()]
            elif name in _OF_LISTS:
                left += [(inner, f"{place}[{number}]") for number, inner in enumerate(value)]
            elif name in _OF_ONE:
                left.append((value, place))


def _check_names(schema: Mapping[str, Any], rules: SchemaRules) -> None:
    for name in schema["properties"] if rules.names else ():
        if not re.fullmatch(rules.names or "", name):
            raise ConfigurationError(
                f"the API takes no property named {name!r}: use 1 to 64 of the characters a-z, "
                "A-Z, 0-9, '_', '-' and '.'"
            )


class _Root:
    """The whole schema, which references look into. `schema` is the object itself where the root
    is a reference or a union of one."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.document = schema
        self.definitions: dict[str, Mapping[str, Any]] = {}
        for place in _DEFINITIONS:
            for name, inner in (schema.get(place) or {}).items():
                self.definitions[f"#/{place}/{_escaped(name)}"] = inner
        self.schema = self._unwrapped(schema)

    def _unwrapped(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """A root may not be a reference: OpenAI refuses it, and so do others."""
        rest = {key: value for key, value in schema.items() if key not in _DEFINITIONS}
        for _ in range(_DEEP):
            if "$ref" in rest:
                inner = self.target(rest.pop("$ref"))
            elif isinstance(parts := rest.get("allOf"), list) and len(parts) == 1:
                inner = rest.pop("allOf")[0]
            else:
                break
            rest = {**inner, **rest}
        return rest

    def target(self, ref: Any) -> Mapping[str, Any]:
        """What a reference refers to. Raises ConfigurationError for one that leads nowhere."""
        if ref == "#":
            return self.schema if hasattr(self, "schema") else self.document
        found = self.definitions.get(ref) if isinstance(ref, str) else None
        if not isinstance(found, Mapping):
            raise ConfigurationError(
                f"the schema refers to {str(ref)[:80]!r}, which is not among its $defs"
            )
        return found

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema that a chain of references ends at, with what stands beside them."""
        for _ in range(_DEEP):
            if "$ref" not in schema:
                return schema
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**self.target(schema["$ref"]), **beside}
        raise ConfigurationError("the schema's references go round in a circle")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


# ---- strict ------------------------------------------------------------------------------------


class _Strict:
    """Writes a schema by the rules of a strict mode. Raises _NotStrictError."""

    def __init__(self, root: _Root, rules: SchemaRules) -> None:
        self._root = root
        self._rules = rules
        self._definitions: Schema = {}  # name -> as written; None while it is being written
        self._running: list[str] = []  # the definitions that are being written
        self._levels: dict[str, int] = {}  # of each definition
        self._described: set[str] = set()
        self._optional = self._unions = self._properties = 0
        self._enum_values = self._characters = 0

    def fitted(self) -> Fitted:
        body, levels = self._write(self._root.schema, "$")
        if body.get("type") != "object":
            raise _NotStrictError("`$`", "is not plainly an object")
        self._within("objects and arrays inside each other", levels, self._rules.levels)
        self._within("properties", self._properties, self._rules.properties)
        self._within("values of enums", self._enum_values, self._rules.enum_values)
        self._within("characters in names and enums", self._characters, self._rules.characters)
        self._within("properties that may be left out", self._optional, self._rules.optional)
        self._within("unions", self._unions, self._rules.unions)
        if self._definitions:
            body["$defs"] = self._definitions
        return Fitted(
            schema=body,
            strict=True,
            described=tuple(sorted(self._described)),
            optional=self._optional,
            unions=self._unions,
        )

    @staticmethod
    def _within(what: str, number: int, most: int | None) -> None:
        if most is not None and number > most:
            raise _NotStrictError("it", f"has {number} {what}, and {most} are the most")

    def _write(self, schema: Any, path: str) -> tuple[Schema, int]:
        """A schema as written, and how many objects and arrays are inside each other in it."""
        if not isinstance(schema, Mapping):
            raise _NotStrictError(f"`{path}`", "may be anything")
        for name in schema:
            if name in _SHAPE and not (name == "prefixItems" and _same_items(schema)):
                raise _NotStrictError(f"`{path}`", f"has {name!r}, which no strict mode knows")
        if "$ref" in schema:
            written, levels = self._reference(schema["$ref"], path)
            return self._finished(written, schema, ()), levels
        parts = schema.get("allOf")
        if isinstance(parts, list):
            if len(parts) != 1 or not isinstance(parts[0], Mapping):
                raise _NotStrictError(f"`{path}`", "has to fit several schemas at once")
            rest = {key: value for key, value in schema.items() if key != "allOf"}
            return self._write({**parts[0], **rest}, path)
        branches, beside = _branches(schema, path)
        if branches is not None:
            return self._union(branches, beside, path)
        kind = schema.get("type")
        write = {"object": self._object, "array": self._array}.get(str(kind), self._scalar)
        return write(schema, path)

    # -- the kinds of schemas

    def _reference(self, ref: Any, path: str) -> tuple[Schema, int]:
        target = self._root.target(ref)
        name = "root" if ref == "#" else str(ref).rpartition("/")[2]
        if name in self._running or ref == "#":
            if not self._rules.recursion:
                raise _NotStrictError(f"`{path}`", "contains itself, which this API refuses")
            if ref == "#":
                return {"$ref": "#"}, 0
            return {"$ref": f"#/$defs/{name}"}, 0
        if name not in self._definitions:
            self._running.append(name)
            if len(self._running) > _DEEP:
                raise _NotStrictError(f"`{path}`", "is too deep")
            self._definitions[name] = {}  # keeps the order of appearance
            self._definitions[name], self._levels[name] = self._write(target, path)
            self._characters += len(name)
            self._running.pop()
        return {"$ref": f"#/$defs/{name}"}, self._levels[name]

    def _union(
        self, branches: list[Any], beside: Mapping[str, Any], path: str
    ) -> tuple[Schema, int]:
        written: list[Schema] = []
        deepest = 0
        for branch in branches:
            one, levels = self._write(branch, path)
            deepest = max(deepest, levels)
            if one.keys() == {"anyOf"}:  # a union in a union
                self._unions -= 1
                written += [inner for inner in one["anyOf"] if inner not in written]
            elif one not in written:
                written.append(one)
        if not written:
            raise _NotStrictError(f"`{path}`", "fits no value")
        if len(written) == 1:
            return self._finished(written[0], beside, ()), deepest
        self._unions += 1
        return self._finished({"anyOf": written}, beside, ()), deepest

    def _object(self, schema: Mapping[str, Any], path: str) -> tuple[Schema, int]:
        more = schema.get("additionalProperties")
        if "properties" not in schema:
            raise _NotStrictError(f"`{path}`", "is an object with any names")
        if more is not None and more is not False:
            raise _NotStrictError(f"`{path}`", "is an object with further names")
        required = schema.get("required") or ()
        if not set(required) <= schema["properties"].keys():
            raise _NotStrictError(f"`{path}`", "requires a property that it does not describe")
        properties: Schema = {}
        deepest = 0
        for name, inner in schema["properties"].items():
            written, levels = self._write(inner, f"{path}.{name}")
            deepest = max(deepest, levels)
            self._characters += len(name)
            if name not in required:
                if self._rules.all_required:
                    written = self._nullable(written, inner)
                else:
                    self._optional += 1
            properties[name] = written
        self._properties += len(properties)
        written = {
            "type": "object",
            "properties": properties,
            "required": [*properties] if self._rules.all_required else [*required],
            "additionalProperties": False,
        }
        done = ("type", "properties", "required", "additionalProperties")
        return self._finished(written, schema, done), deepest + 1

    def _nullable(self, written: Schema, schema: Any) -> Schema:
        """A property that may be left out, where each is required: null stands for its absence."""
        if _takes_null(schema, self._root):
            return written
        outer = {}
        if "$ref" not in written and "description" in written:
            outer["description"] = written["description"]
        inner = {key: value for key, value in written.items() if key not in outer}
        branches = inner["anyOf"] if inner.keys() == {"anyOf"} else [inner]
        self._unions += len(branches) == 1
        return {"anyOf": [*branches, {"type": "null"}], **outer}

    def _array(self, schema: Mapping[str, Any], path: str) -> tuple[Schema, int]:
        items = schema["prefixItems"][0] if schema.get("prefixItems") else schema.get("items")
        inner, levels = self._write(items, f"{path}[...]")
        done = ("type", "items", "prefixItems")
        return self._finished({"type": "array", "items": inner}, schema, done), levels + 1

    def _scalar(self, schema: Mapping[str, Any], path: str) -> tuple[Schema, int]:
        kind = schema.get("type")
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            if not all(type(value) in _TYPES for value in values):
                raise _NotStrictError(f"`{path}`", "is a value that is not a plain one")
            self._count_values(values)
            kind = _TYPES.get(type(values[0]), "null")
            written: Schema = {"type": kind}
            if values != [None]:
                written["enum"] = [*values]
            return self._finished(written, schema, ("type", "enum", "const")), 0
        if kind not in _TYPES.values():
            raise _NotStrictError(f"`{path}`", "may be anything")
        return self._finished({"type": kind}, schema, ("type",)), 0

    def _count_values(self, values: list[Any]) -> None:
        size = sum(len(value) for value in values if isinstance(value, str))
        self._enum_values += len(values)
        self._characters += size
        if len(values) > 250 and self._rules.characters is not None:  # OpenAI's, for one enum
            self._within("characters in an enum of more than 250 values", size, 15_000)

    # -- what stands beside the type

    def _finished(self, written: Schema, schema: Mapping[str, Any], done: Any) -> Schema:
        """`written` with the keywords of `schema` that stay, and the words for the others."""
        kept: Schema = {}
        words: Schema = {}
        for name, value in schema.items():
            if name in done or name in _DROPPED or name in ("description", "$ref", *_DEFINITIONS):
                continue
            if written.get("type", "object") not in _OF_TYPE.get(name, _TYPE_NAMES):
                continue  # it says nothing of a value of this type
            if self._stays(name, value, written):
                kept[name] = value
            elif not _is_vacuous(name, value):
                words[name] = value
        self._described |= words.keys()
        description = _description(schema.get("description"), words)
        if not kept and description is None:
            return written
        if "$ref" in written:  # nothing may stand beside a reference
            written = {"anyOf": [written]}
        elif description is not None and "description" in written:
            inner = written.pop("description")
            if inner != description and inner not in description:
                description = f"{description}\n\n{inner}"
        if description is not None:
            written["description"] = description
        return {**written, **kept}

    def _stays(self, name: str, value: Any, written: Schema) -> bool:
        if name == "format":
            return value in self._rules.formats and written.get("type") == "string"
        if name == "minItems" and self._rules.least_items:
            return value in self._rules.least_items and name in self._rules.kept
        if name == "pattern" and _ODD_PATTERN.search(str(value)):
            return False
        return name in self._rules.kept


def _same_items(schema: Mapping[str, Any]) -> bool:
    """Whether an array's `prefixItems` say nothing that `items` cannot say: all are the same, and
    the number of items is fixed."""
    first = schema["prefixItems"]
    if not isinstance(first, list) or not first or any(item != first[0] for item in first):
        return False
    return schema.get("minItems") == schema.get("maxItems") == len(first)


# Keywords that say nothing of values of another type.
_OF_TYPE = {
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        ("integer", "number"),
    ),
    **dict.fromkeys(
        ("minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"),
        ("string",),
    ),
    **dict.fromkeys(("minItems", "maxItems", "uniqueItems", "items", "prefixItems"), ("array",)),
    **dict.fromkeys(("properties", "required", "additionalProperties"), ("object",)),
}
_ANNOTATIONS = frozenset({"description", "default", "examples"})


def _branches(schema: Mapping[str, Any], path: str) -> tuple[list[Any] | None, Mapping[str, Any]]:
    """The parts of a union and what stands beside them; (None, ...) for a schema that is none. A
    union is `anyOf`, `oneOf`, a list of types, or an enum whose values have several types."""
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            beside = {k: v for k, v in schema.items() if k != name}
            if beside.keys() - _ANNOTATIONS - _DROPPED - {*_DEFINITIONS}:
                raise _NotStrictError(f"`{path}`", "has to fit several schemas at once")
            return schema[name], beside
    annotations = {k: v for k, v in schema.items() if k in _ANNOTATIONS}
    kinds, values = schema.get("type"), schema.get("enum")
    if isinstance(values, list) and "const" not in schema:
        groups: dict[str, list[Any]] = {}
        for value in values:
            groups.setdefault(_TYPES.get(type(value), "object"), []).append(value)
        if "object" in groups:
            raise _NotStrictError(f"`{path}`", "is an enum with a value that is not a plain one")
        if len(groups) != 1:
            return [{"enum": group} for group in groups.values()], annotations
    elif isinstance(kinds, list):
        rest = {k: v for k, v in schema.items() if k not in annotations and k != "type"}
        return [
            {"type": kind, **{k: v for k, v in rest.items() if kind in _OF_TYPE.get(k, (kind,))}}
            for kind in kinds
        ], annotations
    return None, schema


def _is_vacuous(name: str, value: Any) -> bool:
    """Whether a keyword says nothing: a null that stands for a value left out, say."""
    return (name == "default" and value is None) or (name == "uniqueItems" and value is False)


def _description(text: Any, words: Mapping[str, Any]) -> str | None:
    """The description, and after it the keywords that are not enforced, as `{minimum: 1}`: the
    form in which Anthropic's package writes them."""
    parts = [text] if isinstance(text, str) and text else []
    if words:
        inner = ", ".join(f"{name}: {_json(value)}" for name, value in words.items())
        parts.append(f"{{{inner}}}")
    return "\n\n".join(parts) or None


def _json(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return type(value).__name__


# ---- not strict --------------------------------------------------------------------------------

# Where the values of a keyword are schemas.
_OF_NAMES = frozenset({"properties", "patternProperties", "dependentSchemas", *_DEFINITIONS})
_OF_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_OF_ONE = frozenset(
    (
        *("items", "additionalProperties", "propertyNames", "contains", "not", "if"),
        *("then", "else", "unevaluatedItems", "unevaluatedProperties"),
    )
)


class _Loose:
    """Writes a schema as it is, for a service that does not enforce it."""

    def __init__(self, root: _Root, rules: SchemaRules) -> None:
        self._root = root
        self._rules = rules
        self.described: set[str] = set()

    def whole(self) -> Schema:
        written = self._write(self._root.schema)
        used = _references(written)
        definitions: Schema = {}
        while used:  # only what is still referred to
            ref = used.pop(0)
            name = ref.rpartition("/")[2]
            if name not in definitions and ref != "#":
                definitions[name] = self._write(self._root.target(ref))
                used += _references(definitions[name])
        return {**written, "$defs": definitions} if definitions else written

    def _write(self, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        written: Schema = {}
        words: Schema = {}
        for name, value in schema.items():
            if name in _DROPPED or name in _DEFINITIONS or name == "description":
                continue
            if name == "$ref":
                written[name] = value if value == "#" else f"#/$defs/{value.rpartition('/')[2]}"
            elif name in _OF_NAMES and isinstance(value, Mapping):
                written[name] = {key: self._write(inner) for key, inner in value.items()}
            elif name in _OF_LISTS and isinstance(value, list):
                written[name] = [self._write(inner) for inner in value]
            elif name in _OF_ONE:
                written[name] = self._write(value)
            elif self._becomes_words(name, value):
                words[name] = value
            else:
                written[name] = value
        self.described |= words.keys()
        description = _description(schema.get("description"), words)
        if description is not None:
            written["description"] = description
        if written.get("type") == "array" and not isinstance(written.get("items"), Mapping):
            written["items"] = {}  # OpenAI refuses an array without (nothing follows a tuple)
        return written

    def _becomes_words(self, name: str, value: Any) -> bool:
        rules = self._rules
        if not rules.loose_words or name in _KEPT_LOOSE or name in _SHAPE:
            return False
        if name == "format":
            return value not in rules.formats
        if name == "minItems" and rules.least_items:
            return value not in rules.least_items
        return name not in rules.kept


def _anything(value: Any) -> bool:
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_OF_NAMES, _is_mapping),
    **dict.fromkeys(_OF_LISTS, _is_list),
    **dict.fromkeys(("description", "format", "pattern", "$ref"), _is_text),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _is_size),
    "required": _is_texts,
    "enum": _is_list,
    "type": lambda value: _is_text(value) or _is_texts(value),
}
_KEPT_LOOSE = frozenset({"type", "enum", "const", "required", "default"})


def _references(schema: Any) -> list[str]:
    found: list[str] = []
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            if isinstance(one.get("$ref"), str):
                found.append(one["$ref"])
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found


# ---- what models write in the place of what was asked for --------------------------------------


def mended(value: Any, schema: Mapping[str, Any]) -> Any:
    """`value` as it was meant, where it does not fit `schema` by the letter: without the nulls that
    stand for a property that may be left out and does not take null (where every property has to
    be there, a model writes them), and with 2 for 2.0 where an integer is asked for (the same
    number in JSON Schema). Returns the same object if there is nothing to mend."""
    root = _Root(schema)
    return _Mending(root).mended(value, root.schema)


class _Mending:
    def __init__(self, root: _Root) -> None:
        self._root = root

    def mended(self, value: Any, schema: Any) -> Any:
        if not isinstance(value, (dict, list, float)) or not isinstance(schema, Mapping):
            return value
        schema = self._root.resolved(schema)
        if isinstance(value, float):
            return int(value) if value.is_integer() and self._wants_integer(schema) else value
        # One branch only: two at each level would take time that doubles with each.
        branch = next((one for one in _parts(schema) if self._may_fit(value, one)), None)
        if branch is not None:
            value = self.mended(value, branch)
        if isinstance(value, dict):
            return self._of_object(value, schema)
        first = schema.get("prefixItems") or ()
        rest = schema.get("items")
        kept = [
            self.mended(item, first[index] if index < len(first) else rest)
            for index, item in enumerate(value)
        ]
        return kept if any(a is not b for a, b in zip(kept, value, strict=True)) else value

    def _wants_integer(self, schema: Mapping[str, Any]) -> bool:
        kinds = {self._root.resolved(one).get("type") for one in (schema, *_parts(schema))}
        return "integer" in kinds and "number" not in kinds

    def _of_object(self, value: dict[str, Any], schema: Mapping[str, Any]) -> Any:
        properties = schema.get("properties") or {}
        required = schema.get("required") or ()
        more = schema.get("additionalProperties")
        kept = {}
        for name, inner in value.items():
            known = properties.get(name, more)
            if (
                inner is None
                and name in properties
                and name not in required
                and not _takes_null(known, self._root)
            ):
                continue
            kept[name] = self.mended(inner, known)
        same = len(kept) == len(value) and all(kept[name] is value[name] for name in kept)
        return value if same else kept

    def _may_fit(self, value: Any, branch: Any) -> bool:
        """Whether a part of a union may be the one that `value` is of: its type and its tags fit,
        and it has what is required."""
        if not isinstance(branch, Mapping):
            return False
        branch = self._root.resolved(branch)
        if isinstance(value, list):
            return bool(branch.get("type") == "array")
        if branch.get("type") != "object":
            return any(self._may_fit(value, inner) for inner in _parts(branch))
        for name, inner in (branch.get("properties") or {}).items():
            if name in value and isinstance(inner, Mapping):
                tag = self._root.resolved(inner)
                known = [tag["const"]] if "const" in tag else tag.get("enum")
                if known is not None and value[name] is not None and value[name] not in known:
                    return False
        return all(name in value for name in branch.get("required") or ())


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    for name in ("anyOf", "oneOf"):
        found = schema.get(name)
        yield from found if isinstance(found, list) else ()


def _takes_null(schema: Any, root: _Root) -> bool:
    if not isinstance(schema, Mapping):
        return schema is not False
    schema = root.resolved(schema)
    if "const" in schema:
        return bool(schema["const"] is None)
    if "enum" in schema:
        return None in schema["enum"]
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            return any(_takes_null(branch, root) for branch in schema[name])
    kind = schema.get("type")
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)
