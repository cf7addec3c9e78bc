"""An answer that has to be a value of a type: what is asked for, and what of an answer is that
value. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from ..errors import OutputCut, OutputError, OutputInvalid, OutputRefused
from .json_text import BLANKS, json_candidates
from .schema import is_object
from .state import State
from .tool_calls import is_json, is_same_json

__all__ = ["ELEMENTS", "MISSING", "Form", "Output", "Unfit", "invalid", "judged", "make_output"]

ELEMENTS, _VALUE = "elements", "value"  # the field that a list is in; and any other value
_LONGEST_REASON = 500  # characters
_NAME = re.compile(r"[^a-zA-Z0-9_-]+")
_LONGEST_NAME = 64  # characters, of a schema's name (OpenAI)
# Words of the answer in what a decoder says of it.
_QUOTED = re.compile(r"(?<=[Vv]alue )['\"].*['\"]|(?<=unknown field )`.*?`", re.DOTALL)
_PATH = re.compile(r" - at `(\$[^`]*)`$")
_NOT_THE_LAST_WORD = ("tool_calls", "pause")
_REFUSED = ("refusal", "content_filter")
MISSING: Any = object()  # no value yet
_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


class Form(Protocol):
    """A Python type: the schema of its values, and how JSON becomes one of them."""

    @property
    def schema(self) -> Mapping[str, Any]: ...

    def decode(self, data: bytes, /) -> Any:
        """The value. Raises ValueError, whose message has the place, for what does not fit."""


class Unfit(ValueError):
    """What an answer has is not a value of the type."""


class Output(Struct, frozen=True, kw_only=True):
    """What an answer has to be.

    Args:
        form: the type of the value.
        type: the same, as the caller wrote it.
        name: a name for the schema.
        schema: of the JSON that is asked for: an object.
        key: the field of that object that has the value; None where the object is the value.
        mode: how it is asked for (see `Profile.structured`), where the profile does not decide it.
    """

    form: Form
    type: Any
    name: str
    schema: Mapping[str, Any]
    key: str | None = None
    mode: str | None = None

    @property
    def is_list(self) -> bool:
        return self.key == ELEMENTS

    def read(self, text: str) -> tuple[Any, str]:
        """The value that an answer's text has, and its JSON. The JSON may have a fence around it,
        or sentences. Raises Unfit where there is none that fits, or more than one."""
        whole = text.strip(BLANKS)
        try:
            return self._value(whole), whole
        except Unfit:
            if is_json(whole):
                raise
        found: list[tuple[Any, str]] = []
        refused: list[Unfit] = []
        for part in json_candidates(text, lists=self.is_list):
            try:
                found.append((self._value(part), part))
            except Unfit as exc:
                refused.append(exc)
        if not found:
            raise refused[0] if refused else Unfit(_missing(whole))
        first = found[0]
        if not all(is_same_json(first[1], part) for _, part in found[1:]):
            raise Unfit("the answer has several values that fit, and which one counts is not known")
        return first

    def _value(self, part: str) -> Any:
        data = part.encode("utf-8", "surrogatepass")  # half a character is refused by the decoder
        try:
            return self.form.decode(self._unwrapped(data))
        except (ValueError, RecursionError) as exc:
            raise Unfit(_reason(exc)) from None

    def _unwrapped(self, data: bytes) -> bytes:
        """The JSON of the value itself. A model that is not held to the schema may leave the object
        around it out."""
        if self.key is None or data[:1] != b"{":
            return data
        return bytes(_RAW_FIELDS.decode(data).get(self.key, data))

    def elements(self, json: str) -> list[str]:
        """The JSON of each element of a list that is the value in `json`."""
        found = _RAW_ELEMENTS.decode(self._unwrapped(json.encode("utf-8", "surrogatepass")))
        return [bytes(raw).decode("utf-8", "surrogatepass") for raw in found]

    def inner(self, plain: Any, *, whole: bool = False) -> Any:
        """The plain value in decoded JSON, as far as it has arrived; MISSING where it has not
        begun. `whole`: all of the JSON has arrived."""
        if self.key is None or (whole and not isinstance(plain, dict)):
            return plain
        if isinstance(plain, dict):
            return plain.get(self.key, plain if whole else MISSING)
        return plain if self.is_list and isinstance(plain, list) else MISSING

    def instructions(self) -> str:
        """What a model is told where the service cannot hold it to the schema."""
        schema = msgspec.json.encode(self.schema).decode()
        return (
            "Answer with one JSON object that fits this JSON Schema, and with nothing else: no "
            f"text around it, no Markdown.\n\n{schema}"
        )


def make_output(form: Form, type: Any, name: str) -> Output:
    """What an answer has to be for a value of `type`, whose form is `form`: the APIs only take an
    object at the root, so any other value is put into one."""
    schema = form.schema
    name = _NAME.sub("_", name).strip("_")[:_LONGEST_NAME] or "output"
    if is_object(schema):
        return Output(form=form, type=type, name=name, schema=schema)
    key = ELEMENTS if schema.get("type") == "array" else _VALUE
    rest = {field: value for field, value in schema.items() if field != "$defs"}
    whole: dict[str, Any] = {
        "type": "object",
        "properties": {key: rest},
        "required": [key],
        "additionalProperties": False,
    }
    if "$defs" in schema:
        whole["$defs"] = schema["$defs"]
    return Output(form=form, type=type, name=name, schema=whole, key=key)


def judged(output: Output, state: State) -> tuple[Any, OutputError | None]:
    """The value of an answer that has ended, and why it has none. Neither for an answer that is not
    the last word."""
    finish = state.finish
    if finish in _NOT_THE_LAST_WORD:
        return None, None
    if state.refusal or finish in _REFUSED:
        return None, OutputRefused(
            f"the answer is not a {output.name}: the model refused, or a filter removed it "
            f"(finish {finish!r}); .partial has its words"
        )
    if finish == "length":
        return None, OutputCut(
            f"the answer is not a {output.name}: a limit has cut it; .partial has what arrived, "
            "and a greater max_output_tokens may help"
        )
    try:
        return output.read(state.text)[0], None
    except Unfit as exc:
        return None, invalid(output.name, str(exc))


def invalid(name: str, reason: str, index: int | None = None) -> OutputInvalid:
    """The error of an answer, or of its element `index`, that does not fit."""
    what = "the answer is" if index is None else f"element {index} of the answer is"
    path = _PATH.search(reason)
    return OutputInvalid(
        f"{what} not a valid {name}: {_QUOTED.sub('...', reason)}; .partial has the text",
        detail=reason,
        path=path.group(1) if path is not None else None,
        index=index,
    )


def _missing(text: str) -> str:
    return "it has no JSON" if text else "it has no text"


def _reason(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "JSON nested too deeply"
    reason = str(exc).rstrip(". ")
    if len(reason) <= _LONGEST_REASON:
        return reason
    place = _PATH.search(reason)
    kept = reason[:_LONGEST_REASON] + " ..."
    return kept + (place.group(0)[:_LONGEST_REASON] if place is not None else "")
