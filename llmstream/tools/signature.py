"""What is read of a function: whether it can be a tool, its docstring, its parameters with their
types, and the schema of all of them."""

from __future__ import annotations

import functools
import inspect
import keyword
import sys
import typing
from collections.abc import Iterator, Sequence
from types import CodeType, MethodType
from typing import Any

import msgspec

from .._core.checks import shown
from .._core.credentials import is_credential
from .._core.typeform import Misfit, TypeForm, default_of, with_definitions
from .._runtime.forms import forms_of
from ..errors import ConfigurationError

__all__ = [
    "Docstring",
    "Parameter",
    "check_callable",
    "doc_of",
    "is_unbound",
    "own_name",
    "parameters_of",
    "schema_of",
]


def check_callable(function: Any) -> None:
    if isinstance(function, type):
        raise ConfigurationError(
            f"the class {function.__name__} is not a tool: pass a function, with a parameter of "
            "this type"
        )
    if isinstance(function, classmethod):
        raise ConfigurationError("a class method as a tool: put @classmethod above @tool")
    if not callable(function):
        raise ConfigurationError(f"tools: pass functions, tools and dicts, not {shown(function)}")
    for one in (function, _innermost(function), getattr(function, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one):
            raise ConfigurationError(
                f"the tool {own_name(function)!r} is an async function, and tools run in threads: "
                "pass a function that runs it, such as `def f(x: int): return "
                "asyncio.run(async_f(x))`"
            )


def _innermost(function: Any) -> Any:
    """The function itself, without partials, wrappers, bindings and objects around it."""
    for _ in range(100):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, (MethodType, staticmethod)):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not hasattr(function, "__code__") and hasattr(type(function), "__call__"):  # noqa: B004
            inner = type(function).__call__
            if not hasattr(inner, "__code__"):
                break
            function = inner
        else:
            break
    return function


def own_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def doc_of(function: Any) -> str:
    """The docstring of the function, or that of the object's class. A partial has that of its
    function."""
    while isinstance(function, functools.partial):
        function = function.func
    doc = getattr(function, "__doc__", None)
    if not hasattr(function, "__name__") and hasattr(type(function), "__call__"):  # noqa: B004
        doc = type(function).__call__.__doc__ or doc
    return doc if isinstance(doc, str) else ""


class Docstring:
    """A docstring: the description, and one of each parameter."""

    def __init__(self, text: str) -> None:
        self.description = inspect.cleandoc(text) if text else ""
        self.parameters: dict[str, str] = {}
        if not text:
            return
        try:
            from docstring_parser import ParseError, parse
        except ImportError:
            return  # the whole docstring has it all, too
        try:
            parsed = parse(text)
        except (ParseError, ValueError, IndexError, AttributeError):
            return
        self.description = (parsed.description or "").strip()
        for param in parsed.params:
            for name in param.arg_name.split(","):  # NumPy: `x, y : int`
                if param.description:
                    self.parameters[name.strip().lstrip("*")] = param.description.strip()


# ---- parameters --------------------------------------------------------------------------------


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of a function. `wire` is its name in JSON, `words` what its hint says of it."""

    name: str
    wire: str
    form: TypeForm[Any]
    required: bool
    positional: bool
    default: Any
    words: str | None

    def stands_for_default(self, raw: msgspec.Raw) -> bool:
        """Whether a value is null and means that the parameter is left out. An API that wants every
        parameter in each call has no other way to say that."""
        if self.required or bytes(raw) != b"null":
            return False
        try:
            self.form.decode(b"null")
        except Misfit:
            return True
        return False


def parameters_of(function: Any, is_method: bool) -> tuple[Parameter, ...]:
    found = list(_asked(function, is_method))
    hints = _hints_of(function)
    types = []
    for one in found:
        hint = hints.get(one.name, inspect.Parameter.empty)
        if hint is inspect.Parameter.empty:
            raise ConfigurationError(
                f"the parameter {one.name!r} of the tool {own_name(function)!r} has no type hint, "
                "so a model cannot know what to send: give it one (typing.Any for any JSON value)"
            )
        types.append(hint)
    try:
        forms = forms_of(types)
    except ConfigurationError as exc:
        raise ConfigurationError(f"the tool {own_name(function)!r}: {exc}") from None
    return tuple(
        Parameter(
            name=one.name,
            wire=one.name[:-1] if keyword.iskeyword(one.name[:-1]) else one.name,
            form=form,
            required=one.default is inspect.Parameter.empty,
            positional=one.kind is inspect.Parameter.POSITIONAL_ONLY,
            default=one.default,
            words=_words_of(form.type),
        )
        for one, form in zip(found, forms, strict=True)
    )


def _words_of(hint: Any) -> str | None:
    """The text in `Annotated[str, "The name of the city."]`, or that of a `Doc` (PEP 727)."""
    for one in getattr(hint, "__metadata__", ()):
        words = one if isinstance(one, str) else getattr(one, "documentation", None)
        if isinstance(words, str) and words:
            return words
    return None


def _asked(function: Any, is_method: bool) -> Iterator[inspect.Parameter]:
    """The parameters that the model is asked for."""
    try:
        known = [*inspect.signature(function).parameters.values()]
    except (ValueError, TypeError):
        raise ConfigurationError(
            f"the tool {own_name(function)!r} has no signature that Python knows: pass a function "
            "that calls it"
        ) from None
    held = function.keywords if isinstance(function, functools.partial) else {}
    for number, one in enumerate(known):
        if one.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            stars = "*" if one.kind is inspect.Parameter.VAR_POSITIONAL else "**"
            raise ConfigurationError(
                f"the tool {own_name(function)!r} takes {stars}{one.name}, which a schema cannot "
                "name: pass a function with the parameters by name, or give "
                "`tool(parameters=...)` a schema"
            )
        if one.name not in held and not (is_method and number == 0):
            yield one


def is_unbound(function: Any) -> bool:
    """Whether it is a function in the body of a class: its first parameter is the object."""
    code = None if isinstance(function, MethodType) else getattr(function, "__code__", None)
    outer = getattr(function, "__qualname__", "").rpartition(".")[0]
    if code is None or not outer or outer.endswith("<locals>") or not code.co_argcount:
        return False
    first = code.co_varnames[0]
    return first in ("self", "cls") and first not in getattr(function, "__annotations__", {})


def _hints_of(function: Any) -> dict[str, Any]:
    """The type hints. Those that name a type of the function around it are found in its frame or
    in the function's own cells."""
    inner = _innermost(function)
    try:
        return typing.get_type_hints(inner, include_extras=True)
    except NameError as exc:
        missing = exc
    except Exception as exc:  # whatever an annotation raises
        raise ConfigurationError(
            f"the hints of the tool {own_name(function)!r} cannot be read "
            f"({type(exc).__name__}: {exc})"
        ) from None
    try:
        return typing.get_type_hints(inner, localns=_names_around(inner), include_extras=True)
    except Exception:
        raise ConfigurationError(
            f"the hints of the tool {own_name(function)!r} name a type that is not found "
            f"({missing}): define it at the level of the module, or write the hints without quotes "
            "and `from __future__ import annotations`"
        ) from None


def _names_around(function: Any) -> dict[str, Any]:
    code = getattr(function, "__code__", None)
    found: dict[str, Any] = {}
    if not isinstance(code, CodeType):
        return found
    frame = sys._getframe(1).f_back
    while frame is not None:  # from the inside to the outside
        if _contains(frame.f_code, code):
            found = {**frame.f_locals, **found}
        frame = frame.f_back
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # it is not set yet
            continue
    return found


def _contains(outer: CodeType, inner: CodeType, depth: int = 0) -> bool:
    return depth < 20 and any(
        one is inner or (isinstance(one, CodeType) and _contains(one, inner, depth + 1))
        for one in outer.co_consts
    )


def schema_of(parameters: Sequence[Parameter], doc: Docstring) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for one in parameters:
        written = with_definitions(one.form.schema, definitions)
        described = one.words or doc.parameters.get(one.name) or doc.parameters.get(one.wire)
        if described and "description" not in written:
            written["description"] = described
        if not one.required and one.default is not None and not is_credential(one.name):
            written = {**written, **default_of(one.default)}
        properties[one.wire] = written
    schema = {
        "type": "object",
        "properties": properties,
        "required": [one.wire for one in parameters if one.required],
        "additionalProperties": False,
    }
    return {**schema, "$defs": definitions} if definitions else schema
