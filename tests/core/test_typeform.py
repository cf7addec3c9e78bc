"""A Python type as JSON: the schema that is written for it, and values from JSON and to JSON."""

from __future__ import annotations

import datetime
import decimal
import enum
import pickle
import typing
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Optional

import msgspec
import pydantic
import pytest
from every import every
from msgspec import Meta, Struct

from llmstream._core.typeform import Misfit, TypeForm
from llmstream.errors import ConfigurationError


class Colour(enum.Enum):
    """A colour."""

    RED = "red"
    GREEN = "green"


class Cat(Struct, tag=True):
    lives: int = 9


class Dog(Struct, tag="dog", tag_field="type"):
    name: str


class Fish(Struct, tag="fish", tag_field="type"):
    wet: bool = True


class Node(Struct):
    """A node of a tree."""

    value: Annotated[int, Meta(ge=1, description="what it holds")]
    children: list[Node] = []


@dataclass
class Point:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)


@dataclass
class Trip:
    start: Point
    colour: Colour = Colour.RED
    when: datetime.datetime | None = None


class Pair(NamedTuple):
    left: int
    right: str


class Box(typing.TypedDict, total=False):
    size: typing.Required[int] if hasattr(typing, "Required") else int  # type: ignore[valid-type]
    label: str


class Model(pydantic.BaseModel):
    a: int = pydantic.Field(gt=0, alias="theA")
    b: Literal["x", "y"] = "x"
    child: Optional[Model] = None  # noqa: UP045


class WithModel(Struct):
    model: Model
    more: int = 1


@pydantic.dataclasses.dataclass
class Checked:
    a: Annotated[int, pydantic.Field(gt=0)]


NULL = {"type": "null"}


@every(
    "type, schema",
    [
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (str, {"type": "string"}),
        (None, NULL),
        (Any, {}),
        (bytes, {"type": "string", "contentEncoding": "base64"}),
        (datetime.datetime, {"type": "string", "format": "date-time"}),
        (datetime.date, {"type": "string", "format": "date"}),
        (datetime.time, {"type": "string", "format": "time"}),
        (datetime.timedelta, {"type": "string", "format": "duration"}),
        (uuid.UUID, {"type": "string", "format": "uuid"}),
        (decimal.Decimal, {"type": "string", "format": "decimal"}),
        (Literal["b", "a"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"enum": [1, "a"]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (list, {"type": "array", "items": {}}),
        (set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict, {"type": "object", "additionalProperties": {}}),
        (
            dict[int, str],
            {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "propertyNames": {"pattern": r"^-?\d+$"},
            },
        ),
        (Optional[int], {"anyOf": [{"type": "integer"}, NULL]}),  # noqa: UP045
        (typing.Union[None, str], {"anyOf": [{"type": "string"}, NULL]}),  # noqa: UP007
        (
            tuple[int, str],
            {
                "type": "array",
                "minItems": 2,
                "maxItems": 2,
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "items": {},
            },
        ),
        (
            Annotated[str, Meta(min_length=1, max_length=3, pattern="^a", description="words")],
            {
                "type": "string",
                "minLength": 1,
                "maxLength": 3,
                "pattern": "^a",
                "description": "words",
            },
        ),
        (
            Annotated[float, Meta(gt=0, lt=1, multiple_of=0.1)],
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "multipleOf": 0.1},
        ),
        (
            Annotated[bytes, Meta(max_length=4)],
            {"type": "string", "contentEncoding": "base64", "maxLength": 8},
        ),
    ],
)
def test_schemas(type: Any, schema: dict[str, Any]) -> None:
    """What each type is in JSON Schema. A null comes last in a union, wherever Python has it."""
    assert TypeForm.of(type).schema == schema


def test_the_schema_of_classes() -> None:
    """Each class once, by name; its own docstring; defaults where JSON has them, the others not."""
    schema = TypeForm.of(Trip).schema
    assert schema["$ref"] == "#/$defs/Trip"
    assert schema["$defs"]["Point"] == {
        "type": "object",
        "properties": {
            "x": {"type": "integer"},
            "y": {"type": "integer", "default": 2},
            "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        },
        "required": ["x"],
    }
    assert schema["$defs"]["Colour"] == {
        "description": "A colour.",
        "type": "string",
        "enum": ["red", "green"],
    }
    trip = schema["$defs"]["Trip"]["properties"]
    assert trip["colour"] == {"$ref": "#/$defs/Colour", "default": "red"}
    assert trip["when"]["anyOf"] == [{"type": "string", "format": "date-time"}, NULL]


def test_a_default_that_json_lacks_is_left_out() -> None:
    """msgspec's own schema raises for it."""

    class Odd(Struct):
        one: Any = object()
        two: float = float("nan")

    properties = TypeForm.of(Odd).schema["$defs"]["Odd"]["properties"]
    assert properties == {"one": {}, "two": {"type": "number"}}


def test_recursion_and_tags() -> None:
    """A class that contains itself, and the tag of a Struct."""
    schema = TypeForm.of(Node).schema
    node = schema["$defs"]["Node"]
    assert node["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert node["description"] == "A node of a tree."
    union = TypeForm.of(Dog | Fish)
    assert union.schema["$defs"]["Dog"]["properties"]["type"] == {"type": "string", "enum": ["dog"]}
    assert union.schema["$defs"]["Dog"]["required"] == ["type", "name"]
    assert union.decode('{"type":"fish","wet":null}') == Fish()
    assert union.decode(union.encode(Dog("Rex"))) == Dog("Rex")


def test_two_classes_of_one_name() -> None:
    """They are two definitions, also in the schemas of several types."""
    other: Any = msgspec.defstruct("Point", [("z", str)])
    forms = TypeForm.of_each([Point, other, list[Point]])
    names = [set(form.schema["$defs"]) for form in forms]
    assert names == [{"Point"}, {"Point_2"}, {"Point"}]
    assert forms[1].decode('{"z":"a"}').z == "a"


@every(
    "type, text, value",
    [
        (Node, '{"value":1,"children":[{"value":2}]}', Node(1, [Node(2)])),
        (Point, '{"x":1}', Point(1)),
        (Pair, '[1,"a"]', Pair(1, "a")),
        (Box, '{"size":1}', {"size": 1}),
        (Trip, '{"start":{"x":1},"colour":"green"}', Trip(Point(1), Colour.GREEN)),
        (Cat, '{"type":"Cat"}', Cat()),
        (set[int], "[1,1,2]", {1, 2}),
        (bytes, '"AAE="', b"\x00\x01"),
        (Model, '{"theA":1}', Model(theA=1)),
        (list[Model], '[{"theA":1,"b":"y"}]', [Model(theA=1, b="y")]),
        (Model | None, "null", None),
        (Checked, '{"a":1}', Checked(1)),
        (WithModel, '{"model":{"theA":1}}', WithModel(Model(theA=1))),
    ],
)
def test_values_go_there_and_back(type: Any, text: str, value: Any) -> None:
    form = TypeForm.of(type)
    found = form.decode(text)
    if isinstance(value, (Point, Trip)):
        assert str(found) == str(value)
    else:
        assert found == value
        assert form.decode(form.encode(found)) == value
    assert str(form.decode(text.encode())) == str(found)
    assert str(pickle.loads(pickle.dumps(form)).decode(text)) == str(found)


@every(
    "type, text, words",
    [
        (Node, '{"value":0}', "Expected `int` >= 1 - at `$.value`"),
        (
            Node,
            '{"value":1,"children":[{}]}',
            "missing required field `value` - at `$.children[0]`",
        ),
        (int, '"1"', "Expected `int`, got `str`"),
        (int, "1" + "0" * 5000, "out of range"),
        (Colour, '"blue"', "Invalid enum value 'blue'"),
        (Dog | Fish, '{"type":"cow"}', "Invalid value 'cow' - at `$.type`"),
        (int, "", "JSON is malformed: Input data was truncated"),
        (int, "1 x", "JSON is malformed: trailing characters"),
        (float, "NaN", "JSON is malformed"),
        (str, b'"\xff"', "not UTF-8"),
        (Any, "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (Model, '{"theA":0,"b":"z"}', "greater than 0 - at `$.theA`; Input should be 'x' or 'y'"),
        (Model, '{"theA":1', "JSON is malformed"),
        (Model, '{"theA":1,"child":{"theA":"q"}}', "at `$.child.theA`"),
        (WithModel, '{"model":{"theA":0}}', "Input should be greater than 0 - at `$.model.theA`"),
        (list[Checked], '[{"a":0}]', "greater than 0 - at `$[0].a`"),
    ],
)
def test_what_does_not_fit_says_where(type: Any, text: str | bytes, words: str) -> None:
    """A ValueError with the place, that can be sent to a model; never what was not JSON at all."""
    with pytest.raises(Misfit) as caught:
        TypeForm.of(type).decode(text)
    assert words in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "http" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_faults_of_a_model_are_counted() -> None:
    """pydantic finds all of them; three are told."""
    with pytest.raises(Misfit) as caught:
        TypeForm.of(list[Model]).decode('[{"theA":0},{"theA":0},{"theA":0},{"theA":0},{}]')
    assert str(caught.value).endswith("; and 2 more")


@every(
    "type, text, value",
    [
        (Point, '{"x":1,"y":null,"tags":null}', Point(1)),
        (list[Point], '[{"x":1,"y":null}]', [Point(1)]),
        (Trip, '{"start":{"x":1,"y":null},"colour":null,"when":null}', Trip(Point(1))),
        (Model, '{"theA":1,"b":null,"child":{"theA":2,"b":null,"child":null}}', None),
        (WithModel, '{"model":{"theA":1,"b":null},"more":null}', WithModel(Model(theA=1))),
        (Dog | Fish, '{"type":"fish","wet":null}', Fish()),
        (Fish | None, '{"type":"fish","wet":null}', Fish()),
        (dict[str, Point], '{"k":{"x":1,"y":null}}', {"k": Point(1)}),
        (tuple[int, Point], '[1,{"x":1,"y":null}]', (1, Point(1))),
    ],
)
def test_null_stands_for_what_was_left_out(type: Any, text: str, value: Any) -> None:
    """Where every property is required, a model has no other way to leave one out."""
    found = TypeForm.of(type).decode(text)
    if value is None:
        assert found == Model(theA=1, child=Model(theA=2))
    else:
        assert str(found) == str(value)


@every(
    "type, text, value",
    [
        (int, "2.0", 2),
        (list[int], "[1, 2.0]", [1, 2]),
        (int | None, "2.0", 2),
        (int | str, "2e2", 200),
        (Annotated[int, Meta(ge=3)], "3.0", 3),
        (Point, '{"x":1.0,"y":2.0}', Point(1)),
        (float, "2.0", 2.0),
        (int | float, "2.0", 2.0),
    ],
)
def test_an_integer_may_be_written_with_a_point(type: Any, text: str, value: Any) -> None:
    """In JSON Schema 2.0 is an integer, and services that keep all numbers as floats send it."""
    found = TypeForm.of(type).decode(text)
    assert str(found) == str(value)
    for other in ("2.5", "[2.5]"):
        with pytest.raises(Misfit):
            TypeForm.of(list[int]).decode(other)


def test_null_is_null_where_the_type_has_it() -> None:
    """A default that is not None is not put in its place."""

    class Asked(Struct):
        limit: int | None = 10

    assert TypeForm.of(Asked).decode('{"limit":null}') == Asked(None)
    assert TypeForm.of(Asked).decode("{}") == Asked(10)
    with pytest.raises(Misfit, match="got `null`"):
        TypeForm.of(Node).decode('{"value":null}')  # it is required


@dataclass
class Other:
    y: int


class Misplaced(Struct):
    a: Annotated[int, pydantic.Field(gt=0)]


class Numbers(enum.Enum):
    ONE = 1.5


@every(
    "type, words",
    [
        (Point | Other, "tell them apart"),
        (Node | Cat, "tell them apart"),
        (Literal[True], "use bool"),
        (Numbers, "all strings or all integers"),
        (complex, "complex, which JSON does not have"),
        (list[object], "object, which JSON does not have"),
        (dict[tuple[int, int], str], "keys"),
        (list["Nowhere"], "Nowhere"),  # type: ignore[name-defined]  # noqa: F821
        (3, "3 cannot be had as JSON"),
        (Misplaced, "use msgspec.Meta"),
    ],
)
def test_types_that_cannot_work(type: Any, words: str) -> None:
    """A ConfigurationError that says why, and what to do."""
    with pytest.raises(ConfigurationError) as caught:
        TypeForm.of(type)
    assert words.lower() in str(caught.value).lower()


def test_annotations_of_pydantic_count() -> None:
    """In hints, and in the fields of dataclasses: msgspec alone would not see them."""

    @dataclass
    class Limited:
        a: Annotated[int, pydantic.Field(gt=0)]

    form = TypeForm.of(Annotated[int, pydantic.Field(gt=0, description="More than none.")])
    assert form.schema["description"] == "More than none."
    for one, text in ((form, "0"), (TypeForm.of(Limited), '{"a":0}')):
        with pytest.raises(Misfit, match="greater than 0"):
            one.decode(text)


def test_what_json_lacks_is_not_written() -> None:
    """The encoder would write NaN as null."""
    for form, value in (
        (TypeForm.of(float), float("nan")),
        (TypeForm.of(Any), object()),
        (TypeForm.of(list[Model]), [object()]),
        (TypeForm.of(dict[str, float]), {"a": float("inf")}),
    ):
        with pytest.raises(ConfigurationError):
            form.encode(value)


def test_a_type_imports_no_pydantic() -> None:
    """A program that has not imported it pays nothing for it."""
    import subprocess
    import sys

    code = (
        "import sys, msgspec\n"
        "from llmstream._core.typeform import TypeForm\n"
        "class A(msgspec.Struct):\n    a: int\n"
        "TypeForm.of(A).decode('{\"a\":1}')\n"
        "from llmstream import tool\n"
        "@tool\n"
        "def f(a: int): ...\n"
        "f.call('{\"a\":1}')\n"
        "print([m for m in ('pydantic', 'docstring_parser') if m in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
