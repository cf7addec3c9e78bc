"""Tools from functions: what is read of a function, what each API is sent of it, and the arguments
that reach it."""

from __future__ import annotations

import builtins
import enum
import functools
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
import pytest
from every import every
from msgspec import Meta, Struct
from typing_extensions import Doc

from llmstream import Client, ConfigurationError, Tool, ToolError, tool
from llmstream._core.dialects.profiles import PROFILES
from llmstream.testing import Answer, FakeTransport, Reply
from llmstream.tools import ToolArgumentsError
from llmstream.tools.function import as_tools, declarations

APIS = ("responses", "messages", "chat", "gemini")


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


@dataclass
class Place:
    city: str
    country: str = "Italy"


def forecast(
    place: Place,
    days: Annotated[int, Meta(ge=1, le=14)] = 3,
    *,
    unit: Unit = Unit.CELSIUS,
    detail: Literal["low", "high"] | None = None,
) -> str:
    """The weather of the next days.

    It is asked of a service.

    Args:
        place: Where it is,
            on Earth.
        days: Days ahead.
        unit: Of the temperature.

    Returns:
        A text.
    """
    return f"{place.city}, {place.country}: {days}{unit.value} {detail}"


# ---- what is read of a function ----------------------------------------------------------------


def test_a_function_is_read_whole() -> None:
    """Name, description and schema, with what the docstring says of the parameters."""
    made = Tool(forecast)
    assert made.name == "forecast"
    assert made.description == "The weather of the next days.\n\nIt is asked of a service."
    properties = made.parameters["properties"]
    assert made.parameters["required"] == ["place"]
    assert made.parameters["additionalProperties"] is False
    assert properties["place"]["description"].split() == ["Where", "it", "is,", "on", "Earth."]
    assert properties["days"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 14,
        "description": "Days ahead.",
        "default": 3,
    }
    assert properties["unit"]["default"] == "c"
    assert "default" not in properties["detail"]


GOOGLE = """Do it.

    Args:
        one (int): The first.
        two: The second.
    """
NUMPY = """Do it.

    Parameters
    ----------
    one : int
        The first.
    two : str
        The second.
    """
REST = """Do it.

    :param one: The first.
    :type one: int
    :param two: The second.
    """


@every("doc", [GOOGLE, NUMPY, REST], ids=["Google", "NumPy", "reST"])
def test_the_styles_of_docstrings(doc: str) -> None:
    def work(one: int, two: str = "") -> None: ...

    work.__doc__ = doc
    made = Tool(work)
    described = {name: p["description"] for name, p in made.parameters["properties"].items()}
    assert made.description == "Do it."
    assert described == {"one": "The first.", "two": "The second."}


@every(
    "doc, description",
    [
        (None, ""),
        ("", ""),
        ("Only this.", "Only this."),
        ("Args:\n    one: x", None),
        ("Odd ::\n\n  :param\n  :::  Args\n", None),
        ("Args:\n", None),
        ("é" * 10_000, "é" * 10_000),
    ],
)
def test_any_docstring_will_do(doc: str | None, description: str | None) -> None:
    """One that no style knows is a description, and none is none."""

    def work(one: int) -> None: ...

    work.__doc__ = doc
    made = Tool(work)
    assert description is None or made.description == description
    assert ("description" in made.declaration()) is bool(made.description)


def test_without_the_parser_of_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole docstring is the description: nothing is lost."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "docstring_parser":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    made = Tool(forecast)
    assert "Days ahead." in made.description
    assert "description" not in made.parameters["properties"]["days"]


def test_a_hint_describes_before_the_docstring() -> None:
    def work(
        one: Annotated[int, Meta(description="By the hint.")],
        two: Annotated[str, "By its words."],
        three: Annotated[str, Doc("By a Doc.")] = "",
    ) -> None:
        """Do it.

        Args:
            one: By the docstring.
            two: By the docstring.
        """

    properties = Tool(work).parameters["properties"]
    described = [properties[name]["description"] for name in ("one", "two", "three")]
    assert described == ["By the hint.", "By its words.", "By a Doc."]


def test_names_that_python_reserves() -> None:
    """`from_` is `from` to the model; other names stay."""

    def copy(from_: str, class_: int = 1, id_: int = 2, _hidden: int = 3) -> Any:
        return from_, class_, id_, _hidden

    made = Tool(copy)
    assert [*made.parameters["properties"]] == ["from", "class", "id_", "_hidden"]
    assert made.call('{"from": "a", "class": 5}') == ("a", 5, 2, 3)
    with pytest.raises(ToolArgumentsError, match="unknown field `from_`"):
        made.call('{"from_": "a"}')


def positional(a: int, b: int = 2, /, c: int = 3) -> tuple[int, ...]:
    return a, b, c


@every(
    "arguments, values",
    [
        ('{"a": 1}', (1, 2, 3)),
        ('{"a": 1, "c": 9}', (1, 2, 9)),
        ('{"a": 1, "b": null, "c": 9}', (1, 2, 9)),
        ('{"b": 5, "a": 1}', (1, 5, 3)),
    ],
)
def test_positional_parameters(arguments: str, values: tuple[int, ...]) -> None:
    assert Tool(positional).call(arguments) == values


class Shop:
    """A shop."""

    def __init__(self, stock: int) -> None:
        self.stock = stock

    def plain(self, number: int) -> int:
        """Take some."""
        return self.stock - number

    @tool(sequential=True)
    def marked(self, number: int) -> int:
        """Take some, too."""
        return self.stock - number

    @classmethod
    @tool
    def of_class(cls, number: int) -> str:
        return f"{cls.__name__} {number}"

    @staticmethod
    @tool
    def alone(number: int) -> int:
        return number

    def __call__(self, number: int) -> int:
        """Call the shop."""
        return self.stock + number


def test_methods_and_objects() -> None:
    """Bound methods, marked or not, those of classes, and objects with `__call__`."""
    shop = Shop(10)
    tools = as_tools([shop.plain, shop.marked, Shop.of_class, shop.alone, shop])
    assert [one.name for one in tools] == ["plain", "marked", "of_class", "alone", "Shop"]
    assert [one.call('{"number": 3}') for one in tools] == [7, 7, "Shop 3", 3, 13]
    assert [one.description for one in tools[:2]] == ["Take some.", "Take some, too."]
    assert tools[4].description == "Call the shop."
    assert tools[1].sequential
    assert shop.marked(4) == 6  # it stays a method


def test_a_partial_hides_what_it_holds() -> None:
    """What is held is not asked of the model, and not shown to it."""

    def search(words: str, limit: int = 5, *, api_key: str) -> Any:
        """Search."""
        return words, limit, api_key

    made = Tool(functools.partial(search, api_key="sk-not-for-models"))
    assert [*made.parameters["properties"]] == ["words", "limit"]
    assert "sk-not" not in json.dumps(made.declaration())
    assert made.call('{"words": "a"}') == ("a", 5, "sk-not-for-models")
    assert made.description == "Search."
    with pytest.raises(ToolArgumentsError):
        made.call('{"words": "a", "api_key": "mine"}')
    assert Tool(functools.partial(search, "x", api_key="k")).call("{}") == ("x", 5, "k")


def test_a_secret_default_is_not_shown() -> None:
    """A parameter whose name says that it is a secret keeps its default to itself."""

    def call(url: str, token: str = "t0k3n-value") -> str:
        return token

    made = Tool(call)
    assert "t0k3n" not in json.dumps(made.declaration())
    assert made.call('{"url": "u"}') == "t0k3n-value"


def test_a_default_that_json_lacks_stays_pythons() -> None:
    nothing = object()

    def work(one: int = 1, two: Any = nothing, three: float = float("inf")) -> Any:
        return one, two, three

    made = Tool(work)
    assert made.call("{}") == (1, nothing, float("inf"))
    assert "default" not in made.parameters["properties"]["two"]
    assert "default" not in made.parameters["properties"]["three"]
    json.dumps(made.declaration())


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return ("wrapped", function(*args, **kwargs))

    return inner


@wrapped
def later(one: Later) -> Any:
    return one


class Later(Struct):
    a: int


def test_a_wrapper_is_called_with_the_hints_of_what_it_wraps() -> None:
    """And a hint may name what is defined after the function."""
    assert Tool(later).call('{"one": {"a": 1}}') == ("wrapped", Later(1))
    cached = functools.lru_cache(positional)
    assert Tool(cached).call('{"a": 1}') == (1, 2, 3)


def test_types_of_the_function_around_it() -> None:
    """Hints are texts here: those of a local type are found in the frame around the function."""

    class Local(Struct):
        a: int

    def outer() -> Tool:
        class Inner(Struct):
            b: int

        @tool
        def work(one: Local, two: Inner, three: list[Inner] | None = None) -> Any:
            return one, two, three

        return work

    one, two, three = outer().call('{"one": {"a": 1}, "two": {"b": 2}}')
    assert (one.a, two.b, three) == (1, 2, None)


def out_of_reach() -> Callable[..., Any]:
    class Local(Struct):
        a: int

    def work(one: Local) -> None: ...

    return work


async def coroutine(a: int) -> None: ...


async def generator(a: int) -> Any:
    yield a


class Evil:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __call__(self, a: int) -> None: ...


class AsyncCallable:
    async def __call__(self, a: int) -> None: ...


def stars(*a: int) -> None: ...
def double_stars(a: int, **more: int) -> None: ...
def unhinted(a: int, b=3) -> None: ...  # type: ignore[no-untyped-def]
def größe(a: int) -> None: ...
def of_complex(a: complex) -> None: ...
def of_nothing(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@every(
    "function, words",
    [
        (coroutine, "asyncio.run"),
        (generator, "async function"),
        (AsyncCallable(), "async function"),
        (Evil(), "RuntimeError: no "),
        (functools.partial(coroutine, 1), "async function"),
        (stars, "*a"),
        (double_stars, "**more"),
        (unhinted, "'b' of the tool 'unhinted' has no type hint"),
        (lambda: 1, "<lambda>"),
        (größe, "größe"),
        (of_complex, "the tool 'of_complex': complex"),
        (of_nothing, "'Nowhere' is not defined"),
        (out_of_reach(), "at the level of the module"),
        (Shop, "the class Shop is not a tool"),
        (Shop.plain, "`an_object.plain`"),
        (Shop.marked, "`an_object.marked`"),
        (max, "no signature"),
        (classmethod(stars), "above @tool"),
        (None, "not None"),
        (3, "not 3"),
        ("weather", "not 'weather'"),
    ],
)
def test_what_cannot_be_a_tool_says_why(function: Any, words: str) -> None:
    """When it is passed: before anything is sent."""
    client = Client("chat", model="m", api_key="k", transport=FakeTransport())
    with pytest.raises(ConfigurationError) as caught:
        client.stream("Hi", tools=[function])
    assert words in str(caught.value)


def test_a_lambda_with_a_name() -> None:
    """Without parameters there is no hint that it could lack."""
    made = Tool(lambda: 7, name="seven")
    assert (made.call("{}"), made.call("")) == (7, 7)
    assert made.parameters["properties"] == {}


@every(
    "options, words",
    [
        ({"name": ""}, "letters"),
        ({"name": "a b"}, "letters"),
        ({"name": "x" * 65}, "65 characters"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"sequential": 1}, "True or False"),
        ({"eager": None}, "True or False"),
        ({"strict": "yes"}, "strict"),
        ({"description": 3}, "description"),
        ({"parameters": [1]}, "JSON schema"),
        ({"parameters": {"type": "array"}}, "object"),
        ({"parameters": {"properties": {1: 2}}}, "string"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        tool(**options)(forecast)


def test_two_tools_with_one_name() -> None:
    for others in ([forecast], [{"type": "function", "name": "forecast", "parameters": {}}]):
        with pytest.raises(ConfigurationError, match="two have the name 'forecast'"):
            as_tools([forecast, *others])
    with pytest.raises(ConfigurationError, match="already"):
        tool(Tool(forecast))
    for wrong in ("abc", 3, forecast, {"a": 1}):
        with pytest.raises(ConfigurationError, match="tools"):
            as_tools(wrong)


def test_tools_pickle() -> None:
    """As functions do: by the global name, else with their function and options."""
    assert pickle.loads(pickle.dumps(known)) is known
    copied = pickle.loads(pickle.dumps(tool(timeout=3.0, eager=True)(positional)))
    assert (copied.call('{"a": 1}'), copied.timeout, copied.eager) == ((1, 2, 3), 3.0, True)
    (declared,) = declarations([copied])
    again = pickle.loads(pickle.dumps(declared))
    assert (again, again.eager, again.strict) == (declared, True, None)
    error = pickle.loads(pickle.dumps(ToolError("no seat")))
    assert (error.words, str(error)) == ("no seat", "no seat")


@tool
def known(a: int) -> int:
    """A tool at the level of the module."""
    return a


def test_a_tool_is_still_a_function() -> None:
    assert known(3) == 3
    assert (known.__name__, known.__doc__) == ("known", "A tool at the level of the module.")
    assert repr(known) == "Tool('known')"


# ---- arguments ---------------------------------------------------------------------------------


@every(
    "arguments, value",
    [
        ('{"place": {"city": "Rome"}}', "Rome, Italy: 3c None"),
        ('{"place": {"city": "Rome", "country": null}, "days": null, "unit": null}', None),
        (b'{"place": {"city": "Rome"}, "days": 14, "unit": "f", "detail": "low"}', "14f low"),
        ('"{\\"place\\": {\\"city\\": \\"Rome\\"}}"', "Rome, Italy: 3c None"),
        ('{"place": {"city": "Rome"}, "days": 2.0}', "2c"),
    ],
)
def test_arguments_become_values(arguments: str | bytes, value: str | None) -> None:
    """Of the types of the hints. A null is the default where the type has no None; arguments that
    a gateway has encoded twice are an object all the same."""
    assert (value or "Rome, Italy: 3c None") in Tool(forecast).call(arguments)


@every(
    "arguments, words",
    [
        ("{", "JSON is malformed: Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('"abc"', "Expected `object`, got `str`"),
        ("null", "Expected `object`, got `null`"),
        (b'{"place": "\xff"}', "not UTF-8"),
        ("{}", "Object missing required field `place`"),
        ('{"place": null}', "Expected `object`, got `null` - at `$.place`"),
        ('{"place": {"city": 1}}', "Expected `str`, got `int` - at `$.place.city`"),
        ('{"place": {"city": "a"}, "days": 15}', "Expected `int` <= 14 - at `$.days`"),
        ('{"place": {"city": "a"}, "days": 15, "x": 1}', "`$.days`; Object contains unknown field"),
        ('{"place": {"city": "a"}, "unit": "k"}', "Invalid enum value 'k' - at `$.unit`"),
        ('{"a": 1, "b": 2, "c": 3, "d": 4}', "; and 2 more"),
        ('{"place": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ],
)
def test_arguments_that_do_not_fit(arguments: str | bytes, words: str) -> None:
    """A sentence with the place that can be sent to the model, and nothing has run."""
    ran: list[Any] = []

    @functools.wraps(forecast)
    def watched(*args: Any, **kwargs: Any) -> None:
        ran.append(args)

    with pytest.raises(ToolArgumentsError) as caught:
        Tool(watched).call(arguments)
    text = str(caught.value)
    assert words in text
    assert text.startswith("The arguments of forecast do not fit its parameters: ")
    assert text.endswith("Nothing has run. Correct the arguments and call it again.")
    assert not ran


def test_what_a_model_sends_is_shown_on_one_line() -> None:
    """Of a name that nobody knows, too."""
    with pytest.raises(ToolArgumentsError) as caught:
        known.call(json.dumps({"x\n\0" + "y" * 100_000: 1}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@every("arguments", [None, 3, {"a": 1}, ["a"]])
def test_arguments_are_text(arguments: Any) -> None:
    with pytest.raises(ConfigurationError, match="JSON text"):
        known.call(arguments)


def test_binding_checks_and_does_not_call() -> None:
    ran: list[int] = []

    def work(a: int) -> None:
        ran.append(a)

    bound = Tool(work).bind('{"a": 1}')
    assert not ran
    bound()
    assert ran == [1]


def test_what_the_function_raises_is_its_own() -> None:
    def fails(a: int) -> None:
        raise TypeError("of the function")

    with pytest.raises(TypeError, match="of the function"):
        Tool(fails).call('{"a": 1}')


class Booking(pydantic.BaseModel):
    """A booking."""

    seats: int = pydantic.Field(gt=0, description="How many.")
    row: Literal["front", "back"] = "back"


def test_models_of_pydantic_beside_other_types() -> None:
    def book(
        booking: Booking,
        place: Place,
        price: Annotated[float, pydantic.Field(gt=0)] = 1.0,
        more: list[Booking] = [],  # noqa: B006
    ) -> Any:
        return booking, place, price, more

    made = Tool(book)
    assert made.parameters["$defs"]["Booking"]["description"] == "A booking."
    booking, place, price, more = made.call(
        '{"booking": {"seats": 2, "row": null}, "place": {"city": "a"}, "more": [{"seats": 1}]}'
    )
    assert (booking, place.city, price) == (Booking(seats=2), "a", 1.0)
    assert more == [Booking(seats=1)]
    with pytest.raises(ToolArgumentsError) as caught:
        made.call('{"booking": {"seats": 0}, "place": {"city": "a"}, "price": 0}')
    assert "greater than 0 - at `$.booking.seats`" in str(caught.value)
    assert "greater than 0 - at `$.price`" in str(caught.value)


def test_a_schema_of_ones_own() -> None:
    """For a function that takes any names; its arguments are as the JSON has them."""

    @tool(parameters={"properties": {"q": {"type": "string"}}, "required": ["q"]})
    def anything(**given: Any) -> Any:
        return given

    assert anything.parameters["type"] == "object"
    assert anything.call('{"q": "a", "x": [1]}') == {"q": "a", "x": [1]}
    deep = '{"q": ' + "[" * 100_000 + "]" * 100_000 + "}"
    with pytest.raises(ToolArgumentsError, match="too deeply"):
        anything.call(deep)
    exact = Tool(positional, parameters={"properties": {"a": {}, "b": {}, "c": {}}})
    with pytest.raises(ToolArgumentsError, match="positional"):
        exact.call('{"a": 1}')


# ---- what each API is sent ---------------------------------------------------------------------


def sent(api: str, tools: list[Any], **options: Any) -> list[Any]:
    """The tools of a request as the service receives them."""
    transport = FakeTransport(Answer("Hello"))
    options = {"model": "m", "api_key": "k", **options}
    with Client(api, transport=transport, **options) as client:
        client.stream("Hi", tools=tools).result()
    found: list[Any] = transport.requests[0].json()["tools"]
    if api == "gemini":  # where all functions are one tool
        (whole,) = found
        assert set(whole) == {"functionDeclarations"}
        found = whole["functionDeclarations"]
    return found


_SCHEMA = {"messages": "input_schema", "gemini": "parametersJsonSchema"}


def schema_of(api: str, one: dict[str, Any]) -> dict[str, Any]:
    inner = one["function"] if api == "chat" else one
    found: dict[str, Any] = inner[_SCHEMA.get(api, "parameters")]
    return found


def strict_of(one: dict[str, Any]) -> Any:
    return one.get("function", one).get("strict")


LOOSE = {"messages": None, "gemini": None}  # how a tool that is not strict says so; else by False


def test_a_function_in_each_apis_form() -> None:
    """Strict, where each tool may be; what the API does not know of the schema is in the
    description."""
    for api in APIS:
        (one,) = sent(api, [forecast])
        schema = schema_of(api, one)
        days = schema["properties"]["days"]
        assert strict_of(one) is (None if api == "gemini" else True)
        assert schema["additionalProperties"] is False
        assert schema["$defs"]["Place"]["additionalProperties"] is False
        if api == "messages":
            assert set(one) == {"name", "description", "input_schema", "strict"}
            assert schema["required"] == ["place"]
            words = "Days ahead.\n\n{minimum: 1, maximum: 14, default: 3}"
            assert days == {"type": "integer", "description": words}
        elif api == "gemini":
            assert set(one) == {"name", "description", "parametersJsonSchema"}
            assert schema["required"] == ["place"]
            words = "Days ahead.\n\n{default: 3}"
            assert days == {"type": "integer", "minimum": 1, "maximum": 14, "description": words}
        else:
            assert schema["required"] == ["place", "days", "unit", "detail"]
            limited = {"type": "integer", "minimum": 1, "maximum": 14}
            words = "Days ahead.\n\n{default: 3}"
            assert days == {"anyOf": [limited, {"type": "null"}], "description": words}
            assert one["type"] == "function"


def put(values: dict[str, int], extra: Annotated[str, Meta(min_length=2)] = "ab") -> None:
    """Keep it."""


def test_not_strict_rather_than_a_lie() -> None:
    """A dict cannot be promised: the schema is as the function has it."""
    for api in APIS:
        (one,) = sent(api, [put])
        schema = schema_of(api, one)
        assert strict_of(one) is LOOSE.get(api, False)
        assert schema["required"] == ["values"]
        values = schema["properties"]["values"]
        assert values == {"type": "object", "additionalProperties": {"type": "integer"}}
        extra = schema["properties"]["extra"]
        if api != "gemini":
            assert extra["default"] == "ab"
        if api in LOOSE:
            assert extra["description"] == "{minLength: 2}"
        else:
            assert extra["minLength"] == 2


def test_strict_as_the_caller_wants_it() -> None:
    for api in APIS:
        (one,) = sent(api, [tool(strict=False)(forecast)])
        assert strict_of(one) is LOOSE.get(api, False)
        assert schema_of(api, one)["required"] == ["place"]
        with pytest.raises(ConfigurationError, match=r"the tool 'put'.*`\$.values`.*any names"):
            sent(api, [tool(strict=True)(put)])


def test_strict_for_the_whole_request() -> None:
    """In Gemini it is a mode of the request, and holds for it if one function has to be strict."""
    for strict, config in ((True, {"functionCallingConfig": {"mode": "VALIDATED"}}), (None, None)):
        transport = FakeTransport(Answer("Hello"))
        with Client("gemini", model="m", api_key="k", transport=transport) as client:
            client.stream("Hi", tools=[put, tool(strict=strict)(forecast)]).result()
        assert transport.requests[0].json().get("toolConfig") == config


def test_dicts_and_functions_side_by_side() -> None:
    """A dict is sent as ever; one in the Messages form keeps its own `strict`."""
    plain = {"name": "mine", "input_schema": {"type": "object"}, "strict": True}
    own, built_in, function = sent("messages", [plain, {"type": "web_search_1"}, known])
    assert own == {"name": "mine", "input_schema": {"type": "object"}, "strict": True}
    assert built_in == {"type": "web_search_1"}
    assert function["name"] == "known"


def test_eager_tools() -> None:
    """Only the Messages API has to be asked."""
    eager = tool(eager=True)(known.function)
    assert [one.get("eager_input_streaming") for one in sent("messages", [eager])] == [True]
    assert "eager_input_streaming" not in sent("messages", [known])[0]
    for api in ("responses", "chat", "gemini"):
        assert "eager" not in json.dumps(sent(api, [eager]))


@every(
    "model, strict",
    [
        ("claude-haiku-4-5", True),
        ("claude-sonnet-5", True),
        ("claude-opus-latest", True),
        ("claude-3-5-haiku-latest", None),
        ("anthropic.claude-sonnet-4-20250514-v1:0", None),
        ("some-model", True),
    ],
)
def test_models_that_know_no_strict_tools(model: str, strict: bool | None) -> None:
    """Of a Claude model the version says it; what it is sent is the same but for that."""
    (one,) = sent("messages", [forecast], model=model)
    assert strict_of(one) is strict
    assert "{minimum: 1" in one["input_schema"]["properties"]["days"]["description"]
    assert strict_of(sent("messages", [tool(strict=True)(forecast)], model=model)[0]) is True


def test_services_that_know_no_strict_tools() -> None:
    """The field is not sent, and nothing is required that may be left out."""
    unknowing = [name for name, profile in PROFILES.items() if not profile.strict_tools]
    assert "deepseek" in unknowing
    for name in unknowing:
        (one,) = sent("chat", [forecast], profile=name)
        assert strict_of(one) is None
        assert schema_of("chat", one)["required"] == ["place"]


def test_a_request_has_room_for_so_many_strict_tools() -> None:
    """Messages compiles all of them to one grammar: 20 schemas with 24 properties that may be left
    out and 16 unions. Those that have to be strict come first."""

    def three(a: int = 1, b: int = 2, c: int = 3) -> None: ...

    many = [Tool(three, name=f"t{number}") for number in range(10)]
    last = Tool(three, name="last", strict=True)
    strict = [strict_of(one) for one in sent("messages", [*many, last])]
    assert strict == [True] * 7 + [None] * 3 + [True]
    plain = [Tool(known.function, name=f"t{number}") for number in range(22)]
    assert [strict_of(one) for one in sent("messages", plain)].count(True) == 20
    assert [strict_of(one) for one in sent("responses", [*many, *plain[10:]])] == [True] * 22


def test_a_service_that_refuses_strict_tools_is_asked_without() -> None:
    """At once, and the attempt is among those of the result. Gemini is not asked for it."""
    for api in ("responses", "messages", "chat"):
        error = b'{"error": {"message": "The compiled grammar is too large"}}'
        refusal = Reply(error, status=400, content_type="application/json")
        transport = FakeTransport(refusal, Answer("Hello"))
        with Client(api, model="m", api_key="k", transport=transport) as client:
            result = client.stream("Hi", tools=[forecast]).result()
        first, second = (request.json()["tools"][0] for request in transport.requests)
        assert (strict_of(first), bool(strict_of(second))) == (True, False)
        assert result.text == "Hello"


def test_names_that_an_api_does_not_take() -> None:
    """Messages refuses such a property; the others take it."""

    def naïve(größe: int) -> None: ...

    made = Tool(naïve, name="naive")
    with pytest.raises(ConfigurationError, match=r"the tool 'naive'.*'größe'"):
        sent("messages", [made])
    for api in ("chat", "gemini"):
        assert "größe" in schema_of(api, sent(api, [made])[0])["properties"]


def test_a_batch_takes_functions_too() -> None:
    """`stream` takes functions, `Tool`s and dicts, and a batch passes them on."""
    transport = FakeTransport(Answer("1"), Answer("2"))
    with Client("chat", model="m", api_key="k", transport=transport) as client:
        outcomes = list(client.parallel(["a", "b"], tools=[forecast, known]))
    assert len(outcomes) == 2
    for request in transport.requests:
        names = [one["function"]["name"] for one in request.json()["tools"]]
        assert names == ["forecast", "known"]
