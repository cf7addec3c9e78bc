"""Types by seed, each in several flavours (msgspec Struct, dataclass, TypedDict, a model of
pydantic), and JSON values by schema. For the tests of schemas; nothing here knows how they are
made."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import random
import string
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Optional, Union

import msgspec
from typing_extensions import NotRequired, TypedDict

NOTHING = object()  # no default
PATTERNS = {"^[a-z]{2,4}$": ("ab", "xyz", "qqqq"), "^#[0-9a-f]{6}$": ("#00ff7f", "#123456")}
FORMATS: dict[str, tuple[str, ...]] = {
    "date-time": ("2026-11-26T10:00:00Z", "2025-01-01T23:59:59.5+02:00"),
    "date": ("2026-11-26", "1999-12-31"),
    "time": ("10:00:00Z", "23:59:59+01:00"),
    "duration": ("PT1H", "P3D", "PT30S"),
    "uuid": ("12345678-1234-5678-1234-567812345678",),
    "decimal": ("1.50", "-3", "1000"),
}


class Made(typing.NamedTuple):
    """A type, what can hold it, and what is in it."""

    type: Any
    traits: frozenset[str]


class Generator:
    """Makes types from a seed. `flavour` is what its objects are: "struct", "dataclass",
    "typeddict", "pydantic" or "mixed" (the first three)."""

    def __init__(self, seed: int, flavour: str) -> None:
        self.random = random.Random(seed)
        self._flavour = flavour
        self._number = 0
        self._traits: set[str] = set()

    def root(self) -> Made:
        """A type whose JSON is an object."""
        made = self._recursive() if self.random.random() < 0.15 else self._object(3, json=True)
        return Made(made, frozenset(self._traits))

    def any(self) -> Made:
        made = self._type(3)
        return Made(made, frozenset(self._traits))

    def _type(self, depth: int) -> Any:
        simple = [
            *(self._int, self._float, self._str, self._bool, self._enum, self._literal),
            *(self._format, self._bytes),
        ]
        deep = [self._list, self._object, self._object, self._optional, self._union, self._tuple]
        deep += [self._list, self._object, self._optional, self._dict, self._set, self._any]
        if depth <= 0 or self.random.random() < 0.45:
            return self.random.choice(simple)()
        return self.random.choice(deep)(depth - 1)

    def _said(self, trait: str, type: Any) -> Any:
        self._traits.add(trait)
        return type

    # -- scalars

    def _meta(self, type: Any, **limits: Any) -> Any:
        """`type` with limits, as msgspec or pydantic writes them."""
        if self.random.random() < 0.5:
            return type
        self._traits.add("limits")
        if self._flavour == "pydantic":
            from pydantic import Field

            return Annotated[type, Field(description="Some words.", **limits)]
        return Annotated[type, msgspec.Meta(description="Some words.", **limits)]

    def _int(self) -> Any:
        low = self.random.randint(-5, 5)
        return self._meta(int, ge=low, le=low + self.random.randint(0, 9))

    def _float(self) -> Any:
        return self._meta(float, gt=-1.0, lt=7.5)

    def _str(self) -> Any:
        if self.random.random() < 0.3:
            return self._meta(str, pattern=self.random.choice([*PATTERNS]))
        low = self.random.randint(0, 3)
        return self._meta(str, min_length=low, max_length=low + self.random.randint(1, 9))

    def _bool(self) -> Any:
        return bool

    def _name(self) -> str:
        self._number += 1
        return f"T{self._number}"

    def _enum(self) -> Any:
        values: Any = self.random.choice([("a", "b", "c"), (1, 2, 3), ("only",)])
        return enum.Enum(self._name(), {f"m{n}": value for n, value in enumerate(values)})

    def _literal(self) -> Any:
        return self.random.choice(
            [Literal["x"], Literal["x", "y"], Literal[1, 2], Literal["x", None], Literal["x", 1]]
        )

    def _format(self) -> Any:
        known: list[Any] = [
            datetime.datetime,
            datetime.date,
            datetime.time,
            datetime.timedelta,
            uuid.UUID,
        ]
        if self._flavour != "pydantic":  # whose own schema does not say what the string is
            known.append(decimal.Decimal)
        return self._said("format", self.random.choice(known))

    def _bytes(self) -> Any:
        return self._said("bytes", bytes)

    # -- containers

    def _list(self, depth: int) -> Any:
        inner = list[self._type(depth)]  # type: ignore[misc]
        return (
            self._meta(inner, min_length=1, max_length=3) if self.random.random() < 0.5 else inner
        )

    def _set(self, depth: int) -> Any:
        return self._said("set", set[self.random.choice([int, str])])  # type: ignore[misc]

    def _dict(self, depth: int) -> Any:
        # pydantic's own schema does not say that a key has to be a number.
        key = self.random.choice([str, str, str if self._flavour == "pydantic" else int])
        return self._said("dict", dict[key, self._type(depth)])  # type: ignore[misc,valid-type]

    def _tuple(self, depth: int) -> Any:
        kind = self.random.random()
        if kind < 0.4:
            return tuple[int, int]
        if kind < 0.6:
            return tuple[self._type(depth), ...]  # type: ignore[misc]
        return self._said("tuple", tuple[int, self._type(depth)])  # type: ignore[misc]

    def _any(self, depth: int) -> Any:
        return self._said("any", Any)

    def _optional(self, depth: int) -> Any:
        return Optional[self._type(depth)]  # noqa: UP045 - made at run time

    def _union(self, depth: int) -> Any:
        if self._flavour in ("struct", "mixed") and self.random.random() < 0.5:
            tagged = [self._struct(depth, tag=True) for _ in range(self.random.randint(2, 3))]
            return Union[tuple(tagged)]  # noqa: UP007
        parts: list[Any] = [self.random.choice([int, float, bool]), str]
        if self.random.random() < 0.5:
            parts.append(list[int])
        if self.random.random() < 0.5:
            parts.append(self._object(depth, json=True))
        if self.random.random() < 0.5:
            parts.append(None)
        self.random.shuffle(parts)
        return Union[tuple(parts)]  # noqa: UP007

    # -- objects

    def _object(self, depth: int, json: bool = False) -> Any:
        """A class; with `json` one whose values are objects in JSON too."""
        flavour = self._flavour
        if flavour == "mixed":
            known = ["struct", "dataclass", "typeddict", *([] if json else ["namedtuple"])]
            flavour = self.random.choice(known)
        makers: dict[str, Callable[[int], Any]] = {
            "struct": self._struct,
            "dataclass": self._dataclass,
            "typeddict": self._typeddict,
            "pydantic": self._pydantic,
            "namedtuple": self._namedtuple,
        }
        return makers[flavour](depth)

    def _fields(self, depth: int) -> list[tuple[str, Any, Any]]:
        """Names, types and defaults; those with a default last."""
        names = self.random.sample(["a", "b_c", "from_date", "x1", "Y", "zz"], 4)
        fields = []
        for name in names[: self.random.randint(1, 4)]:
            type = self._type(depth)
            fields.append((name, type, NOTHING))
        for name, type, default in (("opt", int, 3), ("maybe", Optional[str], None)):  # noqa: UP045
            if self.random.random() < 0.4:
                fields.append((name, type, default))
        return fields

    def _struct(self, depth: int, tag: Any = None) -> Any:
        fields = [
            (name, type) if default is NOTHING else (name, type, default)
            for name, type, default in self._fields(depth)
        ]
        rename = self.random.choice([None, None, "camel"])
        closed = self.random.random() < 0.3
        return msgspec.defstruct(
            self._name(), fields, tag=tag, rename=rename, forbid_unknown_fields=closed
        )

    def _dataclass(self, depth: int) -> Any:
        fields: list[Any] = [
            (name, type) if default is NOTHING else (name, type, dataclasses.field(default=default))
            for name, type, default in self._fields(depth)
        ]
        return dataclasses.make_dataclass(self._name(), fields)

    def _typeddict(self, depth: int) -> Any:
        fields = {
            name: type if default is NOTHING else NotRequired[type]
            for name, type, default in self._fields(depth)
        }
        return TypedDict(self._name(), fields)  # type: ignore[operator]

    def _namedtuple(self, depth: int) -> Any:
        fields = [("number", int), ("word", str)]
        fields += [(name, type) for name, type, _ in self._fields(depth)]
        return self._said("tuple", typing.NamedTuple(self._name(), fields))

    def _pydantic(self, depth: int) -> Any:
        from pydantic import create_model

        fields: dict[str, Any] = {
            name: (type, ... if default is NOTHING else default)
            for name, type, default in self._fields(depth)
        }
        return create_model(self._name(), **fields)

    def _recursive(self) -> Any:
        self._traits.add("recursion")
        if self._flavour == "pydantic":
            return PydanticTree()
        if self._flavour == "dataclass":
            return DataTree
        return Tree


class Tree(msgspec.Struct):
    """A tree."""

    value: int
    children: list[Tree] = []
    parent: Tree | None = None


@dataclasses.dataclass
class DataTree:
    value: int
    left: DataTree | None = None


def PydanticTree() -> Any:  # noqa: N802 - a class that is made where pydantic is there
    from pydantic import BaseModel

    class Branch(BaseModel):
        value: int
        branches: list[Branch] = []

    Branch.model_rebuild(_types_namespace={"Branch": Branch})
    return Branch


# ---- values ------------------------------------------------------------------------------------


class Values:
    """JSON values that fit a schema, by seed."""

    def __init__(self, schema: Mapping[str, Any], seed: int) -> None:
        self._schema = schema
        self._random = random.Random(seed)

    def one(self) -> Any:
        return self._value(self._schema, 0)

    def _value(self, schema: Any, depth: int) -> Any:
        if schema is True or not schema.keys() - {"description", "title", "default"}:
            return self._random.choice([None, 1, "anything", [1, {"a": None}], {"b": []}])
        if "$ref" in schema:
            target: Any = self._schema
            for step in schema["$ref"].split("/")[1:]:
                target = target[step]
            return self._value(target, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        for name in ("anyOf", "oneOf"):
            if name in schema:
                branches = sorted(schema[name], key=lambda one: one != {"type": "null"})
                # Deep inside the first that ends.
                return self._value(
                    branches[0] if depth > 5 else self._random.choice(branches), depth
                )
        kind = schema.get("type")
        write: Callable[[Any, int], Any] = {
            "null": lambda schema, depth: None,
            "boolean": lambda schema, depth: self._random.random() < 0.5,
            "integer": self._number,
            "number": self._number,
            "string": self._string,
            "array": self._array,
            "object": self._object,
        }[kind]
        return write(schema, depth)

    def _number(self, schema: Any, depth: int) -> Any:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -10))
        high = schema.get("maximum", schema.get("exclusiveMaximum", 10))
        if schema["type"] == "integer":
            return self._random.randint(int(low), int(high))
        return round(low + (high - low) * (0.1 + 0.8 * self._random.random()), 3)

    def _string(self, schema: Any, depth: int) -> str:
        if "pattern" in schema and schema["pattern"] in PATTERNS:
            return self._random.choice(PATTERNS[schema["pattern"]])
        if schema.get("contentEncoding") == "base64" or schema.get("format") in (
            "binary",
            "base64",
        ):
            return base64.b64encode(self._random.randbytes(self._random.randint(0, 6))).decode()
        if schema.get("format") in FORMATS:
            return self._random.choice(FORMATS[schema["format"]])
        if "pattern" in schema:
            return "1.5"  # pydantic's for a Decimal
        low = schema.get("minLength", 0)
        size = self._random.randint(low, schema.get("maxLength", low + 5))
        return "".join(self._random.choice(string.ascii_letters + 'é\n"') for _ in range(size))

    def _array(self, schema: Any, depth: int) -> list[Any]:
        first = schema.get("prefixItems", [])
        low = schema.get("minItems", 0)
        high = schema.get("maxItems", max(low, len(first), 0 if depth > 4 else 3))
        size = self._random.randint(low, high)
        items = schema.get("items", True)
        found: list[Any] = []
        for number in range(size):
            one = self._value(first[number] if number < len(first) else items, depth + 1)
            if not (schema.get("uniqueItems") and one in found):
                found.append(one)
        return found

    def _object(self, schema: Any, depth: int) -> dict[str, Any]:
        found = {}
        for name, inner in schema.get("properties", {}).items():
            is_short = depth <= 4 and self._random.random() < 0.7
            if name in schema.get("required", ()) or is_short:
                found[name] = self._value(inner, depth + 1)
        more = schema.get("additionalProperties", False)
        if more is not False and "properties" not in schema:
            names = ["1", "2"] if "propertyNames" in schema else ["p", "q r"]
            for name in names[: self._random.randint(0, 2)]:
                found[name] = self._value(more, depth + 1)
        return found
