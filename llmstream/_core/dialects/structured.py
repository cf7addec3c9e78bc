"""Writes into a request that the answer has to fit a schema: by the API's own option, or, where a
server does not have it, by its option for any JSON object and by instructions. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ...errors import ConfigurationError
from ...result import LLMStreamError
from ..output import Output
from ..request import Request
from ..schema import SchemaRules, fit
from .refused import may_refuse_option
from .tools import structure_kinds

__all__ = ["asking_less", "with_output"]

# What a service is asked for that refuses more. "loose": the schema, but not strictly.
_LESS = {
    "all": "json_object",
    "json_schema": "loose",
    "loose": "json_object",
    "json_object": "prompt",
}
# How services name the option (Gemini in the third line); and what they say where they know it, but
# not this schema.
_OPTION = re.compile(
    r"(?i)response.?format|json.?schema|json.?object|output.?config|output.?format|text\.format"
    r"|structured.?output"
    r"|json.?mode|response.?mime.?type|response.?schema|specified schema|schema in GenerationConfig"
)
_THE_SCHEMA = re.compile(
    r"(?i)invalid.?(?:json.?)?schema|schema is (?:not valid|invalid)|strict|keyword"
    r"|too (?:complex|many(?! states)|deep|large)|additionalProperties"
)
_REFUSES = re.compile(
    r"(?i)support|unavailable|invalid|unknown|not (?:allowed|permitted|available|valid|enabled)"
    r"|too |exceeds"
)

_BOTH = (
    "output= asks for the structure of the answer, and so does extra_body: leave one of them out. "
    "(A format of type 'json_object' or 'text' in extra_body may stand beside output=, for a "
    "server that knows no schemas)"
)


class Writer(Protocol):
    """The dialect that writes the request."""

    @property
    def schema_rules(self) -> SchemaRules: ...

    def structured(
        self, name: str, schema: Mapping[str, Any] | None, strict: bool
    ) -> dict[str, Any]: ...


def with_output(request: Request, writer: Writer, mode: str) -> Request:
    """`request`, which has an `output`, with the API's own fields for it in `extra_body`; where the
    service does not take the schema, with the schema in the instructions. `mode` is the profile's,
    see `Profile.structured`. Raises ConfigurationError."""
    output: Output = request.output
    extra = request.extra_body or {}
    own = _own_mode(extra)
    mode = own or output.mode or mode
    if mode in ("all", "json_object", "prompt"):
        request = _instructed(request, output.instructions())
    if own is not None or mode == "prompt":
        return request
    if mode != "json_object":
        fitted = fit(output.schema, writer.schema_rules, strict=False if mode == "loose" else None)
        fields = writer.structured(output.name, fitted.schema, fitted.strict)
    else:
        fields = writer.structured(output.name, None, False)
    if mode == "all":
        fields["json_schema"] = fitted.schema
    merged = {**extra}
    for name, value in fields.items():
        given = extra.get(name)
        merged[name] = {**given, **value} if isinstance(given, Mapping) else value
    return msgspec.structs.replace(request, extra_body=merged)


def asking_less(output: Output, error: LLMStreamError, mode: str) -> Output | None:
    """`output` as a service may take it that has refused how the structure was asked for with
    `error`; None if `error` is about something else, or nothing less can be asked for. `mode` is
    the profile's. The value is checked in any case."""
    if not may_refuse_option(error):
        return None
    words = f"{error.message} {error.param} {error.code}"
    if not _OPTION.search(words) or not _REFUSES.search(words):
        return None
    mode = output.mode or mode
    less = _LESS.get(mode)
    if less == "loose" and not _THE_SCHEMA.search(words):
        less = _LESS[less]
    return None if less is None else msgspec.structs.replace(output, mode=less)


def _own_mode(extra: Mapping[str, Any]) -> str | None:
    """The mode that `extra_body` decides, by a format of its own."""
    kinds = structure_kinds(extra)
    if not kinds:
        return None
    if kinds == {"json_object"}:
        return "json_object"
    if kinds == {"text"}:
        return "prompt"
    raise ConfigurationError(_BOTH)


def _instructed(request: Request, words: str) -> Request:
    """`request` with `words` after its instructions. Where a system turn of the prompt has these,
    they are put there: many chat templates refuse a second one."""
    prompt = request.prompt
    first = prompt[0] if isinstance(prompt, list) else {}
    content = first.get("content")
    is_system = first.get("role") in ("system", "developer")
    if request.instructions is None and is_system and isinstance(content, str):
        turn = {**first, "content": f"{content}\n\n{words}"}
        return msgspec.structs.replace(request, prompt=[turn, *prompt[1:]])
    before = f"{request.instructions}\n\n" if request.instructions else ""
    return msgspec.structs.replace(request, instructions=f"{before}{words}")
