"""Functions that a model may call: `Tool`, `tool`, `ToolError`.

Name, description and schema come from the signature, the hints and the docstring of a function;
what a model sends as arguments is checked by the same hints before the function runs.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, overload

import msgspec

from .._core.checks import CENTURY, checked_json, checked_range, few, has_method, shown
from .._core.dialects.declared import DeclaredTool
from .._core.dialects.tools import function_tool
from .._core.typeform import Misfit, not_json
from ..errors import ConfigurationError
from ..result import decode_arguments, printable
from .signature import (
    Docstring,
    Parameter,
    check_callable,
    doc_of,
    is_unbound,
    own_name,
    parameters_of,
    schema_of,
)

__all__ = ["Tool", "ToolArgumentsError", "ToolError", "as_tools", "declarations", "tool"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what every API takes
_PLACE = re.compile(r"at `\$")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOO_DEEP = "The JSON is nested too deeply"
_FAULTS = 3  # of an object's arguments, those that are told


class ToolError(Exception):
    """Raised by a tool that has failed: the model receives `words`, a text or a list of content
    parts, as the outcome of its call. Of any other exception it receives the text too."""

    def __init__(self, words: str | list[Any]) -> None:
        super().__init__(words)
        self.words = words


class ToolArgumentsError(ValueError):
    """The arguments of a call do not fit. The message can be sent back to the model."""


class Tool:
    """A function that a model may call. Immutable; any thread may use it.

    Args:
        function: a function, method, `functools.partial`, or object with `__call__`. Each parameter
            needs a type hint: `typing.Any` is one. `*args` and `**kwargs` are refused, and so are
            async functions, since tools run in threads. An argument that a partial holds is not
            asked of the model.
        name: 1 to 64 letters, digits, '_' and '-'. Default: the function's own.
        description: what the model reads. Default: the docstring without its sections. The section
            of the parameters (Google, NumPy or reST style) describes these; that needs the extra
            `tools`, and without it the whole docstring is the description.
        parameters: a JSON schema of an object, in place of one from the hints. The arguments are
            then passed as the JSON has them, without a check but that the function takes them.
        strict: True, for an API that is to follow the schema strictly; ConfigurationError at the
            request if it cannot. Default: where it can. False: never.
        sequential: whether it runs alone: calls before it in a turn have finished, those after it
            have not begun.
        timeout: seconds that a call may take. Default: what `client.run(tool_timeout=)` says.
        eager: whether the Messages API streams the arguments as they are generated, without a
            check of its own (`eager_input_streaming`). The other APIs always do.

    A parameter with a default may be left out, or be null where its type has no None. `from_` is
    `from` to the model, for every name that Python reserves. The default itself is shown to the
    model where JSON has it, unless the parameter's name says that it is a secret.

    `tool.call(arguments)` checks and calls; `tool(...)` calls the function as ever. Raises
    ConfigurationError for what cannot work.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        strict: bool | None = None,
        sequential: bool = False,
        timeout: float | None = None,
        eager: bool = False,
    ) -> None:
        if isinstance(function, Tool):
            raise ConfigurationError(f"{function!r} is a tool already: decorate it once")
        check_callable(function)
        self.function = function
        self.name = _checked_name(function, name)
        for option, value in (("sequential", sequential), ("eager", eager)):
            if not isinstance(value, bool):
                raise ConfigurationError(f"tool({option}={shown(value)}): pass True or False")
        if strict is not None and not isinstance(strict, bool):
            raise ConfigurationError(f"tool(strict={shown(strict)}): pass True, False or None")
        if description is not None and not isinstance(description, str):
            raise ConfigurationError("tool(description=): pass a string")
        self.strict = strict
        self.sequential = sequential
        self.timeout = (
            None if timeout is None else checked_range("tool(timeout)", timeout, 0.001, CENTURY)
        )
        self.eager = eager
        doc = Docstring(doc_of(function))
        self.description = doc.description if description is None else description
        self._method = is_unbound(function)
        self._parameters: tuple[Parameter, ...] | None = None
        if parameters is None:
            self._parameters = parameters_of(function, self._method)
            self.parameters = schema_of(self._parameters, doc)
        else:
            self.parameters = _checked_schema(parameters)
        self._declaration = DeclaredTool(
            self.name, self.description, self.parameters, strict=strict, eager=eager
        )
        self._options = {
            "name": name,
            "description": description,
            "parameters": parameters,
            "strict": strict,
            "sequential": sequential,
            "timeout": timeout,
            "eager": eager,
        }
        self.__doc__ = doc_of(function)
        self.__name__ = self.name
        self.__qualname__ = getattr(function, "__qualname__", self.name)
        self.__module__ = getattr(function, "__module__", None) or __name__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __get__(self, owner: Any, kind: Any = None) -> Tool:
        """A method as a tool: bound to its object."""
        return self if owner is None or not self._method else self._bound(owner)

    def _bound(self, owner: Any) -> Tool:
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.function = MethodType(self.function, owner)
        bound._method = False
        return bound

    def __reduce__(self) -> Any:
        """As a global name where it has one, as functions pickle."""
        found: Any = sys.modules.get(self.__module__)
        for step in self.__qualname__.split("."):
            found = getattr(found, step, None)
        if found is self:
            return self.__qualname__
        return _remade, (self.function, self._options)

    def declaration(self) -> DeclaredTool:
        """What a request says of it, before its API's rules are applied."""
        self._check_bound()
        return self._declaration

    def _check_bound(self) -> None:
        if self._method:
            raise ConfigurationError(
                f"the tool {self.name!r} is a method: pass that of an object, `an_object."
                f"{self.name}`"
            )

    def call(self, arguments: str | bytes) -> Any:
        """Call the function with the arguments that a model has sent, as JSON text, and return what
        it returns. Raises ToolArgumentsError, before anything runs, for arguments that do not fit,
        and whatever the function raises."""
        return self.bind(arguments)()

    def bind(self, arguments: str | bytes) -> Callable[[], Any]:
        """The call of the function with these arguments, which are checked now."""
        self._check_bound()
        given = self._decoded(arguments)
        if self._parameters is None:
            return self._bind_unchecked(given)
        faults: list[str] = []
        values: dict[str, Any] = {}
        known = {parameter.wire: parameter for parameter in self._parameters}
        for name, raw in given.items():
            parameter = known.get(name)
            if parameter is None:
                faults.append(f"Object contains unknown field `{name[:64]}`")
                continue
            try:
                if not parameter.stands_for_default(raw):
                    values[parameter.name] = parameter.form.decode(bytes(raw))
            except Misfit as exc:
                faults.append(_placed(str(exc), name))
        for parameter in self._parameters:
            if parameter.required and parameter.wire not in given:
                faults.append(f"Object missing required field `{parameter.wire}`")
        if faults:
            more = f"; and {len(faults) - _FAULTS} more" if len(faults) > _FAULTS else ""
            raise self._refused("; ".join(faults[:_FAULTS]) + more)
        return self._bound_call(values)

    def _bound_call(self, values: dict[str, Any]) -> Callable[[], Any]:
        args: list[Any] = []
        positional = [one for one in self._parameters or () if one.positional]
        last = max((n for n, one in enumerate(positional) if one.name in values), default=-1)
        for one in positional[: last + 1]:
            args.append(values.pop(one.name) if one.name in values else one.default)
        return functools.partial(self.function, *args, **values)

    def _bind_unchecked(self, given: dict[str, msgspec.Raw]) -> Callable[[], Any]:
        try:
            values = {name: msgspec.json.decode(raw) for name, raw in given.items()}
        except RecursionError:
            raise self._refused(_TOO_DEEP) from None
        try:
            inspect.signature(self.function).bind(**values)
        except TypeError as exc:
            raise self._refused(str(exc)) from None
        return functools.partial(self.function, **values)

    def _decoded(self, arguments: str | bytes) -> dict[str, msgspec.Raw]:
        if not isinstance(arguments, (str, bytes)):
            raise ConfigurationError(
                f"the arguments of {self.name} are {shown(arguments)}: pass their JSON text"
            )
        try:
            try:
                return _OBJECT.decode(arguments or "{}")
            except msgspec.ValidationError:
                text = arguments if isinstance(arguments, str) else arguments.decode()
                inner = decode_arguments(text)  # a gateway may have encoded them twice
                if not isinstance(inner, dict):
                    raise
                return _OBJECT.decode(msgspec.json.encode(inner))
        except msgspec.ValidationError as exc:
            raise self._refused(str(exc)) from None
        except (msgspec.DecodeError, ValueError, OverflowError) as exc:
            raise self._refused(not_json(exc)) from None
        except RecursionError:
            raise self._refused(_TOO_DEEP) from None

    def _refused(self, why: str) -> ToolArgumentsError:
        return ToolArgumentsError(
            f"The arguments of {self.name} do not fit its parameters: {printable(why)}. Nothing "
            "has run. Correct the arguments and call it again."
        )


def _remade(function: Callable[..., Any], options: dict[str, Any]) -> Tool:
    return Tool(function, **options)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    strict: bool | None = None,
    sequential: bool = False,
    timeout: float | None = None,
    eager: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """A function as a `Tool`: `@tool`, or `@tool(sequential=True, timeout=5.0)` with the options of
    `Tool`. A function without it is a tool with the defaults: `client.run(..., tools=[fn])`."""
    if function is None:
        return functools.partial(_remade, options=options)
    return Tool(function, **options)


# ---- tools= ------------------------------------------------------------------------------------


def as_tools(tools: Any) -> list[Tool | Mapping[str, Any]]:
    """The values of `tools=`: functions as Tools, dicts as they are. Raises ConfigurationError for
    two with one name."""
    found: list[Tool | Mapping[str, Any]] = []
    names: set[str] = set()
    if isinstance(tools, (str, bytes, Mapping)) or not has_method(tools, "__iter__"):
        raise ConfigurationError("tools: pass a list of functions, tools and dicts")
    for one in few("tools", tools, "functions, tools and dicts"):
        made = one if isinstance(one, Mapping) else _as_tool(one)
        name = made.name if isinstance(made, Tool) else (function_tool(made) or {}).get("name")
        if isinstance(name, str):
            if name in names:
                raise ConfigurationError(
                    f"tools: two have the name {name!r}: give one of them another, "
                    "`tool(name=...)(function)`"
                )
            names.add(name)
        found.append(made)
    return found


def _as_tool(value: Any) -> Tool:
    if isinstance(value, Tool):
        return value
    inner = getattr(value, "__func__", None) if isinstance(value, MethodType) else None
    if isinstance(inner, Tool):  # of a class method
        return inner._bound(value.__self__)
    try:
        return Tool(value)
    except (ConfigurationError, RecursionError):
        raise
    except Exception as exc:  # whatever an attribute of an object raises
        raise ConfigurationError(
            f"tools: {shown(value)} cannot be read as a function ({type(exc).__name__}: {exc})"
        ) from None


def declarations(tools: Any) -> list[Mapping[str, Any]]:
    """The values of `tools=` as a request has them."""
    return [one.declaration() if isinstance(one, Tool) else one for one in as_tools(tools)]


# ---- what is checked ----------------------------------------------------------------------------


def _checked_name(function: Any, name: Any) -> str:
    chosen = own_name(function) if name is None else name
    if not isinstance(chosen, str) or not _NAME.fullmatch(chosen):
        raise ConfigurationError(
            f"a tool cannot have the name {shown(chosen)}: give it one of 1 to 64 letters, digits, "
            "'_' and '-', `tool(name=...)(function)`"
        )
    return chosen


def _checked_schema(parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, Mapping):
        raise ConfigurationError(f"tool(parameters={shown(parameters)}): pass a JSON schema")
    checked_json("tool(parameters)", parameters)
    schema = dict(parameters)
    if schema.get("type", "object") != "object":
        raise ConfigurationError("tool(parameters=): the schema has to be of an object")
    if "$ref" not in schema and "allOf" not in schema:
        schema = {"type": "object", "properties": {}, **schema}
    return schema


def _placed(text: str, name: str) -> str:
    """A fault of one argument, with its place in all of them."""
    place = f"`$.{name}"
    if _PLACE.search(text):
        return _PLACE.sub(lambda _: f"at {place}", text)
    return f"{text} - at {place}`"
