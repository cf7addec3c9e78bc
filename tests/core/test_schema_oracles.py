"""The vendors' own transforms as oracles: what the packages of OpenAI and Anthropic make of two
hundred generated types, and what is made of them here, accept the same values."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import pytest
from every import every
from jsonschema import Draft202012Validator
from schema_rules import openai_faults
from typegen import Generator, Values

from llmstream._core.dialects.declared import OPENAI_RULES
from llmstream._core.dialects.messages import MESSAGES
from llmstream._core.schema import Fitted, fit, mended
from llmstream._core.typeform import TypeForm

# Not imported here: that takes a second, in suites too that run none of it.
PACKAGES = [importlib.util.find_spec(name) for name in ("openai", "anthropic")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(None in PACKAGES, reason="the packages of the extra `clients` are absent"),
]

SEEDS = range(200)
OTHERS = [(flavour, seed) for seed in range(40) for flavour in ("struct", "dataclass", "mixed")]
VALUES = 6


def pydantic_type(seed: int) -> Any:
    return Generator(seed, "pydantic").root().type


def ours(schema: Mapping[str, Any], vendor: str) -> Fitted:
    rules = OPENAI_RULES if vendor == "openai" else MESSAGES.schema_rules
    return fit(copy.deepcopy(dict(schema)), rules)


def openai_of(type: Any) -> dict[str, Any]:
    transform = import_module("openai.lib._pydantic").to_strict_json_schema
    found: dict[str, Any] = transform(type)
    return found


def anthropic_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    transform = import_module("anthropic.lib._parse._transform").transform_schema
    found: dict[str, Any] = transform(copy.deepcopy(dict(schema)))
    return found


def check_values(source: Mapping[str, Any], seed: int, check: Callable[[Any], None]) -> None:
    values = Values(source, seed)
    for _ in range(VALUES):
        check(values.one())


def faults(value: Any, schema: Mapping[str, Any]) -> list[str]:
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


def without_words(schema: Any) -> Any:
    """A schema without descriptions, and without the types beside values: Anthropic's package
    leaves them out."""
    if isinstance(schema, list):
        return [without_words(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_words(value)
        for key, value in schema.items()
        if not (key == "description" and isinstance(value, str))
        and not (key == "type" and "enum" in schema)
    }


@every("seed", SEEDS)
def test_openai_transforms_nothing_more(seed: int) -> None:
    """OpenAI's package finds nothing to change in what is strict here, and its values are values
    here: it has the same properties, all of them required."""
    module = import_module("openai.lib._pydantic")
    type = pydantic_type(seed)
    form = TypeForm.of(type)
    fitted = ours(form.schema, "openai")
    if not fitted.strict:
        return
    again = copy.deepcopy(fitted.schema)
    module._ensure_strict_json_schema(again, path=(), root=again)
    assert again == fitted.schema

    theirs = openai_of(type)

    def accepted_here(value: Any) -> None:
        assert faults(value, fitted.schema) == [], value
        form.decode(json.dumps(value))

    check_values(theirs, seed, accepted_here)

    def accepted_there(value: Any) -> None:
        # null stands for what was left out, which their models do not take where a field has a
        # default; what becomes words here is theirs to refuse.
        left = mended(value, form.schema)
        if left is value and set(fitted.described) <= {"default"}:
            assert faults(value, theirs) == [], value

    check_values(fitted.schema, seed, accepted_there)


@every("seed", SEEDS)
def test_openais_own_schemas_are_not_always_by_its_rules(seed: int) -> None:
    """Where its package's schema follows the documented rules, so does ours: it is strict."""
    type = pydantic_type(seed)
    theirs = openai_of(type)
    if openai_faults(without_titles(theirs)) == []:
        assert ours(TypeForm.of(type).schema, "openai").strict


def without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [without_titles(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_titles(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def check_anthropic(schema: Mapping[str, Any], seed: int) -> None:
    fitted = ours(schema, "anthropic")
    if not fitted.strict:
        return
    again = anthropic_of(fitted.schema)
    assert without_words(again) == without_words(fitted.schema), "it finds something to change"
    if "prefixItems" in json.dumps(schema):
        return  # of a tuple it forgets what its items are
    theirs = anthropic_of(rooted(schema))

    def same(value: Any) -> None:
        assert faults(value, fitted.schema) == [] == faults(value, theirs), value

    check_values(fitted.schema, seed, same)
    check_values(theirs, seed, same)


def rooted(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema whose root is no reference: with one, the values of both would not be found."""
    if "$ref" not in schema:
        return dict(schema)
    definitions = schema["$defs"]
    return {**definitions[schema["$ref"].rpartition("/")[2]], "$defs": definitions}


@every("seed", SEEDS)
def test_anthropic_transforms_nothing_more(seed: int) -> None:
    """Anthropic's package finds nothing to change in what is strict here, and makes a schema of the
    same values of what pydantic says of the type."""
    check_anthropic(TypeForm.of(pydantic_type(seed)).schema, seed)


@every("flavour, seed", OTHERS)
def test_anthropic_transforms_our_own_types(flavour: str, seed: int) -> None:
    """The same of types that its package does not know."""
    check_anthropic(TypeForm.of(Generator(seed, flavour).root().type).schema, seed)
