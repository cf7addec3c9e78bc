"""One line of the input: what is to be asked, and under which id. Pure."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from .._core.checks import shown
from .._core.dialects import APIS
from .._core.retry import RetryPolicy
from .._core.timers import Timeouts
from ..errors import ConfigurationError

__all__ = ["OPTIONS", "Row", "parse_row"]

# The options that a line may have: those of `Client.stream`.
OPTIONS = (
    "model",
    "instructions",
    "max_output_tokens",
    "temperature",
    "top_p",
    "stop",
    "tools",
    "tool_choice",
    "thinking",
    "background",
    "timeouts",
    "retry",
    "on_disconnect",
    "trace_id",
    "headers",
    "extra_body",
)
# Other names that a line may have for them.
_ALIASES = {
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "stop_sequences": "stop",
    "system": "instructions",
}
_PROMPTS = ("prompt", "messages", "input")
_WRITE = 'write {"id": "...", "prompt": "..."} or {"id": "...", "messages": [...]}'
_LONGEST_ID = 512  # characters; the ids of all lines are held in memory

# Options that are objects of this library. In a line they are JSON objects with the same fields.
_STRUCTS: dict[str, type[Struct]] = {"timeouts": Timeouts, "retry": RetryPolicy}

# A line of the vendors' own batch files: the field with the request's body -> whose it is.
_VENDORS = {"body": "openai", "params": "anthropic"}
# What such a line has beside its id and its body.
_ENVELOPE = {"custom_id", "method", "url"}
# Fields of such a body that are options of this library, under any of their names.
_OF_BODY = {*OPTIONS} - {"timeouts", "retry", "on_disconnect", "trace_id", "headers", "extra_body"}
# The ends of the addresses at which a model answers with text.
_ANSWERS = ("/completions", "/responses", "/messages")
# Whether and how the answer is streamed is decided by this library.
_LEFT_OUT = {"stream", "stream_options"}


class Row(Struct, frozen=True):
    """One line of the input.

    Args:
        id: as the line has it, a string or a whole number; without one the line's number.
        line: the line's number in the file, from 1.
        prompt: as `Client.parallel` takes it: {"prompt": ..., and the options of the line}.
        metadata: what the line has as its "metadata", which is copied to the output.
        digest: of the line's content, where its number is the id; "" where it has one of its own.
    """

    id: str | int
    line: int
    prompt: dict[str, Any]
    metadata: Any = None
    digest: str = ""

    @property
    def key(self) -> str:
        """What ids are compared by: 1 and "1" are one id."""
        return str(self.id)

    def __repr__(self) -> str:
        return f"Row(line={self.line})"  # never the prompt


def parse_row(data: bytes, line: int, api: str) -> Row:
    """The row of a line of JSON. `api` is the API of the client that will ask.

    Raises ConfigurationError, with the line's number, and without its content.
    """
    try:
        return _row(_decoded(data), line, api)
    except ConfigurationError as error:
        raise ConfigurationError(f"line {line}: {error.message}") from None


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except RecursionError:
        raise ConfigurationError("the JSON is nested too deeply") from None
    except (ValueError, UnicodeError) as error:
        raise ConfigurationError(f"not a JSON object ({_reason(data, error)})") from None
    if isinstance(found, list):
        raise ConfigurationError(
            "a JSON array: give one object a line, for example with `jq -c '.[]'`"
        )
    if not isinstance(found, dict):
        raise ConfigurationError(f"not a JSON object: {_WRITE}")
    return found


def _reason(data: bytes, error: Exception) -> str:
    if data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")):
        return "it is compressed: unpack it, for example with `gzip -dc FILE | llmstream batch -`"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:64]:
        return "it looks like UTF-16 or binary data: save the file as UTF-8"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8: save the file as UTF-8"
    return str(error)


def _row(fields: dict[str, Any], line: int, api: str) -> Row:
    given, own = _id(fields)
    prompt, metadata = _asked(fields, api)
    digest = "" if own else _digest(fields)
    return Row(given if own else line, line, prompt, metadata, digest)


def _id(fields: dict[str, Any]) -> tuple[Any, bool]:
    """The id, and whether the line has one."""
    known = [name for name in ("id", "custom_id") if fields.get(name) is not None]
    if not known:
        return None, False
    if len(known) > 1:
        raise ConfigurationError("it has both 'id' and 'custom_id': leave one of them out")
    value = fields[known[0]]
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        what = "an empty string" if value == "" else shown(value)
        raise ConfigurationError(
            f"its {known[0]} is {what}: give a string or a whole number, or leave it out to be "
            "given the line's number"
        )
    if len(str(value)) > _LONGEST_ID:
        raise ConfigurationError(f"its {known[0]} has more than {_LONGEST_ID} characters")
    return value, True


def _asked(fields: dict[str, Any], api: str) -> tuple[dict[str, Any], Any]:
    for wrapper, vendor in _VENDORS.items():
        body = fields.get(wrapper)
        if isinstance(body, dict):
            _refuse_unknown(fields, {wrapper, *_ENVELOPE, "id"})
            url = fields.get("url")
            if isinstance(url, str) and not url.rstrip("/").endswith(_ANSWERS):
                raise ConfigurationError(
                    f"its url ends with {url.rpartition('/')[2][:40]!r}: only requests whose "
                    "answer is a text can be made"
                )
            return _of_body(body, vendor, api), None
    known = {"id", "custom_id", "metadata", *_PROMPTS, *OPTIONS, *_ALIASES}
    _refuse_unknown(fields, known)
    asked: dict[str, Any] = {"prompt": _prompt(fields)[1]}
    for name, value in fields.items():
        option = _ALIASES.get(name, name)
        if option in OPTIONS and value is not None:
            if option in asked:
                raise ConfigurationError(f"{option} is given twice, under two names")
            asked[option] = _option(option, value)
    return asked, fields.get("metadata")


def _refuse_unknown(fields: Mapping[str, Any], known: set[str]) -> None:
    for name in fields:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else "put fields of your own into 'metadata'"
        if not {*_PROMPTS, *_VENDORS} & {*fields}:
            hint = _WRITE
        raise ConfigurationError(
            f"the field {name[:40]!r} is not known: {hint} (fields of the request's JSON go into "
            "'extra_body')"
        )


def _prompt(fields: Mapping[str, Any]) -> tuple[str, Any]:
    """The field with the prompt, and the prompt."""
    found = [name for name in _PROMPTS if fields.get(name) is not None]
    if not found:
        raise ConfigurationError(f"it has no prompt: {_WRITE}")
    if len(found) > 1:
        raise ConfigurationError(f"it has both {found[0]!r} and {found[1]!r}: leave one out")
    return found[0], fields[found[0]]


def _option(name: str, value: Any) -> Any:
    kind = _STRUCTS.get(name)
    if kind is None:
        return value
    if not isinstance(value, dict):
        raise ConfigurationError(f"{name}: give an object such as {{{_example(kind)}}}")
    _refuse_unknown_in(name, value, kind)
    return kind(**value)


def _example(kind: type[Struct]) -> str:
    name = kind.__struct_fields__[0]
    return f'"{name}": 10'


def _refuse_unknown_in(name: str, value: Mapping[str, Any], kind: type[Struct]) -> None:
    for field in value:
        if field not in kind.__struct_fields__:
            raise ConfigurationError(
                f"{name}: {field[:40]!r} is not known; it has {', '.join(kind.__struct_fields__)}"
            )


def _of_body(body: dict[str, Any], vendor: str, api: str) -> dict[str, Any]:
    """What a request's body of the vendor's own batch API asks for. Options that this library has
    work with every API; all other fields are sent as they are, where the client's API has them."""
    field, prompt = _prompt(body)
    asked: dict[str, Any] = {"prompt": prompt}
    rest: dict[str, Any] = {}
    for name, value in body.items():
        option = _ALIASES.get(name, name)
        if name == field or name in _LEFT_OUT or value is None:
            continue
        if _is_mapped(option, value) and option not in asked:
            asked[option] = value
        else:
            rest[name] = value
    if rest:
        rows = {name: row for name, row in APIS.items() if row.vendor == vendor}
        meant = [name for name, row in rows.items() if field in row.prompt_fields]
        if meant and api not in meant:
            raise ConfigurationError(
                f"its {next(iter(rest))[:40]!r} is a field of the API {meant[0]!r}, and this "
                f"client's is {api!r}: use --api {meant[0]}, or leave the field out"
            )
        asked["extra_body"] = rest
    return asked


def _is_mapped(option: str, value: Any) -> bool:
    """Whether this library has the option. It has no instructions in blocks."""
    if option == "instructions":
        return isinstance(value, str)
    return option in _OF_BODY


def _digest(fields: dict[str, Any]) -> str:
    said = {name: value for name, value in fields.items() if value is not None}
    canonical = msgspec.json.encode(said, order="sorted")
    return hashlib.blake2b(canonical, digest_size=8).hexdigest()
