"""One line of the output: how a row was answered. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import ConfigurationError
from ..readers.outcome import Outcome
from ..result import Result, ToolCall, Usage
from .rows import Row

__all__ = ["BEGINNING", "Head", "encode_outcome", "read_head"]

# What every line of the output begins with.
BEGINNING = b'{"id":'

# Line ends of Unicode, which JSON allows inside strings. `str.splitlines` and some readers of lines
# would cut the line there. In JSON they occur inside strings only.
_LINE_ENDS = {"\x85": b"\\u0085", "\u2028": b"\\u2028", "\u2029": b"\\u2029"}
_LINE_END = re.compile(b"|".join(char.encode() for char in _LINE_ENDS))


class Head(Struct, frozen=True):
    """What a line of the output says of its row.

    Args:
        key: the id, as `Row.key`.
        failed: whether the line is an error.
        digest: `Row.digest`.
    """

    key: str
    failed: bool
    digest: str = ""


_NULL = msgspec.Raw(b"null")


class _Line(Struct):
    id: str | int
    text: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    digest: str = ""


_decode = msgspec.json.Decoder(_Line).decode


def read_head(data: bytes) -> Head:
    """Of a line that `encode_outcome` has made, or another program that writes the same fields: one
    that is null counts as left out. Raises ConfigurationError for any other line."""
    try:
        line = _decode(data)
    except (ValueError, UnicodeError, RecursionError):
        raise ConfigurationError("not a line of an output of `llmstream batch`") from None
    failed = line.error != _NULL
    if failed is (line.text != _NULL):
        raise ConfigurationError("not a line of an output of `llmstream batch`")
    return Head(str(line.id), failed, line.digest)


def encode_outcome(row: Row, outcome: Outcome, cost: float | None = None) -> bytes:
    """A line of JSON, in UTF-8, with its newline. Fields without a value are left out, but for
    `text`. `cost` is in USD."""
    fields = dict(_fields(row, outcome, cost))
    try:
        data = msgspec.json.encode(fields)
    except (TypeError, ValueError):  # half a character, or an integer of more than 64 bits
        data = json.dumps(fields, separators=(",", ":"), default=str).encode()
    return _LINE_END.sub(lambda found: _LINE_ENDS[found[0].decode()], data) + b"\n"


def _fields(row: Row, outcome: Outcome, cost: float | None) -> Iterator[tuple[str, Any]]:
    yield "id", row.id  # first: see BEGINNING
    yield "line", row.line
    if row.digest:
        yield "digest", row.digest
    if row.metadata is not None:
        yield "metadata", row.metadata
    error = outcome.error
    if error is None:
        result = outcome.result or Result()
        yield "text", result.text
        yield from _details(result)
    else:
        failure: dict[str, Any] = {"type": type(error).__name__, "message": error.message}
        for name in ("status", "code", "param", "retry_after", "request_id"):
            if (value := getattr(error, name, None)) is not None:
                failure[name] = value
        failure["retryable"] = error.retryable
        failure["text"] = error.partial.text
        failure.update(_details(error.partial))
        yield "error", failure
        result = error.partial
    yield "attempts", len(error.attempts if error is not None else result.attempts)
    if cost is not None:
        yield "cost", cost


def _details(result: Result) -> Iterator[tuple[str, Any]]:
    for name in ("finish", "refusal", "thinking", "model", "response_id", "trace_id"):
        if value := getattr(result, name):
            yield name, value
    for name in ("tool_calls", "incomplete_tool_calls"):
        if calls := getattr(result, name):
            yield name, [_call(call) for call in calls]
    usage = {
        name: value
        for name in Usage.__struct_fields__
        if (value := getattr(result.usage, name)) is not None
    }
    if usage:
        yield "usage", usage


def _call(call: ToolCall) -> dict[str, Any]:
    """`arguments` is text, as the service has sent it."""
    fields = {"id": call.id, "name": call.name, "arguments": call.arguments}
    return {**fields, "custom": True} if call.custom else fields
