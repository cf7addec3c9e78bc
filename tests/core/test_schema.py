"""A JSON schema as an API takes it: what stays, what becomes words, what cannot be strict.
(Generated types are in test_schema_types.py, the vendors' transforms in test_schema_oracles.py.)"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from functools import partial
from typing import Any

import pytest
from every import every
from schema_rules import anthropic_faults, openai_faults
from support import cpu_seconds

from llmstream._core.dialects.declared import OPENAI_RULES
from llmstream._core.dialects.messages import MESSAGES
from llmstream._core.schema import fit, is_object, mended
from llmstream.errors import ConfigurationError

ANTHROPIC_RULES = MESSAGES.schema_rules
NULL = {"type": "null"}


def an_object(required: Any = None, **properties: Any) -> dict[str, Any]:
    names = [*properties] if required is None else required
    return {"type": "object", "properties": properties, "required": names}


def openai(schema: Any) -> Any:
    """The only property `a` of an object, as OpenAI is sent it; it has to be strict."""
    fitted = fit(an_object(a=schema), OPENAI_RULES)
    assert fitted.strict, fitted.reason
    assert openai_faults(fitted.schema) == []
    return fitted.schema["properties"]["a"]


def anthropic(schema: Any) -> Any:
    fitted = fit(an_object(a=schema), ANTHROPIC_RULES)
    assert fitted.strict, fitted.reason
    assert anthropic_faults(fitted.schema) == []
    return fitted.schema["properties"]["a"]


@every(
    "schema, for_openai, for_anthropic",
    [
        ({"type": "string"}, None, None),
        (
            {"type": "string", "minLength": 1, "pattern": "^a"},
            {"type": "string", "pattern": "^a", "description": "{minLength: 1}"},
            {"type": "string", "description": "{minLength: 1, pattern: ^a}"},
        ),
        (
            {"type": "string", "pattern": "(?!a)b", "description": "It."},
            {"type": "string", "description": "It.\n\n{pattern: (?!a)b}"},
            {"type": "string", "description": "It.\n\n{pattern: (?!a)b}"},
        ),
        (
            {"type": "integer", "minimum": 1, "default": 3},
            {"type": "integer", "minimum": 1, "description": "{default: 3}"},
            {"type": "integer", "description": "{minimum: 1, default: 3}"},
        ),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
            {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "description": "{maxItems: 3}",
            },
        ),
        ({"type": "string", "format": "uuid"}, None, None),
        (
            {"type": "string", "format": "uri"},
            {"type": "string", "description": "{format: uri}"},
            {"type": "string", "format": "uri"},
        ),
        (
            {"type": "string", "contentEncoding": "base64"},
            {"type": "string", "description": "{contentEncoding: base64}"},
            {"type": "string", "description": "{contentEncoding: base64}"},
        ),
        ({"enum": ["x"]}, {"type": "string", "enum": ["x"]}, {"type": "string", "enum": ["x"]}),
        ({"const": 1}, {"type": "integer", "enum": [1]}, {"type": "integer", "enum": [1]}),
        ({"enum": [None]}, NULL, NULL),
        (
            {"enum": ["x", None]},
            {"anyOf": [{"type": "string", "enum": ["x"]}, NULL]},
            {"anyOf": [{"type": "string", "enum": ["x"]}, NULL]},
        ),
        (
            {"type": ["integer", "null"], "minimum": 1, "description": "It."},
            {"anyOf": [{"type": "integer", "minimum": 1}, NULL], "description": "It."},
            {
                "anyOf": [{"type": "integer", "description": "{minimum: 1}"}, NULL],
                "description": "It.",
            },
        ),
        (
            {"oneOf": [{"type": "string"}, NULL], "discriminator": {"propertyName": "t"}},
            {"anyOf": [{"type": "string"}, NULL]},
            {"anyOf": [{"type": "string"}, NULL]},
        ),
        (
            {"anyOf": [{"anyOf": [{"type": "string"}, NULL]}, {"type": "integer"}, NULL]},
            {"anyOf": [{"type": "string"}, NULL, {"type": "integer"}]},
            {"anyOf": [{"type": "string"}, NULL, {"type": "integer"}]},
        ),
        ({"anyOf": [{"type": "string"}]}, {"type": "string"}, {"type": "string"}),
        ({"allOf": [{"type": "string"}], "title": "T"}, {"type": "string"}, {"type": "string"}),
        (
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "integer"}],
                "minItems": 2,
                "maxItems": 2,
                "items": False,
            },
            {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
            {
                "type": "array",
                "items": {"type": "integer"},
                "description": "{minItems: 2, maxItems: 2}",
            },
        ),
        (
            {"type": "string", "x-own": [1], "examples": ["é"]},
            {"type": "string", "description": '{x-own: [1], examples: ["é"]}'},
            None,
        ),
    ],
)
def test_what_stays_and_what_becomes_words(
    schema: Any, for_openai: Any, for_anthropic: Any
) -> None:
    """None: as it is. What a description says is in it, after its own words."""
    before = copy.deepcopy(schema)
    assert openai(schema) == (for_openai or schema)
    assert anthropic(schema) == (for_anthropic or for_openai or schema)
    assert schema == before


def test_what_may_be_left_out() -> None:
    """Required and with null for OpenAI, left out for Anthropic."""
    schema = an_object(
        ["must"],
        must={"type": "string"},
        may={"type": "integer", "description": "It."},
        has={"anyOf": [{"type": "string"}, NULL], "default": None},
        one={"enum": ["x"], "default": "x"},
        ref={"$ref": "#/$defs/R", "description": "A reference."},
    )
    schema["$defs"] = {"R": an_object([], x={"type": "integer"})}
    fitted = fit(schema, OPENAI_RULES)
    assert openai_faults(fitted.schema) == []
    properties = fitted.schema["properties"]
    assert properties["may"] == {"anyOf": [{"type": "integer"}, NULL], "description": "It."}
    assert properties["has"] == {"anyOf": [{"type": "string"}, NULL]}
    assert properties["one"]["anyOf"] == [{"type": "string", "enum": ["x"]}, NULL]
    assert properties["ref"] == {
        "anyOf": [{"$ref": "#/$defs/R"}, NULL],
        "description": "A reference.",
    }
    theirs = fit(schema, ANTHROPIC_RULES)
    assert anthropic_faults(theirs.schema) == []
    assert theirs.schema["required"] == ["must"]
    assert (theirs.optional, theirs.unions) == (5, 1)


def test_a_root_that_is_a_reference() -> None:
    """It is written in its place, and kept where something else refers to it."""
    node = an_object(next={"anyOf": [{"$ref": "#/$defs/N"}, NULL]})
    recursive = {"$ref": "#/$defs/N", "$defs": {"N": node, "Unused": {"type": "string"}}}
    fitted = fit(recursive, OPENAI_RULES)
    assert fitted.strict
    assert openai_faults(fitted.schema) == []
    assert set(fitted.schema["$defs"]) == {"N"}
    flat = {"allOf": [{"$ref": "#/$defs/F"}], "$defs": {"F": an_object(a={"type": "string"})}}
    assert "$defs" not in fit(flat, OPENAI_RULES).schema
    theirs = fit(recursive, ANTHROPIC_RULES)
    assert not theirs.strict
    assert "contains itself" in str(theirs.reason)
    assert theirs.schema["$defs"] == {"N": node}
    to_root = an_object(next={"anyOf": [{"$ref": "#"}, NULL]})
    assert fit(to_root, OPENAI_RULES).schema["properties"]["next"]["anyOf"][0] == {"$ref": "#"}
    assert not fit(to_root, ANTHROPIC_RULES).strict


@every(
    "schema, words",
    [
        ({}, "`$.a` may be anything"),
        (True, "`$.a` may be anything"),
        ({"type": "object"}, "`$.a` is an object with any names"),
        ({"type": "object", "properties": {}, "additionalProperties": True}, "further names"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "any names"),
        ({"type": "array"}, "`$.a[...]` may be anything"),
        ({"type": "array", "items": {}}, "`$.a[...]` may be anything"),
        ({"type": "array", "prefixItems": [{"type": "string"}, NULL]}, "prefixItems"),
        ({"not": {"type": "string"}}, "'not'"),
        ({"type": "object", "properties": {}, "patternProperties": {"a": {}}}, "patternProperties"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "several schemas at once"),
        ({"type": "string", "anyOf": [{"minLength": 1}]}, "several schemas at once"),
        ({"anyOf": []}, "fits no value"),
        ({"enum": [[1]]}, "not a plain one"),
        ({"type": "unknown"}, "may be anything"),
        (an_object(["z"], b={"type": "string"}), "requires a property that it does not describe"),
        (an_object(b={"type": "array", "items": {}}), "`$.a.b[...]`"),
    ],
)
def test_what_cannot_be_strict_says_why(schema: Any, words: str) -> None:
    """It is sent as it is, and strict=True is refused with the reason."""
    whole = an_object(a=schema)
    for rules in (OPENAI_RULES, ANTHROPIC_RULES):
        fitted = fit(whole, rules)
        assert not fitted.strict
        assert words in str(fitted.reason)
        with pytest.raises(ConfigurationError) as caught:
            fit(whole, rules, strict=True)
        assert words in str(caught.value)
        json.dumps(fitted.schema)


def test_a_schema_that_is_not_strict_is_as_it_was() -> None:
    """Constraints stay for OpenAI; for Anthropic they are words, and the shape stays."""
    inner = {"type": "array", "prefixItems": [{"type": "string", "minLength": 2}, NULL]}
    whole = an_object(["a"], a=inner, b={"type": "integer", "maximum": 5, "default": 1})
    for strict in (None, False):
        ours = fit(whole, OPENAI_RULES, strict=strict)
        expected = copy.deepcopy(whole)
        if strict is None:
            assert ours.reason != fit(whole, OPENAI_RULES, strict=False).reason
        expected["properties"]["a"]["items"] = {}  # OpenAI refuses an array without
        assert ours.schema == expected
    theirs = fit(whole, ANTHROPIC_RULES)
    assert theirs.described == ("maximum", "minLength")
    assert theirs.schema["properties"]["b"] == {
        "type": "integer",
        "default": 1,
        "description": "{maximum: 5}",
    }
    assert theirs.schema["properties"]["a"]["prefixItems"][0]["description"] == "{minLength: 2}"


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = an_object(a=schema)
    return schema


@every(
    "schema, words",
    [
        (an_object(**{f"p{n}": {"type": "string"} for n in range(5001)}), "5001 properties"),
        (nested(11), "11 objects and arrays inside each other"),
        (an_object(a={"enum": [*range(1001)]}), "1001 values of enums"),
        (an_object(a={"enum": ["x" * 60_001, "y" * 60_000]}), "120002 characters"),
        (an_object(a={"enum": [f"{n:061}" for n in range(251)]}), "an enum of more than 250"),
        (nested(150), "150 objects"),
    ],
)
def test_openais_limits(schema: Any, words: str) -> None:
    fitted = fit(schema, OPENAI_RULES)
    assert not fitted.strict
    assert words in str(fitted.reason)


@pytest.mark.parametrize("rules", [OPENAI_RULES, ANTHROPIC_RULES], ids=["openai", "anthropic"])
def test_a_schema_too_deep_for_python(rules: Any) -> None:
    with pytest.raises(ConfigurationError, match="too deep"):
        fit(nested(5000), rules)


@pytest.mark.slow
def test_what_is_just_within_the_limits() -> None:
    for schema in (
        an_object(**{f"p{n}": {"type": "string"} for n in range(5000)}),
        nested(10),
        an_object(a={"enum": [*range(1000)]}),
    ):
        fitted = fit(schema, OPENAI_RULES)
        assert fitted.strict, fitted.reason
        assert openai_faults(fitted.schema) == []


def test_anthropics_limits() -> None:
    """Of one schema; those of a request are in tests/tools/test_functions.py."""
    optional = an_object([], **{f"p{n}": {"type": "string"} for n in range(25)})
    assert "25 properties that may be left out" in str(fit(optional, ANTHROPIC_RULES).reason)
    union = {"anyOf": [{"type": "string"}, NULL]}
    unions = an_object(**{f"p{n}": union for n in range(17)})
    assert "17 unions" in str(fit(unions, ANTHROPIC_RULES).reason)
    assert fit(an_object(**{f"p{n}": union for n in range(16)}), ANTHROPIC_RULES).strict
    with pytest.raises(ConfigurationError, match="no property named 'a b'"):
        fit(an_object(**{"a b": {"type": "string"}}), ANTHROPIC_RULES)


@every(
    "schema",
    [
        {},
        {"type": "string"},
        {"type": "object"},
        {"$ref": "#/$defs/Nowhere"},
        {"$ref": "#"},
        {"$ref": 3},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
        {"anyOf": [an_object(), an_object()]},
        an_object(a={"$ref": "#/$defs/Nowhere"}),
    ],
)
def test_schemas_that_no_api_takes(schema: Any) -> None:
    for rules in (OPENAI_RULES, ANTHROPIC_RULES):
        with pytest.raises(ConfigurationError):
            fit(schema, rules)


# ---- schemas that nobody would write -----------------------------------------------------------

KEYWORDS = [
    *("type", "properties", "required", "additionalProperties", "items", "anyOf", "oneOf", "allOf"),
    *("enum", "const", "$ref", "$defs", "description", "default", "title", "minimum", "maxLength"),
    *("pattern", "format", "minItems", "prefixItems", "uniqueItems", "not", "patternProperties"),
    *("propertyNames", "definitions", "if", "discriminator", "contentEncoding", "x"),
]
REFERENCES = ["#/$defs/A", "#/$defs/B", "#", "x", 3, "#/definitions/A"]


def odd_value(chance: random.Random, depth: int) -> Any:
    kind = chance.random()
    if depth <= 0 or kind < 0.35:
        plain = [None, True, False, 1, 2.5, "string", "object", "null", "#/$defs/A", "#", [], {}]
        return chance.choice(plain)
    if kind < 0.55:
        return [odd_value(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    return odd_schema(chance, depth - 1)


def odd_schema(chance: random.Random, depth: int) -> dict[str, Any]:
    """A schema of which some parts are none."""
    schema: dict[str, Any] = {}
    kinds = ["string", "object", "array", "integer", "null", ["string", "null"], ["integer"], []]
    if chance.random() < 0.9:
        schema["type"] = chance.choice(kinds)
    for name in chance.sample(KEYWORDS, chance.choice([0, 0, 1, 1, 2, 4])):
        if chance.random() < 0.03 or depth <= 0:
            schema[name] = odd_value(chance, 1)
        elif name in ("properties", "$defs", "patternProperties"):
            names = chance.sample(["a", "b", "A", "B"], chance.randint(0, 3))
            schema[name] = {one: odd_schema(chance, depth - 1) for one in names}
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems"):
            schema[name] = [odd_schema(chance, depth - 1) for _ in range(chance.randint(0, 3))]
        elif name in ("items", "additionalProperties", "not", "if"):
            schema[name] = odd_schema(chance, depth - 1)
        elif name == "$ref":
            schema[name] = chance.choice(REFERENCES)
        elif name == "required":
            schema[name] = chance.sample(["a", "b", "z"], chance.randint(0, 3))
        else:
            schema[name] = odd_value(chance, 1)
    return schema


@pytest.mark.slow
def test_any_schema_is_written_or_refused() -> None:
    """By the rules, or with a ConfigurationError."""
    outcomes: Counter[Any] = Counter()
    for seed in range(4000):
        chance = random.Random(seed)
        schema = odd_schema(chance, 3)
        if chance.random() < 0.8:
            parts = {"a": odd_schema(chance, 2), "b": odd_schema(chance, 2)}
            schema = {**schema, "type": "object", "properties": parts}
        if chance.random() < 0.6:
            schema["$defs"] = {"A": odd_schema(chance, 2), "B": odd_schema(chance, 2)}
        for rules, faults in (
            (OPENAI_RULES, openai_faults),
            (ANTHROPIC_RULES, anthropic_faults),
        ):
            try:
                fitted = fit(schema, rules)
            except ConfigurationError:
                outcomes["refused"] += 1
                continue
            outcomes[fitted.strict] += 1
            json.dumps(fitted.schema)
            assert not fitted.strict or faults(fitted.schema) == [], seed
    assert min(outcomes[one] for one in ("refused", True, False)) > 100


@every(
    "schema, words",
    [
        ([], "`$`"),
        (an_object(a=3), "`$.properties.a` is no object"),
        (an_object(a={"anyOf": {}}), "`$.properties.a.anyOf`"),
        (an_object(a={"anyOf": [3]}), "`$.properties.a.anyOf[0]`"),
        (an_object(a={"enum": "x"}), "`$.properties.a.enum`"),
        (an_object(a={"type": 3}), "`$.properties.a.type`"),
        (an_object(a={"$ref": 3}), "`$.properties.a.$ref`"),
        ({**an_object(), "$defs": []}, "`$.$defs`"),
        ({**an_object(), "required": "a"}, "`$.required`"),
    ],
)
def test_what_is_no_schema_says_where(schema: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fit(schema, OPENAI_RULES)
    assert words in str(caught.value)


def test_what_is_an_object() -> None:
    assert is_object(an_object())
    assert is_object({"$ref": "#/$defs/A", "$defs": {"A": an_object()}})
    assert not is_object({"type": "object", "additionalProperties": {}})
    assert not is_object({"anyOf": [an_object(), NULL]})


@every(
    "schema, value, meant",
    [
        (an_object([], a={"type": "string"}), {"a": None}, {}),
        (an_object(a={"type": "string"}), {"a": None}, None),
        (an_object([], a={"anyOf": [{"type": "string"}, NULL]}), {"a": None}, None),
        (an_object([], a={"type": ["string", "null"]}), {"a": None}, None),
        (an_object([], a={}), {"a": None}, None),
        (an_object([], a={"enum": ["x", None]}), {"a": None}, None),
        (an_object([], a={"const": "x"}), {"a": None}, {}),
        (an_object([], a={"type": "string"}), {"b": None}, None),
        ({"type": "array", "items": an_object([], a={"type": "string"})}, [{"a": None}], [{}]),
        (an_object(a={"type": "integer"}), {"a": 2.0}, {"a": 2}),
        (an_object(a={"type": "integer"}), {"a": 2.5}, None),
        (an_object(a={"type": "number"}), {"a": 2.0}, None),
        (an_object(a={}), {"a": 2.0}, None),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"k": 1.0}, {"k": 1}),
    ],
)
def test_values_as_they_were_meant(schema: Any, value: Any, meant: Any) -> None:
    """None: there is nothing to mend, and the very value is returned."""
    found = mended(value, schema)
    if meant is None:
        assert found is value
    else:
        assert json.dumps(found) == json.dumps(meant)


def test_mending_takes_time_in_proportion() -> None:
    """A value deep inside of a union that contains itself, each of whose parts may be the one."""
    either = {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}
    part = an_object([], next=either, x={"type": "integer"})
    schema = {**either, "$defs": {"A": part, "B": part}}
    value: Any = {"x": None}
    for _ in range(100):
        value = {"next": value, "x": None}
    assert cpu_seconds(lambda: mended(value, schema)) < 2
    assert "null" not in json.dumps(mended(value, schema))


def test_fitting_takes_time_in_proportion() -> None:
    """Each definition is written once, however often it is referred to."""
    definitions = {
        f"D{n}": an_object(a={"$ref": f"#/$defs/D{n + 1}"}, b={"$ref": f"#/$defs/D{n + 1}"})
        for n in range(60)
    }
    definitions["D60"] = {"type": "string"}
    schema = {**an_object(a={"$ref": "#/$defs/D0"}), "$defs": definitions}
    for rules in (OPENAI_RULES, ANTHROPIC_RULES):
        assert cpu_seconds(partial(fit, schema, rules)) < 2
