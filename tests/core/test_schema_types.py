"""Two hundred generated types: what is sent of each follows the vendors' rules, values that fit the
schema decode to the type, and values of the type fit the schema."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from every import every
from jsonschema import Draft202012Validator
from schema_rules import anthropic_faults, openai_faults
from typegen import Generator, Made, Values

from llmstream._core.dialects.declared import OPENAI_RULES
from llmstream._core.dialects.messages import MESSAGES
from llmstream._core.schema import Fitted, SchemaRules, fit
from llmstream._core.typeform import TypeForm

ANTHROPIC_RULES = MESSAGES.schema_rules
FAULTS = {"openai": openai_faults, "anthropic": anthropic_faults}
RULES = {"openai": OPENAI_RULES, "anthropic": ANTHROPIC_RULES}
FLAVOURS = ("struct", "dataclass", "typeddict", "mixed", "pydantic")
SEEDS = [(flavour, seed) for seed in range(40) for flavour in FLAVOURS]  # 200 types
VALUES = 5  # of each schema


@cache
def made(flavour: str, seed: int) -> tuple[Made, TypeForm[Any]]:
    type = Generator(seed, flavour).root()
    return type, TypeForm.of(type.type)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    return Draft202012Validator(schema).is_valid(value)


@pytest.mark.slow
@every("flavour, seed", SEEDS)
def test_what_is_sent_follows_the_rules(flavour: str, seed: int) -> None:
    """By the checks that know only the vendors' documentation; and what is not strict is as the
    type has it: nothing is lost."""
    _, form = made(flavour, seed)
    before = copy.deepcopy(form.schema)
    for vendor, rules in RULES.items():
        fitted = fit(form.schema, rules)
        if fitted.strict:
            assert FAULTS[vendor](fitted.schema) == [], vendor
            assert fitted.reason is None
        else:
            assert fitted.reason
        Draft202012Validator.check_schema(fitted.schema)
    assert form.schema == before, "the schema of the type was changed"


def strict_anyway(traits: frozenset[str], rules: SchemaRules) -> bool | None:
    """Whether a type with these traits can be strict; None where its size decides."""
    if traits & {"dict", "any", "tuple"}:
        return False
    if "recursion" in traits and not rules.recursion:
        return False
    return None if rules.unions is not None else True


@pytest.mark.slow
@every("flavour, seed", SEEDS)
def test_strict_where_it_can_be(flavour: str, seed: int) -> None:
    """Dicts, Any, tuples of several types, and where the API refuses it recursion: nothing else
    keeps a schema from being strict."""
    type, form = made(flavour, seed)
    for rules in RULES.values():
        expected = strict_anyway(type.traits, rules)
        fitted = fit(form.schema, rules)
        if expected is not None:
            assert fitted.strict is expected, (type.traits, fitted.reason)
        elif not fitted.strict:
            assert "are the most" in str(fitted.reason), fitted.reason


@pytest.mark.slow
@every("flavour, seed", SEEDS)
def test_a_value_that_fits_decodes(flavour: str, seed: int) -> None:
    """What fits the schema of the type is a value of the type, what fits the schema that is sent is
    one unless a constraint has become words; and what the type writes fits all of them."""
    _, form = made(flavour, seed)
    all_fitted = [fit(form.schema, rules) for rules in RULES.values()]
    schemas = [form.schema]
    for fitted in all_fitted:
        if set(fitted.described) <= {"default", "uniqueItems"}:
            schemas.append(fitted.schema)
    for schema in schemas:
        values = Values(schema, seed)
        for _ in range(VALUES):
            value = values.one()
            assert fits(value, schema), "the generator of values is wrong"
            decoded = form.decode(json.dumps(value))
            written = json.loads(form.encode(decoded))
            assert form.decode(json.dumps(written)) == decoded
            assert fits(written, form.schema), (written, form.schema)
            for fitted in all_fitted:
                check_written(written, fitted)


def check_written(written: Any, fitted: Fitted) -> None:
    """A value of the type fits the schema that is sent, once what was left out is null."""
    schema = fitted.schema
    value = with_nulls(written, schema, schema) if fitted.strict else written
    errors = [error.message for error in Draft202012Validator(schema).iter_errors(value)]
    assert not errors, (errors, value, schema)


def with_nulls(value: Any, schema: Any, root: Any) -> Any:
    """`value` with null for each property that is required and is not there."""
    if "$ref" in schema:
        return with_nulls(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        for branch in schema["anyOf"]:
            filled = with_nulls(value, branch, root)
            if fits(filled, {**branch, "$defs": root.get("$defs", {})}):
                return filled
    if isinstance(value, dict) and schema.get("type") == "object":
        names = [*value, *(name for name in schema["required"] if name not in value)]
        properties = schema["properties"]
        return {
            name: with_nulls(value.get(name), properties[name], root)
            if name in properties
            else None
            for name in names
        }
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [with_nulls(one, schema["items"], root) for one in value]
    return value


@pytest.mark.parametrize("vendor", RULES)
def test_there_are_enough_of_each(vendor: str) -> None:
    """The generated types are not all of one kind."""
    strict = [fit(made(f, s)[1].schema, RULES[vendor]).strict for f, s in SEEDS]
    assert len(strict) >= 200
    assert strict.count(True) > 50
    assert strict.count(False) > 50
