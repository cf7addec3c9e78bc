"""Tools that are functions of the caller, until an API's rules decide how they are sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from ...errors import ConfigurationError
from ..schema import Fitted, SchemaRules, fit

__all__ = ["OPENAI_RULES", "DeclaredTool", "WrittenTools", "write_tools"]

# OpenAI, "Structured model outputs", supported schemas; Chat Completions and Responses have the
# same. What is not named there (minLength, uniqueItems, default, ...) is refused.
OPENAI_RULES = SchemaRules(
    kept=frozenset(
        (
            *("pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum"),
            *("exclusiveMaximum", "minItems", "maxItems"),
        )
    ),
    formats=frozenset(
        (
            *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6"),
            *("uuid",),
        )
    ),
    all_required=True,
    levels=10,
    properties=5_000,
    enum_values=1_000,
    characters=120_000,
)


class DeclaredTool(dict[str, Any]):
    """A function as a tool: a dict in the form of the Responses API whose `parameters` are the
    schema that the function really has. The dialect that sends it fits that to its API.

    `strict`: True, the API has to follow the schema; None, it does where it can; False, never.
    `eager`: whether the arguments are streamed as they are generated, without the API's check.
    """

    def __init__(
        self,
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        *,
        strict: bool | None = None,
        eager: bool = False,
    ) -> None:
        about = {"description": description} if description else {}
        super().__init__(type="function", name=name, **about, parameters=parameters)
        self.strict = strict
        self.eager = eager
        self._fitted: dict[tuple[SchemaRules, bool], Fitted] = {}  # it is sent with each turn

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (dict(self), self.strict, self.eager)

    def fitted(self, rules: SchemaRules, *, never: bool = False) -> Fitted:
        """The schema by an API's rules. `never`: the service knows no strict mode."""
        known = self._fitted.get((rules, never))
        if known is None:
            try:
                known = fit(self["parameters"], rules, strict=False if never else self.strict)
            except ConfigurationError as exc:
                raise ConfigurationError(f"the tool {self['name']!r}: {exc}") from None
            self._fitted[rules, never] = known
        return known


def _remade(fields: dict[str, Any], strict: bool | None, eager: bool) -> DeclaredTool:
    tool = DeclaredTool(
        fields["name"],
        fields.get("description", ""),
        fields["parameters"],
        strict=strict,
        eager=eager,
    )
    tool.clear()
    tool.update(fields)
    return tool


class WrittenTools(NamedTuple):
    """The tools of a request as its API takes them, and the names of those of which the library
    decides whether they are strict."""

    written: list[Any]
    strict: tuple[str, ...]


def write_tools(
    tools: Sequence[Any],
    rules: SchemaRules,
    declared: Callable[[DeclaredTool, Fitted], Any],
    other: Callable[[Any], Any],
    knows_strict: bool = True,
) -> WrittenTools:
    """Write functions by `declared`, with their fitted schemas, and dicts by `other`. Without
    `knows_strict` only those are strict that have to be."""
    written = []
    strict = []
    for tool, fitted in _fitted(tools, rules):
        if fitted is None:
            written.append(other(tool))
            continue
        if not knows_strict and fitted.strict and not tool.strict:
            # Where a strict schema requires what may be left out, the other one does not.
            loose = rules.all_required
            fitted = tool.fitted(rules, never=True) if loose else _not_strict(fitted, _UNKNOWN)
        written.append(declared(tool, fitted))
        if tool.strict is not True:
            strict.append(tool["name"])
    return WrittenTools(written, tuple(strict))


class _Budget:
    """What all strict schemas of one request may have together."""

    def __init__(self, rules: SchemaRules) -> None:
        self._most = (rules.tools, rules.optional, rules.unions)
        self._used = (0, 0, 0)

    def takes(self, fitted: Fitted, must: bool) -> bool:
        """Whether one more is within it; if it `must` be strict, the service is to say."""
        used = tuple(
            a + b for a, b in zip(self._used, (1, fitted.optional, fitted.unions), strict=True)
        )
        fits = all(most is None or n <= most for n, most in zip(used, self._most, strict=True))
        if fits or must:
            self._used = used  # type: ignore[assignment]
        return fits or must


def _fitted(tools: Sequence[Any], rules: SchemaRules) -> list[tuple[Any, Fitted | None]]:
    """Each tool, and its fitted schema if it is a function of the caller. A schema is strict only
    while the request has room for it; those that must be strict come first."""
    found = [(one, one.fitted(rules) if isinstance(one, DeclaredTool) else None) for one in tools]
    budget = _Budget(rules)
    strict: set[int] = set()
    for must in (True, False):
        for number, (one, fitted) in enumerate(found):
            if fitted is None or not fitted.strict or bool(one.strict) is not must:
                continue
            if budget.takes(fitted, must):
                strict.add(number)
    return [
        (one, fitted if fitted is None or number in strict else _not_strict(fitted, _USED_UP))
        for number, (one, fitted) in enumerate(found)
    ]


_UNKNOWN = "the service knows no strict tools"
_USED_UP = "the other tools of the request use up what may be strict in one"


def _not_strict(fitted: Fitted, reason: str) -> Fitted:
    return replace(fitted, strict=False, reason=reason) if fitted.strict else fitted
